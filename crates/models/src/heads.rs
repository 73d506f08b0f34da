//! Heads of the autoencoders: a linear map on each feature's token, and its loss.

use nids_nn::loss::{cross_entropy, mse};
use nids_nn::{Cx, Linear, Real, Scope, Tensor};

/// What a head predicts of its feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A number: squared error.
    Numeric,
    /// One of so many classes: softmax cross-entropy.
    Categorical(usize),
}

impl Target {
    /// Outputs of its head.
    fn outputs(self) -> usize {
        if let Self::Categorical(n_classes) = self { n_classes } else { 1 }
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
                let target_value = &targets[t * b + j..=t * b + j];
                if mask.is_some_and(|mask| mask[t * b + j] == R::zero()) || target_value[0].is_nan() {
                    continue;
                }
                let (y, dy) = (&y[j * outputs..][..outputs], &mut dy[j * outputs..][..outputs]);
                loss += match target {
                    Target::Numeric => mse(y, target_value, divisor, dy),
                    Target::Categorical(_) => {
                        let class = target_value[0].to_usize().expect("a class is a small integer");
                        cross_entropy(y, class, divisor, dy)
                    }
                };
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
