//! The settings themselves, with their defaults: those of the shipped `configs/unsw-nb15.yaml`, but on synthetic flows.

use nids_flows::TokeniserConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use serde_yaml::Value as Yaml;
use serde_yaml::with::singleton_map;

use super::sweep::{Strategy, Sweep};
use super::training::{AdamW, Cosine, Optimiser, Schedule, Training};

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
    /// Who multiplies matrices. Default OpenBLAS.
    pub gemm: Gemm,
    /// Rows that go through the whole network at once; 0 (the default) is as many, up to 8, as keep what training holds of them
    /// for backward within 4 MiB.
    pub shard: usize,
    /// Gradient buffers summed in fixed order; 0 (the default) is a 64th of the batch, between 2 and 16.
    pub gradient_groups: usize,
}

impl Engine {
    /// The rows that go through a network at once of which training keeps `activations` numbers a row.
    pub fn shard(&self, activations: usize) -> usize {
        const BYTES: usize = 4 << 20;
        if self.shard == 0 { (BYTES / (size_of::<f32>() * activations.max(1))).clamp(1, 8) } else { self.shard }
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

/// Who multiplies matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gemm {
    /// The system's OpenBLAS.
    Openblas,
    /// Tiles of our own, made for products this small.
    Tiles,
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
    Mu(Mu),
}

/// The means of the variational autoencoder's latents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mu {
    /// Draws from the posterior, written beside the means of the training rows. Default 0.
    pub samples: usize,
}

/// Gaussian noise on latents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// In units of each latent dimension's standard deviation; 0 is off. Default 0.1.
    pub sigma: Sigma,
    /// Noisy copies written beside the clean latents. Default 0.
    pub copies: usize,
    /// Whether `finetune` from latents draws new noise each epoch. Default true.
    pub fresh: bool,
}

impl Default for Noise {
    fn default() -> Self {
        Self { sigma: Sigma::Fixed(0.1), copies: 0, fresh: true }
    }
}

/// How much noise: always the same, or as diffusion models are trained, where no level is missing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)] // the checker has seen it, so that no position is lost
pub enum Sigma {
    /// For every row.
    Fixed(f64),
    /// Drawn for every row.
    Range(SigmaRange),
}

/// Log-uniform between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SigmaRange {
    /// Above 0.
    pub min: f64,
    /// At least `min`.
    pub max: f64,
}

impl Sigma {
    /// Whether there is no noise.
    pub fn is_off(self) -> bool {
        matches!(self, Self::Fixed(sigma) if sigma <= 0.0)
    }
}

/// The third stage: the classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finetune {
    /// Default: the pretrained encoder.
    pub from: FinetuneFrom,
    /// Labelled training rows drawn by seed, the classes in proportion, those for fewer among those for more; null (the
    /// default): all.
    pub labels: Option<usize>,
    /// A text file of the training rows whose labels are used: the number of a row of `data.train` a line, counted from 0, as
    /// `select` writes them; null (the default): all.
    pub label_rows: Option<String>,
    /// What is learned of a row. Default: whether it is an attack.
    #[serde(with = "singleton_map")]
    pub task: Task,
    /// Categories as a second thing to learn beside `task: binary`; null (the default): only whether a row is an attack.
    pub auxiliary: Option<Auxiliary>,
    /// Networks whose probabilities are averaged; 1 (the default) is one alone.
    pub members: usize,
    /// What they share. Default: nothing but where they start.
    #[serde(with = "singleton_map")]
    pub ensemble: Ensemble,
    /// Latent values a token, where `from` is `latents`. Default 4.
    pub patch_size: usize,
    /// How it learns.
    #[serde(flatten)]
    pub training: Training,
    /// The pretrained encoder's learning rate over `lr`. Default 1.
    pub encoder_lr_scale: f64,
    /// The learning rate of a block of the encoder over that of the block above it (Clark et al. 2020). Default 1.
    pub layer_lr_decay: f64,
    /// Binary cross-entropy with logits.
    pub loss: Loss,
    /// Average of the weights over the steps, which then is what is validated and kept; null (the default): the last step's.
    pub ema: Option<Ema>,
    /// A teacher on rows without labels; its weights are kept. Null (the default): none.
    pub mean_teacher: Option<MeanTeacher>,
    /// Steps between looks at the validation rows. Default 200.
    pub eval_every: u64,
}

impl Default for Finetune {
    fn default() -> Self {
        Self {
            from: FinetuneFrom::Pretrained,
            labels: None,
            label_rows: None,
            task: Task::Binary,
            auxiliary: None,
            members: 1,
            ensemble: Ensemble::Independent,
            patch_size: 4,
            training: Training {
                steps: 600,
                optimiser: Optimiser::AdamW(AdamW { weight_decay: 0.05, ..AdamW::default() }),
                lr: 4e-3,
                schedule: Schedule::Cosine(Cosine { warmup: 0.1, ..Cosine::default() }),
                ..Training::default()
            },
            encoder_lr_scale: 1.0,
            layer_lr_decay: 1.0,
            loss: Loss::default(),
            ema: None,
            mean_teacher: None,
            eval_every: 200,
        }
    }
}

/// What the classifier starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinetuneFrom {
    /// The encoder that `pretrain` left, trained further.
    Pretrained,
    /// The latents that `encode` left, frozen.
    Latents,
    /// Random weights.
    Scratch,
}

/// What the classifier learns of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Whether it is an attack.
    Binary,
    /// Its category: the kind of attack, or none.
    Multiclass(Multiclass),
}

/// Softmax cross-entropy over categories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Multiclass {
    /// β of class-balanced weights (Cui et al. 2019): 0 weighs all rows alike, towards 1 all categories. Default 0.999.
    pub class_balance: f64,
}

impl Default for Multiclass {
    fn default() -> Self {
        Self { class_balance: 0.999 }
    }
}

/// Categories as a second thing to learn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Auxiliary {
    /// Of their cross-entropy in the loss. Default 0.3.
    pub weight: f64,
}

impl Default for Auxiliary {
    fn default() -> Self {
        Self { weight: 0.3 }
    }
}

/// What the members of an ensemble share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ensemble {
    /// Tokeniser, labels and pretrained weights: each is a network of its own, trained after the other.
    Independent,
    /// One network, in which each scales the tokens in its own way and has a head of its own.
    Batch(BatchEnsemble),
}

/// Members in one network (Gorishniy et al. 2025, "TabM").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchEnsemble {
    /// Where the members' scales start. Default: around 1, so that each sees much of what was pretrained.
    pub scales: Scales,
    /// Mixer blocks before the members part; these are computed once for all. Default 0: they part at the embedded tokens.
    pub shared_blocks: usize,
}

impl Default for BatchEnsemble {
    fn default() -> Self {
        Self { scales: Scales::Normal, shared_blocks: 0 }
    }
}

/// Where the scales of members start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scales {
    /// N(1, ½²)
    Normal,
    /// -1 or 1
    Signs,
}

impl Finetune {
    /// Of the average of the weights that is kept, where one is.
    pub fn decay(&self) -> Option<f64> {
        let of_teacher = self.mean_teacher.as_ref().map(|teacher| teacher.decay);
        of_teacher.or(self.ema.as_ref().map(|ema| ema.decay))
    }

    /// Networks that are trained one after the other.
    pub fn independent(&self) -> usize {
        if self.ensemble == Ensemble::Independent { self.members } else { 1 }
    }

    /// Members in one network, and what they share; none where there is but one.
    pub fn batch_ensemble(&self) -> Option<(usize, &BatchEnsemble)> {
        match &self.ensemble {
            Ensemble::Batch(settings) if self.members > 1 => Some((self.members, settings)),
            _ => None,
        }
    }
}

/// Binary cross-entropy with logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Weight of an attack over that of a normal row. Default 1.
    pub pos_weight: f64,
}

impl Default for Loss {
    fn default() -> Self {
        Self { pos_weight: 1.0 }
    }
}

/// An exponential moving average of the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ema {
    /// How much of the average a step leaves; less in the first steps. Default 0.998.
    pub decay: f64,
}

impl Default for Ema {
    fn default() -> Self {
        Self { decay: 0.998 }
    }
}

/// A teacher, the average of the student's weights, whose verdicts on rows without labels the student learns to give although
/// features are hidden from it (Tarvainen and Valpola 2017).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeanTeacher {
    /// As [`Ema::decay`]. Default 0.998.
    pub decay: f64,
    /// Weight of agreeing with the teacher over that of the labels. Default 1.
    pub weight: f64,
    /// The shares of the steps between which the weight rises from 0. Default 0.1 to 0.4.
    pub ramp: Ramp,
    /// Rows without labels a step, beside `finetune.batch_size` with. Default 256.
    pub batch_size: usize,
    /// The share of their features that is hidden from the student. Default 0.4.
    pub mask_ratio: f64,
}

impl Default for MeanTeacher {
    fn default() -> Self {
        Self { decay: 0.998, weight: 1.0, ramp: Ramp::default(), batch_size: 256, mask_ratio: 0.4 }
    }
}

/// Where something starts to rise and where it has risen, in shares of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ramp {
    /// Default 0.1.
    pub from: f64,
    /// At least `from`. Default 0.4.
    pub to: f64,
}

impl Default for Ramp {
    fn default() -> Self {
        Self { from: 0.1, to: 0.4 }
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

    /// Settings that are good by themselves and not together: the key to blame, and why.
    pub(super) fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.name.starts_with('.') || self.name.contains(['/', '\\']) {
            found.push(("name", format!("expected a name that can be a folder's, found `{}`", self.name)));
        }
        for (training, [batch_size, optimiser, schedule]) in [
            (&self.pretrain.training, ["pretrain.batch_size", "pretrain.optimiser", "pretrain.schedule"]),
            (&self.finetune.training, ["finetune.batch_size", "finetune.optimiser", "finetune.schedule"]),
        ] {
            let &Training { batch_size: batch, micro_batch: micro, lr, .. } = training;
            if batch > micro && !batch.is_multiple_of(micro) {
                found.push((batch_size, format!("expected a multiple of `micro_batch` ({micro}), found `{batch}`")));
            }
            if matches!(&training.optimiser, Optimiser::Sgd(sgd) if sgd.nesterov && sgd.momentum <= 0.0) {
                found.push((optimiser, "`nesterov` needs `momentum` above 0".to_owned()));
            }
            if let Some((key, rate)) = training.schedule.above(lr) {
                found.push((schedule, format!("expected `{key}` up to `lr` ({lr}), found {rate}")));
            }
        }
        if self.finetune.from == FinetuneFrom::Latents && self.finetune.layer_lr_decay < 1.0 {
            let message = "slows an encoder that is trained, which `from: latents` freezes: leave it at 1";
            found.push(("finetune.layer_lr_decay", message.to_owned()));
        }
        if let Some(teacher) = &self.finetune.mean_teacher {
            let mut refuse = |path, message: String| found.push((path, message));
            let Ramp { from, to } = teacher.ramp;
            if from > to {
                refuse("finetune.mean_teacher.ramp", format!("expected `from` up to `to`, found {from} and {to}"));
            }
            if self.finetune.ema.is_some() {
                refuse("finetune.ema", "the mean teacher is an average already: leave one of the two out".to_owned());
            }
            if self.finetune.auxiliary.is_some() || matches!(self.finetune.task, Task::Multiclass(_)) {
                let message = "tells attacks from other rows: leave `finetune.auxiliary` out, and keep `finetune.task: binary`";
                refuse("finetune.mean_teacher", message.to_owned());
            }
            if self.finetune.batch_ensemble().is_some() {
                refuse("finetune.ensemble", "a mean teacher teaches one network at a time: take `independent`".to_owned());
            }
            if self.finetune.from == FinetuneFrom::Latents {
                let message =
                    "hides features, which frozen latents no longer have: take `pretrained` or `scratch` in `finetune.from`";
                refuse("finetune.mean_teacher", message.to_owned());
            }
        }
        if let Err(nids_flows::Error::Tokeniser { message }) = self.tokeniser.check() {
            found.push(("tokeniser", message));
        }
        if let Sigma::Range(SigmaRange { min, max }) = self.encode.noise.sigma
            && min > max
        {
            found.push(("encode.noise.sigma", format!("expected `min` up to `max`, found {min} and {max}")));
        }
        if matches!(self.encode.latents, Latents::Mu(_)) && !matches!(self.pretrain.objective, Objective::Vae(_)) {
            let message =
                "`mu` is what a variational autoencoder has: name `vae` in `pretrain.objective`, or take `mean` or `tokens`";
            found.push(("encode.latents", message.to_owned()));
        }
        if let Ensemble::Batch(BatchEnsemble { shared_blocks, .. }) = self.finetune.ensemble
            && shared_blocks > self.model.depth
        {
            let message = format!("expected at most `model.depth` ({}), found `{shared_blocks}`", self.model.depth);
            found.push(("finetune.ensemble.batch.shared_blocks", message));
        }
        if matches!(self.finetune.task, Task::Multiclass(_)) {
            if self.finetune.auxiliary.is_some() {
                let message = "categories are what `task: multiclass` learns: leave it out, or set `task: binary`";
                found.push(("finetune.auxiliary", message.to_owned()));
            }
            if self.finetune.loss != Loss::default() {
                let message = "weighs attacks with `task: binary` alone: leave it out, and set `class_balance`";
                found.push(("finetune.loss.pos_weight", message.to_owned()));
            }
        }
        if self.finetune.labels.is_some() && self.finetune.label_rows.is_some() {
            found.push(("finetune.label_rows", "`finetune.labels` draws rows: leave one of the two out".to_owned()));
        }
        if let Strategy::WidthDepth(sweep) = &self.sweep.strategy {
            for (key, name, [from, to]) in [
                ("sweep.strategy.width_depth.max_dim", "min_dim", [sweep.min_dim, sweep.max_dim]),
                ("sweep.strategy.width_depth.max_depth", "depth", [sweep.depth, sweep.max_depth]),
            ] {
                if to < from {
                    found.push((key, format!("expected `{name}` ({from}) or more, found {to}")));
                }
            }
        }
        if self.data.train.is_none() && self.data.schema != "unsw-nb15" {
            let message = "without it flows shaped like `unsw-nb15` are generated: give the file, or leave `data.schema` out";
            found.push(("data.train", message.to_owned()));
        }
        if self.data.train.is_none() && self.data.unlabelled.is_some() {
            found.push(("data.unlabelled", "is only read beside `data.train`, which is missing".to_owned()));
        }
        found
    }
}
