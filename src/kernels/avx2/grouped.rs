//! Convolutions of narrow groups: a tile of 4 pixels x 16 channels of several groups.
//!
//! ```text
//!   tap of a pixel:  16 bytes in both halves of a register, and for each vector a shuffle that gives every lane its group's bytes
//!   narrow:          acc += fours(shuffle, w)
//!   wide:            the same twice, with two bytes a lane as 16-bit numbers
//! ```

use super::super::grouped::{Grouped, Spread, Unit};
use super::super::pack::{GROUP, LANES};
use super::{ByteProducts, Finish, emit, opaque, pin, scaled, windows};
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows `rows`; buffers checked by [`Grouped::check`].
///
/// # Safety
/// There is a value of `P`; `layer.check` passed.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn rows<P: ByteProducts>(layer: &Grouped, input: &[u8], output: &mut [u8], rows: Range<usize>) {
    let base = layer.output.rows(rows.clone()).start;
    let finish = Finish::new(&layer.quant);
    let Spread { bytes, halves: [first, second] } = &layer.spread;
    let (bytes, halves) = (both(bytes), [both(first), both(second)]);
    for unit in layer.units() {
        // SAFETY: a unit has sixteen biases and scales.
        let (bias, scale) = unsafe {
            let at = |v: usize| v * LANES / 2;
            let bias = std::array::from_fn(|v| _mm256_loadu_si256(unit.bias.as_ptr().add(at(v)).cast()));
            (bias, std::array::from_fn(|v| _mm256_loadu_ps(unit.scale.as_ptr().add(at(v)))))
        };
        let shared = Shared { unit: &unit, bytes, halves, bias, scale, finish, steps: [layer.steps[1], layer.output.pixel_stride] };
        for y in rows.clone() {
            // SAFETY: windows of row `y` lie inside the input with the slack behind it, its pixels inside the output.
            unsafe {
                let mut at = At {
                    window: input.as_ptr().add(layer.origin + y * layer.steps[0] + unit.input),
                    pixel: output.as_mut_ptr().add(layer.output.offset(y, 0) + unit.channel - base),
                };
                let mut left = layer.output.width;
                while left > 0 {
                    left -= match left {
                        3 | 6 => tile::<P, 3>(&shared, &mut at),
                        4.. => tile::<P, 4>(&shared, &mut at),
                        2 => tile::<P, 2>(&shared, &mut at),
                        _ => tile::<P, 1>(&shared, &mut at),
                    };
                }
            }
        }
    }
}

/// What the tiles of a unit share.
struct Shared<'a> {
    unit: &'a Unit<'a>,
    /// Shuffles, of each vector.
    bytes: [__m256i; 2],
    halves: [[__m256i; 2]; 2],
    bias: [__m256i; 2],
    scale: [__m256; 2],
    finish: Finish,
    /// Bytes from one pixel to the next: input, output.
    steps: [usize; 2],
}

/// The next pixel of a row.
struct At {
    window: *const u8,
    pixel: *mut u8,
}

/// A table as two vectors.
#[target_feature(enable = "avx2")]
fn both(table: &[u8; LANES * GROUP]) -> [__m256i; 2] {
    // SAFETY: 64 bytes.
    unsafe { [0, 32].map(|at| _mm256_loadu_si256(table.as_ptr().add(at).cast())) }
}

/// The next `T` pixels. Moves `at` behind them and returns how many they were.
///
/// # Safety
/// There is a value of `P`; the row has `T` pixels left, whose windows lie inside the input, with 16 readable bytes at every tap.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile<P: ByteProducts, const T: usize>(shared: &Shared, at: &mut At) -> usize {
    let mut acc = [shared.bias; T];
    let windows = windows::<T>(at.window, shared.steps[0]);
    let mut weights = shared.unit.weights.as_ptr().cast::<__m256i>();
    // SAFETY: the function's contract; weights are two vectors a narrow tap and four a wide one.
    unsafe {
        for &offset in shared.unit.narrow {
            let w = [weights.read_unaligned(), weights.add(1).read_unaligned()];
            for (acc, &window) in acc.iter_mut().zip(&windows) {
                let x = _mm256_broadcastsi128_si256(_mm_loadu_si128(window.add(offset as usize).cast()));
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = P::fours(*acc, _mm256_shuffle_epi8(x, shared.bytes[v]), w[v]);
                }
            }
            pin(acc.as_flattened_mut());
            weights = weights.add(2);
        }
        for &offset in shared.unit.wide {
            for (acc, &window) in acc.iter_mut().zip(&windows) {
                let weights = opaque(weights);
                let x = _mm256_broadcastsi128_si256(_mm_loadu_si128(window.add(offset as usize).cast()));
                for (half, spread) in shared.halves.iter().enumerate() {
                    for (v, acc) in acc.iter_mut().enumerate() {
                        let w = weights.add(2 * half + v).read_unaligned();
                        *acc = P::pairs(*acc, _mm256_shuffle_epi8(x, spread[v]), w);
                    }
                }
            }
            pin(acc.as_flattened_mut());
            weights = weights.add(4);
        }
        for acc in &mut acc {
            for (acc, &scale) in acc.iter_mut().zip(&shared.scale) {
                *acc = scaled(*acc, scale);
            }
        }
        emit::<2, T>(&shared.finish, acc, at.pixel, shared.steps[1], shared.unit.columns);
    }
    at.window = at.window.wrapping_add(T * shared.steps[0]);
    at.pixel = at.pixel.wrapping_add(T * shared.steps[1]);
    T
}
