//! Our own executor: a straight-line program of kernel steps over one arena, with islands that tract runs where there is no
//! kernel. The threads of a session go through the program together, each with its own rows of every step.
#![allow(unsafe_code, reason = "threads share the arena: the plan and the barriers keep them apart")]

use super::arena::Arena;
use super::error::{RunError, no_panic};
use super::lower::{Origin, Record, Work, fuse, lifetimes};
use super::plan::{self, Buffer, Plan};
use super::program::{Executor, Memory, Program};
use super::progress::{Division, Progress};
use super::recognize::Absorbed;
use super::report::{EngineNode, Placement};
use super::spread::{self, Spread, Stages};
use super::step::{READS, Step};
use super::team::Team;
use super::tract::lowering::Lowered;
use super::tract::{IslandPlan, TractIsland, island_weights};
use crate::kernels::{self, Isa, Pantry};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A prepared program.
pub struct NativeProgram(Arc<Prepared>);

/// Where a tensor lies. The model's inputs are in the arena too, behind the activations.
#[derive(Clone, Debug)]
enum Place {
    Constant(usize),
    Arena(Range<usize>),
}

enum Action {
    Kernel { step: Box<dyn Step>, reads: [Place; READS], write: Range<usize> },
    Island { number: usize, weight_bytes: u64, reads: Vec<Place>, writes: Vec<Range<usize>> },
}

impl Action {
    /// Bytes of its weights.
    fn weight_bytes(&self) -> u64 {
        match self {
            Action::Kernel { step, .. } => step.weight_bytes() as u64,
            Action::Island { weight_bytes, .. } => *weight_bytes,
        }
    }
}

struct Planned {
    name: String,
    action: Action,
}

struct Prepared {
    steps: Vec<Planned>,
    islands: Vec<IslandPlan>,
    /// Where each input lies in the arena.
    inputs: Vec<Range<usize>>,
    constants: Vec<Vec<u8>>,
    outputs: Vec<Place>,
    /// Bytes of activations and inputs.
    arena: usize,
    /// Bytes that a thread needs for itself.
    scratch: usize,
    buffers: Vec<Buffer>,
    plan: Plan,
    absorbed: Absorbed,
    memory: Memory,
}

impl Prepared {
    /// Work of a step in multiply-accumulates; a byte moved counts as four.
    fn cost(&self, planned: &Planned) -> u64 {
        match &planned.action {
            Action::Kernel { step, reads, write } => {
                step.macs() + 4 * (reads.iter().map(|place| self.bytes(place)).sum::<usize>() + write.len()) as u64
            }
            // Not known: each weight is multiplied at least once.
            Action::Island { weight_bytes, .. } => *weight_bytes,
        }
    }

    fn bytes(&self, place: &Place) -> usize {
        match place {
            Place::Constant(index) => self.constants[*index].len(),
            Place::Arena(range) => range.len(),
        }
    }
}

/// Plans the arena and packs the weights, or takes them from `pantry`.
pub fn prepare(lowered: Lowered, inputs: Vec<usize>, absorbed: Absorbed, pantry: &mut Pantry) -> Result<NativeProgram, String> {
    let Lowered { mut lowering, islands, outputs } = lowered;
    fuse::by_rows(&mut lowering, &outputs);
    let buffers = lifetimes::buffers(&lowering.storages, &lowering.records, &outputs);
    let records = std::mem::take(&mut lowering.records);
    let plan = plan::plan(&buffers);
    if let Some((a, b)) = plan::clash(&buffers, &plan) {
        return Err(format!("internal failure: `{}` and `{}` clash in the arena", buffers[a].name, buffers[b].name));
    }
    let mut arena = plan.size();
    let inputs: Vec<Range<usize>> = inputs.into_iter().map(|bytes| behind(&mut arena, bytes)).collect();
    let place = |storage: usize| match lowering.storages[storage].origin {
        Origin::Input(index) => Place::Arena(inputs[index].clone()),
        Origin::Constant(index) => Place::Constant(index),
        Origin::Arena => Place::Arena(range(&plan, &buffers, storage)),
    };
    let isa = Isa::best();
    let mut steps = Vec::with_capacity(records.len());
    // One by one, so that a step's weights go as soon as they are packed.
    for mut record in records {
        let action = match &record.work {
            Work::Kernel(_) => {
                let origin = lowering.storages[record.writes[0]].origin;
                if origin != Origin::Arena {
                    return Err(format!("internal failure: step `{}` writes {origin:?}", record.name));
                }
                kernel(&mut record, isa, pantry, (&plan, &buffers), &place).map_err(|e| format!("node `{}`: {e}", record.name))?
            }
            Work::Island(number) => Action::Island {
                number: *number,
                weight_bytes: island_weights(&islands[*number]),
                reads: record.reads.iter().map(|&r| place(r)).collect(),
                writes: record.writes.iter().map(|&w| range(&plan, &buffers, w)).collect(),
            },
        };
        steps.push(Planned { name: record.name.clone(), action });
    }
    let kernels = || steps.iter().filter_map(|s| if let Action::Kernel { step, .. } = &s.action { Some(step) } else { None });
    let weights = steps.iter().map(|s| s.action.weight_bytes()).sum();
    let scratch = kernels().map(|s| s.scratch_bytes()).max().unwrap_or(0);
    let outputs = outputs.into_iter().map(place).collect();
    let memory = Memory { activations: plan.size() as u64, weights };
    let constants = lowering.constants;
    Ok(NativeProgram(Arc::new(Prepared { steps, islands, inputs, constants, outputs, arena, scratch, buffers, plan, absorbed, memory })))
}

/// The next place of `bytes` in an arena that has `end` bytes so far.
fn behind(end: &mut usize, bytes: usize) -> Range<usize> {
    let start = end.next_multiple_of(plan::ALIGN);
    *end = start + bytes;
    start..*end
}

fn range(plan: &Plan, buffers: &[Buffer], storage: usize) -> Range<usize> {
    let at = plan.offset(storage);
    at..at + buffers[storage].size
}

fn kernel(
    record: &mut Record,
    isa: Isa,
    pantry: &mut Pantry,
    (plan, buffers): (&Plan, &[Buffer]),
    place: &impl Fn(usize) -> Place,
) -> Result<Action, kernels::Error> {
    let write = record.writes[0];
    let taken = |read: usize| plan.in_place(write) && plan.offset(write) == plan.offset(record.reads[read]);
    let in_place = (0..record.reads.len()).find(|&read| record.may_take(read) && taken(read));
    let missing = kernels::Error::Parameter { what: "a step without a kernel: steps", found: 1 };
    let step = record.work.draft_mut().ok_or(missing)?.finish(isa, pantry, &record.layouts, in_place.is_some())?;
    let reads = std::array::from_fn(|read| match record.reads.get(read) {
        Some(&storage) if in_place != Some(read) => place(storage),
        _ => Place::Arena(0..0),
    });
    Ok(Action::Kernel { step, reads, write: range(plan, buffers, write) })
}

impl Program for NativeProgram {
    fn executor(&self, spread: &Spread) -> Result<Box<dyn Executor>, RunError> {
        Ok(Box::new(NativeExecutor::new(self.0.clone(), spread)?))
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
                    weight_bytes: planned.action.weight_bytes(),
                    activation_bytes: reads.iter().map(bytes).sum::<u64>() + write.len() as u64,
                },
                Action::Island { reads, writes, .. } => EngineNode {
                    name,
                    op: "tract".to_string(),
                    macs: 0,
                    weight_bytes: planned.action.weight_bytes(),
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
        let used = self.0.buffers.iter().any(|buffer| buffer.size > 0);
        used.then(|| plan::picture(&self.0.buffers, &self.0.plan))
    }
}

/// What all threads of one session share.
struct State {
    program: Arc<Prepared>,
    arena: Arena,
    /// Of a run on several threads.
    progress: Progress,
    /// Each thread's own, by its number: the locks are never waited for.
    scratch: Vec<Mutex<Vec<u8>>>,
    islands: Mutex<Vec<TractIsland>>,
    error: Mutex<Option<RunError>>,
    /// When the caller's thread came to each step, while a run is timed.
    arrivals: Mutex<Option<Vec<Instant>>>,
}

/// Multiply-accumulates (or the like: see [`Prepared::cost`]) that are worth a thread's taking part, where it has rows.
const LEAST_COST: u64 = if cfg!(test) { 1 } else { 1 << 16 };

/// The same of a piece, and where a thread has channels: less costs more in calls, and in data that changes caches, than it evens out.
const PIECE_COST: u64 = if cfg!(test) { 1 } else { 1 << 19 };

/// Multiply-accumulates a byte of weights, or whatever any piece reads, that are worth reading it once more for a piece.
const MACS_A_BYTE: u64 = if cfg!(test) { 0 } else { 24 };

/// Pieces that a thread makes of its own share, at most.
const PIECES: usize = 4;

/// How `threads` share each step.
fn divisions(program: &Prepared, threads: usize) -> Vec<Division> {
    let division = |step: &Planned| {
        let Action::Kernel { step: kernel, .. } = &step.action else {
            return Division { parts: 1, threads: 1, grain: 1, piece: 1 };
        };
        let (parts, cost) = (kernel.parts().max(1), program.cost(step).max(1));
        // Who has some channels reads all of what others made.
        let least = if kernel.by_channels() { PIECE_COST } else { LEAST_COST };
        let worth = usize::try_from(cost / least).unwrap_or(usize::MAX);
        let threads = worth.clamp(1, threads).min(parts);
        let least = PIECE_COST.max(MACS_A_BYTE * kernel.shared_bytes() as u64);
        let least = usize::try_from((least * parts as u64).div_ceil(cost)).unwrap_or(parts);
        let grain = kernel.grain().clamp(1, parts);
        let grain = least.next_multiple_of(grain).clamp(1, parts.next_multiple_of(grain));
        let piece = if threads == 1 { parts } else { parts.div_ceil(threads * PIECES) };
        Division { parts, threads, grain, piece: piece.next_multiple_of(grain) }
    };
    program.steps.iter().map(division).collect()
}

impl State {
    /// One of several threads' way through the program.
    fn run_shared(&self, thread: usize) {
        let waiting = EndsRun(&self.progress);
        let mut scratch = locked(&self.scratch[thread]);
        for (number, planned) in self.program.steps.iter().enumerate().filter(|(number, _)| self.progress.takes_part(*number, thread)) {
            if !self.progress.wait_for(number) {
                break;
            }
            self.arrive(thread);
            let mut done = 0;
            let taken = self.progress.pieces(number, thread).inspect(|parts| done += parts.len());
            if let Err(error) = self.step(planned, taken, &mut scratch) {
                *locked(&self.error) = Some(error);
                return;
            }
            self.progress.done(number, done);
        }
        std::mem::forget(waiting);
    }

    /// The only thread's way through some steps. False where one fails, whose error is left in [`State::error`].
    fn run_alone(&self, steps: Range<usize>) -> bool {
        let mut scratch = locked(&self.scratch[0]);
        steps.into_iter().all(|number| {
            self.arrive(0);
            let planned = &self.program.steps[number];
            let parts = if let Action::Kernel { step, .. } = &planned.action { step.parts() } else { 1 };
            let result = self.step(planned, std::iter::once(0..parts), &mut scratch);
            result.map_err(|error| *locked(&self.error) = Some(error)).is_ok()
        })
    }

    /// Notes the time at which the caller's thread comes to a step, where that is asked for.
    fn arrive(&self, thread: usize) {
        if thread == 0
            && let Some(arrivals) = &mut *locked(&self.arrivals)
        {
            arrivals.push(Instant::now());
        }
    }

    /// The parts of a step that `taken` gives; of an island any stand for all of it.
    fn step(&self, planned: &Planned, mut taken: impl Iterator<Item = Range<usize>>, scratch: &mut [u8]) -> Result<(), RunError> {
        match &planned.action {
            Action::Kernel { step, reads, write } => {
                self.kernel(&**step, reads, write, taken.filter(|parts| !parts.is_empty()), scratch);
                Ok(())
            }
            Action::Island { number, reads, writes, .. } => taken.try_for_each(|_| self.island(*number, reads, writes)),
        }
    }

    fn kernel(
        &self,
        step: &dyn Step,
        reads: &[Place; READS],
        write: &Range<usize>,
        mut taken: impl Iterator<Item = Range<usize>>,
        scratch: &mut [u8],
    ) {
        let ranges = reads.each_ref().map(|place| match place {
            Place::Constant(_) => 0..0,
            Place::Arena(range) => range.clone(),
        });
        // SAFETY: `prepare` found that the buffers of a step are apart from each other and from all that live beyond it, and
        // steps that share any follow each other (`Progress::wait_for`).
        let (slices, _) = unsafe { self.arena.step(ranges.clone(), 0..0) };
        let inputs = std::array::from_fn(|i| match &reads[i] {
            Place::Constant(index) => &self.program.constants[*index][..],
            Place::Arena(_) => slices[i],
        });
        if step.by_channels() {
            // SAFETY: as above; parts are taken once, and `check_owners` found that they own disjoint channels.
            let output = unsafe { self.arena.shared_step(ranges, write.clone()) }.1;
            return step.run_channels(inputs, output, &mut taken, scratch);
        }
        let mut pieces = taken.map(|parts| {
            let owned = step.owned(parts.clone());
            // SAFETY: as above; parts are taken once, and `check_owners` found that they own disjoint bytes.
            (parts, unsafe { self.arena.step(ranges.clone(), write.start + owned.start..write.start + owned.end) }.1)
        });
        step.run_pieces(inputs, &mut pieces, scratch);
    }

    fn island(&self, number: usize, reads: &[Place], writes: &[Range<usize>]) -> Result<(), RunError> {
        let mut islands = locked(&self.islands);
        let island = &mut islands[number];
        for (slot, place) in reads.iter().enumerate() {
            island.input(slot).copy_from_slice(self.bytes(place));
        }
        no_panic(|| island.run()).unwrap_or_else(|panic| Err(RunError(panic)))?;
        for (slot, range) in writes.iter().enumerate() {
            let bytes = island.output(slot);
            // SAFETY: one thread runs islands, between two barriers where others have work; it holds no other slice.
            let (_, target) = unsafe { self.arena.step([], range.clone()) };
            if bytes.len() != target.len() {
                return Err(RunError(format!("{} bytes come out of tract, expected {}", bytes.len(), target.len())));
            }
            target.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Reads a place while nobody writes it.
    fn bytes(&self, place: &Place) -> &[u8] {
        match place {
            Place::Constant(index) => &self.program.constants[*index],
            // SAFETY: called between runs, or by the one thread that runs an island, which nobody else's step overlaps.
            Place::Arena(range) => unsafe { self.arena.step([range.clone()], 0..0).0[0] },
        }
    }
}

/// Ends the run for all threads when dropped: an error or a panic leaves parts undone that others would wait for.
struct EndsRun<'a>(&'a Progress);

impl Drop for EndsRun<'_> {
    fn drop(&mut self) {
        self.0.fail();
    }
}

struct NativeExecutor {
    state: Arc<State>,
    outputs: Vec<Vec<u8>>,
    way: Way,
    threads: usize,
}

/// How a run goes through the program.
enum Way {
    Alone,
    Together(Team),
    /// The steps of each stage.
    Staged(Arc<Stages>, Vec<Range<usize>>),
}

impl NativeExecutor {
    fn new(program: Arc<Prepared>, spread: &Spread) -> Result<NativeExecutor, RunError> {
        let most = if let Spread::Threads { threads, .. } = spread { (*threads).max(1) } else { 1 };
        let divisions = divisions(&program, most);
        let threads = divisions.iter().map(|division| division.threads).max().unwrap_or(1);
        check_owners(&program)?;
        let islands = program.islands.iter().map(|plan| TractIsland::new(plan.clone())).collect::<Result<_, _>>()?;
        let state = Arc::new(State {
            arena: Arena::new(program.arena),
            progress: Progress::new(&divisions),
            scratch: (0..threads).map(|_| Mutex::new(vec![0; program.scratch])).collect(),
            islands: Mutex::new(islands),
            error: Mutex::new(None),
            arrivals: Mutex::new(None),
            program: program.clone(),
        });
        let way = match spread {
            Spread::Threads { cores, .. } if threads > 1 => Way::Together(team(&state, threads, cores)?),
            Spread::Threads { .. } => Way::Alone,
            Spread::Stages(stages) => {
                let costs: Vec<u64> = program.steps.iter().map(|step| program.cost(step)).collect();
                Way::Staged(stages.clone(), spread::divide(&costs, stages.count()))
            }
        };
        let outputs = program.outputs.iter().map(|place| vec![0; program.bytes(place)]).collect();
        Ok(NativeExecutor { state, outputs, way, threads })
    }

    /// Hands the outputs over, or says why there are none.
    fn finish(&mut self, sound: bool) -> Result<(), RunError> {
        let error = locked(&self.state.error).take();
        if let Some(error) = error {
            return Err(error);
        }
        if !sound {
            return Err(RunError("internal failure: a thread panicked".to_string()));
        }
        for (output, place) in self.outputs.iter_mut().zip(&self.state.program.outputs) {
            output.copy_from_slice(self.state.bytes(place));
        }
        Ok(())
    }
}

/// What a thread that panicked left is as good as what it found: the next run writes all of it anew.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn team(state: &Arc<State>, threads: usize, cores: &[usize]) -> Result<Team, RunError> {
    let state = state.clone();
    Team::new(threads, cores, Arc::new(move |thread| state.run_shared(thread))).map_err(|e| RunError(format!("no threads: {e}")))
}

/// Each part of a step must own bytes that follow those of the part before, inside the step's output, or inside its pixels.
fn check_owners(program: &Prepared) -> Result<(), RunError> {
    for planned in &program.steps {
        let Action::Kernel { step, write, .. } = &planned.action else { continue };
        let mut end = 0;
        for part in 0..step.parts() {
            let owned = step.owned(part..part + 1);
            if owned.start < end || owned.end > write.len() {
                return Err(RunError(format!("step `{}`: part {part} writes bytes {owned:?} of {}", planned.name, write.len())));
            }
            end = owned.end;
        }
    }
    Ok(())
}

impl Executor for NativeExecutor {
    fn input_mut(&mut self, index: usize) -> &mut [u8] {
        let range = self.state.program.inputs[index].clone();
        // SAFETY: no run is under way while `self` is borrowed, and the slice keeps it borrowed.
        unsafe { self.state.arena.step([], range).1 }
    }

    fn input(&self, index: usize) -> &[u8] {
        self.state.bytes(&Place::Arena(self.state.program.inputs[index].clone()))
    }

    fn run(&mut self) -> Result<(), RunError> {
        let sound = match &self.way {
            Way::Alone => {
                self.state.run_alone(0..self.state.program.steps.len());
                true
            }
            Way::Together(team) => {
                self.state.progress.reset();
                team.run()
            }
            Way::Staged(stages, parts) => {
                let _ = parts.iter().enumerate().all(|(stage, steps)| {
                    let _turn = stages.enter(stage);
                    self.state.run_alone(steps.clone())
                });
                stages.leave();
                true
            }
        };
        self.finish(sound)
    }

    fn run_timed(&mut self, each: &mut dyn FnMut(usize, Duration)) -> Result<(), RunError> {
        *locked(&self.state.arrivals) = Some(Vec::with_capacity(self.state.program.steps.len()));
        let result = self.run();
        let end = Instant::now();
        let arrivals = locked(&self.state.arrivals).take().unwrap_or_default();
        let ends = arrivals.iter().skip(1).chain([&end]);
        arrivals.iter().zip(ends).enumerate().for_each(|(step, (start, end))| each(step, *end - *start));
        result
    }

    fn output(&self, index: usize) -> &[u8] {
        &self.outputs[index]
    }

    fn threads(&self) -> usize {
        self.threads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Limits, Model};
    use std::path::Path;

    /// Every step is divided here, because tests have no least cost.
    #[test]
    fn any_number_of_threads_gives_the_same_bytes() {
        for name in ["models/digits.onnx", "models/vibration.onnx"] {
            let model = Model::load(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).as_path(), &Limits::default()).unwrap();
            let mut alone = model.session(1).unwrap();
            for threads in 2..=4 {
                let mut session = model.session(threads).unwrap();
                // Convolutions along one axis too, by blocks of output channels.
                assert_eq!(session.threads(), threads, "{name}");
                for seed in 0..5u8 {
                    for (i, byte) in alone.input_mut(0).iter_mut().enumerate() {
                        *byte = (i as u8).wrapping_mul(31).wrapping_add(seed.wrapping_mul(77));
                    }
                    session.input_mut(0).copy_from_slice(alone.input(0));
                    alone.run().unwrap();
                    session.run().unwrap();
                    assert_eq!(session.output(0), alone.output(0), "{name} on {threads} threads");
                }
            }
        }
    }

    /// Sessions that share stages, some with more stages than steps, at the same time.
    #[test]
    fn any_number_of_stages_gives_the_same_bytes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits.onnx");
        let model = Model::load(&path, &Limits::default()).unwrap();
        for (stages, cores) in [(1, vec![0]), (2, vec![0, 0]), (3, vec![0; 5]), (40, vec![0; 40])] {
            let spread = Spread::Stages(Arc::new(Stages::new(stages, &cores).unwrap()));
            std::thread::scope(|scope| {
                for seed in 0..4u8 {
                    let (model, spread) = (&model, &spread);
                    scope.spawn(move || {
                        let mut alone = model.session(1).unwrap();
                        let mut staged = model.session_on(spread).unwrap();
                        for run in 0..10 {
                            let bytes = alone.input_mut(0).iter_mut().enumerate();
                            bytes.for_each(|(i, byte)| *byte = (i as u8).wrapping_mul(31).wrapping_add(seed.wrapping_mul(77) + run));
                            staged.input_mut(0).copy_from_slice(alone.input(0));
                            alone.run().unwrap();
                            staged.run().unwrap();
                            assert_eq!(staged.output(0), alone.output(0), "{stages} stages");
                        }
                    });
                }
            });
        }
    }
}
