//! Losses: each returns the sum over its elements divided by `divisor`, and its gradient.
//!
//! `divisor` is the size of the whole step (all shards, all accumulated micro-batches), so that shards add up to the mean; 1
//! gives the sum.

use nids_kernels::Real;

/// Weights of binary cross-entropy.
#[derive(Clone, Copy, Debug)]
pub struct BceWeights<'w, R> {
    /// Factor of the positive term.
    pub pos_weight: R,
    /// Factor of each element, 1 where None.
    pub weight: Option<&'w [R]>,
}

impl<R: Real> Default for BceWeights<'_, R> {
    fn default() -> Self {
        Self { pos_weight: R::one(), weight: None }
    }
}

/// Binary cross-entropy with logits: Σ w·[(1 - y)·x + (1 + (p - 1)·y)·softplus(-x)] / divisor, stable for any x.
///
/// dlogits = w·[(1 + (p - 1)·y)·σ(x) - p·y] / divisor.   logits, target, dlogits: [n]; `dlogits` is overwritten.
pub fn bce_with_logits<R: Real>(logits: &[R], target: &[R], weights: BceWeights<'_, R>, divisor: R, dlogits: &mut [R]) -> f64 {
    assert!(logits.len() == target.len() && dlogits.len() == target.len());
    let BceWeights { pos_weight, weight } = weights;
    let one = R::one();
    let mut loss = 0.0;
    for (i, ((&x, &y), dx)) in logits.iter().zip(target).zip(dlogits).enumerate() {
        let w = weight.map_or(one, |weight| weight[i]);
        let positive = one + (pos_weight - one) * y;
        let softplus = (-x.abs()).exp().ln_1p() + (-x).max(R::zero());
        loss += (w * ((one - y) * x + positive * softplus)).to_f64();
        *dx = w * (positive * sigmoid(x) - pos_weight * y) / divisor;
    }
    loss / divisor.to_f64()
}

/// 1 / (1 + exp(-x)), without overflow.
pub fn sigmoid<R: Real>(x: R) -> R {
    let e = (-x.abs()).exp();
    if x < R::zero() { e / (R::one() + e) } else { R::one() / (R::one() + e) }
}

/// Squared error: Σ (y - t)² / divisor;   dy = 2·(y - t) / divisor.   prediction, target, dprediction: [n]
pub fn mse<R: Real>(prediction: &[R], target: &[R], divisor: R, dprediction: &mut [R]) -> f64 {
    assert!(prediction.len() == target.len() && dprediction.len() == target.len());
    let mut loss = 0.0;
    for ((&y, &t), dy) in prediction.iter().zip(target).zip(dprediction) {
        let error = y - t;
        loss += (error * error).to_f64();
        *dy = (error + error) / divisor;
    }
    loss / divisor.to_f64()
}

/// Softmax cross-entropy of one row: (log Σ exp(x) - x[class]) / divisor;   dlogits = (softmax(x) - onehot) / divisor.
/// logits, dlogits: [C]
pub fn cross_entropy<R: Real>(logits: &[R], class: usize, divisor: R, dlogits: &mut [R]) -> f64 {
    assert!(logits.len() == dlogits.len() && class < logits.len());
    let max = logits.iter().copied().fold(R::neg_infinity(), R::max);
    let mut sum = R::zero();
    for (dx, &x) in dlogits.iter_mut().zip(logits) {
        *dx = (x - max).exp();
        sum += *dx;
    }
    for dx in dlogits.iter_mut() {
        *dx /= sum * divisor;
    }
    dlogits[class] -= R::one() / divisor;
    ((sum.ln() + max - logits[class]) / divisor).to_f64()
}

/// Weighted softmax cross-entropy of rows: Σ w[class]·(log Σ exp(x) - x[class]) / divisor;
/// dlogits = w[class]·(softmax(x) - onehot) / divisor.
///
/// logits, dlogits: [rows, C]; `dlogits` is overwritten   classes: [rows]   weights: [C], above 0
pub fn weighted_cross_entropy<R: Real>(
    logits: &[R],
    classes: impl ExactSizeIterator<Item = usize>,
    weights: &[R],
    divisor: R,
    dlogits: &mut [R],
) -> f64 {
    let n = weights.len();
    assert!(logits.len() == classes.len() * n && dlogits.len() == logits.len());
    let rows = logits.chunks_exact(n).zip(dlogits.chunks_exact_mut(n)).zip(classes);
    rows.map(|((x, dx), class)| cross_entropy(x, class, divisor / weights[class], dx)).sum()
}

/// Weights of classes that have `counts` samples, each above 0: 1 / E, where E = (1 - βⁿ) / (1 - β) is how many of n samples are
/// effectively different (Cui et al. 2019, "Class-balanced loss based on effective number of samples", eq. 2). With β = 0 all
/// weigh the same, towards β = 1 each class as a whole.
///
/// The paper lets the weights add up to C. Here the mean over samples is 1, so that the loss, and what clipping makes of its
/// gradient, stay as large as without weights.
pub fn class_balance(counts: &[usize], beta: f64) -> Vec<f64> {
    assert!((0.0..1.0).contains(&beta) && counts.iter().all(|&n| n > 0));
    let inverse = |&n: &usize| (1.0 - beta) / -(n as f64 * beta.ln()).exp_m1();
    let weights: Vec<f64> = counts.iter().map(inverse).collect();
    let total: f64 = weights.iter().zip(counts).map(|(weight, &n)| weight * n as f64).sum();
    let mean = total / counts.iter().sum::<usize>() as f64;
    weights.iter().map(|weight| weight / mean).collect()
}

/// x becomes exp(x) / Σ exp(x), without overflow.   x: [C]
pub fn softmax<R: Real>(x: &mut [R]) {
    let max = x.iter().copied().fold(R::neg_infinity(), R::max);
    let mut sum = R::zero();
    for x in x.iter_mut() {
        *x = (*x - max).exp();
        sum += *x;
    }
    for x in x {
        *x /= sum;
    }
}

/// KL(N(μ, e^s) ‖ N(0, 1)), s the log-variance: Σ ½·(μ² + e^s - 1 - s) / divisor (Kingma & Welling 2014, appendix B).
///
/// dμ = μ / divisor;   ds = ½·(e^s - 1) / divisor.   all: [n]; the gradients are overwritten
pub fn gaussian_kl<R: Real>(mu: &[R], log_variance: &[R], divisor: R, dmu: &mut [R], dlog_variance: &mut [R]) -> f64 {
    assert!(log_variance.len() == mu.len() && dmu.len() == mu.len() && dlog_variance.len() == mu.len());
    let half = R::from_f64(0.5);
    let mut loss = 0.0;
    for (((&mu, &s), dmu), ds) in mu.iter().zip(log_variance).zip(dmu).zip(dlog_variance) {
        let expm1 = s.exp_m1();
        loss += (half * (mu * mu + (expm1 - s))).to_f64();
        *dmu = mu / divisor;
        *ds = half * expm1 / divisor;
    }
    loss / divisor.to_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weighted_cross_entropy_is_its_formula() {
        // -ln(e^x / Σ e^x) by hand: softmax of (ln 1, ln 2, ln 5) is (1/8, 2/8, 5/8), of (0, 0, 0) a third each
        let logits = [1.0_f64.ln(), 2.0_f64.ln(), 5.0_f64.ln(), 0.0, 0.0, 0.0];
        let mut dlogits = [f64::NAN; 6];
        let loss = weighted_cross_entropy(&logits, [1, 2].into_iter(), &[7.0, 0.5, 2.0], 4.0, &mut dlogits);
        assert!((loss - (0.5 * 4.0_f64.ln() + 2.0 * 3.0_f64.ln()) / 4.0).abs() < 1e-15, "{loss}");
        let [third, eighth] = [2.0 / 4.0 / 3.0, 0.5 / 4.0 / 8.0];
        let expected = [eighth, -6.0 * eighth, 5.0 * eighth, third, third, -2.0 * third];
        assert!(dlogits.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-15), "{dlogits:?}");
    }

    #[test]
    fn softmax_adds_up_to_one_for_any_logits() {
        for mut x in [[1e30_f32, -1e30, 0.0], [0.0; 3], [-200.0, -201.0, -300.0]] {
            softmax(&mut x);
            assert!((x.iter().sum::<f32>() - 1.0).abs() < 1e-6 && x.iter().all(|p| (0.0..=1.0).contains(p)), "{x:?}");
        }
    }

    #[test]
    fn class_balance_is_the_paper_s_up_to_a_factor() {
        // β = 0.5: E is 1, 1.5 and 1.75 for one, two and three samples
        let weights = class_balance(&[1, 2, 3], 0.5);
        for (weight, effective) in weights.iter().zip([1.0, 1.5, 1.75]) {
            assert!((weight * effective - weights[0]).abs() < 1e-12, "{weights:?}");
        }
        let mean = (weights[0] + 2.0 * weights[1] + 3.0 * weights[2]) / 6.0;
        assert!((mean - 1.0).abs() < 1e-12);
        assert!(class_balance(&[5, 7000], 0.0).iter().all(|weight| (weight - 1.0).abs() < 1e-12));
        // towards 1, E is n
        let nearly = class_balance(&[10, 1000], 1.0 - 1e-9);
        assert!((nearly[0] / nearly[1] - 100.0).abs() < 1e-3, "{nearly:?}");
    }

    /// ∫ q·ln(q / p), q = N(μ, e^s), p = N(0, 1), by the trapezoidal rule, which for a function that falls off like this on
    /// both sides is exact to rounding once the step is well below the width.
    fn kl_by_integral(mu: f64, s: f64) -> f64 {
        const POINTS: i32 = 4000;
        let sigma = (0.5 * s).exp();
        let step = 24.0 * sigma / f64::from(POINTS);
        let integrand = |i: i32| {
            let z = mu - 12.0 * sigma + f64::from(i) * step;
            let ln_q = -0.5 * ((z - mu) / sigma).powi(2) - sigma.ln();
            let ln_p = -0.5 * z * z;
            ln_q.exp() * (ln_q - ln_p) / std::f64::consts::TAU.sqrt()
        };
        (0..=POINTS).map(integrand).sum::<f64>() * step
    }

    #[test]
    fn kl_is_the_integral() {
        for mu in [-2.5, 0.0, 0.3, 4.0] {
            for s in [-6.0, -0.7, 0.0, 1.0, 3.0] {
                let (formula, integral) = (gaussian_kl(&[mu], &[s], 1.0, &mut [0.0], &mut [0.0]), kl_by_integral(mu, s));
                assert!((formula - integral).abs() < 1e-9 * (1.0 + integral), "mu {mu}, s {s}: {formula}, not {integral}");
            }
        }
    }

    #[test]
    fn kl_of_the_prior_is_zero() {
        let (mut dmu, mut ds) = ([1.0_f32; 3], [1.0_f32; 3]);
        assert_eq!(gaussian_kl(&[0.0; 3], &[0.0; 3], 7.0, &mut dmu, &mut ds).to_bits(), 0);
        assert!(dmu.iter().chain(&ds).all(|gradient| gradient.to_bits() == 0));
    }
}
