//! Heads of pretraining: a linear map on each feature's token, and its loss.

use nids_nn::loss::{BceWeights, bce_with_logits, cross_entropy, mse};
use nids_nn::{Cx, Linear, Real, Scope, Tensor};

/// What a head predicts of its feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A number: squared error.
    Numeric,
    /// One of so many classes, as a category or a number's bin is: softmax cross-entropy.
    Categorical(usize),
    /// Whether something is so, 0 or 1: binary cross-entropy of a logit.
    Flag,
}

impl Target {
    /// Outputs of its head.
    fn outputs(self) -> usize {
        if let Self::Categorical(n_classes) = self { n_classes } else { 1 }
    }

    /// Its loss, of one sample.   y, dy: [outputs]
    fn loss<R: Real>(self, y: &[R], target: R, divisor: R, dy: &mut [R]) -> f64 {
        match self {
            Self::Numeric => mse(y, &[target], divisor, dy),
            Self::Categorical(_) => {
                let class = target.to_usize().expect("a class is a small integer");
                cross_entropy(y, class, divisor, dy)
            }
            Self::Flag => bce_with_logits(y, &[target], BceWeights::default(), divisor, dy),
        }
    }
}

/// A linear head for every feature, on the feature's token.
#[derive(Clone, Debug)]
pub(crate) struct Heads(Vec<(Linear, Target)>);

impl Heads {
    /// Adds `{feature}.weight` and `{feature}.bias`.
    pub(crate) fn new(scope: &mut Scope<'_>, features: &[(String, usize)], targets: &[Target], dim: usize) -> Self {
        assert_eq!(features.len(), targets.len(), "a target a feature");
        let head =
            |((name, _), target): (&(String, usize), &Target)| (Linear::new(&mut scope.at(name), dim, target.outputs()), *target);
        Self(features.iter().zip(targets).map(head).collect())
    }

    /// F
    pub(crate) fn n_features(&self) -> usize {
        self.0.len()
    }

    /// The loss of each feature for which `mask` is 1 and which is not missing, NaN of the others.
    ///
    /// decoded: [N, b, D], N >= F   mask, targets, losses: [F, b]
    pub(crate) fn losses<R: Real>(&self, cx: &Cx<'_, R>, decoded: &Tensor<'_, R>, mask: &[R], targets: &[R], losses: &mut [R]) {
        let [_, b, d] = decoded.shape;
        losses.fill(R::nan());
        for (t, (head, target)) in self.0.iter().enumerate() {
            let outputs = target.outputs();
            let (y, dy) = (cx.alloc(b * outputs), cx.alloc(outputs));
            head.apply(cx, &decoded.data[t * b * d..][..b * d], y);
            for (j, y) in y.chunks_exact(outputs).enumerate() {
                let at = t * b + j;
                if mask[at] != R::zero() && !targets[at].is_nan() {
                    losses[at] = R::from_f64(target.loss(y, targets[at], R::one(), dy));
                }
            }
            cx.recycle(y);
            cx.recycle(dy);
        }
    }

    /// Adds the loss that feature `t` would have at each of D targets; at a missing one, NaN, the mean of the others.
    ///
    /// token: [D of the model]   targets, sums: [D]
    pub(crate) fn add_surprise<R: Real>(&self, cx: &Cx<'_, R>, t: usize, token: &[R], targets: &[R], sums: &mut [R]) {
        let (head, target) = &self.0[t];
        let outputs = target.outputs();
        let (y, dy, by_class) = (cx.alloc(outputs), cx.alloc(outputs), cx.alloc(outputs));
        head.apply(cx, token, y);
        if let Target::Categorical(_) = target {
            // every class at once: -ln p = ln Σ exp(y) - y
            let first = R::from_f64(target.loss(y, R::zero(), R::one(), dy));
            by_class.iter_mut().zip(&*y).for_each(|(loss, &logit)| *loss = first + y[0] - logit);
        }
        let mut loss = |value: R| match target {
            Target::Categorical(_) => by_class[value.to_usize().expect("a class is a small integer")],
            _ => R::from_f64(target.loss(y, value, R::one(), dy)),
        };
        let (mut sum, mut n) = (R::zero(), 0.0);
        for (&value, out) in targets.iter().zip(&mut *sums).filter(|(value, _)| !value.is_nan()) {
            let loss = loss(value);
            *out += loss;
            sum += loss;
            n += 1.0;
        }
        let mean = sum / R::from_f64(f64::max(n, 1.0));
        targets.iter().zip(sums).filter(|(value, _)| value.is_nan()).for_each(|(_, out)| *out += mean);
        for numbers in [y, dy, by_class] {
            cx.recycle(numbers);
        }
    }

    /// Applies every head to its token. Returns Σ of the losses / `divisor` over the features for
    /// which `mask` is 1 (all features without a mask) and, where `grads` is given, the gradient of
    /// the tokens. What is missing, of which the target is NaN, has no loss.
    ///
    /// decoded: [N, b, D], N >= F   mask, targets: [F, b]; a class is a small integer
    pub(crate) fn loss<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        mut grads: Option<&mut [R]>,
        decoded: &Tensor<'a, R>,
        mask: Option<&[R]>,
        targets: &[R],
        divisor: R,
    ) -> (f64, Tensor<'a, R>) {
        let [_, b, d] = decoded.shape;
        let ddecoded = cx.zeros(decoded.shape);
        let mut loss = 0.0;
        for (t, (head, target)) in self.0.iter().enumerate() {
            let token_range = t * b * d..(t + 1) * b * d;
            let outputs = target.outputs();
            let (y, dy) = (cx.alloc(b * outputs), cx.alloc(b * outputs));
            head.apply(cx, &decoded.data[token_range.clone()], y);
            dy.fill(R::zero());
            for j in 0..b {
                let value = targets[t * b + j];
                if mask.is_some_and(|mask| mask[t * b + j] == R::zero()) || value.is_nan() {
                    continue;
                }
                let outputs = j * outputs..(j + 1) * outputs;
                loss += target.loss(&y[outputs.clone()], value, divisor, &mut dy[outputs]);
            }
            if let Some(grads) = grads.as_deref_mut() {
                head.add_gradients(cx, grads, &decoded.data[token_range.clone()], dy);
                head.input_gradient(cx, dy, &mut ddecoded.data[token_range]);
            }
            cx.recycle(y);
            cx.recycle(dy);
        }
        (loss, ddecoded)
    }
}
