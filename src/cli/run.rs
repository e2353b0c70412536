//! `jouled run`.

use super::Failure;
use crate::config::Config;
use crate::daemon::{Daemon, Refused};
use crate::signals;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The configuration file. It is read again on SIGHUP.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/jouled/jouled.toml")]
    config: PathBuf,
    /// Read devices and sysfs below this folder instead of `/`.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

pub fn main(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(|e| Failure::Configuration(e.to_string()))?;
    let (_sender, events) = signals::events().map_err(|e| Failure::Running(format!("cannot listen to signals: {e}")))?;
    let daemon = Daemon::start(config, &args.root).map_err(refused)?;
    daemon.run(&events, Some(&args.config));
    Ok(())
}

/// The failure of a daemon that does not start.
pub fn refused(refused: Refused) -> Failure {
    let message = refused.to_string();
    match refused {
        Refused::Configuration(_) | Refused::NeedsRestart(_) => Failure::Configuration(message),
        Refused::Models(_) => Failure::Model(message),
        Refused::System(_) => Failure::Running(message),
    }
}
