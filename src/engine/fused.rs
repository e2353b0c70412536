//! Convolutions, or a convolution and a pool, as one step: of what lies between them only some rows exist, in the thread's scratch.

use super::step::{InPlace, Pieces, READS, Step};
use crate::kernels::{Conv, Layout, Pool, SLACK, store};
use std::ops::Range;

/// Operators one after the other, each of which alone reads the result of the one before.
pub struct FusedStep {
    /// All but the last, at most [`MAKERS`].
    pub makers: Vec<Maker>,
    pub last: Last,
    pub output: Layout,
    /// Placement of what the last one adds to its result.
    pub residual: Option<Layout>,
    /// Rows of the output that are done at once.
    pub rows: usize,
    /// Zero point of the output, for its border.
    pub zero: i8,
}

/// Most operators before the last one.
pub const MAKERS: usize = 15;

/// A convolution whose result exists as a window of rows, which moves down with the work. The first one is prepared for the whole
/// input and result, others for [`Maker::part`] of what they read and make.
pub struct Maker {
    pub conv: Conv,
    /// Placement of its result, were it whole: without a border above and below.
    pub layout: Layout,
    /// Rows of padding above the first one.
    pub pad: usize,
    /// Rows that one row of the reader needs, and from one to the next.
    pub extent: usize,
    pub stride: usize,
    /// What padding holds.
    pub zero: i8,
    /// Most rows that the window holds.
    pub height: usize,
}

/// What the rows become in the end; prepared for [`Maker::part`] of both.
pub enum Last {
    Conv(InPlace<Conv>),
    Pool(Pool),
}

impl Maker {
    /// Rows of the result that `rows` of the reader need, counted from the first row of padding.
    fn need(&self, rows: Range<usize>) -> Range<usize> {
        rows.start * self.stride..(rows.end - 1) * self.stride + self.extent
    }

    /// Some rows of a tensor as a tensor of their own, whose end no work reaches: no border above and below, no slack behind.
    pub fn part(layout: &Layout, height: usize) -> Layout {
        let border = crate::kernels::Border { top: 0, bottom: 0, ..layout.border };
        Layout { height, border, ..*layout }
    }

    fn window_bytes(&self) -> usize {
        self.height * self.layout.row_stride() + SLACK
    }

    /// Multiply-accumulates of all rows.
    fn macs(&self) -> u64 {
        self.conv.macs() / self.conv.output().height as u64 * self.layout.height as u64
    }
}

/// Windows of all makers, and which rows each holds, counted from its first row of padding.
struct Windows<'a> {
    makers: &'a [Maker],
    have: [Range<usize>; MAKERS],
    bytes: &'a mut [u8],
    scratch: &'a mut [u8],
}

impl Windows<'_> {
    /// Makes window number `index` hold the padded rows `need`, which do not begin before those that it holds, and returns it.
    fn fill(&mut self, index: usize, input: &[u8], need: Range<usize>) -> Range<usize> {
        let maker = &self.makers[index];
        let start: usize = self.makers[..index].iter().map(Maker::window_bytes).sum();
        let place = start..start + maker.window_bytes();
        let pitch = maker.layout.row_stride();
        let have = std::mem::replace(&mut self.have[index], need.clone());
        let kept = have.end.saturating_sub(need.start);
        if kept > 0 {
            let from = start + (need.start - have.start) * pitch;
            self.bytes.copy_within(from..from + kept * pitch, start);
        }
        let end = maker.pad + maker.layout.height;
        let first = (need.start + kept).clamp(maker.pad, end);
        let last = need.end.clamp(first, end);
        let at = |row: usize| start + (row - need.start) * pitch;
        if first < last {
            self.make(index, input, first - maker.pad..last - maker.pad, at(first));
        }
        let padding = [need.start + kept..first.min(need.end), last.max(need.start + kept)..need.end];
        for rows in padding.into_iter().filter(|rows| !rows.is_empty()) {
            self.bytes[at(rows.start)..at(rows.end)].fill(store(maker.zero));
        }
        place
    }

    /// Rows `rows` of a maker's result, to byte `to` of its window.
    fn make(&mut self, index: usize, input: &[u8], rows: Range<usize>, to: usize) {
        let maker = &self.makers[index];
        let Some(before) = index.checked_sub(1) else {
            let bytes = maker.layout.rows(rows.clone()).len();
            return maker.conv.run(input, &mut self.bytes[to..to + bytes], rows, None, self.scratch);
        };
        let source = self.fill(before, input, self.makers[before].need(rows.clone()));
        let (earlier, own) = self.bytes.split_at_mut(source.end);
        let to = to - source.end;
        let made = &mut own[to..to + rows.len() * maker.layout.row_stride()];
        maker.conv.run(&earlier[source], made, 0..rows.len(), None, self.scratch);
    }
}

impl FusedStep {
    fn window_bytes(&self) -> usize {
        self.makers.iter().map(Maker::window_bytes).sum()
    }

    /// Writes output rows `rows` from the window that holds what they need. `target` is those rows, borders left and right included.
    fn finish(&self, window: &[u8], residual: &[u8], target: &mut [u8], rows: Range<usize>, scratch: &mut [u8]) {
        match &self.last {
            Last::Pool(pool) => pool.run(window, target, 0..rows.len()),
            Last::Conv(conv) => {
                let residual = match &self.residual {
                    Some(layout) if !conv.in_place => Some(&residual[row(layout, rows.start)..]),
                    _ => None,
                };
                conv.kernel.run(window, target, 0..rows.len(), residual, scratch);
            }
        }
    }
}

/// Byte of the first border pixel of a row.
fn row(layout: &Layout, y: usize) -> usize {
    (layout.border.top + y) * layout.row_stride()
}

impl Last {
    fn describe(&self) -> String {
        match self {
            Last::Conv(conv) => conv.kernel.describe(),
            Last::Pool(pool) => pool.describe(),
        }
    }
}

impl Step for FusedStep {
    fn describe(&self) -> String {
        let makers = self.makers.iter().map(|maker| maker.conv.describe());
        makers.chain([self.last.describe()]).collect::<Vec<_>>().join(", rows into ")
    }

    fn parts(&self) -> usize {
        self.output.height
    }

    fn owned(&self, parts: Range<usize>) -> Range<usize> {
        self.output.rows(parts)
    }

    fn macs(&self) -> u64 {
        let last = match &self.last {
            Last::Conv(conv) => conv.kernel.macs() / conv.kernel.output().height as u64 * self.output.height as u64,
            Last::Pool(_) => 0,
        };
        self.makers.iter().map(Maker::macs).sum::<u64>() + last
    }

    fn weight_bytes(&self) -> usize {
        let last = if let Last::Conv(conv) = &self.last { conv.kernel.weight_bytes() } else { 0 };
        self.makers.iter().map(|maker| maker.conv.weight_bytes()).sum::<usize>() + last
    }

    fn scratch_bytes(&self) -> usize {
        let last = if let Last::Conv(conv) = &self.last { conv.kernel.scratch_bytes() } else { 0 };
        self.window_bytes() + self.makers.iter().map(|maker| maker.conv.scratch_bytes()).fold(last, usize::max)
    }

    /// So many rows that what is made twice above them, because another thread has it, is a quarter of the work at most.
    fn grain(&self) -> usize {
        let row = self.macs() / self.output.height as u64;
        let rows = usize::try_from((4 * self.seam_macs()).div_ceil(row.max(1))).unwrap_or(usize::MAX);
        rows.clamp(self.rows, self.output.height.max(self.rows)).next_multiple_of(self.rows)
    }

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, scratch: &mut [u8]) {
        self.run_pieces(inputs, &mut std::iter::once((rows, output)), scratch);
    }

    /// Pieces that follow each other go on with the same windows.
    fn run_pieces<'a>(&self, inputs: [&[u8]; READS], pieces: Pieces<'_, 'a>, scratch: &mut [u8]) {
        let (bytes, scratch) = scratch.split_at_mut(self.window_bytes());
        let mut windows = Windows { makers: &self.makers, have: [const { 0..0 }; MAKERS], bytes, scratch };
        let mut next = 0;
        for (rows, output) in pieces {
            if rows.start != next {
                windows.have = [const { 0..0 }; MAKERS];
            }
            next = rows.end;
            self.run_rows(&mut windows, inputs, output, rows);
        }
    }
}

impl FusedStep {
    /// Multiply-accumulates that the first row of a piece takes more than one that follows others.
    fn seam_macs(&self) -> u64 {
        let (mut first, mut following, mut macs) = (1, 1, 0);
        for maker in self.makers.iter().rev() {
            (first, following) = ((first - 1) * maker.stride + maker.extent, following * maker.stride);
            macs += (first.saturating_sub(following)) as u64 * (maker.macs() / maker.layout.height.max(1) as u64);
        }
        macs
    }

    fn run_rows(&self, windows: &mut Windows<'_>, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>) {
        let base = self.output.rows(rows.clone()).start;
        let last = self.makers.len() - 1;
        for start in rows.clone().step_by(self.rows) {
            let chunk = start..(start + self.rows).min(rows.end);
            let window = windows.fill(last, inputs[0], self.makers[last].need(chunk.clone()));
            let at = row(&self.output, start) - base;
            let target = &mut output[at..at + chunk.len() * self.output.row_stride()];
            self.finish(&windows.bytes[window], inputs[1], target, chunk, windows.scratch);
        }
        self.output.fill_border(rows, output, store(self.zero));
    }
}
