//! The settings of a stage that trains, declared once for both such stages.

use nids_nn::optim::OptimiserConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

/// How a stage learns: the keys that `pretrain` and `finetune` have in common. In a config they are written among the stage's own
/// keys. The defaults are those of `pretrain`; [`super::FinetuneConfig`] has others.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrainingConfig {
    /// Number of optimiser steps.
    #[schemars(range(min = 1))]
    #[default(2000)]
    pub steps: u64,
    /// Rows per step.
    #[schemars(range(min = 1, max = 1_048_576))]
    #[default(512)]
    pub batch_size: usize,
    /// Rows whose gradient is computed at once (gradient accumulation). `batch_size` must be a multiple of it, or smaller.
    #[schemars(range(min = 1, max = 1_048_576))]
    #[default(512)]
    pub micro_batch: usize,
    /// The optimiser.
    pub optimiser: OptimiserConfig,
    /// The highest learning rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[default(1.5e-3)]
    pub lr: f64,
    /// How the learning rate changes over the run.
    pub schedule: ScheduleConfig,
    /// Share of the run over which the learning rate rises to `lr`.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    #[default(0.05)]
    pub warmup: f64,
    /// The learning rate that the schedule falls to.
    #[schemars(extend("minimum" = 0))]
    pub min_lr: f64,
    /// When the learning rate changes.
    pub schedule_per: Per,
    /// Gradients whose norm over all parameters is larger are scaled down to this norm. With `null`, none is.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[default(Some(1.0))]
    pub clip_norm: Option<f64>,
    /// What the stage does when a loss, a gradient or a weight is NaN or infinite.
    pub nonfinite: NonfinitePolicy,
    /// Steps between lines of `metrics.jsonl`.
    #[schemars(range(min = 1), extend("x-changes" = "nothing"))]
    #[default(50)]
    pub log_every: u64,
    /// What the stage does when linear layers no longer learn (vanishing gradients).
    #[schemars(extend("x-changes" = "nothing"))]
    pub monitor: MonitorPolicy,
}

/// What a stage does when a loss, a gradient or a weight is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NonfinitePolicy {
    /// The stage ends with an error and keeps its last checkpoint.
    #[default]
    Stop,
    /// The step changes nothing. After ten such steps in a row, the stage ends with an error.
    Skip,
    /// The stage goes back to the last step divisible by 100 and continues with half the learning rate. The sixth time, it ends
    /// with an error.
    Rollback,
}

/// What a stage does when linear layers no longer learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MonitorPolicy {
    /// Layers are not monitored.
    Off,
    /// A warning names the layers.
    #[default]
    Warn,
    /// The stage ends with an error that names the layers.
    Stop,
}

/// How the learning rate changes over the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleConfig {
    /// Linear warm-up, then half a cosine down to `min_lr`.
    #[default]
    Cosine,
    /// Linear warm-up, then a constant rate.
    Constant,
    /// Linear warm-up, then repeated half cosines (Loshchilov and Hutter 2017).
    CosineRestarts(RestartsConfig),
    /// Half a cosine up from `lr` / 25 over `warmup`, then half a cosine down to `min_lr` (Smith and Topin 2018).
    OneCycle,
}

/// The cycles of [`ScheduleConfig::CosineRestarts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RestartsConfig {
    /// Steps (or epochs) of the first cycle.
    #[schemars(range(min = 1, max = 4_294_967_296_u64))]
    #[default(100)]
    pub t_0: usize,
    /// Length of a cycle, divided by the length of the previous one.
    #[schemars(range(min = 1, max = 65_536))]
    #[default(2)]
    pub t_mult: usize,
}

/// When the learning rate changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// At every step.
    #[default]
    Step,
    /// At the first step that begins in a new epoch over the stage's rows. Cycles are counted in epochs.
    Epoch,
}
