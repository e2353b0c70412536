//! Dynamic quantization: `DynamicQuantizeLinear` -> `ConvInteger` or `MatMulInteger` with constant weights -> `Cast` -> `Mul` by
//! both scales, with an `Add` of a constant bias or none, as one operator from float to float. Its products are int8; no scale of
//! an activation is in the model.

use super::lower::draft::Fixed;
use super::lower::{Lowering, Value};
use super::onnx::graph::input;
use super::onnx::pb::{NodeProto, TensorProto};
use super::onnx::{attribute, tensor};
use super::quantized::conv::Conv;
use super::quantized::linear::Linear;
use super::quantized::product::Product;
use super::quantized::window::Fitted;
use super::quantized::{Array, Kind, Operator, QuantizedType};
use super::recognize::{Context, Weights};
use crate::kernels::{self, ConvParams, DynamicParams, Layout, Order, reference};
use serde::{Deserialize, Serialize};

/// One dynamically quantized operator with everything but its input and weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dynamic {
    /// Name of the ONNX node.
    pub name: String,
    form: Form,
    /// In real numbers, one an output channel.
    bias: Vec<f32>,
}

/// The product of the quantized input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Form {
    Linear(Linear),
    Conv(Conv),
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
    let (form, channels) = form(integer, &weights)?;
    let bias = match bias {
        None => vec![0.0; channels],
        Some(bias) => vector(context, bias, matches!(form, Form::Conv(_)), channels)?,
    };
    let name = super::onnx::graph::node_name(integer).to_string();
    Some(Found { dynamic: Dynamic { name, form, bias }, input: input(quantize, 0)?.to_string(), weights: weights.name })
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
    let zero = input(integer, 3).map(|name| context.index.constant(name)).map_or(Some(None), |zero| zero.map(Some))?;
    let rank = context.index.constant_input(integer, 1)?.dims.len();
    let axis = if integer.op_type == "ConvInteger" { 0 } else { rank.checked_sub(1)? };
    context.described_weights(integer, 1, scale, zero, axis)
}

fn form(integer: &NodeProto, weights: &Weights) -> Option<(Form, usize)> {
    let product = Product {
        weight_scales: weights.scales.clone(),
        weight_zeros: weights.zeros.clone(),
        bias: Vec::new(),
        low: i8::MIN,
        high: i8::MAX,
    };
    let channels = *weights.shape.get(weights.axis)?;
    match integer.op_type.as_str() {
        "ConvInteger" => Some((Form::Conv(Conv::new(integer, &weights.shape, product)?), channels)),
        _ if weights.shape.len() == 2 => Some((Form::Linear(Linear { transposed: false, product }), channels)),
        _ => None,
    }
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

/// The convolution that an operator is on an input of known shape.
struct Placed {
    conv: Conv,
    /// Stands for the input and output of the integer product, whose units are 1.
    op: Operator,
    fitted: Fitted,
    input: Layout,
    output: Layout,
    /// Output channels first.
    weights: Array,
}

impl Placed {
    fn params<R>(&self, layouts: [Layout; 2], order: Order, bias: &[f32], use_them: impl FnOnce(&DynamicParams) -> R) -> R {
        let numbers = self.conv.numbers(&self.op, &self.weights);
        let conv: ConvParams = self.conv.params(&self.op, &self.fitted, layouts, &numbers);
        use_them(&DynamicParams { conv, order, weight_scales: &numbers.multipliers, bias })
    }
}

impl Dynamic {
    pub fn kind_name(&self) -> &'static str {
        match self.form {
            Form::Linear(_) => "MatMulInteger",
            Form::Conv(_) => "ConvInteger",
        }
    }

    /// Shape of the output for an input and weights of these shapes.
    pub fn shape(&self, input: &[usize], weights: &[usize]) -> Result<Vec<usize>, String> {
        let shape = match &self.form {
            Form::Linear(linear) => {
                let [_, _, columns] = linear.sizes(input, weights)?;
                [&input[..input.len() - 1], &[columns]].concat()
            }
            Form::Conv(conv) => {
                let (fitted, _, output) = conv.fit(input, weights)?;
                [&[input[0], output.channels], fitted.spatial(input.len() - 2)].concat()
            }
        };
        let elements = shape.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
        let fits = elements.is_some_and(|n| (1..1 << 31).contains(&n));
        if fits { Ok(shape) } else { Err(format!("asks for an output of shape {shape:?}")) }
    }

    fn place(&self, shape: &[usize], weights: &Array) -> Result<Placed, String> {
        let unit = QuantizedType { scale: 1.0, zero: 0, unsigned: false };
        let (conv, weights, (fitted, input, output)) = match &self.form {
            Form::Linear(linear) => {
                let [rows, depth, columns] = linear.sizes(shape, &weights.shape)?;
                let conv = linear.conv();
                let fitted = conv.window.fit(&[rows, 1])?;
                (conv, weights.permuted(&[1, 0]), (fitted, Layout::new(rows, 1, depth), Layout::new(rows, 1, columns)))
            }
            Form::Conv(conv) => (conv.clone(), weights.clone(), conv.fit(shape, &weights.shape)?),
        };
        let op = Operator { name: self.name.clone(), kind: Kind::Conv(conv.clone()), inputs: vec![unit], output: unit };
        Ok(Placed { conv, op, fitted, input, output, weights })
    }

    /// The output in the plainest way. All images of a batch share the input's range.
    pub fn eval(&self, shape: &[usize], input: &[f32], weights: &Array) -> Result<Vec<f32>, String> {
        let placed = self.place(shape, weights)?;
        let quantization = reference::own_quantization(input);
        let evaluate = |input: &[f32]| {
            let layouts = [placed.input, placed.output];
            placed.params(layouts, Order::Pixels, &self.bias, |params| reference::dynamic(params, quantization, input))
        };
        let (from, to) = (placed.input, placed.output);
        let image = |image: &[f32]| turned(&evaluate(&turned(image, from.channels)), to.height * to.width);
        Ok(match &self.form {
            Form::Linear(_) => evaluate(input),
            Form::Conv(_) => input.chunks_exact(from.height * from.width * from.channels).flat_map(image).collect(),
        })
    }

    /// A step from one native tensor to another.
    pub fn lower(&self, to: &mut Lowering, input: Value, shape: &[usize], weights: &Array) -> Result<Value, String> {
        if matches!(self.form, Form::Conv(_)) && shape[0] != 1 {
            return Err(format!("a batch of {}: expected 1", shape[0]));
        }
        let placed = self.place(shape, weights)?;
        let made = self.shape(shape, &weights.shape)?;
        let order = if matches!(self.form, Form::Linear(_)) { Order::Pixels } else { Order::Planes };
        let empty = placed.conv.params(&placed.op, &placed.fitted, [placed.input, placed.output], &Default::default()).border();
        let layouts = [placed.input.with_border(empty), placed.output];
        let bias = self.bias.clone();
        let draft = Fixed(move |isa| placed.params(layouts, order, &bias, |params| kernels::Dynamic::prepare(isa, params)));
        to.push_native(Box::new(draft), input, &made)
    }
}

/// Rows to columns: `rows` of equal length become columns.
fn turned(values: &[f32], rows: usize) -> Vec<f32> {
    let length = values.len() / rows.max(1);
    (0..length).flat_map(|i| values.iter().skip(i).step_by(length.max(1))).copied().collect()
}
