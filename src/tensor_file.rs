//! Tensors in files: `.npy`, `.csv`, `.json` and raw bytes. Every file is untrusted: sizes are checked against a limit before memory
//! is taken, and nothing that a header says is believed beyond what the file holds.

mod npy;
mod text;

pub use npy::{read_npy, write_npy};
pub use text::{read_csv, read_json};

use crate::config::value::Size;
use crate::tensor::{Tensor, TensorSpec};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Why a file gave no tensor. [`read`] puts the path before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFileError(pub String);

impl fmt::Display for TensorFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TensorFileError {}

fn wrong<T>(why: impl Into<String>) -> Result<T, TensorFileError> {
    Err(TensorFileError(why.into()))
}

/// Reads the file at `path` by its extension: `.npy` (its own type and shape), `.csv` and `.json` (`float32`), anything else as
/// raw bytes that must fill `spec`. Flat numbers take the shape of `spec` where their count fits. At most `limit` bytes are read.
pub fn read(path: &Path, spec: &TensorSpec, limit: Size) -> Result<Tensor, TensorFileError> {
    read_by_extension(path, spec, limit).map_err(|e| TensorFileError(format!("{}: {e}", path.display())))
}

fn read_by_extension(path: &Path, spec: &TensorSpec, limit: Size) -> Result<Tensor, TensorFileError> {
    let file = File::open(path).map_err(|e| TensorFileError(e.to_string()))?;
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    match extension.as_deref() {
        Some("npy") => read_npy(file, limit),
        Some("csv") => Ok(shaped_as(read_csv(&read_text(file, limit)?)?, spec)),
        Some("json") => Ok(shaped_as(read_json(&read_text(file, limit)?)?, spec)),
        _ => read_raw(&read_all(file, limit)?, spec),
    }
}

/// Takes raw bytes, row-major and little-endian, as `spec` describes them.
pub fn read_raw(bytes: &[u8], spec: &TensorSpec) -> Result<Tensor, TensorFileError> {
    let tensor = Tensor::from_bytes(spec.dtype, spec.shape.clone(), bytes.to_vec());
    tensor.map_err(|e| TensorFileError(format!("raw bytes for {spec}: {e}")))
}

/// Gives a tensor the shape of `spec` where it has as many elements; text formats cannot tell `[1, 64]` from `[1, 1, 8, 8]`.
fn shaped_as(tensor: Tensor, spec: &TensorSpec) -> Tensor {
    if tensor.elements() != spec.elements() {
        return tensor;
    }
    Tensor::from_bytes(tensor.dtype(), spec.shape.clone(), tensor.bytes().to_vec()).unwrap_or(tensor)
}

fn read_all(reader: impl Read, limit: Size) -> Result<Vec<u8>, TensorFileError> {
    let mut bytes = Vec::new();
    let mut reader = reader.take(limit.0.saturating_add(1));
    reader.read_to_end(&mut bytes).map_err(|e| TensorFileError(e.to_string()))?;
    if bytes.len() as u64 > limit.0 {
        return wrong(format!("has more than {limit}"));
    }
    Ok(bytes)
}

fn read_text(reader: impl Read, limit: Size) -> Result<String, TensorFileError> {
    String::from_utf8(read_all(reader, limit)?).map_err(|e| TensorFileError(format!("is not UTF-8 text: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Dtype;

    fn spec(dtype: Dtype, shape: &[usize]) -> TensorSpec {
        TensorSpec { name: "x".to_string(), dtype, shape: shape.to_vec(), quant: None }
    }

    #[test]
    fn the_extension_decides_and_flat_numbers_take_the_model_s_shape() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            read(&path, &spec(Dtype::Int8, &[1, 2, 2]), Size::kib(1))
        };
        assert_eq!(at("x.csv", b"1,2\n3,4\n").unwrap(), Tensor::from_f32(vec![1, 2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap());
        assert_eq!(at("x.JSON", b"[1, 2, 3]").unwrap().shape(), [3]);
        assert_eq!(at("x.bin", &[1, 2, 3, 255]).unwrap().to_f32(), [1.0, 2.0, 3.0, -1.0]);
        let short = at("y.bin", &[1]).unwrap_err().0;
        assert!(short.contains("y.bin") && short.contains("expected 4 bytes, found 1"), "{short}");
        assert!(at("z.csv", &[b' '; 2000]).unwrap_err().0.contains("more than 1KiB"));
        assert!(read(&folder.path().join("none"), &spec(Dtype::Int8, &[1]), Size::kib(1)).is_err());
    }
}
