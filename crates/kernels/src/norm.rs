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
                // the rounding of the mean, which matters where a row is nearly constant
                let rest = sum(xhat) / n;
                let r = R::one() / (dot(xhat, xhat) / n - rest * rest + eps).sqrt();
                rstd[row] = r;
                let y = &mut y[row * d..][..d];
                update([xhat, y], [weight, bias], |[centred, _], [w, b]| {
                    let xhat = (centred - rest) * r;
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
/// dy, xhat: [outer, kept, d]   rstd: [outer, kept]   dx: [outer, b, d]   dweight, dbias: `[d]`; dy is overwritten.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, cast, numbers, subset};

    /// Large enough that rounding is not blown up where the numbers of a row happen to be nearly the same.
    const EPS: f64 = 0.01;

    fn mean(x: impl ExactSizeIterator<Item = f64>) -> f64 {
        let n = x.len() as f64;
        x.sum::<f64>() / n
    }

    fn full(rows: Rows<'_>, row: usize) -> usize {
        (row / rows.kept.len() * rows.b + rows.kept[row % rows.kept.len()] as usize) * rows.cols
    }

    fn check_forward<R: Real>(rows: Rows<'_>) {
        let (d, packed) = (rows.cols, rows.len() * rows.cols);
        let (x, weight, bias) = (numbers(1, rows.outer * rows.b * d), numbers(2, d), numbers(3, d));
        let (mut want_xhat, mut want_rstd, mut want_y) = (vec![], vec![], vec![]);
        for row in 0..rows.len() {
            let x = &x[full(rows, row)..][..d];
            let mu = mean(x.iter().copied());
            let rstd = 1.0 / (mean(x.iter().map(|x| (x - mu).powi(2))) + EPS).sqrt();
            want_rstd.push(rstd);
            for i in 0..d {
                want_xhat.push((x[i] - mu) * rstd);
                want_y.push((x[i] - mu) * rstd * weight[i] + bias[i]);
            }
        }
        let (weight, bias) = (cast::<R>(&weight), cast::<R>(&bias));
        let (mut xhat, mut rstd, mut y) = (vec![R::nan(); packed], vec![R::nan(); rows.len()], vec![R::nan(); packed]);
        layer_norm(rows, R::from_f64(EPS), &weight, &bias, &cast(&x), &mut xhat, &mut rstd, &mut y);
        assert_close(&xhat, &want_xhat);
        assert_close(&rstd, &want_rstd);
        assert_close(&y, &want_y);
        let mut again = vec![R::nan(); packed];
        layer_norm_output(&weight, &bias, &xhat, &mut again);
        assert_eq!(again, y);
    }

    fn check_backward<R: Real>(rows: Rows<'_>) {
        let (d, packed) = (rows.cols, rows.len() * rows.cols);
        let (weight, xhat, rstd, dy) = (numbers(1, d), numbers(2, packed), numbers(3, rows.len()), numbers(4, packed));
        let (dx, dweight, dbias) = (numbers(5, rows.outer * rows.b * d), numbers(6, d), numbers(7, d));
        let (mut want_dx, mut want_dweight, mut want_dbias) = (dx.clone(), dweight.clone(), dbias.clone());
        for row in 0..rows.len() {
            let (dy, xhat) = (&dy[row * d..][..d], &xhat[row * d..][..d]);
            let dxhat: Vec<f64> = dy.iter().zip(&weight).map(|(dy, w)| dy * w).collect();
            let mean_d = mean(dxhat.iter().copied());
            let mean_dx = mean(dxhat.iter().zip(xhat).map(|(d, x)| d * x));
            for i in 0..d {
                want_dweight[i] += dy[i] * xhat[i];
                want_dbias[i] += dy[i];
                want_dx[full(rows, row) + i] += rstd[row] * (dxhat[i] - mean_d - xhat[i] * mean_dx);
            }
        }
        let (mut dx, mut dweight, mut dbias) = (cast::<R>(&dx), cast::<R>(&dweight), cast::<R>(&dbias));
        let (weight, xhat, rstd, mut dy) = (cast(&weight), cast(&xhat), cast(&rstd), cast(&dy));
        layer_norm_backward(rows, &weight, &xhat, &rstd, &mut dy, &mut dx, &mut dweight, &mut dbias);
        assert_close(&dx, &want_dx);
        assert_close(&dweight, &want_dweight);
        assert_close(&dbias, &want_dbias);
    }

    proptest! {
        #[test]
        fn rows_that_take_part_are_normalised_alone(outer in 0..5_usize, b in 0..5_usize, bits: u32, cols in 1..150_usize) {
            let all: Vec<u32> = (0..b as u32).collect();
            for kept in [&subset(b, bits), &all] {
                let rows = Rows { outer, b, cols, kept };
                check_forward::<f32>(rows);
                check_forward::<f64>(rows);
                check_backward::<f32>(rows);
                check_backward::<f64>(rows);
            }
        }
    }
}
