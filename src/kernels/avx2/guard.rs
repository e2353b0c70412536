//! Byte products that are exact as long as no top exceeds its ceiling, and what makes up for those that do: see [`super::super::guard`].

use super::super::guard::{CHUNK, Chunk, Guard, top};
use super::super::pack::GROUP;
use super::{ByteProducts, Half, in_halves, narrow, next_weights, opaque};
use std::arch::x86_64::*;

/// What a strip's tiles know of their guard.
#[derive(Clone, Copy)]
pub(super) struct Ceilings<'a> {
    chunks: &'a [Chunk],
    ceilings: &'a [u8],
    /// Between the tops of a pixel and those of the next one.
    step: usize,
}

impl<'a> Ceilings<'a> {
    /// `step`: bytes from one pixel to the next in the input.
    pub fn new(guard: Guard<'a>, step: usize) -> Ceilings<'a> {
        Ceilings { chunks: guard.chunks(), ceilings: guard.ceilings, step: step / GROUP }
    }

    /// How far each of a chunk's tops exceeds its ceiling, the largest of the first `PIXELS` pixels from `tops` on.
    ///
    /// # Safety
    /// [`CHUNK`] bytes are readable at the chunk's place of each pixel; `i` is the chunk's number.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn excess<const PIXELS: usize>(&self, i: usize, chunk: Chunk, tops: *const u8) -> __m256i {
        // SAFETY: the function's contract; there are `CHUNK` ceilings for each chunk.
        unsafe {
            let top = |pixel: usize| _mm256_loadu_si256(tops.add(chunk.top + pixel * self.step).cast());
            let largest = (1..PIXELS).fold(top(0), |largest, pixel| _mm256_max_epu8(largest, top(pixel)));
            _mm256_subs_epu8(largest, _mm256_loadu_si256(self.ceilings.as_ptr().add(i * CHUNK).cast()))
        }
    }

    /// True where the byte products of a tile's `PIXELS` are exact.
    ///
    /// # Safety
    /// Every chunk is readable from `tops` on for each pixel.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub unsafe fn hold<const PIXELS: usize>(&self, tops: *const u8) -> bool {
        let mut excess = _mm256_setzero_si256();
        for (i, &chunk) in self.chunks.iter().enumerate() {
            // SAFETY: the function's contract.
            excess = _mm256_or_si256(excess, unsafe { self.excess::<PIXELS>(i, chunk, tops) });
        }
        _mm256_testz_si256(excess, excess) != 0
    }

    /// Which of a chunk's groups exceed their ceiling, the first in the lowest bit.
    ///
    /// # Safety
    /// As [`Ceilings::excess`].
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn above(&self, i: usize, chunk: Chunk, tops: *const u8) -> u32 {
        // SAFETY: the function's contract.
        let excess = unsafe { self.excess::<1>(i, chunk, tops) };
        !_mm256_movemask_epi8(_mm256_cmpeq_epi8(excess, _mm256_setzero_si256())) as u32
    }
}

/// The sums of a tile where some tops exceed a ceiling: all as byte products, and then those for exact ones. `offsets` and `weights`
/// are those of all groups.
///
/// # Safety
/// There is a value of `P`. Four bytes are readable at every offset of every window, every chunk from `tops` on for each pixel;
/// `weights` hold `VECTORS * 32` bytes a group.
#[inline(never)]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn mended<P: ByteProducts, const VECTORS: usize, const PIXELS: usize>(
    ceilings: &Ceilings<'_>,
    (offsets, weights): (&[u32], *const u8),
    windows: &[*const u8; PIXELS],
    tops: *const u8,
    bias: &[__m256i; VECTORS],
    acc: &mut [[__m256i; VECTORS]; PIXELS],
) {
    // A copy, because assembly may read what lies in memory.
    let mut sums: [[__m256i; VECTORS]; PIXELS] = std::array::from_fn(|_| std::array::from_fn(|v| bias[v]));
    // SAFETY: the function's contract.
    unsafe {
        narrow::<P, _, _>(offsets, weights, windows, &mut sums);
        for (acc, sums) in acc.iter_mut().zip(&sums) {
            for (acc, &sum) in acc.iter_mut().zip(sums) {
                *acc = sum;
            }
        }
        for (i, &chunk) in ceilings.chunks.iter().enumerate() {
            // Two pixels at a time: fewer loops to leave.
            for pixel in (0..PIXELS).step_by(2) {
                let second = if pixel + 1 < PIXELS { ceilings.above(i, chunk, tops.add((pixel + 1) * ceilings.step)) } else { 0 };
                let mut left = u64::from(ceilings.above(i, chunk, tops.add(pixel * ceilings.step))) | u64::from(second) << CHUNK;
                while left != 0 {
                    let bit = left.trailing_zeros() as usize;
                    let (pixel, group) = (pixel + bit / CHUNK, chunk.group + bit % CHUNK);
                    mend(windows[pixel].add(offsets[group] as usize), weights.add(group * VECTORS * 32), &mut acc[pixel]);
                    left &= left - 1;
                }
            }
        }
    }
}

/// Takes the byte products of one group and pixel away again, and adds exact ones.
///
/// # Safety
/// Four bytes are readable at `from`, `VECTORS * 32` of weights at `weights`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn mend<const VECTORS: usize>(from: *const u8, weights: *const u8, acc: &mut [__m256i; VECTORS]) {
    // SAFETY: the function's contract.
    unsafe {
        let bytes = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
        let x = halves_of(bytes);
        for (v, acc) in acc.iter_mut().enumerate() {
            let w = _mm256_loadu_si256(weights.add(v * 32).cast());
            let saturated = _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, w), _mm256_set1_epi16(1));
            let exact = _mm256_add_epi32(_mm256_madd_epi16(x[0], even(w)), _mm256_madd_epi16(x[1], odd(w)));
            *acc = _mm256_add_epi32(*acc, _mm256_sub_epi32(exact, saturated));
        }
    }
}

/// Weights of bytes 0 and 2 in each lane as 16-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn even(w: __m256i) -> __m256i {
    odd(_mm256_slli_epi16::<8>(w))
}

/// Weights of bytes 1 and 3.
#[inline]
#[target_feature(enable = "avx2")]
fn odd(w: __m256i) -> __m256i {
    _mm256_srai_epi16::<8>(w)
}

/// Input bytes as 16-bit numbers, in the order of [`even`] and [`odd`].
#[inline]
#[target_feature(enable = "avx2")]
fn halves_of(x: __m256i) -> [__m256i; 2] {
    [_mm256_and_si256(x, _mm256_set1_epi16(0xFF)), _mm256_srli_epi16::<8>(x)]
}

/// Adds a tile's products in 16 bits, with weights as they are packed for bytes and the input as [`halves`] makes it. Offsets count
/// elements.
///
/// # Safety
/// There is a value of `P`. Eight bytes are readable at every offset of every window; `weights` hold `VECTORS * 32` bytes a group.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn widened<P: ByteProducts, const VECTORS: usize, const PIXELS: usize>(
    offsets: &[u32],
    mut weights: *const u8,
    windows: &[*const u8; PIXELS],
    acc: &mut [[__m256i; VECTORS]; PIXELS],
) {
    let half = |half: Half| match half {
        Half::First => {
            // Or both halves' loads become one, and sums lie on the stack.
            let mut again = opaque(weights);
            // SAFETY: the function's contract.
            let w: [__m256i; VECTORS] = unsafe { next_weights(&mut again) };
            w.map(|w| even(w))
        }
        // SAFETY: the function's contract.
        Half::Second => unsafe { next_weights(&mut weights) }.map(|w| odd(w)),
    };
    // SAFETY: the function's contract.
    unsafe { in_halves::<P, _, _>(offsets, windows, acc, half) }
}

/// The bytes as 16-bit numbers: of each four the first, the third, the second and the fourth.
///
/// # Safety
/// `wide` is twice as long as `bytes`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn halves(bytes: &[u8], wide: &mut [u8]) {
    let whole = bytes.len() / 32 * 32;
    for at in (0..whole).step_by(32) {
        // SAFETY: `at + 32 <= bytes.len()`, and `wide` is twice as long.
        unsafe {
            let [even, odd] = halves_of(_mm256_loadu_si256(bytes.as_ptr().add(at).cast()));
            let (low, high) = (_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd));
            let to = wide.as_mut_ptr().add(2 * at);
            _mm256_storeu_si256(to.cast(), _mm256_permute2x128_si256::<0x20>(low, high));
            _mm256_storeu_si256(to.add(32).cast(), _mm256_permute2x128_si256::<0x31>(low, high));
        }
    }
    for (group, wide) in bytes[whole..].as_chunks::<GROUP>().0.iter().zip(wide[2 * whole..].chunks_exact_mut(2 * GROUP)) {
        for (wide, byte) in wide.chunks_exact_mut(2).zip([group[0], group[2], group[1], group[3]]) {
            wide.copy_from_slice(&u16::from(byte).to_le_bytes());
        }
    }
}

/// [`super::super::guard::top`] of each four bytes.
///
/// # Safety
/// `tops` is a quarter as long as `bytes`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn tops(bytes: &[u8], tops: &mut [u8]) {
    const AT_ONCE: usize = CHUNK * GROUP;
    let whole = bytes.len() / AT_ONCE * AT_ONCE;
    for at in (0..whole).step_by(AT_ONCE) {
        // SAFETY: `at + 128 <= bytes.len()`.
        let group = |i: usize| tops_of(unsafe { _mm256_loadu_si256(bytes.as_ptr().add(at + 32 * i).cast()) });
        // The packs interleave 128-bit halves.
        let packed = _mm256_packus_epi16(_mm256_packs_epi32(group(0), group(1)), _mm256_packs_epi32(group(2), group(3)));
        let in_order = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: `tops` has a byte for four of `bytes`.
        unsafe { _mm256_storeu_si256(tops.as_mut_ptr().add(at / GROUP).cast(), in_order) };
    }
    let rest = bytes[whole..].as_chunks::<GROUP>().0;
    tops[whole / GROUP..].iter_mut().zip(rest).for_each(|(to, &group)| *to = top(group));
}

/// The top of each four bytes as a 32-bit number.
#[inline]
#[target_feature(enable = "avx2")]
fn tops_of(x: __m256i) -> __m256i {
    let means = _mm256_avg_epu8(x, _mm256_srli_epi16::<8>(x));
    _mm256_and_si256(_mm256_max_epu8(means, _mm256_srli_epi32::<16>(means)), _mm256_set1_epi32(0xFF))
}
