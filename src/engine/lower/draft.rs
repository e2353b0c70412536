//! Steps whose kernel is not prepared yet: the operator's numbers without its layouts.

use super::view::{Axis, View};
use crate::engine::quantized::conv::{Conv, Numbers};
use crate::engine::quantized::window::Fitted;
use crate::engine::quantized::Operator;
use crate::engine::step::{self, Source, Step, Target};
use crate::kernels::{self, AddQuant, FLIP, Isa, Layout, PoolParams};

/// What makes a step once its layouts are settled: those of what it reads, in order, then of what it writes.
pub trait Draft: Send {
    /// Prepares the kernel. `in_place`: the output lies where the read that [`Draft::in_place`] allows lies.
    fn finish(&self, isa: Isa, layouts: &[Layout], in_place: bool) -> Result<Box<dyn Step>, kernels::Error>;

    /// True where the output may take the place of read `read`.
    fn in_place(&self, _read: usize) -> bool {
        false
    }

    /// For fusion.
    fn as_conv(&mut self) -> Option<&mut ConvDraft> {
        None
    }

    /// False where the step knows its source by strides of its own, so that the source cannot move.
    fn reads_layouts(&self) -> bool {
        true
    }
}

/// The XOR between a native byte and an image's.
pub fn native_flip(unsigned: bool) -> u8 {
    if unsigned { 0x80 ^ FLIP } else { FLIP }
}

/// A convolution, with a residual in its second read or none.
pub struct ConvDraft {
    pub conv: Conv,
    pub op: Operator,
    pub fitted: Fitted,
    pub numbers: Numbers,
    pub residual: Option<AddQuant>,
}

impl ConvDraft {
    pub fn is_depthwise(&self, layouts: &[Layout]) -> bool {
        let groups = self.conv.groups;
        groups > 1 && layouts.first().is_some_and(|l| l.channels == groups) && layouts.last().is_some_and(|l| l.channels == groups)
    }
}

impl Draft for ConvDraft {
    fn finish(&self, isa: Isa, layouts: &[Layout], in_place: bool) -> Result<Box<dyn Step>, kernels::Error> {
        let (input, output) = (layouts[0], layouts[layouts.len() - 1]);
        let mut params = self.conv.params(&self.op, &self.fitted, [input, output], &self.numbers);
        params.residual = self.residual.map(|quant| (quant, layouts[1]));
        Ok(Box::new(step::ConvStep { conv: kernels::Conv::prepare(isa, &params)?, in_place, residual: self.residual.is_some() }))
    }

    fn in_place(&self, read: usize) -> bool {
        self.residual.is_some() && read == 1
    }

    fn as_conv(&mut self) -> Option<&mut ConvDraft> {
        Some(self)
    }
}

/// A sum of two images.
pub struct AddDraft {
    pub quant: AddQuant,
}

impl Draft for AddDraft {
    fn finish(&self, isa: Isa, layouts: &[Layout], _: bool) -> Result<Box<dyn Step>, kernels::Error> {
        Ok(Box::new(kernels::Add::prepare(isa, self.quant, layouts[0], layouts[1], layouts[2])?))
    }
}

/// A function of single elements.
pub struct TableDraft {
    pub values: Box<[i8; 256]>,
    /// Zero point of the output, for its border.
    pub zero: i8,
}

impl Draft for TableDraft {
    fn finish(&self, _: Isa, layouts: &[Layout], in_place: bool) -> Result<Box<dyn Step>, kernels::Error> {
        let table = kernels::Table::prepare(&self.values, self.zero, layouts[0], layouts[1])?;
        Ok(Box::new(step::TableStep { table, in_place }))
    }

    fn in_place(&self, read: usize) -> bool {
        read == 0
    }
}

/// A pool; layouts in its parameters are replaced.
pub struct PoolDraft {
    pub params: PoolParams,
}

impl Draft for PoolDraft {
    fn finish(&self, _: Isa, layouts: &[Layout], _: bool) -> Result<Box<dyn Step>, kernels::Error> {
        let params = PoolParams { input: layouts[0], output: layouts[1], ..self.params };
        Ok(Box::new(kernels::Pool::prepare(&params)?))
    }
}

/// A copy of a strided source (an image in another order, or a native tensor) to an image.
pub struct Copy {
    pub offset: usize,
    /// Height, width and channels of the source.
    pub axes: [Axis; 3],
    pub source: Source,
    /// Zero point of the image.
    pub zero: i8,
}

impl Draft for Copy {
    fn finish(&self, _: Isa, layouts: &[Layout], _: bool) -> Result<Box<dyn Step>, kernels::Error> {
        let Copy { offset, axes, source, zero } = *self;
        Ok(Box::new(step::CopyStep { offset, axes, source, zero, output: layouts[1] }))
    }

    fn reads_layouts(&self) -> bool {
        false
    }
}

/// A copy of an image to a native tensor.
pub struct Export {
    offset: usize,
    axes: Vec<Axis>,
    target: Target,
}

impl Export {
    pub fn new(view: &View, target: Target) -> Export {
        Export { offset: view.offset, axes: view.axes.clone(), target }
    }
}

impl Draft for Export {
    fn finish(&self, _: Isa, _: &[Layout], _: bool) -> Result<Box<dyn Step>, kernels::Error> {
        Ok(Box::new(step::ExportStep::new(self.offset, &self.axes, self.target)))
    }

    fn reads_layouts(&self) -> bool {
        false
    }
}
