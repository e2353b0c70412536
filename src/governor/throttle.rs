//! What the governor asks of the inference threads, and why.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Why the pace is what it is. Stable names, part of the public interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Unthrottled.
    #[default]
    None,
    /// Near or above `max_celsius`.
    Temperature,
    /// Near or above `max_watts`.
    Watts,
    /// The charge is near or below `min_battery_percent`.
    Battery,
    /// The supply's voltage is or was just too low.
    UnderVoltage,
    /// The firmware limits the clock, or just did.
    Firmware,
    /// A reading that has a budget cannot be had.
    SensorLost,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // serde's name is the one source of the spelling.
        self.serialize(f)
    }
}

/// The throttle as it is now. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Throttle {
    /// Index into `[[governor.level]]`; 0 is unthrottled. The pace lies between this level's and the one before.
    pub level: usize,
    pub reason: Reason,
    /// The reason in words, with figures; empty where there is none.
    pub text: Arc<str>,
    /// Share of the time that a thread may be busy, above 0 to 1.
    pub duty: f64,
    /// The cap on the clock over the cap that was found, above 0 to 1. `duty` comes on top of it.
    pub clock: f64,
    /// Inferences per second of all threads together.
    pub max_per_second: Option<f64>,
    /// Inferences that may run at a time; also the most threads that one should use.
    pub threads: Option<usize>,
    /// Whether models that name a lighter one are to be replaced by it.
    pub lighter_model: bool,
}

impl Default for Throttle {
    /// Unthrottled.
    fn default() -> Throttle {
        Throttle {
            level: 0,
            reason: Reason::None,
            text: Arc::from(""),
            duty: 1.0,
            clock: 1.0,
            max_per_second: None,
            threads: None,
            lighter_model: false,
        }
    }
}

impl Throttle {
    /// As slow at the full clock.
    pub fn at_full_clock(self) -> Throttle {
        Throttle { duty: self.duty * self.clock, clock: 1.0, ..self }
    }
}
