//! Stages, typed config, run folders and artefacts.
#![forbid(unsafe_code)]

pub mod artefacts;
pub mod checkpoint;
pub mod config;
mod disk;
mod error;
mod lock;
pub mod npy;
pub mod output;
pub mod progress;
pub mod run;
pub mod stages;

pub use config::{Config, Stage};
pub use error::{Error, Problem, Result};
pub use run::{Resume, Run, StageRun};
