//! `jouled inspect`.

use super::{Failure, output};
use crate::engine::{Engine, Limits, Model, cache_directory};
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The `.onnx` file.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Draw where every activation lies in the arena, and when.
    #[arg(long, conflicts_with = "json")]
    plan: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: super::LimitArgs,
}

pub fn main(args: &Args) -> Result<(), Failure> {
    let model = load(&args.model, &args.limits.limits(), Engine::Native)?;
    if args.plan {
        let picture = model.picture().unwrap_or_else(|| "tract alone runs this model: there is no arena".to_string());
        return output::print(&Plan { picture }, false);
    }
    output::print(model.report(), args.json)
}

/// The arena's plan.
#[derive(serde::Serialize)]
struct Plan {
    picture: String,
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.picture.trim_end())
    }
}

/// Loads a model for a command.
pub fn load(path: &std::path::Path, limits: &Limits, engine: Engine) -> Result<Model, Failure> {
    Model::load_for(path, limits, engine, cache_directory().as_deref()).map_err(|e| Failure::Model(e.to_string()))
}
