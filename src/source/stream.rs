//! The contract of an open source.

use crate::tensor::Tensor;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Longest time that one call of [`Source::read`] may wait, so that a source stops promptly.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// An open device or recording. Dropping it closes it and undoes what opening it has set up.
pub trait Source: Send {
    /// What its rows are. Known from the first read that gives something, and the same from then on.
    fn shape(&self) -> &Rows;

    /// Adds what has arrived to `batch`, waiting at most `patience` for it; nothing is no error.
    /// After an error the source is dropped.
    fn read(&mut self, batch: &mut Batch, patience: Duration) -> Result<(), SourceError>;
}

/// Describes the rows of an open source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// One name per value of a row. Empty for a recording of ready windows.
    pub channels: Vec<String>,
    /// Rows per second, where it is known.
    pub rate: Option<f64>,
}

/// What a read adds to; the caller clears it, so that its memory serves again.
#[derive(Debug, Default)]
pub struct Batch {
    /// Whole rows, row-major: `[n, channels]`.
    pub rows: Vec<f32>,
    /// Ready windows. A source gives either these or rows.
    pub windows: Vec<Tensor>,
    /// Lines or rows that were skipped because they hold something else than finite numbers.
    pub malformed: u64,
    /// The last of them, and what is wrong with it.
    pub complaint: Option<String>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.windows.is_empty()
    }

    pub fn clear(&mut self) {
        self.rows.clear();
        self.windows.clear();
        self.malformed = 0;
        self.complaint = None;
    }

    /// Counts one malformed line or row.
    pub fn reject(&mut self, complaint: impl Into<String>) {
        self.malformed += 1;
        self.complaint = Some(complaint.into());
    }

    /// Adds a row if every value of it is finite, otherwise counts it as malformed.
    pub fn push_row(&mut self, row: &[f32]) {
        match row.iter().position(|v| !v.is_finite()) {
            None => self.rows.extend_from_slice(row),
            Some(column) => self.reject(format!("value {column} of a row is not a finite number")),
        }
    }

    /// Adds a ready window if every value of it is finite, otherwise counts it as malformed.
    pub fn push_window(&mut self, window: Tensor) {
        if window.dtype().is_float() && window.to_f32().iter().any(|v| !v.is_finite()) {
            self.reject("a window holds a value that is not a finite number");
        } else {
            self.windows.push(window);
        }
    }
}

/// Why a source cannot be opened or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The device or file is not there.
    Missing,
    /// It is there, but this user may not use it.
    Permission,
    /// It holds something else than what was expected.
    Format,
    /// It was there and went away, or its driver failed.
    Gone,
    /// It gave nothing for longer than `timeout`.
    Silent,
    /// The recording is over. The only one that is no failure: the source is not opened again.
    End,
}

/// A [`Trouble`] and a sentence that names the file, what was expected and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    pub trouble: Trouble,
    pub message: String,
}

impl SourceError {
    pub fn new(trouble: Trouble, message: impl Into<String>) -> SourceError {
        SourceError { trouble, message: message.into() }
    }

    pub fn format(path: &Path, message: impl fmt::Display) -> SourceError {
        SourceError::new(Trouble::Format, format!("{}: {message}", path.display()))
    }

    pub fn end() -> SourceError {
        SourceError::new(Trouble::End, "the recording is over")
    }

    /// Sorts an I/O error on `path`.
    pub fn io(path: &Path, error: impl Into<io::Error>) -> SourceError {
        let error = error.into();
        let trouble = match error.kind() {
            io::ErrorKind::NotFound => Trouble::Missing,
            io::ErrorKind::PermissionDenied => Trouble::Permission,
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::IsADirectory => Trouble::Format,
            _ => Trouble::Gone,
        };
        SourceError::new(trouble, format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SourceError {}
