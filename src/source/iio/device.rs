//! IIO devices in sysfs: finding one, and reading and writing its attributes.

use crate::source::lines::excerpt;
use crate::source::stream::{SourceError, Trouble};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A device's directory in sysfs.
#[derive(Clone, Debug)]
pub struct Device {
    pub dir: PathBuf,
    /// `iio:deviceN`.
    pub node: String,
}

const DEVICES: &str = "sys/bus/iio/devices";

impl Device {
    /// Finds the device whose `name` or `label` is `wanted`, or whose directory is called so. Of several, the first by number.
    pub fn find(root: &Path, wanted: &str) -> Result<Device, SourceError> {
        let mut found = Vec::new();
        for device in list(root, "iio:device")? {
            let names: Vec<String> = ["name", "label"].iter().filter_map(|file| read(&device.dir.join(file)).ok()).collect();
            if device.node == wanted || names.iter().any(|n| n == wanted) {
                return Ok(device);
            }
            found.push(names.first().cloned().unwrap_or(device.node));
        }
        let found = if found.is_empty() { "none".to_string() } else { found.join(", ") };
        let message = format!("{}: no device {wanted:?}; found {found}", root.join(DEVICES).display());
        Err(SourceError::new(Trouble::Missing, message))
    }

    /// The attribute of a channel, or the one it shares with its kind, its direction or the whole device, as the kernel names
    /// them: `in_accel_x_scale`, `in_accel_scale`, `in_scale`, `scale`. `channel` comes without `in_`.
    pub fn shared(&self, channel: &str, attribute: &str) -> Option<PathBuf> {
        let mut names = channel_names(channel);
        names.push("in".to_string());
        let files = names.iter().map(|name| format!("{name}_{attribute}")).chain([attribute.to_string()]);
        files.map(|file| self.dir.join(file)).find(|path| path.exists())
    }

    /// Offset and scale of a channel.
    pub fn calibration(&self, channel: &str) -> Result<Calibration, SourceError> {
        let of = |attribute, default| self.shared(channel, attribute).map_or(Ok(default), |path| number(&path));
        Ok(Calibration { offset: of("offset", 0.0)?, scale: of("scale", 1.0)? })
    }
}

/// `in_` names under which attributes of a channel are found: its own, without its number, its type's. A differential channel's
/// type is `voltage-voltage`.
pub fn channel_names(channel: &str) -> Vec<String> {
    let unnumbered: String = channel.chars().filter(|c| !c.is_ascii_digit()).collect();
    let kind: Vec<&str> =
        channel.split('-').map(|part| &part[..part.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(part.len())]).collect();
    let mut names = vec![format!("in_{channel}"), format!("in_{unnumbered}"), format!("in_{}", kind.join("-"))];
    names.dedup();
    names
}

/// Devices or triggers, by number.
fn list(root: &Path, prefix: &str) -> Result<Vec<Device>, SourceError> {
    let directory = root.join(DEVICES);
    let entries = fs::read_dir(&directory).map_err(|e| SourceError::io(&directory, e))?;
    let numbered = |node: &str| node.strip_prefix(prefix)?.parse::<u32>().ok();
    let mut devices: Vec<(u32, Device)> = entries
        .flatten()
        .filter_map(|entry| {
            let node = entry.file_name().into_string().ok()?;
            Some((numbered(&node)?, Device { dir: entry.path(), node }))
        })
        .collect();
    devices.sort_by_key(|(number, _)| *number);
    Ok(devices.into_iter().map(|(_, device)| device).collect())
}

/// The directory of the trigger of that name.
pub fn trigger(root: &Path, name: &str) -> Option<PathBuf> {
    let triggers = list(root, "trigger").ok()?;
    triggers.into_iter().map(|t| t.dir).find(|dir| read(&dir.join("name")).is_ok_and(|n| n == name))
}

/// `value = (raw + offset) * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    pub offset: f64,
    pub scale: f64,
}

impl Calibration {
    pub fn apply(&self, raw: f64) -> f32 {
        ((raw + self.offset) * self.scale) as f32
    }
}

/// An attribute that is kept open: sysfs gives the present value on every read from the start.
pub struct Attribute {
    file: File,
    path: PathBuf,
}

/// Longest attribute; sysfs gives at most a page.
const MAX_ATTRIBUTE: usize = 4096;

impl Attribute {
    pub fn open(path: &Path) -> Result<Attribute, SourceError> {
        // Nothing in sysfs waits for its opener, but what stands in its place may.
        let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
        Ok(Attribute { file: file.map_err(|e| SourceError::io(path, e))?, path: path.to_path_buf() })
    }

    /// The text without blanks around it; an empty one is an error.
    pub fn text(&self) -> Result<String, SourceError> {
        let mut buffer = [0; MAX_ATTRIBUTE];
        let length = loop {
            match rustix::io::pread(&self.file, &mut buffer, 0) {
                Err(Errno::INTR) => {}
                outcome => break outcome.map_err(|e| SourceError::io(&self.path, e))?,
            }
        };
        match String::from_utf8_lossy(&buffer[..length]).trim() {
            "" => Err(SourceError::format(&self.path, "is empty")),
            text => Ok(text.to_string()),
        }
    }

    /// The number, which is finite.
    pub fn number(&self) -> Result<f64, SourceError> {
        let text = self.text()?;
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(SourceError::format(&self.path, format!("expected a number, found {}", excerpt(&text)))),
        }
    }
}

/// Reads an attribute once.
pub fn read(path: &Path) -> Result<String, SourceError> {
    Attribute::open(path)?.text()
}

/// Reads a number once.
pub fn number(path: &Path) -> Result<f64, SourceError> {
    Attribute::open(path)?.number()
}

/// Writes an attribute; one that is not there is never made.
pub fn write(path: &Path, value: &str) -> Result<(), SourceError> {
    let file = OpenOptions::new().write(true).truncate(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
    file.and_then(|mut file| file.write_all(value.as_bytes())).map_err(|e| {
        let error = SourceError::io(path, e);
        SourceError::new(error.trouble, format!("{} (writing {value:?})", error.message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_looked_for_under_the_kernels_names() {
        assert_eq!(channel_names("accel_x"), ["in_accel_x", "in_accel"]);
        assert_eq!(channel_names("voltage0"), ["in_voltage0", "in_voltage"]);
        assert_eq!(channel_names("voltage0-voltage1"), ["in_voltage0-voltage1", "in_voltage-voltage"]);
        assert_eq!(channel_names("voltage1_q"), ["in_voltage1_q", "in_voltage_q", "in_voltage"]);
        assert_eq!(channel_names("temp"), ["in_temp"]);
    }

    #[test]
    fn the_nearest_attribute_wins() {
        let tree = tempfile::tempdir().unwrap();
        let device = Device { dir: tree.path().to_path_buf(), node: "iio:device0".into() };
        assert_eq!(device.calibration("accel_x").unwrap(), Calibration { offset: 0.0, scale: 1.0 });
        for (file, scale) in [("scale", 2.0), ("in_scale", 3.0), ("in_accel_scale", 4.0), ("in_accel_x_scale", 5.0)] {
            fs::write(tree.path().join(file), format!("{scale}\n")).unwrap();
            assert_eq!(device.calibration("accel_x").unwrap().scale, scale);
        }
        fs::write(tree.path().join("in_accel_offset"), "-10").unwrap();
        assert_eq!(device.calibration("accel_x").unwrap().apply(12.0), 10.0);
    }

    #[test]
    fn garbage_is_named_with_its_file() {
        let tree = tempfile::tempdir().unwrap();
        let path = tree.path().join("in_temp_raw");
        assert_eq!(number(&path).unwrap_err().trouble, Trouble::Missing);
        for (content, message) in
            [("", "is empty"), (" \n", "is empty"), ("hot", "expected a number, found \"hot\""), ("nan", "expected a number")]
        {
            fs::write(&path, content).unwrap();
            let error = number(&path).unwrap_err();
            assert!(
                error.trouble == Trouble::Format && error.message.contains("in_temp_raw") && error.message.contains(message),
                "{error}"
            );
        }
        assert!(write(&tree.path().join("none"), "1").unwrap_err().message.contains("none"));
        assert!(!tree.path().join("none").exists());
    }
}
