//! What the caps were before they were lowered, kept where a killed process leaves it and a reboot does not: the caps themselves
//! live as long.

use super::policy::plausible;
use crate::governor::readings::sysfs::{self, Why};
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// The file: a line of path and kHz for each cap.
pub const NOTE: &str = "run/jouled/scaling_max_freq";

/// The path of each cap as it would be below `/`, and what it was in kHz.
pub type Found = BTreeMap<String, u64>;

/// What a process that died, or this one, has noted; nothing where there is no note. Errors: it cannot be read, or is not one.
pub fn read(root: &Path) -> Result<Found, String> {
    let text = match sysfs::text(&root.join(NOTE)) {
        Ok(text) => text,
        Err(Why::Missing) => return Ok(Found::new()),
        Err(why) => return Err(format!("/{NOTE}: {why}")),
    };
    let entry = |line: &str| {
        let (path, khz) = line.rsplit_once(' ')?;
        let khz = khz.parse().ok().filter(plausible)?;
        Some((path.to_string(), khz))
    };
    let bad = |line| format!("/{NOTE}: expected a path and a frequency in kHz, found `{line}`: remove it and set the clock by hand");
    text.lines().map(|line| entry(line).ok_or_else(|| bad(line))).collect()
}

/// Whether the note is that of a living process, or of another user's.
pub fn is_anothers(root: &Path) -> bool {
    match sysfs::open(&root.join(NOTE), OpenOptions::new().read(true)) {
        Ok(file) => flock(&file, FlockOperation::NonBlockingLockExclusive).is_err_and(|e| e == rustix::io::Errno::WOULDBLOCK),
        Err(e) => e.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// Writes it, complete or not at all whenever the process dies. The file is locked until it is closed. Errors: it cannot be
/// written, or is another's.
pub fn write(root: &Path, found: &Found) -> Result<File, String> {
    if is_anothers(root) {
        return Err(format!("/{NOTE}: another process lowers the clock"));
    }
    let (file, new) = (root.join(NOTE), root.join(format!("{NOTE}.new")));
    let text: String = found.iter().map(|(path, khz)| format!("{path} {khz}\n")).collect();
    let parent = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    let write = || {
        let mut note = File::create(&new)?;
        flock(&note, FlockOperation::NonBlockingLockExclusive)?;
        note.write_all(text.as_bytes())?;
        std::fs::rename(&new, &file).map(|()| note)
    };
    parent.and_then(|()| write()).map_err(|e| format!("/{NOTE}: {e}, and what is not noted there is not lowered"))
}

/// Removes it.
pub fn forget(root: &Path) -> Result<(), String> {
    match std::fs::remove_file(root.join(NOTE)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!("/{NOTE}: {e}")),
        _ => Ok(()),
    }
}
