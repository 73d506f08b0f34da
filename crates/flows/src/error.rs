use std::fmt;
use std::path::{Path, PathBuf};

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why flows could not be described, read, split or tokenised.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A schema is not one: unknown key or kind, column named twice, no feature.
    #[error("{origin}{}: {message}", line.map(|line| format!(":{line}")).unwrap_or_default())]
    Schema {
        /// The schema's file, or the name that was asked for.
        origin: String,
        /// Line of the file, where the parser knows it.
        line: Option<usize>,
        /// What was found and what was wanted.
        message: String,
    },
    /// A data file does not hold what its schema says.
    #[error("{}{at}: {}{message}", path.display(), named(column.as_deref()))]
    Data {
        /// The data file.
        path: PathBuf,
        /// The place in the file.
        at: At,
        /// The column, where one is to blame.
        column: Option<String>,
        /// What was found and what was wanted.
        message: String,
    },
    /// A file could not be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Rows cannot be split or drawn as asked.
    #[error("{message}")]
    Split {
        /// What was found and what was wanted.
        message: String,
    },
    /// Rows have no classes to tell apart.
    #[error("{message}")]
    Classes {
        /// What was found and what was wanted.
        message: String,
    },
    /// A tokeniser cannot be fitted, applied or read back.
    #[error("tokeniser: {message}")]
    Tokeniser {
        /// What was found and what was wanted.
        message: String,
    },
}

/// Place in a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The file as a whole.
    File,
    /// 1-based line of a text file.
    Line(u64),
    /// 1-based row of a columnar file.
    Row(u64),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::File => Ok(()),
            At::Line(line) => write!(f, ":{line}"),
            At::Row(row) => write!(f, ": row {row}"),
        }
    }
}

impl Error {
    pub(crate) fn data(path: &Path, at: At, column: Option<&str>, message: String) -> Self {
        Error::Data { path: path.to_owned(), at, column: column.map(str::to_owned), message }
    }

    pub(crate) fn tokeniser(message: impl Into<String>) -> Self {
        Error::Tokeniser { message: message.into() }
    }

    pub(crate) fn classes(message: impl Into<String>) -> Self {
        Error::Classes { message: message.into() }
    }

    pub(crate) fn split(message: impl Into<String>) -> Self {
        Error::Split { message: message.into() }
    }
}

fn named(column: Option<&str>) -> String {
    column.map(|column| format!("column \"{column}\": ")).unwrap_or_default()
}
