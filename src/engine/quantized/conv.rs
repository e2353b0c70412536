//! Convolution with constant weights: any group, stride, dilation and padding, one or two spatial axes.

use super::product::{Numbers, Product};
use super::window::{Fitted, Window};
use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized};
use crate::engine::lower::draft::ConvDraft;
use crate::engine::lower::{Lowering, Operand, Roles, Value};
use crate::engine::onnx::attribute;
use crate::engine::onnx::graph::input;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::recognize::Context;
use crate::kernels::{Border, ConvParams, Layout, reference};
use serde::{Deserialize, Serialize};

/// `[1, channels, spatial..]` with weights `[output channels, channels / groups, kernel..]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    pub window: Window,
    pub groups: usize,
    pub product: Product,
}

/// A `Conv` between `DequantizeLinear` and `QuantizeLinear`, with a `Relu` or `Clip` behind it or none.
pub fn recognize(context: &Context, real: &str, output: QuantizedType) -> Option<Recognized> {
    let (node, range) = context.behind_activation(real, output)?;
    if node.op_type != "Conv" {
        return None;
    }
    let (source, from) = context.source(input(node, 0)?)?;
    let weights = context.weights(input(node, 1)?)?;
    // Per-channel scales lie along the output channels.
    if weights.scales.len() > 1 && weights.axis != 0 {
        return None;
    }
    let product = Product::of_reals(context, &weights, input(node, 2), from, range)?;
    let kind = Kind::Conv(Conv::new(node, &weights.shape, product)?);
    Some(Recognized { kind, inputs: vec![(source, from)], weights: Some(weights.name) })
}

/// `QLinearConv`.
pub fn native(context: &Context, node: &NodeProto) -> Option<(Recognized, QuantizedType)> {
    if node.op_type != "QLinearConv" {
        return None;
    }
    let (from, output) = (context.parameters(node, 1)?, context.parameters(node, 6)?);
    let (product, weights) = Product::native(context, node, 3, 8)?;
    let shape: Vec<usize> = context.index.constant(&weights)?.dims.iter().map(|&d| d as usize).collect();
    let kind = Kind::Conv(Conv::new(node, &shape, product)?);
    Some((Recognized { kind, inputs: vec![(input(node, 0)?.to_string(), from)], weights: Some(weights) }, output))
}

impl Conv {
    /// With the geometry of a node whose weights have the shape `weights`.
    pub fn new(node: &NodeProto, weights: &[usize], product: Product) -> Option<Conv> {
        let groups = usize::try_from(attribute::int(node, "group", 1)).ok().filter(|&g| g > 0)?;
        Some(Conv { window: Window::of(node, weights.get(2..)?)?, groups, product })
    }

    /// Geometry, and the layouts of input and output without borders.
    pub fn fit(&self, input: &[usize], weights: &[usize]) -> Result<(Fitted, Layout, Layout), String> {
        let axes = self.window.kernel.len();
        if input.len() != axes + 2 || weights.len() != axes + 2 {
            return Err(format!("input of shape {input:?} and weights of shape {weights:?}: expected {} axes", axes + 2));
        }
        let (channels, out) = (input[1], weights[0]);
        if weights[1].checked_mul(self.groups) != Some(channels) || out % self.groups != 0 || weights[2..] != self.window.kernel {
            return Err(format!("weights of shape {weights:?} do not fit {channels} channels in {} groups", self.groups));
        }
        self.product.check(out)?;
        let fitted = self.window.fit(&input[2..])?;
        let height = if axes == 2 { input[2] } else { 1 };
        Ok((fitted, Layout::new(height, input[axes + 1], channels), Layout::new(fitted.output[0], fitted.output[1], out)))
    }

    /// The kernel's parameters. `weights` have the output channels first.
    pub fn params<'a>(
        &'a self,
        op: &Operator,
        fitted: &Fitted,
        layouts: [Layout; 2],
        weights: &'a [i8],
        numbers: &'a Numbers,
    ) -> ConvParams<'a> {
        ConvParams {
            input: layouts[0],
            output: layouts[1],
            kernel: fitted.kernel,
            stride: fitted.stride,
            dilation: fitted.dilation,
            pad: fitted.pad,
            groups: self.groups,
            input_zero: op.inputs[0].zero,
            weights: self.product.weights(weights),
            bias: &numbers.bias,
            multipliers: &numbers.multipliers,
            quant: self.product.quant(op),
            residual: None,
        }
    }

    /// The border that the input must have.
    pub fn padding(&self, op: &Operator, fitted: &Fitted, layouts: [Layout; 2]) -> Border {
        self.params(op, fitted, layouts, &[], &Numbers::default()).border()
    }
}

impl Behaviour for Conv {
    fn name(&self) -> &'static str {
        "Conv"
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        let [input, weights] = inputs else { return Err(format!("{} inputs, expected 2", inputs.len())) };
        let (fitted, _, output) = self.fit(input, weights)?;
        Ok([&[input[0], output.channels], fitted.spatial(self.window.kernel.len())].concat())
    }

    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String> {
        let (fitted, from, to) = self.fit(&inputs[0].shape, &inputs[1].shape)?;
        let numbers = self.product.numbers(op, to.channels);
        let params = self.params(op, &fitted, [from, to], &inputs[1].values, &numbers);
        let spatial = fitted.spatial(self.window.kernel.len());
        Ok(inputs[0].by_images(spatial, to.channels, |image| reference::conv2d(&params, image)))
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        let shape = inputs[0].shape.clone();
        if shape[0] != 1 {
            return Ok(None);
        }
        let Some(weights) = inputs[1].constant.clone() else { return Ok(None) };
        let (fitted, from, out) = self.fit(&shape, &weights.shape)?;
        let border = self.padding(op, &fitted, [from, out]);
        let input = to.image(&inputs[0], &Roles::first(shape.len()), Some(border), op.inputs[0])?;
        let output_shape = self.shape(op, &[shape.clone(), weights.shape.clone()])?;
        let output = to.output(&output_shape, &Roles::first(shape.len()), op.output);
        let draft = ConvDraft { conv: self.clone(), op: op.clone(), fitted, weights, depth_first: false, residual: None };
        Ok(Some(to.push(Box::new(draft), &[input], output)))
    }

    fn border(&self, op: &Operator, inputs: &[Vec<usize>]) -> Border {
        let fitted = self.fit(&inputs[0], &inputs[1]);
        fitted.map_or(Border::default(), |(fitted, from, to)| self.padding(op, &fitted, [from, to]))
    }
}
