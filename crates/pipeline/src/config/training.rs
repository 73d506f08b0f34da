//! The settings of a stage that trains: written once, for both.

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
    pub optimiser: Optimiser,
    /// The highest learning rate. Default 1.5e-3; 4e-3 in `finetune`.
    pub lr: f64,
    /// Default cosine after 5 % warm-up; 10 % in `finetune`.
    #[serde(with = "singleton_map")]
    pub schedule: Schedule,
    /// The gradient's norm over all parameters is cut to this; null: never. Default 1.
    pub clip_norm: Option<f64>,
    /// Steps between lines of `metrics.jsonl`. Default 50.
    pub log_every: u64,
}

/// Those of `pretrain`.
impl Default for Training {
    fn default() -> Self {
        Self {
            steps: 2000,
            batch_size: 512,
            micro_batch: 512,
            optimiser: Optimiser::AdamW(AdamW::default()),
            lr: 1.5e-3,
            schedule: Schedule::Cosine(Cosine::default()),
            clip_norm: Some(1.0),
            log_every: 50,
        }
    }
}

/// The optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimiser {
    /// Decay apart from the gradient.
    AdamW(AdamW),
    /// Decay as part of the gradient.
    Adam(Adam),
}

/// AdamW (Loshchilov and Hutter 2019).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdamW {
    /// Default 0.9.
    pub beta1: f64,
    /// Default 0.999.
    pub beta2: f64,
    /// Default 1e-8.
    pub eps: f64,
    /// Decoupled decay. Default 0.01; 0.05 in `finetune`.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// Adam (Kingma and Ba 2015).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Adam {
    /// Default 0.9.
    pub beta1: f64,
    /// Default 0.99.
    pub beta2: f64,
    /// Default 1e-8.
    pub eps: f64,
    /// L2 penalty, added to the gradient. Default 0.
    pub weight_decay: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// The learning rate over the steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Linear warm-up, then half a cosine down to `min_lr`.
    Cosine(Cosine),
    /// Linear warm-up, then level.
    Constant(Constant),
}

/// Linear warm-up, then half a cosine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cosine {
    /// The share of steps that warm up. Default 0.05; 0.1 in `finetune`.
    pub warmup: f64,
    /// Where it ends. Default 0.
    pub min_lr: f64,
}

impl Default for Cosine {
    fn default() -> Self {
        Self { warmup: 0.05, min_lr: 0.0 }
    }
}

/// Linear warm-up, then level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Constant {
    /// The share of steps that warm up. Default 0.05.
    pub warmup: f64,
}

impl Default for Constant {
    fn default() -> Self {
        Self { warmup: 0.05 }
    }
}
