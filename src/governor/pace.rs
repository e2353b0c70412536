//! Holds the inference threads to the throttle.

use super::pacing::{Limits, Pacer, Wait, Work};
use super::throttle::Throttle;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A waiting thread looks at its stop condition at least this often.
const GLANCE: Duration = Duration::from_millis(50);

/// The pace that all inference threads share.
pub struct Pace {
    epoch: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    pacer: Pacer,
    throttle: Throttle,
    /// Each thread's last inference; a slot is taken while its `PacedWorker` lives.
    workers: Vec<Slot>,
    finished: u64,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    taken: bool,
    last: Option<Work>,
}

impl Pace {
    /// Unthrottled until the first [`set`](Pace::set).
    pub fn new() -> Arc<Pace> {
        let state = State { pacer: Pacer::new(Limits::NONE), throttle: Throttle::default(), workers: Vec::new(), finished: 0 };
        Arc::new(Pace { epoch: Instant::now(), state: Mutex::new(state), changed: Condvar::new() })
    }

    /// The place of one inference thread. Each thread has its own and keeps it: the duty is counted by it.
    pub fn worker(self: &Arc<Pace>) -> PacedWorker {
        let mut state = self.lock();
        let free = state.workers.iter().position(|slot| !slot.taken);
        let slot = free.unwrap_or(state.workers.len());
        if free.is_none() {
            state.workers.push(Slot::default());
        }
        if let Some(entry) = state.workers.get_mut(slot) {
            *entry = Slot { taken: true, last: None };
        }
        drop(state);
        PacedWorker { pace: self.clone(), slot }
    }

    /// A new throttle. Threads that wait see it at once.
    pub fn set(&self, throttle: Throttle) {
        let mut state = self.lock();
        state.pacer.set(Limits { duty: throttle.duty, max_per_second: throttle.max_per_second, threads: throttle.threads });
        state.throttle = throttle;
        drop(state);
        self.changed.notify_all();
    }

    /// The throttle as it is now.
    pub fn snapshot(&self) -> Throttle {
        self.lock().throttle.clone()
    }

    /// Inferences finished since the start.
    pub fn finished(&self) -> u64 {
        self.lock().finished
    }

    /// Makes every waiting thread look at its stop condition now rather than within 50 ms.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// A poisoned lock holds a consistent state: no code that can panic runs while it is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an inference or waits a while: true if it has begun.
    fn begin_or_wait(&self, slot: usize) -> Option<Throttle> {
        let mut state = self.lock();
        let now = self.now();
        let last = state.workers.get(slot).and_then(|slot| slot.last);
        let wait = match state.pacer.begin(now, last) {
            Ok(()) => return Some(state.throttle.clone()),
            Err(Wait::Until(due)) => due.saturating_sub(now).min(GLANCE),
            Err(Wait::ForOthers) => GLANCE,
        };
        drop(self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner));
        None
    }

    fn end(&self, slot: usize, busy: Duration, completed: bool) {
        let mut state = self.lock();
        let finished = self.now();
        state.pacer.end();
        state.finished += u64::from(completed);
        if let Some(entry) = state.workers.get_mut(slot) {
            entry.last = Some(Work { finished, busy });
        }
        let limited = state.throttle.threads.is_some();
        drop(state);
        if limited {
            self.changed.notify_all();
        }
    }
}

/// One inference thread's place in the pace.
pub struct PacedWorker {
    pace: Arc<Pace>,
    slot: usize,
}

impl PacedWorker {
    /// Waits until the next inference may begin. `None` as soon as `stop` says so, for example because the daemon stops or
    /// the request expires; it is asked before anything else, and at least every 50 ms.
    pub fn acquire(&self, stop: impl Fn() -> bool) -> Option<Permit> {
        let asked = Instant::now();
        loop {
            if stop() {
                return None;
            }
            if let Some(throttle) = self.pace.begin_or_wait(self.slot) {
                let begun = Instant::now();
                let waited = begun.duration_since(asked);
                return Some(Permit { pace: self.pace.clone(), slot: self.slot, begun, waited, throttle, ended: false });
            }
        }
    }

    /// The pace that this is a place in.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }
}

impl Drop for PacedWorker {
    fn drop(&mut self) {
        if let Some(entry) = self.pace.lock().workers.get_mut(self.slot) {
            *entry = Slot::default();
        }
    }
}

/// Leave to run one inference. Dropping it (an error, a panic) ends the inference without counting it as finished.
#[must_use]
pub struct Permit {
    pace: Arc<Pace>,
    slot: usize,
    begun: Instant,
    /// Time spent waiting for the pace.
    pub waited: Duration,
    /// The throttle under which it was given.
    pub throttle: Throttle,
    ended: bool,
}

impl Permit {
    /// The inference is done; `busy` is the time that it kept the thread busy.
    pub fn finished(mut self, busy: Duration) {
        self.ended = true;
        self.pace.end(self.slot, busy, true);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.ended {
            self.pace.end(self.slot, self.begun.elapsed(), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    const NEVER: fn() -> bool = || false;

    fn slow() -> Throttle {
        Throttle { level: 3, duty: 0.001, ..Throttle::default() }
    }

    #[test]
    fn unthrottled_inferences_begin_at_once_and_are_counted() {
        let pace = Pace::new();
        let worker = pace.worker();
        for _ in 0..3 {
            worker.acquire(NEVER).unwrap().finished(Duration::from_secs(5));
        }
        drop(worker.acquire(NEVER));
        assert_eq!(pace.finished(), 3);
    }

    #[test]
    fn a_new_level_releases_a_thread_that_waits() {
        let pace = Pace::new();
        pace.set(slow());
        let worker = pace.worker();
        worker.acquire(NEVER).unwrap().finished(Duration::from_secs(3600));
        let (waiting, asked) = (AtomicBool::new(false), &worker);
        thread::scope(|scope| {
            let permit = scope.spawn(|| {
                asked.acquire(|| {
                    waiting.store(true, Ordering::SeqCst);
                    false
                })
            });
            while !waiting.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            pace.set(Throttle::default());
            assert_eq!(permit.join().unwrap().unwrap().throttle.level, 0);
        });
    }

    #[test]
    fn stopping_ends_the_wait() {
        let pace = Pace::new();
        pace.set(slow());
        let worker = pace.worker();
        worker.acquire(NEVER).unwrap().finished(Duration::from_secs(3600));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| worker.acquire(|| stop.load(Ordering::SeqCst)).is_none());
            stop.store(true, Ordering::SeqCst);
            pace.wake();
            assert!(waiting.join().unwrap());
        });
    }

    #[test]
    fn a_dropped_permit_frees_its_thread_and_a_dropped_worker_its_slot() {
        let pace = Pace::new();
        pace.set(Throttle { threads: Some(1), ..Throttle::default() });
        let (first, second) = (pace.worker(), pace.worker());
        let permit = first.acquire(NEVER);
        let asked = std::cell::Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() > 1
        };
        assert!(second.acquire(stop).is_none(), "only one at a time");
        drop(permit);
        assert!(second.acquire(NEVER).is_some());
        drop(first);
        assert_eq!(pace.worker().slot, 0);
    }
}
