//! Keeps the board within its temperature and power budget.
//!
//! [`readings`] asks the kernel, [`law`] turns what it says into a level, [`pace`] holds the inference threads to it,
//! [`energy`] counts joules, and [`thread`] runs the four once a period. `docs/governor.md` has the law as formulas.
//! [`crate::simulate`] has boards to try a budget on.

pub mod config;
pub mod energy;
pub mod law;
pub mod pace;
pub mod pacing;
pub mod readings;
mod signal;
pub mod thread;
pub mod throttle;

pub use config::{GovernorConfig, Level};
pub use pace::{Pace, PacedWorker, Permit};
pub use readings::{Fault, Probe, Readings, Sensors, probe};
pub use thread::{Governor, GovernorStatus};
pub use throttle::{Reason, Throttle};
