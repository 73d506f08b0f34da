use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::nearest::{folded, nearest};
use crate::{At, ColumnKind, Error, Flows, Result, Schema};

mod columnar;
mod records;
mod text;

/// Largest magnitude that a numeric cell may have: far above any flow, far below where f32 overflows.
pub const MAX_MAGNITUDE: f64 = 1e30;

/// The longest text that a cell may hold, in bytes.
const MAX_TEXT: usize = 4096;

/// Whether a file must have the schema's label column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// A file without it is an error.
    Required,
    /// A file without it is read as unlabelled.
    Optional,
}

/// Reads flows from a CSV or Parquet file, told apart by content, in batches.
///
/// Columns are matched by header name, in any order; case and surrounding blanks do not count. Cells are trimmed.
pub struct FlowReader {
    path: PathBuf,
    schema: Arc<Schema>,
    ignored: Vec<String>,
    source: Source,
    n_read: u64,
    labels: bool,
    categories: bool,
}

/// Where the lines of a CSV file went: `total` is the header, `rows`, `blank` and `quoted` together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines {
    /// Lines of the file.
    pub total: u64,
    /// Rows.
    pub rows: u64,
    /// Blank lines, which are passed over.
    pub blank: u64,
    /// Lines that begin inside of a quoted field.
    pub quoted: u64,
    /// Rows that have such lines.
    pub quoted_rows: u64,
    /// Line and column in which the first such field begins.
    pub first_quoted: Option<(u64, String)>,
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        write!(f, "{} from {}", count(self.rows, "row"), count(self.total, "line"))?;
        if self.blank > 0 {
            write!(f, ", {} passed over", count(self.blank, "blank line"))?;
        }
        if let Some((line, column)) = &self.first_quoted {
            let (ends, rows) = (count(self.quoted, "line end"), count(self.quoted_rows, "row"));
            write!(f, ", {ends} inside of quoted fields of {rows} (the first on line {line}, column \"{}\")", shown(column))?;
        }
        Ok(())
    }
}

enum Source {
    Text(text::Reader),
    Columnar(columnar::Reader),
}

/// Where the cells of one column of the file go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Skip,
    Id,
    Feature(usize),
    Label,
    Category,
}

impl FlowReader {
    /// Opens a file and matches its header with the schema.
    pub fn open(path: &Path, schema: &Schema, labels: Labels) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io)?;
        let mut magic = Vec::new();
        // a folder opens on Linux, and fails here
        file.by_ref().take(4).read_to_end(&mut magic).map_err(io)?;
        if magic.is_empty() {
            let message = "the file is empty; wanted a header line and rows".to_owned();
            return Err(Error::data(path, At::File, None, message));
        }
        file.seek(SeekFrom::Start(0)).map_err(|source| match source.kind() {
            ErrorKind::NotSeekable => io(std::io::Error::new(source.kind(), "not a regular file; save it to disk first")),
            _ => io(source),
        })?;
        let (header, unplanned) = if magic == b"PAR1" {
            let (header, opened) = columnar::open(path, file)?;
            (header, Err(opened))
        } else {
            let (header, reader) = text::open(path, file)?;
            (header, Ok(reader))
        };
        let slots = match_header(path, &header, schema, labels)?;
        let ignored = header.iter().zip(&slots).filter(|(name, slot)| **slot == Slot::Skip && !is_listed(schema, name));
        Ok(FlowReader {
            path: path.to_owned(),
            schema: Arc::new(schema.clone()),
            ignored: ignored.map(|(name, _)| shown(name)).collect(),
            labels: slots.contains(&Slot::Label),
            categories: slots.contains(&Slot::Category),
            source: match unplanned {
                Ok(reader) => Source::Text(text::Reader::new(reader, header, slots)),
                Err(opened) => Source::Columnar(columnar::Reader::new(path, opened, &header, &slots)?),
            },
            n_read: 0,
        })
    }

    /// Columns of the file that the schema does not list, as a message shows them. They are not read.
    pub fn ignored_columns(&self) -> &[String] {
        &self.ignored
    }

    /// Where the lines went that have been read so far; `None` for Parquet, which has none. At the end of the file they are compared
    /// with the line ends that came from the disk.
    pub fn lines(&self) -> Option<Lines> {
        match &self.source {
            Source::Text(reader) => Some(reader.lines()),
            Source::Columnar(_) => None,
        }
    }

    /// Up to `max_rows` more rows; `None` at the end of the file.
    ///
    /// # Panics
    /// If `max_rows` is 0.
    pub fn next_batch(&mut self, max_rows: usize) -> Result<Option<Flows>> {
        assert!(max_rows > 0, "a batch has at least one row");
        let mut flows = Flows::empty(&self.schema, self.labels, self.categories);
        let named = match &mut self.source {
            Source::Text(reader) => reader.fill(&self.path, &mut flows, max_rows)?,
            Source::Columnar(reader) => reader.fill(&self.path, &mut flows, max_rows, self.n_read)?,
        };
        let Filled { n_rows, has_ids } = named;
        if !has_ids {
            flows.ids.extend((0..n_rows as u64).map(|row| (self.n_read + row + 1).to_string()));
        }
        if n_rows == 0 && self.n_read == 0 {
            let message = "no rows after the header".to_owned();
            return Err(Error::data(&self.path, At::File, None, message));
        }
        self.n_read += n_rows as u64;
        Ok((n_rows > 0).then_some(flows))
    }
}

/// What a source added to a batch.
struct Filled {
    n_rows: usize,
    has_ids: bool,
}

/// Reads a whole file.
pub fn read(path: &Path, schema: &Schema, labels: Labels) -> Result<Flows> {
    let mut reader = FlowReader::open(path, schema, labels)?;
    let flows = reader.next_batch(usize::MAX)?;
    Ok(flows.unwrap_or_else(|| unreachable!("a file without rows is an error")))
}

fn is_listed(schema: &Schema, name: &str) -> bool {
    schema.columns().iter().any(|column| folded(&column.name) == folded(name))
}

/// Finds the slot of every column of the file, or reports all columns that are missing.
fn match_header(path: &Path, header: &[String], schema: &Schema, labels: Labels) -> Result<Vec<Slot>> {
    let at = At::File;
    let mut places: HashMap<String, usize> = HashMap::new();
    for (idx, name) in header.iter().enumerate() {
        if places.insert(folded(name), idx).is_some() && is_listed(schema, name) {
            return Err(Error::data(path, at, Some(name), "named twice in the header".to_owned()));
        }
    }
    let mut slots = vec![Slot::Skip; header.len()];
    let mut missing = Vec::new();
    let mut n_features = 0;
    for column in schema.columns() {
        let slot = match column.kind {
            ColumnKind::Numeric | ColumnKind::Categorical => {
                n_features += 1;
                Slot::Feature(n_features - 1)
            }
            ColumnKind::Label => Slot::Label,
            ColumnKind::Category => Slot::Category,
            ColumnKind::Ignored if schema.id() == Some(&column.name) => Slot::Id,
            ColumnKind::Ignored => Slot::Skip,
        };
        match places.get(&folded(&column.name)) {
            Some(&idx) => slots[idx] = slot,
            None if column.is_feature() || (slot == Slot::Label && labels == Labels::Required) => missing.push(column),
            None => {}
        }
    }
    if labels == Labels::Required && schema.column_of(ColumnKind::Label).is_none() {
        let message = format!("labels are needed here, and schema `{}` has no column of kind `label`", schema.name());
        return Err(Error::data(path, at, None, message));
    }
    if missing.is_empty() {
        return Ok(slots);
    }
    let free = || header.iter().filter(|name| !is_listed(schema, name)).map(String::as_str);
    let names = missing.iter().map(|column| {
        let hint = nearest(&column.name, free()).map_or_else(String::new, |name| format!(" (did you mean \"{name}\"?)"));
        format!("\"{}\"{hint}", column.name)
    });
    let names: Vec<String> = names.collect();
    let names = some_of(&names);
    let cut = if header.len() == 1 && header[0].contains([';', '\t', '|']) {
        "; the header is a single column: separate cells by commas"
    } else {
        ""
    };
    let s = if missing.len() == 1 { "" } else { "s" };
    let message = format!(": missing column{s} {names} of schema `{}`{cut}", schema.name());
    Err(Error::data(path, at, None, message.trim_start_matches(": ").to_owned()))
}

/// 0 or 1, or what was found.
fn as_label(value: f64) -> Option<u8> {
    [0_u8, 1].into_iter().find(|label| value.to_bits() == f64::from(*label).to_bits())
}

/// A number that flows may hold, with negative zero as zero.
fn as_cell(value: f64) -> Option<f64> {
    (value.abs() <= MAX_MAGNITUDE).then_some(value + 0.0)
}

fn bad_number(found: &str) -> String {
    format!("cannot read \"{}\" as a number (wanted a finite one of at most {MAX_MAGNITUDE:e})", shown(found))
}

fn bad_label(found: &str) -> String {
    format!("label \"{}\" is neither 0 nor 1", shown(found))
}

fn long_text(len: usize) -> String {
    format!("a text of {len} bytes; wanted at most {MAX_TEXT}")
}

/// The first ten of a list, and how many more there are.
pub fn some_of<T: AsRef<str>>(names: &[T]) -> String {
    const SHOWN: usize = 10;
    let some: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { some.join(", ") } else { format!("{} and {more} more", some.join(", ")) }
}

/// A cell as an error message shows it.
fn shown(cell: &str) -> String {
    let mut short: String = cell.chars().take(40).flat_map(char::escape_debug).collect();
    if cell.chars().count() > 40 {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests;
