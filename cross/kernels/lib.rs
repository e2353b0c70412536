//! The kernels of jouled by themselves, to be tested on other architectures without the dependencies of the daemon.

#![deny(unsafe_code)]
#![allow(dead_code, unused_imports, reason = "the daemon uses what the tests do not")]

#[path = "../../src/kernels/mod.rs"]
pub mod kernels;
