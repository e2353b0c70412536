use super::*;
use crate::tensor::Quant;

fn port(name: &str, native: Dtype, quant: Option<Quant>, shape: &[usize]) -> Port {
    let spec = |dtype, quant| TensorSpec { name: name.into(), dtype, shape: shape.to_vec(), quant };
    Port { declared: spec(Dtype::Float32, None), native: spec(native, quant) }
}

const HALVES: Option<Quant> = Some(Quant { scale: 0.5, zero_point: 10 });

fn steps(text: &str) -> Vec<PostStep> {
    #[derive(Deserialize)]
    struct File {
        post: Vec<PostStep>,
    }
    toml::from_str::<File>(&format!("post = [{text}]")).unwrap().post
}

fn labels() -> Labels {
    Labels::parse("healthy\nimbalance\nbearing_fault").unwrap()
}

fn post(text: &str, labels: Option<&Labels>) -> Result<Post, Problem> {
    let (input, output) = (port("x", Dtype::Int8, HALVES, &[1, 3]), port("y", Dtype::Int8, HALVES, &[1, 3]));
    Post::new(&steps(text), labels, &[output], &[input])
}

fn answer(text: &str, labels: Option<&Labels>, output: [i8; 3]) -> serde_json::Value {
    let bytes: Vec<u8> = output.iter().map(|&v| v as u8).collect();
    let found = post(text, labels).unwrap().run(&mut Scratch::default(), &[&[10, 12, 14]], &[&bytes], None).unwrap();
    serde_json::to_value(found).unwrap()
}

#[test]
fn quantized_scores_become_probabilities_and_labels() {
    let found = answer(r#"{ step = "softmax" }, { step = "top_k", k = 2 }"#, Some(&labels()), [10, 10, 14]);
    assert_eq!(found["label"], "bearing_fault");
    let expected = 2f64.exp() / (2.0 + 2f64.exp());
    assert!((found["score"].as_f64().unwrap() - expected).abs() < 1e-6);
    assert_eq!(found["top"].as_array().unwrap().len(), 2);
    assert_eq!(found["top"][1]["label"], "healthy");
    assert_eq!(found["top"][1]["index"], 0);
}

#[test]
fn without_steps_labels_give_scores_as_they_are_and_no_labels_the_raw_output() {
    let found = answer("", Some(&labels()), [10, 14, 11]);
    assert_eq!((&found["label"], &found["score"]), (&"imbalance".into(), &2.0.into()));
    let found = answer("", None, [9, 14, 11]);
    assert_eq!(found["outputs"][0], serde_json::json!({"name": "y", "dtype": "float32", "shape": [1, 3], "data": [-0.5, 2.0, 0.5]}));
}

#[test]
fn raw_is_not_changed_by_other_steps_and_integers_stay_integers() {
    let found = answer(r#"{ step = "softmax" }, { step = "raw" }"#, None, [10, 12, 14]);
    assert_eq!(found["outputs"][0]["data"], serde_json::json!([0.0, 1.0, 2.0]));
    let mut output = port("y", Dtype::Int64, None, &[1, 1]);
    output.declared.dtype = Dtype::Int64;
    let post = Post::new(&[], None, &[output], &[]).unwrap();
    let found = post.run(&mut Scratch::default(), &[], &[&(i64::MAX - 1).to_le_bytes()], None).unwrap();
    assert_eq!(found.outputs[0].data, RawValues::Integers(vec![i64::MAX - 1]));
}

#[test]
fn anomaly_is_the_mean_square_of_dequantized_differences() {
    let found = answer(r#"{ step = "anomaly", threshold = 0.4 }"#, None, [10, 10, 13]);
    assert!((found["anomaly"]["score"].as_f64().unwrap() - (1.0 + 0.25) / 3.0).abs() < 1e-6);
    assert_eq!(found["anomaly"]["anomalous"], true);
}

#[test]
fn alarms_count_per_sensor_and_requests_have_none() {
    let text = r#"{ step = "top_k" }, { step = "alarm", label = "bearing_fault", threshold = 1.5, release = 0.5, hits = 2, of = 3 },
        { step = "anomaly" }, { step = "alarm", threshold = 0.1 }"#;
    let (labels, mut states, mut scratch) = (labels(), AlarmStates::default(), Scratch::default());
    let post = post(text, Some(&labels)).unwrap();
    let mut see = |source: Option<&str>, last: u8| {
        let alarms = source.map(|source| (&mut states, source));
        post.run(&mut scratch, &[&[10, 10, 14]], &[&[10, 10, last]], alarms).unwrap().alarms
    };
    assert!(see(None, 14).is_empty());
    let first = see(Some("a"), 14);
    assert_eq!(first.iter().map(|a| (&*a.name, a.on)).collect::<Vec<_>>(), [("bearing_fault", false), ("anomaly", false)]);
    assert!(!see(Some("b"), 14)[0].on);
    let second = see(Some("a"), 14);
    assert_eq!((second[0].on, second[0].changed, second[0].score), (true, true, 2.0));
    assert!(see(Some("a"), 12)[0].on, "inside the band");
    let other = see(Some("b"), 10);
    assert_eq!((other[0].on, other[1].on, other[1].changed), (false, true, true));
}

#[test]
fn what_the_engine_gets_wrong_is_its_failure() {
    let output = port("y", Dtype::Float32, None, &[1, 2]);
    let post = Post::new(&[], None, &[output], &[]).unwrap();
    let bytes = [1f32.to_le_bytes(), f32::NAN.to_le_bytes()].concat();
    let rejection = post.run(&mut Scratch::default(), &[], &[&bytes], None).unwrap_err();
    assert_eq!(rejection.code, Code::EngineFailed);
    assert!(rejection.message.contains("element 1 is NaN"), "{rejection}");
    assert_eq!(post.run(&mut Scratch::default(), &[], &[&[0; 3]], None).unwrap_err().code, Code::EngineFailed);
    assert_eq!(post.run(&mut Scratch::default(), &[], &[], None).unwrap_err().code, Code::EngineFailed);
}

#[test]
fn steps_that_do_not_fit_are_named_by_key() {
    let labels = labels();
    let cases = [
        (r#"{ step = "top_k", k = 0 }"#, "post[0].k: "),
        (r#"{ step = "softmax" }, { step = "top_k", output = "z" }"#, "post[1].output: the model has no output `z`"),
        (r#"{ step = "alarm", label = "nobody", threshold = 0.5 }"#, "post[0].label: no class `nobody`: expected one of healthy"),
        (r#"{ step = "alarm", threshold = 0.5 }"#, "post[0].label: "),
        (r#"{ step = "alarm", label = "healthy", threshold = 0.5, release = 0.6 }"#, "post[0].release: "),
        (r#"{ step = "alarm", label = "healthy", threshold = 0.5, hits = 3, of = 2 }"#, "post[0].hits: "),
        (r#"{ step = "alarm", label = "healthy", threshold = 0.5, hits = 0 }"#, "post[0].hits: "),
        (r#"{ step = "alarm", label = "healthy", threshold = 0.5, hits = 1, of = 65 }"#, "post[0].of: "),
        (
            r#"{ step = "alarm", label = "healthy", threshold = 0.5 }, { step = "alarm", label = "healthy", threshold = 0.9 }"#,
            "post[1].name: ",
        ),
        (r#"{ step = "anomaly", threshold = -1.0 }"#, "post[0].threshold: "),
        (r#"{ step = "anomaly", input = "z" }"#, "post[0].input: "),
    ];
    for (text, start) in cases {
        let found = post(text, Some(&labels)).err().map(|p| p.to_string()).unwrap_or_default();
        assert!(found.starts_with(start), "{text}: {found}");
    }
}

#[test]
fn labels_that_do_not_match_the_classes_say_both_numbers() {
    let two = Labels::parse("a\nb").unwrap();
    let problem = post("", Some(&two)).err().unwrap();
    assert_eq!(problem.key, "labels");
    assert!(problem.message.contains("2 labels") && problem.message.contains("3 classes"), "{problem}");
    let image = port("mask", Dtype::Int8, HALVES, &[1, 3, 4]);
    let problem = Post::new(&steps(r#"{ step = "softmax" }"#), None, &[image], &[]).err().unwrap();
    assert!(problem.message.contains("one list of scores"), "{problem}");
}

#[test]
fn unknown_keys_are_refused_and_steps_print_as_they_are_read() {
    assert!(toml::from_str::<PostStep>("step = \"top_k\"\nn = 1").is_err());
    assert!(toml::from_str::<PostStep>("step = \"alarm\"\nlabel = \"a\"").is_err());
    let all = r#"{ step = "softmax" }, { step = "sigmoid" }, { step = "top_k", k = 5 }, { step = "anomaly", threshold = 0.5 }, { step = "raw" },
        { step = "alarm", label = "a", threshold = 0.5, release = 0.25, hits = 3, of = 5, name = "b" }"#;
    for step in steps(all) {
        let text = toml::to_string(&step).unwrap();
        assert_eq!(toml::from_str::<PostStep>(&text).unwrap(), step, "{text}");
    }
}
