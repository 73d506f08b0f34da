//! The two MLPs of a Mixer block (Tolstikhin et al. 2021): over tokens and over channels.

use nids_kernels::{
    Bias, Mask, Mat, Real, Store, add_bias, add_branch, add_column_sums, add_row_sums, bias_activation_dropout, branch_gradient,
};

use crate::context::Taken;
use crate::{Activation, Cx, Init, Param, Samples, Scope, Tensor};

mod visible;
pub use visible::Visible;

/// Hidden numbers that are worked on together where nothing is kept for backward: 24 KiB of a nearest cache of 32 or 48.
const STRIP: usize = 6144;
/// Numbers that the widest vectors hold.
const VECTOR: usize = 16;

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
    pub dropout: f64,
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
        let (z, open) = self.forward_open(cx, None, &taken, &x);
        let y = cx.zeros(x.shape);
        let y = self.close(cx, None, &taken, &z, y);
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
        let dx = self.backward_open(cx, grads, open, None, &taken, &x, dz.as_ref().unwrap_or(&dy));
        dz.into_iter().chain([dy, x]).for_each(|tensor| cx.recycle(tensor.data));
        dx
    }

    /// y += MLP(x), for passes without backward and dropout: in strips whose hidden numbers stay in the nearest cache.
    /// x, y: [N, b, D]
    pub(crate) fn add_infer<R: Real>(&self, cx: &Cx<'_, R>, x: &[R], [n, b, d]: [usize; 3], y: &mut [R]) {
        let MixingConfig { axis, hidden, activation, .. } = self.config;
        let (bias1, bias2) = (self.bias1.of(cx.params), self.bias2.of(cx.params));
        let strip = (STRIP / hidden).max(1);
        match axis {
            Axis::Channel => {
                let strip = strip.min(n * b);
                let (w1, w2) = (cx.transposed(self.weight1, d), cx.transposed(self.weight2, hidden));
                let h = cx.alloc(strip * hidden);
                add_bias(Bias::PerColumn(bias2), d, y);
                for (x, y) in x.chunks(strip * d).zip(y.chunks_mut(strip * d)) {
                    let rows = x.len() / d;
                    let h = &mut h[..rows * hidden];
                    cx.gemm([rows, hidden, d], Mat::new(x, d), w1, Store::Set, h, hidden);
                    bias_activation_dropout(activation, Bias::PerColumn(bias1), Mask::Off, hidden, h, None);
                    cx.gemm([rows, d, hidden], Mat::new(h, hidden), w2, Store::Add, y, d);
                }
                cx.recycle(h);
            }
            Axis::Token => {
                let m = b * d;
                let strip = strip.next_multiple_of(VECTOR).min(m);
                let (w1, w2) = (cx.weight(self.weight1, n), cx.weight(self.weight2, hidden));
                let h = cx.alloc(hidden * strip);
                add_bias(Bias::PerRow(bias2), m, y);
                for start in (0..m).step_by(strip) {
                    let cols = strip.min(m - start);
                    let h = &mut h[..hidden * cols];
                    cx.gemm([hidden, cols, n], w1, Mat::new(&x[start..], m), Store::Set, h, cols);
                    bias_activation_dropout(activation, Bias::PerRow(bias1), Mask::Off, cols, h, None);
                    cx.gemm([n, cols, hidden], w2, Mat::new(h, cols), Store::Add, &mut y[start..], m);
                }
                cx.recycle(h);
            }
        }
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
        let sample_len = self.hidden_numbers(n, d);
        let (g, derivative) = (cx.alloc(sample_len * taken.b), cx.alloc(sample_len * taken.b));
        let (h, dh) = (&mut g[..sample_len * b], &mut derivative[..sample_len * b]);
        let z = taken.tensor(cx, n, d);
        let mask = cx.mask(self.site_hidden, self.config.dropout, &keys);
        match self.config.axis {
            Axis::Channel => {
                assert_eq!(d, self.config.size, "channels");
                let w1 = cx.transposed(self.weight1, d);
                cx.gemm([n * b, hidden, d], Mat::new(x.packed(), d), w1, Store::Set, h, hidden);
                let bias = Bias::PerColumn(self.bias1.of(cx.params));
                bias_activation_dropout(self.config.activation, bias, mask, hidden, h, Some(dh));
                let w2 = cx.transposed(self.weight2, hidden);
                cx.gemm([n * b, d, hidden], Mat::new(h, hidden), w2, Store::Set, z.data, d);
            }
            Axis::Token => {
                let m = b * d;
                match visible {
                    None => {
                        assert_eq!(n, self.config.size, "tokens");
                        let w1 = cx.weight(self.weight1, n);
                        cx.gemm([hidden, m, n], w1, Mat::new(x.packed(), m), Store::Set, h, m);
                    }
                    Some(visible) => self.hidden_of_visible(cx, visible, taken, x, h),
                }
                let bias = spread(cx, taken, self.bias1.of(cx.params));
                let per_row = Bias::PerRow(&bias[..hidden * b]);
                bias_activation_dropout(self.config.activation, per_row, mask, d, h, Some(dh));
                cx.recycle(bias);
                match visible {
                    None => {
                        let w2 = cx.weight(self.weight2, hidden);
                        cx.gemm([n, m, hidden], w2, Mat::new(h, m), Store::Set, z.data, m);
                    }
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
        dz: &Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let OpenCache { owner, g, derivative } = cache;
        assert_eq!(owner, self.weight1, "the cache of another MLP");
        let [n, b, d] = x.shape;
        let hidden = self.config.hidden;
        let dx = taken.tensor(cx, n, d);
        let len = self.hidden_numbers(n, d) * b;
        match (self.config.axis, visible) {
            (Axis::Channel, _) => {
                let rows = n * b;
                let (w1, w2) = (cx.weight(self.weight1, d), cx.weight(self.weight2, hidden));
                let (x, dz) = (Mat::new(x.packed(), d), Mat::new(dz.packed(), d));
                let most_rows = n * taken.b;
                cx.reserve([d, hidden, most_rows], dz.t(), Mat::new(g, hidden), Store::Add);
                cx.reserve([most_rows, hidden, d], dz, w2, Store::Times);
                cx.gemm([d, hidden, rows], dz.t(), Mat::new(g, hidden), Store::Add, self.weight2.of_mut(grads), hidden);
                let dh = &mut derivative[..len];
                cx.gemm([rows, hidden, d], dz, w2, Store::Times, dh, hidden);
                add_column_sums(dh, self.bias1.of_mut(grads));
                let dh = Mat::new(dh, hidden);
                cx.gemm([hidden, d, rows], dh.t(), x, Store::Add, self.weight1.of_mut(grads), d);
                cx.gemm([rows, d, hidden], dh, w1, Store::Set, dx.data, d);
            }
            (Axis::Token, None) => {
                let m = b * d;
                let (w1, w2) = (cx.weight(self.weight1, n), cx.weight(self.weight2, hidden));
                let (x, dz) = (Mat::new(x.packed(), m), Mat::new(dz.packed(), m));
                let most_columns = taken.b * d;
                cx.reserve([n, hidden, most_columns], dz, Mat::new(g, m).t(), Store::Add);
                cx.reserve([hidden, most_columns, n], w2.t(), dz, Store::Times);
                cx.reserve([hidden, n, most_columns], dz, x.t(), Store::Add);
                cx.gemm([n, hidden, m], dz, Mat::new(g, m).t(), Store::Add, self.weight2.of_mut(grads), hidden);
                let dh = &mut derivative[..len];
                cx.gemm([hidden, m, n], w2.t(), dz, Store::Times, dh, m);
                add_row_sums(dh, self.bias1.of_mut(grads));
                let dh = Mat::new(dh, m);
                cx.gemm([hidden, n, m], dh, x.t(), Store::Add, self.weight1.of_mut(grads), n);
                cx.gemm([n, m, hidden], w1.t(), dh, Store::Set, dx.data, m);
            }
            (Axis::Token, Some(visible)) => {
                self.backward_visible(cx, grads, visible, taken, x, dz.packed(), g, &mut derivative[..len], dx.data);
            }
        }
        cx.recycle(g);
        cx.recycle(derivative);
        dx
    }

    /// y += scale · dropout(z + b2) for the samples taken.   z: [n, taken, D]   y: [n, b, D]
    pub(crate) fn close<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        visible: Option<Visible<'a, R>>,
        taken: &Taken,
        z: &Tensor<'_, R>,
        y: Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let [n, _, d] = y.shape;
        let keys = taken.keys(cx);
        let mask = cx.mask(self.site_output, self.config.dropout, &keys);
        let scale = R::from_f64(taken.scale);
        let bias = self.bias2.of(cx.params);
        match self.config.axis {
            Axis::Channel => add_branch(taken.rows(n, d), Bias::PerColumn(bias), mask, scale, z.packed(), y.data),
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
                add_branch(taken.rows(n, d), Bias::PerRow(&bias[..n * b]), mask, scale, z.packed(), y.data);
                cx.recycle(bias);
            }
        }
        y
    }

    /// db2 += Σ dz;   dz = scale · mask · dy for the samples taken; None where that is dy itself.
    /// dy: [n, b, D]   dz: [n, taken, D]
    pub(crate) fn backward_close<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        visible: Option<Visible<'a, R>>,
        taken: &Taken,
        dy: &Tensor<'a, R>,
    ) -> Option<Tensor<'a, R>> {
        let [n, _, d] = dy.shape;
        let b = taken.kept.len();
        let keys: Samples = taken.keys(cx);
        let mask = cx.mask(self.site_output, self.config.dropout, &keys);
        let is_dy = matches!(mask, Mask::Off) && b == taken.b && taken.scale.to_bits() == 1.0_f64.to_bits();
        let dz = (!is_dy).then(|| {
            let mut dz = taken.tensor(cx, n, d);
            branch_gradient(taken.rows(n, d), mask, R::from_f64(taken.scale), dy.data, dz.packed_mut());
            dz
        });
        let dz_or_dy = dz.as_ref().unwrap_or(dy).packed();
        let dbias = self.bias2.of_mut(grads);
        match (self.config.axis, visible) {
            (Axis::Channel, _) => add_column_sums(dz_or_dy, dbias),
            (Axis::Token, None) => add_row_sums(dz_or_dy, dbias),
            (Axis::Token, Some(visible)) => {
                for (row, dz) in dz_or_dy.chunks_exact(d).enumerate() {
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

/// A bias a token (or hidden unit) as a bias a row of `[outer, taken]`; memory for all samples.
fn spread<'a, R: Real>(cx: &Cx<'a, R>, taken: &Taken, bias: &[R]) -> &'a mut [R] {
    let b = taken.kept.len();
    let rows = cx.alloc(bias.len() * taken.b);
    rows.chunks_exact_mut(b).zip(bias).for_each(|(rows, &bias)| rows.fill(bias));
    rows
}
