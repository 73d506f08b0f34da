//! The two MLPs of a Mixer block (Tolstikhin et al. 2021): over tokens and over channels.

use nids_kernels::{
    Bias, Real, Trans, add_branch, add_column_sums, add_row_sums, bias_activation_dropout, branch_gradient, gemm, hadamard,
};

use crate::context::Taken;
use crate::{Activation, Cx, Init, Param, Samples, Scope, Tensor};

mod visible;
pub use visible::Visible;

/// What an MLP mixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// The tokens of one channel: y = W2 · act(W1 · x).
    Token,
    /// The channels of one token: y = act(x · W1ᵀ) · W2ᵀ.
    Channel,
}

/// Sizes of an MLP.
#[derive(Clone, Copy, Debug)]
pub struct MixingConfig {
    /// What is mixed.
    pub axis: Axis,
    /// N for token mixing, D for channel mixing.
    pub size: usize,
    /// H
    pub hidden: usize,
    /// Between the two products.
    pub activation: Activation,
    /// Probability of dropout, after the activation and after the second product.
    pub dropout: f32,
}

/// y = dropout(W2 · dropout(act(W1 · x + b1)) + b2) along one axis.   x, y: [N, b, D]
///
/// linear1.weight: [H, size]   linear1.bias: [H]   linear2.weight: [size, H]   linear2.bias: [size]
#[derive(Clone, Copy, Debug)]
pub struct Mixing {
    config: MixingConfig,
    weight1: Param,
    bias1: Param,
    weight2: Param,
    bias2: Param,
    site_hidden: u32,
    site_output: u32,
}

/// What [`Mixing::backward_open`] needs.
#[derive(Debug)]
pub(crate) struct OpenCache<'a, R> {
    owner: Param,
    /// act(W1 · x + b1) · mask: [H, b·D] or [N·b, H]
    g: &'a mut [R],
    /// act'(W1 · x + b1) · mask, same shape
    derivative: &'a mut [R],
}

/// What [`Mixing::backward`] needs.
#[derive(Debug)]
pub struct MixingCache<'a, R> {
    open: OpenCache<'a, R>,
    x: Tensor<'a, R>,
}

impl Mixing {
    /// Adds `linear1` and `linear2`.
    pub fn new(scope: &mut Scope<'_>, config: MixingConfig) -> Self {
        let MixingConfig { size, hidden, .. } = config;
        let mut linear = |name: &str, inputs: usize, outputs: usize| {
            let init = Init::KaimingUniform { fan_in: inputs };
            let mut scope = scope.at(name);
            (scope.param("weight", &[outputs, inputs], init), scope.param("bias", &[outputs], init))
        };
        let (weight1, bias1) = linear("linear1", size, hidden);
        let (weight2, bias2) = linear("linear2", hidden, size);
        Self { config, weight1, bias1, weight2, bias2, site_hidden: scope.site(), site_output: scope.site() }
    }

    /// The numbers under which the masks after the activation and after the second product are drawn or given.
    pub fn sites(&self) -> [u32; 2] {
        [self.site_hidden, self.site_output]
    }

    /// The MLP on its own, every token present.
    pub fn forward<'a, R: Real>(&self, cx: &Cx<'a, R>, x: Tensor<'a, R>) -> (Tensor<'a, R>, MixingCache<'a, R>) {
        let taken = Taken::all(x.shape[1]);
        let (mut z, open) = self.forward_open(cx, None, &taken, &x);
        let y = cx.zeros(x.shape);
        let y = self.close(cx, None, &taken, &mut z, y);
        cx.recycle(z.data);
        (y, MixingCache { open, x })
    }

    /// The mirror of [`Mixing::forward`].
    pub fn backward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: MixingCache<'a, R>,
        dy: Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let MixingCache { open, x } = cache;
        let taken = Taken::all(x.shape[1]);
        let dz = self.backward_close(cx, grads, None, &taken, &dy);
        cx.recycle(dy.data);
        let dx = self.backward_open(cx, grads, open, None, &taken, &x, dz);
        cx.recycle(x.data);
        dx
    }

    /// z = W2 · dropout(act(W1 · x + b1)): the MLP without its last bias and dropout, which [`Mixing::close`] fuses with the
    /// residual.   x, z: [n, taken, D]
    pub(crate) fn forward_open<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        visible: Option<Visible<'a, R>>,
        taken: &Taken,
        x: &Tensor<'_, R>,
    ) -> (Tensor<'a, R>, OpenCache<'a, R>) {
        let [n, b, d] = x.shape;
        let hidden = self.config.hidden;
        let keys = taken.keys(cx);
        let of_sample = self.hidden_numbers(n, d);
        let (g, derivative) = (cx.alloc(of_sample * taken.b), cx.alloc(of_sample * taken.b));
        let (h, dh) = (&mut g[..of_sample * b], &mut derivative[..of_sample * b]);
        let z = taken.tensor(cx, n, d);
        let (w1, w2) = (self.weight1.of(cx.params), self.weight2.of(cx.params));
        let mask = cx.mask(self.site_hidden, self.config.dropout, &keys);
        match self.config.axis {
            Axis::Channel => {
                assert_eq!(d, self.config.size, "channels");
                product(Trans::No, Trans::Yes, [n * b, hidden, d], x.data, w1, R::zero(), h);
                let bias = Bias::PerColumn(self.bias1.of(cx.params));
                bias_activation_dropout(self.config.activation, bias, mask, hidden, h, Some(dh));
                product(Trans::No, Trans::Yes, [n * b, d, hidden], h, w2, R::zero(), z.data);
            }
            Axis::Token => {
                match visible {
                    None => {
                        assert_eq!(n, self.config.size, "tokens");
                        product(Trans::No, Trans::No, [hidden, b * d, n], w1, x.data, R::zero(), h);
                    }
                    Some(visible) => self.hidden_of_visible(cx, visible, taken, x, h),
                }
                let bias = spread(cx, taken, self.bias1.of(cx.params));
                let per_row = Bias::PerRow(&bias[..hidden * b]);
                bias_activation_dropout(self.config.activation, per_row, mask, d, h, Some(dh));
                cx.recycle(bias);
                match visible {
                    None => product(Trans::No, Trans::No, [n, b * d, hidden], w2, h, R::zero(), z.data),
                    Some(visible) => self.visible_of_hidden(cx, visible, taken, x.shape, h, z.data),
                }
            }
        }
        (z, OpenCache { owner: self.weight1, g, derivative })
    }

    /// dW1, db1, dW2 and dx from dz; `x` is the input again.   x, dz, dx: [n, taken, D]
    pub(crate) fn backward_open<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: OpenCache<'a, R>,
        visible: Option<Visible<'a, R>>,
        taken: &Taken,
        x: &Tensor<'_, R>,
        dz: Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let OpenCache { owner, g, derivative } = cache;
        assert_eq!(owner, self.weight1, "the cache of another MLP");
        let [n, b, d] = x.shape;
        let hidden = self.config.hidden;
        let (w1, w2) = (self.weight1.of(cx.params), self.weight2.of(cx.params));
        let dx = taken.tensor(cx, n, d);
        let len = self.hidden_numbers(n, d) * b;
        match (self.config.axis, visible) {
            (Axis::Channel, _) => {
                let rows = n * b;
                product(Trans::Yes, Trans::No, [d, hidden, rows], dz.data, g, R::one(), self.weight2.of_mut(grads));
                product(Trans::No, Trans::No, [rows, hidden, d], dz.data, w2, R::zero(), g);
                let dh = hadamard_into(&mut derivative[..len], &g[..len]);
                add_column_sums(dh, self.bias1.of_mut(grads));
                product(Trans::Yes, Trans::No, [hidden, d, rows], dh, x.data, R::one(), self.weight1.of_mut(grads));
                product(Trans::No, Trans::No, [rows, d, hidden], dh, w1, R::zero(), dx.data);
            }
            (Axis::Token, None) => {
                let m = b * d;
                product(Trans::No, Trans::Yes, [n, hidden, m], dz.data, g, R::one(), self.weight2.of_mut(grads));
                product(Trans::Yes, Trans::No, [hidden, m, n], w2, dz.data, R::zero(), g);
                let dh = hadamard_into(&mut derivative[..len], &g[..len]);
                add_row_sums(dh, self.bias1.of_mut(grads));
                product(Trans::No, Trans::Yes, [hidden, n, m], dh, x.data, R::one(), self.weight1.of_mut(grads));
                product(Trans::Yes, Trans::No, [n, m, hidden], w1, dh, R::zero(), dx.data);
            }
            (Axis::Token, Some(visible)) => {
                let (g, derivative) = (&mut g[..], &mut derivative[..len]);
                self.backward_visible(cx, grads, visible, taken, x, dz.data, g, derivative, dx.data);
            }
        }
        cx.recycle(g);
        cx.recycle(derivative);
        cx.recycle(dz.data);
        dx
    }

    /// y += scale · dropout(z + b2) for the samples taken.   z: [n, taken, D], overwritten   y: [n, b, D]
    pub(crate) fn close<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        visible: Option<Visible<'a, R>>,
        taken: &Taken,
        z: &mut Tensor<'_, R>,
        y: Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let [n, _, d] = y.shape;
        let keys = taken.keys(cx);
        let mask = cx.mask(self.site_output, self.config.dropout, &keys);
        let scale = R::from_f64(taken.scale);
        let bias = self.bias2.of(cx.params);
        match self.config.axis {
            Axis::Channel => add_branch(taken.rows(n, d), Bias::PerColumn(bias), mask, scale, z.packed_mut(), y.data),
            Axis::Token => {
                let b = taken.kept.len();
                let bias = match visible {
                    None => spread(cx, taken, bias),
                    Some(visible) => {
                        let rows = cx.alloc(n * taken.b);
                        for (row, out) in rows[..n * b].iter_mut().enumerate() {
                            *out = bias[visible.token(row / b, taken.kept[row % b])];
                        }
                        rows
                    }
                };
                add_branch(taken.rows(n, d), Bias::PerRow(&bias[..n * b]), mask, scale, z.packed_mut(), y.data);
                cx.recycle(bias);
            }
        }
        y
    }

    /// db2 += Σ dz;   dz = scale · mask · dy for the samples taken.   dy: [n, b, D]   dz: [n, taken, D]
    pub(crate) fn backward_close<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        visible: Option<Visible<'a, R>>,
        taken: &Taken,
        dy: &Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let [n, _, d] = dy.shape;
        let b = taken.kept.len();
        let keys: Samples = taken.keys(cx);
        let mut dz = taken.tensor(cx, n, d);
        let mask = cx.mask(self.site_output, self.config.dropout, &keys);
        branch_gradient(taken.rows(n, d), mask, R::from_f64(taken.scale), dy.data, dz.packed_mut());
        let dbias = self.bias2.of_mut(grads);
        match (self.config.axis, visible) {
            (Axis::Channel, _) => add_column_sums(dz.packed(), dbias),
            (Axis::Token, None) => add_row_sums(dz.packed(), dbias),
            (Axis::Token, Some(visible)) => {
                for (row, dz) in dz.packed().chunks_exact(d).enumerate() {
                    let token = visible.token(row / b, taken.kept[row % b]);
                    add_row_sums(dz, &mut dbias[token..=token]);
                }
            }
        }
        dz
    }

    /// Hidden numbers of a sample.
    fn hidden_numbers(&self, n: usize, d: usize) -> usize {
        self.config.hidden * if self.config.axis == Axis::Token { d } else { n }
    }
}

/// dh = d · dg, in the place of d.
fn hadamard_into<'d, R: Real>(derivative: &'d mut [R], dg: &[R]) -> &'d [R] {
    hadamard(derivative, dg);
    derivative
}

/// op(a) · op(b) + beta · c of whole matrices.
fn product<R: Real>(ta: Trans, tb: Trans, [m, n, k]: [usize; 3], a: &[R], b: &[R], beta: R, c: &mut [R]) {
    let lda = if ta == Trans::No { k } else { m };
    let ldb = if tb == Trans::No { n } else { k };
    gemm(ta, tb, [m, n, k], R::one(), a, lda, b, ldb, beta, c, n);
}

/// A bias a token (or hidden unit) as a bias a row of `[outer, taken]`; memory for all samples.
fn spread<'a, R: Real>(cx: &Cx<'a, R>, taken: &Taken, bias: &[R]) -> &'a mut [R] {
    let b = taken.kept.len();
    let rows = cx.alloc(bias.len() * taken.b);
    rows.chunks_exact_mut(b).zip(bias).for_each(|(rows, &bias)| rows.fill(bias));
    rows
}
