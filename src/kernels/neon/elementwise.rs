//! Loops over bytes: sums, tables.

use super::super::AddQuant;
use super::super::rows::Runs;
use super::epilogue::{Finish, get, put_eight};
use std::arch::aarch64::*;

/// The sum of two tensors, eight elements at a time.
///
/// # Safety
/// Three slices that span `runs`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn add_runs(quant: &AddQuant, runs: &Runs<3>, a: &[u8], b: &[u8], output: &mut [u8]) {
    let (finish, to) = (Finish::new(&quant.output), output.as_mut_ptr());
    let operands = [(quant.a_zero, quant.a_ratio), (quant.b_zero, quant.b_ratio)];
    for starts in runs.starts() {
        let from = [a.as_ptr().wrapping_add(starts[0]), b.as_ptr().wrapping_add(starts[1])];
        let to = to.wrapping_add(starts[2]);
        for at in (0..runs.length).step_by(8) {
            let count = (runs.length - at).min(8);
            // SAFETY: `count` bytes from `at` are inside the run, which is inside all three.
            unsafe {
                let [a, b] = [0, 1].map(|i| reals(eight(from[i].add(at), count), operands[i]));
                let sums = [0, 1].map(|half| vcvtnq_s32_f32(vaddq_f32(a[half], b[half])));
                put_eight(to.add(at), finish.eight(sums), count);
            }
        }
    }
}

/// Reads `count` bytes; what the rest holds does not matter.
///
/// # Safety
/// `count` bytes at `from` are readable, `count <= 8`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn eight(from: *const u8, count: usize) -> int8x8_t {
    // SAFETY: the function's contract.
    unsafe { if count == 8 { vld1_s8(from.cast()) } else { vget_low_s8(get(from, count)) } }
}

/// Values less their zero point, times a ratio.
#[inline]
#[target_feature(enable = "neon")]
fn reals(values: int8x8_t, (zero, ratio): (i8, f32)) -> [float32x4_t; 2] {
    let whole = vsubl_s8(values, vdup_n_s8(zero));
    [vmovl_s16(vget_low_s16(whole)), vmovl_high_s16(whole)].map(|whole| vmulq_n_f32(vcvtq_f32_s32(whole), ratio))
}

/// `table[byte]`, 16 bytes at a time: `TBL` and `TBX` look a byte up in a quarter of the table, and leave those that are beyond it.
///
/// # Safety
/// Slices that span `runs`; without `input` the steps are one.
#[target_feature(enable = "neon")]
pub(super) unsafe fn look_up(table: &[u8; 256], runs: &Runs<2>, input: Option<&[u8]>, output: &mut [u8]) {
    // SAFETY: 64 bytes of each quarter.
    let quarters = [0, 64, 128, 192].map(|at| unsafe { vld1q_u8_x4(table.as_ptr().add(at)) });
    let to = output.as_mut_ptr();
    let from = input.map_or(to.cast_const(), <[u8]>::as_ptr);
    for starts in runs.starts() {
        let (from, to) = (from.wrapping_add(starts[0]), to.wrapping_add(starts[1]));
        let mut at = 0;
        // SAFETY: each step is inside the run, which is inside both.
        unsafe {
            while at + 16 <= runs.length {
                vst1q_u8(to.add(at), found(&quarters, vld1q_u8(from.add(at))));
                at += 16;
            }
            if at + 8 <= runs.length {
                let bytes = vld1_u8(from.add(at));
                vst1_u8(to.add(at), vget_low_u8(found(&quarters, vcombine_u8(bytes, bytes))));
                at += 8;
            }
            (at..runs.length).for_each(|i| to.add(i).write(table[usize::from(from.add(i).read())]));
        }
    }
}

/// The table's elements at these bytes.
#[inline]
#[target_feature(enable = "neon")]
fn found(quarters: &[uint8x16x4_t; 4], bytes: uint8x16_t) -> uint8x16_t {
    let beyond = |quarter: u8| vsubq_u8(bytes, vdupq_n_u8(64 * quarter));
    let found = vqtbl4q_u8(quarters[0], bytes);
    let found = vqtbx4q_u8(found, quarters[1], beyond(1));
    let found = vqtbx4q_u8(found, quarters[2], beyond(2));
    vqtbx4q_u8(found, quarters[3], beyond(3))
}
