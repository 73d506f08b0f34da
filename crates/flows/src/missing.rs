//! Cells that hold nothing.

use crate::{FeatureColumn, Flows};

/// The text of a categorical cell that is missing.
pub(crate) const MISSING: &str = "-";

impl Flows {
    /// Name of each feature, and in how many of the given rows its cell is missing: NaN, or the text `-`.
    ///
    /// # Panics
    /// If a row is out of range.
    #[expect(clippy::needless_pass_by_value, reason = "an iterator, cloned for every feature")]
    pub fn missing_counts(&self, rows: impl Iterator<Item = u32> + Clone) -> Vec<(String, usize)> {
        let count = |column: &FeatureColumn| match column {
            FeatureColumn::Numeric(values) => rows.clone().filter(|&row| values[row as usize].is_nan()).count(),
            FeatureColumn::Categorical(texts) => match texts.vocabulary().iter().position(|text| text == MISSING) {
                Some(missing) => rows.clone().filter(|&row| texts.codes()[row as usize] as usize == missing).count(),
                None => 0,
            },
        };
        self.schema.features().zip(&self.features).map(|(feature, column)| (feature.name.clone(), count(column))).collect()
    }

    /// Puts a number, which may be NaN or infinite, into a cell: for tests.
    ///
    /// # Panics
    /// If the feature is not numeric.
    #[doc(hidden)]
    pub fn put(&mut self, row: usize, feature: usize, x: f64) {
        match &mut self.features[feature] {
            FeatureColumn::Numeric(values) => values[row] = x,
            FeatureColumn::Categorical(_) => panic!("feature {feature} is categorical"),
        }
    }
}
