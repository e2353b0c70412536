//! Threads that do one job together. Nobody spins when there is nothing to do: between two runs all but the caller sleep.

use super::affinity::keep_on;
use super::progress::{spin_then_sleep, wake};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

/// What all threads run, each with its number; 0 is the caller's.
pub type Job = Arc<dyn Fn(usize) + Send + Sync>;

struct Shared {
    job: Job,
    /// Goes up by one with every run; the threads wait for it.
    runs: AtomicU32,
    /// Threads beside the caller's that have finished the run.
    done: AtomicU32,
    stop: AtomicBool,
    panicked: AtomicBool,
}

impl Shared {
    fn serve(&self, index: usize) {
        let mut runs = 0;
        loop {
            spin_then_sleep(&self.runs, |now| now != runs);
            runs = runs.wrapping_add(1);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            self.take_part(index);
            self.done.fetch_add(1, Ordering::SeqCst);
            wake(&self.done);
        }
    }

    fn take_part(&self, index: usize) {
        if std::panic::catch_unwind(AssertUnwindSafe(|| (self.job)(index))).is_err() {
            self.panicked.store(true, Ordering::SeqCst);
        }
    }
}

/// The caller's thread and some more, which do one job together as often as they are told to.
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of `count` threads, the caller's among them. Thread `i` from 1 on is kept on CPU `cores[i]`, where that is given.
    pub fn new(count: usize, cores: &[usize], job: Job) -> std::io::Result<Team> {
        let shared = Arc::new(Shared {
            job,
            runs: AtomicU32::new(0),
            done: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        let mut team = Team { shared: shared.clone(), threads: Vec::new() };
        for index in 1..count {
            let (shared, core) = (shared.clone(), cores.get(index).copied());
            let work = move || {
                core.into_iter().for_each(|core| keep_on(&[core]));
                shared.serve(index);
            };
            team.threads.push(std::thread::Builder::new().name(format!("infer-{index}")).spawn(work)?);
        }
        Ok(team)
    }

    /// Runs the job on all threads and returns when all are done. False where one of them panicked; the job sees to it that the
    /// others do not wait for that one.
    pub fn run(&self) -> bool {
        let Shared { runs, done, panicked, .. } = &*self.shared;
        done.store(0, Ordering::SeqCst);
        runs.fetch_add(1, Ordering::SeqCst);
        wake(runs);
        self.shared.take_part(0);
        spin_then_sleep(done, |now| now as usize == self.threads.len());
        !panicked.swap(false, Ordering::SeqCst)
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.runs.fetch_add(1, Ordering::SeqCst);
        wake(&self.shared.runs);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_thread_runs_the_job_once_a_run() {
        const THREADS: usize = 4;
        let counters: Arc<[AtomicUsize; THREADS]> = Arc::default();
        let theirs = counters.clone();
        let job = move |index: usize| {
            theirs[index].fetch_add(1, Ordering::Relaxed);
        };
        let team = Team::new(THREADS, &[0], Arc::new(job)).unwrap();
        for run in 1..=50 {
            assert!(team.run());
            assert!(counters.iter().all(|c| c.load(Ordering::Relaxed) == run));
        }
    }

    #[test]
    fn a_panic_is_told_and_the_next_run_works() {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let job = move |index: usize| assert!(index != 2 || counted.load(Ordering::SeqCst) > 0, "on purpose");
        let team = Team::new(3, &[], Arc::new(job)).unwrap();
        assert!(!team.run());
        runs.store(1, Ordering::SeqCst);
        assert!(team.run());
    }
}
