//! When each row of a recording is due.

use super::Pace;
use std::time::{Duration, Instant};

/// Longest recording that is paced, in seconds (ten years): keeps any `t` within what instants can hold.
const MAX_SECONDS: f64 = 3.2e8;

/// Counts rows and laps. Due times are computed from the first row's, so that errors do not add up.
pub struct Clock {
    pace: Pace,
    rate: Option<f64>,
    /// When the first row was given.
    origin: Option<Instant>,
    /// Rows so far.
    count: u64,
    /// Seconds after `origin` at which this lap began, and its first `t`.
    lap: f64,
    first: Option<f64>,
    /// Seconds after `origin` of the last row, and from the last but one to it.
    last: f64,
    step: f64,
}

impl Clock {
    pub fn new(pace: Pace, rate: Option<f64>) -> Clock {
        Clock { pace, rate, origin: None, count: 0, lap: 0.0, first: None, last: 0.0, step: 0.0 }
    }

    /// When the next row is due, whose recorded time is `t` seconds; `None` is at once. A `t` that goes back is due with the
    /// row before it.
    pub fn due(&mut self, t: Option<f64>, now: Instant) -> Result<Option<Instant>, String> {
        let seconds = match (self.pace, t, self.rate) {
            (Pace::AsFastAsPossible, _, _) => return Ok(None),
            (Pace::Recorded, Some(t), _) => self.lap + (t - *self.first.get_or_insert(t)),
            (_, _, Some(rate)) => self.count as f64 / rate,
            (_, _, None) => return Err("has no time column `t`: set `rate`, or pace = \"as-fast-as-possible\"".into()),
        };
        let seconds = if seconds.is_finite() { seconds.clamp(self.last, MAX_SECONDS.max(self.last)) } else { self.last };
        if self.count > 0 {
            self.step = seconds - self.last;
        }
        self.count += 1;
        self.last = seconds;
        let origin = *self.origin.get_or_insert(now);
        Ok(origin.checked_add(Duration::try_from_secs_f64(seconds).unwrap_or_default()))
    }

    /// The recording starts again, one step after its last row.
    pub fn start_again(&mut self) {
        self.lap = self.last + self.step;
        self.first = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(clock: &mut Clock, origin: Instant, t: Option<f64>) -> f64 {
        clock.due(t, origin).unwrap().unwrap().duration_since(origin).as_secs_f64()
    }

    #[test]
    fn the_time_column_counts_from_its_first_row_and_laps_follow_on() {
        let origin = Instant::now();
        let mut clock = Clock::new(Pace::Recorded, None);
        let mut due = Vec::new();
        for _ in 0..2 {
            due.extend([100.0, 100.5, 101.5].map(|t| seconds(&mut clock, origin, Some(t))));
            clock.start_again();
        }
        assert_eq!(due, [0.0, 0.5, 1.5, 2.5, 3.0, 4.0]);
    }

    #[test]
    fn a_fixed_rate_overrides_the_time_column_and_as_fast_as_possible_overrides_both() {
        let origin = Instant::now();
        let mut fixed = Clock::new(Pace::Fixed, Some(4.0));
        assert_eq!([9.0, 7.0, 8.0].map(|t| seconds(&mut fixed, origin, Some(t))), [0.0, 0.25, 0.5]);
        assert_eq!(Clock::new(Pace::AsFastAsPossible, Some(4.0)).due(Some(1.0), origin), Ok(None));
        assert!(Clock::new(Pace::Recorded, None).due(None, origin).unwrap_err().contains("time column"));
    }

    proptest! {
        #[test]
        fn any_time_column_gives_times_that_never_go_back(times in prop::collection::vec(any::<f64>(), 1..20)) {
            let origin = Instant::now();
            let mut clock = Clock::new(Pace::Recorded, None);
            let mut last = 0.0;
            for t in times {
                let now = seconds(&mut clock, origin, Some(t));
                prop_assert!(now >= last);
                last = now;
            }
        }
    }
}
