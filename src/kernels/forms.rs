//! The forms in which blocks of dense weights want their input: as it is, as 16-bit numbers, or with what a
//! [`super::guard::Guard`] compares.

use super::conv::{Grid, Kernel};
use super::guard::{CHUNK, MEND_COST};
use super::pack::{Block, GROUP, Weights};

/// Blocks, and what forms they want.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    blocks: Vec<Block>,
    /// Some as 16-bit numbers.
    any_wide: bool,
    guarded: bool,
}

/// Where the windows of some rows begin, in elements of the input that is read.
#[derive(Clone, Copy)]
pub(crate) struct Windows {
    pub height: usize,
    pub width: usize,
    pub grid: Grid,
}

/// A part of the input in these forms, which all begin at the same element.
pub(crate) struct Forms<'a> {
    pub bytes: &'a [u8],
    wide: &'a [u8],
    /// As 16-bit numbers for guarded blocks, where they get those.
    halves: &'a [u8],
    pub widened: bool,
    /// For guarded blocks that get bytes.
    pub tops: &'a [u8],
}

impl Dense {
    pub fn new(blocks: Vec<Block>) -> Dense {
        let any_wide = blocks.iter().any(|block| !matches!(block.weights(), Weights::Narrow(_)));
        let guarded = blocks.iter().any(|block| block.guard().is_some());
        Dense { blocks, any_wide, guarded }
    }

    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    pub fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// Bytes of each form of `count` input bytes: for wide blocks, for guarded ones in 16 bits, and their tops.
    fn lengths(&self, count: usize) -> [usize; 3] {
        let of = |any: bool, length: usize| if any { length } else { 0 };
        [of(self.any_wide, 2 * count), of(self.guarded, 2 * count), of(self.guarded, count / GROUP + CHUNK)]
    }

    /// Bytes that [`Dense::forms`] needs.
    pub fn scratch_bytes(&self, count: usize) -> usize {
        self.lengths(count).iter().sum()
    }

    /// The forms of `bytes`, of which `windows` read no more than the first `count`.
    #[inline(always)]
    pub fn forms<'a, K: Kernel>(
        &self,
        kernel: K,
        (bytes, count): (&'a [u8], usize),
        windows: &Windows,
        scratch: &'a mut [u8],
    ) -> Forms<'a> {
        let [wide, halves, tops] = self.lengths(count);
        let (wide, rest) = scratch.split_at_mut(wide);
        let (halves, rest) = rest.split_at_mut(halves);
        let tops = &mut rest[..tops];
        if self.any_wide {
            kernel.widen(&bytes[..count], wide);
        }
        let mut widened = false;
        if self.guarded {
            kernel.tops(&bytes[..count], &mut tops[..count / GROUP]);
            widened = !self.guards_pay(tops, windows);
        }
        if widened {
            kernel.halves(&bytes[..count], halves);
        }
        Forms { bytes, wide, halves, widened, tops }
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
    /// What `block` wants.
    pub fn of(&self, block: &Block) -> &'a [u8] {
        match (block.weights(), block.guard()) {
            (Weights::Narrow(_), Some(_)) if self.widened => self.halves,
            (Weights::Narrow(_), _) => self.bytes,
            (Weights::Wide(_) | Weights::Mixed(..), _) => self.wide,
        }
    }
}
