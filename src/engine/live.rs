//! The lower bound of activation memory: the most bytes alive at one step of an ONNX graph whose quantized groups run fused.
//!
//! A planner that gives every value one place, and runs the graph in this order, needs at least this much (Pisarchyk & Lee 2020,
//! arXiv 2001.03288). Only in-place steps and row-wise fusion go below it.

use std::collections::{HashMap, HashSet};

/// One node that runs at inference.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    pub op: &'a str,
    pub inputs: &'a [String],
    pub outputs: &'a [String],
}

/// The most bytes alive at one of `steps`, which must be in an order in which every value is made before it is read. `outputs` live
/// to the end, what nothing makes lives from the start. `bytes` of a value; 0 for constants.
///
/// Counted fused: `DequantizeLinear` with the steps that read it, and with a step the activations and the `QuantizeLinear` that
/// alone read its result, one after the other.
pub fn max_live_bytes(steps: &[Step], outputs: &[&str], bytes: impl Fn(&str) -> u64) -> u64 {
    let groups = fused(steps, outputs);
    let mut last: HashMap<&str, usize> = HashMap::new();
    for (at, group) in groups.iter().enumerate() {
        last.extend(group.inputs.iter().map(|input| (*input, at)));
    }
    last.extend(outputs.iter().map(|output| (*output, usize::MAX)));
    let made: HashSet<&str> = groups.iter().flat_map(|g| g.outputs.iter().copied()).collect();
    let mut live: HashMap<&str, u64> = last.keys().filter(|v| !made.contains(*v)).map(|v| (*v, bytes(v))).collect();
    let mut peak = 0;
    for (at, group) in groups.iter().enumerate() {
        live.extend(group.outputs.iter().map(|v| (*v, bytes(v))));
        peak = peak.max(live.values().fold(0, |sum: u64, &b| sum.saturating_add(b)));
        live.retain(|value, _| last.get(value).is_some_and(|&l| l > at));
    }
    peak
}

/// What a group of fused steps reads and writes in memory.
struct Group<'a> {
    inputs: Vec<&'a str>,
    outputs: Vec<&'a str>,
}

fn fused<'a>(steps: &[Step<'a>], outputs: &[&str]) -> Vec<Group<'a>> {
    let mut readers: HashMap<&str, Vec<Step>> = HashMap::new();
    for step in steps {
        step.inputs.iter().for_each(|input| readers.entry(input).or_default().push(*step));
    }
    let dequantizes = |s: &Step<'a>| s.op == "DequantizeLinear" && !s.outputs.iter().any(|o| outputs.contains(&o.as_str()));
    let quantized: HashMap<&str, &str> =
        steps.iter().filter(|s| dequantizes(s)).filter_map(|s| Some((s.outputs.first()?.as_str(), s.inputs.first()?.as_str()))).collect();
    let mut absorbed: HashSet<&str> = HashSet::new();
    let mut groups = Vec::new();
    for step in steps.iter().filter(|s| !dequantizes(s)) {
        if step.outputs.first().is_some_and(|o| absorbed.contains(o.as_str())) {
            continue;
        }
        let mut made: Vec<&str> = step.outputs.iter().map(String::as_str).collect();
        if let (Some(last), false) = (made.first_mut(), step.op == "QuantizeLinear") {
            let chain = epilogue(last, &readers, outputs);
            *last = chain.last().copied().unwrap_or(last);
            absorbed.extend(chain);
        }
        groups.push(Group { inputs: step.inputs.iter().map(|i| quantized.get(i.as_str()).copied().unwrap_or(i)).collect(), outputs: made });
    }
    groups
}

/// The values made from `value` by activations that alone read it, up to and with a `QuantizeLinear`; none where it does not end so.
fn epilogue<'a>(mut value: &'a str, readers: &HashMap<&'a str, Vec<Step<'a>>>, outputs: &[&str]) -> Vec<&'a str> {
    let mut chain = Vec::new();
    while let (Some([only]), false) = (readers.get(value).map(Vec::as_slice), outputs.contains(&value)) {
        let Some(output) = only.outputs.first() else { break };
        chain.push(output.as_str());
        match only.op {
            "QuantizeLinear" => return chain,
            "Relu" | "Clip" | "LeakyRelu" | "Sigmoid" | "HardSigmoid" | "HardSwish" | "Tanh" | "Gelu" => value = output,
            _ => break,
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps as `op: inputs -> outputs`; a value's name ends in its bytes.
    fn peak(graph: &[&str], outputs: &[&str]) -> u64 {
        let parts: Vec<(&str, Vec<String>, Vec<String>)> = graph
            .iter()
            .map(|line| {
                let (op, rest) = line.split_once(": ").unwrap();
                let (from, to) = rest.split_once(" -> ").unwrap();
                let names = |list: &str| list.split(' ').map(str::to_string).collect();
                (op, names(from), names(to))
            })
            .collect();
        let steps: Vec<Step> = parts.iter().map(|(op, inputs, outputs)| Step { op, inputs, outputs }).collect();
        max_live_bytes(&steps, outputs, |v| v.trim_start_matches(|c: char| c.is_alphabetic()).parse().unwrap_or(0))
    }

    #[test]
    fn a_value_dies_with_its_last_reader() {
        assert_eq!(peak(&["Conv: x10 -> a20", "Conv: a20 -> b5", "Conv: b5 -> y1"], &["y1"]), 30);
        assert_eq!(peak(&["Conv: x10 -> a20", "Conv: a20 -> b5", "Add: b5 x10 -> y1"], &["y1"]), 35);
    }

    #[test]
    fn quantized_groups_count_in_their_quantized_form() {
        let group = ["DequantizeLinear: x10 s -> xf40", "Conv: xf40 wf -> c80", "Relu: c80 -> r80", "QuantizeLinear: r80 t -> y20"];
        assert_eq!(peak(&group, &["y20"]), 30);
        assert_eq!(peak(&group, &["y20", "c80"]), 80 + 20);
    }

    #[test]
    fn a_dequantized_output_is_really_made() {
        assert_eq!(peak(&["Conv: x10 -> c80", "QuantizeLinear: c80 -> q20", "DequantizeLinear: q20 -> y80"], &["y80"]), 100);
    }
}
