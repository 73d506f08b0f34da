use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use crate::{Error, Result};

const MAX_BINS: usize = 1024;
const MAX_CATEGORIES: usize = 65_536;

/// How numbers are brought to one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Several views of each feature: quantile-normal, log1p, piecewise-linear bins.
    #[default]
    Features,
    /// The z-score of each feature.
    Standard,
    /// One maximum, mean and std for all features, as the predecessor had it; for comparison.
    GlobalMax,
}

/// What the tokeniser makes of a feature; the defaults are the best that was found.
#[derive(Debug, Clone, PartialEq, Eq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokeniserConfig {
    /// How numbers are brought to one scale.
    pub normalisation: Normalisation,
    /// With `features`: the quantile-normal value.
    #[default(true)]
    pub quantile: bool,
    /// With `features`: the z-score of log1p.
    #[default(true)]
    pub log1p: bool,
    /// With `features`: the most piecewise-linear bins per feature; 0 for none.
    #[schemars(range(min = 0, max = 1024))]
    #[default(64)]
    pub bins: usize,
    /// Classes as one-hot; else one number, the standardised class index.
    #[default(true)]
    pub one_hot: bool,
    /// How often a category must occur in training to be known.
    #[schemars(range(min = 1))]
    #[default(5)]
    pub min_count: usize,
    /// The most categories to know per feature, beside the unknown one.
    #[schemars(range(min = 1, max = 65_535))]
    #[default(31)]
    pub max_categories: usize,
}

impl TokeniserConfig {
    /// Whether the values go together.
    pub fn check(&self) -> Result<()> {
        let parts = self.quantile || self.log1p || self.bins > 0;
        if self.normalisation == Normalisation::Features && !parts {
            return Err(Error::tokeniser(
                "`quantile`, `log1p` and `bins` are all off; switch one on, or use `normalisation: standard`",
            ));
        }
        for (key, value, max) in [("bins", self.bins, MAX_BINS), ("max_categories", self.max_categories, MAX_CATEGORIES)] {
            if value > max {
                return Err(Error::tokeniser(format!("`{key}` is {value}; at most {max}")));
            }
        }
        Ok(())
    }

    /// Whether a categorical token has a value per class, rather than one value.
    pub(super) fn expands_classes(&self) -> bool {
        self.one_hot && self.normalisation != Normalisation::GlobalMax
    }
}
