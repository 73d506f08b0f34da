//! A linear map of the last axis.

use nids_kernels::{Mat, Real, Store, add_column_sums};

use crate::{Cx, Init, Param, Scope, Tensor};

/// y = x Wᵀ + b.   x: [n, b, in]   weight: [out, in]   bias: [out]   y: [n, b, out]
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// [out, in]
    pub weight: Param,
    /// [out]; None for a map without bias.
    pub bias: Option<Param>,
    inputs: usize,
    outputs: usize,
}

/// What [`Linear::backward`] needs.
#[derive(Debug)]
pub struct LinearCache<'a, R> {
    owner: Param,
    x: Tensor<'a, R>,
}

impl Linear {
    /// Adds `weight` and `bias`, both Kaiming uniform.
    pub fn new(scope: &mut Scope<'_>, inputs: usize, outputs: usize) -> Self {
        let mut layer = Self::without_bias(scope, inputs, outputs);
        layer.bias = Some(scope.param("bias", &[outputs], Init::KaimingUniform { fan_in: inputs }));
        layer
    }

    /// Adds `weight` alone.
    pub fn without_bias(scope: &mut Scope<'_>, inputs: usize, outputs: usize) -> Self {
        let weight = scope.param("weight", &[outputs, inputs], Init::KaimingUniform { fan_in: inputs });
        Self { weight, bias: None, inputs, outputs }
    }

    /// Width of its output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// # Panics
    /// If the last axis of `x` is not `in` wide.
    pub fn forward<'a, R: Real>(&self, cx: &Cx<'a, R>, x: Tensor<'a, R>) -> (Tensor<'a, R>, LinearCache<'a, R>) {
        let [n, b, width] = x.shape;
        assert_eq!(width, self.inputs, "inputs of a linear layer");
        let y = cx.tensor([n, b, self.outputs]);
        self.apply(cx, x.data, y.data);
        (y, LinearCache { owner: self.weight, x })
    }

    /// y = x Wᵀ + b on plain rows.   x: [rows, in]   y: [rows, out]
    pub fn apply<R: Real>(&self, cx: &Cx<'_, R>, x: &[R], y: &mut [R]) {
        let (i, o) = (self.inputs, self.outputs);
        let rows = x.len() / i;
        let store = match self.bias {
            Some(bias) => {
                y.chunks_exact_mut(o).for_each(|y| y.copy_from_slice(bias.of(cx.params)));
                Store::Add
            }
            None => Store::Set,
        };
        cx.gemm([rows, o, i], Mat::new(x, i), cx.transposed(self.weight, i), store, y, o);
    }

    /// dweight += dyᵀ x;   dbias += Σ dy.   x: [rows, in]   dy: [rows, out]
    pub fn add_gradients<R: Real>(&self, cx: &Cx<'_, R>, grads: &mut [R], x: &[R], dy: &[R]) {
        let (i, o) = (self.inputs, self.outputs);
        let rows = x.len() / i;
        cx.gemm([o, i, rows], Mat::new(dy, o).t(), Mat::new(x, i), Store::Add, self.weight.of_mut(grads), i);
        if let Some(bias) = self.bias {
            add_column_sums(dy, bias.of_mut(grads));
        }
    }

    /// dx = dy W.   dy: [rows, out]   dx: [rows, in]
    pub fn input_gradient<R: Real>(&self, cx: &Cx<'_, R>, dy: &[R], dx: &mut [R]) {
        let (i, o) = (self.inputs, self.outputs);
        let rows = dy.len() / o;
        cx.gemm([rows, i, o], Mat::new(dy, o), cx.weight(self.weight, i), Store::Set, dx, i);
    }

    /// dweight += dyᵀ x;   dbias += Σ dy;   dx = dy W
    pub fn backward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: LinearCache<'a, R>,
        dy: Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let LinearCache { owner, x } = cache;
        assert_eq!(owner, self.weight, "the cache of another linear layer");
        self.add_gradients(cx, grads, x.data, dy.data);
        self.input_gradient(cx, dy.data, x.data);
        cx.recycle(dy.data);
        x
    }
}
