//! Operators on quantized tensors: what the recogniser makes of QDQ groups and QOperator nodes, and what the lowering turns into
//! kernels.
//!
//! An [`Operator`] is complete: it holds scales, zero points, biases and geometry; of its inputs in the graph the first are
//! activations, a last one may be constant weights. Each kind is one file: how it reads its ONNX node, which shape comes out, a
//! plain evaluation on [`Array`]s that is the oracle, and which kernel it becomes. A new kind is one file and one line in
//! [`Kind`].

mod batch_norm;
pub mod binary;
mod concat;
pub mod conv;
mod conv_transpose;
pub mod expression;
mod layer_norm;
pub mod linear;
mod matmul;
pub mod pool;
pub mod product;
mod resize;
mod softmax;
pub mod table;
pub mod window;

use super::lower::{Lowering, Operand, Value};
use super::recognize::Context;
use crate::kernels::Border;
use serde::{Deserialize, Serialize};

/// How a tensor of 8-bit integers stands for real numbers: `real = scale * (value - zero)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantizedType {
    pub scale: f32,
    /// Zero point of the values as int8: for uint8 tensors the zero point less 128.
    pub zero: i8,
    /// The tensor is uint8 in the model.
    pub unsigned: bool,
}

impl QuantizedType {
    /// Of a tensor that an ONNX node describes: `zero_point` is that of its own values, uint8 where `unsigned`. `None` where
    /// the scale is not a positive number or the zero point is no value of the type.
    pub fn new(scale: f32, zero_point: i32, unsigned: bool) -> Option<QuantizedType> {
        let zero = i8::try_from(zero_point.checked_sub(if unsigned { 128 } else { 0 })?).ok()?;
        (scale.is_finite() && scale > 0.0).then_some(QuantizedType { scale, zero, unsigned })
    }

    /// Values as int8 stand for the same reals.
    pub fn same_scale(&self, other: &QuantizedType) -> bool {
        (self.scale, self.zero) == (other.scale, other.zero)
    }

    /// `saturate(round_half_even(real / scale) + zero)`.
    pub fn quantize(&self, real: f32) -> i8 {
        let scaled = (real / self.scale).round_ties_even() as i32;
        (i64::from(scaled) + i64::from(self.zero)).clamp(-128, 127) as i8
    }

    /// `(value - zero) * scale`.
    pub fn dequantize(&self, value: i8) -> f32 {
        (i32::from(value) - i32::from(self.zero)) as f32 * self.scale
    }
}

/// A dense row-major tensor of int8; a uint8 tensor holds `value - 128`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<i8>,
}

impl Array {
    /// The axes in the order of `axes`.
    pub fn permuted(&self, axes: &[usize]) -> Array {
        let mut strides = vec![1; self.shape.len()];
        for i in (1..strides.len()).rev() {
            strides[i - 1] = strides[i] * self.shape[i];
        }
        let shape: Vec<usize> = axes.iter().map(|&a| self.shape[a]).collect();
        let mut index = vec![0; shape.len()];
        let values = (0..self.values.len()).map(|_| {
            let at: usize = index.iter().zip(axes).map(|(i, &a)| i * strides[a]).sum();
            for (i, &size) in index.iter_mut().zip(&shape).rev() {
                *i += 1;
                if *i < size {
                    break;
                }
                *i = 0;
            }
            self.values[at]
        });
        Array { values: values.collect(), shape }
    }

    /// From channels after the batch to channels last.
    pub fn channels_last(&self) -> Array {
        let rank = self.shape.len();
        let axes: Vec<usize> = std::iter::once(0).chain(2..rank).chain([1]).collect();
        self.permuted(&axes)
    }

    /// Every image of `[batch, channels, spatial..]` by itself, channels last, to one of `[spatial.., channels]`.
    pub fn by_images(&self, spatial: &[usize], channels: usize, each: impl Fn(&[i8]) -> Vec<i8>) -> Array {
        let shape = [&self.shape[..1], spatial, &[channels]].concat();
        let image = self.shape[1..].iter().product::<usize>().max(1);
        let values = self.channels_last().values.chunks_exact(image).flat_map(each).collect();
        Array { shape, values }.channels_first()
    }

    /// From channels last to channels after the batch.
    pub fn channels_first(&self) -> Array {
        let rank = self.shape.len();
        let axes: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
        self.permuted(&axes)
    }
}

/// The axis that an ONNX attribute means in a tensor of `rank` axes: a negative one counts from the end.
fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let from_start = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    let found = from_start.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank);
    found.ok_or_else(|| format!("axis {axis} is outside {rank} axes"))
}

/// One operator with everything it needs but its activations and weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operator {
    /// Name of the ONNX node.
    pub name: String,
    pub kind: Kind,
    /// Of the activations, in order.
    pub inputs: Vec<QuantizedType>,
    pub output: QuantizedType,
}

/// What one kind of operator can do.
pub trait Behaviour {
    /// What reports call it.
    fn name(&self) -> &'static str;

    /// Shape of the output, from the shapes of activations and weights. Errors are the model's.
    fn shape(&self, op: &Operator, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String>;

    /// The output, in the plainest way: what every kernel is compared with. `inputs` are as in [`Behaviour::shape`].
    fn eval(&self, op: &Operator, inputs: &[Array]) -> Result<Array, String>;

    /// Turns the operator into kernel steps. `None` where no kernel covers it: it then runs by [`Behaviour::eval`].
    fn lower(&self, op: &Operator, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String>;

    /// The border that the first activation should carry, so that no copy with one is made.
    fn border(&self, _op: &Operator, _inputs: &[Vec<usize>]) -> Border {
        Border::default()
    }
}

/// The kinds there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    Conv(conv::Conv),
    ConvTranspose(conv_transpose::ConvTranspose),
    BatchNorm(batch_norm::BatchNorm),
    Linear(linear::Linear),
    MatMul(matmul::MatMul),
    Binary(binary::Binary),
    Pool(pool::Pool),
    Resize(resize::Resize),
    Concat(concat::Concat),
    Table(table::Table),
    Softmax(softmax::Softmax),
    LayerNorm(layer_norm::LayerNorm),
}

impl Kind {
    /// The range that the operator cuts its results to.
    pub fn range_mut(&mut self) -> Option<(&mut i8, &mut i8)> {
        match self {
            Kind::Conv(conv::Conv { product, .. })
            | Kind::ConvTranspose(conv_transpose::ConvTranspose { product, .. })
            | Kind::BatchNorm(batch_norm::BatchNorm { product, .. })
            | Kind::Linear(linear::Linear { product, .. }) => Some((&mut product.low, &mut product.high)),
            Kind::Binary(binary) => Some((&mut binary.low, &mut binary.high)),
            _ => None,
        }
    }

    fn behaviour(&self) -> &dyn Behaviour {
        match self {
            Kind::Conv(k) => k,
            Kind::ConvTranspose(k) => k,
            Kind::BatchNorm(k) => k,
            Kind::Linear(k) => k,
            Kind::MatMul(k) => k,
            Kind::Binary(k) => k,
            Kind::Pool(k) => k,
            Kind::Resize(k) => k,
            Kind::Concat(k) => k,
            Kind::Table(k) => k,
            Kind::Softmax(k) => k,
            Kind::LayerNorm(k) => k,
        }
    }
}

/// Operators of the domain com.microsoft that are recognised, and that nothing else here runs.
pub const NATIVE: [&str; 11] = [
    "QGemm",
    "QLinearAdd",
    "QLinearAveragePool",
    "QLinearConcat",
    "QLinearConv",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearMatMul",
    "QLinearMul",
    "QLinearSigmoid",
    "QLinearSoftmax",
];

/// A recognised operator and the values that it reads.
pub struct Recognized {
    pub kind: Kind,
    /// Names of the quantized values, activations first.
    pub inputs: Vec<(String, QuantizedType)>,
    /// Name of the constant weights.
    pub weights: Option<String>,
}

/// The node that makes the real value which is then quantized to `output`, as an operator: the kinds in turn.
pub fn recognize(context: &Context, real: &str, output: QuantizedType) -> Option<Recognized> {
    let ways = [
        table::recognize,
        conv::recognize,
        conv_transpose::recognize,
        batch_norm::recognize,
        linear::recognize,
        matmul::recognize,
        binary::recognize,
        pool::recognize,
        resize::recognize,
        concat::recognize,
        softmax::recognize,
        layer_norm::recognize,
    ];
    ways.into_iter().find_map(|way| way(context, real, output))
}

/// A node of a quantized operator set (`QLinear*`), with the type of its output.
///
/// The operators of com.microsoft that are covered are [`NATIVE`].
pub fn recognize_native(context: &Context, node: &super::onnx::pb::NodeProto) -> Option<(Recognized, QuantizedType)> {
    let ways = [
        conv::native,
        linear::native,
        matmul::native,
        binary::native,
        pool::native,
        resize::native,
        concat::native,
        table::native,
        softmax::native,
    ];
    ways.into_iter().find_map(|way| way(context, node))
}

impl Operator {
    pub fn kind_name(&self) -> &'static str {
        self.kind.behaviour().name()
    }

    /// See [`Behaviour::shape`].
    pub fn shape(&self, inputs: &[Vec<usize>]) -> Result<Vec<usize>, String> {
        if inputs.len() < self.inputs.len() {
            return Err(format!("{} inputs, expected {}", inputs.len(), self.inputs.len()));
        }
        let shape = self.kind.behaviour().shape(self, inputs)?;
        let elements = shape.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
        match elements.filter(|&n| n < 1 << 31) {
            Some(_) => Ok(shape),
            None => Err(format!("asks for an output of shape {shape:?}, over 2^31 elements")),
        }
    }

    /// See [`Behaviour::eval`].
    pub fn eval(&self, inputs: &[Array]) -> Result<Array, String> {
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|a| a.shape.clone()).collect();
        self.shape(&shapes)?;
        self.kind.behaviour().eval(self, inputs)
    }

    /// See [`Behaviour::lower`].
    pub fn lower(&self, to: &mut Lowering, inputs: &[Operand]) -> Result<Option<Value>, String> {
        self.kind.behaviour().lower(self, to, inputs)
    }

    /// See [`Behaviour::border`].
    pub fn border(&self, inputs: &[Vec<usize>]) -> Border {
        self.kind.behaviour().border(self, inputs)
    }
}
