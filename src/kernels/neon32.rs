//! Inner loops for 32-bit ARM with NEON (Cortex-A7, and 64-bit cores under a 32-bit system), which is optional there: the program
//! is compiled without it, and asks the kernel.
//!
//! Dense, narrow: 2 pixels x 8 channels, with the products and the rule of 64-bit NEON ([`NarrowRule::NoMinimum`]). Depthwise:
//! 4 pixels x 8 channels. Places of pixels are listed first, for several tiles; those that a last tile lacks repeat the last one.

use super::AddQuant;
use super::conv::{Kernel, Strip};
use super::cursor::{Cursor, Place};
use super::depthwise::Depthwise;
use super::pack::{NarrowRule, Style, Weights};
use super::portable::Portable;
use super::rows::Runs;
use std::ffi::c_ulong;
use std::ops::Range;

#[macro_use]
mod asm;
mod bytes;
mod dense;
mod depthwise;

use asm::{DEPTHWISE, EIGHT};
pub(crate) use depthwise::Taps;

/// Proof that the CPU has NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon32(());

unsafe extern "C" {
    /// The C library's: a word of what the kernel tells a program about the machine, 0 where it tells nothing.
    safe fn getauxval(kind: c_ulong) -> c_ulong;
}

/// `AT_HWCAP` of `linux/auxvec.h` and `HWCAP_NEON` of `asm/hwcap.h`.
const AT_HWCAP: c_ulong = 16;
const HWCAP_NEON: c_ulong = 1 << 12;

impl Neon32 {
    pub(crate) fn new() -> Option<Neon32> {
        (getauxval(AT_HWCAP) & HWCAP_NEON != 0).then_some(Neon32(()))
    }

    pub(crate) fn peak_loop(self, iterations: usize) -> usize {
        let iterations = iterations.max(1);
        // SAFETY: `self` proves NEON.
        unsafe { dense::peak(iterations) };
        iterations * dense::PEAK
    }
}

impl Kernel for Neon32 {
    const STYLE: Style = Style { rule: NarrowRule::NoMinimum, order: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], pairs: false };

    fn strip(self, strip: &mut Strip<'_>) {
        strip.check();
        // SAFETY: `self` proves NEON; the strip was checked.
        unsafe {
            match strip.block.weights() {
                Weights::Narrow(w) => dense::rows::<false>(strip, w.as_slice().as_ptr()),
                Weights::Wide(w) => dense::rows::<true>(strip, w.as_slice().as_ptr().cast()),
                Weights::Mixed(..) => unreachable!("only the pair rule of x86 mixes"),
            }
        }
    }

    fn widen(self, bytes: &[u8], wide: &mut [u8]) {
        assert_eq!(bytes.len() * 2, wide.len());
        let whole = bytes.len() / 16;
        if whole > 0 {
            // SAFETY: `self` proves NEON; the lengths were compared.
            unsafe { bytes::widen(bytes.as_ptr(), wide.as_mut_ptr(), whole) };
        }
        Portable.widen(&bytes[whole * 16..], &mut wide[whole * 32..]);
    }

    fn add(self, quant: &AddQuant, runs: &Runs<3>, a: &[u8], b: &[u8], output: &mut [u8]) {
        let sum = bytes::Sum::new(quant);
        let (whole, rest) = (runs.length / EIGHT, runs.length % EIGHT);
        for [from_a, from_b, to] in runs.iter().filter(|_| whole > 0) {
            let (a, b, output) = (&a[from_a], &b[from_b], &mut output[to]);
            // SAFETY: `self` proves NEON; runs are of one length.
            unsafe { bytes::add(&sum, a.as_ptr(), b.as_ptr(), output.as_mut_ptr(), whole) };
        }
        let ends = Runs { length: rest, ..*runs };
        let at = whole * EIGHT;
        Portable.add(quant, &ends, &a[at..], &b[at..], &mut output[at..]);
    }

    fn depthwise(self, dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        dw.check(input, output, &rows);
        // SAFETY: `self` proves NEON; the buffers were checked.
        unsafe { depthwise::rows(dw, input, output, rows) }
    }
}

/// Places that are listed at once: few enough that the input of their windows stays in the nearest cache from one group of channels to
/// the next. Whole tiles.
const AT_ONCE: usize = 32;

/// Lists the next places of the cursor and returns their number. The last one goes on behind them, to fill a tile.
fn next(cursor: &mut Cursor, list: &mut [Place; AT_ONCE]) -> usize {
    let count = cursor.list(list);
    let last = list[count - 1];
    list[count..count.next_multiple_of(DEPTHWISE)].fill(last);
    count
}

/// The places, but with `bytes` for their pixels, once they are moved to `channel`.
fn aside<const N: usize>(places: &[Place], channel: usize, bytes: &mut [[u8; EIGHT]; N]) -> [Place; N] {
    let pixels = bytes.each_mut().map(|bytes| bytes.as_mut_ptr().wrapping_sub(channel));
    std::array::from_fn(|p| Place { pixel: pixels[p], ..places[p] })
}
