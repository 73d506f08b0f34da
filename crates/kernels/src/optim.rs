//! One pass over parameters, gradients and moments.

use crate::Real;
use crate::reduce::dot;
use crate::simd::{simd, update};

/// The numbers of one Adam update.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep<R> {
    /// Factor on the gradient: what clips it.
    pub grad_scale: R,
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
/// g = grad_scale·grad + weight_decay·p;   m = β1 m + (1-β1) g;   v = β2 v + (1-β2) g²;   p -= lr √bias2 / bias1 · m / (√v + eps)
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
    let AdamStep { grad_scale, beta1, beta2, eps, .. } = step;
    simd(
        #[inline(always)]
        || {
            update([p, m, v], [grad], |[p, m, v], [g]| {
                let g = grad_scale * g + l2 * p;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, assert_same_bits, cast, each_arch, numbers};

    fn check<R: Real>(len: usize, decoupled: bool) {
        let (grad_scale, lr, beta1, beta2, eps, decay, t) = (0.75, 0.1, 0.9, 0.99, 1e-3, 0.05, 3);
        let (bias1, bias2) = (1.0 - f64::powi(beta1, t), 1.0 - f64::powi(beta2, t));
        let (mut p, grad, mut m) = (numbers(1, len), numbers(2, len), numbers(3, len));
        let mut v: Vec<f64> = numbers(4, len).iter().map(|x| x.abs()).collect();
        let [mut got_p, mut got_m, mut got_v] = [&p, &m, &v].map(|x| cast::<R>(x));
        for i in 0..len {
            let g = grad_scale * grad[i] + if decoupled { 0.0 } else { decay * p[i] };
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            if decoupled {
                p[i] -= lr * decay * p[i];
                p[i] -= lr / bias1 * m[i] / ((v[i] / bias2).sqrt() + eps);
            } else {
                p[i] -= lr * bias2.sqrt() / bias1 * m[i] / (v[i].sqrt() + eps);
            }
        }
        let numbers = [grad_scale, lr, beta1, beta2, eps, decay, bias1, bias2];
        let [grad_scale, lr, beta1, beta2, eps, weight_decay, bias1, bias2] = numbers.map(R::from_f64);
        let step = AdamStep { grad_scale, lr, beta1, beta2, eps, weight_decay, bias1, bias2 };
        let update = if decoupled { adamw } else { adam };
        update(step, &mut got_p, &cast(&grad), &mut got_m, &mut got_v);
        assert_close(&got_p, &p);
        assert_close(&got_m, &m);
        assert_close(&got_v, &v);
    }

    fn check_norm<R: Real>(len: usize) {
        let x = numbers(1, len);
        // 1024 terms in R, then f64: relative to the sum as the terms have one sign
        let want: f64 = x.iter().map(|x| x * x).sum();
        assert_close(&[R::from_f64(sum_of_squares(&cast::<R>(&x)) / len.max(1) as f64)], &[want / len.max(1) as f64]);
        let mut scaled = cast::<R>(&x);
        scale(R::from_f64(-0.75), &mut scaled);
        assert_close(&scaled, &x.iter().map(|x| -0.75 * x).collect::<Vec<_>>());
    }

    fn check_bits<R: Real>(len: usize) {
        let [grad_scale, lr, beta1, beta2, eps, weight_decay, bias1, bias2] =
            [0.75, 0.1, 0.9, 0.99, 1e-3, 0.05, 0.27, 0.03].map(R::from_f64);
        let adam_step = AdamStep { grad_scale, lr, beta1, beta2, eps, weight_decay, bias1, bias2 };
        let [p, grad, m] = [1, 2, 3].map(|seed| cast::<R>(&numbers(seed, len)));
        let v: Vec<R> = m.iter().map(|m| m.abs()).collect();
        assert_same_bits::<R>(|| {
            let (mut p, mut m, mut v) = (p.clone(), m.clone(), v.clone());
            adam(adam_step, &mut p, &grad, &mut m, &mut v);
            adamw(adam_step, &mut p, &grad, &mut m, &mut v);
            scale(lr, &mut m);
            let squares = R::from_f64(sum_of_squares(&p));
            vec![p, m, v, vec![squares]]
        });
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_bits(len in 0..3000_usize) {
            check_bits::<f32>(len);
            check_bits::<f64>(len);
        }

        #[test]
        fn an_update_is_the_scalar_recurrence(len in 0..200_usize, decoupled: bool) {
            each_arch(|| {
                check::<f32>(len, decoupled);
                check::<f64>(len, decoupled);
            });
        }

        #[test]
        fn norm_and_scaling_cover_every_element(len in 0..5000_usize) {
            each_arch(|| {
                check_norm::<f32>(len);
                check_norm::<f64>(len);
            });
        }
    }

    #[test]
    fn clipping_shortens_only_what_is_too_long() {
        assert!((clip_scale(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert!((clip_scale(0.5, 1.0) - 1.0).abs() < f64::EPSILON);
        assert!((clip_scale(0.0, 1.0) - 1.0).abs() < f64::EPSILON);
    }
}
