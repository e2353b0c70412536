//! Two convolutions as one step: some rows of the first into the thread's scratch, the same rows of the second from there.

use super::step::{InPlace, READS, Step};
use crate::kernels::{Border, Conv, Layout, SLACK, store};
use std::ops::Range;

/// A convolution, and a pointwise one that reads its result row by row.
pub struct FusedStep {
    pub first: Conv,
    /// Prepared for a part of the rows: see [`FusedStep::part`].
    pub second: InPlace<Conv>,
    /// Placement of the first one's result, were it a tensor of its own: dense, without a border.
    pub between: Layout,
    pub output: Layout,
    /// Placement of the second one's residual.
    pub residual: Option<Layout>,
    /// Rows that are done at once.
    pub rows: usize,
    /// Zero point of the output, for its border.
    pub zero: i8,
}

/// Bytes between the two that stay in the nearest cache of a small board beside what else the loops touch (L1: 32 KiB and more).
const BETWEEN: usize = 24 << 10;

/// Depthwise loops do four rows together.
const TOGETHER: usize = 4;

impl FusedStep {
    /// How many rows of `between` are done at once.
    pub fn rows_at_once(between: &Layout) -> usize {
        let rows = BETWEEN / between.row_stride().max(1);
        (rows / TOGETHER * TOGETHER).max(TOGETHER).min(between.height)
    }

    /// Some rows of a tensor as a tensor of their own, one row higher than any part, so that its end is never reached: no border
    /// above and below, no slack behind.
    pub fn part(layout: &Layout, rows: usize) -> Layout {
        Layout { height: rows + 1, border: Border { top: 0, bottom: 0, ..layout.border }, ..*layout }
    }

    fn between_bytes(&self) -> usize {
        (self.rows + 1) * self.between.row_stride() + SLACK
    }
}

/// Byte of the first border pixel of a row.
fn row(layout: &Layout, y: usize) -> usize {
    (layout.border.top + y) * layout.row_stride()
}

impl Step for FusedStep {
    fn describe(&self) -> String {
        format!("{}, rows into {}", self.first.describe(), self.second.kernel.describe())
    }

    fn parts(&self) -> usize {
        self.output.height
    }

    fn owned(&self, parts: Range<usize>) -> Range<usize> {
        self.output.rows(parts)
    }

    fn macs(&self) -> u64 {
        let pixels = (self.between.height * self.between.width) as u64;
        let part = ((self.rows + 1) * self.between.width) as u64;
        self.first.macs() + self.second.kernel.macs() / part * pixels
    }

    fn weight_bytes(&self) -> usize {
        self.first.weight_bytes() + self.second.kernel.weight_bytes()
    }

    fn scratch_bytes(&self) -> usize {
        self.between_bytes() + self.first.scratch_bytes().max(self.second.kernel.scratch_bytes())
    }

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, scratch: &mut [u8]) {
        let (between, scratch) = scratch.split_at_mut(self.between_bytes());
        let base = self.output.rows(rows.clone()).start;
        for start in rows.clone().step_by(self.rows) {
            let chunk = start..(start + self.rows).min(rows.end);
            let made = self.between.rows(chunk.clone()).len();
            self.first.run(inputs[0], &mut between[..made], chunk.clone(), None, scratch);
            let at = row(&self.output, start) - base;
            let target = &mut output[at..at + chunk.len() * self.output.row_stride()];
            let residual = match &self.residual {
                Some(layout) if !self.second.in_place => Some(&inputs[1][row(layout, start)..]),
                _ => None,
            };
            self.second.kernel.run(between, target, 0..chunk.len(), residual, scratch);
        }
        self.output.fill_border(rows, output, store(self.zero));
    }
}
