//! Cells that hold nothing.

use crate::{FeatureColumn, Flows};

/// The text of a categorical cell that is missing.
pub const MISSING: &str = "-";

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

    /// Makes infinite numbers missing, as a reader does by a schema with `infinite: missing`. Returns how many there were of each
    /// feature, and in which row the first was.
    pub fn infinite_as_missing(&mut self) -> Vec<(usize, Option<usize>)> {
        let drop = |column: &mut FeatureColumn| {
            let (mut n, mut first) = (0, None);
            if let FeatureColumn::Numeric(values) = column {
                for (row, value) in values.iter_mut().enumerate().filter(|(_, value)| value.is_infinite()) {
                    (*value, n) = (f64::NAN, n + 1);
                    first = first.or(Some(row));
                }
            }
            (n, first)
        };
        self.features.iter_mut().map(drop).collect()
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
