//! Raw tensors: row-major little-endian bytes of exact length.

use crate::rejection::{Code, Rejection};
use crate::tensor::{Dtype, Tensor, TensorSpec};

/// Takes `bytes` as a tensor of the declared dtype and shape.
pub fn decode(bytes: Vec<u8>, declared: &TensorSpec) -> Result<Tensor, Rejection> {
    with_shape(bytes, declared.shape.clone(), declared)
}

/// Takes `bytes` as a tensor of `shape`, where the sender gave one, and of the declared dtype.
pub fn with_shape(bytes: Vec<u8>, shape: Vec<usize>, declared: &TensorSpec) -> Result<Tensor, Rejection> {
    Tensor::from_bytes(declared.dtype, shape, bytes)
        .map_err(|wrong| Rejection::new(Code::WrongLength, format!("input {declared} as a raw tensor: {wrong}")))
}

/// Refuses a dtype, as the sender names it, that is not the declared one.
pub fn check_dtype(name: &str, declared: &TensorSpec) -> Result<(), Rejection> {
    let deserializer = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name);
    let dtype = <Dtype as serde::Deserialize>::deserialize(deserializer).ok();
    match dtype == Some(declared.dtype) {
        true => Ok(()),
        false => {
            let shown: String = name.chars().take(40).collect();
            Err(Rejection::new(Code::WrongDtype, format!("input {declared}: expected {}, found `{shown}`", declared.dtype)))
        }
    }
}
