//! The bytes that a plan gives out: one block, cache-line aligned, allocated once.
#![allow(unsafe_code)]

use super::plan::ALIGN;
use crate::kernels::Output;
use std::cell::UnsafeCell;
use std::ops::Range;

/// One cache line; a vector of them is aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

/// Every activation of one session, for the threads that share it. Starts as zeros.
pub struct Arena {
    lines: Vec<UnsafeCell<Line>>,
}

// SAFETY: bytes are reached through `Arena::step` alone, whose callers keep writers of a byte apart from everyone else.
unsafe impl Sync for Arena {}

impl Arena {
    /// At least `size` bytes.
    pub fn new(size: usize) -> Arena {
        Arena { lines: (0..size.div_ceil(ALIGN)).map(|_| UnsafeCell::new(Line([0; ALIGN]))).collect() }
    }

    /// Bytes there are.
    pub fn size(&self) -> usize {
        self.lines.len() * ALIGN
    }

    /// What one step reads, and the bytes that one thread of it writes. Panics where a range leaves the arena or a read touches
    /// the write: errors of a plan, never of a model.
    ///
    /// # Safety
    /// While the slices live, no other slice of this arena covers a byte of `write`, and none that can be written a byte of
    /// `reads`.
    #[allow(clippy::mut_from_ref, reason = "the contract keeps writers apart")]
    pub unsafe fn step<const READS: usize>(&self, reads: [Range<usize>; READS], write: Range<usize>) -> ([&[u8]; READS], &mut [u8]) {
        // SAFETY: nobody writes what is read; the ranges were found apart and inside the vector's bytes, which are initialized and may be
        // changed through a shared reference, and by the contract nobody else has a slice of those that are written.
        unsafe { (self.reads(reads, &write), std::slice::from_raw_parts_mut(self.base().add(write.start), write.len())) }
    }

    /// The same for a step whose threads each own some bytes of every pixel: `write` is all of its output.
    ///
    /// # Safety
    /// While the slices live, no other slice covers a byte of `write`, none that can be written a byte of `reads`, and no other thread
    /// touches what the output's holder owns.
    pub unsafe fn shared_step<const READS: usize>(
        &self,
        reads: [Range<usize>; READS],
        write: Range<usize>,
    ) -> ([&[u8]; READS], Output<'_>) {
        // SAFETY: as in `step`, but for the bytes that are others'.
        unsafe { (self.reads(reads, &write), Output::shared(self.base().add(write.start), write.len())) }
    }

    /// Panics where a range leaves the arena or a read touches the write.
    ///
    /// # Safety
    /// While the slices live, nobody writes a byte of them.
    unsafe fn reads<const READS: usize>(&self, reads: [Range<usize>; READS], write: &Range<usize>) -> [&[u8]; READS] {
        check(write, self.size());
        reads.map(|read| {
            check(&read, self.size());
            let apart = read.is_empty() || write.is_empty() || read.end <= write.start || write.end <= read.start;
            assert!(apart, "bytes {read:?} are read while {write:?} are written");
            // SAFETY: the range lies in the vector's bytes, which are initialized; the rest is the contract.
            unsafe { std::slice::from_raw_parts(self.base().add(read.start).cast_const(), read.len()) }
        })
    }

    fn base(&self) -> *mut u8 {
        self.lines.as_ptr().cast::<u8>().cast_mut()
    }
}

fn check(range: &Range<usize>, size: usize) {
    assert!(range.start <= range.end && range.end <= size, "bytes {range:?} of an arena of {size}");
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
        let arena = Arena::new(100);
        // SAFETY: one slice at a time.
        unsafe {
            let ([all], _) = arena.step([0..128], 0..0);
            assert_eq!((arena.size(), all.as_ptr() as usize % ALIGN), (128, 0));
            assert!(all.iter().all(|&b| b == 0));
            arena.step([], 5..8).1.fill(7);
            assert_eq!(arena.step([4..9], 0..0).0[0], [0, 7, 7, 7, 0]);
            assert!(Arena::new(0).step([0..0], 0..0).0[0].is_empty());
        }
    }

    #[test]
    fn threads_write_parts_of_what_another_one_may_not_touch() {
        let arena = Arena::new(256);
        // SAFETY: one slice at a time.
        unsafe { arena.step([], 0..64).1.fill(3) };
        std::thread::scope(|scope| {
            for part in [64..100, 100..256] {
                let arena = &arena;
                scope.spawn(move || {
                    // SAFETY: each thread writes its own part, both read what nobody writes.
                    let ([input], output) = unsafe { arena.step([0..64], part) };
                    output.fill(input[63] + 1);
                });
            }
        });
        // SAFETY: the threads are done.
        assert_eq!(unsafe { arena.step([62..66], 0..0).0[0] }, [3, 3, 4, 4]);
    }

    #[test]
    fn threads_write_channels_of_pixels_that_others_write_too() {
        let arena = Arena::new(192);
        std::thread::scope(|scope| {
            for channel in [0, 1] {
                let arena = &arena;
                scope.spawn(move || {
                    // SAFETY: each thread has a channel of its own.
                    let mut output = unsafe { arena.shared_step([], 64..128) }.1;
                    (0..32).for_each(|pixel| output.put(2 * pixel + channel, &[channel as u8 + 1]));
                });
            }
        });
        // SAFETY: the threads are done.
        assert!(unsafe { arena.step([64..128], 0..0).0[0] }.chunks(2).all(|pixel| pixel == [1, 2]));
        let small = Arena::new(64);
        // SAFETY: nothing else lives.
        assert!(panics(move || assert!(unsafe { small.shared_step([], 60..70) }.1.len() > 0)));
    }

    #[test]
    fn what_overlaps_or_leaves_the_arena_is_refused() {
        // SAFETY: nothing else lives meanwhile.
        unsafe {
            assert!(panics(|| assert!(Arena::new(64).step([0..65], 0..0).0[0].is_empty())));
            assert!(panics(|| Arena::new(64).step([0..8], 7..9).1.fill(1)));
            assert!(panics(|| Arena::new(64).step([60..70], 0..8).1.fill(1)));
            let arena = Arena::new(64);
            let ([read], write) = arena.step([8..16], 16..64);
            assert_eq!((read.len(), write.len()), (8, 48));
        }
    }
}
