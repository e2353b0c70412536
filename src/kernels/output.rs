//! A tensor that several threads write at once, each its own bytes: of every pixel some channels.

use std::marker::PhantomData;
use std::ops::Range;

/// Bytes of which the holder reads and writes those that it owns. In one thread at a time.
pub struct Output<'a> {
    first: *mut u8,
    length: usize,
    bytes: PhantomData<&'a mut [u8]>,
}

impl<'a> From<&'a mut [u8]> for Output<'a> {
    /// All of them its own.
    fn from(bytes: &'a mut [u8]) -> Output<'a> {
        Output { first: bytes.as_mut_ptr(), length: bytes.len(), bytes: PhantomData }
    }
}

impl<'a> Output<'a> {
    /// # Safety
    /// For `'a`, `length` bytes from `first` on are there, and nobody else touches those that the holder owns: what it is given to
    /// says which these are.
    pub unsafe fn shared(first: *mut u8, length: usize) -> Output<'a> {
        Output { first, length, bytes: PhantomData }
    }

    #[allow(clippy::len_without_is_empty, reason = "no tensor is empty")]
    pub fn len(&self) -> usize {
        self.length
    }

    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")),
        allow(dead_code, reason = "for loops of them")
    )]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.first
    }

    /// The same bytes, for less time.
    pub(crate) fn reborrow(&mut self) -> Output<'_> {
        Output { ..*self }
    }

    /// An own byte.
    pub(crate) fn get(&self, at: usize) -> u8 {
        assert!(at < self.length);
        // SAFETY: inside, and owned.
        unsafe { self.first.add(at).read() }
    }

    /// Writes own bytes.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        assert!(at <= self.length && bytes.len() <= self.length - at);
        // SAFETY: inside, and owned, so they are not `bytes`.
        unsafe { self.first.add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// Fills own bytes.
    pub(crate) fn fill(&mut self, range: Range<usize>, byte: u8) {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: inside, and owned.
        unsafe { self.first.add(range.start).write_bytes(byte, range.len()) }
    }
}
