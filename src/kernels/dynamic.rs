//! Products of a float tensor with int8 weights, quantized when it comes: ONNX `DynamicQuantizeLinear`, then `ConvInteger` or
//! `MatMulInteger`, then back to float. With the extremes of the whole input, 0 among them:
//!
//! ```text
//!   scale = (largest - smallest) / 255          zero = round_half_even(clamp(-smallest / scale, 0, 255)), as uint8
//!   q = clamp(round_half_even(x / scale) + zero, 0, 255)
//!   y = f32(sum((q - zero) * w)) * (scale * weight_scale) + bias
//! ```
//!
//! Each operation is rounded to `f32`; the sum is a 32-bit integer. An input of zeros, or one whose range is no normal number, has
//! scale 1.

use super::compiled::Loops;
use super::conv::{Conv, ConvParams, equal, taps_first};
use super::dense::{Element, Import, Order};
use super::pantry::Pantry;
use super::rows::{STEP, step_at};
use super::{Error, Isa, Layout, check_scale, load};
use std::ops::Range;

/// A dynamically quantized convolution as the model states it.
#[derive(Clone, Debug)]
pub struct DynamicParams<'a> {
    /// The convolution of the quantized input. Input zero point and biases are 0; multipliers and range do not matter.
    pub conv: ConvParams<'a>,
    /// How the float tensors lie, input and output.
    pub order: Order,
    /// One an output channel.
    pub weight_scales: &'a [f32],
    /// One an output channel.
    pub bias: &'a [f32],
}

impl DynamicParams<'_> {
    fn check(&self) -> Result<(), Error> {
        equal("zero point of a dynamically quantized input", 0, usize::from(self.conv.input_zero.unsigned_abs()))?;
        equal("scales of weights", self.conv.output.channels, self.weight_scales.len())?;
        equal("biases", self.conv.output.channels, self.bias.len())?;
        self.weight_scales.iter().try_for_each(|&scale| check_scale("scale of weights", scale))
    }
}

/// Scale and zero point (as int8) of a tensor with these extremes.
pub fn dynamic_quantization(smallest: f32, largest: f32) -> (f32, i8) {
    let (smallest, largest) = (smallest.min(0.0), largest.max(0.0));
    let scale = (largest - smallest) / 255.0;
    let scale = if scale.is_normal() { scale } else { 1.0 };
    let zero = (-smallest / scale).clamp(0.0, 255.0).round_ties_even() as i32;
    (scale, (zero - 128) as i8)
}

/// A dynamically quantized convolution, checked and packed.
#[derive(Clone, Debug)]
pub struct Dynamic {
    isa: Isa,
    sums: Sums,
    import: Import,
    order: Order,
    image: Layout,
    output: Layout,
    channels: Vec<Channel>,
    /// Output rows done at once.
    chunk: usize,
}

/// What makes the sums of products.
#[derive(Clone, Debug)]
enum Sums {
    Dense(Box<Conv>),
    Depthwise(Box<Depthwise>),
}

/// What an output channel's sums become.
#[derive(Clone, Copy, Debug)]
struct Channel {
    /// Of the weights: what a unit of the input's zero point adds to a sum.
    weight_sum: i32,
    weight_scale: f32,
    bias: f32,
}

impl Channel {
    #[inline(always)]
    fn real(&self, sum: i32, scale: f32, zero: i8) -> f32 {
        let sum = sum.wrapping_sub(self.weight_sum.wrapping_mul(i32::from(zero)));
        sum as f32 * (scale * self.weight_scale) + self.bias
    }
}

/// Sums done at once: as many as stay in the nearest cache.
const SUMS: usize = 4 << 10;

impl Dynamic {
    /// Checks `params` and packs them for `isa`, or takes packed weights from `pantry`.
    pub fn prepare(isa: Isa, params: &DynamicParams, pantry: &mut Pantry) -> Result<Dynamic, Error> {
        params.check()?;
        params.conv.check()?;
        let (image, output) = (params.conv.input, params.conv.output);
        let sums = match params.conv.is_depthwise() {
            true => Sums::Depthwise(Box::new(Depthwise::new(&params.conv))),
            false => Sums::Dense(Box::new(Conv::prepare_sums(isa, &params.conv, pantry)?)),
        };
        let import = Import::prepare(isa, params.order, Element::Float { scale: 1.0, zero_point: 0 }, image, 0)?;
        let channel = |o: usize| Channel {
            weight_sum: taps_first(&params.conv, o).iter().map(|&w| i32::from(w)).sum(),
            weight_scale: params.weight_scales[o],
            bias: params.bias[o],
        };
        let channels: Vec<Channel> = (0..output.channels).map(channel).collect();
        let chunk = (SUMS / (output.width * output.channels)).clamp(1, output.height);
        let flat = output.channels == 1 || output.height * output.width == 1;
        let order = if flat { Order::Pixels } else { params.order };
        Ok(Dynamic { isa, sums, import, order, image, output, channels, chunk })
    }

    fn output(&self) -> &Layout {
        &self.output
    }

    /// Parts that the work can be split into: rows, or one where the result is planes.
    pub fn parts(&self) -> usize {
        if self.order == Order::Pixels { self.output().height } else { 1 }
    }

    /// Bytes of the result that the writer of `parts` owns.
    pub fn owned(&self, parts: Range<usize>) -> Range<usize> {
        let bytes = 4 * self.output().height * self.output().width * self.output().channels / self.parts();
        parts.start * bytes..parts.end * bytes
    }

    /// Multiply-accumulates of all parts.
    pub fn macs(&self) -> u64 {
        match &self.sums {
            Sums::Dense(conv) => conv.macs(),
            Sums::Depthwise(dw) => (self.output.height * self.output.width * self.output.channels * dw.taps.len()) as u64,
        }
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        match &self.sums {
            Sums::Dense(conv) => conv.weight_bytes(),
            Sums::Depthwise(dw) => size_of_val(&dw.weights[..]),
        }
    }

    /// Bytes of scratch that one thread's [`Dynamic::run`] needs.
    pub fn scratch_bytes(&self) -> usize {
        let own = if let Sums::Dense(conv) = &self.sums { conv.scratch_bytes() } else { 0 };
        self.image.bytes() + self.sums_bytes() + own
    }

    fn sums_bytes(&self) -> usize {
        4 * self.chunk * self.output().width * self.output().channels
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        let sums = match &self.sums {
            Sums::Dense(conv) => conv.describe(),
            Sums::Depthwise(_) => format!("{} depthwise", self.isa.name()),
        };
        format!("{sums}, input quantized as it comes")
    }

    /// Computes `parts`. `input` is the whole dense tensor, `output` the bytes that [`Dynamic::owned`] names.
    pub fn run(&self, input: &[u8], output: &mut [u8], parts: Range<usize>, scratch: &mut [u8]) {
        assert!(parts.start < parts.end && parts.end <= self.parts(), "parts {parts:?} of {}", self.parts());
        assert_eq!(input.len(), self.import.input_bytes(), "dense input");
        assert_eq!(output.len(), self.owned(parts.clone()).len(), "dense output");
        let mut extremes = [0.0; 2];
        self.isa.compiled(Extremes { values: input.as_chunks::<4>().0, found: &mut extremes });
        let (scale, zero) = dynamic_quantization(extremes[0], extremes[1]);
        let (image, scratch) = scratch.split_at_mut(self.image.bytes());
        let (sums, scratch) = scratch.split_at_mut(self.sums_bytes());
        self.import.quantizing(scale, zero).run(input, image, 0..self.image.height);
        let rows = if self.order == Order::Pixels { parts } else { 0..self.output().height };
        for start in rows.clone().step_by(self.chunk) {
            let chunk = start..(start + self.chunk).min(rows.end);
            let pixels = (start - rows.start) * self.output().width..(chunk.end - rows.start) * self.output().width;
            let sums = &mut sums[..4 * pixels.len() * self.channels.len()];
            match &self.sums {
                Sums::Dense(conv) => conv.run_sums(image, sums, chunk, scratch),
                Sums::Depthwise(dw) => self.isa.compiled(DepthwiseRows { dw, image, sums: sums.as_chunks_mut().0, rows: chunk }),
            }
            let sums = sums.as_chunks().0;
            self.isa.compiled(Reals { op: self, sums, scale, zero, pixels, output: output.as_chunks_mut().0 });
        }
    }
}

/// A depthwise convolution's sums, in plain Rust.
#[derive(Clone, Debug)]
struct Depthwise {
    /// `[tap][channel]`, the channels filled up with zeros to whole steps.
    weights: Vec<[i16; STEP]>,
    /// Input byte of each tap, from the window's first.
    taps: Vec<usize>,
    /// Input byte of the first window, and from one to the next, down and to the right.
    origin: usize,
    steps: [usize; 2],
    width: usize,
    channels: usize,
}

impl Depthwise {
    /// `params` were checked.
    fn new(params: &ConvParams) -> Depthwise {
        let [height, width] = params.kernel;
        let (channels, taps) = (params.output.channels, height * width);
        let weights = params.weights_by_channel();
        let weight = |tap: usize, channel: usize| weights.get(channel).map_or(0, |weights| weights[tap]);
        let step = |tap: usize, first: usize| std::array::from_fn(|lane| weight(tap, first + lane));
        Depthwise {
            weights: (0..taps).flat_map(|tap| (0..channels).step_by(STEP).map(move |first| step(tap, first))).collect(),
            taps: (0..taps).map(|tap| params.tap(tap / width, tap % width)).collect(),
            origin: params.origin(),
            steps: params.steps(),
            width: params.output.width,
            channels,
        }
    }
}

struct DepthwiseRows<'a> {
    dw: &'a Depthwise,
    image: &'a [u8],
    /// `[row][column][channel]` of the rows.
    sums: &'a mut [[u8; 4]],
    rows: Range<usize>,
}

impl Loops for DepthwiseRows<'_> {
    #[inline(always)]
    fn run(self) {
        let DepthwiseRows { dw, image, sums, rows } = self;
        let steps = dw.channels.div_ceil(STEP);
        let pixels = rows.flat_map(|y| (0..dw.width).map(move |x| (y, x)));
        for ((y, x), sums) in pixels.zip(sums.chunks_exact_mut(dw.channels)) {
            let window = dw.origin + y * dw.steps[0] + x * dw.steps[1];
            for (step, sums) in sums.chunks_mut(STEP).enumerate() {
                let mut acc = [0i32; STEP];
                for (tap, &at) in dw.taps.iter().enumerate() {
                    let bytes: [u8; STEP] = step_at(image, window + at + step * STEP);
                    let weights = &dw.weights[tap * steps + step];
                    (0..STEP).for_each(|lane| acc[lane] = acc[lane].wrapping_add(i32::from(load(bytes[lane])) * i32::from(weights[lane])));
                }
                sums.iter_mut().zip(acc).for_each(|(sum, acc)| *sum = acc.to_le_bytes());
            }
        }
    }
}

/// The smallest and the largest of the values and 0; what is not a number does not count.
struct Extremes<'a> {
    values: &'a [[u8; 4]],
    found: &'a mut [f32; 2],
}

impl Loops for Extremes<'_> {
    #[inline(always)]
    fn run(self) {
        const LANES: usize = 16;
        let (mut low, mut high) = ([0.0f32; LANES], [0.0f32; LANES]);
        let mut look = |lane: usize, bytes: [u8; 4]| {
            let value = f32::from_le_bytes(bytes);
            low[lane] = if value < low[lane] { value } else { low[lane] };
            high[lane] = if value > high[lane] { value } else { high[lane] };
        };
        let (chunks, rest) = self.values.as_chunks::<LANES>();
        chunks.iter().for_each(|chunk| (0..LANES).for_each(|lane| look(lane, chunk[lane])));
        rest.iter().for_each(|&bytes| look(0, bytes));
        *self.found = [low.into_iter().fold(0.0, f32::min), high.into_iter().fold(0.0, f32::max)];
    }
}

/// Sums of some pixels to floats in their place.
struct Reals<'a> {
    op: &'a Dynamic,
    /// `[pixel][channel]`
    sums: &'a [[u8; 4]],
    scale: f32,
    zero: i8,
    /// Where these pixels stand in the output.
    pixels: Range<usize>,
    output: &'a mut [[u8; 4]],
}

impl Loops for Reals<'_> {
    #[inline(always)]
    fn run(self) {
        let Reals { op, sums, scale, zero, pixels, output } = self;
        let count = op.channels.len();
        let real = |channel: &Channel, sum: [u8; 4]| channel.real(i32::from_le_bytes(sum), scale, zero).to_le_bytes();
        match op.order {
            Order::Pixels => {
                let output = &mut output[pixels.start * count..pixels.end * count];
                for (out, sums) in output.chunks_exact_mut(count).zip(sums.chunks_exact(count)) {
                    out.iter_mut().zip(sums).zip(&op.channels).for_each(|((out, &sum), channel)| *out = real(channel, sum));
                }
            }
            Order::Planes => {
                let plane = op.output().height * op.output().width;
                for ((c, channel), out) in op.channels.iter().enumerate().zip(output.chunks_exact_mut(plane)) {
                    let sums = sums.iter().skip(c).step_by(count);
                    out[pixels.clone()].iter_mut().zip(sums).for_each(|(out, &sum)| *out = real(channel, sum));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite::{ConvCase, Kind, Random, cases};
    use super::super::{Border, reference};
    use super::*;

    fn floats(random: &mut Random, count: usize) -> Vec<f32> {
        let scale = random.pick(&[0.01, 1.0, 300.0, 1e-30]);
        let shift = random.pick(&[0.0, -0.5, 0.9, 3.0]);
        let mut value = || (f32::from(random.value()) / 128.0 + shift) * scale;
        (0..count).map(|_| value()).collect()
    }

    /// Dense `[height][width][channels]` in the order of the tensor.
    fn ordered(order: Order, [height, width, channels]: [usize; 3], values: &[f32]) -> Vec<u8> {
        let index = |i: usize| match order {
            Order::Pixels => i,
            Order::Planes => i % (height * width) * channels + i / (height * width),
        };
        (0..values.len()).flat_map(|i| values[index(i)].to_le_bytes()).collect()
    }

    #[test]
    fn every_dynamic_product_equals_the_reference() {
        for seed in 0..2 * cases() {
            let mut random = Random::new(seed + 210_000);
            let kind = random.pick(&[Kind::Dense, Kind::Pointwise, Kind::Arranged, Kind::Depthwise]);
            let case = ConvCase::random(&mut random, kind);
            let out = case.params.output;
            let mut conv = ConvParams { residual: None, input_zero: 0, bias: &vec![0; out.channels], ..case.params.clone() };
            conv.input = Layout::new(conv.input.height, conv.input.width, conv.input.channels).with_border(conv.border());
            conv.output = Layout::new(out.height, out.width, out.channels).with_border(Border::default());
            let weight_scales: Vec<f32> = (0..out.channels).map(|_| random.multiplier(8)).collect();
            let bias = floats(&mut random, out.channels);
            let shape = [conv.input.height, conv.input.width, conv.input.channels];
            let input = floats(&mut random, shape.iter().product());
            let order = random.pick(&[Order::Planes, Order::Pixels]);
            let params = DynamicParams { conv, order, weight_scales: &weight_scales, bias: &bias };
            let expected = ordered(
                order,
                [out.height, out.width, out.channels],
                &reference::dynamic(&params, reference::own_quantization(&input), &input),
            );
            let input = ordered(order, shape, &input);
            for isa in Isa::supported() {
                let op = match Dynamic::prepare(isa, &params, &mut Pantry::Closed) {
                    Err(Error::Accumulator { .. } | Error::Scale { .. }) => break,
                    op => op.unwrap(),
                };
                let (mut found, mut scratch) = (vec![0; expected.len()], vec![0x77; op.scratch_bytes()]);
                let cut = random.range(0..op.parts() + 1);
                for parts in [0..cut, cut..op.parts()].into_iter().filter(|p| !p.is_empty()) {
                    op.run(&input, &mut found[op.owned(parts.clone())], parts, &mut scratch);
                }
                assert!(found == expected, "{} seed {seed} {params:?}", isa.name());
            }
        }
    }

    /// The examples of ONNX's specification of `DynamicQuantizeLinear`, and ranges that are none.
    #[test]
    fn ranges_become_scales_and_zero_points() {
        assert_eq!(dynamic_quantization(-3.0, 2.0), (5.0 / 255.0, (153 - 128) as i8));
        assert_eq!(dynamic_quantization(1.0, 4.0), (4.0 / 255.0, -128));
        assert_eq!(dynamic_quantization(-4.0, -1.0), (4.0 / 255.0, 127));
        for (low, high) in [(0.0, 0.0), (f32::NEG_INFINITY, 1.0), (f32::MIN, f32::MAX), (f32::NAN, f32::NAN), (0.0, 1e-44)] {
            assert_eq!(dynamic_quantization(low, high).0, 1.0, "{low} {high}");
        }
    }
}
