//! Rows of Arrow's memory format, which Parquet is decoded to.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, StringViewArray};
use arrow_cast::{can_cast_types, cast};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use arrow_select::filter::filter_record_batch;

use super::cells::{Number, bad_number, long_text};
use super::header::{Given, Plan};
use super::sink::{ColumnFault, Sink, Slot};
use super::text::differs;
use super::{MAX_TEXT, shown};

/// Whether cells of this type can be read for `slot`; else what is wrong.
pub(super) fn check_type(slot: Slot, found: &DataType) -> Result<(), String> {
    let is_known = can_cast_types(found, &DataType::Utf8View)
        && !found.is_nested()
        && !matches!(found, DataType::Interval(_) | DataType::Null);
    match slot {
        _ if *found == DataType::Null || is_known => Ok(()),
        _ => Err(format!("type {found} is neither a number nor a text")),
    }
}

/// Appends the rows of a batch that the schema's conditions let through; how many they left out, and the faults of the others, by
/// their row of `batch`. `columns` has the place in the batch of every place in the file.
pub(super) fn take(
    batch: &RecordBatch,
    plan: &Plan,
    column: impl Fn(usize) -> usize,
    sink: &mut Sink,
) -> Result<(usize, Vec<ColumnFault>, Vec<usize>), ArrowError> {
    let n = batch.num_rows();
    let mut kept: Vec<usize> = (0..n).collect();
    for &(place, slot) in &plan.uses {
        if let Slot::Where(condition) = slot {
            let texts = texts(batch.column(column(place)))?;
            kept.retain(|&row| texts.is_valid(row) && sink.is_wanted(condition, texts.value(row).trim().as_bytes()));
        }
    }
    let filtered;
    let rows = if kept.len() == n {
        batch
    } else {
        let mut mask = vec![false; n];
        for &row in &kept {
            mask[row] = true;
        }
        filtered = filter_record_batch(batch, &BooleanArray::from(mask))?;
        &filtered
    };
    let mut faults = Vec::new();
    for &(place, slot) in &plan.uses {
        let cells = rows.column(column(place));
        match slot {
            Slot::Where(_) => {}
            Slot::SameAs(first) => {
                let (found, other) = (texts(cells)?, texts(rows.column(column(first)))?);
                for row in (0..rows.num_rows()).filter(|&row| get(&found, row) != get(&other, row)) {
                    let (found, other) = (get(&found, row).unwrap_or(""), get(&other, row).unwrap_or(""));
                    let message = differs(other.as_bytes(), found.as_bytes());
                    faults.push(ColumnFault { row, column: plan.names[place].clone(), value: shown(found), message });
                }
            }
            _ => push(cells, slot, &plan.names[place], sink, &mut faults)?,
        }
    }
    for Given { slot, column, cell } in &plan.given {
        for row in 0..rows.num_rows() {
            match cell.as_ref().map(|cell| (cell, sink.try_push(*slot, column, cell.as_bytes()))) {
                Some((_, Ok(()))) => {}
                Some((cell, Err(message))) => {
                    faults.push(ColumnFault { row, column: column.clone(), value: shown(cell), message });
                    sink.push_missing(*slot);
                }
                None => sink.push_missing(*slot),
            }
        }
    }
    faults.sort_by_key(|fault| fault.row);
    Ok((n - kept.len(), faults, kept))
}

fn get(texts: &StringViewArray, row: usize) -> Option<&str> {
    texts.is_valid(row).then(|| texts.value(row).trim())
}

fn texts(cells: &ArrayRef) -> Result<StringViewArray, ArrowError> {
    Ok(cast(cells, &DataType::Utf8View)?.as_string_view().clone())
}

/// Appends the cells of a column.
fn push(cells: &ArrayRef, slot: Slot, name: &str, sink: &mut Sink, faults: &mut Vec<ColumnFault>) -> Result<(), ArrowError> {
    let mut fault = |row: usize, value: &str, message: String| {
        faults.push(ColumnFault { row, column: name.to_owned(), value: value.to_owned(), message });
    };
    if let (Slot::Numeric(feature), Some(values)) = (slot, numbers(cells)?) {
        let is_moment = matches!(cells.data_type(), DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
        for (row, value) in values.into_iter().enumerate() {
            if is_moment && !value.is_nan() {
                sink.note_moment(name);
            }
            match sink.rules.value(value) {
                Number::Value(value) | Number::Moment(value) => sink.push_number(feature, value),
                Number::Unreadable => {
                    fault(row, &value.to_string(), bad_number(&value.to_string()));
                    sink.push_number(feature, f64::NAN);
                }
            }
        }
        return Ok(());
    }
    let texts = texts(cells)?;
    let nulls = cells.logical_nulls();
    for row in 0..texts.len() {
        if texts.is_null(row) {
            // a null of the file, or one that the cast left where it failed
            if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                fault(row, "", "a text that is not UTF-8".to_owned());
            }
            sink.push_missing(slot);
            continue;
        }
        let text = texts.value(row).trim();
        if text.len() > MAX_TEXT && !matches!(slot, Slot::Raw(_)) {
            fault(row, &shown(text), long_text(text.len()));
            sink.push_missing(slot);
            continue;
        }
        if let Err(message) = sink.try_push(slot, name, text.as_bytes()) {
            fault(row, &shown(text), message);
            sink.push_missing(slot);
        }
    }
    Ok(())
}

/// The numbers of a column, times in seconds, NaN where there is none; None where it holds texts.
fn numbers(cells: &ArrayRef) -> Result<Option<Vec<f64>>, ArrowError> {
    let unit = match cells.data_type() {
        DataType::Timestamp(unit, _) | DataType::Duration(unit) | DataType::Time32(unit) | DataType::Time64(unit) => match unit {
            TimeUnit::Second => 1,
            TimeUnit::Millisecond => 1_000,
            TimeUnit::Microsecond => 1_000_000,
            TimeUnit::Nanosecond => 1_000_000_000,
        },
        DataType::Date32 => 0,
        DataType::Date64 => 1_000,
        found if found.is_numeric() || matches!(found, DataType::Boolean | DataType::Null) => {
            let values = cast(cells, &DataType::Float64)?;
            let values = values.as_primitive::<Float64Type>();
            return Ok(Some(values.iter().map(|value| value.unwrap_or(f64::NAN)).collect()));
        }
        DataType::Dictionary(_, found) if found.is_numeric() => {
            return numbers(&cast(cells, found)?);
        }
        _ => return Ok(None),
    };
    // Date32 counts days; a cast of times goes by way of the integer they are kept in
    let whole = match cells.data_type() {
        DataType::Date32 | DataType::Time32(_) => cast(&cast(cells, &DataType::Int32)?, &DataType::Int64)?,
        _ => cast(cells, &DataType::Int64)?,
    };
    let seconds = |value: i64| match unit {
        0 => value as f64 * 86_400.0,
        // the same f64 whatever the unit
        unit => value.div_euclid(unit) as f64 + value.rem_euclid(unit) as f64 / unit as f64,
    };
    Ok(Some(whole.as_primitive::<Int64Type>().iter().map(|value| value.map_or(f64::NAN, seconds)).collect()))
}
