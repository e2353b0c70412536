//! jouled: an inference daemon for small Linux boards.
#![deny(unsafe_code)]

pub mod codec;
pub mod config;
pub mod engine;
pub mod governor;
pub mod metrics;
pub mod mqtt;
pub mod notify;
pub mod progress;
pub mod queue;
pub mod rejection;
pub mod request;
pub mod source;
pub mod stage;
pub mod tensor;
