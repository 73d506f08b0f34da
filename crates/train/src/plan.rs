//! What the training loop needs to know of a stage's config.

use nids_nn::optim::{Decay, OptimiserConfig};
use nids_nn::schedule::{Schedule, Warmup};

use nids_config::{self as config, Monitor, Nonfinite, Per, Stage, Training};

/// What the loop needs to know of a stage's config.
#[derive(Clone, Copy, Debug)]
pub struct TrainPlan {
    pub(crate) stage: Stage,
    /// Which of several independent members is trained.
    pub member: Option<usize>,
    /// Steps in all.
    pub steps: u64,
    /// Rows a step.
    pub batch_size: usize,
    pub(crate) micro_batch: usize,
    pub(crate) optimiser: OptimiserConfig,
    pub(crate) decay: Decay,
    clock: Clock,
    schedule: Schedule,
    pub(crate) clip_norm: Option<f64>,
    pub(crate) nonfinite: Nonfinite,
    pub(crate) log_every: u64,
    pub(crate) monitor: Option<Monitor>,
}

impl TrainPlan {
    /// The plan of a stage that trains on `n_rows`.
    pub fn new(stage: Stage, config: &Training, n_rows: usize) -> Self {
        let clock = Clock { per: config.schedule.per(), batch_size: config.batch_size as u64, n_rows: n_rows as u64 };
        Self {
            stage,
            member: None,
            steps: config.steps,
            batch_size: config.batch_size,
            micro_batch: config.micro_batch,
            optimiser: config.optimiser,
            decay: decay(config.optimiser),
            clock,
            schedule: schedule(&config.schedule, config.lr, clock.t(config.steps - 1) + 1),
            clip_norm: config.clip_norm,
            nonfinite: config.nonfinite,
            log_every: config.log_every,
            monitor: config.monitor,
        }
    }

    /// The same for one of several independent members.
    #[must_use]
    pub fn of_member(self, member: Option<usize>) -> Self {
        Self { member, ..self }
    }

    /// The learning rate of `step`, counted from 0.
    pub(crate) fn lr(&self, step: u64) -> f64 {
        self.schedule.lr(usize::try_from(self.clock.t(step)).unwrap_or(usize::MAX))
    }
}

/// What a schedule counts.
#[derive(Clone, Copy, Debug)]
struct Clock {
    per: Per,
    batch_size: u64,
    n_rows: u64,
}

impl Clock {
    /// The time of `step`, counted from 0: its number, or the epoch that its first row belongs to.
    fn t(self, step: u64) -> u64 {
        match self.per {
            Per::Step => step,
            Per::Epoch => step.saturating_mul(self.batch_size) / self.n_rows,
        }
    }
}

/// What weight decay applies to: AdamW spares biases and norms, as is usual; Adam's L2 penalty is on every parameter, as the
/// numpy predecessor had it.
fn decay(optimiser: OptimiserConfig) -> Decay {
    match optimiser {
        OptimiserConfig::AdamW(_) => Decay::Matrices,
        OptimiserConfig::Adam(_) => Decay::All,
    }
}

/// A schedule over `total` steps, or epochs.
fn schedule(schedule: &config::Schedule, lr: f64, total: u64) -> Schedule {
    let warmup = |share: f64, start: f64| Warmup { steps: (share * total as f64).round() as usize, start };
    match schedule {
        config::Schedule::Constant(c) => Schedule::Constant { lr, warmup: warmup(c.warmup, c.warmup_start_lr) },
        config::Schedule::Cosine(c) => {
            let warmup = warmup(c.warmup, c.warmup_start_lr);
            // with all of it, the last step is the first at which the wave has come down
            let t_max = c.t_max * total.saturating_sub(warmup.steps as u64 + 1) as f64;
            Schedule::Cosine { lr, warmup, t_max, eta_min: c.min_lr }
        }
        config::Schedule::CosineRestarts(c) => {
            let warmup = warmup(c.warmup, c.warmup_start_lr);
            Schedule::CosineRestarts { lr, warmup, t_0: c.t_0, t_mult: c.t_mult, eta_min: c.min_lr }
        }
        config::Schedule::OneCycle(c) => Schedule::OneCycle {
            lr,
            steps: usize::try_from(total).unwrap_or(usize::MAX),
            pct_start: c.pct_start,
            div_factor: c.div_factor,
            final_div_factor: c.final_div_factor,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nids_config::{Constant, Cosine, CosineRestarts, OneCycle};

    /// The rates of a run of `steps` of 10 rows out of 25.
    fn rates(schedule: config::Schedule, steps: u64) -> Vec<f64> {
        let config = Training { steps, batch_size: 10, lr: 1.0, schedule, ..Training::default() };
        let plan = TrainPlan::new(Stage::Pretrain, &config, 25);
        (0..steps).map(|step| plan.lr(step)).collect()
    }

    fn assert_close(found: &[f64], want: &[f64]) {
        assert_eq!(found.len(), want.len());
        assert!(found.iter().zip(want).all(|(found, want)| (found - want).abs() < 1e-12), "{found:?}, not {want:?}");
    }

    #[test]
    fn a_cosine_comes_down_at_the_last_step_or_sooner() {
        let cosine = |t_max| {
            config::Schedule::Cosine(Cosine { warmup: 0.2, warmup_start_lr: 0.5, min_lr: 0.1, t_max, ..Cosine::default() })
        };
        let (middle, quarter) = (0.55, 0.1 + 0.45 * (1.0 + 0.5_f64.sqrt()));
        assert_close(&rates(cosine(1.0), 10)[..3], &[0.75, 1.0, 1.0]);
        assert_close(&rates(cosine(1.0), 10)[9..], &[0.1]);
        // 4 of the 7 steps after the first at full rate
        assert_close(&rates(cosine(4.0 / 7.0), 10), &[0.75, 1.0, 1.0, quarter, middle, 1.1 - quarter, 0.1, 0.1, 0.1, 0.1]);
    }

    #[test]
    fn restarts_and_one_cycle_follow_the_config() {
        let restarts = CosineRestarts { warmup: 0.2, t_0: 2, t_mult: 2, ..CosineRestarts::default() };
        let quarter = 0.5 + 0.125_f64.sqrt();
        assert_close(
            &rates(config::Schedule::CosineRestarts(restarts), 10),
            &[0.5, 1.0, 1.0, 0.5, 1.0, quarter, 0.5, 1.0 - quarter, 1.0, 0.5 + 0.5 * (std::f64::consts::PI / 8.0).cos()],
        );
        let one_cycle = rates(config::Schedule::OneCycle(OneCycle::default()), 100);
        assert_close(&[one_cycle[0], one_cycle[29], one_cycle[99]], &[0.04, 1.0, 4e-6]);
    }

    #[test]
    fn a_rate_per_epoch_changes_where_an_epoch_begins() {
        // 10 of 25 rows a step: the third step begins in epoch 0, the fourth in epoch 1, ...
        let constant = Constant { warmup: 0.5, per: Per::Epoch, ..Constant::default() };
        let (a, b) = (0.5, 1.0);
        assert_close(&rates(config::Schedule::Constant(constant), 10), &[a, a, a, b, b, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let restarts = CosineRestarts { warmup: 0.0, t_0: 2, t_mult: 1, per: Per::Epoch, ..CosineRestarts::default() };
        assert_close(&rates(config::Schedule::CosineRestarts(restarts), 10), &[b, b, b, a, a, b, b, b, a, a]);
        let cosine = Cosine { warmup: 0.0, per: Per::Epoch, ..Cosine::default() };
        assert_close(&rates(config::Schedule::Cosine(cosine), 10)[8..], &[0.0; 2]);
    }
}
