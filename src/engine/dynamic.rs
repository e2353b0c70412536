//! Dynamic quantization: `DynamicQuantizeLinear` -> `ConvInteger` or `MatMulInteger` with constant weights -> `Cast` -> `Mul` by
//! both scales, with an `Add` of a constant bias or none, as one operator from float to float. Its products are int8; no scale of
//! an activation is in the model.

use super::lower::draft::Fixed;
use super::lower::{Lowering, Value};
use super::onnx::graph::{input, node_name};
use super::onnx::pb::{NodeProto, TensorProto};
use super::onnx::{attribute, tensor};
use super::quantized::conv::Conv;
use super::quantized::linear::Linear;
use super::quantized::product::{Numbers, Product};
use super::quantized::window::Fitted;
use super::quantized::{Array, Kind, Operator, QuantizedType};
use super::recognize::{Context, Weights};
use crate::kernels::{self, DynamicParams, Layout, Order, Pantry, reference};
use serde::{Deserialize, Serialize};

/// One dynamically quantized operator with everything but its input and weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dynamic {
    /// The product of the quantized input, a `Conv` or a `Linear` whose scales of input and output are 1.
    product: Operator,
    /// In real numbers, one an output channel.
    bias: Vec<f32>,
}

/// A dynamic operator with the values that it reads.
pub struct Found {
    pub dynamic: Dynamic,
    pub input: String,
    pub weights: String,
}

/// The operator whose last node is `node`.
pub fn recognize(context: &Context, node: &NodeProto) -> Option<Found> {
    let (product, bias) = match node.op_type.as_str() {
        "Mul" => (node, None),
        "Add" => {
            let mul = |value: &str| context.index.producer(value).filter(|n| n.op_type == "Mul");
            let (a, b) = (input(node, 0)?, input(node, 1)?);
            mul(a).map(|n| (n, Some(b))).or_else(|| mul(b).map(|n| (n, Some(a))))?
        }
        _ => return None,
    };
    let (integer, scale) = scaled(context, product)?;
    let quantize = context.index.producer(input(integer, 0)?).filter(|n| n.op_type == "DynamicQuantizeLinear")?;
    let outputs: [&String; 3] = quantize.output.iter().collect::<Vec<_>>().try_into().ok()?;
    let own = [input(integer, 0)?, scale.0, input(integer, 2)?];
    if outputs.iter().zip(own).any(|(made, read)| *made != read) {
        return None;
    }
    let weights = weights(context, integer, scale.1)?;
    let (product, channels) = (operator(context, integer, &weights)?, *weights.shape.get(weights.axis)?);
    let bias = match bias {
        None => vec![0.0; channels],
        Some(bias) => vector(context, bias, matches!(product.kind, Kind::Conv(_)), channels)?,
    };
    Some(Found { dynamic: Dynamic { product, bias }, input: input(quantize, 0)?.to_string(), weights: weights.name })
}

/// The integer product that `product` scales, and the names and constants of its two scales.
fn scaled<'a>(context: &Context<'a>, product: &'a NodeProto) -> Option<(&'a NodeProto, (&'a str, &'a TensorProto))> {
    let integer = |value: &str| {
        let cast = context.index.producer(value).filter(|n| n.op_type == "Cast" && attribute::int(n, "to", 0) == 1)?;
        context.index.producer(input(cast, 0)?).filter(|n| matches!(n.op_type.as_str(), "MatMulInteger" | "ConvInteger"))
    };
    let (a, b) = (input(product, 0)?, input(product, 1)?);
    let (integer, scale) = integer(a).map(|n| (n, b)).or_else(|| integer(b).map(|n| (n, a)))?;
    let scales = context.index.producer(scale).filter(|n| n.op_type == "Mul")?;
    let (a, b) = (input(scales, 0)?, input(scales, 1)?);
    let constant = |value: &'a str| context.index.constant(value);
    let scales = constant(b).map(|w| (a, w)).or_else(|| constant(a).map(|w| (b, w)))?;
    Some((integer, scales))
}

/// The weights of an integer product with `scale`. Per-channel scales lie along the output channels.
fn weights(context: &Context, integer: &NodeProto, scale: &TensorProto) -> Option<Weights> {
    let zero = context.optional_constant(integer, 3)?;
    let rank = context.index.constant_input(integer, 1)?.dims.len();
    let axis = if integer.op_type == "ConvInteger" { 0 } else { rank.checked_sub(1)? };
    context.described_weights(integer, 1, scale, zero, axis)
}

fn operator(context: &Context, integer: &NodeProto, weights: &Weights) -> Option<Operator> {
    let unit = QuantizedType { scale: 1.0, zero: 0, unsigned: false };
    let product = Product::of_reals(context, weights, None, unit, (i8::MIN, i8::MAX))?;
    let kind = match integer.op_type.as_str() {
        "ConvInteger" => Kind::Conv(Conv::new(integer, &weights.shape, product)?),
        _ if weights.shape.len() == 2 => Kind::Linear(Linear { transposed: false, product }),
        _ => return None,
    };
    Some(Operator { name: node_name(integer).to_string(), kind, inputs: vec![unit], output: unit })
}

/// A constant, or one that is only reshaped, with one value for each output channel: of a convolution the second axis, of a
/// product the last.
fn vector(context: &Context, value: &str, is_conv: bool, channels: usize) -> Option<Vec<f32>> {
    let (constant, shape) = match context.index.constant(value) {
        Some(constant) => (constant, constant.dims.clone()),
        None => {
            let node = context.index.producer(value).filter(|n| n.op_type == "Reshape")?;
            let shape = tensor::values(context.index.constant_input(node, 1)?).iter().map(|&d| d as i64).collect();
            (context.index.constant_input(node, 0)?, shape)
        }
    };
    let values: Vec<f32> = tensor::values(constant).iter().map(|&v| v as f32).collect();
    let along = match (is_conv, &shape[..]) {
        (true, [1, _, spatial @ ..]) => spatial.iter().all(|&d| d == 1),
        (false, [batch @ .., _]) => batch.iter().all(|&d| d == 1),
        _ => false,
    };
    (along && values.len() == channels && values.iter().all(|v| v.is_finite())).then_some(values)
}

/// The convolution that a product is on an input of known shape.
struct Placed {
    conv: Conv,
    fitted: Fitted,
    input: Layout,
    output: Layout,
    /// Output channels first.
    weights: Array,
    order: Order,
}

impl Dynamic {
    /// Name of the ONNX node.
    pub fn name(&self) -> &str {
        &self.product.name
    }

    pub fn kind_name(&self) -> &'static str {
        if self.is_conv() { "ConvInteger" } else { "MatMulInteger" }
    }

    fn is_conv(&self) -> bool {
        matches!(self.product.kind, Kind::Conv(_))
    }

    /// Shape of the output for an input and weights of these shapes.
    pub fn shape(&self, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        let shape = self.product.shape(inputs)?;
        if shape.contains(&0) { Err(format!("asks for an output of shape {shape:?}")) } else { Ok(shape) }
    }

    fn place(&self, shape: &[usize], weights: &Array) -> Result<Placed, String> {
        match &self.product.kind {
            Kind::Linear(linear) => {
                let [rows, depth, columns] = linear.sizes(shape, &weights.shape)?;
                let (conv, weights) = (linear.conv(), weights.permuted(&[1, 0]));
                let fitted = conv.window.fit(&[rows, 1])?;
                let (input, output) = (Layout::new(rows, 1, depth), Layout::new(rows, 1, columns));
                Ok(Placed { conv, fitted, input, output, weights, order: Order::Pixels })
            }
            Kind::Conv(conv) => {
                let (fitted, input, output) = conv.fit(shape, &weights.shape)?;
                Ok(Placed { conv: conv.clone(), fitted, input, output, weights: weights.clone(), order: Order::Planes })
            }
            _ => Err(format!("a product of the kind {}", self.product.kind_name())),
        }
    }

    fn params<'a>(&'a self, placed: &'a Placed, input: Layout, order: Order, numbers: &'a Numbers) -> DynamicParams<'a> {
        let conv = placed.conv.params(&self.product, &placed.fitted, [input, placed.output], &placed.weights.values, numbers);
        DynamicParams { conv, order, weight_scales: &numbers.multipliers, bias: &self.bias }
    }

    /// The output in the plainest way. All images of a batch share the input's range.
    pub fn eval(&self, shape: &[usize], input: &[f32], weights: &Array) -> Result<Vec<f32>, String> {
        let placed = self.place(shape, weights)?;
        let (from, to, numbers) = (placed.input, placed.output, placed.conv.product.numbers(&self.product, placed.output.channels));
        let params = self.params(&placed, from, Order::Pixels, &numbers);
        let quantization = reference::own_quantization(input);
        let evaluate = |input: &[f32]| reference::dynamic(&params, quantization, input);
        if placed.order == Order::Pixels {
            return Ok(evaluate(input));
        }
        let image = |image: &[f32]| turned(&evaluate(&turned(image, from.channels)), to.height * to.width);
        Ok(input.chunks_exact(from.height * from.width * from.channels).flat_map(image).collect())
    }

    /// A step from one native tensor to another.
    pub fn lower(&self, to: &mut Lowering, input: Value, shape: &[usize], weights: &Array) -> Result<Value, String> {
        if self.is_conv() && shape[0] != 1 {
            return Err(format!("a batch of {}: expected 1", shape[0]));
        }
        let (placed, op) = (self.place(shape, weights)?, self.clone());
        let made = self.shape(&[shape.to_vec(), weights.shape.clone()])?;
        let image = placed.input.with_border(placed.conv.padding(&self.product, &placed.fitted, [placed.input, placed.output]));
        let draft = Fixed(move |isa, pantry: &mut Pantry| {
            let numbers = placed.conv.product.numbers(&op.product, placed.output.channels);
            kernels::Dynamic::prepare(isa, &op.params(&placed, image, placed.order, &numbers), pantry)
        });
        to.push_native(Box::new(draft), input, &made)
    }
}

/// Rows to columns: `rows` of equal length become columns.
fn turned(values: &[f32], rows: usize) -> Vec<f32> {
    let length = values.len() / rows.max(1);
    (0..length).flat_map(|i| values.iter().skip(i).step_by(length.max(1))).copied().collect()
}
