//! Throughput of every hot kernel at the shapes of the default network: 48 tokens, shards of 4 samples, width 64, hidden
//! widths 96 and 128.
//!
//! `cargo bench -p nids-kernels`. The rate in the `fastest` column is what to compare: Gitem/s are elements for a pass
//! (1 / rate = ns an element) and floating-point operations for a product (GFLOP/s).

#![allow(missing_docs, reason = "benchmarks have no readers")]

use divan::{Bencher, black_box, counter::ItemsCount};
use nids_kernels::{
    Activation, AdamStep, Bias, Gemm, Key, Keyed, Mask, Mat, Product, Rows, Store, adamw, add_branch, bias_activation_dropout,
    branch_gradient, describe, layer_norm, layer_norm_backward, sum_of_squares,
};

const SAMPLES: [u32; 4] = [7, 1, 9, 4];
const KEPT: [u32; 4] = [0, 1, 2, 3];

#[expect(clippy::print_stderr, reason = "a figure means little without the instruction set it was measured on")]
fn main() {
    eprintln!("{}", describe(Gemm::OpenBlas));
    divan::main();
}

/// Numbers of order one without a pattern.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
}

fn mask(name: &str) -> Mask<'static, f32> {
    match name {
        "off" => Mask::Off,
        _ => Mask::Keyed(Keyed { key: Key::new(1), site: 2, samples: &SAMPLES, p: 0.1 }),
    }
}

fn rows(outer: usize, cols: usize) -> Rows<'static> {
    Rows { outer, b: 4, cols, kept: &KEPT }
}

/// Times `pass`, which goes over `len` elements.
fn time(bencher: Bencher<'_, '_>, len: usize, pass: impl FnMut()) {
    bencher.counter(ItemsCount::new(len)).bench_local(pass);
}

/// [rows, cols], mask: channel mixing (192 x 128), token mixing (96 x 256 where no mask is drawn, 384 x 64 where one is), and a
/// width that no vector divides.
const ACTIVATIONS: [(usize, usize, &str); 7] = [
    (48, 64, "off"),
    (192, 64, "off"),
    (192, 128, "off"),
    (192, 128, "keyed"),
    (96, 256, "off"),
    (384, 64, "keyed"),
    (192, 198, "keyed"),
];

#[divan::bench(args = ACTIVATIONS)]
fn gelu(bencher: Bencher<'_, '_>, (rows, cols, name): (usize, usize, &str)) {
    let (mut h, mut d) = (numbers(rows * cols, 1), numbers(rows * cols, 2));
    // small enough that h stays of order one however often the pass is run over it
    let small = |len| numbers(len, 3).iter().map(|b| b * 0.1).collect::<Vec<_>>();
    let (per_row, per_column) = (small(rows), small(cols));
    let bias = if rows == 192 { Bias::PerColumn(&per_column) } else { Bias::PerRow(&per_row) };
    time(bencher, h.len(), || {
        bias_activation_dropout(Activation::Gelu, black_box(bias), mask(name), cols, &mut h, Some(&mut d));
    });
}

#[divan::bench]
fn tanh(bencher: Bencher<'_, '_>) {
    let (mut h, mut d, bias) = (numbers(192 * 128, 1), numbers(192 * 128, 2), numbers(128, 3));
    time(bencher, h.len(), || {
        bias_activation_dropout(Activation::Tanh, Bias::PerColumn(&bias), Mask::Off, 128, &mut h, Some(&mut d));
    });
}

#[divan::bench(args = ["off", "keyed"])]
fn branch_add(bencher: Bencher<'_, '_>, name: &str) {
    let (y, mut x, bias) = (numbers(192 * 64, 1), numbers(192 * 64, 2), numbers(64, 3));
    time(bencher, x.len(), || add_branch(rows(48, 64), Bias::PerColumn(&bias), mask(name), 1.0, black_box(&y), &mut x));
}

#[divan::bench(args = ["off", "keyed"])]
fn branch_back(bencher: Bencher<'_, '_>, name: &str) {
    let (dx, mut dy) = (numbers(192 * 64, 1), numbers(192 * 64, 2));
    time(bencher, dx.len(), || branch_gradient(rows(48, 64), mask(name), 1.0, black_box(&dx), &mut dy));
}

#[divan::bench(args = [64, 128, 256])]
fn mask_write(bencher: Bencher<'_, '_>, cols: usize) {
    let mut out = numbers(192 * cols, 1);
    time(bencher, out.len(), || mask("keyed").write(cols, black_box(&mut out)));
}

#[divan::bench(args = [64, 128, 198])]
fn norm(bencher: Bencher<'_, '_>, cols: usize) {
    let (x, weight, bias) = (numbers(192 * cols, 1), numbers(cols, 2), numbers(cols, 3));
    let (mut xhat, mut y, mut rstd) = (x.clone(), x.clone(), vec![0.0; 192]);
    time(bencher, x.len(), || {
        layer_norm(rows(48, cols), 1e-5, &weight, &bias, black_box(&x), &mut xhat, &mut rstd, &mut y);
    });
}

#[divan::bench(args = [64, 128, 198])]
fn norm_back(bencher: Bencher<'_, '_>, cols: usize) {
    let (xhat, weight, rstd) = (numbers(192 * cols, 1), vec![1.0; cols], numbers(192, 2));
    let (dy, mut dx, mut dw, mut db) = (xhat.clone(), xhat.clone(), vec![0.0; cols], vec![0.0; cols]);
    time(bencher, xhat.len(), || {
        layer_norm_backward(rows(48, cols), &weight, black_box(&xhat), &rstd, &dy, &mut dx, &mut dw, &mut db);
    });
}

#[divan::bench]
fn optimiser(bencher: Bencher<'_, '_>) {
    let moments =
        AdamStep { grad_scale: 1.0, lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.05, bias1: 0.1, bias2: 0.001 };
    let (mut p, grad) = (numbers(65_536, 1), numbers(65_536, 2));
    let (mut m, mut v) = (grad.clone(), vec![0.5; grad.len()]);
    time(bencher, grad.len(), || adamw(moments, &mut p, black_box(&grad), &mut m, &mut v));
}

#[divan::bench]
fn squares(bencher: Bencher<'_, '_>) {
    let x = numbers(65_536, 1);
    bencher.counter(ItemsCount::new(x.len())).bench_local(|| sum_of_squares(black_box(&x)));
}

/// The products of the default network's two mixers, forward, then to the inputs, then to the weights.
const PRODUCTS: [(&str, [usize; 3]); 10] = [
    ("NN", [96, 256, 48]),
    ("NN", [48, 256, 96]),
    ("TN", [96, 256, 48]),
    ("TN", [48, 256, 96]),
    ("NT", [96, 48, 256]),
    ("NT", [48, 96, 256]),
    ("NT", [192, 128, 64]),
    ("NT", [192, 64, 128]),
    ("NN", [192, 128, 64]),
    ("TN", [128, 64, 192]),
];

/// 0: OpenBLAS, 1: tiles, 2: bf16.
#[divan::bench(args = PRODUCTS, consts = [0, 1, 2])]
fn product<const BACKEND: usize>(bencher: Bencher<'_, '_>, (name, [m, n, k]): (&str, [usize; 3])) {
    let (a, b, mut c) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
    let a = if name.starts_with('N') { Mat::new(&a, k) } else { Mat::new(&a, m).t() };
    let b = if name.ends_with('N') { Mat::new(&b, n) } else { Mat::new(&b, k).t() };
    let backend = [Gemm::OpenBlas, Gemm::Tiles, Gemm::Bf16][BACKEND];
    let product = Product::new([m, n, k], a, b, Store::Set);
    let mut scratch = vec![0.0; product.scratch_len(backend)];
    time(bencher, 2 * m * n * k, || black_box(product).run(backend, &mut c, n, &mut scratch));
}
