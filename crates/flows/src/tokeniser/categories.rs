//! Which categories a tokeniser knows, and what it says of the others.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::MaxCategories;
use crate::TextColumn;
use crate::canonical::canonical;

/// The most that the cut values of one feature take in a file, and those of all.
const CUT_BYTES: usize = 64 << 10;
const ALL_CUT_BYTES: usize = 1 << 20;

/// What the cut values of each of so many features may take.
pub(super) fn cut_bytes(n_features: usize) -> usize {
    CUT_BYTES.min(ALL_CUT_BYTES / n_features.max(1))
}

/// The categories of a feature that training saw and cut: they share a class with those that it has not seen, which is called
/// "other".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Name of the feature.
    pub feature: String,
    /// Categories that are known.
    pub kept: usize,
    /// Categories that are frequent enough and were cut by `max_categories`.
    pub by_max_categories: usize,
    /// Categories that are rarer than `min_count`.
    pub by_min_count: usize,
    /// Training rows that are read as "other".
    pub rows: usize,
    /// All training rows.
    pub n_rows: usize,
    /// The rules that cut.
    pub max_categories: MaxCategories,
    /// See [`Cut::max_categories`].
    pub min_count: usize,
    /// Whether rows were counted in a sample alone, since there are too many categories to count.
    pub is_of_sample: bool,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { feature, kept, by_max_categories, by_min_count, rows, n_rows, max_categories, min_count, is_of_sample } = self;
        write!(f, "`{feature}`: {kept} of {} categories are kept; ", kept + by_max_categories + by_min_count)?;
        let by_max = format!("`max_categories: {max_categories}` cuts {by_max_categories}");
        let by_min = format!("`min_count: {min_count}` cuts {by_min_count}");
        match (by_max_categories, by_min_count) {
            (_, 0) => f.write_str(&by_max)?,
            (0, _) => f.write_str(&by_min)?,
            _ => write!(f, "{by_max} and {by_min}")?,
        }
        let percent = 100.0 * *rows as f64 / *n_rows as f64;
        let sampled = if *is_of_sample { " of a sample, since there are too many categories to count in all rows," } else { "" };
        write!(f, ": {rows} of {n_rows} training rows{sampled} ({percent:.2} %) are read as \"other\"")
    }
}

/// The categories of a feature that were cut, the most frequent first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CutValues {
    pub(super) values: Vec<String>,
    /// How many more there were: not all are worth their place in a file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) more: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(&n: &usize) -> bool {
    n == 0
}

impl CutValues {
    /// As many of `values` as take at most `max_bytes` in a file.
    pub(super) fn new<'v>(values: impl ExactSizeIterator<Item = &'v String>, max_bytes: usize) -> Self {
        let n = values.len();
        let mut bytes = 0;
        let fits = |value: &&String| {
            bytes += size(value);
            bytes <= max_bytes
        };
        let values: Vec<String> = values.take_while(fits).cloned().collect();
        let more = n - values.len();
        Self { values, more }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty() && self.more == 0
    }

    /// Whether it is no larger than one that was learnt.
    pub(super) fn is_bounded(&self) -> bool {
        self.values.iter().map(|value| size(value)).sum::<usize>() <= CUT_BYTES
    }
}

/// Bytes of a value in a file, with two marks and a comma.
fn size(value: &str) -> usize {
    value.len() + 3
}

/// What a tokeniser makes of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Known(usize),
    /// Cut in training.
    Other,
    NeverSeen,
}

impl Class {
    /// Among `n_known` known ones and one class for all others.
    pub(super) fn index(self, n_known: usize) -> usize {
        if let Self::Known(class) = self { class } else { n_known }
    }
}

/// Class of every entry of a column's vocabulary. A text that is known as it stands is that; else canonical forms are compared, since
/// runs of before texts were read in one spelling have learnt others.
pub(super) fn class_of(values: &[String], cut: &CutValues, texts: &TextColumn) -> Vec<Class> {
    let known = || values.iter().enumerate().map(|(class, text)| (text, Class::Known(class)));
    let learnt = || known().chain(cut.values.iter().map(|text| (text, Class::Other)));
    let mut classes: HashMap<Cow<'_, str>, Class> = HashMap::new();
    for (text, class) in learnt() {
        classes.entry(Cow::Borrowed(text)).or_insert(class);
    }
    for (text, class) in learnt() {
        classes.entry(canonical(text)).or_insert(class);
    }
    let class = |text: &String| classes.get(text.as_str()).or_else(|| classes.get(&canonical(text))).copied();
    texts.vocabulary().iter().map(|text| class(text).unwrap_or(Class::NeverSeen)).collect()
}
