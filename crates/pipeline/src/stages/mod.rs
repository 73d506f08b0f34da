//! The stages, which leave artefacts in a run folder: one file each.

pub(crate) mod encode;
pub(crate) mod finetune;
mod mean_teacher;
pub(crate) mod pretrain;

pub use encode::encode;
pub use finetune::{finetune, rows_are_packed};
pub use pretrain::pretrain;

use nids_nn::engine::Engine;
use nids_store::run::Run;
use nids_store::{Error, Result};

/// The engine, with its gradient groups dealt to the processes that work on the stage.
fn dealt(engine: Engine<f32>, run: &Run) -> Result<Engine<f32>> {
    let Some(peers) = run.peers() else { return Ok(engine) };
    let (processes, groups) = (peers.size(), engine.cut().groups);
    if processes > groups {
        return Err(Error::Usage(format!(
            "{processes} processes, but a step has {groups} gradient groups to deal out: start at most {groups}, or raise \
             `engine.gradient_groups`, which changes the last bits of the weights"
        )));
    }
    Ok(engine.with_peers(std::sync::Arc::clone(peers)))
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
mod processes_tests;
#[cfg(test)]
pub(crate) mod resume_tests;
