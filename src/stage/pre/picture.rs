//! Images into a port: colours, size, then a table look-up for each sample.

use super::channels::Order;
use super::geometry::Geometry;
use super::map::Map;
use super::quantize::element;
use super::resize::{Resize, Resizer};
use crate::codec::Picture;
use crate::tensor::TensorSpec;

/// The image steps of a port whose input can be an image, and their buffers.
#[derive(Clone, Debug)]
pub struct Imaging {
    order: Order,
    resizer: Resizer,
    grey: Vec<u8>,
    tables: Tables,
    positions: usize,
    channel_major: bool,
}

/// For each channel the engine's element for each of the 256 samples.
#[derive(Clone, Debug)]
enum Tables {
    One(Vec<[[u8; 1]; 256]>),
    Two(Vec<[[u8; 2]; 256]>),
    Four(Vec<[[u8; 4]; 256]>),
    Eight(Vec<[[u8; 8]; 256]>),
}

impl Imaging {
    /// `None` where the port has no height and width, or not 1 or 3 channels.
    pub fn new(geometry: &Geometry, map: &Map, order: Option<Order>, resize: Resize, native: &TensorSpec) -> Option<Imaging> {
        let (height, width) = geometry.image.filter(|&(h, w)| h > 0 && w > 0)?;
        let order = order.or(Order::for_channels(geometry.channels))?;
        Some(Imaging {
            order,
            resizer: Resizer::new(resize, width, height),
            grey: Vec::new(),
            tables: Tables::new(geometry.channels, map, native),
            positions: geometry.positions,
            channel_major: geometry.channel_major,
        })
    }

    /// Writes the port's elements; `out` has their size.
    pub fn run(&mut self, picture: &Picture, out: &mut [u8]) {
        let (width, height) = (picture.width(), picture.height());
        let (data, channels) = match (self.order, picture.channels()) {
            (Order::Gray, 3) => {
                luma(picture.data(), &mut self.grey);
                (self.grey.as_slice(), 1)
            }
            (_, channels) => (picture.data(), channels),
        };
        let sized = self.resizer.run(data, width, height, channels);
        let samples = Samples { data: sized, stride: channels, positions: self.positions, reversed: self.order == Order::Bgr };
        match &self.tables {
            Tables::One(tables) => samples.write(tables, self.channel_major, out),
            Tables::Two(tables) => samples.write(tables, self.channel_major, out),
            Tables::Four(tables) => samples.write(tables, self.channel_major, out),
            Tables::Eight(tables) => samples.write(tables, self.channel_major, out),
        }
    }
}

/// Grey of RGB: ITU-R BT.601 luma in 16-bit fixed point, as Pillow's `convert("L")` rounds it.
fn luma(rgb: &[u8], grey: &mut Vec<u8>) {
    grey.clear();
    grey.extend(rgb.chunks_exact(3).map(|p| {
        let [r, g, b] = [u32::from(p[0]), u32::from(p[1]), u32::from(p[2])];
        ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
    }));
}

/// Interleaved samples of an image that has the port's size.
struct Samples<'a> {
    data: &'a [u8],
    /// Channels of the image: 1 where a grey image feeds a colour port.
    stride: usize,
    positions: usize,
    reversed: bool,
}

impl Samples<'_> {
    fn write<const N: usize>(&self, tables: &[[[u8; N]; 256]], channel_major: bool, out: &mut [u8]) {
        if channel_major {
            let planes = out.chunks_exact_mut((self.positions * N).max(1));
            for (c, (table, plane)) in tables.iter().zip(planes).enumerate() {
                self.channel(c, table, plane, N);
            }
        } else {
            for (c, table) in tables.iter().enumerate() {
                let first = (c * N).min(out.len());
                self.channel(c, table, &mut out[first..], tables.len() * N);
            }
        }
    }

    /// Writes one channel's elements, `step` bytes apart.
    fn channel<const N: usize>(&self, channel: usize, table: &[[u8; N]; 256], out: &mut [u8], step: usize) {
        let from = match (self.stride, self.reversed) {
            (1, _) => 0,
            (stride, true) => stride - 1 - channel,
            (_, false) => channel,
        };
        let samples = self.data.iter().skip(from).step_by(self.stride);
        for (slot, &sample) in out.chunks_mut(step).zip(samples) {
            if let Some(slot) = slot.first_chunk_mut::<N>() {
                *slot = table[usize::from(sample)];
            }
        }
    }
}

impl Tables {
    fn new(channels: usize, map: &Map, native: &TensorSpec) -> Tables {
        match native.dtype.size() {
            1 => Tables::One(tables(channels, map, native)),
            2 => Tables::Two(tables(channels, map, native)),
            4 => Tables::Four(tables(channels, map, native)),
            _ => Tables::Eight(tables(channels, map, native)),
        }
    }
}

fn tables<const N: usize>(channels: usize, map: &Map, native: &TensorSpec) -> Vec<[[u8; N]; 256]> {
    let entry = |channel, sample: usize| {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&element(map.apply(sample as f32, channel, 0), native));
        bytes
    };
    (0..channels).map(|channel| std::array::from_fn(|sample| entry(channel, sample))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values: Pillow 13.0.0, `convert("L")`.
    #[test]
    fn luma_equals_pillow() {
        let rgb: Vec<u8> = (0..36usize).map(|i| ((i * i * 31 + i * 7 + 3) % 251) as u8).collect();
        let mut grey = vec![7; 99];
        luma(&rgb, &mut grey);
        assert_eq!(grey, [41, 37, 89, 122, 64, 33, 86, 92, 201, 171, 94, 148]);
    }
}
