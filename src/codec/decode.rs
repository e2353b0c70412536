//! From a payload to the inputs of a model.

use super::body::{Data, Members, Node, Values};
use super::content::{self, Content};
use super::input::{Id, Input};
use super::{cbor, image, json, raw};
use crate::config::problems::Checker;
use crate::config::value::Size;
use crate::engine::Port;
use crate::rejection::{Code, Rejection};
use crate::tensor::{Dtype, Tensor, TensorSpec};
use serde::{Deserialize, Serialize};

/// Bounds on what a payload may unpack to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecodeLimits {
    /// Largest image, in pixels; checked in its header. Default 16777216 (4096 x 4096), at least 1.
    pub max_image_pixels: u64,
    /// Largest decoded image; checked in its header. A progressive JPEG takes up to three times that while it is decoded. Default
    /// 64MiB, at least 1.
    pub max_image_memory: Size,
}

impl Default for DecodeLimits {
    fn default() -> DecodeLimits {
        DecodeLimits { max_image_pixels: 16_777_216, max_image_memory: Size::mib(64) }
    }
}

impl DecodeLimits {
    pub fn check(&self, at: &mut Checker) {
        at.expect(self.max_image_pixels > 0, "max_image_pixels", || "expected at least 1 pixel, found 0".into());
        at.expect(self.max_image_memory.0 > 0, "max_image_memory", || "expected at least 1 byte, found 0".into());
    }
}

/// A request, unpacked.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// To be echoed in the result.
    pub id: Option<Id>,
    /// One for each port, in the ports' order.
    pub inputs: Vec<Input>,
}

/// Payloads up to this many bytes are searched by [`peek_id`].
pub const PEEK_LIMIT: usize = 64 << 10;

/// Unpacks a request for a model with these input ports.
///
/// Without a content type the payload is an image if it begins like a JPEG or PNG, JSON if it begins with `{` or `[` and
/// parses, otherwise a raw tensor of the exact length. Shapes are compared with the model's only in pre-processing.
pub fn decode(payload: &[u8], content_type: Option<&str>, ports: &[Port], limits: &DecodeLimits) -> Result<Decoded, Rejection> {
    if payload.is_empty() {
        return Err(Rejection::new(Code::EmptyPayload, "the payload has no bytes"));
    }
    match content::parse(content_type)? {
        Some(Content::Json) => assemble(json::parse(payload)?, ports, limits),
        Some(Content::Cbor) => assemble(cbor::parse(payload)?, ports, limits),
        Some(Content::Raw) => raw_tensor(payload, ports),
        Some(Content::Image) => picture(payload, ports, limits),
        None if image::magic(payload).is_some() => picture(payload, ports, limits),
        None if json::looks_like(payload) => json_or_raw(payload, ports, limits),
        None => raw_tensor(payload, ports),
    }
}

/// The `id` of a request whose answer is an error, where it can be had cheaply: from JSON or CBOR of at most [`PEEK_LIMIT`] bytes.
pub fn peek_id(payload: &[u8], content_type: Option<&str>) -> Option<Id> {
    if payload.len() > PEEK_LIMIT {
        return None;
    }
    let id = match content::parse(content_type) {
        Ok(Some(Content::Cbor)) => cbor::peek_id(payload),
        Ok(Some(Content::Json)) | Ok(None) => json::peek_id(payload),
        _ => None,
    };
    id.filter(|id| check_id(id).is_ok())
}

fn json_or_raw(payload: &[u8], ports: &[Port], limits: &DecodeLimits) -> Result<Decoded, Rejection> {
    match json::parse(payload) {
        Ok(node) => assemble(node, ports, limits),
        Err(rejection) => raw_tensor(payload, ports).map_err(|_| rejection),
    }
}

fn raw_tensor(payload: &[u8], ports: &[Port]) -> Result<Decoded, Rejection> {
    let tensor = raw::decode(payload.to_vec(), &only(ports)?.declared)?;
    Ok(Decoded { id: None, inputs: vec![Input::Raw(tensor)] })
}

fn picture(payload: &[u8], ports: &[Port], limits: &DecodeLimits) -> Result<Decoded, Rejection> {
    only(ports)?;
    Ok(Decoded { id: None, inputs: vec![Input::Image(image::decode(payload, limits)?)] })
}

/// The input of a payload that holds one value.
fn only(ports: &[Port]) -> Result<&Port, Rejection> {
    match ports {
        [port] => Ok(port),
        _ => Err(Rejection::new(Code::WrongShape, format!("expected `inputs` with {}, found one value", names(ports)))),
    }
}

fn names(ports: &[Port]) -> String {
    let names: Vec<String> = ports.iter().map(|port| format!("`{}`", port.declared.name)).collect();
    names.join(", ")
}

fn assemble(node: Node, ports: &[Port], limits: &DecodeLimits) -> Result<Decoded, Rejection> {
    let mut members = match node {
        Node::Members(members) => *members,
        data => return Ok(Decoded { id: None, inputs: vec![value(data, &only(ports)?.declared, limits)?] }),
    };
    let id = members.id.take();
    id.as_ref().map_or(Ok(()), check_id)?;
    let inputs = match members.inputs.take() {
        Some(_) if members.data.is_some() || members.base64.is_some() => {
            return Err(malformed("expected `inputs` or one value, found both"));
        }
        Some(named) => named_values(named.0, ports, limits)?,
        None => vec![value(Node::Members(Box::new(members)), &only(ports)?.declared, limits)?],
    };
    Ok(Decoded { id, inputs })
}

fn check_id(id: &Id) -> Result<(), Rejection> {
    match id {
        Id::Text(text) if text.len() > Id::MAX_LEN => {
            Err(malformed(format!("`id` has {} bytes: expected at most {}", text.len(), Id::MAX_LEN)))
        }
        _ => Ok(()),
    }
}

fn named_values(mut named: Vec<(String, Node)>, ports: &[Port], limits: &DecodeLimits) -> Result<Vec<Input>, Rejection> {
    let mut inputs = Vec::with_capacity(ports.len());
    for port in ports {
        let at = named.iter().position(|(name, _)| *name == port.declared.name);
        let at = at.ok_or_else(|| Rejection::new(Code::WrongShape, format!("input `{}` is missing", port.declared.name)))?;
        inputs.push(value(named.swap_remove(at).1, &port.declared, limits)?);
    }
    match named.first() {
        None => Ok(inputs),
        Some((name, _)) => {
            let shown: String = name.chars().take(80).collect();
            Err(Rejection::new(Code::WrongShape, format!("`{shown}` is not an input of the model: expected {}", names(ports))))
        }
    }
}

/// One input's value.
fn value(node: Node, declared: &TensorSpec, limits: &DecodeLimits) -> Result<Input, Rejection> {
    let members = match node {
        Node::Data(data) => Members { id: None, inputs: None, data: Some(data), base64: None, dtype: None, shape: None },
        Node::Members(members) => *members,
    };
    if members.inputs.is_some() {
        return Err(malformed(format!("input `{}` holds `inputs` itself", declared.name)));
    }
    let Members { dtype, shape, .. } = members;
    if let Some(name) = &dtype {
        raw::check_dtype(name, declared)?;
    }
    let bytes = match (members.data, members.base64) {
        (Some(_), Some(_)) => return Err(malformed("expected `data` or `base64`, found both")),
        (None, None) => return Err(malformed(format!("input `{}`: expected `data` or `base64`, found neither", declared.name))),
        (Some(Data::Numbers(numbers)), None) => {
            let (values, nested) = numbers.finish()?;
            return from_numbers(values, shape.unwrap_or(nested), declared);
        }
        (Some(Data::Bytes(bytes)), None) => bytes,
        (None, Some(base64)) => base64.0,
    };
    if dtype.is_none() && shape.is_none() && image::magic(&bytes).is_some() {
        return image::decode(&bytes, limits).map(Input::Image);
    }
    let shape = shape.unwrap_or_else(|| declared.shape.clone());
    raw::with_shape(bytes, shape, declared).map(Input::Raw)
}

/// Numbers as they are, or as a tensor where `f32` could not hold the declared integers.
fn from_numbers(values: Values, shape: Vec<usize>, declared: &TensorSpec) -> Result<Input, Rejection> {
    let found = values.len();
    if found != declared.elements() {
        let message = format!("input {declared}: expected {} numbers, found {found}", declared.elements());
        return Err(Rejection::new(Code::WrongLength, message));
    }
    if shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(found) {
        return Err(Rejection::new(Code::WrongLength, format!("`shape` is {shape:?}, but there are {found} numbers")));
    }
    match (declared.dtype, values) {
        (Dtype::Int32 | Dtype::Int64, Values::Ints(values)) => integers(&values, shape, declared).map(Input::Raw),
        (Dtype::Int32 | Dtype::Int64, Values::Floats(_)) => {
            Err(Rejection::new(Code::WrongDtype, format!("input {declared}: expected integers, found numbers with a fraction")))
        }
        (_, values) => Ok(Input::Numbers { values: values.into_f32(), shape: Some(shape) }),
    }
}

fn integers(values: &[i64], shape: Vec<usize>, declared: &TensorSpec) -> Result<Tensor, Rejection> {
    let mut bytes = Vec::with_capacity(declared.bytes());
    for (at, &value) in values.iter().enumerate() {
        match (declared.dtype, i32::try_from(value)) {
            (Dtype::Int32, Ok(value)) => bytes.extend_from_slice(&value.to_le_bytes()),
            (Dtype::Int32, Err(_)) => {
                return Err(Rejection::new(Code::WrongDtype, format!("input {declared}: element {at} is {value}: expected an int32")));
            }
            _ => bytes.extend_from_slice(&value.to_le_bytes()),
        }
    }
    raw::with_shape(bytes, shape, declared)
}

fn malformed(message: impl Into<String>) -> Rejection {
    Rejection::new(Code::Malformed, message)
}

#[cfg(test)]
mod tests;
