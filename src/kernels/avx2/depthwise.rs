//! Depthwise convolution: 16 channels (or eight), some output rows and up to [`SPAN`] columns at a time.
//!
//! ```text
//!   pairs:     input rows 0, 1   interleaved once, widened to 16 bits  ->  pair 0: a vector for every input column
//!              input rows 2, 3                                         ->  pair 1
//!   columns:   input rows 0, 1, 1, 2   interleaved, bytes              ->  output row 0: a vector for every input column
//!              input rows 1, 2, 2, 3                                   ->  output row 1
//!
//!   output row: for each tile of up to 4 (8) columns
//!                 for each pair (once):  K weight vectors in registers; every input column is loaded once and meets
//!                                        the output columns that want it     acc += input * weights
//! ```
//!
//! The interleaved rows lie in a buffer on the stack that fits the nearest cache.

use super::super::depthwise::{DW_LANES, Depthwise};
use super::super::pack::LANES;
use super::super::sliding::{Form, PAIR_ROWS, SMALL, Sliding, Unit, pairs_per_row};
use super::{ByteProducts, Finish, emit, opaque, pin, put, quarter, scaled};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Output rows that share a buffer.
const ROWS: usize = 4;

/// Output columns that share it, at stride 1; half of that at stride 2.
const SPAN: usize = 16;

/// Most input columns of a span, and most pairs of a group: a 5x5 window.
const COLUMNS: usize = SPAN + 4;
const PAIRS: usize = ((ROWS - 1) * 2 + 5).div_ceil(PAIR_ROWS);

const _: () = assert!(ROWS <= PAIRS);

/// Vector registers.
const REGISTERS: usize = 16;

/// Interleaved rows: `[pair or output row][column][vector of eight channels]`.
type Buffer = MaybeUninit<[[[__m256i; 2]; COLUMNS]; PAIRS]>;

/// Weights as [`Form::Pairs`] or [`Form::Columns`], as a constant parameter.
const PAIRED: bool = false;
const IN_COLUMNS: bool = true;

/// Vectors of interleaved rows that a window meets in each of its columns.
const fn steps(form: bool, kernel: usize) -> usize {
    if form == IN_COLUMNS { 1 } else { pairs_per_row(kernel) }
}

/// Rows `rows`; buffers checked by [`Depthwise::check`].
///
/// # Safety
/// There is a value of `P`; `dw.check` passed.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn rows<P: ByteProducts>(dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
    // SAFETY: the function's contract; `sliding` is there for these windows only.
    unsafe {
        match (&dw.sliding, dw.kernel, dw.stride) {
            (Some(weights), 3, 1) => sliding::<P, 3, 1>(dw, weights, input, output, rows),
            (Some(weights), 3, 2) => sliding::<P, 3, 2>(dw, weights, input, output, rows),
            (Some(weights), 5, 1) => sliding::<P, 5, 1>(dw, weights, input, output, rows),
            (Some(weights), 5, 2) => sliding::<P, 5, 2>(dw, weights, input, output, rows),
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
    weights: &Sliding,
    input: &[u8],
    output: &mut [u8],
    rows: Range<usize>,
) {
    let base = dw.output.rows(rows.clone()).start;
    let mut buffer = Buffer::uninit();
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
                span::<P, K, S>(dw, weights, &finish, &mut buffer, from, to, [height, width]);
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
    weights: &Sliding,
    finish: &Finish,
    buffer: &mut Buffer,
    from: *const u8,
    to: *mut u8,
    size: [usize; 2],
) {
    let work = Work { dw, weights, finish, buffer: buffer.as_mut_ptr().cast(), from, to, size };
    for unit in &weights.units {
        // SAFETY: the function's contract; units of two lane blocks have all their channels.
        unsafe {
            match unit.lane_blocks {
                2 => channels::<P, K, S, 2>(&work, unit),
                _ => channels::<P, K, S, 1>(&work, unit),
            }
        }
    }
}

/// A span of a layer.
struct Work<'a> {
    dw: &'a Depthwise,
    weights: &'a Sliding,
    finish: &'a Finish,
    buffer: *mut __m256i,
    /// First window's first byte, first pixel's first byte.
    from: *const u8,
    to: *mut u8,
    /// Output rows, columns.
    size: [usize; 2],
}

/// The channels of a unit of `V` lane blocks.
///
/// # Safety
/// As [`span`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn channels<P: ByteProducts, const K: usize, const S: usize, const V: usize>(work: &Work, unit: &Unit) {
    let size = [work.size[0], (work.size[1] - 1) * S + K];
    // SAFETY: the function's contract: eight bytes are readable at the last channels of a pixel because of the slack; weights are in the
    // form that they are used in; only windows of 3x3 have columns.
    unsafe {
        let from = work.from.add(unit.channel);
        let pairs = match unit.form {
            Form::Pairs(pairs) => pairs,
            // A constant condition: loops for larger windows are not even compiled.
            Form::Columns(_) | Form::Guarded { .. } if K != SMALL => unreachable!("only windows of 3x3 have columns"),
            Form::Columns(columns) => {
                stack::<S, V>(work.buffer, from, work.dw, size);
                return output_rows::<P, IN_COLUMNS, K, S, V>(work, unit, columns);
            }
            Form::Guarded { columns, ceilings, pairs } => {
                let largest = stack::<S, V>(work.buffer, from, work.dw, size);
                if !exceeds::<V>(largest, &ceilings) {
                    return output_rows::<P, IN_COLUMNS, K, S, V>(work, unit, columns);
                }
                pairs
            }
        };
        interleave::<V>(work.buffer, from, work.dw, [(size[0] - 1) * S + K, size[1]]);
        output_rows::<P, PAIRED, K, S, V>(work, unit, pairs);
    }
}

/// The output rows of a unit, whose weights begin `at` bytes from the first.
///
/// # Safety
/// As [`channels`]; weights are in the form, and input rows are interleaved for it.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn output_rows<P: ByteProducts, const FORM: bool, const K: usize, const S: usize, const V: usize>(
    work: &Work,
    unit: &Unit,
    at: usize,
) {
    let per_phase = const { steps(PAIRED, K) * K * V };
    let Work { dw, finish, size: [height, width], .. } = *work;
    let channel = unit.channel;
    // SAFETY: bias and scale are filled up to whole lane blocks; a unit of pairs has `2 / S` phases of weights; the rows' pixels are
    // the contract's.
    unsafe {
        let weights = work.weights.weights.as_slice().as_ptr().add(at).cast::<__m256i>();
        let bias = std::array::from_fn(|v| _mm256_loadu_si256(dw.bias.as_slice().as_ptr().add(channel + v * DW_LANES).cast()));
        let scale = std::array::from_fn(|v| _mm256_loadu_si256(dw.scale.as_slice().as_ptr().add(channel + v * DW_LANES).cast()));
        for row in 0..height {
            let (phase, first) = if FORM == IN_COLUMNS { (0, row) } else { (row * S % PAIR_ROWS, row * S / PAIR_ROWS) };
            let mut tiles = Tiles::<V> {
                weights: weights.add(phase * per_phase),
                bias: unit_order(bias),
                scale: unit_order(scale).map(|s| _mm256_castsi256_ps(s)),
                rows: work.buffer.add(first * COLUMNS * V),
                to: work.to.add(channel + row * dw.output.row_stride()),
                step: dw.output.pixel_stride,
                channels: (V * DW_LANES).min(dw.output.channels - channel),
            };
            let mut left = width;
            while left > 0 {
                left -= match V {
                    2 => tiles.next_of_four::<P, FORM, K, S>(finish, left),
                    _ => tiles.next_of_eight::<P, FORM, K, S>(finish, left),
                };
            }
        }
    }
}

/// Channels in order to lanes in the order of a unit.
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

/// Fills `buffer` for output rows x input columns: each channel's bytes of the rows r0 r1 r1 r2 side by side. Returns each channel's
/// largest byte, in the order of [`spread`].
///
/// # Safety
/// `V * 8` bytes are readable at every pixel of the output rows' windows from `from`; `width <= COLUMNS`, `1 <= height <= ROWS`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn stack<const S: usize, const V: usize>(
    buffer: *mut __m256i,
    from: *const u8,
    dw: &Depthwise,
    [height, width]: [usize; 2],
) -> __m256i {
    // SAFETY: the function's contract.
    unsafe {
        match height {
            4 => stack_rows::<S, V, 4>(buffer, from, dw, width),
            3 => stack_rows::<S, V, 3>(buffer, from, dw, width),
            2 => stack_rows::<S, V, 2>(buffer, from, dw, width),
            _ => stack_rows::<S, V, 1>(buffer, from, dw, width),
        }
    }
}

/// # Safety
/// As [`stack`], of `H` rows.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn stack_rows<const S: usize, const V: usize, const H: usize>(
    mut buffer: *mut __m256i,
    mut from: *const u8,
    dw: &Depthwise,
    width: usize,
) -> __m256i {
    let (row, pixel) = (dw.input.row_stride(), dw.input.pixel_stride);
    let halves = halves::<V>();
    let mut largest = _mm256_setzero_si256();
    for _ in 0..width {
        // SAFETY: a column of the contract's.
        unsafe {
            let mut next = |y: usize| {
                let bytes = spread::<V>(from.add(y * row), halves);
                largest = _mm256_max_epu8(largest, bytes);
                bytes
            };
            let mut upper = next(0);
            let mut between = _mm256_setzero_si256();
            for y in 0..H {
                if y == 0 || S == 2 {
                    let middle = next(y * S + 1);
                    between = _mm256_unpacklo_epi8(upper, middle);
                    upper = middle;
                }
                let lower = next(y * S + 2);
                let below = _mm256_unpacklo_epi8(upper, lower);
                let to = buffer.add(y * COLUMNS * V);
                to.write(_mm256_unpacklo_epi16(between, below));
                if V == 2 {
                    to.add(1).write(_mm256_unpackhi_epi16(between, below));
                }
                (upper, between) = (lower, below);
            }
        }
        buffer = buffer.wrapping_add(V);
        from = from.wrapping_add(pixel);
    }
    largest
}

/// True where a channel's largest byte is above its ceiling.
#[inline]
#[target_feature(enable = "avx2")]
fn exceeds<const V: usize>(largest: __m256i, ceilings: &[u8; LANES]) -> bool {
    // SAFETY: there are sixteen ceilings.
    let ceilings = unsafe { spread::<V>(ceilings.as_ptr(), halves::<V>()) };
    let above = _mm256_subs_epu8(largest, ceilings);
    _mm256_testz_si256(above, above) == 0
}

/// `V * 8` bytes, the first half of them in the first 128 bits, where unpacks find them, the second in the others: the order is `halves`.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn spread<const V: usize>(from: *const u8, halves: __m256i) -> __m256i {
    // SAFETY: the function's contract.
    let twice = unsafe {
        match V {
            2 => _mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast())),
            _ => _mm256_set1_epi64x(from.cast::<i64>().read_unaligned()),
        }
    };
    _mm256_shuffle_epi8(twice, halves)
}

/// The order of bytes for [`spread`]. The compiler must not know it, or it takes a permutation that is slower.
#[inline]
#[target_feature(enable = "avx2")]
fn halves<const V: usize>() -> __m256i {
    let mut order = [match V {
        2 => _mm256_setr_epi64x(0x0706_0504_0302_0100, 0, 0x0F0E_0D0C_0B0A_0908, 0),
        _ => _mm256_setr_epi64x(0x0302_0100, 0, 0x0706_0504, 0),
    }];
    pin(&mut order);
    order[0]
}

/// Where a unit stands in its output row.
struct Tiles<const V: usize> {
    weights: *const __m256i,
    bias: [__m256i; V],
    scale: [__m256; V],
    /// The interleaved rows at its next column.
    rows: *const __m256i,
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
    unsafe fn next_of_four<P: ByteProducts, const FORM: bool, const K: usize, const S: usize>(
        &mut self,
        finish: &Finish,
        left: usize,
    ) -> usize {
        // SAFETY: the function's contract.
        unsafe {
            match left {
                3 | 6 => self.next::<P, FORM, K, S, 3>(finish),
                4.. => self.next::<P, FORM, K, S, 4>(finish),
                2 => self.next::<P, FORM, K, S, 2>(finish),
                _ => self.next::<P, FORM, K, S, 1>(finish),
            }
        }
    }

    /// The next tile of one lane block, `left` columns being left.
    ///
    /// # Safety
    /// As [`Tiles::next`].
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn next_of_eight<P: ByteProducts, const FORM: bool, const K: usize, const S: usize>(
        &mut self,
        finish: &Finish,
        left: usize,
    ) -> usize {
        // SAFETY: the function's contract.
        unsafe {
            match left {
                7 | 13 | 14 => self.next::<P, FORM, K, S, 7>(finish),
                6 | 11 | 12 => self.next::<P, FORM, K, S, 6>(finish),
                5 | 9 | 10 => self.next::<P, FORM, K, S, 5>(finish),
                8.. => self.next::<P, FORM, K, S, 8>(finish),
                4 => self.next::<P, FORM, K, S, 4>(finish),
                3 => self.next::<P, FORM, K, S, 3>(finish),
                2 => self.next::<P, FORM, K, S, 2>(finish),
                _ => self.next::<P, FORM, K, S, 1>(finish),
            }
        }
    }

    /// The next `T` output columns, which it returns.
    ///
    /// # Safety
    /// As [`span`]; the row has `T` columns left.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn next<P: ByteProducts, const FORM: bool, const K: usize, const S: usize, const T: usize>(&mut self, finish: &Finish) -> usize {
        let mut acc = [self.bias; T];
        let (mut weights, mut rows) = (self.weights, self.rows);
        for _ in 0..const { steps(FORM, K) } {
            // SAFETY: `K * V` weights a step, `(T - 1) * S + K` columns are left of its rows.
            unsafe { accumulate::<P, FORM, K, S, T, V>(&mut acc, weights, rows) };
            pin(acc.as_flattened_mut());
            weights = weights.wrapping_add(K * V);
            rows = rows.wrapping_add(COLUMNS * V);
        }
        for acc in &mut acc {
            for (acc, &scale) in acc.iter_mut().zip(&self.scale) {
                *acc = scaled(*acc, scale);
            }
        }
        // SAFETY: the row has `T` pixels from here, with `channels` channels.
        unsafe { emit::<V, T>(finish, acc, self.to, self.step, if V == 2 { 2 * DW_LANES } else { self.channels }) };
        self.rows = self.rows.wrapping_add(T * S * V);
        self.to = self.to.wrapping_add(T * self.step);
        T
    }
}

/// Adds the products of interleaved rows to `T` output columns.
///
/// # Safety
/// There is a value of `P`; `K * V` vectors are readable at `weights`, `((T - 1) * S + K) * V` at `rows`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn accumulate<P: ByteProducts, const FORM: bool, const K: usize, const S: usize, const T: usize, const V: usize>(
    acc: &mut [[__m256i; V]; T],
    weights: *const __m256i,
    rows: *const __m256i,
) {
    // Sums, weights, an input column and a product at once.
    let crowded = const { (T + K) * V + 2 > REGISTERS };
    // One input column; spelt out for each, so that every accumulator has a register.
    macro_rules! input_columns {
        ($($column:literal)*) => {$(
            if $column < const { (T - 1) * S + K } {
                let weights = if crowded { opaque(weights) } else { weights };
                for v in 0..V {
                    // SAFETY: the column is one of the contract's.
                    let x = unsafe { _mm256_loadu_si256(rows.add($column * V + v)) };
                    for (o, acc) in acc.iter_mut().enumerate() {
                        if $column >= o * S && $column < o * S + K {
                            // SAFETY: the function's contract.
                            acc[v] = unsafe {
                                let w = _mm256_loadu_si256(weights.add(($column - o * S) * V + v));
                                match FORM {
                                    IN_COLUMNS => P::fours(acc[v], x, w),
                                    PAIRED => P::pairs(acc[v], x, w),
                                }
                            };
                        }
                    }
                }
                for (o, acc) in acc.iter_mut().enumerate() {
                    if crowded && $column >= o * S && $column < o * S + K {
                        pin(acc);
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
