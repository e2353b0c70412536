//! The daemon's own messages: `info` (what it is, retained) and `stats` (how it does, periodic).

use crate::governor::GovernorStatus;
use crate::latency::Percentiles;
use crate::metrics::{Count, Metrics};
use crate::mqtt;
use crate::queue::Depth;
use crate::registry::{Loaded, Registry};
use crate::source::SourceStatus;
use crate::tensor::TensorSpec;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

/// The payload of `<prefix>/<node>/info`.
#[derive(Serialize)]
pub struct Info<'a> {
    pub version: &'static str,
    pub node: &'a str,
    /// When the daemon or this configuration started: RFC 3339, UTC.
    pub since: String,
    pub arch: &'static str,
    pub models: BTreeMap<&'a str, ModelInfo<'a>>,
    pub sources: Vec<&'a str>,
}

/// One model in `info`.
#[derive(Serialize)]
pub struct ModelInfo<'a> {
    pub digest: &'a str,
    pub inputs: Vec<&'a TensorSpec>,
    pub outputs: Vec<&'a TensorSpec>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<&'a str>,
    /// Where requests go, and where results of sensors and of requests without a response topic come.
    pub request_topic: String,
    pub result_topic: String,
}

impl<'a> Info<'a> {
    pub fn new(node: &'a str, registry: &'a Registry, sources: Vec<&'a str>, topics: &mqtt::Topics) -> Info<'a> {
        let models = registry.iter().map(|loaded| (loaded.name.as_str(), ModelInfo::new(loaded, topics))).collect();
        Info { version: env!("CARGO_PKG_VERSION"), node, since: now(), arch: std::env::consts::ARCH, models, sources }
    }
}

impl<'a> ModelInfo<'a> {
    fn new(loaded: &'a Loaded, topics: &mqtt::Topics) -> ModelInfo<'a> {
        ModelInfo {
            digest: &loaded.digest,
            inputs: loaded.model.inputs().iter().map(|p| &p.declared).collect(),
            outputs: loaded.model.outputs().iter().map(|p| &p.declared).collect(),
            labels: loaded.labels.iter().flat_map(|labels| labels.iter()).collect(),
            request_topic: topics.infer(&loaded.name),
            result_topic: topics.result(&loaded.name),
        }
    }
}

/// The payload of `<prefix>/<node>/stats`.
#[derive(Serialize)]
pub struct Stats<'a> {
    pub time: String,
    pub uptime_seconds: u64,
    pub counts: &'a Metrics,
    pub queue: Depth,
    /// Engine time of each model's last 512 inferences.
    pub models: BTreeMap<&'a str, Percentiles>,
    pub governor: GovernorStatus,
    pub sources: Vec<SourceStatus>,
    pub mqtt: mqtt::Stats,
    /// Resident memory of the daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
}

/// Engine times of every model.
pub fn latencies(registry: &Registry) -> BTreeMap<&str, Percentiles> {
    let percentiles = |loaded: &Loaded| loaded.latencies.lock().unwrap_or_else(PoisonError::into_inner).percentiles();
    registry.iter().map(|loaded| (loaded.name.as_str(), percentiles(loaded))).collect()
}

/// Now, as RFC 3339 in UTC with milliseconds.
pub fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

/// Resident memory of this process, from `VmRSS` in `/proc/self/status`.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// One line for `systemctl status`.
pub fn status_line(uptime: Duration, counts: &Metrics, queue: Depth, governor: &GovernorStatus, mqtt: &mqtt::Stats) -> String {
    let celsius = governor.readings.celsius.map_or_else(String::new, |c| format!(", {c:.0} °C"));
    let watts = governor.readings.watts.map_or_else(String::new, |w| format!(", {w:.1} W"));
    let broker = if mqtt.connected { "connected" } else { "no broker" };
    let (results, errors) = (counts.get(Count::Results), counts.get(Count::Errors));
    let (waiting, level, seconds) = (queue.requests + queue.samples, governor.throttle.level, uptime.as_secs());
    format!("{broker}, {results} results, {errors} errors, {waiting} waiting, throttle {level}{celsius}{watts}, up {seconds}s")
}
