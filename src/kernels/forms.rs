//! The forms in which blocks of dense weights want their input: as it is, as 16-bit numbers, with what a
//! [`super::guard::Guard`] compares, or in an order of their own ([`super::arrange`]).

use super::conv::{Grid, Kernel};
use super::guard::{CHUNK, MEND_COST};
use super::pack::{Block, GROUP, Weights};
use super::stored::LINE;

/// Blocks, and what forms they want.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    blocks: Vec<Block>,
    /// Some as 16-bit numbers.
    any_wide: bool,
    guarded: bool,
    /// The most that a [`Block::arrangement`] has; 0 where there is none.
    places: usize,
}

/// Where the windows of some rows begin, in elements of the input that is read.
#[derive(Clone, Copy)]
pub(crate) struct Windows {
    pub height: usize,
    pub width: usize,
    pub grid: Grid,
}

/// A part of the input in these forms, which all but the last begin at the same element.
pub(crate) struct Forms<'a> {
    windows: Windows,
    bytes: &'a [u8],
    wide: &'a [u8],
    /// As 16-bit numbers for guarded blocks, where they get those.
    halves: &'a [u8],
    widened: bool,
    /// For guarded blocks that get bytes.
    tops: &'a [u8],
    /// The windows one after the other, their inputs in the order `order`; no order before the first.
    arranged: &'a mut [u8],
    order: &'a [u8],
}

/// The input of one block; the fields are those of [`super::conv::Strip`].
pub(crate) struct Source<'a> {
    pub input: &'a [u8],
    pub bytes: &'a [u8],
    pub windows: Grid,
    pub widened: bool,
    pub tops: &'a [u8],
}

impl Dense {
    pub fn new(blocks: Vec<Block>) -> Dense {
        let any_wide = blocks.iter().any(|block| !matches!(block.weights(), Weights::Narrow(_)));
        let guarded = blocks.iter().any(|block| block.guard().is_some());
        let places = blocks.iter().filter_map(Block::arrangement).map(<[u8]>::len).max().unwrap_or(0);
        Dense { blocks, any_wide, guarded, places }
    }

    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    pub fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// Whether some blocks want their inputs in another order.
    pub fn is_arranged(&self) -> bool {
        self.places > 0
    }

    /// Bytes of each form of `count` input bytes: for wide blocks, for guarded ones in 16 bits, their tops, and `windows` of them arranged.
    fn lengths(&self, count: usize, windows: usize) -> [usize; 4] {
        let of = |any: bool, length: usize| if any { length } else { 0 };
        let tops = of(self.guarded, count / GROUP + CHUNK);
        [of(self.any_wide, 2 * count), of(self.guarded, 2 * count), tops, of(self.is_arranged(), windows * self.places + LINE)]
    }

    /// Bytes that [`Dense::forms`] needs for so many windows in so many bytes.
    pub fn scratch_bytes(&self, count: usize, windows: usize) -> usize {
        self.lengths(count, windows).iter().sum()
    }

    /// The forms of `bytes`, of which `windows` read no more than the first `count`.
    #[inline(always)]
    pub fn forms<'a, K: Kernel>(
        &'a self,
        kernel: K,
        (bytes, count): (&'a [u8], usize),
        windows: Windows,
        scratch: &'a mut [u8],
    ) -> Forms<'a> {
        let [wide, halves, tops, arranged] = self.lengths(count, windows.height * windows.width);
        let (wide, rest) = scratch.split_at_mut(wide);
        let (halves, rest) = rest.split_at_mut(halves);
        let (tops, rest) = rest.split_at_mut(tops);
        if self.any_wide {
            kernel.widen(&bytes[..count], wide);
        }
        let mut widened = false;
        if self.guarded {
            kernel.tops(&bytes[..count], &mut tops[..count / GROUP]);
            widened = !self.guards_pay(tops, &windows);
        }
        if widened {
            kernel.halves(&bytes[..count], halves);
        }
        // Or vectors would straddle cache lines.
        let skipped = rest.as_ptr().align_offset(LINE).min(LINE);
        let arranged = &mut rest[..arranged][skipped.min(arranged)..];
        Forms { windows, bytes, wide, halves, widened, tops, arranged, order: &[] }
    }

    /// Whether so few groups are above their ceilings, in a sample of windows and blocks, that it pays to mend them.
    fn guards_pay(&self, tops: &[u8], windows: &Windows) -> bool {
        let Windows { height, width, grid } = windows;
        let (pixels, blocks) = (height * width, self.blocks.len());
        let count = (pixels * blocks / SAMPLED).clamp(1, MOST_SAMPLED);
        let (mut groups, mut above) = (0, 0);
        for i in 0..count {
            // All pixels and all blocks have their turn, in different pairs.
            let (pixel, block) = (i * pixels / count, i * STRIDE % blocks);
            if let Some(guard) = self.blocks[block].guard() {
                groups += guard.groups();
                above += guard.above(&tops[grid.at(pixel / width, pixel % width) / GROUP..]);
            }
        }
        above * MEND_COST <= groups
    }
}

/// One of so many windows times blocks is looked at, and no more than so many.
const SAMPLED: usize = 16;
const MOST_SAMPLED: usize = 64;
/// From block to block: a prime above most counts.
const STRIDE: usize = 131;

impl<'a> Forms<'a> {
    /// What `block`, one of those that this was made for, wants.
    #[inline(always)]
    pub fn of<K: Kernel>(&mut self, kernel: K, block: &'a Block) -> Source<'_> {
        let Windows { width, grid: windows, .. } = self.windows;
        if let Some(order) = block.arrangement() {
            if !std::ptr::eq(order, self.order) {
                kernel.arrange(order, self.bytes, &self.windows, self.arranged);
                self.order = order;
            }
            let windows = Grid { base: 0, step_y: width * order.len(), step_x: order.len() };
            return Source { input: self.arranged, bytes: self.arranged, windows, widened: false, tops: &[] };
        }
        let widened = self.widened && block.guard().is_some();
        let input = match block.weights() {
            Weights::Narrow(_) if widened => self.halves,
            Weights::Narrow(_) => self.bytes,
            Weights::Wide(_) | Weights::Mixed(..) => self.wide,
        };
        Source { input, bytes: self.bytes, windows, widened, tops: self.tops }
    }
}
