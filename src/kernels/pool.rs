//! Max and average pooling; a global pool is a window as large as the tensor.

use super::conv::{equal, positive};
use super::{Error, Layout, OutputQuant, check_multiplier, store, widen};
use std::ops::Range;

/// What becomes of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PoolKind {
    /// The largest value; scale and zero point stay.
    Max,
    /// `sum(x - input_zero) * (ratio / count)`, requantized.
    Average {
        input_zero: i8,
        /// Input scale over output scale.
        ratio: f32,
        /// Divide by the whole window where it hangs over the edge, instead of by the taps inside.
        count_padding: bool,
        quant: OutputQuant,
    },
}

/// A pooling operator. Windows are clipped at the edge, so the input needs no border.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolParams {
    pub input: Layout,
    pub output: Layout,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Padding at the top and at the left.
    pub pad: [usize; 2],
    pub kind: PoolKind,
    /// Zero point of the output, for its border.
    pub output_zero: i8,
}

/// A pooling operator, checked.
#[derive(Clone, Debug)]
pub struct Pool {
    params: PoolParams,
}

/// Channels that are reduced at a time.
const LANES: usize = 16;

impl Pool {
    pub fn prepare(params: &PoolParams) -> Result<Pool, Error> {
        params.input.check()?;
        params.output.check()?;
        equal("pooled channels", params.input.channels, params.output.channels)?;
        for axis in 0..2 {
            positive("kernel size", params.kernel[axis])?;
            positive("stride", params.stride[axis])?;
            if params.pad[axis] >= params.kernel[axis] {
                return Err(Error::Parameter { what: "padding of a pool, not below its kernel size,", found: params.pad[axis] });
            }
        }
        let last = [(params.output.height, params.input.height), (params.output.width, params.input.width)];
        for (axis, (output, input)) in last.into_iter().enumerate() {
            let start = (output - 1).checked_mul(params.stride[axis]);
            if start.is_none_or(|start| start >= input + params.pad[axis]) {
                return Err(Error::Parameter { what: "output size of a pool: its last window is outside the input;", found: output });
            }
        }
        if let PoolKind::Average { ratio, quant, .. } = &params.kind {
            let count = params.kernel[0].checked_mul(params.kernel[1]).filter(|&n| n < 1 << 22);
            let count = count.ok_or(Error::Parameter { what: "window of an average", found: params.kernel[0] })?;
            check_multiplier(*ratio / count as f32)?;
            quant.check()?;
        }
        Ok(Pool { params: *params })
    }

    /// Placement of the result.
    pub fn output(&self) -> &Layout {
        &self.params.output
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        match self.params.kind {
            PoolKind::Max => "max pool".into(),
            PoolKind::Average { .. } => "average pool".into(),
        }
    }

    /// Computes output rows `rows`; buffers as in the module's contract.
    pub fn run(&self, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        let p = &self.params;
        let base = p.output.rows(rows.clone()).start;
        for y in rows.clone() {
            let window_rows = clip(y, p.stride[0], p.kernel[0], p.pad[0], p.input.height);
            for x in 0..p.output.width {
                let window = Window { rows: window_rows.clone(), columns: clip(x, p.stride[1], p.kernel[1], p.pad[1], p.input.width) };
                let to = p.output.offset(y, x) - base;
                self.pixel(input, &window, &mut output[to..to + p.output.channels]);
            }
        }
        p.output.fill_border(rows, output, store(p.output_zero));
    }

    fn pixel(&self, input: &[u8], window: &Window, output: &mut [u8]) {
        for (i, out) in output.chunks_mut(LANES).enumerate() {
            match self.params.kind {
                PoolKind::Max => self.max(input, window, i * LANES, out),
                PoolKind::Average { input_zero, ratio, count_padding, quant } => {
                    let taps = window.rows.len() * window.columns.len();
                    let count = if count_padding { self.params.kernel[0] * self.params.kernel[1] } else { taps.max(1) };
                    let start = -widen(store(input_zero)) * taps as i32;
                    let sums = self.sums(input, window, i * LANES, out.len(), start);
                    let multiplier = ratio / count as f32;
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = store(quant.finish(sum as f32 * multiplier)));
                }
            }
        }
    }

    /// Channels from `first` at every tap of the window.
    #[inline(always)]
    fn taps<'a>(&self, input: &'a [u8], window: &Window, first: usize, count: usize) -> impl Iterator<Item = &'a [u8]> {
        let (layout, columns) = (self.params.input, window.columns.clone());
        let taps = window.rows.clone().flat_map(move |y| columns.clone().map(move |x| layout.offset(y, x) + first));
        taps.map(move |at| &input[at..at + count])
    }

    fn max(&self, input: &[u8], window: &Window, first: usize, out: &mut [u8]) {
        let mut best = [i8::MIN; LANES];
        for tap in self.taps(input, window, first, out.len()) {
            best.iter_mut().zip(tap).for_each(|(best, &byte)| *best = (*best).max(super::load(byte)));
        }
        out.iter_mut().zip(best).for_each(|(out, best)| *out = store(best));
    }

    fn sums(&self, input: &[u8], window: &Window, first: usize, count: usize, start: i32) -> [i32; LANES] {
        let mut sums = [start; LANES];
        for tap in self.taps(input, window, first, count) {
            sums.iter_mut().zip(tap).for_each(|(sum, &byte)| *sum += widen(byte));
        }
        sums
    }
}

struct Window {
    rows: Range<usize>,
    columns: Range<usize>,
}

/// The part of a window that lies inside.
fn clip(output: usize, stride: usize, kernel: usize, pad: usize, size: usize) -> Range<usize> {
    let start = output * stride;
    start.saturating_sub(pad).min(size)..(start + kernel).saturating_sub(pad).min(size)
}
