//! The one training loop.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};
use std::time::Instant;

use nids_kernels::{Buffer, Gemm, Key};
use nids_nn::engine::{Cut, Engine, Objective, Sample};
use nids_nn::optim::{Optimiser, clip};
use nids_nn::{Ema, MAX_SHARD, ParamTable};
use serde::Serialize;

use super::monitor::Monitor;
use super::nonfinite::{self, Nonfinite, What};
use super::plan::Plan;
use super::sampler::Sampler;
use super::stream;
use crate::checkpoint::{Back, Checkpoint, State, Trouble, Window};
use crate::config::{self, Config, Rollback, Sam, Stage};
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
    parts: &'p BTreeMap<Cow<'static, str>, f64>,
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

/// What became of a step.
pub(super) enum Outcome {
    Taken(Taken),
    /// Nothing was changed, but for [`What::Weight`].
    Nonfinite(What),
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

    /// Takes `step`, counted from 0, on its `samples`, with `lr_scale` on the learning rate; `parts` hears what the loss is made of.
    pub(super) fn step(
        &mut self,
        engine: &mut Engine<f32>,
        step: u64,
        samples: &[Sample],
        lr_scale: f64,
        params: &mut Buffer<f32>,
        parts: &mut dyn FnMut(&'static str, f64),
    ) -> Outcome {
        let Self { table, objective, plan, key, optimiser, grads, ahead } = self;
        let key = key.child(step);
        let (loss, mut grad_norm) = gradient(engine, *objective, plan, key, step, samples, params, grads);
        if !loss.is_finite() {
            return Outcome::Nonfinite(What::Loss);
        }
        if !grad_norm.is_finite() {
            return Outcome::Nonfinite(What::Gradient);
        }
        objective.parts(loss, parts);
        if let Some((sam, ahead)) = ahead {
            optimiser.zero_frozen(grads);
            let norm = engine.grad_norm(grads).max(1e-12); // a gradient of 0 points nowhere
            engine.ascend(sam.rho / norm, params, grads, ahead);
            let (loss, norm) = gradient(engine, *objective, plan, key, step, samples, ahead, grads);
            if !loss.is_finite() || !norm.is_finite() {
                return Outcome::Nonfinite(What::Ahead);
            }
            grad_norm = norm;
        }
        let mut grad_scale = clip(grad_norm, plan.clip_norm);
        if let Some(noise) = plan.update_noise {
            // drawn around the clipped gradient, or clipping would undo it where gradients are large
            engine.add_noise(table, key.child(stream::UPDATE_NOISE), noise.sigma(step), grad_scale, grads);
            grad_scale = 1.0;
        }
        let lr = lr_scale * plan.lr(step);
        engine.update(optimiser, lr, grad_scale, params, grads);
        // squares overflow before the weights do
        if !engine.grad_norm(params).is_finite() && nonfinite::layer(table, params).is_some() {
            return Outcome::Nonfinite(What::Weight);
        }
        Outcome::Taken(Taken { loss, lr, grad_norm })
    }

    /// Which rows and which layer of a step it was.
    fn nonfinite(&mut self, engine: &mut Engine<f32>, what: What, step: u64, samples: &[Sample], params: &[f32]) -> Nonfinite {
        let Self { table, objective, key, grads, ahead, .. } = self;
        let layer = if what == What::Weight { nonfinite::layer(table, params) } else { nonfinite::layer(table, grads) };
        let params = match (what, ahead) {
            // of weights that are none, every row is
            (What::Weight, _) => return Nonfinite { what, step: step + 1, layer, rows: Vec::new() },
            (What::Ahead, Some((_, ahead))) => ahead,
            _ => params,
        };
        let mut is_nonfinite = |sample: &&Sample| {
            grads.fill(0.0);
            let loss = engine.accumulate(*objective, params, key.child(step), std::slice::from_ref(*sample), grads);
            !loss.is_finite() || !engine.grad_norm(grads).is_finite()
        };
        let rows = samples.iter().filter(|sample| is_nonfinite(sample)).map(|sample| sample.row).collect();
        Nonfinite { what, step: step + 1, layer, rows }
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
) -> (f64, f64) {
    grads.fill(0.0);
    objective.begin(step);
    let mut loss = 0.0;
    for micro_batch in samples.chunks(plan.micro_batch) {
        loss += engine.accumulate(objective, params, key, micro_batch, grads);
    }
    (loss, engine.grad_norm(grads))
}

/// What is trained, and on what.
#[derive(Clone, Copy)]
pub(super) struct Job<'j> {
    pub(super) table: &'j ParamTable,
    pub(super) objective: &'j dyn Objective<f32>,
    pub(super) plan: &'j Plan,
    pub(super) key: Key,
    /// An average of the weights, updated after every step.
    pub(super) average: Option<&'j RwLock<Ema<f32>>>,
    /// Weights of members that have been trained; a checkpoint keeps them.
    pub(super) finished: &'j [f32],
    /// Where a row comes from, in words.
    pub(super) row: &'j (dyn Fn(u32) -> String + Sync),
}

impl<'j> Job<'j> {
    /// The average, once there is no other use of it.
    pub(super) fn average(&self) -> Option<RwLockWriteGuard<'j, Ema<f32>>> {
        self.average.map(|average| average.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Trains `params` to the plan's last step, from step 0 or from a checkpoint. `each_step` is called after every step with the
    /// number of steps taken and the weights or their average; where it validates, it returns the loss.
    pub(super) fn train(
        &self,
        engine: &mut Engine<f32>,
        lr_scale: impl Fn(&str) -> f64,
        sampler: &mut Sampler,
        params: &mut Buffer<f32>,
        from: Option<&Checkpoint>,
        run: &mut StageRun<'_>,
        progress: &mut dyn Progress,
        mut each_step: impl FnMut(u64, &Engine<f32>, &[f32], &mut StageRun<'_>, &mut dyn Progress) -> Result<Option<f64>> + Send,
    ) -> Result<()> {
        let plan = self.plan;
        let mut training = Training::start(self, lr_scale, params, from)?;
        let mut samples: Vec<Sample> = Vec::with_capacity(plan.batch_size);
        progress.event(Event::Message(&format!(
            "{} parameters, {} threads, {}",
            self.table.n_params(),
            engine.threads(),
            nids_kernels::describe(engine.gemm())
        )));
        progress.event(Event::Started { stage: plan.stage, steps: plan.steps });
        let first = training.step;
        if first > 0 {
            progress.event(Event::Message(&format!("{}: goes on after step {first} of {}", plan.stage, plan.steps)));
        }
        let started = Instant::now();
        engine.run(|engine| -> Result<()> {
            while training.step < plan.steps {
                sampler.batch(training.step, plan.batch_size, &mut samples);
                training.advance(engine, &samples, params, run, progress)?;
                let done = training.step;
                let average = self.average();
                let kept = average.as_ref().map_or(&**params, |average| average.params());
                if let Some(loss) = each_step(done, engine, kept, run, progress)? {
                    training.score = Some(loss);
                }
                drop(average);
                let signal = progress.stop();
                let is_periodic = done.is_multiple_of(run.checkpoint_every());
                if done < plan.steps && (is_periodic || signal.is_some()) {
                    training.checkpoint(params, is_periodic, run)?;
                    if let Some(signal) = signal {
                        return Err(Error::Interrupted { signal });
                    }
                }
            }
            Ok(())
        })?;
        let seconds = started.elapsed().as_secs_f64();
        let steps = plan.steps - first;
        progress.event(Event::Message(&format!(
            "{steps} steps of {} in {seconds:.1} s ({:.0} rows/s), {:.1} MiB for activations and gradients",
            samples.len(),
            steps as f64 * samples.len() as f64 / seconds.max(1e-9),
            engine.memory_bytes() as f64 / f64::from(1 << 20),
        )));
        Ok(())
    }
}

/// A training between two steps.
struct Training<'j> {
    job: &'j Job<'j>,
    trainer: Trainer<'j>,
    monitor: Option<Monitor>,
    /// Steps taken.
    step: u64,
    window: Window,
    trouble: Trouble,
    score: Option<f64>,
    /// Where a rollback goes.
    back: Option<Snapshot>,
}

/// The weights and what moves them.
struct Snapshot {
    at: Back,
    params: Buffer<f32>,
    m: Buffer<f32>,
    v: Buffer<f32>,
    average: Option<Buffer<f32>>,
}

impl<'j> Training<'j> {
    fn start(
        job: &'j Job<'j>,
        lr_scale: impl Fn(&str) -> f64,
        params: &mut Buffer<f32>,
        from: Option<&Checkpoint>,
    ) -> Result<Self> {
        let Job { table, objective, plan, key, .. } = *job;
        let monitor = plan.monitor.map(|settings| Monitor::new(table, plan.stage, plan.member, settings, &lr_scale));
        let trainer = Trainer::new(table, objective, plan, key, lr_scale);
        let mut training = Self {
            job,
            trainer,
            monitor,
            step: 0,
            window: Window::default(),
            trouble: Trouble::default(),
            score: None,
            back: None,
        };
        if let config::Nonfinite::Rollback(_) = plan.nonfinite {
            training.back = Some(training.snapshot(params));
        }
        if let Some(from) = from {
            training.restore(from, params)?;
        }
        Ok(training)
    }

    /// Takes the next step, with what is to be logged of it.
    fn advance(
        &mut self,
        engine: &mut Engine<f32>,
        samples: &[Sample],
        params: &mut Buffer<f32>,
        run: &mut StageRun<'_>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let plan = self.job.plan;
        let (step, done) = (self.step, self.step + 1);
        if let Some(monitor) = &mut self.monitor {
            monitor.before(done, params);
        }
        let mut parts = Vec::new();
        let mut part = |name, part| parts.push((name, part));
        let taken = match self.trainer.step(engine, step, samples, self.trouble.lr_scale, params, &mut part) {
            Outcome::Taken(taken) => taken,
            Outcome::Nonfinite(what) => {
                let found = self.trainer.nonfinite(engine, what, step, samples, params);
                return self.handle(&found, params, run, progress);
            }
        };
        self.step = done;
        self.trouble.skipped = 0;
        if let Some(mut average) = self.job.average() {
            average.update(params);
        }
        let Taken { loss, lr, grad_norm } = taken;
        self.window.loss += loss;
        for (name, part) in parts {
            *self.window.parts.entry(Cow::Borrowed(name)).or_insert(0.0) += part;
        }
        self.window.steps += 1.0;
        progress.event(Event::Step { step: done, loss, lr });
        if done % plan.log_every == 0 || done == plan.steps {
            let Window { loss, steps, mut parts } = std::mem::take(&mut self.window);
            for part in parts.values_mut() {
                *part /= steps;
            }
            run.log(&StepLine { step: done, member: plan.member, loss: loss / steps, lr, grad_norm, parts: &parts })?;
            if plan.stage == Stage::Pretrain {
                self.score = Some(loss / steps);
            }
        }
        let look = self.monitor.as_mut().and_then(|monitor| monitor.after(done, &taken, params, &self.trainer.optimiser));
        if let Some(look) = look {
            run.log(&look)?;
            match look.warning {
                Some(warning) if plan.monitor.is_some_and(|settings| settings.stop) => return Err(Error::Numerics(warning)),
                Some(warning) => progress.event(Event::Message(&format!("warning: {warning}"))),
                None => {}
            }
        }
        if let config::Nonfinite::Rollback(Rollback { every, .. }) = plan.nonfinite
            && done.is_multiple_of(every)
        {
            self.back = Some(self.snapshot(params));
        }
        Ok(())
    }

    /// Does what the config says about a step that gave numbers that are none.
    fn handle(
        &mut self,
        found: &Nonfinite,
        params: &mut Buffer<f32>,
        run: &mut StageRun<'_>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let Job { plan, row, .. } = *self.job;
        let stop = |why: &str| Err(Error::Numerics(found.text(plan, row, why)));
        let action = match plan.nonfinite {
            config::Nonfinite::Skip(config::Skip { max }) if found.what != What::Weight => {
                self.trouble.skipped += 1;
                if self.trouble.skipped > max {
                    return stop(&format!("{max} steps in a row have been skipped"));
                }
                self.step += 1;
                "skipped".to_owned()
            }
            config::Nonfinite::Rollback(Rollback { lr_factor, max, .. }) => {
                self.trouble.rollbacks += 1;
                if self.trouble.rollbacks > max {
                    return stop(&format!("it has gone back {max} times"));
                }
                self.trouble.lr_scale *= lr_factor;
                let to = self.go_back(params);
                format!("back to step {to}, learning rates now x {}", self.trouble.lr_scale)
            }
            _ => return stop(""),
        };
        run.log(&nonfinite::Line::new(found, plan.member, row, &action))?;
        progress.event(Event::Message(&format!("warning: {}: {action}", found.text(plan, row, ""))));
        Ok(())
    }

    fn snapshot(&self, params: &Buffer<f32>) -> Snapshot {
        let (m, v, updates) = self.trainer.optimiser.moments();
        let average = self.job.average();
        Snapshot {
            at: Back { step: self.step, updates, averaged: average.as_ref().map_or(0, |average| average.updates()) },
            params: params.clone(),
            m: m.clone(),
            v: v.clone(),
            average: average.map(|average| average.average().clone()),
        }
    }

    /// Puts the weights back to where they were; the step it was.
    fn go_back(&mut self, params: &mut Buffer<f32>) -> u64 {
        let Snapshot { at, params: then, m, v, average } = self.back.as_ref().expect("taken at the start");
        params.copy_from_slice(then);
        self.trainer.optimiser.set_state(m, v, at.updates);
        if let Some((mut average, then)) = self.job.average().zip(average.as_ref()) {
            average.set_state(then, at.averaged);
        }
        self.step = at.step;
        self.window = Window::default();
        at.step
    }

    fn checkpoint(&self, params: &[f32], is_periodic: bool, run: &mut StageRun<'_>) -> Result<()> {
        let (m, v, updates) = self.trainer.optimiser.moments();
        let average = self.job.average();
        let state = State {
            member: self.job.plan.member,
            step: self.step,
            updates,
            averaged: average.as_ref().map_or(0, |average| average.updates()),
            window: self.window.clone(),
            monitor: self.monitor.as_ref().map(Monitor::state),
            trouble: self.trouble,
            score: self.score,
            back: self.back.as_ref().map(|back| back.at),
        };
        let mut tensors: Vec<(&str, &[f32])> = vec![("params", params), ("m", m), ("v", v)];
        tensors.extend(average.as_ref().map(|average| ("average", average.params())));
        if !self.job.finished.is_empty() {
            tensors.push(("finished", self.job.finished));
        }
        if let Some(back) = &self.back {
            tensors.extend([("back.params", &*back.params), ("back.m", &*back.m), ("back.v", &*back.v)]);
            tensors.extend(back.average.as_ref().map(|average| ("back.average", &**average)));
        }
        run.checkpoint(&state, is_periodic, &tensors)
    }

    fn restore(&mut self, from: &Checkpoint, params: &mut Buffer<f32>) -> Result<()> {
        let (state, plan) = (&from.state, self.job.plan);
        if state.step >= plan.steps || state.member != plan.member {
            let of_member = |member: Option<usize>| member.map_or_else(String::new, |member| format!(" of member {member}"));
            let (at, wanted) = (of_member(state.member), of_member(plan.member));
            let what =
                format!("it is at step {}{at}, beyond the {} steps{wanted} of `{}.steps`", state.step, plan.steps, plan.stage);
            return Err(from.refuse(what));
        }
        let (mut m, mut v) = (self.job.table.zeros(), self.job.table.zeros());
        for (name, buffer) in [("params", &mut *params), ("m", &mut m), ("v", &mut v)] {
            from.copy(name, buffer)?;
        }
        self.trainer.optimiser.set_state(&m, &v, state.updates);
        if let Some(mut average) = self.job.average() {
            let mut then = self.job.table.zeros();
            from.copy("average", &mut then)?;
            average.set_state(&then, state.averaged);
        }
        if let (Some(monitor), Some(state)) = (&mut self.monitor, &state.monitor) {
            monitor.restore(state);
        }
        if let (Some(back), Some(at)) = (&mut self.back, state.back) {
            back.at = at;
            for (name, buffer) in [("back.params", &mut back.params), ("back.m", &mut back.m), ("back.v", &mut back.v)] {
                from.copy(name, buffer)?;
            }
            if let Some(average) = &mut back.average {
                from.copy("back.average", average)?;
            }
        }
        self.step = state.step;
        self.window = state.window.clone();
        self.trouble = state.trouble;
        self.score = state.score;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nids_nn::{Cx, Init, Param};
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::config::{Constant, Schedule, Sgd, Training, UpdateNoise};

    const KEY: u64 = 5;

    /// ½ Σ a w², and a slope of 7 for a parameter that is frozen.
    struct Bowl {
        table: ParamTable,
        weight: Param,
        frozen: Param,
        /// A row whose loss is NaN.
        bad_row: Option<u32>,
    }

    const A: [f32; 2] = [3.0, 0.5];
    const W: [f32; 2] = [1.0, 2.0];
    const ROWS: usize = 4;

    impl Bowl {
        fn new() -> Self {
            let mut table = ParamTable::default();
            let mut param = |name, len| table.root().param(name, &[len], Init::Zeros);
            let (frozen, weight) = (param("frozen", 1), param("weight", 2));
            Self { table, weight, frozen, bad_row: None }
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
            let outcome = trainer.step(&mut engine, step, &samples, 1.0, &mut params, &mut |_, _| ());
            let Outcome::Taken(taken) = outcome else { panic!("not finite") };
            assert!(self.frozen.of(&params)[0].abs() < f32::EPSILON);
            (self.weight.of(&params).to_vec(), taken)
        }
    }

    impl Objective<f32> for Bowl {
        fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], samples: &[Sample]) -> f64 {
            if samples.iter().any(|sample| Some(sample.row) == self.bad_row) {
                self.weight.of_mut(grads)[1] = f32::NAN;
                return f64::NAN;
            }
            let share = samples.len() as f32 / ROWS as f32;
            self.frozen.of_mut(grads)[0] += share * 7.0;
            let w = self.weight.of(cx.params);
            for ((dw, w), a) in self.weight.of_mut(grads).iter_mut().zip(w).zip(A) {
                *dw += share * a * w;
            }
            w.iter().zip(A).map(|(w, a)| f64::from(share * a * w * w / 2.0)).sum()
        }
    }

    #[test]
    fn a_step_that_is_no_number_changes_nothing_and_names_its_row() {
        let bowl = Bowl { bad_row: Some(2), ..Bowl::new() };
        let plan = Plan::new(Stage::Pretrain, &Training { batch_size: ROWS, micro_batch: 2, ..Training::default() }, ROWS);
        let mut engine = Engine::new(&bowl.table, 1, Gemm::Tiles, Cut { shard: 2, groups: 1 }).unwrap();
        let mut trainer = Trainer::new(&bowl.table, &bowl, &plan, Key::new(KEY), |_| 1.0);
        let mut params = bowl.table.zeros::<f32>();
        bowl.weight.of_mut(&mut params).copy_from_slice(&W);
        let samples: Vec<Sample> = (0..ROWS as u32).map(|row| Sample { row, key: row }).collect();
        let outcome = trainer.step(&mut engine, 6, &samples, 1.0, &mut params, &mut |_, _| panic!("no parts"));
        let Outcome::Nonfinite(what) = outcome else { panic!("a number") };
        let found = trainer.nonfinite(&mut engine, what, 6, &samples, &params);
        assert_eq!((found.what, found.step, found.layer.as_deref()), (What::Loss, 7, Some("weight")));
        assert_eq!((found.rows.as_slice(), bowl.weight.of::<f32>(&params)), (&[2][..], &W[..]));
        assert_eq!(trainer.optimiser.moments().2, 0);
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
