//! Messages on their way to the broker: kept until it acknowledged them, sent again after every reconnect, in order.
//!
//! ```text
//! slots:  [ acked | sent 5 | sent 6 | handed over | waiting | waiting ]
//!           `---- span ≤ window ------------------'
//!                           ^sent    ^handed
//! ```
//! The client numbers packets but does not say which publish got which number, so the order tells: the next number that it
//! reports belongs to the first slot that was handed over and has none. The window counts from the oldest unacknowledged
//! message, not only the open ones: consecutive packet numbers within it can never collide, in whatever order acks come.

use super::message::{Keep, Message};
use crate::request::Ticket;
use std::collections::{HashSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// A message is given up after so many connections that broke over it alone, or refusals that might have been temporary.
const STRIKES: u8 = 3;

/// Why messages were given up, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// The oldest were dropped for newer ones as the outbox was full.
    pub overflow: u64,
    /// Their expiry passed while they waited.
    pub expired: u64,
    /// Larger than the broker takes.
    pub too_large: u64,
    /// The broker refused them, for good or repeatedly.
    pub refused: u64,
}

/// Limits of an [`Outbox`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub messages: usize,
    pub bytes: usize,
}

struct Entry {
    message: Message,
    /// The request that this answers, while the broker still waits for that request's acknowledgement. Never dropped then.
    ticket: Option<Ticket>,
    queued: Instant,
    strikes: u8,
    /// It was under way when the protocol broke: sent alone from now on, to find out whether it was the cause.
    suspect: bool,
}

impl Entry {
    fn size(&self) -> usize {
        self.message.packet_size()
    }

    fn remaining(&self, now: Instant) -> Option<Duration> {
        self.message.expiry.map(|expiry| expiry.saturating_sub(now.saturating_duration_since(self.queued)))
    }
}

struct Slot {
    /// `None` once acknowledged.
    entry: Option<Entry>,
    /// 0 until the client reported it.
    pkid: u16,
    handed: Instant,
}

/// What became of a message that the broker refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Given up; the request that it answered, if any, is settled.
    GivenUp(Option<Ticket>),
    /// To be sent again on a new connection.
    Again,
    /// No such message.
    Unknown,
}

/// See the module.
pub struct Outbox {
    slots: VecDeque<Slot>,
    sent: usize,
    handed: usize,
    bytes: usize,
    limits: Limits,
    window: usize,
    max_packet: usize,
    lost: Lost,
    given_up: Vec<Ticket>,
}

impl Outbox {
    pub fn new(limits: Limits) -> Outbox {
        Outbox {
            slots: VecDeque::new(),
            sent: 0,
            handed: 0,
            bytes: 0,
            limits,
            window: 1,
            max_packet: usize::MAX,
            lost: Lost::default(),
            given_up: Vec::new(),
        }
    }

    /// Changes the limits; an excess is dropped with the next message.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Adds a message. A [`Keep::Latest`] message replaces a waiting one on its topic and goes before what waits.
    pub fn push(&mut self, message: Message, ticket: Option<Ticket>, now: Instant) {
        let entry = Entry { message, ticket, queued: now, strikes: 0, suspect: false };
        let place = match entry.message.keep {
            Keep::All => self.slots.len(),
            Keep::Latest => {
                self.withdraw(&entry.message.topic);
                self.handed
            }
        };
        self.insert(place, entry, now);
        self.trim();
    }

    /// Adds a message behind all others, in place of a waiting [`Keep::Latest`] one on its topic.
    pub fn push_last(&mut self, message: Message, now: Instant) {
        self.withdraw(&message.topic);
        let place = self.slots.len();
        self.insert(place, Entry { message, ticket: None, queued: now, strikes: 0, suspect: false }, now);
    }

    fn insert(&mut self, place: usize, entry: Entry, now: Instant) {
        self.bytes += entry.size();
        self.slots.insert(place, Slot { entry: Some(entry), pkid: 0, handed: now });
    }

    /// Removes a waiting [`Keep::Latest`] message on `topic`.
    fn withdraw(&mut self, topic: &str) {
        let same = |slot: &Slot| slot.entry.as_ref().is_some_and(|e| e.message.keep == Keep::Latest && e.message.topic == topic);
        if let Some(offset) = self.slots.range(self.handed..).position(same) {
            self.remove(self.handed + offset);
        }
    }

    /// Drops the oldest waiting messages that answer nobody until the limits hold.
    fn trim(&mut self) {
        let mut from = self.handed;
        while self.slots.len() > self.limits.messages || self.bytes > self.limits.bytes {
            let droppable = |slot: &Slot| slot.entry.as_ref().is_some_and(|e| e.ticket.is_none() && e.message.keep == Keep::All);
            let Some(offset) = self.slots.range(from..).position(droppable) else { return };
            from += offset;
            self.remove(from);
            self.lost.overflow += 1;
        }
    }

    fn remove(&mut self, place: usize) -> Option<Entry> {
        let entry = self.slots.remove(place)?.entry?;
        self.bytes -= entry.size();
        Some(entry)
    }

    /// A connection stands: up to `window` messages may be under way, of at most `max_packet` bytes.
    pub fn connected(&mut self, window: u16, max_packet: usize) {
        self.window = usize::from(window.max(1));
        self.max_packet = max_packet;
    }

    /// The next message to hand to the client, with what is left of its expiry, or `None` when the window is full or
    /// nothing waits. Call [`Outbox::handed`] once the client took it.
    pub fn next(&mut self, now: Instant) -> Option<(&Message, Option<Duration>)> {
        if self.handed >= self.window {
            return None;
        }
        self.discard_hopeless(now);
        let suspect = |place: usize| self.slots.get(place).and_then(|slot| slot.entry.as_ref()).is_some_and(|entry| entry.suspect);
        if self.handed > 0 && (suspect(0) || suspect(self.handed)) {
            return None;
        }
        let entry = self.slots.get(self.handed)?.entry.as_ref()?;
        Some((&entry.message, entry.remaining(now).map(|left| left.max(Duration::from_secs(1)))))
    }

    /// Removes messages at the head of those that wait which expired (unless they answer a request) or are too large.
    fn discard_hopeless(&mut self, now: Instant) {
        while let Some(entry) = self.slots.get(self.handed).and_then(|slot| slot.entry.as_ref()) {
            let expired = entry.ticket.is_none() && entry.remaining(now) == Some(Duration::ZERO);
            let too_large = entry.size() > self.max_packet;
            if !expired && !too_large {
                return;
            }
            *(if too_large { &mut self.lost.too_large } else { &mut self.lost.expired }) += 1;
            log::warn!(
                "a message for {} was given up: {}",
                entry.message.topic,
                if too_large { "too large for the broker" } else { "expired" }
            );
            let ticket = self.remove(self.handed).and_then(|entry| entry.ticket);
            self.given_up.extend(ticket);
        }
    }

    /// The client took the message that [`Outbox::next`] showed.
    pub fn handed(&mut self, now: Instant) {
        if let Some(slot) = self.slots.get_mut(self.handed) {
            slot.handed = now;
            self.handed += 1;
        }
    }

    /// The client sent a publish under this packet number. 0 is a QoS 0 publish, none of ours.
    pub fn sent(&mut self, pkid: u16) {
        if pkid == 0 || self.sent >= self.handed {
            return;
        }
        if let Some(slot) = self.slots.get_mut(self.sent) {
            slot.pkid = pkid;
            self.sent += 1;
        }
    }

    /// The broker acknowledged a publish. Returns the message's request, if it answered one; `None` for an unknown number.
    pub fn acked(&mut self, pkid: u16) -> Option<Option<Ticket>> {
        let place = self.in_flight(pkid)?;
        let entry = self.slots.get_mut(place)?.entry.take()?;
        self.bytes -= entry.size();
        while self.sent > 0 && self.slots.front().is_some_and(|slot| slot.entry.is_none()) {
            self.slots.pop_front();
            self.sent -= 1;
            self.handed -= 1;
        }
        Some(entry.ticket)
    }

    fn in_flight(&self, pkid: u16) -> Option<usize> {
        self.slots.range(..self.sent).position(|slot| slot.pkid == pkid && slot.entry.is_some())
    }

    /// The broker refused a publish: given up if for good (or refused repeatedly), otherwise sent again later.
    pub fn refused(&mut self, pkid: u16, for_good: bool) -> Refused {
        let Some(entry) = self.in_flight(pkid).and_then(|place| self.slots.get_mut(place)?.entry.as_mut()) else { return Refused::Unknown };
        entry.strikes += 1;
        if !for_good && entry.strikes < STRIKES {
            return Refused::Again;
        }
        log::warn!("the broker refused a message for {}: given up", entry.message.topic);
        self.lost.refused += 1;
        Refused::GivenUp(self.acked(pkid).flatten())
    }

    /// The connection is gone: everything unacknowledged waits again, in its old order. `broken` says that the protocol
    /// broke rather than the network: if one single message was under way, it counts against that message.
    pub fn disconnected(&mut self, broken: bool) {
        if broken {
            self.slots.range_mut(..self.handed).filter_map(|slot| slot.entry.as_mut()).for_each(|entry| entry.suspect = true);
        }
        if broken && self.handed == 1 {
            self.strike_front();
        }
        self.slots.retain(|slot| slot.entry.is_some());
        self.slots.iter_mut().for_each(|slot| slot.pkid = 0);
        (self.sent, self.handed) = (0, 0);
        self.collapse();
    }

    fn strike_front(&mut self) {
        let Some(entry) = self.slots.front_mut().and_then(|slot| slot.entry.as_mut()) else { return };
        entry.strikes += 1;
        if entry.strikes >= STRIKES {
            log::warn!("a message for {} broke the connection {STRIKES} times: given up", entry.message.topic);
            self.lost.refused += 1;
            let ticket = self.remove(0).and_then(|entry| entry.ticket);
            self.given_up.extend(ticket);
            (self.sent, self.handed) = (0, 0);
        }
    }

    /// Leaves only the newest of the [`Keep::Latest`] messages on each topic.
    fn collapse(&mut self) {
        let mut seen = HashSet::new();
        let mut place = self.slots.len();
        while place > 0 {
            place -= 1;
            let Some(entry) = self.slots.get(place).and_then(|slot| slot.entry.as_ref()) else { continue };
            if entry.message.keep == Keep::Latest && !seen.insert(entry.message.topic.clone()) {
                self.remove(place);
            }
        }
    }

    /// No request is waiting for acknowledgement any more (the broker lost the session): its answers are ordinary messages.
    pub fn forget_tickets(&mut self) {
        self.slots.iter_mut().filter_map(|slot| slot.entry.as_mut()).for_each(|entry| entry.ticket = None);
    }

    /// Requests whose answers were given up since the last call.
    pub fn take_given_up(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.given_up)
    }

    /// When the oldest message that the broker has not acknowledged was handed over.
    pub fn waiting_since(&self) -> Option<Instant> {
        (self.handed > 0).then(|| self.slots.front().map(|slot| slot.handed)).flatten()
    }

    /// Messages not yet acknowledged, under way or waiting.
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|slot| slot.entry.is_some()).count()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of the messages not yet acknowledged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn lost(&self) -> Lost {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const LIMITS: Limits = Limits { messages: 100, bytes: 1 << 20 };

    fn outbox() -> Outbox {
        let mut outbox = Outbox::new(LIMITS);
        outbox.connected(4, usize::MAX);
        outbox
    }

    fn push(outbox: &mut Outbox, topic: &str, text: &str) {
        outbox.push(Message::new(topic, text.to_string()), None, Instant::now());
    }

    /// Hands over all that the window allows and reports numbers from `first` on.
    fn send(outbox: &mut Outbox, first: u16) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some((message, _)) = outbox.next(Instant::now()) {
            texts.push(String::from_utf8(message.payload.to_vec()).unwrap());
            outbox.handed(Instant::now());
            outbox.sent(first + texts.len() as u16 - 1);
        }
        texts
    }

    #[test]
    fn a_full_window_waits_for_its_oldest_even_when_later_ones_are_acked() {
        let mut outbox = outbox();
        "abcdef".chars().for_each(|c| push(&mut outbox, "t", &c.to_string()));
        assert_eq!(send(&mut outbox, 1), ["a", "b", "c", "d"]);
        for pkid in [2, 3, 4] {
            assert_eq!(outbox.acked(pkid), Some(None));
            assert!(send(&mut outbox, 5).is_empty(), "a number could collide with that of the open message");
        }
        assert_eq!(outbox.acked(1), Some(None));
        assert_eq!(send(&mut outbox, 5), ["e", "f"]);
        assert_eq!(outbox.len(), 2);
    }

    #[test]
    fn unknown_and_repeated_numbers_change_nothing() {
        let mut outbox = outbox();
        push(&mut outbox, "t", "a");
        outbox.sent(9);
        assert_eq!(outbox.acked(9), None);
        assert_eq!(send(&mut outbox, 1), ["a"]);
        outbox.sent(0);
        outbox.sent(7);
        assert_eq!((outbox.acked(7), outbox.refused(7, true)), (None, Refused::Unknown));
        assert_eq!((outbox.acked(1), outbox.acked(1)), (Some(None), None));
        assert!(outbox.is_empty() && outbox.bytes() == 0);
    }

    #[test]
    fn after_a_disconnect_the_unacknowledged_are_sent_again_in_order() {
        let mut outbox = outbox();
        "abcde".chars().for_each(|c| push(&mut outbox, "t", &c.to_string()));
        send(&mut outbox, 1);
        outbox.acked(2);
        outbox.disconnected(false);
        assert_eq!(outbox.acked(1), None, "a number of the old connection");
        assert_eq!(send(&mut outbox, 1), ["a", "c", "d", "e"]);
    }

    #[test]
    fn only_the_newest_of_latest_messages_is_kept_and_goes_first() {
        let mut outbox = outbox();
        push(&mut outbox, "results", "r");
        let latest = |text: &str| Message::latest("stats", text.to_string(), false);
        outbox.push(latest("1"), None, Instant::now());
        outbox.push(latest("2"), None, Instant::now());
        assert_eq!(send(&mut outbox, 1), ["2", "r"]);
        outbox.push(latest("3"), None, Instant::now());
        assert_eq!(outbox.len(), 3, "one under way is not replaced");
        outbox.disconnected(false);
        outbox.push_last(Message::latest("status", "offline", true), Instant::now());
        assert_eq!(send(&mut outbox, 1), ["r", "3", "offline"]);
    }

    #[test]
    fn an_overflow_drops_the_oldest_that_answer_nobody() {
        let mut outbox = Outbox::new(Limits { messages: 3, bytes: 1 << 20 });
        outbox.connected(9, usize::MAX);
        outbox.push(Message::new("t", "answer"), Some(Ticket(1)), Instant::now());
        ["a", "b", "c", "d"].iter().for_each(|text| push(&mut outbox, "t", text));
        assert_eq!(outbox.lost().overflow, 2);
        assert_eq!(send(&mut outbox, 1), ["answer", "c", "d"]);
        outbox.push(Message::new("t", "answer 2"), Some(Ticket(2)), Instant::now());
        assert_eq!(outbox.len(), 4, "answers are never dropped");
        push(&mut outbox, "t", "e");
        assert_eq!((outbox.len(), outbox.lost().overflow), (4, 3));
    }

    #[test]
    fn limits_hold_for_bytes_too() {
        let mut outbox = Outbox::new(Limits { messages: 100, bytes: 3000 });
        (0..10).for_each(|_| push(&mut outbox, "t", &"x".repeat(1000)));
        assert_eq!((outbox.len(), outbox.lost().overflow), (2, 8));
        assert!(outbox.bytes() <= 3000);
    }

    #[test]
    fn what_is_too_large_or_expired_is_given_up_and_its_request_settled() {
        let mut outbox = outbox();
        outbox.connected(4, 200);
        outbox.push(Message::new("t", vec![0; 500]), Some(Ticket(7)), Instant::now());
        outbox.push(Message { expiry: Some(Duration::ZERO), ..Message::new("t", "old") }, None, Instant::now());
        push(&mut outbox, "t", "good");
        assert_eq!(send(&mut outbox, 1), ["good"]);
        assert_eq!(outbox.take_given_up(), [Ticket(7)]);
        assert_eq!(outbox.lost(), Lost { too_large: 1, expired: 1, ..Lost::default() });
    }

    #[test]
    fn the_expiry_shrinks_while_waiting() {
        let mut outbox = outbox();
        let start = Instant::now();
        outbox.push(Message { expiry: Some(Duration::from_secs(60)), ..Message::new("t", "x") }, None, start);
        let (_, left) = outbox.next(start + Duration::from_secs(20)).unwrap();
        assert_eq!(left, Some(Duration::from_secs(40)));
    }

    #[test]
    fn a_message_that_breaks_every_connection_is_found_and_given_up() {
        let mut outbox = outbox();
        outbox.push(Message::new("t", "good"), None, Instant::now());
        outbox.push(Message::new("t", "poison"), Some(Ticket(3)), Instant::now());
        outbox.push(Message::new("t", "later"), None, Instant::now());
        let mut connections = 0;
        while outbox.lost().refused == 0 {
            connections += 1;
            assert!(connections < 10);
            match send(&mut outbox, 1)[..] {
                [ref only] if only == "good" => {
                    outbox.acked(1);
                    send(&mut outbox, 2);
                }
                _ => {}
            }
            outbox.disconnected(true);
        }
        assert_eq!(outbox.take_given_up(), [Ticket(3)]);
        assert_eq!(send(&mut outbox, 1), ["later"]);
    }

    #[test]
    fn refusals_are_final_at_once_or_after_some_tries() {
        let mut outbox = outbox();
        outbox.push(Message::new("t", "a"), Some(Ticket(1)), Instant::now());
        send(&mut outbox, 1);
        assert_eq!(outbox.refused(1, true), Refused::GivenUp(Some(Ticket(1))));
        push(&mut outbox, "t", "b");
        for _ in 1..STRIKES {
            send(&mut outbox, 1);
            assert_eq!(outbox.refused(1, false), Refused::Again);
            outbox.disconnected(false);
        }
        send(&mut outbox, 1);
        assert_eq!(outbox.refused(1, false), Refused::GivenUp(None));
        assert_eq!(outbox.lost().refused, 2);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u8),
        Send,
        Ack(usize),
        Disconnect,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..3).prop_map(Step::Push),
            3 => Just(Step::Send),
            3 => any::<usize>().prop_map(Step::Ack),
            1 => Just(Step::Disconnect),
        ]
    }

    proptest! {
        /// A broker that takes what it gets, acks in any order and loses the connection at any time: each message arrives,
        /// and the first arrivals on each topic are in order; numbers in flight are distinct modulo the window.
        #[test]
        fn nothing_is_lost_and_topics_keep_their_order(steps in prop::collection::vec(step(), 0..200)) {
            let mut outbox = Outbox::new(Limits { messages: usize::MAX, bytes: usize::MAX });
            outbox.connected(4, usize::MAX);
            let (mut pushed, mut counter, mut next_pkid) = (HashMap::<u8, Vec<u32>>::new(), 0u32, 0u16);
            let mut open: Vec<u16> = Vec::new();
            let mut arrived: HashMap<String, Vec<u32>> = HashMap::new();
            let finish = std::iter::repeat_n([Step::Send, Step::Ack(0)], 210).flatten();
            for step in steps.into_iter().chain(finish) {
                match step {
                    Step::Push(topic) => {
                        counter += 1;
                        pushed.entry(topic).or_default().push(counter);
                        outbox.push(Message::new(topic.to_string(), counter.to_string()), Some(Ticket(counter.into())), Instant::now());
                    }
                    Step::Send => while let Some((message, _)) = outbox.next(Instant::now()) {
                        let number: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
                        let log = arrived.entry(message.topic.clone()).or_default();
                        if !log.contains(&number) {
                            log.push(number);
                        }
                        outbox.handed(Instant::now());
                        next_pkid = next_pkid % 4 + 1;
                        prop_assert!(!open.contains(&next_pkid), "packet number {} is still open", next_pkid);
                        outbox.sent(next_pkid);
                        open.push(next_pkid);
                    },
                    Step::Ack(which) if !open.is_empty() => {
                        let pkid = open.remove(which % open.len());
                        prop_assert!(outbox.acked(pkid).is_some());
                    }
                    Step::Ack(_) => {}
                    Step::Disconnect => {
                        outbox.disconnected(false);
                        open.clear();
                        next_pkid = 0;
                    }
                }
            }
            prop_assert!(outbox.is_empty() && outbox.bytes() == 0);
            for (topic, numbers) in pushed {
                prop_assert_eq!(&arrived[&topic.to_string()], &numbers);
            }
        }
    }
}
