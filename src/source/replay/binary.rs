//! NPY and raw numbers as a recording.

use super::text::numbered;
use super::{Decoded, Decoder, Item};
use crate::source::element::Element;
use crate::source::npy::Header;
use crate::tensor::{Dtype, Tensor};

/// Largest row or window, in bytes.
const MAX_ITEM: usize = 64 << 20;

pub struct Binary {
    /// As configured; may be empty for NPY.
    wanted: Vec<String>,
    /// A file with a header, from which the layout is read.
    npy: bool,
    layout: Option<Layout>,
}

struct Layout {
    element: Element,
    big: bool,
    /// Shape of a ready window; empty for rows.
    window: Vec<usize>,
    /// Names of the values of a row; empty for windows.
    names: Vec<String>,
    /// Bytes of a row or window, 1 or more.
    item: usize,
    /// Rows or windows still to come, where the header says it.
    left: Option<u64>,
}

impl Binary {
    pub fn npy(wanted: Vec<String>) -> Binary {
        Binary { wanted, npy: true, layout: None }
    }

    /// `names` is not empty.
    pub fn raw(element: Element, names: Vec<String>) -> Binary {
        let item = element.size() * names.len().max(1);
        let layout = Layout { element, big: false, window: Vec::new(), names, item, left: None };
        Binary { wanted: Vec::new(), npy: false, layout: Some(layout) }
    }

    fn header(&mut self, bytes: &[u8], last: bool) -> Result<Decoded, String> {
        match Header::parse(bytes)? {
            Some((header, length)) => {
                self.layout = Some(Layout::of(&header, &self.wanted)?);
                Ok(Decoded::Item(None, length))
            }
            None if last => Err(format!("ends inside its .npy header, after {} bytes", bytes.len())),
            None => Ok(Decoded::NeedMore(0)),
        }
    }
}

impl Layout {
    fn of(header: &Header, wanted: &[String]) -> Result<Layout, String> {
        let (element, big) = Element::from_descr(&header.descr)
            .ok_or_else(|| format!("holds {}: expected int, uint or float of up to 64 bits", header.descr))?;
        let shape: Vec<usize> = header.shape.iter().map(|d| usize::try_from(*d).unwrap_or(usize::MAX)).collect();
        if header.fortran && shape.len() > 1 {
            return Err("is in Fortran order: expected C order".into());
        }
        let [count, tail @ ..] = shape.as_slice() else { return Err("is a scalar: expected [rows, channels] or windows".into()) };
        let item = tail.iter().try_fold(element.size(), |n, d| n.checked_mul(*d)).unwrap_or(usize::MAX);
        if item == 0 || item > MAX_ITEM {
            return Err(format!("its shape is {shape:?}: expected 1 to {MAX_ITEM} bytes per index of axis 0"));
        }
        let rows = tail.len() < 2;
        let columns = tail.first().copied().unwrap_or(1);
        if rows && !wanted.is_empty() && wanted.len() != columns {
            return Err(format!("its shape is {shape:?}, while `channels` names {}", wanted.len()));
        }
        let names = match (rows, wanted) {
            (false, _) => Vec::new(),
            (true, []) => numbered(columns),
            (true, names) => names.to_vec(),
        };
        let window = if rows { Vec::new() } else { tail.to_vec() };
        Ok(Layout { element, big, window, names, item, left: Some(*count as u64) })
    }

    fn values<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = f32> + 'a {
        bytes.chunks_exact(self.element.size()).map(|b| self.element.to_f32(b, self.big))
    }

    fn window(&self, bytes: &[u8]) -> Result<Tensor, String> {
        let kept = self.element.dtype().filter(|_| !self.big || self.element.size() == 1);
        let (dtype, bytes) = match kept {
            Some(dtype) => (dtype, bytes.to_vec()),
            None => (Dtype::Float32, self.values(bytes).flat_map(f32::to_le_bytes).collect()),
        };
        Tensor::from_bytes(dtype, self.window.clone(), bytes).map_err(|e| e.to_string())
    }
}

impl Decoder for Binary {
    fn decode(&mut self, bytes: &[u8], last: bool, row: &mut Vec<f32>) -> Result<Decoded, String> {
        let Some(layout) = &mut self.layout else { return self.header(bytes, last) };
        if layout.left == Some(0) {
            return Ok(Decoded::End);
        }
        let Some(item) = bytes.get(..layout.item) else {
            return Ok(match bytes.len() {
                found if last && found > 0 => {
                    let expected = layout.item;
                    let complaint = format!("ends inside a row: expected {expected} bytes, found {found}");
                    Decoded::Item(Some(Item::Malformed(complaint)), found)
                }
                _ => Decoded::NeedMore(0),
            });
        };
        layout.left = layout.left.map(|left| left - 1);
        let decoded = if layout.window.is_empty() {
            row.extend(layout.values(item));
            Item::Row(None)
        } else {
            Item::Window(layout.window(item)?)
        };
        Ok(Decoded::Item(Some(decoded), layout.item))
    }

    fn channels(&self) -> &[String] {
        self.layout.as_ref().map_or(&[], |l| &l.names)
    }

    fn rewind(&mut self) {
        if self.npy {
            self.layout = None;
        }
    }
}
