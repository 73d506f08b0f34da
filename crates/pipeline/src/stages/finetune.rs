//! Stage 3: the classifier, on top of a pretrained encoder, of frozen latents, or from scratch.

use std::collections::BTreeSet;
use std::path::Path;

use ndarray::{Array1, Array2, ArrayD};
use nids_flows::{Encoded, draw_labelled};
use nids_kernels::{Buffer, Key};
use nids_models::Classifier;
use nids_nn::engine::{Engine, Objective, Sample};
use nids_nn::loss::{BceWeights, bce_with_logits};
use nids_nn::{Cx, Mode, ParamTable, Transposed, weights};
use serde::Serialize;
use serde_json::json;

use super::data::{Labelled, all_rows, fill, fit_tokeniser, labelled, unlabelled};
use super::encode::{add_noise, read_tokeniser, spread};
use super::network::{Network, load_weights, widths};
use super::plan::Plan;
use super::sampler::Sampler;
use super::train::{engine, train};
use super::{MODEL, PRETRAINED, TOKENISER, again, stream};
use crate::config::{Config, FinetuneFrom, Sigma, Stage};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::npy;
use crate::progress::{Event, Progress};
use crate::run::{Run, StageRun};

/// Trains the classifier on the training part of the labelled rows, or on `finetune.labels` of them, and returns its metrics
/// on the validation part. Leaves `model.safetensors` and `tokeniser.json`.
///
/// The last step's weights are kept: validation rows choose nothing.
#[expect(clippy::missing_panics_doc, reason = "there is a last step")]
pub fn finetune(config: &Config, run: &Run, progress: &mut dyn Progress) -> Result<Metrics> {
    let mut stage = run.begin(Stage::Finetune, config)?;
    let from = config.finetune.from;
    let pretrained = match from {
        FinetuneFrom::Scratch => None,
        _ => Some((stage.require(Stage::Pretrain, PRETRAINED)?, stage.require(Stage::Pretrain, TOKENISER)?)),
    };
    let labelled = labelled(config, &mut stage, progress)?;
    let tokeniser = if let Some((_, tokeniser)) = &pretrained {
        read_tokeniser(tokeniser, Stage::Pretrain)?
    } else {
        let unlabelled = unlabelled(config, &mut stage, progress)?;
        fit_tokeniser(config, &labelled, unlabelled.as_ref())?
    };
    let rows = match config.finetune.labels {
        None => labelled.split.train.clone(),
        Some(n) => {
            let rows = draw_labelled(labelled.labels(), &labelled.split.train, n, config.seed)
                .map_err(|error| Error::Usage(format!("`finetune.labels: {n}`: {error}")))?;
            progress.event(Event::Message(&format!("{} labels drawn of {}", rows.len(), labelled.split.train.len())));
            rows
        }
    };
    both_classes(config, &labelled, &rows)?;
    let encoded = tokeniser.encode(&labelled.flows)?;
    let widths = widths(&tokeniser);
    let mut table = ParamTable::default();
    let network = Network::new(config, &tokeniser, &mut table)?;
    let mut params: Buffer<f32> = table.init(config.seed);
    if let Some((weights, _)) = &pretrained {
        load_weights(weights, Stage::Pretrain, &table, network.prefixes(), &mut params)?;
    }
    let mut engine = engine(config, &table, network.activations(), config.finetune.training.micro_batch)?;

    let validate = |engine: &Engine<f32>, params: &[f32]| -> Result<Metrics> {
        let probabilities =
            network.probabilities(engine, params, &Transposed::of(&table, params), &encoded, &widths, &labelled.split.val);
        let labels: Vec<u8> = labelled.split.val.iter().map(|&row| labelled.labels()[row as usize]).collect();
        Metrics::new(&probabilities, &labels, config.evaluate.threshold)
    };
    let batch_size = config.finetune.training.batch_size;
    let labels: Vec<f32> = labelled.labels().iter().map(|&label| f32::from(label)).collect();
    let latents;
    let (objective, rows): (&dyn Objective<f32>, Vec<u32>) = match &network {
        Network::Direct(classifier) => (
            &LabelledFlows {
                classifier,
                encoded: &encoded,
                widths: &widths,
                labels: &labels,
                pos_weight: config.finetune.loss.pos_weight as f32,
                divisor: batch_size as f32,
            },
            rows,
        ),
        Network::Latent { head, .. } => {
            let (found, rows) = LabelledLatents::read(config, &mut stage, &labelled, head, batch_size, &rows)?;
            latents = found;
            (&latents, rows)
        }
    };
    // frozen latents train the head alone, a pretrained encoder is trained more gently than its head
    let was_pretrained = |name: &str| network.prefixes().iter().any(|prefix| name.starts_with(prefix));
    let lr_scale = |name: &str| match (from, was_pretrained(name)) {
        (FinetuneFrom::Latents, true) => 0.0,
        (FinetuneFrom::Pretrained, true) => config.finetune.encoder_lr_scale,
        _ => 1.0,
    };
    let plan = Plan::new(Stage::Finetune, &config.finetune.training, rows.len());
    let mut last = None;
    train(
        &mut engine,
        &table,
        objective,
        plan,
        Key::new(config.seed).child(stream::FINETUNE),
        lr_scale,
        &mut Sampler::new(config.seed, rows),
        &mut params,
        &mut stage,
        progress,
        |step, engine, params, stage, progress| {
            if step % config.finetune.eval_every == 0 || step == plan.steps {
                let metrics = validate(engine, params)?;
                let line = ValidationLine { step, validation: &metrics };
                stage.log(&line)?;
                let of = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
                let [accuracy, roc_auc] = [of(metrics.accuracy), of(metrics.roc_auc)];
                progress
                    .event(Event::Message(&format!("finetune: step {step}: validation accuracy {accuracy}, ROC-AUC {roc_auc}")));
                last = Some(metrics);
            }
            Ok(())
        },
    )?;

    stage.write(TOKENISER, tokeniser.to_json().as_bytes())?;
    let metadata = json!({"kind": "classifier", "config_hash": config.stage_hash(Stage::Finetune)}).to_string();
    stage.write(MODEL, &weights::to_bytes(&table, &params, &metadata))?;
    stage.finish(&nids_kernels::describe(engine.gemm()))?;
    let summary = format!("{MODEL} in {}", run.folder().display());
    progress.event(Event::Finished { stage: Stage::Finetune, summary: &summary });
    Ok(last.expect("the last step is validated"))
}

/// Rows of one class teach a classifier to call everything by its name.
fn both_classes(config: &Config, labelled: &Labelled, rows: &[u32]) -> Result<()> {
    let attacks = rows.iter().filter(|&&row| labelled.labels()[row as usize] == 1).count();
    if attacks > 0 && attacks < rows.len() {
        return Ok(());
    }
    let path = config.data.train.as_deref().unwrap_or("generated flows");
    let label = u8::from(attacks > 0);
    let advice = if config.finetune.labels.is_some() { "raise `finetune.labels`" } else { "give rows of both classes" };
    let n = rows.len();
    Err(Error::Data(format!(
        "{path}: all {n} rows to train on are labelled {label}: a classifier learns from both classes: {advice}"
    )))
}

#[derive(Serialize)]
struct ValidationLine<'m> {
    step: u64,
    validation: &'m Metrics,
}

/// Binary cross-entropy of a classifier over feature tokens.
struct LabelledFlows<'d> {
    classifier: &'d Classifier,
    encoded: &'d Encoded,
    widths: &'d [usize],
    labels: &'d [f32],
    pos_weight: f32,
    /// Rows of a whole step.
    divisor: f32,
}

impl Objective<f32> for LabelledFlows<'_> {
    fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], samples: &[Sample]) -> f64 {
        let b = samples.len();
        let x = cx.alloc(b * self.widths.iter().sum::<usize>());
        fill(self.encoded, self.widths, samples.iter().map(|sample| sample.row), x);
        let labels = samples.iter().map(|sample| self.labels[sample.row as usize]);
        classify(cx, grads, self.classifier, b, x, labels, self.pos_weight, self.divisor)
    }
}

/// Binary cross-entropy of a classifier over frozen latents, with fresh noise on them where the config asks for it.
struct LabelledLatents<'d> {
    head: &'d Classifier,
    z: Array2<f32>,
    labels: Vec<f32>,
    /// Sigma and the dimensions' spread.
    noise: Option<(Sigma, Vec<f32>)>,
    pos_weight: f32,
    divisor: f32,
}

impl<'d> LabelledLatents<'d> {
    /// Reads the latents that encode left; also which of their rows belong to the labelled `rows`.
    fn read(
        config: &Config,
        stage: &mut StageRun<'_>,
        labelled: &Labelled,
        head: &'d Classifier,
        batch_size: usize,
        rows: &[u32],
    ) -> Result<(Self, Vec<u32>)> {
        let mut require = |name: &str| stage.require(Stage::Encode, &format!("latents/{name}.npy"));
        let (z_path, rows_path) = (require("train")?, require("rows_train")?);
        let row_of: Array1<u32> = npy::read(&rows_path)?;
        let z = read_latents(&z_path, row_of.len(), head.encoder().input_width())?;
        if let Some(row) = row_of.iter().find(|&&row| row as usize >= labelled.flows.len()) {
            let what = format!("row {row} of {} labelled rows", labelled.flows.len());
            return Err(Error::artefact(rows_path, what, again(Stage::Encode)));
        }
        let drawn: BTreeSet<u32> = rows.iter().copied().collect();
        let of_drawn: Vec<u32> = all_rows(row_of.len()).into_iter().filter(|&i| drawn.contains(&row_of[i as usize])).collect();
        if of_drawn.is_empty() {
            let what = format!("holds none of the {} rows to train on", drawn.len());
            return Err(Error::artefact(rows_path, what, again(Stage::Encode)));
        }
        let noise = &config.encode.noise;
        let fresh = noise.fresh && !noise.sigma.is_off();
        let objective = Self {
            head,
            labels: row_of.iter().map(|&row| f32::from(labelled.labels()[row as usize])).collect(),
            noise: fresh.then(|| (noise.sigma, spread(&z).to_vec())),
            z,
            pos_weight: config.finetune.loss.pos_weight as f32,
            divisor: batch_size as f32,
        };
        Ok((objective, of_drawn))
    }
}

/// Latents as rows, whatever their shape beyond that.
fn read_latents(path: &Path, n_rows: usize, width: usize) -> Result<Array2<f32>> {
    let z: ArrayD<f32> = npy::read(path)?;
    let found = z.shape().to_vec();
    let fits = found.first() == Some(&n_rows) && z.len() == n_rows * width;
    if z.iter().any(|value| !value.is_finite()) {
        return Err(Error::artefact(path, "holds a number that is not finite", again(Stage::Encode)));
    }
    let rows = if fits { z.into_shape_with_order((n_rows, width)).ok() } else { None };
    rows.ok_or_else(|| {
        let what = format!("latents of shape {found:?}, wanted {n_rows} rows of {width} numbers");
        Error::artefact(path, what, again(Stage::Encode))
    })
}

impl Objective<f32> for LabelledLatents<'_> {
    fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], samples: &[Sample]) -> f64 {
        let (b, width) = (samples.len(), self.z.ncols());
        let x = cx.alloc(b * width);
        for (x, sample) in x.chunks_exact_mut(width).zip(samples) {
            let z = self.z.row(sample.row as usize);
            x.iter_mut().zip(z).for_each(|(x, &z)| *x = z);
            if let (Some((sigma, spread)), Mode::Train { key, .. }) = (&self.noise, cx.mode) {
                add_noise(key.child(stream::LATENT_NOISE), sample.key, *sigma, spread, x);
            }
        }
        let labels = samples.iter().map(|sample| self.labels[sample.row as usize]);
        classify(cx, grads, self.head, b, x, labels, self.pos_weight, self.divisor)
    }
}

/// Takes a shard through a classifier and back.   x: b samples
pub(super) fn classify<'a>(
    cx: &Cx<'a, f32>,
    grads: &mut [f32],
    classifier: &Classifier,
    b: usize,
    x: &'a mut [f32],
    labels: impl Iterator<Item = f32>,
    pos_weight: f32,
    divisor: f32,
) -> f64 {
    let target = cx.alloc(b);
    target.iter_mut().zip(labels).for_each(|(target, label)| *target = label);
    let (logits, cache) = classifier.forward(cx, b, x);
    let dlogits = cx.tensor(logits.shape);
    let loss = bce_with_logits(logits.data, target, BceWeights { pos_weight, weight: None }, divisor, dlogits.data);
    classifier.backward(cx, grads, cache, dlogits);
    loss
}
