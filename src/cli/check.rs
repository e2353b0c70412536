//! `jouled check`.

use super::{Failure, output};
use crate::config::Config;
use crate::registry::{Registry, reasons};
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The configuration file.
    #[arg(value_name = "CONFIG", default_value = "/etc/jouled/jouled.toml")]
    config: PathBuf,
    /// Check the text alone: load no model.
    #[arg(long)]
    text_only: bool,
}

pub fn main(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(|e| Failure::Configuration(e.to_string()))?;
    if !args.text_only {
        Registry::load(&config.models, None).map_err(|unusable| Failure::Model(reasons(&unusable, "\n")))?;
    }
    let (path, models, sources) = (args.config.display(), config.models.len(), config.sources.len());
    output::write(&format!("{path}: good; node {}, {models} models, {sources} sources", config.node))
}
