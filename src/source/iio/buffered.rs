//! Whole scans from the kernel's buffer, through the character device.

use super::IioConfig;
use super::device::{self, Calibration, Device};
use super::sample_form::{SampleForm, layout};
use crate::source::lines::excerpt;
use crate::source::reader::{Fill, Reader};
use crate::source::stream::{Batch, Rows, Source, SourceError, Trouble};
use rustix::fs::OFlags;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Channel whose values are nanoseconds; the kernel puts it last whatever its index.
const TIMESTAMP: &str = "timestamp";

/// Sets the buffer up and switches it on; dropping the source switches it off.
pub fn open(config: &IioConfig, root: &Path) -> Result<Box<dyn Source>, SourceError> {
    let device = Device::find(root, &config.device)?;
    // Opened first: the kernel gives it to one process only, whose buffer must not be touched.
    let reader = Reader::open(&root.join("dev").join(&device.node), OFlags::RDONLY)?;
    let buffer = Buffer::of(&device);
    buffer.enable(false)?;
    buffer.select(&config.channels)?;
    if let Some(trigger) = &config.trigger {
        device::write(&device.dir.join("trigger/current_trigger"), trigger)?;
    }
    let rate = set_rate(config, &device, root)?;
    buffer.size(config, rate)?;
    let scan = Scan::of(&device, &buffer, &config.channels)?;
    buffer.enable(true)?;
    let shape = Rows { channels: scan.names(), rate };
    Ok(Box::new(Buffered { _on: Enabled(buffer), reader, scan, shape, row: Vec::new() }))
}

/// Where the buffer's attributes and those of its scan elements are.
struct Buffer {
    attributes: PathBuf,
    elements: PathBuf,
}

impl Buffer {
    /// Both are in `buffer0` since Linux 5.11, in `buffer` and `scan_elements` before.
    fn of(device: &Device) -> Buffer {
        let one = device.dir.join("buffer0");
        if one.is_dir() {
            return Buffer { attributes: one.clone(), elements: one };
        }
        Buffer { attributes: device.dir.join("buffer"), elements: device.dir.join("scan_elements") }
    }

    fn enable(&self, on: bool) -> Result<(), SourceError> {
        device::write(&self.attributes.join("enable"), if on { "1" } else { "0" })
    }

    /// Switches the wanted channels on and all others off.
    fn select(&self, channels: &[String]) -> Result<(), SourceError> {
        let entries = fs::read_dir(&self.elements).map_err(|e| SourceError::io(&self.elements, e))?;
        let mut found: Vec<String> = entries
            .flatten()
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("in_")?.strip_suffix("_en")?.to_string()))
            .collect();
        found.sort_unstable();
        if let Some(missing) = channels.iter().find(|c| !found.contains(c)) {
            let message = format!("no channel {missing:?}; found {}", found.join(", "));
            return Err(SourceError::format(&self.elements, message));
        }
        // Off before on: some devices cannot have all of them at once.
        found.sort_by_key(|name| channels.contains(name));
        found.iter().try_for_each(|name| {
            let value = if channels.contains(name) { "1" } else { "0" };
            device::write(&self.elements.join(format!("in_{name}_en")), value)
        })
    }

    fn size(&self, config: &IioConfig, rate: Option<f64>) -> Result<(), SourceError> {
        let (length, watermark) = sizes(config, rate);
        device::write(&self.attributes.join("length"), &length.to_string())?;
        let path = self.attributes.join("watermark");
        // Came with Linux 4.2; without it the kernel wakes us for every row.
        if path.exists() { device::write(&path, &watermark.to_string()) } else { Ok(()) }
    }
}

/// Length and watermark in rows: as configured, otherwise one second and a twentieth of one.
fn sizes(config: &IioConfig, rate: Option<f64>) -> (u32, u32) {
    let rate = rate.unwrap_or(0.0);
    let length = config.length.unwrap_or((rate.ceil() as u32).clamp(128, *super::LENGTH.end()));
    let watermark = config.watermark.unwrap_or((rate / 20.0) as u32).clamp(1, length);
    (length, watermark)
}

/// Sets the sampling frequency of the device, or of its trigger where the device has none, if one is configured; returns what
/// it is.
fn set_rate(config: &IioConfig, device: &Device, root: &Path) -> Result<Option<f64>, SourceError> {
    const ATTRIBUTE: &str = "sampling_frequency";
    let of_channel = config.channels.iter().find_map(|channel| device.shared(channel, ATTRIBUTE));
    let of_trigger = || {
        let name = device::read(&device.dir.join("trigger/current_trigger")).ok()?;
        Some(device::trigger(root, &name)?.join(ATTRIBUTE)).filter(|path| path.exists())
    };
    let path = of_channel.or_else(of_trigger);
    match (config.rate, path) {
        (None, path) => Ok(path.and_then(|path| device::number(&path).ok()).filter(|rate| *rate > 0.0)),
        (Some(_), None) => Err(SourceError::format(&device.dir, "has no sampling_frequency to set: leave `rate` out")),
        (Some(rate), Some(path)) => {
            device::write(&path, &rate.to_string()).map_err(|error| {
                let available = device.shared("", "sampling_frequency_available").and_then(|path| device::read(&path).ok());
                let hint = available.map_or(String::new(), |rates| format!("; available: {}", excerpt(&rates)));
                SourceError::new(error.trouble, format!("{error}{hint}"))
            })?;
            // The device may have chosen the nearest that it can do.
            Ok(Some(device::number(&path).unwrap_or(rate)))
        }
    }
}

/// One channel of a scan.
struct Element {
    name: String,
    form: SampleForm,
    offset: usize,
    calibration: Calibration,
}

/// How bytes of the device become a row.
struct Scan {
    /// In the order of the row.
    elements: Vec<Element>,
    /// Bytes of a scan.
    size: usize,
    /// The first timestamp, in nanoseconds.
    epoch: Option<i128>,
}

impl Scan {
    fn of(device: &Device, buffer: &Buffer, channels: &[String]) -> Result<Scan, SourceError> {
        let mut ordered = Vec::new();
        for (position, name) in channels.iter().enumerate() {
            let index = device::number(&buffer.elements.join(format!("in_{name}_index")))?;
            let calibration = if name == TIMESTAMP { Calibration { offset: 0.0, scale: 1.0 } } else { device.calibration(name)? };
            let element = Element { name: name.clone(), form: form(&buffer.elements, name)?, offset: 0, calibration };
            ordered.push((name == TIMESTAMP, index, position, element));
        }
        ordered.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let (offsets, size) = layout(ordered.iter().map(|(_, _, _, element)| &element.form));
        for ((_, _, _, element), offset) in ordered.iter_mut().zip(offsets) {
            element.offset = offset;
        }
        ordered.sort_by_key(|(_, _, position, _)| *position);
        Ok(Scan { elements: ordered.into_iter().map(|(_, _, _, element)| element).collect(), size, epoch: None })
    }

    /// One name per value: a channel with a repeat count gives `name[0]`, `name[1]`, ...
    fn names(&self) -> Vec<String> {
        let names = |e: &Element| match e.form.repeat {
            1 => vec![e.name.clone()],
            repeat => (0..repeat).map(|n| format!("{}[{n}]", e.name)).collect(),
        };
        self.elements.iter().flat_map(names).collect()
    }

    /// Decodes a scan of [`Scan::size`] bytes.
    fn decode(&mut self, scan: &[u8], row: &mut Vec<f32>) {
        for element in &self.elements {
            let bytes = scan.get(element.offset..).unwrap_or_default();
            if element.name == TIMESTAMP {
                let now = element.form.integer(bytes);
                let since = now - *self.epoch.get_or_insert(now);
                row.push((since as f64 * 1e-9) as f32);
                continue;
            }
            let numbers = bytes.chunks(element.form.number_size()).take(element.form.repeat);
            row.extend(numbers.map(|number| element.calibration.apply(element.form.value(number))));
        }
    }
}

/// The `_type` of a channel, or the one it shares with its kind.
fn form(elements: &Path, channel: &str) -> Result<SampleForm, SourceError> {
    let paths: Vec<PathBuf> = device::channel_names(channel).iter().map(|name| elements.join(format!("{name}_type"))).collect();
    let Some(path) = paths.iter().find(|path| path.exists()).or(paths.first()) else {
        return Err(SourceError::format(elements, format!("has no type of channel {channel:?}")));
    };
    device::read(path)?.parse().map_err(|e: String| SourceError::format(path, e))
}

/// Switches the buffer off when dropped.
struct Enabled(Buffer);

impl Drop for Enabled {
    fn drop(&mut self) {
        if let Err(error) = self.0.enable(false) {
            log::debug!("{error}");
        }
    }
}

struct Buffered {
    _on: Enabled,
    reader: Reader,
    scan: Scan,
    shape: Rows,
    row: Vec<f32>,
}

impl Source for Buffered {
    fn shape(&self) -> &Rows {
        &self.shape
    }

    fn read(&mut self, batch: &mut Batch, patience: Duration) -> Result<(), SourceError> {
        let outcome = self.reader.fill(patience)?;
        let size = self.scan.size;
        let mut used = 0;
        for scan in self.reader.bytes().chunks_exact(size) {
            self.row.clear();
            self.scan.decode(scan, &mut self.row);
            batch.push_row(&self.row);
            used += size;
        }
        self.reader.consume(used);
        if outcome == Fill::End {
            let message = format!("{}: the device gives no more data", self.reader.path().display());
            return Err(SourceError::new(Trouble::Gone, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_rate_unless_they_are_set() {
        let config = IioConfig::default();
        assert_eq!(sizes(&config, None), (128, 1));
        assert_eq!(sizes(&config, Some(3200.0)), (3200, 160));
        assert_eq!(sizes(&config, Some(1e12)), (1 << 20, 1 << 20));
        assert_eq!(sizes(&IioConfig { length: Some(16), watermark: Some(8), ..config.clone() }, Some(3200.0)), (16, 8));
        assert_eq!(sizes(&IioConfig { length: Some(16), ..config }, Some(3200.0)), (16, 16));
    }
}
