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
