//! Recordings and pipes as a source: CSV, JSON lines, NPY or raw numbers from a file or standard input, at the pace at which
//! they were recorded, at a fixed rate, or as fast as they can be read. Files are streamed.

mod binary;
mod clock;
mod text;

use super::SourceKind;
use super::element::Element;
use super::lines::LineFormat;
use super::reader::{Fill, Reader};
use super::stream::{Batch, Rows, Source, SourceError};
use crate::config::problems::Checker;
use crate::tensor::Tensor;
use binary::Binary;
use clock::Clock;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use text::Text;

/// Keys of `kind = "replay"`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// The recording: a file or FIFO, or `-` for standard input. Required.
    pub path: PathBuf,
    /// Unset: by the file's extension (`.csv` `.txt`; `.json` `.jsonl` `.ndjson`; `.npy`; `.raw` `.bin`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Names of the values of a row. CSV with a header: the columns to take, all but `t` if empty. JSON objects: the members
    /// to take. CSV without a header, JSON arrays, NPY: if given, as many as there are columns. Raw: required, one per value.
    pub channels: Vec<String>,
    /// Type of the numbers of a raw recording, little-endian; required there and only allowed there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Element>,
    /// Default `"recorded"`.
    pub pace: Pace,
    /// Rows (or ready windows) per second, above 0. Needed by `pace = "fixed"`, and by `"recorded"` where there is no time
    /// column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Start again at the end of the file. Default false.
    #[serde(rename = "loop")]
    pub repeat: bool,
}

/// What a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lines of numbers, with or without a header. A column `t` holds seconds.
    Csv,
    /// One JSON array or object per line. A member `t` of an object holds seconds.
    Json,
    /// An array `[rows, channels]` or `[rows]`; of rank 3 or more, each index along axis 0 is one ready window, which keeps
    /// its shape and, where tensors have it, its type.
    Npy,
    /// Numbers of type `dtype`, row after row.
    Raw,
}

/// How fast a recording is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// By its time column, otherwise by `rate`.
    #[default]
    Recorded,
    /// By `rate`.
    Fixed,
    /// Without waiting. Windows that the queue has no room for are dropped.
    AsFastAsPossible,
}

impl ReplayConfig {
    pub(super) fn is_stdin(&self) -> bool {
        self.path.as_os_str() == "-"
    }

    fn format(&self) -> Option<Format> {
        self.format.or_else(|| match self.path.extension()?.to_str()? {
            "csv" | "txt" => Some(Format::Csv),
            "json" | "jsonl" | "ndjson" => Some(Format::Json),
            "npy" => Some(Format::Npy),
            "raw" | "bin" => Some(Format::Raw),
            _ => None,
        })
    }

    fn decoder(&self) -> Option<Box<dyn Decoder>> {
        Some(match self.format()? {
            Format::Csv => Box::new(Text::new(LineFormat::Csv, self.channels.clone())),
            Format::Json => Box::new(Text::new(LineFormat::Json, self.channels.clone())),
            Format::Npy => Box::new(Binary::npy(self.channels.clone())),
            Format::Raw => Box::new(Binary::raw(self.dtype?, self.channels.clone())),
        })
    }
}

impl SourceKind for ReplayConfig {
    fn check(&self, at: &mut Checker) {
        at.expect(!self.path.as_os_str().is_empty(), "path", || "expected a file, or \"-\" for standard input".into());
        let format = self.format();
        at.expect(format.is_some(), "format", || "the extension of `path` names none: expected csv, json, npy or raw".into());
        at.expect(!(self.repeat && self.is_stdin()), "loop", || "standard input cannot be read twice".into());
        at.expect(self.rate.is_none_or(positive), "rate", || format!("expected rows per second above 0, found {:?}", self.rate));
        at.expect(self.pace != Pace::Fixed || self.rate.is_some(), "rate", || "is needed by pace = \"fixed\"".into());
        let raw = format == Some(Format::Raw);
        at.expect(raw == self.dtype.is_some(), "dtype", || "is needed for a raw recording, and only there".into());
        at.expect(!raw || !self.channels.is_empty(), "channels", || "a raw recording needs the names of its channels".into());
        check_channels(&self.channels, at);
    }

    fn open(&self, _root: &Path) -> Result<Box<dyn Source>, SourceError> {
        let mut reader = if self.is_stdin() { Reader::stdin()? } else { Reader::open(&self.path, OFlags::RDONLY)? };
        if self.repeat {
            // A pipe refuses here what it would refuse at its end.
            reader.rewind()?;
        }
        let decoder = self.decoder().ok_or_else(|| SourceError::format(reader.path(), "set `format`, and `dtype` for a raw recording"))?;
        let clock = Clock::new(self.pace, self.rate);
        let shape = Rows { channels: Vec::new(), rate: self.rate };
        let (held, row, window) = (None, Vec::new(), None);
        Ok(Box::new(Replay { reader, decoder, clock, repeat: self.repeat, shape, held, row, window, ended: false, items: 0 }))
    }
}

fn positive(rate: f64) -> bool {
    rate.is_finite() && rate > 0.0
}

/// Reports channels that are named twice or not at all.
pub(crate) fn check_channels(channels: &[String], at: &mut Checker) {
    for (index, name) in channels.iter().enumerate() {
        let twice = channels[..index].contains(name);
        at.expect(!twice && !name.is_empty(), &format!("channels[{index}]"), || format!("expected each channel once, found {name:?}"));
    }
}

/// One item of a recording.
#[derive(Debug, PartialEq)]
enum Item {
    /// A row, which the decoder has put into its argument, and its time in seconds where the recording has one.
    Row(Option<f64>),
    Window(Tensor),
    Malformed(String),
}

/// What stands at the start of some bytes.
enum Decoded {
    /// An item, or bytes without one (a header, an empty line), and how many bytes it took, 1 or more.
    Item(Option<Item>, usize),
    /// More bytes are needed; this many are used up already.
    NeedMore(usize),
    /// The recording is over, whatever follows.
    End,
}

/// Turns bytes into items, one at a time.
trait Decoder: Send {
    /// Decodes what stands at the start of `bytes`; a row's values go to `row`, which is empty. With `last` no more bytes
    /// come. An error is one of the whole recording.
    fn decode(&mut self, bytes: &[u8], last: bool, row: &mut Vec<f32>) -> Result<Decoded, String>;

    /// Names of the values of a row, known once a row was decoded; empty for ready windows.
    fn channels(&self) -> &[String];

    /// The recording starts again.
    fn rewind(&mut self);
}

struct Replay {
    reader: Reader,
    decoder: Box<dyn Decoder>,
    clock: Clock,
    repeat: bool,
    shape: Rows,
    /// The next item, which waits until it is due; its values are in `row` or in `window`.
    held: Option<Due>,
    row: Vec<f32>,
    window: Option<Tensor>,
    /// Nothing more will come from the reader.
    ended: bool,
    /// Items since the start of the file.
    items: u64,
}

/// When an item is due; `None` is at once.
type Due = Option<Instant>;

/// Values that one read returns at most, so that fast replay stays bounded.
const MAX_VALUES: usize = 1 << 14;
/// Rows that fall due within this time are waited for together.
const GRAIN: Duration = Duration::from_millis(5);

impl Source for Replay {
    fn shape(&self) -> &Rows {
        &self.shape
    }

    fn read(&mut self, batch: &mut Batch, patience: Duration) -> Result<(), SourceError> {
        let deadline = Instant::now() + patience;
        while batch.rows.len() < MAX_VALUES {
            let Some(due) = self.held else {
                if self.advance(batch, deadline)? {
                    continue;
                }
                return Ok(());
            };
            let wait = due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
            if wait.is_zero() {
                self.release(batch);
                if !batch.windows.is_empty() {
                    return Ok(());
                }
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !batch.is_empty() || left.is_zero() {
                return Ok(());
            }
            thread::sleep(wait.max(GRAIN).min(left));
        }
        Ok(())
    }
}

impl Replay {
    /// Holds the next item. False if none came before the deadline.
    fn advance(&mut self, batch: &mut Batch, deadline: Instant) -> Result<bool, SourceError> {
        loop {
            self.row.clear();
            let decoded = self.decoder.decode(self.reader.bytes(), self.ended, &mut self.row);
            let left = deadline.saturating_duration_since(Instant::now());
            match decoded.map_err(|e| SourceError::format(self.reader.path(), e))? {
                Decoded::Item(item, used) => {
                    self.reader.consume(used);
                    if self.hold(item, batch)? {
                        return Ok(true);
                    }
                }
                Decoded::NeedMore(used) if !self.ended => {
                    self.reader.consume(used);
                    // What came is not held back for what may come.
                    match self.reader.fill(if batch.is_empty() { left } else { Duration::ZERO })? {
                        Fill::More => {}
                        Fill::Nothing => return Ok(false),
                        Fill::End => self.ended = true,
                    }
                }
                Decoded::NeedMore(_) | Decoded::End => self.start_again()?,
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    fn hold(&mut self, item: Option<Item>, batch: &mut Batch) -> Result<bool, SourceError> {
        let time = match item {
            None => return Ok(false),
            Some(Item::Malformed(complaint)) => {
                batch.reject(format!("{}: {complaint}", self.reader.path().display()));
                return Ok(false);
            }
            Some(Item::Window(window)) => {
                self.window = Some(window);
                None
            }
            Some(Item::Row(time)) => time,
        };
        let due = self.clock.due(time, Instant::now()).map_err(|e| SourceError::format(self.reader.path(), e))?;
        if self.shape.channels != self.decoder.channels() {
            self.shape.channels = self.decoder.channels().to_vec();
        }
        self.items += 1;
        self.held = Some(due);
        Ok(true)
    }

    fn release(&mut self, batch: &mut Batch) {
        self.held = None;
        match self.window.take() {
            Some(window) => batch.push_window(window),
            None => batch.push_row(&self.row),
        }
    }

    fn start_again(&mut self) -> Result<(), SourceError> {
        if !self.repeat {
            return Err(SourceError::end());
        }
        if self.items == 0 {
            return Err(SourceError::format(self.reader.path(), "holds no rows to repeat"));
        }
        self.items = 0;
        self.ended = false;
        self.reader.rewind()?;
        self.decoder.rewind();
        self.clock.start_again();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
