//! Models that must not load: each says what is wrong, and none panics.

use crate::build::{self, Dim, f32s, fixed, i8s, i64s, node, port, u8s, with_int, with_ints};
use jouled::config::value::Size;
use jouled::engine::{Limits, LoadCause, LoadError, Model};
use proptest::prelude::*;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto};

fn refuse(model: &ModelProto) -> LoadError {
    match Model::from_bytes(&build::bytes(model), "bad.onnx", &Limits::default()) {
        Err(error) => error,
        Ok(_) => panic!("the model loads"),
    }
}

/// Damages the QDQ convolution by `damage` and expects every one of `words` in the error.
fn expect(words: &[&str], damage: impl FnOnce(&mut GraphProto)) {
    let mut model = build::qdq_conv(Dim::Symbol("N"));
    damage(model.graph.as_mut().unwrap());
    let error = refuse(&model).to_string();
    assert!(error.starts_with("bad.onnx: "), "{error}");
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

fn replace(graph: &mut GraphProto, tensor: TensorProto) {
    let old = graph.initializer.iter_mut().find(|t| t.name == tensor.name).unwrap();
    *old = tensor;
}

fn find<'a>(graph: &'a mut GraphProto, op: &str) -> &'a mut NodeProto {
    graph.node.iter_mut().find(|n| n.op_type == op).unwrap()
}

#[test]
fn what_is_no_model() {
    for (bytes, word) in
        [(&b""[..], "no graph"), (b"\xFF\xFF\xFF", "not an ONNX"), (b"\x89PNG\r\n", "not an ONNX"), (&[0; 64], "not an ONNX")]
    {
        let error = Model::from_bytes(bytes, "x", &Limits::default()).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_eq!(refuse(&ModelProto::default()).cause, LoadCause::NotOnnx("there is no graph in it".to_string()));
}

#[test]
fn structure() {
    expect(&["`Conv to y_r` (Conv)", "reads `nowhere`", "nothing makes"], |g| find(g, "Conv").input[0] = "nowhere".to_string());
    expect(&["(Relu)", "cycle"], |g| find(g, "Relu").input[0] = "y_f".to_string());
    expect(&["nothing makes the output `z`"], |g| g.output[0].name = "z".to_string());
    expect(&["`y_r` is also made elsewhere"], |g| find(g, "Relu").output[0] = "y_r".to_string());
    expect(&["two initializers named `w`"], |g| g.initializer.push(i8s("w", &[1], &[1])));
    expect(&["no outputs"], |g| g.output.clear());
    expect(&["no inputs"], |g| {
        g.input.clear();
        g.initializer.push(f32s("x", &[1, 3, 6, 5], &[0.0; 90]));
    });
    expect(&["sparse"], |g| g.sparse_initializer.push(Default::default()));
}

#[test]
fn operators() {
    expect(&["`Relu to y_f`", "`Frobnicate` of domain `ai.onnx`", "not supported"], |g| find(g, "Relu").op_type = "Frobnicate".to_string());
    expect(&["com.example.Relu", "domain `com.example`"], |g| find(g, "Relu").domain = "com.example".to_string());
    expect(&["com.microsoft.Conv"], |g| find(g, "Conv").domain = "com.microsoft".to_string());
}

#[test]
fn scales_and_zero_points() {
    for bad in [0.0, -0.5, f32::NAN, f32::INFINITY] {
        let shown = format!("{}", f64::from(bad));
        expect(&["QuantizeLinear to x_q", "scale `x_s`", &shown, "positive and finite"], |g| replace(g, f32s("x_s", &[], &[bad])));
    }
    expect(&["`w_s` has 2 values but zero point `w_z` has 3"], |g| replace(g, i8s("w_z", &[3], &[0; 3])));
    expect(&["`w_s` has 3 values for 2 channels along axis 0"], |g| {
        replace(g, f32s("w_s", &[3], &[0.1; 3]));
        replace(g, i8s("w_z", &[3], &[0; 3]));
    });
    expect(&["zero point `x_z` is float"], |g| replace(g, f32s("x_z", &[], &[0.0])));
    expect(&["input 1 (a scale) is missing"], |g| find(g, "QuantizeLinear").input.truncate(1));
    expect(&["scale `x` is not a constant"], |g| find(g, "QuantizeLinear").input[1] = "x".to_string());
    expect(&["block_size"], |g| {
        let node = with_int(find(g, "QuantizeLinear").clone(), "block_size", 32);
        *find(g, "QuantizeLinear") = node;
    });
    expect(&["output_dtype"], |g| {
        let mut node = with_int(find(g, "QuantizeLinear").clone(), "output_dtype", DataType::Int16 as i64);
        node.input.truncate(2);
        *find(g, "QuantizeLinear") = node;
    });
}

#[test]
fn a_qlinear_convolution_without_its_zero_point() {
    let mut conv = node("QLinearConv", &["x", "s", "z", "w", "s", "wz", "s"], &["y"]);
    conv.input.push(String::new());
    let model = build::model(
        vec![port("x", DataType::Uint8, &fixed(&[1, 1, 4, 4]))],
        vec![f32s("s", &[], &[0.1]), u8s("z", &[], &[0]), i8s("w", &[1, 1, 1, 1], &[1]), i8s("wz", &[], &[0])],
        vec![conv],
        vec![port("y", DataType::Uint8, &fixed(&[1, 1, 4, 4]))],
    );
    let error = refuse(&model).to_string();
    assert!(error.contains("(QLinearConv): input 7 (a zero point) is missing"), "{error}");
}

#[test]
fn shapes() {
    expect(&["input `x`", "dimension 2 is symbolic (`H`)"], |g| {
        g.input[0] = port("x", DataType::Float, &[Dim::Of(1), Dim::Of(3), Dim::Symbol("H"), Dim::Of(5)])
    });
    expect(&["input `x`", "dimension 1 is unknown"], |g| g.input[0] = port("x", DataType::Float, &[Dim::Of(1), Dim::Unknown]));
    expect(&["input `x`", "dimension 3 is -7"], |g| g.input[0] = port("x", DataType::Float, &fixed(&[1, 3, 6, -7])));
    expect(&["2147483648", "2^31"], |g| g.input[0] = port("x", DataType::Float, &fixed(&[1, 3, 1 << 31, 5])));
    expect(&["2^31 elements"], |g| g.input[0] = port("x", DataType::Float, &fixed(&[1, 3, 1 << 20, 1 << 20])));
    expect(&["input `x`: is double"], |g| g.input[0] = port("x", DataType::Double, &fixed(&[1])));
    expect(&["input `x`: has no type"], |g| g.input[0].r#type = None);
    expect(&["initializer `w`", "-2"], |g| g.initializer[2].dims[0] = -2);
    expect(&["initializer `w`", "2^31"], |g| g.initializer[2].dims[0] = i64::MAX);
    expect(&["initializer `w`", "needs 27 bytes, found 54"], |g| g.initializer[2].dims[0] = 1);
    expect(&["output `y` is declared as int8 but computed as"], |g| g.output[0] = port("y", DataType::Int8, &fixed(&[1, 2, 6, 5])));
}

#[test]
fn what_only_tract_finds_names_its_node_too() {
    // tract panics on this one.
    expect(&["`Flatten to y_f` (Flatten): "], |g| {
        *find(g, "Relu") = with_int(node("Flatten", &["y_r"], &["y_f"]), "axis", 7);
    });
    expect(&["`Reshape to y_f` (Reshape): "], |g| {
        g.initializer.push(i64s("shape", &[2], &[7, 7]));
        *find(g, "Relu") = node("Reshape", &["y_r", "shape"], &["y_f"]);
    });
}

#[test]
fn a_file_of_empty_nodes_is_not_decoded() {
    let mut model = build::qdq_conv(Dim::Of(1));
    model.graph.as_mut().unwrap().node = vec![NodeProto::default(); 10_000];
    let limits = Limits { max_memory: Size::mib(1), ..Limits::default() };
    let error = Model::from_bytes(&build::bytes(&model), "x", &limits).unwrap_err().to_string();
    assert!(error.contains("decoding the file needs"), "{error}");
}

#[test]
fn convolutions() {
    let with = |name: &'static str, ints: &'static [i64]| {
        move |g: &mut GraphProto| {
            let conv = find(g, "Conv");
            conv.attribute.retain(|a| a.name != name);
            *conv = with_ints(conv.clone(), name, ints);
        }
    };
    expect(&["(Conv)", "pads holds -1"], with("pads", &[-1, 0, 0, 0]));
    expect(&["(Conv)", "strides holds 0"], with("strides", &[0, 1]));
    expect(&["(Conv)", "dilations holds 1099511627776"], with("dilations", &[1 << 40, 1]));
    expect(&["(Conv)", "kernel_shape is [5, 5]", "[2, 3, 3, 3]"], with("kernel_shape", &[5, 5]));
    expect(&["(Conv)", "spatial axes"], with("strides", &[1]));
    expect(&["(Conv)", "group is 0"], |g| *find(g, "Conv") = with_int(find(g, "Conv").clone(), "group", 0));
    expect(&["(Conv)", "3 groups"], |g| *find(g, "Conv") = with_int(find(g, "Conv").clone(), "group", 3));
}

#[test]
fn a_few_bytes_cannot_ask_for_any_amount_of_memory() {
    let model = |nodes: Vec<NodeProto>, shape: &[i64]| {
        let constants = vec![i64s("shape", &[shape.len() as i64], shape), f32s("one", &[1], &[1.0])];
        build::model(vec![port("x", DataType::Float, &fixed(&[1]))], constants, nodes, vec![port("y", DataType::Float, &fixed(&[1]))])
    };
    let add = node("Add", &["x", "big"], &["y"]);
    let error = refuse(&model(vec![node("ConstantOfShape", &["shape"], &["big"]), add.clone()], &[1 << 20, 1 << 20])).to_string();
    assert!(error.contains("(ConstantOfShape): computes a constant of up to 1099511627776 values"), "{error}");
    let error = refuse(&model(vec![node("Expand", &["x", "shape"], &["big"]), add.clone()], &[1 << 40])).to_string();
    assert!(error.contains("(Expand): asks for 1099511627776 values"), "{error}");
    let mut doubling: Vec<NodeProto> = (0..40)
        .map(|i| {
            let (from, to) =
                (if i == 0 { "one".to_string() } else { format!("d{i}") }, if i == 39 { "big".to_string() } else { format!("d{}", i + 1) });
            with_int(node("Concat", &[&from, &from], &[&to]), "axis", 0)
        })
        .collect();
    doubling.push(add);
    let error = refuse(&model(doubling, &[1])).to_string();
    assert!(error.contains("(Concat): computes a constant"), "{error}");
}

#[test]
fn limits() {
    let bytes = build::bytes(&build::qdq_conv(Dim::Of(1)));
    let limits = Limits { max_file: Size(bytes.len() as u64 - 1), ..Limits::default() };
    let error = Model::from_bytes(&bytes, "x", &limits).unwrap_err();
    assert!(matches!(error.cause, LoadCause::FileTooLarge { .. }) && error.to_string().contains("limits.max_file"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    assert_eq!(Model::load(file.path(), &limits).unwrap_err().cause, error.cause);
    let limits = Limits { max_memory: Size(1000), ..Limits::default() };
    let error = Model::from_bytes(&bytes, "x", &limits).unwrap_err();
    assert!(matches!(error.cause, LoadCause::MemoryTooLarge { .. }), "{error}");
}

#[test]
fn files_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let error = Model::load(folder.path(), &Limits::default()).unwrap_err();
    assert!(matches!(&error.cause, LoadCause::Read(why) if why.contains("regular file")), "{error}");
    let error = Model::load(&folder.path().join("none.onnx"), &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("none.onnx: cannot be read"), "{error}");
}

/// The QDQ convolution with its weights in the file `location`.
fn external(location: &str, length: &str) -> ModelProto {
    let mut model = build::qdq_conv(Dim::Of(1));
    let weights = &mut model.graph.as_mut().unwrap().initializer[2];
    weights.raw_data.clear();
    weights.data_location = Some(DataLocation::External as i32);
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.to_string(), value: value.to_string() };
    weights.external_data = vec![entry("location", location), entry("offset", "2"), entry("length", length)];
    model
}

#[test]
fn external_data_stays_in_the_model_s_folder() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    std::fs::create_dir(&models).unwrap();
    std::fs::write(folder.path().join("secret"), [7; 100]).unwrap();
    std::fs::write(models.join("weights"), [1; 56]).unwrap();
    std::os::unix::fs::symlink("../secret", models.join("link")).unwrap();
    let load = |location: &str, length: &str| {
        let path = models.join("m.onnx");
        std::fs::write(&path, build::bytes(&external(location, length))).unwrap();
        Model::load(&path, &Limits::default()).map_err(|e| e.to_string())
    };
    let inside = load("weights", "54").unwrap();
    std::fs::write(models.join("weights"), [2; 56]).unwrap();
    assert_ne!(load("./weights", "54").unwrap().digest(), inside.digest());
    for outside in ["../secret", "/etc/passwd", "link", "weights/../../secret"] {
        let error = load(outside, "54").unwrap_err();
        assert!(error.contains("tensor `w`") && error.contains("out of the model's folder"), "{error}");
    }
    assert!(load("weights", "1000").unwrap_err().contains("length 1000"));
    assert!(load("none", "54").unwrap_err().contains("none"));
    std::fs::write(models.join("weights"), [1; 55]).unwrap();
    assert!(load("weights", "54").unwrap_err().contains("ends after 53 of 54 bytes"));
    assert!(refuse(&external("weights", "54")).to_string().contains("only a model loaded from a file"));
}

#[test]
fn a_truncated_file_never_panics() {
    let bytes = build::bytes(&build::qdq_conv(Dim::Symbol("N")));
    for length in 0..bytes.len() {
        assert!(Model::from_bytes(&bytes[..length], "cut", &Limits::default()).is_err(), "{length} bytes load");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Damage may leave a model that loads; what counts is that nothing panics or runs away.
    #[test]
    fn random_damage_never_panics(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = build::bytes(&build::qdq_conv(Dim::Symbol("N")));
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(model) = Model::from_bytes(&bytes, "damaged", &Limits::default()) {
            let mut session = model.session(1).unwrap();
            let _ = session.run();
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Model::from_bytes(&bytes, "garbage", &Limits::default());
    }
}
