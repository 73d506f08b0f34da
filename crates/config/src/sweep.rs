//! What `sweep` tries.

use serde::{Deserialize, Serialize};
use serde_yaml::with::singleton_map;

/// How `sweep` looks for a network or for settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// Default: width, then depth.
    #[serde(with = "singleton_map")]
    pub strategy: SweepStrategy,
}

/// In which order trials are made, and who goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SweepStrategy {
    /// The smallest width, then depth, that a larger one does not beat in the first iterations from scratch.
    WidthDepth(WidthDepth),
    /// Any settings, the best of which go on for longer.
    Halving(Halving),
}

impl Default for SweepStrategy {
    fn default() -> Self {
        Self::WidthDepth(WidthDepth::default())
    }
}

/// Width, then depth. Both go up as 8, 12, 16, 24, 32, ...
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WidthDepth {
    /// Steps of a trial. Default 150.
    pub iterations: u64,
    /// Training and validation loss must fall by this share of ln 2 to be promising. Default 0.5.
    pub min_drop: f64,
    /// A larger network must lower the validation loss by more than this share. Default 0.02.
    pub tolerance: f64,
    /// The first width. Default 8.
    pub min_dim: usize,
    /// The last width. Default 128.
    pub max_dim: usize,
    /// The depth at which widths are tried. Default 2.
    pub depth: usize,
    /// The last depth. Default 8.
    pub max_depth: usize,
}

impl Default for WidthDepth {
    fn default() -> Self {
        Self { iterations: 150, min_drop: 0.5, tolerance: 0.02, min_dim: 8, max_dim: 128, depth: 2, max_depth: 8 }
    }
}

/// Successive halving (Jamieson & Talwalkar 2016).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Halving {
    /// Steps of fine-tuning that everybody gets. Default 75.
    pub min_steps: u64,
    /// One in so many goes on, for so many times the steps. Default 3.
    pub eta: usize,
    /// If the grid has more combinations, so many of them are drawn. Default 27.
    pub max_candidates: usize,
}

impl Default for Halving {
    fn default() -> Self {
        Self { min_steps: 75, eta: 3, max_candidates: 27 }
    }
}
