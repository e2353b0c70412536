//! What a protobuf will cost once decoded, found by walking its bytes without decoding.
//!
//! Two bytes of an empty node become a struct of some hundred; a 64 MiB file made of them would take gigabytes.

/// Most bytes that a decoded message, string or list takes besides its content (`NodeProto`, `TensorProto` and their vectors).
const PER_FIELD: u64 = 256;

/// Bytes that a packed one-byte varint takes once decoded as the widest element, int64.
const PER_PACKED_BYTE: u64 = 8;

/// Nesting of messages followed; deeper content counts as one field. Decoding itself stops at 100.
const MAX_DEPTH: usize = 100;

/// Messages of onnx.proto that hold many others or much data.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    /// A value's type and shape, or an entry: what could be a message in it is taken for one.
    Small,
    /// Strings and raw data.
    Leaf,
    /// Packed numbers.
    Packed,
}

impl Kind {
    /// What stands in length-delimited field `field` (onnx.proto).
    fn inside(self, field: u64) -> Kind {
        match (self, field) {
            (Kind::Model, 7) | (Kind::Attribute, 6 | 11) => Kind::Graph,
            (Kind::Graph, 1) => Kind::Node,
            (Kind::Graph, 5) | (Kind::Attribute, 5 | 10) => Kind::Tensor,
            (Kind::Node, 5) => Kind::Attribute,
            (Kind::Attribute, 7 | 8) | (Kind::Tensor, 1 | 4 | 5 | 7 | 10 | 11) => Kind::Packed,
            (Kind::Node | Kind::Attribute | Kind::Tensor, _) => Kind::Leaf,
            _ => Kind::Small,
        }
    }
}

/// An upper estimate of the memory that decoding `bytes` as a `ModelProto` takes. Where they are no protobuf they cost what is
/// decoded before that shows.
pub fn decoded_bytes(bytes: &[u8]) -> u64 {
    message(bytes, Kind::Model, 0).0
}

/// The cost, and whether `bytes` is well-formed to its end.
fn message(mut bytes: &[u8], kind: Kind, depth: usize) -> (u64, bool) {
    let mut cost: u64 = 0;
    while !bytes.is_empty() {
        let Some((key, content)) = field(&mut bytes) else { return (cost, false) };
        // A number that is not packed becomes an element of up to 8 bytes, in a vector that may be twice as long.
        cost = cost.saturating_add(content.map_or(16, |content| PER_FIELD + content_bytes(kind.inside(key), content, depth + 1)));
    }
    (cost, true)
}

/// The next field's number, and its content where it is length-delimited.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let key = varint(bytes)?;
    let content = match key & 7 {
        0 => varint(bytes).map(|_| None)?,
        1 => split(bytes, 8).map(|_| None)?,
        2 => varint(bytes).and_then(|length| split(bytes, length)).map(Some)?,
        5 => split(bytes, 4).map(|_| None)?,
        _ => return None,
    };
    Some((key >> 3, content))
}

fn content_bytes(kind: Kind, content: &[u8], depth: usize) -> u64 {
    let length = content.len() as u64;
    match kind {
        Kind::Leaf => length,
        Kind::Packed => length.saturating_mul(PER_PACKED_BYTE),
        _ if depth >= MAX_DEPTH => length,
        _ => match message(content, kind, depth) {
            (cost, true) => cost.max(length),
            (cost, false) if kind == Kind::Small => cost.min(length),
            (cost, false) => cost,
        },
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7F) << (7 * at);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Some(value);
        }
    }
    None
}

fn split<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (content, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto};

    fn model(graph: GraphProto) -> Vec<u8> {
        ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
    }

    #[test]
    fn small_messages_count_for_what_they_become() {
        let bytes = model(GraphProto { node: vec![NodeProto::default(); 1000], ..GraphProto::default() });
        assert!(bytes.len() < 2100);
        let found = decoded_bytes(&bytes);
        assert!(found >= 1000 * size_of::<NodeProto>() as u64, "{found}");
    }

    #[test]
    fn raw_data_counts_once() {
        let weights = TensorProto { raw_data: vec![0; 1 << 20], ..TensorProto::default() };
        let found = decoded_bytes(&model(GraphProto { initializer: vec![weights], ..GraphProto::default() }));
        assert!((1 << 20..(1 << 20) + 4096).contains(&found), "{found}");
    }

    #[test]
    fn packed_numbers_count_decoded() {
        let shape = TensorProto { int64_data: vec![1; 1000], ..TensorProto::default() };
        let found = decoded_bytes(&model(GraphProto { initializer: vec![shape], ..GraphProto::default() }));
        assert!((8000..16000).contains(&found), "{found}");
    }

    #[test]
    fn garbage_costs_nothing_and_ends() {
        assert_eq!(decoded_bytes(&[0xFF; 100]), 0);
        assert_eq!(decoded_bytes(&[0x3A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]), 0);
        let deep = (0..200).fold(Vec::new(), |inner: Vec<u8>, _| [&[0x32, inner.len() as u8 & 0x7F][..], &inner].concat());
        assert!(decoded_bytes(&deep) < 100_000);
        assert_eq!(decoded_bytes(&[]), 0);
    }
}
