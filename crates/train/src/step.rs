//! One step of training.

use nids_kernels::{Buffer, Key};
use nids_nn::ParamTable;
use nids_nn::engine::{Cut, Engine, Objective, Sample};
use nids_nn::optim::{Optimiser, clip};

use crate::nonfinite::{self, Nonfinite, What};
use crate::plan::TrainPlan;
use crate::stream;
use nids_config::Sam;
use nids_store::checkpoint::Arithmetic;

/// How an engine adds up, for a checkpoint.
pub fn arithmetic(engine: &Engine<f32>) -> Arithmetic {
    let Cut { shard, groups } = engine.cut();
    Arithmetic { kernels: nids_kernels::describe(engine.gemm()), shard, groups }
}

/// What every step works with.
pub struct StepRunner<'o> {
    table: &'o ParamTable,
    objective: &'o dyn Objective<f32>,
    plan: &'o TrainPlan,
    key: Key,
    pub(crate) optimiser: Optimiser<f32>,
    grads: Buffer<f32>,
    /// The weights that sharpness-aware minimisation looks at.
    ahead: Option<(Sam, Buffer<f32>)>,
}

/// What became of a step.
pub enum Outcome {
    /// The weights have moved.
    Taken(StepReport),
    /// Nothing was changed, but for [`What::Weight`].
    Nonfinite(What),
}

/// What a step was.
pub struct StepReport {
    /// At the weights before it.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// Norm of the gradient that the step followed, before clipping.
    pub grad_norm: f64,
}

impl<'o> StepRunner<'o> {
    /// Steps of `plan` towards `objective`; `lr_scale` is on the learning rate of the parameter of that name, 0 freezes it.
    pub fn new(
        table: &'o ParamTable,
        objective: &'o dyn Objective<f32>,
        plan: &'o TrainPlan,
        key: Key,
        lr_scale: impl Fn(&str) -> f64,
    ) -> Self {
        let optimiser = Optimiser::new(table, plan.algorithm, lr_scale);
        let ahead = plan.sam.map(|sam| (sam, table.zeros()));
        Self { table, objective, plan, key, optimiser, grads: table.zeros(), ahead }
    }

    /// Takes `step`, counted from 0, on its `samples`, with `lr_scale` on the learning rate; `parts` hears what the loss is made of.
    pub fn step(
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
        Outcome::Taken(StepReport { loss, lr, grad_norm })
    }

    /// Which rows and which layer of a step it was.
    pub(crate) fn nonfinite(
        &mut self,
        engine: &mut Engine<f32>,
        what: What,
        step: u64,
        samples: &[Sample],
        params: &[f32],
    ) -> Nonfinite {
        let Self { table, objective, plan, key, grads, ahead, .. } = self;
        let layer = if what == What::Weight { nonfinite::layer(table, params) } else { nonfinite::layer(table, grads) };
        let params = match (what, ahead) {
            // with NaN weights every row fails, so no rows are named
            (What::Weight, _) => return Nonfinite { what, step: step + 1, layer, rows: Vec::new() },
            (What::Ahead, Some((_, ahead))) => ahead,
            _ => params,
        };
        // what is no number in a row is none in every sum with it
        let mut rows = Vec::new();
        let mut parts: Vec<&[Sample]> = samples.chunks(plan.micro_batch).rev().collect();
        while let Some(part) = parts.pop() {
            grads.fill(0.0);
            let loss = engine.accumulate(*objective, params, key.child(step), part, grads);
            if loss.is_finite() && engine.grad_norm(grads).is_finite() {
                continue;
            }
            if let [sample] = part {
                rows.push(sample.row);
            } else {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
        }
        Nonfinite { what, step: step + 1, layer, rows }
    }
}

/// Loss and gradient of a step at `params`; the gradient's norm.
fn gradient(
    engine: &mut Engine<f32>,
    objective: &dyn Objective<f32>,
    plan: &TrainPlan,
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

#[cfg(test)]
mod tests {
    use nids_kernels::Gemm;
    use nids_nn::{Cx, Init, Param};
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use nids_config::{Constant, Schedule, Sgd, Stage, Training, UpdateNoise};

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

        /// The weights after `step` of stochastic gradient descent with learning rate 0.1 from (1, 2), and what it was.
        fn step(&self, step: u64, training: &Training) -> (Vec<f32>, StepReport) {
            let training = Training {
                batch_size: ROWS,
                micro_batch: 2,
                optimiser: nids_config::Optimiser::Sgd(Sgd { momentum: 0.0, ..Sgd::default() }),
                lr: 0.1,
                schedule: Schedule::Constant(Constant { warmup: 0.0, ..Constant::default() }),
                ..training.clone()
            };
            let plan = TrainPlan::new(Stage::Pretrain, &training, ROWS);
            let mut engine = Engine::new(&self.table, 2, Gemm::Tiles, Cut { shard: 1, groups: 2 }).unwrap();
            let lr_scale = |name: &str| if name == "frozen" { 0.0 } else { 1.0 };
            let mut trainer = StepRunner::new(&self.table, self, &plan, Key::new(KEY), lr_scale);
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
            if samples.iter().any(|sample| self.bad_rows.contains(&sample.row)) {
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
    fn a_step_that_is_no_number_changes_nothing_and_names_its_rows() {
        let bowl = Bowl { bad_rows: &[0, 2], ..Bowl::new() };
        let plan = TrainPlan::new(Stage::Pretrain, &Training { batch_size: ROWS, micro_batch: 2, ..Training::default() }, ROWS);
        let mut engine = Engine::new(&bowl.table, 1, Gemm::Tiles, Cut { shard: 2, groups: 1 }).unwrap();
        let mut trainer = StepRunner::new(&bowl.table, &bowl, &plan, Key::new(KEY), |_| 1.0);
        let mut params = bowl.table.zeros::<f32>();
        bowl.weight.of_mut(&mut params).copy_from_slice(&W);
        let samples: Vec<Sample> = (0..ROWS as u32).map(|row| Sample { row, key: row }).collect();
        let outcome = trainer.step(&mut engine, 6, &samples, 1.0, &mut params, &mut |_, _| panic!("no parts"));
        let Outcome::Nonfinite(what) = outcome else { panic!("a number") };
        let found = trainer.nonfinite(&mut engine, what, 6, &samples, &params);
        assert_eq!((found.what, found.step, found.layer.as_deref()), (What::Loss, 7, Some("weight")));
        assert_eq!((found.rows.as_slice(), bowl.weight.of::<f32>(&params)), (&[0, 2][..], &W[..]));
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
