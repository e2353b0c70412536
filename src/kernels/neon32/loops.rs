//! The loops themselves, in assembly: stable Rust has neither the intrinsics of 32-bit NEON nor vector registers as operands. A
//! loop makes a whole [`Tile`], from the input to the bytes of the output, because nothing stays in a register after it.
//!
//! In all of them `q8` to `q15` (`d16` to `d31`) hold sums; weights, inputs and products pass through `q0` to `q7`.

use super::super::cursor::Place;
use super::super::pack::Run;
use super::super::{AddQuant, OutputQuant};
use std::arch::asm;
use std::mem::offset_of;
use std::ptr::null;

/// Channels that a loop works on at once.
pub(super) const EIGHT: usize = 8;

/// Pixels of a dense tile, and of a depthwise one.
pub(super) const DENSE: usize = 2;
pub(super) const DEPTHWISE: usize = 4;

/// 1.5 * 2^23: a float of at most 2^22 added to it is rounded to a whole number, half to even, which the low bits then hold.
const MAGIC: f32 = 12_582_912.0;

/// Zero point and range of an output, as the assembly reads them.
#[repr(C)]
pub(super) struct Finish {
    low: f32,
    high: f32,
    magic: f32,
    zero: i8,
}

impl Finish {
    pub fn new(quant: &OutputQuant) -> Finish {
        let (low, high) = quant.bounds();
        Finish { low, high, magic: MAGIC, zero: quant.zero_point }
    }
}

/// Eight channels of a few pixels: what a loop reads and writes.
#[repr(C)]
pub(super) struct Tile<Step> {
    /// Of its pixels.
    pub places: *const Place,
    /// From a place's pixel to where the eight bytes go; in depthwise tiles also from its window to where the taps are.
    pub channel: usize,
    /// Of the first of the eight channels, as the two below.
    pub weights: *const i8,
    pub bias: *const i32,
    pub scale: *const f32,
    /// Where the windows are read; at least one step.
    steps: *const Step,
    end: *const Step,
    finish: Finish,
    /// Bytes from a channel's weights to its next ones; in dense tiles.
    pub stride: usize,
    /// What the bytes of a dense tile were made of.
    pub sums: [[i32; EIGHT]; DENSE],
}

impl<Step> Tile<Step> {
    /// A tile that is used while `steps` exist. Its pointers are to be set before.
    pub fn new(steps: &[Step], quant: &OutputQuant) -> Self {
        let (steps, end, finish) = (steps.as_ptr(), steps.as_ptr_range().end, Finish::new(quant));
        let sums = [[0; EIGHT]; DENSE];
        Tile { places: null(), channel: 0, weights: null(), bias: null(), scale: null(), steps, end, finish, stride: 0, sums }
    }
}

/// `asm!` with the instructions of NEON. The directive lasts to the end of the block: what the compiler itself makes of the
/// program around it stays without NEON. Registers that it does not know of without NEON are named too, for where it is told to
/// use them.
macro_rules! neon {
    ([$($line:expr,)*], $($operand:tt)*) => {
        asm!(
            ".fpu neon",
            $($line,)*
            $($operand)*
            out("d0") _, out("d1") _, out("d2") _, out("d3") _, out("d4") _, out("d5") _, out("d6") _, out("d7") _,
            out("d8") _, out("d9") _, out("d10") _, out("d11") _, out("d12") _, out("d13") _, out("d14") _, out("d15") _,
            out("d16") _, out("d17") _, out("d18") _, out("d19") _, out("d20") _, out("d21") _, out("d22") _, out("d23") _,
            out("d24") _, out("d25") _, out("d26") _, out("d27") _, out("d28") _, out("d29") _, out("d30") _, out("d31") _,
            options(nostack)
        )
    };
}

/// The factors at `{x}` as `q0` and `q1`, and the [`Finish`] at `{y}`: range in `q2` and `q3`, [`MAGIC`] in `q4`, zero point in `q5`.
macro_rules! factors {
    () => {
        concat!(
            "vld1.32 {{d0-d3}}, [{x}]\n",
            "vld1.32 {{d4[], d5[]}}, [{y}]!\n",
            "vld1.32 {{d6[], d7[]}}, [{y}]!\n",
            "vld1.32 {{d8[], d9[]}}, [{y}]!\n",
            "vld1.8 {{d10[], d11[]}}, [{y}]",
        )
    };
}

/// Sums to numbers that end in the rounded value: register `q$q`, with the factors in `q$f`, to half a register `d$d`. It is
/// [`OutputQuant::finish`] step by step. `VCVT` and `VMUL` round to nearest even, the clamp leaves at most 255, where adding
/// [`MAGIC`] is `round`. NEON takes floats below 2^-126 for zero, which changes nothing: a factor is no smaller
/// (`check_multiplier`) and a sum is 0 or at least 1, so a product is 0 or no smaller either; with factors of at most 2^60 none
/// is infinite. Halves, and bytes made of them, may wrap: with the zero point added the value fits.
macro_rules! round {
    ($($q:literal x $f:literal to $d:literal),*) => {
        concat!(
            $("vcvt.f32.s32 q", $q, ", q", $q, "\n",)*
            $("vmul.f32 q", $q, ", q", $q, ", q", $f, "\n",)*
            clamp!($($q to $d),*),
        )
    };
}

/// The same from the product on.
macro_rules! clamp {
    ($($q:literal to $d:literal),*) => {
        concat!(
            $("vmax.f32 q", $q, ", q", $q, ", q2\n",)*
            $("vmin.f32 q", $q, ", q", $q, ", q3\n",)*
            $("vadd.f32 q", $q, ", q", $q, ", q4\n",)*
            $("vmovn.i32 d", $d, ", q", $q, "\n",)*
        )
    };
}

// ------------------------------------------------------------------------------------------------------------- dense

/// Sums of two pixels, two partial ones a channel, from the biases at `{x}`: in one of the two.
macro_rules! start {
    () => {
        concat!(
            "vld1.32 {{d0-d3}}, [{x}]\n",
            "vmovl.u32 q8, d0\n",
            "vmovl.u32 q9, d1\n",
            "vmovl.u32 q10, d2\n",
            "vmovl.u32 q11, d3\n",
            "vmovl.u32 q12, d0\n",
            "vmovl.u32 q13, d1\n",
            "vmovl.u32 q14, d2\n",
            "vmovl.u32 q15, d3",
        )
    };
}

/// The partial sums together, which are written; then bytes of them.
macro_rules! finish {
    () => {
        concat!(
            "ldr {x}, [{tile}, #{scale}]\n",
            "add {y}, {tile}, #{finish}\n",
            "add {w}, {tile}, #{sums}\n",
            "ldr {run}, [{tile}, #{places}]\n",
            "ldr {groups}, [{tile}, #{channel}]\n",
            "ldr {first}, [{run}, #{pixel}]\n",
            "ldr {second}, [{run}, #{pixel} + {place}]\n",
            "add {first}, {first}, {groups}\n",
            "add {second}, {second}, {groups}\n",
            "vpadd.i32 d16, d16, d17\n",
            "vpadd.i32 d17, d18, d19\n",
            "vpadd.i32 d18, d20, d21\n",
            "vpadd.i32 d19, d22, d23\n",
            "vpadd.i32 d20, d24, d25\n",
            "vpadd.i32 d21, d26, d27\n",
            "vpadd.i32 d22, d28, d29\n",
            "vpadd.i32 d23, d30, d31\n",
            factors!(),
            "\n",
            "vst1.32 {{d16-d19}}, [{w}]!\n",
            "vst1.32 {{d20-d23}}, [{w}]\n",
            round!(8 x 0 to 16, 9 x 1 to 17, 10 x 0 to 18, 11 x 1 to 19),
            "vmovn.i16 d16, q8\n",
            "vmovn.i16 d17, q9\n",
            "vadd.i8 q8, q8, q5\n",
            "vst1.8 {{d16}}, [{first}]\n",
            "vst1.8 {{d17}}, [{second}]",
        )
    };
}

/// A loop `$line`s over a dense tile, with what comes before and after.
macro_rules! dense {
    ($tile:expr, [$($line:expr,)*]) => {
        neon!(
            [
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
            ],
            tile = in(reg) $tile, v = out(reg) _, x = out(reg) _, y = out(reg) _, w = out(reg) _, step = out(reg) _, groups = out(reg) _,
            run = out(reg) _, end = out(reg) _, first = out(reg) _, second = out(reg) _,
            places = const offset_of!(Tile<Run>, places), channel = const offset_of!(Tile<Run>, channel),
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
        concat!(
            $set,
            ".s8 q4, d",
            $first,
            ", d",
            $low,
            "\n",
            $set,
            ".s8 q5, d",
            $second,
            ", d",
            $low,
            "\n",
            $set,
            ".s8 q6, d",
            $first,
            ", d",
            $high,
            "\n",
            $set,
            ".s8 q7, d",
            $second,
            ", d",
            $high,
        )
    };
}

/// Adds `q4` to `q7` to sums.
macro_rules! add_up {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!("vpadal.s16 q", $a, ", q4\nvpadal.s16 q", $b, ", q5\n", "vpadal.s16 q", $c, ", q6\nvpadal.s16 q", $d, ", q7",)
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
/// one of the next run. `{groups}` are those of the run that
/// come after the products at hand.
///
/// # Safety
/// The CPU has NEON. The tile's pointers hold: every run is readable behind both windows; weights go on for as many groups; eight
/// biases and factors; eight bytes are writable at the pixels. No weight is -128.
#[inline(always)]
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
        concat!(
            wide_products!(8, 12, $first, $second, $a),
            wide_products!(9, 13, $first, $second, $b),
            wide_products!(10, 14, $first, $second, $c),
            wide_products!(11, 15, $first, $second, $d),
        )
    };
    ($p:literal, $q:literal, $first:literal, $second:literal, $w:literal) => {
        concat!("vmlal.s16 q", $p, ", d", $first, ", d", $w, "\nvmlal.s16 q", $q, ", d", $second, ", d", $w, "\n")
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
#[inline(always)]
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

// --------------------------------------------------------------------------------------------------------- depthwise

/// How far all windows of a tile move behind the first tap of a pair, and behind its second one; wrapping.
pub(super) type Move = [usize; 2];

/// The four places' `$field`, moved to the tile's channel, in `{p}` to `{s}`; the channel is left in `{end}`.
macro_rules! at_places {
    ($field:literal) => {
        concat!(
            "ldr {s}, [{tile}, #{places}]\n",
            "ldr {end}, [{tile}, #{channel}]\n",
            "ldr {p}, [{s}, #{",
            $field,
            "}]\n",
            "ldr {q}, [{s}, #{",
            $field,
            "} + {place}]\n",
            "ldr {r}, [{s}, #{",
            $field,
            "} + 2 * {place}]\n",
            "ldr {s}, [{s}, #{",
            $field,
            "} + 3 * {place}]\n",
            "add {p}, {p}, {end}\n",
            "add {q}, {q}, {end}\n",
            "add {r}, {r}, {end}\n",
            "add {s}, {s}, {end}\n",
        )
    };
}

/// Sums of four pixels from the biases at `{x}`.
macro_rules! start_taps {
    () => {
        concat!(
            "vld1.32 {{d16-d19}}, [{x}]\n",
            "vmov q10, q8\n",
            "vmov q11, q9\n",
            "vmov q12, q8\n",
            "vmov q13, q9\n",
            "vmov q14, q8\n",
            "vmov q15, q9",
        )
    };
}

/// Bytes of them.
macro_rules! finish_taps {
    () => {
        concat!(
            "ldr {x}, [{tile}, #{scale}]\n",
            "add {y}, {tile}, #{finish}\n",
            at_places!("pixel"),
            factors!(),
            "\n",
            round!(8 x 0 to 16, 9 x 1 to 17, 10 x 0 to 18, 11 x 1 to 19, 12 x 0 to 20, 13 x 1 to 21, 14 x 0 to 22, 15 x 1 to 23),
            "vmovn.i16 d16, q8\n",
            "vmovn.i16 d17, q9\n",
            "vmovn.i16 d18, q10\n",
            "vmovn.i16 d19, q11\n",
            "vadd.i8 q8, q8, q5\n",
            "vadd.i8 q9, q9, q5\n",
            "vst1.8 {{d16}}, [{p}]\n",
            "vst1.8 {{d17}}, [{q}]\n",
            "vst1.8 {{d18}}, [{r}]\n",
            "vst1.8 {{d19}}, [{s}]",
        )
    };
}

/// A loop `$line`s over a depthwise tile, with what comes before and after.
macro_rules! taps {
    ($tile:expr, [$($line:expr,)*]) => {
        neon!(
            [
                "ldr {x}, [{tile}, #{bias}]",
                "ldr {w}, [{tile}, #{weights}]",
                at_places!("window"),
                "ldr {y}, [{tile}, #{steps}]",
                "ldr {end}, [{tile}, #{end_at}]",
                start_taps!(),
                $($line,)*
                finish_taps!(),
            ],
            tile = in(reg) $tile, x = out(reg) _, y = out(reg) _, w = out(reg) _, end = out(reg) _,
            p = out(reg) _, q = out(reg) _, r = out(reg) _, s = out(reg) _,
            places = const offset_of!(Tile<Move>, places), channel = const offset_of!(Tile<Move>, channel),
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
#[inline(always)]
pub(super) unsafe fn byte_taps(tile: &Tile<Move>) {
    // SAFETY: the function's contract: reads stay inside windows, weights, biases and factors; the pixels are written.
    unsafe {
        taps!(
            tile,
            [
                "2:",
                "ldr {x}, [{y}], #4",
                "vld1.8 {{d0-d1}}, [{w}]!",
                "vld1.8 {{d2}}, [{p}], {x}",
                "vld1.8 {{d3}}, [{q}], {x}",
                "vld1.8 {{d4}}, [{r}], {x}",
                "vld1.8 {{d5}}, [{s}], {x}",
                "ldr {x}, [{y}], #4",
                "vmull.s8 q4, d2, d0",
                "vmull.s8 q5, d3, d0",
                "vmull.s8 q6, d4, d0",
                "vmull.s8 q7, d5, d0",
                "vld1.8 {{d2}}, [{p}], {x}",
                "vld1.8 {{d3}}, [{q}], {x}",
                "vld1.8 {{d4}}, [{r}], {x}",
                "vld1.8 {{d5}}, [{s}], {x}",
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

/// Adds a tap of four pixels, with weights in `d$low` and `d$high`, and moves on.
macro_rules! tap {
    ($low:literal, $high:literal) => {
        concat!(
            "ldr {x}, [{y}], #4\n",
            "vld1.8 {{d4}}, [{p}], {x}\n",
            "vld1.8 {{d5}}, [{q}], {x}\n",
            "vld1.8 {{d6}}, [{r}], {x}\n",
            "vld1.8 {{d7}}, [{s}], {x}\n",
            "vmovl.s8 q4, d4\n",
            "vmovl.s8 q5, d5\n",
            "vmovl.s8 q6, d6\n",
            "vmovl.s8 q7, d7\n",
            "vmlal.s16 q8, d8, d",
            $low,
            "\n",
            "vmlal.s16 q9, d9, d",
            $high,
            "\n",
            "vmlal.s16 q10, d10, d",
            $low,
            "\n",
            "vmlal.s16 q11, d11, d",
            $high,
            "\n",
            "vmlal.s16 q12, d12, d",
            $low,
            "\n",
            "vmlal.s16 q13, d13, d",
            $high,
            "\n",
            "vmlal.s16 q14, d14, d",
            $low,
            "\n",
            "vmlal.s16 q15, d15, d",
            $high,
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
#[inline(always)]
pub(super) unsafe fn wide_taps(tile: &Tile<Move>) {
    // SAFETY: the function's contract: reads stay inside windows, weights, biases and factors; the pixels are written.
    unsafe {
        taps!(tile, ["2:", "vld2.16 {{d0-d3}}, [{w}]!", tap!(0, 1), tap!(2, 3), "cmp {y}, {end}", "bne 2b",]);
    }
}

// ------------------------------------------------------------------------------------------------------------- others

/// What the sum of two quantized tensors needs, as the assembly reads it.
#[repr(C)]
pub(super) struct Sum {
    a_ratio: f32,
    b_ratio: f32,
    finish: Finish,
    a_zero: i8,
    b_zero: i8,
}

impl Sum {
    pub fn new(add: &AddQuant) -> Sum {
        Sum { a_ratio: add.a_ratio, b_ratio: add.b_ratio, finish: Finish::new(&add.output), a_zero: add.a_zero, b_zero: add.b_zero }
    }
}

/// [`AddQuant::apply`] on `eights * 8` bytes. Exact for the reasons that `round!` names; where the sum of two products
/// cancels to less than 2^-126, it rounds to 0 as well.
///
/// ```text
///   q0 q1  the ratios      q2 q3 q4 q5  range, MAGIC, zero point of the output      d12 d13  zero points of a and b
/// ```
///
/// # Safety
/// The CPU has NEON; so many bytes are readable at `a` and `b`, and writable at `to`, which may be either; `eights` is not 0.
pub(super) unsafe fn add(sum: &Sum, a: *const u8, b: *const u8, to: *mut u8, eights: usize) {
    // SAFETY: the function's contract.
    unsafe {
        neon!(
            [
                "add {t}, {sum}, #{zeros}",
                "vld1.8 {{d12[]}}, [{t}]!",
                "vld1.8 {{d13[]}}, [{t}]",
                "vld1.32 {{d0[], d1[]}}, [{sum}]!",
                "vld1.32 {{d2[], d3[]}}, [{sum}]!",
                "vld1.32 {{d4[], d5[]}}, [{sum}]!",
                "vld1.32 {{d6[], d7[]}}, [{sum}]!",
                "vld1.32 {{d8[], d9[]}}, [{sum}]!",
                "vld1.8 {{d10[]}}, [{sum}]",
                "2:",
                "vld1.8 {{d14}}, [{a}]!",
                "vld1.8 {{d15}}, [{b}]!",
                "vsubl.s8 q10, d14, d12",
                "vsubl.s8 q11, d15, d13",
                "vmovl.s16 q8, d20",
                "vmovl.s16 q9, d21",
                "vmovl.s16 q10, d22",
                "vmovl.s16 q11, d23",
                "vcvt.f32.s32 q8, q8",
                "vcvt.f32.s32 q9, q9",
                "vcvt.f32.s32 q10, q10",
                "vcvt.f32.s32 q11, q11",
                "vmul.f32 q8, q8, q0",
                "vmul.f32 q9, q9, q0",
                "vmul.f32 q10, q10, q1",
                "vmul.f32 q11, q11, q1",
                "vadd.f32 q8, q8, q10",
                "vadd.f32 q9, q9, q11",
                clamp!(8 to 16, 9 to 17),
                "vmovn.i16 d16, q8",
                "vadd.i8 d16, d16, d10",
                "vst1.8 {{d16}}, [{to}]!",
                "subs {eights}, {eights}, #1",
                "bne 2b",
            ],
            sum = inout(reg) sum => _, zeros = const offset_of!(Sum, a_zero), t = out(reg) _,
            a = inout(reg) a => _, b = inout(reg) b => _, to = inout(reg) to => _, eights = inout(reg) eights => _,
        );
    }
}

/// `count * 16` bytes as 16-bit numbers.
///
/// # Safety
/// The CPU has NEON; so many bytes are readable at `from`, and twice as many writable at `to`; `count` is not 0.
pub(super) unsafe fn widen(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: the function's contract.
    unsafe {
        neon!(
            [
                "2:",
                "vld1.8 {{d0-d1}}, [{from}]!",
                "vmovl.s8 q8, d0",
                "vmovl.s8 q9, d1",
                "subs {count}, {count}, #1",
                "vst1.16 {{d16-d19}}, [{to}]!",
                "bne 2b",
            ],
            from = inout(reg) from => _, to = inout(reg) to => _, count = inout(reg) count => _,
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
                "vmull.s8 q4, d0, d1",
                "vmull.s8 q5, d0, d1",
                "vmull.s8 q6, d0, d1",
                "vmull.s8 q7, d0, d1",
                "vmlal.s8 q4, d0, d1",
                "vmlal.s8 q5, d0, d1",
                "vmlal.s8 q6, d0, d1",
                "vmlal.s8 q7, d0, d1",
                "vpadal.s16 q8, q4",
                "vpadal.s16 q9, q5",
                "vpadal.s16 q10, q6",
                "vpadal.s16 q11, q7",
                "vmull.s8 q4, d0, d1",
                "vmull.s8 q5, d0, d1",
                "vmull.s8 q6, d0, d1",
                "vmull.s8 q7, d0, d1",
                "vmlal.s8 q4, d0, d1",
                "vmlal.s8 q5, d0, d1",
                "vmlal.s8 q6, d0, d1",
                "vmlal.s8 q7, d0, d1",
                "vpadal.s16 q12, q4",
                "vpadal.s16 q13, q5",
                "vpadal.s16 q14, q6",
                "vpadal.s16 q15, q7",
                "subs {count}, {count}, #1",
                "bne 2b",
            ],
            count = inout(reg) count => _,
        );
    }
}

/// Products of a pass of [`peak`].
pub(super) const PEAK: usize = 8 * 16;
