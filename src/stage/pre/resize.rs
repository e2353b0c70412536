//! `{ step = "resize", mode = "fit" }`: an image to the model's size.
//!
//! The arithmetic is that of Pillow's `Image.resize`: pixel centres lie at half-integers; `bilinear` is a triangle that widens
//! with the scale when an image shrinks, so that nothing is skipped; each of the two passes, first along rows and then along
//! columns, uses weights of 22 bits and rounds to 8 bits. `nearest` takes the pixel that holds the centre.

use super::{Plan, Step};
use crate::stage::Flaw;
use serde::{Deserialize, Serialize};

/// How images that are not of the model's size get it. Without this step: `stretch`, `bilinear`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resize {
    /// `stretch` (default) ignores the aspect ratio; `fit` keeps it and fills the rest with `pad`; `crop` keeps it and cuts off
    /// what lies outside, evenly on both sides.
    pub mode: Mode,
    /// `bilinear` (default) or `nearest`.
    pub filter: Filter,
    /// The sample, 0 to 255, in what `fit` leaves open. Default 0.
    pub pad: u8,
    /// The input that it is for, by default every one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Stretch,
    Fit,
    Crop,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    #[default]
    Bilinear,
    Nearest,
}

impl Step for Resize {
    fn input(&self) -> Option<&str> {
        self.input.as_deref()
    }

    fn check(&self) -> Result<(), Flaw> {
        Ok(())
    }

    fn plan(&self, plan: &mut Plan) -> Result<(), Flaw> {
        if plan.geometry.image.is_none() {
            return Err(Flaw::new("", format!("resize is for images, the model's input has {}", plan.geometry.describe())));
        }
        plan.resize = Some(self.clone());
        Ok(())
    }
}

/// Resizes to one size; keeps weights and buffers from run to run.
#[derive(Clone, Debug)]
pub struct Resizer {
    step: Resize,
    width: usize,
    height: usize,
    cached: Option<Cached>,
    rows: Vec<u8>,
    sums: Vec<i32>,
    out: Vec<u8>,
}

/// The weights for one source size.
#[derive(Clone, Debug)]
struct Cached {
    source: (usize, usize),
    horizontal: Taps,
    vertical: Taps,
    /// Where the scaled image lies in the target.
    left: usize,
    top: usize,
}

impl Resizer {
    pub fn new(step: Resize, width: usize, height: usize) -> Resizer {
        Resizer { step, width, height, cached: None, rows: Vec::new(), sums: Vec::new(), out: Vec::new() }
    }

    /// The image, interleaved, in the target size; the source itself where it has that size already. `data` has
    /// `width * height * channels` samples.
    pub fn run<'a>(&'a mut self, data: &'a [u8], width: usize, height: usize, channels: usize) -> &'a [u8] {
        if (width, height) == (self.width, self.height) {
            return data;
        }
        let cached = match self.cached.take() {
            Some(cached) if cached.source == (width, height) => cached,
            _ => self.prepare(width, height),
        };
        cached.horizontal.rows(data, width, channels, &mut self.rows);
        let whole = (cached.horizontal.len(), cached.vertical.len()) == (self.width, self.height);
        self.out.clear();
        self.out.resize(self.width * self.height * channels, if whole { 0 } else { self.step.pad });
        let corner = (cached.top * self.width + cached.left) * channels;
        cached.vertical.columns(
            &self.rows,
            cached.horizontal.len() * channels,
            self.width * channels,
            &mut self.sums,
            &mut self.out[corner..],
        );
        self.cached = Some(cached);
        &self.out
    }

    fn prepare(&self, width: usize, height: usize) -> Cached {
        let (tw, th) = (self.width, self.height);
        // Wider than the target by aspect ratio: width / height > tw / th.
        let wider = width as u128 * th as u128 > tw as u128 * height as u128;
        let share = |part: usize, of: usize, whole: usize| ((part as f64 * of as f64 / whole as f64).round() as usize).max(1);
        let (from, to) = match self.step.mode {
            Mode::Stretch => ((width, height), (tw, th)),
            Mode::Fit if wider => ((width, height), (tw, share(tw, height, width).min(th))),
            Mode::Fit => ((width, height), (share(th, width, height).min(tw), th)),
            Mode::Crop if wider => ((share(height, tw, th).min(width), height), (tw, th)),
            Mode::Crop => ((width, share(width, th, tw).min(height)), (tw, th)),
        };
        let taps = |from: usize, whole: usize, to: usize| Taps::new(self.step.filter, (whole - from) / 2, from, to);
        Cached {
            source: (width, height),
            horizontal: taps(from.0, width, to.0),
            vertical: taps(from.1, height, to.1),
            left: (tw - to.0) / 2,
            top: (th - to.1) / 2,
        }
    }
}

const PRECISION: u32 = 22;

/// For each target sample of one dimension the source samples that it is made of, and their weights.
#[derive(Clone, Debug)]
struct Taps {
    /// First source sample and the range of its weights.
    spans: Vec<(usize, std::ops::Range<usize>)>,
    weights: Vec<i32>,
}

impl Taps {
    /// From `from` samples that start at `first`, to `to` samples.
    fn new(filter: Filter, first: usize, from: usize, to: usize) -> Taps {
        let mut taps = Taps { spans: Vec::with_capacity(to), weights: Vec::new() };
        let scale = from as f64 / to as f64;
        for target in 0..to {
            let centre = (target as f64 + 0.5) * scale;
            let (start, weights) = match filter {
                Filter::Nearest => ((centre as usize).min(from - 1), vec![1.0]),
                Filter::Bilinear => triangle(centre, scale.max(1.0), from),
            };
            let begin = taps.weights.len();
            let sum: f64 = weights.iter().sum();
            taps.weights.extend(weights.iter().map(|w| (0.5 + w / sum * f64::from(1u32 << PRECISION)) as i32));
            taps.spans.push((first + start, begin..taps.weights.len()));
        }
        taps
    }

    fn len(&self) -> usize {
        self.spans.len()
    }

    /// Resizes every row of an interleaved image.
    fn rows(&self, data: &[u8], width: usize, channels: usize, out: &mut Vec<u8>) {
        out.clear();
        out.reserve(data.len() / width * self.len());
        for row in data.chunks_exact(width * channels) {
            for (start, range) in &self.spans {
                let weights = &self.weights[range.clone()];
                for channel in 0..channels {
                    let samples = row[start * channels + channel..].iter().step_by(channels);
                    let sum: i32 = samples.zip(weights).map(|(&sample, &weight)| i32::from(sample) * weight).sum();
                    out.push(round(sum));
                }
            }
        }
    }

    /// Resizes columns: rows of `length` samples in, rows `stride` samples apart out.
    fn columns(&self, rows: &[u8], length: usize, stride: usize, sums: &mut Vec<i32>, out: &mut [u8]) {
        sums.resize(length, 0);
        for ((start, range), target) in self.spans.iter().zip(out.chunks_mut(stride)) {
            sums.fill(0);
            for (row, &weight) in rows[start * length..].chunks_exact(length).zip(&self.weights[range.clone()]) {
                sums.iter_mut().zip(row).for_each(|(sum, &sample)| *sum += i32::from(sample) * weight);
            }
            target.iter_mut().zip(&*sums).for_each(|(slot, &sum)| *slot = round(sum));
        }
    }
}

/// First sample and weights of a triangle of half-width `support` about `centre`.
fn triangle(centre: f64, support: f64, from: usize) -> (usize, Vec<f64>) {
    let start = (centre - support + 0.5).max(0.0) as usize;
    let end = ((centre + support + 0.5) as usize).min(from);
    let weight = |sample: usize| (1.0 - ((sample as f64 - centre + 0.5) / support).abs()).max(0.0);
    (start, (start..end).map(weight).collect())
}

fn round(sum: i32) -> u8 {
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(width: usize, height: usize, channels: usize) -> Vec<u8> {
        (0..width * height * channels).map(|i| ((i * i * 31 + i * 7 + 3) % 251) as u8).collect()
    }

    fn resized(mode: Mode, filter: Filter, from: (usize, usize, usize), to: (usize, usize)) -> Vec<u8> {
        let mut resizer = Resizer::new(Resize { mode, filter, pad: 9, input: None }, to.0, to.1);
        let data = source(from.0, from.1, from.2);
        let first = resizer.run(&data, from.0, from.1, from.2).to_vec();
        assert_eq!(resizer.run(&data, from.0, from.1, from.2), first, "the buffers hold nothing of the run before");
        first
    }

    /// Expected values: Pillow 13.0.0, `Image.resize(size, Image.BILINEAR)` and `Image.NEAREST`, of the same formula.
    #[test]
    fn equals_pillow() {
        let stretch = |filter, from, to| resized(Mode::Stretch, filter, from, to);
        let shrunk_rgb = [
            63, 87, 128, 126, 119, 83, 53, 107, 97, 114, 67, 152, 106, 148, 91, 176, 148, 84, 147, 80, 142, 144, 78, 132, 181, 164, 158,
            188, 107, 149, 176, 155, 150, 148, 116, 149,
        ];
        assert_eq!(stretch(Filter::Bilinear, (7, 5, 3), (4, 3)), shrunk_rgb);
        let grown = [
            3, 16, 37, 85, 141, 92, 49, 34, 25, 23, 43, 76, 96, 114, 76, 45, 42, 40, 56, 87, 138, 114, 70, 51, 40, 54, 64, 111, 111, 112,
            84, 49, 49, 56, 90, 110, 153, 123, 73, 50, 34, 52, 76, 119, 144, 93, 74, 42, 38, 41, 78, 104, 86, 75, 55, 43, 23, 31, 45, 94,
            122, 66, 32,
        ];
        assert_eq!(stretch(Filter::Bilinear, (5, 4, 1), (9, 7)), grown);
        let far = [109, 111, 116, 143, 151, 109, 122, 110, 103, 128, 115, 139, 147, 122, 114, 107, 96, 123, 108, 126];
        assert_eq!(stretch(Filter::Bilinear, (33, 17, 1), (5, 4)), far);
        let one_way = [75, 55, 98, 59, 82, 60, 121, 88, 160, 73, 97, 159, 55, 128, 92, 160, 174, 128, 94, 153, 74, 150, 145, 93];
        assert_eq!(stretch(Filter::Bilinear, (6, 9, 1), (6, 4)), one_way);
        assert_eq!(stretch(Filter::Nearest, (7, 5, 1), (4, 3)), [3, 141, 25, 157, 153, 19, 133, 244, 156, 1, 94, 184]);
        let near = [3, 3, 41, 141, 141, 3, 3, 41, 141, 141, 52, 52, 25, 60, 60, 52, 52, 25, 60, 60];
        assert_eq!(stretch(Filter::Nearest, (3, 2, 1), (5, 4)), near);
    }

    #[test]
    fn fit_centres_and_pads_and_crop_takes_the_middle() {
        let wide = source(4, 2, 1);
        let fitted = resized(Mode::Fit, Filter::Nearest, (4, 2, 1), (4, 4));
        assert_eq!(fitted, [&[9; 4][..], &wide, &[9; 4]].concat());
        let cropped = resized(Mode::Crop, Filter::Nearest, (4, 2, 1), (2, 2));
        assert_eq!(cropped, [wide[1], wide[2], wide[5], wide[6]]);
        let tall = source(2, 4, 1);
        let fitted = resized(Mode::Fit, Filter::Nearest, (2, 4, 1), (4, 4));
        assert_eq!(fitted[..4], [9, tall[0], tall[1], 9]);
        assert_eq!(resized(Mode::Crop, Filter::Nearest, (2, 4, 1), (2, 2)), tall[2..6]);
    }

    proptest! {
        #[test]
        fn any_size_to_any_size(w in 1usize..40, h in 1usize..40, tw in 1usize..20, th in 1usize..20, mode in 0..3, rgb in any::<bool>(), value in any::<u8>()) {
            let mode = [Mode::Stretch, Mode::Fit, Mode::Crop][mode as usize];
            let channels = if rgb { 3 } else { 1 };
            let mut resizer = Resizer::new(Resize { mode, filter: Filter::Bilinear, pad: value, input: None }, tw, th);
            let even = vec![value; w * h * channels];
            // A picture of one colour stays one.
            prop_assert_eq!(resizer.run(&even, w, h, channels), vec![value; tw * th * channels]);
        }
    }
}
