//! The stages: one file each.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::run::Run;

/// What `predict` saw beside the verdicts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PredictSummary {
    /// Rows read, hence lines written.
    pub rows: u64,
    /// Rows called an attack.
    pub attacks: u64,
    /// Values never seen in training, by column.
    pub unknown_categories: BTreeMap<String, u64>,
}

/// Trains the masked autoencoder on rows without labels.
pub fn pretrain(_config: &Config, _run: &Run, _progress: &mut dyn Progress) -> Result<()> {
    Err(not_built("pretrain"))
}

/// Writes the latents of every row and fits the ridge probe on them.
pub fn encode(_config: &Config, _run: &Run, _progress: &mut dyn Progress) -> Result<()> {
    Err(not_built("encode"))
}

/// Trains the classifier.
pub fn finetune(_config: &Config, _run: &Run, _progress: &mut dyn Progress) -> Result<()> {
    Err(not_built("finetune"))
}

/// Compares verdicts with the labels of `data`.
pub fn evaluate(_run: &Run, _data: &Path, _progress: &mut dyn Progress) -> Result<Metrics> {
    Err(not_built("evaluate"))
}

/// Writes one line per row of `data`, in order: `id,probability,verdict`.
pub fn predict(_run: &Run, _data: &Path, _out: &mut dyn Write, _progress: &mut dyn Progress) -> Result<PredictSummary> {
    Err(not_built("predict"))
}

/// Writes `rows` generated flows as CSV.
pub fn synth(rows: usize, seed: u64, out: &mut dyn Write) -> Result<()> {
    nids_flows::write_csv(&nids_flows::synthetic(rows, seed), out).map_err(Error::io("flows", "write"))
}

fn not_built(stage: &str) -> Error {
    Error::Usage(format!("`{stage}` is not built yet"))
}
