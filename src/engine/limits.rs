//! `[model.limits]`: how much a model may cost before it is loaded.

use crate::config::problems::Checker;
use crate::config::value::Size;
use serde::{Deserialize, Serialize};

/// Upper bounds for one model, checked before the cost is paid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of the `.onnx` file together with its external data. Default `"64MiB"`, from `"1KiB"` to `"2GiB"`.
    pub max_file: Size,
    /// Bytes of the weights as the engine holds them and of the activations that live at the same time. Default `"256MiB"`,
    /// from `"64KiB"` to `"64GiB"`.
    pub max_memory: Size,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_file: Size::mib(64), max_memory: Size::mib(256) }
    }
}

impl Limits {
    /// Reports limits outside their ranges. 2 GiB is the most that one protobuf can hold.
    pub fn check(&self, at: &mut Checker) {
        between(at, "max_file", self.max_file, Size::kib(1), Size::mib(2 << 10));
        between(at, "max_memory", self.max_memory, Size::kib(64), Size::mib(64 << 10));
    }
}

fn between(at: &mut Checker, key: &str, value: Size, low: Size, high: Size) {
    at.expect((low..=high).contains(&value), key, || format!("expected a size from {low} to {high}, found {value}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_and_extremes_are_reported_by_key() {
        let mut found = Vec::new();
        Limits::default().check(&mut Checker::new(&mut found));
        assert_eq!(found, []);
        Limits { max_file: Size(0), max_memory: Size(u64::MAX) }.check(&mut Checker::new(&mut found));
        assert_eq!(found.iter().map(|p| p.key.as_str()).collect::<Vec<_>>(), ["max_file", "max_memory"]);
    }

    #[test]
    fn reads_from_toml() {
        let limits: Limits = toml::from_str("max_file = \"1MiB\"").unwrap();
        assert_eq!(limits, Limits { max_file: Size::mib(1), ..Limits::default() });
        assert!(toml::from_str::<Limits>("max_files = 1").is_err());
    }
}
