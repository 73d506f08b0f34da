//! What a trained classifier is for: verdicts on rows, and how good they are where labels are known.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use nids_flows::{Encoded, FlowReader, Flows, Labels, Tokeniser};
use nids_kernels::Buffer;
use nids_nn::engine::Engine;
use nids_nn::{ParamTable, Transposed};

use super::data::{all_rows, tell_ignored};
use super::encode::read_tokeniser;
use super::network::{Network, load_weights, widths};
use super::train::engine;
use super::{MODEL, TOKENISER};
use crate::config::{Config, Stage};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::progress::{Event, Progress};
use crate::run::Run;

/// Rows read, predicted and written at once: what bounds the memory, whatever the file's size.
const BATCH: usize = 8192;

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

/// Compares verdicts with the labels of `data`.
#[expect(clippy::missing_panics_doc, reason = "labels are required of the reader")]
pub fn evaluate(run: &Run, data: &Path, progress: &mut dyn Progress) -> Result<Metrics> {
    let detector = Detector::load(run)?;
    let (mut probabilities, mut labels) = (Vec::new(), Vec::new());
    let mut summary = PredictSummary::default();
    detector.each_batch(data, Labels::Required, &mut summary, progress, |flows, batch| {
        probabilities.extend_from_slice(batch);
        labels.extend_from_slice(flows.labels().expect("labels were required of the reader"));
        Ok(())
    })?;
    Metrics::new(&probabilities, &labels, detector.threshold)
}

/// Writes one line per row of `data`, in order: `id,probability,verdict`, the verdict being `attack` or `normal`.
pub fn predict(run: &Run, data: &Path, out: &mut dyn Write, progress: &mut dyn Progress) -> Result<PredictSummary> {
    let detector = Detector::load(run)?;
    let threshold = detector.threshold;
    let mut summary = PredictSummary::default();
    let mut attacks = 0;
    let mut lines = csv::Writer::from_writer(out);
    detector.each_batch(data, Labels::Optional, &mut summary, progress, |flows, probabilities| {
        for (id, &probability) in flows.ids().iter().zip(probabilities) {
            let attack = f64::from(probability) >= threshold;
            attacks += u64::from(attack);
            let verdict = if attack { "attack" } else { "normal" };
            lines.write_record([id, format!("{probability:.6}").as_str(), verdict]).map_err(cannot_write)?;
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

/// A classifier, ready to run.
pub(super) struct Detector {
    threshold: f64,
    tokeniser: Tokeniser,
    widths: Vec<usize>,
    network: Network,
    engine: Engine<f32>,
    params: Buffer<f32>,
    transposed: Transposed<f32>,
}

impl Detector {
    fn load(run: &Run) -> Result<Self> {
        let weights = run.require(Stage::Finetune, MODEL)?;
        let tokeniser = read_tokeniser(&run.require(Stage::Finetune, TOKENISER)?, Stage::Finetune)?;
        let config = run.config_of(Stage::Finetune)?;
        Self::new(&config, tokeniser, |table| {
            let mut params = table.zeros();
            load_weights(&weights, Stage::Finetune, table, &[""], &mut params)?;
            Ok(params)
        })
    }

    pub(super) fn new(
        config: &Config,
        tokeniser: Tokeniser,
        params: impl FnOnce(&ParamTable) -> Result<Buffer<f32>>,
    ) -> Result<Self> {
        let mut table = ParamTable::default();
        let network = Network::new(config, &tokeniser, &mut table)?;
        let params = params(&table)?;
        let transposed = Transposed::of(&table, &params);
        let engine = engine(config, &table, network.activations(), BATCH)?;
        let widths = widths(&tokeniser);
        Ok(Self { threshold: config.evaluate.threshold, tokeniser, widths, network, engine, params, transposed })
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

    /// The probability of an attack for every row.
    pub(super) fn probabilities(&self, encoded: &Encoded) -> Vec<f32> {
        let rows = all_rows(encoded.n_rows());
        self.network.probabilities(&self.engine, &self.params, &self.transposed, encoded, &self.widths, &rows)
    }

    /// Reads a file batch by batch and calls `each` with its rows and their probabilities. The next batch is read while the
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
        let mut read = || -> Result<Option<(Flows, Encoded)>> {
            let Some(flows) = reader.next_batch(BATCH)? else { return Ok(None) };
            let encoded = self.tokeniser.encode(&flows)?;
            Ok(Some((flows, encoded)))
        };
        let mut next = read();
        while let Some((flows, encoded)) = next? {
            let probabilities;
            (probabilities, next) = self.engine.join(|| self.probabilities(&encoded), &mut read);
            if let Some(row) = probabilities.iter().position(|p| !p.is_finite()) {
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
        for (column, n) in &summary.unknown_categories {
            let (path, rows) = (data.display(), summary.rows);
            let message = format!("{path}: {n} of {rows} rows: `{column}` not known from training, read as unknown");
            progress.event(Event::Message(&message));
        }
        Ok(())
    }
}
