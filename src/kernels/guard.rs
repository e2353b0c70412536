//! When byte products are exact that break the pair rule of [`super::pack`].
//!
//! `x0 * w0 + x1 * w1`, with weights of one sign, is at most the larger weight times `x0 + x1`: it stays in 16 bits while the mean of the
//! two inputs does not exceed a **ceiling**. Ceilings of int8 weights are 128 or more, most inputs are far from their maximum, because
//! scales leave room for outliers, and two of them side by side that are not are rare behind a Relu. So blocks keep byte products for all
//! groups; a tile compares its inputs' **tops**, the means of pairs, with the ceilings of its weights, and mends what exceeds one. Where
//! many do, the same weights meet inputs of 16 bits.

use super::groups::{Groups, Run};
use super::pack::{GROUP, PAIR_LIMIT};

/// Ceilings that are compared at once.
pub(crate) const CHUNK: usize = 32;

/// The ceilings of a block's groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard<'a> {
    groups: &'a Groups,
    /// `[chunk][CHUNK]`: see [`by_chunks`].
    pub ceilings: &'a [u8],
}

/// Up to [`CHUNK`] groups that follow each other in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// The first one's input, from the window's first, in groups.
    pub top: usize,
    /// The first one's number.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "the rule of one instruction set"))]
    pub group: usize,
}

impl Chunk {
    /// The chunks of these runs; none unless groups begin at multiples of their size.
    pub fn of(runs: &[Run]) -> Vec<Chunk> {
        let (mut chunks, mut groups) = (Vec::new(), 0);
        if !runs.iter().all(|run| run.offset.is_multiple_of(GROUP)) {
            return chunks;
        }
        for run in runs {
            let firsts = (0..run.groups).step_by(CHUNK);
            chunks.extend(firsts.map(|first| Chunk { top: run.offset / GROUP + first, group: groups + first }));
            groups += run.groups;
        }
        chunks
    }
}

/// The ceilings of all groups, `[chunk][CHUNK]`; past a chunk's groups 255, which no byte exceeds.
pub(crate) fn by_chunks(chunks: &[Chunk], ceilings: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(chunks.len() * CHUNK);
    let ends = chunks.iter().skip(1).map(|chunk| chunk.group).chain([ceilings.len()]);
    for (chunk, end) in chunks.iter().zip(ends) {
        out.extend_from_slice(&ceilings[chunk.group..end]);
        out.resize(out.len().next_multiple_of(CHUNK), u8::MAX);
    }
    out
}

impl<'a> Guard<'a> {
    /// With what [`by_chunks`] gave; `None` where there are not as many as it takes, or the groups have no chunks.
    pub fn new(groups: &'a Groups, ceilings: &'a [u8]) -> Option<Guard<'a>> {
        let chunks = groups.chunks().len();
        (chunks > 0 && ceilings.len() == chunks * CHUNK).then_some(Guard { groups, ceilings })
    }

    /// What is compared at once, in the order of the weights.
    pub fn chunks(&self) -> &'a [Chunk] {
        self.groups.chunks()
    }

    pub fn groups(&self) -> usize {
        self.groups.offsets().len()
    }

    /// How many groups break the pair rule.
    pub fn broken(&self) -> usize {
        self.ceilings.iter().filter(|&&ceiling| ceiling < u8::MAX).count()
    }

    /// How many groups of a window are above their ceilings; `tops` are its own from its first byte on.
    pub fn above(&self, tops: &[u8]) -> usize {
        let each = self.chunks().iter().zip(self.ceilings.as_chunks::<CHUNK>().0);
        let above = |(chunk, ceilings): (&Chunk, &[u8; CHUNK])| {
            let tops = &tops[chunk.top..][..CHUNK];
            ceilings.iter().zip(tops).map(|(ceiling, top)| usize::from(top > ceiling)).sum::<usize>()
        };
        each.map(above).sum()
    }
}

/// The larger of two means of pairs of bytes, each rounded up.
pub(crate) fn top(bytes: [u8; GROUP]) -> u8 {
    let mean = |a: u8, b: u8| u16::from(a).midpoint(u16::from(b) + 1) as u8;
    mean(bytes[0], bytes[1]).max(mean(bytes[2], bytes[3]))
}

/// The largest [`top`] with which the pairs of a group's weights, each -128 to 127, stay in 16 bits.
pub(crate) fn ceiling(weights: &[i16]) -> u8 {
    let of = |pair: &[i16; 2]| {
        let sum = i32::from(pair[0]) + i32::from(pair[1]);
        let breaks = sum.unsigned_abs() > PAIR_LIMIT.unsigned_abs().into() && pair[0].signum() == pair[1].signum();
        let (limit, largest) = if sum > 0 { (i16::MAX, pair[0].max(pair[1])) } else { (i16::MIN, pair[0].min(pair[1])) };
        if breaks { i32::from(limit) / i32::from(largest) / 2 } else { u8::MAX.into() }
    };
    let least = weights.as_chunks::<2>().0.iter().map(of).min();
    least.and_then(|ceiling| u8::try_from(ceiling).ok()).unwrap_or(u8::MAX)
}

/// To mend a group in a pixel costs as much as to have so many in 16 bits costs more than to have them as bytes. Measured with
/// `cross/kernels/examples/layer.rs`, as the next two.
pub(crate) const MEND_COST: usize = 100;
/// Fewer broken groups than this cost less in 16 bits than tops and comparisons.
const LEAST_BROKEN: usize = 8;
/// Around a zero point above this inputs are too large.
const HIGHEST_ZERO: u8 = 32;

/// Whether a guard is expected to pay for a block with so many groups that break the pair rule, and inputs of this zero point.
pub(crate) fn expected_to_pay(broken: usize, zero: u8) -> bool {
    broken >= LEAST_BROKEN && zero <= HIGHEST_ZERO
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether `vpmaddubsw` saturates.
    fn saturates(x: [u8; 2], w: [i16; 2]) -> bool {
        i16::try_from(i32::from(x[0]) * i32::from(w[0]) + i32::from(x[1]) * i32::from(w[1])).is_err()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn nothing_saturates_whose_top_is_not_above_the_ceiling(
            weights in prop::array::uniform4(prop_oneof![-128..=127i16, Just(-128), Just(127)]),
            x in prop::array::uniform4(prop_oneof![any::<u8>(), 120..=140u8, Just(255)]),
        ) {
            let pairs = x.as_chunks::<2>().0.iter().zip(weights.as_chunks::<2>().0);
            let saturated = pairs.into_iter().any(|(&x, &w)| saturates(x, w));
            prop_assert!(!saturated || top(x) > ceiling(&weights), "{x:?} {weights:?}");
        }
    }

    #[test]
    fn ceilings_of_some_weights() {
        assert_eq!(ceiling(&[64, 64, -128, 0]), u8::MAX);
        assert_eq!(ceiling(&[127, 2, 0, 0]), 129);
        assert_eq!(ceiling(&[-128, -1, 70, 70]), 128);
        assert_eq!(ceiling(&[70, 70, 127, -128]), 234);
        assert_eq!([top([0, 0, 255, 255]), top([4, 3, 0, 0])], [255, 4]);
    }

    #[test]
    fn runs_are_cut_into_chunks_and_padding_is_never_exceeded() {
        let offsets = (0..40).map(|i| 8 + 4 * i).chain([400, 404]).collect();
        let groups = Groups::new(offsets);
        assert_eq!(groups.runs(), [Run { offset: 8, groups: 40 }, Run { offset: 400, groups: 2 }]);
        let ceilings: Vec<u8> = (0..42).map(|i| if i == 0 { 255 } else { 150 + i }).collect();
        let padded = by_chunks(groups.chunks(), &ceilings);
        let guard = Guard::new(&groups, &padded).unwrap();
        assert_eq!(guard.chunks().iter().map(|chunk| (chunk.top, chunk.group)).collect::<Vec<_>>(), [(2, 0), (34, 32), (100, 40)]);
        assert_eq!([150, 153, 255].map(|top| guard.above(&[top; 140])), [0, 2, 41]);
        assert_eq!(guard.broken(), 41);
        assert!(Guard::new(&Groups::new(vec![2]), &[200; CHUNK]).is_none());
        assert!(Guard::new(&groups, &[200; 64]).is_none());
    }

    #[test]
    fn a_guard_needs_groups_to_guard_and_inputs_from_near_zero_on() {
        assert!(expected_to_pay(16, 0) && !expected_to_pay(16, 128) && !expected_to_pay(2, 0));
    }
}
