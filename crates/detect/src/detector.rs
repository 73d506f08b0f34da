//! A trained classifier, ready to run.

use std::path::Path;

use nids_config::{Config, FinetuneFrom, Stage};
use nids_flows::{Classes, Flows, ReadOptions, Reject, Schema, TokenTable, Tokeniser, all_rows};
use nids_nn::ParamTable;
use nids_nn::engine::Engine;
use nids_store::progress::Progress;
use nids_store::run::{MODEL, PROFILE, Run, TOKENISER};
use nids_store::{Error, Result};
use serde::Deserialize;

use crate::batches::{Judge, ReadSummary, batches, each_batch};
use crate::classifier::{Network, wants_classes};
use crate::model::Model;
use crate::operation::{Operation, Using};
use crate::profile::Profile;
use crate::read::{read_listed, read_tokeniser};
use crate::verdicts::Outputs;
use crate::weights_file::WeightsFile;

/// What a classifier says of a flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict<'d> {
    /// The probability of an attack, between 0 and 1.
    pub probability: f32,
    /// Whether that reaches the threshold.
    pub is_attack: bool,
    /// The conformal p-value: how rarely a benign row has such a probability. None without a calibration.
    pub p_value: Option<f64>,
    /// What kind of attack, or the name of benign flows; None where the classifier knows no categories.
    pub category: Option<&'d str>,
}

/// What a classifier makes of some rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// The model's probabilities of [`Outputs`].   [rows, C]
    pub outputs: Vec<f32>,
    /// The probability of an attack: calibrated and adapted, where the run is.   [rows]
    pub attacks: Vec<f32>,
}

/// The parameters of the classifier that a config describes: for tests, which make weights that fit.
#[doc(hidden)]
pub fn parameters(config: &Config, tokeniser: &Tokeniser, classes: Option<&Classes>) -> Result<ParamTable> {
    let mut table = ParamTable::default();
    if config.finetune.has_network() {
        Network::new(config, tokeniser, classes.filter(|_| wants_classes(config)), &mut table)?;
    }
    Ok(table)
}

/// A classifier, ready to run.
#[derive(Debug)]
pub struct Detector {
    threshold: f64,
    tokeniser: Tokeniser,
    classes: Option<Classes>,
    model: Model,
    operation: Operation,
    profile: Option<Profile>,
}

impl Detector {
    /// The classifier that `finetune` left in a run folder, as `calibrate` and `adapt` have set it.
    pub fn open(run: &Run) -> Result<Self> {
        Self::open_using(run, Using::Adaptation)
    }

    /// The same with less of what these two have left.
    pub fn open_using(run: &Run, using: Using) -> Result<Self> {
        run.steadily(|| Self::read(run, using))
    }

    fn read(run: &Run, using: Using) -> Result<Self> {
        let (path, digest) = run.require_with_digest(Stage::Finetune, MODEL)?;
        let weights = WeightsFile::read(&path, Stage::Finetune)?;
        let tokeniser = read_tokeniser(&run.require(Stage::Finetune, TOKENISER)?, Stage::Finetune)?;
        let config = run.config_of(Stage::Finetune)?;
        let classes = if wants_classes(&config) { Some(read_classes(&weights)?) } else { None };
        let embeddings = match config.finetune.from {
            FinetuneFrom::Features => 0,
            FinetuneFrom::Frozen | FinetuneFrom::Latents => 1,
            FinetuneFrom::Pretrained | FinetuneFrom::Scratch => config.finetune.independent(),
        };
        weights.check_features(embeddings * tokeniser.tokens().len())?;
        let model = Model::read(&config, &tokeniser, classes.as_ref(), &weights)?;
        let operation = Operation::read(run, digest, tokeniser.tokens().len(), using)?;
        let threshold = operation.point().threshold().unwrap_or(config.evaluate.threshold);
        let profile = read_listed(run, PROFILE, |bytes| Profile::from_bytes(bytes)?.check(&tokeniser))?;
        Ok(Self { threshold, tokeniser, classes, model, operation, profile })
    }

    /// An untrained network of a config, because only its speed matters.
    pub fn untrained(config: &Config, tokeniser: Tokeniser, classes: Option<Classes>) -> Result<Self> {
        if !config.finetune.heads().is_empty() {
            let message = "`finetune.heads`: there is nothing to run before heads are fitted: name a config without them";
            return Err(Error::Usage(message.to_owned()));
        }
        let model = Model::trained(config, &tokeniser, classes.as_ref(), |table, _| Ok(table.init(0)))?;
        let operation = Operation::default();
        Ok(Self { threshold: config.evaluate.threshold, tokeniser, classes, model, operation, profile: None })
    }

    /// The columns that its flows have.
    pub fn schema(&self) -> &Schema {
        self.tokeniser.schema()
    }

    /// What it makes of columns.
    pub fn tokeniser(&self) -> &Tokeniser {
        &self.tokeniser
    }

    /// What gives its probabilities.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The engine that it runs on.
    pub fn engine(&self) -> &Engine<f32> {
        self.model.engine()
    }

    /// What its outputs are.
    pub fn outputs(&self) -> Outputs {
        self.model.outputs()
    }

    /// The categories that it tells apart.
    pub fn classes(&self) -> Option<&Classes> {
        self.classes.as_ref()
    }

    /// What makes its scores into probabilities and alarms.
    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    /// What it was trained on, in counts; None of an untrained network, and of a run made before there were profiles.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// Replaces what makes scores into probabilities, as `calibrate` and `adapt` do to see what they would change. The threshold stays.
    pub fn set_operation(&mut self, operation: Operation) {
        self.operation = operation;
    }

    /// A probability at or above it is an attack.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Sets the probability from which on a row is an attack.
    pub fn set_threshold(&mut self, threshold: f64) {
        self.threshold = threshold;
    }

    /// A verdict for every row of `flows`, which were read by [`Detector::schema`]. A verdict is a function of the row alone.
    pub fn score(&self, flows: &Flows) -> Result<Vec<Verdict<'_>>> {
        let scored = self.scored(&self.tokeniser.tokenise(flows)?);
        self.check(flows, &scored.outputs, "the flows")?;
        Ok(self.verdicts(&scored))
    }

    /// What the classifier makes of every row of `flows`, a batch at a time.
    pub fn scored_flows(&self, flows: &Flows) -> Result<Scored> {
        let mut all = Scored { outputs: Vec::new(), attacks: Vec::new() };
        for some in batches(flows, &self.tokeniser) {
            let Scored { outputs, attacks } = self.scored(&self.tokeniser.tokenise(&some)?);
            self.check(&some, &outputs, "the flows")?;
            all.outputs.extend(outputs);
            all.attacks.extend(attacks);
        }
        Ok(all)
    }

    /// The model's score of every row of `flows`: its probability of an attack, before any calibration.
    pub fn model_scores(&self, flows: &Flows) -> Result<Vec<f32>> {
        Ok(self.attacks_of(&self.scored_flows(flows)?.outputs))
    }

    /// The probability of an attack of every row, by the model's own.   outputs: [rows, C]
    pub fn attacks_of(&self, outputs: &[f32]) -> Vec<f32> {
        outputs.chunks_exact(self.outputs().width()).map(|row| self.outputs().attack(row)).collect()
    }

    /// What scores amount to, row by row.
    pub fn verdicts(&self, scored: &Scored) -> Vec<Verdict<'_>> {
        let rows = scored.outputs.chunks_exact(self.outputs().width()).zip(&scored.attacks);
        rows.map(|(outputs, &probability)| self.verdict(outputs, probability)).collect()
    }

    /// outputs: [C]
    fn verdict(&self, outputs: &[f32], probability: f32) -> Verdict<'_> {
        let is_attack = f64::from(probability) >= self.threshold;
        let class = self.classes.as_ref().zip(self.outputs().class(outputs, is_attack));
        let benign = self.operation.benign();
        Verdict {
            probability,
            is_attack,
            p_value: benign.map(|benign| benign.p_value(probability)),
            category: class.map(|(classes, class)| classes.names()[class].as_str()),
        }
    }

    /// What the classifier makes of every row.
    pub fn scored(&self, encoded: &TokenTable) -> Scored {
        let outputs = self.probabilities(encoded);
        let scores = outputs.chunks_exact(self.outputs().width()).map(|row| self.outputs().attack(row)).enumerate();
        let probability = |(row, score): (usize, f32)| {
            // a score that is no number stays none, and is refused
            if score.is_finite() { self.operation.probability(score, |feature| encoded.value(row, feature)) } else { score }
        };
        let attacks = scores.map(probability).collect();
        Scored { outputs, attacks }
    }

    /// The model's probabilities of [`Outputs`] for every row, before any calibration: [rows, C].
    pub fn probabilities(&self, encoded: &TokenTable) -> Vec<f32> {
        self.model.probabilities(encoded, &all_rows(encoded.n_rows()))
    }

    /// The model's probability of an attack for every row, before any calibration.
    pub fn attacks(&self, encoded: &TokenTable) -> Vec<f32> {
        self.attacks_of(&self.probabilities(encoded))
    }

    /// Refuses probabilities that are no numbers.
    fn check(&self, flows: &Flows, outputs: &[f32], origin: &str) -> Result<()> {
        let Some(place) = outputs.iter().position(|p| !p.is_finite()) else { return Ok(()) };
        let row = place / self.outputs().width();
        Err(Error::Numerics(format!("{origin}: the model gives no number for row `{}`", flows.ids()[row])))
    }

    /// Reads files batch by batch and calls `each` with rows, what the classifier makes of them, and the rows that were left out on the
    /// way: [`each_batch`].
    pub fn each_batch(
        &self,
        files: &[impl AsRef<Path>],
        options: &ReadOptions,
        summary: &mut ReadSummary,
        progress: &mut dyn Progress,
        each: impl FnMut(&Flows, &Scored, &[Reject]) -> Result<()>,
    ) -> Result<()> {
        each_batch(self, files, options, summary, progress, each)
    }
}

impl Judge for Detector {
    type Encoded = TokenTable;
    type Said = Scored;

    fn tokeniser(&self) -> &Tokeniser {
        &self.tokeniser
    }

    fn engine(&self) -> &Engine<f32> {
        self.model.engine()
    }

    fn tokenise(&self, flows: &Flows) -> Result<TokenTable> {
        Ok(self.tokeniser.tokenise(flows)?)
    }

    fn counts(encoded: &TokenTable) -> &TokenTable {
        encoded
    }

    fn judge(&self, encoded: &TokenTable) -> Scored {
        self.scored(encoded)
    }

    fn check(&self, flows: &Flows, said: &Scored, origin: &str) -> Result<()> {
        self.check(flows, &said.outputs, origin)
    }

    fn classifier(&self) -> Option<&Detector> {
        Some(self)
    }

    fn scored(said: &Scored) -> Option<&Scored> {
        Some(said)
    }
}

/// The classes that finetune has written beside the weights.
fn read_classes(weights: &WeightsFile) -> Result<Classes> {
    #[derive(Deserialize)]
    struct Metadata {
        classes: Classes,
    }
    let metadata = weights.metadata()?;
    let read = serde_json::from_str(metadata.as_deref().unwrap_or("{}"));
    let Metadata { classes } = read.map_err(|error| weights.refuse(format!("metadata without classes: {error}")))?;
    Ok(classes)
}
