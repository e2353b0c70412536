//! `QuantizeLinear` and `DequantizeLinear` as operators of our own, registered in place of tract's.
//!
//! tract 0.23.9 replaces a chain from `DequantizeLinear` to `QuantizeLinear` by a 256-entry table whenever each operator between
//! them keeps its axes. `Softmax` keeps its axes and is no function of single elements: every output saturates. The table is also
//! built in the output's type, wrong when int8 becomes uint8. The same rewrite is not applied to these operators. They divide by
//! the scale, as ONNX says, where tract multiplies by its reciprocal; take float16; and are computed once when constant.

use crate::engine::quantized::QuantizedType;
use std::sync::Arc;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::internal::{
    Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, check_input_arity, check_output_arity, expand,
};

type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// Builder of `QuantizeLinear` for tract's operator register.
pub fn quantize_linear(_: &ParsingContext, node: &NodeProto) -> Built {
    Ok((expand(Linear::new(node, true)), vec![]))
}

/// Builder of `DequantizeLinear` for tract's operator register.
pub fn dequantize_linear(_: &ParsingContext, node: &NodeProto) -> Built {
    Ok((expand(Linear::new(node, false)), vec![]))
}

/// The ONNX node, before scale and zero point are known.
#[derive(Clone, Debug)]
struct Linear {
    quantizes: bool,
    has_zero_point: bool,
    axis: i64,
}

impl Linear {
    fn new(node: &NodeProto, quantizes: bool) -> Linear {
        let axis = crate::engine::onnx::attribute::int(node, "axis", 1);
        Linear { quantizes, has_zero_point: crate::engine::onnx::graph::input(node, 2).is_some(), axis }
    }

    /// Reads the constant parameters of a tensor of rank `rank`.
    fn params(&self, model: &TypedModel, inputs: &[OutletId], rank: usize) -> TractResult<Params> {
        let konst = |slot: usize| model.outlet_fact(inputs[slot])?.konst.clone().context("scale and zero point must be constants");
        let scales = konst(1)?.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
        let zero_points = match self.has_zero_point {
            true => konst(2)?.cast_to::<i32>()?.try_as_plain_ram()?.as_slice::<i32>()?.to_vec(),
            false => vec![0; scales.len()],
        };
        ensure!(scales.len() == zero_points.len(), "{} scales for {} zero points", scales.len(), zero_points.len());
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        ensure!(scales.len() == 1 || (0..rank as i64).contains(&axis), "axis {axis} is outside rank {rank}");
        Ok(Params { channels: scales.into_iter().zip(zero_points).collect(), axis: axis as usize })
    }
}

impl Expansion for Linear {
    fn name(&self) -> StaticName {
        if self.quantizes { "QuantizeLinear".into() } else { "DequantizeLinear".into() }
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_input_arity(inputs, 2 + usize::from(self.has_zero_point))?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].shape, &outputs[0].shape)?;
        match (self.quantizes, self.has_zero_point) {
            (true, true) => s.equals(&outputs[0].datum_type, &inputs[2].datum_type),
            (true, false) => s.equals(&outputs[0].datum_type, u8::datum_type()),
            (false, _) => s.equals(&outputs[0].datum_type, &inputs[1].datum_type),
        }
    }

    fn wire(&self, prefix: &str, target: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = target.outlet_fact(inputs[0])?.clone();
        let params = Arc::new(self.params(target, inputs, fact.rank())?);
        if self.quantizes {
            let to = match self.has_zero_point {
                true => target.outlet_fact(inputs[2])?.datum_type,
                false => u8::datum_type(),
            };
            let real = target.wire_node(format!("{prefix}.real"), cast(f32::datum_type()), &inputs[..1])?;
            return target.wire_node(prefix, Quantize { params, to }, &real);
        }
        let op = Dequantize { params };
        let float = target.outlet_fact(inputs[1])?.datum_type;
        // Weights: here, because tract computes at load only what does not grow by it.
        let real = match &fact.konst {
            Some(weights) => tvec!(target.add_const(format!("{prefix}.real"), op.apply(weights)?)?),
            None => target.wire_node(format!("{prefix}.real"), op, &inputs[..1])?,
        };
        target.wire_node(prefix, cast(float), &real)
    }
}

/// Scale and zero point of each channel along `axis`; one pair for the whole tensor.
#[derive(Clone, Debug, PartialEq)]
struct Params {
    channels: Vec<(f32, i32)>,
    axis: usize,
}

impl Params {
    fn per_tensor(&self, ty: DatumType) -> Option<QuantizedType> {
        let [(scale, zero_point)] = self.channels[..] else { return None };
        let unsigned = match ty {
            DatumType::I8 => false,
            DatumType::U8 => true,
            _ => return None,
        };
        QuantizedType::new(scale, zero_point, unsigned)
    }

    /// Writes `convert(value, scale, zero_point)` for every element.
    fn each<A: Copy, B>(&self, shape: &[usize], from: &[A], to: &mut [B], convert: impl Fn(A, f32, i32) -> B) {
        let inner = match self.channels.len() {
            1 => from.len(),
            _ => shape.get(self.axis + 1..).map_or(1, |inner| inner.iter().product()),
        };
        let blocks = from.chunks(inner.max(1)).zip(to.chunks_mut(inner.max(1)));
        for ((from, to), &(scale, zero_point)) in blocks.zip(self.channels.iter().cycle()) {
            from.iter().zip(to).for_each(|(&from, to)| *to = convert(from, scale, zero_point));
        }
    }

    /// The parameters after the tensor's axes changed, where they still have one axis.
    fn changed(&self, change: &AxisOp) -> Option<Params> {
        let axis = if self.channels.len() == 1 { self.axis } else { change.transform_axis(self.axis)? };
        Some(Params { channels: self.channels.clone(), axis })
    }
}

/// `saturate(round_half_to_even(x / scale) + zero_point)` of float32.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantize {
    params: Arc<Params>,
    to: DatumType,
}

impl Eq for Quantize {}

impl Quantize {
    /// The one scale and zero point, where there is one.
    pub fn per_tensor(&self) -> Option<QuantizedType> {
        self.params.per_tensor(self.to)
    }
}

impl Quantize {
    fn apply(&self, input: &Tensor) -> TractResult<Tensor> {
        let from = input.try_as_plain_ram()?;
        let from = from.as_slice::<f32>()?;
        let mut output = Tensor::zero_dt(self.to, input.shape())?;
        // The cast to i32 saturates, far outside what the sum is clamped to.
        let quantized = |x: f32, scale: f32, zero: i32| i64::from((x / scale).round_ties_even() as i32) + i64::from(zero);
        let mut to = output.try_as_plain_ram_mut()?;
        match self.to {
            DatumType::I8 => {
                let convert = |x, scale, zero| quantized(x, scale, zero).clamp(-128, 127) as i8;
                self.params.each(input.shape(), from, to.as_slice_mut::<i8>()?, convert);
            }
            DatumType::U8 => {
                let convert = |x, scale, zero| quantized(x, scale, zero).clamp(0, 255) as u8;
                self.params.each(input.shape(), from, to.as_slice_mut::<u8>()?, convert);
            }
            other => bail!("QuantizeLinear to {other:?} is not supported"),
        }
        Ok(output)
    }
}

/// `(q - zero_point) * scale`, as float32.
#[derive(Clone, Debug, PartialEq)]
pub struct Dequantize {
    params: Arc<Params>,
}

impl Eq for Dequantize {}

impl Dequantize {
    /// The one scale and zero point of an 8-bit input of that type, where there is one.
    pub fn per_tensor(&self, from: DatumType) -> Option<QuantizedType> {
        self.params.per_tensor(from.unquantized())
    }
}

impl Dequantize {
    fn apply(&self, input: &Tensor) -> TractResult<Tensor> {
        let mut output = Tensor::zero_dt(f32::datum_type(), input.shape())?;
        let from = input.try_as_plain_ram()?;
        let mut to = output.try_as_plain_ram_mut()?;
        let to = to.as_slice_mut::<f32>()?;
        let shape = input.shape();
        match input.datum_type().unquantized() {
            DatumType::I8 => self.params.each(shape, from.as_slice::<i8>()?, to, |q, scale, zero| (i32::from(q) - zero) as f32 * scale),
            DatumType::U8 => self.params.each(shape, from.as_slice::<u8>()?, to, |q, scale, zero| (i32::from(q) - zero) as f32 * scale),
            DatumType::I32 => {
                self.params.each(shape, from.as_slice::<i32>()?, to, |q, scale, zero| q.wrapping_sub(zero) as f32 * scale);
            }
            other => bail!("DequantizeLinear of {other:?} is not supported"),
        }
        Ok(output)
    }
}

impl Op for Quantize {
    fn name(&self) -> StaticName {
        "QuantizeLinear".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Quantize {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.apply(&inputs[0])?.into_tvalue()))
    }
}

impl TypedOp for Quantize {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.to.fact(inputs[0].shape.clone())))
    }

    fn axes_mapping(&self, inputs: &[&TypedFact], outputs: &[&TypedFact]) -> TractResult<AxesMapping> {
        AxesMapping::natural(inputs, outputs)
    }

    fn change_axes(&self, model: &TypedModel, node: &TypedNode, _: InOut, change: &AxisOp) -> TractResult<Option<AxisChangeConsequence>> {
        let op = |params| Box::new(Quantize { params: Arc::new(params), to: self.to }) as Box<dyn TypedOp>;
        Ok(self.params.changed(change).map(|params| AxisChangeConsequence::new(model, node, Some(op(params)), change)))
    }
}

impl Op for Dequantize {
    fn name(&self) -> StaticName {
        "DequantizeLinear".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Dequantize {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.apply(&inputs[0])?.into_tvalue()))
    }
}

impl TypedOp for Dequantize {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::datum_type().fact(inputs[0].shape.clone())))
    }

    fn axes_mapping(&self, inputs: &[&TypedFact], outputs: &[&TypedFact]) -> TractResult<AxesMapping> {
        AxesMapping::natural(inputs, outputs)
    }

    fn change_axes(&self, model: &TypedModel, node: &TypedNode, _: InOut, change: &AxisOp) -> TractResult<Option<AxisChangeConsequence>> {
        let op = |params| Box::new(Dequantize { params: Arc::new(params) }) as Box<dyn TypedOp>;
        Ok(self.params.changed(change).map(|params| AxisChangeConsequence::new(model, node, Some(op(params)), change)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(channels: &[(f32, i32)], axis: usize) -> Arc<Params> {
        Arc::new(Params { channels: channels.to_vec(), axis })
    }

    #[test]
    fn per_tensor_rounds_half_to_even_and_saturates() {
        let op = Quantize { params: params(&[(2.0, 1)], 1), to: i8::datum_type() };
        let found = op.apply(&tensor1(&[1f32, 3.0, -1.0, 1e30, -1e30, f32::INFINITY])).unwrap();
        assert_eq!(found, tensor1(&[1i8, 3, 1, 127, -128, 127]));
    }

    #[test]
    fn per_channel_follows_its_axis_through_a_move() {
        let op = Dequantize { params: params(&[(1.0, 0), (0.5, 2)], 0) };
        let q = tensor2(&[[1u8, 2, 3], [4, 6, 8]]);
        assert_eq!(op.apply(&q).unwrap(), tensor2(&[[1f32, 2.0, 3.0], [1.0, 2.0, 3.0]]));
        let moved = Dequantize { params: Arc::new(op.params.changed(&AxisOp::Move(0, 1)).unwrap()) };
        let q = q.permute_axes(&[1, 0]).unwrap();
        assert_eq!(moved.apply(&q).unwrap(), tensor2(&[[1f32, 1.0], [2.0, 2.0], [3.0, 3.0]]));
        assert_eq!(op.params.changed(&AxisOp::Rm(0)), None);
    }

    #[test]
    fn int32_biases_are_exact_up_to_the_product() {
        let op = Dequantize { params: params(&[(0.25, 0)], 0) };
        assert_eq!(op.apply(&tensor1(&[-7i32, i32::MAX])).unwrap(), tensor1(&[-1.75f32, i32::MAX as f32 * 0.25]));
    }
}
