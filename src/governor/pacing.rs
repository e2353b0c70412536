//! When the next inference may begin: arithmetic only, the time is handed in.
//!
//! Three limits hold together. *Rate*: two inferences begin at least `1 / max_per_second` apart, so that no window holds
//! more than its length times the rate, plus one; idle time is never saved up for a burst. *Duty*: after an inference of
//! length `b` its thread rests for `b (1 - duty) / duty`, so that it is busy for `duty` of the time. *Threads*: no more
//! than so many at a time.

use std::time::Duration;

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Above 0 to 1; anything else is brought into that range.
    pub duty: f64,
    pub max_per_second: Option<f64>,
    pub threads: Option<usize>,
}

impl Limits {
    pub const NONE: Limits = Limits { duty: 1.0, max_per_second: None, threads: None };
}

/// A thread's last inference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Time of its end.
    pub finished: Duration,
    /// How long it ran.
    pub busy: Duration,
}

/// How long until it is worth asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until this time at the earliest.
    Until(Duration),
    /// Until another inference finishes.
    ForOthers,
}

/// The state that all threads share.
#[derive(Clone, Debug)]
pub struct Pacer {
    limits: Limits,
    last_begin: Option<Duration>,
    running: usize,
}

const LEAST_DUTY: f64 = 1e-3;

impl Pacer {
    pub fn new(limits: Limits) -> Pacer {
        Pacer { limits, last_begin: None, running: 0 }
    }

    /// New limits, for every inference that has not begun, including the rests under way.
    pub fn set(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Begins an inference at `now`, or says how long not. `last` is the asking thread's last inference.
    pub fn begin(&mut self, now: Duration, last: Option<Work>) -> Result<(), Wait> {
        if self.limits.threads.is_some_and(|most| self.running >= most.max(1)) {
            return Err(Wait::ForOthers);
        }
        let rested = last.map_or(Duration::ZERO, |work| work.finished.saturating_add(self.rest(work.busy)));
        let slot = self.last_begin.map_or(Duration::ZERO, |begin| begin.saturating_add(self.interval()));
        let due = rested.max(slot);
        if due > now {
            return Err(Wait::Until(due));
        }
        self.last_begin = Some(now);
        self.running += 1;
        Ok(())
    }

    /// An inference that began has ended, however it ended.
    pub fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    fn rest(&self, busy: Duration) -> Duration {
        let duty = if self.limits.duty >= 1.0 { 1.0 } else { self.limits.duty.max(LEAST_DUTY) };
        seconds(busy.as_secs_f64() * (1.0 - duty) / duty)
    }

    fn interval(&self) -> Duration {
        self.limits.max_per_second.map_or(Duration::ZERO, |rate| seconds(1.0 / rate))
    }
}

/// Too long for a `Duration` is for ever; NaN and negative are nothing.
fn seconds(value: f64) -> Duration {
    if value > 0.0 { Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Threads that ask again as soon as they may, with inferences of the given lengths: (begin, end) of each.
    fn run(limits: Limits, threads: usize, lengths: &[u64]) -> Vec<(Duration, Duration)> {
        let mut pacer = Pacer::new(limits);
        let mut last: Vec<Option<Work>> = vec![None; threads];
        let mut ends: Vec<Option<Duration>> = vec![None; threads];
        let (mut now, mut spans, mut next) = (Duration::ZERO, Vec::new(), lengths.iter());
        loop {
            for thread in 0..threads {
                if let Some(end) = ends[thread].filter(|end| *end <= now) {
                    pacer.end();
                    let begun = spans.iter().rfind(|(_, e)| *e == end).map(|(b, _)| *b).unwrap();
                    (ends[thread], last[thread]) = (None, Some(Work { finished: end, busy: end - begun }));
                }
                if ends[thread].is_none() && pacer.begin(now, last[thread]).is_ok() {
                    let Some(length) = next.next() else { return spans };
                    let end = now + Duration::from_millis(*length);
                    ends[thread] = Some(end);
                    spans.push((now, end));
                }
            }
            now += Duration::from_millis(1);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_window_holds_more_than_the_rate_and_one(
            rate in 1.0f64..100.0, lengths in prop::collection::vec(1u64..50, 2..60), threads in 1usize..5
        ) {
            let spans = run(Limits { max_per_second: Some(rate), ..Limits::NONE }, threads, &lengths);
            for (i, from) in spans.iter().enumerate() {
                for (count, to) in spans.iter().skip(i).enumerate() {
                    let window = (to.0 - from.0).as_secs_f64();
                    prop_assert!(count as f64 <= window * rate + 1e-6, "{count} more in {window} s at {rate}/s");
                }
            }
        }

        #[test]
        fn a_thread_is_busy_for_its_duty(duty in 0.02f64..1.0, lengths in prop::collection::vec(5u64..50, 20..40)) {
            let spans = run(Limits { duty, ..Limits::NONE }, 1, &lengths);
            // From the first begin to the last: whole cycles of work and rest.
            let cycles = &spans[..spans.len() - 1];
            let busy: f64 = cycles.iter().map(|(b, e)| (*e - *b).as_secs_f64()).sum();
            let total = spans.last().unwrap().0.as_secs_f64();
            prop_assert!(busy / total <= duty + 1e-9, "{} over {duty}", busy / total);
            // Each rest is rounded up to the millisecond of the simulated clock.
            prop_assert!(busy / (total - 0.001 * cycles.len() as f64) >= duty - 1e-9);
        }

        #[test]
        fn no_more_threads_than_allowed(
            threads in 1usize..4, all in 1usize..6, lengths in prop::collection::vec(1u64..40, 5..40)
        ) {
            let spans = run(Limits { threads: Some(threads), ..Limits::NONE }, all, &lengths);
            for (begin, _) in &spans {
                let running = spans.iter().filter(|(b, e)| b <= begin && begin < e).count();
                prop_assert!(running <= threads);
            }
        }

        #[test]
        fn no_limit_is_absurd_enough_to_panic(
            duty in prop::num::f64::ANY, rate in prop::option::of(prop::num::f64::ANY), now: u64, busy: u64, finished: u64
        ) {
            let mut pacer = Pacer::new(Limits { duty, max_per_second: rate, threads: Some(0) });
            let last = Work { finished: Duration::from_nanos(finished), busy: Duration::from_nanos(busy) };
            let _ = pacer.begin(Duration::from_nanos(now), Some(last));
            pacer.end();
            pacer.end();
            let _ = pacer.begin(Duration::MAX, None);
        }
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let mut pacer = Pacer::new(Limits { max_per_second: Some(10.0), ..Limits::NONE });
        let late = Duration::from_secs(100);
        assert_eq!(pacer.begin(late, None), Ok(()));
        assert_eq!(pacer.begin(late, None), Err(Wait::Until(late + Duration::from_millis(100))));
    }

    #[test]
    fn a_new_limit_shortens_a_rest_under_way() {
        let mut pacer = Pacer::new(Limits { duty: 0.01, ..Limits::NONE });
        let work = Work { finished: Duration::from_secs(1), busy: Duration::from_secs(1) };
        assert_eq!(pacer.begin(work.finished, Some(work)), Err(Wait::Until(Duration::from_secs(100))));
        pacer.set(Limits { duty: 0.5, ..Limits::NONE });
        assert_eq!(pacer.begin(work.finished, Some(work)), Err(Wait::Until(Duration::from_secs(2))));
        assert_eq!(pacer.begin(Duration::from_secs(2), Some(work)), Ok(()));
    }
}
