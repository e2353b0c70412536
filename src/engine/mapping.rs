//! A file as memory.
#![allow(unsafe_code, reason = "maps a file")]

use crate::kernels::Stable;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::io;
use std::ptr::null_mut;

/// A whole file, to be read only. Its pages are read when they are used and may be dropped again, since the file has them.
///
/// The file must keep its length: reading what it has lost ends the process (SIGBUS).
pub struct Mapping {
    start: *const u8,
    length: usize,
}

// SAFETY: memory that nobody writes may be read by every thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

// SAFETY: the place stays until `drop`. The bytes stay as long as nobody writes to the file, which its makers do not: they rename a
// new one over it.
unsafe impl Stable for Mapping {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `new` has mapped that many bytes there.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl Mapping {
    /// Maps all of `file`. Fails for an empty one too.
    pub fn new(file: &File) -> io::Result<Mapping> {
        let length = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // SAFETY: the kernel chooses a place that nobody has.
        let start = unsafe { mmap(null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file, 0) }?;
        Ok(Mapping { start: start.cast_const().cast(), length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the place is ours, and whoever has its bytes has borrowed them from `self`.
        let _ = unsafe { munmap(self.start.cast_mut().cast(), self.length) };
    }
}
