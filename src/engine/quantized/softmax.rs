//! Softmax along one axis.

use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized, axis};
use crate::engine::lower::draft::Taking;
use crate::engine::lower::{Lowering, Operand, Roles, Value};
use crate::engine::onnx::attribute;
use crate::engine::onnx::graph::input;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::recognize::Context;
use crate::kernels::{self, Layout, OutputQuant, SoftmaxQuant, reference};
use serde::{Deserialize, Serialize};

/// Along `axis`, which may count from the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {
    pub axis: i64,
    /// All axes from `axis` on are one (operator sets before 13).
    pub flattened: bool,
}

impl Softmax {
    fn of(node: &NodeProto, opset: i64) -> Softmax {
        let flattened = opset < 13;
        Softmax { axis: attribute::int(node, "axis", if flattened { 1 } else { -1 }), flattened }
    }
}

/// A `Softmax` between `DequantizeLinear` and `QuantizeLinear`.
pub fn recognize(context: &Context, real: &str, _: QuantizedType) -> Option<Recognized> {
    let node = context.index.producer(real).filter(|n| n.op_type == "Softmax")?;
    let kind = Kind::Softmax(Softmax::of(node, context.opset));
    Some(Recognized { kind, inputs: vec![context.source(input(node, 0)?)?], weights: None })
}

/// `com.microsoft.QLinearSoftmax`, whose attribute `opset` says which `Softmax` it is.
pub fn native(context: &Context, node: &NodeProto) -> Option<(Recognized, QuantizedType)> {
    if node.op_type != "QLinearSoftmax" {
        return None;
    }
    let kind = Kind::Softmax(Softmax::of(node, attribute::int(node, "opset", 13)));
    let inputs = vec![(input(node, 0)?.to_string(), context.parameters(node, 1)?)];
    Some((Recognized { kind, inputs, weights: None }, context.parameters(node, 3)?))
}

impl Softmax {
    fn quant(op: &Operator) -> SoftmaxQuant {
        SoftmaxQuant { input_scale: op.inputs[0].scale, output_scale: op.output.scale, output: OutputQuant::full(op.output.zero) }
    }
}

impl Behaviour for Softmax {
    fn name(&self) -> &'static str {
        "Softmax"
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        axis(self.axis, inputs[0].len())?;
        Ok(inputs[0].clone())
    }

    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String> {
        let input = &inputs[0];
        let rank = input.shape.len();
        let axis = axis(self.axis, rank)?;
        if self.flattened {
            let channels = input.shape[axis..].iter().product();
            return Ok(Array { shape: input.shape.clone(), values: reference::softmax(&Softmax::quant(op), channels, &input.values) });
        }
        let to_last: Vec<usize> = (0..rank).filter(|&a| a != axis).chain([axis]).collect();
        let mut back = to_last.clone();
        to_last.iter().enumerate().for_each(|(at, &axis)| back[axis] = at);
        let last = input.permuted(&to_last);
        let values = reference::softmax(&Softmax::quant(op), input.shape[axis], &last.values);
        Ok(Array { shape: last.shape, values }.permuted(&back))
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        let shape = &inputs[0].shape;
        let rank = shape.len();
        let axis = axis(self.axis, rank)?;
        let alone = !self.flattened || shape[axis + 1..].iter().all(|&d| d == 1);
        let natural = to.natural_roles(&inputs[0])?;
        let roles = match axis {
            _ if !alone => return Ok(None),
            axis if natural.channels == [axis] => natural,
            axis if axis == rank - 1 => Roles::last(rank),
            1 if (3..=4).contains(&rank) => Roles::first(rank),
            _ => return Ok(None),
        };
        let input = to.image(&inputs[0], &roles, None, op.inputs[0])?;
        let output = to.output(shape, &roles, op.output);
        let quant = Softmax::quant(op);
        let draft = Taking(move |isa, l: &[Layout]| kernels::Softmax::prepare(isa, quant, l[0], l[1]));
        Ok(Some(to.push(Box::new(draft), &[input], output)))
    }
}
