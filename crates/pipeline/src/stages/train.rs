//! The one training loop.

use std::collections::BTreeMap;
use std::time::Instant;

use nids_kernels::{Buffer, Gemm, Key};
use nids_nn::engine::{Cut, Engine, Objective, Sample};
use nids_nn::optim::{Optimiser, clip};
use nids_nn::{MAX_SHARD, ParamTable};
use serde::Serialize;

use super::monitor::Monitor;
use super::plan::Plan;
use super::sampler::Sampler;
use super::stream;
use crate::config::{self, Config, Sam};
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
    /// Of the last step, before clipping.
    grad_norm: f64,
    /// Means of the loss's parts, where it has any.
    #[serde(flatten)]
    parts: &'p BTreeMap<&'static str, f64>,
}

/// What every step works with.
pub(super) struct Trainer<'o> {
    table: &'o ParamTable,
    objective: &'o dyn Objective<f32>,
    plan: &'o Plan,
    key: Key,
    optimiser: Optimiser<f32>,
    grads: Buffer<f32>,
    /// The weights that sharpness-aware minimisation looks at.
    ahead: Option<(Sam, Buffer<f32>)>,
}

/// What a step was.
pub(super) struct Taken {
    /// At the weights before it.
    pub(super) loss: f64,
    pub(super) lr: f64,
    /// Of the gradient that the step followed, before clipping.
    pub(super) grad_norm: f64,
}

impl<'o> Trainer<'o> {
    pub(super) fn new(
        table: &'o ParamTable,
        objective: &'o dyn Objective<f32>,
        plan: &'o Plan,
        key: Key,
        lr_scale: impl Fn(&str) -> f64,
    ) -> Self {
        let optimiser = Optimiser::new(table, plan.algorithm, lr_scale);
        let ahead = plan.sam.map(|sam| (sam, table.zeros()));
        Self { table, objective, plan, key, optimiser, grads: table.zeros(), ahead }
    }

    /// Takes `step`, counted from 0, on its `samples`; `parts` hears what the loss is made of.
    pub(super) fn step(
        &mut self,
        engine: &mut Engine<f32>,
        step: u64,
        samples: &[Sample],
        params: &mut Buffer<f32>,
        parts: &mut dyn FnMut(&'static str, f64),
    ) -> Result<Taken> {
        let Self { table, objective, plan, key, optimiser, grads, ahead } = self;
        let key = key.child(step);
        let (loss, mut grad_norm) = gradient(engine, *objective, plan, key, step, samples, params, grads)?;
        objective.parts(loss, parts);
        if let Some((sam, ahead)) = ahead {
            optimiser.zero_frozen(grads);
            let norm = engine.grad_norm(grads).max(1e-12); // a gradient of 0 points nowhere
            engine.ascend(sam.rho / norm, params, grads, ahead);
            (_, grad_norm) = gradient(engine, *objective, plan, key, step, samples, ahead, grads)?;
        }
        let mut grad_scale = clip(grad_norm, plan.clip_norm);
        if let Some(noise) = plan.update_noise {
            // drawn around the clipped gradient, or clipping would undo it where gradients are large
            engine.add_noise(table, key.child(stream::UPDATE_NOISE), noise.sigma(step), grad_scale, grads);
            grad_scale = 1.0;
        }
        let lr = plan.lr(step);
        engine.update(optimiser, lr, grad_scale, params, grads);
        Ok(Taken { loss, lr, grad_norm })
    }
}

/// Loss and gradient of a step at `params`; the gradient's norm.
fn gradient(
    engine: &mut Engine<f32>,
    objective: &dyn Objective<f32>,
    plan: &Plan,
    key: Key,
    step: u64,
    samples: &[Sample],
    params: &[f32],
    grads: &mut [f32],
) -> Result<(f64, f64)> {
    grads.fill(0.0);
    objective.begin(step);
    let mut loss = 0.0;
    for micro_batch in samples.chunks(plan.micro_batch) {
        loss += engine.accumulate(objective, params, key, micro_batch, grads);
    }
    let grad_norm = engine.grad_norm(grads);
    if !loss.is_finite() || !grad_norm.is_finite() {
        let stage = plan.stage;
        let what = if loss.is_finite() { "the gradient" } else { "the loss" };
        return Err(Error::Numerics(format!("{stage} step {}: {what} is not finite: lower `{stage}.lr`", step + 1)));
    }
    Ok((loss, grad_norm))
}

/// Trains `params` from step 0 to the plan's last. `each_step` is called after every update with the number of steps taken.
pub(super) fn train(
    engine: &mut Engine<f32>,
    table: &ParamTable,
    objective: &dyn Objective<f32>,
    plan: &Plan,
    key: Key,
    lr_scale: impl Fn(&str) -> f64,
    sampler: &mut Sampler,
    params: &mut Buffer<f32>,
    run: &mut StageRun<'_>,
    progress: &mut dyn Progress,
    mut each_step: impl FnMut(u64, &Engine<f32>, &[f32], &mut StageRun<'_>, &mut dyn Progress) -> Result<()> + Send,
) -> Result<()> {
    let mut monitor = plan.monitor.map(|settings| Monitor::new(table, plan.stage, plan.member, settings, &lr_scale));
    let mut trainer = Trainer::new(table, objective, plan, key, lr_scale);
    let stops = plan.monitor.is_some_and(|settings| settings.stop);
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
            let done = step + 1;
            if let Some(monitor) = &mut monitor {
                monitor.before(done, params);
            }
            let mut part = |name, part| *parts.entry(name).or_insert(0.0) += part;
            let taken = trainer.step(engine, step, &samples, params, &mut part)?;
            let Taken { loss, lr, grad_norm } = taken;
            window += loss;
            in_window += 1.0;
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
            let look = monitor.as_mut().and_then(|monitor| monitor.after(done, &taken, params, &trainer.optimiser));
            if let Some(look) = look {
                run.log(&look)?;
                match look.warning {
                    Some(warning) if stops => return Err(Error::Numerics(warning)),
                    Some(warning) => progress.event(Event::Message(&format!("warning: {warning}"))),
                    None => {}
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
        samples.len(),
        plan.steps as f64 * samples.len() as f64 / seconds.max(1e-9),
        engine.memory_bytes() as f64 / f64::from(1 << 20),
    )));
    Ok(())
}

#[cfg(test)]
mod tests {
    use nids_nn::{Cx, Init, Param};
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::config::{Constant, Schedule, Sgd, Stage, Training, UpdateNoise};

    const KEY: u64 = 5;

    /// ½ Σ a w², and a slope of 7 for a parameter that is frozen.
    struct Bowl {
        table: ParamTable,
        weight: Param,
        frozen: Param,
    }

    const A: [f32; 2] = [3.0, 0.5];
    const W: [f32; 2] = [1.0, 2.0];
    const ROWS: usize = 4;

    impl Bowl {
        fn new() -> Self {
            let mut table = ParamTable::default();
            let mut param = |name, len| table.root().param(name, &[len], Init::Zeros);
            let (frozen, weight) = (param("frozen", 1), param("weight", 2));
            Self { table, weight, frozen }
        }

        /// The weights after `step` of stochastic gradient descent with learning rate 0.1 from (1, 2), and what it was.
        fn step(&self, step: u64, training: &Training) -> (Vec<f32>, Taken) {
            let training = Training {
                batch_size: ROWS,
                micro_batch: 2,
                optimiser: config::Optimiser::Sgd(Sgd { momentum: 0.0, ..Sgd::default() }),
                lr: 0.1,
                schedule: Schedule::Constant(Constant { warmup: 0.0, ..Constant::default() }),
                ..training.clone()
            };
            let plan = Plan::new(Stage::Pretrain, &training, ROWS);
            let mut engine = Engine::new(&self.table, 2, Gemm::Tiles, Cut { shard: 1, groups: 2 }).unwrap();
            let lr_scale = |name: &str| if name == "frozen" { 0.0 } else { 1.0 };
            let mut trainer = Trainer::new(&self.table, self, &plan, Key::new(KEY), lr_scale);
            let mut params = self.table.zeros::<f32>();
            self.weight.of_mut(&mut params).copy_from_slice(&W);
            let samples: Vec<Sample> = (0..ROWS as u32).map(|row| Sample { row, key: row }).collect();
            let taken = trainer.step(&mut engine, step, &samples, &mut params, &mut |_, _| ()).unwrap();
            assert!(self.frozen.of(&params)[0].abs() < f32::EPSILON);
            (self.weight.of(&params).to_vec(), taken)
        }
    }

    impl Objective<f32> for Bowl {
        fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], samples: &[Sample]) -> f64 {
            let share = samples.len() as f32 / ROWS as f32;
            self.frozen.of_mut(grads)[0] += share * 7.0;
            let w = self.weight.of(cx.params);
            for ((dw, w), a) in self.weight.of_mut(grads).iter_mut().zip(w).zip(A) {
                *dw += share * a * w;
            }
            w.iter().zip(A).map(|(w, a)| f64::from(share * a * w * w / 2.0)).sum()
        }
    }

    fn assert_close(found: &[f32], want: [f32; 2]) {
        assert!(found.iter().zip(want).all(|(found, want)| (found - want).abs() < 1e-6), "{found:?}, not {want:?}");
    }

    #[test]
    fn a_sharpness_aware_step_follows_the_gradient_further_up() {
        let sam = Training { sam: Some(Sam { rho: 0.5 }), clip_norm: None, ..Training::default() };
        let (found, taken) = Bowl::new().step(0, &sam);
        // by hand: g = (3, 1), at w + 0.5 · g / √10
        let ahead = [1.0 + 0.5 * 3.0 / 10_f32.sqrt(), 2.0 + 0.5 / 10_f32.sqrt()];
        let dw = [3.0 * ahead[0], 0.5 * ahead[1]];
        assert_close(&found, [1.0 - 0.1 * dw[0], 2.0 - 0.1 * dw[1]]);
        let want = f64::from(dw[0].powi(2) + dw[1].powi(2) + 49.0).sqrt();
        assert!((taken.loss - 2.5).abs() < 1e-6 && (taken.grad_norm - want).abs() < 1e-5, "{} {}", taken.loss, taken.grad_norm);
    }

    #[test]
    fn noise_is_laid_on_the_clipped_gradient_and_shrinks_with_the_steps() {
        let bowl = Bowl::new();
        for step in [0, 3] {
            let noise = Some(UpdateNoise { eta: 0.04, gamma: 0.5 });
            let (found, taken) = bowl.step(step, &Training { update_noise: noise, ..Training::default() });
            let sigma = (0.04 / (1.0 + step as f64).sqrt()).sqrt() as f32;
            let key = Key::new(KEY).child(step).child(stream::UPDATE_NOISE);
            let place = bowl.weight.offset() as u32;
            let draw = |i| -> f64 { StandardNormal.sample(&mut key.stream(0, place + i)) };
            let [one, two] = [draw(0) as f32, draw(1) as f32];
            let dw = [3.0, 1.0].map(|dw| dw / taken.grad_norm as f32);
            assert_close(&found, [1.0 - 0.1 * (dw[0] + sigma * one), 2.0 - 0.1 * (dw[1] + sigma * two)]);
        }
    }
}
