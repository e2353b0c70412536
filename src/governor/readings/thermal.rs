//! `/sys/class/thermal/thermal_zone*`: `temp` in thousandths of a degree, `type` names the zone.
//!
//! Zones may fail (a part that is switched off) and may lie. If the zone that was the hottest stops reading, the
//! temperature is unknown until it reads again or another zone is hotter than it was: the zones that are left would
//! otherwise make a hot board look cool.

use super::sysfs::{self, Why};
use super::{Probe, Quantity, Readings, Source};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CLASS: &str = "sys/class/thermal";
/// Zones that report a constant: NVIDIA's placeholder says 50 or 100 degrees for ever.
const PLACEHOLDERS: [&str; 1] = ["PMIC-Die"];

pub struct Thermal {
    /// The `type` that counts, otherwise the hottest.
    only: Option<String>,
    /// The zone that counted last, and what it read.
    counted: Option<(PathBuf, f64)>,
}

struct Zone {
    path: PathBuf,
    kind: String,
    celsius: Result<f64, Why>,
}

impl Thermal {
    pub fn new(only: Option<&str>) -> Thermal {
        Thermal { only: only.map(str::to_string), counted: None }
    }
}

fn zones(root: &Path) -> Vec<Zone> {
    let directories = sysfs::entries(&root.join(CLASS), "thermal_zone");
    let zone = |path: PathBuf| {
        let kind = sysfs::text(&path.join("type")).unwrap_or_else(|_| "unknown".to_string());
        let celsius = sysfs::scaled(&path.join("temp"), 1000.0, 0.0, 125.0);
        Zone { path, kind, celsius }
    };
    directories.into_iter().map(zone).filter(|zone| !PLACEHOLDERS.contains(&zone.kind.as_str())).collect()
}

/// A temperature at which the kernel does something by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Trip {
    /// `type` of the zone.
    pub zone: String,
    /// `active` starts a fan, `passive` lowers clocks, `hot` tells, `critical` switches off.
    pub kind: String,
    pub celsius: f64,
}

/// Every trip point that can be, in the order of zones and then of temperatures.
pub fn trips(root: &Path) -> Vec<Trip> {
    let mut found = Vec::new();
    for zone in zones(root) {
        let kinds = sysfs::entries(&zone.path, "trip_point_").into_iter().filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            let celsius = sysfs::scaled(&zone.path.join(format!("{}temp", name.strip_suffix("type")?)), 1000.0, 1.0, 200.0).ok()?;
            Some(Trip { zone: zone.kind.clone(), kind: sysfs::text(&path).ok()?, celsius })
        });
        let mut trips: Vec<Trip> = kinds.collect();
        trips.sort_by(|a, b| a.celsius.total_cmp(&b.celsius));
        found.extend(trips);
    }
    found
}

impl Source for Thermal {
    fn read(&mut self, root: &Path, _now: Duration, into: &mut Readings) {
        let mut zones = zones(root);
        if let Some(only) = &self.only {
            let found: Vec<String> = zones.iter().map(|zone| zone.kind.clone()).collect();
            zones.retain(|zone| zone.kind == *only);
            if zones.is_empty() {
                let why = Why::Unusable(format!("no zone is of type `{only}`, there are: {}", found.join(", ")));
                return into.fault_unless_missing(Quantity::Temperature, format!("/{CLASS}"), why);
            }
        }
        for zone in &zones {
            if let Err(why) = &zone.celsius {
                // A directory without a temperature is a sensor that fails, not a board without sensors.
                let why = if *why == Why::Missing { Why::Unusable("has no temperature".to_string()) } else { why.clone() };
                into.fault_unless_missing(Quantity::Temperature, sysfs::shown(root, &zone.path), why);
            }
        }
        let valid = zones.iter().filter_map(|zone| zone.celsius.as_ref().ok().map(|celsius| (zone, *celsius)));
        let Some((hottest, celsius)) = valid.max_by(|a, b| a.1.total_cmp(&b.1)) else { return };
        if let Some((path, last)) = &self.counted {
            let reads = zones.iter().any(|zone| zone.path == *path && zone.celsius.is_ok());
            if !reads && celsius < *last {
                if zones.iter().all(|zone| zone.path != *path) {
                    let why = Why::Unusable("was the hottest zone and is gone".to_string());
                    into.fault_unless_missing(Quantity::Temperature, sysfs::shown(root, path), why);
                }
                return;
            }
        }
        self.counted = Some((hottest.path.clone(), celsius));
        into.celsius = Some(celsius);
        into.thermal_zone = Some(hottest.kind.clone());
    }

    fn probe(&self, root: &Path) -> Vec<Probe> {
        let zones = zones(root);
        if zones.is_empty() {
            return vec![Probe::new(Quantity::Temperature, format!("/{CLASS}/thermal_zone*"), Err(Why::Missing))];
        }
        let probe = |zone: Zone| {
            let outcome = zone.celsius.map(|celsius| format!("{}: {celsius:.1} °C", zone.kind));
            Probe::new(Quantity::Temperature, sysfs::shown(root, &zone.path), outcome)
        };
        zones.into_iter().map(probe).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::tests::{tree, write};
    use super::*;

    fn read(thermal: &mut Thermal, root: &Path) -> Readings {
        let mut readings = Readings::default();
        thermal.read(root, Duration::ZERO, &mut readings);
        readings
    }

    const ZONES: [(&str, &str); 8] = [
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        ("sys/class/thermal/thermal_zone0/temp", "61322\n"),
        ("sys/class/thermal/thermal_zone1/type", "gpu-thermal\n"),
        ("sys/class/thermal/thermal_zone1/temp", "58000\n"),
        ("sys/class/thermal/thermal_zone2/type", "modem\n"),
        ("sys/class/thermal/thermal_zone2/temp", "-274000\n"),
        ("sys/class/thermal/thermal_zone3/type", "PMIC-Die\n"),
        ("sys/class/thermal/thermal_zone3/temp", "100000\n"),
    ];

    #[test]
    fn the_hottest_valid_zone_counts_unless_one_is_named() {
        let root = tree(&ZONES);
        let hottest = read(&mut Thermal::new(None), root.path());
        assert_eq!((hottest.celsius, hottest.thermal_zone.as_deref()), (Some(61.322), Some("cpu-thermal")));
        assert_eq!(hottest.fault(Quantity::Temperature).unwrap().path, "/sys/class/thermal/thermal_zone2");
        assert_eq!(read(&mut Thermal::new(Some("gpu-thermal")), root.path()).celsius, Some(58.0));
        let wrong = read(&mut Thermal::new(Some("soc")), root.path());
        assert_eq!(wrong.celsius, None);
        assert!(wrong.faults[0].to_string().contains("cpu-thermal, gpu-thermal"), "{}", wrong.faults[0]);
    }

    #[test]
    fn a_hot_zone_that_fails_or_goes_does_not_leave_a_cool_one_in_its_place() {
        for broken in ["", "250000", "garbage"] {
            let (root, mut thermal) = (tree(&ZONES), Thermal::new(None));
            read(&mut thermal, root.path());
            write(root.path(), ZONES[1].0, broken);
            let lost = read(&mut thermal, root.path());
            assert_eq!((lost.celsius, lost.broken(Quantity::Temperature)), (None, true), "{broken:?}");
            write(root.path(), ZONES[3].0, "70000");
            assert_eq!(read(&mut thermal, root.path()).celsius, Some(70.0), "a hotter zone counts");
        }
        let (root, mut thermal) = (tree(&ZONES), Thermal::new(None));
        read(&mut thermal, root.path());
        std::fs::remove_dir_all(root.path().join("sys/class/thermal/thermal_zone0")).unwrap();
        let gone = read(&mut thermal, root.path());
        assert_eq!(gone.celsius, None);
        assert!(gone.faults.iter().any(|fault| fault.path.ends_with("zone0")));
    }

    #[test]
    fn a_board_without_zones_has_no_fault() {
        let root = tree(&[]);
        assert_eq!(read(&mut Thermal::new(None), root.path()), Readings::default());
        assert_eq!(Thermal::new(None).probe(root.path())[0].why_not, Some(Why::Missing));
    }
}
