//! Boards that are not there: what a budget does to one, faster than real time.
//!
//! [`spec`] reads what a board is made of from one TOML file each below `boards/`, [`board`] is its heat and power (arithmetic
//! only), [`tree`] shows it in the files of a real one, and [`run`] closes the loop: the governor's own readings, law and
//! pacing against it. [`trace`] is what happened, as CSV and in a few figures; [`chart`] draws it.

pub mod board;
pub mod chart;
pub mod run;
pub mod spec;
pub mod trace;
pub mod tree;

pub use board::Board;
pub use run::{Load, Loop};
pub use spec::{Cooling, Description, Model, Spec};
pub use trace::Trace;
pub use tree::Tree;
