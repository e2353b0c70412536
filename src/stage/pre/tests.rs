use super::*;
use crate::codec::Picture;
use crate::tensor::{Dtype, Quant, Tensor, TensorSpec};
use half::f16;
use proptest::prelude::*;

const I8: Option<Quant> = Some(Quant { scale: 0.02, zero_point: -5 });
const U8: Option<Quant> = Some(Quant { scale: 0.5, zero_point: 100 });

fn port(declared: Dtype, native: Dtype, quant: Option<Quant>, shape: &[usize]) -> Port {
    let spec = |dtype, quant| TensorSpec { name: "x".into(), dtype, shape: shape.to_vec(), quant };
    Port { declared: spec(declared, None), native: spec(native, quant) }
}

fn steps(text: &str) -> Vec<PreStep> {
    #[derive(Deserialize)]
    struct File {
        pre: Vec<PreStep>,
    }
    toml::from_str::<File>(&format!("pre = [{text}]")).unwrap().pre
}

fn run(steps_text: &str, port: &Port, input: &Input) -> Result<Vec<u8>, Rejection> {
    let mut out = vec![0; port.native.bytes()];
    Pre::new(&steps(steps_text), port).unwrap().run(input, &mut out).map(|()| out)
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn numbers(values: &[f32]) -> Input {
    Input::Numbers { values: values.to_vec(), shape: None }
}

/// Every sample value in every channel, with a different neighbour in the others: 16 x 16 pixels.
fn all_samples(channels: usize) -> Picture {
    let data = (0..256).flat_map(|p| (0..channels).map(move |c| ((p + 85 * c) % 256) as u8)).collect();
    Picture::new(16, 16, channels, data).unwrap()
}

#[test]
fn image_tables_equal_the_float_path_for_every_sample_type_layout_and_order() {
    let map = r#"{ step = "scale", factor = 0.00392156862745098 }, { step = "normalize", mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }"#;
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let kinds = [
        (Dtype::Int8, I8),
        (Dtype::Uint8, U8),
        (Dtype::Int8, None),
        (Dtype::Float16, None),
        (Dtype::Float32, None),
        (Dtype::Int32, None),
        (Dtype::Int64, None),
    ];
    let picture = all_samples(3);
    for (dtype, quant) in kinds {
        for (order, channel_major) in [("rgb", true), ("bgr", true), ("rgb", false), ("bgr", false)] {
            let shape: &[usize] = if channel_major { &[1, 3, 16, 16] } else { &[1, 16, 16, 3] };
            let port = port(Dtype::Float32, dtype, quant, shape);
            let text = format!(r#"{{ step = "channels", order = "{order}" }}, {map}"#);
            let by_table = run(&text, &port, &Input::Image(picture.clone())).unwrap();
            let sample = |i: usize| {
                let (c, p) = if channel_major { (i / 256, i % 256) } else { (i % 3, i / 3) };
                (c, picture.data()[p * 3 + if order == "bgr" { 2 - c } else { c }])
            };
            let floats: Vec<f32> = (0..768).map(|i| f32::from(sample(i).1)).collect();
            assert_eq!(by_table, run(&text, &port, &numbers(&floats)).unwrap(), "{dtype} {order} {shape:?}");
            if let Some(quant) = quant {
                let expected = (0..768).map(|i| {
                    let (c, value) = sample(i);
                    quant.quantize(((f64::from(value) / 255.0 - mean[c]) / std[c]) as f32, dtype) as u8
                });
                assert_eq!(by_table, expected.collect::<Vec<u8>>(), "{dtype} {order} {shape:?}");
            }
        }
    }
}

#[test]
fn grey_and_colour_images_fit_both_kinds_of_model() {
    let (grey, colour) = (port(Dtype::Uint8, Dtype::Uint8, None, &[1, 1, 16, 16]), port(Dtype::Uint8, Dtype::Uint8, None, &[1, 3, 16, 16]));
    let picture = all_samples(1);
    let image = Input::Image(picture.clone());
    assert_eq!(run("", &grey, &image).unwrap(), picture.data());
    assert_eq!(run("", &colour, &image).unwrap(), picture.data().repeat(3));
    let red = Picture::new(2, 1, 3, vec![255, 0, 0, 255, 0, 0]).unwrap();
    assert_eq!(run("", &grey, &Input::Image(red)).unwrap(), [76; 256]);
}

#[test]
fn buffers_hold_nothing_of_earlier_images() {
    let port = port(Dtype::Float32, Dtype::Int8, I8, &[1, 1, 12, 9]);
    let text = r#"{ step = "resize", mode = "fit", pad = 114 }, { step = "scale", factor = 0.01 }"#;
    let image =
        |w: usize, h: usize, c: usize| Input::Image(Picture::new(w, h, c, (0..w * h * c).map(|i| (i * 37 % 256) as u8).collect()).unwrap());
    let mut pre = Pre::new(&steps(text), &port).unwrap();
    let mut out = vec![0; port.native.bytes()];
    for (w, h, c) in [(40, 30, 3), (5, 20, 1), (40, 30, 1), (9, 12, 3), (20, 5, 3), (40, 30, 3)] {
        pre.run(&image(w, h, c), &mut out).unwrap();
        assert_eq!(out, run(text, &port, &image(w, h, c)).unwrap(), "{w}x{h}x{c}");
    }
}

#[test]
fn an_image_for_a_signal_model_is_refused() {
    let signal = port(Dtype::Float32, Dtype::Int8, I8, &[1, 3, 256]);
    assert_eq!(run("", &signal, &Input::Image(all_samples(1))).unwrap_err().code, Code::BadImage);
    let features = port(Dtype::Float32, Dtype::Int8, I8, &[1, 16, 8, 8]);
    assert_eq!(run("", &features, &Input::Image(all_samples(1))).unwrap_err().code, Code::BadImage);
}

#[test]
fn a_window_is_turned_into_the_models_layout() {
    let window = Input::Window { values: vec![1., 10., 2., 20., 3., 30.], channels: 2 };
    let scale = r#"{ step = "scale", factor = [1.0, 0.1], offset = [0.0, 5.0] }"#;
    let ncl = port(Dtype::Float32, Dtype::Float32, None, &[1, 2, 3]);
    assert_eq!(f32s(&run(scale, &ncl, &window).unwrap()), [1., 2., 3., 6., 7., 8.]);
    let nlc = port(Dtype::Float32, Dtype::Float32, None, &[1, 3, 2]);
    assert_eq!(f32s(&run(scale, &nlc, &window).unwrap()), [1., 6., 2., 7., 3., 8.]);
    let flat = port(Dtype::Float32, Dtype::Float32, None, &[1, 6]);
    assert_eq!(f32s(&run("", &flat, &window).unwrap()), [1., 10., 2., 20., 3., 30.]);
    assert_eq!(f32s(&run(scale, &flat, &window).unwrap()), [1., 6., 2., 7., 3., 8.]);
    let nested = Input::Numbers { values: vec![1., 10., 2., 20., 3., 30.], shape: Some(vec![3, 2]) };
    assert_eq!(run(scale, &ncl, &nested).unwrap(), run(scale, &ncl, &window).unwrap());
    let tensor = Input::Raw(Tensor::from_f32(vec![1, 3, 2], &[1., 10., 2., 20., 3., 30.]).unwrap());
    assert_eq!(f32s(&run("", &ncl, &tensor).unwrap()), [1., 2., 3., 10., 20., 30.]);
}

#[test]
fn the_layout_step_settles_a_square() {
    let window = Input::Window { values: vec![1., 2., 3., 4.], channels: 2 };
    let square = port(Dtype::Float32, Dtype::Float32, None, &[1, 2, 2]);
    assert_eq!(f32s(&run("", &square, &window).unwrap()), [1., 3., 2., 4.]);
    assert_eq!(f32s(&run(r#"{ step = "layout", order = "nlc" }"#, &square, &window).unwrap()), [1., 2., 3., 4.]);
}

#[test]
fn a_window_function_weighs_frames() {
    let port = port(Dtype::Float32, Dtype::Float32, None, &[1, 1, 5]);
    let window = Input::Window { values: vec![2.0; 5], channels: 1 };
    let text = r#"{ step = "normalize", mean = 1.0, std = 0.5 }, { step = "window", function = "hann" }, { step = "scale", offset = 1.0 }"#;
    let found = f32s(&run(text, &port, &window).unwrap());
    for (value, expected) in found.iter().zip([1.0, 2.0, 3.0, 2.0, 1.0]) {
        assert!((value - expected).abs() < 1e-6, "{found:?}");
    }
}

#[test]
fn wrong_shapes_lengths_and_types_say_what_was_expected() {
    let ncl = port(Dtype::Float32, Dtype::Int8, I8, &[1, 2, 3]);
    let refused = |input: &Input| run("", &ncl, input).unwrap_err();
    let window = refused(&Input::Window { values: vec![0.0; 8], channels: 2 });
    assert_eq!((window.code, window.message.contains("3 frames of 2 channels")), (Code::WrongShape, true), "{window}");
    assert_eq!(refused(&Input::Window { values: vec![0.0; 7], channels: 2 }).code, Code::WrongShape);
    assert_eq!(refused(&Input::Window { values: vec![], channels: 0 }).code, Code::WrongShape);
    let length = refused(&numbers(&[0.0; 5]));
    assert_eq!((length.code, length.message.contains("expected 6")), (Code::WrongLength, true), "{length}");
    let twelve = Input::Numbers { values: vec![0.0; 12], shape: Some(vec![2, 6]) };
    assert_eq!(run("", &port(Dtype::Float32, Dtype::Int8, I8, &[1, 3, 4]), &twelve).unwrap_err().code, Code::WrongShape);
    let wide = Input::Raw(Tensor::from_bytes(Dtype::Float16, vec![1, 2, 3], vec![0; 12]).unwrap());
    assert_eq!(refused(&wide).code, Code::WrongDtype);
}

#[test]
fn values_that_are_not_finite_are_named() {
    let values = [0.0, 1.0, f32::NAN, f32::INFINITY];
    for (dtype, quant) in [(Dtype::Int8, I8), (Dtype::Float32, None), (Dtype::Float16, None)] {
        let port = port(Dtype::Float32, dtype, quant, &[1, 4]);
        let tensor = Input::Raw(Tensor::from_f32(vec![1, 4], &values).unwrap());
        for input in [numbers(&values), tensor, Input::Window { values: values.to_vec(), channels: 1 }] {
            let rejection = run("", &port, &input).unwrap_err();
            assert_eq!(rejection.code, Code::NotFinite);
            assert!(rejection.message.contains("element 2 is NaN"), "{rejection}");
        }
    }
    let half = port(Dtype::Float32, Dtype::Float16, None, &[1, 1]);
    assert_eq!(run("", &half, &numbers(&[65_520.0])).unwrap_err().code, Code::NotFinite);
    assert_eq!(run("", &half, &numbers(&[65_519.0])).unwrap(), f16::MAX.to_le_bytes());
}

#[test]
fn declared_integers_are_taken_as_they_are_and_windows_are_quantized() {
    let quant = Some(Quant { scale: 0.5, zero_point: 3 });
    let mut port = port(Dtype::Int8, Dtype::Int8, quant, &[1, 2]);
    port.declared.quant = quant;
    assert_eq!(run("", &port, &numbers(&[-7.0, 100.0])).unwrap(), [(-7i8) as u8, 100]);
    assert_eq!(run("", &port, &Input::Window { values: vec![-1.0, 2.0], channels: 2 }).unwrap(), [1, 7]);
    assert_eq!(run(r#"{ step = "scale", factor = 2.0 }"#, &port, &numbers(&[-1.0, 2.0])).unwrap(), [255, 11]);
    assert_eq!(run("", &port, &numbers(&[0.5, 0.0])).unwrap_err().code, Code::WrongDtype);
    assert_eq!(run("", &port, &numbers(&[0.0, 128.0])).unwrap_err().code, Code::WrongDtype);
}

#[test]
fn wide_integers_pass_exactly() {
    let port = port(Dtype::Int64, Dtype::Int64, None, &[1, 1]);
    let bytes = (i64::MAX - 1).to_le_bytes().to_vec();
    let tensor = Tensor::from_bytes(Dtype::Int64, vec![1, 1], bytes.clone()).unwrap();
    assert_eq!(run("", &port, &Input::Raw(tensor)).unwrap(), bytes);
}

fn problem(text: &str, shape: &[usize]) -> String {
    Pre::new(&steps(text), &port(Dtype::Float32, Dtype::Int8, I8, shape)).err().map(|p| p.to_string()).unwrap_or_default()
}

#[test]
fn steps_that_do_not_fit_are_named_by_key() {
    let ok = r#"{ step = "scale" }, "#;
    let cases = [
        (r#"{ step = "normalize", mean = [0.0, 1.0], std = 1.0 }"#, "pre[1].mean"),
        (r#"{ step = "normalize", mean = 0.0, std = 0.0 }"#, "pre[1].std"),
        (r#"{ step = "normalize", mean = [0.0, 0.0, 0.0], std = [1.0, 1.0] }"#, "pre[1].std"),
        (r#"{ step = "scale", factor = nan }"#, "pre[1].factor"),
        (r#"{ step = "scale", offset = [] }"#, "pre[1].offset"),
        (r#"{ step = "layout", order = "nchw" }"#, "pre[1].order"),
        (r#"{ step = "channels", order = "rgb" }"#, "pre[1].order"),
        (r#"{ step = "resize" }"#, "pre[1]"),
    ];
    for (text, key) in cases {
        let found = problem(&format!("{ok}{text}"), &[1, 3, 256]);
        assert!(found.starts_with(&format!("{key}: ")), "{text}: {found}");
    }
    assert!(problem(r#"{ step = "window", function = "hann" }"#, &[1, 3, 8, 8]).contains("image"));
    assert!(problem(r#"{ step = "channels", order = "gray" }"#, &[1, 3, 8, 8]).contains("gray"));
    let double = r#"{ step = "window", function = "hann" }, { step = "window", function = "hann" }"#;
    assert!(problem(double, &[1, 3, 256]).contains("at most one"));
}

#[test]
fn steps_can_be_for_one_input() {
    let mut other = port(Dtype::Float32, Dtype::Float32, None, &[1, 2]);
    other.declared.name = "y".into();
    let ports = [port(Dtype::Float32, Dtype::Float32, None, &[1, 2]), other];
    let mut pres = Pre::for_ports(&steps(r#"{ step = "scale", factor = 2.0, input = "y" }"#), &ports).unwrap();
    let mut out = vec![0; 8];
    pres[0].run(&numbers(&[1.0, 2.0]), &mut out).unwrap();
    assert_eq!(f32s(&out), [1.0, 2.0]);
    pres[1].run(&numbers(&[1.0, 2.0]), &mut out).unwrap();
    assert_eq!(f32s(&out), [2.0, 4.0]);
    let problem = Pre::for_ports(&steps(r#"{ step = "scale", input = "z" }"#), &ports).unwrap_err();
    assert_eq!(problem.key, "pre[0].input");
}

#[test]
fn unknown_keys_are_refused_and_steps_print_as_they_are_read() {
    assert!(toml::from_str::<PreStep>("step = \"scale\"\nfactr = 1.0").is_err());
    assert!(toml::from_str::<PreStep>("step = \"sclae\"").is_err());
    let all = r#"{ step = "layout", order = "ncl" }, { step = "scale", factor = 0.5 }, { step = "resize", mode = "fit", pad = 114 },
        { step = "normalize", mean = [1.0], std = [2] }, { step = "channels", order = "bgr" }, { step = "window", function = "hann" }"#;
    for step in steps(all) {
        let text = toml::to_string(&step).unwrap();
        assert_eq!(toml::from_str::<PreStep>(&text).unwrap(), step, "{text}");
    }
}

proptest! {
    #[test]
    fn one_pass_equals_map_then_quantize(
        values in proptest::collection::vec(-1e4f32..1e4, 12), factor in 1e-3f64..10.0, offset in -10.0f64..10.0, signed in any::<bool>()
    ) {
        let (dtype, quant) = if signed { (Dtype::Int8, I8) } else { (Dtype::Uint8, U8) };
        let port = port(Dtype::Float32, dtype, quant, &[1, 12]);
        let text = format!(r#"{{ step = "scale", factor = {factor:?}, offset = {offset:?} }}"#);
        let expected: Vec<u8> = values
            .iter()
            .map(|&v| quant.unwrap().quantize((factor * f64::from(v) + offset) as f32, dtype) as u8)
            .collect();
        prop_assert_eq!(run(&text, &port, &numbers(&values)).unwrap(), expected);
    }
}
