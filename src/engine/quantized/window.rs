//! Windows of convolutions and pools over the spatial axes: attributes, padding, output sizes.

use crate::engine::onnx::attribute;
use crate::engine::onnx::pb::NodeProto;
use serde::{Deserialize, Serialize};

/// How the edges are padded (ONNX attributes `auto_pad` and `pads`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Padding {
    /// All beginnings, then all ends.
    Explicit(Vec<usize>),
    /// As much as makes the output `ceil(input / stride)` long; an odd pixel at the end.
    SameUpper,
    /// The same with an odd pixel at the beginning.
    SameLower,
}

/// One or two spatial axes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    pub padding: Padding,
    /// Round output sizes up (pools).
    pub ceil: bool,
}

/// A window on an input of known size, always with two axes: a single one is the width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitted {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// At the top and at the left.
    pub pad: [usize; 2],
    pub output: [usize; 2],
    /// Output sizes before rounding up, so that the last window lies inside the padded input.
    pub whole: [usize; 2],
}

impl Window {
    /// Reads the attributes of `node`, whose kernel has the shape `kernel`. `None` for more than two axes.
    pub fn of(node: &NodeProto, kernel: &[usize]) -> Option<Window> {
        let axes = kernel.len();
        if !(1..=2).contains(&axes) || kernel.contains(&0) {
            return None;
        }
        let padding = match attribute::find(node, "auto_pad").map_or(&b"NOTSET"[..], |a| &a.s) {
            b"NOTSET" | b"" => Padding::Explicit(attribute::sizes(node, "pads", 0, 2 * axes)?),
            b"VALID" => Padding::Explicit(vec![0; 2 * axes]),
            b"SAME_UPPER" => Padding::SameUpper,
            b"SAME_LOWER" => Padding::SameLower,
            _ => return None,
        };
        Some(Window {
            kernel: kernel.to_vec(),
            stride: attribute::sizes(node, "strides", 1, axes)?,
            dilation: attribute::sizes(node, "dilations", 1, axes)?,
            padding,
            ceil: attribute::int(node, "ceil_mode", 0) != 0,
        })
    }

    /// A window over everything.
    pub fn whole(spatial: &[usize]) -> Window {
        let ones = vec![1; spatial.len()];
        let padding = Padding::Explicit(vec![0; 2 * spatial.len()]);
        Window { kernel: spatial.to_vec(), stride: ones.clone(), dilation: ones, padding, ceil: false }
    }

    /// Fits the window to an input with these spatial sizes.
    pub fn fit(&self, spatial: &[usize]) -> Result<Fitted, String> {
        let axes = self.kernel.len();
        if spatial.len() != axes {
            return Err(format!("the input has {} spatial axes, the kernel {axes}", spatial.len()));
        }
        let mut fitted = Fitted { kernel: [1; 2], stride: [1; 2], dilation: [1; 2], pad: [0; 2], output: [1; 2], whole: [1; 2] };
        for (axis, &size) in spatial.iter().enumerate() {
            let to = 2 - axes + axis;
            let reach = (self.kernel[axis] - 1) * self.dilation[axis] + 1;
            let (begin, end) = self.pads(axis, size, reach);
            let room = (size + begin + end).checked_sub(reach);
            let room = room.ok_or_else(|| format!("a window of {reach} is larger than the padded input of {}", size + begin + end))?;
            let (stride, whole) = (self.stride[axis], room / self.stride[axis] + 1);
            let mut output = if self.ceil { room.div_ceil(stride) + 1 } else { whole };
            // A window that would start in the end padding is left out.
            if self.ceil && (output - 1) * stride >= size + begin {
                output -= 1;
            }
            fitted.kernel[to] = self.kernel[axis];
            fitted.stride[to] = stride;
            fitted.dilation[to] = self.dilation[axis];
            fitted.pad[to] = begin;
            fitted.output[to] = output;
            fitted.whole[to] = whole;
        }
        Ok(fitted)
    }

    fn pads(&self, axis: usize, size: usize, reach: usize) -> (usize, usize) {
        let same = || (size.div_ceil(self.stride[axis]).max(1) - 1) * self.stride[axis] + reach;
        match &self.padding {
            Padding::Explicit(pads) => (pads[axis], pads[axis + self.kernel.len()]),
            Padding::SameUpper => {
                let total = same().saturating_sub(size);
                (total / 2, total - total / 2)
            }
            Padding::SameLower => {
                let total = same().saturating_sub(size);
                (total - total / 2, total / 2)
            }
        }
    }
}

impl Fitted {
    /// The output's spatial sizes for an input of `axes` spatial axes.
    pub fn spatial(&self, axes: usize) -> &[usize] {
        &self.output[2 - axes..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, padding: Padding, ceil: bool) -> Window {
        Window { kernel: vec![kernel], stride: vec![stride], dilation: vec![1], padding, ceil }
    }

    #[test]
    fn same_padding_halves_and_gives_the_odd_pixel_to_its_side() {
        let upper = window(3, 2, Padding::SameUpper, false).fit(&[96]).unwrap();
        assert_eq!((upper.pad[1], upper.output[1]), (0, 48));
        let lower = window(3, 2, Padding::SameLower, false).fit(&[96]).unwrap();
        assert_eq!((lower.pad[1], lower.output[1]), (1, 48));
        assert_eq!(window(10, 2, Padding::SameUpper, false).fit(&[49]).unwrap().pad, [0, 4]);
    }

    #[test]
    fn ceil_mode_keeps_only_windows_that_start_before_the_end_padding() {
        assert_eq!(window(2, 2, Padding::Explicit(vec![0, 0]), true).fit(&[5]).unwrap().output[1], 3);
        assert_eq!(window(2, 2, Padding::Explicit(vec![0, 0]), false).fit(&[5]).unwrap().output[1], 2);
        assert_eq!(window(1, 2, Padding::Explicit(vec![0, 1]), true).fit(&[4]).unwrap().output[1], 2);
    }

    #[test]
    fn a_window_larger_than_its_input_is_an_error() {
        assert!(window(5, 1, Padding::Explicit(vec![1, 1]), false).fit(&[2]).unwrap_err().contains("window of 5"));
        assert!(window(1, 1, Padding::SameUpper, false).fit(&[2, 2]).is_err());
    }
}
