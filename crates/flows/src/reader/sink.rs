//! Where the cells of a file go: rows of flows, or the list of what is wrong with them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::cells::{Number, Rules, bad_number, text};
use super::header::Given;
use super::problems::{Problem, Problems};
use super::{MAX_TEXT, OnBadRow, Reject, shown};
use crate::labels::Label;
use crate::{At, FeatureColumn, Flows, LabelWords, Schema};

/// Label words that no list has are told apart up to this many.
const MAX_UNKNOWN: usize = 1000;
/// What stands in `Flows::labels` for a row that the schema ignores, before such rows are set aside.
pub(super) const UNLABELLED: u8 = 2;

/// Where the cells of a column of the file go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Decides whether the row is one, by the n-th of the schema's conditions.
    Where(usize),
    Id,
    Numeric(usize),
    Categorical(usize),
    Label,
    Category,
    /// The label's word is the category, too.
    LabelAndCategory,
    /// The category's word is the label, too.
    CategoryAndLabel,
    /// Must equal the column with this index.
    SameAs(usize),
    /// Carried along as it is.
    Carried(usize),
    /// Carried along whatever it is: what is not UTF-8 is replaced, a long text is cut.
    Raw(usize),
}

/// Takes cells row by row, or column by column.
pub(super) struct Sink {
    schema: Arc<Schema>,
    pub(super) rules: Rules,
    words: LabelWords,
    conditions: Vec<Vec<String>>,
    pub(super) flows: Flows,
    pub(super) problems: Problems,
    on_bad_row: OnBadRow,
    /// Whether a row with a blank label is one without a label.
    pub(super) may_lack_label: bool,
    /// What is wrong with rows that are left out, until somebody takes it.
    pub(super) rejects: Vec<Reject>,
    known_words: HashMap<String, u8>,
    /// Rows by words of labels that no list has.
    pub(super) unknown_words: BTreeMap<String, u64>,
    /// Rows by words that the schema ignores.
    pub(super) ignored_words: BTreeMap<String, u64>,
    /// Columns that hold moments.
    pub(super) moments: BTreeMap<String, u64>,
    n_rows: usize,
    /// What the numbers of rows are written behind, where no column names them.
    pub(super) numbering: Option<String>,
    /// Rows of the file so far: kept, left out or passed over.
    n_seen: u64,
    /// Rows of the file that a condition passes over.
    pub(super) n_unwanted: u64,
    /// Raw cells that are not UTF-8.
    pub(super) n_not_utf8: u64,
    /// Faults of the row that is being taken: column, cell, what is wrong.
    faults: Vec<(Option<String>, String, String)>,
}

impl Sink {
    pub(super) fn new(schema: Arc<Schema>, on_bad_row: OnBadRow) -> Self {
        let cells = schema.cells();
        Sink {
            rules: Rules::new(cells),
            words: cells.labels.clone().unwrap_or_default(),
            conditions: cells.only.iter().flat_map(BTreeMap::values).cloned().collect(),
            flows: Flows::empty(&schema, false, false),
            problems: Problems::default(),
            on_bad_row,
            may_lack_label: false,
            rejects: Vec::new(),
            known_words: HashMap::new(),
            unknown_words: BTreeMap::new(),
            ignored_words: BTreeMap::new(),
            moments: BTreeMap::new(),
            n_rows: 0,
            numbering: None,
            n_seen: 0,
            n_unwanted: 0,
            n_not_utf8: 0,
            faults: Vec::new(),
            schema,
        }
    }

    /// Begins a file; `numbering` is what the numbers of its rows are written behind, where no column names them.
    pub(super) fn begin_file(&mut self, numbering: Option<String>) {
        self.rules = Rules::new(self.schema.cells());
        self.numbering = numbering;
        (self.n_seen, self.n_unwanted) = (0, 0);
    }

    /// Passes over the current row, which a condition says is none.
    pub(super) fn pass_row(&mut self) {
        self.n_seen += 1;
        self.n_unwanted += 1;
    }

    /// Passes over rows of another part, which count for the numbers of the rows after them.
    pub(super) fn skip_rows(&mut self, n: u64) {
        self.n_seen += n;
    }

    /// Begins a batch, which has about as many rows as the one before, and at most `max_rows`.
    pub(super) fn begin(&mut self, labels: bool, categories: bool, n_carried: usize, max_rows: usize) {
        self.flows = Flows::empty(&self.schema, labels, categories);
        self.flows.reserve(self.n_rows.min(max_rows));
        self.flows.carried = vec![Vec::new(); n_carried];
        self.n_rows = 0;
    }

    /// Rows of the batch so far.
    pub(super) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Whether a batch ends: it has its rows, or so many that are left out that somebody should look at them.
    pub(super) fn is_full(&self, max_rows: usize) -> bool {
        const REJECTS: usize = 1 << 14;
        self.n_rows >= max_rows || self.rejects.len() >= REJECTS
    }

    /// Whether rows are kept: not once one was bad and is not to be left out.
    pub(super) fn keeps(&self) -> bool {
        self.on_bad_row == OnBadRow::Skip || self.problems.is_empty()
    }

    /// Whether a row is one, by the n-th condition.
    pub(super) fn is_wanted(&self, condition: usize, cell: &[u8]) -> bool {
        self.conditions[condition].iter().any(|value| value.as_bytes() == cell)
    }

    /// Takes a cell of the current row.
    pub(super) fn push(&mut self, slot: Slot, column: &str, cell: &[u8]) {
        if let Err(message) = self.try_push(slot, column, cell) {
            self.fault(Some(column), &String::from_utf8_lossy(cell), message);
        }
    }

    /// A fault of the current row.
    pub(super) fn fault(&mut self, column: Option<&str>, cell: &str, message: String) {
        self.faults.push((column.map(str::to_owned), shown(cell), message));
    }

    pub(super) fn try_push(&mut self, slot: Slot, column: &str, cell: &[u8]) -> Result<(), String> {
        if let Slot::Raw(place) = slot {
            self.n_not_utf8 += u64::from(std::str::from_utf8(cell).is_err());
            let cell = &cell[..cell.len().min(MAX_TEXT)];
            self.flows.carried[place].push(String::from_utf8_lossy(cell).into_owned());
            return Ok(());
        }
        if let (Slot::Numeric(feature), Some(value)) = (slot, self.rules.short_number(cell)) {
            self.push_number(feature, value);
            return Ok(());
        }
        let text = text(cell)?;
        match slot {
            Slot::Where(_) | Slot::SameAs(_) | Slot::Raw(_) => {}
            Slot::Id => self.flows.ids.push(text.to_owned()),
            Slot::Numeric(feature) => {
                let value = match self.rules.number(text) {
                    Number::Value(value) => value,
                    Number::Moment(value) => {
                        self.note_moment(column);
                        value
                    }
                    Number::Unreadable => return Err(bad_number(text)),
                };
                self.push_number(feature, value);
            }
            Slot::Categorical(feature) => {
                if let FeatureColumn::Categorical(texts) = &mut self.flows.features[feature] {
                    texts.push_spelt(text, |text| self.rules.category(text));
                }
            }
            Slot::Label => self.push_label(text),
            Slot::Category => self.push_category(text),
            Slot::LabelAndCategory => {
                self.push_label(text);
                // 0 and 1 name no category
                let is_name =
                    text.contains(|c: char| c.is_alphabetic()) && !matches!(self.rules.category(text).as_str(), "true" | "false");
                self.push_category(if is_name { text } else { "" });
            }
            Slot::CategoryAndLabel => {
                self.push_label(text);
                self.push_category(text);
            }
            Slot::Carried(place) => self.flows.carried[place].push(text.to_owned()),
        }
        Ok(())
    }

    /// Appends a number to a feature.
    pub(super) fn push_number(&mut self, feature: usize, value: f64) {
        if let FeatureColumn::Numeric(values) = &mut self.flows.features[feature] {
            values.push(value);
        }
    }

    /// Appends cells that a format leaves out where there is nothing to say.
    pub(super) fn push_missing(&mut self, slot: Slot) {
        match slot {
            Slot::Numeric(feature) => self.push_number(feature, f64::NAN),
            Slot::Carried(place) | Slot::Raw(place) => self.flows.carried[place].push(String::new()),
            Slot::Where(_) | Slot::SameAs(_) => {}
            Slot::Categorical(feature) => {
                if let FeatureColumn::Categorical(texts) = &mut self.flows.features[feature] {
                    texts.push(crate::missing::MISSING);
                }
            }
            _ => self.push(slot, "", b""),
        }
    }

    /// Takes a cell that all rows of the file have.
    pub(super) fn push_given(&mut self, given: &Given) {
        match &given.cell {
            Some(cell) => self.push(given.slot, &given.column, cell.as_bytes()),
            None => self.push_missing(given.slot),
        }
    }

    pub(super) fn note_moment(&mut self, column: &str) {
        match self.moments.get_mut(column) {
            Some(n) => *n += 1,
            None => drop(self.moments.insert(column.to_owned(), 1)),
        }
    }

    fn push_category(&mut self, text: &str) {
        let rules = &self.rules;
        if let Some(categories) = &mut self.flows.categories {
            categories.push_spelt(text, |text| if rules.is_missing(text) { String::new() } else { text.to_owned() });
        }
    }

    fn push_label(&mut self, word: &str) {
        let Some(labels) = &mut self.flows.labels else { return };
        let label = self.known_words.get(word).copied().or_else(|| {
            let label = match self.words.label(word) {
                Some(Label::Benign) => 0,
                Some(Label::Attack) => 1,
                Some(Label::Ignored) => UNLABELLED,
                None if self.may_lack_label && self.rules.is_missing(word) => UNLABELLED,
                None => return None,
            };
            if self.known_words.len() < MAX_UNKNOWN {
                self.known_words.insert(word.to_owned(), label);
            }
            Some(label)
        });
        let count = |counts: &mut BTreeMap<String, u64>| {
            if let Some(n) = counts.get_mut(word) {
                *n += 1;
            } else if counts.len() < MAX_UNKNOWN {
                counts.insert(word.to_owned(), 1);
            }
        };
        match label {
            None => count(&mut self.unknown_words),
            Some(UNLABELLED) => count(&mut self.ignored_words),
            Some(_) => {}
        }
        labels.push(label.unwrap_or(UNLABELLED));
    }

    /// Ends the current row: it is kept, or what is wrong with it.
    pub(super) fn end_row(&mut self, file: &Path, at: At) {
        self.n_seen += 1;
        if self.faults.is_empty() {
            self.name(self.n_seen);
            self.n_rows += 1;
            return;
        }
        let faults = std::mem::take(&mut self.faults);
        self.reject(file, at, faults);
        self.flows.truncate(self.n_rows);
    }

    /// Names a row by its number in the file, where no column does.
    fn name(&mut self, number: u64) {
        if let Some(before) = &self.numbering {
            self.flows.ids.push(format!("{before}{number}"));
        }
    }

    /// Notes a row that is left out.
    pub(super) fn reject(&mut self, file: &Path, at: At, faults: Vec<(Option<String>, String, String)>) {
        self.problems.n_rows += 1;
        for (column, value, message) in faults {
            if self.on_bad_row == OnBadRow::Skip {
                let reject =
                    Reject { file: file.to_owned(), at, column: column.clone(), value: value.clone(), reason: message.clone() };
                self.rejects.push(reject);
            }
            self.problems.add(Problem { file: file.to_owned(), at, column, message });
        }
    }

    /// Ends rows that were taken column by column. `faults` are sorted by row; their rows, counted from the first of these, are left
    /// out.
    pub(super) fn end_rows(&mut self, n: usize, file: &Path, at: impl Fn(usize) -> At, faults: Vec<ColumnFault>) {
        for row in 0..n {
            if let At::Row(number) = at(row) {
                self.name(number);
            }
        }
        if faults.is_empty() {
            self.n_rows += n;
            return;
        }
        let mut by_row: BTreeMap<usize, Vec<(Option<String>, String, String)>> = BTreeMap::new();
        for ColumnFault { row, column, value, message } in faults {
            by_row.entry(row).or_default().push((Some(column), shown(&value), message));
        }
        let first = self.n_rows as u32;
        let kept = (0..first).chain((0..n).filter(|row| !by_row.contains_key(row)).map(|row| first + row as u32));
        let kept: Vec<u32> = kept.collect();
        self.n_rows = kept.len();
        self.flows = self.flows.select(&kept);
        for (row, faults) in by_row {
            self.reject(file, at(row), faults);
        }
    }
}

/// A cell that cannot be read, in a batch of columns.
pub(super) struct ColumnFault {
    pub(super) row: usize,
    pub(super) column: String,
    pub(super) value: String,
    pub(super) message: String,
}
