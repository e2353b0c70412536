//! Networks with dynamic quantization: our kernels against the plain evaluation, bit for bit, and against tract's own operators.

use crate::build::{self, f32s, fixed, i8s, i64s, node, port, u8s, with_int, with_ints};
use crate::net::Dice;
use jouled::engine::{Engine, Limits, Model, RunsIn};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, NodeProto, TensorProto};

/// `x` of shape `input` -> `MatMulInteger` or `ConvInteger` with weights of shape `weights` -> `y`, as exporters write it.
struct Net<'a> {
    integer: NodeProto,
    input: &'a [i64],
    weights: &'a [i64],
    output: &'a [i64],
    /// uint8 weights with a zero point, else int8.
    unsigned: bool,
    /// One scale and zero point an output channel.
    per_channel: bool,
    /// Shape of the bias; one that is only reshaped to it where it is another than `[channels]`.
    bias: Option<&'a [i64]>,
}

impl Net<'_> {
    fn channels(&self) -> i64 {
        if self.integer.op_type == "ConvInteger" { self.weights[0] } else { self.weights[1] }
    }

    fn weights(&self, dice: &mut Dice) -> [TensorProto; 3] {
        let count = if self.per_channel { self.channels() } else { 1 };
        let dims: &[i64] = if self.per_channel { &[count] } else { &[] };
        let bytes: Vec<u8> = (0..self.weights.iter().product::<i64>()).map(|_| dice.below(256) as u8).collect();
        let zeros: Vec<u8> = (0..count).map(|_| 100 + dice.below(50) as u8).collect();
        let scales: Vec<f32> = (0..count).map(|_| dice.between(0.001, 0.02)).collect();
        let signed: Vec<i8> = bytes.iter().map(|&b| b as i8).collect();
        let [w, z] = match self.unsigned {
            true => [u8s("w", self.weights, &bytes), u8s("w zero", dims, &zeros)],
            false => [i8s("w", self.weights, &signed), i8s("w zero", dims, &vec![0; count as usize])],
        };
        [w, z, f32s("w scale", dims, &scales)]
    }

    fn proto(&self, dice: &mut Dice) -> ModelProto {
        let mut integer = self.integer.clone();
        integer.input = ["x quantized", "w", "x zero", "w zero"].map(str::to_string).to_vec();
        integer.output = vec!["sum".to_string()];
        let mut nodes = vec![
            node("DynamicQuantizeLinear", &["x"], &["x quantized", "x scale", "x zero"]),
            integer,
            with_int(node("Cast", &["sum"], &["sum real"]), "to", 1),
            node("Mul", &["x scale", "w scale"], &["scales"]),
        ];
        let mut constants = self.weights(dice).to_vec();
        // The scale of a convolution's channel lies along the second axis.
        let scales = match self.per_channel && self.integer.op_type == "ConvInteger" {
            true => {
                let ones = vec![1; self.output.len() - 2];
                constants.push(i64s("scales shape", &[self.output.len() as i64], &[&[1, self.channels()], &ones[..]].concat()));
                nodes.push(node("Reshape", &["scales", "scales shape"], &["scales in place"]));
                "scales in place"
            }
            false => "scales",
        };
        let Some(bias) = self.bias else {
            nodes.push(node("Mul", &["sum real", scales], &["y"]));
            return self.model(constants, nodes);
        };
        nodes.push(node("Mul", &[scales, "sum real"], &["product"]));
        let values: Vec<f32> = (0..self.channels()).map(|_| dice.between(-3.0, 3.0)).collect();
        constants.push(f32s("b", &[self.channels()], &values));
        constants.push(i64s("b shape", &[bias.len() as i64], bias));
        nodes.push(node("Reshape", &["b", "b shape"], &["b in place"]));
        nodes.push(node("Add", &["product", if bias.len() == 1 { "b" } else { "b in place" }], &["y"]));
        self.model(constants, nodes)
    }

    fn model(&self, constants: Vec<TensorProto>, nodes: Vec<NodeProto>) -> ModelProto {
        let at = |name, shape| vec![port(name, DataType::Float, &fixed(shape))];
        build::model(at("x", self.input), constants, nodes, at("y", self.output))
    }
}

/// A product or a convolution, the same for the same number.
pub fn example(number: usize) -> ModelProto {
    let dice = &mut Dice(number as u64);
    let (unsigned, per_channel) = (number & 2 > 0, number & 4 > 0);
    let net = match number & 1 {
        0 => Net {
            integer: node("MatMulInteger", &[], &[]),
            input: &[1, 4, 9],
            weights: &[9, 5],
            output: &[1, 4, 5],
            unsigned,
            per_channel,
            bias: (number & 8 > 0).then_some(&[5][..]),
        },
        _ => Net {
            integer: with_ints(node("ConvInteger", &[], &[]), "pads", &[1, 1, 1, 1]),
            input: &[1, 3, 5, 6],
            weights: &[4, 3, 3, 3],
            output: &[1, 4, 5, 6],
            unsigned,
            per_channel,
            bias: (number & 8 > 0).then_some(&[1, 4, 1, 1][..]),
        },
    };
    net.proto(dice)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Runs the network by our kernels on one and three threads, by the plain evaluation, and by tract.
fn compare(net: &Net) {
    let proto = net.proto(&mut Dice(7));
    let bytes = build::bytes(&proto);
    let load = |engine| Model::from_bytes_for(&bytes, "net", &Limits::default(), engine).unwrap();
    let native = load(Engine::Native);
    let nodes = &native.report().engine_nodes;
    let batched = net.integer.op_type == "ConvInteger" && net.input[0] > 1;
    let what = format!("{:?}", proto.graph.as_ref().unwrap().node);
    let totals = &native.report().totals;
    if !batched {
        assert!(nodes.len() == 1 && nodes[0].op.contains("quantized as it comes"), "{nodes:?}\n{what}");
        assert_eq!((totals.macs, totals.int8_share), (nodes[0].macs, 1.0), "{what}");
    }
    assert!(native.report().nodes.iter().filter(|n| n.op.ends_with("Integer")).all(|n| n.runs_in == RunsIn::Int8));
    let mut plain = load(Engine::Reference).session(1).unwrap();
    let mut tract = load(Engine::Tract).session(1).unwrap();
    for (seed, scale) in [(1, 1.0), (2, 1000.0), (3, 0.0), (4, 1e-3)] {
        let mut dice = Dice(seed);
        let input: Vec<u8> = (0..net.input.iter().product::<i64>()).flat_map(|_| (dice.between(-1.0, 2.0) * scale).to_le_bytes()).collect();
        for session in [&mut plain, &mut tract] {
            session.input_mut(0).copy_from_slice(&input);
            session.run().unwrap();
        }
        for threads in [1, 3] {
            let mut session = native.session(threads).unwrap();
            session.input_mut(0).copy_from_slice(&input);
            session.run().unwrap();
            assert_eq!(session.output(0), plain.output(0), "input {seed} on {threads} threads\n{what}");
        }
        let largest = floats(plain.output(0)).iter().fold(0f32, |m, v| m.max(v.abs()));
        if scale > 0.0 {
            let differences = floats(plain.output(0)).into_iter().zip(floats(tract.output(0))).map(|(a, b)| (a - b).abs());
            let far = differences.fold(0f32, f32::max);
            assert!(far <= 1e-6 * largest, "input {seed}: {far} of {largest}\n{what}");
        }
    }
}

#[test]
fn matrix_products_quantize_their_input_as_it_comes() {
    let integer = node("MatMulInteger", &[], &[]);
    for (input, weights, output) in [
        (&[1i64, 33][..], &[33i64, 20][..], &[1i64, 20][..]),
        (&[7, 64], &[64, 16], &[7, 16]),
        (&[1, 9, 5], &[5, 3], &[1, 9, 3]),
        (&[2, 3, 4, 8], &[8, 1], &[2, 3, 4, 1]),
    ] {
        for (unsigned, per_channel, biased) in [(false, false, false), (true, false, true), (true, true, true)] {
            let bias = [weights[1]];
            let net = Net { integer: integer.clone(), input, weights, output, unsigned, per_channel, bias: biased.then_some(&bias[..]) };
            compare(&net);
        }
    }
}

#[test]
fn convolutions_quantize_their_input_as_it_comes() {
    let conv = || node("ConvInteger", &[], &[]);
    let padded = || with_ints(conv(), "pads", &[1, 1, 1, 1]);
    for (integer, input, weights, output) in [
        (conv(), &[1i64, 3, 6, 5][..], &[4i64, 3, 3, 3][..], &[1i64, 4, 4, 3][..]),
        (with_ints(padded(), "strides", &[2, 2]), &[1, 8, 7, 9], &[17, 8, 3, 3], &[1, 17, 4, 5]),
        (with_int(padded(), "group", 6), &[1, 6, 5, 5], &[6, 1, 3, 3], &[1, 6, 5, 5]),
        (conv(), &[1, 24, 1, 1], &[8, 24, 1, 1], &[1, 8, 1, 1]),
        (conv(), &[3, 4, 5, 5], &[2, 4, 2, 2], &[3, 2, 4, 4]),
        (with_ints(conv(), "pads", &[2, 2]), &[1, 2, 20], &[5, 2, 5], &[1, 5, 20]),
    ] {
        let bias = [&[1, weights[0]], &vec![1; weights.len() - 2][..]].concat();
        for (unsigned, biased) in [(false, false), (true, true)] {
            let bias = biased.then_some(&bias[..]);
            compare(&Net { integer: integer.clone(), input, weights, output, unsigned, per_channel: false, bias });
        }
    }
}
