//! What a board is made of, and which files it has: one TOML file a board, which names the sources of both.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The name of each board, and its file.
const BOARDS: [(&str, &str); 7] = [
    ("pi4", include_str!("boards/pi4.toml")),
    ("pi5", include_str!("boards/pi5.toml")),
    ("jetson-nano", include_str!("boards/jetson-nano.toml")),
    ("orin-nano", include_str!("boards/orin-nano.toml")),
    ("agx-orin", include_str!("boards/agx-orin.toml")),
    ("laptop", include_str!("boards/laptop.toml")),
    ("mini-pc", include_str!("boards/mini-pc.toml")),
];

/// Names of all boards.
pub fn names() -> Vec<&'static str> {
    BOARDS.iter().map(|(name, _)| *name).collect()
}

/// A board's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    pub title: String,
    /// Where the files' names and fixed values come from.
    pub layout: String,
    /// Where the constants come from; what is an estimate says so.
    pub constants: String,
    pub model: Model,
    /// Ways to cool it; the first is the default.
    pub cooling: Vec<Cooling>,
    /// Files that never change, and their text. A path may contain one range, as in `cpu{0..3}`.
    pub files: BTreeMap<String, String>,
    /// Files that show the board's state.
    pub live: Vec<Live>,
}

/// What does not depend on the cooling. Power in W, temperatures in degrees Celsius.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub cores: usize,
    /// Power without load, at 50 degrees.
    pub idle_watts: f64,
    /// What all cores add at the full clock.
    pub active_watts: f64,
    /// Voltage at the lowest clock over that at the highest, extrapolated to a clock of 0.
    pub voltage_floor: f64,
    /// Growth of the idle power with the die's temperature, per degree.
    pub leakage: f64,
    /// Step of the temperature sensor.
    pub sensor_step: f64,
    /// Where the firmware begins to lower the clock.
    pub soft_limit: f64,
    /// Where the clock is at its lowest.
    pub hard_limit: f64,
    /// That lowest clock over the highest.
    pub least_clock: f64,
    /// Energy in a full battery; none: the board runs from the mains.
    pub battery_watt_hours: Option<f64>,
}

/// The way of the heat: resistance in K/W, capacity in J/K.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cooling {
    pub name: String,
    pub die_resistance: f64,
    pub die_capacity: f64,
    pub case_resistance: f64,
    pub case_capacity: f64,
    /// Files that come with it, for example the fan's.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

/// A file that shows the board's state.
#[derive(Clone, Debug, Deserialize)]
pub struct Live {
    pub path: String,
    #[serde(flatten)]
    pub shows: Shows,
}

/// What a file shows, in the kernel's units.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "shows", rename_all = "lowercase")]
pub enum Shows {
    /// The sensor's temperature plus `offset` degrees, in thousandths.
    Celsius {
        #[serde(default)]
        offset: f64,
    },
    /// The clock, in kHz.
    Clock { max_khz: f64 },
    /// The Raspberry Pi firmware's bits, hexadecimal.
    Throttled,
    /// Current of a rail that carries `share` of the board's power.
    Milliamperes { volts: f64, share: f64 },
    /// Energy since the start; wraps at `range`.
    Microjoules { range: u64 },
    /// The battery's charge, a whole number.
    Percent,
    /// Current from the battery.
    Microamperes { volts: f64 },
}

/// A board with one way of cooling: what the simulation needs.
#[derive(Clone, Debug)]
pub struct Spec {
    pub title: String,
    pub model: Model,
    pub cooling: Cooling,
}

impl Description {
    /// The board of this name. Error: there is none; the text names those that are there.
    pub fn named(name: &str) -> Result<Description, String> {
        let file = BOARDS.iter().find(|(known, _)| *known == name);
        let (_, text) = file.ok_or_else(|| format!("there is no board `{name}`, there are: {}", names().join(", ")))?;
        toml::from_str(text).map_err(|e| format!("the description of {name}: {e}"))
    }

    /// With the cooling of this name, or the first. Error: there is none of that name.
    pub fn spec(&self, cooling: Option<&str>) -> Result<Spec, String> {
        let found = self.cooling.iter().find(|one| cooling.is_none_or(|name| one.name == name));
        let cooling = found.ok_or_else(|| {
            let known: Vec<&str> = self.cooling.iter().map(|one| one.name.as_str()).collect();
            format!("{} has no cooling `{}`, it has: {}", self.title, cooling.unwrap_or_default(), known.join(", "))
        })?;
        Ok(Spec { title: self.title.clone(), model: self.model.clone(), cooling: cooling.clone() })
    }
}

/// Every path that one with a range stands for: `cpu{0..1}/x` is `cpu0/x` and `cpu1/x`.
pub fn expand(path: &str) -> Vec<String> {
    let range = path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    let Some((before, (range, after))) = range else { return vec![path.to_string()] };
    let ends = range.split_once("..").and_then(|(from, to)| Some((from.parse::<u32>().ok()?, to.parse::<u32>().ok()?)));
    ends.map_or_else(|| vec![path.to_string()], |(from, to)| (from..=to).map(|i| format!("{before}{i}{after}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_is_described_with_its_sources() {
        for name in names() {
            let board = Description::named(name).unwrap();
            assert!(board.layout.len() > 80 && board.constants.len() > 40, "{name}");
            let cpus = board.live.iter().find(|live| matches!(live.shows, Shows::Clock { .. })).map(|live| expand(&live.path).len());
            assert_eq!(cpus, Some(board.model.cores), "{name}");
        }
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        assert!(Description::named("pi6").unwrap_err().contains("pi4, pi5, jetson-nano"));
        assert!(Description::named("pi5").unwrap().spec(Some("water")).unwrap_err().contains("bare, heatsink, fan"));
        assert_eq!(expand("cpu{0..2}/x"), ["cpu0/x", "cpu1/x", "cpu2/x"]);
        assert_eq!(expand("a{b"), ["a{b"]);
    }
}
