//! The clock lever: throttling by a lower clock, which needs a lower voltage too, as far as the board has one, and by idle time
//! for the rest.
//!
//! The duty that the law asks for is a share of the full speed. The lever writes the lowest available frequency that is not
//! below that share into `scaling_max_freq`, and what is left of the duty is counted at that clock. Where a frequency cannot be
//! set the duty stays as it was, so nothing is ever faster than the law allows.
//!
//! A cap outlives the process that wrote it. So what was found is noted in a file before the first write and put back when
//! nothing throttles any more, on [`release`](ClockLever::release) and on drop; after a death the next start puts it back. The note
//! is locked as long as its process lives, so that a second one leaves it alone.

mod note;
mod policy;

use super::readings::sysfs;
use super::throttle::Throttle;
use log::{info, warn};
use note::Found;
use policy::{Policy, find, writable};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Sets the clock of the CPUs that inference runs on.
pub struct ClockLever {
    root: PathBuf,
    cores: Vec<usize>,
    /// What is lowered now; empty: nothing.
    lowered: Vec<Policy>,
    /// Locked while something is lowered.
    note: Option<File>,
    fault: Option<String>,
}

impl ClockLever {
    /// For the CPUs `cores`, all if there is none, below `root`. Puts back what an earlier process left lowered.
    pub fn new(root: impl Into<PathBuf>, cores: &[usize]) -> ClockLever {
        let lever = ClockLever { root: root.into(), cores: cores.to_vec(), lowered: Vec::new(), note: None, fault: None };
        if let Err(why) = put_back_leftovers(&lever.root) {
            warn!("an earlier process lowered the clock, and it cannot be put back: {why}");
        }
        lever
    }

    /// Tries everything but the lowering itself, so that what is wrong is said at once and not when the board is hot. What
    /// failed before is tried again.
    pub fn prepare(&mut self) {
        self.fault = None;
        if self.lowered.is_empty()
            && let Err(why) = put_back_leftovers(&self.root).and_then(|()| self.try_to_note())
        {
            self.fail(why);
        }
    }

    fn try_to_note(&self) -> Result<(), String> {
        let policies = writable(&self.root, &self.cores, &note::read(&self.root)?)?;
        drop(note::write(&self.root, &found(&policies))?);
        note::forget(&self.root)
    }

    /// Why the clock cannot be set; idle time alone throttles then.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Lowers the clock as far as the duty allows. Gives the throttle with the clock that came of it, and its share of the duty
    /// taken off.
    pub fn apply(&mut self, throttle: Throttle) -> Throttle {
        if self.fault.is_none()
            && let Err(why) = self.set(throttle.duty)
        {
            self.release();
            self.fail(why);
        }
        let clock = self.lowered.iter().map(Policy::share).reduce(f64::max).unwrap_or(1.0);
        Throttle { duty: (throttle.duty / clock).min(1.0), clock, ..throttle }
    }

    /// Puts back what was found.
    pub fn release(&mut self) {
        let lowered = std::mem::take(&mut self.lowered);
        if lowered.is_empty() {
            return;
        }
        let failed: Vec<String> = lowered.iter().filter_map(|policy| policy.put_back().err()).collect();
        let forgotten = if failed.is_empty() { note::forget(&self.root) } else { Err(failed.join("; ")) };
        self.note = None;
        if let Err(why) = forgotten {
            warn!("the clock is not put back to what it was, the next start tries again: {why}");
        }
    }

    fn set(&mut self, share: f64) -> Result<(), String> {
        if self.lowered.is_empty() {
            // What a cooling device of the kernel caps is not what was set before: it must not be taken for it.
            if share >= 1.0 || cooling(&self.root) {
                return Ok(());
            }
            let policies = writable(&self.root, &self.cores, &note::read(&self.root)?)?;
            if policies.iter().all(|policy| policy.choose(share) == policy.found) {
                return Ok(());
            }
            self.note = Some(note::write(&self.root, &found(&policies))?);
            self.lowered = policies;
        }
        for policy in &mut self.lowered {
            policy.set(policy.choose(share))?;
        }
        if self.lowered.iter().all(|policy| policy.now >= policy.found) {
            self.release();
        }
        Ok(())
    }

    fn fail(&mut self, why: String) {
        warn!("lower_clock has no effect, idle time alone throttles: {why}");
        self.fault = Some(why);
    }
}

impl Drop for ClockLever {
    fn drop(&mut self) {
        self.release();
    }
}

/// What a process that died has left lowered.
fn put_back_leftovers(root: &Path) -> Result<(), String> {
    if note::is_anothers(root) {
        return Ok(());
    }
    let noted = note::read(root)?;
    if noted.is_empty() {
        return Ok(());
    }
    for policy in find(root, &[], &noted)?.iter().filter(|policy| noted.contains_key(&policy.shown)) {
        policy.put_back()?;
    }
    info!("put back the clock that an earlier process had lowered");
    note::forget(root)
}

/// Whether the clock can be set, or is by another process; the error names the file.
pub fn check(root: &Path, cores: &[usize]) -> Result<(), String> {
    if note::is_anothers(root) {
        return Ok(());
    }
    writable(root, cores, &note::read(root)?).map(|_| ())
}

fn found(policies: &[Policy]) -> Found {
    policies.iter().map(|policy| (policy.shown.clone(), policy.found)).collect()
}

/// Whether the kernel caps a CPU's clock now, because of its own thermal trips.
fn cooling(root: &Path) -> bool {
    sysfs::entries(&root.join("sys/class/thermal"), "cooling_device").iter().any(|device| {
        let kind = sysfs::text(&device.join("type")).unwrap_or_default().to_ascii_lowercase();
        (kind.contains("cpufreq") || kind == "processor") && sysfs::number(&device.join("cur_state")).is_ok_and(|state| state > 0)
    })
}

#[cfg(test)]
mod tests;
