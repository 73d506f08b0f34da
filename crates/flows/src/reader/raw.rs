//! Files as they are: every column as text, by no schema.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::header::{Header, Plan};
use super::input::Input;
use super::sink::{Sink, Slot};
use super::sniff::Format;
use super::{OnBadRow, Source, arrow, columnar, input, json, sniff, text, zeek};
use crate::{At, Encoding, Error, Result, Schema};

/// How much of a file of JSON is looked at for the names of its columns.
const JSON_HEAD: u64 = 4 << 20;
/// Cells of a batch.
const BATCH_CELLS: usize = 1 << 18;

/// Reads all columns of a file as text, batch by batch.
pub(crate) struct RawReader {
    path: PathBuf,
    plan: Plan,
    source: Source,
    sink: Sink,
    /// What its columns are called: `column_1` and so on where the file has no header line. Columns of lists and structs have no cells.
    pub(crate) names: Vec<String>,
    /// Whether the cells of a column can be read.
    pub(crate) is_readable: Vec<bool>,
    pub(crate) has_header: bool,
    /// Whether rows leave out what they have nothing to say of, as JSON does.
    pub(crate) is_sparse: bool,
    /// Spellings of a missing cell that the file declares.
    pub(crate) missing: Vec<String>,
    /// How the file is written, in words.
    pub(crate) notes: Vec<String>,
}

impl RawReader {
    /// Opens a file and finds its columns.
    pub(crate) fn open(path: &Path, encoding: Option<Encoding>) -> Result<Self> {
        let (mut has_header, mut notes) = (true, Vec::new());
        let mut missing = Vec::new();
        let all = |header: &Header, is_readable: &dyn Fn(usize) -> bool| Plan {
            uses: (0..header.n_seen).filter(|&place| is_readable(place)).map(|place| (place, Slot::Raw(place))).collect(),
            names: header.names.clone(),
            ..Plan::default()
        };
        let (header, plan, source) = match input::open(path, encoding)? {
            Input::Parquet(file) => {
                let (header, opened) = columnar::open(path, file)?;
                let plan = all(&header, &|place| opened.is_readable(place));
                let reader = columnar::Reader::new(path, opened, &plan, None)?;
                (header, plan, Source::Parquet(reader))
            }
            Input::Arrow(bytes) => {
                let (header, reader) = arrow::Reader::open(path, bytes)?;
                let plan = all(&header, &|place| reader.is_readable(place));
                (header, plan, Source::Arrow(reader))
            }
            Input::Text(text) if text.head.is_empty() => {
                let message = "the file is empty; wanted a header line and rows".to_owned();
                return Err(Error::data(path, At::File, None, message));
            }
            Input::Text(text) => {
                notes = text.notes;
                let (header, source) = match sniff::sniff(&text.head, None) {
                    Format::Stranger(what) => return Err(Error::data(path, At::File, None, format!("the file is {what}"))),
                    Format::Zeek => {
                        notes.push("a log of Zeek".to_owned());
                        let (header, reader) = zeek::Reader::open(path, text.bytes)?;
                        missing = reader.missing().map(std::borrow::Cow::into_owned).to_vec();
                        (header, Source::Zeek(reader))
                    }
                    Format::Json => {
                        notes.push("objects of JSON".to_owned());
                        let (mut head, mut bytes) = (Vec::new(), text.bytes);
                        let read = (&mut bytes).take(JSON_HEAD).read_to_end(&mut head);
                        read.map_err(|source| Error::Io { path: path.to_owned(), source })?;
                        let bytes = Box::new(Cursor::new(head.clone()).chain(bytes));
                        let (header, reader) = json::Reader::open(path, &head, bytes, std::iter::empty())?;
                        (header, Source::Json(reader))
                    }
                    Format::Csv(csv) => {
                        notes.extend(csv.notes);
                        has_header = csv.has_header;
                        let n = sniff::rows(&text.head, csv.dialect, 1).first().map_or(0, Vec::len);
                        let wanted: Vec<String> = (1..=n).map(|place| format!("column_{place}")).collect();
                        let (header, reader) = text::Reader::open(path, text.bytes, csv.dialect, has_header, &wanted)?;
                        (header, Source::Csv(reader))
                    }
                };
                let plan = all(&header, &|_| true);
                (header, plan, source)
            }
        };
        let mut is_readable = vec![false; header.n_seen];
        plan.uses.iter().for_each(|(place, _)| is_readable[*place] = true);
        Ok(RawReader {
            path: path.to_owned(),
            source,
            plan,
            sink: Sink::new(Arc::new(Schema::none()), OnBadRow::Skip),
            names: header.names,
            is_readable,
            has_header,
            is_sparse: header.is_sparse,
            missing,
            notes,
        })
    }

    /// The cells of more rows, at most `max_rows`: [columns][rows], trimmed. None at the end of the file.
    pub(crate) fn next_batch(&mut self, max_rows: usize) -> Result<Option<Vec<Vec<String>>>> {
        let n_columns = self.names.len();
        let max_rows = max_rows.min((BATCH_CELLS / n_columns.max(1)).max(1));
        loop {
            self.sink.begin(false, false, n_columns, max_rows);
            let has_more = self.source.fill(&self.path, &self.plan, &mut self.sink, max_rows)?;
            self.sink.rejects.clear();
            let n_rows = self.sink.n_rows();

            if n_rows > 0 {
                return Ok(Some(std::mem::take(&mut self.sink.flows.carried)));
            }
            if !has_more {
                return Ok(None);
            }
        }
    }

    /// Rows with another number of cells than the header, or that cannot be read for another reason.
    pub(crate) fn n_rejected(&self) -> u64 {
        self.sink.problems.n_rows
    }

    /// Why the first of them cannot be read.
    pub(crate) fn why_rejected(&self) -> Option<String> {
        (self.n_rejected() > 0).then(|| {
            let error = self.sink.problems.error(&self.path, self.n_rejected(), "").to_string();
            error.lines().find(|line| line.starts_with("    ")).map_or(error.clone(), |line| line.trim().to_owned())
        })
    }

    /// Cells that are not UTF-8.
    pub(crate) fn n_not_utf8(&self) -> u64 {
        self.sink.n_not_utf8
    }
}
