//! Models that load: their borders, and that they compute what ONNX says.

use crate::build::{self, Dim};
use jouled::engine::{Limits, Model};
use jouled::tensor::{Dtype, Quant};

fn load(model: &tract_onnx::pb::ModelProto) -> Model {
    Model::from_bytes(&build::bytes(model), "test", &Limits::default()).unwrap()
}

#[test]
fn a_quantized_float_input_becomes_the_engine_s_integer_input() {
    let model = load(&build::qdq_conv(Dim::Symbol("N")));
    let [port] = model.inputs() else { panic!("one input") };
    assert_eq!((port.declared.dtype, port.declared.quant), (Dtype::Float32, None));
    assert_eq!((port.native.dtype, port.native.quant), (Dtype::Uint8, Some(Quant { scale: 0.02, zero_point: 120 })));
    assert_eq!((port.native.name.as_str(), &port.native.shape[..]), ("x", &[1, 3, 6, 5][..]));
    assert_eq!(model.outputs()[0].native.shape, [1, 2, 6, 5]);
}

#[test]
fn a_qdq_convolution_computes_what_onnx_says() {
    let proto = build::qdq_conv(Dim::Of(1));
    let mut session = load(&proto).session(1).unwrap();
    let x: Vec<u8> = (0..90).map(|i| (i * 53 % 256) as u8).collect();
    session.input_mut(0).copy_from_slice(&x);
    session.run().unwrap();
    let found: Vec<f32> = session.output(0).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(found.len(), 60);
    for (at, (found, expected)) in found.iter().zip(reference(&x)).enumerate() {
        assert!((found - expected).abs() <= 0.1001, "element {at}: {found} for {expected}");
    }
}

/// The model of `build::qdq_conv` in plain loops, in integers up to the requantization.
fn reference(x: &[u8]) -> Vec<f32> {
    let weight = |o: usize, c: usize, i: usize, j: usize| (((o * 3 + c) * 3 + i) * 3 + j) as i32 * 37 % 201 - 100;
    let at = |c: usize, i: i32, j: i32| match (0..6).contains(&i) && (0..5).contains(&j) {
        true => i32::from(x[(c * 6 + i as usize) * 5 + j as usize]) - 120,
        false => 0,
    };
    let mut y = Vec::new();
    for (o, bias, scale) in [(0, 500, 0.0002f32), (1, -700, 0.0006)] {
        for i in 0..6 {
            for j in 0..5 {
                let taps = (0..27).map(|t| (t / 9, t / 3 % 3, t % 3));
                let sum: i32 = taps.map(|(c, di, dj)| weight(o, c, di, dj) * at(c, i + di as i32 - 1, j + dj as i32 - 1)).sum();
                let quant = Quant { scale: 0.1, zero_point: 100 };
                y.push(quant.dequantize(quant.quantize(((sum + bias) as f32 * scale).max(0.0), Dtype::Uint8)));
            }
        }
    }
    y
}
