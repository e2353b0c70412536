//! What the daemon has done since it started, as counters that any thread may raise.

use serde::ser::{Serialize, SerializeMap, Serializer};
use std::sync::atomic::{AtomicU64, Ordering};

/// The countable events; the name is the one in `stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Requests that came from the broker.
    Requests,
    /// Windows that sensors gave.
    Samples,
    /// Answers with a result.
    Results,
    /// Answers with an error.
    Errors,
    /// Requests whose deadline passed in the queue.
    Expired,
    /// Requests refused because the queue was full.
    Busy,
    /// Samples that gave way in the queue.
    SamplesDropped,
    /// Self-test inferences while idle.
    SelfTests,
    /// Inferences that waited for the governor's pace.
    Paced,
    /// Configuration reloads that were applied.
    Reloads,
    /// Configuration reloads that were refused.
    ReloadsRefused,
}

const NAMES: [(Count, &str); 11] = [
    (Count::Requests, "requests"),
    (Count::Samples, "samples"),
    (Count::Results, "results"),
    (Count::Errors, "errors"),
    (Count::Expired, "expired"),
    (Count::Busy, "busy"),
    (Count::SamplesDropped, "samples_dropped"),
    (Count::SelfTests, "self_tests"),
    (Count::Paced, "paced"),
    (Count::Reloads, "reloads"),
    (Count::ReloadsRefused, "reloads_refused"),
];

/// All counters. Serializes as one object of name and value.
#[derive(Default)]
pub struct Metrics {
    counts: [AtomicU64; NAMES.len()],
}

impl Metrics {
    pub fn add(&self, count: Count) {
        self.counts[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(NAMES.len()))?;
        for (count, name) in NAMES {
            map.serialize_entry(name, &self.get(count))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_order_of_the_counters() {
        for (index, (count, _)) in NAMES.iter().enumerate() {
            assert_eq!(*count as usize, index);
        }
    }

    #[test]
    fn counts_serialize_under_their_names() {
        let metrics = Metrics::default();
        metrics.add(Count::Busy);
        metrics.add(Count::Busy);
        let json = serde_json::to_value(&metrics).unwrap();
        assert_eq!(json["busy"], 2);
        assert_eq!(json["results"], 0);
    }
}
