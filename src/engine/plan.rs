//! Where every activation lies in the one arena: pure arithmetic on lifetimes and sizes.
//!
//! ```text
//!   lifetimes                          offsets
//!   a [0..2] 64 B                      a at 0
//!   b [1..3] 32 B      ->  plan  ->    b at 64
//!   c [3..4] 96 B                      c at 0?  no: b lives until step 3  ->  c at 96, or b above c
//! ```
//!
//! No plan can be smaller than the bytes that are live at the busiest step ([`lower_bound`]). Buffers are placed greedily,
//! each in the lowest gap among those it shares a step with, in several orders (largest first, longest first, ...), then at
//! alternate ends of an arena of the bound's size, then in seeded random changes of the best order until the bound is met or
//! the tries are spent. [`clash`] is the oracle: it
//! knows nothing of how a plan was made.

use std::cmp::Reverse;
use std::fmt::Write;
use std::ops::Range;

/// Every offset is a multiple of this: a cache line.
pub const ALIGN: usize = 64;

/// One activation, scratch or constant copy, as the planner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// For the picture and for errors.
    pub name: String,
    /// Bytes, slack included. A buffer of 0 bytes occupies nothing.
    pub size: usize,
    /// The step that writes it first.
    pub first: usize,
    /// The last step that reads or writes it, `>= first`.
    pub last: usize,
    /// It may take the place of that earlier buffer, whose last step is this one's first: the operator reads each element
    /// before it writes it. A wish; [`Plan::in_place`] tells whether it was granted. At most one buffer may wish for another's
    /// place; of several the first counts.
    pub takes: Option<usize>,
}

/// Offsets in the arena, one a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    offsets: Vec<usize>,
    granted: Vec<bool>,
    size: usize,
}

impl Plan {
    /// Byte of the arena where the buffer begins; a multiple of [`ALIGN`].
    pub fn offset(&self, buffer: usize) -> usize {
        self.offsets[buffer]
    }

    /// True where the buffer lies in the place it wished for.
    pub fn in_place(&self, buffer: usize) -> bool {
        self.granted[buffer]
    }

    /// Bytes of the arena.
    pub fn size(&self) -> usize {
        self.size
    }
}

fn aligned(size: usize) -> usize {
    size.next_multiple_of(ALIGN)
}

/// The buffer whose place `index` may take: the wish, where it is sound and no earlier buffer has it.
fn wish(buffers: &[Buffer], index: usize) -> Option<usize> {
    let target = buffers[index].takes?;
    let (earlier, own) = (buffers.get(target)?, &buffers[index]);
    let sound = target != index && earlier.last == own.first && earlier.first < own.first && earlier.size >= own.size;
    let free = !buffers[..index].iter().any(|b| b.takes == Some(target));
    (sound && free).then_some(target)
}

/// Bytes that are live at a step, alignment included and with every sound wish granted.
fn live(buffers: &[Buffer], step: usize) -> usize {
    let all = buffers.iter().filter(|b| (b.first..=b.last).contains(&step)).map(|b| aligned(b.size)).sum::<usize>();
    let shared = (0..buffers.len()).filter(|&i| buffers[i].first == step && wish(buffers, i).is_some());
    all - shared.map(|i| aligned(buffers[i].size)).sum::<usize>()
}

/// The first step at which the most bytes are live; `None` without buffers.
pub fn busiest(buffers: &[Buffer]) -> Option<usize> {
    // The live bytes only grow at a step that begins some buffer.
    buffers.iter().map(|b| b.first).min_by_key(|&step| (Reverse(live(buffers, step)), step))
}

/// Bytes that are live at the busiest step: no plan is smaller.
pub fn lower_bound(buffers: &[Buffer]) -> usize {
    busiest(buffers).map_or(0, |step| live(buffers, step))
}

/// Buffers that lie in one place: a chain of granted wishes. It is placed as one.
#[derive(Clone)]
struct Chain {
    members: Vec<usize>,
    size: usize,
    first: usize,
    last: usize,
}

impl Chain {
    fn meets(&self, other: &Chain) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

fn chains(buffers: &[Buffer], grant: bool) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut chain_of = vec![usize::MAX; buffers.len()];
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| buffers[i].first);
    for i in order {
        let (buffer, target) = (&buffers[i], wish(buffers, i).filter(|_| grant));
        match target.map(|t| chain_of[t]).filter(|&c| c != usize::MAX) {
            Some(chain) => {
                chain_of[i] = chain;
                let chain = &mut chains[chain];
                chain.members.push(i);
                chain.last = chain.last.max(buffer.last);
            }
            None => {
                chain_of[i] = chains.len();
                chains.push(Chain { members: vec![i], size: aligned(buffer.size), first: buffer.first, last: buffer.last });
            }
        }
    }
    chains
}

/// Offsets of the chains when they are placed in `order`, and the arena's size.
fn place(chains: &[Chain], order: &[usize]) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; chains.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(chains.len());
    let mut size = 0;
    for &i in order {
        let mut at = 0;
        // `placed` is sorted by offset: the first gap that is wide enough is the lowest.
        for &other in placed.iter().filter(|&&p| chains[p].meets(&chains[i])) {
            if at + chains[i].size <= offsets[other] {
                break;
            }
            at = at.max(offsets[other] + chains[other].size);
        }
        offsets[i] = at;
        size = size.max(at + chains[i].size);
        let position = placed.partition_point(|&p| offsets[p] <= at);
        placed.insert(position, i);
    }
    (offsets, size)
}

/// Offsets when chains are placed in the order they begin, in turn at the lower and at the upper end of `size` bytes: what a
/// sequence of layers wants. `None` where they do not all fit.
fn place_at_ends(chains: &[Chain], size: usize) -> Option<(Vec<usize>, usize)> {
    let mut order: Vec<usize> = (0..chains.len()).collect();
    order.sort_by_key(|&i| (chains[i].first, Reverse(chains[i].size)));
    let mut offsets = vec![0; chains.len()];
    for (turn, &i) in order.iter().enumerate() {
        let mut taken: Vec<Range<usize>> =
            order[..turn].iter().filter(|&&p| chains[p].meets(&chains[i])).map(|&p| offsets[p]..offsets[p] + chains[p].size).collect();
        taken.sort_by_key(|range| range.start);
        let ends = |at: usize| at.checked_add(chains[i].size).filter(|&end| end <= size).map(|_| at);
        let free = |at: usize| taken.iter().all(|t| at + chains[i].size <= t.start || t.end <= at);
        let low = std::iter::once(0).chain(taken.iter().map(|t| t.end)).filter_map(ends).find(|&at| free(at));
        let tops = std::iter::once(size).chain(taken.iter().rev().map(|t| t.start));
        let high = tops.filter_map(|top| top.checked_sub(chains[i].size)).find(|&at| free(at));
        offsets[i] = if turn % 2 == 0 { low? } else { high? };
    }
    Some((offsets, size))
}

/// Orders worth trying: by size, by size times duration, by duration, by start, by end.
fn orders(chains: &[Chain]) -> Vec<Vec<usize>> {
    type Key = fn(&Chain) -> (usize, usize);
    let keys: [Key; 5] = [
        |c| (c.size, c.last - c.first),
        |c| (c.size.saturating_mul(c.last - c.first + 1), c.size),
        |c| (c.last - c.first, c.size),
        |c| (usize::MAX - c.first, c.size),
        |c| (c.last, c.size),
    ];
    let sorted = |key: Key| {
        let mut order: Vec<usize> = (0..chains.len()).collect();
        order.sort_by_key(|&i| Reverse(key(&chains[i])));
        order
    };
    keys.map(sorted).into()
}

/// Tries of a changed order: enough for networks of a hundred layers, a few milliseconds.
const TRIES: usize = 400;

/// Moves random chains of the best order to random places, keeps what is not worse, stops at `bound`.
fn improve(chains: &[Chain], mut order: Vec<usize>, mut best: (Vec<usize>, usize), bound: usize) -> (Vec<usize>, usize) {
    let mut seed = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as usize % below
    };
    for _ in 0..if order.len() < 2 { 0 } else { TRIES } {
        if best.1 <= bound {
            break;
        }
        let mut changed = order.clone();
        for _ in 0..1 + random(3) {
            let moved = changed.remove(random(order.len()));
            changed.insert(random(order.len()), moved);
        }
        let found = place(chains, &changed);
        if found.1 <= best.1 {
            (order, best) = (changed, found);
        }
    }
    best
}

/// The smallest plan found, deterministic.
pub fn plan(buffers: &[Buffer]) -> Plan {
    let bound = lower_bound(buffers);
    let mut best: Option<Plan> = None;
    for grant in [true, false] {
        let chains = chains(buffers, grant);
        let tried = orders(&chains).into_iter().map(|order| (place(&chains, &order), order));
        let Some((found, order)) = tried.min_by_key(|(found, _)| found.1) else { continue };
        let ends = if found.1 > bound { place_at_ends(&chains, bound) } else { None };
        let (at, size) = ends.unwrap_or_else(|| improve(&chains, order, found, bound));
        if best.as_ref().is_none_or(|best| size < best.size) {
            best = Some(expand(buffers.len(), &chains, &at, size));
        }
    }
    best.unwrap_or(Plan { offsets: Vec::new(), granted: Vec::new(), size: 0 })
}

/// From chains back to buffers.
fn expand(count: usize, chains: &[Chain], at: &[usize], size: usize) -> Plan {
    let mut plan = Plan { offsets: vec![0; count], granted: vec![false; count], size };
    for (chain, &at) in chains.iter().zip(at) {
        for (i, &member) in chain.members.iter().enumerate() {
            plan.offsets[member] = at;
            plan.granted[member] = i > 0;
        }
    }
    plan
}

/// Two buffers that are live at one step and share a byte without leave, or one that is misplaced (twice its index). `None`
/// for every plan of [`plan`].
pub fn clash(buffers: &[Buffer], plan: &Plan) -> Option<(usize, usize)> {
    let bytes = |i: usize| plan.offset(i)..plan.offset(i) + buffers[i].size;
    let share = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
    for i in 0..buffers.len() {
        if !plan.offset(i).is_multiple_of(ALIGN) || bytes(i).end > plan.size() {
            return Some((i, i));
        }
        for j in 0..i {
            let together = buffers[i].first <= buffers[j].last && buffers[j].first <= buffers[i].last;
            let granted = |taker: usize, target: usize| {
                let handed_over = buffers[target].last == buffers[taker].first && plan.offset(taker) == plan.offset(target);
                plan.in_place(taker) && buffers[taker].takes == Some(target) && handed_over
            };
            if together && share(&bytes(i), &bytes(j)) && !granted(i, j) && !granted(j, i) {
                return Some((j, i));
            }
        }
    }
    None
}

/// The plan as a picture: a line a buffer, a column a slice of the arena; then the arena's size against the bound.
pub fn picture(buffers: &[Buffer], plan: &Plan) -> String {
    const WIDTH: usize = 64;
    let mut out = String::new();
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| (buffers[i].first, plan.offset(i)));
    for i in order {
        let column = |byte: usize| byte * WIDTH / plan.size().max(1);
        let (from, to) = (column(plan.offset(i)), column(plan.offset(i) + buffers[i].size).min(WIDTH));
        let bar: String = (0..WIDTH).map(|c| if c == from || (from..to).contains(&c) { '#' } else { '.' }).collect();
        let Buffer { name, size, first, last, .. } = &buffers[i];
        let mark = if plan.in_place(i) { " in place" } else { "" };
        let _ = writeln!(out, "{first:>4}-{last:<4} {bar} {size:>9} B at {:<9} {name}{mark}", plan.offset(i));
    }
    let bound = lower_bound(buffers);
    let _ = writeln!(out, "arena {} B, largest sum of live buffers {bound} B", plan.size());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffer(name: &str, size: usize, first: usize, last: usize, takes: Option<usize>) -> Buffer {
        Buffer { name: name.into(), size, first, last, takes }
    }

    /// Up to 24 buffers over 16 steps; wishes are often sound.
    fn any_buffers() -> impl Strategy<Value = Vec<Buffer>> {
        let one = (0..5000usize, 0..16usize, 0..6usize, prop::option::of(0..24usize));
        prop::collection::vec(one, 0..24).prop_map(|all| {
            let mut out: Vec<Buffer> = Vec::new();
            for (size, first, duration, takes) in all {
                let takes = takes.filter(|&t| t < out.len());
                let first = takes.map_or(first, |t| out[t].last);
                out.push(buffer("x", size, first, first + duration, takes));
            }
            out
        })
    }

    proptest! {
        #[test]
        fn no_plan_clashes_or_beats_the_bound(buffers in any_buffers()) {
            let plan = plan(&buffers);
            prop_assert_eq!(clash(&buffers, &plan), None);
            prop_assert!(plan.size() >= lower_bound(&buffers));
            prop_assert!(plan.size() <= buffers.iter().map(|b| aligned(b.size)).sum::<usize>());
            prop_assert_eq!(&super::plan(&buffers), &plan);
        }

        #[test]
        fn chains_of_layers_meet_the_bound(sizes in prop::collection::vec(1..100_000usize, 1..40)) {
            let layers: Vec<Buffer> = sizes.iter().enumerate().map(|(i, &size)| buffer("x", size, i, i + 1, None)).collect();
            prop_assert_eq!(plan(&layers).size(), lower_bound(&layers));
        }

        #[test]
        fn the_oracle_sees_any_two_live_buffers_moved_together(buffers in any_buffers()) {
            let mut plan = plan(&buffers);
            let live = |a: &Buffer, b: &Buffer| a.size > 0 && b.size > 0 && a.first <= b.last && b.first <= a.last;
            let pair = (0..buffers.len()).flat_map(|i| (0..i).map(move |j| (j, i))).find(|&(j, i)| live(&buffers[j], &buffers[i]));
            if let Some((j, i)) = pair {
                plan.granted.fill(false);
                plan.offsets[i] = plan.offsets[j];
                plan.size = usize::MAX;
                prop_assert!(clash(&buffers, &plan).is_some());
            }
        }
    }

    #[test]
    fn residual_blocks_meet_the_bound() {
        // Input of each block lives across its two layers; the sum takes the place of the second layer's result.
        let mut buffers = vec![buffer("input", 4096, 0, 3, None)];
        for block in 0..6 {
            let (step, input) = (1 + 3 * block, buffers.len() - 1);
            buffers.push(buffer("expand", 6 * 4096, step, step + 1, None));
            buffers.push(buffer("project", 4096, step + 1, step + 2, None));
            buffers[input].last = step + 2;
            buffers.push(buffer("sum", 4096, step + 2, step + 3, Some(input + 2)));
        }
        let plan = plan(&buffers);
        assert_eq!((clash(&buffers, &plan), plan.size()), (None, lower_bound(&buffers)));
        assert!((0..buffers.len()).filter(|&i| buffers[i].takes.is_some()).all(|i| plan.in_place(i)));
    }

    #[test]
    fn unsound_wishes_are_not_granted() {
        let still_read = [buffer("a", 100, 0, 5, None), buffer("b", 100, 2, 6, Some(0))];
        let too_small = [buffer("a", 10, 0, 2, None), buffer("b", 100, 2, 6, Some(0))];
        let second = [buffer("a", 100, 0, 2, None), buffer("b", 100, 2, 3, Some(0)), buffer("c", 100, 2, 3, Some(0))];
        for (buffers, taker) in [(&still_read[..], 1), (&too_small[..], 1), (&second[..], 2)] {
            let plan = plan(buffers);
            assert!(!plan.in_place(taker) && clash(buffers, &plan).is_none());
        }
        assert!(plan(&second).in_place(1));
    }

    #[test]
    fn the_picture_shows_every_buffer_and_the_bound() {
        let buffers = [buffer("input", 128, 0, 1, None), buffer("output", 64, 1, 2, None)];
        let picture = picture(&buffers, &plan(&buffers));
        assert!(picture.contains("input\n") && picture.contains("output\n"), "{picture}");
        assert!(picture.ends_with("arena 192 B, largest sum of live buffers 192 B\n"), "{picture}");
        assert_eq!(plan(&[]).size(), 0);
    }
}
