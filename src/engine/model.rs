//! A loaded model, and the sessions that run it.

use super::error::{LoadCause, LoadError, RunError};
use super::limits::Limits;
use super::onnx::pb::ModelProto;
use super::onnx::{boundary, check, external, normalize, wire};
use super::packed::Packed;
use super::port::Port;
use super::program::{Executor, Program};
use super::report::{self, Report};
use super::spread::Spread;
use super::{native, recognize, tract};
use crate::config::value::Size;
use crate::heap;
use crate::kernels::Pantry;
use crate::tensor::Dtype;
use prost::Message;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What runs a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// Our own kernels, tract for what they do not cover.
    #[default]
    Native,
    /// tract alone on the model as its author wrote it: what the others' speed is compared with.
    Tract,
    /// The same operators as [`Engine::Native`], each by its plain evaluation inside tract: what its results are compared with.
    Reference,
}

/// A model that is checked, prepared and has run once. Cheap to clone; clones share the weights.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    name: String,
    digest: String,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    report: Report,
    program: Box<dyn Program>,
}

impl Model {
    /// Loads the ONNX file at `path`. Errors name the file, and the node with its operator where one is at fault.
    pub fn load(path: &Path, limits: &Limits) -> Result<Model, LoadError> {
        Model::load_for(path, limits, Engine::Native, None)
    }

    /// The same for another engine, with packed weights that are kept in the folder `cache`: see [`super::packed`].
    pub fn load_for(path: &Path, limits: &Limits, engine: Engine, cache: Option<&Path>) -> Result<Model, LoadError> {
        let name = path.display().to_string();
        let read = || read(path, limits.max_file);
        build_for(engine, |engine| build(read()?, &name, path.parent(), limits, engine, cache)).map_err(|cause| cause.of(&name))
    }

    /// Loads a model from memory. It cannot have external data. `name` is for errors and the report.
    pub fn from_bytes(bytes: &[u8], name: &str, limits: &Limits) -> Result<Model, LoadError> {
        Model::from_bytes_for(bytes, name, limits, Engine::Native)
    }

    /// The same for another engine.
    pub fn from_bytes_for(bytes: &[u8], name: &str, limits: &Limits, engine: Engine) -> Result<Model, LoadError> {
        let found = Size(bytes.len() as u64);
        if found > limits.max_file {
            return Err(LoadCause::FileTooLarge { found, limit: limits.max_file }.of(name));
        }
        build_for(engine, |engine| build(bytes.to_vec(), name, None, limits, engine, None)).map_err(|cause| cause.of(name))
    }

    /// The path or name it was loaded under.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// SHA-256 of the file, followed by its external data where it has any, in lower-case hexadecimal.
    pub fn digest(&self) -> &str {
        &self.0.digest
    }

    /// Inputs in the file's order.
    pub fn inputs(&self) -> &[Port] {
        &self.0.inputs
    }

    /// Outputs in the file's order.
    pub fn outputs(&self) -> &[Port] {
        &self.0.outputs
    }

    /// What `inspect` shows.
    pub fn report(&self) -> &Report {
        &self.0.report
    }

    /// A session of its own state and buffers, to be used by one thread at a time. `threads` (at least 1) is an upper bound.
    pub fn session(&self, threads: usize) -> Result<Session, RunError> {
        self.session_on(&Spread::threads(threads))
    }

    /// The same with its work spread over the cores as told.
    pub fn session_on(&self, spread: &Spread) -> Result<Session, RunError> {
        Ok(Session { executor: self.0.program.executor(spread)?, model: self.clone() })
    }

    /// The plan of the arena as a picture; `None` where tract alone runs the model.
    pub fn picture(&self) -> Option<String> {
        self.0.program.picture()
    }

    /// Runs once on neutral input: each input's zero point, else zero.
    pub fn self_test(&self) -> Result<(), RunError> {
        let mut session = self.session(1)?;
        for (index, port) in self.inputs().iter().enumerate() {
            fill_neutral(port, session.input_mut(index));
        }
        session.run()
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("name", &self.0.name).field("digest", &self.0.digest).finish_non_exhaustive()
    }
}

/// Fills `bytes` with what stands for real 0.
fn fill_neutral(port: &Port, bytes: &mut [u8]) {
    let zero = match (port.native.dtype, port.native.quant) {
        (Dtype::Int8 | Dtype::Uint8, Some(quant)) => quant.zero_point as u8,
        _ => 0,
    };
    bytes.fill(zero);
}

/// Reads the file, having looked at its size before; never more than the limit, should it grow meanwhile.
fn read(path: &Path, limit: Size) -> Result<Vec<u8>, LoadCause> {
    let failed = |e: std::io::Error| LoadCause::Read(e.to_string());
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(LoadCause::Read("it is not a regular file".to_string()));
    }
    if meta.len() > limit.0 {
        return Err(LoadCause::FileTooLarge { found: Size(meta.len()), limit });
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
    File::open(path).map_err(failed)?.take(limit.0 + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 {
        found if found > limit.0 => Err(LoadCause::FileTooLarge { found: Size(found), limit }),
        _ => Ok(bytes),
    }
}

/// Builds for `engine`; where our own executor cannot run the model, for tract alone.
fn build_for(engine: Engine, build: impl Fn(Engine) -> Result<Option<Model>, LoadCause>) -> Result<Model, LoadCause> {
    if let Some(model) = build(engine)? {
        return Ok(model);
    }
    build(Engine::Tract)?.ok_or_else(|| LoadCause::Engine("no engine runs it".to_string()))
}

/// The way from bytes to a model: decode, bring in external data, check, settle the borders, prepare, try.
/// `None` where the engine cannot run it.
fn build(
    bytes: Vec<u8>,
    name: &str,
    folder: Option<&Path>,
    limits: &Limits,
    engine: Engine,
    cache: Option<&Path>,
) -> Result<Option<Model>, LoadCause> {
    let decoded = Size(wire::decoded_bytes(&bytes));
    if decoded > limits.max_memory {
        return Err(LoadCause::MemoryTooLarge { what: "decoding the file".to_string(), found: decoded, limit: limits.max_memory });
    }
    let mut digest = Sha256::new_with_prefix(&bytes);
    let mut proto = ModelProto::decode(&bytes[..]).map_err(|e| LoadCause::NotOnnx(e.to_string()))?;
    let file_bytes = bytes.len() as u64;
    drop(bytes);
    if let Some(folder) = folder {
        // The parent of a bare file name is the empty path.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        external::inline(&mut proto, folder, limits.max_file.0.saturating_sub(file_bytes), |data| digest.update(data))?;
    }
    check::check(&proto, &check::Rules { supports: &tract::supports, max_memory: limits.max_memory })?;
    normalize::normalize(&mut proto)?;
    let draft = report::Draft::new(&proto);
    let (inputs, outputs) = boundary::settle(&mut proto)?;
    let absorbed = if engine == Engine::Tract { Default::default() } else { recognize::recognize(&mut proto)? };
    let typed = tract::analyse(proto, &outputs, limits)?;
    let (ports, shapes) = (typed.outputs.clone(), typed.shapes.clone());
    let outputs: Vec<Port> = ports.into_iter().map(|spec| Port { declared: spec.clone(), native: spec }).collect();
    let digest = hex(&digest.finalize());
    let mut packed = cache.filter(|_| engine == Engine::Native).and_then(|folder| Packed::open(folder, &digest));
    let mut closed = Pantry::Closed;
    let pantry = packed.as_mut().map_or(&mut closed, |packed| &mut packed.pantry);
    let Some(program) = program(typed, engine, absorbed, limits, pantry)? else { return Ok(None) };
    packed.into_iter().for_each(Packed::settle);
    let identity = report::Identity { name, file_bytes, digest: &digest };
    let report = draft.finish(&identity, &inputs, &outputs, &shapes, &*program);
    let model = Model(Arc::new(Inner { name: name.to_string(), digest, inputs, outputs, report, program }));
    // What only loading took is gone: no inference need come on top of it.
    heap::give_back();
    model.self_test().map_err(|e| LoadCause::SelfTest(e.0))?;
    Ok(Some(model))
}

/// What will run the model; `None` where our own executor cannot.
fn program(
    typed: tract::Typed,
    engine: Engine,
    absorbed: recognize::Absorbed,
    limits: &Limits,
    pantry: &mut Pantry,
) -> Result<Option<Box<dyn Program>>, LoadCause> {
    if engine != Engine::Native {
        return Ok(Some(Box::new(typed.into_program()?)));
    }
    let inputs = typed.input_bytes();
    match typed.lower().and_then(|lowered| native::prepare(lowered, inputs, absorbed, pantry)) {
        Ok(program) => {
            tract::check_memory(program.memory(), limits)?;
            Ok(Some(Box::new(program)))
        }
        Err(why) => {
            log::warn!("tract runs the whole model: {why}");
            Ok(None)
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One thread's way to run a model: its buffers are allocated once.
pub struct Session {
    model: Model,
    executor: Box<dyn Executor>,
}

impl Session {
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Bytes of input `index` in the layout of `model().inputs()[index].native`; they keep their values over a run.
    /// Panics when there is no such input.
    pub fn input_mut(&mut self, index: usize) -> &mut [u8] {
        self.executor.input_mut(index)
    }

    /// Bytes of input `index` as they are now. Panics when there is no such input.
    pub fn input(&self, index: usize) -> &[u8] {
        self.executor.input(index)
    }

    /// Runs the model on what the inputs hold. After an error the outputs are those of the run before.
    pub fn run(&mut self) -> Result<(), RunError> {
        self.executor.run()
    }

    /// The same, telling the time of every step of `model().report().engine_nodes`.
    pub fn run_timed(&mut self, each: &mut dyn FnMut(usize, Duration)) -> Result<(), RunError> {
        self.executor.run_timed(each)
    }

    /// Bytes of output `index` in the layout of `model().outputs()[index].native`: of the last run, zeros before the first.
    /// Panics when there is no such output.
    pub fn output(&self, index: usize) -> &[u8] {
        self.executor.output(index)
    }

    /// Threads that a run uses: may be fewer than were asked for.
    pub fn threads(&self) -> usize {
        self.executor.threads()
    }
}
