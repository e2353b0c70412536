//! Dense weights in the order the inner loops read them.
//!
//! The sum over a window is cut into **runs**: stretches of input bytes that are contiguous for every output pixel (a whole
//! kernel row of `kernel_width * channels` bytes where the layout allows, else one tap). A run is cut into **groups** of
//! [`GROUP`] bytes; the last one is filled up with zero weights, so what the kernel reads behind the run does not matter.
//! Output channels are cut into **blocks** of 16 (or 8) lanes. A block's weights follow its runs, group by group:
//!
//! ```text
//!   narrow (i8):  [group][lane][4]                 one 32-bit broadcast of input meets `lanes * 4` bytes of weights
//!                 [pair of groups][lane][2][4]     the same for matrix instructions, where a run has two groups left
//!   wide (i16):   [group][half][lane][2]           the same with the input widened to 16 bits: two broadcasts
//! ```
//!
//! Narrow loops of x86 add two byte products in 16 bits. That cannot saturate when in every adjacent pair of a lane the
//! positive weights sum to at most 128 and the negative magnitudes too (255 * 128 <= 32767). A group that breaks the rule is
//! still exact for small inputs, and most are: blocks are **guarded** where that pays; see [`super::guard`]. Elsewhere the inputs are
//! **arranged** where that leaves few such groups; see [`super::arrange`]. Where neither is, such a group goes to the wide part of a
//! **mixed** block: the narrow loop adds up the groups that keep the rule, the wide one the rest.
//! ARM's rule is milder and broken seldom, so there, and where inputs are arranged, a group is **split**: half of each offending weight
//! stays, the rest goes to a further run over the same input bytes; see [`NarrowRule`]. Blocks where few groups keep the rule are packed
//! wide, which is always exact.
//!
//! The input's zero point is folded into the bias, the requantization factors lie beside it, both in lane order.

use super::arrange::{Arrangement, SEGMENT, arranged};
use super::groups::{Groups, Run};
use super::guard::{Guard, by_chunks, ceiling, expected_to_pay};
use super::pantry::{Reader, Writer};
use super::stored::Aligned;
use super::{Error, widen};
use std::ops::Range;
use std::sync::Arc;

/// Input bytes that one broadcast covers.
pub(crate) const GROUP: usize = 4;
/// Output channels of a full block.
pub(crate) const LANES: usize = 16;
/// Splitting costs one more group each, the wide loop about a quarter more than the narrow one for every group.
const SPLIT_LIMIT: f32 = 0.25;
/// Groups of a run that matrix instructions are worth it for.
const PAIRED_RUN: usize = 4;
/// A mixed block needs its input in both widths and two loops a tile: not for fewer narrow groups than this.
const MIX_LIMIT: f32 = 0.15;

/// When a narrow loop is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NarrowRule {
    /// For every 8-bit weight.
    Always,
    /// When adjacent pairs keep the sum of products in 16 bits, inputs being 0..=255.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "the rule of one instruction set"))]
    Pairs,
    /// When no weight is -128: two products of int8 then fit 16 bits.
    #[cfg_attr(not(any(target_arch = "aarch64", target_arch = "arm")), allow(dead_code, reason = "the rule of one instruction set"))]
    NoMinimum,
}

impl NarrowRule {
    /// Whether these weights, lanes of [`GROUP`] each, may be multiplied as bytes.
    pub fn keeps(self, lanes: &[i16]) -> bool {
        fit_bytes(lanes) && lanes.chunks_exact(2).all(|pair| pair_fits(self, pair[0], pair[1]))
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Weights {
    Narrow(Aligned<i8>),
    Wide(Aligned<i16>),
    /// The first of [`Block::groups`] are the narrow ones.
    Mixed(Aligned<i8>, Aligned<i16>),
}

/// Up to 16 output channels, ready for the inner loop. The constructor establishes what unsafe loops rely on: `weights` hold
/// exactly `lanes * GROUP` values for each of `groups`, in their order, ceilings, if any, make a [`Guard`], and an arrangement, if any,
/// has a place for all that groups read.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// First output channel.
    pub channel: usize,
    /// Output channels, 1..=lanes.
    pub columns: usize,
    lanes: usize,
    groups: Arc<Groups>,
    weights: Weights,
    /// True where two narrow groups of a run, from its first on, lie side by side: `[pair of groups][lane][2][4]`.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "the form of one instruction set"))]
    pub paired: bool,
    /// True where `acc * scale` may exceed 32 bits.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 conversions do not saturate"))]
    pub loud: bool,
    inputs: Meeting,
    /// The column that each lane holds.
    order: [u8; LANES],
    /// In lane order; lanes past `columns` are zero.
    pub bias: [i32; LANES],
    pub scale: [f32; LANES],
}

impl Block {
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Has the groups of `other` for its own where they are the same.
    pub fn share_groups(&mut self, other: &Block) {
        if self.groups == other.groups {
            self.groups = other.groups.clone();
        }
    }

    /// How many groups are narrow; they come first.
    pub fn narrow_groups(&self) -> usize {
        match &self.weights {
            Weights::Narrow(w) | Weights::Mixed(w, _) => w.as_slice().len() / (self.lanes * GROUP),
            Weights::Wide(_) => 0,
        }
    }

    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    pub fn guard(&self) -> Option<Guard<'_>> {
        let Meeting::Guarded(ceilings) = &self.inputs else { return None };
        Guard::new(&self.groups, ceilings.as_slice())
    }

    /// The order in which inputs are wanted, where that is not their own. It has a place for every byte of [`Groups::span`], up to a whole
    /// [`SEGMENT`].
    pub fn arrangement(&self) -> Option<&[u8]> {
        if let Meeting::Arranged(order) = &self.inputs { Some(order.as_slice()) } else { None }
    }

    /// The lane that holds a column.
    pub fn lane(&self, column: usize) -> usize {
        self.order.iter().position(|&c| usize::from(c) == column).unwrap_or(column)
    }

    /// 8 or 16.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Bytes of packed weights.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Narrow(w) => w.as_slice().len(),
            Weights::Wide(w) => 2 * w.as_slice().len(),
            Weights::Mixed(narrow, wide) => narrow.as_slice().len() + 2 * wide.as_slice().len(),
        }
    }

    /// `before`: the block that was put before it.
    pub fn put(&self, to: &mut Writer, before: Option<&Block>) {
        let shared = before.is_some_and(|before| Arc::ptr_eq(&before.groups, &self.groups));
        to.put(if shared { &[] } else { self.groups.offsets() });
        let (none, empty) = (Aligned::new(&[]), Aligned::new(&[]));
        let (narrow, wide) = match &self.weights {
            Weights::Narrow(narrow) => (narrow, &empty),
            Weights::Wide(wide) => (&none, wide),
            Weights::Mixed(narrow, wide) => (narrow, wide),
        };
        to.put(narrow.as_slice());
        to.put(wide.as_slice());
        to.put(&self.bias);
        to.put(&self.scale);
        to.put(&[u32::from(self.loud)]);
        self.inputs.put(to, before.map(|before| &before.inputs));
    }

    /// What [`Block::put`] wrote of a block of these output channels; `None` unless it is what unsafe loops rely on, with windows of
    /// at most `room` bytes. `before`: the block that was taken before it.
    pub fn take(from: &mut Reader, style: &Style, channels: Range<usize>, room: usize, before: Option<&Block>) -> Option<Block> {
        let (channel, columns) = (channels.start, channels.len());
        let (lanes, order) = style.lanes(columns);
        let (offsets, narrow, wide) = (from.take::<u32>()?, from.take::<i8>()?, from.take::<i16>()?);
        let (bias, scale, [loud]) = (from.take_exactly()?, from.take_exactly()?, from.take_exactly::<u32, 1>()?);
        let groups = match offsets.as_slice() {
            [] => before?.groups.clone(),
            offsets => Arc::new(Groups::new(offsets.to_vec())),
        };
        let lengths = [narrow.as_slice().len(), wide.as_slice().len()];
        let whole = lengths.iter().all(|length| length.is_multiple_of(lanes * GROUP));
        if !whole || lengths[0] / (lanes * GROUP) + lengths[1] / (lanes * GROUP) != groups.offsets().len() {
            return None;
        }
        let weights = match lengths {
            [0, 0] => return None,
            [_, 0] => Weights::Narrow(narrow),
            [0, _] => Weights::Wide(wide),
            _ => Weights::Mixed(narrow, wide),
        };
        let inputs = Meeting::take(from, before.map(|before| &before.inputs))?;
        // What is arranged is copied by whole segments.
        let (read, fits) = match &inputs {
            Meeting::AsTheyAre => (groups.span(), true),
            Meeting::Guarded(ceilings) => (groups.span(), Guard::new(&groups, ceilings.as_slice()).is_some()),
            Meeting::Arranged(order) => (order.as_slice().len(), order.as_slice().len() == groups.span().next_multiple_of(SEGMENT)),
        };
        let plain = matches!(inputs, Meeting::AsTheyAre);
        if read > room || !fits || !plain && (style.rule != NarrowRule::Pairs || !matches!(weights, Weights::Narrow(_))) {
            return None;
        }
        let paired = style.pairs(groups.runs(), &weights);
        let loud = loud != 0;
        Some(Block { channel, columns, lanes, groups, weights, paired, loud, inputs, order, bias, scale })
    }
}

/// How a block meets its inputs; narrow weights only, but for the first.
#[derive(Clone, Debug)]
enum Meeting {
    AsTheyAre,
    /// With the ceilings of a [`Guard`].
    Guarded(Aligned<u8>),
    /// In this order, which groups are meant for.
    Arranged(Arrangement),
}

impl Meeting {
    /// `before`: of the block that was put before.
    fn put(&self, to: &mut Writer, before: Option<&Meeting>) {
        match self {
            Meeting::AsTheyAre => to.put(&[AS_THEY_ARE]),
            Meeting::Guarded(ceilings) => {
                to.put(&[GUARDED]);
                to.put(ceilings.as_slice());
            }
            Meeting::Arranged(order) => {
                let shared = matches!(before, Some(Meeting::Arranged(before)) if Arc::ptr_eq(before, order));
                to.put(&[ARRANGED]);
                to.put(if shared { &[] } else { order.as_slice() });
            }
        }
    }

    fn take(from: &mut Reader, before: Option<&Meeting>) -> Option<Meeting> {
        match from.take_exactly()? {
            [AS_THEY_ARE] => Some(Meeting::AsTheyAre),
            [GUARDED] => from.take().map(Meeting::Guarded),
            [ARRANGED] => {
                let order = from.take::<u8>()?;
                match (order.as_slice(), before) {
                    ([], Some(Meeting::Arranged(before))) => Some(Meeting::Arranged(before.clone())),
                    ([], _) => None,
                    _ => Some(Meeting::Arranged(Arc::new(order))),
                }
            }
            _ => None,
        }
    }
}

/// Which [`Meeting`] was put.
const AS_THEY_ARE: u32 = 0;
const GUARDED: u32 = 1;
const ARRANGED: u32 = 2;

/// A stretch of the window: `length` input bytes from `offset`, weights `[column][first..first + length]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub offset: usize,
    pub length: usize,
    pub first: usize,
}

/// One block before packing. `weights[column]` lists a channel's weights in the order of the stretches.
pub(crate) struct Columns<'a> {
    pub channel: usize,
    pub weights: &'a [Vec<i16>],
    pub bias: &'a [i32],
    pub multipliers: &'a [f32],
    pub input_zero: i8,
    pub inputs: Inputs,
}

/// How a block is to meet its inputs.
#[derive(Clone)]
pub(crate) enum Inputs {
    AsTheyAre,
    /// As bytes, if with a [`Guard`] byte products can be exact.
    Guarded,
    /// As bytes in this order. The window is one stretch from its first byte on.
    Arranged(Arrangement),
}

/// How an instruction set wants its blocks.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    pub rule: NarrowRule,
    /// The column that a lane holds, for blocks of 16.
    pub order: [usize; LANES],
    /// Blocks may be [`Block::paired`].
    pub pairs: bool,
}

impl Style {
    /// Whether a block is paired: pairs of short runs pay for no other loop.
    fn pairs(&self, runs: &[Run], weights: &Weights) -> bool {
        self.pairs && matches!(weights, Weights::Narrow(_)) && runs.iter().any(|run| run.groups >= PAIRED_RUN)
    }

    /// Lanes of a block of so many columns, and the column that each holds.
    fn lanes(&self, columns: usize) -> (usize, [u8; LANES]) {
        if columns <= LANES / 2 { (LANES / 2, std::array::from_fn(|i| i as u8)) } else { (LANES, self.order.map(|column| column as u8)) }
    }
}

/// True where guards are expected to pay for weights of which these are a block, `[column][weight]`; by the rule of pairs.
pub(crate) fn wants_guard(style: &Style, stretches: &[Stretch], weights: &[Vec<i16>], input_zero: i8) -> bool {
    let (lanes, order) = style.lanes(weights.len());
    let groups = groups(stretches, weights, &order[..lanes]);
    let broken = groups.iter().filter(|group| !style.rule.keeps(&group.weights)).count();
    expected_to_pay(broken, widen(super::store(input_zero)) as u8)
}

/// Packs one block.
pub(crate) fn pack(style: &Style, stretches: &[Stretch], columns: &Columns) -> Result<Block, Error> {
    let count = columns.weights.len();
    let (lanes, order) = style.lanes(count);
    let own = || groups(stretches, columns.weights, &order[..lanes]);
    let ((offsets, mut weights), ceilings) = match &columns.inputs {
        Inputs::Arranged(places) => (all_narrow(arrange(style.rule, columns.weights, places.as_slice(), &order[..lanes])), None),
        Inputs::Guarded => guarded(style.rule, own()),
        Inputs::AsTheyAre => (choose(style.rule, own()), None),
    };
    let groups = Arc::new(Groups::new(offsets));
    let inputs = match (ceilings, &columns.inputs) {
        (Some(ceilings), _) => Meeting::Guarded(Aligned::new(&by_chunks(groups.chunks(), &ceilings))),
        (None, Inputs::Arranged(order)) => Meeting::Arranged(order.clone()),
        (None, _) => Meeting::AsTheyAre,
    };
    let paired = style.pairs(groups.runs(), &weights);
    if let (Weights::Narrow(weights), true) = (&mut weights, paired) {
        *weights = Aligned::new(&side_by_side(weights.as_slice(), groups.runs(), lanes));
    }
    let (mut bias, mut scale, mut loud) = ([0; LANES], [0.0; LANES], false);
    for (lane, column) in order[..lanes].iter().map(|&column| usize::from(column)).enumerate().filter(|(_, column)| *column < count) {
        let (folded, bound) = folded_bias(columns, column)?;
        (bias[lane], scale[lane]) = (folded, columns.multipliers[column]);
        loud |= is_loud(bound, scale[lane]);
    }
    let channel = columns.channel;
    Ok(Block { channel, columns: count, lanes, groups, weights, paired, loud, inputs, order, bias, scale })
}

/// True where a sum of up to `bound`, scaled, may exceed 32 bits: no loop but the portable one clamps before it converts.
pub(crate) fn is_loud(bound: i64, scale: f32) -> bool {
    bound as f64 * f64::from(scale).abs() >= f64::from(1 << 30)
}

/// The bias with `-zero_point * sum(weights)` in it, and the largest magnitude that a sum over any input can have. Fails
/// where that leaves 32 bits.
pub(crate) fn folded_bias(columns: &Columns, column: usize) -> Result<(i32, i64), Error> {
    let weights = &columns.weights[column];
    let sum: i64 = weights.iter().map(|&w| i64::from(w)).sum();
    let magnitude: i64 = weights.iter().map(|&w| i64::from(w).abs()).sum();
    let bias = i64::from(columns.bias[column]) - sum * i64::from(widen(super::store(columns.input_zero)));
    // |bias| alone, before the zero point is folded in, bounds the exact sum that is requantized.
    let bound = bias.abs().max(i64::from(columns.bias[column]).abs()) + 255 * magnitude;
    match i32::try_from(bias) {
        Ok(bias) if bound <= i64::from(i32::MAX) => Ok((bias, bound)),
        _ => Err(Error::Accumulator { channel: columns.channel + column, bound: bound.unsigned_abs() }),
    }
}

/// One group: where its input lies, and `[lane][GROUP]` weights.
#[derive(Clone)]
struct Group {
    offset: usize,
    weights: Vec<i16>,
}

fn groups(stretches: &[Stretch], columns: &[Vec<i16>], order: &[u8]) -> Vec<Group> {
    let mut out = Vec::new();
    for stretch in stretches {
        for at in (0..stretch.length).step_by(GROUP) {
            let length = GROUP.min(stretch.length - at);
            let mut weights = vec![0; order.len() * GROUP];
            for (weights, &column) in weights.chunks_exact_mut(GROUP).zip(order) {
                if let Some(column) = columns.get(usize::from(column)) {
                    weights[..length].copy_from_slice(&column[stretch.first + at..][..length]);
                }
            }
            out.push(Group { offset: stretch.offset + at, weights });
        }
    }
    out
}

/// As bytes, with the ceilings of a [`Guard`], if all groups can have one.
fn guarded(rule: NarrowRule, groups: Vec<Group>) -> ((Vec<u32>, Weights), Option<Vec<u8>>) {
    if !groups.iter().all(fits_guard) {
        return (choose(rule, groups), None);
    }
    let ceilings = groups.iter().map(|group| ceiling(&group.weights)).collect();
    (all_narrow(groups), Some(ceilings))
}

/// The groups of inputs in the order of an [`Arrangement`], those that break the rule split.
fn arrange(rule: NarrowRule, columns: &[Vec<i16>], places: &[u8], lanes: &[u8]) -> Vec<Group> {
    let columns: Vec<Vec<i16>> = columns.iter().map(|column| arranged(column, places)).collect();
    let whole = Stretch { offset: 0, length: columns[0].len(), first: 0 };
    split_all(rule, groups(&[whole], &columns, lanes))
}

/// The groups, behind them a second part of each that breaks the rule.
fn split_all(rule: NarrowRule, mut groups: Vec<Group>) -> Vec<Group> {
    let rest: Vec<Group> = groups.iter_mut().filter(|group| !rule.keeps(&group.weights)).map(|group| split(rule, group)).collect();
    groups.extend(rest);
    groups
}

/// As bytes, with the offset of each group.
fn all_narrow(groups: Vec<Group>) -> (Vec<u32>, Weights) {
    (offsets(&groups), Weights::Narrow(Aligned::new(&narrow(&groups))))
}

/// Narrow where it is exact and worth it, else wide, or each where it is best. With the offset of each group in the weights' order.
fn choose(rule: NarrowRule, groups: Vec<Group>) -> (Vec<u32>, Weights) {
    let broken = groups.iter().filter(|group| !rule.keeps(&group.weights)).count() as f32 / groups.len() as f32;
    if rule == NarrowRule::Pairs && broken > 0.0 && broken <= 1.0 - MIX_LIMIT {
        let (keeping, rest): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(|group| rule.keeps(&group.weights));
        let weights = Weights::Mixed(Aligned::new(&narrow(&keeping)), Aligned::new(&wide(&rest)));
        return ([offsets(&keeping), offsets(&rest)].concat(), weights);
    }
    if broken > SPLIT_LIMIT || !groups.iter().all(|group| fit_bytes(&group.weights)) {
        return (offsets(&groups), Weights::Wide(Aligned::new(&wide(&groups))));
    }
    all_narrow(split_all(rule, groups))
}

/// A guard needs bytes, and groups that begin at multiples of their size.
fn fits_guard(group: &Group) -> bool {
    fit_bytes(&group.weights) && group.offset.is_multiple_of(GROUP)
}

pub(crate) fn fit_bytes(weights: &[i16]) -> bool {
    weights.iter().all(|&weight| i8::try_from(weight).is_ok())
}

fn offsets(groups: &[Group]) -> Vec<u32> {
    groups.iter().map(|group| group.offset as u32).collect()
}

fn narrow(groups: &[Group]) -> Vec<i8> {
    let mut out = Vec::with_capacity(groups.iter().map(|g| g.weights.len()).sum());
    groups.iter().for_each(|g| out.extend(g.weights.iter().map(|&w| w as i8)));
    out
}

fn wide(groups: &[Group]) -> Vec<i16> {
    let mut out = Vec::with_capacity(groups.iter().map(|g| g.weights.len()).sum());
    for (group, half) in groups.iter().flat_map(|g| [(g, 0), (g, 2)]) {
        group.weights.chunks_exact(GROUP).for_each(|weights| out.extend_from_slice(&weights[half..half + 2]));
    }
    out
}

/// Narrow groups in the order of [`Block::paired`].
fn side_by_side(weights: &[i8], runs: &[Run], lanes: usize) -> Vec<i8> {
    let mut out = Vec::with_capacity(weights.len());
    let mut groups = weights.chunks_exact(lanes * GROUP);
    for run in runs {
        for _ in 0..run.groups / 2 {
            for (first, last) in groups.next().into_iter().zip(groups.next()) {
                first.chunks_exact(GROUP).zip(last.chunks_exact(GROUP)).for_each(|(a, b)| out.extend([a, b].concat()));
            }
        }
        out.extend(groups.by_ref().take(run.groups % 2).flatten());
    }
    out
}

/// Largest sum of one sign in a pair whose products with a byte stay in 16 bits.
pub(crate) const PAIR_LIMIT: i16 = 128;

fn pair_fits(rule: NarrowRule, a: i16, b: i16) -> bool {
    match rule {
        NarrowRule::Always => true,
        NarrowRule::Pairs => a.max(0) + b.max(0) <= PAIR_LIMIT && a.min(0) + b.min(0) >= -PAIR_LIMIT,
        NarrowRule::NoMinimum => a.min(b) > i16::from(i8::MIN),
    }
}

/// Halves every offending pair in place and returns the other halves.
fn split(rule: NarrowRule, group: &mut Group) -> Group {
    let mut rest = vec![0; group.weights.len()];
    for (pair, rest) in group.weights.chunks_exact_mut(2).zip(rest.chunks_exact_mut(2)) {
        if !pair_fits(rule, pair[0], pair[1]) {
            for (weight, rest) in pair.iter_mut().zip(rest) {
                *rest = *weight - *weight / 2;
                *weight /= 2;
            }
        }
    }
    Group { offset: group.offset, weights: rest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_byte_is_kept_by_no_rule() {
        assert!(NarrowRule::Pairs.keeps(&[127, 1, -128, 127]) && NarrowRule::Always.keeps(&[-128; 4]));
        for rule in [NarrowRule::Always, NarrowRule::Pairs, NarrowRule::NoMinimum] {
            assert!(!rule.keeps(&[0, 128, 0, 0]) && !rule.keeps(&[0, 0, -129, 0]), "{rule:?}");
        }
    }

    fn style(rule: NarrowRule) -> Style {
        Style { rule, order: std::array::from_fn(|i| i), pairs: false }
    }

    fn block(rule: NarrowRule, weights: &[Vec<i16>]) -> Block {
        let bias = vec![0; weights.len()];
        let multipliers = vec![1.0; weights.len()];
        let columns = Columns { channel: 0, weights, bias: &bias, multipliers: &multipliers, input_zero: 0, inputs: Inputs::AsTheyAre };
        let length = weights[0].len();
        let half = length / 2;
        let stretches = [Stretch { offset: 0, length: half, first: 0 }, Stretch { offset: half + 9, length: length - half, first: half }];
        pack(&style(rule), &stretches, &columns).unwrap()
    }

    /// The sum of weights that a block holds for a lane at each input offset.
    fn unpack(block: &Block, lane: usize) -> std::collections::BTreeMap<usize, i32> {
        let mut out = std::collections::BTreeMap::new();
        let narrow = |w: &Aligned<i8>, g: usize, k: usize| i32::from(w.as_slice()[(g * block.lanes() + lane) * GROUP + k]);
        let wide = |w: &Aligned<i16>, g: usize, k: usize| i32::from(w.as_slice()[((g * 2 + k / 2) * block.lanes() + lane) * 2 + k % 2]);
        for (g, &offset) in block.groups().offsets().iter().enumerate() {
            for k in 0..GROUP {
                let weight = match block.weights() {
                    Weights::Narrow(w) => narrow(w, g, k),
                    Weights::Wide(w) => wide(w, g, k),
                    Weights::Mixed(w, _) if g < block.narrow_groups() => narrow(w, g, k),
                    Weights::Mixed(_, w) => wide(w, g - block.narrow_groups(), k),
                };
                *out.entry(offset as usize + k).or_insert(0) += weight;
            }
        }
        out.retain(|_, w| *w != 0);
        out
    }

    proptest! {
        #[test]
        fn packing_keeps_every_weight_and_narrow_pairs_never_saturate(
            weights in (1..20usize, 2..40usize, 1..256i16).prop_flat_map(|(columns, length, top)| {
                prop::collection::vec(prop::collection::vec(-top..=top, length), columns.min(LANES))
            }),
            rule in prop::sample::select(vec![NarrowRule::Always, NarrowRule::Pairs, NarrowRule::NoMinimum]),
        ) {
            let block = block(rule, &weights);
            let half = weights[0].len() / 2;
            for (lane, column) in weights.iter().enumerate() {
                let placed = column.iter().enumerate().map(|(i, &w)| (if i < half { i } else { i + 9 }, i32::from(w)));
                prop_assert_eq!(unpack(&block, lane), placed.filter(|(_, w)| *w != 0).collect());
            }
            if !matches!(block.weights(), Weights::Mixed(..)) {
                let runs = block.groups().runs().iter().flat_map(|run| (0..run.groups).map(|g| (run.offset + g * GROUP) as u32));
                prop_assert!(runs.eq(block.groups().offsets().iter().copied()));
            }
            if let Weights::Narrow(w) | Weights::Mixed(w, _) = block.weights() {
                prop_assert!(w.as_slice().chunks_exact(2).all(|p| pair_fits(rule, p[0].into(), p[1].into())));
            }
        }
    }

    proptest! {
        #[test]
        fn arranged_weights_meet_their_inputs_and_narrow_pairs_never_saturate(
            weights in (1..17usize, 1..70usize).prop_flat_map(|(columns, length)| {
                prop::collection::vec(prop::collection::vec(-128..=127i16, length), columns)
            }),
            turn in 0..8u8,
        ) {
            let length = weights[0].len();
            // Whole groups change places, the last one of a window stays.
            let moved = |place: usize| if place / 32 < length / 32 { (place as u8 % 32 + 4 * turn) % 32 } else { place as u8 % 32 };
            let order: Vec<u8> = (0..length.next_multiple_of(SEGMENT)).map(moved).collect();
            let (bias, multipliers) = (vec![0; weights.len()], vec![1.0; weights.len()]);
            let inputs = Inputs::Arranged(Arc::new(Aligned::new(&order)));
            let columns = Columns { channel: 0, weights: &weights, bias: &bias, multipliers: &multipliers, input_zero: 0, inputs };
            let block = pack(&style(NarrowRule::Pairs), &[Stretch { offset: 0, length, first: 0 }], &columns).unwrap();
            prop_assert_eq!(block.arrangement(), Some(&order[..]));
            for (lane, column) in weights.iter().enumerate() {
                let placed = (0..length).map(|place| (place, i32::from(column[place / 32 * 32 + usize::from(order[place])])));
                prop_assert_eq!(unpack(&block, lane), placed.filter(|(_, w)| *w != 0).collect());
            }
            let Weights::Narrow(w) = block.weights() else { return Err(TestCaseError::fail("not narrow")) };
            prop_assert!(w.as_slice().chunks_exact(2).all(|p| pair_fits(NarrowRule::Pairs, p[0].into(), p[1].into())));
        }
    }

    #[test]
    fn a_kept_order_is_taken_only_where_it_covers_what_groups_read() {
        let weights = vec![vec![100; 40]; 16];
        let (bias, multipliers, style) = ([0; 16], [1.0; 16], style(NarrowRule::Pairs));
        let packed = |places: usize| {
            let order: Vec<u8> = (0..32).cycle().take(places).collect();
            let inputs = Inputs::Arranged(Arc::new(Aligned::new(&order)));
            let columns = Columns { channel: 0, weights: &weights, bias: &bias, multipliers: &multipliers, input_zero: 0, inputs };
            pack(&style, &[Stretch { offset: 0, length: 40, first: 0 }], &columns).unwrap()
        };
        let kept = |block: &Block, before: Option<&Block>| {
            let shelf = super::super::stored::Shelf::default();
            let mut writer = Writer::new(shelf.clone());
            block.put(&mut writer, before);
            writer.finish().unwrap();
            Reader::new(shelf.stable(), 0)
        };
        let take = |block: &Block, room: usize| Block::take(&mut kept(block, None), &style, 0..16, room, None);
        assert!(take(&packed(64), 64).is_some_and(|block| block.arrangement().is_some_and(|order| order.len() == 64)));
        assert!(take(&packed(64), 63).is_none(), "the copy would read too far");
        assert!([44, 96].iter().all(|&places| take(&packed(places), 200).is_none()));
        let first = packed(64);
        let mut second = first.clone();
        second.bias[0] = 1;
        assert!(Block::take(&mut kept(&second, Some(&first)), &style, 0..16, 64, None).is_none(), "the order of a block that is not there");
        let other = Style { rule: NarrowRule::Always, ..style };
        assert!(Block::take(&mut kept(&first, None), &other, 0..16, 64, None).is_none(), "an instruction set that arranges nothing");
    }

    #[test]
    fn a_few_offending_pairs_are_split_or_set_apart_and_many_go_wide() {
        let mut weights = vec![vec![10i16; 64]; 16];
        weights[3][5] = -128;
        weights[3][4] = -128;
        let parts = |block: Block| match block.weights() {
            Weights::Narrow(narrow) => (narrow.as_slice().len(), 0),
            Weights::Wide(wide) => (0, wide.as_slice().len()),
            Weights::Mixed(narrow, wide) => (narrow.as_slice().len(), wide.as_slice().len()),
        };
        assert_eq!(parts(block(NarrowRule::NoMinimum, &weights)), (17 * 64, 0));
        assert_eq!(parts(block(NarrowRule::Pairs, &weights)), (15 * 64, 64));
        assert_eq!(parts(block(NarrowRule::Pairs, &vec![vec![100; 64]; 16])), (0, 16 * 64));
        assert_eq!(parts(block(NarrowRule::Always, &vec![vec![100; 64]; 16])), (16 * 64, 0));
        assert_eq!(parts(block(NarrowRule::Always, &vec![vec![200; 64]; 16])), (0, 16 * 64));
    }

    #[test]
    fn a_sum_that_could_leave_32_bits_is_refused() {
        let weights = vec![vec![127i16; 70_000]];
        let columns = Columns { channel: 4, weights: &weights, bias: &[0], multipliers: &[1.0], input_zero: 0, inputs: Inputs::AsTheyAre };
        assert!(matches!(folded_bias(&columns, 0), Err(Error::Accumulator { channel: 4, .. })));
        let columns =
            Columns { channel: 4, weights: &[vec![1]], bias: &[i32::MIN], multipliers: &[1.0], input_zero: 0, inputs: Inputs::AsTheyAre };
        assert!(folded_bias(&columns, 0).is_err());
    }
}
