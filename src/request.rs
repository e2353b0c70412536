//! A request for an inference, as it came from the broker, and where its answer goes.

use std::time::Instant;

/// Names one request to the MQTT side, which acknowledges it to the broker once its answer is safe. Unique in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A request whose payload is not decoded yet: decoding can be slow and belongs to the inference thread.
#[derive(Clone, Debug)]
pub struct Request {
    pub ticket: Ticket,
    /// Name of the model, from the topic.
    pub model: String,
    /// MQTT 5 content type.
    pub content_type: Option<String>,
    pub payload: Vec<u8>,
    pub reply_to: ReplyTo,
    pub received: Instant,
    /// From the MQTT 5 message expiry.
    pub deadline: Option<Instant>,
}

/// Where the answer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The request's response topic where it is allowed, otherwise the model's result topic.
    pub topic: String,
    /// MQTT 5 correlation data, echoed.
    pub correlation: Option<Vec<u8>>,
}
