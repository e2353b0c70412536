//! Owned tensors and their description: what crosses every border in the daemon.
//!
//! Bytes are row-major (C order) and little-endian, which is also the layout of a raw tensor on MQTT and of an `.npy` file.

use half::f16;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    Int8,
    Uint8,
    Int32,
    Int64,
    Float16,
    Float32,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Dtype::Int8 | Dtype::Uint8 => 1,
            Dtype::Float16 => 2,
            Dtype::Int32 | Dtype::Float32 => 4,
            Dtype::Int64 => 8,
        }
    }

    /// Smallest and largest value that the type holds, as real numbers; infinite for floats.
    pub const fn range(self) -> (f64, f64) {
        match self {
            Dtype::Int8 => (-128.0, 127.0),
            Dtype::Uint8 => (0.0, 255.0),
            Dtype::Int32 => (i32::MIN as f64, i32::MAX as f64),
            Dtype::Int64 => (i64::MIN as f64, i64::MAX as f64),
            Dtype::Float16 | Dtype::Float32 => (f64::NEG_INFINITY, f64::INFINITY),
        }
    }

    /// The type string of an `.npy` header, little-endian.
    pub const fn npy_descr(self) -> &'static str {
        match self {
            Dtype::Int8 => "|i1",
            Dtype::Uint8 => "|u1",
            Dtype::Int32 => "<i4",
            Dtype::Int64 => "<i8",
            Dtype::Float16 => "<f2",
            Dtype::Float32 => "<f4",
        }
    }

    /// True for `float16` and `float32`.
    pub const fn is_float(self) -> bool {
        matches!(self, Dtype::Float16 | Dtype::Float32)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::Int8 => "int8",
            Dtype::Uint8 => "uint8",
            Dtype::Int32 => "int32",
            Dtype::Int64 => "int64",
            Dtype::Float16 => "float16",
            Dtype::Float32 => "float32",
        })
    }
}

/// Per-tensor affine quantization: `real = scale * (quantized - zero_point)`, as ONNX defines it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quant {
    /// Positive and finite.
    pub scale: f32,
    /// In the range of the tensor's dtype.
    pub zero_point: i32,
}

impl Quant {
    /// ONNX `QuantizeLinear`: `saturate(round_half_even(real / scale) + zero_point)`. NaN becomes the zero point.
    pub fn quantize(self, real: f32, dtype: Dtype) -> i32 {
        let (low, high) = dtype.range();
        let rounded = (real / self.scale).round_ties_even();
        if rounded.is_nan() {
            return self.zero_point;
        }
        (f64::from(rounded) + f64::from(self.zero_point)).clamp(low, high) as i32
    }

    /// ONNX `DequantizeLinear`.
    pub fn dequantize(self, quantized: i32) -> f32 {
        self.scale * (quantized - self.zero_point) as f32
    }
}

/// Name, type and shape of one model input or output. The batch dimension is there and is 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorSpec {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// What the integers mean, where the model says it.
    pub quant: Option<Quant>,
}

impl TensorSpec {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{:?}", self.name, self.dtype, self.shape)
    }
}

/// An owned tensor. `bytes.len()` is always the shape's element count times the dtype's size.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Bytes that do not fill the shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongLength {
    pub expected: usize,
    pub found: usize,
}

impl fmt::Display for WrongLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {} bytes, found {}", self.expected, self.found)
    }
}

impl std::error::Error for WrongLength {}

impl Tensor {
    /// Takes row-major little-endian bytes.
    pub fn from_bytes(dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Tensor, WrongLength> {
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let expected = elements.and_then(|n| n.checked_mul(dtype.size())).unwrap_or(usize::MAX);
        if expected != bytes.len() {
            return Err(WrongLength { expected, found: bytes.len() });
        }
        Ok(Tensor { dtype, shape, bytes })
    }

    /// Takes row-major `float32` values.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Tensor, WrongLength> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::from_bytes(Dtype::Float32, shape, bytes)
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Every element as `f32`; integers are not dequantized.
    pub fn to_f32(&self) -> Vec<f32> {
        (0..self.elements()).map(|i| element_f32(self.dtype, &self.bytes, i)).collect()
    }
}

/// Element `index` of row-major little-endian `bytes` as `f32`. Panics when it lies outside.
pub fn element_f32(dtype: Dtype, bytes: &[u8], index: usize) -> f32 {
    let at = index * dtype.size();
    match dtype {
        Dtype::Int8 => f32::from(bytes[at] as i8),
        Dtype::Uint8 => f32::from(bytes[at]),
        Dtype::Float16 => f16::from_le_bytes(array(bytes, at)).to_f32(),
        Dtype::Float32 => f32::from_le_bytes(array(bytes, at)),
        Dtype::Int32 => i32::from_le_bytes(array(bytes, at)) as f32,
        Dtype::Int64 => i64::from_le_bytes(array(bytes, at)) as f32,
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantize_rounds_half_to_even_and_saturates() {
        let q = Quant { scale: 0.5, zero_point: -1 };
        assert_eq!(q.quantize(0.25, Dtype::Int8), -1);
        assert_eq!(q.quantize(0.75, Dtype::Int8), 1);
        assert_eq!(q.quantize(1e9, Dtype::Int8), 127);
        assert_eq!(q.quantize(f32::NEG_INFINITY, Dtype::Int8), -128);
        assert_eq!(q.quantize(f32::NAN, Dtype::Int8), -1);
        assert_eq!(q.dequantize(1), 1.0);
    }

    #[test]
    fn from_bytes_refuses_a_wrong_length_and_an_overflowing_shape() {
        let wrong = Tensor::from_bytes(Dtype::Float32, vec![2, 2], vec![0; 15]).unwrap_err();
        assert_eq!(wrong, WrongLength { expected: 16, found: 15 });
        assert!(Tensor::from_bytes(Dtype::Int64, vec![usize::MAX, 4], vec![]).is_err());
    }

    #[test]
    fn every_dtype_reads_back_as_f32() {
        let f16_bytes: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        let t = Tensor::from_bytes(Dtype::Float16, vec![2], f16_bytes).unwrap();
        assert_eq!(t.to_f32(), [1.5, -2.0]);
        let t = Tensor::from_bytes(Dtype::Int8, vec![2], vec![0xFF, 0x7F]).unwrap();
        assert_eq!(t.to_f32(), [-1.0, 127.0]);
        let t = Tensor::from_f32(vec![1, 2], &[0.25, 8.0]).unwrap();
        assert_eq!(t.to_f32(), [0.25, 8.0]);
    }
}
