//! tract's `LayerNormalization` behind a check of its axis: with one before the first, tract's analysis counts to 2^64.

use crate::engine::onnx::attribute;
use crate::engine::onnx::pb::NodeProto;
use std::sync::LazyLock;
use tract_onnx::model::ParsingContext;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

static TRACT: LazyLock<tract_onnx::Onnx> = LazyLock::new(tract_onnx::onnx);

/// Builder for tract's operator register.
pub fn layer_norm(context: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let build = TRACT.op_register.0.get("LayerNormalization").context("tract has no LayerNormalization")?;
    let (op, closures) = build(context, node)?;
    let op: &dyn Op = &*op;
    let inner = op.downcast_ref::<Box<dyn Expansion>>().context("LayerNormalization is no expansion")?.clone();
    Ok((expand(Ranked { axis: attribute::int(node, "axis", -1), inner }), closures))
}

#[derive(Clone, Debug)]
struct Ranked {
    axis: i64,
    inner: Box<dyn Expansion>,
}

impl Expansion for Ranked {
    fn name(&self) -> StaticName {
        self.inner.name()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.inner.nboutputs()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        ensure!(!inputs.is_empty(), "no inputs");
        // The inner rules come once this one has passed.
        s.given(&inputs[0].rank, move |s, rank| {
            ensure!((-rank..rank).contains(&self.axis), "axis {} is outside {rank} axes", self.axis);
            self.inner.rules(s, inputs, outputs)
        })
    }

    fn wire(&self, prefix: &str, target: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        self.inner.wire(prefix, target, inputs)
    }
}
