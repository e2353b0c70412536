//! What this board is, what can be read on it and what not, and what to change: the findings of `jouled doctor`.

use crate::config::Config;
use crate::governor::{Probe, probe};
use crate::registry::{Registry, reasons};
use crate::source::SourceConfig;
use serde::Serialize;
use std::fmt;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the broker's port may take to answer.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that was looked at.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    pub board: Board,
    /// Sensors of the governor: temperature, clock, power, battery, under-voltage.
    pub readings: Vec<Probe>,
    /// Models, sources and the broker of the configuration, where there is one.
    pub configured: Vec<Finding>,
    /// What to change, in sentences; empty when there is nothing.
    pub advice: Vec<String>,
}

/// The machine.
#[derive(Debug, Serialize)]
pub struct Board {
    pub name: String,
    pub arch: &'static str,
    pub kernel: String,
    pub cores: usize,
    pub memory_bytes: Option<u64>,
    /// CPU features that int8 kernels use.
    pub cpu_features: Vec<&'static str>,
}

/// One thing of the configuration that works or does not.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub what: String,
    pub good: bool,
    pub detail: String,
}

impl Finding {
    fn new(what: impl Into<String>, outcome: Result<String, String>) -> Finding {
        let (good, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        Finding { what: what.into(), good, detail }
    }
}

impl Diagnosis {
    /// Looks below `root`; `configuration` is what reading the file gave, `None` where there is no file.
    pub fn new(root: &Path, configuration: Option<Result<Config, String>>) -> Diagnosis {
        let readings = probe(root);
        let configured = match &configuration {
            None => Vec::new(),
            Some(Err(e)) => vec![Finding::new("configuration", Err(e.clone()))],
            Some(Ok(config)) => examine(config, root),
        };
        let advice = advice(&readings, &configured);
        Diagnosis { board: Board::look(root), readings, configured, advice }
    }
}

impl Board {
    fn look(root: &Path) -> Board {
        let read = |path: &str| std::fs::read_to_string(root.join(path)).ok().map(|t| t.trim_end_matches(['\0', '\n']).to_string());
        let names = ["proc/device-tree/model", "sys/firmware/devicetree/base/model", "sys/class/dmi/id/product_name"];
        let memory = read("proc/meminfo").and_then(|text| {
            let kib: u64 = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
            Some(kib * 1024)
        });
        Board {
            name: names.iter().find_map(|path| read(path)).unwrap_or_else(|| "unknown board".into()),
            arch: std::env::consts::ARCH,
            kernel: read("proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory,
            cpu_features: cpu_features(),
        }
    }
}

macro_rules! detect {
    ($is:ident: $($feature:tt),*) => {
        [$(($feature, std::arch::$is!($feature))),*].into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
    };
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    detect!(is_x86_feature_detected: "sse4.1", "avx2", "avxvnni", "avx512vnni")
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<&'static str> {
    detect!(is_aarch64_feature_detected: "neon", "dotprod", "i8mm")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

fn examine(config: &Config, root: &Path) -> Vec<Finding> {
    let model = |m: &crate::config::model::ModelConfig| {
        let alone = crate::config::model::ModelConfig { lighter: None, ..m.clone() };
        let loaded = Registry::load(&[alone]).map(|_| "loads".to_string());
        Finding::new(format!("model {}", m.name), loaded.map_err(|e| reasons(&e, "; ")))
    };
    let source = |s: &SourceConfig| {
        Finding::new(format!("source {}", s.name), s.probe(root).map(|()| "opens".to_string()).map_err(|e| e.to_string()))
    };
    let mut found: Vec<Finding> = config.models.iter().map(model).collect();
    found.extend(config.sources.iter().map(source));
    let (host, port) = (&config.mqtt.host, config.mqtt.port());
    found.push(Finding::new(format!("broker {host}:{port}"), reach(host, port)));
    found
}

/// Whether something accepts connections there. It need not speak MQTT, or let us in.
fn reach(host: &str, port: u16) -> Result<String, String> {
    let start = Instant::now();
    let addresses = (host, port).to_socket_addrs().map_err(|e| format!("the name does not resolve: {e}"))?;
    let mut last = "the name has no address".to_string();
    for address in addresses {
        match TcpStream::connect_timeout(&address, BROKER_TIMEOUT) {
            Ok(_) => return Ok(format!("{address} accepts connections, after {:.1?}", start.elapsed())),
            Err(e) => last = format!("{address}: {e}"),
        }
    }
    Err(last)
}

fn advice(readings: &[Probe], configured: &[Finding]) -> Vec<String> {
    use crate::governor::readings::{Quantity, Why};
    let has = |quantity: Quantity| readings.iter().any(|p| p.quantity == quantity && p.value.is_some());
    let mut advice = Vec::new();
    if !has(Quantity::Temperature) {
        advice.push("No temperature can be read: the governor cannot keep `max_celsius`. On a virtual machine that is so; on a board, look for /sys/class/thermal.".to_string());
    }
    if !has(Quantity::Power) {
        let denied = readings.iter().any(|p| p.quantity == Quantity::Power && p.why_not == Some(Why::Permission));
        advice.push(match denied {
            true => "The power meter is there but may only be read by root: run the daemon with the capability, or change the file's mode by a udev rule.".to_string(),
            false => "No power can be read: results carry no joules, and `max_watts` has no effect.".to_string(),
        });
    }
    advice.extend(configured.iter().filter(|f| !f.good).map(|f| {
        let hint = match f.detail.to_ascii_lowercase() {
            d if d.contains("permission denied") => " Add the daemon's user to the group that owns the device (ls -l shows it).",
            d if d.contains("connection refused") => " Is the broker running, and does it listen on that address?",
            _ => "",
        };
        format!("{} does not work: {}.{hint}", f.what, f.detail.trim_end_matches('.'))
    }));
    advice
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Board { name, arch, kernel, cores, memory_bytes, cpu_features } = &self.board;
        let memory = memory_bytes.map_or_else(String::new, |m| format!(", {} MiB", m >> 20));
        writeln!(f, "{name}: {arch}, {cores} cores{memory}, kernel {kernel}; CPU features: {}", cpu_features.join(" "))?;
        writeln!(f, "\nReadings")?;
        for probe in &self.readings {
            let value = match (&probe.value, &probe.why_not) {
                (Some(value), _) => value.clone(),
                (None, Some(why)) => format!("- ({why})"),
                (None, None) => "-".into(),
            };
            writeln!(f, "  {:18} {:24} {}", probe.quantity.to_string(), value, probe.path)?;
        }
        if !self.configured.is_empty() {
            writeln!(f, "\nConfiguration")?;
        }
        for finding in &self.configured {
            writeln!(f, "  {:4} {}: {}", if finding.good { "ok" } else { "FAIL" }, finding.what, finding.detail)?;
        }
        writeln!(f, "\n{}", if self.advice.is_empty() { "Nothing to change." } else { "What to change" })?;
        self.advice.iter().try_for_each(|a| writeln!(f, "  - {a}"))
    }
}
