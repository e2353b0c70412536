//! Real numbers as elements of the engine's type.

use crate::tensor::{Dtype, Quant, TensorSpec};
use half::f16;

/// Writes real numbers as elements of one dtype. For `int8` and `uint8` it gives what [`Quant::quantize`] gives, but without a
/// call or a branch, so that the compiler can vectorise the loop around it.
#[derive(Clone, Copy, Debug)]
pub struct Quantizer {
    quant: Quant,
    /// The dtype's range, seen from the zero point.
    low: f32,
    high: f32,
}

/// Adding and taking away 1.5 * 2^23 leaves an `f32` below 2^22 rounded half to even.
const ROUND: f32 = 12_582_912.0;

impl Quantizer {
    /// For `int8` or `uint8`; without a quantization the numbers are only rounded and saturated.
    pub fn new(native: &TensorSpec) -> Quantizer {
        let quant = native.quant.unwrap_or(Quant { scale: 1.0, zero_point: 0 });
        let (low, high) = native.dtype.range();
        let zero = f64::from(quant.zero_point);
        Quantizer { quant, low: (low - zero) as f32, high: (high - zero) as f32 }
    }

    /// The quantized value; NaN becomes the zero point.
    #[inline]
    pub fn quantize(self, real: f32) -> i32 {
        let steps = (real / self.quant.scale).clamp(self.low, self.high);
        ((steps + ROUND) - ROUND) as i32 + self.quant.zero_point
    }
}

/// A real number as a wide integer: rounded half to even, saturated.
pub fn to_int(real: f32, native: &TensorSpec) -> i64 {
    let quant = native.quant.unwrap_or(Quant { scale: 1.0, zero_point: 0 });
    let steps = (f64::from(real) / f64::from(quant.scale)).round_ties_even() + f64::from(quant.zero_point);
    let (low, high) = native.dtype.range();
    steps.clamp(low, high) as i64
}

/// The largest magnitude (exclusive) that the dtype takes without becoming infinite.
pub fn limit(dtype: Dtype) -> f32 {
    // Half of the way from the largest `float16`, 65504, to the next power of two.
    if dtype == Dtype::Float16 { 65_520.0 } else { f32::INFINITY }
}

/// One element as bytes; for tables, not for loops over tensors.
pub fn element(real: f32, native: &TensorSpec) -> Vec<u8> {
    match native.dtype {
        Dtype::Int8 | Dtype::Uint8 => vec![Quantizer::new(native).quantize(real) as u8],
        Dtype::Int32 => (to_int(real, native) as i32).to_le_bytes().to_vec(),
        Dtype::Int64 => to_int(real, native).to_le_bytes().to_vec(),
        Dtype::Float16 => f16::from_f32(real).to_le_bytes().to_vec(),
        Dtype::Float32 => real.to_le_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn native(dtype: Dtype, quant: Option<Quant>) -> TensorSpec {
        TensorSpec { name: "x".into(), dtype, shape: vec![1], quant }
    }

    proptest! {
        #[test]
        fn equals_the_definition(real in proptest::num::f32::ANY, scale in 1e-6f32..1e3, byte in any::<u8>(), signed in any::<bool>()) {
            let (dtype, zero_point) = if signed { (Dtype::Int8, i32::from(byte as i8)) } else { (Dtype::Uint8, i32::from(byte)) };
            let quant = Quant { scale, zero_point };
            prop_assert_eq!(Quantizer::new(&native(dtype, Some(quant))).quantize(real), quant.quantize(real, dtype));
        }

        #[test]
        fn equals_the_definition_near_ties(steps in -300i32..300, nudge in -2i32..=2, zero_point in -128i32..=127) {
            let quant = Quant { scale: 0.25, zero_point };
            let tie = (steps as f32 + 0.5) * quant.scale;
            let real = f32::from_bits((tie.to_bits() as i32 + nudge) as u32);
            prop_assert_eq!(Quantizer::new(&native(Dtype::Int8, Some(quant))).quantize(real), quant.quantize(real, Dtype::Int8));
        }
    }

    #[test]
    fn wide_integers_round_and_saturate() {
        let spec = native(Dtype::Int32, None);
        assert_eq!(to_int(2.5, &spec), 2);
        assert_eq!(to_int(1e20, &spec), i64::from(i32::MAX));
        assert_eq!(to_int(f32::NEG_INFINITY, &native(Dtype::Int64, None)), i64::MIN);
        assert_eq!(element(-3.0, &native(Dtype::Int64, None)), (-3i64).to_le_bytes());
    }
}
