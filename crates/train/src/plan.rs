//! The plan of a training run, made from a stage's config.

use nids_nn::optim::{Decay, OptimiserConfig};
use nids_nn::schedule::{Schedule, Warmup};

use nids_config::{MonitorPolicy, NonfinitePolicy, Per, RestartsConfig, ScheduleConfig, Stage, TrainingConfig};

/// What the training loop needs to know of a stage's config.
#[derive(Clone, Copy, Debug)]
pub struct TrainPlan {
    pub(crate) stage: Stage,
    /// The member that is trained, if there are several independent ones.
    pub member: Option<usize>,
    /// Number of steps.
    pub steps: u64,
    /// Rows per step.
    pub batch_size: usize,
    pub(crate) micro_batch: usize,
    pub(crate) optimiser: OptimiserConfig,
    pub(crate) decay: Decay,
    clock: Clock,
    schedule: Schedule,
    pub(crate) clip_norm: Option<f64>,
    pub(crate) nonfinite: NonfinitePolicy,
    pub(crate) log_every: u64,
    pub(crate) monitor: MonitorPolicy,
    pub(crate) limits: Limits,
}

impl TrainPlan {
    /// The plan of a stage that trains on `n_rows`.
    pub fn new(stage: Stage, config: &TrainingConfig, n_rows: usize) -> Self {
        let clock = Clock { per: config.schedule_per, batch_size: config.batch_size as u64, n_rows: n_rows as u64 };
        Self {
            stage,
            member: None,
            steps: config.steps,
            batch_size: config.batch_size,
            micro_batch: config.micro_batch,
            optimiser: config.optimiser,
            decay: decay(config.optimiser),
            clock,
            schedule: schedule(config, clock.t(config.steps - 1) + 1),
            clip_norm: config.clip_norm,
            nonfinite: config.nonfinite,
            log_every: config.log_every,
            monitor: config.monitor,
            limits: Limits::default(),
        }
    }

    /// The same plan for one of several independent members.
    #[must_use]
    pub fn for_member(self, member: Option<usize>) -> Self {
        Self { member, ..self }
    }

    /// The learning rate of `step`, counted from 0.
    pub(crate) fn lr(&self, step: u64) -> f64 {
        self.schedule.lr(usize::try_from(self.clock.t(step)).unwrap_or(usize::MAX))
    }
}

/// Limits of the monitor and of the policy on non-finite values. They are not settings, since nobody has needed other values; tests
/// use smaller ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Steps between two observations of the monitor.
    pub(crate) monitor_every: u64,
    /// A layer is still if every weight moves by less than this share of the learning rate in one step, weight decay left out.
    pub(crate) threshold: f64,
    /// Consecutive observations at which a layer must be still, and over which the loss must not fall by 1 %, before the layer is
    /// reported.
    pub(crate) patience: u64,
    /// The most steps that are skipped in a row before the stage stops.
    pub(crate) max_skips: u64,
    /// A rollback goes to the last step divisible by this.
    pub(crate) rollback_every: u64,
    /// Factor on every learning rate after a rollback.
    pub(crate) rollback_lr_factor: f64,
    /// The most rollbacks before the stage stops.
    pub(crate) max_rollbacks: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            monitor_every: 50,
            threshold: 1e-4,
            patience: 5,
            max_skips: 10,
            rollback_every: 100,
            rollback_lr_factor: 0.5,
            max_rollbacks: 5,
        }
    }
}

/// The time of a schedule: steps or epochs.
#[derive(Clone, Copy, Debug)]
struct Clock {
    per: Per,
    batch_size: u64,
    n_rows: u64,
}

impl Clock {
    /// The time of `step`, counted from 0: the step itself, or the epoch of its first row.
    fn t(self, step: u64) -> u64 {
        match self.per {
            Per::Step => step,
            Per::Epoch => step.saturating_mul(self.batch_size) / self.n_rows,
        }
    }
}

/// The parameters that weight decay applies to. AdamW spares biases and norms, as is usual. Adam's L2 penalty applies to every
/// parameter, as in the numpy predecessor.
fn decay(optimiser: OptimiserConfig) -> Decay {
    match optimiser {
        OptimiserConfig::AdamW(_) => Decay::Matrices,
        OptimiserConfig::Adam(_) => Decay::All,
    }
}

/// A schedule over `total` steps, or epochs.
fn schedule(config: &TrainingConfig, total: u64) -> Schedule {
    /// `lr`, divided by the first rate of one cycle, as in PyTorch's `OneCycleLR`.
    const DIV_FACTOR: f64 = 25.0;
    let &TrainingConfig { lr, min_lr, warmup: share, .. } = config;
    let warmup = Warmup { steps: (share * total as f64).round() as usize, start: 0.0 };
    match config.schedule {
        ScheduleConfig::Constant => Schedule::Constant { lr, warmup },
        ScheduleConfig::Cosine => {
            // the cosine reaches its minimum at the last step
            let t_max = total.saturating_sub(warmup.steps as u64 + 1) as f64;
            Schedule::Cosine { lr, warmup, t_max, eta_min: min_lr }
        }
        ScheduleConfig::CosineRestarts(RestartsConfig { t_0, t_mult }) => {
            Schedule::CosineRestarts { lr, warmup, t_0, t_mult, eta_min: min_lr }
        }
        ScheduleConfig::OneCycle => {
            let steps = usize::try_from(total).unwrap_or(usize::MAX);
            Schedule::OneCycle { lr, steps, pct_start: share, first: lr / DIV_FACTOR, last: min_lr }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The learning rates of a run of `steps` steps, each of 10 rows out of 25.
    fn rates(schedule: ScheduleConfig, warmup: f64, min_lr: f64, schedule_per: Per, steps: u64) -> Vec<f64> {
        let config = TrainingConfig {
            steps,
            batch_size: 10,
            lr: 1.0,
            schedule,
            warmup,
            min_lr,
            schedule_per,
            ..TrainingConfig::default()
        };
        let plan = TrainPlan::new(Stage::Pretrain, &config, 25);
        (0..steps).map(|step| plan.lr(step)).collect()
    }

    fn assert_close(found: &[f64], want: &[f64]) {
        assert_eq!(found.len(), want.len());
        assert!(found.iter().zip(want).all(|(found, want)| (found - want).abs() < 1e-12), "{found:?}, not {want:?}");
    }

    #[test]
    fn a_cosine_comes_down_at_the_last_step() {
        let rates = rates(ScheduleConfig::Cosine, 0.2, 0.1, Per::Step, 10);
        let half = (std::f64::consts::PI / 7.0).cos();
        assert_close(&rates[..4], &[0.5, 1.0, 1.0, 0.1 + 0.45 * (1.0 + half)]);
        assert_close(&rates[9..], &[0.1]);
    }

    #[test]
    fn restarts_and_one_cycle_follow_the_config() {
        let restarts = ScheduleConfig::CosineRestarts(RestartsConfig { t_0: 2, t_mult: 2 });
        let quarter = 0.5 + 0.125_f64.sqrt();
        assert_close(
            &rates(restarts, 0.2, 0.0, Per::Step, 10),
            &[0.5, 1.0, 1.0, 0.5, 1.0, quarter, 0.5, 1.0 - quarter, 1.0, 0.5 + 0.5 * (std::f64::consts::PI / 8.0).cos()],
        );
        let one_cycle = rates(ScheduleConfig::OneCycle, 0.3, 1e-3, Per::Step, 100);
        assert_close(&[one_cycle[0], one_cycle[29], one_cycle[99]], &[0.04, 1.0, 1e-3]);
    }

    #[test]
    fn a_rate_per_epoch_changes_where_an_epoch_begins() {
        // 10 of 25 rows a step: the third step begins in epoch 0, the fourth in epoch 1, ...
        let (a, b) = (0.5, 1.0);
        let constant = rates(ScheduleConfig::Constant, 0.5, 0.0, Per::Epoch, 10);
        assert_close(&constant, &[a, a, a, b, b, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let restarts = ScheduleConfig::CosineRestarts(RestartsConfig { t_0: 2, t_mult: 1 });
        assert_close(&rates(restarts, 0.0, 0.0, Per::Epoch, 10), &[b, b, b, a, a, b, b, b, a, a]);
        assert_close(&rates(ScheduleConfig::Cosine, 0.0, 0.0, Per::Epoch, 10)[8..], &[0.0; 2]);
    }
}
