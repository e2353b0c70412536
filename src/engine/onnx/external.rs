//! External data: tensors whose values lie in files beside the model.

use super::pb::{GraphProto, ModelProto, TensorProto};
use super::tensor;
use crate::config::value::Size;
use crate::engine::error::LoadCause;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// Reads every external tensor into the model, so that nothing later opens a file. Files must lie in `folder`, symbolic links
/// resolved; what is read counts against what is left of `limit` (bytes). `seen` gets all bytes read, in order.
pub fn inline(model: &mut ModelProto, folder: &Path, limit: u64, mut seen: impl FnMut(&[u8])) -> Result<(), LoadCause> {
    let mut left = limit;
    let mut load = |tensor: &mut TensorProto| {
        let named = |why: String| LoadCause::Graph(format!("external data of tensor `{}`: {why}", tensor.name));
        let bytes = read(tensor, folder, left).map_err(named)?;
        left -= bytes.len() as u64;
        seen(&bytes);
        tensor.raw_data = bytes;
        tensor.data_location = None;
        tensor.external_data.clear();
        Ok(())
    };
    model.graph.as_mut().map_or(Ok(()), |graph| each(graph, &mut load))
}

fn each(graph: &mut GraphProto, load: &mut dyn FnMut(&mut TensorProto) -> Result<(), LoadCause>) -> Result<(), LoadCause> {
    for t in graph.initializer.iter_mut().filter(|t| tensor::is_external(t)) {
        load(t)?;
    }
    for attribute in graph.node.iter_mut().flat_map(|n| n.attribute.iter_mut()) {
        for t in attribute.t.iter_mut().chain(&mut attribute.tensors).filter(|t| tensor::is_external(t)) {
            load(t)?;
        }
        for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            each(body, load)?;
        }
    }
    Ok(())
}

fn read(tensor: &TensorProto, folder: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let location = entry("location").ok_or("has no location")?;
    let number = |key: &str| entry(key).map(|v| v.parse::<u64>().map_err(|_| format!("{key} `{v}` is not a number"))).transpose();
    let elements: usize = tensor::shape(&tensor.dims)?.iter().product();
    let size = tensor::element_size(tensor.data_type).ok_or("has an element type that is not supported")?;
    let bytes = (elements * size) as u64;
    match number("length")? {
        Some(length) if length != bytes => return Err(format!("has length {length}, its shape needs {bytes} bytes")),
        _ if bytes > limit => return Err(format!("needs {}, over what limits.max_file leaves ({})", Size(bytes), Size(limit))),
        _ => {}
    }
    let path = resolve(folder, location)?;
    let at = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = File::open(&path).map_err(at)?;
    if !file.metadata().map_err(at)?.is_file() {
        return Err(format!("{} is not a regular file", path.display()));
    }
    file.seek(SeekFrom::Start(number("offset")?.unwrap_or(0))).map_err(at)?;
    let mut data = Vec::new();
    file.take(bytes).read_to_end(&mut data).map_err(at)?;
    match data.len() as u64 == bytes {
        true => Ok(data),
        false => Err(format!("{} ends after {} of {bytes} bytes", path.display(), data.len())),
    }
}

/// The file `location` names below `folder`; anything that leads out of it is refused.
fn resolve(folder: &Path, location: &str) -> Result<PathBuf, String> {
    let outside = || format!("location `{location}` leads out of the model's folder");
    if location.is_empty() || !Path::new(location).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let folder = folder.canonicalize().map_err(|e| format!("{}: {e}", folder.display()))?;
    let path = folder.join(location);
    let path = path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?;
    if path.starts_with(&folder) { Ok(path) } else { Err(outside()) }
}
