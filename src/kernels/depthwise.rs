//! Weights of a depthwise convolution: each channel is filtered by itself, eight channels are a **lane block**.
//!
//! Loops multiply 16-bit numbers two taps at a time, so weights lie in tap pairs:
//!
//! ```text
//!   any window:       [lane block][tap pair][lane][2]      taps in row order; an odd last tap pairs with a zero weight
//!   square, small:    [unit][phase][row pair][kernel column][lane][2]
//! ```
//!
//! The second form is for windows of 3x3 and 5x5 with stride 1 or 2. Input rows 2p and 2p + 1 of a group are widened and
//! interleaved once and serve every kernel column and several output rows. An output row whose window starts on the first row
//! of a pair is in phase 0, on the second (stride 1 only) in phase 1; kernel rows without a partner meet zero weights. A unit is
//! a lane block, or two of them for 3x3 (see [`wide_units`]), whose 16 lanes are then in the order of [`WIDE_ORDER`].

use super::conv::ConvParams;
use super::pack::{Columns, folded_bias, is_loud};
use super::stored::Aligned;
use super::{Error, Layout, OutputQuant};

/// Channels of a lane block.
pub(crate) const DW_LANES: usize = 8;

#[derive(Clone, Debug)]
pub(crate) struct Depthwise {
    pub input: Layout,
    pub output: Layout,
    pub quant: OutputQuant,
    /// Height of the window and its vertical stride.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "loops for one window each are x86's only"))]
    pub kernel: usize,
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "as the kernel"))]
    pub stride: usize,
    /// Input byte of the first window, and bytes from one window to the next: down, right.
    pub origin: usize,
    pub steps: [usize; 2],
    /// Input bytes of the two taps of each pair, from the window's first.
    pub taps: Vec<[usize; 2]>,
    pub paired: Aligned<i16>,
    /// The same weights as ARM's loops read them.
    #[cfg(target_arch = "aarch64")]
    pub bytes: super::neon::ByteTaps,
    #[cfg(target_arch = "arm")]
    pub neon: super::neon32::Taps,
    /// True where `acc * scale` may exceed 32 bits.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 conversions do not saturate"))]
    pub loud: bool,
    /// `None` where the window is not square and small.
    pub sliding: Option<Aligned<i16>>,
    /// Per channel, filled up to whole lane blocks.
    pub bias: Aligned<i32>,
    pub scale: Aligned<f32>,
}

impl Depthwise {
    /// `params` were checked and are depthwise.
    pub fn pack(params: &ConvParams) -> Result<Depthwise, Error> {
        if params.residual.is_some() {
            return Err(Error::Parameter { what: "residual addition of a depthwise convolution", found: 1 });
        }
        let channels = params.output.channels;
        let weights = params.weights_by_channel();
        let columns = Columns {
            channel: 0,
            weights: &weights,
            bias: params.bias,
            multipliers: params.multipliers,
            input_zero: params.input_zero,
            guarded: false,
        };
        let folded = (0..channels).map(|c| folded_bias(&columns, c)).collect::<Result<Vec<_>, Error>>()?;
        let loud = folded.iter().zip(params.multipliers).any(|(&(_, bound), &scale)| is_loud(bound, scale));
        let mut bias: Vec<i32> = folded.iter().map(|&(bias, _)| bias).collect();
        let mut scale = params.multipliers.to_vec();
        let padded = channels.next_multiple_of(DW_LANES);
        bias.resize(padded, 0);
        scale.resize(padded, 0.0);
        let taps = tap_pairs(params);
        Ok(Depthwise {
            input: params.input,
            output: params.output,
            quant: params.quant,
            kernel: params.kernel[0],
            stride: params.stride[0],
            origin: params.origin(),
            steps: params.steps(),
            #[cfg(target_arch = "arm")]
            neon: super::neon32::Taps::pack(&weights, padded, &taps),
            taps,
            paired: Aligned::new(&paired(&weights, padded)),
            #[cfg(target_arch = "aarch64")]
            bytes: super::neon::ByteTaps::pack(params, &weights, padded, is_sliding(params)),
            loud,
            sliding: is_sliding(params).then(|| Aligned::new(&sliding(params, &weights, padded))),
            bias: Aligned::new(&bias),
            scale: Aligned::new(&scale),
        })
    }

    /// Bytes of packed weights that one run reads.
    pub fn bytes(&self) -> usize {
        2 * self.sliding.as_ref().unwrap_or(&self.paired).as_slice().len()
    }

    /// Panics unless `input` is the whole tensor and `output` the bytes that `rows` own.
    pub fn check(&self, input: &[u8], output: &[u8], rows: &std::ops::Range<usize>) {
        assert!(rows.start < rows.end && rows.end <= self.output.height);
        assert!(input.len() >= self.input.bytes() && output.len() >= self.output.rows(rows.clone()).len());
    }
}

fn is_sliding(params: &ConvParams) -> bool {
    let square = params.kernel[0] == params.kernel[1] && params.stride[0] == params.stride[1] && params.dilation == [1, 1];
    square && matches!(params.kernel[0], 3 | 5) && matches!(params.stride[0], 1 | 2)
}

fn tap_pairs(params: &ConvParams) -> Vec<[usize; 2]> {
    let offsets: Vec<usize> =
        (0..params.kernel[0]).flat_map(|ky| (0..params.kernel[1]).map(move |kx| (ky, kx))).map(|(ky, kx)| params.tap(ky, kx)).collect();
    offsets.chunks(2).map(|pair| [pair[0], *pair.last().unwrap_or(&pair[0])]).collect()
}

fn paired(weights: &[Vec<i16>], padded: usize) -> Vec<i16> {
    let taps = weights[0].len();
    let weight = |channel: usize, tap: usize| weights.get(channel).and_then(|w| w.get(tap)).copied().unwrap_or(0);
    let mut out = Vec::with_capacity(padded * taps.next_multiple_of(2));
    for block in (0..padded).step_by(DW_LANES) {
        for tap in (0..taps).step_by(2) {
            out.extend((block..block + DW_LANES).flat_map(|channel| [weight(channel, tap), weight(channel, tap + 1)]));
        }
    }
    out
}

/// Byte weights as ARM's loops read them, `[lane block][tap][lane]` with an even number of taps: where the products of two taps fit 16
/// bits, that is, where every weight is above -128 and below 128.
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
pub(crate) fn byte_taps(weights: &[Vec<i16>], padded: usize) -> Option<Aligned<i8>> {
    let taps = weights[0].len().next_multiple_of(2);
    let weight = |channel: usize, tap: usize| weights.get(channel).and_then(|w| w.get(tap)).map_or(0, |&w| w as i8);
    let lanes = |block: usize, tap: usize| (block..block + DW_LANES).map(move |channel| weight(channel, tap));
    let blocks = (0..padded).step_by(DW_LANES);
    let fit = weights.iter().flatten().all(|w| (-127..=127).contains(w));
    fit.then(|| Aligned::new(&blocks.flat_map(|block| (0..taps).flat_map(move |tap| lanes(block, tap))).collect::<Vec<i8>>()))
}

/// Input rows that are interleaved.
pub(crate) const PAIR_ROWS: usize = 2;

/// Row pairs that a window of an odd height meets, whichever row of a pair it starts on.
pub(crate) const fn pairs_per_row(kernel: usize) -> usize {
    kernel.div_ceil(PAIR_ROWS)
}

/// Channels of two lane blocks as x86 interleaves them: its unpacks work on 128-bit halves.
pub(crate) const WIDE_ORDER: [usize; 2 * DW_LANES] = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15];

/// How many units of two lane blocks come first; the weights of wider windows would not fit the registers.
pub(crate) const fn wide_units(kernel: usize, channels: usize) -> usize {
    if kernel == 3 { channels / (2 * DW_LANES) } else { 0 }
}

fn sliding(params: &ConvParams, weights: &[Vec<i16>], padded: usize) -> Vec<i16> {
    let kernel = params.kernel[0];
    let weight = |channel: usize, ky: Option<usize>, kx: usize| {
        let ky = ky.filter(|&ky| ky < kernel);
        ky.zip(weights.get(channel)).map_or(0, |(ky, w)| w[ky * kernel + kx])
    };
    let mut out = Vec::new();
    let mut unit = |channels: &[usize]| {
        for phase in (0..PAIR_ROWS).step_by(params.stride[0]) {
            for (pair, kx) in (0..pairs_per_row(kernel)).flat_map(|pair| (0..kernel).map(move |kx| (pair, kx))) {
                let ky = |row: usize| (PAIR_ROWS * pair + row).checked_sub(phase);
                out.extend(channels.iter().flat_map(|&c| [weight(c, ky(0), kx), weight(c, ky(1), kx)]));
            }
        }
    };
    let wide = wide_units(kernel, params.output.channels) * 2 * DW_LANES;
    (0..wide).step_by(2 * DW_LANES).for_each(|first| unit(&WIDE_ORDER.map(|c| first + c)));
    (wide..padded).step_by(DW_LANES).for_each(|first| unit(&std::array::from_fn::<_, DW_LANES, _>(|c| first + c)));
    out
}
