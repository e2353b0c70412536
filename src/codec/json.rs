//! Requests in JSON.

use super::body::{Node, OnlyId};
use super::input::Id;
use crate::rejection::{Code, Rejection};

/// Reads one JSON request; the error names line and column.
pub fn parse(payload: &[u8]) -> Result<Node, Rejection> {
    serde_json::from_slice(payload).map_err(|e| {
        let text = e.to_string();
        let code = if text.starts_with("number out of range") { Code::NotFinite } else { Code::Malformed };
        Rejection::new(code, format!("JSON: {text}"))
    })
}

/// True where the payload begins as a JSON object or array does.
pub fn looks_like(payload: &[u8]) -> bool {
    matches!(payload.trim_ascii_start().first(), Some(b'{' | b'['))
}

pub fn peek_id(payload: &[u8]) -> Option<Id> {
    serde_json::from_slice::<OnlyId>(payload).ok()?.0
}
