//! A training step allocates nothing.

use std::alloc::System;
use std::time::Duration;

use nids_kernels::Key;
use nids_models::MixerConfig;
use nids_nn::engine::{Cut, Engine};
use nids_nn::optim::{AdamConfig, Algorithm, Decay, Optimiser, SgdConfig, clip};
use nids_nn::{Activation, Ema};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

mod task;
use task::Task;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn twenty_steps_allocate_nothing() {
    let mixer = MixerConfig {
        dim: 24,
        depth: 3,
        token_hidden: 9,
        channel_hidden: 40,
        n_registers: 1,
        activation: Activation::Gelu,
        dropout: 0.2,
        drop_path: 0.4,
    };
    for task in Task::<f32>::of_models(&mixer, 7, 64) {
        let mut engine = Engine::new(&task.table, 2, task.gemm, Cut { shard: 4, groups: 4 }).unwrap();
        let decay = Decay::Matrices;
        let algorithms = [
            Algorithm::AdamW(AdamConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, decay }),
            Algorithm::Sgd(SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 0.01, decay }),
        ];
        let mut optimisers = algorithms.map(|algorithm| Optimiser::new(&task.table, algorithm, |_| 1.0));
        let (mut params, mut grads, mut ahead) = (task.table.init::<f32>(3), task.table.zeros(), task.table.zeros());
        let mut average = Ema::new(&params, 0.998);
        let samples = task.samples();
        let allocated = engine.run(|engine| {
            let mut step = |number| {
                grads.fill(0.0);
                // in two micro-batches, as a large batch comes
                for samples in samples.chunks(32) {
                    engine.accumulate(&task, &params, Key::new(4).child(number), samples, &mut grads);
                }
                // sharpness-aware, with noise on the gradient
                let norm = engine.grad_norm(&grads);
                engine.ascend(0.05 / norm, &params, &grads, &mut ahead);
                engine.accumulate(&task, &ahead, Key::new(4).child(number), &samples[..32], &mut grads);
                let norm = engine.grad_norm(&grads);
                engine.add_noise(&task.table, Key::new(5).child(number), 0.01, clip(norm, Some(1.0)), &mut grads);
                for optimiser in &mut optimisers {
                    engine.update(optimiser, 3e-3, 1.0, &mut params, &grads);
                }
                average.update(&params);
            };
            // memory is settled after the first; a worker that has just started makes its own when it first looks for work
            (0..2).for_each(&mut step);
            std::thread::sleep(Duration::from_millis(200));
            let region = Region::new(ALLOCATOR);
            (2..22).for_each(&mut step);
            region.change()
        });
        assert_eq!(allocated.allocations + allocated.reallocations, 0, "{:?}: {allocated:?}", task.gemm);
    }
}
