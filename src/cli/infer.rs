//! `jouled infer`.

use super::{Failure, LimitArgs, inspect, output};
use crate::codec::{self, Input, Timing};
use crate::config::Config;
use crate::config::value::Size;
use crate::engine::{Engine, Model, Spread, infer_once};
use crate::registry::{Loaded, Registry, reasons};
use crate::runner::Runner;
use crate::stage::{Answer, Pre};
use crate::tensor::{Tensor, TensorSpec};
use crate::tensor_file;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(clap::Args, Debug)]
#[command(after_help = "Without --config the input is the model's own, with no steps before or after it; an image is scaled to the
model's size and keeps its values of 0 to 255. With --config, MODEL is the name of a configured model, whose steps and labels apply.")]
pub struct Args {
    /// The `.onnx` file, or with --config the name of a model in it.
    #[arg(value_name = "MODEL")]
    model: String,
    /// The input: .npy, .csv, .json, .png, .jpg, or raw bytes of the declared type. For a model of several inputs give
    /// NAME=FILE for each.
    #[arg(short, long, value_name = "FILE", required = true)]
    input: Vec<String>,
    /// Write the output to this .npy file; of a model with several outputs, the first.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Configuration that holds the model, with its steps and labels.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitArgs,
}

pub fn main(args: &Args) -> Result<(), Failure> {
    match &args.config {
        None => plain(args),
        Some(config) => configured(args, config),
    }
}

/// Largest input file.
const MAX_INPUT: Size = Size::mib(256);

/// The model alone.
fn plain(args: &Args) -> Result<(), Failure> {
    let model = inspect::load(Path::new(&args.model), &args.limits.limits(), Engine::Native)?;
    let inputs = read_inputs(&args.input, &model)?;
    let tensors = inputs.into_iter().zip(model.inputs()).map(|(input, port)| as_declared(input, port)).collect::<Result<Vec<_>, _>>()?;
    let outputs = infer_once(&model, &tensors).map_err(|e| Failure::Input(e.to_string()))?;
    if let Some(path) = &args.output {
        write_output(path, outputs.first())?;
    }
    let specs = model.outputs().iter().map(|port| &port.declared);
    let outputs = specs.zip(&outputs).map(|(spec, tensor)| Output { spec, values: tensor.to_f32() }).collect();
    output::print(&Outputs { model: &args.model, outputs }, args.json)
}

/// The model with its configured steps.
fn configured(args: &Args, path: &Path) -> Result<(), Failure> {
    let loaded = configured_model(&args.model, path)?;
    let inputs = read_inputs(&args.input, &loaded.model)?;
    let mut runner = Runner::new(loaded, &Spread::threads(1)).map_err(|e| Failure::Running(e.to_string()))?;
    let mut timing = Timing::default();
    let answer = runner.run(&inputs, None, &mut timing).map_err(|e| Failure::Input(e.to_string()))?;
    if let Some(path) = &args.output {
        write_output(path, Some(&runner.output(0)))?;
    }
    output::print(&Answered { model: &args.model, result: &answer, timing_us: timing }, args.json)
}

fn configured_model(name: &str, path: &Path) -> Result<Arc<Loaded>, Failure> {
    let config = Config::load(path).map_err(|e| Failure::Configuration(e.to_string()))?;
    let known = config.models.iter().map(|m| m.name.as_str());
    let unknown = crate::config::unknown_model(name, known);
    let model = config.models.into_iter().find(|m| m.name == name).ok_or(Failure::Configuration(unknown))?;
    // Alone: what it may be replaced by does not matter here.
    let model = crate::config::model::ModelConfig { lighter: None, ..model };
    let registry = Registry::load(&[model], None).map_err(|e| Failure::Model(reasons(&e, "\n")))?;
    registry.get(name).cloned().ok_or_else(|| Failure::Model(format!("model `{name}` is not loaded")))
}

/// One input for each port, in the ports' order.
fn read_inputs(arguments: &[String], model: &Model) -> Result<Vec<Input>, Failure> {
    let ports = model.inputs();
    let (first, names) = (ports.first(), ports.iter().map(|p| p.declared.name.as_str()).collect::<Vec<_>>().join(", "));
    if let ([file], Some(port), 1) = (arguments, first, ports.len()) {
        let file = file.strip_prefix(&format!("{}=", port.declared.name)).unwrap_or(file);
        return Ok(vec![read_input(Path::new(file), &port.declared, model)?]);
    }
    let of = |spec: &TensorSpec| {
        let given = arguments.iter().find_map(|a| a.strip_prefix(&format!("{}=", spec.name)));
        let file = given
            .ok_or_else(|| Failure::Input(format!("expected --input NAME=FILE for each of {names}; there is none for {}", spec.name)))?;
        read_input(Path::new(file), spec, model)
    };
    ports.iter().map(|port| of(&port.declared)).collect()
}

fn read_input(path: &Path, spec: &TensorSpec, model: &Model) -> Result<Input, Failure> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let wrong = |e: String| Failure::Input(format!("{}: {e}", path.display()));
    if !matches!(extension.as_str(), "png" | "jpg" | "jpeg") {
        return tensor_file::read(path, spec, MAX_INPUT).map(Input::Raw).map_err(|e| Failure::Input(e.to_string()));
    }
    let bytes = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let port = model.inputs().iter().filter(|p| p.declared.name == spec.name).cloned().collect::<Vec<_>>();
    let decoded = codec::decode(&bytes, None, &port, &codec::DecodeLimits::default()).map_err(|e| wrong(e.to_string()))?;
    decoded.inputs.into_iter().next().ok_or_else(|| wrong("the image is no input of the model".into()))
}

/// An image becomes the tensor that the model declares; everything else is one already.
fn as_declared(input: Input, port: &crate::engine::Port) -> Result<Tensor, Failure> {
    if let Input::Raw(tensor) = input {
        return Ok(tensor);
    }
    let as_declared = crate::engine::Port { declared: port.declared.clone(), native: port.declared.clone() };
    let mut pre = Pre::new(&[], &as_declared).map_err(|p| Failure::Input(p.message))?;
    let mut bytes = vec![0; port.declared.bytes()];
    pre.run(&input, &mut bytes).map_err(|e| Failure::Input(e.to_string()))?;
    Tensor::from_bytes(port.declared.dtype, port.declared.shape.clone(), bytes).map_err(|e| Failure::Input(e.to_string()))
}

fn write_output(path: &Path, tensor: Option<&Tensor>) -> Result<(), Failure> {
    let wrong = |e: std::io::Error| Failure::Running(format!("{}: {e}", path.display()));
    let tensor = tensor.ok_or_else(|| Failure::Running("the model has no output".into()))?;
    let file = std::fs::File::create(path).map_err(wrong)?;
    tensor_file::write_npy(tensor, std::io::BufWriter::new(file)).map_err(wrong)
}

#[derive(Serialize)]
struct Outputs<'a> {
    model: &'a str,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    spec: &'a TensorSpec,
    values: Vec<f32>,
}

impl fmt::Display for Outputs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for output in &self.outputs {
            writeln!(f, "{}", output.spec)?;
            output.values.iter().enumerate().try_for_each(|(i, v)| writeln!(f, "  {i:4}  {v}"))?;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Answered<'a> {
    model: &'a str,
    result: &'a Answer,
    timing_us: Timing,
}

impl fmt::Display for Answered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string_pretty(&self.result).map_err(|_| fmt::Error)?;
        writeln!(f, "{text}")?;
        let Timing { pre, infer, post, .. } = self.timing_us;
        write!(f, "pre {pre:.0?}, inference {infer:.0?}, post {post:.0?}")
    }
}
