//! One pass over parameters, gradients and moments.

use crate::Real;
use crate::reduce::dot;
use crate::simd::{simd, update};

/// The numbers of one Adam update.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep<R> {
    /// Learning rate, bias corrections not included.
    pub lr: R,
    /// Decay of the first moment.
    pub beta1: R,
    /// Decay of the second moment.
    pub beta2: R,
    /// Added to the root of the second moment.
    pub eps: R,
    /// Weight decay.
    pub weight_decay: R,
    /// 1 - beta1^t
    pub bias1: R,
    /// 1 - beta2^t
    pub bias2: R,
}

/// Adam (Kingma & Ba 2015, the variant at the end of section 2: eps is not bias-corrected) with L2 decay:
/// g = grad + weight_decay·p;   m = β1 m + (1-β1) g;   v = β2 v + (1-β2) g²;   p -= lr √bias2 / bias1 · m / (√v + eps)
///
/// # Panics
/// If lengths differ.
pub fn adam<R: Real>(step: AdamStep<R>, p: &mut [R], grad: &[R], m: &mut [R], v: &mut [R]) {
    let rate = step.lr * step.bias2.sqrt() / step.bias1;
    step_all(step, p, grad, m, v, step.weight_decay, R::one(), rate, R::one());
}

/// AdamW (Loshchilov & Hutter 2019) as torch.optim.AdamW computes it:
/// p *= 1 - lr·weight_decay;   m, v as in Adam;   p -= lr / bias1 · m / (√(v / bias2) + eps)
///
/// # Panics
/// If lengths differ.
pub fn adamw<R: Real>(step: AdamStep<R>, p: &mut [R], grad: &[R], m: &mut [R], v: &mut [R]) {
    let shrink = R::one() - step.lr * step.weight_decay;
    step_all(step, p, grad, m, v, R::zero(), shrink, step.lr / step.bias1, R::one() / step.bias2.sqrt());
}

fn step_all<R: Real>(step: AdamStep<R>, p: &mut [R], grad: &[R], m: &mut [R], v: &mut [R], l2: R, shrink: R, rate: R, root: R) {
    let n = p.len();
    assert!(grad.len() == n && m.len() == n && v.len() == n);
    let AdamStep { beta1, beta2, eps, .. } = step;
    simd(
        #[inline(always)]
        || {
            update([p, m, v], [grad], |[p, m, v], [g]| {
                let g = g + l2 * p;
                let m = beta1 * m + (R::one() - beta1) * g;
                let v = beta2 * v + (R::one() - beta2) * g * g;
                [p * shrink - rate * m / (v.sqrt() * root + eps), m, v]
            });
        },
    );
}

/// Σ x², summed in f64 over blocks of 1024 so that neither size nor order costs accuracy.
pub fn sum_of_squares<R: Real>(x: &[R]) -> f64 {
    simd(
        #[inline(always)]
        || {
            let mut total = 0.0;
            for chunk in x.chunks(1024) {
                total += dot(chunk, chunk).to_f64();
            }
            total
        },
    )
}

/// The factor that clips a gradient of Euclidean norm `norm` to `max_norm`: max_norm / (norm + 1e-6), at most 1
/// (torch.nn.utils.clip_grad_norm_).
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// x *= factor
pub fn scale<R: Real>(factor: R, x: &mut [R]) {
    simd(
        #[inline(always)]
        || update([x], [], |[x], []| [x * factor]),
    );
}
