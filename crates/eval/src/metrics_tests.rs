use proptest::prelude::*;

use super::*;

/// With ROC-AUC, average precision and recall at 1 % written as their definitions, in O(n²).
fn brute(probabilities: &[f32], labels: &[u8]) -> [Option<f64>; 3] {
    let rows: Vec<(f32, bool)> = probabilities.iter().copied().zip(labels.iter().map(|&y| y == 1)).collect();
    let attacks: Vec<f32> = rows.iter().filter(|row| row.1).map(|row| row.0).collect();
    let normals: Vec<f32> = rows.iter().filter(|row| !row.1).map(|row| row.0).collect();
    if attacks.is_empty() || normals.is_empty() {
        return [None; 3];
    }
    let mut wins = 0.0;
    for attack in &attacks {
        for normal in &normals {
            wins += match attack.partial_cmp(normal).unwrap() {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    let mut thresholds = probabilities.to_vec();
    thresholds.sort_by(|a, b| b.total_cmp(a));
    thresholds.dedup();
    let share = |scores: &[f32], threshold: f32| scores.iter().filter(|&&p| p >= threshold).count() as f64;
    let (mut average, mut before, mut best) = (0.0, 0.0, 0.0_f64);
    for threshold in thresholds {
        let (tp, fp) = (share(&attacks, threshold), share(&normals, threshold));
        let recall = tp / attacks.len() as f64;
        average += (recall - before) * tp / (tp + fp);
        before = recall;
        if fp / normals.len() as f64 <= 0.01 {
            best = best.max(recall);
        }
    }
    [Some(wins / (attacks.len() * normals.len()) as f64), Some(average), Some(best)]
}

fn near(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() < 1e-12,
        _ => a == b,
    }
}

proptest! {
    #[test]
    fn curves_follow_their_definitions(rows in proptest::collection::vec((0_u8..12, 0_u8..2), 0..250)) {
        // Twelve scores for up to 250 rows: nearly every row is tied.
        let probabilities: Vec<f32> = rows.iter().map(|row| f32::from(row.0) / 11.0).collect();
        let labels: Vec<u8> = rows.iter().map(|row| row.1).collect();
        let metrics = Metrics::new(&probabilities, &labels, 0.5).unwrap();
        let [roc_auc, pr_auc, recall] = brute(&probabilities, &labels);
        prop_assert!(near(metrics.roc_auc, roc_auc), "{:?} {roc_auc:?}", metrics.roc_auc);
        prop_assert!(near(metrics.pr_auc, pr_auc), "{:?} {pr_auc:?}", metrics.pr_auc);
        prop_assert!(near(metrics.recall_at_fpr_1pct, recall), "{:?} {recall:?}", metrics.recall_at_fpr_1pct);
    }
}

#[test]
fn five_rows_by_hand() {
    // At 0.5: TP 2 (.9 .5), FP 1 (.6), FN 1 (.4), TN 1 (.1). Of six pairs, .5 and .4 lose to .6: 4/6.
    let metrics = Metrics::new(&[0.9, 0.6, 0.5, 0.4, 0.1], &[1, 0, 1, 1, 0], 0.5).unwrap();
    let expected = [
        (metrics.accuracy, 3.0 / 5.0),
        (metrics.balanced_accuracy, 7.0 / 12.0),
        (metrics.precision, 2.0 / 3.0),
        (metrics.recall, 2.0 / 3.0),
        (metrics.f1, 4.0 / 6.0),
        (metrics.roc_auc, 4.0 / 6.0),
        (metrics.pr_auc, (1.0 + 2.0 / 3.0 + 3.0 / 4.0) / 3.0),
        (metrics.recall_at_fpr_1pct, 1.0 / 3.0),
    ];
    for (index, (found, expected)) in expected.into_iter().enumerate() {
        assert!(near(found, Some(expected)), "{index}: {found:?} {expected}");
    }
    let log_loss = -(0.9_f64.ln() + 0.4_f64.ln() + 0.5_f64.ln() + 0.4_f64.ln() + 0.9_f64.ln()) / 5.0;
    let brier = (0.01 + 0.36 + 0.25 + 0.36 + 0.01) / 5.0;
    assert!((metrics.log_loss.unwrap() - log_loss).abs() < 1e-6);
    assert!((metrics.brier.unwrap() - brier).abs() < 1e-6);
}

#[test]
fn one_false_alarm_in_a_hundred_is_allowed() {
    let mut probabilities = vec![0.1; 102];
    let mut labels = vec![0; 102];
    (probabilities[0], probabilities[1], probabilities[2]) = (0.9, 0.8, 0.7);
    (labels[0], labels[2]) = (1, 1);
    assert_eq!(Metrics::new(&probabilities, &labels, 0.5).unwrap().recall_at_fpr_1pct, Some(1.0));
    probabilities.pop();
    labels.pop(); // 1 of 99 is more than 1 %
    assert_eq!(Metrics::new(&probabilities, &labels, 0.5).unwrap().recall_at_fpr_1pct, Some(0.5));
}

#[test]
fn what_is_undefined_is_null() {
    let json =
        |probabilities: &[f32], labels: &[u8]| serde_json::to_string(&Metrics::new(probabilities, labels, 0.5).unwrap()).unwrap();
    insta::assert_snapshot!(json(&[], &[]), @r#"{"accuracy":null,"balanced_accuracy":null,"precision":null,"recall":null,"f1":null,"roc_auc":null,"pr_auc":null,"recall_at_fpr_1pct":null,"n":0,"log_loss":null,"brier":null}"#);
    insta::assert_snapshot!(json(&[0.75, 0.25], &[1, 1]), @r#"{"accuracy":0.5,"balanced_accuracy":null,"precision":1.0,"recall":0.5,"f1":0.6666666666666666,"roc_auc":null,"pr_auc":null,"recall_at_fpr_1pct":null,"n":2,"log_loss":0.8369882167858358,"brier":0.3125}"#);
    insta::assert_snapshot!(json(&[0.25, 0.25], &[0, 0]), @r#"{"accuracy":1.0,"balanced_accuracy":null,"precision":null,"recall":null,"f1":null,"roc_auc":null,"pr_auc":null,"recall_at_fpr_1pct":null,"n":2,"log_loss":0.2876820724517809,"brier":0.0625}"#);
}

#[test]
fn a_nan_in_place_of_a_probability_is_an_error() {
    let error = Metrics::new(&[0.5, f32::NAN], &[0, 1], 0.5).unwrap_err();
    insta::assert_snapshot!(error, @"row 1: expected a probability, found `NaN`: the model has diverged");
}
