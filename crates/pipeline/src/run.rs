//! The run folder: what each stage leaves for the next, and the manifest that says what made it.
//!
//! `manifest-<stage>.json` lists a stage's outputs and inputs by content. An artefact that no manifest lists does not
//! exist; one whose content differs from the manifest is not used. No times are kept: the same run gives the same bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::artefacts::{self, Digest};
use crate::config::{Config, Stage};
use crate::error::{Error, Result};

const KIND: &str = "nids-mixer stage";
const VERSION: u32 = 1;
const TOOL: &str = concat!("nids-mixer ", env!("CARGO_PKG_VERSION"));
/// A manifest larger than this is some other file.
const MAX_BYTES: u64 = 1 << 18;

/// What a stage read, wrote and was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    kind: String,
    version: u32,
    tool: String,
    stage: Stage,
    seed: u64,
    /// Which kernels did the sums.
    kernels: String,
    /// [`Config::stage_hash`].
    config_hash: String,
    /// Every setting, threads left at 0.
    config: Json,
    /// Files from outside, by what they were used as: `data.train`.
    data: BTreeMap<String, Digest>,
    /// Artefacts of earlier stages.
    inputs: BTreeMap<Stage, BTreeMap<String, Digest>>,
    outputs: BTreeMap<String, Digest>,
}

/// A run folder.
#[derive(Clone, Debug)]
pub struct Run {
    folder: PathBuf,
}

impl Run {
    /// Opens the folder, making it where it is not there yet.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder, "make the run folder"))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Opens a folder that a stage has filled.
    pub fn open(folder: &Path) -> Result<Self> {
        let run = Self { folder: folder.to_owned() };
        if folder.is_dir() { Ok(run) } else { Err(Error::artefact(folder, "no such run folder", run.remedy(Stage::Pretrain))) }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The config of the stage that ran last.
    pub fn config(&self, overrides: &[String]) -> Result<Config> {
        let path = self.folder.join("config.yaml");
        if path.is_file() {
            Config::load(&path, overrides)
        } else {
            Err(Error::artefact(path, "missing", "give a config with `--config FILE`"))
        }
    }

    /// Whether `stage` has left a manifest.
    pub fn has_finished(&self, stage: Stage) -> bool {
        self.manifest_path(stage).is_file()
    }

    /// The config that `stage` ran with.
    pub fn config_of(&self, stage: Stage) -> Result<Config> {
        self.recorded_config(&self.manifest(stage)?)
    }

    /// An artefact of `stage`, if it is there, unchanged, and made from what is still there.
    pub fn require(&self, stage: Stage, name: &str) -> Result<PathBuf> {
        self.check(stage, name).map(|(path, ..)| path)
    }

    /// Writes a file that belongs to no stage.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.path(name)?;
        artefacts::write_atomic(&path, |out| out.write_all(bytes))?;
        Ok(path)
    }

    /// Takes over what `stage` left in another run folder, if it reads from no other stage and its settings were those of
    /// `config`; whether they were.
    pub(crate) fn adopt(&self, stage: Stage, from: &Self, config: &Config) -> Result<bool> {
        let Ok(manifest) = from.manifest(stage) else { return Ok(false) };
        let is_same = from.recorded_config(&manifest).is_ok_and(|made| made.stage_hash(stage) == config.stage_hash(stage));
        if !is_same || !manifest.inputs.is_empty() {
            return Ok(false);
        }
        for name in manifest.outputs.keys() {
            let Ok(found) = from.require(stage, name) else { return Ok(false) };
            let bytes = fs::read(&found).map_err(Error::io(&found, "read"))?;
            self.write(name, &bytes)?;
        }
        let made = from.manifest_path(stage);
        let bytes = fs::read(&made).map_err(Error::io(&made, "read"))?;
        self.write(&format!("manifest-{stage}.json"), &bytes)?;
        Ok(true)
    }

    /// Starts a stage. What it left before stays valid until the first write.
    pub fn begin<'a>(&'a self, stage: Stage, config: &'a Config) -> Result<StageRun<'a>> {
        Ok(StageRun {
            run: self,
            stage,
            config,
            started: false,
            data: BTreeMap::new(),
            inputs: BTreeMap::new(),
            upstream: BTreeMap::new(),
            outputs: BTreeMap::new(),
        })
    }

    fn check(&self, stage: Stage, name: &str) -> Result<(PathBuf, Digest, Manifest)> {
        let manifest = self.manifest(stage)?;
        let path = self.path(name)?;
        let Some(listed) = manifest.outputs.get(name).cloned() else {
            return Err(Error::artefact(path, format!("`{stage}` made no such artefact"), self.remedy(stage)));
        };
        if !path.is_file() {
            return Err(Error::artefact(path, "missing", self.remedy(stage)));
        }
        let found = artefacts::digest(&path)?;
        if found.bytes < listed.bytes {
            let what = format!("truncated: {} bytes of {}", found.bytes, listed.bytes);
            return Err(Error::artefact(path, what, self.remedy(stage)));
        }
        if found != listed {
            return Err(Error::artefact(path, format!("changed since `{stage}` wrote it"), self.remedy(stage)));
        }
        self.check_inputs(&manifest, &path)?;
        Ok((path, listed, manifest))
    }

    /// What the stage was made from must be what the stages before it have now.
    fn check_inputs(&self, manifest: &Manifest, path: &Path) -> Result<()> {
        for (&upstream, inputs) in &manifest.inputs {
            if upstream >= manifest.stage {
                let what = format!("foreign manifest: `{}` does not read from `{upstream}`", manifest.stage);
                return Err(Error::artefact(self.manifest_path(manifest.stage), what, self.remedy(manifest.stage)));
            }
            let now = self.manifest(upstream)?;
            for (name, digest) in inputs {
                if now.outputs.get(name) != Some(digest) {
                    let what = format!("stale: `{upstream}` has made another `{name}` since");
                    return Err(Error::artefact(path, what, self.remedy(manifest.stage)));
                }
            }
            self.check_inputs(&now, path)?;
        }
        Ok(())
    }

    fn manifest(&self, stage: Stage) -> Result<Manifest> {
        let path = self.manifest_path(stage);
        let refuse = |what: String| Error::artefact(&path, what, self.remedy(stage));
        // no more than a manifest can have, should this be a link to something endless
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::artefact(&self.folder, format!("`{stage}` has not finished here"), self.remedy(stage)));
            }
            Err(error) => return Err(Error::io(&path, "read")(error)),
        }
        if bytes.len() as u64 > MAX_BYTES {
            return Err(refuse("larger than 256 KiB, hence no manifest".to_owned()));
        }
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| refuse(format!("not a manifest: {error}")))?;
        if (manifest.kind.as_str(), manifest.version, manifest.stage) != (KIND, VERSION, stage) {
            let (kind, version, stage) = (&manifest.kind, manifest.version, manifest.stage);
            return Err(refuse(format!("foreign manifest: `{kind}` version {version} of `{stage}`")));
        }
        Ok(manifest)
    }

    fn recorded_config(&self, manifest: &Manifest) -> Result<Config> {
        let path = self.manifest_path(manifest.stage);
        // JSON is YAML.
        Config::parse(&manifest.config.to_string(), &path.display().to_string(), &[]).map_err(|_| {
            Error::artefact(path, format!("made by another version ({})", manifest.tool), self.remedy(manifest.stage))
        })
    }

    fn manifest_path(&self, stage: Stage) -> PathBuf {
        self.folder.join(format!("manifest-{stage}.json"))
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        let refuse =
            || Error::artefact(&self.folder, format!("`{name}` lies outside the run folder"), "use a plain relative name");
        let path = artefacts::inside(&self.folder, name).ok_or_else(refuse)?;
        // whoever made the folder chose where its links lead, and a stage writes through them
        if artefacts::leads_out(&self.folder, &path) {
            return Err(Error::artefact(path, "a link that leads out of the run folder", "remove it, or link the whole folder"));
        }
        Ok(path)
    }

    fn remedy(&self, stage: Stage) -> String {
        format!("run `nids-mixer {stage} --config FILE --run {}` first", self.folder.display())
    }
}

/// A stage at work: the only way to write into a run folder.
#[derive(Debug)]
pub struct StageRun<'a> {
    run: &'a Run,
    stage: Stage,
    config: &'a Config,
    /// Whether something has been written, hence what was there before is void.
    started: bool,
    data: BTreeMap<String, Digest>,
    inputs: BTreeMap<Stage, BTreeMap<String, Digest>>,
    upstream: BTreeMap<Stage, Manifest>,
    outputs: BTreeMap<String, Digest>,
}

impl StageRun<'_> {
    /// An artefact of an earlier stage, made with the settings of this config; listed as an input.
    pub fn require(&mut self, producer: Stage, name: &str) -> Result<PathBuf> {
        let (path, digest, manifest) = self.run.check(producer, name)?;
        let made_with = self.run.recorded_config(&manifest)?;
        if let Some(difference) = difference(&made_with.keys_shared_with(producer), &self.config.keys_shared_with(producer)) {
            let remedy = format!("{}, or keep its settings", self.run.remedy(producer));
            return Err(Error::artefact(path, format!("made by another config: {difference}"), remedy));
        }
        self.inputs.entry(producer).or_default().insert(name.to_owned(), digest);
        self.upstream.insert(producer, manifest);
        self.check_data()?;
        Ok(path)
    }

    /// Lists a file from outside the folder as an input; `role` is the key that named it, as `data.train`.
    pub fn input(&mut self, role: &str, path: &Path) -> Result<()> {
        let digest = artefacts::digest(path).map_err(|error| match error {
            Error::Io { source, .. } => Error::reading_data(path, source),
            other => other,
        })?;
        self.data.insert(role.to_owned(), digest);
        self.check_data()
    }

    /// Writes an artefact. `name` may have folders in it: `latents/train.npy`.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        self.write_with(name, |out| out.write_all(bytes))
    }

    /// Writes an artefact piece by piece.
    pub fn write_with(&mut self, name: &str, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<PathBuf> {
        let path = self.run.path(name)?;
        self.start()?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io(folder, "make the folder"))?;
        }
        let digest = artefacts::write_atomic(&path, fill)?;
        self.outputs.insert(name.to_owned(), digest);
        Ok(path)
    }

    /// Appends a line to `metrics.jsonl`: the fields of `line`, which must be a mapping, after the stage.
    ///
    /// # Panics
    /// If `line` does not become a JSON object.
    pub fn log(&mut self, line: &impl Serialize) -> Result<()> {
        #[derive(Serialize)]
        struct Line<'a, T> {
            stage: Stage,
            #[serde(flatten)]
            line: &'a T,
        }
        self.start()?;
        let text = serde_json::to_string(&Line { stage: self.stage, line }).expect("a line of metrics is a mapping");
        artefacts::append_line(&self.run.folder.join("metrics.jsonl"), &text)
    }

    /// Makes what was written real: `config.yaml` and, last, the manifest. `kernels` says who did the sums.
    pub fn finish(mut self, kernels: &str) -> Result<()> {
        self.start()?;
        let yaml = self.config.to_yaml();
        artefacts::write_atomic(&self.run.folder.join("config.yaml"), |out| out.write_all(yaml.as_bytes()))?;
        let manifest = Manifest {
            kind: KIND.to_owned(),
            version: VERSION,
            tool: TOOL.to_owned(),
            stage: self.stage,
            seed: self.config.seed,
            kernels: kernels.to_owned(),
            config_hash: self.config.stage_hash(self.stage),
            config: self.config.to_json(),
            data: self.data,
            inputs: self.inputs,
            outputs: self.outputs,
        };
        artefacts::write_atomic(&self.run.manifest_path(self.stage), |out| {
            serde_json::to_writer_pretty(&mut *out, &manifest)?;
            writeln!(out)
        })?;
        Ok(())
    }

    /// Before the first write: what the stage left earlier no longer counts, nor do its lines of metrics.
    fn start(&mut self) -> Result<()> {
        if self.started {
            return Ok(());
        }
        for name in ["config.yaml", "metrics.jsonl", &format!("manifest-{}.json", self.stage)] {
            self.run.path(name)?;
        }
        artefacts::remove(&self.run.manifest_path(self.stage))?;
        let path = self.run.folder.join("metrics.jsonl");
        if path.is_file() {
            let bytes = fs::read(&path).map_err(Error::io(&path, "read"))?;
            let text = String::from_utf8_lossy(&bytes);
            let is_other = |line: &&str| {
                serde_json::from_str::<Json>(line)
                    .is_ok_and(|line| line.get("stage").is_some_and(|stage| *stage != self.stage.name()))
            };
            let kept: Vec<&str> = text.lines().filter(is_other).collect();
            artefacts::write_atomic(&path, |out| kept.iter().try_for_each(|line| writeln!(out, "{line}")))?;
        }
        self.started = true;
        Ok(())
    }

    /// A data file must have been the same for the stages before.
    fn check_data(&self) -> Result<()> {
        for (role, digest) in &self.data {
            for (&producer, manifest) in &self.upstream {
                if manifest.data.get(role).is_some_and(|before| before != digest) {
                    let what = format!("stale: the file behind `{role}` has changed since `{producer}` ran");
                    return Err(Error::artefact(&self.run.folder, what, self.run.remedy(producer)));
                }
            }
        }
        Ok(())
    }
}

/// "`seed` was 0 and is 1; `model.dim` was 64 and is 32", or nothing where the settings agree.
fn difference(made: &BTreeMap<String, Json>, now: &BTreeMap<String, Json>) -> Option<String> {
    const SHOWN: usize = 4;
    let mut keys: Vec<&String> = made.keys().chain(now.keys()).filter(|key| made.get(*key) != now.get(*key)).collect();
    keys.sort();
    keys.dedup();
    let show = |value: Option<&Json>| value.map_or_else(|| "unset".to_owned(), Json::to_string);
    let mut text = String::new();
    for key in keys.iter().take(SHOWN) {
        let separator = if text.is_empty() { "" } else { "; " };
        let _ = write!(text, "{separator}`{key}` was {} and is {}", show(made.get(*key)), show(now.get(*key)));
    }
    if keys.len() > SHOWN {
        let _ = write!(text, "; and {} more", keys.len() - SHOWN);
    }
    (!keys.is_empty()).then_some(text)
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
