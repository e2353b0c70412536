//! Dynamically quantized operators inside a tract model: see [`super::operator`].

use super::operator::{concrete, to_array};
use crate::engine::dynamic::Dynamic;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::recognize;
use std::sync::Arc;
use tract_onnx::model::ParsingContext;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, check_output_arity, expand};

/// Builder for tract's operator register.
pub fn build(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let dynamic: Dynamic = recognize::from_node(node).map_err(|why| format_err!("{why}"))?;
    Ok((expand(DynamicallyQuantized(Arc::new(dynamic))), vec![]))
}

/// A [`Dynamic`] as a node of a tract model: inputs are its float activation and its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicallyQuantized(pub Arc<Dynamic>);

impl Eq for DynamicallyQuantized {}

impl DynamicallyQuantized {
    fn output_shape(&self, shapes: &[Vec<usize>]) -> TractResult<Vec<usize>> {
        let [input, weights] = shapes else { bail!("{} inputs, expected 2", shapes.len()) };
        self.0.shape(input, weights).map_err(|why| format_err!("{why}"))
    }
}

impl Expansion for DynamicallyQuantized {
    fn name(&self) -> StaticName {
        format!("Dynamic{}", self.0.kind_name()).into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[0].datum_type, f32::datum_type())?;
        s.given_all(inputs.iter().map(|i| &i.shape), move |s, shapes: Vec<TVec<TDim>>| {
            let shapes = shapes.iter().map(|dims| concrete(dims)).collect::<TractResult<Vec<_>>>()?;
            let dims: TVec<TDim> = self.output_shape(&shapes)?.iter().map(|d| d.to_dim()).collect();
            s.equals(&outputs[0].shape, dims)
        })
    }

    fn wire(&self, prefix: &str, target: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        target.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for DynamicallyQuantized {
    fn name(&self) -> StaticName {
        format!("Dynamic{}", self.0.kind_name()).into()
    }

    op_as_typed_op!();
}

impl EvalOp for DynamicallyQuantized {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let [input, weights] = &inputs[..] else { bail!("{} inputs, expected 2", inputs.len()) };
        let (weights, shape) = (to_array(weights)?, input.shape());
        let made = self.output_shape(&[shape.to_vec(), weights.shape.clone()])?;
        let plain = input.try_as_plain_ram()?;
        let values = self.0.eval(shape, plain.as_slice::<f32>()?, &weights).map_err(|why| format_err!("{why}"))?;
        Ok(tvec!(Tensor::from_shape(&made, &values)?.into_tvalue()))
    }
}

impl TypedOp for DynamicallyQuantized {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shapes = inputs.iter().map(|fact| concrete(&fact.shape)).collect::<TractResult<Vec<_>>>()?;
        Ok(tvec!(f32::datum_type().fact(&self.output_shape(&shapes)?)))
    }
}
