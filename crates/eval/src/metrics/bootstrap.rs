//! Confidence intervals of metrics by the bootstrap over groups of equal rows.

use std::ops::Range;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::ratio;

/// Draws of groups.
const DRAWS: u64 = 1000;
const SEED: u64 = 0x62_6f6f_7473;

/// A number of each metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct EachMetric<T> {
    /// Of [`super::Metrics::accuracy`].
    pub accuracy: T,
    /// Of [`super::Metrics::balanced_accuracy`].
    pub balanced_accuracy: T,
    /// Of [`super::Metrics::precision`].
    pub precision: T,
    /// Of [`super::Metrics::recall`].
    pub recall: T,
    /// Of [`super::Metrics::f1`].
    pub f1: T,
    /// Of the share of benign rows that are alarms.
    pub fpr: T,
    /// Of [`super::Metrics::roc_auc`].
    pub roc_auc: T,
    /// Of [`super::Metrics::pr_auc`].
    pub pr_auc: T,
    /// Of [`super::Metrics::recall_at_fpr_1pct`].
    pub recall_at_fpr_1pct: T,
    /// Of [`super::Metrics::log_loss`].
    pub log_loss: T,
    /// Of [`super::Metrics::brier`].
    pub brier: T,
}

/// Intervals of metrics at 95 %: percentiles of 1,000 bootstrap samples, each of which draws as many groups of equal rows as there
/// are, with replacement. What is undefined in all samples (one class only) is null. The samples are the same in every call.
///
/// Where no sample has an error, an interval has no width: the bootstrap knows of no error that the rows do not have.
pub type Intervals = EachMetric<Option<[f64; 2]>>;

impl<T> EachMetric<T> {
    /// In the order of the fields.
    fn from_array(
        [accuracy, balanced_accuracy, precision, recall, f1, fpr, roc_auc, pr_auc, recall_at_fpr_1pct, log_loss, brier]: [T; 11],
    ) -> Self {
        Self { accuracy, balanced_accuracy, precision, recall, f1, fpr, roc_auc, pr_auc, recall_at_fpr_1pct, log_loss, brier }
    }
}

/// The intervals of metrics of `probabilities`, each 0 to 1, against `labels`.   group: the number of the group that a row is in, from 0 on
///
/// # Panics
/// If the lengths differ.
pub fn intervals(probabilities: &[f32], labels: &[u8], group: &[u32], threshold: f64) -> Intervals {
    let units = Units::new(probabilities, labels, group, threshold);
    let mut weights = vec![0_u32; units.groups.len()];
    let mut found: [Vec<f64>; 11] = std::array::from_fn(|_| Vec::with_capacity(DRAWS as usize));
    for draw in 0..DRAWS {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        rng.set_stream(draw);
        weights.fill(0);
        for _ in 0..units.groups.len() {
            weights[rng.random_range(0..units.groups.len() as u32) as usize] += 1;
        }
        for (values, value) in found.iter_mut().zip(units.metrics(&weights)) {
            values.extend(value);
        }
    }
    EachMetric::from_array(found.map(percentiles))
}

/// The 2.5th and the 97.5th percentile, between order statistics in a straight line.
fn percentiles(mut values: Vec<f64>) -> Option<[f64; 2]> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let at = |share: f64| {
        let place = share * last as f64;
        let below = place as usize;
        let above = (below + 1).min(last);
        values[below] + (place - below as f64) * (values[above] - values[below])
    };
    Some([at(0.025), at(0.975)])
}

/// Rows of one group and one score, which a sample has all or none of.
#[derive(Clone, Copy, Debug)]
struct Unit {
    group: u32,
    score: f32,
    /// Benign rows and attacks.
    counts: [u32; 2],
}

/// What the rows of a group add to sums over all rows.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    /// Benign rows and attacks.
    counts: [f64; 2],
    log_loss: f64,
    brier: f64,
}

/// All rows.
struct Units {
    /// Those of the highest score first.
    sorted: Vec<Unit>,
    /// Numbered in the order in which units come, so that a pass over units reads weights in order.
    groups: Vec<Group>,
    /// Units that are alarms: the first ones.
    n_alarms: usize,
}

impl Units {
    fn new(probabilities: &[f32], labels: &[u8], group: &[u32], threshold: f64) -> Self {
        assert!([labels.len(), group.len()] == [probabilities.len(); 2], "a label and a group per probability");
        let mut rows: Vec<usize> = (0..labels.len()).collect();
        let order = |&a: &usize, &b: &usize| probabilities[b].total_cmp(&probabilities[a]).then(group[a].cmp(&group[b]));
        rows.sort_by(order);
        let mut number = vec![u32::MAX; group.iter().max().map_or(0, |&last| last as usize + 1)];
        let mut groups: Vec<Group> = Vec::new();
        let is_unit = |&a: &usize, &b: &usize| probabilities[a].to_bits() == probabilities[b].to_bits() && group[a] == group[b];
        let unit = |rows: &[usize]| {
            let score = probabilities[rows[0]];
            let number = &mut number[group[rows[0]] as usize];
            if *number == u32::MAX {
                *number = groups.len() as u32;
                groups.push(Group::default());
            }
            let of_group = &mut groups[*number as usize];
            let n_attacks = rows.iter().filter(|&&row| labels[row] == 1).count();
            let counts = [rows.len() - n_attacks, n_attacks];
            let p = f64::from(score);
            for (label, n) in counts.map(|n| n as f64).into_iter().enumerate() {
                let likelihood = if label == 1 { p } else { 1.0 - p };
                of_group.counts[label] += n;
                of_group.log_loss -= n * likelihood.max(1e-12).ln();
                of_group.brier += n * (1.0 - likelihood).powi(2);
            }
            Unit { group: *number, score, counts: counts.map(|n| n as u32) }
        };
        let sorted: Vec<Unit> = rows.chunk_by(is_unit).map(unit).collect();
        let n_alarms = sorted.partition_point(|unit| f64::from(unit.score) >= threshold);
        Self { sorted, groups, n_alarms }
    }

    /// The metrics in the order of [`EachMetric`], where each group counts so many times.
    fn metrics(&self, weights: &[u32]) -> [Option<f64>; 11] {
        let [mut negatives, mut positives, mut log_loss, mut brier] = [0.0; 4];
        for (group, &weight) in self.groups.iter().zip(weights) {
            let weight = f64::from(weight);
            negatives += weight * group.counts[0];
            positives += weight * group.counts[1];
            log_loss += weight * group.log_loss;
            brier += weight * group.brier;
        }
        let mut sums = Sums { limit: 0.01 * negatives, ..Sums::default() };
        self.add(0..self.n_alarms, weights, &mut sums);
        let [false_alarms, found] = sums.counts;
        self.add(self.n_alarms..self.sorted.len(), weights, &mut sums);
        let n = negatives + positives;
        let [recall, fpr] = [ratio(found, positives), ratio(false_alarms, negatives)];
        let has_both = negatives > 0.0;
        [
            ratio(found + negatives - false_alarms, n),
            recall.zip(fpr).map(|(recall, fpr)| f64::midpoint(recall, 1.0 - fpr)),
            ratio(found, found + false_alarms),
            recall,
            ratio(2.0 * found, found + false_alarms + positives),
            fpr,
            ratio(sums.area, positives * negatives),
            ratio(sums.average, positives).filter(|_| has_both),
            ratio(sums.best, positives).filter(|_| has_both),
            ratio(log_loss, n),
            ratio(brier, n),
        ]
    }

    /// Adds units, each with the weight of its group, the next ones from the highest score on.
    fn add(&self, which: Range<usize>, weights: &[u32], sums: &mut Sums) {
        let units = &self.sorted[which];
        for (place, unit) in units.iter().enumerate() {
            let weight = f64::from(weights[unit.group as usize]);
            let [benign, attacks] = unit.counts.map(|n| weight * f64::from(n));
            sums.counts[0] += benign;
            sums.counts[1] += attacks;
            // `==`, not bits: 0.0 and -0.0 tie; no threshold lies between units that tie
            let is_tied = units.get(place + 1).is_some_and(|next| next.score >= unit.score);
            if !is_tied {
                sums.end_tie();
            }
        }
    }
}

/// What a pass over units has come to.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// Benign rows and attacks so far.
    counts: [f64; 2],
    /// The same at the last score that has ended.
    before: [f64; 2],
    /// Benign rows that may be alarms for the best recall.
    limit: f64,
    area: f64,
    average: f64,
    best: f64,
}

impl Sums {
    fn end_tie(&mut self) {
        let ([fp, tp], [fp_before, tp_before]) = (self.counts, self.before);
        self.area += (fp - fp_before) * f64::midpoint(tp, tp_before);
        if tp > tp_before {
            self.average += (tp - tp_before) * tp / (tp + fp);
        }
        if fp <= self.limit {
            self.best = tp;
        }
        self.before = self.counts;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Metrics;
    use super::*;

    fn of_metrics(p: &[f32], labels: &[u8]) -> [Option<f64>; 10] {
        let of = Metrics::new(p, labels, 0.5).unwrap();
        [
            of.accuracy,
            of.balanced_accuracy,
            of.precision,
            of.recall,
            of.f1,
            of.roc_auc,
            of.pr_auc,
            of.recall_at_fpr_1pct,
            of.log_loss,
            of.brier,
        ]
    }

    proptest! {
        /// A group that counts twice is a group whose rows are there twice.
        #[test]
        fn a_weight_repeats_the_rows_of_a_group(
            rows in proptest::collection::vec((0_u8..12, 0_u8..2, 0_u32..20), 1..200),
            weights in proptest::collection::vec(0_u32..4, 20),
        ) {
            let p: Vec<f32> = rows.iter().map(|row| f32::from(row.0) / 11.0).collect();
            let labels: Vec<u8> = rows.iter().map(|row| row.1).collect();
            let group: Vec<u32> = rows.iter().map(|row| row.2).collect();
            let units = Units::new(&p, &labels, &group, 0.5);
            // groups are numbered anew: by their highest scores, then by their old numbers
            let mut order: Vec<usize> = (0..rows.len()).collect();
            order.sort_by(|&a, &b| p[b].total_cmp(&p[a]).then(group[a].cmp(&group[b])));
            let mut numbers: Vec<u32> = Vec::new();
            for row in order {
                if !numbers.contains(&group[row]) {
                    numbers.push(group[row]);
                }
            }
            prop_assert_eq!(numbers.len(), units.groups.len());
            let in_order: Vec<u32> = numbers.iter().map(|&old| weights[old as usize]).collect();
            let repeated: Vec<usize> =
                (0..rows.len()).flat_map(|row| std::iter::repeat_n(row, weights[group[row] as usize] as usize)).collect();
            let [p, labels] = [
                repeated.iter().map(|&row| p[row]).collect::<Vec<f32>>(),
                repeated.iter().map(|&row| f32::from(labels[row])).collect(),
            ];
            let labels: Vec<u8> = labels.iter().map(|&label| label as u8).collect();
            let wanted = of_metrics(&p, &labels);
            let [a, b, c, d, e, fpr, f, g, h, i, j] = units.metrics(&in_order);
            for (found, wanted) in [a, b, c, d, e, f, g, h, i, j].into_iter().zip(wanted) {
                prop_assert!(found.is_some() == wanted.is_some(), "{found:?} {wanted:?}");
                prop_assert!(found.zip(wanted).is_none_or(|(a, b)| (a - b).abs() < 1e-9), "{found:?} {wanted:?}");
            }
            let benign = || p.iter().zip(&labels).filter(|&(_, &label)| label == 0);
            let alarms = benign().filter(|&(&p, _)| p >= 0.5).count() as f64;
            let wanted = ratio(alarms, benign().count() as f64);
            prop_assert!(fpr == wanted || (fpr.unwrap() - wanted.unwrap()).abs() < 1e-12);
        }
    }

    /// 400 rows of which four fifths are right.
    fn rows() -> (Vec<f32>, Vec<u8>) {
        let labels: Vec<u8> = (0..400).map(|row| u8::from(row % 2 == 0)).collect();
        let p = labels.iter().enumerate().map(|(row, &label)| if row % 5 == 0 { 0.5 } else { 0.2 + 0.6 * f32::from(label) });
        (p.collect(), labels)
    }

    #[test]
    fn an_interval_of_rows_drawn_one_by_one_is_as_wide_as_a_binomial_one() {
        let (p, labels) = rows();
        let group: Vec<u32> = (0..400).collect();
        // p >= 0.6: benign rows are right, and of 200 attacks 160
        let [low, high] = intervals(&p, &labels, &group, 0.6).recall.unwrap();
        let wanted = 1.96 * (0.8_f64 * 0.2 / 200.0).sqrt();
        assert!((high - 0.8 - wanted).abs() < 0.01 && (0.8 - low - wanted).abs() < 0.01, "{low} {high} {wanted}");
        assert_eq!(intervals(&p, &labels, &group, 0.6).fpr, Some([0.0, 0.0]));
    }

    #[test]
    fn rows_that_are_equal_widen_an_interval() {
        let (p, labels) = rows();
        let width = |group: &[u32]| {
            let [low, high] = intervals(&p, &labels, group, 0.6).accuracy.unwrap();
            high - low
        };
        let one_by_one: Vec<u32> = (0..400).collect();
        // the rows that are wrong are five different ones
        let wrong_together: Vec<u32> = (0..400).map(|row| if row % 10 == 0 { 400 + row % 50 / 10 } else { row }).collect();
        assert!(width(&wrong_together) > 2.0 * width(&one_by_one));
    }

    #[test]
    fn samples_are_the_same_in_every_call_and_no_two_are_equal() {
        let (p, labels) = rows();
        let group: Vec<u32> = (0..400).collect();
        let found = intervals(&p, &labels, &group, 0.6);
        assert_eq!(found, intervals(&p, &labels, &group, 0.6));
        let [low, high] = found.log_loss.unwrap();
        assert!(low < high);
    }

    #[test]
    fn what_is_never_defined_has_no_interval() {
        let found = intervals(&[0.5, 0.25], &[0, 0], &[0, 1], 0.5);
        assert_eq!((found.recall, found.roc_auc), (None, None));
        assert!(found.accuracy.is_some() && found.fpr.is_some());
        assert_eq!(intervals(&[], &[], &[], 0.5), Intervals::default());
    }
}
