//! Benign rows to compare an alert with: `background.json`, which `finetune` leaves beside the weights.

use nids_eval::redundancy::redundant;
use nids_flows::{Column, FeatureColumn, Flows, Schema, TextColumn, equal_rows};
use serde::{Deserialize, Serialize};

use crate::at_equal_distances;
use crate::operation::Stored;
use crate::profile::{FeatureBins, MAX_TEXT};

/// Benign rows that are kept, at most.
const ROWS: usize = 256;
/// Benign rows among which they are looked for, at most.
const LOOKED_AT: usize = 1 << 14;
/// Rows that tell which features say the same, at most.
const GROUPED: usize = 1 << 11;
/// Features are together from this share of their information on: about that of a rank correlation of .95.
const IN_COMMON: f64 = 0.5;
/// A larger file is some other file.
const MAX_BYTES: usize = 64 << 20;

/// Benign training rows, and what else it takes to say how a row differs from them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Background {
    /// Benign training rows whose labels were learned from.
    pub benign: u64,
    /// The features, in the order of the schema.
    pub features: Vec<BackgroundFeature>,
    /// Features that say the same, by their places; each feature is in one group.
    pub groups: Vec<Vec<usize>>,
}

/// A feature of benign training rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackgroundFeature {
    /// Name of the feature.
    pub name: String,
    /// Of some rows, no two of which are equal.
    pub values: BackgroundValues,
    /// Of all of them; None of a category, and of a number that is always missing.
    pub usual: Option<UsualRange>,
}

/// Values of a feature, in raw units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BackgroundValues {
    /// Numbers; None where one is missing.
    Numbers(Vec<Option<f64>>),
    /// Categories.
    Categories(Vec<String>),
}

/// Where a number lies in benign training rows, in raw units.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsualRange {
    /// At most 1 % of the rows are below.
    pub p01: f64,
    /// Half of the rows are below or at it.
    pub median: f64,
    /// At most 1 % of the rows are above.
    pub p99: f64,
}

impl Background {
    const KIND: &str = "background of nids-mixer";

    /// That of labelled training rows: `rows` tell which features say the same, and the benign ones `with_labels` are compared with. No
    /// other rows are looked at.
    ///
    /// # Panics
    /// If the flows have no labels.
    pub fn of(flows: &Flows, rows: &[u32], with_labels: &[u32]) -> Self {
        let labels = flows.labels().expect("labels were required of the reader");
        let benign: Vec<u32> = with_labels.iter().copied().filter(|&row| labels[row as usize] == 0).collect();
        let some =
            at_equal_distances(&benign, LOOKED_AT).into_iter().filter(|&row| can_be_kept(flows, row)).collect::<Vec<u32>>();
        let groups = equal_rows(&flows.select(&some));
        let different: Vec<u32> = groups.iter().map(|group| some[group[0] as usize]).collect();
        let kept = at_equal_distances(&different, ROWS);
        let feature = |(column, cells): (&Column, &FeatureColumn)| {
            let (values, usual) = match cells {
                FeatureColumn::Numeric(values) => {
                    let kept = kept.iter().map(|&row| values[row as usize]).map(|x| (!x.is_nan()).then_some(x));
                    let all = benign.iter().map(|&row| values[row as usize]).filter(|x| !x.is_nan());
                    (BackgroundValues::Numbers(kept.collect()), UsualRange::of(all.collect()))
                }
                FeatureColumn::Categorical(texts) => {
                    let kept = kept.iter().map(|&row| texts.get(row as usize).to_owned());
                    (BackgroundValues::Categories(kept.collect()), None)
                }
            };
            BackgroundFeature { name: column.name.clone(), values, usual }
        };
        let features = flows.schema().features().zip(flows.features()).map(feature).collect();
        let grouped = at_equal_distances(rows, GROUPED);
        let codes = |cells: &FeatureColumn| FeatureBins::fit(cells, &grouped).codes(cells, &grouped);
        let codes: Vec<Vec<u32>> = flows.features().iter().map(codes).collect();
        Self { benign: benign.len() as u64, features, groups: redundant(&codes, IN_COMMON) }
    }

    /// Reads the content of a file.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("larger than {} MiB, the limit for this file", MAX_BYTES >> 20));
        }
        let found: Self = Stored::content(Self::KIND, bytes)?;
        let mut grouped: Vec<usize> = found.groups.concat();
        grouped.sort_unstable();
        let n_rows = found.n_rows();
        let holds = n_rows as u64 <= found.benign
            && grouped.into_iter().eq(0..found.features.len())
            && found.groups.iter().all(|group| !group.is_empty())
            && found
                .features
                .iter()
                .all(|feature| feature.values.len() == n_rows && feature.usual.is_none_or(UsualRange::is_valid));
        if holds { Ok(found) } else { Err("numbers that no background has".to_owned()) }
    }

    /// The bytes of its file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Stored::to_bytes(Self::KIND, self.clone());
        bytes.pop(); // of a file that was cut anywhere, nothing can be read
        bytes
    }

    /// Number of rows that are kept.
    pub fn n_rows(&self) -> usize {
        self.features.first().map_or(0, |feature| feature.values.len())
    }

    /// The rows that are kept.
    pub(crate) fn flows(&self, schema: &Schema) -> std::result::Result<Flows, String> {
        let names = self.features.iter().map(|feature| &feature.name);
        let column = |feature: &BackgroundFeature| match &feature.values {
            BackgroundValues::Numbers(values) => {
                FeatureColumn::Numeric(values.iter().map(|value| value.map_or(f64::NAN, |x| x + 0.0)).collect())
            }
            BackgroundValues::Categories(texts) => {
                FeatureColumn::Categorical(texts.iter().map(String::as_str).collect::<TextColumn>())
            }
        };
        let is_of_schema = names.eq(schema.features().map(|column| &column.name));
        let flows = Flows::of_features(schema, self.features.iter().map(column).collect()).filter(|_| is_of_schema);
        flows.ok_or_else(|| "of other features than the classifier has".to_owned())
    }
}

/// Whether JSON can hold all cells of a row, and its texts are short.
fn can_be_kept(flows: &Flows, row: u32) -> bool {
    flows.features().iter().all(|column| match column {
        FeatureColumn::Numeric(values) => !values[row as usize].is_infinite(),
        FeatureColumn::Categorical(texts) => texts.get(row as usize).len() <= MAX_TEXT,
    })
}

impl BackgroundValues {
    fn len(&self) -> usize {
        match self {
            Self::Numbers(values) => values.len(),
            Self::Categories(values) => values.len(),
        }
    }
}

impl UsualRange {
    /// None of no values.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (last, tail) = (values.len().checked_sub(1)?, values.len() / 100);
        // infinite ones are clipped in training, too
        let at = |place: usize| values[place].clamp(f64::MIN, f64::MAX);
        Some(Self { p01: at(tail), median: at(last.div_ceil(2)), p99: at(last - tail) })
    }

    fn is_valid(self) -> bool {
        let Self { p01, median, p99 } = self;
        [p01, median, p99].iter().all(|x| x.is_finite()) && p01 <= median && median <= p99
    }
}
