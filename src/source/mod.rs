//! Sensors: each `[[source]]` of the configuration is one thread that opens a device or a recording, reads rows of numbers,
//! cuts them into windows and offers each window to the model it feeds.
//!
//! A source that is missing, breaks or is unplugged is opened again with growing delays and shown in its status; it never
//! stops or delays another. A new kind is one new file and one line in [`kinds!`] below.

mod backoff;
mod element;
pub mod iio;
mod lines;
mod npy;
mod reader;
pub mod record;
pub mod replay;
mod runner;
pub mod serial;
mod status;
pub mod stream;
mod window;

pub use backoff::Retry;
pub use runner::{Handle, Stop, start};
pub use status::{SourceStatus, State};

use crate::config::problems::Checker;
use crate::config::value::Span;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use stream::{Source, SourceError};

/// One `[[source]]`: what is read, how it is cut into windows, and which model gets them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceConfig {
    /// Name in status, results and logs. Required.
    pub name: String,
    /// Name of the model that is fed. Required.
    pub model: String,
    /// Rows per window; 1 or more. A recording that holds ready windows (an `.npy` of rank 3 or more) needs 1.
    #[serde(default = "one")]
    pub window: usize,
    /// Rows from the start of one window to the start of the next; 1 or more, default `window`. Less than `window` overlaps,
    /// more skips rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<usize>,
    /// A source that is open and gives no row for this long is opened again. Unset: it may be silent for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Delays between attempts to open it again.
    #[serde(default)]
    pub retry: Retry,
    /// `kind = "..."` and the keys of that kind.
    #[serde(flatten)]
    pub kind: Kind,
}

fn one() -> usize {
    1
}

impl SourceConfig {
    /// Keys that every kind has. The parser names only the kind's own ones when it refuses an unknown key.
    pub const KEYS: [&str; 7] = ["name", "model", "window", "hop", "timeout", "retry", "kind"];

    /// Rows from one window's start to the next one's.
    pub fn hop(&self) -> usize {
        self.hop.unwrap_or(self.window)
    }

    /// Takes the relative path of a recording from `folder`; device paths are absolute.
    pub fn resolve(&mut self, folder: &Path) {
        if let Kind::Replay(replay) = &mut self.kind
            && !replay.is_stdin()
        {
            replay.path = folder.join(&replay.path);
        }
    }

    /// Reports each problem by its key. That names are unique and models exist is checked where all of them are known.
    pub fn check(&self, at: &mut Checker) {
        at.expect(!self.name.is_empty(), "name", || "expected a name, found an empty one".into());
        at.expect(!self.model.is_empty(), "model", || "expected the name of a model, found an empty one".into());
        at.expect((1..=MAX_WINDOW).contains(&self.window), "window", || range_message(self.window));
        at.expect((1..=MAX_WINDOW).contains(&self.hop()), "hop", || range_message(self.hop()));
        let timeout_holds = self.timeout.is_none_or(|t| !t.0.is_zero());
        at.expect(timeout_holds, "timeout", || "expected a duration above 0; leave it out to wait for ever".into());
        self.retry.check(&mut at.below("retry"));
        self.kind.as_dyn().check(at);
    }

    /// Opens the source and closes it again, to tell whether it could be used. A device that another process reads is busy or
    /// loses what it had not read yet, so this is not for a source of a running daemon.
    pub fn probe(&self, root: &Path) -> Result<(), SourceError> {
        self.kind.as_dyn().open(root).map(drop)
    }
}

/// Rows in the largest window, and the largest hop.
const MAX_WINDOW: usize = 1 << 22;

fn range_message(found: usize) -> String {
    format!("expected 1 to {MAX_WINDOW} rows, found {found}")
}

/// What a kind of source brings: its own keys, their check, and how it is opened.
pub trait SourceKind {
    /// Reports problems of the kind's own keys, which lie in the same table as `name` and `window`.
    fn check(&self, at: &mut Checker);

    /// Opens the device or file, which may wait for hardware but never for data. Devices are taken below `root`, recordings not.
    fn open(&self, root: &Path) -> Result<Box<dyn Source>, SourceError>;
}

macro_rules! kinds {
    ($($name:literal => $variant:ident($config:ty)),* $(,)?) => {
        /// The kinds of source; `kind` in the TOML names one.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum Kind {
            $(#[serde(rename = $name)] $variant($config),)*
        }

        impl Kind {
            /// As written in the TOML.
            pub fn name(&self) -> &'static str {
                match self { $(Kind::$variant(_) => $name,)* }
            }

            pub(crate) fn as_dyn(&self) -> &dyn SourceKind {
                match self { $(Kind::$variant(config) => config,)* }
            }
        }
    };
}

kinds! {
    "iio" => Iio(iio::IioConfig),
    "serial" => Serial(serial::SerialConfig),
    "replay" => Replay(replay::ReplayConfig),
}

/// One window of one source.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Name of the source.
    pub source: Arc<str>,
    /// 0 for the source's first window and one more for each following one, also for those that the sink dropped.
    pub sequence: u64,
    /// `float32 [window, channels]`, also where the window is 1; a ready window of a recording keeps its own shape and type.
    pub data: Tensor,
    /// When its last row arrived.
    pub taken: Instant,
}

/// What became of an offered sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    Accepted,
    Dropped,
}

/// Takes the windows of one source, on the source's own thread. Must return at once: a full queue drops.
pub trait Sink: Send {
    fn offer(&self, sample: Sample) -> Offered;
}

impl<F: Fn(Sample) -> Offered + Send> Sink for F {
    fn offer(&self, sample: Sample) -> Offered {
        self(sample)
    }
}

/// `path` below `root` when it is absolute; as it is when relative.
pub(crate) fn below(root: &Path, path: &Path) -> std::path::PathBuf {
    match path.strip_prefix("/") {
        Ok(relative) => root.join(relative),
        Err(_) => path.to_path_buf(),
    }
}
