//! The machine: what it is, and how it is cooled and clocked.

use serde::Serialize;
use std::path::Path;

/// The machine.
#[derive(Debug, Serialize)]
pub struct Board {
    pub name: String,
    /// What the device tree says it is compatible with, the most particular first.
    pub compatible: Vec<String>,
    pub arch: &'static str,
    pub kernel: String,
    pub cores: usize,
    pub memory_bytes: Option<u64>,
    /// CPU features that int8 kernels use.
    pub cpu_features: Vec<&'static str>,
    /// Highest clock of the fastest core, and the highest that is allowed now, in MHz.
    pub max_mhz: Option<u64>,
    pub allowed_mhz: Option<u64>,
    /// The kernel's cpufreq governor and driver of the first core.
    pub cpufreq_governor: Option<String>,
    pub cpufreq_driver: Option<String>,
    /// Whether the kernel knows a fan.
    pub fan: bool,
}

impl Board {
    /// Looks below `root`.
    pub fn look(root: &Path) -> Board {
        let names = ["proc/device-tree/model", "sys/firmware/devicetree/base/model", "sys/class/dmi/id/product_name"];
        let compatible = ["proc/device-tree/compatible", "sys/firmware/devicetree/base/compatible"];
        let compatible = compatible.iter().find_map(|path| text(root, path)).unwrap_or_default();
        let cpus = cpus(root);
        let mhz = |file: &str| cpus.iter().filter_map(|cpu| text(root, &format!("{cpu}/cpufreq/{file}"))?.parse::<u64>().ok()).max();
        let first = |file: &str| cpus.iter().find_map(|cpu| text(root, &format!("{cpu}/cpufreq/{file}")));
        Board {
            name: names.iter().find_map(|path| text(root, path)).unwrap_or_else(|| "unknown board".into()),
            compatible: compatible.split('\0').map(str::to_string).filter(|name| !name.is_empty()).collect(),
            arch: std::env::consts::ARCH,
            kernel: text(root, "proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into()),
            cores: if cpus.is_empty() { std::thread::available_parallelism().map_or(1, usize::from) } else { cpus.len() },
            memory_bytes: memory(root),
            cpu_features: cpu_features(),
            max_mhz: mhz("cpuinfo_max_freq").map(|khz| khz / 1000),
            allowed_mhz: mhz("scaling_max_freq").map(|khz| khz / 1000),
            cpufreq_governor: first("scaling_governor"),
            cpufreq_driver: first("scaling_driver"),
            fan: has_fan(root),
        }
    }

    /// Whether it is compatible with something that contains `part`.
    pub fn is(&self, part: &str) -> bool {
        self.compatible.iter().any(|name| name.contains(part))
    }

    /// Its name for `jouled simulate`.
    pub fn simulated(&self) -> Option<&'static str> {
        let known = [
            ("raspberrypi,4-", "pi4"),
            ("raspberrypi,5-", "pi5"),
            ("nvidia,jetson-nano", "jetson-nano"),
            ("p3767-", "orin-nano"),
            ("p3701-", "agx-orin"),
        ];
        known.iter().find(|(part, _)| self.is(part)).map(|(_, name)| *name)
    }
}

fn text(root: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok().map(|t| t.trim_end_matches(['\0', '\n']).to_string())
}

fn entries(root: &Path, path: &str) -> Vec<String> {
    let names = std::fs::read_dir(root.join(path)).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.map(|entry| format!("{path}/{}", entry.file_name().to_string_lossy())).collect();
    names.sort();
    names
}

/// `cpu0`, `cpu1` and so on; not `cpufreq` or `cpuidle`.
fn cpus(root: &Path) -> Vec<String> {
    let numbered = |path: &String| path.rsplit_once("/cpu").is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    entries(root, "sys/devices/system/cpu").into_iter().filter(numbered).collect()
}

fn memory(root: &Path) -> Option<u64> {
    let text = text(root, "proc/meminfo")?;
    let kib: u64 = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

fn has_fan(root: &Path) -> bool {
    let device = |path: &String| text(root, &format!("{path}/type")).is_some_and(|kind| kind.to_ascii_lowercase().contains("fan"));
    let monitor = |path: &String| root.join(path).join("fan1_input").exists();
    entries(root, "sys/class/thermal").iter().filter(|path| path.contains("cooling_device")).any(device)
        || entries(root, "sys/class/hwmon").iter().any(monitor)
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
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

#[cfg(target_arch = "arm")]
fn cpu_features() -> Vec<&'static str> {
    use crate::kernels::Isa;
    Isa::supported().into_iter().filter_map(|isa| matches!(isa, Isa::Neon32(_)).then_some("neon")).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}
