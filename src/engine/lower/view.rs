//! How a tensor's logical axes lie in a storage: pure arithmetic on strides.
//!
//! Kernels see an image of height, width and channels. Which logical axes play these [`Roles`] depends on the operator; a tensor
//! whose axes were moved, split, joined or cut is still read in place where its strides allow it.

use crate::kernels::{Border, Layout, SLACK};

/// One logical axis: its size, and the bytes from one index to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    pub size: usize,
    pub stride: usize,
}

/// The logical axes that make an image's height, width and channels, each joined in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles {
    pub height: Vec<usize>,
    pub width: Vec<usize>,
    pub channels: Vec<usize>,
}

impl Roles {
    /// `[batch, channels, spatial..]`; the batch must be 1 wherever the result is used as an image.
    pub fn first(rank: usize) -> Roles {
        let (height, width) = match rank {
            0..=2 => (vec![0].into_iter().filter(|_| rank == 2).collect(), vec![]),
            _ => (std::iter::once(0).chain(2..rank - 1).collect(), vec![rank - 1]),
        };
        Roles { height, width, channels: if rank == 0 { vec![] } else { vec![usize::from(rank > 1)] } }
    }

    /// `[.., height, width, channels]`: the order of the bytes in a dense tensor.
    pub fn last(rank: usize) -> Roles {
        let axis = |back: usize| rank.checked_sub(back).into_iter().collect::<Vec<_>>();
        Roles { height: (0..rank.saturating_sub(2)).collect(), width: axis(2), channels: axis(1) }
    }

    /// What an activation of this shape most likely is: channels after a batch of 1 in pictures and signals, last in all else.
    pub fn usual(shape: &[usize]) -> Roles {
        let rank = shape.len();
        if (3..=4).contains(&rank) && shape[0] == 1 { Roles::first(rank) } else { Roles::last(rank) }
    }

    /// Height, width and channels of a tensor of this shape.
    pub fn sizes(&self, shape: &[usize]) -> [usize; 3] {
        [&self.height, &self.width, &self.channels].map(|axes| axes.iter().map(|&a| shape[a]).product())
    }
}

/// A tensor in a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub storage: usize,
    /// Byte of the first element.
    pub offset: usize,
    pub axes: Vec<Axis>,
    /// The placement it was allocated with, border included, while it is all of that.
    pub allocated: Option<Layout>,
    /// What its border holds.
    pub zero: i8,
}

/// Size and stride of joined axes; `None` where they do not follow each other. The stride of a single element is 0: any will do.
fn joined<'a>(axes: impl DoubleEndedIterator<Item = &'a Axis>) -> Option<Axis> {
    let mut all = Axis { size: 1, stride: 0 };
    for axis in axes.rev().filter(|a| a.size != 1) {
        match all.size {
            1 => all = *axis,
            size if axis.stride == size * all.stride => all.size *= axis.size,
            _ => return None,
        }
    }
    Some(all)
}

impl View {
    /// A tensor of `shape` that is placed by `layout` under `roles`.
    pub fn placed(storage: usize, layout: Layout, shape: &[usize], roles: &Roles, zero: i8) -> View {
        let mut axes: Vec<Axis> = shape.iter().map(|&size| Axis { size, stride: 0 }).collect();
        for (role, mut stride) in [(&roles.height, layout.row_stride()), (&roles.width, layout.pixel_stride), (&roles.channels, 1)] {
            for &axis in role.iter().rev() {
                axes[axis].stride = stride;
                stride *= axes[axis].size;
            }
        }
        View { storage, offset: layout.offset(0, 0), axes, allocated: Some(layout), zero }
    }

    /// A dense row-major tensor of elements of `element` bytes.
    pub fn dense(storage: usize, shape: &[usize], element: usize) -> View {
        let mut axes: Vec<Axis> = shape.iter().map(|&size| Axis { size, stride: element }).collect();
        for i in (1..axes.len()).rev() {
            axes[i - 1].stride = axes[i].stride * axes[i].size;
        }
        View { storage, offset: 0, axes, allocated: None, zero: 0 }
    }

    pub fn elements(&self) -> usize {
        self.axes.iter().map(|a| a.size).product()
    }

    /// Height, width and channels as strided axes, where the roles' axes can be joined.
    pub fn strided(&self, roles: &Roles) -> Option<[Axis; 3]> {
        let role = |axes: &Vec<usize>| joined(axes.iter().map(|&a| &self.axes[a]));
        Some([role(&roles.height)?, role(&roles.width)?, role(&roles.channels)?])
    }

    /// For each row, column and channel its distance in bytes from the first element, whatever the strides.
    pub fn tables(&self, roles: &Roles) -> [Vec<usize>; 3] {
        [&roles.height, &roles.width, &roles.channels].map(|axes| {
            let mut table = vec![0];
            for axis in axes.iter().map(|&a| &self.axes[a]) {
                table = table.iter().flat_map(|&at| (0..axis.size).map(move |i| at + i * axis.stride)).collect();
            }
            table
        })
    }

    /// The placement as kernels want it, in a storage of `bytes`; `None` where a copy is needed.
    pub fn layout(&self, roles: &Roles, bytes: usize) -> Option<Layout> {
        let [h, w, c] = self.strided(roles)?;
        if let Some(layout) = self.allocated.filter(|l| same(l, h, w, c)) {
            return Some(layout);
        }
        // A tensor without elements has no place, nor has one whose elements are one and the same.
        let nowhere = |axis: Axis| axis.size == 0 || (axis.size > 1 && axis.stride == 0);
        if (c.size > 1 && c.stride != 1) || [h, w, c].into_iter().any(nowhere) {
            return None;
        }
        let pixel = match (w.size, h.size) {
            (1, 1) => self.offset + c.size,
            (1, _) => h.stride,
            _ => w.stride,
        };
        let row = if h.size > 1 { h.stride } else { (self.offset / pixel + w.size) * pixel };
        if row % pixel != 0 {
            return None;
        }
        let across = row / pixel;
        let (first, left, top) = (self.offset % pixel, self.offset / pixel % across, self.offset / row);
        let right = across.checked_sub(left + w.size)?;
        let bottom = ((bytes - SLACK) / row).checked_sub(top + h.size)?;
        let layout = Layout {
            height: h.size,
            width: w.size,
            channels: c.size,
            border: Border { top, left, bottom, right },
            pixel_stride: pixel,
            first_channel: first,
        };
        (first + c.size <= pixel && layout.check().is_ok()).then_some(layout)
    }

    /// The roles under which the tensor is an image as it lies, whatever its axes mean: the innermost axis is the channels.
    pub fn natural_roles(&self) -> Roles {
        let mut order: Vec<usize> = (0..self.axes.len()).collect();
        order.sort_by_key(|&a| (self.axes[a].size != 1, std::cmp::Reverse(self.axes[a].stride)));
        let channels: Vec<usize> = order.pop().into_iter().collect();
        let width: Vec<usize> = order.pop().into_iter().collect();
        Roles { height: order, width, channels }
    }

    /// The tensor with a new axis of size 1 before `axis`.
    pub fn with_axis(mut self, axis: usize) -> View {
        self.axes.insert(axis, Axis { size: 1, stride: 0 });
        self
    }

    /// The tensor without `axis`, whose size is 1.
    pub fn without_axis(mut self, axis: usize) -> View {
        self.axes.remove(axis);
        self
    }

    /// The tensor with axis `from` moved to `to`.
    pub fn moved(mut self, from: usize, to: usize) -> View {
        let axis = self.axes.remove(from);
        self.axes.insert(to, axis);
        self
    }

    /// The tensor with the axes `at..at + from` replaced by axes of the sizes `to`; `None` where their bytes do not lie so.
    pub fn reshaped(mut self, at: usize, from: usize, to: &[usize]) -> Option<View> {
        let old: Vec<Axis> = self.axes[at..at + from].iter().copied().filter(|a| a.size != 1).collect();
        let mut new: Vec<Axis> = to.iter().map(|&size| Axis { size, stride: 0 }).collect();
        let (mut from_old, mut from_new) = (0, 0);
        // The smallest groups of old and new axes with as many elements; the old ones of each must join.
        while from_old < old.len() {
            let (mut end_old, mut end_new) = (from_old + 1, from_new + 1);
            let (mut had, mut made) = (old[from_old].size, new.get(from_new)?.size);
            while had != made {
                let (axes, end, count) = if had < made { (&old, &mut end_old, &mut had) } else { (&new, &mut end_new, &mut made) };
                *count *= axes.get(*end)?.size;
                *end += 1;
            }
            let mut stride = joined(old[from_old..end_old].iter())?.stride;
            for axis in new[from_new..end_new].iter_mut().rev() {
                axis.stride = stride;
                stride *= axis.size;
            }
            (from_old, from_new) = (end_old, end_new);
        }
        self.axes.splice(at..at + from, new);
        Some(self)
    }

    /// Indices `range` of `axis`.
    pub fn sliced(mut self, axis: usize, range: std::ops::Range<usize>) -> View {
        if range.len() != self.axes[axis].size {
            self.allocated = None;
        }
        self.offset += range.start * self.axes[axis].stride;
        self.axes[axis].size = range.len();
        self
    }
}

/// True where strided axes are exactly those of a layout.
fn same(layout: &Layout, h: Axis, w: Axis, c: Axis) -> bool {
    let fits = |axis: Axis, size: usize, stride: usize| axis.size == size && (size == 1 || axis.stride == stride);
    fits(h, layout.height, layout.row_stride()) && fits(w, layout.width, layout.pixel_stride) && fits(c, layout.channels, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(view: &View) -> Vec<usize> {
        view.axes.iter().map(|a| a.size).collect()
    }

    fn bordered() -> (Layout, View) {
        let border = Border { top: 1, left: 1, bottom: 1, right: 1 };
        let layout = Layout::new(4, 6, 8).with_border(border);
        (layout, View::placed(0, layout, &[1, 8, 4, 6], &Roles::first(4), 0))
    }

    #[test]
    fn a_placed_tensor_keeps_its_layout_through_moves() {
        let (layout, view) = bordered();
        assert_eq!(view.layout(&Roles::first(4), layout.bytes()), Some(layout));
        let last = view.clone().moved(1, 3);
        assert_eq!((shape(&last), last.layout(&Roles::last(4), layout.bytes())), (vec![1, 4, 6, 8], Some(layout)));
        assert_eq!(last.layout(&Roles::first(4), layout.bytes()), None);
        assert_eq!(view.natural_roles(), Roles { height: vec![0, 2], width: vec![3], channels: vec![1] });
    }

    #[test]
    fn rows_join_only_without_a_border() {
        let (_, view) = bordered();
        assert_eq!(view.reshaped(2, 2, &[24]), None);
        let layout = Layout::new(4, 6, 8);
        let flat = View::placed(0, layout, &[1, 8, 4, 6], &Roles::first(4), 0).reshaped(2, 2, &[24]).unwrap();
        assert_eq!(shape(&flat), [1, 8, 24]);
        assert_eq!(flat.layout(&Roles::first(3), layout.bytes()), Some(Layout::new(1, 24, 8)));
        assert_eq!(flat.clone().reshaped(1, 2, &[192]), None);
        let last = flat.moved(1, 2).reshaped(1, 2, &[192]).unwrap();
        assert_eq!(last.layout(&Roles::last(2), layout.bytes()).map(|l| (l.height, l.width, l.channels)), Some((1, 1, 192)));
    }

    #[test]
    fn heads_are_channel_slices() {
        let layout = Layout::new(1, 64, 128);
        let view = View::placed(0, layout, &[1, 64, 128], &Roles::last(3), 0).reshaped(2, 1, &[4, 32]).unwrap().moved(2, 1);
        assert_eq!(shape(&view), [1, 4, 64, 32]);
        assert_eq!(
            view.strided(&Roles::last(4)).unwrap(),
            [Axis { size: 4, stride: 32 }, Axis { size: 64, stride: 128 }, Axis { size: 32, stride: 1 }]
        );
        let head = view.sliced(1, 2..3);
        assert_eq!(head.layout(&Roles::last(4), layout.bytes()), Some(layout.channel_slice(64..96)));
    }

    #[test]
    fn slices_of_rows_and_columns_are_borders() {
        let layout = Layout::new(4, 6, 8);
        let view = View::placed(0, layout, &[1, 8, 4, 6], &Roles::first(4), 0).sliced(2, 1..3).sliced(3, 2..5).sliced(1, 4..8);
        let found = view.layout(&Roles::first(4), layout.bytes()).unwrap();
        assert_eq!(found.border, Border { top: 1, left: 2, bottom: 1, right: 1 });
        assert_eq!((found.first_channel, found.channels, found.pixel_stride), (4, 4, 8));
    }

    #[test]
    fn a_tensor_without_elements_lies_nowhere() {
        for shape in [[1, 0, 4, 6], [1, 8, 0, 6], [1, 8, 4, 0]] {
            assert_eq!(View::dense(0, &shape, 1).layout(&Roles::first(4), SLACK), None);
        }
    }

    #[test]
    fn axes_of_one_element_come_and_go_anywhere() {
        let layout = Layout::new(1, 1, 8);
        let view = View::placed(0, layout, &[1, 8, 1, 1], &Roles::first(4), 0).reshaped(1, 3, &[8]).unwrap();
        assert_eq!((shape(&view), view.layout(&Roles::last(2), layout.bytes())), (vec![1, 8], Some(layout)));
        let back = view.with_axis(2).with_axis(0).without_axis(0);
        assert_eq!(back.layout(&Roles::first(3), layout.bytes()), Some(layout));
        assert_eq!(View::dense(0, &[2, 3, 4], 1).reshaped(0, 3, &[4, 3, 2]).map(|v| shape(&v)), Some(vec![4, 3, 2]));
        assert_eq!(View::dense(0, &[1, 1], 1).reshaped(0, 2, &[1]).map(|v| shape(&v)), Some(vec![1]));
    }
}
