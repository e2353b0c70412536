//! Why a request or a sample got no answer: a stable code for programs, a sentence for people.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Stable codes; part of the public interface. New ones may come, none changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The payload has no bytes.
    EmptyPayload,
    /// The payload is larger than `mqtt.max_payload`.
    PayloadTooLarge,
    /// The content type is not one that the daemon reads.
    UnknownContentType,
    /// JSON or CBOR that does not parse, or lacks the members that a request has.
    Malformed,
    /// The number of bytes or elements does not fill the model's input.
    WrongLength,
    /// The element type is not the model's.
    WrongDtype,
    /// The shape is not the model's, or an input is missing or not one of the model's.
    WrongShape,
    /// A value is NaN or infinite.
    NotFinite,
    /// A JPEG or PNG that does not decode, or a model whose input is no image.
    BadImage,
    /// An image whose decoded size is over the limit.
    ImageTooLarge,
    /// No model of that name is configured.
    UnknownModel,
    /// The request's message expiry passed before it could run.
    Expired,
    /// The queue is full.
    Busy,
    /// The response topic holds wildcards or is not below an allowed prefix.
    ResponseTopicRefused,
    /// The engine failed on this input.
    EngineFailed,
    /// The result is larger than the broker takes.
    ResultTooLarge,
    /// The daemon is stopping.
    ShuttingDown,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // serde's name is the one source of the spelling.
        self.serialize(f)
    }
}

/// A refusal: `message` says what was expected and what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub code: Code,
    pub message: String,
}

impl Rejection {
    pub fn new(code: Code, message: impl Into<String>) -> Rejection {
        Rejection { code, message: message.into() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Rejection {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_print_as_they_are_sent() {
        assert_eq!(Code::ResponseTopicRefused.to_string(), "response_topic_refused");
        assert_eq!(serde_json::to_string(&Code::Busy).unwrap(), "\"busy\"");
    }
}
