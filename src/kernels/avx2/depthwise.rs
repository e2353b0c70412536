//! Depthwise convolution: 16 channels (or eight), some output rows and up to [`SPAN`] columns at a time.
//!
//! ```text
//!   input rows 0, 1   interleaved once, widened to 16 bits  ->  pair 0: a vector for every input column
//!   input rows 2, 3                                         ->  pair 1
//!
//!   output row: for each tile of up to 4 (8) columns
//!                 for each pair:  K weight vectors in registers; every input column is loaded once and meets
//!                                 the output columns that want it     acc += pair * weights
//! ```
//!
//! The pairs lie in a buffer on the stack that fits the nearest cache; every output row of the group reads them from there.

use super::super::depthwise::{DW_LANES, Depthwise, PAIR_ROWS, pairs_per_row, wide_units};
use super::{ByteProducts, Finish, emit, pin, put, quarter, scaled};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Output rows that share a buffer of pairs.
const ROWS: usize = 4;

/// Output columns that share it, at stride 1; half of that at stride 2.
const SPAN: usize = 16;

/// Most input columns of a span, and most pairs of a group: a 5x5 window.
const COLUMNS: usize = SPAN + 4;
const PAIRS: usize = ((ROWS - 1) * 2 + 5).div_ceil(PAIR_ROWS);

/// Interleaved rows: `[pair][column][vector of eight channels]`.
type Pairs = MaybeUninit<[[[__m256i; 2]; COLUMNS]; PAIRS]>;

/// Rows `rows`; buffers checked by [`Depthwise::check`].
///
/// # Safety
/// There is a value of `P`; `dw.check` passed.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn rows<P: ByteProducts>(dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
    // SAFETY: the function's contract; `sliding` is there for these windows only.
    unsafe {
        match (&dw.sliding, dw.kernel, dw.stride) {
            (Some(weights), 3, 1) => sliding::<P, 3, 1>(dw, weights.as_slice(), input, output, rows),
            (Some(weights), 3, 2) => sliding::<P, 3, 2>(dw, weights.as_slice(), input, output, rows),
            (Some(weights), 5, 1) => sliding::<P, 5, 1>(dw, weights.as_slice(), input, output, rows),
            (Some(weights), 5, 2) => sliding::<P, 5, 2>(dw, weights.as_slice(), input, output, rows),
            _ => any_window::<P>(dw, input, output, rows),
        }
    }
}

/// Square window of `K` x `K` at stride `S`.
///
/// # Safety
/// There is a value of `P`; `dw.check` passed, the window is as said, `weights` are its sliding ones.
#[target_feature(enable = "avx2")]
unsafe fn sliding<P: ByteProducts, const K: usize, const S: usize>(
    dw: &Depthwise,
    weights: &[i16],
    input: &[u8],
    output: &mut [u8],
    rows: Range<usize>,
) {
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
                span::<P, K, S>(dw, weights, &finish, &mut pairs, from, to, [height, width]);
            }
        }
    }
}

/// All channels of `height` rows x `width` columns.
///
/// # Safety
/// As [`sliding`]: `from` is the first window's first byte, `to` the first pixel's; `height <= ROWS`, `width <= SPAN / S`.
#[target_feature(enable = "avx2")]
unsafe fn span<P: ByteProducts, const K: usize, const S: usize>(
    dw: &Depthwise,
    weights: &[i16],
    finish: &Finish,
    pairs: &mut Pairs,
    from: *const u8,
    to: *mut u8,
    [height, width]: [usize; 2],
) {
    let pairs = pairs.as_mut_ptr().cast::<__m256i>();
    let mut weights = weights.as_ptr().cast::<__m256i>();
    let wide = wide_units(K, dw.output.channels) * 2 * DW_LANES;
    // SAFETY: wide units have all their channels, the others come after them.
    unsafe {
        for channel in (0..wide).step_by(2 * DW_LANES) {
            weights = unit::<P, K, S, 2>(dw, weights, finish, pairs, from, to, [height, width], channel);
        }
        for channel in (wide..dw.output.channels).step_by(DW_LANES) {
            weights = unit::<P, K, S, 1>(dw, weights, finish, pairs, from, to, [height, width], channel);
        }
    }
}

/// One unit of `V` lane blocks from `channel` on. Returns the next unit's weights.
///
/// # Safety
/// As [`span`]; `weights` are the unit's.
#[allow(clippy::too_many_arguments)]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unit<P: ByteProducts, const K: usize, const S: usize, const V: usize>(
    dw: &Depthwise,
    weights: *const __m256i,
    finish: &Finish,
    pairs: *mut __m256i,
    from: *const u8,
    to: *mut u8,
    [height, width]: [usize; 2],
    channel: usize,
) -> *const __m256i {
    let per_phase = const { pairs_per_row(K) * K * V };
    // SAFETY: bias and scale are filled up to whole lane blocks; a unit has `2 / S` phases of weights; eight bytes are readable
    // at the last channels of a pixel because of the slack; the pairs that a row reads have been written.
    unsafe {
        interleave::<V>(pairs, from.add(channel), dw, [(height - 1) * S + K, (width - 1) * S + K]);
        let bias = std::array::from_fn(|v| _mm256_loadu_si256(dw.bias.as_slice().as_ptr().add(channel + v * DW_LANES).cast()));
        let scale = std::array::from_fn(|v| _mm256_loadu_si256(dw.scale.as_slice().as_ptr().add(channel + v * DW_LANES).cast()));
        for row in 0..height {
            let mut tiles = Tiles::<V> {
                weights: weights.add(row * S % PAIR_ROWS * per_phase),
                bias: unit_order(bias),
                scale: unit_order(scale).map(|s| _mm256_castsi256_ps(s)),
                pairs: pairs.add(row * S / PAIR_ROWS * COLUMNS * V),
                to: to.add(channel + row * dw.output.row_stride()),
                step: dw.output.pixel_stride,
                channels: (V * DW_LANES).min(dw.output.channels - channel),
            };
            let mut left = width;
            while left > 0 {
                left -= if V == 2 { tiles.next_of_four::<P, K, S>(finish, left) } else { tiles.next_of_eight::<P, K, S>(finish, left) };
            }
        }
        weights.add(PAIR_ROWS / S * per_phase)
    }
}

/// Channels in order to lanes in the order of [`super::super::depthwise::WIDE_ORDER`], where there are two vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn unit_order<const V: usize>(v: [__m256i; V]) -> [__m256i; V] {
    let (first, last) = (v[0], v[V - 1]);
    std::array::from_fn(|i| match (V, i) {
        (1, _) => first,
        (_, 0) => _mm256_permute2x128_si256::<0x20>(first, last),
        _ => _mm256_permute2x128_si256::<0x31>(first, last),
    })
}

/// Fills `pairs` from `height` rows x `width` columns of `V` lane blocks. The partner of an odd last row is that row itself: its
/// weights are zero.
///
/// # Safety
/// `V * 8` bytes are readable at every pixel from `from`; `width <= COLUMNS`, `height <= 2 * PAIRS`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn interleave<const V: usize>(pairs: *mut __m256i, from: *const u8, dw: &Depthwise, [height, width]: [usize; 2]) {
    let (row, pixel) = (dw.input.row_stride(), dw.input.pixel_stride);
    for y in (0..height).step_by(PAIR_ROWS) {
        // SAFETY: rows below `height`, columns below `width`.
        unsafe {
            let (a, b) = (from.add(y * row), from.add((y + 1).min(height - 1) * row));
            let to = pairs.add(y / PAIR_ROWS * COLUMNS * V);
            for x in 0..width {
                let (a, b) = (a.add(x * pixel), b.add(x * pixel));
                if V == 2 {
                    let (a, b) = (_mm256_cvtepu8_epi16(_mm_loadu_si128(a.cast())), _mm256_cvtepu8_epi16(_mm_loadu_si128(b.cast())));
                    to.add(2 * x).write(_mm256_unpacklo_epi16(a, b));
                    to.add(2 * x + 1).write(_mm256_unpackhi_epi16(a, b));
                } else {
                    to.add(x).write(interleaved(a, b));
                }
            }
        }
    }
}

/// Where a unit stands in its output row.
struct Tiles<const V: usize> {
    weights: *const __m256i,
    bias: [__m256i; V],
    scale: [__m256; V],
    pairs: *const __m256i,
    to: *mut u8,
    /// Bytes from an output pixel to the next.
    step: usize,
    /// Channels of the unit that exist.
    channels: usize,
}

impl<const V: usize> Tiles<V> {
    /// The next tile of two lane blocks, `left` columns being left.
    ///
    /// # Safety
    /// As [`Tiles::next`].
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn next_of_four<P: ByteProducts, const K: usize, const S: usize>(&mut self, finish: &Finish, left: usize) -> usize {
        // SAFETY: the function's contract.
        unsafe {
            match left {
                3 | 6 => self.next::<P, K, S, 3>(finish),
                4.. => self.next::<P, K, S, 4>(finish),
                2 => self.next::<P, K, S, 2>(finish),
                _ => self.next::<P, K, S, 1>(finish),
            }
        }
    }

    /// The next tile of one lane block, `left` columns being left.
    ///
    /// # Safety
    /// As [`Tiles::next`].
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn next_of_eight<P: ByteProducts, const K: usize, const S: usize>(&mut self, finish: &Finish, left: usize) -> usize {
        // SAFETY: the function's contract.
        unsafe {
            match left {
                7 | 13 | 14 => self.next::<P, K, S, 7>(finish),
                6 | 11 | 12 => self.next::<P, K, S, 6>(finish),
                5 | 9 | 10 => self.next::<P, K, S, 5>(finish),
                8.. => self.next::<P, K, S, 8>(finish),
                4 => self.next::<P, K, S, 4>(finish),
                3 => self.next::<P, K, S, 3>(finish),
                2 => self.next::<P, K, S, 2>(finish),
                _ => self.next::<P, K, S, 1>(finish),
            }
        }
    }

    /// The next `T` output columns, which it returns.
    ///
    /// # Safety
    /// As [`span`]; the row has `T` columns left.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn next<P: ByteProducts, const K: usize, const S: usize, const T: usize>(&mut self, finish: &Finish) -> usize {
        let mut acc = [self.bias; T];
        let (mut weights, mut pairs) = (self.weights, self.pairs);
        for _ in 0..const { pairs_per_row(K) } {
            // SAFETY: `K * V` weights a pair, `(T - 1) * S + K` columns are left of each pair.
            unsafe { accumulate::<P, K, S, T, V>(&mut acc, weights, pairs) };
            pin(acc.as_flattened_mut());
            weights = weights.wrapping_add(K * V);
            pairs = pairs.wrapping_add(COLUMNS * V);
        }
        for acc in &mut acc {
            for (acc, &scale) in acc.iter_mut().zip(&self.scale) {
                *acc = scaled(*acc, scale);
            }
        }
        // SAFETY: the row has `T` pixels from here, with `channels` channels.
        unsafe { emit::<V, T>(finish, acc, self.to, self.step, self.channels) };
        self.pairs = self.pairs.wrapping_add(T * S * V);
        self.to = self.to.wrapping_add(T * self.step);
        T
    }
}

/// Adds one pair of kernel rows to `T` output columns.
///
/// # Safety
/// There is a value of `P`; `K * V` vectors are readable at `weights`, `((T - 1) * S + K) * V` at `pairs`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn accumulate<P: ByteProducts, const K: usize, const S: usize, const T: usize, const V: usize>(
    acc: &mut [[__m256i; V]; T],
    weights: *const __m256i,
    pairs: *const __m256i,
) {
    let mut w = [[_mm256_setzero_si256(); V]; K];
    for (i, w) in w.as_flattened_mut().iter_mut().enumerate() {
        // SAFETY: `i < K * V`.
        *w = unsafe { _mm256_loadu_si256(weights.add(i)) };
    }
    // One input column; spelt out for each, so that every accumulator has a register.
    macro_rules! input_columns {
        ($($column:literal)*) => {$(
            if $column < const { (T - 1) * S + K } {
                for v in 0..V {
                    // SAFETY: the column is one of the contract's.
                    let pair = unsafe { _mm256_loadu_si256(pairs.add($column * V + v)) };
                    for (o, acc) in acc.iter_mut().enumerate() {
                        if $column >= o * S && $column < o * S + K {
                            // SAFETY: the function's contract.
                            acc[v] = unsafe { P::pairs(acc[v], pair, w[$column - o * S][v]) };
                        }
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
/// There is a value of `P`; `dw.check` passed.
#[target_feature(enable = "avx2")]
unsafe fn any_window<P: ByteProducts>(dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
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
                        acc = P::pairs(acc, pair, _mm256_loadu_si256(weights.add(i)));
                    }
                    let done = scaled(acc, _mm256_loadu_ps(dw.scale.as_slice().as_ptr().add(channel)));
                    let to = output.as_mut_ptr().add(pixel + channel);
                    put(to, quarter(finish.four_of_eight([done; 4]), 0), DW_LANES.min(channels - channel));
                }
            }
        }
    }
}
