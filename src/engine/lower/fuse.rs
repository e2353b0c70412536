//! Fusion by rows: a depthwise convolution and the pointwise one that alone reads it run together, a few rows at a time, so that
//! what lies between them stays in the nearest cache and takes no place in the arena. Where the depthwise one's input is large and
//! made for it alone, the convolution that makes it joins them: of its result only a window of rows ever exists.

use super::draft::{ConvDraft, Draft};
use super::{Lowering, Origin, Record, Work};
use crate::engine::fused::{Before, FusedStep};
use crate::engine::quantized::window::Fitted;
use crate::engine::step::{InPlace, Step};
use crate::kernels::{self, Border, Isa, Layout};
use std::ops::Range;

/// Fuses wherever it is possible. `outputs` are the storages that leave the program.
pub fn by_rows(lowering: &mut Lowering, outputs: &[usize]) {
    let mut second = 0;
    while second < lowering.records.len() {
        if let Some(first) = partner(lowering, second, outputs) {
            let [depthwise, pointwise] = take(lowering, first, &mut second);
            let mut joined = fused(depthwise, pointwise);
            if let Some(before) = maker(lowering, &joined, second, outputs) {
                let maker = lowering.records.remove(before);
                second -= 1;
                joined = preceded(maker, joined);
            }
            lowering.records.insert(second, joined);
        }
        second += 1;
    }
}

/// Takes two records out; `second` is then where the second one stood.
fn take(lowering: &mut Lowering, first: usize, second: &mut usize) -> [Record; 2] {
    let pointwise = lowering.records.remove(*second);
    *second -= 1;
    [lowering.records.remove(first), pointwise]
}

/// Bytes of a tensor that do not stay in the second-level cache of a small board beside what else a step needs.
const LARGE: usize = if cfg!(test) { 0 } else { 128 << 10 };

/// The convolution that makes the input of `joined`, which is to stand at `at`, for it alone.
fn maker(lowering: &Lowering, joined: &Record, at: usize, outputs: &[usize]) -> Option<usize> {
    let (input, layout) = (joined.reads[0], joined.layouts[0]);
    let large = layout.bytes() > LARGE && lowering.storages[input].origin == Origin::Arena;
    let own = !outputs.contains(&input) && !joined.reads[1..].contains(&input) && !joined.writes.contains(&input);
    if !large || !own || layout.channels != layout.pixel_stride {
        return None;
    }
    sole_writer(lowering, (input, &layout), at..at, joined).filter(|&first| {
        let writer = &lowering.records[first];
        writer.work.conv().is_some_and(|conv| !conv.is_depthwise(&writer.layouts) && conv.residual.is_none())
    })
}

/// The step before `reader` that alone writes `storage`, all of it as `layout`, where nobody but the reader reads it. It could
/// run where the reader does: what it reads has not changed by then. `place` is where the reader stands, empty where it has been
/// taken out.
fn sole_writer(lowering: &Lowering, (storage, layout): (usize, &Layout), place: Range<usize>, reader: &Record) -> Option<usize> {
    let touches = |r: &Record| r.reads.contains(&storage) || r.writes.contains(&storage);
    let mut others = lowering.records.iter().enumerate().filter(|(at, r)| !place.contains(at) && touches(r));
    let (first, writer) = others.next()?;
    let mut meanwhile = lowering.records.get(first + 1..place.start)?.iter().chain([reader]);
    let kept = meanwhile.all(|r| r.writes.iter().all(|w| !writer.reads.contains(w)));
    let whole = writer.writes == [storage] && writer.layouts.last() == Some(layout);
    (others.next().is_none() && kept && whole).then_some(first)
}

/// `joined` with the step that makes its input.
fn preceded(maker: Record, mut joined: Record) -> Record {
    if let Work::Kernel(draft) = &mut joined.work
        && let Some(fused) = draft.as_fused()
    {
        joined.name = format!("{} -> {}", maker.name, joined.name);
        fused.before = Some((maker.work, joined.layouts[0]));
        joined.reads[0] = maker.reads[0];
        joined.layouts[0] = maker.layouts[0];
    }
    joined
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
    sole_writer(lowering, (between, &layout), second..second + 1, record).filter(|&first| {
        let writer = &lowering.records[first];
        writer.work.conv().is_some_and(|conv| conv.is_depthwise(&writer.layouts) && conv.residual.is_none())
    })
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
    let work = Work::Kernel(Box::new(FusedDraft {
        before: None,
        between: pointwise.layouts[0],
        depthwise: depthwise.work,
        pointwise: pointwise.work,
    }));
    Record { name, work, reads, writes, layouts }
}

/// Both convolutions, and the placement of what lies between them. Reads: the depthwise one's input, the pointwise one's residual
/// if it has one.
pub struct FusedDraft {
    /// What makes the depthwise one's input, and the placement that its result would have: it then reads in its place.
    before: Option<(Work, Layout)>,
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
        let part = |layout: &Layout| FusedStep::part(layout, rows);
        let (before, first) = match &self.before {
            None => (None, depthwise.kernel(isa, &[input, self.between])?),
            Some((maker, made)) => {
                let before = before(maker.conv().ok_or_else(missing)?, depthwise, isa, input, made)?;
                let window = Layout { height: before.window(rows + 1), ..before.layout };
                let fitted = Fitted { pad: [0, depthwise.fitted.pad[1]], ..depthwise.fitted };
                let first = depthwise.fitted_kernel(isa, &fitted, &[window, part(&self.between)])?;
                (Some(before), first)
            }
        };
        let parts: Vec<Layout> = std::iter::once(&self.between).chain(&layouts[1..]).map(part).collect();
        let second = InPlace { kernel: pointwise.kernel(isa, &parts)?, in_place };
        let residual = (layouts.len() > 2).then(|| layouts[1]);
        Ok(Box::new(FusedStep { before, first, second, between: self.between, output, residual, rows, zero: pointwise.output_zero() }))
    }

    fn in_place(&self, read: usize) -> bool {
        read == 1
    }

    fn as_fused(&mut self) -> Option<&mut FusedDraft> {
        Some(self)
    }
}

/// The convolution that makes a window of `made` for `next`.
fn before(maker: &ConvDraft, next: &ConvDraft, isa: Isa, input: Layout, made: &Layout) -> Result<Before, kernels::Error> {
    let layout = Layout { border: Border { top: 0, bottom: 0, ..made.border }, ..*made };
    let fitted = &next.fitted;
    Ok(Before {
        conv: maker.kernel(isa, &[input, layout])?,
        layout,
        pad: fitted.pad[0],
        extent: (fitted.kernel[0] - 1) * fitted.dilation[0] + 1,
        stride: fitted.stride[0],
        zero: maker.output_zero(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::lower::{Operand, Value};
    use crate::engine::native;
    use crate::engine::program::Program;
    use crate::engine::quantized::binary::{Binary, Operation};
    use crate::engine::quantized::conv::Conv;
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

    /// Expand, filter, project, and on the way back the input added where it fits: lowered with `threads` and evaluated plainly.
    fn case(seed: u64, threads: usize) {
        let random = &mut Random(seed);
        let (channels, wide) = (1 + random.below(20), 2 + random.below(40));
        let (kernel, stride) = ([3, 5][random.below(2)], 1 + random.below(2));
        let shape = [1, channels, 5 + random.below(14), 3 + random.below(9)];
        let input = random.ty();
        let shape_of_first = [[1, 1, 0], [3, 2, 1]][random.below(2)];
        let (first, a) = conv(random, shape_of_first, 1, [channels, wide], input);
        let (second, b) = conv(random, [kernel, stride, kernel / 2], wide, [wide, wide], first.output);
        let (third, c) = conv(random, [1, 1, 0], 1, [wide, channels], second.output);
        let ops = [(&first, a), (&second, b), (&third, c)];
        let x = random.array(&shape);
        let (mut lowering, mut value, mut shapes) = (Lowering::default(), Value(0), vec![shape.to_vec()]);
        let mut expected = x.clone();
        lowering.native_value("x", &shape, Some(Dtype::Int8), x.values.len(), Origin::Input(0), 2);
        for (i, (op, weights)) in ops.iter().enumerate() {
            let made = op.shape(&[shapes[i].clone(), weights.shape.clone()]).unwrap();
            lowering.hint = ops.get(i + 1).map_or(Border::default(), |(next, w)| next.border(&[made.clone(), w.shape.clone()]));
            let operand = Operand { value: Some(value), shape: shapes[i].clone(), constant: None };
            let constant = Operand { value: None, shape: weights.shape.clone(), constant: Some(Arc::new(weights.clone())) };
            value = op.lower(&mut lowering, &[operand, constant]).unwrap().unwrap();
            lowering.set_readers(value, 1);
            expected = op.eval(&[expected, weights.clone()]).unwrap();
            shapes.push(made);
        }
        if shapes[3] == shapes[0] {
            let kind = Kind::Binary(Binary { operation: Operation::Add, low: -128, high: 127 });
            let sum = Operator { name: "sum".into(), kind, inputs: vec![third.output, input], output: random.ty() };
            let operand = |value: Value| Operand { value: Some(value), shape: shape.to_vec(), constant: None };
            value = sum.lower(&mut lowering, &[operand(value), operand(Value(0))]).unwrap().unwrap();
            expected = sum.eval(&[expected, x.clone()]).unwrap();
        }
        let outputs = vec![lowering.native(value).unwrap()];
        let program = native::prepare(Lowered { lowering, islands: vec![], outputs }, vec![x.values.len()], Default::default()).unwrap();
        let steps = program.nodes();
        assert!(steps.iter().any(|s| s.op.matches("rows into").count() == 2), "{steps:?}");
        let mut executor = program.executor(&Spread::threads(threads)).unwrap();
        executor.input_mut(0).iter_mut().zip(&x.values).for_each(|(byte, &v)| *byte = v as u8);
        executor.run().unwrap();
        let found: Vec<i8> = executor.output(0).iter().map(|&b| b as i8).collect();
        assert_eq!(found, expected.values, "seed {seed}, {threads} threads, shapes {shapes:?}");
    }

    #[test]
    fn three_convolutions_by_rows_equal_three_by_themselves() {
        (0..60).for_each(|seed| case(seed, 1 + seed as usize % 3));
    }
}
