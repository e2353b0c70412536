//! The inference engine: `Model::load` checks everything, `Session::run` is lean.
//!
//! ```text
//!   file -> onnx        decode, bring in external data, check, order, settle the borders
//!        -> recognize   QDQ groups and QOperator nodes become one node each, held by `quantized::Operator`
//!        -> tract       infers shapes, folds constants, simplifies
//!        -> lower       layouts (NHWC with borders), views, fusion; what is not ours becomes islands that tract runs
//!        -> plan        a place in the arena for every tensor
//!        -> native      kernels prepared and weights packed, one step after the other
//!   run  -> team        the session's threads go through the steps together
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `quantized/` | the operators, one kind a file: from its ONNX node, shape, plain evaluation, kernel |
//! | `dynamic` | the operator that quantizes its float input itself |
//! | `lower/view`, `lower/draft`, `lower/fuse` | strides, steps before their kernel is prepared, fusion by rows |
//! | `step`, `fused` | kernels behind one interface, and several of them as one step |
//! | `arena`, `plan` | bytes, and where they lie |
//! | `team`, `progress`, `spread` | who works on them when: threads on one step and which parts of it, stages of steps |
//! | `program` | the boundary to what runs: our executor, or tract alone |
//! | `packed`, `mapping` | packed weights kept in a file for the next start |
//! | `report`, `bench` | what `inspect` and `bench` tell |

pub mod affinity;
pub mod arena;
mod bench;
mod dynamic;
mod error;
mod fused;
mod infer;
mod limits;
mod live;
mod lower;
mod macs;
mod mapping;
mod model;
mod native;
mod onnx;
mod packed;
pub mod plan;
mod port;
mod program;
mod progress;
mod quantized;
mod recognize;
mod report;
mod report_text;
mod spread;
mod step;
mod team;
mod tract;

pub use bench::{BenchResult, Effort, LayerTime, Layers, Throughput, bench, bench_in_turns, layers, throughput};
pub use error::{LoadCause, LoadError, RunError};
pub use infer::{infer_once, read_output, write_input};
pub use limits::Limits;
pub use macs::{Shapes, macs};
pub use model::{Engine, Model, Session};
pub use packed::{cache_directory, prune};
pub use port::Port;
pub use report::{EngineNode, NodeReport, Opset, PortReport, Report, RunsIn, TensorReport, Totals};
pub use spread::{Spread, Stages};
