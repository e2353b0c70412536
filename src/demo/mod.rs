//! The whole daemon at work on one machine: an embedded broker, a shipped model each for a replayed sensor and for requests,
//! and a client that asks and listens like any other.

pub mod broker;
pub mod client;
mod tally;
mod truth;

pub use tally::Tally;
pub use truth::Truth;

use crate::config::Config;
use std::path::{Path, PathBuf};

/// The demo's configuration, as a user would write it.
const CONFIG: &str = include_str!("demo.toml");

/// Where the shipped models are: `given`, else `models` here, in the package, or in the source tree this was built from.
pub fn models_folder(given: Option<&Path>) -> Result<PathBuf, String> {
    let usual = ["models", "/usr/share/jouled/models", concat!(env!("CARGO_MANIFEST_DIR"), "/models")];
    let folders: Vec<PathBuf> = given.map_or_else(|| usual.iter().map(PathBuf::from).collect(), |path| vec![path.to_path_buf()]);
    let found = folders.iter().find(|folder| folder.join("vibration.onnx").is_file());
    found.cloned().ok_or_else(|| format!("vibration.onnx is in none of {folders:?}: give the folder of the shipped models with --models"))
}

/// The demo's configuration for a broker on `port` and the models in `folder`.
pub fn config(port: u16, folder: &Path) -> Result<Config, String> {
    let lines = |problems: Vec<crate::config::problems::Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let mut config = Config::parse(CONFIG).map_err(lines)?;
    config.mqtt.port = Some(port);
    config.resolve(folder);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_good_and_names_shipped_files() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let config = config(1883, &folder).unwrap();
        assert_eq!(config.models.len(), 2);
        assert!(config.models.iter().all(|m| m.path.is_file() && m.labels.as_ref().is_some_and(|l| l.is_file())));
    }
}
