//! The settings themselves, with their defaults: those of the shipped `configs/unsw-nb15.yaml`, but on synthetic flows.

use std::num::NonZero;

use nids_flows::TokeniserConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use serde_yaml::Value as Yaml;
use serde_yaml::with::singleton_map;

use super::finetune::Finetune;
use super::sweep::Sweep;
use super::training::Training;

/// All settings of a run. Only a checked [`super::Config`] hands them out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Names the run; `runs/<name>` is the default run folder. The one setting without a default.
    pub name: String,
    /// Everything random follows from it. Default 0.
    pub seed: u64,
    /// Where the rows come from.
    pub data: Data,
    /// How a row becomes numbers; see [`TokeniserConfig`] for its defaults.
    pub tokeniser: TokeniserConfig,
    /// The Mixer.
    pub model: Model,
    /// How the work is cut up.
    pub engine: Engine,
    /// What a stage that is stopped goes on from.
    pub checkpoint: Checkpoint,
    /// The first stage.
    pub pretrain: Pretrain,
    /// The second stage.
    pub encode: Encode,
    /// The third stage.
    pub finetune: Finetune,
    /// What a verdict is.
    pub evaluate: Evaluate,
    /// How `sweep` looks for better settings.
    pub sweep: Sweep,
}

/// Where the rows come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// A built-in schema (`unsw-nb15`, `nsl-kdd`) or the path of a schema file. Default `unsw-nb15`.
    pub schema: String,
    /// Labelled rows, CSV or Parquet; null (the default): synthetic flows are generated.
    pub train: Option<String>,
    /// Rows for pretraining beside those of `train`; null (the default): those of `train` alone, or synthetic ones.
    pub unlabelled: Option<String>,
    /// The share of `train` held out; rows with equal features never straddle. Default 0.2.
    pub validation_fraction: f64,
    /// Whether the validation rows are cut from the training rows once more, those held out being left alone: what settings are
    /// chosen on. Default false.
    pub inner_validation: bool,
    /// The flows generated where `train` is null.
    pub synthetic: Synthetic,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            schema: "unsw-nb15".to_owned(),
            train: None,
            unlabelled: None,
            validation_fraction: 0.2,
            inner_validation: false,
            synthetic: Synthetic::default(),
        }
    }
}

/// The flows generated where there are no data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Synthetic {
    /// Labelled rows. Default 20,000.
    pub rows: usize,
    /// Rows for pretraining beside them. Default 30,000.
    pub unlabelled_rows: usize,
}

impl Default for Synthetic {
    fn default() -> Self {
        Self { rows: 20_000, unlabelled_rows: 30_000 }
    }
}

/// The Mixer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// D, the width of a token. Default 64.
    pub dim: usize,
    /// Mixer blocks. Default 4.
    pub depth: usize,
    /// Hidden width of token mixing over the number of tokens. Default 2.
    pub token_expansion: f64,
    /// Hidden width of channel mixing over D. Default 2.
    pub channel_expansion: f64,
    /// Learned tokens beside those of the features. Default 6.
    pub n_registers: usize,
    /// Default GELU.
    pub activation: Activation,
    /// Probability of dropping a hidden value. Default 0.1.
    pub dropout: f64,
    /// Probability of skipping the last block for a row; it grows from 0 over depth. Default 0.1.
    pub drop_path: f64,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            dim: 64,
            depth: 4,
            token_expansion: 2.0,
            channel_expansion: 2.0,
            n_registers: 6,
            activation: Activation::Gelu,
            dropout: 0.1,
            drop_path: 0.1,
        }
    }
}

/// The non-linearity between the two maps of a mixing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Exact GELU.
    Gelu,
    /// Hyperbolic tangent.
    Tanh,
}

/// How the work is cut up. All but `threads` belong to the algorithm: they change the order of sums.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Engine {
    /// Workers; 0 (the default) is one per core. Any number gives the same bytes.
    pub threads: usize,
    /// GEMM backend. Default OpenBLAS.
    pub gemm: Gemm,
    /// Rows that go through the whole network at once; 0 (the default) is as many, up to 8, as keep what training holds of them
    /// for backward within 3 MiB.
    pub shard: usize,
    /// Gradient buffers summed in fixed order; 0 (the default) is a 64th of the batch, between 2 and 16.
    pub gradient_groups: usize,
}

impl Engine {
    /// The rows that go through a network at once of which training keeps `activations` numbers a row.
    pub fn shard(&self, activations: usize) -> usize {
        const BYTES: usize = 3 << 20;
        if self.shard == 0 { (BYTES / (size_of::<f32>() * activations.max(1))).clamp(1, 8) } else { self.shard }
    }

    /// Refuses workers far beyond what the machine has cores for: each takes memory.
    ///
    /// # Errors
    /// Says how many are allowed here.
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

    /// The gradient groups of a batch of that size.
    pub fn groups(&self, batch_size: usize) -> usize {
        if self.gradient_groups == 0 { (batch_size / 64).clamp(2, 16) } else { self.gradient_groups }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self { threads: 0, gemm: Gemm::Openblas, shard: 0, gradient_groups: 0 }
    }
}

/// What a stage that is stopped goes on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Steps between checkpoints. Default 100.
    pub every: u64,
    /// How many of the last ones stay, beside the one with the lowest loss. Default 2.
    pub keep: usize,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: 100, keep: 2 }
    }
}

/// GEMM backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gemm {
    /// The system's OpenBLAS.
    Openblas,
    /// Tiles of our own, made for products this small.
    Tiles,
    /// The same over operands rounded to bfloat16, with sums in f32.
    Bf16,
}

/// The first stage: learn from rows without labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pretrain {
    /// Default: the masked autoencoder.
    #[serde(with = "singleton_map")]
    pub objective: Objective,
    /// How it learns.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for Pretrain {
    fn default() -> Self {
        Self { objective: Objective::Mae(Mae::default()), training: Training::default() }
    }
}

/// What pretraining learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Masked autoencoder over feature tokens.
    Mae(Mae),
    /// Variational autoencoder over feature tokens.
    Vae(Vae),
}

/// Masked autoencoder over feature tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mae {
    /// The share of feature tokens hidden. Default 0.4.
    pub mask_ratio: f64,
    /// What the encoder sees. Default `mask_token`.
    pub encoder: MaskedEncoder,
    /// Mixer blocks of the decoder. Default 1.
    pub decoder_depth: usize,
}

impl Default for Mae {
    fn default() -> Self {
        Self { mask_ratio: 0.4, encoder: MaskedEncoder::MaskToken, decoder_depth: 1 }
    }
}

/// What the encoder sees of a masked row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskedEncoder {
    /// All N tokens, the hidden ones replaced by a learned one.
    MaskToken,
    /// Only the K visible tokens.
    VisibleOnly,
}

/// Variational autoencoder over feature tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vae {
    /// Z. Default 16.
    pub latent_dim: usize,
    /// What has a latent of its own. Default: every token.
    pub latent: VaeLatent,
    /// Weight of the KL divergence; 1 is the evidence lower bound of a decoder of variance ½. Default 0.01.
    pub beta: f64,
    /// The share of steps over which `beta` rises from 0. Default 0.2.
    pub beta_warmup: f64,
    /// Mixer blocks of the decoder. Default 1.
    pub decoder_depth: usize,
}

impl Default for Vae {
    fn default() -> Self {
        Self { latent_dim: 16, latent: VaeLatent::Token, beta: 0.01, beta_warmup: 0.2, decoder_depth: 1 }
    }
}

/// What has a latent of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VaeLatent {
    /// Every token: `[N, Z]` a flow.
    Token,
    /// The flow: `[Z]`, from the mean over its tokens.
    Pooled,
}

/// The second stage: latents and their probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Encode {
    /// Default `mean`.
    #[serde(with = "singleton_map")]
    pub latents: Latents,
    /// Augmentation of the latents; raw features are never augmented.
    pub noise: Noise,
    /// The penalty of the ridge probe. Default 1.
    pub ridge: f64,
}

impl Default for Encode {
    fn default() -> Self {
        Self { latents: Latents::Mean, noise: Noise::default(), ridge: 1.0 }
    }
}

/// What is kept of the encoder's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latents {
    /// The mean over tokens, `[rows, D]`.
    Mean,
    /// Every token, `[rows, N, D]`.
    Tokens,
    /// What the variational autoencoder takes a flow for, `[rows, N, Z]` or `[rows, Z]`.
    Mu,
}

/// Gaussian noise on latents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// In units of each latent dimension's standard deviation; 0 is off. Default 0.1.
    pub sigma: f64,
    /// Noisy copies written beside the clean latents. Default 0.
    pub copies: usize,
    /// Whether `finetune` from latents draws new noise each epoch. Default true.
    pub fresh: bool,
}

impl Default for Noise {
    fn default() -> Self {
        Self { sigma: 0.1, copies: 0, fresh: true }
    }
}

/// What a verdict is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluate {
    /// A probability at or above it is an attack. Default 0.5.
    pub threshold: f64,
}

impl Default for Evaluate {
    fn default() -> Self {
        Self { threshold: 0.5 }
    }
}

impl Settings {
    pub(super) fn yaml(&self) -> Yaml {
        serde_yaml::to_value(self).expect("settings are plain numbers, text and mappings")
    }

    pub(super) fn json(&self) -> Json {
        serde_json::to_value(self).expect("settings are plain numbers, text and mappings")
    }

    pub(super) fn text(&self) -> String {
        serde_yaml::to_string(self).expect("settings are plain numbers, text and mappings")
    }
}
