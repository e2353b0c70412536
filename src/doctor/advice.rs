//! What to change, in sentences: each says what is wrong, what follows from it, and what to do.

use super::Finding;
use super::board::Board;
use super::throttling::{Limits, shows};
use crate::governor::config::NO_CELSIUS_LIMIT;
use crate::governor::readings::{LIMITED, Quantity, SINCE_BOOT, UNDER_VOLTAGE, Why};
use crate::governor::{GovernorConfig, Probe, Readings};
use std::path::Path;

/// Bits of the Raspberry Pi's firmware, now or since boot.
const LOW_VOLTAGE: u32 = UNDER_VOLTAGE | UNDER_VOLTAGE << SINCE_BOOT;
const THROTTLED: u32 = LIMITED | LIMITED << SINCE_BOOT;

/// Everything that was seen.
pub struct Seen<'a> {
    pub root: &'a Path,
    pub board: &'a Board,
    pub limits: &'a Limits,
    /// The Raspberry Pi firmware's bits; 0 where there are none.
    pub firmware: u32,
    pub probes: &'a [Probe],
    /// One look of the governor.
    pub readings: &'a Readings,
    pub governor: &'a GovernorConfig,
    /// CPUs that inference is kept on; empty: all.
    pub cores: &'a [usize],
    pub configured: &'a [Finding],
}

/// What to change, the most serious first; empty where there is nothing.
pub fn advice(seen: &Seen) -> Vec<String> {
    let mut advice = Vec::new();
    supply(seen, &mut advice);
    heat(seen, &mut advice);
    budgets(seen, &mut advice);
    clock(seen.board, &mut advice);
    lower_clock(seen, &mut advice);
    sensors(seen, &mut advice);
    advice.extend(seen.configured.iter().filter(|finding| !finding.good).map(broken));
    advice
}

fn supply(seen: &Seen, advice: &mut Vec<String>) {
    if seen.firmware & LOW_VOLTAGE == 0 && seen.readings.under_voltage != Some(true) {
        return;
    }
    let when = if seen.readings.under_voltage == Some(true) { "is too low now" } else { "was too low since the last boot" };
    let which = match seen.board.simulated() {
        Some("pi5") => "one of 5 V and 5 A",
        Some("pi4") => "one of 5.1 V and 3 A",
        _ => "a stronger one",
    };
    advice.push(format!("The supply's voltage {when}, and the firmware then lowers the clock: use {which}, with a short cable."));
}

fn heat(seen: &Seen, advice: &mut Vec<String>) {
    let (bits, governor) = (seen.firmware, seen.governor);
    let hot = seen.readings.celsius.filter(|celsius| *celsius > governor.max_celsius - governor.celsius_band);
    let why = match hot {
        Some(celsius) => format!("It is at {celsius:.0} °C, where jouled slows itself down"),
        // A voltage that is too low lowers the clock as well.
        None if bits & THROTTLED != 0 && bits & LOW_VOLTAGE == 0 => "The firmware has lowered the clock since the last boot".to_string(),
        None => return,
    };
    let cure = if seen.board.fan { "see that its fan turns and its air is cool" } else { "a heatsink or a fan lets it do more" };
    let try_it = match (seen.board.fan, seen.board.simulated()) {
        (false, Some(name)) => format!(" (`jouled simulate --board {name} --fan` shows how much)"),
        _ => String::new(),
    };
    advice.push(format!("{why}: {cure}{try_it}."));
}

fn budgets(seen: &Seen, advice: &mut Vec<String>) {
    let (governor, probes) = (seen.governor, seen.probes);
    if !governor.enabled {
        return;
    }
    if let Some(first) = seen.limits.first.filter(|first| governor.max_celsius < NO_CELSIUS_LIMIT && governor.max_celsius >= *first) {
        let (max, below) = (governor.max_celsius, first - 5.0);
        advice.push(format!(
            "max_celsius = {max} is not below the {first} °C at which the board slows down by itself: {below} lets jouled be first."
        ));
    }
    if governor.max_watts.is_some() && !shows(probes, Quantity::Power) {
        advice.push("max_watts has no effect: no power can be read.".to_string());
    }
    if governor.min_battery_percent.is_some() && !shows(probes, Quantity::Battery) {
        advice.push("min_battery_percent has no effect: there is no battery whose charge can be read.".to_string());
    }
    if let (Some(zone), Some(fault)) = (&governor.thermal_zone, seen.readings.fault(Quantity::Temperature)) {
        advice.push(format!("thermal_zone = \"{zone}\" cannot be read: {fault}. jouled then runs at its safe level."));
    }
}

fn lower_clock(seen: &Seen, advice: &mut Vec<String>) {
    if !(seen.governor.enabled && seen.governor.lower_clock) {
        return;
    }
    if let Err(why) = crate::governor::clock::check(seen.root, seen.cores) {
        let hint = match why.to_ascii_lowercase().contains("permission denied") {
            true => " Give the file to the daemon's group: see docs/governor.md, \"A lower clock\".",
            false => "",
        };
        advice.push(format!("lower_clock = true has no effect: {why}.{hint}"));
    }
}

fn clock(board: &Board, advice: &mut Vec<String>) {
    let adaptive = board.cpufreq_driver.as_deref().is_some_and(|driver| driver.ends_with("pstate"));
    match board.cpufreq_governor.as_deref() {
        Some("powersave") if !adaptive => advice.push(
            "The cpufreq governor `powersave` keeps the clock at its lowest: set `schedutil` or `ondemand` in scaling_governor."
                .to_string(),
        ),
        Some("performance") if !adaptive => advice.push(
            "The cpufreq governor `performance` keeps the clock at its highest while idle too, which warms the board: `schedutil` or \
             `ondemand` serve as well."
                .to_string(),
        ),
        _ => (),
    }
    if let (Some(allowed), Some(most)) = (board.allowed_mhz, board.max_mhz)
        && allowed < most
    {
        advice.push(format!(
            "The clock is capped at {allowed} of {most} MHz (scaling_max_freq): a power mode, a trip that is active, or jouled itself."
        ));
    }
}

fn sensors(seen: &Seen, advice: &mut Vec<String>) {
    if !shows(seen.probes, Quantity::Temperature) {
        advice.push(
            "No temperature can be read: the governor cannot keep `max_celsius`. On a virtual machine that is so; on a board, look for \
             /sys/class/thermal."
                .to_string(),
        );
    }
    if !shows(seen.probes, Quantity::Power) {
        let denied = seen.probes.iter().any(|p| p.quantity == Quantity::Power && p.why_not == Some(Why::Permission));
        advice.push(match denied {
            true => "The power meter is there but may only be read by root: run the daemon with the capability, or change the file's mode \
                     by a udev rule."
                .to_string(),
            false => "No power can be read: results carry no joules, and `max_watts` has no effect.".to_string(),
        });
    }
}

/// A part of the configuration that does not work.
fn broken(finding: &Finding) -> String {
    let detail = finding.detail.trim_end_matches('.');
    let hint = match detail.to_ascii_lowercase() {
        d if d.contains("permission denied") => match group(detail) {
            Some(group) => format!(" Add the daemon's user to the group {group}: sudo usermod -aG {group} jouled."),
            None => " Add the daemon's user to the group that owns the device (ls -l shows it).".to_string(),
        },
        d if d.contains("connection refused") => " Is the broker running, and does it listen on that address?".to_string(),
        _ => String::new(),
    };
    format!("{} does not work: {detail}.{hint}", finding.what)
}

/// The group that Debian's udev rules give the device to.
fn group(text: &str) -> Option<&'static str> {
    let groups = [("/dev/video", "video"), ("/dev/media", "video"), ("/dev/snd", "audio"), ("/dev/tty", "dialout"), ("/dev/i2c", "i2c")];
    groups.iter().find(|(device, _)| text.contains(device)).map(|(_, group)| *group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_refused_is_named_with_its_group() {
        let finding = |detail: &str| Finding { what: "source s".to_string(), good: false, detail: detail.to_string() };
        let said = broken(&finding("/dev/ttyUSB0: Permission denied (os error 13)"));
        assert_eq!(
            said,
            "source s does not work: /dev/ttyUSB0: Permission denied (os error 13). Add the daemon's user to the group dialout: sudo \
             usermod -aG dialout jouled."
        );
        assert!(broken(&finding("/dev/iio:device0: permission denied")).contains("ls -l"));
        assert!(broken(&finding("127.0.0.1:1883: Connection refused")).ends_with("that address?"));
    }
}
