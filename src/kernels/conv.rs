//! Convolution: dense, grouped, pointwise, matrix product and depthwise, one or two dimensions.
//!
//! A matrix product `[m, k] x [k, n]` is a pointwise convolution over an image of height 1 and width m. There is no im2col
//! and no table of pointers: the input carries its padding as a border, so every window is inside it.

use super::arrange::{SEGMENT, arrangements};
use super::depthwise::Depthwise;
use super::forms::{Dense, Source, Windows};
use super::grouped::Grouped;
use super::guard::CHUNK;
use super::output::Output;
use super::pack::{Block, Columns, GROUP, Inputs, LANES, NarrowRule, Stretch, Style, Weights, pack, wants_guard};
use super::pantry::{Pantry, Reader, Writer};
use super::rows::{Runs, check_rows};
use super::weights::Int8Weights;
use super::winograd::{Job, Winograd};
use super::{AddQuant, Error, Isa, Layout, OutputQuant, SLACK, check_multiplier, load, store, with_kernel};
use std::ops::Range;

/// A convolution as the model states it, with the layouts that the planner chose.
#[derive(Clone, Debug)]
pub struct ConvParams<'a> {
    /// Its border must hold the padding: see [`ConvParams::border`].
    pub input: Layout,
    pub output: Layout,
    /// Height and width of the window, as all pairs here.
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Padding at the top and at the left. At the bottom and right it follows from the output's size.
    pub pad: [usize; 2],
    /// Divides input and output channels. Depthwise: groups, input and output channels all equal.
    pub groups: usize,
    /// Zero point of the input as int8; also what the border holds.
    pub input_zero: i8,
    /// `[output channel][input channel of its group][kernel height][kernel width]`.
    pub weights: Int8Weights<'a>,
    /// One an output channel, in units of `input_scale * weight_scale`.
    pub bias: &'a [i32],
    /// `input_scale * weight_scale / output_scale`, one an output channel.
    pub multipliers: &'a [f32],
    pub quant: OutputQuant,
    /// A tensor added to the requantized result; operand a is the convolution. [`ConvParams::quant`] then describes the
    /// convolution's own result, [`AddQuant::output`] the sum.
    pub residual: Option<(AddQuant, Layout)>,
}

impl ConvParams<'_> {
    /// The border that the input needs: padding at the top and left, and what the last window reads beyond the image.
    pub fn border(&self) -> super::Border {
        let beyond = |axis: usize, output: usize, input: usize| {
            let reach = (self.kernel[axis] - 1).saturating_mul(self.dilation[axis]).saturating_add(1);
            let last = (output - 1).saturating_mul(self.stride[axis]).saturating_add(reach);
            last.saturating_sub(self.pad[axis].saturating_add(input))
        };
        super::Border {
            top: self.pad[0],
            left: self.pad[1],
            bottom: beyond(0, self.output.height, self.input.height),
            right: beyond(1, self.output.width, self.input.width),
        }
    }

    /// Multiply-accumulates of one run; taps on the padding count.
    pub fn macs(&self) -> u64 {
        let weights = self.output.channels * (self.input.channels / self.groups) * self.kernel[0] * self.kernel[1];
        (self.output.height * self.output.width * weights) as u64
    }

    /// What packed weights depend on besides the numbers themselves.
    fn key(&self, isa: Isa, sums: bool) -> String {
        let bare = ConvParams { weights: Int8Weights::default(), bias: &[], multipliers: &[], ..self.clone() };
        format!("{} {} {bare:?}", isa.name(), if sums { "sums" } else { "bytes" })
    }

    /// Output channels of each block of a dense convolution, with their group: at most [`LANES`] each.
    fn blocks(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let channels = self.output.channels / self.groups;
        (0..self.groups).flat_map(move |group| {
            let (start, end) = (group * channels, (group + 1) * channels);
            (start..end).step_by(LANES).map(move |first| (group, first..(first + LANES).min(end)))
        })
    }

    /// Input bytes from the first tap of the last window.
    fn room(&self) -> usize {
        let [step_y, step_x] = self.steps();
        let windows = Grid { base: self.origin(), step_y, step_x };
        self.input.bytes().saturating_sub(windows.last(self.output.height, self.output.width))
    }

    /// Weights of an output channel, each less its zero point: -255..=255.
    pub(crate) fn channel_weights(&self, channel: usize) -> impl Iterator<Item = i16> + Clone {
        let count = self.input.channels / self.groups * self.kernel[0] * self.kernel[1];
        let zero = self.weights.zero(channel);
        self.weights.values[channel * count..][..count].iter().map(move |&weight| i16::from(weight) - zero)
    }

    /// The same of every output channel.
    pub(crate) fn weights_by_channel(&self) -> Vec<Vec<i16>> {
        (0..self.output.channels).map(|channel| self.channel_weights(channel).collect()).collect()
    }

    pub(crate) fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.input.channels && self.groups == self.output.channels
    }

    /// Input bytes from one output pixel's window to the next one's, down and to the right.
    pub(crate) fn steps(&self) -> [usize; 2] {
        [self.stride[0] * self.input.row_stride(), self.stride[1] * self.input.pixel_stride]
    }

    /// Input byte of the first window's first tap.
    pub(crate) fn origin(&self) -> usize {
        self.input.offset(0, 0) - self.pad[0] * self.input.row_stride() - self.pad[1] * self.input.pixel_stride
    }

    /// Input byte of tap (ky, kx), from the window's first.
    pub(crate) fn tap(&self, ky: usize, kx: usize) -> usize {
        ky * self.dilation[0] * self.input.row_stride() + kx * self.dilation[1] * self.input.pixel_stride
    }

    /// The same of every tap, in row order.
    pub(crate) fn taps(&self) -> impl Iterator<Item = usize> {
        (0..self.kernel[0]).flat_map(move |ky| (0..self.kernel[1]).map(move |kx| self.tap(ky, kx)))
    }

    /// Fails where a size does not fit, a weight or scale is out of range, or the input lacks its border.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_shape()?;
        let weights = [self.output.channels, self.input.channels / self.groups, self.kernel[0], self.kernel[1]];
        self.weights.check(&weights, self.output.channels)?;
        equal("biases", self.output.channels, self.bias.len())?;
        equal("scales", self.output.channels, self.multipliers.len())?;
        self.multipliers.iter().try_for_each(|&m| check_multiplier(m))
    }

    /// The part of [`ConvParams::check`] that looks at no weight, bias or multiplier.
    fn check_shape(&self) -> Result<(), Error> {
        self.input.check()?;
        self.output.check()?;
        for axis in 0..2 {
            positive("kernel size", self.kernel[axis])?;
            positive("stride", self.stride[axis])?;
            positive("dilation", self.dilation[axis])?;
        }
        positive("groups", self.groups)?;
        equal("input channels modulo groups", 0, self.input.channels % self.groups)?;
        equal("output channels modulo groups", 0, self.output.channels % self.groups)?;
        self.quant.check()?;
        self.check_border()?;
        self.residual.as_ref().map_or(Ok(()), |(add, layout)| self.check_residual(add, layout))
    }

    fn check_border(&self) -> Result<(), Error> {
        for axis in 0..2 {
            // Keeps the products of `tap` and `steps` small; where they matter they lie inside the tensor.
            let reach = self.kernel[axis].checked_mul(self.dilation[axis]).filter(|&n| n < 1 << 24 && self.stride[axis] < 1 << 24);
            reach.ok_or(Error::Parameter { what: "kernel size times dilation, or stride,", found: self.kernel[axis] })?;
        }
        let (needed, found) = (self.border(), self.input.border);
        let sides = [("top", needed.top, found.top), ("left", needed.left, found.left)];
        let sides = sides.into_iter().chain([("bottom", needed.bottom, found.bottom), ("right", needed.right, found.right)]);
        match sides.into_iter().find(|(_, needed, found)| needed > found) {
            Some((side, needed, found)) => Err(Error::Border { side, needed, found }),
            None => Ok(()),
        }
    }

    fn check_residual(&self, add: &AddQuant, layout: &Layout) -> Result<(), Error> {
        add.check()?;
        layout.check()?;
        equal("residual height", self.output.height, layout.height)?;
        equal("residual width", self.output.width, layout.width)?;
        equal("residual channels", self.output.channels, layout.channels)?;
        equal("zero point of the convolution in its residual addition", stored(self.quant.zero_point), stored(add.a_zero))
    }
}

fn stored(value: i8) -> usize {
    usize::from(store(value))
}

pub(crate) fn positive(what: &'static str, found: usize) -> Result<(), Error> {
    if found > 0 { Ok(()) } else { Err(Error::Parameter { what, found }) }
}

pub(crate) fn equal(what: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(Error::Mismatch { what, expected, found }) }
}

/// A grid of byte offsets: pixel (y, x) of the rows at hand is at `base + y * step_y + x * step_x`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub base: usize,
    pub step_y: usize,
    pub step_x: usize,
}

impl Grid {
    /// Of nothing that lies anywhere.
    #[cfg_attr(not(any(target_arch = "aarch64", target_arch = "arm")), allow(dead_code, reason = "for the cursors of ARM"))]
    pub const NONE: Grid = Grid { base: 0, step_y: 0, step_x: 0 };

    fn of(layout: &Layout, row: usize, channel: usize, sliced_at: usize) -> Grid {
        Grid { base: layout.offset(row, 0) + channel - sliced_at, step_y: layout.row_stride(), step_x: layout.pixel_stride }
    }

    /// Offset of pixel (y, x).
    pub fn at(&self, y: usize, x: usize) -> usize {
        self.base + y * self.step_y + x * self.step_x
    }

    /// Offset of the last of `height * width` pixels.
    pub fn last(&self, height: usize, width: usize) -> usize {
        self.at(height - 1, width - 1)
    }
}

/// Where a residual is read.
#[derive(Clone, Copy)]
pub(crate) struct Residual<'a> {
    pub add: &'a AddQuant,
    /// `None`: the output holds it and is overwritten.
    pub bytes: Option<&'a [u8]>,
    pub grid: Grid,
}

/// One block of output channels over some output rows: the inner loops' unit of work. `input` is the activation's bytes for
/// narrow weights, in the order of the block's arrangement if it has one, or the same as little-endian 16-bit numbers for wide and mixed
/// ones; `windows` counts elements either way.
pub(crate) struct Strip<'a> {
    pub block: &'a Block,
    pub height: usize,
    pub width: usize,
    pub input: &'a [u8],
    pub windows: Grid,
    /// The activation's bytes where `input` is 16-bit numbers, else `input` itself.
    pub bytes: &'a [u8],
    /// Weights are guarded, and `input` is what [`Kernel::halves`] makes.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "the rule of one instruction set"))]
    pub widened: bool,
    /// For guarded weights that are not `widened`: the [`Kernel::tops`] of `input`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "the rule of one instruction set"))]
    pub tops: &'a [u8],
    pub output: Output<'a>,
    pub pixels: Grid,
    pub after: After<'a>,
}

/// Which blocks of output channels are computed.
pub(crate) struct Blocks {
    pub range: Range<usize>,
    /// The call before was for the same rows of the same input, and scratch is as it left it.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "of interest to Winograd's form"))]
    pub again: bool,
}

/// Where a call writes, and the residual that it adds.
struct Target<'a> {
    output: Output<'a>,
    /// Of the whole tensor's bytes, the first of `output`.
    base: usize,
    /// `None`: there is none, or the output holds it.
    residual: Option<&'a [u8]>,
}

impl Target<'_> {
    fn reborrow(&mut self) -> Target<'_> {
        Target { output: self.output.reborrow(), ..*self }
    }
}

/// What becomes of the sums.
#[derive(Clone, Copy)]
pub(crate) enum After<'a> {
    /// Bytes.
    Quantize(&'a OutputQuant),
    /// Bytes, to which a residual is added.
    Add(&'a OutputQuant, Residual<'a>),
    /// Nothing: the output holds 32-bit numbers, little-endian.
    Sums,
}

impl After<'_> {
    /// Zero point and range of the bytes that are written; of sums any.
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code, reason = "others finish in two steps"))]
    pub fn bytes(&self) -> OutputQuant {
        match self {
            After::Quantize(quant) => **quant,
            After::Add(_, residual) => residual.add.output,
            After::Sums => OutputQuant::full(0),
        }
    }

    /// Bytes of one output value.
    pub fn size(&self) -> usize {
        if matches!(self, After::Sums) { 4 } else { 1 }
    }
}

impl Strip<'_> {
    pub fn residual(&self) -> Option<&Residual<'_>> {
        if let After::Add(_, residual) = &self.after { Some(residual) } else { None }
    }

    /// Height and width to loop over: one long row where rows follow each other without a gap everywhere.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")),
        allow(dead_code, reason = "the portable loops have no need")
    )]
    pub fn rows(&self) -> (usize, usize) {
        let grids = [Some(self.windows), Some(self.pixels), self.residual().map(|r| r.grid)];
        let seamless = grids.into_iter().flatten().all(|grid| grid.step_y == self.width * grid.step_x);
        if seamless { (1, self.height * self.width) } else { (self.height, self.width) }
    }

    /// True where a requantized value may exceed 32 bits before it is clamped.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 conversions do not saturate"))]
    pub fn is_loud(&self) -> bool {
        match &self.after {
            After::Quantize(_) => self.block.loud,
            After::Add(_, residual) => self.block.loud || residual.add.is_loud(),
            After::Sums => false,
        }
    }

    /// Panics unless every byte that the loops touch is inside its buffer. Loops may read one group past a window's span
    /// (`SLACK` covers it) and touch exactly `columns` values of an output pixel.
    pub fn check(&self) {
        let width = if matches!(self.block.weights(), Weights::Narrow(_)) && !self.widened { 1 } else { 2 };
        let end = self.windows.last(self.height, self.width) + self.block.groups().span();
        assert!(end * width <= self.input.len() && end <= self.bytes.len());
        assert!(self.block.guard().is_none() || self.widened || end / GROUP + CHUNK <= self.tops.len());
        assert!(self.pixels.last(self.height, self.width) + self.block.columns * self.after.size() <= self.output.len());
        if let Some(residual) = self.residual() {
            let bytes = residual.bytes.map_or(self.output.len(), <[u8]>::len);
            assert!(residual.grid.last(self.height, self.width) + self.block.columns <= bytes);
        }
    }
}

/// Inner loops of one instruction set. Implementations are bit-equal to `reference`.
pub(crate) trait Kernel: Copy {
    /// How dense weights are packed for [`Kernel::strip`].
    const STYLE: Style;
    /// Computes one strip.
    fn strip(self, strip: &mut Strip<'_>);
    /// Each byte as a little-endian 16-bit number (see [`super::widen`]). `wide` has twice the length of `bytes`.
    fn widen(self, bytes: &[u8], wide: &mut [u8]);
    /// [`super::guard::top`] of each [`GROUP`] bytes; `tops` is a quarter as long as `bytes`.
    fn tops(self, _bytes: &[u8], _tops: &mut [u8]) {
        unreachable!("no block is guarded");
    }
    /// The bytes as little-endian 16-bit numbers: of each four the first, the third, the second and the fourth. `wide` has twice the
    /// length of `bytes`, which is a multiple of four.
    fn halves(self, _bytes: &[u8], _wide: &mut [u8]) {
        unreachable!("no block is guarded");
    }
    /// The inputs of `windows` of `bytes` in the order of a [`Block::arrangement`], each window behind the one before.
    fn arrange(self, _order: &[u8], _bytes: &[u8], _windows: &Windows, _to: &mut [u8]) {
        unreachable!("no block is arranged");
    }
    /// The sum of two quantized tensors; three slices that span `runs`.
    #[inline(always)]
    fn add(self, quant: &AddQuant, runs: &Runs<3>, a: &[u8], b: &[u8], output: &mut [u8]) {
        for [from_a, from_b, to] in runs.iter() {
            for ((out, &a), &b) in output[to].iter_mut().zip(&a[from_a]).zip(&b[from_b]) {
                *out = store(quant.apply(load(a), load(b)));
            }
        }
    }
    /// `table[byte]` for each byte of `input`, or of `output` itself; slices that span `runs`.
    #[inline(always)]
    fn table(self, table: &[u8; 256], runs: &Runs<2>, input: Option<&[u8]>, output: &mut [u8]) {
        for [from, to] in runs.iter() {
            match input {
                Some(input) => output[to].iter_mut().zip(&input[from]).for_each(|(out, &byte)| *out = table[usize::from(byte)]),
                None => output[to].iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]),
            }
        }
    }
    /// Rows `rows` of a depthwise convolution. `output` are the bytes those rows own.
    fn depthwise(self, dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>);
    /// Whether there is [`Kernel::grouped`].
    const GROUPED: bool = false;
    /// Rows `rows` of a convolution of narrow groups. `output` are the bytes those rows own.
    fn grouped(self, _: &Grouped, _input: &[u8], _output: &mut [u8], _rows: Range<usize>) {
        unreachable!("prepared for an instruction set that has it");
    }
    /// Products of 16 bits take so many times as long as those of bytes; `None` where there is no [`Kernel::winograd`].
    const WINOGRAD: Option<usize> = None;
    /// A 3x3 convolution in Winograd's form.
    fn winograd(self, _: &Winograd, _: &mut Job<'_>) {
        unreachable!("prepared for an instruction set that has it");
    }
}

#[derive(Clone, Debug)]
enum Body {
    Dense(Dense),
    Depthwise(Box<Depthwise>),
    Grouped(Box<Grouped>),
    Winograd(Box<Winograd>),
}

/// A convolution packed for one instruction set.
#[derive(Clone, Debug)]
pub struct Conv {
    isa: Isa,
    body: Body,
    by_channels: bool,
    input: Layout,
    output: Layout,
    kernel_rows: usize,
    stride: usize,
    origin: usize,
    steps: [usize; 2],
    /// Output rows done at once, so that their input stays in the near caches.
    chunk: usize,
    quant: OutputQuant,
    residual: Option<(AddQuant, Layout)>,
    /// Made by [`Conv::prepare_sums`].
    sums: bool,
    macs: u64,
}

/// Input elements of a chunk: with the widened copy they fill half of a small board's second-level cache.
const CHUNK_ELEMENTS: usize = 64 << 10;
/// The same where blocks have them copied: the copy is to stay in the nearest cache beside them.
const ARRANGED_ELEMENTS: usize = 14 << 10;

impl Conv {
    /// Checks `params` and packs them for `isa`.
    pub fn prepare(isa: Isa, params: &ConvParams) -> Result<Conv, Error> {
        Conv::prepare_from(isa, params, &mut Pantry::Closed)
    }

    /// The same with packed weights that are kept, or to be kept.
    pub fn prepare_from(isa: Isa, params: &ConvParams, pantry: &mut Pantry) -> Result<Conv, Error> {
        Conv::pack(isa, params, false, pantry)
    }

    /// What [`Conv::prepare_from`] takes from `pantry`, without a look at weights, biases and multipliers; `None` where it would
    /// pack.
    pub fn kept(isa: Isa, params: &ConvParams, pantry: &mut Pantry) -> Option<Conv> {
        Conv::take(isa, params, false, pantry)
    }

    /// [`Conv::prepare_from`] for [`Conv::run_sums`]; multipliers, range and zero point of the output do not matter then.
    pub(crate) fn prepare_sums(isa: Isa, params: &ConvParams, pantry: &mut Pantry) -> Result<Conv, Error> {
        Conv::pack(isa, params, true, pantry)
    }

    fn take(isa: Isa, params: &ConvParams, sums: bool, pantry: &mut Pantry) -> Option<Conv> {
        if params.is_depthwise() || params.check_shape().is_err() {
            return None;
        }
        let take = |from: &mut Reader| with_kernel!(isa, k => Body::take(k, from, params, sums));
        Some(Conv::of(isa, params, sums, pantry.take(&params.key(isa, sums), take)?))
    }

    fn pack(isa: Isa, params: &ConvParams, sums: bool, pantry: &mut Pantry) -> Result<Conv, Error> {
        if let Some(kept) = Conv::take(isa, params, sums, pantry) {
            return Ok(kept);
        }
        params.check()?;
        let body = with_kernel!(isa, k => if sums { dense(k, params, true) } else { body(k, params) })?;
        // Depthwise weights are few.
        if !params.is_depthwise() {
            pantry.put(&params.key(isa, sums), |to| body.put(to));
        }
        Ok(Conv::of(isa, params, sums, body))
    }

    fn of(isa: Isa, params: &ConvParams, sums: bool, body: Body) -> Conv {
        let kernel_rows = (params.kernel[0] - 1) * params.dilation[0] + 1;
        let (row, height) = (params.input.row_stride(), params.output.height);
        let arranged = matches!(&body, Body::Dense(dense) if dense.is_arranged());
        let elements = if arranged { ARRANGED_ELEMENTS } else { CHUNK_ELEMENTS };
        let rows = (elements / row).saturating_sub(kernel_rows) / params.stride[0] + 1;
        let by_channels = body.blocks() > 1 && body.by_channels(params);
        Conv {
            isa,
            by_channels,
            body,
            input: params.input,
            output: params.output,
            kernel_rows,
            stride: params.stride[0],
            origin: params.origin(),
            steps: params.steps(),
            chunk: height.div_ceil(height.div_ceil(rows)),
            quant: params.quant,
            residual: params.residual,
            sums,
            macs: params.macs(),
        }
    }

    /// Bytes of scratch that one thread's [`Conv::run`] needs.
    pub fn scratch_bytes(&self) -> usize {
        match &self.body {
            Body::Dense(dense) => dense.scratch_bytes(self.window_rows(0..self.chunk).len(), self.chunk * self.output.width),
            Body::Winograd(wg) => wg.scratch_bytes(),
            Body::Depthwise(_) | Body::Grouped(_) => 0,
        }
    }

    /// Multiply-accumulates of all rows.
    pub fn macs(&self) -> u64 {
        self.macs
    }

    /// Whether threads better divide it by blocks of output channels than by rows: each then reads all of the input, but only its own
    /// weights.
    pub fn by_channels(&self) -> bool {
        self.by_channels
    }

    /// Blocks of output channels.
    pub fn blocks(&self) -> usize {
        self.body.blocks()
    }

    /// The output channels of blocks `blocks`.
    fn channels(&self, blocks: &Range<usize>) -> Range<usize> {
        let of = |index: usize| match &self.body {
            Body::Dense(dense) => (dense.blocks()[index].channel, dense.blocks()[index].columns),
            Body::Winograd(wg) => (wg.blocks[index].channel, wg.blocks[index].columns),
            Body::Depthwise(_) | Body::Grouped(_) => (0, self.output.channels),
        };
        let (last, columns) = of(blocks.end - 1);
        of(blocks.start).0..last + columns
    }

    /// Where the result of blocks `blocks` lies.
    pub fn slice(&self, blocks: Range<usize>) -> Layout {
        self.output.channel_slice(self.channels(&blocks))
    }

    /// Least output rows, or blocks where it goes by channels, that are done together without doing work twice.
    pub fn grain(&self) -> usize {
        match &self.body {
            Body::Winograd(wg) if self.by_channels() => wg.grain(),
            Body::Winograd(_) => super::winograd::TILE,
            _ => 1,
        }
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.body.weight_bytes()
    }

    /// What runs, for reports: instruction set, kind, and for dense layers how many weights need 16-bit products, or do with inputs
    /// near their maximum, and whether blocks have inputs in orders of their own.
    pub fn describe(&self) -> String {
        match &self.body {
            Body::Dense(dense) => {
                let count = |groups: fn(&Block) -> usize| dense.blocks().iter().map(groups).sum::<usize>();
                let (all, narrow) = (count(|b| b.groups().offsets().len()), count(Block::narrow_groups));
                let (what, how) = match dense.is_guarded() {
                    true => (count(|b| b.guard().map_or(0, |guard| guard.broken())), "guarded"),
                    false => (all - narrow, "wide"),
                };
                let arranged = if dense.is_arranged() { ", inputs arranged" } else { "" };
                format!("{} dense, {:.0} % of the weights {how}{arranged}", self.isa.name(), 100.0 * what as f32 / all as f32)
            }
            Body::Depthwise(_) => format!("{} depthwise", self.isa.name()),
            Body::Grouped(g) => format!("{} narrow groups, {:.0} % of the weights wide", self.isa.name(), 100.0 * g.wide_share()),
            Body::Winograd(_) => format!("{} winograd 4x4", self.isa.name()),
        }
    }

    /// Placement of the input.
    pub fn input(&self) -> &Layout {
        &self.input
    }

    /// Placement of the result.
    pub fn output(&self) -> &Layout {
        &self.output
    }

    /// Computes output rows `rows`. `input` holds the whole tensor, `output` the bytes that [`Layout::rows`] names for
    /// `rows`. With a residual in the parameters, `residual` holds that tensor, or is `None` where it lies in the output's
    /// own place (the same layout), to be overwritten.
    pub fn run(&self, input: &[u8], output: &mut [u8], rows: Range<usize>, residual: Option<&[u8]>, scratch: &mut [u8]) {
        check_rows(&self.output, output, &rows);
        assert!(input.len() >= self.input.bytes());
        match &self.body {
            Body::Depthwise(dw) => with_kernel!(self.isa, k => k.depthwise(dw, input, output, rows.clone())),
            Body::Grouped(g) => with_kernel!(self.isa, k => k.grouped(g, input, output, rows.clone())),
            _ => {
                let to = Target { output: Output::from(&mut *output), base: self.output.rows(rows.clone()).start, residual };
                with_kernel!(self.isa, k => self.run_on(k, input, to, rows.clone(), self.all_blocks(), scratch));
            }
        }
        self.output.fill_border(rows, output, self.border_byte());
    }

    /// Computes the output channels of blocks in all rows, piece by piece, where there are several. `output` is the whole tensor, of which
    /// the bytes of these channels are the caller's own ([`Conv::slice`]); the rest as in [`Conv::run`].
    pub fn run_channels(
        &self,
        input: &[u8],
        mut output: Output<'_>,
        pieces: impl Iterator<Item = Range<usize>>,
        residual: Option<&[u8]>,
        scratch: &mut [u8],
    ) {
        assert!(input.len() >= self.input.bytes() && output.len() >= self.output.bytes());
        let (rows, byte) = (0..self.output.height, self.border_byte());
        for (number, blocks) in pieces.enumerate() {
            assert!(blocks.start < blocks.end && blocks.end <= self.blocks(), "blocks {blocks:?} of {}", self.blocks());
            let to = Target { output: output.reborrow(), base: 0, residual };
            let which = Blocks { range: blocks.clone(), again: number > 0 };
            with_kernel!(self.isa, k => self.run_on(k, input, to, rows.clone(), which, scratch));
            self.slice(blocks).each_of_border(rows.clone(), |bytes| output.fill(bytes, byte));
        }
    }

    fn border_byte(&self) -> u8 {
        store(self.residual.map_or(self.quant.zero_point, |(add, _)| add.output.zero_point))
    }

    /// The sums of output rows `rows` themselves, bias included: `output` are their little-endian 32-bit numbers, dense
    /// `[row][column][channel]`.
    pub(crate) fn run_sums(&self, input: &[u8], output: &mut [u8], rows: Range<usize>, scratch: &mut [u8]) {
        assert!(self.sums && rows.start < rows.end && rows.end <= self.output.height, "rows {rows:?} of {}", self.output.height);
        assert!(input.len() >= self.input.bytes());
        let to = Target { output: output.into(), base: self.sums_grid(rows.start, 0, 0).base, residual: None };
        with_kernel!(self.isa, k => self.run_on(k, input, to, rows, self.all_blocks(), scratch));
    }

    fn all_blocks(&self) -> Blocks {
        Blocks { range: 0..self.blocks(), again: false }
    }

    #[inline(always)]
    fn run_on<K: Kernel>(&self, kernel: K, input: &[u8], mut to: Target<'_>, rows: Range<usize>, blocks: Blocks, scratch: &mut [u8]) {
        let dense = match &self.body {
            Body::Dense(dense) => dense,
            Body::Winograd(wg) => return kernel.winograd(wg, &mut self.job(input, to, rows, blocks, scratch)),
            Body::Depthwise(_) | Body::Grouped(_) => unreachable!("has no blocks"),
        };
        for start in rows.clone().step_by(self.chunk) {
            let chunk = start..(start + self.chunk).min(rows.end);
            let window = self.window_rows(chunk.clone());
            let windows = self.windows(chunk.clone(), window.start);
            let mut forms = dense.forms(kernel, (&input[window.start..], window.len()), windows, scratch);
            for block in &dense.blocks()[blocks.range.clone()] {
                kernel.strip(&mut self.strip(block, chunk.clone(), forms.of(kernel, block), to.reborrow()));
            }
        }
    }

    #[inline(always)]
    fn strip<'a>(&'a self, block: &'a Block, rows: Range<usize>, source: Source<'a>, to: Target<'a>) -> Strip<'a> {
        let row = rows.start;
        let pixels = match self.sums {
            true => self.sums_grid(row, block.channel, to.base),
            false => Grid::of(&self.output, row, block.channel, to.base),
        };
        let after = match self.residual(&to, row, block.channel) {
            _ if self.sums => After::Sums,
            None => After::Quantize(&self.quant),
            Some(residual) => After::Add(&self.quant, residual),
        };
        Strip {
            block,
            height: rows.len(),
            width: self.output.width,
            input: source.input,
            windows: source.windows,
            bytes: source.bytes,
            widened: source.widened,
            tops: source.tops,
            output: to.output,
            pixels,
            after,
        }
    }

    /// Where the sums of a row lie in a dense tensor whose bytes are sliced at `sliced_at`.
    fn sums_grid(&self, row: usize, channel: usize, sliced_at: usize) -> Grid {
        let step_x = 4 * self.output.channels;
        let step_y = step_x * self.output.width;
        Grid { base: row * step_y + 4 * channel - sliced_at, step_y, step_x }
    }

    /// The windows of output rows `rows`, in an input sliced at `sliced_at`.
    fn windows(&self, rows: Range<usize>, sliced_at: usize) -> Windows {
        let base = self.origin + rows.start * self.steps[0] - sliced_at;
        Windows { height: rows.len(), width: self.output.width, grid: Grid { base, step_y: self.steps[0], step_x: self.steps[1] } }
    }

    fn job<'a>(&'a self, input: &'a [u8], to: Target<'a>, rows: Range<usize>, blocks: Blocks, scratch: &'a mut [u8]) -> Job<'a> {
        let Windows { height, width, grid } = self.windows(rows.clone(), 0);
        Job {
            height,
            width,
            input,
            windows: grid,
            blocks,
            pixels: Grid::of(&self.output, rows.start, 0, to.base),
            quant: &self.quant,
            residual: self.residual(&to, rows.start, 0),
            output: to.output,
            scratch,
        }
    }

    #[inline(always)]
    fn residual<'a>(&'a self, to: &Target<'a>, row: usize, channel: usize) -> Option<Residual<'a>> {
        let sliced_at = if to.residual.is_none() { to.base } else { 0 };
        self.residual.as_ref().map(|(add, layout)| Residual { add, bytes: to.residual, grid: Grid::of(layout, row, channel, sliced_at) })
    }

    /// Input bytes that output rows `rows` read: whole rows and the slack behind.
    fn window_rows(&self, rows: Range<usize>) -> Range<usize> {
        let stride = self.input.row_stride();
        let first = self.origin / stride + rows.start * self.stride;
        let end = first + (rows.len() - 1) * self.stride + self.kernel_rows;
        first * stride..end * stride + SLACK
    }
}

/// What a kept body is.
const DENSE: u32 = 0;
const WINOGRAD: u32 = 1;
const GROUPED: u32 = 2;

impl Body {
    fn blocks(&self) -> usize {
        match self {
            Body::Dense(dense) => dense.blocks().len(),
            Body::Winograd(wg) => wg.blocks.len(),
            Body::Depthwise(_) | Body::Grouped(_) => 1,
        }
    }

    /// Whether threads do better with blocks of output channels than with rows. Dense: these are so few that shares differ, and reading the
    /// others' inputs costs less than reading all of the weights.
    fn by_channels(&self, params: &ConvParams) -> bool {
        let height = params.output.height;
        match self {
            Body::Dense(_) => height == 1 || height < 16 && self.weight_bytes() > 4 * params.input.bytes(),
            Body::Winograd(wg) => wg.by_channels(),
            Body::Depthwise(_) | Body::Grouped(_) => false,
        }
    }

    fn weight_bytes(&self) -> usize {
        match self {
            Body::Dense(dense) => dense.blocks().iter().map(Block::bytes).sum(),
            Body::Depthwise(dw) => dw.bytes(),
            Body::Grouped(g) => g.bytes(),
            Body::Winograd(wg) => wg.bytes(),
        }
    }

    fn put(&self, to: &mut Writer) {
        match self {
            Body::Dense(dense) => {
                to.put(&[DENSE]);
                let blocks = dense.blocks();
                let before = std::iter::once(None).chain(blocks.iter().map(Some));
                blocks.iter().zip(before).for_each(|(block, before)| block.put(to, before));
            }
            Body::Winograd(wg) => {
                to.put(&[WINOGRAD]);
                wg.put(to);
            }
            Body::Grouped(g) => {
                to.put(&[GROUPED]);
                g.put(to);
            }
            Body::Depthwise(_) => unreachable!("not kept"),
        }
    }

    /// `None` where it is not what `kernel` could have made of these parameters.
    fn take<K: Kernel>(_: K, from: &mut Reader, params: &ConvParams, sums: bool) -> Option<Body> {
        match from.take_exactly()? {
            [DENSE] => {
                let room = params.room();
                let mut blocks: Vec<Block> = Vec::new();
                for (_, channels) in params.blocks() {
                    blocks.push(Block::take(from, &K::STYLE, channels, room, blocks.last())?);
                }
                let dense = Dense::new(blocks);
                let fits = (!dense.is_guarded() || in_groups(params)) && (!dense.is_arranged() || is_pointwise(params));
                fits.then_some(Body::Dense(dense))
            }
            [WINOGRAD] if !sums => Some(Body::Winograd(Box::new(Winograd::take(from, K::WINOGRAD?, params)?))),
            [GROUPED] if K::GROUPED && !sums => Some(Body::Grouped(Box::new(Grouped::take(from, &K::STYLE, params)?))),
            _ => None,
        }
    }
}

fn body<K: Kernel>(kernel: K, params: &ConvParams) -> Result<Body, Error> {
    if params.is_depthwise() {
        return Ok(Body::Depthwise(Box::new(Depthwise::pack(params, &K::STYLE)?)));
    }
    if K::GROUPED
        && let Some(grouped) = Grouped::pack(&K::STYLE, params)?
    {
        return Ok(Body::Grouped(Box::new(grouped)));
    }
    if let Some(wide_cost) = K::WINOGRAD
        && let Some(wg) = Winograd::pack(&K::STYLE, wide_cost, params)?
    {
        return Ok(Body::Winograd(Box::new(wg)));
    }
    dense(kernel, params, false)
}

/// `sums`: for sums. Those of dynamic quantization have their zero point only when they run.
fn dense<K: Kernel>(_: K, params: &ConvParams, sums: bool) -> Result<Body, Error> {
    let mut blocks: Vec<Block> = Vec::with_capacity(params.blocks().count());
    for ((group, channels), inputs) in params.blocks().zip(inputs(&K::STYLE, params, sums)) {
        let columns = Columns {
            channel: channels.start,
            weights: &block_weights(params, channels.clone()),
            bias: &params.bias[channels.clone()],
            multipliers: &params.multipliers[channels],
            input_zero: params.input_zero,
            inputs,
        };
        let mut block = pack(&K::STYLE, &stretches(params, group), &columns)?;
        if let Some(before) = blocks.last() {
            block.share_groups(before);
        }
        blocks.push(block);
    }
    Ok(Body::Dense(Dense::new(blocks)))
}

/// How each block is to meet its inputs. Packing gathers the weights once more: those of a whole layer, in 16 bits, are more than a load
/// should hold at once.
fn inputs(style: &Style, params: &ConvParams, sums: bool) -> Vec<Inputs> {
    let (all, mut blocks) = (params.blocks().count(), params.blocks().map(|(_, channels)| block_weights(params, channels)).peekable());
    if style.rule != NarrowRule::Pairs {
        return vec![Inputs::AsTheyAre; all];
    }
    // The first block stands for all.
    let guarded = |first: &Vec<Vec<i16>>| wants_guard(style, &stretches(params, 0), first, params.input_zero);
    if !sums && in_groups(params) && blocks.peek().is_some_and(guarded) {
        return vec![Inputs::Guarded; all];
    }
    if !is_pointwise(params) {
        return vec![Inputs::AsTheyAre; all];
    }
    arrangements(blocks).into_iter().map(|order| order.map_or(Inputs::AsTheyAre, Inputs::Arranged)).collect()
}

/// True where a window is a pixel with all of its channels.
fn is_pointwise(params: &ConvParams) -> bool {
    params.kernel == [1, 1] && params.groups == 1
}

/// Weights of each of these output channels, by [`taps_first`].
fn block_weights(params: &ConvParams, channels: Range<usize>) -> Vec<Vec<i16>> {
    channels.map(|channel| taps_first(params, channel)).collect()
}

/// True where every window's groups begin at multiples of [`GROUP`] bytes.
fn in_groups(params: &ConvParams) -> bool {
    let depth = params.input.channels / params.groups;
    [params.input.pixel_stride, params.origin(), depth].iter().all(|bytes| bytes.is_multiple_of(GROUP))
}

/// The contiguous stretches of a window of `group`, in the order of [`taps_first`].
fn stretches(params: &ConvParams, group: usize) -> Vec<Stretch> {
    let depth = params.input.channels / params.groups;
    let contiguous = depth == params.input.pixel_stride && params.dilation[1] == 1;
    let (taps, length) = if contiguous { (1, params.kernel[1] * depth) } else { (params.kernel[1], depth) };
    let at = (0..params.kernel[0]).flat_map(|ky| (0..taps).map(move |kx| (ky, kx)));
    let stretch = |(i, (ky, kx))| Stretch { offset: params.tap(ky, kx) + group * depth, length, first: i * length };
    at.enumerate().map(stretch).collect()
}

/// Weights of an output channel as `[kernel height][kernel width][input channel]`.
pub(crate) fn taps_first(params: &ConvParams, channel: usize) -> Vec<i16> {
    let depth = params.input.channels / params.groups;
    let taps = params.kernel[0] * params.kernel[1];
    let weights = params.channel_weights(channel);
    let mut out = Vec::with_capacity(taps * depth);
    (0..taps).for_each(|tap| out.extend(weights.clone().skip(tap).step_by(taps)));
    out
}

/// Longest read past the end of a run: the rest of its last group, or segment where it is arranged.
const _: () = assert!(GROUP <= SLACK && SEGMENT <= SLACK);
