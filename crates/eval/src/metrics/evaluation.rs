//! Metrics at an operating point, with confidence intervals.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{ByRows, Curve, Metrics, ratio};
use crate::calibration::{Reliability, ReliabilityBin};
use crate::operating::{CONFIDENCE, interval};

/// Points of a curve, at most.
const POINTS: usize = 200;

/// Metrics of a classifier on a file, at a threshold. Intervals are those of Clopper and Pearson at 95 %, which take rows as drawn
/// one by one: where rows repeat one another, they are too narrow.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Metrics that training has, too.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// A probability at or above it is an alarm.
    pub threshold: f64,
    /// False alarms: FP / (FP + TN).
    pub fpr: Option<f64>,
    /// Its interval.
    pub fpr_interval: Option<[f64; 2]>,
    /// The interval of the recall.
    pub recall_interval: Option<[f64; 2]>,
    /// Benign rows that are no alarm and that are; attacks that are no alarm and that are.
    pub confusion: [[u64; 2]; 2],
    /// [`Reliability::ece`].
    pub ece: Option<f64>,
    /// [`Reliability::ece_debiased`].
    pub ece_debiased: Option<f64>,
    /// [`Reliability::bins`].
    pub reliability: Vec<ReliabilityBin>,
    /// From the highest threshold down, at most 200 of them: the points of the ROC and of the precision-recall curve.
    pub curve: Vec<CurvePoint>,
    /// The recall of each category of attacks that the file says; None where it says none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall_by_category: Option<BTreeMap<String, f64>>,
    /// The same with its interval and its rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found_by_category: Option<BTreeMap<String, CategoryRecall>>,
    /// What equal rows make of it; None where nobody has asked which are equal.
    #[serde(flatten)]
    pub by_rows: Option<ByRows>,
}

/// What a threshold would do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CurvePoint {
    /// A probability at or above it is an alarm.
    pub threshold: f32,
    /// FP / (FP + TN).
    pub fpr: Option<f64>,
    /// TP / (TP + FN).
    pub recall: Option<f64>,
    /// TP / (TP + FP).
    pub precision: Option<f64>,
}

/// Points at equal steps of the number of alarms, the last among them.
fn points(curve: &Curve) -> Vec<CurvePoint> {
    let Curve { points, scores, positives, negatives } = curve;
    let step = (positives + negatives) / POINTS as f64;
    let mut taken = 0.0;
    let mut found = Vec::new();
    for (place, (&(tp, fp), &threshold)) in points.iter().zip(scores).enumerate() {
        if tp + fp >= taken + step || place + 1 == points.len() {
            taken = tp + fp;
            let [fpr, recall, precision] = [ratio(fp, *negatives), ratio(tp, *positives), ratio(tp, tp + fp)];
            found.push(CurvePoint { threshold, fpr, recall, precision });
        }
    }
    found
}

/// How many attacks of a category are alarms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CategoryRecall {
    /// found / rows.
    pub recall: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Rows that are alarms.
    pub found: u64,
    /// Rows.
    pub rows: u64,
}

impl Evaluation {
    /// Without what only probabilities have: for scores that rank rows and are none.
    #[must_use]
    pub fn without_probabilities(mut self) -> Self {
        let subsets = self.by_rows.iter_mut().flat_map(|rows| [Some(&mut rows.without_duplicates), rows.new_rows.as_mut()]);
        let of_subsets = subsets.flatten().map(|subset| &mut subset.metrics);
        for metrics in of_subsets.chain([&mut self.metrics]) {
            (metrics.log_loss, metrics.brier) = (None, None);
        }
        Self { ece: None, ece_debiased: None, reliability: Vec::new(), ..self }
    }

    /// Of the rows that `metrics` are of; `found` are the attacks of each category that are alarms, and all of them.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn new(
        metrics: Metrics,
        probabilities: &[f32],
        labels: &[u8],
        threshold: f64,
        found: Option<&BTreeMap<String, [u64; 2]>>,
    ) -> Self {
        let alarms = |of: u8| {
            let rows = || probabilities.iter().zip(labels).filter(move |&(_, &label)| label == of);
            [rows().filter(|&(&p, _)| f64::from(p) >= threshold).count() as u64, rows().count() as u64]
        };
        let [benign, attacks] = [0, 1].map(alarms);
        let between = |[k, n]: [u64; 2]| (n > 0).then(|| interval(k, n, CONFIDENCE));
        let Reliability { ece, ece_debiased, bins } = Reliability::new(probabilities, labels);
        let of_category = |(name, &[found, rows]): (&String, &[u64; 2])| {
            let [low, high] = interval(found, rows, CONFIDENCE);
            (name.clone(), CategoryRecall { recall: found as f64 / rows as f64, low, high, found, rows })
        };
        let by_category: Option<BTreeMap<String, CategoryRecall>> = found.map(|found| found.iter().map(of_category).collect());
        Self {
            metrics,
            threshold,
            confusion: [benign, attacks].map(|[alarms, all]| [all - alarms, alarms]),
            fpr: ratio(benign[0] as f64, benign[1] as f64),
            fpr_interval: between(benign),
            recall_interval: between(attacks),
            ece,
            ece_debiased,
            reliability: bins,
            curve: points(&Curve::new(probabilities, labels)),
            recall_by_category: by_category
                .as_ref()
                .map(|found| found.iter().map(|(name, of)| (name.clone(), of.recall)).collect()),
            found_by_category: by_category,
            by_rows: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_rows_at_a_threshold_by_hand() {
        let p = [0.9, 0.8, 0.5, 0.1, 0.5, 0.4, 0.3, 0.2];
        let labels = [1, 1, 1, 1, 0, 0, 0, 0];
        let found = BTreeMap::from([("DoS".to_owned(), [2, 3]), ("Worms".to_owned(), [1, 1])]);
        let metrics = Metrics::new(&p, &labels, 0.5).unwrap();
        let evaluation = Evaluation::new(metrics.clone(), &p, &labels, 0.5, Some(&found));
        assert_eq!((evaluation.fpr, evaluation.metrics.recall), (Some(0.25), Some(0.75)));
        assert_eq!(evaluation.confusion, [[3, 1], [1, 3]]);
        let near = |found: Option<[f64; 2]>, wanted: [f64; 2]| {
            found.unwrap().iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-6)
        };
        // R: binom.test(1, 4)$conf.int and binom.test(3, 4)$conf.int
        assert!(near(evaluation.fpr_interval, [0.006_309_463, 0.805_879_6]), "{evaluation:?}");
        assert!(near(evaluation.recall_interval, [0.194_120_4, 0.993_690_5]), "{evaluation:?}");
        let dos = evaluation.found_by_category.as_ref().unwrap()["DoS"];
        // R: binom.test(2, 3)$conf.int
        assert!((dos.low - 0.094_299_3).abs() < 1e-6 && (dos.high - 0.991_596_2).abs() < 1e-6, "{dos:?}");
        let json = serde_json::to_value(&evaluation).unwrap();
        assert_eq!((&json["accuracy"], &json["threshold"], &json["fpr"]), (&0.75.into(), &0.5.into(), &0.25.into()));
        assert_eq!((&json["recall_by_category"]["Worms"], &json["found_by_category"]["DoS"]["rows"]), (&1.0.into(), &3.into()));
        let [first, .., last] = &evaluation.curve[..] else { panic!("{evaluation:?}") };
        let point = |threshold, fpr, recall, precision| CurvePoint {
            threshold,
            fpr: Some(fpr),
            recall: Some(recall),
            precision: Some(precision),
        };
        assert_eq!((*first, *last), (point(0.9, 0.0, 0.25, 1.0), point(0.1, 1.0, 1.0, 0.5)));
        assert_eq!((evaluation.curve.len(), evaluation.curve[2]), (7, point(0.5, 0.25, 0.75, 0.75)));
        let benign = Evaluation::new(metrics, &p[4..], &labels[4..], 0.6, None);
        assert_eq!((benign.fpr, benign.recall_interval, benign.recall_by_category), (Some(0.0), None, None));
    }

    #[test]
    fn a_curve_of_many_rows_has_few_points_and_both_ends() {
        let p: Vec<f32> = (0..5000).map(|i| i as f32 / 5000.0).collect();
        let labels: Vec<u8> = (0..5000).map(|i| u8::from(i % 3 == 0)).collect();
        let curve = points(&Curve::new(&p, &labels));
        assert!((150..=POINTS + 1).contains(&curve.len()), "{}", curve.len());
        let last = curve.last().unwrap();
        assert_eq!((last.fpr, last.recall, last.threshold), (Some(1.0), Some(1.0), 0.0));
        assert!(curve.is_sorted_by(|a, b| a.threshold > b.threshold && a.recall <= b.recall && a.fpr <= b.fpr));
    }
}
