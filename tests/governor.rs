//! The governor in a closed loop with simulated boards, in virtual time; then with the board's files, and with its thread.

use jouled::config::value::Span;
use jouled::governor::energy::EnergyMeter;
use jouled::governor::{Governor, GovernorConfig, GovernorStatus, Pace, Readings, Reason, Sensors, Throttle};
use jouled::simulate::trace::Summary;
use jouled::simulate::{Board, Description, Load, Loop, Spec, Tree};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Boards whose firmware's limit is above every budget that is tried here, of each kind of reading.
const BOARDS: [(&str, &str); 4] = [("pi4", "bare"), ("pi5", "bare"), ("pi5", "heatsink"), ("orin-nano", "case")];

fn spec(name: &str, cooling: &str) -> Spec {
    Description::named(name).unwrap().spec(Some(cooling)).unwrap()
}

fn closed(spec: &Spec, ambient: f64, config: &GovernorConfig) -> Loop {
    Loop::new(spec, ambient, config, Load::on_every_core(spec))
}

/// What the sensors show, without the files: on a Raspberry Pi the firmware's bits, elsewhere the power.
fn look(closed: &Loop) -> Readings {
    let board = &closed.board;
    let pi = board.spec.title.starts_with("Raspberry");
    Readings {
        celsius: Some(board.sensed()),
        watts: (!pi).then(|| closed.mean_watts()),
        power_source: (!pi).then_some("ina3221"),
        under_voltage: pi.then_some(false),
        firmware_throttled: pi.then_some(board.firmware_clock() < 1.0),
        ..Readings::default()
    }
}

/// Adds noise to the temperature, uniform within plus and minus `degrees`.
fn noisy(mut readings: Readings, degrees: f64, now: Duration) -> Readings {
    let random = ((now.as_millis() as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as f64;
    readings.celsius = readings.celsius.map(|t| t + degrees * (random / f64::from(1u32 << 30) - 1.0));
    readings
}

fn run(closed: &mut Loop, seconds: u64, noise: f64, work: impl Fn(u64) -> bool) -> Trace {
    let mut trace = Trace::default();
    for second in 0..seconds {
        let mut watts = 0.0;
        closed.period(work(second), |closed| {
            watts = closed.mean_watts();
            noisy(look(closed), noise, closed.now)
        });
        trace.celsius.push(closed.board.celsius());
        trace.watts.push(watts);
        trace.levels.push(closed.throttle.level);
    }
    trace
}

/// What happened, second by second.
#[derive(Default)]
struct Trace {
    celsius: Vec<f64>,
    watts: Vec<f64>,
    levels: Vec<usize>,
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

/// One hour of full load in one scene, with all that the budget promises; `files`: where the clock is lowered too.
fn holds(spec: &Spec, ambient: f64, budget: f64, noise: f64, files: Option<&Path>) {
    let scene = format!("{} {}, {ambient} °C around, budget {budget} °C, noise {noise}", spec.title, spec.cooling.name);
    let mut closed = closed(spec, ambient, &config(budget));
    if let Some(files) = files {
        closed = closed.with_clock(files.to_path_buf());
    }
    let trace = run(&mut closed, 3600, noise, |_| true);
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
                    holds(spec, ambient, budget, noise, None);
                    scenes += 1;
                }
            }
        }
    }
    assert!(scenes >= 16, "{scenes}");
}

#[test]
fn a_bare_pi_4_holds_its_budget_and_settles() {
    holds_everywhere(&spec("pi4", "bare"));
}

#[test]
fn a_bare_pi_5_holds_its_budget_and_settles() {
    holds_everywhere(&spec("pi5", "bare"));
}

#[test]
fn a_pi_5_with_a_heatsink_holds_its_budget_and_settles() {
    holds_everywhere(&spec("pi5", "heatsink"));
}

#[test]
fn a_jetson_holds_its_budget_and_settles() {
    holds_everywhere(&spec("orin-nano", "case"));
}

#[test]
fn every_board_holds_its_budget_with_its_clock_lowered() {
    for name in jouled::simulate::spec::names() {
        let description = Description::named(name).unwrap();
        let (spec, files) = (description.spec(None).unwrap(), tempfile::tempdir().unwrap());
        Tree::lay_out(&description, &Board::idle(spec.clone(), 25.0), files.path()).unwrap();
        let mut scenes = 0;
        for (ambient, budget) in [(5.0, 50.0), (25.0, 60.0), (25.0, 75.0), (40.0, 78.0)] {
            if steady(&spec, ambient, 0.06) < budget - 4.0 {
                holds(&spec, ambient, budget, 0.6, Some(files.path()));
                scenes += 1;
            }
        }
        assert!(scenes >= 2, "{name}: {scenes}");
    }
}

/// One thermal node, and a sensor that only sees the whole board: the hardest for a law that looks at the trend.
#[test]
fn a_board_of_one_node_holds_its_budget_and_settles() {
    let mut one = spec("pi5", "bare");
    (one.cooling.die_resistance, one.cooling.die_capacity, one.cooling.case_resistance) = (0.05, 40.0, 7.0);
    holds_everywhere(&one);
}

#[test]
fn work_that_comes_and_goes_and_air_that_warms_up_stay_within_the_budget() {
    for spec in BOARDS.map(|(name, cooling)| spec(name, cooling)) {
        for pause in [30, 120, 600] {
            let mut closed = closed(&spec, 25.0, &config(70.0));
            let bursts = run(&mut closed, 3600, 0.0, |second| (second / pause) % 2 == 1);
            assert!(bursts.hottest() <= 72.0, "{}, {pause} s: {:.1} °C", spec.title, bursts.hottest());
            closed.board.ambient += 10.0;
            let warmer = run(&mut closed, 1800, 0.0, |_| true);
            assert!(warmer.hottest() <= 72.0, "{}, warmer: {:.1} °C", spec.title, warmer.hottest());
        }
    }
}

/// Idle just below the budget, then a full load: the level is 0 and the die warms within seconds.
#[test]
fn a_load_on_a_board_that_is_hot_already_stays_within_the_budget() {
    for spec in BOARDS.map(|(name, cooling)| spec(name, cooling)) {
        let budget = steady(&spec, 35.0, 0.0) + 3.5;
        let trace = run(&mut closed(&spec, 35.0, &config(budget)), 900, 0.0, |second| second >= 30);
        assert!(trace.hottest() <= budget + 2.0, "{}: {:.1} over", spec.title, trace.hottest() - budget);
    }
}

#[test]
fn when_the_work_ends_the_board_recovers() {
    let mut closed = closed(&spec("pi5", "bare"), 30.0, &config(70.0));
    run(&mut closed, 1200, 0.0, |_| true);
    assert!(closed.throttle.level > 0);
    run(&mut closed, 900, 0.0, |_| false);
    assert_eq!(closed.throttle, Throttle::default());
}

#[test]
fn a_power_budget_holds_and_settles() {
    let (orin, pc) = (spec("orin-nano", "case"), spec("mini-pc", "passive"));
    for (spec, budget) in [(&orin, 8.0), (&orin, 12.0), (&pc, 7.0), (&pc, 12.0)] {
        let config = GovernorConfig { max_watts: Some(budget), ..config(95.0) };
        let mut closed = closed(spec, 25.0, &config);
        let trace = run(&mut closed, 1800, 0.0, |_| true);
        let (watts, scene) = (mean(last_third(&trace.watts)), format!("{}, {budget} W", spec.title));
        assert!(watts <= budget * 1.02 && watts >= budget * 0.85, "{scene}: {watts:.2} W");
        let first_minute = mean(&trace.watts[60..120]);
        assert!(first_minute <= budget * 1.05, "{scene}: {first_minute:.2} W in the second minute");
        assert!(trace.late_changes() <= 2, "{scene}: {} changes", trace.late_changes());
        assert_eq!(closed.throttle.reason, Reason::Watts);
    }
}

/// Boards that are quick to warm up, through their files: what is written is what is read, and the budget holds.
#[test]
fn the_loop_closes_through_the_files() {
    for name in jouled::simulate::spec::names() {
        let description = Description::named(name).unwrap();
        let mut spec = description.spec(None).unwrap();
        (spec.cooling.case_capacity, spec.cooling.die_capacity) = (8.0, spec.cooling.die_capacity.max(3.0));
        let root = tempfile::tempdir().unwrap();
        // Below where the simulated firmware would step in.
        let budget = steady(&spec, 30.0, 0.3);
        let mut closed = closed(&spec, 30.0, &config(budget));
        let mut tree = Tree::lay_out(&description, &closed.board, root.path()).unwrap();
        let (mut sensors, mut energy, mut cost) = (Sensors::new(root.path(), None), EnergyMeter::default(), None);
        for _ in 0..180 {
            closed.period(true, |closed| {
                tree.show(&closed.board, closed.mean_watts()).unwrap();
                let readings = sensors.read(closed.now);
                assert_eq!(readings.faults, [], "{name}");
                cost = energy.tick(&readings, closed.now, closed.finished);
                readings
            });
            assert!(closed.board.celsius() <= budget + 2.0, "{name}: {:.1} °C of {budget:.1}", closed.board.celsius());
        }
        assert_eq!((closed.throttle.level > 0, closed.throttle.reason), (true, Reason::Temperature), "{name}");
        assert_eq!(cost.is_some(), !name.starts_with("pi"), "{name}");
        let truth = closed.board.joules() / closed.finished as f64;
        assert!(cost.is_none_or(|cost| (0.5..2.0).contains(&(cost / truth))), "{name}: {cost:?} J, truly {truth} J");
    }
}

/// Both runs of a board: ours, and the one that only the firmware slows.
fn both(spec: &Spec, config: &GovernorConfig, load: Load) -> (Summary, Summary) {
    let hour = Duration::from_secs(3600);
    let ours = Loop::new(spec, 25.0, config, load).run(hour, 0.0, Some(|closed: &Loop| Ok::<_, ()>(look(closed)))).unwrap();
    let free = Loop::new(spec, 25.0, config, load).run(hour, 0.0, None::<fn(&Loop) -> Result<Readings, ()>>).unwrap();
    (ours.summary(), free.summary())
}

/// What docs/governor.md says of the cost of staying cool: idling is dearer than a low clock, and a lighter model cheaper.
#[test]
fn staying_cool_costs_energy_unless_the_model_is_lighter() {
    let (spec, budget) = (spec("pi5", "bare"), config(75.0));
    let per_joule = |ours: &Summary, free: &Summary| free.joules_per_inference.unwrap() / ours.joules_per_inference.unwrap();
    let (ours, free) = both(&spec, &budget, Load::on_every_core(&spec));
    assert!(ours.hottest_celsius <= 77.0 && ours.firmware_throttled == 0.0, "{ours:?}");
    assert!(free.hottest_celsius > 84.0 && free.firmware_throttled > 0.9, "{free:?}");
    assert!((0.6..0.8).contains(&per_joule(&ours, &free)), "{ours:?} {free:?}");
    let mut lighter = budget;
    lighter.levels.iter_mut().skip(1).for_each(|level| level.lighter_model = true);
    let (ours, free) = both(&spec, &lighter, Load { lighter: 0.4, ..Load::on_every_core(&spec) });
    assert!(ours.hottest_celsius <= 77.0 && per_joule(&ours, &free) >= 1.3, "{ours:?} {free:?}");
}

/// At one and the same temperature: the firmware's way, ours with the clock, ours with idle time alone.
#[test]
fn a_lower_clock_is_as_cheap_as_the_firmwares_and_idle_time_is_dearer() {
    let description = Description::named("pi4").unwrap();
    let (mut firmware, mut ours, files) = (spec("pi4", "bare"), spec("pi4", "bare"), tempfile::tempdir().unwrap());
    (firmware.model.soft_limit, firmware.model.hard_limit) = (65.0, 75.0);
    (ours.model.soft_limit, ours.model.hard_limit) = (120.0, 125.0);
    let (time, load) = (Duration::from_secs(2 * 3600), Load::on_every_core(&ours));
    let free = Loop::new(&firmware, 25.0, &config(75.0), load).run(time, 0.0, None::<fn(&Loop) -> Result<Readings, ()>>).unwrap().summary();
    Tree::lay_out(&description, &Board::idle(ours.clone(), 25.0), files.path()).unwrap();
    let budget = GovernorConfig { celsius_band: 1.0, ..config(free.hottest_celsius + 0.5) };
    let look = || Some(|closed: &Loop| Ok::<_, ()>(look(closed)));
    let idle = Loop::new(&ours, 25.0, &budget, load).run(time, 0.0, look()).unwrap().summary();
    let lever = Loop::new(&ours, 25.0, &budget, load).with_clock(files.path().to_path_buf());
    let clock = { lever }.run(time, 0.0, look()).unwrap().summary();
    let cost = |summary: &Summary| summary.joules_per_inference.unwrap() / free.joules_per_inference.unwrap();
    for run in [&clock, &idle] {
        assert!((run.hottest_celsius - free.hottest_celsius).abs() < 2.0 && run.firmware_throttled == 0.0, "{run:?} {free:?}");
    }
    assert!((0.97..1.03).contains(&cost(&clock)) && cost(&idle) > 1.1, "{} {}", cost(&clock), cost(&idle));
}

#[test]
fn a_run_ends_with_the_battery() {
    let spec = spec("laptop", "passive");
    let (time, config) = (Duration::from_secs(24 * 3600), config(75.0));
    let look = Some(|closed: &Loop| Ok::<_, ()>(look(closed)));
    let trace = Loop::new(&spec, 25.0, &config, Load::on_every_core(&spec)).run(time, 0.0, look).unwrap();
    let (hours, watts) = (trace.summary().hours, trace.summary().mean_watts);
    assert!((hours * watts - 50.0).abs() < 0.5, "{hours} h of {watts} W");
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
    let orin = Description::named("orin-nano").unwrap();
    let board = |ambient| Board::idle(orin.spec(Some("case")).unwrap(), ambient);
    let mut tree = Tree::lay_out(&orin, &board(80.0), root.path()).unwrap();
    let pace = Pace::new();
    let fast = GovernorConfig { period: Span::millis(100), sensor_hold: Span::millis(0), ..config(70.0) };
    let governor = Governor::start(fast.clone(), root.path(), &[], Arc::clone(&pace)).unwrap();
    assert!(governor.status().readings.celsius.is_some(), "the first look is there from the start");
    let hot = wait_for(&governor, "a level", |status| status.throttle.level >= 2);
    assert_eq!((hot.throttle.reason, pace.snapshot().duty < 1.0), (Reason::Temperature, true));
    let json = serde_json::to_value(&hot).unwrap();
    assert_eq!(json["throttle"]["reason"], "temperature");
    assert_eq!(json["readings"]["power_source"], "ina3221");

    governor.reconfigure(GovernorConfig { enabled: false, ..fast.clone() });
    let free = wait_for(&governor, "freedom", |status| status.throttle == Throttle::default());
    assert!(!free.enabled);

    let cool = board(20.0);
    tree.show(&cool, cool.watts()).unwrap();
    governor.reconfigure(fast);
    wait_for(&governor, "a cool reading", |status| status.readings.celsius.is_some_and(|t| t < 60.0));
    // The zone that is the hottest.
    std::fs::write(root.path().join("sys/class/thermal/thermal_zone5/temp"), "").unwrap();
    let lost = wait_for(&governor, "the loss", |status| status.throttle.level > 0 && status.throttle.reason == Reason::SensorLost);
    assert!(lost.throttle.text.contains("is empty"), "{}", lost.throttle.text);
    governor.stop();
}

/// The caps of all CPUs in a board's files, in kHz.
fn caps(root: &Path) -> Vec<u64> {
    let cpu = |n: usize| std::fs::read_to_string(root.join(format!("sys/devices/system/cpu/cpu{n}/cpufreq/scaling_max_freq"))).ok();
    (0..).map_while(cpu).map(|text| text.trim().parse().unwrap()).collect()
}

#[test]
fn the_thread_lowers_the_clock_and_puts_it_back_however_it_ends() {
    let root = tempfile::tempdir().unwrap();
    let orin = Description::named("orin-nano").unwrap();
    Tree::lay_out(&orin, &Board::idle(orin.spec(Some("case")).unwrap(), 80.0), root.path()).unwrap();
    let found = caps(root.path());
    assert_eq!(found, [1_510_400; 6]);
    let (pace, hot) = (Pace::new(), GovernorConfig { period: Span::millis(100), lower_clock: true, ..config(60.0) });
    let start = || Governor::start(hot.clone(), root.path(), &[2, 3], Arc::clone(&pace)).unwrap();
    let lowered = |status: &GovernorStatus| status.throttle.level == 9 && status.throttle.clock < 0.6;

    let governor = start();
    let status = wait_for(&governor, "a low clock", lowered);
    assert_eq!((caps(root.path()), status.clock_fault), (vec![1_510_400, 1_510_400, 729_600, 729_600, 1_510_400, 1_510_400], None));
    let speed = status.throttle.clock * status.throttle.duty;
    assert!(speed < 0.13 && status.throttle.reason == Reason::Temperature, "{:?}", status.throttle);
    for back in [GovernorConfig { lower_clock: false, ..hot.clone() }, GovernorConfig { enabled: false, ..hot.clone() }] {
        governor.reconfigure(back);
        wait_for(&governor, "the full clock", |status| status.throttle.clock == 1.0);
        assert_eq!(caps(root.path()), found);
        governor.reconfigure(hot.clone());
        wait_for(&governor, "a low clock", lowered);
    }
    // Stopping is as slow as before, now by idle time alone.
    governor.stop();
    assert_eq!((caps(root.path()), pace.snapshot().clock, pace.snapshot().duty < 0.13), (found.clone(), 1.0, true));

    let file = root.path().join("sys/devices/system/cpu/cpu2/cpufreq/scaling_max_freq");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let governor = start();
    let status = wait_for(&governor, "a level", |status| status.throttle.level == 9);
    let fault = status.clock_fault.unwrap();
    assert!(fault.starts_with("/sys/devices/system/cpu/cpu2/cpufreq/scaling_max_freq: "), "{fault}");
    assert_eq!((status.throttle.clock, status.throttle.duty < 0.13), (1.0, true));
}
