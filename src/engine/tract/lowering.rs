//! Walks a tract model and builds a [`Lowering`]: recognised operators become kernel steps, everything between them becomes
//! islands that tract runs.

use super::dynamic::DynamicallyQuantized;
use super::operator::{Ours, Quantized, to_array};
use super::qdq::{Dequantize, Quantize};
use super::{concrete, dtype};
use crate::engine::lower::{Lowering, Operand, Origin, Value};
use crate::kernels::Border;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::Slice;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::source::TypedSource;

/// A program's steps before planning, and the parts that tract runs.
pub struct Lowered {
    pub lowering: Lowering,
    pub islands: Vec<Arc<TypedSimplePlan>>,
    /// Storages of the model's outputs.
    pub outputs: Vec<usize>,
}

/// Lowers a decluttered model.
pub fn lower(mut model: TypedModel) -> TractResult<Lowered> {
    let order = model.eval_order()?;
    let constants = Constants::take_from(&mut model)?;
    let model = &model;
    let mut walk = Walk {
        model,
        constants,
        lowering: Lowering::default(),
        values: HashMap::new(),
        pending: Vec::new(),
        islands: Vec::new(),
        borders: borders(model, &order)?,
    };
    for &id in &order {
        walk.node(id)?;
    }
    walk.flush()?;
    let outputs = model.outputs.iter().map(|&outlet| walk.native(outlet)).collect::<TractResult<_>>()?;
    Ok(Lowered { lowering: walk.lowering, islands: walk.islands, outputs })
}

/// The border that each value's readers would like.
fn borders(model: &TypedModel, order: &[usize]) -> TractResult<HashMap<OutletId, Border>> {
    let mut borders: HashMap<OutletId, Border> = HashMap::new();
    for &id in order {
        let node = model.node(id);
        if let Some(Ours(op)) = node.op_as::<Quantized>() {
            let shapes = node.inputs.iter().map(|&i| shape(model, i)).collect::<TractResult<Vec<_>>>()?;
            let wanted = borders.entry(node.inputs[0]).or_default();
            *wanted = wanted.union(op.border(&shapes));
        }
    }
    Ok(borders)
}

fn shape(model: &TypedModel, outlet: OutletId) -> TractResult<Vec<usize>> {
    concrete(model.outlet_fact(outlet)?).context("a value has no fixed shape")
}

/// How often a value is read, as an output of the model too.
fn readers(model: &TypedModel, outlet: OutletId) -> usize {
    let read = model.node(outlet.node).outputs[outlet.slot].successors.len();
    read + model.outputs.iter().filter(|o| **o == outlet).count()
}

/// Constants that are still to be read. Each goes when its last reader has it, so that all weights never exist twice.
struct Constants(HashMap<OutletId, (Arc<Tensor>, usize)>);

impl Constants {
    /// Leaves nodes without a value.
    fn take_from(model: &mut TypedModel) -> TractResult<Constants> {
        let mut constants = HashMap::new();
        let nothing = Arc::new(Tensor::zero::<u8>(&[0])?);
        let found: Vec<usize> = model.nodes().iter().filter(|node| node.op_is::<Const>()).map(|node| node.id).collect();
        for id in found {
            let outlet = OutletId::new(id, 0);
            let readers = readers(model, outlet);
            let node = model.node_mut(id);
            let value = node.outputs[0].fact.konst.take().context("a constant without a value")?;
            constants.insert(outlet, (value, readers));
            node.op = Box::new(Const::new(nothing.clone())?);
        }
        Ok(Constants(constants))
    }

    fn get(&self, outlet: OutletId) -> Option<&Arc<Tensor>> {
        self.0.get(&outlet).map(|(value, _)| value)
    }

    /// One reader of each of these has what it needs.
    fn release(&mut self, inputs: &[OutletId]) {
        for outlet in inputs {
            if let Some((_, readers)) = self.0.get_mut(outlet) {
                *readers -= 1;
                if *readers == 0 {
                    self.0.remove(outlet);
                }
            }
        }
    }
}

struct Walk<'m> {
    model: &'m TypedModel,
    constants: Constants,
    lowering: Lowering,
    values: HashMap<OutletId, Value>,
    /// Nodes for the next island.
    pending: Vec<usize>,
    islands: Vec<Arc<TypedSimplePlan>>,
    borders: HashMap<OutletId, Border>,
}

impl Walk<'_> {
    fn node(&mut self, id: usize) -> TractResult<()> {
        let node = self.model.node(id);
        if node.op_is::<Const>() {
            return Ok(());
        }
        if node.op_is::<TypedSource>() {
            let index = self.model.inputs.iter().position(|i| i.node == id).context("a source that is no input")?;
            let value = self.native_value(OutletId::new(id, 0), Origin::Input(index))?;
            self.values.insert(OutletId::new(id, 0), value);
            return Ok(());
        }
        let known = |walk: &Self| node.inputs.iter().all(|i| walk.values.contains_key(i) || walk.is_constant(*i));
        let ours =
            node.op_is::<Quantized>() || node.op_is::<DynamicallyQuantized>() || node.op_is::<Quantize>() || node.op_is::<Dequantize>();
        if ours && !known(self) {
            self.flush()?;
        }
        self.lowering.name = node.name.clone();
        self.lowering.hint = self.borders.get(&OutletId::new(id, 0)).copied().unwrap_or_default();
        let made = if known(self) { self.kernel(node)? } else { None };
        match made {
            Some(value) => {
                self.lowering.set_readers(value, readers(self.model, OutletId::new(id, 0)));
                self.values.insert(OutletId::new(id, 0), value);
                self.constants.release(&node.inputs);
            }
            None => self.pending.push(id),
        }
        Ok(())
    }

    fn is_constant(&self, outlet: OutletId) -> bool {
        self.model.node(outlet.node).op_is::<Const>()
    }

    /// The node as a step or a view, where it can be one.
    fn kernel(&mut self, node: &TypedNode) -> TractResult<Option<Value>> {
        let first = node.inputs.first().and_then(|i| self.values.get(i)).copied();
        if let Some(Ours(op)) = node.op_as::<Quantized>() {
            let operands = node.inputs.iter().map(|&i| self.operand(i)).collect::<TractResult<Vec<_>>>()?;
            // What cannot be lowered runs by its plain evaluation; the shapes were checked before.
            return Ok(op.lower(&mut self.lowering, &operands).unwrap_or_else(|why| {
                log::debug!("node `{}` runs by its reference: {why}", node.name);
                None
            }));
        }
        let Some(value) = first else { return Ok(None) };
        if let Some(Ours(op)) = node.op_as::<DynamicallyQuantized>() {
            let Some(weights) = self.constants.get(node.inputs[1]) else { return Ok(None) };
            let (shape, weights) = (shape(self.model, node.inputs[0])?, to_array(weights)?);
            return Ok(op.lower(&mut self.lowering, value, &shape, &weights).ok());
        }
        if let Some(quantize) = node.op_as::<Quantize>() {
            let float = self.model.outlet_fact(node.inputs[0])?.datum_type == f32::datum_type();
            let ty = quantize.per_tensor().filter(|_| float);
            return Ok(ty.and_then(|ty| self.lowering.quantize(value, ty).ok()));
        }
        if let Some(dequantize) = node.op_as::<Dequantize>() {
            let ty = dequantize.per_tensor(self.model.outlet_fact(node.inputs[0])?.datum_type);
            return Ok(ty.and_then(|ty| self.lowering.dequantize(value, ty).ok()));
        }
        if !matches!(node.outputs[0].fact.datum_type.unquantized(), DatumType::I8 | DatumType::U8) {
            return Ok(None);
        }
        let shape = shape(self.model, OutletId::new(node.id, 0))?;
        if let Some(axis_op) = node.op_as::<AxisOp>() {
            return Ok(self.moved(value, &shape, axis_op));
        }
        if let Some(slice) = node.op_as::<Slice>()
            && let (Ok(start), Ok(end)) = (slice.start.to_usize(), slice.end.to_usize())
        {
            return Ok(self.lowering.reviewed_or_copied(value, &shape, false, |view| Some(view.sliced(slice.axis, start..end))));
        }
        Ok(None)
    }

    fn moved(&mut self, value: Value, shape: &[usize], op: &AxisOp) -> Option<Value> {
        match op {
            AxisOp::Add(axis) => self.lowering.reviewed_or_copied(value, shape, true, |view| Some(view.with_axis(*axis))),
            AxisOp::Rm(axis) => self.lowering.reviewed_or_copied(value, shape, true, |view| Some(view.without_axis(*axis))),
            AxisOp::Move(from, to) => self.lowering.reviewed_or_copied(value, shape, false, |view| Some(view.moved(*from, *to))),
            AxisOp::Reshape(at, from, to) => {
                let to: Vec<usize> = to.iter().map(|d| d.to_usize().ok()).collect::<Option<_>>()?;
                self.lowering.reviewed_or_copied(value, shape, true, |view| view.reshaped(*at, from.len(), &to))
            }
        }
    }

    fn operand(&self, outlet: OutletId) -> TractResult<Operand> {
        let shape = shape(self.model, outlet)?;
        let value = self.constants.get(outlet).filter(|_| !self.values.contains_key(&outlet));
        let constant = value.map(|tensor| to_array(tensor)).transpose()?.map(Arc::new);
        Ok(Operand { value: self.values.get(&outlet).copied(), shape, constant })
    }

    fn native_value(&mut self, outlet: OutletId, origin: Origin) -> TractResult<Value> {
        let fact = self.model.outlet_fact(outlet)?;
        let shape = shape(self.model, outlet)?;
        let plain = dtype(fact.datum_type).is_some() || matches!(fact.datum_type, DatumType::Bool | DatumType::F64 | DatumType::U32);
        ensure!(plain, "a value of type {:?} crosses between engines", fact.datum_type);
        let bytes = shape.iter().product::<usize>() * fact.datum_type.size_of();
        let name = &self.model.node(outlet.node).name;
        Ok(self.lowering.native_value(name, &shape, dtype(fact.datum_type), bytes, origin, readers(self.model, outlet)))
    }

    fn native(&mut self, outlet: OutletId) -> TractResult<usize> {
        if let Some(&value) = self.values.get(&outlet) {
            return self.lowering.native(value).map_err(|why| format_err!("{why}"));
        }
        // A constant that is an output.
        ensure!(self.is_constant(outlet), "a value that nothing makes");
        let mut island = TypedModel::default();
        let konst = self.constants.get(outlet).context("a constant without a value")?.clone();
        let made = island.add_const("constant", konst)?;
        island.select_output_outlets(&[made])?;
        self.island(island, "constant".to_string(), vec![], &[outlet])?;
        self.native(outlet)
    }

    /// Makes an island of the pending nodes.
    fn flush(&mut self) -> TractResult<()> {
        let nodes = std::mem::take(&mut self.pending);
        let Some(&first) = nodes.first() else { return Ok(()) };
        let inside: HashSet<usize> = nodes.iter().copied().collect();
        let mut island = TypedModel::default();
        let mut map: HashMap<OutletId, OutletId> = HashMap::new();
        let mut reads = Vec::new();
        let mut leaves = Vec::new();
        for &id in &nodes {
            let node = self.model.node(id);
            for &input in &node.inputs {
                if map.contains_key(&input) {
                    continue;
                }
                let fact = self.model.outlet_fact(input)?;
                let source = match self.constants.get(input) {
                    Some(konst) => island.add_const(format!("constant {input:?}"), konst.clone())?,
                    _ => {
                        reads.push(self.native(input)?);
                        island.add_source(format!("source {input:?}"), fact.without_value())?
                    }
                };
                map.insert(input, source);
            }
            let inputs: TVec<OutletId> = node.inputs.iter().map(|i| map[i]).collect();
            let made = island.wire_node(&node.name, node.op.clone(), &inputs)?;
            for (slot, made) in made.into_iter().enumerate() {
                let outlet = OutletId::new(id, slot);
                map.insert(outlet, made);
                let leaving = node.outputs[slot].successors.iter().any(|s| !inside.contains(&s.node));
                if leaving || self.model.outputs.contains(&outlet) {
                    leaves.push(outlet);
                }
            }
        }
        let outputs: Vec<OutletId> = leaves.iter().map(|o| map[o]).collect();
        island.select_output_outlets(&outputs)?;
        let name = match nodes.len() {
            1 => self.model.node(first).name.clone(),
            count => format!("{} and {} more", self.model.node(first).name, count - 1),
        };
        self.island(island, name, reads, &leaves)?;
        nodes.iter().for_each(|&id| self.constants.release(&self.model.node(id).inputs));
        Ok(())
    }

    fn island(&mut self, model: TypedModel, name: String, reads: Vec<usize>, leaves: &[OutletId]) -> TractResult<()> {
        let plan = TypedSimplePlan::new(model.into_optimized()?)?;
        let mut writes = Vec::new();
        for &outlet in leaves {
            self.lowering.name = self.model.node(outlet.node).name.clone();
            let value = self.native_value(outlet, Origin::Arena)?;
            writes.push(self.lowering.native(value).map_err(|why| format_err!("{why}"))?);
            self.values.insert(outlet, value);
        }
        self.islands.push(plan);
        self.lowering.push_island(name, self.islands.len() - 1, reads, writes);
        Ok(())
    }
}
