//! The state of a checkpoint: what a training run needs, in addition to its tensors, to go on.

use std::borrow::Cow;
use std::collections::BTreeMap;

use nids_store::Result;
use nids_store::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};

use crate::monitor::MonitorState;

/// The state of a training run between two steps, without its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// The member in training, if there are several independent ones.
    pub(crate) member: Option<usize>,
    /// Number of steps taken.
    pub(crate) step: u64,
    /// Number of updates of the optimiser; smaller than `step` if steps were skipped.
    pub(crate) updates: u64,
    /// Number of updates of the average of the weights.
    pub(crate) averaged: u64,
    /// Sums over the steps since the last line of the log.
    pub(crate) window: LogWindow,
    pub(crate) monitor: Option<MonitorState>,
    /// Skipped steps and rollbacks so far.
    pub(crate) recovery: RecoveryState,
    /// The last validation loss. Pretraining has none and uses the last loss in the log.
    pub(crate) score: Option<f64>,
    /// The step that a rollback goes to.
    pub(crate) rollback_point: Option<RollbackPoint>,
}

/// A step that a rollback goes to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollbackPoint {
    pub(crate) step: u64,
    pub(crate) updates: u64,
    pub(crate) averaged: u64,
}

/// Sums over the steps since the last line of metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogWindow {
    pub(crate) loss: f64,
    pub(crate) steps: f64,
    pub(crate) terms: BTreeMap<Cow<'static, str>, f64>,
}

/// How a run has recovered from non-finite values so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RecoveryState {
    /// Number of steps skipped since the last step that was taken.
    pub(crate) skipped: u64,
    pub(crate) rollbacks: u64,
    /// Factor on every learning rate.
    pub(crate) lr_scale: f64,
}

impl Default for RecoveryState {
    fn default() -> Self {
        Self { skipped: 0, rollbacks: 0, lr_scale: 1.0 }
    }
}

/// The member that was in training when the checkpoint was taken, if there are several independent ones.
///
/// # Errors
/// Fails if the state of the checkpoint cannot be read.
pub fn member_in_training(checkpoint: &Checkpoint) -> Result<Option<usize>> {
    Ok(checkpoint.state::<State>()?.member)
}
