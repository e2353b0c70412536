//! What `inspect` tells.

use crate::build::{self, Dim};
use jouled::engine::{Limits, Model, RunsIn};

#[test]
fn a_qdq_convolution() {
    let bytes = build::bytes(&build::qdq_conv(Dim::Of(1)));
    let model = Model::from_bytes(&bytes, "conv", &Limits::default()).unwrap();
    let report = model.report();
    assert_eq!((report.file_bytes, report.digest.as_str()), (bytes.len() as u64, model.digest()));
    assert_eq!(report.digest.len(), 64);
    let conv = report.nodes.iter().find(|n| n.op == "Conv").unwrap();
    assert_eq!((conv.macs, conv.parameters, conv.runs_in), (60 * 27, 56, RunsIn::Int8));
    assert!(conv.reason.contains("int8"), "{}", conv.reason);
    assert_eq!(conv.outputs[0].shape, [1, 2, 6, 5]);
    let at_load: Vec<&str> = report.nodes.iter().filter(|n| n.runs_in == RunsIn::Load).map(|n| n.name.as_str()).collect();
    assert_eq!(at_load, ["QuantizeLinear to x_q", "DequantizeLinear to w_f", "DequantizeLinear to b_f"]);
    let totals = &report.totals;
    assert_eq!((totals.parameters, totals.macs, totals.int8_share), (56, 1620, 1.0));
    // Quantized input and output of the fused convolution: 90 + 60. The float output alone is more: 60 + 240.
    assert_eq!(totals.max_live_bytes, 300);
    assert!(totals.activation_bytes >= 240 && totals.engine_weight_bytes >= 54 * 4, "{totals:?}");
    assert!(!report.engine_nodes.is_empty());
}

#[test]
fn the_printed_table_and_the_json_tell_the_same() {
    let model = Model::from_bytes(&build::bytes(&build::int8_head()), "head.onnx", &Limits::default()).unwrap();
    let text = model.report().to_string();
    for word in ["head.onnx", "int8[1, 2, 2]", "zero point -3", "Gemm", "12 MACs", model.digest()] {
        assert!(text.contains(word), "`{word}` is not in:\n{text}");
    }
    let json = serde_json::to_value(model.report()).unwrap();
    assert_eq!(json["totals"]["macs"], 12);
    assert_eq!(json["inputs"][0]["declared"]["dtype"], "int8");
    assert_eq!(json["nodes"][3]["runs_in"], "float");
}
