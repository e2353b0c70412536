//! The one TOML file: as typed by the user, checked, with every default resolved.

pub mod locate;
pub mod model;
pub mod parse;
pub mod problems;
pub mod value;

use crate::codec::DecodeLimits;
use crate::engine::cache_directory;
use crate::governor::GovernorConfig;
use crate::mqtt;
use crate::queue::QueueConfig;
use crate::source::SourceConfig;
use model::ModelConfig;
use problems::{Checker, Problem};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use value::{Size, Span};

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of this board in topics and results: letters, digits, `-` and `_`. Default: the host name.
    pub node: String,
    pub mqtt: mqtt::Config,
    /// What a request may unpack to.
    pub decode: DecodeLimits,
    pub queue: QueueConfig,
    pub inference: InferenceConfig,
    pub governor: GovernorConfig,
    pub stats: StatsConfig,
    /// The models, `[[model]]`; at least one.
    #[serde(rename = "model")]
    pub models: Vec<ModelConfig>,
    /// The sensors, `[[source]]`; there may be none.
    #[serde(rename = "source")]
    pub sources: Vec<SourceConfig>,
}

/// `[inference]`: how the cores are used, and how long an ending daemon goes on working.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InferenceConfig {
    /// Inference threads, each with its own copy of every model's buffers. 1 to 64, default 1.
    pub workers: usize,
    /// Most cores that one inference uses. 1 to 64, default 1.
    pub threads: usize,
    /// CPUs that inference is kept on, by number: each thread of each worker gets one, in turn. Default: any.
    pub cores: Vec<usize>,
    /// Parts that the layers of every model are divided into, each done on its own share of `cores`: at most as many as `cores`
    /// and `workers`, and one thread an inference. Default 1: not divided.
    pub stages: usize,
    /// How long a stopping daemon goes on to answer what is in its queue. Default 10 s.
    pub drain: Span,
    /// The folder, of this daemon alone, that keeps packed weights for the next start; empty: none does. Default: the one that systemd
    /// gives the service (`CacheDirectory=`), where it gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

impl Default for InferenceConfig {
    fn default() -> InferenceConfig {
        InferenceConfig { workers: 1, threads: 1, cores: Vec::new(), stages: 1, drain: Span::secs(10), cache: None }
    }
}

/// `[stats]`: the periodic report on `<prefix>/<node>/stats`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatsConfig {
    /// Time between two reports, 1 s to 1 day. Default 30 s.
    pub period: Span,
}

impl Default for StatsConfig {
    fn default() -> StatsConfig {
        StatsConfig { period: Span::secs(30) }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            node: host_name(),
            mqtt: mqtt::Config::default(),
            decode: DecodeLimits::default(),
            queue: QueueConfig::default(),
            inference: InferenceConfig::default(),
            governor: GovernorConfig::default(),
            stats: StatsConfig::default(),
            models: Vec::new(),
            sources: Vec::new(),
        }
    }
}

/// The host name with every character that a topic level should not have replaced by `-`; `jouled` where there is none.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().take(64).map(|c| if is_name_char(c) { c } else { '-' }).collect();
    if name.is_empty() { "jouled".to_string() } else { name }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// A name that becomes one level of a topic and an id elsewhere: 1 to 64 letters, digits, `-` and `_`.
pub(crate) fn check_name(name: &str, key: &str, at: &mut Checker) {
    let good = (1..=64).contains(&name.len()) && name.chars().all(is_name_char);
    at.expect(good, key, || format!("expected 1 to 64 letters, digits, `-` or `_`, found `{}`", name.escape_debug()));
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub path: PathBuf,
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.problems.as_slice() {
            [one] => write!(f, "{path}: {one}"),
            many => {
                write!(f, "{path}: {} problems", many.len())?;
                many.iter().try_for_each(|p| write!(f, "\n  {p}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks the file. Relative paths in it are taken from the file's own folder.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let error = |problems| ConfigError { path: path.to_path_buf(), problems };
        let text = read(path).map_err(|message| error(vec![Problem { key: String::new(), line: None, message }]))?;
        let mut config = Config::parse(&text).map_err(error)?;
        config.resolve(path.parent().unwrap_or(Path::new(".")));
        Ok(config)
    }

    /// Takes relative paths from `folder`.
    pub fn resolve(&mut self, folder: &Path) {
        self.inference.resolve(folder);
        self.models.iter_mut().for_each(|model| model.resolve(folder));
        self.sources.iter_mut().for_each(|source| source.resolve(folder));
    }

    /// Reads and checks the text; paths stay as they are written.
    pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
        let (config, places) = parse::parse::<Config>(text, ("source[", &SourceConfig::KEYS))?;
        let mut problems = config.check();
        for problem in &mut problems {
            problem.line = places.line_of(&problem.key);
        }
        problems.sort_by_key(|p| p.line);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// Every semantic problem.
    pub fn check(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut at = Checker::new(&mut found);
        check_name(&self.node, "node", &mut at);
        self.mqtt.check(&mut at.below("mqtt"));
        self.decode.check(&mut at.below("decode"));
        self.queue.check(&mut at.below("queue"));
        self.inference.check(&mut at.below("inference"));
        self.governor.check(&mut at.below("governor"));
        let period = self.stats.period;
        at.expect((Span::secs(1)..=Span::secs(86_400)).contains(&period), "stats.period", || {
            format!("expected 1s to 1 day, found {period}")
        });
        self.check_models(&mut at);
        self.check_sources(&mut at);
        found
    }

    fn check_models(&self, at: &mut Checker) {
        at.expect(!self.models.is_empty(), "model", || "expected at least one [[model]], found none".into());
        let names: HashSet<&str> = self.models.iter().map(|m| m.name.as_str()).collect();
        let mut seen = HashSet::new();
        for (index, model) in self.models.iter().enumerate() {
            let mut at = at.below("model");
            let mut at = at.below(&format!("[{index}]"));
            at.expect(seen.insert(&model.name), "name", || format!("expected names that differ, found `{}` twice", model.name));
            model.check(&names, &mut at);
        }
    }

    fn check_sources(&self, at: &mut Checker) {
        let mut seen = HashSet::new();
        for (index, source) in self.sources.iter().enumerate() {
            let mut at = at.below("source");
            let mut at = at.below(&format!("[{index}]"));
            check_name(&source.name, "name", &mut at);
            at.expect(seen.insert(&source.name), "name", || format!("expected names that differ, found `{}` twice", source.name));
            let known = self.models.iter().any(|m| m.name == source.model);
            at.expect(known, "model", || unknown_model(&source.model, self.models.iter().map(|m| m.name.as_str())));
            source.check(&mut at);
        }
    }
}

/// Names the models that there are.
pub(crate) fn unknown_model<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    format!("no model is named `{name}`; there is: {}", known.join(", "))
}

impl InferenceConfig {
    /// The folder of packed weights, if there is to be one.
    pub fn cache(&self) -> Option<PathBuf> {
        self.cache.clone().or_else(cache_directory).filter(|folder| !folder.as_os_str().is_empty())
    }

    fn resolve(&mut self, folder: &Path) {
        if let Some(cache) = self.cache.as_mut().filter(|cache| !cache.as_os_str().is_empty()) {
            *cache = folder.join(&*cache);
        }
    }

    fn check(&self, at: &mut Checker) {
        for (key, value) in [("workers", self.workers), ("threads", self.threads)] {
            at.expect((1..=64).contains(&value), key, || format!("expected 1 to 64, found {value}"));
        }
        for core in self.cores.iter().filter(|&&core| core >= 1024) {
            at.expect(false, "cores", || format!("expected CPU numbers below 1024, found {core}"));
        }
        self.check_stages(at);
        at.expect(self.drain <= Span::secs(600), "drain", || format!("expected 0s to 10m, found {}", self.drain));
    }

    fn check_stages(&self, at: &mut Checker) {
        let InferenceConfig { stages, workers, threads, ref cores, .. } = *self;
        at.expect(stages >= 1, "stages", || format!("expected at least 1, found {stages}"));
        if stages < 2 {
            return;
        }
        at.expect(cores.len() >= stages, "stages", || format!("expected at most one a CPU of `cores` ({}), found {stages}", cores.len()));
        at.expect(workers >= stages, "stages", || format!("expected at most one a worker ({workers}), found {stages}: some would idle"));
        at.expect(threads == 1, "stages", || format!("expected `threads = 1` beside stages, found {threads}"));
    }
}

/// A configuration of more than 1 MiB is refused unread: it is likely the wrong file.
fn read(path: &Path) -> Result<String, String> {
    const LIMIT: u64 = 1 << 20;
    let size = std::fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?.len();
    if size > LIMIT {
        return Err(format!("expected at most {}, found {}", Size(LIMIT), Size(size)));
    }
    std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = include_str!("../../README.md");

    /// The README's annotated file.
    fn annotated() -> &'static str {
        README.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap()
    }

    /// Every key that a value writes, as paths without indices.
    fn keys(path: &str, value: &toml::Value, found: &mut HashSet<String>) {
        match value {
            toml::Value::Table(table) => table.iter().for_each(|(key, value)| keys(&format!("{path}.{key}"), value, found)),
            _ => drop(found.insert(path.to_string())),
        }
    }

    #[test]
    fn the_annotated_file_has_every_key_and_the_codes_defaults() {
        let config = Config::parse(annotated()).unwrap();
        let shown = Config { models: Vec::new(), sources: Vec::new(), ..config.clone() };
        assert_eq!(shown, Config::default());
        assert_eq!(config.models[0].limits, crate::engine::Limits::default());
        let (mut written, mut known) = (HashSet::new(), HashSet::new());
        keys("", &toml::from_str(annotated()).unwrap(), &mut written);
        keys("", &toml::Value::try_from(Config::default()).unwrap(), &mut known);
        let missing: Vec<_> = known.difference(&written).filter(|key| ![".node", ".model", ".source"].contains(&key.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn stages_need_cores_workers_and_one_thread() {
        let problems = |inference: &str| match Config::parse(&format!("[inference]\n{inference}")) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().filter(|p| p.key == "inference.stages").map(|p| p.message.clone()).collect(),
        };
        assert!(problems("stages = 2\nworkers = 2\ncores = [0, 1]").is_empty());
        assert!(problems("stages = 0")[0].contains("at least 1"));
        let all = problems("stages = 2\nthreads = 2");
        assert!(all.len() == 3 && all[0].contains("a CPU of `cores` (0)") && all[1].contains("a worker (1)"), "{all:?}");
    }

    #[test]
    fn the_cache_lies_where_it_is_configured_and_nowhere_where_that_is_empty() {
        let resolved = |inference: &str| {
            let mut config: InferenceConfig = toml::from_str(inference).unwrap();
            config.resolve(Path::new("/etc/jouled"));
            config.cache()
        };
        assert_eq!(resolved("cache = 'packed'"), Some("/etc/jouled/packed".into()));
        assert_eq!(resolved("cache = '/var/tmp'"), Some("/var/tmp".into()));
        assert_eq!(resolved("cache = ''"), None);
    }

    #[test]
    fn the_annotated_files_optional_keys_exist() {
        let all = annotated().replace("#: ", "").replace("credential = ", "# ").replace("lighter = \"vibration-small\"", "");
        Config::parse(&all).unwrap_or_else(|problems| panic!("{problems:#?}"));
    }

    #[test]
    fn the_packaged_file_is_good_with_the_codes_defaults_and_its_optional_keys_exist() {
        let packaged = include_str!("../../package/jouled.toml");
        let config = Config::parse(packaged).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let shown = Config { models: Vec::new(), node: Config::default().node, ..config };
        assert_eq!(shown, Config::default());
        let all = Config::parse(&packaged.replace("#: ", "")).unwrap_or_else(|problems| panic!("{problems:#?}"));
        assert_eq!((all.models.len(), all.sources.len(), all.mqtt.credential.as_deref()), (3, 1, Some("mqtt-password")));
    }
}
