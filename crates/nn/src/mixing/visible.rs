//! Token mixing where every sample has only some of its tokens.

use nids_kernels::{Mat, Real, Store, add_assign, add_row_sums};

use super::{Mixing, MixingConfig};
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
            cx.gemm([hidden, d, n], Mat::new(w1, n), Mat::new(x, m), Store::Set, h, m);
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
            cx.gemm([n, d, hidden], Mat::new(w2, hidden), Mat::new(h, m), Store::Set, z, m);
        });
    }

    /// dW1, db1, dW2 and dx from dz.   x, dz, dx: [K, b, D]   g, derivative: [H, b·D], the latter overwritten
    pub(super) fn backward_visible<R: Real>(
        &self,
        cx: &Cx<'_, R>,
        grads: &mut [R],
        visible: Visible<'_, R>,
        taken: &Taken,
        x: &Tensor<'_, R>,
        dz: &[R],
        g: &[R],
        derivative: &mut [R],
        dx: &mut [R],
    ) {
        let ([n, b, d], MixingConfig { size, hidden, .. }) = (x.shape, self.config);
        let m = b * d;
        let dweight = cx.alloc(hidden * n);
        self.each_sample(cx, visible, taken, x.shape, |sample, j, [_, w2]| {
            let (dz, g) = (Mat::new(&dz[j * d..], m), Mat::new(&g[j * d..], m));
            cx.gemm([n, hidden, d], dz, g.t(), Store::Set, dweight, hidden);
            let dw2 = self.weight2.of_mut(grads);
            for (k, row) in dweight.chunks_exact(hidden).enumerate() {
                add_assign(&mut dw2[visible.token(k, sample) * hidden..][..hidden], row);
            }
            cx.gemm([hidden, d, n], Mat::new(w2, hidden).t(), dz, Store::Times, &mut derivative[j * d..], m);
        });
        let dh = derivative;
        add_row_sums(dh, self.bias1.of_mut(grads));
        let scale = R::from_f64(size as f64 / n as f64);
        self.each_sample(cx, visible, taken, x.shape, |sample, j, [w1, _]| {
            let (dh, x) = (Mat::new(&dh[j * d..], m), Mat::new(&x.data[j * d..], m));
            cx.gemm([hidden, n, d], dh, x.t(), Store::Set, dweight, n);
            let dw1 = self.weight1.of_mut(grads);
            for k in 0..n {
                let columns = dw1.iter_mut().skip(visible.token(k, sample)).step_by(size);
                columns.zip(dweight.iter().skip(k).step_by(n)).for_each(|(dw1, &dw)| *dw1 += scale * dw);
            }
            cx.gemm([n, d, hidden], Mat::new(w1, n).t(), dh, Store::Set, &mut dx[j * d..], m);
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
