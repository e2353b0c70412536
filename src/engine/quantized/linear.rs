//! Matrix product with constant weights (`Gemm`, `MatMul`): every row of the input by itself.

use super::conv::Conv;
use super::product::Product;
use super::window::{Padding, Window};
use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized};
use crate::engine::lower::draft::ConvDraft;
use crate::engine::lower::{Lowering, Operand, Roles, Value};
use crate::engine::onnx::attribute;
use crate::engine::onnx::graph::input;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::recognize::Context;
use crate::kernels::{Layout, reference};
use serde::{Deserialize, Serialize};

/// `[.., rows, depth]` with weights `[depth, columns]`, or `[columns, depth]` where transposed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    pub transposed: bool,
    pub product: Product,
}

/// A `Gemm` or `MatMul` with constant right side between `DequantizeLinear` and `QuantizeLinear`, a `MatMul` with an `Add` of a
/// constant bias behind it or none, and a `Relu` or `Clip` or none.
pub fn recognize(context: &Context, real: &str, output: QuantizedType) -> Option<Recognized> {
    let (node, range) = context.behind_activation(real, output)?;
    let (node, bias) = match node.op_type.as_str() {
        "Gemm" if is_plain(node) => (node, input(node, 2)),
        "MatMul" => (node, None),
        "Add" => with_bias(context, node)?,
        _ => return None,
    };
    let (source, from) = context.source(input(node, 0)?)?;
    let weights = context.weights(input(node, 1)?)?;
    let transposed = node.op_type == "Gemm" && attribute::int(node, "transB", 0) != 0;
    if weights.shape.len() != 2 || (weights.scales.len() > 1 && weights.axis != usize::from(!transposed)) {
        return None;
    }
    let product = Product::of_reals(context, &weights, bias, from, range)?;
    Some(Recognized { kind: Kind::Linear(Linear { transposed, product }), inputs: vec![(source, from)], weights: Some(weights.name) })
}

/// A `MatMul` whose product alone is added to a constant vector.
fn with_bias<'a>(context: &Context<'a>, add: &'a NodeProto) -> Option<(&'a NodeProto, Option<&'a str>)> {
    let (a, b) = (input(add, 0)?, input(add, 1)?);
    let (product, bias) = if context.index.producer(a).is_some_and(|n| n.op_type == "MatMul") { (a, b) } else { (b, a) };
    let node = context.index.producer(product).filter(|n| n.op_type == "MatMul")?;
    Some((node, Some(bias)))
}

fn is_plain(node: &NodeProto) -> bool {
    let one = |name: &str| attribute::find(node, name).is_none_or(|a| a.f == 1.0);
    one("alpha") && one("beta") && attribute::int(node, "transA", 0) == 0
}

/// `QLinearMatMul` with constant right side, and `QGemm`.
pub fn native(context: &Context, node: &NodeProto) -> Option<(Recognized, QuantizedType)> {
    let (transposed, bias, output) = match node.op_type.as_str() {
        "QLinearMatMul" => (false, usize::MAX, context.parameters(node, 6)?),
        "QGemm" if is_plain(node) => (attribute::int(node, "transB", 0) != 0, 6, context.parameters(node, 7)?),
        _ => return None,
    };
    let (product, weights) = Product::native(context, node, 3, bias)?;
    if context.index.constant(&weights)?.dims.len() != 2 {
        return None;
    }
    let inputs = vec![(input(node, 0)?.to_string(), context.parameters(node, 1)?)];
    Some((Recognized { kind: Kind::Linear(Linear { transposed, product }), inputs, weights: Some(weights) }, output))
}

impl Linear {
    /// Rows, depth and columns.
    pub fn sizes(&self, input: &[usize], weights: &[usize]) -> Result<[usize; 3], String> {
        let [depth, columns] = match weights {
            [k, n] if !self.transposed => [*k, *n],
            [n, k] => [*k, *n],
            _ => return Err(format!("weights of shape {weights:?}: expected two axes")),
        };
        let Some((&last, rows)) = input.split_last() else { return Err("the input has no axes".to_string()) };
        if last != depth {
            return Err(format!("an input of shape {input:?} does not fit weights of shape {weights:?}"));
        }
        self.product.check(columns)?;
        Ok([rows.iter().product(), depth, columns])
    }

    /// The same product as a pointwise convolution.
    pub fn conv(&self) -> Conv {
        let window =
            Window { kernel: vec![1, 1], stride: vec![1, 1], dilation: vec![1, 1], padding: Padding::Explicit(vec![0; 4]), ceil: false };
        Conv { window, groups: 1, product: self.product.clone() }
    }
}

impl Behaviour for Linear {
    fn name(&self) -> &'static str {
        "MatMul"
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        let [input, weights] = inputs else { return Err(format!("{} inputs, expected 2", inputs.len())) };
        let [_, _, columns] = self.sizes(input, weights)?;
        Ok([&input[..input.len() - 1], &[columns]].concat())
    }

    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String> {
        let [rows, depth, columns] = self.sizes(&inputs[0].shape, &inputs[1].shape)?;
        let conv = self.conv();
        let weights = if self.transposed { inputs[1].clone() } else { inputs[1].permuted(&[1, 0]) };
        let numbers = conv.product.numbers(op, columns);
        let fitted = conv.window.fit(&[1, rows])?;
        let layouts = [Layout::new(1, rows, depth), Layout::new(1, rows, columns)];
        let params = conv.params(op, &fitted, layouts, &weights.values, &numbers);
        let shape = self.shape(op, &[inputs[0].shape.clone(), inputs[1].shape.clone()])?;
        Ok(Array { shape, values: reference::conv2d(&params, &inputs[0].values) })
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        let Some(weights) = inputs[1].constant.clone() else { return Ok(None) };
        let shape = inputs[0].shape.clone();
        self.sizes(&shape, &weights.shape)?;
        let input = to.image(&inputs[0], &Roles::last(shape.len()), None, op.inputs[0])?;
        let output = to.output(&self.shape(op, &[shape.clone(), weights.shape.clone()])?, &Roles::last(shape.len()), op.output);
        let conv = self.conv();
        let fitted = conv.window.fit(&[input.layout.height, input.layout.width])?;
        let draft = ConvDraft { conv, op: op.clone(), fitted, weights, depth_first: !self.transposed, residual: None };
        Ok(Some(to.push(Box::new(draft), &[input], output)))
    }
}
