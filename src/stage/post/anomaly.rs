//! `{ step = "anomaly", threshold = 0.02 }`: how badly an autoencoder reproduces its input.

use super::{Answer, Model, PostStep, Run, Step, Work, find, real};
use crate::stage::{Flaw, finite};
use crate::tensor::TensorSpec;
use serde::{Deserialize, Serialize};

/// The reconstruction error: mean of the squared differences between the pre-processed input and the output, both as real
/// numbers (dequantized where the engine takes or gives integers).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Anomaly {
    /// A score that reaches it is anomalous; at least 0. Without it only the score is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// The input, by default the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The output, by default the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// The anomaly score of a sample.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnomalyReport {
    pub score: f32,
    /// Absent where no threshold is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anomalous: Option<bool>,
}

struct Compiled {
    threshold: Option<f32>,
    input: usize,
    output: usize,
    native: TensorSpec,
}

impl Step for Anomaly {
    fn check(&self) -> Result<(), Flaw> {
        let threshold = self.threshold.unwrap_or_default();
        finite("threshold", f64::from(threshold))?;
        if threshold >= 0.0 { Ok(()) } else { Err(Flaw::new("threshold", format!("expected at least 0, found {threshold}"))) }
    }

    fn compile(&self, model: &Model, _: &[PostStep]) -> Result<Box<dyn Run>, Flaw> {
        let input = find(model.inputs, "input", self.input.as_deref())?;
        let output = model.output(self.output.as_deref())?;
        let (from, to) = (&model.inputs[input].native, &model.outputs[output].declared);
        if from.elements() != to.elements() || from.elements() == 0 {
            let message =
                format!("a reconstruction has the size of the input: {from} has {} elements, {to} {}", from.elements(), to.elements());
            return Err(Flaw::new("output", message));
        }
        Ok(Box::new(Compiled { threshold: self.threshold, input, output, native: from.clone() }))
    }
}

impl Run for Compiled {
    fn run(&self, work: &mut Work, answer: &mut Answer) {
        let Some(bytes) = work.inputs.get(self.input).filter(|bytes| bytes.len() == self.native.bytes()) else { return };
        let values = &work.values[self.output];
        let squares = values.iter().enumerate().map(|(at, &value)| (f64::from(real(&self.native, bytes, at)) - f64::from(value)).powi(2));
        let score = (squares.sum::<f64>() / values.len() as f64).min(f64::from(f32::MAX)) as f32;
        answer.anomaly = Some(AnomalyReport { score, anomalous: self.threshold.map(|threshold| score >= threshold) });
    }
}
