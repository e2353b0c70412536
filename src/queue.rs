//! The bounded queue between intake and inference: requests before sensor samples, one source's samples in order.

use crate::config::problems::Checker;
use crate::config::value::Size;
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What happens to one more item when a lane is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The new item is refused: a request is answered `busy`.
    RejectNew,
    /// The oldest waiting item gives way: right for sensors, whose newest sample matters most. Among samples it is the
    /// oldest of the source with the most waiting, so that a fast source cannot push out a slow one.
    DropOldest,
}

/// `[queue.requests]` and `[queue.samples]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneConfig {
    /// Most items that wait, at least 1.
    pub capacity: usize,
    /// `"reject-new"` or `"drop-oldest"`.
    pub when_full: WhenFull,
}

/// `[queue]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// Requests from MQTT; they go before samples. Roomy by default: brokers are known to send more at once than the client
    /// asked for, and the payloads are bounded by `request_bytes`.
    pub requests: LaneConfig,
    /// Payload bytes of all waiting requests together; beyond, the lane counts as full. Default 32 MiB.
    pub request_bytes: Size,
    /// Windows from the sensors.
    pub samples: LaneConfig,
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig {
            requests: LaneConfig { capacity: 16_384, when_full: WhenFull::RejectNew },
            request_bytes: Size::mib(32),
            samples: LaneConfig { capacity: 16, when_full: WhenFull::DropOldest },
        }
    }
}

impl QueueConfig {
    pub fn check(&self, at: &mut Checker) {
        for (key, lane) in [("requests.capacity", self.requests), ("samples.capacity", self.samples)] {
            at.expect((1..=100_000).contains(&lane.capacity), key, || format!("expected 1 to 100000, found {}", lane.capacity));
        }
    }
}

/// Items waiting now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Depth {
    pub requests: usize,
    pub samples: usize,
}

/// A request that takes memory while it waits.
pub trait Weighed {
    /// Bytes of its payload.
    fn bytes(&self) -> usize;
}

/// A sample that can be told from those of other sources, so that each source's stay in order.
pub trait Sourced {
    type Source: Clone + Eq + Hash;
    fn source(&self) -> Self::Source;
}

/// What the queue hands out. A taken sample's source stays closed until `Queue::finish`.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<R, S> {
    Request(R),
    Sample(S),
}

/// The lanes themselves: pure, the locking is `Queue`'s.
struct Lanes<R, S: Sourced> {
    requests: VecDeque<R>,
    /// Payload bytes in `requests`.
    bytes: u64,
    samples: VecDeque<S>,
    /// Sources with a sample in work.
    in_work: HashSet<S::Source>,
    config: QueueConfig,
}

impl<R: Weighed, S: Sourced> Lanes<R, S> {
    fn pop_request(&mut self) -> Option<R> {
        let request = self.requests.pop_front()?;
        self.bytes -= request.bytes() as u64;
        Some(request)
    }

    fn take(&mut self) -> Option<Taken<R, S>> {
        if let Some(request) = self.pop_request() {
            return Some(Taken::Request(request));
        }
        let next = self.samples.iter().position(|s| !self.in_work.contains(&s.source()))?;
        let sample = self.samples.remove(next)?;
        self.in_work.insert(sample.source());
        Some(Taken::Sample(sample))
    }

    /// Position of the oldest sample of the source with the most waiting.
    fn most_crowded(&self) -> Option<usize> {
        let waiting = |source: S::Source| self.samples.iter().filter(|s| s.source() == source).count();
        // The first of equals: `max_by_key` would take the last.
        (0..self.samples.len()).rev().max_by_key(|&i| waiting(self.samples[i].source()))
    }

    fn ready(&self) -> bool {
        !self.requests.is_empty() || self.samples.iter().any(|s| !self.in_work.contains(&s.source()))
    }
}

/// A bounded two-lane queue. Offering never blocks.
pub struct Queue<R, S: Sourced> {
    lanes: Mutex<Lanes<R, S>>,
    ready: Condvar,
}

impl<R: Weighed, S: Sourced> Queue<R, S> {
    pub fn new(config: QueueConfig) -> Queue<R, S> {
        let lanes = Lanes { requests: VecDeque::new(), bytes: 0, samples: VecDeque::new(), in_work: HashSet::new(), config };
        Queue { lanes: Mutex::new(lanes), ready: Condvar::new() }
    }

    /// Puts a request in; gives back the one that found no place, this or the oldest.
    pub fn offer_request(&self, request: R) -> Option<R> {
        let mut lanes = self.lock();
        let QueueConfig { requests: LaneConfig { capacity, when_full }, request_bytes, .. } = lanes.config;
        let weight = request.bytes() as u64;
        // A request larger than the bound still has its turn, alone.
        let full = lanes.requests.len() >= capacity || (lanes.bytes > 0 && lanes.bytes + weight > request_bytes.0);
        if full && when_full == WhenFull::RejectNew {
            return Some(request);
        }
        let oldest = if full { lanes.pop_request() } else { None };
        lanes.bytes += weight;
        lanes.requests.push_back(request);
        self.ready.notify_one();
        oldest
    }

    /// Puts a sample in; gives back the one that found no place, this or the oldest.
    pub fn offer_sample(&self, sample: S) -> Option<S> {
        let mut lanes = self.lock();
        let LaneConfig { capacity, when_full } = lanes.config.samples;
        let full = lanes.samples.len() >= capacity;
        if full && when_full == WhenFull::RejectNew {
            return Some(sample);
        }
        lanes.samples.push_back(sample);
        let homeless = if full { lanes.most_crowded().and_then(|at| lanes.samples.remove(at)) } else { None };
        self.ready.notify_one();
        homeless
    }

    /// Waits until something can be taken, at most `patience`; true when there is. Takes nothing.
    pub fn wait(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut lanes = self.lock();
        while !lanes.ready() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            lanes = self.ready.wait_timeout(lanes, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Takes the next item if there is one: a request, else the oldest sample whose source has none in work.
    pub fn take(&self) -> Option<Taken<R, S>> {
        self.lock().take()
    }

    /// Whether a waiting request is `wanted`.
    pub fn any_request(&self, wanted: impl Fn(&R) -> bool) -> bool {
        self.lock().requests.iter().any(wanted)
    }

    /// Takes all waiting requests that are `wanted`, out of turn.
    pub fn take_requests(&self, wanted: impl Fn(&R) -> bool) -> Vec<R> {
        let mut lanes = self.lock();
        let (mut taken, mut left) = (Vec::new(), VecDeque::new());
        for request in std::mem::take(&mut lanes.requests) {
            if wanted(&request) { taken.push(request) } else { left.push_back(request) }
        }
        lanes.bytes -= taken.iter().map(|r| r.bytes() as u64).sum::<u64>();
        lanes.requests = left;
        taken
    }

    /// Opens `source` again, once its sample in work has been answered.
    pub fn finish(&self, source: &S::Source) {
        self.lock().in_work.remove(source);
        self.ready.notify_one();
    }

    /// Applies new capacities. What waits already stays, even over the new capacity.
    pub fn reconfigure(&self, config: QueueConfig) {
        self.lock().config = config;
    }

    pub fn depth(&self) -> Depth {
        let lanes = self.lock();
        Depth { requests: lanes.requests.len(), samples: lanes.samples.len() }
    }

    fn lock(&self) -> MutexGuard<'_, Lanes<R, S>> {
        // Every method leaves the lanes whole, so a panic elsewhere while holding the lock loses nothing.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weighed for u32 {
        fn bytes(&self) -> usize {
            *self as usize
        }
    }

    #[derive(Debug, PartialEq, Eq, Clone)]
    struct Reading(&'static str, u32);

    impl Sourced for Reading {
        type Source = &'static str;
        fn source(&self) -> &'static str {
            self.0
        }
    }

    fn queue(requests: usize, samples: usize) -> Queue<u32, Reading> {
        let mut config = QueueConfig::default();
        config.requests.capacity = requests;
        config.samples.capacity = samples;
        Queue::new(config)
    }

    #[test]
    fn requests_go_before_samples() {
        let q = queue(4, 4);
        q.offer_sample(Reading("a", 1));
        q.offer_request(7);
        assert_eq!(q.take(), Some(Taken::Request(7)));
        assert_eq!(q.take(), Some(Taken::Sample(Reading("a", 1))));
        assert_eq!(q.take(), None);
    }

    #[test]
    fn a_full_lane_follows_its_policy() {
        let q = queue(1, 2);
        assert_eq!(q.offer_request(1), None);
        assert_eq!(q.offer_request(2), Some(2));
        for i in 0..2 {
            assert_eq!(q.offer_sample(Reading("a", i)), None);
        }
        assert_eq!(q.offer_sample(Reading("a", 2)), Some(Reading("a", 0)));
        assert_eq!(q.depth(), Depth { requests: 1, samples: 2 });
    }

    #[test]
    fn waiting_payloads_are_bounded_in_bytes() {
        let q = queue(9, 1);
        q.reconfigure(QueueConfig { request_bytes: Size(10), ..QueueConfig::default() });
        assert_eq!([q.offer_request(11), q.offer_request(1)], [None, Some(1)]);
        assert_eq!(q.take(), Some(Taken::Request(11)));
        assert_eq!([q.offer_request(6), q.offer_request(4), q.offer_request(1)], [None, None, Some(1)]);
    }

    #[test]
    fn requests_can_be_taken_out_of_turn() {
        let q = queue(9, 1);
        for i in 1..=4 {
            q.offer_request(i);
        }
        assert!(q.any_request(|r| *r == 4));
        assert_eq!(q.take_requests(|r| r % 2 == 0), [2, 4]);
        assert!(!q.any_request(|r| *r == 4));
        assert_eq!((q.take(), q.take(), q.take()), (Some(Taken::Request(1)), Some(Taken::Request(3)), None));
    }

    #[test]
    fn a_fast_source_pushes_out_its_own_samples() {
        let q = queue(1, 3);
        for (source, i) in [("slow", 0), ("fast", 1), ("fast", 2)] {
            assert_eq!(q.offer_sample(Reading(source, i)), None);
        }
        assert_eq!(q.offer_sample(Reading("fast", 3)), Some(Reading("fast", 1)));
        assert_eq!(q.take(), Some(Taken::Sample(Reading("slow", 0))));
    }

    #[test]
    fn one_source_is_in_work_once_and_in_order() {
        let q = queue(1, 8);
        for (source, i) in [("a", 1), ("a", 2), ("b", 3)] {
            q.offer_sample(Reading(source, i));
        }
        assert_eq!(q.take(), Some(Taken::Sample(Reading("a", 1))));
        assert_eq!(q.take(), Some(Taken::Sample(Reading("b", 3))));
        assert_eq!(q.take(), None);
        assert!(!q.wait(Duration::ZERO));
        q.finish(&"a");
        assert!(q.wait(Duration::ZERO));
        assert_eq!(q.take(), Some(Taken::Sample(Reading("a", 2))));
    }

    #[test]
    fn a_waiting_thread_is_woken_by_an_offer() {
        let q = std::sync::Arc::new(queue(1, 1));
        let waiter = std::thread::spawn({
            let q = q.clone();
            move || q.wait(Duration::from_secs(60))
        });
        q.offer_request(1);
        assert!(waiter.join().unwrap());
    }
}
