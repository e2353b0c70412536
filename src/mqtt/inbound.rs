//! From a message of the broker to a request.

use super::link::Inbound;
use super::message::Message;
use super::topics::{Topics, check_response};
use crate::config::value::Size;
use crate::rejection::{Code, Rejection};
use crate::request::{ReplyTo, Request, Ticket};
use std::time::{Duration, Instant};

/// An encoded answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub payload: Vec<u8>,
    /// Media type, sent with MQTT 5.
    pub content_type: Option<String>,
}

impl Reply {
    /// The message that takes the reply where the client wants it.
    pub fn message(self, to: &ReplyTo) -> Message {
        Message { content_type: self.content_type, correlation: to.correlation.clone(), ..Message::new(&to.topic, self.payload) }
    }
}

/// The part of the daemon that takes requests. Both methods are called on the MQTT thread and must not block.
pub trait Intake: Send + 'static {
    /// Takes the request, whose answer follows by its ticket (`None`), or answers it at once, for example as busy.
    fn request(&mut self, request: Request) -> Option<Reply>;

    /// Encodes the answer to a request that is refused before it gets that far. The payload is empty if it was too large.
    fn refuse(&mut self, request: &Request, rejection: &Rejection) -> Reply;
}

/// What a request is judged by.
#[derive(Clone, Debug)]
pub struct Rules {
    pub max_payload: Size,
    pub response_prefixes: Vec<String>,
    /// Prefix of the daemons' own topics.
    pub prefix: String,
}

/// Reads a message as a request for `model`; the second part says why it cannot be run.
pub fn request(
    inbound: Inbound,
    model: &str,
    ticket: Ticket,
    received: Instant,
    topics: &Topics,
    rules: &Rules,
) -> (Request, Option<Rejection>) {
    let bad_response = inbound.response_topic.as_ref().and_then(|t| check_response(t, &rules.response_prefixes, &rules.prefix).err());
    let problem = problem(&inbound, bad_response.as_deref(), rules);
    let topic = match inbound.response_topic {
        Some(topic) if bad_response.is_none() => topic,
        _ => topics.result(model),
    };
    let too_large = problem.as_ref().is_some_and(|p| p.code == Code::PayloadTooLarge);
    let request = Request {
        ticket,
        model: model.to_string(),
        content_type: inbound.content_type,
        payload: if too_large { Vec::new() } else { inbound.payload },
        reply_to: ReplyTo { topic, correlation: inbound.correlation },
        received,
        deadline: inbound.expiry.and_then(|expiry| received.checked_add(expiry)),
    };
    (request, problem)
}

fn problem(inbound: &Inbound, bad_response: Option<&str>, rules: &Rules) -> Option<Rejection> {
    let size = inbound.payload.len() as u64;
    if let Some(message) = bad_response {
        return Some(Rejection::new(Code::ResponseTopicRefused, message));
    }
    if size > rules.max_payload.0 {
        let message = format!("the payload has {size} bytes: mqtt.max_payload is {}", rules.max_payload);
        return Some(Rejection::new(Code::PayloadTooLarge, message));
    }
    if size == 0 {
        return Some(Rejection::new(Code::EmptyPayload, "the payload is empty: expected a request"));
    }
    if inbound.expiry == Some(Duration::ZERO) {
        return Some(Rejection::new(Code::Expired, "the message expiry is 0 s"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(inbound: Inbound) -> (Request, Option<Code>) {
        let topics = Topics::new("jouled", "pi").unwrap();
        let rules = Rules { max_payload: Size(10), response_prefixes: vec!["jouled".into()], prefix: "jouled".into() };
        let (request, problem) = request(inbound, "m", Ticket(1), Instant::now(), &topics, &rules);
        (request, problem.map(|p| p.code))
    }

    fn inbound(payload: &str) -> Inbound {
        Inbound { payload: payload.into(), ..Inbound::default() }
    }

    #[test]
    fn a_plain_request_is_answered_on_the_result_topic() {
        let (request, problem) = read(inbound("[1]"));
        assert_eq!((problem, request.reply_to.topic.as_str(), request.deadline), (None, "jouled/pi/model/m/result", None));
    }

    #[test]
    fn properties_are_carried_over() {
        let (request, problem) = read(Inbound {
            response_topic: Some("jouled/reply/1".into()),
            correlation: Some(vec![1, 2]),
            content_type: Some("image/png".into()),
            expiry: Some(Duration::from_secs(5)),
            ..inbound("x")
        });
        assert_eq!(problem, None);
        assert_eq!(request.reply_to, ReplyTo { topic: "jouled/reply/1".into(), correlation: Some(vec![1, 2]) });
        assert_eq!(request.content_type.as_deref(), Some("image/png"));
        assert_eq!(request.deadline, Some(request.received + Duration::from_secs(5)));
    }

    #[test]
    fn what_cannot_be_run_says_why() {
        let (request, problem) = read(inbound("01234567890"));
        assert_eq!((problem, request.payload.len()), (Some(Code::PayloadTooLarge), 0));
        assert_eq!(read(inbound("")).1, Some(Code::EmptyPayload));
        assert_eq!(read(Inbound { expiry: Some(Duration::ZERO), ..inbound("x") }).1, Some(Code::Expired));
        let (request, problem) = read(Inbound { response_topic: Some("jouled/#".into()), correlation: Some(vec![7]), ..inbound("x") });
        assert_eq!(problem, Some(Code::ResponseTopicRefused));
        assert_eq!(request.reply_to, ReplyTo { topic: "jouled/pi/model/m/result".into(), correlation: Some(vec![7]) });
    }
}
