//! `[[model]]`: a network, what is done before and after it, and what it may cost.

use super::check_name;
use super::problems::Checker;
use crate::engine::Limits;
use crate::stage::{PostStep, PreStep};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// One model. Relative paths are taken from the configuration file's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Name in topics and results: letters, digits, `-` and `_`.
    pub name: String,
    /// The `.onnx` file.
    pub path: PathBuf,
    /// Text file with one label a line, in the order of the classes. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// Steps from what comes in to the model's input, in order. Default: none.
    #[serde(default)]
    pub pre: Vec<PreStep>,
    /// Steps from the model's output to the result, in order. Default: the raw output, or with labels all scores.
    #[serde(default)]
    pub post: Vec<PostStep>,
    /// Model to run instead at throttle levels with `lighter_model`; it answers under this model's topic. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lighter: Option<String>,
    #[serde(default)]
    pub limits: Limits,
}

impl ModelConfig {
    /// Reports what can be seen without loading the model. `names` are those of all models.
    pub fn check(&self, names: &HashSet<&str>, at: &mut Checker) {
        check_name(&self.name, "name", at);
        at.expect(!self.path.as_os_str().is_empty(), "path", || "expected the path of an .onnx file, found an empty one".into());
        if let Some(lighter) = &self.lighter {
            at.expect(lighter != &self.name, "lighter", || "expected another model, found this one".into());
            at.expect(names.contains(lighter.as_str()), "lighter", || super::unknown_model(lighter, names.iter().copied()));
        }
        self.limits.check(&mut at.below("limits"));
    }

    /// Takes relative paths from `folder`.
    pub fn resolve(&mut self, folder: &Path) {
        self.path = folder.join(&self.path);
        self.labels = self.labels.as_ref().map(|labels| folder.join(labels));
    }
}
