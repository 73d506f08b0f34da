use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use csv::{ByteRecord, ErrorKind, Position};

use super::{Filled, MAX_TEXT, Slot, as_cell, as_label, bad_label, bad_number, long_text, shown};
use crate::{At, Error, FeatureColumn, Flows, Result};

const BUFFER: usize = 1 << 18;
/// The longest row, in bytes: a quotation mark that is never closed would make one of the rest of the file.
const MAX_ROW: usize = 1 << 20;
/// The most columns: each takes some hundred bytes of memory, and as few as one in the file.
const MAX_COLUMNS: usize = 1 << 16;

type Rows = csv::Reader<Limited>;

/// The rows of a CSV file.
pub(super) struct Reader {
    rows: Rows,
    record: ByteRecord,
    header: Vec<String>,
    slots: Vec<Slot>,
}

/// Reads the header line.
pub(super) fn open(path: &Path, file: File) -> Result<(Vec<String>, Rows)> {
    // the csv crate skips a byte order mark itself
    let mut rows = csv::ReaderBuilder::new().buffer_capacity(BUFFER).from_reader(Limited { file, left: MAX_ROW + BUFFER });
    let header = rows.byte_headers().map_err(|e| csv_error(path, e, None))?;
    if header.len() > MAX_COLUMNS {
        let message = format!("{} columns, wanted at most {MAX_COLUMNS}", header.len());
        return Err(Error::data(path, At::Line(1), None, message));
    }
    let names = header.iter().map(|name| std::str::from_utf8(name).map(|name| name.trim().to_owned()));
    let names = names.collect::<std::result::Result<Vec<_>, _>>();
    let names = names
        .map_err(|_| Error::data(path, At::Line(1), None, "the header is not UTF-8 text; save the file as UTF-8".to_owned()))?;
    Ok((names, rows))
}

impl Reader {
    pub(super) fn new(rows: Rows, header: Vec<String>, slots: Vec<Slot>) -> Self {
        Reader { rows, record: ByteRecord::new(), header, slots }
    }

    /// Appends up to `max_rows` rows to `flows`.
    pub(super) fn fill(&mut self, path: &Path, flows: &mut Flows, max_rows: usize) -> Result<Filled> {
        let mut n_rows = 0;
        while n_rows < max_rows {
            self.rows.get_mut().left = MAX_ROW + BUFFER;
            let more = self.rows.read_byte_record(&mut self.record);
            if !more.map_err(|e| csv_error(path, e, self.record.position()))? {
                break;
            }
            n_rows += 1;
            for (idx, (cell, slot)) in self.record.iter().zip(&self.slots).enumerate() {
                push(flows, *slot, cell.trim_ascii()).map_err(|message| {
                    let at = line_of(path, self.record.position());
                    Error::data(path, at, Some(&self.header[idx]), message)
                })?;
            }
        }
        Ok(Filled { n_rows, has_ids: self.slots.contains(&Slot::Id) })
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

/// A file of which only so much may be read before the row ends.
pub(super) struct Limited {
    file: File,
    left: usize,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.left = self.left.checked_sub(n).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(n)
    }
}

/// Line of the first cell at or after a position. The line that the csv crate knows is where the record
/// before ended, which is above any blank lines.
fn line_of(path: &Path, position: Option<&Position>) -> At {
    let newlines = |position: &Position| -> std::io::Result<u64> {
        let mut before = position.byte();
        let mut line = 1;
        for byte in BufReader::new(File::open(path)?).bytes() {
            let byte = byte?;
            if before == 0 && !matches!(byte, b'\n' | b'\r') {
                break;
            }
            before = before.saturating_sub(1);
            line += u64::from(byte == b'\n');
        }
        Ok(line)
    };
    position.and_then(|position| newlines(position).ok()).map_or(At::File, At::Line)
}

/// `row` is where the row begins that could not be read.
fn csv_error(path: &Path, error: csv::Error, row: Option<&Position>) -> Error {
    let at = line_of(path, error.position().or(row));
    match error.into_kind() {
        ErrorKind::Io(source) if source.kind() == io::ErrorKind::FileTooLarge => {
            let message = format!("a row of more than {MAX_ROW} bytes; is a quotation mark left open?");
            Error::data(path, at, None, message)
        }
        ErrorKind::Io(source) => Error::Io { path: path.to_owned(), source },
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            Error::data(path, at, None, format!("{len} cells, but the header has {expected_len}"))
        }
        kind => Error::data(path, at, None, format!("{kind:?}")),
    }
}
