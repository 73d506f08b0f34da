//! The stages, which leave artefacts in a run folder, and the commands, which leave none.
#![forbid(unsafe_code)]

pub mod stages;
