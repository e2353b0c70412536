//! Keeps the board within its temperature and power budget.
//!
//! [`readings`] asks the kernel, [`law`] turns what it says into a level, [`clock`] lowers the CPUs' clock where that is wanted,
//! [`pace`] holds the inference threads to the rest, [`energy`] counts joules, and [`thread`] runs them all once a period. `docs/governor.md` has the law as formulas.
//! [`crate::simulate`] has boards to try a budget on.

pub mod clock;
pub mod config;
pub mod energy;
pub mod law;
pub mod pace;
pub mod pacing;
pub mod readings;
mod signal;
pub mod thread;
pub mod throttle;

pub use clock::ClockLever;
pub use config::{GovernorConfig, Level};
pub use pace::{Pace, PacedWorker, Permit};
pub use readings::{Fault, Probe, Readings, Sensors, probe};
pub use thread::{Governor, GovernorStatus};
pub use throttle::{Reason, Throttle};
