//! What a trained classifier is for: verdicts on rows, and how good they are where labels are known.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use nids_eval::metrics::Metrics;
use nids_flows::{Classes, FlowReader, Flows, Labels, TokenTable, Tokeniser};
use nids_kernels::Buffer;
use nids_nn::engine::Engine;
use nids_nn::{ParamTable, Prepared};
use serde::Deserialize;

use crate::classifier::Network;
use crate::classifier::wants_classes;
use crate::data::read_tokeniser;
use crate::data::{all_rows, tell_ignored, tell_lines};
use crate::engine::inference_engine;
use crate::network::{WeightsFile, widths};
use crate::verdicts::Scores;
use nids_config::{Config, FinetuneFrom, Stage};
use nids_store::progress::{Event, Progress};
use nids_store::run::Run;
use nids_store::run::{MODEL, TOKENISER};
use nids_store::{Error, Result};

/// Rows read, predicted and written at once, at most: what bounds the memory, whatever the file's size.
const BATCH: usize = 8192;
/// Features of these rows.
const BATCH_FEATURES: usize = 128 * BATCH;

/// What `predict` saw beside the verdicts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PredictSummary {
    /// Rows read, hence lines written.
    pub rows: u64,
    /// Rows called an attack.
    pub attacks: u64,
    /// Values never seen in training, by column.
    pub unknown_categories: BTreeMap<String, u64>,
}

/// Compares verdicts with the labels of `data`, and with its categories where the classifier tells them apart.
pub fn evaluate(run: &Run, data: &Path, progress: &mut dyn Progress) -> Result<Metrics> {
    let detector = Detector::load(run)?;
    let mut scores = Scores::new(detector.network.outputs(), detector.classes.as_ref(), detector.threshold);
    let mut summary = PredictSummary::default();
    detector.each_batch(data, Labels::Required, &mut summary, progress, |flows, probabilities| {
        scores.add(flows, 0..flows.len(), probabilities);
        Ok(())
    })?;
    scores.metrics(&data.display().to_string(), progress)
}

/// Writes one line per row of `data`, in order: `id,probability,verdict`, the verdict being `attack` or `normal`, and, where the
/// classifier tells categories apart, `,category`.
pub fn predict(run: &Run, data: &Path, out: &mut dyn Write, progress: &mut dyn Progress) -> Result<PredictSummary> {
    let detector = Detector::load(run)?;
    let (outputs, threshold) = (detector.network.outputs(), detector.threshold);
    let names = detector.classes.as_ref().map_or(&[][..], Classes::names);
    let mut summary = PredictSummary::default();
    let mut attacks = 0;
    let mut lines = csv::Writer::from_writer(out);
    detector.each_batch(data, Labels::Optional, &mut summary, progress, |flows, probabilities| {
        for (id, probabilities) in flows.ids().iter().zip(probabilities.chunks_exact(outputs.width())) {
            let probability = outputs.attack(probabilities);
            let attack = f64::from(probability) >= threshold;
            attacks += u64::from(attack);
            let verdict = if attack { "attack" } else { "normal" };
            let category = outputs.class(probabilities, attack).map(|class| names[class].as_str());
            let probability = format!("{probability:.6}");
            lines.write_record([id, probability.as_str(), verdict].into_iter().chain(category)).map_err(cannot_write)?;
        }
        Ok(())
    })?;
    lines.flush().map_err(Error::io("the verdicts", "write"))?;
    Ok(PredictSummary { attacks, ..summary })
}

fn cannot_write(error: csv::Error) -> Error {
    let source = match error.into_kind() {
        csv::ErrorKind::Io(source) => source,
        other => std::io::Error::other(format!("{other:?}")),
    };
    Error::io("the verdicts", "write")(source)
}

/// The parameters of the classifier that a config describes: for tests, which make weights that fit.
#[doc(hidden)]
pub fn parameters(config: &Config, tokeniser: &Tokeniser, classes: Option<&Classes>) -> Result<ParamTable> {
    let mut table = ParamTable::default();
    Network::new(config, tokeniser, classes.filter(|_| wants_classes(config)), &mut table)?;
    Ok(table)
}

/// A classifier, ready to run.
pub(super) struct Detector {
    threshold: f64,
    tokeniser: Tokeniser,
    classes: Option<Classes>,
    widths: Vec<usize>,
    network: Network,
    engine: Engine<f32>,
    params: Buffer<f32>,
    prepared: Prepared<f32>,
}

impl Detector {
    pub(super) fn load(run: &Run) -> Result<Self> {
        let weights = WeightsFile::read(&run.require(Stage::Finetune, MODEL)?, Stage::Finetune)?;
        let tokeniser = read_tokeniser(&run.require(Stage::Finetune, TOKENISER)?, Stage::Finetune)?;
        let config = run.config_of(Stage::Finetune)?;
        let classes = if wants_classes(&config) { Some(read_classes(&weights)?) } else { None };
        let embeddings = if config.finetune.from == FinetuneFrom::Latents { 1 } else { config.finetune.independent() };
        weights.check_features(embeddings * tokeniser.tokens().len())?;
        Self::new(&config, tokeniser, classes, move |table, network| weights.params(table, &[""], network.tokens()))
    }

    pub(super) fn new(
        config: &Config,
        tokeniser: Tokeniser,
        classes: Option<Classes>,
        params: impl FnOnce(&ParamTable, &Network) -> Result<Buffer<f32>>,
    ) -> Result<Self> {
        let mut table = ParamTable::default();
        let network = Network::new(config, &tokeniser, classes.as_ref(), &mut table)?;
        let params = params(&table, &network)?;
        let engine = inference_engine(config, &table, network.activations(), network.members(), network.tokens())?;
        let prepared = Prepared::of(&table, engine.gemm(), &params);
        let widths = widths(&tokeniser);
        Ok(Self { threshold: config.evaluate.threshold, tokeniser, classes, widths, network, engine, params, prepared })
    }

    pub(super) fn tokeniser(&self) -> &Tokeniser {
        &self.tokeniser
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    pub(super) fn engine(&self) -> &Engine<f32> {
        &self.engine
    }

    /// The probabilities of [`crate::verdicts::Outputs`] for every row: [rows, W].
    pub(super) fn probabilities(&self, encoded: &TokenTable) -> Vec<f32> {
        let rows = all_rows(encoded.n_rows());
        self.network.probabilities(&self.engine, &self.params, &self.prepared, encoded, &self.widths, &rows)
    }

    /// The probability of an attack for every row.
    pub(super) fn attacks(&self, encoded: &TokenTable) -> Vec<f32> {
        let outputs = self.network.outputs();
        self.probabilities(encoded).chunks_exact(outputs.width()).map(|row| outputs.attack(row)).collect()
    }

    /// Reads a file batch by batch and calls `each` with its rows and their probabilities, [rows, W]. The next batch is read while the
    /// network looks at this one.
    pub(super) fn each_batch(
        &self,
        data: &Path,
        labels: Labels,
        summary: &mut PredictSummary,
        progress: &mut dyn Progress,
        mut each: impl FnMut(&Flows, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let mut reader = FlowReader::open(data, self.tokeniser.schema(), labels)?;
        tell_ignored(&reader, data, progress);
        let batch = (BATCH_FEATURES / self.widths.len().max(1)).clamp(1, BATCH);
        let mut read = || -> Result<Option<(Flows, TokenTable)>> {
            let Some(flows) = reader.next_batch(batch)? else { return Ok(None) };
            let encoded = self.tokeniser.tokenise(&flows)?;
            Ok(Some((flows, encoded)))
        };
        let mut next = read();
        while let Some((flows, encoded)) = next? {
            if let Some(signal) = progress.stop() {
                return Err(Error::Interrupted { signal });
            }
            let probabilities;
            (probabilities, next) = self.engine.join(|| self.probabilities(&encoded), &mut read);
            if let Some(place) = probabilities.iter().position(|p| !p.is_finite()) {
                let row = place / self.network.outputs().width();
                let message = format!("{}: the model gives no number for row `{}`", data.display(), flows.ids()[row]);
                return Err(Error::Numerics(message));
            }
            summary.rows += flows.len() as u64;
            for (column, n) in encoded.unknown_counts() {
                if *n > 0 {
                    *summary.unknown_categories.entry(column.clone()).or_default() += *n as u64;
                }
            }
            each(&flows, &probabilities)?;
        }
        tell_lines(&reader, data, progress);
        for (column, n) in &summary.unknown_categories {
            let (path, rows) = (data.display(), summary.rows);
            let message = format!("{path}: {n} of {rows} rows: `{column}` not known from training, read as unknown");
            progress.event(Event::Message(&message));
        }
        Ok(())
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

#[cfg(test)]
#[path = "predict_tests.rs"]
mod tests;
