//! How unlike benign flows a flow is, by a pretrained autoencoder alone or beside a classifier.
//!
//! Every feature is hidden and predicted from the others; a flow is as anomalous as its most surprising feature ([`Usual::anomaly`]).
//! Benign rows that pretraining has not learned tell how often so high a score occurs. `calibrate --score` keeps them in
//! `anomaly.json`; without that file they are found again.

use nids_eval::anomaly::{Anomaly, Tail, Usual, fused, squashed};
use nids_eval::calibration::log_odds;
use nids_eval::operating::BenignScores;
use nids_flows::{Flows, Schema, TokenTable, Tokeniser, all_rows, equal_rows};
use nids_nn::engine::Engine;
use nids_store::artefacts::Digest;
use nids_store::run::{ANOMALY, MODEL, PRETRAINED, Run};
use nids_store::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::autoencoder::{Autoencoder, HIDDEN_TOGETHER};
use crate::batches::{Judge, batches};
use crate::detector::{Detector, Scored};
use crate::operation::{MAX_BYTES, Stored};

/// What is known of benign flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The autoencoder that it belongs to.
    pub pretrained: Digest,
    /// The rows that scores are compared with.
    pub rows: ReferenceRows,
    /// The usual loss of each feature.
    pub usual: Usual,
    /// [`squashed`] scores of these rows.
    pub benign: BenignScores,
    /// What a classifier makes of the same rows; None where there was none.
    pub fusion: Option<Fusion>,
}

/// Which rows those are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceRows {
    /// Files and their contents; None for rows of the run's own data.
    pub files: Option<Vec<(String, Digest)>>,
    /// Whether labels say that they are benign.
    pub are_benign: bool,
    /// Whether pretraining has learned them, so that they are less surprising than new ones.
    pub are_learned: bool,
}

/// How a classifier and an autoencoder are made one score: the tails of both are those of one half of the benign rows, and fused
/// scores are compared with those of the other half, which nothing else has seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fusion {
    /// The classifier that it belongs to.
    pub model: Digest,
    /// Of log odds of the classifier's scores.
    pub attack: Tail,
    /// Of anomaly scores.
    pub anomaly: Tail,
    /// [`squashed`] fused scores of the other half.
    pub benign: BenignScores,
}

impl Reference {
    const KIND: &str = "anomaly reference of nids-mixer";

    /// Looks at benign rows: at how surprising features of `usual` are, and how anomalous `benign` rows are.
    ///
    /// # Errors
    /// No rows, or a network that gives no numbers.
    pub fn of(
        autoencoder: &Autoencoder,
        beside: Option<&Detector>,
        rows: ReferenceRows,
        usual: &Flows,
        benign: &Flows,
    ) -> Result<Self> {
        for (what, flows) in [("to learn from", usual), ("to compare with", benign)] {
            if flows.is_empty() {
                return Err(Error::Data(format!("no benign rows {what}: an anomaly is what is unlike them")));
            }
        }
        let usual = Usual::fit(autoencoder.tokeniser().tokens().len(), &losses(autoencoder, usual)?);
        let scores: Vec<f64> =
            losses(autoencoder, benign)?.chunks_exact(usual.n_features()).map(|losses| usual.anomaly(losses).score).collect();
        let squashed: Vec<f32> = scores.iter().map(|&score| squashed(score)).collect();
        let fusion = beside.map(|detector| Fusion::of(detector, benign, &scores)).transpose()?;
        let pretrained = autoencoder.digest().clone();
        Ok(Self { pretrained, rows, usual, benign: BenignScores::new(&squashed)?, fusion })
    }

    /// Reads the content of a file, of an autoencoder over so many features.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn from_bytes(bytes: &[u8], n_features: usize) -> std::result::Result<Self, String> {
        let found: Self = Stored::content(Self::KIND, bytes)?;
        let tails_hold = found.fusion.as_ref().is_none_or(|fusion| fusion.attack.is_valid() && fusion.anomaly.is_valid());
        let holds = found.usual.is_valid(n_features) && tails_hold;
        if holds { Ok(found) } else { Err("numbers that no reference of this autoencoder has".to_owned()) }
    }

    /// The bytes of its file.
    pub fn to_bytes(&self) -> Vec<u8> {
        Stored::to_bytes(Self::KIND, self.clone())
    }

    /// The one that is kept for an autoencoder.
    ///
    /// # Errors
    /// A file that is damaged, or stale: made for another autoencoder.
    pub fn read(run: &Run, autoencoder: &Autoencoder) -> Result<Option<Self>> {
        let Some(bytes) = run.read(ANOMALY, MAX_BYTES)? else { return Ok(None) };
        let found = Self::from_bytes(&bytes, autoencoder.tokeniser().tokens().len()).map_err(|what| refuse(run, &what))?;
        if found.pretrained != *autoencoder.digest() {
            return Err(refuse(run, &format!("stale: made for another `{PRETRAINED}`")));
        }
        Ok(Some(found))
    }
}

fn refuse(run: &Run, what: &str) -> Error {
    let remedy = format!(
        "run `nids-mixer calibrate --run {} --score both` (or `anomaly`) again, or remove the file",
        run.folder().display()
    );
    Error::artefact(run.folder().join(ANOMALY), what, remedy)
}

impl Fusion {
    /// scores: of the autoencoder, one a row
    fn of(detector: &Detector, benign: &Flows, scores: &[f64]) -> Result<Self> {
        let model = detector.operation().model.clone();
        let model = model.ok_or_else(|| Error::Usage("an untrained network has no operating point".to_owned()))?;
        let odds: Vec<f64> = detector.model_scores(benign)?.iter().map(|&score| log_odds(score)).collect();
        let mut halves = [Vec::new(), Vec::new()];
        for (place, group) in equal_rows(benign).into_iter().enumerate() {
            halves[place % 2].extend(group.into_iter().map(|row| row as usize));
        }
        let of = |rows: &[usize], all: &[f64]| rows.iter().map(|&row| all[row]).collect::<Vec<_>>();
        let tail = |all: &[f64]| {
            let remedy = "name a file with more benign rows in `nids-mixer calibrate --score both --data`";
            Tail::fit(&of(&halves[0], all)).map_err(|error| Error::Usage(format!("{error}: {remedy}")))
        };
        let (attack, anomaly) = (tail(&odds)?, tail(scores)?);
        let fused = |&row: &usize| squashed(fused(attack.surprise(odds[row]), anomaly.surprise(scores[row])));
        let benign = BenignScores::new(&halves[1].iter().map(fused).collect::<Vec<_>>())?;
        Ok(Self { model, attack, anomaly, benign })
    }
}

/// The losses of the hidden features of every row.   -> [rows, F]
fn losses(autoencoder: &Autoencoder, flows: &Flows) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for some in batches(flows, autoencoder.tokeniser()) {
        let encoded = autoencoder.tokeniser().tokenise_with_targets(&some)?;
        let losses = autoencoder.hidden_losses(&encoded, &all_rows(some.len()), HIDDEN_TOGETHER);
        if let Some(row) = (0..some.len()).find(|&row| !are_numbers(&encoded, row, &losses)) {
            return Err(no_number(&some, row, "the flows"));
        }
        all.extend(losses);
    }
    Ok(all)
}

/// Whether every feature that is not missing has a loss.   losses: [rows, F]
fn are_numbers(encoded: &TokenTable, row: usize, losses: &[f32]) -> bool {
    let n = encoded.n_tokens();
    losses[row * n..][..n].iter().enumerate().all(|(token, loss)| loss.is_finite() || encoded.target(row, token).is_nan())
}

fn no_number(flows: &Flows, row: usize, origin: &str) -> Error {
    Error::Numerics(format!("{origin}: the autoencoder gives no number for row `{}`", flows.ids()[row]))
}

/// A pretrained autoencoder, and perhaps a classifier, ready to tell what is unlike benign flows.
#[derive(Debug)]
pub struct AnomalyDetector {
    autoencoder: Autoencoder,
    reference: Reference,
    beside: Option<(Detector, Fusion)>,
    threshold: f64,
}

/// What it says of rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unusual {
    /// What the autoencoder says.   [rows]
    pub anomalies: Vec<Anomaly>,
    /// What the classifier says; None without one.
    pub scored: Option<Scored>,
    /// [`squashed`] scores, which the threshold is compared with: of the autoencoder, or of both.   [rows]
    pub scores: Vec<f32>,
}

impl AnomalyDetector {
    /// An autoencoder by itself, or with a classifier `beside` it.
    ///
    /// # Errors
    /// A classifier that the reference knows nothing of.
    pub fn new(run: &Run, autoencoder: Autoencoder, reference: Reference, beside: Option<Detector>) -> Result<Self> {
        let beside = beside.map(|detector| match &reference.fusion {
            None => Err(refuse(run, "made without a classifier")),
            Some(fusion) if Some(&fusion.model) != detector.operation().model.as_ref() => {
                Err(refuse(run, &format!("stale: made for another `{MODEL}`")))
            }
            Some(fusion) => Ok((detector, fusion.clone())),
        });
        Ok(Self { beside: beside.transpose()?, autoencoder, reference, threshold: 1.0 })
    }

    /// The columns that its flows have.
    pub fn schema(&self) -> &Schema {
        self.autoencoder.tokeniser().schema()
    }

    /// The classifier beside it.
    pub fn beside(&self) -> Option<&Detector> {
        self.beside.as_ref().map(|(detector, _)| detector)
    }

    /// What it knows of benign flows.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Scores of benign rows that the threshold and p-values stand on.
    pub fn benign(&self) -> &BenignScores {
        self.beside.as_ref().map_or(&self.reference.benign, |(_, fusion)| &fusion.benign)
    }

    /// A score at or above it is an alarm.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Sets that.
    pub fn set_threshold(&mut self, threshold: f64) {
        self.threshold = threshold;
    }

    /// Whether a score is an alarm.
    pub fn is_alarm(&self, score: f32) -> bool {
        f64::from(score) >= self.threshold
    }

    /// The name of a feature.
    pub fn feature(&self, place: usize) -> &str {
        &self.autoencoder.tokeniser().tokens()[place].feature
    }
}

impl Judge for AnomalyDetector {
    type Encoded = (TokenTable, Option<TokenTable>);
    type Said = Unusual;

    fn tokeniser(&self) -> &Tokeniser {
        self.autoencoder.tokeniser()
    }

    fn engine(&self) -> &Engine<f32> {
        self.autoencoder.engine()
    }

    fn tokenise(&self, flows: &Flows) -> Result<Self::Encoded> {
        let beside = self.beside.as_ref().map(|(detector, _)| detector.tokeniser().tokenise(flows)).transpose()?;
        Ok((self.autoencoder.tokeniser().tokenise_with_targets(flows)?, beside))
    }

    fn counts(encoded: &Self::Encoded) -> &TokenTable {
        &encoded.0
    }

    fn classifier(&self) -> Option<&Detector> {
        self.beside()
    }

    fn scored(said: &Unusual) -> Option<&Scored> {
        said.scored.as_ref()
    }

    fn judge(&self, (encoded, for_classifier): &Self::Encoded) -> Unusual {
        let Reference { usual, .. } = &self.reference;
        let losses = self.autoencoder.hidden_losses(encoded, &all_rows(encoded.n_rows()), HIDDEN_TOGETHER);
        let anomaly = |(row, of_row): (usize, &[f32])| {
            let found = usual.anomaly(of_row);
            if are_numbers(encoded, row, &losses) { found } else { Anomaly { score: f64::NAN, ..found } }
        };
        let anomalies: Vec<Anomaly> = losses.chunks_exact(usual.n_features()).enumerate().map(anomaly).collect();
        let Some(((detector, fusion), table)) = self.beside.as_ref().zip(for_classifier.as_ref()) else {
            let scores = anomalies.iter().map(|anomaly| squashed(anomaly.score)).collect();
            return Unusual { anomalies, scored: None, scores };
        };
        let scored = detector.scored(table);
        let scores = detector.attacks_of(&scored.outputs).into_iter().zip(&anomalies).map(|(score, anomaly)| {
            let both = fused(fusion.attack.surprise(log_odds(score)), fusion.anomaly.surprise(anomaly.score));
            if score.is_finite() && anomaly.score.is_finite() { squashed(both) } else { f32::NAN }
        });
        Unusual { scores: scores.collect(), anomalies, scored: Some(scored) }
    }

    fn check(&self, flows: &Flows, said: &Unusual, origin: &str) -> Result<()> {
        if let Some((scored, detector)) = said.scored.as_ref().zip(self.beside()) {
            Judge::check(detector, flows, scored, origin)?;
        }
        match said.scores.iter().position(|score| !score.is_finite()) {
            Some(row) => Err(no_number(flows, row, origin)),
            None => Ok(()),
        }
    }
}
