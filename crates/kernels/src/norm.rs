//! LayerNorm over the last axis (Ba et al. 2016), on the rows of a shard that take part.

use pulp::{Simd, WithSimd};

use crate::lanes::{Row, inside, with_vectors};
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
    let keep = Some((xhat, rstd));
    R::norm_forward(Forward { rows, eps, weight, bias, x, keep, y });
}

/// y = LN(x) of whole rows, for passes without backward; the same bits as [`layer_norm`] gives.   x, y: [rows, d]
///
/// # Panics
/// If lengths do not fit, or `d` is 0.
pub fn layer_norm_infer<R: Real>(eps: R, weight: &[R], bias: &[R], x: &[R], y: &mut [R]) {
    let d = weight.len();
    assert!(x.len() == y.len() && bias.len() == d && x.len().is_multiple_of(d));
    let rows = Rows { outer: x.len() / d, b: 1, cols: d, kept: &[0] };
    R::norm_forward(Forward { rows, eps, weight, bias, x, keep: None, y });
}

/// Checked: every slice covers its rows.
pub struct Forward<'a, R> {
    rows: Rows<'a>,
    eps: R,
    weight: &'a [R],
    bias: &'a [R],
    x: &'a [R],
    /// xhat and rstd, for backward.
    keep: Option<(&'a mut [R], &'a mut [R])>,
    y: &'a mut [R],
}

impl<R: Real> WithSimd for Forward<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let pass = self;
        with_vectors!(pass.rows.cols, forward(simd, pass));
    }
}

#[inline(always)]
fn forward<S: Simd, R: Real, const V: usize, const PARTIAL: bool>(simd: S, pass: Forward<'_, R>) {
    let Forward { rows, eps, weight, bias, x, mut keep, y } = pass;
    let d = rows.cols;
    let one_nth = R::one() / R::from_f64(d as f64);
    let zero = R::splat(simd, R::zero());
    let inside = inside::<S, R>(simd, d);
    rows.each(
        #[inline(always)]
        |row, full| {
            let x = Row::<S, R, V, PARTIAL>::new(simd, &x[full * d..][..d]);
            let y = &mut y[row * d..][..d];
            let mut total = zero;
            x.each(
                #[inline(always)]
                |x, _| total = R::add_lanes(simd, total, x),
            );
            let mean = R::splat(simd, R::sum_lanes(simd, total) * one_nth);
            // the rounding of the mean, which matters where a row is nearly constant
            let (mut rest, mut square) = (zero, zero);
            x.each(
                #[inline(always)]
                |x, place| {
                    let mut centred = R::sub_lanes(simd, x, mean);
                    if place.is_partial {
                        centred = R::mul_lanes(simd, centred, inside);
                    }
                    rest = R::add_lanes(simd, rest, centred);
                    square = R::mul_add_lanes(simd, centred, centred, square);
                },
            );
            let rest = R::sum_lanes(simd, rest) * one_nth;
            let r = R::one() / (R::sum_lanes(simd, square) * one_nth - rest * rest + eps).sqrt();
            let (rest, scale) = (R::splat(simd, rest), R::splat(simd, r));
            let mut xhat = match &mut keep {
                Some((xhat, rstd)) => {
                    rstd[row] = r;
                    Some(&mut xhat[row * d..][..d])
                }
                None => None,
            };
            let (weight, bias) = (Row::<S, R, V, PARTIAL>::new(simd, weight), Row::<S, R, V, PARTIAL>::new(simd, bias));
            x.each(
                #[inline(always)]
                |x, place| {
                    let normed = R::mul_lanes(simd, R::sub_lanes(simd, R::sub_lanes(simd, x, mean), rest), scale);
                    if let Some(xhat) = &mut xhat {
                        place.store(simd, xhat, normed);
                    }
                    place.store(simd, y, R::mul_add_lanes(simd, normed, weight.at(place), bias.at(place)));
                },
            );
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
/// dy, xhat: [outer, kept, d]   rstd: [outer, kept]   dx: [outer, b, d]   dweight, dbias: `[d]`
///
/// # Panics
/// If lengths do not fit.
pub fn layer_norm_backward<R: Real>(
    rows: Rows<'_>,
    weight: &[R],
    xhat: &[R],
    rstd: &[R],
    dy: &[R],
    dx: &mut [R],
    dweight: &mut [R],
    dbias: &mut [R],
) {
    rows.check(dx, xhat);
    let d = rows.cols;
    assert!(dy.len() == xhat.len() && rstd.len() == rows.len() && weight.len() == d && dweight.len() == d && dbias.len() == d);
    R::norm_backward(Backward { rows, weight, xhat, rstd, dy, dx, dweight, dbias });
}

/// Checked: every slice covers its rows.
pub struct Backward<'a, R> {
    rows: Rows<'a>,
    weight: &'a [R],
    xhat: &'a [R],
    rstd: &'a [R],
    dy: &'a [R],
    dx: &'a mut [R],
    dweight: &'a mut [R],
    dbias: &'a mut [R],
}

impl<R: Real> WithSimd for Backward<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let pass = self;
        with_vectors!(pass.rows.cols, backward(simd, pass));
    }
}

#[inline(always)]
fn backward<S: Simd, R: Real, const V: usize, const PARTIAL: bool>(simd: S, pass: Backward<'_, R>) {
    let Backward { rows, weight, xhat, rstd, dy, dx, dweight, dbias } = pass;
    let d = rows.cols;
    let one_nth = R::one() / R::from_f64(d as f64);
    let zero = R::splat(simd, R::zero());
    let weight = Row::<S, R, V, PARTIAL>::new(simd, weight);
    // of the whole shard, where their number is known: kept in registers rather than in memory
    let mut sums = [[zero; 2]; V];
    rows.each(
        #[inline(always)]
        |row, full| {
            let xhat = Row::<S, R, V, PARTIAL>::new(simd, &xhat[row * d..][..d]);
            let dy = Row::<S, R, V, PARTIAL>::new(simd, &dy[row * d..][..d]);
            let dx = &mut dx[full * d..][..d];
            let (mut total, mut product) = (zero, zero);
            dy.each(
                #[inline(always)]
                |dy, place| {
                    let xhat = xhat.at(place);
                    let dxhat = R::mul_lanes(simd, dy, weight.at(place));
                    total = R::add_lanes(simd, total, dxhat);
                    product = R::mul_add_lanes(simd, dxhat, xhat, product);
                    if V > 0 {
                        let [dw, db] = &mut sums[place.index];
                        *dw = R::mul_add_lanes(simd, dy, xhat, *dw);
                        *db = R::add_lanes(simd, *db, dy);
                    } else {
                        place.store(simd, dweight, R::mul_add_lanes(simd, dy, xhat, place.load(simd, dweight)));
                        place.store(simd, dbias, R::add_lanes(simd, place.load(simd, dbias), dy));
                    }
                },
            );
            let mean = R::splat(simd, R::sum_lanes(simd, total) * one_nth);
            let slope = R::splat(simd, R::zero() - R::sum_lanes(simd, product) * one_nth);
            let r = R::splat(simd, rstd[row]);
            dy.each(
                #[inline(always)]
                |dy, place| {
                    let centred = R::sub_lanes(simd, R::mul_lanes(simd, dy, weight.at(place)), mean);
                    let inner = R::mul_add_lanes(simd, xhat.at(place), slope, centred);
                    place.store(simd, dx, R::mul_add_lanes(simd, r, inner, place.load(simd, dx)));
                },
            );
        },
    );
    if V > 0 {
        weight.each(
            #[inline(always)]
            |_, place| {
                let [dw, db] = sums[place.index];
                place.store(simd, dweight, R::add_lanes(simd, place.load(simd, dweight), dw));
                place.store(simd, dbias, R::add_lanes(simd, place.load(simd, dbias), db));
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, assert_same_bits, cast, each_arch, numbers, subset};

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
        if rows.kept.len() == rows.b {
            let mut alone = vec![R::nan(); packed];
            layer_norm_infer(R::from_f64(EPS), &weight, &bias, &cast(&x), &mut alone);
            assert_eq!(alone, y);
        }
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
        let (weight, xhat, rstd, dy) = (cast(&weight), cast(&xhat), cast(&rstd), cast(&dy));
        layer_norm_backward(rows, &weight, &xhat, &rstd, &dy, &mut dx, &mut dweight, &mut dbias);
        assert_close(&dx, &want_dx);
        assert_close(&dweight, &want_dweight);
        assert_close(&dbias, &want_dbias);
    }

    fn check_bits<R: Real>(rows: Rows<'_>) {
        let (d, packed) = (rows.cols, rows.len() * rows.cols);
        let (x, weight, bias) = (cast::<R>(&numbers(1, rows.outer * rows.b * d)), cast(&numbers(2, d)), cast(&numbers(3, d)));
        assert_same_bits::<R>(|| {
            let (mut xhat, mut rstd, mut y) = (vec![R::zero(); packed], vec![R::zero(); rows.len()], vec![R::zero(); packed]);
            layer_norm(rows, R::from_f64(1e-5), &weight, &bias, &x, &mut xhat, &mut rstd, &mut y);
            let (mut dx, mut dweight, mut dbias) = (x.clone(), weight.clone(), bias.clone());
            layer_norm_backward(rows, &weight, &xhat, &rstd, &y, &mut dx, &mut dweight, &mut dbias);
            vec![xhat, rstd, y, dx, dweight, dbias]
        });
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_bits(outer in 1..4_usize, b in 1..4_usize, cols in 1..300_usize) {
            let kept: Vec<u32> = (0..b as u32).collect();
            let rows = Rows { outer, b, cols, kept: &kept };
            check_bits::<f32>(rows);
            check_bits::<f64>(rows);
        }

        #[test]
        fn rows_that_take_part_are_normalised_alone(outer in 0..5_usize, b in 0..5_usize, bits: u32, cols in 1..150_usize) {
            let all: Vec<u32> = (0..b as u32).collect();
            for kept in [&subset(b, bits), &all] {
                let rows = Rows { outer, b, cols, kept };
                each_arch(|| {
                    check_forward::<f32>(rows);
                    check_forward::<f64>(rows);
                    check_backward::<f32>(rows);
                    check_backward::<f64>(rows);
                });
            }
        }
    }
}
