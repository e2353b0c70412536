//! Depthwise convolutions of aarch64, eight channels at a time.
//!
//! Square windows of 3x3 and 5x5 with stride 1 or 2 **slide**: an input column is loaded once, serves every kernel column and,
//! with stride 1, two output rows, and stays in registers from one output pixel to the next. What a column is depends on
//! the instructions:
//!
//! ```text
//!   dot products:   rows 0..4 of each channel side by side, [channel][4 rows]: two zips of bytes and two of pairs; a step is
//!                   one SDOT for four channels and a kernel column. Row 4 and 5 of 5x5 make a second group.
//!   plain:          rows as they are; SMULL and SMLAL sum two taps in 16 bits, SADDW adds them up in 32.
//! ```
//!
//! Any other window takes its taps one pair after the other. Weights of -128 or beyond int8 go 16 bits wide.

use super::super::conv::ConvParams;
use super::super::depthwise::{DW_LANES, Depthwise, byte_taps as packed_taps};
use super::super::stored::Aligned;
use super::epilogue::{Finish, put_eight, scaled};
use super::sdot_lanes;
use std::arch::aarch64::*;
use std::ops::Range;

/// Byte weights, as the loops read them.
#[derive(Clone, Debug)]
pub(crate) struct ByteTaps {
    /// See [`packed_taps`].
    plain: Option<Aligned<i8>>,
    /// `[lane block][output row of two][group of four input rows][kernel column][lane][4 rows]`, where every weight is an int8.
    dots: Option<Aligned<i8>>,
}

impl ByteTaps {
    /// `weights[channel][tap]`; channels are filled up to `padded`. `slides`: the window is square and small.
    pub fn pack(params: &ConvParams, weights: &[Vec<i16>], padded: usize, slides: bool) -> ByteTaps {
        let fit = weights.iter().flatten().all(|&w| i8::try_from(w).is_ok());
        ByteTaps { plain: packed_taps(weights, padded), dots: (slides && fit).then(|| Aligned::new(&dots(params, weights, padded))) }
    }
}

fn dots(params: &ConvParams, weights: &[Vec<i16>], padded: usize) -> Vec<i8> {
    let kernel = params.kernel[0];
    let mut out = Vec::new();
    for block in (0..padded).step_by(DW_LANES) {
        for phase in 0..output_rows(params.stride[0]) {
            for (group, kx) in (0..input_rows(kernel, params.stride[0]).div_ceil(4)).flat_map(|g| (0..kernel).map(move |kx| (g, kx))) {
                let weight = |channel: usize, row: usize| {
                    let ky = (4 * group + row).checked_sub(phase).filter(|&ky| ky < kernel);
                    ky.zip(weights.get(channel)).map_or(0, |(ky, w)| w[ky * kernel + kx] as i8)
                };
                out.extend((block..block + DW_LANES).flat_map(|channel| [0, 1, 2, 3].map(|row| weight(channel, row))));
            }
        }
    }
    out
}

/// Output rows that share their columns.
const fn output_rows(stride: usize) -> usize {
    if stride == 1 { 2 } else { 1 }
}

/// Input rows of a column.
const fn input_rows(kernel: usize, stride: usize) -> usize {
    kernel + output_rows(stride) - 1
}

/// Computes `rows`.
///
/// # Safety
/// `dw.check` passed, and the CPU has dot products where `dot` is set.
#[target_feature(enable = "neon")]
pub(super) unsafe fn rows(dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>, dot: bool) {
    let slides = dw.slides;
    // SAFETY: the function's contract; weights are packed for the loops that they are handed to.
    unsafe {
        match &dw.bytes {
            ByteTaps { dots: Some(weights), .. } if slides && dot => slide_rows(dw, input, output, rows, weights, slide_dot),
            ByteTaps { plain: Some(weights), .. } if slides => slide_rows(dw, input, output, rows, weights, slide_plain),
            bytes => any_window(dw, bytes.plain.as_ref(), input, output, rows),
        }
    }
}

// ----------------------------------------------------------------------------------------------------------- sliding

/// One lane block of one or two output rows.
struct Lane<'a> {
    /// First window's first byte.
    from: *const i8,
    /// Bytes from an input pixel to the next one on the right, and below.
    steps: [usize; 2],
    to: *mut u8,
    /// Bytes from an output pixel to the next one on the right, and below.
    to_steps: [usize; 2],
    width: usize,
    /// Channels of the block.
    count: usize,
    weights: *const i8,
    bias: [int32x4_t; 2],
    scale: [float32x4_t; 2],
    finish: &'a Finish,
}

type Slide = unsafe fn([usize; 2], usize, &Lane<'_>);

/// # Safety
/// As [`rows`]; `weights` are those of `slide`.
#[target_feature(enable = "neon")]
unsafe fn slide_rows(dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>, weights: &Aligned<i8>, slide: Slide) {
    let base = dw.output.rows(rows.clone()).start;
    let finish = &Finish::new(&dw.quant);
    let channels = dw.output.channels;
    let weights = weights.as_slice();
    let block_weights = weights.len() / channels.div_ceil(DW_LANES);
    let mut y = rows.start;
    while y < rows.end {
        let high = output_rows(dw.stride).min(rows.end - y);
        for channel in (0..channels).step_by(DW_LANES) {
            // SAFETY: the rows of the windows are inside the input, eight bytes are readable at every pixel because of the slack;
            // weights, bias and scale are filled up to whole lane blocks; the pixels of the rows are inside the output.
            unsafe {
                let (bias, scale) = (dw.bias.as_slice().as_ptr().add(channel), dw.scale.as_slice().as_ptr().add(channel));
                let lane = Lane {
                    from: input.as_ptr().add(dw.origin + y * dw.steps[0] + channel).cast(),
                    steps: [dw.input.pixel_stride, dw.input.row_stride()],
                    to: output.as_mut_ptr().add(dw.output.offset(y, 0) - base + channel),
                    to_steps: [dw.output.pixel_stride, dw.output.row_stride()],
                    width: dw.output.width,
                    count: DW_LANES.min(channels - channel),
                    weights: weights.as_ptr().add(channel / DW_LANES * block_weights),
                    bias: [vld1q_s32(bias), vld1q_s32(bias.add(4))],
                    scale: [vld1q_f32(scale), vld1q_f32(scale.add(4))],
                    finish,
                };
                slide([dw.kernel, dw.stride], high, &lane);
            }
        }
        y += high;
    }
}

/// Registers of a column of `rows` input rows.
const fn plain_words(rows: usize) -> usize {
    rows
}

const fn dot_words(rows: usize) -> usize {
    2 * rows.div_ceil(4)
}

/// Weights that stay in registers over a row.
const HELD: usize = 12;

/// `acc[y][..] +=` the plain products of a window: `$window[kx]` is a column. Macros, so that everything unrolls where it stands.
macro_rules! plain_sums {
    ($window:ident, $held:ident, $weights:expr, $acc:ident) => {
        plain_sums!($window, $held, $weights, $acc, 0 2 4 6 8);
        if KERNEL == 5 {
            plain_sums!($window, $held, $weights, $acc, 10 12 14 16 18 20 22 24);
        }
    };
    ($window:ident, $held:ident, $weights:expr, $acc:ident, $($tap:literal)*) => {
        $(
            let weight = |tap: usize| match (KERNEL, tap % 2) {
                (3, 0) => vget_low_s8($held[tap / 2 % HELD]),
                (3, _) => vget_high_s8($held[tap / 2 % HELD]),
                _ => vld1_s8($weights.add(tap * DW_LANES)),
            };
            for (y, acc) in $acc.iter_mut().enumerate() {
                let x = |tap: usize| vget_low_s8($window[tap % KERNEL][tap / KERNEL + y]);
                let mut sum = vmull_s8(x($tap), weight($tap));
                if $tap + 1 < KERNEL * KERNEL {
                    sum = vmlal_s8(sum, x($tap + 1), weight($tap + 1));
                }
                *acc = [vaddw_s16(acc[0], vget_low_s16(sum)), vaddw_high_s16(acc[1], sum)];
            }
        )*
    };
}

/// The same with dot products.
macro_rules! dot_sums {
    ($window:ident, $held:ident, $weights:expr, $acc:ident) => {
        for (kx, column) in $window.iter().enumerate() {
            for (word, x) in column.iter().enumerate() {
                for (y, acc) in $acc.iter_mut().enumerate() {
                    let index = ((y * (WORDS / 2) + word / 2) * KERNEL + kx) * 2 + word % 2;
                    let w = if KERNEL == 3 { $held[index % HELD] } else { vld1q_s8($weights.add(index * 16)) };
                    acc[word % 2] = sdot_lanes(acc[word % 2], w, *x);
                }
            }
        }
    };
}

/// Defines the [`Slide`] `$name`, which goes along a row by `$walk`: columns of `$words(rows)` registers that `$column` loads
/// and `$sums` multiplies. Once for each set of CPU features, because what is called must have the caller's to be inlined.
macro_rules! slide {
    ($name:ident, $walk:ident, $features:literal, $words:ident, $column:ident, $sums:ident) => {
        /// # Safety
        /// The CPU has the features; the window is 3x3 or 5x5 with stride 1 or 2; the lane's pointers hold for its width.
        #[target_feature(enable = $features)]
        unsafe fn $name(window: [usize; 2], high: usize, lane: &Lane<'_>) {
            // SAFETY: the function's contract.
            unsafe {
                match (window, high) {
                    ([3, 1], 2) => $walk::<3, 1, 2, 4, { $words(4) }>(lane),
                    ([3, 1], _) => $walk::<3, 1, 1, 3, { $words(3) }>(lane),
                    ([3, _], _) => $walk::<3, 2, 1, 3, { $words(3) }>(lane),
                    ([_, 1], 2) => $walk::<5, 1, 2, 6, { $words(6) }>(lane),
                    ([_, 1], _) => $walk::<5, 1, 1, 5, { $words(5) }>(lane),
                    _ => $walk::<5, 2, 1, 5, { $words(5) }>(lane),
                }
            }
        }

        /// Column `c` of the input stays in slot `c % KERNEL` as long as an output pixel needs it. Steps are written out for
        /// `KERNEL` pixels, so that slots are registers.
        ///
        /// # Safety
        /// As the function above.
        #[target_feature(enable = $features)]
        unsafe fn $walk<const KERNEL: usize, const STRIDE: usize, const HIGH: usize, const ROWS: usize, const WORDS: usize>(
            lane: &Lane<'_>,
        ) {
            let mut columns = [[vdupq_n_s8(0); WORDS]; KERNEL];
            let (mut from, mut to, mut left) = (lane.from, lane.to, lane.width);
            let below = lane.steps[1];
            // SAFETY: the function's contract.
            unsafe {
                let held: [int8x16_t; HELD] =
                    std::array::from_fn(|i| if KERNEL == 3 { vld1q_s8(lane.weights.add(i * 16)) } else { vdupq_n_s8(0) });
                for column in columns.iter_mut().take(KERNEL - STRIDE) {
                    *column = $column::<ROWS, WORDS>(from, below);
                    from = from.wrapping_add(lane.steps[0]);
                }
                macro_rules! pixel {
                    ($i:literal) => {
                        for new in KERNEL - STRIDE..KERNEL {
                            columns[($i * STRIDE + new) % KERNEL] = $column::<ROWS, WORDS>(from, below);
                            from = from.wrapping_add(lane.steps[0]);
                        }
                        let window: [&[int8x16_t; WORDS]; KERNEL] = std::array::from_fn(|kx| &columns[($i * STRIDE + kx) % KERNEL]);
                        let mut acc = [lane.bias; HIGH];
                        $sums!(window, held, lane.weights, acc);
                        finish::<HIGH>(lane, &acc, to);
                        (to, left) = (to.add(lane.to_steps[0]), left - 1);
                        if left == 0 {
                            return;
                        }
                    };
                }
                loop {
                    pixel!(0);
                    pixel!(1);
                    pixel!(2);
                    if KERNEL == 5 {
                        pixel!(3);
                        pixel!(4);
                    }
                }
            }
        }
    };
}

slide!(slide_plain, walk_plain, "neon", plain_words, plain_column, plain_sums);
slide!(slide_dot, walk_dot, "neon,dotprod", dot_words, dot_column, dot_sums);

/// # Safety
/// Eight bytes are readable in each of the column's rows.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn row(from: *const i8, below: usize, row: usize) -> int8x16_t {
    // SAFETY: the function's contract.
    vcombine_s8(unsafe { vld1_s8(from.add(row * below)) }, vdup_n_s8(0))
}

/// # Safety
/// As [`row`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn plain_column<const ROWS: usize, const WORDS: usize>(from: *const i8, below: usize) -> [int8x16_t; WORDS] {
    // SAFETY: the function's contract.
    std::array::from_fn(|i| unsafe { row(from, below, i) })
}

/// # Safety
/// As [`row`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot_column<const ROWS: usize, const WORDS: usize>(from: *const i8, below: usize) -> [int8x16_t; WORDS] {
    let mut words = [vdupq_n_s8(0); WORDS];
    for group in 0..WORDS / 2 {
        // SAFETY: the function's contract. Rows past the last meet zero weights: any bytes will do.
        let row = |i: usize| unsafe { row(from, below, (4 * group + i).min(ROWS - 1)) };
        let (low, high) = (vreinterpretq_s16_s8(vzip1q_s8(row(0), row(1))), vreinterpretq_s16_s8(vzip1q_s8(row(2), row(3))));
        words[2 * group] = vreinterpretq_s8_s16(vzip1q_s16(low, high));
        words[2 * group + 1] = vreinterpretq_s8_s16(vzip2q_s16(low, high));
    }
    words
}

/// Requantizes and writes one pixel of each output row.
///
/// # Safety
/// `to` is a pixel of the lane's first row.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn finish<const HIGH: usize>(lane: &Lane<'_>, acc: &[[int32x4_t; 2]; HIGH], to: *mut u8) {
    let values = acc.map(|acc| [scaled(acc[0], lane.scale[0]), scaled(acc[1], lane.scale[1])]);
    // SAFETY: the function's contract.
    unsafe {
        if HIGH == 2 {
            let bytes = lane.finish.sixteen([values[0][0], values[0][1], values[1][0], values[1][1]]);
            put_eight(to, vget_low_s8(bytes), lane.count);
            put_eight(to.add(lane.to_steps[1]), vget_high_s8(bytes), lane.count);
        } else {
            lane.finish.write(&values[0], to, lane.count);
        }
    }
}

// -------------------------------------------------------------------------------------------------------- any window

/// # Safety
/// `dw.check` passed; `bytes` are its plain byte weights.
#[target_feature(enable = "neon")]
unsafe fn any_window(dw: &Depthwise, bytes: Option<&Aligned<i8>>, input: &[u8], output: &mut [u8], rows: Range<usize>) {
    let base = dw.output.rows(rows.clone()).start;
    let finish = Finish::new(&dw.quant);
    let channels = dw.output.channels;
    for y in rows {
        for channel in (0..channels).step_by(DW_LANES) {
            let count = DW_LANES.min(channels - channel);
            for x in 0..dw.output.width {
                let (window, pixel) = (dw.origin + y * dw.steps[0] + x * dw.steps[1], dw.output.offset(y, x) - base);
                // SAFETY: every tap of the window is inside the input and eight bytes are readable there because of the
                // slack; weights, bias and scale are filled up to whole lane blocks; the pixel is inside the output.
                unsafe {
                    let from = input.as_ptr().add(window + channel).cast();
                    let acc = match bytes {
                        Some(weights) => byte_taps(dw, weights.as_slice().as_ptr(), from, channel),
                        None => wide_taps(dw, from, channel),
                    };
                    let scale = dw.scale.as_slice().as_ptr().add(channel);
                    let values = [scaled(acc[0], vld1q_f32(scale)), scaled(acc[1], vld1q_f32(scale.add(4)))];
                    finish.write(&values, output.as_mut_ptr().add(pixel + channel), count);
                }
            }
        }
    }
}

/// Two taps in 16 bits, then into 32.
///
/// # Safety
/// Every tap has eight readable bytes; `weights` are packed for it, none is -128.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn byte_taps(dw: &Depthwise, weights: *const i8, from: *const i8, channel: usize) -> [int32x4_t; 2] {
    // SAFETY: the function's contract; bias is filled up to whole lane blocks.
    unsafe {
        let bias = dw.bias.as_slice().as_ptr().add(channel);
        let mut acc = [vld1q_s32(bias), vld1q_s32(bias.add(4))];
        let mut weights = weights.add(channel * dw.taps.len() * 2);
        for &[a, b] in &dw.taps {
            let w = vld1q_s8(weights);
            weights = weights.add(16);
            let sum = vmlal_s8(vmull_s8(vld1_s8(from.add(a)), vget_low_s8(w)), vld1_s8(from.add(b)), vget_high_s8(w));
            acc = [vaddw_s16(acc[0], vget_low_s16(sum)), vaddw_high_s16(acc[1], sum)];
        }
        acc
    }
}

/// 16-bit taps.
///
/// # Safety
/// Every tap has eight readable bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn wide_taps(dw: &Depthwise, from: *const i8, channel: usize) -> [int32x4_t; 2] {
    // SAFETY: the function's contract; bias and weights are filled up to whole lane blocks.
    unsafe {
        let bias = dw.bias.as_slice().as_ptr().add(channel);
        let mut acc = [vld1q_s32(bias), vld1q_s32(bias.add(4))];
        let weights = dw.paired.as_slice().as_ptr().add(channel * dw.taps.len() * 2);
        for (i, &[a, b]) in dw.taps.iter().enumerate() {
            let w = vld2q_s16(weights.add(i * DW_LANES * 2));
            for (tap, w) in [(a, w.0), (b, w.1)] {
                let x = vmovl_s8(vld1_s8(from.add(tap)));
                acc[0] = vmlal_s16(acc[0], vget_low_s16(x), vget_low_s16(w));
                acc[1] = vmlal_high_s16(acc[1], x, w);
            }
        }
        acc
    }
}
