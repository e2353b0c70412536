//! Inner loops for 32-bit ARM with NEON (Cortex-A7, and 64-bit cores under a 32-bit system), which is optional there: the program
//! is compiled without it, and asks the kernel.
//!
//! Dense, narrow: 2 pixels x 8 channels, as many as 16 registers hold, with the products and the rule of 64-bit NEON
//! ([`NarrowRule::NoMinimum`]).
//!
//! Depthwise: 4 pixels x 8 channels, any window, its taps one pair after the other.
//!
//! Tiles that lack pixels repeat their last one. This file walks over pixels and channels; the assembly is in [`loops`].

use super::conv::{After, Grid, Kernel, Residual, Strip};
use super::cursor::{Cursor, Place};
use super::depthwise::{DW_LANES, Depthwise, byte_taps};
use super::pack::{Aligned, NarrowRule, Style, Weights};
use super::portable::Portable;
use super::{AddQuant, OutputQuant};
use std::ffi::c_ulong;
use std::ops::Range;
use std::ptr::{copy_nonoverlapping, null};

mod loops;

use loops::{EIGHT, Sum, Tile};

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
                Weights::Narrow(w) => rows::<false>(strip, w.as_slice().as_ptr()),
                Weights::Wide(w) => rows::<true>(strip, w.as_slice().as_ptr().cast()),
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
        dw.check(input, output, &rows);
        // SAFETY: `self` proves NEON; the buffers were checked.
        unsafe { depthwise_rows(dw, input, output, rows) }
    }
}

// ------------------------------------------------------------------------------------------------------------- dense

/// # Safety
/// The CPU has NEON, `strip.check()` passed, `weights` are the block's, wide or narrow as `WIDE` says.
unsafe fn rows<const WIDE: bool>(strip: &mut Strip<'_>, weights: *const i8) {
    let (block, after) = (strip.block, strip.after);
    let own = match after {
        After::Quantize(quant) | After::Add(quant, _) => *quant,
        After::Sums => OutputQuant::full(0),
    };
    let mut tile = Tile::new(block.runs(), &own);
    tile.stride = block.lanes() * 4;
    let mut bytes = [[0; EIGHT]; 2];
    let mut cursor = Cursor::over(strip, if WIDE { 2 } else { 1 });
    while cursor.left() > 0 {
        let (at, count) = cursor.fill();
        tile.windows = at.map(|at| at.window);
        for lane in (0..block.lanes()).step_by(EIGHT) {
            let columns = block.columns.saturating_sub(lane).min(EIGHT);
            let whole = columns == EIGHT && matches!(after, After::Quantize(_));
            tile.pixels = if whole { at.map(|at| at.pixel.wrapping_add(lane)) } else { bytes.each_mut().map(|bytes| bytes.as_mut_ptr()) };
            tile.weights = weights.wrapping_add(lane * 4);
            (tile.bias, tile.scale) = (block.bias[lane..].as_ptr(), block.scale[lane..].as_ptr());
            // SAFETY: runs are inside every window, weights have `stride` bytes for each step of the loop, bias and scale 16
            // lanes; pixels have `columns` values from `lane`.
            unsafe {
                if WIDE {
                    loops::wide(&mut tile)
                } else {
                    loops::narrow(&mut tile)
                }
                if !whole {
                    (0..count).for_each(|p| write(&after, &tile.sums[p], &bytes[p], (lane, columns), &at[p]));
                }
            }
        }
    }
}

/// Writes what becomes of a pixel's sums, of which `bytes` were made: `columns` values from `lane`.
///
/// # Safety
/// The CPU has NEON; the pixel has so many values in the output, and in the residual.
#[inline(never)]
unsafe fn write(after: &After<'_>, sums: &[i32; EIGHT], bytes: &[u8; EIGHT], (lane, columns): (usize, usize), at: &Place) {
    let mut bytes = *bytes;
    // SAFETY: the function's contract; `columns` are at most eight.
    unsafe {
        match after {
            After::Quantize(_) => {}
            After::Sums => return copy_nonoverlapping(sums.as_ptr().cast(), at.pixel.wrapping_add(4 * lane), 4 * columns),
            After::Add(_, Residual { add, .. }) => {
                let mut other = [0; EIGHT];
                copy_nonoverlapping(at.residual.add(lane), other.as_mut_ptr(), columns);
                loops::add(&Sum::new(add), bytes.as_ptr(), other.as_ptr(), bytes.as_mut_ptr(), 1);
            }
        }
        copy_nonoverlapping(bytes.as_ptr(), at.pixel.add(lane), columns);
    }
}

// --------------------------------------------------------------------------------------------------------- depthwise

/// What depthwise loops read beside the weights that all have.
#[derive(Clone, Debug)]
pub(crate) struct Taps {
    /// `[lane block][tap][lane]`, an even number of taps, where every weight is above -128 and below 128.
    bytes: Option<Aligned<i8>>,
    /// From each tap of [`Depthwise::taps`] to the next one, wrapping.
    moves: Vec<[usize; 2]>,
}

impl Taps {
    /// `weights[channel][tap]`; channels are filled up to `padded`. `taps` are those of the packed convolution.
    pub fn pack(weights: &[Vec<i16>], padded: usize, taps: &[[usize; 2]]) -> Taps {
        let next = taps.iter().map(|pair| pair[0]).skip(1).chain([0]);
        let moves = taps.iter().zip(next).map(|(&[a, b], next)| [b.wrapping_sub(a), next.wrapping_sub(b)]).collect();
        Taps { bytes: byte_taps(weights, padded), moves }
    }
}

/// Rows are done at once up to so many pixels: tiles go on over the ends of short ones, and long ones stay in the near cache.
const PIXELS: usize = 64;

/// Computes `rows`.
///
/// # Safety
/// The CPU has NEON and `dw.check` passed.
unsafe fn depthwise_rows(dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
    let base = dw.output.rows(rows.clone()).start;
    let at_once = (PIXELS / dw.output.width).max(1);
    for start in rows.clone().step_by(at_once) {
        let height = at_once.min(rows.end - start);
        for channel in (0..dw.output.channels).step_by(DW_LANES) {
            let windows = Grid { base: dw.origin + start * dw.steps[0] + channel, step_y: dw.steps[0], step_x: dw.steps[1] };
            let to = dw.output.offset(start, 0) - base + channel;
            let pixels = Grid { base: to, step_y: dw.output.row_stride(), step_x: dw.output.pixel_stride };
            let first = Place { window: input.as_ptr().cast(), pixel: output.as_mut_ptr(), residual: null() };
            let cursor = Cursor::new(first, (height, dw.output.width), [(windows, 1), (pixels, 1), (Grid::NONE, 0)]);
            // SAFETY: the pixels' windows are inside the input, eight bytes are readable at every tap because of the slack; the
            // pixels are inside the output.
            unsafe { lane_block(dw, channel, cursor) };
        }
    }
}

/// Computes the channels from `channel` at the pixels of `cursor`.
///
/// # Safety
/// The CPU has NEON; at the pixels' windows every tap has eight readable bytes, and the pixels have the channels.
unsafe fn lane_block(dw: &Depthwise, channel: usize, mut cursor: Cursor) {
    let mut tile = Tile::<_, 4>::new(&dw.neon.moves, &dw.quant);
    let weights = channel * dw.taps.len() * 2;
    // The weights of whole lane blocks, as bias and scale.
    let bytes = dw.neon.bytes.as_ref().map(|bytes| bytes.as_slice()[weights..].as_ptr());
    tile.weights = bytes.unwrap_or(dw.paired.as_slice()[weights..].as_ptr().cast());
    (tile.bias, tile.scale) = (dw.bias.as_slice()[channel..].as_ptr(), dw.scale.as_slice()[channel..].as_ptr());
    let columns = DW_LANES.min(dw.output.channels - channel);
    let mut some = [[0; EIGHT]; 4];
    while cursor.left() > 0 {
        let (at, count) = cursor.fill();
        tile.windows = at.map(|at| at.window);
        tile.pixels = if columns == EIGHT { at.map(|at| at.pixel) } else { some.each_mut().map(|some| some.as_mut_ptr()) };
        // SAFETY: the function's contract; weights, bias and scale are filled up to whole lane blocks.
        unsafe {
            if bytes.is_some() {
                loops::byte_taps(&tile)
            } else {
                loops::wide_taps(&tile)
            }
            if columns < EIGHT {
                (0..count).for_each(|p| copy_nonoverlapping(some[p].as_ptr(), at[p].pixel, columns));
            }
        }
    }
}
