//! `TensorProto`: element types, checked shapes, and values of constants.

use super::pb::TensorProto;
use super::pb::tensor_proto::{DataLocation, DataType};
use crate::tensor::Dtype;
use half::f16;

/// ONNX element types that cross the daemon's borders.
pub fn dtype(elem_type: i32) -> Option<Dtype> {
    Some(match DataType::try_from(elem_type).ok()? {
        DataType::Int8 => Dtype::Int8,
        DataType::Uint8 => Dtype::Uint8,
        DataType::Int32 => Dtype::Int32,
        DataType::Int64 => Dtype::Int64,
        DataType::Float16 => Dtype::Float16,
        DataType::Float => Dtype::Float32,
        _ => return None,
    })
}

/// The ONNX number of `dtype`.
pub fn elem_type(dtype: Dtype) -> i32 {
    let ty = match dtype {
        Dtype::Int8 => DataType::Int8,
        Dtype::Uint8 => DataType::Uint8,
        Dtype::Int32 => DataType::Int32,
        Dtype::Int64 => DataType::Int64,
        Dtype::Float16 => DataType::Float16,
        Dtype::Float32 => DataType::Float,
    };
    ty as i32
}

/// ONNX's own name of an element type, for messages.
pub fn type_name(elem_type: i32) -> String {
    match DataType::try_from(elem_type) {
        Ok(ty) => ty.as_str_name().to_lowercase(),
        Err(_) => format!("unknown element type {elem_type}"),
    }
}

/// Bytes of one element in `raw_data`; `None` for strings and types that no engine here loads.
pub fn element_size(elem_type: i32) -> Option<usize> {
    Some(match DataType::try_from(elem_type).ok()? {
        DataType::Bool | DataType::Int8 | DataType::Uint8 => 1,
        DataType::Int16 | DataType::Uint16 | DataType::Float16 => 2,
        DataType::Int32 | DataType::Uint32 | DataType::Float => 4,
        DataType::Int64 | DataType::Uint64 | DataType::Double => 8,
        _ => return None,
    })
}

/// True when the values lie in another file.
pub fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == Some(DataLocation::External as i32)
}

/// The largest dimension accepted: one less than 2^31, so that index arithmetic in any engine has room.
pub const MAX_DIM: i64 = i32::MAX as i64;

/// A shape as `usize`, its element count within 2^31: refuses negative and overflowing dimensions.
pub fn shape(dims: &[i64]) -> Result<Vec<usize>, String> {
    if let Some(bad) = dims.iter().find(|d| !(0..=MAX_DIM).contains(*d)) {
        return Err(format!("dimension {bad} of shape {dims:?} is outside 0..2^31"));
    }
    let elements = dims.iter().try_fold(1i64, |n, &d| n.checked_mul(d)).filter(|n| *n <= MAX_DIM);
    elements.ok_or_else(|| format!("shape {dims:?} has 2^31 elements or more"))?;
    Ok(dims.iter().map(|&d| d as usize).collect())
}

/// Checks that the tensor holds exactly the values that its shape and type ask for. Returns the element count.
pub fn check(tensor: &TensorProto) -> Result<usize, String> {
    let elements: usize = shape(&tensor.dims)?.iter().product();
    let size = element_size(tensor.data_type).ok_or_else(|| format!("element type {} is not supported", type_name(tensor.data_type)))?;
    if tensor.segment.is_some() {
        return Err("is stored in segments, which is not supported".to_string());
    }
    if is_external(tensor) {
        return Err("has external data, which only a model loaded from a file can have".to_string());
    }
    let (found, expected, unit) = match tensor.raw_data.len() {
        0 => (typed_len(tensor), elements, "values"),
        bytes => (bytes, elements * size, "bytes"),
    };
    if found != expected {
        return Err(format!("shape {:?} of {} needs {expected} {unit}, found {found}", tensor.dims, type_name(tensor.data_type)));
    }
    Ok(elements)
}

/// Number of values in the typed field that tract reads for this element type.
fn typed_len(tensor: &TensorProto) -> usize {
    match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float) => tensor.float_data.len(),
        Ok(DataType::Double) => tensor.double_data.len(),
        Ok(DataType::Int64 | DataType::Uint64) => tensor.int64_data.len(),
        _ => tensor.int32_data.len(),
    }
}

/// Every value as `f64`, exact for all types but 64-bit integers beyond 2^53. The tensor must have passed [`check`].
pub fn values(tensor: &TensorProto) -> Vec<f64> {
    let Ok(ty) = DataType::try_from(tensor.data_type) else { return Vec::new() };
    if tensor.raw_data.is_empty() {
        return typed_values(tensor, ty);
    }
    let raw = &tensor.raw_data[..];
    match ty {
        DataType::Bool | DataType::Uint8 => raw.iter().map(|&b| f64::from(b)).collect(),
        DataType::Int8 => raw.iter().map(|&b| f64::from(b as i8)).collect(),
        DataType::Int16 => words(raw, |b| i16::from_le_bytes(b).into()),
        DataType::Uint16 => words(raw, |b| u16::from_le_bytes(b).into()),
        DataType::Float16 => words(raw, |b| f16::from_le_bytes(b).into()),
        DataType::Int32 => words(raw, |b| i32::from_le_bytes(b).into()),
        DataType::Uint32 => words(raw, |b| u32::from_le_bytes(b).into()),
        DataType::Float => words(raw, |b| f32::from_le_bytes(b).into()),
        DataType::Double => words(raw, f64::from_le_bytes),
        DataType::Int64 => words(raw, |b| i64::from_le_bytes(b) as f64),
        DataType::Uint64 => words(raw, |b| u64::from_le_bytes(b) as f64),
        _ => Vec::new(),
    }
}

fn words<const N: usize>(raw: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    raw.as_chunks::<N>().0.iter().map(|&b| value(b)).collect()
}

fn typed_values(tensor: &TensorProto, ty: DataType) -> Vec<f64> {
    let ints = || tensor.int32_data.iter();
    match ty {
        DataType::Float => tensor.float_data.iter().map(|&v| v.into()).collect(),
        DataType::Double => tensor.double_data.clone(),
        DataType::Int64 | DataType::Uint64 => tensor.int64_data.iter().map(|&v| v as f64).collect(),
        DataType::Float16 => ints().map(|&v| f16::from_bits(v as u16).into()).collect(),
        // tract narrows the same way, so both see the same value.
        DataType::Int8 => ints().map(|&v| f64::from(v as i8)).collect(),
        DataType::Uint8 => ints().map(|&v| f64::from(v as u8)).collect(),
        _ => ints().map(|&v| v.into()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(data_type: DataType, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
        TensorProto { data_type: data_type as i32, dims: dims.to_vec(), raw_data, ..TensorProto::default() }
    }

    #[test]
    fn shapes_that_no_engine_can_index_are_refused() {
        assert_eq!(shape(&[2, 0, 3]), Ok(vec![2, 0, 3]));
        assert!(shape(&[-1]).unwrap_err().contains("-1"));
        assert!(shape(&[1 << 31]).unwrap_err().contains("2^31"));
        assert!(shape(&[1 << 30, 1 << 30, 1 << 30]).unwrap_err().contains("2^31 elements"));
    }

    #[test]
    fn a_tensor_must_fill_its_shape() {
        assert_eq!(check(&raw(DataType::Int16, &[2], vec![0; 4])), Ok(2));
        assert!(check(&raw(DataType::Int16, &[2], vec![0; 5])).unwrap_err().contains("needs 4 bytes, found 5"));
        assert!(check(&raw(DataType::Float, &[2], vec![])).unwrap_err().contains("needs 2 values, found 0"));
        assert!(check(&raw(DataType::Bfloat16, &[1], vec![0, 0])).unwrap_err().contains("bfloat16"));
    }

    #[test]
    fn values_read_the_same_from_both_forms() {
        assert_eq!(values(&raw(DataType::Int8, &[2], vec![0xFF, 3])), [-1.0, 3.0]);
        let typed = TensorProto { int32_data: vec![-1, 3], ..raw(DataType::Int8, &[2], vec![]) };
        assert_eq!(values(&typed), [-1.0, 3.0]);
        assert_eq!(values(&raw(DataType::Float16, &[1], f16::from_f32(0.5).to_le_bytes().to_vec())), [0.5]);
    }
}
