//! Loops over bytes: to 16-bit numbers, sums, tables.

use super::super::rows::Runs;
use super::super::{AddQuant, load, store};
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

/// The sum of two tensors, eight elements at a time.
///
/// # Safety
/// Three slices that span `runs`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add_runs(quant: &AddQuant, runs: &Runs<3>, a: &[u8], b: &[u8], output: &mut [u8]) {
    let (sum, to) = (Sum::new(quant), output.as_mut_ptr());
    for starts in runs.starts() {
        let (a, b) = (a.as_ptr().wrapping_add(starts[0]), b.as_ptr().wrapping_add(starts[1]));
        let to = to.wrapping_add(starts[2]);
        let mut at = 0;
        // SAFETY: each step is inside the run, which is inside all three.
        unsafe {
            while at + 16 <= runs.length {
                let sums = [0, 8].map(|half| sum.of(a.add(at + half), b.add(at + half)));
                let bytes = sum.finish.four_of_eight([sums[0], sums[1], sums[0], sums[1]]);
                _mm_storeu_si128(to.add(at).cast(), _mm256_castsi256_si128(bytes));
                at += 16;
            }
            if at + 8 <= runs.length {
                let bytes = sum.finish.four_of_eight([sum.of(a.add(at), b.add(at)); 4]);
                _mm_storel_epi64(to.add(at).cast(), _mm256_castsi256_si128(bytes));
                at += 8;
            }
            for i in at..runs.length {
                to.add(i).write(store(quant.apply(load(a.add(i).read()), load(b.add(i).read()))));
            }
        }
    }
}

/// [`AddQuant`] in registers.
struct Sum {
    finish: Finish,
    zeros: [__m256i; 2],
    ratios: [__m256; 2],
}

impl Sum {
    #[target_feature(enable = "avx2")]
    fn new(quant: &AddQuant) -> Sum {
        Sum {
            finish: Finish::new(&quant.output),
            zeros: [quant.a_zero, quant.b_zero].map(|zero| _mm256_set1_epi32(i32::from(store(zero)))),
            ratios: [quant.a_ratio, quant.b_ratio].map(|ratio| _mm256_set1_ps(ratio)),
        }
    }

    /// Eight rounded sums.
    ///
    /// # Safety
    /// Eight bytes are readable at each.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn of(&self, a: *const u8, b: *const u8) -> __m256i {
        // SAFETY: the function's contract.
        let (a, b) = unsafe { (_mm_loadl_epi64(a.cast()), _mm_loadl_epi64(b.cast())) };
        let [a, b] = [(a, 0), (b, 1)].map(|(bytes, i)| {
            let real = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), self.zeros[i]));
            _mm256_mul_ps(real, self.ratios[i])
        });
        _mm256_cvtps_epi32(_mm256_add_ps(a, b))
    }
}

/// `table[byte]`, 32 bytes at a time: a shuffle looks the low half of a byte up in each sixteenth of the table, and blends
/// by its bits 4 to 7 pick the right one.
///
/// # Safety
/// Slices that span `runs`; without `input` the steps are one.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn look_up(table: &[u8; 256], runs: &Runs<2>, input: Option<&[u8]>, output: &mut [u8]) {
    // SAFETY: 16 bytes of each sixteenth.
    let part = |i: usize| unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().add(16 * i).cast())) };
    let parts: [__m256i; 16] = std::array::from_fn(part);
    let to = output.as_mut_ptr();
    let from = input.map_or(to.cast_const(), <[u8]>::as_ptr);
    for starts in runs.starts() {
        let (from, to) = (from.wrapping_add(starts[0]), to.wrapping_add(starts[1]));
        let mut at = 0;
        // SAFETY: each step is inside the run, which is inside both.
        unsafe {
            while at + 32 <= runs.length {
                let found = found(&parts, _mm256_loadu_si256(from.add(at).cast()));
                _mm256_storeu_si256(to.add(at).cast(), found);
                at += 32;
            }
            let eights = (runs.length - at) / 8;
            if eights > 0 {
                let load = |i: usize| if i < eights { from.add(at + 8 * i).cast::<i64>().read_unaligned() } else { 0 };
                let found = found(&parts, _mm256_set_epi64x(0, load(2), load(1), load(0)));
                let [low, high] = [_mm256_castsi256_si128(found), _mm256_extracti128_si256::<1>(found)];
                match eights {
                    1 => _mm_storel_epi64(to.add(at).cast(), low),
                    _ => _mm_storeu_si128(to.add(at).cast(), low),
                }
                if eights == 3 {
                    _mm_storel_epi64(to.add(at + 16).cast(), high);
                }
                at += 8 * eights;
            }
            (at..runs.length).for_each(|i| to.add(i).write(table[usize::from(from.add(i).read())]));
        }
    }
}

/// The elements of `parts`, each both halves, at these bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn found(parts: &[__m256i; 16], x: __m256i) -> __m256i {
    let low = _mm256_and_si256(x, _mm256_set1_epi8(15));
    let found = parts.map(|part| _mm256_shuffle_epi8(part, low));
    let found: [__m256i; 8] = blend(&found, _mm256_slli_epi16::<3>(x));
    let found: [__m256i; 4] = blend(&found, _mm256_slli_epi16::<2>(x));
    let found: [__m256i; 2] = blend(&found, _mm256_slli_epi16::<1>(x));
    let [found] = blend(&found, x);
    found
}

/// Of each two vectors the second where the top bit of `by` is set.
#[inline]
#[target_feature(enable = "avx2")]
fn blend<const N: usize>(from: &[__m256i], by: __m256i) -> [__m256i; N] {
    std::array::from_fn(|i| _mm256_blendv_epi8(from[2 * i], from[2 * i + 1], by))
}
