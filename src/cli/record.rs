//! `jouled record`.

use super::{Failure, output};
use crate::config::Config;
use crate::config::value::Span;
use crate::signals;
use crate::source::Stop;
use crate::source::record::{Recorded, record};
use std::fmt;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The configuration that holds the source.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/jouled/jouled.toml")]
    config: PathBuf,
    /// Name of the source; not needed where there is one.
    #[arg(short, long, value_name = "NAME")]
    source: Option<String>,
    /// File to write, replaced if it is there: .csv or .npy.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// How long to record, for example 10s; otherwise until Ctrl-C or the end of the recording that is replayed.
    #[arg(long = "for", value_name = "TIME")]
    time: Option<Span>,
    /// Read devices and sysfs below this folder instead of `/`.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

pub fn main(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(|e| Failure::Configuration(e.to_string()))?;
    let names: Vec<&str> = config.sources.iter().map(|s| s.name.as_str()).collect();
    let source = match (&args.source, config.sources.as_slice()) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(name), sources) => sources.iter().find(|s| s.name == *name),
    };
    let source = source.ok_or_else(|| Failure::Configuration(format!("expected --source with one of: {}", names.join(", "))))?;
    let stop = Stop::default();
    let (_sender, events) = signals::events().map_err(|e| Failure::Running(format!("cannot listen to signals: {e}")))?;
    let on_signal = stop.clone();
    // Every signal ends a recording.
    std::thread::spawn(move || events.recv().map(|_| on_signal.request()));
    let limit = args.time.map(|t| t.0);
    let recorded = record(source, &args.root, &args.out, limit, &stop).map_err(|e| Failure::Running(e.to_string()))?;
    output::write(&format!("{}: {recorded}", args.out.display()))
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows, {} gaps, {} malformed", self.rows, self.gaps, self.malformed)
    }
}
