//! Fusion by rows: a depthwise convolution and the pointwise one that alone reads it run together, a few rows at a time, so that
//! what lies between them stays in the nearest cache and takes no place in the arena.

use super::draft::{ConvDraft, Draft};
use super::{Lowering, Origin, Record, Work};
use crate::engine::fused::FusedStep;
use crate::engine::step::{InPlace, Step};
use crate::kernels::{self, Border, Isa, Layout};

/// Fuses wherever it is possible. `outputs` are the storages that leave the program.
pub fn by_rows(lowering: &mut Lowering, outputs: &[usize]) {
    let mut second = 0;
    while second < lowering.records.len() {
        if let Some(first) = partner(lowering, second, outputs) {
            // The fused step stands where the second one stood.
            let pointwise = lowering.records.remove(second);
            let depthwise = lowering.records.remove(first);
            second -= 1;
            lowering.records.insert(second, fused(depthwise, pointwise));
        }
        second += 1;
    }
}

/// The depthwise convolution whose result the pointwise convolution `second` alone reads.
fn partner(lowering: &Lowering, second: usize, outputs: &[usize]) -> Option<usize> {
    let record = &lowering.records[second];
    let conv = record.work.conv().filter(|conv| is_pointwise(conv) && !conv.is_depthwise(&record.layouts));
    let (between, layout) = (*record.reads.first()?, *record.layouts.first()?);
    let plain = layout.border == Border::default() && layout.channels == layout.pixel_stride && layout.height > 1;
    let inner = lowering.storages[between].origin == Origin::Arena && !outputs.contains(&between) && !record.reads[1..].contains(&between);
    if conv.is_none() || !plain || !inner {
        return None;
    }
    let touches = |r: &Record| r.reads.contains(&between) || r.writes.contains(&between);
    let mut others = lowering.records.iter().enumerate().filter(|(at, r)| *at != second && touches(r));
    let (first, writer) = others.next()?;
    let depthwise = writer.work.conv().is_some_and(|conv| conv.is_depthwise(&writer.layouts) && conv.residual.is_none());
    // The first one will run where the second does: what it reads must not have changed by then.
    let kept = lowering.records[first + 1..=second].iter().all(|r| r.writes.iter().all(|w| !writer.reads.contains(w)));
    let whole = writer.writes == [between] && writer.layouts.last() == Some(&layout);
    (others.next().is_none() && first < second && depthwise && kept && whole).then_some(first)
}

fn is_pointwise(conv: &ConvDraft) -> bool {
    let fitted = &conv.fitted;
    [fitted.kernel, fitted.stride].iter().flatten().all(|&n| n == 1) && fitted.pad == [0, 0]
}

fn fused(depthwise: Record, pointwise: Record) -> Record {
    let name = format!("{} -> {}", depthwise.name, pointwise.name);
    let reads = [&depthwise.reads[..1], &pointwise.reads[1..]].concat();
    let layouts = [&depthwise.layouts[..1], &pointwise.layouts[1..]].concat();
    let writes = pointwise.writes.clone();
    let work = Work::Kernel(Box::new(FusedDraft { between: pointwise.layouts[0], depthwise: depthwise.work, pointwise: pointwise.work }));
    Record { name, work, reads, writes, layouts }
}

/// Both convolutions, and the placement of what lies between them. Reads: the depthwise one's input, the pointwise one's residual
/// if it has one.
struct FusedDraft {
    depthwise: Work,
    pointwise: Work,
    between: Layout,
}

impl Draft for FusedDraft {
    fn finish(&self, isa: Isa, layouts: &[Layout], in_place: bool) -> Result<Box<dyn Step>, kernels::Error> {
        let (input, output) = (layouts[0], layouts[layouts.len() - 1]);
        let rows = FusedStep::rows_at_once(&self.between);
        let missing = || kernels::Error::Parameter { what: "a fused step without its convolutions", found: 0 };
        let (depthwise, pointwise) = (self.depthwise.conv().ok_or_else(missing)?, self.pointwise.conv().ok_or_else(missing)?);
        let first = depthwise.kernel(isa, &[input, self.between])?;
        let part = |layout: &Layout| FusedStep::part(layout, rows);
        let parts: Vec<Layout> = std::iter::once(&self.between).chain(&layouts[1..]).map(part).collect();
        let second = InPlace { kernel: pointwise.kernel(isa, &parts)?, in_place };
        let residual = (layouts.len() > 2).then(|| layouts[1]);
        Ok(Box::new(FusedStep { first, second, between: self.between, output, residual, rows, zero: pointwise.output_zero() }))
    }

    fn in_place(&self, read: usize) -> bool {
        read == 1
    }
}
