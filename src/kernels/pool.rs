//! Max and average pooling; a global pool is a window as large as the tensor.

use super::compiled::Loops;
use super::conv::{equal, positive};
use super::{Error, FLIP, Isa, Layout, OutputQuant, check_multiplier, store, widen};
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
    isa: Isa,
    params: PoolParams,
}

struct Rows<'a> {
    pool: &'a Pool,
    input: &'a [u8],
    output: &'a mut [u8],
    rows: Range<usize>,
}

impl Loops for Rows<'_> {
    #[inline(always)]
    fn run(self) {
        self.pool.run_rows(self.input, self.output, self.rows);
    }
}

/// Channels that are reduced at a time.
const LANES: usize = 32;

impl Pool {
    pub fn prepare(isa: Isa, params: &PoolParams) -> Result<Pool, Error> {
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
        Ok(Pool { isa, params: *params })
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
        self.isa.compiled(Rows { pool: self, input, output, rows: rows.clone() });
        self.params.output.fill_border(rows, output, store(self.params.output_zero));
    }

    #[inline(always)]
    fn run_rows(&self, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        let p = &self.params;
        let base = p.output.rows(rows.clone()).start;
        for y in rows {
            let window_rows = clip(y, p.stride[0], p.kernel[0], p.pad[0], p.input.height);
            for x in 0..p.output.width {
                let window = Window { rows: window_rows.clone(), columns: clip(x, p.stride[1], p.kernel[1], p.pad[1], p.input.width) };
                let to = p.output.offset(y, x) - base;
                self.pixel(input, &window, &mut output[to..to + p.output.channels]);
            }
        }
    }

    #[inline(always)]
    fn pixel(&self, input: &[u8], window: &Window, output: &mut [u8]) {
        let mut chunks = output.chunks_exact_mut(LANES);
        for (i, out) in chunks.by_ref().enumerate() {
            // A whole chunk: its length is known where loops over it are compiled.
            let out: &mut [u8; LANES] = out.try_into().expect("chunks of this length");
            self.reduce(input, window, i * LANES, out);
        }
        let (rest, done) = (chunks.into_remainder(), self.params.output.channels / LANES * LANES);
        for (i, out) in rest.chunks_mut(LANES / 4).enumerate() {
            let first = done + i * LANES / 4;
            match <&mut [u8; LANES / 4]>::try_from(&mut *out) {
                Ok(out) => self.reduce(input, window, first, out),
                Err(_) => out.iter_mut().enumerate().for_each(|(i, out)| self.reduce(input, window, first + i, std::array::from_mut(out))),
            }
        }
    }

    /// Channels `first..first + N` of one window.
    #[inline(always)]
    fn reduce<const N: usize>(&self, input: &[u8], window: &Window, first: usize, out: &mut [u8; N]) {
        match self.params.kind {
            PoolKind::Max => *out = self.max(input, window, first),
            PoolKind::Average { input_zero, ratio, count_padding, quant } => {
                let taps = window.rows.len() * window.columns.len();
                let count = if count_padding { self.params.kernel[0] * self.params.kernel[1] } else { taps.max(1) };
                let start = -widen(store(input_zero)) * taps as i32;
                let sums = self.sums(input, window, first, start);
                let multiplier = ratio / count as f32;
                *out = sums.map(|sum: i32| store(quant.finish(sum as f32 * multiplier)));
            }
        }
    }

    /// Calls `each` with the `N` channels from `first` at every tap of the window.
    #[inline(always)]
    fn taps<const N: usize>(&self, input: &[u8], window: &Window, first: usize, mut each: impl FnMut(&[u8; N])) {
        let layout = &self.params.input;
        for y in window.rows.clone() {
            let start = layout.offset(y, window.columns.start) + first;
            for x in 0..window.columns.len() {
                let at = start + x * layout.pixel_stride;
                each(input[at..at + N].try_into().expect("a slice of this length"));
            }
        }
    }

    #[inline(always)]
    fn max<const N: usize>(&self, input: &[u8], window: &Window, first: usize) -> [u8; N] {
        // With the top bit flipped, bytes are in the order of their values.
        const ORDER: u8 = FLIP ^ 0x80;
        let mut best = [0; N];
        self.taps(input, window, first, |tap: &[u8; N]| best = std::array::from_fn(|i| best[i].max(tap[i] ^ ORDER)));
        best.map(|byte| byte ^ ORDER)
    }

    #[inline(always)]
    fn sums<const N: usize>(&self, input: &[u8], window: &Window, first: usize, start: i32) -> [i32; N] {
        let mut sums = [start; N];
        self.taps(input, window, first, |tap: &[u8; N]| sums = std::array::from_fn(|i| sums[i] + widen(tap[i])));
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
