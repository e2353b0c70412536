//! The closed loop in virtual time: inference threads, paced by the governor's own law and pacer, warm up a board that the
//! governor reads.

use super::board::Board;
use super::spec::Spec;
use super::trace::{Tally, Trace};
use super::tree::clock_cap;
use crate::governor::law::Law;
use crate::governor::pacing::{Limits, Pacer, Wait, Work};
use crate::governor::{ClockLever, GovernorConfig, Readings, Throttle};
use std::path::PathBuf;
use std::time::Duration;

/// Resolution of the virtual time.
const STEP: Duration = Duration::from_millis(100);

/// Inferences as fast as the pace allows.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How long one takes at the full clock on all its cores.
    pub seconds: f64,
    /// Cores that one keeps busy.
    pub cores: usize,
    /// How many at a time.
    pub workers: usize,
    /// Length of an inference of the lighter model over that of the model.
    pub lighter: f64,
}

impl Load {
    /// Inferences of 60 ms, one on each core.
    pub fn on_every_core(spec: &Spec) -> Load {
        Load { seconds: 0.06, cores: 1, workers: spec.model.cores, lighter: 1.0 }
    }

    /// Seconds of an inference that begins under this throttle, and the cores it keeps busy.
    fn cost(&self, throttle: &Throttle) -> (f64, usize) {
        let cores = throttle.threads.map_or(self.cores, |most| self.cores.min(most.max(1)));
        let seconds = self.seconds * if throttle.lighter_model { self.lighter } else { 1.0 };
        (seconds * self.cores as f64 / cores as f64, cores)
    }
}

/// From 0 at 0 to 1 in the middle and back to 0 at 1, smoothly.
fn swell(part: f64) -> f64 {
    (1.0 - (std::f64::consts::TAU * part).cos()) / 2.0
}

/// An inference that runs.
#[derive(Clone, Copy)]
struct Running {
    begun: Duration,
    /// Seconds at the full clock.
    left: f64,
    cores: usize,
}

/// One inference thread.
#[derive(Clone, Copy, Default)]
struct Worker {
    running: Option<Running>,
    last: Option<Work>,
}

/// A board whose cores run inferences as fast as the governor lets them.
pub struct Loop {
    pub board: Board,
    pub throttle: Throttle,
    /// Time since the start.
    pub now: Duration,
    /// Inferences since the start.
    pub finished: u64,
    load: Load,
    law: Law,
    pacer: Pacer,
    workers: Vec<Worker>,
    period: Duration,
    /// What lowers the clock, and the board's files in which it does.
    clock: Option<(ClockLever, PathBuf)>,
    /// Joules at the last look, and its time.
    looked: (f64, Duration),
}

impl Loop {
    /// A board that has been idle for long.
    pub fn new(spec: &Spec, ambient: f64, config: &GovernorConfig, load: Load) -> Loop {
        Loop {
            board: Board::idle(spec.clone(), ambient),
            throttle: Throttle::default(),
            now: Duration::ZERO,
            finished: 0,
            load,
            law: Law::new(config),
            pacer: Pacer::new(Limits::NONE),
            workers: vec![Worker::default(); load.workers],
            period: config.period.0.max(STEP),
            clock: None,
            looked: (0.0, Duration::ZERO),
        }
    }

    /// With the governor's hand on the clock, in the board's files below `root`.
    pub fn with_clock(self, root: PathBuf) -> Loop {
        let mut lever = ClockLever::new(&root, &[]);
        lever.prepare();
        Loop { clock: Some((lever, root)), ..self }
    }

    /// One period of inferences, where there is work, and then a look of the governor at what `read` gives.
    pub fn period(&mut self, work: bool, read: impl FnOnce(&Loop) -> Readings) {
        self.free_period(work);
        let readings = read(self);
        self.looked = (self.board.joules(), self.now);
        let throttle = self.law.step(&readings, self.now);
        self.throttle = match &mut self.clock {
            None => throttle,
            Some((lever, root)) => {
                let throttle = lever.apply(throttle);
                self.board.clock_cap = clock_cap(root);
                throttle
            }
        };
        let throttle = &self.throttle;
        self.pacer.set(Limits { duty: throttle.duty, max_per_second: throttle.max_per_second, threads: throttle.threads });
    }

    /// One period in which nobody looks.
    pub fn free_period(&mut self, work: bool) {
        let end = self.now + self.period;
        while self.now < end {
            self.step(work);
        }
    }

    /// Mean power since the last look, as samples between looks give it; the power now where no time has passed.
    pub fn mean_watts(&self) -> f64 {
        let seconds = (self.now - self.looked.1).as_secs_f64();
        if seconds > 0.0 { (self.board.joules() - self.looked.0) / seconds } else { self.board.watts() }
    }

    /// Runs for `time`, or until the battery is empty, in air that is `warmer` degrees warmer in the middle of it. `look` is asked
    /// once a period; `None`: nobody throttles but the firmware.
    pub fn run<E>(&mut self, time: Duration, warmer: f64, mut look: Option<impl FnMut(&Loop) -> Result<Readings, E>>) -> Result<Trace, E> {
        let (mut trace, ambient) = (Trace::default(), self.board.ambient);
        let mut tally = Tally::begin(self);
        while self.now < time && self.board.charge() != Some(0.0) {
            self.board.ambient = ambient + warmer * swell(self.now.as_secs_f64() / time.as_secs_f64());
            match &mut look {
                None => self.free_period(true),
                Some(look) => {
                    let mut seen = Ok(());
                    self.period(true, |closed| {
                        look(closed).unwrap_or_else(|e| {
                            seen = Err(e);
                            Readings::default()
                        })
                    });
                    seen?;
                }
            }
            tally.add(self, &mut trace);
        }
        Ok(trace)
    }

    fn step(&mut self, work: bool) {
        let clock = self.board.clock();
        let mut busy = 0.0;
        for index in 0..self.workers.len() {
            busy += self.advance_worker(index, work, clock);
        }
        let load = busy / STEP.as_secs_f64() / self.board.spec.model.cores as f64;
        self.board.advance(STEP.as_secs_f64(), load);
        self.now += STEP;
    }

    /// One step of a worker; gives the seconds of cores that it kept busy.
    fn advance_worker(&mut self, index: usize, work: bool, clock: f64) -> f64 {
        let Some(worker) = self.workers.get_mut(index) else { return 0.0 };
        let (mut at, end, mut busy) = (self.now, self.now + STEP, 0.0);
        while at < end {
            let Some(running) = worker.running else {
                if !work {
                    break;
                }
                match self.pacer.begin(at, worker.last) {
                    Ok(()) => {
                        let (left, cores) = self.load.cost(&self.throttle);
                        worker.running = Some(Running { begun: at, left, cores });
                    }
                    Err(Wait::Until(due)) => at = due,
                    Err(Wait::ForOthers) => break,
                }
                continue;
            };
            let due = at + Duration::from_secs_f64(running.left / clock);
            busy += (due.min(end) - at).as_secs_f64() * running.cores as f64;
            if due < end {
                *worker = Worker { running: None, last: Some(Work { finished: due, busy: due - running.begun }) };
                self.pacer.end();
                self.finished += 1;
            } else {
                worker.running = Some(Running { left: (due - end).as_secs_f64() * clock, ..running });
            }
            at = due;
        }
        busy
    }
}
