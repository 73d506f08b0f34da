//! An activation on its own; inside an MLP it is fused with bias and dropout ([`crate::Mixing`]).

use nids_kernels::{Activation, Bias, Mask, Real, bias_activation_dropout, hadamard};

use crate::{Cx, Tensor};

/// y = act(x), element by element.
#[derive(Clone, Copy, Debug)]
pub struct ActivationLayer(pub Activation);

/// What [`ActivationLayer::backward`] needs.
#[derive(Debug)]
pub struct ActivationCache<'a, R> {
    derivative: &'a mut [R],
}

impl ActivationLayer {
    /// y = act(x)
    pub fn forward<'a, R: Real>(&self, cx: &Cx<'a, R>, x: Tensor<'a, R>) -> (Tensor<'a, R>, ActivationCache<'a, R>) {
        let derivative = cx.alloc(x.data.len());
        let cols = x.shape[2];
        let bias = cx.zeros([1, 1, cols]);
        bias_activation_dropout(self.0, Bias::PerColumn(bias.data), Mask::Off, cols, x.data, Some(derivative));
        cx.recycle(bias.data);
        (x, ActivationCache { derivative })
    }

    /// dx = dy · act'(x)
    pub fn backward<'a, R: Real>(&self, cx: &Cx<'a, R>, cache: ActivationCache<'a, R>, dy: Tensor<'a, R>) -> Tensor<'a, R> {
        let ActivationCache { derivative } = cache;
        hadamard(dy.data, derivative);
        cx.recycle(derivative);
        dy
    }
}
