//! How fast a model runs here: the engine call alone, on inputs that are the same on every machine.

use super::error::RunError;
use super::model::{Model, Session};
use super::report::EngineNode;
use super::spread::Spread;
use crate::kernels::Isa;
use crate::latency::nearest_rank;
use crate::tensor::Dtype;
use half::f16;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Times of one measurement, in microseconds, and what they stand against. Percentiles by nearest rank.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchResult {
    pub model: String,
    /// SHA-256 of the model.
    pub digest: String,
    /// Threads that the engine really used.
    pub threads: usize,
    /// Timed inferences.
    pub runs: usize,
    pub min_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    /// Multiply-accumulates of one inference.
    pub macs: u64,
    /// Bytes of activations that live at the same time.
    pub arena_bytes: u64,
    /// Bytes of the weights as the engine holds them.
    pub weight_bytes: u64,
    /// The most resident memory that the process had so far; absent where the system does not tell.
    pub peak_rss_bytes: Option<u64>,
}

/// One step of the engine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerTime {
    pub name: String,
    /// Which kernel runs.
    pub kernel: String,
    pub macs: u64,
    /// The fastest of all runs, in microseconds.
    pub min_us: f64,
    /// Share of the sum of all layers.
    pub share: f64,
    /// Multiply-accumulates a second as a fraction of the calibrated peak of the cores in use; 0 without any.
    pub of_peak: f64,
    pub weight_bytes: u64,
    pub activation_bytes: u64,
}

/// Where the time goes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layers {
    /// Threads that share the work of each layer.
    pub threads: usize,
    /// Multiply-accumulates a nanosecond of a register-only loop of one core's int8 products, calibrated in this run.
    pub peak_macs_per_ns: f64,
    pub layers: Vec<LayerTime>,
}

const WARM_UPS: usize = 3;
const MIN_RUNS: usize = 5;

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// About as long as this, at least five runs.
    Time(Duration),
    /// So many runs, at least one: what a count of instructions compares.
    Runs(usize),
}

impl Effort {
    fn is_done(self, runs: usize, start: Instant) -> bool {
        match self {
            Effort::Time(time) => runs >= MIN_RUNS && start.elapsed() >= time,
            Effort::Runs(wanted) => runs >= wanted.max(1),
        }
    }
}

/// Runs `model` three times to warm up, then measures each run of the engine.
pub fn bench(model: &Model, threads: usize, effort: Effort) -> Result<BenchResult, RunError> {
    let mut session = warm(model, &Spread::threads(threads))?;
    let mut times = Vec::new();
    measure(&mut session, effort, &mut times)?;
    Ok(summarize(model, session.threads(), &mut times))
}

/// Times runs one after the other.
fn measure(session: &mut Session, effort: Effort, times: &mut Vec<Duration>) -> Result<(), RunError> {
    let (start, before) = (Instant::now(), times.len());
    while !effort.is_done(times.len() - before, start) {
        let begin = Instant::now();
        session.run()?;
        times.push(begin.elapsed());
    }
    Ok(())
}

/// Turns that each of several models gets.
const TURNS: u32 = 3;

/// The same for several models for about `time` in all, in turns: what else the machine does meets all of them. A turn begins with
/// a run that does not count, because the others have filled the caches.
pub fn bench_in_turns<const MODELS: usize>(
    models: [&Model; MODELS],
    threads: usize,
    time: Duration,
) -> Result<[BenchResult; MODELS], RunError> {
    let mut sessions = models.iter().map(|model| warm(model, &Spread::threads(threads))).collect::<Result<Vec<Session>, _>>()?;
    let mut times = models.map(|_| Vec::new());
    for _ in 0..TURNS {
        for (session, times) in sessions.iter_mut().zip(&mut times) {
            session.run()?;
            measure(session, Effort::Time(time / TURNS / MODELS as u32), times)?;
        }
    }
    Ok(std::array::from_fn(|i| summarize(models[i], sessions[i].threads(), &mut times[i])))
}

/// Inferences a second of several sessions at once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Throughput {
    /// Sessions, each with a thread of its own.
    pub workers: usize,
    /// Threads that each inference used.
    pub threads: usize,
    /// Stages that the layers were divided into.
    pub stages: usize,
    pub inferences: u64,
    pub per_second: f64,
    /// Mean time of one inference, in microseconds.
    pub mean_us: f64,
}

/// Runs one session for each of `spreads`, all at once, for about `time`.
pub fn throughput(model: &Model, spreads: &[Spread], time: Duration) -> Result<Throughput, RunError> {
    let sessions = spreads.iter().map(|spread| warm(model, spread)).collect::<Result<Vec<Session>, _>>()?;
    let threads = sessions.iter().map(Session::threads).max().unwrap_or(1);
    let start = Instant::now();
    let run = |mut session: Session| {
        let mut runs = 0u64;
        while start.elapsed() < time {
            session.run()?;
            runs += 1;
        }
        Ok((runs, start.elapsed()))
    };
    let panicked = || RunError("internal failure: a thread panicked".to_string());
    let counts: Vec<(u64, Duration)> = std::thread::scope(|scope| {
        let workers: Vec<_> = sessions.into_iter().map(|session| scope.spawn(|| run(session))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(panicked()))).collect::<Result<_, _>>()
    })?;
    let inferences: u64 = counts.iter().map(|(runs, _)| runs).sum();
    let per_second = counts.iter().map(|(runs, took)| *runs as f64 / took.as_secs_f64()).sum();
    let stages = match spreads.first() {
        Some(Spread::Stages(stages)) => stages.count(),
        _ => 1,
    };
    Ok(Throughput { workers: spreads.len(), threads, stages, inferences, per_second, mean_us: 1e6 * spreads.len() as f64 / per_second })
}

/// A session that has run some times, on the inputs of every measurement.
fn warm(model: &Model, spread: &Spread) -> Result<Session, RunError> {
    let mut session = model.session_on(spread)?;
    fill(&mut session);
    (0..WARM_UPS).try_for_each(|_| session.run())?;
    Ok(session)
}

/// Runs `model` for about `time` and keeps the fastest run of each step.
pub fn layers(model: &Model, threads: usize, time: Duration) -> Result<Layers, RunError> {
    let mut session = warm(model, &Spread::threads(threads))?;
    let threads = session.threads();
    let nodes = &model.report().engine_nodes;
    let mut fastest = vec![Duration::MAX; nodes.len()];
    let mut peak: f64 = 0.0;
    let effort = Effort::Time(time);
    let start = Instant::now();
    let mut runs = 0;
    while !effort.is_done(runs, start) {
        session.run_timed(&mut |step, time| fastest[step] = fastest[step].min(time))?;
        // Between the runs, so that both see the same clock.
        peak = peak.max(calibrate());
        runs += 1;
    }
    let us = |time: Duration| if time == Duration::MAX { 0.0 } else { time.as_nanos() as f64 / 1000.0 };
    let total: f64 = fastest.iter().map(|&t| us(t)).sum();
    let layer = |(node, &time): (&EngineNode, &Duration)| LayerTime {
        name: node.name.clone(),
        kernel: node.op.clone(),
        macs: node.macs,
        min_us: us(time),
        share: us(time) / total.max(f64::MIN_POSITIVE),
        of_peak: if time.is_zero() { 0.0 } else { node.macs as f64 / (us(time) * 1000.0) / (peak * threads as f64) },
        weight_bytes: node.weight_bytes,
        activation_bytes: node.activation_bytes,
    };
    Ok(Layers { threads, peak_macs_per_ns: peak, layers: nodes.iter().zip(&fastest).map(layer).collect() })
}

/// Multiply-accumulates a nanosecond of the CPU's int8 products on registers.
fn calibrate() -> f64 {
    let start = Instant::now();
    let macs = Isa::best().peak_loop(CALIBRATION);
    macs as f64 / start.elapsed().as_nanos().max(1) as f64
}

/// Iterations of the calibration loop: some tens of microseconds.
const CALIBRATION: usize = 10_000;

fn summarize(model: &Model, threads: usize, times: &mut [Duration]) -> BenchResult {
    times.sort_unstable();
    let sorted = &*times;
    let us = |percent| nearest_rank(sorted, percent).as_nanos() as f64 / 1000.0;
    let totals = &model.report().totals;
    BenchResult {
        model: model.name().to_string(),
        digest: model.digest().to_string(),
        threads,
        runs: sorted.len(),
        min_us: us(0),
        p50_us: us(50),
        p90_us: us(90),
        p99_us: us(99),
        max_us: us(100),
        macs: totals.macs,
        arena_bytes: totals.activation_bytes,
        weight_bytes: totals.engine_weight_bytes,
        peak_rss_bytes: std::fs::read_to_string("/proc/self/status").ok().and_then(|status| peak_rss(&status)),
    }
}

/// `VmHWM` of `/proc/<pid>/status` (proc(5)), in bytes.
fn peak_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Fills the inputs from a fixed sequence, with numbers like those that a model's scales are made for, since kernels may be slower on
/// others: bytes around the middle of their range with a deviation of [`DEVIATION`], floats with mean 0 and deviation 1. Wider integers,
/// which may be indices, are 0 or 1.
fn fill(session: &mut Session) {
    let dtypes: Vec<Dtype> = session.model().inputs().iter().map(|port| port.native.dtype).collect();
    let mut random = Lcg(1);
    for (index, dtype) in dtypes.into_iter().enumerate() {
        for element in session.input_mut(index).chunks_exact_mut(dtype.size()) {
            let sum: u16 = std::array::from_fn::<_, BYTES, _>(|_| u16::from(random.next())).iter().sum();
            let byte = (sum / BYTES as u16) as u8;
            let real = (f32::from(sum) / BYTES as f32 - 127.5) / DEVIATION;
            match dtype {
                Dtype::Int8 => element.fill(byte ^ 0x80),
                Dtype::Uint8 => element.fill(byte),
                Dtype::Float16 => element.copy_from_slice(&f16::from_f32(real).to_le_bytes()),
                Dtype::Float32 => element.copy_from_slice(&real.to_le_bytes()),
                Dtype::Int32 | Dtype::Int64 => {
                    element.fill(0);
                    element[0] = byte >> 7;
                }
            }
        }
    }
}

/// The mean of so many bytes is near to normally distributed.
const BYTES: usize = 6;
/// Its standard deviation: that of a byte is the root of (256^2 - 1) / 12.
const DEVIATION: f32 = 30.17;

/// Knuth's MMIX linear congruential generator, its highest byte.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 56) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted: Vec<Duration> = (1..=10).map(Duration::from_micros).collect();
        let rank = |percent| nearest_rank(&sorted, percent).as_micros();
        assert_eq!([0, 50, 90, 91, 99, 100].map(rank), [1, 5, 9, 10, 10, 10]);
        assert_eq!(nearest_rank(&sorted[..1], 99).as_micros(), 1);
        assert_eq!(nearest_rank::<Duration>(&[], 50), Duration::ZERO);
    }

    #[test]
    fn peak_memory_is_read_in_bytes() {
        assert_eq!(peak_rss("Name:\tjouled\nVmHWM:\t    1234 kB\nVmRSS:\t 1000 kB\n"), Some(1234 << 10));
        assert_eq!(peak_rss("VmRSS:\t 1000 kB\n"), None);
    }
}
