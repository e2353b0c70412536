//! Any function of single elements, as a table of its 256 values: activations, chains of them, a change of scale.

use super::expression::Expression;
use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized};
use crate::engine::lower::draft::{Draft, Taking};
use crate::engine::lower::{Lowering, Operand, Value};
use crate::engine::onnx::graph::input;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::recognize::Context;
use crate::kernels::{self, Layout, reference};
use serde::{Deserialize, Serialize};

/// `values[v + 128]` is the output for the int8 input `v`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub values: Vec<i8>,
}

impl Table {
    /// The table of `function` on real numbers.
    pub fn of(input: QuantizedType, output: QuantizedType, function: impl Fn(f32) -> f32) -> Table {
        Table { values: (-128..=127).map(|v| output.quantize(function(input.dequantize(v)))).collect() }
    }

    /// The change from one scale and zero point to another.
    pub fn requantizing(from: QuantizedType, to: QuantizedType) -> Table {
        Table::of(from, to, |real| real)
    }

    /// The output for `value`.
    pub fn at(&self, value: i8) -> i8 {
        self.values[(i32::from(value) + 128) as usize]
    }

    /// A step whose output's border holds `zero`.
    pub fn draft(&self, zero: i8) -> Result<Box<dyn Draft>, String> {
        let entries = self.entries()?;
        Ok(Box::new(Taking(move |isa, l: &[Layout]| kernels::Table::prepare(isa, &entries, zero, l[0], l[1]))))
    }

    fn entries(&self) -> Result<[i8; 256], String> {
        self.values[..].try_into().map_err(|_| format!("a table of {} values, expected 256", self.values.len()))
    }
}

/// Elementwise operators between `DequantizeLinear` and `QuantizeLinear` that all come from one activation.
pub fn recognize(context: &Context, real: &str, output: QuantizedType) -> Option<Recognized> {
    let (expression, source, from) = Expression::of(context, real)?;
    let kind = Kind::Table(Table::of(from, output, |x| expression.eval(x)));
    Some(Recognized { kind, inputs: vec![(source, from)], weights: None })
}

/// `com.microsoft.QLinearSigmoid` and `QLinearLeakyRelu`.
pub fn native(context: &Context, node: &NodeProto) -> Option<(Recognized, QuantizedType)> {
    if !matches!(node.op_type.as_str(), "QLinearSigmoid" | "QLinearLeakyRelu") {
        return None;
    }
    let (from, output) = (context.parameters(node, 1)?, context.parameters(node, 3)?);
    let expression = Expression::single(node)?;
    let kind = Kind::Table(Table::of(from, output, |x| expression.eval(x)));
    Some((Recognized { kind, inputs: vec![(input(node, 0)?.to_string(), from)], weights: None }, output))
}

impl Behaviour for Table {
    fn name(&self) -> &'static str {
        "Table"
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        self.entries()?;
        Ok(inputs[0].clone())
    }

    fn eval(&self, _: &Operator, inputs: &[Array]) -> Result<Array, String> {
        Ok(Array { shape: inputs[0].shape.clone(), values: reference::table(&self.entries()?, &inputs[0].values) })
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        let roles = to.natural_roles(&inputs[0])?;
        let input = to.image(&inputs[0], &roles, None, op.inputs[0])?;
        let output = to.output(&inputs[0].shape, &roles, op.output);
        Ok(Some(to.push(self.draft(op.output.zero)?, &[input], output)))
    }
}
