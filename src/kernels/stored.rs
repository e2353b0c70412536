//! Arrays of plain numbers that lie on cache lines: in memory of their own, or in place in bytes that outlive the process.

use std::fmt;
use std::sync::Arc;

/// Where every array begins: a multiple of a cache line.
pub(crate) const LINE: usize = 64;

/// Bytes that do not move and do not change while it lives, such as a file mapped into memory.
///
/// # Safety
/// [`Stable::bytes`] gives the same bytes at the same address every time.
pub unsafe trait Stable: Send + Sync {
    fn bytes(&self) -> &[u8];
}

/// Numbers of which every pattern of bits is one.
pub(crate) trait Number: Copy + Default + Send + Sync + 'static {}

impl Number for u8 {}
impl Number for i8 {}
impl Number for i16 {}
impl Number for i32 {}
impl Number for u32 {}
impl Number for f32 {}

/// Numbers of which the first lies on a cache line. A clone keeps the values but may lose the alignment, which costs time only.
#[derive(Clone, Debug)]
pub(crate) struct Aligned<T>(Place<T>);

#[derive(Clone)]
enum Place<T> {
    Own { buffer: Vec<T>, start: usize },
    Stored(Stored<T>),
}

/// `count` numbers from `start`, which lie in the bytes of `owner`.
#[derive(Clone)]
struct Stored<T> {
    #[allow(dead_code, reason = "keeps the bytes where they are")]
    owner: Arc<dyn Stable>,
    start: *const T,
    count: usize,
}

// SAFETY: nobody writes to the numbers, and the owner may be sent and shared.
unsafe impl<T: Number> Send for Stored<T> {}
// SAFETY: as above.
unsafe impl<T: Number> Sync for Stored<T> {}

impl<T: Number> Aligned<T> {
    pub fn new(values: &[T]) -> Aligned<T> {
        let spare = LINE / size_of::<T>();
        let mut buffer = vec![T::default(); values.len() + spare];
        let start = buffer.as_ptr().align_offset(LINE).min(spare);
        buffer[start..start + values.len()].copy_from_slice(values);
        buffer.truncate(start + values.len());
        Aligned(Place::Own { buffer, start })
    }

    /// `count` numbers from byte `at` of `owner`; `None` where they are not all there or do not begin on a cache line.
    pub fn stored(owner: &Arc<dyn Stable>, at: usize, count: usize) -> Option<Aligned<T>> {
        let bytes = owner.bytes().get(at..at.checked_add(count.checked_mul(size_of::<T>())?)?)?;
        let start = bytes.as_ptr();
        (start as usize).is_multiple_of(LINE).then(|| Aligned(Place::Stored(Stored { owner: owner.clone(), start: start.cast(), count })))
    }

    pub fn as_slice(&self) -> &[T] {
        match &self.0 {
            Place::Own { buffer, start } => &buffer[*start..],
            // SAFETY: `Aligned::stored` found that many bytes there, aligned for every number; the owner keeps them, and any bytes
            // are numbers.
            Place::Stored(stored) => unsafe { std::slice::from_raw_parts(stored.start, stored.count) },
        }
    }
}

impl<T> fmt::Debug for Place<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Own { buffer, start } => write!(f, "{} numbers", buffer.len() - start),
            Place::Stored(stored) => write!(f, "{} stored numbers", stored.count),
        }
    }
}

/// The bytes of numbers.
pub(crate) fn bytes_of<T: Number>(values: &[T]) -> &[u8] {
    // SAFETY: numbers have no padding, and any of their bytes may be read.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// A file in memory, for tests.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Shelf(Arc<std::sync::Mutex<Vec<u8>>>);

#[cfg(test)]
impl std::io::Write for Shelf {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
impl Shelf {
    /// What was written.
    pub fn stable(&self) -> Arc<dyn Stable> {
        let bytes: Vec<i8> = self.0.lock().unwrap().iter().map(|&byte| byte as i8).collect();
        Arc::new(Aligned::new(&bytes))
    }
}

// SAFETY: nothing changes the numbers or moves their buffer while it is borrowed or in an `Arc`.
#[cfg(test)]
unsafe impl Stable for Aligned<i8> {
    fn bytes(&self) -> &[u8] {
        bytes_of(self.as_slice())
    }
}
