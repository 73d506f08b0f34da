//! The typed config. Raw YAML goes in; a checked [`Config`] comes out, or every problem at once.
//!
//! **Invariant:** nothing here trains or writes.
//!
//! ```
//! # use nids_config::Config;
//! let config = Config::parse("name: quick\nmodel: { dim: 32 }\n", "quick.yaml", &["seed=7".to_owned()])?;
//! assert_eq!((config.model.dim, config.seed, config.model.depth), (32, 7, 4));
//! # Ok::<(), nids_config::Error>(())
//! ```

#![forbid(unsafe_code)]

mod check;
mod contradictions;
mod finetune;
mod keys;
mod problem;
mod reference;
mod retired;
mod settings;
mod sweep;
mod training;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::ops::Deref;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use sha2::{Digest as _, Sha256};

pub use finetune::{
    BatchEnsembleConfig, EmaConfig, Ensemble, FinetuneConfig, FinetuneFrom, Head, LossConfig, MeanTeacherConfig,
    MulticlassConfig, RampConfig, Refit, Scales, Task,
};
pub use reference::{reference, schema};
pub use settings::{
    BadRowConfig, CheckpointConfig, DataConfig, EncodeConfig, EngineConfig, EvaluateConfig, Files, GemmBackend, IdConfig,
    Latents, ModelConfig, NoiseConfig, ObjectiveConfig, Precision, PretrainConfig, RowsConfig, Settings, Shuffle,
    SyntheticConfig,
};
pub use sweep::{HalvingConfig, SweepConfig, SweepStrategy, WidthDepthConfig};
pub use training::{MonitorPolicy, NonfinitePolicy, Per, RestartsConfig, ScheduleConfig, TrainingConfig};

pub use problem::{Error, Problem, Result};

use keys::Scope;
use yaml::{Node, Position, Value};

/// The largest config that is read. Parsing takes about ninety times as much memory.
const MAX_BYTES: u64 = 1 << 18;
const TOO_LARGE: &str = "the file is larger than 256 KiB, the limit for a config";

/// A stage that leaves artefacts in a run folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Trains an autoencoder on rows without labels.
    Pretrain,
    /// Writes the latents of every row, and fits linear probes on them and on all tokens.
    Encode,
    /// Trains the classifier.
    Finetune,
}

impl Stage {
    /// Every stage, in the order in which they run.
    pub const ALL: [Self; 3] = [Self::Pretrain, Self::Encode, Self::Finetune];

    /// The name of the stage and of its command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Encode => "encode",
            Self::Finetune => "finetune",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Checked, read-only settings. A stage takes all its settings from here.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    settings: Settings,
}

impl Deref for Config {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl Config {
    /// Reads and checks a file. `dotted.key=value` overrides count as if they were written in it.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let origin = path.display().to_string();
        let refuse = |message: String| Error(vec![Problem::new(origin.clone(), message)]);
        let cannot_read = |error: std::io::Error| refuse(format!("cannot read the config: {error}"));
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(cannot_read)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(refuse(TOO_LARGE.to_owned()));
        }
        let text = String::from_utf8(bytes).map_err(|error| refuse(format!("not UTF-8: {}", error.utf8_error())))?;
        Self::parse(&text, &origin, overrides)
    }

    /// Like [`Config::load`], but from text. Errors show `origin` as the file name.
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self> {
        if text.len() as u64 > MAX_BYTES {
            return Err(Error(vec![Problem::new(origin, TOO_LARGE)]));
        }
        let position = |line, column| Position(format!("{origin}:{line}:{column}"));
        let mut root = yaml::parse(text.trim_start_matches('\u{feff}'), position).map_err(Error)?;
        if matches!(root.value, Value::Null) {
            root = Node::empty_map(root.at);
        }
        let mut problems = Vec::new();
        for text in overrides {
            if let Err(found) = check::apply_override(&mut root, text) {
                problems.extend(found);
            }
        }
        let written = check::section(&root, "", &mut problems);
        if matches!(root.value, Value::Map(_)) && root.get("name").is_none() {
            let message = "`name` is missing: give the run a name, as in `name: unsw-nb15`";
            problems.push(Problem::new(origin, message));
        }
        if problems.is_empty() {
            let settings = with_defaults(written);
            problems.extend(
                settings
                    .contradictions()
                    .into_iter()
                    .map(|(path, message)| Problem::new(nearest_position(&root, path, origin), format!("`{path}`: {message}"))),
            );
            if problems.is_empty() {
                let config = Self { settings };
                // a run folder keeps the text with all defaults, and has to read it again
                if config.to_yaml().len() as u64 <= MAX_BYTES {
                    return Ok(config);
                }
                problems
                    .push(Problem::new(origin, "with all defaults written out, the config is larger than the limit of 256 KiB"));
            }
        }
        Err(Error(problems))
    }

    /// This config with `dotted.key=value` overrides applied.
    pub fn with(&self, overrides: &[String]) -> Result<Self> {
        Self::parse(&self.to_yaml(), "the config", overrides)
    }

    /// The config with every default written out; reading it again gives the same config.
    pub fn to_yaml(&self) -> String {
        self.settings.text()
    }

    /// SHA-256 of the config with all defaults. The number of threads is left out, since it changes no result.
    pub fn hash(&self) -> String {
        sha256(&self.without_threads().to_yaml())
    }

    /// SHA-256 of the settings that the stage's output depends on, including those of earlier stages.
    pub fn stage_hash(&self, stage: Stage) -> String {
        let text = Json::from_iter(self.stage_keys(stage)).to_string();
        sha256(&text)
    }

    /// The settings behind [`Config::stage_hash`], by dotted key. One that is declared as newer than older runs is left out while it
    /// has its default, which is what those did.
    pub fn stage_keys(&self, stage: Stage) -> BTreeMap<String, Json> {
        let upstream = self.upstream(stage);
        let counts = |scope: Scope| match scope {
            Scope::Nothing => false,
            Scope::Every | Scope::Each => true,
            Scope::Of(of) => of == stage || upstream.contains(&of),
        };
        let mut keys = self.flat();
        keys.retain(|path, value| {
            keys::find(path).is_some_and(|key| counts(key.scope) && !(key.is_newer && *value == key.default))
        });
        keys
    }

    /// The settings on which `producer` and a stage that reads its artefacts must agree.
    ///
    /// These are the [`Config::stage_keys`] of `producer` without two groups. Settings of pretraining alone (its steps, its
    /// unlabelled rows) are not read by later stages. Settings that each stage takes for itself (dropout, shards) may differ.
    pub fn keys_shared_with(&self, producer: Stage) -> BTreeMap<String, Json> {
        let mut keys = self.stage_keys(producer);
        keys.retain(|path, _| keys::find(path).is_none_or(|key| !matches!(key.scope, Scope::Each | Scope::Of(Stage::Pretrain))));
        keys
    }

    /// The stages whose artefacts this one reads.
    pub fn upstream(&self, stage: Stage) -> &'static [Stage] {
        match (stage, self.finetune.from) {
            (Stage::Pretrain, _) | (Stage::Finetune, FinetuneFrom::Scratch | FinetuneFrom::Features) => &[],
            (Stage::Encode, _) | (Stage::Finetune, FinetuneFrom::Pretrained | FinetuneFrom::Frozen) => &[Stage::Pretrain],
            (Stage::Finetune, FinetuneFrom::Latents) => &[Stage::Pretrain, Stage::Encode],
        }
    }

    /// The settings of fine-tuning that differ from their defaults and have no effect, because heads alone are fitted.
    pub fn without_effect(&self) -> Vec<String> {
        const OF_HEADS: [&str; 8] = ["from", "seed", "labels", "label_rows", "task", "heads", "refit", "loss.pos_weight"];
        if self.finetune.has_network() {
            return Vec::new();
        }
        let differs = |(path, value): &(String, Json)| keys::find(path).is_some_and(|key| key.default != *value);
        let flat = self.flat().into_iter().filter(differs).map(|(path, _)| path);
        flat.filter(|path| path.strip_prefix("finetune.").is_some_and(|rest| !OF_HEADS.contains(&rest))).collect()
    }

    /// The seed of fine-tuning: `finetune.seed`, or else the run's `seed`.
    pub fn finetune_seed(&self) -> u64 {
        self.finetune.seed.unwrap_or(self.seed)
    }

    /// The files that the config names, by key.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let DataConfig { schema, train, unlabelled, .. } = &self.data;
        let schema = Some(schema).filter(|schema| Path::new(schema).is_file()); // or a built-in one
        let named = [("data.schema", schema), ("finetune.label_rows", self.finetune.label_rows.as_ref())];
        let one = named.into_iter().filter_map(|(key, path)| Some((key, path?)));
        let data = [("data.train", train), ("data.unlabelled", unlabelled), ("finetune.teachers", &self.finetune.teachers)];
        let several = data.into_iter().flat_map(|(key, files)| files.iter().flat_map(Files::names).map(move |name| (key, name)));
        one.chain(several).map(|(key, path)| (key, Path::new(path)))
    }

    /// The settings for a manifest, without the number of threads.
    pub fn to_json(&self) -> Json {
        self.without_threads().settings.json()
    }

    /// The config as a run folder keeps it: without the number of threads, which changes no result.
    #[must_use]
    pub fn without_threads(&self) -> Self {
        let mut same = self.clone();
        same.settings.engine.threads = 0;
        same
    }

    /// Every setting by its dotted key.
    fn flat(&self) -> BTreeMap<String, Json> {
        fn walk(path: &str, value: Json, out: &mut BTreeMap<String, Json>) {
            match value {
                Json::Object(entries) => {
                    for (name, value) in entries {
                        walk(&keys::join(path, &name), value, out);
                    }
                }
                leaf => {
                    out.insert(path.to_owned(), leaf);
                }
            }
        }
        let mut out = BTreeMap::new();
        walk("", self.to_json(), &mut out);
        out
    }
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// Fills in the settings that were not written. A choice other than the default one starts from its own defaults.
fn with_defaults(written: Map<String, Json>) -> Settings {
    fn merge(base: &mut Map<String, Json>, over: Map<String, Json>, path: &str) {
        for (name, value) in over {
            let full = keys::join(path, &name);
            match (base.get_mut(&name), value) {
                (Some(Json::Object(base)), Json::Object(over)) => {
                    if keys::find(&full).is_some_and(keys::Key::is_choice) {
                        base.retain(|chosen, _| over.contains_key(chosen));
                    }
                    merge(base, over, &full);
                }
                (_, value) => {
                    base.insert(name, value);
                }
            }
        }
    }
    let Json::Object(mut all) = Settings::default().json() else { unreachable!("settings are a mapping") };
    merge(&mut all, written, "");
    serde_json::from_value(Json::Object(all)).expect("the checker has seen every value")
}

/// The place where the setting, or the nearest section around it, was written.
fn nearest_position(root: &Node, path: &str, origin: &str) -> String {
    let mut node = root;
    let mut at = origin.to_owned();
    for segment in path.split('.') {
        let Some(next) = node.get(segment) else { break };
        at.clone_from(&next.at.0);
        node = next;
    }
    at
}

/// Every key of a config.
pub fn every_key() -> impl Iterator<Item = &'static str> {
    keys::all().map(|key| key.path.as_str())
}

#[cfg(test)]
mod tests;
