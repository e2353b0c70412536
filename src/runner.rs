//! One model's inference on one thread: pre-processing, engine, post-processing, each timed.

use crate::codec::{Input, Timing};
use crate::engine::{Session, Spread, read_output};
use crate::registry::Loaded;
use crate::rejection::{Code, Rejection};
use crate::stage::post::{Answer, Scratch};
use crate::stage::{AlarmStates, Pre};
use crate::tensor::Tensor;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

/// A thread's own session and buffers for one model.
pub struct Runner {
    loaded: Arc<Loaded>,
    session: Session,
    pre: Vec<Pre>,
    scratch: Scratch,
}

impl Runner {
    /// Allocates the session.
    pub fn new(loaded: Arc<Loaded>, spread: &Spread) -> Result<Runner, Rejection> {
        let session = loaded.model.session_on(spread).map_err(|e| Rejection::new(Code::EngineFailed, e.to_string()))?;
        let pre = loaded.pre.clone();
        Ok(Runner { loaded, session, pre, scratch: Scratch::default() })
    }

    pub fn loaded(&self) -> &Arc<Loaded> {
        &self.loaded
    }

    /// Runs on one input for each port. `source` is the sensor whose alarms take part. Times are added to `timing`.
    pub fn run(&mut self, inputs: &[Input], source: Option<&str>, timing: &mut Timing) -> Result<Answer, Rejection> {
        let start = Instant::now();
        self.prepare(inputs)?;
        let prepared = Instant::now();
        self.session.run().map_err(|e| Rejection::new(Code::EngineFailed, e.to_string()))?;
        let inferred = Instant::now();
        let answer = self.conclude(source)?;
        timing.pre += prepared - start;
        timing.infer += inferred - prepared;
        timing.post += inferred.elapsed();
        Ok(answer)
    }

    /// Output `index` of the last run, as the model's author declared it.
    pub fn output(&self, index: usize) -> Tensor {
        read_output(&self.session, index)
    }

    /// One inference on whatever the inputs hold: proof that the engine works.
    pub fn self_test(&mut self) -> Result<(), Rejection> {
        self.session.run().map_err(|e| Rejection::new(Code::EngineFailed, e.to_string()))
    }

    fn prepare(&mut self, inputs: &[Input]) -> Result<(), Rejection> {
        if inputs.len() != self.pre.len() {
            let message = format!("expected {} inputs, found {}", self.pre.len(), inputs.len());
            return Err(Rejection::new(Code::WrongShape, message));
        }
        for (index, (pre, input)) in self.pre.iter_mut().zip(inputs).enumerate() {
            pre.run(input, self.session.input_mut(index))?;
        }
        Ok(())
    }

    fn conclude(&mut self, source: Option<&str>) -> Result<Answer, Rejection> {
        let (session, loaded) = (&self.session, &self.loaded);
        let inputs: Vec<&[u8]> = (0..loaded.model.inputs().len()).map(|i| session.input(i)).collect();
        let outputs: Vec<&[u8]> = (0..loaded.model.outputs().len()).map(|i| session.output(i)).collect();
        let mut alarms: Option<MutexGuard<'_, AlarmStates>> = source.map(|_| loaded.alarms.lock().unwrap_or_else(PoisonError::into_inner));
        loaded.post.run(&mut self.scratch, &inputs, &outputs, alarms.as_deref_mut().zip(source))
    }
}
