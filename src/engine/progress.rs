//! Who does which parts of which step, for threads that go through one program together.
//!
//! The parts of a step are divided evenly among its threads, so that a thread finds in its caches what it made before. Each takes its
//! share piece by piece; who is done takes half of what another has left, where that is worth it. So a core that is slower, or busy
//! with other work, does not delay the rest by much. A step begins when all parts of those before it are done.

use rustix::thread::futex;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Turns of a spinning wait before it sleeps: some microseconds, as long as a small layer.
const SPINS: u32 = 2_000;

/// How one step is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    pub parts: usize,
    /// The first so many threads of a run share it.
    pub threads: usize,
    /// Least parts that another thread than their own takes, and what taken parts are a multiple of but for the last.
    pub grain: usize,
    /// Parts that a thread takes of its own share at once, a multiple of the grain.
    pub piece: usize,
}

impl Division {
    fn share(&self, thread: usize) -> Range<usize> {
        self.parts * thread / self.threads..self.parts * (thread + 1) / self.threads
    }

    /// No share is worth a piece of another thread's.
    fn is_fixed(&self) -> bool {
        self.threads == 1 || self.parts.div_ceil(self.threads) < self.grain
    }
}

/// Parts that nobody has taken: the first of them, and the first behind them in the upper half. In a cache line of its own, because
/// its owner alone comes to it until the end.
#[derive(Debug)]
#[repr(align(64))]
struct Share(AtomicU64);

impl Share {
    fn range(bits: u64) -> Range<usize> {
        (bits as u32) as usize..(bits >> 32) as usize
    }

    fn bits(range: Range<usize>) -> u64 {
        (range.end as u64) << 32 | range.start as u64
    }

    fn reset(&self, range: Range<usize>) {
        self.0.store(Share::bits(range), Ordering::Relaxed);
    }

    /// Takes what `split` parts off what is left. It gets a range that is not empty and returns what to take and what to leave, if
    /// anything is to be taken.
    fn take(&self, split: impl Fn(Range<usize>) -> Option<[Range<usize>; 2]>) -> Option<Range<usize>> {
        let mut bits = self.0.load(Ordering::Relaxed);
        loop {
            let left = Share::range(bits);
            let [taken, rest] = if left.is_empty() { return None } else { split(left)? };
            // What the parts are made of is ordered by `Progress::completed`, not by this.
            match self.0.compare_exchange_weak(bits, Share::bits(rest), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken),
                Err(now) => bits = now,
            }
        }
    }
}

/// The owner's way: from the front.
fn piece(division: &Division, left: Range<usize>) -> [Range<usize>; 2] {
    let middle = (left.start + division.piece).min(left.end);
    [left.start..middle, middle..left.end]
}

/// Everyone else's: half of it from the back, all where half is less than a grain, nothing where all is.
fn half(division: &Division, left: Range<usize>) -> Option<[Range<usize>; 2]> {
    let kept = match left.len() / division.grain {
        0 => return None,
        1 => 0,
        _ => (left.len() / 2).next_multiple_of(division.grain),
    };
    let middle = left.start + kept;
    Some([middle..left.end, left.start..middle])
}

#[derive(Debug)]
struct Shared {
    division: Division,
    shares: Vec<Share>,
    done: AtomicU32,
}

/// What is taken and done of one run.
#[derive(Debug)]
pub struct Progress {
    steps: Vec<Shared>,
    /// Steps that are done, all before them too; the largest number once a thread has failed.
    completed: AtomicU32,
    sleepers: AtomicU32,
    failed: AtomicBool,
}

impl Progress {
    /// Parts are at least one and below 2^32, threads, grain and piece at least one.
    pub fn new(divisions: &[Division]) -> Progress {
        let shared = |&division: &Division| Shared {
            division,
            shares: (0..division.threads).map(|_| Share(AtomicU64::new(0))).collect(),
            done: AtomicU32::new(0),
        };
        let steps = divisions.iter().map(shared).collect();
        Progress { steps, completed: AtomicU32::new(0), sleepers: AtomicU32::new(0), failed: AtomicBool::new(false) }
    }

    /// For the next run, while no thread is in one.
    pub fn reset(&self) {
        for step in &self.steps {
            step.shares.iter().enumerate().for_each(|(thread, share)| share.reset(step.division.share(thread)));
            step.done.store(0, Ordering::Relaxed);
        }
        self.completed.store(0, Ordering::Relaxed);
        self.failed.store(false, Ordering::Release);
    }

    /// Whether a thread has part in a step.
    pub fn takes_part(&self, step: usize, thread: usize) -> bool {
        thread < self.steps[step].division.threads
    }

    /// Waits until all steps before `step` are done. False where a thread failed: then the run is over.
    #[must_use]
    pub fn wait_for(&self, step: usize) -> bool {
        let ready = |completed: u32| completed >= step as u32 || self.failed.load(Ordering::SeqCst);
        if !spun(&self.completed, ready) {
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            sleep_until(&self.completed, ready);
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
        !self.failed.load(Ordering::Acquire)
    }

    /// Takes parts of a step for a thread that has part in it, until none are left.
    pub fn pieces(&self, step: usize, thread: usize) -> impl Iterator<Item = Range<usize>> {
        let division = &self.steps[step].division;
        let mut fixed = division.is_fixed().then(|| Some(division.share(thread)));
        std::iter::from_fn(move || fixed.as_mut().map_or_else(|| self.take(step, thread), Option::take))
    }

    /// Parts that nobody has taken: its own first.
    fn take(&self, step: usize, thread: usize) -> Option<Range<usize>> {
        let Shared { division, shares, .. } = &self.steps[step];
        let own = shares[thread].take(|left| Some(piece(division, left)));
        let others = (1..shares.len()).map(|i| &shares[(thread + i) % shares.len()]);
        own.or_else(|| others.into_iter().find_map(|share| share.take(|left| half(division, left))))
    }

    /// So many taken parts of a step are done.
    pub fn done(&self, step: usize, parts: usize) {
        if parts == 0 {
            return;
        }
        let Shared { division, done, .. } = &self.steps[step];
        let before = done.fetch_add(parts as u32, Ordering::AcqRel);
        if before as usize + parts == division.parts {
            self.completed.store(step as u32 + 1, Ordering::SeqCst);
            if self.sleepers.load(Ordering::SeqCst) > 0 {
                wake(&self.completed);
            }
        }
    }

    /// Ends the run for all threads.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
        self.completed.store(u32::MAX, Ordering::SeqCst);
        wake(&self.completed);
    }
}

pub fn wake(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::PRIVATE, u32::MAX >> 1);
}

/// Returns when `ready` holds of `word`.
pub fn spin_then_sleep(word: &AtomicU32, ready: impl Fn(u32) -> bool) {
    if !spun(word, &ready) {
        sleep_until(word, ready);
    }
}

/// Spins for a while. True where `ready` came to hold of `word`.
fn spun(word: &AtomicU32, ready: impl Fn(u32) -> bool) -> bool {
    (0..SPINS).any(|_| {
        let now = ready(word.load(Ordering::Acquire));
        if !now {
            std::hint::spin_loop();
        }
        now
    })
}

/// Sleeps until `ready` holds of `word`; whoever makes it hold calls [`wake`].
fn sleep_until(word: &AtomicU32, ready: impl Fn(u32) -> bool) {
    loop {
        let now = word.load(Ordering::SeqCst);
        if ready(now) {
            return;
        }
        let _ = futex::wait(word, futex::Flags::PRIVATE, now, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    fn division(parts: usize, threads: usize, grain: usize, pieces: usize) -> Division {
        Division { parts, threads, grain, piece: grain * pieces }
    }

    /// Goes through all steps and returns what it took of each.
    fn walk(progress: &Progress, thread: usize) -> Vec<(usize, Range<usize>)> {
        let mut taken = Vec::new();
        for step in (0..progress.steps.len()).filter(|&step| progress.takes_part(step, thread)) {
            assert!(progress.wait_for(step));
            let before = taken.len();
            taken.extend(progress.pieces(step, thread).map(|parts| (step, parts)));
            progress.done(step, taken[before..].iter().map(|(_, parts)| parts.len()).sum());
        }
        taken
    }

    proptest! {
        #[test]
        fn every_part_is_taken_once(steps in prop::collection::vec((1usize..60, 1usize..5, 1usize..6, 1usize..4), 1..6)) {
            let divisions: Vec<Division> = steps.iter().map(|&(parts, threads, grain, pieces)| division(parts, threads, grain, pieces)).collect();
            let progress = Progress::new(&divisions);
            for _ in 0..3 {
                progress.reset();
                let taken = Mutex::new(Vec::new());
                std::thread::scope(|scope| {
                    for thread in 0..4 {
                        let (progress, taken) = (&progress, &taken);
                        scope.spawn(move || {
                            let mine = walk(progress, thread);
                            taken.lock().unwrap().extend(mine);
                        });
                    }
                });
                let mut parts: Vec<(usize, usize)> =
                    taken.into_inner().unwrap().into_iter().flat_map(|(step, parts)| parts.map(move |part| (step, part))).collect();
                parts.sort_unstable();
                let all = divisions.iter().enumerate().flat_map(|(step, d)| (0..d.parts).map(move |part| (step, part)));
                prop_assert_eq!(parts, all.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_thread_that_comes_late_finds_its_share_done() {
        let progress = Progress::new(&[division(12, 2, 2, 2)]);
        progress.reset();
        // Own pieces from the front, then half of the other's from the back, then what is left.
        let taken: Vec<_> = walk(&progress, 0).into_iter().map(|(_, parts)| parts).collect();
        assert_eq!(taken, [0..4, 4..6, 10..12, 8..10, 6..8]);
        assert!(walk(&progress, 1).is_empty());
    }

    #[test]
    fn what_is_not_worth_taking_stays_with_its_thread() {
        let progress = Progress::new(&[division(8, 2, 5, 1), division(14, 2, 5, 1)]);
        progress.reset();
        let all = |step| progress.pieces(step, 0).collect::<Vec<_>>();
        assert_eq!(all(0), std::slice::from_ref(&(0..4)));
        assert_eq!(all(1), [0..5, 5..7, 7..14]);
    }

    #[test]
    fn a_failure_ends_every_wait() {
        let progress = Progress::new(&[division(4, 2, 1, 1), division(4, 2, 1, 1)]);
        for _ in 0..20 {
            progress.reset();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| progress.wait_for(1));
                progress.fail();
                assert!(!waiting.join().unwrap());
            });
        }
        progress.reset();
        assert!(progress.wait_for(0));
    }
}
