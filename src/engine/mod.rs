//! The inference engine: `Model::load` checks everything, `Session::run` is lean.

mod port;

pub use port::Port;
