//! Attributes of a node by name.

use super::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};

/// The attribute `name`.
pub fn find<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}

/// An integer attribute, or `default` where it is absent.
pub fn int(node: &NodeProto, name: &str, default: i64) -> i64 {
    find(node, name).map_or(default, |a| a.i)
}

/// A list of integers; empty where it is absent.
pub fn ints<'a>(node: &'a NodeProto, name: &str) -> &'a [i64] {
    find(node, name).map_or(&[], |a| &a.ints)
}

/// A list of `length` sizes, or as many times `default` where it is absent. `None` where it has another length or a negative
/// value.
pub fn sizes(node: &NodeProto, name: &str, default: usize, length: usize) -> Option<Vec<usize>> {
    match ints(node, name) {
        [] => Some(vec![default; length]),
        found if found.len() == length => found.iter().map(|&v| usize::try_from(v).ok()).collect(),
        _ => None,
    }
}

/// The tensors that the node's attributes hold.
pub fn tensors(node: &NodeProto) -> impl Iterator<Item = &TensorProto> {
    node.attribute.iter().flat_map(|a| a.t.iter().chain(&a.tensors))
}

/// The graphs that the node's attributes hold: bodies of `If` and `Scan`.
pub fn graphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs))
}
