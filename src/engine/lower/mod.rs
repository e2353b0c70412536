//! From a graph of values to a straight-line program: layouts, fusion, and who writes where.
//!
//! Values are quantized images (NHWC, flipped bytes, with borders: see [`crate::kernels`]) or native tensors (dense, row-major, as
//! tract and the model's borders have them). A value gets the other form when a reader wants it. Readers ask for an image under
//! [`Roles`]; what lies so already is read in place, else a copy is made once.
//!
//! Steps are kept as drafts until the end, because what comes later may change what came before: a sum fuses into the convolution
//! before it, a concatenation makes its parts slices of itself.

pub mod draft;
pub mod fuse;
pub mod lifetimes;
pub mod view;

use super::quantized::table::Table;
use super::quantized::{Array, Operator, QuantizedType};
use crate::kernels::{self, AddQuant, Border, Element, Layout, Matrices, Order};
use crate::tensor::Dtype;
use draft::{Draft, GatherDraft, ImportDraft};
use std::sync::Arc;
pub use view::{Roles, View};

/// A value, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value(pub usize);

/// What an operator reads.
#[derive(Clone)]
pub struct Operand {
    /// `None` for a constant.
    pub value: Option<Value>,
    pub shape: Vec<usize>,
    pub constant: Option<Arc<Array>>,
}

/// An image in its place.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    pub storage: usize,
    pub layout: Layout,
}

/// Matrices in their place.
#[derive(Clone, Copy, Debug)]
pub struct MatrixImage {
    pub storage: usize,
    pub matrices: Matrices,
    /// The last two axes are exchanged.
    pub transposed: bool,
}

/// A place for the result of a step.
pub struct Output {
    pub value: Value,
    pub storage: usize,
    pub layout: Layout,
}

/// Bytes that a value, or a concatenation of several, lives in.
#[derive(Clone, Debug)]
pub struct Storage {
    pub name: String,
    pub bytes: usize,
    pub origin: Origin,
}

/// Where a storage lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The model's input of that number, which outlives a run.
    Input(usize),
    /// A constant of that number in [`Lowering::constants`].
    Constant(usize),
    Arena,
}

#[derive(Default)]
struct Known {
    shape: Vec<usize>,
    /// Of 8-bit values that a recognised operator makes or reads.
    quantized: Option<QuantizedType>,
    unsigned: bool,
    images: Vec<View>,
    /// All of a native tensor of 8-bit values, its axes possibly moved: what an image is made from.
    source: Option<View>,
    /// Dense and row-major as the shape says.
    native: Option<usize>,
    readers: usize,
}

/// One step before its kernel is prepared. `layouts` are those of `reads`, then that of the write; native tensors have none.
pub struct Record {
    pub name: String,
    pub work: Work,
    pub reads: Vec<usize>,
    pub writes: Vec<usize>,
    pub layouts: Vec<Layout>,
}

impl Known {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Of plain integers where nobody has said what they stand for.
    fn quantized_type(&self) -> QuantizedType {
        self.quantized.unwrap_or(QuantizedType { scale: 1.0, zero: 0, unsigned: self.unsigned })
    }

    /// What its bytes are as a native tensor.
    fn element(&self) -> Element {
        if self.unsigned { Element::Uint8 } else { Element::Int8 }
    }
}

/// What a record runs.
pub enum Work {
    Kernel(Box<dyn Draft>),
    /// A part of the model that tract runs, by number.
    Island(usize),
}

/// The program under construction.
#[derive(Default)]
pub struct Lowering {
    values: Vec<Known>,
    pub storages: Vec<Storage>,
    pub records: Vec<Record>,
    /// Constant operands, as images.
    pub constants: Vec<Vec<u8>>,
    /// The border that readers of the next output would like, and who makes it.
    pub hint: Border,
    pub name: String,
}

impl Lowering {
    /// A native tensor: one of the model's inputs, or what an island of tract makes. `readers` are the operators that read it
    /// and the model's outputs that it is.
    pub fn native_value(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: Option<Dtype>,
        bytes: usize,
        origin: Origin,
        readers: usize,
    ) -> Value {
        self.storages.push(Storage { name: name.to_string(), bytes, origin });
        let unsigned = dtype == Some(Dtype::Uint8);
        let storage = self.storages.len() - 1;
        let source = matches!(dtype, Some(Dtype::Int8 | Dtype::Uint8)).then(|| View::dense(storage, shape, 1));
        self.value(Known { shape: shape.to_vec(), unsigned, source, native: Some(storage), readers, ..Known::default() })
    }

    fn value(&mut self, known: Known) -> Value {
        self.values.push(known);
        Value(self.values.len() - 1)
    }

    /// Sets how many read a value that an operator has just made.
    pub fn set_readers(&mut self, value: Value, readers: usize) {
        self.values[value.0].readers = readers;
    }

    /// A storage in the arena.
    pub fn storage(&mut self, bytes: usize) -> usize {
        self.storages.push(Storage { name: self.name.clone(), bytes, origin: Origin::Arena });
        self.storages.len() - 1
    }

    /// A place for a quantized result of `shape`, as an image under `roles`.
    pub fn output(&mut self, shape: &[usize], roles: &Roles, ty: QuantizedType) -> Output {
        let [height, width, channels] = roles.sizes(shape);
        let layout = Layout::new(height, width, channels).with_border(self.hint);
        let storage = self.storage(layout.bytes());
        let view = View::placed(storage, layout, shape, roles, ty.zero);
        Output { value: self.image_value(shape, ty, view), storage, layout }
    }

    fn image_value(&mut self, shape: &[usize], ty: QuantizedType, view: View) -> Value {
        let (quantized, unsigned) = (Some(ty), ty.unsigned);
        self.value(Known { shape: shape.to_vec(), quantized, unsigned, images: vec![view], ..Known::default() })
    }

    /// Adds a step that reads the images `reads`, and returns what it makes.
    pub fn push(&mut self, draft: Box<dyn Draft>, reads: &[Image], output: Output) -> Value {
        let layouts = reads.iter().map(|r| r.layout).chain([output.layout]).collect();
        let (reads, writes) = (reads.iter().map(|r| r.storage).collect(), vec![output.storage]);
        self.record(self.name.clone(), draft, reads, writes, layouts);
        output.value
    }

    fn record(&mut self, name: String, draft: Box<dyn Draft>, reads: Vec<usize>, writes: Vec<usize>, layouts: Vec<Layout>) {
        self.records.push(Record { name, work: Work::Kernel(draft), reads, writes, layouts });
    }

    /// Adds a part of the model that tract runs, which reads and writes native tensors.
    pub fn push_island(&mut self, name: String, number: usize, reads: Vec<usize>, writes: Vec<usize>) {
        self.records.push(Record { name, work: Work::Island(number), reads, writes, layouts: Vec::new() });
    }

    /// Quantizes a native float32 tensor to an image.
    pub fn quantize(&mut self, value: Value, ty: QuantizedType) -> Result<Value, String> {
        let known = &self.values[value.0];
        let (storage, shape) = (known.native.ok_or("float values are native")?, known.shape.clone());
        let roles = Roles::usual(&shape);
        let order = order(&View::dense(storage, &shape, 1), &roles).ok_or("the axes of the input cannot be joined to an image")?;
        let output = self.output(&shape, &roles, ty);
        let draft = ImportDraft { order, element: Element::Float { scale: ty.scale, zero_point: ty.zero }, zero: ty.zero };
        self.record(self.name.clone(), Box::new(draft), vec![storage], vec![output.storage], vec![output.layout; 2]);
        Ok(output.value)
    }

    /// Turns a quantized value into a native float32 tensor.
    pub fn dequantize(&mut self, value: Value, ty: QuantizedType) -> Result<Value, String> {
        let shape = self.values[value.0].shape.clone();
        if self.values[value.0].images.is_empty() {
            self.copy(value.0, &Roles::last(shape.len()), Border::default(), ty)?;
        }
        let bytes = 4 * shape.iter().product::<usize>();
        let storage = self.export(value, Element::Float { scale: ty.scale, zero_point: ty.zero }, bytes)?;
        Ok(self.value(Known { shape, native: Some(storage), ..Known::default() }))
    }

    fn known(&self, operand: &Operand) -> Result<usize, String> {
        operand.value.map(|v| v.0).ok_or_else(|| "a constant stands where an activation is expected".to_string())
    }

    /// The operand as an image under `roles`, with a border of at least `border` that holds its zero point: where it lies, or
    /// in a copy.
    pub fn image(&mut self, operand: &Operand, roles: &Roles, border: Option<Border>, ty: QuantizedType) -> Result<Image, String> {
        if let Some(constant) = &operand.constant {
            return Ok(self.constant(constant, &operand.shape, roles, border.unwrap_or_default(), ty));
        }
        let id = self.known(operand)?;
        let wide_enough = |layout: &Layout, view: &View| match border {
            None => true,
            Some(border) if border == Border::default() => true,
            Some(border) => view.zero == ty.zero && view.allocated == Some(*layout) && layout.border.union(border) == layout.border,
        };
        for view in &self.values[id].images {
            let layout = view.layout(roles, self.storages[view.storage].bytes);
            if let Some(layout) = layout.filter(|layout| wide_enough(layout, view)) {
                return Ok(Image { storage: view.storage, layout });
            }
        }
        self.copy(id, roles, border.unwrap_or_default(), ty)
    }

    fn constant(&mut self, array: &Array, shape: &[usize], roles: &Roles, border: Border, ty: QuantizedType) -> Image {
        let [height, width, channels] = roles.sizes(shape);
        let layout = Layout::new(height, width, channels).with_border(border);
        let [rows, columns, depths] = View::dense(0, shape, 1).tables(roles);
        let places = rows.iter().flat_map(|y| columns.iter().flat_map(|x| depths.iter().map(move |&c| y + x + c)).collect::<Vec<_>>());
        let values: Vec<i8> = places.map(|at| array.values[at]).collect();
        let mut bytes = vec![0; layout.bytes()];
        layout.scatter(&values, ty.zero, &mut bytes);
        let origin = Origin::Constant(self.constants.len());
        self.storages.push(Storage { name: self.name.clone(), bytes: bytes.len(), origin });
        self.constants.push(bytes);
        Image { storage: self.storages.len() - 1, layout }
    }

    /// The operand with axes of size 1 in front, so that it has `rank` axes.
    pub fn expanded(&mut self, operand: &Operand, rank: usize) -> Operand {
        let missing = rank.saturating_sub(operand.shape.len());
        let shape = [&vec![1; missing], &operand.shape[..]].concat();
        let expand = |view: View| Some((0..missing).fold(view, |view, _| view.with_axis(0)));
        let value = match operand.value {
            Some(value) if missing > 0 => self.reviewed(value, &shape, true, expand),
            value => value,
        };
        Operand { value, shape, constant: operand.constant.clone() }
    }

    /// The operand as one matrix a batch: the last two axes, or those exchanged where they lie so.
    pub fn matrices(&mut self, operand: &Operand, ty: QuantizedType) -> Result<MatrixImage, String> {
        let rank = operand.shape.len();
        let batch: Vec<usize> = (0..rank - 2).collect();
        let plain = Roles { height: batch.clone(), width: vec![rank - 2], channels: vec![rank - 1] };
        let exchanged = Roles { height: batch, width: vec![rank - 1], channels: vec![rank - 2] };
        if let (Some(value), None) = (operand.value, &operand.constant) {
            for (roles, transposed) in [(&plain, false), (&exchanged, true)] {
                let found = self.values[value.0].images.iter().find_map(|view| {
                    let [h, w, c] = view.strided(roles)?;
                    Some((view.storage, matrices(view.offset, h, w, c)?))
                });
                if let Some((storage, matrices)) = found {
                    return Ok(MatrixImage { storage, matrices, transposed });
                }
            }
        }
        let Image { storage, layout } = self.image(operand, &plain, None, ty)?;
        let (rows, step) = (Layout { height: 1, ..layout }, layout.row_stride());
        Ok(MatrixImage { storage, matrices: Matrices { layout: rows, step }, transposed: false })
    }

    /// A place for `[batch.., m, n]` in which the results of all batches for one row lie in one pixel.
    pub fn interleaved(&mut self, shape: &[usize], ty: QuantizedType) -> Output {
        let rank = shape.len();
        let (m, n) = (shape[rank - 2], shape[rank - 1]);
        let batches: usize = shape[..rank - 2].iter().product();
        let layout = Layout::new(1, m, batches * n);
        let storage = self.storage(layout.bytes());
        let order: Vec<usize> = std::iter::once(rank - 2).chain(0..rank - 2).chain([rank - 1]).collect();
        let mut view = View::dense(storage, &order.iter().map(|&a| shape[a]).collect::<Vec<_>>(), 1).moved(0, rank - 2);
        view.zero = ty.zero;
        Output { value: self.image_value(shape, ty, view), storage, layout }
    }

    /// Adds a step that knows by itself where its operands lie.
    pub fn push_strided(&mut self, draft: Box<dyn Draft>, reads: &[usize], output: Output) -> Value {
        let layouts = vec![output.layout; reads.len() + 1];
        self.record(self.name.clone(), draft, reads.to_vec(), vec![output.storage], layouts);
        output.value
    }

    /// Adds a step from a native tensor to a native float32 tensor of `shape`.
    pub fn push_native(&mut self, draft: Box<dyn Draft>, input: Value, shape: &[usize]) -> Result<Value, String> {
        let read = self.native(input)?;
        let bytes = 4 * shape.iter().product::<usize>();
        let storage = self.storage(bytes);
        self.record(self.name.clone(), draft, vec![read], vec![storage], vec![Layout::new(1, 1, bytes); 2]);
        Ok(self.value(Known { shape: shape.to_vec(), native: Some(storage), ..Known::default() }))
    }

    fn copy(&mut self, id: usize, roles: &Roles, border: Border, ty: QuantizedType) -> Result<Image, String> {
        let known = &self.values[id];
        if known.images.is_empty() {
            let source = known.source.clone().ok_or("a value lies nowhere")?;
            return self.import(id, &source, roles, border, ty);
        }
        let from = &known.images[0];
        let mut tables = from.tables(roles);
        tables[0].iter_mut().for_each(|row| *row += from.offset);
        let (source, zero) = (from.storage, ty.zero);
        let Storage { name, bytes, .. } = &self.storages[source];
        let (name, draft) = (format!("{name} (copy)"), GatherDraft { tables, bytes: *bytes, zero });
        Ok(self.another_image(id, name, Box::new(draft), source, (roles, border, zero)))
    }

    /// A further image of a value, made by a step that reads `source`.
    fn another_image(
        &mut self,
        id: usize,
        name: String,
        draft: Box<dyn Draft>,
        source: usize,
        (roles, border, zero): (&Roles, Border, i8),
    ) -> Image {
        let shape = self.values[id].shape.clone();
        let [height, width, channels] = roles.sizes(&shape);
        let layout = Layout::new(height, width, channels).with_border(border);
        let storage = self.storage(layout.bytes());
        self.record(name, draft, vec![source], vec![storage], vec![layout; 2]);
        self.values[id].images.push(View::placed(storage, layout, &shape, roles, zero));
        Image { storage, layout }
    }

    /// Brings a native tensor into an image: in one go where its order is one of the two that there is a kernel for.
    fn import(&mut self, id: usize, source: &View, roles: &Roles, border: Border, ty: QuantizedType) -> Result<Image, String> {
        let Some(order) = order(source, roles) else {
            self.import(id, source, &source.natural_roles(), Border::default(), ty)?;
            return self.copy(id, roles, border, ty);
        };
        let draft = ImportDraft { order, element: self.values[id].element(), zero: ty.zero };
        Ok(self.another_image(id, self.name.clone(), Box::new(draft), source.storage, (roles, border, ty.zero)))
    }

    /// Roles under which the operand lies as it is; where it lies nowhere as an image yet, channels first for pictures.
    pub fn natural_roles(&self, operand: &Operand) -> Result<Roles, String> {
        let known = &self.values[self.known(operand)?];
        let rank = known.shape.len();
        let Some(view) = known.images.first() else {
            return Ok(Roles::usual(&known.shape));
        };
        let fits = |roles: &Roles| view.layout(roles, self.storages[view.storage].bytes).is_some();
        let all = [Roles::first(rank), Roles::last(rank), view.natural_roles()];
        Ok(all.into_iter().find(fits).unwrap_or_else(|| Roles::last(rank)))
    }

    /// The storage of a value as a native tensor, made where it is not there yet.
    pub fn native(&mut self, value: Value) -> Result<usize, String> {
        if let Some(storage) = self.values[value.0].native {
            return Ok(storage);
        }
        let known = &self.values[value.0];
        let storage = self.export(value, known.element(), known.elements())?;
        self.values[value.0].native = Some(storage);
        Ok(storage)
    }

    /// Takes an image out to a dense tensor of `bytes`.
    fn export(&mut self, value: Value, element: Element, bytes: usize) -> Result<usize, String> {
        let known = &self.values[value.0];
        let rank = known.shape.len();
        let dense = View::dense(0, &known.shape, 1);
        let ty = known.quantized_type();
        let fits = |roles: &Roles| {
            let image = known.images.iter().find_map(|view| {
                let layout = view.layout(roles, self.storages[view.storage].bytes)?;
                Some(Image { storage: view.storage, layout })
            });
            Some((order(&dense, roles)?, image?))
        };
        let found = [Roles::last(rank), Roles::first(rank)].iter().find_map(fits);
        let (order, image) = match found {
            Some(found) => found,
            None => (Order::Pixels, self.copy(value.0, &Roles::last(rank), Border::default(), ty)?),
        };
        let storage = self.storage(bytes);
        let layouts = vec![image.layout, Layout::new(1, 1, bytes)];
        let draft = draft::Simple(move |isa, l: &[Layout]| kernels::Export::prepare(isa, order, element, l[0]));
        self.record(self.name.clone(), Box::new(draft), vec![image.storage], vec![storage], layouts);
        Ok(storage)
    }

    /// The same bytes under other axes: `change` of every image. `None` where no image can be read so.
    ///
    /// `keeps_order`: in a dense row-major tensor nothing moves either.
    pub fn reviewed(&mut self, value: Value, shape: &[usize], keeps_order: bool, change: impl Fn(View) -> Option<View>) -> Option<Value> {
        let known = &self.values[value.0];
        let images: Vec<View> = known.images.iter().cloned().filter_map(&change).collect();
        let native = known.native.filter(|_| keeps_order);
        let source = known.source.clone().and_then(&change).filter(|view| view.elements() == known.elements());
        let (quantized, unsigned) = (known.quantized, known.unsigned);
        if images.is_empty() && native.is_none() && source.is_none() {
            return None;
        }
        Some(self.value(Known { shape: shape.to_vec(), quantized, unsigned, images, source, native, readers: 0 }))
    }

    /// The same where the bytes lie so; else of a copy in row-major order.
    pub fn reviewed_or_copied(
        &mut self,
        value: Value,
        shape: &[usize],
        keeps_order: bool,
        change: impl Fn(View) -> Option<View> + Copy,
    ) -> Option<Value> {
        if let Some(made) = self.reviewed(value, shape, keeps_order, change) {
            return Some(made);
        }
        let known = &self.values[value.0];
        let ty = known.quantized_type();
        self.copy(value.0, &Roles::last(known.shape.len()), Border::default(), ty).ok()?;
        self.reviewed(value, shape, keeps_order, change)
    }

    /// Fuses a sum into the convolution that makes one of its operands, where that operand is read by nobody else and the other
    /// one is there by then.
    pub fn add_residual(&mut self, inputs: &[Operand], quant: AddQuant, op: &Operator) -> Result<Option<Value>, String> {
        for (conv, other, quant) in [(0, 1, quant), (1, 0, quant.exchanged())] {
            let (Some(conv), Some(other)) = (inputs[conv].value, inputs[other].value) else { continue };
            if let Some(value) = self.fuse(conv, other, quant, op) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// No other value, and no other image of this one, lies in the view's storage.
    fn is_only_view(&self, view: &View) -> bool {
        self.values.iter().flat_map(|v| &v.images).filter(|v| v.storage == view.storage).count() == 1
    }

    fn fuse(&mut self, conv: Value, other: Value, quant: AddQuant, op: &Operator) -> Option<Value> {
        let (made, residual) = (&self.values[conv.0], &self.values[other.0]);
        let [view] = &made.images[..] else { return None };
        let layout = view.allocated.filter(|_| made.readers == 1 && made.native.is_none() && conv != other)?;
        // A value with other axes on the same bytes may have readers to come.
        if !self.is_only_view(view) {
            return None;
        }
        let index = self.records.iter().position(|r| r.writes.contains(&view.storage))?;
        let alone = self.records.iter().skip(index + 1).all(|r| !r.reads.contains(&view.storage) && !r.writes.contains(&view.storage));
        // The roles of the convolution's output: its shape is known under one of these.
        let rank = made.shape.len();
        let roles = [Roles::first(rank), Roles::last(rank)].into_iter().find(|roles| view.layout(roles, layout.bytes()) == Some(layout))?;
        let (shape, image) = (
            made.shape.clone(),
            residual
                .images
                .iter()
                .find_map(|v| v.layout(&roles, self.storages[v.storage].bytes).map(|layout| Image { storage: v.storage, layout }))?,
        );
        let there = self.records.iter().skip(index).all(|r| !r.writes.contains(&image.storage));
        let record = &mut self.records[index];
        let draft = record.work.draft_mut()?.as_conv()?;
        if !alone || !there || draft.residual.is_some() || draft.is_depthwise(&record.layouts) {
            return None;
        }
        draft.residual = Some(quant);
        let output = self.output(&shape, &roles, op.output);
        let record = &mut self.records[index];
        record.name = format!("{} + {}", record.name, op.name);
        record.reads.push(image.storage);
        record.writes = vec![output.storage];
        record.layouts.pop();
        record.layouts.extend([image.layout, output.layout]);
        Some(output.value)
    }

    /// Joins `inputs` to one tensor of `shape` along the channels of `roles`: a part that nothing else constrains is written in
    /// its place to begin with, others are copied, brought to the output's scale on the way.
    pub fn concat(&mut self, op: &Operator, inputs: &[Operand], shape: &[usize], roles: &Roles) -> Result<Value, String> {
        let [height, width, channels] = roles.sizes(shape);
        // A part that comes twice would be copied within the storage that it was moved to.
        let once = |input: &&Operand| inputs.iter().filter(|i| i.value == input.value).count() == 1;
        let part = |(input, from): (&Operand, &QuantizedType)| Some(input).filter(once).and_then(|i| self.movable(i, *from, op, roles));
        let parts: Vec<Option<(Value, Layout)>> = inputs.iter().zip(&op.inputs).map(part).collect();
        let border = parts.iter().flatten().fold(self.hint, |all, (_, layout)| all.union(layout.border));
        let layout = Layout::new(height, width, channels).with_border(border);
        let storage = self.storage(layout.bytes());
        let mut first = 0;
        for ((input, from), part) in inputs.iter().zip(&op.inputs).zip(parts) {
            let count = roles.sizes(&input.shape)[2];
            let place = layout.channel_slice(first..first + count);
            first += count;
            if let Some((value, _)) = part
                && self.relocate(value, storage, place, roles)
            {
                continue;
            }
            let image = self.image(input, roles, None, *from)?;
            let zero = op.output.zero;
            let draft: Box<dyn Draft> = match from.same_scale(&op.output) {
                true => Box::new(draft::Simple(move |_, l: &[Layout]| kernels::CopyInto::prepare(l[0], l[1], zero))),
                false => Table::requantizing(*from, op.output).draft(zero)?,
            };
            let (reads, writes, layouts) = (vec![image.storage], vec![storage], vec![image.layout, place]);
            self.record(self.name.clone(), draft, reads, writes, layouts);
        }
        let view = View::placed(storage, layout, shape, roles, op.output.zero);
        Ok(self.image_value(shape, op.output, view))
    }

    /// The value and its layout, where it may become a part of a concatenation: it has the output's scale, lies in a storage of
    /// its own, and under the same roles.
    fn movable(&self, input: &Operand, from: QuantizedType, op: &Operator, roles: &Roles) -> Option<(Value, Layout)> {
        let value = input.value?;
        let known = &self.values[value.0];
        let [view] = &known.images[..] else { return None };
        let layout = view.allocated.filter(|l| view.layout(roles, self.storages[view.storage].bytes) == Some(*l))?;
        let alone = self.is_only_view(view);
        let whole = layout.channels == layout.pixel_stride;
        let uniform = |r: &Record| {
            let slots = r.reads.iter().chain(&r.writes).zip(&r.layouts).filter(|(s, _)| **s == view.storage);
            slots.into_iter().all(|(_, l)| {
                (l.border, l.height, l.width, l.pixel_stride) == (layout.border, layout.height, layout.width, layout.pixel_stride)
            })
        };
        let follows = |r: &Record| {
            (r.work.reads_layouts() || !r.reads.contains(&view.storage)) && (r.work.writes_layouts() || !r.writes.contains(&view.storage))
        };
        let strided = self.records.iter().all(|r| uniform(r) && follows(r));
        (from.same_scale(&op.output) && alone && whole && strided && self.storages[view.storage].origin == Origin::Arena)
            .then_some((value, layout))
    }

    /// Moves what lies in the value's storage to `place` in `storage`. False where a step would then read what it writes.
    fn relocate(&mut self, value: Value, storage: usize, place: Layout, roles: &Roles) -> bool {
        let old = self.values[value.0].images[0].storage;
        let both = |r: &Record| {
            let touches = |list: &[usize]| list.contains(&old) || list.contains(&storage);
            touches(&r.reads) && touches(&r.writes)
        };
        if self.records.iter().any(both) {
            return false;
        }
        for record in &mut self.records {
            let slots = record.reads.iter_mut().chain(&mut record.writes).zip(&mut record.layouts);
            for (slot, layout) in slots.filter(|(slot, _)| **slot == old) {
                *slot = storage;
                *layout = place.channel_slice(layout.first_channel..layout.first_channel + layout.channels);
            }
        }
        let known = &mut self.values[value.0];
        known.images[0] = View::placed(storage, place, &known.shape, roles, known.images[0].zero);
        true
    }
}

/// Rows `w` of columns `c` for every `h`, where columns lie side by side.
fn matrices(offset: usize, h: view::Axis, w: view::Axis, c: view::Axis) -> Option<Matrices> {
    if c.size > 1 && c.stride != 1 {
        return None;
    }
    let pitch = if w.size > 1 { w.stride } else { offset + c.size };
    if pitch == 0 {
        return None;
    }
    let (first, left) = (offset % pitch, offset / pitch);
    let border = Border { left, ..Border::default() };
    let layout = Layout { height: 1, width: w.size, channels: c.size, border, pixel_stride: pitch, first_channel: first };
    (first + c.size <= pitch && layout.check().is_ok()).then_some(Matrices { layout, step: h.stride })
}

/// Which order a dense tensor has under `roles`, where it is one of the two.
fn order(dense: &View, roles: &Roles) -> Option<Order> {
    let [h, w, c] = dense.strided(roles)?;
    let fits = |axis: &view::Axis, stride: usize| axis.size == 1 || axis.stride == stride;
    if fits(&c, 1) && fits(&w, c.size) && fits(&h, w.size * c.size) {
        return Some(Order::Pixels);
    }
    (fits(&w, 1) && fits(&h, w.size) && fits(&c, h.size * w.size)).then_some(Order::Planes)
}

impl Work {
    pub fn draft_mut(&mut self) -> Option<&mut Box<dyn Draft>> {
        match self {
            Work::Kernel(draft) => Some(draft),
            Work::Island(_) => None,
        }
    }

    /// The convolution, where it is one.
    fn conv(&self) -> Option<&draft::ConvDraft> {
        match self {
            Work::Kernel(draft) => draft.conv(),
            Work::Island(_) => None,
        }
    }

    fn conv_mut(&mut self) -> Option<&mut draft::ConvDraft> {
        self.draft_mut()?.as_conv()
    }

    /// The pool, where it is one.
    fn pool(&self) -> Option<&draft::PoolDraft> {
        match self {
            Work::Kernel(draft) => draft.pool(),
            Work::Island(_) => None,
        }
    }

    /// The chain, where it is one.
    fn fused(&self) -> Option<&fuse::FusedDraft> {
        match self {
            Work::Kernel(draft) => draft.fused(),
            Work::Island(_) => None,
        }
    }

    fn makes_rows(&self) -> bool {
        matches!(self, Work::Kernel(draft) if draft.makes_rows())
    }

    fn reads_layouts(&self) -> bool {
        matches!(self, Work::Kernel(draft) if draft.reads_layouts())
    }

    fn writes_layouts(&self) -> bool {
        matches!(self, Work::Kernel(draft) if draft.writes_layouts())
    }
}

impl Record {
    /// True where the step may write where it reads `read`: it looks at each element once, before it writes it, and reads the
    /// storage nowhere else.
    pub fn may_take(&self, read: usize) -> bool {
        let last = self.layouts.len().saturating_sub(1);
        let once = self.reads.iter().filter(|r| **r == self.reads[read]).count() == 1;
        once && matches!(&self.work, Work::Kernel(draft) if draft.in_place(read)) && self.layouts[read] == self.layouts[last]
    }
}
