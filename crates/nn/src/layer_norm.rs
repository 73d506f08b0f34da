//! Layer normalisation of the last axis.

use nids_kernels::{Real, layer_norm, layer_norm_backward, layer_norm_infer, layer_norm_output};

use crate::context::Taken;
use crate::{Cx, Init, Param, Scope, Tensor};

const EPS: f64 = 1e-5;

/// y = (x - mean) / √(var + 1e-5) · weight + bias, over the last axis (Ba et al. 2016).   x, y: [n, b, D]   weight, bias: [D]
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// [D]
    pub weight: Param,
    /// [D]
    pub bias: Param,
}

/// What [`LayerNorm::backward`] needs.
#[derive(Debug)]
pub struct LayerNormCache<'a, R> {
    owner: Param,
    xhat: &'a mut [R],
    rstd: &'a mut [R],
}

impl LayerNorm {
    /// Adds `weight` (ones) and `bias` (zeros).
    pub fn new(scope: &mut Scope<'_>, dim: usize) -> Self {
        Self { weight: scope.param("weight", &[dim], Init::Ones), bias: scope.param("bias", &[dim], Init::Zeros) }
    }

    /// y = LN(x); `x` becomes the cache.
    pub fn forward<'a, R: Real>(&self, cx: &Cx<'a, R>, x: Tensor<'a, R>) -> (Tensor<'a, R>, LayerNormCache<'a, R>) {
        let (y, cache) = self.forward_taken(cx, &Taken::all(x.shape[1]), &x);
        cx.recycle(x.data);
        (y, cache)
    }

    /// y = LN(x), for passes without backward.   x, y: [rows, D]
    pub fn infer<R: Real>(&self, cx: &Cx<'_, R>, x: &[R], y: &mut [R]) {
        layer_norm_infer(R::from_f64(EPS), self.weight.of(cx.params), self.bias.of(cx.params), x, y);
    }

    /// LN of the samples of `x` that take a branch.   x: [n, b, D]   y: [n, taken, D]
    pub(crate) fn forward_taken<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        taken: &Taken,
        x: &Tensor<'_, R>,
    ) -> (Tensor<'a, R>, LayerNormCache<'a, R>) {
        let [n, _, d] = x.shape;
        let rows = taken.rows(n, d);
        let (xhat, rstd) = (cx.alloc(n * taken.b * d), cx.alloc(n * taken.b));
        let mut y = taken.tensor(cx, n, d);
        let (weight, bias) = (self.weight.of(cx.params), self.bias.of(cx.params));
        let packed = &mut xhat[..rows.len() * d];
        layer_norm(rows, R::from_f64(EPS), weight, bias, x.data, packed, &mut rstd[..rows.len()], y.packed_mut());
        (y, LayerNormCache { owner: self.weight, xhat, rstd })
    }

    /// The output again, into a buffer of its size.
    pub(crate) fn output<R: Real>(&self, cx: &Cx<'_, R>, cache: &LayerNormCache<'_, R>, y: &mut [R]) {
        layer_norm_output(self.weight.of(cx.params), self.bias.of(cx.params), &cache.xhat[..y.len()], y);
    }

    /// dweight += Σ dy·xhat;   dbias += Σ dy;   dx = rstd·(dxhat - mean(dxhat) - xhat·mean(dxhat·xhat)), dxhat = dy·weight
    pub fn backward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: LayerNormCache<'a, R>,
        dy: Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let dx = cx.zeros(dy.shape);
        self.backward_taken(cx, grads, cache, &Taken::all(dy.shape[1]), dy, dx)
    }

    /// Adds the gradient of the samples that took a branch to `dx`.   dy: [n, taken, D]   dx: [n, b, D]
    pub(crate) fn backward_taken<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: LayerNormCache<'a, R>,
        taken: &Taken,
        dy: Tensor<'a, R>,
        dx: Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let LayerNormCache { owner, xhat, rstd } = cache;
        assert_eq!(owner, self.weight, "the cache of another layer norm");
        let [n, _, d] = dy.shape;
        // weight and bias are neighbours in the flat buffer, and both are written
        let (before, after) = grads.split_at_mut(self.bias.offset());
        let (dweight, dbias) = (self.weight.of_mut(before), &mut after[..d]);
        let (rows, weight) = (taken.rows(n, d), self.weight.of(cx.params));
        let packed = &xhat[..rows.len() * d];
        layer_norm_backward(rows, weight, packed, &rstd[..rows.len()], dy.packed(), dx.data, dweight, dbias);
        cx.recycle(dy.data);
        cx.recycle(rstd);
        cx.recycle(xhat);
        dx
    }
}
