//! Dense layers: 2 pixels x 8 channels, as many sums as 16 registers hold beside what makes them.

use super::super::OutputQuant;
use super::super::conv::{After, Strip};
use super::super::cursor::{Cursor, Place};
use super::super::groups::Run;
use super::asm::{DENSE, EIGHT, Tile};
use super::bytes::{self, Sum};
use super::{AT_ONCE, aside, next};
use std::arch::asm;
use std::mem::offset_of;
use std::ptr::copy_nonoverlapping;

/// # Safety
/// The CPU has NEON, `strip.check()` passed, `weights` are the block's, wide or narrow as `WIDE` says.
pub(super) unsafe fn rows<const WIDE: bool>(strip: &mut Strip<'_>, weights: *const i8) {
    let block = strip.block;
    let (own, then) = match strip.after {
        After::Quantize(quant) => (*quant, Then::Write),
        After::Add(quant, residual) => (*quant, Then::Add(Sum::new(residual.add))),
        After::Sums => (OutputQuant::full(0), Then::Sums),
    };
    let mut tile = Tile::new(block.groups().runs(), &own);
    tile.stride = block.lanes() * 4;
    let mut cursor = Cursor::over(strip, if WIDE { 2 } else { 1 });
    let mut list = [Place::NONE; AT_ONCE];
    while cursor.left() > 0 {
        let count = next(&mut cursor, &mut list);
        for lane in (0..block.lanes()).step_by(EIGHT) {
            (tile.weights, tile.channel) = (weights.wrapping_add(lane * 4), lane);
            (tile.bias, tile.scale) = (block.bias[lane..].as_ptr(), block.scale[lane..].as_ptr());
            let columns = block.columns.saturating_sub(lane).min(EIGHT);
            // SAFETY: runs are inside every window, weights have `stride` bytes for each step of the loop, bias and scale 16 lanes;
            // the pixels have `columns` values from `lane`; the list has whole tiles.
            unsafe {
                if columns == EIGHT && matches!(then, Then::Write) {
                    tile.over(&list, count);
                    compute::<WIDE>(&mut tile);
                } else {
                    for p in (0..count).step_by(DENSE) {
                        compute_aside::<WIDE>(&mut tile, &then, &list[p..], columns, DENSE.min(count - p));
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`narrow`] or [`wide`].
unsafe fn compute<const WIDE: bool>(tile: &mut Tile<Run>) {
    // SAFETY: the function's contract.
    unsafe {
        if WIDE {
            wide(tile);
        } else {
            narrow(tile);
        }
    }
}

/// What becomes of a tile's bytes.
enum Then {
    Write,
    /// They are written with a residual added.
    Add(Sum),
    /// Nothing; the sums are written.
    Sums,
}

/// Computes the tile of the first places beside the output, and writes what is to be written: `columns` channels of `count` places.
///
/// # Safety
/// As [`compute`], but the pixels, in the output and in the residual, have only so many values from the tile's channel.
unsafe fn compute_aside<const WIDE: bool>(tile: &mut Tile<Run>, then: &Then, places: &[Place], columns: usize, count: usize) {
    let lane = tile.channel;
    let mut own = [[0; EIGHT]; DENSE];
    let beside = aside(places, lane, &mut own);
    tile.over(&beside, DENSE);
    // SAFETY: the function's contract; `columns` are at most eight.
    unsafe {
        compute::<WIDE>(tile);
        for (p, at) in places[..count].iter().enumerate() {
            let (bytes, other, to) = (own[p].as_mut_ptr(), at.residual.wrapping_add(lane), at.pixel.wrapping_add(lane));
            match then {
                Then::Add(sum) if columns == EIGHT => bytes::add(sum, bytes, other, to, 1),
                Then::Add(sum) => {
                    let mut some = [0; EIGHT];
                    copy_nonoverlapping(other, some.as_mut_ptr(), columns);
                    bytes::add(sum, bytes, some.as_ptr(), bytes, 1);
                    copy_nonoverlapping(bytes, to, columns);
                }
                Then::Write => copy_nonoverlapping(bytes, to, columns),
                Then::Sums => copy_nonoverlapping(tile.sums[p].as_ptr().cast(), at.pixel.wrapping_add(4 * lane), 4 * columns),
            }
        }
    }
}

/// Sums of two pixels, two partial ones a channel, from the biases at `{x}`: in one of the two.
macro_rules! start {
    () => {
        lines!(
            "vld1.32 {{d0-d3}}, [{x}]";
            "vmovl.u32 q8, d0";
            "vmovl.u32 q9, d1";
            "vmovl.u32 q10, d2";
            "vmovl.u32 q11, d3";
            "vmovl.u32 q12, d0";
            "vmovl.u32 q13, d1";
            "vmovl.u32 q14, d2";
            "vmovl.u32 q15, d3";
        )
    };
}

/// The partial sums together, which are written; then bytes of them.
macro_rules! finish {
    () => {
        concat!(
            lines!(
                "ldr {x}, [{tile}, #{scale}]";
                "add {y}, {tile}, #{finish}";
                "add {w}, {tile}, #{sums}";
                "ldr {run}, [{tile}, #{places}]";
                "ldr {groups}, [{tile}, #{channel}]";
                "ldr {first}, [{run}, #{pixel}]";
                "ldr {second}, [{run}, #{pixel} + {place}]";
                "add {first}, {first}, {groups}";
                "add {second}, {second}, {groups}";
                "vpadd.i32 d16, d16, d17";
                "vpadd.i32 d17, d18, d19";
                "vpadd.i32 d18, d20, d21";
                "vpadd.i32 d19, d22, d23";
                "vpadd.i32 d20, d24, d25";
                "vpadd.i32 d21, d26, d27";
                "vpadd.i32 d22, d28, d29";
                "vpadd.i32 d23, d30, d31";
                "vst1.32 {{d16-d19}}, [{w}]!";
                "vst1.32 {{d20-d23}}, [{w}]";
            ),
            factors!(),
            round!(8 x 0 to 16, 9 x 1 to 17, 10 x 0 to 18, 11 x 1 to 19),
            lines!(
                "vmovn.i16 d16, q8";
                "vmovn.i16 d17, q9";
                "vadd.i8 q8, q8, q5";
                "vst1.8 {{d16}}, [{first}]";
                "vst1.8 {{d17}}, [{second}]";
                "add {run}, {run}, #2 * {place}";
                "ldr {end}, [{tile}, #{places_end}]";
                "str {run}, [{tile}, #{places}]";
                "cmp {run}, {end}";
            ),
        )
    };
}

/// A loop `$line`s over a dense tile, with what comes before and after.
macro_rules! dense {
    ($tile:expr, [$($line:expr,)*]) => {
        neon!(
            [
                "9:",
                "ldr {x}, [{tile}, #{bias}]",
                "ldr {w}, [{tile}, #{weights}]",
                "ldr {step}, [{tile}, #{stride}]",
                "ldr {run}, [{tile}, #{places}]",
                "ldr {end}, [{tile}, #{end_at}]",
                "ldr {first}, [{run}, #{window}]",
                "ldr {second}, [{run}, #{window} + {place}]",
                "ldr {run}, [{tile}, #{steps}]",
                "add {v}, {w}, #16",
                start!(),
                $($line,)*
                finish!(),
                "blo 9b",
            ],
            tile = in(reg) $tile, v = out(reg) _, x = out(reg) _, y = out(reg) _, w = out(reg) _, step = out(reg) _, groups = out(reg) _,
            run = out(reg) _, end = out(reg) _, first = out(reg) _, second = out(reg) _,
            places = const offset_of!(Tile<Run>, places), places_end = const offset_of!(Tile<Run>, places_end), channel = const offset_of!(Tile<Run>, channel),
            weights = const offset_of!(Tile<Run>, weights), stride = const offset_of!(Tile<Run>, stride),
            bias = const offset_of!(Tile<Run>, bias), scale = const offset_of!(Tile<Run>, scale),
            steps = const offset_of!(Tile<Run>, steps), end_at = const offset_of!(Tile<Run>, end),
            finish = const offset_of!(Tile<Run>, finish), sums = const offset_of!(Tile<Run>, sums),
            place = const size_of::<Place>(), window = const offset_of!(Place, window), pixel = const offset_of!(Place, pixel),
            offset = const offset_of!(Run, offset), length = const offset_of!(Run, groups), run_size = const size_of::<Run>(),
        )
    };
}

/// Products of two pixels' bytes in `d$first` and `d$second` by the weights of two and two channels: set or added to `q4` to `q7`.
macro_rules! products {
    ($set:literal, $first:literal, $second:literal by $low:literal, $high:literal) => {
        lines!(
            $set ".s8 q4, d" $first ", d" $low;
            $set ".s8 q5, d" $second ", d" $low;
            $set ".s8 q6, d" $first ", d" $high;
            $set ".s8 q7, d" $second ", d" $high;
        )
    };
}

/// Adds `q4` to `q7` to sums.
macro_rules! add_up {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        lines!(
            "vpadal.s16 q" $a ", q4";
            "vpadal.s16 q" $b ", q5";
            "vpadal.s16 q" $c ", q6";
            "vpadal.s16 q" $d ", q7";
        )
    };
}

/// Byte products, two groups at a time: `VMULL` and `VMLAL` add the products of both groups in 16 bits, `VPADAL` adds neighbours
/// of those into 32. A register of sums has two channels, each as two partial sums.
///
/// ```text
///   d4 d5   first pixel: four bytes of a group twice, of the next group     q0 q1  weights of both groups, four channels
///   d6 d7   second pixel                                                    q4-q7  products
///   q8-q11  sums of the first pixel, q12-q15 of the second
/// ```
///
/// The weights of the other four channels load while sums are added. An odd last group of a run is multiplied along with the first
/// one of the next run. `{groups}` are those of the run that come after the products at hand.
///
/// # Safety
/// The CPU has NEON. The tile's pointers hold: every run is readable behind both windows; weights go on for as many groups; eight
/// biases and factors; eight bytes are writable at the pixels. No weight is -128.
pub(super) unsafe fn narrow(tile: &mut Tile<Run>) {
    // SAFETY: the function's contract: reads stay inside runs, weights, biases and factors; `sums` and the pixels are written.
    unsafe {
        dense!(
            tile,
            [
                "2:", // a run
                "ldr {x}, [{run}, #{offset}]",
                "ldr {groups}, [{run}, #{length}]",
                "add {run}, {run}, #{run_size}",
                "add {y}, {second}, {x}",
                "add {x}, {first}, {x}",
                "subs {groups}, {groups}, #2",
                "blo 5f",
                "3:", // two groups
                "vld1.8 {{d0-d1}}, [{w}], {step}",
                "vld2.32 {{d4[], d5[]}}, [{x}]!",
                "vld2.32 {{d6[], d7[]}}, [{y}]!",
                "vld1.8 {{d2-d3}}, [{w}], {step}",
                "4:",
                products!("vmull", 4, 6 by 0, 1),
                products!("vmlal", 5, 7 by 2, 3),
                "vld1.8 {{d0-d1}}, [{v}], {step}",
                "vld1.8 {{d2-d3}}, [{v}], {step}",
                add_up!(8, 12, 9, 13),
                products!("vmull", 4, 6 by 0, 1),
                products!("vmlal", 5, 7 by 2, 3),
                add_up!(10, 14, 11, 15),
                "subs {groups}, {groups}, #2",
                "bhs 3b",
                "5:", // one group is left, or none: -1 or -2
                "cmn {groups}, #1",
                "beq 6f",
                "cmp {run}, {end}",
                "bne 2b",
                "b 8f",
                "6:", // the one and the first of the next run
                "cmp {run}, {end}",
                "beq 7f",
                "vld1.32 {{d4[]}}, [{x}]",
                "vld1.32 {{d6[]}}, [{y}]",
                "ldr {x}, [{run}, #{offset}]",
                "ldr {groups}, [{run}, #{length}]",
                "add {run}, {run}, #{run_size}",
                "add {y}, {second}, {x}",
                "add {x}, {first}, {x}",
                "vld1.8 {{d0-d1}}, [{w}], {step}",
                "vld1.32 {{d5[]}}, [{x}]!",
                "vld1.32 {{d7[]}}, [{y}]!",
                "vld1.8 {{d2-d3}}, [{w}], {step}",
                "sub {groups}, {groups}, #1",
                "b 4b",
                "7:", // the very last one
                "vld1.32 {{d4[]}}, [{x}]",
                "vld1.8 {{d0-d1}}, [{w}]",
                "vld1.32 {{d6[]}}, [{y}]",
                "vld1.8 {{d2-d3}}, [{v}]",
                products!("vmull", 4, 6 by 0, 1),
                add_up!(8, 12, 9, 13),
                products!("vmull", 4, 6 by 2, 3),
                add_up!(10, 14, 11, 15),
                "8:",
            ]
        );
    }
}

/// Products of two pixels' numbers in `d$first` and `d$second` by the weights of eight channels, added to the sums.
macro_rules! wide_products {
    ($first:literal, $second:literal by $a:literal, $b:literal, $c:literal, $d:literal) => {
        lines!(
            "vmlal.s16 q8, d" $first ", d" $a;
            "vmlal.s16 q12, d" $second ", d" $a;
            "vmlal.s16 q9, d" $first ", d" $b;
            "vmlal.s16 q13, d" $second ", d" $b;
            "vmlal.s16 q10, d" $first ", d" $c;
            "vmlal.s16 q14, d" $second ", d" $c;
            "vmlal.s16 q11, d" $first ", d" $d;
            "vmlal.s16 q15, d" $second ", d" $d;
        )
    };
}

/// The same with 16-bit numbers, one group at a time: `VMLAL` adds products into two partial sums a channel.
///
/// ```text
///   d8 d9    first pixel: the first two numbers of a group twice, its last two     q0-q3  weights: the first two of eight
///   d10 d11  second pixel                                                                 channels, the last two
///   q8-q11   sums of the first pixel, q12-q15 of the second
/// ```
///
/// # Safety
/// As [`narrow`], with windows and weights of 16-bit numbers, of any value.
pub(super) unsafe fn wide(tile: &mut Tile<Run>) {
    // SAFETY: the function's contract: reads stay inside runs, weights, biases and factors; `sums` and the pixels are written.
    unsafe {
        dense!(
            tile,
            [
                "2:", // a run
                "ldr {x}, [{run}, #{offset}]",
                "ldr {groups}, [{run}, #{length}]",
                "add {run}, {run}, #{run_size}",
                "add {y}, {second}, {x}, lsl #1",
                "add {x}, {first}, {x}, lsl #1",
                "3:", // a group
                "vld2.32 {{d8[], d9[]}}, [{x}]!",
                "vld1.16 {{d0-d3}}, [{w}], {step}",
                "vld2.32 {{d10[], d11[]}}, [{y}]!",
                "vld1.16 {{d4-d7}}, [{w}], {step}",
                wide_products!(8, 10 by 0, 1, 2, 3),
                wide_products!(9, 11 by 4, 5, 6, 7),
                "subs {groups}, {groups}, #1",
                "bne 3b",
                "cmp {run}, {end}",
                "bne 2b",
            ]
        );
    }
}

/// `count` times eight independent chains of `VMULL`, `VMLAL`, `VPADAL` on registers: [`PEAK`] products.
///
/// # Safety
/// The CPU has NEON; `count` is not 0.
pub(super) unsafe fn peak(count: usize) {
    // SAFETY: arithmetic on registers.
    unsafe {
        neon!(
            [
                "vmov.i8 q0, #3",
                "2:",
                products!("vmull", 0, 0 by 1, 1),
                products!("vmlal", 0, 0 by 1, 1),
                add_up!(8, 9, 10, 11),
                products!("vmull", 0, 0 by 1, 1),
                products!("vmlal", 0, 0 by 1, 1),
                add_up!(12, 13, 14, 15),
                "subs {count}, {count}, #1",
                "bne 2b",
            ],
            count = inout(reg) count => _,
        );
    }
}

/// Products of a pass of [`peak`].
pub(super) const PEAK: usize = 8 * 16;
