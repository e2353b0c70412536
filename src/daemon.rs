//! The daemon: builds the parts, connects them, reloads and ends them. What travels between them is in `lib.rs`.

use crate::config::{Config, ConfigError, InferenceConfig};
use crate::engine::{Stages, prune};
use crate::governor::Governor;
use crate::heap;
use crate::intake::{Door, SourceDoor};
use crate::metrics::Count;
use crate::mqtt::{self, Message, Topics};
use crate::notify::Notifier;
use crate::progress::Progress;
use crate::queue::Queue;
use crate::registry::{Registry, Unusable, reasons};
use crate::rejection::{Code, Rejection};
use crate::reports::{self, Info, Stats};
use crate::request::Ticket;
use crate::shared::{Outlet, Setup, Shared};
use crate::source;
use crate::worker::Worker;
use log::{error, info, warn};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The daemon looks at itself this often: watchdog, status line, energy.
const TICK: Duration = Duration::from_secs(1);
/// How long a stopping sensor thread is waited for.
const SOURCE_PATIENCE: Duration = Duration::from_secs(2);

/// What makes a running daemon do something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Read the configuration again (SIGHUP).
    Reload,
    /// Answer what is in the queue and end (SIGTERM, SIGINT).
    Stop,
}

/// Why the daemon does not start, or refuses a reload.
#[derive(Debug)]
pub enum Refused {
    Configuration(ConfigError),
    /// Models that do not load, labels or steps that do not fit them.
    Models(Vec<Unusable>),
    /// Keys that only a restart can change.
    NeedsRestart(Vec<&'static str>),
    /// The operating system refused a thread or a socket.
    System(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Configuration(e) => e.fmt(f),
            Refused::Models(unusable) => f.write_str(&reasons(unusable, "\n")),
            Refused::NeedsRestart(keys) => write!(f, "only a restart can change {}", keys.join(", ")),
            Refused::System(why) => f.write_str(why),
        }
    }
}

/// A running daemon.
pub struct Daemon {
    config: Config,
    root: PathBuf,
    started: Instant,
    shared: Arc<Shared>,
    mqtt: mqtt::Handle,
    governor: Governor,
    workers: Vec<JoinHandle<()>>,
    sources: Vec<source::Handle>,
    notifier: Notifier,
    next_stats: Instant,
}

impl Daemon {
    /// Loads the models, then opens intake. `root` is `/` outside of tests: devices and sysfs are read below it.
    pub fn start(config: Config, root: &Path) -> Result<Daemon, Refused> {
        let started = Instant::now();
        let notifier = Notifier::new();
        let setup = setup(&config)?;
        let topics = Topics::new(&config.mqtt.prefix, &config.node).map_err(Refused::System)?;
        let info = info_payload(&config, &setup, &topics);
        let progress = Progress::new(config.inference.workers);
        let shared = Arc::new(Shared::new(Queue::new(config.queue), progress, topics, notifier.patience(), setup));
        let governor =
            Governor::start(config.governor.clone(), root, &config.inference.cores, shared.pace.clone()).map_err(system("the governor"))?;
        let back = Arc::new(OnceLock::new());
        let door = Door::new(shared.clone(), back.clone());
        let mqtt = mqtt::start(config.mqtt.clone(), &config.node, info, door).map_err(Refused::System)?;
        let outlet: Arc<dyn Outlet> = Arc::new(mqtt.clone());
        // Nobody else sets it, so it is empty.
        let _ = back.set(outlet.clone());
        let workers = start_workers(config.inference.workers, &shared, &outlet)?;
        let sources = start_sources(&config, root, &shared)?;
        info!("{}: {} models, {} sources, ready after {:.0?}", config.node, config.models.len(), config.sources.len(), started.elapsed());
        notifier.ready();
        let next_stats = started + config.stats.period.0;
        Ok(Daemon { config, root: root.to_path_buf(), started, shared, mqtt, governor, workers, sources, notifier, next_stats })
    }

    /// Works until `Event::Stop` comes or the sender is gone, then drains. `path` is read on a reload.
    pub fn run(mut self, events: &Receiver<Event>, path: Option<&Path>) {
        loop {
            match events.recv_timeout(TICK) {
                Err(RecvTimeoutError::Timeout) => self.tick(),
                Ok(Event::Reload) => {
                    if let Some(path) = path {
                        self.reload(path);
                    }
                }
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.stop();
    }

    /// Applies the configuration at `path`, or nothing of it: a bad one changes nothing and says why.
    pub fn reload(&mut self, path: &Path) {
        self.notifier.reloading();
        match Config::load(path).map_err(Refused::Configuration).and_then(|config| self.apply(config)) {
            Ok(()) => {
                self.shared.metrics.add(Count::Reloads);
                info!("{} reloaded", path.display());
            }
            Err(refused) => {
                self.shared.metrics.add(Count::ReloadsRefused);
                error!("reload refused, nothing changed: {refused}");
            }
        }
        self.notifier.ready();
    }

    fn apply(&mut self, config: Config) -> Result<(), Refused> {
        let fixed = fixed_keys(&self.config, &config);
        if !fixed.is_empty() {
            return Err(Refused::NeedsRestart(fixed));
        }
        let setup = setup(&config)?;
        self.mqtt.reconfigure(config.mqtt.clone()).map_err(Refused::System)?;
        // From here on nothing can be refused.
        self.stop_sources();
        self.mqtt.set_info(info_payload(&config, &setup, &self.shared.topics));
        self.shared.replace_setup(setup);
        self.shared.queue.reconfigure(config.queue);
        self.governor.reconfigure(config.governor.clone());
        self.config = config;
        match start_sources(&self.config, &self.root, &self.shared) {
            Ok(sources) => self.sources = sources,
            Err(e) => error!("{e}"),
        }
        Ok(())
    }

    fn tick(&mut self) {
        let (governor, mqtt) = (self.governor.status(), self.mqtt.stats());
        self.shared.set_joules(governor.joules_per_inference);
        let (counts, depth) = (&self.shared.metrics, self.shared.queue.depth());
        self.notifier.status(&reports::status_line(self.started.elapsed(), counts, depth, &governor, &mqtt));
        self.notifier.alive(&self.shared.progress);
        if Instant::now() >= self.next_stats {
            self.next_stats = Instant::now() + self.config.stats.period.0;
            let report = to_json(&self.stats(&self.shared.setup()));
            self.publish_stats(report);
        }
    }

    fn publish_stats(&self, report: Vec<u8>) {
        let message = Message::latest(self.shared.topics.stats(), report, false).with_content_type("application/json");
        if let Err(e) = self.mqtt.publish(message) {
            warn!("stats: {e}");
        }
    }

    /// How the daemon does now.
    pub fn stats<'a>(&'a self, setup: &'a Setup) -> Stats<'a> {
        Stats {
            time: reports::now(),
            uptime_seconds: self.started.elapsed().as_secs(),
            counts: &self.shared.metrics,
            queue: self.shared.queue.depth(),
            models: reports::latencies(&setup.registry),
            governor: self.governor.status(),
            sources: self.sources.iter().map(source::Handle::status).collect(),
            mqtt: self.mqtt.stats(),
            resident_bytes: reports::resident_bytes(),
        }
    }

    /// Takes nothing more in, answers what is in the queue within the configured time, says goodbye to the broker.
    pub fn stop(mut self) {
        self.notifier.stopping();
        let until = Instant::now() + self.config.inference.drain.0;
        info!("stopping: up to {} for what is in the queue", self.config.inference.drain);
        self.mqtt.drain();
        self.shared.close();
        self.stop_sources();
        while self.workers.iter().any(|w| !w.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.stop();
        let depth = self.shared.queue.depth();
        if depth.requests > 0 {
            warn!("{} requests are left unanswered; the broker has them still", depth.requests);
        }
        // What the workers sent must reach the broker even when they took all the time.
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let left = self.mqtt.stop(left);
        if left.outbox_messages > 0 {
            warn!("{} messages did not reach the broker", left.outbox_messages);
        }
        self.governor.stop();
        info!("stopped");
    }

    fn stop_sources(&mut self) {
        self.sources.iter().for_each(source::Handle::stop);
        for source in std::mem::take(&mut self.sources) {
            let name = source.status().name;
            if !source.join(SOURCE_PATIENCE) {
                warn!("source {name}: its driver hangs; its thread is left behind");
            }
        }
    }
}

impl Outlet for mqtt::Handle {
    fn answer(&self, ticket: Ticket, message: Message) {
        let too_large = |e: mqtt::TooLarge| {
            let rejection = Rejection::new(Code::ResultTooLarge, e.to_string());
            let text = serde_json::json!({ "error": { "code": rejection.code, "message": rejection.message } });
            Message { payload: text.to_string().into(), content_type: Some("application/json".into()), ..message.clone() }
        };
        if let Err(e) = mqtt::Handle::answer(self, ticket, message.clone())
            && let Err(e) = mqtt::Handle::answer(self, ticket, too_large(e))
        {
            error!("an answer on {} is lost: {e}", message.topic);
        }
    }

    fn publish(&self, message: Message) {
        let topic = message.topic.clone();
        if let Err(e) = mqtt::Handle::publish(self, message) {
            warn!("a result on {topic} is lost: {e}");
        }
    }
}

/// Loads what the configuration names.
fn setup(config: &Config) -> Result<Setup, Refused> {
    let cache = config.inference.cache();
    let registry = Registry::load(&config.models, cache.as_deref()).map_err(Refused::Models)?;
    if let Some(folder) = cache {
        prune(&folder, |digest| registry.iter().any(|loaded| loaded.model.digest() == digest));
    }
    let feeds = config.sources.iter().map(|s| (s.name.clone(), s.model.clone())).collect();
    let InferenceConfig { threads, ref cores, stages, .. } = config.inference;
    let stages = if stages > 1 { Stages::new(stages, cores).map(Arc::new) } else { None };
    heap::give_back();
    Ok(Setup { registry, decode: config.decode.clone(), feeds, threads, cores: cores.clone(), stages })
}

/// Keys that differ and that a reload cannot apply.
fn fixed_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    let keys = [
        ("node", old.node != new.node),
        ("mqtt.prefix", old.mqtt.prefix != new.mqtt.prefix),
        ("inference.workers", old.inference.workers != new.inference.workers),
        ("inference.cores", old.inference.cores != new.inference.cores),
        ("inference.stages", old.inference.stages != new.inference.stages),
    ];
    keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

fn start_workers(count: usize, shared: &Arc<Shared>, outlet: &Arc<dyn Outlet>) -> Result<Vec<JoinHandle<()>>, Refused> {
    (0..count)
        .map(|index| {
            let worker = Worker::new(shared.clone(), outlet.clone(), index);
            let thread = std::thread::Builder::new().name(format!("infer {index}"));
            thread.spawn(move || worker.run()).map_err(system("an inference thread"))
        })
        .collect()
}

fn start_sources(config: &Config, root: &Path, shared: &Arc<Shared>) -> Result<Vec<source::Handle>, Refused> {
    let start = |source: &source::SourceConfig| source::start(source.clone(), root, SourceDoor(shared.clone()));
    config.sources.iter().map(|s| start(s).map_err(system("a source's thread"))).collect()
}

fn info_payload(config: &Config, setup: &Setup, topics: &Topics) -> Vec<u8> {
    let sources = config.sources.iter().map(|s| s.name.as_str()).collect();
    to_json(&Info::new(&config.node, &setup.registry, sources, topics))
}

/// Reports hold only numbers, text and maps with text keys, which JSON can always express.
fn to_json<T: serde::Serialize>(report: &T) -> Vec<u8> {
    serde_json::to_vec(report).unwrap_or_else(|e| {
        error!("a report could not be encoded: {e}");
        b"{}".to_vec()
    })
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> Refused {
    move |e| Refused::System(format!("cannot start {what}: {e}"))
}
