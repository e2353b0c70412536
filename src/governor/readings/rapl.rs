//! x86: the processors' energy counters, in microjoules. Only root may read them since Linux 5.10.
//!
//! A domain named `psys` is the whole platform and counts alone; otherwise the packages are added. A counter wraps at
//! `max_energy_range_uj`; the watts are the joules since the last read over the time since then.

use super::sysfs::{self, Why};
use super::{Probe, Quantity, Readings, Source};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CLASS: &str = "sys/class/powercap";
/// More is a counter that was reset, not power.
const MOST_WATTS: f64 = 5000.0;

/// What a domain showed at the last read.
struct Counter {
    path: PathBuf,
    microjoules: i64,
}

#[derive(Default)]
pub struct Rapl {
    counters: Vec<Counter>,
    read_at: Option<Duration>,
    joules: f64,
}

/// The top-level domains that count; `intel-rapl:0:0` is a part of `intel-rapl:0`.
/// A name that cannot be read is a fault: the sum would lack its part.
fn domains(root: &Path) -> Result<Vec<PathBuf>, (PathBuf, Why)> {
    let top = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().matches(':').count() == 1);
    let (mut platform, mut packages) = (Vec::new(), Vec::new());
    for path in sysfs::entries(&root.join(CLASS), "intel-rapl:").into_iter().filter(top) {
        match sysfs::text(&path.join("name")) {
            Ok(name) if name.starts_with("psys") => platform.push(path),
            Ok(name) if name.starts_with("package") => packages.push(path),
            Ok(_) => (),
            Err(Why::Missing) => return Err((path, Why::Unusable("the domain has no name".to_string()))),
            Err(why) => return Err((path, why)),
        }
    }
    Ok(if platform.is_empty() { packages } else { platform })
}

fn counter(path: PathBuf) -> Result<Counter, (PathBuf, Why)> {
    let file = path.join("energy_uj");
    match sysfs::number(&file) {
        Ok(microjoules) if microjoules >= 0 => Ok(Counter { path, microjoules }),
        Ok(negative) => Err((file, Why::Unusable(format!("{negative} is negative")))),
        Err(Why::Missing) => Err((file, Why::Unusable("the domain has no counter".to_string()))),
        Err(why) => Err((file, why)),
    }
}

/// Microjoules from one value to the next, with one wrap.
fn difference(before: i64, after: i64, path: &Path) -> Result<i64, Why> {
    if after >= before {
        return Ok(after - before);
    }
    let range = sysfs::number(&path.join("max_energy_range_uj"))?;
    let wrapped = range.checked_sub(before).and_then(|rest| rest.checked_add(after)).filter(|sum| *sum >= 0);
    wrapped.ok_or_else(|| Why::Unusable(format!("{after} after {before} is no wrap at {range}")))
}

impl Rapl {
    /// Joules since the last read; `None` at the first. Error: the domains are not the same.
    fn advance(&mut self, counters: Vec<Counter>) -> Result<Option<f64>, Why> {
        let before = std::mem::replace(&mut self.counters, counters);
        if before.is_empty() {
            return Ok(None);
        }
        if !before.iter().map(|c| &c.path).eq(self.counters.iter().map(|c| &c.path)) {
            return Err(Why::Unusable("the domains are not those of before".to_string()));
        }
        let mut sum = 0.0;
        for (before, after) in before.iter().zip(&self.counters) {
            sum += difference(before.microjoules, after.microjoules, &after.path)? as f64;
        }
        Ok(Some(sum / 1e6))
    }

    fn offer(&mut self, joules: f64, seconds: f64, into: &mut Readings) {
        let watts = joules / seconds;
        if seconds > 0.0 && watts <= MOST_WATTS {
            self.joules += joules;
            into.offer_power("rapl", watts, Some(self.joules));
        } else {
            let why = Why::Unusable(format!("{joules} J in {seconds} s cannot be"));
            into.fault_unless_missing(Quantity::Power, format!("/{CLASS}"), why);
        }
    }
}

impl Source for Rapl {
    fn read(&mut self, root: &Path, now: Duration, into: &mut Readings) {
        let counters = domains(root).and_then(|domains| domains.into_iter().map(counter).collect::<Result<Vec<Counter>, _>>());
        let counters = match counters {
            Ok(counters) if counters.is_empty() && self.read_at.is_some() => {
                let why = Why::Unusable("the counters are gone".to_string());
                return into.fault_unless_missing(Quantity::Power, format!("/{CLASS}"), why);
            }
            Ok(counters) if counters.is_empty() => return,
            Ok(counters) => counters,
            Err((path, why)) => return into.fault_unless_missing(Quantity::Power, sysfs::shown(root, &path), why),
        };
        let since = self.read_at.replace(now).map(|before| now.saturating_sub(before).as_secs_f64());
        match (self.advance(counters), since) {
            (Ok(Some(joules)), Some(seconds)) => self.offer(joules, seconds, into),
            (Ok(_), _) => (),
            (Err(why), _) => into.fault_unless_missing(Quantity::Power, format!("/{CLASS}"), why),
        }
    }

    fn probe(&self, root: &Path) -> Vec<Probe> {
        let domains = match domains(root) {
            Ok(domains) => domains,
            Err((path, why)) => return vec![Probe::new(Quantity::Power, sysfs::shown(root, &path), Err(why))],
        };
        if domains.is_empty() {
            return vec![Probe::new(Quantity::Power, format!("/{CLASS}/intel-rapl:*"), Err(Why::Missing))];
        }
        let outcome = |path: &PathBuf| {
            let name = sysfs::text(&path.join("name")).unwrap_or_default();
            counter(path.clone()).map(|counter| format!("{name}: {:.0} J", counter.microjoules as f64 / 1e6)).map_err(|(_, why)| why)
        };
        domains.iter().map(|path| Probe::new(Quantity::Power, sysfs::shown(root, path), outcome(path))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::tests::{tree, write};
    use super::*;

    const ENERGY: &str = "sys/class/powercap/intel-rapl:0/energy_uj";
    const PACKAGE: [(&str, &str); 5] = [
        ("sys/class/powercap/intel-rapl:0/name", "package-0"),
        (ENERGY, "9000000"),
        ("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "10000000"),
        ("sys/class/powercap/intel-rapl:0:0/name", "core"),
        ("sys/class/powercap/intel-rapl:0:0/energy_uj", "1"),
    ];

    fn read(rapl: &mut Rapl, root: &Path, seconds: u64) -> Readings {
        let mut readings = Readings::default();
        rapl.read(root, Duration::from_secs(seconds), &mut readings);
        readings
    }

    #[test]
    fn watts_are_the_difference_over_time_across_a_wrap() {
        let (root, mut rapl) = (tree(&PACKAGE), Rapl::default());
        assert_eq!(read(&mut rapl, root.path(), 0), Readings::default());
        write(root.path(), ENERGY, "9500000");
        let second = read(&mut rapl, root.path(), 1);
        assert_eq!((second.watts, second.joules, second.power_source), (Some(0.5), Some(0.5), Some("rapl")));
        write(root.path(), ENERGY, "1500000");
        let third = read(&mut rapl, root.path(), 3);
        assert_eq!((third.watts, third.joules), (Some(1.0), Some(2.5)));
    }

    #[test]
    fn the_platform_counts_alone() {
        let root = tree(&PACKAGE);
        write(root.path(), "sys/class/powercap/intel-rapl:1/name", "psys");
        let found = domains(root.path()).unwrap();
        assert!(found[0].ends_with("intel-rapl:1") && found.len() == 1);
    }

    #[test]
    fn nonsense_is_a_fault_and_never_a_power() {
        for text in ["", "-5", "words", "99999999999999"] {
            let (root, mut rapl) = (tree(&PACKAGE), Rapl::default());
            read(&mut rapl, root.path(), 0);
            write(root.path(), ENERGY, text);
            let readings = read(&mut rapl, root.path(), 1);
            assert_eq!((readings.watts, readings.broken(Quantity::Power)), (None, true), "{text:?}");
        }
        let (root, mut rapl) = (tree(&PACKAGE), Rapl::default());
        read(&mut rapl, root.path(), 0);
        assert!(read(&mut rapl, root.path(), 0).broken(Quantity::Power), "no time has passed");
        std::fs::remove_dir_all(root.path().join(CLASS)).unwrap();
        assert!(read(&mut rapl, root.path(), 1).broken(Quantity::Power), "it is gone");
    }
}
