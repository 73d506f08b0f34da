//! Checkpoints, which hold all that a stage needs to go on after a step.
//!
//! In the folder `checkpoints/` of a run folder, a stage has an index, `<stage>.json`, and one safetensors file for each checkpoint
//! that the index lists by content hash. The index is replaced last, by a rename; until then the earlier checkpoints count. A
//! listed file that is missing is no checkpoint. A file that no index lists is removed by the next commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nids_nn::tensor_file::{self, Dtype, NamedTensor, TensorFile};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::artefacts::{self, Digest};
use crate::disk;
use crate::error::{Error, Result};
use nids_config::{CheckpointConfig, Stage};

const KIND: &str = "nids-mixer checkpoints";
const VERSION: u32 = 1;
const FOLDER: &str = "checkpoints";
/// The largest index that is read.
const MAX_BYTES: u64 = 1 << 18;

/// The arithmetic of a stage: its kernels and the order of its sums.
#[derive(Clone, Debug, PartialEq)]
pub struct Arithmetic {
    /// Names of the matrix kernels and of the vector instructions.
    pub kernels: String,
    /// Rows that go through the network at once.
    pub shard: usize,
    /// Gradient buffers summed in order.
    pub groups: usize,
}

/// All that the output of a stage depends on. It must be the same when the stage goes on, so that the stage leaves the same bytes
/// as without a stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Circumstances {
    pub(crate) tool: String,
    /// The settings that the stage's output depends on, by dotted key.
    pub(crate) settings: BTreeMap<String, Json>,
    pub(crate) data: BTreeMap<String, Digest>,
    pub(crate) inputs: BTreeMap<Stage, BTreeMap<String, Digest>>,
    pub(crate) kernels: String,
    /// Rows that go through the network at once.
    pub(crate) shard: usize,
    /// Gradient buffers summed in order.
    pub(crate) groups: usize,
}

impl Circumstances {
    /// A message that says what has changed since `before`.
    pub(crate) fn difference(&self, before: &Self) -> Option<String> {
        // a file is known by its content, which is compared below, not by its name
        let is_data = |key: &str| self.data.contains_key(key) && before.data.contains_key(key);
        if let Some(difference) = difference(&before.settings, &self.settings, is_data) {
            return Some(difference);
        }
        let was = |what: &str, before: &dyn std::fmt::Display, now: &dyn std::fmt::Display| {
            Some(format!("{what} changed from {before} to {now}"))
        };
        if self.tool != before.tool {
            return was("the program", &before.tool, &self.tool);
        }
        if self.data != before.data {
            let differs = |role: &&String| self.data.get(*role) != before.data.get(*role);
            let roles: BTreeSet<&String> = self.data.keys().chain(before.data.keys()).filter(differs).collect();
            let roles: Vec<String> = roles.into_iter().map(|role| format!("`{role}`")).collect();
            return Some(format!("the content of {} has changed", roles.join(", ")));
        }
        if self.inputs != before.inputs {
            return Some("an earlier stage has run again".to_owned());
        }
        if self.kernels != before.kernels {
            return Some(format!("the GEMM backend changed from `{}` to `{}`", before.kernels, self.kernels));
        }
        if self.shard != before.shard {
            return was("the shard", &before.shard, &self.shard);
        }
        (self.groups != before.groups)
            .then(|| format!("the number of gradient groups changed from {} to {}", before.groups, self.groups))
    }
}

/// "`seed` was 0 and is 1; `model.dim` was 64 and is 32", or nothing if the settings agree. Settings with `is_data` name a file whose
/// content is compared instead; they are left out.
pub(crate) fn difference(
    made: &BTreeMap<String, Json>,
    now: &BTreeMap<String, Json>,
    is_data: impl Fn(&str) -> bool,
) -> Option<String> {
    const SHOWN: usize = 4;
    let differs = |key: &&String| made.get(*key) != now.get(*key) && !is_data(key);
    let mut keys: Vec<&String> = made.keys().chain(now.keys()).filter(differs).collect();
    keys.sort();
    keys.dedup();
    let show = |value: Option<&Json>| value.map_or_else(|| "unset".to_owned(), Json::to_string);
    let mut texts: Vec<String> = keys
        .iter()
        .take(SHOWN)
        .map(|key| format!("`{key}` was {} and is {}", show(made.get(*key)), show(now.get(*key))))
        .collect();
    if keys.len() > SHOWN {
        texts.push(format!("and {} more", keys.len() - SHOWN));
    }
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// The step at which a checkpoint was taken, and the score of the run at that step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// The member in training, if there are several independent ones.
    pub member: Option<usize>,
    /// Number of steps taken.
    pub step: u64,
    /// A loss. The checkpoint with the lowest score is kept.
    pub score: Option<f64>,
}

/// The header of a checkpoint's file, which stands before its tensors.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// The state that the training loop needs to go on.
    state: Json,
    /// What the stage had logged, by file: [`crate::log::LogFile::ALL`].
    logs: [Mark; 2],
}

/// The lines that a stage had written to a file when a checkpoint was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    pub(crate) lines: u64,
    pub(crate) content: Digest,
}

/// A checkpoint that was read.
#[derive(Debug)]
pub struct Checkpoint {
    state: Json,
    pub(crate) logs: [Mark; 2],
    tensors: BTreeMap<String, Vec<f32>>,
    path: PathBuf,
}

/// Reads the bytes of a checkpoint's file, or says what is wrong with them. Takes at most twice their size in memory.
pub fn from_bytes(bytes: &[u8], path: &Path) -> std::result::Result<Checkpoint, String> {
    let (Header { state, logs }, tensors) = parse(bytes)?;
    Ok(Checkpoint { state, logs, tensors, path: path.to_owned() })
}

/// Reads an index and returns the files that it lists.
pub fn index_from_bytes(bytes: &[u8]) -> std::result::Result<Vec<String>, String> {
    Ok(parse_index(bytes)?.checkpoints.into_iter().map(|entry| entry.file).collect())
}

fn parse_index(bytes: &[u8]) -> std::result::Result<Index, String> {
    let index: Index = serde_json::from_slice(bytes).map_err(|error| format!("not an index: {error}"))?;
    if (index.kind.as_str(), index.version) == (KIND, VERSION) {
        Ok(index)
    } else {
        Err(format!("foreign index: `{}` version {}", index.kind, index.version))
    }
}

impl Checkpoint {
    /// The error for a checkpoint that does not fit the run.
    pub fn refuse(&self, what: String) -> Error {
        Error::artefact(&self.path, what, AFRESH)
    }

    /// The state that was committed with the checkpoint.
    pub fn state<S: DeserializeOwned>(&self) -> Result<S> {
        serde_json::from_value(self.state.clone()).map_err(|error| self.refuse(format!("its state cannot be read: {error}")))
    }

    /// The state as a text, by which two processes know that they have found the same checkpoint.
    pub(crate) fn state_text(&self) -> String {
        self.state.to_string()
    }

    /// Copies the tensor of that name, which must have the length of `into`.
    pub fn copy(&self, name: &str, into: &mut [f32]) -> Result<()> {
        match self.tensors.get(name) {
            Some(found) if found.len() == into.len() => {
                into.copy_from_slice(found);
                Ok(())
            }
            found => {
                let len = found.map_or(0, Vec::len);
                let what =
                    format!("`{name}` has {len} numbers, the network wants {}: the checkpoint is of another network", into.len());
                Err(self.refuse(what))
            }
        }
    }
}

/// The remedy if no other one applies.
pub(crate) const AFRESH: &str = "`--fresh` starts the stage anew";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    file: String,
    content: Digest,
    step: u64,
    member: Option<usize>,
    /// Whether it was taken by `checkpoint.every`, and not because the run was stopped.
    is_periodic: bool,
    score: Option<f64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    kind: String,
    version: u32,
    circumstances: Circumstances,
    /// The checkpoints, oldest first.
    checkpoints: Vec<Entry>,
}

/// The checkpoints of one stage.
#[derive(Debug)]
pub(crate) struct Store {
    run: PathBuf,
    folder: PathBuf,
    stage: Stage,
    settings: CheckpointConfig,
    circumstances: Circumstances,
    entries: Vec<Entry>,
}

impl Store {
    pub(crate) fn new(run: &Path, stage: Stage, settings: CheckpointConfig, circumstances: Circumstances) -> Self {
        Self { run: run.to_owned(), folder: run.join(FOLDER), stage, settings, circumstances, entries: Vec::new() }
    }

    /// Forgets the checkpoints that were read.
    pub(crate) fn close(&mut self) {
        self.entries.clear();
    }

    /// Reads the index. Returns the circumstances of the unfinished run, if there is one.
    pub(crate) fn open(&mut self) -> Result<Option<Circumstances>> {
        let path = self.place(&index_name(self.stage))?;
        let refuse = |what: String| Error::artefact(&path, what, AFRESH);
        let bytes = match artefacts::read_at_most(&path, MAX_BYTES) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(refuse("it is larger than 256 KiB, the limit for an index".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&path, "read")(error)),
        };
        let index = parse_index(&bytes).map_err(refuse)?;
        self.entries = index.checkpoints;
        Ok(Some(index.circumstances))
    }

    /// The newest checkpoint that is whole. `damaged` is called with an error for each newer one.
    pub(crate) fn latest(&mut self, damaged: &mut dyn FnMut(&str)) -> Result<Checkpoint> {
        while let Some(entry) = self.entries.last() {
            match self.read(entry) {
                Ok(found) => return Ok(found),
                Err(error) => damaged(&error.to_string()),
            }
            self.entries.pop();
        }
        Err(Error::artefact(self.folder.join(index_name(self.stage)), "none of its checkpoints is whole", AFRESH))
    }

    fn read(&self, entry: &Entry) -> Result<Checkpoint> {
        let path = self.place(&entry.file)?;
        let refuse = |what: String| Error::artefact(&path, what, "the checkpoint before it is taken");
        if artefacts::digest(&path)? != entry.content {
            return Err(refuse("changed since it was written".to_owned()));
        }
        let bytes = fs::read(&path).map_err(Error::io(&path, "read"))?;
        from_bytes(&bytes, &path).map_err(refuse)
    }

    /// The path of a file with this name. Refuses names and links that lead out of the run folder.
    fn place(&self, name: &str) -> Result<PathBuf> {
        match artefacts::inside(&self.folder, name) {
            Some(path) if !artefacts::leads_out(&self.run, &path) => Ok(path),
            _ => Err(Error::artefact(&self.folder, format!("`{name}` lies outside the run folder"), AFRESH)),
        }
    }

    /// Writes a checkpoint, which counts once this returns, and removes those that are no longer kept.
    pub(crate) fn commit(
        &mut self,
        at: Position,
        is_periodic: bool,
        state: &impl Serialize,
        logs: [Mark; 2],
        tensors: &[(&str, &[f32])],
    ) -> Result<()> {
        if !self.folder.is_dir() {
            disk::make_folder(&self.folder).map_err(Error::io(&self.folder, "make the folder"))?;
        }
        let Position { member, step, score } = at;
        let member_suffix = member.map_or_else(String::new, |member| format!("-member-{member}"));
        let file = format!("{}{member_suffix}-step-{step}.safetensors", self.stage);
        let header = Header { state: serde_json::to_value(state).expect("plain numbers and names"), logs };
        let bytes = to_bytes(&header, tensors);
        let content = artefacts::write(&self.place(&file)?, |out| out.write_all(&bytes))?;
        let mut entries = self.entries.clone();
        entries.retain(|entry| entry.member == member && entry.step != step); // members before it have finished
        entries.push(Entry { file, content, step, member, is_periodic, score });
        retain(&mut entries, self.settings.keep);
        let index = Index {
            kind: KIND.to_owned(),
            version: VERSION,
            circumstances: self.circumstances.clone(),
            checkpoints: entries.clone(),
        };
        artefacts::write(&self.place(&index_name(self.stage))?, |out| {
            serde_json::to_writer_pretty(&mut *out, &index)?;
            writeln!(out)
        })?;
        self.entries = entries;
        let kept: BTreeSet<&str> = self.entries.iter().map(|entry| entry.file.as_str()).collect();
        remove_files(&self.folder, self.stage, &kept)
    }
}

/// Keeps the last `keep` periodic checkpoints, the newest of all, and the one with the best score.
fn retain(entries: &mut Vec<Entry>, keep: usize) {
    let newest = entries.len() - 1;
    let is_better = |a: Option<f64>, b: Option<f64>| a.is_some_and(|a| b.is_none_or(|b| a < b));
    let best = (0..entries.len()).reduce(|best, i| if is_better(entries[i].score, entries[best].score) { i } else { best });
    let last: Vec<usize> = (0..entries.len()).rev().filter(|&i| entries[i].is_periodic).take(keep).collect();
    let mut i = 0;
    entries.retain(|_| {
        let stays = i == newest || Some(i) == best || last.contains(&i);
        i += 1;
        stays
    });
}

/// Removes the checkpoints of a stage: first the index, then the files.
pub(crate) fn forget(run: &Path, stage: Stage) -> Result<()> {
    let folder = run.join(FOLDER);
    if !folder.is_dir() {
        return Ok(());
    }
    artefacts::remove(&folder.join(index_name(stage)))?;
    remove_files(&folder, stage, &BTreeSet::new())?;
    let _ = fs::remove_dir(&folder); // fails if another stage has checkpoints
    Ok(())
}

fn remove_files(folder: &Path, stage: Stage, kept: &BTreeSet<&str>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let entry = entry.map_err(Error::io(folder, "list"))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let belongs_to_stage = name.strip_prefix(stage.name()).is_some_and(|rest| rest.starts_with('-'));
        if belongs_to_stage && name.ends_with(".safetensors") && !kept.contains(name) {
            artefacts::remove(&entry.path())?;
        }
    }
    Ok(())
}

pub(crate) fn index_name(stage: Stage) -> String {
    format!("{stage}.json")
}

fn to_bytes(header: &Header, tensors: &[(&str, &[f32])]) -> Vec<u8> {
    let header = serde_json::to_string(header).expect("plain numbers and names");
    let tensors = tensors.iter().map(|(name, numbers)| NamedTensor::f32(name, &[numbers.len()], numbers));
    tensor_file::to_bytes(&tensors.collect::<Vec<_>>(), &header)
}

fn parse(bytes: &[u8]) -> std::result::Result<(Header, BTreeMap<String, Vec<f32>>), String> {
    let file = TensorFile::read(bytes).map_err(|error| error.to_string())?;
    let header = file.metadata().ok_or("the header is missing")?;
    let header: Header = serde_json::from_str(header).map_err(|error| format!("invalid header: {error}"))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(format!("`{name}` is {:?}, not F32", view.dtype()));
        }
        let numbers = tensor_file::numbers(&view).collect();
        tensors.insert(name, numbers);
    }
    Ok((header, tensors))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that a lossy conversion to text would change.
    fn state(step: u64) -> BTreeMap<String, f64> {
        [("loss".to_owned(), 0.1 + 0.2), ("kl".to_owned(), 1.0 / 3.0), ("step".to_owned(), step as f64)].into()
    }

    fn at(step: u64, score: Option<f64>) -> Position {
        Position { member: None, step, score }
    }

    fn circumstances() -> Circumstances {
        Circumstances {
            tool: "nids-mixer 0".to_owned(),
            settings: [("seed".to_owned(), Json::from(0))].into(),
            data: BTreeMap::new(),
            inputs: BTreeMap::new(),
            kernels: "tiles".to_owned(),
            shard: 8,
            groups: 2,
        }
    }

    fn store(run: &Path) -> Store {
        Store::new(run, Stage::Pretrain, CheckpointConfig { every: 1, keep: 2 }, circumstances())
    }

    fn overwrite(path: &Path, bytes: &[u8]) {
        artefacts::write_atomic(path, |out| out.write_all(bytes)).unwrap();
    }

    fn commit(store: &mut Store, at: Position, is_periodic: bool) {
        let mark = |lines| Mark { lines, content: Digest { sha256: artefacts::sha256(b"lines"), bytes: 5 } };
        let params = [at.step as f32, f32::NAN];
        store.commit(at, is_periodic, &state(at.step), [mark(7), mark(3)], &[("params", &params), ("m", &[-0.0])]).unwrap();
    }

    fn opened(run: &Path) -> Store {
        let mut store = store(run);
        assert_eq!(store.open().unwrap(), Some(circumstances()));
        store
    }

    #[test]
    fn a_checkpoint_comes_back_to_the_bit() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(store(run.path()).open().unwrap(), None);
        commit(&mut store(run.path()), at(9, Some(0.3)), true);
        let found = opened(run.path()).latest(&mut |what| panic!("{what}")).unwrap();
        assert_eq!(found.state::<BTreeMap<String, f64>>().unwrap(), state(9));
        assert_eq!(found.logs.each_ref().map(|mark| mark.lines), [7, 3]);
        let (mut params, mut m) = ([0.0; 2], [0.0]);
        let found = opened(run.path()).latest(&mut |_| ()).unwrap();
        found.copy("params", &mut params).unwrap();
        found.copy("m", &mut m).unwrap();
        assert_eq!((params.map(f32::to_bits), m[0].to_bits()), ([9.0, f32::NAN].map(f32::to_bits), (-0.0_f32).to_bits()));
        let error = found.copy("params", &mut [0.0; 3]).unwrap_err();
        assert!(error.to_string().contains("`params` has 2 numbers, the network wants 3"), "{error}");
    }

    #[test]
    fn the_last_ones_and_the_best_are_kept() {
        let run = tempfile::tempdir().unwrap();
        let mut store = store(run.path());
        for (step, score, is_periodic) in [(1, 0.5, true), (2, 0.2, true), (3, 0.4, true), (4, 0.3, true), (5, 0.6, false)] {
            commit(&mut store, at(step, Some(score)), is_periodic);
        }
        let steps = |store: &Store| store.entries.iter().map(|entry| entry.step).collect::<Vec<_>>();
        assert_eq!(steps(&store), [2, 3, 4, 5]);
        // the one taken because the run was stopped goes once there is a newer one
        commit(&mut store, at(6, Some(0.6)), true);
        assert_eq!(steps(&store), [2, 4, 6]);
        let mut names: Vec<_> = fs::read_dir(run.path().join(FOLDER)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(
            names,
            ["pretrain-step-2.safetensors", "pretrain-step-4.safetensors", "pretrain-step-6.safetensors", "pretrain.json"]
        );
        forget(run.path(), Stage::Finetune).unwrap();
        assert_eq!(steps(&opened(run.path())), [2, 4, 6]);
        forget(run.path(), Stage::Pretrain).unwrap();
        assert!(!run.path().join(FOLDER).exists());
    }

    #[test]
    fn a_damaged_checkpoint_gives_way_to_the_one_before() {
        let run = tempfile::tempdir().unwrap();
        let mut store = store(run.path());
        commit(&mut store, at(1, None), true);
        commit(&mut store, at(2, None), true);
        let newest = run.path().join(FOLDER).join("pretrain-step-2.safetensors");
        let whole = fs::read(&newest).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for bytes in [&whole[..whole.len() - 1], &flipped, b""] {
            overwrite(&newest, bytes);
            let mut told = 0;
            let found = opened(run.path()).latest(&mut |_| told += 1).unwrap();
            assert_eq!((found.state::<BTreeMap<String, f64>>().unwrap(), told), (state(1), 1));
        }
        fs::remove_file(&newest).unwrap();
        assert_eq!(opened(run.path()).latest(&mut |_| ()).unwrap().state::<BTreeMap<String, f64>>().unwrap(), state(1));
        fs::remove_file(run.path().join(FOLDER).join("pretrain-step-1.safetensors")).unwrap();
        let error = opened(run.path()).latest(&mut |_| ()).unwrap_err();
        assert!(error.to_string().ends_with("none of its checkpoints is whole: `--fresh` starts the stage anew"), "{error}");
    }

    #[test]
    fn an_invalid_index_is_refused() {
        let run = tempfile::tempdir().unwrap();
        commit(&mut store(run.path()), at(1, None), true);
        let path = run.path().join(FOLDER).join(index_name(Stage::Pretrain));
        let whole = fs::read_to_string(&path).unwrap();
        let outside = whole.replace("pretrain-step-1", "../pretrain-step-1");
        for text in ["", "{}", &whole[..whole.len() / 2], &whole.replace("\"version\": 1", "\"version\": 2")] {
            overwrite(&path, text.as_bytes());
            assert_eq!(store(run.path()).open().unwrap_err().exit_code(), 4, "{text}");
        }
        overwrite(&path, outside.as_bytes());
        assert_eq!(opened(run.path()).latest(&mut |_| ()).unwrap_err().exit_code(), 4);
    }

    #[test]
    fn what_changed_is_named() {
        let before = circumstances();
        let change = |change: &dyn Fn(&mut Circumstances)| {
            let mut now = circumstances();
            change(&mut now);
            now.difference(&before).unwrap_or_default()
        };
        assert_eq!(change(&|_| ()), "");
        assert_eq!(change(&|now| now.settings = [("seed".to_owned(), Json::from(1))].into()), "`seed` was 0 and is 1");
        let digest = Digest { sha256: String::new(), bytes: 0 };
        assert_eq!(
            change(&|now| now.data = [("data.train".to_owned(), digest.clone())].into()),
            "the content of `data.train` has changed"
        );
        assert_eq!(change(&|now| now.kernels = "OpenBLAS".to_owned()), "the GEMM backend changed from `tiles` to `OpenBLAS`");
        assert_eq!(change(&|now| now.shard = 4), "the shard changed from 8 to 4");
        assert_eq!(change(&|now| now.groups = 4), "the number of gradient groups changed from 2 to 4");
    }
}
