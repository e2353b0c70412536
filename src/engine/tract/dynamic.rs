//! What tract asks of a dynamically quantized operator.

use super::operator::{Ours, Plain, to_array};
use crate::engine::dynamic::Dynamic;
use tract_onnx::tract_core::internal::*;

/// A [`Dynamic`] as a node of a tract model: inputs are its float activation and its weights.
pub type DynamicallyQuantized = Ours<Dynamic>;

impl Plain for Dynamic {
    fn title(&self) -> String {
        format!("Dynamic{}", self.kind_name())
    }

    fn input_types(&self) -> Vec<DatumType> {
        vec![f32::datum_type()]
    }

    fn output_type(&self) -> DatumType {
        f32::datum_type()
    }

    fn output_shape(&self, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        self.shape(inputs)
    }

    fn evaluate(&self, inputs: &[TValue]) -> TractResult<Tensor> {
        let [input, weights] = inputs else { bail!("{} inputs, expected 2", inputs.len()) };
        let (shape, weights) = (input.shape().to_vec(), to_array(weights)?);
        let made = self.shape(&[shape.clone(), weights.shape.clone()]).map_err(|why| format_err!("{why}"))?;
        let plain = input.try_as_plain_ram()?;
        let values = self.eval(&shape, plain.as_slice::<f32>()?, &weights).map_err(|why| format_err!("{why}"))?;
        Tensor::from_shape(&made, &values)
    }
}
