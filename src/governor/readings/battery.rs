//! `/sys/class/power_supply`: charge in percent, status, and the power drawn from it (microvolts, -amperes, -watts).
//!
//! Only supplies of type `Battery` that power the system count: the batteries of mice and keyboards have the scope `Device`.
//! Of several, the charge is the mean and the power the sum.

use super::sysfs::{self, Why};
use super::{Probe, Quantity, Readings, Source};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CLASS: &str = "sys/class/power_supply";

/// Kinds of supply that are no battery: the rest of the kernel's `POWER_SUPPLY_TYPE_TEXT`, whose USB kinds are several.
const OTHERS: [&str; 6] = ["Unknown", "UPS", "Mains", "USB", "Wireless", "BrickID"];

#[derive(Default)]
pub struct Battery {
    /// The power was read while the battery drained: not to know it is then a fault.
    measured: bool,
}

fn is(path: &Path, file: &str, value: &str) -> bool {
    sysfs::text(&path.join(file)).is_ok_and(|text| text.eq_ignore_ascii_case(value))
}

/// Whether a supply is a battery; not to know it is a fault.
fn is_battery(supply: &Path) -> Result<bool, Why> {
    match sysfs::text(&supply.join("type")) {
        Ok(kind) if kind.eq_ignore_ascii_case("Battery") => Ok(true),
        Ok(kind) if OTHERS.iter().any(|other| kind.starts_with(other)) => Ok(false),
        Ok(kind) => Err(Why::Unusable(format!("the supply's type `{kind}` is unknown"))),
        Err(Why::Missing) if supply.exists() => Err(Why::Unusable("the supply has no type".to_string())),
        Err(Why::Missing) => Ok(false),
        Err(why) => Err(why),
    }
}

fn batteries(root: &Path) -> Result<Vec<PathBuf>, (PathBuf, Why)> {
    let mut ours = Vec::new();
    for supply in sysfs::entries(&root.join(CLASS), "") {
        if is_battery(&supply).map_err(|why| (supply.join("type"), why))? && !is(&supply, "scope", "Device") && !is(&supply, "present", "0")
        {
            ours.push(supply);
        }
    }
    Ok(ours)
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
    let micro = |file: &str, least: f64, most: f64| sysfs::scaled(&battery.join(file), 1e6, least, most).map(f64::abs);
    match micro("power_now", -10_000.0, 10_000.0) {
        Err(Why::Missing) => Ok(micro("voltage_now", 1.0, 1000.0)? * micro("current_now", -1000.0, 1000.0)?),
        known => known,
    }
}

impl Battery {
    /// `states`: which batteries drain. `drains`: whether any powers the board, `None` where a status does not say.
    fn power(&mut self, root: &Path, batteries: &[PathBuf], states: &[Option<bool>], drains: Option<bool>, into: &mut Readings) {
        let fault = |into: &mut Readings, why| into.fault_unless_missing(Quantity::Power, format!("/{CLASS}"), why);
        let drained = batteries.iter().zip(states).filter(|(_, state)| **state == Some(true)).map(|(battery, _)| battery);
        match (drains, drained.map(|battery| watts(battery).map_err(|why| (battery, why))).sum::<Result<f64, _>>()) {
            (Some(true), Ok(watts)) => {
                self.measured = true;
                into.offer_power("battery", watts, None);
            }
            (Some(true), Err((_, Why::Missing))) if self.measured => fault(into, Why::Unusable("the battery's power is gone".to_string())),
            (Some(true), Err((battery, why))) => into.fault_unless_missing(Quantity::Power, sysfs::shown(root, battery), why),
            (None, _) if self.measured => fault(into, Why::Unusable("no status says whether the battery powers the board".to_string())),
            (None, _) => (),
            (Some(false), _) => self.measured = false,
        }
    }
}

impl Source for Battery {
    fn read(&mut self, root: &Path, _now: Duration, into: &mut Readings) {
        let batteries = match batteries(root) {
            Ok(batteries) => batteries,
            Err((path, why)) => {
                // It may be the battery that the power came from.
                if self.measured {
                    into.fault_unless_missing(Quantity::Power, sysfs::shown(root, &path), why.clone());
                }
                return into.fault_unless_missing(Quantity::Battery, sysfs::shown(root, &path), why);
            }
        };
        if batteries.is_empty() {
            self.measured = false;
            return;
        }
        let states: Vec<Option<bool>> = batteries.iter().map(|battery| discharging(battery)).collect();
        let known = || states.iter().all(Option::is_some);
        into.on_battery = if states.contains(&Some(true)) { Some(true) } else { known().then_some(false) };
        self.power(root, &batteries, &states, into.on_battery, into);
        let mut sum = 0.0;
        for battery in &batteries {
            match percent(battery) {
                Ok(percent) => sum += percent,
                Err(why) => return into.fault_unless_missing(Quantity::Battery, sysfs::shown(root, battery), why),
            }
        }
        into.battery_percent = Some(sum / batteries.len() as f64);
    }

    fn probe(&self, root: &Path) -> Vec<Probe> {
        let batteries = match batteries(root) {
            Ok(batteries) => batteries,
            Err((path, why)) => return vec![Probe::new(Quantity::Battery, sysfs::shown(root, &path), Err(why))],
        };
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
        Battery::default().read(root, Duration::ZERO, &mut readings);
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
