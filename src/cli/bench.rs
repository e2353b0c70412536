//! `jouled bench`.

use super::{Failure, LimitArgs, inspect, output};
use crate::engine::{self, BenchResult};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The `.onnx` file.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Most cores that one inference uses.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// How long to measure.
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitArgs,
}

/// A finite time from 0 to one day, in seconds.
fn seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number of seconds".to_string())?;
    if (0.0..=86_400.0).contains(&number) { Ok(number) } else { Err("expected 0 to 86400 seconds".to_string()) }
}

pub fn main(args: &Args) -> Result<(), Failure> {
    let model = inspect::load(&args.model, &args.limits.limits())?;
    let time = Duration::from_secs_f64(args.seconds);
    let result = engine::bench(&model, usize::from(args.threads), time).map_err(|e| Failure::Running(e.to_string()))?;
    output::print(&result, args.json)
}

impl fmt::Display for BenchResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BenchResult { model, threads, runs, min_us, p50_us, p90_us, p99_us, macs, arena_bytes, weight_bytes, .. } = self;
        writeln!(f, "{model}: {runs} runs, threads {threads}")?;
        writeln!(f, "  min {min_us:.1} µs, p50 {p50_us:.1} µs, p90 {p90_us:.1} µs, p99 {p99_us:.1} µs")?;
        let rate = *macs as f64 / p50_us / 1e3;
        writeln!(f, "  {macs} multiply-accumulates, {rate:.2} GMAC/s at p50")?;
        write!(f, "  activations {arena_bytes} bytes, weights {weight_bytes} bytes")?;
        self.peak_rss_bytes.map_or(Ok(()), |peak| write!(f, ", peak resident memory {:.1} MiB", peak as f64 / f64::from(1 << 20)))
    }
}
