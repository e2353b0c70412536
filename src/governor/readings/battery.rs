//! `/sys/class/power_supply`: charge in percent, status, and the power drawn from it (microvolts, -amperes, -watts).
//!
//! Only supplies of type `Battery` that power the system count: the batteries of mice and keyboards have the scope `Device`.
//! Of several, the charge is the mean and the power the sum.

use super::sysfs::{self, Why};
use super::{Probe, Quantity, Readings, Source};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CLASS: &str = "sys/class/power_supply";

pub struct Battery;

fn is(path: &Path, file: &str, value: &str) -> bool {
    sysfs::text(&path.join(file)).is_ok_and(|text| text.eq_ignore_ascii_case(value))
}

fn batteries(root: &Path) -> Vec<PathBuf> {
    let supplies = sysfs::entries(&root.join(CLASS), "");
    let ours = |path: &PathBuf| is(path, "type", "Battery") && !is(path, "scope", "Device") && !is(path, "present", "0");
    supplies.into_iter().filter(ours).collect()
}

/// A charge that is missing where there is a battery is a fault.
fn percent(battery: &Path) -> Result<f64, Why> {
    sysfs::scaled(&battery.join("capacity"), 1.0, 0.0, 100.0).map_err(|why| match why {
        Why::Missing => Why::Unusable("has no charge in percent".to_string()),
        other => other,
    })
}

/// Whether it powers the board; `None` where its status does not say.
fn discharging(battery: &Path) -> Option<bool> {
    match sysfs::text(&battery.join("status")).ok()?.to_ascii_lowercase().as_str() {
        "discharging" => Some(true),
        "charging" | "full" | "not charging" => Some(false),
        _ => None,
    }
}

/// Drivers disagree about the sign of a discharge.
fn watts(battery: &Path) -> Result<f64, Why> {
    let micro = |file: &str, most: f64| sysfs::scaled(&battery.join(file), 1e6, -most, most).map(f64::abs);
    micro("power_now", 10_000.0).or_else(|_| Ok(micro("voltage_now", 1000.0)? * micro("current_now", 1000.0)?))
}

impl Source for Battery {
    fn read(&mut self, root: &Path, _now: Duration, into: &mut Readings) {
        let batteries = batteries(root);
        let mut sum = 0.0;
        for battery in &batteries {
            match percent(battery) {
                Ok(percent) => sum += percent,
                Err(why) => return into.fault_unless_missing(Quantity::Battery, sysfs::shown(root, battery), why),
            }
        }
        if batteries.is_empty() {
            return;
        }
        into.battery_percent = Some(sum / batteries.len() as f64);
        let states: Vec<Option<bool>> = batteries.iter().map(|battery| discharging(battery)).collect();
        let drains = states.contains(&Some(true));
        into.on_battery = if drains { Some(true) } else { states.into_iter().collect::<Option<Vec<bool>>>().map(|_| false) };
        let power: Result<f64, Why> = batteries.iter().filter(|battery| discharging(battery) == Some(true)).map(|b| watts(b)).sum();
        if let (true, Ok(watts)) = (drains, power) {
            into.offer_power("battery", watts, None);
        }
    }

    fn probe(&self, root: &Path) -> Vec<Probe> {
        let batteries = batteries(root);
        if batteries.is_empty() {
            return vec![Probe::new(Quantity::Battery, format!("/{CLASS}/*"), Err(Why::Missing))];
        }
        let status = |battery: &Path| sysfs::text(&battery.join("status")).unwrap_or_else(|_| "unknown".to_string());
        let power = |battery: &Path| watts(battery).map_or(String::new(), |watts| format!(", {watts:.2} W"));
        let outcome = |b: &Path| percent(b).map(|percent| format!("{percent:.0} %, {}{}", status(b), power(b)));
        batteries.iter().map(|b| Probe::new(Quantity::Battery, sysfs::shown(root, b), outcome(b))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::tests::{tree, write};
    use super::*;

    fn read(root: &Path) -> Readings {
        let mut readings = Readings::default();
        Battery.read(root, Duration::ZERO, &mut readings);
        readings
    }

    const LAPTOP: [(&str, &str); 9] = [
        ("sys/class/power_supply/AC/type", "Mains"),
        ("sys/class/power_supply/AC/online", "0"),
        ("sys/class/power_supply/BAT0/type", "Battery"),
        ("sys/class/power_supply/BAT0/status", "Discharging"),
        ("sys/class/power_supply/BAT0/capacity", "40"),
        ("sys/class/power_supply/BAT0/voltage_now", "12000000"),
        ("sys/class/power_supply/BAT0/current_now", "-1500000"),
        ("sys/class/power_supply/hidpp_battery_0/type", "Battery"),
        ("sys/class/power_supply/hidpp_battery_0/scope", "Device"),
    ];

    #[test]
    fn the_system_battery_counts_and_the_mouse_does_not() {
        let root = tree(&LAPTOP);
        let readings = read(root.path());
        assert_eq!((readings.battery_percent, readings.on_battery, readings.watts), (Some(40.0), Some(true), Some(18.0)));
        write(root.path(), "sys/class/power_supply/BAT1/type", "Battery");
        write(root.path(), "sys/class/power_supply/BAT1/status", "Not charging");
        write(root.path(), "sys/class/power_supply/BAT1/capacity", "80");
        let both = read(root.path());
        assert_eq!((both.battery_percent, both.on_battery, both.watts), (Some(60.0), Some(true), Some(18.0)));
    }

    #[test]
    fn charging_has_no_board_power_and_an_unknown_status_no_answer() {
        let root = tree(&LAPTOP);
        write(root.path(), LAPTOP[3].0, "Charging");
        let readings = read(root.path());
        assert_eq!((readings.on_battery, readings.watts), (Some(false), None));
        write(root.path(), LAPTOP[3].0, "Unknown");
        assert_eq!(read(root.path()).on_battery, None);
    }

    #[test]
    fn a_battery_without_a_charge_is_a_fault() {
        let root = tree(&LAPTOP);
        write(root.path(), LAPTOP[4].0, "255");
        let readings = read(root.path());
        assert_eq!((readings.battery_percent, readings.broken(Quantity::Battery)), (None, true));
        assert_eq!(read(tree(&[]).path()), Readings::default());
    }
}
