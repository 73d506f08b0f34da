//! `sweep`: finds the size of the network, or the best settings, by short trainings.
//!
//! Trials are judged on rows cut from the training part (`data.inner_validation`), so that the held-out rows stay unseen and the
//! chosen config can be scored on them. Each trial is a run folder of its own below the sweep's: one that has finished is not
//! trained again.

use serde::Serialize;

use crate::stages::{encode, finetune, pretrain};
use nids_config::{Config, FinetuneFrom, HalvingConfig, Refit, Stage, SweepStrategy, WidthDepthConfig};
use nids_store::Lock;
use nids_store::log::Line;
use nids_store::progress::{Event, Progress};
use nids_store::run::{Resume, Run};
use nids_store::{Error, Result};

mod grid;
mod plot;

pub use grid::Axis;

/// The trials of a sweep, and its choice.
#[derive(Clone, Debug, Serialize)]
pub struct SweepReport {
    /// All trials, in the order in which they were run.
    pub trials: Vec<Trial>,
    /// Index of the chosen trial.
    pub chosen: usize,
}

/// A short training and its result.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// Its name, and that of its folder: `trials/<name>`.
    pub name: String,
    /// The settings that it changes, as `dotted.key=value`.
    pub settings: Vec<String>,
    /// Number of steps of fine-tuning.
    pub steps: u64,
    /// Mean training loss over the first and over the last tenth of the steps.
    pub train_loss: [f64; 2],
    /// Log loss on the inner validation rows after a third of the steps and at the end.
    pub validation_loss: [f64; 2],
    /// Accuracy on the inner validation rows.
    pub accuracy: f64,
    /// Its outcome by the criterion of the sweep.
    pub verdict: TrialOutcome,
}

/// The outcome of a trial by the criterion of the sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialOutcome {
    /// Training or validation loss did not fall by `min_drop` of ln 2.
    NotPromising,
    /// The validation loss of a larger network is lower by more than `tolerance`.
    TooSmall,
    /// A smaller network is as good, within `tolerance`.
    TooBig,
    /// Other settings were better.
    Dropped,
    /// The smallest network within `tolerance` of the best, or the last candidate left.
    Chosen,
}

impl TrialOutcome {
    /// The outcome in words.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotPromising => "not promising",
            Self::TooSmall => "too small",
            Self::TooBig => "too big",
            Self::Dropped => "dropped",
            Self::Chosen => "chosen",
        }
    }
}

/// Runs the sweep of `sweep.strategy`; `grid` has the settings that successive halving tries. Leaves `sweep.json`, `sweep.svg` and
/// `chosen.yaml` in the run folder.
pub fn sweep(config: &Config, run: &Run, grid: &[Axis], progress: &mut dyn Progress) -> Result<SweepReport> {
    config.engine.check().map_err(Error::Usage)?;
    let lock = run.lock("sweep", progress)?;
    // trials compare networks: heads would cover what differs
    let alone = "finetune.heads=null".to_owned();
    let trial_config = match config.sweep.strategy {
        SweepStrategy::WidthDepth(_) => config.with(&["finetune.from=scratch".to_owned(), alone])?,
        SweepStrategy::Halving(_) if !config.finetune.has_network() => {
            let message = "a sweep compares networks by their steps, and `finetune.from: frozen` and `features` train none: set it to \
                           `pretrained` or `scratch`";
            return Err(Error::Usage(message.to_owned()));
        }
        SweepStrategy::Halving(_) => config.with(&[alone])?,
    };
    let left_out =
        [("finetune.heads", !config.finetune.heads().is_empty()), ("finetune.refit", config.finetune.refit == Refit::All)];
    for (key, _) in left_out.iter().filter(|(_, is_set)| *is_set) {
        progress.event(Event::Message(&format!("`{key}`: trials do without, since networks are compared; chosen.yaml has it")));
    }
    let mut sweep = Sweep { config: &trial_config, run, lock: &lock, trials: Vec::new(), progress };
    let chosen = match &config.sweep.strategy {
        SweepStrategy::WidthDepth(_) if !grid.is_empty() => {
            let message = "`--grid` is what `sweep.strategy: halving` chooses from: name that strategy, or leave the grid out";
            return Err(Error::Usage(message.to_owned()));
        }
        SweepStrategy::WidthDepth(settings) => sweep.width_depth(settings)?,
        SweepStrategy::Halving(settings) => sweep.halving(settings, grid)?,
    };
    let report = SweepReport { trials: sweep.trials, chosen };
    let trial = &report.trials[chosen];
    let text = config.with(&trial.settings)?.to_yaml();
    lock.check()?;
    run.write("chosen.yaml", text.as_bytes())?;
    run.write("sweep.json", format!("{:#}\n", serde_json::json!(report)).as_bytes())?;
    run.write("sweep.svg", plot::svg(&report).as_bytes())?;
    Ok(report)
}

/// The steps of each trial that there may be, at most: a search that ends early has fewer.
pub(super) fn planned_trials(config: &Config, grid: &[Axis]) -> Result<Vec<u64>> {
    match &config.sweep.strategy {
        SweepStrategy::WidthDepth(settings) => {
            let widths = ladder(settings.min_dim, settings.max_dim).len();
            let deeper = ladder(settings.depth, settings.max_depth).len() - 1;
            Ok(vec![settings.iterations; widths + deeper])
        }
        SweepStrategy::Halving(settings) => {
            let mut left = grid::candidates(grid, settings.max_candidates, config.seed)?.len();
            let (mut steps, mut trials) = (settings.min_steps, Vec::new());
            loop {
                trials.extend(std::iter::repeat_n(steps, left));
                if left <= 1 {
                    return Ok(trials);
                }
                left = (left / settings.eta).max(1);
                steps = steps.saturating_mul(settings.eta as u64);
            }
        }
    }
}

struct Sweep<'s> {
    /// The config of all trials, before the settings that each one changes.
    config: &'s Config,
    run: &'s Run,
    lock: &'s Lock,
    trials: Vec<Trial>,
    progress: &'s mut dyn Progress,
}

impl Sweep<'_> {
    /// The predecessor's way: at a fixed depth widths go up until a wider one no longer helps within the first iterations, then
    /// depth goes up at that width. Returns the index of the trial chosen.
    fn width_depth(&mut self, settings: &WidthDepthConfig) -> Result<usize> {
        let depth = |depth: usize| format!("model.depth={depth}");
        let dim = |dim: usize| format!("model.dim={dim}");
        let widths = ladder(settings.min_dim, settings.max_dim).into_iter();
        let widest = self.climb(widths.map(|d| vec![depth(settings.depth), dim(d)]).collect(), settings)?;
        let dim = self.trials[widest].settings[1].clone();
        let deeper = ladder(settings.depth, settings.max_depth).into_iter().skip(1);
        let first_deeper = self.trials.len();
        let mut best = widest;
        for n in deeper {
            let index = self.trial(vec![depth(n), dim.clone()], settings.iterations)?;
            if !self.is_better(index, best, settings) {
                break;
            }
            best = index;
        }
        for index in first_deeper..self.trials.len() {
            self.trials[index].verdict = if index < best { TrialOutcome::TooSmall } else { TrialOutcome::TooBig };
        }
        if best != widest {
            self.trials[widest].verdict = TrialOutcome::TooSmall;
        }
        self.trials[best].verdict = TrialOutcome::Chosen;
        Ok(best)
    }

    /// Tries settings from small to large until two in a row are no better than the best so far, and judges them.
    fn climb(&mut self, candidates: Vec<Vec<String>>, settings: &WidthDepthConfig) -> Result<usize> {
        let first = self.trials.len();
        let mut best: Option<usize> = None;
        let mut since = 0;
        for candidate in candidates {
            let index = self.trial(candidate, settings.iterations)?;
            if !is_promising(&self.trials[index], settings.min_drop) {
                self.trials[index].verdict = TrialOutcome::NotPromising;
                continue;
            }
            match best {
                Some(best) if !self.is_better(index, best, settings) => since += 1,
                _ => (best, since) = (Some(index), 0),
            }
            if since == 2 {
                break;
            }
        }
        let Some(best) = best else {
            let tried: Vec<String> = self.trials[first..].iter().map(|trial| trial.name.clone()).collect();
            let message = format!(
                "no width is promising within {} iterations (tried {}): both losses must fall by {} of ln 2: raise \
                 `sweep.strategy.width_depth.iterations` or `finetune.lr`, or lower `min_drop`",
                settings.iterations,
                tried.join(", "),
                settings.min_drop
            );
            return Err(Error::Numerics(message));
        };
        for (index, trial) in self.trials.iter_mut().enumerate().skip(first) {
            if trial.verdict != TrialOutcome::NotPromising {
                trial.verdict = if index < best { TrialOutcome::TooSmall } else { TrialOutcome::TooBig };
            }
        }
        self.trials[best].verdict = TrialOutcome::Chosen;
        Ok(best)
    }

    /// Whether the validation loss is lower by more than the tolerance.
    fn is_better(&self, index: usize, than: usize, settings: &WidthDepthConfig) -> bool {
        self.trials[index].validation_loss[1] < self.trials[than].validation_loss[1] * (1.0 - settings.tolerance)
    }

    /// Successive halving (Jamieson & Talwalkar 2016): every candidate trains for `min_steps`. The best of every `eta` then train
    /// for `eta` times as long, from the start, because the schedule spans the whole training. Returns the index of the last one
    /// left.
    fn halving(&mut self, settings: &HalvingConfig, grid: &[Axis]) -> Result<usize> {
        let mut left = grid::candidates(grid, settings.max_candidates, self.config.seed)?;
        for candidate in &left {
            self.config.with(candidate)?; // reports all that is wrong with the grid before the first training
        }
        let mut steps = settings.min_steps;
        loop {
            let mut rung = Vec::new();
            for candidate in left {
                rung.push(self.trial(candidate, steps)?);
            }
            // a stable sort: of equal trials the one named first wins
            rung.sort_by(|&a, &b| self.trials[a].validation_loss[1].total_cmp(&self.trials[b].validation_loss[1]));
            if rung.len() == 1 {
                self.trials[rung[0]].verdict = TrialOutcome::Chosen;
                return Ok(rung[0]);
            }
            let kept = (rung.len() / settings.eta).max(1);
            left = rung[..kept].iter().map(|&index| self.trials[index].settings.clone()).collect();
            steps = steps.saturating_mul(settings.eta as u64);
        }
    }

    /// Trains a trial, unless it has been trained already. Returns its index.
    fn trial(&mut self, settings: Vec<String>, steps: u64) -> Result<usize> {
        let name = grid::name(&settings, steps);
        let trial_settings = [
            format!("name={name}"),
            "data.inner_validation=true".to_owned(),
            "finetune.refit=none".to_owned(), // a trial is judged, not kept
            format!("finetune.steps={steps}"),
            format!("finetune.eval_every={}", (steps / 3).max(1)),
            format!("finetune.log_every={}", (steps / 10).max(1)),
        ];
        let config = self.config.with(&[settings.as_slice(), &trial_settings].concat())?;
        self.lock.check()?;
        let run = Run::create(&self.run.folder().join("trials").join(&name))?.with_resume(self.resume());
        drop(run.lock("sweep", self.progress)?); // what a killed trial has left
        if self.run.resume() == Resume::Fresh || !run.is_up_to_date(Stage::Finetune, &config) {
            self.progress.event(Event::Message(&format!("sweep: trial {}: {name}", self.trials.len() + 1)));
            if config.upstream(Stage::Finetune).contains(&Stage::Pretrain) && !self.has_pretrained(&run, &config)? {
                pretrain(&config, &run, self.progress)?;
            }
            if config.finetune.from == FinetuneFrom::Latents {
                encode(&config, &run, self.progress)?;
            }
            finetune(&config, &run, self.progress)?;
        }
        let (train_loss, validation_loss, accuracy) = losses(&run)?;
        let trial = Trial { name, settings, steps, train_loss, validation_loss, accuracy, verdict: TrialOutcome::Dropped };
        let [before, after] = validation_loss;
        let line = format!("sweep: {}: validation loss {before:.4} -> {after:.4}, accuracy {accuracy:.4}", trial.name);
        self.progress.event(Event::Message(&line));
        self.trials.push(trial);
        Ok(self.trials.len() - 1)
    }

    /// A trial's folder belongs to the sweep: a stopped trial with other settings starts anew.
    fn resume(&self) -> Resume {
        if self.run.resume() == Resume::Fresh { Resume::Fresh } else { Resume::UnchangedOrFresh }
    }

    /// Whether an encoder pretrained with these settings is there, or could be copied from an earlier trial.
    fn has_pretrained(&self, run: &Run, config: &Config) -> Result<bool> {
        if run.is_up_to_date(Stage::Pretrain, config) {
            return Ok(true);
        }
        for trial in &self.trials {
            let earlier = Run::open(&self.run.folder().join("trials").join(&trial.name))?;
            if run.adopt(Stage::Pretrain, &earlier, config)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// `from`, then the powers of 2 and the numbers halfway between them, up to `to`.
fn ladder(from: usize, to: usize) -> Vec<usize> {
    let mut rungs = vec![from];
    let mut power = from.next_power_of_two();
    while power <= to {
        for rung in [power, power + power / 2] {
            if rung > from && rung <= to && rungs.last() != Some(&rung) {
                rungs.push(rung);
            }
        }
        power *= 2;
    }
    rungs
}

/// Whether both losses fell, from where a classifier starts, by the share asked for.
fn is_promising(trial: &Trial, min_drop: f64) -> bool {
    let fell = |loss: f64| loss <= std::f64::consts::LN_2 * (1.0 - min_drop);
    fell(trial.train_loss[1]) && fell(trial.validation_loss[1])
}

/// From the trial's metrics: training loss first and last, validation loss first and last, accuracy.
fn losses(run: &Run) -> Result<([f64; 2], [f64; 2], f64)> {
    let (mut train, mut validation, mut accuracy) = (Vec::new(), Vec::new(), None);
    for line in run.metrics(Stage::Finetune)? {
        match line {
            Line::Step { loss, .. } => train.push(loss),
            Line::Validation { validation: found, .. } => {
                validation.extend(found.log_loss);
                accuracy = found.accuracy.or(accuracy);
            }
            Line::Probe { .. } | Line::Nonfinite { .. } => {}
        }
    }
    let ends = |losses: Vec<f64>| Some([*losses.first()?, *losses.last()?]);
    let (train, validation) = (ends(train), ends(validation));
    train.zip(validation).zip(accuracy).map(|((train, validation), accuracy)| (train, validation, accuracy)).ok_or_else(|| {
        Error::artefact(
            run.folder().join("metrics.jsonl"),
            "lacks the losses of a finished training",
            "remove the trial's folder",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_has_powers_of_two_and_what_lies_halfway() {
        assert_eq!(ladder(8, 96), [8, 12, 16, 24, 32, 48, 64, 96]);
        assert_eq!(ladder(1, 8), [1, 2, 3, 4, 6, 8]);
        assert_eq!(ladder(10, 30), [10, 16, 24]);
        assert_eq!(ladder(5, 5), [5]);
    }
}
