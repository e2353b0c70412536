//! What systemd is told, over the socket that `Type=notify` services get; nothing happens outside of systemd.

use crate::progress::Progress;
use log::warn;
use sd_notify::NotifyState;
use std::time::Duration;

/// Talks to the service manager.
pub struct Notifier {
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads the watchdog interval from the environment.
    pub fn new() -> Notifier {
        Notifier { watchdog: sd_notify::watchdog_enabled() }
    }

    /// The longest that a worker may go without a finished inference, and a bound for idle self-tests: half the watchdog
    /// interval where there is one, otherwise 30 s.
    pub fn patience(&self) -> Duration {
        self.watchdog.unwrap_or(Duration::from_secs(60)) / 2
    }

    /// Models are loaded and intake is open.
    pub fn ready(&self) {
        send(&[NotifyState::Ready]);
    }

    /// A reload begins; `ready` ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(e) => warn!("cannot tell systemd of the reload: {e}"),
        }
    }

    /// The daemon drains and ends.
    pub fn stopping(&self) {
        send(&[NotifyState::Stopping]);
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        send(&[NotifyState::Status(text)]);
    }

    /// Feeds the watchdog if every worker finished an inference within the watchdog interval.
    pub fn alive(&self, progress: &Progress) {
        let Some(interval) = self.watchdog else { return };
        let oldest = progress.oldest();
        if oldest <= interval {
            send(&[NotifyState::Watchdog]);
        } else {
            warn!("a worker has finished no inference for {:.0} s: the watchdog is not fed", oldest.as_secs_f32());
        }
    }
}

impl Default for Notifier {
    fn default() -> Notifier {
        Notifier::new()
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        warn!("cannot notify systemd: {e}");
    }
}
