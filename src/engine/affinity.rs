//! Which CPUs a thread runs on.

use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps the calling thread on these CPUs. Where the system refuses, the thread goes on anywhere and the log says so.
pub fn keep_on(cores: &[usize]) {
    let mut set = CpuSet::new();
    for &core in cores {
        match core {
            0..CpuSet::MAX_CPU => set.set(core),
            _ => log::warn!("core {core}: there are at most {}", CpuSet::MAX_CPU),
        }
    }
    if let Err(e) = sched_setaffinity(None, &set) {
        log::warn!("cores {cores:?}: {e}; the thread runs on any");
    }
}
