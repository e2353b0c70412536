//! Pre-processing: from what came to the bytes that the engine reads.
//!
//! The steps are compiled once for a port. All that they do to numbers is one affine map for each channel, with a window
//! function in it where there is one; so a run is one pass that maps, checks and quantizes each element, without a copy in
//! between. An image is first brought to the model's colours and size; then every sample goes through a table of 256 ready
//! elements for its channel.
//!
//! Numbers and raw tensors without steps are the model's declared input as it is. Sensor windows, images (samples of 0 to 255)
//! and everything where a step maps values are real numbers: they are quantized where the model says how, otherwise rounded
//! half to even and saturated to an integer type.
//!
//! The steps are `layout`, `scale`, `normalize`, `window`, `channels` and `resize`. Those that map numbers are applied in their
//! order; the others say something about the model or about images, wherever they stand.

mod channels;
mod geometry;
mod layout;
mod map;
mod normalize;
mod numbers;
mod picture;
mod quantize;
mod resize;
mod scale;
mod window;

pub use channels::{Channels, Order};
pub use layout::{Axes, Layout};
pub use normalize::Normalize;
pub use resize::{Filter, Mode, Resize};
pub use scale::{PerChannel, Scale};
pub use window::{Function, Window};

use super::Flaw;
use crate::codec::Input;
use crate::config::problems::{Checker, Problem};
use crate::engine::Port;
use crate::rejection::{Code, Rejection};
use geometry::Geometry;
use map::Map;
use numbers::Numeric;
use picture::Imaging;
use serde::{Deserialize, Serialize};

/// One step, as a table in `pre = [...]`. New steps are listed here and in [`PreStep::step`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum PreStep {
    Layout(Layout),
    Scale(Scale),
    Normalize(Normalize),
    Window(Window),
    Channels(Channels),
    Resize(Resize),
}

impl PreStep {
    fn step(&self) -> &dyn Step {
        match self {
            PreStep::Layout(step) => step,
            PreStep::Scale(step) => step,
            PreStep::Normalize(step) => step,
            PreStep::Window(step) => step,
            PreStep::Channels(step) => step,
            PreStep::Resize(step) => step,
        }
    }

    /// Reports what is wrong whatever the model is. [`Pre::for_ports`] finds what does not fit the model.
    pub fn check(&self, at: &mut Checker) {
        if let Err(flaw) = self.step().check() {
            at.problem(flaw.key, flaw.message);
        }
    }
}

/// What a kind of step knows.
trait Step {
    /// The model input that the step is for; `None` for every one.
    fn input(&self) -> Option<&str>;

    /// Checks the values by themselves.
    fn check(&self) -> Result<(), Flaw>;

    /// Adds the step to what earlier ones planned.
    fn plan(&self, plan: &mut Plan) -> Result<(), Flaw>;

    /// The number of channels that the step's lists are for, and their key.
    fn channels(&self) -> Option<(&'static str, usize)> {
        None
    }

    /// The order of the port's dimensions, where the step says it.
    fn axes(&self) -> Option<Axes> {
        None
    }
}

/// What the steps ask for, before it is compiled.
struct Plan {
    geometry: Geometry,
    map: Map,
    order: Option<Order>,
    resize: Option<Resize>,
}

/// The compiled steps of one port, with the buffers that they use. One for each worker.
#[derive(Clone, Debug)]
pub struct Pre {
    port: Port,
    geometry: Geometry,
    numeric: Numeric,
    imaging: Option<Imaging>,
}

impl Pre {
    /// Compiles the steps for each of a model's input ports. The problem's key starts at the list: `pre[1].mean`.
    pub fn for_ports(steps: &[PreStep], ports: &[Port]) -> Result<Vec<Pre>, Problem> {
        for (index, step) in steps.iter().enumerate() {
            let input = step.step().input();
            if let Some(name) = input.filter(|name| ports.iter().all(|port| port.declared.name != *name)) {
                let names: Vec<&str> = ports.iter().map(|port| port.declared.name.as_str()).collect();
                let message = format!("the model has no input `{name}`: expected one of {}", names.join(", "));
                return Err(Flaw::new("input", message).at("pre", index));
            }
        }
        ports.iter().map(|port| Pre::new(steps, port)).collect()
    }

    /// Compiles those of the steps that are for this port.
    pub fn new(steps: &[PreStep], port: &Port) -> Result<Pre, Problem> {
        let steps: Vec<(usize, &dyn Step)> = steps
            .iter()
            .map(PreStep::step)
            .enumerate()
            .filter(|(_, step)| step.input().is_none_or(|name| name == port.declared.name))
            .collect();
        let geometry = geometry(&steps, port)?;
        let map = Map::identity(geometry.channels);
        let mut plan = Plan { geometry, map, order: None, resize: None };
        for (index, step) in steps {
            step.check().and_then(|()| step.plan(&mut plan)).map_err(|flaw| flaw.at("pre", index))?;
        }
        let Plan { geometry, map, order, resize } = plan;
        let imaging = Imaging::new(&geometry, &map, order, resize.unwrap_or_default(), &port.native);
        let numeric = Numeric::new(&geometry, map, port);
        Ok(Pre { port: port.clone(), geometry, numeric, imaging })
    }

    /// Says why sensor windows of `frames` times `channels` values do not fit the port, if they do not.
    pub fn check_window(&self, frames: usize, channels: usize) -> Result<(), Rejection> {
        self.geometry.check_window(frames, channels, self.numeric.is_uniform()).map_err(|found| self.wrong_shape(&found))
    }

    /// Writes the engine's bytes, `port.native.bytes()` of them. On an error `out` holds anything.
    pub fn run(&mut self, input: &Input, out: &mut [u8]) -> Result<(), Rejection> {
        if out.len() != self.port.native.bytes() {
            let message = format!("the engine's buffer for {} has {} bytes", self.port.native, out.len());
            return Err(Rejection::new(Code::EngineFailed, message));
        }
        match input {
            Input::Window { values, channels } => self.window(values, *channels, out),
            Input::Numbers { values, shape } => {
                let transposed = self.transposed(shape.as_deref(), values.len())?;
                self.numeric.numbers(values, transposed, out)
            }
            Input::Raw(tensor) => {
                let transposed = self.transposed(Some(tensor.shape()), tensor.elements())?;
                self.numeric.tensor(tensor, transposed, out)
            }
            Input::Image(picture) => match &mut self.imaging {
                Some(imaging) => {
                    imaging.run(picture, out);
                    Ok(())
                }
                None => Err(self.no_image()),
            },
        }
    }

    fn window(&self, values: &[f32], channels: usize, out: &mut [u8]) -> Result<(), Rejection> {
        let frames = values.len() / channels.max(1);
        if frames * channels != values.len() {
            return Err(self.wrong_shape(&format!("{} values for {channels} channels", values.len())));
        }
        self.check_window(frames, channels)?;
        self.numeric.window(values, out)
    }

    /// Whether numbers of this shape lie position-major where the port is channel-major, or the other way round.
    fn transposed(&self, shape: Option<&[usize]>, elements: usize) -> Result<bool, Rejection> {
        let declared = &self.port.declared;
        if elements != declared.elements() {
            let message = format!("input {declared}: expected {} elements, found {elements}", declared.elements());
            return Err(Rejection::new(Code::WrongLength, message));
        }
        let Some(shape) = shape else { return Ok(false) };
        self.geometry.transposed(shape, &declared.shape).ok_or_else(|| self.wrong_shape(&format!("shape {shape:?}")))
    }

    fn wrong_shape(&self, found: &str) -> Rejection {
        let expected = self.geometry.describe();
        Rejection::new(Code::WrongShape, format!("input {}: expected {expected}, found {found}", self.port.declared))
    }

    fn no_image(&self) -> Rejection {
        let message = format!("input {} takes no image: expected 1 or 3 channels of height and width", self.port.declared);
        Rejection::new(Code::BadImage, message)
    }
}

/// The port's dimensions as the layout step says, or as they look, with as many channels as the lists have.
fn geometry(steps: &[(usize, &dyn Step)], port: &Port) -> Result<Geometry, Problem> {
    let axes = steps.iter().find_map(|(index, step)| step.axes().map(|axes| (*index, axes)));
    let lists = steps.iter().find_map(|(_, step)| step.channels().map(|(_, n)| n)).unwrap_or(1);
    let geometry = match axes {
        None => Geometry::guess(&port.declared.shape, lists),
        Some((index, axes)) => Geometry::new(axes, &port.declared.shape).map_err(|flaw| flaw.at("pre", index))?,
    };
    for (index, step) in steps {
        if let Some((key, n)) = step.channels().filter(|(_, n)| *n != geometry.channels) {
            let message = format!("input {} has {} channels, found {n} values", port.declared, geometry.channels);
            return Err(Flaw::new(key, message).at("pre", *index));
        }
    }
    Ok(geometry)
}

#[cfg(test)]
mod tests;
