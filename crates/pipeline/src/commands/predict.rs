//! Verdicts of a trained classifier on rows, and their metrics where labels are known.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use nids_detect::verdicts::Scores;
use nids_detect::{Detector, ReadSummary};
use nids_eval::metrics::Metrics;
use nids_flows::Labels;
use nids_store::progress::Progress;
use nids_store::run::Run;
use nids_store::{Error, Result};

/// What `predict` counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PredictSummary {
    /// Number of rows read and of lines written.
    pub rows: u64,
    /// Number of rows with the verdict `attack`.
    pub attacks: u64,
    /// Number of values never seen in training, by column.
    pub unknown_categories: BTreeMap<String, u64>,
}

/// Compares verdicts with the labels of `data`, and with its categories if the classifier tells them apart.
pub fn evaluate(run: &Run, data: &Path, progress: &mut dyn Progress) -> Result<Metrics> {
    let detector = Detector::open(run)?;
    let mut scores = Scores::new(detector.outputs(), detector.classes(), detector.threshold());
    let mut summary = ReadSummary::default();
    detector.each_batch(data, Labels::Required, &mut summary, progress, |flows, probabilities| {
        scores.add(flows, 0..flows.len(), probabilities);
        Ok(())
    })?;
    scores.metrics(&data.display().to_string(), progress)
}

/// Writes one line per row of `data`, in order: `id,probability,verdict`, and `,category` if the classifier tells categories apart.
/// The verdict is `attack` or `normal`.
pub fn predict(run: &Run, data: &Path, out: &mut dyn Write, progress: &mut dyn Progress) -> Result<PredictSummary> {
    let detector = Detector::open(run)?;
    let width = detector.outputs().width();
    let mut summary = ReadSummary::default();
    let mut attacks = 0;
    let mut lines = csv::Writer::from_writer(out);
    detector.each_batch(data, Labels::Optional, &mut summary, progress, |flows, probabilities| {
        for (id, probabilities) in flows.ids().iter().zip(probabilities.chunks_exact(width)) {
            let verdict = detector.verdict(probabilities);
            attacks += u64::from(verdict.is_attack);
            let name = if verdict.is_attack { "attack" } else { "normal" };
            let probability = format!("{:.6}", verdict.probability);
            let record = [id.as_str(), probability.as_str(), name].into_iter().chain(verdict.category);
            lines.write_record(record).map_err(cannot_write)?;
        }
        Ok(())
    })?;
    lines.flush().map_err(Error::io("the verdicts", "write"))?;
    let ReadSummary { rows, unknown_categories, .. } = summary;
    Ok(PredictSummary { rows, attacks, unknown_categories })
}

fn cannot_write(error: csv::Error) -> Error {
    let source = match error.into_kind() {
        csv::ErrorKind::Io(source) => source,
        other => std::io::Error::other(format!("{other:?}")),
    };
    Error::io("the verdicts", "write")(source)
}

#[cfg(test)]
#[path = "predict_tests.rs"]
mod tests;
