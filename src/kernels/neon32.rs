//! Inner loops for 32-bit ARM with NEON (Cortex-A7, and 64-bit cores under a 32-bit system), which is optional there: the program
//! is compiled without it, and asks the kernel.
//!
//! Dense, narrow: 2 pixels x 8 channels, as many as 16 registers hold, with the products and the rule of 64-bit NEON
//! ([`NarrowRule::NoMinimum`]).
//!
//! Depthwise: 4 pixels x 8 channels, any window, its taps one pair after the other.
//!
//! Tiles that lack pixels repeat the last one. This file walks over pixels and channels; the assembly is in [`loops`].

use super::conv::{After, Grid, Kernel, Residual, Strip};
use super::cursor::{Cursor, Place};
use super::depthwise::{DW_LANES, Depthwise, byte_taps};
use super::pack::{Aligned, NarrowRule, Run, Style, Weights};
use super::portable::Portable;
use super::{AddQuant, OutputQuant};
use std::ffi::c_ulong;
use std::ops::Range;
use std::ptr::{copy_nonoverlapping, null};

mod loops;

use loops::{DENSE, DEPTHWISE, EIGHT, Move, Sum, Tile};

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
    let mut cursor = Cursor::over(strip, if WIDE { 2 } else { 1 });
    let mut list = [Place::NONE; AT_ONCE];
    while cursor.left() > 0 {
        let count = next(&mut cursor, &mut list);
        for lane in (0..block.lanes()).step_by(EIGHT) {
            (tile.weights, tile.channel) = (weights.wrapping_add(lane * 4), lane);
            (tile.bias, tile.scale) = (block.bias[lane..].as_ptr(), block.scale[lane..].as_ptr());
            let columns = block.columns.saturating_sub(lane).min(EIGHT);
            let whole = columns == EIGHT && matches!(after, After::Quantize(_));
            for p in (0..count).step_by(DENSE) {
                // SAFETY: runs are inside every window, weights have `stride` bytes for each step of the loop, bias and scale 16
                // lanes; the pixels have `columns` values from `lane`; the list has whole tiles.
                unsafe {
                    if whole {
                        tile.places = list[p..].as_ptr();
                        compute::<WIDE>(&mut tile);
                    } else {
                        compute_aside::<WIDE>(&mut tile, &after, &list[p..], columns, DENSE.min(count - p));
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`loops::narrow`] or [`loops::wide`].
#[inline(always)]
unsafe fn compute<const WIDE: bool>(tile: &mut Tile<Run>) {
    // SAFETY: the function's contract.
    unsafe {
        if WIDE {
            loops::wide(tile);
        } else {
            loops::narrow(tile);
        }
    }
}

/// Computes the tile of the first places and does with its sums what is to be done: for `columns` channels of `count` places.
///
/// # Safety
/// As [`compute`], but the pixels, in the output and in the residual, have only so many values from the tile's channel.
#[inline(never)]
unsafe fn compute_aside<const WIDE: bool>(tile: &mut Tile<Run>, after: &After<'_>, places: &[Place], columns: usize, count: usize) {
    let lane = tile.channel;
    let mut bytes = [[0; EIGHT]; DENSE];
    let own = aside(places, lane, &mut bytes);
    tile.places = own.as_ptr();
    // SAFETY: the function's contract; `columns` are at most eight.
    unsafe {
        compute::<WIDE>(tile);
        for (p, at) in places[..count].iter().enumerate() {
            if matches!(after, After::Sums) {
                copy_nonoverlapping(tile.sums[p].as_ptr().cast(), at.pixel.add(4 * lane), 4 * columns);
                continue;
            }
            if let After::Add(_, Residual { add, .. }) = after {
                let mut other = [0; EIGHT];
                copy_nonoverlapping(at.residual.add(lane), other.as_mut_ptr(), columns);
                loops::add(&Sum::new(add), bytes[p].as_ptr(), other.as_ptr(), bytes[p].as_mut_ptr(), 1);
            }
            copy_nonoverlapping(bytes[p].as_ptr(), at.pixel.add(lane), columns);
        }
    }
}

// --------------------------------------------------------------------------------------------------------- depthwise

/// What depthwise loops read beside the weights that all have.
#[derive(Clone, Debug)]
pub(crate) struct Taps {
    /// See [`byte_taps`].
    bytes: Option<Aligned<i8>>,
    /// From each tap of [`Depthwise::taps`] to the next one.
    moves: Vec<Move>,
}

impl Taps {
    /// `weights[channel][tap]`; channels are filled up to `padded`. `taps` are those of the packed convolution.
    pub fn pack(weights: &[Vec<i16>], padded: usize, taps: &[[usize; 2]]) -> Taps {
        let next = taps.iter().map(|pair| pair[0]).skip(1).chain([0]);
        let moves = taps.iter().zip(next).map(|(&[a, b], next)| [b.wrapping_sub(a), next.wrapping_sub(b)]).collect();
        Taps { bytes: byte_taps(weights, padded), moves }
    }
}

/// Computes `rows`.
///
/// # Safety
/// The CPU has NEON and `dw.check` passed.
unsafe fn depthwise_rows(dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
    let to = dw.output.offset(rows.start, 0) - dw.output.rows(rows.clone()).start;
    let windows = Grid { base: dw.origin + rows.start * dw.steps[0], step_y: dw.steps[0], step_x: dw.steps[1] };
    let pixels = Grid { base: to, step_y: dw.output.row_stride(), step_x: dw.output.pixel_stride };
    let first = Place { window: input.as_ptr().cast(), pixel: output.as_mut_ptr(), residual: null() };
    let mut cursor = Cursor::new(first, (rows.len(), dw.output.width), [(windows, 1), (pixels, 1), (Grid::NONE, 0)]);
    let mut tile = Tile::new(&dw.neon.moves, &dw.quant);
    let mut list = [Place::NONE; AT_ONCE];
    while cursor.left() > 0 {
        let count = next(&mut cursor, &mut list);
        for channel in (0..dw.output.channels).step_by(DW_LANES) {
            // SAFETY: the pixels' windows are inside the input, eight bytes are readable at every tap because of the slack; the
            // pixels are inside the output; the list has whole tiles.
            unsafe { lane_block(dw, &mut tile, channel, &list, count) };
        }
    }
}

/// Computes the channels from `channel` of the first `count` places.
///
/// # Safety
/// The CPU has NEON; at the places' windows every tap has eight readable bytes from the channel on, the pixels have the channels,
/// and `count` places fill tiles.
unsafe fn lane_block(dw: &Depthwise, tile: &mut Tile<Move>, channel: usize, list: &[Place; AT_ONCE], count: usize) {
    let weights = channel * dw.taps.len() * 2;
    let bytes = dw.neon.bytes.as_ref().map(|bytes| bytes.as_slice()[weights..].as_ptr());
    tile.weights = bytes.unwrap_or(dw.paired.as_slice()[weights..].as_ptr().cast());
    (tile.bias, tile.scale) = (dw.bias.as_slice()[channel..].as_ptr(), dw.scale.as_slice()[channel..].as_ptr());
    tile.channel = channel;
    let columns = DW_LANES.min(dw.output.channels - channel);
    for p in (0..count).step_by(DEPTHWISE) {
        let mut some = [[0; EIGHT]; DEPTHWISE];
        let own;
        tile.places = if columns == EIGHT {
            list[p..].as_ptr()
        } else {
            own = aside(&list[p..], channel, &mut some);
            own.as_ptr()
        };
        // SAFETY: the function's contract; weights, bias and scale are filled up to whole lane blocks.
        unsafe {
            if bytes.is_some() {
                loops::byte_taps(tile);
            } else {
                loops::wide_taps(tile);
            }
            if columns < EIGHT {
                list[p..].iter().zip(&some).for_each(|(at, some)| copy_nonoverlapping(some.as_ptr(), at.pixel.add(channel), columns));
            }
        }
    }
}
