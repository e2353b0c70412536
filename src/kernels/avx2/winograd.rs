//! Winograd's F(4x4, 3x3): transforms 16 channels of the input at a time and 8 lanes of the weights, products by the dense 16-bit loop.

use super::super::pack::{GROUP, LANES};
use super::super::winograd::{
    CENTER, DEPTH, INVERSE, Job, Outputs, POSITIONS, REACH, SHIFTS, SLICE, SLICE_STRIDE, TAPS, TILE, Weights, Winograd,
};
use super::{ByteProducts, Finish, emit, others, plus, scaled, wide, windows};
use std::arch::x86_64::*;

/// All tiles of the job, batch by batch.
///
/// # Safety
/// There is a value of `P`; `wg.check(job)` passed.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn run<P: ByteProducts>(wg: &Winograd, job: &mut Job<'_>) {
    let [input_stride, product_stride] = wg.strides();
    let across = job.width.div_ceil(TILE);
    let tiles = job.height.div_ceil(TILE) * across;
    let start = job.scratch.as_ptr().align_offset(64).min(64);
    // As equal as can be, because weights are transformed for each.
    let size = tiles.div_ceil(tiles.div_ceil(wg.batch));
    for first in (0..tiles).step_by(size) {
        let batch = first..(first + size).min(tiles);
        // SAFETY: the scratch has room for `POSITIONS` strides of each kind behind `start`; a batch fits a stride; tiles are
        // clipped to the job's pixels; every block has its weights.
        unsafe {
            let input = job.scratch.as_mut_ptr().add(start);
            let products = input.add(POSITIONS * input_stride);
            let slice = products.add(POSITIONS * product_stride);
            let known = job.blocks.again && batch == (0..tiles);
            for (i, tile) in batch.clone().enumerate().filter(|_| !known) {
                let tile = Tile::of(job, tile, across);
                transform_input(job, &tile, wg.depth, input.add(i * wg.depth * 2), input_stride);
            }
            for b in job.blocks.range.clone() {
                let outputs = &wg.blocks[b];
                let mut channel = 0;
                while channel < wg.depth {
                    let u = transformed(wg, b, channel, slice);
                    for position in 0..POSITIONS {
                        let to = products.add(position * product_stride).cast();
                        let sums = Sums { to, start: (channel == 0).then(|| starts(outputs, position)) };
                        let from = input.add(position * input_stride + channel * 2);
                        let offsets = &wg.offsets[..u.depth / GROUP];
                        multiply::<P>((from, wg.depth * 2), u.first.add(position * u.stride), sums, offsets, batch.len());
                    }
                    channel += u.depth;
                }
                for (i, tile) in batch.clone().enumerate() {
                    let tile = Tile::of(job, tile, across);
                    let sums = transform_output(products.add(i * LANES * 4), product_stride, outputs);
                    emit_tile(job, &tile, outputs, &sums);
                }
            }
        }
    }
}

/// A tile's place in the job: its first output pixel, and its pixels that exist.
struct Tile {
    y: usize,
    x: usize,
    height: usize,
    width: usize,
}

impl Tile {
    fn of(job: &Job<'_>, index: usize, across: usize) -> Tile {
        let (y, x) = (index / across * TILE, index % across * TILE);
        Tile { y, x, height: TILE.min(job.height - y), width: TILE.min(job.width - x) }
    }
}

/// Rows of `B` times a vector, in 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn input_1d(d: [__m256i; REACH]) -> [__m256i; REACH] {
    let [d0, d1, d2, d3, d4, d5] = d;
    let (add, sub) = (|a, b| _mm256_add_epi16(a, b), |a, b| _mm256_sub_epi16(a, b));
    let four = |a| _mm256_slli_epi16::<2>(a);
    let (a, b) = (sub(four(d2), d4), sub(four(d1), d3));
    let (c, e) = (sub(d4, d2), sub(d3, d1));
    let e = add(e, e);
    [add(four(sub(d0, d2)), c), add(a, b), sub(a, b), add(c, e), sub(c, e), sub(sub(d5, d3), add(e, e))]
}

/// Rows of `A` times a vector, modulo 2^32, before the denominators.
#[inline]
#[target_feature(enable = "avx2")]
fn output_1d(m: [__m256i; REACH]) -> [__m256i; TILE] {
    let (add, sub) = (|a, b| _mm256_add_epi32(a, b), |a, b| _mm256_sub_epi32(a, b));
    let (s12, d12, s34, d34) = (add(m[1], m[2]), sub(m[1], m[2]), add(m[3], m[4]), sub(m[3], m[4]));
    [add(add(m[0], _mm256_slli_epi32::<2>(s12)), s34), add(add(d12, d12), d34), add(s12, s34), add(add(d12, m[5]), add(d34, d34))]
}

/// `V` of one tile, to `[position][channel]`. Pixels past the tile's last window are read from the last one: they only meet
/// outputs that do not exist.
///
/// # Safety
/// The tile lies in the job, whose input was checked; `to` is writable for `depth` 16-bit numbers at every position.
#[target_feature(enable = "avx2")]
unsafe fn transform_input(job: &Job<'_>, tile: &Tile, depth: usize, to: *mut u8, stride: usize) {
    let row = |y: usize| job.windows.at(tile.y + y.min(tile.height + 1), tile.x);
    let column = |x: usize| x.min(tile.width + 1) * job.windows.step_x;
    let rows: [usize; REACH] = std::array::from_fn(row);
    let columns: [usize; REACH] = std::array::from_fn(column);
    for channel in (0..depth).step_by(DEPTH) {
        let mut half = [[_mm256_setzero_si256(); REACH]; REACH];
        for x in 0..REACH {
            // SAFETY: rows and columns of the tile's windows, `DEPTH` channels of `depth`.
            let load =
                |y: usize| unsafe { _mm256_cvtepu8_epi16(_mm_loadu_si128(job.input.as_ptr().add(rows[y] + columns[x] + channel).cast())) };
            let d = input_1d([load(0), load(1), load(2), load(3), load(4), load(5)]);
            for y in 0..REACH {
                half[y][x] = d[y];
            }
        }
        for (y, half) in half.into_iter().enumerate() {
            for (x, v) in input_1d(half).into_iter().enumerate() {
                // SAFETY: the function's contract.
                unsafe { _mm256_storeu_si256(to.add((y * REACH + x) * stride + channel * 2).cast(), v) };
            }
        }
    }
}

/// `U` of some input channels of a block: `depth * LANES` numbers at each position.
struct Transformed {
    first: *const u8,
    /// Bytes from one position to the next.
    stride: usize,
    depth: usize,
}

/// `U` of block `b` from `channel` on, which is transformed into `room` unless all of it is kept.
///
/// # Safety
/// `room` is writable for [`SLICE`] channels at every position, [`SLICE_STRIDE`] apart, unless it is kept.
#[target_feature(enable = "avx2")]
unsafe fn transformed(wg: &Winograd, b: usize, channel: usize, room: *mut u8) -> Transformed {
    match &wg.weights {
        Weights::Transformed(weights) => {
            let stride = wg.depth * LANES * 2;
            Transformed { first: weights.as_slice().as_ptr().cast::<u8>().wrapping_add(b * POSITIONS * stride), stride, depth: wg.depth }
        }
        Weights::Taps(taps) => {
            let depth = SLICE.min(wg.depth - channel);
            let taps = &taps.as_slice()[(b * wg.depth + channel) * TAPS * LANES..][..depth * TAPS * LANES];
            // SAFETY: the function's contract.
            unsafe { transform_weights(taps, room) };
            Transformed { first: room, stride: SLICE_STRIDE, depth }
        }
    }
}

/// `U` of the channels that `taps` holds, to `[position][pair of channels][lane][2]`.
///
/// # Safety
/// `to` is writable for [`LANES`] 16-bit numbers for each channel at every position, [`SLICE_STRIDE`] apart.
#[allow(clippy::needless_range_loop, reason = "rows and columns are alike; with iterators the compiler copies them")]
#[target_feature(enable = "avx2")]
unsafe fn transform_weights(taps: &[i8], to: *mut u8) {
    for (pair, taps) in taps.as_chunks::<{ TAPS * LANES * 2 }>().0.iter().enumerate() {
        for v in [0, 1] {
            let mut half = [[_mm256_setzero_si256(); 3]; REACH];
            for x in 0..3 {
                // SAFETY: 16 weights of one tap.
                let load =
                    |y: usize| unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(taps.as_ptr().add((3 * y + x) * LANES * 2 + 16 * v).cast())) };
                let g = weights_1d([load(0), load(1), load(2)]);
                for y in 0..REACH {
                    half[y][x] = g[y];
                }
            }
            for (y, half) in half.into_iter().enumerate() {
                for (x, u) in weights_1d(half).into_iter().enumerate() {
                    // SAFETY: the function's contract.
                    unsafe { _mm256_storeu_si256(to.add((y * REACH + x) * SLICE_STRIDE + pair * LANES * 4 + 32 * v).cast(), u) };
                }
            }
        }
    }
}

/// Rows of `G` times a vector, in 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn weights_1d(g: [__m256i; 3]) -> [__m256i; REACH] {
    let (add, sub) = (|a, b| _mm256_add_epi16(a, b), |a, b| _mm256_sub_epi16(a, b));
    let six = |a| _mm256_mullo_epi16(a, _mm256_set1_epi16(6));
    let (even, twice) = (add(g[0], g[2]), add(g[1], g[1]));
    let far = add(g[0], _mm256_slli_epi16::<2>(g[2]));
    [six(g[0]), add(even, g[1]), sub(even, g[1]), add(far, twice), sub(far, twice), six(g[2])]
}

/// Where the sums of a position begin.
#[target_feature(enable = "avx2")]
fn starts(outputs: &Outputs, position: usize) -> [__m256i; 2] {
    // SAFETY: the center has 16 lanes.
    let center = |v: usize| unsafe { _mm256_loadu_si256(outputs.center[8 * v..][..8].as_ptr().cast()) };
    if position == CENTER { [center(0), center(1)] } else { [_mm256_setzero_si256(); 2] }
}

/// Sums of some tiles: where they go, and what they start from, unless it is what is there.
#[derive(Clone, Copy)]
struct Sums {
    to: *mut [__m256i; 2],
    start: Option<[__m256i; 2]>,
}

/// One position of `count` tiles, each `from.1` bytes from the one before: `[tile][channel]` times `[channel][LANES]` of a slice.
///
/// # Safety
/// There is a value of `P`; input, weights and sums are as large as that, `offsets` of as many channels as the weights.
#[target_feature(enable = "avx2")]
unsafe fn multiply<P: ByteProducts>(mut from: (*const u8, usize), weights: *const u8, mut sums: Sums, offsets: &[u32], count: usize) {
    let mut left = count;
    while left > 0 {
        // SAFETY: `left` tiles are left.
        let done = unsafe {
            match left {
                6 | 11.. => multiply_some::<P, 6>(from, weights, sums, offsets),
                5 | 9 | 10 => multiply_some::<P, 5>(from, weights, sums, offsets),
                4 | 7 | 8 => multiply_some::<P, 4>(from, weights, sums, offsets),
                3 => multiply_some::<P, 3>(from, weights, sums, offsets),
                2 => multiply_some::<P, 2>(from, weights, sums, offsets),
                _ => multiply_some::<P, 1>(from, weights, sums, offsets),
            }
        };
        left -= done;
        from.0 = from.0.wrapping_add(done * from.1);
        sums.to = sums.to.wrapping_add(done);
    }
}

/// `T` tiles of [`multiply`].
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn multiply_some<P: ByteProducts, const T: usize>(
    from: (*const u8, usize),
    weights: *const u8,
    sums: Sums,
    offsets: &[u32],
) -> usize {
    // SAFETY: the function's contract.
    unsafe {
        let to = sums.to.cast::<[[__m256i; 2]; T]>();
        let mut acc = match sums.start {
            Some(start) => [start; T],
            None => to.read_unaligned(),
        };
        wide::<P, _, _>(offsets, weights, &windows(from.0, from.1), &mut acc);
        to.write_unaligned(acc);
    }
    T
}

/// Sums of one tile's pixels, bias included: `[row][column][vector]`.
type Pixels = [[[__m256i; 2]; TILE]; TILE];

/// # Safety
/// `from` has `LANES` 32-bit numbers at each position.
#[allow(clippy::needless_range_loop, reason = "rows and columns are alike; with iterators the compiler copies them")]
#[target_feature(enable = "avx2")]
unsafe fn transform_output(from: *const u8, stride: usize, outputs: &Outputs) -> Pixels {
    let mut sums = [[[_mm256_setzero_si256(); 2]; TILE]; TILE];
    for v in 0..2 {
        // SAFETY: bias has 16 lanes.
        let bias = unsafe { _mm256_loadu_si256(outputs.bias[v * 8..][..8].as_ptr().cast()) };
        let mut half = [[_mm256_setzero_si256(); REACH]; TILE];
        for x in 0..REACH {
            // SAFETY: the function's contract.
            let load = |y: usize| unsafe { _mm256_loadu_si256(from.add((y * REACH + x) * stride + v * 32).cast()) };
            let z = output_1d([load(0), load(1), load(2), load(3), load(4), load(5)]);
            for y in 0..TILE {
                half[y][x] = z[y];
            }
        }
        for y in 0..TILE {
            for (x, sum) in output_1d(half[y]).into_iter().enumerate() {
                let whole = _mm256_mullo_epi32(sum, _mm256_set1_epi32(INVERSE));
                let exact = _mm256_sra_epi32(whole, _mm_cvtsi32_si128(SHIFTS[y] + SHIFTS[x]));
                sums[y][x][v] = _mm256_add_epi32(exact, bias);
            }
        }
    }
    sums
}

/// Requantizes a tile's pixels, adds the residual and writes those that exist.
///
/// # Safety
/// The tile lies in the job, which was checked.
#[target_feature(enable = "avx2")]
unsafe fn emit_tile(job: &mut Job<'_>, tile: &Tile, outputs: &Outputs, sums: &Pixels) {
    let output = job.output.as_mut_ptr();
    let add = job.residual.as_ref().map(|r| r.add);
    let finish = Finish::new(add.map_or(job.quant, |add| &add.output));
    // SAFETY: scale has 16 lanes; pixels inside the job, `columns` channels from the block's first.
    unsafe {
        let scale = [0, 8].map(|v| _mm256_loadu_ps(outputs.scale[v..][..8].as_ptr()));
        for (y, sums) in sums.iter().enumerate().take(tile.height) {
            let mut values = *sums;
            for (x, values) in values.iter_mut().enumerate() {
                *values = match (&job.residual, x < tile.width) {
                    (Some(residual), true) => {
                        let from = residual.bytes.map_or(output.cast_const(), <[u8]>::as_ptr);
                        let at = residual.grid.at(tile.y + y, tile.x + x) + outputs.channel;
                        plus(residual.add, job.quant, *values, scale, others(from.add(at), outputs.columns, residual.add.b_zero))
                    }
                    _ => [scaled(values[0], scale[0]), scaled(values[1], scale[1])],
                };
            }
            let to = output.add(job.pixels.at(tile.y + y, tile.x) + outputs.channel);
            if tile.width == TILE {
                emit(&finish, values, to, job.pixels.step_x, outputs.columns);
            } else {
                for (x, &values) in values.iter().enumerate().take(tile.width) {
                    emit(&finish, [values], to.add(x * job.pixels.step_x), 0, outputs.columns);
                }
            }
        }
    }
}
