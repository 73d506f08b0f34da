//! A matrix product by register tiles, beside a plain loop in f64.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use nids_kernels::{Gemm, Key, Mat, Product, Store, describe};
use rand_core::Rng as _;

/// `len` numbers between -1 and 1, by a counter: the same for the same site.
fn numbers(key: Key, site: u32, len: usize) -> Vec<f32> {
    let mut stream = key.stream(site, 0);
    (0..len).map(|_| stream.next_u32() as f32 / (u32::MAX / 2) as f32 - 1.0).collect()
}

fn main() {
    let [m, n, k] = [37, 50, 64];
    let key = Key::new(7);
    let (a, b) = (numbers(key, 1, m * k), numbers(key, 2, n * k));

    // b is stored as [n, k], like the weight of a linear layer, and read transposed: c = a · bᵀ
    let product = Product::new([m, n, k], Mat::new(&a, k), Mat::new(&b, k).t(), Store::Set);
    let mut scratch = vec![0.0; product.scratch_len(Gemm::Tiles)];
    let mut c = vec![0.0_f32; m * n];
    product.run(Gemm::Tiles, &mut c, n, &mut scratch);

    let mut worst = 0.0_f64;
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l])).sum();
            worst = worst.max((f64::from(c[i * n + j]) - sum).abs());
        }
    }
    println!("[{m}, {k}] · [{k}, {n}] by {}", describe(Gemm::Tiles));
    println!("largest difference from a plain loop: {worst:.1e}");
    // each sum has 64 products below 1, each rounded to 24 bits: 64 · 64 · 2^-24 is a safe bound
    assert!(worst < 64.0 * 64.0 * 2.0_f64.powi(-24), "the product is wrong by {worst}");
}
