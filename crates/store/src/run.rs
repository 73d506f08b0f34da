//! The run folder: what each stage leaves for the next, and the manifest that says what made it.
//!
//! `manifest-<stage>.json` lists a stage's outputs and inputs by content. An artefact that no manifest lists does not
//! exist; one whose content differs from the manifest is not used. No times are kept: the same run gives the same bytes.
//! What a stage left stays valid until the same stage has left something new (`staging.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nids_nn::peers::Peers;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::artefacts::{self, Digest};
use crate::checkpoint::{self, AFRESH, Arithmetic, Checkpoint, Circumstances, Mark, Position, Store, difference};
use crate::disk;
use crate::error::{Error, Result};
use crate::export::{self, METRICS_CSV, TENSORBOARD, events_name};
use crate::lock::Lock;
use crate::log::{Line, LogFile, MonitorLine, StageLine};
use crate::progress::{Event, Progress};
use crate::staging::{finished, manifest_name, staged};
use nids_config::{Config, Files, Stage};

const KIND: &str = "nids-mixer stage";
const VERSION: u32 = 1;
const TOOL: &str = concat!("nids-mixer ", env!("CARGO_PKG_VERSION"));
/// A manifest larger than this is some other file.
pub(crate) const MAX_BYTES: u64 = 1 << 18;
/// The tokeniser, an artefact of `pretrain` and of `finetune`.
pub const TOKENISER: &str = "tokeniser.json";
/// The weights that `pretrain` leaves.
pub const PRETRAINED: &str = "pretrained.safetensors";
/// The classifier that `finetune` leaves.
pub const MODEL: &str = "model.safetensors";
/// Keys of the rows that `finetune` has learned from.
pub const TRAINING_ROWS: &str = "training-rows.bin";
/// What `finetune` leaves of the rows that the classifier was trained on, in counts.
pub const PROFILE: &str = "profile.json";
/// Benign training rows that `finetune` leaves, with which alerts are compared.
pub const BACKGROUND: &str = "background.json";
/// What `report` leaves: a page about the run.
pub const REPORT: &str = "report.html";
/// What `calibrate` leaves: the operating point of the classifier.
pub const CALIBRATION: &str = "calibration.json";
/// What `adapt` leaves: how the classifier's probabilities are corrected for another network.
pub const ADAPTATION: &str = "adaptation.json";
/// What `calibrate --score` leaves: what is known of benign flows, with which anomalies are compared.
pub const ANOMALY: &str = "anomaly.json";
/// What stages and commands keep in a run folder beside manifests, and what those list.
const OWN_FILES: [&str; 18] = [
    REPORT,
    METRICS_CSV,
    TRAINING_ROWS,
    ".lock",
    "config.yaml",
    LogFile::Metrics.name(),
    LogFile::Monitor.name(),
    TOKENISER,
    PRETRAINED,
    MODEL,
    PROFILE,
    BACKGROUND,
    "chosen.yaml",
    "sweep.json",
    "sweep.svg",
    CALIBRATION,
    ADAPTATION,
    ANOMALY,
];
const OWN_FOLDERS: [&str; 4] = ["latents", "checkpoints", TENSORBOARD, "cache"];

/// What a stage read and wrote, and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    kind: String,
    version: u32,
    tool: String,
    stage: Stage,
    seed: u64,
    /// The kernels that it ran on.
    kernels: String,
    /// [`Config::stage_hash`].
    config_hash: String,
    /// Every setting; `engine.threads` is 0.
    config: Json,
    /// Data files, by the setting that names them: `data.train`.
    data: BTreeMap<String, Digest>,
    /// Artefacts of earlier stages that it read.
    inputs: BTreeMap<Stage, BTreeMap<String, Digest>>,
    outputs: BTreeMap<String, Digest>,
    /// Missing cells of the rows that were trained on, by feature; features without are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    missing: BTreeMap<String, u64>,
}

/// What a stage does if an earlier run of it was stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// The stage goes on from its last checkpoint, and refuses if settings, data or kernels have changed since.
    #[default]
    Unchanged,
    /// The stage goes on even if these have changed, as long as the network is the same.
    Changed,
    /// The stage goes on if nothing has changed, and otherwise starts anew.
    UnchangedOrFresh,
    /// The stage starts anew.
    Fresh,
}

/// A run folder.
#[derive(Clone, Debug)]
pub struct Run {
    folder: PathBuf,
    resume: Resume,
    peers: Option<Arc<dyn Peers>>,
}

impl Run {
    /// Opens the folder, and makes it if it does not exist.
    pub fn create(folder: &Path) -> Result<Self> {
        disk::make_folder(folder).map_err(Error::io(folder, "make the run folder"))?;
        Ok(Self { folder: folder.to_owned(), resume: Resume::default(), peers: None })
    }

    /// The folder, which need not exist: for those who look and write nothing.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), resume: Resume::default(), peers: None }
    }

    /// The same folder, with another [`Resume`].
    #[must_use]
    pub fn with_resume(self, resume: Resume) -> Self {
        Self { resume, ..self }
    }

    /// The same folder, in which several processes work on one stage. The first one writes, the others read, and all find the same.
    #[must_use]
    pub fn with_peers(self, peers: Arc<dyn Peers>) -> Self {
        Self { peers: Some(peers), ..self }
    }

    /// The processes that work on a stage here, if there are several.
    pub fn peers(&self) -> Option<&Arc<dyn Peers>> {
        self.peers.as_ref()
    }

    /// Whether another process writes what this one would.
    fn follows(&self) -> bool {
        self.peers.as_ref().is_some_and(|peers| !peers.leads())
    }

    /// Waits until all processes are here.
    fn meet(&self) {
        if let Some(peers) = &self.peers {
            peers.meet();
        }
    }

    /// What a stage does if an earlier run of it was stopped here.
    pub fn resume(&self) -> Resume {
        self.resume
    }

    /// Opens a run folder, which must exist.
    pub fn open(folder: &Path) -> Result<Self> {
        let run = Self { folder: folder.to_owned(), resume: Resume::default(), peers: None };
        if folder.is_dir() { Ok(run) } else { Err(Error::artefact(folder, "no such run folder", run.remedy(Stage::Pretrain))) }
    }

    /// The path of the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The config of the stage that ran last.
    pub fn config(&self, overrides: &[String]) -> Result<Config> {
        let found = Stage::ALL.map(|stage| self.find(stage, "config.yaml"));
        let plain = self.folder.join("config.yaml");
        let path = found.into_iter().find(|path| *path != plain).unwrap_or(plain); // one that is committed is the newest
        if path.is_file() {
            Ok(Config::load(&path, overrides)?)
        } else {
            Err(Error::artefact(path, "missing", "give a config with `--config FILE`"))
        }
    }

    /// Whether `stage` has left a manifest.
    pub fn has_finished(&self, stage: Stage) -> bool {
        self.manifest_path(stage).is_file()
    }

    /// Whether `stage` was stopped here and has left a checkpoint.
    pub fn has_checkpoint(&self, stage: Stage) -> bool {
        self.folder.join(checkpoint::index_name(stage)).is_file()
    }

    /// Whether any stage has left a manifest.
    pub(crate) fn has_finished_any(&self) -> bool {
        Stage::ALL.into_iter().any(|stage| self.has_finished(stage))
    }

    /// The data files that the stages have read: the setting that names each, its path, its content where it is the only one.
    pub(crate) fn data(&self) -> Vec<(String, PathBuf, Option<Digest>)> {
        let manifests = Stage::ALL.into_iter().filter_map(|stage| self.manifest(stage).ok());
        let manifest_files = |manifest: Manifest| {
            let keys = self.recorded_config(&manifest).map(|config| config.stage_keys(manifest.stage)).unwrap_or_default();
            let paths = move |(key, digest): (String, Digest)| {
                let paths = keys.get(&key).and_then(files).and_then(|files| files.paths().ok()).unwrap_or_default();
                let digest = Some(digest).filter(|_| paths.len() == 1);
                paths.into_iter().map(move |path| (key.clone(), path, digest.clone())).collect::<Vec<_>>()
            };
            manifest.data.into_iter().flat_map(paths)
        };
        manifests.flat_map(manifest_files).collect()
    }

    /// The name in this folder of a file that only stages write here: one that lies at `place`, or one for which `is` holds.
    pub(crate) fn owned(&self, place: Option<&Path>, is: impl Fn(&Path) -> bool) -> Option<String> {
        let manifests = Stage::ALL.into_iter().flat_map(|stage| [manifest_name(stage), events_name(stage)]);
        let passing = Stage::ALL.into_iter().flat_map(|stage| [staged(stage), finished(stage)]);
        let folders: Vec<String> = OWN_FOLDERS.map(str::to_owned).into_iter().chain(passing).collect();
        let listed = Stage::ALL.into_iter().filter_map(|stage| self.manifest(stage).ok());
        let listed = listed.flat_map(|manifest| manifest.outputs.into_keys());
        let names: Vec<String> = manifests.chain(OWN_FILES.map(str::to_owned)).chain(listed).collect();
        let within = place.and_then(|place| place.strip_prefix(fs::canonicalize(&self.folder).ok()?).ok());
        if let Some(within) = within
            && (folders.iter().any(|folder| within.starts_with(folder)) || names.iter().any(|name| Path::new(name) == within))
        {
            return Some(within.display().to_string());
        }
        let in_folder = |folder: &String| fs::read_dir(self.folder.join(folder)).into_iter().flatten().flatten();
        let in_folders = folders.iter().flat_map(in_folder).map(|entry| entry.path());
        let paths = names.iter().filter_map(|name| artefacts::inside(&self.folder, name));
        let found = paths.chain(in_folders).find(|path| is(path))?;
        Some(found.strip_prefix(&self.folder).unwrap_or(&found).display().to_string())
    }

    /// The config that `stage` ran with.
    pub fn config_of(&self, stage: Stage) -> Result<Config> {
        self.recorded_config(&self.manifest(stage)?)
    }

    /// The content of the data files that `stage` was given by the setting `role`: `data.train`. None if the setting named none.
    pub fn data_of(&self, stage: Stage, role: &str) -> Result<Option<Digest>> {
        Ok(self.manifest(stage)?.data.remove(role))
    }

    /// Whether `stage` has left an artefact of this name: an earlier version may leave fewer.
    pub fn lists(&self, stage: Stage, name: &str) -> Result<bool> {
        Ok(self.manifest(stage)?.outputs.contains_key(name))
    }

    /// The path of an artefact of `stage`. It is refused if it is missing or changed, or if what it was made from has changed.
    pub fn require(&self, stage: Stage, name: &str) -> Result<PathBuf> {
        self.check(stage, name).map(|(path, ..)| path)
    }

    /// The same, with the content that its manifest lists.
    pub fn require_with_digest(&self, stage: Stage, name: &str) -> Result<(PathBuf, Digest)> {
        self.check(stage, name).map(|(path, digest, _)| (path, digest))
    }

    /// The lines of `metrics.jsonl` that `stage` wrote. Lines that were cut short are left out.
    pub fn metrics(&self, stage: Stage) -> Result<Vec<Line>> {
        let path = self.find(stage, LogFile::Metrics.name());
        let text = fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<StageLine<Line>>(line).ok());
        Ok(lines.filter(|line| line.stage == stage).map(|line| line.line).collect())
    }

    /// Writes `metrics.csv` and the event files of TensorBoard, as each stage does at its end. A run that was made before has none.
    pub fn export_metrics(&self) -> Result<()> {
        let mut last = None;
        for stage in Stage::ALL.into_iter().filter(|stage| self.has_finished(*stage)) {
            let path = self.find(stage, LogFile::Metrics.name());
            let log = fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
            let name = events_name(stage);
            let folder = self.path(&name)?;
            disk::make_folder(disk::folder_of(&folder)).map_err(Error::io(&folder, "make the folder of"))?;
            self.write(&name, &export::events(&log, stage))?;
            last = Some(log);
        }
        last.map_or(Ok(()), |log| self.write(METRICS_CSV, &export::csv(&log)).map(drop))
    }

    /// Writes a file that belongs to no stage.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.path(name)?;
        artefacts::write(&path, |out| out.write_all(bytes))?;
        Ok(path)
    }

    /// The content of a file that belongs to no stage; None where there is none.
    ///
    /// # Errors
    /// One of more than `max` bytes, a link that leads out of the folder, or a file that cannot be read.
    pub fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let path = self.folder.join(name);
        if !self.has(name) {
            return Ok(None);
        }
        let found = artefacts::read_at_most(&self.path(name)?, max).map_err(Error::io(&path, "read"))?;
        if found.is_none() {
            let what = format!("larger than {} KiB, the limit for this file", max >> 10);
            return Err(Error::artefact(path, what, "remove it, and run the command that makes it again"));
        }
        Ok(found)
    }

    /// A hash of all that verdicts follow from: what `pretrain` and `finetune` have left, and what `calibrate` and `adapt` have.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn identity(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for stage in [Stage::Pretrain, Stage::Finetune] {
            let path = self.manifest_path(stage);
            if path.is_file() {
                hash.update(stage.name());
                hash.update(artefacts::digest(&path)?.sha256);
            }
        }
        for name in [CALIBRATION, ADAPTATION, ANOMALY] {
            if self.has(name) {
                hash.update(name);
                hash.update(artefacts::digest(&self.path(name)?)?.sha256);
            }
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.folder.join(name)).is_ok()
    }

    /// Removes a file that belongs to no stage. Returns whether it was there.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let is_there = self.has(name);
        artefacts::remove(&self.folder.join(name))?;
        Ok(is_there)
    }

    /// Whether `stage` has finished here with these settings and with data files of the same content. Their names may differ.
    pub fn is_up_to_date(&self, stage: Stage, config: &Config) -> bool {
        let Ok(manifest) = self.manifest(stage) else { return false };
        let Ok(made) = self.recorded_config(&manifest).map(|made| made.stage_keys(stage)) else { return false };
        let now = config.stage_keys(stage);
        let has_settings = difference(&made, &now, |key| manifest.data.contains_key(key)).is_none();
        let is_same = |(role, digest): (&String, &Digest)| {
            let path = now.get(role).and_then(Json::as_str);
            path.is_some_and(|path| artefacts::digest(Path::new(path)).is_ok_and(|now| now == *digest))
        };
        has_settings && manifest.data.iter().all(is_same) && manifest.outputs.keys().all(|name| self.require(stage, name).is_ok())
    }

    /// Copies what `stage` left in another run folder if it is up to date there and was made from no other stage's artefacts.
    /// Returns whether it is there now.
    pub fn adopt(&self, stage: Stage, from: &Self, config: &Config) -> Result<bool> {
        let Ok(manifest) = from.manifest(stage) else { return Ok(false) };
        if !manifest.inputs.is_empty() || !from.is_up_to_date(stage, config) {
            return Ok(false);
        }
        self.clear_staged(stage, &[])?;
        let mut files = vec![(manifest_name(stage), from.manifest_path(stage))];
        for name in manifest.outputs.into_keys() {
            let found = from.require(stage, &name)?;
            files.push((name, found));
        }
        for (name, found) in files {
            let bytes = fs::read(&found).map_err(Error::io(&found, "read"))?;
            self.write_staged(stage, &name, |out| out.write_all(&bytes))?;
        }
        self.commit(stage)?;
        Ok(true)
    }

    /// Locks the folder: until the lock is dropped, no other process writes here. `what` names the command that takes it.
    pub fn lock(&self, what: &str, progress: &mut dyn Progress) -> Result<Lock> {
        for name in [".lock", "checkpoints"] {
            self.path(name)?;
        }
        let lock = Lock::take(&self.folder, what)?;
        if let Some(owner) = &lock.left_by {
            let folder = self.folder.display();
            progress.event(Event::Message(&format!("{folder}: {owner}, was stopped before it had ended")));
        }
        let events = Stage::ALL.map(|stage| disk::folder_of(&self.folder.join(events_name(stage))).to_owned());
        let folders = [self.folder.clone(), self.folder.join("latents"), self.folder.join("checkpoints")];
        for folder in folders.into_iter().chain(events) {
            if !artefacts::leads_out(&self.folder, &folder) {
                artefacts::remove_scratch(&folder)?;
            }
        }
        for stage in Stage::ALL {
            self.path(&staged(stage))?;
            self.settle(stage)?; // killed after its commit, before all was in place
        }
        Ok(lock)
    }

    /// Starts a stage, alone in the folder. What it left before stays valid until [`StageRun::finish`].
    pub fn begin<'a>(&'a self, stage: Stage, config: &'a Config, progress: &mut dyn Progress) -> Result<StageRun<'a>> {
        config.engine.check().map_err(Error::Usage)?;
        if self.follows() {
            self.meet(); // the first process has the lock, and the folder is in order
            return Ok(self.look(stage, config));
        }
        self.check_config_file()?;
        let lock = self.lock(stage.name(), progress)?;
        if Self::replaces_report(stage) && self.has(REPORT) {
            let text =
                format!("{}/{REPORT}: about what `{stage}` replaces: removed when that has finished", self.folder.display());
            progress.event(Event::Message(&text));
        }
        let stage = StageRun { lock: Some(lock), ..self.look(stage, config) };
        self.meet();
        Ok(stage)
    }

    /// Whether the page about the run is about what `stage` leaves.
    fn replaces_report(stage: Stage) -> bool {
        stage != Stage::Encode
    }

    /// Refuses a folder that is not a run folder and has a `config.yaml`, because a stage would overwrite that file.
    fn check_config_file(&self) -> Result<()> {
        let path = self.folder.join("config.yaml");
        let is_of_a_run = [".lock", LogFile::Metrics.name()].iter().any(|name| self.folder.join(name).exists());
        if is_of_a_run || self.has_finished_any() || !path.exists() {
            return Ok(());
        }
        let path = path.display();
        Err(Error::Usage(format!(
            "{path}: the folder is not a run folder, and a stage would overwrite this file: name another folder in `--run`, or \
             rename the file and name it in `--config`"
        )))
    }

    /// A stage that reads what other stages have left and writes nothing.
    pub fn look<'a>(&'a self, stage: Stage, config: &'a Config) -> StageRun<'a> {
        StageRun {
            run: self,
            stage,
            config,
            lock: None,
            started: false,
            again: self.has_finished(stage),
            data: BTreeMap::new(),
            inputs: BTreeMap::new(),
            upstream: BTreeMap::new(),
            outputs: BTreeMap::new(),
            missing: BTreeMap::new(),
            logs: Default::default(),
            checkpoints: None,
        }
    }

    fn check(&self, stage: Stage, name: &str) -> Result<(PathBuf, Digest, Manifest)> {
        let manifest = self.manifest(stage)?;
        let path = self.path(name)?;
        let Some(listed) = manifest.outputs.get(name).cloned() else {
            return Err(Error::artefact(path, format!("`{stage}` made no such artefact"), self.remedy(stage)));
        };
        let path = match self.find(stage, name) {
            found if found == path => path,
            _ => self.path(&format!("{}/{name}", finished(stage)))?,
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

    /// Checks that a stage was made from what the stages before it have now.
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
        let bytes = match artefacts::read_at_most(&path, MAX_BYTES) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(refuse("larger than 256 KiB, the limit for a manifest".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::artefact(&self.folder, format!("`{stage}` has not finished here"), self.remedy(stage)));
            }
            Err(error) => return Err(Error::io(&path, "read")(error)),
        };
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| refuse(format!("not a manifest: {error}")))?;
        if (manifest.kind.as_str(), manifest.version, manifest.stage) != (KIND, VERSION, stage) {
            let (kind, version, stage) = (&manifest.kind, manifest.version, manifest.stage);
            return Err(refuse(format!("foreign manifest: `{kind}` version {version} of `{stage}`")));
        }
        self.recorded_config(&manifest)?;
        Ok(manifest)
    }

    /// The settings that a manifest records. They must have the hash that it records.
    fn recorded_config(&self, manifest: &Manifest) -> Result<Config> {
        let path = self.manifest_path(manifest.stage);
        let refuse = |what: String| Error::artefact(&path, what, self.remedy(manifest.stage));
        let tool = &manifest.tool;
        // JSON is YAML.
        let config = Config::parse(&manifest.config.to_string(), &path.display().to_string(), &[])
            .map_err(|_| refuse(format!("made by another version ({tool})")))?;
        let threads = config.engine.threads;
        if threads != 0 {
            return Err(refuse(format!("foreign manifest: `engine.threads` is {threads}, expected 0")));
        }
        if config.stage_hash(manifest.stage) != manifest.config_hash {
            let what = format!("`config` does not match `config_hash`: edited, or made by another version ({tool})");
            return Err(refuse(what));
        }
        Ok(config)
    }

    fn manifest_path(&self, stage: Stage) -> PathBuf {
        self.find(stage, &manifest_name(stage))
    }

    pub(crate) fn path(&self, name: &str) -> Result<PathBuf> {
        let refuse =
            || Error::artefact(&self.folder, format!("`{name}` lies outside the run folder"), "use a plain relative name");
        let path = artefacts::inside(&self.folder, name).ok_or_else(refuse)?;
        // a stage writes through links, and the folder may come from an attacker
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
    /// None if the stage only reads.
    lock: Option<Lock>,
    /// Whether this run has written anything. What an earlier run left uncommitted is gone then.
    started: bool,
    /// Whether the stage has finished here before, so that this run replaces what it left.
    again: bool,
    data: BTreeMap<String, Digest>,
    inputs: BTreeMap<Stage, BTreeMap<String, Digest>>,
    upstream: BTreeMap<Stage, Manifest>,
    outputs: BTreeMap<String, Digest>,
    missing: BTreeMap<String, u64>,
    /// The lines that this stage has written to each of [`LogFile::ALL`].
    logs: [Lines; 2],
    checkpoints: Option<Store>,
}

/// Lines written so far.
#[derive(Clone, Debug, Default)]
struct Lines {
    n: u64,
    bytes: u64,
    hash: Sha256,
}

impl Lines {
    fn add(&mut self, line: &str) {
        self.n += 1;
        self.bytes += line.len() as u64 + 1;
        self.hash.update(line);
        self.hash.update("\n");
    }

    fn mark(&self) -> Mark {
        let content = Digest { sha256: hex::encode(self.hash.clone().finalize()), bytes: self.bytes };
        Mark { lines: self.n, content }
    }
}

/// The files that a setting names.
fn files(value: &Json) -> Option<Files> {
    serde_json::from_value(value.clone()).ok()
}

impl StageRun<'_> {
    /// The path of an artefact of an earlier stage, which must have been made with the settings of this config. The manifest will
    /// list it as an input.
    pub fn require(&mut self, producer: Stage, name: &str) -> Result<PathBuf> {
        let (path, digest, manifest) = self.run.check(producer, name)?;
        let made_with = self.run.recorded_config(&manifest)?;
        let (made, now) = (made_with.keys_shared_with(producer), self.config.keys_shared_with(producer));
        // a file is known by its content, which `check_data` compares, not by its name
        let is_there = |value: &Json| files(value).is_some_and(|files| files.paths().is_ok());
        let is_data = |key: &str| {
            let was_there = made.get(key).is_some_and(|value| files(value).is_some());
            // labels that came after pretraining on unlabelled rows alone
            let came_later = key == "data.train" && !was_there && manifest.data.contains_key("data.unlabelled");
            (came_later || manifest.data.contains_key(key) && was_there) && now.get(key).is_some_and(is_there)
        };
        if let Some(difference) = difference(&made, &now, is_data) {
            let remedy = format!("{}, or keep its settings", self.run.remedy(producer));
            return Err(Error::artefact(path, format!("made by another config: {difference}"), remedy));
        }
        self.inputs.entry(producer).or_default().insert(name.to_owned(), digest);
        self.upstream.insert(producer, manifest);
        self.check_data()?;
        Ok(path)
    }

    /// Refuses to go on if `pretrain`, from which this stage reads, ran on kernels that round differently from `kernels`, on which
    /// this stage runs: no single machine could then repeat the run.
    pub fn check_kernels(&self, kernels: &str, progress: &mut dyn Progress) -> Result<()> {
        let Some(Manifest { kernels: before, .. }) = self.upstream.get(&Stage::Pretrain) else { return Ok(()) };
        let stage = self.stage;
        if nids_kernels::same_bits(before, kernels) {
            return Ok(());
        }
        if let Resume::Changed | Resume::UnchangedOrFresh = self.run.resume {
            let text = format!("{stage}: goes on although `pretrain` ran on {before} and it runs on {kernels}");
            progress.event(Event::Message(&text));
            return Ok(());
        }
        let what = format!("`pretrain` ran on {before} and `{stage}` would run on {kernels}, which rounds differently");
        let again = self.run.remedy(Stage::Pretrain);
        let remedy =
            format!("{again}, set the `engine.gemm` and `engine.precision` that it had, or go on with `--allow-changes`");
        Err(Error::artefact(&self.run.folder, what, remedy))
    }

    /// The content of the data files that were listed as the input `role`.
    pub fn data_of(&self, role: &str) -> Option<&Digest> {
        self.data.get(role)
    }

    /// The stage.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The run.
    pub fn run(&self) -> &Run {
        self.run
    }

    /// The folder of the run.
    pub fn folder(&self) -> &Path {
        &self.run.folder
    }

    /// Whether another process writes what this one would: what is written here by [`StageRun`] is then dropped.
    pub fn follows(&self) -> bool {
        self.run.follows()
    }

    /// Waits until all processes that work on the stage are here.
    pub fn meet(&self) {
        self.run.meet();
    }

    /// Lists a data file as an input. `role` is the setting that names it: `data.train`.
    pub fn input(&mut self, role: &str, path: &Path) -> Result<()> {
        self.inputs(role, &[path])
    }

    /// Lists several files as one input: they are known by their contents and order.
    ///
    /// # Panics
    /// If there are none.
    pub fn inputs(&mut self, role: &str, paths: &[impl AsRef<Path>]) -> Result<()> {
        let digest = |path: &Path| {
            artefacts::digest(path).map_err(|error| match error {
                Error::Io { source, .. } => Error::reading_data(path, source),
                other => other,
            })
        };
        let digests = paths.iter().map(|path| digest(path.as_ref())).collect::<Result<Vec<Digest>>>()?;
        let digest = match digests.as_slice() {
            [one] => one.clone(),
            several => {
                let list: Vec<&str> = several.iter().map(|digest| digest.sha256.as_str()).collect();
                Digest {
                    sha256: artefacts::sha256(list.join("\n").as_bytes()),
                    bytes: several.iter().map(|digest| digest.bytes).sum(),
                }
            }
        };
        self.data.insert(role.to_owned(), digest);
        self.check_data()
    }

    /// Refuses data files that have changed since this stage last finished: its rows held out may be training rows of now.
    pub fn require_same_data(&self) -> Result<()> {
        let before = self.run.manifest(self.stage)?.data;
        match self.data.iter().find(|(role, digest)| before.get(*role).is_some_and(|before| before != *digest)) {
            Some((role, _)) => {
                let what = format!("stale: the file behind `{role}` has changed since `{}` ran", self.stage);
                Err(Error::artefact(&self.run.folder, what, self.run.remedy(self.stage)))
            }
            None => Ok(()),
        }
    }

    /// Notes in the manifest how many cells of each feature are missing in the rows that are trained on.
    pub fn missing(&mut self, counts: &[(String, usize)]) {
        let some = counts.iter().filter(|(_, n)| *n > 0);
        self.missing = some.map(|(feature, n)| (feature.clone(), *n as u64)).collect();
    }

    /// Writes an artefact, which readers find after [`StageRun::finish`]. `name` may have folders in it: `latents/train.npy`.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_with(name, |out| out.write_all(bytes))
    }

    /// Writes an artefact piece by piece.
    pub fn write_with(&mut self, name: &str, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        self.run.path(name)?;
        if self.follows() {
            return Ok(());
        }
        self.start()?;
        let digest = self.run.write_staged(self.stage, name, fill)?;
        self.outputs.insert(name.to_owned(), digest);
        Ok(())
    }

    /// Appends a line to `metrics.jsonl`. Where the stage has finished before, its old lines stay until its end, and the new ones
    /// are in `staged-<stage>/metrics.jsonl`.
    ///
    /// # Panics
    /// Never: every line becomes a JSON object.
    pub fn log(&mut self, line: &Line) -> Result<()> {
        self.append(LogFile::Metrics, line)
    }

    /// Appends a line to `monitor.jsonl`.
    ///
    /// # Panics
    /// Never: every line becomes a JSON object.
    pub fn log_monitor(&mut self, line: &MonitorLine<'_>) -> Result<()> {
        self.append(LogFile::Monitor, line)
    }

    fn append(&mut self, file: LogFile, line: &impl Serialize) -> Result<()> {
        if self.follows() {
            return Ok(());
        }
        self.start()?;
        let text = serde_json::to_string(&StageLine { stage: self.stage, line }).expect("numbers and texts under names");
        artefacts::append_line(&self.log_path(file), &text)?;
        self.logs[file as usize].add(&text);
        Ok(())
    }

    /// Looks for a run of this stage that was stopped, and goes back to its last checkpoint. All inputs must have been named
    /// before. Refuses where several processes work on the stage and differ in what its output depends on.
    pub fn resume(&mut self, arithmetic: Arithmetic, progress: &mut dyn Progress) -> Result<Option<Checkpoint>> {
        let circumstances = self.circumstances(arithmetic);
        self.agree(&circumstances)?;
        let found = self.find_checkpoint(&circumstances, progress)?;
        let state = found.as_ref().map_or_else(String::new, Checkpoint::state_text);
        if self.share(&state)? != state {
            let what = "this process has found another checkpoint than the first one";
            return Err(Error::artefact(&self.run.folder, what, "give all processes the same run folder, on a shared disk"));
        }
        if let Some(found) = found.as_ref().filter(|_| !self.follows()) {
            self.rewind(found)?;
        }
        self.meet(); // from here on the first process writes
        Ok(found)
    }

    fn circumstances(&self, Arithmetic { kernels, shard, groups }: Arithmetic) -> Circumstances {
        Circumstances {
            tool: TOOL.to_owned(),
            settings: self.config.stage_keys(self.stage),
            data: self.data.clone(),
            inputs: self.inputs.clone(),
            kernels,
            shard,
            groups,
        }
    }

    /// What the first process says.
    fn share(&self, text: &str) -> Result<String> {
        let Some(peers) = &self.run.peers else { return Ok(text.to_owned()) };
        let shared = peers.share(text.as_bytes().to_vec());
        String::from_utf8(shared).map_err(|_| Error::System("what the first process says is not UTF-8".to_owned()))
    }

    /// Refuses what would give other bytes than in the first process.
    fn agree(&self, circumstances: &Circumstances) -> Result<()> {
        let text = serde_json::to_string(circumstances).expect("numbers and texts under names");
        let mut first: Circumstances = serde_json::from_str(&self.share(&text)?)
            .map_err(|error| Error::Usage(format!("the first process is of another version: {error}")))?;
        if nids_kernels::same_bits(&first.kernels, &circumstances.kernels) {
            first.kernels.clone_from(&circumstances.kernels);
        }
        let refuse = |difference| {
            Error::Usage(format!(
                "the processes would not train the same network: from the first one to this one, {difference}: give all of them \
                 the same program, config and data"
            ))
        };
        circumstances.difference(&first).map_or(Ok(()), |difference| Err(refuse(difference)))
    }

    fn find_checkpoint(&mut self, circumstances: &Circumstances, progress: &mut dyn Progress) -> Result<Option<Checkpoint>> {
        let settings = self.config.checkpoint.clone();
        let store = self.checkpoints.insert(Store::new(&self.run.folder, self.stage, settings, circumstances.clone()));
        if self.run.resume == Resume::Fresh {
            return Ok(None);
        }
        let before = match store.open() {
            Ok(None) => return Ok(None),
            Err(Error::Artefact { .. }) if self.run.resume == Resume::UnchangedOrFresh => return Ok(None),
            Ok(Some(before)) => before,
            Err(error) => return Err(error),
        };
        match (circumstances.difference(&before), self.run.resume) {
            (Some(_), Resume::UnchangedOrFresh) => {
                store.close();
                return Ok(None);
            }
            (Some(difference), Resume::Changed) => {
                progress.event(Event::Message(&format!("{}: goes on although {difference}", self.stage)));
            }
            (Some(difference), _) => {
                let what = format!("`{}` was stopped here before its end, and since then {difference}", self.stage);
                let remedy =
                    format!("undo the change to go on from where it was, {AFRESH}, `--allow-changes` goes on as it is now");
                return Err(Error::artefact(&self.run.folder, what, remedy));
            }
            (None, _) => {}
        }
        store.latest(&mut |damaged| progress.event(Event::Message(&format!("warning: {damaged}")))).map(Some)
    }

    /// Saves what is needed to go on from here. `is_periodic` if it is the step for a checkpoint, not if the run was stopped.
    ///
    /// # Panics
    /// If [`StageRun::resume`] has not been called.
    pub fn checkpoint(
        &mut self,
        at: Position,
        is_periodic: bool,
        state: &impl Serialize,
        tensors: &[(&str, &[f32])],
    ) -> Result<()> {
        if self.follows() {
            return Ok(());
        }
        self.start()?;
        self.sync_logs()?;
        let logs = self.logs.each_ref().map(Lines::mark);
        let store = self.checkpoints.as_mut().expect("`resume` comes first");
        store.commit(at, is_periodic, state, logs, tensors)
    }

    /// Number of steps between checkpoints.
    pub fn checkpoint_every(&self) -> u64 {
        self.config.checkpoint.every
    }

    /// Takes back the lines that were logged after a checkpoint.
    fn rewind(&mut self, to: &Checkpoint) -> Result<()> {
        self.check_folder()?;
        let mut kept = Vec::with_capacity(LogFile::ALL.len());
        for (file, mark) in LogFile::ALL.into_iter().zip(&to.logs) {
            kept.push(self.keep_lines(file, mark.lines)?);
            if self.logs[file as usize].mark() != *mark {
                let what = format!("lines that `{}` wrote are missing or changed", self.stage);
                return Err(Error::artefact(self.log_path(file), what, format!("restore the file; {AFRESH}")));
            }
        }
        let kept_files: &[&str] = if self.again { &LogFile::ALL.map(LogFile::name) } else { &[] };
        self.run.clear_staged(self.stage, kept_files)?;
        for (file, kept) in LogFile::ALL.into_iter().zip(kept) {
            self.write_log(file, &kept)?;
        }
        self.started = true;
        Ok(())
    }

    /// The lines of other stages and the first `n` of this one, which then count as written; nothing if there is no file.
    fn keep_lines(&mut self, file: LogFile, n: u64) -> Result<String> {
        let lines = read_lines(&self.log_path(file))?;
        let written = &mut self.logs[file as usize];
        *written = Lines::default();
        let mut kept = String::new();
        for (stage, line) in &lines {
            if stage == self.stage.name() {
                if written.n == n {
                    continue;
                }
                written.add(line);
            }
            kept.extend([line, "\n"]);
        }
        Ok(kept)
    }

    /// The lines of other stages from the log in place, then those of this one.
    fn merged_log(&self, file: LogFile) -> Result<String> {
        let others = read_lines(&self.run.folder.join(file.name()))?;
        let own = read_lines(&self.log_path(file))?;
        let others = others.iter().filter(|(stage, _)| stage != self.stage.name());
        let own = own.iter().filter(|(stage, _)| stage == self.stage.name());
        Ok(others.chain(own).flat_map(|(_, line)| [line, "\n"]).collect())
    }

    fn write_log(&self, file: LogFile, text: &str) -> Result<()> {
        let fill = |out: &mut dyn Write| out.write_all(text.as_bytes());
        if self.again {
            self.run.write_staged(self.stage, file.name(), fill).map(drop)
        } else {
            artefacts::write(&self.log_path(file), fill).map(drop)
        }
    }

    /// Syncs the lines written so far, because the next checkpoint or commit counts them.
    fn sync_logs(&self) -> Result<()> {
        for file in LogFile::ALL {
            let path = self.log_path(file);
            disk::sync_appended(&path).map_err(Error::io(&path, "write"))?;
        }
        Ok(())
    }

    fn log_path(&self, file: LogFile) -> PathBuf {
        let name = file.name();
        if self.again { self.run.staged(self.stage, name) } else { self.run.folder.join(name) }
    }

    /// Commits everything that the stage wrote, together with `config.yaml` and the manifest. `kernels` names the kernels that it
    /// ran on.
    pub fn finish(mut self, kernels: &str) -> Result<()> {
        if self.follows() {
            return Ok(());
        }
        self.start()?;
        if self.again {
            for file in LogFile::ALL {
                self.write_log(file, &self.merged_log(file)?)?;
            }
        } else {
            self.sync_logs()?;
        }
        let log = self.merged_log(LogFile::Metrics)?;
        for (name, content) in [(METRICS_CSV, export::csv(&log)), (&events_name(self.stage), export::events(&log, self.stage))] {
            self.run.write_staged(self.stage, name, |out| out.write_all(&content))?;
        }
        let yaml = self.config.without_threads().to_yaml();
        self.run.write_staged(self.stage, "config.yaml", |out| out.write_all(yaml.as_bytes()))?;
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
            missing: self.missing,
        };
        self.run.write_staged(self.stage, &manifest_name(self.stage), |out| {
            serde_json::to_writer_pretty(&mut *out, &manifest)?;
            writeln!(out)
        })?;
        if Run::replaces_report(self.stage) {
            self.run.remove(REPORT)?;
        }
        self.run.commit(self.stage)
    }

    /// Called before every write: the folder must be the one that was locked.
    fn check_folder(&self) -> Result<()> {
        self.lock.as_ref().expect("a stage that only reads does not write").check()
    }

    /// Called before every write. The first one removes what a stopped run of the stage has left.
    fn start(&mut self) -> Result<()> {
        self.check_folder()?;
        if self.started {
            return Ok(());
        }
        for name in LogFile::ALL.map(LogFile::name).into_iter().chain(["config.yaml", &manifest_name(self.stage)]) {
            self.run.path(name)?;
        }
        checkpoint::forget(&self.run.folder, self.stage)?;
        self.run.clear_staged(self.stage, &[])?;
        // makes the files, so that lines appended later need only a sync of the file
        for file in LogFile::ALL {
            let kept = self.keep_lines(file, 0)?;
            self.write_log(file, &kept)?;
        }
        self.started = true;
        Ok(())
    }

    /// Checks that the stages before this one read the same data files.
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

/// The complete lines of a log, each with its stage; none if there is no file.
fn read_lines(path: &Path) -> Result<Vec<(String, String)>> {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(path, "read")(error)),
    };
    Ok(text.lines().filter_map(|line| Some((stage_of(line)?, line.to_owned()))).collect())
}

/// The stage that wrote a line; none if the line was cut short.
fn stage_of(line: &str) -> Option<String> {
    serde_json::from_str::<Json>(line).ok()?.get("stage")?.as_str().map(ToOwned::to_owned)
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
