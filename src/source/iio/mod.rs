//! Sensors of the kernel's Industrial I/O subsystem, read through its sysfs and character device interface.
//!
//! Values are in the ABI's units (m/s^2, rad/s, millivolt, milli degrees Celsius, ...): `(raw + offset) * scale`.

mod buffered;
mod device;
mod polled;
mod sample_form;

use super::SourceKind;
use super::replay::check_channels;
use super::stream::{Source, SourceError};
use crate::config::problems::Checker;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Keys of `kind = "iio"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IioConfig {
    /// The device's `name` or `label` attribute, or `iio:deviceN`. Required.
    pub device: String,
    /// Channels in the order in which a row holds them, named as in sysfs without `in_`: `accel_x`, `voltage0`, `temp`.
    /// A channel with a repeat count gives several values. `timestamp`, of a buffered device, gives seconds since the first
    /// row. Required.
    pub channels: Vec<String>,
    /// True (default): the kernel's buffer, through `/dev/iio:deviceN`, which serves one reader only. False: one sysfs read per value, `rate` times a second.
    pub buffered: bool,
    /// Rows per second, above 0, at most 10000 where it is polled. Buffered: written to `sampling_frequency`; unset leaves what
    /// the device has. Polled: required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Buffered: rows that the kernel's buffer holds; 2 to 1048576. Unset: those of one second, at least 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// Buffered: rows for which the kernel wakes us; 1 to `length`. Unset: those of a twentieth of a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark: Option<u32>,
    /// Buffered: name of the trigger to use, for devices that need one. Unset leaves what the device has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
}

impl Default for IioConfig {
    fn default() -> IioConfig {
        let (device, channels) = (String::new(), Vec::new());
        IioConfig { device, channels, buffered: true, rate: None, length: None, watermark: None, trigger: None }
    }
}

/// Fastest polling, in rows per second; more is for a buffer.
const MAX_POLLED: f64 = 10_000.0;
/// Bounds of the buffer's length, in rows.
const LENGTH: std::ops::RangeInclusive<u32> = 2..=1 << 20;

impl SourceKind for IioConfig {
    fn check(&self, at: &mut Checker) {
        at.expect(plain(&self.device), "device", || format!("expected a device name or iio:deviceN, found {:?}", self.device));
        at.expect(!self.channels.is_empty(), "channels", || "expected at least one, for example [\"accel_x\"]".into());
        check_channels(&self.channels, at);
        for (index, name) in self.channels.iter().enumerate() {
            at.expect(plain(name), &format!("channels[{index}]"), || format!("expected a channel such as accel_x, found {name:?}"));
        }
        let limit = if self.buffered { 1e7 } else { MAX_POLLED };
        let rate_holds = self.rate.is_none_or(|r| r > 0.0 && r <= limit);
        at.expect(rate_holds, "rate", || format!("expected above 0 and at most {limit} rows per second, found {:?}", self.rate));
        at.expect(self.buffered || self.rate.is_some(), "rate", || "is needed by a polled device".into());
        let length_holds = self.length.is_none_or(|l| LENGTH.contains(&l));
        at.expect(length_holds, "length", || format!("expected {LENGTH:?} rows, found {:?}", self.length));
        let most = self.length.unwrap_or(*LENGTH.end());
        let mark_holds = self.watermark.is_none_or(|w| (1..=most).contains(&w));
        at.expect(mark_holds, "watermark", || format!("expected 1 to {most} rows, found {:?}", self.watermark));
        for (key, set) in [("length", self.length.is_some()), ("watermark", self.watermark.is_some()), ("trigger", self.trigger.is_some())]
        {
            at.expect(self.buffered || !set, key, || "is for a buffered device only".into());
        }
    }

    fn open(&self, root: &Path) -> Result<Box<dyn Source>, SourceError> {
        if self.buffered { buffered::open(self, root) } else { polled::open(self, root) }
    }
}

/// True for a name that is one component of a path.
fn plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}
