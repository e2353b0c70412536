//! What the kernel says about the board: temperature, power, battery, the firmware's own throttling.
//!
//! Every source is one file here and one line in [`sources`]. All of them read below a root, which is `/` on a board and
//! a captured or simulated tree elsewhere. A source gives values or says why not; it never guesses.

mod battery;
pub(super) mod cpufreq;
mod ina3221;
mod pi;
mod rapl;
pub(super) mod sysfs;
mod thermal;

pub use pi::{LIMITED, SINCE_BOOT, UNDER_VOLTAGE, firmware_bits};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
pub use sysfs::Why;
pub use thermal::{Trip, trips};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    Temperature,
    Power,
    Battery,
    UnderVoltage,
    Firmware,
    Frequency,
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Quantity::Temperature => "temperature",
            Quantity::Power => "power",
            Quantity::Battery => "battery charge",
            Quantity::UnderVoltage => "supply voltage",
            Quantity::Firmware => "firmware throttling",
            Quantity::Frequency => "clock frequency",
        })
    }
}

/// A sensor that is there and cannot be read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fault {
    pub quantity: Quantity,
    /// Below the root.
    pub path: String,
    pub why: Why,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

/// One look at the board. A value that is `None` is unknown: there is no such sensor, or `faults` says what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Readings {
    /// Of the configured zone or the hottest one, degrees Celsius, 0 to 125.
    pub celsius: Option<f64>,
    /// `type` of that zone.
    pub thermal_zone: Option<String>,
    /// Power now, or since the last look, in watts.
    pub watts: Option<f64>,
    /// Where `watts` comes from: `ina3221` (board), `battery` (board, while discharging) or `rapl` (processor package).
    pub power_source: Option<&'static str>,
    /// Energy since the start in joules, where the source is a counter. Never decreases.
    pub joules: Option<f64>,
    /// Charge, 0 to 100.
    pub battery_percent: Option<f64>,
    /// Whether the board runs from a battery.
    pub on_battery: Option<bool>,
    /// Whether the supply's voltage is too low now.
    pub under_voltage: Option<bool>,
    /// Whether the firmware caps or throttles the clock now.
    pub firmware_throttled: Option<bool>,
    /// Clock now over its maximum, mean of all processors.
    pub frequency_ratio: Option<f64>,
    /// Sensors that are there and cannot be read.
    pub faults: Vec<Fault>,
}

impl Readings {
    /// The first fault of a quantity.
    pub fn fault(&self, quantity: Quantity) -> Option<&Fault> {
        self.faults.iter().find(|fault| fault.quantity == quantity)
    }

    /// Whether a sensor of this quantity is there and fails.
    pub fn broken(&self, quantity: Quantity) -> bool {
        self.fault(quantity).is_some()
    }

    /// A missing sensor is no fault.
    fn fault_unless_missing(&mut self, quantity: Quantity, path: impl Into<String>, why: Why) {
        if why != Why::Missing {
            self.faults.push(Fault { quantity, path: path.into(), why });
        }
    }

    /// The first source of power that has one wins. None takes the place of one that fails: what it sees may be less.
    fn offer_power(&mut self, source: &'static str, watts: f64, joules: Option<f64>) {
        if self.power_source.is_none() && !self.broken(Quantity::Power) {
            (self.power_source, self.watts, self.joules) = (Some(source), Some(watts), joules);
        }
    }
}

/// One thing that `doctor` looked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    pub quantity: Quantity,
    /// Path below the root of what was found, or the pattern that was looked for.
    pub path: String,
    /// What it reads now, with its unit.
    pub value: Option<String>,
    /// Why it cannot be read.
    pub why_not: Option<Why>,
}

impl Probe {
    fn new(quantity: Quantity, path: impl Into<String>, outcome: Result<String, Why>) -> Probe {
        let (value, why_not) = match outcome {
            Ok(value) => (Some(value), None),
            Err(why) => (None, Some(why)),
        };
        Probe { quantity, path: path.into(), value, why_not }
    }
}

/// One kind of sensor.
trait Source: Send {
    /// Adds what it can read, or why not.
    fn read(&mut self, root: &Path, now: Duration, into: &mut Readings);

    /// Takes a sample of a power that has no counter, between two reads. Returns whether there is one.
    fn sample(&mut self, _root: &Path) -> bool {
        false
    }

    /// Everything that it looks at, readable or not.
    fn probe(&self, root: &Path) -> Vec<Probe>;
}

/// Every source. Of those that read a power, the first that has one wins.
fn sources(thermal_zone: Option<&str>) -> Vec<Box<dyn Source>> {
    vec![
        Box::new(thermal::Thermal::new(thermal_zone)),
        Box::new(cpufreq::Cpufreq),
        Box::new(pi::Pi),
        Box::new(ina3221::Ina3221::default()),
        Box::new(battery::Battery::default()),
        Box::new(rapl::Rapl::default()),
    ]
}

/// The board's sensors, with what must be remembered from one look to the next.
pub struct Sensors {
    root: PathBuf,
    sources: Vec<Box<dyn Source>>,
}

impl Sensors {
    /// `thermal_zone`: the `type` of the one that counts, otherwise the hottest.
    pub fn new(root: impl Into<PathBuf>, thermal_zone: Option<&str>) -> Sensors {
        Sensors { root: root.into(), sources: sources(thermal_zone) }
    }

    /// Looks at everything. `now` is a monotonic time.
    pub fn read(&mut self, now: Duration) -> Readings {
        let mut readings = Readings::default();
        for source in &mut self.sources {
            source.read(&self.root, now, &mut readings);
        }
        readings
    }

    /// Samples the power, for sources that only know it at an instant: the next read gives the mean. Returns whether there
    /// is such a source; ten times a second is often enough.
    pub fn sample(&mut self) -> bool {
        let mut any = false;
        for source in &mut self.sources {
            any |= source.sample(&self.root);
        }
        any
    }
}

/// Everything that can be looked at below `root`, for `doctor`.
pub fn probe(root: &Path) -> Vec<Probe> {
    sources(None).iter().flat_map(|source| source.probe(root)).collect()
}
