//! Convolutions as one step: some rows of one into the thread's scratch, the same rows of the next from there.

use super::step::{InPlace, READS, Step};
use crate::kernels::{Border, Conv, Layout, SLACK, store};
use std::ops::Range;

/// A convolution, and a pointwise one that reads its result row by row; before them one that makes the rows they need, or none.
pub struct FusedStep {
    pub before: Option<Before>,
    /// With [`FusedStep::before`] prepared for a window of it, else for the whole input.
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

/// A convolution whose result exists as a window of rows, which moves down with the work.
pub struct Before {
    pub conv: Conv,
    /// Placement of its result, were it whole: without a border above and below.
    pub layout: Layout,
    /// Rows of padding above the first one.
    pub pad: usize,
    /// Rows that one row of the next convolution needs, and from one to the next.
    pub extent: usize,
    pub stride: usize,
    /// What padding holds.
    pub zero: i8,
}

impl Before {
    /// Rows that `count` rows of the next convolution need.
    pub const fn window(&self, count: usize) -> usize {
        (count - 1) * self.stride + self.extent
    }

    /// Makes the window hold the padded rows `need`. `have` are those that it holds, not beyond `need`'s start.
    fn fill(&self, input: &[u8], window: &mut [u8], have: Range<usize>, need: Range<usize>, scratch: &mut [u8]) {
        let pitch = self.layout.row_stride();
        let kept = have.end.saturating_sub(need.start);
        if kept > 0 {
            let from = (need.start - have.start) * pitch;
            window.copy_within(from..from + kept * pitch, 0);
        }
        let end = self.pad + self.layout.height;
        let first = (need.start + kept).clamp(self.pad, end);
        let last = need.end.clamp(first, end);
        let at = |row: usize| (row - need.start) * pitch;
        if first < last {
            let rows = first - self.pad..last - self.pad;
            let bytes = self.layout.rows(rows.clone()).len();
            self.conv.run(input, &mut window[at(first)..at(first) + bytes], rows, None, scratch);
        }
        let padding = [need.start + kept..first.min(need.end), last.max(need.start + kept)..need.end];
        padding.into_iter().filter(|rows| !rows.is_empty()).for_each(|rows| window[at(rows.start)..at(rows.end)].fill(store(self.zero)));
    }
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

    fn window_bytes(&self) -> usize {
        self.before.as_ref().map_or(0, |before| before.window(self.rows + 1) * before.layout.row_stride() + SLACK)
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
        let before = self.before.as_ref().map_or_else(String::new, |before| format!("{}, rows into ", before.conv.describe()));
        format!("{before}{}, rows into {}", self.first.describe(), self.second.kernel.describe())
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
        let whole = |conv: &Conv| conv.macs() / part * pixels;
        let before = self.before.as_ref().map_or(0, |before| before.conv.macs());
        before + if self.before.is_some() { whole(&self.first) } else { self.first.macs() } + whole(&self.second.kernel)
    }

    fn weight_bytes(&self) -> usize {
        let before = self.before.as_ref().map_or(0, |before| before.conv.weight_bytes());
        before + self.first.weight_bytes() + self.second.kernel.weight_bytes()
    }

    fn scratch_bytes(&self) -> usize {
        let before = self.before.as_ref().map_or(0, |before| before.conv.scratch_bytes());
        self.window_bytes() + self.between_bytes() + self.first.scratch_bytes().max(self.second.kernel.scratch_bytes()).max(before)
    }

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, scratch: &mut [u8]) {
        let (window, scratch) = scratch.split_at_mut(self.window_bytes());
        let (between, scratch) = scratch.split_at_mut(self.between_bytes());
        let mut have = 0..0;
        let base = self.output.rows(rows.clone()).start;
        for start in rows.clone().step_by(self.rows) {
            let chunk = start..(start + self.rows).min(rows.end);
            match &self.before {
                Some(before) => {
                    let need = start * before.stride..start * before.stride + before.window(chunk.len());
                    before.fill(inputs[0], window, std::mem::replace(&mut have, need.clone()), need, scratch);
                    let made = chunk.len() * self.between.row_stride();
                    self.first.run(window, &mut between[..made], 0..chunk.len(), None, scratch);
                }
                None => {
                    let made = self.between.rows(chunk.clone()).len();
                    self.first.run(inputs[0], &mut between[..made], chunk.clone(), None, scratch);
                }
            }
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
