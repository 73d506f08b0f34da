//! One step of training.

use nids_kernels::{Buffer, Key};
use nids_nn::ParamTable;
use nids_nn::engine::{Cut, Engine, Loss, Objective, Sample};
use nids_nn::optim::{Optimiser, clip};

use crate::nonfinite::{self, NonfiniteFinding, NonfiniteKind};
use crate::plan::TrainPlan;
use nids_store::checkpoint::Arithmetic;

/// The arithmetic of an engine, which a checkpoint records.
pub fn arithmetic(engine: &Engine<f32>) -> Arithmetic {
    let Cut { shard, groups } = engine.cut();
    Arithmetic { kernels: nids_kernels::describe(engine.gemm()), shard, groups }
}

/// Takes the steps of a plan, one at a time.
pub struct StepRunner<'o> {
    table: &'o ParamTable,
    objective: &'o dyn Objective<f32>,
    plan: &'o TrainPlan,
    key: Key,
    pub(crate) optimiser: Optimiser<f32>,
    grads: Buffer<f32>,
}

/// The outcome of a step.
pub enum Outcome {
    /// The step has changed the weights.
    Taken(StepReport),
    /// The step gave non-finite values. It has changed nothing, except with [`NonfiniteKind::Weight`].
    Nonfinite(NonfiniteKind),
}

/// The numbers of a step.
pub struct StepReport {
    /// Loss at the weights before the step.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// Norm of the gradient, before clipping.
    pub grad_norm: f64,
}

impl<'o> StepRunner<'o> {
    /// A runner of the steps of `plan`, which minimise `objective`. `lr_scale` gives the factor on the learning rate of the parameter
    /// with that name; 0 freezes it.
    pub fn new(
        table: &'o ParamTable,
        objective: &'o dyn Objective<f32>,
        plan: &'o TrainPlan,
        key: Key,
        lr_scale: impl Fn(&str) -> f64,
    ) -> Self {
        let optimiser = Optimiser::new(table, plan.optimiser, plan.decay, lr_scale);
        Self { table, objective, plan, key, optimiser, grads: table.zeros() }
    }

    /// Takes `step`, counted from 0, on `samples`. `lr_scale` is a factor on the learning rate. `terms` is called with the name and
    /// the value of each term of the loss.
    pub fn step(
        &mut self,
        engine: &mut Engine<f32>,
        step: u64,
        samples: &[Sample],
        lr_scale: f64,
        params: &mut Buffer<f32>,
        terms: &mut dyn FnMut(&'static str, f64),
    ) -> Outcome {
        let Self { table, objective, plan, key, optimiser, grads } = self;
        let key = key.child(step);
        let (loss, grad_norm) = gradient(engine, *objective, plan, key, step, samples, params, grads);
        if !loss.total.is_finite() {
            return Outcome::Nonfinite(NonfiniteKind::Loss);
        }
        if !grad_norm.is_finite() {
            return Outcome::Nonfinite(NonfiniteKind::Gradient);
        }
        objective.terms(step, loss, terms);
        let grad_scale = clip(grad_norm, plan.clip_norm);
        let lr = lr_scale * plan.lr(step);
        engine.update(optimiser, lr, grad_scale, params, grads);
        // squares overflow before the weights do
        if !engine.grad_norm(params).is_finite() && nonfinite::layer(table, params).is_some() {
            return Outcome::Nonfinite(NonfiniteKind::Weight);
        }
        Outcome::Taken(StepReport { loss: loss.total, lr, grad_norm })
    }

    /// Finds the rows and the layer that gave non-finite values.
    pub(crate) fn nonfinite(
        &mut self,
        engine: &mut Engine<f32>,
        kind: NonfiniteKind,
        step: u64,
        samples: &[Sample],
        params: &[f32],
    ) -> NonfiniteFinding {
        let Self { table, objective, plan, key, grads, .. } = self;
        let layer = if kind == NonfiniteKind::Weight { nonfinite::layer(table, params) } else { nonfinite::layer(table, grads) };
        if kind == NonfiniteKind::Weight {
            // with NaN weights every row fails, so no rows are named
            return NonfiniteFinding { kind, step: step + 1, layer, rows: Vec::new() };
        }
        // a sum is non-finite if one of its rows is: halve the batch until single rows are left
        let mut rows = Vec::new();
        let mut halves: Vec<&[Sample]> = samples.chunks(plan.micro_batch).rev().collect();
        while let Some(half) = halves.pop() {
            grads.fill(0.0);
            let mut loss = Loss::default();
            engine.accumulate(*objective, params, key.child(step), grads, &mut loss, step, half);
            if loss.total.is_finite() && engine.grad_norm(grads).is_finite() {
                continue;
            }
            if let [sample] = half {
                rows.push(sample.row);
            } else {
                let (first, second) = half.split_at(half.len() / 2);
                halves.extend([second, first]);
            }
        }
        NonfiniteFinding { kind, step: step + 1, layer, rows }
    }
}

/// Writes the gradient of a step at `params` to `grads`; returns the loss and the gradient's norm.
fn gradient(
    engine: &mut Engine<f32>,
    objective: &dyn Objective<f32>,
    plan: &TrainPlan,
    key: Key,
    step: u64,
    samples: &[Sample],
    params: &[f32],
    grads: &mut [f32],
) -> (Loss, f64) {
    grads.fill(0.0);
    objective.begin(step);
    let mut loss = Loss::default();
    for micro_batch in samples.chunks(plan.micro_batch) {
        engine.accumulate(objective, params, key, grads, &mut loss, step, micro_batch);
    }
    (loss, engine.grad_norm(grads))
}

#[cfg(test)]
mod tests {
    use nids_kernels::Gemm;
    use nids_nn::{Cx, Init, Param};

    use super::*;
    use nids_config::{Stage, TrainingConfig};

    const KEY: u64 = 5;

    /// ½ Σ a w², and a slope of 7 for a parameter that is frozen.
    struct Bowl {
        table: ParamTable,
        weight: Param,
        frozen: Param,
        /// Rows whose loss is NaN.
        bad_rows: &'static [u32],
    }

    const A: [f32; 2] = [3.0, 0.5];
    const W: [f32; 2] = [1.0, 2.0];
    const ROWS: usize = 4;

    impl Bowl {
        fn new() -> Self {
            let mut table = ParamTable::default();
            let mut param = |name, len| table.root().param(name, &[len], Init::Zeros);
            let (frozen, weight) = (param("frozen", 1), param("weight", 2));
            Self { table, weight, frozen, bad_rows: &[] }
        }
    }

    impl Objective<f32> for Bowl {
        fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], _step: u64, samples: &[Sample]) -> Loss {
            if samples.iter().any(|sample| self.bad_rows.contains(&sample.row)) {
                self.weight.of_mut(grads)[1] = f32::NAN;
                return Loss::from(f64::NAN);
            }
            let share = samples.len() as f32 / ROWS as f32;
            self.frozen.of_mut(grads)[0] += share * 7.0;
            let w = self.weight.of(cx.params);
            for ((dw, w), a) in self.weight.of_mut(grads).iter_mut().zip(w).zip(A) {
                *dw += share * a * w;
            }
            w.iter().zip(A).map(|(w, a)| f64::from(share * a * w * w / 2.0)).sum::<f64>().into()
        }
    }

    #[test]
    fn a_step_that_is_no_number_changes_nothing_and_names_its_rows() {
        let bowl = Bowl { bad_rows: &[0, 2], ..Bowl::new() };
        let plan = TrainPlan::new(
            Stage::Pretrain,
            &TrainingConfig { batch_size: ROWS, micro_batch: 2, ..TrainingConfig::default() },
            ROWS,
        );
        let mut engine = Engine::new(&bowl.table, 1, Gemm::Tiles, Cut { shard: 2, groups: 1 }).unwrap();
        let mut runner = StepRunner::new(&bowl.table, &bowl, &plan, Key::new(KEY), |_| 1.0);
        let mut params = bowl.table.zeros::<f32>();
        bowl.weight.of_mut(&mut params).copy_from_slice(&W);
        let samples: Vec<Sample> = (0..ROWS as u32).map(|row| Sample { row, key: row }).collect();
        let outcome = runner.step(&mut engine, 6, &samples, 1.0, &mut params, &mut |_, _| panic!("no terms"));
        let Outcome::Nonfinite(kind) = outcome else { panic!("the loss is finite") };
        let finding = runner.nonfinite(&mut engine, kind, 6, &samples, &params);
        assert_eq!((finding.kind, finding.step, finding.layer.as_deref()), (NonfiniteKind::Loss, 7, Some("weight")));
        assert_eq!((finding.rows.as_slice(), bowl.weight.of::<f32>(&params)), (&[0, 2][..], &W[..]));
        assert_eq!(runner.optimiser.moments().2, 0);
    }
}
