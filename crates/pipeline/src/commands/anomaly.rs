//! Scores of what is unlike benign flows: by the pretrained autoencoder alone, or with the classifier.

use std::io::Write;
use std::path::PathBuf;

use nids_config::Stage;
use nids_detect::anomaly::{AnomalyDetector, Reference, ReferenceRows, Unusual};
use nids_detect::operation::Using;
use nids_detect::read::{name_of, read};
use nids_detect::verdicts::{Outputs, Scores};
use nids_detect::{Autoencoder, Detector, at_equal_distances};
use nids_eval::operating::{BenignScores, CONFIDENCE, rows_needed};
use nids_flows::{Flows, Labels, NO_LABEL, ReadOptions, all_rows, equal_rows};
use nids_store::Result;
use nids_store::artefacts::Digest;
use nids_store::progress::{Event, Progress};
use nids_store::run::{ANOMALY, Run};
use serde::Serialize;

use super::held_out::{contents, known_rows, labelled_of, labelled_rows};
use super::predict::{
    Alarm, Evaluated, PredictOptions, PredictSummary, Rejected, certify, each_labelled, said_of, told, write_each,
};
use super::verdict_writer::Cells;
use crate::data;

/// The share of benign flows that may be alarms where nobody says otherwise.
const FPR: f64 = 0.01;
/// Rows whose usual losses are learned, at most.
const USUAL: usize = 4_000;
/// Rows that scores are compared with, at most: enough to certify a budget of .01 %.
const COMPARED: usize = 40_000;

/// What `predict` and `evaluate` go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Score {
    /// The classifier's probability of an attack.
    #[default]
    Attack,
    /// How unlike benign flows a flow is, by the pretrained autoencoder alone.
    Anomaly,
    /// The two as one score.
    Both,
}

impl Score {
    /// Its name in `--score`.
    pub const NAMES: [&str; 3] = ["attack", "anomaly", "both"];

    /// The score of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Attack, Self::Anomaly, Self::Both]
            .into_iter()
            .zip(Self::NAMES)
            .find(|(_, own)| *own == name)
            .map(|(score, _)| score)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// What `calibrate --score` found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnomalyReport {
    /// Rows that scores are compared with: of the autoencoder, then of both.
    pub compared: u64,
    /// The same of both scores; None without a classifier.
    pub compared_fused: Option<u64>,
    /// Whether labels say that they are benign.
    pub are_benign: bool,
    /// Whether pretraining has learned them.
    pub are_learned: bool,
}

/// Looks at benign rows, and leaves in the run folder what is known of them. `score` is not that of an attack.
pub fn calibrate_anomaly(
    run: &Run,
    score: Score,
    files: Option<(&[PathBuf], &ReadOptions)>,
    progress: &mut dyn Progress,
) -> Result<AnomalyReport> {
    let lock = run.lock("calibrate", progress)?;
    let autoencoder = Autoencoder::open(run)?;
    let beside = beside(run, score)?;
    let found = match files {
        Some((files, options)) => of_files(&autoencoder, beside.as_ref(), files, options, progress)?,
        None => of_run(run, &autoencoder, beside.as_ref(), progress)?,
    };
    let report = AnomalyReport {
        compared: found.benign.n(),
        compared_fused: found.fusion.as_ref().map(|fusion| fusion.benign.n()),
        are_benign: found.rows.are_benign,
        are_learned: found.rows.are_learned,
    };
    let before = Reference::read(run, &autoencoder).ok().flatten();
    if found.fusion.is_none() && before.is_some_and(|before| before.fusion.is_some()) {
        let text = "what was kept for `--score both` is replaced: `nids-mixer calibrate --score both` keeps rows for both scores";
        progress.event(Event::Message(text));
    }
    lock.check()?;
    run.write(ANOMALY, &found.to_bytes())?;
    // readers take what was written
    Reference::read(run, &autoencoder)?;
    Ok(report)
}

fn beside(run: &Run, score: Score) -> Result<Option<Detector>> {
    (score == Score::Both).then(|| Detector::open_using(run, Using::Adaptation)).transpose()
}

/// The autoencoder, and the classifier where it is wanted, with the threshold that is asked for.
pub(super) fn open(run: &Run, options: &PredictOptions, progress: &mut dyn Progress) -> Result<AnomalyDetector> {
    let autoencoder = Autoencoder::open(run)?;
    let beside = beside(run, options.score)?;
    let reference = if let Some(found) = Reference::read(run, &autoencoder)? {
        found
    } else {
        let text = format!(
            "no {ANOMALY}: benign rows of the run are looked at first (`nids-mixer calibrate --score` keeps what is found)"
        );
        progress.event(Event::Message(&text));
        of_run(run, &autoencoder, beside.as_ref(), progress)?
    };
    let mut detector = AnomalyDetector::new(run, autoencoder, reference, beside)?;
    let rows = &detector.reference().rows;
    if !rows.are_benign {
        let text = "warning: nobody knows whether the rows that flows are compared with are benign: if attacks are among them, such attacks \
                    are not found";
        progress.event(Event::Message(text));
    }
    if rows.are_learned {
        let text = "warning: pretraining has learned the rows that flows are compared with: p-values are too small and there are more \
                    alarms than asked for: name other rows in `nids-mixer calibrate --score anomaly --data FILE`";
        progress.event(Event::Message(text));
    }
    if detector.beside().is_some_and(|beside| beside.operation().adaptation.is_some()) {
        let text = "`adapt` has corrected probabilities for another network: the score of both goes by the model's own";
        progress.event(Event::Message(text));
    }
    let threshold = threshold(detector.benign(), options, progress)?;
    detector.set_threshold(threshold);
    Ok(detector)
}

/// The threshold that is asked for; without a wish that of [`FPR`], which few rows cannot certify.
fn threshold(benign: &BenignScores, options: &PredictOptions, progress: &mut dyn Progress) -> Result<f64> {
    let fpr = match options.alarm {
        Some(Alarm::Threshold(threshold)) => return Ok(threshold),
        Some(Alarm::Budget(fpr)) => fpr,
        None if benign.n() < rows_needed(FPR, CONFIDENCE)? => {
            let threshold = f64::from(benign.conformal_threshold(FPR));
            let text = format!(
                "warning: threshold {threshold}: the p-value {FPR} of {} benign rows, too few to certify a share of false alarms",
                benign.n()
            );
            progress.event(Event::Message(&text));
            return Ok(threshold);
        }
        None => FPR,
    };
    let certified = certify(benign, fpr, options.score)?;
    progress.event(Event::Message(&told(&certified, fpr)));
    Ok(f64::from(certified.threshold))
}

/// Benign rows of the run: the usual losses are those of rows that training had, which are compared with are those of the validation
/// part. Where there were no labels, nothing is held out, and nobody knows what is benign.
fn of_run(run: &Run, autoencoder: &Autoencoder, beside: Option<&Detector>, progress: &mut dyn Progress) -> Result<Reference> {
    let stage = if run.has_finished(Stage::Finetune) { Stage::Finetune } else { Stage::Pretrain };
    let config = run.config_of(stage)?;
    if config.data.train.is_none() && config.data.unlabelled.is_some() {
        let mut look = run.look(stage, &config);
        let flows = data::data(&config, true, &mut look, progress)?.unlabelled.ok_or_else(data::no_labels)?;
        look.require_same_data()?;
        let rows = ReferenceRows { files: None, are_benign: false, are_learned: true };
        let [usual, compared] = halves(&flows, &all_rows(flows.len()), progress);
        return Reference::of(autoencoder, beside, rows, &usual, &compared);
    }
    let labelled = if beside.is_some() {
        // those that the classifier has not learned either
        labelled_of(run, &config, false, progress)?
    } else {
        labelled_rows(run, stage, &config, false, progress)?
    };
    let benign =
        |rows: &[u32]| -> Vec<u32> { rows.iter().copied().filter(|&row| labelled.labels()[row as usize] == 0).collect() };
    let usual =
        labelled.flows.select(&some_of("from which the usual is learned", &benign(&labelled.split.train), USUAL, progress));
    let compared =
        labelled.flows.select(&some_of("with which flows are compared", &benign(&labelled.split.val), COMPARED, progress));
    let rows = ReferenceRows { files: None, are_benign: true, are_learned: false };
    Reference::of(autoencoder, beside, rows, &usual, &compared)
}

/// The benign rows of files, or all of them where none has a label.
fn of_files(
    autoencoder: &Autoencoder,
    beside: Option<&Detector>,
    files: &[PathBuf],
    options: &ReadOptions,
    progress: &mut dyn Progress,
) -> Result<Reference> {
    let files_with_contents: Vec<(String, Digest)> = contents(files)?;
    let options = ReadOptions { labels: Labels::IfPresent, ..options.clone() };
    let flows = read(files, autoencoder.tokeniser().schema(), &options, progress)?.flows;
    let labels = flows.labels().filter(|labels| labels.iter().any(|&label| label != NO_LABEL));
    let benign: Vec<u32> = match labels {
        Some(labels) => all_rows(flows.len()).into_iter().filter(|&row| labels[row as usize] == 0).collect(),
        None => all_rows(flows.len()),
    };
    let text = match labels {
        Some(_) => format!("{}: {} of {} rows are benign", name_of(files), benign.len(), flows.len()),
        None => format!("{}: no labels: all of {} rows are taken for benign", name_of(files), flows.len()),
    };
    progress.event(Event::Message(&text));
    let rows = ReferenceRows { files: Some(files_with_contents), are_benign: labels.is_some(), are_learned: false };
    let [usual, compared] = halves(&flows, &benign, progress);
    Reference::of(autoencoder, beside, rows, &usual, &compared)
}

/// Rows to learn the usual from, and others to compare with; equal rows are on one side.
fn halves(flows: &Flows, rows: &[u32], progress: &mut dyn Progress) -> [Flows; 2] {
    let flows = flows.select(rows);
    let mut halves = [Vec::new(), Vec::new()];
    for (place, group) in equal_rows(&flows).into_iter().enumerate() {
        halves[place % 2].extend(group);
    }
    for half in &mut halves {
        half.sort_unstable();
    }
    [
        flows.select(&some_of("from which the usual is learned", &halves[0], USUAL, progress)),
        flows.select(&some_of("with which flows are compared", &halves[1], COMPARED, progress)),
    ]
}

/// So many of the rows at equal distances, if there are more.
fn some_of(what: &str, rows: &[u32], most: usize, progress: &mut dyn Progress) -> Vec<u32> {
    if rows.len() > most {
        progress.event(Event::Message(&format!("{most} of {} benign rows {what}", rows.len())));
    }
    at_equal_distances(rows, most)
}

/// As [`super::evaluate`]. A score is no probability, so there is neither a log loss nor a calibration.
pub(super) fn evaluate(
    run: &Run,
    data: &[PathBuf],
    options: &PredictOptions,
    rejected: Rejected<'_>,
    progress: &mut dyn Progress,
) -> Result<Evaluated> {
    let detector = open(run, options, progress)?;
    let mut scores = Scores::new(Outputs::Attack, None, detector.threshold()).with_keys();
    let known = if detector.beside().is_some() {
        known_rows(run, progress)?
    } else {
        progress.event(Event::Message("note: pretraining keeps no list of its rows: `new_rows` is null"));
        None
    };
    let summary = each_labelled(&detector, data, options, rejected, progress, |flows, said| {
        scores.add_all(flows, &said.scores, &said.scores);
    })?;
    let evaluation = scores.evaluation(&name_of(data), known.as_ref(), progress)?.without_probabilities();
    Ok(Evaluated { evaluation, drift: summary.drift })
}

/// As [`super::predict`]: `score`, which the threshold is compared with, the verdict, the most `surprising` feature and the p-value; of
/// both scores, what the classifier says comes first.
pub(super) fn predict(
    run: &Run,
    data: &[PathBuf],
    options: &PredictOptions,
    out: &mut dyn Write,
    rejected: Rejected<'_>,
    progress: &mut dyn Progress,
) -> Result<PredictSummary> {
    let detector = open(run, options, progress)?;
    let said = |_: &Flows, found: &Unusual| {
        let alarms: Vec<bool> = found.scores.iter().map(|&score| detector.is_alarm(score)).collect();
        Ok((alarms.iter().filter(|is_alarm| **is_alarm).count() as u64, said_of_both(&detector, found, &alarms)))
    };
    write_each(&detector, data, options, out, rejected, progress, said)
}

/// The columns of what is said of rows: what a classifier says, if there is one, but for its verdict and p-value, which are those of
/// the score.
pub(super) fn said_of_both<'d>(
    detector: &'d AnomalyDetector,
    found: &Unusual,
    alarms: &[bool],
) -> Vec<(&'static str, Cells<'d>)> {
    let mut columns = match detector.beside() {
        Some(beside) => said_of(beside, &found.scored.as_ref().map_or_else(Vec::new, |scored| beside.verdicts(scored))),
        None => Vec::new(),
    };
    columns.retain(|(name, _)| !matches!(*name, "verdict" | "p_value"));
    let alarm = if detector.beside().is_some() { "attack" } else { "anomaly" };
    let verdicts = alarms.iter().map(|&is_alarm| if is_alarm { alarm } else { "normal" });
    let surprising = found.anomalies.iter().map(|anomaly| anomaly.feature.map_or("", |place| detector.feature(place)));
    let p_values = found.scores.iter().map(|&score| detector.benign().p_value(score));
    columns.extend([
        ("score", Cells::Single(found.scores.clone())),
        ("verdict", Cells::Text(verdicts.collect())),
        ("surprising", Cells::Text(surprising.collect())),
        ("p_value", Cells::Double(p_values.collect())),
    ]);
    columns
}
