//! Analytic gradients against central differences, in f64.

use nids_kernels::Real;

/// The largest relative error of `gradient` against the five-point central difference of `loss` at `x`, and its index.
///
/// The error of an element is |numeric - analytic| / max(|numeric|, |analytic|, `floor`·largest |gradient|): an element far
/// below the largest is compared on the scale of the largest, since its difference quotient has no digits of its own.
pub fn max_relative_error(x: &mut [f64], gradient: &[f64], mut loss: impl FnMut(&[f64]) -> f64) -> (f64, usize) {
    const H: f64 = 1e-3;
    const FLOOR: f64 = 1e-3;
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
        let error = (numeric - gradient[i]).abs() / numeric.abs().max(gradient[i].abs()).max(FLOOR * scale).max(1e-12);
        if error > worst.0 {
            worst = (error, i);
        }
    }
    worst
}

/// The largest |a - b| relative to the largest |b|: how f32 gradients are compared with f64 ones.
pub fn max_scaled_difference<R: Real>(a: &[R], b: &[f64]) -> f64 {
    let scale = b.iter().fold(f64::MIN_POSITIVE, |max, b| max.max(b.abs()));
    a.iter().zip(b).fold(0.0, |max: f64, (a, b)| max.max((Real::to_f64(*a) - b).abs())) / scale
}
