//! The one training loop.

use std::collections::BTreeMap;
use std::time::Instant;

use nids_kernels::{Buffer, Gemm, Key};
use nids_nn::engine::{Cut, Engine, Objective, Sample};
use nids_nn::optim::{Optimiser, clip};
use nids_nn::{MAX_SHARD, ParamTable};
use serde::Serialize;

use super::plan::Plan;
use super::sampler::Sampler;
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::progress::{Event, Progress};
use crate::run::StageRun;

/// The engine that a config asks for, for a network that keeps `activations` numbers of a row and passes it once for each of
/// `members`.
pub(super) fn engine(
    config: &Config,
    table: &ParamTable,
    activations: usize,
    members: usize,
    micro_batch: usize,
) -> Result<Engine<f32>> {
    let gemm = match config.engine.gemm {
        config::Gemm::Openblas => Gemm::OpenBlas,
        config::Gemm::Tiles => Gemm::Tiles,
    };
    if gemm == Gemm::OpenBlas && config.engine.threads != 1 && !nids_kernels::is_thread_safe() {
        let message = "the OpenBLAS found here is the serial build, which is wrong on several threads: install `libopenblas0-pthread` and \
                       choose it with `update-alternatives`, or set `engine.gemm: tiles` or `engine.threads: 1`";
        return Err(Error::Usage(message.to_owned()));
    }
    let shard = config.engine.shard(activations).min(MAX_SHARD / members);
    let cut = Cut { shard, groups: config.engine.groups(micro_batch) };
    Engine::new(table, config.engine.threads, gemm, cut)
        .map_err(|error| Error::Usage(format!("`engine.threads: {}`: cannot start: {error}", config.engine.threads)))
}

/// A line of metrics.jsonl.
#[derive(Serialize)]
struct StepLine<'p> {
    step: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<usize>,
    /// Mean over the steps since the last line.
    loss: f64,
    lr: f64,
    /// Before clipping.
    grad_norm: f64,
    /// Means of the loss's parts, where it has any.
    #[serde(flatten)]
    parts: &'p BTreeMap<&'static str, f64>,
}

/// What every step works with.
pub(super) struct Trainer<'o> {
    objective: &'o dyn Objective<f32>,
    plan: Plan,
    key: Key,
    optimiser: Optimiser<f32>,
    grads: Buffer<f32>,
}

/// What a step was.
pub(super) struct Taken {
    pub(super) loss: f64,
    pub(super) lr: f64,
    /// Before clipping.
    pub(super) grad_norm: f64,
}

impl<'o> Trainer<'o> {
    pub(super) fn new(
        table: &ParamTable,
        objective: &'o dyn Objective<f32>,
        plan: Plan,
        key: Key,
        lr_scale: impl Fn(&str) -> f64,
    ) -> Self {
        Self { objective, plan, key, optimiser: Optimiser::new(table, plan.algorithm, lr_scale), grads: table.zeros() }
    }

    /// Takes `step`, counted from 0, on its `samples`.
    pub(super) fn step(
        &mut self,
        engine: &mut Engine<f32>,
        step: u64,
        samples: &[Sample],
        params: &mut Buffer<f32>,
    ) -> Result<Taken> {
        let Self { objective, plan, key, optimiser, grads } = self;
        grads.fill(0.0);
        objective.begin(step);
        let mut loss = 0.0;
        for micro_batch in samples.chunks(plan.micro_batch) {
            loss += engine.accumulate(*objective, params, key.child(step), micro_batch, grads);
        }
        let grad_norm = engine.grad_norm(grads);
        if !loss.is_finite() || !grad_norm.is_finite() {
            let stage = plan.stage;
            let what = if loss.is_finite() { "the gradient" } else { "the loss" };
            return Err(Error::Numerics(format!("{stage} step {}: {what} is not finite: lower `{stage}.lr`", step + 1)));
        }
        let lr = plan.lr(step);
        engine.update(optimiser, lr, clip(grad_norm, plan.clip_norm), params, grads);
        Ok(Taken { loss, lr, grad_norm })
    }
}

/// Trains `params` from step 0 to the plan's last. `each_step` is called after every update with the number of steps taken.
pub(super) fn train(
    engine: &mut Engine<f32>,
    table: &ParamTable,
    objective: &dyn Objective<f32>,
    plan: Plan,
    key: Key,
    lr_scale: impl Fn(&str) -> f64,
    sampler: &mut Sampler,
    params: &mut Buffer<f32>,
    run: &mut StageRun<'_>,
    progress: &mut dyn Progress,
    mut each_step: impl FnMut(u64, &Engine<f32>, &[f32], &mut StageRun<'_>, &mut dyn Progress) -> Result<()> + Send,
) -> Result<()> {
    let mut trainer = Trainer::new(table, objective, plan, key, lr_scale);
    let mut samples: Vec<Sample> = Vec::with_capacity(plan.batch_size);
    progress.event(Event::Message(&format!(
        "{} parameters, {} threads, {}",
        table.n_params(),
        engine.threads(),
        nids_kernels::describe(engine.gemm())
    )));
    progress.event(Event::Started { stage: plan.stage, steps: plan.steps });
    let started = Instant::now();
    engine.run(|engine| -> Result<()> {
        let mut window = 0.0;
        let mut in_window = 0.0;
        let mut parts = BTreeMap::new();
        for step in 0..plan.steps {
            sampler.batch(step, plan.batch_size, &mut samples);
            let Taken { loss, lr, grad_norm } = trainer.step(engine, step, &samples, params)?;
            let done = step + 1;
            window += loss;
            in_window += 1.0;
            objective.parts(loss, &mut |name, part| *parts.entry(name).or_insert(0.0) += part);
            progress.event(Event::Step { step: done, loss, lr });
            if done % plan.log_every == 0 || done == plan.steps {
                for part in parts.values_mut() {
                    *part /= in_window;
                }
                run.log(&StepLine { step: done, member: plan.member, loss: window / in_window, lr, grad_norm, parts: &parts })?;
                (window, in_window) = (0.0, 0.0);
                for part in parts.values_mut() {
                    *part = 0.0;
                }
            }
            each_step(done, engine, params, run, progress)?;
        }
        Ok(())
    })?;
    let seconds = started.elapsed().as_secs_f64();
    progress.event(Event::Message(&format!(
        "{} steps of {} in {seconds:.1} s ({:.0} rows/s), {:.1} MiB for activations and gradients",
        plan.steps,
        plan.batch_size,
        plan.steps as f64 * plan.batch_size as f64 / seconds.max(1e-9),
        engine.memory_bytes() as f64 / f64::from(1 << 20),
    )));
    Ok(())
}
