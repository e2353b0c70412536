//! tract: shapes and simplification for every model, islands of what has no kernel of ours, and on request the whole model, on one
//! thread: as its author wrote it, quantized groups being float operators between casts, or recognised, each operator by its plain
//! evaluation.

mod dynamic;
pub mod lowering;
pub mod operator;
mod qdq;
mod ranked;

use super::dynamic::Dynamic;
use super::error::{LoadCause, RunError, no_panic};
use super::limits::Limits;
use super::onnx::boundary::Output;
use super::onnx::graph::{node_name, op_name};
use super::onnx::pb::{ModelProto, ValueInfoProto};
use super::onnx::tensor::MAX_DIM;
use super::program::{Executor, Memory, Program};
use super::quantized::{NATIVE, Operator};
use super::recognize::{DYNAMIC, OP_TYPE, from_node};
use super::report::{EngineNode, Placement};
use super::spread::Spread;
use crate::config::value::Size;
use crate::tensor::{Dtype, TensorSpec};
use lowering::Lowered;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use tract_onnx::Onnx;
use tract_onnx::model::ParseResult;
use tract_onnx::prelude::tract_itertools::Itertools;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceModelExt;

static ONNX: LazyLock<Onnx> = LazyLock::new(|| {
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
    onnx.op_register.insert("QuantizeLinear", qdq::quantize_linear);
    onnx.op_register.insert("DequantizeLinear", qdq::dequantize_linear);
    onnx.op_register.insert("LayerNormalization", ranked::layer_norm);
    onnx.op_register.insert(OP_TYPE, operator::build::<Operator>);
    onnx.op_register.insert(DYNAMIC, operator::build::<Dynamic>);
    onnx
});

/// Operators of the domain com.microsoft that tract has with the meaning they have there. tract itself looks at the name alone.
const MICROSOFT: [&str; 14] = [
    "BiasGelu",
    "DequantizeLinear",
    "FastGelu",
    "GatherBlockQuantized",
    "Gelu",
    "GroupQueryAttention",
    "MatMulNBits",
    "MultiHeadAttention",
    "QuantizeLinear",
    "QuickGelu",
    "RotaryEmbedding",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "DynamicQuantizeLinear",
];

/// Operators of the domain ai.onnx.ml that tract has.
const ML: [&str; 6] =
    ["ArrayFeatureExtractor", "CategoryMapper", "LinearClassifier", "LinearRegressor", "Normalizer", "TreeEnsembleClassifier"];

/// Whether `op` of `domain` (`""` is ONNX's own) can run: by tract, or as one of our own operators.
pub fn supports(domain: &str, op: &str) -> bool {
    match domain {
        "" => ![OP_TYPE, DYNAMIC].contains(&op) && (ONNX.op_register.0.contains_key(op)),
        "ai.onnx.ml" => ML.contains(&op),
        "com.microsoft" if NATIVE.contains(&op) => true,
        "com.microsoft" => MICROSOFT.contains(&op) && ONNX.op_register.0.contains_key(op),
        _ => false,
    }
}

/// Shapes and types of the ONNX values, as tract infers them.
pub type Shapes = HashMap<String, (String, Vec<usize>)>;

/// A model that tract understood and simplified, before anything decides how it runs.
pub struct Typed {
    model: TypedModel,
    pub outputs: Vec<TensorSpec>,
    pub shapes: Shapes,
    memory: Memory,
}

/// A tract plan.
pub struct TractProgram {
    plan: Arc<TypedSimplePlan>,
    memory: Memory,
}

/// Analyses a checked and settled model.
pub fn analyse(model: ModelProto, outputs: &[Output], limits: &Limits) -> Result<Typed, LoadCause> {
    let parsed = parse(&model).map_err(|why| blame(&model, why))?;
    // tract has weights of its own now.
    let hollow = Hollow::new(model);
    let understood = infer_types(parsed).map_err(|why| blame(&hollow.filled(), why))?;
    no_panic(|| simplify(understood, outputs, limits)).unwrap_or_else(|panic| Err(LoadCause::Engine(panic)))
}

impl Typed {
    /// The model as steps of our own with islands of tract's between them.
    pub fn lower(self) -> Result<Lowered, String> {
        told(|| lowering::lower(self.model))
    }

    /// Bytes of each input.
    pub fn input_bytes(&self) -> Vec<usize> {
        let bytes = |outlet: &OutletId| {
            let fact = self.model.outlet_fact(*outlet).ok()?;
            Some(concrete(fact)?.iter().product::<usize>() * fact.datum_type.size_of())
        };
        self.model.inputs.iter().map(|outlet| bytes(outlet).unwrap_or(0)).collect()
    }

    /// The model as tract alone runs it.
    pub fn into_program(self) -> Result<TractProgram, LoadCause> {
        let Typed { mut model, memory, .. } = self;
        let compile = || {
            model.optimize()?;
            TypedSimplePlan::new(model)
        };
        let plan = no_panic(compile).map_err(LoadCause::Engine)?.map_err(refused)?;
        Ok(TractProgram { plan, memory })
    }
}

fn one_line(error: TractError) -> String {
    format!("{error:#}").replace('\n', " ")
}

fn refused(error: TractError) -> LoadCause {
    LoadCause::Engine(one_line(error))
}

/// What tract does, or why it does not, in a line.
fn told<T>(run: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    no_panic(run).and_then(|result| result.map_err(one_line))
}

/// A model as tract reads it, before it knows types and shapes.
fn parse(model: &ModelProto) -> Result<ParseResult, String> {
    told(|| {
        let parsed = ONNX.parse(model, None)?;
        ensure!(parsed.unresolved_inputs.is_empty(), "nothing makes {:?}", parsed.unresolved_inputs);
        Ok(parsed)
    })
}

/// A model in tract's own operators, with the shapes of the ONNX values.
fn infer_types(ParseResult { mut model, outlets_by_name, .. }: ParseResult) -> Result<(TypedModel, Shapes), String> {
    told(|| {
        model.analyse(false)?;
        let shapes = shapes(&model, &outlets_by_name);
        Ok((model.into_typed()?, shapes))
    })
}

/// A model without the bytes of its large constants, of which errors need no more than the sizes.
struct Hollow {
    model: ModelProto,
    /// Of each constant that lost its bytes: its number, and how many they were.
    taken: Vec<(usize, usize)>,
}

impl Hollow {
    /// Smaller constants stay: shapes and axes, on whose values it depends what a model means.
    const LARGE: usize = 64 << 10;

    fn new(mut model: ModelProto) -> Hollow {
        let constants = model.graph.iter_mut().flat_map(|graph| &mut graph.initializer).enumerate();
        let large = constants.filter(|(_, constant)| constant.raw_data.len() >= Hollow::LARGE);
        let taken = large.map(|(number, constant)| (number, std::mem::take(&mut constant.raw_data).len())).collect();
        Hollow { model, taken }
    }

    /// With zeros in place of what it lost.
    fn filled(mut self) -> ModelProto {
        for (number, bytes) in self.taken {
            if let Some(constant) = self.model.graph.as_mut().and_then(|graph| graph.initializer.get_mut(number)) {
                constant.raw_data = vec![0; bytes];
            }
        }
        self.model
    }
}

/// Names the node at which tract fails with `why`: the last of the shortest run of nodes from the start that fails, found by
/// bisection. The nodes are in an order in which each can do without those behind it.
fn blame(model: &ModelProto, why: String) -> LoadCause {
    let Some(graph) = &model.graph else { return LoadCause::Engine(why) };
    let mut part = model.clone();
    let mut fails = |length: usize| {
        let last = graph.node.get(length - 1)?;
        let part = part
            .graph
            .as_mut()
            .map(|part| {
                part.node = graph.node[..length].to_vec();
                let outputs = last.output.iter().filter(|o| !o.is_empty());
                part.output = outputs.map(|name| ValueInfoProto { name: name.clone(), ..ValueInfoProto::default() }).collect();
            })
            .map(|()| &part)?;
        parse(part).and_then(infer_types).err()
    };
    let (mut good, mut bad) = (0, graph.node.len());
    let mut found = None;
    while good < bad {
        let middle = good.midpoint(bad);
        match fails(middle + 1) {
            Some(why) => (bad, found) = (middle, Some((middle, why))),
            None => good = middle + 1,
        }
    }
    match found {
        Some((at, why)) => {
            let node = &graph.node[at];
            let ours = match node.op_type.as_str() {
                OP_TYPE => from_node::<Operator>(node).map(|op| op.kind_name()),
                _ => from_node::<Dynamic>(node).map(|op| op.kind_name()),
            };
            let op = ours.map_or_else(|_| op_name(node), str::to_string);
            LoadCause::Node { node: node_name(node).to_string(), op, why }
        }
        None => LoadCause::Engine(why),
    }
}

fn simplify((mut typed, shapes): (TypedModel, Shapes), outputs: &[Output], limits: &Limits) -> Result<Typed, LoadCause> {
    within(&typed, limits)?;
    if typed.outputs.len() > 1 {
        merge_equal(&mut typed).map_err(refused)?;
    }
    typed.declutter().map_err(refused)?;
    let memory = within(&typed, limits)?;
    let outputs = outputs.iter().enumerate().map(|(i, o)| describe(&typed, i, o)).collect::<Result<_, _>>()?;
    Ok(Typed { model: typed, outputs, shapes, memory })
}

/// Leaves one of all nodes that do the same with the same, outputs of the model among them. tract merges equal nodes too, but of three of
/// which two are outputs it refers one output to a node that it has removed.
fn merge_equal(model: &mut TypedModel) -> TractResult<()> {
    let equal = |model: &TypedModel| -> TractResult<Option<(usize, usize)>> {
        for id in model.eval_order()? {
            for output in &model.node(id).outputs {
                let readers: Vec<usize> = output.successors.iter().map(|reader| reader.node).collect();
                for (i, &a) in readers.iter().enumerate() {
                    if let Some(&b) = readers[i + 1..].iter().find(|&&b| b != a && model.node(a).same_as(model.node(b))) {
                        return Ok(Some((a, b)));
                    }
                }
            }
        }
        Ok(None)
    };
    while let Some((kept, gone)) = equal(model)? {
        let mut patch = TypedModelPatch::default();
        for slot in 0..model.node(gone).outputs.len() {
            let tap = patch.tap_model(model, OutletId::new(kept, slot))?;
            patch.shunt_outside(model, OutletId::new(gone, slot), tap)?;
        }
        patch.obliterate(gone)?;
        patch.apply(model)?;
    }
    Ok(())
}

fn shapes(model: &tract_onnx::prelude::InferenceModel, outlets: &HashMap<String, OutletId>) -> Shapes {
    let known = |outlet: &OutletId| {
        let fact = model.outlet_fact(*outlet).ok()?.to_typed_fact().ok()?.into_owned();
        Some((type_name(fact.datum_type), concrete(&fact)?))
    };
    outlets.iter().filter_map(|(name, outlet)| Some((name.clone(), known(outlet)?))).collect()
}

/// The shape, when it is known and of a size that can be indexed.
fn concrete(fact: &TypedFact) -> Option<Vec<usize>> {
    let dims: Vec<i64> = fact.shape.iter().map(|d| d.to_i64().ok()).collect::<Option<_>>()?;
    super::onnx::tensor::shape(&dims).ok()
}

/// Memory that the model needs, refused when over the limit.
fn within(model: &TypedModel, limits: &Limits) -> Result<Memory, LoadCause> {
    let memory = estimate(model)?;
    check_memory(memory, limits)?;
    Ok(memory)
}

/// Refuses more than the limit.
pub fn check_memory(memory: Memory, limits: &Limits) -> Result<(), LoadCause> {
    let total = memory.weights.saturating_add(memory.activations);
    if total > limits.max_memory.0 {
        let what = format!("the model ({} bytes of weights, {} of activations)", memory.weights, memory.activations);
        return Err(LoadCause::MemoryTooLarge { what, found: Size(total), limit: limits.max_memory });
    }
    Ok(())
}

fn estimate(model: &TypedModel) -> Result<Memory, LoadCause> {
    for node in model.nodes() {
        if let Some(bad) = node.outputs.iter().find(|o| concrete(&o.fact).is_none()) {
            let why = format!(
                "its output has shape {:?}: expected one that does not depend on the input's values, below {MAX_DIM} elements",
                bad.fact.shape
            );
            return Err(LoadCause::Node { node: node.name.clone(), op: node.op.name().to_string(), why });
        }
    }
    let is_const = |node: &TypedNode| node.op_is::<tract_onnx::tract_core::ops::konst::Const>();
    let order = model.eval_order().map_err(refused)?;
    let steps = model.eval_tmp_memory_usage(&order, |node: &TypedNode| !is_const(node)).map_err(refused)?;
    // tract does not count what the last step writes: no less than the widest node.
    let sizes = |facts: TVec<&TypedFact>| facts.iter().filter_map(|fact| fact.mem_size().to_i64().ok()).sum::<i64>();
    let around = |id: usize| Some(sizes(model.node_input_facts(id).ok()?) + sizes(model.node_output_facts(id).ok()?));
    let widest = order.iter().filter(|&&id| !is_const(model.node(id))).filter_map(|&id| around(id)).max().unwrap_or(0);
    let peak = steps.iter().filter_map(|(_, bytes)| bytes.to_i64().ok()).max().unwrap_or(0).max(widest);
    let weights =
        model.nodes().iter().filter(|n| is_const(n)).flat_map(|n| &n.outputs).filter_map(|o| o.fact.mem_size().to_i64().ok()).sum::<i64>();
    Ok(Memory { activations: peak.max(0) as u64, weights: weights.max(0) as u64 })
}

fn dtype(ty: DatumType) -> Option<Dtype> {
    Some(match ty.unquantized() {
        DatumType::I8 => Dtype::Int8,
        DatumType::U8 => Dtype::Uint8,
        DatumType::I32 => Dtype::Int32,
        DatumType::I64 => Dtype::Int64,
        DatumType::F16 => Dtype::Float16,
        DatumType::F32 => Dtype::Float32,
        _ => return None,
    })
}

/// ONNX's name of the type where it has one.
fn type_name(ty: DatumType) -> String {
    dtype(ty).map_or_else(|| format!("{:?}", ty.unquantized()).to_lowercase(), |dtype| dtype.to_string())
}

fn describe(model: &TypedModel, index: usize, declared: &Output) -> Result<TensorSpec, LoadCause> {
    let fact = model.output_fact(index).map_err(refused)?;
    if dtype(fact.datum_type) != Some(declared.dtype) {
        let why = format!("output `{}` is declared as {} but computed as {:?}", declared.name, declared.dtype, fact.datum_type);
        return Err(LoadCause::Graph(why));
    }
    let shape = concrete(fact).ok_or_else(|| LoadCause::Graph(format!("output `{}` has no fixed shape", declared.name)))?;
    Ok(TensorSpec { name: declared.name.clone(), dtype: declared.dtype, shape, quant: declared.quant })
}

impl Program for TractProgram {
    fn executor(&self, _: &Spread) -> Result<Box<dyn Executor>, RunError> {
        Ok(Box::new(TractIsland::new(self.plan.clone())?.0))
    }

    fn placement(&self, _output: &str, op: &str, in_qdq_group: bool) -> Placement {
        match op {
            "QLinearConv" | "QLinearMatMul" | "ConvInteger" | "MatMulInteger" => Placement::int8("tract multiplies int8 into int32"),
            "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear" => Placement::float("a cast between int8 and float"),
            _ if in_qdq_group => Placement::float("QDQ group: tract runs it in float between casts"),
            _ => Placement::float("not quantized in the model"),
        }
    }

    fn nodes(&self) -> Vec<EngineNode> {
        let model = self.plan.model();
        let report = |id: &usize| {
            let node = model.node(*id);
            EngineNode { name: node.name.clone(), op: node.op.name().to_string(), macs: 0, weight_bytes: 0, activation_bytes: 0 }
        };
        self.plan.order_without_consts().iter().map(report).collect_vec()
    }

    fn memory(&self) -> Memory {
        self.memory
    }
}

/// A part of a model, compiled.
pub type IslandPlan = Arc<TypedSimplePlan>;

/// Bytes of the constants in a part of a model.
pub fn island_weights(plan: &TypedSimplePlan) -> u64 {
    estimate(plan.model()).map_or(0, |memory| memory.weights)
}

/// A part of a model that tract runs between steps of our own.
pub struct TractIsland(TractExecutor);

impl TractIsland {
    pub fn new(plan: Arc<TypedSimplePlan>) -> Result<TractIsland, RunError> {
        let model = plan.model();
        let build = || -> TractResult<TractExecutor> {
            let zeros = |fact: TractResult<&TypedFact>| {
                let fact = fact?;
                Tensor::zero_dt(fact.datum_type, &concrete(fact).unwrap_or_default()).map(Arc::new)
            };
            Ok(TractExecutor {
                inputs: (0..model.inputs.len()).map(|i| zeros(model.input_fact(i))).collect::<TractResult<_>>()?,
                outputs: (0..model.outputs.len()).map(|i| Ok(zeros(model.output_fact(i))?.into_tvalue())).collect::<TractResult<_>>()?,
                state: plan.spawn()?,
                plan: plan.clone(),
            })
        };
        build().map(TractIsland).map_err(|e| RunError(format!("{e:#}")))
    }

    /// Bytes of its input `slot`.
    pub fn input(&mut self, slot: usize) -> &mut [u8] {
        self.0.input_mut(slot)
    }

    pub fn run(&mut self) -> Result<(), RunError> {
        self.0.run()
    }

    /// Bytes of its output `slot`.
    pub fn output(&self, slot: usize) -> &[u8] {
        self.0.output(slot)
    }
}

/// tract's state with the tensors that live from run to run.
struct TractExecutor {
    plan: Arc<TypedSimplePlan>,
    state: TypedSimpleState,
    inputs: Vec<Arc<Tensor>>,
    outputs: TVec<TValue>,
}

impl Executor for TractExecutor {
    fn input_mut(&mut self, index: usize) -> &mut [u8] {
        // tract gives inputs back after a run, so this copies only where an output is an input passed through.
        Arc::make_mut(&mut self.inputs[index]).as_bytes_mut()
    }

    fn input(&self, index: usize) -> &[u8] {
        self.inputs[index].as_bytes()
    }

    fn run(&mut self) -> Result<(), RunError> {
        let inputs: TVec<TValue> = self.inputs.iter().map(|t| t.clone().into_tvalue()).collect();
        match no_panic(|| self.state.run(inputs)) {
            Ok(Ok(outputs)) if outputs.iter().zip(&self.outputs).all(|(new, old)| new.shape() == old.shape()) => {
                self.outputs = outputs;
                Ok(())
            }
            Ok(Ok(_)) => Err(self.recover("an output has another shape than the model promised".to_string())),
            Ok(Err(error)) => Err(self.recover(format!("{error:#}"))),
            Err(panic) => Err(self.recover(panic)),
        }
    }

    fn output(&self, index: usize) -> &[u8] {
        self.outputs[index].as_bytes()
    }

    fn threads(&self) -> usize {
        1
    }
}

impl TractExecutor {
    /// After a failure the state holds half a run: starts from a fresh one.
    fn recover(&mut self, why: String) -> RunError {
        match self.plan.spawn() {
            Ok(state) => {
                self.state = state;
                RunError(why)
            }
            Err(error) => RunError(format!("{why}; and no new state: {error:#}")),
        }
    }
}
