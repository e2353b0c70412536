//! Products of two activations, as in attention: `output[b] = a[b] x b[b]` for every batch, requantized.
//!
//! A matrix is a [`Layout`] whose pixels are its rows and whose channels are its columns; the matrices of a batch lie a fixed
//! number of bytes apart. The heads of attention are channel slices of one tensor of `heads * depth` channels, `depth` bytes
//! apart; dense matrices follow each other.
//!
//! Each thread packs the right side of a batch into its scratch, as differences from the zero point in 16 bits, blocks of 16
//! columns, rows in pairs; then four rows of the left side at a time meet every block:
//!
//! ```text
//!   y = clamp(round_half_even(f32(sum((a - a_zero) * (b - b_zero))) * multiplier) + zero_point)
//! ```

use super::compiled::Loops;
use super::conv::{equal, positive};
use super::pairs::{LANES, Pair, accumulate, pair};
use super::rows::step_at;
use super::{Border, Error, Isa, Layout, OutputQuant, SLACK, check_multiplier, store, widen};
use std::ops::Range;

/// One matrix a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices {
    /// The first batch's: `height * width` rows of `channels` columns.
    pub layout: Layout,
    /// Bytes from one batch's matrix to the next one's.
    pub step: usize,
}

impl Matrices {
    fn rows(&self) -> usize {
        self.layout.height * self.layout.width
    }

    /// Bytes from one row of a matrix to the next.
    fn pitch(&self) -> usize {
        if self.layout.width == 1 { self.layout.row_stride() } else { self.layout.pixel_stride }
    }

    /// Byte of the first column of a row.
    fn at(&self, batch: usize, row: usize) -> usize {
        self.layout.offset(0, 0) + batch * self.step + row * self.pitch()
    }

    /// Bytes that the last batch's last column ends at.
    fn end(&self, batches: usize) -> usize {
        self.at(batches - 1, self.rows() - 1) + self.layout.channels
    }

    fn check(&self, batches: usize) -> Result<(), Error> {
        let Layout { height, width, border, .. } = self.layout;
        self.layout.check()?;
        if height > 1 && width > 1 && border.left + border.right > 0 {
            return Err(Error::Parameter { what: "side border of a matrix", found: border.left + border.right });
        }
        let reach = self.step.checked_mul(batches).and_then(|n| n.checked_add(self.layout.bytes()));
        let reach = reach.filter(|&n| isize::try_from(n).is_ok());
        reach.map(|_| ()).ok_or(Error::Parameter { what: "step between matrices", found: self.step })
    }

    /// True where a row of all batches lies in one pixel.
    fn is_interleaved(&self, batches: usize) -> bool {
        batches > 1 && self.layout.first_channel + (batches - 1) * self.step + self.layout.channels <= self.layout.pixel_stride
    }
}

/// A matrix product as the model states it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatMulParams {
    pub batches: usize,
    /// `[m, k]`
    pub a: Matrices,
    /// `[k, n]`, or `[n, k]` where transposed.
    pub b: Matrices,
    pub b_is_transposed: bool,
    /// `[m, n]`, without a border. Batches are disjoint: one behind the other, or all of a row in one pixel.
    pub output: Matrices,
    pub a_zero: i8,
    pub b_zero: i8,
    /// `a_scale * b_scale / output_scale`.
    pub multiplier: f32,
    pub quant: OutputQuant,
}

impl MatMulParams {
    /// Rows, depth and columns of one product.
    fn size(&self) -> [usize; 3] {
        [self.output.rows(), self.a.layout.channels, self.output.layout.channels]
    }

    fn check(&self) -> Result<(), Error> {
        positive("batches", self.batches)?;
        [self.a, self.b, self.output].iter().try_for_each(|m| m.check(self.batches))?;
        let [m, k, n] = self.size();
        let b = [self.b.rows(), self.b.layout.channels];
        let [depth, columns] = if self.b_is_transposed { [b[1], b[0]] } else { b };
        equal("rows of the left matrix", m, self.a.rows())?;
        equal("depth of the right matrix", k, depth)?;
        equal("columns of the right matrix", n, columns)?;
        let bound = (k as u64).saturating_mul(255 * 255);
        if bound > i32::MAX as u64 {
            return Err(Error::Accumulator { channel: 0, bound });
        }
        check_multiplier(self.multiplier)?;
        self.quant.check()?;
        let Border { top, left, bottom, right } = self.output.layout.border;
        equal("border of a matrix product", 0, top.max(left).max(bottom).max(right))?;
        let apart = self.output.step >= m * self.output.pitch() || self.batches == 1;
        let beside = self.output.is_interleaved(self.batches) && self.output.step >= n;
        if apart || beside { Ok(()) } else { Err(Error::Parameter { what: "step between products", found: self.output.step }) }
    }
}

/// A matrix product, checked.
#[derive(Clone, Debug)]
pub struct MatMul {
    isa: Isa,
    params: MatMulParams,
    interleaved: bool,
}

/// Rows of the left side that are done at once.
const ROWS: usize = 4;

impl MatMul {
    pub fn prepare(isa: Isa, params: &MatMulParams) -> Result<MatMul, Error> {
        params.check()?;
        Ok(MatMul { isa, params: *params, interleaved: params.output.is_interleaved(params.batches) })
    }

    /// Bytes of scratch that one thread's [`MatMul::run`] needs.
    pub fn scratch_bytes(&self) -> usize {
        let [_, k, n] = self.params.size();
        k.div_ceil(2) * size_of::<Pair>() * (n.next_multiple_of(LANES) + ROWS)
    }

    /// Multiply-accumulates of all parts.
    pub fn macs(&self) -> u64 {
        self.params.size().iter().map(|&n| n as u64).product::<u64>() * self.params.batches as u64
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        let side = if self.params.b_is_transposed { ", right side transposed" } else { "" };
        format!("{} matrix product{side}", self.isa.name())
    }

    /// Parts that the work can be split into: the rows of all batches one after the other, or, where a pixel holds a row of
    /// every batch, the pixels.
    pub fn parts(&self) -> usize {
        self.params.output.rows() * if self.interleaved { 1 } else { self.params.batches }
    }

    /// Bytes of the output that the writer of `parts` owns; all parts own all bytes, slack included.
    pub fn owned(&self, parts: Range<usize>) -> Range<usize> {
        let output = &self.params.output;
        let m = output.rows();
        let start = |part: usize| if self.interleaved { part * output.pitch() } else { part / m * output.step + part % m * output.pitch() };
        let batches = if self.interleaved { 1 } else { self.params.batches };
        let end = if parts.end == self.parts() { (batches - 1) * output.step + m * output.pitch() + SLACK } else { start(parts.end) };
        start(parts.start)..end
    }

    /// Computes `parts`. `a` and `b` are whole tensors, `output` the bytes that [`MatMul::owned`] names.
    pub fn run(&self, a: &[u8], b: &[u8], output: &mut [u8], parts: Range<usize>, scratch: &mut [u8]) {
        let p = &self.params;
        assert!(parts.start < parts.end && parts.end <= self.parts(), "parts {parts:?} of {}", self.parts());
        assert!(a.len() >= p.a.end(p.batches) && b.len() >= p.b.end(p.batches));
        assert!(output.len() >= self.owned(parts.clone()).len());
        let (base, m) = (self.owned(parts.clone()).start, p.output.rows());
        let pairs = scratch[..self.scratch_bytes()].as_chunks_mut().0;
        let (right, left) = pairs.split_at_mut(p.size()[1].div_ceil(2) * p.size()[2].next_multiple_of(LANES));
        let right = right.as_chunks_mut().0;
        for batch in 0..p.batches {
            let first = if self.interleaved { 0 } else { batch * m };
            let rows = parts.start.clamp(first, first + m) - first..parts.end.clamp(first, first + m) - first;
            if !rows.is_empty() {
                self.isa.compiled(Product { op: self, batch, rows, a, b, output, base, right, left });
            }
        }
    }
}

/// Some rows of one batch.
struct Product<'a> {
    op: &'a MatMul,
    batch: usize,
    rows: Range<usize>,
    a: &'a [u8],
    b: &'a [u8],
    output: &'a mut [u8],
    /// What the output's bytes start at in the tensor.
    base: usize,
    /// `[block of columns][pair of the depth][lane]`
    right: &'a mut [[Pair; LANES]],
    /// `[row of the tile][pair of the depth]`
    left: &'a mut [Pair],
}

impl Loops for Product<'_> {
    #[inline(always)]
    fn run(self) {
        let Product { op, batch, rows, a, b, output, base, right, left } = self;
        let p = &op.params;
        let pairs = p.size()[1].div_ceil(2);
        if p.b_is_transposed {
            pack_transposed(p, &b[p.b.at(batch, 0)..], right);
        } else {
            pack(p, &b[p.b.at(batch, 0)..], right);
        }
        for first in rows.clone().step_by(ROWS) {
            let count = ROWS.min(rows.end - first);
            for (row, left) in left.chunks_exact_mut(pairs).enumerate() {
                // Rows past the last are done like it and left unwritten.
                differences(&a[p.a.at(batch, first + row.min(count - 1))..][..p.a.layout.channels], p.a_zero, left);
            }
            let left: [&[Pair]; ROWS] = std::array::from_fn(|row| &left[row * pairs..(row + 1) * pairs]);
            for (block, right) in right.chunks_exact(pairs).enumerate() {
                let mut acc = [[0; LANES]; ROWS];
                accumulate(op.isa, left, right, &mut acc);
                for (row, acc) in acc.iter().enumerate().take(count) {
                    let to = p.output.at(batch, first + row) - base + block * LANES;
                    let columns = LANES.min(p.output.layout.channels - block * LANES);
                    emit(p, acc, &mut output[to..to + columns]);
                }
            }
        }
    }
}

/// Bytes as differences from the zero point, in pairs; half a pair is filled up with zero.
#[inline(always)]
fn differences(bytes: &[u8], zero_point: i8, out: &mut [Pair]) {
    let zero = widen(store(zero_point));
    let (whole, rest) = bytes.as_chunks::<2>();
    out.iter_mut().zip(whole).for_each(|(out, &[first, second])| *out = pair(widen(first) - zero, widen(second) - zero));
    if let (Some(out), [last]) = (out.last_mut(), rest) {
        *out = pair(widen(*last) - zero, 0);
    }
}

/// The right side `[k, n]`. Behind an odd last row its own copy stands: the left side is zero there. Lanes past the last
/// column hold anything.
#[inline(always)]
fn pack(p: &MatMulParams, b: &[u8], right: &mut [[Pair; LANES]]) {
    let ([_, k, n], pitch, zero) = (p.size(), p.b.pitch(), widen(store(p.b_zero)));
    let row = |row: usize| &b[row.min(k - 1) * pitch..][..n];
    for (block, right) in right.chunks_exact_mut(k.div_ceil(2)).enumerate() {
        for (i, right) in right.iter_mut().enumerate() {
            let [first, second] = [2 * i, 2 * i + 1].map(|i| step_at(row(i), block * LANES));
            for lane in 0..LANES {
                right[lane] = pair(widen(first[lane]) - zero, widen(second[lane]) - zero);
            }
        }
    }
}

/// The right side `[n, k]`.
#[inline(always)]
fn pack_transposed(p: &MatMulParams, b: &[u8], right: &mut [[Pair; LANES]]) {
    let ([_, k, n], pitch, zero) = (p.size(), p.b.pitch(), widen(store(p.b_zero)));
    for (block, right) in right.chunks_exact_mut(k.div_ceil(2)).enumerate() {
        for lane in 0..LANES {
            let (whole, rest) = b[(block * LANES + lane).min(n - 1) * pitch..][..k].as_chunks::<2>();
            for (right, &[first, second]) in right.iter_mut().zip(whole) {
                right[lane] = pair(widen(first) - zero, widen(second) - zero);
            }
            if let (Some(right), [last]) = (right.last_mut(), rest) {
                right[lane] = pair(widen(*last) - zero, 0);
            }
        }
    }
}

/// Requantizes one row of a block.
#[inline(always)]
fn emit(p: &MatMulParams, acc: &[i32; LANES], out: &mut [u8]) {
    let mut bytes = [0; LANES];
    for lane in 0..LANES {
        bytes[lane] = store(p.quant.finish(acc[lane] as f32 * p.multiplier));
    }
    match out.first_chunk_mut() {
        Some(out) => *out = bytes,
        None => out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = byte),
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::super::suite::{Random, cases};
    use super::*;

    /// Matrices `[rows, columns]`, dense one behind the other or as heads beside each other.
    fn matrices(random: &mut Random, batches: usize, rows: usize, columns: usize) -> Matrices {
        let upright = random.chance(2);
        let place = |channels| if upright { Layout::new(rows, 1, channels) } else { Layout::new(1, rows, channels) };
        let (before, after) = (random.range(0..4), random.range(0..4));
        if random.chance(2) {
            let layout = place(before + batches * (columns + after)).channel_slice(before..before + columns);
            Matrices { layout, step: columns + after }
        } else {
            let layout = place(before + columns + after).channel_slice(before..before + columns);
            Matrices { layout, step: rows * layout.pixel_stride + random.range(0..3) }
        }
    }

    fn bytes(matrices: &Matrices, batches: usize) -> usize {
        matrices.end(batches) + matrices.layout.pixel_stride + SLACK
    }

    /// The matrices' bytes at `[batch][row][column]`.
    fn places(m: &Matrices, batches: usize) -> Vec<usize> {
        let rows = (0..batches).flat_map(|batch| (0..m.rows()).map(move |row| (batch, row)));
        rows.flat_map(|(batch, row)| (0..m.layout.channels).map(move |column| m.at(batch, row) + column)).collect()
    }

    fn filled(m: &Matrices, batches: usize, values: &[i8]) -> Vec<u8> {
        let mut out = vec![0xA5; m.end(batches)];
        places(m, batches).into_iter().zip(values).for_each(|(at, &value)| out[at] = store(value));
        out
    }

    fn params(random: &mut Random) -> MatMulParams {
        let batches = random.range(1..4);
        let [m, k, n] = [random.range(1..11), random.pick(&[1, 2, 3, 16, 33, 64]), random.pick(&[1, 5, 15, 16, 17, 40])];
        let b_is_transposed = random.chance(2);
        let [b_rows, b_columns] = if b_is_transposed { [n, k] } else { [k, n] };
        MatMulParams {
            batches,
            a: matrices(random, batches, m, k),
            b: matrices(random, batches, b_rows, b_columns),
            b_is_transposed,
            output: matrices(random, batches, m, n),
            a_zero: random.value(),
            b_zero: random.value(),
            multiplier: random.multiplier(k),
            quant: random.quant(),
        }
    }

    #[test]
    fn equals_the_reference_for_every_split() {
        for seed in 0..3 * cases() {
            let mut random = Random::new(seed + 190_000);
            let p = params(&mut random);
            let [a, b] = [&p.a, &p.b].map(|m| random.values(p.batches * m.rows() * m.layout.channels));
            let expected = reference::matmul(&p, &a, &b);
            let (a, b) = (filled(&p.a, p.batches, &a), filled(&p.b, p.batches, &b));
            for isa in Isa::supported() {
                let op = MatMul::prepare(isa, &p).unwrap();
                let mut output = vec![0x5A; bytes(&p.output, p.batches)];
                let mut scratch = vec![0xFF; op.scratch_bytes()];
                let cut = random.range(0..op.parts() + 1);
                for parts in [0..cut, cut..op.parts()].into_iter().filter(|p| !p.is_empty()) {
                    op.run(&a, &b, &mut output[op.owned(parts.clone())], parts, &mut scratch);
                }
                let places = places(&p.output, p.batches);
                let found: Vec<i8> = places.iter().map(|&at| super::super::load(output[at])).collect();
                assert!(found == expected, "{} seed {seed} cut {cut} {p:?}", isa.name());
                places.iter().for_each(|&at| output[at] = 0x5A);
                assert!(output.iter().all(|&byte| byte == 0x5A), "{} seed {seed} wrote beside its place: {p:?}", isa.name());
            }
        }
    }

    #[test]
    fn products_that_overlap_or_do_not_fit_are_refused() {
        let dense = |rows, columns| Matrices { layout: Layout::new(rows, 1, columns), step: rows * columns };
        let good = MatMulParams {
            batches: 2,
            a: dense(3, 4),
            b: dense(4, 5),
            b_is_transposed: false,
            output: dense(3, 5),
            a_zero: 0,
            b_zero: 0,
            multiplier: 0.1,
            quant: OutputQuant::full(0),
        };
        let refused = |change: &dyn Fn(&mut MatMulParams)| {
            let mut params = good;
            change(&mut params);
            MatMul::prepare(Isa::best(), &params).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert_eq!(refused(&|_| ()), "");
        assert!(refused(&|p| p.output.step = 7).contains("step between products"));
        assert!(refused(&|p| p.b_is_transposed = true).contains("depth of the right matrix"));
        assert!(refused(&|p| p.a.step = usize::MAX).contains("step between matrices"));
        assert!(refused(&|p| p.batches = 0).contains("batches"));
        assert!(refused(&|p| (p.a, p.b) = (dense(3, 40_000), dense(40_000, 5))).contains("beyond the 2147483647"));
        assert!(refused(&|p| p.output.layout.border.top = 1).contains("border"));
    }
}
