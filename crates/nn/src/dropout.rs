//! Dropout on its own; inside an MLP it is fused ([`crate::Mixing`]).

use nids_kernels::{Real, dropout_rows};

use crate::context::Taken;
use crate::{Cx, Scope, Tensor};

/// y = x · mask / (1 - p) while training, y = x otherwise (Srivastava et al. 2014, inverted).
///
/// The mask is a function of seed, step, sample and element, so backward draws it again instead of keeping it.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    p: f64,
    site: u32,
}

impl Dropout {
    /// Drops with probability `p`.
    pub fn new(scope: &mut Scope<'_>, p: f64) -> Self {
        Self { p, site: scope.site() }
    }

    /// The number under which masks of this layer are drawn or given.
    pub fn site(&self) -> u32 {
        self.site
    }

    /// y = x · mask / (1 - p), which is also its gradient: dx = dy · mask / (1 - p).   x: [n, b, d]
    pub fn apply<'a, R: Real>(&self, cx: &Cx<'a, R>, x: Tensor<'a, R>) -> Tensor<'a, R> {
        let [_, b, d] = x.shape;
        let keys = Taken::all(b).keys(cx);
        dropout_rows(cx.mask(self.site, self.p, &keys), d, x.data);
        x
    }
}
