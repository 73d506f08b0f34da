use std::fmt::Display;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::display::array_value_to_string;
use arrow_cast::{can_cast_types, cast};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

use super::{Filled, MAX_TEXT, Slot, as_cell, as_label, bad_label, bad_number, long_text};
use crate::{At, Error, FeatureColumn, Flows, Result};
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
    /// Name and slot of the columns that are read, in file order.
    columns: Vec<(String, Slot)>,
    /// Rows decoded and not yet handed out.
    rest: Option<RecordBatch>,
    max_rows: u64,
}

/// Reads the footer. Texts become views into the file's pages: a dictionary's long text is not copied for each row that has it.
pub(super) fn open(path: &Path, file: File) -> Result<(Vec<String>, Opened)> {
    let opened = guarded(path, || {
        let source = Source::new(file)?;
        let max_rows = source.max_rows();
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::load(&source, options)?;
        let fields = metadata.schema().fields().iter().map(|field| match field.data_type() {
            DataType::Utf8 => Arc::new(Field::new(field.name(), DataType::Utf8View, field.is_nullable())),
            DataType::Binary => Arc::new(Field::new(field.name(), DataType::BinaryView, field.is_nullable())),
            _ => Arc::clone(field),
        });
        let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(fields.collect::<Vec<_>>())));
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options)?;
        Ok::<_, parquet::errors::ParquetError>(Opened { builder: Builder::new_with_metadata(source.pages(), metadata), max_rows })
    })?;
    let names = opened.builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    Ok((names, opened))
}

impl Reader {
    pub(super) fn new(path: &Path, opened: Opened, header: &[String], slots: &[Slot]) -> Result<Self> {
        let Opened { builder, max_rows } = opened;
        let used = || (0..slots.len()).filter(|&idx| slots[idx] != Slot::Skip);
        for idx in used() {
            let found = builder.schema().field(idx).data_type();
            let wanted = cast_type(slots[idx], found);
            if !can_cast_types(found, &wanted) {
                let message = format!("type {found} is neither a number nor a text");
                return Err(Error::data(path, At::File, Some(&header[idx]), message));
            }
        }
        let mask = ProjectionMask::roots(builder.parquet_schema(), used());
        let columns: Vec<(String, Slot)> = used().map(|idx| (header[idx].clone(), slots[idx])).collect();
        let batch = (BATCH_CELLS / columns.len().max(1)).clamp(1, BATCH);
        let batches = guarded(path, || builder.with_projection(mask).with_batch_size(batch).build())?;
        Ok(Reader { batches, columns, rest: None, max_rows })
    }

    /// Appends up to `max_rows` rows to `flows`; `n_read` rows of the file came before.
    pub(super) fn fill(&mut self, path: &Path, flows: &mut Flows, max_rows: usize, n_read: u64) -> Result<Filled> {
        let mut n_rows = 0;
        while n_rows < max_rows {
            let batch = match self.rest.take() {
                Some(batch) => batch,
                None => match guarded(path, || self.batches.next().transpose())? {
                    Some(batch) => batch,
                    None => break,
                },
            };
            let n = batch.num_rows().min(max_rows - n_rows);
            if n < batch.num_rows() {
                self.rest = Some(batch.slice(n, batch.num_rows() - n));
            }
            let first_row = n_read + n_rows as u64 + 1;
            for ((name, slot), cells) in self.columns.iter().zip(batch.slice(0, n).columns()) {
                push(flows, *slot, cells)
                    .map_err(|(row, message)| Error::data(path, At::Row(first_row + row as u64), Some(name), message))?;
            }
            n_rows += n;
            if n_read + n_rows as u64 > self.max_rows {
                let message = format!("more than {} rows in a file of its size: not a table of flows", self.max_rows);
                return Err(Error::data(path, At::File, None, message));
            }
        }
        Ok(Filled { n_rows, has_ids: self.columns.iter().any(|(_, slot)| *slot == Slot::Id) })
    }
}

/// Appends one column; the error is the offending row of `cells` and what is wrong with it.
fn push(flows: &mut Flows, slot: Slot, cells: &ArrayRef) -> std::result::Result<(), (usize, String)> {
    let numeric = match slot {
        Slot::Label => true,
        Slot::Feature(feature) => matches!(flows.features[feature], FeatureColumn::Numeric(_)),
        _ => false,
    };
    let wanted = if numeric { DataType::Float64 } else { DataType::Utf8View };
    if numeric
        && let Some(texts) = cells.as_string_view_opt()
        && let Some(row) = texts.lengths().position(|len| len as usize > MAX_TEXT)
    {
        return Err((row, long_text(texts.value(row).len())));
    }
    let converted = cast(cells, &wanted).map_err(|e| (0, e.to_string()))?;
    // a null of the file, or one that the cast left where it failed; dictionaries hide theirs in the values
    let null = |row: usize| match array_value_to_string(cells, row) {
        Ok(found) if cells.is_valid(row) && !found.is_empty() && numeric => (row, bad_number(&found)),
        Ok(_) if cells.is_valid(row) && !numeric => (row, "a text that is not UTF-8".to_owned()),
        _ => (row, "the cell is null; every row needs a value".to_owned()),
    };
    if let Some(nulls) = converted.logical_nulls()
        && let Some(row) = (0..nulls.len()).find(|&row| nulls.is_null(row))
    {
        return Err(null(row));
    }
    if !numeric {
        let texts = converted.as_string_view();
        if let Some(row) = texts.lengths().position(|len| len as usize > MAX_TEXT) {
            return Err((row, long_text(texts.value(row).len())));
        }
        let texts = texts.iter().flatten().map(str::trim);
        match slot {
            Slot::Id => flows.ids.extend(texts.map(str::to_owned)),
            Slot::Category => flows.categories.iter_mut().for_each(|column| texts.clone().for_each(|text| column.push(text))),
            Slot::Feature(feature) => {
                if let FeatureColumn::Categorical(column) = &mut flows.features[feature] {
                    texts.for_each(|text| column.push(text));
                }
            }
            Slot::Skip | Slot::Label => unreachable!("not a text"),
        }
        return Ok(());
    }
    for (row, &value) in converted.as_primitive::<Float64Type>().values().iter().enumerate() {
        let fail = |message: fn(&str) -> String| (row, message(&value.to_string()));
        if let Slot::Feature(feature) = slot {
            if let FeatureColumn::Numeric(values) = &mut flows.features[feature] {
                values.push(as_cell(value).ok_or_else(|| fail(bad_number))?);
            }
        } else {
            let label = as_label(value).ok_or_else(|| fail(bad_label))?;
            flows.labels.iter_mut().for_each(|labels| labels.push(label));
        }
    }
    Ok(())
}

/// The type that a column of the file must convert to.
fn cast_type(slot: Slot, found: &DataType) -> DataType {
    match slot {
        Slot::Label => DataType::Float64,
        // whether the feature is a number is seen when it is read; what casts to neither is refused here
        Slot::Feature(_) if found.is_numeric() => DataType::Float64,
        _ => DataType::Utf8View,
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
