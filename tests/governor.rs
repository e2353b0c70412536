//! The governor in a closed loop with simulated boards, in virtual time; then with the board's files, and with its thread.

use jouled::config::value::Span;
use jouled::governor::board::{Board, JETSON_ORIN_NANO, Layout, PI4_BARE, PI5_BARE, PI5_HEATSINK, Spec, X86_FANLESS};
use jouled::governor::energy::EnergyMeter;
use jouled::governor::law::Law;
use jouled::governor::pacing::{Limits, Pacer, Wait, Work};
use jouled::governor::{Governor, GovernorConfig, GovernorStatus, Pace, Readings, Reason, Sensors, Throttle};
use std::sync::Arc;
use std::time::Duration;

/// Resolution of the virtual time.
const STEP: Duration = Duration::from_millis(100);
/// An inference at the full clock.
const INFERENCE: f64 = 0.06;

/// One inference thread: what is left of its inference in seconds at the full clock, and its last one.
#[derive(Clone, Copy, Default)]
struct Worker {
    running: Option<(Duration, f64)>,
    last: Option<Work>,
}

impl Worker {
    /// One step from `now`: the time that it was busy, and the inferences that it finished.
    fn advance(&mut self, pacer: &mut Pacer, work: bool, now: Duration, clock: f64) -> (Duration, u64) {
        let (mut at, end) = (now, now + STEP);
        let (mut busy, mut finished) = (Duration::ZERO, 0);
        while at < end {
            let Some((begun, left)) = self.running else {
                if !work {
                    break;
                }
                match pacer.begin(at, self.last) {
                    Ok(()) => self.running = Some((at, INFERENCE)),
                    Err(Wait::Until(due)) => at = due,
                    Err(Wait::ForOthers) => break,
                }
                continue;
            };
            let due = at + Duration::from_secs_f64(left / clock);
            busy += due.min(end) - at;
            if due < end {
                self.running = None;
                self.last = Some(Work { finished: due, busy: due - begun });
                pacer.end();
                finished += 1;
            } else {
                self.running = Some((begun, (due - end).as_secs_f64() * clock));
            }
            at = due;
        }
        (busy, finished)
    }
}

/// A board whose cores run inferences as fast as the governor lets them.
struct Loop {
    board: Board,
    law: Law,
    pacer: Pacer,
    workers: Vec<Worker>,
    now: Duration,
    throttle: Throttle,
    finished: u64,
    /// Sensor noise in degrees, uniform within plus and minus this.
    noise: f64,
    seed: u64,
    /// Power since the last look, as samples between looks give it.
    watts: (f64, u32),
}

/// What happened, second by second.
#[derive(Default)]
struct Trace {
    celsius: Vec<f64>,
    watts: Vec<f64>,
    levels: Vec<usize>,
}

impl Loop {
    fn new(spec: &Spec, ambient: f64, config: &GovernorConfig) -> Loop {
        Loop {
            board: Board::idle(spec.clone(), ambient),
            law: Law::new(config),
            pacer: Pacer::new(Limits::NONE),
            workers: vec![Worker::default(); spec.cores],
            now: Duration::ZERO,
            throttle: Throttle::default(),
            finished: 0,
            noise: 0.0,
            seed: 1,
            watts: (0.0, 0),
        }
    }

    /// A second of inferences, where there is work, and then a look of the governor at `read`.
    fn second(&mut self, work: bool, read: impl FnOnce(&Loop) -> Readings) {
        self.watts = (0.0, 0);
        for _ in 0..10 {
            self.step(work);
        }
        let readings = read(self);
        self.throttle = self.law.step(&readings, self.now);
        let throttle = &self.throttle;
        self.pacer.set(Limits { duty: throttle.duty, max_per_second: throttle.max_per_second, threads: throttle.threads });
    }

    fn step(&mut self, work: bool) {
        let clock = self.board.clock();
        let mut busy = Duration::ZERO;
        for worker in &mut self.workers {
            let (worked, finished) = worker.advance(&mut self.pacer, work, self.now, clock);
            busy += worked;
            self.finished += finished;
        }
        let load = busy.as_secs_f64() / STEP.as_secs_f64() / self.workers.len() as f64;
        self.board.advance(STEP.as_secs_f64(), load);
        self.watts = (self.watts.0 + self.board.watts(), self.watts.1 + 1);
        self.now += STEP;
    }

    /// What the sensors show, with their noise.
    fn look(&self) -> Readings {
        let mut readings = self.board.readings();
        let random = (self.seed.wrapping_mul(self.now.as_millis() as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as f64;
        readings.celsius = readings.celsius.map(|t| t + self.noise * (random / f64::from(1u32 << 30) - 1.0));
        readings.watts = readings.watts.map(|_| self.watts.0 / f64::from(self.watts.1));
        readings
    }

    fn run(&mut self, seconds: u64, work: impl Fn(u64) -> bool) -> Trace {
        let mut trace = Trace::default();
        for second in 0..seconds {
            self.second(work(second), Loop::look);
            trace.celsius.push(self.board.celsius());
            trace.watts.push(self.watts.0 / f64::from(self.watts.1));
            trace.levels.push(self.throttle.level);
        }
        trace
    }
}

impl Trace {
    fn hottest(&self) -> f64 {
        self.celsius.iter().copied().fold(f64::MIN, f64::max)
    }

    /// Changes of the level in the last third.
    fn late_changes(&self) -> usize {
        last_third(&self.levels).windows(2).filter(|pair| pair[0] != pair[1]).count()
    }
}

fn last_third<T>(all: &[T]) -> &[T] {
    &all[all.len() * 2 / 3..]
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn config(max_celsius: f64) -> GovernorConfig {
    GovernorConfig { max_celsius, ..GovernorConfig::default() }
}

/// The temperature that the board comes to under a constant load.
fn steady(spec: &Spec, ambient: f64, load: f64) -> f64 {
    let mut board = Board::idle(spec.clone(), ambient);
    board.advance(7200.0, load);
    board.celsius()
}

/// One hour of full load in one scene, with all that the budget promises.
fn holds(spec: &Spec, ambient: f64, budget: f64, noise: f64) {
    let scene = format!("{}, {ambient} °C around, budget {budget} °C, noise {noise}", spec.name);
    let mut closed = Loop::new(spec, ambient, &config(budget));
    closed.noise = noise;
    let trace = closed.run(3600, |_| true);
    assert!(trace.hottest() <= budget + 2.0, "{scene}: {:.1} °C", trace.hottest());
    assert!(trace.late_changes() <= 1, "{scene}: {} changes", trace.late_changes());
    let (end, free) = (mean(last_third(&trace.celsius)), steady(spec, ambient, 1.0));
    if free > budget + 2.0 {
        assert!(end >= budget - 4.5, "{scene}: needlessly cool, {end:.1} °C");
        assert_eq!(closed.throttle.reason, Reason::Temperature, "{scene}");
    }
    if free < budget - 6.0 {
        assert!(trace.levels.iter().all(|level| *level == 0), "{scene}: throttled without need");
    }
}

/// Every ambient temperature and budget in which the slowest level is cool enough.
fn holds_everywhere(spec: &Spec) {
    let mut scenes = 0;
    for ambient in [0.0, 15.0, 25.0, 35.0, 45.0, 55.0] {
        for budget in [60.0, 70.0, 78.0] {
            if steady(spec, ambient, 0.06) < budget - 4.0 {
                for noise in [0.0, 0.6] {
                    holds(spec, ambient, budget, noise);
                    scenes += 1;
                }
            }
        }
    }
    assert!(scenes >= 16, "{scenes}");
}

#[test]
fn a_bare_pi_4_holds_its_budget_and_settles() {
    holds_everywhere(&PI4_BARE);
}

#[test]
fn a_bare_pi_5_holds_its_budget_and_settles() {
    holds_everywhere(&PI5_BARE);
}

#[test]
fn a_pi_5_with_a_heatsink_holds_its_budget_and_settles() {
    holds_everywhere(&PI5_HEATSINK);
}

#[test]
fn a_jetson_holds_its_budget_and_settles() {
    holds_everywhere(&JETSON_ORIN_NANO);
}

/// One thermal node, and a sensor that only sees the whole board: the hardest for a law that looks at the trend.
#[test]
fn a_board_of_one_node_holds_its_budget_and_settles() {
    holds_everywhere(&Spec { name: "one node", die_resistance: 0.05, die_capacity: 40.0, case_resistance: 7.0, ..PI5_BARE });
}

#[test]
fn work_that_comes_and_goes_and_air_that_warms_up_stay_within_the_budget() {
    for spec in [PI4_BARE, PI5_BARE, PI5_HEATSINK, JETSON_ORIN_NANO] {
        for pause in [30, 120, 600] {
            let mut closed = Loop::new(&spec, 25.0, &config(70.0));
            let bursts = closed.run(3600, |second| (second / pause) % 2 == 1);
            assert!(bursts.hottest() <= 72.0, "{}, {pause} s: {:.1} °C", spec.name, bursts.hottest());
            closed.board.ambient += 10.0;
            let warmer = closed.run(1800, |_| true);
            assert!(warmer.hottest() <= 72.0, "{}, warmer: {:.1} °C", spec.name, warmer.hottest());
        }
    }
}

/// Idle just below the budget, then a full load: the level is 0 and the die warms within seconds.
#[test]
fn a_load_on_a_board_that_is_hot_already_stays_within_the_budget() {
    for spec in [PI4_BARE, PI5_BARE, PI5_HEATSINK, JETSON_ORIN_NANO] {
        let budget = steady(&spec, 35.0, 0.0) + 3.5;
        let trace = Loop::new(&spec, 35.0, &config(budget)).run(900, |second| second >= 30);
        assert!(trace.hottest() <= budget + 2.0, "{}: {:.1} over", spec.name, trace.hottest() - budget);
    }
}

#[test]
fn when_the_work_ends_the_board_recovers() {
    let mut closed = Loop::new(&PI5_BARE, 30.0, &config(70.0));
    closed.run(1200, |_| true);
    assert!(closed.throttle.level > 0);
    closed.run(900, |_| false);
    assert_eq!(closed.throttle, Throttle::default());
}

#[test]
fn a_power_budget_holds_and_settles() {
    for (spec, budget) in [(JETSON_ORIN_NANO, 8.0), (JETSON_ORIN_NANO, 12.0), (X86_FANLESS, 7.0), (X86_FANLESS, 12.0)] {
        let config = GovernorConfig { max_watts: Some(budget), ..config(95.0) };
        let mut closed = Loop::new(&spec, 25.0, &config);
        let trace = closed.run(1800, |_| true);
        let (watts, scene) = (mean(last_third(&trace.watts)), format!("{}, {budget} W", spec.name));
        assert!(watts <= budget * 1.02 && watts >= budget * 0.85, "{scene}: {watts:.2} W");
        let first_minute = mean(&trace.watts[60..120]);
        assert!(first_minute <= budget * 1.05, "{scene}: {first_minute:.2} W in the second minute");
        assert!(trace.late_changes() <= 2, "{scene}: {} changes", trace.late_changes());
        assert_eq!(closed.throttle.reason, Reason::Watts);
    }
}

/// A board that is quick to warm up, through its files: what is written is what is read, and the budget holds.
#[test]
fn the_loop_closes_through_the_files() {
    for spec in [PI5_BARE, JETSON_ORIN_NANO, X86_FANLESS] {
        let spec = Spec { cores: 1, case_capacity: 8.0, ..spec };
        let root = tempfile::tempdir().unwrap();
        // Below where the simulated firmware would step in.
        let budget = steady(&spec, 30.0, 0.3);
        let mut closed = Loop::new(&spec, 30.0, &config(budget));
        let (mut sensors, mut energy, mut cost) = (Sensors::new(root.path(), None), EnergyMeter::default(), None);
        for _ in 0..180 {
            closed.second(true, |closed| {
                closed.board.write(root.path()).unwrap();
                let readings = sensors.read(closed.now);
                cost = energy.tick(&readings, closed.now, closed.finished);
                readings
            });
            assert!(closed.board.celsius() <= budget + 2.0, "{}: {:.1} °C of {budget:.1}", spec.name, closed.board.celsius());
        }
        assert_eq!((closed.throttle.level > 0, closed.throttle.reason), (true, Reason::Temperature), "{}", spec.name);
        assert_eq!(cost.is_some(), spec.layout != Layout::RaspberryPi, "{}", spec.name);
        let truth = closed.board.joules() / closed.finished as f64;
        assert!(cost.is_none_or(|cost| (0.5..2.0).contains(&(cost / truth))), "{}: {cost:?} J, truly {truth} J", spec.name);
    }
}

/// The status as soon as `holds`; fails after far longer than it can take.
fn wait_for(governor: &Governor, what: &str, holds: impl Fn(&GovernorStatus) -> bool) -> GovernorStatus {
    for _ in 0..3000 {
        let status = governor.status();
        if holds(&status) {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} never came: {:?}", governor.status());
}

#[test]
fn the_thread_throttles_follows_its_configuration_and_reports_a_lost_sensor() {
    let root = tempfile::tempdir().unwrap();
    let spec = Spec { cores: 1, ..JETSON_ORIN_NANO };
    Board::idle(spec.clone(), 80.0).write(root.path()).unwrap();
    let pace = Pace::new();
    let fast = GovernorConfig { period: Span::millis(100), sensor_hold: Span::millis(0), ..config(70.0) };
    let governor = Governor::start(fast.clone(), root.path(), Arc::clone(&pace)).unwrap();
    assert!(governor.status().readings.celsius.is_some(), "the first look is there from the start");
    let hot = wait_for(&governor, "a level", |status| status.throttle.level >= 2);
    assert_eq!((hot.throttle.reason, pace.snapshot().duty < 1.0), (Reason::Temperature, true));
    let json = serde_json::to_value(&hot).unwrap();
    assert_eq!(json["throttle"]["reason"], "temperature");
    assert_eq!(json["readings"]["power_source"], "ina3221");

    governor.reconfigure(GovernorConfig { enabled: false, ..fast.clone() });
    let free = wait_for(&governor, "freedom", |status| status.throttle == Throttle::default());
    assert!(!free.enabled);

    Board::idle(spec, 20.0).write(root.path()).unwrap();
    governor.reconfigure(fast);
    wait_for(&governor, "a cool reading", |status| status.readings.celsius.is_some_and(|t| t < 60.0));
    std::fs::write(root.path().join("sys/class/thermal/thermal_zone0/temp"), "").unwrap();
    let lost = wait_for(&governor, "the loss", |status| status.throttle.level > 0 && status.throttle.reason == Reason::SensorLost);
    assert!(lost.throttle.text.contains("is empty"), "{}", lost.throttle.text);
    governor.stop();
}
