//! Stages, typed config, run folders and artefacts.
#![forbid(unsafe_code)]

pub mod artefacts;
pub mod checkpoint;
mod disk;
mod error;
mod lock;
pub mod npy;
pub mod output;
pub mod progress;
pub mod run;
pub mod stages;

pub use error::{Error, Result};
pub use nids_config::{Config, Stage};
pub use run::{Resume, Run, StageRun};
