//! Convolutions of many narrow groups: several groups share the lanes of a vector.
//!
//! Where a group has at most eight output channels, a block of its own would leave most lanes of a tile empty. Here a **unit** is up to
//! 16 output channels of as many groups as fit. Their inputs are at most 16 neighbouring bytes of a tap, which a loop reads once and
//! spreads over the lanes, so that each finds the inputs of its own group:
//!
//! ```text
//!   tap:    a0 a1 a2 a3 b0 b1 b2 b3 ...        inputs of groups a, b, ...
//!   lanes:  a0 a1 a2 a3 | a0 a1 a2 a3 | ...    four of them for each output channel of a, then of b, ...
//! ```
//!
//! Weights are bytes where the sums of their products stay exact ([`NarrowRule`]), else 16-bit numbers: `[tap][lane][4]`, or
//! `[tap][half][lane][2]`. The taps of a unit whose weights are bytes come first.

use super::conv::ConvParams;
use super::pack::{Columns, GROUP, Inputs, LANES, NarrowRule, Style, folded_bias, is_loud};
use super::pantry::{Reader, Writer};
use super::rows::check_rows;
use super::stored::Aligned;
use super::{Error, Layout, OutputQuant};
use std::ops::Range;

/// Bytes of a tap that a shuffle can spread.
const REACH: usize = 16;

/// Groups of a layer that make a unit, and what each has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Groups {
    together: usize,
    inputs: usize,
    outputs: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Grouped {
    pub output: Layout,
    pub quant: OutputQuant,
    input: Layout,
    groups: Groups,
    /// Input byte of the first window, and bytes from one window to the next: down, right.
    pub origin: usize,
    pub steps: [usize; 2],
    pub spread: Spread,
    taps: usize,
    packed: Packed,
}

/// Weights and all else that a loop reads, of the units one after the other.
#[derive(Clone, Debug)]
struct Packed {
    /// Of each unit: how many taps have byte weights.
    narrow: Aligned<u32>,
    /// Of each unit: input bytes of its taps, from the window's first.
    offsets: Aligned<u32>,
    weights: Aligned<i8>,
    /// Of each unit's [`LANES`].
    bias: Aligned<i32>,
    scale: Aligned<f32>,
}

/// For each byte of a vector of lanes, which byte of a tap it takes; none where the top bit is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    /// The four bytes of each lane.
    pub bytes: [u8; LANES * GROUP],
    /// The first two, and the others, as 16-bit numbers.
    pub halves: [[u8; LANES * GROUP]; 2],
}

/// Some output channels.
pub(crate) struct Unit<'a> {
    /// First output channel, and how many.
    pub channel: usize,
    pub columns: usize,
    /// First input channel.
    pub input: usize,
    pub narrow: &'a [u32],
    pub wide: &'a [u32],
    pub weights: &'a [i8],
    pub bias: &'a [i32],
    pub scale: &'a [f32],
}

/// Bytes of a unit's weights, of which so many taps are narrow.
const fn unit_bytes(narrow: usize, taps: usize) -> usize {
    (narrow + (taps - narrow) * size_of::<i16>()) * LANES * GROUP
}

impl Groups {
    /// `None` where blocks of one group do better.
    fn of(params: &ConvParams) -> Option<Groups> {
        let (inputs, outputs) = (params.input.channels / params.groups, params.output.channels / params.groups);
        let together = (LANES / outputs.max(1)).min(REACH / inputs.max(1)).min(params.groups);
        (together > 1 && inputs <= GROUP && params.residual.is_none()).then_some(Groups { together, inputs, outputs })
    }

    /// Output channels of each unit.
    fn units(self, channels: usize) -> impl Iterator<Item = Range<usize>> {
        let step = self.together * self.outputs;
        (0..channels).step_by(step).map(move |first| first..(first + step).min(channels))
    }

    fn spread(self, style: &Style) -> Spread {
        let byte = |lane: usize, i: usize| {
            let (column, absent) = (style.order[lane], i >= self.inputs);
            let group = column / self.outputs;
            if absent || group >= self.together { 0x80 } else { (group * self.inputs + i) as u8 }
        };
        let half = |half: usize| {
            std::array::from_fn(|at| match at % 2 {
                0 => byte(at / GROUP, 2 * half + at % GROUP / 2),
                _ => 0x80,
            })
        };
        Spread { bytes: std::array::from_fn(|at| byte(at / GROUP, at % GROUP)), halves: [half(0), half(1)] }
    }
}

impl Packed {
    fn put(&self, to: &mut Writer) {
        to.put(self.narrow.as_slice());
        to.put(self.offsets.as_slice());
        to.put(self.weights.as_slice());
        to.put(self.bias.as_slice());
        to.put(self.scale.as_slice());
    }

    fn take(from: &mut Reader) -> Option<Packed> {
        let (narrow, offsets, weights) = (from.take()?, from.take()?, from.take()?);
        Some(Packed { narrow, offsets, weights, bias: from.take()?, scale: from.take()? })
    }

    /// Whether it is what `units` units of these taps can have.
    fn fits(&self, units: usize, taps: &[u32]) -> bool {
        let lanes = [self.bias.as_slice().len(), self.scale.as_slice().len()];
        let (narrow, offsets) = (self.narrow.as_slice(), self.offsets.as_slice());
        let counts = narrow.len() == units && lanes == [units * LANES; 2] && offsets.len() == units * taps.len();
        let known = offsets.iter().all(|offset| taps.contains(offset)) && narrow.iter().all(|&narrow| narrow as usize <= taps.len());
        let bytes = || -> usize { narrow.iter().map(|&narrow| unit_bytes(narrow as usize, taps.len())).sum() };
        counts && known && self.weights.as_slice().len() == bytes()
    }
}

/// What becomes [`Packed`], unit by unit.
#[derive(Default)]
struct Lists {
    narrow: Vec<u32>,
    offsets: Vec<u32>,
    weights: Vec<i8>,
    bias: Vec<i32>,
    scale: Vec<f32>,
}

impl Lists {
    /// Adds bias and scale of lanes that hold a column or none. False where a sum, scaled, may exceed 32 bits.
    fn requantize(&mut self, columns: &Columns, lanes: &[Option<usize>]) -> Result<bool, Error> {
        let mut quiet = true;
        for &column in lanes {
            let (bias, bound) = column.map_or(Ok((0, 0)), |column| folded_bias(columns, column))?;
            let scale = column.map_or(0.0, |column| columns.multipliers[column]);
            self.bias.push(bias);
            self.scale.push(scale);
            quiet &= !is_loud(bound, scale);
        }
        Ok(quiet)
    }

    /// Adds taps, with the weights of all lanes that `of_tap` gives.
    fn multiply(&mut self, rule: NarrowRule, taps: &[u32], of_tap: impl Fn(usize) -> Vec<[i16; GROUP]>) {
        let (bytes, halves): (Vec<usize>, Vec<usize>) = (0..taps.len()).partition(|&tap| rule.keeps(of_tap(tap).as_flattened()));
        self.narrow.push(bytes.len() as u32);
        self.offsets.extend(bytes.iter().chain(&halves).map(|&tap| taps[tap]));
        for tap in bytes {
            self.weights.extend(of_tap(tap).as_flattened().iter().map(|&w| w as i8));
        }
        for tap in halves {
            self.weights.extend(in_halves(&of_tap(tap)).flat_map(i16::to_ne_bytes).map(|byte| byte as i8));
        }
    }

    fn packed(&self) -> Packed {
        Packed {
            narrow: Aligned::new(&self.narrow),
            offsets: Aligned::new(&self.offsets),
            weights: Aligned::new(&self.weights),
            bias: Aligned::new(&self.bias),
            scale: Aligned::new(&self.scale),
        }
    }
}

impl Grouped {
    /// `params` were checked. `None` where blocks of single groups do better, or where a sum, scaled, may exceed 32 bits.
    pub fn pack(style: &Style, params: &ConvParams) -> Result<Option<Grouped>, Error> {
        let Some((groups, taps)) = Groups::of(params).zip(taps(params)) else { return Ok(None) };
        let mut lists = Lists::default();
        for channels in groups.units(params.output.channels) {
            let weights: Vec<Vec<i16>> = channels.clone().map(|channel| params.channel_weights(channel).collect()).collect();
            let lanes: Vec<Option<usize>> = style.order.iter().map(|&column| Some(column).filter(|&c| c < weights.len())).collect();
            let columns = Columns {
                channel: channels.start,
                weights: &weights,
                bias: &params.bias[channels.clone()],
                multipliers: &params.multipliers[channels],
                input_zero: params.input_zero,
                inputs: Inputs::AsTheyAre,
            };
            if !lists.requantize(&columns, &lanes)? {
                return Ok(None);
            }
            let weight = |column: usize, input: usize, tap: usize| match input < groups.inputs {
                true => weights[column][input * taps.len() + tap],
                false => 0,
            };
            let of_lane = |lane: Option<usize>, input, tap| lane.map_or(0, |column| weight(column, input, tap));
            lists.multiply(style.rule, &taps, |tap| {
                lanes.iter().map(|&lane| std::array::from_fn(|input| of_lane(lane, input, tap))).collect()
            });
        }
        Ok(Some(Grouped::of(style, params, groups, lists.packed())))
    }

    fn of(style: &Style, params: &ConvParams, groups: Groups, packed: Packed) -> Grouped {
        Grouped {
            output: params.output,
            quant: params.quant,
            input: params.input,
            groups,
            origin: params.origin(),
            steps: params.steps(),
            spread: groups.spread(style),
            taps: params.kernel[0] * params.kernel[1],
            packed,
        }
    }

    pub fn put(&self, to: &mut Writer) {
        self.packed.put(to);
    }

    /// `None` where it is not what [`Grouped::pack`] could have made of these parameters.
    pub fn take(from: &mut Reader, style: &Style, params: &ConvParams) -> Option<Grouped> {
        let (groups, taps) = (Groups::of(params)?, taps(params)?);
        let packed = Packed::take(from).filter(|packed| packed.fits(groups.units(params.output.channels).count(), &taps))?;
        Some(Grouped::of(style, params, groups, packed))
    }

    pub fn units(&self) -> impl Iterator<Item = Unit<'_>> {
        let mut weights = self.packed.weights.as_slice();
        let channels = self.groups.units(self.output.channels);
        channels.zip(self.packed.narrow.as_slice()).enumerate().map(move |(i, (channels, &narrow))| {
            let (own, rest) = weights.split_at(unit_bytes(narrow as usize, self.taps));
            weights = rest;
            let (narrow, wide) = self.packed.offsets.as_slice()[i * self.taps..][..self.taps].split_at(narrow as usize);
            let lanes = i * LANES..(i + 1) * LANES;
            Unit {
                channel: channels.start,
                columns: channels.len(),
                input: channels.start / self.groups.outputs * self.groups.inputs,
                narrow,
                wide,
                weights: own,
                bias: &self.packed.bias.as_slice()[lanes.clone()],
                scale: &self.packed.scale.as_slice()[lanes],
            }
        })
    }

    /// Bytes of packed weights.
    pub fn bytes(&self) -> usize {
        self.packed.weights.as_slice().len()
    }

    /// The share of taps whose weights are of 16 bits.
    pub fn wide_share(&self) -> f32 {
        let narrow: u32 = self.packed.narrow.as_slice().iter().sum();
        1.0 - narrow as f32 / self.packed.offsets.as_slice().len() as f32
    }

    /// Panics unless `input` is the whole tensor and `output` the bytes that `rows` own.
    pub fn check(&self, input: &[u8], output: &[u8], rows: &Range<usize>) {
        check_rows(&self.output, output, rows);
        assert!(input.len() >= self.input.bytes());
    }
}

/// Input byte of each tap, from the window's first; `None` where one does not fit.
fn taps(params: &ConvParams) -> Option<Vec<u32>> {
    params.taps().map(|tap| u32::try_from(tap).ok()).collect()
}

/// The first two weights of every lane, then the others.
fn in_halves(lanes: &[[i16; GROUP]]) -> impl Iterator<Item = i16> {
    [0, 2].into_iter().flat_map(move |first| lanes.iter().flat_map(move |w| [w[first], w[first + 1]]))
}

/// What the loops read past the last pixel.
const _: () = assert!(REACH <= super::SLACK);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_finds_the_inputs_of_its_group() {
        let groups = Groups { together: 5, inputs: 3, outputs: 3 };
        let mut style = Style { rule: NarrowRule::Always, order: std::array::from_fn(|i| i), pairs: false };
        style.order.swap(0, 4);
        let spread = groups.spread(&style);
        assert_eq!(spread.bytes[..4], [3, 4, 5, 0x80]);
        assert_eq!(spread.halves[1][..4], [5, 0x80, 0x80, 0x80]);
        assert_eq!(spread.bytes[15 * 4..], [0x80; 4]);
        assert!(spread.bytes.iter().all(|&at| at == 0x80 || usize::from(at) < REACH));
    }
}
