//! `{ step = "window", function = "hann" }`: weights along the frames of a signal.

use super::{Plan, Step};
use crate::stage::Flaw;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// Multiplies each frame by a window function, symmetric about the middle (`scipy.signal.get_window(..., fftbins=False)`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// `hann`, `hamming` or `blackman`.
    pub function: Function,
    /// The input that it is for, by default every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    Hann,
    Hamming,
    Blackman,
}

impl Function {
    /// Weight of frame `n` of `frames`: a sum of cosines (Harris 1978, "On the use of windows").
    fn weight(self, n: usize, frames: usize) -> f64 {
        if frames < 2 {
            return 1.0;
        }
        let x = TAU * n as f64 / (frames - 1) as f64;
        match self {
            Function::Hann => 0.5 - 0.5 * x.cos(),
            Function::Hamming => 0.54 - 0.46 * x.cos(),
            Function::Blackman => 0.42 - 0.5 * x.cos() + 0.08 * (2.0 * x).cos(),
        }
    }
}

impl Step for Window {
    fn input(&self) -> Option<&str> {
        self.input.as_deref()
    }

    fn check(&self) -> Result<(), Flaw> {
        Ok(())
    }

    fn plan(&self, plan: &mut Plan) -> Result<(), Flaw> {
        if plan.geometry.image.is_some() {
            return Err(Flaw::new("", "a window function is for signals, the model's input is an image"));
        }
        let frames = plan.geometry.positions;
        match plan.map.taper((0..frames).map(|n| self.function.weight(n, frames)).collect()) {
            true => Ok(()),
            false => Err(Flaw::new("", "expected at most one window function")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_weights() {
        let hann: Vec<f64> = (0..5).map(|n| Function::Hann.weight(n, 5)).collect();
        for (found, expected) in hann.iter().zip([0.0, 0.5, 1.0, 0.5, 0.0]) {
            assert!((found - expected).abs() < 1e-12);
        }
        assert!((Function::Hamming.weight(0, 9) - 0.08).abs() < 1e-12);
        assert!(Function::Blackman.weight(0, 9).abs() < 1e-12);
        assert!((Function::Blackman.weight(4, 9) - 1.0).abs() < 1e-12);
        assert_eq!(Function::Hann.weight(0, 1), 1.0);
    }
}
