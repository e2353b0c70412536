//! Weights as the model has them, before any kernel packs them.

use super::Error;
use super::conv::equal;

/// Int8 weights and their zero points.
#[derive(Clone, Copy, Debug, Default)]
pub struct Int8Weights<'a> {
    /// In the order that the operator states.
    pub values: &'a [i8],
    /// One, or one an output channel; none where all are 0.
    pub zeros: &'a [i8],
}

impl Int8Weights<'_> {
    /// Fails unless there are weights for a tensor of `shape`, and zero points for `channels` output channels.
    pub(crate) fn check(&self, shape: &[usize], channels: usize) -> Result<(), Error> {
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
        equal("weights", count, self.values.len())?;
        if self.zeros.len() > 1 { equal("zero points of the weights", channels, self.zeros.len()) } else { Ok(()) }
    }

    /// Zero point of an output channel's weights.
    pub(crate) fn zero(&self, channel: usize) -> i16 {
        if self.zeros.is_empty() { 0 } else { i16::from(self.zeros[channel % self.zeros.len()]) }
    }

    /// Weight `index`, of output channel `channel`, less its zero point: -255..=255.
    pub(crate) fn less_zero(&self, index: usize, channel: usize) -> i16 {
        i16::from(self.values[index]) - self.zero(channel)
    }
}
