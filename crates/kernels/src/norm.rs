//! LayerNorm over the last axis (Ba et al. 2016), on the rows of a shard that take part.

use crate::reduce::{dot, sum};
use crate::simd::{simd, update};
use crate::{Real, Rows};

/// y = xhat · weight + bias, xhat = (x - mean) · rstd, rstd = 1 / sqrt(var + eps).
///
/// x: [outer, b, d], of which the samples `rows.kept` are read; xhat, y: [outer, kept, d]; rstd: [outer, kept]
///
/// # Panics
/// If lengths do not fit.
pub fn layer_norm<R: Real>(
    rows: Rows<'_>,
    eps: R,
    weight: &[R],
    bias: &[R],
    x: &[R],
    xhat: &mut [R],
    rstd: &mut [R],
    y: &mut [R],
) {
    rows.check(x, xhat);
    assert!(y.len() == xhat.len() && rstd.len() == rows.len() && weight.len() == rows.cols && bias.len() == rows.cols);
    simd(
        #[inline(always)]
        || {
            let d = rows.cols;
            let n = R::from_f64(d as f64);
            for row in 0..rows.len() {
                let x = &x[rows.full(row) * d..][..d];
                let xhat = &mut xhat[row * d..][..d];
                let mean = sum(x) / n;
                update([&mut *xhat], [x], |_, [x]| [x - mean]);
                let r = R::one() / (dot(xhat, xhat) / n + eps).sqrt();
                rstd[row] = r;
                let y = &mut y[row * d..][..d];
                update([xhat, y], [weight, bias], |[centred, _], [w, b]| {
                    let xhat = centred * r;
                    [xhat, xhat.mul_add(w, b)]
                });
            }
        },
    );
}

/// y = xhat · weight + bias: the output again, which forward does not keep.   xhat, y: [rows, d]
///
/// # Panics
/// If lengths do not fit, or `d` is 0.
pub fn layer_norm_output<R: Real>(weight: &[R], bias: &[R], xhat: &[R], y: &mut [R]) {
    let d = weight.len();
    assert!(xhat.len() == y.len() && bias.len() == d);
    simd(
        #[inline(always)]
        || {
            for (xhat, y) in xhat.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
                update([y], [xhat, weight, bias], |_, [xhat, w, b]| [xhat.mul_add(w, b)]);
            }
        },
    );
}

/// dx += rstd · (dxhat - mean(dxhat) - xhat · mean(dxhat · xhat)), dxhat = dy · weight;
/// dweight += Σ dy · xhat;   dbias += Σ dy.
///
/// dy, xhat: [outer, kept, d]   rstd: [outer, kept]   dx: [outer, b, d]   dweight, dbias: [d]; dy is overwritten.
///
/// # Panics
/// If lengths do not fit.
pub fn layer_norm_backward<R: Real>(
    rows: Rows<'_>,
    weight: &[R],
    xhat: &[R],
    rstd: &[R],
    dy: &mut [R],
    dx: &mut [R],
    dweight: &mut [R],
    dbias: &mut [R],
) {
    rows.check(dx, xhat);
    let d = rows.cols;
    assert!(dy.len() == xhat.len() && rstd.len() == rows.len() && weight.len() == d && dweight.len() == d && dbias.len() == d);
    simd(
        #[inline(always)]
        || {
            let n = R::from_f64(d as f64);
            for row in 0..rows.len() {
                let xhat = &xhat[row * d..][..d];
                let dy = &mut dy[row * d..][..d];
                update([&mut *dy, &mut *dweight, &mut *dbias], [xhat, weight], |[dy, dw, db], [xhat, w]| {
                    [dy * w, dy.mul_add(xhat, dw), db + dy]
                });
                let mean_d = sum(dy) / n;
                let mean_dx = dot(dy, xhat) / n;
                let r = rstd[row];
                let dx = &mut dx[rows.full(row) * d..][..d];
                update([dx], [dy, xhat], |[dx], [dxhat, xhat]| [dx + r * (dxhat - mean_d - xhat * mean_dx)]);
            }
        },
    );
}
