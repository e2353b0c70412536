//! The `[governor]` table: budgets, and what each throttle level allows.

use crate::config::problems::Checker;
use crate::config::value::Span;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A `max_celsius` from which the temperature never throttles: no valid reading is above it.
pub const NO_CELSIUS_LIMIT: f64 = 125.0;

/// Budgets and levels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GovernorConfig {
    /// Whether to throttle. Readings and energy are reported either way. Default true.
    pub enabled: bool,
    /// Time between two looks at the board. 100 ms to 2 s, default 1 s.
    pub period: Span,
    /// Temperature budget in degrees Celsius, 30 to 125 (125: never throttle by temperature). Default 75: below the
    /// firmware's own limit of 80 on a Raspberry Pi.
    pub max_celsius: f64,
    /// Width of the band below `max_celsius` in which the level is left alone, in degrees. 1 to 30, default 4.
    pub celsius_band: f64,
    /// `type` of the thermal zone that counts, for example `"cpu-thermal"`. Default: the hottest.
    pub thermal_zone: Option<String>,
    /// Power budget in watts, above 0. Default: none.
    pub max_watts: Option<f64>,
    /// Width of the band below `max_watts` in which the level is left alone, in percent of it. 2 to 90, default 10.
    pub watts_band_percent: f64,
    /// Battery charge in percent at which the slowest level is reached while discharging, 1 to 99. Default: none.
    pub min_battery_percent: Option<f64>,
    /// Throttling begins this many percent of charge above `min_battery_percent`. 1 to 99, default 15.
    pub battery_band_percent: f64,
    /// A reading that fails after it worked counts with its last value for so long. 0 s to 5 min, default 10 s.
    pub sensor_hold: Span,
    /// Level to go to when a reading that has a budget is lost. 1 to the last. Default: the last, the slowest.
    pub safe_level: Option<usize>,
    /// Whether `duty` is had by a lower clock of the CPUs that inference runs on (`scaling_max_freq`), as far as they have one, and
    /// by idle time for the rest. Everything else on them is slower too. Default false.
    pub lower_clock: bool,
    /// The levels, `[[governor.level]]`, from level 0 (unthrottled) to the slowest. 2 to 100 of them. Default: ten, with
    /// duties 1.0, 0.88, 0.76, 0.65, 0.54, 0.43, 0.32, 0.22, 0.12, 0.05.
    #[serde(rename = "level")]
    pub levels: Vec<Level>,
}

/// What one level allows. The pace moves smoothly between a level and its neighbour; `threads` and `lighter_model` switch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Level {
    /// Share of the time that an inference thread may be busy, above 0 to 1: with `lower_clock`, share of the full speed.
    /// Default 1.
    pub duty: f64,
    /// Inferences per second, of all threads together, 0.001 to 1000000. Default: no limit.
    pub max_per_second: Option<f64>,
    /// Threads that may run inferences at a time, from 1. Default: all.
    pub threads: Option<usize>,
    /// Whether models that name a lighter one are replaced by it. Default false.
    pub lighter_model: bool,
}

const DUTIES: [f64; 10] = [1.0, 0.88, 0.76, 0.65, 0.54, 0.43, 0.32, 0.22, 0.12, 0.05];

impl Default for Level {
    fn default() -> Level {
        Level { duty: 1.0, max_per_second: None, threads: None, lighter_model: false }
    }
}

impl Default for GovernorConfig {
    fn default() -> GovernorConfig {
        GovernorConfig {
            enabled: true,
            period: Span::secs(1),
            max_celsius: 75.0,
            celsius_band: 4.0,
            thermal_zone: None,
            max_watts: None,
            watts_band_percent: 10.0,
            min_battery_percent: None,
            battery_band_percent: 15.0,
            sensor_hold: Span::secs(10),
            safe_level: None,
            lower_clock: false,
            levels: DUTIES.iter().map(|&duty| Level { duty, ..Level::default() }).collect(),
        }
    }
}

impl GovernorConfig {
    /// Index of the slowest level.
    pub fn slowest(&self) -> usize {
        self.levels.len().saturating_sub(1)
    }

    /// The level for a lost reading.
    pub fn safe(&self) -> usize {
        self.safe_level.unwrap_or(self.slowest()).min(self.slowest())
    }

    /// Reports every value out of its range, and levels that do not get slower from one to the next.
    pub fn check(&self, at: &mut Checker) {
        let spans = [
            ("period", self.period, Duration::from_millis(100), Duration::from_secs(2)),
            ("sensor_hold", self.sensor_hold, Duration::ZERO, Duration::from_secs(300)),
        ];
        for (key, value, low, high) in spans {
            let holds = (low..=high).contains(&value.0);
            at.expect(holds, key, || format!("expected {} to {}, found {value}", Span(low), Span(high)));
        }
        let numbers = [
            ("max_celsius", Some(self.max_celsius), 30.0, NO_CELSIUS_LIMIT),
            ("celsius_band", Some(self.celsius_band), 1.0, 30.0),
            ("max_watts", self.max_watts, 0.01, 10_000.0),
            ("watts_band_percent", Some(self.watts_band_percent), 2.0, 90.0),
            ("min_battery_percent", self.min_battery_percent, 1.0, 99.0),
            ("battery_band_percent", Some(self.battery_band_percent), 1.0, 99.0),
        ];
        for (key, value, low, high) in numbers {
            expect_number(at, key, value, low, high);
        }
        self.check_levels(at);
    }

    fn check_levels(&self, at: &mut Checker) {
        let count = self.levels.len();
        at.expect((2..=100).contains(&count), "level", || format!("expected 2 to 100 levels, found {count}"));
        if let Some(level) = self.safe_level {
            let holds = level >= 1 && level <= self.slowest();
            at.expect(holds, "safe_level", || format!("expected 1 to {}, the last level, found {level}", self.slowest()));
        }
        for (i, level) in self.levels.iter().enumerate() {
            let mut at = at.below("level");
            let mut at = at.below(&format!("[{i}]"));
            level.check(&mut at);
            if let Some(faster) = i.checked_sub(1).and_then(|above| self.levels.get(above)) {
                level.check_slower(faster, &mut at);
            }
        }
    }
}

impl Level {
    fn check(&self, at: &mut Checker) {
        at.expect(self.duty > 0.0 && self.duty <= 1.0, "duty", || format!("expected above 0 to 1, found {}", self.duty));
        expect_number(at, "max_per_second", self.max_per_second, 0.001, 1e6);
        at.expect(self.threads != Some(0), "threads", || "expected 1 or more, found 0".to_string());
    }

    /// A level must not allow more than the one before it: the law relies on it.
    fn check_slower(&self, faster: &Level, at: &mut Checker) {
        let not_above = |mine: Option<f64>, other: Option<f64>| mine.unwrap_or(f64::MAX) <= other.unwrap_or(f64::MAX);
        let message = "must not allow more than the level before it";
        at.expect(self.duty <= faster.duty, "duty", || message.to_string());
        at.expect(not_above(self.max_per_second, faster.max_per_second), "max_per_second", || message.to_string());
        let threads = |level: &Level| level.threads.map(|n| n as f64);
        at.expect(not_above(threads(self), threads(faster)), "threads", || message.to_string());
        at.expect(self.lighter_model >= faster.lighter_model, "lighter_model", || "must stay true once a level sets it".to_string());
    }
}

fn expect_number(at: &mut Checker, key: &str, value: Option<f64>, low: f64, high: f64) {
    if let Some(value) = value {
        at.expect((low..=high).contains(&value), key, || format!("expected {low} to {high}, found {value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let config: GovernorConfig = toml::from_str(text).unwrap();
        let mut found = Vec::new();
        config.check(&mut Checker::new(&mut found).below("governor"));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_are_valid_and_survive_toml() {
        assert_eq!(problems(""), Vec::<String>::new());
        let text = toml::to_string(&GovernorConfig::default()).unwrap();
        assert_eq!(toml::from_str::<GovernorConfig>(&text).unwrap(), GovernorConfig::default());
    }

    #[test]
    fn every_error_is_named_by_its_key() {
        let found = problems(
            "period = \"5s\"\nmax_celsius = nan\nmax_watts = -1\nmin_battery_percent = 0\nsafe_level = 7\n\
             [[level]]\nduty = 0.5\nthreads = 2\nlighter_model = true\n[[level]]\nduty = 0.6\nthreads = 0\nmax_per_second = inf\n",
        );
        let keys: Vec<&str> = found.iter().filter_map(|line| line.split(':').next()).collect();
        let expected = [
            "period",
            "max_celsius",
            "max_watts",
            "min_battery_percent",
            "safe_level",
            "level[1].max_per_second",
            "level[1].threads",
            "level[1].duty",
            "level[1].max_per_second",
            "level[1].lighter_model",
        ];
        assert_eq!(keys, expected.map(|key| format!("governor.{key}")));
        assert!(found[0].contains("2s") && found[0].contains("5s"), "{}", found[0]);
    }

    #[test]
    fn unknown_keys_and_one_level_are_refused() {
        assert!(toml::from_str::<GovernorConfig>("max_celcius = 70").is_err());
        assert!(problems("[[level]]\nduty = 1\n")[0].contains("2 to 100 levels"));
    }
}
