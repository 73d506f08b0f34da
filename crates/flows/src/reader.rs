//! Flows from files of any kind.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::{At, Column, Encoding, Error, Flows, Result, Schema};
use header::Plan;
use input::Input;
use sink::{Sink, UNLABELLED};
use sniff::Format;

mod arrow;
mod batch;
pub(crate) mod cells;
mod columnar;
mod header;
mod input;
mod json;
mod mend;
mod part;
mod paths;
mod problems;
pub(crate) mod raw;
mod records;
mod sink;
pub(crate) mod sniff;
mod text;
mod zeek;

pub use cells::numbers;
pub use part::{Part, Share};
pub use paths::{data_files, is_stdin};
pub use zeek::unescaped as zeek_unescaped;

/// Largest magnitude that a numeric cell may have: far above any flow, far below where f32 overflows.
pub const MAX_MAGNITUDE: f64 = 1e30;

/// The longest text that a cell may hold, in bytes.
const MAX_TEXT: usize = 4096;

/// The most columns: each takes some hundred bytes of memory, and as few as one in the file.
const MAX_COLUMNS: usize = 1 << 16;

/// Rows that are read before their share of bad ones is judged.
const MIN_JUDGED: u64 = 10_000;

/// Whether labels are needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Labels {
    /// A file without them is an error, and so is a word of them that the schema does not know.
    Required,
    /// They are read where a file has them. A row whose label is missing, or ignored by the schema, stays in its place and has the
    /// label [`NO_LABEL`].
    IfPresent,
    /// They are read where a file has a column of them; a word that the schema does not know is an error.
    WherePresent,
    /// They are not looked at.
    #[default]
    Unused,
}

/// The label of a row without one, where labels were read with [`Labels::IfPresent`].
pub const NO_LABEL: u8 = UNLABELLED;

/// What names a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ids {
    /// The schema's id column, which must be there; the row's number where the schema has none.
    #[default]
    Schema,
    /// The row's number in its file, from 1.
    Row,
}

/// What happens with rows that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnBadRow {
    /// All are named in one error.
    #[default]
    Stop,
    /// They are left out, and [`FlowReader::take_rejects`] has them.
    Skip,
}

/// How files are read.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOptions {
    /// Whether labels are needed.
    pub labels: Labels,
    /// Whether kinds of attacks are needed, where labels are.
    pub categories: bool,
    /// What names a row.
    pub ids: Ids,
    /// What happens with rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// The share of rows that may be left out.
    pub max_bad_rows: f64,
    /// How text files are written, where the schema does not say it.
    pub encoding: Option<Encoding>,
    /// Columns that are carried along as they are.
    pub carried: Vec<String>,
    /// Which part of the rows is read; None for all.
    pub part: Option<Part>,
    /// Whether there may be no rows at all, as there may be in a part.
    pub may_be_empty: bool,
    /// Whether all other columns of a file that are neither feature nor label are carried along, too: [`FlowReader::others`].
    pub others: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions {
            labels: Labels::default(),
            categories: false,
            ids: Ids::default(),
            on_bad_row: OnBadRow::default(),
            max_bad_rows: 0.01,
            encoding: None,
            carried: Vec::new(),
            part: None,
            may_be_empty: false,
            others: false,
        }
    }
}

impl ReadOptions {
    fn may_be_empty(&self) -> bool {
        self.may_be_empty || self.part.is_some()
    }

    /// Flows with labels and kinds of attacks.
    pub fn labelled() -> Self {
        ReadOptions { labels: Labels::Required, categories: true, ..ReadOptions::default() }
    }
}

/// What is wrong with a row that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Its file.
    pub file: PathBuf,
    /// Its place in the file.
    pub at: At,
    /// The column, where one is to blame.
    pub column: Option<String>,
    /// The cell, cut where it is long.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads flows from files in batches, one file after the other: CSV, logs of Zeek, JSON, Parquet, Arrow, told apart by content, the
/// texts also compressed by gzip or zstd.
///
/// Columns are matched by header name, in any order; case and surrounding blanks do not count. Cells are trimmed.
pub struct FlowReader {
    schema: Arc<Schema>,
    options: ReadOptions,
    /// Files yet to be opened, and what is read of them.
    files: VecDeque<(PathBuf, Share)>,
    /// All files, those of other parts included.
    n_files: usize,
    current: Option<OpenFile>,
    sink: Sink,
    /// Rows of the schema's `labels.ignore`.
    unlabelled: Option<Flows>,
    n_unlabelled: u64,
    notes: Vec<String>,
    n_kept: u64,
    /// The file that was read last.
    last: PathBuf,
    lines: Option<Lines>,
    is_finished: bool,
    /// File of the last batch, counted from 0, and its columns that are carried along without having been named.
    batch: (usize, Vec<String>),
    bytes: BytesRead,
    /// The content of the only file, where that is in memory.
    given: Option<Vec<u8>>,
}

/// How much of the files has been read.
#[derive(Default)]
struct BytesRead {
    /// Of all files; None where one has no size: a pipe, or standard input.
    all: Option<u64>,
    /// Of the files that are closed.
    closed: u64,
    /// Of the current file.
    current: Arc<AtomicU64>,
}

impl BytesRead {
    fn of(files: &[impl AsRef<Path>]) -> Self {
        let size = |file: &Path| std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file).map(|found| found.len());
        Self { all: files.iter().map(|file| size(file.as_ref())).sum(), ..Self::default() }
    }

    fn close(&mut self, path: &Path) {
        self.closed += std::fs::metadata(path).map_or(0, |found| found.len());
        self.current.store(0, Ordering::Relaxed);
    }
}

/// A file that is being read.
struct OpenFile {
    path: PathBuf,
    plan: Plan,
    source: Source,
    share: Share,
    /// Rows of the files before it that were kept or left out.
    n_before: u64,
}

/// Where the lines of a text file went: `total` is the header, `rows`, `blank`, `comments`, `headers`, `totals` and
/// `quoted` together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    /// Lines of the file.
    pub total: u64,
    /// Rows.
    pub rows: u64,
    /// Blank lines, which are passed over.
    pub blank: u64,
    /// Lines that say something of the file.
    pub comments: u64,
    /// Lines that repeat the header.
    pub headers: u64,
    /// Lines of totals after the rows.
    pub totals: u64,
    /// Lines that begin inside of a quoted field.
    pub quoted: u64,
    /// Rows that have such lines.
    pub quoted_rows: u64,
    /// Line and column in which the first such field begins.
    pub first_quoted: Option<(u64, String)>,
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", count(self.rows, "row"), count(self.total, "line"))?;
        let passed_over = [
            (self.blank, "blank line"),
            (self.comments, "comment line"),
            (self.headers, "repeated header line"),
            (self.totals, "line of totals"),
        ];
        for (n, what) in passed_over {
            if n > 0 {
                write!(f, ", {} passed over", count(n, what))?;
            }
        }
        if let Some((line, column)) = &self.first_quoted {
            let (ends, rows) = (count(self.quoted, "line end"), count(self.quoted_rows, "row"));
            write!(f, ", {ends} inside of quoted fields of {rows} (the first on line {line}, column \"{}\")", shown(column))?;
        }
        Ok(())
    }
}

fn count(n: u64, what: &str) -> String {
    match (n, what.split_once(" of ")) {
        (1, _) => format!("1 {what}"),
        (n, Some((what, of))) => format!("{n} {what}s of {of}"),
        (n, None) => format!("{n} {what}s"),
    }
}

/// A format: it hands its cells to a sink.
enum Source {
    Csv(text::Reader),
    Zeek(zeek::Reader),
    Json(json::Reader),
    Parquet(columnar::Reader),
    Arrow(arrow::Reader),
}

impl Source {
    /// Takes up to `max_rows` more rows; false at the end of the file.
    fn fill(&mut self, path: &Path, plan: &Plan, sink: &mut Sink, max_rows: usize) -> Result<bool> {
        match self {
            Source::Csv(reader) => reader.fill(path, plan, sink, max_rows),
            Source::Zeek(reader) => reader.fill(path, plan, sink, max_rows),
            Source::Json(reader) => reader.fill(path, plan, sink, max_rows),
            Source::Parquet(reader) => reader.fill(path, plan, sink, max_rows),
            Source::Arrow(reader) => reader.fill(path, plan, sink, max_rows),
        }
    }

    /// Takes those rows alone that begin in these bytes of the file. Parquet has been told before.
    fn take_those_in(&mut self, bytes: Range<u64>) {
        match self {
            Source::Csv(reader) => reader.begin_in = bytes,
            Source::Zeek(reader) => reader.begin_in = bytes,
            Source::Json(reader) => reader.begin_in = bytes,
            Source::Arrow(reader) => reader.begin_in = bytes,
            Source::Parquet(_) => {}
        }
    }

    fn lines(&self) -> Option<Lines> {
        match self {
            Source::Csv(reader) => Some(reader.lines()),
            Source::Zeek(reader) => Some(reader.lines()),
            Source::Json(reader) => Some(reader.lines()),
            Source::Parquet(_) | Source::Arrow(_) => None,
        }
    }
}

impl FlowReader {
    /// Opens the first of some files and matches its columns with the schema.
    ///
    /// # Panics
    /// If there are no files.
    pub fn open<P: AsRef<Path>>(files: &[P], schema: &Schema, options: &ReadOptions) -> Result<Self> {
        Self::open_given(files, None, schema, options)
    }

    /// Reads text in memory as the file `name` would be read that holds it. It is taken as it is: neither decompressed nor from UTF-16.
    pub fn of_bytes(name: &Path, bytes: Vec<u8>, schema: &Schema, options: &ReadOptions) -> Result<Self> {
        Self::open_given(&[name], Some(bytes), schema, options)
    }

    fn open_given<P: AsRef<Path>>(files: &[P], given: Option<Vec<u8>>, schema: &Schema, options: &ReadOptions) -> Result<Self> {
        assert!(!files.is_empty(), "a reader has files to read");
        let schema = Arc::new(schema.clone());
        let shares = match options.part {
            Some(part) => part.of_files(files)?,
            None => (0..files.len()).map(Share::whole).collect(),
        };
        let own: Vec<&Path> = shares.iter().map(|share| files[share.file].as_ref()).collect();
        let mut reader = FlowReader {
            sink: Sink::new(Arc::clone(&schema), options.on_bad_row),
            schema,
            options: options.clone(),
            bytes: BytesRead::of(&own),
            files: own.iter().map(|&file| file.to_owned()).zip(shares).collect(),
            n_files: files.len(),
            current: None,
            unlabelled: None,
            n_unlabelled: 0,
            notes: Vec::new(),
            n_kept: 0,
            last: files[0].as_ref().to_owned(),
            lines: None,
            is_finished: false,
            batch: (0, Vec::new()),
            given: None,
        };
        reader.sink.may_lack_label = options.labels == Labels::IfPresent;
        reader.given = given;
        reader.open_next()?;
        Ok(reader)
    }

    /// What is to be said of the files read so far, a line each: how they are written, columns that are not used, where their lines
    /// went, rows that were left out.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// What is wrong with the rows left out so far.
    pub fn take_rejects(&mut self) -> Vec<Reject> {
        std::mem::take(&mut self.sink.rejects)
    }

    /// The rows that count as unlabelled by the schema's `labels.ignore`, where labels were required.
    pub fn take_unlabelled(&mut self) -> Option<Flows> {
        self.unlabelled.take()
    }

    /// Rows that were left out because they cannot be read.
    pub fn n_rejected(&self) -> u64 {
        self.sink.problems.n_rows
    }

    /// The file of the last batch, counted from 0: no batch has rows of two files.
    pub fn file(&self) -> usize {
        self.batch.0
    }

    /// Names of the columns that the last batch carries along after those of [`ReadOptions::carried`].
    pub fn others(&self) -> &[String] {
        &self.batch.1
    }

    /// Where the lines went of the text file that was read last to its end.
    pub fn lines(&self) -> Option<&Lines> {
        self.lines.as_ref()
    }

    /// About which share of the files' bytes has been read: somewhat more than the rows so far, as files are read ahead. None where a
    /// file has no size.
    pub fn share_read(&self) -> Option<f64> {
        let BytesRead { all, closed, current } = &self.bytes;
        let of_current = match &self.current {
            Some(OpenFile { source: Source::Parquet(reader), path, .. }) => {
                (reader.share_read() * std::fs::metadata(path).map_or(0, |found| found.len()) as f64) as u64
            }
            _ => current.load(Ordering::Relaxed),
        };
        let n_read = closed + of_current;
        all.filter(|all| *all > 0).map(|all| (n_read as f64 / all as f64).min(1.0))
    }

    /// Up to `max_rows` more rows; `None` at the end of the last file.
    ///
    /// # Panics
    /// If `max_rows` is 0.
    pub fn next_batch(&mut self, max_rows: usize) -> Result<Option<Flows>> {
        assert!(max_rows > 0, "a batch has at least one row");
        loop {
            let (labels, categories) =
                self.current.as_ref().map_or((false, false), |file| (file.plan.has_labels, file.plan.has_categories));
            let others = self.current.as_ref().map_or(&[][..], |file| &file.plan.others);
            self.sink.begin(labels, categories, self.options.carried.len() + others.len(), max_rows);
            self.batch = (self.current.as_ref().map_or(self.n_files, |file| file.share.file), others.to_vec());
            let Some(file) = &mut self.current else {
                return self.finish().map(|()| None);
            };
            // after a bad row that must stop all, rows are looked at and dropped
            let at_once = if self.sink.keeps() { max_rows } else { max_rows.min(1 << 16) };
            let has_more = file.source.fill(&file.path, &file.plan, &mut self.sink, at_once)?;
            let n_rows = self.sink.n_rows();
            let flows = std::mem::replace(&mut self.sink.flows, Flows::empty(&self.schema, false, false));
            self.n_kept += n_rows as u64;
            if !has_more {
                self.close()?;
            }
            self.check_share(false)?;
            if n_rows == 0 || !self.sink.keeps() {
                continue;
            }
            let flows = self.set_aside(flows);
            if !flows.is_empty() {
                return Ok(Some(flows));
            }
        }
    }

    /// All rows.
    pub fn read_all(&mut self) -> Result<Flows> {
        self.read_all_with(usize::MAX, |_, _| ())
    }

    /// All rows. After each `n` of them `each` gets the number of rows so far and [`FlowReader::share_read`].
    pub fn read_all_with(&mut self, n: usize, mut each: impl FnMut(usize, Option<f64>)) -> Result<Flows> {
        let mut all: Option<Flows> = None;
        while let Some(flows) = self.next_batch(n)? {
            match &mut all {
                Some(all) => all.extend(flows),
                None => all = Some(flows),
            }
            each(all.as_ref().map_or(0, Flows::len), self.share_read());
        }
        all.ok_or_else(|| Error::data(Path::new("the files"), At::File, None, "no row has a label".to_owned()))
    }

    /// Keeps rows without a label apart.
    fn set_aside(&mut self, flows: Flows) -> Flows {
        let is_required = self.options.labels == Labels::Required;
        let Some(labels) = flows.labels().filter(|labels| is_required && labels.contains(&UNLABELLED)) else { return flows };
        let (labelled, without): (Vec<u32>, Vec<u32>) =
            (0..labels.len() as u32).partition(|&row| labels[row as usize] != UNLABELLED);
        let mut unlabelled = flows.select(&without);
        (unlabelled.labels, unlabelled.categories) = (None, None);
        self.n_unlabelled += without.len() as u64;
        match &mut self.unlabelled {
            Some(all) => all.extend(unlabelled),
            None => self.unlabelled = Some(unlabelled),
        }
        flows.select(&labelled)
    }

    fn open_next(&mut self) -> Result<()> {
        let Some((path, mut share)) = self.files.pop_front() else { return Ok(()) };
        let encoding = self.options.encoding.or(self.schema.cells().encoding);
        let Opened { header, unplanned, notes: bytes_notes, is_compressed } =
            open(&path, self.given.take(), &self.schema, encoding, &self.options, &self.bytes.current)?;
        if is_compressed && !share.is_whole() {
            // nobody knows where its rows begin without unfolding it: all are in the part in which the file begins
            share.bytes = if share.bytes.start == 0 { 0..u64::MAX } else { 0..0 };
        }
        let mut plan = header::plan(&path, header, &self.schema, &self.options)?;
        if self.options.others {
            plan.carry_others(self.options.carried.len(), |place| unplanned.is_readable(place));
        }
        let source = match unplanned {
            Unplanned::Parquet(opened) => Source::Parquet(columnar::Reader::new(&path, *opened, &plan, Some(&share))?),
            Unplanned::Ready(mut source) => {
                source.take_those_in(share.bytes.clone());
                *source
            }
        };
        let before = if self.n_files > 1 { format!("{}:", path.display()) } else { String::new() };
        self.sink.begin_file((!plan.has_ids).then_some(before));
        match &source {
            Source::Arrow(reader) => reader.check(&path, &plan)?,
            Source::Zeek(reader) => reader.missing().iter().for_each(|spelling| self.sink.rules.add_missing(spelling)),
            _ => {}
        }
        let note = |notes: &mut Vec<String>, what: &str| notes.push(format!("{}: {what}", path.display()));
        bytes_notes.iter().chain(&plan.notes).for_each(|what| note(&mut self.notes, what));
        if !plan.unlisted.is_empty() {
            let what = format!("columns that the schema does not list are not used: {}", some_of(&plan.unlisted));
            note(&mut self.notes, &what);
        }
        plan.notes.clear();
        self.current = Some(OpenFile { path, plan, source, share, n_before: self.n_kept });
        Ok(())
    }

    /// Ends the current file and opens the next.
    fn close(&mut self) -> Result<()> {
        let Some(OpenFile { path, source, share, n_before, .. }) = self.current.take() else { return Ok(()) };
        let mut note = |what: String| self.notes.push(format!("{}: {what}", path.display()));
        self.lines = source.lines();
        if let Some(lines) = self.lines.as_ref().filter(|_| share.is_whole()) {
            note(lines.to_string());
        }
        let n_unwanted = self.sink.n_unwanted;
        if n_unwanted > 0 {
            let only = self
                .schema
                .cells()
                .only
                .iter()
                .flatten()
                .map(|(column, values)| format!("`{column}` is {}", values.join(" or ")));
            note(format!(
                "{} passed over: rows are those whose {}",
                count(n_unwanted, "row"),
                only.collect::<Vec<_>>().join(" and ")
            ));
        }
        for (column, n) in std::mem::take(&mut self.sink.moments) {
            note(format!("column \"{}\": {n} dates and times, read as seconds since 1970 (UTC)", shown(&column)));
        }
        if self.n_kept == n_before && self.sink.problems.is_empty() {
            if self.n_files == 1 && !self.options.may_be_empty() {
                let message =
                    if n_unwanted > 0 { "no row that the schema's `where` lets through" } else { "no rows after the header" };
                return Err(Error::data(&path, At::File, None, message.to_owned()));
            }
            if share.is_whole() {
                note("no rows".to_owned());
            }
        }
        self.bytes.close(&path);
        self.last = path;
        self.open_next()
    }

    /// What is to be said at the end of the last file.
    fn finish(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_finished, true) {
            return Ok(());
        }
        let n_read = self.n_kept + self.sink.problems.n_rows;
        if self.options.on_bad_row == OnBadRow::Stop && !self.sink.problems.is_empty() {
            return Err(self.sink.problems.error(
                &self.last,
                n_read,
                ": to leave such rows out, pass `--on-bad-row skip --rejects FILE`",
            ));
        }
        if !self.sink.unknown_words.is_empty() {
            return Err(self.unknown_labels());
        }
        if n_read == 0 && !self.options.may_be_empty() {
            return Err(Error::data(&self.last, At::File, None, "no rows in any of the files".to_owned()));
        }
        self.check_share(true)?;
        if self.sink.problems.n_rows > 0 {
            let (kept, rejected) = (self.n_kept, self.sink.problems.n_rows);
            self.notes.push(format!("{n_read} rows = {kept} rows read + {} that cannot be", count(rejected, "row")));
        }
        if self.n_unlabelled > 0 {
            let words: Vec<String> =
                self.sink.ignored_words.iter().map(|(word, n)| format!("\"{}\" ({n})", shown(word))).collect();
            self.notes.push(format!(
                "{} of labels that the schema ignores, taken as unlabelled: {}",
                count(self.n_unlabelled, "row"),
                some_of(&words)
            ));
            self.n_unlabelled = 0;
        }
        Ok(())
    }

    /// Refuses more bad rows than may be left out.
    fn check_share(&self, is_at_end: bool) -> Result<()> {
        let (rejected, read) = (self.sink.problems.n_rows, self.n_kept + self.sink.problems.n_rows);
        let is_judged = is_at_end || read >= MIN_JUDGED;
        if self.options.on_bad_row == OnBadRow::Stop || !is_judged || rejected as f64 <= self.options.max_bad_rows * read as f64 {
            return Ok(());
        }
        let share = format!(": more than the share of {} that `max_bad_rows` allows", self.options.max_bad_rows);
        Err(self.sink.problems.error(&self.last, read, &share))
    }

    fn unknown_labels(&self) -> Error {
        let counts = self.sink.unknown_words.iter();
        let mut words: Vec<(&String, u64)> = counts.map(|(word, n)| (word, *n)).collect();
        words.sort_by_key(|(word, n)| (std::cmp::Reverse(*n), *word));
        let rows: u64 = words.iter().map(|(_, n)| n).sum();
        let shown: Vec<String> = words.iter().map(|(word, n)| format!("\"{}\" ({n})", shown(word))).collect();
        let column = self.schema.columns().iter().find(|column| column.kind == crate::ColumnKind::Label);
        let name = column.map(|column| column.name.as_str());
        if words.iter().all(|(word, _)| word.is_empty()) {
            let message = format!(
                "{} without a label: with `labels: {{ ignore: [\"\"], ... }}` in the schema they count as unlabelled",
                count(rows, "row")
            );
            return Error::data(&self.last, At::File, name, message);
        }
        let known = match &self.schema.cells().labels {
            Some(_) => "in none of the lists of the schema's `labels`",
            None => "neither 0 or 1, true or false, nor benign, normal, attack, malicious or anomaly",
        };
        let message = format!(
            "{} whose label is {known}: {}; say in the schema what they stand for, as `labels: {{ benign: [...], attack: any, ignore: [...] }}`",
            count(rows, "row"),
            shown.join(", ")
        );
        Error::data(&self.last, At::File, name, message)
    }
}

enum Unplanned {
    Parquet(Box<columnar::Opened>),
    Ready(Box<Source>),
}

impl Unplanned {
    /// Whether the cells of a column can be read.
    fn is_readable(&self, place: usize) -> bool {
        match self {
            Unplanned::Parquet(opened) => opened.is_readable(place),
            Unplanned::Ready(source) => match &**source {
                Source::Arrow(reader) => reader.is_readable(place),
                _ => true,
            },
        }
    }
}

/// A file whose columns have been found.
struct Opened {
    header: header::Header,
    unplanned: Unplanned,
    /// What is to be said of it.
    notes: Vec<String>,
    is_compressed: bool,
}

/// Opens a file and finds its columns.
fn open(
    path: &Path,
    given: Option<Vec<u8>>,
    schema: &Schema,
    encoding: Option<Encoding>,
    options: &ReadOptions,
    n_read: &Arc<AtomicU64>,
) -> Result<Opened> {
    let of = |header, unplanned| Opened { header, unplanned, notes: Vec::new(), is_compressed: false };
    let input = match given {
        Some(bytes) => input::of_bytes(path, bytes, encoding)?,
        None => input::open_counted(path, encoding, n_read)?,
    };
    let text = match input {
        Input::Parquet(file) => {
            let (header, opened) = columnar::open(path, file)?;
            return Ok(of(header, Unplanned::Parquet(Box::new(opened))));
        }
        Input::Arrow(bytes) => {
            let (header, reader) = arrow::Reader::open(path, bytes)?;
            return Ok(of(header, Unplanned::Ready(Box::new(Source::Arrow(reader)))));
        }
        Input::Text(text) => text,
    };
    if text.head.is_empty() {
        let message = "the file is empty; wanted a header line and rows".to_owned();
        return Err(Error::data(path, At::File, None, message));
    }
    let mut notes = text.notes;
    let (header, source) = match sniff::sniff(&text.head, Some(schema)) {
        Format::Stranger(what) => return Err(Error::data(path, At::File, None, format!("the file is {what}"))),
        Format::Zeek => {
            notes.push("a log of Zeek".to_owned());
            let (header, reader) = zeek::Reader::open(path, text.bytes)?;
            (header, Source::Zeek(reader))
        }
        Format::Json => {
            notes.push("objects of JSON".to_owned());
            let names = schema.columns().iter().map(|column| column.name.clone()).chain(options.carried.iter().cloned());
            let (header, reader) = json::Reader::open(path, &text.head, text.bytes, names)?;
            (header, Source::Json(reader))
        }
        Format::Csv(csv) => {
            notes.extend(csv.notes);
            let names: Vec<String> = schema.columns().iter().map(|column: &Column| column.name.clone()).collect();
            let (header, reader) = text::Reader::open(path, text.bytes, csv.dialect, csv.has_header, &names)?;
            (header, Source::Csv(reader))
        }
    };
    let notes = if notes.is_empty() { Vec::new() } else { vec![notes.join(", ")] };
    Ok(Opened { notes, is_compressed: text.is_compressed, ..of(header, Unplanned::Ready(Box::new(source))) })
}

/// How a text file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Written {
    /// A log of Zeek: lines that begin with `#` say how its cells are written.
    Zeek,
    /// Objects of JSON.
    Json,
    /// Rows of cells.
    Csv {
        /// What separates cells.
        delimiter: u8,
        /// Lines before the rows and their header line.
        n_preamble: u64,
        /// Whether a header line comes before the rows.
        has_header: bool,
    },
}

/// How a text file is written that is to have the columns of `schema`, as its first lines say.
///
/// # Errors
/// What the file is that holds no flows, and what to do.
pub fn written(head: &[u8], schema: &Schema) -> std::result::Result<Written, String> {
    if let Some(what) = input::stranger(head) {
        return Err(what.to_owned());
    }
    match sniff::sniff(head, Some(schema)) {
        Format::Stranger(what) => Err(what.to_owned()),
        Format::Zeek => Ok(Written::Zeek),
        Format::Json => Ok(Written::Json),
        Format::Csv(csv) => {
            Ok(Written::Csv { delimiter: csv.dialect.delimiter, n_preamble: csv.dialect.n_preamble, has_header: csv.has_header })
        }
    }
}

/// Reads a whole file.
pub fn read(path: &Path, schema: &Schema, options: &ReadOptions) -> Result<Flows> {
    FlowReader::open(&[path], schema, options)?.read_all()
}

/// The first ten of a list, and how many more there are.
pub fn some_of<T: AsRef<str>>(names: &[T]) -> String {
    const SHOWN: usize = 10;
    let some: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { some.join(", ") } else { format!("{} and {more} more", some.join(", ")) }
}

/// A cell as an error message shows it.
pub(crate) fn shown(cell: &str) -> String {
    let mut short: String = cell.chars().take(40).flat_map(char::escape_debug).collect();
    if cell.chars().count() > 40 {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests;
