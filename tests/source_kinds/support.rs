//! What the tests share: a source from TOML whose windows arrive on a channel.

use jouled::config::problems::Checker;
use jouled::source::{Handle, Offered, Sample, SourceConfig, SourceStatus, State, start};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Far longer than anything here takes: only a failing test waits for it.
pub const LONG: Duration = Duration::from_secs(20);

/// Retries at once, so that tests are fast.
const RETRY: &str = "retry = { min = \"5ms\", max = \"20ms\" }\n";

pub fn config(toml: &str) -> SourceConfig {
    let config: SourceConfig = toml::from_str(&format!("name = \"motor\"\nmodel = \"vibration\"\n{RETRY}{toml}")).unwrap();
    let mut problems = Vec::new();
    config.check(&mut Checker::new(&mut problems));
    assert!(problems.is_empty(), "{problems:?}");
    config
}

/// A running source.
pub struct Rig {
    pub handle: Handle,
    samples: Receiver<Sample>,
}

pub fn run(toml: &str, root: &Path) -> Rig {
    let (sender, samples) = channel();
    let sink = move |sample| if sender.send(sample).is_ok() { Offered::Accepted } else { Offered::Dropped };
    let mut config = config(toml);
    config.resolve(root);
    Rig { handle: start(config, root, sink).unwrap(), samples }
}

impl Rig {
    /// The next window.
    pub fn sample(&self) -> Sample {
        self.samples.recv_timeout(LONG).unwrap_or_else(|_| panic!("no window; status {:?}", self.handle.status()))
    }

    /// The values of the next `count` windows, one after the other.
    pub fn values(&self, count: usize) -> Vec<f32> {
        (0..count).flat_map(|_| self.sample().data.to_f32()).collect()
    }

    /// Waits until the status is as wanted.
    pub fn wait(&self, wanted: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
        let deadline = Instant::now() + LONG;
        loop {
            let status = self.handle.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "status stays {status:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for a failure whose message holds `text`.
    pub fn fails_with(&self, text: &str) -> SourceStatus {
        self.wait(|s| s.state == State::FailedRetrying && s.last_error.as_ref().is_some_and(|e| e.contains(text)))
    }

    pub fn end(self) {
        assert!(self.handle.join(LONG), "the thread did not end");
    }
}
