//! Transposed convolution with constant weights, one or two spatial axes.

use super::product::{Numbers, Product};
use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized};
use crate::engine::lower::draft::Simple;
use crate::engine::lower::{Lowering, Operand, Roles, Value};
use crate::engine::onnx::attribute;
use crate::engine::onnx::graph::input;
use crate::engine::recognize::Context;
use crate::kernels::{self, ConvTransposeParams, Layout, reference};
use serde::{Deserialize, Serialize};

/// `[1, channels, spatial..]` with weights `[channels, output channels / groups, kernel..]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvTranspose {
    pub groups: usize,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    /// All beginnings, then all ends.
    pub pads: Vec<usize>,
    pub output_padding: Vec<usize>,
    pub product: Product,
}

/// A `ConvTranspose` between `DequantizeLinear` and `QuantizeLinear`, with a `Relu` or `Clip` behind it or none.
pub fn recognize(context: &Context, real: &str, output: QuantizedType) -> Option<Recognized> {
    let (node, range) = context.behind_activation(real, output)?;
    let automatic = attribute::find(node, "auto_pad").is_some_and(|a| a.s != b"NOTSET");
    if node.op_type != "ConvTranspose" || automatic || !attribute::ints(node, "output_shape").is_empty() {
        return None;
    }
    let (source, from) = context.source(input(node, 0)?)?;
    let weights = context.weights(input(node, 1)?)?;
    let axes = weights.shape.len().checked_sub(2).filter(|axes| (1..=2).contains(axes))?;
    let groups = usize::try_from(attribute::int(node, "group", 1)).ok().filter(|&g| g > 0)?;
    if weights.scales.len() > 1 && (weights.axis != 1 || groups != 1) {
        return None;
    }
    let product = Product::of_reals(context, &weights, input(node, 2), from, range)?;
    let kind = Kind::ConvTranspose(ConvTranspose {
        groups,
        stride: attribute::sizes(node, "strides", 1, axes)?,
        dilation: attribute::sizes(node, "dilations", 1, axes)?,
        pads: attribute::sizes(node, "pads", 0, 2 * axes)?,
        output_padding: attribute::sizes(node, "output_padding", 0, axes)?,
        product,
    });
    Some(Recognized { kind, inputs: vec![(source, from)], weights: Some(weights.name) })
}

impl ConvTranspose {
    /// Output sizes along the spatial axes, and the layouts of input and output without borders.
    fn fit(&self, input: &[usize], weights: &[usize]) -> Result<(Vec<usize>, Layout, Layout), String> {
        let axes = self.stride.len();
        if input.len() != axes + 2 || weights.len() != axes + 2 || weights.contains(&0) || input.contains(&0) {
            return Err(format!("input of shape {input:?} and weights of shape {weights:?}: expected {} axes", axes + 2));
        }
        if weights[0] != input[1] || !input[1].is_multiple_of(self.groups) {
            return Err(format!("weights of shape {weights:?} do not fit {} channels in {} groups", input[1], self.groups));
        }
        let channels = weights[1] * self.groups;
        self.product.check(channels)?;
        let size = |axis: usize| {
            let full =
                self.stride[axis] * (input[2 + axis] - 1) + self.output_padding[axis] + (weights[2 + axis] - 1) * self.dilation[axis] + 1;
            let cut = self.pads[axis] + self.pads[axis + axes];
            full.checked_sub(cut).filter(|&n| n > 0).ok_or_else(|| format!("padding of {cut} leaves nothing of {full}"))
        };
        let sizes: Vec<usize> = (0..axes).map(size).collect::<Result<_, _>>()?;
        let image = |spatial: &[usize], channels| match spatial {
            [height, width] => Layout::new(*height, *width, channels),
            _ => Layout::new(1, spatial[0], channels),
        };
        Ok((sizes.clone(), image(&input[2..], input[1]), image(&sizes, channels)))
    }

    fn params<'a>(
        &'a self,
        op: &Operator,
        [input, output]: [Layout; 2],
        weights: &'a Array,
        numbers: &'a Numbers,
    ) -> ConvTransposeParams<'a> {
        let pair = |list: &[usize], default: usize| match list {
            [height, width] => [*height, *width],
            _ => [default, list[0]],
        };
        ConvTransposeParams {
            input,
            output,
            kernel: pair(&weights.shape[2..], 1),
            stride: pair(&self.stride, 1),
            dilation: pair(&self.dilation, 1),
            pad: pair(&self.pads[..self.stride.len()], 0),
            groups: self.groups,
            input_zero: op.inputs[0].zero,
            weights: self.product.weights(&weights.values),
            bias: &numbers.bias,
            multipliers: &numbers.multipliers,
            quant: self.product.quant(op),
        }
    }
}

impl Behaviour for ConvTranspose {
    fn name(&self) -> &'static str {
        "ConvTranspose"
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        let [input, weights] = inputs else { return Err(format!("{} inputs, expected 2", inputs.len())) };
        let (sizes, _, output) = self.fit(input, weights)?;
        Ok([&[input[0], output.channels][..], &sizes].concat())
    }

    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String> {
        let (sizes, from, to) = self.fit(&inputs[0].shape, &inputs[1].shape)?;
        let numbers = self.product.numbers(op, to.channels);
        let params = self.params(op, [from, to], &inputs[1], &numbers);
        Ok(inputs[0].by_images(&sizes, to.channels, |image| reference::conv_transpose(&params, image)))
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        let Some(weights) = inputs[1].constant.clone() else { return Ok(None) };
        let shape = inputs[0].shape.clone();
        if shape[0] != 1 {
            return Ok(None);
        }
        let roles = Roles::first(shape.len());
        let input = to.image(&inputs[0], &roles, None, op.inputs[0])?;
        let output = to.output(&self.shape(op, &[shape, weights.shape.clone()])?, &roles, op.output);
        let (conv, op, numbers) = (self.clone(), op.clone(), self.product.numbers(op, weights.shape[1] * self.groups));
        let draft =
            Simple(move |isa, l: &[Layout]| kernels::ConvTranspose::prepare(isa, &conv.params(&op, [l[0], l[1]], &weights, &numbers)));
        Ok(Some(to.push(Box::new(draft), &[input], output)))
    }
}
