//! Verdicts of a trained classifier on rows, and their metrics where labels are known.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use nids_detect::read::name_of;
use nids_detect::verdicts::Scores;
use nids_detect::{Detector, ReadSummary, Verdict};
use nids_eval::metrics::Metrics;
use nids_flows::{Labels, ReadOptions, Reject};
use nids_store::Result;
use nids_store::progress::{Event, Progress};
use nids_store::run::Run;

use super::verdict_writer::{Columns, VerdictFormat, VerdictWriter, Verdicts};
use crate::data::imbalance;

/// What `predict` counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PredictSummary {
    /// Number of rows read and of lines written.
    pub rows: u64,
    /// Number of rows with the verdict `attack`.
    pub attacks: u64,
    /// Rows that were left out since they cannot be read.
    pub rejected: u64,
    /// Number of values never seen in training, by column.
    pub unknown_categories: BTreeMap<String, u64>,
}

/// How `evaluate` and `predict` look at a file.
#[derive(Clone, Debug, Default)]
pub struct PredictOptions {
    /// How files are read.
    pub read: ReadOptions,
    /// From which probability on a row is an attack; without one, what the run's config says.
    pub threshold: Option<f64>,
    /// How verdicts are written.
    pub format: VerdictFormat,
}

/// What is written of rows that are left out.
type Rejected<'r> = &'r mut dyn FnMut(&[Reject]) -> Result<()>;

/// Compares verdicts with the labels of `data`, and with its categories if the classifier tells them apart.
pub fn evaluate(
    run: &Run,
    data: &[PathBuf],
    options: &PredictOptions,
    rejected: Rejected<'_>,
    progress: &mut dyn Progress,
) -> Result<Metrics> {
    let detector = open(run, options, progress)?;
    let mut scores = Scores::new(detector.outputs(), detector.classes(), detector.threshold());
    let mut summary = ReadSummary::default();
    let read = ReadOptions { labels: Labels::Required, categories: detector.classes().is_some(), ..options.read.clone() };
    let mut attacks = 0;
    detector.each_batch(data, &read, &mut summary, progress, |flows, probabilities, rejects| {
        rejected(rejects)?;
        if !flows.is_empty() {
            attacks += flows.labels().map_or(0, |labels| labels.iter().map(|&label| usize::from(label)).sum());
            scores.add(flows, 0..flows.len(), probabilities);
        }
        Ok(())
    })?;
    if let Some(warning) = imbalance(attacks, summary.rows as usize) {
        progress.event(Event::Message(&format!("note: {warning}")));
    }
    scores.metrics(&name_of(data), progress)
}

/// Writes the verdict of every row of `data`, in order: `id`, `probability`, `verdict`, which is `attack` or `normal`, and `category`
/// where the classifier tells categories apart, then the columns that are carried along.
pub fn predict(
    run: &Run,
    data: &[PathBuf],
    options: &PredictOptions,
    out: &mut dyn Write,
    rejected: Rejected<'_>,
    progress: &mut dyn Progress,
) -> Result<PredictSummary> {
    let detector = open(run, options, progress)?;
    let width = detector.outputs().width();
    let mut summary = ReadSummary::default();
    let mut attacks = 0;
    let columns = Columns::new(detector.classes().is_some(), &options.read.carried)?;
    let mut writer = VerdictWriter::new(options.format, columns, out)?;
    let read = ReadOptions { labels: Labels::Unused, ..options.read.clone() };
    detector.each_batch(data, &read, &mut summary, progress, |flows, probabilities, rejects| {
        rejected(rejects)?;
        let verdicts: Vec<Verdict<'_>> = probabilities.chunks_exact(width).map(|row| detector.verdict(row)).collect();
        attacks += verdicts.iter().filter(|verdict| verdict.is_attack).count() as u64;
        writer.write(&Verdicts { ids: flows.ids(), judged: &verdicts, carried: flows.carried() })
    })?;
    let n_guarded = writer.finish()?;
    if n_guarded > 0 {
        let message =
            format!("{n_guarded} cells begin with =, +, - or @, which a spreadsheet would run: they are written with a ' before");
        progress.event(Event::Message(&message));
    }
    let ReadSummary { rows, rejected, unknown_categories, .. } = summary;
    Ok(PredictSummary { rows, attacks, rejected, unknown_categories })
}

/// The run's classifier, with the threshold that is asked for: that of the options, else that of the run's config as it is now.
fn open(run: &Run, options: &PredictOptions, progress: &mut dyn Progress) -> Result<Detector> {
    let mut detector = Detector::open(run)?;
    let trained_with = detector.threshold();
    let threshold = match options.threshold {
        Some(threshold) => threshold,
        None => match run.config(&[]) {
            Ok(config) => config.evaluate.threshold,
            Err(error) => {
                progress.event(Event::Message(&format!("threshold {trained_with}, as in training: {error}")));
                trained_with
            }
        },
    };
    if threshold.to_bits() != trained_with.to_bits() {
        let from = if options.threshold.is_some() { "`--threshold`" } else { "config.yaml of the run folder" };
        progress
            .event(Event::Message(&format!("threshold {threshold} from {from}; {trained_with} when the classifier was trained")));
        detector.set_threshold(threshold);
    }
    Ok(detector)
}

#[cfg(test)]
#[path = "predict_tests.rs"]
mod tests;
