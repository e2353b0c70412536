//! Operators that look at one element at a time: the sum of two tensors, and any function of one value as a table.

use super::conv::Kernel;
use super::rows::{Runs, check_rows, same_shape};
use super::{AddQuant, Error, Isa, Layout, load, store, with_kernel};
use std::ops::Range;

/// The sum of two quantized tensors of one shape (or their difference: a negative ratio).
#[derive(Clone, Debug)]
pub struct Add {
    isa: Isa,
    quant: AddQuant,
    a: Layout,
    b: Layout,
    output: Layout,
}

impl Add {
    pub fn prepare(isa: Isa, quant: AddQuant, a: Layout, b: Layout, output: Layout) -> Result<Add, Error> {
        quant.check()?;
        same_shape(&output, &a)?;
        same_shape(&output, &b)?;
        Ok(Add { isa, quant, a, b, output })
    }

    /// Placement of the result.
    pub fn output(&self) -> &Layout {
        &self.output
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        format!("{} add", self.isa.name())
    }

    /// Computes output rows `rows`; buffers as in the module's contract.
    pub fn run(&self, a: &[u8], b: &[u8], output: &mut [u8], rows: Range<usize>) {
        let base = self.output.rows(rows.clone()).start;
        let runs = Runs::of([&self.a, &self.b, &self.output]);
        for y in rows.clone() {
            let (a, b) = (&a[self.a.offset(y, 0)..][..runs.span(0)], &b[self.b.offset(y, 0)..][..runs.span(1)]);
            let output = &mut output[self.output.offset(y, 0) - base..][..runs.span(2)];
            with_kernel!(self.isa, k => k.add(&self.quant, &runs, a, b, output));
        }
        self.output.fill_border(rows, output, store(self.quant.output.zero_point));
    }
}

/// Any function of one int8 value: activations, chains of them, a change of scale.
#[derive(Clone, Debug)]
pub struct Table {
    isa: Isa,
    /// By the input's byte, the output's byte.
    bytes: Box<[u8; 256]>,
    input: Layout,
    output: Layout,
    border: u8,
}

impl Table {
    /// `values[v + 128]` is the result for `v`; `output_zero` is what the output's border holds.
    pub fn prepare(isa: Isa, values: &[i8; 256], output_zero: i8, input: Layout, output: Layout) -> Result<Table, Error> {
        same_shape(&output, &input)?;
        let bytes = std::array::from_fn(|byte| store(values[(i32::from(load(byte as u8)) + 128) as usize]));
        Ok(Table { isa, bytes: Box::new(bytes), input, output, border: store(output_zero) })
    }

    /// Placement of the result.
    pub fn output(&self) -> &Layout {
        &self.output
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        "table".into()
    }

    /// Computes output rows `rows`; `input` is `None` where it lies in the output's own place.
    pub fn run(&self, input: Option<&[u8]>, output: &mut [u8], rows: Range<usize>) {
        assert!(input.is_some() || self.input == self.output, "in place needs one layout");
        check_rows(&self.output, output, &rows);
        let base = self.output.rows(rows.clone()).start;
        let runs = Runs::of([&self.input, &self.output]);
        for y in rows.clone() {
            let input = input.map(|input| &input[self.input.offset(y, 0)..][..runs.span(0)]);
            let output = &mut output[self.output.offset(y, 0) - base..][..runs.span(1)];
            with_kernel!(self.isa, k => k.table(&self.bytes, &runs, input, output));
        }
        self.output.fill_border(rows, output, self.border);
    }
}
