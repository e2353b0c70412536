//! 3x3 convolutions at stride 1 with a quarter of the multiplications: Winograd's minimal filtering F(4x4, 3x3), in exact
//! integers.
//!
//! An output tile of 4x4 pixels needs 6x6 input pixels. With `V = B d Bᵗ` of the input and `U = G g Gᵗ` of the weights,
//! both 6x6, the tile is `A (U ⊙ V) Aᵗ`: 36 products instead of 144 for each pair of channels (Lavin & Gray 2015, points
//! 0, ±1, ±2, ∞). The products of a position over all channels are a matrix product, so the inner loop is the dense one.
//!
//! ```text
//!        4  0 -5  0  1  0           6  0  0
//!        0  4  4 -1 -1  0           1  1  1            1  4  4  1  1  0   / 24
//!   B =  0 -4  4  1 -1  0     G =   1 -1  1       A =  0  2 -2  1 -1  0   / 12
//!        0 -2 -1  2  1  0           1  2  4            0  1  1  1  1  0   / 6
//!        0  2 -1 -2  1  0           1 -2  4            0  1 -1  2 -2  1   / 6
//!        0  4  0 -5  0  1           0  0  6
//! ```
//!
//! `G` and `A` are scaled to whole numbers. `V` of bytes is below `68 * 255`, `U` below `49 * 255`: 16 bits hold both. Sums and
//! the output's transform wrap around in 32 bits, which is harmless: they give `9 * 2^n * y` modulo 2^32, `n <= 6`. A product
//! with the inverse of 9 modulo 2^32 and an arithmetic shift by `n` give `y` where `|y| < 2^25`. To make the most of that range,
//! the middle of what a channel can sum to is subtracted beforehand: a constant input reaches position (1, 1) only, 36 times,
//! so that is where the constant goes, and back into the bias. [`outputs`] refuses channels that can still sum to more.
//!
//! `U` is eight times as many bytes as the weights. Where it is large it comes from memory in every run, so there the weights are kept as
//! they are, and become `U` when a batch of tiles meets them, a [`SLICE`] of the input channels at a time.

use super::conv::{Blocks, ConvParams, Grid, Residual, taps_first};
use super::output::Output;
use super::pack::{Columns, GROUP, Inputs, LANES, Style, folded_bias, is_loud};
use super::pantry::{Reader, Writer};
use super::stored::Aligned;
use super::{Error, OutputQuant};

/// Output pixels of a tile, along each axis.
pub(crate) const TILE: usize = 4;
/// Input pixels of a tile.
pub(crate) const REACH: usize = 6;
/// Products of a tile.
pub(crate) const POSITIONS: usize = REACH * REACH;
/// Inverse of 9 modulo 2^32.
pub(crate) const INVERSE: i32 = 0x38E3_8E39;
const _: () = assert!(INVERSE.wrapping_mul(9) == 1);
/// The only position that a constant reaches, and how often.
pub(crate) const CENTER: usize = REACH + 1;
const CENTER_GAIN: i32 = 36;
/// Powers of two in the denominators of `A`'s rows.
pub(crate) const SHIFTS: [i32; TILE] = [3, 2, 1, 1];
/// Input channels that are transformed at a time.
pub(crate) const DEPTH: usize = 16;

/// Transformed input of a batch: at most this much, so that it stays in the second-level cache.
const BATCH_BYTES: usize = 320 << 10;
/// Tiles of a batch, at most.
const BATCH: usize = 28;
/// Keeps the positions of a tile out of each other's cache sets.
const SPREAD: usize = 64;
/// Taps of a filter.
pub(crate) const TAPS: usize = 9;
/// Input channels of which weights are transformed, then multiplied.
pub(crate) const SLICE: usize = if cfg!(test) { DEPTH } else { 128 };
/// Bytes from one position to the next of a slice.
pub(crate) const SLICE_STRIDE: usize = SLICE * LANES * 2 + SPREAD;
/// The largest `U` that is kept, in bytes: what a third-level cache is likely to hold from one run to the next. Less in unit tests, so that
/// small cases cover both.
const LARGEST: usize = if cfg!(test) { 40 << 10 } else { 3 << 19 };
const _: () = assert!(SLICE.is_multiple_of(DEPTH));

/// A convolution in this form.
#[derive(Clone, Debug)]
pub(crate) struct Winograd {
    /// Input channels, a multiple of [`DEPTH`].
    pub depth: usize,
    pub blocks: Vec<Outputs>,
    pub weights: Weights,
    /// Of every group of input channels, for the dense loop.
    pub offsets: Vec<u32>,
    /// Tiles of the whole output, and those that are transformed, then multiplied.
    pub tiles: usize,
    pub batch: usize,
}

/// What is kept of the weights.
#[derive(Clone, Debug)]
pub(crate) enum Weights {
    /// `U`: `[block][position][pair of input channels][lane][2]`.
    Transformed(Aligned<i16>),
    /// `g`: `[block][pair of input channels][tap][lane][2]`.
    Taps(Aligned<i8>),
}

/// Up to [`LANES`] output channels.
#[derive(Clone, Debug)]
pub(crate) struct Outputs {
    pub channel: usize,
    pub columns: usize,
    /// In lane order. The sum starts at `center` in position [`CENTER`], which `bias` makes up for.
    pub center: [i32; LANES],
    pub bias: [i32; LANES],
    pub scale: [f32; LANES],
}

/// Some output rows of one convolution. Offsets count bytes; `windows.base` is the first tap of the first output.
pub(crate) struct Job<'a> {
    pub height: usize,
    pub width: usize,
    pub input: &'a [u8],
    pub windows: Grid,
    pub blocks: Blocks,
    pub output: Output<'a>,
    pub pixels: Grid,
    pub quant: &'a OutputQuant,
    pub residual: Option<Residual<'a>>,
    pub scratch: &'a mut [u8],
}

impl Winograd {
    /// Packs the convolution in this form, or `None` where the form does not apply, is not exact, or does not pay. `wide_cost`: products
    /// of 16 bits take so many times as long as those of bytes.
    pub fn pack(style: &Style, wide_cost: usize, params: &ConvParams) -> Result<Option<Winograd>, Error> {
        if !Winograd::suits(wide_cost, params) || params.residual.is_some_and(|(add, _)| add.is_loud()) {
            return Ok(None);
        }
        let (depth, channels) = (params.input.channels, params.output.channels);
        let bytes = (0..channels).all(|channel| params.channel_weights(channel).all(|weight| i8::try_from(weight).is_ok()));
        let keep_taps = bytes && is_large(params);
        let room = |yes: bool, each: usize| if yes { each * filters(params) } else { 0 };
        let mut transformed = Vec::with_capacity(room(!keep_taps, POSITIONS));
        let mut taps = Vec::with_capacity(room(keep_taps, TAPS));
        let mut blocks = Vec::new();
        for first in (0..channels).step_by(LANES) {
            let range = first..(first + LANES).min(channels);
            let columns: Vec<Vec<i16>> = range.map(|o| taps_first(params, o)).collect();
            let Some(outputs) = outputs(style, params, first, &columns)? else { return Ok(None) };
            blocks.push(outputs);
            match keep_taps {
                true => pack_taps(style, &columns, depth, &mut taps),
                false => pack_transformed(style, &columns, depth, &mut transformed),
            }
        }
        let weights = if keep_taps { Weights::Taps(Aligned::new(&taps)) } else { Weights::Transformed(Aligned::new(&transformed)) };
        Ok(Some(Winograd::new(params, blocks, weights)))
    }

    fn new(params: &ConvParams, blocks: Vec<Outputs>, weights: Weights) -> Winograd {
        let (depth, tiles) = (params.input.channels, tiles(params));
        let batch = (BATCH_BYTES / (POSITIONS * depth * 2)).clamp(1, BATCH).min(tiles);
        Winograd { depth, blocks, weights, offsets: (0..depth as u32).step_by(GROUP).collect(), tiles, batch }
    }

    /// Costs are in multiplications of the dense loop at 16 bits. Transforms cost [`INPUT_COST`] an input channel and about 280 an output
    /// channel of a tile. Unit tests take this form wherever it applies, so that small cases cover it.
    fn suits(wide_cost: usize, params: &ConvParams) -> bool {
        let shape = params.kernel == [3, 3] && params.stride == [1, 1] && params.dilation == [1, 1] && params.groups == 1;
        let (depth, channels) = (params.input.channels, params.output.channels);
        if !shape || !depth.is_multiple_of(DEPTH) {
            return false;
        }
        let pixels = params.output.height * params.output.width;
        let tiles = tiles(params);
        let products = POSITIONS * (tiles + weight_cost(is_large(params))) * depth * channels.next_multiple_of(LANES);
        let transforms = tiles * (INPUT_COST * depth + 280 * channels);
        cfg!(test) || (wide_cost * (products + transforms)) as f64 * 1.3 < (9 * pixels * depth * channels) as f64
    }

    /// Whether threads that share the weights do more work twice than those that share the input.
    pub fn by_channels(&self) -> bool {
        let lanes = self.blocks.len() * LANES;
        INPUT_COST * self.tiles < POSITIONS * weight_cost(matches!(self.weights, Weights::Taps(_))) * lanes
    }

    /// Least blocks that are done together: where tiles make several batches, each time anew, transforming them is a twentieth of the work
    /// then.
    pub fn grain(&self) -> usize {
        if self.batch < self.tiles { 4 } else { 1 }
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Transformed(weights) => 2 * weights.as_slice().len(),
            Weights::Taps(taps) => taps.as_slice().len(),
        }
    }

    /// Bytes from one position to the next of the transformed input, and of a block's products.
    pub fn strides(&self) -> [usize; 2] {
        [self.batch * self.depth * 2 + SPREAD, self.batch * LANES * 4 + SPREAD]
    }

    /// Transformed input and products of a batch, a slice of transformed weights where they are not kept, and room to align them.
    pub fn scratch_bytes(&self) -> usize {
        let [input, products] = self.strides();
        let slice = if matches!(self.weights, Weights::Taps(_)) { SLICE_STRIDE } else { 0 };
        POSITIONS * (input + products + slice) + 64
    }

    /// Panics unless every byte that the loops touch is inside its buffer.
    pub fn check(&self, job: &Job) {
        let window = 2 * job.windows.step_y + 2 * job.windows.step_x + self.depth;
        assert!(job.height > 0 && job.width > 0);
        assert!(job.windows.last(job.height, job.width) + window <= job.input.len());
        let channels = self.blocks[job.blocks.range.clone()].last().map_or(0, |b| b.channel + b.columns);
        assert!(job.pixels.last(job.height, job.width) + channels <= job.output.len());
        if let Some(residual) = &job.residual {
            let bytes = residual.bytes.map_or(job.output.len(), <[u8]>::len);
            assert!(residual.grid.last(job.height, job.width) + channels <= bytes);
        }
        assert!(job.scratch.len() >= self.scratch_bytes());
    }

    pub fn put(&self, to: &mut Writer) {
        match &self.weights {
            Weights::Transformed(weights) => to.put(weights.as_slice()),
            Weights::Taps(taps) => to.put(taps.as_slice()),
        }
        for block in &self.blocks {
            to.put(&block.center);
            to.put(&block.bias);
            to.put(&block.scale);
        }
    }

    /// What [`Winograd::put`] wrote of a convolution of this shape; `None` where it does not fit.
    pub fn take(from: &mut Reader, wide_cost: usize, params: &ConvParams) -> Option<Winograd> {
        if !Winograd::suits(wide_cost, params) {
            return None;
        }
        let weights = Weights::take(from, params)?;
        let channels = params.output.channels;
        let mut outputs = |channel: usize| {
            let (center, bias, scale) = (from.take_exactly()?, from.take_exactly()?, from.take_exactly()?);
            Some(Outputs { channel, columns: LANES.min(channels - channel), center, bias, scale })
        };
        let blocks = (0..channels).step_by(LANES).map(&mut outputs).collect::<Option<_>>()?;
        Some(Winograd::new(params, blocks, weights))
    }
}

impl Weights {
    /// As many as the parameters say, in either form.
    fn take(from: &mut Reader, params: &ConvParams) -> Option<Weights> {
        if let Some(taps) = from.take::<i8>() {
            return (taps.as_slice().len() == TAPS * filters(params)).then_some(Weights::Taps(taps));
        }
        let weights = from.take::<i16>()?;
        (weights.as_slice().len() == POSITIONS * filters(params)).then_some(Weights::Transformed(weights))
    }
}

/// What the transform of an input channel of a tile costs.
const INPUT_COST: usize = 160;

/// Weights cost as much as so many tiles more: they are read from a far cache, at about three multiplications a byte, or transformed.
const fn weight_cost(transformed: bool) -> usize {
    if transformed { 3 } else { 6 }
}

/// Tiles of the whole output.
fn tiles(params: &ConvParams) -> usize {
    params.output.height.div_ceil(TILE) * params.output.width.div_ceil(TILE)
}

/// Filters of one channel to another, those of lanes that no channel has among them.
fn filters(params: &ConvParams) -> usize {
    params.input.channels * params.output.channels.next_multiple_of(LANES)
}

/// The bytes of all filters' `U` are too many to keep.
fn is_large(params: &ConvParams) -> bool {
    2 * POSITIONS * filters(params) > LARGEST
}

/// `None` where a sum may reach 2^25 or a scaled one 32 bits.
fn outputs(style: &Style, params: &ConvParams, first: usize, weights: &[Vec<i16>]) -> Result<Option<Outputs>, Error> {
    let range = first..first + weights.len();
    let columns = Columns {
        channel: first,
        weights,
        bias: &params.bias[range.clone()],
        multipliers: &params.multipliers[range],
        input_zero: params.input_zero,
        inputs: Inputs::AsTheyAre,
    };
    let (center, bias, scale) = ([0; LANES], [0; LANES], [0.0; LANES]);
    let mut outputs = Outputs { channel: first, columns: weights.len(), center, bias, scale };
    for (lane, &column) in style.order.iter().enumerate().filter(|(_, c)| **c < weights.len()) {
        let (bias, bound) = folded_bias(&columns, column)?;
        let (sum, magnitude) = weights[column].iter().fold((0, 0), |(s, m), &w| (s + i32::from(w), m + u32::from(w.unsigned_abs())));
        // 255 times the positive weights at most, 255 times the negative ones at least: this is half way, give or take one.
        let middle = 255 * sum / 2;
        if 255 * u64::from(magnitude) / 2 + 2 > 1 << 25 || is_loud(bound, columns.multipliers[column]) {
            return Ok(None);
        }
        outputs.center[lane] = middle.wrapping_mul(-CENTER_GAIN);
        (outputs.bias[lane], outputs.scale[lane]) = (bias + middle, columns.multipliers[column]);
    }
    Ok(Some(outputs))
}

fn pack_transformed(style: &Style, columns: &[Vec<i16>], depth: usize, out: &mut Vec<i16>) {
    let transformed: Vec<Vec<[i16; POSITIONS]>> =
        columns.iter().map(|column| (0..depth).map(|c| transform(&std::array::from_fn(|tap| column[tap * depth + c]))).collect()).collect();
    for position in 0..POSITIONS {
        for pair in (0..depth).step_by(2) {
            let lane = |&column: &usize| [pair, pair + 1].map(|c| transformed.get(column).map_or(0, |t| t[c][position]));
            out.extend(style.order.iter().flat_map(lane));
        }
    }
}

fn pack_taps(style: &Style, columns: &[Vec<i16>], depth: usize, out: &mut Vec<i8>) {
    for pair in (0..depth).step_by(2) {
        for tap in 0..TAPS {
            let lane = |&column: &usize| [pair, pair + 1].map(|c| columns.get(column).map_or(0, |weights| weights[tap * depth + c] as i8));
            out.extend(style.order.iter().flat_map(lane));
        }
    }
}

/// `G g Gᵗ` of one 3x3 filter.
fn transform(filter: &[i16; TAPS]) -> [i16; POSITIONS] {
    let one = |g: [i16; 3]| {
        let (even, odd) = (g[0] + g[2], g[1]);
        [6 * g[0], even + odd, even - odd, g[0] + 4 * g[2] + 2 * odd, g[0] + 4 * g[2] - 2 * odd, 6 * g[2]]
    };
    let columns: [[i16; REACH]; 3] = std::array::from_fn(|x| one([filter[x], filter[3 + x], filter[6 + x]]));
    let mut out = [0; POSITIONS];
    for (y, row) in out.chunks_exact_mut(REACH).enumerate() {
        row.copy_from_slice(&one([columns[0][y], columns[1][y], columns[2][y]]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole scheme on one channel in plain words, with the extremes that the header promises to hold.
    #[test]
    fn the_transforms_filter_exactly_within_their_widths() {
        let input = |v: [i32; 6]| {
            let [d0, d1, d2, d3, d4, d5] = v;
            [
                4 * d0 - 5 * d2 + d4,
                4 * (d1 + d2) - d4 - d3,
                4 * (d2 - d1) + d3 - d4,
                d4 - d2 + 2 * (d3 - d1),
                d4 - d2 - 2 * (d3 - d1),
                4 * d1 - 5 * d3 + d5,
            ]
        };
        let output = |m: [i32; 6]| {
            let [m0, m1, m2, m3, m4, m5] = m;
            let w = |terms: [(i32, i32); 6]| terms.iter().fold(0i32, |sum, (f, m)| sum.wrapping_add(f.wrapping_mul(*m)));
            [
                w([(1, m0), (4, m1), (4, m2), (1, m3), (1, m4), (0, m5)]),
                w([(0, m0), (2, m1), (-2, m2), (1, m3), (-1, m4), (0, m5)]),
                w([(0, m0), (1, m1), (1, m2), (1, m3), (1, m4), (0, m5)]),
                w([(0, m0), (1, m1), (-1, m2), (2, m3), (-2, m4), (1, m5)]),
            ]
        };
        let mut seed = 9u64;
        let mut random = |limit: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % limit
        };
        for round in 0..500 {
            let filter: [i16; 9] =
                std::array::from_fn(|_| if round % 2 == 0 { [-255, 255][random(2) as usize] } else { random(511) as i16 - 255 });
            let d: [[i32; 6]; 6] =
                std::array::from_fn(|_| std::array::from_fn(|_| if round % 3 == 0 { 255 * random(2) as i32 } else { random(256) as i32 }));
            let u = transform(&filter);
            let t: [[i32; 6]; 6] = std::array::from_fn(|x| input(std::array::from_fn(|y| d[y][x])));
            let v: [[i32; 6]; 6] = std::array::from_fn(|y| input(std::array::from_fn(|x| t[x][y])));
            assert!(v.as_flattened().iter().all(|v| i16::try_from(*v).is_ok()));
            let m: [[i32; 6]; 6] = std::array::from_fn(|y| std::array::from_fn(|x| v[y][x].wrapping_mul(i32::from(u[y * 6 + x]))));
            let z: [[i32; 4]; 6] = std::array::from_fn(|x| output(std::array::from_fn(|y| m[y][x])));
            for y in 0..4 {
                let row = output(std::array::from_fn(|x| z[x][y]));
                for x in 0..4 {
                    let sum: i32 = (0..9).map(|i| d[y + i / 3][x + i % 3] * i32::from(filter[i])).sum();
                    assert_eq!(row[x].wrapping_mul(INVERSE) >> (SHIFTS[y] + SHIFTS[x]), sum);
                }
            }
        }
    }
}
