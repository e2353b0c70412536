//! What doctor says of each board, in its own words.

use jouled::config::Config;
use jouled::doctor::Diagnosis;
use jouled::simulate::{Board, Description, Tree};
use std::path::Path;

/// A board in its files, idle in air of `ambient` degrees.
fn tree(name: &str, cooling: Option<&str>, ambient: f64) -> tempfile::TempDir {
    let (description, root) = (Description::named(name).unwrap(), tempfile::tempdir().unwrap());
    let board = Board::idle(description.spec(cooling).unwrap(), ambient);
    Tree::lay_out(&description, &board, root.path()).unwrap();
    root
}

fn write(root: &Path, path: &str, text: &str) {
    std::fs::write(root.join(path), text).unwrap();
}

/// What doctor says with a configuration of this governor; its broker refuses connections.
fn configured(root: &Path, governor: &str) -> Diagnosis {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits.onnx");
    let file = root.join("jouled.toml");
    let broker = "[mqtt]\nhost = \"127.0.0.1\"\nport = 1\n";
    let model = format!("[[model]]\nname = \"digits\"\npath = \"{}\"\n", model.display());
    std::fs::write(&file, format!("node = \"pi\"\n{broker}[governor]\n{governor}\n{model}")).unwrap();
    Diagnosis::new(root, Some(Config::load(&file).map_err(|e| e.to_string())))
}

/// A board and its cooling, what is said about it, and the advice.
type Case<'a> = (&'a str, Option<&'a str>, &'a [&'a str], &'a [&'a str]);

const NO_POWER: &str = "No power can be read: results carry no joules, and `max_watts` has no effect.";

#[test]
fn every_board_is_told_what_it_is_what_it_shows_and_what_slows_it_down() {
    const PI: &str =
        "jouled can read its temperature, supply voltage, firmware throttling, clock frequency; not its power, battery charge.";
    const PI_FIRMWARE: &str =
        "Its firmware lowers the clock from 80 °C on, to the lowest at 85 °C, and whenever the supply's voltage is too low.";
    const PI_BUDGETS: &str = "With its defaults jouled slows itself down above 75 °C (max_celsius), while the firmware reports a low voltage or a lowered clock.";
    const JETSON: &str =
        "jouled can read its temperature, power, clock frequency; not its battery charge, supply voltage, firmware throttling.";
    const BUDGETS: &str = "With its defaults jouled slows itself down above 75 °C (max_celsius).";
    const PROCESSOR: &str = "The processor lowers its clock by itself near its own limit, mostly 95 to 105 °C.";
    let expected: [Case; 7] = [
        (
            "pi4",
            None,
            &[
                "This is a Raspberry Pi 4 Model B Rev 1.4 with 4 cores at up to 1800 MHz, 3793 MiB of memory and no fan that the kernel knows.",
                PI,
                PI_FIRMWARE,
                "The kernel switches the board off at 110 °C (the critical trip of cpu-thermal).",
                PI_BUDGETS,
            ],
            &[NO_POWER],
        ),
        (
            "pi5",
            Some("fan"),
            &[
                "This is a Raspberry Pi 5 Model B Rev 1.0 with 4 cores at up to 2400 MHz, 8052 MiB of memory and a fan.",
                PI,
                PI_FIRMWARE,
                "The kernel switches the board off at 110 °C (the critical trip of cpu-thermal).",
                PI_BUDGETS,
            ],
            &[NO_POWER],
        ),
        (
            "jetson-nano",
            None,
            &[
                "This is an NVIDIA Jetson Nano Developer Kit with 4 cores at up to 1479 MHz, 3964 MiB of memory and no fan that the kernel knows.",
                JETSON,
                "The kernel lowers the clock from 97 °C on (a passive trip of CPU-therm).",
                "The kernel switches the board off at 102 °C (the critical trip of CPU-therm).",
                BUDGETS,
            ],
            &[],
        ),
        (
            "orin-nano",
            Some("fan"),
            &[
                "This is an NVIDIA Jetson Orin Nano Developer Kit with 6 cores at up to 1510 MHz, 7619 MiB of memory and a fan.",
                JETSON,
                "The kernel lowers the clock from 95 °C on (a passive trip of cpu-thermal).",
                "The kernel switches the board off at 104.5 °C (the critical trip of cpu-thermal).",
                BUDGETS,
            ],
            &[],
        ),
        (
            "agx-orin",
            Some("fan"),
            &[
                "This is an NVIDIA Jetson AGX Orin Developer Kit with 8 cores at up to 1728 MHz, 30602 MiB of memory and a fan.",
                JETSON,
                "The kernel lowers the clock from 95 °C on (a passive trip of cpu-thermal).",
                "The kernel switches the board off at 104.5 °C (the critical trip of cpu-thermal).",
                BUDGETS,
            ],
            &[],
        ),
        (
            "laptop",
            None,
            &[
                "This is an Example Laptop 14 with 4 cores at up to 3400 MHz, 15716 MiB of memory and no fan that the kernel knows.",
                "jouled can read its temperature, power, battery charge, clock frequency; not its supply voltage, firmware throttling.",
                "The kernel switches the board off at 105 °C (the critical trip of acpitz).",
                PROCESSOR,
                BUDGETS,
            ],
            &[],
        ),
        (
            "mini-pc",
            None,
            &[
                "This is an Example Mini PC with 4 cores at up to 3400 MHz, 7903 MiB of memory and no fan that the kernel knows.",
                JETSON,
                PROCESSOR,
                BUDGETS,
            ],
            &[],
        ),
    ];
    for (name, cooling, about, advice) in expected {
        let root = tree(name, cooling, 20.0);
        let said = Diagnosis::new(root.path(), None);
        assert_eq!(said.about, about, "{name}");
        assert_eq!(said.advice, advice, "{name}");
        let text = said.to_string();
        assert!(text.starts_with(about[0]) && about.iter().all(|sentence| text.contains(sentence)), "{text}");
    }
}

#[test]
fn a_hot_board_with_a_weak_supply_is_told_what_to_change() {
    let root = tree("pi5", None, 50.0);
    write(root.path(), "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "50005\n");
    for cpu in 0..4 {
        write(root.path(), &format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"), "powersave\n");
        write(root.path(), &format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_max_freq"), "1500000\n");
    }
    let advice = Diagnosis::new(root.path(), None).advice;
    let expected = [
        "The supply's voltage is too low now, and the firmware then lowers the clock: use one of 5 V and 5 A, with a short cable.",
        "It is at 81 °C, where jouled slows itself down: a heatsink or a fan lets it do more (`jouled simulate --board pi5 --fan` shows \
         how much).",
        "The cpufreq governor `powersave` keeps the clock at its lowest: set `schedutil` or `ondemand` in scaling_governor.",
        "The clock is capped at 1500 of 2400 MHz (scaling_max_freq): a power mode, a trip that is active, or jouled itself.",
        NO_POWER,
    ];
    assert_eq!(advice, expected);
    let past = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled";
    let cool = tree("pi5", Some("fan"), 20.0);
    write(cool.path(), past, "10000\n");
    assert!(Diagnosis::new(cool.path(), None).advice[0].starts_with("The supply's voltage was too low since the last boot"));
    write(cool.path(), past, "60000\n");
    let fan = "The firmware has lowered the clock since the last boot: see that its fan turns and its air is cool.";
    assert_eq!(Diagnosis::new(cool.path(), None).advice[0], fan);
}

#[test]
fn budgets_that_the_board_cannot_keep_are_named() {
    let root = tree("pi4", None, 20.0);
    let said = configured(root.path(), "max_celsius = 82\nmax_watts = 5\nmin_battery_percent = 20\nthermal_zone = \"soc\"");
    assert!(said.about[4].starts_with("As configured, jouled slows itself down above 82 °C (max_celsius), while"), "{:?}", said.about);
    for expected in [
        "max_celsius = 82 is not below the 80 °C at which the board slows down by itself: 75 lets jouled be first.",
        "max_watts has no effect: no power can be read.",
        "min_battery_percent has no effect: there is no battery whose charge can be read.",
        "thermal_zone = \"soc\" cannot be read: /sys/class/thermal: no zone is of type `soc`, there are: cpu-thermal. jouled then runs at its \
         safe level.",
    ] {
        assert!(said.advice.iter().any(|sentence| sentence == expected), "{expected} is missing in {:#?}", said.advice);
    }
    let laptop = tree("laptop", None, 20.0);
    let said = configured(laptop.path(), "max_watts = 15\nmin_battery_percent = 20");
    assert_eq!(
        said.about[4],
        "As configured, jouled slows itself down above 75 °C (max_celsius), above 15 W (max_watts), on battery from a charge of 35 % \
         down, to the slowest at 20 % (min_battery_percent)."
    );
    assert_eq!(said.advice.len(), 1, "only the broker is missing: {:?}", said.advice);
    let off = configured(laptop.path(), "enabled = false");
    assert_eq!(off.about[4], "jouled does not slow itself down: the governor is switched off (enabled = false).");
}

#[test]
fn a_clock_that_cannot_be_lowered_is_named_with_its_file() {
    let root = tree("pi5", Some("fan"), 20.0);
    let advice = |governor: &str| configured(root.path(), governor).advice.join("\n");
    let file = "sys/devices/system/cpu/cpu3/cpufreq/scaling_max_freq";
    assert!(!advice("lower_clock = true").contains("lower_clock"));
    write(root.path(), file, "fast");
    let expected = format!("lower_clock = true has no effect: /{file}: expected a number, found `fast`.");
    assert!(advice("lower_clock = true").contains(&expected), "{}", advice("lower_clock = true"));
    assert!(!advice("lower_clock = false").contains("lower_clock"));
    assert!(!advice("lower_clock = true\nenabled = false").contains("lower_clock"));
    std::fs::remove_dir_all(root.path().join("sys/devices/system/cpu")).unwrap();
    assert!(advice("lower_clock = true").contains("the kernel does not set this machine's clock"));
}

/// What fails is said with its file, and nothing ends the command.
#[test]
fn a_board_whose_files_are_bad_is_still_told_something() {
    for name in jouled::simulate::spec::names() {
        let root = tree(name, None, 20.0);
        let zones = std::fs::read_dir(root.path().join("sys/class/thermal")).unwrap();
        for zone in zones.map(|zone| zone.unwrap().path()).filter(|zone| zone.join("temp").exists()) {
            std::fs::write(zone.join("temp"), "-274000\n").unwrap();
        }
        std::fs::remove_dir_all(root.path().join("proc")).unwrap();
        let said = Diagnosis::new(root.path(), None);
        assert!(said.advice.iter().any(|sentence| sentence.starts_with("No temperature can be read")), "{name}: {:?}", said.advice);
        assert!(said.readings.iter().any(|probe| probe.path.contains("thermal_zone") && probe.why_not.is_some()), "{name}");
        assert!(said.to_string().contains("-274 is not within 0 to 125"), "{name}: {said}");
    }
}
