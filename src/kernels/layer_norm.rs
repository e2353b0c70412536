//! Layer normalization over the channels of each pixel.
//!
//! ```text
//!   n = channels, S = sum(x), Q = sum(x^2)                     exact integers; the zero point cancels out
//!   variance = (n * Q - S^2) / n^2 * input_scale^2             f64, as the next line
//!   k = f32(input_scale / sqrt(variance + epsilon) / n)
//!   y = clamp(round_half_even(f32(n * x - S) * k * (gamma / output_scale) + beta / output_scale) + zero_point)
//! ```
//!
//! Within one step of the definition in real numbers: every factor is rounded to `f32` once, for 255 steps an error below
//! 2^-13.

use super::compiled::Loops;
use super::conv::equal;
use super::rows::{check_rows, copy_rows, same_shape};
use super::{Error, Isa, Layout, OutputQuant, check_scale, store, widen};
use std::ops::Range;

/// A layer normalization as the model states it.
#[derive(Clone, Debug)]
pub struct LayerNormParams<'a> {
    pub input: Layout,
    pub output: Layout,
    pub input_scale: f32,
    pub output_scale: f32,
    pub quant: OutputQuant,
    /// Added to the variance, in real units squared: finite and not negative.
    pub epsilon: f32,
    /// One factor a channel.
    pub gamma: &'a [f32],
    /// One summand a channel, in real units.
    pub beta: &'a [f32],
}

/// A layer normalization, checked.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    isa: Isa,
    input: Layout,
    output: Layout,
    moments: Moments,
    quant: OutputQuant,
    gain: Vec<f32>,
    offset: Vec<f32>,
}

/// What turns a pixel's sums into its factor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments {
    pub channels: usize,
    pub input_scale: f32,
    pub epsilon: f32,
}

/// Most channels: `channels * 255` and `channels^2 * 255^2` then fit 32 and 64 bits.
const MOST_CHANNELS: usize = 1 << 22;

impl Moments {
    /// The factor `k`; zero where variance and epsilon are both zero.
    #[inline(always)]
    pub fn factor(&self, sum: i64, squares: i64) -> f32 {
        let (n, scale) = (self.channels as i64, f64::from(self.input_scale));
        let variance = (n * squares - sum * sum) as f64 / (n * n) as f64 * scale * scale + f64::from(self.epsilon);
        if variance > 0.0 { (scale / variance.sqrt() / n as f64) as f32 } else { 0.0 }
    }
}

impl LayerNormParams<'_> {
    fn check(&self) -> Result<(), Error> {
        same_shape(&self.output, &self.input)?;
        equal("channels beyond those of a normalization", 0, self.input.channels.saturating_sub(MOST_CHANNELS))?;
        equal("gammas", self.input.channels, self.gamma.len())?;
        equal("betas", self.input.channels, self.beta.len())?;
        check_scale("scale of a normalization's input", self.input_scale)?;
        check_scale("scale of a normalization's output", self.output_scale)?;
        self.quant.check()?;
        if !(self.epsilon.is_finite() && self.epsilon >= 0.0) {
            return Err(Error::Scale { what: "epsilon", found: self.epsilon });
        }
        let sound = |v: &&f32| !(**v / self.output_scale).is_finite();
        match self.gamma.iter().chain(self.beta).find(sound) {
            Some(&found) => Err(Error::Scale { what: "gamma or beta", found }),
            None => Ok(()),
        }
    }
}

impl LayerNorm {
    pub fn prepare(isa: Isa, params: &LayerNormParams) -> Result<LayerNorm, Error> {
        params.check()?;
        let over_scale = |values: &[f32]| values.iter().map(|v| v / params.output_scale).collect();
        Ok(LayerNorm {
            isa,
            input: params.input,
            output: params.output,
            moments: Moments { channels: params.input.channels, input_scale: params.input_scale, epsilon: params.epsilon },
            quant: params.quant,
            gain: over_scale(params.gamma),
            offset: over_scale(params.beta),
        })
    }

    /// Placement of the result.
    pub fn output(&self) -> &Layout {
        &self.output
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        format!("{} layer normalization", self.isa.name())
    }

    /// Computes output rows `rows`. `input` is `None` where it lies in the output's own place (the same layout).
    pub fn run(&self, input: Option<&[u8]>, output: &mut [u8], rows: Range<usize>) {
        assert!(input.is_some() || self.input == self.output, "in place needs one layout");
        check_rows(&self.output, output, &rows);
        if let Some(input) = input {
            copy_rows(&self.input, input, &self.output, output, rows.clone());
        }
        self.isa.compiled(Rows { op: self, output, rows: rows.clone() });
        self.output.fill_border(rows, output, store(self.quant.zero_point));
    }
}

/// Rows whose output holds the input, to be overwritten.
struct Rows<'a> {
    op: &'a LayerNorm,
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

/// Elements whose squares are summed in 32 bits: 255^2 * 2^15 < 2^31.
const BLOCK: usize = 1 << 15;

/// Sum and sum of squares of the bytes as [`widen`] gives them.
#[inline(always)]
fn sums(bytes: &[u8]) -> (i64, i64) {
    let (mut sum, mut squares) = (0, 0);
    for block in bytes.chunks(BLOCK) {
        sum += i64::from(block.iter().map(|&byte| widen(byte)).sum::<i32>());
        squares += i64::from(block.iter().map(|&byte| widen(byte) * widen(byte)).sum::<i32>());
    }
    (sum, squares)
}

#[inline(always)]
fn pixel(op: &LayerNorm, bytes: &mut [u8]) {
    let (sum, squares) = sums(bytes);
    let (factor, quant) = (op.moments.factor(sum, squares), op.quant);
    let (n, sum) = (bytes.len() as i32, sum as i32);
    for ((byte, gain), offset) in bytes.iter_mut().zip(&op.gain).zip(&op.offset) {
        let centred = (n * widen(*byte) - sum) as f32;
        *byte = store(quant.finish(centred * factor * gain + offset));
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::super::suite::{Random, cases, in_two, placed};
    use super::*;

    fn params(random: &mut Random) -> LayerNormParams<'static> {
        let shape = [random.range(1..4), random.range(1..5), random.pick(&[1, 2, 15, 16, 33, 300])];
        let mut reals = |size: f32| (0..shape[2]).map(|_| f32::from(random.value()) / 128.0 * size).collect::<Vec<_>>().leak();
        let (gamma, beta) = (reals(2.0), reals(1.0));
        LayerNormParams {
            input: random.layout(shape[0], shape[1], shape[2]),
            output: random.layout(shape[0], shape[1], shape[2]),
            input_scale: random.pick(&[1e-5, 0.01, 0.3, 1e4]),
            output_scale: random.pick(&[0.001, 0.02, 0.05]),
            quant: random.quant(),
            epsilon: random.pick(&[0.0, 1e-12, 1e-5, 0.1]),
            gamma,
            beta,
        }
    }

    /// The definition in real numbers.
    fn real(p: &LayerNormParams, pixel: &[i8]) -> Vec<f64> {
        let x: Vec<f64> = pixel.iter().map(|&v| f64::from(v) * f64::from(p.input_scale)).collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / x.len() as f64;
        let deviation = (variance + f64::from(p.epsilon)).sqrt();
        let scaled = |c: usize| if deviation < 1e-300 { 0.0 } else { (x[c] - mean) / deviation };
        let value = |c: usize| (scaled(c) * f64::from(p.gamma[c]) + f64::from(p.beta[c])) / f64::from(p.output_scale);
        let quantize = |v: f64| v.round_ties_even() + f64::from(p.quant.zero_point);
        (0..x.len()).map(|c| quantize(value(c)).clamp(p.quant.low.into(), p.quant.high.into())).collect()
    }

    #[test]
    fn equals_the_reference_and_is_within_a_step_of_real_numbers() {
        for seed in 0..2 * cases() {
            let mut random = Random::new(seed + 170_000);
            let params = params(&mut random);
            let (input, output, channels) = (params.input, params.output, params.input.channels);
            let values = if random.chance(4) {
                vec![random.value(); input.height * input.width * channels]
            } else {
                random.values(input.height * input.width * channels)
            };
            let (bytes, zero, cut) = (placed(&input, &values, 0), params.quant.zero_point, random.range(0..input.height + 1));
            let expected = reference::layer_norm(&params, &values);
            for isa in Isa::supported() {
                let op = LayerNorm::prepare(isa, &params).unwrap();
                let found = in_two(&output, cut, None, zero, |out, rows| op.run(Some(&bytes), out, rows));
                assert!(found == expected, "{} seed {seed} {params:?}", isa.name());
                let op = LayerNorm::prepare(isa, &LayerNormParams { output: input, ..params.clone() }).unwrap();
                let found = in_two(&input, cut, Some(&bytes), zero, |out, rows| op.run(None, out, rows));
                assert!(found == expected, "{} in place, seed {seed} {params:?}", isa.name());
            }
            let constant = values.iter().all(|v| *v == values[0]) && params.epsilon == 0.0;
            let real = values.chunks(channels).flat_map(|pixel| real(&params, pixel));
            let close = |(real, &found): (f64, &i8)| (real - f64::from(found)).abs() <= 1.0;
            assert!(constant || real.zip(&expected).all(close), "seed {seed} {params:?}");
        }
    }

    #[test]
    fn long_pixels_are_summed_exactly() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| if i % 3 == 0 { 255 } else { i as u8 }).collect();
        let wide = || bytes.iter().map(|&byte| i64::from(widen(byte)));
        assert_eq!(sums(&bytes), (wide().sum(), wide().map(|v| v * v).sum()));
    }

    #[test]
    fn bad_parameters_are_refused() {
        let mut random = Random::new(5);
        let good = params(&mut random);
        let refused = |change: &dyn Fn(&mut LayerNormParams<'static>)| {
            let mut params = good.clone();
            change(&mut params);
            LayerNorm::prepare(Isa::best(), &params).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(refused(&|p| p.epsilon = f32::NAN).contains("epsilon"));
        assert!(refused(&|p| p.gamma = &[]).contains("gammas: expected"));
        assert!(refused(&|p| p.beta = vec![f32::INFINITY; p.beta.len()].leak()).contains("gamma or beta"));
        assert!(refused(&|p| p.input_scale = 0.0).contains("scale of a normalization's input"));
    }
}
