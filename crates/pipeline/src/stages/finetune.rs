//! Stage 3: the classifier, on top of a pretrained encoder, of frozen latents, or from scratch; or heads on what is frozen.

mod committee;
pub(crate) mod encoded;
mod objective;
mod rows;
pub(crate) mod targets;
mod teachers;

use std::path::Path;
use std::sync::RwLock;

use nids_eval::metrics::Metrics;
use nids_flows::{Classes, Tokeniser};
use nids_kernels::{Buffer, Key};
use nids_nn::engine::{Engine, Objective, Sample};
use nids_nn::{Ema, ParamTable, Prepared};
use rand::RngExt as _;
use serde_json::json;

use super::dealt;
use super::mean_teacher::MeanTeacherObjective;
use crate::data::Labelled;
use crate::pretext::mask_token;
use crate::step_rows::StepRows;
use committee::Fitting;
use encoded::Encoded;
use nids_config::{Config, FinetuneConfig, FinetuneFrom, Refit, Stage};
use nids_detect::engine::{engine, reserve_openblas};
use nids_detect::profile::{FeatureProfile, Profile, ScoreProfile};
use nids_detect::verdicts::{Outputs, Scores};
use nids_detect::{Basis, Committee, Model, Network, WeightsFile, model_bytes};
use nids_store::checkpoint::Checkpoint;
use nids_store::log::Line;
use nids_store::progress::{Event, Progress};
use nids_store::run::{BACKGROUND, MODEL, PRETRAINED, PROFILE, TOKENISER, TRAINING_ROWS};
use nids_store::run::{Run, StageRun};
use nids_store::{Error, Result};
use nids_train::stream;
use nids_train::{Job, Sampler, TrainPlan, arithmetic, member_in_training};
use objective::{LatentObjective, SupervisedObjective};
use rows::{Kept, Rows};
use targets::Targets;

/// Trains the classifier on the training part of the labelled rows, or on those that `finetune.labels` or `finetune.label_rows`
/// leave of it, and returns its metrics on the validation part. Leaves `model.safetensors`, `tokeniser.json`,
/// `profile.json`, `background.json` and `training-rows.bin`.
///
/// With `finetune.from: frozen` or `features` no network is trained: heads are fitted.
///
/// The weights of the last step are kept, or with `finetune.ema` or `finetune.mean_teacher` their average. The choice of weights
/// never depends on the validation rows.
pub fn finetune(config: &Config, run: &Run, progress: &mut dyn Progress) -> Result<Metrics> {
    if let Some(peers) = run.peers().filter(|_| !config.finetune.has_network()) {
        let n = peers.size();
        return Err(Error::Usage(format!("{n} processes, but no network is trained here, only heads: start one process")));
    }
    let mut stage = run.begin(Stage::Finetune, config, progress)?;
    let pretrained = match config.finetune.from {
        FinetuneFrom::Scratch | FinetuneFrom::Features => None,
        _ => Some((stage.require(Stage::Pretrain, PRETRAINED)?, stage.require(Stage::Pretrain, TOKENISER)?)),
    };
    let pretrained_tokeniser = pretrained.as_ref().map(|(_, tokeniser)| tokeniser.as_path());
    let rows = Rows::read(config, pretrained_tokeniser, &mut stage, progress)?;
    let weights = pretrained.as_ref().map(|(weights, _)| weights.as_path());
    let found = if config.finetune.has_network() {
        networks(config, run, weights, rows, stage, progress)?
    } else {
        heads_alone(config, weights, &rows, stage, progress)?
    };
    let summary = format!("{MODEL} in {}", run.folder().display());
    progress.event(Event::Finished { stage: Stage::Finetune, summary: &summary });
    Ok(found)
}

/// Whether [`finetune`] reads its rows from a cache on the disk, because memory should not hold them.
pub fn rows_are_packed(config: &Config, run: &Run) -> Result<bool> {
    Ok(matches!(encoded::folder(config, run.folder())?, Ok(Some(_))))
}

/// Trains networks, one after another, and lets heads vote beside them.
fn networks(
    config: &Config,
    run: &Run,
    pretrained: Option<&Path>,
    rows: Rows,
    mut stage: StageRun<'_>,
    progress: &mut dyn Progress,
) -> Result<Metrics> {
    let Rows { labelled, tokeniser, encoded, with_labels: rows, without_labels, taught, kept } = rows;
    let (from, classes) = (config.finetune.from, targets::classes(config, &labelled, &rows)?);
    let mut table = ParamTable::default();
    let network = Network::one(config, &tokeniser, classes.as_ref(), &mut table)?;
    if let Some(weights) = pretrained {
        WeightsFile::read(weights, Stage::Pretrain)?.check(&table, network.prefixes(), 0)?;
    }
    let engine = engine(config, &table, network.activations(), network.members(), config.finetune.training.micro_batch)?;
    let mut engine = dealt(engine, run)?;
    stage.check_kernels(&nids_kernels::describe(engine.gemm()), progress)?;
    let batch_size = config.finetune.training.batch_size;
    let mut targets = Targets::new(config, &labelled, classes.as_ref(), &rows);
    let (steps, labelled_rows) = (encoded.steps(batch_size)?, rows.clone());
    let average = config.finetune.decay().map(|decay| RwLock::new(Ema::new(&table.zeros(), decay)));
    let (supervised, latent, mean_teacher);
    let (objective, rows): (&dyn Objective<f32>, Vec<u32>) = if from == FinetuneFrom::Latents {
        let (found, rows) =
            LatentObjective::read(config, &mut stage, &labelled, network.classifier(), targets, batch_size, &rows)?;
        latent = found;
        (&latent, rows)
    } else if let Some((settings, teacher)) = config.finetune.mean_teacher.as_ref().zip(average.as_ref()) {
        let token = pretrained.map_or(Ok(None), |weights| mask_token(run, weights))?;
        let flows = (encoded.table(), labelled.labels());
        let prepared = Prepared::new(&table, engine.gemm());
        mean_teacher =
            MeanTeacherObjective::new(&config.finetune, settings, prepared, network.classifier(), flows, token, teacher);
        (&mean_teacher, rows)
    } else {
        let mut rows = rows;
        if let Some(taught) = taught {
            targets.blend(&taught);
            rows = taught.rows;
        }
        let (classifier, divisor) = (network.classifier(), batch_size as f32);
        let step_rows = steps.as_ref().map_or_else(|| StepRows::Memory(encoded.table()), StepRows::Packed);
        supervised = SupervisedObjective { classifier, rows: step_rows, targets, divisor };
        (&supervised, rows)
    };

    let passes = passes(config, classes.as_ref(), &labelled, rows, labelled_rows, progress);
    let held_out = HeldOut { config, labelled: &labelled, classes: classes.as_ref(), encoded: &encoded };
    let mut ensemble_table = ParamTable::default();
    let ensemble = Network::new(config, &tokeniser, classes.as_ref(), &mut ensemble_table)?;
    let (members, n_params) = (config.finetune.independent(), ensemble_table.buffer_len());
    let n_trainings = passes.len() * members;
    let mut params = Buffer::zeros(passes.len() * n_params); // of each pass
    let fetch = steps.as_ref().map(|steps| |samples: &[Sample], next: &[Sample]| steps.fetch(samples, next));
    let row = |index: u32| row_name(from, labelled.flows.len(), index);
    let resumed = stage.resume(arithmetic(&engine), progress)?;
    let first = resumed.as_ref().map_or(Ok(0), |checkpoint| under_way(checkpoint, n_trainings, &mut params))?;
    let mut metrics = None;
    for k in first..n_trainings {
        let (pass, k_of_pass) = (k / members, k % members);
        let Pass { plan, rows, is_refit, .. } = &passes[pass];
        let seed = seed_of(config.finetune_seed(), k_of_pass);
        let mut member: Buffer<f32> = table.init(seed);
        if let Some(weights) = pretrained {
            WeightsFile::read(weights, Stage::Pretrain)?.load(&table, network.prefixes(), &mut member)?;
        }
        let (average, without_labels) = (average.as_ref(), &without_labels[..]);
        let plan = plan.for_member((n_trainings > 1).then_some(k));
        let finished: &[f32] = if n_trainings > 1 { &params } else { &[] };
        let key = Key::new(seed).child(stream::FINETUNE);
        let job = Job {
            table: &table,
            objective,
            plan: &plan,
            key,
            average,
            finished,
            row: &row,
            fetch: fetch.as_ref().map(|fetch| fetch as _),
        };
        let trained = Trained { network: &network, job, without_labels, seed, is_refit: *is_refit };
        let from = resumed.as_ref().filter(|_| k == first);
        let found = trained.train(&mut engine, rows.clone(), &mut member, from, &held_out, &mut stage, progress)?;
        metrics = metrics.or(found.filter(|_| members == 1));
        ensemble.adopt(k_of_pass, &ensemble_table, &table, &member, &mut params[pass * n_params..][..n_params]);
    }
    let heads = config.finetune.heads().len();
    let fit = |rows: &[u32], progress: &mut dyn Progress| match heads {
        0 => Ok(Committee::default()),
        _ => Fitting { config, labelled: &labelled, encoded: encoded.table(), rows }.fit(&engine, None, progress),
    };
    let committee = fit(&passes[0].with_labels, progress)?;
    let of_held_out = held_out.probabilities(&ensemble, &ensemble_table, &engine, &params[..n_params], &committee)?;
    let profile = held_out.profile(kept.profile.clone(), ensemble.outputs(), &of_held_out);
    if metrics.is_none() || heads > 0 {
        let found = held_out.judge(ensemble.outputs(), &of_held_out, progress)?;
        if members + heads > 1 {
            let steps = passes[0].plan.steps;
            stage.log(&validation(steps, (members > 1).then_some(members), (heads > 0).then_some(heads), &found))?;
            tell(&format!("finetune: {} averaged", voters(members, heads)), &found, progress);
        }
        metrics = Some(found);
    }
    let committee = passes.get(1).map_or(Ok(committee), |refit| fit(&refit.with_labels, progress))?;
    let written = Written { config, tokeniser: &tokeniser, classes: classes.as_ref(), kept: &kept, profile: &profile };
    let params = &params[(passes.len() - 1) * n_params..];
    written.finish(stage, (&ensemble_table, params, &committee), &nids_kernels::describe(engine.gemm()))?;
    Ok(metrics.expect("there is a member"))
}

/// Which of several trainings a checkpoint is of; `finished` gets the weights of those before.
fn under_way(checkpoint: &Checkpoint, n_trainings: usize, finished: &mut [f32]) -> Result<usize> {
    let member = member_in_training(checkpoint)?.unwrap_or(0);
    if member >= n_trainings {
        return Err(checkpoint.refuse(format!("it is at member {member} of an ensemble of {n_trainings}")));
    }
    if n_trainings > 1 {
        checkpoint.copy("finished", finished)?;
    }
    Ok(member)
}

/// The rows that every member is trained on, and how.
struct Pass {
    plan: TrainPlan,
    rows: Vec<u32>,
    /// Rows whose labels heads are fitted on.
    with_labels: Vec<u32>,
    /// Whether the rows held out are among them, so that nothing can be validated.
    is_refit: bool,
}

/// The passes over all members: one on `rows`, and one with the rows held out where the config asks for it.
fn passes(
    config: &Config,
    classes: Option<&Classes>,
    labelled: &Labelled,
    rows: Vec<u32>,
    with_labels: Vec<u32>,
    progress: &mut dyn Progress,
) -> Vec<Pass> {
    let pass = |rows: Vec<u32>, with_labels: Vec<u32>, is_refit: bool| {
        let plan = TrainPlan::new(Stage::Finetune, &config.finetune.training, rows.len());
        Pass { plan, rows, with_labels, is_refit }
    };
    let held_out = match config.finetune.refit {
        Refit::None => None,
        Refit::All => Some(rows_held_out(labelled, classes, rows.len(), progress)),
    };
    let with_held_out = |rows: &[u32], held_out: &[u32]| {
        let mut all = [rows, held_out].concat();
        all.sort_unstable();
        all
    };
    let refit = held_out.map(|held_out| {
        let [rows, with_labels] = [&rows, &with_labels].map(|rows| with_held_out(rows, &held_out));
        pass(rows, with_labels, true)
    });
    [pass(rows, with_labels, false)].into_iter().chain(refit).collect()
}

/// The rows held out that a refit learns from, beside `n` others. One of a category that no training row has is left out.
fn rows_held_out(labelled: &Labelled, classes: Option<&Classes>, n: usize, progress: &mut dyn Progress) -> Vec<u32> {
    let is_known = |row: &u32| classes.is_none_or(|classes| classes.of(&labelled.flows, *row as usize).is_ok());
    let (held_out, unknown): (Vec<u32>, Vec<u32>) = labelled.split.val.iter().partition(|row| is_known(row));
    let left_out = match unknown.len() {
        0 => String::new(),
        n => format!(" ({n} more are left out: the training rows have none of their categories)"),
    };
    let more = held_out.len();
    progress.event(Event::Message(&format!(
        "`finetune.refit: all`: once validated, it is trained again on {} rows, {more} of which were held out{left_out}; metrics \
         stay those of the classifier that has not seen them",
        n + more
    )));
    held_out
}

/// Fits heads on the tokens of a pretrained encoder, or on features, and writes them beside the encoder's weights.
fn heads_alone(
    config: &Config,
    pretrained: Option<&Path>,
    Rows { labelled, tokeniser, encoded, with_labels: rows, kept, .. }: &Rows,
    mut stage: StageRun<'_>,
    progress: &mut dyn Progress,
) -> Result<Metrics> {
    progress.event(Event::Started { stage: Stage::Finetune, steps: 0, batch: 0 });
    let ignored = config.without_effect();
    if !ignored.is_empty() {
        let ignored = ignored.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        progress.event(Event::Message(&format!("{ignored}: no effect, since heads are fitted and no network is trained")));
    }
    reserve_openblas(1, "")?; // components and heads use LAPACK, whatever `engine.gemm` is
    let (mut table, mut weights) = (ParamTable::default(), Buffer::zeros(0));
    let basis = Basis::new(config, tokeniser, |of_encoder, encoder| {
        let path = pretrained.expect("frozen tokens come of a pretrained encoder");
        let params = WeightsFile::read(path, Stage::Pretrain)?.params(of_encoder, encoder.prefixes(), encoder.tokens())?;
        (table, weights) = (of_encoder.clone(), params.clone());
        Ok(params)
    })?;
    let committee = Fitting { config, labelled, encoded: encoded.table(), rows }.fit(basis.engine(), Some(&basis), progress)?;
    let heads = committee.heads().len();
    let kernels = nids_kernels::describe(basis.engine().gemm());
    let model = Model::frozen(basis, committee);
    let held_out = HeldOut { config, labelled, classes: None, encoded };
    let of_held_out = model.probabilities(encoded.table(), &labelled.split.val);
    let found = held_out.judge(model.outputs(), &of_held_out, progress)?;
    let profile = held_out.profile(kept.profile.clone(), model.outputs(), &of_held_out);
    stage.log(&validation(0, None, Some(heads), &found))?;
    tell(&format!("finetune: {} averaged", voters(0, heads)), &found, progress);
    let refit;
    let mut committee = model.committee();
    if config.finetune.refit == Refit::All {
        let rows = [rows.as_slice(), &rows_held_out(labelled, None, rows.len(), progress)].concat();
        refit =
            Fitting { config, labelled, encoded: encoded.table(), rows: &rows }.fit(model.engine(), model.basis(), progress)?;
        committee = &refit;
    }
    let written = Written { config, tokeniser, classes: None, kept, profile: &profile };
    written.finish(stage, (&table, &weights, committee), &kernels)?;
    Ok(found)
}

/// What is written of every classifier.
struct Written<'d> {
    config: &'d Config,
    tokeniser: &'d Tokeniser,
    classes: Option<&'d Classes>,
    kept: &'d Kept,
    profile: &'d Profile,
}

impl Written<'_> {
    /// Writes the artefacts, and the manifest last.
    fn finish(
        &self,
        mut stage: StageRun<'_>,
        (table, params, committee): (&ParamTable, &[f32], &Committee),
        kernels: &str,
    ) -> Result<()> {
        stage.write(TOKENISER, self.tokeniser.to_json().as_bytes())?;
        stage.write(TRAINING_ROWS, &self.kept.known.to_bytes())?;
        let mut metadata = json!({"kind": "classifier", "config_hash": self.config.stage_hash(Stage::Finetune)});
        if let Some(classes) = self.classes {
            metadata["classes"] = json!(classes);
        }
        stage.write(PROFILE, &self.profile.to_bytes())?;
        stage.write(BACKGROUND, &self.kept.background.to_bytes())?;
        stage.write(MODEL, &model_bytes(table, params, committee, &metadata.to_string()))?;
        stage.finish(kernels)
    }
}

/// What messages call those whose votes are averaged.
fn voters(members: usize, heads: usize) -> String {
    match (members, heads) {
        (0, _) => format!("{heads} heads"),
        (_, 0) => format!("{members} members"),
        (1, _) => format!("the network and {heads} heads"),
        _ => format!("{members} members and {heads} heads"),
    }
}

/// What messages call a row of the objective.
fn row_name(from: FinetuneFrom, n_labelled: usize, index: u32) -> String {
    match (from, (index as usize).checked_sub(n_labelled)) {
        (FinetuneFrom::Latents, _) => format!("row {index} of `latents/train.npy`"),
        (_, None) => format!("row {index} of `data.train`"),
        (_, Some(index)) => format!("row {index} of `data.unlabelled`"),
    }
}

fn validation(step: u64, members: Option<usize>, heads: Option<usize>, found: &Metrics) -> Line {
    Line::Validation { step, member: None, members, heads, validation: Box::new(found.clone()) }
}

/// The seed of an independent member's head, masks and batches. The first member has the run's own seed, and adding a member leaves
/// the others unchanged.
fn seed_of(seed: u64, member: usize) -> u64 {
    if member == 0 { seed } else { Key::new(seed).child(stream::MEMBERS).stream(0, member as u32).random() }
}

/// One network and its training.
struct Trained<'d> {
    network: &'d Network,
    /// If it has an average, that is kept; otherwise the weights of the last step are.
    job: Job<'d>,
    /// Rows that a mean teacher uses without labels.
    without_labels: &'d [u32],
    seed: u64,
    /// Whether the rows held out are trained on.
    is_refit: bool,
}

impl Trained<'_> {
    /// Trains `params` on `rows` and returns the metrics of the last step; none of a refit. `params` become the weights of the last step or, if the
    /// config asks for it, their average.
    fn train(
        &self,
        engine: &mut Engine<f32>,
        rows: Vec<u32>,
        params: &mut Buffer<f32>,
        from: Option<&Checkpoint>,
        held_out: &HeldOut<'_>,
        stage: &mut StageRun<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Option<Metrics>> {
        let Self { network, job, without_labels, seed, is_refit } = *self;
        let (table, plan) = (job.table, job.plan);
        let settings = &held_out.config.finetune;
        let lr_scale = |name: &str| lr_scale(settings, network.is_pretrained(name));
        if let Some(mut average) = job.average() {
            average.restart(params);
        }
        let mut last = None;
        let mut sampler = Sampler::new(seed, rows).with_shuffle(held_out.config.data.shuffle);
        if let Some(teacher) = &settings.mean_teacher {
            sampler = sampler.beside(seed, without_labels.to_vec(), teacher.batch_size);
        }
        let each_step =
            |step: u64, engine: &Engine<f32>, params: &[f32], stage: &mut StageRun<'_>, progress: &mut dyn Progress| {
                if is_refit || (!step.is_multiple_of(settings.eval_every) && step != plan.steps) {
                    return Ok(None);
                }
                let probabilities = held_out.probabilities(network, table, engine, params, &Committee::default())?;
                let metrics = held_out.judge(network.outputs(), &probabilities, progress)?;
                let validation = Box::new(metrics.clone());
                stage.log(&Line::Validation { step, member: plan.member, members: None, heads: None, validation })?;
                let member_text = plan.member.map_or_else(String::new, |k| format!("member {k}, "));
                tell(&format!("finetune: {member_text}step {step}"), &metrics, progress);
                let loss = metrics.log_loss;
                last = Some(metrics);
                Ok(loss)
            };
        job.train(engine, lr_scale, &mut sampler, params, from, stage, progress, each_step)?;
        if let Some(average) = job.average() {
            params.copy_from_slice(average.params());
        }
        Ok(last)
    }
}

/// The held-out rows, on which a network is validated.
struct HeldOut<'d> {
    config: &'d Config,
    labelled: &'d Labelled,
    classes: Option<&'d Classes>,
    encoded: &'d Encoded,
}

impl HeldOut<'_> {
    /// What a network, and heads beside it, make of the rows held out.   -> [rows, C]
    fn probabilities(
        &self,
        network: &Network,
        table: &ParamTable,
        engine: &Engine<f32>,
        params: &[f32],
        committee: &Committee,
    ) -> Result<Vec<f32>> {
        let prepared = Prepared::of(table, engine.gemm(), params);
        self.encoded.each(&self.labelled.split.val, |encoded, rows| {
            let of_network = network.probabilities(engine, params, &prepared, encoded, rows);
            committee.average(engine, None, encoded, rows, Some(of_network))
        })
    }

    /// How training rows are distributed, and the scores of those held out.   probabilities: [rows, C]
    fn profile(&self, features: Vec<FeatureProfile>, outputs: Outputs, probabilities: &[f32]) -> Profile {
        let scores: Vec<f32> = probabilities.chunks_exact(outputs.width()).map(|row| outputs.attack(row)).collect();
        Profile { features, scores: ScoreProfile::of(&scores, &self.labelled.labels_of(&self.labelled.split.val)) }
    }

    /// What probabilities of the rows held out amount to.   probabilities: [rows, C]
    fn judge(&self, outputs: Outputs, probabilities: &[f32], progress: &mut dyn Progress) -> Result<Metrics> {
        let mut scores = Scores::new(outputs, self.classes, self.config.evaluate.threshold);
        scores.add(&self.labelled.flows, self.labelled.split.val.iter().map(|&row| row as usize), probabilities);
        scores.metrics("validation", progress)
    }
}

fn tell(what: &str, metrics: &Metrics, progress: &mut dyn Progress) {
    let of = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let [accuracy, roc_auc] = [of(metrics.accuracy), of(metrics.roc_auc)];
    progress.event(Event::Message(&format!("{what}: validation accuracy {accuracy}, ROC-AUC {roc_auc}")));
}

/// The factor on `lr` of a parameter: frozen latents train the head alone, and a pretrained encoder may be trained more gently
/// than its head.
fn lr_scale(settings: &FinetuneConfig, was_pretrained: bool) -> f64 {
    match (settings.from, was_pretrained) {
        (FinetuneFrom::Latents, true) => 0.0,
        (FinetuneFrom::Pretrained, true) => settings.encoder_lr_scale,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use nids_flows::{Split, Tokeniser, all_rows};
    use nids_nn::engine::Sample;

    use super::*;
    use crate::testing::slope_error;

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        for settings in [
            &["finetune.loss.pos_weight=3"][..],
            &["finetune.task=multiclass"],
            &["finetune.task.multiclass={class_balance: 0, logit_adjustment: 1.5}"],
            &["finetune.loss.label_smoothing=0.3"],
            &["finetune.loss.pos_weight=3", "finetune.members=3", "finetune.ensemble=batch"],
        ] {
            let base = ["name=x", "model.dim=8", "model.depth=2", "finetune.from=scratch", "finetune.batch_size=32"];
            let overrides: Vec<String> = base.iter().chain(settings).map(ToString::to_string).collect();
            let config = Config::parse("{}", "c.yaml", &overrides).unwrap();
            let (flows, rows) = (nids_flows::synthetic(32, 1), all_rows(32));
            let tokeniser = Tokeniser::fit(&flows, &rows, &config.tokeniser).unwrap();
            let encoded = tokeniser.tokenise(&flows).unwrap();
            let labelled = Labelled { flows, split: Split { train: rows.clone(), val: Vec::new() } };
            let classes = targets::classes(&config, &labelled, &rows).unwrap();
            let mut table = ParamTable::default();
            let network = Network::one(&config, &tokeniser, classes.as_ref(), &mut table).unwrap();
            let targets = Targets::new(&config, &labelled, classes.as_ref(), &rows);
            let classifier = network.classifier();
            let objective = SupervisedObjective { classifier, rows: StepRows::Memory(&encoded), targets, divisor: 32.0 };
            let mut engine = engine(&config, &table, network.activations(), network.members(), 32).unwrap();
            let samples: Vec<Sample> = rows.iter().map(|&row| Sample { row, key: row }).collect();
            let error = slope_error(&objective, &table, &mut engine, &samples);
            assert!(error < 0.01, "{settings:?}: off by {error}");
        }
    }
}
