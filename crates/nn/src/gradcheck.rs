//! Analytic gradients against central differences in f64, and f32 gradients against the f64 ones.

use nids_kernels::{Arena, Buffer, Gemm, Key, Real};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Uniform};

use crate::{Cx, Mode, ParamTable, Prepared};

/// A number computed from parameters and an input, with its gradients: a layer and Σ y·dy, or a whole objective.
pub trait Differentiable {
    /// Takes `x` forward and back: adds to `grads`, returns the loss and, where `x` has a gradient, that gradient.
    fn pass<R: Real>(&self, cx: &Cx<'_, R>, grads: &mut [R], x: &[R]) -> (f64, Option<Vec<R>>);
}

/// How far gradients are from what they should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Errors {
    /// Error of the parameters' gradients, in f64, against central differences: [`max_relative_error`].
    pub params: f64,
    /// Error of the input's gradient, likewise; 0 where it has none.
    pub x: f64,
    /// In f32 against f64: [`max_scaled_difference`], of parameters and input.
    pub f32: f64,
}

/// Checks the gradients of `f` while training, at random parameters and the input `x`; `samples` key masks and dropped
/// branches. The gradients are the worse of those of the two backends.
pub fn check<F: Differentiable>(table: &ParamTable, samples: &[u32], x: &[f64], f: &F) -> Errors {
    let mut params = table.zeros::<f64>();
    for spec in table.specs() {
        spec.param.of_mut::<f64>(&mut params).copy_from_slice(&uniform(spec.param.offset() as u64, spec.shape.iter().product()));
    }
    let x = x.to_vec();
    let backend_errors = |gemm| check_backend(table, samples, &params, &mut x.clone(), gemm, f);
    let [openblas, tiles] = [Gemm::OpenBlas, Gemm::Tiles].map(backend_errors);
    Errors { params: openblas.params.max(tiles.params), x: openblas.x.max(tiles.x), f32: openblas.f32.max(tiles.f32) }
}

fn check_backend<F: Differentiable>(
    table: &ParamTable,
    samples: &[u32],
    params: &Buffer<f64>,
    x: &mut [f64],
    gemm: Gemm,
    f: &F,
) -> Errors {
    let (grads, dx) = gradients(table, samples, params, x, gemm, f);
    let (grads_f32, dx_f32) = gradients::<f32, _>(table, samples, &narrow(params), &narrow(x), gemm, f);

    let mut arena = Arena::default();
    let mut unused = table.zeros();
    let mut loss = |params: &[f64], x: &[f64]| {
        let loss = f.pass(&Cx::new(params, &arena, mode(samples)), &mut unused, x).0;
        arena.reset();
        loss
    };
    let (params_error, _) = max_relative_error(&mut params.clone(), &grads, |params| loss(params, x));
    let mut errors = Errors { params: params_error, x: 0.0, f32: max_scaled_difference(&grads_f32, &grads) };
    if let (Some(dx), Some(dx_f32)) = (dx, dx_f32) {
        errors.x = max_relative_error(x, &dx, |x| loss(params, x)).0;
        errors.f32 = errors.f32.max(max_scaled_difference(&dx_f32, &dx));
    }
    errors
}

fn mode<R>(samples: &[u32]) -> Mode<'_, R> {
    Mode::Train { key: Key::new(7).child(1), samples }
}

fn gradients<R: Real, F: Differentiable>(
    table: &ParamTable,
    samples: &[u32],
    params: &[R],
    x: &[R],
    gemm: Gemm,
    f: &F,
) -> (Buffer<R>, Option<Vec<R>>) {
    let mut grads = table.zeros();
    let arena = Arena::default();
    let prepared = Prepared::of(table, gemm, params);
    let cx = Cx::new(params, &arena, mode(samples)).with(gemm, (gemm == Gemm::Tiles).then_some(&prepared));
    let (_, dx) = f.pass(&cx, &mut grads, x);
    (grads, dx)
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// `len` numbers from U(-0.8, 0.8): what checks are run on.
pub fn uniform(seed: u64, len: usize) -> Vec<f64> {
    let uniform = Uniform::new(-0.8, 0.8).expect("the bounds are finite and in order");
    uniform.sample_iter(ChaCha8Rng::seed_from_u64(seed)).take(len).collect()
}

/// The largest relative error of `gradient` against the five-point central difference of `loss` at `x`, and its index.
///
/// The error of an element is |numeric - analytic| / max(|numeric|, |analytic|, `FLOOR`·largest |gradient|): an element far
/// below the largest is compared on the scale of the largest, since its difference quotient has no digits of its own.
pub fn max_relative_error(x: &mut [f64], gradient: &[f64], mut loss: impl FnMut(&[f64]) -> f64) -> (f64, usize) {
    const H: f64 = 1e-3;
    const FLOOR: f64 = 1e-3;
    // where every gradient is 0 what is left is rounding: 1e-16 of a loss about 1, divided by H
    const FLAT: f64 = 1e-6;
    assert_eq!(x.len(), gradient.len());
    let scale = gradient.iter().fold(0.0, |max: f64, g| max.max(g.abs()));
    let mut worst = (0.0, 0);
    for i in 0..x.len() {
        let at = x[i];
        let mut value = |step: f64| {
            x[i] = at + step * H;
            loss(x)
        };
        let numeric = (value(-2.0) - 8.0 * value(-1.0) + 8.0 * value(1.0) - value(2.0)) / (12.0 * H);
        x[i] = at;
        let error = (numeric - gradient[i]).abs() / numeric.abs().max(gradient[i].abs()).max(FLOOR * scale).max(FLAT);
        // a gradient that is not a number is the worst of all
        if error > worst.0 || error.is_nan() {
            worst = (if error.is_nan() { f64::INFINITY } else { error }, i);
        }
    }
    worst
}

/// The largest |a - b| relative to the largest |b|: how f32 gradients are compared with f64 ones.
pub fn max_scaled_difference<R: Real>(a: &[R], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(f64::MIN_POSITIVE, |max, b| max.max(b.abs()));
    let difference = |(a, b): (&R, &f64)| {
        let difference = (Real::to_f64(*a) - b).abs() / scale;
        if difference.is_nan() { f64::INFINITY } else { difference }
    };
    a.iter().zip(b).map(difference).fold(0.0, f64::max)
}
