//! A function for each kind of file that comes from outside: it reads any bytes as such a file, and what must hold whatever they
//! are. No panic, no more memory than [`allowed`], and what was accepted can be used, written and read again.
//!
//! The fuzz targets call these, and so do the tests of `tests/untrusted`, of which this file is a module, too.

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use ndarray::{Ix1, Ix2, Ix3};
use nids_config::{Config, Stage};
use nids_detect::anomaly::Reference;
use nids_detect::background::Background;
use nids_detect::operation::{Adaptation, Calibration, Operation};
use nids_detect::profile::{FeatureBins, Profile};
use nids_eval::anomaly::{fused, squashed};
use nids_eval::drift::{mixture_share, psi, psi_of_mixture};
use nids_eval::operating::CONFIDENCE;
use nids_flows::{
    Classes, FlowReader, Flows, Ids, KnownRows, Lines, ProposalOptions, ReadOptions, Schema, Tokeniser, propose, write_csv,
};
use nids_interop::import as checkpoint;
use nids_nn::{Linear, ParamTable, weights as safetensors};
use nids_pipeline::commands::{self, PredictOptions, QueryOptions};
use nids_pipeline::stages;
use nids_store::artefacts::{Digest, sha256};
use nids_store::progress::Silent;
use nids_store::{Run, checkpoint as saved, npy as arrays, parts};
use peak_alloc::PeakAlloc;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that reading a file may allocate.
pub fn allowed(file: usize) -> usize {
    2 * file + (64 << 20)
}

/// Runs `read` and returns the most bytes that were allocated meanwhile.
///
/// # Panics
/// If `read` does, or if it allocates more than a file of this size may.
pub fn bounded(file: usize, read: impl FnOnce()) -> usize {
    within(allowed(file), read)
}

/// The same with another limit.
///
/// # Panics
/// If `read` does, or if it allocates more.
pub fn within(allowed: usize, read: impl FnOnce()) -> usize {
    // one at a time: the count is of the whole process
    static ONE: Mutex<()> = Mutex::new(());
    static LAST_PANIC: Mutex<String> = Mutex::new(String::new());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    // decoders that panic are caught, and what a backtrace takes is no memory of theirs
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(|panic| *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string()));
    let result = std::panic::catch_unwind(AssertUnwindSafe(read));
    std::panic::set_hook(report);
    assert!(result.is_ok(), "{}", LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner));
    let peak = MEMORY.peak_usage().saturating_sub(before);
    assert!(peak <= allowed, "{peak} bytes allocated, at most {allowed} wanted");
    peak
}

/// Three features, an id, a label and a category: what the data files of these tests hold.
pub const SCHEMA: &str = "name: toy
id: id
columns:
  - { name: id, kind: ignored }
  - { name: rate, kind: numeric }
  - { name: size, kind: numeric }
  - { name: proto, kind: categorical }
  - { name: kind, kind: category }
  - { name: label, kind: label }
";

/// Flows of that schema.
pub const FLOWS: &str = "id,rate,size,proto,kind,label
1,0.5,10,tcp,,0
2,3e4,-1,udp,\"a, b\",1
3,0,255,tcp,c,1
4,1e-300,1e30,-,,0
";

static TOY: LazyLock<Schema> = LazyLock::new(|| Schema::parse("toy", SCHEMA).expect("a schema"));
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    // in memory where that is possible: a target writes a file each time
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.expect("a scratch folder")
});

#[allow(clippy::disallowed_methods, reason = "half a file in a scratch folder harms nobody")]
fn scratch(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.path().join(name);
    fs::write(&path, bytes).expect("a file in a scratch folder");
    path
}

/// Weights: a network of two maps takes all of them, or those of its encoder.
pub fn weights(bytes: &[u8]) {
    static TABLE: LazyLock<ParamTable> = LazyLock::new(|| {
        let mut table = ParamTable::default();
        Linear::new(&mut table.root().at("encoder").at("proj"), 3, 5);
        Linear::new(&mut table.root().at("head"), 5, 2);
        table
    });
    let table = &*TABLE;
    bounded(bytes.len(), || {
        let _ = safetensors::metadata(bytes);
        let mut params = table.zeros::<f32>();
        let _ = safetensors::load(table, &["encoder."], bytes, &mut params);
        if safetensors::load(table, &[""], bytes, &mut params).is_ok() {
            assert!(params.iter().all(|value| value.is_finite()));
            let mut again = table.zeros::<f32>();
            safetensors::load(table, &[""], &safetensors::to_bytes(table, &params, ""), &mut again).expect("just written");
            assert_eq!(*params, *again);
        }
    });
}

/// Latents, labels and row numbers.
pub fn npy(bytes: &[u8]) {
    let path = Path::new("x.npy");
    bounded(bytes.len(), || {
        if let Ok(array) = arrays::from_bytes::<f32, Ix2>(bytes, path) {
            let mut out = Vec::new();
            arrays::write(&array, &mut out).expect("memory takes all");
            let again = arrays::from_bytes::<f32, Ix2>(&out, path).expect("just written");
            assert!(array.shape() == again.shape() && array.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
        let _ = arrays::from_bytes::<f32, Ix3>(bytes, path);
        let _ = arrays::from_bytes::<u8, Ix1>(bytes, path);
        let _ = arrays::from_bytes::<u32, Ix1>(bytes, path);
    });
}

/// `tokeniser.json`: one that is accepted encodes flows as finite numbers.
pub fn tokeniser(bytes: &[u8]) {
    static ROWS: LazyLock<Flows> = LazyLock::new(|| {
        nids_flows::read(&scratch("flows.csv", FLOWS.as_bytes()), &TOY, &ReadOptions::labelled()).expect("these are flows")
    });
    let rows = &*ROWS;
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    bounded(bytes.len(), || {
        let Ok(tokeniser) = Tokeniser::from_json(text) else { return };
        assert_eq!(Tokeniser::from_json(&tokeniser.to_json()).expect("just written"), tokeniser);
        let Ok(encoded) = tokeniser.tokenise(rows) else { return };
        for (token, spec) in tokeniser.tokens().iter().enumerate() {
            let mut out = vec![f32::NAN; spec.width];
            for row in 0..encoded.n_rows() {
                encoded.expand(row, token, &mut out);
                assert!(encoded.target(row, token).is_finite() && out.iter().all(|value| value.is_finite()), "{out:?}");
            }
        }
    });
}

/// `calibration.json`, `adaptation.json` and `anomaly.json`: what is accepted gives probabilities, scores and p-values, and is the same
/// when written and read again.
pub fn operation(bytes: &[u8]) {
    const FEATURES: usize = 6;
    bounded(bytes.len(), || {
        let mut operation = Operation::default();
        if let Ok(found) = Calibration::from_bytes(bytes) {
            assert_eq!(Calibration::from_bytes(&found.to_bytes()).expect("just written"), found);
            assert!(
                found.prior().is_none_or(|prior| (0.0..=1.0).contains(&prior) || found.rows.benign + found.rows.attacks == 0)
            );
            operation.calibration = Some((found, Digest { sha256: sha256(bytes), bytes: bytes.len() as u64 }));
        }
        if let Ok(found) = Adaptation::from_bytes(bytes, FEATURES) {
            assert_eq!(Adaptation::from_bytes(&found.to_bytes(), FEATURES).expect("just written"), found);
            operation.adaptation = Some(found);
        }
        assert!(operation.point().threshold().is_none_or(|threshold| (0.0..=1.0).contains(&threshold)));
        for score in [0.0, f32::MIN_POSITIVE, 0.3, 1.0] {
            for value in [f32::NAN, -1e6, 0.0, 3.0] {
                let probability = operation.probability(score, |_| value);
                assert!((0.0..=1.0).contains(&probability), "{probability}");
                let p_value = operation.benign().map_or(1.0, |benign| benign.p_value(probability));
                assert!(p_value > 0.0 && p_value <= 1.0, "{p_value}");
            }
        }
        anomaly(bytes);
        if let Some(Ok(certified)) = operation.benign().map(|benign| benign.certified(0.1, CONFIDENCE)) {
            assert!(certified.bound <= 0.1 && (0.0..=1.0).contains(&certified.threshold), "{certified:?}");
        }
    });
}

fn anomaly(bytes: &[u8]) {
    let Ok(found) = Reference::from_bytes(bytes, 3) else { return };
    assert_eq!(Reference::from_bytes(&found.to_bytes(), 3).expect("just written"), found);
    for loss in [f32::NAN, 0.0, 7.0, f32::MAX] {
        let score = found.usual.anomaly(&[loss; 3]).score;
        let p_value = found.benign.p_value(squashed(score));
        assert!(!score.is_nan() && p_value > 0.0 && p_value <= 1.0, "{score} {p_value}");
        if let Some(fusion) = &found.fusion {
            let both = fused(fusion.attack.surprise(-3.0), fusion.anomaly.surprise(score));
            assert!(!both.is_nan() && (0.0..=1.0).contains(&squashed(both)), "{both}");
        }
    }
    assert!((0.0..=1.0).contains(&found.benign.conformal_threshold(0.01)) || found.benign.n() > 0);
}

/// `training-rows.bin`: what is accepted is the same when written again.
pub fn rows(bytes: &[u8]) {
    bounded(bytes.len(), || {
        if let Ok(known) = KnownRows::from_bytes(bytes) {
            assert_eq!(known.to_bytes(), bytes);
            assert!(known.is_empty() || known.len() == bytes.len() / 8 - 1);
        }
    });
}

/// `profile.json`: what is accepted has as many counts as bins, compares with itself, and is the same when written and read again.
pub fn profile(bytes: &[u8]) {
    bounded(bytes.len(), || {
        let Ok(found) = Profile::from_bytes(bytes) else { return };
        assert_eq!(Profile::from_bytes(&found.to_bytes()).expect("just written"), found);
        for feature in &found.features {
            for counts in [&feature.all, &feature.benign, &feature.attacks] {
                assert_eq!(counts.len(), feature.bins.n_counts());
                let _ = psi(counts, &feature.all);
            }
            if let FeatureBins::Numbers(bins) = &feature.bins {
                assert_eq!(bins.counts(&[f64::NAN, f64::NEG_INFINITY, 0.0, 1e9, f64::INFINITY]).iter().sum::<u64>(), 5);
            }
        }
        let scores = [&found.scores.benign[..], &found.scores.attacks];
        if let Some(share) = mixture_share(scores, &found.scores.benign) {
            assert!((0.0..=1.0).contains(&share), "{share}");
            let found = psi_of_mixture(&[(1.0 - share, scores[0]), (share, scores[1])], scores[0]);
            assert!(found.is_none_or(|found| found.psi.is_finite() && found.noise.is_finite()), "{found:?}");
        }
    });
}

/// `background.json`: what is accepted is the same when written and read again, and has each feature in one group.
pub fn background(bytes: &[u8]) {
    bounded(bytes.len(), || {
        let Ok(found) = Background::from_bytes(bytes) else { return };
        assert_eq!(Background::from_bytes(&found.to_bytes()).expect("just written"), found);
        assert_eq!(found.groups.concat().len(), found.features.len());
        assert!(found.n_rows() as u64 <= found.benign);
    });
}

/// A config, and after each NUL an override as of `--set`.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.split('\0');
    let text = parts.next().unwrap_or_default();
    let overrides: Vec<String> = parts.map(str::to_owned).collect();
    bounded(bytes.len(), || match Config::parse(text, "c.yaml", &overrides) {
        Ok(config) => {
            let again = Config::parse(&config.to_yaml(), "again.yaml", &[]).expect("just written");
            assert_eq!(config, again);
            for stage in Stage::ALL {
                assert_eq!(config.stage_hash(stage), again.stage_hash(stage));
            }
        }
        Err(error) => assert!(error.0.iter().all(|problem| !problem.message.is_empty())),
    });
}

/// A schema.
pub fn schema(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    bounded(bytes.len(), || {
        if let Ok(schema) = Schema::parse("s.yaml", text) {
            let json = serde_json::to_string(&schema).expect("names and kinds");
            assert_eq!(serde_json::from_str::<Schema>(&json).expect("just written"), schema);
        }
    });
}

/// Flows as text: what was read is read again when it is written.
pub fn csv(bytes: &[u8]) {
    flows("toy.csv", bytes);
}

/// Objects of JSON, and lists of them.
pub fn json(bytes: &[u8]) {
    flows("toy.json", bytes);
}

/// Logs of Zeek.
pub fn zeek(bytes: &[u8]) {
    flows("toy.log", bytes);
}

/// Logs of any kind as `watch` follows them: every line is a flow, cannot be read, or is passed over.
pub fn watch(bytes: &[u8]) {
    let path = scratch("watched.log", bytes);
    bounded(bytes.len(), || {
        if let Ok([lines, flows, rejected, passed]) = commands::watched_lines(&path, &TOY) {
            assert_eq!(lines, flows + rejected + passed);
        }
    });
}

/// Streams and files of Arrow.
pub fn arrow(bytes: &[u8]) {
    flows("toy.arrow", bytes);
}

/// Texts that are compressed, or not UTF-8.
pub fn coded(bytes: &[u8]) {
    flows("toy.gz", bytes);
}

/// A file of which nothing is known: the schema that is proposed for it is one, and reads it or says why not.
pub fn proposal(bytes: &[u8]) {
    let path = scratch("unknown", bytes);
    bounded(bytes.len(), || {
        let Ok(proposal) = propose(std::slice::from_ref(&path), &ProposalOptions::default()) else { return };
        let schema = Schema::parse("proposed", &proposal.yaml).expect("a proposal is a schema");
        let Ok(mut reader) = FlowReader::open(&[&path], &schema, &ReadOptions::default()) else { return };
        let _ = reader.next_batch(64);
    });
}

/// Flows in columns. What does not start as Parquet does is read as text.
pub fn parquet(bytes: &[u8]) {
    flows("toy.parquet", bytes);
}

fn flows(name: &str, bytes: &[u8]) {
    const BATCH: usize = 64;
    const BATCHES: usize = 64;
    let path = scratch(name, bytes);
    let (_, _) = (&*TOY, &*FOLDER);
    bounded(bytes.len(), || {
        let numbered = ReadOptions { ids: Ids::Row, ..ReadOptions::default() };
        let Ok(mut reader) = FlowReader::open(&[&path], &TOY, &numbered) else { return };
        let mut n_rows = 0;
        // a column of one value may have any number of rows in a few bytes
        for _ in 0..BATCHES {
            let Ok(found) = reader.next_batch(BATCH) else { break };
            let Some(flows) = found else {
                accounted(bytes, n_rows, reader.lines());
                break;
            };
            assert!(!flows.is_empty() && flows.len() <= BATCH);
            n_rows += flows.len() as u64;
            let mut text = Vec::new();
            write_csv(&flows, &mut text).expect("memory takes all");
            match nids_flows::read(&scratch("again.csv", &text), &TOY, &ReadOptions::default()) {
                Ok(again) => assert_eq!(flows.fingerprint(), again.fingerprint()),
                // with other columns beside it, a text of several lines may look like rows
                Err(error) => assert!(text_lines(&text) > flows.len() as u64 + 1, "just written: {error}"),
            }
        }
    });
}

/// Every line of CSV is the header, a row, blank, a comment, a total, or inside of a quoted field.
fn accounted(bytes: &[u8], n_rows: u64, lines: Option<&Lines>) {
    let Some(lines) = lines else { return };
    assert_eq!(lines.rows, n_rows);
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let begins = |starts: &[&[u8]]| starts.iter().any(|start| text.starts_with(start));
    if begins(&[b"{", b"[", b"#separator", b"#SEPARATOR", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"\xfe\xff"]) {
        return;
    }
    let header = lines.total - (lines.rows + lines.blank + lines.comments + lines.headers + lines.totals + lines.quoted);
    assert!(header <= 1);
    assert_eq!(lines.total, text_lines(bytes));
    assert_eq!(lines.quoted == 0, lines.first_quoted.is_none());
}

/// Lines as an editor counts them.
fn text_lines(bytes: &[u8]) -> u64 {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let ends = (0..text.len()).filter(|&at| text[at] == b'\r' || text[at] == b'\n' && (at == 0 || text[at - 1] != b'\r')).count();
    ends as u64 + u64::from(text.last().is_some_and(|byte| !matches!(byte, b'\r' | b'\n')))
}

/// A checkpoint of the predecessor: what comes out is a file of weights.
pub fn import(bytes: &[u8]) {
    bounded(bytes.len(), || {
        let mut out = Vec::new();
        if checkpoint::from_bytes(bytes, Path::new("x.npy"), &mut out).is_ok() {
            assert!(safetensors::metadata(&out).expect("just written").is_some());
        } else {
            assert!(out.is_empty());
        }
    });
}

/// A manifest, in a run folder that has one artefact.
pub fn manifest(bytes: &[u8]) {
    static RUN: LazyLock<Run> = LazyLock::new(|| {
        scratch("weights", b"w");
        Run::open(FOLDER.path()).expect("a folder")
    });
    scratch("manifest-pretrain.json", bytes);
    let run = &*RUN;
    bounded(bytes.len(), || {
        let Ok(config) = run.config_of(Stage::Pretrain) else { return };
        for name in ["weights", "../weights", "/etc/hostname", "toy.csv"] {
            if let Ok(path) = run.require(Stage::Pretrain, name) {
                assert!(path.starts_with(run.folder()));
            }
        }
        let mut stage = run.begin(Stage::Finetune, &config, &mut Silent).expect("begins");
        let _ = stage.require(Stage::Pretrain, "weights");
    });
}

/// The manifest of a part of verdicts: what is accepted names files of the part alone, and is the same when written and read again.
pub fn part(bytes: &[u8]) {
    scratch("part-00000-of-00002.json", bytes);
    bounded(bytes.len(), || {
        drop(parts::all(FOLDER.path()));
        let Ok(Some(found)) = parts::read(FOLDER.path(), 0, 2) else { return };
        assert!(found.files.keys().all(|name| name.starts_with("part-00000-of-00002.") && !name.contains('/')));
        let folder = tempfile::tempdir().expect("a folder");
        found.write(folder.path()).expect("written");
        assert_eq!(parts::read(folder.path(), 0, 2).expect("just written"), Some(found));
    });
}

/// What a stopped stage goes on from: a checkpoint, or the index that lists some.
pub fn stopped(bytes: &[u8]) {
    bounded(bytes.len(), || {
        drop(saved::from_bytes(bytes, Path::new("x.safetensors")));
        drop(saved::index_from_bytes(bytes));
    });
}

/// A run folder with other settings than it was trained with, all of whose manifest fits: the classifier gives verdicts, or there
/// is an error.
#[derive(Debug, Default)]
pub struct Folder<'f> {
    /// As of `--set`; those that are none of a config are not tried.
    pub settings: Vec<String>,
    /// Whether the weights are those of the network that the settings describe, too. Not those of a large one.
    pub fits: bool,
    /// So many categories in the metadata of such weights, where the settings want any.
    pub classes: usize,
    /// Instead of that of the run.
    pub tokeniser: Option<&'f Tokeniser>,
    /// Instead of a few rows.
    pub data: Option<&'f Path>,
}

/// A classifier that was trained here, and what its folder holds.
struct Trained {
    run: Run,
    config: Config,
    manifest: Json,
    tokeniser: Tokeniser,
    model: Vec<u8>,
}

static TRAINED: LazyLock<Trained> = LazyLock::new(|| {
    let text = "name: fuzz
data: { synthetic: { rows: 60, unlabelled_rows: 0 } }
tokeniser: { bins: 2, min_count: 2 }
model: { dim: 4, depth: 1, n_registers: 1, token_expansion: 0.1 }
engine: { gemm: tiles }
finetune: { from: scratch, steps: 1, batch_size: 8 }
";
    let config = Config::parse(text, "fuzz.yaml", &[]).expect("a config");
    let run = Run::create(&FOLDER.path().join("run")).expect("a folder");
    stages::finetune(&config, &run, &mut Silent).expect("it trains");
    let read = |name: &str| fs::read(run.folder().join(name)).expect("the stage wrote it");
    let manifest = serde_json::from_slice(&read("manifest-finetune.json")).expect("a manifest");
    let tokeniser = String::from_utf8(read("tokeniser.json")).expect("JSON");
    let tokeniser = Tokeniser::from_json(&tokeniser).expect("a tokeniser");
    let model = read("model.safetensors");
    let mut rows = Vec::new();
    commands::synth(8, 2, &mut rows).expect("memory takes all");
    scratch("rows.csv", &rows);
    Trained { run, config, manifest, tokeniser, model }
});

impl Folder<'_> {
    /// Bytes that verdicts may take, given the sizes of the files that they are made of: the weights a few times over, and for each
    /// worker tokens that these account for.
    fn allowed(files: usize) -> usize {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (64 << 20) + workers * (32 << 20) + (4 + 8 * workers) * files
    }

    /// Whether there were verdicts.
    ///
    /// # Panics
    /// If memory does not follow the files, or if there are verdicts on other rows than there are.
    pub fn check(&self) -> bool {
        let trained = &*TRAINED;
        let Ok(config) = Config::parse(&trained.config.to_yaml(), "edited", &self.settings) else { return false };
        let tokeniser = self.tokeniser.unwrap_or(&trained.tokeniser);
        let names: Vec<String> = (0..self.classes.max(2)).map(|class| format!("{class:05}")).collect();
        let classes: Option<Classes> = serde_json::from_value(json!({ "names": names, "normal": 0 })).ok();
        let mut model = trained.model.clone();
        if let (true, Some(classes)) = (self.fits, classes) {
            let table = nids_detect::parameters(&config, tokeniser, Some(&classes));
            if let Ok(table) = table
                && table.n_params() < 1 << 20
                && table.specs().len() < 8192
            {
                let metadata = json!({ "kind": "classifier", "classes": classes }).to_string();
                model = safetensors::to_bytes(&table, &table.init::<f32>(1), &metadata);
            }
        }
        let mut manifest = trained.manifest.clone();
        manifest["config"] = serde_json::to_value(&*config).expect("settings");
        manifest["config_hash"] = config.stage_hash(Stage::Finetune).into();
        let tokeniser = tokeniser.to_json();
        for (name, bytes) in [("model.safetensors", model.as_slice()), ("tokeniser.json", tokeniser.as_bytes())] {
            scratch(&format!("run/{name}"), bytes);
            manifest["outputs"][name] = json!({ "sha256": sha256(bytes), "bytes": bytes.len() });
        }
        if let (Some(_), Some(outputs)) = (self.tokeniser, manifest["outputs"].as_object_mut()) {
            outputs.remove("profile.json"); // of other features
        }
        scratch("run/manifest-finetune.json", manifest.to_string().as_bytes());
        let rows = FOLDER.path().join("rows.csv");
        let data = self.data.unwrap_or(&rows);
        let mut found = None;
        let files = model.len() + tokeniser.len();
        within(Self::allowed(files), || {
            let mut verdicts = Vec::new();
            let (data, options) = (&[data.to_owned()], PredictOptions::default());
            found = commands::predict(&trained.run, data, &options, &mut verdicts, &mut |_| Ok(()), &mut Silent)
                .ok()
                .map(|summary| (summary, verdicts));
            let _ = commands::evaluate(&trained.run, data, &options, &mut |_| Ok(()), &mut Silent);
            if self.data.is_none() {
                // it holds its rows in memory
                let options = QueryOptions { budget: 2, data: Some(data), read: ReadOptions::default(), strategy: None };
                let _ = commands::query(&trained.run, &options, &mut Vec::new(), &mut Silent);
            }
        });
        let Some((summary, verdicts)) = found else { return false };
        let verdicts = String::from_utf8(verdicts).expect("verdicts are text");
        assert_eq!(verdicts.lines().count() as u64, 1 + summary.rows);
        assert!(verdicts.lines().skip(1).all(|line| line.contains(",attack") || line.contains(",normal")), "{verdicts}");
        true
    }
}

/// A run folder whose manifest has been edited so that it fits: settings as of `--set`, each after a NUL. Among them `fits` makes
/// weights for these settings, and `classes=N` names so many in their metadata.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut folder = Folder::default();
    for part in text.split('\0').filter(|part| !part.is_empty()) {
        match part.strip_prefix("classes=").map(str::parse) {
            Some(Ok(classes @ 0..100_000)) => folder.classes = classes,
            _ if part == "fits" => folder.fits = true,
            _ => folder.settings.push(part.to_owned()),
        }
    }
    folder.check();
}
