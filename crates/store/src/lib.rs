//! The run folder: whole files or none, one process at a time, manifests, checkpoints, metrics.
//!
//! **Invariant:** no other crate writes files, and this one does not know what a checkpoint's state means.
#![forbid(unsafe_code)]

pub mod artefacts;
pub mod checkpoint;
pub mod disk;
mod error;
mod lock;
pub mod log;
pub mod npy;
pub mod output;
pub mod progress;
pub mod run;

pub use error::{Error, Result};
pub use lock::Lock;
pub use run::{Resume, Run, StageRun};
