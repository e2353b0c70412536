//! Where the bytes of an activation lie: NHWC with batch 1, a border around the image, and slack behind it.
//!
//! ```text
//!   byte 0 ->  t t t t t t t t     border.top rows
//!              l P P P P P r r     height rows: border.left pixels, width pixels, border.right pixels
//!              l P P P P P r r     a pixel is pixel_stride bytes, of which ours are [first_channel, +channels)
//!              b b b b b b b b     border.bottom rows
//!              s s ...             SLACK bytes that a kernel may read (its value never matters), written by nobody
//! ```
//!
//! The border holds the tensor's zero point, so that a padded convolution needs no branch: every window lies inside the
//! tensor, and the `kernel_width * channels` bytes of one kernel row are contiguous. Whoever writes rows of a tensor also
//! writes the border that belongs to them ([`Layout::rows`], [`Layout::fill_border`]).

use super::Error;
use std::ops::Range;

/// Readable bytes behind every tensor: kernels load up to this much past the last byte that they use.
pub const SLACK: usize = 32;

/// Pixels of zero point around the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Border {
    pub top: usize,
    pub left: usize,
    pub bottom: usize,
    pub right: usize,
}

impl Border {
    /// The smallest border that holds both.
    pub fn union(self, other: Border) -> Border {
        Border {
            top: self.top.max(other.top),
            left: self.left.max(other.left),
            bottom: self.bottom.max(other.bottom),
            right: self.right.max(other.right),
        }
    }
}

/// Placement of one activation, or of a range of its channels (`first_channel`), in a byte buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub border: Border,
    /// Bytes from a pixel to its right neighbour; `channels`, or more for a slice of a wider tensor.
    pub pixel_stride: usize,
    /// Our first channel in a pixel of a wider tensor.
    pub first_channel: usize,
}

impl Layout {
    /// A dense tensor without a border.
    pub const fn new(height: usize, width: usize, channels: usize) -> Layout {
        let border = Border { top: 0, left: 0, bottom: 0, right: 0 };
        Layout { height, width, channels, border, pixel_stride: channels, first_channel: 0 }
    }

    /// The same with a border.
    pub const fn with_border(self, border: Border) -> Layout {
        Layout { border, ..self }
    }

    /// Channels `range` of this tensor, in place: how a concatenation is written, or a slice read, without a copy.
    pub fn channel_slice(self, range: Range<usize>) -> Layout {
        Layout { first_channel: self.first_channel + range.start, channels: range.len(), ..self }
    }

    /// Checks that nothing is empty, that the channels lie inside the pixel and that the size fits an `isize`.
    pub fn check(&self) -> Result<(), Error> {
        let rows = self.border.top.checked_add(self.height).and_then(|n| n.checked_add(self.border.bottom));
        let cols = self.border.left.checked_add(self.width).and_then(|n| n.checked_add(self.border.right));
        let bytes = rows.zip(cols).and_then(|(r, c)| r.checked_mul(c)).and_then(|n| n.checked_mul(self.pixel_stride));
        let fits = bytes.and_then(|n| n.checked_add(SLACK)).is_some_and(|n| isize::try_from(n).is_ok());
        let inside = self.first_channel.checked_add(self.channels).is_some_and(|n| n <= self.pixel_stride);
        let empty = self.height == 0 || self.width == 0 || self.channels == 0;
        if fits && inside && !empty { Ok(()) } else { Err(Error::Layout(*self)) }
    }

    /// Bytes from a row to the next, borders included.
    pub const fn row_stride(&self) -> usize {
        (self.border.left + self.width + self.border.right) * self.pixel_stride
    }

    /// Byte of the first channel of pixel (y, x), counted from the interior's corner.
    pub const fn offset(&self, y: usize, x: usize) -> usize {
        (self.border.top + y) * self.row_stride() + (self.border.left + x) * self.pixel_stride + self.first_channel
    }

    /// Bytes of the whole tensor: borders and slack included.
    pub const fn bytes(&self) -> usize {
        (self.border.top + self.height + self.border.bottom) * self.row_stride() + SLACK
    }

    /// Bytes that the writer of rows `rows` owns: the rows, their left and right border, the top border with the first row,
    /// the bottom border and the slack with the last. Disjoint row ranges own disjoint bytes; all rows own all bytes.
    pub fn rows(&self, rows: Range<usize>) -> Range<usize> {
        let stride = self.row_stride();
        let start = if rows.start == 0 { 0 } else { (self.border.top + rows.start) * stride };
        let end = if rows.end == self.height { self.bytes() } else { (self.border.top + rows.end) * stride };
        start..end
    }

    /// Writes `byte` to the border that belongs to `rows`. `owned` are the bytes [`Layout::rows`] names.
    pub fn fill_border(&self, rows: Range<usize>, owned: &mut [u8], byte: u8) {
        let base = self.rows(rows.clone()).start;
        self.each_of_border(rows, |bytes| owned[bytes.start - base..bytes.end - base].fill(byte));
    }

    /// The bytes of our channels in the border that belongs to `rows`, run by run.
    pub(super) fn each_of_border(&self, rows: Range<usize>, mut each: impl FnMut(Range<usize>)) {
        if self.border == Border::default() {
            return;
        }
        let (stride, full) = (self.row_stride(), self.border.left + self.width + self.border.right);
        let mut row_of = |row: usize, pixels: Range<usize>| {
            let at = |pixel: usize| row * stride + pixel * self.pixel_stride;
            if self.channels == self.pixel_stride {
                each(at(pixels.start)..at(pixels.end));
            } else {
                pixels.for_each(|pixel| each(at(pixel) + self.first_channel..at(pixel) + self.first_channel + self.channels));
            }
        };
        if rows.start == 0 {
            (0..self.border.top).for_each(|row| row_of(row, 0..full));
        }
        for row in rows.clone() {
            row_of(self.border.top + row, 0..self.border.left);
            row_of(self.border.top + row, self.border.left + self.width..full);
        }
        if rows.end == self.height {
            (0..self.border.bottom).for_each(|row| row_of(self.border.top + self.height + row, 0..full));
        }
    }

    /// Writes a dense `[height, width, channels]` tensor of quantized values to its place, border included.
    pub fn scatter(&self, values: &[i8], zero_point: i8, bytes: &mut [u8]) {
        for y in 0..self.height {
            for x in 0..self.width {
                let from = (y * self.width + x) * self.channels;
                let to = self.offset(y, x);
                for (byte, &value) in bytes[to..to + self.channels].iter_mut().zip(&values[from..from + self.channels]) {
                    *byte = super::store(value);
                }
            }
        }
        self.fill_border(0..self.height, bytes, super::store(zero_point));
    }

    /// Reads the interior back as a dense `[height, width, channels]` tensor.
    pub fn gather(&self, bytes: &[u8]) -> Vec<i8> {
        let pixels = (0..self.height).flat_map(|y| (0..self.width).map(move |x| (y, x)));
        pixels.flat_map(|(y, x)| bytes[self.offset(y, x)..][..self.channels].iter().map(|&b| super::load(b))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layouts() -> impl Strategy<Value = Layout> {
        (1..5usize, 1..5usize, 1..4usize, prop::array::uniform4(0..3usize), 0..3usize, 0..3usize).prop_map(|(h, w, c, b, before, after)| {
            let border = Border { top: b[0], left: b[1], bottom: b[2], right: b[3] };
            Layout { pixel_stride: before + c + after, first_channel: before, ..Layout::new(h, w, c).with_border(border) }
        })
    }

    proptest! {
        #[test]
        fn row_ranges_own_disjoint_bytes_that_cover_the_tensor(layout in layouts(), cut in 0..5usize) {
            let cut = cut.min(layout.height);
            let (a, b) = (layout.rows(0..cut), layout.rows(cut..layout.height));
            if cut > 0 && cut < layout.height {
                prop_assert_eq!((a.start, a.end, b.end), (0, b.start, layout.bytes()));
            }
            prop_assert_eq!(layout.rows(0..layout.height), 0..layout.bytes());
        }

        #[test]
        fn filling_the_border_by_parts_touches_the_border_only(layout in layouts(), cut in 0..5usize) {
            let cut = cut.min(layout.height);
            let mut bytes = vec![1u8; layout.bytes()];
            for rows in [0..cut, cut..layout.height].into_iter().filter(|r| !r.is_empty()) {
                let owned = layout.rows(rows.clone());
                layout.fill_border(rows, &mut bytes[owned], 7);
            }
            let pixels = (layout.bytes() - SLACK) / layout.pixel_stride;
            let filled = bytes.iter().filter(|&&b| b == 7).count();
            prop_assert_eq!(filled, (pixels - layout.height * layout.width) * layout.channels);
            prop_assert!(layout.gather(&bytes).iter().all(|&v| v == super::super::load(1)));
        }

        #[test]
        fn scatter_then_gather_is_the_identity(layout in layouts(), seed: u8) {
            let values: Vec<i8> = (0..layout.height * layout.width * layout.channels).map(|i| (i as u8).wrapping_mul(seed) as i8).collect();
            let mut bytes = vec![0; layout.bytes()];
            layout.scatter(&values, 3, &mut bytes);
            prop_assert_eq!(layout.gather(&bytes), values);
        }
    }

    #[test]
    fn a_layout_that_overflows_or_is_empty_is_refused() {
        assert!(Layout::new(usize::MAX, 2, 2).check().is_err());
        assert!(Layout::new(1, 0, 2).check().is_err());
        assert!(Layout { channels: 5, ..Layout::new(1, 1, 4) }.check().is_err());
        assert!(Layout::new(4, 4, 4).check().is_ok());
    }
}
