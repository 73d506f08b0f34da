//! The error of this crate and the exit code of each kind of error.

use std::io;
use std::path::{Path, PathBuf};

/// An error of a stage or a command.
///
/// | exit code | kind | what it means | what helps |
/// |---|---|---|---|
/// | 0 | | done | |
/// | 2 | [`Error::Usage`], [`Error::Config`] | the command line or the config is wrong | the message names the argument, or file, line and column |
/// | 3 | [`Error::Data`] | a CSV or Parquet file is missing or wrong, or its schema or labels | the message names file, line and column |
/// | 4 | [`Error::Artefact`] | something in the run folder is missing, stale, truncated or foreign | the message names the command that makes it |
/// | 5 | [`Error::Numerics`] | a loss or a weight is NaN or infinite, layers no longer learn (`monitor: stop`), or a matrix cannot be solved | a lower `lr`, a smaller `model.depth`, a larger `encode.ridge` |
/// | 6 | [`Error::Io`], [`Error::System`] | disk full, permission denied, no room for buffers or threads | make room, or give another `--run` |
/// | 130, 143 | [`Error::Interrupted`] | stopped by Ctrl-C or by SIGTERM | run the command again |
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Invalid arguments.
    #[error("{0}")]
    Usage(String),
    /// Every problem of a config.
    #[error("{0}")]
    Config(#[from] nids_config::Error),
    /// Invalid flow records, or an invalid schema.
    #[error("{0}")]
    Data(String),
    /// An artefact that cannot be used.
    #[error("{}: {what}: {remedy}", path.display())]
    Artefact {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// Non-finite or useless numbers.
    #[error("{0}")]
    Numerics(String),
    /// The file system reported an error.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operation that failed, as a verb.
        doing: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The system has no memory for buffers, or no more threads.
    #[error("{0}")]
    System(String),
    /// The command was stopped by a signal.
    #[error("stopped: give the command again to go on")]
    Interrupted {
        /// Number of the signal: 2 or 15.
        signal: u8,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The exit code, as in the table above.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) => 2,
            Self::Data(_) => 3,
            Self::Artefact { .. } => 4,
            Self::Numerics(_) => 5,
            Self::Io { .. } | Self::System(_) => 6,
            Self::Interrupted { signal } => 128 + signal,
        }
    }

    /// One line per problem.
    pub fn messages(&self) -> Vec<String> {
        match self {
            Self::Config(problems) => problems.0.iter().map(ToString::to_string).collect(),
            other => vec![other.to_string()],
        }
    }

    /// Converts an I/O error, for use in `map_err`.
    pub fn io(path: impl Into<PathBuf>, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, doing, source }
    }

    /// The error for a data file that cannot be read: [`Error::Data`] if there is no such file, else [`Error::Io`].
    pub fn reading_data(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::IsADirectory => {
                Self::Data(format!("{}: cannot read: {source}", path.display()))
            }
            _ => Self::io(path, "read")(source),
        }
    }

    /// An artefact that cannot be used.
    pub fn artefact(path: impl Into<PathBuf>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Artefact { path: path.into(), what: what.into(), remedy: remedy.into() }
    }
}

/// What is measured of numbers that are not finite, or of none, is a matter of numerics.
impl From<nids_eval::Error> for Error {
    fn from(error: nids_eval::Error) -> Self {
        Self::Numerics(error.to_string())
    }
}

impl From<nids_flows::Error> for Error {
    fn from(error: nids_flows::Error) -> Self {
        match error {
            nids_flows::Error::Io { path, source } => Self::reading_data(&path, source),
            other => Self::Data(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_data_file_is_bad_data_and_an_unreadable_one_is_not() {
        let code =
            |kind: io::ErrorKind| Error::from(nids_flows::Error::Io { path: "a.csv".into(), source: kind.into() }).exit_code();
        assert_eq!((code(io::ErrorKind::NotFound), code(io::ErrorKind::PermissionDenied)), (3, 6));
    }
}
