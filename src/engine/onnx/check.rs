//! Checks of an untrusted ONNX graph, before an engine sees it: everything that an engine would otherwise index, trust or loop on.

use super::attribute;
use super::graph::{Index, input, node_name, op_name};
use super::pb::{GraphProto, ModelProto, NodeProto, TensorProto};
use super::{quantization, tensor};
use crate::config::value::Size;
use crate::engine::error::LoadCause;
use std::collections::{HashMap, HashSet};

/// What the engine behind can do, and how much it may use.
pub struct Rules<'a> {
    /// `(domain, operator)`: whether the engine has it. ONNX's own domain is given as `""`.
    pub supports: &'a dyn Fn(&str, &str) -> bool,
    /// Bytes that constants computed at load may take.
    pub max_memory: Size,
}

/// Checks the whole model. Afterwards the graph is there, acyclic and closed, its constants fill their shapes, its operators are
/// known, and quantization parameters and convolution geometry are sane.
pub fn check(model: &ModelProto, rules: &Rules) -> Result<(), LoadCause> {
    let graph = model.graph.as_ref().ok_or_else(|| LoadCause::NotOnnx("there is no graph in it".to_string()))?;
    let opset = model.opset_import.iter().find(|o| matches!(o.domain.as_str(), "" | "ai.onnx"));
    if opset.is_none_or(|o| o.version < 1) {
        return Err(LoadCause::NotOnnx("it does not say which ONNX operator set it uses".to_string()));
    }
    check_graph(graph, &HashSet::new(), rules)?;
    if graph.output.is_empty() {
        return Err(LoadCause::Graph("the graph has no outputs".to_string()));
    }
    Ok(())
}

/// One graph; `outer` holds the values that a body of `If` or `Scan` may read from around it.
fn check_graph(graph: &GraphProto, outer: &HashSet<&str>, rules: &Rules) -> Result<(), LoadCause> {
    if !graph.sparse_initializer.is_empty() {
        return Err(LoadCause::Graph("sparse initializers are not supported".to_string()));
    }
    for constant in &graph.initializer {
        tensor::check(constant).map_err(|why| LoadCause::Graph(format!("initializer `{}`: {why}", constant.name)))?;
    }
    let known = check_names(graph, outer)?;
    let index = Index::new(graph);
    let mut sizes = ConstantSizes::default();
    for id in order(graph)? {
        let node = &graph.node[id];
        check_node(&index, node, rules)?;
        sizes.check(&index, node, rules.max_memory).map_err(|why| at(node, why))?;
        for body in attribute::graphs(node) {
            check_graph(body, &known, rules)?;
        }
    }
    Ok(())
}

fn at(node: &NodeProto, why: impl Into<String>) -> LoadCause {
    LoadCause::Node { node: node_name(node).to_string(), op: op_name(node), why: why.into() }
}

/// Every value is made once, and every value that is read is made. Returns all values that the graph's bodies may read.
fn check_names<'a>(graph: &'a GraphProto, outer: &HashSet<&'a str>) -> Result<HashSet<&'a str>, LoadCause> {
    let mut known = outer.clone();
    let mut made = HashSet::new();
    for constant in &graph.initializer {
        if constant.name.is_empty() || !made.insert(constant.name.as_str()) {
            return Err(LoadCause::Graph(format!("there are two initializers named `{}`, or one without a name", constant.name)));
        }
    }
    let mut inputs = HashSet::new();
    for port in &graph.input {
        if port.name.is_empty() || !inputs.insert(port.name.as_str()) {
            return Err(LoadCause::Graph(format!("there are two inputs named `{}`, or one without a name", port.name)));
        }
    }
    made.extend(inputs);
    for node in &graph.node {
        if let Some(twice) = node.output.iter().find(|o| !o.is_empty() && !made.insert(o)) {
            return Err(at(node, format!("its output `{twice}` is also made elsewhere")));
        }
    }
    known.extend(made);
    for node in &graph.node {
        if let Some(missing) = node.input.iter().find(|i| !i.is_empty() && !known.contains(i.as_str())) {
            return Err(at(node, format!("reads `{missing}`, which nothing makes")));
        }
    }
    match graph.output.iter().find(|o| !known.contains(o.name.as_str())) {
        Some(missing) => Err(LoadCause::Graph(format!("nothing makes the output `{}`", missing.name))),
        None => Ok(known),
    }
}

/// The nodes in an order in which every value is made before it is read; an error names a node on or behind a cycle.
pub fn order(graph: &GraphProto) -> Result<Vec<usize>, LoadCause> {
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (id, node) in graph.node.iter().enumerate() {
        makers.extend(node.output.iter().filter(|o| !o.is_empty()).map(|o| (o.as_str(), id)));
    }
    let mut waiting = vec![0usize; graph.node.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); graph.node.len()];
    for (id, node) in graph.node.iter().enumerate() {
        let bodies = attribute::graphs(node).flat_map(|body| body.node.iter().flat_map(|n| n.input.iter()));
        for maker in node.input.iter().chain(bodies).filter_map(|i| makers.get(i.as_str())) {
            waiting[id] += 1;
            readers[*maker].push(id);
        }
    }
    let mut ready: std::collections::VecDeque<usize> = (0..waiting.len()).filter(|&id| waiting[id] == 0).collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(id) = ready.pop_front() {
        order.push(id);
        for &reader in &readers[id] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push_back(reader);
            }
        }
    }
    match waiting.iter().position(|&left| left > 0) {
        Some(id) => Err(at(&graph.node[id], "is part of a cycle, or waits for one")),
        None => Ok(order),
    }
}

fn check_node(index: &Index, node: &NodeProto, rules: &Rules) -> Result<(), LoadCause> {
    let domain = if node.domain == "ai.onnx" { "" } else { &node.domain };
    if !(rules.supports)(domain, &node.op_type) {
        let shown = if domain.is_empty() { "ai.onnx" } else { domain };
        return Err(at(node, format!("operator `{}` of domain `{shown}` is not supported", node.op_type)));
    }
    for constant in attribute::tensors(node) {
        tensor::check(constant).map_err(|why| at(node, format!("attribute tensor {why}")))?;
    }
    if attribute::int(node, "block_size", 0) != 0 {
        return Err(at(node, "blocked quantization (attribute block_size) is not supported"));
    }
    quantization::check(index, node)?;
    check_window(node).map_err(|why| at(node, why))?;
    check_resize(index, node).map_err(|why| at(node, why))?;
    check_weights(index, node).map_err(|why| at(node, why))
}

/// Largest kernel extent, stride, dilation or padding accepted: far above real networks, far below overflow.
const MAX_WINDOW: i64 = 1 << 15;

/// Pools with a window.
const POOLS: [&str; 4] = ["AveragePool", "MaxPool", "LpPool", "QLinearAveragePool"];

/// Geometry of convolutions and pools.
fn check_window(node: &NodeProto) -> Result<(), String> {
    if weights_slot(&node.op_type).is_none() && !POOLS.contains(&node.op_type.as_str()) {
        return Ok(());
    }
    for (name, low) in [("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 0), ("output_padding", 0)] {
        if let Some(bad) = attribute::ints(node, name).iter().find(|v| !(low..=MAX_WINDOW).contains(*v)) {
            return Err(format!("attribute {name} holds {bad}: expected {low} to {MAX_WINDOW}"));
        }
    }
    let lengths = ["kernel_shape", "strides", "dilations"].map(|name| attribute::ints(node, name).len());
    let pads = attribute::ints(node, "pads").len();
    let rank = lengths.into_iter().max().unwrap_or(0).max(pads / 2);
    if lengths.iter().any(|&n| n != 0 && n != rank) || (pads != 0 && pads != 2 * rank) {
        return Err("attributes kernel_shape, strides, dilations and pads disagree about the number of spatial axes".to_string());
    }
    match attribute::int(node, "group", 1) {
        1..=MAX_WINDOW => Ok(()),
        group => Err(format!("attribute group is {group}: expected 1 to {MAX_WINDOW}")),
    }
}

/// Factors and sizes of a `Resize` that are constants. Its second input is the factors where there is no third, else a region.
fn check_resize(index: &Index, node: &NodeProto) -> Result<(), String> {
    let slots = match (node.op_type.as_str(), node.input.len()) {
        ("Upsample", _) | ("Resize", 2) => [1, 1],
        ("Resize", _) => [2, 3],
        _ => return Ok(()),
    };
    let constants = slots.into_iter().filter_map(|slot| index.constant_input(node, slot));
    match constants.flat_map(tensor::values).find(|v| !(v.is_finite() && *v > 0.0)) {
        Some(bad) => Err(format!("asks for a size or factor of {bad}: expected a positive number")),
        None => Ok(()),
    }
}

/// The input slot with the weights of a convolution.
pub fn weights_slot(op: &str) -> Option<usize> {
    match op {
        "Conv" | "ConvTranspose" | "ConvInteger" => Some(1),
        "QLinearConv" => Some(3),
        _ => None,
    }
}

/// The weights of a convolution, through a `DequantizeLinear` where there is one.
pub fn weights<'a>(index: &Index<'a>, node: &NodeProto) -> Option<&'a TensorProto> {
    let name = input(node, weights_slot(&node.op_type)?)?;
    index.constant(name).or_else(|| index.constant_input(index.producer(name).filter(|p| p.op_type == "DequantizeLinear")?, 0))
}

/// Weights must agree with the attributes: engines take their geometry from either.
fn check_weights(index: &Index, node: &NodeProto) -> Result<(), String> {
    let Some(weights) = weights(index, node) else { return Ok(()) };
    let dims = &weights.dims;
    if dims.len() < 3 || dims.contains(&0) {
        return Err(format!("weights have shape {dims:?}: expected output channels, input channels and at least one kernel axis"));
    }
    let kernel = attribute::ints(node, "kernel_shape");
    if !kernel.is_empty() && kernel != &dims[2..] {
        return Err(format!("attribute kernel_shape is {kernel:?} but the weights have shape {dims:?}"));
    }
    let spatial = dims.len() - 2;
    if ["strides", "dilations"].iter().any(|name| ![0, spatial].contains(&attribute::ints(node, name).len()))
        || ![0, 2 * spatial].contains(&attribute::ints(node, "pads").len())
    {
        return Err(format!("strides, dilations or pads do not fit weights of shape {dims:?}"));
    }
    let group = attribute::int(node, "group", 1);
    if dims[0] % group != 0 {
        return Err(format!("{} channels of the weights do not divide into {group} groups", dims[0]));
    }
    let channels = if node.op_type == "ConvTranspose" { dims[1].saturating_mul(group) } else { dims[0] };
    let bias_slot = if node.op_type == "QLinearConv" { 8 } else { 2 };
    match index.constant_input(node, bias_slot) {
        Some(bias) if node.op_type != "ConvInteger" && bias.dims != [channels] => {
            Err(format!("the bias has shape {:?}, expected [{channels}]", bias.dims))
        }
        _ => Ok(()),
    }
}

/// Upper bounds of the sizes of values that an engine computes at load, because nothing they come from changes.
/// A few bytes of graph can otherwise ask for any amount of memory (`ConstantOfShape`, `Expand`, a chain of `Concat`).
#[derive(Default)]
struct ConstantSizes<'a> {
    elements: HashMap<&'a str, u64>,
}

impl<'a> ConstantSizes<'a> {
    fn check(&mut self, index: &Index<'a>, node: &'a NodeProto, limit: Size) -> Result<(), String> {
        let sizes: Option<Vec<u64>> = node.input.iter().filter(|i| !i.is_empty()).map(|i| self.known(index, i)).collect();
        let Some(sizes) = sizes else { return self.check_requested(index, node, limit) };
        let bound = requested(index, node).unwrap_or_else(|| bound(&node.op_type, &sizes));
        // Four bytes an element: what float32 takes, the type that engines fold to.
        if bound.saturating_mul(4) > limit.0 {
            return Err(format!("computes a constant of up to {bound} values, over limits.max_memory = {limit}"));
        }
        self.elements.extend(node.output.iter().map(|o| (o.as_str(), bound)));
        Ok(())
    }

    fn known(&self, index: &Index, value: &str) -> Option<u64> {
        let own = self.elements.get(value).copied();
        own.or_else(|| index.constant(value).map(|t| t.dims.iter().map(|&d| d.max(0) as u64).product()))
    }

    /// A shape given by a constant can be too large even where the data changes from run to run.
    fn check_requested(&self, index: &Index, node: &NodeProto, limit: Size) -> Result<(), String> {
        match requested(index, node) {
            Some(elements) if elements > limit.0 => Err(format!("asks for {elements} values, over limits.max_memory = {limit}")),
            _ => Ok(()),
        }
    }
}

/// Element count that a constant input of `node` asks for outright.
fn requested(index: &Index, node: &NodeProto) -> Option<u64> {
    let product = |slot| Some(tensor::values(index.constant_input(node, slot)?).iter().map(|v| v.max(1.0)).product::<f64>() as u64);
    match node.op_type.as_str() {
        "ConstantOfShape" => product(0),
        "Expand" => product(1),
        "Range" => {
            let [start, limit, step] = [0, 1, 2].map(|slot| tensor::values(index.constant_input(node, slot)?).first().copied());
            Some(((limit? - start?) / step?).abs().ceil().max(0.0) as u64)
        }
        _ => None,
    }
}

/// Bound of the output's elements from those of constant inputs.
fn bound(op: &str, sizes: &[u64]) -> u64 {
    let largest = sizes.iter().copied().max().unwrap_or(1);
    match op {
        "Constant" => 1,
        "Cast" | "DequantizeLinear" | "QuantizeLinear" | "Slice" | "Clip" | "Split" | "BatchNormalization" => largest,
        op if is_layout_or_shape(op) => largest,
        "Concat" => sizes.iter().fold(0, |sum: u64, &n| sum.saturating_add(n)),
        _ => sizes.iter().fold(1, |product: u64, &n| product.saturating_mul(n.max(1))),
    }
}

fn is_layout_or_shape(op: &str) -> bool {
    super::graph::is_layout(op) || op.starts_with("Reduce") || matches!(op, "Shape" | "Size")
}
