//! Batch normalization that stands by itself, as behind a concatenation: a depthwise convolution of one tap.
//!
//! ```text
//!   y = a * x + b      a = scale / sqrt(variance + epsilon)      b = shift - mean * a
//! ```
//!
//! `a` becomes the weight 127 or -127 of its channel and a scale, `b` an integer in units of the sum: it is off by no more than a 254th of
//! what one step of the input makes, or by 2^-23 of itself where `a` is small beside it.

use super::conv::Conv;
use super::product::Product;
use super::window::{Padding, Window};
use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized};
use crate::engine::lower::{Lowering, Operand, Value};
use crate::engine::onnx::attribute;
use crate::engine::onnx::graph::input;
use crate::engine::recognize::Context;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// `[batch, channels, ..]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    /// One a channel.
    pub weights: Vec<i8>,
    pub product: Product,
}

/// Scales of weights that leave room for those of tensors.
const SCALES: std::ops::Range<f64> = 1e-20..1e20;

/// A `BatchNormalization` between `DequantizeLinear` and `QuantizeLinear`, with a `Relu` or `Clip` behind it or none.
pub fn recognize(context: &Context, real: &str, output: QuantizedType) -> Option<Recognized> {
    let (node, (low, high)) = context.behind_activation(real, output)?;
    if node.op_type != "BatchNormalization" || attribute::int(node, "training_mode", 0) != 0 || attribute::int(node, "spatial", 1) != 1 {
        return None;
    }
    let (source, from) = context.source(input(node, 0)?)?;
    let list = |slot: usize| context.reals(input(node, slot)?);
    let (factors, shifts, means, variances) = (list(1)?, list(2)?, list(3)?, list(4)?);
    let channels = factors.len();
    if channels == 0 || [&shifts, &means, &variances].iter().any(|list| list.len() != channels) {
        return None;
    }
    let epsilon = f64::from(attribute::find(node, "epsilon").map_or(1e-5, |a| a.f));
    let channel = |c: usize| {
        let [factor, shift, mean, variance] = [&factors, &shifts, &means, &variances].map(|list| f64::from(list[c]));
        let a = factor / (variance + epsilon).sqrt();
        in_integers(a, shift - mean * a, f64::from(from.scale))
    };
    let integers: Option<Vec<(i8, f32, i32)>> = (0..channels).map(channel).collect();
    let (mut weights, mut weight_scales, mut bias) = (Vec::new(), Vec::new(), Vec::new());
    for (weight, scale, summand) in integers? {
        weights.push(weight);
        weight_scales.push(scale);
        bias.push(summand);
    }
    let product = Product { weight_scales, weight_zeros: vec![0], bias, low, high };
    Some(Recognized { kind: Kind::BatchNorm(BatchNorm { weights, product }), inputs: vec![(source, from)], weights: None })
}

/// `a * x + b` of an input of scale `unit`: weight, its scale, and summand. `None` where they are not finite or beyond all measure.
fn in_integers(a: f64, b: f64, unit: f64) -> Option<(i8, f32, i32)> {
    let scale = (a.abs() / 127.0).max(b.abs() / unit / f64::from(1 << 22));
    let scale = if scale == 0.0 { 1.0 } else { scale } as f32;
    let wide = f64::from(scale);
    let usable = a.is_finite() && b.is_finite() && SCALES.contains(&wide);
    usable.then(|| ((a / wide).round_ties_even() as i8, scale, (b / (unit * wide)).round_ties_even() as i32))
}

impl BatchNorm {
    fn conv(&self, axes: usize) -> Conv {
        let window = Window {
            kernel: vec![1; axes],
            stride: vec![1; axes],
            dilation: vec![1; axes],
            padding: Padding::Explicit(vec![0; 2 * axes]),
            ceil: false,
        };
        Conv { window, groups: self.weights.len(), product: self.product.clone() }
    }

    fn weights(&self, axes: usize) -> Array {
        Array { shape: [vec![self.weights.len(), 1], vec![1; axes]].concat(), values: self.weights.clone() }
    }
}

impl Behaviour for BatchNorm {
    fn name(&self) -> &'static str {
        "BatchNormalization"
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        match inputs[0].get(1) {
            Some(&channels) if channels == self.weights.len() => Ok(inputs[0].clone()),
            _ => Err(format!("{} factors for an input of shape {:?}", self.weights.len(), inputs[0])),
        }
    }

    /// All axes behind the channels are as good as one.
    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String> {
        let Array { shape, values } = &inputs[0];
        let flat = Array { shape: vec![shape[0], shape[1], shape[2..].iter().product()], values: values.clone() };
        let out = self.conv(1).eval(op, &[flat, self.weights(1)])?;
        Ok(Array { shape: shape.clone(), values: out.values })
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        let axes = inputs[0].shape.len().saturating_sub(2);
        if !(1..=2).contains(&axes) {
            return Ok(None);
        }
        let weights = self.weights(axes);
        let weights = Operand { value: None, shape: weights.shape.clone(), constant: Some(Arc::new(weights)) };
        self.conv(axes).lower(op, to, &[inputs[0].clone(), weights])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_stand_for_factor_and_summand() {
        for (a, b) in [(1.0, 0.5), (-0.3, 7.0), (1e-9, 3.0), (0.0, 0.0), (0.0, -2.0), (250.0, 0.001)] {
            let unit = 0.02;
            let (weight, scale, summand) = in_integers(a, b, unit).unwrap();
            let scale = f64::from(scale);
            assert!((f64::from(weight) * scale - a).abs() * 255.0 * unit <= 1e-6 * (255.0 * unit * a.abs()) + 1e-4 * b.abs(), "{a} {b}");
            assert!((f64::from(summand) * scale * unit - b).abs() <= unit * a.abs() / 250.0 + 1e-6 * b.abs(), "{a} {b}");
        }
        for (a, b) in [(f64::NAN, 0.0), (f64::INFINITY, 0.0), (1.0, f64::INFINITY), (1e30, 0.0), (1e-30, 0.0)] {
            assert!(in_integers(a, b, 0.1).is_none(), "{a} {b}");
        }
    }
}
