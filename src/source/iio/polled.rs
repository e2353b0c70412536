//! One sysfs read per value, at a steady pace.

use super::IioConfig;
use super::device::{Attribute, Calibration, Device};
use crate::source::stream::{Batch, Rows, Source, SourceError, Trouble};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Failing rows in a row after which the device is opened again: a bus glitch costs one row, not the window.
const MAX_FAILURES: u32 = 4;

/// Opens each channel's attribute and reads it once, so that garbage shows at once.
pub fn open(config: &IioConfig, root: &Path) -> Result<Box<dyn Source>, SourceError> {
    let device = Device::find(root, &config.device)?;
    let channels = config.channels.iter().map(|name| Channel::open(&device, name)).collect::<Result<Vec<_>, _>>()?;
    let rate = config.rate.filter(|r| r.is_finite() && *r > 0.0);
    let rate = rate.ok_or_else(|| SourceError::format(&device.dir, "is polled: set `rate`"))?;
    let period = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX);
    let shape = Rows { channels: config.channels.clone(), rate: Some(rate) };
    Ok(Box::new(Polled { channels, period, due: Instant::now(), failures: 0, shape, row: Vec::new() }))
}

struct Channel {
    value: Attribute,
    calibration: Calibration,
}

impl Channel {
    /// Takes `in_X_raw`, or `in_X_input`, which is in the ABI's units already, where there is no raw value.
    fn open(device: &Device, name: &str) -> Result<Channel, SourceError> {
        let raw = device.dir.join(format!("in_{name}_raw"));
        let input = device.dir.join(format!("in_{name}_input"));
        let (path, calibration) = if input.exists() && !raw.exists() {
            (input, Calibration { offset: 0.0, scale: 1.0 })
        } else {
            (raw, device.calibration(name)?)
        };
        let channel = Channel { value: Attribute::open(&path)?, calibration };
        channel.read()?;
        Ok(channel)
    }

    fn read(&self) -> Result<f32, SourceError> {
        Ok(self.calibration.apply(self.value.number()?))
    }
}

struct Polled {
    channels: Vec<Channel>,
    period: Duration,
    due: Instant,
    /// Rows that failed since the last good one.
    failures: u32,
    shape: Rows,
    row: Vec<f32>,
}

impl Source for Polled {
    fn shape(&self) -> &Rows {
        &self.shape
    }

    fn read(&mut self, batch: &mut Batch, patience: Duration) -> Result<(), SourceError> {
        let wait = self.due.saturating_duration_since(Instant::now());
        thread::sleep(wait.min(patience));
        if wait > patience {
            return Ok(());
        }
        self.due = next_due(self.due, self.period, Instant::now());
        self.row.clear();
        match self.channels.iter().try_for_each(|channel| channel.read().map(|value| self.row.push(value))) {
            Ok(()) => {
                self.failures = 0;
                batch.push_row(&self.row);
            }
            Err(error) => {
                self.failures += 1;
                if self.failures >= MAX_FAILURES || matches!(error.trouble, Trouble::Missing | Trouble::Permission) {
                    return Err(error);
                }
                batch.reject(error.message);
            }
        }
        Ok(())
    }
}

/// When the row after the one that was due at `due` is due: on the grid of `period`, so that nothing drifts, and after `now`;
/// what was missed is not made up for.
fn next_due(due: Instant, period: Duration, now: Instant) -> Instant {
    let late = now.saturating_duration_since(due);
    let missed = late.as_nanos().checked_div(period.as_nanos()).unwrap_or(0);
    let steps = u32::try_from(missed + 1).unwrap_or(u32::MAX);
    // A period beyond what instants hold is never due.
    due.checked_add(period.saturating_mul(steps)).unwrap_or_else(|| now + Duration::from_secs(1 << 31))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_stay_on_the_grid(period in 1u64..1_000_000, late in 0u64..100_000_000) {
            let start = Instant::now();
            let (period, now) = (Duration::from_micros(period), start + Duration::from_micros(late));
            let due = next_due(start, period, now);
            prop_assert!(due > now && due <= now + period);
            prop_assert_eq!((due - start).as_nanos() % period.as_nanos(), 0);
        }
    }

    #[test]
    fn an_endless_period_is_no_panic() {
        let now = Instant::now();
        assert!(next_due(now, Duration::MAX, now) > now);
    }
}
