//! The way in and out: dense row-major tensors as a model's ports have them, to and from a [`Layout`].
//!
//! Quantization is ONNX `QuantizeLinear`: `clamp(round_half_even(x / scale) + zero_point)`, a real division in `f32`; NaN
//! becomes the lowest value. Dequantization is `(q - zero_point) * scale`.

use super::compiled::Loops;
use super::conv::equal;
use super::rows::{check_rows, run_length};
use super::transpose::{CHANNELS, PIXELS, Tile, read_pixels, write_pixels};
use super::{Error, FLIP, Isa, Layout, OutputQuant, check_scale, load, store};
use std::ops::Range;

/// Order of a dense tensor's axes, the last one contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `[channels, height, width]`, as in an ONNX NCHW tensor of batch 1.
    Planes,
    /// `[height, width, channels]`.
    Pixels,
}

/// Elements of a dense tensor, little-endian.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Element {
    Int8,
    /// Its int8 counterpart is `value - 128`.
    Uint8,
    /// `f32`, quantized with `scale` and `zero_point` on the way in, dequantized on the way out.
    Float {
        scale: f32,
        zero_point: i8,
    },
}

impl Element {
    /// Bytes of one.
    pub const fn size(self) -> usize {
        if matches!(self, Element::Float { .. }) { 4 } else { 1 }
    }

    fn check(self) -> Result<(), Error> {
        if let Element::Float { scale, .. } = self { check_scale("scale of a float tensor", scale) } else { Ok(()) }
    }

    const fn name(self) -> &'static str {
        match self {
            Element::Int8 => "int8",
            Element::Uint8 => "uint8",
            Element::Float { .. } => "f32",
        }
    }

    /// Between a dense byte and a stored one, either way: the bits that differ.
    const fn mask(self) -> u8 {
        if matches!(self, Element::Uint8) { FLIP ^ 0x80 } else { FLIP }
    }

    /// Dense elements to stored bytes; `dense` is [`Element::size`] times as long as `out`.
    #[inline(always)]
    fn import(self, dense: &[u8], out: &mut [u8]) {
        let Element::Float { scale, zero_point } = self else {
            return out.iter_mut().zip(dense).for_each(|(out, byte)| *out = byte ^ self.mask());
        };
        let quant = OutputQuant::full(zero_point);
        let dense = dense.as_chunks::<4>().0;
        out.iter_mut().zip(dense).for_each(|(out, bytes)| *out = store(quant.finish(f32::from_le_bytes(*bytes) / scale)));
    }

    /// Stored bytes to dense elements; `out` is [`Element::size`] times as long as `bytes`.
    #[inline(always)]
    fn export(self, bytes: &[u8], out: &mut [u8]) {
        let Element::Float { scale, zero_point } = self else {
            return self.import(bytes, out);
        };
        let real = |byte: u8| (i32::from(load(byte)) - i32::from(zero_point)) as f32 * scale;
        let out = out.as_chunks_mut::<4>().0;
        out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = real(byte).to_le_bytes());
    }
}

/// The order with planes of one pixel, or one plane, taken for what they also are.
fn simplest(order: Order, layout: &Layout) -> Order {
    if layout.channels == 1 || (layout.height, layout.width) == (1, 1) { Order::Pixels } else { order }
}

fn check(element: Element, layout: &Layout) -> Result<(), Error> {
    element.check()?;
    layout.check()?;
    let count = layout.height.checked_mul(layout.width).and_then(|n| n.checked_mul(layout.channels));
    let bytes = count.and_then(|n| n.checked_mul(element.size())).filter(|&n| isize::try_from(n).is_ok());
    bytes.map(|_| ()).ok_or(Error::Layout(*layout))
}

/// A dense tensor brought into a layout.
#[derive(Clone, Debug)]
pub struct Import {
    isa: Isa,
    order: Order,
    element: Element,
    output: Layout,
    border: u8,
}

impl Import {
    /// `zero_point` is what the output's border holds, for a float tensor also what it is quantized with.
    pub fn prepare(isa: Isa, order: Order, element: Element, output: Layout, zero_point: i8) -> Result<Import, Error> {
        check(element, &output)?;
        if let Element::Float { zero_point: own, .. } = element {
            equal("zero point of an imported float tensor", store(zero_point).into(), store(own).into())?;
        }
        Ok(Import { isa, order: simplest(order, &output), element, output, border: store(zero_point) })
    }

    /// The same for a float tensor with another scale and zero point.
    pub(crate) fn quantizing(&self, scale: f32, zero_point: i8) -> Import {
        Import { element: Element::Float { scale, zero_point }, border: store(zero_point), ..self.clone() }
    }

    /// Bytes of the dense tensor.
    pub fn input_bytes(&self) -> usize {
        self.output.height * self.output.width * self.output.channels * self.element.size()
    }

    /// Placement of the result.
    pub fn output(&self) -> &Layout {
        &self.output
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        format!("{} import of {} {:?}", self.isa.name(), self.element.name(), self.order)
    }

    /// Computes output rows `rows`. `input` is the whole dense tensor, `output` the bytes that [`Layout::rows`] names.
    pub fn run(&self, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        assert_eq!(input.len(), self.input_bytes(), "dense input");
        check_rows(&self.output, output, &rows);
        self.isa.compiled(ImportRows { op: self, input, output, rows: rows.clone() });
        self.output.fill_border(rows, output, self.border);
    }
}

struct ImportRows<'a> {
    op: &'a Import,
    input: &'a [u8],
    output: &'a mut [u8],
    rows: Range<usize>,
}

impl Loops for ImportRows<'_> {
    #[inline(always)]
    fn run(self) {
        let ImportRows { op, input, output, rows } = self;
        let (layout, size) = (&op.output, op.element.size());
        let base = layout.rows(rows.clone()).start;
        match op.order {
            Order::Pixels => {
                let count = run_length(&[layout]);
                for (y, x) in rows.flat_map(|y| (0..layout.width).step_by(count).map(move |x| (y, x))) {
                    let (from, to) = ((y * layout.width + x) * layout.channels, layout.offset(y, x) - base);
                    let length = count * layout.channels;
                    op.element.import(&input[from * size..(from + length) * size], &mut output[to..to + length]);
                }
            }
            Order::Planes => {
                let mut planes: Tile = [[0; PIXELS]; CHANNELS];
                for tile in tiles(layout.width, rows, 0..layout.channels) {
                    for (c, plane) in planes.iter_mut().enumerate().take(tile.channels) {
                        let from = ((tile.channel + c) * layout.height + tile.y) * layout.width + tile.x;
                        op.element.import(&input[from * size..(from + tile.pixels) * size], &mut plane[..tile.pixels]);
                    }
                    let to = layout.offset(tile.y, tile.x) + tile.channel - base;
                    write_pixels(&planes, tile.pixels, tile.channels, &mut output[to..], layout.pixel_stride);
                }
            }
        }
    }
}

/// Some pixels from (y, x), some channels from `channel`.
struct At {
    y: usize,
    x: usize,
    pixels: usize,
    channel: usize,
    channels: usize,
}

/// Every tile of the rows of `width` pixels and of the channels.
#[inline(always)]
fn tiles(width: usize, rows: Range<usize>, channels: Range<usize>) -> impl Iterator<Item = At> {
    let end = channels.end;
    let spans = rows.flat_map(move |y| (0..width).step_by(PIXELS).map(move |x| (y, x)));
    spans.flat_map(move |(y, x)| {
        let blocks = channels.clone().step_by(CHANNELS);
        blocks.map(move |channel| At { y, x, pixels: PIXELS.min(width - x), channel, channels: CHANNELS.min(end - channel) })
    })
}

/// A tensor taken out of its layout.
#[derive(Clone, Debug)]
pub struct Export {
    isa: Isa,
    order: Order,
    element: Element,
    input: Layout,
}

impl Export {
    pub fn prepare(isa: Isa, order: Order, element: Element, input: Layout) -> Result<Export, Error> {
        check(element, &input)?;
        Ok(Export { isa, order: simplest(order, &input), element, input })
    }

    /// Parts that the work can be split into: channels where the result is planes, else rows.
    pub fn parts(&self) -> usize {
        if self.order == Order::Planes { self.input.channels } else { self.input.height }
    }

    /// Bytes of the result that the writer of `parts` owns.
    pub fn owned(&self, parts: Range<usize>) -> Range<usize> {
        let elements = if self.order == Order::Planes { self.input.height } else { self.input.channels } * self.input.width;
        let bytes = elements * self.element.size();
        parts.start * bytes..parts.end * bytes
    }

    /// Bytes of the dense tensor.
    pub fn output_bytes(&self) -> usize {
        self.owned(0..self.parts()).end
    }

    /// What runs, for reports.
    pub fn describe(&self) -> String {
        format!("{} export of {} {:?}", self.isa.name(), self.element.name(), self.order)
    }

    /// Writes `parts`. `input` is the whole tensor, `output` the bytes that [`Export::owned`] names.
    pub fn run(&self, input: &[u8], output: &mut [u8], parts: Range<usize>) {
        assert!(parts.start < parts.end && parts.end <= self.parts(), "parts {parts:?} of {}", self.parts());
        assert_eq!(output.len(), self.owned(parts.clone()).len(), "dense output");
        assert!(input.len() >= self.input.bytes());
        self.isa.compiled(ExportParts { op: self, input, output, parts });
    }
}

struct ExportParts<'a> {
    op: &'a Export,
    input: &'a [u8],
    output: &'a mut [u8],
    parts: Range<usize>,
}

impl Loops for ExportParts<'_> {
    #[inline(always)]
    fn run(self) {
        let ExportParts { op, input, output, parts } = self;
        let (layout, size, base) = (&op.input, op.element.size(), parts.start);
        match op.order {
            Order::Pixels => {
                let count = run_length(&[layout]);
                for (y, x) in parts.flat_map(|y| (0..layout.width).step_by(count).map(move |x| (y, x))) {
                    let (from, to) = (layout.offset(y, x), ((y - base) * layout.width + x) * layout.channels);
                    let length = count * layout.channels;
                    op.element.export(&input[from..from + length], &mut output[to * size..(to + length) * size]);
                }
            }
            Order::Planes => {
                let mut planes: Tile = [[0; PIXELS]; CHANNELS];
                let pixels = layout.height * layout.width;
                let seamless = layout.border.left + layout.border.right == 0;
                let (height, width) = if seamless { (1, pixels) } else { (layout.height, layout.width) };
                for tile in tiles(width, 0..height, parts) {
                    let from = layout.offset(tile.y, 0) + tile.x * layout.pixel_stride + tile.channel;
                    read_pixels(&input[from..], layout.pixel_stride, tile.pixels, tile.channels, &mut planes);
                    for (c, plane) in planes.iter().enumerate().take(tile.channels) {
                        let to = (tile.channel + c - base) * pixels + tile.y * width + tile.x;
                        op.element.export(&plane[..tile.pixels], &mut output[to * size..(to + tile.pixels) * size]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite::{Random, cases, in_two, placed};
    use super::*;

    const ORDERS: [Order; 2] = [Order::Planes, Order::Pixels];

    /// Dense element (y, x, c) is number .. of the tensor.
    fn index(order: Order, l: &Layout, i: usize) -> usize {
        let (y, x, c) = (i / l.channels / l.width, i / l.channels % l.width, i % l.channels);
        if order == Order::Planes { (c * l.height + y) * l.width + x } else { i }
    }

    fn dense(element: Element, value: i8) -> Vec<u8> {
        match element {
            Element::Int8 => vec![value as u8],
            Element::Uint8 => vec![(i32::from(value) + 128) as u8],
            Element::Float { scale, zero_point } => ((f32::from(value) - f32::from(zero_point)) * scale).to_le_bytes().to_vec(),
        }
    }

    fn random_layout(random: &mut Random) -> Layout {
        let width = random.pick(&[1, 3, 8, 9, 63, 64, 65, 130]);
        let (height, channels) = (random.range(1..4), random.pick(&[1, 2, 3, 4, 5, 8, 9, 16, 19]));
        random.layout(height, width, channels)
    }

    #[test]
    fn every_dense_form_comes_in_and_goes_out_unchanged() {
        for seed in 0..2 * cases() {
            let mut random = Random::new(seed + 130_000);
            let layout = random_layout(&mut random);
            let zero = random.value();
            let values = random.values(layout.height * layout.width * layout.channels);
            let element = random.pick(&[Element::Int8, Element::Uint8, Element::Float { scale: 0.037, zero_point: zero }]);
            for order in ORDERS {
                let mut bytes = vec![0; values.len() * element.size()];
                for (i, &value) in values.iter().enumerate() {
                    let at = index(order, &layout, i) * element.size();
                    bytes[at..at + element.size()].copy_from_slice(&dense(element, value));
                }
                for isa in Isa::supported() {
                    let import = Import::prepare(isa, order, element, layout, zero).unwrap();
                    let cut = random.range(0..layout.height + 1);
                    let found = in_two(&layout, cut, None, zero, |out, rows| import.run(&bytes, out, rows));
                    assert!(found == values, "import seed {seed} {order:?} {element:?} {layout:?}");
                    let export = Export::prepare(isa, order, element, layout).unwrap();
                    let (input, mut out) = (placed(&layout, &values, zero), vec![0; export.output_bytes()]);
                    let cut = random.range(0..export.parts() + 1);
                    for parts in [0..cut, cut..export.parts()].into_iter().filter(|p| !p.is_empty()) {
                        export.run(&input, &mut out[export.owned(parts.clone())], parts);
                    }
                    assert!(out == bytes, "export seed {seed} {order:?} {element:?} {layout:?}");
                }
            }
        }
    }

    #[test]
    fn quantization_divides_rounds_half_to_even_and_saturates() {
        let x = [0.0f32, 0.5, 1.5, 2.5, -0.5, 1e9, -1e9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3.0, 126.5];
        let bytes: Vec<u8> = x.iter().flat_map(|v| (v * 0.1).to_le_bytes()).collect();
        let layout = Layout::new(1, 1, x.len());
        for isa in Isa::supported() {
            let import = Import::prepare(isa, Order::Planes, Element::Float { scale: 0.1, zero_point: 1 }, layout, 1).unwrap();
            let found = in_two(&layout, 0, None, 1, |out, rows| import.run(&bytes, out, rows));
            let expected =
                x.map(|v| if v.is_nan() { -128 } else { (f64::from((v * 0.1) / 0.1).round_ties_even() + 1.0).clamp(-128.0, 127.0) as i8 });
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn unusable_scales_and_shapes_are_refused() {
        let float = |scale| Element::Float { scale, zero_point: 0 };
        let import = |scale| Import::prepare(Isa::best(), Order::Planes, float(scale), Layout::new(2, 2, 2), 0);
        assert!([0.0, -1.0, f32::NAN, f32::INFINITY, 1e-42].iter().all(|&scale| import(scale).is_err()));
        assert!(Import::prepare(Isa::best(), Order::Planes, float(1.0), Layout::new(2, 2, 2), 5).is_err());
        assert!(Export::prepare(Isa::best(), Order::Planes, float(1.0), Layout::new(usize::MAX / 8, 1, 4)).is_err());
    }
}
