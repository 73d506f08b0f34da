//! Stage 3: the classifier, on top of a pretrained encoder, of frozen latents, or from scratch.

mod objective;
pub(super) mod targets;

use nids_flows::draw_labelled;
use nids_kernels::{Buffer, Key};
use nids_nn::engine::{Engine, Objective};
use nids_nn::{ParamTable, Transposed, weights};
use serde::Serialize;
use serde_json::json;

use super::classifier::Network;
use super::data::{Labelled, fit_tokeniser, labelled, unlabelled};
use super::encode::read_tokeniser;
use super::network::{load_weights, widths};
use super::plan::Plan;
use super::sampler::Sampler;
use super::train::{engine, train};
use super::verdicts::Scores;
use super::{MODEL, PRETRAINED, TOKENISER, stream};
use crate::config::{Config, FinetuneFrom, Stage};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::progress::{Event, Progress};
use crate::run::Run;
use objective::{LabelledFlows, LabelledLatents};
use targets::Targets;

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
    let classes = targets::classes(config, &labelled, &rows)?;
    let encoded = tokeniser.encode(&labelled.flows)?;
    let widths = widths(&tokeniser);
    let mut table = ParamTable::default();
    let network = Network::new(config, &tokeniser, classes.as_ref(), &mut table)?;
    let mut params: Buffer<f32> = table.init(config.seed);
    if let Some((weights, _)) = &pretrained {
        load_weights(weights, Stage::Pretrain, &table, network.prefixes(), &mut params)?;
    }
    let mut engine = engine(config, &table, network.activations(), config.finetune.training.micro_batch)?;

    let validate = |engine: &Engine<f32>, params: &[f32], progress: &mut dyn Progress| -> Result<Metrics> {
        let val = &labelled.split.val;
        let probabilities = network.probabilities(engine, params, &Transposed::of(&table, params), &encoded, &widths, val);
        let mut scores = Scores::new(network.outputs(), classes.as_ref(), config.evaluate.threshold);
        scores.add(&labelled.flows, val.iter().map(|&row| row as usize), &probabilities);
        scores.metrics("validation", progress)
    };
    let batch_size = config.finetune.training.batch_size;
    let targets = Targets::new(config, &labelled, classes.as_ref(), &rows);
    let (of_flows, of_latents);
    let (objective, rows): (&dyn Objective<f32>, Vec<u32>) = if from == FinetuneFrom::Latents {
        let (found, rows) =
            LabelledLatents::read(config, &mut stage, &labelled, network.classifier(), targets, batch_size, &rows)?;
        of_latents = found;
        (&of_latents, rows)
    } else {
        of_flows = LabelledFlows {
            classifier: network.classifier(),
            encoded: &encoded,
            widths: &widths,
            targets,
            divisor: batch_size as f32,
        };
        (&of_flows, rows)
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
                let metrics = validate(engine, params, progress)?;
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
    let mut metadata = json!({"kind": "classifier", "config_hash": config.stage_hash(Stage::Finetune)});
    if let Some(classes) = &classes {
        metadata["classes"] = json!(classes);
    }
    stage.write(MODEL, &weights::to_bytes(&table, &params, &metadata.to_string()))?;
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
