//! What the law promises, for any history of readings.

use super::super::readings::{Fault, Why};
use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

/// All three budgets.
fn budgets() -> GovernorConfig {
    GovernorConfig { max_watts: Some(10.0), min_battery_percent: Some(20.0), ..GovernorConfig::default() }
}

/// Cool, within the power budget, on mains.
fn easy() -> Readings {
    Readings {
        celsius: Some(40.0),
        watts: Some(2.0),
        battery_percent: Some(90.0),
        on_battery: Some(false),
        under_voltage: Some(false),
        firmware_throttled: Some(false),
        ..Readings::default()
    }
}

/// Easy but for the temperature.
fn warm(celsius: f64) -> Readings {
    Readings { celsius: Some(celsius), ..easy() }
}

/// Every sensor, present or failing.
fn any_readings() -> impl Strategy<Value = Readings> {
    let celsius = prop::option::weighted(0.9, 20.0f64..110.0);
    let watts = prop::option::weighted(0.9, 0.0f64..30.0);
    let battery = (prop::option::weighted(0.9, 0.0f64..100.0), prop::option::of(any::<bool>()));
    let flags = (prop::option::of(any::<bool>()), prop::option::of(any::<bool>()));
    (celsius, watts, battery, flags, any::<bool>()).prop_map(|(celsius, watts, battery, flags, broken)| {
        let fault = Fault { quantity: Quantity::Power, path: "/power".to_string(), why: Why::Permission };
        Readings {
            celsius,
            watts,
            battery_percent: battery.0,
            on_battery: battery.1,
            under_voltage: flags.0,
            firmware_throttled: flags.1,
            faults: if broken { vec![fault] } else { Vec::new() },
            ..Readings::default()
        }
    })
}

/// Readings, and the milliseconds before each.
fn any_history() -> impl Strategy<Value = Vec<(Readings, u64)>> {
    prop::collection::vec((any_readings(), 0u64..4000), 0..60)
}

/// A law that has lived through `history`, and the time now.
fn after(config: &GovernorConfig, history: &[(Readings, u64)]) -> (Law, Duration) {
    let (mut law, mut now) = (Law::new(config), Duration::ZERO);
    for (readings, milliseconds) in history {
        now += Duration::from_millis(*milliseconds);
        law.step(readings, now);
    }
    (law, now)
}

/// The decisions of `seconds` steps with the same readings.
fn steady(law: &mut Law, now: &mut Duration, readings: &Readings, seconds: u64) -> Vec<Decision> {
    let step = |_| {
        *now += SECOND;
        law.step(readings, *now)
    };
    (0..seconds).map(step).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The first reading within the band: nothing ever happens. After any history: the level comes to rest.
    #[test]
    fn it_never_oscillates_inside_the_dead_band(
        history in any_history(), celsius in 71.2f64..74.8, watts in 9.1f64..9.9
    ) {
        let in_band = Readings { watts: Some(watts), ..warm(celsius) };
        let (mut fresh, mut now) = (Law::new(&budgets()), Duration::ZERO);
        prop_assert!(steady(&mut fresh, &mut now, &in_band, 300).iter().all(|decision| *decision == Decision::default()));
        let (mut law, mut now) = after(&budgets(), &history);
        steady(&mut law, &mut now, &in_band, 300);
        let rest = steady(&mut law, &mut now, &in_band, 600);
        prop_assert!(rest.windows(2).all(|pair| pair[0] == pair[1]));
    }

    /// From the same state, hotter, hungrier or emptier is never faster, now or later.
    #[test]
    fn it_is_monotone(history in any_history(), now_at in any_readings(), hotter in 0.0f64..20.0, more in 0.0f64..10.0, less in 0.0f64..50.0) {
        let (mut law, mut now) = after(&budgets(), &history);
        let worse = Readings {
            celsius: now_at.celsius.map(|t| t + hotter),
            watts: now_at.watts.map(|w| w + more),
            battery_percent: now_at.battery_percent.map(|p| (p - less).max(0.0)),
            ..now_at.clone()
        };
        let (mut other, mut later) = (law.clone(), now);
        let better_decisions = steady(&mut law, &mut now, &now_at, 120);
        let worse_decisions = steady(&mut other, &mut later, &worse, 120);
        for (better, worse) in better_decisions.iter().zip(&worse_decisions) {
            prop_assert!(worse.level >= better.level && worse.duty <= better.duty + 1e-12, "{better:?} {worse:?}");
        }
    }

    #[test]
    fn it_always_recovers(history in any_history()) {
        let (mut law, mut now) = after(&budgets(), &history);
        let decisions = steady(&mut law, &mut now, &easy(), 240);
        prop_assert_eq!(decisions.last(), Some(&Decision::default()));
    }

    #[test]
    fn its_rate_is_bounded(history in any_history(), next in any_readings(), milliseconds in 0u64..100_000) {
        let (mut law, now) = after(&budgets(), &history);
        let before = law.throttling();
        law.step(&next, now + Duration::from_millis(milliseconds));
        let dt = (milliseconds as f64 / 1000.0).min(LONGEST_STEP);
        let change = law.throttling() - before;
        prop_assert!(change <= ATTACK * dt + 1e-12 && -change <= RELEASE * dt + 1e-12);
    }

    /// Not even numbers, times that go backwards, budgets that were not checked.
    #[test]
    fn nothing_makes_it_panic_or_stray(
        values in prop::collection::vec((prop::num::f64::ANY, prop::num::f64::ANY, prop::num::f64::ANY, any::<u64>()), 1..30),
        budget in prop::num::f64::ANY, levels in 0usize..4
    ) {
        let mut config = GovernorConfig { max_celsius: budget, max_watts: Some(budget), ..budgets() };
        config.levels.truncate(levels);
        let mut law = Law::new(&config);
        for (celsius, watts, battery, nanoseconds) in values {
            let readings = Readings { celsius: Some(celsius), watts: Some(watts), battery_percent: Some(battery), ..easy() };
            let decision = law.step(&readings, Duration::from_nanos(nanoseconds));
            prop_assert!((0.0..=1.0).contains(&law.throttling()), "{}", law.throttling());
            prop_assert!(decision.duty > 0.0 && decision.duty <= 1.0 && decision.level < levels.max(1));
        }
    }
}

/// The last decision after `seconds` of the same readings, from a fresh start.
fn settled(readings: &Readings, seconds: u64) -> Decision {
    let (mut law, mut now) = (Law::new(&budgets()), Duration::ZERO);
    steady(&mut law, &mut now, readings, seconds).pop().unwrap()
}

#[test]
fn each_budget_throttles_and_says_so() {
    let cases = [
        (warm(90.0), Reason::Temperature, "90.0 °C of 75 °C"),
        (Readings { watts: Some(20.0), ..easy() }, Reason::Watts, "20.00 W of 10 W"),
        (Readings { battery_percent: Some(25.0), on_battery: Some(true), ..easy() }, Reason::Battery, "battery at 25 %"),
        (Readings { under_voltage: Some(true), ..easy() }, Reason::UnderVoltage, "voltage is too low"),
        (Readings { firmware_throttled: Some(true), ..easy() }, Reason::Firmware, "firmware limits the clock"),
    ];
    for (readings, reason, text) in cases {
        let decision = settled(&readings, 30);
        assert_eq!(decision.reason, reason, "{decision:?}");
        assert!(decision.level > 0 && decision.duty < 1.0 && decision.text.contains(text), "{decision:?}");
    }
    assert_eq!(settled(&easy(), 30), Decision::default());
    assert_eq!(settled(&Readings::default(), 30), Decision::default(), "a board without sensors");
}

#[test]
fn the_charge_sets_the_level_and_a_gauge_that_bounces_does_not_move_it() {
    let (mut law, mut now) = (Law::new(&budgets()), Duration::ZERO);
    let at = |percent| Readings { battery_percent: Some(percent), on_battery: Some(true), ..easy() };
    let level = |law: &mut Law, now: &mut Duration, percent| steady(law, now, &at(percent), 100).pop().unwrap().level;
    assert_eq!(level(&mut law, &mut now, 35.0), 0);
    assert_eq!(level(&mut law, &mut now, 30.0), 3);
    assert_eq!(level(&mut law, &mut now, 32.0), 3);
    assert_eq!(level(&mut law, &mut now, 20.0), 9);
    assert_eq!(level(&mut law, &mut now, 5.0), 9);
    let charging = Readings { on_battery: Some(false), ..at(6.0) };
    assert_eq!(steady(&mut law, &mut now, &charging, 100).pop().unwrap(), Decision::default());
}

#[test]
fn a_sensor_that_fails_never_reads_as_cool() {
    let (mut law, mut now) = (Law::new(&budgets()), Duration::ZERO);
    steady(&mut law, &mut now, &warm(80.0), 4);
    let hot = law.throttling();
    let lost = Readings { celsius: None, ..easy() };
    for decision in steady(&mut law, &mut now, &lost, 10) {
        assert_eq!(decision.reason, Reason::Temperature);
        assert!(law.throttling() >= hot);
    }
    let assumed = steady(&mut law, &mut now, &lost, 60).pop().unwrap();
    assert_eq!((assumed.level, assumed.reason), (9, Reason::SensorLost));
    assert!(assumed.text.contains("temperature unknown"), "{}", assumed.text);
    assert_eq!(steady(&mut law, &mut now, &easy(), 120).pop().unwrap(), Decision::default(), "it is back");
}

#[test]
fn a_sensor_that_is_there_but_never_worked_is_not_trusted_to_be_cool() {
    let fault = Fault { quantity: Quantity::Temperature, path: "/sys/zone0".to_string(), why: Why::Permission };
    let decision = settled(&Readings { celsius: None, faults: vec![fault], ..easy() }, 30);
    assert_eq!((decision.level, decision.reason), (9, Reason::SensorLost));
    assert!(decision.text.contains("/sys/zone0: permission denied"), "{}", decision.text);
    let config = GovernorConfig { safe_level: Some(4), ..budgets() };
    let (mut law, mut now) = (Law::new(&config), Duration::ZERO);
    steady(&mut law, &mut now, &easy(), 3);
    let lost = Readings { celsius: None, ..easy() };
    assert_eq!(steady(&mut law, &mut now, &lost, 60).pop().unwrap().level, 4);
}

#[test]
fn between_two_levels_the_pace_is_between_theirs() {
    let rate = |max_per_second, duty| super::super::config::Level { max_per_second, duty, ..Default::default() };
    let levels = vec![rate(None, 1.0), rate(Some(10.0), 0.5), rate(Some(5.0), 0.5)];
    let mut law = Law::new(&GovernorConfig { levels, ..budgets() });
    let at = |law: &mut Law, u| {
        law.u = u;
        law.set_level();
        law.decision(String::new())
    };
    let half = at(&mut law, 0.25);
    assert_eq!((half.level, half.duty, half.max_per_second), (1, 0.75, Some(20.0)));
    let one = at(&mut law, 0.5);
    assert_eq!((one.level, one.duty, one.max_per_second), (1, 0.5, Some(10.0)));
    assert_eq!(at(&mut law, 1.0).max_per_second, Some(5.0));
    assert_eq!(at(&mut law, 0.3).level, 2, "kept half a level further");
    assert_eq!(at(&mut law, 0.2).level, 1);
    assert_eq!(at(&mut law, 0.0).level, 0);
}

#[test]
fn a_new_configuration_keeps_the_throttling() {
    let (mut law, mut now) = (Law::new(&budgets()), Duration::ZERO);
    steady(&mut law, &mut now, &warm(90.0), 30);
    let mut config = budgets();
    config.levels.truncate(3);
    law.reconfigure(&config);
    now += SECOND;
    let decision = law.step(&warm(90.0), now);
    assert_eq!((decision.level, decision.reason), (2, Reason::Temperature));
}
