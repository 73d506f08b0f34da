//! The rows of all files, one below the other.

use std::collections::BTreeMap;
use std::ops::Range;

use nids_eval::separation::{Ranks, ranks};
use nids_flows::{FeatureColumn, Flows, NO_LABEL, equal_rows, numbers};

use crate::File;

/// The text of a missing category.
pub(crate) const MISSING: &str = "-";

pub(crate) struct Table {
    pub(crate) schema: String,
    pub(crate) files: Vec<Part>,
    /// 0, 1 or [`NO_LABEL`].
    pub(crate) labels: Vec<u8>,
    /// Number of each row in its file, from 1.
    pub(crate) numbers: Vec<u64>,
    pub(crate) columns: Vec<Column>,
    /// Rows with equal features, each group ascending, ordered by their first row.
    pub(crate) groups: Vec<Vec<u32>>,
    /// Half of the rows that each row belongs to; equal rows share theirs.
    pub(crate) halves: Vec<bool>,
}

/// The rows of a file.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) rows: Range<usize>,
    pub(crate) has_labels: bool,
    pub(crate) unreadable: u64,
    pub(crate) why_unreadable: Vec<String>,
    pub(crate) categories: BTreeMap<String, usize>,
}

pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) is_feature: bool,
    /// Which of `values` each row has.
    pub(crate) codes: Vec<u32>,
    pub(crate) values: Values,
    /// Code of a missing value.
    pub(crate) missing: Option<u32>,
    /// Rows in which it is infinite, and the first of them.
    pub(crate) infinite: (usize, Option<usize>),
}

/// The cells of a column that is no feature, with the place of their file.
type CellsByFile = Vec<(usize, Vec<String>)>;

/// The values of a column, once each.
pub(crate) enum Values {
    /// Ascending, NaN last.
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

impl Values {
    pub(crate) fn len(&self) -> usize {
        match self {
            Values::Numbers(values) => values.len(),
            Values::Texts(values) => values.len(),
        }
    }

    /// A value as it is shown.
    pub(crate) fn shown(&self, code: u32) -> String {
        match self {
            Values::Numbers(values) if values[code as usize].is_nan() => "missing".to_owned(),
            Values::Numbers(values) => values[code as usize].to_string(),
            Values::Texts(values) => format!("\"{}\"", values[code as usize]),
        }
    }
}

impl Table {
    /// # Panics
    /// If there are no files, or they were read by different schemas.
    pub(crate) fn new(files: Vec<File>) -> Self {
        let schema = files[0].flows.schema().clone();
        let keeps_infinite = files[0].keeps_infinite;
        let (mut all, mut parts) = (Flows::none(&schema), Vec::new());
        let (mut labels, mut row_numbers) = (Vec::new(), Vec::new());
        let mut infinite = vec![(0, None); schema.features().count()];
        let mut others: Vec<(String, CellsByFile)> = Vec::new();
        for (place, file) in files.into_iter().enumerate() {
            let File { name, mut flows, others: columns, unreadable, why_unreadable, .. } = file;
            let start = all.len();
            let found = if keeps_infinite { count_infinite(&flows) } else { flows.infinite_as_missing() };
            for (sum, (n, first)) in infinite.iter_mut().zip(found) {
                *sum = (sum.0 + n, sum.1.or(first.map(|row| start + row)));
            }
            labels.extend(flows.labels().map_or_else(|| vec![NO_LABEL; flows.len()], <[u8]>::to_vec));
            // `file:row` where there are several files
            let number = |id: &String| id.rsplit(':').next().and_then(|row| row.parse().ok()).unwrap_or(0);
            row_numbers.extend(flows.ids().iter().map(number));
            parts.push(Part {
                name,
                rows: start..start + flows.len(),
                has_labels: flows.labels().is_some(),
                unreadable,
                why_unreadable,
                categories: categories(&flows),
            });
            for (name, cells) in columns {
                match others.iter_mut().find(|(known, files)| *known == name && files.last().is_some_and(|last| last.0 < place)) {
                    Some((_, files)) => files.push((place, cells)),
                    None => others.push((name, vec![(place, cells)])),
                }
            }
            all.extend(flows);
        }
        let groups = equal_rows(&all);
        let mut halves = vec![false; all.len()];
        for (group, rows) in groups.iter().enumerate() {
            for &row in rows {
                halves[row as usize] = is_second_half(group as u64);
            }
        }
        let features = schema.features().zip(all.features()).zip(infinite);
        let mut columns: Vec<Column> =
            features.map(|((column, cells), infinite)| feature(&column.name, cells, infinite)).collect();
        drop(all);
        columns.extend(others.into_iter().map(|(name, files)| other(name, &files, &parts)));
        Table { schema: schema.name().to_owned(), files: parts, labels, numbers: row_numbers, columns, groups, halves }
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.labels.len()
    }

    pub(crate) fn file_of(&self, row: usize) -> &Part {
        &self.files[self.place_of_file(row)]
    }

    /// Which of the files a row belongs to; files without rows have none.
    pub(crate) fn place_of_file(&self, row: usize) -> usize {
        self.files.partition_point(|part| part.rows.start <= row) - 1
    }

    /// Rows with a label.
    pub(crate) fn n_of(&self, label: u8) -> usize {
        n_labelled(&self.labels, label)
    }

    pub(crate) fn features(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.is_feature)
    }
}

/// Rows with a label.
pub(crate) fn n_labelled(labels: &[u8], label: u8) -> usize {
    labels.iter().map(|found| usize::from(*found == label)).sum()
}

/// Halves of groups that follow no pattern of the file: a bit of SplitMix64 (Steele et al. 2014).
fn is_second_half(group: u64) -> bool {
    let mut z = group.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) & 1 == 1
}

fn count_infinite(flows: &Flows) -> Vec<(usize, Option<usize>)> {
    let count = |column: &FeatureColumn| match column {
        FeatureColumn::Numeric(values) => {
            (values.iter().filter(|x| x.is_infinite()).count(), values.iter().position(|x| x.is_infinite()))
        }
        FeatureColumn::Categorical(_) => (0, None),
    };
    flows.features().iter().map(count).collect()
}

fn categories(flows: &Flows) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let Some((labels, categories)) = flows.labels().zip(flows.categories()) else { return counts };
    let mut by_code = vec![0_usize; categories.vocabulary().len()];
    for (&code, _) in categories.codes().iter().zip(labels).filter(|(_, label)| **label != NO_LABEL) {
        by_code[code as usize] += 1;
    }
    for (name, n) in categories.vocabulary().iter().zip(by_code).filter(|(_, n)| *n > 0) {
        *counts.entry(name.clone()).or_default() += n;
    }
    counts
}

fn of_numbers(name: &str, is_feature: bool, numbers: &[f64], infinite: (usize, Option<usize>)) -> Column {
    let Ranks { codes, values } = ranks(numbers);
    let missing = values.last().filter(|last| last.is_nan()).map(|_| values.len() as u32 - 1);
    Column { name: name.to_owned(), is_feature, codes, values: Values::Numbers(values), missing, infinite }
}

fn feature(name: &str, cells: &FeatureColumn, infinite: (usize, Option<usize>)) -> Column {
    match cells {
        FeatureColumn::Numeric(values) => of_numbers(name, true, values, infinite),
        FeatureColumn::Categorical(texts) => {
            let missing = texts.vocabulary().iter().position(|text| text == MISSING).map(|code| code as u32);
            let values = Values::Texts(texts.vocabulary().to_vec());
            Column { name: name.to_owned(), is_feature: true, codes: texts.codes().to_vec(), values, missing, infinite }
        }
    }
}

/// A column that is no feature: numbers where all cells are, else texts; missing in files that have no such column.
fn other(name: String, files: &CellsByFile, parts: &[Part]) -> Column {
    let n_rows = parts.last().map_or(0, |part| part.rows.end);
    let parsed: Option<Vec<(usize, Vec<f64>)>> =
        files.iter().map(|(file, cells)| numbers(cells).map(|numbers| (*file, numbers))).collect();
    if let Some(parsed) = parsed {
        let mut all = vec![f64::NAN; n_rows];
        for (file, numbers) in &parsed {
            all[parts[*file].rows.clone()].copy_from_slice(numbers);
        }
        return of_numbers(&name, false, &all, (0, None));
    }
    let mut cells: Vec<&str> = vec![MISSING; n_rows];
    for (file, texts) in files {
        let here = &mut cells[parts[*file].rows.clone()];
        here.iter_mut().zip(texts).for_each(|(cell, text)| *cell = if text.is_empty() { MISSING } else { text });
    }
    let mut index: BTreeMap<&str, u32> = cells.iter().map(|cell| (*cell, 0)).collect();
    index.values_mut().zip(0..).for_each(|(code, place)| *code = place);
    let codes = cells.iter().map(|cell| index[cell]).collect();
    let missing = index.get(MISSING).copied();
    let values = Values::Texts(index.into_keys().map(str::to_owned).collect());
    Column { name, is_feature: false, codes, values, missing, infinite: (0, None) }
}
