//! Inputs in the order that blocks want: see [`super::super::arrange`].

use super::super::arrange::SEGMENT;
use super::super::forms::Windows;
use std::arch::x86_64::*;

/// Copies every window of `windows` to `to`, one after the other, in this order.
///
/// # Safety
/// `order` is whole segments; as many bytes are readable in `bytes` from the start of each window, and there is room in `to` for all.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn windows(order: &[u8], bytes: &[u8], windows: &Windows, to: &mut [u8]) {
    let Windows { height, width, grid } = *windows;
    for (number, segment) in order.as_chunks::<SEGMENT>().0.iter().enumerate() {
        let (own, other) = masks(segment);
        for y in 0..height {
            let from = bytes.as_ptr().wrapping_add(grid.at(y, 0) + number * SEGMENT);
            let to = to.as_mut_ptr().wrapping_add(y * width * order.len() + number * SEGMENT);
            // SAFETY: the function's contract: a segment has 32 places.
            unsafe {
                match other {
                    None => segments((from, grid.step_x), (to, order.len()), width, |from| _mm256_shuffle_epi8(load(from), own)),
                    Some(other) => segments((from, grid.step_x), (to, order.len()), width, |from| {
                        let swapped = _mm256_permute2x128_si256::<1>(load(from), load(from));
                        _mm256_or_si256(_mm256_shuffle_epi8(load(from), own), _mm256_shuffle_epi8(swapped, other))
                    }),
                }
            }
        }
    }
}

/// Copies one segment of each of `count` windows, from and to pointers so many bytes apart.
///
/// # Safety
/// [`SEGMENT`] bytes of each window are readable, and writable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn segments(
    (mut from, from_step): (*const u8, usize),
    (mut to, to_step): (*mut u8, usize),
    count: usize,
    arrange: impl Fn(*const u8) -> __m256i,
) {
    const AT_ONCE: usize = 4;
    let write = |from, to: *mut u8, window: usize| {
        // SAFETY: the function's contract.
        unsafe { _mm256_storeu_si256(to.wrapping_add(window * to_step).cast(), arrange(from)) }
    };
    for _ in 0..count / AT_ONCE {
        (0..AT_ONCE).for_each(|window| write(from.wrapping_add(window * from_step), to, window));
        (from, to) = (from.wrapping_add(AT_ONCE * from_step), to.wrapping_add(AT_ONCE * to_step));
    }
    (0..count % AT_ONCE).for_each(|window| write(from.wrapping_add(window * from_step), to, window));
}

/// The inputs of a segment.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(from: *const u8) -> __m256i {
    // SAFETY: the function's contract.
    unsafe { _mm256_loadu_si256(from.cast()) }
}

/// What a shuffle takes from each half's own inputs, and, unless that is all, from those of the other half: a byte with its top bit set
/// gives a zero.
#[inline]
#[target_feature(enable = "avx2")]
fn masks(segment: &[u8; SEGMENT]) -> (__m256i, Option<__m256i>) {
    // SAFETY: 32 bytes.
    let places = unsafe { _mm256_loadu_si256(segment.as_ptr().cast()) };
    let half = _mm256_inserti128_si256::<1>(_mm256_setzero_si256(), _mm_set1_epi8(0x10));
    let of_half = |half| _mm256_adds_epu8(_mm256_xor_si256(places, half), _mm256_set1_epi8(0x70));
    let own = of_half(half);
    (own, (_mm256_movemask_epi8(own) != 0).then(|| of_half(_mm256_xor_si256(half, _mm256_set1_epi8(0x10)))))
}
