//! One connection to the broker, in either protocol version, behind one set of events.
//!
//! A link lives for one connection only: what rumqttc remembers of a connection (packet numbers, collisions, requests not
//! taken yet) dies with it, and everything that must survive is kept by us.

mod v4;
mod v5;

use super::config::{Config, Version};
use super::message::Message;
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::Duration;

/// All that a connection needs to know.
pub struct Settings<'a> {
    pub config: &'a Config,
    pub client_id: &'a str,
    /// Topic of the last will.
    pub status_topic: &'a str,
    /// User name and password.
    pub login: Option<(String, String)>,
    pub tls: Option<Arc<ClientConfig>>,
    /// Asks the broker to forget the session.
    pub clean: bool,
}

impl Settings<'_> {
    /// The host as rumqttc wants it before `:port`.
    fn host(&self) -> String {
        let host = &self.config.host;
        if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.clone() }
    }

    /// Room for a full window of publishes and every acknowledgement that can be due, so that neither waits for the other.
    fn channel_capacity(&self) -> usize {
        usize::from(self.config.in_flight) + usize::from(self.config.receive_maximum) + 16
    }

    fn max_packet(&self) -> u32 {
        u32::try_from(self.config.max_packet.0).unwrap_or(u32::MAX)
    }

    fn connect_seconds(&self) -> u64 {
        self.config.connect_timeout.0.as_secs().max(1)
    }
}

/// A message from the broker.
#[derive(Debug, Default)]
pub struct Inbound {
    /// Empty if it was not UTF-8.
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub pkid: u16,
    pub dup: bool,
    pub retain: bool,
    pub content_type: Option<String>,
    pub response_topic: Option<String>,
    pub correlation: Option<Vec<u8>>,
    pub expiry: Option<Duration>,
}

/// What the broker said at the beginning.
#[derive(Debug)]
pub struct Welcome {
    pub session_present: bool,
    /// Publishes that may be unacknowledged at once without colliding packet numbers or holding up acknowledgements.
    pub window: u16,
    /// Largest packet that the broker takes.
    pub max_packet: usize,
    /// Interval of pings; the broker may have changed it.
    pub keep_alive: Duration,
}

/// The broker's word on a publish.
#[derive(Debug)]
pub enum Verdict {
    Delivered,
    Refused { reason: String, for_good: bool },
}

#[derive(Debug)]
pub enum Event {
    Connected(Welcome),
    Publish(Inbound),
    /// One of our publishes got this packet number; in the order in which they were handed over.
    Sent(u16),
    PubAck(u16, Verdict),
    SubAck(Result<(), String>),
    /// Our own DISCONNECT is on the wire.
    Closed,
    /// Anything else that the broker sent.
    Alive,
    /// Anything else that we sent.
    Other,
}

impl Event {
    /// Whether it shows that the broker is there.
    pub fn is_inbound(&self) -> bool {
        !matches!(self, Event::Sent(_) | Event::Closed | Event::Other)
    }
}

/// Whose fault the end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The network's, or nobody's.
    Network,
    /// The broker does not want us, or we do not trust it.
    Refused,
    /// What the session holds cannot be received: it would come again.
    Session,
    /// The protocol broke, perhaps over a message of ours.
    Protocol,
    /// Ours: a part of this program panicked.
    Program,
    /// Nobody's: we left.
    Left,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub fault: Fault,
    pub reason: String,
}

impl End {
    pub fn new(fault: Fault, reason: impl Into<String>) -> End {
        End { fault, reason: reason.into() }
    }
}

/// Sending end: never blocks. `false` says that there is no room now or no connection any more.
#[derive(Clone)]
pub enum Sender {
    V4(v4::Sender),
    V5(v5::Sender),
}

/// Receiving end: polls the connection. Dropping a running poll may lose a packet, so that is only done at the end.
pub enum Receiver {
    V4(Box<v4::Receiver>),
    V5(Box<v5::Receiver>),
}

/// Makes the link; the first poll connects.
pub fn open(settings: &Settings) -> (Sender, Receiver) {
    match settings.config.version {
        Version::V4 => {
            let (sender, receiver) = v4::open(settings);
            (Sender::V4(sender), Receiver::V4(Box::new(receiver)))
        }
        Version::V5 => {
            let (sender, receiver) = v5::open(settings);
            (Sender::V5(sender), Receiver::V5(Box::new(receiver)))
        }
    }
}

impl Sender {
    /// `expiry` is what is left of the message's.
    pub fn publish(&self, message: &Message, expiry: Option<Duration>) -> bool {
        match self {
            Sender::V4(link) => link.publish(message),
            Sender::V5(link) => link.publish(message, expiry),
        }
    }

    pub fn ack(&self, pkid: u16) -> bool {
        match self {
            Sender::V4(link) => link.ack(pkid),
            Sender::V5(link) => link.ack(pkid),
        }
    }

    /// Subscribes at QoS 1.
    pub fn subscribe(&self, filter: &str) -> bool {
        match self {
            Sender::V4(link) => link.subscribe(filter),
            Sender::V5(link) => link.subscribe(filter),
        }
    }

    pub fn disconnect(&self) -> bool {
        match self {
            Sender::V4(link) => link.disconnect(),
            Sender::V5(link) => link.disconnect(),
        }
    }
}

impl Receiver {
    pub async fn next(&mut self) -> Result<Event, End> {
        match self {
            Receiver::V4(link) => link.next().await,
            Receiver::V5(link) => link.next().await,
        }
    }
}
