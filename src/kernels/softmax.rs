//! Softmax over the channels of each pixel.
//!
//! ```text
//!   e(d) = round(2^30 * exp(-d * input_scale))           for the distance d = max - x, 0..=255: a table
//!   y    = clamp(round_half_even(f32(e(max - x)) * f32(1 / (sum(e) * output_scale))) + zero_point)
//! ```
//!
//! The sum is an exact integer, so its order is free. Within one step of the definition in real numbers: an entry is off by
//! at most 2^-31 of the largest, a product of two rounded `f32` by less than 2^-22 of 255 steps. (Output scales below 2^-24 leave that: there is no table fine enough for them.)

use super::compiled::Loops;
use super::conv::equal;
use super::rows::{STEP, check_rows, copy_rows, each_step, same_shape};
use super::{Error, Isa, Layout, OutputQuant, check_scale, load, store};
use std::ops::Range;

/// Scales and the output's range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftmaxQuant {
    /// The input's zero point cancels out.
    pub input_scale: f32,
    pub output_scale: f32,
    pub output: OutputQuant,
}

/// A softmax over channels.
#[derive(Clone, Debug)]
pub struct Softmax {
    isa: Isa,
    quant: SoftmaxQuant,
    exponentials: Box<[i32; 256]>,
    input: Layout,
    output: Layout,
}

/// Most channels: a sum of as many exponentials is below 2^63, each of them an `i32`.
const MOST_CHANNELS: usize = 1 << 31;

/// `e(d)` for every distance.
pub(crate) fn exponentials(input_scale: f32) -> [i32; 256] {
    std::array::from_fn(|distance| (libm::exp(-(distance as f64) * f64::from(input_scale)) * 2f64.powi(30)).round() as i32)
}

/// What a pixel's exponentials are multiplied with.
#[inline(always)]
pub(crate) fn factor(sum: i64, output_scale: f32) -> f32 {
    (1.0 / (sum as f64 * f64::from(output_scale))) as f32
}

impl Softmax {
    pub fn prepare(isa: Isa, quant: SoftmaxQuant, input: Layout, output: Layout) -> Result<Softmax, Error> {
        same_shape(&output, &input)?;
        check_scale("scale of a softmax's input", quant.input_scale)?;
        check_scale("scale of a softmax's output", quant.output_scale)?;
        quant.output.check()?;
        equal("channels beyond those of a softmax", 0, input.channels.saturating_sub(MOST_CHANNELS))?;
        Ok(Softmax { isa, quant, exponentials: Box::new(exponentials(quant.input_scale)), input, output })
    }

    /// Placement of the result.
    pub fn output(&self) -> &Layout {
        &self.output
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        format!("{} softmax", self.isa.name())
    }

    /// Computes output rows `rows`. `input` is `None` where it lies in the output's own place (the same layout).
    pub fn run(&self, input: Option<&[u8]>, output: &mut [u8], rows: Range<usize>) {
        assert!(input.is_some() || self.input == self.output, "in place needs one layout");
        check_rows(&self.output, output, &rows);
        if let Some(input) = input {
            copy_rows(&self.input, input, &self.output, output, rows.clone());
        }
        self.isa.compiled(Rows { op: self, output, rows: rows.clone() });
        self.output.fill_border(rows, output, store(self.quant.output.zero_point));
    }
}

/// Rows whose output holds the input, to be overwritten.
struct Rows<'a> {
    op: &'a Softmax,
    output: &'a mut [u8],
    rows: Range<usize>,
}

impl Loops for Rows<'_> {
    #[inline(always)]
    fn run(self) {
        let Rows { op, output, rows } = self;
        let layout = &op.output;
        let base = layout.rows(rows.clone()).start;
        for y in rows {
            for x in 0..layout.width {
                let to = layout.offset(y, x) - base;
                pixel(op, &mut output[to..to + layout.channels]);
            }
        }
    }
}

#[inline(always)]
fn pixel(op: &Softmax, bytes: &mut [u8]) {
    let (quant, table) = (op.quant, &*op.exponentials);
    let largest = bytes.iter().fold(i8::MIN, |largest, &byte| largest.max(load(byte)));
    let distance = |byte: u8| usize::from(largest.wrapping_sub(load(byte)) as u8);
    let sum: i64 = bytes.iter().map(|&byte| i64::from(table[distance(byte)])).sum();
    let factor = factor(sum, quant.output_scale);
    each_step(bytes, |step, _| {
        let mut entries = [0; STEP];
        (0..STEP).for_each(|i| entries[i] = table[distance(step[i])]);
        (0..STEP).for_each(|i| step[i] = store(quant.output.finish(entries[i] as f32 * factor)));
    });
}

#[cfg(test)]
mod tests {
    use super::super::suite::{Random, cases, in_two, placed};
    use super::super::{reference, round};
    use super::*;

    fn quant(random: &mut Random) -> SoftmaxQuant {
        let input_scale = random.pick(&[1e-6, 0.004, 0.05, 0.3, 4.0, 1e9]);
        let output_scale = random.pick(&[1.0 / 256.0, 1.0 / 255.0, 0.0005, 0.02, 1e-12]);
        SoftmaxQuant { input_scale, output_scale, output: random.quant() }
    }

    /// The definition in real numbers.
    fn real(q: &SoftmaxQuant, pixel: &[i8]) -> Vec<f64> {
        let largest = pixel.iter().copied().max().unwrap_or(0);
        let e = |&v: &i8| ((f64::from(v) - f64::from(largest)) * f64::from(q.input_scale)).exp();
        let sum: f64 = pixel.iter().map(e).sum();
        let limits = (f64::from(q.output.low), f64::from(q.output.high));
        let value = |v| (e(v) / sum / f64::from(q.output_scale)).round_ties_even() + f64::from(q.output.zero_point);
        pixel.iter().map(|v| value(v).clamp(limits.0, limits.1)).collect()
    }

    #[test]
    fn equals_the_reference_and_is_within_a_step_of_real_numbers() {
        for seed in 0..2 * cases() {
            let mut random = Random::new(seed + 160_000);
            let shape = [random.range(1..4), random.range(1..5), random.pick(&[1, 2, 15, 16, 33, 300])];
            let (input, output) = (random.layout(shape[0], shape[1], shape[2]), random.layout(shape[0], shape[1], shape[2]));
            let (quant, values, cut) = (quant(&mut random), random.values(shape.iter().product()), random.range(0..shape[0] + 1));
            let (bytes, zero) = (placed(&input, &values, 0), quant.output.zero_point);
            let expected = reference::softmax(&quant, shape[2], &values);
            for isa in Isa::supported() {
                let op = Softmax::prepare(isa, quant, input, output).unwrap();
                let found = in_two(&output, cut, None, zero, |out, rows| op.run(Some(&bytes), out, rows));
                assert!(found == expected, "{} seed {seed} {quant:?}", isa.name());
                let op = Softmax::prepare(isa, quant, input, input).unwrap();
                let found = in_two(&input, cut, Some(&bytes), zero, |out, rows| op.run(None, out, rows));
                assert!(found == expected, "{} in place, seed {seed} {quant:?}", isa.name());
            }
            let real = values.chunks(shape[2]).flat_map(|pixel| real(&quant, pixel));
            let fine = quant.output_scale < 2f32.powi(-24);
            assert!(fine || real.zip(&expected).all(|(real, &found)| (real - f64::from(found)).abs() <= 1.0), "seed {seed} {quant:?}");
        }
    }

    #[test]
    fn equal_channels_share_the_whole() {
        let quant = SoftmaxQuant { input_scale: 0.1, output_scale: 1.0 / 256.0, output: OutputQuant::full(-128) };
        assert_eq!(reference::softmax(&quant, 4, &[9; 4]), [(round(64.0) - 128) as i8; 4]);
        assert_eq!(reference::softmax(&quant, 2, &[127, -128]), [127, -128]);
    }
}
