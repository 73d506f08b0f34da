//! The stages: one file each, and what several of them share.

mod bench;
mod classifier;
mod data;
mod encode;
mod engine;
mod finetune;
mod labels;
mod mean_teacher;
mod network;
mod predict;
mod pretrain;
mod query;
mod sweep;
mod verdicts;

use std::io::Write;
use std::path::Path;

use nids_interop::import::Imported;

use nids_config::Stage;
use nids_store::run::{MODEL, PRETRAINED, TOKENISER};
use nids_store::{Error, Result};

pub use bench::{BenchOptions, BenchReport, Case, Measurement, bench};
pub use encode::encode;
pub use finetune::finetune;
pub use predict::{PredictSummary, evaluate, parameters, predict};
pub use pretrain::pretrain;
pub use query::{QueryOptions, QueryStrategy, query};
pub use sweep::{Axis, SweepReport, Trial, Verdict, sweep};

/// What to do about an artefact that cannot be used.
fn again(stage: Stage) -> String {
    format!("run `nids-mixer {stage}` again")
}

/// For `map_err` on what `nids-eval` says.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` hands over")]
fn judging(error: nids_eval::Error) -> Error {
    Error::Numerics(error.to_string())
}

/// Turns a checkpoint of the numpy MLP-Mixer into safetensors; see [`nids_interop::import`].
pub fn import(file: &Path, out: &mut dyn Write) -> Result<Imported> {
    nids_interop::import::import(file, out).map_err(|error| match error {
        nids_interop::Error::Foreign { .. } => Error::Data(error.to_string()),
        nids_interop::Error::Read { path, source } => Error::reading_data(&path, source),
        nids_interop::Error::Write(source) => Error::io("the checkpoint", "write")(source),
    })
}

/// Writes `rows` generated flows as CSV.
pub fn synth(rows: usize, seed: u64, out: &mut dyn Write) -> Result<()> {
    nids_flows::write_synthetic(rows, seed, out).map_err(Error::io("flows", "write"))
}

#[cfg(test)]
mod draw_tests;
#[cfg(test)]
mod durability_tests;
#[cfg(test)]
mod effect_tests;
#[cfg(test)]
mod leak_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod testing;
