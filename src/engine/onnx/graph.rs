//! An index over an ONNX graph: who makes a value, who reads it, which values are constants.

use super::attribute;
use super::pb::{GraphProto, NodeProto, TensorProto};
use std::collections::{HashMap, HashSet};

/// Borrowed view of one graph. Values are known by their ONNX names.
pub struct Index<'a> {
    pub graph: &'a GraphProto,
    initializers: HashMap<&'a str, &'a TensorProto>,
    producers: HashMap<&'a str, &'a NodeProto>,
    consumers: HashMap<&'a str, Vec<(&'a NodeProto, usize)>>,
    outputs: HashSet<&'a str>,
}

impl<'a> Index<'a> {
    pub fn new(graph: &'a GraphProto) -> Index<'a> {
        let mut producers = HashMap::new();
        let mut consumers: HashMap<&str, Vec<_>> = HashMap::new();
        for node in &graph.node {
            producers.extend(node.output.iter().filter(|o| !o.is_empty()).map(|o| (o.as_str(), node)));
            for (slot, input) in node.input.iter().enumerate().filter(|(_, i)| !i.is_empty()) {
                consumers.entry(input.as_str()).or_default().push((node, slot));
            }
        }
        Index {
            graph,
            initializers: graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect(),
            producers,
            consumers,
            outputs: graph.output.iter().map(|o| o.name.as_str()).collect(),
        }
    }

    /// The node that makes `value`.
    pub fn producer(&self, value: &str) -> Option<&'a NodeProto> {
        self.producers.get(value).copied()
    }

    /// The nodes of this graph that read `value`, each with the input slot in which it does.
    pub fn consumers(&self, value: &str) -> &[(&'a NodeProto, usize)] {
        self.consumers.get(value).map_or(&[], Vec::as_slice)
    }

    /// True for a value that leaves the graph.
    pub fn is_output(&self, value: &str) -> bool {
        self.outputs.contains(value)
    }

    /// The tensor behind `value` when it is an initializer or comes from a `Constant` node.
    pub fn constant(&self, value: &str) -> Option<&'a TensorProto> {
        self.initializers.get(value).copied().or_else(|| {
            let node = self.producer(value).filter(|n| n.op_type == "Constant")?;
            attribute::find(node, "value")?.t.as_ref()
        })
    }

    /// The constant in input `slot` of `node`.
    pub fn constant_input(&self, node: &NodeProto, slot: usize) -> Option<&'a TensorProto> {
        self.constant(input(node, slot)?)
    }

    /// True for an initializer. Before IR version 4 each of them stands among the graph's inputs too.
    pub fn is_initializer(&self, value: &str) -> bool {
        self.initializers.contains_key(value)
    }
}

/// Name of the value in input `slot`, unless the slot is absent or left out.
pub fn input(node: &NodeProto, slot: usize) -> Option<&str> {
    node.input.get(slot).map(String::as_str).filter(|name| !name.is_empty())
}

/// What a person calls the node: its name, or that of its first output.
pub fn node_name(node: &NodeProto) -> &str {
    let first = || node.output.iter().find(|o| !o.is_empty()).map_or("without a name", String::as_str);
    if node.name.is_empty() { first() } else { &node.name }
}

/// The operator, with its domain unless that is ONNX's own.
pub fn op_name(node: &NodeProto) -> String {
    match node.domain.as_str() {
        "" | "ai.onnx" => node.op_type.clone(),
        domain => format!("{domain}.{}", node.op_type),
    }
}

/// Operators that only move or rename elements, so that quantization parameters pass through them unchanged.
pub fn is_layout(op: &str) -> bool {
    matches!(op, "Reshape" | "Flatten" | "Transpose" | "Squeeze" | "Unsqueeze" | "Identity")
}
