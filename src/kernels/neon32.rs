//! Inner loops for 32-bit ARM with NEON (Cortex-A7, and 64-bit cores under a 32-bit system), which is optional there: the program
//! is compiled without it, and asks the kernel.
//!
//! Dense, narrow: 2 pixels x 8 channels, as many as 16 registers hold, with the products and the rule of 64-bit NEON
//! ([`NarrowRule::NoMinimum`]). This file walks over pixels and lanes; the assembly is in [`loops`].

use super::conv::{After, Kernel, Residual, Strip};
use super::cursor::{Cursor, Place};
use super::depthwise::Depthwise;
use super::pack::{LANES, NarrowRule, Style, Weights};
use super::portable::Portable;
use super::{AddQuant, OutputQuant};
use std::ffi::c_ulong;
use std::ops::Range;

mod loops;

use loops::{EIGHT, Finish, Half, Sum, Sums};

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
        unsafe { loops::peak(iterations) };
        iterations * loops::PEAK
    }
}

impl Kernel for Neon32 {
    const STYLE: Style = Style { rule: NarrowRule::NoMinimum, order: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] };

    fn strip(self, strip: &mut Strip<'_>) {
        strip.check();
        // SAFETY: `self` proves NEON; the strip was checked.
        unsafe {
            match strip.block.weights() {
                Weights::Narrow(w) => rows(strip, w.as_slice().as_ptr(), 1, loops::narrow),
                Weights::Wide(w) => rows(strip, w.as_slice().as_ptr().cast(), 2, loops::wide),
                Weights::Mixed(..) => unreachable!("only the pair rule of x86 mixes"),
            }
        }
    }

    fn widen(self, bytes: &[u8], wide: &mut [u8]) {
        assert_eq!(bytes.len() * 2, wide.len());
        let whole = bytes.len() / 16;
        if whole > 0 {
            // SAFETY: `self` proves NEON; the lengths were compared.
            unsafe { loops::widen(bytes.as_ptr(), wide.as_mut_ptr(), whole) };
        }
        Portable.widen(&bytes[whole * 16..], &mut wide[whole * 32..]);
    }

    fn add(self, quant: &AddQuant, a: &[u8], b: &[u8], output: &mut [u8]) {
        assert!(a.len() == output.len() && b.len() == output.len());
        let whole = output.len() / EIGHT;
        if whole > 0 {
            // SAFETY: `self` proves NEON; the lengths were compared.
            unsafe { loops::add(&Sum::new(quant), a.as_ptr(), b.as_ptr(), output.as_mut_ptr(), whole) };
        }
        let rest = whole * EIGHT;
        Portable.add(quant, &a[rest..], &b[rest..], &mut output[rest..]);
    }

    fn depthwise(self, dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        Portable.depthwise(dw, input, output, rows);
    }
}

// ------------------------------------------------------------------------------------------------------------- dense

/// The sums of two windows.
type Tile = unsafe fn(&Half<'_>, [*const i8; 2], &mut Sums<2>);

/// # Safety
/// The CPU has NEON, `strip.check()` passed, `weights` are the block's and those of `tile`, which reads inputs of `element` bytes.
unsafe fn rows(strip: &mut Strip<'_>, weights: *const i8, element: usize, tile: Tile) {
    let block = strip.block;
    let own = match strip.after {
        After::Quantize(quant) | After::Add(quant, _) => *quant,
        After::Sums => OutputQuant::full(0),
    };
    let emit = Emit { finish: Finish::new(&own), scale: &block.scale, after: strip.after, columns: block.columns };
    let step = block.lanes() * 4;
    let mut sums = [[0; EIGHT]; 2];
    let mut cursor = Cursor::over(strip, element);
    while cursor.left() > 0 {
        let (at, count) = cursor.fill();
        for lane in (0..block.lanes()).step_by(EIGHT) {
            let (weights, bias) = (weights.wrapping_add(lane * 4), block.bias[lane..].as_ptr());
            // SAFETY: a run's bytes are inside every window; weights have `step` bytes for each step of the loop; bias has 16
            // lanes; the places are those of the strip's pixels.
            unsafe {
                tile(&Half { runs: block.runs(), weights, step, bias }, at.map(|at| at.window), &mut sums);
                emit.write(&sums, lane, &at, count);
            }
        }
    }
}

/// What becomes of sums.
struct Emit<'a> {
    finish: Finish,
    scale: &'a [f32; LANES],
    after: After<'a>,
    columns: usize,
}

impl Emit<'_> {
    /// Writes eight lanes from `lane`, as far as they are columns, of the first `count` pixels. The second pixel may be the first
    /// one again.
    ///
    /// # Safety
    /// The CPU has NEON; `at` are places of pixels with `columns` values.
    unsafe fn write(&self, sums: &Sums<2>, lane: usize, at: &[Place; 2], count: usize) {
        let scale = self.scale[lane..].as_ptr();
        // SAFETY: scale has 16 lanes; eight lanes are columns where all are written at once.
        unsafe {
            if matches!(self.after, After::Quantize(_)) && lane + EIGHT <= self.columns {
                return loops::requantize(&self.finish, scale, sums, at.map(|at| at.pixel.add(lane)));
            }
            let mut own = [[0; EIGHT]; 2];
            loops::requantize(&self.finish, scale, sums, own.each_mut().map(|own| own.as_mut_ptr()));
            for (p, at) in at.iter().enumerate().take(count) {
                self.write_one(&sums[p], &own[p], lane, at);
            }
        }
    }

    /// The same for one pixel, of which `own` are the bytes.
    ///
    /// # Safety
    /// As [`Emit::write`].
    unsafe fn write_one(&self, sums: &[i32; EIGHT], own: &[u8; EIGHT], lane: usize, at: &Place) {
        let columns = self.columns.saturating_sub(lane).min(EIGHT);
        // SAFETY: `columns` values from `lane` are part of the pixel, in the output and in the residual.
        unsafe {
            match self.after {
                After::Sums => std::ptr::copy_nonoverlapping(sums.as_ptr().cast(), at.pixel.add(4 * lane), 4 * columns),
                After::Quantize(_) => std::ptr::copy_nonoverlapping(own.as_ptr(), at.pixel.add(lane), columns),
                After::Add(_, Residual { add, .. }) => {
                    let mut other = [0; EIGHT];
                    std::ptr::copy_nonoverlapping(at.residual.add(lane), other.as_mut_ptr(), columns);
                    let mut both = [0; EIGHT];
                    loops::add(&Sum::new(add), own.as_ptr(), other.as_ptr(), both.as_mut_ptr(), 1);
                    std::ptr::copy_nonoverlapping(both.as_ptr(), at.pixel.add(lane), columns);
                }
            }
        }
    }
}
