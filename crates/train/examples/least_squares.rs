//! A tiny objective, least squares, trained by the steps of a plan: which rows a step takes, its learning rate, its loss.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use std::error::Error;

use nids_config::{Config, Stage};
use nids_kernels::{Gemm, Key};
use nids_nn::engine::{Cut, Engine, Loss, Objective, Sample};
use nids_nn::{Cx, Init, Param, ParamTable};
use nids_train::{Outcome, Sampler, StepRunner, TrainPlan};

const ROWS: u32 = 24;
const BATCH: usize = 8;

/// mean (w · x - y)², where row i has x = (sin i, cos i) and y = 2 sin i - cos i: the best w is (2, -1).
struct LeastSquares {
    weight: Param,
}

impl Objective<f32> for LeastSquares {
    fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], _step: u64, samples: &[Sample]) -> Loss {
        let w = self.weight.of(cx.params);
        let dw = self.weight.of_mut(grads);
        let mut loss = 0.0;
        for sample in samples {
            let (sin, cos) = (sample.row as f32).sin_cos();
            let error = w[0] * sin + w[1] * cos - (2.0 * sin - cos);
            // divided by the rows of the whole step, so that shards add up
            dw[0] += 2.0 * error * sin / BATCH as f32;
            dw[1] += 2.0 * error * cos / BATCH as f32;
            loss += f64::from(error * error) / BATCH as f64;
        }
        loss.into()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let settings = ["pretrain.steps=120", "pretrain.batch_size=8", "pretrain.micro_batch=8", "pretrain.lr=0.1"];
    let config = Config::parse("name: demo", "demo.yaml", &settings.map(str::to_owned))?;
    let plan = TrainPlan::new(Stage::Pretrain, &config.pretrain.training, ROWS as usize);

    let mut table = ParamTable::default();
    let weight = table.root().param("weight", &[2], Init::Zeros);
    let objective = LeastSquares { weight };
    let mut params = table.init(config.seed);
    let mut engine = Engine::new(&table, 2, Gemm::Tiles, Cut { shard: 2, groups: 2 })?;
    let mut sampler = Sampler::new(config.seed, (0..ROWS).collect());
    let mut runner = StepRunner::new(&table, &objective, &plan, Key::new(config.seed), |_| 1.0);

    let (mut samples, mut rates, mut loss) = (Vec::new(), Vec::new(), f64::NAN);
    for step in 0..plan.steps {
        sampler.batch(step, plan.batch_size, &mut samples);
        let Outcome::Taken(report) = runner.step(&mut engine, step, &samples, 1.0, &mut params, &mut |_, _| ()) else {
            panic!("step {step} is not finite")
        };
        if step % 20 == 0 {
            let rows: Vec<u32> = samples.iter().map(|sample| sample.row).collect();
            println!("step {step:3}   lr {:.4}   loss {:.5}   rows {rows:?}", report.lr, report.loss);
        }
        rates.push(report.lr);
        loss = report.loss;
    }
    let w = weight.of::<f32>(&params);
    println!("weight {w:.3?}, loss {loss:.1e}");
    assert!((w[0] - 2.0).abs() < 0.1 && (w[1] + 1.0).abs() < 0.1, "the best weight is (2, -1)");

    // the default schedule warms up, then falls along a cosine
    let highest = rates.iter().position(|&lr| lr >= 0.1 - 1e-12).expect("the schedule reaches `lr`");
    assert!(rates[..=highest].is_sorted() && rates[highest..].iter().rev().is_sorted());
    // an epoch shows every row once
    let mut epoch: Vec<u32> = Vec::new();
    for step in 0..u64::from(ROWS) / BATCH as u64 {
        sampler.batch(step, BATCH, &mut samples);
        epoch.extend(samples.iter().map(|sample| sample.row));
    }
    epoch.sort_unstable();
    assert!(epoch.into_iter().eq(0..ROWS));
    Ok(())
}
