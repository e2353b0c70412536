//! Signals of the operating system as events of the daemon.

use crate::daemon::Event;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// SIGHUP becomes a reload, SIGTERM and SIGINT a stop; a second SIGTERM or SIGINT ends the process at once.
/// The sender is for other reasons to stop.
pub fn events() -> std::io::Result<(SyncSender<Event>, Receiver<Event>)> {
    let (sender, receiver) = sync_channel(8);
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let from_signals = sender.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            let event = if signal == SIGHUP { Event::Reload } else { Event::Stop };
            if event == Event::Stop && std::mem::replace(&mut stopping, true) {
                // As a shell reports a process that a signal ended.
                std::process::exit(128 + signal);
            }
            // A full channel already holds events enough.
            let _ = from_signals.try_send(event);
        }
    })?;
    Ok((sender, receiver))
}
