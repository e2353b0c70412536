//! `{ step = "normalize", mean = [...], std = [...] }`: `(value - mean) / std`.

use super::map::Affine;
use super::scale::{PerChannel, equally_long};
use super::{Plan, Step};
use crate::stage::Flaw;
use serde::{Deserialize, Serialize};

/// Standardises with the mean and deviation of the training data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// One number or one for each channel; finite.
    pub mean: PerChannel,
    /// One number or one for each channel; finite, not 0.
    pub std: PerChannel,
    /// The input that it is for, by default every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

impl Step for Normalize {
    fn input(&self) -> Option<&str> {
        self.input.as_deref()
    }

    fn check(&self) -> Result<(), Flaw> {
        self.mean.check("mean")?;
        self.std.check_factor("std")?;
        equally_long(self.mean.len("mean"), self.std.len("std"))
    }

    fn plan(&self, plan: &mut Plan) -> Result<(), Flaw> {
        plan.map.then(|channel| {
            let gain = 1.0 / self.std.of(channel);
            Affine { gain, bias: -self.mean.of(channel) * gain }
        });
        Ok(())
    }

    fn channels(&self) -> Option<(&'static str, usize)> {
        self.mean.len("mean").or(self.std.len("std"))
    }
}
