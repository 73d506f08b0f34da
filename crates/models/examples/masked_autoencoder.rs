//! A masked autoencoder on a small random table: half of each row is hidden and predicted from the rest.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use nids_kernels::{Arena, Key};
use nids_models::{Mae, MaeConfig, MaeEncoder, MixerConfig, Target};
use nids_nn::gradcheck::uniform;
use nids_nn::{Activation, Cx, Gemm, Mode, ParamTable};

/// Features of a row, rows of a batch.
const F: usize = 6;
const B: usize = 32;
const STEPS: u64 = 400;

/// Each row has one hidden number z, and feature t is z or -z with a little noise: what is visible says what is hidden.
/// x: [F, B]
fn table(seed: u64) -> Vec<f32> {
    let (z, noise) = (uniform(2 * seed, B), uniform(2 * seed + 1, F * B));
    let feature = |t: usize, j: usize| if t.is_multiple_of(2) { z[j] } else { -z[j] } + 0.05 * noise[t * B + j];
    (0..F * B).map(|i| feature(i / B, i % B) as f32).collect()
}

fn main() {
    let mixer = MixerConfig {
        dim: 16,
        depth: 2,
        token_hidden: 16,
        channel_hidden: 32,
        n_registers: 1,
        activation: Activation::Gelu,
        dropout: 0.0,
        drop_path: 0.0,
    };
    let config = MaeConfig { mask_ratio: 0.5.into(), encoder: MaeEncoder::VisibleOnly, ..MaeConfig::default() };
    let features: Vec<(String, usize)> = (0..F).map(|t| (format!("x{t}"), 1)).collect();
    let mut table_of_params = ParamTable::default();
    let mae = Mae::new(&mut table_of_params.root(), &features, &[Target::Numeric; F], &mixer, config);
    println!("{} parameters; {} of {F} features are hidden in each row", table_of_params.n_params(), mae.n_masked());

    let mut params = table_of_params.init::<f32>(1);
    let mut grads = table_of_params.zeros::<f32>();
    let mut arena = Arena::default();
    let samples: Vec<u32> = (0..B as u32).collect();
    let divisor = B as f32 * mae.n_masked() as f32;
    let mut losses = Vec::new();
    for step in 0..STEPS {
        grads.fill(0.0);
        let rows = table(step);
        // the mask follows from seed and step: the same run hides the same features
        let key = Key::new(5).child(step);
        let cx = Cx::new(&params, &arena, Mode::Train { key, samples: &samples }).with(Gemm::Tiles, None);
        let (x, mask) = (cx.alloc(F * B), cx.alloc(F * B));
        x.copy_from_slice(&rows);
        mae.draw_mask(key, &samples, None, mask);
        losses.push(mae.loss(&cx, Some(&mut grads), B, x, mask, &rows, divisor));
        drop(cx);
        arena.reset();
        params.iter_mut().zip(grads.iter()).for_each(|(p, g)| *p -= 0.1 * g);
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    for (i, losses) in losses.chunks(80).enumerate() {
        println!("steps {:3} to {:3}   mean squared error {:.4}", 80 * i, 80 * i + losses.len() - 1, mean(losses));
    }
    let (first, last) = (mean(&losses[..20]), mean(&losses[losses.len() - 20..]));
    assert!(last < first / 4.0, "the loss went from {first} to {last} only");
}
