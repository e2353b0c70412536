//! Plain Rust compiled once for each instruction set, so that its loops are vectorised with that set's registers.
//!
//! No result depends on it: integers are exact, floats are never reordered or fused, and conversions saturate.

use super::Isa;

/// Loops and what they work on.
pub(crate) trait Loops {
    /// Must be `#[inline(always)]`, as the functions that it spends its time in: that carries them to where the CPU features are.
    fn run(self);
}

impl Isa {
    /// Runs the loops, compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn compiled(self, loops: impl Loops) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the value proves AVX2.
            Isa::Avx2(_) | Isa::AvxVnni(_) | Isa::Avx512Vnni(_) => unsafe { avx2(loops) },
            _ => loops.run(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(loops: impl Loops) {
    loops.run();
}
