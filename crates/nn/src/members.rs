//! Members of an ensemble that share a network (Wen et al. 2020, "BatchEnsemble"; Gorishniy et al. 2025, "TabM").

use nids_kernels::Real;

use crate::{Cx, Init, Param, Scope, Tensor};

/// What tells K members apart: each scales the tokens its own way. y[n, k·b + j] = r[k, n] ⊙ x[n, j].
/// x: [N, b, D]   weight r: [K, N, D]   y: [N, K·b, D]
///
/// From here on members are samples like any other: all that follows serves them at once.
#[derive(Clone, Copy, Debug)]
pub struct MemberScales {
    weight: Param,
    members: usize,
}

/// What [`MemberScales::backward`] needs.
#[derive(Debug)]
pub struct MemberScalesCache<'a, R> {
    owner: Param,
    x: Tensor<'a, R>,
}

impl MemberScales {
    /// Adds `weight`.
    pub fn new(scope: &mut Scope<'_>, [members, n_tokens, dim]: [usize; 3], init: Init) -> Self {
        Self { weight: scope.param("weight", &[members, n_tokens, dim], init), members }
    }

    /// K
    pub fn members(&self) -> usize {
        self.members
    }

    /// # Panics
    /// If `x` does not have the tokens and width of the weight.
    pub fn forward<'a, R: Real>(&self, cx: &Cx<'a, R>, x: Tensor<'a, R>) -> (Tensor<'a, R>, MemberScalesCache<'a, R>) {
        (self.apply(cx, &x), MemberScalesCache { owner: self.weight, x })
    }

    /// [`MemberScales::forward`] for passes without backward.
    pub fn infer<'a, R: Real>(&self, cx: &Cx<'a, R>, x: Tensor<'a, R>) -> Tensor<'a, R> {
        let y = self.apply(cx, &x);
        cx.recycle(x.data);
        y
    }

    fn apply<'a, R: Real>(&self, cx: &Cx<'a, R>, x: &Tensor<'a, R>) -> Tensor<'a, R> {
        let [n, b, d] = x.shape;
        let weight = self.weight.of(cx.params);
        assert_eq!(weight.len(), self.members * n * d, "tokens that members scale");
        let y = cx.tensor([n, self.members * b, d]);
        for (token, (x, y)) in x.data.chunks_exact(b * d).zip(y.data.chunks_exact_mut(self.members * b * d)).enumerate() {
            for (member, y) in y.chunks_exact_mut(b * d).enumerate() {
                let scale = &weight[(member * n + token) * d..][..d];
                for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
                    for ((y, &x), &scale) in y.iter_mut().zip(x).zip(scale) {
                        *y = x * scale;
                    }
                }
            }
        }
        y
    }

    /// dr[k, n] += Σ over j of dy[n, k·b + j] ⊙ x[n, j];   dx[n, j] = Σ over k of dy[n, k·b + j] ⊙ r[k, n]
    pub fn backward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: MemberScalesCache<'a, R>,
        dy: Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let MemberScalesCache { owner, x } = cache;
        assert_eq!(owner, self.weight, "the cache of other scales");
        let [n, b, d] = x.shape;
        let (weight, dweight) = (self.weight.of(cx.params), self.weight.of_mut(grads));
        let dx = cx.zeros(x.shape);
        for (token, (dx, dy)) in dx.data.chunks_exact_mut(b * d).zip(dy.data.chunks_exact(self.members * b * d)).enumerate() {
            let x = &x.data[token * b * d..][..b * d];
            for (member, dy) in dy.chunks_exact(b * d).enumerate() {
                let at = (member * n + token) * d;
                let (scale, dscale) = (&weight[at..at + d], &mut dweight[at..at + d]);
                for ((x, dx), dy) in x.chunks_exact(d).zip(dx.chunks_exact_mut(d)).zip(dy.chunks_exact(d)) {
                    for ((dscale, &x), &dy) in dscale.iter_mut().zip(x).zip(dy) {
                        *dscale += dy * x;
                    }
                    for ((dx, &scale), &dy) in dx.iter_mut().zip(scale).zip(dy) {
                        *dx += dy * scale;
                    }
                }
            }
        }
        cx.recycle(dy.data);
        cx.recycle(x.data);
        dx
    }
}
