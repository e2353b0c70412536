//! Pre-processing and post-processing steps around the engine. Pure, but for the reading of a labels file.

pub mod labels;
pub mod post;
pub mod pre;

pub use labels::Labels;
pub use post::{AlarmStates, Answer, Post, PostStep};
pub use pre::{Pre, PreStep};

use crate::config::problems::Problem;

/// What is wrong with one step: the step's own key and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    pub key: &'static str,
    pub message: String,
}

impl Flaw {
    fn new(key: &'static str, message: impl Into<String>) -> Flaw {
        Flaw { key, message: message.into() }
    }

    /// The problem of step `index` in `list` (`pre` or `post`), keyed for example `pre[1].mean`.
    fn at(self, list: &str, index: usize) -> Problem {
        let dot = if self.key.is_empty() { "" } else { "." };
        Problem { key: format!("{list}[{index}]{dot}{}", self.key), line: None, message: self.message }
    }
}

/// A number of the configuration that must be finite.
fn finite(key: &'static str, value: f64) -> Result<(), Flaw> {
    if value.is_finite() { Ok(()) } else { Err(Flaw::new(key, format!("expected a finite number, found {value}"))) }
}
