//! The ONNX file as data: checked, indexed and prepared before any engine sees it. Nothing here runs anything.

pub mod attribute;
pub mod boundary;
pub mod check;
pub mod external;
pub mod graph;
pub mod normalize;
pub mod quantization;
pub mod tensor;
pub mod wire;

pub use tract_onnx::pb;
