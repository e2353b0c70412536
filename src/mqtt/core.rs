//! The state that all connections share, and what every event does to it. No I/O of its own and no waiting: whoever holds
//! the lock around it, the MQTT thread or a publisher, is done in microseconds.

use super::ack_book::{AckBook, Arrival};
use super::link::{End, Fault, Inbound, Sender, Verdict, Welcome};
use super::message::{Keep, Message};
use super::outbox::{Limits, Lost, Outbox, Refused};
use super::plan::Plan;
use crate::request::Ticket;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// SUBSCRIBE is sent so often on one connection.
const SUBSCRIBE_TRIES: u32 = 3;

/// A refused subscription is asked for again after so long, on a new connection.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// After so many connections in a row that broke over what the session holds, it is discarded.
const SESSION_STRIKES: u32 = 3;

/// Counters and gauges since the start. All messages and requests are counted once, however often they were sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    pub connected: bool,
    /// Whether the broker granted the subscription to requests.
    pub subscribed: bool,
    /// Connections that the broker accepted.
    pub connections: u64,
    /// Sessions given up to get rid of a message that could not be received.
    pub sessions_discarded: u64,
    /// Requests received, each counted once.
    pub requests: u64,
    /// Deliveries of requests that were known already.
    pub redelivered: u64,
    /// Requests acknowledged to the broker.
    pub acknowledged: u64,
    /// Messages that the broker acknowledged.
    pub published: u64,
    pub dropped: Dropped,
    /// Messages not yet acknowledged by the broker, and their bytes.
    pub outbox_messages: usize,
    pub outbox_bytes: usize,
    /// Requests that the broker still waits to see acknowledged.
    pub open_requests: usize,
    /// Why the last connection ended or the last attempt failed.
    pub last_error: Option<String>,
}

/// What was lost, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Sensor results: the outbox was full.
    pub outbox_full: u64,
    /// Messages whose expiry passed in the outbox.
    pub expired: u64,
    /// Messages larger than the broker takes.
    pub too_large: u64,
    /// Messages that the broker refused.
    pub refused: u64,
    /// Messages received on a topic that is no request's, for example of an earlier configuration.
    pub unknown_topic: u64,
    /// Retained requests: they are old.
    pub retained: u64,
    /// QoS 0 requests while the daemon was draining.
    pub draining: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Subscription {
    Asked { at: Instant, tries: u32 },
    Granted,
    Denied(Instant),
}

struct Live {
    sender: Sender,
    since: Instant,
    heard: Instant,
    /// Nothing heard for so long: the connection is dead.
    silence: Duration,
    subscription: Subscription,
    closing: bool,
}

/// The daemon leaves the broker: for good, or to come back with another configuration.
struct Leaving {
    until: Instant,
    next: Option<Arc<Plan>>,
}

/// What to do with a message that came in.
pub enum Delivery {
    /// A request to run: its ticket and its model.
    Run(Ticket, String),
    /// Everything is done.
    Done,
}

/// See the module.
pub struct Core {
    pub plan: Arc<Plan>,
    outbox: Outbox,
    book: AckBook,
    live: Option<Live>,
    leaving: Option<Leaving>,
    draining: bool,
    max_packet: usize,
    info: Option<Message>,
    session_strikes: u32,
    stats: Stats,
}

impl Core {
    pub fn new(plan: Arc<Plan>) -> Core {
        Core {
            outbox: Outbox::new(limits(&plan)),
            book: AckBook::new(plan.outstanding()),
            live: None,
            leaving: None,
            draining: false,
            max_packet: super::config::PROTOCOL_MAX_PACKET as usize,
            info: None,
            session_strikes: 0,
            stats: Stats::default(),
            plan,
        }
    }

    // ---- From the daemon ----

    /// Queues a message and sends what can be sent.
    pub fn publish(&mut self, message: Message, now: Instant) {
        self.outbox.push(message, None, now);
        self.pump(now);
    }

    /// Queues the answer to a request, which the broker sees acknowledged once it acknowledged the answer.
    pub fn answer(&mut self, ticket: Ticket, message: Message, now: Instant) {
        let tracked = self.book.tracks(ticket).then_some(ticket);
        self.outbox.push(Message { keep: Keep::All, ..message }, tracked, now);
        self.pump(now);
    }

    /// Replaces the retained description of the node, published now and at every connect.
    pub fn set_info(&mut self, payload: Vec<u8>, now: Instant) {
        let message = Message::latest(self.plan.topics.info(), payload, true).with_content_type("application/json");
        self.info = Some(message.clone());
        if self.leaving.is_none() {
            self.publish(message, now);
        }
    }

    /// Largest packet that the broker takes, as far as known.
    pub fn max_packet(&self) -> usize {
        self.max_packet
    }

    /// From now on new requests are left with the broker.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Begins to leave: for good without a next plan.
    pub fn leave(&mut self, within: Duration, next: Option<Arc<Plan>>, now: Instant) {
        if self.leaving.as_ref().is_some_and(|leaving| leaving.next.is_none()) {
            return;
        }
        self.leaving = Some(Leaving { until: now + within, next });
        if self.live.is_some() {
            let offline = Message::latest(self.plan.topics.status(), "offline", true);
            self.outbox.push_last(offline, now);
        }
        self.pump(now);
    }

    pub fn stats(&self) -> Stats {
        let Lost { overflow, expired, too_large, refused } = self.outbox.lost();
        let subscribed = self.live.as_ref().is_some_and(|live| live.subscription == Subscription::Granted);
        Stats {
            connected: self.live.is_some(),
            subscribed,
            dropped: Dropped { outbox_full: overflow, expired, too_large, refused, ..self.stats.dropped },
            outbox_messages: self.outbox.len(),
            outbox_bytes: self.outbox.bytes(),
            open_requests: self.book.len(),
            ..self.stats.clone()
        }
    }

    // ---- From the connection ----

    /// The broker accepted the connection: subscribes, and only once that is answered publishes go on, since rumqttc numbers
    /// both from one counter and would reuse the number of an unacknowledged publish.
    pub fn connected(&mut self, sender: &Sender, welcome: &Welcome, now: Instant) {
        self.stats.connections += 1;
        self.max_packet = welcome.max_packet;
        self.outbox.connected(welcome.window, welcome.max_packet);
        self.book.connected(welcome.session_present, self.plan.outstanding());
        if !welcome.session_present {
            self.outbox.forget_tickets();
        }
        let mut live = Live {
            sender: sender.clone(),
            since: now,
            heard: now,
            silence: welcome.keep_alive.mul_f64(1.5) + self.plan.config.connect_timeout.0,
            subscription: Subscription::Asked { at: now, tries: 1 },
            closing: false,
        };
        if self.leaving.is_some() {
            live.subscription = Subscription::Denied(now);
        } else {
            sender.subscribe(&self.plan.topics.requests());
            self.announce(now);
        }
        self.live = Some(live);
    }

    /// The session is being discarded: nothing it held counts any more.
    pub fn session_discarded(&mut self) {
        self.session_strikes = 0;
        self.stats.sessions_discarded += 1;
    }

    fn announce(&mut self, now: Instant) {
        if let Some(info) = self.info.clone() {
            self.outbox.push(info, None, now);
        }
        self.outbox.push(Message::latest(self.plan.topics.status(), "online", true), None, now);
    }

    /// Something came from the broker.
    pub fn heard(&mut self, now: Instant) {
        if let Some(live) = &mut self.live {
            live.heard = now;
        }
    }

    pub fn sent(&mut self, pkid: u16) {
        self.outbox.sent(pkid);
    }

    pub fn suback(&mut self, outcome: Result<(), String>, now: Instant) {
        let Some(live) = &mut self.live else { return };
        live.subscription = match outcome {
            Ok(()) => Subscription::Granted,
            Err(reason) => {
                let filter = self.plan.topics.requests();
                log::error!("the broker refused the subscription to {filter}: {reason}; no requests are received");
                self.stats.last_error = Some(format!("subscription to {filter} refused: {reason}"));
                Subscription::Denied(now)
            }
        };
    }

    /// The broker's word on a publish. An error ends the connection, after which the message is sent again.
    pub fn puback(&mut self, pkid: u16, verdict: Verdict) -> Result<(), End> {
        let ticket = match verdict {
            Verdict::Delivered => {
                let delivered = self.outbox.acked(pkid);
                self.stats.published += u64::from(delivered.is_some());
                delivered.flatten()
            }
            Verdict::Refused { reason, for_good } => match self.outbox.refused(pkid, for_good) {
                Refused::Again => return Err(End::new(Fault::Network, format!("the broker refused a message: {reason}"))),
                Refused::GivenUp(ticket) => {
                    self.stats.last_error = Some(format!("the broker refused a message: {reason}"));
                    ticket
                }
                Refused::Unknown => None,
            },
        };
        if let Some(ticket) = ticket {
            self.book.settled(ticket);
        }
        Ok(())
    }

    /// A message came; `fingerprint` stands for its content.
    pub fn arrived(&mut self, inbound: &Inbound, fingerprint: u64) -> Delivery {
        let tracked = inbound.qos > 0;
        if tracked && self.book.recognised(fingerprint, inbound.pkid, inbound.dup).is_some() {
            self.stats.redelivered += 1;
            return Delivery::Done;
        }
        let Some(model) = self.plan.topics.model(&inbound.topic).map(str::to_string) else {
            return self.ignore(inbound, |dropped| &mut dropped.unknown_topic);
        };
        if inbound.retain {
            return self.ignore(inbound, |dropped| &mut dropped.retained);
        }
        if self.draining || self.leaving.is_some() {
            // At QoS 1 the broker keeps it for the next time.
            self.stats.dropped.draining += u64::from(!tracked);
            return Delivery::Done;
        }
        self.stats.requests += 1;
        let arrival = if tracked { self.book.arrived(fingerprint, inbound.pkid, inbound.dup) } else { Arrival::New(self.book.untracked()) };
        match arrival {
            Arrival::New(ticket) => Delivery::Run(ticket, model),
            _ => Delivery::Done,
        }
    }

    fn ignore(&mut self, inbound: &Inbound, counter: impl Fn(&mut Dropped) -> &mut u64) -> Delivery {
        *counter(&mut self.stats.dropped) += 1;
        log::debug!("a message on {} is no request to run: ignored", inbound.topic.escape_debug());
        if inbound.qos > 0 {
            self.book.ignored(inbound.pkid);
        }
        Delivery::Done
    }

    /// Sends every acknowledgement that is due and every message that the window allows. Never waits.
    pub fn pump(&mut self, now: Instant) {
        for ticket in self.outbox.take_given_up() {
            self.book.settled(ticket);
        }
        let Some(live) = &mut self.live else { return };
        while let Some(pkid) = self.book.next_ack() {
            if !live.sender.ack(pkid) {
                return;
            }
            self.book.acknowledged();
            self.stats.acknowledged += 1;
        }
        if matches!(live.subscription, Subscription::Asked { .. }) || live.closing {
            return;
        }
        while let Some((message, expiry)) = self.outbox.next(now) {
            if !live.sender.publish(message, expiry) {
                return;
            }
            self.outbox.handed(now);
        }
        if self.leaving.is_some() && self.outbox.is_empty() {
            live.closing = live.sender.disconnect();
        }
    }

    // ---- From the watchdog ----

    /// Acts on what is overdue; says why the connection must end, if it must.
    pub fn check(&mut self, now: Instant) -> Option<End> {
        if self.leaving.as_ref().is_some_and(|leaving| now >= leaving.until) {
            return Some(End::new(Fault::Left, "left the broker before everything was acknowledged"));
        }
        let ack_timeout = self.plan.config.ack_timeout.0;
        let pointless = self.leaving.as_ref().is_some_and(|leaving| leaving.next.is_some() || self.outbox.is_empty());
        if self.live.is_none() && pointless {
            return Some(End::new(Fault::Left, "left while connecting"));
        }
        let live = self.live.as_mut()?;
        let network = |reason: String| Some(End::new(Fault::Network, reason));
        if now - live.heard > live.silence {
            return network(format!("nothing heard from the broker for {:?}", live.silence));
        }
        if self.outbox.waiting_since().is_some_and(|since| now - since > ack_timeout) {
            return network(format!("the broker acknowledged no message for {ack_timeout:?}"));
        }
        match &mut live.subscription {
            Subscription::Asked { at, tries } if now - *at > ack_timeout => {
                if *tries >= SUBSCRIBE_TRIES {
                    return network(format!("the broker did not answer {tries} subscriptions"));
                }
                log::warn!("the broker did not answer the subscription within {ack_timeout:?}: asking again");
                live.sender.subscribe(&self.plan.topics.requests());
                (*at, *tries) = (now, *tries + 1);
            }
            Subscription::Denied(at) if now - *at > ASK_AGAIN => return network("asking again for the refused subscription".into()),
            _ => {}
        }
        self.pump(now);
        None
    }

    // ---- Between connections ----

    /// Whether the next connection is to discard the session.
    pub fn must_discard_session(&self) -> bool {
        self.session_strikes >= SESSION_STRIKES
    }

    /// The connection or the attempt is over. Returns how long the connection stood, if it did.
    pub fn disconnected(&mut self, end: &End, now: Instant) -> Option<Duration> {
        let lasted = self.live.take().map(|live| now - live.since);
        let broken = end.fault == Fault::Protocol;
        if end.fault == Fault::Session || (broken && self.outbox.waiting_since().is_none()) {
            self.session_strikes += 1;
        } else if lasted.is_some_and(|time| time >= self.plan.config.backoff_max.0) {
            self.session_strikes = 0;
        }
        self.outbox.disconnected(broken);
        self.stats.last_error = (end.fault != Fault::Left).then(|| end.reason.clone());
        lasted
    }

    /// Whether the daemon is done with the broker: it leaves for good, and nothing is left to send or no time.
    /// A change of plan takes effect here.
    pub fn finished(&mut self, now: Instant) -> bool {
        match self.leaving.take() {
            None => false,
            Some(Leaving { next: Some(plan), .. }) => {
                self.outbox.set_limits(limits(&plan));
                self.plan = plan;
                false
            }
            Some(leaving) => {
                let done = self.outbox.is_empty() || now >= leaving.until;
                self.leaving = Some(leaving);
                done
            }
        }
    }

    /// When the daemon must have left, if it is about to.
    pub fn leaving_until(&self) -> Option<Instant> {
        self.leaving.as_ref().map(|leaving| leaving.until)
    }

    /// The request will never be answered: a fault of this program. Its acknowledgement must not hold up the others.
    pub fn abandon(&mut self, ticket: Ticket) {
        self.book.settled(ticket);
    }
}

fn limits(plan: &Plan) -> Limits {
    let bytes = usize::try_from(plan.config.outbox_bytes.0).unwrap_or(usize::MAX);
    Limits { messages: plan.config.outbox_messages, bytes }
}
