//! The run folder: artefacts, manifests, checkpoints, metrics and a lock. A file appears whole or not at all.
//!
//! **Invariant:** no other crate writes files, and this one does not know what a checkpoint's state means.
#![forbid(unsafe_code)]

mod append;
pub mod artefacts;
pub mod checkpoint;
pub mod disk;
mod error;
mod export;
mod lock;
pub mod log;
pub mod npy;
pub mod output;
pub mod packed;
pub mod parts;
pub mod progress;
pub mod run;
mod staging;

pub use append::{Appended, Opened};
pub use error::{Error, Result};
pub use lock::Lock;
pub use run::{Resume, Run, StageRun};
