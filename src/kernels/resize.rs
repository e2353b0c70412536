//! Linear resizing. (Nearest-neighbour resizing moves whole pixels: [`super::Gather::nearest`].)
//!
//! Each output row and column names two source lines and the second one's weight in parts of [`ONE`]:
//!
//! ```text
//!   v = sum over the four sources of x * row weight * column weight        exact, parts of ONE^2
//!   y = round_half_even(v / ONE^2 - zero_point) + zero_point               scale and zero point stay
//! ```
//!
//! Within one step of the definition in real numbers: a weight is off by 1/4096, for two axes and 255 steps less than 0.13.

use super::compiled::Loops;
use super::conv::equal;
use super::rows::{check_rows, run_length};
use super::{Error, FLIP, Isa, Layout, store, widen};
use std::ops::Range;

/// The weight of all.
pub const ONE: u16 = 2048;

/// A position between two source lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between {
    pub first: usize,
    pub second: usize,
    /// Of the second line; the first one has the rest of [`ONE`].
    pub weight: u16,
}

impl Between {
    /// The position `coordinate` on an axis of `size` lines, clamped to it: what every ONNX coordinate transformation but
    /// `tf_crop_and_resize` comes to.
    pub fn at(coordinate: f64, size: usize) -> Between {
        let last = size.saturating_sub(1);
        let inside = coordinate.max(0.0).min(last as f64);
        let first = (inside as usize).min(last);
        let weight = ((inside - first as f64) * f64::from(ONE)).round_ties_even() as u16;
        Between { first, second: (first + 1).min(last), weight }
    }
}

/// A linear resize.
#[derive(Clone, Debug)]
pub struct ResizeLinear {
    isa: Isa,
    input: Layout,
    output: Layout,
    rows: Vec<Between>,
    columns: Vec<Between>,
    zero_point: i8,
}

impl ResizeLinear {
    /// One position an output row and column. Input and output share scale and `zero_point`.
    pub fn prepare(
        isa: Isa,
        input: Layout,
        output: Layout,
        rows: Vec<Between>,
        columns: Vec<Between>,
        zero_point: i8,
    ) -> Result<ResizeLinear, Error> {
        input.check()?;
        output.check()?;
        equal("channels", input.channels, output.channels)?;
        equal("rows of a resize", output.height, rows.len())?;
        equal("columns of a resize", output.width, columns.len())?;
        input.row_stride().checked_mul(4).ok_or(Error::Layout(input))?;
        for (lines, size) in [(&rows, input.height), (&columns, input.width)] {
            if let Some(line) = lines.iter().find(|line| line.first.max(line.second) >= size || line.weight > ONE) {
                return Err(Error::Parameter { what: "source of a resized row or column", found: line.first.max(line.second) });
            }
        }
        Ok(ResizeLinear { isa, input, output, rows, columns, zero_point })
    }

    /// Placement of the result.
    pub fn output(&self) -> &Layout {
        &self.output
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        format!("{} linear resize", self.isa.name())
    }

    /// Bytes of scratch that one thread's [`ResizeLinear::run`] needs: a row between two of the input, in 32 bits.
    pub fn scratch_bytes(&self) -> usize {
        self.input.width * self.input.channels * 4
    }

    /// Computes output rows `rows`; buffers as in the module's contract.
    pub fn run(&self, input: &[u8], output: &mut [u8], rows: Range<usize>, scratch: &mut [u8]) {
        assert!(input.len() >= self.input.bytes());
        check_rows(&self.output, output, &rows);
        let between = scratch[..self.scratch_bytes()].as_chunks_mut().0;
        self.isa.compiled(Rows { op: self, input, output, rows: rows.clone(), between });
        self.output.fill_border(rows, output, store(self.zero_point));
    }
}

struct Rows<'a> {
    op: &'a ResizeLinear,
    input: &'a [u8],
    output: &'a mut [u8],
    rows: Range<usize>,
    /// `[input column][channel]`, parts of [`ONE`], little-endian.
    between: &'a mut [[u8; 4]],
}

impl Loops for Rows<'_> {
    #[inline(always)]
    fn run(self) {
        let Rows { op, input, output, rows, between } = self;
        let base = op.output.rows(rows.clone()).start;
        let channels = op.output.channels;
        for y in rows.clone() {
            if y == rows.start || op.rows[y] != op.rows[y - 1] {
                vertical(op, op.rows[y], input, between);
            }
            for (x, column) in op.columns.iter().enumerate() {
                let [first, second] = [column.first, column.second].map(|x| &between[x * channels..(x + 1) * channels]);
                let to = op.output.offset(y, x) - base;
                horizontal(column.weight, op.zero_point, first, second, &mut output[to..to + channels]);
            }
        }
    }
}

/// The row between two of the input's.
#[inline(always)]
fn vertical(op: &ResizeLinear, row: Between, input: &[u8], between: &mut [[u8; 4]]) {
    let weights = [ONE - row.weight, row.weight].map(i32::from);
    let count = run_length(&[&op.input]);
    for (x, out) in (0..op.input.width).step_by(count).zip(between.chunks_exact_mut(count * op.input.channels)) {
        let [first, second] = [row.first, row.second].map(|y| &input[op.input.offset(y, x)..][..out.len()]);
        for ((out, &a), &b) in out.iter_mut().zip(first).zip(second) {
            *out = (widen(a) * weights[0] + widen(b) * weights[1]).to_le_bytes();
        }
    }
}

/// A pixel between two of the row.
#[inline(always)]
fn horizontal(weight: u16, zero_point: i8, first: &[[u8; 4]], second: &[[u8; 4]], out: &mut [u8]) {
    let weights = [ONE - weight, weight].map(i32::from);
    for ((out, &a), &b) in out.iter_mut().zip(first).zip(second) {
        *out = rounded(i32::from_le_bytes(a) * weights[0] + i32::from_le_bytes(b) * weights[1], zero_point);
    }
}

/// A weighted sum in whole steps, half to the even distance from the zero point, as a byte.
#[inline(always)]
fn rounded(sum: i32, zero_point: i8) -> u8 {
    const SHIFT: u32 = 2 * ONE.trailing_zeros();
    let odd = ((sum >> SHIFT) ^ i32::from(zero_point)) & 1;
    // `widen` adds 128 where bytes are flipped and nothing elsewhere: the low byte is the stored one either way.
    const _: () = assert!(FLIP == 0 || FLIP == 0x80);
    ((sum + (1 << (SHIFT - 1)) - 1 + odd) >> SHIFT) as u8
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::super::suite::{Random, cases, in_two, placed};
    use super::*;

    fn between(random: &mut Random, size: usize) -> Between {
        let weight = if random.chance(3) { random.pick(&[0, 1, 512, 1024, 1536, 2047, 2048]) } else { random.range(0..2049) as u16 };
        Between { first: random.range(0..size), second: random.range(0..size), weight }
    }

    #[test]
    fn equals_the_reference_for_every_split() {
        for seed in 0..2 * cases() {
            let mut random = Random::new(seed + 180_000);
            let [h, w, c] = [random.range(1..5), random.range(1..6), random.pick(&[1, 3, 15, 16, 17, 40])];
            let (rows, columns) = (random.range(1..7), random.range(1..9));
            let (input, output) = (random.layout(h, w, c), random.layout(rows, columns, c));
            let rows: Vec<_> = (0..rows).map(|_| between(&mut random, h)).collect();
            let columns: Vec<_> = (0..columns).map(|_| between(&mut random, w)).collect();
            let (values, zero, cut) = (random.values(h * w * c), random.value(), random.range(0..rows.len() + 1));
            let expected = reference::resize_linear([w, c], &rows, &columns, zero, &values);
            let bytes = placed(&input, &values, 0);
            for isa in Isa::supported() {
                let op = ResizeLinear::prepare(isa, input, output, rows.clone(), columns.clone(), zero).unwrap();
                let mut scratch = vec![0xFF; op.scratch_bytes()];
                let found = in_two(&output, cut, None, zero, |out, rows| op.run(&bytes, out, rows, &mut scratch));
                assert!(found == expected, "{} seed {seed} {rows:?} {columns:?}", isa.name());
            }
        }
    }

    #[test]
    fn is_within_a_step_of_real_numbers() {
        let mut random = Random::new(11);
        for (from, to) in [(4, 8), (5, 7), (7, 3), (1, 4)] {
            let half_pixel = |i: usize| (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
            let lines: Vec<_> = (0..to).map(|i| Between::at(half_pixel(i), from)).collect();
            let values = random.values(from * from);
            let found = reference::resize_linear([from, 1], &lines, &lines, 0, &values);
            let at = |y: usize, x: usize| f64::from(values[y.min(from - 1) * from + x.min(from - 1)]);
            for (i, &found) in found.iter().enumerate() {
                let [y, x] = [i / to, i % to].map(|i| half_pixel(i).clamp(0.0, (from - 1) as f64));
                let (fy, fx) = (y.fract(), x.fract());
                let row = |y: usize| at(y, x as usize) * (1.0 - fx) + at(y, x as usize + 1) * fx;
                let real = row(y as usize) * (1.0 - fy) + row(y as usize + 1) * fy;
                assert!((real - f64::from(found)).abs() < 0.7, "{from} to {to}: {real} {found}");
            }
        }
    }

    #[test]
    fn positions_are_clamped_to_the_axis() {
        assert_eq!(Between::at(-3.0, 4), Between { first: 0, second: 1, weight: 0 });
        assert_eq!(Between::at(9.0, 4), Between { first: 3, second: 3, weight: 0 });
        assert_eq!(Between::at(1.25, 4), Between { first: 1, second: 2, weight: 512 });
        assert_eq!(Between::at(f64::NAN, 4), Between { first: 0, second: 1, weight: 0 });
        let outside = vec![Between { first: 0, second: 4, weight: 1 }];
        let layout = Layout::new(1, 1, 1);
        assert!(ResizeLinear::prepare(Isa::best(), layout, layout, outside.clone(), outside, 0).is_err());
    }
}
