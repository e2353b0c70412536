//! The members of a request in JSON or CBOR, read without a tree of values: numbers go straight into one vector.
//!
//! A request is an array of numbers, or a map with `id` and either `inputs` (a map from input name to value) or one value. A
//! value is `data` (numbers, nested or flat; in CBOR also a byte string) or `base64` (a raw tensor, a JPEG or a PNG), with
//! `dtype` and `shape` where they differ from the model's declared ones or are to be checked against them.

use super::input::Id;
use crate::rejection::{Code, Rejection};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Arrays nested deeper than this are refused: no model input has more dimensions.
const MAX_DEPTH: usize = 8;

/// More named inputs than this are refused.
const MAX_INPUTS: usize = 64;

const PADDING_OPTIONAL: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// A request, or one value in its `inputs`.
pub enum Node {
    Data(Data),
    Members(Box<Members>),
}

#[derive(Deserialize)]
pub struct Members {
    pub id: Option<Id>,
    pub inputs: Option<Named>,
    pub data: Option<Data>,
    pub base64: Option<Base64>,
    pub dtype: Option<String>,
    pub shape: Option<Vec<usize>>,
}

/// Only the `id` of a request that is a map; everything else is skipped.
pub struct OnlyId(pub Option<Id>);

pub enum Data {
    Numbers(Numbers),
    Bytes(Vec<u8>),
}

pub struct Named(pub Vec<(String, Node)>);

pub struct Base64(pub Vec<u8>);

/// Numbers in row-major order. They stay integers as long as every one is, so that large ones stay exact.
#[derive(Default)]
pub struct Numbers {
    pub values: Values,
    /// Length of each dimension, once a row of that depth has ended.
    dims: Vec<Option<usize>>,
    /// Depth of the first number; all others lie as deep.
    rank: Option<usize>,
    /// The first thing that is wrong; what follows is parsed but means nothing.
    flaw: Option<Rejection>,
}

#[derive(Debug, PartialEq)]
pub enum Values {
    Ints(Vec<i64>),
    Floats(Vec<f32>),
}

impl Default for Values {
    fn default() -> Values {
        Values::Ints(Vec::new())
    }
}

impl Values {
    pub fn len(&self) -> usize {
        match self {
            Values::Ints(v) => v.len(),
            Values::Floats(v) => v.len(),
        }
    }

    /// Every value rounded to the nearest `f32`.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Values::Ints(v) => v.into_iter().map(|n| n as f32).collect(),
            Values::Floats(v) => v,
        }
    }

    fn push_float(&mut self, value: f32) {
        if let Values::Ints(v) = self {
            *self = Values::Floats(v.iter().map(|&n| n as f32).collect());
        }
        if let Values::Floats(v) = self {
            v.push(value);
        }
    }

    fn push_int(&mut self, value: i64) {
        match self {
            Values::Ints(v) => v.push(value),
            Values::Floats(v) => v.push(value as f32),
        }
    }
}

impl Numbers {
    /// The values and their shape, or what is wrong with them.
    pub fn finish(self) -> Result<(Values, Vec<usize>), Rejection> {
        if let Some(flaw) = self.flaw {
            return Err(flaw);
        }
        let shape: Vec<usize> = self.dims.iter().map(|d| d.unwrap_or(0)).collect();
        match self.rank.is_some_and(|rank| rank != shape.len()) {
            true => Err(uneven()),
            false => Ok((self.values, shape)),
        }
    }

    fn flaw(&mut self, flaw: impl FnOnce(usize) -> Rejection) {
        if self.flaw.is_none() {
            self.flaw = Some(flaw(self.values.len()));
        }
    }

    fn float(&mut self, depth: usize, value: f64) {
        let narrow = value as f32;
        if !narrow.is_finite() {
            self.flaw(|at| Rejection::new(Code::NotFinite, format!("element {at} is {value}: expected a finite float32")));
        }
        self.values.push_float(narrow);
        self.leaf(depth);
    }

    fn int(&mut self, depth: usize, value: i64) {
        self.values.push_int(value);
        self.leaf(depth);
    }

    fn not_a_number(&mut self, code: Code, what: &str) {
        self.flaw(|at| Rejection::new(code, format!("element {at} is {what}: expected a number")));
    }

    fn leaf(&mut self, depth: usize) {
        if *self.rank.get_or_insert(depth) != depth {
            self.flaw(|_| uneven());
        }
    }

    fn close_row(&mut self, depth: usize, length: usize) {
        if self.dims.len() <= depth {
            self.dims.resize(depth + 1, None);
        }
        let expected = *self.dims[depth].get_or_insert(length);
        if expected != length {
            let message = format!("the arrays at depth {depth} have {expected} and {length} elements: expected equally long ones");
            self.flaw(|_| Rejection::new(Code::WrongShape, message));
        }
    }
}

fn uneven() -> Rejection {
    Rejection::new(Code::WrongShape, "numbers and arrays are mixed at one depth: expected arrays of equal shape")
}

/// Reads one number or row into the numbers; `depth` is that of the row's elements less one.
struct Row<'a> {
    numbers: &'a mut Numbers,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or an array of numbers")
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.numbers.float(self.depth, value);
        Ok(())
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.numbers.int(self.depth, value);
        Ok(())
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.numbers.int(self.depth, value),
            Err(_) => self.numbers.float(self.depth, value as f64),
        }
        Ok(())
    }
    fn visit_i128<E: de::Error>(self, value: i128) -> Result<(), E> {
        self.numbers.float(self.depth, value as f64);
        Ok(())
    }
    fn visit_u128<E: de::Error>(self, value: u128) -> Result<(), E> {
        self.numbers.float(self.depth, value as f64);
        Ok(())
    }
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.numbers.not_a_number(Code::NotFinite, "null");
        Ok(())
    }
    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.numbers.not_a_number(Code::WrongDtype, "a boolean");
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if self.depth >= MAX_DEPTH {
            return Err(de::Error::custom(format!("arrays are nested deeper than {MAX_DEPTH}")));
        }
        let mut length = 0;
        while seq.next_element_seed(Row { numbers: &mut *self.numbers, depth: self.depth + 1 })?.is_some() {
            length += 1;
        }
        self.numbers.close_row(self.depth, length);
        Ok(())
    }
}

/// Hands a visit of one number or array to [`Row`].
fn numbers<E>(read: impl FnOnce(Row<'_>) -> Result<(), E>) -> Result<Data, E> {
    let mut numbers = Numbers::default();
    read(Row { numbers: &mut numbers, depth: 0 })?;
    Ok(Data::Numbers(numbers))
}

struct DataVisitor;

impl<'de> Visitor<'de> for DataVisitor {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers, or a byte string")
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Data, E> {
        numbers(|row| row.visit_f64(value))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Data, E> {
        numbers(|row| row.visit_i64(value))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Data, E> {
        numbers(|row| row.visit_u64(value))
    }
    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Data, E> {
        Ok(Data::Bytes(bytes.to_vec()))
    }
    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Data, E> {
        Ok(Data::Bytes(bytes))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Data, A::Error> {
        numbers(|row| row.visit_seq(seq))
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Data, D::Error> {
        deserializer.deserialize_any(DataVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers, or an object with `data`, `base64` or `inputs`")
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        DataVisitor.visit_f64(value).map(Node::Data)
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        DataVisitor.visit_i64(value).map(Node::Data)
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        DataVisitor.visit_u64(value).map(Node::Data)
    }
    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Node, E> {
        DataVisitor.visit_bytes(bytes).map(Node::Data)
    }
    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Node, E> {
        DataVisitor.visit_byte_buf(bytes).map(Node::Data)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Node, A::Error> {
        DataVisitor.visit_seq(seq).map(Node::Data)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Node, A::Error> {
        Members::deserialize(de::value::MapAccessDeserializer::new(map)).map(|members| Node::Members(Box::new(members)))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NamedVisitor;

impl<'de> Visitor<'de> for NamedVisitor {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from input names to values")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named, A::Error> {
        let mut named: Vec<(String, Node)> = Vec::new();
        while let Some((name, node)) = map.next_entry::<String, Node>()? {
            if named.iter().any(|(known, _)| *known == name) {
                return Err(de::Error::custom(format!("input `{name}` is there twice")));
            }
            if named.len() == MAX_INPUTS {
                return Err(de::Error::custom(format!("expected at most {MAX_INPUTS} inputs")));
            }
            named.push((name, node));
        }
        Ok(Named(named))
    }
}

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Named, D::Error> {
        deserializer.deserialize_map(NamedVisitor)
    }
}

struct OnlyIdVisitor;

impl<'de> Visitor<'de> for OnlyIdVisitor {
    type Value = OnlyId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OnlyId, A::Error> {
        let mut id = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "id" {
                id = map.next_value::<Option<Id>>()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(OnlyId(id))
    }
}

impl<'de> Deserialize<'de> for OnlyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OnlyId, D::Error> {
        deserializer.deserialize_map(OnlyIdVisitor)
    }
}

struct Base64Visitor;

impl Visitor<'_> for Base64Visitor {
    type Value = Base64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a base64 string")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Base64, E> {
        PADDING_OPTIONAL.decode(text).map(Base64).map_err(|e| E::custom(format!("base64: {e}")))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Base64, D::Error> {
        // Not `deserialize_str`: for CBOR that is bounded by a small buffer.
        deserializer.deserialize_string(Base64Visitor)
    }
}
