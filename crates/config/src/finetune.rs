//! The settings of the third stage.

use nids_nn::optim::{AdamWConfig, OptimiserConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::settings::Files;
use super::training::TrainingConfig;

/// The third stage: the classifier.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FinetuneConfig {
    /// What the classifier starts from.
    pub from: FinetuneFrom,
    /// Seed of this stage alone: of the labels that are drawn, the head's initial weights, masks and the order of rows. With
    /// `null`, it is the run's `seed`. Fine-tunings with different seeds can share one encoder.
    pub seed: Option<u64>,
    /// Number of labelled training rows, drawn by seed with the classes in proportion. The rows of a smaller number are among
    /// those of a larger one. With `null`, all labels are used.
    #[schemars(range(min = 2))]
    pub labels: Option<usize>,
    /// Text file that lists the training rows whose labels are used: one row number of `data.train` per line, counted from 0, as
    /// `query` writes them. With `null`, all labels are used.
    pub label_rows: Option<String>,
    /// What the classifier learns about a row.
    pub task: Task,
    /// Number of networks whose probabilities are averaged.
    #[schemars(range(min = 1, max = 64))]
    #[default(1)]
    pub members: usize,
    /// What the members share.
    pub ensemble: Ensemble,
    /// Small learners that vote on a row's probability: with `frozen` and `features` these alone, else beside the network. With
    /// `null`, all four with `frozen` and `features`, and else none.
    #[schemars(extend("x-newer" = true))]
    pub heads: Option<Vec<Head>>,
    /// Run folders of classifiers from which the networks learn (distillation, Hinton et al. 2015): the targets of all training rows
    /// and of `data.unlabelled` are the probabilities by the mean of the teachers' log odds, of a row with a label half that and half
    /// the label. With `null`, networks learn from labels alone.
    #[schemars(extend("x-newer" = true))]
    pub teachers: Option<Files>,
    /// Whether the classifier is trained once more on the rows held out as well, after they have said how good it is.
    #[schemars(extend("x-newer" = true))]
    pub refit: Refit,
    /// Latent values per token, if `from` is `latents`.
    #[schemars(range(min = 1, max = 65_536))]
    #[default(4)]
    pub patch_size: usize,
    /// How fine-tuning learns.
    #[serde(flatten)]
    #[default(TrainingConfig {
        steps: 600,
        optimiser: OptimiserConfig::AdamW(AdamWConfig { weight_decay: 0.05, ..AdamWConfig::default() }),
        lr: 4e-3,
        warmup: 0.1,
        ..TrainingConfig::default()
    })]
    pub training: TrainingConfig,
    /// Learning rate of the pretrained encoder, divided by `lr`.
    #[schemars(extend("minimum" = 0))]
    #[default(1.0)]
    pub encoder_lr_scale: f64,
    /// Binary cross-entropy with logits.
    pub loss: LossConfig,
    /// Moving average of the weights, which is then validated and kept. With `null`, the weights of the last step are.
    pub ema: Option<EmaConfig>,
    /// Mean teacher, which uses rows without labels (Tarvainen and Valpola 2017). Its weights are kept. `null` means no teacher.
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
    /// The encoder that `pretrain` left, which is not trained: `heads` are fitted on its tokens, in seconds. For few labels.
    Frozen,
    /// No network: `heads` are fitted on the tokenised features.
    Features,
}

/// Which rows the classifier that is kept has learned from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refit {
    /// The training rows with labels. The rows held out can then certify a threshold.
    #[default]
    None,
    /// These and the rows held out. The metrics are those of the classifier before, which has not seen them.
    All,
}

/// A small learner, fitted at once and not step by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// Logistic regression on principal components of frozen tokens or tokenised features.
    Logistic,
    /// A machine with a radial basis kernel on the same components.
    KernelMachine,
    /// Extremely randomised trees on the features.
    ExtraTrees,
    /// Gradient-boosted trees on the features.
    Boosting,
}

impl Head {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Logistic, Self::KernelMachine, Self::ExtraTrees, Self::Boosting];

    /// Whether it stands on principal components, not on features.
    pub fn needs_components(self) -> bool {
        matches!(self, Self::Logistic | Self::KernelMachine)
    }
}

/// What the classifier learns about a row.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Whether the row is an attack.
    #[default]
    Binary,
    /// The row's category: the kind of attack, or no attack.
    Multiclass(MulticlassConfig),
}

/// Softmax cross-entropy over categories.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MulticlassConfig {
    /// β of class-balanced weights (Cui et al. 2019): with 0 all rows weigh the same, towards 1 all categories do.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.999)]
    pub class_balance: f64,
    /// τ of logit adjustment (Menon et al. 2021): τ times the log share of a category in training is added to its logit in the loss
    /// alone, so that rare categories need a wider margin. With 0 nothing is.
    #[schemars(extend("minimum" = 0, "x-newer" = true))]
    pub logit_adjustment: f64,
}

/// What the members of an ensemble share.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ensemble {
    /// Tokeniser, labels and pretrained weights. Each member is a separate network; they are trained one after another.
    #[default]
    Independent,
    /// One network. Each member has its own scales of the tokens and its own head.
    Batch(BatchEnsembleConfig),
}

/// Members in one network (Gorishniy et al. 2025, "TabM").
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BatchEnsembleConfig {
    /// Initial values of the members' scales.
    pub scales: Scales,
    /// Number of Mixer blocks that all members share and that are computed once. With 0, members differ from the embedded
    /// tokens on.
    #[schemars(range(min = 0, max = 32))]
    pub shared_blocks: usize,
}

/// Initial values of the members' scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scales {
    /// N(1, ½²), which keeps much of the pretrained features in each member.
    #[default]
    Normal,
    /// -1 or 1, at random.
    Signs,
}

impl FinetuneConfig {
    /// Decay of the average of the weights, if one is kept.
    pub fn decay(&self) -> Option<f64> {
        let teacher_decay = self.mean_teacher.as_ref().map(|teacher| teacher.decay);
        teacher_decay.or(self.ema.as_ref().map(|ema| ema.decay))
    }

    /// The small learners that vote.
    pub fn heads(&self) -> &[Head] {
        match &self.heads {
            Some(heads) => heads,
            None if self.has_network() => &[],
            None => &Head::ALL,
        }
    }

    /// Whether a network is trained.
    pub fn has_network(&self) -> bool {
        !matches!(self.from, FinetuneFrom::Frozen | FinetuneFrom::Features)
    }

    /// Number of networks that are trained one after another.
    pub fn independent(&self) -> usize {
        if self.ensemble == Ensemble::Independent { self.members } else { 1 }
    }

    /// Number of members in one network and what they share; `None` for a single member.
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
    /// Weight of an attack, relative to a normal row.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[default(1.0)]
    pub pos_weight: f64,
    /// Label smoothing (Szegedy et al. 2016): the networks' targets are this share of ½ and the rest of the label, so that they are
    /// less sure of themselves.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1, "x-newer" = true))]
    pub label_smoothing: f64,
}

/// An exponential moving average of the weights.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EmaConfig {
    /// Share of the average that a step keeps; it is smaller in the first steps.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.998)]
    pub decay: f64,
}

/// A mean teacher (Tarvainen and Valpola 2017). The teacher's weights are the average of the student's. On rows without labels the
/// student learns to give the teacher's verdicts although some features are hidden from it.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MeanTeacherConfig {
    /// Share of the average that a step keeps; it is smaller in the first steps.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.998)]
    pub decay: f64,
    /// Weight of the agreement with the teacher, relative to the loss on labels.
    #[schemars(extend("minimum" = 0))]
    #[default(1.0)]
    pub weight: f64,
    /// The part of the run in which the weight rises from 0.
    pub ramp: RampConfig,
    /// Rows without labels per step, in addition to the `batch_size` labelled ones.
    #[schemars(range(min = 1, max = 1_048_576))]
    #[default(256)]
    pub batch_size: usize,
    /// Share of the features of these rows that is hidden from the student.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.4)]
    pub mask_ratio: f64,
}

/// The part of a run in which something rises.
#[derive(Clone, Copy, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RampConfig {
    /// Share of the steps after which it starts to rise.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    #[default(0.1)]
    pub from: f64,
    /// Share of the steps after which it has risen; at least `from`.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    #[default(0.4)]
    pub to: f64,
}
