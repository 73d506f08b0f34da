//! What a training needs beside its tensors to go on: the state of a checkpoint.

use std::borrow::Cow;
use std::collections::BTreeMap;

use nids_store::Result;
use nids_store::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};

use crate::monitor::MonitorState;

/// The numbers of a checkpoint that are no tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Of independent members, the one in training.
    pub(crate) member: Option<usize>,
    /// Steps taken.
    pub(crate) step: u64,
    /// Updates of the optimiser: fewer than steps where some were skipped.
    pub(crate) updates: u64,
    /// Updates of the average of the weights.
    pub(crate) averaged: u64,
    /// What is logged of the steps since the last line.
    pub(crate) window: LogWindow,
    pub(crate) monitor: Option<MonitorState>,
    /// What the run has gone through; see [`RecoveryState`].
    pub(crate) recovery: RecoveryState,
    /// The last validation loss; in pretraining, which has none, the last loss logged.
    pub(crate) score: Option<f64>,
    /// Where a rollback goes.
    pub(crate) rollback_point: Option<RollbackPoint>,
}

/// A step to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollbackPoint {
    pub(crate) step: u64,
    pub(crate) updates: u64,
    pub(crate) averaged: u64,
}

/// Sums since the last line of metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogWindow {
    pub(crate) loss: f64,
    pub(crate) steps: f64,
    pub(crate) terms: BTreeMap<Cow<'static, str>, f64>,
}

/// What numbers that were none have done to a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RecoveryState {
    /// Steps skipped since the last that was not.
    pub(crate) skipped: u64,
    pub(crate) rollbacks: u64,
    /// On every learning rate.
    pub(crate) lr_scale: f64,
}

impl Default for RecoveryState {
    fn default() -> Self {
        Self { skipped: 0, rollbacks: 0, lr_scale: 1.0 }
    }
}

/// Of independent members, the one that was in training when a checkpoint was taken.
///
/// # Errors
/// A state that cannot be read.
pub fn member_in_training(checkpoint: &Checkpoint) -> Result<Option<usize>> {
    Ok(checkpoint.state::<State>()?.member)
}
