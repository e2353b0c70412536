//! The inference engine: `Model::load` checks everything, `Session::run` is lean.
//!
//! From file to result: [`onnx`] decodes, checks and settles the borders; [`tract`] prepares a [`program::Program`], the one
//! boundary to what runs; [`Model`] holds it with its [`Port`]s and its [`Report`]; a [`Session`] runs it.

pub mod arena;
mod bench;
mod error;
mod fused;
mod infer;
mod limits;
mod live;
mod lower;
mod macs;
mod model;
mod native;
mod onnx;
pub mod plan;
mod port;
mod program;
mod quantized;
mod recognize;
mod report;
mod report_text;
mod step;
mod team;
mod tract;

pub use bench::{BenchResult, Effort, LayerTime, Layers, bench, layers};
pub use error::{LoadCause, LoadError, RunError};
pub use infer::{infer_once, read_output, write_input};
pub use limits::Limits;
pub use macs::{Shapes, macs};
pub use model::{Engine, Model, Session};
pub use port::Port;
pub use report::{EngineNode, NodeReport, Opset, PortReport, Report, RunsIn, TensorReport, Totals};
