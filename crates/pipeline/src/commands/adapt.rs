//! A trained classifier on another network: its probabilities are corrected by that network's flows, its weights stay.

use std::path::PathBuf;

use nids_detect::operation::{Adaptation, Carried, OperatingPoint, Using};
use nids_detect::read::{name_of, read};
use nids_detect::{Detector, feature_values};
use nids_eval::adaptation::{self, Correction, LabelledRows, PriorShift};
use nids_eval::calibration::{self, Scaling, ScalingKind};
use nids_flows::{Flows, Labels, ReadOptions, TokenKind, all_rows, equal_rows};
use nids_store::progress::{Event, Progress};
use nids_store::run::{ADAPTATION, Run};
use nids_store::{Error, Result};
use serde::Serialize;

use super::anomaly::Score;
use super::held_out::{HeldOut, trained};
use super::predict::{certify, told};
use crate::data::warn_of_newly_missing;

/// How a run is adapted.
#[derive(Clone, Debug, Default)]
pub struct AdaptOptions {
    /// Flows of the other network.
    pub data: Vec<PathBuf>,
    /// How they are read.
    pub read: ReadOptions,
    /// Whether labels are left alone, if there are any.
    pub no_labels: bool,
}

/// What `adapt` found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdaptReport {
    /// `labels` or `prior`.
    pub by: &'static str,
    /// Rows that it was fitted on.
    pub rows: usize,
    /// Places where the model was wrong that have a weight of their own.
    pub segments: usize,
    /// The run without an adaptation, on these rows.
    pub before: Quality,
    /// The run with it; with labels, on rows that it was not fitted on, by cross-fitting.
    pub after: Quality,
    /// The threshold from now on.
    pub threshold: f64,
}

/// How good probabilities are; null where no labels say it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Mean log loss.
    pub log_loss: Option<f64>,
    /// At the threshold.
    pub accuracy: Option<f64>,
    /// The share of attacks that the run expects.
    pub prior: f64,
}

/// Adapts a run to the flows of another network, and leaves that in the run folder. Uses their labels if they have any.
///
/// Without labels: expectation and maximisation on the share of attacks. With labels: slope and offset, and a weight for each segment
/// where the model is wrong. Where the run is calibrated, the rows that it was calibrated on are scored again, so that p-values and the
/// budget of false alarms hold of corrected scores, too. The correction has not learned from those rows.
///
/// # Errors
/// [`Error::Data`] where it does not help; nothing is changed then.
pub fn adapt(run: &Run, options: &AdaptOptions, progress: &mut dyn Progress) -> Result<AdaptReport> {
    let lock = run.lock("adapt", progress)?;
    let mut detector = Detector::open_using(run, Using::Calibration)?;
    let name = name_of(&options.data);
    let labels = if options.no_labels { Labels::Unused } else { Labels::WherePresent };
    let flows = read(&options.data, detector.schema(), &ReadOptions { labels, ..options.read.clone() }, progress)?.flows;
    warn_of_newly_missing(detector.tokeniser(), &flows, &name, progress);
    if flows.is_empty() {
        return Err(Error::Data(format!("{name}: no rows to adapt to")));
    }
    if run.has(ADAPTATION) {
        let text = "the run was adapted before: that is replaced, and `before` is the run without any adaptation";
        progress.event(Event::Message(text));
    }
    let found = match flows.labels() {
        Some(labels) => by_labels(run, &detector, &flows, labels, &name, progress)?,
        None => by_prior(run, &detector, &flows, &name, progress)?,
    };
    let mut operation = detector.operation().clone();
    let of_config = || run.config(&[]).map(|config| config.evaluate.threshold);
    let before_at = operation.point().threshold().map_or_else(of_config, Ok)?;
    let mut adaptation = Adaptation {
        model: trained(&detector)?,
        calibration: None,
        correction: found.correction.clone(),
        prior: found.prior,
        carried: None,
    };
    if let Some((calibration, digest)) = operation.calibration.clone() {
        operation.adaptation = Some(adaptation.clone());
        detector.set_operation(operation);
        progress.event(Event::Message("the rows that the run was calibrated on are scored again"));
        let benign = HeldOut::again(run, &detector, &calibration.rows, progress)?.benign(&detector)?;
        let point = match calibration.point {
            OperatingPoint::Budget { fpr, .. } => {
                let certified = certify(&benign, fpr, Score::Attack)?;
                progress.event(Event::Message(&told(&certified, fpr)));
                OperatingPoint::Budget { fpr, threshold: f64::from(certified.threshold) }
            }
            point => point,
        };
        (adaptation.calibration, adaptation.carried) = (Some(digest), Some(Carried { benign, point }));
    }
    let carried = adaptation.carried.as_ref().and_then(|carried| carried.point.threshold());
    let threshold = carried.map_or_else(of_config, Ok)?;
    let report = AdaptReport {
        by: if found.prior.is_some() { "prior" } else { "labels" },
        rows: flows.len(),
        segments: found.correction.segments.len(),
        before: found.before.quality(flows.labels(), before_at),
        after: found.after.quality(flows.labels(), threshold),
        threshold,
    };
    lock.check()?;
    run.write(ADAPTATION, &adaptation.to_bytes())?;
    // readers take what was written
    Detector::open(run)?;
    Ok(report)
}

/// Takes back what [`adapt`] left. Returns whether there was anything.
pub fn undo_adapt(run: &Run, progress: &mut dyn Progress) -> Result<bool> {
    let lock = run.lock("adapt", progress)?;
    lock.check()?;
    run.remove(ADAPTATION)
}

/// A correction that helps.
struct Found {
    correction: Correction,
    prior: Option<PriorShift>,
    before: Judged,
    after: Judged,
}

/// Probabilities of the rows, and what share of attacks they expect.
struct Judged {
    log_odds: Vec<f64>,
    prior: f64,
}

impl Judged {
    /// With the mean probability as the share of attacks.
    fn new(log_odds: Vec<f64>) -> Self {
        let sum: f64 = log_odds.iter().map(|&z| f64::from(calibration::probability(z))).sum();
        Self { prior: sum / log_odds.len() as f64, log_odds }
    }

    fn quality(&self, labels: Option<&[u8]>, threshold: f64) -> Quality {
        let mean = |of: &dyn Fn(f64, u8) -> f64| {
            let rows = |labels: &[u8]| self.log_odds.iter().zip(labels).map(|(&z, &label)| of(z, label)).sum::<f64>();
            labels.map(|labels| rows(labels) / labels.len() as f64)
        };
        let is_right = |z: f64, label: u8| (f64::from(calibration::probability(z)) >= threshold) == (label == 1);
        Quality {
            log_loss: mean(&|z, label| adaptation::log_loss(z, label)),
            accuracy: mean(&|z, label| f64::from(u8::from(is_right(z, label)))),
            prior: self.prior,
        }
    }
}

/// The scaling of the run, and the share of attacks for which its probabilities hold: those of its calibration, else of one on its
/// validation rows.
fn scaling(run: &Run, detector: &Detector, progress: &mut dyn Progress) -> Result<(Scaling, f64)> {
    let calibration = detector.operation().calibration.as_ref();
    if let Some(found) = calibration.and_then(|(calibration, _)| calibration.scaling.zip(calibration.prior())) {
        return Ok(found);
    }
    progress.event(Event::Message("probabilities are calibrated on the run's validation rows first"));
    let held_out = HeldOut::of_run(run, progress)?;
    let scores = detector.model_scores(held_out.flows())?;
    let log_odds: Vec<f64> = scores.into_iter().map(calibration::log_odds).collect();
    Ok((Scaling::fit(ScalingKind::Platt, &log_odds, held_out.labels())?, held_out.rows().prior()))
}

fn by_labels(
    run: &Run,
    detector: &Detector,
    flows: &Flows,
    labels: &[u8],
    name: &str,
    progress: &mut dyn Progress,
) -> Result<Found> {
    // a correction of probabilities that held before needs fewer labels than one of the model's scores
    let (scaling, _) = scaling(run, detector, progress).or_else(|error| {
        progress.event(Event::Message(&format!("the model's scores are corrected as they are: {error}")));
        Ok::<_, Error>((Scaling { slope: 1.0, offset: 0.0 }, f64::NAN))
    })?;
    let encoded = detector.tokeniser().tokenise(flows)?;
    let scored = detector.scored_flows(flows)?;
    let log_odds: Vec<f64> = detector.attacks_of(&scored.outputs).into_iter().map(|score| scaling.log_odds(score)).collect();
    let before: Vec<f64> = scored.attacks.into_iter().map(calibration::log_odds).collect();
    let values = feature_values(&encoded, &all_rows(flows.len()));
    let tokens = detector.tokeniser().tokens();
    let is_category: Vec<bool> = tokens.iter().map(|token| matches!(token.kind, TokenKind::Categorical { .. })).collect();
    let groups = equal_rows(flows);
    let rows = LabelledRows { log_odds: &log_odds, values: &values, is_category: &is_category, labels, groups: &groups };
    let fitted = adaptation::fit(&rows, &before).map_err(|error| Error::Data(format!("{name}: {error}: label more rows")))?;
    let (loss_before, loss_after, error) = (fitted.loss_before, fitted.loss_after, fitted.error);
    if !fitted.is_better() {
        let message = format!(
            "{name}: these labels do not help: by cross-fitting the log loss goes from {loss_before:.4} to {loss_after:.4}: nothing is \
             changed"
        );
        return Err(Error::Data(message));
    }
    if loss_before - loss_after < error {
        let text =
            format!("note: the log loss falls by {:.4}, less than its standard error of {error:.4}", loss_before - loss_after);
        progress.event(Event::Message(&text));
    }
    // of the model's own log odds
    let Correction { slope, offset, segments } = fitted.correction;
    let correction = Correction { slope: slope * scaling.slope, offset: slope * scaling.offset + offset, segments };
    Ok(Found { correction, prior: None, before: Judged::new(before), after: Judged::new(fitted.cross_fitted) })
}

fn by_prior(run: &Run, detector: &Detector, flows: &Flows, name: &str, progress: &mut dyn Progress) -> Result<Found> {
    let (scaling, prior) = scaling(run, detector, progress)?;
    let log_odds: Vec<f64> = detector.model_scores(flows)?.into_iter().map(|score| scaling.log_odds(score)).collect();
    let shift = PriorShift::estimate(&log_odds, prior)?;
    if !shift.is_significant() {
        let message = format!(
            "{name}: the share of attacks seems to be {:.4}, and {:.4} where the run was calibrated, which may be chance (twice the log \
             likelihood ratio is {:.2}, below 3.84): nothing is changed",
            shift.after, shift.before, shift.likelihood_ratio
        );
        return Err(Error::Data(message));
    }
    let correction = Correction { slope: scaling.slope, offset: scaling.offset + shift.shift, segments: Vec::new() };
    let after = log_odds.iter().map(|z| z + shift.shift).collect();
    Ok(Found {
        correction,
        prior: Some(shift),
        before: Judged { log_odds, prior: shift.before },
        after: Judged { log_odds: after, prior: shift.after },
    })
}
