//! The MQTT side as the daemon runs it, with a model that answers with the request's own bytes.

use jouled::config::value::Span;
use jouled::mqtt::{self, Config, Handle, Intake, Message, Reply};
use jouled::rejection::Rejection;
use jouled::request::Request;
use std::sync::mpsc::{Receiver, Sender, channel};

pub const NODE: &str = "pi";

/// Short waits, the rest as by default.
pub fn config(port: u16) -> Config {
    Config {
        host: "127.0.0.1".into(),
        port: Some(port),
        client_id: Some("jouled-test".into()),
        backoff_min: Span::millis(10),
        backoff_max: Span::millis(100),
        connect_timeout: Span::secs(1),
        ..Config::default()
    }
}

/// Passes requests on; refusals are their code.
struct Pass(Sender<Request>);

impl Intake for Pass {
    fn request(&mut self, request: Request) -> Option<Reply> {
        if request.payload == b"panic" {
            panic!("a request that the intake cannot take");
        }
        if request.payload == b"busy" {
            return Some(Reply { payload: b"busy!".to_vec(), content_type: None });
        }
        self.0.send(request).unwrap();
        None
    }

    fn refuse(&mut self, _: &Request, rejection: &Rejection) -> Reply {
        Reply { payload: rejection.code.to_string().into_bytes(), content_type: Some("text/plain".into()) }
    }
}

/// A running MQTT side whose requests the test answers by hand.
pub fn manual(config: Config) -> (Handle, Receiver<Request>) {
    let (sender, requests) = channel();
    let handle = mqtt::start(config, NODE, b"{\"node\":\"pi\"}".to_vec(), Pass(sender)).unwrap();
    (handle, requests)
}

/// A running MQTT side that answers every request with its payload.
pub fn echo(config: Config) -> Handle {
    let (handle, requests) = manual(config);
    let answering = handle.clone();
    std::thread::spawn(move || {
        for request in requests {
            answer(&answering, &request);
        }
    });
    handle
}

pub fn answer(handle: &Handle, request: &Request) {
    let message = Message {
        correlation: request.reply_to.correlation.clone(),
        content_type: request.content_type.clone(),
        ..Message::new(&request.reply_to.topic, request.payload.clone())
    };
    handle.answer(request.ticket, message).unwrap();
}
