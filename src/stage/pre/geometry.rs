//! Where channels and positions (frames of a signal, pixels of an image) lie in a port's elements.

use super::layout::Axes;
use crate::stage::Flaw;

/// A port's dimensions without the batch, seen as positions times channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// At least 1.
    pub channels: usize,
    /// Frames of a signal or pixels of an image.
    pub positions: usize,
    /// True where all positions of one channel lie together (`nchw`, `ncl`).
    pub channel_major: bool,
    /// Height and width of an image.
    pub image: Option<(usize, usize)>,
    /// True for a port of one dimension: its elements may be any frames times channels.
    flat: bool,
}

impl Geometry {
    /// The dimensions in the given order.
    pub fn new(axes: Axes, shape: &[usize]) -> Result<Geometry, Flaw> {
        let signal = |channels, positions, channel_major| Geometry { channels, positions, channel_major, image: None, flat: false };
        let image = |channels, h: usize, w: usize, channel_major| {
            let positions = h.saturating_mul(w);
            Geometry { channels, positions, channel_major, image: Some((h, w)), flat: false }
        };
        match (axes, shape) {
            (Axes::Ncl, &[_, c, l]) => Ok(signal(c, l, true)),
            (Axes::Nlc, &[_, l, c]) => Ok(signal(c, l, false)),
            (Axes::Nchw, &[_, c, h, w]) => Ok(image(c, h, w, true)),
            (Axes::Nhwc, &[_, h, w, c]) => Ok(image(c, h, w, false)),
            _ => Err(Flaw::new("order", format!("`{axes}` has {} dimensions, the model's input has {:?}", axes.rank(), shape))),
        }
    }

    /// The dimensions as they look: `nchw` unless only the last one can be 1 or 3 channels; of a signal the shorter dimension
    /// is the channels, the first if both are equal. Other ranks are flat, position-major, with `channels` channels.
    pub fn guess(shape: &[usize], channels: usize) -> Geometry {
        let colours = |n: usize| n == 1 || n == 3;
        let axes = match *shape {
            [_, first, _, last] if !colours(first) && colours(last) => Some(Axes::Nhwc),
            [_, _, _, _] => Some(Axes::Nchw),
            [_, first, last] if last < first => Some(Axes::Nlc),
            [_, _, _] => Some(Axes::Ncl),
            _ => None,
        };
        axes.and_then(|axes| Geometry::new(axes, shape).ok()).unwrap_or_else(|| Geometry::flat(shape, channels))
    }

    fn flat(shape: &[usize], channels: usize) -> Geometry {
        let elements: usize = shape.iter().product();
        let divides = channels > 0 && elements.is_multiple_of(channels);
        let channels = if divides { channels } else { 1 };
        Geometry { channels, positions: elements / channels, channel_major: false, image: None, flat: true }
    }

    /// How a shape with the port's number of elements matches, dimensions of 1 aside: `Some(false)` where it is flat or that of
    /// the port, `Some(true)` where it has positions and channels in the other order, otherwise `None`.
    pub fn transposed(&self, shape: &[usize], declared: &[usize]) -> Option<bool> {
        let same = |other: &[usize]| shape.iter().filter(|&&d| d != 1).eq(other.iter().filter(|&&d| d != 1));
        let flat = shape.iter().filter(|&&d| d != 1).count() <= 1;
        let (c, l) = (self.channels, self.positions);
        let swapped = match (self.image, self.channel_major) {
            _ if flat || same(declared) => return Some(false),
            _ if self.flat => false,
            (Some((h, w)), true) => same(&[h, w, c]),
            (Some((h, w)), false) => same(&[c, h, w]),
            (None, true) => same(&[l, c]),
            (None, false) => same(&[c, l]),
        };
        swapped.then_some(true)
    }

    /// Checks a time-major window; the error says what was found. `uniform` tells that every element is treated alike, so that
    /// a flat port takes any split into frames and channels.
    pub fn check_window(&self, frames: usize, channels: usize, uniform: bool) -> Result<(), String> {
        let any_split = self.flat && uniform && frames * channels == self.positions * self.channels;
        match any_split || (frames == self.positions && channels == self.channels) {
            true => Ok(()),
            false => Err(format!("a window of {frames} frames of {channels} channels")),
        }
    }

    /// What fits, in words.
    pub fn describe(&self) -> String {
        match self.image {
            Some((h, w)) => format!("{h} rows of {w} pixels of {} channels", self.channels),
            None if self.flat => format!("{} elements", self.positions * self.channels),
            None => format!("{} frames of {} channels", self.positions, self.channels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_are_guessed_as_documented() {
        let nchw = Geometry::guess(&[1, 3, 4, 5], 1);
        assert_eq!((nchw.channels, nchw.positions, nchw.channel_major, nchw.image), (3, 20, true, Some((4, 5))));
        let nhwc = Geometry::guess(&[1, 8, 8, 1], 1);
        assert_eq!((nhwc.channels, nhwc.positions, nhwc.channel_major), (1, 64, false));
        let features = Geometry::guess(&[1, 16, 8, 8], 1);
        assert_eq!((features.channels, features.channel_major), (16, true));
        let ncl = Geometry::guess(&[1, 3, 256], 1);
        assert_eq!((ncl.channels, ncl.positions, ncl.channel_major), (3, 256, true));
        let nlc = Geometry::guess(&[1, 256, 3], 1);
        assert_eq!((nlc.channels, nlc.positions, nlc.channel_major), (3, 256, false));
        assert!(Geometry::guess(&[1, 4, 4], 1).channel_major);
        let flat = Geometry::guess(&[1, 12], 3);
        assert_eq!((flat.channels, flat.positions), (3, 4));
    }

    #[test]
    fn shapes_match_straight_flat_or_swapped() {
        let ncl = Geometry::guess(&[1, 3, 256], 1);
        let of = |shape: &[usize]| ncl.transposed(shape, &[1, 3, 256]);
        assert_eq!(of(&[1, 3, 256]), Some(false));
        assert_eq!(of(&[3, 256]), Some(false));
        assert_eq!(of(&[768]), Some(false));
        assert_eq!(of(&[256, 3]), Some(true));
        assert_eq!(of(&[1, 256, 3]), Some(true));
        assert_eq!(of(&[2, 384]), None);
        let nchw = Geometry::guess(&[1, 3, 4, 5], 1);
        assert_eq!(nchw.transposed(&[4, 5, 3], &[1, 3, 4, 5]), Some(true));
        assert_eq!(nchw.transposed(&[5, 4, 3], &[1, 3, 4, 5]), None);
        assert_eq!(Geometry::guess(&[1, 1, 4, 5], 1).transposed(&[4, 5], &[1, 1, 4, 5]), Some(false));
        assert_eq!(Geometry::guess(&[1, 1], 1).transposed(&[], &[1, 1]), Some(false));
        let square = Geometry::guess(&[1, 4, 4], 1);
        assert_eq!(square.transposed(&[4, 4], &[1, 4, 4]), Some(false));
    }

    #[test]
    fn a_flat_port_takes_any_split_only_where_all_elements_are_treated_alike() {
        let flat = Geometry::guess(&[1, 12], 1);
        assert!(flat.check_window(4, 3, true).is_ok());
        assert!(flat.check_window(4, 3, false).is_err());
        assert!(flat.check_window(5, 3, true).unwrap_err().contains("5 frames of 3 channels"));
    }
}
