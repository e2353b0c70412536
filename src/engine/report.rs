//! What `inspect` tells: the ONNX graph as its author wrote it, with shapes, parameters and multiply-accumulates, where each node
//! runs, and what the engine really runs.

use super::live::{Step, max_live_bytes};
use super::macs;
use super::onnx::graph::{Index, is_layout, node_name, op_name};
use super::onnx::pb::{ModelProto, NodeProto};
use super::onnx::{attribute, tensor};
use super::port::Port;
use super::program::Program;
use super::tract::Shapes;
use crate::tensor::TensorSpec;
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// Everything about a model that can be told without running it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Path or name it was loaded under.
    pub model: String,
    /// Of the `.onnx` file.
    pub file_bytes: u64,
    /// SHA-256.
    pub digest: String,
    /// Name and version of the program that wrote the file.
    pub producer: String,
    pub ir_version: i64,
    pub opsets: Vec<Opset>,
    pub inputs: Vec<PortReport>,
    pub outputs: Vec<PortReport>,
    /// The ONNX graph.
    pub nodes: Vec<NodeReport>,
    /// What the engine runs after its own simplifications, in order.
    pub engine_nodes: Vec<EngineNode>,
    pub totals: Totals,
    /// What may not be as expected.
    pub warnings: Vec<String>,
}

/// One operator set that the model imports.
#[derive(Clone, Debug, Serialize)]
pub struct Opset {
    pub domain: String,
    pub version: i64,
}

/// An input or output: declared by the file, and as the engine takes or gives it.
#[derive(Clone, Debug, Serialize)]
pub struct PortReport {
    pub declared: TensorSpec,
    pub native: TensorSpec,
}

/// Type and shape of one value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub dtype: String,
    pub shape: Vec<usize>,
}

/// One node of the ONNX graph.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    pub name: String,
    pub op: String,
    /// Values whose shape is not known are left out.
    pub outputs: Vec<TensorReport>,
    /// Weights and biases that the node reads, counted in elements.
    pub parameters: u64,
    pub macs: u64,
    pub runs_in: RunsIn,
    /// Why it runs there.
    pub reason: String,
}

/// The arithmetic in which a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunsIn {
    /// Integer products into 32-bit sums.
    Int8,
    /// Floating point.
    Float,
    /// Nowhere: done once at load, or left to whoever fills the input.
    Load,
}

impl RunsIn {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            RunsIn::Int8 => "int8",
            RunsIn::Float => "float",
            RunsIn::Load => "load",
        }
    }
}

/// Where a node runs, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub runs_in: RunsIn,
    pub reason: String,
}

impl Placement {
    pub fn int8(reason: &str) -> Placement {
        Placement { runs_in: RunsIn::Int8, reason: reason.to_string() }
    }

    pub fn float(reason: &str) -> Placement {
        Placement { runs_in: RunsIn::Float, reason: reason.to_string() }
    }

    pub fn load(reason: &str) -> Placement {
        Placement { runs_in: RunsIn::Load, reason: reason.to_string() }
    }
}

/// One node of what the engine runs.
#[derive(Clone, Debug, Serialize)]
pub struct EngineNode {
    pub name: String,
    /// The kernel, or tract's operator.
    pub op: String,
    /// Multiply-accumulates; 0 where the engine does not count them.
    pub macs: u64,
    /// Bytes of weights as they are packed.
    pub weight_bytes: u64,
    /// Bytes of activations read and written.
    pub activation_bytes: u64,
}

/// Sums over the model.
#[derive(Clone, Debug, Serialize)]
pub struct Totals {
    /// Weights and biases, in elements; scales and zero points do not count.
    pub parameters: u64,
    /// Bytes of all constants in the file.
    pub file_weight_bytes: u64,
    pub macs: u64,
    /// Part of `macs` that runs in int8, 0 to 1; 0 when there are none.
    pub int8_share: f64,
    /// Bytes of the engine's activations that live at the same time.
    pub activation_bytes: u64,
    /// Bytes of the weights as the engine holds them before packing.
    pub engine_weight_bytes: u64,
    /// Lower bound of any planner that runs the ONNX nodes in this order with QDQ groups fused: the most bytes alive at one node.
    pub max_live_bytes: u64,
}

/// What the report says of the file.
pub struct Identity<'a> {
    pub name: &'a str,
    pub file_bytes: u64,
    pub digest: &'a str,
}

/// What is read off the graph before its borders are rewritten.
pub struct Draft {
    producer: String,
    ir_version: i64,
    opsets: Vec<Opset>,
    nodes: Vec<DraftNode>,
    constants: HashMap<String, Vec<usize>>,
    parameters: u64,
    file_weight_bytes: u64,
}

struct DraftNode {
    name: String,
    op: String,
    op_type: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    parameters: u64,
    transposed_a: bool,
    constant: bool,
    in_qdq_group: bool,
}

impl Draft {
    /// Reads a checked model.
    pub fn new(model: &ModelProto) -> Draft {
        let graph = model.graph.as_ref();
        let index = graph.map(Index::new);
        let nodes = index.as_ref().map_or_else(Vec::new, draft_nodes);
        let initializers = || graph.into_iter().flat_map(|g| &g.initializer);
        Draft {
            producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_string(),
            ir_version: model.ir_version,
            opsets: model.opset_import.iter().map(opset).collect(),
            parameters: index.as_ref().map_or(0, |index| parameters(index, initializers().map(|t| t.name.as_str()))),
            file_weight_bytes: initializers().map(|t| elements(t) * tensor::element_size(t.data_type).unwrap_or(0) as u64).sum(),
            constants: initializers().filter_map(|t| Some((t.name.clone(), tensor::shape(&t.dims).ok()?))).collect(),
            nodes,
        }
    }

    /// Completes the report with what the engine knows.
    pub fn finish(self, of: &Identity, inputs: &[Port], outputs: &[Port], shapes: &Shapes, program: &dyn Program) -> Report {
        let mut known = Known { shapes: shapes.clone(), constants: &self.constants };
        for port in inputs {
            known.shapes.insert(port.declared.name.clone(), (port.declared.dtype.to_string(), port.declared.shape.clone()));
        }
        known.fill(&self.nodes);
        let nodes: Vec<NodeReport> = self.nodes.iter().map(|n| known.complete(n, inputs, program)).collect();
        let macs: u64 = nodes.iter().fold(0, |sum, n| sum.saturating_add(n.macs));
        let in_int8: u64 = nodes.iter().filter(|n| n.runs_in == RunsIn::Int8).map(|n| n.macs).sum();
        let memory = program.memory();
        let totals = Totals {
            parameters: self.parameters,
            file_weight_bytes: self.file_weight_bytes,
            macs,
            int8_share: if macs == 0 { 0.0 } else { in_int8 as f64 / macs as f64 },
            activation_bytes: memory.activations,
            engine_weight_bytes: memory.weights,
            max_live_bytes: known.max_live_bytes(&self.nodes, inputs, outputs),
        };
        Report {
            model: of.name.to_string(),
            file_bytes: of.file_bytes,
            digest: of.digest.to_string(),
            warnings: warnings(&self.opsets),
            producer: self.producer,
            ir_version: self.ir_version,
            opsets: self.opsets,
            inputs: inputs.iter().map(port_report).collect(),
            outputs: outputs.iter().map(port_report).collect(),
            nodes,
            engine_nodes: program.nodes(),
            totals,
        }
    }
}

fn opset(import: &super::onnx::pb::OperatorSetIdProto) -> Opset {
    let domain = if import.domain.is_empty() { "ai.onnx" } else { &import.domain };
    Opset { domain: domain.to_string(), version: import.version }
}

/// Newest ONNX operator set that the engine is tested against.
const TESTED_OPSET: i64 = 18;

fn warnings(opsets: &[Opset]) -> Vec<String> {
    let newer = opsets.iter().filter(|o| o.domain == "ai.onnx" && o.version > TESTED_OPSET);
    newer.map(|o| format!("operator set {} is newer than {TESTED_OPSET}, the newest the engine is tested against", o.version)).collect()
}

fn port_report(port: &Port) -> PortReport {
    PortReport { declared: port.declared.clone(), native: port.native.clone() }
}

fn elements(t: &super::onnx::pb::TensorProto) -> u64 {
    t.dims.iter().fold(1, |n: u64, &d| n.saturating_mul(d.max(0) as u64))
}

fn draft_nodes(index: &Index) -> Vec<DraftNode> {
    let mut constant: HashSet<&str> = HashSet::new();
    let mut between: HashSet<&str> = HashSet::new();
    let mut drafts = Vec::new();
    for node in &index.graph.node {
        let is_constant = |name: &str| index.constant(name).is_some() || constant.contains(name);
        let inputs = || node.input.iter().map(String::as_str).filter(|i| !i.is_empty());
        let folds = inputs().all(is_constant) && attribute::graphs(node).next().is_none();
        let dequantizes = node.op_type == "DequantizeLinear";
        let in_group = !dequantizes && inputs().any(|i| between.contains(i));
        drafts.push(draft_node(index, node, folds, in_group));
        if folds {
            constant.extend(node.output.iter().map(String::as_str));
        } else if dequantizes || (in_group && node.op_type != "QuantizeLinear") {
            between.extend(node.output.iter().map(String::as_str));
        }
    }
    drafts
}

fn draft_node(index: &Index, node: &NodeProto, constant: bool, in_qdq_group: bool) -> DraftNode {
    DraftNode {
        name: node_name(node).to_string(),
        op: op_name(node),
        op_type: node.op_type.clone(),
        inputs: node.input.clone(),
        outputs: node.output.clone(),
        parameters: if constant { 0 } else { parameters(index, node.input.iter().map(String::as_str)) },
        transposed_a: attribute::int(node, "transA", 0) != 0,
        constant,
        in_qdq_group,
    }
}

/// Elements of the weights among `values`, seen through `DequantizeLinear`: numbers other than int64 (shapes and indices), scales
/// and zero points.
fn parameters<'a>(index: &Index<'a>, values: impl Iterator<Item = &'a str>) -> u64 {
    let behind = |value: &'a str| {
        let direct = index.constant(value);
        direct.map(|t| (value, t)).or_else(|| {
            let node = index.producer(value).filter(|n| n.op_type == "DequantizeLinear")?;
            let source = node.input.first()?;
            Some((source.as_str(), index.constant(source)?))
        })
    };
    let weight = |&(name, t): &(&str, &super::onnx::pb::TensorProto)| {
        t.data_type != tensor::elem_type(crate::tensor::Dtype::Int64) && !is_quantization(index, name)
    };
    values.filter_map(behind).filter(weight).map(|(_, t)| elements(t)).fold(0, u64::saturating_add)
}

/// True for a constant that serves as scale or zero point alone.
fn is_quantization(index: &Index, value: &str) -> bool {
    let readers = index.consumers(value);
    !readers.is_empty()
        && readers.iter().all(|(node, slot)| match node.op_type.as_str() {
            "QuantizeLinear" | "DequantizeLinear" => *slot > 0,
            "QLinearConv" | "QLinearMatMul" => matches!(slot, 1 | 2 | 4 | 5 | 6 | 7),
            "ConvInteger" | "MatMulInteger" => *slot > 1,
            _ => false,
        })
}

/// Types and shapes of the graph's values.
struct Known<'a> {
    shapes: Shapes,
    constants: &'a HashMap<String, Vec<usize>>,
}

impl Known<'_> {
    /// Shapes of real values inside fused groups, which the engine does not have: those of the values around them.
    fn fill(&mut self, nodes: &[DraftNode]) {
        let makers: HashMap<&str, &str> = nodes.iter().filter_map(|n| Some((n.outputs.first()?.as_str(), n.op_type.as_str()))).collect();
        for node in nodes.iter().rev() {
            let Some(output) = node.outputs.first() else { continue };
            let known = self.shapes.get(output).or_else(|| self.shapes.get(&format!("{output} quantized"))).cloned();
            let Some((_, shape)) = known else { continue };
            self.shapes.entry(output.clone()).or_insert_with(|| ("float32".to_string(), shape.clone()));
            let like = like_output(node, &makers).filter(|input| self.shape(input).is_empty());
            if let Some(input) = like {
                let dtype = if node.op_type == "Cast" { "int32" } else { "float32" };
                self.shapes.insert(input.clone(), (dtype.to_string(), shape));
            }
        }
        for node in nodes.iter().filter(|n| keeps_shape(&n.op_type)) {
            let (Some(input), Some(output)) = (node.inputs.first(), node.outputs.first()) else { continue };
            let shape = self.shape(input).to_vec();
            if !shape.is_empty() && !self.shapes.contains_key(output) {
                let dtype = if node.op_type == "DynamicQuantizeLinear" { "uint8" } else { "float32" };
                self.shapes.insert(output.clone(), (dtype.to_string(), shape));
            }
        }
    }

    fn shape(&self, value: &str) -> &[usize] {
        self.shapes.get(value).map(|(_, shape)| shape).or_else(|| self.constants.get(value)).map_or(&[], Vec::as_slice)
    }

    fn complete(&self, node: &DraftNode, inputs: &[Port], program: &dyn Program) -> NodeReport {
        let shapes: Vec<&[usize]> = node.inputs.iter().map(|i| self.shape(i)).collect();
        let output = node.outputs.first().map_or(&[][..], |o| self.shape(o));
        let macs = macs::macs(&node.op_type, &macs::Shapes { inputs: &shapes, output, transposed_a: node.transposed_a });
        let outputs: Vec<TensorReport> = node
            .outputs
            .iter()
            .filter_map(|o| {
                let (dtype, shape) = self.shapes.get(o)?;
                Some(TensorReport { name: Some(o.clone()), dtype: dtype.clone(), shape: shape.clone() })
            })
            .collect();
        let Placement { runs_in, reason } = placement(node, &outputs, inputs, program);
        NodeReport { outputs, name: node.name.clone(), op: node.op.clone(), parameters: node.parameters, macs, runs_in, reason }
    }

    /// Bytes of a value; 0 for constants, and where the shape is not known.
    fn bytes(&self, value: &str) -> u64 {
        let Some((dtype, shape)) = self.shapes.get(value).filter(|_| !self.constants.contains_key(value)) else { return 0 };
        let size = match dtype.as_str() {
            "int8" | "uint8" | "bool" => 1,
            "float16" | "i16" | "u16" => 2,
            "int64" | "u64" | "f64" | "tdim" => 8,
            _ => 4,
        };
        shape.iter().fold(size, |n: u64, &d| n.saturating_mul(d as u64))
    }

    fn max_live_bytes(&self, nodes: &[DraftNode], inputs: &[Port], outputs: &[Port]) -> u64 {
        let folded: HashSet<&str> = nodes.iter().filter(|n| n.constant).flat_map(|n| n.outputs.iter().map(String::as_str)).collect();
        let runs = nodes.iter().filter(|n| !n.constant && !is_stripped(n, inputs));
        let steps: Vec<Step> = runs.map(|n| Step { op: &n.op_type, inputs: &n.inputs, outputs: &n.outputs }).collect();
        let outputs: Vec<&str> = outputs.iter().map(|o| o.declared.name.as_str()).collect();
        max_live_bytes(&steps, &outputs, |value| if folded.contains(value) { 0 } else { self.bytes(value) })
    }
}

/// Operators whose output has the shape of their first input.
fn keeps_shape(op: &str) -> bool {
    let quantization = matches!(op, "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear" | "Cast");
    quantization || matches!(op, "Relu" | "Clip" | "LeakyRelu" | "Sigmoid" | "HardSigmoid" | "Tanh" | "Softmax")
}

/// The input of the shape that the output has. Of the sum and product behind an integer product it is the one that comes from
/// there; `makers` are the operators by their first output.
fn like_output<'a>(node: &'a DraftNode, makers: &HashMap<&str, &str>) -> Option<&'a String> {
    let made_by = |op: &str| node.inputs.iter().find(|input| makers.get(input.as_str()) == Some(&op));
    match node.op_type.as_str() {
        "Mul" => made_by("Cast"),
        "Add" => made_by("Mul"),
        op if keeps_shape(op) => node.inputs.first(),
        _ => None,
    }
}

/// True for the `QuantizeLinear` of an input that the engine takes already quantized.
fn is_stripped(node: &DraftNode, inputs: &[Port]) -> bool {
    let is_input = |port: &Port| port.native != port.declared && node.inputs.first() == Some(&port.declared.name);
    node.op_type == "QuantizeLinear" && inputs.iter().any(is_input)
}

fn placement(node: &DraftNode, outputs: &[TensorReport], inputs: &[Port], program: &dyn Program) -> Placement {
    if node.constant {
        return Placement::load("reads constants alone: computed once at load");
    }
    if is_stripped(node, inputs) {
        return Placement::load("the engine takes the quantized input itself");
    }
    if is_layout(&node.op_type) {
        let integers = outputs.first().is_some_and(|o| o.dtype.contains("int"));
        let reason = "moves elements, without arithmetic";
        return if integers { Placement::int8(reason) } else { Placement::float(reason) };
    }
    program.placement(node.outputs.first().map_or("", String::as_str), &node.op_type, node.in_qdq_group)
}
