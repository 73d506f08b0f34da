//! Metrics of a list of scores, and whether the scores are calibrated: of the rows scored 0.8, about 80 % should be attacks.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use nids_eval::metrics::Metrics;

/// Rows of one score, and how many of them are attacks.
const ROWS: [(f32, usize, usize); 5] = [(0.05, 40, 2), (0.25, 20, 5), (0.5, 20, 10), (0.75, 20, 15), (0.95, 40, 38)];

/// Distance between score and share of attacks, averaged over rows (expected calibration error, Naeini et al. 2015).
fn calibration_error(groups: &[(f32, usize, usize)]) -> f64 {
    let n: usize = groups.iter().map(|(_, rows, _)| rows).sum();
    let off = |&(score, rows, attacks): &(f32, usize, usize)| (f64::from(score) * rows as f64 - attacks as f64).abs();
    groups.iter().map(off).sum::<f64>() / n as f64
}

fn metrics(groups: &[(f32, usize, usize)]) -> Result<Metrics, nids_eval::Error> {
    let rows = groups.iter().flat_map(|&(score, rows, attacks)| (0..rows).map(move |i| (score, u8::from(i < attacks))));
    let (scores, labels): (Vec<f32>, Vec<u8>) = rows.unzip();
    Metrics::new(&scores, &labels, 0.5)
}

fn main() -> Result<(), nids_eval::Error> {
    println!("score  rows  attacks  share");
    for (score, rows, attacks) in ROWS {
        println!("{score:5.2}  {rows:4}  {attacks:7}  {:5.2}", attacks as f64 / rows as f64);
    }
    // the same order of rows, but the odds of every score cubed: an overconfident classifier
    let cubed = |score: f32| 1.0 / (1.0 + ((1.0 - score) / score).powi(3));
    let overconfident = ROWS.map(|(score, rows, attacks)| (cubed(score), rows, attacks));
    println!("\n{:14}  {:>7}  {:>6}  {:>8}  {:>17}", "scores", "ROC-AUC", "Brier", "log loss", "calibration error");
    let mut found = Vec::new();
    for (name, groups) in [("calibrated", ROWS), ("overconfident", overconfident)] {
        let metrics = metrics(&groups)?;
        let [auc, brier, log_loss] = [metrics.roc_auc, metrics.brier, metrics.log_loss].map(|value| value.unwrap_or(f64::NAN));
        let error = calibration_error(&groups);
        println!("{name:14}  {auc:7.4}  {brier:6.4}  {log_loss:8.4}  {error:17.4}");
        found.push((auc, brier, log_loss, error));
    }
    let [good, bad] = found[..] else { unreachable!("two lists of scores") };
    assert!((good.0 - bad.0).abs() < 1e-12, "ROC-AUC sees the order only");
    assert!(good.3 < 1e-6, "these scores are calibrated by construction");
    assert!(good.1 < bad.1 && good.2 < bad.2 && bad.3 > 0.05, "Brier score and log loss punish overconfidence");

    // a score that is no probability is an error with its row, never a metric
    let error = Metrics::new(&[0.5, f32::NAN], &[0, 1], 0.5).expect_err("NaN is refused");
    println!("\n{error}");
    Ok(())
}
