//! What a source is doing, for stats and `status`.

use super::stream::{SourceError, Trouble};
use serde::{Serialize, Serializer};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Where a source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not opened yet.
    Waiting,
    /// Open.
    Running,
    /// The recording is over, or the source was stopped.
    Ended,
    /// Could not be opened or broke; is opened again after a delay.
    FailedRetrying,
}

/// A snapshot of one source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceStatus {
    pub name: String,
    /// As `kind` in the TOML.
    pub kind: &'static str,
    pub state: State,
    /// Since when it is in that state; RFC 3339 in UTC when serialized.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
    /// The last failure; stays when the source runs again.
    pub last_error: Option<String>,
    /// Rows read (ready windows where a recording holds those).
    pub samples: u64,
    /// Windows offered to the sink.
    pub windows: u64,
    /// Windows that the sink dropped.
    pub dropped: u64,
    /// Lines or rows that were skipped because they hold something else than finite numbers.
    pub malformed: u64,
    /// Failures: each is followed by a new attempt.
    pub retries: u64,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    match jiff::Timestamp::try_from(*time) {
        Ok(timestamp) => serializer.collect_str(&timestamp),
        Err(_) => serializer.serialize_none(),
    }
}

/// The status as the source's thread writes it and others read it.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<SourceStatus>>);

impl Shared {
    pub fn new(name: &str, kind: &'static str) -> Shared {
        Shared(Arc::new(Mutex::new(SourceStatus {
            name: name.to_string(),
            kind,
            state: State::Waiting,
            since: SystemTime::now(),
            last_error: None,
            samples: 0,
            windows: 0,
            dropped: 0,
            malformed: 0,
            retries: 0,
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, SourceStatus> {
        // Counters are valid at every instant, also after a panic in between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn enter(&self, state: State) {
        let mut status = self.lock();
        if status.state != state {
            status.state = state;
            status.since = SystemTime::now();
        }
    }

    /// Notes a failure. True if it is another one than last time, or the first since the source ran.
    pub fn fail(&self, error: &SourceError) -> bool {
        if error.trouble == Trouble::End {
            self.enter(State::Ended);
            return true;
        }
        let was_retrying = self.lock().state == State::FailedRetrying;
        self.enter(State::FailedRetrying);
        let mut status = self.lock();
        status.retries += 1;
        let news = !was_retrying || status.last_error.as_deref() != Some(error.message.as_str());
        status.last_error = Some(error.message.clone());
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serializes_as_documented() {
        let shared = Shared::new("motor", "iio");
        let error = SourceError::new(Trouble::Missing, "/dev/iio:device0: not there");
        assert!(shared.fail(&error));
        assert!(!shared.fail(&error), "the same failure again is no news");
        shared.lock().since = SystemTime::UNIX_EPOCH;
        let json = serde_json::to_value(&*shared.lock()).unwrap();
        assert_eq!(json["state"], "failed-retrying");
        assert_eq!(json["since"], "1970-01-01T00:00:00Z");
        assert_eq!(json["last_error"], "/dev/iio:device0: not there");
        assert_eq!(json["retries"], 2);
        shared.enter(State::Running);
        assert!(shared.fail(&error), "after it ran, a failure is news");
    }
}
