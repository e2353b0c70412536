//! `{ step = "scale", factor = 0.001, offset = 0.0 }`: `value * factor + offset`.

use super::map::Affine;
use super::{Plan, Step};
use crate::stage::{Flaw, finite};
use serde::{Deserialize, Serialize};

/// Multiplies and then adds, for example to turn counts of a converter into units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scale {
    /// One number or one for each channel; finite, not 0. Default 1.
    pub factor: PerChannel,
    /// One number or one for each channel; finite. Default 0.
    pub offset: PerChannel,
    /// The input that it is for, by default every one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

impl Default for Scale {
    fn default() -> Scale {
        Scale { factor: PerChannel::All(1.0), offset: PerChannel::All(0.0), input: None }
    }
}

/// One number for all channels, or a list with one for each, in the model's order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or a list with a number for each channel")]
pub enum PerChannel {
    All(f64),
    Each(Vec<f64>),
}

impl PerChannel {
    /// The value for a channel; the list's length was compared with the channels.
    pub fn of(&self, channel: usize) -> f64 {
        match self {
            PerChannel::All(value) => *value,
            PerChannel::Each(values) => values.get(channel).copied().unwrap_or_default(),
        }
    }

    /// Key and length of a list.
    pub fn len(&self, key: &'static str) -> Option<(&'static str, usize)> {
        match self {
            PerChannel::All(_) => None,
            PerChannel::Each(values) => Some((key, values.len())),
        }
    }

    pub fn values(&self) -> &[f64] {
        match self {
            PerChannel::All(value) => std::slice::from_ref(value),
            PerChannel::Each(values) => values,
        }
    }

    /// Every value must be finite.
    pub fn check(&self, key: &'static str) -> Result<(), Flaw> {
        if self.values().is_empty() {
            return Err(Flaw::new(key, "expected a number for each channel, found an empty list"));
        }
        self.values().iter().try_for_each(|value| finite(key, *value))
    }

    /// Every value must be finite and not 0.
    pub fn check_factor(&self, key: &'static str) -> Result<(), Flaw> {
        self.check(key)?;
        match self.values().contains(&0.0) {
            true => Err(Flaw::new(key, "expected a number other than 0")),
            false => Ok(()),
        }
    }
}

/// The two lists of a step must be equally long.
pub fn equally_long(a: Option<(&'static str, usize)>, b: Option<(&'static str, usize)>) -> Result<(), Flaw> {
    match (a, b) {
        (Some((key, n)), Some((other, m))) if n != m => Err(Flaw::new(other, format!("`{key}` has {n} values, `{other}` has {m}"))),
        _ => Ok(()),
    }
}

impl Step for Scale {
    fn input(&self) -> Option<&str> {
        self.input.as_deref()
    }

    fn check(&self) -> Result<(), Flaw> {
        self.factor.check_factor("factor")?;
        self.offset.check("offset")?;
        equally_long(self.factor.len("factor"), self.offset.len("offset"))
    }

    fn plan(&self, plan: &mut Plan) -> Result<(), Flaw> {
        plan.map.then(|channel| Affine { gain: self.factor.of(channel), bias: self.offset.of(channel) });
        Ok(())
    }

    fn channels(&self) -> Option<(&'static str, usize)> {
        self.factor.len("factor").or(self.offset.len("offset"))
    }
}
