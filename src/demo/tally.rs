//! What the demo has seen: how many answers, how many right, how fast.

use crate::latency::nearest_rank;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The answers so far.
#[derive(Debug, Default)]
pub struct Tally {
    models: BTreeMap<String, Counts>,
    errors: u64,
    round_trips: Vec<Duration>,
    joules: Option<f64>,
}

#[derive(Debug, Default)]
struct Counts {
    answers: u64,
    /// Of those whose true label is known.
    right: u64,
    judged: u64,
    inference_us: Vec<u64>,
}

impl Tally {
    /// Takes a result or error message; `truth` is the label that it should have, `round_trip` the time since its request.
    pub fn add(&mut self, message: &Value, truth: Option<&str>, round_trip: Option<Duration>) {
        if message.get("error").is_some() {
            self.errors += 1;
            return;
        }
        let counts = self.models.entry(message["model"].as_str().unwrap_or("?").to_string()).or_default();
        counts.answers += 1;
        counts.judged += u64::from(truth.is_some());
        counts.right += u64::from(truth.is_some() && message["result"]["label"].as_str() == truth);
        counts.inference_us.extend(message["timing_us"]["infer"].as_u64());
        self.round_trips.extend(round_trip);
        self.joules = message["joules"].as_f64().or(self.joules);
    }

    /// True once every model has answered and nearly all judged answers were right.
    pub fn is_good(&self) -> bool {
        self.models.len() >= 2 && self.errors == 0 && self.models.values().all(|c| c.judged > 0 && c.right * 10 >= c.judged * 9)
    }
}

/// [`nearest_rank`] of values in any order.
fn percentile<T: Ord + Copy + Default>(values: &[T], percent: usize) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    nearest_rank(&sorted, percent)
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (model, Counts { answers, right, judged, inference_us }) in &self.models {
            let (p50, p99) = (percentile(inference_us, 50), percentile(inference_us, 99));
            writeln!(f, "{model}: {answers} answers, {right} of {judged} right; inference p50 {p50} µs, p99 {p99} µs")?;
        }
        let (p50, p99) = (percentile(&self.round_trips, 50), percentile(&self.round_trips, 99));
        write!(
            f,
            "{} requests answered over MQTT, from publish to result p50 {p50:.1?}, p99 {p99:.1?}; {} errors",
            self.round_trips.len(),
            self.errors
        )?;
        self.joules.map_or(Ok(()), |joules| write!(f, "; {joules:.3} J per inference"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn right_wrong_and_failed_answers_are_told_apart() {
        let mut tally = Tally::default();
        let result = |model: &str, label: &str| json!({ "model": model, "result": { "label": label }, "timing_us": { "infer": 5 } });
        tally.add(&result("a", "x"), Some("x"), None);
        tally.add(&result("b", "x"), Some("x"), Some(Duration::from_millis(1)));
        assert!(tally.is_good());
        tally.add(&result("b", "x"), Some("y"), None);
        assert!(!tally.is_good());
        tally.add(&json!({ "error": { "code": "busy" } }), None, None);
        let text = tally.to_string();
        assert!(text.contains("b: 2 answers, 1 of 2 right; inference p50 5 µs") && text.contains("1 errors"), "{text}");
    }
}
