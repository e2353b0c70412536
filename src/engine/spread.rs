//! How inferences share the CPU's cores.
//!
//! Many cores on one inference give the shortest answer; an inference a core gives the most answers; stages, each on cores of its
//! own, keep every layer's weights in the caches of the cores that need them.

use super::affinity::keep_on;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Where the work of one session is done.
#[derive(Clone, Debug)]
pub enum Spread {
    /// Up to `threads` threads go through every layer together. Thread `i` of those that are started for it (from 1 on: the
    /// caller's is 0, and stays where it is) is kept on CPU `cores[i]`, where that is given.
    Threads { threads: usize, cores: Vec<usize> },
    /// The layers are divided into stages, shared with other sessions: the caller's thread goes from one to the next.
    Stages(Arc<Stages>),
}

impl Spread {
    /// Up to `threads` threads, on any core.
    pub fn threads(threads: usize) -> Spread {
        Spread::Threads { threads, cores: Vec::new() }
    }

    /// Of worker `index`, with `threads` threads each. `cores` are dealt out worker by worker, thread by thread, and again from
    /// their start when they end; without any a thread runs anywhere.
    pub fn of_worker(index: usize, threads: usize, cores: &[usize]) -> Spread {
        Spread::Threads { threads, cores: cores.iter().copied().cycle().skip(index * threads).take(threads).collect() }
    }
}

/// Stages in a row, each with cores of its own. A thread that is in a stage has one of its cores for itself, so that as many
/// inferences are in a stage at once as it has cores; others wait before it.
#[derive(Debug)]
pub struct Stages {
    gates: Vec<Gate>,
    cores: Vec<usize>,
}

#[derive(Debug)]
struct Gate {
    free: Mutex<Vec<usize>>,
    returned: Condvar,
}

/// A thread's time in a stage; ends when dropped.
#[must_use]
pub struct Turn<'a> {
    gate: &'a Gate,
    core: usize,
}

impl Stages {
    /// `count` stages, to which `cores` are dealt out in their order: the first ones to the first stage. `None` where there are
    /// fewer cores than stages.
    pub fn new(count: usize, cores: &[usize]) -> Option<Stages> {
        let cores_of = |stage: usize| cores[stage * cores.len() / count..(stage + 1) * cores.len() / count].to_vec();
        let gate = |stage| Gate { free: Mutex::new(cores_of(stage)), returned: Condvar::new() };
        (1..=cores.len()).contains(&count).then(|| Stages { gates: (0..count).map(gate).collect(), cores: cores.to_vec() })
    }

    pub fn count(&self) -> usize {
        self.gates.len()
    }

    /// Waits until a core of stage `stage` is free, and moves the calling thread there.
    pub fn enter(&self, stage: usize) -> Turn<'_> {
        let gate = &self.gates[stage];
        let mut free = gate.free();
        let core = loop {
            match free.pop() {
                Some(core) => break core,
                None => free = gate.returned.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(free);
        keep_on(&[core]);
        Turn { gate, core }
    }

    /// Lets the calling thread run on all the stages' cores: between two inferences it has none of its own.
    pub fn leave(&self) {
        keep_on(&self.cores);
    }
}

impl Gate {
    fn free(&self) -> MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.gate.free().push(self.core);
        self.gate.returned.notify_one();
    }
}

/// Divides steps of these costs into `count` runs of consecutive ones so that the dearest run is as cheap as possible. Later runs
/// may be empty.
pub fn divide(costs: &[u64], count: usize) -> Vec<Range<usize>> {
    let (mut low, mut high) = (costs.iter().copied().max().unwrap_or(0), costs.iter().sum());
    while low < high {
        let limit = low + (high - low) / 2;
        if runs(costs, limit).len() <= count { high = limit } else { low = limit + 1 }
    }
    let mut runs = runs(costs, low);
    runs.resize(count, costs.len()..costs.len());
    runs
}

/// The fewest runs of consecutive steps that cost at most `limit` each, which no step alone exceeds.
fn runs(costs: &[u64], limit: u64) -> Vec<Range<usize>> {
    let (mut runs, mut start, mut sum) = (Vec::new(), 0, 0u64);
    for (step, &cost) in costs.iter().enumerate() {
        if sum + cost > limit {
            runs.push(start..step);
            (start, sum) = (step, 0);
        }
        sum += cost;
    }
    runs.push(start..costs.len());
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// The cheapest dearest run, by trying every division.
    fn best(costs: &[u64], count: usize) -> u64 {
        match count {
            1 => costs.iter().sum(),
            _ => (0..=costs.len()).map(|cut| best(&costs[cut..], count - 1).max(costs[..cut].iter().sum())).min().unwrap(),
        }
    }

    proptest! {
        #[test]
        fn divisions_are_complete_and_none_is_better(costs in prop::collection::vec(0u64..50, 0..9), count in 1usize..5) {
            let runs = divide(&costs, count);
            prop_assert_eq!(runs.len(), count);
            prop_assert_eq!(runs.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..costs.len()).collect::<Vec<_>>());
            let dearest = runs.iter().map(|run| costs[run.clone()].iter().sum::<u64>()).max().unwrap();
            prop_assert_eq!(dearest, best(&costs, count));
        }
    }

    #[test]
    fn as_many_are_in_a_stage_as_it_has_cores() {
        assert!(Stages::new(3, &[0, 1]).is_none() && Stages::new(0, &[0]).is_none());
        let stages = Stages::new(2, &[0, 0, 0]).unwrap();
        let inside: [AtomicUsize; 2] = Default::default();
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        for (stage, cores) in [(0, 1), (1, 2)] {
                            let _turn = stages.enter(stage);
                            assert!(inside[stage].fetch_add(1, Ordering::SeqCst) < cores);
                            std::thread::yield_now();
                            inside[stage].fetch_sub(1, Ordering::SeqCst);
                        }
                        stages.leave();
                    }
                });
            }
        });
    }
}
