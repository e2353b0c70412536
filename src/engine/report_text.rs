//! The report as a table for people.

use super::report::{EngineNode, NodeReport, PortReport, Report, RunsIn};
use crate::config::value::Size;
use crate::tensor::TensorSpec;
use std::fmt;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let opsets: Vec<String> = self.opsets.iter().map(|o| format!("{} {}", o.domain, o.version)).collect();
        writeln!(f, "{}", self.model)?;
        writeln!(f, "  file      {} bytes, sha256 {}", self.file_bytes, self.digest)?;
        writeln!(f, "  producer  {}, IR {}, opset {}", self.producer, self.ir_version, opsets.join(", "))?;
        self.inputs.iter().try_for_each(|port| write_port(f, "input ", port))?;
        self.outputs.iter().try_for_each(|port| write_port(f, "output", port))?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "  warning   {warning}"))?;
        writeln!(f)?;
        write_nodes(f, &self.nodes)?;
        writeln!(f)?;
        write_steps(f, &self.engine_nodes)?;
        writeln!(f)?;
        self.write_totals(f)
    }
}

fn write_port(f: &mut fmt::Formatter<'_>, role: &str, port: &PortReport) -> fmt::Result {
    write!(f, "  {role}    {}", describe(&port.declared))?;
    if port.native != port.declared {
        write!(f, "; the engine takes {}", describe(&port.native))?;
    }
    writeln!(f)
}

fn describe(spec: &TensorSpec) -> String {
    let quant = spec.quant.map_or_else(String::new, |q| format!(" (scale {}, zero point {})", q.scale, q.zero_point));
    format!("{spec}{quant}")
}

/// Nodes folded at load have no row: there are many, and nothing of them runs.
fn write_nodes(f: &mut fmt::Formatter<'_>, nodes: &[NodeReport]) -> fmt::Result {
    writeln!(f, "  {:<28} {:<20} {:<22} {:>10} {:>13}  runs in", "node", "operator", "output", "parameters", "MACs")?;
    for node in nodes.iter().filter(|n| n.runs_in != RunsIn::Load) {
        let output = node.outputs.first().map_or_else(String::new, |o| format!("{} {:?}", o.dtype, o.shape));
        let (name, op) = (tail(&node.name, 28), tail(&node.op, 20));
        let place = node.runs_in.name();
        writeln!(f, "  {name:<28} {op:<20} {output:<22} {:>10} {:>13}  {place}: {}", node.parameters, node.macs, node.reason)?;
    }
    let folded = nodes.iter().filter(|n| n.runs_in == RunsIn::Load).count();
    writeln!(f, "  {folded} more nodes are computed at load")
}

/// What really runs, in order.
fn write_steps(f: &mut fmt::Formatter<'_>, steps: &[EngineNode]) -> fmt::Result {
    writeln!(f, "  {:>4} {:>12} {:>9} {:>9}  kernel, of the node", "step", "MACs", "weights", "moved")?;
    for (i, step) in steps.iter().enumerate() {
        let EngineNode { name, op, macs, weight_bytes, activation_bytes } = step;
        writeln!(f, "  {i:>4} {macs:>12} {weight_bytes:>9} {activation_bytes:>9}  {op}, {}", tail(name, 60))?;
    }
    Ok(())
}

/// The last `width` characters: exporters put what tells nodes apart at the end.
fn tail(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width { text.to_string() } else { text.chars().skip(length - width).collect() }
}

impl Report {
    fn write_totals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = &self.totals;
        let size = |bytes: u64| Size(bytes).to_string();
        writeln!(f, "  {} parameters, {} of constants in the file", totals.parameters, size(totals.file_weight_bytes))?;
        writeln!(f, "  {} MACs an inference, {:.1} % of them in int8", totals.macs, totals.int8_share * 100.0)?;
        writeln!(
            f,
            "  engine: {} of weights, {} of activations at the peak",
            size(totals.engine_weight_bytes),
            size(totals.activation_bytes)
        )?;
        writeln!(f, "  lower bound of activations, QDQ groups fused: {}", size(totals.max_live_bytes))?;
        write!(f, "  the engine runs {} nodes", self.engine_nodes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(tail("functional/conv2d_4/Conv2D", 11), "2d_4/Conv2D");
        assert_eq!(tail("été", 2), "té");
        assert_eq!(tail("x", 4), "x");
    }
}
