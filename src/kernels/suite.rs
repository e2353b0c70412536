//! One suite, run over every instruction set that the machine has: a kernel is right when it gives the reference's bytes.

use super::*;
use std::ops::Range;

/// A small generator: cases are named by their seed, so a failure can be run again alone.
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    /// A number in the range.
    pub fn range(&mut self, range: Range<usize>) -> usize {
        range.start + self.next() as usize % range.len()
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.range(0..of.len())]
    }

    pub fn chance(&mut self, one_in: usize) -> bool {
        self.range(0..one_in) == 0
    }

    /// Any int8, the ends more often than the rest.
    pub fn value(&mut self) -> i8 {
        match self.range(0..8) {
            0 => i8::MIN,
            1 => i8::MAX,
            _ => self.next() as i8,
        }
    }

    pub fn values(&mut self, count: usize) -> Vec<i8> {
        (0..count).map(|_| self.value()).collect()
    }

    /// Around what makes `count` products of full range fill int8, so that some results saturate and some do not.
    pub fn multiplier(&mut self, count: usize) -> f32 {
        let spread = [0.02, 0.5, 1.0, 4.0, 1e12][self.range(0..5).min(self.range(0..5))];
        (1.0 + self.range(0..1000) as f32 / 1000.0) * spread / (64.0 * (count as f32).sqrt())
    }

    pub fn quant(&mut self) -> OutputQuant {
        let (a, b) = (self.value(), self.value());
        let zero_point = self.value();
        if self.chance(2) { OutputQuant::full(zero_point) } else { OutputQuant { zero_point, low: a.min(b), high: a.max(b) } }
    }

    pub fn border(&mut self, at_least: Border) -> Border {
        let mut side = |needed: usize| needed + if self.chance(3) { self.range(1..3) } else { 0 };
        Border { top: side(at_least.top), left: side(at_least.left), bottom: side(at_least.bottom), right: side(at_least.right) }
    }

    /// The layout, sometimes as a slice of a wider tensor.
    pub fn place(&mut self, layout: Layout) -> Layout {
        if self.chance(4) {
            let (before, after) = (self.range(0..5), self.range(0..5));
            Layout { pixel_stride: before + layout.channels + after, first_channel: before, ..layout }
        } else {
            layout
        }
    }

    /// A layout of the shape with a border of chance, sometimes as a slice of a wider tensor.
    pub fn layout(&mut self, height: usize, width: usize, channels: usize) -> Layout {
        let border = self.border(Border::default());
        self.place(Layout::new(height, width, channels).with_border(border))
    }

    pub fn add_quant(&mut self, a_zero: i8) -> AddQuant {
        let mut ratio = || (1.0 + self.range(0..1000) as f32 / 1000.0) * 0.5;
        AddQuant { a_ratio: ratio(), b_ratio: ratio(), a_zero, b_zero: self.value(), output: self.quant() }
    }
}

/// Weight distributions: inside the pair rule, mostly inside, the full int8 range, and beyond it (asymmetric weights).
pub(super) fn weights(random: &mut Random, count: usize, channels: usize) -> Int8Weights<'static> {
    let values = match random.range(0..4) {
        0 => (0..count).map(|_| (random.range(0..129) as i16 - 64) as i8).collect(),
        1 => (0..count).map(|_| if random.chance(200) { 127 } else { random.range(0..81) as i8 - 40 }).collect(),
        2 => (0..count).map(|_| random.pick(&[-128, 127])).collect(),
        _ => random.values(count),
    };
    let zeros = match random.range(0..10) {
        0 => random.values(1),
        1 => random.values(channels),
        _ => Vec::new(),
    };
    Int8Weights { values: values.leak(), zeros: zeros.leak() }
}

/// Weights that break the pair rule in many groups, but need not: of each four inputs two share a pair that does, the others have small
/// ones; or half of 32 have large ones. One in `more` is large besides.
fn arrangeable(random: &mut Random, channels: usize, inputs: usize, more: usize) -> &'static [i8] {
    let mut segment = || match random.range(0..3) {
        0 => [[127; 16], [1; 16]].concat(),
        _ => (0..8).flat_map(|_| random.pick(&[[127, 64, 1, 1], [1, 1, 64, 127], [64, 127, 1, 1]])).collect(),
    };
    let sizes: Vec<i16> = (0..inputs.div_ceil(32)).flat_map(|_| segment()).collect();
    let sizes: Vec<i16> = sizes[..inputs].iter().map(|&size| if random.chance(more) { 127 } else { size }).collect();
    let all = (0..channels).flat_map(|_| sizes.iter());
    all.map(|&size| (i16::from(random.value()) * size / 128) as i8).collect::<Vec<_>>().leak()
}

/// Owns what a [`ConvParams`] borrows.
pub(super) struct ConvCase {
    pub params: ConvParams<'static>,
    input: Vec<i8>,
    residual: Option<Vec<i8>>,
}

/// Where a run is cut in two.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Rows(usize),
    Blocks(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Pointwise,
    Dense,
    Grouped,
    /// Many groups of few channels.
    Narrow,
    Depthwise,
    Matrix,
    OneDimensional,
    /// 3x3 with many channels.
    Wide,
    /// What may be guarded: many channels in groups of four, inputs from near zero on, large ones none, few or many.
    Guarded,
    /// What may be arranged.
    Arranged,
}

const KINDS: [Kind; 10] = [
    Kind::Pointwise,
    Kind::Dense,
    Kind::Grouped,
    Kind::Narrow,
    Kind::Depthwise,
    Kind::Matrix,
    Kind::OneDimensional,
    Kind::Wide,
    Kind::Guarded,
    Kind::Arranged,
];

fn shape(random: &mut Random, kind: Kind) -> ([usize; 3], usize, usize, [usize; 2]) {
    let channels = |random: &mut Random| random.pick(&[1, 2, 3, 4, 7, 8, 16, 17, 24, 33]);
    let (c, o) = (channels(random), channels(random));
    let image = [random.range(1..9), random.range(1..22), c];
    match kind {
        Kind::Pointwise => (image, o, 1, [1, 1]),
        Kind::Dense => (image, o, 1, [random.range(1..6), random.range(1..6)]),
        Kind::Grouped => {
            let groups = random.range(2..4);
            ([image[0], image[1], c * groups], o * groups, groups, [random.range(1..4), random.range(1..4)])
        }
        Kind::Narrow => {
            let (groups, inputs, outputs) = (random.range(2..20), random.range(1..6), random.range(1..9));
            ([image[0], image[1], inputs * groups], outputs * groups, groups, [random.range(1..4), random.range(1..4)])
        }
        Kind::Depthwise => {
            let c = c.max(2);
            let image = if random.chance(3) { [image[0], random.range(22..100)] } else { [image[0], image[1]] };
            let kernel = if random.chance(3) { [random.range(1..6), random.range(1..6)] } else { [random.pick(&[3, 5]); 2] };
            ([image[0], image[1], c], c, c, kernel)
        }
        Kind::Matrix => ([1, random.range(1..7), random.range(1..300)], o, 1, [1, 1]),
        Kind::OneDimensional => ([1, random.range(1..40), c], o, 1, [1, random.range(1..10)]),
        Kind::Wide => ([image[0], image[1], random.pick(&[16, 32, 48])], o, 1, [3, 3]),
        Kind::Guarded => {
            let side = random.pick(&[1, 1, 3]);
            ([image[0], image[1], random.pick(&[16, 32, 36, 64, 140, 300])], o, 1, [side, random.range(1..4)])
        }
        Kind::Arranged => ([image[0], image[1], random.pick(&[32, 33, 48, 64, 96, 140])], random.pick(&[3, 16, 17, 40, 130]), 1, [1, 1]),
    }
}

impl ConvCase {
    pub fn random(random: &mut Random, kind: Kind) -> ConvCase {
        let ([height, width, channels], out_channels, groups, kernel) = shape(random, kind);
        let stride = if random.chance(2) { [1, 1] } else { [random.range(1..3), 2] };
        let stride = if matches!(kind, Kind::Depthwise) { [stride[1]; 2] } else { stride };
        let stride = if matches!(kind, Kind::Wide) { [1, 1] } else { stride };
        let guarded = matches!(kind, Kind::Guarded);
        let dilation = if random.chance(4) { [random.range(1..3), random.range(1..3)] } else { [1, 1] };
        let pad = [random.range(0..kernel[0] + 1), random.range(0..kernel[1] + 1)];
        let end_pad = [random.range(0..kernel[0] + 1), random.range(0..kernel[1] + 1)];
        let size = |axis: usize, input: usize| {
            let reach = (kernel[axis] - 1) * dilation[axis] + 1;
            (input + pad[axis] + end_pad[axis]).checked_sub(reach).map_or(1, |n| n / stride[axis] + 1)
        };
        let output = Layout::new(size(0, height), size(1, width), out_channels);
        let output_border = random.border(Border::default());
        let taps = channels / groups * kernel[0] * kernel[1];
        let quant = random.quant();
        let with_residual = groups != channels.max(2) && random.chance(3);
        let mut params = ConvParams {
            input: random.place(Layout::new(height, width, channels)),
            output: random.place(output.with_border(output_border)),
            kernel,
            stride,
            dilation,
            pad,
            groups,
            input_zero: if guarded { i8::MIN + random.range(0..33) as i8 } else { random.value() },
            weights: match kind {
                Kind::Arranged => {
                    let more = random.pick(&[20, 200, usize::MAX]);
                    Int8Weights { values: arrangeable(random, out_channels, taps, more), zeros: &[] }
                }
                _ => weights(random, out_channels * taps, out_channels),
            },
            bias: (0..out_channels).map(|_| random.range(0..200_000) as i32 - 100_000).collect::<Vec<_>>().leak(),
            multipliers: (0..out_channels).map(|_| random.multiplier(taps)).collect::<Vec<_>>().leak(),
            quant,
            residual: with_residual.then(|| (random.add_quant(quant.zero_point), random.place(output))),
        };
        params.input.border = random.border(params.border());
        let mut input = random.values(height * width * channels);
        if guarded {
            let few = random.pick(&[2, 20, 300, usize::MAX]);
            let pairs = input.chunks_mut(2).filter(|_| !random.chance(few));
            pairs.flatten().for_each(|value| *value = (*value & 0x3F) | i8::MIN);
        }
        // Below every ceiling.
        if matches!(kind, Kind::Depthwise) && random.chance(2) {
            input.iter_mut().for_each(|value| *value |= i8::MIN);
        }
        let residual = params.residual.map(|_| random.values(output.height * output.width * out_channels));
        ConvCase { params, input, residual }
    }

    fn expected(&self) -> Vec<i8> {
        let own = reference::conv2d(&self.params, &self.input);
        match (&self.params.residual, &self.residual) {
            (Some((add, _)), Some(other)) => reference::add(add, &own, other),
            _ => own,
        }
    }

    /// Runs in row ranges, or in ranges of blocks of output channels, with every byte that the kernel must not touch set to a canary.
    /// `kept`: with weights as a later start takes them.
    fn run(&self, isa: Isa, cut: Cut, in_place: bool, kept: bool) -> Vec<i8> {
        let mut params = self.params.clone();
        if let (Some((_, layout)), true) = (&mut params.residual, in_place) {
            *layout = params.output;
        }
        let conv = if kept { through_a_pantry(isa, &params) } else { Conv::prepare(isa, &params).unwrap() };
        let mut input = vec![0xA5; params.input.bytes()];
        params.input.scatter(&self.input, params.input_zero, &mut input);
        let other = params.residual.as_ref().zip(self.residual.as_ref()).map(|((_, layout), values)| {
            let mut bytes = vec![0xA5; layout.bytes()];
            layout.scatter(values, 0, &mut bytes);
            bytes
        });
        let mut output = vec![0x5A; params.output.bytes()];
        if let (Some(other), true) = (&other, in_place) {
            output.copy_from_slice(other);
        }
        let mut scratch = vec![0xFF; conv.scratch_bytes()];
        let residual = other.as_deref().filter(|_| !in_place);
        match cut {
            Cut::Blocks(at) if conv.blocks() > 1 => {
                conv.run_channels(&input, output.as_mut_slice().into(), two(at, conv.blocks()), residual, &mut scratch);
            }
            Cut::Rows(at) | Cut::Blocks(at) => two(at, params.output.height)
                .for_each(|rows| conv.run(&input, &mut output[params.output.rows(rows.clone())], rows, residual, &mut scratch)),
        }
        let zero = params.residual.map_or(params.quant.zero_point, |(add, _)| add.output.zero_point);
        check_surroundings(&params.output, &output, zero, if in_place && other.is_some() { None } else { Some(0x5A) });
        params.output.gather(&output)
    }
}

/// What a pantry gives that a preparation of the same filled.
fn through_a_pantry(isa: Isa, params: &ConvParams) -> Conv {
    let shelf = stored::Shelf::default();
    let mut pantry = Pantry::Filling(Writer::new(shelf.clone()));
    let packed = Conv::prepare_from(isa, params, &mut pantry).unwrap();
    let Pantry::Filling(writer) = pantry else { panic!("no longer filling") };
    writer.finish().unwrap();
    let mut pantry = Pantry::Stocked(Reader::new(shelf.stable(), 0));
    let bare = ConvParams { weights: Int8Weights::default(), bias: &[], multipliers: &[], ..params.clone() };
    let taken = Conv::kept(isa, &bare, &mut pantry);
    assert!(matches!(pantry, Pantry::Stocked(reader) if reader.is_empty()), "all is read: {params:?}");
    assert_eq!(taken.is_none(), params.is_depthwise(), "{params:?}");
    taken.unwrap_or(packed)
}

/// The values in their place, everything around them 0xA5.
pub(super) fn placed(layout: &Layout, values: &[i8], zero_point: i8) -> Vec<u8> {
    let mut bytes = vec![0xA5; layout.bytes()];
    layout.scatter(values, zero_point, &mut bytes);
    bytes
}

/// What lies before `at`, and the rest of `all`, where there is any.
fn two(at: usize, all: usize) -> impl Iterator<Item = Range<usize>> {
    [0..at.min(all), at.min(all)..all].into_iter().filter(|range| !range.is_empty())
}

/// Runs an operator over rows `0..cut` and the rest, checks that it wrote its own bytes only, and returns the values.
/// `before` is what the output's place holds at first, for operators in place.
pub(super) fn in_two(
    layout: &Layout,
    cut: usize,
    before: Option<&[u8]>,
    zero: i8,
    mut run: impl FnMut(&mut [u8], Range<usize>),
) -> Vec<i8> {
    let mut output = before.map_or_else(|| vec![0x5A; layout.bytes()], <[u8]>::to_vec);
    for rows in two(cut, layout.height) {
        run(&mut output[layout.rows(rows.clone())], rows);
    }
    check_surroundings(layout, &output, zero, Some(if before.is_some() { 0xA5 } else { 0x5A }));
    layout.gather(&output)
}

/// The border holds the zero point, and bytes of other channels and the slack still hold the canary.
pub(super) fn check_surroundings(layout: &Layout, bytes: &[u8], zero: i8, canary: Option<u8>) {
    let mut expected = vec![canary.unwrap_or(0); bytes.len()];
    layout.scatter(&layout.gather(bytes), zero, &mut expected);
    let pixels = bytes.len() - SLACK;
    for (i, (found, expected)) in bytes[..pixels].iter().zip(&expected).enumerate() {
        let ours = (layout.first_channel..layout.first_channel + layout.channels).contains(&(i % layout.pixel_stride));
        assert!(found == expected || (canary.is_none() && !ours), "byte {i} of {layout:?}: {found} instead of {expected}");
    }
    assert!(canary.is_none_or(|canary| bytes[pixels..].iter().all(|&b| b == canary)), "slack of {layout:?} written");
}

pub(super) fn cases() -> u64 {
    std::env::var("JOULED_KERNEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150)
}

#[test]
fn every_convolution_equals_the_reference() {
    for seed in 0..cases() {
        for kind in KINDS {
            let mut random = Random::new(seed * 16 + kind as u64 + 1);
            let case = ConvCase::random(&mut random, kind);
            let expected = case.expected();
            for isa in Isa::supported() {
                let cut = random.range(0..case.params.output.height + 1);
                let cut = if random.chance(3) { Cut::Blocks(random.range(0..4)) } else { Cut::Rows(cut) };
                let found = case.run(isa, cut, case.residual.is_some() && random.chance(2), random.chance(2));
                assert!(found == expected, "{} {kind:?} seed {seed} {cut:?}\n{:?}", isa.name(), case.params);
            }
        }
    }
}

#[test]
fn rows_larger_than_a_chunk_and_deep_sums_equal_the_reference() {
    let mut random = Random::new(7);
    for (width, channels, out, kernel) in [(40, 512, 9, 3), (1, 4096, 20, 1), (130, 64, 16, 3)] {
        let mut case = ConvCase::random(&mut random, Kind::Pointwise);
        let taps = channels * kernel * kernel;
        case.params = ConvParams {
            input: Layout::new(5, width, channels),
            output: Layout::new(5, width, out),
            kernel: [kernel; 2],
            stride: [1, 1],
            dilation: [1, 1],
            pad: [kernel / 2; 2],
            groups: 1,
            weights: Int8Weights { values: random.values(out * taps).leak(), zeros: &[] },
            bias: vec![-9; out].leak(),
            multipliers: vec![random.multiplier(taps); out].leak(),
            residual: None,
            ..case.params.clone()
        };
        case.params.input.border = case.params.border();
        case.residual = None;
        case.input = random.values(5 * width * channels);
        let expected = case.expected();
        Isa::supported()
            .into_iter()
            .for_each(|isa| assert!(case.run(isa, Cut::Rows(3), false, true) == expected, "{} {width} {channels}", isa.name()));
    }
}

/// Byte products that saturate nowhere, in one pair of a pixel, in half of all and in all of them.
#[test]
fn guarded_weights_equal_the_reference_however_many_products_saturate() {
    let mut random = Random::new(13);
    for (channels, out, kernel, large) in [(64, 40, 1, 0), (64, 40, 1, 1), (1024, 17, 1, 1), (48, 8, 2, 1), (64, 40, 1, 2), (32, 24, 2, 3)]
    {
        let mut case = ConvCase::random(&mut random, Kind::Pointwise);
        let taps = channels * kernel * kernel;
        let output = Layout::new(5, 9, out);
        case.params = ConvParams {
            input: Layout::new(5, 9, channels),
            output,
            kernel: [kernel; 2],
            stride: [1, 1],
            dilation: [1, 1],
            pad: [kernel / 2; 2],
            groups: 1,
            input_zero: i8::MIN,
            weights: Int8Weights {
                values: (0..out * taps / 2).flat_map(|_| [random.pick(&[127, -128]); 2]).collect::<Vec<_>>().leak(),
                zeros: &[],
            },
            bias: vec![5; out].leak(),
            multipliers: vec![random.multiplier(taps); out].leak(),
            residual: Some((random.add_quant(case.params.quant.zero_point), output)),
            ..case.params.clone()
        };
        case.params.input.border = case.params.border();
        case.residual = Some(random.values(5 * 9 * out));
        case.input = vec![i8::MIN + 100; 5 * 9 * channels];
        for pixel in case.input.chunks_exact_mut(channels) {
            let pair = random.range(0..channels / 2) * 2;
            match large {
                0 => {}
                1 => pixel[pair..pair + 2].fill(i8::MAX),
                2 => pixel[pair..].fill(i8::MAX),
                _ => pixel.fill(i8::MAX),
            }
        }
        let expected = case.expected();
        for isa in Isa::supported() {
            let guarded = Conv::prepare(isa, &case.params).unwrap().describe().ends_with("guarded");
            assert_eq!(guarded, isa.name() == "avx2", "{} {channels}", isa.name());
            assert!(case.run(isa, Cut::Rows(2), random.chance(2), random.chance(2)) == expected, "{} {channels} {large}", isa.name());
        }
    }
}

/// Several chunks of rows, blocks that share an order, one that keeps its inputs as they are, inputs that change halves.
#[test]
fn arranged_inputs_equal_the_reference() {
    let mut random = Random::new(17);
    for (width, channels, out) in [(7, 64, 40), (100, 512, 48), (1, 96, 200), (30, 63, 64)] {
        let mut case = ConvCase::random(&mut random, Kind::Arranged);
        let output = Layout::new(5, width, out);
        let mut values = arrangeable(&mut random, out, channels, usize::MAX).to_vec();
        values[..16 * channels].fill(100);
        case.params = ConvParams {
            input: random.place(Layout::new(5, width, channels)),
            output,
            stride: [1, 1],
            dilation: [1, 1],
            pad: [0, 0],
            weights: Int8Weights { values: values.leak(), zeros: &[] },
            bias: vec![-77; out].leak(),
            multipliers: vec![random.multiplier(channels); out].leak(),
            residual: Some((random.add_quant(case.params.quant.zero_point), output)),
            input_zero: 0,
            ..case.params.clone()
        };
        case.residual = Some(random.values(5 * width * out));
        case.input = random.values(5 * width * channels);
        let expected = case.expected();
        for isa in Isa::supported() {
            let what = Conv::prepare(isa, &case.params).unwrap().describe();
            assert_eq!(what.contains("arranged"), isa.name() == "avx2", "{what} {channels}");
            assert!(isa.name() != "avx2" || !what.contains(" 0 % of the weights wide"), "{what}");
            for cut in [Cut::Rows(2), Cut::Blocks(2)] {
                assert!(case.run(isa, cut, false, true) == expected, "{what} {width} {channels} {cut:?}");
            }
        }
    }
}

/// Sums at the ends of their range, products at the ends of `f32`'s and halfway between whole numbers: dense, with a residual,
/// depthwise. Weights are zero, so a sum is its bias.
#[test]
fn requantization_equals_the_reference_at_its_edges() {
    const SUMS: [i32; 12] = [0, 1, -1, 3, -5, 255, -77, 16_777_217, -16_777_219, i32::MAX, -i32::MAX, 1 << 30];
    const FACTORS: [f32; 10] = [f32::MIN_POSITIVE, 1e-30, 3.0e-8, 0.003, 0.5, -0.5, 1.5, 2.0, 1e9, 1.152_921_5e18];
    let (bias, multipliers): (Vec<i32>, Vec<f32>) = SUMS.iter().flat_map(|&sum| FACTORS.map(|factor| (sum, factor))).unzip();
    let channels = bias.len();
    let mut random = Random::new(11);
    for kind in [Kind::Pointwise, Kind::Depthwise].into_iter().cycle().take(40) {
        let depthwise = matches!(kind, Kind::Depthwise);
        let layout = Layout::new(2, 3, channels);
        let quant = random.quant();
        let ratio = |random: &mut Random| random.pick(&[f32::MIN_POSITIVE, -f32::MIN_POSITIVE, 0.5, -0.25, 1.25, 3e8, -1e18]);
        let add = AddQuant {
            a_ratio: ratio(&mut random),
            b_ratio: ratio(&mut random) * 1.000_000_2,
            a_zero: quant.zero_point,
            ..random.add_quant(0)
        };
        let residual = !depthwise && random.chance(2);
        let case = ConvCase {
            params: ConvParams {
                input: if depthwise { layout } else { Layout::new(2, 3, 1) },
                output: layout,
                kernel: [1, 1],
                stride: [1, 1],
                dilation: [1, 1],
                pad: [0, 0],
                groups: if depthwise { channels } else { 1 },
                input_zero: random.value(),
                weights: Int8Weights { values: vec![0; channels].leak(), zeros: &[] },
                bias: bias.clone().leak(),
                multipliers: multipliers.clone().leak(),
                quant,
                residual: residual.then_some((add, layout)),
            },
            input: random.values(6 * if depthwise { channels } else { 1 }),
            residual: residual.then(|| random.values(6 * channels)),
        };
        let expected = case.expected();
        Isa::supported()
            .into_iter()
            .for_each(|isa| assert!(case.run(isa, Cut::Rows(1), false, false) == expected, "{} {:?}", isa.name(), case.params));
    }
}

fn pool_case(random: &mut Random) -> (PoolParams, Vec<i8>) {
    let input = Layout::new(random.range(1..9), random.range(1..9), random.pick(&[1, 3, 16, 20, 35]));
    let kernel = if random.chance(3) { [input.height, input.width] } else { [random.range(1..4), random.range(1..4)] };
    let stride = [random.range(1..3), random.range(1..3)];
    let pad = [random.range(0..kernel[0]), random.range(0..kernel[1])];
    let size = |axis: usize, input: usize| (input + 2 * pad[axis]).checked_sub(kernel[axis]).map_or(1, |n| n / stride[axis] + 1);
    let last = |axis: usize, size: usize, input: usize| size.min((input + pad[axis] - 1) / stride[axis] + 1);
    let (height, width) = (last(0, size(0, input.height), input.height), last(1, size(1, input.width), input.width));
    let output_border = random.border(Border::default());
    let output = random.place(Layout::new(height, width, input.channels).with_border(output_border));
    let quant = random.quant();
    let average = PoolKind::Average {
        input_zero: random.value(),
        ratio: 0.3 + random.range(0..100) as f32 / 50.0,
        count_padding: random.chance(2),
        quant,
    };
    let kind = if random.chance(2) { PoolKind::Max } else { average };
    let input_border = random.border(Border::default());
    let values = random.values(input.height * input.width * input.channels);
    (
        PoolParams {
            input: random.place(input.with_border(input_border)),
            output,
            kernel,
            stride,
            pad,
            kind,
            output_zero: quant.zero_point,
        },
        values,
    )
}

#[test]
fn every_pool_equals_the_reference() {
    for seed in 0..4 * cases() {
        let mut random = Random::new(seed + 90_000);
        let (params, values) = pool_case(&mut random);
        let mut input = vec![0xA5; params.input.bytes()];
        params.input.scatter(&values, 0, &mut input);
        let cut = random.range(0..params.output.height + 1);
        for isa in Isa::supported() {
            let pool = Pool::prepare(isa, &params).unwrap();
            let mut output = vec![0x5A; params.output.bytes()];
            for rows in [0..cut, cut..params.output.height].into_iter().filter(|r| !r.is_empty()) {
                let owned = params.output.rows(rows.clone());
                pool.run(&input, &mut output[owned], rows);
            }
            check_surroundings(&params.output, &output, params.output_zero, Some(0x5A));
            assert!(params.output.gather(&output) == reference::pool(&params, &values), "{} seed {seed} {params:?}", isa.name());
        }
    }
}

#[test]
fn sums_and_tables_equal_the_reference() {
    for seed in 0..2 * cases() {
        let mut random = Random::new(seed + 50_000);
        let shape = Layout::new(random.range(1..5), random.range(1..9), random.range(1..40));
        let count = shape.height * shape.width * shape.channels;
        let layout = |random: &mut Random| {
            let border = random.border(Border::default());
            random.place(shape.with_border(border))
        };
        let (la, lb, lo) = (layout(&mut random), layout(&mut random), layout(&mut random));
        let (a, b) = (random.values(count), random.values(count));
        let zero = random.value();
        let quant = random.add_quant(zero);
        let (mut ba, mut bb, mut out) = (vec![1; la.bytes()], vec![2; lb.bytes()], vec![0x5A; lo.bytes()]);
        la.scatter(&a, 0, &mut ba);
        lb.scatter(&b, 0, &mut bb);
        let values: [i8; 256] = std::array::from_fn(|_| random.value());
        for isa in Isa::supported() {
            Add::prepare(isa, quant, la, lb, lo).unwrap().run(&ba, &bb, &mut out, 0..shape.height);
            check_surroundings(&lo, &out, quant.output.zero_point, Some(0x5A));
            assert!(lo.gather(&out) == reference::add(&quant, &a, &b), "{} seed {seed} {quant:?}", isa.name());
            Table::prepare(isa, &values, 3, la, lo).unwrap().run(Some(&ba), &mut out, 0..shape.height);
            assert!(lo.gather(&out) == reference::table(&values, &a), "{} seed {seed}", isa.name());
            let mut in_place = ba.clone();
            Table::prepare(isa, &values, 3, la, la).unwrap().run(None, &mut in_place, 0..shape.height);
            assert!(la.gather(&in_place) == reference::table(&values, &a), "{} seed {seed}", isa.name());
        }
    }
}

#[test]
fn bad_parameters_are_refused_with_what_was_wrong() {
    let mut random = Random::new(3);
    let good = loop {
        let case = ConvCase::random(&mut random, Kind::Dense);
        if case.params.pad[0] > 0 && case.params.residual.is_none() {
            break case.params;
        }
    };
    let isa = Isa::best();
    let refused = |change: &dyn Fn(&mut ConvParams<'static>)| {
        let mut params = good.clone();
        change(&mut params);
        Conv::prepare(isa, &params).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(refused(&|p| p.input.border.top = p.pad[0] - 1).contains("top border"));
    assert!(refused(&|p| p.multipliers = vec![f32::NAN; p.multipliers.len()].leak()).contains("scale ratio NaN"));
    assert!(refused(&|p| p.weights.values = &p.weights.values[1..]).contains("weights: expected"));
    assert!(refused(&|p| p.bias = vec![i32::MAX; p.bias.len()].leak()).contains("beyond the 2147483647"));
    assert!(refused(&|p| p.stride[1] = 0).contains("stride: 0"));
    assert!(refused(&|p| p.groups = 0).contains("groups: 0"));
    assert!(refused(&|p| p.dilation[0] = usize::MAX).contains("dilation"));
    assert!(refused(&|p| p.quant = OutputQuant { zero_point: 0, low: 1, high: 0 }).contains("1..=0 is empty"));
    assert!(refused(&|p| p.weights.zeros = vec![1; p.bias.len() + 1].leak()).contains("zero points of the weights"));
}
