use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::last_seen::LastSeen;
use crate::{ColumnKind, Schema};

/// Flow records, column by column. Features stand in schema order. A number that is missing is NaN; with `infinite: clip` numbers may
/// be infinite; all others are finite, and no zero is negative. A categorical cell without a value holds `-`.
#[derive(Debug, Clone)]
pub struct Flows {
    pub(crate) schema: Arc<Schema>,
    pub(crate) ids: Vec<String>,
    pub(crate) features: Vec<FeatureColumn>,
    pub(crate) labels: Option<Vec<u8>>,
    pub(crate) categories: Option<TextColumn>,
    /// Columns that are carried along as they are: [columns][rows].
    pub(crate) carried: Vec<Vec<String>>,
}

/// The cells of one feature.
#[derive(Debug, Clone)]
pub enum FeatureColumn {
    /// Numbers; NaN where one is missing.
    Numeric(Vec<f64>),
    /// Short texts; `-`: missing.
    Categorical(TextColumn),
}

/// Texts as codes into a vocabulary that belongs to this column alone, in order of first appearance.
#[derive(Debug, Clone, Default)]
pub struct TextColumn {
    codes: Vec<u32>,
    vocabulary: Vec<String>,
    index: HashMap<String, u32>,
    recent: Box<Recent>,
}

/// Codes of short texts that came last: a hash that nobody can make collide takes many times as long as looking here.
#[derive(Debug, Clone)]
struct Recent(LastSeen<u32, 16>);

impl Default for Recent {
    fn default() -> Self {
        Recent(LastSeen::new(u64::MAX))
    }
}

impl Recent {
    /// The text and its length in one number, where it fits, and its slot.
    fn slot(&mut self, text: &str) -> Option<(u64, &mut (u64, u32))> {
        let mut bytes = [0; 8];
        bytes.get_mut(..text.len()).filter(|_| text.len() < 8)?.copy_from_slice(text.as_bytes());
        bytes[7] = text.len() as u8;
        let key = u64::from_le_bytes(bytes);
        Some((key, self.0.slot(key)))
    }
}

impl Flows {
    /// No rows yet; `labels` and `categories` say whether rows will have them.
    pub(crate) fn empty(schema: &Arc<Schema>, labels: bool, categories: bool) -> Flows {
        let column = |kind| match kind {
            ColumnKind::Numeric => FeatureColumn::Numeric(Vec::new()),
            _ => FeatureColumn::Categorical(TextColumn::default()),
        };
        Flows {
            schema: Arc::clone(schema),
            ids: Vec::new(),
            features: schema.features().map(|feature| column(feature.kind)).collect(),
            labels: labels.then(Vec::new),
            categories: categories.then(TextColumn::default),
            carried: Vec::new(),
        }
    }

    /// Makes room for `n` more rows.
    pub(crate) fn reserve(&mut self, n: usize) {
        self.ids.reserve(n);
        for column in &mut self.features {
            match column {
                FeatureColumn::Numeric(values) => values.reserve(n),
                FeatureColumn::Categorical(texts) => texts.codes.reserve(n),
            }
        }
    }

    /// No rows.
    pub fn none(schema: &Schema) -> Flows {
        Flows::empty(&Arc::new(schema.clone()), false, false)
    }

    /// Rows of features that are there already, in schema order, named by their numbers and without labels. None where a feature is of
    /// another kind than the schema says, or the columns differ in length or number.
    pub fn of_features(schema: &Schema, features: Vec<FeatureColumn>) -> Option<Flows> {
        let is_of_kind = |(column, cells): (&crate::Column, &FeatureColumn)| {
            matches!(cells, FeatureColumn::Numeric(_)) == (column.kind == ColumnKind::Numeric)
        };
        let n_rows = features.first().map_or(0, FeatureColumn::len);
        let fits = schema.features().count() == features.len()
            && schema.features().zip(&features).all(is_of_kind)
            && features.iter().all(|column| column.len() == n_rows);
        let ids = (0..n_rows).map(|row| row.to_string()).collect();
        fits.then(|| Flows { ids, features, ..Flows::none(schema) })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.labels.as_ref().map_or(self.ids.len(), Vec::len) // rows with labels may do without ids
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The schema that the rows were read by.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Text of the schema's id column, else the 1-based row number in the file.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The features, in schema order.
    pub fn features(&self) -> &[FeatureColumn] {
        &self.features
    }

    /// 0 for benign, 1 for attack; `None` where the file has no label column.
    pub fn labels(&self) -> Option<&[u8]> {
        self.labels.as_deref()
    }

    /// Kind of attack, where the file has such a column.
    pub fn categories(&self) -> Option<&TextColumn> {
        self.categories.as_ref()
    }

    /// The columns that the reader was told to carry along, as texts: [columns][rows].
    pub fn carried(&self) -> &[Vec<String>] {
        &self.carried
    }

    /// Takes the columns out that were carried along.
    pub fn take_carried(&mut self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.carried)
    }

    /// Keeps the first `n` rows.
    pub(crate) fn truncate(&mut self, n: usize) {
        self.ids.truncate(n);
        for column in &mut self.features {
            match column {
                FeatureColumn::Numeric(values) => values.truncate(n),
                FeatureColumn::Categorical(texts) => texts.codes.truncate(n),
            }
        }
        self.labels.iter_mut().for_each(|labels| labels.truncate(n));
        self.categories.iter_mut().for_each(|categories| categories.codes.truncate(n));
        self.carried.iter_mut().for_each(|column| column.truncate(n));
    }

    /// Keeps the features of the first `n` rows alone; ids, labels and categories stay.
    pub(crate) fn free_features(&mut self, n: usize) {
        for column in &mut self.features {
            match column {
                FeatureColumn::Numeric(values) => {
                    values.truncate(n);
                    values.shrink_to_fit();
                }
                FeatureColumn::Categorical(texts) => {
                    texts.codes.truncate(n);
                    texts.codes.shrink_to_fit();
                }
            }
        }
    }

    /// The rows without their features: labels and categories, and ids if they are wanted.
    #[must_use]
    pub fn labels_alone(&self, ids: bool) -> Flows {
        Flows {
            ids: if ids { self.ids.clone() } else { Vec::new() },
            labels: self.labels.clone(),
            categories: self.categories.clone(),
            ..Flows::empty(&self.schema, false, false)
        }
    }

    /// The given rows, in the given order.
    ///
    /// # Panics
    /// If a row is out of range.
    #[must_use]
    pub fn select(&self, rows: &[u32]) -> Flows {
        let rows = || rows.iter().map(|&row| row as usize);
        let pick = |column: &FeatureColumn| match column {
            FeatureColumn::Numeric(values) => FeatureColumn::Numeric(rows().map(|row| values[row]).collect()),
            FeatureColumn::Categorical(texts) => FeatureColumn::Categorical(texts.select(rows())),
        };
        Flows {
            schema: Arc::clone(&self.schema),
            // a reader that numbers rows does so last
            ids: rows().filter_map(|row| self.ids.get(row).cloned()).collect(),
            features: self.features.iter().map(pick).collect(),
            labels: self.labels.as_ref().map(|labels| rows().map(|row| labels[row]).collect()),
            categories: self.categories.as_ref().map(|categories| categories.select(rows())),
            carried: self.carried.iter().map(|column| rows().map(|row| column[row].clone()).collect()).collect(),
        }
    }

    /// Appends the rows of `other`. Labels and categories are kept only where both sides have them.
    ///
    /// # Panics
    /// If the two were read by different schemas.
    pub fn extend(&mut self, other: Flows) {
        assert_eq!(self.schema, other.schema, "rows of different schemas do not join");
        self.ids.extend(other.ids);
        for (column, more) in self.features.iter_mut().zip(other.features) {
            match (column, more) {
                (FeatureColumn::Numeric(values), FeatureColumn::Numeric(more)) => values.extend(more),
                (FeatureColumn::Categorical(texts), FeatureColumn::Categorical(more)) => texts.extend(&more),
                _ => unreachable!("one schema gives one kind"),
            }
        }
        self.labels = self.labels.take().zip(other.labels).map(|(mut labels, more)| {
            labels.extend(more);
            labels
        });
        self.categories = self.categories.take().zip(other.categories).map(|(mut categories, more)| {
            categories.extend(&more);
            categories
        });
        self.carried.iter_mut().zip(other.carried).for_each(|(column, more)| column.extend(more));
    }

    /// SHA-256 of the content (columns, ids, features, labels, categories), in hex: the same rows
    /// give the same text whatever file format they came from.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let text = |hash: &mut Sha256, text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        hash.update((self.len() as u64).to_le_bytes());
        self.ids.iter().for_each(|id| text(&mut hash, id));
        for (feature, column) in self.schema.features().zip(&self.features) {
            text(&mut hash, &feature.name);
            match column {
                FeatureColumn::Numeric(values) => values.iter().for_each(|v| hash.update(v.to_bits().to_le_bytes())),
                FeatureColumn::Categorical(texts) => texts.iter().for_each(|t| text(&mut hash, t)),
            }
        }
        hash.update([self.labels.is_some().into(), self.categories.is_some().into()]);
        self.labels.iter().for_each(|labels| hash.update(labels));
        self.categories.iter().flat_map(TextColumn::iter).for_each(|t| text(&mut hash, t));
        hex::encode(hash.finalize())
    }
}

impl FeatureColumn {
    /// Number of rows.
    fn len(&self) -> usize {
        match self {
            Self::Numeric(values) => values.len(),
            Self::Categorical(texts) => texts.codes().len(),
        }
    }
}

impl<'t> FromIterator<&'t str> for TextColumn {
    fn from_iter<I: IntoIterator<Item = &'t str>>(texts: I) -> Self {
        let mut column = TextColumn::default();
        texts.into_iter().for_each(|text| column.push(text));
        column
    }
}

impl TextColumn {
    /// Text of one row.
    pub fn get(&self, row: usize) -> &str {
        &self.vocabulary[self.codes[row] as usize]
    }

    /// Texts of all rows.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.codes.iter().map(|&code| self.vocabulary[code as usize].as_str())
    }

    /// Index into `vocabulary` of each row.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// Distinct texts in order of first appearance; some may belong to no row after `Flows::select`.
    pub fn vocabulary(&self) -> &[String] {
        &self.vocabulary
    }

    pub(crate) fn push(&mut self, text: &str) {
        let code = self.intern(text);
        self.codes.push(code);
    }

    /// Appends a cell as it is spelt in a file; `read` gives the text that is meant.
    pub(crate) fn push_spelt(&mut self, spelt: &str, read: impl FnOnce(&str) -> String) {
        if let Some((key, (last, code))) = self.recent.slot(spelt)
            && key == *last
        {
            self.codes.push(*code);
            return;
        }
        let code = self.index.get(spelt).copied().unwrap_or_else(|| {
            let code = self.intern(&read(spelt));
            self.index.insert(spelt.to_owned(), code);
            code
        });
        if let Some((key, slot)) = self.recent.slot(spelt) {
            *slot = (key, code);
        }
        self.codes.push(code);
    }

    fn intern(&mut self, text: &str) -> u32 {
        if let Some(&code) = self.index.get(text) {
            return code;
        }
        let code = self.vocabulary.len() as u32;
        self.vocabulary.push(text.to_owned());
        self.index.insert(text.to_owned(), code);
        code
    }

    fn extend(&mut self, more: &TextColumn) {
        let codes: Vec<u32> = more.vocabulary.iter().map(|text| self.intern(text)).collect();
        self.codes.extend(more.codes.iter().map(|&code| codes[code as usize]));
    }

    /// The given rows, in the given order.
    ///
    /// # Panics
    /// If a row is out of range.
    #[must_use]
    pub fn select(&self, rows: impl Iterator<Item = usize>) -> TextColumn {
        TextColumn { codes: rows.map(|row| self.codes[row]).collect(), ..self.clone_vocabulary() }
    }

    fn clone_vocabulary(&self) -> TextColumn {
        TextColumn { vocabulary: self.vocabulary.clone(), index: self.index.clone(), ..TextColumn::default() }
    }
}

/// Writes flows as CSV with the columns of their schema; columns that flows do not hold are left out.
pub fn write_csv(flows: &Flows, out: impl Write) -> std::io::Result<()> {
    let mut lines = CsvLines::new(out);
    lines.write(flows)?;
    lines.flush()
}

/// Flows as lines of CSV, under one header.
pub(crate) struct CsvLines<W: Write> {
    writer: csv::Writer<W>,
    has_header: bool,
}

impl<W: Write> CsvLines<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { writer: csv::Writer::from_writer(out), has_header: false }
    }

    /// Appends flows that have the columns of those before.
    pub(crate) fn write(&mut self, flows: &Flows) -> std::io::Result<()> {
        let held = |kind| match kind {
            ColumnKind::Numeric | ColumnKind::Categorical => true,
            ColumnKind::Ignored | ColumnKind::Time => false,
            ColumnKind::Label => flows.labels.is_some(),
            ColumnKind::Category => flows.categories.is_some(),
        };
        let is_id = |name: &str| flows.schema.id() == Some(name);
        let columns = || flows.schema.columns().iter().filter(|column| held(column.kind) || is_id(&column.name));
        let writer = &mut self.writer;
        if !self.has_header {
            writer.write_record(columns().map(|column| column.name.as_str()))?;
            self.has_header = true;
        }
        for row in 0..flows.len() {
            let mut features = flows.features.iter();
            for column in columns() {
                match column.kind {
                    ColumnKind::Ignored | ColumnKind::Time => writer.write_field(&flows.ids[row])?,
                    ColumnKind::Label => {
                        writer.write_field(flows.labels.iter().map(|labels| labels[row]).sum::<u8>().to_string())?;
                    }
                    ColumnKind::Category => writer.write_field(flows.categories.as_ref().map_or("", |c| c.get(row)))?,
                    _ => match features.next().expect("one column per feature") {
                        FeatureColumn::Numeric(values) if values[row].is_nan() => writer.write_field("")?,
                        FeatureColumn::Numeric(values) => writer.write_field(values[row].to_string())?,
                        FeatureColumn::Categorical(texts) => writer.write_field(texts.get(row))?,
                    },
                }
            }
            writer.write_record(None::<&[u8]>)?;
        }
        Ok(())
    }

    pub(crate) fn flush(mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_itself_whatever_came_before() {
        let letters = || ["", "a", "b", "c", "\0", "-", "_"].into_iter();
        let texts: Vec<String> = letters()
            .flat_map(|a| letters().flat_map(move |b| letters().map(move |c| [a, b, c].concat())))
            .chain(["interrupted", "interrupt", "seven77", "eight888"].map(str::to_owned))
            .collect();
        let mut column = TextColumn::default();
        for text in texts.iter().chain(texts.iter().rev()).chain(&texts) {
            column.push_spelt(text, |text| format!("{text}!"));
        }
        let wanted = texts.iter().chain(texts.iter().rev()).chain(&texts).map(|text| format!("{text}!"));
        assert!(column.iter().eq(wanted));
    }
}
