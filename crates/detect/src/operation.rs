//! How a run's scores are made into probabilities and alarms: its calibration and its adaptation, each a file beside the weights.
//!
//! | file | left by | what it holds |
//! |---|---|---|
//! | `calibration.json` | `calibrate` | a scaling, the scores of benign rows that were held out, the operating point |
//! | `adaptation.json` | `adapt` | a correction of log odds; the same benign rows and operating point, by corrected scores |
//!
//! Each lists the classifier that it was made for by content, and an adaptation the calibration, too. One that was made for another
//! is stale and refused.

use nids_eval::adaptation::{Correction, PriorShift};
use nids_eval::calibration::{self, Scaling};
use nids_eval::operating::BenignScores;
use nids_store::artefacts::{Digest, sha256};
use nids_store::run::{ADAPTATION, CALIBRATION, MODEL, Run};
use nids_store::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
/// A larger file is some other file.
const MAX_BYTES: u64 = 2 << 20;

/// The operating point of a classifier, as `calibrate` leaves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The classifier that it belongs to.
    pub model: Digest,
    /// The rows that were held out.
    pub rows: HeldOutRows,
    /// From scores to probabilities; None where too few rows of a class were held out.
    pub scaling: Option<Scaling>,
    /// Scaled scores of the benign ones.
    pub benign: BenignScores,
    /// When a row is an alarm.
    pub point: OperatingPoint,
}

/// Which rows were held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOutRows {
    /// Files and their contents; None for the validation part of the run's training data.
    pub files: Option<Vec<(String, Digest)>>,
    /// How many are benign.
    pub benign: u64,
    /// How many are attacks.
    pub attacks: u64,
}

/// When a row is an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OperatingPoint {
    /// From the probability of `evaluate.threshold` on.
    Config,
    /// From this probability on.
    Threshold(f64),
    /// At a certified rate of false alarms.
    Budget {
        /// The rate.
        fpr: f64,
        /// The threshold that keeps it.
        threshold: f64,
    },
}

impl OperatingPoint {
    /// The threshold that it has of its own.
    pub fn threshold(self) -> Option<f64> {
        match self {
            Self::Config => None,
            Self::Threshold(threshold) | Self::Budget { threshold, .. } => Some(threshold),
        }
    }

    fn is_valid(self) -> bool {
        let is_rate = |rate: f64| (0.0..=1.0).contains(&rate);
        self.threshold().is_none_or(is_rate) && if let Self::Budget { fpr, .. } = self { is_rate(fpr) } else { true }
    }
}

/// A classifier on another network, as `adapt` leaves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adaptation {
    /// The classifier that it belongs to.
    pub model: Digest,
    /// The calibration that was there.
    pub calibration: Option<Digest>,
    /// Of the log odds of the model's scores.
    pub correction: Correction,
    /// What was found without labels.
    pub prior: Option<PriorShift>,
    /// What the calibration has, by corrected scores.
    pub carried: Option<Carried>,
}

/// What an adaptation takes over of a calibration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// Corrected scores of the same benign rows.
    pub benign: BenignScores,
    /// The operating point.
    pub point: OperatingPoint,
}

/// A file beside the weights.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stored<T> {
    kind: String,
    version: u32,
    content: T,
}

impl<T: Serialize + DeserializeOwned> Stored<T> {
    pub(crate) fn to_bytes(kind: &str, content: T) -> Vec<u8> {
        let stored = Self { kind: kind.to_owned(), version: VERSION, content };
        let text = serde_json::to_string(&stored).expect("numbers and texts under names");
        format!("{text}\n").into_bytes()
    }

    pub(crate) fn content(kind: &str, bytes: &[u8]) -> std::result::Result<T, String> {
        let stored: Self = serde_json::from_slice(bytes).map_err(|error| format!("not a {kind}: {error}"))?;
        if (stored.kind.as_str(), stored.version) != (kind, VERSION) {
            return Err(format!("not a {kind}: `{}` version {}", stored.kind, stored.version));
        }
        Ok(stored.content)
    }
}

impl HeldOutRows {
    /// The share of attacks.
    pub fn prior(&self) -> f64 {
        self.attacks as f64 / (self.benign + self.attacks) as f64
    }
}

impl Calibration {
    const KIND: &str = "calibration of nids-mixer";

    /// Reads the content of a file.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        let found: Self = Stored::content(Self::KIND, bytes)?;
        let holds = found.scaling.is_none_or(Scaling::is_valid)
            && found.point.is_valid()
            && found.benign.n() == found.rows.benign
            && found.rows.attacks < 1 << 53;
        if holds { Ok(found) } else { Err("numbers that no calibration has".to_owned()) }
    }

    /// The bytes of its file.
    pub fn to_bytes(&self) -> Vec<u8> {
        Stored::to_bytes(Self::KIND, self.clone())
    }

    /// The share of attacks for which its probabilities hold: that of the rows held out. None where there is no scaling.
    pub fn prior(&self) -> Option<f64> {
        self.scaling.map(|_| self.rows.prior())
    }
}

impl Adaptation {
    const KIND: &str = "adaptation of nids-mixer";

    /// Reads the content of a file, of a classifier over so many features.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn from_bytes(bytes: &[u8], n_features: usize) -> std::result::Result<Self, String> {
        let found: Self = Stored::content(Self::KIND, bytes)?;
        let holds = found.correction.is_valid(n_features)
            && found.carried.as_ref().is_none_or(|carried| carried.point.is_valid())
            && found.calibration.is_some() == found.carried.is_some();
        if holds { Ok(found) } else { Err("numbers that no adaptation of this classifier has".to_owned()) }
    }

    /// The bytes of its file.
    pub fn to_bytes(&self) -> Vec<u8> {
        Stored::to_bytes(Self::KIND, self.clone())
    }
}

/// How much of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Using {
    /// The model's scores as they are.
    Model,
    /// The calibration alone.
    Calibration,
    /// All that is there.
    Adaptation,
}

/// What makes scores into probabilities and alarms. By default nothing: scores are probabilities.
#[derive(Clone, Debug, Default)]
pub struct Operation {
    /// The classifier that it belongs to; None of an untrained network.
    pub model: Option<Digest>,
    /// What `calibrate` left, with the content of its file.
    pub calibration: Option<(Calibration, Digest)>,
    /// What `adapt` left.
    pub adaptation: Option<Adaptation>,
}

impl Operation {
    /// That of the classifier `model`, which has so many features, in its run folder.
    ///
    /// # Errors
    /// Files that are damaged, or stale: made for another classifier.
    pub fn read(run: &Run, model: Digest, n_features: usize, using: Using) -> Result<Self> {
        let folder = run.folder().display();
        let mut operation = Self { model: Some(model), ..Self::default() };
        if using == Using::Model {
            return Ok(operation);
        }
        if let Some(bytes) = run.read(CALIBRATION, MAX_BYTES)? {
            let refuse = |what: &str| {
                let remedy = format!("run `nids-mixer calibrate --run {folder}` again, or remove the file");
                Error::artefact(run.folder().join(CALIBRATION), what, remedy)
            };
            let found = Calibration::from_bytes(&bytes).map_err(|what| refuse(&what))?;
            if Some(&found.model) != operation.model.as_ref() {
                return Err(refuse(&format!("stale: made for another `{MODEL}`")));
            }
            operation.calibration = Some((found, Digest { sha256: sha256(&bytes), bytes: bytes.len() as u64 }));
        }
        let bytes = if using == Using::Adaptation { run.read(ADAPTATION, MAX_BYTES)? } else { None };
        if let Some(bytes) = bytes {
            let refuse = |what: &str| {
                let remedy = format!("run `nids-mixer adapt --run {folder}` again with `--data FILE`, or with `--undo`");
                Error::artefact(run.folder().join(ADAPTATION), what, remedy)
            };
            let found = Adaptation::from_bytes(&bytes, n_features).map_err(|what| refuse(&what))?;
            if Some(&found.model) != operation.model.as_ref() {
                return Err(refuse(&format!("stale: made for another `{MODEL}`")));
            }
            if found.calibration.as_ref() != operation.calibration.as_ref().map(|(_, digest)| digest) {
                return Err(refuse(&format!("stale: made for another `{CALIBRATION}`")));
            }
            operation.adaptation = Some(found);
        }
        Ok(operation)
    }

    /// The probability of the model's score for a row, of whose features `value` tells each as trees see it. The score itself where
    /// nothing is calibrated or adapted.
    pub fn probability(&self, score: f32, value: impl Fn(usize) -> f32) -> f32 {
        if let Some(adaptation) = &self.adaptation {
            return calibration::probability(adaptation.correction.log_odds(calibration::log_odds(score), value));
        }
        self.scaling().map_or(score, |scaling| scaling.probability(score))
    }

    fn scaling(&self) -> Option<Scaling> {
        self.calibration.as_ref().and_then(|(calibration, _)| calibration.scaling)
    }

    /// Probabilities of the benign rows held out; None without a calibration.
    pub fn benign(&self) -> Option<&BenignScores> {
        let carried = self.adaptation.as_ref().and_then(|adaptation| adaptation.carried.as_ref());
        carried.map(|carried| &carried.benign).or(self.calibration.as_ref().map(|(calibration, _)| &calibration.benign))
    }

    /// When a row is an alarm, if nobody says otherwise.
    pub fn point(&self) -> OperatingPoint {
        let carried = self.adaptation.as_ref().and_then(|adaptation| adaptation.carried.as_ref());
        let of_calibration = self.calibration.as_ref().map(|(calibration, _)| calibration.point);
        carried.map(|carried| carried.point).or(of_calibration).unwrap_or(OperatingPoint::Config)
    }
}
