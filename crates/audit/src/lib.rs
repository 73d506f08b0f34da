//! What to know of flows before anything is trained on them: columns that give the label away, rows that repeat, labels that
//! contradict one another, files that differ.
//!
//! Flows in, an [`Audit`] out: a list of checks with a verdict each, and the numbers behind them.
//!
//! **Invariant:** nothing here opens a file, and the audit of the same flows is the same to the bit.
#![forbid(unsafe_code)]

mod columns;
mod drift;
mod files;
mod report;
mod rows;
mod table;

use nids_flows::{Flows, Infinite, Labels, ReadOptions, Schema};

pub use report::{
    Audit, Check, CheckName, ColumnReport, Conflicts, Drift, EqualRows, FeatureDrift, FileReport, Finding, GivenAway, GroupSizes,
    LabelOrder, Looks, LooksLike, Medians, NewValue, Telling, Verdict,
};
use table::Table;

/// The share of rows that must be of the rarer class.
pub const RARE_CLASS: f64 = 0.05;
/// The share of rows that may repeat, contradict one another or have a twin in another file before that is a warning.
pub const FEW_ROWS: f64 = 0.01;
/// The accuracy that contradictory labels may cost before that is a warning.
pub const LOST_ACCURACY: f64 = 0.001;
/// The ROC-AUC from which on a feature that alone tells attacks from the rest is a warning.
pub const LEAK: f64 = 0.9;
/// The share of benign rows, or of attacks, that a feature may give away for certain before that is a warning. The TTLs of UNSW-NB15
/// give away .45 of its benign rows, at a ROC-AUC of .76 and .82.
pub const GIVEN_AWAY: f64 = 0.4;
/// The index from which on a feature has drifted, and the one from which on that is a warning.
pub const DRIFT: [f64; 2] = [0.1, 0.25];
/// The share of the expected runs of labels below which the order of rows is a warning.
pub const FEW_RUNS: f64 = 0.1;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The rows of a file, and what is known of those that cannot be read.
#[derive(Clone, Debug)]
pub struct File {
    /// What the file is called in the audit.
    pub name: String,
    /// Its rows, as [`read_options`] have them read.
    pub flows: Flows,
    /// Columns that are neither feature nor label, with a cell for each row.
    pub others: Vec<(String, Vec<String>)>,
    /// Whether infinite numbers stay what they are: `infinite: clip` of the schema.
    pub keeps_infinite: bool,
    /// Rows that cannot be read.
    pub unreadable: u64,
    /// What is wrong with some of them, a line each.
    pub why_unreadable: Vec<String>,
}

impl File {
    /// Flows of which no more is known.
    pub fn new(name: impl Into<String>, flows: Flows) -> Self {
        let keeps_infinite = keeps_infinite(flows.schema());
        File { name: name.into(), flows, others: Vec::new(), keeps_infinite, unreadable: 0, why_unreadable: Vec::new() }
    }
}

/// How the files of an audit are read, and by which schema: labels and other columns where a file has them, infinite numbers told
/// from missing ones.
pub fn read_options(schema: &Schema) -> (Schema, ReadOptions) {
    let options = ReadOptions {
        labels: Labels::IfPresent,
        categories: true,
        ids: nids_flows::Ids::Row,
        on_bad_row: nids_flows::OnBadRow::Skip,
        max_bad_rows: 0.5,
        others: true,
        ..ReadOptions::default()
    };
    (schema.clone().keeping_infinite(), options)
}

/// Whether a schema keeps infinite numbers as they are.
pub fn keeps_infinite(schema: &Schema) -> bool {
    schema.cells().infinite == Some(Infinite::Clip)
}

/// Looks at the rows of some files.
///
/// # Panics
/// If there are no files, or they were read by different schemas.
pub fn audit(files: Vec<File>) -> Audit {
    let table = Table::new(files);
    let files: Vec<FileReport> = table.files.iter().map(|part| files::report(&table, part)).collect();
    let columns = columns::reports(&table);
    let equal_rows = rows::equal_rows(&table);
    let drift = drift::drift(&table);
    let checks = vec![
        files::labels(&table),
        files::unreadable(&table),
        columns::missing(&table),
        columns::infinite(&table),
        columns::look_like(&table, &columns, Looks::Constant),
        columns::leaks(&table, &columns),
        columns::look_like(&table, &columns, Looks::Id),
        columns::look_like(&table, &columns, Looks::Time),
        rows::duplicates(&table),
        rows::across_files(&table),
        rows::conflicts(&table, &equal_rows),
        rows::random_split(&equal_rows),
        files::label_order(&files),
        files::official(&files),
        drift::check(&table, &drift),
    ];
    Audit { schema: table.schema.clone(), rows: table.n_rows(), checks, files, columns, equal_rows, drift }
}

/// A check that could not be made.
fn skipped(check: CheckName, why: &str) -> Check {
    Check { check, verdict: Verdict::Skipped, found: why.to_owned(), findings: Vec::new(), advice: None }
}

/// A check that found nothing.
fn passed(check: CheckName, found: impl Into<String>) -> Check {
    Check { check, verdict: Verdict::Pass, found: found.into(), findings: Vec::new(), advice: None }
}

/// Why what needs both classes is skipped, where it is.
fn lacks_labels(table: &Table) -> Option<&'static str> {
    match (table.files.iter().any(|part| part.has_labels), table.n_of(0), table.n_of(1)) {
        (false, ..) => Some("the files have no column of labels"),
        (true, 0, 0) => Some("no row has a label"),
        (true, _, 0) => Some("no row is an attack"),
        (true, 0, _) => Some("no row is benign"),
        _ => None,
    }
}

/// `1 row`, `2 rows`.
fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// A share in per cent.
fn percent(part: usize, whole: usize) -> String {
    format!("{:.2} %", 100.0 * part as f64 / whole.max(1) as f64)
}

#[cfg(test)]
mod tests;
