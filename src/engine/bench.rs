//! How fast a model runs here: the engine call alone, on inputs that are the same on every machine.

use super::error::RunError;
use super::model::{Model, Session};
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

const WARM_UPS: usize = 3;
const MIN_RUNS: usize = 5;

/// Runs `model` for about `time` after three warm-up runs, at least five times, and measures each run of the engine.
pub fn bench(model: &Model, threads: usize, time: Duration) -> Result<BenchResult, RunError> {
    let mut session = model.session(threads)?;
    fill(&mut session);
    for _ in 0..WARM_UPS {
        session.run()?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < MIN_RUNS || start.elapsed() < time {
        let begin = Instant::now();
        session.run()?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok(summarize(model, session.threads(), &times))
}

fn summarize(model: &Model, threads: usize, sorted: &[Duration]) -> BenchResult {
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

/// Fills the inputs from a fixed sequence: any byte for int8 and uint8, floats in [-1, 1), 0 or 1 for wider integers, which may
/// be indices.
fn fill(session: &mut Session) {
    let dtypes: Vec<Dtype> = session.model().inputs().iter().map(|port| port.native.dtype).collect();
    let mut random = Lcg(1);
    for (index, dtype) in dtypes.into_iter().enumerate() {
        for element in session.input_mut(index).chunks_exact_mut(dtype.size()) {
            let byte = random.next();
            let real = f32::from(byte) / 128.0 - 1.0;
            match dtype {
                Dtype::Int8 | Dtype::Uint8 => element.fill(byte),
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
