//! How good probabilities are, given the labels.

mod bootstrap;
mod categories;
mod evaluation;
mod rows;

use serde::{Deserialize, Serialize};

pub use bootstrap::{EachMetric, Intervals, intervals};
pub use categories::{CategoryMetrics, ClassMetrics, Confusion};
pub use evaluation::{CategoryRecall, CurvePoint, Evaluation};
pub use rows::{ByRows, Subset};

use crate::{Error, Result};

/// Metrics of a binary classifier, attack being the positive class.
///
/// With TP, FP, TN, FN counted at `probability >= threshold`. Whatever is 0/0 (one class only, nothing called an attack,
/// no rows at all) is null, never NaN and never a number made up in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// (TP + TN) / n.
    pub accuracy: Option<f64>,
    /// Mean of TP / (TP + FN) and TN / (TN + FP).
    pub balanced_accuracy: Option<f64>,
    /// TP / (TP + FP).
    pub precision: Option<f64>,
    /// TP / (TP + FN).
    pub recall: Option<f64>,
    /// 2 TP / (2 TP + FP + FN).
    pub f1: Option<f64>,
    /// P(score of an attack > score of a normal row) + P(equal) / 2: Mann-Whitney's U by mid-ranks over TP · TN rows.
    pub roc_auc: Option<f64>,
    /// Average precision, Σ (recall_k - recall_{k-1}) precision_k over distinct scores, highest first.
    pub pr_auc: Option<f64>,
    /// The largest recall over all thresholds at which FP / (FP + TN) <= 0.01.
    pub recall_at_fpr_1pct: Option<f64>,
    /// Rows.
    pub n: usize,
    /// -mean(y ln p + (1 - y) ln(1 - p)), p kept within 1e-12 of 0 and 1.
    pub log_loss: Option<f64>,
    /// mean((p - y)²).
    pub brier: Option<f64>,
    /// Metrics of the categories, where the classifier tells them apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub categories: Option<CategoryMetrics>,
}

impl Metrics {
    /// Metrics of `probabilities` (each 0 to 1) against `labels` (each 0 or 1).
    ///
    /// # Errors
    /// A probability that is not within 0 and 1.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn new(probabilities: &[f32], labels: &[u8], threshold: f64) -> Result<Self> {
        assert_eq!(probabilities.len(), labels.len(), "a label per probability");
        if let Some(row) = probabilities.iter().position(|p| !(0.0..=1.0).contains(p)) {
            let message = format!("row {row}: expected a probability, found `{}`: the model has diverged", probabilities[row]);
            return Err(Error(message));
        }
        let n = labels.len();
        let rows = || probabilities.iter().map(|&p| f64::from(p)).zip(labels.iter().map(|&y| y == 1));
        let count = |called: bool, is: bool| rows().filter(|&(p, y)| (p >= threshold) == called && y == is).count() as f64;
        let [tp, fp, tn, fnn] = [count(true, true), count(true, false), count(false, false), count(false, true)];
        let recall = ratio(tp, tp + fnn);
        let specificity = ratio(tn, tn + fp);
        let curve = Curve::new(probabilities, labels);
        let log_loss: f64 = rows().map(|(p, y)| -(if y { p } else { 1.0 - p }).max(1e-12).ln()).sum();
        let brier: f64 = rows().map(|(p, y)| (p - f64::from(u8::from(y))).powi(2)).sum();
        Ok(Self {
            accuracy: ratio(tp + tn, n as f64),
            balanced_accuracy: recall.zip(specificity).map(|(a, b)| f64::midpoint(a, b)),
            precision: ratio(tp, tp + fp),
            recall,
            f1: ratio(2.0 * tp, 2.0 * tp + fp + fnn),
            roc_auc: curve.roc_auc(),
            pr_auc: curve.average_precision(),
            recall_at_fpr_1pct: curve.recall_at_fpr(0.01),
            n,
            log_loss: ratio(log_loss, n as f64),
            brier: ratio(brier, n as f64),
            categories: None,
        })
    }
}

/// The area under the ROC curve of any scores, without NaN; null where a class is missing.
pub fn roc_auc(scores: &[f32], labels: &[u8]) -> Option<f64> {
    Curve::new(scores, labels).roc_auc()
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// (TP, FP) after each distinct score, highest first.
struct Curve {
    points: Vec<(f64, f64)>,
    /// The score of each point.
    scores: Vec<f32>,
    positives: f64,
    negatives: f64,
}

impl Curve {
    fn new(scores: &[f32], labels: &[u8]) -> Self {
        let mut order: Vec<(f32, u8)> = scores.iter().copied().zip(labels.iter().copied()).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut points, mut distinct) = (Vec::new(), Vec::new());
        let (mut tp, mut fp) = (0.0, 0.0);
        // `==`, not `total_cmp`: 0.0 and -0.0 tie.
        #[expect(clippy::float_cmp, reason = "ties are equal scores, bit for bit but for the sign of zero")]
        for tied in order.chunk_by(|a, b| a.0 == b.0) {
            let attacks = tied.iter().filter(|row| row.1 == 1).count();
            tp += attacks as f64;
            fp += (tied.len() - attacks) as f64;
            points.push((tp, fp));
            distinct.push(tied[0].0);
        }
        Self { points, scores: distinct, positives: tp, negatives: fp }
    }

    /// Trapezoids: a run of ties is a straight line, which is what mid-ranks mean.
    fn roc_auc(&self) -> Option<f64> {
        let mut before = (0.0, 0.0);
        let mut area = 0.0;
        for &(tp, fp) in &self.points {
            area += (fp - before.1) * f64::midpoint(tp, before.0);
            before = (tp, fp);
        }
        ratio(area, self.positives * self.negatives)
    }

    fn average_precision(&self) -> Option<f64> {
        let mut before = 0.0;
        let mut sum = 0.0;
        for &(tp, fp) in &self.points {
            sum += (tp - before) * tp / (tp + fp);
            before = tp;
        }
        // Without normal rows there is nothing to tell apart, however perfect the precision.
        ratio(sum, self.positives).filter(|_| self.negatives > 0.0)
    }

    fn recall_at_fpr(&self, limit: f64) -> Option<f64> {
        let best = self.points.iter().filter(|(_, fp)| *fp <= limit * self.negatives).map(|(tp, _)| *tp).fold(0.0, f64::max);
        ratio(best, self.positives).filter(|_| self.negatives > 0.0)
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
