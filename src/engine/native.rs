//! Our own executor: a straight-line program of kernel steps over one arena, with islands that tract runs where there is no
//! kernel.

use super::arena::Arena;
use super::error::{RunError, no_panic};
use super::lower::{Origin, Record, Work};
use super::plan::{self, Buffer, Plan};
use super::program::{Executor, Memory, Program};
use super::recognize::Absorbed;
use super::report::{EngineNode, Placement};
use super::step::{READS, Step};
use super::tract::lowering::Lowered;
use super::tract::{IslandPlan, TractIsland, island_weights};
use crate::kernels::{self, Isa};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A prepared program.
pub struct NativeProgram(Arc<Prepared>);

/// Where a tensor lies.
#[derive(Clone, Debug)]
enum Place {
    Input(usize),
    Constant(usize),
    Arena(Range<usize>),
}

enum Action {
    Kernel { step: Box<dyn Step>, reads: [Place; READS], write: Range<usize> },
    Island { number: usize, reads: Vec<Place>, writes: Vec<Range<usize>> },
}

struct Planned {
    name: String,
    action: Action,
}

struct Prepared {
    steps: Vec<Planned>,
    islands: Vec<IslandPlan>,
    /// Bytes of each input.
    inputs: Vec<usize>,
    constants: Vec<Vec<u8>>,
    outputs: Vec<Place>,
    arena: usize,
    scratch: usize,
    buffers: Vec<Buffer>,
    plan: Plan,
    absorbed: Absorbed,
    memory: Memory,
}

impl Prepared {
    fn bytes(&self, place: &Place) -> usize {
        match place {
            Place::Input(index) => self.inputs[*index],
            Place::Constant(index) => self.constants[*index].len(),
            Place::Arena(range) => range.len(),
        }
    }
}

/// Plans the arena and packs the weights.
pub fn prepare(lowered: Lowered, inputs: Vec<usize>, absorbed: Absorbed) -> Result<NativeProgram, String> {
    let Lowered { lowering, islands, outputs } = lowered;
    let buffers = buffers(&lowering.storages, &lowering.records, &outputs);
    let plan = plan::plan(&buffers);
    let place = |storage: usize| match lowering.storages[storage].origin {
        Origin::Input(index) => Place::Input(index),
        Origin::Constant(index) => Place::Constant(index),
        Origin::Arena => Place::Arena(range(&plan, &buffers, storage)),
    };
    let isa = Isa::best();
    let mut steps = Vec::with_capacity(lowering.records.len());
    for record in &lowering.records {
        let action = match &record.work {
            Work::Kernel(draft) => kernel(record, &**draft, isa, &plan, &place).map_err(|e| format!("node `{}`: {e}", record.name))?,
            Work::Island(number) => Action::Island {
                number: *number,
                reads: record.reads.iter().map(|&r| place(r)).collect(),
                writes: record.writes.iter().map(|&w| range(&plan, &buffers, w)).collect(),
            },
        };
        steps.push(Planned { name: record.name.clone(), action });
    }
    let kernels = || steps.iter().filter_map(|s| if let Action::Kernel { step, .. } = &s.action { Some(step) } else { None });
    let weights = kernels().map(|s| s.weight_bytes() as u64).sum::<u64>() + islands.iter().map(|i| island_weights(i)).sum::<u64>();
    let scratch = kernels().map(|s| s.scratch_bytes()).max().unwrap_or(0);
    let outputs = outputs.into_iter().map(place).collect();
    let memory = Memory { activations: plan.size() as u64, weights };
    let arena = plan.size();
    let constants = lowering.constants;
    Ok(NativeProgram(Arc::new(Prepared { steps, islands, inputs, constants, outputs, arena, scratch, buffers, plan, absorbed, memory })))
}

fn range(plan: &Plan, buffers: &[Buffer], storage: usize) -> Range<usize> {
    let at = plan.offset(storage);
    at..at + buffers[storage].size
}

fn kernel(
    record: &Record,
    draft: &dyn super::lower::draft::Draft,
    isa: Isa,
    plan: &Plan,
    place: &impl Fn(usize) -> Place,
) -> Result<Action, kernels::Error> {
    let write = record.writes[0];
    let taken = |read: usize| plan.in_place(write) && plan.offset(write) == plan.offset(record.reads[read]);
    let in_place = (0..record.reads.len()).find(|&read| record.may_take(read) && taken(read));
    let step = draft.finish(isa, &record.layouts, in_place.is_some())?;
    let reads = std::array::from_fn(|read| match record.reads.get(read) {
        Some(_) if in_place == Some(read) => Place::Arena(0..0),
        Some(&storage) => place(storage),
        None => Place::Arena(0..0),
    });
    let Place::Arena(write) = place(write) else {
        return Err(kernels::Error::Parameter { what: "a step that writes an input of the model", found: write });
    };
    Ok(Action::Kernel { step, reads, write })
}

/// The storages as the planner sees them, by the same numbers.
fn buffers(storages: &[super::lower::Storage], records: &[Record], outputs: &[usize]) -> Vec<Buffer> {
    let mut buffers: Vec<Buffer> =
        storages.iter().map(|s| Buffer { name: s.name.clone(), size: 0, first: usize::MAX, last: 0, takes: None }).collect();
    for (step, record) in records.iter().enumerate() {
        for &write in &record.writes {
            buffers[write].size = storages[write].bytes;
            buffers[write].first = buffers[write].first.min(step);
        }
        for &storage in record.writes.iter().chain(&record.reads) {
            buffers[storage].last = buffers[storage].last.max(step);
        }
    }
    for &output in outputs {
        buffers[output].last = records.len();
    }
    for record in records.iter().filter(|r| r.writes.len() == 1) {
        let write = record.writes[0];
        let alone = records.iter().filter(|r| r.writes.contains(&write)).count() == 1;
        let wish = (0..record.reads.len()).find(|&read| record.may_take(read) && storages[record.reads[read]].origin == Origin::Arena);
        buffers[write].takes = wish.filter(|_| alone).map(|read| record.reads[read]);
    }
    for buffer in &mut buffers {
        buffer.first = buffer.first.min(buffer.last);
    }
    buffers
}

impl Program for NativeProgram {
    fn executor(&self, _threads: usize) -> Result<Box<dyn Executor>, RunError> {
        let program = self.0.clone();
        let size = |place: &Place| program.bytes(place);
        Ok(Box::new(NativeExecutor {
            arena: Arena::new(program.arena),
            inputs: program.inputs.iter().map(|&bytes| vec![0; bytes]).collect(),
            outputs: program.outputs.iter().map(|place| vec![0; size(place)]).collect(),
            scratch: vec![0; program.scratch],
            islands: program.islands.iter().map(|plan| TractIsland::new(plan.clone())).collect::<Result<_, _>>()?,
            program,
        }))
    }

    fn placement(&self, output: &str, op: &str, in_qdq_group: bool) -> Placement {
        match self.0.absorbed.contains(output) {
            true if matches!(op, "QuantizeLinear" | "DequantizeLinear") => Placement::int8("part of an int8 step"),
            true => Placement::int8("int8 products into 32-bit sums, or 8-bit values by table"),
            false if matches!(op, "QuantizeLinear" | "DequantizeLinear") => Placement::float("a cast between int8 and float"),
            false if in_qdq_group => Placement::float("the group is not one that has an int8 kernel: tract runs it in float"),
            false => Placement::float("not quantized in the model: tract runs it"),
        }
    }

    fn nodes(&self) -> Vec<EngineNode> {
        let bytes = |place: &Place| self.0.bytes(place) as u64;
        let node = |planned: &Planned| {
            let name = planned.name.clone();
            match &planned.action {
                Action::Kernel { step, reads, write } => EngineNode {
                    name,
                    op: step.describe(),
                    macs: step.macs(),
                    weight_bytes: step.weight_bytes() as u64,
                    activation_bytes: reads.iter().map(bytes).sum::<u64>() + write.len() as u64,
                },
                Action::Island { number, reads, writes } => EngineNode {
                    name,
                    op: "tract".to_string(),
                    macs: 0,
                    weight_bytes: island_weights(&self.0.islands[*number]),
                    activation_bytes: reads.iter().map(bytes).sum::<u64>() + writes.iter().map(|w| w.len() as u64).sum::<u64>(),
                },
            }
        };
        self.0.steps.iter().map(node).collect()
    }

    fn memory(&self) -> Memory {
        self.0.memory
    }

    fn picture(&self) -> Option<String> {
        let used: Vec<usize> = (0..self.0.buffers.len()).filter(|&i| self.0.buffers[i].size > 0).collect();
        (!used.is_empty()).then(|| plan::picture(&self.0.buffers, &self.0.plan))
    }
}

struct NativeExecutor {
    program: Arc<Prepared>,
    arena: Arena,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    scratch: Vec<u8>,
    islands: Vec<TractIsland>,
}

impl Executor for NativeExecutor {
    fn input_mut(&mut self, index: usize) -> &mut [u8] {
        &mut self.inputs[index]
    }

    fn input(&self, index: usize) -> &[u8] {
        &self.inputs[index]
    }

    fn run(&mut self) -> Result<(), RunError> {
        let program = self.program.clone();
        for planned in &program.steps {
            self.step(planned)?;
        }
        self.finish(&program);
        Ok(())
    }

    fn run_timed(&mut self, each: &mut dyn FnMut(usize, Duration)) -> Result<(), RunError> {
        let program = self.program.clone();
        for (number, planned) in program.steps.iter().enumerate() {
            let start = Instant::now();
            self.step(planned)?;
            each(number, start.elapsed());
        }
        self.finish(&program);
        Ok(())
    }

    fn output(&self, index: usize) -> &[u8] {
        &self.outputs[index]
    }

    fn threads(&self) -> usize {
        1
    }
}

impl NativeExecutor {
    fn step(&mut self, planned: &Planned) -> Result<(), RunError> {
        match &planned.action {
            Action::Kernel { step, reads, write } => {
                self.kernel(&**step, reads, write);
                Ok(())
            }
            Action::Island { number, reads, writes } => self.island(*number, reads, writes),
        }
    }

    /// Hands the outputs over.
    fn finish(&mut self, program: &Prepared) {
        for (output, place) in self.outputs.iter_mut().zip(&program.outputs) {
            output.copy_from_slice(match place {
                Place::Input(index) => &self.inputs[*index],
                Place::Constant(index) => &program.constants[*index],
                Place::Arena(range) => self.arena.read(range.clone()),
            });
        }
    }

    fn kernel(&mut self, step: &dyn Step, reads: &[Place; READS], write: &Range<usize>) {
        let ranges = reads.each_ref().map(|place| match place {
            Place::Input(_) | Place::Constant(_) => 0..0,
            Place::Arena(range) => range.clone(),
        });
        let (slices, mut parts) = self.arena.split(ranges);
        let inputs = std::array::from_fn(|i| match &reads[i] {
            Place::Input(index) => &self.inputs[*index][..],
            Place::Constant(index) => &self.program.constants[*index][..],
            Place::Arena(_) => slices[i],
        });
        let all = 0..step.parts();
        let owned = step.owned(all.clone());
        let output = parts.take(write.start + owned.start..write.start + owned.end);
        step.run(inputs, output, all, &mut self.scratch);
    }

    fn island(&mut self, number: usize, reads: &[Place], writes: &[Range<usize>]) -> Result<(), RunError> {
        let island = &mut self.islands[number];
        for (slot, place) in reads.iter().enumerate() {
            island.input(slot).copy_from_slice(match place {
                Place::Input(index) => &self.inputs[*index],
                Place::Constant(index) => &self.program.constants[*index],
                Place::Arena(range) => self.arena.read(range.clone()),
            });
        }
        no_panic(|| island.run()).unwrap_or_else(|panic| Err(RunError(panic)))?;
        for (slot, range) in writes.iter().enumerate() {
            let bytes = island.output(slot);
            let target = self.arena.write(range.clone());
            if bytes.len() != target.len() {
                return Err(RunError(format!("{} bytes come out of tract, expected {}", bytes.len(), target.len())));
            }
            target.copy_from_slice(bytes);
        }
        Ok(())
    }
}
