//! The control law: readings and time in, a throttle out. No I/O and no clock of its own.
//!
//! The state is one number, the *throttling* `u` from 0 (none) to 1 (the slowest level). Every budget answers each step
//! with the speed at which it wants `u` to change, and the highest wins:
//!
//! ```text
//! du/dt = max over the budgets of v,   0 <= u <= 1
//! v = attack (s - hi)    above the band     (at most ATTACK)
//!   = 0                  within [lo, hi]
//!   = release (s - lo)   below the band     (at least -RELEASE)
//! ```
//!
//! For the temperature, `s = T + LEAD (T - T̄)` with `T̄` the temperature smoothed over `TREND`: where it is heading rather
//! than where it is. A steady reading within the band leaves `u`, and so the level, as it is for ever.

use super::config::{GovernorConfig, NO_CELSIUS_LIMIT};
use super::readings::{Quantity, Readings};
use super::signal::{Sense, Signal};
use super::throttle::{Reason, Throttle};
use std::sync::Arc;
use std::time::Duration;

/// Most that `u` rises in a second: from none to the slowest level in 3 s.
pub const ATTACK: f64 = 1.0 / 3.0;
/// Most that `u` falls in a second: back to unthrottled in 90 s.
pub const RELEASE: f64 = 1.0 / 90.0;
/// A longer gap between two steps counts as this many seconds: after a pause the world is unknown, not safe.
pub const LONGEST_STEP: f64 = 2.0;

/// `u` per second and degree.
const CELSIUS_ATTACK: f64 = 0.055;
const CELSIUS_RELEASE: f64 = 0.0022;
/// Weight of the trend, and the time in seconds over which it is taken.
const LEAD: f64 = 2.0;
const TREND: f64 = 20.0;
/// `u` per second for an excess of the whole budget.
const WATTS_ATTACK: f64 = 0.08;
const WATTS_RELEASE: f64 = 0.02;
/// Power is smoothed over so many seconds: it follows every single inference.
const WATTS_SMOOTHING: f64 = 4.0;
/// `u` per second while the voltage is too low or the firmware limits the clock, and how long it then stays.
const FLAG_ATTACK: f64 = 0.1;
const FLAG_HOLD: Duration = Duration::from_secs(60);
/// The charge must rise by this many percent before it counts as rising: gauges fall back by one under load.
const BATTERY_BACKLASH: f64 = 2.0;

/// A throttle decision: the level, the pace and why.
pub type Decision = Throttle;

/// What one budget wants: the change of `u` per second, and why.
struct Demand {
    speed: f64,
    reason: Reason,
    text: String,
}

/// The law with its memory. A clone decides as the original would.
#[derive(Clone, Debug)]
pub struct Law {
    config: GovernorConfig,
    u: f64,
    level: usize,
    reason: Reason,
    stepped: Option<Duration>,
    celsius: Signal<f64>,
    trend: Option<f64>,
    watts: Signal<f64>,
    smooth_watts: Option<f64>,
    charge: Signal<f64>,
    charge_floor: Option<f64>,
    under_voltage: Flag,
    firmware: Flag,
}

/// A condition that the firmware reports.
#[derive(Clone, Debug, Default)]
struct Flag {
    signal: Signal<bool>,
    last_set: Option<Duration>,
}

/// Time of a step, and seconds since the one before.
#[derive(Clone, Copy)]
struct Step {
    now: Duration,
    dt: f64,
}

impl Law {
    /// Unthrottled; `config` is one that [`GovernorConfig::check`] accepts.
    pub fn new(config: &GovernorConfig) -> Law {
        Law {
            config: config.clone(),
            u: 0.0,
            level: 0,
            reason: Reason::None,
            stepped: None,
            celsius: Signal::default(),
            trend: None,
            watts: Signal::default(),
            smooth_watts: None,
            charge: Signal::default(),
            charge_floor: None,
            under_voltage: Flag::default(),
            firmware: Flag::default(),
        }
    }

    /// New budgets and levels. What is known of the board stays, and so does the throttling.
    pub fn reconfigure(&mut self, config: &GovernorConfig) {
        self.config = config.clone();
        self.level = self.level.min(config.slowest());
        self.charge_floor = None;
    }

    /// Throttling from 0 (none) to 1 (the slowest level).
    pub fn throttling(&self) -> f64 {
        self.u
    }

    /// One step. `now` is a monotonic time; one that does not advance changes nothing but the reason.
    pub fn step(&mut self, readings: &Readings, now: Duration) -> Decision {
        let since = self.stepped.map_or(0.0, |before| now.saturating_sub(before).as_secs_f64());
        self.stepped = Some(self.stepped.map_or(now, |before| before.max(now)));
        let at = Step { now, dt: since.min(LONGEST_STEP) };
        let demands = [
            self.temperature(readings, at),
            self.power(readings, at),
            self.battery(readings, at),
            self.flag(Quantity::UnderVoltage, readings, at),
            self.flag(Quantity::Firmware, readings, at),
        ];
        let text = self.apply(demands.into_iter().flatten(), at);
        self.decision(text)
    }

    /// Moves `u` as the most demanding budget wants. Among equals, the one that ruled before rules on.
    fn apply(&mut self, demands: impl Iterator<Item = Demand>, at: Step) -> String {
        let mut ruling: Option<Demand> = None;
        for demand in demands {
            let stronger = |other: &Demand| {
                demand.speed > other.speed || (demand.speed == other.speed && demand.reason == self.reason && other.reason != self.reason)
            };
            if ruling.as_ref().is_none_or(stronger) {
                ruling = Some(demand);
            }
        }
        let speed = ruling.as_ref().map_or(-RELEASE, |demand| demand.speed);
        self.u = (self.u + at.dt * speed.clamp(-RELEASE, ATTACK)).clamp(0.0, 1.0);
        self.set_level();
        match ruling {
            _ if self.u == 0.0 => {
                self.reason = Reason::None;
                String::new()
            }
            Some(demand) if demand.speed >= 0.0 || self.reason == Reason::None => {
                self.reason = demand.reason;
                demand.text
            }
            Some(demand) => format!("recovering: {}", demand.text),
            None => "recovering".to_string(),
        }
    }

    /// Level `k` covers `k - 1 < x <= k` of `x = u * slowest`, and is kept half a level below that, so that a pace on the
    /// border of two levels does not flicker between them.
    fn set_level(&mut self) {
        let x = self.position();
        let kept = self.level as f64;
        if x > kept || x == 0.0 || x < kept - 1.5 {
            self.level = (x.ceil() as usize).min(self.config.slowest());
        }
    }

    /// `u` in levels, free of the rounding that would make 2.0000000001 the third.
    fn position(&self) -> f64 {
        let x = self.u * self.config.slowest() as f64;
        if (x - x.round()).abs() < 1e-9 { x.round() } else { x }
    }

    fn decision(&self, text: String) -> Decision {
        let x = self.position();
        let (below, part) = (x.floor() as usize, x.fract());
        let row = |index: usize| self.config.levels.get(index.min(self.config.slowest())).copied().unwrap_or_default();
        let (fast, slow, shown) = (row(below), row(below + 1), row(self.level));
        let between = |a: f64, b: f64| a + (b - a) * part;
        // The interval is what adds up in time; no limit is an interval of 0.
        let interval = between(fast.max_per_second.map_or(0.0, f64::recip), slow.max_per_second.map_or(0.0, f64::recip));
        Throttle {
            level: self.level,
            reason: self.reason,
            text: Arc::from(text),
            duty: between(fast.duty, slow.duty),
            clock: 1.0,
            max_per_second: (interval > 0.0).then(|| interval.recip()),
            threads: shown.threads,
            lighter_model: shown.lighter_model,
        }
    }

    fn temperature(&mut self, readings: &Readings, at: Step) -> Option<Demand> {
        let budget = self.config.max_celsius;
        if budget >= NO_CELSIUS_LIMIT {
            return None;
        }
        let value = readings.celsius.filter(|t| t.is_finite());
        let sense = self.celsius.see(value, readings.broken(Quantity::Temperature), at.now, self.config.sensor_hold.0);
        if let Sense::Fresh(t) = sense {
            smooth(&mut self.trend, t, at.dt, TREND);
        }
        let heading = |t: f64| t + LEAD * (t - self.trend.unwrap_or(t));
        let speed = |t| band(heading(t), budget - self.config.celsius_band, budget, CELSIUS_ATTACK, CELSIUS_RELEASE);
        let text = |t: f64| format!("{t:.1} °C of {budget} °C");
        let demand = |speed, text| Some(Demand { speed, reason: Reason::Temperature, text });
        match sense {
            Sense::Fresh(t) => demand(speed(t), text(t)),
            Sense::Held(t) => demand(speed(t).max(0.0), format!("{}, the last reading before the sensor failed", text(t))),
            Sense::Lost => {
                self.trend = None;
                Some(self.lost(Quantity::Temperature, readings, at))
            }
            Sense::Absent => None,
        }
    }

    fn power(&mut self, readings: &Readings, at: Step) -> Option<Demand> {
        let budget = self.config.max_watts?;
        let value = readings.watts.filter(|w| w.is_finite());
        // Boards without a sensor, and laptops that charge, show no power and no fault.
        let broken = readings.broken(Quantity::Power);
        if value.is_none() && !broken {
            self.watts.forget();
        }
        let sense = self.watts.see(value, broken, at.now, self.config.sensor_hold.0);
        if let Sense::Fresh(w) = sense {
            smooth(&mut self.smooth_watts, w, at.dt, WATTS_SMOOTHING);
        }
        let share = |w: f64| self.smooth_watts.unwrap_or(w) / budget;
        let lo = 1.0 - self.config.watts_band_percent / 100.0;
        let speed = |w| band(share(w), lo, 1.0, WATTS_ATTACK, WATTS_RELEASE);
        let text = |w: f64| format!("{:.2} W of {budget} W", share(w) * budget);
        let demand = |speed, text| Some(Demand { speed, reason: Reason::Watts, text });
        match sense {
            Sense::Fresh(w) => demand(speed(w), text(w)),
            Sense::Held(w) => demand(speed(w).max(0.0), format!("{}, the last reading before the sensor failed", text(w))),
            Sense::Lost => {
                self.smooth_watts = None;
                Some(self.lost(Quantity::Power, readings, at))
            }
            Sense::Absent => None,
        }
    }

    /// While discharging, `u` goes to `(min + band - charge) / band`: none at the top of the band, all at the bottom.
    fn battery(&mut self, readings: &Readings, at: Step) -> Option<Demand> {
        let least = self.config.min_battery_percent?;
        let value = readings.battery_percent.filter(|p| p.is_finite());
        let broken = readings.broken(Quantity::Battery);
        if value.is_none() && !broken {
            self.charge.forget();
        }
        let charge = match self.charge.see(value, broken, at.now, self.config.sensor_hold.0) {
            Sense::Fresh(charge) | Sense::Held(charge) => charge,
            Sense::Lost => return Some(self.lost(Quantity::Battery, readings, at)),
            Sense::Absent => return None,
        };
        let counted = self.charge_floor.map_or(charge, |floor| floor.clamp(charge - BATTERY_BACKLASH, charge));
        self.charge_floor = Some(counted);
        let discharging = readings.on_battery != Some(false);
        let band = self.config.battery_band_percent;
        let target = if discharging { ((least + band - counted) / band).clamp(0.0, 1.0) } else { 0.0 };
        let text = if discharging { format!("battery at {charge:.0} %, least {least} %") } else { "the battery is charged".to_string() };
        Some(Demand { speed: self.towards(target, at), reason: Reason::Battery, text })
    }

    fn flag(&mut self, quantity: Quantity, readings: &Readings, at: Step) -> Option<Demand> {
        let (value, flag, reason, text) = match quantity {
            Quantity::UnderVoltage => {
                (readings.under_voltage, &mut self.under_voltage, Reason::UnderVoltage, "the supply's voltage is too low")
            }
            _ => (readings.firmware_throttled, &mut self.firmware, Reason::Firmware, "the firmware limits the clock"),
        };
        let sense = flag.signal.see(value, readings.broken(quantity), at.now, self.config.sensor_hold.0);
        if let Sense::Fresh(true) | Sense::Held(true) = sense {
            flag.last_set = Some(at.now);
        }
        let recent = flag.last_set.is_some_and(|set| at.now.saturating_sub(set) <= FLAG_HOLD);
        let demand = |speed, text: String| Some(Demand { speed, reason, text });
        match sense {
            Sense::Fresh(true) | Sense::Held(true) => demand(FLAG_ATTACK, text.to_string()),
            Sense::Fresh(false) if recent => demand(0.0, format!("{text}, less than a minute ago")),
            Sense::Fresh(false) => None,
            Sense::Held(false) => demand(0.0, format!("{text}, perhaps: its sensor failed")),
            Sense::Lost => Some(self.lost(quantity, readings, at)),
            Sense::Absent => None,
        }
    }

    /// Towards the safe level, and not faster than it: nothing is known.
    fn lost(&self, quantity: Quantity, readings: &Readings, at: Step) -> Demand {
        let safe = self.config.safe() as f64 / self.config.slowest().max(1) as f64;
        let why = readings.fault(quantity).map_or("no longer there".to_string(), |fault| fault.to_string());
        let text = format!("{quantity} unknown, level {} is assumed to be safe: {why}", self.config.safe());
        Demand { speed: self.towards(safe, at), reason: Reason::SensorLost, text }
    }

    /// The speed that brings `u` to `target` in one step, as far as the limits allow.
    fn towards(&self, target: f64, at: Step) -> f64 {
        if at.dt > 0.0 { ((target - self.u) / at.dt).clamp(-RELEASE, ATTACK) } else { 0.0 }
    }
}

/// The answer to a signal with a dead band from `lo` to `hi`.
fn band(signal: f64, lo: f64, hi: f64, attack: f64, release: f64) -> f64 {
    if signal > hi {
        (attack * (signal - hi)).min(ATTACK)
    } else if signal < lo {
        (release * (signal - lo)).max(-RELEASE)
    } else {
        0.0
    }
}

/// First-order low pass with time constant `tau` seconds; the first value sets it.
fn smooth(state: &mut Option<f64>, value: f64, dt: f64, tau: f64) {
    let before = state.unwrap_or(value);
    *state = Some(before + (value - before) * (1.0 - (-dt / tau).exp()));
}

#[cfg(test)]
mod tests;
