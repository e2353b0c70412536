//! Quantization parameters of ONNX operators: where they stand, and what makes them valid.

use super::graph::{Index, input, node_name, op_name};
use super::pb::NodeProto;
use super::tensor;
use crate::engine::error::LoadCause;
use crate::tensor::{Dtype, Quant};

/// A group of inputs of one operator: the tensor that is or becomes quantized, its scale and its zero point. `tensor` is `None`
/// for the operator's own output.
struct Group {
    tensor: Option<usize>,
    scale: usize,
    zero_point: usize,
}

const fn group(tensor: usize, scale: usize, zero_point: usize) -> Group {
    Group { tensor: Some(tensor), scale, zero_point }
}

const fn result(scale: usize, zero_point: usize) -> Group {
    Group { tensor: None, scale, zero_point }
}

const QUANTIZE: [Group; 1] = [result(1, 2)];
const DEQUANTIZE: [Group; 1] = [group(0, 1, 2)];
const GEMM: [Group; 3] = [group(0, 1, 2), group(3, 4, 5), result(7, 8)];
const UNARY: [Group; 2] = [group(0, 1, 2), result(3, 4)];
/// Scale and zero point of the result come first; the parts follow, as many as there are.
const QUANTIZED_CONCAT: [Group; 1] = [result(0, 1)];
const PRODUCT: [Group; 3] = [group(0, 1, 2), group(3, 4, 5), result(6, 7)];

/// The groups of `op`, from the ONNX operator specifications.
fn groups(op: &str) -> &'static [Group] {
    match op {
        "QuantizeLinear" => &QUANTIZE,
        "DequantizeLinear" => &DEQUANTIZE,
        "QLinearConv" | "QLinearMatMul" | "QLinearAdd" | "QLinearMul" => &PRODUCT,
        "QGemm" => &GEMM,
        "QLinearSigmoid" | "QLinearLeakyRelu" | "QLinearSoftmax" | "QLinearAveragePool" | "QLinearGlobalAveragePool" => &UNARY,
        "QLinearConcat" => &QUANTIZED_CONCAT,
        _ => &[],
    }
}

/// Checks scales and zero points of a quantizing operator; others pass.
pub fn check(index: &Index, node: &NodeProto) -> Result<(), LoadCause> {
    let wrong = |why: String| LoadCause::Node { node: node_name(node).to_string(), op: op_name(node), why };
    for group in groups(&node.op_type) {
        check_group(index, node, group).map_err(wrong)?;
    }
    if node.op_type != "QLinearConcat" {
        return Ok(());
    }
    let count = node.input.len();
    if count < 5 || count % 3 != 2 {
        return Err(wrong(format!("{count} inputs: expected scale and zero point, then three a part")));
    }
    (2..count).step_by(3).try_for_each(|slot| check_group(index, node, &group(slot, slot + 1, slot + 2))).map_err(wrong)
}

fn check_group(index: &Index, node: &NodeProto, group: &Group) -> Result<(), String> {
    let name = input(node, group.scale).ok_or_else(|| format!("input {} (a scale) is missing", group.scale))?;
    let scale = index.constant(name).ok_or_else(|| format!("scale `{name}` is not a constant"))?;
    let scales = tensor::values(scale);
    if let Some(bad) = scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        return Err(format!("scale `{name}` holds {bad}: scales must be positive and finite"));
    }
    if scales.is_empty() || scale.dims.len() > 1 {
        return Err(format!("scale `{name}` has shape {:?}: expected one value or one for each channel", scale.dims));
    }
    let Some(zero_name) = input(node, group.zero_point) else {
        return match node.op_type.as_str() {
            "QuantizeLinear" if !matches!(default_zero_dtype(node), Some(Dtype::Int8 | Dtype::Uint8)) => {
                Err("attribute output_dtype is neither int8 nor uint8".to_string())
            }
            "QuantizeLinear" | "DequantizeLinear" => check_axis(index, node, group, scales.len()),
            _ => Err(format!("input {} (a zero point) is missing", group.zero_point)),
        };
    };
    let zero = index.constant(zero_name).ok_or_else(|| format!("zero point `{zero_name}` is not a constant"))?;
    let zeros = tensor::values(zero);
    if zeros.len() != scales.len() {
        return Err(format!("scale `{name}` has {} values but zero point `{zero_name}` has {}", scales.len(), zeros.len()));
    }
    match tensor::dtype(zero.data_type) {
        Some(Dtype::Int8 | Dtype::Uint8) => {}
        Some(Dtype::Int32) if node.op_type == "DequantizeLinear" => {}
        _ => return Err(format!("zero point `{zero_name}` is {}: expected int8 or uint8", tensor::type_name(zero.data_type))),
    }
    check_axis(index, node, group, scales.len()).map_err(|why| format!("scale `{name}` {why}"))
}

/// A per-channel scale of a constant must have one value for each channel of it.
fn check_axis(index: &Index, node: &NodeProto, group: &Group, scales: usize) -> Result<(), String> {
    let Some(quantized) = group.tensor.and_then(|slot| index.constant_input(node, slot)) else { return Ok(()) };
    if scales == 1 {
        return Ok(());
    }
    let rank = quantized.dims.len() as i64;
    let axis = match node.op_type.as_str() {
        "DequantizeLinear" => super::attribute::int(node, "axis", 1),
        "QLinearConv" => 0,
        "QGemm" if super::attribute::int(node, "transB", 0) != 0 => 0,
        _ => rank - 1,
    };
    let axis = if axis < 0 { axis + rank } else { axis };
    let found = usize::try_from(axis).ok().and_then(|axis| quantized.dims.get(axis));
    match found {
        None => Err(format!("is per channel along axis {axis}, but the tensor has shape {:?}", quantized.dims)),
        Some(&channels) if channels != scales as i64 => Err(format!("has {scales} values for {channels} channels along axis {axis}")),
        Some(_) => Ok(()),
    }
}

/// Per-tensor parameters of input `tensor` of `node` (or of its output, for `None`) with the integer type; `None` when there
/// are none, or they are per channel.
fn read(index: &Index, node: &NodeProto, tensor: Option<usize>) -> Option<(Quant, Dtype)> {
    let group = groups(&node.op_type).iter().find(|g| g.tensor == tensor)?;
    let [scale] = tensor::values(index.constant_input(node, group.scale)?)[..] else { return None };
    let scale = scale as f32;
    if !(scale.is_finite() && scale > 0.0) {
        return None;
    }
    let Some(zero) = input(node, group.zero_point) else {
        return Some((Quant { scale, zero_point: 0 }, default_zero_dtype(node)?));
    };
    let zero = index.constant(zero)?;
    let [zero_point] = tensor::values(zero)[..] else { return None };
    Some((Quant { scale, zero_point: zero_point as i32 }, tensor::dtype(zero.data_type)?))
}

/// Without a zero point, `QuantizeLinear` gives its `output_dtype` (opset 21), else uint8.
fn default_zero_dtype(node: &NodeProto) -> Option<Dtype> {
    match super::attribute::int(node, "output_dtype", 0) {
        0 => Some(Dtype::Uint8),
        elem_type => tensor::dtype(i32::try_from(elem_type).ok()?),
    }
}

/// The per-tensor parameters with which `node` writes its int8 or uint8 output.
pub fn of_output(index: &Index, node: &NodeProto) -> Option<(Quant, Dtype)> {
    read(index, node, None).filter(|(_, dtype)| matches!(dtype, Dtype::Int8 | Dtype::Uint8))
}

/// The per-tensor parameters with which `node` reads its input `slot`. The integer type is the tensor's own.
pub fn of_input(index: &Index, node: &NodeProto, slot: usize) -> Option<Quant> {
    read(index, node, Some(slot)).map(|(quant, _)| quant)
}
