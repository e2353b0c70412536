//! A message for the broker.

use bytes::Bytes;
use std::time::Duration;

/// What may be lost while the broker is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Every message counts; they stay in order.
    All,
    /// Only the newest on its topic counts: a newer one replaces one that still waits.
    Latest,
}

/// A message to publish at QoS 1. On MQTT 3.1.1 content type, correlation and expiry are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Bytes,
    /// Media type of the payload.
    pub content_type: Option<String>,
    /// Correlation data of the request that this answers.
    pub correlation: Option<Vec<u8>>,
    /// Worthless after so long, also to the broker. Time spent waiting here is taken off.
    pub expiry: Option<Duration>,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    pub keep: Keep,
}

impl Message {
    /// A message that is not retained, has no properties, and of which every one counts.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Message {
        Message {
            topic: topic.into(),
            payload: payload.into(),
            content_type: None,
            correlation: None,
            expiry: None,
            retain: false,
            keep: Keep::All,
        }
    }

    /// A message of which only the newest counts.
    pub fn latest(topic: impl Into<String>, payload: impl Into<Bytes>, retain: bool) -> Message {
        Message { retain, keep: Keep::Latest, ..Message::new(topic, payload) }
    }

    /// With the media type of the payload.
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Message {
        self.content_type = Some(content_type.into());
        self
    }

    /// An upper bound of the encoded packet, in bytes.
    pub fn packet_size(&self) -> usize {
        // Fixed header 5, topic length 2, packet id 2, property length 4, payload format 2, expiry 5, two properties with 3 each.
        const OVERHEAD: usize = 5 + 2 + 2 + 4 + 2 + 5 + 2 * 3;
        let properties = self.content_type.as_ref().map_or(0, String::len) + self.correlation.as_ref().map_or(0, Vec::len);
        OVERHEAD + self.topic.len() + properties + self.payload.len()
    }

    /// Whether the payload is text, as its content type says.
    pub fn is_text(&self) -> bool {
        self.content_type.as_deref().is_some_and(|t| t.starts_with("application/json") || t.starts_with("text/"))
    }
}
