//! The models that are loaded now, each with its compiled steps, shared by all inference threads.

use crate::config::model::ModelConfig;
use crate::engine::{Engine, LoadError, Model};
use crate::latency::Latencies;
use crate::stage::{AlarmStates, Labels, Post, Pre};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// One model, ready to run.
pub struct Loaded {
    pub name: String,
    pub model: Model,
    /// `sha256:` and the file's digest.
    pub digest: String,
    pub labels: Option<Labels>,
    /// Name of the model to run instead when the governor asks for it.
    pub lighter: Option<String>,
    /// Pre-processing, one for each input; a worker takes a copy.
    pub pre: Vec<Pre>,
    pub post: Post,
    /// Alarm states of each sensor.
    pub alarms: Mutex<AlarmStates>,
    /// Engine time of the last inferences.
    pub latencies: Mutex<Latencies>,
}

/// All models by name. Immutable: a reload makes a new one.
#[derive(Default)]
pub struct Registry {
    models: BTreeMap<String, Arc<Loaded>>,
}

/// A model that cannot be used: why, and where the configuration names it.
#[derive(Debug)]
pub enum Unusable {
    /// The `.onnx` file does not load.
    Model(LoadError),
    /// Labels or steps do not fit the model. `key` lies below `[[model]]`.
    Configuration { model: String, key: String, message: String },
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Model(e) => e.fmt(f),
            Unusable::Configuration { model, key, message } => write!(f, "model `{model}`: {key}: {message}"),
        }
    }
}

/// All of them in one text.
pub fn reasons(unusable: &[Unusable], separator: &str) -> String {
    unusable.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

impl Registry {
    /// Loads every model; reports every one that fails. With `cache`, packed weights are kept in that folder.
    pub fn load(configs: &[ModelConfig], cache: Option<&Path>) -> Result<Registry, Vec<Unusable>> {
        let (mut models, mut unusable) = (BTreeMap::new(), Vec::new());
        for config in configs {
            match Loaded::new(config, cache) {
                Ok(loaded) => drop(models.insert(config.name.clone(), Arc::new(loaded))),
                Err(e) => unusable.push(e),
            }
        }
        let registry = Registry { models };
        unusable.extend(configs.iter().filter_map(|config| registry.unlike_lighter(config)));
        if unusable.is_empty() { Ok(registry) } else { Err(unusable) }
    }

    /// A lighter model must take its place without anybody noticing but for the answer's quality.
    fn unlike_lighter(&self, config: &ModelConfig) -> Option<Unusable> {
        let (model, lighter) = (self.models.get(&config.name)?, self.models.get(config.lighter.as_ref()?)?);
        let shapes =
            |loaded: &Loaded| loaded.model.inputs().iter().map(|p| (p.declared.dtype, p.declared.shape.clone())).collect::<Vec<_>>();
        (shapes(model) != shapes(lighter)).then(|| Unusable::Configuration {
            model: config.name.clone(),
            key: "lighter".into(),
            message: format!("expected a model with the same inputs, `{}` has others", lighter.name),
        })
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Loaded>> {
        self.models.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Loaded>> {
        self.models.values()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }
}

impl Loaded {
    fn new(config: &ModelConfig, cache: Option<&Path>) -> Result<Loaded, Unusable> {
        let wrong = |key: &str, message: String| Unusable::Configuration { model: config.name.clone(), key: key.into(), message };
        let model = Model::load_for(&config.path, &config.limits, Engine::Native, cache).map_err(Unusable::Model)?;
        let labels = config.labels.as_deref().map(Labels::read).transpose().map_err(|e| wrong("labels", e))?;
        let pre = Pre::for_ports(&config.pre, model.inputs()).map_err(|p| wrong(&p.key, p.message))?;
        let post = Post::new(&config.post, labels.as_ref(), model.outputs(), model.inputs()).map_err(|p| wrong(&p.key, p.message))?;
        Ok(Loaded {
            name: config.name.clone(),
            digest: format!("sha256:{}", model.digest()),
            labels,
            lighter: config.lighter.clone(),
            pre,
            post,
            alarms: Mutex::default(),
            latencies: Mutex::default(),
            model,
        })
    }
}
