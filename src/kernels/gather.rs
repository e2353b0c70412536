//! Bytes moved without being changed: copies into a place of its own, and every rearrangement whose three axes are
//! independent of each other.
//!
//! A [`Gather`] reads output element (y, x, c) from `rows[y] + columns[x] + channels[c]`. Permuted axes, flips, slices with
//! steps, nearest-neighbour resizing, shuffled channels, depth to space and space to depth, and reflected or replicated
//! padding are tables of that form.

use super::conv::equal;
use super::rows::{check_rows, copy_rows, same_shape};
use super::transpose::{CHANNELS, PIXELS, Tile, write_pixels};
use super::{Error, Layout, SLACK, store};
use std::ops::Range;

/// A tensor copied to another layout of its shape: into a channel slice of a concatenation, or where a border is wanted.
#[derive(Clone, Debug)]
pub struct CopyInto {
    input: Layout,
    output: Layout,
    border: u8,
}

impl CopyInto {
    /// `zero_point` is what the output's border holds.
    pub fn prepare(input: Layout, output: Layout, zero_point: i8) -> Result<CopyInto, Error> {
        same_shape(&output, &input)?;
        Ok(CopyInto { input, output, border: store(zero_point) })
    }

    /// Placement of the result.
    pub fn output(&self) -> &Layout {
        &self.output
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        "copy".into()
    }

    /// Copies output rows `rows`; buffers as in the module's contract.
    pub fn run(&self, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        check_rows(&self.output, output, &rows);
        copy_rows(&self.input, input, &self.output, output, rows.clone());
        self.output.fill_border(rows, output, self.border);
    }
}

/// How the bytes that a row of output needs lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A pixel's channels are contiguous in the input.
    Pixels,
    /// The pixels of a row are contiguous for each channel: a transposition.
    Planes,
    Scattered,
}

/// A rearrangement by tables.
#[derive(Clone, Debug)]
pub struct Gather {
    output: Layout,
    rows: Vec<usize>,
    columns: Vec<usize>,
    channels: Vec<usize>,
    form: Form,
    input_bytes: usize,
    border: u8,
}

impl Gather {
    /// `rows`, `columns` and `channels` are byte offsets from the input's pixel (0, 0), as many as the output is large.
    pub fn prepare(input: Layout, output: Layout, tables: [Vec<usize>; 3], zero_point: i8) -> Result<Gather, Error> {
        input.check()?;
        output.check()?;
        let [mut rows, columns, channels] = tables;
        equal("rows of a gather", output.height, rows.len())?;
        equal("columns of a gather", output.width, columns.len())?;
        equal("channels of a gather", output.channels, channels.len())?;
        let largest = |table: &[usize]| table.iter().copied().max().unwrap_or(0);
        let (last, end) = ([&rows, &columns, &channels].map(|t| largest(t)), input.bytes() - SLACK);
        let last = last.iter().try_fold(input.offset(0, 0), |sum, &n| sum.checked_add(n)).filter(|&last| last < end);
        last.ok_or(Error::Parameter { what: "reach of a gather", found: largest(&rows) })?;
        rows.iter_mut().for_each(|row| *row += input.offset(0, 0));
        let contiguous = |table: &[usize]| table.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1));
        let form = match (contiguous(&channels), contiguous(&columns)) {
            (true, _) => Form::Pixels,
            (false, true) => Form::Planes,
            _ => Form::Scattered,
        };
        Ok(Gather { output, rows, columns, channels, form, input_bytes: input.bytes(), border: store(zero_point) })
    }

    /// Output axis `i` (height, width, channels) is input axis `axes[i]`.
    pub fn permute(input: Layout, output: Layout, axes: [usize; 3], zero_point: i8) -> Result<Gather, Error> {
        input.check()?;
        let sizes = [input.height, input.width, input.channels];
        let steps = [input.row_stride(), input.pixel_stride, 1];
        if let Some(&found) = (0..3).find(|axis| !axes.contains(axis)).and(axes.iter().max()) {
            return Err(Error::Parameter { what: "axis of a permutation", found });
        }
        Gather::prepare(input, output, axes.map(|axis| (0..sizes[axis]).map(|i| i * steps[axis]).collect()), zero_point)
    }

    /// Nearest-neighbour resizing: output row `y` is input row `rows[y]`, output column `x` input column `columns[x]`.
    pub fn nearest(input: Layout, output: Layout, rows: &[usize], columns: &[usize], zero_point: i8) -> Result<Gather, Error> {
        input.check()?;
        equal("channels", input.channels, output.channels)?;
        let outside = |table: &[usize], size: usize| table.iter().copied().find(|&i| i >= size);
        if let Some(found) = outside(rows, input.height).or(outside(columns, input.width)) {
            return Err(Error::Parameter { what: "source of a resized row or column", found });
        }
        let offsets = |table: &[usize], step: usize| table.iter().map(|i| i * step).collect();
        let tables = [offsets(rows, input.row_stride()), offsets(columns, input.pixel_stride), (0..input.channels).collect()];
        Gather::prepare(input, output, tables, zero_point)
    }

    /// Placement of the result.
    pub fn output(&self) -> &Layout {
        &self.output
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        let form = match self.form {
            Form::Pixels => "whole pixels",
            Form::Planes => "transposed",
            Form::Scattered => "byte by byte",
        };
        format!("gather, {form}")
    }

    /// Computes output rows `rows`; buffers as in the module's contract.
    pub fn run(&self, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        assert!(input.len() >= self.input_bytes);
        check_rows(&self.output, output, &rows);
        let base = self.output.rows(rows.clone()).start;
        let dense = self.output.channels == self.output.pixel_stride;
        for y in rows.clone() {
            let row = self.output.offset(y, 0) - base;
            if dense && y > rows.start && self.rows[y] == self.rows[y - 1] {
                let above = self.output.offset(y - 1, 0) - base;
                output.copy_within(above..above + self.output.width * self.output.channels, row);
            } else {
                self.row(&input[self.rows[y]..], &mut output[row..]);
            }
        }
        self.output.fill_border(rows, output, self.border);
    }

    /// One row; `input` starts at its offset, `output` at its first pixel.
    fn row(&self, input: &[u8], output: &mut [u8]) {
        let (stride, count) = (self.output.pixel_stride, self.output.channels);
        match self.form {
            Form::Pixels => {
                let first = self.channels[0];
                for (x, column) in self.columns.iter().enumerate() {
                    let from = column + first;
                    output[x * stride..x * stride + count].copy_from_slice(&input[from..from + count]);
                }
            }
            Form::Planes => {
                let mut tile: Tile = [[0; PIXELS]; CHANNELS];
                for x in (0..self.output.width).step_by(PIXELS) {
                    let pixels = PIXELS.min(self.output.width - x);
                    for (i, channels) in self.channels.chunks(CHANNELS).enumerate() {
                        for (plane, channel) in tile.iter_mut().zip(channels) {
                            plane[..pixels].copy_from_slice(&input[self.columns[x] + channel..][..pixels]);
                        }
                        write_pixels(&tile, pixels, channels.len(), &mut output[x * stride + i * CHANNELS..], stride);
                    }
                }
            }
            Form::Scattered => {
                for (x, column) in self.columns.iter().enumerate() {
                    let pixel = &mut output[x * stride..x * stride + count];
                    pixel.iter_mut().zip(&self.channels).for_each(|(out, channel)| *out = input[column + channel]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite::{Random, cases, in_two, placed};
    use super::*;

    const PERMUTATIONS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

    #[test]
    fn copies_and_permutations_move_every_value_to_its_place() {
        for seed in 0..2 * cases() {
            let mut random = Random::new(seed + 140_000);
            let shape = [random.range(1..5), random.pick(&[1, 2, 9, 70]), random.pick(&[1, 3, 4, 8, 13, 66])];
            let input = random.layout(shape[0], shape[1], shape[2]);
            let values = random.values(shape.iter().product());
            let bytes = placed(&input, &values, 0);
            let axes = random.pick(&PERMUTATIONS);
            let [h, w, c] = axes.map(|axis| shape[axis]);
            let (output, cut) = (random.layout(h, w, c), random.range(0..h + 1));
            let gather = Gather::permute(input, output, axes, 7).unwrap();
            let found = in_two(&output, cut, None, 7, |out, rows| gather.run(&bytes, out, rows));
            let steps = axes.map(|axis| shape[axis + 1..].iter().product::<usize>());
            let expected = (0..h * w * c).map(|i| values[i / c / w * steps[0] + i / c % w * steps[1] + i % c * steps[2]]);
            assert!(found == expected.collect::<Vec<_>>(), "seed {seed} {axes:?} {shape:?}");
            let output = random.layout(shape[0], shape[1], shape[2]);
            let copy = CopyInto::prepare(input, output, 9).unwrap();
            assert!(in_two(&output, cut.min(shape[0]), None, 9, |out, rows| copy.run(&bytes, out, rows)) == values, "seed {seed}");
        }
    }

    #[test]
    fn nearest_resizing_repeats_and_drops_whole_pixels() {
        for seed in 0..cases() {
            let mut random = Random::new(seed + 150_000);
            let [h, w, c] = [random.range(1..5), random.range(1..9), random.range(1..20)];
            let (input, values) = (random.layout(h, w, c), random.values(h * w * c));
            let mut table = |size: usize| (0..random.range(1..9)).map(|_| random.range(0..size)).collect::<Vec<_>>();
            let (rows, columns) = (table(h), table(w));
            let output = random.layout(rows.len(), columns.len(), c);
            let gather = Gather::nearest(input, output, &rows, &columns, 5).unwrap();
            let bytes = placed(&input, &values, 0);
            let cut = random.range(0..rows.len() + 1);
            let found = in_two(&output, cut, None, 5, |out, rows| gather.run(&bytes, out, rows));
            let pixels = rows.iter().flat_map(|y| columns.iter().map(move |x| (y * w + x) * c));
            let expected: Vec<i8> = pixels.flat_map(|at| values[at..at + c].iter().copied()).collect();
            assert!(found == expected, "seed {seed} {rows:?} {columns:?}");
        }
    }

    #[test]
    fn tables_that_leave_the_input_are_refused() {
        let (input, output) = (Layout::new(2, 3, 4), Layout::new(1, 1, 2));
        let tables = |row: usize, channel: usize| [vec![row], vec![0], vec![0, channel]];
        assert!(Gather::prepare(input, output, tables(20, 3), 0).is_ok());
        assert!(Gather::prepare(input, output, tables(20, 4), 0).is_err());
        assert!(Gather::prepare(input, output, tables(usize::MAX, 3), 0).is_err());
        assert!(Gather::prepare(input, Layout::new(2, 1, 2), tables(0, 1), 0).is_err());
        assert!(Gather::permute(input, input, [0, 1, 1], 0).is_err());
        assert!(Gather::nearest(input, Layout::new(1, 1, 4), &[2], &[0], 0).is_err());
    }
}
