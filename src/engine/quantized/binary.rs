//! Sum, difference and product of two tensors, either of which may be broadcast or constant.

use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized};
use crate::engine::lower::draft::{Simple, Taking};
use crate::engine::lower::{Lowering, Operand, Value};
use crate::engine::onnx::graph::input;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::recognize::Context;
use crate::kernels::{self, AddQuant, BinaryQuant, Layout, MulQuant, OutputQuant, reference};
use serde::{Deserialize, Serialize};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    Add,
    Sub,
    Mul,
}

/// `a op b`, cut to the range of a fused activation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Binary {
    pub operation: Operation,
    pub low: i8,
    pub high: i8,
}

/// An `Add`, `Sub` or `Mul` of two quantized tensors, with a `Relu` or `Clip` behind it or none.
pub fn recognize(context: &Context, real: &str, output: QuantizedType) -> Option<Recognized> {
    let (node, (low, high)) = context.behind_activation(real, output)?;
    let operation = match node.op_type.as_str() {
        "Add" => Operation::Add,
        "Sub" => Operation::Sub,
        "Mul" => Operation::Mul,
        _ => return None,
    };
    let inputs = vec![context.operand(input(node, 0)?)?, context.operand(input(node, 1)?)?];
    Some(Recognized { kind: Kind::Binary(Binary { operation, low, high }), inputs, weights: None })
}

/// `com.microsoft.QLinearAdd` and `QLinearMul`.
pub fn native(context: &Context, node: &NodeProto) -> Option<(Recognized, QuantizedType)> {
    let operation = match node.op_type.as_str() {
        "QLinearAdd" => Operation::Add,
        "QLinearMul" => Operation::Mul,
        _ => return None,
    };
    let operand = |slot: usize| Some((input(node, slot)?.to_string(), context.parameters(node, slot + 1)?));
    let kind = Kind::Binary(Binary { operation, low: i8::MIN, high: i8::MAX });
    Some((Recognized { kind, inputs: vec![operand(0)?, operand(3)?], weights: None }, context.parameters(node, 6)?))
}

impl Binary {
    fn quant(&self, op: &Operator) -> BinaryQuant {
        let (a, b, y) = (op.inputs[0], op.inputs[1], op.output);
        let output = OutputQuant { zero_point: y.zero, low: self.low, high: self.high };
        let sum = |sign: f32| AddQuant {
            a_ratio: a.scale / y.scale,
            b_ratio: sign * (b.scale / y.scale),
            a_zero: a.zero,
            b_zero: b.zero,
            output,
        };
        match self.operation {
            Operation::Add => BinaryQuant::Add(sum(1.0)),
            Operation::Sub => BinaryQuant::Add(sum(-1.0)),
            Operation::Mul => BinaryQuant::Mul(MulQuant { ratio: a.scale * b.scale / y.scale, a_zero: a.zero, b_zero: b.zero, output }),
        }
    }

    /// One element, from the int8 values.
    pub fn apply(&self, op: &Operator, a: i8, b: i8) -> i8 {
        match self.quant(op) {
            BinaryQuant::Add(q) => q.apply(a, b),
            BinaryQuant::Mul(q) => q.apply(a, b),
        }
    }
}

/// Shape of a broadcast of two (ONNX, as NumPy).
fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
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
fn broadcast_to(array: &Array, shape: &[usize]) -> Array {
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

impl Behaviour for Binary {
    fn name(&self) -> &'static str {
        match self.operation {
            Operation::Add => "Add",
            Operation::Sub => "Sub",
            Operation::Mul => "Mul",
        }
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        broadcast(&inputs[0], &inputs[1])
    }

    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String> {
        let shape = broadcast(&inputs[0].shape, &inputs[1].shape)?;
        let (a, b) = (broadcast_to(&inputs[0], &shape).values, broadcast_to(&inputs[1], &shape).values);
        let values = match self.quant(op) {
            BinaryQuant::Add(q) => reference::add(&q, &a, &b),
            BinaryQuant::Mul(q) => reference::multiply(&q, &a, &b),
        };
        Ok(Array { values, shape })
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        let quant = self.quant(op);
        let shape = broadcast(&inputs[0].shape, &inputs[1].shape)?;
        let full = |i: usize| inputs[i].shape == shape && inputs[i].value.is_some();
        let (quant, a, b) = match (full(0), full(1)) {
            (true, _) => (quant, 0, 1),
            (false, true) => (quant.exchanged(), 1, 0),
            _ => return Ok(None),
        };
        if let (true, true, BinaryQuant::Add(quant)) = (full(0), full(1), quant)
            && let Some(fused) = to.add_residual(inputs, quant, op)?
        {
            return Ok(Some(fused));
        }
        let roles = to.natural_roles(&inputs[a])?;
        let sizes = roles.sizes(&shape);
        let other = to.expanded(&inputs[b], shape.len());
        if roles.sizes(&other.shape).iter().zip(sizes).any(|(&found, full)| found != full && found != 1) {
            return Ok(None);
        }
        let left = to.image(&inputs[a], &roles, None, op.inputs[a])?;
        let right = to.image(&other, &roles, None, op.inputs[b])?;
        let output = to.output(&shape, &roles, op.output);
        let reads = [left, right];
        Ok(Some(match quant {
            BinaryQuant::Add(quant) if full(0) && full(1) => {
                let draft = Simple(move |isa, l: &[Layout]| kernels::Add::prepare(isa, quant, l[0], l[1], l[2]));
                to.push(Box::new(draft), &reads, output)
            }
            quant => {
                let draft = Taking(move |isa, l: &[Layout]| kernels::Binary::prepare(isa, quant, l[0], l[1], l[2]));
                to.push(Box::new(draft), &reads, output)
            }
        }))
    }
}
