//! Weights of a depthwise convolution: each channel is filtered by itself, eight channels are a **lane block**.
//!
//! Loops for any window multiply 16-bit numbers two taps at a time, so weights lie in tap pairs, `[lane block][tap pair][lane][2]`: taps
//! in row order; an odd last tap pairs with a zero weight. Those for windows of 3x3 and 5x5 with stride 1 or 2 slide over the input, with
//! weights in an order of their own.

use super::conv::ConvParams;
use super::pack::{Columns, Inputs, Style, folded_bias, is_loud};
use super::rows::check_rows;
#[cfg(target_arch = "x86_64")]
use super::sliding::Sliding;
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
    #[cfg(target_arch = "aarch64")]
    pub slides: bool,
    #[cfg(target_arch = "arm")]
    pub neon: super::neon32::Taps,
    /// True where `acc * scale` may exceed 32 bits.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 conversions do not saturate"))]
    pub loud: bool,
    /// Weights where the window is square and small.
    #[cfg(target_arch = "x86_64")]
    pub sliding: Option<Sliding>,
    /// Per channel, filled up to whole lane blocks.
    pub bias: Aligned<i32>,
    pub scale: Aligned<f32>,
}

impl Depthwise {
    /// `params` were checked and are depthwise. `style`: how the instruction set wants weights.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables, reason = "of interest to x86's sliding windows"))]
    pub fn pack(params: &ConvParams, style: &Style) -> Result<Depthwise, Error> {
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
            inputs: Inputs::AsTheyAre,
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
            #[cfg(target_arch = "aarch64")]
            slides: is_sliding(params),
            loud,
            #[cfg(target_arch = "x86_64")]
            sliding: is_sliding(params).then(|| Sliding::pack(style, &weights, params.kernel[0], params.stride[0])),
            bias: Aligned::new(&bias),
            scale: Aligned::new(&scale),
        })
    }

    /// Bytes of packed weights that one run reads.
    pub fn bytes(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if let Some(sliding) = &self.sliding {
            return sliding.weights.as_slice().len();
        }
        2 * self.paired.as_slice().len()
    }

    /// Panics unless `input` is the whole tensor and `output` the bytes that `rows` own.
    pub fn check(&self, input: &[u8], output: &[u8], rows: &std::ops::Range<usize>) {
        check_rows(&self.output, output, rows);
        assert!(input.len() >= self.input.bytes());
    }
}

#[cfg_attr(target_arch = "arm", allow(dead_code, reason = "all windows are alike there"))]
fn is_sliding(params: &ConvParams) -> bool {
    let square = params.kernel[0] == params.kernel[1] && params.stride[0] == params.stride[1] && params.dilation == [1, 1];
    square && matches!(params.kernel[0], 3 | 5) && matches!(params.stride[0], 1 | 2)
}

fn tap_pairs(params: &ConvParams) -> Vec<[usize; 2]> {
    let offsets: Vec<usize> = params.taps().collect();
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
