//! The settings of `sweep`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

/// How `sweep` looks for a network or for settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SweepConfig {
    /// The order of the trials, and which of them the sweep keeps.
    pub strategy: SweepStrategy,
}

/// The order of the trials, and which of them the sweep keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SweepStrategy {
    /// Finds the smallest width, then the smallest depth, that a larger one does not beat in the first iterations from scratch.
    /// Both go up as 8, 12, 16, 24, 32, ...
    WidthDepth(WidthDepthConfig),
    /// Tries combinations of any settings and trains the best ones for longer: successive halving (Jamieson and Talwalkar 2016).
    Halving(HalvingConfig),
}

impl Default for SweepStrategy {
    fn default() -> Self {
        Self::WidthDepth(WidthDepthConfig::default())
    }
}

/// A search for the width, then for the depth.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WidthDepthConfig {
    /// Number of steps of a trial.
    #[schemars(range(min = 10))]
    #[default(150)]
    pub iterations: u64,
    /// A trial is promising if its training and validation loss fall by at least this share of ln 2.
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
    /// Number of steps of fine-tuning that every candidate gets.
    #[schemars(range(min = 10))]
    #[default(75)]
    pub min_steps: u64,
    /// One candidate in `eta` goes on to the next round, which has `eta` times as many steps.
    #[schemars(range(min = 2, max = 1024))]
    #[default(3)]
    pub eta: usize,
    /// The most candidates; if the grid has more combinations, this many are drawn at random.
    #[schemars(range(min = 1, max = 100_000))]
    #[default(27)]
    pub max_candidates: usize,
}
