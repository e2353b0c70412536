//! Quantized operators that cannot be: each is refused with the name of its node, and none takes more than a little memory.

use crate::build::{self, Dim, f32s, fixed, i8s, i32s, i64s, microsoft, model, node, port, u8s, with_int, with_ints, with_text};
use jouled::engine::{Engine, Limits, Model};
use std::process::Command;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, NodeProto, OperatorSetIdProto, TensorProto};

/// Two uint8 inputs `x` and `x2` of `shape`, scale `s` and zero point `z` for all, constants, nodes, one output `y`.
fn uint8_model(shape: &[i64], constants: Vec<TensorProto>, nodes: Vec<NodeProto>) -> ModelProto {
    let mut all = vec![f32s("s", &[], &[0.1]), u8s("z", &[], &[128])];
    all.extend(constants);
    let inputs = ["x", "x2"].map(|name| port(name, DataType::Uint8, &fixed(shape))).into();
    let mut proto = model(inputs, all, nodes, vec![port("y", DataType::Uint8, &[Dim::Unknown; 4])]);
    proto.opset_import[0].version = 17;
    proto.opset_import.push(OperatorSetIdProto { domain: "com.microsoft".to_string(), version: 1 });
    proto
}

/// `op` on the real value of `x`, then quantized.
fn qdq(op: NodeProto) -> Vec<NodeProto> {
    let dequantize = |from: &str, to: &str| node("DequantizeLinear", &[from, "s", "z"], &[to]);
    vec![dequantize("x", "f"), dequantize("x2", "f2"), op, node("QuantizeLinear", &["r", "s", "z"], &["y"])]
}

/// Every one of `words` is in the error, whatever engine is asked.
#[track_caller]
fn refused(words: &[&str], proto: &ModelProto) {
    for engine in [Engine::Native, Engine::Reference] {
        match Model::from_bytes_for(&build::bytes(proto), "bad.onnx", &Limits::default(), engine) {
            Ok(model) => panic!("{engine:?}: the model loads\n{}", model.report()),
            Err(error) => words.iter().for_each(|w| assert!(error.to_string().contains(w), "{engine:?}: `{w}` is not in: {error}")),
        }
    }
}

fn native(op: &str, inputs: &[&str]) -> NodeProto {
    node(op, inputs, &["y"])
}

const IMAGE: [i64; 4] = [1, 2, 6, 6];

#[test]
fn scales_of_the_microsoft_set() {
    let add = |scale: TensorProto, zero: TensorProto| {
        let node = microsoft(native("QLinearAdd", &["x", "s", "z", "x2", "s2", "z2", "s", "z"]));
        uint8_model(&IMAGE, vec![scale, zero], vec![node])
    };
    let one = || u8s("z2", &[], &[0]);
    for bad in [f32::NAN, 0.0, -1.0, f32::INFINITY] {
        refused(&["QLinearAdd to y", "scale `s2`", "positive and finite"], &add(f32s("s2", &[], &[bad]), one()));
    }
    refused(&["QLinearAdd to y", "`s2` has 2 values"], &add(f32s("s2", &[2], &[0.1; 2]), one()));
    refused(&["QLinearAdd to y", "form is not supported"], &add(f32s("s2", &[2], &[0.1; 2]), u8s("z2", &[2], &[0; 2])));
    refused(&["QLinearAdd to y", "zero point `z2` is float"], &add(f32s("s2", &[], &[0.1]), f32s("z2", &[], &[0.0])));
    let empty = microsoft(native("QLinearAdd", &["x", "s", "", "x2", "s", "z", "s", "z"]));
    refused(&["QLinearAdd to y", "input 2 (a zero point) is missing"], &uint8_model(&IMAGE, vec![], vec![empty]));
    let dynamic = microsoft(native("QLinearMul", &["x", "s", "z", "x2", "s", "z", "r", "z"]));
    let nodes = vec![node("ReduceMax", &["f"], &["r"]), node("DequantizeLinear", &["x", "s", "z"], &["f"]), dynamic];
    refused(&["QLinearMul to y", "scale `r` is not a constant"], &uint8_model(&IMAGE, vec![], nodes));
}

#[test]
fn concatenations() {
    let concat = |inputs: &[&str], axis: Option<i64>, constants: Vec<TensorProto>| {
        let node = microsoft(native("QLinearConcat", inputs));
        uint8_model(
            &IMAGE,
            constants,
            vec![match axis {
                Some(axis) => with_int(node, "axis", axis),
                None => node,
            }],
        )
    };
    let good = ["s", "z", "x", "s", "z", "x2", "s", "z"];
    for (axis, name) in [(4, "axis 4"), (-5, "axis -5"), (i64::MAX, "axis 9223372036854775807"), (i64::MIN, "axis -9223372036854775808")] {
        refused(&["QLinearConcat to y", name], &concat(&good, Some(axis), vec![]));
        let plain = with_int(node("Concat", &["f", "f2"], &["r"]), "axis", axis);
        refused(&["Concat"], &uint8_model(&IMAGE, vec![], qdq(plain)));
    }
    refused(&["QLinearConcat to y"], &concat(&good, None, vec![]));
    refused(&["QLinearConcat to y"], &concat(&good[..7], Some(1), vec![]));
    refused(&["QLinearConcat to y"], &concat(&good[..2], Some(1), vec![]));
    for bad in [f32::NAN, 0.0, -1.0] {
        let part = ["s", "z", "x", "s", "z", "x2", "bad", "z"];
        refused(&["QLinearConcat to y", "scale `bad`", "positive and finite"], &concat(&part, Some(1), vec![f32s("bad", &[], &[bad])]));
    }
    let part = ["s", "z", "x", "s", "", "x2", "s", "z"];
    refused(&["QLinearConcat to y", "input 4 (a zero point) is missing"], &concat(&part, Some(1), vec![]));
}

#[test]
fn windows() {
    let pool = |attributes: &[(&'static str, &[i64])]| {
        attributes
            .iter()
            .fold(microsoft(native("QLinearAveragePool", &["x", "s", "z", "s", "z"])), |n, (name, ints)| with_ints(n, name, ints))
    };
    let try_pool = |words: &[&str], attributes: &[(&'static str, &[i64])]| {
        refused(&[&["QLinearAveragePool to y"], words].concat(), &uint8_model(&IMAGE, vec![], vec![pool(attributes)]));
        let plain = attributes.iter().fold(node("AveragePool", &["f"], &["r"]), |n, (name, ints)| with_ints(n, name, ints));
        refused(&[&["AveragePool to r"], words].concat(), &uint8_model(&IMAGE, vec![], qdq(plain)));
    };
    try_pool(&["strides holds 0"], &[("kernel_shape", &[2, 2]), ("strides", &[0, 1])]);
    try_pool(&["kernel_shape holds 0"], &[("kernel_shape", &[0, 2])]);
    try_pool(&["pads holds -1"], &[("kernel_shape", &[2, 2]), ("pads", &[-1, 0, 0, 0])]);
    try_pool(&["kernel_shape holds 1099511627776"], &[("kernel_shape", &[1 << 40, 2])]);
    try_pool(&["spatial axes"], &[("kernel_shape", &[2, 2]), ("pads", &[0, 0])]);
    refused(&["QLinearAveragePool to y"], &uint8_model(&IMAGE, vec![], vec![pool(&[])]));
    refused(&["QLinearAveragePool to y"], &uint8_model(&IMAGE, vec![], vec![pool(&[("kernel_shape", &[9, 9])])]));
    refused(&["QLinearAveragePool to y"], &uint8_model(&IMAGE, vec![], vec![pool(&[("kernel_shape", &[2, 2]), ("pads", &[2, 2, 2, 2])])]));
    let words = ["QLinearGlobalAveragePool to y"];
    refused(&words, &uint8_model(&[1, 2], vec![], vec![microsoft(native(&words[0][..24], &["x", "s", "z", "s", "z"]))]));
}

#[test]
fn products() {
    let conv = |w: TensorProto, scales: TensorProto, zeros: TensorProto, bias: TensorProto| {
        let inputs = ["x", "s", "z", "w", "ws", "wz", "s", "z", "b"];
        uint8_model(&IMAGE, vec![w, scales, zeros, bias], vec![native("QLinearConv", &inputs)])
    };
    let w = |dims: &[i64]| i8s("w", dims, &vec![1; dims.iter().product::<i64>() as usize]);
    let s = |n: i64| f32s("ws", &[n], &vec![0.1; n as usize]);
    let z = |n: i64| i8s("wz", &[n], &vec![0; n as usize]);
    let b = |n: i64| i32s("b", &[n], &vec![0; n as usize]);
    refused(&["QLinearConv to y", "has 3 values for 4 channels"], &conv(w(&[4, 2, 1, 1]), s(3), z(3), b(4)));
    refused(&["QLinearConv to y", "bias has shape [3]"], &conv(w(&[4, 2, 1, 1]), s(4), z(4), b(3)));
    refused(&["QLinearConv to y"], &conv(w(&[4, 3, 1, 1]), s(4), z(4), b(4)));
    refused(&["QLinearConv to y"], &conv(w(&[4, 2, 7, 7]), s(1), z(1), b(4)));
    let matmul = |a: &[i64], inputs: &[&str]| uint8_model(a, vec![w(&[5, 3]), s(1), z(1)], vec![native("QLinearMatMul", inputs)]);
    refused(&["QLinearMatMul to y"], &matmul(&[1, 4], &["x", "s", "z", "w", "ws", "wz", "s", "z"]));
    refused(&["QLinearMatMul to y"], &matmul(&[4, 3], &["x", "s", "z", "x2", "s", "z", "s", "z"]));
    refused(&["MatMul to r"], &uint8_model(&[2, 3], vec![], qdq(node("MatMul", &["f", "f2"], &["r"]))));
    let gemm = |alpha: f32| {
        let gemm = microsoft(native("QGemm", &["x", "s", "z", "w", "ws", "wz", "", "s", "z"]));
        uint8_model(&[1, 5], vec![w(&[5, 3]), s(1), z(1)], vec![build::with_float(gemm, "alpha", alpha)])
    };
    refused(&["QGemm to y", "form is not supported"], &gemm(2.0));
}

#[test]
fn along_an_axis() {
    for axis in [4, -5, i64::MAX, i64::MIN] {
        let softmax = with_int(node("Softmax", &["f"], &["r"]), "axis", axis);
        refused(&["Softmax"], &uint8_model(&IMAGE, vec![], qdq(softmax)));
        let softmax = with_int(microsoft(native("QLinearSoftmax", &["x", "s", "z", "s", "z"])), "axis", axis);
        refused(&["QLinearSoftmax to y"], &uint8_model(&IMAGE, vec![], vec![with_int(softmax, "opset", 13)]));
    }
    for axis in [-5, i64::MIN, 4, i64::MAX] {
        let gamma = f32s("g", &[6], &[1.0; 6]);
        let norm = with_int(node("LayerNormalization", &["f", "g"], &["r"]), "axis", axis);
        // On 32 bits already reading the attribute fails.
        let why = if isize::try_from(axis).is_ok() { "is outside 4 axes" } else { "attribute 'axis'" };
        refused(&["LayerNormalization to r", why], &uint8_model(&IMAGE, vec![gamma], qdq(norm)));
    }
    for length in [5, 7, 0] {
        let gamma = f32s("g", &[length], &vec![1.0; length as usize]);
        refused(&["LayerNormalization"], &uint8_model(&IMAGE, vec![gamma], qdq(node("LayerNormalization", &["f", "g"], &["r"]))));
    }
    for length in [IMAGE[1] - 1, IMAGE[1] + 1, 0] {
        let factors = f32s("g", &[length], &vec![1.0; length as usize]);
        let norm = node("BatchNormalization", &["f", "g", "g", "g", "g"], &["r"]);
        refused(&["BatchNormalization to r"], &uint8_model(&IMAGE, vec![factors], qdq(norm)));
    }
}

#[test]
fn transpositions_and_concatenations_of_nothing() {
    for axes in [[0, 0, 2, 3], [0, 1, 2, 4], [0, 1, 2, -1]] {
        let transpose = with_ints(node("Transpose", &["f"], &["r"]), "perm", &axes);
        refused(&["Transpose to r", "every axis once"], &uint8_model(&IMAGE, vec![], qdq(transpose)));
    }
    refused(&["Concat"], &uint8_model(&IMAGE, vec![], qdq(with_int(node("Concat", &[], &["r"]), "axis", 0))));
}

#[test]
fn shapes_that_do_not_broadcast() {
    for op in ["Add", "Sub", "Mul"] {
        let constants = vec![u8s("k", &[5], &[1; 5])];
        let mut nodes = qdq(node(op, &["f", "kf"], &["r"]));
        nodes.push(node("DequantizeLinear", &["k", "s", "z"], &["kf"]));
        refused(&[op], &uint8_model(&IMAGE, constants, nodes));
    }
}

/// Models of a few hundred bytes that ask for a great deal.
fn greedy() -> Vec<ModelProto> {
    let resize = |inputs: &[&str], constants: Vec<TensorProto>, mode: &str| {
        uint8_model(&IMAGE, constants, qdq(with_text(node("Resize", inputs, &["r"]), "mode", mode)))
    };
    let mut all = Vec::new();
    for sizes in
        [[1, 2, 1 << 31, 1 << 31], [1, 2, i64::MAX, 1], [1, 2, -1, 6], [1, 2, 1 << 20, 1 << 12], [1, 2, 0, 6], [1, 2, 1 << 15, 1 << 14]]
    {
        for mode in ["nearest", "linear"] {
            all.push(resize(&["f", "", "", "sizes"], vec![i64s("sizes", &[4], &sizes)], mode));
        }
    }
    for scale in [1e30, f32::NAN, f32::INFINITY, -1.0, 0.0, 1e-9] {
        all.push(resize(&["f", "", "scales"], vec![f32s("scales", &[4], &[1.0, 1.0, scale, scale])], "linear"));
    }
    all.push(resize(&["f", "", "scales"], vec![f32s("scales", &[3], &[1.0; 3])], "nearest"));
    let wide = |op: &str, attributes: &[(&'static str, &[i64])]| {
        let mut nodes = qdq(attributes.iter().fold(node(op, &["f", "wf"], &["r"]), |n, (name, ints)| with_ints(n, name, ints)));
        nodes.push(node("DequantizeLinear", &["w", "ws", "wz"], &["wf"]));
        let constants = vec![i8s("w", &[2, 2, 1, 1], &[1; 4]), f32s("ws", &[], &[0.1]), i8s("wz", &[], &[0])];
        uint8_model(&IMAGE, constants, nodes)
    };
    all.push(wide("Conv", &[("pads", &[32768; 4])]));
    all.push(wide("Conv", &[("pads", &[8000; 4])]));
    all.push(wide("ConvTranspose", &[("strides", &[32768; 2])]));
    all.push(wide("ConvTranspose", &[("pads", &[32768; 4])]));
    let reshape = uint8_model(&IMAGE, vec![i64s("to", &[2], &[1 << 31, 1 << 31])], qdq(node("Reshape", &["f", "to"], &["r"])));
    all.push(reshape);
    let pads = i64s("pads", &[8], &[0, 0, 0, 0, 0, 0, 1 << 30, 1 << 30]);
    all.push(uint8_model(&IMAGE, vec![pads], qdq(node("Pad", &["f", "pads"], &["r"]))));
    let shape = i64s("to", &[4], &[1, 2, 6, 6]);
    all.push(uint8_model(&[1, 1, 1, 1 << 30], vec![shape], qdq(node("Expand", &["f", "to"], &["r"]))));
    all
}

/// Each by itself in a process that may have a gigabyte of addresses: an allocation too many aborts it.
#[test]
fn greedy_models_are_refused_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("greedy.onnx");
    for (number, proto) in greedy().iter().enumerate() {
        std::fs::write(&path, build::bytes(proto)).unwrap();
        let script = "ulimit -v 1048576; exec \"$0\" inspect --max-memory 256MiB \"$1\"";
        let done = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_jouled")]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.code().is_some_and(|code| code != 0), "model {number}: {:?} {said}", done.status);
        assert!(
            said.contains("greedy.onnx")
                && (said.contains("node `") || said.contains("over limits.max_memory"))
                && !said.contains("panicked"),
            "model {number}: {said}"
        );
    }
}
