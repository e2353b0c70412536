//! NumPy's `.npy` format, version 1 to 3 (numpy/lib/format.py): a magic number, a length, a Python dictionary as text, the elements.

use super::{TensorFileError, wrong};
use crate::config::value::Size;
use crate::tensor::{Dtype, Tensor};
use std::io::{self, Read, Write};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Longest header text accepted; NumPy pads it to a multiple of 64 and rarely needs more than 128.
const MAX_HEADER: u32 = 4096;

/// Turns little-endian bytes of the file's type into those of the tensor's.
type Convert = fn(&[u8], &mut Vec<u8>);

/// How the file stores one element, and what it becomes.
#[derive(Clone, Copy, Debug)]
struct Element {
    size: usize,
    big_endian: bool,
    dtype: Dtype,
    convert: Convert,
}

#[derive(Debug)]
struct Header {
    element: Element,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// Reads one array. `float64` becomes `float32`; 16-bit integers become `int32`, `uint32` becomes `int64`, booleans `uint8`.
/// Refuses other types, arrays over `limit` bytes and files that end early.
pub fn read_npy(mut reader: impl Read, limit: Size) -> Result<Tensor, TensorFileError> {
    let header = read_header(&mut reader)?;
    let bytes = elements(&header.shape).and_then(|n| n.checked_mul(header.element.size));
    let bytes = match bytes {
        Some(bytes) if bytes as u64 <= limit.0 => bytes,
        _ => return wrong(format!("shape {:?} needs more than {limit}", header.shape)),
    };
    let mut data = Vec::new();
    reader.take(bytes as u64).read_to_end(&mut data).map_err(|e| TensorFileError(e.to_string()))?;
    if data.len() != bytes {
        return wrong(format!("shape {:?} needs {bytes} bytes of data, found {}", header.shape, data.len()));
    }
    decode(&header, data)
}

/// Writes `tensor` as version 1.0 in C order.
pub fn write_npy(tensor: &Tensor, mut writer: impl Write) -> io::Result<()> {
    let descr = tensor.dtype().npy_descr();
    let axes: String = tensor.shape().iter().map(|d| format!("{d}, ")).collect();
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", axes.trim_end());
    // The text ends in a newline, and the elements begin at a multiple of 64.
    let padding = (64 - (MAGIC.len() + 4 + text.len() + 1) % 64) % 64;
    text.push_str(&" ".repeat(padding));
    text.push('\n');
    let length = u16::try_from(text.len()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too many axes for a header"))?;
    writer.write_all(MAGIC)?;
    writer.write_all(&[1, 0])?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(text.as_bytes())?;
    writer.write_all(tensor.bytes())
}

fn read_header(reader: &mut impl Read) -> Result<Header, TensorFileError> {
    let start = take::<8>(reader)?;
    if &start[..6] != MAGIC {
        return wrong("is not an .npy file");
    }
    let length = match start[6] {
        1 => u32::from(u16::from_le_bytes(take(reader)?)),
        2 | 3 => u32::from_le_bytes(take(reader)?),
        version => return wrong(format!("has .npy version {version}, expected 1 to 3")),
    };
    if length > MAX_HEADER {
        return wrong(format!("has a header of {length} bytes, expected at most {MAX_HEADER}"));
    }
    let mut text = vec![0; length as usize];
    reader.read_exact(&mut text).map_err(|_| TensorFileError("ends within the header".to_string()))?;
    let text = String::from_utf8_lossy(&text);
    parse(&text).ok_or_else(|| TensorFileError(format!("has a header that does not parse: {}", text.trim())))?
}

fn take<const N: usize>(reader: &mut impl Read) -> Result<[u8; N], TensorFileError> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).map_err(|_| TensorFileError("ends within the header".to_string()))?;
    Ok(bytes)
}

/// `None` for text that is not the dictionary NumPy writes; an error for one that describes what is not read.
fn parse(text: &str) -> Option<Result<Header, TensorFileError>> {
    let after = |key: &str| text.split_once(&format!("'{key}'"))?.1.trim_start().strip_prefix(':').map(str::trim_start);
    let descr = after("descr")?;
    if descr.starts_with('[') {
        return Some(wrong("holds records, expected plain numbers"));
    }
    let descr = descr.strip_prefix('\'')?.split_once('\'')?.0;
    let order = after("fortran_order")?;
    let fortran_order = order.starts_with("True");
    if !fortran_order && !order.starts_with("False") {
        return None;
    }
    let axes = after("shape")?.strip_prefix('(')?.split_once(')')?.0;
    let axes = axes.split(',').map(str::trim).filter(|axis| !axis.is_empty());
    let shape = axes.map(|axis| axis.parse().ok()).collect::<Option<Vec<usize>>>()?;
    let Some(element) = element(descr) else { return Some(wrong(format!("holds elements of type {descr}, which is not supported"))) };
    Some(Ok(Header { element, fortran_order, shape }))
}

fn element(descr: &str) -> Option<Element> {
    let order = descr.chars().next().filter(|c| matches!(c, '<' | '>' | '|' | '='))?;
    fn same(from: &[u8], to: &mut Vec<u8>) {
        to.extend_from_slice(from);
    }
    let (size, dtype, convert): (usize, Dtype, Convert) = match &descr[1..] {
        "i1" => (1, Dtype::Int8, same),
        "u1" | "b1" => (1, Dtype::Uint8, same),
        "i4" => (4, Dtype::Int32, same),
        "i8" => (8, Dtype::Int64, same),
        "f2" => (2, Dtype::Float16, same),
        "f4" => (4, Dtype::Float32, same),
        "f8" => (8, Dtype::Float32, |from, to| words(from, to, |b| (f64::from_le_bytes(b) as f32).to_le_bytes())),
        "i2" => (2, Dtype::Int32, |from, to| words(from, to, |b| i32::from(i16::from_le_bytes(b)).to_le_bytes())),
        "u2" => (2, Dtype::Int32, |from, to| words(from, to, |b| i32::from(u16::from_le_bytes(b)).to_le_bytes())),
        "u4" => (4, Dtype::Int64, |from, to| words(from, to, |b| i64::from(u32::from_le_bytes(b)).to_le_bytes())),
        _ => return None,
    };
    Some(Element { size, big_endian: order == '>', dtype, convert })
}

fn words<const N: usize, const M: usize>(from: &[u8], to: &mut Vec<u8>, convert: impl Fn([u8; N]) -> [u8; M]) {
    from.as_chunks::<N>().0.iter().for_each(|&word| to.extend_from_slice(&convert(word)));
}

fn decode(header: &Header, mut data: Vec<u8>) -> Result<Tensor, TensorFileError> {
    let element = header.element;
    if element.big_endian {
        data.chunks_exact_mut(element.size).for_each(<[u8]>::reverse);
    }
    if header.fortran_order {
        data = to_c_order(&header.shape, element.size, &data);
    }
    let mut bytes = Vec::with_capacity(data.len());
    (element.convert)(&data, &mut bytes);
    Tensor::from_bytes(element.dtype, header.shape.clone(), bytes).map_err(|e| TensorFileError(e.to_string()))
}

/// Reorders elements from first-axis-fastest to last-axis-fastest.
fn to_c_order(shape: &[usize], size: usize, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut at = vec![0; shape.len()];
    for _ in 0..data.len() / size {
        let offset = at.iter().zip(shape).rev().fold(0, |offset, (&i, &d)| offset * d + i);
        out.extend_from_slice(&data[offset * size..][..size]);
        for axis in (0..shape.len()).rev() {
            at[axis] += 1;
            if at[axis] < shape[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
    out
}

fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file as NumPy writes it.
    fn file(descr: &str, fortran_order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let text = format!("{{'descr': '{descr}', 'fortran_order': {fortran_order}, 'shape': {shape}, }}\n");
        [MAGIC, &[1, 0][..], &(text.len() as u16).to_le_bytes(), text.as_bytes(), data].concat()
    }

    fn read(bytes: &[u8]) -> Result<Tensor, TensorFileError> {
        read_npy(bytes, Size::kib(1))
    }

    #[test]
    fn reads_what_numpy_writes() {
        let t = read(&file("<f8", "False", "(2, 1)", &[1.5f64.to_le_bytes(), (-2f64).to_le_bytes()].concat())).unwrap();
        assert_eq!((t.dtype(), t.shape(), t.to_f32()), (Dtype::Float32, &[2, 1][..], vec![1.5, -2.0]));
        let t = read(&file(">i2", "False", "(2,)", &[0xFF, 0xFE, 0, 7])).unwrap();
        assert_eq!((t.dtype(), t.to_f32()), (Dtype::Int32, vec![-2.0, 7.0]));
        let t = read(&file("|u1", "True", "(2, 3)", &[1, 4, 2, 5, 3, 6])).unwrap();
        assert_eq!(t.to_f32(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(read(&file("<f4", "False", "()", &1f32.to_le_bytes())).unwrap().shape(), [0usize; 0]);
    }

    #[test]
    fn refuses_what_it_cannot_hold() {
        let why = |bytes: &[u8]| read(bytes).unwrap_err().0;
        assert!(why(b"PK").contains("header"));
        assert!(why(&file("<U3", "False", "(1,)", &[])).contains("<U3"));
        assert!(why(&file("é", "False", "(1,)", &[])).contains('é'));
        assert!(why(&file("<f4", "False", "(2,)", &[0; 7])).contains("needs 8 bytes of data, found 7"));
        assert!(why(&file("<f4", "False", &format!("({0}, {0}, {0})", usize::MAX), &[])).contains("more than 1KiB"));
        assert!(why(&file("<f4", "False", "(-1,)", &[])).contains("does not parse"));
        assert!(why(&[MAGIC, &[2, 0, 255, 255, 255, 255][..]].concat()).contains("4294967295 bytes"));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(dims in prop::collection::vec(0usize..4, 0..5), seed: u8, kind in 0usize..6) {
            let dtype = [Dtype::Int8, Dtype::Uint8, Dtype::Int32, Dtype::Int64, Dtype::Float16, Dtype::Float32][kind];
            let length = dims.iter().product::<usize>() * dtype.size();
            let bytes = (0..length).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
            let tensor = Tensor::from_bytes(dtype, dims, bytes).unwrap();
            let mut file = Vec::new();
            write_npy(&tensor, &mut file).unwrap();
            prop_assert_eq!((file.len() - tensor.bytes().len()) % 64, 0);
            prop_assert_eq!(read_npy(&file[..], Size::mib(1)).unwrap(), tensor);
        }

        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), flips in prop::collection::vec((0usize..90, any::<u8>()), 0..4)) {
            let _ = read(&bytes);
            bytes.truncate(24);
            let mut damaged = file("<f4", "False", "(2, 3)", &bytes);
            for (at, byte) in flips {
                if let Some(b) = damaged.get_mut(at) {
                    *b = byte;
                }
            }
            let _ = read(&damaged);
        }
    }
}
