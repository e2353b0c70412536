//! NVIDIA Jetson: the rails that the INA3221 measures, in millivolts and milliamperes.
//!
//! Where there is a rail `VDD_IN` it is the whole board (Nano, NX). Where there is none (AGX) the board is the sum of
//! `VDD_GPU_SOC`, `VDD_CPU_CV` and `VIN_SYS_5V0`. The chip knows the power at an instant; samples between reads are averaged.

use super::sysfs::{self, Why};
use super::{Probe, Quantity, Readings, Source};
use std::path::{Path, PathBuf};
use std::time::Duration;

const DRIVER: &str = "sys/bus/i2c/drivers/ina3221";
const WHOLE: [&str; 2] = ["VDD_IN", "POM_5V_IN"];
const PARTS: [&str; 3] = ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"];
/// Volts and amperes that a rail may show. A converter idling may show a little reverse current.
const VOLTS: (f64, f64) = (0.0, 60.0);
const AMPERES: (f64, f64) = (-1.0, 100.0);

#[derive(Default)]
pub struct Ina3221 {
    sum: f64,
    samples: u32,
    /// Rails that were added up: with fewer of them the sum would be too low.
    seen: usize,
}

struct Rail {
    label: String,
    monitor: PathBuf,
    channel: u8,
}

impl Rail {
    fn watts(&self) -> Result<f64, Why> {
        let file = |kind: &str| self.monitor.join(format!("{kind}{}_input", self.channel));
        let volts = sysfs::scaled(&file("in"), 1000.0, VOLTS.0, VOLTS.1)?;
        let amperes = sysfs::scaled(&file("curr"), 1000.0, AMPERES.0, AMPERES.1)?;
        Ok((volts * amperes).max(0.0))
    }

    fn path(&self, root: &Path) -> String {
        format!("{}/curr{}_input", sysfs::shown(root, &self.monitor), self.channel)
    }
}

/// Every labelled rail; the driver's own files and unconnected channels (`NC`) are not.
fn rails(root: &Path) -> Vec<Rail> {
    let devices = sysfs::entries(&root.join(DRIVER), "");
    let monitors = devices.iter().flat_map(|device| sysfs::entries(&device.join("hwmon"), "hwmon"));
    let mut rails = Vec::new();
    for monitor in monitors {
        for channel in 1..=3 {
            if let Ok(label) = sysfs::text(&monitor.join(format!("in{channel}_label"))).map(|label| label.to_uppercase())
                && label != "NC"
            {
                rails.push(Rail { label, monitor: monitor.clone(), channel });
            }
        }
    }
    rails
}

/// The rails that together are the board: one, or the parts that there are.
fn board(rails: Vec<Rail>) -> Vec<Rail> {
    let whole = rails.iter().position(|rail| WHOLE.contains(&rail.label.as_str()));
    match whole {
        Some(index) => rails.into_iter().skip(index).take(1).collect(),
        None => rails.into_iter().filter(|rail| PARTS.contains(&rail.label.as_str())).collect(),
    }
}

/// The board's power now, and of how many rails. One part that fails spoils the sum, and so do fewer than `expected`.
fn watts(root: &Path, expected: usize) -> Result<(f64, usize), (String, Why)> {
    let rails = board(rails(root));
    if rails.len() < expected {
        let why = format!("{} of {expected} rails can be recognized", rails.len());
        return Err((format!("/{DRIVER}"), Why::Unusable(why)));
    }
    if rails.is_empty() {
        return Err((format!("/{DRIVER}"), Why::Missing));
    }
    let mut sum = 0.0;
    for rail in &rails {
        sum += rail.watts().map_err(|why| (rail.path(root), unless_missing(why)))?;
    }
    Ok((sum, rails.len()))
}

/// A labelled rail without a value is a fault.
fn unless_missing(why: Why) -> Why {
    if why == Why::Missing { Why::Unusable("a rail has no value".to_string()) } else { why }
}

impl Source for Ina3221 {
    fn read(&mut self, root: &Path, _now: Duration, into: &mut Readings) {
        match watts(root, self.seen) {
            Ok((watts, rails)) => {
                self.seen = rails;
                let mean = (self.sum + watts) / f64::from(self.samples + 1);
                into.offer_power("ina3221", mean, None);
            }
            Err((path, why)) => into.fault_unless_missing(Quantity::Power, path, why),
        }
        (self.sum, self.samples) = (0.0, 0);
    }

    fn sample(&mut self, root: &Path) -> bool {
        if self.seen == 0 {
            return false;
        }
        if let Ok((watts, _)) = watts(root, self.seen) {
            self.sum += watts;
            self.samples += 1;
        }
        true
    }

    fn probe(&self, root: &Path) -> Vec<Probe> {
        let rails = rails(root);
        if rails.is_empty() {
            return vec![Probe::new(Quantity::Power, format!("/{DRIVER}/*/hwmon/hwmon*"), Err(Why::Missing))];
        }
        let probe = |rail: Rail| {
            let outcome = rail.watts().map(|watts| format!("{}: {watts:.2} W", rail.label)).map_err(unless_missing);
            Probe::new(Quantity::Power, rail.path(root), outcome)
        };
        rails.into_iter().map(probe).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::tests::{tree, write};
    use super::*;

    const AT: &str = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3";

    fn chip(rails: &[(&str, i32, i32)]) -> tempfile::TempDir {
        let root = tree(&[("sys/bus/i2c/drivers/ina3221/bind", ""), (&format!("{AT}/in7_label"), "Sum of shunt voltages")]);
        for (i, (label, mv, ma)) in rails.iter().enumerate() {
            write(root.path(), &format!("{AT}/in{}_label", i + 1), label);
            write(root.path(), &format!("{AT}/in{}_input", i + 1), &mv.to_string());
            write(root.path(), &format!("{AT}/curr{}_input", i + 1), &ma.to_string());
        }
        root
    }

    fn read(source: &mut Ina3221, root: &Path) -> Readings {
        let mut readings = Readings::default();
        source.read(root, Duration::ZERO, &mut readings);
        readings
    }

    #[test]
    fn one_rail_is_the_board_or_its_parts_are_added() {
        let nano = chip(&[("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 300)]);
        assert_eq!(read(&mut Ina3221::default(), nano.path()).watts, Some(6.0));
        let agx = chip(&[("VDD_GPU_SOC", 20000, 100), ("VDD_CPU_CV", 20000, 50), ("VIN_SYS_5V0", 5000, 1000)]);
        assert_eq!(read(&mut Ina3221::default(), agx.path()).watts, Some(8.0));
        let odd = chip(&[("NC", 5000, 1200), ("VDDQ", 1, 1)]);
        assert_eq!(read(&mut Ina3221::default(), odd.path()), Readings::default());
    }

    #[test]
    fn samples_between_reads_are_averaged() {
        let root = chip(&[("VDD_IN", 5000, 1000)]);
        let mut source = Ina3221::default();
        assert!(!source.sample(root.path()), "not known to be there yet");
        read(&mut source, root.path());
        write(root.path(), &format!("{AT}/curr1_input"), "3000");
        assert!(source.sample(root.path()));
        write(root.path(), &format!("{AT}/curr1_input"), "1000");
        assert_eq!(read(&mut source, root.path()).watts, Some(10.0));
        assert_eq!(read(&mut source, root.path()).watts, Some(5.0));
    }

    #[test]
    fn a_failing_part_and_a_chip_that_goes_are_faults() {
        let root = chip(&[("VDD_GPU_SOC", 20000, 100), ("VDD_CPU_CV", 20000, 50)]);
        let mut source = Ina3221::default();
        assert!(read(&mut source, root.path()).watts.is_some());
        write(root.path(), &format!("{AT}/curr2_input"), "9999999");
        let broken = read(&mut source, root.path());
        assert_eq!((broken.watts, broken.broken(Quantity::Power)), (None, true));
        std::fs::remove_dir_all(root.path().join(DRIVER)).unwrap();
        assert!(read(&mut source, root.path()).broken(Quantity::Power));
    }
}
