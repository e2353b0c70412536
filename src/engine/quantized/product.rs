//! What convolutions and matrix products with constant weights share: scales and zero points of the weights, the bias, and the
//! way from a sum of products to the output.

use super::{Operator, QuantizedType};
use crate::engine::onnx::graph::input;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::onnx::tensor;
use crate::engine::recognize::{Context, Weights};
use crate::kernels::{Int8Weights, OutputQuant};
use serde::{Deserialize, Serialize};

/// Everything but the weights themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Product {
    /// One, or one an output channel.
    pub weight_scales: Vec<f32>,
    /// As int8, one or one an output channel.
    pub weight_zeros: Vec<i8>,
    /// In units of `input_scale * weight_scale`; empty, or one an output channel.
    pub bias: Vec<i32>,
    /// Range of a fused activation, within int8.
    pub low: i8,
    pub high: i8,
}

impl Product {
    /// Weights from a `DequantizeLinear`, and the bias in its input `bias`, real numbers that are brought to the unit of the sum.
    pub fn of_reals(context: &Context, weights: &Weights, bias: Option<&str>, input: QuantizedType, range: (i8, i8)) -> Option<Product> {
        let bias = match bias {
            None => Vec::new(),
            Some(name) => context.bias(name, |channel| f64::from(input.scale) * f64::from(weights.scale(channel)))?,
        };
        let Weights { scales, zeros, .. } = weights;
        Some(Product { weight_scales: scales.clone(), weight_zeros: zeros.clone(), bias, low: range.0, high: range.1 })
    }

    /// Weights with scale and zero point in the two slots behind them, and an int32 bias in `bias` (`QLinearConv`, `QGemm`).
    pub fn native(context: &Context, node: &NodeProto, slot: usize, bias: usize) -> Option<(Product, String)> {
        let weights = context.native_weights(node, slot)?;
        let bias = match input(node, bias) {
            None => Vec::new(),
            Some(name) => tensor::values(context.index.constant(name)?).iter().map(|&v| v as i32).collect(),
        };
        let product = Product { weight_scales: weights.scales, weight_zeros: weights.zeros, bias, low: i8::MIN, high: i8::MAX };
        Some((product, weights.name))
    }

    /// Errors where a list does not fit `channels` output channels.
    pub fn check(&self, channels: usize) -> Result<(), String> {
        let fits = |length: usize| length == 1 || length == channels;
        if !fits(self.weight_scales.len()) || !fits(self.weight_zeros.len()) {
            let found = self.weight_scales.len();
            return Err(format!("the weights have {found} scales for {channels} output channels"));
        }
        if !self.bias.is_empty() && self.bias.len() != channels {
            return Err(format!("the bias has {} values for {channels} output channels", self.bias.len()));
        }
        Ok(())
    }

    /// `values` with their zero points, as the kernels take them.
    pub fn weights<'a>(&'a self, values: &'a [i8]) -> Int8Weights<'a> {
        Int8Weights { values, zeros: &self.weight_zeros }
    }

    /// What kernels take besides the weights.
    pub fn numbers(&self, op: &Operator, channels: usize) -> Numbers {
        let scale = |c: usize| self.weight_scales[c % self.weight_scales.len()];
        Numbers {
            bias: if self.bias.is_empty() { vec![0; channels] } else { self.bias.clone() },
            multipliers: (0..channels).map(|c| op.inputs[0].scale * scale(c) / op.output.scale).collect(),
        }
    }

    pub fn quant(&self, op: &Operator) -> OutputQuant {
        OutputQuant { zero_point: op.output.zero, low: self.low, high: self.high }
    }
}

/// The numbers of a product's output channels, as the kernels take them.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    /// One an output channel.
    pub bias: Vec<i32>,
    /// `input_scale * weight_scale / output_scale`, one an output channel.
    pub multipliers: Vec<f32>,
}
