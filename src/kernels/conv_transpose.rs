//! Transposed convolution, one or two dimensions, gathered: each output pixel sums the taps that reach it.
//!
//! Along an axis, output `o` and tap `k` meet input `i` where `i * stride + k * dilation = o + pad`. With `o = phase +
//! t * stride` the taps of a phase are the same for every `t`, and `i = t + shift`: a table a phase, no division while running.
//! Four outputs of a phase at a time meet blocks of 16 output channels, input channels two at a time; inputs are differences
//! from the zero point in 16 bits, and where a tap falls outside it meets zeros.

use super::compiled::Loops;
use super::conv::{equal, positive};
use super::pairs::{LANES, Pair, accumulate, pair};
use super::rows::check_rows;
use super::weights::Int8Weights;
use super::{Error, Isa, Layout, OutputQuant, check_multiplier, store, widen};
use std::ops::Range;

/// A transposed convolution as the model states it, with the layouts that the planner chose.
#[derive(Clone, Debug)]
pub struct ConvTransposeParams<'a> {
    /// Needs no border.
    pub input: Layout,
    /// Its size says what end padding and output padding come to.
    pub output: Layout,
    /// Height and width of the window, as all pairs here.
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Padding at the top and at the left: rows and columns of the full result that are cut off.
    pub pad: [usize; 2],
    /// Divides input and output channels.
    pub groups: usize,
    pub input_zero: i8,
    /// `[input channel][output channel of its group][kernel height][kernel width]`.
    pub weights: Int8Weights<'a>,
    /// One an output channel, in units of `input_scale * weight_scale`.
    pub bias: &'a [i32],
    /// `input_scale * weight_scale / output_scale`, one an output channel.
    pub multipliers: &'a [f32],
    pub quant: OutputQuant,
}

impl ConvTransposeParams<'_> {
    /// Input and output channels of a group.
    fn depths(&self) -> [usize; 2] {
        [self.input.channels / self.groups, self.output.channels / self.groups]
    }

    fn weight(&self, input: usize, output: usize, tap: usize) -> i16 {
        let [_, outputs] = self.depths();
        self.weights.less_zero((input * outputs + output % outputs) * self.kernel[0] * self.kernel[1] + tap, output)
    }

    fn check(&self) -> Result<(), Error> {
        self.input.check()?;
        self.output.check()?;
        for axis in 0..2 {
            positive("kernel size", self.kernel[axis])?;
            positive("stride", self.stride[axis])?;
            positive("dilation", self.dilation[axis])?;
            let limit = |what, found: usize| if found < 1 << 24 { Ok(()) } else { Err(Error::Parameter { what, found }) };
            limit("kernel size times dilation", self.kernel[axis].saturating_mul(self.dilation[axis]))?;
            limit("stride", self.stride[axis])?;
            limit("padding", self.pad[axis])?;
        }
        positive("groups", self.groups)?;
        equal("input channels modulo groups", 0, self.input.channels % self.groups)?;
        equal("output channels modulo groups", 0, self.output.channels % self.groups)?;
        let weights = [self.input.channels, self.depths()[1], self.kernel[0], self.kernel[1]];
        self.weights.check(&weights, self.output.channels)?;
        equal("biases", self.output.channels, self.bias.len())?;
        equal("scales", self.output.channels, self.multipliers.len())?;
        self.multipliers.iter().try_for_each(|&m| check_multiplier(m))?;
        self.quant.check()?;
        (0..self.output.channels).try_for_each(|channel| self.check_sum(channel))
    }

    /// Fails where a sum could leave 32 bits.
    fn check_sum(&self, channel: usize) -> Result<(), Error> {
        let [inputs, outputs] = self.depths();
        let first = channel / outputs * inputs;
        let taps = (first..first + inputs).flat_map(|input| (0..self.kernel[0] * self.kernel[1]).map(move |tap| (input, tap)));
        let magnitude: u64 = taps.map(|(input, tap)| u64::from(self.weight(input, channel, tap).unsigned_abs())).sum();
        let bound = u64::from(self.bias[channel].unsigned_abs()) + 255 * magnitude;
        if bound <= i32::MAX as u64 { Ok(()) } else { Err(Error::Accumulator { channel, bound }) }
    }
}

/// A tap and the input that it meets: `i = t + shift` for output `o = phase + t * stride`.
#[derive(Clone, Copy, Debug)]
struct Tap {
    tap: usize,
    shift: isize,
}

/// The taps of every phase of an axis: tap `k` is one of the phase that `k * dilation - pad` falls into.
fn phases(params: &ConvTransposeParams, axis: usize, size: usize) -> Vec<Vec<Tap>> {
    let stride = params.stride[axis] as isize;
    let mut phases = vec![Vec::new(); params.stride[axis].min(size)];
    for tap in 0..params.kernel[axis] {
        let first = (tap * params.dilation[axis]) as isize - params.pad[axis] as isize;
        if let Some(taps) = phases.get_mut(first.rem_euclid(stride) as usize) {
            taps.push(Tap { tap, shift: -first.div_euclid(stride) });
        }
    }
    phases
}

/// Up to 16 output channels of a group.
#[derive(Clone, Debug)]
struct Block {
    group: usize,
    channel: usize,
    columns: usize,
    bias: [i32; LANES],
    scale: [f32; LANES],
    /// `[tap][pair of input channels][lane]`
    weights: Vec<[Pair; LANES]>,
}

/// A transposed convolution, packed.
#[derive(Clone, Debug)]
pub struct ConvTranspose {
    isa: Isa,
    input: Layout,
    output: Layout,
    stride: [usize; 2],
    kernel: [usize; 2],
    groups: usize,
    input_zero: i8,
    quant: OutputQuant,
    rows: Vec<Vec<Tap>>,
    columns: Vec<Vec<Tap>>,
    blocks: Vec<Block>,
    macs: u64,
}

/// Output pixels that are done at once.
const PIXELS: usize = 4;

impl ConvTranspose {
    /// Checks `params` and packs them for `isa`.
    pub fn prepare(isa: Isa, params: &ConvTransposeParams) -> Result<ConvTranspose, Error> {
        params.check()?;
        let [_, outputs] = params.depths();
        let firsts = (0..params.groups).flat_map(|group| (0..outputs).step_by(LANES).map(move |first| (group, first)));
        let rows = phases(params, 0, params.output.height);
        let most = rows.iter().map(Vec::len).max().unwrap_or(0);
        let pairs = (params.input.width + 1).checked_mul(params.groups * params.depths()[0].div_ceil(2));
        let scratch = pairs.and_then(|n| n.checked_mul(most.max(1) * size_of::<Pair>())).filter(|&n| isize::try_from(n).is_ok());
        scratch.ok_or(Error::Layout(params.input))?;
        Ok(ConvTranspose {
            isa,
            input: params.input,
            output: params.output,
            stride: params.stride,
            kernel: params.kernel,
            groups: params.groups,
            input_zero: params.input_zero,
            quant: params.quant,
            rows,
            columns: phases(params, 1, params.output.width),
            blocks: firsts.map(|(group, first)| block(params, group, first)).collect(),
            macs: (params.input.height * params.input.width * params.weights.values.len()) as u64,
        })
    }

    /// Pairs of a group's input channels.
    fn pairs(&self) -> usize {
        (self.input.channels / self.groups).div_ceil(2)
    }

    /// Bytes of scratch that one thread's [`ConvTranspose::run`] needs: the input rows of one output row, in 16 bits.
    pub fn scratch_bytes(&self) -> usize {
        let rows = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        (rows * self.input.width * self.groups + 1) * self.pairs() * size_of::<Pair>()
    }

    /// Multiply-accumulates of all rows; taps that are cut off count.
    pub fn macs(&self) -> u64 {
        self.macs
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.weights.len() * LANES * size_of::<Pair>()).sum()
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        format!("{} transposed, {} blocks", self.isa.name(), self.blocks.len())
    }

    /// Placement of the result.
    pub fn output(&self) -> &Layout {
        &self.output
    }

    /// Computes output rows `rows`; buffers as in the module's contract.
    pub fn run(&self, input: &[u8], output: &mut [u8], rows: Range<usize>, scratch: &mut [u8]) {
        assert!(input.len() >= self.input.bytes());
        check_rows(&self.output, output, &rows);
        let scratch = scratch[..self.scratch_bytes()].as_chunks_mut().0;
        self.isa.compiled(Rows { op: self, input, output, rows: rows.clone(), scratch });
        self.output.fill_border(rows, output, store(self.quant.zero_point));
    }
}

fn block(params: &ConvTransposeParams, group: usize, first: usize) -> Block {
    let [inputs, outputs] = params.depths();
    let (channel, columns) = (group * outputs + first, LANES.min(outputs - first));
    let weight = |tap: usize, input: usize, lane: usize| {
        let exists = lane < columns && input < inputs;
        if exists { params.weight(group * inputs + input, channel + lane, tap).into() } else { 0 }
    };
    let taps = (0..params.kernel[0] * params.kernel[1]).flat_map(|tap| (0..inputs).step_by(2).map(move |input| (tap, input)));
    let lanes = |(tap, input)| std::array::from_fn(|lane| pair(weight(tap, input, lane), weight(tap, input + 1, lane)));
    Block {
        group,
        channel,
        columns,
        bias: std::array::from_fn(|lane| if lane < columns { params.bias[channel + lane] } else { 0 }),
        scale: std::array::from_fn(|lane| if lane < columns { params.multipliers[channel + lane] } else { 0.0 }),
        weights: taps.map(lanes).collect(),
    }
}

struct Rows<'a> {
    op: &'a ConvTranspose,
    input: &'a [u8],
    output: &'a mut [u8],
    rows: Range<usize>,
    scratch: &'a mut [Pair],
}

impl Loops for Rows<'_> {
    #[inline(always)]
    fn run(self) {
        let Rows { op, input, output, rows, scratch } = self;
        let (zeros, wide) = scratch.split_at_mut(op.pairs());
        zeros.fill([0; 4]);
        let base = op.output.rows(rows.clone()).start;
        let length = op.input.width * op.groups * op.pairs();
        for y in rows {
            let (t, taps) = (y / op.stride[0], &op.rows[y % op.stride[0]]);
            for (tap, wide) in taps.iter().zip(wide.chunks_exact_mut(length)) {
                if let Some(row) = inside(t, tap.shift, op.input.height) {
                    differences(op, row, input, wide);
                }
            }
            let row = Row { op, t, taps, wide, zeros };
            for block in &op.blocks {
                for phase in 0..op.columns.len() {
                    let count = (op.output.width - phase).div_ceil(op.stride[1]);
                    for first in (0..count).step_by(PIXELS) {
                        let acc = row.sums(block, phase, first);
                        for (pixel, acc) in acc.iter().enumerate().take(count - first) {
                            let x = phase + (first + pixel) * op.stride[1];
                            let to = op.output.offset(y, x) + block.channel - base;
                            emit(op, block, acc, &mut output[to..to + block.columns]);
                        }
                    }
                }
            }
        }
    }
}

/// `t + shift` where it is on an axis of `size`.
#[inline(always)]
fn inside(t: usize, shift: isize, size: usize) -> Option<usize> {
    t.checked_add_signed(shift).filter(|&i| i < size)
}

/// An input row as `[column][group][pair of channels]`, less the zero point.
#[inline(always)]
fn differences(op: &ConvTranspose, row: usize, input: &[u8], wide: &mut [Pair]) {
    let (depth, zero) = (op.input.channels / op.groups, widen(store(op.input_zero)));
    for (i, wide) in wide.chunks_exact_mut(op.pairs()).enumerate() {
        let from = op.input.offset(row, i / op.groups) + i % op.groups * depth;
        let (whole, rest) = input[from..from + depth].as_chunks::<2>();
        wide.iter_mut().zip(whole).for_each(|(wide, &[a, b])| *wide = pair(widen(a) - zero, widen(b) - zero));
        if let (Some(wide), [last]) = (wide.last_mut(), rest) {
            *wide = pair(widen(*last) - zero, 0);
        }
    }
}

/// What an output row sees of the input.
struct Row<'a> {
    op: &'a ConvTranspose,
    t: usize,
    taps: &'a [Tap],
    /// One row a tap.
    wide: &'a [Pair],
    zeros: &'a [Pair],
}

impl Row<'_> {
    /// Sums of four pixels of a phase from its `first`; those past the row's end are of no use.
    #[inline(always)]
    fn sums(&self, block: &Block, phase: usize, first: usize) -> [[i32; LANES]; PIXELS] {
        let (op, pairs) = (self.op, self.op.pairs());
        let mut acc = [block.bias; PIXELS];
        for (slot, row) in self.taps.iter().enumerate().filter(|(_, tap)| inside(self.t, tap.shift, op.input.height).is_some()) {
            let wide = &self.wide[slot * op.input.width * op.groups * pairs..];
            for column in &op.columns[phase] {
                let x = std::array::from_fn(|pixel| match inside(first + pixel, column.shift, op.input.width) {
                    Some(x) => &wide[(x * op.groups + block.group) * pairs..][..pairs],
                    None => self.zeros,
                });
                let weights = &block.weights[(row.tap * op.kernel[1] + column.tap) * pairs..][..pairs];
                accumulate(op.isa, x, weights, &mut acc);
            }
        }
        acc
    }
}

/// Requantizes one pixel of a block.
#[inline(always)]
fn emit(op: &ConvTranspose, block: &Block, acc: &[i32; LANES], out: &mut [u8]) {
    let mut bytes = [0; LANES];
    for ((byte, &sum), &scale) in bytes.iter_mut().zip(acc).zip(&block.scale) {
        *byte = store(op.quant.finish(sum as f32 * scale));
    }
    match out.first_chunk_mut() {
        Some(out) => *out = bytes,
        None => out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = byte),
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::super::suite::{Random, cases, in_two, placed, weights};
    use super::*;

    fn params(random: &mut Random) -> ConvTransposeParams<'static> {
        let groups = random.pick(&[1, 1, 2, 3]);
        let [inputs, outputs] = [random.pick(&[1, 2, 3, 8, 17]), random.pick(&[1, 3, 16, 17, 20])].map(|n| n * groups);
        let flat = random.chance(3);
        let axis =
            |random: &mut Random, flat: bool| if flat { [1, 1, 1] } else { [random.range(1..6), random.range(1..4), random.range(1..3)] };
        let ([kh, sh, dh], [kw, sw, dw]) = (axis(random, flat), axis(random, false));
        let (kernel, stride, dilation) = ([kh, kw], [sh, sw], [dh, dw]);
        let image = [if flat { 1 } else { random.range(1..6) }, random.range(1..10)];
        let mut pad = [0; 2];
        let size: [usize; 2] = std::array::from_fn(|axis| {
            let full = (image[axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1;
            pad[axis] = random.range(0..kernel[axis].min(full));
            (full - pad[axis]).saturating_sub(random.range(0..3)).max(1) + random.range(0..stride[axis])
        });
        let taps = inputs / groups * kernel[0] * kernel[1];
        ConvTransposeParams {
            input: random.layout(image[0], image[1], inputs),
            output: random.layout(size[0], size[1], outputs),
            kernel,
            stride,
            dilation,
            pad,
            groups,
            input_zero: random.value(),
            weights: weights(random, taps * outputs, outputs),
            bias: (0..outputs).map(|_| random.range(0..200_000) as i32 - 100_000).collect::<Vec<_>>().leak(),
            multipliers: (0..outputs).map(|_| random.multiplier(taps)).collect::<Vec<_>>().leak(),
            quant: random.quant(),
        }
    }

    #[test]
    fn equals_the_reference_for_every_split() {
        for seed in 0..3 * cases() {
            let mut random = Random::new(seed + 200_000);
            let p = params(&mut random);
            let values = random.values(p.input.height * p.input.width * p.input.channels);
            let (bytes, expected) = (placed(&p.input, &values, 0), reference::conv_transpose(&p, &values));
            let cut = random.range(0..p.output.height + 1);
            for isa in Isa::supported() {
                let op = ConvTranspose::prepare(isa, &p).unwrap();
                let mut scratch = vec![0xFF; op.scratch_bytes()];
                let run = |out: &mut [u8], rows| op.run(&bytes, out, rows, &mut scratch);
                let found = in_two(&p.output, cut, None, p.quant.zero_point, run);
                assert!(found == expected, "{} seed {seed} cut {cut} {p:?}", isa.name());
            }
        }
    }

    #[test]
    fn bad_parameters_are_refused() {
        let mut random = Random::new(3);
        let good = params(&mut random);
        let refused = |change: &dyn Fn(&mut ConvTransposeParams<'static>)| {
            let mut params = good.clone();
            change(&mut params);
            ConvTranspose::prepare(Isa::best(), &params).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(refused(&|p| p.weights.values = &p.weights.values[1..]).contains("weights: expected"));
        assert!(refused(&|p| p.stride[1] = 0).contains("stride: 0"));
        assert!(refused(&|p| p.dilation[0] = usize::MAX).contains("dilation"));
        assert!(refused(&|p| p.bias = vec![i32::MAX; p.bias.len()].leak()).contains("beyond the 2147483647"));
        assert!(refused(&|p| p.weights.zeros = vec![1; p.bias.len() + 1].leak()).contains("zero points of the weights"));
        assert!(refused(&|p| p.pad[0] = 1 << 30).contains("padding"));
    }
}
