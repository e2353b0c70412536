//! Rewrites that make explicit what the engine would otherwise overlook.

use super::graph::{Index, input};
use super::pb::{ModelProto, NodeProto, TensorProto};
use super::{attribute, check};
use crate::engine::error::LoadCause;

/// Puts the nodes in an order in which every value is made before it is read, as ONNX demands and some exporters do not, and gives
/// every `QuantizeLinear` that names its type by `output_dtype` (opset 21) a zero point of that type: tract knows the type
/// from the zero point alone, and without one takes uint8. The model must have passed `check`.
pub fn normalize(model: &mut ModelProto) -> Result<(), LoadCause> {
    let Some(graph) = model.graph.as_mut() else { return Ok(()) };
    graph.node = check::order(graph)?.into_iter().map(|id| std::mem::take(&mut graph.node[id])).collect();
    let index = Index::new(graph);
    let zeros: Vec<Option<TensorProto>> = graph.node.iter().map(|node| zero_point(&index, node)).collect();
    for (node, zero) in graph.node.iter_mut().zip(zeros) {
        if let Some(zero) = zero {
            node.input.truncate(2);
            node.input.push(zero.name.clone());
            graph.initializer.push(zero);
        }
    }
    Ok(())
}

/// The zero point that `node` lacks, in the shape of its scale.
fn zero_point(index: &Index, node: &NodeProto) -> Option<TensorProto> {
    if node.op_type != "QuantizeLinear" || input(node, 2).is_some() {
        return None;
    }
    let data_type = i32::try_from(attribute::int(node, "output_dtype", 0)).ok().filter(|t| *t != 0)?;
    let dims = index.constant_input(node, 1)?.dims.clone();
    let name = format!("{} zero point", node.output.first()?);
    let elements = dims.iter().product::<i64>() as usize;
    Some(TensorProto { name, data_type, raw_data: vec![0; elements], dims, ..TensorProto::default() })
}
