//! Product of two activations, as in attention.

use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized};
use crate::engine::lower::draft::Fixed;
use crate::engine::lower::{Lowering, Operand, Value};
use crate::engine::onnx::graph::input;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::recognize::Context;
use crate::kernels::{self, Layout, MatMulParams, Matrices, OutputQuant, Pantry, reference};
use serde::{Deserialize, Serialize};

/// `[batch.., m, k] x [batch.., k, n]`, batches equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatMul {}

/// A `MatMul` of two quantized activations.
pub fn recognize(context: &Context, real: &str, _: QuantizedType) -> Option<Recognized> {
    let node = context.index.producer(real).filter(|n| n.op_type == "MatMul")?;
    let inputs = vec![context.operand(input(node, 0)?)?, context.operand(input(node, 1)?)?];
    Some(Recognized { kind: Kind::MatMul(MatMul {}), inputs, weights: None })
}

/// `QLinearMatMul` whose right side has one scale.
pub fn native(context: &Context, node: &NodeProto) -> Option<(Recognized, QuantizedType)> {
    if node.op_type != "QLinearMatMul" {
        return None;
    }
    let operand = |slot: usize| Some((input(node, slot)?.to_string(), context.parameters(node, slot + 1)?));
    let kind = Kind::MatMul(MatMul {});
    Some((Recognized { kind, inputs: vec![operand(0)?, operand(3)?], weights: None }, context.parameters(node, 6)?))
}

/// Batches, m, k, n.
fn sizes(a: &[usize], b: &[usize]) -> Result<[usize; 4], String> {
    match (a, b) {
        ([batch @ .., m, k], [other @ .., depth, n]) if batch == other && k == depth => Ok([batch.iter().product(), *m, *k, *n]),
        _ => Err(format!("shapes {a:?} and {b:?} do not multiply; batches must be equal")),
    }
}

impl MatMul {
    fn params(op: &Operator, batches: usize, matrices: [Matrices; 3], transposed: bool) -> MatMulParams {
        let [a, b, output] = matrices;
        MatMulParams {
            batches,
            a,
            b,
            b_is_transposed: transposed,
            output,
            a_zero: op.inputs[0].zero,
            b_zero: op.inputs[1].zero,
            multiplier: op.inputs[0].scale * op.inputs[1].scale / op.output.scale,
            quant: OutputQuant::full(op.output.zero),
        }
    }
}

impl Behaviour for MatMul {
    fn name(&self) -> &'static str {
        "MatMul"
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        let [_, _, _, n] = sizes(&inputs[0], &inputs[1])?;
        Ok([&inputs[0][..inputs[0].len() - 1], &[n]].concat())
    }

    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String> {
        let shape = self.shape(op, &[inputs[0].shape.clone(), inputs[1].shape.clone()])?;
        let [batches, m, k, n] = sizes(&inputs[0].shape, &inputs[1].shape)?;
        let dense = |rows: usize, columns: usize| Matrices { layout: Layout::new(1, rows, columns), step: rows * columns };
        let params = MatMul::params(op, batches, [dense(m, k), dense(k, n), dense(m, n)], false);
        Ok(Array { shape, values: reference::matmul(&params, &inputs[0].values, &inputs[1].values) })
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        let [batches, m, _, n] = sizes(&inputs[0].shape, &inputs[1].shape)?;
        let shape = self.shape(op, &[inputs[0].shape.clone(), inputs[1].shape.clone()])?;
        let a = to.matrices(&inputs[0], op.inputs[0])?;
        let b = to.matrices(&inputs[1], op.inputs[1])?;
        if a.transposed {
            return Ok(None);
        }
        // The results of all batches for one row lie in one pixel: what a transposition to [m, batch * n] then asks for.
        let output = to.interleaved(&shape, op.output);
        let result = Matrices { layout: Layout::new(1, m, batches * n).channel_slice(0..n), step: n };
        let params = MatMul::params(op, batches, [a.matrices, b.matrices, result], b.transposed);
        let draft = Fixed(move |isa, _: &mut Pantry| kernels::MatMul::prepare(isa, &params));
        Ok(Some(to.push_strided(Box::new(draft), &[a.storage, b.storage], output)))
    }
}
