use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_schema};

use super::batch;
use super::header::{Header, Plan};
use super::part::Share;
use super::sink::{Sink, Slot};
use crate::{At, Error, Result};
use source::Source;

mod source;
mod thrift;

/// Rows that are decoded at once, at most.
const BATCH: usize = 8192;
/// Cells of these rows.
const BATCH_CELLS: usize = 128 * BATCH;

type Builder = ParquetRecordBatchReaderBuilder<Source>;

/// A file whose footer has been read.
pub(super) struct Opened {
    builder: Builder,
    max_rows: u64,
}

/// The rows of a Parquet file.
pub(super) struct Reader {
    batches: ParquetRecordBatchReader,
    /// Places in the file of the columns that are read, ascending.
    places: Vec<usize>,
    /// Rows decoded and not yet handed out.
    rest: Option<RecordBatch>,
    max_rows: u64,
    /// Which rows are taken, counted from 0.
    taken: Range<u64>,
    /// Rows of the file up to here.
    n_rows: u64,
    /// Rows that the footer tells.
    n_all: u64,
}

/// Reads the footer. Texts become views into the file's pages: a dictionary's long text is not copied for each row that has it.
pub(super) fn open(path: &Path, file: File) -> Result<(Header, Opened)> {
    let opened = guarded(path, || {
        let source = Source::new(file)?;
        let max_rows = source.max_rows();
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::load(&source, options)?;
        let durations = durations(&metadata);
        let fields = metadata.schema().fields().iter().map(|field| match field.data_type() {
            DataType::Int64 if durations.contains_key(field.name()) => {
                Arc::new(Field::new(field.name(), durations[field.name()].clone(), field.is_nullable()))
            }
            DataType::Utf8 => Arc::new(Field::new(field.name(), DataType::Utf8View, field.is_nullable())),
            DataType::Binary => Arc::new(Field::new(field.name(), DataType::BinaryView, field.is_nullable())),
            _ => Arc::clone(field),
        });
        let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(fields.collect::<Vec<_>>())));
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options)?;
        Ok::<_, parquet::errors::ParquetError>(Opened { builder: Builder::new_with_metadata(source.pages(), metadata), max_rows })
    })?;
    let names: Vec<String> = opened.builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    Ok((Header { n_seen: names.len(), names, is_sparse: false, is_by_place: false }, opened))
}

/// The row groups that hold some of these rows, and the number of rows before them.
fn groups_of(rows: &Range<u64>, in_groups: &[u64]) -> (u64, Option<Vec<usize>>) {
    let (mut start, mut first, mut groups) = (0_u64, None, Vec::new());
    for (group, n) in in_groups.iter().enumerate() {
        let end = start.saturating_add(*n);
        if start < rows.end && end > rows.start {
            first.get_or_insert(start);
            groups.push(group);
        }
        start = end;
    }
    (first.unwrap_or(rows.start), Some(groups))
}

/// Columns of durations, which Parquet has no type for: Arrow keeps theirs beside its own.
fn durations(metadata: &ArrowReaderMetadata) -> BTreeMap<String, DataType> {
    let file = metadata.metadata().file_metadata();
    let Ok(schema) = parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata()) else { return BTreeMap::new() };
    let is_duration = |field: &&Arc<Field>| matches!(field.data_type(), DataType::Duration(_));
    schema.fields().iter().filter(is_duration).map(|field| (field.name().clone(), field.data_type().clone())).collect()
}

impl Opened {
    /// Whether the cells of a column can be read.
    pub(super) fn is_readable(&self, place: usize) -> bool {
        batch::check_type(Slot::Raw(0), self.builder.schema().field(place).data_type()).is_ok()
    }
}

impl Reader {
    /// `share` says which rows are taken; none does for all.
    pub(super) fn new(path: &Path, opened: Opened, plan: &Plan, share: Option<&Share>) -> Result<Self> {
        let Opened { builder, max_rows } = opened;
        let mut places: Vec<usize> = plan.uses.iter().map(|(place, _)| *place).collect();
        places.sort_unstable();
        places.dedup();
        for &(place, slot) in &plan.uses {
            batch::check_type(slot, builder.schema().field(place).data_type())
                .map_err(|message| Error::data(path, At::File, Some(&plan.names[place]), message))?;
        }
        let mask = ProjectionMask::roots(builder.parquet_schema(), places.iter().copied());
        let batch = (BATCH_CELLS / places.len().max(1)).clamp(1, BATCH);
        let in_groups = builder.metadata().row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0));
        let in_groups: Vec<u64> = in_groups.collect();
        let n_all = in_groups.iter().fold(0, |n: u64, rows| n.saturating_add(*rows));
        let builder = builder.with_projection(mask).with_batch_size(batch);
        let part = share.filter(|share| !share.is_whole());
        let taken = part.map_or(0..u64::MAX, |share| share.rows(n_all));
        let (first, groups) = if part.is_some() { groups_of(&taken, &in_groups) } else { (0, None) };
        let batches = guarded(path, || match groups {
            Some(groups) => builder.with_row_groups(groups).build(),
            None => builder.build(),
        })?;
        Ok(Reader { batches, places, rest: None, max_rows, taken, n_rows: first, n_all })
    }

    /// Which share of the rows has been decoded.
    pub(super) fn share_read(&self) -> f64 {
        if self.n_all == 0 { 0.0 } else { (self.n_rows as f64 / self.n_all as f64).min(1.0) }
    }

    /// Takes up to `max_rows` more rows; false at the end of the file.
    pub(super) fn fill(&mut self, path: &Path, plan: &Plan, sink: &mut Sink, max_rows: usize) -> Result<bool> {
        while !sink.is_full(max_rows) {
            let rows = match self.rest.take() {
                Some(rows) => rows,
                None => match guarded(path, || self.batches.next().transpose())? {
                    Some(rows) => rows,
                    None => return Ok(false),
                },
            };
            if self.n_rows >= self.taken.end {
                return Ok(false);
            }
            let n_before = self.taken.start.saturating_sub(self.n_rows).min(rows.num_rows() as u64);
            let n = if n_before > 0 {
                n_before as usize
            } else {
                let left = self.taken.end - self.n_rows;
                rows.num_rows().min(max_rows - sink.n_rows()).min(usize::try_from(left).unwrap_or(usize::MAX))
            };
            if n < rows.num_rows() {
                self.rest = Some(rows.slice(n, rows.num_rows() - n));
            }
            if n_before > 0 {
                self.n_rows += n_before;
                continue;
            }
            let column = |place: usize| self.places.partition_point(|&used| used < place);
            let (n_unwanted, faults, kept) = guarded(path, || batch::take(&rows.slice(0, n), plan, column, sink))?;
            let first = self.n_rows;
            sink.end_rows(kept.len(), path, |row| At::Row(first + kept[row] as u64 + 1), faults);
            sink.n_unwanted += n_unwanted as u64;
            self.n_rows += n as u64;
            if self.n_rows > self.max_rows {
                let message = format!("more than {} rows in a file of its size: not a table of flows", self.max_rows);
                return Err(Error::data(path, At::File, None, message));
            }
        }
        Ok(true)
    }
}

/// Runs a call into the Parquet decoder, which can panic on a damaged file.
fn guarded<T, E: Display>(path: &Path, call: impl FnOnce() -> std::result::Result<T, E>) -> Result<T> {
    let damaged = |what: &str| Error::data(path, At::File, None, format!("not a readable Parquet file: {what}"));
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(damaged(&e.to_string())),
        Err(_) => Err(damaged("the decoder gave up on damaged data")),
    }
}
