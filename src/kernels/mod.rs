//! Int8 kernels: what every layer of a quantized network runs on, one file an instruction set.
//!
//! | file | what it holds |
//! |---|---|
//! | `layout`, `output` | where an activation's bytes lie, borders and slack; those that several threads write |
//! | `requant` | the one definition of accumulator -> int8 |
//! | `reference` | every operator in its plainest form: the specification and the oracle |
//! | `weights` | weights as the model has them |
//! | `pack` | weights in the order the inner loops read them, and which of them are exact in which loop |
//! | `groups`, `guard`, `arrange`, `forms` | where groups of weights meet the input, which of them need a look at it first or another order, and the forms it comes in |
//! | `stored`, `pantry` | arrays in place, of memory or of a file; packed weights that are kept for the next start |
//! | `conv`, `depthwise`, `pool`, `elementwise` | an operator: parameters checked and packed at load, then a lean `run` |
//! | `dynamic` | convolutions and products of float tensors that are quantized as they come |
//! | `sliding` | depthwise weights as x86's loops read them |
//! | `grouped` | convolutions of many narrow groups |
//! | `winograd` | wide 3x3 convolutions with a quarter of the multiplications, still exact |
//! | `binary`, `softmax`, `layer_norm`, `resize`, `matmul`, `conv_transpose` | further operators, in plain Rust |
//! | `dense`, `gather` | tensors in and out of their layouts, copies, rearrangements |
//! | `compiled`, `pairs` | plain loops compiled once an instruction set; the inner loop of products of two activations |
//! | `rows`, `transpose` | what those operators share: walks over pixels, bytes between pixels and planes |
//! | `portable`, `avx2`, `vnni`, `neon`, `neon32` | inner loops of one instruction set; their constructor proves that the CPU has it |
//! | `cursor` | a walk over the pixels of a strip, for the loops of ARM |
//!
//! # Contract
//! - A quantized value is an int8. A uint8 tensor is the int8 tensor `value - 128` with zero point `zero_point - 128`.
//! - In memory a value is the byte [`store`] makes of it: its two's complement on ARM, whose dot products are signed, and
//!   with the top bit flipped (`value + 128`) on x86-64, whose byte products want one operand unsigned.
//! - `prepare` checks everything and allocates; `run` allocates nothing, looks nothing up and cannot fail. `run` panics
//!   when a buffer is shorter than its [`Layout`] says: an error of the caller's, never of the model's.
//! - Work is split by output rows; operators whose result is no image (`MatMul`, `Export`) name their `parts` and which bytes
//!   each part owns. A call writes exactly the bytes [`Layout::rows`] names, border included, so threads that
//!   own disjoint rows need no lock. `output` is that byte range; `input` is the whole tensor. A convolution with more weights than
//!   inputs is split by blocks of output channels instead ([`Conv::by_channels`]): a call writes those channels of every pixel.
//! - Results are bit-equal to `reference` on every instruction set and for every split.
//! - `scratch` is a buffer of the thread's own, at least `scratch_bytes()` long, contents irrelevant before and after.

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "the rule of one instruction set"))]
mod arrange;
mod binary;
#[allow(unsafe_code)]
mod compiled;
mod conv;
mod conv_transpose;
mod dense;
mod depthwise;
mod dynamic;
mod elementwise;
mod forms;
mod gather;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "chosen by x86 only"))]
mod grouped;
mod groups;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "the rule of one instruction set"))]
mod guard;
mod layer_norm;
mod layout;
mod matmul;
#[allow(unsafe_code)]
mod output;
mod pack;
#[allow(unsafe_code)]
mod pairs;
mod pantry;
mod pool;
mod portable;
pub mod reference;
mod requant;
mod resize;
mod rows;
#[cfg(target_arch = "x86_64")]
mod sliding;
mod softmax;
#[allow(unsafe_code)]
mod stored;
mod transpose;
mod weights;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "chosen by x86 only"))]
mod winograd;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod vnni;

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
mod neon;

#[cfg(target_arch = "arm")]
#[allow(unsafe_code)]
mod neon32;

#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
mod cursor;

#[cfg(test)]
mod suite;

pub use binary::{Binary, BinaryQuant};
pub use conv::{Conv, ConvParams};
pub use conv_transpose::{ConvTranspose, ConvTransposeParams};
pub use dense::{Element, Export, Import, Order};
pub use dynamic::{Dynamic, DynamicParams, dynamic_quantization};
pub use elementwise::{Add, Table};
pub use gather::{CopyInto, Gather};
pub use layer_norm::{LayerNorm, LayerNormParams};
pub use layout::{Border, Layout, SLACK};
pub use matmul::{MatMul, MatMulParams, Matrices};
pub use output::Output;
pub use pantry::{Pantry, Reader, Writer};
pub use pool::{Pool, PoolKind, PoolParams};
pub use requant::{AddQuant, MulQuant, OutputQuant, check_multiplier, check_scale, round};
pub use resize::{Between, ResizeLinear};
pub use softmax::{Softmax, SoftmaxQuant};
pub use stored::Stable;
pub use weights::Int8Weights;

use std::fmt;

/// Difference between a value's two's complement and its byte in memory.
pub const FLIP: u8 = if cfg!(target_arch = "x86_64") { 0x80 } else { 0 };

/// The byte that holds `value` in an activation.
#[inline(always)]
pub const fn store(value: i8) -> u8 {
    value as u8 ^ FLIP
}

/// The value that an activation's byte holds.
#[inline(always)]
pub const fn load(byte: u8) -> i8 {
    (byte ^ FLIP) as i8
}

/// A byte as the number that the integer kernels multiply: `value + 128` where bytes are flipped, else the value.
#[inline(always)]
pub(crate) const fn widen(byte: u8) -> i32 {
    if FLIP == 0 { byte as i8 as i32 } else { byte as i32 }
}

/// The instruction sets there are. A value of it proves that this CPU has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    Portable(portable::Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(vnni::AvxVnni),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(vnni::Avx512Vnni),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
    #[cfg(target_arch = "aarch64")]
    Dotprod(neon::Dotprod),
    #[cfg(target_arch = "aarch64")]
    I8mm(neon::I8mm),
    #[cfg(target_arch = "arm")]
    Neon32(neon32::Neon32),
}

/// `with_kernel!(isa, k => expression)`: the expression with `k` the instruction set's own type, so that it is compiled once
/// for each. A new instruction set is one line here, one above, and two below.
macro_rules! with_kernel {
    ($isa:expr, $kernel:ident => $body:expr) => {
        match $isa {
            $crate::kernels::Isa::Portable($kernel) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::kernels::Isa::Avx2($kernel) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::kernels::Isa::AvxVnni($kernel) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::kernels::Isa::Avx512Vnni($kernel) => $body,
            #[cfg(target_arch = "aarch64")]
            $crate::kernels::Isa::Neon($kernel) => $body,
            #[cfg(target_arch = "aarch64")]
            $crate::kernels::Isa::Dotprod($kernel) => $body,
            #[cfg(target_arch = "aarch64")]
            $crate::kernels::Isa::I8mm($kernel) => $body,
            #[cfg(target_arch = "arm")]
            $crate::kernels::Isa::Neon32($kernel) => $body,
        }
    };
}
pub(crate) use with_kernel;

impl Isa {
    /// Every instruction set that this CPU supports, the fastest first.
    pub fn supported() -> Vec<Isa> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        all.extend(
            [vnni::Avx512Vnni::new().map(Isa::Avx512Vnni), vnni::AvxVnni::new().map(Isa::AvxVnni), avx2::Avx2::new().map(Isa::Avx2)]
                .into_iter()
                .flatten(),
        );
        #[cfg(target_arch = "aarch64")]
        all.extend(
            [neon::I8mm::new().map(Isa::I8mm), neon::Dotprod::new().map(Isa::Dotprod), neon::Neon::new().map(Isa::Neon)]
                .into_iter()
                .flatten(),
        );
        #[cfg(target_arch = "arm")]
        all.extend(neon32::Neon32::new().map(Isa::Neon32));
        all.push(Isa::Portable(portable::Portable));
        all
    }

    /// The fastest that this CPU supports.
    pub fn best() -> Isa {
        Isa::supported()[0]
    }

    /// Its name, as reports show it.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni(_) => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni(_) => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod(_) => "dotprod",
            #[cfg(target_arch = "aarch64")]
            Isa::I8mm(_) => "i8mm",
            #[cfg(target_arch = "arm")]
            Isa::Neon32(_) => "neon32",
        }
    }

    /// Multiply-accumulates that `iterations` of a register-only loop of this instruction set's int8 multiplications make,
    /// after running it: time the call, and the quotient is the peak that layers are compared with.
    pub fn peak_loop(self, iterations: usize) -> usize {
        with_kernel!(self, k => k.peak_loop(iterations))
    }
}

/// Why an operator cannot be prepared. The caller adds the node's name.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// Empty, channels outside the pixel, or larger than the address space.
    Layout(Layout),
    /// Two quantities that must agree do not.
    Mismatch { what: &'static str, expected: usize, found: usize },
    /// A parameter outside its range.
    Parameter { what: &'static str, found: usize },
    /// A window of the padded operator leaves the input's border.
    Border { side: &'static str, needed: usize, found: usize },
    /// The exact sum can exceed 32 bits.
    Accumulator { channel: usize, bound: u64 },
    /// A scale ratio that is zero, not finite, denormal or above 2^60.
    Multiplier(f32),
    /// A scale that is not a positive number within 2^-60..=2^60.
    Scale { what: &'static str, found: f32 },
    /// `low` above `high`.
    EmptyRange(OutputQuant),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Layout(l) => {
                write!(f, "tensor of {} x {} x {} (border {:?}) is empty or too large", l.height, l.width, l.channels, l.border)
            }
            Error::Mismatch { what, expected, found } => write!(f, "{what}: expected {expected}, found {found}"),
            Error::Parameter { what, found } => write!(f, "{what}: {found} is out of range"),
            Error::Border { side, needed, found } => write!(f, "{side} border of the input: {needed} pixels needed, {found} there"),
            Error::Accumulator { channel, bound } => {
                write!(f, "output channel {channel} can sum to {bound}, beyond the {} of an int32", i32::MAX)
            }
            Error::Multiplier(m) => write!(f, "scale ratio {m} is zero, not finite, denormal or above 2^60"),
            Error::Scale { what, found } => write!(f, "{what}: {found} is not a positive number within 2^-60..=2^60"),
            Error::EmptyRange(q) => write!(f, "activation range {}..={} is empty", q.low, q.high),
        }
    }
}

impl std::error::Error for Error {}
