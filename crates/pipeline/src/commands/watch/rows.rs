//! From lines to flows, by the readers of files. One bad line costs that line alone, and every flow knows its line.

use std::ops::Range;

use nids_flows::{At, FlowReader, Flows, Ids, Labels, OnBadRow, ReadOptions, Schema, Written};
use serde_json::{Map, Value as Json};

use super::tail::{Batch, Line};

/// A line that is no flow, and why.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BadLine {
    pub(super) offset: u64,
    pub(super) column: String,
    pub(super) value: String,
    pub(super) reason: String,
}

/// What a batch of lines holds.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// Flows, and the line of each: piece by piece, since lines that may upset others are read alone.
    pub(super) pieces: Vec<(Flows, Vec<Line>)>,
    pub(super) bad: Vec<BadLine>,
    /// Lines that the schema passes over: other events.
    pub(super) n_passed: u64,
    /// What is to be said of how the lines are written.
    pub(super) notes: Vec<String>,
}

impl Rows {
    pub(super) fn n_flows(&self) -> usize {
        self.pieces.iter().map(|(flows, _)| flows.len()).sum()
    }
}

/// Reads the lines of a batch.
pub(super) fn read(batch: &Batch, schema: &Schema, options: &ReadOptions) -> Rows {
    let options = ReadOptions {
        labels: Labels::Unused,
        ids: Ids::Row,
        on_bad_row: OnBadRow::Skip,
        max_bad_rows: 1.0,
        may_be_empty: true,
        carried: Vec::new(),
        part: None,
        ..options.clone()
    };
    let reading = Reading { batch, schema, options, header: header(batch, schema) };
    let mut rows = Rows::default();
    let mut first = 0;
    for (place, line) in batch.lines.iter().enumerate() {
        if may_upset(batch.written, batch.line(line)) {
            reading.read(first..place, &mut rows);
            reading.read(place..place + 1, &mut rows);
            first = place + 1;
        }
    }
    reading.read(first..batch.lines.len(), &mut rows);
    rows
}

/// What stands before the lines. Objects of JSON have no header: an empty one says which names there may be.
fn header(batch: &Batch, schema: &Schema) -> Vec<u8> {
    if batch.written != Written::Json {
        return batch.header.clone();
    }
    let names = schema.columns().iter().flat_map(nids_flows::Column::names);
    let object: Map<String, Json> = names.map(|name| (name.to_owned(), Json::from(""))).collect();
    (Json::Object(object).to_string() + "\n").into_bytes()
}

/// Whether a line may be read as more or less than one row, or as a part of the next.
fn may_upset(written: Written, line: &[u8]) -> bool {
    match written {
        Written::Zeek => false,
        Written::Json => serde_json::from_slice::<Object>(line).is_err(),
        Written::Csv { .. } => {
            line.contains(&b'\r') || !memchr::memchr_iter(b'"', line).count().is_multiple_of(2) || line.trim_ascii() == b"Summary"
        }
    }
}

/// An object, whatever is in it.
#[derive(serde::Deserialize)]
struct Object {}

struct Reading<'b> {
    batch: &'b Batch,
    schema: &'b Schema,
    options: ReadOptions,
    header: Vec<u8>,
}

impl Reading<'_> {
    /// Reads lines together, and where that fails, halves of them.
    fn read(&self, range: Range<usize>, rows: &mut Rows) {
        let lines = &self.batch.lines[range.clone()];
        if lines.is_empty() {
            return;
        }
        match self.try_read(lines) {
            Ok(found) => {
                rows.pieces.extend(found.pieces);
                rows.bad.extend(found.bad);
                rows.n_passed += found.n_passed;
                rows.notes.extend(found.notes);
            }
            Err(reason) if lines.len() == 1 => {
                let text = String::from_utf8_lossy(self.batch.line(&lines[0])).into_owned();
                let value: String = text.chars().take(80).collect();
                rows.bad.push(BadLine { offset: lines[0].offset, column: String::new(), value, reason });
            }
            Err(_) => {
                let middle = usize::midpoint(range.start, range.end);
                self.read(range.start..middle, rows);
                self.read(middle..range.end, rows);
            }
        }
    }

    /// Reads lines together, if each is one row.
    fn try_read(&self, lines: &[Line]) -> Result<Rows, String> {
        let (first, last) = (lines[0].start, lines[lines.len() - 1].end + 1);
        let mut bytes = self.header.clone();
        bytes.extend_from_slice(&self.batch.bytes[first..last]);
        let n_header = memchr::memchr_iter(b'\n', &self.header).count() as u64;
        // an object of names is a row of its own
        let n_before = u64::from(self.batch.written == Written::Json);
        let why = |error: &nids_flows::Error| match error {
            nids_flows::Error::Data { column: Some(column), message, .. } => format!("column \"{column}\": {message}"),
            nids_flows::Error::Data { message, .. } => message.clone(),
            other => other.to_string(),
        };
        let mut reader =
            FlowReader::of_bytes(&self.batch.path, bytes, self.schema, &self.options).map_err(|error| why(&error))?;
        let mut rows = Rows { notes: reader.take_notes(), ..Rows::default() };
        let mut n_flows = 0;
        let mut rejects = Vec::new();
        while let Some(flows) = reader.next_batch(lines.len() + 1).map_err(|error| why(&error))? {
            let kept: Vec<(u32, Line)> = (0..)
                .zip(flows.ids())
                .filter_map(|(row, id)| {
                    let number: u64 = id.parse().ok()?;
                    let line = lines.get(usize::try_from(number.checked_sub(n_before + 1)?).ok()?)?;
                    Some((row, *line))
                })
                .collect();
            let (kept, of): (Vec<u32>, Vec<Line>) = kept.into_iter().unzip();
            n_flows += kept.len() as u64;
            let flows = if kept.len() == flows.len() { flows } else { flows.select(&kept) };
            if !flows.is_empty() {
                rows.pieces.push((flows, of));
            }
            rejects.extend(reader.take_rejects());
        }
        rejects.extend(reader.take_rejects());
        let n_rows = reader.lines().map_or(0, |found| found.rows);
        if n_rows != lines.len() as u64 + n_before {
            return Err("the line is no row, or several".to_owned());
        }
        let mut n_bad = 0;
        let mut last_bad = None;
        for reject in rejects {
            let At::Line(number) = reject.at else { continue };
            let Some(place) = number.checked_sub(n_header + 1) else { continue };
            let Some(line) = lines.get(place as usize) else { continue };
            // several cells of a line may be wrong
            n_bad += u64::from(last_bad.replace(place) != Some(place));
            rows.bad.push(BadLine {
                offset: line.offset,
                column: reject.column.unwrap_or_default(),
                value: reject.value,
                reason: reject.reason,
            });
        }
        rows.n_passed = (lines.len() as u64).saturating_sub(n_flows + n_bad);
        Ok(rows)
    }
}
