//! Every setting has the effect that the tables below say: one that is ignored fails here, and so does a new one that no table has.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value as Json;

use super::resume_tests::{files, run_stage};
use crate::commands::{Axis, sweep};
use crate::data::labelled;
use crate::testing::{Folder, flows, lines};
use Effect::{Bytes, Checkpoints, End, Learning, Log, Nothing, Rounding, Told};
use nids_config::{Config, Stage, SweepStrategy, every_key};
use nids_store::Result;
use nids_store::progress::{Event, Progress, Silent};
use nids_store::run::Run;

/// What another value of a setting changes of a run: the first of these that differs, and nothing of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Whether or with which error the run ends.
    End,
    /// Weights, latents or what a sweep finds, and the loss of a step on the way.
    Learning,
    /// Weights, latents or what a sweep finds, but no loss of a step.
    Bytes,
    /// `metrics.jsonl` or `monitor.jsonl` alone.
    Log,
    /// What is told of the run alone.
    Told,
    /// The order of sums, hence last bits of losses or weights; where the CPU's kernels add in the same order, what is told alone.
    Rounding,
    /// Which checkpoints lie in the folder meanwhile.
    Checkpoints,
    Nothing,
}

/// A setting, a value, what that changes, and what else is set for it to matter.
type Case = (&'static str, &'static str, Effect, &'static [&'static str]);

/// Of every run.
const SETTINGS: &[&str] = &[
    "name=x",
    "data.schema=DIR/schema.yaml",
    "data.train=DIR/train.csv",
    "tokeniser.bins=4",
    "tokeniser.min_count=2",
    "model.dim=8",
    "model.depth=2",
    "model.n_registers=1",
    "engine.threads=1",
    "pretrain.steps=6",
    "pretrain.batch_size=16",
    "pretrain.log_every=1",
    "finetune.from=scratch",
    "finetune.steps=6",
    "finetune.batch_size=16",
    "finetune.log_every=1",
];

const SYNTHETIC: &[&str] =
    &["data.schema=unsw-nb15", "data.train=null", "data.synthetic.rows=60", "data.synthetic.unlabelled_rows=20"];
const MULTICLASS: &str = "finetune.task=multiclass";
const LATENTS: &str = "finetune.from=latents";
const PRETRAINED: &str = "finetune.from=pretrained";
const MEMBERS: &str = "finetune.members=2";
const BATCH_ENSEMBLE: &[&str] = &[MEMBERS, "finetune.ensemble=batch"];
const VAE: &str = "pretrain.objective=vae";
const LABELS: &str = "finetune.labels=20";
/// A mean teacher whose weight has risen at the first step.
const TEACHER: &[&str] =
    &[LABELS, "finetune.mean_teacher={decay: 0.05, weight: 1, ramp: {from: 0, to: 0}, batch_size: 16, mask_ratio: 0.4}"];

/// What `STAGE`s that train have in common.
const TRAINING_CASES: &[Case] = &[
    ("STAGE.steps", "7", Learning, &[]),
    ("STAGE.batch_size", "24", Learning, &[]),
    ("STAGE.micro_batch", "8", Rounding, &["STAGE.batch_size=24"]),
    ("STAGE.optimiser", "adam", Learning, &[]),
    ("STAGE.optimiser.adamw.beta1", "0.5", Learning, &[]),
    ("STAGE.optimiser.adamw.beta2", "0.5", Learning, &[]),
    ("STAGE.optimiser.adamw.eps", "0.01", Learning, &[]),
    ("STAGE.optimiser.adamw.weight_decay", "1", Learning, &[]),
    ("STAGE.optimiser.adam.beta1", "0.5", Learning, &["STAGE.optimiser=adam"]),
    ("STAGE.optimiser.adam.beta2", "0.5", Learning, &["STAGE.optimiser=adam"]),
    ("STAGE.optimiser.adam.eps", "0.01", Learning, &["STAGE.optimiser=adam"]),
    ("STAGE.optimiser.adam.weight_decay", "1", Learning, &["STAGE.optimiser=adam"]),
    ("STAGE.lr", "0.01", Learning, &[]),
    ("STAGE.schedule", "constant", Learning, &[]),
    ("STAGE.schedule", "cosine_restarts", Learning, &[]),
    ("STAGE.schedule", "one_cycle", Learning, &[]),
    ("STAGE.schedule.cosine_restarts.t_0", "4", Learning, &["STAGE.schedule.cosine_restarts.t_0=3"]),
    ("STAGE.schedule.cosine_restarts.t_mult", "1", Learning, &["STAGE.schedule.cosine_restarts.t_0=2"]),
    ("STAGE.warmup", "0.5", Learning, &[]),
    ("STAGE.warmup", "0.5", Learning, &["STAGE.schedule=constant"]),
    ("STAGE.warmup", "0.5", Learning, &["STAGE.schedule=cosine_restarts"]),
    ("STAGE.warmup", "0.6", Learning, &["STAGE.schedule=one_cycle"]),
    ("STAGE.min_lr", "0.001", Learning, &[]),
    ("STAGE.min_lr", "0.001", Learning, &["STAGE.schedule.cosine_restarts.t_0=3"]),
    ("STAGE.min_lr", "0.001", Learning, &["STAGE.schedule=one_cycle"]),
    ("STAGE.schedule_per", "epoch", Learning, &[]),
    ("STAGE.schedule_per", "epoch", Learning, &["STAGE.schedule=constant", "STAGE.warmup=0.5"]),
    ("STAGE.schedule_per", "epoch", Learning, &["STAGE.schedule.cosine_restarts.t_0=2"]),
    ("STAGE.schedule_per", "epoch", Learning, &["STAGE.schedule=one_cycle"]),
    ("STAGE.clip_norm", "0.01", Learning, &["STAGE.optimiser.adamw.eps=1"]),
    ("STAGE.nonfinite", "skip", End, DIVERGES),
    ("STAGE.nonfinite", "rollback", End, DIVERGES),
    ("STAGE.log_every", "2", Log, &[]),
    ("STAGE.monitor", "off", Log, &["STAGE.steps=50"]),
    ("STAGE.monitor", "stop", End, STANDS_STILL),
];

const DIVERGES: &[&str] = &["STAGE.lr=1e30", "STAGE.schedule=constant", "STAGE.warmup=0"];
/// The rate is lost in the rounding of every weight, until the monitor has looked often enough.
const STANDS_STILL: &[&str] = &["STAGE.lr=1e-20", "STAGE.steps=300", "STAGE.log_every=1000"];

const PRETRAIN_CASES: &[Case] = &[
    ("name", "y", Nothing, &[]),
    ("seed", "1", Learning, &[]),
    ("data.schema", "DIR/other.yaml", Learning, &[]),
    ("data.without", "[sttl, dur]", Learning, &[]),
    ("data.train", "DIR/other.csv", Learning, &[]),
    ("data.unlabelled", "DIR/other.csv", Learning, &[]),
    ("data.id", "row", Nothing, &[]),
    ("data.on_bad_row", "skip\0data.rejects=DIR/rejects.csv", Nothing, &[]),
    ("data.max_bad_rows", "0.5", Nothing, &[]),
    ("data.rejects", "DIR/rejects.csv", Nothing, &["data.rejects=DIR/others.csv", "data.on_bad_row=skip"]),
    ("data.validation_fraction", "0.4", Learning, &[]),
    ("data.inner_validation", "true", Learning, &[]),
    ("data.cache", "DIR/cache", Told, &[]),
    ("data.shuffle", "block", Learning, &[]),
    ("data.synthetic.rows", "70", Learning, SYNTHETIC),
    ("data.synthetic.unlabelled_rows", "30", Learning, SYNTHETIC),
    ("tokeniser.normalisation", "standard", Learning, &[]),
    ("tokeniser.normalisation", "global_max", Learning, &["tokeniser.normalisation=standard"]),
    ("tokeniser.quantile", "false", Learning, &[]),
    ("tokeniser.log1p", "false", Learning, &[]),
    ("tokeniser.bins", "8", Learning, &[]),
    ("tokeniser.one_hot", "false", Learning, &[]),
    ("tokeniser.min_count", "8", Learning, &[]),
    ("tokeniser.max_categories", "1", Learning, &[]),
    ("model.dim", "12", Learning, &[]),
    ("model.depth", "1", Learning, &[]),
    ("model.token_expansion", "1", Learning, &[]),
    ("model.channel_expansion", "1", Learning, &[]),
    ("model.n_registers", "2", Learning, &[]),
    ("model.activation", "tanh", Learning, &[]),
    ("model.dropout", "0.3", Learning, &[]),
    ("model.dropout", "0.3", Learning, &[VAE]),
    ("model.drop_path", "0.5", Learning, &[]),
    ("model.drop_path", "0.5", Learning, &[VAE]),
    ("engine.threads", "2", Told, &[]),
    ("engine.gemm", "tiles", Nothing, &[]),
    ("engine.gemm", "openblas", Rounding, &[]),
    ("engine.precision", "bf16", Learning, &["model.dim=32"]),
    ("engine.shard", "1", Rounding, &["pretrain.batch_size=24"]),
    ("engine.gradient_groups", "3", Rounding, &["pretrain.batch_size=24"]),
    ("checkpoint.every", "2", Checkpoints, &["checkpoint.every=1"]),
    ("checkpoint.keep", "1", Checkpoints, &["checkpoint.every=1"]),
    ("pretrain.objective", "vae", Learning, &[]),
    ("pretrain.objective.mae.mask_ratio", "0.6", Learning, &[]),
    ("pretrain.objective.mae.mask_ratio", "{}", Learning, &[]),
    ("pretrain.objective.mae.mask_ratio.from", "0.5", Learning, &["pretrain.objective.mae.mask_ratio={to: 0.9}"]),
    ("pretrain.objective.mae.mask_ratio.to", "0.9", Learning, &["pretrain.objective.mae.mask_ratio={}"]),
    ("pretrain.objective.mae.target", "bins", Learning, &[]),
    ("pretrain.objective.mae.encoder", "visible_only", Learning, &[]),
    ("pretrain.objective.mae.decoder_depth", "0", Learning, &[]),
    ("pretrain.objective", "replaced", Learning, &[]),
    ("pretrain.objective.replaced.swap_ratio", "0.6", Learning, &["pretrain.objective=replaced"]),
    ("pretrain.rows", "benign", Learning, &[]),
    ("pretrain.objective.vae.latent_dim", "4", Learning, &[VAE]),
    ("pretrain.objective.vae.latent", "pooled", Learning, &[VAE]),
    ("pretrain.objective.vae.beta", "0.5", Learning, &[VAE]),
    ("pretrain.objective.vae.beta_warmup", "1", Learning, &[VAE]),
    ("pretrain.objective.vae.decoder_depth", "0", Learning, &[VAE]),
];

const ENCODE_CASES: &[Case] = &[
    ("encode.latents", "tokens", Bytes, &[]),
    ("encode.latents", "mu", Bytes, &[VAE]),
    ("encode.noise.sigma", "0.5", Bytes, &["encode.noise.copies=1"]),
    ("encode.noise.copies", "2", Bytes, &[]),
    ("encode.ridge", "100000", Log, &["data.validation_fraction=0.5"]),
    ("engine.precision", "bf16", Bytes, &["model.dim=32"]),
];

const FINETUNE_CASES: &[Case] = &[
    ("seed", "1", Learning, &[]),
    ("data.train", "DIR/other.csv", Learning, &[]),
    ("data.unlabelled", "DIR/other.csv", Learning, TEACHER),
    ("data.id", "row", Nothing, &[]),
    ("data.on_bad_row", "skip\0data.rejects=DIR/rejects.csv", Nothing, &[]),
    ("data.max_bad_rows", "0.5", Nothing, &[]),
    ("data.rejects", "DIR/rejects.csv", Nothing, &["data.rejects=DIR/others.csv", "data.on_bad_row=skip"]),
    ("data.validation_fraction", "0.4", Learning, &[]),
    ("data.inner_validation", "true", Learning, &[]),
    ("tokeniser.bins", "8", Learning, &[]),
    ("model.depth", "1", Learning, &[]),
    ("model.depth", "1", Learning, &[LATENTS]),
    ("model.activation", "tanh", Learning, &[]),
    ("model.dropout", "0.3", Learning, &[]),
    ("model.dropout", "0.3", Learning, &[LATENTS]),
    ("model.dropout", "0.3", Learning, TEACHER),
    ("model.drop_path", "0.5", Learning, &[]),
    ("engine.threads", "2", Told, &[]),
    ("engine.shard", "1", Rounding, &["finetune.batch_size=24"]),
    ("engine.gradient_groups", "3", Rounding, &["finetune.batch_size=24"]),
    ("checkpoint.every", "2", Checkpoints, &["checkpoint.every=1"]),
    ("encode.noise.fresh", "false", Learning, &[LATENTS]),
    ("encode.noise.sigma", "0.5", Learning, &[LATENTS]),
    ("finetune.seed", "1", Learning, &[]),
    ("finetune.seed", "1", Learning, &[LABELS]),
    ("finetune.from", "pretrained", Learning, &[]),
    ("finetune.from", "latents", Learning, &[]),
    ("finetune.from", "frozen", Learning, &[]),
    ("finetune.from", "features", Learning, &[]),
    ("finetune.labels", "20", Learning, &[]),
    ("finetune.labels", "20", Learning, &[LATENTS]),
    ("finetune.label_rows", "DIR/rows.txt", Learning, &[]),
    ("finetune.task", "multiclass", Learning, &[]),
    ("finetune.task.multiclass.class_balance", "0", Learning, &[MULTICLASS]),
    ("finetune.task.multiclass.class_balance", "0", Learning, &[MULTICLASS, LATENTS]),
    ("finetune.members", "2", Learning, &[]),
    ("finetune.ensemble", "batch", Learning, &[MEMBERS]),
    ("finetune.ensemble.batch.scales", "signs", Learning, BATCH_ENSEMBLE),
    ("finetune.ensemble.batch.shared_blocks", "1", Learning, BATCH_ENSEMBLE),
    ("finetune.heads", "[boosting]", Bytes, &[]),
    ("finetune.heads", "[boosting]", Bytes, &["finetune.from=frozen"]),
    ("finetune.heads", "[extra_trees, boosting]", Bytes, &["finetune.from=features", "finetune.heads=[extra_trees]"]),
    ("finetune.heads", "[logistic, kernel_machine]", Bytes, &["finetune.from=features", "finetune.heads=[logistic]"]),
    ("finetune.seed", "1", Bytes, &["finetune.from=features"]),
    ("finetune.labels", "20", Bytes, &["finetune.from=frozen"]),
    ("finetune.patch_size", "8", Learning, &[LATENTS]),
    ("finetune.encoder_lr_scale", "0.1", Learning, &[PRETRAINED]),
    ("finetune.loss.pos_weight", "4", Learning, &[]),
    ("finetune.loss.pos_weight", "4", Learning, &[LATENTS]),
    ("finetune.loss.pos_weight", "4", Learning, BATCH_ENSEMBLE),
    ("finetune.loss.pos_weight", "4", Learning, TEACHER),
    ("finetune.loss.label_smoothing", "0.1", Learning, &[]),
    ("finetune.loss.label_smoothing", "0.1", Learning, TEACHER),
    ("finetune.task.multiclass.logit_adjustment", "0.5", Learning, &[MULTICLASS]),
    ("finetune.teachers", "DIR/teacher", Learning, &[]),
    ("finetune.refit", "all", Learning, &[]),
    ("finetune.refit", "all", Learning, &["finetune.teachers=[DIR/teacher]"]),
    ("finetune.refit", "all", Bytes, &["finetune.from=features"]),
    ("finetune.loss.pos_weight", "4", Bytes, &["finetune.from=features", "finetune.heads=[logistic]"]),
    ("finetune.loss.pos_weight", "4", Bytes, &["finetune.from=features", "finetune.heads=[kernel_machine]"]),
    ("finetune.loss.pos_weight", "4", Bytes, &["finetune.from=features", "finetune.heads=[extra_trees]"]),
    ("finetune.loss.pos_weight", "4", Bytes, &["finetune.from=features", "finetune.heads=[boosting]"]),
    ("finetune.ema", "{}", Bytes, &[]),
    ("finetune.ema.decay", "0.3", Bytes, &["finetune.ema.decay=0.05"]),
    ("finetune.mean_teacher", "{ramp: {from: 0, to: 0}}", Learning, &[LABELS]),
    ("finetune.mean_teacher.decay", "0.3", Learning, TEACHER),
    ("finetune.mean_teacher.weight", "2", Learning, TEACHER),
    ("finetune.mean_teacher.ramp.from", "0.4", Learning, &[LABELS, "finetune.mean_teacher={ramp: {from: 0, to: 0.8}}"]),
    ("finetune.mean_teacher.ramp.to", "0.4", Learning, &[LABELS, "finetune.mean_teacher={ramp: {from: 0, to: 0.8}}"]),
    ("finetune.mean_teacher.batch_size", "8", Learning, TEACHER),
    ("finetune.mean_teacher.mask_ratio", "0.8", Learning, TEACHER),
    ("finetune.eval_every", "2", Log, &[]),
    ("evaluate.threshold", "1", Log, &["evaluate.threshold=0"]),
    ("evaluate.threshold", "1", Log, &["evaluate.threshold=0", MULTICLASS]),
];

const WIDTH_DEPTH: &[&str] = &[
    "finetune.lr=0.02",
    "sweep.strategy={width_depth: {iterations: 12, min_drop: 0, tolerance: 0, min_dim: 4, max_dim: 8, depth: 1, max_depth: 2}}",
];
const HALVING: &[&str] = &["sweep.strategy={halving: {min_steps: 10, eta: 2, max_candidates: 9}}"];

const SWEEP_CASES: &[Case] = &[
    ("sweep.strategy", "halving", Bytes, WIDTH_DEPTH),
    ("sweep.strategy.width_depth.iterations", "14", Bytes, WIDTH_DEPTH),
    ("sweep.strategy.width_depth.min_drop", "0.99", End, WIDTH_DEPTH),
    ("sweep.strategy.width_depth.tolerance", "0.9", Bytes, WIDTH_DEPTH),
    ("sweep.strategy.width_depth.min_dim", "6", Bytes, WIDTH_DEPTH),
    ("sweep.strategy.width_depth.max_dim", "6", Bytes, WIDTH_DEPTH),
    ("sweep.strategy.width_depth.depth", "2", Bytes, WIDTH_DEPTH),
    ("sweep.strategy.width_depth.max_depth", "1", Bytes, WIDTH_DEPTH),
    ("sweep.strategy.halving.min_steps", "12", Bytes, HALVING),
    ("sweep.strategy.halving.eta", "4", Bytes, HALVING),
    ("sweep.strategy.halving.max_candidates", "2", Bytes, HALVING),
];

/// What is run of a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Stage(Stage),
    Sweep,
}

/// What a run leaves and tells.
#[derive(Debug, PartialEq)]
struct Outcome {
    end: std::result::Result<(), String>,
    /// Weights by name, the files of latents, or the report of a sweep.
    artefacts: BTreeMap<String, Vec<u8>>,
    /// Lines of metrics with the loss of a step.
    losses: Vec<Json>,
    log: Vec<Json>,
    told: Vec<String>,
    /// After every step.
    checkpoints: Vec<BTreeSet<OsString>>,
}

impl Outcome {
    fn effect(&self, before: &Self) -> Effect {
        if self.end != before.end {
            End
        } else if self.artefacts != before.artefacts {
            if self.losses == before.losses { Bytes } else { Learning }
        } else if self.log != before.log {
            Log
        } else if self.told != before.told {
            Told
        } else if self.checkpoints != before.checkpoints {
            Checkpoints
        } else {
            Nothing
        }
    }
}

/// Hears all that is told but how fast it went, and looks at the checkpoints.
struct Listener {
    folder: PathBuf,
    told: Vec<String>,
    checkpoints: Vec<BTreeSet<OsString>>,
}

impl Progress for Listener {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Message(text) if !text.contains("rows/s") => self.told.push(text.to_owned()),
            Event::Step { .. } => self.checkpoints.push(names(&self.folder.join("checkpoints"))),
            _ => {}
        }
    }
}

fn names(folder: &Path) -> BTreeSet<OsString> {
    fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect()
}

/// Runs configs, each on what the stages before it leave; these run once for all settings that do not concern them.
struct Bench {
    folder: Folder,
    upstream: BTreeMap<String, PathBuf>,
    n_runs: usize,
}

impl Bench {
    fn new() -> Self {
        let folder = Folder::new();
        let schema = fs::read_to_string(folder.path("schema.yaml")).unwrap();
        folder.write("other.yaml", schema.replace("name: dbytes, kind: numeric", "name: dbytes, kind: ignored"));
        folder.write("train.csv", flows(60, 1));
        folder.write("other.csv", flows(60, 2));
        let config = folder.config(&[SETTINGS]);
        let split = labelled(&config, &mut folder.run("look").look(Stage::Pretrain, &config), &mut Silent).unwrap().split;
        run_stage(Stage::Finetune, &config, &folder.run("teacher"), &mut Silent).unwrap();
        folder.write("rows.txt", split.train[..20].iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        Self { folder, upstream: BTreeMap::new(), n_runs: 0 }
    }

    /// A run folder of its own, with what the stages before `stage` leave.
    fn run_folder(&mut self, stage: Stage, config: &Config) -> PathBuf {
        let before = config.upstream(stage);
        let mut hash = String::new();
        for (i, &stage) in before.iter().enumerate() {
            let onto = self.upstream.get(&hash).cloned();
            hash = config.stage_hash(stage);
            if !self.upstream.contains_key(&hash) {
                let folder = self.copy(onto.filter(|_| i > 0).as_deref());
                run_stage(stage, config, &Run::create(&folder).unwrap(), &mut Silent).unwrap_or_else(|error| panic!("{error}"));
                self.upstream.insert(hash.clone(), folder);
            }
        }
        let onto = self.upstream.get(&hash).cloned();
        self.copy(onto.as_deref())
    }

    fn copy(&mut self, from: Option<&Path>) -> PathBuf {
        self.n_runs += 1;
        let folder = self.folder.path(&format!("run-{}", self.n_runs));
        for (name, bytes) in from.map(files).unwrap_or_default() {
            fs::create_dir_all(folder.join(&name).parent().unwrap()).unwrap();
            self.folder.write(&format!("run-{}/{name}", self.n_runs), bytes);
        }
        folder
    }

    fn outcome(&mut self, work: Work, config: &Config) -> Outcome {
        let folder = match work {
            Work::Stage(stage) => self.run_folder(stage, config),
            Work::Sweep => self.copy(None),
        };
        let run = Run::create(&folder).unwrap();
        let mut listener = Listener { folder: folder.clone(), told: Vec::new(), checkpoints: Vec::new() };
        let end = match work {
            Work::Stage(stage) => run_stage(stage, config, &run, &mut listener),
            Work::Sweep => sweep_grid(config, &run, &mut listener),
        };
        let mut artefacts = BTreeMap::new();
        for (name, bytes) in files(&folder) {
            // of weights their metadata left out, and of tokenisers all: both repeat settings
            if name.ends_with(".safetensors") && !name.contains('/') {
                let file = SafeTensors::deserialize(&bytes).unwrap();
                artefacts.extend(
                    file.iter().map(|(tensor, view)| (format!("{name} {tensor} {:?}", view.shape()), view.data().to_vec())),
                );
            } else if name.starts_with("latents/") || name == "sweep.json" {
                artefacts.insert(name, bytes);
            }
        }
        let is_of_work = |line: &Json| matches!(work, Work::Stage(stage) if line["stage"] == stage.name());
        let log = ["metrics.jsonl", "monitor.jsonl"]
            .map(|name| if folder.join(name).exists() { lines(&folder, name) } else { Vec::new() });
        let log: Vec<Json> = log.concat().into_iter().filter(is_of_work).collect();
        let here = |text: &str| text.replace(&folder.display().to_string(), "RUN");
        Outcome {
            end: end.map_err(|error| here(&error.to_string())),
            artefacts,
            losses: log.iter().filter(|line| line.get("loss").is_some()).cloned().collect(),
            log,
            told: listener.told.iter().map(|text| here(text)).collect(),
            checkpoints: listener.checkpoints,
        }
    }
}

fn sweep_grid(config: &Config, run: &Run, progress: &mut dyn Progress) -> Result<()> {
    let grid: Vec<Axis> = match config.sweep.strategy {
        SweepStrategy::WidthDepth(_) => Vec::new(),
        SweepStrategy::Halving(_) => vec!["finetune.lr=1e-3,2e-3,4e-3,8e-3".parse().unwrap()],
    };
    sweep(config, run, &grid, progress).map(drop)
}

/// Runs every case and its base, and says which are not as the table has it.
fn check(work: Work, cases: &[Case]) {
    let name = if let Work::Stage(stage) = work { stage.name() } else { "" };
    let named = |settings: &[&str]| -> Vec<String> { settings.iter().map(|setting| setting.replace("STAGE", name)).collect() };
    let mut bench = Bench::new();
    let mut bases: BTreeMap<Vec<String>, Outcome> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (key, value, wanted, base) in cases {
        // one setting, or several that cannot go alone
        let set = format!("{key}={value}");
        let (base, set) = (named(base), named(&set.split('\0').collect::<Vec<_>>()));
        let config = |settings: &[String]| {
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            bench.folder.config(&[SETTINGS, &settings])
        };
        let (base_config, changed) = (config(&base), config(&[base.as_slice(), &set].concat()));
        assert_ne!(base_config, changed, "{set:?} is what {base:?} has");
        if !bases.contains_key(&base) {
            let outcome = bench.outcome(work, &base_config);
            bases.insert(base.clone(), outcome);
        }
        let outcome = bench.outcome(work, &changed);
        let found = outcome.effect(&bases[&base]);
        let is_so = found == *wanted || (*wanted == Rounding && [Told, Log, Bytes, Learning].contains(&found));
        if !is_so {
            wrong.push(format!("{set:?} with {base:?}: {found:?}, not {wanted:?}; {:?}, {:?}", outcome.end, bases[&base].end));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_setting_of_pretraining_has_its_effect() {
    check(Work::Stage(Stage::Pretrain), PRETRAIN_CASES);
}

#[test]
fn every_setting_of_how_pretraining_learns_has_its_effect() {
    check(Work::Stage(Stage::Pretrain), TRAINING_CASES);
}

#[test]
fn every_setting_of_encoding_has_its_effect() {
    check(Work::Stage(Stage::Encode), ENCODE_CASES);
}

#[test]
fn every_setting_of_finetuning_has_its_effect() {
    check(Work::Stage(Stage::Finetune), FINETUNE_CASES);
}

#[test]
fn every_setting_of_how_finetuning_learns_has_its_effect() {
    check(Work::Stage(Stage::Finetune), TRAINING_CASES);
}

#[test]
fn every_setting_of_a_sweep_has_its_effect() {
    check(Work::Sweep, SWEEP_CASES);
}

#[test]
fn every_setting_is_in_the_table() {
    let training_keys = |stage: &'static str| TRAINING_CASES.iter().map(move |case| case.0.replace("STAGE", stage));
    let others = [PRETRAIN_CASES, ENCODE_CASES, FINETUNE_CASES, SWEEP_CASES].concat().into_iter().map(|case| case.0.to_owned());
    let listed: BTreeSet<String> = others.chain(training_keys("pretrain")).chain(training_keys("finetune")).collect();
    let known: BTreeSet<String> = every_key().map(str::to_owned).collect();
    assert_eq!(listed, known);
}
