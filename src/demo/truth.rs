//! What the recording really holds, from the file beside it, so that the demo can tell right answers from wrong ones.

use serde::Deserialize;
use std::path::Path;

/// The borders of a recording's states.
#[derive(Debug, Deserialize)]
pub struct Truth {
    samples: usize,
    window: usize,
    hop: usize,
    segments: Vec<Segment>,
}

#[derive(Debug, Deserialize)]
struct Segment {
    first_sample: usize,
    end_sample: usize,
    label: String,
}

impl Truth {
    pub fn read(path: &Path) -> Result<Truth, String> {
        let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
        let truth: Truth = serde_json::from_str(&text).map_err(|e| wrong(&e))?;
        if truth.samples == 0 { Err(wrong(&"expected samples, found 0")) } else { Ok(truth) }
    }

    /// The label of window `sequence` of the recording in a loop; `None` where it lies across a border.
    pub fn label(&self, sequence: u64) -> Option<&str> {
        let start = usize::try_from(sequence).ok()?.checked_mul(self.hop)? % self.samples;
        let whole = |s: &&Segment| s.first_sample <= start && start + self.window <= s.end_sample;
        self.segments.iter().find(whole).map(|s| s.label.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_across_a_border_have_no_label() {
        let segment = |first_sample, end_sample, label: &str| Segment { first_sample, end_sample, label: label.into() };
        let truth = Truth { samples: 20, window: 4, hop: 2, segments: vec![segment(0, 10, "a"), segment(10, 20, "b")] };
        assert_eq!(truth.label(3), Some("a"));
        assert_eq!(truth.label(4), None);
        assert_eq!(truth.label(5), Some("b"));
        assert_eq!(truth.label(9), None);
        assert_eq!(truth.label(10), Some("a"));
    }
}
