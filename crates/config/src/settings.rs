//! The settings of a run, each declared once: its name, its default, its rule (`range`, `extend`), its meaning (the doc comment) and
//! whose artefacts it changes (`x-changes`, which the settings of a section inherit from it). A setting that came when there were
//! runs already, and whose default is what they did, says so (`x-newer`): they stay valid.
//!
//! The checker, the suggestions, the stage hashes, the JSON schema and the page `docs/settings.md` follow from these declarations.
//! A type that a lower crate needs is declared in that crate, in the same way.

use std::num::NonZero;
use std::path::PathBuf;

use nids_flows::TokeniserConfig;
use nids_models::{MaeConfig, ReplacedConfig, VaeConfig};
use nids_nn::Activation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use serde_yaml::Value as Yaml;
use serde_yaml::with::singleton_map_recursive;
use smart_default::SmartDefault;

use super::finetune::FinetuneConfig;
use super::sweep::SweepConfig;
use super::training::TrainingConfig;

/// All settings of a run.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    /// Name of the run; `runs/<name>` is the default run folder. The one setting that must be written.
    #[schemars(extend("x-changes" = "nothing"))]
    pub name: String,
    /// Seed of everything that is random in a run.
    #[schemars(extend("x-changes" = "every"))]
    pub seed: u64,
    /// Where the rows come from.
    #[schemars(extend("x-changes" = "every"))]
    pub data: DataConfig,
    /// How a row becomes numbers.
    #[schemars(extend("x-changes" = "every"))]
    pub tokeniser: TokeniserConfig,
    /// The Mixer.
    #[schemars(extend("x-changes" = "every"))]
    pub model: ModelConfig,
    /// How the work is split. The number of threads changes no result; the other settings change the order of sums.
    #[schemars(extend("x-changes" = "each"))]
    pub engine: EngineConfig,
    /// Checkpoints, from which a stopped stage goes on.
    #[schemars(extend("x-changes" = "nothing"))]
    pub checkpoint: CheckpointConfig,
    /// The first stage: an autoencoder on rows without labels.
    #[schemars(extend("x-changes" = "pretrain"))]
    pub pretrain: PretrainConfig,
    /// The second stage: latents, and a linear probe on them.
    #[schemars(extend("x-changes" = "encode"))]
    pub encode: EncodeConfig,
    /// The third stage: the classifier.
    #[schemars(extend("x-changes" = "finetune"))]
    pub finetune: FinetuneConfig,
    /// How a probability becomes a verdict.
    #[schemars(extend("x-changes" = "nothing"))]
    pub evaluate: EvaluateConfig,
    /// How `sweep` looks for better settings.
    #[schemars(extend("x-changes" = "nothing"))]
    pub sweep: SweepConfig,
}

/// Where the rows come from.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DataConfig {
    /// A built-in schema (`unsw-nb15`, `nsl-kdd`, `cicflowmeter`, `zeek-conn` and others; `nids-mixer schema FILE` knows them) or the
    /// path of a schema file.
    #[default("unsw-nb15".to_owned())]
    pub schema: String,
    /// Features of the schema that are left out, as `[sttl, dttl]`: no stage reads them, and neither do `predict` and `evaluate` then.
    #[schemars(extend("x-newer" = true))]
    pub without: Option<Files>,
    /// Labelled rows: a file, a folder, a pattern such as `logs/*.csv`, or a list of these. With `null`, there are none: pretraining
    /// uses `unlabelled` alone, or generated flows if there is neither.
    pub train: Option<Files>,
    /// More rows for pretraining, whose labels nobody looks at; named as those of `train`. With `null`, pretraining uses the rows of
    /// `train` alone.
    #[schemars(extend("x-changes" = "pretrain"))]
    pub unlabelled: Option<Files>,
    /// What names a row in messages.
    #[schemars(extend("x-changes" = "nothing"))]
    pub id: IdConfig,
    /// What happens with a row that cannot be read. Files without such rows are read alike.
    #[schemars(extend("x-changes" = "nothing"))]
    pub on_bad_row: BadRowConfig,
    /// With `skip`: the share of rows that may be left out.
    #[schemars(range(min = 0, max = 1), extend("x-changes" = "nothing"))]
    #[default(0.01)]
    pub max_bad_rows: f64,
    /// With `skip`: the file that the rows left out are written to, with the reason.
    #[schemars(extend("x-changes" = "nothing"))]
    pub rejects: Option<String>,
    /// Share of the rows of `train` that is held out. Rows with equal features stay on the same side of the split.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.2)]
    pub validation_fraction: f64,
    /// Take the validation rows from the training rows and leave the held-out rows unused; for choosing settings.
    pub inner_validation: bool,
    /// Where tokenised rows lie: in `memory`, or packed on the disk in a folder, from which each step reads its
    /// rows; memory does not grow with the rows then. Runs share what lies in a folder. `auto` is memory for data files of less than
    /// 1 GiB, else the folder `cache` in the run folder. Weights are the same bytes. Generated flows are always in memory.
    #[schemars(extend("x-changes" = "nothing", "x-newer" = true))]
    #[default("auto".to_owned())]
    pub cache: String,
    /// The order in which training takes rows.
    #[schemars(extend("x-newer" = true))]
    pub shuffle: Shuffle,
    /// Synthetic flows, generated when `train` is `null`.
    pub synthetic: SyntheticConfig,
}

/// One file or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Files {
    /// A file, a folder or a pattern.
    One(String),
    /// Several of these.
    Many(Vec<String>),
}

impl Files {
    /// The files that they stand for.
    pub fn paths(&self) -> nids_flows::Result<Vec<PathBuf>> {
        nids_flows::data_files(self.names())
    }

    /// The names as written.
    pub fn names(&self) -> &[String] {
        match self {
            Files::One(name) => std::slice::from_ref(name),
            Files::Many(names) => names,
        }
    }
}

impl std::fmt::Display for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names().join(", "))
    }
}

impl JsonSchema for Files {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Files".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["string", "array"], "items": { "type": "string", "minLength": 1 }, "minItems": 1 })
    }
}

/// What names a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IdConfig {
    /// The id column of the schema, which must be there; the row's number where the schema has none.
    #[default]
    Schema,
    /// The row's number in its file, from 1.
    Row,
}

/// What happens with a row that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BadRowConfig {
    /// All bad rows are named in one error.
    #[default]
    Stop,
    /// The row is left out and written to `rejects`.
    Skip,
}

/// The order in which training takes rows; a function of seed and step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Shuffle {
    /// Every epoch takes them in an order of its own.
    #[default]
    Rows,
    /// Blocks of 1,024 neighbouring rows in an order of their own, of which 64 at a time are mixed: for a cache on a slow disk.
    Block,
}

/// Synthetic flows, generated when there is no data file.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SyntheticConfig {
    /// Number of labelled rows.
    #[schemars(range(min = 10, max = 100_000_000))]
    #[default(20_000)]
    pub rows: usize,
    /// Number of further rows, without labels, for pretraining.
    #[schemars(range(min = 0, max = 100_000_000), extend("x-changes" = "pretrain"))]
    #[default(30_000)]
    pub unlabelled_rows: usize,
}

/// The Mixer.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ModelConfig {
    /// D, the width of a token.
    #[schemars(range(min = 1, max = 4096))]
    #[default(64)]
    pub dim: usize,
    /// Number of Mixer blocks.
    #[schemars(range(min = 1, max = 32))]
    #[default(4)]
    pub depth: usize,
    /// Hidden width of token mixing, divided by the number of tokens.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 64))]
    #[default(2.0)]
    pub token_expansion: f64,
    /// Hidden width of channel mixing, divided by D.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 64))]
    #[default(2.0)]
    pub channel_expansion: f64,
    /// Number of register tokens, which are learned and added to those of the features.
    #[schemars(range(min = 0, max = 1024))]
    #[default(6)]
    pub n_registers: usize,
    /// Activation between the two linear layers of a mixing.
    #[default(Activation::Gelu)]
    pub activation: Activation,
    /// Probability that a hidden value is dropped.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1, "x-changes" = "each"))]
    #[default(0.1)]
    pub dropout: f64,
    /// Stochastic depth: probability that a row skips the last block. It rises linearly from 0 at the first block.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1, "x-changes" = "each"))]
    #[default(0.1)]
    pub drop_path: f64,
}

/// How the work is split. `threads` changes no result; the other settings change the order of sums.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EngineConfig {
    /// Number of worker threads; 0 means one per core. Any number gives the same bytes.
    #[schemars(range(min = 0, max = 1024), extend("x-changes" = "nothing"))]
    pub threads: usize,
    /// GEMM backend of training; inference always runs on tiles.
    pub gemm: GemmBackend,
    /// Precision to which the operands of large products are rounded. Sums are in f32.
    pub precision: Precision,
    /// Rows that go through the whole network at once. 0 means as many as keep their activations within 3 MiB, at most 8.
    #[schemars(range(min = 0, max = 64))]
    pub shard: usize,
    /// Number of gradient buffers, which are summed in a fixed order. 0 means a 64th of the batch size, between 2 and 16.
    #[schemars(range(min = 0, max = 4096))]
    pub gradient_groups: usize,
}

impl EngineConfig {
    /// The number of rows that go through a network at once, if training keeps `activations` numbers per row.
    pub fn shard(&self, activations: usize) -> usize {
        const BYTES: usize = 3 << 20;
        if self.shard == 0 { (BYTES / (size_of::<f32>() * activations.max(1))).clamp(1, 8) } else { self.shard }
    }

    /// Refuses far more workers than the machine has cores, since each worker takes memory.
    ///
    /// # Errors
    /// The message says how many workers are allowed.
    pub fn check(&self) -> Result<(), String> {
        const A_CORE: usize = 16;
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        if self.threads <= A_CORE * cores {
            return Ok(());
        }
        let (threads, most) = (self.threads, A_CORE * cores);
        let message =
            format!("`engine.threads: {threads}`: expected at most {most}, {A_CORE} for each of the {cores} cores here");
        Err(message)
    }

    /// The number of gradient groups of a batch of that size.
    pub fn groups(&self, batch_size: usize) -> usize {
        if self.gradient_groups == 0 { (batch_size / 64).clamp(2, 16) } else { self.gradient_groups }
    }
}

/// GEMM backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GemmBackend {
    /// The fastest backend for the network's width, by the table in docs/benchmarks.md.
    #[default]
    Auto,
    /// Register tiles, written for products of this size.
    Tiles,
    /// OpenBLAS of the system.
    Openblas,
}

/// Precision to which the operands of large products are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// No rounding.
    #[default]
    F32,
    /// bfloat16, which saves a third of the time on CPUs with AVX-512 BF16 and nothing on others.
    Bf16,
}

/// Checkpoints, from which a stopped stage goes on.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CheckpointConfig {
    /// Steps between checkpoints.
    #[schemars(range(min = 1))]
    #[default(100)]
    pub every: u64,
    /// Number of the latest checkpoints that are kept, in addition to the one with the lowest loss.
    #[schemars(range(min = 1, max = 100))]
    #[default(2)]
    pub keep: usize,
}

/// The first stage: an autoencoder on rows without labels.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PretrainConfig {
    /// What pretraining learns.
    pub objective: ObjectiveConfig,
    /// Which rows pretraining learns from, the tokeniser among what it learns.
    #[schemars(extend("x-newer" = true))]
    pub rows: RowsConfig,
    /// How pretraining learns.
    #[serde(flatten)]
    pub training: TrainingConfig,
}

/// Which rows pretraining learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RowsConfig {
    /// The training part of the labelled rows, and the unlabelled ones.
    #[default]
    All,
    /// The benign rows of the training part. Unlabelled rows are left out, since nobody knows which of them are benign.
    Benign,
}

/// What pretraining learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveConfig {
    /// Masked autoencoder over feature tokens: some are hidden and predicted from the others.
    Mae(MaeConfig),
    /// Variational autoencoder over feature tokens: all are reconstructed from a sample of the latents.
    Vae(VaeConfig),
    /// Replaced-feature detection: some features are swapped for those of other rows, and the network says which.
    Replaced(ReplacedConfig),
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self::Mae(MaeConfig::default())
    }
}

/// The second stage: latents, and a linear probe on them.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EncodeConfig {
    /// The part of the encoder's output that is kept.
    pub latents: Latents,
    /// Augmentation of the latents; raw features are never augmented.
    pub noise: NoiseConfig,
    /// Penalty of the ridge probe.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[default(1.0)]
    pub ridge: f64,
}

/// The part of the encoder's output that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Latents {
    /// The mean over tokens, `[rows, D]`.
    #[default]
    Mean,
    /// Every token, `[rows, N, D]`.
    Tokens,
    /// The posterior mean of the variational autoencoder, `[rows, N, Z]` or `[rows, Z]`.
    Mu,
}

/// Gaussian noise on latents.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NoiseConfig {
    /// Scale of the noise, in units of each latent dimension's standard deviation; 0 means no noise.
    #[schemars(extend("minimum" = 0))]
    #[default(0.1)]
    pub sigma: f64,
    /// Number of noisy copies written in addition to the clean latents.
    #[schemars(range(min = 0, max = 1024))]
    pub copies: usize,
    /// Whether `finetune` from latents draws new noise each epoch.
    #[default(true)]
    pub fresh: bool,
}

/// How a probability becomes a verdict.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EvaluateConfig {
    /// A row is called an attack if its probability is at or above this.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    #[default(0.5)]
    pub threshold: f64,
}

impl Settings {
    /// The settings as YAML, in the order in which they are declared.
    pub(super) fn yaml(&self) -> Yaml {
        singleton_map_recursive::serialize(self, serde_yaml::value::Serializer).expect(PLAIN)
    }

    pub(super) fn json(&self) -> Json {
        serde_json::to_value(self).expect(PLAIN)
    }

    pub(super) fn text(&self) -> String {
        serde_yaml::to_string(&self.yaml()).expect(PLAIN)
    }
}

const PLAIN: &str = "settings are plain numbers, text and mappings";
