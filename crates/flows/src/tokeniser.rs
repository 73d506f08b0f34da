//! Flows to tokens: one token per feature, fitted on training rows only.

use serde::{Deserialize, Serialize};

use crate::canonical::canonical;
use crate::missing::MISSING;
use crate::{Error, FeatureColumn, Flows, Result, Schema};

mod categories;
mod config;
mod fit;
mod learnt;
mod sampled;
mod saved;
mod target_bins;
mod token_table;

use categories::CutValues;
use target_bins::TargetBins;

pub use categories::Cut;
pub use config::{MaxCategories, Normalisation, TokeniserConfig};
pub use learnt::Learnt;
pub use sampled::TokeniserFit;
pub use token_table::TokenTable;

/// Quantile-normal values are clipped here, on both sides.
const NORMAL_CLIP: f64 = 4.0;
/// z-scores of log1p are clipped here.
const LOG1P_CLIP: f64 = 6.0;
/// Scaled values of `standard` and `global_max` are clipped here, so that none overflows f32.
const SCALED_CLIP: f64 = 1e6;

/// What a token is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A number.
    Numeric,
    /// One of `n_classes` classes: the known values, then one class for all unknown ones.
    Categorical {
        /// Number of classes, the unknown one included.
        n_classes: usize,
    },
}

/// One token: one feature of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSpec {
    /// Name of the feature.
    pub feature: String,
    /// What the token is about.
    pub kind: TokenKind,
    /// How many values describe it.
    pub width: usize,
}

/// Turns flows into tokens. Everything it knows was learnt from the training rows it was fitted on.
///
/// With `normalisation: features` a numeric feature x becomes, in this order, each part if it is switched on:
/// 1. quantile-normal: Φ⁻¹ of the mid-rank of x among the training rows, linear between at most 1,000 knots, clipped at ±4;
/// 2. log1p: sign(x) ln(1 + |x|), standardised, clipped at ±6;
/// 3. piecewise-linear bins (Gorishniy et al. 2022, eq. 1): value j is how much of bin j lies below x, from 0 to 1.
///    With at most `bins` distinct training values there is one bin per value: bin j ends at the j-th value and begins at the one
///    before (the first is as wide as the second, or 1), so that the j-th value of training has j ones and then zeros.
///    With more, the edges are the distinct ones of the `bins` + 1 training quantiles from minimum to maximum.
///
/// What is missing in a row is told apart from every number: a feature that was missing in rows of training has one value more,
/// the last one, which is 1 where it is missing and else 0. A missing number is neutral beside that: its other values are 0.
/// Where a feature is missing now and never was in training, there is no such value; its quantile-normal and log1p are 0, and
/// its bins are those of the training value whose quantile-normal value is nearest to 0, the median but for ties.
///
/// Numbers that are missing or infinite are not learnt from. An infinite one is beyond the largest or smallest of training.
///
/// A categorical feature becomes a one-hot of its classes, or with `one_hot: false` its standardised class index. Categories that
/// are too rare, or too many, share one class with those that training has not seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Tokeniser {
    schema: Schema,
    config: TokeniserConfig,
    features: Vec<Feature>,
    tokens: Vec<TokenSpec>,
    /// The classes of each numeric feature, where they were learnt.
    target_bins: Option<Vec<Option<TargetBins>>>,
}

/// What was learnt about a feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Feature {
    /// The three parts of `normalisation: features`.
    Parts {
        /// Training values, strictly ascending.
        knots: Vec<f64>,
        /// Quantile-normal value at each knot.
        normal: Vec<f64>,
        log1p: Affine,
        /// Edges of the bins, strictly ascending; empty where bins are off.
        edges: Vec<f64>,
        /// Whether it was missing in rows of training.
        #[serde(default, skip_serializing_if = "is_false")]
        missing: bool,
    },
    /// x -> (x - mean) / std
    Scaled {
        mean: f64,
        std: f64,
        /// Whether it was missing in rows of training.
        #[serde(default, skip_serializing_if = "is_false")]
        missing: bool,
    },
    Categorical {
        /// Known values, the most frequent first.
        values: Vec<String>,
        /// Scale of the class index where it stands for the class.
        code: Affine,
        #[serde(default, skip_serializing_if = "CutValues::is_empty")]
        cut: CutValues,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(&flag: &bool) -> bool {
    !flag
}

/// x -> (x - mean) / std
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Affine {
    mean: f64,
    std: f64,
}

impl Affine {
    fn apply(self, x: f64) -> f64 {
        (x - self.mean) / self.std
    }
}

impl Tokeniser {
    /// Learns from the given rows of `flows`, and from no others.
    pub fn fit(flows: &Flows, rows: &[u32], config: &TokeniserConfig) -> Result<Self> {
        Self::fit_parts(&[(flows, rows)], config).map(|(tokeniser, _)| tokeniser)
    }

    /// [`Tokeniser::fit`] from the rows of several files that were read by one schema, and what was cut of which feature. Of more
    /// than 200,000 rows it learns as [`TokeniserFit`] does.
    ///
    /// # Panics
    /// If there are no parts, or their schemas differ.
    pub fn fit_parts(parts: &[(&Flows, &[u32])], config: &TokeniserConfig) -> Result<(Self, Vec<Cut>)> {
        let schema = parts[0].0.schema();
        assert!(parts.iter().all(|(flows, _)| flows.schema() == schema), "rows of different schemas do not join");
        config.check()?;
        let n_rows: usize = parts.iter().map(|(_, rows)| rows.len()).sum();
        if n_rows == 0 {
            return Err(Error::tokeniser("no rows to fit on"));
        }
        if TokeniserFit::samples(n_rows) {
            return TokeniserFit::of(parts, config)?.finish();
        }
        let (features, cuts) = fit::features(parts, config, None);
        Ok((Tokeniser::new(schema.clone(), config.clone(), features), cuts))
    }

    /// Learns the classes of numbers too, which masked training may predict instead of the numbers: `bins` of them for the values
    /// of training, and two for what lies outside. `parts` are those of [`Tokeniser::fit_parts`].
    pub fn with_target_bins(self, parts: &[(&Flows, &[u32])]) -> Result<Self> {
        parts.iter().try_for_each(|(flows, _)| self.check_schema(flows))?;
        if TokeniserFit::samples(parts.iter().map(|(_, rows)| rows.len()).sum()) {
            return TokeniserFit::of(parts, &self.config)?.add_target_bins(self);
        }
        self.learn_target_bins(parts, None)
    }

    fn learn_target_bins(mut self, parts: &[(&Flows, &[u32])], all: Option<&[sampled::Seen]>) -> Result<Self> {
        if self.config.bins == 0 {
            return Err(Error::tokeniser("`bins` is 0, and there are to be bins as targets"));
        }
        let of = |feature: usize| match &parts[0].0.features[feature] {
            FeatureColumn::Numeric(_) => Some(TargetBins::fit(fit::finite(parts, feature, all).0, self.config.bins)),
            FeatureColumn::Categorical(_) => None,
        };
        self.target_bins = Some((0..self.features.len()).map(of).collect());
        Ok(self)
    }

    /// Number of classes of a numeric token, where they were learnt.
    ///
    /// # Panics
    /// If the token is out of range.
    pub fn target_classes(&self, token: usize) -> Option<usize> {
        self.target_bins.as_ref().and_then(|bins| bins[token].as_ref()).map(TargetBins::n_classes)
    }

    fn new(schema: Schema, config: TokeniserConfig, features: Vec<Feature>) -> Self {
        let token = |(column, feature): (&crate::Column, &Feature)| TokenSpec {
            feature: column.name.clone(),
            kind: match feature {
                Feature::Categorical { values, .. } => TokenKind::Categorical { n_classes: values.len() + 1 },
                _ => TokenKind::Numeric,
            },
            width: match feature {
                Feature::Parts { edges, missing, .. } => {
                    let n_parts = usize::from(config.quantile) + usize::from(config.log1p) + edges.len().saturating_sub(1);
                    n_parts + usize::from(*missing)
                }
                Feature::Scaled { missing, .. } => 1 + usize::from(*missing),
                Feature::Categorical { values, .. } if config.expands_classes() => values.len() + 1,
                Feature::Categorical { .. } => 1,
            },
        };
        let tokens = schema.features().zip(&features).map(token).collect();
        Tokeniser { schema, config, features, tokens, target_bins: None }
    }

    /// The tokens, one per feature, in schema order.
    pub fn tokens(&self) -> &[TokenSpec] {
        &self.tokens
    }

    /// The schema of the flows it was fitted on: what is needed to read more of them.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Whether the feature of a token was missing in rows of training.
    ///
    /// # Panics
    /// If the token is out of range.
    pub fn had_missing(&self, token: usize) -> bool {
        match &self.features[token] {
            Feature::Parts { missing, .. } | Feature::Scaled { missing, .. } => *missing,
            Feature::Categorical { values, cut, .. } => {
                values.iter().chain(&cut.values).any(|text| canonical(text) == MISSING) || cut.more > 0
            }
        }
    }

    /// Whether every category of a token that training saw is remembered, those that were cut included. Else one of the rarest is
    /// counted as never seen.
    ///
    /// # Panics
    /// If the token is out of range.
    pub fn remembers_all(&self, token: usize) -> bool {
        !matches!(&self.features[token], Feature::Categorical { cut, .. } if cut.more > 0)
    }

    /// Encodes flows of the schema that it was fitted on.
    pub fn tokenise(&self, flows: &Flows) -> Result<TokenTable> {
        self.check_schema(flows)?;
        Ok(TokenTable::new(self, flows, false))
    }

    /// [`Tokeniser::tokenise`] with the targets that pretraining had: classes of numbers, where they were learnt.
    pub fn tokenise_with_targets(&self, flows: &Flows) -> Result<TokenTable> {
        self.check_schema(flows)?;
        Ok(TokenTable::new(self, flows, true))
    }

    /// [`Tokeniser::tokenise_with_targets`] for some rows of several files, one part after the other. The
    /// features of the flows are freed as the rows are tokenised, so that memory never holds both
    /// as a whole.
    ///
    /// # Panics
    /// If rows are out of range or do not ascend.
    pub fn tokenise_and_free(&self, parts: Vec<(&mut Flows, &[u32])>) -> Result<TokenTable> {
        parts.iter().try_for_each(|(flows, _)| self.check_schema(flows))?;
        Ok(TokenTable::consuming(self, parts))
    }

    /// A table of `n_rows` rows for [`TokenTable::swap_cells`], with the targets that pretraining has. Until then they hold zeros.
    pub fn empty_table(&self, n_rows: usize) -> TokenTable {
        TokenTable::zeros(self, n_rows, true)
    }

    fn check_schema(&self, flows: &Flows) -> Result<()> {
        let same = |(wanted, found): (&crate::Column, &crate::Column)| (&wanted.name, wanted.kind) == (&found.name, found.kind);
        let (wanted, found) = (|| self.schema.features(), || flows.schema().features());
        if wanted().count() != found().count() || !wanted().zip(found()).all(same) {
            return Err(Error::tokeniser(format!(
                "fitted on the features of schema `{}`, but the flows were read by another schema `{}`; use the one it was fitted with",
                self.schema.name(),
                flows.schema().name()
            )));
        }
        Ok(())
    }
}

/// x = (raw - mean scale) / (std scale) with one scale, mean and std for all features, as the predecessor has it.
///
/// # Panics
/// If the two slices differ in length.
pub fn global_max(raw: &[f64], scale: f64, mean: f64, std: f64, out: &mut [f32]) {
    assert_eq!(raw.len(), out.len());
    let affine = Affine { mean: mean * scale, std: std * scale };
    raw.iter().zip(out).for_each(|(&raw, out)| *out = affine.apply(raw) as f32);
}

#[cfg(test)]
mod tests;
