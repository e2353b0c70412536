//! `jouled bench`.

use super::{Failure, LimitArgs, inspect, output};
use crate::engine::{self, BenchResult, Effort, Engine, Layers, RunError, Spread, Stages, Throughput};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
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
    /// Make exactly so many timed runs, however long they take.
    #[arg(long, value_name = "N", conflicts_with_all = ["seconds", "layers", "compare"], value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Tell the time of every layer, and what it is of the calibrated peak of the cores in use.
    #[arg(long, conflicts_with = "compare")]
    layers: bool,
    /// Inferences at once, each on its own `--threads`: measures inferences a second.
    #[arg(long, value_name = "N", conflicts_with_all = ["layers", "compare", "runs"], value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: Option<u16>,
    /// CPUs to keep the workers on, e.g. 4,5,6,7: each thread of each worker gets one, in turn.
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "workers")]
    cores: Vec<usize>,
    /// Divide the layers into so many stages, each on its own share of the cores; the workers go through them one after the other.
    #[arg(long, value_name = "N", requires = "cores", conflicts_with = "threads", value_parser = clap::value_parser!(u16).range(1..=64))]
    stages: Option<u16>,
    /// Measure another engine beside ours, in turns: the same model run by tract alone.
    #[arg(long, value_name = "ENGINE", value_parser = ["tract"])]
    compare: Option<String>,
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
    let model = inspect::load(&args.model, &args.limits.limits(), Engine::Native)?;
    let time = Duration::from_secs_f64(args.seconds);
    let failed = |e: RunError| Failure::Running(e.to_string());
    let threads = usize::from(args.threads);
    if args.layers {
        return output::print(&engine::layers(&model, threads, time).map_err(failed)?, args.json);
    }
    if let Some(workers) = args.workers {
        let spreads = spreads(args, usize::from(workers))?;
        return output::print(&engine::throughput(&model, &spreads, time).map_err(failed)?, args.json);
    }
    if args.compare.is_none() {
        let effort = args.runs.map_or(Effort::Time(time), |runs| Effort::Runs(runs as usize));
        return output::print(&engine::bench(&model, threads, effort).map_err(failed)?, args.json);
    }
    let other = inspect::load(&args.model, &args.limits.limits(), Engine::Tract)?;
    let [ours, tract] = engine::bench_in_turns([&model, &other], threads, time).map_err(failed)?;
    output::print(&Comparison { ratio: tract.min_us / ours.min_us, ours, tract }, args.json)
}

/// How each worker uses the cores.
fn spreads(args: &Args, workers: usize) -> Result<Vec<Spread>, Failure> {
    let (threads, cores) = (usize::from(args.threads), &args.cores);
    let Some(stages) = args.stages.map(usize::from) else {
        return Ok((0..workers).map(|index| Spread::of_worker(index, threads, cores)).collect());
    };
    let stages = Stages::new(stages, cores)
        .ok_or_else(|| Failure::Usage(format!("--stages: expected at most one a CPU of --cores ({}), found {stages}", cores.len())))?;
    Ok(vec![Spread::Stages(Arc::new(stages)); workers])
}

/// Both engines on one model.
#[derive(Serialize)]
struct Comparison {
    ours: BenchResult,
    tract: BenchResult,
    /// tract's fastest run over ours.
    ratio: f64,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ours: {}", self.ours)?;
        writeln!(f, "tract alone: {}", self.tract)?;
        write!(f, "ours is {:.2} times as fast (fastest runs)", self.ratio)
    }
}

impl fmt::Display for Throughput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Throughput { workers, threads, stages, inferences, per_second, mean_us } = self;
        write!(f, "{workers} workers, threads {threads}, stages {stages}: {inferences} inferences, ")?;
        write!(f, "{per_second:.1} a second, {mean_us:.1} µs each")
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "peak {:.1} MAC/ns on one core, calibrated in this run; threads {}", self.peak_macs_per_ns, self.threads)?;
        writeln!(f, "  {:>9} {:>6} {:>12} {:>7} {:>9} {:>9}  kernel, layer", "µs", "share", "MACs", "of peak", "weights", "moved")?;
        for l in &self.layers {
            let (share, peak) = (100.0 * l.share, 100.0 * l.of_peak);
            let (us, macs, weights, moved) = (l.min_us, l.macs, l.weight_bytes, l.activation_bytes);
            writeln!(f, "  {us:>9.2} {share:>5.1}% {macs:>12} {peak:>6.1}% {weights:>9} {moved:>9}  {}, {}", l.kernel, l.name)?;
        }
        let (us, macs) = self.layers.iter().fold((0.0, 0), |(us, macs), l| (us + l.min_us, macs + l.macs));
        let peak = 100.0 * macs as f64 / (us * 1000.0) / (self.peak_macs_per_ns * self.threads as f64);
        write!(f, "  {us:>9.2}  100% {macs:>12} {peak:>6.1}%  in all")
    }
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
