//! Some of many rows that come batch by batch, always the same ones.

use std::sync::Arc;

use crate::{FeatureColumn, Flows, Schema, TextColumn};

/// Up to so many rows all of them, and of more those with the smallest hash of their number (bottom-k): what is kept does not depend on
/// how the rows are cut into batches.
#[derive(Debug)]
pub struct RowSample {
    most: usize,
    /// Those kept so far, in order; they have no ids.
    flows: Flows,
    /// Hash of the number of each of them.
    keys: Vec<u64>,
    /// Rows with a hash from here on are not kept.
    limit: u64,
    n_rows: u64,
}

impl RowSample {
    /// Rows that are kept by custom: the rank of a value among all of them is off by .0009.
    pub const ROWS: usize = 200_000;

    /// No rows yet, of which at most `most` are kept, with their labels or without.
    pub fn keeping(most: usize, schema: &Schema, labels: bool) -> Self {
        let flows = Flows::empty(&Arc::new(schema.clone()), labels, false);
        Self { most, flows, keys: Vec::new(), limit: u64::MAX, n_rows: 0 }
    }

    /// The next rows: `rows` of `flows`.
    ///
    /// # Panics
    /// If the flows were read by another schema, have no labels where they are kept, or a row is out of range.
    pub fn add(&mut self, flows: &Flows, rows: &[u32]) {
        assert_eq!(flows.schema(), self.flows.schema(), "rows of different schemas do not join");
        // in pieces, so that the sample never grows far beyond its size
        for rows in rows.chunks((self.most / 4).max(1)) {
            let numbered = rows.iter().zip(self.n_rows..).map(|(&row, number)| (row, mix(number)));
            let (kept, keys): (Vec<u32>, Vec<u64>) = numbered.filter(|(_, key)| *key < self.limit).unzip();
            self.n_rows += rows.len() as u64;
            self.keys.extend(keys);
            let kept = || kept.iter().map(|&row| row as usize);
            for (to, column) in self.flows.features.iter_mut().zip(&flows.features) {
                append(to, column, kept());
            }
            if let Some(to) = &mut self.flows.labels {
                let labels = flows.labels().expect("labels to keep");
                to.extend(kept().map(|row| labels[row]));
            }
            if self.keys.len() >= self.most + self.most / 4 {
                self.prune();
            }
        }
    }

    /// Number of rows so far.
    pub fn n_rows(&self) -> u64 {
        self.n_rows
    }

    /// Those that are kept, in their order, without ids.
    pub fn finish(mut self) -> Flows {
        self.prune();
        self.flows
    }

    pub(crate) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Number of rows that are kept.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Leaves as many as are wanted.
    pub(crate) fn prune(&mut self) {
        if self.keys.len() <= self.most {
            return;
        }
        let mut sorted = self.keys.clone();
        self.limit = *sorted.select_nth_unstable(self.most).1;
        let places: Vec<usize> = (0..self.keys.len()).filter(|&place| self.keys[place] < self.limit).collect();
        self.keys = places.iter().map(|&place| self.keys[place]).collect();
        for column in &mut self.flows.features {
            let all = std::mem::replace(column, FeatureColumn::Numeric(Vec::new()));
            if let FeatureColumn::Categorical(_) = all {
                *column = FeatureColumn::Categorical(TextColumn::default());
            }
            append(column, &all, places.iter().copied());
        }
        if let Some(labels) = &mut self.flows.labels {
            *labels = places.iter().map(|&place| labels[place]).collect();
        }
    }
}

/// At most `most` of the rows, in their order: those with the smallest hash of their place.
pub fn some_rows(rows: &[u32], most: usize) -> Vec<u32> {
    if rows.len() <= most {
        return rows.to_vec();
    }
    let mut keys: Vec<u64> = (0..rows.len() as u64).map(mix).collect();
    let limit = *keys.select_nth_unstable(most).1;
    rows.iter().zip(0..).filter(|(_, place)| mix(*place) < limit).map(|(&row, _)| row).collect()
}

/// Appends cells to a column.
fn append(to: &mut FeatureColumn, from: &FeatureColumn, rows: impl Iterator<Item = usize>) {
    match (to, from) {
        (FeatureColumn::Numeric(to), FeatureColumn::Numeric(from)) => to.extend(rows.map(|row| from[row])),
        (FeatureColumn::Categorical(to), FeatureColumn::Categorical(from)) => rows.for_each(|row| to.push(from.get(row))),
        _ => unreachable!("one schema gives one kind"),
    }
}

/// A hash of a number; no two numbers share one (the finaliser of `SplitMix64`: Steele et al., OOPSLA 2014).
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{all_rows, row_keys, synthetic};

    #[test]
    fn some_rows_are_those_that_a_sample_keeps() {
        let flows = synthetic(500, 3);
        let rows: Vec<u32> = (0..500).step_by(2).collect();
        assert_eq!(some_rows(&rows, 250), rows);
        let some = some_rows(&rows, 80);
        let mut sample = RowSample::keeping(80, flows.schema(), true);
        sample.add(&flows, &rows);
        assert_eq!((some.len(), row_keys(&sample.finish())), (80, row_keys(&flows.select(&some))));
    }

    #[test]
    fn rows_are_kept_with_their_labels_however_they_come() {
        let flows = synthetic(900, 3);
        let sampled = |batch: usize, most: usize| {
            let mut sample = RowSample::keeping(most, flows.schema(), true);
            for rows in all_rows(900).chunks(batch) {
                // texts have other codes in a file of their own
                sample.add(&flows.select(rows), &all_rows(rows.len()));
            }
            assert_eq!(sample.n_rows(), 900);
            sample.finish()
        };
        let of = |flows: &Flows| (row_keys(flows), flows.labels().unwrap().to_vec());
        assert_eq!(of(&sampled(70, 900)), of(&flows));
        let mut kept = all_rows(900);
        kept.sort_by_key(|&row| mix(u64::from(row)));
        kept.truncate(200);
        kept.sort_unstable();
        for batch in [1, 64, 900] {
            let found = sampled(batch, 200);
            assert_eq!((found.len(), of(&found)), (200, of(&flows.select(&kept))), "batches of {batch}");
        }
    }
}
