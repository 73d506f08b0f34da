//! The training loop, which every stage that trains uses.

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};
use std::time::Instant;

use nids_kernels::{Buffer, Key};
use nids_nn::engine::{Engine, Objective, Sample};
use nids_nn::{Ema, ParamTable};

use crate::monitor::Monitor;
use crate::nonfinite::{NonfiniteFinding, NonfiniteKind};
use crate::plan::TrainPlan;
use crate::sampler::Sampler;
use crate::state::{LogWindow, RecoveryState, RollbackPoint, State};
use crate::step::{Outcome, StepReport, StepRunner};
use nids_config::{MonitorPolicy, NonfinitePolicy, Stage};
use nids_store::checkpoint::{Checkpoint, Position};
use nids_store::log::Line;
use nids_store::progress::{Event, Progress};
use nids_store::run::StageRun;
use nids_store::{Error, Result};

/// Gets the samples of a step and those of the one after it.
pub type Fetch<'f> = dyn Fn(&[Sample], &[Sample]) -> Result<()> + Sync + 'f;

/// Arguments of [`Job::train`] that stay the same from step to step.
#[derive(Clone, Copy)]
pub struct Job<'j> {
    /// The table of the parameters.
    pub table: &'j ParamTable,
    /// The objective that is minimised.
    pub objective: &'j dyn Objective<f32>,
    /// The plan.
    pub plan: &'j TrainPlan,
    /// The key of all random numbers.
    pub key: Key,
    /// An average of the weights, updated after every step.
    pub average: Option<&'j RwLock<Ema<f32>>>,
    /// Weights of the members that have finished, which a checkpoint keeps.
    pub finished: &'j [f32],
    /// Names the place that a row comes from.
    pub row: &'j (dyn Fn(u32) -> String + Sync),
    /// Brings rows of a step into memory, where they are not: called before each step with its samples and those of the next. Where
    /// steps are dealt to several processes, with those that this one computes.
    pub fetch: Option<&'j Fetch<'j>>,
}

impl<'j> Job<'j> {
    /// Locks the average for writing.
    pub fn average(&self) -> Option<RwLockWriteGuard<'j, Ema<f32>>> {
        self.average.map(|average| average.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Trains `params` to the plan's last step, from step 0 or from a checkpoint. `each_step` is called after every step with the
    /// number of steps taken and the weights or their average. If it validates, it returns the loss.
    pub fn train(
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
        let mut train_loop = TrainLoop::start(self, lr_scale, params, from)?;
        let mut samples: Vec<Sample> = Vec::with_capacity(plan.batch_size);
        // of the step after, if rows are fetched
        let (mut next, mut next_step) = (Vec::new(), None);
        let processes = engine.peers().map_or_else(String::new, |peers| format!("{} processes of ", peers.size()));
        progress.event(Event::Message(&format!(
            "{} parameters, {processes}{} threads, {}",
            self.table.n_params(),
            engine.threads(),
            nids_kernels::describe(engine.gemm())
        )));
        progress.event(Event::Started { stage: plan.stage, steps: plan.steps, batch: plan.batch_size as u64 });
        let first = train_loop.step;
        if first > 0 {
            progress.event(Event::Message(&format!("{}: goes on after step {first} of {}", plan.stage, plan.steps)));
        }
        let started = Instant::now();
        engine.run(|engine| -> Result<()> {
            while train_loop.step < plan.steps {
                let step = train_loop.step;
                if next_step == Some(step) {
                    std::mem::swap(&mut samples, &mut next);
                } else {
                    sampler.batch(step, plan.batch_size, &mut samples);
                }
                if let Some(fetch) = self.fetch {
                    sampler.batch(step + 1, plan.batch_size, &mut next);
                    next_step = Some(step + 1);
                    fetch(&own(engine, plan, &samples), &own(engine, plan, &next))?;
                }
                if engine.peers().is_some() {
                    engine.tell(progress.stop().unwrap_or(0));
                }
                train_loop.advance(engine, &samples, params, run, progress)?;
                let done = train_loop.step;
                let average = self.average();
                let kept = average.as_ref().map_or(&**params, |average| average.params());
                if let Some(loss) = each_step(done, engine, kept, run, progress)? {
                    train_loop.score = Some(loss);
                }
                drop(average);
                // of several processes, one that any of them heard before the step
                let signal = engine.agreed().map_or_else(|| progress.stop(), |signal| Some(signal).filter(|&signal| signal != 0));
                let is_periodic = done.is_multiple_of(run.checkpoint_every());
                if done < plan.steps && (is_periodic || signal.is_some()) {
                    train_loop.checkpoint(params, is_periodic, run)?;
                    if let Some(signal) = signal {
                        run.meet(); // it is saved before any process ends
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

/// Those samples of a step that this process computes.
fn own<'s>(engine: &Engine<f32>, plan: &TrainPlan, samples: &'s [Sample]) -> Cow<'s, [Sample]> {
    if engine.peers().is_none() {
        return Cow::Borrowed(samples);
    }
    Cow::Owned(samples.chunks(plan.micro_batch).flat_map(|samples| engine.own_samples(samples)).copied().collect())
}

/// The training loop between two steps.
struct TrainLoop<'j> {
    job: &'j Job<'j>,
    runner: StepRunner<'j>,
    monitor: Option<Monitor>,
    /// Number of steps taken.
    step: u64,
    window: LogWindow,
    recovery: RecoveryState,
    score: Option<f64>,
    /// The weights that a rollback restores.
    rollback_point: Option<Snapshot>,
}

/// Copies of the weights, of the optimiser's moments and of the average.
struct Snapshot {
    at: RollbackPoint,
    params: Buffer<f32>,
    m: Buffer<f32>,
    v: Buffer<f32>,
    average: Option<Buffer<f32>>,
}

impl<'j> TrainLoop<'j> {
    fn start(
        job: &'j Job<'j>,
        lr_scale: impl Fn(&str) -> f64,
        params: &mut Buffer<f32>,
        from: Option<&Checkpoint>,
    ) -> Result<Self> {
        let Job { table, objective, plan, key, .. } = *job;
        let is_watched = plan.monitor != MonitorPolicy::Off;
        let monitor = is_watched.then(|| Monitor::new(table, plan.stage, plan.member, plan.limits, &lr_scale));
        let runner = StepRunner::new(table, objective, plan, key, lr_scale);
        let mut train_loop = Self {
            job,
            runner,
            monitor,
            step: 0,
            window: LogWindow::default(),
            recovery: RecoveryState::default(),
            score: None,
            rollback_point: None,
        };
        if plan.nonfinite == NonfinitePolicy::Rollback {
            train_loop.rollback_point = Some(train_loop.snapshot(params));
        }
        if let Some(from) = from {
            train_loop.restore(from, params)?;
        }
        Ok(train_loop)
    }

    /// Takes the next step and logs it.
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
        let mut terms = Vec::new();
        let mut term = |name, term| terms.push((name, term));
        let report = match self.runner.step(engine, step, samples, self.recovery.lr_scale, params, &mut term) {
            Outcome::Taken(report) => report,
            Outcome::Nonfinite(kind) => {
                if let Some(fetch) = self.job.fetch.filter(|_| engine.peers().is_some()) {
                    fetch(samples, &[])?; // other processes' rows, too
                }
                let finding = self.runner.nonfinite(engine, kind, step, samples, params);
                return self.handle(&finding, params, run, progress);
            }
        };
        self.step = done;
        self.recovery.skipped = 0;
        if let Some(mut average) = self.job.average() {
            average.update(params);
        }
        let StepReport { loss, lr, grad_norm } = report;
        self.window.loss += loss;
        for (name, term) in terms {
            *self.window.terms.entry(Cow::Borrowed(name)).or_insert(0.0) += term;
        }
        self.window.steps += 1.0;
        progress.event(Event::Step { step: done, loss, lr });
        if done % plan.log_every == 0 || done == plan.steps {
            let LogWindow { loss, steps, mut terms } = std::mem::take(&mut self.window);
            for term in terms.values_mut() {
                *term /= steps;
            }
            run.log(&Line::Step { step: done, member: plan.member, loss: loss / steps, lr, grad_norm, terms })?;
            if plan.stage == Stage::Pretrain {
                self.score = Some(loss / steps);
            }
        }
        let observation = self.monitor.as_mut().and_then(|monitor| monitor.after(done, &report, params, &self.runner.optimiser));
        if let Some(observation) = observation {
            run.log_monitor(&observation.line)?;
            match observation.warning {
                Some(warning) if plan.monitor == MonitorPolicy::Stop => return Err(Error::Numerics(warning)),
                Some(warning) => progress.event(Event::Message(&format!("warning: {warning}"))),
                None => {}
            }
        }
        if plan.nonfinite == NonfinitePolicy::Rollback && done.is_multiple_of(plan.limits.rollback_every) {
            self.rollback_point = Some(self.snapshot(params));
        }
        Ok(())
    }

    /// Applies the policy on non-finite values.
    fn handle(
        &mut self,
        finding: &NonfiniteFinding,
        params: &mut Buffer<f32>,
        run: &mut StageRun<'_>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let Job { plan, row, .. } = *self.job;
        let stop = |why: &str| Err(Error::Numerics(finding.text(plan, row, why)));
        let action = match plan.nonfinite {
            NonfinitePolicy::Skip if finding.kind != NonfiniteKind::Weight => {
                let max = plan.limits.max_skips;
                self.recovery.skipped += 1;
                if self.recovery.skipped > max {
                    return stop(&format!("{max} steps in a row have been skipped"));
                }
                self.step += 1;
                "skipped".to_owned()
            }
            NonfinitePolicy::Rollback => {
                let max = plan.limits.max_rollbacks;
                self.recovery.rollbacks += 1;
                if self.recovery.rollbacks > max {
                    return stop(&format!("it has gone back {max} times"));
                }
                self.recovery.lr_scale *= plan.limits.rollback_lr_factor;
                let to = self.roll_back(params);
                format!("back to step {to}, learning rates now x {}", self.recovery.lr_scale)
            }
            _ => return stop(""),
        };
        let line = Line::Nonfinite {
            step: finding.step,
            member: plan.member,
            nonfinite: finding.kind.text().into(),
            layer: finding.layer.clone(),
            rows: finding.rows.iter().map(|&index| row(index)).collect(),
            action: action.clone(),
        };
        run.log(&line)?;
        progress.event(Event::Message(&format!("warning: {}: {action}", finding.text(plan, row, ""))));
        Ok(())
    }

    fn snapshot(&self, params: &Buffer<f32>) -> Snapshot {
        let (m, v, updates) = self.runner.optimiser.moments();
        let average = self.job.average();
        Snapshot {
            at: RollbackPoint { step: self.step, updates, averaged: average.as_ref().map_or(0, |average| average.updates()) },
            params: params.clone(),
            m: m.clone(),
            v: v.clone(),
            average: average.map(|average| average.average().clone()),
        }
    }

    /// Restores the weights of the rollback point and returns its step.
    fn roll_back(&mut self, params: &mut Buffer<f32>) -> u64 {
        let Snapshot { at, params: then, m, v, average } =
            self.rollback_point.as_ref().expect("a snapshot is taken at the start");
        params.copy_from_slice(then);
        self.runner.optimiser.set_state(m, v, at.updates);
        if let Some((mut average, then)) = self.job.average().zip(average.as_ref()) {
            average.set_state(then, at.averaged);
        }
        self.step = at.step;
        self.window = LogWindow::default();
        at.step
    }

    fn checkpoint(&self, params: &[f32], is_periodic: bool, run: &mut StageRun<'_>) -> Result<()> {
        let (m, v, updates) = self.runner.optimiser.moments();
        let average = self.job.average();
        let state = State {
            member: self.job.plan.member,
            step: self.step,
            updates,
            averaged: average.as_ref().map_or(0, |average| average.updates()),
            window: self.window.clone(),
            monitor: self.monitor.as_ref().map(Monitor::state),
            recovery: self.recovery,
            score: self.score,
            rollback_point: self.rollback_point.as_ref().map(|snapshot| snapshot.at),
        };
        let mut tensors: Vec<(&str, &[f32])> = vec![("params", params), ("m", m), ("v", v)];
        tensors.extend(average.as_ref().map(|average| ("average", average.params())));
        if !self.job.finished.is_empty() {
            tensors.push(("finished", self.job.finished));
        }
        if let Some(snapshot) = &self.rollback_point {
            tensors.extend([
                ("rollback_point.params", &*snapshot.params),
                ("rollback_point.m", &*snapshot.m),
                ("rollback_point.v", &*snapshot.v),
            ]);
            tensors.extend(snapshot.average.as_ref().map(|average| ("rollback_point.average", &**average)));
        }
        let at = Position { member: state.member, step: state.step, score: state.score };
        run.checkpoint(at, is_periodic, &state, &tensors)
    }

    fn restore(&mut self, from: &Checkpoint, params: &mut Buffer<f32>) -> Result<()> {
        let (state, plan) = (from.state::<State>()?, self.job.plan);
        if state.step >= plan.steps || state.member != plan.member {
            let member_label = |member: Option<usize>| member.map_or_else(String::new, |member| format!(" of member {member}"));
            let (at, wanted) = (member_label(state.member), member_label(plan.member));
            let what =
                format!("it is at step {}{at}, beyond the {} steps{wanted} of `{}.steps`", state.step, plan.steps, plan.stage);
            return Err(from.refuse(what));
        }
        let (mut m, mut v) = (self.job.table.zeros(), self.job.table.zeros());
        for (name, buffer) in [("params", &mut *params), ("m", &mut m), ("v", &mut v)] {
            from.copy(name, buffer)?;
        }
        self.runner.optimiser.set_state(&m, &v, state.updates);
        if let Some(mut average) = self.job.average() {
            let mut then = self.job.table.zeros();
            from.copy("average", &mut then)?;
            average.set_state(&then, state.averaged);
        }
        if let (Some(monitor), Some(state)) = (&mut self.monitor, &state.monitor) {
            monitor.restore(state);
        }
        if let (Some(snapshot), Some(at)) = (&mut self.rollback_point, state.rollback_point) {
            snapshot.at = at;
            for (name, buffer) in [
                ("rollback_point.params", &mut snapshot.params),
                ("rollback_point.m", &mut snapshot.m),
                ("rollback_point.v", &mut snapshot.v),
            ] {
                from.copy(name, buffer)?;
            }
            if let Some(average) = &mut snapshot.average {
                from.copy("rollback_point.average", average)?;
            }
        }
        self.step = state.step;
        self.window = state.window.clone();
        self.recovery = state.recovery;
        self.score = state.score;
        Ok(())
    }
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
