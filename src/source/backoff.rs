//! How long to wait before a failed source is opened again.

use crate::config::problems::Checker;
use crate::config::value::Span;
use serde::{Deserialize, Serialize};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Delays between attempts: they start at `min`, double with each failure up to `max`, and each is shortened by a random part
/// of at most one half, so that sources that failed together do not come back together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// First delay; above 0. Default `"500ms"`.
    pub min: Span,
    /// Longest delay; at least `min`. Default `"30s"`.
    pub max: Span,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { min: Span::millis(500), max: Span::secs(30) }
    }
}

impl Retry {
    pub fn check(&self, at: &mut Checker) {
        at.expect(!self.min.0.is_zero(), "min", || "expected a duration above 0".into());
        at.expect(self.max >= self.min, "max", || format!("expected at least min ({}), found {}", self.min, self.max));
    }

    /// Delay before attempt `failures + 1`, where `failures >= 1` attempts in a row failed; `jitter` lies in `0.0..=1.0`.
    /// Formula: `d = min(max, min * 2^(failures-1))`, `delay = d - d/2 * jitter`.
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(31));
        let full = self.min.0.saturating_mul(doubled).min(self.max.0);
        full - full.div_f64(2.0).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

/// A random number in `0.0..1.0`, good enough to spread retries.
pub fn jitter() -> f64 {
    // The standard library seeds each `RandomState` differently.
    (RandomState::new().hash_one(0u8) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delays_grow_and_stay_within_their_bounds(failures in 1u32..200, a in 0.0f64..=1.0, min in 1u64..5_000, more in 0u64..100_000) {
            let retry = Retry { min: Span::millis(min), max: Span::millis(min + more) };
            let delay = retry.delay(failures, a);
            prop_assert!(delay >= retry.min.0 / 2 && delay <= retry.max.0);
            prop_assert!(retry.delay(failures + 1, a) >= delay);
            prop_assert!(retry.delay(failures, 0.0) >= delay);
        }
    }

    #[test]
    fn delays_double_and_stop_at_the_longest() {
        let retry = Retry { min: Span::millis(100), max: Span::millis(500) };
        let delays: Vec<_> = (1..6).map(|n| retry.delay(n, 0.0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 500, 500]);
        assert_eq!(retry.delay(1, 1.0).as_millis(), 50);
        let (a, b) = (jitter(), jitter());
        assert!((0.0..1.0).contains(&a) && a != b, "{a} {b}");
    }
}
