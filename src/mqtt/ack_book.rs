//! Which requests the broker still waits to see acknowledged, over any number of connections.
//!
//! A request is open until its answer is safe, then settled; its acknowledgement goes out in the order in which the requests
//! came, as MQTT demands (4.6.0-2). An acknowledgement only counts on the connection that brought the request. After a
//! reconnect with the same session the broker delivers again all that it saw no acknowledgement for:
//!
//! - open: the request goes on running and adopts the new packet number;
//! - settled, acknowledgement never sent: acknowledged at once, not run again;
//! - acknowledgement sent but perhaps never received: recognised by the same packet number and the duplicate flag as well,
//!   since otherwise it could be a twin: another request with the same content;
//! - anything else is new.
//!
//! Twins are told apart by counting: each remembered request absorbs one delivery.

use crate::request::Ticket;
use std::collections::{HashMap, VecDeque};

/// Settled requests that wait for a redelivery which may never come (the broker may let them expire) are kept up to here.
const MAX_SETTLED: usize = 1024;

/// What a delivered request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// To be run.
    New(Ticket),
    /// Known and not answered yet: nothing to do.
    Open,
    /// Known and answered: its acknowledgement is due.
    Settled,
}

struct Entry {
    fingerprint: u64,
    pkid: u16,
    connection: u64,
    settled: bool,
}

/// A message of this connection, in order of arrival.
struct Due {
    pkid: u16,
    /// `None` for a message that is no request: its acknowledgement is due at once.
    ticket: Option<Ticket>,
}

/// An acknowledgement that was sent and may have been lost with its connection.
struct Sent {
    fingerprint: u64,
    pkid: u16,
}

/// See the module.
pub struct AckBook {
    next_ticket: u64,
    connection: u64,
    /// How many requests the broker may have outstanding, so that older acknowledgements must have been received.
    outstanding: usize,
    entries: HashMap<Ticket, Entry>,
    /// Entries of earlier connections by fingerprint, oldest first.
    stale: HashMap<u64, VecDeque<Ticket>>,
    /// Stale and settled entries, oldest first.
    forgotten_first: VecDeque<Ticket>,
    order: VecDeque<Due>,
    sent: VecDeque<Sent>,
}

impl AckBook {
    /// `outstanding` is the receive maximum that the broker was given.
    pub fn new(outstanding: usize) -> AckBook {
        AckBook {
            next_ticket: 0,
            connection: 0,
            outstanding,
            entries: HashMap::new(),
            stale: HashMap::new(),
            forgotten_first: VecDeque::new(),
            order: VecDeque::new(),
            sent: VecDeque::new(),
        }
    }

    /// A connection stands. Without the old session the broker delivers nothing again, and nothing remembered counts.
    pub fn connected(&mut self, session_present: bool, outstanding: usize) {
        self.connection += 1;
        self.outstanding = outstanding;
        self.order.clear();
        self.stale.clear();
        self.forgotten_first.clear();
        if !session_present {
            self.entries.clear();
            self.sent.clear();
        }
        let mut tickets: Vec<Ticket> = self.entries.keys().copied().collect();
        tickets.sort_unstable();
        for ticket in tickets {
            self.grow_stale(ticket);
        }
    }

    fn grow_stale(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get(&ticket) else { return };
        self.stale.entry(entry.fingerprint).or_default().push_back(ticket);
        if entry.settled {
            self.remember_settled(ticket);
        }
    }

    fn remember_settled(&mut self, ticket: Ticket) {
        self.forgotten_first.push_back(ticket);
        if self.forgotten_first.len() > MAX_SETTLED
            && let Some(oldest) = self.forgotten_first.pop_front()
        {
            self.take_stale(oldest);
            self.entries.remove(&oldest);
        }
    }

    fn take_stale(&mut self, ticket: Ticket) {
        let Some(fingerprint) = self.entries.get(&ticket).map(|entry| entry.fingerprint) else { return };
        if let Some(twins) = self.stale.get_mut(&fingerprint) {
            twins.retain(|&twin| twin != ticket);
            if twins.is_empty() {
                self.stale.remove(&fingerprint);
            }
        }
    }

    /// A ticket for a request that needs no acknowledgement (QoS 0).
    pub fn untracked(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// A request came under `pkid`; `fingerprint` stands for all of its content, `dup` is its duplicate flag.
    pub fn arrived(&mut self, fingerprint: u64, pkid: u16, dup: bool) -> Arrival {
        self.recognised(fingerprint, pkid, dup).unwrap_or_else(|| Arrival::New(self.enter(fingerprint, pkid, false)))
    }

    /// Like [`AckBook::arrived`], but leaves a message that is not known alone and says `None`.
    pub fn recognised(&mut self, fingerprint: u64, pkid: u16, dup: bool) -> Option<Arrival> {
        if dup && self.is_due(fingerprint, pkid) {
            return Some(Arrival::Open);
        }
        if self.was_acknowledged(fingerprint, pkid, dup) {
            self.enter(fingerprint, pkid, true);
            return Some(Arrival::Settled);
        }
        self.adopt(fingerprint, pkid)
    }

    fn enter(&mut self, fingerprint: u64, pkid: u16, settled: bool) -> Ticket {
        let ticket = self.untracked();
        self.entries.insert(ticket, Entry { fingerprint, pkid, connection: self.connection, settled });
        self.order.push_back(Due { pkid, ticket: Some(ticket) });
        ticket
    }

    /// Whether this very delivery came on this connection before: some 3.1.1 brokers repeat what is not acknowledged in time.
    fn is_due(&self, fingerprint: u64, pkid: u16) -> bool {
        let same = |ticket: &Ticket| self.entries.get(ticket).is_some_and(|entry| entry.fingerprint == fingerprint);
        self.order.iter().any(|due| due.pkid == pkid && due.ticket.as_ref().is_none_or(same))
    }

    /// Whether this request was acknowledged already. A packet number in use again proves that the broker knows.
    fn was_acknowledged(&mut self, fingerprint: u64, pkid: u16, dup: bool) -> bool {
        let Some(place) = self.sent.iter().position(|sent| sent.pkid == pkid) else { return false };
        self.sent.remove(place).is_some_and(|sent| dup && sent.fingerprint == fingerprint)
    }

    /// Finds an entry of an earlier connection, best with the same packet number, and makes it one of this connection.
    fn adopt(&mut self, fingerprint: u64, pkid: u16) -> Option<Arrival> {
        let twins = self.stale.get(&fingerprint)?;
        let same_pkid = |ticket: &&Ticket| self.entries.get(ticket).is_some_and(|entry| entry.pkid == pkid);
        let ticket = *twins.iter().find(same_pkid).or(twins.front())?;
        self.take_stale(ticket);
        self.forgotten_first.retain(|&t| t != ticket);
        self.order.push_back(Due { pkid, ticket: Some(ticket) });
        let connection = self.connection;
        let entry = self.entries.get_mut(&ticket)?;
        (entry.pkid, entry.connection) = (pkid, connection);
        Some(if entry.settled { Arrival::Settled } else { Arrival::Open })
    }

    /// A message came under `pkid` that is no request: only its acknowledgement is due.
    pub fn ignored(&mut self, pkid: u16) {
        self.order.push_back(Due { pkid, ticket: None });
    }

    /// The request's answer is safe.
    pub fn settled(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        if !std::mem::replace(&mut entry.settled, true) && entry.connection != self.connection {
            self.remember_settled(ticket);
        }
    }

    /// Whether the broker waits for this request's acknowledgement (or will deliver it again).
    pub fn tracks(&self, ticket: Ticket) -> bool {
        self.entries.contains_key(&ticket)
    }

    /// The packet number to acknowledge next, if its time has come. Call [`AckBook::acknowledged`] once it is under way.
    pub fn next_ack(&self) -> Option<u16> {
        let due = self.order.front()?;
        let ready = due.ticket.is_none_or(|ticket| self.entries.get(&ticket).is_none_or(|entry| entry.settled));
        ready.then_some(due.pkid)
    }

    /// The acknowledgement that [`AckBook::next_ack`] named is under way.
    pub fn acknowledged(&mut self) {
        let Some(due) = self.order.pop_front() else { return };
        let Some(entry) = due.ticket.and_then(|ticket| self.entries.remove(&ticket)) else { return };
        self.sent.push_back(Sent { fingerprint: entry.fingerprint, pkid: due.pkid });
        while self.sent.len() > self.outstanding {
            self.sent.pop_front();
        }
    }

    /// Requests not answered yet or answered and not acknowledged.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn book() -> AckBook {
        let mut book = AckBook::new(32);
        book.connected(false, 32);
        book
    }

    fn new_ticket(arrival: Arrival) -> Ticket {
        match arrival {
            Arrival::New(ticket) => ticket,
            other => panic!("expected a new request, got {other:?}"),
        }
    }

    /// Sends every acknowledgement that is due.
    fn acks(book: &mut AckBook) -> Vec<u16> {
        std::iter::from_fn(|| {
            let pkid = book.next_ack()?;
            book.acknowledged();
            Some(pkid)
        })
        .collect()
    }

    #[test]
    fn acknowledgements_wait_for_answers_and_keep_the_order_of_arrival() {
        let mut book = book();
        let first = new_ticket(book.arrived(1, 10, false));
        let second = new_ticket(book.arrived(2, 11, false));
        book.ignored(12);
        assert!(acks(&mut book).is_empty());
        book.settled(second);
        assert!(acks(&mut book).is_empty(), "the first is not answered yet");
        book.settled(first);
        assert_eq!(acks(&mut book), [10, 11, 12]);
        assert!(book.is_empty());
    }

    #[test]
    fn an_open_request_adopts_its_redelivery() {
        let mut book = book();
        let ticket = new_ticket(book.arrived(1, 10, false));
        book.connected(true, 32);
        assert_eq!(book.arrived(1, 10, true), Arrival::Open);
        book.settled(ticket);
        assert_eq!(acks(&mut book), [10]);
    }

    #[test]
    fn a_broker_that_renumbers_and_forgets_the_flag_is_understood() {
        let mut book = book();
        let ticket = new_ticket(book.arrived(1, 10, false));
        book.connected(true, 32);
        assert_eq!(book.arrived(1, 3, false), Arrival::Open);
        book.settled(ticket);
        assert_eq!(acks(&mut book), [3]);
    }

    #[test]
    fn a_request_answered_while_away_is_acknowledged_at_once() {
        let mut book = book();
        let ticket = new_ticket(book.arrived(1, 10, false));
        book.connected(true, 32);
        book.settled(ticket);
        assert!(acks(&mut book).is_empty(), "its number belongs to the old connection");
        assert_eq!(book.arrived(1, 10, true), Arrival::Settled);
        assert_eq!(acks(&mut book), [10]);
        assert!(book.is_empty());
    }

    #[test]
    fn a_lost_acknowledgement_is_repeated_without_running_again_any_number_of_times() {
        let mut book = book();
        let ticket = new_ticket(book.arrived(1, 10, false));
        book.settled(ticket);
        assert_eq!(acks(&mut book), [10]);
        for _ in 0..3 {
            book.connected(true, 32);
            assert_eq!(book.arrived(1, 10, true), Arrival::Settled);
            assert_eq!(acks(&mut book), [10]);
        }
    }

    #[test]
    fn twins_are_two_requests() {
        let mut book = book();
        let first = new_ticket(book.arrived(1, 10, false));
        let second = new_ticket(book.arrived(1, 11, false));
        assert_ne!(first, second);
        book.settled(first);
        assert_eq!(acks(&mut book), [10]);
        book.connected(true, 32);
        assert_eq!(book.arrived(1, 11, true), Arrival::Open);
        new_ticket(book.arrived(1, 12, false));
        assert_eq!(book.arrived(1, 10, true), Arrival::Settled);
        assert!(acks(&mut book).is_empty(), "the twin still runs");
    }

    #[test]
    fn a_later_twin_is_not_taken_for_a_lost_acknowledgement() {
        let mut book = book();
        let first = new_ticket(book.arrived(1, 10, false));
        book.settled(first);
        acks(&mut book);
        new_ticket(book.arrived(1, 11, false));
        book.connected(true, 32);
        assert_eq!(book.arrived(1, 11, true), Arrival::Open);
        new_ticket(book.arrived(1, 12, false));
        let mut book = self::book();
        let first = new_ticket(book.arrived(1, 10, false));
        book.settled(first);
        acks(&mut book);
        new_ticket(book.arrived(1, 10, false));
        book.connected(true, 32);
        assert_eq!(book.arrived(1, 10, true), Arrival::Open, "the number in use again proved the first acknowledgement");
    }

    #[test]
    fn a_lost_session_forgets_everything() {
        let mut book = book();
        let open = new_ticket(book.arrived(1, 10, false));
        book.connected(false, 32);
        assert!(!book.tracks(open));
        book.settled(open);
        assert!(acks(&mut book).is_empty());
        new_ticket(book.arrived(1, 10, true));
    }

    #[test]
    fn a_repetition_on_the_same_connection_is_not_run_twice() {
        let mut book = book();
        let ticket = new_ticket(book.arrived(1, 10, false));
        assert_eq!(book.arrived(1, 10, true), Arrival::Open);
        book.settled(ticket);
        assert_eq!(acks(&mut book), [10]);
        assert_eq!(book.arrived(1, 10, true), Arrival::Settled);
        assert_eq!(acks(&mut book), [10]);
    }

    #[test]
    fn what_is_never_redelivered_is_forgotten_in_the_end() {
        let mut book = book();
        for n in 0..3 * MAX_SETTLED as u64 {
            let ticket = new_ticket(book.arrived(n, (n % 60_000) as u16 + 1, false));
            book.connected(true, 32);
            book.settled(ticket);
        }
        assert!(book.len() <= MAX_SETTLED);
        assert!(book.stale.len() <= MAX_SETTLED && book.sent.len() <= 32);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send(u64),
        Settle(usize),
        FlushAcks,
        Reconnect { acks_arrive: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u64..3).prop_map(Step::Send),
            3 => any::<usize>().prop_map(Step::Settle),
            2 => Just(Step::FlushAcks),
            1 => (0usize..8).prop_map(|acks_arrive| Step::Reconnect { acks_arrive }),
        ]
    }

    proptest! {
        /// Against a model of the broker (numbers never used twice): every message is run exactly once, is acknowledged in
        /// the end, and no acknowledgement goes out before the answer or for a number that the broker does not wait for.
        #[test]
        fn each_request_runs_once_and_is_acknowledged(steps in prop::collection::vec(step(), 0..120)) {
            let mut book = book();
            let (mut next, mut runs) = (0u16, 0usize);
            let mut unacked: Vec<(u16, u64)> = Vec::new();
            let mut running: Vec<(Ticket, u16)> = Vec::new();
            let mut on_wire: Vec<u16> = Vec::new();
            let finish = [Step::Reconnect { acks_arrive: 0 }].into_iter().chain(std::iter::repeat_n(Step::Settle(0), 130)).chain([Step::FlushAcks]);
            for step in steps.into_iter().chain(finish) {
                match step {
                    Step::Send(content) if unacked.len() < 32 => {
                        next += 1;
                        unacked.push((next, content));
                        running.push((new_ticket(book.arrived(content, next, false)), next));
                        runs += 1;
                    }
                    Step::Send(_) => {}
                    Step::Settle(which) if !running.is_empty() => book.settled(running.remove(which % running.len()).0),
                    Step::Settle(_) => {}
                    Step::FlushAcks => on_wire.extend(acks(&mut book)),
                    Step::Reconnect { acks_arrive } => {
                        let arrived: Vec<u16> = on_wire.drain(..).take(acks_arrive).collect();
                        prop_assert!(arrived.iter().all(|pkid| unacked.iter().any(|(open, _)| open == pkid)));
                        unacked.retain(|(pkid, _)| !arrived.contains(pkid));
                        book.connected(true, 32);
                        for &(pkid, content) in &unacked {
                            prop_assert!(!matches!(book.arrived(content, pkid, true), Arrival::New(_)), "{} ran twice", pkid);
                        }
                    }
                }
                for pkid in &on_wire {
                    prop_assert!(!running.iter().any(|(_, open)| open == pkid), "{} acknowledged before its answer", pkid);
                }
            }
            unacked.retain(|(pkid, _)| !on_wire.contains(pkid));
            prop_assert!(unacked.is_empty(), "never acknowledged: {:?}", unacked);
            prop_assert_eq!(runs, usize::from(next));
            prop_assert!(book.is_empty());
        }
    }
}
