//! A simulated board: feels a load, warms up, and shows it in the files of a real one.
//!
//! Two thermal nodes, the die and the board around it with its heatsink:
//!
//! ```text
//! C_die  dT_die/dt  = P - (T_die - T_case) / R_die
//! C_case dT_case/dt = (T_die - T_case) / R_die - (T_case - T_ambient) / R_case
//! P = idle (1 + LEAKAGE (T_die - 50)) + active load f v(f)²
//! ```
//!
//! with `f` the clock over its maximum, which the firmware lowers from the soft to the hard temperature limit, and
//! `v(f) = VOLTAGE_FLOOR + (1 - VOLTAGE_FLOOR) f` the voltage that goes with it.

use super::readings::Readings;
use std::io;
use std::path::Path;

/// Growth of the idle power with the die's temperature, per degree: static leakage of a recent process.
const LEAKAGE: f64 = 0.005;
/// Voltage at the lowest clock over that at the highest.
const VOLTAGE_FLOOR: f64 = 0.8;
/// Integration step in seconds, well below the die's time constant.
const LONGEST_STEP: f64 = 0.1;

/// Which files the board has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Thermal zone, cpufreq, the firmware's bits; no power.
    RaspberryPi,
    /// Thermal zones, cpufreq, INA3221 with `VDD_IN`.
    Jetson,
    /// Thermal zone, cpufreq, RAPL.
    X86,
}

/// What a board is made of. Power in W, resistance in K/W, capacity in J/K, temperatures in degrees Celsius.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub name: &'static str,
    pub layout: Layout,
    pub cores: usize,
    /// Power without load, at 50 degrees.
    pub idle_watts: f64,
    /// What all cores add at the full clock.
    pub active_watts: f64,
    pub die_resistance: f64,
    pub die_capacity: f64,
    pub case_resistance: f64,
    pub case_capacity: f64,
    /// Step of the temperature sensor.
    pub sensor_step: f64,
    /// Where the firmware begins to lower the clock.
    pub soft_limit: f64,
    /// Where the clock is at its lowest.
    pub hard_limit: f64,
    /// That lowest clock over the highest.
    pub least_clock: f64,
    /// Highest clock in kHz.
    pub max_khz: u32,
}

/// Fitted to what reviews report of a bare board: idle about 27 K above the room, firmware throttling at 80 degrees within
/// some minutes of a full load in a warm room or a case.
pub const PI4_BARE: Spec = Spec {
    name: "Raspberry Pi 4, bare",
    layout: Layout::RaspberryPi,
    cores: 4,
    idle_watts: 2.7,
    active_watts: 3.7,
    die_resistance: 2.5,
    die_capacity: 3.0,
    case_resistance: 6.5,
    case_capacity: 34.0,
    sensor_step: 0.487,
    soft_limit: 80.0,
    hard_limit: 85.0,
    least_clock: 0.33,
    max_khz: 1_800_000,
};

/// Fitted to what reviews report of a bare board: idle at about 50 degrees in a room of 22, 80 degrees within a few minutes
/// of a full load.
pub const PI5_BARE: Spec = Spec {
    name: "Raspberry Pi 5, bare",
    layout: Layout::RaspberryPi,
    cores: 4,
    idle_watts: 3.0,
    active_watts: 6.0,
    die_resistance: 3.0,
    die_capacity: 3.0,
    case_resistance: 6.0,
    case_capacity: 40.0,
    sensor_step: 0.55,
    soft_limit: 80.0,
    hard_limit: 85.0,
    least_clock: 0.6,
    max_khz: 2_400_000,
};

/// The same board under a passive heatsink: half the resistance to the air, three times the capacity.
pub const PI5_HEATSINK: Spec = Spec {
    name: "Raspberry Pi 5, passive heatsink",
    die_resistance: 2.0,
    die_capacity: 4.0,
    case_resistance: 3.2,
    case_capacity: 120.0,
    ..PI5_BARE
};

/// The 15 W mode in a fanless case: a large capacity behind a small resistance.
pub const JETSON_ORIN_NANO: Spec = Spec {
    name: "Jetson Orin Nano, fanless case",
    layout: Layout::Jetson,
    cores: 6,
    idle_watts: 5.0,
    active_watts: 10.0,
    die_resistance: 0.8,
    die_capacity: 10.0,
    case_resistance: 2.4,
    case_capacity: 220.0,
    sensor_step: 0.03125,
    soft_limit: 95.0,
    hard_limit: 99.0,
    least_clock: 0.3,
    max_khz: 1_510_000,
};

/// A fanless PC: the layout of an x86 machine, whose power is a counter.
pub const X86_FANLESS: Spec = Spec {
    name: "x86 mini PC, fanless",
    layout: Layout::X86,
    cores: 4,
    idle_watts: 3.0,
    active_watts: 12.0,
    die_resistance: 1.0,
    die_capacity: 8.0,
    case_resistance: 2.2,
    case_capacity: 300.0,
    sensor_step: 1.0,
    soft_limit: 100.0,
    hard_limit: 105.0,
    least_clock: 0.3,
    max_khz: 3_400_000,
};

/// A board at work.
#[derive(Clone, Debug)]
pub struct Board {
    pub spec: Spec,
    /// Of the air around it; may be changed at any time.
    pub ambient: f64,
    die: f64,
    case: f64,
    load: f64,
    joules: f64,
}

impl Board {
    /// A board that has been idle for long.
    pub fn idle(spec: Spec, ambient: f64) -> Board {
        let mut board = Board { die: ambient, case: ambient, load: 0.0, joules: 0.0, spec, ambient };
        // The leakage feeds back on the temperature; the sequence converges quickly as its gain is far below 1.
        for _ in 0..50 {
            let watts = board.watts();
            board.case = ambient + watts * board.spec.case_resistance;
            board.die = board.case + watts * board.spec.die_resistance;
        }
        board
    }

    /// Time passes: `seconds` under `load`, the share of all cores that is busy, 0 to 1.
    pub fn advance(&mut self, seconds: f64, load: f64) {
        self.load = load.clamp(0.0, 1.0);
        let mut left = seconds;
        while left > 0.0 {
            let dt = left.min(LONGEST_STEP);
            let watts = self.watts();
            let flow = (self.die - self.case) / self.spec.die_resistance;
            let loss = (self.case - self.ambient) / self.spec.case_resistance;
            self.die += dt * (watts - flow) / self.spec.die_capacity;
            self.case += dt * (flow - loss) / self.spec.case_capacity;
            self.joules += watts * dt;
            left -= dt;
        }
    }

    /// The die's true temperature.
    pub fn celsius(&self) -> f64 {
        self.die
    }

    /// Power now.
    pub fn watts(&self) -> f64 {
        let clock = self.clock();
        let voltage = VOLTAGE_FLOOR + (1.0 - VOLTAGE_FLOOR) * clock;
        let idle = self.spec.idle_watts * (1.0 + LEAKAGE * (self.die - 50.0)).max(0.1);
        idle + self.spec.active_watts * self.load * clock * voltage * voltage
    }

    /// Energy since the start.
    pub fn joules(&self) -> f64 {
        self.joules
    }

    /// Clock over its maximum, as the firmware allows: an inference takes `1 / clock` times as long.
    pub fn clock(&self) -> f64 {
        let excess = (self.die - self.spec.soft_limit) / (self.spec.hard_limit - self.spec.soft_limit);
        1.0 - excess.clamp(0.0, 1.0) * (1.0 - self.spec.least_clock)
    }

    /// What the temperature sensor shows.
    pub fn sensed(&self) -> f64 {
        (self.die / self.spec.sensor_step).round() * self.spec.sensor_step
    }

    /// What a look at the board's files gives, without the files.
    pub fn readings(&self) -> Readings {
        let pi = self.spec.layout == Layout::RaspberryPi;
        let source = match self.spec.layout {
            Layout::RaspberryPi => None,
            Layout::Jetson => Some("ina3221"),
            Layout::X86 => Some("rapl"),
        };
        Readings {
            celsius: Some(self.sensed()),
            thermal_zone: Some("cpu-thermal".to_string()),
            watts: source.map(|_| self.watts()),
            power_source: source,
            joules: (self.spec.layout == Layout::X86).then_some(self.joules),
            under_voltage: pi.then_some(false),
            firmware_throttled: pi.then_some(self.clock() < 1.0),
            frequency_ratio: Some(self.clock()),
            ..Readings::default()
        }
    }

    /// Writes the board's files below `root`, creating what is missing.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        let celsius = format!("{:.0}\n", self.sensed() * 1000.0);
        write(root, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")?;
        write(root, "sys/class/thermal/thermal_zone0/temp", &celsius)?;
        for core in 0..self.spec.cores {
            let at = format!("sys/devices/system/cpu/cpu{core}/cpufreq");
            let khz = f64::from(self.spec.max_khz) * self.clock();
            write(root, &format!("{at}/scaling_cur_freq"), &format!("{khz:.0}\n"))?;
            write(root, &format!("{at}/scaling_max_freq"), &format!("{}\n", self.spec.max_khz))?;
            write(root, &format!("{at}/cpuinfo_max_freq"), &format!("{}\n", self.spec.max_khz))?;
        }
        match self.spec.layout {
            Layout::RaspberryPi => self.write_firmware(root),
            Layout::Jetson => self.write_rails(root),
            Layout::X86 => self.write_counter(root),
        }
    }

    /// Clock capped and throttled while the firmware lowers it.
    fn write_firmware(&self, root: &Path) -> io::Result<()> {
        let bits = if self.clock() < 1.0 { 0b110 } else { 0 };
        write(root, "sys/devices/platform/soc/soc:firmware/get_throttled", &format!("{bits:x}\n"))
    }

    fn write_rails(&self, root: &Path) -> io::Result<()> {
        let at = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1";
        write(root, &format!("{at}/in1_label"), "VDD_IN\n")?;
        write(root, &format!("{at}/in1_input"), "5000\n")?;
        write(root, &format!("{at}/curr1_input"), &format!("{:.0}\n", self.watts() / 5.0 * 1000.0))
    }

    fn write_counter(&self, root: &Path) -> io::Result<()> {
        const RANGE: u64 = 262_143_328_850;
        let at = "sys/class/powercap/intel-rapl:0";
        write(root, &format!("{at}/name"), "package-0\n")?;
        write(root, &format!("{at}/max_energy_range_uj"), &format!("{RANGE}\n"))?;
        write(root, &format!("{at}/energy_uj"), &format!("{}\n", (self.joules * 1e6) as u64 % RANGE))
    }
}

fn write(root: &Path, path: &str, text: &str) -> io::Result<()> {
    let path = root.join(path);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_pi_5_idles_near_50_degrees_and_reaches_the_firmwares_limit_within_minutes() {
        let mut board = Board::idle(PI5_BARE, 22.0);
        assert!((45.0..55.0).contains(&board.celsius()), "{}", board.celsius());
        let before = board.celsius();
        board.advance(60.0, 0.0);
        assert!((board.celsius() - before).abs() < 0.01, "idle is steady");
        board.advance(300.0, 1.0);
        assert!(board.celsius() > 80.0 && board.clock() < 1.0, "{}", board.celsius());
        board.advance(3600.0, 1.0);
        assert!(board.celsius() < 90.0, "the firmware holds it: {}", board.celsius());
    }

    #[test]
    fn energy_is_power_over_time() {
        let mut board = Board::idle(JETSON_ORIN_NANO, 25.0);
        let idle = board.watts();
        board.advance(10.0, 0.0);
        assert!((board.joules() - idle * 10.0).abs() < 0.1);
        board.advance(0.001, 1.0);
        assert!((board.watts() - idle - 10.0).abs() < 0.1);
    }
}
