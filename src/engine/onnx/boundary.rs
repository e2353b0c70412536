//! The model's borders: what its author declared, and what the engine takes in its place.
//!
//! Two rewrites of the graph happen here. A symbolic or unknown batch dimension becomes 1. A float input that is quantized
//! before anything else happens to it loses that `QuantizeLinear`: the engine then takes the quantized tensor.

use super::graph::{Index, input, is_layout};
use super::pb::tensor_shape_proto::Dimension;
use super::pb::tensor_shape_proto::dimension::Value as Dim;
use super::pb::type_proto::Value as Type;
use super::pb::{GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, type_proto};
use super::{quantization, tensor};
use crate::engine::error::LoadCause;
use crate::engine::port::Port;
use crate::tensor::{Dtype, Quant, TensorSpec};

/// An output before the engine has told its shape.
#[derive(Clone, Debug)]
pub struct Output {
    pub name: String,
    pub dtype: Dtype,
    pub quant: Option<Quant>,
}

/// Rewrites the model as the module says and describes its borders. The model must have passed `check`.
pub fn settle(model: &mut ModelProto) -> Result<(Vec<Port>, Vec<Output>), LoadCause> {
    let graph = model.graph.as_mut().ok_or_else(|| LoadCause::NotOnnx("there is no graph in it".to_string()))?;
    drop_shape_hints(graph, true);
    let mut ports = Vec::new();
    let real: Vec<usize> = {
        let index = Index::new(graph);
        (0..graph.input.len()).filter(|&i| !index.is_initializer(&graph.input[i].name)).collect()
    };
    for &i in &real {
        ports.push(settle_input(graph, i)?);
    }
    if ports.is_empty() {
        return Err(LoadCause::Graph("the graph has no inputs".to_string()));
    }
    let index = Index::new(graph);
    let outputs = graph.output.iter().map(|o| describe_output(&index, o)).collect::<Result<_, _>>()?;
    Ok((ports, outputs))
}

/// Shapes of inner values are inferred, never believed; nor are symbols in bodies, which an engine would parse.
fn drop_shape_hints(graph: &mut GraphProto, top: bool) {
    graph.value_info.clear();
    if !top {
        for port in graph.input.iter_mut().chain(&mut graph.output) {
            if let Some(t) = tensor_type_mut(port) {
                t.shape = None;
            }
        }
    }
    for attribute in graph.node.iter_mut().flat_map(|n| n.attribute.iter_mut()) {
        attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|body| drop_shape_hints(body, false));
    }
}

fn tensor_type_mut(port: &mut ValueInfoProto) -> Option<&mut type_proto::Tensor> {
    let Some(TypeProto { value: Some(Type::TensorType(tensor)), .. }) = port.r#type.as_mut() else { return None };
    Some(tensor)
}

fn settle_input(graph: &mut GraphProto, at: usize) -> Result<Port, LoadCause> {
    let name = graph.input[at].name.clone();
    let wrong = |why: String| LoadCause::Graph(format!("input `{name}`: {why}"));
    let port = &mut graph.input[at];
    let ty = tensor_type_mut(port).ok_or_else(|| wrong("has no type, or is not a tensor".to_string()))?;
    let dtype = border_dtype(ty.elem_type).map_err(wrong)?;
    let shape = ty.shape.as_mut().ok_or_else(|| wrong("has no shape".to_string()))?;
    let shape = settle_shape(&mut shape.dim).map_err(wrong)?;
    let declared = TensorSpec { name: name.clone(), dtype, shape, quant: None };
    if let Some((quant, native)) = strip_quantizer(graph, at, dtype) {
        let native = TensorSpec { dtype: native, quant: Some(quant), ..declared.clone() };
        return Ok(Port { declared, native });
    }
    let quant = if dtype.size() == 1 { input_quant(&Index::new(graph), &name, 0) } else { None };
    let declared = TensorSpec { quant, ..declared };
    Ok(Port { native: declared.clone(), declared })
}

fn border_dtype(elem_type: i32) -> Result<Dtype, String> {
    tensor::dtype(elem_type)
        .ok_or_else(|| format!("is {}: expected int8, uint8, int32, int64, float16 or float32", tensor::type_name(elem_type)))
}

/// Fixes the batch dimension, the first, to 1 where it is open; any other open dimension is an error.
fn settle_shape(dims: &mut [Dimension]) -> Result<Vec<usize>, String> {
    let mut sizes = Vec::new();
    for (axis, dim) in dims.iter_mut().enumerate() {
        let size = match &dim.value {
            Some(Dim::DimValue(n)) if *n > 0 => *n,
            Some(Dim::DimValue(-1 | 0)) | Some(Dim::DimParam(_)) | None if axis == 0 => 1,
            Some(Dim::DimParam(symbol)) => {
                return Err(format!("dimension {axis} is symbolic (`{symbol}`): only the batch dimension, the first, may be"));
            }
            None => return Err(format!("dimension {axis} is unknown: only the batch dimension, the first, may be")),
            Some(Dim::DimValue(n)) => return Err(format!("dimension {axis} is {n}")),
        };
        dim.value = Some(Dim::DimValue(size));
        sizes.push(size);
    }
    tensor::shape(&sizes)
}

/// Where a float input is read by one per-tensor `QuantizeLinear` alone, makes that node's output the graph's input instead.
fn strip_quantizer(graph: &mut GraphProto, at: usize, dtype: Dtype) -> Option<(Quant, Dtype)> {
    if !dtype.is_float() {
        return None;
    }
    let name = graph.input[at].name.clone();
    let (output, quant, native) = {
        let index = Index::new(graph);
        let [(node, 0)] = index.consumers(&name) else { return None };
        if node.op_type != "QuantizeLinear" || index.is_output(&name) || read_by_bodies(graph, &name) {
            return None;
        }
        let (quant, native) = quantization::of_output(&index, node)?;
        (node.output.first().filter(|output| !index.is_output(output))?.clone(), quant, native)
    };
    graph.node.retain(|n| n.output.first() != Some(&output));
    let port = &mut graph.input[at];
    tensor_type_mut(port)?.elem_type = tensor::elem_type(native);
    port.name = output;
    Some((quant, native))
}

/// Bodies of `If` and `Scan` may read a value of the graph around them without listing it.
fn read_by_bodies(graph: &GraphProto, value: &str) -> bool {
    let reads = |node: &NodeProto| node.input.iter().any(|i| i == value);
    let body_reads = |body: &GraphProto| body.node.iter().any(reads) || body.output.iter().any(|o| o.name == value);
    graph.node.iter().flat_map(super::attribute::graphs).any(|body| body_reads(body) || read_by_bodies(body, value))
}

/// Layout operators followed from the border: real models have at most a few.
const MAX_HOPS: usize = 8;

/// The parameters with which every reader of `value` reads it, through layout operators; `None` when they differ or are none.
fn input_quant(index: &Index, value: &str, hops: usize) -> Option<Quant> {
    let readers = index.consumers(value);
    let mut found = readers.iter().map(|&(node, slot)| match is_layout(&node.op_type) && slot == 0 && hops < MAX_HOPS {
        true => input_quant(index, node.output.first()?, hops + 1),
        false => quantization::of_input(index, node, slot),
    });
    let first = found.next()??;
    found.all(|q| q == Some(first)).then_some(first)
}

/// The parameters with which `value` was written, through layout operators.
fn output_quant(index: &Index, value: &str) -> Option<Quant> {
    let mut node = index.producer(value)?;
    for _ in 0..MAX_HOPS {
        if !is_layout(&node.op_type) {
            return quantization::of_output(index, node).map(|(quant, _)| quant);
        }
        let source = input(node, 0)?;
        match index.producer(source) {
            Some(producer) => node = producer,
            None => return input_quant(index, source, 0),
        }
    }
    None
}

fn describe_output(index: &Index, port: &ValueInfoProto) -> Result<Output, LoadCause> {
    let wrong = |why: String| LoadCause::Graph(format!("output `{}`: {why}", port.name));
    let Some(TypeProto { value: Some(Type::TensorType(ty)), .. }) = port.r#type.as_ref() else {
        return Err(wrong("is not a tensor".to_string()));
    };
    let dtype = border_dtype(ty.elem_type).map_err(wrong)?;
    let quant = if dtype.size() == 1 { output_quant(index, &port.name) } else { None };
    Ok(Output { name: port.name.clone(), dtype, quant })
}
