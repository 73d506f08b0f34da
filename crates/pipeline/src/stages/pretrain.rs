//! Stage 1: an autoencoder on rows without labels.

use std::sync::Arc;

use nids_flows::{Flows, Tokeniser, all_rows};
use nids_kernels::Key;
use nids_models::{Elbo, Replaced, VaeConfig};
use nids_nn::engine::{Engine, Loss, Objective, Sample};
use nids_nn::schedule::{Schedule, Warmup};
use nids_nn::{Cx, Mode, ParamTable, weights};
use serde_json::json;

use super::dealt;
use crate::data::{Data, fit_tokeniser_and_targets, keep_benign};
use crate::packed::{self, PackedRows};
use crate::pretext::Pretext;
use crate::step_rows::{PackedSteps, StepRows};
use nids_config::{Config, ObjectiveConfig, PretrainConfig, RowsConfig, Stage};
use nids_detect::engine::engine;
use nids_store::Result;
use nids_store::progress::{Event, Progress};
use nids_store::run::{PRETRAINED, TOKENISER};
use nids_store::run::{Run, StageRun};
use nids_train::stream;
use nids_train::{Job, Sampler, TrainPlan, arithmetic};

/// Trains the autoencoder of `pretrain.objective` on the unlabelled rows and on the training part of the labelled ones, without
/// their labels, which `pretrain.rows: benign` alone looks at. Leaves `tokeniser.json` and `pretrained.safetensors`.
///
/// Where `data.cache` says so, the rows are not held in memory but read from a cache on the disk, step by step, to the same bytes.
pub fn pretrain(config: &Config, run: &Run, progress: &mut dyn Progress) -> Result<()> {
    let mut stage = run.begin(Stage::Pretrain, config, progress)?;
    if let Some(folder) = packed::folder(config, run.folder())? {
        let rows = Arc::new(PackedRows::open_or_pack(config, &folder, &mut stage, progress)?);
        stage.missing(rows.missing());
        let steps = PackedSteps::new(Arc::clone(&rows), config.pretrain.training.batch_size)?;
        return learn(config, run, stage, rows.tokeniser(), StepRows::Packed(&steps), rows.training_rows(), progress);
    }
    let mut data = crate::data::data(config, true, &mut stage, progress)?;
    if config.pretrain.rows == RowsConfig::Benign {
        keep_benign(&mut data, progress)?;
    }
    let Data { mut labelled, mut unlabelled } = data;
    let tokeniser = fit_tokeniser_and_targets(config, labelled.as_ref(), unlabelled.as_ref(), progress)?;
    let all_unlabelled = all_rows(unlabelled.as_ref().map_or(0, Flows::len));
    let mut parts: Vec<(&mut Flows, &[u32])> = Vec::new();
    parts.extend(labelled.as_mut().map(|labelled| (&mut labelled.flows, labelled.split.train.as_slice())));
    parts.extend(unlabelled.as_mut().map(|unlabelled| (unlabelled, all_unlabelled.as_slice())));
    let encoded = tokeniser.tokenise_and_free(parts)?;
    stage.missing(encoded.missing_counts());
    let training_rows = labelled.map_or_else(Vec::new, |labelled| labelled.split.train);
    drop(unlabelled);
    learn(config, run, stage, &tokeniser, StepRows::Memory(&encoded), &training_rows, progress)
}

/// Trains on tokenised rows: `training_rows` of `data.train`, then the unlabelled ones.
fn learn(
    config: &Config,
    run: &Run,
    mut stage: StageRun<'_>,
    tokeniser: &Tokeniser,
    rows: StepRows<'_>,
    training_rows: &[u32],
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut table = ParamTable::default();
    let pretext = Pretext::new(config, tokeniser, &mut table)?;
    let plan = TrainPlan::new(Stage::Pretrain, &config.pretrain.training, rows.n_rows());
    let objective = PretextObjective::new(&config.pretrain, &pretext, rows);
    let engine = engine(config, &table, pretext.activations(), 1, config.pretrain.training.micro_batch)?;
    let mut engine = dealt(engine, run)?;
    let mut params = table.init(config.seed);
    let mut sampler = Sampler::over(config.seed, rows.n_rows()).with_shuffle(config.data.shuffle);
    let key = Key::new(config.seed).child(stream::PRETRAIN);
    let row = |index: u32| match training_rows.get(index as usize) {
        Some(row) => format!("row {row} of `data.train`"),
        None => format!("row {} of `data.unlabelled`", index as usize - training_rows.len()),
    };
    let from = stage.resume(arithmetic(&engine), progress)?;
    let packed = if let StepRows::Packed(steps) = rows { Some(steps) } else { None };
    let fetch = packed.map(|steps| |samples: &[Sample], next: &[Sample]| steps.fetch(samples, next));
    let fetch = fetch.as_ref().map(|fetch| fetch as _);
    let job = Job { table: &table, objective: &objective, plan: &plan, key, average: None, finished: &[], row: &row, fetch };
    let check = |_: u64, _: &Engine<f32>, _: &[f32], _: &mut StageRun<'_>, _: &mut dyn Progress| {
        packed.map_or(Ok(()), PackedSteps::check).map(|()| None)
    };
    job.train(&mut engine, |_| 1.0, &mut sampler, &mut params, from.as_ref(), &mut stage, progress, check)?;

    stage.write(TOKENISER, tokeniser.to_json().as_bytes())?;
    let metadata = json!({"kind": pretext.kind(), "config_hash": config.stage_hash(Stage::Pretrain)}).to_string();
    stage.write(PRETRAINED, &weights::to_bytes(&table, &params, &metadata))?;
    stage.finish(&nids_kernels::describe(engine.gemm()))?;
    let summary = format!("{} and {} in {}", PRETRAINED, TOKENISER, run.folder().display());
    progress.event(Event::Finished { stage: Stage::Pretrain, summary: &summary });
    Ok(())
}

/// The loss of rebuilding rows, from the features that are not hidden or from a draw of the posterior, or of finding what was
/// swapped in them.
pub(crate) struct PretextObjective<'d> {
    pretext: &'d Pretext,
    rows: StepRows<'d>,
    /// Number of tokens that a whole step predicts, on average where it is drawn.
    divisor: f32,
    beta: Schedule,
}

impl<'d> PretextObjective<'d> {
    pub(crate) fn new(config: &PretrainConfig, pretext: &'d Pretext, rows: StepRows<'d>) -> Self {
        let n_predicted = match pretext {
            Pretext::Mae(mae) => mae.n_masked(),
            Pretext::Vae(vae) => vae.n_features() as f64,
            Pretext::Replaced(replaced) => replaced.n_features() as f64,
        };
        let beta = match &config.objective {
            ObjectiveConfig::Vae(settings) => beta(settings, config.training.steps),
            _ => Schedule::Constant { lr: 0.0, warmup: Warmup { steps: 0, start: 0.0 } },
        };
        Self { pretext, rows, divisor: (config.training.batch_size as f64 * n_predicted) as f32, beta }
    }

    fn beta_of(&self, step: u64) -> f64 {
        self.beta.lr(usize::try_from(step).unwrap_or(usize::MAX))
    }
}

/// β over the steps: a linear rise over the first `beta_warmup` of them, then level.
fn beta(settings: &VaeConfig, steps: u64) -> Schedule {
    let warmup = Warmup { steps: (settings.beta_warmup * steps as f64).round() as usize, start: 0.0 };
    Schedule::Constant { lr: settings.beta, warmup }
}

/// Swaps features of samples for those of other rows.   x: the samples' tokens   swapped: [F, b], 1 = another value
fn swap(replaced: &Replaced, rows: StepRows<'_>, key: Key, keys: &[u32], samples: &[Sample], x: &mut [f32], swapped: &mut [f32]) {
    replaced
        .draw_swaps(key, keys, rows.n_rows() as u32, swapped, |token, place, donor| rows.swap(samples, token, place, donor, x));
}

impl Objective<f32> for PretextObjective<'_> {
    fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], step: u64, samples: &[Sample]) -> Loss {
        let Mode::Train { key, samples: keys } = cx.mode else { unreachable!("an engine trains") };
        let (b, n) = (samples.len(), self.rows.n_tokens());
        let x = cx.alloc(b * self.rows.width());
        self.rows.fill(samples, x);
        let targets = cx.alloc(n * b);
        match self.pretext {
            Pretext::Mae(mae) => {
                self.rows.fill_targets(samples, targets);
                let mask = cx.alloc(n * b);
                mae.draw_mask(key, keys, Some(targets), mask);
                mae.loss(cx, Some(grads), b, x, mask, targets, self.divisor).into()
            }
            Pretext::Replaced(replaced) => {
                swap(replaced, self.rows, key, keys, samples, x, targets);
                replaced.loss(cx, Some(grads), b, x, targets, self.divisor).into()
            }
            Pretext::Vae(vae) => {
                self.rows.fill_targets(samples, targets);
                let beta = self.beta_of(step);
                let Elbo { reconstruction, kl } = vae.loss(cx, Some(grads), b, x, targets, beta as f32, self.divisor);
                Loss { total: reconstruction + beta * kl, term: kl }
            }
        }
    }

    fn terms(&self, step: u64, Loss { total, term: kl }: Loss, each: &mut dyn FnMut(&'static str, f64)) {
        if let Pretext::Vae(_) = self.pretext {
            each("reconstruction", total - self.beta_of(step) * kl);
            each("kl", kl);
        }
    }
}

#[cfg(test)]
mod tests {
    use nids_flows::FeatureColumn;

    use super::*;
    use crate::testing::slope_error;

    #[test]
    fn beta_rises_over_its_share_of_the_steps_and_stays() {
        let at = |beta_warmup, step| beta(&VaeConfig { beta: 0.5, beta_warmup, ..VaeConfig::default() }, 40).lr(step);
        for (beta_warmup, step, wanted) in [
            (0.25, 0, 0.05),
            (0.25, 4, 0.25),
            (0.25, 9, 0.5),
            (0.25, 10, 0.5),
            (0.25, 39, 0.5),
            (0.0, 0, 0.5),
            (1.0, 0, 0.0125),
            (1.0, 39, 0.5),
        ] {
            let found = at(beta_warmup, step);
            assert!((found - wanted).abs() < 1e-12, "warm-up {beta_warmup}, step {step}: {found}, not {wanted}");
        }
    }

    /// Calls `with` with the objective of generated flows, of which all but the first `present` numbers of `gaps` rows are missing.
    fn on_flows(
        objective: &str,
        present: usize,
        gaps: usize,
        with: impl FnOnce(&dyn Objective<f32>, &ParamTable, &mut Engine<f32>),
    ) {
        let objective = format!("pretrain.objective.{objective}");
        let settings =
            ["name=x", "model.dim=8", "model.depth=2", "model.dropout=0", "model.drop_path=0", "pretrain.batch_size=16"];
        let settings: Vec<String> = settings.into_iter().chain([objective.as_str()]).map(str::to_owned).collect();
        let config = Config::parse("{}", "c.yaml", &settings).unwrap();
        let mut flows = nids_flows::synthetic(16, 1);
        let numeric: Vec<usize> = (0..flows.features().len())
            .filter(|&feature| matches!(flows.features()[feature], FeatureColumn::Numeric(_)))
            .collect();
        for (row, &feature) in (0..gaps).flat_map(|row| numeric[present..].iter().map(move |feature| (row, feature))) {
            flows.put(row, feature, f64::NAN);
        }
        let mut tokeniser = Tokeniser::fit(&flows, &all_rows(16), &config.tokeniser).unwrap();
        if objective.contains("bins") {
            tokeniser = tokeniser.with_target_bins(&[(&flows, &all_rows(16))]).unwrap();
        }
        let encoded = tokeniser.tokenise_with_targets(&flows).unwrap();
        let mut table = ParamTable::default();
        let pretext = Pretext::new(&config, &tokeniser, &mut table).unwrap();
        let found = PretextObjective::new(&config.pretrain, &pretext, StepRows::Memory(&encoded));
        let mut engine = engine(&config, &table, pretext.activations(), 1, 16).unwrap();
        with(&found, &table, &mut engine);
    }

    fn samples() -> Vec<Sample> {
        (0..16).map(|row| Sample { row, key: row }).collect()
    }

    /// 17 of 42 tokens are hidden, of which three are categories.
    #[test]
    fn a_mask_hides_what_is_present_before_what_is_missing() {
        let losses = |objective: &str, present: usize| {
            let mut losses = Vec::new();
            on_flows(objective, present, 16, |objective, table, engine| {
                let params = table.init::<f32>(1);
                for key in 0..3 {
                    let mut loss = Loss::default();
                    engine.accumulate(objective, &params, Key::new(key), &mut table.zeros(), &mut loss, 0, &samples());
                    losses.push(loss.total.to_bits());
                }
            });
            losses
        };
        for objective in ["mae={}", "mae.encoder=visible_only", "mae.target=bins"] {
            // as many as are hidden: every mask is the same
            let same = losses(objective, 14);
            assert!(same.iter().all(|loss| *loss == same[0]), "{objective}: {same:?}");
            let drawn = losses(objective, 15);
            assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2], "{objective}: {drawn:?}");
        }
    }

    /// Every head at 0: the loss of a hidden number is the log of its number of classes.
    #[test]
    fn a_zero_head_of_bins_starts_at_the_log_of_their_number() {
        on_flows("mae.target=bins", 14, 0, |objective, table, engine| {
            let mut params = table.init::<f32>(1);
            let (mut expected, mut n_numbers) = (0.0, 0);
            for spec in table.specs().iter().filter(|spec| spec.name.starts_with("heads.")) {
                spec.param.of_mut::<f32>(&mut params).fill(0.0);
                if let [n_classes] = spec.shape[..] {
                    expected += (n_classes as f64).ln();
                    n_numbers += usize::from(n_classes > 1);
                }
            }
            assert_eq!(n_numbers, 42, "no head of a single number");
            let mut total = 0.0;
            for key in 0..200 {
                let mut loss = Loss::default();
                engine.accumulate(objective, &params, Key::new(key), &mut table.zeros(), &mut loss, 0, &samples());
                total += loss.total / 200.0;
            }
            // a mean over which features are hidden: 16 rows x 200 draws of 17 of 42, whose logs spread by about 1
            assert!((total - expected / 42.0).abs() < 0.02, "{total}, not {}", expected / 42.0);
        });
    }

    /// Logits of 0 but for a large one of each feature: the loss counts the features that differ from the row's own.
    #[test]
    fn what_a_swap_leaves_as_it_was_is_not_one() {
        let n_positive = |gaps: usize| {
            let mut n = 0.0;
            on_flows("replaced={}", 0, gaps, |objective, table, engine| {
                let mut params = table.init::<f32>(1);
                for spec in table.specs().iter().filter(|spec| spec.name.starts_with("heads.")) {
                    spec.param.of_mut::<f32>(&mut params).fill(if spec.shape.len() == 1 { -64.0 } else { 0.0 });
                }
                let mut loss = Loss::default();
                engine.accumulate(objective, &params, Key::new(1), &mut table.zeros(), &mut loss, 0, &samples());
                // 64 for each feature that was swapped, 0 for the others
                n = loss.total * 16.0 * 42.0 / 64.0;
            });
            n
        };
        let (some, none) = (n_positive(0), n_positive(16));
        assert!((some - some.round()).abs() < 1e-3 && (16.0..16.0 * 13.0).contains(&some), "{some} of 16 x 13 swaps");
        // where all numbers are missing in all rows, the three categories alone can differ
        assert!(none < 16.0 * 3.0, "{none}");
    }

    #[test]
    fn a_row_differs_where_it_is_said_to_be_swapped_and_nowhere_else() {
        let config = Config::parse("{}", "c.yaml", &["name=x".to_owned(), "pretrain.objective=replaced".to_owned()]).unwrap();
        let flows = nids_flows::synthetic(64, 1);
        let tokeniser = Tokeniser::fit(&flows, &all_rows(64), &config.tokeniser).unwrap();
        let encoded = tokeniser.tokenise(&flows).unwrap();
        let mut table = ParamTable::default();
        let Pretext::Replaced(replaced) = Pretext::new(&config, &tokeniser, &mut table).unwrap() else { unreachable!() };
        let samples: Vec<Sample> = (0..8).map(|row| Sample { row, key: row }).collect();
        let keys: Vec<u32> = (0..8).collect();
        let mut x = vec![0.0; 8 * encoded.width()];
        encoded.fill(0..8, &mut x);
        let before = x.clone();
        let mut swapped = vec![0.0; encoded.n_tokens() * 8];
        swap(&replaced, StepRows::Memory(&encoded), Key::new(3), &keys, &samples, &mut x, &mut swapped);
        for (token, swapped) in swapped.chunks_exact(8).enumerate() {
            for (place, &swapped) in swapped.iter().enumerate() {
                let values = encoded.place(token, place, 8);
                assert_eq!(x[values.clone()] != before[values], swapped > 0.0, "token {token} of row {place}");
            }
        }
        assert!(swapped.iter().sum::<f32>() > 8.0);
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let drawn = "mae.mask_ratio={from: 0, to: 0.9}";
        let objectives = [
            "mae={}",
            drawn,
            "mae.target=bins",
            "replaced={}",
            "mae.encoder=visible_only",
            "vae={beta: 20}",
            "vae={beta: 20, latent: pooled}",
        ];
        for (objective, gaps) in objectives.into_iter().flat_map(|objective| [(objective, 0), (objective, 9)]) {
            on_flows(objective, 6, gaps, |found, table, engine| {
                let error = slope_error(found, table, engine, &samples());
                assert!(error < 0.01, "{objective}, gaps in {gaps} rows: off by {error}");
            });
        }
    }
}
