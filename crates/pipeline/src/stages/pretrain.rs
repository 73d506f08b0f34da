//! Stage 1: a masked autoencoder on rows without labels.

use nids_flows::Encoded;
use nids_kernels::Key;
use nids_models::{Mae, random_masking};
use nids_nn::engine::{Objective, Sample};
use nids_nn::{Cx, Mode, ParamTable, weights};
use serde_json::json;

use super::data::{fill, fit_tokeniser, labelled, unlabelled};
use super::network::{mae, widths};
use super::sampler::Sampler;
use super::train::{Plan, engine, train};
use super::{PRETRAINED, TOKENISER, stream};
use crate::config::{Config, Stage};
use crate::error::Result;
use crate::progress::{Event, Progress};
use crate::run::Run;

/// Trains the masked autoencoder on the unlabelled rows and on the training part of the labelled ones, whose labels it does
/// not see. Leaves `tokeniser.json` and `pretrained.safetensors`.
pub fn pretrain(config: &Config, run: &Run, progress: &mut dyn Progress) -> Result<()> {
    let mut stage = run.begin(Stage::Pretrain, config)?;
    let labelled = labelled(config, &mut stage, progress)?;
    let unlabelled = unlabelled(config, &mut stage, progress)?;
    let tokeniser = fit_tokeniser(config, &labelled, unlabelled.as_ref())?;
    let mut encoded = tokeniser.encode(&labelled.flows.select(&labelled.split.train))?;
    if let Some(unlabelled) = &unlabelled {
        encoded.append(tokeniser.encode(unlabelled)?);
    }
    drop((labelled, unlabelled));

    let mut table = ParamTable::default();
    let mae = mae(config, &tokeniser, &mut table)?;
    let plan = Plan::of_pretrain(&config.pretrain);
    let objective = MaskedFlows::new(&mae, &encoded, widths(&tokeniser), plan.batch_size);
    let mut engine = engine(config, &table, mae.activations(), config.pretrain.micro_batch)?;
    let mut params = table.init(config.seed);
    let mut sampler = Sampler::new(config.seed, super::data::all_rows(encoded.n_rows()));
    let key = Key::new(config.seed).child(stream::PRETRAIN);
    train(
        &mut engine,
        &table,
        &objective,
        plan,
        key,
        |_| 1.0,
        &mut sampler,
        &mut params,
        &mut stage,
        progress,
        |_, _, _, _, _| Ok(()),
    )?;

    stage.write(TOKENISER, tokeniser.to_json().as_bytes())?;
    let metadata = json!({"kind": "masked autoencoder", "config_hash": config.stage_hash(Stage::Pretrain)}).to_string();
    stage.write(PRETRAINED, &weights::to_bytes(&table, &params, &metadata))?;
    stage.finish(&nids_kernels::describe(engine.gemm()))?;
    let summary = format!("{} and {} in {}", PRETRAINED, TOKENISER, run.folder().display());
    progress.event(Event::Finished { stage: Stage::Pretrain, summary: &summary });
    Ok(())
}

/// Rows whose features are hidden and predicted.
pub(super) struct MaskedFlows<'d> {
    mae: &'d Mae,
    encoded: &'d Encoded,
    widths: Vec<usize>,
    /// Masked tokens of a whole step.
    divisor: f32,
}

impl<'d> MaskedFlows<'d> {
    pub(super) fn new(mae: &'d Mae, encoded: &'d Encoded, widths: Vec<usize>, batch_size: usize) -> Self {
        Self { mae, encoded, widths, divisor: (batch_size * mae.n_masked()) as f32 }
    }
}

impl Objective<f32> for MaskedFlows<'_> {
    fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], samples: &[Sample]) -> f64 {
        let Mode::Train { key, samples: keys } = cx.mode else { unreachable!("an engine trains") };
        let (b, n) = (samples.len(), self.widths.len());
        let x = cx.alloc(b * self.widths.iter().sum::<usize>());
        fill(self.encoded, &self.widths, samples.iter().map(|sample| sample.row), x);
        let mask = cx.alloc(n * b);
        random_masking(key, keys, n, self.mae.n_masked(), mask);
        let targets = cx.alloc(n * b);
        for (token, targets) in targets.chunks_exact_mut(b).enumerate() {
            for (target, sample) in targets.iter_mut().zip(samples) {
                *target = self.encoded.target(sample.row as usize, token);
            }
        }
        self.mae.loss(cx, Some(grads), b, x, mask, targets, self.divisor)
    }
}
