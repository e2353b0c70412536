//! A board's heat and power: arithmetic only.
//!
//! Two thermal nodes, the die and the board around it with its heatsink:
//!
//! ```text
//! C_die  dT_die/dt  = P - (T_die - T_case) / R_die
//! C_case dT_case/dt = (T_die - T_case) / R_die - (T_case - T_ambient) / R_case
//! P = idle (1 + leakage (T_die - 50)) + active load f v(f)²
//! ```
//!
//! with `f` the clock over its maximum, which the firmware lowers from the soft to the hard temperature limit and others may cap, and
//! `v(f) = floor + (1 - floor) f` the voltage that goes with it, over its own maximum.

use super::spec::Spec;

/// Integration step in seconds, well below the time constant of every die.
const LONGEST_STEP: f64 = 0.1;

/// A board at work.
#[derive(Clone, Debug)]
pub struct Board {
    pub spec: Spec,
    /// Of the air around it; may be changed at any time.
    pub ambient: f64,
    /// Most that the clock may be, over its maximum; may be changed at any time.
    pub clock_cap: f64,
    die: f64,
    case: f64,
    load: f64,
    joules: f64,
}

impl Board {
    /// A board that has been idle for long.
    pub fn idle(spec: Spec, ambient: f64) -> Board {
        let mut board = Board { die: ambient, case: ambient, load: 0.0, joules: 0.0, spec, ambient, clock_cap: 1.0 };
        // The leakage feeds back on the temperature; the sequence converges quickly as its gain is far below 1.
        for _ in 0..50 {
            let watts = board.watts();
            board.case = ambient + watts * board.spec.cooling.case_resistance;
            board.die = board.case + watts * board.spec.cooling.die_resistance;
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
            let flow = (self.die - self.case) / self.spec.cooling.die_resistance;
            let loss = (self.case - self.ambient) / self.spec.cooling.case_resistance;
            self.die += dt * (watts - flow) / self.spec.cooling.die_capacity;
            self.case += dt * (flow - loss) / self.spec.cooling.case_capacity;
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
        let (model, clock) = (&self.spec.model, self.clock());
        let voltage = model.voltage_floor + (1.0 - model.voltage_floor) * clock;
        let idle = model.idle_watts * (1.0 + model.leakage * (self.die - 50.0)).max(0.1);
        idle + model.active_watts * self.load * clock * voltage * voltage
    }

    /// Energy since the start.
    pub fn joules(&self) -> f64 {
        self.joules
    }

    /// Clock over its maximum: an inference takes `1 / clock` times as long.
    pub fn clock(&self) -> f64 {
        self.firmware_clock().min(self.clock_cap)
    }

    /// The clock that the firmware allows at this temperature.
    pub fn firmware_clock(&self) -> f64 {
        let model = &self.spec.model;
        let excess = (self.die - model.soft_limit) / (model.hard_limit - model.soft_limit);
        1.0 - excess.clamp(0.0, 1.0) * (1.0 - model.least_clock)
    }

    /// What the temperature sensor shows.
    pub fn sensed(&self) -> f64 {
        (self.die / self.spec.model.sensor_step).round() * self.spec.model.sensor_step
    }

    /// The battery's charge in percent; none: it runs from the mains. It was full at the start.
    pub fn charge(&self) -> Option<f64> {
        let full = self.spec.model.battery_watt_hours? * 3600.0;
        Some((1.0 - self.joules / full).max(0.0) * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::Description;
    use super::*;

    fn idle(name: &str, cooling: Option<&str>, ambient: f64) -> Board {
        Board::idle(Description::named(name).unwrap().spec(cooling).unwrap(), ambient)
    }

    /// Logged every 10 s: pastebin 9zGtFR1e, `stress -c 4` on a Raspberry Pi 4 at 1.5 GHz.
    #[test]
    fn a_bare_pi_4_warms_up_as_one_that_was_logged() {
        const LOGGED: [f64; 27] = [
            52.0, 62.0, 64.0, 65.0, 67.0, 68.0, 70.0, 71.0, 71.0, 72.0, 72.0, 72.0, 73.0, 73.0, 74.0, 74.0, 74.0, 75.0, 76.0, 75.0, 75.0,
            76.0, 77.0, 76.0, 78.0, 77.0, 78.0,
        ];
        let mut board = idle("pi4", None, 25.0);
        for (i, logged) in LOGGED.into_iter().enumerate() {
            assert!((board.celsius() - logged).abs() <= 1.6, "after {} s: {:.1}, logged {logged}", i * 10, board.celsius());
            board.advance(10.0, 0.68);
        }
    }

    #[test]
    fn a_bare_pi_5_idles_near_50_degrees_and_reaches_the_firmwares_limit_within_minutes() {
        let mut board = idle("pi5", None, 22.0);
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
    fn a_fan_keeps_a_pi_5_between_the_measured_mean_and_peak() {
        let mut board = idle("pi5", Some("fan"), 22.0);
        board.advance(3600.0, 1.0);
        assert!((56.0..72.0).contains(&board.celsius()) && board.clock() == 1.0, "{}", board.celsius());
    }

    #[test]
    fn energy_is_power_over_time_and_empties_the_battery() {
        let mut board = idle("laptop", None, 25.0);
        let (idle, full) = (board.watts(), board.charge().unwrap());
        board.advance(10.0, 0.0);
        assert!((board.joules() - idle * 10.0).abs() < 0.1);
        board.advance(3600.0, 0.5);
        assert!(full == 100.0 && (1.0..99.0).contains(&board.charge().unwrap()));
        board.advance(36_000.0, 1.0);
        assert_eq!(board.charge(), Some(0.0));
    }
}
