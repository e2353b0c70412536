//! Fusion by rows: operators of which each alone reads the result of the one before run together, a few rows at a time, so that
//! what lies between them stays in the nearest cache and takes no place in the arena.
//!
//! A depthwise convolution joins the pointwise one that reads it. What makes the input of such a pair, or of a maximum, joins them
//! where that input is large, or where the arena is fullest, as long as what a pass touches stays in a near cache.

use super::draft::{ConvDraft, Draft, PoolDraft};
use super::{Lowering, Origin, Record, Work, lifetimes};
use crate::engine::fused::{FusedStep, Last, MAKERS, Maker};
use crate::engine::plan;
use crate::engine::quantized::window::Fitted;
use crate::engine::step::{InPlace, Step};
use crate::kernels::{self, Border, Isa, Layout, Pantry};

/// Bytes between operators that stay in the nearest cache of a small board beside what else the loops touch (L1: 32 KiB and more).
const NEAR: usize = 24 << 10;

/// Bytes of all windows of a chain, in a small board's second-level cache.
const FAR: usize = 64 << 10;

/// Bytes that a pass of a chain touches: half of a second-level cache of 512 KiB.
const PASS: usize = 256 << 10;

/// Depthwise loops do four rows together: fewer are not done at once.
const TOGETHER: usize = 4;

/// Fuses wherever it is possible and pays. `outputs` are the storages that leave the program.
pub fn by_rows(lowering: &mut Lowering, outputs: &[usize]) {
    let mut reader = 0;
    while reader < lowering.records.len() {
        if let Some(first) = partner(lowering, reader, outputs) {
            reader = join(lowering, first, reader);
            while let Some(first) = near_maker(lowering, reader, outputs).filter(|_| is_large(&lowering.records[reader])) {
                reader = join(lowering, first, reader);
            }
        }
        reader += 1;
    }
    while let Some((first, reader)) = fullest(lowering, outputs) {
        join(lowering, first, reader);
    }
}

/// Joins the step `first` to the step `reader`, which alone reads what it makes, and returns where that stands then.
fn join(lowering: &mut Lowering, first: usize, reader: usize) -> usize {
    let last = lowering.records.remove(reader);
    let maker = lowering.records.remove(first);
    let output = last.layouts[last.layouts.len() - 1];
    let mut chain = links(maker.work, last.layouts[0]);
    chain.extend(links(last.work, output));
    let record = Record {
        name: format!("{} -> {}", maker.name, last.name),
        work: Work::Kernel(Box::new(FusedDraft { links: chain })),
        reads: [&maker.reads[..1], &last.reads[1..]].concat(),
        writes: last.writes,
        layouts: [&maker.layouts[..1], &last.layouts[1..]].concat(),
    };
    lowering.records.insert(reader - 1, record);
    reader - 1
}

/// The operators of a step that makes a tensor placed as `made`, each with the placement of its result.
fn links(mut work: Work, made: Layout) -> Vec<(Work, Layout)> {
    match work.draft_mut().and_then(|draft| draft.as_fused()) {
        Some(fused) => std::mem::take(&mut fused.links),
        None => vec![(work, made)],
    }
}

/// What starts a chain with the step `reader`: before a pointwise convolution a depthwise one, before a maximum any convolution
/// whose result is large.
fn partner(lowering: &Lowering, reader: usize, outputs: &[usize]) -> Option<usize> {
    let record = &lowering.records[reader];
    let first = maker(lowering, reader, outputs)?;
    let writer = &lowering.records[first];
    let depthwise = |r: &Record| r.work.conv().is_some_and(|conv| conv.is_depthwise(&r.layouts));
    let pair = record.work.conv().is_some_and(|conv| conv.is_pointwise() && !depthwise(record)) && depthwise(writer);
    let maximum = record.work.pool().is_some_and(PoolDraft::is_maximum) && is_large(record);
    (pair || maximum).then_some(first)
}

/// What makes the input of a chain, where the longer one stays near.
fn near_maker(lowering: &Lowering, reader: usize, outputs: &[usize]) -> Option<usize> {
    maker(lowering, reader, outputs).filter(|&first| stays_near(lowering, first, reader))
}

/// What a pass of the chain of these two steps touches, windows and weights, stays in a second-level cache: it would come from a farther
/// one in every pass, tensors between operators just once.
fn stays_near(lowering: &Lowering, first: usize, reader: usize) -> bool {
    let links: Vec<(&Work, Layout)> = [first, reader].into_iter().flat_map(|at| lowering.records[at].links()).collect();
    let weights: usize = links.iter().filter_map(|(work, _)| work.conv()).map(|conv| conv.weights.values.len()).sum();
    let rows = links.last().map_or(0, |(_, made)| made.height.min(TOGETHER));
    windows(&links, rows).iter().sum::<usize>() + weights <= PASS
}

/// What each but the first reads, and how many rows of that there are at most, when the last one makes `rows` rows.
fn reaches(links: &[(&Work, Layout)], rows: usize) -> Result<Vec<(Reach, usize)>, kernels::Error> {
    let mut reaches = Vec::with_capacity(links.len());
    let mut height = rows;
    for (work, _) in links.iter().skip(1).rev() {
        let reach = Reach::of(work).ok_or_else(unexpected)?;
        height = reach.rows(height);
        reaches.push((reach, height));
    }
    reaches.reverse();
    Ok(reaches)
}

/// Bytes of each window when the last one makes `rows` rows.
fn windows(links: &[(&Work, Layout)], rows: usize) -> Vec<usize> {
    links.iter().zip(reaches(links, rows).unwrap_or_default()).map(|((_, made), (_, height))| height * made.row_stride()).collect()
}

impl Record {
    /// Its operators, each with the placement of its result.
    fn links(&self) -> Vec<(&Work, Layout)> {
        match self.work.fused() {
            Some(fused) => fused.links(),
            None => self.layouts.last().map(|&made| (&self.work, made)).into_iter().collect(),
        }
    }
}

/// Fewer rows of a result than this are not divided evenly among threads, and a chain is divided by them alone.
const ROWS: usize = 8;

fn has_rows(record: &Record) -> bool {
    record.layouts.last().is_some_and(|output| output.height >= ROWS)
}

/// The step reads a tensor that does not stay in the second-level cache of a small board beside what else it needs, and makes rows
/// enough.
fn is_large(record: &Record) -> bool {
    const LARGE: usize = if cfg!(test) { 0 } else { 128 << 10 };
    record.layouts[0].bytes() > LARGE && has_rows(record)
}

/// The convolution, or chain of them, that makes the first input of the step `reader` for it alone. It could run where the reader
/// does: what it reads has not changed by then.
fn maker(lowering: &Lowering, reader: usize, outputs: &[usize]) -> Option<usize> {
    let record = &lowering.records[reader];
    let (input, layout) = (*record.reads.first()?, *record.layouts.first()?);
    let own = lowering.storages[input].origin == Origin::Arena && !outputs.contains(&input) && !record.reads[1..].contains(&input);
    if !own || layout.channels != layout.pixel_stride || layout.height == 1 {
        return None;
    }
    let touches = |r: &Record| r.reads.contains(&input) || r.writes.contains(&input);
    let mut others = lowering.records.iter().enumerate().filter(|(at, r)| *at != reader && touches(r));
    let (first, writer) = others.next()?;
    let kept = lowering.records.get(first + 1..=reader)?.iter().all(|r| r.writes.iter().all(|w| !writer.reads.contains(w)));
    let whole = writer.writes == [input] && writer.layouts.last() == Some(&layout);
    let fits = writer.reads.len() == 1 && writer.work.makes_rows() && writer.links().len() + record.links().len() <= MAKERS + 1;
    (others.next().is_none() && kept && whole && fits).then_some(first)
}

/// A chain where the arena is fullest and what makes its input, where that takes less memory row by row.
fn fullest(lowering: &Lowering, outputs: &[usize]) -> Option<(usize, usize)> {
    let buffers = lifetimes::buffers(&lowering.storages, &lowering.records, outputs);
    let reader = plan::busiest(&buffers)?;
    let record = lowering.records.get(reader).filter(|r| r.work.fused().is_some() && has_rows(r))?;
    let first = near_maker(lowering, reader, outputs)?;
    let ended = |read: &&usize| buffers[**read].last < reader;
    let longer: usize = lowering.records[first].reads.iter().filter(ended).map(|&read| buffers[read].size).sum();
    let Work::Kernel(draft) = &record.work else { return None };
    (longer + draft.window_bytes(&record.layouts) < buffers[record.reads[0]].size).then_some((first, reader))
}

/// A chain: operators with the placement that the result of each has, or would have. Reads: the first one's input, then the last one's
/// residual if it has one.
pub struct FusedDraft {
    links: Vec<(Work, Layout)>,
}

/// Rows that an operator reads.
struct Reach {
    pad: usize,
    extent: usize,
    stride: usize,
    /// What stands for padding where the input holds `zero` there.
    padding: fn(i8) -> i8,
}

impl Reach {
    fn of(work: &Work) -> Option<Reach> {
        if let Some(ConvDraft { fitted, .. }) = work.conv() {
            let extent = (fitted.kernel[0] - 1) * fitted.dilation[0] + 1;
            return Some(Reach { pad: fitted.pad[0], extent, stride: fitted.stride[0], padding: |zero| zero });
        }
        let params = work.pool()?.params;
        Some(Reach { pad: params.pad[0], extent: params.kernel[0], stride: params.stride[0], padding: |_| i8::MIN })
    }

    /// How many rows `count` rows of the result need.
    fn rows(&self, count: usize) -> usize {
        (count - 1) * self.stride + self.extent
    }
}

fn unexpected() -> kernels::Error {
    kernels::Error::Parameter { what: "a chain with an operator that has no rows: operators", found: 1 }
}

impl FusedDraft {
    fn links(&self) -> Vec<(&Work, Layout)> {
        self.links.iter().map(|(work, made)| (work, *made)).collect()
    }

    fn reaches(&self, rows: usize) -> Result<Vec<(Reach, usize)>, kernels::Error> {
        reaches(&self.links(), rows)
    }

    /// Rows that are done at once: as few equal parts of the output as keep in the nearest cache the two windows that an operator works
    /// on, and all of them in the one behind it.
    fn rows(&self, output: &Layout) -> usize {
        let links = self.links();
        let fit = |&rows: &usize| {
            let bytes = windows(&links, rows);
            let near = bytes.iter().all(|&one| one <= NEAR) && bytes.windows(2).all(|two| two[0] + two[1] <= NEAR);
            near && bytes.iter().sum::<usize>() <= FAR
        };
        let parts = 1..=output.height / TOGETHER;
        parts.map(|parts| output.height.div_ceil(parts)).find(fit).unwrap_or(TOGETHER).min(output.height)
    }

    fn makers(&mut self, isa: Isa, pantry: &mut Pantry, input: Layout, reaches: Vec<(Reach, usize)>) -> Result<Vec<Maker>, kernels::Error> {
        let mut makers: Vec<Maker> = Vec::with_capacity(reaches.len());
        for ((work, made), (reach, height)) in self.links.iter_mut().zip(reaches) {
            let conv = work.conv_mut().ok_or_else(unexpected)?;
            let layout = Layout { border: Border { top: 0, bottom: 0, ..made.border }, ..*made };
            let kernel = match makers.last() {
                None => conv.kernel(isa, pantry, &[input, layout])?,
                Some(before) => {
                    let fitted = Fitted { pad: [0, conv.fitted.pad[1]], ..conv.fitted };
                    conv.fitted_kernel(isa, pantry, &fitted, &[Maker::part(&before.layout, before.height), Maker::part(made, height)])?
                }
            };
            let Reach { pad, extent, stride, padding } = reach;
            makers.push(Maker { conv: kernel, layout, pad, extent, stride, zero: padding(conv.output_zero()), height });
        }
        Ok(makers)
    }
}

impl Draft for FusedDraft {
    fn finish(&mut self, isa: Isa, pantry: &mut Pantry, layouts: &[Layout], in_place: bool) -> Result<Box<dyn Step>, kernels::Error> {
        let (input, output) = (layouts[0], layouts[layouts.len() - 1]);
        let rows = self.rows(&output);
        let makers = self.makers(isa, pantry, input, self.reaches(rows + 1)?)?;
        let (Some(before), Some((work, _))) = (makers.last(), self.links.last_mut()) else { return Err(unexpected()) };
        let own = layouts[1..].iter().map(|layout| Maker::part(layout, rows + 1));
        let parts: Vec<Layout> = std::iter::once(Maker::part(&before.layout, before.height)).chain(own).collect();
        let (last, zero) = if let Some(conv) = work.conv_mut() {
            let fitted = Fitted { pad: [0, conv.fitted.pad[1]], ..conv.fitted };
            let kernel = conv.fitted_kernel(isa, pantry, &fitted, &parts)?;
            (Last::Conv(InPlace { kernel, in_place }), conv.output_zero())
        } else {
            let pool = work.pool().ok_or_else(unexpected)?;
            (Last::Pool(pool.part(isa, &parts)?), pool.params.output_zero)
        };
        let residual = (layouts.len() > 2).then(|| layouts[1]);
        Ok(Box::new(FusedStep { makers, last, output, residual, rows, zero }))
    }

    fn in_place(&self, read: usize) -> bool {
        read == 1
    }

    fn fused(&self) -> Option<&FusedDraft> {
        Some(self)
    }

    fn makes_rows(&self) -> bool {
        self.links.last().is_some_and(|(work, _)| work.conv().is_some())
    }

    fn window_bytes(&self, layouts: &[Layout]) -> usize {
        let height = self.reaches(TOGETHER + 1).ok().and_then(|reaches| Some(reaches.first()?.1));
        let first = self.links.first().and_then(|(work, _)| Reach::of(work));
        height.zip(first).map_or(usize::MAX, |(height, reach)| reach.rows(height).saturating_mul(layouts[0].row_stride()))
    }

    fn as_fused(&mut self) -> Option<&mut FusedDraft> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::lower::{Operand, Value};
    use crate::engine::native;
    use crate::engine::program::Program;
    use crate::engine::quantized::binary::{Binary, Operation};
    use crate::engine::quantized::conv::Conv;
    use crate::engine::quantized::pool::Pool;
    use crate::engine::quantized::product::Product;
    use crate::engine::quantized::window::{Padding, Window};
    use crate::engine::quantized::{Array, Kind, Operator, QuantizedType};
    use crate::engine::spread::Spread;
    use crate::engine::tract::lowering::Lowered;
    use crate::tensor::Dtype;
    use std::sync::Arc;

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) as usize % n
        }

        fn array(&mut self, shape: &[usize]) -> Array {
            Array { shape: shape.to_vec(), values: (0..shape.iter().product()).map(|_| self.below(256) as u8 as i8).collect() }
        }

        fn ty(&mut self) -> QuantizedType {
            QuantizedType { scale: 0.02 + self.below(100) as f32 / 500.0, zero: self.below(256) as u8 as i8, unsigned: false }
        }
    }

    /// A convolution of `input` to `output` channels, and its weights.
    fn conv(
        random: &mut Random,
        [kernel, stride, pad]: [usize; 3],
        groups: usize,
        io: [usize; 2],
        input: QuantizedType,
    ) -> (Operator, Array) {
        let weights = random.array(&[io[1], io[0] / groups, kernel, kernel]);
        let product = Product {
            weight_scales: vec![0.01],
            weight_zeros: vec![0],
            bias: (0..io[1]).map(|_| random.below(2000) as i32 - 1000).collect(),
            low: -120,
            high: 120,
        };
        let padding = Padding::Explicit(vec![pad; 4]);
        let window = Window { kernel: vec![kernel; 2], stride: vec![stride; 2], dilation: vec![1; 2], padding, ceil: false };
        let kind = Kind::Conv(Conv { window, groups, product });
        (Operator { name: "conv".into(), kind, inputs: vec![input], output: random.ty() }, weights)
    }

    /// Operators one after the other with their weights, lowered and run with `threads`, and evaluated plainly. Where shapes and a
    /// coin allow it the input is added in the end. Returns what the steps are.
    fn compare(
        random: &mut Random,
        shape: &[usize],
        input: QuantizedType,
        ops: &[(Operator, Option<Array>)],
        threads: usize,
    ) -> Vec<String> {
        let x = random.array(shape);
        let (mut lowering, mut value, mut shapes) = (Lowering::default(), Value(0), vec![shape.to_vec()]);
        let mut expected = x.clone();
        lowering.native_value("x", shape, Some(Dtype::Int8), x.values.len(), Origin::Input(0), 2);
        let both = |shape: &[usize], weights: &Option<Array>| -> Vec<Vec<usize>> {
            std::iter::once(shape.to_vec()).chain(weights.iter().map(|w| w.shape.clone())).collect()
        };
        for (i, (op, weights)) in ops.iter().enumerate() {
            let made = op.shape(&both(&shapes[i], weights)).unwrap();
            lowering.hint = ops.get(i + 1).map_or(Border::default(), |(next, w)| next.border(&both(&made, w)));
            let operand = Operand { value: Some(value), shape: shapes[i].clone(), constant: None };
            let constant = |w: &Array| Operand { value: None, shape: w.shape.clone(), constant: Some(Arc::new(w.clone())) };
            let operands: Vec<Operand> = std::iter::once(operand).chain(weights.iter().map(constant)).collect();
            value = op.lower(&mut lowering, &operands).unwrap().unwrap();
            lowering.set_readers(value, 1);
            expected = op.eval(&std::iter::once(expected).chain(weights.clone()).collect::<Vec<_>>()).unwrap();
            shapes.push(made);
        }
        if shapes.last() == shapes.first() {
            let kind = Kind::Binary(Binary { operation: Operation::Add, low: -128, high: 127 });
            let from = ops.last().map_or(input, |(op, _)| op.output);
            let sum = Operator { name: "sum".into(), kind, inputs: vec![from, input], output: random.ty() };
            let operand = |value: Value| Operand { value: Some(value), shape: shape.to_vec(), constant: None };
            value = sum.lower(&mut lowering, &[operand(value), operand(Value(0))]).unwrap().unwrap();
            expected = sum.eval(&[expected, x.clone()]).unwrap();
        }
        let outputs = vec![lowering.native(value).unwrap()];
        let program =
            native::prepare(Lowered { lowering, islands: vec![], outputs }, vec![x.values.len()], Default::default(), &mut Pantry::Closed)
                .unwrap();
        let mut executor = program.executor(&Spread::threads(threads)).unwrap();
        executor.input_mut(0).iter_mut().zip(&x.values).for_each(|(byte, &v)| *byte = v as u8);
        executor.run().unwrap();
        let found: Vec<i8> = executor.output(0).iter().map(|&b| b as i8).collect();
        assert_eq!(found, expected.values, "{threads} threads, shapes {shapes:?}");
        program.nodes().into_iter().map(|node| node.op).collect()
    }

    /// A filter of `wide` channels and what makes its input from `from` channels.
    fn expand(random: &mut Random, from: usize, wide: usize, input: QuantizedType) -> Vec<(Operator, Option<Array>)> {
        let (kernel, stride) = ([3, 5][random.below(2)], 1 + random.below(2));
        let shape = [[1, 1, 0], [3, 2, 1]][random.below(2)];
        let (first, a) = conv(random, shape, 1, [from, wide], input);
        let (second, b) = conv(random, [kernel, stride, kernel / 2], wide, [wide, wide], first.output);
        vec![(first, Some(a)), (second, Some(b))]
    }

    /// The result of `ops` in `to` channels.
    fn project(random: &mut Random, ops: &mut Vec<(Operator, Option<Array>)>, wide: usize, to: usize) {
        let input = ops[ops.len() - 1].0.output;
        let (third, c) = conv(random, [1, 1, 0], 1, [wide, to], input);
        ops.push((third, Some(c)));
    }

    /// Rows of the input for one of the result.
    fn strides(ops: &[(Operator, Option<Array>)]) -> usize {
        let stride = |op: &Operator| if let Kind::Conv(conv) = &op.kind { conv.window.stride[0] } else { 1 };
        ops.iter().map(|(op, _)| stride(op)).product()
    }

    #[test]
    fn chains_of_convolutions_by_rows_equal_each_by_itself() {
        for seed in 0..60 {
            let random = &mut Random(seed);
            let (channels, wide) = (1 + random.below(20), 2 + random.below(40));
            let input = random.ty();
            let mut ops = expand(random, channels, wide, input);
            project(random, &mut ops, wide, channels);
            let twice = random.below(2) == 0;
            if twice {
                let between = ops[2].0.output;
                ops.extend(expand(random, channels, wide, between));
                project(random, &mut ops, wide, channels);
            }
            let shape = [1, channels, ROWS * strides(&ops) + random.below(14), 3 + random.below(9)];
            let steps = compare(random, &shape, input, &ops, 1 + seed as usize % 3);
            assert!(steps.iter().any(|op| op.matches("rows into").count() == if twice { 5 } else { 2 }), "seed {seed}: {steps:?}");
        }
    }

    #[test]
    fn a_convolution_and_its_maximum_by_rows_equal_each_by_itself() {
        for seed in 0..60 {
            let random = &mut Random(seed);
            let (from, to) = (1 + random.below(9), 1 + random.below(40));
            let shape = [1, from, 60 + random.below(20), 5 + random.below(9)];
            let (input, size, stride) = (random.ty(), [1, 3, 7][random.below(3)], 1 + random.below(2));
            let (first, weights) = conv(random, [size, stride, size / 2], 1, [from, to], input);
            let pool = maximum(random, first.output);
            let steps = compare(random, &shape, input, &[(first, Some(weights)), (pool, None)], 1 + seed as usize % 3);
            assert!(steps.iter().any(|op| op.ends_with("rows into max pool")), "seed {seed}: {steps:?}");
        }
    }

    fn maximum(random: &mut Random, ty: QuantizedType) -> Operator {
        let (kernel, pad) = [(2, 0), (3, 0), (3, 1)][random.below(3)];
        let padding = Padding::Explicit(vec![pad; 4]);
        let stride = vec![1 + random.below(3); 2];
        let window = Window { kernel: vec![kernel; 2], stride, dilation: vec![1; 2], padding, ceil: random.below(2) == 0 };
        let pool = Pool { window: Some(window), max: true, count_padding: false, channels_last: false, drop_axes: false };
        Operator { name: "pool".into(), kind: Kind::Pool(pool), inputs: vec![ty], output: ty }
    }

    #[test]
    fn a_maximum_ends_a_chain() {
        for seed in 0..20 {
            let random = &mut Random(seed);
            let (from, wide) = (1 + random.below(4), 4 + random.below(8));
            let (input, shape) = (random.ty(), [1, from, 150 + random.below(20), 10]);
            let (first, weights) = conv(random, [3, 1, 1], 1, [from, wide], input);
            let ty = first.output;
            let pool = maximum(random, ty);
            let mut ops = vec![(first, Some(weights)), (pool, None)];
            if random.below(2) == 0 {
                ops.push((maximum(random, ty), None));
            }
            let (filter, b) = conv(random, [3, 1, 1], wide, [wide, wide], ty);
            ops.push((filter, Some(b)));
            project(random, &mut ops, wide, from);
            let steps = compare(random, &shape, input, &ops, 1 + seed as usize % 2);
            let with_maximum = steps.iter().filter(|op| op.ends_with("rows into max pool")).count();
            assert!(with_maximum == 1 && !steps.iter().any(|op| op.contains("max pool, rows")), "seed {seed}: {steps:?}");
        }
    }
}
