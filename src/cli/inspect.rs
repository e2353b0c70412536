//! `jouled inspect`.

use super::{Failure, output};
use crate::engine::{Limits, Model};
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The `.onnx` file.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: super::LimitArgs,
}

pub fn main(args: &Args) -> Result<(), Failure> {
    let model = load(&args.model, &args.limits.limits())?;
    output::print(model.report(), args.json)
}

/// Loads a model for a command.
pub fn load(path: &std::path::Path, limits: &Limits) -> Result<Model, Failure> {
    Model::load(path, limits).map_err(|e| Failure::Model(e.to_string()))
}
