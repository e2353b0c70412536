//! `{ step = "layout", order = "ncl" }`: which dimension of the input is which, where it cannot be seen.

use super::{Plan, Step};
use crate::stage::Flaw;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The order of an input's dimensions. Nothing is reordered in the model; windows and images are written in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// `nchw` or `nhwc` for images, `ncl` or `nlc` for signals of `l` frames. By default `nchw`, but `nhwc` where only the last
    /// dimension is 1 or 3; of a signal's two dimensions the shorter is the channels, the first where they are equal.
    pub order: Axes,
    /// The input that it is for, by default every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axes {
    Nchw,
    Nhwc,
    Ncl,
    Nlc,
}

impl Axes {
    pub fn rank(self) -> usize {
        match self {
            Axes::Nchw | Axes::Nhwc => 4,
            Axes::Ncl | Axes::Nlc => 3,
        }
    }
}

impl fmt::Display for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl Step for Layout {
    fn input(&self) -> Option<&str> {
        self.input.as_deref()
    }

    fn check(&self) -> Result<(), Flaw> {
        Ok(())
    }

    fn plan(&self, _: &mut Plan) -> Result<(), Flaw> {
        Ok(())
    }

    fn axes(&self) -> Option<Axes> {
        Some(self.order)
    }
}
