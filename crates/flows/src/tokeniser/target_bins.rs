//! A number as a class, which masked training predicts: common values have a class each, the others share quantile bins.

use serde::{Deserialize, Serialize};

use super::fit::distinct;

/// The classes of a numeric feature, learnt from training rows. In this order: below the smallest value of training, a class for
/// each common value, the bins of the other values, above the largest.
///
/// With at most `bins` distinct values each of them is common. With more, those are that have at least one in `bins` of the rows,
/// and the others share what is left of `bins`, as many rows in each as ties allow. There is always one such bin: where training
/// leaves it empty, a value that lies between those of training still has a class of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TargetBins {
    /// Smallest and largest value of training.
    range: [f64; 2],
    /// Ascending.
    common: Vec<f64>,
    /// Where the bins of the other values meet, ascending: a value at an edge is in the bin above it.
    edges: Vec<f64>,
}

impl TargetBins {
    /// Learns from the finite values of training, at least one.
    pub(super) fn fit(mut values: Vec<f64>, bins: usize) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let range = [values[0], values[values.len() - 1]];
        let is_few = distinct(&values, bins).is_some();
        let is_common = |run: &&[f64]| is_few || run.len() * bins >= values.len();
        // ascending values that do not rise are equal, 0 of either sign among them
        let (common, others): (Vec<&[f64]>, Vec<&[f64]>) = values.chunk_by(|a, b| a >= b).partition(is_common);
        let common: Vec<f64> = common.into_iter().map(|run| run[0]).collect();
        let others = others.concat();
        let left = bins.saturating_sub(common.len());
        let mut edges: Vec<f64> = (1..left).filter_map(|k| others.get(k * others.len() / left).copied()).collect();
        edges.dedup();
        edges.retain(|&edge| edge > others[0]); // the first bin has a value below its edge
        Self { range, common, edges }
    }

    pub(super) fn n_classes(&self) -> usize {
        2 + self.common.len() + self.edges.len() + 1
    }

    /// The class of a number; NaN has none.
    pub(super) fn class(&self, x: f64) -> usize {
        let [smallest, largest] = self.range;
        if x < smallest {
            return 0;
        }
        if x > largest {
            return self.n_classes() - 1;
        }
        let place = self.common.partition_point(|&value| value < x);
        if self.common.get(place) == Some(&x) {
            return 1 + place;
        }
        1 + self.common.len() + self.edges.partition_point(|&edge| edge <= x)
    }

    /// Refuses what cannot have been learnt.
    pub(super) fn check(&self, bins: usize, limit: f64) -> Result<(), String> {
        let [smallest, largest] = self.range;
        let is_inside = |x: &f64| smallest <= *x && *x <= largest;
        let ascends = |values: &[f64]| values.iter().all(is_inside) && values.is_sorted_by(|a, b| a < b);
        let is_range = smallest.abs() <= limit && largest.abs() <= limit && smallest <= largest;
        if !is_range || !ascends(&self.common) || !ascends(&self.edges) {
            return Err("`target_bins` do not ascend, or are out of range".to_owned());
        }
        // one bin at least, beside as many common values as there may be
        if self.common.len() + self.edges.len() > bins {
            return Err(format!("{} classes of `target_bins`; its config says at most {}", self.n_classes(), bins + 3));
        }
        Ok(())
    }
}
