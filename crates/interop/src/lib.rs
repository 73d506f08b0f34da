//! Files of other programs, read without running what they say.
//!
//! **Invariant:** training and detection do not depend on this crate.
#![forbid(unsafe_code)]

pub mod import;
pub mod onnx;

use std::io;
use std::path::PathBuf;

/// Why a file was not converted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not what it should be.
    #[error("{}: {what}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Where, what was found and what was expected.
        what: String,
    },
    /// The file cannot be read.
    #[error("{}: cannot read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A network that cannot be written as it is described.
    #[error("{0}")]
    Export(String),
    /// The converted checkpoint cannot be written.
    #[error("cannot write the checkpoint: {0}")]
    Write(#[source] io::Error),
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
