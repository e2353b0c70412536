//! Raspberry Pi: the firmware's `get_throttled` (hexadecimal without `0x`) and the `rpi_volt` monitor.
//!
//! Bits: 0 under-voltage, 1 clock capped, 2 throttled, 3 soft temperature limit. Bits 16 to 19 say that it happened since
//! boot and do not count here.

use super::sysfs::{self, Why};
use super::{Probe, Quantity, Readings, Source};
use std::path::{Path, PathBuf};
use std::time::Duration;

const PLATFORM: &str = "sys/devices/platform";
const HWMON: &str = "sys/class/hwmon";
/// The supply's voltage is too low.
pub const UNDER_VOLTAGE: u32 = 1;
/// The clock is capped, throttled, or at its soft limit.
pub const LIMITED: u32 = 0b1110;
/// From a bit to the one that says that it happened since boot.
pub const SINCE_BOOT: u32 = 16;

pub struct Pi;

/// `soc/soc:firmware` on most kernels, `soc@…/…firmware…` on newer ones.
fn throttled_file(root: &Path) -> Option<PathBuf> {
    let socs = sysfs::entries(&root.join(PLATFORM), "soc");
    let firmware = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains("firmware"));
    let inside = socs.iter().flat_map(|soc| sysfs::entries(soc, "")).filter(firmware);
    inside.map(|directory| directory.join("get_throttled")).find(|path| path.exists())
}

fn bits(path: &Path) -> Result<u32, Why> {
    let text = sysfs::text(path)?;
    let digits = text.strip_prefix("0x").unwrap_or(&text);
    u32::from_str_radix(digits, 16).map_err(|_| Why::Unusable(format!("expected hexadecimal bits, found `{text}`")))
}

/// All of the firmware's bits, those of the past included; `None` where there are none to be had.
pub fn firmware_bits(root: &Path) -> Option<u32> {
    bits(&throttled_file(root)?).ok()
}

/// The alarm of the monitor named `rpi_volt`: the voltage was too low at the driver's last look, a few seconds ago.
fn alarm_file(root: &Path) -> Option<PathBuf> {
    let monitors = sysfs::entries(&root.join(HWMON), "hwmon");
    let found = monitors.into_iter().find(|monitor| sysfs::text(&monitor.join("name")).is_ok_and(|name| name == "rpi_volt"));
    found.map(|monitor| monitor.join("in0_lcrit_alarm"))
}

fn alarm(path: &Path) -> Result<bool, Why> {
    match sysfs::number(path)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Why::Unusable(format!("expected 0 or 1, found {other}"))),
    }
}

impl Source for Pi {
    fn read(&mut self, root: &Path, _now: Duration, into: &mut Readings) {
        if let Some(path) = throttled_file(root) {
            match bits(&path) {
                Ok(bits) => {
                    into.under_voltage = Some(bits & UNDER_VOLTAGE != 0);
                    into.firmware_throttled = Some(bits & LIMITED != 0);
                }
                Err(why) => {
                    let shown = sysfs::shown(root, &path);
                    into.fault_unless_missing(Quantity::Firmware, shown.clone(), why.clone());
                    into.fault_unless_missing(Quantity::UnderVoltage, shown, why);
                }
            }
        }
        if let Some(path) = alarm_file(root) {
            match alarm(&path) {
                Ok(low) => into.under_voltage = Some(into.under_voltage.unwrap_or(false) || low),
                Err(why) => into.fault_unless_missing(Quantity::UnderVoltage, sysfs::shown(root, &path), why),
            }
        }
    }

    fn probe(&self, root: &Path) -> Vec<Probe> {
        let throttled = throttled_file(root);
        let outcome = throttled.as_deref().map_or(Err(Why::Missing), bits).map(|bits| format!("bits {bits:#x}"));
        let shown = throttled.map_or(format!("/{PLATFORM}/soc*/*firmware*/get_throttled"), |path| sysfs::shown(root, &path));
        let volt = alarm_file(root);
        let state = |low| if low { "too low" } else { "good" }.to_string();
        let volt_outcome = volt.as_deref().map_or(Err(Why::Missing), alarm).map(state);
        let volt_shown = volt.map_or(format!("/{HWMON}/hwmon*/in0_lcrit_alarm of rpi_volt"), |path| sysfs::shown(root, &path));
        vec![Probe::new(Quantity::Firmware, shown, outcome), Probe::new(Quantity::UnderVoltage, volt_shown, volt_outcome)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::tests::{tree, write};
    use super::*;

    fn read(root: &Path) -> Readings {
        let mut readings = Readings::default();
        Pi.read(root, Duration::ZERO, &mut readings);
        readings
    }

    const OLD: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";
    const NEW: &str = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled";

    #[test]
    fn the_bits_of_now_count_and_those_of_the_past_do_not() {
        for (file, text, low, limited) in
            [(OLD, "0", false, false), (NEW, "50005\n", true, true), (OLD, "f0000", false, false), (NEW, "8", false, true)]
        {
            let readings = read(tree(&[(file, text)]).path());
            assert_eq!((readings.under_voltage, readings.firmware_throttled), (Some(low), Some(limited)), "{text}");
        }
    }

    #[test]
    fn the_voltage_monitor_adds_to_the_bits() {
        let root = tree(&[
            (OLD, "0"),
            ("sys/class/hwmon/hwmon0/name", "cpu_thermal"),
            ("sys/class/hwmon/hwmon1/name", "rpi_volt"),
            ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1"),
        ]);
        assert_eq!(read(root.path()).under_voltage, Some(true));
        write(root.path(), "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "7");
        let readings = read(root.path());
        assert_eq!((readings.under_voltage, readings.faults.len()), (Some(false), 1));
    }

    #[test]
    fn garbage_is_a_fault_and_nothing_is_none() {
        let readings = read(tree(&[(OLD, "zz")]).path());
        assert_eq!((readings.under_voltage, readings.firmware_throttled), (None, None));
        assert!(readings.broken(Quantity::Firmware) && readings.broken(Quantity::UnderVoltage));
        assert_eq!(read(tree(&[]).path()), Readings::default());
    }
}
