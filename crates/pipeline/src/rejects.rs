//! Rows that were left out since they cannot be read, as a file.

use std::io::Write;
use std::path::Path;

use nids_config::Config;
use nids_flows::{At, Reject};
use nids_store::{Error, Result, artefacts};

const HEADER: [&str; 5] = ["file", "row", "column", "value", "reason"];

/// Writes the rows that a stage has left out to `data.rejects`, where the config names it.
pub(crate) fn write_for(config: &Config, rejects: &[Reject]) -> Result<()> {
    let Some(path) = &config.data.rejects else { return Ok(()) };
    let path = Path::new(path);
    artefacts::write_atomic(path, |out| {
        let mut lines = csv::Writer::from_writer(out);
        write(&mut lines, rejects)?;
        lines.flush()
    })
    .map(drop)
}

/// Appends rows, the header first where there is none yet.
pub(crate) fn write(lines: &mut csv::Writer<impl Write>, rejects: &[Reject]) -> std::io::Result<()> {
    lines.write_record(HEADER)?;
    append(lines, rejects)
}

fn append(lines: &mut csv::Writer<impl Write>, rejects: &[Reject]) -> std::io::Result<()> {
    for Reject { file, at, column, value, reason } in rejects {
        let row = match at {
            At::Line(n) => format!("line {n}"),
            At::Row(n) => format!("row {n}"),
            At::File => String::new(),
        };
        lines.write_record([&file.display().to_string(), &row, column.as_deref().unwrap_or(""), value, reason])?;
    }
    Ok(())
}

/// A file of rows that a command leaves out, written as they come.
pub struct RejectsFile<W: Write> {
    lines: csv::Writer<W>,
}

impl<W: Write> RejectsFile<W> {
    /// Begins the file.
    pub fn new(out: W) -> Result<Self> {
        let mut lines = csv::Writer::from_writer(out);
        lines.write_record(HEADER).map_err(|error| Error::io("the rejects", "write")(error.into()))?;
        Ok(RejectsFile { lines })
    }

    /// Appends rows.
    pub fn add(&mut self, rejects: &[Reject]) -> Result<()> {
        append(&mut self.lines, rejects).and_then(|()| self.lines.flush()).map_err(Error::io("the rejects", "write"))
    }
}
