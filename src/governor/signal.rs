//! A reading over time: remembers the last value while the sensor fails, and tells a lost sensor from one that never was.

use std::time::Duration;

/// What is known of a quantity now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sense<T> {
    Fresh(T),
    /// The reading fails; this is its last value, not older than the hold time.
    Held(T),
    /// The reading has failed for longer than the hold time, or is there but never worked.
    Lost,
    /// The board has no such sensor.
    Absent,
}

/// One quantity's memory.
#[derive(Clone, Debug)]
pub struct Signal<T> {
    last: Option<(T, Duration)>,
}

impl<T> Default for Signal<T> {
    fn default() -> Signal<T> {
        Signal { last: None }
    }
}

impl<T: Copy> Signal<T> {
    /// `broken`: there is a sensor, and reading it failed. A quantity that was seen before is never absent.
    pub fn see(&mut self, value: Option<T>, broken: bool, now: Duration, hold: Duration) -> Sense<T> {
        match (value, self.last) {
            (Some(value), _) => {
                self.last = Some((value, now));
                Sense::Fresh(value)
            }
            (None, Some((last, seen))) if now.saturating_sub(seen) <= hold => Sense::Held(last),
            (None, Some(_)) => Sense::Lost,
            (None, None) if broken => Sense::Lost,
            (None, None) => Sense::Absent,
        }
    }

    /// The sensor is gone for good reason, for example a battery that was taken out.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_sensor_is_held_then_lost_then_fresh_again() {
        let (mut signal, hold) = (Signal::default(), Duration::from_secs(10));
        let at = Duration::from_secs;
        assert_eq!(signal.see(None, false, at(0), hold), Sense::Absent);
        assert_eq!(signal.see(None, true, at(0), hold), Sense::Lost);
        assert_eq!(signal.see(Some(70), false, at(1), hold), Sense::Fresh(70));
        assert_eq!(signal.see(None, true, at(11), hold), Sense::Held(70));
        assert_eq!(signal.see(None, false, at(12), hold), Sense::Lost);
        assert_eq!(signal.see(Some(20), false, at(13), hold), Sense::Fresh(20));
        signal.forget();
        assert_eq!(signal.see(None, false, at(14), hold), Sense::Absent);
    }
}
