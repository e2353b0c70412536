//! The loops themselves, in assembly: stable Rust has neither the intrinsics of 32-bit NEON nor vector registers as operands, so
//! nothing stays in a register from one function to the next. Sums go through memory, a row of eight for each pixel.
//!
//! In all of them `q8` to `q15` (`d16` to `d31`) hold sums; weights, inputs and products pass through `q0` to `q7`.

use super::super::pack::Run;
use super::super::{AddQuant, OutputQuant, round};
use std::arch::asm;
use std::mem::offset_of;

/// Channels that a loop works on at once.
pub(super) const EIGHT: usize = 8;

/// Sums of eight channels of `N` pixels.
pub(super) type Sums<const N: usize> = [[i32; EIGHT]; N];

/// `asm!` whose instructions may be NEON's. The directive lasts to the end of the block: what the compiler itself makes of the
/// program around it stays without NEON. Registers that the compiler does not know of without NEON are named too, for where it
/// is told to use them.
macro_rules! neon {
    ([$($line:literal,)*], $($operand:tt)*) => {
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

// ------------------------------------------------------------------------------------------------------------- dense

/// What the dense loops of a lane half read beside their input.
pub(super) struct Half<'a> {
    pub runs: &'a [Run],
    /// Of the first group's first lane.
    pub weights: *const i8,
    /// Bytes from a lane's weights to its next ones: four a lane of the block.
    pub step: usize,
    /// Of eight lanes.
    pub bias: *const i32,
}

/// Byte products of two pixels and eight lanes, two groups at a time: `VMULL` and `VMLAL` add the products of both groups in 16
/// bits, `VPADAL` adds neighbours of those into 32. A register of sums has two lanes, each as two partial sums.
///
/// ```text
///   d4 d5  first pixel: the first group four bytes twice, the second group     q0 q1  weights of both groups, four lanes
///   d6 d7  second pixel                                                        q4-q7  products
///   q8-q11 sums of the first pixel, q12-q15 of the second
/// ```
///
/// The weights of the other four lanes, and the next input, load while sums are added, for cores that start instructions in order.
///
/// # Safety
/// The CPU has NEON. Behind both windows every run is readable, the weights hold as many groups, bias has eight numbers, and no
/// weight is -128.
pub(super) unsafe fn narrow(half: &Half<'_>, windows: [*const i8; 2], sums: &mut Sums<2>) {
    let runs = half.runs.as_ptr_range();
    // SAFETY: the function's contract: reads stay inside runs, weights and bias; 64 bytes are written to `sums`.
    unsafe {
        neon!(
            [
                "vld1.32 {{d0-d3}}, [{x}]",
                "vmovl.u32 q8, d0",
                "vmovl.u32 q9, d1",
                "vmovl.u32 q10, d2",
                "vmovl.u32 q11, d3",
                "vmovl.u32 q12, d0",
                "vmovl.u32 q13, d1",
                "vmovl.u32 q14, d2",
                "vmovl.u32 q15, d3",
                "2:", // a run
                "ldr {x}, [{runs}, #{offset}]",
                "ldr {groups}, [{runs}, #{length}]",
                "add {runs}, {runs}, #{run}",
                "add {y}, {second}, {x}",
                "add {x}, {first}, {x}",
                "subs {groups}, {groups}, #2",
                "blo 5f",
                "vld1.8 {{d0-d1}}, [{w}], {step}",
                "vld2.32 {{d4[], d5[]}}, [{x}]!",
                "vld2.32 {{d6[], d7[]}}, [{y}]!",
                "vld1.8 {{d2-d3}}, [{w}], {step}",
                "3:", // two groups
                "vmull.s8 q4, d4, d0",
                "vmull.s8 q5, d6, d0",
                "vmull.s8 q6, d4, d1",
                "vmull.s8 q7, d6, d1",
                "vld1.8 {{d0-d1}}, [{v}], {step}",
                "vmlal.s8 q4, d5, d2",
                "vmlal.s8 q5, d7, d2",
                "vmlal.s8 q6, d5, d3",
                "vmlal.s8 q7, d7, d3",
                "vld1.8 {{d2-d3}}, [{v}], {step}",
                "vpadal.s16 q8, q4",
                "vpadal.s16 q12, q5",
                "vpadal.s16 q9, q6",
                "vpadal.s16 q13, q7",
                "vmull.s8 q4, d4, d0",
                "vmull.s8 q5, d6, d0",
                "vmull.s8 q6, d4, d1",
                "vmull.s8 q7, d6, d1",
                "vmlal.s8 q4, d5, d2",
                "vmlal.s8 q5, d7, d2",
                "vmlal.s8 q6, d5, d3",
                "vmlal.s8 q7, d7, d3",
                "subs {groups}, {groups}, #2",
                "blo 4f",
                "vld1.8 {{d0-d1}}, [{w}], {step}",
                "vld2.32 {{d4[], d5[]}}, [{x}]!",
                "vld2.32 {{d6[], d7[]}}, [{y}]!",
                "vld1.8 {{d2-d3}}, [{w}], {step}",
                "4:",
                "vpadal.s16 q10, q4",
                "vpadal.s16 q14, q5",
                "vpadal.s16 q11, q6",
                "vpadal.s16 q15, q7",
                "bhs 3b",
                "5:", // two groups less than none or one left
                "cmn {groups}, #1",
                "bne 6f",
                "vld1.32 {{d4[]}}, [{x}]",
                "vld1.8 {{d0-d1}}, [{w}], {step}",
                "vld1.32 {{d6[]}}, [{y}]",
                "vld1.8 {{d2-d3}}, [{v}], {step}",
                "vmull.s8 q4, d4, d0",
                "vmull.s8 q5, d6, d0",
                "vmull.s8 q6, d4, d1",
                "vmull.s8 q7, d6, d1",
                "vpadal.s16 q8, q4",
                "vpadal.s16 q12, q5",
                "vpadal.s16 q9, q6",
                "vpadal.s16 q13, q7",
                "vmull.s8 q4, d4, d2",
                "vmull.s8 q5, d6, d2",
                "vmull.s8 q6, d4, d3",
                "vmull.s8 q7, d6, d3",
                "vpadal.s16 q10, q4",
                "vpadal.s16 q14, q5",
                "vpadal.s16 q11, q6",
                "vpadal.s16 q15, q7",
                "6:",
                "cmp {runs}, {end}",
                "bne 2b",
                "vpadd.i32 d0, d16, d17",
                "vpadd.i32 d1, d18, d19",
                "vpadd.i32 d2, d20, d21",
                "vpadd.i32 d3, d22, d23",
                "vpadd.i32 d4, d24, d25",
                "vpadd.i32 d5, d26, d27",
                "vpadd.i32 d6, d28, d29",
                "vpadd.i32 d7, d30, d31",
                "vst1.32 {{d0-d3}}, [{sums}]!",
                "vst1.32 {{d4-d7}}, [{sums}]",
            ],
            runs = inout(reg) runs.start => _, end = in(reg) runs.end,
            offset = const offset_of!(Run, offset), length = const offset_of!(Run, groups), run = const size_of::<Run>(),
            first = in(reg) windows[0], second = in(reg) windows[1], x = inout(reg) half.bias => _, y = out(reg) _,
            w = inout(reg) half.weights => _, v = inout(reg) half.weights.wrapping_add(16) => _, step = in(reg) half.step,
            groups = out(reg) _, sums = inout(reg) sums.as_mut_ptr() => _,
        );
    }
}

/// The same with 16-bit numbers, one group at a time: `VMLAL` adds products into two partial sums a lane.
///
/// ```text
///   d8 d9  first pixel: the group's first two numbers twice, its last two      q0-q3  weights, the first two of each lane, the last
///   d10 d11  second pixel
///   q8-q11 sums of the first pixel, q12-q15 of the second
/// ```
///
/// # Safety
/// As [`narrow`], with windows and weights of 16-bit numbers, of any value.
pub(super) unsafe fn wide(half: &Half<'_>, windows: [*const i8; 2], sums: &mut Sums<2>) {
    let runs = half.runs.as_ptr_range();
    // SAFETY: the function's contract: reads stay inside runs, weights and bias; 64 bytes are written to `sums`.
    unsafe {
        neon!(
            [
                "vld1.32 {{d0-d3}}, [{x}]",
                "vmovl.u32 q8, d0",
                "vmovl.u32 q9, d1",
                "vmovl.u32 q10, d2",
                "vmovl.u32 q11, d3",
                "vmovl.u32 q12, d0",
                "vmovl.u32 q13, d1",
                "vmovl.u32 q14, d2",
                "vmovl.u32 q15, d3",
                "2:", // a run
                "ldr {x}, [{runs}, #{offset}]",
                "ldr {groups}, [{runs}, #{length}]",
                "add {runs}, {runs}, #{run}",
                "add {y}, {second}, {x}, lsl #1",
                "add {x}, {first}, {x}, lsl #1",
                "3:", // a group
                "vld2.32 {{d8[], d9[]}}, [{x}]!",
                "vld1.16 {{d0-d3}}, [{w}], {step}",
                "vld2.32 {{d10[], d11[]}}, [{y}]!",
                "vld1.16 {{d4-d7}}, [{w}], {step}",
                "vmlal.s16 q8, d8, d0",
                "vmlal.s16 q12, d10, d0",
                "vmlal.s16 q9, d8, d1",
                "vmlal.s16 q13, d10, d1",
                "vmlal.s16 q10, d8, d2",
                "vmlal.s16 q14, d10, d2",
                "vmlal.s16 q11, d8, d3",
                "vmlal.s16 q15, d10, d3",
                "vmlal.s16 q8, d9, d4",
                "vmlal.s16 q12, d11, d4",
                "vmlal.s16 q9, d9, d5",
                "vmlal.s16 q13, d11, d5",
                "vmlal.s16 q10, d9, d6",
                "vmlal.s16 q14, d11, d6",
                "vmlal.s16 q11, d9, d7",
                "vmlal.s16 q15, d11, d7",
                "subs {groups}, {groups}, #1",
                "bne 3b",
                "cmp {runs}, {end}",
                "bne 2b",
                "vpadd.i32 d0, d16, d17",
                "vpadd.i32 d1, d18, d19",
                "vpadd.i32 d2, d20, d21",
                "vpadd.i32 d3, d22, d23",
                "vpadd.i32 d4, d24, d25",
                "vpadd.i32 d5, d26, d27",
                "vpadd.i32 d6, d28, d29",
                "vpadd.i32 d7, d30, d31",
                "vst1.32 {{d0-d3}}, [{sums}]!",
                "vst1.32 {{d4-d7}}, [{sums}]",
            ],
            runs = inout(reg) runs.start => _, end = in(reg) runs.end,
            offset = const offset_of!(Run, offset), length = const offset_of!(Run, groups), run = const size_of::<Run>(),
            first = in(reg) windows[0], second = in(reg) windows[1], x = inout(reg) half.bias => _, y = out(reg) _,
            w = inout(reg) half.weights => _, step = in(reg) half.step,
            groups = out(reg) _, sums = inout(reg) sums.as_mut_ptr() => _,
        );
    }
}

// --------------------------------------------------------------------------------------------------- from sums to bytes

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

/// Requantizes eight channels of two pixels. It is [`OutputQuant::finish`] step by step: `VCVT` and `VMUL` round to nearest even,
/// the clamp leaves at most 255, where adding [`MAGIC`] is [`round`]; bytes wrap to the right value, since that one fits. NEON
/// takes floats below 2^-126 for zero, which changes nothing: a factor is no smaller (`check_multiplier`) and a sum is 0 or at
/// least 1, so a product is 0 or no smaller either; with factors of at most 2^60 none is infinite.
///
/// # Safety
/// The CPU has NEON; `scale` has eight factors; eight bytes are writable at each of `to`.
pub(super) unsafe fn requantize(finish: &Finish, scale: *const f32, sums: &Sums<2>, to: [*mut u8; 2]) {
    // SAFETY: the function's contract; `sums` are 64 bytes.
    unsafe {
        neon!(
            [
                "vld1.32 {{d16-d19}}, [{sums}]!",
                "vld1.32 {{d20-d23}}, [{sums}]",
                "vld1.32 {{d0-d3}}, [{scale}]",
                "vld1.32 {{d4[], d5[]}}, [{finish}]!",
                "vld1.32 {{d6[], d7[]}}, [{finish}]!",
                "vld1.32 {{d8[], d9[]}}, [{finish}]!",
                "vld1.8 {{d10[], d11[]}}, [{finish}]",
                "vcvt.f32.s32 q8, q8",
                "vcvt.f32.s32 q9, q9",
                "vcvt.f32.s32 q10, q10",
                "vcvt.f32.s32 q11, q11",
                "vmul.f32 q8, q8, q0",
                "vmul.f32 q9, q9, q1",
                "vmul.f32 q10, q10, q0",
                "vmul.f32 q11, q11, q1",
                "vmax.f32 q8, q8, q2",
                "vmax.f32 q9, q9, q2",
                "vmax.f32 q10, q10, q2",
                "vmax.f32 q11, q11, q2",
                "vmin.f32 q8, q8, q3",
                "vmin.f32 q9, q9, q3",
                "vmin.f32 q10, q10, q3",
                "vmin.f32 q11, q11, q3",
                "vadd.f32 q8, q8, q4",
                "vadd.f32 q9, q9, q4",
                "vadd.f32 q10, q10, q4",
                "vadd.f32 q11, q11, q4",
                "vmovn.i32 d16, q8",
                "vmovn.i32 d17, q9",
                "vmovn.i32 d18, q10",
                "vmovn.i32 d19, q11",
                "vmovn.i16 d16, q8",
                "vmovn.i16 d17, q9",
                "vadd.i8 q8, q8, q5",
                "vst1.8 {{d16}}, [{first}]",
                "vst1.8 {{d17}}, [{second}]",
            ],
            sums = inout(reg) sums.as_ptr() => _, scale = in(reg) scale, finish = inout(reg) finish => _,
            first = in(reg) to[0], second = in(reg) to[1],
        );
    }
}

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

/// [`AddQuant::apply`] on `eights * 8` bytes. Exact for the reasons that [`requantize`] names; where the sum of two products
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
                "vmax.f32 q8, q8, q2",
                "vmax.f32 q9, q9, q2",
                "vmin.f32 q8, q8, q3",
                "vmin.f32 q9, q9, q3",
                "vadd.f32 q8, q8, q4",
                "vadd.f32 q9, q9, q4",
                "vmovn.i32 d16, q8",
                "vmovn.i32 d17, q9",
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

// ------------------------------------------------------------------------------------------------------------- others

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
