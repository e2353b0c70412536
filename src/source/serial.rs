//! Lines of numbers from a serial port.

use super::lines::{self, Cut, LineFormat, Lines, MAX_LINE};
use super::reader::{Fill, Reader};
use super::replay::check_channels;
use super::stream::{Batch, Rows, Source, SourceError, Trouble};
use super::{SourceKind, below};
use crate::config::problems::Checker;
use rustix::fs::OFlags;
use rustix::termios::{ControlModes, OptionalActions, QueueSelector, tcflush, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Keys of `kind = "serial"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SerialConfig {
    /// The terminal, best by its stable name below `/dev/serial/by-id/`. Required.
    pub device: PathBuf,
    /// Bits per second, 50 to 4000000; default 115200. Always 8 data bits, no parity, 1 stop bit, no flow control.
    pub baud: u32,
    /// Default `"csv"`. The first line after opening is skipped: it may be the rest of one.
    pub format: LineFormat,
    /// One name per number of a line, in their order; JSON objects: the members to take. Required.
    pub channels: Vec<String>,
    /// Lines per second where it is known: only a recorder needs it, to write even times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
}

impl Default for SerialConfig {
    fn default() -> SerialConfig {
        SerialConfig { device: PathBuf::new(), baud: 115_200, format: LineFormat::Csv, channels: Vec::new(), rate: None }
    }
}

impl SourceKind for SerialConfig {
    fn check(&self, at: &mut Checker) {
        at.expect(!self.device.as_os_str().is_empty(), "device", || "expected a terminal such as /dev/ttyUSB0".into());
        let baud_holds = (50..=4_000_000).contains(&self.baud);
        at.expect(baud_holds, "baud", || format!("expected 50 to 4000000 bits per second, found {}", self.baud));
        at.expect(!self.channels.is_empty(), "channels", || "expected one name per number of a line".into());
        at.expect(self.rate.is_none_or(|r| r.is_finite() && r > 0.0), "rate", || format!("expected above 0, found {:?}", self.rate));
        check_channels(&self.channels, at);
    }

    fn open(&self, root: &Path) -> Result<Box<dyn Source>, SourceError> {
        let reader = Reader::open(&below(root, &self.device), OFlags::RDONLY)?;
        configure(&reader, self.baud)?;
        let shape = Rows { channels: self.channels.clone(), rate: self.rate };
        Ok(Box::new(Serial { reader, lines: Lines::default(), format: self.format, shape, begun: false, row: Vec::new() }))
    }
}

/// Raw mode, 8N1, no flow control, modem lines ignored, at `baud`; what came before is thrown away.
fn configure(reader: &Reader, baud: u32) -> Result<(), SourceError> {
    let failed = |what: String| move |e: rustix::io::Errno| SourceError::format(reader.path(), format!("{what}: {e}"));
    let mut settings = tcgetattr(reader.fd()).map_err(failed("is no terminal".into()))?;
    settings.make_raw();
    settings.control_modes -= ControlModes::PARENB | ControlModes::CSTOPB | ControlModes::CRTSCTS | ControlModes::CSIZE;
    settings.control_modes |= ControlModes::CS8 | ControlModes::CLOCAL | ControlModes::CREAD;
    settings.set_speed(baud).map_err(failed(format!("baud {baud}")))?;
    tcsetattr(reader.fd(), OptionalActions::Now, &settings).map_err(failed(format!("setting {baud} 8N1")))?;
    tcflush(reader.fd(), QueueSelector::IFlush).map_err(failed("throwing old input away".into()))
}

struct Serial {
    reader: Reader,
    lines: Lines,
    format: LineFormat,
    shape: Rows,
    /// A line end has been seen: what comes before the first may be the rest of a line, and a number without its first digits.
    begun: bool,
    row: Vec<f32>,
}

impl Serial {
    fn line(&mut self, used: usize, length: usize, batch: &mut Batch) {
        let text = lines::text(&self.reader.bytes()[..length]);
        let parsed = text.map(|text| text.and_then(|t| lines::parse(t, self.format, &self.shape.channels, &mut self.row)));
        self.reader.consume(used);
        match parsed {
            None => {}
            Some(Ok(())) => batch.push_row(&self.row),
            Some(Err(complaint)) => batch.reject(complaint),
        }
    }
}

impl Source for Serial {
    fn shape(&self) -> &Rows {
        &self.shape
    }

    fn read(&mut self, batch: &mut Batch, patience: Duration) -> Result<(), SourceError> {
        if self.reader.fill(patience)? == Fill::End {
            return Err(SourceError::new(Trouble::Gone, format!("{}: the device hung up", self.reader.path().display())));
        }
        loop {
            self.row.clear();
            match self.lines.cut(self.reader.bytes(), false) {
                Cut::Incomplete(used) => {
                    self.reader.consume(used);
                    return Ok(());
                }
                Cut::TooLong(used) | Cut::Line(_, used) if !self.begun => {
                    self.begun = true;
                    self.reader.consume(used);
                }
                Cut::TooLong(used) => {
                    self.reader.consume(used);
                    batch.reject(format!("a line is longer than {MAX_LINE} bytes"));
                }
                Cut::Line(line, used) => {
                    let length = line.len();
                    self.line(used, length, batch);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::stream::PATIENCE;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::os::fd::OwnedFd;

    fn pty() -> (OwnedFd, PathBuf) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        (master, name.into())
    }

    fn config(device: PathBuf) -> SerialConfig {
        SerialConfig { device, channels: vec!["x".into(), "y".into()], ..SerialConfig::default() }
    }

    fn send(master: &OwnedFd, text: &str) {
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            let sent = rustix::io::write(master, bytes).unwrap();
            bytes = &bytes[sent..];
        }
    }

    /// Reads until `values` numbers have come.
    fn read(source: &mut dyn Source, values: usize) -> Batch {
        let mut batch = Batch::default();
        for _ in 0..100 {
            if batch.rows.len() >= values {
                break;
            }
            source.read(&mut batch, PATIENCE).unwrap();
        }
        batch
    }

    #[test]
    fn lines_after_the_first_line_end_are_read_and_bad_ones_counted() {
        let (master, device) = pty();
        let mut source = config(device).open(Path::new("/")).unwrap();
        send(&master, "23,4\n1,2\nnan,1\nhello\n\n1,2,3\n3,");
        let batch = read(source.as_mut(), 2);
        assert_eq!((batch.rows, batch.malformed), (vec![1.0, 2.0], 3));
        send(&master, "4\r\n5,6\n");
        assert_eq!(read(source.as_mut(), 4).rows, [3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn json_objects_are_read_by_member() {
        let (master, device) = pty();
        let config = SerialConfig { format: LineFormat::Json, ..config(device) };
        let mut source = config.open(Path::new("/")).unwrap();
        send(&master, "\n{\"y\":2,\"x\":1}\n{\"x\":1}\n[3,4]\n");
        let batch = read(source.as_mut(), 4);
        assert_eq!((batch.rows, batch.malformed), (vec![1.0, 2.0, 3.0, 4.0], 1));
    }

    #[test]
    fn every_usual_speed_is_set() {
        let (_master, device) = pty();
        for baud in [9600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 921_600] {
            let config = SerialConfig { baud, ..config(device.clone()) };
            config.open(Path::new("/")).unwrap();
            let reader = Reader::open(&device, OFlags::RDONLY).unwrap();
            assert_eq!(tcgetattr(reader.fd()).unwrap().input_speed(), baud);
        }
    }

    #[test]
    fn an_unplugged_device_is_gone_and_what_is_no_terminal_is_refused() {
        let (master, device) = pty();
        let mut source = config(device.clone()).open(Path::new("/")).unwrap();
        drop(master);
        let mut batch = Batch::default();
        assert_eq!(source.read(&mut batch, PATIENCE).unwrap_err().trouble, Trouble::Gone);
        let missing = config(device).open(Path::new("/")).err().unwrap();
        assert!(matches!(missing.trouble, Trouble::Missing | Trouble::Gone), "{missing}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = config(file.path().into()).open(Path::new("/")).err().unwrap();
        assert!(error.trouble == Trouble::Format && error.message.contains("no terminal"), "{error}");
    }

    #[test]
    fn the_configuration_is_checked_by_key() {
        let mut found = Vec::new();
        SerialConfig { baud: 7, rate: Some(0.0), ..SerialConfig::default() }.check(&mut Checker::new(&mut found));
        assert_eq!(found.into_iter().map(|p| p.key).collect::<Vec<_>>(), ["device", "baud", "channels", "rate"]);
    }
}
