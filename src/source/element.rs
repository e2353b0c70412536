//! Numbers in binary recordings: more types than a model's tensors have.

use crate::tensor::Dtype;
use half::f16;
use serde::{Deserialize, Serialize};

/// Type of one number of a binary recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    Int8,
    Uint8,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Int64,
    Uint64,
    Float16,
    Float32,
    Float64,
}

impl Element {
    /// Bytes of one number.
    pub const fn size(self) -> usize {
        match self {
            Element::Int8 | Element::Uint8 => 1,
            Element::Int16 | Element::Uint16 | Element::Float16 => 2,
            Element::Int32 | Element::Uint32 | Element::Float32 => 4,
            Element::Int64 | Element::Uint64 | Element::Float64 => 8,
        }
    }

    /// The same type in a tensor, where tensors have it.
    pub const fn dtype(self) -> Option<Dtype> {
        Some(match self {
            Element::Int8 => Dtype::Int8,
            Element::Uint8 => Dtype::Uint8,
            Element::Int32 => Dtype::Int32,
            Element::Int64 => Dtype::Int64,
            Element::Float16 => Dtype::Float16,
            Element::Float32 => Dtype::Float32,
            _ => return None,
        })
    }

    /// The number in the first [`Element::size`] of `bytes`, which are big-endian if `big`; missing ones count as zero.
    pub fn to_f32(self, bytes: &[u8], big: bool) -> f32 {
        let mut le = [0u8; 8];
        let size = self.size();
        for (to, from) in le.iter_mut().zip(bytes.iter().take(size)) {
            *to = *from;
        }
        if big {
            le[..size].reverse();
        }
        let unsigned = u64::from_le_bytes(le);
        match self {
            Element::Int8 => f32::from(unsigned as i8),
            Element::Uint8 => f32::from(unsigned as u8),
            Element::Int16 => f32::from(unsigned as i16),
            Element::Uint16 => f32::from(unsigned as u16),
            Element::Int32 => unsigned as i32 as f32,
            Element::Uint32 => unsigned as u32 as f32,
            Element::Int64 => unsigned as i64 as f32,
            Element::Uint64 => unsigned as f32,
            Element::Float16 => f16::from_bits(unsigned as u16).to_f32(),
            Element::Float32 => f32::from_bits(unsigned as u32),
            Element::Float64 => f64::from_bits(unsigned) as f32,
        }
    }

    /// Type and big-endianness of an `.npy` file's numbers by their type string, for example `<f4`; `None` for bool, complex,
    /// strings and records.
    pub fn from_descr(descr: &str) -> Option<(Element, bool)> {
        let (order, kind) = descr.split_at_checked(1)?;
        let element = match kind {
            "i1" => Element::Int8,
            "u1" => Element::Uint8,
            "i2" => Element::Int16,
            "u2" => Element::Uint16,
            "i4" => Element::Int32,
            "u4" => Element::Uint32,
            "i8" => Element::Int64,
            "u8" => Element::Uint64,
            "f2" => Element::Float16,
            "f4" => Element::Float32,
            "f8" => Element::Float64,
            _ => return None,
        };
        match order {
            "<" => Some((element, false)),
            ">" => Some((element, true)),
            "|" if element.size() == 1 => Some((element, false)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_reads_in_both_byte_orders() {
        let cases: [(Element, Vec<u8>, f32); 11] = [
            (Element::Int8, (-7i8).to_le_bytes().into(), -7.0),
            (Element::Uint8, 200u8.to_le_bytes().into(), 200.0),
            (Element::Int16, (-300i16).to_le_bytes().into(), -300.0),
            (Element::Uint16, 60_000u16.to_le_bytes().into(), 60_000.0),
            (Element::Int32, (-70_000i32).to_le_bytes().into(), -70_000.0),
            (Element::Uint32, 3_000_000_000u32.to_le_bytes().into(), 3e9),
            (Element::Int64, (-1i64 << 40).to_le_bytes().into(), -(2f32.powi(40))),
            (Element::Uint64, (1u64 << 63).to_le_bytes().into(), 2f32.powi(63)),
            (Element::Float16, f16::from_f32(-1.5).to_le_bytes().into(), -1.5),
            (Element::Float32, 0.1f32.to_le_bytes().into(), 0.1),
            (Element::Float64, 0.1f64.to_le_bytes().into(), 0.1),
        ];
        for (element, mut bytes, expected) in cases {
            assert_eq!(element.to_f32(&bytes, false), expected, "{element:?}");
            bytes.reverse();
            assert_eq!(element.to_f32(&bytes, true), expected, "{element:?} big-endian");
        }
    }
}
