//! How long to wait before the next attempt to connect: exponential with jitter, up to a cap.

use std::time::Duration;

/// Doubles from `min` to `max`; every wait is drawn from the upper half of the current step, so that a fleet does not
/// come back to a restarted broker at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    step: Duration,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min, max, step: min }
    }

    /// The wait before the next attempt, between half the current step and the step. `random` is in 0.0..=1.0.
    pub fn wait(&mut self, random: f64) -> Duration {
        let step = self.step.min(self.max);
        self.step = step.saturating_mul(2).min(self.max);
        step.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
    }

    /// Says how long the last connection lasted. Only one that outlived the longest wait counts as stable and starts over.
    pub fn connection_lasted(&mut self, time: Duration) {
        if time >= self.max {
            self.step = self.min;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn doubles_up_to_the_cap_and_starts_over_after_a_stable_connection() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let waits: Vec<u64> = (0..5).map(|_| backoff.wait(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        backoff.connection_lasted(Duration::from_secs(4));
        assert_eq!(backoff.wait(1.0).as_secs(), 5);
        backoff.connection_lasted(Duration::from_secs(5));
        assert_eq!(backoff.wait(1.0).as_secs(), 1);
    }

    proptest! {
        #[test]
        fn waits_stay_in_bounds(min in 1u64..10_000, extra in 0u64..100_000, draws in prop::collection::vec(0.0f64..=1.0, 1..50)) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + extra));
            let mut backoff = Backoff::new(min, max);
            for draw in draws {
                let wait = backoff.wait(draw);
                prop_assert!(wait >= min / 2 && wait <= max);
            }
        }
    }
}
