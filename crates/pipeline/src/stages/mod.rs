//! The stages, which leave artefacts in a run folder: one file each.

pub(crate) mod encode;
pub(crate) mod finetune;
mod mean_teacher;
pub(crate) mod pretrain;

pub use encode::encode;
pub use finetune::finetune;
pub use pretrain::pretrain;

#[cfg(test)]
mod draw_tests;
#[cfg(test)]
mod durability_tests;
#[cfg(test)]
mod effect_tests;
#[cfg(test)]
mod leak_tests;
#[cfg(test)]
pub(crate) mod resume_tests;
