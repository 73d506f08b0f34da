//! The operating point of a trained classifier: probabilities that hold, and a threshold that keeps a budget of false alarms.

use std::path::PathBuf;

use nids_detect::Detector;
use nids_detect::operation::{Calibration, OperatingPoint, Using};
use nids_eval::calibration::{self, Reliability, Scaling, ScalingKind};
use nids_eval::operating::BenignScores;
use nids_flows::ReadOptions;
use nids_store::progress::{Event, Progress};
use nids_store::run::{ADAPTATION, CALIBRATION, Run};
use nids_store::{Error, Result};
use serde::Serialize;

use super::anomaly::Score;
use super::held_out::{HeldOut, trained};
use super::predict::{Alarm, certify, told};

/// Rows of a class that a scaling is fitted on, at least.
const LEAST_ROWS: u64 = 20;

/// How a run is calibrated.
#[derive(Clone, Debug, Default)]
pub struct CalibrateOptions {
    /// Labelled files that the classifier has not learned from; None: the validation part of its training rows.
    pub data: Option<Vec<PathBuf>>,
    /// How these files are read.
    pub read: ReadOptions,
    /// When a row is an attack; None: what the run's config says.
    pub alarm: Option<Alarm>,
    /// What is fitted; None: scores stay as they are.
    pub scaling: Option<ScalingKind>,
}

/// What `calibrate` found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CalibrateReport {
    /// Benign rows held out.
    pub benign: u64,
    /// How many of them differ.
    pub different_benign: u64,
    /// Attacks held out.
    pub attacks: u64,
    /// The scaling; None where too few rows of a class are held out, or none was asked for.
    pub scaling: Option<Scaling>,
    /// The threshold that is kept; None where the run's config has it.
    pub threshold: Option<f64>,
    /// The budget.
    pub fpr: Option<f64>,
    /// The share of benign rows held out that are alarms at the threshold.
    pub false_alarms: Option<f64>,
    /// The share of attacks held out that are alarms.
    pub recall: Option<f64>,
    /// Before scaling.
    pub before: Reliability,
    /// After. Fitted on the same rows, and so somewhat too good.
    pub after: Reliability,
}

/// Scores rows held out, fits a scaling and a threshold, and leaves them in the run folder.
///
/// The scaling and the threshold may stand on the same rows: a scaling rises with the score, so it changes the order of no two rows,
/// and a threshold is a place in that order. Fixed-sequence testing holds for all thresholds of the order at once.
pub fn calibrate(run: &Run, options: &CalibrateOptions, progress: &mut dyn Progress) -> Result<CalibrateReport> {
    let lock = run.lock("calibrate", progress)?;
    // a calibration of another classifier is what this command replaces
    let detector = Detector::open_using(run, Using::Model)?;
    if run.has(ADAPTATION) {
        let message = "the run is adapted to another network, on what it says now: run `nids-mixer adapt --undo` first, and `adapt` again \
                       afterwards";
        return Err(Error::Usage(message.to_owned()));
    }
    let held_out = match &options.data {
        Some(files) => HeldOut::of_files(&detector, files, &options.read, progress)?,
        None => HeldOut::of_run(run, progress)?,
    };
    let (rows, labels) = (held_out.rows(), held_out.labels());
    let scores = detector.scored_flows(held_out.flows())?.attacks;
    let scaling = match options.scaling {
        Some(kind) if rows.benign.min(rows.attacks) >= LEAST_ROWS => {
            let log_odds: Vec<f64> = scores.iter().map(|&score| calibration::log_odds(score)).collect();
            Some(Scaling::fit(kind, &log_odds, labels)?)
        }
        Some(_) => {
            let text = format!(
                "{} benign rows and {} attacks are held out: scores stay as they are, since a scaling needs {LEAST_ROWS} of each",
                rows.benign, rows.attacks
            );
            progress.event(Event::Message(&text));
            None
        }
        None => None,
    };
    let scaled: Vec<f32> = scores.iter().map(|&score| scaling.map_or(score, |scaling| scaling.probability(score))).collect();
    let of_class = |class: u8| scaled.iter().zip(labels).filter(move |&(_, &label)| label == class).map(|(&score, _)| score);
    let benign = BenignScores::new(&of_class(0).collect::<Vec<_>>())?;
    let point = match options.alarm {
        Some(Alarm::Budget(fpr)) => {
            let certified = certify(&benign, fpr, Score::Attack)?;
            progress.event(Event::Message(&told(&certified, fpr)));
            OperatingPoint::Budget { fpr, threshold: f64::from(certified.threshold) }
        }
        Some(Alarm::Threshold(threshold)) => OperatingPoint::Threshold(threshold),
        None => OperatingPoint::Config,
    };
    let threshold = point.threshold();
    let alarms = |class: u8| {
        let n = of_class(class).count();
        threshold
            .filter(|_| n > 0)
            .map(|threshold| of_class(class).filter(|&score| f64::from(score) >= threshold).count() as f64 / n as f64)
    };
    let report = CalibrateReport {
        benign: rows.benign,
        different_benign: held_out.different_benign() as u64,
        attacks: rows.attacks,
        scaling,
        threshold,
        fpr: if let OperatingPoint::Budget { fpr, .. } = point { Some(fpr) } else { None },
        false_alarms: alarms(0),
        recall: alarms(1),
        before: Reliability::new(&scores, labels),
        after: Reliability::new(&scaled, labels),
    };
    let found = Calibration { model: trained(&detector)?, rows, scaling, benign, point };
    lock.check()?;
    run.write(CALIBRATION, &found.to_bytes())?;
    // readers take what was written
    Detector::open(run)?;
    Ok(report)
}
