//! Sum or difference of two activations of one shape.

use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized};
use crate::engine::lower::draft::AddDraft;
use crate::engine::lower::{Lowering, Operand, Value};
use crate::engine::onnx::graph::input;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::recognize::Context;
use crate::kernels::{AddQuant, OutputQuant, reference};
use serde::{Deserialize, Serialize};

/// `a + b`, or `a - b`, cut to the range of a fused activation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add {
    pub subtract: bool,
    pub low: i8,
    pub high: i8,
}

/// An `Add` or `Sub` of two quantized activations, with a `Relu` or `Clip` behind it or none.
pub fn recognize(context: &Context, real: &str, output: QuantizedType) -> Option<Recognized> {
    let (node, (low, high)) = context.behind_activation(real, output)?;
    let subtract = match node.op_type.as_str() {
        "Add" => false,
        "Sub" => true,
        _ => return None,
    };
    let inputs = vec![context.source(input(node, 0)?)?, context.source(input(node, 1)?)?];
    Some(Recognized { kind: Kind::Add(Add { subtract, low, high }), inputs, weights: None })
}

/// `com.microsoft.QLinearAdd`.
pub fn native(context: &Context, node: &NodeProto) -> Option<(Recognized, QuantizedType)> {
    if node.op_type != "QLinearAdd" || context.index.constant_input(node, 0).or(context.index.constant_input(node, 3)).is_some() {
        return None;
    }
    let operand = |slot: usize| Some((input(node, slot)?.to_string(), context.parameters(node, slot + 1)?));
    let kind = Kind::Add(Add { subtract: false, low: i8::MIN, high: i8::MAX });
    Some((Recognized { kind, inputs: vec![operand(0)?, operand(3)?], weights: None }, context.parameters(node, 6)?))
}

impl Add {
    fn quant(&self, op: &Operator) -> AddQuant {
        let sign = if self.subtract { -1.0 } else { 1.0 };
        AddQuant {
            a_ratio: op.inputs[0].scale / op.output.scale,
            b_ratio: sign * (op.inputs[1].scale / op.output.scale),
            a_zero: op.inputs[0].zero,
            b_zero: op.inputs[1].zero,
            output: OutputQuant { zero_point: op.output.zero, low: self.low, high: self.high },
        }
    }
}

/// Shape of a broadcast of two (ONNX, as NumPy).
pub fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    let joined = |i: usize| match (dim(a, i), dim(b, i)) {
        (a, b) if a == b || b == 1 => Ok(a),
        (1, b) => Ok(b),
        _ => Err(format!("shapes {a:?} and {b:?} do not broadcast")),
    };
    (0..rank).map(joined).collect()
}

/// The array repeated to `shape`, which it broadcasts to.
pub fn broadcast_to(array: &Array, shape: &[usize]) -> Array {
    let missing = shape.len() - array.shape.len();
    let mut strides = vec![0; shape.len()];
    let mut stride = 1;
    for (i, &size) in array.shape.iter().enumerate().rev() {
        strides[missing + i] = if size == 1 { 0 } else { stride };
        stride *= size;
    }
    let count = shape.iter().product();
    let values = (0..count).map(|mut i: usize| {
        let mut at = 0;
        for (&size, &stride) in shape.iter().zip(&strides).rev() {
            at += i % size * stride;
            i /= size;
        }
        array.values[at]
    });
    Array { values: values.collect(), shape: shape.to_vec() }
}

impl Behaviour for Add {
    fn name(&self) -> &'static str {
        if self.subtract { "Sub" } else { "Add" }
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        broadcast(&inputs[0], &inputs[1])
    }

    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String> {
        let shape = broadcast(&inputs[0].shape, &inputs[1].shape)?;
        let (a, b) = (broadcast_to(&inputs[0], &shape), broadcast_to(&inputs[1], &shape));
        Ok(Array { values: reference::add(&self.quant(op), &a.values, &b.values), shape })
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        if inputs[0].shape != inputs[1].shape || inputs.iter().any(|i| i.constant.is_some()) {
            return Ok(None);
        }
        let quant = self.quant(op);
        if let Some(fused) = to.add_residual(inputs, quant, op)? {
            return Ok(Some(fused));
        }
        let roles = to.natural_roles(&inputs[0])?;
        let (a, b) = (to.image(&inputs[0], &roles, None, op.inputs[0])?, to.image(&inputs[1], &roles, None, op.inputs[1])?);
        let output = to.output(&inputs[0].shape, &roles, op.output);
        let draft = AddDraft { quant };
        Ok(Some(to.push(Box::new(draft), &[a, b], output)))
    }
}
