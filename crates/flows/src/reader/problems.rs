//! What is wrong with the rows of files, told once and together.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::shown;
use crate::{At, Error};

/// Cells of a column that are named one by one.
const SHOWN: usize = 10;

/// A cell that cannot be read, or a row that is none.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) file: PathBuf,
    pub(super) at: At,
    pub(super) column: Option<String>,
    pub(super) message: String,
}

/// The problems of all columns.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// Rows that have any.
    pub(super) n_rows: u64,
    columns: BTreeMap<Option<String>, Column>,
}

#[derive(Debug, Default)]
struct Column {
    n: u64,
    first: Vec<Problem>,
}

impl Problems {
    pub(super) fn is_empty(&self) -> bool {
        self.n_rows == 0
    }

    pub(super) fn add(&mut self, problem: Problem) {
        let column = self.columns.entry(problem.column.clone()).or_default();
        column.n += 1;
        if column.first.len() < SHOWN {
            column.first.push(problem);
        }
    }

    /// The error that names them: the first ten of each column, and how many there are. `n_read` is how many rows were looked at.
    pub(super) fn error(&self, path: &Path, n_read: u64, what_to_do: &str) -> Error {
        let n_cells: u64 = self.columns.values().map(|column| column.n).sum();
        let mut all = self.columns.values().flat_map(|column| &column.first);
        if let (1, Some(Problem { file, at, column, message })) = (n_cells, all.next()) {
            return Error::data(file, *at, column.as_deref(), message.clone());
        }
        let mut message = format!("{n_cells} cells in {} of {n_read} rows cannot be read{what_to_do}", self.n_rows);
        let mut columns: Vec<_> = self.columns.iter().collect();
        columns.sort_by_key(|(_, column)| std::cmp::Reverse(column.n));
        for (name, column) in columns.iter().take(SHOWN) {
            let name = name.as_ref().map_or_else(|| "rows".to_owned(), |name| format!("column \"{}\"", shown(name)));
            let s = if column.n == 1 { "" } else { "s" };
            let _ = write!(message, "\n  {name}: {} time{s}", column.n);
            for Problem { file, at, message: what, .. } in &column.first {
                let file = if file == path { String::new() } else { file.display().to_string() };
                let _ = write!(message, "\n    {}: {what}", place(&file, *at));
            }
            if column.n > column.first.len() as u64 {
                let _ = write!(message, "\n    and {} more", column.n - column.first.len() as u64);
            }
        }
        if columns.len() > SHOWN {
            let _ = write!(message, "\n  and {} more columns", columns.len() - SHOWN);
        }
        Error::data(path, At::File, None, message)
    }
}

fn place(file: &str, at: At) -> String {
    match (file, at) {
        ("", At::Line(line)) => format!("line {line}"),
        ("", At::Row(row)) => format!("row {row}"),
        (file, at) => format!("{file}{at}"),
    }
}
