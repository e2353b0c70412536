//! Where work comes in: requests from the broker and samples from the sensors, into the queue or refused at once.

use crate::asker::refuse;
use crate::metrics::Count;
use crate::mqtt::{Intake, Message, Reply};
use crate::rejection::{Code, Rejection};
use crate::request::Request;
use crate::shared::{Outlet, Shared};
use crate::source::{Offered, Sample, Sink};
use crate::worker::unknown;
use std::sync::{Arc, OnceLock};

/// The broker's door. Runs on the MQTT thread and never blocks.
pub struct Door {
    shared: Arc<Shared>,
    /// The outlet that leads back; set once the MQTT side runs.
    outlet: Arc<OnceLock<Arc<dyn Outlet>>>,
}

impl Door {
    pub fn new(shared: Arc<Shared>, outlet: Arc<OnceLock<Arc<dyn Outlet>>>) -> Door {
        Door { shared, outlet }
    }

    /// Queues the request, or gives it back with the reason why not.
    fn admit(&self, request: Request) -> Option<(Request, Rejection)> {
        let setup = self.shared.setup();
        if self.shared.closing() {
            return Some((request, Rejection::new(Code::ShuttingDown, "the daemon is stopping")));
        }
        if setup.registry.get(&request.model).is_none() {
            let rejection = unknown(&request.model, &setup.registry);
            return Some((request, rejection));
        }
        let ticket = request.ticket;
        match self.shared.queue.offer_request(request) {
            None => None,
            Some(homeless) => {
                self.shared.metrics.add(Count::Busy);
                let waiting = self.shared.queue.depth().requests;
                let rejection = Rejection::new(Code::Busy, format!("the queue is full: {waiting} requests wait"));
                if homeless.ticket == ticket {
                    return Some((homeless, rejection));
                }
                self.answer_later(&homeless, &rejection);
                None
            }
        }
    }

    /// Answers a request that gave way to a newer one.
    fn answer_later(&self, request: &Request, rejection: &Rejection) {
        self.shared.metrics.add(Count::Errors);
        if let Some(outlet) = self.outlet.get() {
            outlet.answer(request.ticket, refuse(request, rejection));
        }
    }
}

impl Intake for Door {
    fn request(&mut self, request: Request) -> Option<Reply> {
        self.shared.metrics.add(Count::Requests);
        self.admit(request).map(|(request, rejection)| self.refuse(&request, &rejection))
    }

    fn refuse(&mut self, request: &Request, rejection: &Rejection) -> Reply {
        self.shared.metrics.add(Count::Errors);
        let Message { payload, content_type, .. } = refuse(request, rejection);
        Reply { payload: payload.into(), content_type }
    }
}

/// The door of one sensor.
pub struct SourceDoor(pub Arc<Shared>);

impl Sink for SourceDoor {
    fn offer(&self, sample: Sample) -> Offered {
        self.0.metrics.add(Count::Samples);
        if self.0.closing() {
            return Offered::Dropped;
        }
        let (source, sequence) = (sample.source.clone(), sample.sequence);
        match self.0.queue.offer_sample(sample) {
            None => Offered::Accepted,
            Some(homeless) => {
                self.0.metrics.add(Count::SamplesDropped);
                let refused = homeless.source == source && homeless.sequence == sequence;
                if refused { Offered::Dropped } else { Offered::Accepted }
            }
        }
    }
}
