//! One input or output of a model, as its author declared it and as the engine takes or gives it.

use crate::tensor::TensorSpec;

/// `declared` is the ONNX file's own type: what requests, raw tensors and golden files carry. `native` is what the engine
/// reads or writes. They differ where the model begins by quantizing a float input: the engine then takes the int8 or
/// uint8 tensor itself (`native.quant` is set), so that pre-processing writes quantized values without a float copy.
/// Shapes are equal, the batch dimension is 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    pub declared: TensorSpec,
    pub native: TensorSpec,
}
