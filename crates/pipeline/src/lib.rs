//! The stages, which leave artefacts in a run folder, and the commands, which leave none.
//!
//! **Invariant:** what stages and commands share is in the files beside this one, which use neither. Commands use stages; no stage
//! uses a command.
#![forbid(unsafe_code)]

mod classifier;
pub mod commands;
mod data;
mod engine;
mod labels;
mod network;
pub mod stages;
#[cfg(test)]
mod testing;
mod verdicts;

use nids_config::Stage;
use nids_store::Error;

/// What to do about an artefact that cannot be used.
fn again(stage: Stage) -> String {
    format!("run `nids-mixer {stage}` again")
}

/// For `map_err` on what `nids-eval` says.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` hands over")]
fn judging(error: nids_eval::Error) -> Error {
    Error::Numerics(error.to_string())
}
