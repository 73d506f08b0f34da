//! What a classifier was trained on, in counts: `profile.json`, which `finetune` leaves beside the weights. Rows of today are compared
//! with it (`watch.rs`).

use std::collections::HashMap;

use nids_eval::drift::Bins;
use nids_flows::{Column, FeatureColumn, Flows, MISSING, TextColumn, TokenKind, TokenSpec, Tokeniser};
use serde::{Deserialize, Serialize};

use crate::operation::Stored;

/// Bins of a number, and of scores.
const BINS: usize = 10;
/// Training rows that bins are fitted on, at most; all are counted.
const ROWS: usize = 1 << 16;
/// The share of the training rows from which on a category is counted by itself.
const OWN_SHARE: f64 = 0.01;
/// A longer category is counted among the others.
pub(crate) const MAX_TEXT: usize = 128;
/// A larger file is some other file.
const MAX_BYTES: usize = 16 << 20;

/// What a classifier was trained on. Nothing of it comes from validation rows but for the scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The features, in the order of the schema.
    pub features: Vec<FeatureProfile>,
    /// Scores of the rows held out.
    pub scores: ScoreProfile,
}

/// How a feature is distributed in the training part of the labelled rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureProfile {
    /// Name of the feature.
    pub name: String,
    /// What is counted.
    pub bins: FeatureBins,
    /// Training rows in each bin, then those where the feature is missing.
    pub all: Vec<u64>,
    /// The benign ones among the rows whose labels were learned from.
    pub benign: Vec<u64>,
    /// The attacks among them.
    pub attacks: Vec<u64>,
}

/// What is counted of a feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FeatureBins {
    /// Numbers between cuts.
    Numbers(Bins),
    /// Categories, the most frequent first, then all others together.
    Categories(Vec<String>),
}

/// How the model's scores of held-out rows are distributed, before any calibration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreProfile {
    /// Scores between cuts.
    pub bins: Bins,
    /// Benign rows in each bin; the last number is 0.
    pub benign: Vec<u64>,
    /// Attacks in each bin; the last number is 0.
    pub attacks: Vec<u64>,
}

impl FeatureBins {
    /// Numbers of a list of counts.
    pub fn n_counts(&self) -> usize {
        match self {
            Self::Numbers(bins) => bins.n_counts(),
            Self::Categories(values) => values.len() + 2,
        }
    }

    /// Those of a feature in some rows.
    pub(crate) fn fit(column: &FeatureColumn, rows: &[u32]) -> Self {
        match column {
            FeatureColumn::Numeric(values) => {
                let some = rows.iter().step_by(rows.len().div_ceil(ROWS).max(1));
                Self::Numbers(Bins::fit(&some.map(|&row| values[row as usize]).collect::<Vec<f64>>(), BINS))
            }
            FeatureColumn::Categorical(texts) => Self::Categories(frequent(texts, rows)),
        }
    }

    /// The place of each category that has a count of its own, and of those that are missing.
    pub(crate) fn places(&self) -> HashMap<&str, usize> {
        let Self::Categories(values) = self else { return HashMap::new() };
        let named = values.iter().enumerate().map(|(place, value)| (value.as_str(), place));
        named.chain([(MISSING, values.len() + 1)]).collect()
    }

    /// Adds all rows of a feature to its counts.   places: [`FeatureBins::places`]
    pub(crate) fn add(&self, column: &FeatureColumn, places: &HashMap<&str, usize>, counts: &mut [u64]) {
        match (self, column) {
            (Self::Numbers(bins), FeatureColumn::Numeric(values)) => bins.add(values, counts),
            (Self::Categories(values), FeatureColumn::Categorical(texts)) => {
                let place = |text: &String| places.get(text.as_str()).copied().unwrap_or(values.len());
                let places: Vec<usize> = texts.vocabulary().iter().map(place).collect();
                for &code in texts.codes() {
                    counts[places[code as usize]] += 1;
                }
            }
            _ => unreachable!("features were compared with the schema"),
        }
    }

    /// The bin of each of some rows.
    pub(crate) fn codes(&self, column: &FeatureColumn, rows: &[u32]) -> Vec<u32> {
        let places = self.places();
        let place = |&row: &u32| self.place(column, row, &places) as u32;
        rows.iter().map(place).collect()
    }

    /// The bin of a row.   places: [`FeatureBins::places`]
    pub(crate) fn place(&self, column: &FeatureColumn, row: u32, places: &HashMap<&str, usize>) -> usize {
        match (self, column) {
            (Self::Numbers(bins), FeatureColumn::Numeric(values)) => bins.place(values[row as usize]),
            (Self::Categories(values), FeatureColumn::Categorical(texts)) => {
                places.get(texts.get(row as usize)).copied().unwrap_or(values.len())
            }
            _ => unreachable!("features were compared with the schema"),
        }
    }

    /// How many of some rows are in each bin.
    fn counts(&self, column: &FeatureColumn, rows: &[u32]) -> Vec<u64> {
        let mut counts = vec![0; self.n_counts()];
        match column {
            FeatureColumn::Numeric(values) => {
                let some: Vec<f64> = rows.iter().map(|&row| values[row as usize]).collect();
                self.add(&FeatureColumn::Numeric(some), &HashMap::new(), &mut counts);
            }
            FeatureColumn::Categorical(texts) => {
                let some = FeatureColumn::Categorical(texts.select(rows.iter().map(|&row| row as usize)));
                self.add(&some, &self.places(), &mut counts);
            }
        }
        counts
    }
}

/// The categories that have at least [`OWN_SHARE`] of some rows, the most frequent first; not what is missing.
fn frequent(texts: &TextColumn, rows: &[u32]) -> Vec<String> {
    let mut counts = vec![0_u64; texts.vocabulary().len()];
    for &row in rows {
        counts[texts.codes()[row as usize] as usize] += 1;
    }
    let least = OWN_SHARE * rows.len() as f64;
    let is_own = |(text, n): &(&String, u64)| *n > 0 && *n as f64 >= least && text.len() <= MAX_TEXT && *text != MISSING;
    let mut values: Vec<(&String, u64)> = texts.vocabulary().iter().zip(counts).filter(is_own).collect();
    values.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    values.into_iter().map(|(text, _)| text.clone()).collect()
}

impl FeatureProfile {
    /// Those of `flows`, whose labels are looked at for the rows `with_labels` alone. No other rows than `rows` are.
    ///
    /// # Panics
    /// If the flows have no labels.
    pub fn of(flows: &Flows, rows: &[u32], with_labels: &[u32]) -> Vec<Self> {
        let labels = flows.labels().expect("labels were required of the reader");
        let of_label = |label: u8| with_labels.iter().copied().filter(move |&row| labels[row as usize] == label);
        let (benign, attacks): (Vec<u32>, Vec<u32>) = (of_label(0).collect(), of_label(1).collect());
        let feature = |(column, cells): (&Column, &FeatureColumn)| {
            let bins = FeatureBins::fit(cells, rows);
            let [all, benign, attacks] = [rows, &benign, &attacks].map(|rows| bins.counts(cells, rows));
            Self { name: column.name.clone(), bins, all, benign, attacks }
        };
        flows.schema().features().zip(flows.features()).map(feature).collect()
    }

    /// The share of rows where it is missing.
    pub(crate) fn missing(&self) -> f64 {
        share(self.all.last().copied().unwrap_or(0), self.all.iter().sum())
    }
}

/// n of so many rows; 0 of none.
pub(crate) fn share(n: u64, rows: u64) -> f64 {
    if rows == 0 { 0.0 } else { n as f64 / rows as f64 }
}

impl ScoreProfile {
    /// Those of rows with labels, 0 or 1.   scores, labels: [rows]
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn of(scores: &[f32], labels: &[u8]) -> Self {
        assert_eq!(scores.len(), labels.len(), "a label per score");
        let values: Vec<f64> = scores.iter().copied().map(f64::from).collect();
        let bins = Bins::fit(&values, BINS);
        let of_label = |label: u8| {
            bins.counts(&values.iter().zip(labels).filter(|(_, of)| **of == label).map(|(value, _)| *value).collect::<Vec<f64>>())
        };
        let (benign, attacks) = (of_label(0), of_label(1));
        Self { bins, benign, attacks }
    }
}

impl Profile {
    const KIND: &str = "training profile of nids-mixer";

    /// Reads the content of a file.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("larger than {} MiB, the limit for this file", MAX_BYTES >> 20));
        }
        let found: Self = Stored::content(Self::KIND, bytes)?;
        // rows of a list of as many counts as there should be
        let rows = |counts: &[u64], n_counts: usize| {
            let sum = counts.iter().try_fold(0_u64, |sum, &n| sum.checked_add(n));
            sum.filter(|&sum| sum < 1 << 53 && counts.len() == n_counts)
        };
        let of_feature = |feature: &FeatureProfile| {
            let FeatureProfile { bins, all, benign, attacks, .. } = feature;
            if let FeatureBins::Categories(values) = bins
                && bins.places().len() != values.len() + 1
            {
                return None;
            }
            let n = bins.n_counts();
            Some([rows(all, n)?, rows(benign, n)?, rows(attacks, n)?])
        };
        let of_features: Option<Vec<[u64; 3]>> = found.features.iter().map(of_feature).collect();
        let is_one_table = of_features.is_some_and(|all| all.windows(2).all(|pair| pair[0] == pair[1]));
        let ScoreProfile { bins, benign, attacks } = &found.scores;
        let has_scores = [benign, attacks].into_iter().all(|counts| rows(counts, bins.n_counts()).is_some());
        if is_one_table && has_scores { Ok(found) } else { Err("numbers that no training profile has".to_owned()) }
    }

    /// The bytes of its file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Stored::to_bytes(Self::KIND, self.clone());
        bytes.pop(); // of a file that was cut anywhere, nothing can be read
        bytes
    }

    /// Refuses the profile of a classifier over other features.
    pub(crate) fn check(self, tokeniser: &Tokeniser) -> std::result::Result<Self, String> {
        let kinds = self.features.iter().map(|feature| (&feature.name, matches!(feature.bins, FeatureBins::Numbers(_))));
        let is_number = |token: &TokenSpec| token.kind == TokenKind::Numeric;
        let wanted = tokeniser.tokens().iter().map(|token| (&token.feature, is_number(token)));
        if kinds.eq(wanted) { Ok(self) } else { Err("of other features than the classifier has".to_owned()) }
    }
}
