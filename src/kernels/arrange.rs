//! Inputs in an order of the blocks' own, in which byte products are exact that could saturate in the order they have.
//!
//! Which weights share a pair, and so may break the rule of [`super::pack`], is a matter of the inputs' order. Among 32 inputs there are
//! 496 pairs, and a block needs 16 of them, each input in one, that keep the rule in all of its lanes: a matching in a graph. A copy of a
//! pixel's inputs in such an order, 32 at a time, costs less than products of 16 bits do. Blocks share an order, and the copy, where there
//! is one for all of them.

use super::pack::{GROUP, LANES, PAIR_LIMIT, fit_bytes};
use super::stored::Aligned;
use std::sync::Arc;

/// Inputs that change places with each other.
pub(crate) const SEGMENT: usize = 32;

/// An order of a pixel's inputs. For each place in a whole number of segments: the input that comes there, counted from the segment's
/// first. The places of the groups that hold the pixel's inputs hold nothing else but what fills up the last one.
pub(crate) type Arrangement = Arc<Aligned<u8>>;

/// In hundredths of what a group's byte products cost: what they cost more in 16 bits, what it costs to copy a group's inputs, and a group
/// that is split. Measured with `cross/kernels/examples/layer.rs`.
const WIDE_COST: usize = 22;
const COPY_COST: usize = 12;
const SPLIT_COST: usize = 100;
/// Of each group that is copied, in the same unit: less than this is lost again where few pixels are copied at once.
const LEAST_SAVED: usize = 6;
/// How many blocks may share an order, the most first.
const SHARED: [usize; 3] = [4, 2, 1];

/// The orders that are expected to pay: one for each block, of which `blocks` are the weights, `[column][input]`.
pub(crate) fn arrangements(blocks: impl Iterator<Item = Vec<Vec<i16>>>) -> Vec<Option<Arrangement>> {
    let graphs: Vec<Option<Graph>> = blocks.map(|columns| Graph::of(&columns)).collect();
    let mut found = Vec::with_capacity(graphs.len());
    while found.len() < graphs.len() {
        match best(&graphs[found.len()..]) {
            Some((count, order)) => found.extend(vec![Some(Arc::new(Aligned::new(&order))); count]),
            None => found.push(None),
        }
    }
    found
}

/// An order, and for how many of the next blocks, with which each saves most; `None` where none saves enough.
fn best(next: &[Option<Graph>]) -> Option<(usize, Vec<u8>)> {
    let blocks: Vec<&Graph> = next.iter().take(SHARED[0]).map_while(Option::as_ref).collect();
    let tried = SHARED.into_iter().filter(|&count| count <= blocks.len()).filter_map(|count| {
        let blocks = &blocks[..count];
        let most = blocks.iter().map(|block| block.broken).sum::<usize>() * WIDE_COST;
        let most = most.checked_sub(blocks[0].copied() * COPY_COST)?;
        let order = common_order(blocks);
        let split = blocks.iter().map(|block| block.broken(&order)).sum::<usize>();
        Some((most.checked_sub(split * SPLIT_COST)? / count, count, order))
    });
    let (saved, count, order) = tried.max_by_key(|(saved, ..)| *saved)?;
    (saved > blocks[0].copied() * LEAST_SAVED).then_some((count, order))
}

/// A column's weights in this order: as many as there are, and zeros up to a whole group.
pub(crate) fn arranged(column: &[i16], order: &[u8]) -> Vec<i16> {
    let places = order.iter().enumerate().take(column.len().next_multiple_of(GROUP));
    places.map(|(place, &input)| column.get(place / SEGMENT * SEGMENT + usize::from(input)).copied().unwrap_or(0)).collect()
}

/// Which inputs of a block keep the rule side by side.
struct Graph {
    /// For each segment and input those with which it keeps the rule in all columns, a bit each, itself among them; of inputs that do not
    /// exist, 0.
    segments: Vec<[u32; SEGMENT]>,
    /// Groups that break the rule in the inputs' own order.
    broken: usize,
}

impl Graph {
    /// `None` where weights are no bytes.
    fn of(columns: &[Vec<i16>]) -> Option<Graph> {
        if !columns.iter().all(|column| fit_bytes(column)) {
            return None;
        }
        let length = columns.first().map_or(0, Vec::len);
        let starts = (0..length).step_by(SEGMENT);
        let segments: Vec<_> = starts.map(|start| neighbours(columns, start, (length - start).min(SEGMENT))).collect();
        let own: Vec<u8> = (0..SEGMENT as u8).cycle().take(segments.len() * SEGMENT).collect();
        let mut graph = Graph { segments, broken: 0 };
        graph.broken = graph.broken(&own);
        Some(graph)
    }

    /// Groups whose inputs a copy moves.
    fn copied(&self) -> usize {
        self.segments.len() * SEGMENT / GROUP
    }

    /// How many groups have a pair that breaks the rule in this order.
    fn broken(&self, order: &[u8]) -> usize {
        let breaks = |neighbours: &[u32; SEGMENT], [a, b]: &[u8; 2]| neighbours[usize::from(*a)] >> b & 1 == 0;
        let segments = self.segments.iter().zip(order.as_chunks::<SEGMENT>().0);
        let broken = |(neighbours, order): (&[u32; SEGMENT], &[u8; SEGMENT])| {
            let groups = order[..inputs(neighbours)].chunks_exact(GROUP);
            groups.filter(|group| group.as_chunks().0.iter().any(|pair| breaks(neighbours, pair))).count()
        };
        segments.map(broken).sum()
    }
}

/// Inputs of a segment up to a whole group.
fn inputs(neighbours: &[u32; SEGMENT]) -> usize {
    neighbours.iter().filter(|&&neighbours| neighbours != 0).count()
}

/// An order in which as many pairs as can be found keep the rule in all of these blocks. They have the same inputs.
fn common_order(blocks: &[&Graph]) -> Vec<u8> {
    let common =
        |segment: usize| std::array::from_fn(|input| blocks.iter().fold(u32::MAX, |all, block| all & block.segments[segment][input]));
    (0..blocks[0].segments.len()).flat_map(|segment| segment_order(&common(segment))).collect()
}

/// The neighbours of `count` inputs from `start` on, and of those that fill up their last group, which are everyone's.
fn neighbours(columns: &[Vec<i16>], start: usize, count: usize) -> [u32; SEGMENT] {
    // Magnitudes of an input's positive weights and of its negative ones, a lane each: the rule is the same for both.
    let mut magnitudes = [[0u8; 2 * LANES]; SEGMENT];
    for (lane, column) in columns.iter().enumerate() {
        for (magnitudes, &weight) in magnitudes.iter_mut().zip(&column[start..][..count]) {
            magnitudes[if weight < 0 { lane + LANES } else { lane }] = weight.unsigned_abs() as u8;
        }
    }
    // What each leaves for another.
    let left = magnitudes.map(|magnitudes| magnitudes.map(|magnitude| PAIR_LIMIT as u8 - magnitude));
    let mut neighbours: [u32; SEGMENT] = [0; SEGMENT];
    for input in 0..count.next_multiple_of(GROUP) {
        neighbours[input] |= 1 << input;
        for other in 0..input {
            let excess = magnitudes[input].iter().zip(&left[other]).map(|(magnitude, left)| magnitude.saturating_sub(*left));
            let keeps = u32::from(excess.fold(0, |any, excess| any | excess) == 0);
            neighbours[input] |= keeps << other;
            neighbours[other] |= keeps << input;
        }
    }
    neighbours
}

/// The order of one segment: pairs of neighbours, then inputs without a partner. An input that does not exist stays where it is.
fn segment_order(neighbours: &[u32; SEGMENT]) -> [u8; SEGMENT] {
    let count = inputs(neighbours);
    // Inside the halves if possible, which is the quicker copy.
    let halves = std::array::from_fn(|input| neighbours[input] & if input < SEGMENT / 2 { 0xFFFF } else { 0xFFFF_0000 });
    let inside = matching(&halves, count);
    let partners = if inside[..count].iter().all(Option::is_some) { inside } else { matching(neighbours, count) };
    let (mut pairs, mut left): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
    for (input, partner) in (0u8..).zip(&partners[..count]) {
        match *partner {
            Some(partner) if partner > input => pairs.extend([input, partner]),
            Some(_) => {}
            None => left.push(input),
        }
    }
    let mut order: [u8; SEGMENT] = std::array::from_fn(|place| place as u8);
    order.iter_mut().zip(pairs.into_iter().chain(left)).for_each(|(place, input)| *place = input);
    order
}

/// Partners for the first `count` inputs, as many as augmenting paths find without a look at odd cycles.
fn matching(neighbours: &[u32; SEGMENT], count: usize) -> [Option<u8>; SEGMENT] {
    let mut matching = Matching { neighbours, partners: [None; SEGMENT], free: u32::MAX };
    for input in 0..count as u8 {
        if matching.free >> input & 1 == 1 {
            matching.find_partner(input, &mut (1 << input));
        }
    }
    matching.partners
}

struct Matching<'a> {
    neighbours: &'a [u32; SEGMENT],
    partners: [Option<u8>; SEGMENT],
    /// Who has no partner, a bit each.
    free: u32,
}

impl Matching<'_> {
    /// Finds a partner for `input`, if need be one whose own partner finds another. `asked`: who is part of the search, a bit each.
    fn find_partner(&mut self, input: u8, asked: &mut u32) -> bool {
        loop {
            let others = self.neighbours[usize::from(input)] & !*asked;
            let other = if others & self.free != 0 { others & self.free } else { others }.trailing_zeros() as usize;
            if other == SEGMENT {
                return false;
            }
            *asked |= 1 << other;
            let left = self.partners[other];
            *asked |= left.map_or(0, |left| 1 << left);
            if left.is_none_or(|left| self.find_partner(left, asked)) {
                (self.partners[usize::from(input)], self.partners[other]) = (Some(other as u8), Some(input));
                self.free &= !(1 << other | 1 << input);
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pack::NarrowRule;
    use super::super::suite::Random;
    use super::*;

    fn columns(random: &mut Random, count: usize, length: usize, largest: i16) -> Vec<Vec<i16>> {
        let mut weight = || i16::from(random.value()) * largest / 128;
        (0..count).map(|_| (0..length).map(|_| weight()).collect()).collect()
    }

    fn keeps(column: &[i16], pair: [usize; 2]) -> bool {
        NarrowRule::Pairs.keeps(&pair.map(|input| column.get(input).copied().unwrap_or(0)))
    }

    #[test]
    fn an_order_moves_inputs_inside_their_segment_and_loses_none() {
        for seed in 0..200 {
            let mut random = Random::new(seed + 500);
            let (count, length) = (random.range(1..17), random.range(1..200));
            let columns = columns(&mut random, count, length, 110);
            let graph = Graph::of(&columns).unwrap();
            let order = common_order(&[&graph]);
            assert_eq!(order.len(), length.next_multiple_of(SEGMENT));
            for (number, segment) in order.chunks(SEGMENT).enumerate() {
                let inside = (length - number * SEGMENT).next_multiple_of(GROUP).min(SEGMENT);
                let mut found = segment[..inside].to_vec();
                found.sort_unstable();
                assert!(found.iter().map(|&input| usize::from(input)).eq(0..inside), "{length}: {segment:?}");
            }
            for column in &columns {
                let (mut before, mut after) = (column.clone(), arranged(column, &order));
                before.resize(length.next_multiple_of(GROUP), 0);
                before.sort_unstable();
                after.sort_unstable();
                assert_eq!(before, after);
            }
            let places: Vec<usize> =
                order.iter().enumerate().map(|(place, &input)| place / SEGMENT * SEGMENT + usize::from(input)).collect();
            let groups = places[..length.next_multiple_of(GROUP)].chunks(GROUP);
            let broken = groups.filter(|g| !columns.iter().all(|c| keeps(c, [g[0], g[1]]) && keeps(c, [g[2], g[3]]))).count();
            assert_eq!(graph.broken(&order), broken);
        }
    }

    #[test]
    fn large_weights_that_stand_side_by_side_are_set_apart() {
        // In their own order every pair breaks the rule, in another one none.
        let column: Vec<i16> = (0..64).map(|input| if input % 4 < 2 { 100 } else { 20 }).collect();
        let block = vec![column.clone(), column.iter().map(|w| -w).collect()];
        let graph = Graph::of(&block).unwrap();
        assert_eq!((graph.copied(), graph.broken), (16, 16));
        let order = common_order(&[&graph]);
        assert_eq!(graph.broken(&order), 0);
        for pair in arranged(&column, &order).chunks_exact(2) {
            assert_eq!(pair.iter().sum::<i16>(), 120);
        }
    }

    #[test]
    fn blocks_share_an_order_that_keeps_the_rule_in_all_of_them() {
        // The large ones are the first two of each group, or the last two.
        let block = |last: usize| vec![(0..64).map(|input| if input % 4 / 2 == last { 80 } else { 40 }).collect::<Vec<i16>>(); 16];
        let found = arrangements([block(0), block(1), block(1), block(0), block(1)].into_iter());
        let shared = found[0].as_ref().unwrap();
        assert!(found.iter().take(4).all(|order| order.as_ref().is_some_and(|order| Arc::ptr_eq(order, shared))));
        let graphs = [0, 1].map(|last| Graph::of(&block(last)).unwrap());
        assert_eq!(graphs.map(|graph| (graph.broken, graph.broken(shared.as_slice()))), [(16, 0); 2]);
        assert!(!Arc::ptr_eq(found[4].as_ref().unwrap(), shared));
    }

    #[test]
    fn a_partner_is_left_to_who_finds_no_other() {
        // 0 takes 1 first, the only one for 2; so 0 has to make do with 3.
        let mut neighbours = [0; SEGMENT];
        for (a, b) in [(0, 1), (0, 3), (1, 2)] {
            neighbours[a] |= 1 << b | 1 << a;
            neighbours[b] |= 1 << a | 1 << b;
        }
        assert_eq!(matching(&neighbours, 4)[..4], [Some(3), Some(2), Some(1), Some(0)]);
    }

    #[test]
    fn nothing_is_arranged_where_it_does_not_help() {
        let harmless = vec![vec![64i16; 64]; 16];
        let hopeless = vec![vec![100i16; 64]; 16];
        let no_bytes = vec![vec![200i16; 64]; 16];
        let found = arrangements([harmless, hopeless, no_bytes].into_iter());
        assert!(found.iter().all(Option::is_none));
    }
}
