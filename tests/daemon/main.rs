//! The real binary with a real broker (apt package `mosquitto`) and the shipped models.

mod bad_input;
mod board;
mod commands;
mod delivery;
mod life;
mod sensors;
#[path = "../support/mod.rs"]
mod support;
mod throttle;
