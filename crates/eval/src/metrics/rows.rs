//! Metrics that depend on which rows are equal.

use std::collections::BTreeSet;

use serde::Serialize;

use super::bootstrap::{Intervals, intervals};
use super::{Metrics, ratio};
use crate::Result;

/// What equal rows make of metrics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ByRows {
    /// Rows that differ from one another in a feature.
    pub different_rows: u64,
    /// Rows that equal another one.
    pub repeated_rows: u64,
    /// Rows that are equal, at most.
    pub largest_group: u64,
    /// Errors that no classifier avoids, because equal rows have different labels.
    pub contradicting_rows: u64,
    /// Rows that equal a training row; None where the training rows are not known.
    pub rows_in_training: Option<u64>,
    /// Of all rows.
    pub intervals: Intervals,
    /// One row for each set of features and label.
    pub without_duplicates: Subset,
    /// The rows that equal no training row; None where those are not known.
    pub new_rows: Option<Subset>,
}

/// Metrics of some of the rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Subset {
    /// Without categories.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// FP / (FP + TN).
    pub fpr: Option<f64>,
    /// Of these rows.
    pub intervals: Intervals,
}

impl ByRows {
    /// `keys` are the same for equal rows; `is_training` says whether one is that of a training row.
    ///
    /// # Errors
    /// A probability that is not within 0 and 1.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn new(
        probabilities: &[f32],
        labels: &[u8],
        keys: &[u64],
        threshold: f64,
        is_training: Option<&dyn Fn(u64) -> bool>,
    ) -> Result<Self> {
        assert_eq!(keys.len(), labels.len(), "a key per row");
        let mut order: Vec<u32> = (0..keys.len() as u32).collect();
        order.sort_by_key(|&row| keys[row as usize]);
        let groups: Vec<&[u32]> = order.chunk_by(|&a, &b| keys[a as usize] == keys[b as usize]).collect();
        let mut group = vec![0; keys.len()];
        let mut first: BTreeSet<u32> = BTreeSet::new();
        let mut contradicting = 0;
        for (number, rows) in groups.iter().enumerate() {
            rows.iter().for_each(|&row| group[row as usize] = number as u32);
            let of = |label: u8| rows.iter().filter(move |&&row| labels[row as usize] == label);
            contradicting += of(0).count().min(of(1).count()) as u64;
            first.extend([0, 1].into_iter().filter_map(|label| of(label).next()));
        }
        let of = |rows: &[u32]| -> Result<Subset> {
            let p: Vec<f32> = rows.iter().map(|&row| probabilities[row as usize]).collect();
            let some_labels: Vec<u8> = rows.iter().map(|&row| labels[row as usize]).collect();
            let groups: Vec<u32> = rows.iter().map(|&row| group[row as usize]).collect();
            Subset::new(&p, &some_labels, &groups, threshold)
        };
        let all: Vec<u32> = (0..keys.len() as u32).collect();
        let every = of(&all)?;
        // what leaves out nothing is not worked out again
        let some = |rows: &[u32]| if rows.len() == all.len() { Ok(every.clone()) } else { of(rows) };
        let new_rows = is_training.map(|is_training| -> Vec<u32> {
            let is_known: Vec<bool> = groups.iter().map(|rows| is_training(keys[rows[0] as usize])).collect();
            all.iter().copied().filter(|&row| !is_known[group[row as usize] as usize]).collect()
        });
        Ok(Self {
            different_rows: groups.len() as u64,
            repeated_rows: groups.iter().filter(|rows| rows.len() > 1).map(|rows| rows.len() as u64).sum(),
            largest_group: groups.iter().map(|rows| rows.len() as u64).max().unwrap_or(0),
            contradicting_rows: contradicting,
            rows_in_training: new_rows.as_ref().map(|rows| (all.len() - rows.len()) as u64),
            intervals: every.intervals,
            without_duplicates: some(&first.into_iter().collect::<Vec<_>>())?,
            new_rows: new_rows.map(|rows| some(&rows)).transpose()?,
        })
    }
}

impl Subset {
    /// group: the number of the group of equal rows that a row is in
    fn new(probabilities: &[f32], labels: &[u8], group: &[u32], threshold: f64) -> Result<Self> {
        let benign = || probabilities.iter().zip(labels).filter(|&(_, &label)| label == 0);
        let alarms = benign().filter(|&(&p, _)| f64::from(p) >= threshold).count();
        Ok(Self {
            metrics: Metrics::new(probabilities, labels, threshold)?,
            fpr: ratio(alarms as f64, benign().count() as f64),
            intervals: intervals(probabilities, labels, group, threshold),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six different rows, of which the second is there three times, once with the other label, and the last twice.
    const P: [f32; 9] = [0.9, 0.8, 0.2, 0.8, 0.8, 0.1, 0.3, 0.6, 0.6];
    const LABELS: [u8; 9] = [1, 1, 0, 1, 0, 0, 1, 0, 0];
    const KEYS: [u64; 9] = [90, 80, 20, 80, 80, 10, 30, 60, 60];

    #[test]
    fn equal_rows_are_counted_and_left_out() {
        let of = ByRows::new(&P, &LABELS, &KEYS, 0.5, Some(&|key| key == 80 || key == 10 || key == 1)).unwrap();
        assert_eq!((of.different_rows, of.repeated_rows, of.largest_group, of.contradicting_rows), (6, 5, 3, 1));
        // 90, 80 as an attack and as benign, 20, 10, 30, 60
        let Subset { metrics, fpr, .. } = &of.without_duplicates;
        assert_eq!((metrics.n, metrics.accuracy, *fpr), (7, Some(4.0 / 7.0), Some(0.5)));
        // 90, 20, 30 and twice 60
        assert_eq!(of.rows_in_training, Some(4));
        let new = of.new_rows.unwrap();
        assert_eq!((new.metrics.n, new.metrics.accuracy, new.metrics.recall), (5, Some(0.4), Some(0.5)));
        assert_eq!(new.fpr, Some(2.0 / 3.0));
    }

    #[test]
    fn without_training_rows_nothing_is_said_of_them() {
        let of = ByRows::new(&P, &LABELS, &KEYS, 0.5, None).unwrap();
        assert_eq!((of.rows_in_training, of.new_rows), (None, None));
        let json = serde_json::to_value(ByRows::new(&P, &LABELS, &KEYS, 0.5, None).unwrap()).unwrap();
        assert!(json["new_rows"].is_null() && json["without_duplicates"]["n"] == 7);
        assert_eq!(json["intervals"]["fpr"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn groups_of_equal_rows_are_drawn_together() {
        // two kinds of rows, one of which is all wrong: one by one the accuracy would hardly move
        let n = 1000;
        let labels: Vec<u8> = (0..n).map(|row| (row % 2) as u8).collect();
        let keys: Vec<u64> = labels.iter().map(|&label| u64::from(label)).collect();
        let of = ByRows::new(&vec![0.9; n], &labels, &keys, 0.5, None).unwrap();
        assert_eq!(of.intervals.accuracy, Some([0.0, 1.0]));
        assert_eq!(of.without_duplicates.metrics.n, 2);
    }
}
