//! Steps whose kernel is not prepared yet: the operator's numbers without its layouts.

use crate::engine::quantized::conv::Conv;
use crate::engine::quantized::product::Numbers;
use crate::engine::quantized::window::Fitted;
use crate::engine::quantized::{Array, Operator};
use crate::engine::step::{ConvStep, InPlace, Step};
use crate::kernels::{self, AddQuant, Border, Element, Isa, Layout, Order, Pantry, PoolKind, PoolParams, SLACK};
use std::sync::Arc;

/// What makes a step once its layouts are settled: those of what it reads, in order, then of what it writes.
pub trait Draft: Send {
    /// Prepares the kernel, once: weights go as they are packed. With packed weights from `pantry` where it has some. `in_place`: the output lies where the read that
    /// [`Draft::in_place`] allows lies.
    fn finish(&mut self, isa: Isa, pantry: &mut Pantry, layouts: &[Layout], in_place: bool) -> Result<Box<dyn Step>, kernels::Error>;

    /// True where the output may take the place of read `read`.
    fn in_place(&self, _read: usize) -> bool {
        false
    }

    /// For fusion.
    fn as_conv(&mut self) -> Option<&mut ConvDraft> {
        None
    }

    /// The same, to look at.
    fn conv(&self) -> Option<&ConvDraft> {
        None
    }

    /// The pool, to look at.
    fn pool(&self) -> Option<&PoolDraft> {
        None
    }

    /// The chain, to look at.
    fn fused(&self) -> Option<&super::fuse::FusedDraft> {
        None
    }

    /// True where a chain can go on behind it: what comes last is a convolution.
    fn makes_rows(&self) -> bool {
        false
    }

    /// Of a chain: bytes of the least window on its input that could take that one's place.
    fn window_bytes(&self, _layouts: &[Layout]) -> usize {
        usize::MAX
    }

    /// For fusion with what comes before.
    fn as_fused(&mut self) -> Option<&mut super::fuse::FusedDraft> {
        None
    }

    /// False where the step knows its source by strides of its own, so that the source cannot move.
    fn reads_layouts(&self) -> bool {
        true
    }

    /// The same for its result.
    fn writes_layouts(&self) -> bool {
        true
    }
}

/// A convolution, with a residual in its second read or none.
pub struct ConvDraft {
    pub conv: Conv,
    pub op: Operator,
    pub fitted: Fitted,
    /// Output channels first, unless `depth_first`.
    pub weights: Arc<Array>,
    pub depth_first: bool,
    pub residual: Option<AddQuant>,
}

impl ConvDraft {
    /// The kernel for the layouts of input, residual if there is one, and output.
    pub fn kernel(&mut self, isa: Isa, pantry: &mut Pantry, layouts: &[Layout]) -> Result<kernels::Conv, kernels::Error> {
        let fitted = self.fitted;
        self.fitted_kernel(isa, pantry, &fitted, layouts)
    }

    /// The same for another part of the image.
    pub fn fitted_kernel(
        &mut self,
        isa: Isa,
        pantry: &mut Pantry,
        fitted: &Fitted,
        layouts: &[Layout],
    ) -> Result<kernels::Conv, kernels::Error> {
        if let Some(kept) = kernels::Conv::kept(isa, &self.params(fitted, layouts, &[], &Numbers::default()), pantry) {
            return Ok(kept);
        }
        // At most one form of the weights beside the packed ones.
        let mut weights = std::mem::take(&mut self.weights);
        if self.depth_first {
            weights = Arc::new(weights.permuted(&[1, 0]));
        }
        let numbers = self.conv.product.numbers(&self.op, weights.shape[0]);
        kernels::Conv::prepare_from(isa, &self.params(fitted, layouts, &weights.values, &numbers), pantry)
    }

    fn params<'a>(&'a self, fitted: &Fitted, layouts: &[Layout], weights: &'a [i8], numbers: &'a Numbers) -> kernels::ConvParams<'a> {
        let params = self.conv.params(&self.op, fitted, [layouts[0], layouts[layouts.len() - 1]], weights, numbers);
        kernels::ConvParams { residual: self.residual.map(|quant| (quant, layouts[1])), ..params }
    }

    /// Zero point of the result, with the residual added where there is one.
    pub fn output_zero(&self) -> i8 {
        self.residual.map_or(self.op.output.zero, |quant| quant.output.zero_point)
    }

    pub fn is_pointwise(&self) -> bool {
        [self.fitted.kernel, self.fitted.stride].iter().flatten().all(|&n| n == 1) && self.fitted.pad == [0, 0]
    }

    pub fn is_depthwise(&self, layouts: &[Layout]) -> bool {
        let groups = self.conv.groups;
        groups > 1 && layouts.first().is_some_and(|l| l.channels == groups) && layouts.last().is_some_and(|l| l.channels == groups)
    }
}

/// An image as one column of all its pixels, the same bytes where there is no border: threads then share it evenly, however few
/// rows it has.
fn column(layout: Layout) -> Option<Layout> {
    let pixels = layout.height.checked_mul(layout.width)?;
    (layout.border == Border::default()).then_some(Layout { height: pixels, width: 1, ..layout })
}

impl Draft for ConvDraft {
    fn finish(&mut self, isa: Isa, pantry: &mut Pantry, layouts: &[Layout], in_place: bool) -> Result<Box<dyn Step>, kernels::Error> {
        let columns: Vec<Layout> = layouts.iter().filter_map(|&layout| column(layout)).collect();
        let layouts = if self.is_pointwise() && columns.len() == layouts.len() { &columns } else { layouts };
        let conv = InPlace { kernel: self.kernel(isa, pantry, layouts)?, in_place };
        Ok(Box::new(ConvStep { conv, residual: self.residual.is_some() }))
    }

    fn in_place(&self, read: usize) -> bool {
        self.residual.is_some() && read == 1
    }

    fn as_conv(&mut self) -> Option<&mut ConvDraft> {
        Some(self)
    }

    fn conv(&self) -> Option<&ConvDraft> {
        Some(self)
    }

    fn makes_rows(&self) -> bool {
        true
    }
}

/// A pool.
pub struct PoolDraft {
    pub params: PoolParams,
}

impl PoolDraft {
    pub fn is_maximum(&self) -> bool {
        self.params.kind == PoolKind::Max
    }

    /// The kernel for some rows: padding above the image is in the input.
    pub fn part(&self, isa: Isa, layouts: &[Layout]) -> Result<kernels::Pool, kernels::Error> {
        let (input, output) = (layouts[0], layouts[layouts.len() - 1]);
        kernels::Pool::prepare(isa, &PoolParams { input, output, pad: [0, self.params.pad[1]], ..self.params })
    }
}

impl Draft for PoolDraft {
    fn finish(&mut self, isa: Isa, _: &mut Pantry, layouts: &[Layout], _: bool) -> Result<Box<dyn Step>, kernels::Error> {
        Ok(Box::new(kernels::Pool::prepare(isa, &PoolParams { input: layouts[0], output: layouts[1], ..self.params })?))
    }

    fn pool(&self) -> Option<&PoolDraft> {
        Some(self)
    }
}

/// A kernel that is made of its layouts alone: `prepare(isa, [reads.., output])`.
pub struct Simple<F>(pub F);

impl<F, S> Draft for Simple<F>
where
    F: Fn(Isa, &[Layout]) -> Result<S, kernels::Error> + Send,
    S: Step + 'static,
{
    fn finish(&mut self, isa: Isa, _: &mut Pantry, layouts: &[Layout], _: bool) -> Result<Box<dyn Step>, kernels::Error> {
        Ok(Box::new((self.0)(isa, layouts)?))
    }
}

/// A kernel that knows by itself where its operands and its result lie.
pub struct Fixed<F>(pub F);

impl<F, S> Draft for Fixed<F>
where
    F: Fn(Isa, &mut Pantry) -> Result<S, kernels::Error> + Send,
    S: Step + 'static,
{
    fn finish(&mut self, isa: Isa, pantry: &mut Pantry, _: &[Layout], _: bool) -> Result<Box<dyn Step>, kernels::Error> {
        Ok(Box::new((self.0)(isa, pantry)?))
    }

    fn reads_layouts(&self) -> bool {
        false
    }

    fn writes_layouts(&self) -> bool {
        false
    }
}

/// The same as [`Simple`] for a kernel whose output may take its first operand's place.
pub struct Taking<F>(pub F);

impl<F, K> Draft for Taking<F>
where
    F: Fn(Isa, &[Layout]) -> Result<K, kernels::Error> + Send,
    K: 'static,
    InPlace<K>: Step,
{
    fn finish(&mut self, isa: Isa, _: &mut Pantry, layouts: &[Layout], in_place: bool) -> Result<Box<dyn Step>, kernels::Error> {
        Ok(Box::new(InPlace { kernel: (self.0)(isa, layouts)?, in_place }))
    }

    fn in_place(&self, read: usize) -> bool {
        read == 0
    }
}

/// A native tensor brought into an image.
pub struct ImportDraft {
    pub order: Order,
    pub element: Element,
    /// Zero point, for the border.
    pub zero: i8,
}

impl Draft for ImportDraft {
    fn finish(&mut self, isa: Isa, _: &mut Pantry, layouts: &[Layout], _: bool) -> Result<Box<dyn Step>, kernels::Error> {
        Ok(Box::new(kernels::Import::prepare(isa, self.order, self.element, layouts[1], self.zero)?))
    }

    fn reads_layouts(&self) -> bool {
        false
    }
}

/// A rearrangement of an image's bytes: offsets from its storage's first byte for each row, column and channel.
pub struct GatherDraft {
    pub tables: [Vec<usize>; 3],
    /// Bytes of the source's storage.
    pub bytes: usize,
    /// Zero point, for the border.
    pub zero: i8,
}

impl Draft for GatherDraft {
    fn finish(&mut self, _: Isa, _: &mut Pantry, layouts: &[Layout], _: bool) -> Result<Box<dyn Step>, kernels::Error> {
        let source = Layout::new(1, 1, self.bytes - SLACK);
        Ok(Box::new(kernels::Gather::prepare(source, layouts[1], self.tables.clone(), self.zero)?))
    }

    fn reads_layouts(&self) -> bool {
        false
    }
}
