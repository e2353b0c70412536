//! The clock lever: throttling by a lower clock, which needs a lower voltage too, as far as the board has one, and by idle time
//! for the rest.
//!
//! The duty that the law asks for is a share of the full speed. The lever writes the lowest available frequency that is not
//! below that share into `scaling_max_freq`, and what is left of the duty is counted at that clock. Where a frequency cannot be
//! set the duty stays as it was, so nothing is ever faster than the law allows.
//!
//! A cap outlives the process that wrote it. So what was found is noted in [`NOTE`] before the first write and put back when
//! nothing throttles any more, on [`release`](ClockLever::release) and on drop; after a death the next start puts it back. The note
//! is locked as long as its process lives, so that a second one leaves it alone.

use super::readings::sysfs::{self, Why};
use super::throttle::Throttle;
use log::{info, warn};
use rustix::fs::{FlockOperation, OFlags, flock};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const CPUS: &str = "sys/devices/system/cpu";
/// What the caps were before they were lowered: a line of path and kHz each. Gone after a reboot, as the caps are.
pub const NOTE: &str = "run/jouled/scaling_max_freq";
/// In kHz: from 1 MHz to 20 GHz.
const PLAUSIBLE: (f64, f64) = (1e3, 2e7);
/// Drivers without a list of frequencies take any; those of Intel and AMD round to about this many kHz.
const STEP: u64 = 100_000;

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
        drop(note(&self.root, &writable(&self.root, &self.cores)?)?);
        forget(&self.root)
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
        let forgotten = if failed.is_empty() { forget(&self.root) } else { Err(failed.join("; ")) };
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
            let policies = writable(&self.root, &self.cores)?;
            if policies.iter().all(|policy| policy.choose(share) == policy.found) {
                return Ok(());
            }
            self.note = Some(note(&self.root, &policies)?);
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
    if others(root) {
        return Ok(());
    }
    let noted = noted(root)?;
    if noted.is_empty() {
        return Ok(());
    }
    for policy in find(root, &[])?.iter().filter(|policy| noted.contains_key(&policy.shown)) {
        policy.put_back()?;
    }
    info!("put back the clock that an earlier process had lowered");
    forget(root)
}

/// Whether the clock can be set, or is by another process; the error names the file.
pub fn check(root: &Path, cores: &[usize]) -> Result<(), String> {
    if others(root) { Ok(()) } else { writable(root, cores).map(|_| ()) }
}

/// CPUs that share a clock. Frequencies in kHz.
#[derive(Debug)]
struct Policy {
    file: PathBuf,
    /// The file as it would be below `/`.
    shown: String,
    /// The cap before it was lowered.
    found: u64,
    /// The lowest that may be set; not above `found`.
    least: u64,
    /// Those that the clock can have, ascending; empty: any.
    available: Vec<u64>,
    /// The cap now.
    now: u64,
}

impl Policy {
    fn read(root: &Path, directory: &Path, noted: &BTreeMap<String, u64>) -> Result<Policy, String> {
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
    fn choose(&self, share: f64) -> u64 {
        // The conversion saturates; rounding, so that 0.75 of 2400 MHz is 1800 MHz.
        let wanted = ((self.found as f64 * share).round() as u64).clamp(self.least, self.found);
        let step = match &self.available[..] {
            [] => wanted.div_ceil(STEP) * STEP,
            some => some.iter().copied().find(|step| *step >= wanted).unwrap_or(self.found),
        };
        step.min(self.found)
    }

    fn set(&mut self, khz: u64) -> Result<(), String> {
        if khz != self.now {
            self.write(khz)?;
            // A driver may take a higher one; a lower one is a cooling device's, and comes on top.
            let taken = scaled(&self.file).map_err(|why| format!("{}: {why}", self.shown))?;
            self.now = taken.max(khz);
        }
        Ok(())
    }

    fn put_back(&self) -> Result<(), String> {
        self.write(self.found)
    }

    fn write(&self, khz: u64) -> Result<(), String> {
        let written = open(&self.file).and_then(|mut file| file.write_all(khz.to_string().as_bytes()));
        written.map_err(|e| format!("{}: {e}, writing {khz}", self.shown))
    }

    /// The cap over what was found, above 0 to 1.
    fn share(&self) -> f64 {
        (self.now as f64 / self.found as f64).min(1.0)
    }
}

/// For writing; never waits for a reader, as a pipe in the file's place would have it.
fn open(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).truncate(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(file)
}

/// Every policy of `cores`, all if there is none, with what was found. Errors: there is none, or one cannot be read.
fn find(root: &Path, cores: &[usize]) -> Result<Vec<Policy>, String> {
    let noted = noted(root)?;
    let number = |cpu: &Path| cpu.file_name()?.to_str()?.strip_prefix("cpu")?.parse::<usize>().ok();
    let wanted = |cpu: &PathBuf| number(cpu).is_some_and(|n| cores.is_empty() || cores.contains(&n));
    // Where CPUs share a clock, their directories are links to one.
    let directories =
        sysfs::entries(&root.join(CPUS), "cpu").into_iter().filter(wanted).filter_map(|cpu| cpu.join("cpufreq").canonicalize().ok());
    let directories: std::collections::BTreeSet<PathBuf> = directories.collect();
    if directories.is_empty() {
        return Err(format!("/{CPUS}/cpu*/cpufreq: not there, the kernel does not set this machine's clock"));
    }
    let root = root.canonicalize().map_err(|e| format!("{}: {e}", root.display()))?;
    directories.iter().map(|directory| Policy::read(&root, directory, &noted)).collect()
}

/// [`find`], and each may be written.
fn writable(root: &Path, cores: &[usize]) -> Result<Vec<Policy>, String> {
    let policies = find(root, cores)?;
    for policy in &policies {
        let open = OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&policy.file);
        open.map_err(|e| format!("{}: {e}", policy.shown))?;
    }
    Ok(policies)
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
    let khz = |word: &str| word.parse().ok().filter(|khz| (PLAUSIBLE.0..=PLAUSIBLE.1).contains(&(*khz as f64)));
    let all = text.split_whitespace().map(|word| khz(word).ok_or_else(|| bad(&format!("expected frequencies in kHz, found `{word}`"))));
    let mut all = all.collect::<Result<Vec<u64>, String>>()?;
    all.sort_unstable();
    Ok(all)
}

/// Whether the kernel caps a CPU's clock now, because of its own thermal trips.
fn cooling(root: &Path) -> bool {
    sysfs::entries(&root.join("sys/class/thermal"), "cooling_device").iter().any(|device| {
        let kind = sysfs::text(&device.join("type")).unwrap_or_default().to_ascii_lowercase();
        (kind.contains("cpufreq") || kind == "processor") && sysfs::number(&device.join("cur_state")).is_ok_and(|state| state > 0)
    })
}

/// The note of a process that died, or of this one. Errors: it cannot be read, or is not one.
fn noted(root: &Path) -> Result<BTreeMap<String, u64>, String> {
    let text = match sysfs::text(&root.join(NOTE)) {
        Ok(text) => text,
        Err(Why::Missing) => return Ok(BTreeMap::new()),
        Err(why) => return Err(format!("/{NOTE}: {why}")),
    };
    let entry = |line: &str| {
        let (path, khz) = line.rsplit_once(' ')?;
        let khz = khz.parse().ok().filter(|khz| (PLAUSIBLE.0..=PLAUSIBLE.1).contains(&(*khz as f64)))?;
        Some((path.to_string(), khz))
    };
    let bad = |line| format!("/{NOTE}: expected a path and a frequency in kHz, found `{line}`: remove it and set the clock by hand");
    text.lines().map(|line| entry(line).ok_or_else(|| bad(line))).collect()
}

/// Whether the note is that of a living process, or of another user's.
fn others(root: &Path) -> bool {
    match OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(root.join(NOTE)) {
        Ok(file) => flock(&file, FlockOperation::NonBlockingLockExclusive).is_err_and(|e| e == rustix::io::Errno::WOULDBLOCK),
        Err(e) => e.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// Complete or not at all, whenever the process dies. The file is locked until it is closed.
fn note(root: &Path, policies: &[Policy]) -> Result<File, String> {
    if others(root) {
        return Err(format!("/{NOTE}: another process lowers the clock"));
    }
    let (file, new) = (root.join(NOTE), root.join(format!("{NOTE}.new")));
    let text: String = policies.iter().map(|policy| format!("{} {}\n", policy.shown, policy.found)).collect();
    let parent = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    let write = || {
        let mut note = File::create(&new)?;
        flock(&note, FlockOperation::NonBlockingLockExclusive)?;
        note.write_all(text.as_bytes())?;
        std::fs::rename(&new, &file).map(|()| note)
    };
    parent.and_then(|()| write()).map_err(|e| format!("/{NOTE}: {e}, and what is not noted there is not lowered"))
}

fn forget(root: &Path) -> Result<(), String> {
    match std::fs::remove_file(root.join(NOTE)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!("/{NOTE}: {e}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
