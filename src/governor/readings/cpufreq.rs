//! `/sys/devices/system/cpu/cpu*/cpufreq`: clock now over the hardware's maximum, in kHz.

use super::sysfs::{self, Why};
use super::{Probe, Quantity, Readings, Source};
use std::path::Path;
use std::time::Duration;

pub const CPUS: &str = "sys/devices/system/cpu";
/// Of a clock, in kHz: from 1 MHz to 20 GHz.
pub const PLAUSIBLE: (f64, f64) = (1e3, 2e7);

pub struct Cpufreq;

/// The mean ratio over all processors that have one.
fn ratio(root: &Path) -> Result<f64, Why> {
    let mut ratios = Vec::new();
    for cpu in sysfs::entries(&root.join(CPUS), "cpu") {
        match one(&cpu.join("cpufreq")) {
            Ok(ratio) => ratios.push(ratio),
            Err(Why::Missing) => (),
            Err(why) => return Err(why),
        }
    }
    if ratios.is_empty() { Err(Why::Missing) } else { Ok(ratios.iter().sum::<f64>() / ratios.len() as f64) }
}

/// The hardware's maximum rather than `scaling_max_freq`, which a cooling device lowers.
fn one(directory: &Path) -> Result<f64, Why> {
    let khz = |name: &str| sysfs::scaled(&directory.join(name), 1.0, PLAUSIBLE.0, PLAUSIBLE.1);
    let most = khz("cpuinfo_max_freq").or_else(|_| khz("scaling_max_freq"))?;
    Ok((khz("scaling_cur_freq")? / most).min(1.0))
}

impl Source for Cpufreq {
    fn read(&mut self, root: &Path, _now: Duration, into: &mut Readings) {
        match ratio(root) {
            Ok(ratio) => into.frequency_ratio = Some(ratio),
            Err(why) => into.fault_unless_missing(Quantity::Frequency, format!("/{CPUS}/cpu*/cpufreq"), why),
        }
    }

    fn probe(&self, root: &Path) -> Vec<Probe> {
        let outcome = ratio(root).map(|ratio| format!("{:.0} % of the maximum", ratio * 100.0));
        vec![Probe::new(Quantity::Frequency, format!("/{CPUS}/cpu*/cpufreq"), outcome)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::tests::{tree, write};
    use super::*;

    #[test]
    fn the_mean_of_all_processors_against_the_hardware() {
        let root = tree(&[
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "600000"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq", "600000"),
            ("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "1800000"),
            ("sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "1800000"),
            ("sys/devices/system/cpu/cpu1/cpufreq/scaling_max_freq", "1800000"),
            ("sys/devices/system/cpu/cpuidle/current_driver", "none"),
        ]);
        assert!((ratio(root.path()).unwrap() - 2.0 / 3.0).abs() < 1e-9);
        write(root.path(), "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "0");
        write(root.path(), "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq", "0");
        assert!(matches!(ratio(root.path()), Err(Why::Unusable(_))));
        assert_eq!(ratio(Path::new("/nowhere")), Err(Why::Missing));
    }
}
