//! The one boundary to what runs a model. A `Program` is prepared once and shared; each session has its own `Executor`.

use super::error::RunError;
use super::report::{EngineNode, Placement};
use super::spread::Spread;
use std::time::Duration;

/// A prepared model: immutable, shared by all sessions.
pub trait Program: Send + Sync {
    /// State for one session. The spread is a wish: an engine may use fewer threads, and says so by [`Executor::threads`].
    fn executor(&self, spread: &Spread) -> Result<Box<dyn Executor>, RunError>;

    /// Where the node with that first output and ONNX operator runs, and why. `in_qdq_group`: it stands between a `DequantizeLinear` and the next
    /// `QuantizeLinear`.
    fn placement(&self, output: &str, op: &str, in_qdq_group: bool) -> Placement;

    /// What really runs, in order.
    fn nodes(&self) -> Vec<EngineNode>;

    /// Bytes of the activations that live at the same time, and of the weights, as this engine holds them.
    fn memory(&self) -> Memory;

    /// The plan of the arena as a picture; `None` for an engine without one.
    fn picture(&self) -> Option<String> {
        None
    }
}

/// Bytes that a program needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Peak of activations alive at the same time, for one session.
    pub activations: u64,
    /// Weights, shared by all sessions.
    pub weights: u64,
}

/// One session's state. Indices are those of the model's inputs and outputs, and below their number.
pub trait Executor: Send {
    /// The native bytes of an input, row-major. They keep their values over a run.
    fn input_mut(&mut self, index: usize) -> &mut [u8];

    /// The same bytes, to read.
    fn input(&self, index: usize) -> &[u8];

    /// Runs the model on the inputs.
    fn run(&mut self) -> Result<(), RunError>;

    /// The same, telling the time of every node of [`Program::nodes`]; an engine that cannot tells nothing.
    fn run_timed(&mut self, _each: &mut dyn FnMut(usize, Duration)) -> Result<(), RunError> {
        self.run()
    }

    /// The native bytes of an output, row-major: of the last run, or zeros before the first.
    fn output(&self, index: usize) -> &[u8];

    /// Threads that a run uses.
    fn threads(&self) -> usize;
}
