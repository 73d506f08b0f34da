use std::fs::File;
use std::path::Path;

use super::records::{Fault, Records};
use super::{Filled, Lines, MAX_TEXT, Slot, as_cell, as_label, bad_label, bad_number, long_text, shown};
use crate::{At, Error, FeatureColumn, Flows, Result};

/// The most columns: each takes some hundred bytes of memory, and as few as one in the file.
const MAX_COLUMNS: usize = 1 << 16;

type Rows = Records<File>;

/// The rows of a CSV file.
pub(super) struct Reader {
    rows: Rows,
    header: Vec<String>,
    slots: Vec<Slot>,
}

/// Reads the header line.
pub(super) fn open(path: &Path, file: File) -> Result<(Vec<String>, Rows)> {
    let mut rows = Records::new(file);
    if !rows.read().map_err(|fault| refused(path, fault, &[]))? {
        return Err(Error::data(path, At::File, None, "the file has blank lines only; wanted a header line and rows".to_owned()));
    }
    let at = At::Line(rows.line());
    let n_columns = rows.cells().len();
    if n_columns > MAX_COLUMNS {
        return Err(Error::data(path, at, None, format!("{n_columns} columns, wanted at most {MAX_COLUMNS}")));
    }
    let names = rows.cells().map(|name| std::str::from_utf8(name).map(|name| name.trim().to_owned()));
    let names = names.collect::<std::result::Result<Vec<_>, _>>();
    let names =
        names.map_err(|_| Error::data(path, at, None, "the header is not UTF-8 text; save the file as UTF-8".to_owned()))?;
    Ok((names, rows))
}

impl Reader {
    pub(super) fn new(rows: Rows, header: Vec<String>, slots: Vec<Slot>) -> Self {
        Reader { rows, header, slots }
    }

    /// Appends up to `max_rows` rows to `flows`.
    pub(super) fn fill(&mut self, path: &Path, flows: &mut Flows, max_rows: usize) -> Result<Filled> {
        let mut n_rows = 0;
        while n_rows < max_rows && self.rows.read().map_err(|fault| refused(path, fault, &self.header))? {
            n_rows += 1;
            for (idx, (cell, slot)) in self.rows.cells().zip(&self.slots).enumerate() {
                push(flows, *slot, cell.trim_ascii())
                    .map_err(|message| Error::data(path, At::Line(self.rows.line()), Some(&self.header[idx]), message))?;
            }
        }
        Ok(Filled { n_rows, has_ids: self.slots.contains(&Slot::Id) })
    }

    /// Where the lines went that have been read.
    pub(super) fn lines(&self) -> Lines {
        let tally = self.rows.tally();
        Lines {
            total: tally.lines(),
            rows: tally.rows - 1,
            blank: tally.blank,
            quoted: tally.quoted,
            quoted_rows: tally.quoted_rows,
            first_quoted: tally.first_quoted.map(|(line, cell)| (line, self.header[cell].clone())),
        }
    }
}

fn push(flows: &mut Flows, slot: Slot, cell: &[u8]) -> std::result::Result<(), String> {
    if slot == Slot::Skip {
        return Ok(());
    }
    let text = std::str::from_utf8(cell)
        .map_err(|_| format!("\"{}\" is not UTF-8 text; save the file as UTF-8", shown(&String::from_utf8_lossy(cell))))?;
    if text.len() > MAX_TEXT {
        return Err(long_text(text.len()));
    }
    match slot {
        Slot::Skip => {}
        Slot::Id => flows.ids.push(text.to_owned()),
        Slot::Feature(feature) => match &mut flows.features[feature] {
            FeatureColumn::Numeric(values) => {
                let value = text.parse().ok().and_then(as_cell);
                values.push(value.ok_or_else(|| bad_number(text))?);
            }
            FeatureColumn::Categorical(texts) => texts.push(text),
        },
        Slot::Label => {
            let label = text.parse().ok().and_then(as_label).ok_or_else(|| bad_label(text))?;
            flows.labels.iter_mut().for_each(|labels| labels.push(label));
        }
        Slot::Category => flows.categories.iter_mut().for_each(|categories| categories.push(text)),
    }
    Ok(())
}

/// A fault with the name of its column, which a fault of the header's has none of.
fn refused(path: &Path, fault: Fault, header: &[String]) -> Error {
    match fault {
        Fault::Io(source) => Error::Io { path: path.to_owned(), source },
        Fault::Row(wrong) => {
            let column = wrong.cell.and_then(|cell| header.get(cell)).map(String::as_str);
            Error::data(path, At::Line(wrong.line), column, wrong.message)
        }
    }
}
