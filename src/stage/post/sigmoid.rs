//! `{ step = "sigmoid" }`: independent scores into probabilities, for a model whose classes do not exclude each other.

use super::{Answer, Model, PostStep, Run, Step, Work};
use crate::stage::Flaw;
use serde::{Deserialize, Serialize};

/// `1 / (1 + exp(-x))` of every element.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sigmoid {
    /// The output, by default the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

struct Compiled {
    output: usize,
}

impl Step for Sigmoid {
    fn compile(&self, model: &Model, _: &[PostStep]) -> Result<Box<dyn Run>, Flaw> {
        Ok(Box::new(Compiled { output: model.output(self.output.as_deref())? }))
    }
}

impl Run for Compiled {
    fn run(&self, work: &mut Work, _: &mut Answer) {
        work.values[self.output].iter_mut().for_each(|value| *value = sigmoid(*value));
    }
}

fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_between_0_and_1() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(sigmoid(f32::MAX), 1.0);
        assert_eq!(sigmoid(f32::MIN), 0.0);
        assert!((sigmoid(2.0) + sigmoid(-2.0) - 1.0).abs() < 1e-6);
    }
}
