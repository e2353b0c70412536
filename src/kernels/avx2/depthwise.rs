//! Depthwise convolution: eight channels, some output rows and up to [`SPAN`] columns at a time.
//!
//! ```text
//!   input rows 0, 1   interleaved once, widened to 16 bits  ->  pair 0: a vector for every input column
//!   input rows 2, 3                                         ->  pair 1
//!
//!   output row: for each tile of up to 8 columns
//!                 for each pair:  K weight vectors in registers; every input column is loaded once and meets
//!                                 the output columns that want it     acc += vpmaddwd(pair, weights)
//! ```
//!
//! The pairs lie in a buffer on the stack that fits the nearest cache; every output row of the group reads them from there.

use super::super::depthwise::{DW_LANES, Depthwise, PAIR_ROWS, pairs_per_row};
use super::{Finish, pin, put, quarter, scaled};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Output rows that share a buffer of pairs.
const ROWS: usize = 4;

/// Output columns that share it, at stride 1; half of that at stride 2.
const SPAN: usize = 32;

/// Most input columns of a span, and most pairs of a group: a 5x5 window.
const COLUMNS: usize = SPAN + 4;
const PAIRS: usize = ((ROWS - 1) * 2 + 5).div_ceil(PAIR_ROWS);

/// Interleaved rows of eight channels: `[pair][column]`.
type Pairs = MaybeUninit<[[__m256i; COLUMNS]; PAIRS]>;

/// Rows `rows`; buffers checked by [`Depthwise::check`].
///
/// # Safety
/// `dw.check` passed.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn rows(dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
    // SAFETY: the function's contract; `sliding` is there for these windows only.
    unsafe {
        match (&dw.sliding, dw.kernel, dw.stride) {
            (Some(weights), 3, 1) => sliding::<3, 1>(dw, weights.as_slice(), input, output, rows),
            (Some(weights), 3, 2) => sliding::<3, 2>(dw, weights.as_slice(), input, output, rows),
            (Some(weights), 5, 1) => sliding::<5, 1>(dw, weights.as_slice(), input, output, rows),
            (Some(weights), 5, 2) => sliding::<5, 2>(dw, weights.as_slice(), input, output, rows),
            _ => any_window(dw, input, output, rows),
        }
    }
}

/// Square window of `K` x `K` at stride `S`.
///
/// # Safety
/// `dw.check` passed, the window is as said, `weights` are its sliding ones.
#[target_feature(enable = "avx2")]
unsafe fn sliding<const K: usize, const S: usize>(dw: &Depthwise, weights: &[i16], input: &[u8], output: &mut [u8], rows: Range<usize>) {
    let base = dw.output.rows(rows.clone()).start;
    let mut pairs = Pairs::uninit();
    let finish = Finish::new(&dw.quant);
    for y in rows.clone().step_by(ROWS) {
        let height = ROWS.min(rows.end - y);
        for x in (0..dw.output.width).step_by(SPAN / S) {
            let width = (SPAN / S).min(dw.output.width - x);
            // SAFETY: windows of rows `y..y + height` and columns `x..x + width` lie inside the input, the pixels inside
            // the output.
            unsafe {
                let from = input.as_ptr().add(dw.origin + y * dw.steps[0] + x * dw.steps[1]);
                let to = output.as_mut_ptr().add(dw.output.offset(y, x) - base);
                span::<K, S>(dw, weights, &finish, &mut pairs, from, to, [height, width]);
            }
        }
    }
}

/// All channels of `height` rows x `width` columns.
///
/// # Safety
/// As [`sliding`]: `from` is the first window's first byte, `to` the first pixel's; `height <= ROWS`, `width <= SPAN / S`.
#[target_feature(enable = "avx2")]
unsafe fn span<const K: usize, const S: usize>(
    dw: &Depthwise,
    weights: &[i16],
    finish: &Finish,
    pairs: &mut Pairs,
    from: *const u8,
    to: *mut u8,
    [height, width]: [usize; 2],
) {
    let blocks = dw.bias.as_slice().len() / DW_LANES;
    let per_phase = const { pairs_per_row(K) * K };
    let pairs = pairs.as_mut_ptr().cast::<__m256i>();
    let mut weights = weights.as_ptr().cast::<__m256i>();
    for channel in (0..blocks).map(|block| block * DW_LANES) {
        // SAFETY: bias and scale are filled up to whole lane blocks; a lane block has `2 / S` phases of weights; eight bytes
        // are readable at the last channels of a pixel because of the slack; the pairs that a row reads have been written.
        unsafe {
            interleave(pairs, from.add(channel), dw, [(height - 1) * S + K, (width - 1) * S + K]);
            for row in 0..height {
                let mut tiles = Tiles {
                    weights: weights.add(row * S % PAIR_ROWS * per_phase),
                    bias: _mm256_loadu_si256(dw.bias.as_slice().as_ptr().add(channel).cast()),
                    scale: _mm256_loadu_ps(dw.scale.as_slice().as_ptr().add(channel)),
                    pairs: pairs.add(row * S / PAIR_ROWS * COLUMNS),
                    to: to.add(channel + row * dw.output.row_stride()),
                    step: dw.output.pixel_stride,
                    channels: DW_LANES.min(dw.output.channels - channel),
                };
                let mut left = width;
                while left > 0 {
                    left -= match left {
                        9..=14 => match left.div_ceil(2) {
                            7 => tiles.next::<K, S, 7>(finish),
                            6 => tiles.next::<K, S, 6>(finish),
                            _ => tiles.next::<K, S, 5>(finish),
                        },
                        8.. => tiles.next::<K, S, 8>(finish),
                        7 => tiles.next::<K, S, 7>(finish),
                        6 => tiles.next::<K, S, 6>(finish),
                        5 => tiles.next::<K, S, 5>(finish),
                        4 => tiles.next::<K, S, 4>(finish),
                        3 => tiles.next::<K, S, 3>(finish),
                        2 => tiles.next::<K, S, 2>(finish),
                        _ => tiles.next::<K, S, 1>(finish),
                    };
                }
            }
            weights = weights.add(PAIR_ROWS / S * per_phase);
        }
    }
}

/// Fills `pairs` from `height` rows x `width` columns of eight channels. The partner of an odd last row is that row itself:
/// its weights are zero.
///
/// # Safety
/// Eight bytes are readable at every pixel from `from`; `width <= COLUMNS`, `height <= 2 * PAIRS`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn interleave(pairs: *mut __m256i, from: *const u8, dw: &Depthwise, [height, width]: [usize; 2]) {
    let (row, pixel) = (dw.input.row_stride(), dw.input.pixel_stride);
    for y in (0..height).step_by(PAIR_ROWS) {
        // SAFETY: rows below `height`, columns below `width`.
        unsafe {
            let (a, b) = (from.add(y * row), from.add((y + 1).min(height - 1) * row));
            let to = pairs.add(y / PAIR_ROWS * COLUMNS);
            for x in 0..width {
                to.add(x).write(interleaved(a.add(x * pixel), b.add(x * pixel)));
            }
        }
    }
}

/// Where a lane block stands in its output row.
struct Tiles {
    weights: *const __m256i,
    bias: __m256i,
    scale: __m256,
    pairs: *const __m256i,
    to: *mut u8,
    /// Bytes from an output pixel to the next.
    step: usize,
    /// Channels of the block that exist.
    channels: usize,
}

impl Tiles {
    /// The next `T` output columns, which it returns.
    ///
    /// # Safety
    /// As [`span`]; the row has `T` columns left.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn next<const K: usize, const S: usize, const T: usize>(&mut self, finish: &Finish) -> usize {
        let mut acc = [self.bias; T];
        let (mut weights, mut pairs) = (self.weights, self.pairs);
        for _ in 0..const { pairs_per_row(K) } {
            // SAFETY: `K` weights a pair, `(T - 1) * S + K` columns are left of each pair.
            unsafe { accumulate::<K, S, T>(&mut acc, weights, pairs) };
            pin(&mut acc);
            weights = weights.wrapping_add(K);
            pairs = pairs.wrapping_add(COLUMNS);
        }
        for first in (0..T).step_by(4) {
            let value = |i: usize| scaled(acc[(first + i).min(T - 1)], self.scale);
            let bytes = finish.four_of_eight([value(0), value(1), value(2), value(3)]);
            for i in 0..(T - first).min(4) {
                // SAFETY: the pixel is one of the row's and has `channels` channels from here.
                unsafe { put(self.to.add((first + i) * self.step), quarter(bytes, i), self.channels) };
            }
        }
        self.pairs = self.pairs.wrapping_add(T * S);
        self.to = self.to.wrapping_add(T * self.step);
        T
    }
}

/// Adds one pair of kernel rows to `T` output columns.
///
/// # Safety
/// `K` vectors are readable at `weights`, `(T - 1) * S + K` at `pairs`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn accumulate<const K: usize, const S: usize, const T: usize>(
    acc: &mut [__m256i; T],
    weights: *const __m256i,
    pairs: *const __m256i,
) {
    let mut w = [_mm256_setzero_si256(); K];
    for (kx, w) in w.iter_mut().enumerate() {
        // SAFETY: `kx < K`.
        *w = unsafe { _mm256_loadu_si256(weights.add(kx)) };
    }
    // One input column; spelt out for each, so that every accumulator has a register.
    macro_rules! input_columns {
        ($($column:literal)*) => {$(
            if $column < const { (T - 1) * S + K } {
                // SAFETY: the column is one of the contract's.
                let pair = unsafe { _mm256_loadu_si256(pairs.add($column)) };
                for (o, acc) in acc.iter_mut().enumerate() {
                    if $column >= o * S && $column < o * S + K {
                        *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(pair, w[$column - o * S]));
                    }
                }
            }
        )*};
    }
    input_columns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18);
    const { assert!((T - 1) * S + K <= 19) };
}

/// Eight bytes each of `a` and `b` as 16-bit numbers: a0 b0 a1 b1 ... Broadcasting loads put the bytes in both halves, so
/// two shuffles are enough.
///
/// # Safety
/// Eight bytes are readable at both.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn interleaved(a: *const u8, b: *const u8) -> __m256i {
    const Z: i8 = -1;
    let widen = _mm256_setr_epi8(0, Z, 1, Z, 2, Z, 3, Z, 4, Z, 5, Z, 6, Z, 7, Z, 8, Z, 9, Z, 10, Z, 11, Z, 12, Z, 13, Z, 14, Z, 15, Z);
    // SAFETY: the function's contract.
    let (a, b) = unsafe { (_mm256_set1_epi64x(a.cast::<i64>().read_unaligned()), _mm256_set1_epi64x(b.cast::<i64>().read_unaligned())) };
    _mm256_shuffle_epi8(_mm256_unpacklo_epi8(a, b), widen)
}

/// Any window: tap pairs, eight channels at a time.
///
/// # Safety
/// `dw.check` passed.
#[target_feature(enable = "avx2")]
unsafe fn any_window(dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
    let base = dw.output.rows(rows.clone()).start;
    let finish = Finish::new(&dw.quant);
    let channels = dw.output.channels;
    for y in rows {
        for x in 0..dw.output.width {
            let (window, pixel) = (dw.origin + y * dw.steps[0] + x * dw.steps[1], dw.output.offset(y, x) - base);
            for channel in (0..channels).step_by(DW_LANES) {
                // SAFETY: every tap of the window is inside the input and eight bytes are readable there because of the
                // slack; weights, bias and scale are filled up to whole lane blocks; the pixel is inside the output.
                unsafe {
                    let mut acc = _mm256_loadu_si256(dw.bias.as_slice().as_ptr().add(channel).cast());
                    let weights = dw.paired.as_slice().as_ptr().add(channel * dw.taps.len() * 2).cast::<__m256i>();
                    let from = input.as_ptr().add(window + channel);
                    for (i, &[a, b]) in dw.taps.iter().enumerate() {
                        let pair = interleaved(from.add(a), from.add(b));
                        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pair, _mm256_loadu_si256(weights.add(i))));
                    }
                    let done = scaled(acc, _mm256_loadu_ps(dw.scale.as_slice().as_ptr().add(channel)));
                    let to = output.as_mut_ptr().add(pixel + channel);
                    put(to, quarter(finish.four_of_eight([done; 4]), 0), DW_LANES.min(channels - channel));
                }
            }
        }
    }
}
