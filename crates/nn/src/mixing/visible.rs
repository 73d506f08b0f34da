//! Token mixing where every sample has only some of its tokens.

use nids_kernels::{Real, Trans, add_assign, add_row_sums, gemm};

use super::{Mixing, MixingConfig, hadamard_into};
use crate::context::Taken;
use crate::{Cx, Tensor};

/// The tokens that each sample of a shard still has, where most were dropped (a masked autoencoder that encodes visible tokens
/// only).
///
/// Channel mixing does not care. Token mixing uses, for each sample, the columns of W1 and the rows of W2 and b2 that belong to
/// its tokens, so that the weights keep their full-length shapes and names and load into a full-length encoder as they are.
/// W1's columns are scaled by N / K, as inverted dropout would, so that hidden units see the same expected sum as over all N.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a, R> {
    /// Which token each row is, ascending along `k`: [K, b]. Small integers, held in the arena as numbers.
    pub index: &'a [R],
    /// b
    pub b: usize,
}

impl<R: Real> Visible<'_, R> {
    /// Which token row `k` of sample `sample` is.
    pub fn token(&self, k: usize, sample: u32) -> usize {
        self.index[k * self.b + sample as usize].to_usize().expect("a token's index is a small integer")
    }
}

impl Mixing {
    /// h = W1 · x for every sample taken.   x: [K, b, D]   h: [H, b·D]
    pub(super) fn hidden_of_visible<R: Real>(
        &self,
        cx: &Cx<'_, R>,
        visible: Visible<'_, R>,
        taken: &Taken,
        x: &Tensor<'_, R>,
        h: &mut [R],
    ) {
        let ([n, b, d], hidden) = (x.shape, self.config.hidden);
        self.each_sample(cx, visible, taken, x.shape, |_, j, [w1, _]| {
            let (x, h, m) = (&x.data[j * d..], &mut h[j * d..], b * d);
            gemm(Trans::No, Trans::No, [hidden, d, n], R::one(), w1, n, x, m, R::zero(), h, m);
        });
    }

    /// z = W2 · h for every sample taken.   h: [H, b·D]   z: [K, b, D], whose shape is given
    pub(super) fn visible_of_hidden<R: Real>(
        &self,
        cx: &Cx<'_, R>,
        visible: Visible<'_, R>,
        taken: &Taken,
        shape: [usize; 3],
        h: &[R],
        z: &mut [R],
    ) {
        let ([n, b, d], hidden) = (shape, self.config.hidden);
        self.each_sample(cx, visible, taken, shape, |_, j, [_, w2]| {
            let (h, z, m) = (&h[j * d..], &mut z[j * d..], b * d);
            gemm(Trans::No, Trans::No, [n, d, hidden], R::one(), w2, hidden, h, m, R::zero(), z, m);
        });
    }

    /// dW1, db1, dW2 and dx from dz.   x, dz, dx: [K, b, D]   g, derivative: [H, b·D], overwritten
    pub(super) fn backward_visible<R: Real>(
        &self,
        cx: &Cx<'_, R>,
        grads: &mut [R],
        visible: Visible<'_, R>,
        taken: &Taken,
        x: &Tensor<'_, R>,
        dz: &[R],
        g: &mut [R],
        derivative: &mut [R],
        dx: &mut [R],
    ) {
        let ([n, b, d], MixingConfig { size, hidden, .. }) = (x.shape, self.config);
        let (m, one, zero) = (b * d, R::one(), R::zero());
        let dweight = cx.alloc(hidden * n);
        self.each_sample(cx, visible, taken, x.shape, |sample, j, [_, w2]| {
            let (dz, g) = (&dz[j * d..], &mut g[j * d..]);
            gemm(Trans::No, Trans::Yes, [n, hidden, d], one, dz, m, g, m, zero, dweight, hidden);
            let dw2 = self.weight2.of_mut(grads);
            for (k, row) in dweight.chunks_exact(hidden).enumerate() {
                add_assign(&mut dw2[visible.token(k, sample) * hidden..][..hidden], row);
            }
            gemm(Trans::Yes, Trans::No, [hidden, d, n], one, w2, hidden, dz, m, zero, g, m);
        });
        let len = derivative.len();
        let dh = hadamard_into(derivative, &g[..len]);
        add_row_sums(dh, self.bias1.of_mut(grads));
        let scale = R::from_f64(size as f64 / n as f64);
        self.each_sample(cx, visible, taken, x.shape, |sample, j, [w1, _]| {
            let (dh, x, dx) = (&dh[j * d..], &x.data[j * d..], &mut dx[j * d..]);
            gemm(Trans::No, Trans::Yes, [hidden, n, d], scale, dh, m, x, m, zero, dweight, n);
            let dw1 = self.weight1.of_mut(grads);
            for k in 0..n {
                let columns = dw1.iter_mut().skip(visible.token(k, sample)).step_by(size);
                columns.zip(dweight.iter().skip(k).step_by(n)).for_each(|(dw1, &dw)| *dw1 += dw);
            }
            gemm(Trans::Yes, Trans::No, [n, d, hidden], one, w1, n, dh, m, zero, dx, m);
        });
        cx.recycle(dweight);
    }

    /// Calls `apply(sample, packed position, [W1's columns · N / K, W2's rows])` for every sample taken.
    /// W1's columns: [H, K]   W2's rows: [K, H]
    fn each_sample<R: Real>(
        &self,
        cx: &Cx<'_, R>,
        visible: Visible<'_, R>,
        taken: &Taken,
        [n, _, _]: [usize; 3],
        mut apply: impl FnMut(u32, usize, [&[R]; 2]),
    ) {
        let MixingConfig { size, hidden, .. } = self.config;
        let scale = R::from_f64(size as f64 / n as f64);
        let (columns, rows) = (cx.alloc(hidden * n), cx.alloc(n * hidden));
        for (j, &sample) in taken.kept.iter().enumerate() {
            let (w1, w2) = (self.weight1.of(cx.params), self.weight2.of(cx.params));
            for (k, row) in rows.chunks_exact_mut(hidden).enumerate() {
                let token = visible.token(k, sample);
                row.copy_from_slice(&w2[token * hidden..][..hidden]);
                let column = columns.iter_mut().skip(k).step_by(n);
                column.zip(w1.iter().skip(token).step_by(size)).for_each(|(column, &w1)| *column = w1 * scale);
            }
            apply(sample, j, [columns, rows]);
        }
        cx.recycle(columns);
        cx.recycle(rows);
    }
}
