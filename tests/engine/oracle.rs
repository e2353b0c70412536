//! Our kernels against the plain evaluation of the same operators, bit for bit, on random networks.
//!
//! A failure prints the smallest list of genes that proptest finds, and the network they make. `PROPTEST_CASES` says how many
//! networks are tried.

use crate::build::{self, f32s, fixed, i64s, model, node, port, u8s, with_ints};
use crate::net::{Dice, Gene, SINGLE, network};
use jouled::engine::{Engine, Limits, Model, RunsIn, Session, read_output};
use jouled::tensor::Dtype;
use proptest::prelude::*;
use std::panic::catch_unwind;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto};

/// A line a node: operator, what it reads, what it makes, its attributes.
pub fn picture(proto: &ModelProto) -> String {
    let attribute = |a: &AttributeProto| format!(" {}={}{:?}{}", a.name, a.i, a.ints, String::from_utf8_lossy(&a.s));
    let attributes = |n: &NodeProto| n.attribute.iter().map(attribute).collect::<String>();
    let nodes = proto.graph.iter().flat_map(|g| &g.node);
    nodes.map(|n| format!("{} {:?} -> {:?}{}\n", n.op_type, n.input, n.output, attributes(n))).collect()
}

/// Random numbers in an input, or only the ends of its range.
pub fn fill(session: &mut Session, index: usize, dice: &mut Dice, ends: bool) {
    let dtype = session.model().inputs()[index].native.dtype;
    let bytes = session.input_mut(index);
    match dtype {
        Dtype::Float32 => {
            for value in bytes.chunks_exact_mut(4) {
                let real = if ends { [-1e6, 1e6][dice.below(2)] } else { dice.between(-6.0, 6.0) };
                value.copy_from_slice(&real.to_le_bytes());
            }
        }
        _ => bytes.iter_mut().for_each(|b| *b = if ends { [0, 127, 128, 255][dice.below(4)] } else { dice.below(256) as u8 }),
    }
}

/// Runs the network on changing inputs, the first of them again at the end.
fn compare(proto: &ModelProto) -> Result<(), TestCaseError> {
    let _ = env_logger::builder().is_test(true).try_init();
    let bytes = build::bytes(proto);
    let load = |engine| {
        let model = Model::from_bytes_for(&bytes, "net", &Limits::default(), engine);
        model.map_err(|e| TestCaseError::fail(format!("{engine:?}: {e}\n{}", picture(proto))))
    };
    let (native, reference) = (load(Engine::Native)?, load(Engine::Reference)?);
    let mut expected = reference.session(1).unwrap();
    let mut found = [1, 3].map(|threads| native.session(threads).unwrap());
    for (round, seed) in [1, 2, 3, 1].into_iter().enumerate() {
        for index in 0..reference.inputs().len() {
            fill(&mut expected, index, &mut Dice(seed + index as u64), seed == 2);
            found.iter_mut().for_each(|s| s.input_mut(index).copy_from_slice(expected.input(index)));
        }
        expected.run().unwrap();
        for session in &mut found {
            session.run().unwrap();
            for (index, port) in native.outputs().iter().enumerate() {
                let (found, expected) = (session.output(index), expected.output(index));
                let first = found.iter().zip(expected).position(|(a, b)| a != b);
                let name = &port.native.name;
                let why = || format!("round {round}, output `{name}` {:?}, byte {first:?}:\n{found:?}\n{expected:?}", port.native.shape);
                prop_assert!(found == expected, "{}\n{}", why(), picture(proto));
            }
        }
    }
    prop_assert!(native.picture().is_some() || native.report().engine_nodes.is_empty(), "tract runs it\n{}", picture(proto));
    Ok(())
}

/// How many networks are tried.
pub fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn genes() -> impl Strategy<Value = Vec<Gene>> {
    prop::collection::vec((any::<u8>(), any::<u32>()), 1..14)
}

/// Writes networks as files, to begin fuzzing with or to compare with other engines: `JOULED_NETWORKS=folder`, and
/// `JOULED_GENES=1` for those of one operator.
#[test]
#[ignore = "writes files"]
fn write_networks() {
    let folder = std::path::PathBuf::from(std::env::var_os("JOULED_NETWORKS").expect("JOULED_NETWORKS names a folder"));
    let genes = std::env::var("JOULED_GENES").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    for seed in 0..u64::from(cases(200)) {
        let mut dice = Dice(seed);
        let ways = if genes == 1 { usize::from(SINGLE) } else { 256 };
        let genes: Vec<Gene> = (0..genes).map(|_| (dice.below(ways) as u8, dice.next() as u32)).collect();
        std::fs::write(folder.join(format!("{seed}.onnx")), build::bytes(&network(seed as u32, &genes))).unwrap();
    }
}

/// What one step of an output is worth: 1 for integers, else the scale of the `DequantizeLinear` that makes it.
fn step(proto: &ModelProto, output: &str) -> f32 {
    let graph = proto.graph.as_ref().unwrap();
    let last = graph.node.iter().find(|n| n.output[0] == output && n.op_type == "DequantizeLinear");
    let scale = last.and_then(|n| graph.initializer.iter().find(|t| t.name == n.input[1]));
    scale.map_or(1.0, |t| f32::from_le_bytes(t.raw_data[..4].try_into().unwrap()))
}

/// One operator as tract runs it, in float, from the model as its author wrote it: no more than one step away.
fn compare_with_tract(proto: &ModelProto) -> Result<(), TestCaseError> {
    let bytes = build::bytes(proto);
    let load = |engine| Model::from_bytes_for(&bytes, "net", &Limits::default(), engine);
    // What tract has no operator for is compared elsewhere.
    let (Ok(tract), Ok(ours)) = (load(Engine::Tract), load(Engine::Native)) else { return Err(TestCaseError::reject("tract")) };
    let [mut expected, mut found] = [&tract, &ours].map(|model| model.session(1).unwrap());
    for index in 0..tract.inputs().len() {
        fill(&mut expected, index, &mut Dice(7 + index as u64), false);
        found.input_mut(index).copy_from_slice(expected.input(index));
    }
    expected.run().unwrap();
    found.run().unwrap();
    for (index, port) in ours.outputs().iter().enumerate() {
        let [a, b] = [&found, &expected].map(|session| read_output(session, index).to_f32());
        let step = step(proto, &port.native.name) * 1.001;
        let far = a.iter().zip(&b).position(|(a, b)| (a - b).abs() > step);
        let shapes: Vec<_> = ours.inputs().iter().map(|p| &p.native.shape).chain([&port.native.shape]).collect();
        prop_assert!(far.is_none(), "output `{}` of {shapes:?} at {far:?}:\n{a:?}\n{b:?}\n{}", port.native.name, picture(proto));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(200), max_shrink_iters: 2000, max_global_rejects: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_networks_compute_what_their_operators_say(genes in genes(), seed in any::<u32>()) {
        let proto = network(seed, &genes);
        let panicked = |_| Err(TestCaseError::fail(format!("panic\n{}", picture(&proto))));
        catch_unwind(|| compare(&proto)).unwrap_or_else(panicked)?;
    }

    #[test]
    fn single_operators_are_no_more_than_a_step_from_tract(way in 0..SINGLE, detail in any::<u32>(), seed in any::<u32>()) {
        compare_with_tract(&network(seed, &[(way, detail)]))?;
    }
}

/// Among others, one value is two outputs, and a third operator makes it once more.
#[test]
fn networks_that_the_random_ones_found() {
    let found: [(u32, &[Gene]); 1] = [(1694, &[(178, 3_329_747_916), (198, 27_103_397), (114, 3_684_058_077), (32, 356_688_491)])];
    found.into_iter().for_each(|(seed, genes)| compare(&network(seed, genes)).unwrap());
}

/// A normalization, then operators that only move elements, then the quantization of what they moved.
#[test]
fn quantization_passes_above_what_moves_elements() {
    let nodes = vec![
        node("DequantizeLinear", &["x", "s", "z"], &["f"]),
        node("LayerNormalization", &["f", "g"], &["n"]),
        with_ints(node("Transpose", &["n"], &["t"]), "perm", &[0, 2, 1, 3]),
        node("Reshape", &["t", "shape"], &["r"]),
        node("QuantizeLinear", &["r", "s", "z"], &["y"]),
    ];
    let constants =
        vec![f32s("s", &[], &[0.05]), u8s("z", &[], &[120]), f32s("g", &[4], &[1.0, 0.5, -1.0, 2.0]), i64s("shape", &[3], &[1, 3, 8])];
    let [input, output] = [("x", &[1, 2, 3, 4][..]), ("y", &[1, 3, 8])].map(|(name, shape)| port(name, DataType::Uint8, &fixed(shape)));
    let mut proto = model(vec![input], constants, nodes, vec![output]);
    proto.opset_import[0].version = 17;
    compare(&proto).unwrap();
    compare_with_tract(&proto).unwrap();
    let model = Model::from_bytes(&build::bytes(&proto), "net", &Limits::default()).unwrap();
    let report = model.report();
    let norm = report.nodes.iter().find(|n| n.op == "LayerNormalization").unwrap();
    assert_eq!(norm.runs_in, RunsIn::Int8, "{report}");
}
