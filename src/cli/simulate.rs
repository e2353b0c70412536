//! `jouled simulate`.

use super::{Failure, output};
use crate::config::Config;
use crate::config::value::Span;
use crate::governor::config::NO_CELSIUS_LIMIT;
use crate::governor::{GovernorConfig, Readings, Sensors};
use crate::simulate::chart::{Chart, Limit};
use crate::simulate::trace::{Summary, csv};
use crate::simulate::{Description, Load, Loop, Spec, Trace, Tree, spec};
use serde::Serialize;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The board.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(spec::names()))]
    board: String,
    /// How long, in hours of the board's time.
    #[arg(long, value_name = "HOURS", default_value_t = 8.0, value_parser = between::<0, 1000>)]
    hours: f64,
    /// Configuration whose governor, workers and threads are tried; otherwise the governor's defaults, a worker on each core.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Temperature of the air around, in degrees Celsius.
    #[arg(long, value_name = "CELSIUS", default_value_t = 25.0, allow_negative_numbers = true, value_parser = between::<-40, 85>)]
    ambient: f64,
    /// By how many degrees the air is warmer in the middle of the time.
    #[arg(long, value_name = "DEGREES", default_value_t = 0.0, value_parser = between::<0, 60>)]
    warmer: f64,
    /// How the board is cooled: bare, heatsink, case, fan, as the board has them. Default: without a fan.
    #[arg(long, value_name = "NAME")]
    cooling: Option<String>,
    /// The same as --cooling fan.
    #[arg(long, conflicts_with = "cooling")]
    fan: bool,
    /// How long an inference takes at the full clock: what `jouled bench` shows.
    #[arg(long, value_name = "TIME", default_value = "60ms")]
    load: Span,
    /// Cores that one inference keeps busy. Default: `inference.threads`.
    #[arg(long, value_name = "N")]
    cores: Option<usize>,
    /// Inferences at a time. Default: `inference.workers`.
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Length of an inference of the lighter model over that of the model, at levels with `lighter_model`.
    #[arg(long, value_name = "RATIO", default_value_t = 1.0)]
    lighter: f64,
    /// Write a row for every ten seconds into this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw the run into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A number within LOW to HIGH.
fn between<const LOW: i32, const HIGH: i32>(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("expected a number from {LOW} to {HIGH}"))?;
    let holds = number >= f64::from(LOW) && number <= f64::from(HIGH);
    holds.then_some(number).ok_or_else(|| format!("expected {LOW} to {HIGH}, found {number}"))
}

pub fn main(args: &Args) -> Result<(), Failure> {
    let description = Description::named(&args.board).map_err(Failure::Input)?;
    let cooling = if args.fan { Some("fan") } else { args.cooling.as_deref() };
    let spec = description.spec(cooling).map_err(Failure::Input)?;
    let (governor, load) = settings(args, &spec)?;
    let time = Duration::from_secs_f64(args.hours * 3600.0);
    let begin = || Loop::new(&spec, args.ambient, &governor, load);
    let governed = governed(&description, begin(), &governor, time, args.warmer)
        .map_err(|e| Failure::Running(format!("the simulated board's files: {e}")))?;
    let nobody = None::<fn(&Loop) -> Result<Readings, io::Error>>;
    let free = begin().run(time, args.warmer, nobody).map_err(|e| Failure::Running(e.to_string()))?;
    let scene = scene(&spec, args, load);
    if let Some(path) = &args.csv {
        save(path, &csv(&governed, &free))?;
    }
    if let Some(path) = &args.svg {
        save(path, &draw(&spec, &scene, &governor, &governed, &free))?;
    }
    output::print(&Report::new(scene, args.hours, &governed, &free), args.json)
}

/// The governor and the load that the configuration and the command line ask for.
fn settings(args: &Args, spec: &Spec) -> Result<(GovernorConfig, Load), Failure> {
    let mut load = Load { seconds: args.load.0.as_secs_f64(), lighter: args.lighter, ..Load::on_every_core(spec) };
    let mut governor = GovernorConfig::default();
    if let Some(path) = &args.config {
        let config = Config::load(path).map_err(|e| Failure::Configuration(e.to_string()))?;
        governor = config.governor;
        (load.workers, load.cores) = (config.inference.workers, config.inference.threads);
    }
    load.workers = args.workers.unwrap_or(load.workers);
    load.cores = args.cores.unwrap_or(load.cores);
    let cores = spec.model.cores;
    if load.workers == 0 || load.cores == 0 || load.workers.saturating_mul(load.cores) > cores {
        let (workers, threads) = (load.workers, load.cores);
        let text = format!("{workers} workers with {threads} cores each: expected 1 to {cores} cores together, as the {} has", spec.title);
        return Err(Failure::Input(text));
    }
    if !(1e-3..=600.0).contains(&load.seconds) || !(1e-3..=1.0).contains(&load.lighter) {
        return Err(Failure::Input("expected --load from 1ms to 10m, and --lighter from 0.001 to 1".to_string()));
    }
    Ok((governor, load))
}

/// The governor's run: its readings come from the board's files, below a folder that is removed again.
fn governed(board: &Description, mut run: Loop, config: &GovernorConfig, time: Duration, warmer: f64) -> io::Result<Trace> {
    let folder = folder()?;
    let mut tree = Tree::lay_out(board, &run.board, folder.path())?;
    if config.enabled && config.lower_clock {
        run = run.with_clock(folder.path().to_path_buf());
    }
    let mut sensors = Sensors::new(tree.root(), config.thermal_zone.as_deref());
    let look = |run: &Loop| {
        tree.show(&run.board, run.mean_watts())?;
        Ok(if config.enabled { sensors.read(run.now) } else { Readings::default() })
    };
    let trace = run.run(time, warmer, Some(look));
    // Before the folder goes, what is lowered in it is put back.
    drop(run);
    trace
}

/// A temporary folder, in memory where there is such a place.
fn folder() -> io::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("jouled-simulate-").tempdir_in(parent)
}

fn scene(spec: &Spec, args: &Args, load: Load) -> String {
    let (cooling, Load { seconds, cores, workers, .. }) = (&spec.cooling.name, load);
    let air = if args.warmer > 0.0 { format!("{} to {}", args.ambient, args.ambient + args.warmer) } else { args.ambient.to_string() };
    let plural = if cores == 1 { "" } else { "s" };
    let title = &spec.title;
    format!("{title}, {cooling}, {air} °C around; inferences of {:.0} ms on {cores} core{plural}, {workers} at a time", seconds * 1e3)
}

fn draw(spec: &Spec, scene: &str, governor: &GovernorConfig, governed: &Trace, free: &Trace) -> String {
    let limit = |value, name, ours| Limit { value, name, ours };
    let budget = Some(limit(governor.max_celsius, format!("max_celsius = {}", governor.max_celsius), true));
    let budget = budget.filter(|limit| governor.enabled && limit.value < NO_CELSIUS_LIMIT);
    let firmware = limit(spec.model.soft_limit, format!("firmware, from {} °C", spec.model.soft_limit), false);
    let near = free.summary().hottest_celsius > spec.model.soft_limit - 10.0;
    let (title, subtitle) = scene.split_once("; ").unwrap_or((scene, ""));
    let chart = Chart {
        title,
        subtitle,
        governed,
        free,
        celsius_limits: budget.into_iter().chain(near.then_some(firmware)).collect(),
        watts_limits: governor.max_watts.map(|watts| limit(watts, format!("max_watts = {watts}"), true)).into_iter().collect(),
    };
    chart.svg()
}

fn save(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|e| Failure::Running(format!("{}: {e}", path.display())))
}

/// Both runs side by side.
#[derive(Debug, Serialize)]
struct Report {
    scene: String,
    asked_hours: f64,
    governed: Summary,
    firmware_only: Summary,
    /// Inferences per joule, ours over the firmware's.
    efficiency_ratio: Option<f64>,
}

impl Report {
    fn new(scene: String, asked_hours: f64, governed: &Trace, free: &Trace) -> Report {
        let (governed, firmware_only) = (governed.summary(), free.summary());
        let costs = governed.joules_per_inference.zip(firmware_only.joules_per_inference);
        Report { scene, asked_hours, governed, firmware_only, efficiency_ratio: costs.map(|(ours, theirs)| theirs / ours) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ours, free) = (&self.governed, &self.firmware_only);
        writeln!(f, "{}\n", self.scene)?;
        writeln!(f, "{:34}{:>14}{:>16}", "", "jouled", "firmware only")?;
        let mut row = |name: &str, value: &dyn Fn(&Summary) -> String| writeln!(f, "{name:34}{:>14}{:>16}", value(ours), value(free));
        row("hours", &|s| format!("{:.2}", s.hours))?;
        row("inferences", &|s| s.inferences.to_string())?;
        row("inferences per second", &|s| format!("{:.2}", s.per_second))?;
        row("joules per inference", &|s| s.joules_per_inference.map_or("-".into(), |joules| format!("{joules:.4}")))?;
        row("mean power, W", &|s| format!("{:.2}", s.mean_watts))?;
        row("hottest, °C", &|s| format!("{:.1}", s.hottest_celsius))?;
        row("mean clock, % of the maximum", &|s| format!("{:.0}", s.mean_clock * 100.0))?;
        row("time throttled by firmware, %", &|s| format!("{:.0}", s.firmware_throttled * 100.0))?;
        if let Some(ratio) = self.efficiency_ratio {
            writeln!(f, "\nInferences per joule: {ratio:.2} times those of the load that only the firmware slows.")?;
        }
        if ours.hours < self.asked_hours - 0.01 {
            writeln!(f, "The battery is empty after {:.1} hours, {:.1} without jouled.", ours.hours, free.hours)?;
        }
        Ok(())
    }
}
