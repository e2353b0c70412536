//! The MQTT thread and the handle that the rest of the daemon has on it.
//!
//! One task polls the connection and awaits nothing else; what it learns goes through [`Core`], whose sends never wait.
//! A second one, the watchdog, looks at the clock. Publishers hand their messages over on their own threads.

use super::backoff::Backoff;
use super::config::Config;
use super::core::{Core, Delivery, Stats};
use super::inbound::{self, Intake, Rules};
use super::link::{self, End, Event, Fault, Inbound, Receiver, Sender};
use super::message::Message;
use super::plan::Plan;
use super::topics::Topics;
use crate::request::Ticket;
use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{self, Instant};

/// How long the goodbye to the old broker may take when the configuration changes.
const MOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A message that the broker will not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// Bytes of the packet, at most.
    pub size: usize,
    /// The broker's limit, or MQTT's.
    pub max: usize,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the message takes {} bytes, the broker takes at most {}", self.size, self.max)
    }
}

impl std::error::Error for TooLarge {}

struct Shared {
    core: Mutex<Core>,
    wake: Notify,
    /// Keyed, so that whoever sends requests cannot make two look the same.
    hasher: RandomState,
    node: String,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The daemon's end of the MQTT side. Clones share it; no method waits for the network, except [`Handle::stop`].
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// Starts the MQTT thread, which connects and goes on connecting by itself. `info` is published retained, as JSON. Errors:
/// a file of the configuration that cannot be read, a bad node name.
pub fn start(config: Config, node: &str, info: Vec<u8>, intake: impl Intake) -> Result<Handle, String> {
    let mut core = Core::new(Arc::new(Plan::new(config, node)?));
    core.set_info(info, Instant::now());
    let shared = Arc::new(Shared {
        core: Mutex::new(core),
        wake: Notify::new(),
        hasher: RandomState::new(),
        node: node.to_string(),
        thread: Mutex::new(None),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| format!("MQTT runtime: {e}"))?;
    let for_thread = shared.clone();
    let main = move || {
        let intake: SharedIntake = Rc::new(RefCell::new(Box::new(intake)));
        tokio::task::LocalSet::new().block_on(&runtime, run(for_thread, intake));
        // A name lookup can hang for minutes; nobody waits for it.
        runtime.shutdown_background();
    };
    let thread = std::thread::Builder::new().name("mqtt".into()).spawn(main).map_err(|e| format!("MQTT thread: {e}"))?;
    *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    Ok(Handle { shared })
}

impl Handle {
    /// Publishes a message of the daemon's own. It waits here while the broker is away; see [`Config::outbox_messages`].
    pub fn publish(&self, message: Message) -> Result<(), TooLarge> {
        self.fits(&message)?;
        self.shared.core().publish(message, Instant::now());
        Ok(())
    }

    /// Publishes the answer to a request. Every request is to be answered exactly once. After an error, answer something smaller.
    pub fn answer(&self, ticket: Ticket, message: Message) -> Result<(), TooLarge> {
        self.fits(&message)?;
        self.shared.core().answer(ticket, message, Instant::now());
        Ok(())
    }

    fn fits(&self, message: &Message) -> Result<(), TooLarge> {
        let (size, max) = (message.packet_size(), self.shared.core().max_packet());
        if size > max { Err(TooLarge { size, max }) } else { Ok(()) }
    }

    /// Replaces the retained description of the node, a JSON text.
    pub fn set_info(&self, info: Vec<u8>) {
        self.shared.core().set_info(info, Instant::now());
    }

    /// The topics of the present configuration.
    pub fn topics(&self) -> Topics {
        self.shared.core().plan.topics.clone()
    }

    pub fn stats(&self) -> Stats {
        self.shared.core().stats()
    }

    /// Leaves new requests with the broker from now on, while those at work are answered: the step before [`Handle::stop`].
    pub fn drain(&self) {
        self.shared.core().drain();
    }

    /// Goes on with another configuration: says goodbye to the broker and connects anew; what waits is kept. An error (a
    /// file that cannot be read) changes nothing.
    pub fn reconfigure(&self, config: Config) -> Result<(), String> {
        if self.shared.core().plan.config == config {
            return Ok(());
        }
        let plan = Arc::new(Plan::new(config, &self.shared.node)?);
        self.shared.core().leave(MOVE_TIMEOUT, Some(plan), Instant::now());
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Publishes `offline`, waits up to `within` until the broker acknowledged everything, and ends the thread. What is
    /// left in the returned numbers was not delivered.
    pub fn stop(&self, within: Duration) -> Stats {
        self.shared.core().leave(within, None, Instant::now());
        self.shared.wake.notify_one();
        let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the MQTT thread panicked");
        }
        self.stats()
    }
}

type SharedIntake = Rc<RefCell<Box<dyn Intake>>>;

/// The thread: one connection after the other until told to stop.
async fn run(shared: Arc<Shared>, intake: SharedIntake) {
    let mut plan = shared.core().plan.clone();
    let mut backoff = backoff(&plan);
    while !shared.core().finished(Instant::now()) {
        let current = shared.core().plan.clone();
        if !Arc::ptr_eq(&plan, &current) {
            plan = current;
            backoff = self::backoff(&plan);
        }
        let connection = Connection::new(&shared, &intake, &plan);
        // A task of its own: a panic ends the connection, not the thread.
        let end = tokio::task::spawn_local(connection.run()).await.unwrap_or_else(|e| End::new(Fault::Program, e.to_string()));
        let lasted = shared.core().disconnected(&end, Instant::now());
        if end.fault == Fault::Left {
            log::info!("{}", end.reason);
            continue;
        }
        backoff.connection_lasted(lasted.unwrap_or_default());
        let wait = backoff.wait(random());
        log::warn!("not connected to {}:{}: {}; next attempt in {wait:.1?}", plan.config.host, plan.config.port(), end.reason);
        pause(&shared, wait).await;
    }
}

fn backoff(plan: &Plan) -> Backoff {
    Backoff::new(plan.config.backoff_min.0, plan.config.backoff_max.0)
}

/// Uniform in 0..1; the standard library's hash keys are its only source of randomness.
fn random() -> f64 {
    (RandomState::new().hash_one(0) >> 11) as f64 / (1u64 << 53) as f64
}

/// Waits, but no longer than until the daemon wants to leave or must have left.
async fn pause(shared: &Shared, wait: Duration) {
    let until = Instant::now() + wait;
    let until = shared.core().leaving_until().map_or(until, |leave| leave.min(until));
    tokio::select! {
        _ = time::sleep_until(until) => {}
        _ = shared.wake.notified() => {}
    }
}

/// One connection from the first byte to the last.
struct Connection {
    shared: Arc<Shared>,
    intake: SharedIntake,
    plan: Arc<Plan>,
    rules: Rules,
    /// Connects only to make the broker forget the session.
    discard: bool,
}

impl Connection {
    fn new(shared: &Arc<Shared>, intake: &SharedIntake, plan: &Arc<Plan>) -> Connection {
        let config = &plan.config;
        let rules = Rules { max_payload: config.max_payload, response_prefixes: config.response_prefixes(), prefix: config.prefix.clone() };
        let discard = shared.core().must_discard_session();
        Connection { shared: shared.clone(), intake: intake.clone(), plan: plan.clone(), rules, discard }
    }

    async fn run(self) -> End {
        let status = self.plan.topics.status();
        let settings = match self.plan.settings(&status, self.discard) {
            Ok(settings) => settings,
            Err(reason) => return End::new(Fault::Refused, reason),
        };
        let (sender, receiver) = link::open(&settings);
        tokio::select! {
            end = self.receive(&sender, receiver) => end,
            end = self.watch() => end,
        }
    }

    /// Polls the connection and awaits nothing else.
    async fn receive(&self, sender: &Sender, mut receiver: Receiver) -> End {
        loop {
            let handled = match receiver.next().await {
                Ok(event) => self.handle(sender, event),
                Err(end) => Err(end),
            };
            if let Err(end) = handled {
                return end;
            }
        }
    }

    fn handle(&self, sender: &Sender, event: Event) -> Result<(), End> {
        let now = Instant::now();
        if event.is_inbound() {
            self.shared.core().heard(now);
        }
        match event {
            Event::Connected(_) if self.discard => {
                log::error!("the session held a message that cannot be received: discarded, with all that waited in it");
                self.shared.core().session_discarded();
                sender.disconnect();
            }
            Event::Connected(welcome) => {
                log::info!("connected as {} (session {})", self.plan.client_id(), if welcome.session_present { "resumed" } else { "new" });
                self.shared.core().connected(sender, &welcome, now);
            }
            Event::Publish(message) => self.deliver(message),
            Event::Sent(pkid) => self.shared.core().sent(pkid),
            Event::PubAck(pkid, verdict) => self.shared.core().puback(pkid, verdict)?,
            Event::SubAck(outcome) => self.shared.core().suback(outcome, now),
            Event::Closed => return Err(End::new(Fault::Left, "disconnected")),
            Event::Alive | Event::Other => {}
        }
        self.shared.core().pump(now);
        Ok(())
    }

    /// Passes a request on, without holding the lock: the intake may answer from within.
    fn deliver(&self, message: Inbound) {
        let received = std::time::Instant::now();
        let Inbound { topic, payload, correlation, response_topic, content_type, .. } = &message;
        let fingerprint = self.shared.hasher.hash_one((topic, payload, correlation, response_topic, content_type));
        let delivery = self.shared.core().arrived(&message, fingerprint);
        let Delivery::Run(ticket, model) = delivery else { return };
        let (request, problem) = inbound::request(message, &model, ticket, received, &self.plan.topics, &self.rules);
        let to = request.reply_to.clone();
        let mut intake = self.intake.borrow_mut();
        let reply = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match &problem {
            Some(problem) => Some(intake.refuse(&request, problem)),
            None => intake.request(request),
        }));
        match reply {
            Ok(Some(reply)) => self.shared.core().answer(ticket, reply.message(&to), Instant::now()),
            Ok(None) => {}
            Err(_) => {
                log::error!("taking a request for {model} panicked; it stays without an answer");
                self.shared.core().abandon(ticket);
            }
        }
    }

    /// Looks at the clock, and at once when the daemon wants to leave.
    async fn watch(&self) -> End {
        let tick = (self.plan.config.ack_timeout.0 / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            if let Some(end) = self.shared.core().check(Instant::now()) {
                return end;
            }
            tokio::select! {
                _ = time::sleep(tick) => {}
                _ = self.shared.wake.notified() => {}
            }
        }
    }
}
