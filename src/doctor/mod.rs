//! What this board is, what can be read on it and what not, and what to change: the findings of `jouled doctor`.

pub mod advice;
pub mod board;
pub mod throttling;

use crate::config::Config;
use crate::governor::readings::firmware_bits;
use crate::governor::{GovernorConfig, Probe, Sensors, probe};
use crate::registry::{Registry, reasons};
use crate::source::SourceConfig;
use advice::Seen;
use board::Board;
use serde::Serialize;
use std::fmt;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};
use throttling::Limits;

/// How long the broker's port may take to answer.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that was looked at.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    pub board: Board,
    /// What it is, what can be read, and what will slow it down, in sentences.
    pub about: Vec<String>,
    /// Sensors of the governor: temperature, clock, power, battery, under-voltage.
    pub readings: Vec<Probe>,
    /// Models, sources and the broker of the configuration, where there is one.
    pub configured: Vec<Finding>,
    /// What to change, in sentences; empty when there is nothing.
    pub advice: Vec<String>,
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
        let (governor, cores) = match &configuration {
            Some(Ok(config)) => (config.governor.clone(), &config.inference.cores[..]),
            _ => (GovernorConfig::default(), &[][..]),
        };
        let board = Board::look(root);
        let firmware = firmware_bits(root);
        let limits = Limits::look(root, &board, firmware.is_some());
        let about = throttling::about(&board, &limits, &readings, &governor, !matches!(configuration, Some(Ok(_))));
        let look = Sensors::new(root, governor.thermal_zone.as_deref()).read(Duration::ZERO);
        let seen = Seen {
            root,
            board: &board,
            limits: &limits,
            firmware: firmware.unwrap_or(0),
            probes: &readings,
            readings: &look,
            governor: &governor,
            cores,
            configured: &configured,
        };
        let advice = advice::advice(&seen);
        Diagnosis { board, about, readings, configured, advice }
    }
}

fn examine(config: &Config, root: &Path) -> Vec<Finding> {
    let model = |m: &crate::config::model::ModelConfig| {
        let alone = crate::config::model::ModelConfig { lighter: None, ..m.clone() };
        let loaded = Registry::load(&[alone], None).map(|_| "loads".to_string());
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

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Board { arch, kernel, cpu_features, .. } = &self.board;
        self.about.iter().try_for_each(|sentence| writeln!(f, "{sentence}"))?;
        writeln!(f, "Kernel {kernel}; {arch} with the CPU features: {}", cpu_features.join(" "))?;
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
