//! Proof of life: the time of each worker's last finished inference. The service watchdog is fed from this, so a hung
//! engine, a deadlock or a dead thread stops it, whatever else still runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One clock for each worker.
pub struct Progress {
    start: Instant,
    /// Milliseconds from `start` to the worker's last finished inference.
    last: Vec<AtomicU64>,
}

impl Progress {
    /// All workers count as having just finished.
    pub fn new(workers: usize) -> Progress {
        Progress { start: Instant::now(), last: (0..workers).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Worker `index` finished an inference now.
    pub fn finished(&self, index: usize) {
        if let Some(last) = self.last.get(index) {
            last.store(self.elapsed_ms(), Ordering::Relaxed);
        }
    }

    /// How long ago the slowest worker finished its last inference.
    pub fn oldest(&self) -> Duration {
        let now = self.elapsed_ms();
        let ages = self.last.iter().map(|last| now.saturating_sub(last.load(Ordering::Relaxed)));
        Duration::from_millis(ages.max().unwrap_or(0))
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_idle_worker_is_enough_to_be_old() {
        let mut progress = Progress::new(2);
        progress.start = Instant::now().checked_sub(Duration::from_secs(100)).unwrap();
        progress.finished(0);
        assert!(progress.oldest() >= Duration::from_secs(100));
        progress.finished(1);
        assert!(progress.oldest() < Duration::from_secs(50));
    }
}
