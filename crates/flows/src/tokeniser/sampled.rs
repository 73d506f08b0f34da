use std::collections::BTreeMap;

use super::fit::{self, Part};
use super::{Cut, Tokeniser, TokeniserConfig};
use crate::sample::RowSample;
use crate::{Error, FeatureColumn, Flows, Result, Schema, all_rows};

/// Different texts of a feature that are counted, at most.
const COUNTED: usize = 1 << 17;

/// Fits a tokeniser in one pass over rows that come batch by batch, in memory that does not grow with them.
///
/// Up to 200,000 rows are kept, and all is learnt from them. Of more rows a sample of so many is kept: those with the smallest
/// hash of their number, so that the sample does not depend on how the rows are cut into batches. Quantiles, means and deviations
/// are those of the sample. The smallest and the largest number, how often each category occurs, and whether a feature is missing
/// anywhere are those of all rows.
#[derive(Debug)]
pub struct TokeniserFit {
    config: TokeniserConfig,
    counted: usize,
    /// The rows that are kept; they have features alone.
    sample: RowSample,
    seen: Vec<Seen>,
}

/// What is known of all rows of a feature.
#[derive(Debug, Clone)]
pub(super) enum Seen {
    Number {
        has_missing: bool,
        /// The smallest and the largest finite number.
        range: Option<[f64; 2]>,
    },
    Category {
        /// How often each text occurs; None where there are too many.
        counts: Option<BTreeMap<String, usize>>,
    },
}

impl TokeniserFit {
    /// No rows yet.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn new(schema: &Schema, config: &TokeniserConfig) -> Result<Self> {
        Self::keeping(RowSample::ROWS, COUNTED, schema, config)
    }

    fn keeping(most: usize, counted: usize, schema: &Schema, config: &TokeniserConfig) -> Result<Self> {
        config.check()?;
        let sample = RowSample::keeping(most, schema, false);
        let unseen = |column: &FeatureColumn| match column {
            FeatureColumn::Numeric(_) => Seen::Number { has_missing: false, range: None },
            FeatureColumn::Categorical(_) => Seen::Category { counts: Some(BTreeMap::new()) },
        };
        let seen = Flows::none(schema).features.iter().map(unseen).collect();
        Ok(Self { config: config.clone(), counted, sample, seen })
    }

    /// [`TokeniserFit::new`] with the rows of `parts`.
    pub(super) fn of(parts: &[Part<'_>], config: &TokeniserConfig) -> Result<Self> {
        let mut fit = Self::new(parts[0].0.schema(), config)?;
        for (flows, rows) in parts {
            fit.add(flows, rows);
        }
        Ok(fit)
    }

    /// Whether of so many rows a sample is kept.
    pub(super) fn samples(n_rows: usize) -> bool {
        n_rows > RowSample::ROWS
    }

    /// Learns from the next rows: `rows` of `flows`.
    ///
    /// # Panics
    /// If the flows were read by another schema, or a row is out of range.
    pub fn add(&mut self, flows: &Flows, rows: &[u32]) {
        self.sample.add(flows, rows);
        for (seen, column) in self.seen.iter_mut().zip(&flows.features) {
            seen.add(column, rows, self.counted);
        }
    }

    /// Number of rows so far.
    pub fn n_rows(&self) -> u64 {
        self.sample.n_rows()
    }

    /// The tokeniser, and what was cut of which feature.
    ///
    /// # Errors
    /// If there were no rows.
    pub fn finish(mut self) -> Result<(Tokeniser, Vec<Cut>)> {
        self.learn()
    }

    fn learn(&mut self) -> Result<(Tokeniser, Vec<Cut>)> {
        if self.sample.n_rows() == 0 {
            return Err(Error::tokeniser("no rows to fit on"));
        }
        self.sample.prune();
        let rows = all_rows(self.sample.len());
        let all = self.of_all();
        let sample = self.sample.flows();
        let (features, cuts) = fit::features(&[(sample, &rows)], &self.config, all);
        Ok((Tokeniser::new(sample.schema().clone(), self.config.clone(), features), cuts))
    }

    /// [`TokeniserFit::finish`] with the classes of numbers ([`Tokeniser::with_target_bins`]).
    ///
    /// # Errors
    /// If there were no rows, or `bins` is 0.
    pub fn finish_with_target_bins(mut self) -> Result<(Tokeniser, Vec<Cut>)> {
        let (tokeniser, cuts) = self.learn()?;
        Ok((self.add_target_bins(tokeniser)?, cuts))
    }

    /// Learns the classes of numbers.
    pub(super) fn add_target_bins(mut self, tokeniser: Tokeniser) -> Result<Tokeniser> {
        self.sample.prune();
        let rows = all_rows(self.sample.len());
        tokeniser.learn_target_bins(&[(self.sample.flows(), &rows)], self.of_all())
    }

    /// What is known of all rows, where the sample does not have them all.
    fn of_all(&self) -> Option<&[Seen]> {
        (self.sample.n_rows() > self.sample.len() as u64).then_some(&self.seen)
    }
}

impl Seen {
    fn add(&mut self, column: &FeatureColumn, rows: &[u32], counted: usize) {
        match (self, column) {
            (Seen::Number { has_missing, range }, FeatureColumn::Numeric(values)) => {
                for x in rows.iter().map(|&row| values[row as usize]) {
                    *has_missing |= x.is_nan();
                    if x.is_finite() {
                        let [low, high] = range.get_or_insert([x; 2]);
                        (*low, *high) = (low.min(x), high.max(x));
                    }
                }
            }
            (Seen::Category { counts }, FeatureColumn::Categorical(texts)) => {
                if let Some(all) = counts {
                    for (text, n) in fit::text_counts(texts, rows) {
                        match all.get_mut(text) {
                            Some(count) => *count += n,
                            None => drop(all.insert(text.clone(), n)),
                        }
                    }
                    if all.len() > counted {
                        *counts = None;
                    }
                }
            }
            _ => unreachable!("one schema gives one kind"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::mix;
    use crate::synthetic;

    /// Fits on rows that come in batches of `batch`, of which `most` are kept.
    fn fitted(flows: &Flows, batch: usize, most: usize, counted: usize) -> (Tokeniser, Vec<Cut>) {
        let config = TokeniserConfig { min_count: 3, ..TokeniserConfig::default() };
        let mut fit = TokeniserFit::keeping(most, counted, flows.schema(), &config).unwrap();
        for rows in all_rows(flows.len()).chunks(batch) {
            // texts have other codes in a file of their own
            fit.add(&flows.select(rows), &all_rows(rows.len()));
            assert!(fit.sample.len() < most + most / 2, "{} rows are kept", fit.sample.len());
        }
        assert_eq!(fit.n_rows(), flows.len() as u64);
        fit.finish_with_target_bins().unwrap()
    }

    #[test]
    fn of_few_rows_everything_is_learnt() {
        let (flows, config) = (synthetic(900, 5), TokeniserConfig { min_count: 3, ..TokeniserConfig::default() });
        let rows = all_rows(900);
        let (wanted, wanted_cuts) = Tokeniser::fit_parts(&[(&flows, &rows)], &config).unwrap();
        let wanted = wanted.with_target_bins(&[(&flows, &rows)]).unwrap();
        for most in [900, 5000] {
            let (found, cuts) = fitted(&flows, 70, most, COUNTED);
            assert_eq!((found.to_json(), cuts), (wanted.to_json(), wanted_cuts.clone()), "{most}");
        }
    }

    #[test]
    fn a_sample_does_not_depend_on_how_rows_are_cut_into_batches() {
        let flows = synthetic(2000, 6);
        let (wanted, _) = fitted(&flows, 2000, 300, COUNTED);
        for batch in [1, 7, 64, 301, 1999] {
            assert_eq!(fitted(&flows, batch, 300, COUNTED).0.to_json(), wanted.to_json(), "batches of {batch}");
        }
        assert_ne!(fitted(&flows, 2000, 2000, COUNTED).0.to_json(), wanted.to_json());
    }

    #[test]
    fn extremes_and_counts_and_missing_cells_are_those_of_all_rows() {
        let mut flows = synthetic(3000, 7);
        let number = flows.features.iter().position(|column| matches!(column, FeatureColumn::Numeric(_))).unwrap();
        let most = 200;
        // rows that are not in the sample
        let mut by_key = all_rows(3000);
        by_key.sort_by_key(|&row| mix(u64::from(row)));
        let [low, high, missing] = [2997, 2998, 2999].map(|place| by_key[place] as usize);
        flows.put(low, number, -77.0);
        flows.put(high, number, 1e12);
        flows.put(missing, number, f64::NAN);
        let (sampled, cuts) = fitted(&flows, 100, most, COUNTED);
        let (whole, whole_cuts) = fitted(&flows, 100, 3000, COUNTED);
        assert!(sampled.had_missing(number));
        let encoded = sampled.tokenise(&flows).unwrap();
        let values: Vec<u32> = (0..3000).map(|row| encoded.value(row, number).to_bits()).collect();
        let beyond = |row: usize| values.iter().filter(|value| **value == values[row]).count();
        assert_eq!((beyond(low), beyond(high)), (1, 1), "no row is beyond the smallest or the largest");
        assert_eq!(cuts, whole_cuts);
        for (a, b) in sampled.tokens().iter().zip(whole.tokens()) {
            assert_eq!((&a.feature, a.kind), (&b.feature, b.kind), "as many categories as in all rows");
        }
    }

    #[test]
    fn too_many_categories_are_counted_in_the_sample_alone_and_that_is_told() {
        let flows = synthetic(2000, 8);
        let (_, cuts) = fitted(&flows, 100, 400, 3);
        assert!(cuts.iter().any(|cut| cut.is_of_sample), "{cuts:?}");
        let cut = cuts.iter().find(|cut| cut.is_of_sample).unwrap();
        assert_eq!(cut.n_rows, 400);
        assert!(cut.to_string().contains("of 400 training rows of a sample, since"), "{cut}");
    }
}
