//! What the board is, what it shows, and what will slow it down: in sentences.

use super::board::Board;
use crate::governor::config::NO_CELSIUS_LIMIT;
use crate::governor::readings::{Quantity, Trip, trips};
use crate::governor::{GovernorConfig, Probe};
use std::path::Path;

/// Where a Raspberry Pi's firmware begins to lower the clock, and where the clock is at its lowest.
const PI_SOFT: f64 = 80.0;
const PI_HARD: f64 = 85.0;

/// What slows the board down by itself.
pub struct Limits {
    /// The lowest temperature at which something does.
    pub first: Option<f64>,
    sentences: Vec<String>,
}

impl Limits {
    /// Looks below `root`; `pi`: a Raspberry Pi's firmware tells what it does.
    pub fn look(root: &Path, board: &Board, pi: bool) -> Limits {
        let mut limits = Limits { first: None, sentences: Vec::new() };
        if board.is("raspberrypi,") || pi {
            limits.first = Some(PI_SOFT);
            limits.sentences.push(format!(
                "Its firmware lowers the clock from {PI_SOFT} °C on, to the lowest at {PI_HARD} °C, and whenever the supply's voltage is \
                 too low."
            ));
        }
        let trips = trips(root);
        // A passive trip elsewhere may be the memory's or the charger's.
        let of_cpu = |trip: &Trip| trip.zone.to_ascii_lowercase().contains("cpu");
        let any_of_cpu = trips.iter().any(of_cpu);
        let lowest = |kind: &str| {
            let ours = trips.iter().filter(|trip| trip.kind == kind && (of_cpu(trip) || !any_of_cpu));
            ours.min_by(|a, b| a.celsius.total_cmp(&b.celsius))
        };
        if let Some(Trip { zone, celsius, .. }) = lowest("passive") {
            limits.first = Some(limits.first.map_or(*celsius, |first| first.min(*celsius)));
            limits.sentences.push(format!("The kernel lowers the clock from {celsius} °C on (a passive trip of {zone})."));
        }
        if let Some(Trip { zone, celsius, .. }) = lowest("critical") {
            limits.sentences.push(format!("The kernel switches the board off at {celsius} °C (the critical trip of {zone})."));
        }
        if limits.first.is_none() && board.cpufreq_driver.as_deref().is_some_and(|driver| driver.ends_with("pstate")) {
            limits.sentences.push("The processor lowers its clock by itself near its own limit, mostly 95 to 105 °C.".to_string());
        }
        limits
    }
}

/// Everything about the board: what it is, what it shows, what will slow it down. `default`: there is no configuration.
pub fn about(board: &Board, limits: &Limits, readings: &[Probe], governor: &GovernorConfig, default: bool) -> Vec<String> {
    let mut about = vec![what_it_is(board), what_it_shows(readings)];
    about.extend(limits.sentences.iter().cloned());
    about.push(budgets(readings, governor, default));
    about
}

fn what_it_is(board: &Board) -> String {
    let clock = board.max_mhz.map_or(String::new(), |mhz| format!(" at up to {mhz} MHz"));
    let memory = board.memory_bytes.map_or(String::new(), |bytes| format!(", {} MiB of memory", bytes >> 20));
    let fan = if board.fan { "a fan" } else { "no fan that the kernel knows" };
    // `NVIDIA` is spelt out.
    let vowel = board.name.starts_with("NV") || board.name.starts_with(|c: char| "AEIOUaeiou".contains(c));
    let article = if vowel { "an" } else { "a" };
    format!("This is {article} {} with {} cores{clock}{memory} and {fan}.", board.name, board.cores)
}

fn what_it_shows(readings: &[Probe]) -> String {
    let all = [Quantity::Temperature, Quantity::Power, Quantity::Battery, Quantity::UnderVoltage, Quantity::Firmware, Quantity::Frequency];
    let (shown, hidden): (Vec<Quantity>, Vec<Quantity>) = all.into_iter().partition(|quantity| shows(readings, *quantity));
    let list = |quantities: &[Quantity]| quantities.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (shown.is_empty(), hidden.is_empty()) {
        (true, _) => "jouled can read nothing of it.".to_string(),
        (false, true) => format!("jouled can read its {}.", list(&shown)),
        (false, false) => format!("jouled can read its {}; not its {}.", list(&shown), list(&hidden)),
    }
}

/// Whether anything shows this quantity.
pub fn shows(readings: &[Probe], quantity: Quantity) -> bool {
    readings.iter().any(|probe| probe.quantity == quantity && probe.value.is_some())
}

fn budgets(readings: &[Probe], governor: &GovernorConfig, default: bool) -> String {
    if !governor.enabled {
        return "jouled does not slow itself down: the governor is switched off (enabled = false).".to_string();
    }
    let mut when = Vec::new();
    if governor.max_celsius < NO_CELSIUS_LIMIT && shows(readings, Quantity::Temperature) {
        when.push(format!("above {} °C (max_celsius)", governor.max_celsius));
    }
    if let Some(watts) = governor.max_watts.filter(|_| shows(readings, Quantity::Power)) {
        when.push(format!("above {watts} W (max_watts)"));
    }
    if let Some(percent) = governor.min_battery_percent.filter(|_| shows(readings, Quantity::Battery)) {
        let from = percent + governor.battery_band_percent;
        when.push(format!("on battery from a charge of {from} % down, to the slowest at {percent} % (min_battery_percent)"));
    }
    if shows(readings, Quantity::UnderVoltage) || shows(readings, Quantity::Firmware) {
        when.push("while the firmware reports a low voltage or a lowered clock".to_string());
    }
    let which = if default { "With its defaults jouled" } else { "As configured, jouled" };
    if when.is_empty() {
        format!("{which} has nothing to slow it down here.")
    } else {
        format!("{which} slows itself down {}.", when.join(", "))
    }
}
