//! Max, average and global average pooling.

use super::window::{Fitted, Window};
use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized};
use crate::engine::lower::draft::PoolDraft;
use crate::engine::lower::{Lowering, Operand, Roles, Value};
use crate::engine::onnx::attribute;
use crate::engine::onnx::graph::input;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::onnx::tensor;
use crate::engine::recognize::Context;
use crate::kernels::{Layout, OutputQuant, PoolKind, PoolParams, reference};
use serde::{Deserialize, Serialize};

/// Over the spatial axes of `[1, channels, spatial..]`, or of `[1, spatial.., channels]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// `None`: over everything.
    pub window: Option<Window>,
    pub max: bool,
    pub count_padding: bool,
    pub channels_last: bool,
    /// The pooled axes are dropped from the output's shape.
    pub drop_axes: bool,
}

/// A pool, or a `ReduceMean` over the spatial axes, between `DequantizeLinear` and `QuantizeLinear`.
pub fn recognize(context: &Context, real: &str, output: QuantizedType) -> Option<Recognized> {
    let node = context.index.producer(real)?;
    let (source, from) = context.source(input(node, 0)?)?;
    let pool = Pool::of(context, node)?;
    // A maximum does not change its scale: where the model changes it, a table would have to follow.
    if pool.max && !from.same_scale(&output) {
        return None;
    }
    Some(Recognized { kind: Kind::Pool(pool), inputs: vec![(source, from)], weights: None })
}

/// `MaxPool` of a quantized tensor, and the pools of com.microsoft.
pub fn native(context: &Context, node: &NodeProto) -> Option<(Recognized, QuantizedType)> {
    let name = input(node, 0)?;
    let (pool, from, output) = match node.op_type.as_str() {
        "MaxPool" => {
            let ty = context.quantized(name)?;
            (Pool::of(context, node)?, ty, ty)
        }
        "QLinearAveragePool" | "QLinearGlobalAveragePool" => {
            (Pool::of(context, node)?, context.parameters(node, 1)?, context.parameters(node, 3)?)
        }
        _ => return None,
    };
    Some((Recognized { kind: Kind::Pool(pool), inputs: vec![(name.to_string(), from)], weights: None }, output))
}

impl Pool {
    fn of(context: &Context, node: &NodeProto) -> Option<Pool> {
        let channels_last = attribute::int(node, "channels_last", 0) != 0;
        let max = node.op_type == "MaxPool";
        let whole = |drop_axes| Pool { window: None, max, count_padding: false, channels_last, drop_axes };
        match node.op_type.as_str() {
            "MaxPool" | "AveragePool" | "QLinearAveragePool" => {
                let kernel: Option<Vec<usize>> = attribute::ints(node, "kernel_shape").iter().map(|&k| usize::try_from(k).ok()).collect();
                let window = Window::of(node, &kernel?)?;
                let plain = window.dilation.iter().all(|&d| d == 1) && node.output.iter().filter(|o| !o.is_empty()).count() == 1;
                let count_padding = attribute::int(node, "count_include_pad", 0) != 0;
                plain.then_some(Pool { window: Some(window), count_padding, ..whole(false) })
            }
            "GlobalAveragePool" | "QLinearGlobalAveragePool" => Some(whole(false)),
            "ReduceMean" => {
                let axes = match context.index.constant_input(node, 1) {
                    Some(axes) => tensor::values(axes).iter().map(|&a| a as i64).collect(),
                    None => attribute::ints(node, "axes").to_vec(),
                };
                let (first, last) = (matches!(axes[..], [2, 3] | [-2, -1]), axes[..] == [1, 2]);
                (first || last).then(|| Pool { channels_last: last, ..whole(attribute::int(node, "keepdims", 1) == 0) })
            }
            _ => None,
        }
    }

    /// The window on the input, and height, width and channels of it.
    fn fit(&self, shape: &[usize]) -> Result<(Fitted, [usize; 3]), String> {
        if !(3..=4).contains(&shape.len()) {
            return Err(format!("an input of shape {shape:?}: expected 3 or 4 axes"));
        }
        let spatial = if self.channels_last { &shape[1..shape.len() - 1] } else { &shape[2..] };
        let channels = if self.channels_last { shape[shape.len() - 1] } else { shape[1] };
        let window = self.window.clone().unwrap_or_else(|| Window::whole(spatial));
        let fitted = window.fit(spatial)?;
        if (0..2).any(|axis| fitted.pad[axis] >= fitted.kernel[axis].max(1)) {
            return Err(format!("padding {:?} is not below the window {:?}", fitted.pad, fitted.kernel));
        }
        let height = if spatial.len() == 2 { spatial[0] } else { 1 };
        Ok((fitted, [height, spatial[spatial.len() - 1], channels]))
    }

    fn params(&self, op: &Operator, fitted: &Fitted, input: Layout, output: Layout) -> PoolParams {
        let average = PoolKind::Average {
            input_zero: op.inputs[0].zero,
            ratio: op.inputs[0].scale / op.output.scale,
            count_padding: self.count_padding,
            quant: OutputQuant::full(op.output.zero),
        };
        let kind = if self.max { PoolKind::Max } else { average };
        PoolParams { input, output, kernel: fitted.kernel, stride: fitted.stride, pad: fitted.pad, kind, output_zero: op.output.zero }
    }

    /// With `count_padding`, a window that rounding up let hang over the padded input would be divided wrongly.
    fn is_exact(&self, fitted: &Fitted) -> bool {
        !self.count_padding || fitted.output == fitted.whole
    }
}

impl Behaviour for Pool {
    fn name(&self) -> &'static str {
        if self.max { "MaxPool" } else { "AveragePool" }
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        let shape = &inputs[0];
        let (fitted, [_, _, channels]) = self.fit(shape)?;
        if !self.is_exact(&fitted) {
            return Err("count_include_pad with ceil_mode is not supported where the last window hangs over".to_string());
        }
        let spatial = if self.drop_axes { &[] } else { fitted.spatial(shape.len() - 2) };
        Ok(if self.channels_last { [&shape[..1], spatial, &[channels]].concat() } else { [&shape[..1], &[channels], spatial].concat() })
    }

    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String> {
        let shape = self.shape(op, &[inputs[0].shape.clone()])?;
        let (fitted, [height, width, channels]) = self.fit(&inputs[0].shape)?;
        let params =
            self.params(op, &fitted, Layout::new(height, width, channels), Layout::new(fitted.output[0], fitted.output[1], channels));
        let image = |image: &[i8]| reference::pool(&params, image);
        if self.channels_last {
            let values = inputs[0].values.chunks_exact(height * width * channels).flat_map(image).collect();
            return Ok(Array { shape, values });
        }
        // An axis of size 1 that is dropped moves nothing.
        Ok(Array { shape, ..inputs[0].by_images(fitted.spatial(inputs[0].shape.len() - 2), channels, image) })
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        let shape = inputs[0].shape.clone();
        if shape[0] != 1 {
            return Ok(None);
        }
        let roles = |rank: usize| if self.channels_last { Roles::last(rank) } else { Roles::first(rank) };
        let (fitted, _) = self.fit(&shape)?;
        let input = to.image(&inputs[0], &roles(shape.len()), None, op.inputs[0])?;
        let output_shape = self.shape(op, &[shape])?;
        let output = to.output(&output_shape, &roles(output_shape.len()), op.output);
        let params = self.params(op, &fitted, input.layout, output.layout);
        Ok(Some(to.push(Box::new(PoolDraft { params }), &[input], output)))
    }
}
