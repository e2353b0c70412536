//! `{ step = "softmax" }`: scores into probabilities.

use super::{Answer, Model, PostStep, Run, Step, Work};
use crate::stage::Flaw;
use serde::{Deserialize, Serialize};

/// `exp(x) / sum(exp(x))` over the classes, for a model that ends in logits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Softmax {
    /// The output, by default the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

struct Compiled {
    output: usize,
}

impl Step for Softmax {
    fn compile(&self, model: &Model, _: &[PostStep]) -> Result<Box<dyn Run>, Flaw> {
        let (output, _) = model.classes(self.output.as_deref())?;
        Ok(Box::new(Compiled { output }))
    }
}

impl Run for Compiled {
    fn run(&self, work: &mut Work, _: &mut Answer) {
        softmax(&mut work.values[self.output]);
    }
}

/// In place. The largest value is taken away first, so that nothing overflows.
fn softmax(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for value in values.iter_mut() {
        *value = (*value - max).exp();
        sum += f64::from(*value);
    }
    values.iter_mut().for_each(|value| *value = (f64::from(*value) / sum) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_to_one_keeps_the_order_and_never_overflows(values in proptest::collection::vec(-3e38f32..3e38, 1..50)) {
            let mut probabilities = values.clone();
            softmax(&mut probabilities);
            let sum: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
            prop_assert!((sum - 1.0).abs() < 1e-5);
            for (a, p) in values.iter().zip(&probabilities) {
                for (b, q) in values.iter().zip(&probabilities) {
                    prop_assert!(a < b || p >= q);
                }
            }
        }

        #[test]
        fn a_common_shift_changes_nothing(values in proptest::collection::vec(-20.0f32..20.0, 1..20)) {
            let mut plain = values.clone();
            let mut shifted: Vec<f32> = values.iter().map(|v| v + 64.0).collect();
            softmax(&mut plain);
            softmax(&mut shifted);
            for (a, b) in plain.iter().zip(&shifted) {
                prop_assert!((a - b).abs() < 1e-4);
            }
        }
    }
}
