//! jouled: an inference daemon for small Linux boards.
#![deny(unsafe_code)]

pub mod codec;
pub mod config;
pub mod engine;
pub mod governor;
pub mod mqtt;
pub mod rejection;
pub mod request;
pub mod source;
pub mod stage;
pub mod tensor;
pub mod tensor_file;
