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
//! Weights are bytes where the sums of their products stay exact ([`super::pack::NarrowRule`]), else 16-bit numbers: `[tap][lane][4]`, or
//! `[tap][half][lane][2]`. The taps of a unit whose weights are bytes come first.

use super::conv::ConvParams;
use super::pack::{Columns, GROUP, LANES, Style, folded_bias, is_loud};
use super::pantry::{Reader, Writer};
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
    /// Of each unit: how many taps have byte weights.
    narrow: Aligned<u32>,
    /// Of each unit: input bytes of its taps, from the window's first.
    offsets: Aligned<u32>,
    /// Of all units, one after the other.
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

/// Bytes of the weights of a tap.
const fn tap_bytes(narrow: bool) -> usize {
    if narrow { LANES * GROUP } else { LANES * GROUP * size_of::<i16>() }
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

impl Grouped {
    /// `params` were checked. `None` where blocks of single groups do better, or where a sum, scaled, may exceed 32 bits.
    pub fn pack(style: &Style, params: &ConvParams) -> Result<Option<Grouped>, Error> {
        let Some((groups, taps)) = Groups::of(params).zip(taps(params)) else { return Ok(None) };
        let (mut narrow, mut offsets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let (mut bias, mut scale) = (Vec::new(), Vec::new());
        for channels in groups.units(params.output.channels) {
            let of_channels: Vec<Vec<i16>> = channels.clone().map(|channel| params.channel_weights(channel).collect()).collect();
            let columns = Columns {
                channel: channels.start,
                weights: &of_channels,
                bias: &params.bias[channels.clone()],
                multipliers: &params.multipliers[channels],
                input_zero: params.input_zero,
                guarded: false,
            };
            let lanes: Vec<Option<usize>> = style.order.iter().map(|&column| (column < of_channels.len()).then_some(column)).collect();
            for &column in &lanes {
                let (folded, bound) = column.map_or(Ok((0, 0)), |column| folded_bias(&columns, column))?;
                let multiplier = column.map_or(0.0, |column| columns.multipliers[column]);
                if is_loud(bound, multiplier) {
                    return Ok(None);
                }
                bias.push(folded);
                scale.push(multiplier);
            }
            let of_tap = |tap: usize| -> Vec<[i16; GROUP]> {
                let weight = |column: usize, i: usize| if i < groups.inputs { of_channels[column][i * taps.len() + tap] } else { 0 };
                lanes.iter().map(|column| std::array::from_fn(|i| column.map_or(0, |column| weight(column, i)))).collect()
            };
            let (bytes, halves): (Vec<usize>, Vec<usize>) = (0..taps.len()).partition(|&tap| style.rule.keeps(of_tap(tap).as_flattened()));
            narrow.push(bytes.len() as u32);
            offsets.extend(bytes.iter().chain(&halves).map(|&tap| taps[tap]));
            bytes.iter().for_each(|&tap| weights.extend(of_tap(tap).as_flattened().iter().map(|&w| w as i8)));
            halves.iter().for_each(|&tap| weights.extend(in_halves(&of_tap(tap)).flat_map(i16::to_ne_bytes).map(|byte| byte as i8)));
        }
        let arrays = (Aligned::new(&narrow), Aligned::new(&offsets), Aligned::new(&weights), Aligned::new(&bias), Aligned::new(&scale));
        Ok(Some(Grouped::of(style, params, groups, arrays)))
    }

    #[allow(clippy::type_complexity)]
    fn of(
        style: &Style,
        params: &ConvParams,
        groups: Groups,
        (narrow, offsets, weights, bias, scale): (Aligned<u32>, Aligned<u32>, Aligned<i8>, Aligned<i32>, Aligned<f32>),
    ) -> Grouped {
        Grouped {
            output: params.output,
            quant: params.quant,
            input: params.input,
            groups,
            origin: params.origin(),
            steps: params.steps(),
            spread: groups.spread(style),
            taps: params.kernel[0] * params.kernel[1],
            narrow,
            offsets,
            weights,
            bias,
            scale,
        }
    }

    pub fn put(&self, to: &mut Writer) {
        to.put(self.narrow.as_slice());
        to.put(self.offsets.as_slice());
        to.put(self.weights.as_slice());
        to.put(self.bias.as_slice());
        to.put(self.scale.as_slice());
    }

    /// `None` where it is not what [`Grouped::pack`] could have made of these parameters.
    pub fn take(from: &mut Reader, style: &Style, params: &ConvParams) -> Option<Grouped> {
        let (groups, taps) = (Groups::of(params)?, taps(params)?);
        let arrays = (from.take()?, from.take()?, from.take()?, from.take()?, from.take()?);
        let grouped = Grouped::of(style, params, groups, arrays);
        let units = groups.units(params.output.channels).count();
        let lengths = [grouped.narrow.as_slice().len(), grouped.bias.as_slice().len(), grouped.scale.as_slice().len()];
        let fits = lengths == [units, units * LANES, units * LANES] && grouped.offsets.as_slice().len() == units * taps.len();
        let taps_exist = grouped.offsets.as_slice().iter().all(|offset| taps.contains(offset));
        let few = grouped.narrow.as_slice().iter().all(|&narrow| narrow as usize <= taps.len());
        let bytes = || grouped.narrow.as_slice().iter().map(|&narrow| grouped.unit_bytes(narrow as usize)).sum::<usize>();
        (fits && taps_exist && few && bytes() == grouped.weights.as_slice().len()).then_some(grouped)
    }

    fn unit_bytes(&self, narrow: usize) -> usize {
        narrow * tap_bytes(true) + (self.taps - narrow) * tap_bytes(false)
    }

    pub fn units(&self) -> impl Iterator<Item = Unit<'_>> {
        let mut weights = self.weights.as_slice();
        let channels = self.groups.units(self.output.channels);
        channels.zip(self.narrow.as_slice()).enumerate().map(move |(i, (channels, &narrow))| {
            let (own, rest) = weights.split_at(self.unit_bytes(narrow as usize));
            weights = rest;
            let (narrow, wide) = self.offsets.as_slice()[i * self.taps..][..self.taps].split_at(narrow as usize);
            let lanes = i * LANES..(i + 1) * LANES;
            Unit {
                channel: channels.start,
                columns: channels.len(),
                input: channels.start / self.groups.outputs * self.groups.inputs,
                narrow,
                wide,
                weights: own,
                bias: &self.bias.as_slice()[lanes.clone()],
                scale: &self.scale.as_slice()[lanes],
            }
        })
    }

    /// Bytes of packed weights.
    pub fn bytes(&self) -> usize {
        self.weights.as_slice().len()
    }

    /// The share of taps whose weights are of 16 bits.
    pub fn wide_share(&self) -> f32 {
        let narrow: u32 = self.narrow.as_slice().iter().sum();
        1.0 - narrow as f32 / self.offsets.as_slice().len() as f32
    }

    /// Panics unless `input` is the whole tensor and `output` the bytes that `rows` own.
    pub fn check(&self, input: &[u8], output: &[u8], rows: &Range<usize>) {
        assert!(rows.start < rows.end && rows.end <= self.output.height);
        assert!(input.len() >= self.input.bytes() && output.len() >= self.output.rows(rows.clone()).len());
    }
}

/// Input byte of each tap, from the window's first; `None` where one does not fit.
fn taps(params: &ConvParams) -> Option<Vec<u32>> {
    let each = (0..params.kernel[0]).flat_map(|ky| (0..params.kernel[1]).map(move |kx| (ky, kx)));
    each.map(|(ky, kx)| u32::try_from(params.tap(ky, kx)).ok()).collect()
}

/// The first two weights of every lane, then the others.
fn in_halves(lanes: &[[i16; GROUP]]) -> impl Iterator<Item = i16> {
    [0, 2].into_iter().flat_map(move |first| lanes.iter().flat_map(move |w| [w[first], w[first + 1]]))
}

/// What the loops read past the last pixel.
const _: () = assert!(REACH <= super::SLACK);

#[cfg(test)]
mod tests {
    use super::super::pack::NarrowRule;
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
