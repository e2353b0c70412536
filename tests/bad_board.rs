//! Every file of every board made bad while the governor reads it: it is degraded and says why, and nothing looks cooler than
//! it was, draws less, or has more charge.

use jouled::config::value::Span;
use jouled::governor::law::{ATTACK, LONGEST_STEP, Law, RELEASE};
use jouled::governor::readings::Quantity;
use jouled::governor::{ClockLever, GovernorConfig, Readings, Reason, Sensors, Throttle};
use jouled::simulate::{Board, Description, Tree, spec};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Text(&'static str),
    Removed,
    /// Opens, and fails on read.
    Directory,
    /// `EIO` on read, as of a sensor whose bus is stuck.
    InputOutputError,
    /// Would block whoever opens it.
    Pipe,
}

const HARMS: [Harm; 9] = [
    Harm::Text(""),
    Harm::Text("\n"),
    Harm::Text("not a number"),
    Harm::Text("-274000"),
    Harm::Text("4e9"),
    Harm::Removed,
    Harm::Directory,
    Harm::InputOutputError,
    Harm::Pipe,
];

fn harm(path: &Path, harm: Harm) {
    std::fs::remove_file(path).unwrap();
    match harm {
        Harm::Text(text) => std::fs::write(path, text).unwrap(),
        Harm::Removed => (),
        Harm::Directory => std::fs::create_dir(path).unwrap(),
        // Nothing is mapped at its beginning.
        Harm::InputOutputError => std::os::unix::fs::symlink("/proc/self/mem", path).unwrap(),
        Harm::Pipe => mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
    }
}

/// Budgets for everything, at once lost when they cannot be had.
fn strict() -> GovernorConfig {
    let (max_watts, min_battery_percent) = (Some(1000.0), Some(20.0));
    GovernorConfig { max_celsius: 120.0, max_watts, min_battery_percent, sensor_hold: Span::millis(0), ..GovernorConfig::default() }
}

/// A board in its files, seen twice by the sensors and the law.
struct Seen {
    root: tempfile::TempDir,
    board: Board,
    tree: Tree,
    sensors: Sensors,
    law: Law,
    now: Duration,
    before: Readings,
}

impl Seen {
    fn new(name: &str) -> Seen {
        let (description, root) = (Description::named(name).unwrap(), tempfile::tempdir().unwrap());
        let board = Board::idle(description.spec(None).unwrap(), 35.0);
        let tree = Tree::lay_out(&description, &board, root.path()).unwrap();
        let sensors = Sensors::new(root.path(), None);
        let (law, now, before) = (Law::new(&strict()), Duration::ZERO, Readings::default());
        let mut seen = Seen { root, board, tree, sensors, law, now, before };
        seen.start_again();
        seen
    }

    /// Sensors and a law that have seen the board twice, and all of it good.
    fn start_again(&mut self) {
        self.sensors = Sensors::new(self.root.path(), None);
        self.law = Law::new(&strict());
        for _ in 0..2 {
            self.before = self.look();
        }
        assert_eq!((self.law.throttling(), &self.before.faults[..]), (0.0, &[][..]));
    }

    /// A second passes, the files show it, and the governor looks.
    fn look(&mut self) -> Readings {
        self.board.advance(1.0, 0.0);
        self.tree.show(&self.board, self.board.watts()).unwrap();
        self.look_again()
    }

    /// The governor looks at files that nobody writes.
    fn look_again(&mut self) -> Readings {
        self.now += SECOND;
        let readings = self.sensors.read(self.now);
        self.law.step(&readings, self.now);
        readings
    }

    /// What a look after the harm may not say.
    fn expect_no_false_ease(&mut self, after: &Readings, what: &str) {
        let before = self.before.clone();
        // A counter that stands still is a power of 0, and true as far as anyone can tell.
        let counter = before.power_source == Some("rapl") && after.power_source == Some("rapl");
        for (quantity, was, is, sinks) in [
            (Quantity::Temperature, before.celsius, after.celsius, true),
            (Quantity::Power, before.watts, after.watts, !counter),
            (Quantity::Battery, before.battery_percent, after.battery_percent, false),
        ] {
            match (was, is) {
                (Some(was), Some(is)) if sinks => assert!(is >= was - 1e-6, "{what}: {quantity} {is} after {was}"),
                (Some(was), Some(is)) if quantity == Quantity::Battery => assert!(is <= was, "{what}: {quantity} {is} after {was}"),
                (Some(_), None) => {
                    let lost = self.law.step(after, self.now + 60 * SECOND);
                    assert!(lost.level > 0 && lost.reason == Reason::SensorLost, "{what}: {quantity} is gone and {lost:?}");
                }
                _ => (),
            }
        }
        for (was, is) in [(before.under_voltage, after.under_voltage), (before.firmware_throttled, after.firmware_throttled)] {
            if was.is_some() && is.is_none() {
                let lost = self.law.step(after, self.now + 120 * SECOND);
                assert!(lost.level > 0 && lost.reason == Reason::SensorLost && !lost.text.is_empty(), "{what}: {lost:?}");
            }
        }
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found
}

#[test]
fn no_bad_file_of_any_board_looks_like_ease() {
    let mut tried = 0;
    for name in spec::names() {
        let mut seen = Seen::new(name);
        // The other processors' files are read in the same way.
        let other = |path: &PathBuf| (1..8).any(|cpu| path.to_string_lossy().contains(&format!("/cpu{cpu}/")));
        for file in files(seen.root.path()).into_iter().filter(|path| !other(path)) {
            for bad in HARMS {
                seen.start_again();
                let good = std::fs::read(&file).unwrap();
                // A current may be negative: drivers disagree about the sign of a discharge.
                if file.ends_with("current_now") && matches!(bad, Harm::Text("-274000")) {
                    continue;
                }
                harm(&file, bad);
                let after = seen.look_again();
                seen.expect_no_false_ease(&after, &format!("{name}: {} {bad:?}", file.display()));
                let _ = std::fs::remove_file(&file).or_else(|_| std::fs::remove_dir(&file));
                std::fs::write(&file, good).unwrap();
                tried += 1;
            }
        }
    }
    assert!(tried > 1000, "{tried}");
}

/// Every file that the clock lever reads or writes made bad, before it lowers the clock and after: nothing is faster than the law
/// allows, and the other processors get back what they had.
#[test]
fn no_bad_file_of_the_clock_makes_anything_faster_or_leaves_it_slow() {
    let cpu = |root: &Path, n: usize| root.join(format!("sys/devices/system/cpu/cpu{n}/cpufreq"));
    let apply = |lever: &mut ClockLever, duty: f64, what: &str| {
        let throttle = lever.apply(Throttle { duty, ..Throttle::default() });
        assert!(throttle.clock > 0.0 && throttle.clock <= 1.0, "{what}: {throttle:?}");
        assert!(throttle.duty * throttle.clock <= duty + 1e-6, "{what}: {throttle:?} for {duty}");
    };
    let mut faults = 0;
    for name in spec::names() {
        let seen = Seen::new(name);
        let root = seen.root.path();
        let files = ["scaling_max_freq", "scaling_min_freq", "cpuinfo_min_freq", "cpuinfo_max_freq", "scaling_available_frequencies"];
        let other = std::fs::read(cpu(root, 1).join("scaling_max_freq")).unwrap();
        let trim = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_string();
        for file in files.map(|file| cpu(root, 0).join(file)).iter().filter(|file| file.exists()) {
            for (bad, lowered_before) in HARMS.into_iter().flat_map(|bad| [(bad, false), (bad, true)]) {
                let what = format!("{name}: {} {bad:?}, lowered before: {lowered_before}", file.display());
                let good = std::fs::read(file).unwrap();
                let mut lever = ClockLever::new(root, &[]);
                if lowered_before {
                    apply(&mut lever, 0.5, &what);
                }
                harm(file, bad);
                lever.prepare();
                for duty in [0.4, 0.1, 1.0, 0.7] {
                    apply(&mut lever, duty, &what);
                }
                faults += usize::from(lever.fault().is_some());
                drop(lever);
                assert_eq!(trim(std::fs::read(cpu(root, 1).join("scaling_max_freq")).unwrap()), trim(other.clone()), "{what}");
                let _ = std::fs::remove_file(file).or_else(|_| std::fs::remove_dir(file));
                std::fs::write(file, good).unwrap();
                // What could not be put back is, once it can be.
                drop(ClockLever::new(root, &[]));
                assert_eq!(trim(std::fs::read(cpu(root, 0).join("scaling_max_freq")).unwrap()), trim(other.clone()), "{what}");
            }
        }
    }
    assert!(faults > 100, "{faults}");
}

/// The file of each quantity, on a board that has it, and a word of what is said about it.
#[test]
fn every_reading_that_fails_is_reported_with_its_file() {
    let cases = [
        ("pi4", Quantity::Temperature, "sys/class/thermal/thermal_zone0/temp", "/sys/class/thermal/thermal_zone0"),
        ("pi5", Quantity::Firmware, "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "get_throttled"),
        ("pi5", Quantity::UnderVoltage, "sys/class/hwmon/hwmon2/in0_lcrit_alarm", "hwmon2/in0_lcrit_alarm"),
        ("pi5", Quantity::Frequency, "sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq", "cpufreq"),
        ("orin-nano", Quantity::Power, "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input", "hwmon1/curr1_input"),
        ("agx-orin", Quantity::Power, "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in2_label", "ina3221"),
        ("mini-pc", Quantity::Power, "sys/class/powercap/intel-rapl:0/energy_uj", "intel-rapl:0/energy_uj"),
        ("mini-pc", Quantity::Power, "sys/class/powercap/intel-rapl:0/name", "intel-rapl:0"),
        ("laptop", Quantity::Power, "sys/class/power_supply/BAT0/current_now", "BAT0"),
        ("laptop", Quantity::Battery, "sys/class/power_supply/BAT0/capacity", "BAT0"),
        ("laptop", Quantity::Battery, "sys/class/power_supply/BAT0/type", "BAT0/type"),
    ];
    for (name, quantity, file, said) in cases {
        for bad in [Harm::Text(""), Harm::Directory, Harm::InputOutputError, Harm::Pipe] {
            let mut seen = Seen::new(name);
            harm(&seen.root.path().join(file), bad);
            let after = seen.look_again();
            let fault = after.fault(quantity).unwrap_or_else(|| panic!("{name}: {file} {bad:?} is no fault: {after:?}"));
            assert!(fault.path.contains(said), "{fault}");
        }
    }
}

#[test]
fn files_that_vanish_while_read_never_look_cool() {
    let mut seen = Seen::new("orin-nano");
    let hottest = seen.before.celsius.unwrap();
    let zones = seen.root.path().join("sys/class/thermal");
    let away = seen.root.path().join("away");
    let until = Instant::now() + SECOND;
    let mover = std::thread::spawn(move || {
        while Instant::now() < until {
            for zone in 0..6 {
                let zone = format!("thermal_zone{zone}");
                std::fs::rename(zones.join(&zone), &away).unwrap();
                std::thread::yield_now();
                std::fs::rename(&away, zones.join(&zone)).unwrap();
            }
        }
    });
    let mut known = 0;
    while Instant::now() < until {
        if let Some(celsius) = seen.look_again().celsius {
            assert!(celsius >= hottest, "{celsius} after {hottest}");
            known += 1;
        }
    }
    mover.join().unwrap();
    assert!(known > 0);
    assert_eq!(seen.look_again().celsius, Some(hottest));
}

#[test]
fn a_clock_that_jumps_moves_the_throttling_by_no_more_than_one_step() {
    let hot = Readings { celsius: Some(110.0), ..Readings::default() };
    let cool = Readings { celsius: Some(20.0), ..Readings::default() };
    let year = Duration::from_secs(365 * 86_400);
    let config = GovernorConfig::default();
    for (readings, most) in [(&hot, ATTACK), (&cool, RELEASE)] {
        let mut law = Law::new(&config);
        law.step(&hot, year);
        law.step(&hot, year + SECOND);
        for now in [year, Duration::ZERO, 3 * year, year, Duration::MAX] {
            let before = law.throttling();
            law.step(readings, now);
            let change = (law.throttling() - before).abs();
            assert!(change <= most * LONGEST_STEP + 1e-9, "{change} at {now:?}");
        }
    }
    // A sensor that failed over the jump is lost, not held.
    let mut law = Law::new(&config);
    law.step(&cool, SECOND);
    assert_eq!(law.step(&Readings::default(), year).reason, Reason::SensorLost);
}

/// A power that is a difference over time, when time goes back, is unknown rather than nothing.
#[test]
fn a_counter_read_at_an_earlier_time_is_a_fault() {
    let mut seen = Seen::new("mini-pc");
    seen.board.advance(1.0, 0.0);
    seen.tree.show(&seen.board, 0.0).unwrap();
    let readings = seen.sensors.read(Duration::ZERO);
    assert!(readings.watts.is_none() && readings.broken(Quantity::Power), "{readings:?}");
}

/// Nothing of the governor asks for the time of day: its clock is the monotonic one of `Instant`, which no one can set.
#[test]
fn the_governor_knows_no_time_of_day() {
    let sources = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/governor"));
    assert!(sources.len() > 10);
    for source in sources {
        let text = std::fs::read_to_string(&source).unwrap();
        for word in ["SystemTime", "jiff::", "Timestamp", "clock_gettime"] {
            assert!(!text.contains(word), "{}: {word}", source.display());
        }
    }
}
