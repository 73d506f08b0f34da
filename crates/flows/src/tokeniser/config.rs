use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use crate::{Error, Result};

const MAX_BINS: usize = 1024;
const MAX_CATEGORIES: usize = 65_536;
/// Bounds of `max_categories: auto`.
const AUTO_AT_LEAST: usize = 31;
const AUTO_AT_MOST: usize = 1024;

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
    /// The most categories to know per feature, beside the unknown one. `auto`: as many as it takes to keep 99.5 % of the training
    /// rows, at least 31 and at most 1,024.
    pub max_categories: MaxCategories,
}

/// How many categories of a feature are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub enum MaxCategories {
    /// As many of the most frequent ones as keep 99.5 % of the training rows, at least 31 and at most 1,024.
    #[default]
    Auto,
    /// The most frequent ones, at most so many.
    AtMost(usize),
}

/// [`MaxCategories`] as a config has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "`auto` or a whole number")]
enum Written {
    Word(Word),
    Number(usize),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Auto,
}

impl From<Written> for MaxCategories {
    fn from(written: Written) -> Self {
        match written {
            Written::Word(Word::Auto) => Self::Auto,
            Written::Number(n) => Self::AtMost(n),
        }
    }
}

impl From<MaxCategories> for Written {
    fn from(max: MaxCategories) -> Self {
        match max {
            MaxCategories::Auto => Self::Word(Word::Auto),
            MaxCategories::AtMost(n) => Self::Number(n),
        }
    }
}

impl fmt::Display for MaxCategories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::AtMost(n) => write!(f, "{n}"),
        }
    }
}

impl JsonSchema for MaxCategories {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MaxCategories".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": MAX_CATEGORIES - 1 }] })
    }
}

impl MaxCategories {
    /// The most categories that a feature can have.
    pub(super) fn most(self) -> usize {
        match self {
            Self::Auto => AUTO_AT_MOST,
            Self::AtMost(n) => n,
        }
    }

    /// How many categories to keep of those with these counts, which fall, in a feature of so many rows.
    pub(super) fn kept(self, counts: &[usize], n_rows: usize) -> usize {
        let Self::AtMost(n) = self else {
            let mut rows = 0;
            // 99.5 %, without rounding
            let enough = counts.iter().position(|count| {
                rows += count;
                rows * 1000 >= n_rows * 995
            });
            let kept = enough.map_or(counts.len(), |place| place + 1);
            return kept.clamp(AUTO_AT_LEAST, AUTO_AT_MOST).min(counts.len());
        };
        n.min(counts.len())
    }
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
        for (key, value, max) in [("bins", self.bins, MAX_BINS), ("max_categories", self.max_categories.most(), MAX_CATEGORIES)] {
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
