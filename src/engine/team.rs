//! Threads that go through one program together, a barrier after each shared step. Nobody spins when there is nothing to do: a
//! barrier spins for some microseconds, then sleeps, and between two runs all but the caller sleep.

use super::affinity::keep_on;
use rustix::thread::futex;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

/// Turns of a spinning barrier before it sleeps: some microseconds, as long as a small layer.
const SPINS: u32 = 2_000;

/// A point that all of `count` threads pass together.
struct Barrier {
    count: u32,
    arrived: AtomicU32,
    /// Goes up by one whenever all have arrived.
    phase: AtomicU32,
    sleepers: AtomicU32,
    /// A thread failed: nobody waits any more.
    broken: AtomicBool,
}

impl Barrier {
    fn new(count: usize) -> Barrier {
        let zero = || AtomicU32::new(0);
        Barrier { count: count as u32, arrived: zero(), phase: zero(), sleepers: zero(), broken: AtomicBool::new(false) }
    }

    /// Waits for the others. False where one of them failed.
    fn wait(&self) -> bool {
        let phase = self.phase.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.count {
            self.arrived.store(0, Ordering::Relaxed);
            self.phase.store(phase.wrapping_add(1), Ordering::SeqCst);
            if self.sleepers.load(Ordering::SeqCst) > 0 {
                wake(&self.phase);
            }
        } else {
            self.until_changed(phase);
        }
        !self.broken.load(Ordering::Acquire)
    }

    fn until_changed(&self, phase: u32) {
        let same = || self.phase.load(Ordering::SeqCst) == phase && !self.broken.load(Ordering::Acquire);
        for _ in 0..SPINS {
            if !same() {
                return;
            }
            std::hint::spin_loop();
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while same() {
            sleep(&self.phase, phase);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Lets everyone go on and see that the run failed.
    fn break_up(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.phase.fetch_add(1, Ordering::SeqCst);
        wake(&self.phase);
    }

    /// For the next run, when all have left.
    fn mend(&self) {
        self.arrived.store(0, Ordering::Relaxed);
        self.broken.store(false, Ordering::Release);
    }
}

/// Sleeps while `word` is `value`; may wake early.
fn sleep(word: &AtomicU32, value: u32) {
    let _ = futex::wait(word, futex::Flags::PRIVATE, value, None);
}

fn wake(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::PRIVATE, u32::MAX >> 1);
}

/// One thread's place in a run.
pub struct Member<'a> {
    /// 0 is the caller's thread.
    pub index: usize,
    barrier: Option<&'a Barrier>,
}

impl Member<'_> {
    /// The only thread of a run.
    pub fn alone() -> Member<'static> {
        Member { index: 0, barrier: None }
    }

    /// Waits until every thread is here. False where one failed: then the run is over.
    #[must_use]
    pub fn meet(&self) -> bool {
        self.barrier.is_none_or(Barrier::wait)
    }

    /// Ends the run for all threads.
    pub fn fail(&self) {
        if let Some(barrier) = self.barrier {
            barrier.break_up();
        }
    }
}

/// What all threads run.
pub type Job = Arc<dyn Fn(&Member) + Send + Sync>;

struct Shared {
    job: Job,
    barrier: Barrier,
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
        let member = Member { index, barrier: Some(&self.barrier) };
        if std::panic::catch_unwind(AssertUnwindSafe(|| (self.job)(&member))).is_err() {
            self.panicked.store(true, Ordering::SeqCst);
            self.barrier.break_up();
        }
    }
}

/// Returns when `ready` holds of `word`.
fn spin_then_sleep(word: &AtomicU32, ready: impl Fn(u32) -> bool) {
    for _ in 0..SPINS {
        if ready(word.load(Ordering::Acquire)) {
            return;
        }
        std::hint::spin_loop();
    }
    loop {
        let now = word.load(Ordering::SeqCst);
        if ready(now) {
            return;
        }
        sleep(word, now);
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
            barrier: Barrier::new(count),
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

    /// Runs the job on all threads and returns when all are done. False where one of them panicked.
    pub fn run(&self) -> bool {
        let Shared { barrier, runs, done, panicked, .. } = &*self.shared;
        done.store(0, Ordering::SeqCst);
        runs.fetch_add(1, Ordering::SeqCst);
        wake(runs);
        self.shared.take_part(0);
        spin_then_sleep(done, |now| now as usize == self.threads.len());
        barrier.mend();
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
    fn everyone_sees_what_everyone_did_before_the_barrier() {
        const THREADS: usize = 4;
        let counters: Arc<[AtomicUsize; THREADS]> = Arc::default();
        let wrong = Arc::new(AtomicUsize::new(0));
        let (theirs, mistakes) = (counters.clone(), wrong.clone());
        let job = move |member: &Member| {
            for round in 1..=50 {
                theirs[member.index].fetch_add(1, Ordering::Relaxed);
                assert!(member.meet());
                let late = theirs.iter().filter(|c| c.load(Ordering::Relaxed) % 50 != round % 50).count();
                mistakes.fetch_add(late, Ordering::Relaxed);
                assert!(member.meet());
            }
        };
        let team = Team::new(THREADS, &[0], Arc::new(job)).unwrap();
        (0..20).for_each(|_| assert!(team.run()));
        assert_eq!(wrong.load(Ordering::Relaxed), 0);
        assert!(counters.iter().all(|c| c.load(Ordering::Relaxed) == 1000));
    }

    #[test]
    fn a_failure_ends_the_run_for_all_and_the_next_one_works() {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let job = move |member: &Member| {
            let first = counted.load(Ordering::SeqCst) == 0;
            assert!(!(first && member.index == 2), "on purpose");
            while first && member.meet() {}
        };
        let team = Team::new(3, &[], Arc::new(job)).unwrap();
        assert!(!team.run());
        runs.store(1, Ordering::SeqCst);
        assert!(team.run());
        let job = |member: &Member| if member.index == 0 { member.fail() } else { while member.meet() {} };
        assert!(Team::new(2, &[], Arc::new(job)).unwrap().run());
    }
}
