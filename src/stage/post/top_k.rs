//! `{ step = "top_k", k = 3 }`: the best classes.

use super::{Answer, Model, PostStep, Run, Step, Work};
use crate::stage::{Flaw, Labels};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The `k` classes of highest score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopK {
    /// How many, at least 1; all classes where there are fewer. Default 3.
    pub k: usize,
    /// The output, by default the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

impl Default for TopK {
    fn default() -> TopK {
        TopK { k: 3, output: None }
    }
}

/// A class and its score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    /// Absent where the model has no labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Arc<str>>,
    /// Number of the class, from 0.
    pub index: usize,
    pub score: f32,
}

struct Compiled {
    k: usize,
    output: usize,
    labels: Labels,
}

impl Step for TopK {
    fn check(&self) -> Result<(), Flaw> {
        if self.k > 0 { Ok(()) } else { Err(Flaw::new("k", "expected at least 1, found 0")) }
    }

    fn compile(&self, model: &Model, _: &[PostStep]) -> Result<Box<dyn Run>, Flaw> {
        let (output, classes) = model.classes(self.output.as_deref())?;
        Ok(Box::new(Compiled { k: self.k.min(classes), output, labels: model.labels.cloned().unwrap_or_default() }))
    }
}

impl Run for Compiled {
    fn run(&self, work: &mut Work, answer: &mut Answer) {
        let best = best(&work.values[self.output], self.k);
        answer.top = best.into_iter().map(|(index, score)| Scored { label: self.labels.get(index), index, score }).collect();
        answer.label = answer.top.first().and_then(|first| first.label.clone());
        answer.score = answer.top.first().map(|first| first.score);
    }
}

/// Indices and values of the `k` largest, largest first; of equal ones the first.
fn best(values: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut best: Vec<(usize, f32)> = Vec::with_capacity(k + 1);
    for (index, &value) in values.iter().enumerate() {
        if best.len() == k && best.last().is_some_and(|&(_, least)| value <= least) {
            continue;
        }
        let place = best.partition_point(|&(_, other)| other >= value);
        best.insert(place, (index, value));
        best.truncate(k);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_the_head_of_a_stable_sort(values in proptest::collection::vec(-4i8..4, 0..30), k in 1usize..8) {
            let values: Vec<f32> = values.into_iter().map(f32::from).collect();
            let mut sorted: Vec<(usize, f32)> = values.iter().copied().enumerate().collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            sorted.truncate(k);
            prop_assert_eq!(best(&values, k), sorted);
        }
    }
}
