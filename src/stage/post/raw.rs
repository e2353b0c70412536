//! `{ step = "raw" }`: whole outputs.

use super::{Answer, Model, PostStep, Run, Step, Work, real};
use crate::engine::Port;
use crate::stage::Flaw;
use crate::tensor::{Dtype, TensorSpec};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The model's outputs as their author declared them; other steps do not change them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// The output, by default all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// One output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RawOutput {
    pub name: Arc<str>,
    /// The declared type: what `data` would be as a raw tensor.
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Row-major, flat.
    pub data: RawValues,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RawValues {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

struct Compiled {
    /// Index and ports of each output.
    outputs: Vec<(usize, Arc<str>, Port)>,
}

impl Step for Raw {
    fn compile(&self, model: &Model, _: &[PostStep]) -> Result<Box<dyn Run>, Flaw> {
        let chosen = match self.output.as_deref() {
            None => 0..model.outputs.len(),
            name => model.output(name).map(|index| index..index + 1)?,
        };
        let outputs = chosen.map(|index| (index, model.outputs[index].declared.name.as_str().into(), model.outputs[index].clone()));
        Ok(Box::new(Compiled { outputs: outputs.collect() }))
    }
}

impl Run for Compiled {
    fn run(&self, work: &mut Work, answer: &mut Answer) {
        for (index, name, port) in &self.outputs {
            let data = values(port, work.outputs[*index]);
            answer.outputs.push(RawOutput { name: name.clone(), dtype: port.declared.dtype, shape: port.declared.shape.clone(), data });
        }
    }
}

fn values(port: &Port, bytes: &[u8]) -> RawValues {
    let elements = 0..port.native.elements();
    match port.declared.dtype.is_float() {
        true => RawValues::Floats(elements.map(|at| real(&port.native, bytes, at)).collect()),
        false => RawValues::Integers(elements.map(|at| integer(&port.native, bytes, at)).collect()),
    }
}

/// Element `at` as it is stored. Panics when it lies outside.
fn integer(native: &TensorSpec, bytes: &[u8], at: usize) -> i64 {
    let size = native.dtype.size();
    let element = &bytes[at * size..(at + 1) * size];
    match native.dtype {
        Dtype::Int8 => i64::from(element[0] as i8),
        Dtype::Uint8 => i64::from(element[0]),
        Dtype::Int32 => i64::from(i32::from_le_bytes(element.try_into().unwrap_or_default())),
        Dtype::Int64 => i64::from_le_bytes(element.try_into().unwrap_or_default()),
        Dtype::Float16 | Dtype::Float32 => crate::tensor::element_f32(native.dtype, element, 0) as i64,
    }
}
