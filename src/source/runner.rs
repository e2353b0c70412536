//! One source's thread: open, read, window, offer; after a failure wait and open again.

use super::backoff;
use super::status::{Shared, SourceStatus, State};
use super::stream::{Batch, PATIENCE, Rows, Source, SourceError, Trouble};
use super::window::Windower;
use super::{Offered, Sample, Sink, SourceConfig};
use crate::tensor::Tensor;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Starts the thread of one source. `root` is `/` outside of tests: absolute device and file paths are taken below it.
/// Never fails for want of the device; the error is that of starting a thread.
pub fn start(config: SourceConfig, root: &Path, sink: impl Sink + 'static) -> io::Result<Handle> {
    let status = Shared::new(&config.name, config.kind.name());
    let stop = Stop::default();
    let (ended, done) = sync_channel::<()>(0);
    let (thread_status, thread_stop, root) = (status.clone(), stop.clone(), root.to_path_buf());
    thread::Builder::new().name(thread_name(&config.name)).spawn(move || {
        let _ended: SyncSender<()> = ended;
        let mut feed = Feed::new(&config, thread_status.clone(), sink);
        let run = || run(&config, &root, &thread_stop, &thread_status, &mut feed);
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            thread_status.lock().last_error = Some("its thread panicked; see the log".into());
        }
        thread_status.enter(State::Ended);
    })?;
    Ok(Handle { stop, status, done })
}

/// The kernel shows 15 bytes of it.
fn thread_name(source: &str) -> String {
    format!("src {}", source.replace('\0', "?"))
}

/// A running source. Dropping it asks the thread to stop and does not wait; [`Handle::join`] waits.
pub struct Handle {
    stop: Stop,
    status: Shared,
    done: Receiver<()>,
}

impl Handle {
    /// A snapshot.
    pub fn status(&self) -> SourceStatus {
        self.status.lock().clone()
    }

    /// Asks the thread to stop, which it does within [`PATIENCE`] unless a driver hangs.
    pub fn stop(&self) {
        self.stop.request();
    }

    /// Stops and waits for the thread to end; a driver that hangs is given up after `patience` and `false` comes back.
    pub fn join(self, patience: Duration) -> bool {
        self.stop.request();
        self.done.recv_timeout(patience) != Err(RecvTimeoutError::Timeout)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.request();
    }
}

/// Asks a source to stop, from any thread.
#[derive(Clone, Default)]
pub struct Stop(Arc<(Mutex<End>, Condvar)>);

#[derive(Default)]
struct End {
    requested: bool,
    at: Option<Instant>,
}

impl Stop {
    pub fn request(&self) {
        self.lock().requested = true;
        self.0.1.notify_all();
    }

    /// Requests it `time` from now.
    pub fn end_after(&self, time: Duration) {
        // A time beyond what instants hold never comes.
        self.lock().at = Instant::now().checked_add(time);
        self.0.1.notify_all();
    }

    pub fn requested(&self) -> bool {
        let end = self.lock();
        end.requested || end.at.is_some_and(|at| Instant::now() >= at)
    }

    /// Waits for `time` or until stopped.
    fn wait(&self, time: Duration) {
        let end = self.lock();
        let left = end.at.map_or(time, |at| time.min(at.saturating_duration_since(Instant::now())));
        drop(self.0.1.wait_timeout_while(end, left, |end| !end.requested));
    }

    fn lock(&self) -> MutexGuard<'_, End> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what a source gives.
pub(crate) trait Consumer {
    /// What comes next follows an opening: a gap may lie before it, and the rows may have another shape than before.
    fn begin(&mut self, rows: &Rows) -> Result<(), SourceError>;

    /// Takes a batch whose last row arrived at `taken`.
    fn take(&mut self, batch: &mut Batch, taken: Instant);
}

/// Runs a source until it is stopped or its recording is over, through any number of failures.
pub(crate) fn run(config: &SourceConfig, root: &Path, stop: &Stop, status: &Shared, consumer: &mut dyn Consumer) {
    let mut failures = 0;
    while !stop.requested() {
        let Err(error) = attempt(config, root, stop, status, consumer, &mut failures) else { return };
        let news = status.fail(&error);
        if error.trouble == Trouble::End {
            log::info!("source {}: {error}", config.name);
            return;
        }
        failures += 1;
        let delay = config.retry.delay(failures, backoff::jitter());
        let level = if news { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "source {}: {error}; next attempt in {delay:.1?}", config.name);
        stop.wait(delay);
    }
}

/// Opens the source and reads it until it fails, ends or is stopped, which alone is `Ok`.
fn attempt(
    config: &SourceConfig,
    root: &Path,
    stop: &Stop,
    status: &Shared,
    consumer: &mut dyn Consumer,
    failures: &mut u32,
) -> Result<(), SourceError> {
    let mut source = config.kind.as_dyn().open(root)?;
    status.enter(State::Running);
    let mut batch = Batch::default();
    let mut complaints = Complaints::default();
    let mut begun = false;
    let mut heard = Instant::now();
    while !stop.requested() {
        batch.clear();
        let outcome = source.read(&mut batch, PATIENCE);
        complaints.note(&config.name, &batch);
        status.lock().malformed += batch.malformed;
        if !batch.is_empty() {
            if !begun {
                consumer.begin(source.shape())?;
                begun = true;
            }
            heard = Instant::now();
            *failures = 0;
            count_rows(status, &batch, source.as_ref());
            consumer.take(&mut batch, heard);
        }
        outcome?;
        silent(config, heard)?;
    }
    Ok(())
}

fn count_rows(status: &Shared, batch: &Batch, source: &dyn Source) {
    let rows = batch.rows.len() / source.shape().channels.len().max(1);
    status.lock().samples += (rows + batch.windows.len()) as u64;
}

fn silent(config: &SourceConfig, heard: Instant) -> Result<(), SourceError> {
    match config.timeout {
        Some(timeout) if heard.elapsed() > timeout.0 => {
            Err(SourceError::new(Trouble::Silent, format!("gave nothing for more than {timeout} (timeout)")))
        }
        _ => Ok(()),
    }
}

/// Logs malformed rows, at most once in [`Complaints::EVERY`].
#[derive(Default)]
struct Complaints {
    logged: Option<Instant>,
    count: u64,
}

impl Complaints {
    const EVERY: Duration = Duration::from_secs(10);

    fn note(&mut self, source: &str, batch: &Batch) {
        let Some(complaint) = &batch.complaint else { return };
        self.count += batch.malformed;
        if self.logged.is_none_or(|at| at.elapsed() >= Complaints::EVERY) {
            log::warn!("source {source}: skipped {} malformed rows, the last: {complaint}", self.count);
            self.logged = Some(Instant::now());
            self.count = 0;
        }
    }
}

/// Cuts rows into windows and offers them to the sink.
struct Feed<S> {
    source: Arc<str>,
    window: usize,
    hop: usize,
    channels: usize,
    windower: Windower,
    sequence: u64,
    status: Shared,
    sink: S,
}

impl<S: Sink> Feed<S> {
    fn new(config: &SourceConfig, status: Shared, sink: S) -> Feed<S> {
        let (window, hop) = (config.window, config.hop());
        let windower = Windower::new(1, window, hop);
        Feed { source: config.name.as_str().into(), window, hop, channels: 1, windower, sequence: 0, status, sink }
    }

    fn offer(&mut self, data: Tensor, taken: Instant) {
        let sample = Sample { source: self.source.clone(), sequence: self.sequence, data, taken };
        self.sequence += 1;
        let offered = self.sink.offer(sample);
        let mut status = self.status.lock();
        status.windows += 1;
        status.dropped += u64::from(offered == Offered::Dropped);
    }
}

impl<S: Sink> Consumer for Feed<S> {
    fn begin(&mut self, rows: &Rows) -> Result<(), SourceError> {
        if rows.channels.is_empty() && self.window != 1 {
            let message = format!("the recording holds ready windows: expected window = 1, found {}", self.window);
            return Err(SourceError::new(Trouble::Format, message));
        }
        self.channels = rows.channels.len().max(1);
        self.windower = Windower::new(self.channels, self.window, self.hop);
        Ok(())
    }

    fn take(&mut self, batch: &mut Batch, taken: Instant) {
        for window in batch.windows.drain(..) {
            self.offer(window, taken);
        }
        let mut ready = Vec::new();
        let shape = [self.window, self.channels];
        self.windower.push(&batch.rows, |values| ready.extend(Tensor::from_f32(shape.to_vec(), values)));
        for window in ready {
            self.offer(window, taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_a_wait() {
        let stop = Stop::default();
        let other = stop.clone();
        let waiter = thread::spawn(move || other.wait(Duration::from_secs(3600)));
        stop.request();
        waiter.join().unwrap();
        assert!(stop.requested());
    }
}
