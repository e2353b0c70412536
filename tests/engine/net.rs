//! Random quantized networks, each a pure function of a seed and a list of genes: a gene adds an operator on values that are there,
//! or nothing where none fits. Without some of its genes a network is still one, so that a failure shrinks.

use crate::build::{f32s, fixed, i8s, i32s, i64s, microsoft, model, node, port, u8s, with_float, with_int, with_ints, with_text};
use std::collections::HashMap;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto};

/// Which operator, and the seed of its details.
pub type Gene = (u8, u32);

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `n - 1`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn from(&mut self, list: &[usize]) -> usize {
        list[self.below(list.len())]
    }
}

/// Scale and zero point of an activation, the latter as the model has it.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Type {
    scale: f32,
    zero: i32,
    unsigned: bool,
}

/// A quantized activation. Behind `sunk` it is known only as real, as a layout operator below a `DequantizeLinear` leaves it.
#[derive(Clone, Debug)]
struct Value {
    quantized: Option<String>,
    real: Option<String>,
    shape: Vec<usize>,
    ty: Type,
    readers: usize,
    is_input: bool,
}

struct Net {
    dice: Dice,
    /// The type that many values have.
    common: Type,
    values: Vec<Value>,
    inputs: Vec<ValueInfoProto>,
    constants: HashMap<String, TensorProto>,
    nodes: Vec<NodeProto>,
    count: usize,
}

/// Of the ways to add to a network those before this one add a single operator.
pub const SINGLE: u8 = 17;

/// Most elements of a value.
const LARGEST: usize = 4096;

/// The network of these genes.
pub fn network(seed: u32, genes: &[Gene]) -> ModelProto {
    let mut dice = Dice(u64::from(seed));
    let common = random_type(&mut dice);
    let mut net = Net { dice, common, values: vec![], inputs: vec![], constants: HashMap::new(), nodes: vec![], count: 0 };
    for _ in 0..1 + net.dice.below(3) {
        net.input();
    }
    let ways: [fn(&mut Net) -> Option<()>; 20] = [
        |net| net.conv(None),
        |net| net.conv(Some(1)),
        Net::depthwise,
        Net::conv_transpose,
        Net::linear,
        Net::matmul,
        Net::sum,
        Net::broadcast,
        Net::concat,
        Net::concat,
        Net::pool,
        Net::global_pool,
        Net::resize,
        Net::activation,
        Net::layout,
        Net::layout,
        Net::along_an_axis,
        Net::residual,
        Net::float_island,
        Net::attention,
    ];
    for &(way, seed) in genes {
        net.dice = Dice(u64::from(seed) << 8);
        let _ = ways[usize::from(way) % ways.len()](&mut net);
    }
    net.finish()
}

fn random_type(dice: &mut Dice) -> Type {
    let unsigned = dice.coin();
    let zero = match dice.below(4) {
        0 => 0,
        1 => [-128, 127][dice.below(2)],
        _ => dice.below(160) as i32 - 80,
    };
    Type { scale: dice.between(0.02, 0.1), zero: zero + if unsigned { 128 } else { 0 }, unsigned }
}

fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&d| d as i64).collect()
}

/// Values, constants and nodes by name.
impl Net {
    fn fresh(&mut self, stem: &str) -> String {
        self.count += 1;
        format!("{stem}{}", self.count)
    }

    fn constant(&mut self, tensor: TensorProto) -> String {
        let name = tensor.name.clone();
        self.constants.insert(name.clone(), tensor);
        name
    }

    fn quantized_constant(&mut self, shape: &[usize], ty: Type) -> String {
        let bytes: Vec<u8> = (0..shape.iter().product()).map(|_| self.dice.below(256) as u8).collect();
        let signed: Vec<i8> = bytes.iter().map(|&b| b as i8).collect();
        let name = self.fresh("k");
        self.constant(if ty.unsigned { u8s(&name, &dims(shape), &bytes) } else { i8s(&name, &dims(shape), &signed) })
    }

    fn real_constant(&mut self, quantized: &str, ty: Type) -> String {
        let ([scale, zero], real) = (self.parameters(ty), self.fresh("kf"));
        self.add("DequantizeLinear", &[quantized, &scale, &zero], &real);
        real
    }

    fn ints(&mut self, values: &[i64]) -> String {
        let name = self.fresh("ints");
        self.constant(i64s(&name, &[values.len() as i64], values))
    }

    /// Names of constants with the scale and zero point.
    fn parameters(&mut self, ty: Type) -> [String; 2] {
        let name = format!("{}_{}_{}", ty.scale, ty.zero, if ty.unsigned { "u" } else { "i" });
        let scale = self.constant(f32s(&format!("s{name}"), &[], &[ty.scale]));
        let zero = format!("z{name}");
        let zero = if ty.unsigned { u8s(&zero, &[], &[ty.zero as u8]) } else { i8s(&zero, &[], &[ty.zero as i8]) };
        [scale, self.constant(zero)]
    }

    fn add(&mut self, op: &str, inputs: &[&str], output: &str) -> &mut NodeProto {
        self.nodes.push(node(op, inputs, &[output]));
        self.nodes.last_mut().unwrap()
    }

    fn change(&mut self, change: impl FnOnce(NodeProto) -> NodeProto) {
        let last = self.nodes.pop().unwrap();
        self.nodes.push(change(last));
    }

    fn push(&mut self, quantized: Option<String>, real: Option<String>, shape: &[usize], ty: Type) -> usize {
        self.values.push(Value { quantized, real, shape: shape.to_vec(), ty, readers: 0, is_input: false });
        self.values.len() - 1
    }

    fn input(&mut self) {
        let (c, h, w) = (1 + self.dice.below(20), 1 + self.dice.below(9), 1 + self.dice.below(9));
        let shape = match self.dice.below(8) {
            0..4 => vec![1, c, h, w],
            4 => vec![1, c, w],
            5 => vec![1, h, c],
            6 => vec![1, c],
            _ => vec![2, c, h, w],
        };
        let (name, ty) = (self.fresh("x"), self.some_type());
        let float = self.dice.coin();
        let dtype = if float { DataType::Float } else { data_type(ty) };
        self.inputs.push(port(&name, dtype, &fixed(&dims(&shape))));
        if float {
            self.quantize(&name, &shape, ty);
        } else {
            let value = self.push(Some(name), None, &shape, ty);
            self.values[value].is_input = true;
        }
    }

    fn some_type(&mut self) -> Type {
        if self.dice.below(3) < 2 { self.common } else { random_type(&mut self.dice) }
    }

    /// A value that fits: often the last one.
    fn pick(&mut self, fits: impl Fn(&Value) -> bool) -> Option<usize> {
        let all: Vec<usize> = (0..self.values.len()).filter(|&v| fits(&self.values[v])).collect();
        if self.dice.coin() { all.last().copied() } else { (!all.is_empty()).then(|| self.dice.from(&all)) }
    }

    fn shape(&self, value: usize) -> Vec<usize> {
        self.values[value].shape.clone()
    }

    /// The value as real: from a `DequantizeLinear` of its own, or one that is there.
    fn real(&mut self, value: usize) -> String {
        self.values[value].readers += 1;
        let keep = self.values[value].quantized.is_none() || self.dice.coin();
        if let Some(name) = self.values[value].real.clone().filter(|_| keep) {
            return name;
        }
        let Value { quantized, ty, .. } = self.values[value].clone();
        let [scale, zero] = self.parameters(ty);
        let name = self.fresh("f");
        self.add("DequantizeLinear", &[&quantized.unwrap(), &scale, &zero], &name);
        self.values[value].real = Some(name.clone());
        name
    }

    /// The value as integers.
    fn quantized(&mut self, value: usize) -> String {
        self.values[value].readers += 1;
        if let Some(name) = self.values[value].quantized.clone() {
            return name;
        }
        let Value { real, ty, .. } = self.values[value].clone();
        let [scale, zero] = self.parameters(ty);
        let name = self.fresh("q");
        self.add("QuantizeLinear", &[&real.unwrap(), &scale, &zero], &name);
        self.values[value].quantized = Some(name.clone());
        name
    }

    fn quantize(&mut self, real: &str, shape: &[usize], ty: Type) -> usize {
        let [scale, zero] = self.parameters(ty);
        let name = self.fresh("q");
        self.add("QuantizeLinear", &[real, &scale, &zero], &name);
        self.push(Some(name), None, shape, ty)
    }

    /// The same, perhaps with an activation before.
    fn quantize_active(&mut self, real: &str, shape: &[usize], ty: Type) -> usize {
        let mut name = real.to_string();
        match self.dice.below(4) {
            0 => {
                name = self.fresh("r");
                self.add("Relu", &[real], &name);
            }
            1 => {
                let (low, high) = (self.fresh("low"), self.fresh("high"));
                let low = self.constant(f32s(&low, &[], &[0.0]));
                let high = self.constant(f32s(&high, &[], &[ty.scale * 60.0]));
                name = self.fresh("r");
                self.add("Clip", &[real, &low, &high], &name);
            }
            _ => {}
        }
        self.quantize(&name, shape, ty)
    }

    /// A node that reads integers, each with its scale and zero point, and makes integers.
    fn native(&mut self, op: &str, inputs: &[String], shape: &[usize], ty: Type) -> usize {
        let name = self.fresh("q");
        self.add(op, &inputs.iter().map(String::as_str).collect::<Vec<_>>(), &name);
        self.push(Some(name), None, shape, ty)
    }

    fn with_parameters(&mut self, value: usize) -> Vec<String> {
        let [scale, zero] = self.parameters(self.values[value].ty);
        vec![self.quantized(value), scale, zero]
    }

    fn finish(mut self) -> ModelProto {
        let mut outputs = Vec::new();
        for value in 0..self.values.len() {
            let Value { readers, is_input, shape, ty, .. } = self.values[value].clone();
            let only = self.values.len() == 1;
            if (readers > 0 && !self.dice.one_in(6)) || (is_input && !only) {
                continue;
            }
            let (name, dtype) = match self.dice.coin() || is_input {
                true => (self.real(value), DataType::Float),
                false => (self.quantized(value), data_type(ty)),
            };
            if outputs.iter().all(|o: &ValueInfoProto| o.name != name) {
                outputs.push(port(&name, dtype, &fixed(&dims(&shape))));
            }
        }
        if outputs.is_empty() {
            let name = self.real(0);
            outputs.push(port(&name, DataType::Float, &fixed(&dims(&self.shape(0)))));
        }
        let mut constants: Vec<TensorProto> = self.constants.into_values().collect();
        constants.sort_by(|a, b| a.name.cmp(&b.name));
        let mut proto = model(self.inputs, constants, self.nodes, outputs);
        proto.opset_import[0].version = 17;
        proto.opset_import.push(OperatorSetIdProto { domain: "com.microsoft".to_string(), version: 1 });
        proto
    }
}

fn data_type(ty: Type) -> DataType {
    if ty.unsigned { DataType::Uint8 } else { DataType::Int8 }
}

/// Constant weights of a product, and its bias.
struct Weights {
    integers: String,
    scale: String,
    zero: String,
    /// Of the weights' axis with the output channels, where there is one scale a channel.
    axis: Option<i64>,
    bias: Option<String>,
    /// The bias as real.
    real_bias: Option<String>,
}

/// Products.
impl Net {
    /// Weights so scaled that sums of `depth` products fill the range of the output.
    fn weights(&mut self, shape: &[usize], axis: usize, depth: usize, from: Type, to: Type, channels: usize) -> Weights {
        let unit = to.scale * 40.0 / (from.scale * 3600.0 * (depth as f32).sqrt());
        let (unsigned, per_channel) = (self.dice.one_in(3), self.dice.coin() && shape[axis] == channels);
        let count = if per_channel { channels } else { 1 };
        let scales: Vec<f32> = (0..count).map(|_| unit * self.dice.between(0.5, 2.0)).collect();
        let symmetric = self.dice.coin();
        let mut zeros: Vec<i32> = (0..count).map(|_| if symmetric { 0 } else { self.dice.below(41) as i32 - 20 }).collect();
        if unsigned {
            zeros.iter_mut().for_each(|z| *z += 128);
        }
        let bytes: Vec<u8> = (0..shape.iter().product()).map(|_| self.dice.below(256) as u8).collect();
        let length: Vec<i64> = if per_channel { vec![channels as i64] } else { vec![] };
        let name = self.fresh("w");
        let (scale, zero) = (f32s(&format!("{name}_s"), &length, &scales), format!("{name}_z"));
        let (integers, zero) = if unsigned {
            (u8s(&name, &dims(shape), &bytes), u8s(&zero, &length, &zeros.iter().map(|&z| z as u8).collect::<Vec<_>>()))
        } else {
            let signed: Vec<i8> = bytes.iter().map(|&b| b as i8).collect();
            (i8s(&name, &dims(shape), &signed), i8s(&zero, &length, &zeros.iter().map(|&z| z as i8).collect::<Vec<_>>()))
        };
        let (integers, scale, zero) = (self.constant(integers), self.constant(scale), self.constant(zero));
        let (bias, real_bias) = self.bias(&name, channels, from, &scales);
        Weights { integers, scale, zero, axis: per_channel.then_some(axis as i64), bias, real_bias }
    }

    /// An int32 bias in units of the sum, and the same as real: a float constant, or behind a `DequantizeLinear`.
    fn bias(&mut self, name: &str, channels: usize, from: Type, scales: &[f32]) -> (Option<String>, Option<String>) {
        if self.dice.one_in(3) {
            return (None, None);
        }
        let values: Vec<i32> = (0..channels).map(|_| self.dice.below(20_000) as i32 - 10_000).collect();
        let integers = self.constant(i32s(&format!("{name}_b"), &[channels as i64], &values));
        let units: Vec<f32> = (0..scales.len()).map(|i| from.scale * scales[i]).collect();
        let real = format!("{name}_f");
        if self.dice.coin() {
            let values: Vec<f32> = (0..channels).map(|i| values[i] as f32 * units[i % units.len()]).collect();
            let real = self.constant(f32s(&real, &[channels as i64], &values));
            return (Some(integers), Some(real));
        }
        let length: Vec<i64> = if units.len() > 1 { vec![channels as i64] } else { vec![] };
        let scale = self.constant(f32s(&format!("{name}_bs"), &length, &units));
        let zero = self.constant(i32s(&format!("{name}_bz"), &length, &vec![0; units.len()]));
        self.add("DequantizeLinear", &[&integers, &scale, &zero], &real);
        if units.len() > 1 {
            self.change(|n| with_int(n, "axis", 0));
        }
        (Some(integers), Some(real))
    }

    /// The real weights.
    fn real_weights(&mut self, weights: &Weights) -> String {
        let name = self.fresh("wf");
        self.add("DequantizeLinear", &[&weights.integers, &weights.scale, &weights.zero], &name);
        if let Some(axis) = weights.axis {
            self.change(|n| with_int(n, "axis", axis));
        }
        name
    }

    fn depthwise(&mut self) -> Option<()> {
        let value = self.pick(|v| v.shape.len() > 2)?;
        let channels = self.values[value].shape[1];
        let multiple = 1 + self.dice.below(4) / 3;
        let ty = self.some_type();
        self.convolve(value, channels, channels * multiple, None, ty).map(|_| ())
    }

    fn conv(&mut self, kernel: Option<usize>) -> Option<()> {
        let value = self.pick(|v| v.shape.len() > 2)?;
        let channels = self.values[value].shape[1];
        let groups = if self.dice.one_in(3) {
            self.dice.from(&(1..=channels).filter(|g| channels.is_multiple_of(*g)).collect::<Vec<_>>())
        } else {
            1
        };
        let out = groups * (1 + self.dice.below(24 / groups.min(24) + 1));
        let ty = self.some_type();
        self.convolve(value, groups, out, kernel, ty).map(|_| ())
    }

    /// A convolution of any geometry, or pointwise.
    fn convolve(&mut self, value: usize, groups: usize, out: usize, kernel: Option<usize>, ty: Type) -> Option<usize> {
        let shape = self.shape(value);
        let mut window = Window { kernel: vec![1; shape.len() - 2], ..Window::default() };
        if kernel.is_none() {
            window = Window::random(&mut self.dice, &shape[2..], true)?;
        }
        let output = [&[shape[0], out], &window.output(&shape[2..])?[..]].concat();
        if output.iter().product::<usize>() > LARGEST {
            return None;
        }
        let depth = shape[1] / groups * window.kernel.iter().product::<usize>();
        let from = self.values[value].ty;
        let weights = self.weights(&[&[out, shape[1] / groups], &window.kernel[..]].concat(), 0, depth, from, ty, out);
        let made = if self.dice.one_in(3) {
            let mut inputs = self.with_parameters(value);
            inputs.extend([weights.integers, weights.scale, weights.zero]);
            inputs.extend(self.parameters(ty));
            inputs.extend(weights.bias);
            let made = self.native("QLinearConv", &inputs, &output, ty);
            self.change(|n| window.attributes(with_int(n, "group", groups as i64)));
            made
        } else {
            let (x, w) = (self.real(value), self.real_weights(&weights));
            let name = self.fresh("c");
            self.add("Conv", &[&[x.as_str(), &w][..], &weights.real_bias.as_deref().into_iter().collect::<Vec<_>>()].concat(), &name);
            self.change(|n| window.attributes(with_int(n, "group", groups as i64)));
            self.quantize_active(&name, &output, ty)
        };
        Some(made)
    }

    /// A convolution that keeps the shape, and the sum of its result and what it read.
    fn residual(&mut self) -> Option<()> {
        let value = self.pick(|v| v.shape.len() > 2)?;
        let (channels, ty) = (self.values[value].shape[1], self.some_type());
        let made = self.convolve(value, 1, channels, Some(1), ty)?;
        let parts = if self.dice.coin() { [value, made] } else { [made, value] };
        self.join(parts)
    }

    fn conv_transpose(&mut self) -> Option<()> {
        let value = self.pick(|v| v.shape.len() > 2)?;
        let shape = self.shape(value);
        let groups = if shape[1].is_multiple_of(2) && self.dice.coin() { 2 } else { 1 };
        let (axes, each) = (shape.len() - 2, 1 + self.dice.below(10));
        let mut draw = |low: usize, n: usize| -> Vec<usize> { (0..axes).map(|_| low + self.dice.below(n)).collect() };
        let (kernel, stride, dilation, extra) = (draw(1, 4), draw(1, 3), draw(1, 2), draw(0, 2));
        let extra: Vec<usize> = extra.iter().zip(&stride).map(|(&e, &s)| e.min(s - 1)).collect();
        let pads: Vec<usize> = [draw(0, 2), draw(0, 2)].concat();
        let size = |a: usize| {
            (stride[a] * (shape[2 + a] - 1) + extra[a] + (kernel[a] - 1) * dilation[a] + 1).checked_sub(pads[a] + pads[a + axes])
        };
        let sizes: Vec<usize> = (0..axes).map(size).collect::<Option<_>>()?;
        let output = [&[shape[0], each * groups], &sizes[..]].concat();
        if sizes.contains(&0) || output.iter().product::<usize>() > LARGEST {
            return None;
        }
        let (from, ty, depth) = (self.values[value].ty, self.some_type(), shape[1] / groups * kernel.iter().product::<usize>());
        // A scale a channel only without groups: `axis` is out of reach otherwise.
        let weights = self.weights(&[&[shape[1], each], &kernel[..]].concat(), 1, depth, from, ty, each * groups);
        let (x, w) = (self.real(value), self.real_weights(&weights));
        let name = self.fresh("c");
        self.add("ConvTranspose", &[&[x.as_str(), &w][..], &weights.real_bias.as_deref().into_iter().collect::<Vec<_>>()].concat(), &name);
        for (key, list) in [("strides", &stride), ("dilations", &dilation), ("output_padding", &extra), ("pads", &pads)] {
            self.change(|n| with_ints(n, key, &dims(list)));
        }
        self.change(|n| with_int(n, "group", groups as i64));
        self.quantize_active(&name, &output, ty);
        Some(())
    }

    fn linear(&mut self) -> Option<()> {
        let value = self.pick(|v| v.shape.len() >= 2)?;
        let (columns, ty) = (1 + self.dice.below(24), self.some_type());
        self.project(value, columns, ty);
        Some(())
    }

    /// The last axis times constant weights.
    fn project(&mut self, value: usize, columns: usize, ty: Type) -> usize {
        let shape = self.shape(value);
        let (rank, depth, from) = (shape.len(), shape[shape.len() - 1], self.values[value].ty);
        let output = [&shape[..rank - 1], &[columns]].concat();
        let (gemm, native) = (rank == 2 && self.dice.coin(), self.dice.one_in(3));
        let transposed = gemm && self.dice.coin();
        let (of, axis) = if transposed { ([columns, depth], 0) } else { ([depth, columns], 1) };
        let weights = self.weights(&of, axis, depth, from, ty, columns);
        if native {
            let mut inputs = self.with_parameters(value);
            inputs.extend([weights.integers, weights.scale, weights.zero]);
            if gemm {
                inputs.push(weights.bias.unwrap_or_default());
            }
            inputs.extend(self.parameters(ty));
            let made = self.native(if gemm { "QGemm" } else { "QLinearMatMul" }, &inputs, &output, ty);
            if gemm {
                self.change(|n| microsoft(with_int(n, "transB", i64::from(transposed))));
            }
            return made;
        }
        let (x, w) = (self.real(value), self.real_weights(&weights));
        let mut name = self.fresh("m");
        let bias: Vec<&str> = weights.real_bias.as_deref().into_iter().collect();
        if gemm {
            self.add("Gemm", &[&[x.as_str(), &w][..], &bias].concat(), &name);
            self.change(|n| with_int(n, "transB", i64::from(transposed)));
        } else {
            self.add("MatMul", &[&x, &w], &name);
            if let [bias] = bias[..] {
                let product = std::mem::replace(&mut name, self.fresh("m"));
                let terms = if self.dice.coin() { [&product, bias] } else { [bias, &product] };
                self.add("Add", &terms, &name);
            }
        }
        self.quantize_active(&name, &output, ty)
    }

    fn matmul(&mut self) -> Option<()> {
        let a = self.pick(|v| v.shape.len() >= 2)?;
        let (shape, rank) = (self.shape(a), self.values[a].shape.len());
        let fits = |v: &Value| v.shape.len() == rank && v.shape[..rank - 2] == shape[..rank - 2] && v.shape[rank - 2] == shape[rank - 1];
        let b = match self.pick(fits) {
            Some(b) => b,
            None => {
                let mut order: Vec<usize> = (0..rank).collect();
                order.swap(rank - 2, rank - 1);
                self.transpose(a, &order)
            }
        };
        self.multiply(a, b).map(|_| ())
    }

    /// The matrix product of two activations.
    fn multiply(&mut self, a: usize, b: usize) -> Option<usize> {
        let (left, right) = (self.shape(a), self.shape(b));
        let rank = left.len();
        let output = [&left[..rank - 1], &right[rank - 1..]].concat();
        if output.iter().product::<usize>() > LARGEST {
            return None;
        }
        let depth = (left[rank - 1] as f32).sqrt();
        let ty = Type { scale: self.values[a].ty.scale * self.values[b].ty.scale * 80.0 * depth, ..random_type(&mut self.dice) };
        if self.dice.one_in(3) {
            let inputs = [self.with_parameters(a), self.with_parameters(b), self.parameters(ty).to_vec()].concat();
            return Some(self.native("QLinearMatMul", &inputs, &output, ty));
        }
        let (x, y, name) = (self.real(a), self.real(b), self.fresh("m"));
        self.add("MatMul", &[&x, &y], &name);
        Some(self.quantize(&name, &output, ty))
    }

    /// Multi-head attention, as exporters write it.
    fn attention(&mut self) -> Option<()> {
        let x = self.pick(|v| v.shape.len() == 3 && v.shape[0] == 1)?;
        let (heads, width, steps) = (1 + self.dice.below(3), 1 + self.dice.below(9), self.values[x].shape[1]);
        let mut parts = Vec::new();
        for order in [[0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]] {
            let ty = self.some_type();
            let projected = self.project(x, heads * width, ty);
            let split = self.reshape(projected, &[1, steps, heads, width]);
            parts.push(self.transpose(split, &order));
        }
        let scores = self.multiply(parts[0], parts[1])?;
        let weights = self.softmax(scores, 3);
        let mixed = self.multiply(weights, parts[2])?;
        let back = self.transpose(mixed, &[0, 2, 1, 3]);
        let joined = self.reshape(back, &[1, steps, heads * width]);
        let ty = self.some_type();
        let columns = self.values[x].shape[2];
        let made = self.project(joined, columns, ty);
        self.join([x, made])
    }
}

/// Geometry of a convolution or a pool.
#[derive(Clone, Debug, Default)]
struct Window {
    kernel: Vec<usize>,
    stride: Vec<usize>,
    dilation: Vec<usize>,
    pads: Vec<usize>,
    automatic: Option<&'static str>,
    ceil: bool,
}

impl Window {
    /// Without `dilated` it is a pool's: no padding as large as the kernel.
    fn random(dice: &mut Dice, spatial: &[usize], dilated: bool) -> Option<Window> {
        let axes = spatial.len();
        let mut draw = |low: usize, n: usize| -> Vec<usize> { (0..axes).map(|_| low + dice.below(n)).collect() };
        let (kernel, stride, dilation) = (draw(1, 5), draw(1, 3), draw(1, 2));
        let pads = [draw(0, 3), draw(0, 3)].concat();
        let dilation = if dilated { dilation } else { vec![1; axes] };
        let pads = pads.iter().enumerate().map(|(i, &p)| if dilated { p } else { p.min(kernel[i % axes] - 1) }).collect();
        let automatic = if dice.one_in(4) { Some(["SAME_UPPER", "SAME_LOWER", "VALID"][dice.below(3)]) } else { None };
        // SAME with dilation is read in several ways by engines.
        let dilation = if automatic.is_some() { vec![1; axes] } else { dilation };
        // So is VALID with rounding up.
        let ceil = !dilated && automatic.is_none() && dice.one_in(4);
        Some(Window { kernel, stride, dilation, pads, automatic, ceil })
    }

    fn output(&self, spatial: &[usize]) -> Option<Vec<usize>> {
        let at = |list: &[usize], i: usize, default: usize| list.get(i).copied().unwrap_or(default);
        let size = |i: usize| {
            let (stride, axes) = (at(&self.stride, i, 1), self.kernel.len());
            let reach = (self.kernel[i] - 1) * at(&self.dilation, i, 1) + 1;
            let (begin, end) = match self.automatic {
                None => (at(&self.pads, i, 0), at(&self.pads, i + axes, 0)),
                Some("VALID") => (0, 0),
                Some(_) => return Some(spatial[i].div_ceil(stride)),
            };
            let room = (spatial[i] + begin + end).checked_sub(reach)?;
            let up = room.div_ceil(stride) + 1;
            let up = if (up - 1) * stride >= spatial[i] + begin { up - 1 } else { up };
            Some(if self.ceil { up } else { room / stride + 1 })
        };
        (0..self.kernel.len()).map(size).collect()
    }

    fn attributes(&self, mut node: NodeProto) -> NodeProto {
        node = with_ints(node, "kernel_shape", &dims(&self.kernel));
        for (key, list) in [("strides", &self.stride), ("dilations", &self.dilation)] {
            if !list.is_empty() && list.iter().any(|&v| v != 1) {
                node = with_ints(node, key, &dims(list));
            }
        }
        match self.automatic {
            Some(mode) => with_text(node, "auto_pad", mode),
            None if self.pads.iter().any(|&p| p > 0) => with_ints(node, "pads", &dims(&self.pads)),
            None => node,
        }
    }
}

/// Everything else.
impl Net {
    /// Sum, difference or product of two values of one shape.
    fn sum(&mut self) -> Option<()> {
        let a = self.pick(|_| true)?;
        let shape = self.shape(a);
        let b = self.pick(|v| v.shape == shape)?;
        self.join([a, b])
    }

    fn join(&mut self, [a, b]: [usize; 2]) -> Option<()> {
        let op = ["Add", "Add", "Add", "Sub", "Mul"][self.dice.below(5)];
        let (left, right, shape) = (self.values[a].ty, self.values[b].ty, self.shape(a));
        let ty = match op {
            "Mul" => Type { scale: left.scale * right.scale * 40.0, ..random_type(&mut self.dice) },
            _ => self.some_type(),
        };
        if op != "Sub" && self.dice.one_in(3) {
            let inputs = [self.with_parameters(a), self.with_parameters(b), self.parameters(ty).to_vec()].concat();
            self.native(&format!("QLinear{op}"), &inputs, &shape, ty);
            self.change(microsoft);
            return Some(());
        }
        let (x, y, name) = (self.real(a), self.real(b), self.fresh("a"));
        self.add(op, &[&x, &y], &name);
        self.quantize_active(&name, &shape, ty);
        Some(())
    }

    /// With a constant or another value that broadcasts.
    fn broadcast(&mut self) -> Option<()> {
        let a = self.pick(|_| true)?;
        let (shape, rank) = (self.shape(a), self.values[a].shape.len());
        let small = |v: &Value| {
            let at = rank.checked_sub(v.shape.len());
            at.is_some_and(|at| v.shape.iter().zip(&shape[at..]).all(|(&b, &a)| b == a || b == 1)) && v.shape != shape
        };
        let ty = random_type(&mut self.dice);
        let other = match self.pick(small).filter(|_| self.dice.coin()) {
            Some(b) => self.real(b),
            None => {
                let from = self.dice.below(rank);
                let of: Vec<usize> = shape[from..].iter().map(|&d| if self.dice.coin() { d } else { 1 }).collect();
                let name = self.quantized_constant(&of, ty);
                self.real_constant(&name, ty)
            }
        };
        let (x, name, op, to) = (self.real(a), self.fresh("a"), ["Add", "Sub", "Mul"][self.dice.below(3)], self.some_type());
        let terms = if self.dice.coin() { [&x, &other] } else { [&other, &x] };
        self.add(op, &terms.map(String::as_str), &name);
        self.quantize_active(&name, &shape, to);
        Some(())
    }

    fn concat(&mut self) -> Option<()> {
        let a = self.pick(|v| v.shape.len() >= 2)?;
        let (shape, rank) = (self.shape(a), self.values[a].shape.len());
        let axis = [1, 1, rank - 1, self.dice.below(rank)][self.dice.below(4)];
        let fits = |v: &Value| v.shape.len() == rank && (0..rank).all(|i| i == axis || v.shape[i] == shape[i]);
        let mut parts = vec![a];
        for _ in 0..1 + self.dice.below(3) {
            parts.push(self.pick(fits)?);
        }
        let ty = if self.dice.coin() { self.values[a].ty } else { self.some_type() };
        let mut output = shape.clone();
        output[axis] = parts.iter().map(|&p| self.values[p].shape[axis]).sum();
        let mut constant = None;
        if self.dice.one_in(3) {
            let mut part = shape.clone();
            part[axis] = 1 + self.dice.below(2);
            output[axis] += part[axis];
            let (ty, place) = (if self.dice.coin() { ty } else { self.some_type() }, self.dice.below(parts.len() + 1));
            constant = Some((self.quantized_constant(&part, ty), ty, place));
        }
        if output.iter().product::<usize>() > LARGEST {
            return None;
        }
        let axis = if self.dice.coin() { axis as i64 } else { axis as i64 - rank as i64 };
        if self.dice.one_in(3) {
            let mut each: Vec<Vec<String>> = parts.iter().map(|&p| self.with_parameters(p)).collect();
            if let Some((name, ty, place)) = constant {
                let [scale, zero] = self.parameters(ty);
                each.insert(place, vec![name, scale, zero]);
            }
            let inputs = [self.parameters(ty).to_vec(), each.concat()].concat();
            self.native("QLinearConcat", &inputs, &output, ty);
            self.change(|n| microsoft(with_int(n, "axis", axis)));
            return Some(());
        }
        let (mut inputs, name) = (parts.iter().map(|&p| self.real(p)).collect::<Vec<_>>(), self.fresh("j"));
        if let Some((constant, ty, place)) = constant {
            inputs.insert(place, self.real_constant(&constant, ty));
        }
        self.add("Concat", &inputs.iter().map(String::as_str).collect::<Vec<_>>(), &name);
        self.change(|n| with_int(n, "axis", axis));
        self.quantize(&name, &output, ty);
        Some(())
    }

    fn pool(&mut self) -> Option<()> {
        let value = self.pick(|v| v.shape.len() > 2)?;
        let (shape, from) = (self.shape(value), self.values[value].ty);
        let mut window = Window::random(&mut self.dice, &shape[2..], false)?;
        let (max, padding) = (self.dice.coin(), self.dice.one_in(3));
        window.ceil &= !padding;
        let output = [&shape[..2], &window.output(&shape[2..])?[..]].concat();
        let ty = if max { from } else { self.some_type() };
        let native = self.dice.one_in(3);
        let name = match (max, native && !self.values[value].is_input) {
            (true, true) => {
                let x = self.quantized(value);
                self.native("MaxPool", &[x], &output, ty);
                None
            }
            (false, true) => {
                let inputs = [self.with_parameters(value), self.parameters(ty).to_vec()].concat();
                self.native("QLinearAveragePool", &inputs, &output, ty);
                self.change(microsoft);
                None
            }
            _ => {
                let (x, name) = (self.real(value), self.fresh("p"));
                self.add(if max { "MaxPool" } else { "AveragePool" }, &[&x], &name);
                Some(name)
            }
        };
        self.change(|n| window.attributes(with_int(n, "ceil_mode", i64::from(window.ceil))));
        if !max {
            self.change(|n| with_int(n, "count_include_pad", i64::from(padding)));
        }
        name.map_or(Some(()), |name| Some(()).filter(|_| self.quantize(&name, &output, ty) > 0))
    }

    fn global_pool(&mut self) -> Option<()> {
        let value = self.pick(|v| v.shape.len() == 4)?;
        let (shape, ty) = (self.shape(value), self.some_type());
        let first = [shape[0], shape[1], 1, 1];
        if self.dice.one_in(3) {
            let inputs = [self.with_parameters(value), self.parameters(ty).to_vec()].concat();
            let last = self.dice.coin();
            let output = if last { [shape[0], 1, 1, shape[3]] } else { first };
            self.native("QLinearGlobalAveragePool", &inputs, &output, ty);
            self.change(|n| microsoft(with_int(n, "channels_last", i64::from(last))));
            return Some(());
        }
        let (x, name) = (self.real(value), self.fresh("p"));
        if self.dice.coin() {
            self.add("GlobalAveragePool", &[&x], &name);
            self.quantize(&name, &first, ty);
            return Some(());
        }
        let (keep, last) = (self.dice.coin(), self.dice.coin());
        let output = match (keep, last) {
            (true, false) => first.to_vec(),
            (true, true) => vec![shape[0], 1, 1, shape[3]],
            (false, last) => vec![shape[0], if last { shape[3] } else { shape[1] }],
        };
        self.add("ReduceMean", &[&x], &name);
        self.change(|n| with_int(with_ints(n, "axes", if last { &[1, 2] } else { &[2, 3] }), "keepdims", i64::from(keep)));
        self.quantize(&name, &output, ty);
        Some(())
    }

    fn resize(&mut self) -> Option<()> {
        let value = self.pick(|v| v.shape.len() == 4)?;
        let (shape, ty) = (self.shape(value), self.values[value].ty);
        let mode = ["nearest", "linear"][self.dice.below(2)];
        // Engines take other lines where rounding decides: nearest ones at whole multiples only.
        let random = [1 + self.dice.below(12), 1 + self.dice.below(12)];
        let multiple = [shape[2] * (1 + self.dice.below(2)), shape[3] * (1 + self.dice.below(2))];
        let sizes = if mode == "linear" { random } else { multiple };
        let scales = [[0.5, 1.0, 1.5, 2.0][self.dice.below(4)], [1.0, 2.0, 2.0, 3.0][self.dice.below(4)]];
        let by_scale = self.dice.coin();
        let size = |i: usize| if by_scale { (shape[2 + i] as f32 * scales[i]).floor() as usize } else { sizes[i] };
        let output = vec![shape[0], shape[1], size(0), size(1)];
        if output.contains(&0) || output.iter().product::<usize>() > LARGEST {
            return None;
        }
        let given = if by_scale {
            let name = self.fresh("scales");
            vec![self.constant(f32s(&name, &[4], &[1.0, 1.0, scales[0], scales[1]]))]
        } else {
            vec![String::new(), self.ints(&dims(&output))]
        };
        let native = self.dice.coin() && !self.values[value].is_input;
        let x = if native { self.quantized(value) } else { self.real(value) };
        let inputs = [vec![x, String::new()], given].concat();
        let name = self.fresh(if native { "q" } else { "z" });
        self.add("Resize", &inputs.iter().map(String::as_str).collect::<Vec<_>>(), &name);
        let nearest = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"][self.dice.below(4)];
        // With a factor, engines disagree about which length `align_corners` means where it is not whole.
        let count = if by_scale { 3 } else { 4 };
        let coordinates = ["half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners"][self.dice.below(count)];
        self.change(|n| with_text(with_text(n, "mode", mode), "coordinate_transformation_mode", coordinates));
        if mode == "nearest" {
            self.change(|n| with_text(n, "nearest_mode", nearest));
        }
        if native {
            self.push(Some(name), None, &output, ty);
        } else {
            self.quantize(&name, &output, ty);
        }
        Some(())
    }

    fn activation(&mut self) -> Option<()> {
        let value = self.pick(|_| true)?;
        let (shape, ty) = (self.shape(value), self.some_type());
        if self.dice.one_in(4) {
            let op = ["QLinearSigmoid", "QLinearLeakyRelu"][self.dice.below(2)];
            let inputs = [self.with_parameters(value), self.parameters(ty).to_vec()].concat();
            self.native(op, &inputs, &shape, ty);
            self.change(microsoft);
            return Some(());
        }
        let mut name = self.real(value);
        let first = name.clone();
        for _ in 0..1 + self.dice.below(3) {
            let op = ["Relu", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "Elu", "Erf", "Mul"][self.dice.below(9)];
            let from = std::mem::replace(&mut name, self.fresh("t"));
            let inputs = if op == "Mul" { vec![from.as_str(), &first] } else { vec![from.as_str()] };
            self.add(op, &inputs, &name);
            if op == "LeakyRelu" {
                self.change(|n| with_float(n, "alpha", 0.1));
            }
        }
        self.quantize(&name, &shape, ty);
        Some(())
    }

    /// An operator that only moves elements: on integers, or on real numbers.
    fn mover(&mut self, op: &str, value: usize, more: &[&str], shape: &[usize]) -> usize {
        let ty = self.values[value].ty;
        let native = self.dice.coin() && self.values[value].quantized.is_some();
        let (x, name) = if native { (self.quantized(value), self.fresh("q")) } else { (self.real(value), self.fresh("f")) };
        self.add(op, &[&[x.as_str()], more].concat(), &name);
        if native { self.push(Some(name), None, shape, ty) } else { self.push(None, Some(name), shape, ty) }
    }

    fn transpose(&mut self, value: usize, order: &[usize]) -> usize {
        let from = self.shape(value);
        let shape: Vec<usize> = order.iter().map(|&a| from[a]).collect();
        let made = self.mover("Transpose", value, &[], &shape);
        self.change(|n| with_ints(n, "perm", &dims(order)));
        made
    }

    fn reshape(&mut self, value: usize, shape: &[usize]) -> usize {
        let to = self.ints(&dims(shape));
        self.mover("Reshape", value, &[&to], shape)
    }

    fn layout(&mut self) -> Option<()> {
        let value = self.pick(|v| v.shape.len() >= 2)?;
        let (shape, rank) = (self.shape(value), self.values[value].shape.len());
        match self.dice.below(7) {
            0 | 1 => {
                let mut order: Vec<usize> = (0..rank).collect();
                (1..rank).for_each(|i| order.swap(i, 1 + self.dice.below(i)));
                self.transpose(value, &order);
            }
            2 if rank > 2 => {
                let to = [&shape[..1], &[shape[1..].iter().product()]].concat();
                self.mover("Flatten", value, &[], &to);
            }
            3 if rank > 2 => {
                let to = [&shape[..2], &[shape[2..].iter().product()]].concat();
                self.reshape(value, &to);
            }
            4 => {
                let axis = self.dice.below(rank);
                let start = self.dice.below(shape[axis]);
                let end = start + 1 + self.dice.below(shape[axis] - start);
                let lists = [start, end, axis].map(|v| self.ints(&[v as i64]));
                let mut to = shape.clone();
                to[axis] = end - start;
                self.mover("Slice", value, &[&lists[0], &lists[1], &lists[2]], &to);
            }
            5 if rank < 4 => {
                let axis = self.dice.below(rank + 1);
                let list = self.ints(&[axis as i64]);
                let mut to = shape.clone();
                to.insert(axis, 1);
                self.mover("Unsqueeze", value, &[&list], &to);
            }
            _ => {
                let axis = (1..rank).find(|&a| shape[a] == 1 && rank > 2)?;
                let list = self.ints(&[axis as i64]);
                let mut to = shape.clone();
                to.remove(axis);
                self.mover("Squeeze", value, &[&list], &to);
            }
        }
        Some(())
    }

    /// Softmax along any axis, LayerNormalization along the last, or BatchNormalization.
    fn along_an_axis(&mut self) -> Option<()> {
        let value = self.pick(|v| v.shape.len() >= 2)?;
        let shape = self.shape(value);
        match self.dice.below(4) {
            0 | 1 => {
                let axis = if self.dice.coin() { shape.len() - 1 } else { self.dice.below(shape.len()) };
                self.softmax(value, axis);
            }
            2 => self.layer_norm(value),
            _ => self.batch_norm(value),
        }
        Some(())
    }

    fn batch_norm(&mut self, value: usize) {
        let (shape, ty, stem) = (self.shape(value), self.some_type(), self.fresh("b"));
        let mut inputs = vec![self.real(value)];
        for (name, low, high) in [("factor", -2.0, 2.0), ("shift", -1.0, 1.0), ("mean", -1.0, 1.0), ("variance", 0.1, 4.0)] {
            let values: Vec<f32> = (0..shape[1]).map(|_| if self.dice.one_in(8) { 0.0 } else { self.dice.between(low, high) }).collect();
            inputs.push(self.constant(f32s(&format!("{stem}{name}"), &[shape[1] as i64], &values)));
        }
        self.add("BatchNormalization", &inputs.iter().map(String::as_str).collect::<Vec<_>>(), &stem);
        self.quantize_active(&stem, &shape, ty);
    }

    fn layer_norm(&mut self, value: usize) {
        let shape = self.shape(value);
        let (ty, last, stem) = (self.some_type(), shape[shape.len() - 1], self.fresh("n"));
        let mut list = |name: &str, low: f32, high: f32| {
            let values: Vec<f32> = (0..last).map(|_| self.dice.between(low, high)).collect();
            self.constant(f32s(&format!("{stem}{name}"), &[last as i64], &values))
        };
        let (gamma, beta) = (list("gamma", 0.5, 2.0), list("beta", -1.0, 1.0));
        let x = self.real(value);
        let inputs = if self.dice.coin() { vec![x.as_str(), &gamma, &beta] } else { vec![x.as_str(), &gamma] };
        self.add("LayerNormalization", &inputs, &stem);
        self.quantize(&stem, &shape, ty);
    }

    fn softmax(&mut self, value: usize, axis: usize) -> usize {
        let shape = self.shape(value);
        let ty = match self.dice.below(3) {
            0 => Type { scale: 1.0 / 256.0, zero: -128, unsigned: false },
            1 => Type { scale: 1.0 / 256.0, zero: 0, unsigned: true },
            _ => Type { scale: 1.0 / 100.0, ..random_type(&mut self.dice) },
        };
        if self.dice.one_in(3) {
            let inputs = [self.with_parameters(value), self.parameters(ty).to_vec()].concat();
            let made = self.native("QLinearSoftmax", &inputs, &shape, ty);
            let opset = if self.dice.coin() { 13 } else { 11 };
            self.change(|n| microsoft(with_int(with_int(n, "axis", axis as i64), "opset", opset)));
            return made;
        }
        let (x, name) = (self.real(value), self.fresh("e"));
        self.add("Softmax", &[&x], &name);
        self.change(|n| with_int(n, "axis", axis as i64));
        self.quantize(&name, &shape, ty)
    }

    /// Something that tract runs: on real numbers, or on integers.
    fn float_island(&mut self) -> Option<()> {
        let value = self.pick(|v| v.shape.len() == 4)?;
        let (shape, ty) = (self.shape(value), self.values[value].ty);
        match self.dice.below(3) {
            0 => {
                let (x, name, to) = (self.real(value), self.fresh("i"), self.some_type());
                self.add("ReduceMax", &[&x], &name);
                self.change(|n| with_int(with_ints(n, "axes", &[1]), "keepdims", 1));
                self.quantize(&name, &[shape[0], 1, shape[2], shape[3]], to);
            }
            1 => {
                let pads = self.ints(&[0, 0, 1, 0, 0, 0, 0, 2]);
                let x = self.real(value);
                let name = self.fresh("i");
                self.add("Pad", &[&x, &pads], &name);
                self.quantize(&name, &[shape[0], shape[1], shape[2] + 1, shape[3] + 2], ty);
            }
            _ => {
                let axis = (0..4).find(|&a| shape[a] % 2 == 0)?;
                let x = self.quantized(value);
                let names = [self.fresh("q"), self.fresh("q")];
                self.nodes.push(with_int(node("Split", &[&x], &[&names[0], &names[1]]), "axis", axis as i64));
                let mut half = shape;
                half[axis] /= 2;
                for name in names {
                    self.push(Some(name), None, &half, ty);
                }
            }
        }
        Some(())
    }
}
