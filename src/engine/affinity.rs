//! Which CPU a thread runs on.

use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps the calling thread on CPU `core`. Where the system refuses, the thread goes on anywhere and the log says so.
pub fn keep_on(core: usize) {
    if core >= CpuSet::MAX_CPU {
        return log::warn!("core {core}: there are at most {}", CpuSet::MAX_CPU);
    }
    let mut set = CpuSet::new();
    set.set(core);
    if let Err(e) = sched_setaffinity(None, &set) {
        log::warn!("core {core}: {e}; the thread runs on any");
    }
}
