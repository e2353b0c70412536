//! Inner loops for x86-64 with byte dot products: four products and their sum in one instruction, exact for every int8 weight.
//!
//! ```text
//!              w0 (8 lanes x 4)  w1
//!   pixel 0 |  acc00             acc01       acc = vpdpbusd(acc, x, w)
//!   ...     |                                one multiplication for 32 products
//!   pixel 5 |  acc50             acc51
//! ```
//!
//! The instruction has two encodings, and which one a CPU knows is independent of the other: VEX (AVX-VNNI: the small cores of Alder Lake-N,
//! and later) and EVEX (AVX512-VNNI with VL: Ice Lake, Zen 4, and later). Both are used on 256-bit registers; what is no dense
//! product is [`super::avx2`]'s.

use super::AddQuant;
use super::avx2::{Avx2, ByteProducts, dense, depthwise, grouped, winograd};
use super::conv::{Kernel, Strip};
use super::depthwise::Depthwise;
use super::grouped::Grouped;
use super::pack::{NarrowRule, Style};
use super::rows::Runs;
use super::winograd::{Job, Winograd};
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

/// Proof that the CPU has AVX2 and byte dot products in the VEX encoding, or else in the EVEX encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vnni<const VEX: bool> {
    avx2: Avx2,
}

pub type AvxVnni = Vnni<true>;
pub type Avx512Vnni = Vnni<false>;

impl<const VEX: bool> Vnni<VEX> {
    pub(crate) fn new() -> Option<Self> {
        let known = match VEX {
            true => is_x86_feature_detected!("avxvnni"),
            false => is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl"),
        };
        Avx2::new().filter(|_| known).map(|avx2| Vnni { avx2 })
    }

    pub(crate) fn peak_loop(self, iterations: usize) -> usize {
        // SAFETY: `self` proves both instruction sets.
        unsafe { peak::<VEX>(iterations) }
    }
}

impl<const VEX: bool> Kernel for Vnni<VEX> {
    const STYLE: Style = Style { rule: NarrowRule::Always, ..Avx2::STYLE };

    fn strip(self, strip: &mut Strip<'_>) {
        dense(self, self.avx2, strip);
    }

    fn widen(self, bytes: &[u8], wide: &mut [u8]) {
        self.avx2.widen(bytes, wide);
    }

    fn add(self, quant: &AddQuant, runs: &Runs<3>, a: &[u8], b: &[u8], output: &mut [u8]) {
        self.avx2.add(quant, runs, a, b, output);
    }

    fn table(self, table: &[u8; 256], runs: &Runs<2>, input: Option<&[u8]>, output: &mut [u8]) {
        self.avx2.table(table, runs, input, output);
    }

    fn depthwise(self, dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        depthwise(self, self.avx2, dw, input, output, rows);
    }

    const GROUPED: bool = true;

    fn grouped(self, layer: &Grouped, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        grouped(self, self.avx2, layer, input, output, rows);
    }

    const WINOGRAD: Option<usize> = Some(2);

    fn winograd(self, wg: &Winograd, job: &mut Job<'_>) {
        winograd(self, self.avx2, wg, job);
    }
}

/// Adds the products of what `$broadcast` puts into a register with each vector of weights, in one of the encodings.
macro_rules! dot_step {
    ($instruction:literal, $broadcast:literal, $window:ident, $offset:ident, $skip:expr, $w:ident, $acc:ident) => {
        match $acc.as_mut_slice() {
            [a] => asm!(
                $broadcast,
                concat!($instruction, " {a}, {x}, {w0}"),
                window = in(reg) $window, offset = in(reg) $offset, skip = const $skip, w0 = in(ymm_reg) $w[0],
                a = inout(ymm_reg) *a, x = out(ymm_reg) _,
                options(readonly, nostack, preserves_flags)
            ),
            [a, b] => asm!(
                $broadcast,
                concat!($instruction, " {a}, {x}, {w0}"),
                concat!($instruction, " {b}, {x}, {w1}"),
                window = in(reg) $window, offset = in(reg) $offset, skip = const $skip, w0 = in(ymm_reg) $w[0], w1 = in(ymm_reg) $w[1],
                a = inout(ymm_reg) *a, b = inout(ymm_reg) *b, x = out(ymm_reg) _,
                options(readonly, nostack, preserves_flags)
            ),
            _ => unreachable!(),
        }
    };
}

/// The same for bytes, and for 16-bit numbers.
macro_rules! byte_step {
    ($instruction:literal, $($rest:tt)*) => { dot_step!($instruction, "vpbroadcastd {x}, [{window} + {offset} + {skip}]", $($rest)*) };
}
macro_rules! word_step {
    ($instruction:literal, $($rest:tt)*) => { dot_step!($instruction, "vpbroadcastd {x}, [{window} + 2 * {offset} + {skip}]", $($rest)*) };
}

/// The sum of `$acc` and the products of registers, in the encoding of `$vex`: one arithmetic instruction.
macro_rules! dot {
    ($instruction:literal, $vex:ident, $acc:ident, $x:ident, $w:ident) => {{
        let mut acc = $acc;
        match $vex {
            true => asm!(concat!("{{vex}} ", $instruction, " {0}, {1}, {2}"), inout(ymm_reg) acc, in(ymm_reg) $x, in(ymm_reg) $w,
                options(pure, nomem, nostack, preserves_flags)),
            false => asm!(concat!("{{evex}} ", $instruction, " {0}, {1}, {2}"), inout(ymm_reg) acc, in(ymm_reg) $x, in(ymm_reg) $w,
                options(pure, nomem, nostack, preserves_flags)),
        }
        acc
    }};
}

impl<const VEX: bool> ByteProducts for Vnni<VEX> {
    const SPARES_REGISTERS: bool = true;
    const SATURATES: bool = false;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn step<const VECTORS: usize>(
        window: *const u8,
        offset: usize,
        w: &[__m256i; VECTORS],
        _: __m256i,
        acc: &mut [__m256i; VECTORS],
    ) {
        // SAFETY: the function's contract: four bytes are readable, and a value of `Self` proves the instruction.
        unsafe {
            match VEX {
                true => byte_step!("{{vex}} vpdpbusd", window, offset, 0, w, acc),
                false => byte_step!("{{evex}} vpdpbusd", window, offset, 0, w, acc),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn wide_step<const VECTORS: usize, const SKIP: usize>(
        window: *const u8,
        offset: usize,
        w: &[__m256i; VECTORS],
        acc: &mut [__m256i; VECTORS],
    ) {
        // SAFETY: as above.
        unsafe {
            match VEX {
                true => word_step!("{{vex}} vpdpwssd", window, offset, SKIP, w, acc),
                false => word_step!("{{evex}} vpdpwssd", window, offset, SKIP, w, acc),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pairs(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: a value of `Self` proves the instruction.
        unsafe { dot!("vpdpwssd", VEX, acc, x, w) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn fours(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { dot!("vpdpbusd", VEX, acc, x, w) }
    }
}

/// Independent `vpdpbusd` chains on registers.
///
/// # Safety
/// The CPU has the instruction in the encoding.
#[target_feature(enable = "avx2")]
unsafe fn peak<const VEX: bool>(iterations: usize) -> usize {
    const CHAINS: usize = 12;
    let (x, w) = (_mm256_set1_epi8(3), _mm256_set1_epi8(1));
    let mut acc = [_mm256_setzero_si256(); CHAINS];
    for _ in 0..iterations {
        for a in &mut acc {
            // SAFETY: the function's contract.
            unsafe {
                match VEX {
                    true => asm!("{{vex}} vpdpbusd {0}, {1}, {2}", inout(ymm_reg) * a, in(ymm_reg) x, in(ymm_reg) w,
                        options(nomem, nostack, preserves_flags)),
                    false => asm!("{{evex}} vpdpbusd {0}, {1}, {2}", inout(ymm_reg) * a, in(ymm_reg) x, in(ymm_reg) w,
                        options(nomem, nostack, preserves_flags)),
                }
            }
        }
    }
    let sum = acc.into_iter().fold(_mm256_setzero_si256(), |s, a| _mm256_add_epi32(s, a));
    std::hint::black_box(_mm256_extract_epi32::<0>(sum));
    iterations * CHAINS * 32
}
