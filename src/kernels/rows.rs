//! What operators that walk over pixels share: shape checks, runs of contiguous pixels, and loops of fixed length.

use super::conv::equal;
use super::{Error, Layout};
use std::ops::Range;

/// Elements that a loop takes at a time: a fixed count, so that short pixels are vectorised too.
pub(crate) const STEP: usize = 16;

/// Fails unless both layouts are sound and of one shape.
pub(crate) fn same_shape(expected: &Layout, found: &Layout) -> Result<(), Error> {
    expected.check()?;
    found.check()?;
    equal("height", expected.height, found.height)?;
    equal("width", expected.width, found.width)?;
    equal("channels", expected.channels, found.channels)
}

/// Pixels of a row that are contiguous in every layout: all, or one where some tensor is a slice of a wider one.
pub(crate) fn run_length(layouts: &[&Layout]) -> usize {
    if layouts.iter().all(|l| l.channels == l.pixel_stride) { layouts[0].width } else { 1 }
}

/// The pixels of a row in `N` tensors, as runs that are contiguous in each.
#[derive(Clone, Copy)]
pub(crate) struct Runs<const N: usize> {
    pub count: usize,
    /// Bytes of each run.
    pub length: usize,
    /// Bytes from a run to the next, in each tensor.
    pub steps: [usize; N],
}

impl<const N: usize> Runs<N> {
    /// Of any row of these layouts, which are of one shape.
    pub fn of(layouts: [&Layout; N]) -> Runs<N> {
        let pixels = run_length(&layouts);
        let steps = layouts.map(|layout| pixels * layout.pixel_stride);
        Runs { count: layouts[0].width / pixels, length: pixels * layouts[0].channels, steps }
    }

    /// Bytes of a tensor from the first run to the end of the last.
    pub fn span(&self, tensor: usize) -> usize {
        (self.count - 1) * self.steps[tensor] + self.length
    }

    /// Where each run begins, from the first.
    #[inline(always)]
    pub fn starts(self) -> impl Iterator<Item = [usize; N]> {
        (0..self.count).map(move |run| self.steps.map(|step| run * step))
    }

    /// Where each run lies, from the first.
    pub fn iter(self) -> impl Iterator<Item = [Range<usize>; N]> {
        self.starts().map(move |starts| starts.map(|start| start..start + self.length))
    }

    /// Panics unless slices of these lengths span the runs.
    #[cfg_attr(target_arch = "arm", allow(dead_code, reason = "its loops are plain Rust there"))]
    pub fn check(&self, lengths: [usize; N]) {
        assert!((0..N).all(|tensor| lengths[tensor] == self.span(tensor)), "{lengths:?} bytes");
    }
}

/// Panics unless `rows` are some of the output's and `owned` is as long as the bytes that belong to them.
pub(crate) fn check_rows(output: &Layout, owned: &[u8], rows: &Range<usize>) {
    assert!(rows.start < rows.end && rows.end <= output.height, "rows {rows:?} of {}", output.height);
    assert!(owned.len() >= output.rows(rows.clone()).len(), "output of {} bytes", owned.len());
}

/// Copies the pixels of `rows` from a tensor of the same shape.
#[inline(always)]
pub(crate) fn copy_rows(input: &Layout, bytes: &[u8], output: &Layout, owned: &mut [u8], rows: Range<usize>) {
    let base = output.rows(rows.clone()).start;
    let runs = Runs::of([input, output]);
    for y in rows {
        let (bytes, owned) = (&bytes[input.offset(y, 0)..], &mut owned[output.offset(y, 0) - base..]);
        runs.iter().for_each(|[from, to]| owned[to].copy_from_slice(&bytes[from]));
    }
}

/// Up to [`STEP`] elements from `at`, filled up with zeros.
#[inline(always)]
pub(crate) fn step_at<T: Copy + Default>(elements: &[T], at: usize) -> [T; STEP] {
    match elements[at..].first_chunk() {
        Some(step) => *step,
        None => {
            let mut step = [T::default(); STEP];
            step[..elements.len() - at].copy_from_slice(&elements[at..]);
            step
        }
    }
}

/// Calls `each(step, at)` on every [`STEP`] bytes, the last ones filled up with zeros. `each` is called at one place only,
/// so that it is compiled into the loop.
#[inline(always)]
pub(crate) fn each_step(bytes: &mut [u8], mut each: impl FnMut(&mut [u8; STEP], usize)) {
    for at in (0..bytes.len()).step_by(STEP) {
        let mut step = step_at(bytes, at);
        each(&mut step, at);
        match bytes[at..].first_chunk_mut() {
            Some(bytes) => *bytes = step,
            None => {
                let count = bytes.len() - at;
                bytes[at..].copy_from_slice(&step[..count]);
            }
        }
    }
}

/// `bytes[i] = f(bytes[i], others[i])`; two slices of one length.
#[inline(always)]
pub(crate) fn zip_in_place(bytes: &mut [u8], others: &[u8], f: impl Fn(u8, u8) -> u8) {
    let each = |step: &mut [u8; STEP], other: &[u8; STEP]| (0..STEP).for_each(|i| step[i] = f(step[i], other[i]));
    let whole = bytes.len() / STEP * STEP;
    let steps = bytes.as_chunks_mut::<STEP>().0.iter_mut();
    steps.zip(others.as_chunks::<STEP>().0).for_each(|(step, other)| each(step, other));
    if whole < bytes.len() {
        let mut step = step_at(bytes, whole);
        each(&mut step, &step_at(others, whole));
        let count = bytes.len() - whole;
        bytes[whole..].copy_from_slice(&step[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_the_rest_meet_every_element_once() {
        for count in 0..3 * STEP {
            let mut bytes: Vec<u8> = (0..count as u8).collect();
            let others: Vec<u8> = (0..count as u8).map(|i| i * 3).collect();
            zip_in_place(&mut bytes, &others, |a, b| a.wrapping_add(b));
            assert_eq!(bytes, (0..count as u8).map(|i| i * 4).collect::<Vec<_>>());
        }
    }
}
