//! `count-peer MODEL RUNS`: runs a model RUNS times on one thread in ONNX Runtime, the library that `ORT_DYLIB_PATH` names,
//! with inputs and outputs bound beforehand: its leanest way. Inputs are zero, of any byte or float type.

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::value::{DynValue, Tensor, TensorElementType, ValueType};
use std::error::Error;

fn zeros(dtype: &ValueType) -> Result<DynValue, Box<dyn Error>> {
    let ValueType::Tensor { ty, shape, .. } = dtype else { return Err(format!("an input of {dtype:?}").into()) };
    let shape: Vec<usize> = shape.iter().map(|&d| usize::try_from(d).unwrap_or(1).max(1)).collect();
    let count = shape.iter().product();
    Ok(match ty {
        TensorElementType::Int8 => Tensor::from_array((shape, vec![0i8; count]))?.into_dyn(),
        TensorElementType::Uint8 => Tensor::from_array((shape, vec![0u8; count]))?.into_dyn(),
        TensorElementType::Float32 => Tensor::from_array((shape, vec![0f32; count]))?.into_dyn(),
        other => return Err(format!("an input of {other:?}").into()),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, model, runs] = &arguments[..] else { return Err("expected MODEL RUNS".into()) };
    let runs: usize = runs.parse()?;
    let mut builder = Session::builder()?.with_intra_threads(1)?.with_inter_threads(1)?;
    let mut session = builder.commit_from_file(model)?;
    let mut binding = session.create_binding()?;
    for input in session.inputs() {
        binding.bind_input(input.name(), &zeros(input.dtype())?)?;
    }
    let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
    for output in session.outputs() {
        binding.bind_output_to_device(output.name(), &memory)?;
    }
    for _ in 0..runs {
        session.run_binding(&binding)?;
    }
    Ok(())
}
