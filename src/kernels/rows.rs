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

/// Panics unless `rows` are some of the output's and `owned` is as long as the bytes that belong to them.
pub(crate) fn check_rows(output: &Layout, owned: &[u8], rows: &Range<usize>) {
    assert!(rows.start < rows.end && rows.end <= output.height, "rows {rows:?} of {}", output.height);
    assert!(owned.len() >= output.rows(rows.clone()).len(), "output of {} bytes", owned.len());
}

/// Calls `each(from, to)` with the bytes of every run of contiguous pixels of `rows`: where it starts in `input`, and itself.
#[inline(always)]
pub(crate) fn each_run(input: &Layout, output: &Layout, owned: &mut [u8], rows: Range<usize>, mut each: impl FnMut(usize, &mut [u8])) {
    let base = output.rows(rows.clone()).start;
    let count = run_length(&[output, input]);
    for y in rows {
        for x in (0..output.width).step_by(count) {
            let to = output.offset(y, x) - base;
            each(input.offset(y, x), &mut owned[to..to + count * output.channels]);
        }
    }
}

/// Copies the pixels of `rows` from a tensor of the same shape.
#[inline(always)]
pub(crate) fn copy_rows(input: &Layout, bytes: &[u8], output: &Layout, owned: &mut [u8], rows: Range<usize>) {
    each_run(input, output, owned, rows, |from, to| to.copy_from_slice(&bytes[from..from + to.len()]));
}

/// `bytes[i] = f(bytes[i], others[i])`; two slices of one length.
#[inline(always)]
pub(crate) fn zip_in_place(bytes: &mut [u8], others: &[u8], f: impl Fn(u8, u8) -> u8 + Copy) {
    let (steps, rest) = bytes.as_chunks_mut::<STEP>();
    let (other_steps, other_rest) = others.as_chunks::<STEP>();
    let each = |step: &mut [u8; STEP], other: &[u8; STEP]| (0..STEP).for_each(|i| step[i] = f(step[i], other[i]));
    steps.iter_mut().zip(other_steps).for_each(|(step, other)| each(step, other));
    if !rest.is_empty() {
        let (mut step, mut other) = ([0; STEP], [0; STEP]);
        step[..rest.len()].copy_from_slice(rest);
        other[..rest.len()].copy_from_slice(&other_rest[..rest.len()]);
        each(&mut step, &other);
        rest.copy_from_slice(&step[..rest.len()]);
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
