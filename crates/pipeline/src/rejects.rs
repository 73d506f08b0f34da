//! Rows that were left out since they cannot be read, as a file.

use std::io::{self, Write};
use std::path::Path;

use nids_config::Config;
use nids_flows::{At, Reject};
use nids_store::run::StageRun;
use nids_store::{Error, Result, artefacts};

const HEADER: [&str; 5] = ["file", "row", "column", "value", "reason"];

/// Writes the rows that a stage has left out to `data.rejects`, where the config names it.
pub(crate) fn write_for(config: &Config, stage: &StageRun<'_>, rejects: &[Reject]) -> Result<()> {
    match &config.data.rejects {
        Some(path) if !stage.follows() => write_bytes(Path::new(path), &to_bytes(rejects)),
        _ => Ok(()),
    }
}

/// Rows that were left out, as a file has them.
pub(crate) fn to_bytes(rejects: &[Reject]) -> Vec<u8> {
    let mut bytes = Vec::new();
    RejectsFile::begin(&mut bytes).and_then(|mut file| file.append(rejects)).expect("memory can be written to");
    bytes
}

/// Writes what [`to_bytes`] gave.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    artefacts::write_atomic(path, |out| out.write_all(bytes)).map(drop)
}

/// A file of rows that a command leaves out, written as they come.
pub struct RejectsFile<W: Write> {
    lines: csv::Writer<W>,
}

impl<W: Write> RejectsFile<W> {
    /// Begins the file.
    pub fn new(out: W) -> Result<Self> {
        Self::begin(out).map_err(Error::io("the rejects", "write"))
    }

    /// Appends rows.
    pub fn add(&mut self, rejects: &[Reject]) -> Result<()> {
        self.append(rejects).map_err(Error::io("the rejects", "write"))
    }

    fn begin(out: W) -> io::Result<Self> {
        let mut lines = csv::Writer::from_writer(out);
        lines.write_record(HEADER)?;
        Ok(RejectsFile { lines })
    }

    fn append(&mut self, rejects: &[Reject]) -> io::Result<()> {
        for Reject { file, at, column, value, reason } in rejects {
            let row = match at {
                At::Line(n) => format!("line {n}"),
                At::Row(n) => format!("row {n}"),
                At::File => String::new(),
            };
            self.lines.write_record([&file.display().to_string(), &row, column.as_deref().unwrap_or(""), value, reason])?;
        }
        self.lines.flush()
    }
}
