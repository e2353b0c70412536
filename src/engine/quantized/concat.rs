//! Concatenation: each part, of which some may be constant, at its own scale, all brought to the output's.

use super::table::Table;
use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized, axis};
use crate::engine::lower::{Lowering, Operand, Roles, Value};
use crate::engine::onnx::attribute;
use crate::engine::onnx::graph::input;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::recognize::Context;
use serde::{Deserialize, Serialize};

/// Along `axis`, which may count from the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Concat {
    pub axis: i64,
}

/// A `Concat` of quantized activations that is then quantized.
pub fn recognize(context: &Context, real: &str, _: QuantizedType) -> Option<Recognized> {
    let node = context.index.producer(real).filter(|n| n.op_type == "Concat" && !n.input.is_empty())?;
    let inputs: Option<Vec<_>> = (0..node.input.len()).map(|slot| context.operand(input(node, slot)?)).collect();
    let axis = attribute::find(node, "axis")?.i;
    Some(Recognized { kind: Kind::Concat(Concat { axis }), inputs: inputs?, weights: None })
}

/// `com.microsoft.QLinearConcat`.
pub fn native(context: &Context, node: &NodeProto) -> Option<(Recognized, QuantizedType)> {
    if node.op_type != "QLinearConcat" || node.input.len() < 5 || node.input.len() % 3 != 2 {
        return None;
    }
    let part = |slot: usize| Some((input(node, slot)?.to_string(), context.parameters(node, slot + 1)?));
    let inputs: Option<Vec<_>> = (2..node.input.len()).step_by(3).map(part).collect();
    let kind = Kind::Concat(Concat { axis: attribute::find(node, "axis")?.i });
    Some((Recognized { kind, inputs: inputs?, weights: None }, context.parameters(node, 0)?))
}

impl Behaviour for Concat {
    fn name(&self) -> &'static str {
        "Concat"
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        let first = &inputs[0];
        let axis = axis(self.axis, first.len())?;
        let mut shape = first.clone();
        for other in &inputs[1..] {
            let fits = other.len() == first.len() && (0..first.len()).all(|i| i == axis || other[i] == first[i]);
            if !fits {
                return Err(format!("parts of shape {first:?} and {other:?} do not fit along axis {axis}"));
            }
            shape[axis] += other[axis];
        }
        Ok(shape)
    }

    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String> {
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|a| a.shape.clone()).collect();
        let shape = self.shape(op, &shapes)?;
        let axis = axis(self.axis, shape.len())?;
        let parts: Vec<Array> =
            inputs.iter().zip(&op.inputs).map(|(part, &from)| part_at_scale(op, part, from)).collect::<Result<_, _>>()?;
        let outer: usize = shape[..axis].iter().product();
        let mut values = Vec::with_capacity(shape.iter().product());
        for i in 0..outer {
            for part in &parts {
                let length = part.values.len() / outer;
                values.extend_from_slice(&part.values[i * length..][..length]);
            }
        }
        Ok(Array { shape, values })
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|i| i.shape.clone()).collect();
        let shape = self.shape(op, &shapes)?;
        let rank = shape.len();
        let roles = match axis(self.axis, rank)? {
            axis if axis == rank - 1 => Roles::last(rank),
            1 if (2..=4).contains(&rank) && shape[0] == 1 => Roles::first(rank),
            _ => return Ok(None),
        };
        to.concat(op, inputs, &shape, &roles).map(Some)
    }
}

fn part_at_scale(op: &Operator, part: &Array, from: QuantizedType) -> Result<Array, String> {
    if from.same_scale(&op.output) {
        return Ok(part.clone());
    }
    let change =
        Operator { name: op.name.clone(), kind: Kind::Table(Table::requantizing(from, op.output)), inputs: vec![from], output: op.output };
    change.eval(std::slice::from_ref(part))
}
