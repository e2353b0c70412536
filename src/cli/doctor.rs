//! `jouled doctor`.

use super::{Failure, output};
use crate::config::Config;
use crate::doctor::Diagnosis;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The configuration whose models, sources and broker are tried. Default: /etc/jouled/jouled.toml where it is there.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Read devices and sysfs below this folder instead of `/`.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

pub fn main(args: &Args) -> Result<(), Failure> {
    let installed = || Some(PathBuf::from("/etc/jouled/jouled.toml")).filter(|path| path.exists());
    let path = args.config.clone().or_else(installed);
    let configuration = path.map(|path| Config::load(&path).map_err(|e| e.to_string()));
    let diagnosis = Diagnosis::new(&args.root, configuration);
    output::print(&diagnosis, args.json)?;
    // Missing power meters are advice; what is configured and does not work is a finding.
    if diagnosis.configured.iter().all(|finding| finding.good) { Ok(()) } else { Err(Failure::Findings) }
}
