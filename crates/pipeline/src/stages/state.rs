//! What a training needs beside its tensors to go on: the state of a checkpoint.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::monitor::MonitorState;

/// The numbers of a checkpoint that are no tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// Of independent members, the one in training.
    pub(super) member: Option<usize>,
    /// Steps taken.
    pub(super) step: u64,
    /// Updates of the optimiser: fewer than steps where some were skipped.
    pub(super) updates: u64,
    /// Updates of the average of the weights.
    pub(super) averaged: u64,
    /// What is logged of the steps since the last line.
    pub(super) window: Window,
    pub(super) monitor: Option<MonitorState>,
    /// What the run has gone through; see [`Trouble`].
    pub(super) trouble: Trouble,
    /// The last validation loss; in pretraining, which has none, the last loss logged.
    pub(super) score: Option<f64>,
    /// Where a rollback goes.
    pub(super) back: Option<Back>,
}

/// A step to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Back {
    pub(super) step: u64,
    pub(super) updates: u64,
    pub(super) averaged: u64,
}

/// Sums since the last line of metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Window {
    pub(super) loss: f64,
    pub(super) steps: f64,
    pub(super) parts: BTreeMap<Cow<'static, str>, f64>,
}

/// What numbers that were none have done to a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Trouble {
    /// Steps skipped since the last that was not.
    pub(super) skipped: u64,
    pub(super) rollbacks: u64,
    /// On every learning rate.
    pub(super) lr_scale: f64,
}

impl Default for Trouble {
    fn default() -> Self {
        Self { skipped: 0, rollbacks: 0, lr_scale: 1.0 }
    }
}
