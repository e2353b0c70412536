//! What can go wrong with a model, when it is loaded and when it runs.

use crate::config::value::Size;
use std::fmt;

/// Why a model was refused. Prints as one line that names the file, the node and its operator, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// Path or name of the model.
    pub model: String,
    pub cause: LoadCause,
}

/// The reason alone; `LoadError` adds the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadCause {
    /// The file could not be read.
    Read(String),
    /// The file is larger than `limits.max_file`; nothing of it was read.
    FileTooLarge { found: Size, limit: Size },
    /// Weights and activations would need more than `limits.max_memory`.
    MemoryTooLarge { what: String, found: Size, limit: Size },
    /// The bytes are not an ONNX protobuf.
    NotOnnx(String),
    /// Something about the graph as a whole, one of its tensors, inputs or outputs.
    Graph(String),
    /// One node: `node` is its name (or its first output's), `op` its operator with the domain where that is not ONNX's own.
    Node { node: String, op: String, why: String },
    /// tract refused the model, or failed in preparing it.
    Engine(String),
    /// The model was prepared but failed to run once on neutral input.
    SelfTest(String),
}

impl LoadCause {
    /// Adds the model's name.
    pub fn of(self, model: &str) -> LoadError {
        LoadError { model: model.to_string(), cause: self }
    }
}

impl fmt::Display for LoadCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadCause::Read(why) => write!(f, "cannot be read: {why}"),
            LoadCause::FileTooLarge { found, limit } => write!(f, "the file has {found}, over limits.max_file = {limit}"),
            LoadCause::MemoryTooLarge { what, found, limit } => write!(f, "{what} needs {found}, over limits.max_memory = {limit}"),
            LoadCause::NotOnnx(why) => write!(f, "is not an ONNX model: {why}"),
            LoadCause::Graph(why) => f.write_str(why),
            LoadCause::Node { node, op, why } => write!(f, "node `{node}` ({op}): {why}"),
            LoadCause::Engine(why) => write!(f, "the engine refuses the model: {why}"),
            LoadCause::SelfTest(why) => write!(f, "the self-test inference failed: {why}"),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.model, self.cause)
    }
}

impl std::error::Error for LoadError {}

/// Why an inference gave no output. The session can be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunError(pub String);

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RunError {}

/// Runs `work` and turns a panic into its message: the last resort around a library that may panic on hostile models.
pub(super) fn no_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|s| s.to_string()).or_else(|| payload.downcast_ref::<String>().cloned());
        format!("internal failure: {}", text.unwrap_or_else(|| "panic without a message".to_string()))
    })
}
