//! Latencies of the last inferences, for the periodic statistics: a fixed window, no allocation while it runs.

use serde::Serialize;
use std::time::Duration;

/// Inferences that the percentiles look back on.
const WINDOW: usize = 512;

/// The smallest of the sorted values that at least `percent` of all do not exceed; the smallest of all for 0. The default for
/// no values.
pub fn nearest_rank<T: Copy + Default>(sorted: &[T], percent: usize) -> T {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// The most recent durations, in a ring.
pub struct Latencies {
    ring: Vec<u32>,
    next: usize,
    count: u64,
}

/// Percentiles by nearest rank over the window, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50_us: u32,
    pub p99_us: u32,
    pub max_us: u32,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies { ring: Vec::with_capacity(WINDOW), next: 0, count: 0 }
    }
}

impl Latencies {
    pub fn add(&mut self, duration: Duration) {
        let us = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        if self.ring.len() < WINDOW {
            self.ring.push(us);
        } else {
            self.ring[self.next] = us;
        }
        self.next = (self.next + 1) % WINDOW;
        self.count += 1;
    }

    pub fn percentiles(&self) -> Percentiles {
        let mut sorted = self.ring.clone();
        sorted.sort_unstable();
        let rank = |percent| nearest_rank(&sorted, percent);
        Percentiles { count: self.count, p50_us: rank(50), p99_us: rank(99), max_us: sorted.last().copied().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_window() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentiles(), Percentiles::default());
        for us in 1..=100 {
            latencies.add(Duration::from_micros(us));
        }
        assert_eq!(latencies.percentiles(), Percentiles { count: 100, p50_us: 50, p99_us: 99, max_us: 100 });
        for _ in 0..WINDOW {
            latencies.add(Duration::from_micros(7));
        }
        assert_eq!(latencies.percentiles(), Percentiles { count: 100 + WINDOW as u64, p50_us: 7, p99_us: 7, max_us: 7 });
    }
}
