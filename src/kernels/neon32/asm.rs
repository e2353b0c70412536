//! What the assembly of 32-bit ARM has in common. Stable Rust has neither the intrinsics of its NEON nor vector registers as
//! operands, so nothing stays in a register from one block of assembly to the next: a block makes a whole [`Tile`], from the
//! input to the bytes of the output, and more of them in a row. In all of them `q8` to `q15` (`d16` to `d31`) hold sums; weights, inputs and products pass
//! through `q0` to `q7`.

use super::super::OutputQuant;
use super::super::cursor::Place;
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

/// Eight channels of a few pixels: what a loop reads and writes, for one tile after the other.
#[repr(C)]
pub(super) struct Tile<Step> {
    /// Of the pixels at hand, and behind all: a loop makes tiles until there are none left. The last tile is a whole one too.
    pub places: *const Place,
    pub places_end: *const Place,
    /// From a place's pixel to where the eight bytes go; in depthwise tiles also from its window to where the taps are.
    pub channel: usize,
    /// Of the first of the eight channels, as the two below.
    pub weights: *const i8,
    pub bias: *const i32,
    pub scale: *const f32,
    /// Where the windows are read; at least one step.
    pub steps: *const Step,
    pub end: *const Step,
    pub finish: Finish,
    /// Bytes from a channel's weights to its next ones; in dense tiles.
    pub stride: usize,
    /// What the bytes of the last dense tile were made of.
    pub sums: [[i32; EIGHT]; DENSE],
}

impl<Step> Tile<Step> {
    /// A tile that is used while `steps` exist. Its pointers are to be set before.
    pub fn new(steps: &[Step], quant: &OutputQuant) -> Self {
        let (steps, end, finish) = (steps.as_ptr(), steps.as_ptr_range().end, Finish::new(quant));
        let (sums, places) = ([[0; EIGHT]; DENSE], null());
        Tile { places, places_end: places, channel: 0, weights: null(), bias: null(), scale: null(), steps, end, finish, stride: 0, sums }
    }

    /// Sets the pixels to the first `count` of the places.
    pub fn over(&mut self, places: &[Place], count: usize) {
        (self.places, self.places_end) = (places.as_ptr(), places[count..].as_ptr());
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

/// Lines of assembly as one literal, each made of parts. (No commas, so rustfmt keeps the lines.)
macro_rules! lines {
    ($($($part:literal)+;)+) => {
        concat!($($($part,)+ "\n",)+)
    };
}

/// The factors at `{x}` as `q0` and `q1`, and the [`Finish`] at `{y}`: range in `q2` and `q3`, [`MAGIC`] in `q4`, zero point in `q5`.
macro_rules! factors {
    () => {
        lines!(
            "vld1.32 {{d0-d3}}, [{x}]";
            "vld1.32 {{d4[], d5[]}}, [{y}]!";
            "vld1.32 {{d6[], d7[]}}, [{y}]!";
            "vld1.32 {{d8[], d9[]}}, [{y}]!";
            "vld1.8 {{d10[], d11[]}}, [{y}]";
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
            lines!(
                $("vcvt.f32.s32 q" $q ", q" $q;)*
                $("vmul.f32 q" $q ", q" $q ", q" $f;)*
            ),
            clamp!($($q to $d),*),
        )
    };
}

/// The same from the product on.
macro_rules! clamp {
    ($($q:literal to $d:literal),*) => {
        lines!(
            $("vmax.f32 q" $q ", q" $q ", q2";)*
            $("vmin.f32 q" $q ", q" $q ", q3";)*
            $("vadd.f32 q" $q ", q" $q ", q4";)*
            $("vmovn.i32 d" $d ", q" $q;)*
        )
    };
}
