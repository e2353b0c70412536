//! Recognised operators inside a tract model: shape and type for tract's analysis, and the plain evaluation, so that tract's own
//! runtime can run the same model.

use crate::engine::onnx::pb::NodeProto;
use crate::engine::quantized::{Array, Operator};
use crate::engine::recognize;
use std::sync::Arc;
use tract_onnx::model::ParsingContext;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, check_output_arity, expand};

/// Builder for tract's operator register.
pub fn build(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let operator: Operator = recognize::from_node(node).map_err(|why| format_err!("{why}"))?;
    Ok((expand(Quantized(Arc::new(operator))), vec![]))
}

/// An [`Operator`] as a node of a tract model: inputs are its activations and, where it has some, its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized(pub Arc<Operator>);

impl Eq for Quantized {}

impl Quantized {
    fn datum_type(&self) -> DatumType {
        if self.0.output.unsigned { u8::datum_type() } else { i8::datum_type() }
    }

    fn output_shape(&self, shapes: &[Vec<usize>]) -> TractResult<Vec<usize>> {
        self.0.shape(shapes).map_err(|why| format_err!("{why}"))
    }
}

impl Expansion for Quantized {
    fn name(&self) -> StaticName {
        format!("Quantized{}", self.0.kind_name()).into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, self.datum_type())?;
        for (input, ty) in inputs.iter().zip(&self.0.inputs) {
            s.equals(&input.datum_type, if ty.unsigned { u8::datum_type() } else { i8::datum_type() })?;
        }
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

/// The sizes of a shape that is known.
pub fn concrete(dims: &[TDim]) -> TractResult<Vec<usize>> {
    let dims = dims.iter().map(|d| Ok(d.to_i64()?)).collect::<TractResult<Vec<i64>>>()?;
    crate::engine::onnx::tensor::shape(&dims).map_err(|why| format_err!("{why}"))
}

/// An int8 or uint8 tensor as an [`Array`].
pub fn to_array(tensor: &Tensor) -> TractResult<Array> {
    let unsigned = match tensor.datum_type().unquantized() {
        DatumType::I8 => false,
        DatumType::U8 => true,
        other => bail!("expected int8 or uint8, found {other:?}"),
    };
    Ok(recognize::array(tensor.shape().to_vec(), tensor.as_bytes(), unsigned))
}

fn to_tensor(array: &Array, unsigned: bool) -> TractResult<Tensor> {
    if unsigned {
        let values: Vec<u8> = array.values.iter().map(|&v| v as u8 ^ 0x80).collect();
        return Tensor::from_shape(&array.shape, &values);
    }
    Tensor::from_shape(&array.shape, &array.values)
}

impl Op for Quantized {
    fn name(&self) -> StaticName {
        format!("Quantized{}", self.0.kind_name()).into()
    }

    op_as_typed_op!();
}

impl EvalOp for Quantized {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let arrays = inputs.iter().map(|tensor| to_array(tensor)).collect::<TractResult<Vec<_>>>()?;
        let output = self.0.eval(&arrays).map_err(|why| format_err!("{why}"))?;
        Ok(tvec!(to_tensor(&output, self.0.output.unsigned)?.into_tvalue()))
    }
}

impl TypedOp for Quantized {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shapes = inputs.iter().map(|fact| concrete(&fact.shape)).collect::<TractResult<Vec<_>>>()?;
        Ok(tvec!(self.datum_type().fact(&self.output_shape(&shapes)?)))
    }
}
