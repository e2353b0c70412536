//! Walks over the pixels of a strip, for the loops of ARM: where a pixel's window, output and residual lie.

use super::conv::{Grid, Strip};
use std::ptr::{null, null_mut};

/// A pixel: its window, its place in the output and in the residual.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub window: *const i8,
    pub pixel: *mut u8,
    pub residual: *const u8,
}

impl Place {
    #[cfg_attr(not(target_arch = "arm"), allow(dead_code, reason = "as the cursor's list"))]
    pub const NONE: Place = Place { window: null(), pixel: null_mut(), residual: null() };

    #[inline(always)]
    fn after(self, [window, pixel, residual]: [usize; 3]) -> Place {
        Place {
            window: self.window.wrapping_add(window),
            pixel: self.pixel.wrapping_add(pixel),
            residual: self.residual.wrapping_add(residual),
        }
    }
}

/// Goes over pixels, row by row. Tiles go on over the ends of rows, so few are smaller than the largest.
pub(crate) struct Cursor {
    next: Place,
    /// Pixels left, in all and in the row.
    left: usize,
    in_row: usize,
    width: usize,
    /// Bytes from a pixel to the next one, and from behind a row to the next row, wrapping.
    step: [usize; 3],
    turn: [usize; 3],
}

impl Cursor {
    /// Over the pixels of a strip. `element`: bytes of an input value.
    pub fn over(strip: &mut Strip<'_>, element: usize) -> Cursor {
        let size = strip.rows();
        let output = strip.output.as_mut_ptr();
        let residual = strip.residual().map(|r| (r.bytes.map_or(output.cast_const(), <[u8]>::as_ptr), r.grid));
        let (from, other) = residual.unwrap_or((output, Grid::NONE));
        let first = Place { window: strip.input.as_ptr().cast(), pixel: output, residual: from };
        Cursor::new(first, size, [(strip.windows, element), (strip.pixels, 1), (other, 1)])
    }

    /// Over `height * width` pixels. `grids` count from `first`, each in elements of so many bytes.
    pub fn new(first: Place, (height, width): (usize, usize), grids: [(Grid, usize); 3]) -> Cursor {
        Cursor {
            next: first.after(grids.map(|(grid, size)| grid.base * size)),
            left: height * width,
            in_row: width,
            width,
            step: grids.map(|(grid, size)| grid.step_x * size),
            turn: grids.map(|(grid, size)| grid.step_y.wrapping_sub(width.wrapping_mul(grid.step_x)).wrapping_mul(size)),
        }
    }

    /// Pixels that are left.
    #[inline(always)]
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next `N` pixels, of which at least so many must be left.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "32-bit loops list their places"))]
    pub fn take<const N: usize>(&mut self) -> [Place; N] {
        if self.in_row < N {
            return std::array::from_fn(|_| self.take::<1>()[0]);
        }
        let mut at = [self.next; N];
        for p in 1..N {
            at[p] = at[p - 1].after(self.step);
        }
        self.next = at[N - 1].after(self.step);
        (self.left, self.in_row) = (self.left - N, self.in_row - N);
        if self.in_row == 0 {
            (self.next, self.in_row) = (self.next.after(self.turn), self.width);
        }
        at
    }

    /// Lists the next pixels, as many as there is room for, and returns their number.
    #[cfg_attr(not(target_arch = "arm"), allow(dead_code, reason = "others keep a tile's places in registers"))]
    pub fn list(&mut self, places: &mut [Place]) -> usize {
        let count = places.len().min(self.left);
        let mut rest = &mut places[..count];
        while !rest.is_empty() {
            let (row, others) = rest.split_at_mut(self.in_row.min(rest.len()));
            for place in &mut *row {
                *place = self.next;
                self.next = self.next.after(self.step);
            }
            (self.left, self.in_row) = (self.left - row.len(), self.in_row - row.len());
            if self.in_row == 0 {
                (self.next, self.in_row) = (self.next.after(self.turn), self.width);
            }
            rest = others;
        }
        count
    }
}
