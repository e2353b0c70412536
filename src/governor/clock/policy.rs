//! The caps on the CPUs' clocks, as the kernel has them: found, chosen, written.

use super::note::Found;
use crate::governor::readings::cpufreq::{CPUS, PLAUSIBLE};
use crate::governor::readings::sysfs::{self, Why};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Drivers without a list of frequencies take any; those of Intel and AMD round to about this many kHz.
pub(super) const STEP: u64 = 100_000;

/// CPUs that share a clock. Frequencies in kHz.
#[derive(Debug)]
pub struct Policy {
    pub file: PathBuf,
    /// The file as it would be below `/`.
    pub shown: String,
    /// The cap before it was lowered.
    pub found: u64,
    /// The lowest that may be set; not above `found`.
    pub least: u64,
    /// Those that the clock can have, ascending; empty: any.
    pub available: Vec<u64>,
    /// The cap now.
    pub now: u64,
}

impl Policy {
    fn read(root: &Path, directory: &Path, noted: &Found) -> Result<Policy, String> {
        let khz = |name: &str| frequency(root, &directory.join(name));
        let file = directory.join("scaling_max_freq");
        let shown = sysfs::shown(root, &file);
        let (now, most) = (required(khz("scaling_max_freq"), &shown)?, khz("cpuinfo_max_freq")?.unwrap_or(u64::MAX));
        let found = noted.get(&shown).map_or(now, |before| (*before).min(most));
        let least = [khz("scaling_min_freq")?, khz("cpuinfo_min_freq")?].into_iter().flatten().max();
        let least = required(Ok(least), &sysfs::shown(root, &directory.join("scaling_min_freq")))?.min(found);
        Ok(Policy { file, shown, found, least, available: available(root, directory)?, now })
    }

    /// The lowest frequency that is not below `share` of what was found, nor below the least; never above what was found.
    pub fn choose(&self, share: f64) -> u64 {
        // The conversion saturates; rounding, so that 0.75 of 2400 MHz is 1800 MHz.
        let wanted = ((self.found as f64 * share).round() as u64).clamp(self.least, self.found);
        let step = match &self.available[..] {
            [] => wanted.div_ceil(STEP) * STEP,
            some => some.iter().copied().find(|step| *step >= wanted).unwrap_or(self.found),
        };
        step.min(self.found)
    }

    pub fn set(&mut self, khz: u64) -> Result<(), String> {
        if khz != self.now {
            self.write(khz)?;
            // A driver may take a higher one; a lower one is a cooling device's, and comes on top.
            let taken = scaled(&self.file).map_err(|why| format!("{}: {why}", self.shown))?;
            self.now = taken.max(khz);
        }
        Ok(())
    }

    pub fn put_back(&self) -> Result<(), String> {
        self.write(self.found)
    }

    fn write(&self, khz: u64) -> Result<(), String> {
        let opened = sysfs::open(&self.file, OpenOptions::new().write(true).truncate(true));
        let written = opened.and_then(|mut file| file.write_all(khz.to_string().as_bytes()));
        written.map_err(|e| format!("{}: {e}, writing {khz}", self.shown))
    }

    /// The cap over what was found, above 0 to 1.
    pub fn share(&self) -> f64 {
        (self.now as f64 / self.found as f64).min(1.0)
    }
}

/// Every policy of `cores`, all if there is none; what is noted was found before what is there now. Errors: there is none, or one
/// cannot be read.
pub fn find(root: &Path, cores: &[usize], noted: &Found) -> Result<Vec<Policy>, String> {
    let number = |cpu: &Path| cpu.file_name()?.to_str()?.strip_prefix("cpu")?.parse::<usize>().ok();
    let wanted = |cpu: &PathBuf| number(cpu).is_some_and(|n| cores.is_empty() || cores.contains(&n));
    // Where CPUs share a clock, their directories are links to one.
    let directories =
        sysfs::entries(&root.join(CPUS), "cpu").into_iter().filter(wanted).filter_map(|cpu| cpu.join("cpufreq").canonicalize().ok());
    let directories: BTreeSet<PathBuf> = directories.collect();
    if directories.is_empty() {
        return Err(format!("/{CPUS}/cpu*/cpufreq: not there, the kernel does not set this machine's clock"));
    }
    let root = root.canonicalize().map_err(|e| format!("{}: {e}", root.display()))?;
    directories.iter().map(|directory| Policy::read(&root, directory, noted)).collect()
}

/// [`find`], and each may be written.
pub fn writable(root: &Path, cores: &[usize], noted: &Found) -> Result<Vec<Policy>, String> {
    let policies = find(root, cores, noted)?;
    for policy in &policies {
        sysfs::open(&policy.file, OpenOptions::new().write(true)).map_err(|e| format!("{}: {e}", policy.shown))?;
    }
    Ok(policies)
}

/// A frequency in kHz that a processor may have.
pub fn plausible(khz: &u64) -> bool {
    (PLAUSIBLE.0..=PLAUSIBLE.1).contains(&(*khz as f64))
}

fn scaled(file: &Path) -> Result<u64, Why> {
    sysfs::scaled(file, 1.0, PLAUSIBLE.0, PLAUSIBLE.1).map(|khz| khz as u64)
}

/// `None`: there is no such file.
fn frequency(root: &Path, file: &Path) -> Result<Option<u64>, String> {
    match scaled(file) {
        Ok(khz) => Ok(Some(khz)),
        Err(Why::Missing) => Ok(None),
        Err(why) => Err(format!("{}: {why}", sysfs::shown(root, file))),
    }
}

fn required(khz: Result<Option<u64>, String>, shown: &str) -> Result<u64, String> {
    khz?.ok_or_else(|| format!("{shown}: {}", Why::Missing))
}

fn available(root: &Path, directory: &Path) -> Result<Vec<u64>, String> {
    let file = directory.join("scaling_available_frequencies");
    let bad = |why: &dyn std::fmt::Display| format!("{}: {why}", sysfs::shown(root, &file));
    let text = match sysfs::text(&file) {
        Ok(text) => text,
        Err(Why::Missing) => return Ok(Vec::new()),
        Err(why) => return Err(bad(&why)),
    };
    let khz = |word: &str| word.parse().ok().filter(plausible);
    let all = text.split_whitespace().map(|word| khz(word).ok_or_else(|| bad(&format!("expected frequencies in kHz, found `{word}`"))));
    let mut all = all.collect::<Result<Vec<u64>, String>>()?;
    all.sort_unstable();
    Ok(all)
}
