//! The bytes that a plan gives out: one block, cache-line aligned, allocated once.
#![allow(unsafe_code)]

use super::plan::ALIGN;
use std::marker::PhantomData;
use std::ops::Range;

/// One cache line; a vector of them is aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

/// Every activation of one session. Starts as zeros.
pub struct Arena {
    lines: Vec<Line>,
}

impl Arena {
    /// At least `size` bytes.
    pub fn new(size: usize) -> Arena {
        Arena { lines: vec![Line([0; ALIGN]); size.div_ceil(ALIGN)] }
    }

    /// Bytes there are.
    pub fn size(&self) -> usize {
        self.lines.len() * ALIGN
    }

    /// Reads a range. Panics outside the arena.
    pub fn read(&self, range: Range<usize>) -> &[u8] {
        check(&range, self.size());
        // SAFETY: the range lies in the vector's bytes; a `Line` is plain initialized bytes; shared for as long as `self` is.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<u8>().add(range.start), range.len()) }
    }

    /// Writes a range. Panics outside the arena.
    pub fn write(&mut self, range: Range<usize>) -> &mut [u8] {
        let ([], mut parts) = self.split([]);
        parts.take(range)
    }

    /// What one step of a program reads, and a source of the disjoint ranges that it writes (one a thread). Panics outside
    /// the arena.
    pub fn split<const READS: usize>(&mut self, reads: [Range<usize>; READS]) -> ([&[u8]; READS], Parts<'_, READS>) {
        let (base, size) = (self.lines.as_mut_ptr().cast::<u8>(), self.size());
        let slices = reads.each_ref().map(|range| {
            check(range, size);
            // SAFETY: the range lies in the vector's bytes, which are initialized. `self` stays exclusively borrowed by the
            // results, and `Parts` gives out no byte of it.
            unsafe { std::slice::from_raw_parts(base.add(range.start).cast_const(), range.len()) }
        });
        (slices, Parts { base, size, reads, taken: 0, arena: PhantomData })
    }
}

fn check(range: &Range<usize>, size: usize) {
    assert!(range.start <= range.end && range.end <= size, "bytes {range:?} of an arena of {size}");
}

/// Gives out exclusive ranges of an arena, in ascending order, none of which touches a range that is being read.
pub struct Parts<'a, const READS: usize> {
    base: *mut u8,
    size: usize,
    reads: [Range<usize>; READS],
    taken: usize,
    arena: PhantomData<&'a mut [u8]>,
}

impl<'a, const READS: usize> Parts<'a, READS> {
    /// The bytes of `range`, for as long as the arena is borrowed. Panics when it begins before the end of the last one,
    /// touches a range that is read, or leaves the arena: errors of a plan, never of a model.
    pub fn take(&mut self, range: Range<usize>) -> &'a mut [u8] {
        check(&range, self.size);
        assert!(range.start >= self.taken, "bytes {range:?} are given out already");
        let free = |read: &Range<usize>| range.is_empty() || read.is_empty() || range.end <= read.start || read.end <= range.start;
        assert!(self.reads.iter().all(free), "bytes {range:?} are being read");
        self.taken = range.end;
        // SAFETY: the range lies in the arena, which `'a` borrows exclusively. Every earlier range ended at or before its
        // start, and the ranges being read do not touch it, so nothing else refers to these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(range.start), range.len()) }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one range to read is an array of one range")]
mod tests {
    use super::*;

    fn panics(run: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(run).is_err()
    }

    #[test]
    fn bytes_are_aligned_zeroed_and_written() {
        let mut arena = Arena::new(100);
        assert_eq!((arena.size(), arena.read(0..1).as_ptr() as usize % ALIGN), (128, 0));
        assert!(arena.read(0..128).iter().all(|&b| b == 0));
        arena.write(5..8).fill(7);
        assert_eq!(arena.read(4..9), [0, 7, 7, 7, 0]);
        assert!(Arena::new(0).read(0..0).is_empty());
    }

    #[test]
    fn reads_and_parts_are_used_together_and_across_threads() {
        let mut arena = Arena::new(256);
        arena.write(0..64).fill(3);
        let ([input], mut parts) = arena.split([0..64]);
        let (a, b) = (parts.take(64..100), parts.take(100..256));
        std::thread::scope(|scope| {
            scope.spawn(|| a.copy_from_slice(&input[..36]));
            scope.spawn(|| b.fill(input[63] + 1));
        });
        assert_eq!(arena.read(98..102), [3, 3, 4, 4]);
    }

    #[test]
    fn what_overlaps_or_leaves_the_arena_is_refused() {
        assert!(panics(|| assert!(Arena::new(64).read(0..65).is_empty())));
        assert!(panics(|| assert!(Arena::new(64).split([60..70]).0[0].is_empty())));
        assert!(panics(|| Arena::new(64).split([0..8]).1.take(7..9).fill(1)));
        assert!(panics(|| {
            let mut arena = Arena::new(64);
            let ([], mut parts) = arena.split([]);
            parts.take(0..8);
            parts.take(7..9);
        }));
        let mut arena = Arena::new(64);
        let ([_], mut parts) = arena.split([8..16]);
        assert_eq!((parts.take(0..8).len(), parts.take(16..64).len()), (8, 48));
    }
}
