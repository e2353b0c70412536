//! Post-processing: from the engine's outputs to an answer.
//!
//! Outputs are first dequantized to real numbers. The steps then run in order over these working values: `softmax` and
//! `sigmoid` change them, the others add to the answer. Without steps a model with labels answers with `top_k` (k = 3) of the
//! scores as the model gives them, and a model without labels with its `raw` outputs: whether a model ends in logits or in
//! probabilities cannot be seen, so `softmax` is only done where it is asked for.

mod alarm;
mod anomaly;
mod raw;
mod sigmoid;
mod softmax;
mod top_k;

pub use alarm::{Alarm, AlarmReport, AlarmStates, Debounce};
pub use anomaly::{Anomaly, AnomalyReport};
pub use raw::{Raw, RawOutput, RawValues};
pub use sigmoid::Sigmoid;
pub use softmax::Softmax;
pub use top_k::{Scored, TopK};

use super::{Flaw, Labels};
use crate::config::problems::{Checker, Problem};
use crate::engine::Port;
use crate::rejection::{Code, Rejection};
use crate::tensor::{Dtype, TensorSpec, element_f32};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One step, as a table in `post = [...]`. New steps are listed here and in [`PostStep::step`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum PostStep {
    Softmax(Softmax),
    Sigmoid(Sigmoid),
    TopK(TopK),
    Alarm(Alarm),
    Anomaly(Anomaly),
    Raw(Raw),
}

impl PostStep {
    fn step(&self) -> &dyn Step {
        match self {
            PostStep::Softmax(step) => step,
            PostStep::Sigmoid(step) => step,
            PostStep::TopK(step) => step,
            PostStep::Alarm(step) => step,
            PostStep::Anomaly(step) => step,
            PostStep::Raw(step) => step,
        }
    }

    /// Reports what is wrong whatever the model is. [`Post::new`] finds what does not fit the model.
    pub fn check(&self, at: &mut Checker) {
        if let Err(flaw) = self.step().check() {
            at.problem(flaw.key, flaw.message);
        }
    }
}

/// What a kind of step knows.
trait Step {
    /// Checks the values by themselves.
    fn check(&self) -> Result<(), Flaw> {
        Ok(())
    }

    /// Compiles the step for a model; `earlier` are the steps before it.
    fn compile(&self, model: &Model, earlier: &[PostStep]) -> Result<Box<dyn Run>, Flaw>;
}

/// A compiled step.
trait Run: Send + Sync {
    fn run(&self, work: &mut Work, answer: &mut Answer);
}

/// What steps are compiled for.
struct Model<'a> {
    inputs: &'a [Port],
    outputs: &'a [Port],
    labels: Option<&'a Labels>,
}

impl Model<'_> {
    /// Index of the named output, the first by default.
    fn output(&self, name: Option<&str>) -> Result<usize, Flaw> {
        find(self.outputs, "output", name)
    }

    /// As [`Model::output`]; it must be a list of scores, one for each class, and as long as the labels.
    fn classes(&self, name: Option<&str>) -> Result<(usize, usize), Flaw> {
        let index = self.output(name)?;
        let spec = &self.outputs[index].declared;
        if spec.shape.iter().filter(|&&d| d != 1).count() > 1 {
            return Err(Flaw::new("output", format!("output {spec}: expected one list of scores")));
        }
        let classes = spec.elements();
        match self.labels {
            Some(labels) if labels.len() != classes => {
                Err(Flaw::new("output", format!("there are {} labels, but output {spec} has {classes} classes", labels.len())))
            }
            _ => Ok((index, classes)),
        }
    }
}

/// Index of the named port, the first by default.
fn find(ports: &[Port], key: &'static str, name: Option<&str>) -> Result<usize, Flaw> {
    let index = match name {
        None => (!ports.is_empty()).then_some(0),
        Some(name) => ports.iter().position(|port| port.declared.name == name),
    };
    index.ok_or_else(|| {
        let names: Vec<&str> = ports.iter().map(|port| port.declared.name.as_str()).collect();
        Flaw::new(key, format!("the model has no {key} `{}`: expected one of {}", name.unwrap_or_default(), names.join(", ")))
    })
}

/// What a run works on.
struct Work<'a> {
    /// Working values of each output, real numbers.
    values: &'a mut [Vec<f32>],
    /// Bytes of each input and output as the engine has them.
    inputs: &'a [&'a [u8]],
    outputs: &'a [&'a [u8]],
    /// State of the alarms of the sensor that gave the sample; `None` for a request.
    alarms: Option<&'a mut [Debounce]>,
}

/// What the steps made of the outputs. Members that no step made are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Answer {
    /// The best class by the last `top_k`: its label, absent where the model has no labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Arc<str>>,
    /// The best class's score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// The best classes, best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<Scored>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<AnomalyReport>,
    /// State of every alarm after this sample; only for sensors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<AlarmReport>,
    /// Whole outputs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<RawOutput>,
}

/// Buffers of a worker, kept from run to run.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    values: Vec<Vec<f32>>,
}

/// The compiled steps of a model; shared by all workers.
pub struct Post {
    outputs: Vec<TensorSpec>,
    steps: Vec<Box<dyn Run>>,
    alarms: usize,
}

impl Post {
    /// Compiles the steps, or the default ones where there are none. The problem's key starts at the list: `post[0].label`,
    /// or is `labels` where these do not fit any output.
    pub fn new(steps: &[PostStep], labels: Option<&Labels>, outputs: &[Port], inputs: &[Port]) -> Result<Post, Problem> {
        let model = Model { inputs, outputs, labels };
        let defaults = [default_step(labels)];
        let given = if steps.is_empty() { &defaults } else { steps };
        let mut compiled = Vec::with_capacity(given.len());
        for (index, step) in given.iter().enumerate() {
            let flawed = |flaw: Flaw| match steps.is_empty() {
                true => Problem { key: "labels".into(), line: None, message: flaw.message },
                false => flaw.at("post", index),
            };
            step.step().check().map_err(flawed)?;
            compiled.push(step.step().compile(&model, &given[..index]).map_err(flawed)?);
        }
        Ok(Post { outputs: outputs.iter().map(|port| port.native.clone()).collect(), steps: compiled, alarms: alarm::count(given) })
    }

    /// Makes an answer from the engine's bytes, one slice for each port. `alarms` are the states and the name of the sensor
    /// that gave the sample; a request (`None`) has no alarms and disturbs none.
    pub fn run(
        &self,
        scratch: &mut Scratch,
        inputs: &[&[u8]],
        outputs: &[&[u8]],
        alarms: Option<(&mut AlarmStates, &str)>,
    ) -> Result<Answer, Rejection> {
        scratch.values.resize_with(self.outputs.len(), Vec::new);
        if outputs.len() != self.outputs.len() {
            let message = format!("the engine gave {} outputs, expected {}", outputs.len(), self.outputs.len());
            return Err(Rejection::new(Code::EngineFailed, message));
        }
        for ((native, bytes), values) in self.outputs.iter().zip(outputs).zip(&mut scratch.values) {
            dequantize(native, bytes, values)?;
        }
        let alarms = alarms.map(|(states, source)| states.of(source, self.alarms));
        let mut work = Work { values: &mut scratch.values, inputs, outputs, alarms };
        let mut answer = Answer::default();
        self.steps.iter().for_each(|step| step.run(&mut work, &mut answer));
        Ok(answer)
    }
}

fn default_step(labels: Option<&Labels>) -> PostStep {
    match labels {
        Some(_) => PostStep::TopK(TopK::default()),
        None => PostStep::Raw(Raw::default()),
    }
}

/// Real numbers of an output; NaN and infinity mean that the engine or the model failed.
fn dequantize(native: &TensorSpec, bytes: &[u8], values: &mut Vec<f32>) -> Result<(), Rejection> {
    if bytes.len() != native.bytes() {
        let message = format!("output {native}: expected {} bytes, found {}", native.bytes(), bytes.len());
        return Err(Rejection::new(Code::EngineFailed, message));
    }
    values.clear();
    values.extend((0..native.elements()).map(|at| real(native, bytes, at)));
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let message = format!("output {native}: element {at} is {}: expected a finite number", values[at]);
            Err(Rejection::new(Code::EngineFailed, message))
        }
    }
}

/// Element `at` as a real number. Panics when it lies outside.
fn real(spec: &TensorSpec, bytes: &[u8], at: usize) -> f32 {
    match (spec.quant, spec.dtype) {
        (Some(quant), Dtype::Int8) => quant.dequantize(i32::from(bytes[at] as i8)),
        (Some(quant), Dtype::Uint8) => quant.dequantize(i32::from(bytes[at])),
        (Some(quant), dtype) if !dtype.is_float() => quant.scale * (element_f32(dtype, bytes, at) - quant.zero_point as f32),
        (_, dtype) => element_f32(dtype, bytes, at),
    }
}

#[cfg(test)]
mod tests;
