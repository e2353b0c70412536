//! From sums to bytes on NEON. Conversions round to nearest even and saturate, so no scale is too large here.

use super::super::{AddQuant, OutputQuant};
use std::arch::aarch64::*;

/// Zero point and range of an output.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    zero: int16x8_t,
    low: int8x16_t,
    high: int8x16_t,
}

impl Finish {
    #[target_feature(enable = "neon")]
    pub fn new(quant: &OutputQuant) -> Finish {
        Finish { zero: vdupq_n_s16(i16::from(quant.zero_point)), low: vdupq_n_s8(quant.low), high: vdupq_n_s8(quant.high) }
    }

    /// Whole numbers, zero point not yet added, as eight bytes.
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn eight(&self, [a, b]: [int32x4_t; 2]) -> int8x8_t {
        let words = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(a), b), self.zero);
        vmin_s8(vmax_s8(vqmovn_s16(words), vget_low_s8(self.low)), vget_low_s8(self.high))
    }

    /// Whole numbers, zero point not yet added, as sixteen bytes.
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn sixteen(&self, [a, b, c, d]: [int32x4_t; 4]) -> int8x16_t {
        let first = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(a), b), self.zero);
        let last = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(c), d), self.zero);
        vminq_s8(vmaxq_s8(vqmovn_high_s16(vqmovn_s16(first), last), self.low), self.high)
    }

    /// Writes the first `count` of `QUADS * 4` whole numbers, zero point not yet added.
    ///
    /// # Safety
    /// `count` bytes at `to` are writable, `count <= QUADS * 4`, `QUADS` is 2 or 4.
    #[inline]
    #[target_feature(enable = "neon")]
    pub unsafe fn write<const QUADS: usize>(&self, values: &[int32x4_t; QUADS], to: *mut u8, count: usize) {
        // SAFETY: the function's contract.
        unsafe {
            if QUADS == 4 {
                let bytes = self.sixteen([values[0], values[1], values[2], values[3]]);
                if count == 16 { vst1q_s8(to.cast(), bytes) } else { put_some(to, bytes, count) }
            } else {
                put_eight(to, self.eight([values[0], values[1]]), count);
            }
        }
    }
}

/// `round_half_even(acc * scale)`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scaled(acc: int32x4_t, scale: float32x4_t) -> int32x4_t {
    vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(acc), scale))
}

/// The convolution's own value, requantized, plus the residual: whole numbers, zero point not yet added.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn plus(add: &AddQuant, quant: &OutputQuant, acc: int32x4_t, scale: float32x4_t, other: int16x4_t) -> int32x4_t {
    let (low, high) = quant.bounds();
    let own = vmulq_f32(vcvtq_f32_s32(acc), scale);
    let own = vrndnq_f32(vminq_f32(vmaxq_f32(own, vdupq_n_f32(low)), vdupq_n_f32(high)));
    let other = vcvtq_f32_s32(vsubq_s32(vmovl_s16(other), vdupq_n_s32(i32::from(add.b_zero))));
    vcvtnq_s32_f32(vaddq_f32(vmulq_n_f32(own, add.a_ratio), vmulq_n_f32(other, add.b_ratio)))
}

/// Writes the first `count` of eight bytes.
///
/// # Safety
/// `count` bytes at `to` are writable, `count <= 8`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn put_eight(to: *mut u8, bytes: int8x8_t, count: usize) {
    // SAFETY: the function's contract.
    unsafe { if count == 8 { vst1_s8(to.cast(), bytes) } else { put_some(to, vcombine_s8(bytes, bytes), count) } }
}

/// # Safety
/// `count` bytes at `to` are writable, `count <= 16`.
#[cold]
#[target_feature(enable = "neon")]
unsafe fn put_some(to: *mut u8, bytes: int8x16_t, count: usize) {
    let mut all = [0u8; 16];
    // SAFETY: the array has 16 bytes; the function's contract.
    unsafe {
        vst1q_s8(all.as_mut_ptr().cast(), bytes);
        std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
    }
}

/// Writes the first `count` sums.
///
/// # Safety
/// `count * 4` bytes at `to` are writable, `count <= QUADS * 4 <= 16`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn put_sums<const QUADS: usize>(sums: &[int32x4_t; QUADS], to: *mut u8, count: usize) {
    let mut all = [0i32; 16];
    // SAFETY: the array has 16 numbers; the function's contract.
    unsafe {
        sums.iter().enumerate().for_each(|(q, &sums)| vst1q_s32(all.as_mut_ptr().add(4 * q), sums));
        std::ptr::copy_nonoverlapping(all.as_ptr().cast(), to, 4 * count);
    }
}

/// Reads `count` bytes; what the rest holds does not matter.
///
/// # Safety
/// `count` bytes at `from` are readable, `count <= 16`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn get(from: *const u8, count: usize) -> int8x16_t {
    // SAFETY: each branch reads `count` bytes.
    unsafe {
        if count == 16 {
            return vld1q_s8(from.cast());
        }
        let mut all = [0i8; 16];
        std::ptr::copy_nonoverlapping(from.cast(), all.as_mut_ptr(), count);
        vld1q_s8(all.as_ptr())
    }
}
