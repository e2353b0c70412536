//! The shipped models give the outputs that ONNX Runtime gave, within one quantization step.

use jouled::config::value::Size;
use jouled::engine::{Limits, Model, infer_once};
use jouled::tensor::Tensor;
use jouled::tensor_file::read_npy;
use prost::Message;
use std::fs::File;
use std::path::{Path, PathBuf};
use tract_onnx::pb::ModelProto;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

fn golden(name: &str, kind: &str) -> Tensor {
    let path = models().join(format!("{name}.golden.{kind}.npy"));
    read_npy(File::open(&path).unwrap(), Size::mib(1)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The scale with which the model's first output is dequantized: what one step is worth.
fn step(name: &str) -> f32 {
    let proto = ModelProto::decode(&std::fs::read(models().join(format!("{name}.onnx"))).unwrap()[..]).unwrap();
    let graph = proto.graph.unwrap();
    let last = graph.node.iter().find(|n| n.output[0] == graph.output[0].name).unwrap();
    assert_eq!(last.op_type, "DequantizeLinear");
    let scale = graph.initializer.iter().find(|t| t.name == last.input[1]).unwrap();
    match scale.raw_data[..] {
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        _ => scale.float_data[0],
    }
}

/// The rows of a tensor whose first axis counts examples.
fn rows(tensor: &Tensor) -> Vec<Tensor> {
    let shape = &tensor.shape()[1..];
    let bytes = shape.iter().product::<usize>() * tensor.dtype().size();
    tensor.bytes().chunks(bytes).map(|row| Tensor::from_bytes(tensor.dtype(), shape.to_vec(), row.to_vec()).unwrap()).collect()
}

fn check(name: &str) {
    let model = Model::load(&models().join(format!("{name}.onnx")), &Limits::default()).unwrap();
    assert!(model.inputs()[0].native.quant.is_some(), "the engine takes the quantized input");
    let (inputs, expected) = (rows(&golden(name, "input")), rows(&golden(name, "output")));
    assert_eq!(inputs.len(), expected.len());
    assert!(!inputs.is_empty());
    let tolerance = step(name) * 1.001;
    for (example, (input, expected)) in inputs.into_iter().zip(&expected).enumerate() {
        let found = infer_once(&model, &[input]).unwrap()[0].to_f32();
        for (class, (found, expected)) in found.iter().zip(expected.to_f32()).enumerate() {
            assert!((found - expected).abs() <= tolerance, "{name} {example}, class {class}: {found} for {expected}");
        }
    }
}

#[test]
fn vibration() {
    check("vibration");
}

#[test]
fn digits() {
    check("digits");
}
