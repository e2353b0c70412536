//! An inference thread: waits for work, keeps the governor's pace, runs the model, sends the answer.

use crate::asker::{Asker, refuse};
use crate::codec::encode::Throttle as ThrottleReport;
use crate::codec::{Input, Picture, ResultMessage, Timing, decode};
use crate::engine::Spread;
use crate::engine::affinity::keep_on;
use crate::governor::{PacedWorker, Permit, Reason, Throttle};
use crate::metrics::Count;
use crate::queue::Taken;
use crate::registry::{Loaded, Registry};
use crate::rejection::{Code, Rejection};
use crate::request::Request;
use crate::runner::Runner;
use crate::shared::{Outlet, Setup, Shared};
use crate::source::Sample;
use crate::stage::Answer;
use crate::tensor::{Dtype, Tensor};
use jiff::Timestamp;
use log::{error, warn};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// A wait for the pace shorter than this is not reported as one.
const NOTABLE_WAIT: Duration = Duration::from_millis(1);
/// A worker looks at least this often whether it should end.
const GLANCE: Duration = Duration::from_millis(250);

/// One thread's state.
pub struct Worker {
    shared: Arc<Shared>,
    outlet: Arc<dyn Outlet>,
    index: usize,
    place: PacedWorker,
    setup: Arc<Setup>,
    runners: HashMap<String, Runner>,
    last_inference: Instant,
}

/// One piece of work on its way through.
struct Journey {
    throttle: Throttle,
    waited: bool,
    timing: Timing,
}

impl Worker {
    /// `index` is the worker's clock in `shared.progress`.
    pub fn new(shared: Arc<Shared>, outlet: Arc<dyn Outlet>, index: usize) -> Worker {
        let (place, setup) = (shared.pace.worker(), shared.setup());
        Worker { shared, outlet, index, place, setup, runners: HashMap::new(), last_inference: Instant::now() }
    }

    /// Works until the daemon stops, or is closing and the queue is empty.
    pub fn run(mut self) {
        if let Spread::Threads { cores, .. } = self.setup.spread_of(self.index) {
            cores.first().into_iter().for_each(|&core| keep_on(&[core]));
        }
        self.prepare();
        while !self.shared.stopping() {
            self.follow_setup();
            if self.shared.queue.wait(GLANCE.min(self.shared.patience)) {
                self.next();
            } else if self.shared.closing() {
                break;
            }
            self.prove_life();
        }
    }

    /// Allocates every model's buffers before work comes, rather than with the first request.
    fn prepare(&mut self) {
        let names: Vec<String> = self.setup.registry.names().map(str::to_string).collect();
        for name in names {
            if let Err(e) = self.runner(&name) {
                error!("model {name}: {e}");
            }
        }
        self.finished_inference();
    }

    fn follow_setup(&mut self) {
        let setup = self.shared.setup();
        if !Arc::ptr_eq(&setup, &self.setup) {
            self.setup = setup;
            self.runners.clear();
            self.prepare();
        }
    }

    /// Waits for leave, then takes whatever is most urgent by then.
    fn next(&mut self) {
        let (shared, last) = (self.shared.clone(), self.last_inference);
        let give_up = || shared.stopping() || last.elapsed() > shared.patience || shared.queue.any_request(is_late);
        let Some(permit) = self.place.acquire(give_up) else { return self.answer_late() };
        let Some(work) = self.shared.queue.take() else { return };
        let waited = permit.waited >= NOTABLE_WAIT;
        if waited {
            self.shared.metrics.add(Count::Paced);
        }
        let received = match &work {
            Taken::Request(request) => request.received,
            Taken::Sample(sample) => sample.taken,
        };
        let timing = Timing { queue: received.elapsed(), ..Timing::default() };
        let journey = Journey { throttle: permit.throttle.clone(), waited, timing };
        match work {
            Taken::Request(request) => self.answer_request(&request, journey, permit),
            Taken::Sample(sample) => {
                self.answer_sample(&sample, journey, permit);
                self.shared.queue.finish(&sample.source);
            }
        }
    }

    /// Answers requests whose deadline has passed at once, not only when the pace would allow an inference.
    fn answer_late(&self) {
        for request in self.shared.queue.take_requests(is_late) {
            self.shared.metrics.add(Count::Errors);
            let rejection = self.expired(&request);
            self.outlet.answer(request.ticket, refuse(&request, &rejection));
        }
    }

    fn expired(&self, request: &Request) -> Rejection {
        self.shared.metrics.add(Count::Expired);
        Rejection::new(Code::Expired, format!("the message expired; it waited {:.3} s", request.received.elapsed().as_secs_f64()))
    }

    fn answer_request(&mut self, request: &Request, mut journey: Journey, permit: Permit) {
        let mut asker = Asker::of_request(request);
        let outcome = self.on_request(request, &mut asker, &mut journey);
        self.settle(&outcome, permit, &journey);
        let message = match &outcome {
            Ok((answer, ran)) => asker.result(&self.report(&asker, answer, ran, &journey)),
            Err(rejection) if asker.id.is_none() => refuse(request, rejection),
            Err(rejection) => asker.error(rejection),
        };
        self.outlet.answer(request.ticket, message);
    }

    fn answer_sample(&mut self, sample: &Sample, mut journey: Journey, permit: Permit) {
        let Some(model) = self.setup.feeds.get(&*sample.source).cloned() else { return };
        let asker = Asker::of_sample(sample, &model, &self.shared.topics);
        let input = sample_input(&sample.data);
        let outcome = self.infer(&model, &[input], Some(&sample.source), &mut journey);
        self.settle(&outcome, permit, &journey);
        let message = match &outcome {
            Ok((answer, ran)) => asker.result(&self.report(&asker, answer, ran, &journey)),
            Err(rejection) => asker.error(rejection),
        };
        self.outlet.publish(message);
    }

    /// Decodes and infers; the id goes to the asker as soon as it is known.
    fn on_request(&mut self, request: &Request, asker: &mut Asker, journey: &mut Journey) -> Result<(Answer, Arc<Loaded>), Rejection> {
        if is_late(request) {
            return Err(self.expired(request));
        }
        let start = Instant::now();
        let loaded = self.loaded(&request.model)?;
        let decoded = decode(&request.payload, request.content_type.as_deref(), loaded.model.inputs(), &self.setup.decode)?;
        asker.id = decoded.id;
        journey.timing.pre = start.elapsed();
        self.infer(&request.model, &decoded.inputs, None, journey)
    }

    /// Runs the model, or its lighter one where the governor asks for that. Gives back which one ran.
    fn infer(
        &mut self,
        model: &str,
        inputs: &[Input],
        source: Option<&str>,
        journey: &mut Journey,
    ) -> Result<(Answer, Arc<Loaded>), Rejection> {
        let loaded = self.loaded(model)?;
        let name = if journey.throttle.lighter_model { loaded.lighter.as_deref().unwrap_or(model) } else { model };
        let runner = self.runner(name)?;
        let run = AssertUnwindSafe(|| runner.run(inputs, source, &mut journey.timing));
        let answer =
            catch_unwind(run).unwrap_or_else(|_| Err(Rejection::new(Code::EngineFailed, "internal failure, see the daemon's log")));
        if answer.as_ref().is_err_and(|e| e.code == Code::EngineFailed) {
            // Its buffers may hold anything now: the next inference starts from new ones.
            let ran = self.runners.remove(name).map(|r| r.loaded().clone());
            warn!("model {name}: {}", answer.as_ref().err().map(ToString::to_string).unwrap_or_default());
            return answer.map(|answer| (answer, ran.unwrap_or(loaded)));
        }
        let ran = self.loaded(name)?;
        self.finished_inference();
        Ok((answer?, ran))
    }

    /// Counts the outcome and gives the permit back.
    fn settle<T>(&self, outcome: &Result<(T, Arc<Loaded>), Rejection>, permit: Permit, journey: &Journey) {
        match outcome {
            Ok((_, ran)) => {
                ran.latencies.lock().unwrap_or_else(PoisonError::into_inner).add(journey.timing.infer);
                self.shared.metrics.add(Count::Results);
                permit.finished(journey.timing.pre + journey.timing.infer + journey.timing.post);
            }
            Err(_) => self.shared.metrics.add(Count::Errors),
        }
    }

    fn report<'a>(&self, asker: &'a Asker, answer: &'a Answer, ran: &'a Loaded, journey: &'a Journey) -> ResultMessage<'a> {
        let Throttle { level, reason, .. } = &journey.throttle;
        ResultMessage {
            id: asker.id.as_ref(),
            time: Timestamp::now(),
            model: &asker.model,
            ran: (ran.name != asker.model).then_some(ran.name.as_str()),
            digest: &ran.digest,
            source: asker.source.as_deref(),
            sequence: asker.sequence,
            result: answer,
            timing_us: journey.timing,
            throttle: ThrottleReport {
                level: u32::try_from(*level).unwrap_or(u32::MAX),
                reason: (*reason != Reason::None).then_some(*reason),
                waited: journey.waited,
            },
            joules: self.shared.joules(),
        }
    }

    fn loaded(&self, model: &str) -> Result<Arc<Loaded>, Rejection> {
        self.setup.registry.get(model).cloned().ok_or_else(|| unknown(model, &self.setup.registry))
    }

    fn runner(&mut self, model: &str) -> Result<&mut Runner, Rejection> {
        if !self.runners.contains_key(model) {
            let runner = Runner::new(self.loaded(model)?, &self.setup.spread_of(self.index))?;
            self.runners.insert(model.to_string(), runner);
        }
        self.runners.get_mut(model).ok_or_else(|| unknown(model, &self.setup.registry))
    }

    /// After a long time without work the engine shows that it still works.
    fn prove_life(&mut self) {
        if self.last_inference.elapsed() < self.shared.patience {
            return;
        }
        let tests = self.runners.values_mut().map(|r| (r.loaded().name.clone(), r.self_test()));
        let failed: Vec<_> = tests.filter_map(|(name, test)| test.err().map(|e| (name, e))).collect();
        self.shared.metrics.add(Count::SelfTests);
        for (name, e) in &failed {
            error!("self-test of model {name}: {e}");
        }
        if failed.is_empty() {
            self.finished_inference();
        }
    }

    fn finished_inference(&mut self) {
        self.last_inference = Instant::now();
        self.shared.progress.finished(self.index);
    }
}

/// Whether the request's deadline has passed.
fn is_late(request: &Request) -> bool {
    request.deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// The rejection for a model that is not there.
pub fn unknown(model: &str, registry: &Registry) -> Rejection {
    Rejection::new(Code::UnknownModel, crate::config::unknown_model(model, registry.names()))
}

/// A sensor's window as an input: `float32 [window, channels]` is a window, `uint8 [height, width, 1 or 3]` an image.
fn sample_input(data: &Tensor) -> Input {
    let picture = match *data.shape() {
        [height, width, channels] if data.dtype() == Dtype::Uint8 => Picture::new(width, height, channels, data.bytes().to_vec()),
        _ => None,
    };
    match (picture, data.shape()) {
        (Some(picture), _) => Input::Image(picture),
        (None, &[_, channels]) if data.dtype() == Dtype::Float32 => Input::Window { values: data.to_f32(), channels },
        _ => Input::Raw(data.clone()),
    }
}
