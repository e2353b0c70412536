//! `{ step = "channels", order = "bgr" }`: the colours that an image model was trained on.

use super::{Plan, Step};
use crate::stage::Flaw;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Colours of images; numbers and raw tensors are taken to have them already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channels {
    /// `rgb`, `bgr` or `gray`. By default `gray` for a model of 1 channel, `rgb` for one of 3. Grey is the luma of ITU-R BT.601; a
    /// grey image for a colour model has three equal channels.
    pub order: Order,
    /// The input that it is for, by default every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    Rgb,
    Bgr,
    Gray,
}

impl Order {
    pub fn channels(self) -> usize {
        match self {
            Order::Rgb | Order::Bgr => 3,
            Order::Gray => 1,
        }
    }

    /// What a model of so many channels takes, where nothing else is said.
    pub fn for_channels(channels: usize) -> Option<Order> {
        match channels {
            1 => Some(Order::Gray),
            3 => Some(Order::Rgb),
            _ => None,
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl Step for Channels {
    fn input(&self) -> Option<&str> {
        self.input.as_deref()
    }

    fn check(&self) -> Result<(), Flaw> {
        Ok(())
    }

    fn plan(&self, plan: &mut Plan) -> Result<(), Flaw> {
        let (wanted, found) = (self.order.channels(), plan.geometry.channels);
        if plan.geometry.image.is_none() || wanted != found {
            let message =
                format!("`{}` needs an image input of {wanted} channels, the model's has {}", self.order, plan.geometry.describe());
            return Err(Flaw::new("order", message));
        }
        plan.order = Some(self.order);
        Ok(())
    }
}
