//! Stages, typed config, run folders and artefacts.
#![forbid(unsafe_code)]

pub mod artefacts;
pub mod config;
mod error;
pub mod import;
mod kmeans;
pub mod metrics;
pub mod npy;
pub mod probe;
pub mod progress;
pub mod run;
pub mod stages;

pub use config::{Config, Stage};
pub use error::{Error, Problem, Result};
pub use run::{Run, StageRun};
