//! From features to tokens.

use nids_kernels::{Real, add_assign};

use crate::{Cx, Init, Linear, Param, Scope, Tensor};

/// One linear map a feature: token t = W_t x_t + b_t.   x_t: [b, F_t]   W_t: [D, F_t]   b_t: [D]   token t: [b, D]
///
/// The input holds the features one after the other, each as `[b, F_t]`.
#[derive(Clone, Debug)]
pub struct FeatureEmbedding {
    features: Vec<(Linear, usize)>,
    dim: usize,
}

/// What [`FeatureEmbedding::backward`] needs: its input.
#[derive(Debug)]
pub struct FeatureEmbeddingCache<'a, R> {
    x: &'a mut [R],
}

impl FeatureEmbedding {
    /// Adds `{name}.weight` and `{name}.bias` for every `(name, width)`.
    pub fn new<'n>(scope: &mut Scope<'_>, features: impl IntoIterator<Item = (&'n str, usize)>, dim: usize) -> Self {
        let features = features.into_iter().map(|(name, width)| (Linear::new(&mut scope.at(name), width, dim), width)).collect();
        Self { features, dim }
    }

    /// F_t of every feature.
    pub fn widths(&self) -> impl Iterator<Item = usize> {
        self.features.iter().map(|&(_, width)| width)
    }

    /// Σ F_t: numbers a sample in the input.
    pub fn width(&self) -> usize {
        self.widths().sum()
    }

    /// b_t of every feature, which also tells a masked token where it stands.
    pub fn bias<'p, R>(&self, params: &'p [R], token: usize) -> &'p [R] {
        self.bias_param(token).of(params)
    }

    pub(crate) fn bias_param(&self, token: usize) -> Param {
        self.features[token].0.bias.expect("a feature's map has a bias")
    }

    /// dbias_t += dy for a token that was made from its bias alone.   dy: [D]
    pub fn add_bias_gradient<R: Real>(&self, grads: &mut [R], token: usize, dy: &[R]) {
        add_assign(self.bias_param(token).of_mut(grads), dy);
    }

    /// Tokens 0..F of `tokens: [n, b, D]`, n >= F; the others are left alone.
    ///
    /// # Panics
    /// If `x` is not b·Σ F_t long.
    pub fn forward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        x: &'a mut [R],
        tokens: &mut Tensor<'a, R>,
    ) -> FeatureEmbeddingCache<'a, R> {
        let b = tokens.shape[1];
        assert_eq!(x.len(), b * self.width(), "numbers of {b} samples");
        let mut start = 0;
        for ((linear, width), token) in self.features.iter().zip(tokens.data.chunks_exact_mut(b * self.dim)) {
            linear.apply(cx, &x[start..start + b * width], token);
            start += b * width;
        }
        FeatureEmbeddingCache { x }
    }

    /// dW_t += dyᵀ x_t;   db_t += Σ dy.   dy: [n, b, D]. The input is data, so it has no gradient.
    pub fn backward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: FeatureEmbeddingCache<'a, R>,
        dy: &Tensor<'a, R>,
    ) {
        let FeatureEmbeddingCache { x } = cache;
        let b = dy.shape[1];
        let mut start = 0;
        for ((linear, width), dy) in self.features.iter().zip(dy.data.chunks_exact(b * self.dim)) {
            linear.add_gradients(cx, grads, &x[start..start + b * width], dy);
            start += b * width;
        }
        cx.recycle(x);
    }
}

/// R learned tokens that every sample has, for the network to write to (Darcet et al. 2024, "Vision transformers need
/// registers").   weight: [R, D]
#[derive(Clone, Copy, Debug)]
pub struct RegisterTokens {
    weight: Param,
    n: usize,
}

impl RegisterTokens {
    /// Adds `weight`, N(0, 0.02²).
    pub fn new(scope: &mut Scope<'_>, n: usize, dim: usize) -> Self {
        Self { weight: scope.param("weight", &[n, dim], Init::Normal { std: 0.02 }), n }
    }

    /// The last R tokens of `tokens: [n, b, D]` become the registers.
    pub fn forward<R: Real>(&self, cx: &Cx<'_, R>, tokens: &mut Tensor<'_, R>) {
        let [n, b, d] = tokens.shape;
        let registers = tokens.data[(n - self.n) * b * d..].chunks_exact_mut(b * d);
        for (token, weight) in registers.zip(self.weight.of(cx.params).chunks_exact(d)) {
            token.chunks_exact_mut(d).for_each(|row| row.copy_from_slice(weight));
        }
    }

    /// dweight += Σ over samples of dy.   dy: [n, b, D]
    pub fn backward<R: Real>(&self, grads: &mut [R], dy: &Tensor<'_, R>) {
        let [n, b, d] = dy.shape;
        let registers = dy.data[(n - self.n) * b * d..].chunks_exact(b * d);
        for (token, dweight) in registers.zip(self.weight.of_mut(grads).chunks_exact_mut(d)) {
            token.chunks_exact(d).for_each(|row| add_assign(dweight, row));
        }
    }
}

/// Cuts a sequence into tokens of `patch` steps: x[b, N·P, C] -> [N, b, P·C], the shard layout.
///
/// # Panics
/// If `x` is not b·N·P·C long.
pub fn patchify<R: Copy>(x: &[R], [n_tokens, b, width]: [usize; 3], out: &mut [R]) {
    assert!(x.len() == b * n_tokens * width && out.len() == x.len());
    for (sample, x) in x.chunks_exact(n_tokens * width).enumerate() {
        for (token, patch) in x.chunks_exact(width).enumerate() {
            out[(token * b + sample) * width..][..width].copy_from_slice(patch);
        }
    }
}
