//! A training step allocates nothing.

use std::alloc::System;
use std::time::Duration;

use nids_kernels::Key;
use nids_models::MixerConfig;
use nids_nn::engine::{Cut, Engine, Loss};
use nids_nn::optim::{AdamConfig, AdamWConfig, Decay, Optimiser, OptimiserConfig};
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
    for task in Task::<f32>::every_model(&mixer, 7, 64) {
        let mut engine = Engine::new(&task.table, 2, task.gemm, Cut { shard: 4, groups: 4 }).unwrap();
        let configs = [OptimiserConfig::AdamW(AdamWConfig::default()), OptimiserConfig::Adam(AdamConfig::default())];
        let mut optimisers = configs.map(|config| Optimiser::new(&task.table, config, Decay::Matrices, |_| 1.0));
        let (mut params, mut grads) = (task.table.init::<f32>(3), task.table.zeros());
        let mut average = Ema::new(&params, 0.998);
        let samples = task.samples();
        let allocated = engine.run(|engine| {
            let mut step = |number| {
                grads.fill(0.0);
                // in two micro-batches, as a large batch comes
                for samples in samples.chunks(32) {
                    engine.accumulate(
                        &task,
                        &params,
                        Key::new(4).child(number),
                        &mut grads,
                        &mut Loss::default(),
                        number,
                        samples,
                    );
                }
                engine.grad_norm(&grads);
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
