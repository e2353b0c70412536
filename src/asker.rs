//! Who waits for an answer, and the answer as a message for them.

use crate::codec::{self, ErrorMessage, Format, Id, ResultMessage, encode};
use crate::mqtt::{Message, Topics};
use crate::rejection::Rejection;
use crate::request::Request;
use crate::source::Sample;
use jiff::Timestamp;
use serde::Serialize;
use std::sync::Arc;

/// Where an answer goes and what it echoes.
pub struct Asker {
    topic: String,
    correlation: Option<Vec<u8>>,
    format: Format,
    /// Name of the model that was asked for.
    pub model: String,
    /// The request's own id.
    pub id: Option<Id>,
    /// The sensor, for a sample.
    pub source: Option<Arc<str>>,
    /// The sample's number.
    pub sequence: Option<u64>,
}

impl Asker {
    /// The client behind a request. Its id is looked for only when an answer needs it: decoding finds it anyway.
    pub fn of_request(request: &Request) -> Asker {
        Asker {
            topic: request.reply_to.topic.clone(),
            correlation: request.reply_to.correlation.clone(),
            format: Format::of_reply(request.content_type.as_deref()),
            model: request.model.clone(),
            id: None,
            source: None,
            sequence: None,
        }
    }

    /// Everybody who listens to the results of `model`.
    pub fn of_sample(sample: &Sample, model: &str, topics: &Topics) -> Asker {
        let source = Some(sample.source.clone());
        let (topic, model, sequence) = (topics.result(model), model.to_string(), Some(sample.sequence));
        Asker { topic, correlation: None, format: Format::Json, model, id: None, source, sequence }
    }

    /// The result as a message.
    pub fn result(&self, result: &ResultMessage<'_>) -> Message {
        self.message(result)
    }

    /// The rejection as a message.
    pub fn error(&self, rejection: &Rejection) -> Message {
        let (id, source) = (self.id.as_ref(), self.source.as_deref());
        self.message(&ErrorMessage { id, time: Timestamp::now(), model: &self.model, source, error: rejection })
    }

    fn message<T: Serialize>(&self, body: &T) -> Message {
        let mut message = Message::new(self.topic.clone(), encode(body, self.format)).with_content_type(self.format.content_type());
        message.correlation = self.correlation.clone();
        message
    }
}

/// The error reply to a request that was not decoded: its id is echoed where it can be had cheaply.
pub fn refuse(request: &Request, rejection: &Rejection) -> Message {
    let mut asker = Asker::of_request(request);
    asker.id = codec::peek_id(&request.payload, request.content_type.as_deref());
    asker.error(rejection)
}
