//! What the inference threads share with the rest of the daemon.

use crate::codec::DecodeLimits;
use crate::engine::{Spread, Stages};
use crate::governor::Pace;
use crate::metrics::Metrics;
use crate::mqtt::{Message, Topics};
use crate::progress::Progress;
use crate::queue::{Queue, Sourced, Weighed};
use crate::registry::Registry;
use crate::request::{Request, Ticket};
use crate::source::Sample;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

impl Sourced for Sample {
    type Source = Arc<str>;

    fn source(&self) -> Arc<str> {
        self.source.clone()
    }
}

impl Weighed for Request {
    fn bytes(&self) -> usize {
        self.payload.len()
    }
}

/// Where answers go: the broker, or a test.
pub trait Outlet: Send + Sync {
    /// The answer to a request; the request is acknowledged once the answer is safe.
    fn answer(&self, ticket: Ticket, message: Message);

    /// The result of a sensor's sample.
    fn publish(&self, message: Message);
}

/// What a configuration determines for the inference threads. Immutable: a reload makes a new one.
pub struct Setup {
    pub registry: Registry,
    pub decode: DecodeLimits,
    /// Name of the model that each source feeds.
    pub feeds: HashMap<String, String>,
    /// Most cores of one inference.
    pub threads: usize,
    /// The CPUs that inference is kept on; empty for any.
    pub cores: Vec<usize>,
    /// What the workers go through together, instead of each on its own cores.
    pub stages: Option<Arc<Stages>>,
}

impl Setup {
    /// How worker `index` uses the cores.
    pub fn spread_of(&self, index: usize) -> Spread {
        match &self.stages {
            Some(stages) => Spread::Stages(stages.clone()),
            None => Spread::of_worker(index, self.threads, &self.cores),
        }
    }
}

/// One for the whole daemon, for its whole life.
pub struct Shared {
    pub queue: Queue<Request, Sample>,
    pub metrics: Metrics,
    pub progress: Progress,
    pub pace: Arc<Pace>,
    pub topics: Topics,
    /// Longest wait without an inference: after it a worker tests itself.
    pub patience: Duration,
    setup: RwLock<Arc<Setup>>,
    /// `f64` bits; NaN where the board's power cannot be read.
    joules: AtomicU64,
    closing: AtomicBool,
    stopping: AtomicBool,
}

impl Shared {
    pub fn new(queue: Queue<Request, Sample>, progress: Progress, topics: Topics, patience: Duration, setup: Setup) -> Shared {
        Shared {
            queue,
            metrics: Metrics::default(),
            progress,
            pace: Pace::new(),
            topics,
            patience,
            setup: RwLock::new(Arc::new(setup)),
            joules: AtomicU64::new(f64::NAN.to_bits()),
            closing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    pub fn setup(&self) -> Arc<Setup> {
        self.setup.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Workers see the new setup with their next piece of work.
    pub fn replace_setup(&self, setup: Setup) {
        *self.setup.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(setup);
    }

    /// Joules per inference over the last minute, where the board's power can be read.
    pub fn joules(&self) -> Option<f32> {
        let joules = f64::from_bits(self.joules.load(Ordering::Relaxed));
        joules.is_finite().then_some(joules as f32)
    }

    pub fn set_joules(&self, joules: Option<f64>) {
        self.joules.store(joules.unwrap_or(f64::NAN).to_bits(), Ordering::Relaxed);
    }

    /// True once no new work is taken in.
    pub fn closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Takes no new work in; what is in the queue is still answered.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// True once inference threads end, even with work left in the queue.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.pace.wake();
    }
}
