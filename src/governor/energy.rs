//! Joules per inference.
//!
//! What is reported is the energy of everything that the sensor sees (a Jetson's whole board, a laptop's battery drain, an
//! x86 package under RAPL) over the last minute, divided by the inferences that finished in it. The idle power is part of
//! it: it is what an inference costs at the present rate, not what one more would cost.

use super::readings::Readings;
use std::collections::VecDeque;
use std::time::Duration;

/// The window.
pub const WINDOW: Duration = Duration::from_secs(60);

/// The energy and the inferences of one period.
#[derive(Clone, Copy, Debug)]
struct Tick {
    end: Duration,
    joules: f64,
    inferences: u64,
}

/// Adds up energy and inferences.
#[derive(Clone, Debug, Default)]
pub struct EnergyMeter {
    ticks: VecDeque<Tick>,
    before: Option<Before>,
}

/// What the last tick saw.
#[derive(Clone, Debug)]
struct Before {
    now: Duration,
    finished: u64,
    source: &'static str,
    joules: Option<f64>,
    watts: f64,
}

impl EnergyMeter {
    /// One tick: the readings at `now`, and the inferences finished since the start. A counter of joules counts as it is;
    /// otherwise the mean of the power at both ends of the period does. `None` while the power cannot be read, and
    /// after a change of the sensor until there is a period again; `None`, too, where no inference finished.
    pub fn tick(&mut self, readings: &Readings, now: Duration, finished: u64) -> Option<f64> {
        let now_seen = readings.watts.filter(|w| w.is_finite()).zip(readings.power_source).map(|(watts, source)| Before {
            now,
            finished,
            source,
            joules: readings.joules,
            watts,
        });
        match (&self.before, &now_seen) {
            (Some(before), Some(seen)) if before.source == seen.source => {
                let joules = energy(before, seen);
                self.ticks.push_back(Tick { end: now, joules, inferences: finished.saturating_sub(before.finished) });
            }
            _ => self.ticks.clear(),
        }
        self.before = now_seen;
        while self.ticks.front().is_some_and(|tick| now.saturating_sub(tick.end) >= WINDOW) {
            self.ticks.pop_front();
        }
        let inferences: u64 = self.ticks.iter().map(|tick| tick.inferences).sum();
        let joules: f64 = self.ticks.iter().map(|tick| tick.joules).sum();
        (inferences > 0).then(|| joules / inferences as f64)
    }
}

fn energy(before: &Before, seen: &Before) -> f64 {
    let counted = before.joules.zip(seen.joules).map(|(from, to)| to - from).filter(|joules| *joules >= 0.0);
    let seconds = seen.now.saturating_sub(before.now).as_secs_f64();
    counted.unwrap_or((before.watts + seen.watts) / 2.0 * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watts(watts: f64) -> Readings {
        Readings { watts: Some(watts), power_source: Some("ina3221"), ..Readings::default() }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn power_times_time_over_inferences() {
        let mut meter = EnergyMeter::default();
        assert_eq!(meter.tick(&watts(4.0), at(0), 100), None);
        assert_eq!(meter.tick(&watts(6.0), at(2), 105), Some(2.0));
        assert_eq!(meter.tick(&watts(6.0), at(4), 106), Some(22.0 / 6.0));
    }

    #[test]
    fn only_the_last_minute_counts() {
        let mut meter = EnergyMeter::default();
        let mut last = None;
        for second in 0..200 {
            let power = if second < 100 { 10.0 } else { 2.0 };
            last = meter.tick(&watts(power), at(second), second * 4);
        }
        assert_eq!(last, Some(0.5));
    }

    #[test]
    fn a_counter_is_exact_and_a_backwards_one_is_not_believed() {
        let with = |joules| Readings { joules: Some(joules), power_source: Some("rapl"), watts: Some(99.0), ..Readings::default() };
        let mut meter = EnergyMeter::default();
        meter.tick(&with(1000.0), at(0), 0);
        assert_eq!(meter.tick(&with(1010.0), at(1), 5), Some(2.0));
        assert_eq!(meter.tick(&with(0.0), at(2), 10), Some((10.0 + 99.0) / 10.0));
    }

    #[test]
    fn nothing_is_made_up_where_nothing_is_read() {
        let mut meter = EnergyMeter::default();
        assert_eq!(meter.tick(&Readings::default(), at(0), 0), None);
        assert_eq!(meter.tick(&watts(4.0), at(1), 10), None);
        assert_eq!(meter.tick(&watts(4.0), at(2), 10), None, "no inference");
        assert_eq!(meter.tick(&watts(4.0), at(3), 12), Some(4.0));
        let other = Readings { power_source: Some("battery"), ..watts(9.0) };
        assert_eq!(meter.tick(&other, at(4), 14), None, "another sensor");
        assert_eq!(meter.tick(&watts(f64::NAN), at(5), 16), None);
    }
}
