//! Depthwise layers: 4 pixels x 8 channels, any window, its taps one pair after the other.

use super::super::conv::Grid;
use super::super::cursor::{Cursor, Place};
use super::super::depthwise::{DW_LANES, Depthwise, byte_taps as packed_taps};
use super::super::stored::Aligned;
use super::asm::{DEPTHWISE, EIGHT, Tile};
use super::{AT_ONCE, aside, next};
use std::arch::asm;
use std::mem::offset_of;
use std::ops::Range;
use std::ptr::{copy_nonoverlapping, null};

/// What depthwise loops read beside the weights that all have.
#[derive(Clone, Debug)]
pub(crate) struct Taps {
    /// See [`packed_taps`].
    bytes: Option<Aligned<i8>>,
    /// From each tap of [`Depthwise::taps`] to the next one.
    moves: Vec<Move>,
}

impl Taps {
    /// `weights[channel][tap]`; channels are filled up to `padded`. `taps` are those of the packed convolution.
    pub fn pack(weights: &[Vec<i16>], padded: usize, taps: &[[usize; 2]]) -> Taps {
        let next = taps.iter().map(|pair| pair[0]).skip(1).chain([0]);
        let moves = taps.iter().zip(next).map(|(&[a, b], next)| [b.wrapping_sub(a), next.wrapping_sub(b)]).collect();
        Taps { bytes: packed_taps(weights, padded), moves }
    }
}

/// Computes `rows`.
///
/// # Safety
/// The CPU has NEON and `dw.check` passed.
pub(super) unsafe fn rows(dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
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
    // SAFETY: the function's contract; weights, bias and scale are filled up to whole lane blocks.
    let compute = |tile: &mut Tile<Move>| unsafe { if bytes.is_some() { byte_taps(tile) } else { wide_taps(tile) } };
    if columns == EIGHT {
        tile.over(list, count);
        return compute(tile);
    }
    for places in list[..count.next_multiple_of(DEPTHWISE)].chunks_exact(DEPTHWISE) {
        let mut some = [[0; EIGHT]; DEPTHWISE];
        let beside = aside(places, channel, &mut some);
        tile.over(&beside, DEPTHWISE);
        compute(tile);
        for (at, some) in places.iter().zip(&some) {
            // SAFETY: `columns` channels from this one are the pixel's last.
            unsafe { copy_nonoverlapping(some.as_ptr(), at.pixel.add(channel), columns) };
        }
    }
}

/// How far all windows of a tile move behind the first tap of a pair, and behind its second one; wrapping.
pub(super) type Move = [usize; 2];

/// The four places' `$field`, moved to the tile's channel, in `{p}` to `{s}`; the channel is left in `{end}`.
macro_rules! at_places {
    ($field:literal) => {
        lines!(
            "ldr {s}, [{tile}, #{places}]";
            "ldr {end}, [{tile}, #{channel}]";
            "ldr {p}, [{s}, #{" $field "}]";
            "ldr {q}, [{s}, #{" $field "} + {place}]";
            "ldr {r}, [{s}, #{" $field "} + 2 * {place}]";
            "ldr {s}, [{s}, #{" $field "} + 3 * {place}]";
            "add {p}, {p}, {end}";
            "add {q}, {q}, {end}";
            "add {r}, {r}, {end}";
            "add {s}, {s}, {end}";
        )
    };
}

/// Sums of four pixels from the biases at `{x}`.
macro_rules! start_taps {
    () => {
        lines!(
            "vld1.32 {{d16-d19}}, [{x}]";
            "vmov q10, q8";
            "vmov q11, q9";
            "vmov q12, q8";
            "vmov q13, q9";
            "vmov q14, q8";
            "vmov q15, q9";
        )
    };
}

/// Bytes of them.
macro_rules! finish_taps {
    () => {
        concat!(
            lines!(
                "ldr {x}, [{tile}, #{scale}]";
                "add {y}, {tile}, #{finish}";
            ),
            at_places!("pixel"),
            factors!(),
            round!(8 x 0 to 16, 9 x 1 to 17, 10 x 0 to 18, 11 x 1 to 19, 12 x 0 to 20, 13 x 1 to 21, 14 x 0 to 22, 15 x 1 to 23),
            lines!(
                "vmovn.i16 d16, q8";
                "vmovn.i16 d17, q9";
                "vmovn.i16 d18, q10";
                "vmovn.i16 d19, q11";
                "vadd.i8 q8, q8, q5";
                "vadd.i8 q9, q9, q5";
                "vst1.8 {{d16}}, [{p}]";
                "vst1.8 {{d17}}, [{q}]";
                "vst1.8 {{d18}}, [{r}]";
                "vst1.8 {{d19}}, [{s}]";
                "ldr {x}, [{tile}, #{places}]";
                "ldr {y}, [{tile}, #{places_end}]";
                "add {x}, {x}, #4 * {place}";
                "str {x}, [{tile}, #{places}]";
                "cmp {x}, {y}";
            ),
        )
    };
}

/// A tap of the four pixels in `d$a` to `d$d`; moves on behind it.
macro_rules! tap {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        lines!(
            "ldr {x}, [{y}], #4";
            "vld1.8 {{d" $a "}}, [{p}], {x}";
            "vld1.8 {{d" $b "}}, [{q}], {x}";
            "vld1.8 {{d" $c "}}, [{r}], {x}";
            "vld1.8 {{d" $d "}}, [{s}], {x}";
        )
    };
}

/// A loop `$line`s over a depthwise tile, with what comes before and after.
macro_rules! taps {
    ($tile:expr, [$($line:expr,)*]) => {
        neon!(
            [
                "9:",
                "ldr {x}, [{tile}, #{bias}]",
                "ldr {w}, [{tile}, #{weights}]",
                at_places!("window"),
                "ldr {y}, [{tile}, #{steps}]",
                "ldr {end}, [{tile}, #{end_at}]",
                start_taps!(),
                $($line,)*
                finish_taps!(),
                "blo 9b",
            ],
            tile = in(reg) $tile, x = out(reg) _, y = out(reg) _, w = out(reg) _, end = out(reg) _,
            p = out(reg) _, q = out(reg) _, r = out(reg) _, s = out(reg) _,
            places = const offset_of!(Tile<Move>, places), places_end = const offset_of!(Tile<Move>, places_end), channel = const offset_of!(Tile<Move>, channel),
            weights = const offset_of!(Tile<Move>, weights), bias = const offset_of!(Tile<Move>, bias),
            scale = const offset_of!(Tile<Move>, scale), finish = const offset_of!(Tile<Move>, finish),
            steps = const offset_of!(Tile<Move>, steps), end_at = const offset_of!(Tile<Move>, end),
            place = const size_of::<Place>(), window = const offset_of!(Place, window), pixel = const offset_of!(Place, pixel),
        )
    };
}

/// Byte products of a depthwise window, two taps at a time: `VMULL` and `VMLAL` add both in 16 bits, `VADDW` adds them up in 32. A pair
/// of taps is a step.
///
/// ```text
///   d0 d1   weights of both taps    d2-d5  a tap of the four pixels    q4-q7  products    q8-q15  sums, two registers a pixel
/// ```
///
/// # Safety
/// The CPU has NEON. The tile's pointers hold: eight bytes are readable wherever the steps lead from each window; weights go on for
/// as many taps; eight biases and factors; eight bytes are writable at the pixels. No weight is -128.
pub(super) unsafe fn byte_taps(tile: &mut Tile<Move>) {
    // SAFETY: the function's contract: reads stay inside windows, weights, biases and factors; the pixels are written.
    unsafe {
        taps!(
            tile,
            [
                "2:",
                "vld1.8 {{d0-d1}}, [{w}]!",
                tap!(2, 3, 4, 5),
                "vmull.s8 q4, d2, d0",
                "vmull.s8 q5, d3, d0",
                "vmull.s8 q6, d4, d0",
                "vmull.s8 q7, d5, d0",
                tap!(2, 3, 4, 5),
                "cmp {y}, {end}",
                "vmlal.s8 q4, d2, d1",
                "vmlal.s8 q5, d3, d1",
                "vmlal.s8 q6, d4, d1",
                "vmlal.s8 q7, d5, d1",
                "vaddw.s16 q8, q8, d8",
                "vaddw.s16 q9, q9, d9",
                "vaddw.s16 q10, q10, d10",
                "vaddw.s16 q11, q11, d11",
                "vaddw.s16 q12, q12, d12",
                "vaddw.s16 q13, q13, d13",
                "vaddw.s16 q14, q14, d14",
                "vaddw.s16 q15, q15, d15",
                "bne 2b",
            ]
        );
    }
}

/// Adds the products of the tap in `d4` to `d7` by the weights in `d$low` and `d$high`.
macro_rules! wide_tap {
    ($low:literal, $high:literal) => {
        lines!(
            "vmovl.s8 q4, d4";
            "vmovl.s8 q5, d5";
            "vmovl.s8 q6, d6";
            "vmovl.s8 q7, d7";
            "vmlal.s16 q8, d8, d" $low;
            "vmlal.s16 q9, d9, d" $high;
            "vmlal.s16 q10, d10, d" $low;
            "vmlal.s16 q11, d11, d" $high;
            "vmlal.s16 q12, d12, d" $low;
            "vmlal.s16 q13, d13, d" $high;
            "vmlal.s16 q14, d14, d" $low;
            "vmlal.s16 q15, d15, d" $high;
        )
    };
}

/// The same with 16-bit weights, in pairs: `VMLAL` on widened bytes.
///
/// ```text
///   q0 q1   weights of both taps    d4-d7  a tap of the four pixels    q4-q7  widened     q8-q15  sums, two registers a pixel
/// ```
///
/// # Safety
/// As [`byte_taps`], with pairs of 16-bit weights of any value.
pub(super) unsafe fn wide_taps(tile: &mut Tile<Move>) {
    // SAFETY: the function's contract: reads stay inside windows, weights, biases and factors; the pixels are written.
    unsafe {
        taps!(
            tile,
            [
                "2:",
                "vld2.16 {{d0-d3}}, [{w}]!",
                tap!(4, 5, 6, 7),
                wide_tap!(0, 1),
                tap!(4, 5, 6, 7),
                wide_tap!(2, 3),
                "cmp {y}, {end}",
                "bne 2b",
            ]
        );
    }
}
