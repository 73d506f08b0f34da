//! The settings of the third stage.

use nids_nn::optim::{AdamWConfig, OptimiserConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::training::TrainingConfig;

/// The third stage: the classifier.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FinetuneConfig {
    /// What the classifier starts from.
    pub from: FinetuneFrom,
    /// The seed of this stage alone: of the labels drawn, the head's first weights, masks and the order of rows; `null`: the run's
    /// `seed`. Ten fine-tunings of ten seeds share one encoder.
    pub seed: Option<u64>,
    /// Labelled training rows drawn by seed, the classes in proportion, those for fewer among those for more; `null`: all.
    #[schemars(range(min = 2))]
    pub labels: Option<usize>,
    /// A text file of the training rows whose labels are used: the number of a row of `data.train` a line, counted from 0, as
    /// `query` writes them; `null`: all.
    pub label_rows: Option<String>,
    /// What is learned of a row.
    pub task: Task,
    /// Networks whose probabilities are averaged; 1 is one alone.
    #[schemars(range(min = 1, max = 64))]
    #[default(1)]
    pub members: usize,
    /// What the members share.
    pub ensemble: Ensemble,
    /// Latent values a token, where `from` is `latents`.
    #[schemars(range(min = 1, max = 65_536))]
    #[default(4)]
    pub patch_size: usize,
    /// How it is learned.
    #[serde(flatten)]
    #[default(TrainingConfig {
        steps: 600,
        optimiser: OptimiserConfig::AdamW(AdamWConfig { weight_decay: 0.05, ..AdamWConfig::default() }),
        lr: 4e-3,
        warmup: 0.1,
        ..TrainingConfig::default()
    })]
    pub training: TrainingConfig,
    /// The pretrained encoder's learning rate over `lr`.
    #[schemars(extend("minimum" = 0))]
    #[default(1.0)]
    pub encoder_lr_scale: f64,
    /// Binary cross-entropy with logits.
    pub loss: LossConfig,
    /// Average of the weights over the steps, which then is what is validated and kept; `null`: the last step's.
    pub ema: Option<EmaConfig>,
    /// A teacher on rows without labels (Tarvainen and Valpola 2017); its weights are kept. `null`: none.
    pub mean_teacher: Option<MeanTeacherConfig>,
    /// Steps between validations.
    #[schemars(range(min = 1))]
    #[default(200)]
    pub eval_every: u64,
}

/// What the classifier starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinetuneFrom {
    /// The encoder that `pretrain` left, trained further.
    #[default]
    Pretrained,
    /// The latents that `encode` left, frozen.
    Latents,
    /// Random weights.
    Scratch,
}

/// What the classifier learns of a row.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Whether it is an attack.
    #[default]
    Binary,
    /// Its category: the kind of attack, or none.
    Multiclass(MulticlassConfig),
}

/// Softmax cross-entropy over categories.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MulticlassConfig {
    /// β of class-balanced weights (Cui et al. 2019): 0 weighs all rows alike, towards 1 all categories.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.999)]
    pub class_balance: f64,
}

/// What the members of an ensemble share.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ensemble {
    /// Tokeniser, labels and pretrained weights: each is a network of its own, trained after the other.
    #[default]
    Independent,
    /// One network, in which each scales the tokens in its own way and has a head of its own.
    Batch(BatchEnsembleConfig),
}

/// Members in one network (Gorishniy et al. 2025, "TabM").
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BatchEnsembleConfig {
    /// Where the members' scales start.
    pub scales: Scales,
    /// Mixer blocks before the members part; these are computed once for all. With 0 they part at the embedded tokens.
    #[schemars(range(min = 0, max = 32))]
    pub shared_blocks: usize,
}

/// Where the scales of members start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scales {
    /// N(1, ½²): each sees much of what was pretrained.
    #[default]
    Normal,
    /// -1 or 1.
    Signs,
}

impl FinetuneConfig {
    /// Decay of the average of the weights that is kept, where one is.
    pub fn decay(&self) -> Option<f64> {
        let teacher_decay = self.mean_teacher.as_ref().map(|teacher| teacher.decay);
        teacher_decay.or(self.ema.as_ref().map(|ema| ema.decay))
    }

    /// Networks that are trained one after the other.
    pub fn independent(&self) -> usize {
        if self.ensemble == Ensemble::Independent { self.members } else { 1 }
    }

    /// Members in one network, and what they share; None where there is but one.
    pub fn batch_ensemble(&self) -> Option<(usize, &BatchEnsembleConfig)> {
        match &self.ensemble {
            Ensemble::Batch(settings) if self.members > 1 => Some((self.members, settings)),
            _ => None,
        }
    }
}

/// Binary cross-entropy with logits.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LossConfig {
    /// Weight of an attack over that of a normal row.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[default(1.0)]
    pub pos_weight: f64,
}

/// An exponential moving average of the weights.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EmaConfig {
    /// How much of the average a step leaves; less in the first steps.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.998)]
    pub decay: f64,
}

/// A teacher, the average of the student's weights, whose verdicts on rows without labels the student learns to give although
/// features are hidden from it (Tarvainen and Valpola 2017).
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MeanTeacherConfig {
    /// How much of the average a step leaves; less in the first steps.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.998)]
    pub decay: f64,
    /// Weight of agreeing with the teacher over that of the labels.
    #[schemars(extend("minimum" = 0))]
    #[default(1.0)]
    pub weight: f64,
    /// Shares of the steps between which the weight rises from 0.
    pub ramp: RampConfig,
    /// Rows without labels a step, beside the `batch_size` with.
    #[schemars(range(min = 1, max = 1_048_576))]
    #[default(256)]
    pub batch_size: usize,
    /// Share of their features that is hidden from the student.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.4)]
    pub mask_ratio: f64,
}

/// Where something starts to rise and where it has risen, in shares of the steps.
#[derive(Clone, Copy, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RampConfig {
    /// Where it starts to rise.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    #[default(0.1)]
    pub from: f64,
    /// Where it has risen; at least `from`.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    #[default(0.4)]
    pub to: f64,
}
