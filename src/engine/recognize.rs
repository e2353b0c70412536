//! From ONNX to quantized operators: QDQ groups (`DequantizeLinear` -> operator -> `QuantizeLinear`) and QOperator nodes become one
//! node each, before an engine could fold int8 weights to float.
//!
//! In order: `DequantizeLinear` sinks through operators that only move elements; every `QuantizeLinear` is traced back to what
//! makes its input; what is recognised takes its place; what nobody reads any more goes. A group that is not recognised stays as it
//! is and runs in float.

use super::dynamic;
use super::error::LoadCause;
use super::onnx::graph::{Index, input, is_layout, node_name, op_name};
use super::onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use super::onnx::{attribute, quantization, tensor};
use super::quantized::{self, Array, Kind, Operator, QuantizedType, Recognized, expression, table};
use crate::tensor::Dtype;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};

/// Operator type of a recognised node, in the domain [`DOMAIN`]. Files cannot hold it: the domain is refused in them.
pub const OP_TYPE: &str = "jouled.Quantized";
/// The same of one that quantizes its input itself.
pub const DYNAMIC: &str = "jouled.Dynamic";
/// Domain of recognised nodes.
pub const DOMAIN: &str = "jouled";
/// Attribute that holds the [`Operator`], as CBOR.
const OPERATOR: &str = "operator";

/// The quantized weights behind a real constant.
pub struct Weights {
    /// Name of the int8 or uint8 constant.
    pub name: String,
    pub shape: Vec<usize>,
    /// One, or one a channel along `axis`.
    pub scales: Vec<f32>,
    /// As int8.
    pub zeros: Vec<i8>,
    pub axis: usize,
}

impl Weights {
    pub fn scale(&self, channel: usize) -> f32 {
        self.scales[channel % self.scales.len()]
    }
}

/// What recognisers ask of the graph.
pub struct Context<'a> {
    pub index: Index<'a>,
    /// Version of ONNX's own operator set.
    pub opset: i64,
    /// Types of quantized values that are known so far.
    types: HashMap<String, QuantizedType>,
}

impl<'a> Context<'a> {
    /// The quantized activation behind a real value, where a per-tensor `DequantizeLinear` makes it.
    pub fn source(&self, real: &str) -> Option<(String, QuantizedType)> {
        self.operand(real).filter(|(value, _)| self.index.constant(value).is_none())
    }

    /// The `DequantizeLinear` that makes a real value.
    fn dequantize(&self, real: &str) -> Option<&'a NodeProto> {
        self.index.producer(real).filter(|n| n.op_type == "DequantizeLinear")
    }

    /// The same, or a quantized constant behind one.
    pub fn operand(&self, real: &str) -> Option<(String, QuantizedType)> {
        let node = self.dequantize(real)?;
        Some((input(node, 0)?.to_string(), self.dequantized(node)?))
    }

    /// The type with which a per-tensor `DequantizeLinear` reads its input.
    fn dequantized(&self, node: &NodeProto) -> Option<QuantizedType> {
        let value = input(node, 0)?;
        let quant = quantization::of_input(&self.index, node, 0)?;
        let elem_type = match self.index.constant_input(node, 2) {
            Some(zero) => tensor::dtype(zero.data_type)?,
            None => match self.types.get(value) {
                Some(known) if known.unsigned => Dtype::Uint8,
                Some(_) => Dtype::Int8,
                None => match self.index.constant(value) {
                    Some(constant) => tensor::dtype(constant.data_type)?,
                    None => self.input_type(value)?,
                },
            },
        };
        quantized_type(quant.scale, quant.zero_point, elem_type)
    }

    fn input_type(&self, value: &str) -> Option<Dtype> {
        let port = self.index.graph.input.iter().find(|p| p.name == value)?;
        match port.r#type.as_ref()?.value.as_ref()? {
            super::onnx::pb::type_proto::Value::TensorType(t) => tensor::dtype(t.elem_type),
            #[allow(unreachable_patterns, reason = "the enum may grow")]
            _ => None,
        }
    }

    /// The type of a quantized value that was recognised before, or that every reader dequantizes in one way.
    pub fn quantized(&self, value: &str) -> Option<QuantizedType> {
        self.types.get(value).copied()
    }

    /// Per-tensor parameters in two constant slots of a QOperator node.
    pub fn parameters(&self, node: &NodeProto, scale: usize) -> Option<QuantizedType> {
        let scale_value = expression::scalar(self.index.constant_input(node, scale)?)?;
        let zero = self.index.constant_input(node, scale + 1)?;
        quantized_type(scale_value, expression::scalar(zero)? as i32, tensor::dtype(zero.data_type)?)
    }

    /// The weights behind a real value that a `DequantizeLinear` makes of a constant.
    pub fn weights(&self, real: &str) -> Option<Weights> {
        let node = self.dequantize(real)?;
        let rank = self.index.constant_input(node, 0)?.dims.len() as i64;
        let axis = attribute::int(node, "axis", 1);
        let axis = if axis < 0 { axis + rank } else { axis };
        let zero = self.optional_constant(node, 2)?;
        self.described_weights(node, 0, self.index.constant_input(node, 1)?, zero, usize::try_from(axis).ok()?)
    }

    /// The constant in input `slot`, or none where the input is left out. `None` where something computes it.
    pub fn optional_constant(&self, node: &NodeProto, slot: usize) -> Option<Option<&'a TensorProto>> {
        input(node, slot).map_or(Some(None), |name| self.index.constant(name).map(Some))
    }

    /// The weights in `slot` of a QOperator node, scale and zero point behind them. Per-channel scales lie along the output
    /// channels: the first axis of a convolution, the last of a matrix product.
    pub fn native_weights(&self, node: &NodeProto, slot: usize) -> Option<Weights> {
        let rank = self.index.constant_input(node, slot)?.dims.len();
        let transposed = attribute::int(node, "transB", 0) != 0;
        let axis = if node.op_type == "QLinearConv" || transposed { 0 } else { rank.checked_sub(1)? };
        self.described_weights(node, slot, self.index.constant_input(node, slot + 1)?, self.index.constant_input(node, slot + 2), axis)
    }

    /// Those in `slot` of a node, with scales and zero points along `axis`; one of each for all is enough.
    pub fn described_weights(
        &self,
        node: &NodeProto,
        slot: usize,
        scale: &TensorProto,
        zero: Option<&TensorProto>,
        axis: usize,
    ) -> Option<Weights> {
        let name = input(node, slot)?;
        let weights = self.index.constant(name)?;
        let dtype = tensor::dtype(weights.data_type)?;
        let shift = match dtype {
            Dtype::Int8 => 0,
            Dtype::Uint8 => 128,
            _ => return None,
        };
        let scales: Vec<f32> = tensor::values(scale).iter().map(|&s| s as f32).collect();
        let zeros: Vec<f64> = zero.map_or_else(|| vec![0.0; scales.len()], tensor::values);
        let zeros: Option<Vec<i8>> = zeros.iter().map(|&z| i8::try_from(z as i32 - shift).ok()).collect();
        let good = scales.iter().all(|s| s.is_finite() && *s > 0.0) && !scales.is_empty();
        let (zeros, shape) = (zeros?, tensor::shape(&weights.dims).ok()?);
        (good && zeros.len() == scales.len()).then(|| Weights { name: name.to_string(), shape, scales, zeros, axis })
    }

    /// A constant real vector as integers in units of `unit(channel)`: a float, or an int32 behind a `DequantizeLinear`.
    pub fn bias(&self, real: &str, unit: impl Fn(usize) -> f64) -> Option<Vec<i32>> {
        let in_units = |i: usize, real: f64| (real / unit(i)).round_ties_even() as i32;
        if let Some(constant) = self.index.constant(real) {
            return Some(tensor::values(constant).iter().enumerate().map(|(i, &v)| in_units(i, v)).collect());
        }
        let node = self.dequantize(real)?;
        let values = tensor::values(self.index.constant_input(node, 0)?);
        let scales = tensor::values(self.index.constant_input(node, 1)?);
        let zeros = self.index.constant_input(node, 2).map_or_else(|| vec![0.0], tensor::values);
        let at = |list: &[f64], i: usize| list.get(i % list.len().max(1)).copied();
        let one = |(i, &value): (usize, &f64)| {
            let (scale, zero) = (at(&scales, i)?, at(&zeros, i)?);
            // Exporters write the scale of the sum, rounded to f32: the integers are then those of the sum.
            let same = (scale / unit(i) - 1.0).abs() < 1e-5;
            Some(if same { (value - zero) as i32 } else { in_units(i, (value - zero) * scale) })
        };
        values.iter().enumerate().map(one).collect()
    }

    /// A constant real vector: float, or behind a per-tensor `DequantizeLinear`.
    pub fn reals(&self, value: &str) -> Option<Vec<f32>> {
        if let Some(constant) = self.index.constant(value) {
            return Some(tensor::values(constant).iter().map(|&v| v as f32).collect());
        }
        let node = self.dequantize(value)?;
        let quant = quantization::of_input(&self.index, node, 0)?;
        let values = tensor::values(self.index.constant_input(node, 0)?);
        Some(values.iter().map(|&v| ((v - f64::from(quant.zero_point)) as f32) * quant.scale).collect())
    }

    /// A constant of one element, possibly behind a `DequantizeLinear`.
    pub fn scalar(&self, value: &str) -> Option<f32> {
        match self.reals(value)?[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The node that makes `real`, looked for through a `Relu` or `Clip` whose range of `output` comes with it.
    pub fn behind_activation(&self, real: &str, output: QuantizedType) -> Option<(&'a NodeProto, (i8, i8))> {
        let node = self.index.producer(real)?;
        match expression::range(self, node, output) {
            Some(range) => Some((self.index.producer(input(node, 0)?)?, range)),
            None => Some((node, (i8::MIN, i8::MAX))),
        }
    }
}

fn quantized_type(scale: f32, zero_point: i32, dtype: Dtype) -> Option<QuantizedType> {
    matches!(dtype, Dtype::Int8 | Dtype::Uint8).then(|| QuantizedType::new(scale, zero_point, dtype == Dtype::Uint8))?
}

/// First outputs of the nodes that became part of quantized operators.
pub type Absorbed = HashSet<String>;

/// Rewrites the graph. The model must have been checked, put in order and settled.
pub fn recognize(model: &mut ModelProto) -> Result<Absorbed, LoadCause> {
    let opset = model.opset_import.iter().find(|o| matches!(o.domain.as_str(), "" | "ai.onnx")).map_or(13, |o| o.version);
    let Some(graph) = model.graph.as_mut() else { return Ok(Absorbed::new()) };
    sink(graph);
    rise(graph);
    let before: HashSet<String> = graph.node.iter().flat_map(|n| n.output.first().cloned()).collect();
    let mut context = Context { index: Index::new(graph), opset, types: HashMap::new() };
    let mut found: HashMap<String, Found> = HashMap::new();
    let mut dynamic: HashMap<String, dynamic::Found> = HashMap::new();
    for node in &graph.node {
        let Some(output) = node.output.first() else { continue };
        dynamic.extend(dynamic::recognize(&context, node).map(|found| (output.clone(), found)));
        let (recognized, ty) = match operator(&mut context, node) {
            Some(found) => found,
            None => {
                pass_type(&mut context, node);
                continue;
            }
        };
        context.types.insert(output.clone(), ty);
        let recognized = clamped(&context, &found, compose(&found, recognized, ty), ty);
        found.insert(output.clone(), Found { recognized, output: ty });
    }
    let mut absorbed: Absorbed = found.keys().chain(dynamic.keys()).cloned().collect();
    let bodies = graph.node.iter().any(|node| attribute::graphs(node).next().is_some());
    let same = identities(&found, |value| bodies || graph.output.iter().any(|o| o.name == value));
    for (name, _) in found.values_mut().flat_map(|f| &mut f.recognized.inputs) {
        while let Some(source) = same.get(name) {
            name.clone_from(source);
        }
    }
    let mut names: HashMap<String, String> =
        graph.node.iter().filter_map(|n| Some((n.output.first()?.clone(), named_after(&context.index, n).to_string()))).collect();
    for node in &mut graph.node {
        if let Some(new) = node.output.first().and_then(|output| found.remove(output)) {
            *node = to_node(node, names.remove(&node.output[0]), new)?;
        }
        if let Some(dynamic::Found { dynamic, input, weights }) = node.output.first().and_then(|output| dynamic.remove(output)) {
            *node = recognized_node(&node.output[0], DYNAMIC, dynamic.name(), &dynamic, vec![input, weights])?;
        }
        for input in &mut node.input {
            while let Some(source) = same.get(input) {
                input.clone_from(source);
            }
        }
    }
    prune(graph);
    let after: HashSet<String> = graph.node.iter().flat_map(|n| n.output.first().cloned()).collect();
    absorbed.extend(before.difference(&after).cloned());
    let left = graph.node.iter().find(|n| n.domain == "com.microsoft" && quantized::NATIVE.contains(&n.op_type.as_str()));
    match left {
        Some(node) => Err(LoadCause::Node {
            node: node_name(node).to_string(),
            op: op_name(node),
            why: "this form is not supported: scales and zero points must be constants of one value (of weights: one a channel)"
                .to_string(),
        }),
        None => Ok(absorbed),
    }
}

/// An operator and the type of its output.
pub struct Found {
    pub recognized: Recognized,
    pub output: QuantizedType,
}

/// Values that are another value under a new name: by a table that changes nothing. Outputs of the model keep
/// their names, and so does everything where bodies of `If` and `Scan` may read it.
fn identities(found: &HashMap<String, Found>, is_output: impl Fn(&str) -> bool) -> HashMap<String, String> {
    let same = |(name, Found { recognized, output }): (&String, &Found)| match (&recognized.kind, &recognized.inputs[..]) {
        (Kind::Table(table), [(source, from)]) if from.unsigned == output.unsigned && !is_output(name) => {
            table.values.iter().copied().eq(i8::MIN..=i8::MAX).then(|| (name.clone(), source.clone()))
        }
        _ => None,
    };
    found.iter().filter_map(same).collect()
}

/// A table that only cuts the range (a `Relu` or `Clip` on its own), as the range of the operator before it, where nothing else
/// reads that one.
fn clamped(context: &Context, found: &HashMap<String, Found>, recognized: Recognized, output: QuantizedType) -> Recognized {
    let (Kind::Table(table), [(source, from)]) = (&recognized.kind, &recognized.inputs[..]) else { return recognized };
    let (Some(&low), Some(&high)) = (table.values.iter().min(), table.values.iter().max()) else { return recognized };
    let cuts = (i8::MIN..=i8::MAX).zip(&table.values).all(|(v, &to)| v.clamp(low, high) == to);
    let alone = |value: &str| context.index.consumers(value).len() == 1 && !context.index.is_output(value);
    let readers = context.index.consumers(source);
    let dequantized = readers.first().and_then(|(node, _)| node.output.first()).is_some_and(|real| alone(real));
    if !(cuts && *from == output && alone(source) && dequantized) {
        return recognized;
    }
    let Some(Found { recognized: before, .. }) = found.get(source).filter(|f| f.output == *from) else { return recognized };
    let mut kind = before.kind.clone();
    let Some((lowest, highest)) = kind.range_mut() else { return recognized };
    (*lowest, *highest) = ((*lowest).clamp(low, high), (*highest).clamp(low, high));
    Recognized { kind, inputs: before.inputs.clone(), weights: before.weights.clone() }
}

/// Joins tables: one that reads another's result, and an operator whose operands are tables of one value, become one table of that
/// value. Values in between are rounded as before, so nothing changes but the work.
fn compose(found: &HashMap<String, Found>, recognized: Recognized, output: QuantizedType) -> Recognized {
    // What a value is of what it comes from: another value's table, or itself.
    let origin = |(name, ty): &(String, QuantizedType)| -> (String, QuantizedType, Option<table::Table>) {
        if let Some(Found { recognized: Recognized { kind: Kind::Table(table), inputs, .. }, output }) = found.get(name)
            && output == ty
            && let [(source, from)] = &inputs[..]
        {
            return (source.clone(), *from, Some(table.clone()));
        }
        (name.clone(), *ty, None)
    };
    let at = |table: &Option<table::Table>, v: i8| table.as_ref().map_or(v, |t| t.at(v));
    let (values, source) = match (&recognized.kind, &recognized.inputs[..]) {
        (Kind::Table(outer), [input]) => {
            let (name, ty, inner @ Some(_)) = origin(input) else { return recognized };
            ((-128..=127).map(|v| outer.at(at(&inner, v))).collect(), (name, ty))
        }
        (Kind::Binary(binary), [a, b]) => {
            let (mut a, mut b) = (origin(a), origin(b));
            // `x * f(x)`: one of them may be the other's source itself.
            if a.0 != b.0 {
                let (plain_a, plain_b) = (&recognized.inputs[0], &recognized.inputs[1]);
                if b.0 == plain_a.0 {
                    a = (plain_a.0.clone(), plain_a.1, None);
                } else if a.0 == plain_b.0 {
                    b = (plain_b.0.clone(), plain_b.1, None);
                } else {
                    return recognized;
                }
            }
            if a.1 != b.1 {
                return recognized;
            }
            let types: Vec<QuantizedType> = recognized.inputs.iter().map(|(_, ty)| *ty).collect();
            let op = Operator { name: String::new(), kind: recognized.kind.clone(), inputs: types, output };
            ((-128..=127).map(|v| binary.apply(&op, at(&a.2, v), at(&b.2, v))).collect(), (a.0, a.1))
        }
        _ => return recognized,
    };
    Recognized { kind: Kind::Table(table::Table { values }), inputs: vec![source], weights: None }
}

fn operator(context: &mut Context, node: &NodeProto) -> Option<(Recognized, QuantizedType)> {
    if node.op_type != "QuantizeLinear" {
        return quantized::recognize_native(context, node);
    }
    let (quant, dtype) = quantization::of_output(&context.index, node)?;
    let ty = quantized_type(quant.scale, quant.zero_point, dtype)?;
    context.types.insert(node.output.first()?.clone(), ty);
    Some((quantized::recognize(context, input(node, 0)?, ty)?, ty))
}

/// Operators that move elements give their input's type on.
fn pass_type(context: &mut Context, node: &NodeProto) {
    if !moves(&node.op_type) {
        return;
    }
    if let Some(&ty) = input(node, 0).and_then(|value| context.types.get(value)) {
        context.types.extend(node.output.iter().filter(|o| !o.is_empty()).map(|o| (o.clone(), ty)));
    }
}

/// Operators whose every output element is one of input 0's.
fn moves(op: &str) -> bool {
    is_layout(op) || matches!(op, "Slice" | "Split" | "Gather" | "Expand" | "Tile" | "DepthToSpace" | "SpaceToDepth")
}

/// Lets `DequantizeLinear` pass below the operators that only move elements, which then move quantized ones.
fn sink(graph: &mut GraphProto) {
    let mut behind: HashMap<String, NodeProto> = HashMap::new();
    let mut nodes = Vec::with_capacity(graph.node.len());
    let index = Index::new(graph);
    for node in &graph.node {
        let dequantized = input(node, 0).and_then(|value| behind.get(value)).filter(|_| moves(&node.op_type)).cloned();
        let Some(dequantize) = dequantized else {
            let per_tensor = node.op_type == "DequantizeLinear" && quantization::of_input(&index, node, 0).is_some();
            if per_tensor && input(node, 0).is_some_and(|value| index.constant(value).is_none()) {
                behind.extend(node.output.first().map(|output| (output.clone(), node.clone())));
            }
            nodes.push(node.clone());
            continue;
        };
        let mut moved = node.clone();
        moved.input[0] = dequantize.input[0].clone();
        let mut below = Vec::new();
        for output in moved.output.iter_mut().filter(|o| !o.is_empty()) {
            let quantized = format!("{output} quantized");
            let mut node = dequantize.clone();
            node.name = format!("{output} dequantized");
            node.input[0] = quantized.clone();
            node.output = vec![output.clone()];
            behind.insert(output.clone(), node.clone());
            below.push(node);
            *output = quantized;
        }
        nodes.push(moved);
        nodes.extend(below);
    }
    drop(index);
    graph.node = nodes;
}

/// Lets `QuantizeLinear` pass above the operators that only move elements and that it alone reads, for the same reason.
fn rise(graph: &mut GraphProto) {
    if graph.node.iter().any(|node| attribute::graphs(node).next().is_some()) {
        return;
    }
    let index = Index::new(graph);
    // What such an operator makes for one reader, and the operator's number.
    let moved = |(number, mover): (usize, &NodeProto)| {
        let [output] = &mover.output[..] else { return None };
        let data = input(mover, 0).is_some_and(|value| index.constant(value).is_none());
        let alone = matches!(index.consumers(output), [(_, 0)]) && !index.is_output(output);
        (moves(&mover.op_type) && data && alone).then(|| (output.clone(), number))
    };
    let moved: HashMap<String, usize> = graph.node.iter().enumerate().filter_map(moved).collect();
    // Its parameters must be there wherever it comes to stand.
    let parameters = |node: &NodeProto| [1, 2].iter().all(|&slot| input(node, slot).is_none_or(|value| index.is_initializer(value)));
    let can_rise =
        |node: &NodeProto| node.op_type == "QuantizeLinear" && parameters(node) && quantization::of_output(&index, node).is_some();
    let rising: Vec<usize> = graph.node.iter().enumerate().filter(|(_, node)| can_rise(node)).map(|(number, _)| number).collect();
    drop(index);
    for mut at in rising {
        while let Some(&above) = moved.get(&graph.node[at].input[0]) {
            // They change places, and names with them.
            let between = format!("{} quantized before", graph.node[at].input[0]);
            graph.node.swap(above, at);
            let source = std::mem::replace(&mut graph.node[at].input[0], between.clone());
            graph.node[at].output = std::mem::replace(&mut graph.node[above].output, vec![between]);
            graph.node[above].input[0] = source;
            at = above;
        }
    }
}

/// What a person calls the operator that `node` becomes: the node before a `QuantizeLinear`, or before an activation between
/// them, where nothing else reads it. Its name is then free.
fn named_after<'a>(index: &Index<'a>, node: &'a NodeProto) -> &'a str {
    let before = |node: &NodeProto| {
        let value = input(node, 0).filter(|value| index.consumers(value).len() == 1 && !index.is_output(value))?;
        index.producer(value).filter(|n| n.op_type != "DequantizeLinear")
    };
    let named = match before(node).filter(|_| node.op_type == "QuantizeLinear") {
        Some(activation) if matches!(activation.op_type.as_str(), "Relu" | "Clip") => before(activation).unwrap_or(activation),
        Some(operator) => operator,
        None => node,
    };
    node_name(named)
}

fn to_node(node: &NodeProto, name: Option<String>, Found { recognized, output }: Found) -> Result<NodeProto, LoadCause> {
    let name = name.unwrap_or_else(|| node_name(node).to_string());
    let (names, types): (Vec<String>, Vec<QuantizedType>) = recognized.inputs.into_iter().unzip();
    let operator = Operator { name: name.clone(), kind: recognized.kind, inputs: types, output };
    recognized_node(&node.output[0], OP_TYPE, &name, &operator, names.into_iter().chain(recognized.weights).collect())
}

/// A node that holds a recognised operator.
fn recognized_node(output: &str, op_type: &str, name: &str, operator: &impl Serialize, input: Vec<String>) -> Result<NodeProto, LoadCause> {
    let mut bytes = Vec::new();
    ciborium::into_writer(operator, &mut bytes).map_err(|e| LoadCause::Engine(format!("node `{name}`: {e}")))?;
    Ok(NodeProto {
        name: name.to_string(),
        op_type: op_type.to_string(),
        domain: DOMAIN.to_string(),
        input,
        output: vec![output.to_string()],
        attribute: vec![AttributeProto { name: OPERATOR.to_string(), s: bytes, ..AttributeProto::default() }],
        ..NodeProto::default()
    })
}

/// The operator that a recognised node holds.
pub fn from_node<T: DeserializeOwned>(node: &NodeProto) -> Result<T, String> {
    let attribute = attribute::find(node, OPERATOR).ok_or("the attribute `operator` is missing")?;
    ciborium::from_reader(&attribute.s[..]).map_err(|e| e.to_string())
}

/// Drops nodes that no output needs, and constants that nobody reads.
fn prune(graph: &mut GraphProto) {
    let mut wanted: HashSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let mut kept: Vec<NodeProto> = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|o| wanted.contains(o)) {
            wanted.extend(node.input.iter().cloned());
            attribute::graphs(&node).for_each(|body| want_body(body, &mut wanted));
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    graph.initializer.retain(|t| wanted.contains(&t.name));
}

fn want_body(body: &GraphProto, wanted: &mut HashSet<String>) {
    wanted.extend(body.output.iter().map(|o| o.name.clone()));
    for node in &body.node {
        wanted.extend(node.input.iter().cloned());
        attribute::graphs(node).for_each(|body| want_body(body, wanted));
    }
}

/// A constant of 8-bit integers as an [`Array`].
pub fn array(shape: Vec<usize>, bytes: &[u8], unsigned: bool) -> Array {
    let flip = if unsigned { 0x80 } else { 0 };
    Array { shape, values: bytes.iter().map(|&b| (b ^ flip) as i8).collect() }
}
