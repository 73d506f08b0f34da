//! Verdicts of a trained classifier on rows, and their metrics where labels are known.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use nids_config::Stage;
use nids_detect::operation::OperatingPoint;
use nids_detect::read::name_of;
use nids_detect::reasons::{Explainer, Reason};
use nids_detect::verdicts::Scores;
use nids_detect::watch::Drift;
use nids_detect::{Detector, Judge, ReadSummary, Scored, Verdict, again, each_batch};
use nids_eval::metrics::Evaluation;
use nids_eval::operating::{BenignScores, CONFIDENCE, Certified};
use nids_flows::{Flows, Labels, ReadOptions, Reject, is_stdin};
use nids_store::progress::{Event, Progress};
use nids_store::run::{ADAPTATION, BACKGROUND, CALIBRATION, Run};
use nids_store::{Error, Result};

use super::anomaly::{self, Score};
use super::held_out::{HeldOut, known_rows};
use super::verdict_writer::{Cells, Columns, VerdictFormat, VerdictWriter, Verdicts};
use crate::data::imbalance;

/// What `predict` counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PredictSummary {
    /// Number of rows read and of lines written.
    pub rows: u64,
    /// Number of rows with the verdict `attack`.
    pub attacks: u64,
    /// Rows that were left out since they cannot be read.
    pub rejected: u64,
    /// Number of values never seen in training, by column.
    pub unknown_categories: BTreeMap<String, u64>,
    /// How the rows differ from those of training; None where the run has no profile.
    pub drift: Option<Drift>,
}

/// When a row is an attack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Alarm {
    /// From this probability on.
    Threshold(f64),
    /// At the smallest threshold whose rate of false alarms is certified to be at most that.
    Budget(f64),
}

impl Alarm {
    /// The budget of `alerts` false alarms among `flows` benign ones.
    ///
    /// # Errors
    /// No alerts, or as many as flows.
    pub fn per_day(alerts: f64, flows: f64) -> Result<Self> {
        if alerts > 0.0 && alerts < flows && flows.is_finite() {
            return Ok(Self::Budget(alerts / flows));
        }
        let message =
            format!("`--alerts-per-day {alerts} --flows-per-day {flows}`: expected more than 0 alerts, and fewer than flows");
        Err(Error::Usage(message))
    }
}

/// How `evaluate` and `predict` look at a file.
#[derive(Clone, Debug, Default)]
pub struct PredictOptions {
    /// How files are read.
    pub read: ReadOptions,
    /// What they go by.
    pub score: Score,
    /// When a row is an attack; without one, what `calibrate` has left, else what the run's config says.
    pub alarm: Option<Alarm>,
    /// How verdicts are written.
    pub format: VerdictFormat,
    /// Of which rows `predict` gives reasons; None: of none.
    pub reasons: Option<ReasonsFor>,
}

/// Of which rows there are reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasonsFor {
    /// Those with the verdict `attack`.
    Alerts,
    /// All.
    All,
}

impl ReasonsFor {
    /// Its name in `--reasons`.
    pub const NAMES: [&str; 2] = ["alerts", "all"];

    /// That of a name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Alerts, Self::All].into_iter().zip(Self::NAMES).find(|(_, own)| *own == name).map(|(rows, _)| rows)
    }
}

/// What is written of rows that are left out.
pub(super) type Rejected<'r> = &'r mut dyn FnMut(&[Reject]) -> Result<()>;

/// What `evaluate` finds.
#[derive(Debug)]
pub struct Evaluated {
    /// How good verdicts are.
    pub evaluation: Evaluation,
    /// How the rows differ from those of training; None where the run has no profile, or no classifier.
    pub drift: Option<Drift>,
}

/// Compares verdicts with the labels of `data`, and with its categories if the classifier tells them apart.
pub fn evaluate(
    run: &Run,
    data: &[PathBuf],
    options: &PredictOptions,
    rejected: Rejected<'_>,
    progress: &mut dyn Progress,
) -> Result<Evaluated> {
    if options.score != Score::Attack {
        return anomaly::evaluate(run, data, options, rejected, progress);
    }
    let detector = open(run, options, progress)?;
    let mut scores = Scores::new(detector.outputs(), detector.classes(), detector.threshold()).with_keys();
    let known = known_rows(run, progress)?;
    let summary = each_labelled(&detector, data, options, rejected, progress, |flows, Scored { outputs, attacks }| {
        scores.add_all(flows, outputs, attacks);
    })?;
    Ok(Evaluated { evaluation: scores.evaluation(&name_of(data), known.as_ref(), progress)?, drift: summary.drift })
}

/// What `judge` says of labelled rows, which have categories where the file has.
pub(super) fn each_labelled<J: Judge>(
    judge: &J,
    data: &[PathBuf],
    options: &PredictOptions,
    rejected: Rejected<'_>,
    progress: &mut dyn Progress,
    mut add: impl FnMut(&Flows, &J::Said),
) -> Result<ReadSummary> {
    let mut summary = ReadSummary::default();
    let read = ReadOptions { labels: Labels::Required, categories: true, ..options.read.clone() };
    let mut attacks = 0;
    each_batch(judge, data, &read, &mut summary, progress, |flows, said, rejects| {
        rejected(rejects)?;
        if !flows.is_empty() {
            attacks += flows.labels().map_or(0, |labels| labels.iter().map(|&label| usize::from(label)).sum());
            add(flows, said);
        }
        Ok(())
    })?;
    if let Some(warning) = imbalance(attacks, summary.rows as usize) {
        progress.event(Event::Message(&format!("note: {warning}")));
    }
    Ok(summary)
}

/// Writes the verdict of every row of `data`, in order: `id`, `probability`, `verdict`, which is `attack` or `normal`, and `category`
/// where the classifier tells categories apart, `p_value` where the run is calibrated, `reasons` where they are asked for, then the columns
/// that are carried along.
pub fn predict(
    run: &Run,
    data: &[PathBuf],
    options: &PredictOptions,
    out: &mut dyn Write,
    rejected: Rejected<'_>,
    progress: &mut dyn Progress,
) -> Result<PredictSummary> {
    if options.score != Score::Attack {
        if options.reasons.is_some() {
            let message = "`--reasons` are those of the classifier's probability: leave out `--score` or `--reasons`; the column \
                           `surprising` names the most anomalous feature";
            return Err(Error::Usage(message.to_owned()));
        }
        return anomaly::predict(run, data, options, out, rejected, progress);
    }
    let detector = open(run, options, progress)?;
    let explainer = options.reasons.map(|rows| Ok::<_, Error>((rows, explainer(run, &detector, progress)?))).transpose()?;
    let said = |flows: &Flows, scored: &Scored| {
        let verdicts = detector.verdicts(scored);
        let attacks = verdicts.iter().filter(|verdict| verdict.is_attack).count() as u64;
        let mut columns = said_of(&detector, &verdicts);
        if let Some((rows, explainer)) = &explainer {
            columns.push(("reasons", Cells::Reasons(reasons(explainer, &detector, flows, &verdicts, *rows)?)));
        }
        Ok((attacks, columns))
    };
    write_each(&detector, data, options, out, rejected, progress, said)
}

/// What finds reasons, and what to know of them.
pub(super) fn explainer(run: &Run, detector: &Detector, progress: &mut dyn Progress) -> Result<Explainer> {
    let explainer = Explainer::open(run, detector)?.ok_or_else(|| {
        let what = "the run keeps no benign training rows to compare alerts with: it was made before there were reasons, or none of its \
                    labels is benign";
        Error::artefact(run.folder().join(BACKGROUND), what, again(Stage::Finetune))
    })?;
    let (benign, kept) = (explainer.background().benign, explainer.background().n_rows());
    let how = if explainer.has_autoencoder() {
        "the values that the autoencoder finds most probable"
    } else {
        "those of the nearest row"
    };
    progress.event(Event::Message(&format!("reasons: rows are compared with {kept} of {benign} benign training rows, by {how}")));
    if detector.operation().adaptation.is_some() {
        progress
            .event(Event::Message("reasons are of the model's own probability: `adapt` has corrected it for another network"));
    }
    Ok(explainer)
}

/// The reasons of `rows`; none of the others.
fn reasons(
    explainer: &Explainer,
    detector: &Detector,
    flows: &Flows,
    verdicts: &[Verdict<'_>],
    rows: ReasonsFor,
) -> Result<Vec<Vec<Reason>>> {
    let is_wanted = |verdict: &Verdict<'_>| verdict.is_attack || rows == ReasonsFor::All;
    let wanted: Vec<u32> = (0..).zip(verdicts).filter(|(_, verdict)| is_wanted(verdict)).map(|(row, _)| row).collect();
    let mut all = vec![Vec::new(); verdicts.len()];
    for (&row, found) in wanted.iter().zip(explainer.reasons(detector, &flows.select(&wanted))?) {
        all[row as usize] = found;
    }
    Ok(all)
}

/// Writes what `judge` says of every row: `said` gives the number of alarms and the columns.
pub(super) fn write_each<'j, J: Judge>(
    judge: &'j J,
    data: &[PathBuf],
    options: &PredictOptions,
    out: &mut dyn Write,
    rejected: Rejected<'_>,
    progress: &mut dyn Progress,
    said: impl for<'s> Fn(&'s Flows, &'s J::Said) -> Result<(u64, Vec<(&'static str, Cells<'j>)>)>,
) -> Result<PredictSummary> {
    let none = Flows::none(judge.tokeniser().schema());
    let columns = Columns::new(&said(&none, &J::Said::default())?.1, &options.read.carried)?;
    let mut writer = VerdictWriter::new(options.format, columns, out)?;
    // an engine that deals rows to processes may have none for one of them
    let may_be_empty = options.read.may_be_empty || is_from_stdin(data);
    let read = ReadOptions { labels: Labels::Unused, may_be_empty, ..options.read.clone() };
    let mut summary = ReadSummary::default();
    let mut attacks = 0;
    each_batch(judge, data, &read, &mut summary, progress, |flows, found, rejects| {
        rejected(rejects)?;
        let (alarms, own) = said(flows, found)?;
        attacks += alarms;
        writer.write(&Verdicts { ids: flows.ids(), own, carried: flows.carried() })
    })?;
    let n_guarded = writer.finish()?;
    if n_guarded > 0 {
        let message =
            format!("{n_guarded} cells begin with =, +, - or @, which a spreadsheet would run: they are written with a ' before");
        progress.event(Event::Message(&message));
    }
    let ReadSummary { rows, rejected, unknown_categories, drift, .. } = summary;
    Ok(PredictSummary { rows, attacks, rejected, unknown_categories, drift })
}

/// Whether rows come from standard input alone.
fn is_from_stdin(data: &[PathBuf]) -> bool {
    matches!(data, [path] if path.to_str().is_some_and(is_stdin))
}

/// The columns of what a classifier says of rows.
pub(super) fn said_of<'d>(detector: &Detector, verdicts: &[Verdict<'d>]) -> Vec<(&'static str, Cells<'d>)> {
    let each = || verdicts.iter();
    let mut columns = vec![
        ("probability", Cells::Single(each().map(|verdict| verdict.probability).collect())),
        ("verdict", Cells::Text(each().map(|verdict| if verdict.is_attack { "attack" } else { "normal" }).collect())),
    ];
    if detector.classes().is_some() {
        columns.push(("category", Cells::Text(each().map(|verdict| verdict.category.unwrap_or("")).collect())));
    }
    if detector.operation().benign().is_some() {
        columns.push(("p_value", Cells::Double(each().map(|verdict| verdict.p_value.unwrap_or(1.0)).collect())));
    }
    columns
}

/// The run's classifier, with the threshold that is asked for: that of the options, else that of `calibrate`, else that of the run's
/// config as it is now.
pub(super) fn open(run: &Run, options: &PredictOptions, progress: &mut dyn Progress) -> Result<Detector> {
    let mut detector = Detector::open(run)?;
    let (folder, operation) = (run.folder().display(), detector.operation());
    if operation.adaptation.is_some() {
        let text = format!("{folder}/{ADAPTATION}: probabilities are adapted to another network (`adapt --undo` takes it back)");
        progress.event(Event::Message(&text));
    } else if operation.calibration.as_ref().is_some_and(|(calibration, _)| calibration.scaling.is_some()) {
        progress.event(Event::Message(&format!("{folder}/{CALIBRATION}: probabilities are calibrated")));
    }
    let (point, benign) = (operation.point(), operation.benign().cloned());
    match (options.alarm, point) {
        (Some(Alarm::Budget(fpr)), _) => {
            let benign = if let Some(benign) = benign {
                benign
            } else {
                let text = "no calibration is stored: the run's validation rows are scored for the threshold (`nids-mixer \
                            calibrate` keeps it)";
                progress.event(Event::Message(text));
                HeldOut::of_run(run, progress)?.benign(&detector)?
            };
            let certified = certify(&benign, fpr, Score::Attack)?;
            progress.event(Event::Message(&told(&certified, fpr)));
            detector.set_threshold(f64::from(certified.threshold));
        }
        (Some(Alarm::Threshold(threshold)), _) => set_threshold(run, &mut detector, threshold, "`--threshold`", progress)?,
        (None, OperatingPoint::Budget { fpr, threshold }) => {
            let text = format!("threshold {threshold} of `calibrate`: at most {fpr} of benign flows are alarms");
            progress.event(Event::Message(&text));
        }
        (None, OperatingPoint::Threshold(threshold)) => {
            progress.event(Event::Message(&format!("threshold {threshold} of `calibrate`")));
        }
        (None, OperatingPoint::Config) => match run.config(&[]) {
            Ok(config) => {
                let from = "config.yaml of the run folder";
                set_threshold(run, &mut detector, config.evaluate.threshold, from, progress)?;
            }
            Err(error) => {
                let threshold = detector.threshold();
                progress.event(Event::Message(&format!("threshold {threshold}, as in training: {error}")));
            }
        },
    }
    Ok(detector)
}

fn set_threshold(run: &Run, detector: &mut Detector, threshold: f64, from: &str, progress: &mut dyn Progress) -> Result<()> {
    let trained_with = run.config_of(Stage::Finetune)?.evaluate.threshold;
    if threshold.to_bits() != trained_with.to_bits() {
        let text = format!("threshold {threshold} from {from}; {trained_with} when the classifier was trained");
        progress.event(Event::Message(&text));
    }
    detector.set_threshold(threshold);
    Ok(())
}

/// The threshold of a budget of alarms by `score`.
pub(super) fn certify(benign: &BenignScores, fpr: f64, score: Score) -> Result<Certified> {
    let calibrate = match score {
        Score::Attack => "nids-mixer calibrate --data FILE".to_owned(),
        other => format!("nids-mixer calibrate --score {} --data FILE", other.name()),
    };
    benign.certified(fpr, CONFIDENCE).map_err(|error| {
        Error::Usage(format!("{error}: allow a higher rate, or name a file with more benign rows in `{calibrate}`"))
    })
}

/// What to say of it.
pub(super) fn told(certified: &Certified, fpr: f64) -> String {
    let Certified { threshold, alarms, benign, bound } = certified;
    format!(
        "threshold {threshold}: {alarms} of {benign} benign rows held out are alarms, so at most {bound:.3e} of benign flows like \
         these are, at {} % confidence (asked for: {fpr})",
        100.0 * CONFIDENCE
    )
}

#[cfg(test)]
#[path = "predict_tests.rs"]
mod tests;
