//! What is written into a board's files, and what is there afterwards.

use super::super::readings::sysfs::tests::{tree, write};
use super::note::NOTE;
use super::policy::STEP;
use super::*;
use crate::governor::readings::cpufreq::CPUS;
use proptest::prelude::*;
use std::os::unix::fs::symlink;

const FREQUENCIES: &str = "600000 900000 1200000 1500000 1800000 ";

/// Two clusters of two CPUs, as the kernel lays them out; the second has no list of frequencies.
fn board() -> tempfile::TempDir {
    let root = tree(&[
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "1800000\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "1800000\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq", "600000\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_min_freq", "600000\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_available_frequencies", FREQUENCIES),
        ("sys/devices/system/cpu/cpufreq/policy2/scaling_max_freq", "2000000\n"),
        ("sys/devices/system/cpu/cpufreq/policy2/cpuinfo_max_freq", "2000000\n"),
        ("sys/devices/system/cpu/cpufreq/policy2/scaling_min_freq", "400000\n"),
    ]);
    for (cpu, policy) in [(0, 0), (1, 0), (2, 2), (3, 2)] {
        let directory = root.path().join(format!("{CPUS}/cpu{cpu}"));
        std::fs::create_dir(&directory).unwrap();
        symlink(format!("../cpufreq/policy{policy}"), directory.join("cpufreq")).unwrap();
    }
    root
}

fn cap(root: &Path, policy: usize) -> u64 {
    let file = root.join(format!("{CPUS}/cpufreq/policy{policy}/scaling_max_freq"));
    std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

fn caps(root: &Path) -> (u64, u64) {
    (cap(root, 0), cap(root, 2))
}

fn set_cap(root: &Path, policy: usize, khz: u64) {
    write(root, &format!("{CPUS}/cpufreq/policy{policy}/scaling_max_freq"), &format!("{khz}\n"));
}

fn duty(duty: f64) -> Throttle {
    Throttle { level: 3, duty, ..Throttle::default() }
}

fn lever(root: &Path, cores: &[usize]) -> ClockLever {
    let mut lever = ClockLever::new(root, cores);
    lever.prepare();
    lever
}

/// A process that is killed does not put anything back, and the kernel closes its files.
fn kill(mut lever: ClockLever) {
    lever.note = None;
    std::mem::forget(lever);
}

proptest! {
    /// A frequency that the clock can have, enough for the share, and the least such; never above what was found.
    #[test]
    fn the_lowest_frequency_that_is_enough(
        mut available in prop::collection::vec(1_000u64..3_000_000, 0..20),
        found in 1_000u64..3_000_000,
        least in 1_000u64..3_000_000,
        share in 0.0f64..=1.0,
    ) {
        available.sort_unstable();
        let least = least.min(found);
        let policy = Policy { file: PathBuf::new(), shown: String::new(), found, least, available: available.clone(), now: found };
        let chosen = policy.choose(share);
        prop_assert!(chosen <= found && chosen >= least);
        prop_assert!(chosen as f64 + 0.5 >= found as f64 * share);
        if chosen < found {
            prop_assert!(available.is_empty() && chosen.is_multiple_of(STEP) || available.contains(&chosen));
        }
        let enough = |step: &&u64| **step >= least && **step as f64 >= found as f64 * share && **step < chosen;
        prop_assert_eq!(available.iter().find(enough), None);
        prop_assert!(policy.choose(share / 2.0) <= chosen, "less duty is never a higher clock");
        prop_assert_eq!(policy.choose(1.0), found);
    }

    #[test]
    fn no_share_is_absurd_enough_to_panic(share in prop::num::f64::ANY) {
        let policy = Policy { file: PathBuf::new(), shown: String::new(), found: 3, least: 2, available: vec![1, 2], now: 3 };
        prop_assert!((2..=3).contains(&policy.choose(share)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is asked, clock and duty together are what was asked, and at the end everything is as it was.
    #[test]
    fn clock_and_duty_make_up_the_speed(duties in prop::collection::vec(0.01f64..=1.0, 1..8)) {
        let root = board();
        let mut lever = lever(root.path(), &[0]);
        for asked in duties {
            let throttle = lever.apply(duty(asked));
            prop_assert!((throttle.duty * throttle.clock - asked).abs() < 1e-6, "{throttle:?} for {asked}");
            prop_assert!(throttle.clock == 1.0 || throttle.clock >= 600.0 / 1800.0);
            prop_assert_eq!((throttle.clock * 1.8e6).round() as u64, cap(root.path(), 0));
        }
        drop(lever);
        prop_assert_eq!(caps(root.path()), (1_800_000, 2_000_000));
        prop_assert!(!root.path().join(NOTE).exists());
    }
}

#[test]
fn every_cluster_is_lowered_and_the_fastest_sets_the_duty() {
    let root = board();
    let mut lever = lever(root.path(), &[]);
    assert_eq!(lever.fault(), None);
    let throttle = lever.apply(duty(0.6));
    assert_eq!(caps(root.path()), (1_200_000, 1_200_000));
    assert!((throttle.clock - 1.2 / 1.8).abs() < 1e-9 && (throttle.duty - 0.9).abs() < 1e-9, "{throttle:?}");
    assert_eq!((throttle.level, throttle.clone().at_full_clock().clock), (3, 1.0));
    assert!((throttle.at_full_clock().duty - 0.6).abs() < 1e-9);
    // Below the lowest clock the rest is idle time.
    let throttle = lever.apply(duty(0.1));
    assert_eq!(caps(root.path()), (600_000, 400_000));
    assert!((throttle.duty - 0.3).abs() < 1e-9, "{throttle:?}");
    assert_eq!(lever.apply(duty(1.0)), duty(1.0));
    assert_eq!(caps(root.path()), (1_800_000, 2_000_000));
    assert!(!root.path().join(NOTE).exists(), "nothing is lowered, nothing is noted");
}

#[test]
fn only_the_clusters_that_inference_runs_on() {
    let root = board();
    let mut lever = lever(root.path(), &[1]);
    lever.apply(duty(0.5));
    assert_eq!(caps(root.path()), (900_000, 2_000_000));
    lever.release();
    assert_eq!(caps(root.path()), (1_800_000, 2_000_000));
}

#[test]
fn a_lower_cap_of_somebody_else_is_the_full_speed_and_stays() {
    let root = board();
    set_cap(root.path(), 0, 1_200_000);
    let mut lever = lever(root.path(), &[0]);
    let throttle = lever.apply(duty(0.75));
    assert_eq!((cap(root.path(), 0), throttle.clock, throttle.duty), (900_000, 0.75, 1.0));
    assert_eq!(lever.apply(duty(0.99)).clock, 1.0);
    assert_eq!(cap(root.path(), 0), 1_200_000);
    lever.apply(duty(0.3));
    drop(lever);
    assert_eq!(cap(root.path(), 0), 1_200_000);
}

#[test]
fn what_a_killed_process_left_is_put_back_and_not_taken_for_the_users() {
    let root = board();
    set_cap(root.path(), 2, 1_500_000);
    let mut first = lever(root.path(), &[]);
    first.apply(duty(0.4));
    assert_eq!(caps(root.path()), (900_000, 600_000));
    kill(first);
    // Whatever the next one is configured to do.
    drop(ClockLever::new(root.path(), &[0]));
    assert_eq!(caps(root.path()), (1_800_000, 1_500_000));
    assert!(!root.path().join(NOTE).exists());
    // Killed again and again, it still knows.
    for _ in 0..3 {
        let mut next = lever(root.path(), &[]);
        next.apply(duty(0.4));
        kill(next);
    }
    drop(ClockLever::new(root.path(), &[]));
    assert_eq!(caps(root.path()), (1_800_000, 1_500_000));
}

#[test]
fn a_second_process_leaves_alone_what_the_first_has_lowered() {
    let root = board();
    let mut first = lever(root.path(), &[]);
    first.apply(duty(0.4));
    let mut second = lever(root.path(), &[]);
    assert_eq!(second.fault(), Some("/run/jouled/scaling_max_freq: another process lowers the clock"));
    assert_eq!(second.apply(duty(0.1)), duty(0.1));
    drop(second);
    assert_eq!(caps(root.path()), (900_000, 800_000));
    drop(first);
    assert_eq!(caps(root.path()), (1_800_000, 2_000_000));
    assert_eq!(lever(root.path(), &[]).fault(), None);
}

#[test]
fn a_note_that_is_none_keeps_the_lever_off() {
    for text in ["junk", "/sys/x 12x\n", "/sys/x 99999999999\n", "\n"] {
        let root = board();
        write(root.path(), NOTE, text);
        let mut lever = lever(root.path(), &[]);
        assert_eq!(lever.apply(duty(0.5)), duty(0.5), "{text}");
        assert!(lever.fault().unwrap().contains("/run/jouled/scaling_max_freq"), "{text}: {:?}", lever.fault());
        assert_eq!(caps(root.path()), (1_800_000, 2_000_000));
    }
    // A path that is no policy's is nothing to write to.
    let root = board();
    write(root.path(), "victim", "7");
    write(root.path(), NOTE, "/victim 1000000\n");
    drop(ClockLever::new(root.path(), &[]));
    assert_eq!(std::fs::read_to_string(root.path().join("victim")).unwrap(), "7");
}

#[test]
fn what_cannot_be_set_is_said_once_and_the_duty_stays() {
    let nothing = tempfile::tempdir().unwrap();
    let none = lever(nothing.path(), &[]);
    assert!(none.fault().unwrap().contains("not there"), "{:?}", none.fault());

    let root = board();
    let file = root.path().join(format!("{CPUS}/cpufreq/policy2/scaling_max_freq"));
    let mut lever = lever(root.path(), &[]);
    lever.apply(duty(0.5));
    assert_eq!(cap(root.path(), 0), 900_000);
    // It can be read and not written.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert_eq!(lever.apply(duty(0.3)), duty(0.3));
    assert!(lever.fault().unwrap().starts_with("/sys/devices/system/cpu/cpufreq/policy2/scaling_max_freq: "), "{:?}", lever.fault());
    assert_eq!(cap(root.path(), 0), 1_800_000, "the other cluster is not left behind");
    assert_eq!(lever.apply(duty(0.2)), duty(0.2));
    // Mended, and tried again: the note of what could not be put back is still there.
    std::fs::remove_dir(&file).unwrap();
    set_cap(root.path(), 2, 1_000_000);
    lever.prepare();
    assert_eq!(lever.fault(), None);
    lever.apply(duty(0.5));
    drop(lever);
    assert_eq!(caps(root.path()), (1_800_000, 2_000_000));
}

#[test]
fn without_a_place_for_the_note_nothing_is_lowered() {
    let root = board();
    write(root.path(), &format!("{NOTE}.new/in-the-way"), "");
    let mut lever = lever(root.path(), &[]);
    assert!(lever.fault().unwrap().contains("what is not noted there is not lowered"), "{:?}", lever.fault());
    assert_eq!(lever.apply(duty(0.5)), duty(0.5));
    assert_eq!(caps(root.path()), (1_800_000, 2_000_000));
}

#[test]
fn a_cap_of_the_kernels_own_cooling_is_not_taken_for_the_users() {
    let root = board();
    write(root.path(), "sys/class/thermal/cooling_device0/type", "cpufreq-cpu0\n");
    write(root.path(), "sys/class/thermal/cooling_device0/cur_state", "2\n");
    write(root.path(), "sys/class/thermal/cooling_device1/type", "pwm-fan\n");
    write(root.path(), "sys/class/thermal/cooling_device1/cur_state", "3\n");
    set_cap(root.path(), 0, 1_200_000);
    let mut lever = lever(root.path(), &[0]);
    assert_eq!((lever.apply(duty(0.5)), lever.fault()), (duty(0.5), None));
    write(root.path(), "sys/class/thermal/cooling_device0/cur_state", "0\n");
    set_cap(root.path(), 0, 1_800_000);
    assert_eq!(lever.apply(duty(0.5)).clock, 0.5);
}
