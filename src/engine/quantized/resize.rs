//! Resizing of pictures: nearest neighbour and linear, scale and zero point unchanged.

use super::{Array, Behaviour, Kind, Operator, QuantizedType, Recognized};
use crate::engine::lower::draft::Simple;
use crate::engine::lower::{Lowering, Operand, Roles, Value};
use crate::engine::onnx::graph::input;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::onnx::{attribute, tensor};
use crate::engine::recognize::Context;
use crate::kernels::{self, Between, Layout, reference};
use serde::{Deserialize, Serialize};

/// Where an output pixel lies in the input (ONNX `coordinate_transformation_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Coordinates {
    HalfPixel,
    PytorchHalfPixel,
    Asymmetric,
    AlignCorners,
}

/// How a position becomes a pixel (ONNX `nearest_mode`), or that its neighbours are blended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
    Linear,
}

/// A resize of the two last axes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    pub coordinates: Coordinates,
    pub mode: Mode,
    /// One a axis; empty where `sizes` are given.
    pub scales: Vec<f32>,
    pub sizes: Vec<usize>,
}

/// A `Resize` between `DequantizeLinear` and `QuantizeLinear` with the same parameters.
pub fn recognize(context: &Context, real: &str, output: QuantizedType) -> Option<Recognized> {
    let node = context.index.producer(real)?;
    let (source, from) = context.source(input(node, 0)?)?;
    let kind = Kind::Resize(Resize::of(context, node).filter(|_| from.same_scale(&output))?);
    Some(Recognized { kind, inputs: vec![(source, from)], weights: None })
}

/// A `Resize` of a quantized tensor.
pub fn native(context: &Context, node: &NodeProto) -> Option<(Recognized, QuantizedType)> {
    let name = input(node, 0)?;
    let ty = context.quantized(name)?;
    let kind = Kind::Resize(Resize::of(context, node)?);
    Some((Recognized { kind, inputs: vec![(name.to_string(), ty)], weights: None }, ty))
}

impl Resize {
    fn of(context: &Context, node: &NodeProto) -> Option<Resize> {
        if !matches!(node.op_type.as_str(), "Resize" | "Upsample") {
            return None;
        }
        let text = |name: &str, default: &'static str| {
            attribute::find(node, name).map_or(Some(default.to_string()), |a| String::from_utf8(a.s.to_vec()).ok())
        };
        let plain = attribute::int(node, "antialias", 0) == 0
            && attribute::ints(node, "axes").is_empty()
            && text("keep_aspect_ratio_policy", "stretch")? == "stretch";
        let upsample = node.op_type == "Upsample";
        let coordinates = match text("coordinate_transformation_mode", if upsample { "asymmetric" } else { "half_pixel" })?.as_str() {
            "half_pixel" => Coordinates::HalfPixel,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "asymmetric" => Coordinates::Asymmetric,
            "align_corners" => Coordinates::AlignCorners,
            _ => return None,
        };
        let nearest = text("nearest_mode", if upsample { "floor" } else { "round_prefer_floor" })?;
        let mode = match (text("mode", "nearest")?.as_str(), nearest.as_str()) {
            ("linear", _) => Mode::Linear,
            ("nearest", "round_prefer_floor") => Mode::RoundPreferFloor,
            ("nearest", "round_prefer_ceil") => Mode::RoundPreferCeil,
            ("nearest", "floor") => Mode::Floor,
            ("nearest", "ceil") => Mode::Ceil,
            _ => return None,
        };
        let list = |slot: usize| input(node, slot).map(|name| context.index.constant(name).map(tensor::values));
        let scales = list(if upsample || context.opset < 11 { 1 } else { 2 }).unwrap_or(Some(vec![]))?;
        let sizes = if upsample { vec![] } else { list(3).unwrap_or(Some(vec![]))? };
        let given = scales.is_empty() != sizes.is_empty();
        let sane = scales.iter().chain(&sizes).all(|v| v.is_finite() && *v > 0.0);
        let outer = scales.iter().take(scales.len().saturating_sub(2)).all(|&s| s == 1.0);
        (plain && given && sane && outer).then(|| Resize {
            coordinates,
            mode,
            scales: scales.iter().map(|&s| s as f32).collect(),
            sizes: sizes.iter().map(|&s| s as usize).collect(),
        })
    }

    /// Position of every output line of an axis in the input, in f32 and in the order of ONNX Runtime: a nearest line can depend
    /// on the last bit.
    fn positions(&self, axis: usize, from: usize, to: usize) -> Vec<f32> {
        let scale = self.scales.get(axis).copied().unwrap_or(to as f32 / from as f32);
        let position = |x: usize| {
            let x = x as f32;
            match self.coordinates {
                Coordinates::Asymmetric => x / scale,
                Coordinates::AlignCorners if to > 1 => x * (from - 1) as f32 / (to - 1) as f32,
                Coordinates::AlignCorners => 0.0,
                Coordinates::PytorchHalfPixel if to == 1 => 0.0,
                _ => (x + 0.5) / scale - 0.5,
            }
        };
        (0..to).map(position).collect()
    }

    fn nearest(&self, axis: usize, from: usize, to: usize) -> Vec<usize> {
        // Half way between two lines, but for an error of the division.
        let half = |x: f32| (x - x.floor() - 0.5).abs() < 1e-5;
        let round = |x: f32| match self.mode {
            Mode::RoundPreferFloor if half(x) => x.floor(),
            Mode::RoundPreferCeil if half(x) => x.floor() + 1.0,
            Mode::RoundPreferFloor | Mode::RoundPreferCeil => x.round(),
            Mode::Ceil => x.ceil(),
            _ => x.floor(),
        };
        self.positions(axis, from, to).iter().map(|&x| (round(x).max(0.0) as usize).min(from - 1)).collect()
    }

    fn between(&self, axis: usize, from: usize, to: usize) -> Vec<Between> {
        self.positions(axis, from, to).iter().map(|&x| Between::at(f64::from(x), from)).collect()
    }
}

impl Behaviour for Resize {
    fn name(&self) -> &'static str {
        "Resize"
    }

    fn shape(&self, _: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        let from = &inputs[0];
        let shape: Vec<usize> = match self.scales.len() {
            0 => self.sizes.clone(),
            _ => from.iter().zip(&self.scales).map(|(&size, &scale)| (size as f64 * f64::from(scale)).floor() as usize).collect(),
        };
        let rank = from.len();
        let fits = shape.len() == rank && (3..=4).contains(&rank) && shape[..2] == from[..2] && !shape.contains(&0);
        if fits { Ok(shape) } else { Err(format!("cannot resize {from:?} to {shape:?}: only the spatial axes may change")) }
    }

    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String> {
        let shape = self.shape(op, &[inputs[0].shape.clone()])?;
        let rank = shape.len();
        let [height, width, channels] = Roles::first(rank).sizes(&inputs[0].shape);
        let [rows, columns, _] = Roles::first(rank).sizes(&shape);
        let batch = if rank == 3 { 1 } else { shape[0] };
        let height = height / batch;
        let rows = rows / batch;
        let (height_axis, width_axis) = (rank - 2, rank - 1);
        let image = |image: &[i8]| match self.mode {
            Mode::Linear => {
                let lines = (self.between(height_axis, height, rows), self.between(width_axis, width, columns));
                reference::resize_linear([width, channels], &lines.0, &lines.1, op.inputs[0].zero, image)
            }
            _ => {
                let (lines, across) = (self.nearest(height_axis, height, rows), self.nearest(width_axis, width, columns));
                let pixels = lines.iter().flat_map(|y| across.iter().map(move |x| (y * width + x) * channels));
                pixels.flat_map(|at| image[at..at + channels].iter().copied()).collect()
            }
        };
        Ok(inputs[0].by_images(&shape[2..], channels, image))
    }

    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        let from = &inputs[0].shape;
        let (shape, rank) = (self.shape(op, std::slice::from_ref(from))?, from.len());
        if from[0] != 1 {
            return Ok(None);
        }
        let roles = Roles::first(rank);
        let input = to.image(&inputs[0], &roles, None, op.inputs[0])?;
        let output = to.output(&shape, &roles, op.output);
        let ([height, width, _], [rows, columns, _], zero) = (roles.sizes(from), roles.sizes(&shape), op.output.zero);
        if self.mode == Mode::Linear {
            let (lines, across) = (self.between(rank - 2, height, rows), self.between(rank - 1, width, columns));
            let draft =
                Simple(move |isa, l: &[Layout]| kernels::ResizeLinear::prepare(isa, l[0], l[1], lines.clone(), across.clone(), zero));
            return Ok(Some(to.push(Box::new(draft), &[input], output)));
        }
        let (lines, across) = (self.nearest(rank - 2, height, rows), self.nearest(rank - 1, width, columns));
        let draft = Simple(move |_, l: &[Layout]| kernels::Gather::nearest(l[0], l[1], &lines, &across, zero));
        Ok(Some(to.push(Box::new(draft), &[input], output)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest(coordinates: Coordinates, mode: Mode, from: usize, to: usize) -> Vec<usize> {
        Resize { coordinates, mode, scales: vec![], sizes: vec![to] }.nearest(0, from, to)
    }

    /// What ONNX Runtime 1.32 gives where the exact position is a line or half way between two.
    #[test]
    fn nearest_lines_are_those_of_onnx_runtime() {
        use Coordinates::{Asymmetric, HalfPixel};
        assert_eq!(nearest(HalfPixel, Mode::RoundPreferCeil, 14, 1), [7]);
        assert_eq!(nearest(HalfPixel, Mode::Floor, 7, 1), [2]);
        assert_eq!(nearest(HalfPixel, Mode::Floor, 10, 6), [0, 2, 3, 5, 6, 8]);
        assert_eq!(nearest(HalfPixel, Mode::Ceil, 11, 13), [0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 10]);
        assert_eq!(nearest(HalfPixel, Mode::RoundPreferFloor, 14, 17), [0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 11, 12, 13]);
        assert_eq!(nearest(Asymmetric, Mode::RoundPreferCeil, 7, 8), [0, 1, 2, 3, 4, 4, 5, 6]);
        assert_eq!(nearest(Asymmetric, Mode::Floor, 14, 16), [0, 0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 13]);
        assert_eq!(nearest(Asymmetric, Mode::RoundPreferCeil, 13, 2), [0, 7]);
    }
}
