//! Requests in CBOR (RFC 8949): the members of a JSON request, byte strings for raw tensors and images.

use super::body::{Node, OnlyId};
use super::input::Id;
use crate::rejection::{Code, Rejection};
use ciborium::de::{Error, from_reader_with_recursion_limit};
use serde::de::DeserializeOwned;

/// Maps and arrays nested deeper than this are refused.
const MAX_DEPTH: usize = 32;

/// Reads one CBOR request; nothing may follow it.
pub fn parse(payload: &[u8]) -> Result<Node, Rejection> {
    let mut rest = payload;
    let node = read(&mut rest).map_err(|e| malformed(describe(e, payload.len())))?;
    match rest.is_empty() {
        true => Ok(node),
        false => Err(malformed(format!("{} bytes follow the first item", rest.len()))),
    }
}

pub fn peek_id(payload: &[u8]) -> Option<Id> {
    read::<OnlyId>(&mut &payload[..]).ok()?.0
}

fn read<T: DeserializeOwned>(rest: &mut &[u8]) -> Result<T, Error<std::io::Error>> {
    from_reader_with_recursion_limit(rest, MAX_DEPTH)
}

fn malformed(what: String) -> Rejection {
    Rejection::new(Code::Malformed, format!("CBOR: {what}"))
}

fn describe(error: Error<std::io::Error>, length: usize) -> String {
    match error {
        Error::Io(_) => format!("it ends in the middle of an item, after {length} bytes"),
        Error::Syntax(at) => format!("syntax error at byte {at}"),
        Error::Semantic(Some(at), what) => format!("{what} at byte {at}"),
        Error::Semantic(None, what) => what,
        Error::RecursionLimitExceeded => format!("nested deeper than {MAX_DEPTH}"),
    }
}
