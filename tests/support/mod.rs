//! What the MQTT tests share.
#![allow(dead_code)]

pub mod daemon;
pub mod fake_broker;
pub mod mosquitto;
pub mod peer;
pub mod proxy;

use std::time::{Duration, Instant};

/// Longer than anything takes here even on a busy machine; only failing tests wait so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `done` says so.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A TCP port that is free now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
