//! What a payload or a sensor gives to a model's input, before pre-processing.

use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The value of one model input as it came.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Numbers in row-major order: those of the model's declared input or, where there are pre-processing steps, what the
    /// steps start from. `shape` is that of the nested arrays; `None` where it is not known.
    Numbers { values: Vec<f32>, shape: Option<Vec<usize>> },
    /// A sensor window of real numbers, time-major: frame after frame, `channels` values each.
    Window { values: Vec<f32>, channels: usize },
    /// A raw tensor of the declared dtype.
    Raw(Tensor),
    /// A decoded image.
    Image(Picture),
}

/// An image of 8 bits a sample, rows from the top, interleaved: `data[(y * width + x) * channels + c]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    data: Vec<u8>,
}

impl Picture {
    /// Takes grey (1 channel) or RGB (3 channels) samples; `None` where a side is 0, the channels are neither, or the data do
    /// not fill the picture.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Option<Picture> {
        let bytes = width.checked_mul(height)?.checked_mul(channels)?;
        let fits = bytes > 0 && bytes == data.len() && matches!(channels, 1 | 3);
        fits.then_some(Picture { width, height, channels, data })
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    /// 1 for grey, 3 for RGB.
    pub fn channels(&self) -> usize {
        self.channels
    }

    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

/// The `id` of a request, echoed in its result. Text or a number, as the client sent it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(String),
}

impl Id {
    /// The longest text that is echoed, in bytes.
    pub const MAX_LEN: usize = 256;
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Int(n) => n.fmt(f),
            Id::Uint(n) => n.fmt(f),
            Id::Float(n) => n.fmt(f),
            Id::Text(text) => text.fmt(f),
        }
    }
}
