//! Bytes in a row: sums of two tensors, and copies of 16 bits.

use super::super::AddQuant;
use super::asm::Finish;
use std::arch::asm;
use std::mem::offset_of;

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
