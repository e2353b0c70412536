//! From an exact `i32` accumulator to an int8 value: the one definition that every kernel follows bit for bit.
//!
//! ```text
//!   y = clamp(round_half_even(f32(acc) * m) + zero_point, low, high)
//! ```
//!
//! `f32(acc)` rounds to nearest even (every ISA's conversion does), the product is one `f32` multiplication (no fused
//! multiply-add), `m = input_scale * weight_scale / output_scale`. This is ONNX `DequantizeLinear` -> `QuantizeLinear` with
//! the scales folded into one factor. `low..=high` is the type's range, or what a Relu, Relu6 or Clip leaves of it.
//!
//! An addition of two quantized tensors (or of a convolution's result and a residual) is
//!
//! ```text
//!   y = clamp(round_half_even(f32(a - a_zero) * a_ratio + f32(b - b_zero) * b_ratio) + zero_point, low, high)
//! ```
//!
//! with `a_ratio = a_scale / output_scale`: two multiplications and one addition, each rounded to `f32`. Fused into a
//! convolution it works on the convolution's own requantized value, so that fusing never changes a result.

use super::Error;

/// Zero point and range of an output tensor, as int8 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputQuant {
    pub zero_point: i8,
    /// Smallest value: -128, or where the fused activation cuts.
    pub low: i8,
    /// Largest value: 127, or where the fused activation cuts.
    pub high: i8,
}

impl OutputQuant {
    /// The full int8 range.
    pub const fn full(zero_point: i8) -> OutputQuant {
        OutputQuant { zero_point, low: i8::MIN, high: i8::MAX }
    }

    /// Fails when the range is empty.
    pub fn check(&self) -> Result<(), Error> {
        if self.low <= self.high { Ok(()) } else { Err(Error::EmptyRange(*self)) }
    }

    /// `low - zero_point` and `high - zero_point`: the range before the zero point is added. At most 255 away from 0.
    #[inline(always)]
    pub fn bounds(&self) -> (f32, f32) {
        let zero = f32::from(self.zero_point);
        (f32::from(self.low) - zero, f32::from(self.high) - zero)
    }

    /// `clamp(round_half_even(scaled) + zero_point)`, NaN as the lowest value. Clamping first is the same, because the bounds
    /// are whole numbers; written with comparisons it is one vector instruction a bound.
    #[inline(always)]
    pub fn finish(&self, scaled: f32) -> i8 {
        let (low, high) = self.bounds();
        let scaled = if scaled > low { scaled } else { low };
        let scaled = if scaled < high { scaled } else { high };
        (round(scaled) + i32::from(self.zero_point)) as i8
    }
}

/// Two tensors added, or a residual added to a convolution's result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AddQuant {
    /// Scale of the first operand (the convolution's result) over the output's.
    pub a_ratio: f32,
    /// Scale of the second operand (the residual) over the output's.
    pub b_ratio: f32,
    /// Zero point of the first operand.
    pub a_zero: i8,
    /// Zero point of the second operand.
    pub b_zero: i8,
    pub output: OutputQuant,
}

impl AddQuant {
    /// Fails when a ratio is not finite or the range is empty.
    pub fn check(&self) -> Result<(), Error> {
        check_multiplier(self.a_ratio)?;
        check_multiplier(self.b_ratio)?;
        self.output.check()
    }

    /// The same sum with its operands exchanged.
    pub const fn exchanged(self) -> AddQuant {
        AddQuant { a_ratio: self.b_ratio, b_ratio: self.a_ratio, a_zero: self.b_zero, b_zero: self.a_zero, output: self.output }
    }

    /// True where a sum may exceed 32 bits before it is clamped; a model with such scales is absurd but legal.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 conversions do not saturate"))]
    pub(crate) fn is_loud(&self) -> bool {
        self.a_ratio.abs().max(self.b_ratio.abs()) > 2f32.powi(20)
    }

    /// One element.
    #[inline(always)]
    pub fn apply(&self, a: i8, b: i8) -> i8 {
        let a = (i32::from(a) - i32::from(self.a_zero)) as f32 * self.a_ratio;
        let b = (i32::from(b) - i32::from(self.b_zero)) as f32 * self.b_ratio;
        self.output.finish(a + b)
    }
}

/// Two tensors multiplied: `y = clamp(round_half_even(f32((a - a_zero) * (b - b_zero)) * ratio) + zero_point, low, high)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MulQuant {
    /// `a_scale * b_scale / output_scale`.
    pub ratio: f32,
    /// Zero point of the first operand.
    pub a_zero: i8,
    /// Zero point of the second operand.
    pub b_zero: i8,
    pub output: OutputQuant,
}

impl MulQuant {
    /// Fails when the ratio is not usable or the range is empty.
    pub fn check(&self) -> Result<(), Error> {
        check_multiplier(self.ratio)?;
        self.output.check()
    }

    /// One element. The product of the integers is exact in `f32`.
    #[inline(always)]
    pub fn apply(&self, a: i8, b: i8) -> i8 {
        let product = (i32::from(a) - i32::from(self.a_zero)) * (i32::from(b) - i32::from(self.b_zero));
        self.output.finish(product as f32 * self.ratio)
    }
}

/// Multipliers up to 2^60 keep every product finite; a scale ratio beyond is an error in the model. Subtraction has a
/// negative ratio, hence the absolute value; denormals are refused because some boards flush them to zero.
pub fn check_multiplier(multiplier: f32) -> Result<(), Error> {
    let magnitude = multiplier.abs();
    if magnitude.is_normal() && magnitude <= 2f32.powi(60) { Ok(()) } else { Err(Error::Multiplier(multiplier)) }
}

/// Scales that quantize or dequantize are positive and within 2^-60..=2^60.
pub fn check_scale(what: &'static str, scale: f32) -> Result<(), Error> {
    let limits = 2f32.powi(-60)..=2f32.powi(60);
    if limits.contains(&scale) { Ok(()) } else { Err(Error::Scale { what, found: scale }) }
}

/// Round half to even for `|v| <= 2^22`: adding 1.5 * 2^23 leaves the rounded integer in the low bits of the mantissa.
/// The same as `v.round_ties_even() as i32`, but compiles to two vector instructions everywhere.
#[inline(always)]
pub fn round(v: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    (v + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_is_half_to_even_over_the_whole_range_it_promises() {
        for i in -2_000_000i32..2_000_000 {
            let v = i as f32 / 1024.0 * 2.0;
            assert_eq!(round(v), v.round_ties_even() as i32, "{v}");
        }
        assert_eq!([0.5f32, 1.5, 2.5, -0.5, -1.5, 4_194_303.5].map(round), [0, 2, 2, 0, -2, 4_194_304]);
    }

    #[test]
    fn finish_saturates_and_clamps() {
        let q = OutputQuant { zero_point: -128, low: -128, high: 20 };
        assert_eq!([f32::NEG_INFINITY, -1.0, 0.4, 148.0, f32::INFINITY].map(|v| q.finish(v)), [-128, -128, -128, 20, 20]);
        assert_eq!(OutputQuant::full(127).finish(-255.0), -128);
        assert_eq!(OutputQuant { zero_point: 3, low: -9, high: 20 }.finish(f32::NAN), -9);
    }

    #[test]
    fn multipliers_must_be_usable() {
        assert!([f32::NAN, f32::INFINITY, 0.0, 1e-40, 1e30].iter().all(|&m| check_multiplier(m).is_err()));
        assert!([1e-6f32, 3.0, -2.0].iter().all(|&m| check_multiplier(m).is_ok()));
    }
}
