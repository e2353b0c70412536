//! Layer normalization over the last axis.

use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized};
use crate::engine::lower::draft::Taking;
use crate::engine::lower::{Lowering, Operand, Roles, Value};
use crate::engine::onnx::attribute;
use crate::engine::onnx::graph::input;
use crate::engine::recognize::Context;
use crate::kernels::{self, LayerNormParams, Layout, OutputQuant, reference};
use serde::{Deserialize, Serialize};

/// `(x - mean) / sqrt(variance + epsilon) * gamma + beta`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    pub epsilon: f32,
    pub gamma: Vec<f32>,
    /// Empty, or as long as gamma.
    pub beta: Vec<f32>,
}

/// A `LayerNormalization` over the last axis between `DequantizeLinear` and `QuantizeLinear`.
pub fn recognize(context: &Context, real: &str, _: QuantizedType) -> Option<Recognized> {
    let node = context.index.producer(real).filter(|n| n.op_type == "LayerNormalization")?;
    if attribute::int(node, "axis", -1) != -1 {
        return None;
    }
    let gamma = context.reals(input(node, 1)?)?;
    let beta = input(node, 2).map_or(Some(vec![0.0; gamma.len()]), |name| context.reals(name))?;
    let epsilon = attribute::find(node, "epsilon").map_or(1e-5, |a| a.f);
    let kind = Kind::LayerNorm(LayerNorm { epsilon, gamma, beta });
    Some(Recognized { kind, inputs: vec![context.source(input(node, 0)?)?], weights: None })
}

impl LayerNorm {
    fn params<'a>(&'a self, op: &Operator, input: Layout, output: Layout) -> LayerNormParams<'a> {
        LayerNormParams {
            input,
            output,
            input_scale: op.inputs[0].scale,
            output_scale: op.output.scale,
            quant: OutputQuant::full(op.output.zero),
            epsilon: self.epsilon,
            gamma: &self.gamma,
            beta: &self.beta,
        }
    }
}

impl Behaviour for LayerNorm {
    fn name(&self) -> &'static str {
        "LayerNormalization"
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        match inputs[0].last() {
            Some(&last) if last == self.gamma.len() && last == self.beta.len() && last > 0 => Ok(inputs[0].clone()),
            _ => Err(format!("{} factors and {} summands for an input of shape {:?}", self.gamma.len(), self.beta.len(), inputs[0])),
        }
    }

    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String> {
        let layout = Layout::new(1, inputs[0].values.len() / self.gamma.len(), self.gamma.len());
        let values = reference::layer_norm(&self.params(op, layout, layout), &inputs[0].values);
        Ok(Array { shape: inputs[0].shape.clone(), values })
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        let roles = Roles::last(inputs[0].shape.len());
        let input = to.image(&inputs[0], &roles, None, op.inputs[0])?;
        let output = to.output(&inputs[0].shape, &roles, op.output);
        let (norm, op) = (self.clone(), op.clone());
        let draft = Taking(move |isa, l: &[Layout]| kernels::LayerNorm::prepare(isa, &norm.params(&op, l[0], l[1])));
        Ok(Some(to.push(Box::new(draft), &[input], output)))
    }
}
