//! Inner loops in plain Rust: what runs where no other file fits, and small enough to read as a second specification.

use super::conv::{After, Kernel, Strip};
use super::depthwise::{DW_LANES, Depthwise};
use super::pack::{GROUP, LANES, NarrowRule, Style, Weights};
use super::{load, store, widen};
use std::ops::Range;

/// Needs nothing of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portable;

impl Portable {
    /// Plain multiplications: no calibrated peak worth the name, but the same interface.
    pub(crate) fn peak_loop(self, iterations: usize) -> usize {
        let mut acc = [0i32; LANES];
        for i in 0..iterations {
            let x = std::hint::black_box(i as i32);
            acc.iter_mut().for_each(|a| *a = a.wrapping_add(x.wrapping_mul(3)));
        }
        std::hint::black_box(acc);
        iterations * LANES
    }
}

/// Adds one pixel's window into `acc`, a lane each.
fn accumulate(strip: &Strip<'_>, window: usize, acc: &mut [i32; LANES]) {
    let (narrow, wide) = strip.block.groups().offsets().split_at(strip.block.narrow_groups());
    let lanes = strip.block.lanes();
    if let Weights::Narrow(weights) | Weights::Mixed(weights, _) = strip.block.weights() {
        for (&offset, weights) in narrow.iter().zip(weights.as_slice().chunks_exact(lanes * GROUP)) {
            let x: [i32; GROUP] = std::array::from_fn(|k| widen(strip.bytes[window + offset as usize + k]));
            for (acc, w) in acc.iter_mut().zip(weights.chunks_exact(GROUP)) {
                *acc += (0..GROUP).map(|k| x[k] * i32::from(w[k])).sum::<i32>();
            }
        }
    }
    if let Weights::Wide(weights) | Weights::Mixed(_, weights) = strip.block.weights() {
        let halves = wide.iter().flat_map(|&offset| [offset as usize, offset as usize + 2]);
        for (offset, weights) in halves.zip(weights.as_slice().chunks_exact(lanes * 2)) {
            let x: [i32; 2] = std::array::from_fn(|k| {
                let at = 2 * (window + offset + k);
                i32::from(i16::from_le_bytes([strip.input[at], strip.input[at + 1]]))
            });
            for (acc, w) in acc.iter_mut().zip(weights.chunks_exact(2)) {
                *acc += x[0] * i32::from(w[0]) + x[1] * i32::from(w[1]);
            }
        }
    }
}

/// Writes what becomes of one pixel's sums.
fn emit(strip: &mut Strip<'_>, acc: [i32; LANES], y: usize, x: usize) {
    let to = strip.pixels.at(y, x);
    for column in 0..strip.block.columns {
        let lane = strip.block.lane(column);
        let scaled = acc[lane] as f32 * strip.block.scale[lane];
        let value = match &strip.after {
            After::Quantize(quant) => quant.finish(scaled),
            After::Add(quant, residual) => {
                let at = residual.grid.at(y, x) + column;
                let other = residual.bytes.map_or_else(|| strip.output.get(at), |bytes| bytes[at]);
                residual.add.apply(quant.finish(scaled), load(other))
            }
            After::Sums => {
                strip.output.put(to + 4 * column, &acc[lane].to_le_bytes());
                continue;
            }
        };
        strip.output.put(to + column, &[store(value)]);
    }
}

impl Kernel for Portable {
    const STYLE: Style = Style { rule: NarrowRule::Always, order: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], pairs: false };

    fn strip(self, strip: &mut Strip<'_>) {
        strip.check();
        for y in 0..strip.height {
            for x in 0..strip.width {
                let mut acc = strip.block.bias;
                accumulate(strip, strip.windows.at(y, x), &mut acc);
                emit(strip, acc, y, x);
            }
        }
    }

    fn widen(self, bytes: &[u8], wide: &mut [u8]) {
        for (&byte, pair) in bytes.iter().zip(wide.chunks_exact_mut(2)) {
            pair.copy_from_slice(&(widen(byte) as i16).to_le_bytes());
        }
    }

    fn depthwise(self, dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        dw.check(input, output, &rows);
        let base = dw.output.rows(rows.clone()).start;
        let channels = dw.output.channels;
        for y in rows {
            for x in 0..dw.output.width {
                let window = dw.origin + y * dw.steps[0] + x * dw.steps[1];
                let pixel = dw.output.offset(y, x) - base;
                for first in (0..channels).step_by(DW_LANES) {
                    let count = DW_LANES.min(channels - first);
                    let acc = lane_block(dw, &input[window..], first);
                    for lane in 0..count {
                        let scaled = acc[lane] as f32 * dw.scale.as_slice()[first + lane];
                        output[pixel + first + lane] = store(dw.quant.finish(scaled));
                    }
                }
            }
        }
    }
}

/// Sums of the channels from `first` over one window. Lanes past the last channel are left at their bias.
fn lane_block(dw: &Depthwise, window: &[u8], first: usize) -> [i32; DW_LANES] {
    let count = DW_LANES.min(dw.output.channels - first);
    let mut acc = [0; DW_LANES];
    acc.copy_from_slice(&dw.bias.as_slice()[first..first + DW_LANES]);
    let weights = &dw.paired.as_slice()[first * dw.taps.len() * 2..];
    for (taps, weights) in dw.taps.iter().zip(weights.chunks_exact(DW_LANES * 2)) {
        let (a, b) = (&window[taps[0] + first..][..count], &window[taps[1] + first..][..count]);
        for lane in 0..count {
            acc[lane] += widen(a[lane]) * i32::from(weights[2 * lane]) + widen(b[lane]) * i32::from(weights[2 * lane + 1]);
        }
    }
    acc
}
