//! Sum and product of two tensors, the second broadcast along any of its axes, in place over the first where wanted.
//!
//! Two tensors of one shape that are added out of place are better served by [`super::Add`].

use super::compiled::Loops;
use super::conv::equal;
use super::rows::{STEP, check_rows, copy_rows, run_length, same_shape, zip_in_place};
use super::{AddQuant, Error, Isa, Layout, MulQuant, OutputQuant, load, store};
use std::ops::Range;

/// Which of the two, and its scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BinaryQuant {
    /// A sum, or with a negative ratio a difference.
    Add(AddQuant),
    Mul(MulQuant),
}

impl BinaryQuant {
    /// The same with its operands exchanged.
    pub const fn exchanged(self) -> BinaryQuant {
        match self {
            BinaryQuant::Add(q) => BinaryQuant::Add(q.exchanged()),
            BinaryQuant::Mul(q) => BinaryQuant::Mul(MulQuant { a_zero: q.b_zero, b_zero: q.a_zero, ..q }),
        }
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            BinaryQuant::Add(q) => q.check(),
            BinaryQuant::Mul(q) => q.check(),
        }
    }

    fn output(&self) -> &OutputQuant {
        match self {
            BinaryQuant::Add(q) => &q.output,
            BinaryQuant::Mul(q) => &q.output,
        }
    }
}

/// An elementwise operator of two tensors.
#[derive(Clone, Debug)]
pub struct Binary {
    isa: Isa,
    quant: BinaryQuant,
    a: Layout,
    b: Layout,
    output: Layout,
    /// One value of the second operand meets every channel of a pixel.
    one_value: bool,
    /// Pixels of a row that are done at once.
    count: usize,
}

impl Binary {
    /// `a` has the output's shape; each of `b`'s height, width and channels is the output's or 1.
    pub fn prepare(isa: Isa, quant: BinaryQuant, a: Layout, b: Layout, output: Layout) -> Result<Binary, Error> {
        quant.check()?;
        same_shape(&output, &a)?;
        b.check()?;
        let broadcast = |what, full, found| if found == 1 { Ok(()) } else { equal(what, full, found) };
        broadcast("height of the second operand", output.height, b.height)?;
        broadcast("width of the second operand", output.width, b.width)?;
        broadcast("channels of the second operand", output.channels, b.channels)?;
        let one_value = b.channels == 1;
        let uniform = if one_value { b.width == 1 } else { b.width == output.width };
        let count = if one_value { run_length(&[&output]) } else { run_length(&[&output, &b]) };
        Ok(Binary { isa, quant, a, b, output, one_value, count: if uniform { count } else { 1 } })
    }

    /// Placement of the result.
    pub fn output(&self) -> &Layout {
        &self.output
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        let name = if matches!(self.quant, BinaryQuant::Add(_)) { "add" } else { "multiply" };
        let full = [self.b.height, self.b.width, self.b.channels] == [self.output.height, self.output.width, self.output.channels];
        format!("{} {name}{}", self.isa.name(), if full { "" } else { ", broadcast" })
    }

    /// Computes output rows `rows`. `a` is `None` where it lies in the output's own place (the same layout). `a` and `b` are
    /// whole tensors, `output` the bytes that [`Layout::rows`] names.
    pub fn run(&self, a: Option<&[u8]>, b: &[u8], output: &mut [u8], rows: Range<usize>) {
        assert!(a.is_some() || self.a == self.output, "in place needs one layout");
        check_rows(&self.output, output, &rows);
        if let Some(a) = a {
            copy_rows(&self.a, a, &self.output, output, rows.clone());
        }
        match self.quant {
            BinaryQuant::Add(q) => self.isa.compiled(Rows { op: self, b, output, rows: rows.clone(), f: move |a, b| q.apply(a, b) }),
            BinaryQuant::Mul(q) => self.isa.compiled(Rows { op: self, b, output, rows: rows.clone(), f: move |a, b| q.apply(a, b) }),
        }
        self.output.fill_border(rows, output, store(self.quant.output().zero_point));
    }
}

/// Rows whose output holds the first operand, to be overwritten.
struct Rows<'a, F> {
    op: &'a Binary,
    b: &'a [u8],
    output: &'a mut [u8],
    rows: Range<usize>,
    f: F,
}

impl<F: Fn(i8, i8) -> i8 + Copy> Loops for Rows<'_, F> {
    #[inline(always)]
    fn run(self) {
        let Rows { op, b, output, rows, f } = self;
        let f = |a, b| store(f(load(a), load(b)));
        let base = op.output.rows(rows.clone()).start;
        for y in rows {
            for x in (0..op.output.width).step_by(op.count) {
                let to = op.output.offset(y, x) - base;
                let out = &mut output[to..to + op.count * op.output.channels];
                let from = op.b.offset(if op.b.height == 1 { 0 } else { y }, if op.b.width == 1 { 0 } else { x });
                if op.one_value {
                    let others = [b[from]; STEP];
                    out.chunks_mut(STEP).for_each(|out| zip_in_place(out, &others[..out.len()], f));
                } else {
                    zip_in_place(out, &b[from..from + out.len()], f);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite::{Random, cases, in_two, placed};
    use super::super::{Border, reference};
    use super::*;

    fn quant(random: &mut Random) -> BinaryQuant {
        let zero = random.value();
        if random.chance(2) {
            return BinaryQuant::Add(random.add_quant(zero));
        }
        BinaryQuant::Mul(MulQuant { ratio: random.multiplier(1), a_zero: zero, b_zero: random.value(), output: random.quant() })
    }

    #[test]
    fn every_broadcast_equals_the_reference_in_place_and_out_of_place() {
        for seed in 0..4 * cases() {
            let mut random = Random::new(seed + 120_000);
            let shape = [random.range(1..5), random.range(1..9), random.range(1..50)];
            let b_shape = shape.map(|size| if random.chance(2) { 1 } else { size });
            let layouts = [shape, b_shape, shape].map(|[h, w, c]| random.layout(h, w, c));
            let (a, b) = (random.values(shape.iter().product()), random.values(b_shape.iter().product()));
            let (quant, cut) = (quant(&mut random), random.range(0..shape[0] + 1));
            let expected = reference::binary(&quant, shape, &a, b_shape, &b);
            let (a_bytes, b_bytes) = (placed(&layouts[0], &a, 1), placed(&layouts[1], &b, 2));
            for isa in Isa::supported() {
                let zero = quant.output().zero_point;
                let binary = Binary::prepare(isa, quant, layouts[0], layouts[1], layouts[2]).unwrap();
                let found = in_two(&layouts[2], cut, None, zero, |out, rows| binary.run(Some(&a_bytes), &b_bytes, out, rows));
                assert!(found == expected, "{} seed {seed} {shape:?} {b_shape:?} {quant:?}", isa.name());
                let binary = Binary::prepare(isa, quant, layouts[0], layouts[1], layouts[0]).unwrap();
                let found = in_two(&layouts[0], cut, Some(&a_bytes), zero, |out, rows| binary.run(None, &b_bytes, out, rows));
                assert!(found == expected, "{} in place, seed {seed} {shape:?} {b_shape:?} {quant:?}", isa.name());
            }
        }
    }

    #[test]
    fn shapes_that_do_not_broadcast_are_refused() {
        let full = Layout::new(4, 5, 6).with_border(Border::default());
        let quant = BinaryQuant::Mul(MulQuant { ratio: 0.5, a_zero: 0, b_zero: 0, output: OutputQuant::full(0) });
        let refused = |b| Binary::prepare(Isa::best(), quant, full, b, full).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused(Layout::new(2, 5, 6)).contains("height of the second operand: expected 4, found 2"));
        assert!(refused(Layout::new(4, 5, 3)).contains("channels of the second operand"));
        let quant = BinaryQuant::Mul(MulQuant { ratio: 0.0, a_zero: 0, b_zero: 0, output: OutputQuant::full(0) });
        assert!(Binary::prepare(Isa::best(), quant, full, full, full).is_err());
    }
}
