//! Models that load: their borders, and that they compute what ONNX says.

use crate::build::{self, Dim, f32s, fixed, i8s, node, port, u8s, with_int};
use half::f16;
use jouled::engine::{Effort, Limits, Model, bench, infer_once};
use jouled::rejection::Code;
use jouled::tensor::{Dtype, Quant, Tensor};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, TensorProto};

fn load(model: &ModelProto) -> Model {
    Model::from_bytes(&build::bytes(model), "test", &Limits::default()).unwrap()
}

fn int8(shape: &[usize], values: &[i8]) -> Tensor {
    Tensor::from_bytes(Dtype::Int8, shape.to_vec(), values.iter().map(|&v| v as u8).collect()).unwrap()
}

fn uint8(shape: &[usize], values: &[u8]) -> Tensor {
    Tensor::from_bytes(Dtype::Uint8, shape.to_vec(), values.to_vec()).unwrap()
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
fn an_unknown_batch_is_one() {
    for batch in [Dim::Symbol("N"), Dim::Unknown, Dim::Of(0), Dim::Of(-1), Dim::Of(1)] {
        assert_eq!(load(&build::qdq_conv(batch)).inputs()[0].declared.shape, [1, 3, 6, 5]);
    }
}

#[test]
fn a_float_input_with_another_reader_stays_float() {
    let mut proto = build::qdq_conv(Dim::Of(1));
    let graph = proto.graph.as_mut().unwrap();
    graph.node.push(node("Relu", &["x"], &["positive"]));
    graph.output.push(port("positive", DataType::Float, &fixed(&[1, 3, 6, 5])));
    let model = load(&proto);
    assert_eq!((model.inputs()[0].native.dtype, model.inputs()[0].native.quant), (Dtype::Float32, None));
    assert_eq!(model.outputs().len(), 2);
}

#[test]
fn a_qdq_convolution_computes_what_onnx_says() {
    let proto = build::qdq_conv(Dim::Of(1));
    let mut session = load(&proto).session(1).unwrap();
    assert!(session.output(0).iter().all(|&b| b == 0));
    let mut run = |step: usize| {
        let x: Vec<u8> = (0..90).map(|i| (i * step % 256) as u8).collect();
        session.input_mut(0).copy_from_slice(&x);
        session.run().unwrap();
        let found: Vec<f32> = session.output(0).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(found.len(), 60);
        for (at, (found, expected)) in found.iter().zip(reference(&x)).enumerate() {
            assert!((found - expected).abs() <= 0.1001, "element {at}: {found} for {expected}");
        }
    };
    run(53);
    run(7);
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

#[test]
fn an_int8_model_tells_what_its_integers_mean_and_softmax_sees_them_all() {
    let model = load(&build::int8_head());
    let quant = Quant { scale: 0.5, zero_point: -3 };
    assert_eq!((model.inputs()[0].declared.quant, model.inputs()[0].native.quant), (Some(quant), Some(quant)));
    assert_eq!(model.outputs()[0].declared.quant, Some(Quant { scale: 1.0 / 256.0, zero_point: -128 }));
    let x = [-1i8, 0, -3, 1];
    let y = infer_once(&model, &[int8(&[1, 2, 2], &x)]).unwrap();
    let real = x.map(|q| quant.dequantize(q.into()));
    let rows = [[1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, -4.0], [5.0, 0.0, 0.0, -5.0]];
    let exp = rows.map(|w: [f32; 4]| w.iter().zip(real).map(|(w, x)| w * 0.25 * x).sum::<f32>().exp());
    for (found, e) in y[0].to_f32().iter().zip(exp) {
        let expected = e / exp.iter().sum::<f32>() * 256.0 - 128.0;
        assert!((found - expected.min(127.0)).abs() <= 0.51, "{found} for {expected}");
    }
}

#[test]
fn int8_becomes_uint8_between_dequantize_and_quantize() {
    let model = load(&build::model(
        vec![port("x", DataType::Int8, &fixed(&[1, 4]))],
        vec![f32s("s", &[], &[0.5]), i8s("z", &[], &[-10]), u8s("u", &[], &[7])],
        vec![
            node("DequantizeLinear", &["x", "s", "z"], &["f"]),
            node("Relu", &["f"], &["r"]),
            node("QuantizeLinear", &["r", "s", "u"], &["y"]),
        ],
        vec![port("y", DataType::Uint8, &fixed(&[1, 4]))],
    ));
    let y = infer_once(&model, &[int8(&[1, 4], &[-128, -10, 0, 127])]).unwrap();
    assert_eq!(y[0].bytes(), [7, 7, 17, 144]);
}

#[test]
fn a_qlinear_convolution_runs_in_int8() {
    let model = load(&build::qlinear_conv());
    assert_eq!(model.inputs()[0].native.quant, Some(Quant { scale: 0.5, zero_point: 128 }));
    assert_eq!(model.outputs()[0].native.quant, Some(Quant { scale: 4.0, zero_point: 100 }));
    let y = infer_once(&model, &[uint8(&[1, 2, 1, 2], &[255, 128, 0, 130])]).unwrap();
    // Sums: (10*127 + 20*128 + 16) / 64 and (-20*2 + 16) / 64; (3*127 - 4*128 - 8) / 16 and (4*2 - 8) / 16.
    assert_eq!(y[0].bytes(), [160, 100, 91, 100]);
    let report = model.report();
    assert_eq!((report.totals.macs, report.totals.int8_share, report.totals.parameters), (8, 1.0, 6));
}

#[test]
fn half_precision_in_and_out() {
    let model = load(&build::model(
        vec![port("x", DataType::Float16, &fixed(&[1, 2]))],
        vec![],
        vec![node("Relu", &["x"], &["y"])],
        vec![port("y", DataType::Float16, &fixed(&[1, 2]))],
    ));
    assert_eq!(model.inputs()[0].native.dtype, Dtype::Float16);
    let y = infer_once(&model, &[Tensor::from_f32(vec![1, 2], &[-1.5, 0.1]).unwrap()]).unwrap();
    assert_eq!((y[0].dtype(), y[0].to_f32()), (Dtype::Float16, vec![0.0, f16::from_f32(0.1).to_f32()]));
}

#[test]
fn half_precision_is_quantized_with_a_half_precision_scale() {
    let scale = TensorProto {
        name: "s".to_string(),
        data_type: DataType::Float16 as i32,
        raw_data: f16::from_f32(0.25).to_le_bytes().to_vec(),
        ..TensorProto::default()
    };
    let mut proto = build::model(
        vec![port("x", DataType::Float16, &fixed(&[1, 3]))],
        vec![scale, i8s("z", &[], &[4])],
        vec![node("QuantizeLinear", &["x", "s", "z"], &["q"]), node("DequantizeLinear", &["q", "s", "z"], &["y"])],
        vec![port("y", DataType::Float16, &fixed(&[1, 3]))],
    );
    proto.opset_import[0].version = 19;
    let model = load(&proto);
    assert_eq!((model.inputs()[0].native.dtype, model.inputs()[0].declared.dtype), (Dtype::Int8, Dtype::Float16));
    let y = infer_once(&model, &[Tensor::from_f32(vec![1, 3], &[0.3, -9.0, 100.0]).unwrap()]).unwrap();
    assert_eq!((y[0].dtype(), y[0].to_f32()), (Dtype::Float16, vec![0.25, -9.0, 30.75]));
}

#[test]
fn output_dtype_stands_for_a_zero_point() {
    let mut proto = build::model(
        vec![port("x", DataType::Float, &fixed(&[1, 2]))],
        vec![f32s("s", &[], &[1.0])],
        vec![node("Relu", &["x"], &["r"]), with_int(node("QuantizeLinear", &["r", "s"], &["y"]), "output_dtype", DataType::Int8 as i64)],
        vec![port("y", DataType::Int8, &fixed(&[1, 2]))],
    );
    proto.opset_import[0].version = 21;
    let model = load(&proto);
    assert_eq!(infer_once(&model, &[Tensor::from_f32(vec![2], &[-5.0, 200.0]).unwrap()]).unwrap()[0].to_f32(), [0.0, 127.0]);
    assert!(model.report().warnings[0].contains("21"), "{:?}", model.report().warnings);
}

#[test]
fn an_initializer_among_the_inputs_is_no_input_and_nodes_may_be_out_of_order() {
    let mut proto = build::int8_head();
    let graph = proto.graph.as_mut().unwrap();
    graph.input.push(port("w", DataType::Int8, &fixed(&[3, 4])));
    graph.node.reverse();
    let model = load(&proto);
    assert_eq!(model.inputs().len(), 1);
    let x = [int8(&[1, 2, 2], &[1, 2, 3, 4])];
    assert_eq!(infer_once(&model, &x).unwrap(), infer_once(&load(&build::int8_head()), &x).unwrap());
}

#[test]
fn an_input_passed_through_does_not_change_with_the_next_one() {
    let proto = build::model(
        vec![port("x", DataType::Int64, &fixed(&[1, 2]))],
        vec![],
        vec![node("Identity", &["x"], &["y"])],
        vec![port("y", DataType::Int64, &fixed(&[1, 2]))],
    );
    let mut session = load(&proto).session(1).unwrap();
    session.input_mut(0)[0] = 5;
    session.run().unwrap();
    session.input_mut(0)[0] = 6;
    assert_eq!(session.output(0)[0], 5);
    session.run().unwrap();
    assert_eq!(session.output(0)[0], 6);
}

#[test]
fn sessions_of_one_model_run_side_by_side() {
    let model = load(&build::qdq_conv(Dim::Of(1)));
    let run = |byte: u8| {
        let mut session = model.session(4).unwrap();
        session.input_mut(0).fill(byte);
        session.run().unwrap();
        session.output(0).to_vec()
    };
    let expected = [run(0), run(255)];
    assert_ne!(expected[0], expected[1]);
    std::thread::scope(|scope| {
        let threads: Vec<_> = [0, 255].map(|byte| scope.spawn(move || (0..20).map(|_| run(byte)).collect::<Vec<_>>())).into();
        for (thread, expected) in threads.into_iter().zip(&expected) {
            assert!(thread.join().unwrap().iter().all(|found| found == expected));
        }
    });
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let model = load(&build::qdq_conv(Dim::Of(1)));
    let code = |tensor: Tensor| {
        let rejection = infer_once(&model, &[tensor]).unwrap_err();
        assert!(rejection.message.contains("`x`"), "{rejection}");
        rejection.code
    };
    assert_eq!(code(Tensor::from_f32(vec![1, 3, 5, 6], &[0.0; 90]).unwrap()), Code::WrongShape);
    assert_eq!(code(int8(&[1, 3, 6, 5], &[0; 90])), Code::WrongDtype);
    let mut values = [0.0; 90];
    values[7] = f32::NAN;
    assert_eq!(code(Tensor::from_f32(vec![3, 6, 5], &values).unwrap()), Code::NotFinite);
    assert_eq!(infer_once(&model, &[]).unwrap_err().code, Code::WrongShape);
    let integers = load(&build::int8_head());
    for (value, fits) in [(-128.0, true), (127.0, true), (128.0, false), (0.5, false)] {
        let found = infer_once(&integers, &[Tensor::from_f32(vec![2, 2], &[value; 4]).unwrap()]);
        assert_eq!(found.map(|_| ()).map_err(|r| r.code), if fits { Ok(()) } else { Err(Code::WrongDtype) });
    }
}

#[test]
fn the_declared_and_the_native_form_of_an_input_agree() {
    let model = load(&build::qdq_conv(Dim::Of(1)));
    let native: Vec<u8> = (0..90).map(|i| i * 2).collect();
    let quant = model.inputs()[0].native.quant.unwrap();
    let real: Vec<f32> = native.iter().map(|&q| quant.dequantize(q.into())).collect();
    let from_native = infer_once(&model, &[uint8(&[1, 3, 6, 5], &native)]).unwrap();
    assert_eq!(infer_once(&model, &[Tensor::from_f32(vec![1, 3, 6, 5], &real).unwrap()]).unwrap(), from_native);
}

#[test]
fn the_bench_measures_at_least_five_runs() {
    let model = load(&build::qdq_conv(Dim::Of(1)));
    let found = bench(&model, 1, Effort::Time(std::time::Duration::ZERO)).unwrap();
    assert_eq!((found.runs, found.threads, found.macs), (5, 1, 1620));
    assert!(found.min_us <= found.p50_us && found.p50_us <= found.p90_us && found.p99_us <= found.max_us);
    let json: serde_json::Value = serde_json::to_value(&found).unwrap();
    for key in ["model", "threads", "runs", "min_us", "p50_us", "p90_us", "p99_us", "macs", "arena_bytes", "peak_rss_bytes"] {
        assert!(json.get(key).is_some(), "{key}");
    }
}
