//! The residual branch of a Mixer block.

use nids_kernels::Real;

use crate::context::Taken;
use crate::layer_norm::LayerNormCache;
use crate::mixing::OpenCache;
use crate::{Cx, LayerNorm, Mixing, Scope, Tensor, Visible};

/// y = x + drop_path(MLP(LN(x))), pre-norm, with stochastic depth per sample (Huang et al. 2016).   x, y: [N, b, D]
///
/// Samples whose branch is dropped are left out of the computation both ways: the norm packs those that take it.
#[derive(Clone, Copy, Debug)]
pub struct PreNormResidual {
    norm: LayerNorm,
    mixing: Mixing,
    drop_path: f64,
    site: u32,
}

/// What [`PreNormResidual::backward`] needs.
#[derive(Debug)]
pub struct PreNormResidualCache<'a, R> {
    visible: Option<Visible<'a, R>>,
    /// None where no sample took the branch.
    branch: Option<(LayerNormCache<'a, R>, OpenCache<'a, R>)>,
}

impl PreNormResidual {
    /// A branch that is dropped with probability `drop_path`; its norm and MLP are built by the caller, under their own names.
    pub fn new(scope: &mut Scope<'_>, norm: LayerNorm, mixing: Mixing, drop_path: f64) -> Self {
        Self { norm, mixing, drop_path, site: scope.site() }
    }

    /// The number under which the drop-path is drawn or given.
    pub fn site(&self) -> u32 {
        self.site
    }

    /// Probability that a sample's branch is dropped.
    pub fn drop_path(&self) -> f64 {
        self.drop_path
    }

    /// The MLP.
    pub fn mixing(&self) -> &Mixing {
        &self.mixing
    }

    /// y = x + drop_path(MLP(LN(x))), in the place of x.
    pub fn forward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        visible: Option<Visible<'a, R>>,
        x: Tensor<'a, R>,
    ) -> (Tensor<'a, R>, PreNormResidualCache<'a, R>) {
        let taken = self.taken(cx, x.shape[1]);
        if taken.kept.is_empty() {
            return (x, PreNormResidualCache { visible, branch: None });
        }
        let (normed, norm) = self.norm.forward_taken(cx, &taken, &x);
        let (z, mixing) = self.mixing.forward_open(cx, visible, &taken, &normed);
        cx.recycle(normed.data);
        let y = self.mixing.close(cx, visible, &taken, &z, x);
        cx.recycle(z.data);
        (y, PreNormResidualCache { visible, branch: Some((norm, mixing)) })
    }

    /// y = x + MLP(LN(x)), in the place of x, for passes without backward.
    pub fn infer<'a, R: Real>(&self, cx: &Cx<'a, R>, x: Tensor<'a, R>) -> Tensor<'a, R> {
        let normed = cx.alloc(x.data.len());
        self.norm.infer(cx, x.data, normed);
        self.mixing.add_infer(cx, normed, x.shape, x.data);
        cx.recycle(normed);
        x
    }

    /// Which samples take the branch: a function of the pass, so backward asks again instead of keeping the answer.
    fn taken<R: Real>(&self, cx: &Cx<'_, R>, b: usize) -> Taken {
        cx.drop_path(self.site, self.drop_path, b)
    }

    /// dx = dy + the branch's gradient, in the place of dy.
    pub fn backward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: PreNormResidualCache<'a, R>,
        dy: Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let PreNormResidualCache { visible, branch } = cache;
        let Some((norm, mixing)) = branch else { return dy };
        let taken = self.taken(cx, dy.shape[1]);
        let dz = self.mixing.backward_close(cx, grads, visible, &taken, &dy);
        let [n, _, d] = dy.shape;
        let mut normed = taken.tensor(cx, n, d);
        self.norm.output(cx, &norm, normed.packed_mut());
        let dz_or_dy = dz.as_ref().unwrap_or(&dy);
        let dnormed = self.mixing.backward_open(cx, grads, mixing, visible, &taken, &normed, dz_or_dy);
        dz.into_iter().chain([normed]).for_each(|tensor| cx.recycle(tensor.data));
        self.norm.backward_taken(cx, grads, norm, &taken, dnormed, dy)
    }
}
