//! Dense products by `SMMLA`: eight bytes of two pixels with eight bytes of two lanes, four sums of eight products in one instruction.
//!
//! ```text
//!                 lanes 0, 1          lanes 2, 3     ...
//!   pixels 0, 1 | s00 s01 s10 s11     ...            two groups of each lane lie side by side (see `Block::paired`)
//!   pixels 2, 3 | ...
//! ```
//!
//! The last group of a run of odd length is multiplied by `SDOT`, once sums lie by pixels.

use super::super::conv::Strip;
use super::super::cursor::{Cursor, Place};
use super::super::pack::{GROUP, LANES};
use super::{Shared, dot_group, each_tile};
use std::arch::aarch64::*;
use std::arch::asm;

/// Pixels and lanes of a sum's register.
const SIDE: usize = 2;

/// `acc[2i + j] += a[8i..8i + 8] . b[8j..8j + 8]`. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: one arithmetic instruction on registers, which the target feature allows.
    unsafe {
        asm!("smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b", acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
             options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// Independent `SMMLA` chains on registers.
#[target_feature(enable = "neon,i8mm")]
pub(super) fn peak(iterations: usize) -> usize {
    const CHAINS: usize = 16;
    let (x, w) = (vdupq_n_s8(3), vdupq_n_s8(1));
    let mut acc = [vdupq_n_s32(0); CHAINS];
    for _ in 0..iterations {
        for acc in &mut acc {
            *acc = smmla(*acc, x, w);
        }
        std::hint::black_box(());
    }
    std::hint::black_box(acc.into_iter().fold(vdupq_n_s32(0), |s, a| vaddq_s32(s, a)));
    iterations * CHAINS * 32
}

/// # Safety
/// `strip.check()` passed; `weights` are the block's, narrow and paired.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) unsafe fn rows(strip: &mut Strip<'_>, weights: *const i8) {
    let shared = &Shared::new(strip, weights, 1);
    // SAFETY: every tile's pixels are the strip's, which was checked; blocks have 8 or 16 lanes.
    unsafe {
        match shared.lanes {
            LANES => each_tile!(strip, 1, |at, PIXELS| tile::<4, PIXELS, { PIXELS.div_ceil(SIDE) }>(shared, at)),
            _ => each_tile!(strip, 1, |at, PIXELS| tile::<2, PIXELS, { PIXELS.div_ceil(SIDE) }>(shared, at)),
        }
    }
}

/// `PIXELS` pixels, in `PAIRS` pairs, x `QUADS * 4` lanes. A pixel without a partner is its own.
///
/// # Safety
/// As [`rows`]; `at` are places of the strip's pixels.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn tile<const QUADS: usize, const PIXELS: usize, const PAIRS: usize>(shared: &Shared<'_>, at: &[Place; PIXELS]) {
    // SAFETY: a run's bytes are inside every window and 12 more behind it are readable; weights have `QUADS * 16` bytes for each
    // group; bias has 16 lanes.
    unsafe {
        let mut sums = [[[vdupq_n_s32(0); SIDE]; QUADS]; PAIRS];
        for q in 0..QUADS {
            let bias = vreinterpretq_s64_s32(vld1q_s32(shared.bias.as_ptr().add(q * 4)));
            let halves = [vdupq_laneq_s64::<0>(bias), vdupq_laneq_s64::<1>(bias)].map(|half| vreinterpretq_s32_s64(half));
            sums.iter_mut().for_each(|sums| sums[q] = halves);
        }
        let mut weights = shared.weights;
        for run in shared.runs {
            let from: [*const i8; PIXELS] = std::array::from_fn(|p| at[p].window.add(run.offset));
            let twice = run.groups / 4 * 4 * GROUP;
            for i in (0..twice).step_by(4 * GROUP) {
                let x = from.map(|from| vreinterpretq_s64_s8(vld1q_s8(from.add(i))));
                let pair = |p: usize| (x[SIDE * p], x[(SIDE * p + 1).min(PIXELS - 1)]);
                let first = std::array::from_fn(|p| vreinterpretq_s8_s64(vzip1q_s64(pair(p).0, pair(p).1)));
                let last = std::array::from_fn(|p| vreinterpretq_s8_s64(vzip2q_s64(pair(p).0, pair(p).1)));
                two_groups(&mut weights, &first, &mut sums);
                two_groups(&mut weights, &last, &mut sums);
            }
            if run.groups % 4 >= 2 {
                let x = from.map(|from| vld1_s8(from.add(twice)));
                let x = std::array::from_fn(|p| vcombine_s8(x[SIDE * p], x[(SIDE * p + 1).min(PIXELS - 1)]));
                two_groups(&mut weights, &x, &mut sums);
            }
            weights = weights.wrapping_add(run.groups % 2 * shared.group);
        }
        let mut acc = [[vdupq_n_s32(0); QUADS]; PIXELS];
        for (p, acc) in acc.iter_mut().enumerate() {
            for (acc, [a, b]) in acc.iter_mut().zip(sums[p / SIDE]) {
                let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
                *acc = vreinterpretq_s32_s64(if p % SIDE == 0 { vzip1q_s64(a, b) } else { vzip2q_s64(a, b) });
            }
        }
        let mut weights = shared.weights;
        for run in shared.runs {
            let even = run.groups / 2 * 2;
            weights = weights.wrapping_add(even * shared.group);
            if run.groups > even {
                let x = std::array::from_fn(|p| vld1q_s8(at[p].window.add(run.offset + even * GROUP)));
                dot_group::<0, QUADS, PIXELS>(&mut weights, &x, &mut acc);
            }
        }
        shared.emit::<2, QUADS, PIXELS>(acc, 0, at);
    }
}

/// Two groups of every lane; moves `weights` behind them.
///
/// # Safety
/// `weights` have `QUADS * 32` bytes.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn two_groups<const QUADS: usize, const PAIRS: usize>(
    weights: &mut *const i8,
    x: &[int8x16_t; PAIRS],
    sums: &mut [[[int32x4_t; SIDE]; QUADS]; PAIRS],
) {
    for q in 0..QUADS {
        for half in 0..SIDE {
            // SAFETY: the function's contract.
            let w = unsafe { vld1q_s8(weights.add((SIDE * q + half) * 16)) };
            for (sums, &x) in sums.iter_mut().zip(x) {
                sums[q][half] = smmla(sums[q][half], x, w);
            }
        }
    }
    *weights = weights.wrapping_add(QUADS * 32);
}
