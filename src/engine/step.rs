//! Steps of a prepared program: the kernels behind one interface.

use crate::kernels::{self, Output};
use std::ops::Range;

/// Most tensors that a step reads.
pub const READS: usize = 3;

/// One step. It may run on several threads, each with parts of its own.
pub trait Step: Send + Sync {
    /// Which kernel runs, for reports.
    fn describe(&self) -> String;

    /// Parts (rows, mostly) that can be given to different threads.
    fn parts(&self) -> usize;

    /// Bytes of the output that the writer of these parts owns: disjoint for disjoint parts, in their order, one after the other. Of
    /// every pixel where parts are channels.
    fn owned(&self, parts: Range<usize>) -> Range<usize>;

    /// Whether parts are channels, which [`Step::run_channels`] computes, instead of rows.
    fn by_channels(&self) -> bool {
        false
    }

    /// Least parts that are done together without doing work twice.
    fn grain(&self) -> usize {
        1
    }

    /// Multiply-accumulates of all parts.
    fn macs(&self) -> u64 {
        0
    }

    /// Bytes that are read for any parts, however few.
    fn shared_bytes(&self) -> usize {
        self.weight_bytes()
    }

    /// Bytes of packed weights.
    fn weight_bytes(&self) -> usize {
        0
    }

    /// Bytes of scratch for each thread.
    fn scratch_bytes(&self) -> usize {
        0
    }

    /// Computes `parts`. `inputs` are whole tensors, in the order of the draft's reads; one whose place the output takes is
    /// empty. `output` is what [`Step::owned`] names.
    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], parts: Range<usize>, scratch: &mut [u8]);

    /// The same for each of `pieces` where parts are channels. `output` is all of it, of which the caller owns what [`Step::owned`] names
    /// of every pixel.
    fn run_channels(&self, _inputs: [&[u8]; READS], _output: Output<'_>, _pieces: Channels<'_>, _scratch: &mut [u8]) {
        unreachable!("parts are rows");
    }

    /// [`Step::run`] for each of `pieces`: parts and the output's bytes that belong to them.
    fn run_pieces<'a>(&self, inputs: [&[u8]; READS], pieces: Pieces<'_, 'a>, scratch: &mut [u8]) {
        pieces.for_each(|(parts, output)| self.run(inputs, output, parts, scratch));
    }
}

/// Parts as they are taken, each with the bytes that their writer owns.
pub type Pieces<'p, 'a> = &'p mut dyn Iterator<Item = (Range<usize>, &'a mut [u8])>;

/// Parts as they are taken that are channels.
pub type Channels<'p> = &'p mut dyn Iterator<Item = Range<usize>>;

/// A kernel whose output may lie where its first operand lies (of a convolution: its residual).
pub struct InPlace<T> {
    pub kernel: T,
    pub in_place: bool,
}

impl<T> InPlace<T> {
    /// The operand, unless the output holds it.
    fn operand<'a>(&self, input: &'a [u8]) -> Option<&'a [u8]> {
        (!self.in_place).then_some(input)
    }
}

/// A kernel that is divided by its output's rows, found in the fields named.
macro_rules! by_rows {
    ($($field:ident)*) => {
        fn describe(&self) -> String {
            self.$($field.)*describe()
        }

        fn parts(&self) -> usize {
            self.$($field.)*output().height
        }

        fn owned(&self, parts: Range<usize>) -> Range<usize> {
            self.$($field.)*output().rows(parts)
        }
    };
}

/// A kernel that says itself how it is divided.
macro_rules! by_parts {
    ($type:ty) => {
        fn describe(&self) -> String {
            <$type>::describe(self)
        }

        fn parts(&self) -> usize {
            <$type>::parts(self)
        }

        fn owned(&self, parts: Range<usize>) -> Range<usize> {
            <$type>::owned(self, parts)
        }
    };
}

/// What a kernel with weights tells of itself.
macro_rules! weighted {
    ($($field:ident)*) => {
        fn macs(&self) -> u64 {
            self.$($field.)*macs()
        }

        fn weight_bytes(&self) -> usize {
            self.$($field.)*weight_bytes()
        }

        fn scratch_bytes(&self) -> usize {
            self.$($field.)*scratch_bytes()
        }
    };
}

/// A convolution, and whether it has a residual.
pub struct ConvStep {
    pub conv: InPlace<kernels::Conv>,
    pub residual: bool,
}

impl ConvStep {
    fn residual<'a>(&self, inputs: [&'a [u8]; READS]) -> Option<&'a [u8]> {
        if self.residual { self.conv.operand(inputs[1]) } else { None }
    }
}

impl Step for ConvStep {
    weighted!(conv kernel);

    fn describe(&self) -> String {
        self.conv.kernel.describe()
    }

    fn parts(&self) -> usize {
        if self.by_channels() { self.conv.kernel.blocks() } else { self.conv.kernel.output().height }
    }

    fn owned(&self, parts: Range<usize>) -> Range<usize> {
        if !self.by_channels() {
            return self.conv.kernel.output().rows(parts);
        }
        let slice = self.conv.kernel.slice(parts);
        slice.first_channel..slice.first_channel + slice.channels
    }

    fn by_channels(&self) -> bool {
        self.conv.kernel.by_channels()
    }

    fn shared_bytes(&self) -> usize {
        if self.by_channels() { self.conv.kernel.input().bytes() } else { self.weight_bytes() }
    }

    fn grain(&self) -> usize {
        self.conv.kernel.grain()
    }

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, scratch: &mut [u8]) {
        self.conv.kernel.run(inputs[0], output, rows, self.residual(inputs), scratch);
    }

    fn run_channels(&self, inputs: [&[u8]; READS], output: Output<'_>, pieces: Channels<'_>, scratch: &mut [u8]) {
        self.conv.kernel.run_channels(inputs[0], output, pieces, self.residual(inputs), scratch);
    }
}

impl Step for kernels::ConvTranspose {
    by_rows!();
    weighted!();

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, scratch: &mut [u8]) {
        kernels::ConvTranspose::run(self, inputs[0], output, rows, scratch);
    }
}

impl Step for kernels::MatMul {
    by_parts!(kernels::MatMul);

    fn macs(&self) -> u64 {
        kernels::MatMul::macs(self)
    }

    fn scratch_bytes(&self) -> usize {
        kernels::MatMul::scratch_bytes(self)
    }

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], parts: Range<usize>, scratch: &mut [u8]) {
        kernels::MatMul::run(self, inputs[0], inputs[1], output, parts, scratch);
    }
}

impl Step for kernels::Dynamic {
    by_parts!(kernels::Dynamic);
    weighted!();

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], parts: Range<usize>, scratch: &mut [u8]) {
        kernels::Dynamic::run(self, inputs[0], output, parts, scratch);
    }
}

impl Step for kernels::Add {
    by_rows!();

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, _: &mut [u8]) {
        kernels::Add::run(self, inputs[0], inputs[1], output, rows);
    }
}

impl Step for InPlace<kernels::Binary> {
    by_rows!(kernel);

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, _: &mut [u8]) {
        self.kernel.run(self.operand(inputs[0]), inputs[1], output, rows);
    }
}

/// Kernels of one operand that may work in place.
macro_rules! unary_in_place {
    ($($type:ty),*) => {$(
        impl Step for InPlace<$type> {
            by_rows!(kernel);

            fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, _: &mut [u8]) {
                self.kernel.run(self.operand(inputs[0]), output, rows);
            }
        }
    )*};
}

unary_in_place!(kernels::Table, kernels::Softmax, kernels::LayerNorm);

/// Kernels of one operand.
macro_rules! unary {
    ($($type:ty),*) => {$(
        impl Step for $type {
            by_rows!();

            fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, _: &mut [u8]) {
                <$type>::run(self, inputs[0], output, rows);
            }
        }
    )*};
}

unary!(kernels::Pool, kernels::Import, kernels::Gather, kernels::CopyInto);

impl Step for kernels::ResizeLinear {
    by_rows!();

    fn scratch_bytes(&self) -> usize {
        kernels::ResizeLinear::scratch_bytes(self)
    }

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], rows: Range<usize>, scratch: &mut [u8]) {
        kernels::ResizeLinear::run(self, inputs[0], output, rows, scratch);
    }
}

impl Step for kernels::Export {
    by_parts!(kernels::Export);

    fn run(&self, inputs: [&[u8]; READS], output: &mut [u8], parts: Range<usize>, _: &mut [u8]) {
        kernels::Export::run(self, inputs[0], output, parts);
    }
}
