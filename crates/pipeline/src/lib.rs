//! The stages, which leave artefacts in a run folder, and the commands, which leave none.
//!
//! **Invariant:** what stages and commands share is in the files beside this one, which use neither. Commands use stages; no stage
//! uses a command.
#![forbid(unsafe_code)]

pub mod commands;
mod data;
mod labels;
mod packed;
mod pretext;
mod rejects;
pub mod stages;
mod step_rows;
#[cfg(test)]
mod testing;

pub use rejects::RejectsFile;
