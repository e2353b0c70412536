//! The pass over numbers: map, check and write each element, straight into the engine's buffer.

use super::geometry::Geometry;
use super::map::Map;
use super::quantize::{Quantizer, limit, to_int};
use crate::engine::Port;
use crate::rejection::{Code, Rejection};
use crate::tensor::{Dtype, Tensor, TensorSpec, element_f32};
use half::f16;

/// The numeric steps of a port.
#[derive(Clone, Debug)]
pub struct Numeric {
    geometry: Geometry,
    map: Map,
    declared: TensorSpec,
    native: TensorSpec,
}

/// Where each element comes from.
#[derive(Clone, Copy)]
enum Walk {
    /// Element `i` from element `i`.
    Straight,
    /// The source has positions and channels in the other order.
    Swapped,
}

impl Numeric {
    pub fn new(geometry: &Geometry, map: Map, port: &Port) -> Numeric {
        Numeric { geometry: geometry.clone(), map, declared: port.declared.clone(), native: port.native.clone() }
    }

    pub fn is_uniform(&self) -> bool {
        self.map.is_uniform()
    }

    /// Numbers of the port's element count, of the declared input unless a step maps them.
    pub fn numbers(&self, values: &[f32], transposed: bool, out: &mut [u8]) -> Result<(), Rejection> {
        let walk = if transposed { Walk::Swapped } else { Walk::Straight };
        if self.map.is_identity() && !self.declared.dtype.is_float() {
            return self.integers(values, walk, out);
        }
        self.pass(|at| values[at], walk, out)
    }

    /// Real numbers of a sensor, time-major.
    pub fn window(&self, values: &[f32], out: &mut [u8]) -> Result<(), Rejection> {
        let walk = if self.geometry.channel_major { Walk::Swapped } else { Walk::Straight };
        self.pass(|at| values[at], walk, out)
    }

    /// A tensor of the port's element count.
    pub fn tensor(&self, tensor: &Tensor, transposed: bool, out: &mut [u8]) -> Result<(), Rejection> {
        let (dtype, bytes) = (tensor.dtype(), tensor.bytes());
        if dtype != self.declared.dtype {
            let message = format!("input {}: expected {}, found {dtype}", self.declared, self.declared.dtype);
            return Err(Rejection::new(Code::WrongDtype, message));
        }
        let unchanged = self.map.is_identity() && dtype == self.native.dtype;
        match (unchanged, transposed) {
            (true, false) => {
                out.copy_from_slice(bytes);
                self.check_finite(|at| element_f32(dtype, bytes, at))
            }
            (true, true) => {
                self.permute(bytes, dtype.size(), out);
                self.check_finite(|at| element_f32(dtype, bytes, at))
            }
            (false, true) => self.pass(|at| element_f32(dtype, bytes, at), Walk::Swapped, out),
            (false, false) => self.pass(|at| element_f32(dtype, bytes, at), Walk::Straight, out),
        }
    }

    /// Integers for a model that declares them: exact, in range, not quantized.
    fn integers(&self, values: &[f32], walk: Walk, out: &mut [u8]) -> Result<(), Rejection> {
        let (low, high) = self.declared.dtype.range();
        let fits = |v: f32| v.fract() == 0.0 && (low..=high).contains(&f64::from(v));
        if let Some(at) = values.iter().position(|&v| !fits(v)) {
            let message = format!("input {}: element {at} is {}: expected an {}", self.declared, values[at], self.declared.dtype);
            let code = if values[at].is_finite() { Code::WrongDtype } else { Code::NotFinite };
            return Err(Rejection::new(code, message));
        }
        let plain = TensorSpec { quant: None, ..self.native.clone() };
        self.write(&plain, |at| values[at], walk, out);
        Ok(())
    }

    /// Maps and writes every element, and checks that none is NaN or infinite.
    fn pass(&self, get: impl Fn(usize) -> f32 + Copy, walk: Walk, out: &mut [u8]) -> Result<(), Rejection> {
        match self.write(&self.native, get, walk, out) {
            true => Ok(()),
            false => Err(self.not_finite(get, walk)),
        }
    }

    /// Writes elements of the native dtype; false where a value does not fit it for not being finite.
    fn write(&self, native: &TensorSpec, get: impl Fn(usize) -> f32 + Copy, walk: Walk, out: &mut [u8]) -> bool {
        match native.dtype {
            Dtype::Int8 | Dtype::Uint8 => {
                let quantizer = Quantizer::new(native);
                self.each(get, walk, out, |v| [quantizer.quantize(v) as u8])
            }
            Dtype::Int32 => self.each(get, walk, out, |v| (to_int(v, native) as i32).to_le_bytes()),
            Dtype::Int64 => self.each(get, walk, out, |v| to_int(v, native).to_le_bytes()),
            Dtype::Float16 => self.each(get, walk, out, |v| f16::from_f32(v).to_le_bytes()),
            Dtype::Float32 => self.each(get, walk, out, f32::to_le_bytes),
        }
    }

    fn each<const N: usize>(&self, get: impl Fn(usize) -> f32, walk: Walk, out: &mut [u8], put: impl Fn(f32) -> [u8; N]) -> bool {
        let (limit, mut finite) = (limit(self.native.dtype), true);
        let mut slots = out.chunks_exact_mut(N);
        let mut one = |value: f32| {
            finite &= value.abs() < limit;
            if let Some(slot) = slots.next() {
                slot.copy_from_slice(&put(value));
            }
        };
        if self.map.is_identity() && matches!(walk, Walk::Straight) {
            (0..self.elements()).for_each(|at| one(get(at)));
        } else {
            self.visit(walk, |from, channel, position| one(self.map.apply(get(from), channel, position)));
        }
        finite
    }

    /// Calls with source index, channel and position of every element, in the port's order.
    fn visit(&self, walk: Walk, mut call: impl FnMut(usize, usize, usize)) {
        let Geometry { channels, positions, channel_major, .. } = self.geometry;
        let source_channel_major = channel_major == matches!(walk, Walk::Straight);
        let from = |c: usize, p: usize| if source_channel_major { c * positions + p } else { p * channels + c };
        if channel_major {
            (0..channels).for_each(|c| (0..positions).for_each(|p| call(from(c, p), c, p)));
        } else {
            (0..positions).for_each(|p| (0..channels).for_each(|c| call(from(c, p), c, p)));
        }
    }

    fn permute(&self, bytes: &[u8], size: usize, out: &mut [u8]) {
        let mut slots = out.chunks_exact_mut(size);
        self.visit(Walk::Swapped, |from, _, _| {
            if let (Some(slot), Some(element)) = (slots.next(), bytes.get(from * size..(from + 1) * size)) {
                slot.copy_from_slice(element);
            }
        });
    }

    fn check_finite(&self, get: impl Fn(usize) -> f32 + Copy) -> Result<(), Rejection> {
        let finite = !self.native.dtype.is_float() || (0..self.elements()).all(|at| get(at).is_finite());
        if finite { Ok(()) } else { Err(self.not_finite(get, Walk::Straight)) }
    }

    fn elements(&self) -> usize {
        self.geometry.channels * self.geometry.positions
    }

    /// Names the first element, as it was sent, that does not fit.
    #[cold]
    fn not_finite(&self, get: impl Fn(usize) -> f32, walk: Walk) -> Rejection {
        let limit = limit(self.native.dtype);
        let mut found: Option<(usize, f32)> = None;
        self.visit(walk, |from, channel, position| {
            let fits = self.map.apply(get(from), channel, position).abs() < limit;
            if !fits && found.is_none_or(|(first, _)| from < first) {
                found = Some((from, get(from)));
            }
        });
        let (at, value) = found.unwrap_or_default();
        let message = format!("input {}: element {at} is {value}: expected a finite {}", self.declared, self.native.dtype);
        Rejection::new(Code::NotFinite, message)
    }
}
