//! Steps of a prepared program: what runs between two places of the arena.

use super::lower::view::Axis;
use super::quantized::QuantizedType;
use crate::kernels::{self, Layout, load, store};
use std::ops::Range;

/// Most tensors that a step reads.
pub const READS: usize = 3;

/// One step. It may run on several threads, each with rows of its own.
pub trait Step: Send + Sync {
    /// Which kernel runs, for reports.
    fn describe(&self) -> String;

    /// Output rows that can be given to different threads; 1 where the work is not divided.
    fn rows(&self) -> usize;

    /// Bytes of the output that the writer of these rows owns.
    fn owned(&self, rows: Range<usize>) -> Range<usize>;

    /// Multiply-accumulates of all rows.
    fn macs(&self) -> u64 {
        0
    }

    /// Bytes of packed weights.
    fn weight_bytes(&self) -> usize {
        0
    }

    /// Bytes of scratch for each thread.
    fn scratch_bytes(&self) -> usize {
        0
    }

    /// Computes `rows`. `inputs` are whole tensors, in the order of the draft's reads; one whose place the output takes is
    /// empty. `output` is what [`Step::owned`] names.
    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, scratch: &mut [u8]);
}

/// A convolution.
pub struct ConvStep {
    pub conv: kernels::Conv,
    pub residual: bool,
    /// The residual lies in the output's place.
    pub in_place: bool,
}

impl Step for ConvStep {
    fn describe(&self) -> String {
        self.conv.describe()
    }

    fn rows(&self) -> usize {
        self.conv.output().height
    }

    fn owned(&self, rows: Range<usize>) -> Range<usize> {
        self.conv.output().rows(rows)
    }

    fn macs(&self) -> u64 {
        self.conv.macs()
    }

    fn weight_bytes(&self) -> usize {
        self.conv.weight_bytes()
    }

    fn scratch_bytes(&self) -> usize {
        self.conv.scratch_bytes()
    }

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, scratch: &mut [u8]) {
        let residual = (self.residual && !self.in_place).then_some(inputs[1]);
        self.conv.run(inputs[0], output, rows, residual, scratch);
    }
}

impl Step for kernels::Add {
    fn describe(&self) -> String {
        "add".to_string()
    }

    fn rows(&self) -> usize {
        self.output().height
    }

    fn owned(&self, rows: Range<usize>) -> Range<usize> {
        self.output().rows(rows)
    }

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, _: &mut [u8]) {
        kernels::Add::run(self, inputs[0], inputs[1], output, rows);
    }
}

/// A function of single elements.
pub struct TableStep {
    pub table: kernels::Table,
    pub in_place: bool,
}

impl Step for TableStep {
    fn describe(&self) -> String {
        "table".to_string()
    }

    fn rows(&self) -> usize {
        self.table.output().height
    }

    fn owned(&self, rows: Range<usize>) -> Range<usize> {
        self.table.output().rows(rows)
    }

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, _: &mut [u8]) {
        self.table.run((!self.in_place).then_some(inputs[0]), output, rows);
    }
}

impl Step for kernels::Pool {
    fn describe(&self) -> String {
        "pool".to_string()
    }

    fn rows(&self) -> usize {
        self.output().height
    }

    fn owned(&self, rows: Range<usize>) -> Range<usize> {
        self.output().rows(rows)
    }

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, _: &mut [u8]) {
        kernels::Pool::run(self, inputs[0], output, rows);
    }
}

/// What a copy to an image reads.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// Bytes, XORed with `flip`.
    Bytes { flip: u8 },
    /// float32, quantized: `saturate(round_half_even(real / scale) + zero)`.
    Float { scale: f32 },
}

/// A strided source to an image.
pub struct CopyStep {
    /// Byte of the first element.
    pub offset: usize,
    /// Height, width and channels, strides in bytes.
    pub axes: [Axis; 3],
    pub source: Source,
    /// Zero point of the image.
    pub zero: i8,
    pub output: Layout,
}

impl CopyStep {
    fn each(&self, output: &mut [u8], rows: Range<usize>, byte: impl Fn(usize) -> u8) {
        let base = self.output.rows(rows.clone()).start;
        let [h, w, c] = self.axes;
        for y in rows {
            for channel in 0..c.size {
                let from = self.offset + y * h.stride + channel * c.stride;
                let to = self.output.offset(y, 0) - base + channel;
                for x in 0..w.size {
                    output[to + x * self.output.pixel_stride] = byte(from + x * w.stride);
                }
            }
        }
    }
}

impl Step for CopyStep {
    fn describe(&self) -> String {
        match self.source {
            Source::Bytes { .. } => "copy".to_string(),
            Source::Float { .. } => "quantize".to_string(),
        }
    }

    fn rows(&self) -> usize {
        self.output.height
    }

    fn owned(&self, rows: Range<usize>) -> Range<usize> {
        self.output.rows(rows)
    }

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, _: &mut [u8]) {
        let input = inputs[0];
        match self.source {
            Source::Bytes { flip } => self.each(output, rows.clone(), |at| input[at] ^ flip),
            Source::Float { scale } => {
                let ty = QuantizedType { scale, zero: self.zero, unsigned: false };
                self.each(output, rows.clone(), |at| store(ty.quantize(float(input, at))));
            }
        }
        self.output.fill_border(rows, output, store(self.zero));
    }
}

fn float(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// What a copy of an image becomes.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Bytes, XORed with `flip`.
    Bytes { flip: u8 },
    /// float32: `(value - zero) * scale`, the value being the byte XORed with `flip`.
    Float { scale: f32, zero: i8, flip: u8 },
}

/// An image to a dense row-major tensor.
pub struct ExportStep {
    offset: usize,
    /// Axes in the tensor's order, joined where they follow each other in the image.
    axes: Vec<Axis>,
    target: Target,
    bytes: usize,
}

impl ExportStep {
    pub fn new(offset: usize, axes: &[Axis], target: Target) -> ExportStep {
        let mut joined: Vec<Axis> = Vec::new();
        for axis in axes.iter().filter(|a| a.size != 1) {
            match joined.last_mut() {
                Some(last) if last.stride == axis.size * axis.stride => *last = Axis { size: last.size * axis.size, stride: axis.stride },
                _ => joined.push(*axis),
            }
        }
        if joined.is_empty() {
            joined.push(Axis { size: 1, stride: 1 });
        }
        let element = if matches!(target, Target::Float { .. }) { 4 } else { 1 };
        ExportStep { offset, bytes: element * axes.iter().map(|a| a.size).product::<usize>(), axes: joined, target }
    }

    /// Calls `put(output element, input byte)` for every element.
    fn each(&self, elements: usize, mut put: impl FnMut(usize, usize)) {
        let Some((inner, outer)) = self.axes.split_last() else { return };
        for row in 0..elements / inner.size {
            let (mut at, mut rest) = (self.offset, row);
            for axis in outer.iter().rev() {
                at += rest % axis.size * axis.stride;
                rest /= axis.size;
            }
            for x in 0..inner.size {
                put(row * inner.size + x, at + x * inner.stride);
            }
        }
    }
}

impl Step for ExportStep {
    fn describe(&self) -> String {
        match self.target {
            Target::Bytes { .. } => "copy to native order".to_string(),
            Target::Float { .. } => "dequantize".to_string(),
        }
    }

    fn rows(&self) -> usize {
        1
    }

    fn owned(&self, _: Range<usize>) -> Range<usize> {
        0..self.bytes
    }

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], _: Range<usize>, _: &mut [u8]) {
        let input = inputs[0];
        match self.target {
            Target::Bytes { flip } => self.each(self.bytes, |to, from| output[to] = input[from] ^ flip),
            Target::Float { scale, zero, flip } => self.each(self.bytes / 4, |to, from| {
                let real = (i32::from(load(input[from] ^ flip)) - i32::from(zero)) as f32 * scale;
                output[4 * to..][..4].copy_from_slice(&real.to_le_bytes());
            }),
        }
    }
}
