//! Tensors in and out of a session, in the types that the model's author declared.

use super::model::{Model, Session};
use super::port::Port;
use crate::rejection::{Code, Rejection};
use crate::tensor::{Dtype, Tensor, TensorSpec, element_f32};
use half::f16;

/// Runs `model` once on one tensor for each input, in order, and returns the outputs as declared. Makes a session of its own: for
/// many inferences keep a session, and use [`write_input`] and [`read_output`].
pub fn infer_once(model: &Model, inputs: &[Tensor]) -> Result<Vec<Tensor>, Rejection> {
    let failed = |e: super::RunError| Rejection::new(Code::EngineFailed, e.0);
    if inputs.len() != model.inputs().len() {
        let message = format!("the model has {} inputs, {} tensors came", model.inputs().len(), inputs.len());
        return Err(Rejection::new(Code::WrongShape, message));
    }
    let mut session = model.session(1).map_err(failed)?;
    for (index, tensor) in inputs.iter().enumerate() {
        write_input(&mut session, index, tensor)?;
    }
    session.run().map_err(failed)?;
    Ok((0..model.outputs().len()).map(|index| read_output(&session, index)).collect())
}

/// Converts `tensor` into input `index` of the session. It may have the declared type; the native type, already quantized; or
/// `float32`, whose values must be integers in range where the declared type is one. Leading axes of length 1 may be missing.
/// Refuses NaN and infinities. Panics when there is no such input.
pub fn write_input(session: &mut Session, index: usize, tensor: &Tensor) -> Result<(), Rejection> {
    let model = session.model().clone();
    let port = &model.inputs()[index];
    check_shape(&port.declared, tensor.shape())?;
    convert(port, tensor, session.input_mut(index))
}

/// The declared form of output `index` of the last run. Panics when there is no such output.
pub fn read_output(session: &Session, index: usize) -> Tensor {
    let port = &session.model().outputs()[index];
    let spec = &port.declared;
    let native = session.output(index);
    let mut bytes = vec![0; spec.bytes()];
    match port.native.quant {
        Some(quant) if spec.dtype != port.native.dtype => {
            for (i, out) in bytes.chunks_exact_mut(spec.dtype.size()).enumerate() {
                put_float(spec.dtype, quant.dequantize(element_f32(port.native.dtype, native, i) as i32), out);
            }
        }
        _ => bytes.copy_from_slice(native),
    }
    Tensor::from_bytes(spec.dtype, spec.shape.clone(), bytes).expect("the bytes were counted from the shape")
}

fn check_shape(spec: &TensorSpec, shape: &[usize]) -> Result<(), Rejection> {
    let core = |shape: &[usize]| shape.iter().position(|&d| d != 1).unwrap_or(shape.len());
    if spec.shape[core(&spec.shape)..] == shape[core(shape)..] {
        return Ok(());
    }
    Err(Rejection::new(Code::WrongShape, format!("input `{}` has shape {:?}, found {shape:?}", spec.name, spec.shape)))
}

fn convert(port: &Port, tensor: &Tensor, native: &mut [u8]) -> Result<(), Rejection> {
    let name = &port.declared.name;
    match (tensor.dtype(), port.declared.dtype, port.native.dtype) {
        (found, declared, _) if found != declared && found != Dtype::Float32 && found != port.native.dtype => {
            Err(Rejection::new(Code::WrongDtype, format!("input `{name}` is {declared}, found {found}")))
        }
        (found, _, native_dtype) if found == native_dtype && !found.is_float() => {
            native.copy_from_slice(tensor.bytes());
            Ok(())
        }
        _ => from_real(port, tensor, native),
    }
}

/// Each value as a real number, into the native type.
fn from_real(port: &Port, tensor: &Tensor, native: &mut [u8]) -> Result<(), Rejection> {
    let dtype = port.native.dtype;
    let quantizes = port.declared.dtype.is_float();
    for (index, out) in native.chunks_exact_mut(dtype.size()).enumerate() {
        let real = element_f32(tensor.dtype(), tensor.bytes(), index);
        if !real.is_finite() {
            return Err(Rejection::new(Code::NotFinite, format!("input `{}` holds {real} at element {index}", port.declared.name)));
        }
        match port.native.quant {
            _ if dtype.is_float() => put_float(dtype, real, out),
            Some(quant) if quantizes => out[0] = quant.quantize(real, dtype) as u8,
            _ => put_integer(&port.declared, index, real, out)?,
        }
    }
    Ok(())
}

fn put_float(dtype: Dtype, value: f32, out: &mut [u8]) {
    match dtype {
        Dtype::Float16 => out.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        _ => out.copy_from_slice(&value.to_le_bytes()),
    }
}

fn put_integer(spec: &TensorSpec, index: usize, real: f32, out: &mut [u8]) -> Result<(), Rejection> {
    let (low, high) = spec.dtype.range();
    let value = f64::from(real);
    if value.fract() != 0.0 || !(low..=high).contains(&value) {
        let message = format!("input `{}` is {}, found {real} at element {index}", spec.name, spec.dtype);
        return Err(Rejection::new(Code::WrongDtype, message));
    }
    out.copy_from_slice(&(value as i64).to_le_bytes()[..spec.dtype.size()]);
    Ok(())
}
