//! Loops over bytes: to 16-bit numbers, sums, tables.

use super::super::{AddQuant, store};
use super::Finish;
use std::arch::x86_64::*;

/// Bytes to 16-bit numbers.
///
/// # Safety
/// `wide` is twice as long as `bytes`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn widen_bytes(bytes: &[u8], wide: &mut [u8]) {
    let whole = bytes.len() / 16 * 16;
    for at in (0..whole).step_by(16) {
        // SAFETY: `at + 16 <= bytes.len()`, and `wide` is twice as long.
        unsafe {
            let x = _mm_loadu_si128(bytes.as_ptr().add(at).cast());
            _mm256_storeu_si256(wide.as_mut_ptr().add(2 * at).cast(), _mm256_cvtepu8_epi16(x));
        }
    }
    for (&byte, pair) in bytes[whole..].iter().zip(wide[2 * whole..].chunks_exact_mut(2)) {
        pair.copy_from_slice(&u16::from(byte).to_le_bytes());
    }
}

/// The sum of two tensors, 16 elements at a time.
///
/// # Safety
/// Three slices of one length, a multiple of 16.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add_bytes(quant: &AddQuant, a: &[u8], b: &[u8], output: &mut [u8]) {
    let finish = Finish::new(&quant.output);
    let zeros = [quant.a_zero, quant.b_zero].map(|zero| i32::from(store(zero)));
    let (a_zero, b_zero) = (_mm256_set1_epi32(zeros[0]), _mm256_set1_epi32(zeros[1]));
    let (a_ratio, b_ratio) = (_mm256_set1_ps(quant.a_ratio), _mm256_set1_ps(quant.b_ratio));
    for at in (0..output.len()).step_by(16) {
        let mut sums = [_mm256_setzero_si256(); 2];
        for (half, sum) in sums.iter_mut().enumerate() {
            // SAFETY: eight bytes from `at + 8 * half` are inside all three.
            let (a, b) = unsafe {
                let at = at + 8 * half;
                (_mm_loadl_epi64(a.as_ptr().add(at).cast()), _mm_loadl_epi64(b.as_ptr().add(at).cast()))
            };
            let a = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(a), a_zero));
            let b = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(b), b_zero));
            *sum = _mm256_cvtps_epi32(_mm256_add_ps(_mm256_mul_ps(a, a_ratio), _mm256_mul_ps(b, b_ratio)));
        }
        let bytes = finish.four_of_eight([sums[0], sums[1], sums[0], sums[1]]);
        // SAFETY: 16 bytes from `at` are inside.
        unsafe { _mm_storeu_si128(output.as_mut_ptr().add(at).cast(), _mm256_castsi256_si128(bytes)) };
    }
}

/// `table[byte]`, 32 bytes at a time: a shuffle looks the low half of a byte up in each sixteenth of the table, and blends
/// by its bits 4 to 7 pick the right one.
///
/// # Safety
/// Slices of one length, a multiple of 32.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn look_up(table: &[u8; 256], input: Option<&[u8]>, output: &mut [u8]) {
    // SAFETY: 16 bytes of each sixteenth.
    let part = |i: usize| unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().add(16 * i).cast())) };
    let parts: [__m256i; 16] = std::array::from_fn(part);
    let to = output.as_mut_ptr();
    let from = input.map_or(to.cast_const(), <[u8]>::as_ptr);
    for at in (0..output.len()).step_by(32) {
        // SAFETY: 32 bytes from `at` are inside both.
        unsafe {
            let x = _mm256_loadu_si256(from.add(at).cast());
            let low = _mm256_and_si256(x, _mm256_set1_epi8(15));
            let found = parts.map(|part| _mm256_shuffle_epi8(part, low));
            let found: [__m256i; 8] = blend(&found, _mm256_slli_epi16::<3>(x));
            let found: [__m256i; 4] = blend(&found, _mm256_slli_epi16::<2>(x));
            let found: [__m256i; 2] = blend(&found, _mm256_slli_epi16::<1>(x));
            let [found] = blend(&found, x);
            _mm256_storeu_si256(to.add(at).cast(), found);
        }
    }
}

/// Of each two vectors the second where the top bit of `by` is set.
#[inline]
#[target_feature(enable = "avx2")]
fn blend<const N: usize>(from: &[__m256i], by: __m256i) -> [__m256i; N] {
    std::array::from_fn(|i| _mm256_blendv_epi8(from[2 * i], from[2 * i + 1], by))
}
