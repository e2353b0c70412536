//! The governor at work: reads the board once a period, decides, and sets the pace.

use super::clock::ClockLever;
use super::config::GovernorConfig;
use super::energy::EnergyMeter;
use super::law::Law;
use super::pace::Pace;
use super::readings::{Readings, Sensors};
use super::throttle::{Reason, Throttle};
use log::{info, warn};
use serde::Serialize;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two samples of a power that has no counter.
const SAMPLING: Duration = Duration::from_millis(100);

/// The governor as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct GovernorStatus {
    /// Whether it throttles; readings and energy are there either way.
    pub enabled: bool,
    /// The last look at the board.
    pub readings: Readings,
    /// Level, reason and pace.
    pub throttle: Throttle,
    /// Why `lower_clock` has no effect.
    pub clock_fault: Option<String>,
    /// Seconds since the level or the reason last changed.
    pub since_seconds: f64,
    /// Energy of all that the sensor sees over the last minute, divided by the inferences finished in it.
    pub joules_per_inference: Option<f64>,
}

/// A running governor. Dropping it stops it; the pace stays as it was.
pub struct Governor {
    shared: Arc<Shared>,
    pace: Arc<Pace>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    config: GovernorConfig,
    /// Counts the calls of `reconfigure`.
    revision: u64,
    stop: bool,
    readings: Readings,
    clock_fault: Option<String>,
    joules_per_inference: Option<f64>,
    since: Instant,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Governor {
    /// Starts the thread, which reads below `root` and sets `pace`, and with `lower_clock` the clock of the CPUs `cores` (all if
    /// there is none). The first look at the board, and the first pace, are there when this returns. Errors: the thread cannot
    /// be created.
    pub fn start(config: GovernorConfig, root: impl Into<PathBuf>, cores: &[usize], pace: Arc<Pace>) -> io::Result<Governor> {
        let (readings, since) = (Readings::default(), Instant::now());
        let state = State { config, revision: 0, stop: false, readings, clock_fault: None, joules_per_inference: None, since };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let mut work = Work::new(root.into(), cores, shared.clone(), pace.clone());
        work.tick();
        let thread = std::thread::Builder::new().name("governor".to_string()).spawn(move || work.run())?;
        Ok(Governor { shared, pace, thread: Some(thread) })
    }

    /// The last look and the present throttle.
    pub fn status(&self) -> GovernorStatus {
        let state = self.shared.lock();
        GovernorStatus {
            enabled: state.config.enabled,
            readings: state.readings.clone(),
            throttle: self.pace.snapshot(),
            clock_fault: state.clock_fault.clone(),
            since_seconds: state.since.elapsed().as_secs_f64(),
            joules_per_inference: state.joules_per_inference,
        }
    }

    /// New budgets and levels, in force at once. The present throttling goes on under them.
    pub fn reconfigure(&self, config: GovernorConfig) {
        let mut state = self.shared.lock();
        state.config = config;
        state.revision += 1;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Stops the thread and waits for it.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the governor's thread had failed");
        }
    }
}

impl Drop for Governor {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the thread owns.
struct Work {
    root: PathBuf,
    shared: Arc<Shared>,
    pace: Arc<Pace>,
    epoch: Instant,
    config: GovernorConfig,
    revision: u64,
    sensors: Sensors,
    law: Law,
    clock: ClockLever,
    energy: EnergyMeter,
}

impl Work {
    fn new(root: PathBuf, cores: &[usize], shared: Arc<Shared>, pace: Arc<Pace>) -> Work {
        let config = shared.lock().config.clone();
        let sensors = Sensors::new(root.clone(), config.thermal_zone.as_deref());
        let (law, clock, energy) = (Law::new(&config), ClockLever::new(root.clone(), cores), EnergyMeter::default());
        let mut work = Work { root, shared, pace, epoch: Instant::now(), config, revision: 0, sensors, law, clock, energy };
        work.prepare_clock();
        work
    }

    fn run(mut self) {
        let guard = SlowOnPanic { pace: self.pace.clone() };
        while self.wait() {
            self.tick();
        }
        self.clock.release();
        self.pace.set(self.pace.snapshot().at_full_clock());
        drop(guard);
    }

    /// Waits one period, sampling the power where that helps, or until there is a new configuration. False: stop.
    fn wait(&mut self) -> bool {
        let due = Instant::now() + self.config.period.0;
        loop {
            let sampling = self.sensors.sample();
            let state = self.shared.lock();
            if state.stop {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() || state.revision != self.revision {
                return true;
            }
            let nap = if sampling { left.min(SAMPLING) } else { left };
            drop(self.shared.changed.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn tick(&mut self) {
        self.follow_configuration();
        let now = self.epoch.elapsed();
        let readings = self.sensors.read(now);
        let joules_per_inference = self.energy.tick(&readings, now, self.pace.finished());
        let throttle = if self.config.enabled { self.law.step(&readings, now) } else { Throttle::default() };
        let throttle = if self.lowers_clock() { self.clock.apply(throttle) } else { throttle };
        let before = self.pace.snapshot();
        let changed = (before.level, before.reason) != (throttle.level, throttle.reason);
        if changed {
            report(&before, &throttle);
        }
        self.pace.set(throttle);
        let mut state = self.shared.lock();
        state.readings = readings;
        state.clock_fault = self.clock.fault().filter(|_| self.lowers_clock()).map(str::to_string);
        state.joules_per_inference = joules_per_inference;
        if changed {
            state.since = Instant::now();
        }
    }

    fn follow_configuration(&mut self) {
        let state = self.shared.lock();
        if state.revision == self.revision {
            return;
        }
        let config = state.config.clone();
        self.revision = state.revision;
        drop(state);
        if config.thermal_zone != self.config.thermal_zone {
            self.sensors = Sensors::new(self.root.clone(), config.thermal_zone.as_deref());
        }
        self.law.reconfigure(&config);
        self.config = config;
        self.prepare_clock();
    }

    fn lowers_clock(&self) -> bool {
        self.config.enabled && self.config.lower_clock
    }

    fn prepare_clock(&mut self) {
        if self.lowers_clock() { self.clock.prepare() } else { self.clock.release() }
    }
}

fn report(before: &Throttle, now: &Throttle) {
    match now.reason {
        Reason::None => info!("throttle level {} -> 0: unthrottled", before.level),
        Reason::SensorLost => warn!("throttle level {} -> {}: {}", before.level, now.level, now.text),
        reason => info!("throttle level {} -> {} ({reason}): {}", before.level, now.level, now.text),
    }
}

/// Without a governor nothing watches the temperature: should its thread fail, inferences crawl rather than run free.
struct SlowOnPanic {
    pace: Arc<Pace>,
}

impl Drop for SlowOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = Arc::from("the governor's thread failed");
            let before = self.pace.snapshot().at_full_clock();
            self.pace.set(Throttle { reason: Reason::SensorLost, text, duty: before.duty.min(0.05), ..before });
        }
    }
}
