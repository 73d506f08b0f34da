//! Verdicts as CSV, JSON lines, Parquet or an Arrow stream.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, Float64Array, RecordBatch, StringArray};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema};
use nids_detect::reasons::Reason;
use nids_store::{Error, Result};
use parquet::arrow::ArrowWriter;
use serde_json::{Map, Value as Json};

/// How verdicts are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerdictFormat {
    /// A header line, then a line a row.
    #[default]
    Csv,
    /// An object a line.
    JsonLines,
    /// A Parquet file.
    Parquet,
    /// A stream of Arrow.
    Arrow,
}

impl VerdictFormat {
    /// Its name in `--format`.
    pub const NAMES: [&str; 4] = ["csv", "jsonl", "parquet", "arrow"];

    /// Its name, and the ending of its files.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The format of that name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines),
            "parquet" => Some(Self::Parquet),
            "arrow" | "arrows" | "ipc" => Some(Self::Arrow),
            _ => None,
        }
    }

    /// The format that a file's ending says; CSV where it says nothing.
    pub fn of_file(path: Option<&Path>) -> Self {
        let ending = path.and_then(Path::extension).and_then(|ending| ending.to_str()).map(str::to_lowercase);
        ending.and_then(|ending| Self::named(&ending)).unwrap_or_default()
    }
}

/// What is said of rows: a column of its own kind.
pub(super) enum Cells<'v> {
    Single(Vec<f32>),
    Double(Vec<f64>),
    Text(Vec<&'v str>),
    /// Of each row; in JSON with all that is known of them, elsewhere as a person reads them.
    Reasons(Vec<Vec<Reason>>),
}

impl Cells<'_> {
    /// The cells of some rows.
    pub(super) fn select(&self, rows: &[u32]) -> Self {
        fn of<T: Clone>(cells: &[T], rows: &[u32]) -> Vec<T> {
            rows.iter().map(|&row| cells[row as usize].clone()).collect()
        }
        match self {
            Self::Single(cells) => Self::Single(of(cells, rows)),
            Self::Double(cells) => Self::Double(of(cells, rows)),
            Self::Text(cells) => Self::Text(of(cells, rows)),
            Self::Reasons(cells) => Self::Reasons(of(cells, rows)),
        }
    }
}

/// Rows and what is said of them.
pub(super) struct Verdicts<'v> {
    pub(super) ids: &'v [String],
    /// As [`Columns`] has them.
    pub(super) own: Vec<(&'static str, Cells<'v>)>,
    /// [columns][rows]
    pub(super) carried: &'v [Vec<String>],
}

/// The columns beside the id.
pub(super) struct Columns {
    own: Vec<Field>,
    carried: Vec<String>,
}

impl Columns {
    /// `own` is what is said of no rows.
    ///
    /// # Errors
    /// If a column that is carried along has the name of one of the verdict's.
    pub(super) fn new(own: &[(&'static str, Cells<'_>)], carried: &[String]) -> Result<Self> {
        let field = |(name, cells): &(&str, Cells<'_>)| {
            let kind = match cells {
                Cells::Single(_) => DataType::Float32,
                Cells::Double(_) => DataType::Float64,
                Cells::Text(_) | Cells::Reasons(_) => DataType::Utf8,
            };
            Field::new(*name, kind, false)
        };
        let columns = Columns { own: own.iter().map(field).collect(), carried: carried.to_vec() };
        let names = columns.names();
        let is_twice = |idx: usize| names[..idx].iter().any(|name| name.eq_ignore_ascii_case(names[idx]));
        match (0..names.len()).find(|&idx| is_twice(idx)) {
            Some(idx) => Err(Error::Usage(format!("`--columns`: verdicts have a column `{}` already", names[idx]))),
            None => Ok(columns),
        }
    }

    fn names(&self) -> Vec<&str> {
        let own = ["id"].into_iter().chain(self.own.iter().map(|field| field.name().as_str()));
        own.chain(self.carried.iter().map(String::as_str)).collect()
    }
}

/// Writes verdicts batch by batch.
pub(super) struct VerdictWriter<'o> {
    columns: Columns,
    sink: Sink<'o>,
    has_header: bool,
    /// Cells that a spreadsheet would run.
    n_guarded: u64,
}

enum Sink<'o> {
    Csv(Box<csv::Writer<&'o mut dyn Write>>),
    JsonLines(io::BufWriter<&'o mut dyn Write>),
    /// Parquet is written to a scratch file first: its writer wants to be sent between threads, which `out` cannot be.
    Parquet(Box<ArrowWriter<File>>, &'o mut dyn Write),
    Arrow(Box<StreamWriter<&'o mut dyn Write>>),
}

impl<'o> VerdictWriter<'o> {
    pub(super) fn new(format: VerdictFormat, columns: Columns, out: &'o mut dyn Write) -> Result<Self> {
        let sink = match format {
            VerdictFormat::Csv => Sink::Csv(Box::new(csv::Writer::from_writer(out))),
            VerdictFormat::JsonLines => Sink::JsonLines(io::BufWriter::new(out)),
            VerdictFormat::Parquet => {
                let scratch = tempfile::tempfile().map_err(Error::io("a temporary file", "make"))?;
                let writer = ArrowWriter::try_new(scratch, Arc::new(schema(&columns)), None).map_err(other)?;
                Sink::Parquet(Box::new(writer), out)
            }
            VerdictFormat::Arrow => Sink::Arrow(Box::new(StreamWriter::try_new(out, &schema(&columns)).map_err(other)?)),
        };
        Ok(VerdictWriter { columns, sink, has_header: false, n_guarded: 0 })
    }

    /// Writes verdicts through to `out`: who reads them need not wait for those of the next rows.
    pub(super) fn write(&mut self, rows: &Verdicts<'_>) -> Result<()> {
        match &mut self.sink {
            Sink::Csv(lines) => {
                begin(lines, &self.columns, &mut self.has_header)?;
                for (row, id) in rows.ids.iter().enumerate() {
                    lines.write_field(cell(id, &mut self.n_guarded)).map_err(of_csv)?;
                    for (_, cells) in &rows.own {
                        // the shortest digits that read back as the same number
                        match cells {
                            Cells::Single(values) => lines.write_field(format!("{:?}", values[row])),
                            Cells::Double(values) => lines.write_field(format!("{:?}", values[row])),
                            Cells::Text(values) => lines.write_field(values[row]),
                            Cells::Reasons(reasons) => lines.write_field(cell(&text(&reasons[row]), &mut self.n_guarded)),
                        }
                        .map_err(of_csv)?;
                    }
                    for column in rows.carried {
                        lines.write_field(cell(&column[row], &mut self.n_guarded)).map_err(of_csv)?;
                    }
                    lines.write_record(None::<&[u8]>).map_err(of_csv)?;
                }
                lines.flush().map_err(cannot_write)
            }
            Sink::JsonLines(out) => {
                for (row, id) in rows.ids.iter().enumerate() {
                    let mut object = Map::new();
                    object.insert("id".to_owned(), id.as_str().into());
                    for (name, cells) in &rows.own {
                        let value = match cells {
                            Cells::Single(values) => number(values[row]),
                            Cells::Double(values) => values[row].into(),
                            Cells::Text(values) => values[row].into(),
                            Cells::Reasons(reasons) => serde_json::to_value(&reasons[row]).map_err(other)?,
                        };
                        object.insert((*name).to_owned(), value);
                    }
                    for (name, column) in self.columns.carried.iter().zip(rows.carried) {
                        object.insert(name.clone(), column[row].as_str().into());
                    }
                    serde_json::to_writer(&mut *out, &Json::Object(object)).map_err(|error| cannot_write(error.into()))?;
                    out.write_all(b"\n").map_err(cannot_write)?;
                }
                out.flush().map_err(cannot_write)
            }
            Sink::Parquet(writer, _) => writer.write(&batch(&self.columns, rows)?).map_err(other),
            Sink::Arrow(writer) => writer.write(&batch(&self.columns, rows)?).and_then(|()| writer.flush()).map_err(other),
        }
    }

    /// Ends the file; how many of its cells begin as formulas of a spreadsheet do and were given a `'`.
    pub(super) fn finish(mut self) -> Result<u64> {
        match self.sink {
            Sink::Csv(mut lines) => {
                begin(&mut lines, &self.columns, &mut self.has_header)?;
                lines.flush().map_err(cannot_write)?;
            }
            Sink::JsonLines(mut out) => out.flush().map_err(cannot_write)?,
            Sink::Parquet(writer, out) => {
                let mut scratch = writer.into_inner().map_err(other)?;
                scratch.rewind().and_then(|()| io::copy(&mut scratch, out)).map_err(cannot_write)?;
            }
            Sink::Arrow(mut writer) => writer.finish().map_err(other)?,
        }
        Ok(self.n_guarded)
    }
}

/// Writes the header line, once.
fn begin(lines: &mut csv::Writer<&mut dyn Write>, columns: &Columns, has_header: &mut bool) -> Result<()> {
    if std::mem::replace(has_header, true) { Ok(()) } else { lines.write_record(columns.names()).map_err(of_csv) }
}

/// A cell of CSV as a spreadsheet may open it: on one line, and no formula.
fn cell(text: &str, n_guarded: &mut u64) -> String {
    let mut text = text.replace("\r\n", "\\n").replace(['\r', '\n'], "\\n");
    if text.starts_with(['=', '+', '-', '@', '\t']) && text != "-" && text.parse::<f64>().is_err() {
        text.insert(0, '\'');
        *n_guarded += 1;
    }
    text
}

fn text(reasons: &[Reason]) -> String {
    reasons.iter().map(Reason::text).collect::<Vec<_>>().join("; ")
}

/// The shortest digits that read back as this f32.
fn number(value: f32) -> Json {
    serde_json::from_str(&format!("{value:?}")).unwrap_or(Json::Null)
}

fn schema(columns: &Columns) -> Schema {
    let carried = columns.carried.iter().map(|name| Field::new(name, DataType::Utf8, false));
    let id = Field::new("id", DataType::Utf8, false);
    Schema::new([id].into_iter().chain(columns.own.iter().cloned()).chain(carried).collect::<Vec<_>>())
}

fn batch(columns: &Columns, rows: &Verdicts<'_>) -> Result<RecordBatch> {
    if rows.ids.is_empty() {
        // what comes last may be rows that were left out, and no columns
        return Ok(RecordBatch::new_empty(Arc::new(schema(columns))));
    }
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(rows.ids))];
    arrays.extend(rows.own.iter().map(|(_, cells)| -> ArrayRef {
        match cells {
            Cells::Single(values) => Arc::new(Float32Array::from(values.clone())),
            Cells::Double(values) => Arc::new(Float64Array::from(values.clone())),
            Cells::Text(values) => Arc::new(StringArray::from_iter_values(values)),
            Cells::Reasons(reasons) => Arc::new(StringArray::from_iter_values(reasons.iter().map(|of_row| text(of_row)))),
        }
    }));
    arrays.extend(rows.carried.iter().map(|column| Arc::new(StringArray::from_iter_values(column)) as ArrayRef));
    RecordBatch::try_new(Arc::new(schema(columns)), arrays).map_err(other)
}

fn cannot_write(source: io::Error) -> Error {
    Error::io("the verdicts", "write")(source)
}

fn of_csv(error: csv::Error) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(source) => cannot_write(source),
        kind => other(format!("{kind:?}")),
    }
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    cannot_write(io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spreadsheet_runs_no_cell() {
        let mut n = 0;
        for (text, wanted) in [
            ("=1+1", "'=1+1"),
            ("@sum", "'@sum"),
            ("-cmd", "'-cmd"),
            ("+x", "'+x"),
            ("-1.5", "-1.5"),
            ("-", "-"),
            ("a=b", "a=b"),
            ("a\r\nb\nc", "a\\nb\\nc"),
        ] {
            assert_eq!(cell(text, &mut n), wanted);
        }
        assert_eq!(n, 4);
    }

    #[test]
    fn the_ending_of_a_file_says_how_it_is_written() {
        for (path, wanted) in [
            ("a.csv", VerdictFormat::Csv),
            ("a.JSONL", VerdictFormat::JsonLines),
            ("a.parquet", VerdictFormat::Parquet),
            ("a.arrow", VerdictFormat::Arrow),
            ("a", VerdictFormat::Csv),
            ("a.txt", VerdictFormat::Csv),
        ] {
            assert_eq!(VerdictFormat::of_file(Some(Path::new(path))), wanted, "{path}");
        }
        assert!(VerdictFormat::NAMES.iter().all(|name| VerdictFormat::named(name).is_some_and(|format| format.name() == *name)));
    }

    #[test]
    fn no_rows_are_written_as_none_whatever_is_carried_along() {
        for format in VerdictFormat::NAMES.map(|name| VerdictFormat::named(name).unwrap()) {
            let mut out: Vec<u8> = Vec::new();
            let own = [
                ("probability", Cells::Single(Vec::new())),
                ("verdict", Cells::Text(Vec::new())),
                ("p_value", Cells::Double(Vec::new())),
            ];
            let columns = Columns::new(&own, &["uid".to_owned()]).unwrap();
            let mut writer = VerdictWriter::new(format, columns, &mut out).unwrap();
            writer.write(&Verdicts { ids: &[], own: Vec::new(), carried: &[] }).unwrap();
            assert_eq!(writer.finish().unwrap(), 0, "{format:?}");
        }
    }

    #[test]
    fn digits_are_the_shortest_that_read_back() {
        for value in [0.1_f32, 1e-9, 0.999_999_94, 0.0, 1.0, f32::MIN_POSITIVE] {
            assert_eq!(format!("{value:?}").parse::<f32>().unwrap().to_bits(), value.to_bits());
            assert_eq!(number(value).to_string().parse::<f32>().unwrap().to_bits(), value.to_bits());
        }
        assert_eq!((number(0.1).to_string().as_str(), format!("{:?}", 0.1_f32).as_str()), ("0.1", "0.1"));
    }
}
