//! Tiny ONNX models, made through tract's protobuf types.

use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};

/// A dimension as a test writes it.
#[derive(Clone, Copy)]
pub enum Dim {
    Of(i64),
    Symbol(&'static str),
    Unknown,
}

pub fn fixed(dims: &[i64]) -> Vec<Dim> {
    dims.iter().map(|&d| Dim::Of(d)).collect()
}

pub fn port(name: &str, ty: DataType, dims: &[Dim]) -> ValueInfoProto {
    let dimension = |d: &Dim| Dimension {
        value: match d {
            Dim::Of(n) => Some(dimension::Value::DimValue(*n)),
            Dim::Symbol(s) => Some(dimension::Value::DimParam(s.to_string())),
            Dim::Unknown => None,
        },
        ..Dimension::default()
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dimension).collect() });
    let tensor = type_proto::Tensor { elem_type: ty as i32, shape };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_string(), r#type: Some(ty), ..ValueInfoProto::default() }
}

fn tensor(name: &str, ty: DataType, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
    TensorProto { name: name.to_string(), data_type: ty as i32, dims: dims.to_vec(), raw_data, ..TensorProto::default() }
}

pub fn f32s(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    tensor(name, DataType::Float, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

pub fn i8s(name: &str, dims: &[i64], values: &[i8]) -> TensorProto {
    tensor(name, DataType::Int8, dims, values.iter().map(|&v| v as u8).collect())
}

pub fn u8s(name: &str, dims: &[i64], values: &[u8]) -> TensorProto {
    tensor(name, DataType::Uint8, dims, values.to_vec())
}

pub fn i32s(name: &str, dims: &[i64], values: &[i32]) -> TensorProto {
    tensor(name, DataType::Int32, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

pub fn i64s(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    tensor(name, DataType::Int64, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: op.to_string(),
        name: format!("{op} to {}", outputs.first().unwrap_or(&"nothing")),
        input: inputs.iter().map(|s| s.to_string()).collect(),
        output: outputs.iter().map(|s| s.to_string()).collect(),
        ..NodeProto::default()
    }
}

/// Adds an attribute that is a list of integers.
pub fn with_ints(mut node: NodeProto, name: &str, ints: &[i64]) -> NodeProto {
    node.attribute.push(AttributeProto { name: name.to_string(), r#type: 7, ints: ints.to_vec(), ..AttributeProto::default() });
    node
}

/// Adds an attribute that is an integer.
pub fn with_int(mut node: NodeProto, name: &str, i: i64) -> NodeProto {
    node.attribute.push(AttributeProto { name: name.to_string(), r#type: 2, i, ..AttributeProto::default() });
    node
}

/// Adds an attribute that is a number.
pub fn with_float(mut node: NodeProto, name: &str, f: f32) -> NodeProto {
    node.attribute.push(AttributeProto { name: name.to_string(), r#type: 1, f, ..AttributeProto::default() });
    node
}

/// Adds an attribute that is a text.
pub fn with_text(mut node: NodeProto, name: &str, text: &str) -> NodeProto {
    node.attribute.push(AttributeProto { name: name.to_string(), r#type: 3, s: text.as_bytes().to_vec(), ..AttributeProto::default() });
    node
}

/// The operator of that name in the domain com.microsoft.
pub fn microsoft(mut node: NodeProto) -> NodeProto {
    node.domain = "com.microsoft".to_string();
    node
}

/// A model around a graph, operator set 13.
pub fn model(inputs: Vec<ValueInfoProto>, initializer: Vec<TensorProto>, node: Vec<NodeProto>, outputs: Vec<ValueInfoProto>) -> ModelProto {
    let graph = GraphProto { name: "test".to_string(), input: inputs, output: outputs, node, initializer, ..GraphProto::default() };
    ModelProto {
        ir_version: 8,
        producer_name: "jouled tests".to_string(),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 13 }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

pub fn bytes(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// A QDQ convolution, 3 channels to 2, 3x3, padded, per-channel weights, with a float32 input that is quantized to uint8 first,
/// and a float32 output that comes from a `DequantizeLinear`.
pub fn qdq_conv(batch: Dim) -> ModelProto {
    let weights: Vec<i8> = (0..54).map(|i| (i * 37 % 201 - 100) as i8).collect();
    let mut dims = vec![batch];
    dims.extend(fixed(&[3, 6, 5]));
    let mut out = vec![batch];
    out.extend(fixed(&[2, 6, 5]));
    model(
        vec![port("x", DataType::Float, &dims)],
        vec![
            f32s("x_s", &[], &[0.02]),
            u8s("x_z", &[], &[120]),
            i8s("w", &[2, 3, 3, 3], &weights),
            f32s("w_s", &[2], &[0.01, 0.03]),
            i8s("w_z", &[2], &[0, 0]),
            i32s("b", &[2], &[500, -700]),
            f32s("b_s", &[2], &[0.0002, 0.0006]),
            i32s("b_z", &[2], &[0, 0]),
            f32s("y_s", &[], &[0.1]),
            u8s("y_z", &[], &[100]),
        ],
        vec![
            node("QuantizeLinear", &["x", "x_s", "x_z"], &["x_q"]),
            node("DequantizeLinear", &["x_q", "x_s", "x_z"], &["x_f"]),
            with_int(node("DequantizeLinear", &["w", "w_s", "w_z"], &["w_f"]), "axis", 0),
            with_int(node("DequantizeLinear", &["b", "b_s", "b_z"], &["b_f"]), "axis", 0),
            with_ints(with_ints(node("Conv", &["x_f", "w_f", "b_f"], &["y_r"]), "pads", &[1, 1, 1, 1]), "kernel_shape", &[3, 3]),
            node("Relu", &["y_r"], &["y_f"]),
            node("QuantizeLinear", &["y_f", "y_s", "y_z"], &["y_q"]),
            node("DequantizeLinear", &["y_q", "y_s", "y_z"], &["y"]),
        ],
        vec![port("y", DataType::Float, &out)],
    )
}

/// An int8 classifier head: int8 input, transposed weights in `Gemm`, Softmax, int8 output.
pub fn int8_head() -> ModelProto {
    model(
        vec![port("x", DataType::Int8, &[Dim::Symbol("batch"), Dim::Of(2), Dim::Of(2)])],
        vec![
            i64s("flat", &[2], &[-1, 4]),
            f32s("x_s", &[], &[0.5]),
            i8s("x_z", &[], &[-3]),
            i8s("w", &[3, 4], &[1, 2, 3, 4, -1, -2, -3, -4, 5, 0, 0, -5]),
            f32s("w_s", &[], &[0.25]),
            i8s("w_z", &[], &[0]),
            f32s("y_s", &[], &[1.0 / 256.0]),
            i8s("y_z", &[], &[-128]),
        ],
        vec![
            node("Reshape", &["x", "flat"], &["x_flat"]),
            node("DequantizeLinear", &["x_flat", "x_s", "x_z"], &["x_f"]),
            node("DequantizeLinear", &["w", "w_s", "w_z"], &["w_f"]),
            with_int(node("Gemm", &["x_f", "w_f"], &["g"]), "transB", 1),
            with_int(node("Softmax", &["g"], &["p"]), "axis", 1),
            node("QuantizeLinear", &["p", "y_s", "y_z"], &["y"]),
        ],
        vec![port("y", DataType::Int8, &[Dim::Symbol("batch"), Dim::Of(3)])],
    )
}

/// One `QLinearConv` of uint8 with int8 weights, 1x1, two channels to two.
pub fn qlinear_conv() -> ModelProto {
    model(
        vec![port("x", DataType::Uint8, &fixed(&[1, 2, 1, 2]))],
        vec![
            f32s("x_s", &[], &[0.5]),
            u8s("x_z", &[], &[128]),
            i8s("w", &[2, 2, 1, 1], &[10, -20, 3, 4]),
            f32s("w_s", &[2], &[0.125, 0.5]),
            i8s("w_z", &[2], &[0, 0]),
            f32s("y_s", &[], &[4.0]),
            u8s("y_z", &[], &[100]),
            i32s("b", &[2], &[16, -8]),
        ],
        vec![node("QLinearConv", &["x", "x_s", "x_z", "w", "w_s", "w_z", "y_s", "y_z", "b"], &["y"])],
        vec![port("y", DataType::Uint8, &fixed(&[1, 2, 1, 2]))],
    )
}
