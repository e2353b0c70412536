//! Packed weights that are kept for the next start: arrays one after the other, which kernels use where they lie.
//!
//! ```text
//!   an array:  bytes of a number, how many there are (u32 each), zeros up to a cache line, the numbers, zeros up to a cache line
//! ```
//!
//! Numbers have the machine's own order of bytes. Whoever keeps the bytes sees to it that they come back to the same model, program
//! and instruction set, and undamaged; what is read is checked nevertheless, so that no array is shorter than its user believes.

use super::stored::{Aligned, LINE, Number, Stable, bytes_of};
use std::io::{self, Write};
use std::sync::Arc;

/// Where a model's packed weights come from and go to.
#[derive(Default)]
pub enum Pantry {
    /// They are packed, and not kept.
    #[default]
    Closed,
    /// They are packed, and written down.
    Filling(Writer),
    /// They are there.
    Stocked(Reader),
    /// They were not what they should be: from there on they are packed.
    Spoilt,
}

/// Writes arrays.
pub struct Writer {
    out: Box<dyn Write>,
    failure: Option<io::Error>,
}

/// Reads arrays in the order they were written.
pub struct Reader {
    source: Arc<dyn Stable>,
    at: usize,
}

impl Pantry {
    /// What `take` reads of what was put in under `key`, which says what it was made for; nothing more once something is not there.
    pub(crate) fn take<T>(&mut self, key: &str, take: impl FnOnce(&mut Reader) -> Option<T>) -> Option<T> {
        let Pantry::Stocked(reader) = self else { return None };
        let same = reader.bytes().is_some_and(|found| found == key.as_bytes());
        let taken = if same { take(reader) } else { None };
        if taken.is_none() {
            *self = Pantry::Spoilt;
        }
        taken
    }

    /// Keeps what `put` writes under `key`, where anything is kept.
    pub(crate) fn put(&mut self, key: &str, put: impl FnOnce(&mut Writer)) {
        if let Pantry::Filling(writer) = self {
            writer.bytes(key.as_bytes());
            put(writer);
        }
    }
}

impl Writer {
    pub fn new(out: impl Write + 'static) -> Writer {
        Writer { out: Box::new(out), failure: None }
    }

    pub(crate) fn put<T: Number>(&mut self, values: &[T]) {
        let mut head = [0; LINE];
        let count = u32::try_from(values.len());
        head[..4].copy_from_slice(&(size_of::<T>() as u32).to_ne_bytes());
        head[4..8].copy_from_slice(&count.unwrap_or(u32::MAX).to_ne_bytes());
        let bytes = bytes_of(values);
        let end = [0; LINE];
        let parts = [&head[..], bytes, &end[..bytes.len().next_multiple_of(LINE) - bytes.len()]];
        if self.failure.is_none() {
            let written = match count {
                Ok(_) => parts.into_iter().try_for_each(|part| self.out.write_all(part)),
                Err(_) => Err(io::ErrorKind::FileTooLarge.into()),
            };
            self.failure = written.err();
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.put(&bytes.iter().map(|&byte| byte as i8).collect::<Vec<_>>());
    }

    /// Ends the writing. Fails where a write failed.
    pub fn finish(mut self) -> io::Result<()> {
        self.failure.take().map_or(Ok(()), Err)?;
        self.out.flush()
    }
}

impl Reader {
    /// Reads from byte `at`, which lies on a cache line.
    pub fn new(source: Arc<dyn Stable>, at: usize) -> Reader {
        Reader { source, at }
    }

    /// The next array; `None` where there is none, or one of other numbers.
    pub(crate) fn take<T: Number>(&mut self) -> Option<Aligned<T>> {
        let head = self.source.bytes().get(self.at..)?.first_chunk::<8>()?;
        let [size, count] = [0, 4].map(|at| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize);
        if size != size_of::<T>() {
            return None;
        }
        let array = Aligned::stored(&self.source, self.at + LINE, count)?;
        self.at += LINE + (count * size).next_multiple_of(LINE);
        Some(array)
    }

    /// The next array as one of a length that is known.
    pub(crate) fn take_exactly<T: Number, const N: usize>(&mut self) -> Option<[T; N]> {
        self.take()?.as_slice().try_into().ok()
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        Some(self.take::<i8>()?.as_slice().iter().map(|&byte| byte as u8).collect())
    }

    /// The byte that is next: so many were read, or skipped.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.at >= self.source.bytes().len()
    }
}
