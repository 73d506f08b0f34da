//! The settings of the third stage.

use serde::{Deserialize, Serialize};
use serde_yaml::with::singleton_map;

use nids_nn::optim::{AdamWConfig, OptimiserConfig};

use super::training::{Cosine, Schedule, Training};

/// The third stage: the classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finetune {
    /// Default: the pretrained encoder.
    pub from: FinetuneFrom,
    /// Labelled training rows drawn by seed, the classes in proportion, those for fewer among those for more; null (the
    /// default): all.
    pub labels: Option<usize>,
    /// A text file of the training rows whose labels are used: the number of a row of `data.train` a line, counted from 0, as
    /// `query` writes them; null (the default): all.
    pub label_rows: Option<String>,
    /// What is learned of a row. Default: whether it is an attack.
    #[serde(with = "singleton_map")]
    pub task: Task,
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
            members: 1,
            ensemble: Ensemble::Independent,
            patch_size: 4,
            training: Training {
                steps: 600,
                optimiser: OptimiserConfig::AdamW(AdamWConfig { weight_decay: 0.05, ..AdamWConfig::default() }),
                lr: 4e-3,
                schedule: Schedule::Cosine(Cosine { warmup: 0.1, ..Cosine::default() }),
                ..Training::default()
            },
            encoder_lr_scale: 1.0,
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
    /// Decay of the average of the weights that is kept, where one is.
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
