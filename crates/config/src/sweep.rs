//! What `sweep` tries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

/// How `sweep` looks for a network or for settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SweepConfig {
    /// In which order trials are made, and which of them go on.
    pub strategy: SweepStrategy,
}

/// In which order trials are made, and which of them go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SweepStrategy {
    /// The smallest width, then depth, that a larger one does not beat in the first iterations from scratch. Both go up as 8, 12,
    /// 16, 24, 32, ...
    WidthDepth(WidthDepthConfig),
    /// Any settings, the best of which go on for longer: successive halving (Jamieson and Talwalkar 2016).
    Halving(HalvingConfig),
}

impl Default for SweepStrategy {
    fn default() -> Self {
        Self::WidthDepth(WidthDepthConfig::default())
    }
}

/// Width, then depth.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WidthDepthConfig {
    /// Steps of a trial.
    #[schemars(range(min = 10))]
    #[default(150)]
    pub iterations: u64,
    /// Share of ln 2 by which training and validation loss must fall to be promising.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.5)]
    pub min_drop: f64,
    /// A larger network must lower the validation loss by more than this share.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.02)]
    pub tolerance: f64,
    /// The first width.
    #[schemars(range(min = 1, max = 4096))]
    #[default(8)]
    pub min_dim: usize,
    /// The last width.
    #[schemars(range(min = 1, max = 4096))]
    #[default(128)]
    pub max_dim: usize,
    /// The depth at which widths are tried.
    #[schemars(range(min = 1, max = 32))]
    #[default(2)]
    pub depth: usize,
    /// The last depth.
    #[schemars(range(min = 1, max = 32))]
    #[default(8)]
    pub max_depth: usize,
}

/// Successive halving.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HalvingConfig {
    /// Steps of fine-tuning that every candidate gets.
    #[schemars(range(min = 10))]
    #[default(75)]
    pub min_steps: u64,
    /// One in so many goes on, for so many times the steps.
    #[schemars(range(min = 2, max = 1024))]
    #[default(3)]
    pub eta: usize,
    /// If the grid has more combinations, so many of them are drawn.
    #[schemars(range(min = 1, max = 100_000))]
    #[default(27)]
    pub max_candidates: usize,
}
