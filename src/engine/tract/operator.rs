//! Recognised operators inside a tract model: shape and type for tract's analysis, and the plain evaluation, so that tract's own
//! runtime can run the same model.

use crate::engine::onnx::pb::NodeProto;
use crate::engine::quantized::{Array, Operator};
use crate::engine::recognize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tract_onnx::model::ParsingContext;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, check_output_arity, expand};

/// What tract asks of a recognised operator.
pub trait Plain: Clone + Debug + PartialEq + Send + Sync + DeserializeOwned + 'static {
    /// What tract's errors call it.
    fn title(&self) -> String;

    /// Types of its inputs, the first of them at least.
    fn input_types(&self) -> Vec<DatumType>;

    fn output_type(&self) -> DatumType;

    /// Shape of the output, from those of all inputs.
    fn output_shape(&self, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String>;

    fn evaluate(&self, inputs: &[TValue]) -> TractResult<Tensor>;
}

/// A recognised operator as a node of a tract model: inputs are its activations and, where it has some, its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Ours<T>(pub Arc<T>);

/// One on quantized tensors.
pub type Quantized = Ours<Operator>;

impl<T: PartialEq> Eq for Ours<T> {}

/// Builder for tract's operator register.
pub fn build<T: Plain>(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let operator: T = recognize::from_node(node).map_err(|why| format_err!("{why}"))?;
    Ok((expand(Ours(Arc::new(operator))), vec![]))
}

impl<T: Plain> Ours<T> {
    fn output_shape(&self, shapes: &[Vec<usize>]) -> TractResult<Vec<usize>> {
        self.0.output_shape(shapes).map_err(|why| format_err!("{why}"))
    }
}

impl<T: Plain> Expansion for Ours<T> {
    fn name(&self) -> StaticName {
        self.0.title().into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, self.0.output_type())?;
        for (input, ty) in inputs.iter().zip(self.0.input_types()) {
            s.equals(&input.datum_type, ty)?;
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

impl<T: Plain> Op for Ours<T> {
    fn name(&self) -> StaticName {
        self.0.title().into()
    }

    op_as_typed_op!();
}

impl<T: Plain> EvalOp for Ours<T> {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.0.evaluate(&inputs)?.into_tvalue()))
    }
}

impl<T: Plain> TypedOp for Ours<T> {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shapes = inputs.iter().map(|fact| concrete(&fact.shape)).collect::<TractResult<Vec<_>>>()?;
        Ok(tvec!(self.0.output_type().fact(&self.output_shape(&shapes)?)))
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

fn datum_type(unsigned: bool) -> DatumType {
    if unsigned { u8::datum_type() } else { i8::datum_type() }
}

impl Plain for Operator {
    fn title(&self) -> String {
        format!("Quantized{}", self.kind_name())
    }

    fn input_types(&self) -> Vec<DatumType> {
        self.inputs.iter().map(|ty| datum_type(ty.unsigned)).collect()
    }

    fn output_type(&self) -> DatumType {
        datum_type(self.output.unsigned)
    }

    fn output_shape(&self, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        self.shape(inputs)
    }

    fn evaluate(&self, inputs: &[TValue]) -> TractResult<Tensor> {
        let arrays = inputs.iter().map(|tensor| to_array(tensor)).collect::<TractResult<Vec<_>>>()?;
        let output = self.eval(&arrays).map_err(|why| format_err!("{why}"))?;
        to_tensor(&output, self.output.unsigned)
    }
}
