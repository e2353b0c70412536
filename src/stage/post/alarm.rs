//! `{ step = "alarm", label = "bearing_fault", threshold = 0.6, release = 0.4, hits = 3, of = 5 }`: an alarm that does not chatter.

use super::{Answer, Model, PostStep, Run, Step, Work};
use crate::stage::{Flaw, finite};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// Goes on when `hits` of the last `of` samples reached the threshold, and off when as many lay below the release value.
/// Between the two values it stays as it is. For sensors only: each has its own state, and requests have none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alarm {
    /// The class whose score counts: a label, or the class's number where the model has no labels. Without it, the score of the
    /// `anomaly` step before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// A score that reaches it is a hit.
    pub threshold: f32,
    /// A score below it counts towards the end of the alarm; at most the threshold, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<f32>,
    /// 1 to `of`. Default 1.
    #[serde(default = "one")]
    pub hits: u32,
    /// 1 to 64. Default `hits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u32>,
    /// Its name in results. Default the label, or `anomaly`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The output, by default the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

fn one() -> u32 {
    1
}

/// An alarm after a sample.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlarmReport {
    pub name: Arc<str>,
    pub on: bool,
    /// True where this sample switched it.
    pub changed: bool,
    /// What was compared with the threshold.
    pub score: f32,
}

/// Number of alarms in a list of steps.
pub(super) fn count(steps: &[PostStep]) -> usize {
    steps.iter().filter(|step| matches!(step, PostStep::Alarm(_))).count()
}

struct Compiled {
    name: Arc<str>,
    rule: Rule,
    /// Output and class; `None` for the anomaly score.
    score: Option<(usize, usize)>,
    /// Its number among the model's alarms.
    slot: usize,
}

impl Alarm {
    fn rule(&self) -> Rule {
        Rule {
            threshold: self.threshold,
            release: self.release.unwrap_or(self.threshold),
            hits: self.hits,
            of: self.of.unwrap_or(self.hits),
        }
    }

    fn name(&self) -> &str {
        self.name.as_deref().or(self.label.as_deref()).unwrap_or("anomaly")
    }

    fn class(&self, model: &Model, label: &str) -> Result<(usize, usize), Flaw> {
        let (output, classes) = model.classes(self.output.as_deref())?;
        let class = match model.labels {
            Some(labels) => labels.class(label),
            None => label.parse().ok().filter(|&class: &usize| class < classes),
        };
        let known = || match model.labels {
            Some(labels) => labels.iter().take(20).collect::<Vec<_>>().join(", "),
            None => format!("0 to {}, since the model has no labels", classes.saturating_sub(1)),
        };
        class.map(|class| (output, class)).ok_or_else(|| Flaw::new("label", format!("no class `{label}`: expected one of {}", known())))
    }
}

impl Step for Alarm {
    fn check(&self) -> Result<(), Flaw> {
        let rule = self.rule();
        finite("threshold", f64::from(rule.threshold))?;
        finite("release", f64::from(rule.release))?;
        if rule.release > rule.threshold {
            return Err(Flaw::new("release", format!("expected at most the threshold, {}, found {}", rule.threshold, rule.release)));
        }
        if !(1..=64).contains(&rule.of) {
            let key = if self.of.is_some() { "of" } else { "hits" };
            return Err(Flaw::new(key, format!("expected 1 to 64 samples, found {}", rule.of)));
        }
        match (1..=rule.of).contains(&rule.hits) {
            true => Ok(()),
            false => Err(Flaw::new("hits", format!("expected 1 to `of`, {}, found {}", rule.of, rule.hits))),
        }
    }

    fn compile(&self, model: &Model, earlier: &[PostStep]) -> Result<Box<dyn Run>, Flaw> {
        let score = match &self.label {
            Some(label) => Some(self.class(model, label)?),
            None if earlier.iter().any(|step| matches!(step, PostStep::Anomaly(_))) => None,
            None => return Err(Flaw::new("label", "expected a label, or an anomaly step before the alarm")),
        };
        let same_name = |step: &PostStep| matches!(step, PostStep::Alarm(other) if other.name() == self.name());
        if earlier.iter().any(same_name) {
            return Err(Flaw::new("name", format!("there is an alarm `{}` already", self.name())));
        }
        Ok(Box::new(Compiled { name: self.name().into(), rule: self.rule(), score, slot: count(earlier) }))
    }
}

impl Run for Compiled {
    fn run(&self, work: &mut Work, answer: &mut Answer) {
        let score = match self.score {
            Some((output, class)) => work.values[output].get(class).copied(),
            None => answer.anomaly.as_ref().map(|anomaly| anomaly.score),
        };
        let state = work.alarms.as_deref_mut().and_then(|states| states.get_mut(self.slot));
        if let (Some(score), Some(state)) = (score, state) {
            let changed = state.observe(&self.rule, score);
            answer.alarms.push(AlarmReport { name: self.name.clone(), on: state.on, changed, score });
        }
    }
}

/// When an alarm switches.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rule {
    threshold: f32,
    release: f32,
    hits: u32,
    of: u32,
}

/// The state of one alarm of one sensor; off at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Debounce {
    on: bool,
    /// The last samples since it switched, the newest in bit 0: 1 where the sample spoke for switching.
    history: u64,
}

impl Debounce {
    /// Takes a score; true where it switched the alarm.
    fn observe(&mut self, rule: &Rule, score: f32) -> bool {
        let against = if self.on { score < rule.release } else { score >= rule.threshold };
        let window = u64::MAX >> (64 - rule.of.clamp(1, 64));
        self.history = ((self.history << 1) | u64::from(against)) & window;
        if !against || self.history.count_ones() < rule.hits {
            return false;
        }
        *self = Debounce { on: !self.on, history: 0 };
        true
    }
}

/// The alarms of one model for every sensor, by the sensor's name. As many entries as there are configured sources.
#[derive(Clone, Debug, Default)]
pub struct AlarmStates {
    sources: HashMap<String, Vec<Debounce>>,
}

impl AlarmStates {
    pub(super) fn of(&mut self, source: &str, alarms: usize) -> &mut [Debounce] {
        if !self.sources.contains_key(source) {
            self.sources.insert(source.to_string(), Vec::new());
        }
        let states = self.sources.get_mut(source).map(|states| {
            states.resize(alarms, Debounce::default());
            states.as_mut_slice()
        });
        states.unwrap_or_default()
    }

    /// Forgets every sensor but those named, after the configuration changed.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.sources.retain(|source, _| keep(source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> impl Strategy<Value = Rule> {
        (1u32..=8, 0u32..8, 0.0f32..0.5, 0.5f32..1.0).prop_map(|(of, less, release, threshold)| Rule {
            threshold,
            release,
            hits: of.saturating_sub(less).max(1),
            of,
        })
    }

    proptest! {
        #[test]
        fn switches_exactly_at_enough_of_the_last_samples(rule in rules(), scores in proptest::collection::vec(0.0f32..1.0, 0..200)) {
            let mut state = Debounce::default();
            let mut since: Vec<f32> = Vec::new();
            for score in scores {
                let before = state.on;
                since.push(score);
                let against = |s: f32| if before { s < rule.release } else { s >= rule.threshold };
                let last = &since[since.len().saturating_sub(rule.of as usize)..];
                let enough = last.iter().filter(|&&s| against(s)).count() >= rule.hits as usize;
                let changed = state.observe(&rule, score);
                prop_assert_eq!(changed, enough);
                prop_assert_eq!(state.on, before != changed);
                if changed {
                    since.clear();
                }
            }
        }

        #[test]
        fn a_score_inside_the_band_never_switches(rule in rules(), warm in proptest::collection::vec(0.0f32..1.0, 0..50), inside in 0.0f32..1.0) {
            let mut state = Debounce::default();
            warm.iter().for_each(|&score| { state.observe(&rule, score); });
            let score = (rule.release + inside * (rule.threshold - rule.release)).clamp(rule.release, rule.threshold.next_down());
            for _ in 0..100 {
                prop_assert!(!state.observe(&rule, score));
            }
        }
    }

    #[test]
    fn three_of_five() {
        let rule = Rule { threshold: 0.6, release: 0.4, hits: 3, of: 5 };
        let mut state = Debounce::default();
        let scores = [0.9, 0.1, 0.6, 0.5, 0.5, 0.9, 0.7];
        let on: Vec<bool> = scores
            .iter()
            .map(|&s| {
                state.observe(&rule, s);
                state.on
            })
            .collect();
        assert_eq!(on, [false, false, false, false, false, false, true]);
        let off: Vec<bool> = [0.1, 0.1, 0.45, 0.39]
            .iter()
            .map(|&s| {
                state.observe(&rule, s);
                state.on
            })
            .collect();
        assert_eq!(off, [true, true, true, false]);
    }

    #[test]
    fn sensors_do_not_share_state_and_can_be_forgotten() {
        let mut states = AlarmStates::default();
        let rule = Rule { threshold: 0.5, release: 0.5, hits: 1, of: 1 };
        assert!(states.of("a", 1)[0].observe(&rule, 1.0));
        assert!(!states.of("b", 1)[0].on);
        assert!(states.of("a", 1)[0].on);
        states.retain(|source| source == "b");
        assert!(!states.of("a", 1)[0].on);
    }
}
