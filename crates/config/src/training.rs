//! The settings of a stage that trains: written once, for both.

use nids_nn::optim::{AdamWConfig, OptimiserConfig};
use serde::{Deserialize, Serialize};
use serde_yaml::with::singleton_map;

/// How a stage learns: the keys that `pretrain` and `finetune` have in common. In a config they stand among the stage's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Default 2,000; 600 in `finetune`.
    pub steps: u64,
    /// Rows a step. Default 512.
    pub batch_size: usize,
    /// Rows whose gradient is computed at once; `batch_size` is a multiple, or smaller. Default 512.
    pub micro_batch: usize,
    /// Default AdamW with weight decay 0.01; 0.05 in `finetune`.
    #[serde(with = "singleton_map")]
    pub optimiser: OptimiserConfig,
    /// The highest learning rate. Default 1.5e-3; 4e-3 in `finetune`.
    pub lr: f64,
    /// Default cosine after 5 % warm-up; 10 % in `finetune`.
    #[serde(with = "singleton_map")]
    pub schedule: Schedule,
    /// The gradient's norm over all parameters is cut to this; null: never. Default 1.
    pub clip_norm: Option<f64>,
    /// What is done about non-finite values (NaN, Inf). Default: the stage stops.
    #[serde(with = "singleton_map")]
    pub nonfinite: Nonfinite,
    /// Steps between lines of `metrics.jsonl`. Default 50.
    pub log_every: u64,
    /// Null: off. Default: a look every 50 steps.
    pub monitor: Option<Monitor>,
}

/// Those of `pretrain`.
impl Default for Training {
    fn default() -> Self {
        Self {
            steps: 2000,
            batch_size: 512,
            micro_batch: 512,
            optimiser: OptimiserConfig::AdamW(AdamWConfig::default()),
            lr: 1.5e-3,
            schedule: Schedule::Cosine(Cosine::default()),
            clip_norm: Some(1.0),
            nonfinite: Nonfinite::Stop,
            log_every: 50,
            monitor: Some(Monitor::default()),
        }
    }
}

/// What is done about a loss, a gradient or a weight that is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nonfinite {
    /// The stage ends with an error, its last checkpoint intact.
    Stop,
    /// The step changes nothing.
    Skip(Skip),
    /// The stage goes back and on with a lower learning rate.
    Rollback(Rollback),
}

/// The step changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Skip {
    /// Steps skipped in a row after which the stage stops. Default 10.
    pub max: u64,
}

impl Default for Skip {
    fn default() -> Self {
        Self { max: 10 }
    }
}

/// The stage goes back and on with a lower learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rollback {
    /// It goes back to the last step that this divides. Default 100.
    pub every: u64,
    /// On every learning rate from then on. Default 0.5.
    pub lr_factor: f64,
    /// Times after which the stage stops. Default 5.
    pub max: u64,
}

impl Default for Rollback {
    fn default() -> Self {
        Self { every: 100, lr_factor: 0.5, max: 5 }
    }
}

/// Watches for linear layers that no longer learn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Monitor {
    /// Steps between looks. Default 50.
    pub every: u64,
    /// A layer is still if no weight moves by this much of the learning rate in one step, decay left out. Default 1e-4.
    pub threshold: f64,
    /// Looks in a row at which a layer is still, and over which the loss does not fall by 1 %, before it is reported. Default 5.
    pub patience: u64,
    /// Whether a report ends the run. Default false.
    pub stop: bool,
}

impl Default for Monitor {
    fn default() -> Self {
        Self { every: 50, threshold: 1e-4, patience: 5, stop: false }
    }
}

/// The learning rate over the run: `lr` at its highest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Linear warm-up, then half a cosine down to `min_lr`.
    Cosine(Cosine),
    /// Linear warm-up, then level.
    Constant(Constant),
    /// Linear warm-up, then half a cosine again and again.
    CosineRestarts(CosineRestarts),
    /// Half a wave up, then one down.
    OneCycle(OneCycle),
}

impl Schedule {
    /// What it counts.
    pub fn per(&self) -> Per {
        match self {
            Self::Cosine(Cosine { per, .. })
            | Self::Constant(Constant { per, .. })
            | Self::CosineRestarts(CosineRestarts { per, .. })
            | Self::OneCycle(OneCycle { per, .. }) => *per,
        }
    }

    /// A rate above `lr`, by its key.
    pub(super) fn above(&self, lr: f64) -> Option<(&'static str, f64)> {
        let (warmup_start_lr, min_lr) = match self {
            Self::Cosine(c) => (c.warmup_start_lr, c.min_lr),
            Self::Constant(c) => (c.warmup_start_lr, 0.0),
            Self::CosineRestarts(c) => (c.warmup_start_lr, c.min_lr),
            Self::OneCycle(_) => return None,
        };
        [("warmup_start_lr", warmup_start_lr), ("min_lr", min_lr)].into_iter().find(|(_, rate)| *rate > lr)
    }
}

/// What a schedule counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Steps: every one has its own rate.
    #[default]
    Step,
    /// Epochs over the stage's rows: the rate changes with the first step that begins in a new one.
    Epoch,
}

/// Linear warm-up, then half a cosine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cosine {
    /// The share of the run that warms up. Default 0.05; 0.1 in `finetune`.
    pub warmup: f64,
    /// Where warm-up begins. Default 0.
    pub warmup_start_lr: f64,
    /// Where it ends. Default 0.
    pub min_lr: f64,
    /// The share of what follows warm-up over which the wave comes down; it stays at `min_lr` from there. Default 1.
    pub t_max: f64,
    /// Default: the rate changes every step.
    pub per: Per,
}

impl Default for Cosine {
    fn default() -> Self {
        Self { warmup: 0.05, warmup_start_lr: 0.0, min_lr: 0.0, t_max: 1.0, per: Per::Step }
    }
}

/// Linear warm-up, then level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Constant {
    /// The share of the run that warms up. Default 0.05.
    pub warmup: f64,
    /// Where warm-up begins. Default 0.
    pub warmup_start_lr: f64,
    /// Default: the rate changes every step.
    pub per: Per,
}

impl Default for Constant {
    fn default() -> Self {
        Self { warmup: 0.05, warmup_start_lr: 0.0, per: Per::Step }
    }
}

/// Linear warm-up, then half a cosine again and again (Loshchilov and Hutter 2017).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CosineRestarts {
    /// The share of the run that warms up. Default 0.05.
    pub warmup: f64,
    /// Where warm-up begins. Default 0.
    pub warmup_start_lr: f64,
    /// What each cycle falls towards. Default 0.
    pub min_lr: f64,
    /// Steps (or epochs) of the first cycle. Default 100.
    pub t_0: usize,
    /// Length of a cycle over that of the one before. Default 2.
    pub t_mult: usize,
    /// Default: the rate changes every step.
    pub per: Per,
}

impl Default for CosineRestarts {
    fn default() -> Self {
        Self { warmup: 0.05, warmup_start_lr: 0.0, min_lr: 0.0, t_0: 100, t_mult: 2, per: Per::Step }
    }
}

/// Half a wave up, then one down (Smith and Topin 2018), as torch.optim.lr_scheduler.OneCycleLR has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OneCycle {
    /// The share of the run on the way up. Default 0.3.
    pub pct_start: f64,
    /// `lr` over the first rate. Default 25.
    pub div_factor: f64,
    /// The first rate over the last. Default 10,000.
    pub final_div_factor: f64,
    /// Default: the rate changes every step.
    pub per: Per,
}

impl Default for OneCycle {
    fn default() -> Self {
        Self { pct_start: 0.3, div_factor: 25.0, final_div_factor: 1e4, per: Per::Step }
    }
}
