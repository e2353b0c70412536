//! Elementwise operators that all come from one activation, as a function of one real number.

use super::QuantizedType;
use crate::engine::onnx::graph::input;
use crate::engine::onnx::pb::NodeProto;
use crate::engine::onnx::{attribute, tensor};
use crate::engine::recognize::Context;

/// Nodes of one function: real ones (a decomposed Gelu) have about eight.
const MAX_NODES: usize = 32;

/// A function in evaluation order: a node reads constants and results of those before it.
#[derive(Debug)]
pub struct Expression {
    steps: Vec<(Function, Vec<Term>)>,
}

/// What a node reads.
#[derive(Clone, Copy, Debug)]
enum Term {
    Argument,
    Result(usize),
    Constant(f32),
}

impl Expression {
    /// The function that leads to the real value `real`, with the quantized value it starts from. A value that is dequantized
    /// and nothing else is the identity.
    pub fn of(context: &Context, real: &str) -> Option<(Expression, String, QuantizedType)> {
        let mut builder = Builder { context, source: None, steps: Vec::new(), done: Vec::new() };
        match builder.term(real, 0)? {
            Term::Constant(_) => None,
            _ => builder.source.map(|(name, ty)| (Expression { steps: builder.steps }, name, ty)),
        }
    }

    /// The function of one node of com.microsoft's `QLinear*`.
    pub fn single(node: &NodeProto) -> Option<Expression> {
        let function = Function::of(node, node.op_type.strip_prefix("QLinear")?)?;
        Some(Expression { steps: vec![(function, vec![Term::Argument])] })
    }

    /// Its value at `x`.
    pub fn eval(&self, x: f32) -> f32 {
        let mut results = Vec::with_capacity(self.steps.len());
        for (function, terms) in &self.steps {
            let read = |term: Option<&Term>| match term {
                Some(Term::Argument) | None => x,
                Some(&Term::Result(i)) => results[i],
                Some(&Term::Constant(value)) => value,
            };
            let (a, b) = (read(terms.first()), read(terms.get(1)));
            results.push(function.apply(a, b));
        }
        results.last().copied().unwrap_or(x)
    }
}

struct Builder<'a, 'b> {
    context: &'b Context<'a>,
    source: Option<(String, QuantizedType)>,
    steps: Vec<(Function, Vec<Term>)>,
    done: Vec<(String, usize)>,
}

impl Builder<'_, '_> {
    fn term(&mut self, value: &str, depth: usize) -> Option<Term> {
        if let Some(constant) = self.context.scalar(value) {
            return Some(Term::Constant(constant));
        }
        if let Some(found) = self.context.source(value) {
            let first = self.source.get_or_insert_with(|| found.clone());
            return (first.0 == found.0 && first.1 == found.1).then_some(Term::Argument);
        }
        if let Some((_, step)) = self.done.iter().find(|(name, _)| name == value) {
            return Some(Term::Result(*step));
        }
        let node = self.context.index.producer(value)?;
        if depth >= MAX_NODES || self.steps.len() >= MAX_NODES {
            return None;
        }
        let function = Function::of(node, &node.op_type)?;
        let operands = if function.is_binary() { 2 } else { 1 };
        let terms: Option<Vec<Term>> = (0..operands).map(|slot| self.term(input(node, slot)?, depth + 1)).collect();
        let function = function.with_bounds(self.context, node)?;
        self.steps.push((function, terms?));
        self.done.push((value.to_string(), self.steps.len() - 1));
        Some(Term::Result(self.steps.len() - 1))
    }
}

/// The elementwise operators of ONNX that a table may hold.
#[derive(Clone, Copy, Debug)]
enum Function {
    Identity,
    Relu,
    LeakyRelu(f32),
    Elu(f32),
    Clip(f32, f32),
    Sigmoid,
    HardSigmoid(f32, f32),
    HardSwish,
    Tanh,
    Gelu { tanh: bool },
    Erf,
    Softplus,
    Mish,
    Abs,
    Neg,
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Floor,
    Ceil,
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Min,
    Max,
}

impl Function {
    fn of(node: &NodeProto, op: &str) -> Option<Function> {
        let float = |name: &str, default: f32| attribute::find(node, name).map_or(default, |a| a.f);
        Some(match op {
            "Identity" => Function::Identity,
            "Relu" => Function::Relu,
            "LeakyRelu" => Function::LeakyRelu(float("alpha", 0.01)),
            "Elu" => Function::Elu(float("alpha", 1.0)),
            "Clip" => Function::Clip(float("min", f32::NEG_INFINITY), float("max", f32::INFINITY)),
            "Sigmoid" => Function::Sigmoid,
            "HardSigmoid" => Function::HardSigmoid(float("alpha", 0.2), float("beta", 0.5)),
            "HardSwish" => Function::HardSwish,
            "Tanh" => Function::Tanh,
            "Gelu" => Function::Gelu { tanh: attribute::find(node, "approximate").is_some_and(|a| a.s == b"tanh") },
            "Erf" => Function::Erf,
            "Softplus" => Function::Softplus,
            "Mish" => Function::Mish,
            "Abs" => Function::Abs,
            "Neg" => Function::Neg,
            "Exp" => Function::Exp,
            "Log" => Function::Log,
            "Sqrt" => Function::Sqrt,
            "Reciprocal" => Function::Reciprocal,
            "Floor" => Function::Floor,
            "Ceil" => Function::Ceil,
            "Add" => Function::Add,
            "Sub" => Function::Sub,
            "Mul" => Function::Mul,
            "Div" => Function::Div,
            "Pow" => Function::Pow,
            // With more than two operands these are left alone.
            "Min" if node.input.len() == 2 => Function::Min,
            "Max" if node.input.len() == 2 => Function::Max,
            _ => return None,
        })
    }

    /// The bounds of a `Clip` that has them as inputs.
    fn with_bounds(self, context: &Context, node: &NodeProto) -> Option<Function> {
        let Function::Clip(low, high) = self else { return Some(self) };
        let bound = |slot: usize, default: f32| input(node, slot).map_or(Some(default), |name| context.scalar(name));
        Some(Function::Clip(bound(1, low)?, bound(2, high)?))
    }

    fn is_binary(self) -> bool {
        use Function::*;
        matches!(self, Add | Sub | Mul | Div | Pow | Min | Max)
    }

    /// Its value, by `libm`, which computes the same everywhere.
    fn apply(self, a: f32, b: f32) -> f32 {
        let sigmoid = |x: f32| 1.0 / (1.0 + libm::expf(-x));
        match self {
            Function::Identity => a,
            Function::Relu => a.max(0.0),
            Function::LeakyRelu(alpha) => {
                if a < 0.0 {
                    alpha * a
                } else {
                    a
                }
            }
            Function::Elu(alpha) => {
                if a < 0.0 {
                    alpha * libm::expm1f(a)
                } else {
                    a
                }
            }
            Function::Clip(low, high) => a.max(low).min(high),
            Function::Sigmoid => sigmoid(a),
            Function::HardSigmoid(alpha, beta) => (alpha * a + beta).clamp(0.0, 1.0),
            Function::HardSwish => a * (a / 6.0 + 0.5).clamp(0.0, 1.0),
            Function::Tanh => libm::tanhf(a),
            Function::Gelu { tanh: false } => 0.5 * a * (1.0 + libm::erff(a * std::f32::consts::FRAC_1_SQRT_2)),
            // sqrt(2 / pi) * (x + 0.044715 x^3): the approximation that ONNX defines.
            Function::Gelu { tanh: true } => 0.5 * a * (1.0 + libm::tanhf(0.797_884_6 * (a + 0.044_715 * a * a * a))),
            Function::Erf => libm::erff(a),
            Function::Softplus => libm::log1pf(libm::expf(a)),
            Function::Mish => a * libm::tanhf(libm::log1pf(libm::expf(a))),
            Function::Abs => a.abs(),
            Function::Neg => -a,
            Function::Exp => libm::expf(a),
            Function::Log => libm::logf(a),
            Function::Sqrt => a.sqrt(),
            Function::Reciprocal => 1.0 / a,
            Function::Floor => a.floor(),
            Function::Ceil => a.ceil(),
            Function::Add => a + b,
            Function::Sub => a - b,
            Function::Mul => a * b,
            Function::Div => a / b,
            Function::Pow => libm::powf(a, b),
            Function::Min => a.min(b),
            Function::Max => a.max(b),
        }
    }
}

/// The range of int8 that a `Relu` or `Clip` leaves of `output`; `None` for other nodes.
pub fn range(context: &Context, node: &NodeProto, output: QuantizedType) -> Option<(i8, i8)> {
    let function = Function::of(node, &node.op_type)?.with_bounds(context, node)?;
    match function {
        Function::Relu => Some((output.quantize(0.0), i8::MAX)),
        Function::Clip(low, high) if low <= high => Some((output.quantize(low), output.quantize(high))),
        _ => None,
    }
}

/// True where any scalar constant of `tensor` is not a number.
pub fn scalar(tensor: &crate::engine::onnx::pb::TensorProto) -> Option<f32> {
    match tensor::values(tensor)[..] {
        [value] => Some(value as f32),
        _ => None,
    }
}
