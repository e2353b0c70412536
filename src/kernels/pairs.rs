//! Sums of products of 16-bit numbers, two at a time: the inner loop where both factors are known at run time only.
//!
//! A register tile is some pixels x 16 lanes; a step broadcasts one pair of a pixel and multiplies it with a pair a lane.
//! Products of two differences of int8 values (-255..=255) and their pair sums are exact in 32 bits.

use super::Isa;

/// Two little-endian 16-bit numbers.
pub(crate) type Pair = [u8; 4];

/// Columns of a tile.
pub(crate) const LANES: usize = 16;

/// Two numbers as a pair; each fits 16 bits.
#[inline(always)]
pub(crate) fn pair(first: i32, second: i32) -> Pair {
    ((first & 0xFFFF) | (second << 16)).to_le_bytes()
}

/// `acc[p][lane] += x[p][i] . w[i][lane]` for every `i` of `w`. Panics when an `x` is shorter than `w`.
#[inline(always)]
pub(crate) fn accumulate<const PIXELS: usize>(isa: Isa, x: [&[Pair]; PIXELS], w: &[[Pair; LANES]], acc: &mut [[i32; LANES]; PIXELS]) {
    let x = x.map(|x| &x[..w.len()]);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the value proves AVX2; the lengths are equal.
        Isa::Avx2(_) | Isa::AvxVnni(_) | Isa::Avx512Vnni(_) => unsafe { avx2(x, w, acc) },
        _ => portable(x, w, acc),
    }
}

#[inline(always)]
fn portable<const PIXELS: usize>(x: [&[Pair]; PIXELS], w: &[[Pair; LANES]], acc: &mut [[i32; LANES]; PIXELS]) {
    let numbers = |[a, b, c, d]: Pair| [i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])].map(i32::from);
    let mut sums = *acc;
    for (i, w) in w.iter().enumerate() {
        for (x, sums) in x.iter().zip(&mut sums) {
            let [first, second] = numbers(x[i]);
            for (sum, &w) in sums.iter_mut().zip(w) {
                let w = numbers(w);
                *sum += first * w[0] + second * w[1];
            }
        }
    }
    *acc = sums;
}

/// # Safety
/// Every `x` is as long as `w`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn avx2<const PIXELS: usize>(x: [&[Pair]; PIXELS], w: &[[Pair; LANES]], acc: &mut [[i32; LANES]; PIXELS]) {
    use std::arch::x86_64::*;
    let mut sums = [[_mm256_setzero_si256(); 2]; PIXELS];
    for (i, w) in w.iter().enumerate() {
        // SAFETY: 64 bytes of weights; `i` is inside every `x`.
        unsafe {
            let w = [0, 8].map(|lane| _mm256_loadu_si256(w.as_ptr().add(lane).cast()));
            for (x, sums) in x.iter().zip(&mut sums) {
                let x = _mm256_set1_epi32(x.as_ptr().add(i).cast::<i32>().read_unaligned());
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, w));
                }
            }
        }
    }
    for (acc, sums) in acc.iter_mut().zip(sums) {
        for (acc, sum) in acc.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
            // SAFETY: eight sums, read and written in place.
            unsafe {
                let acc = acc.as_mut_ptr().cast();
                _mm256_storeu_si256(acc, _mm256_add_epi32(_mm256_loadu_si256(acc), sum));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite::Random;
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_exact_sums() {
        let mut random = Random::new(19);
        for length in [0, 1, 2, 7, 64] {
            let mut number = || [-255, 255, 0, i32::from(random.value())][random.range(0..4)];
            let x: [Vec<[i32; 2]>; 3] = std::array::from_fn(|_| (0..length + 1).map(|_| [number(), number()]).collect());
            let w: Vec<[[i32; 2]; LANES]> = (0..length).map(|_| std::array::from_fn(|_| [number(), number()])).collect();
            let expected: [[i32; LANES]; 3] = std::array::from_fn(|p| {
                std::array::from_fn(|lane| 7 + (0..length).map(|i| x[p][i][0] * w[i][lane][0] + x[p][i][1] * w[i][lane][1]).sum::<i32>())
            });
            let x = x.map(|x| x.iter().map(|x| pair(x[0], x[1])).collect::<Vec<_>>());
            let w: Vec<[Pair; LANES]> = w.iter().map(|w| w.map(|w| pair(w[0], w[1]))).collect();
            for isa in Isa::supported() {
                let mut acc = [[7; LANES]; 3];
                accumulate(isa, x.each_ref().map(Vec::as_slice), &w, &mut acc);
                assert_eq!(acc, expected, "{} {length}", isa.name());
            }
        }
    }
}
