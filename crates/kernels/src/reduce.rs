//! Sums, in an order that is fixed and wide enough to vectorise.

use pulp::{Simd, WithSimd};

use crate::lanes::{Row, with_vectors};
use crate::simd::{LANES, simd, update};
use crate::{Bias, Real};

#[inline(always)]
fn fold<R: Real>(mut acc: [R; LANES]) -> R {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            acc[i] += acc[i + width];
        }
        width /= 2;
    }
    acc[0]
}

/// Σ a · b
#[inline(always)]
pub(crate) fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    let mut acc = [R::zero(); LANES];
    let ((blocks_a, tail_a), (blocks_b, tail_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in blocks_a.iter().zip(blocks_b) {
        for i in 0..LANES {
            acc[i] = a[i].mul_add(b[i], acc[i]);
        }
    }
    let ((blocks_a, tail_a), (blocks_b, tail_b)) = (tail_a.as_chunks::<4>(), tail_b.as_chunks::<4>());
    for (a, b) in blocks_a.iter().zip(blocks_b) {
        for i in 0..4 {
            acc[i] = a[i].mul_add(b[i], acc[i]);
        }
    }
    for (&a, &b) in tail_a.iter().zip(tail_b) {
        acc[0] = a.mul_add(b, acc[0]);
    }
    fold(acc)
}

/// x += y
///
/// # Panics
/// If lengths differ.
pub fn add_assign<R: Real>(x: &mut [R], y: &[R]) {
    assert_eq!(x.len(), y.len());
    simd(
        #[inline(always)]
        || update([x], [y], |[x], [y]| [x + y]),
    );
}

/// x *= y
///
/// # Panics
/// If lengths differ.
pub fn hadamard<R: Real>(x: &mut [R], y: &[R]) {
    assert_eq!(x.len(), y.len());
    simd(
        #[inline(always)]
        || update([x], [y], |[x], [y]| [x * y]),
    );
}

/// x[r, c] += y[c] (`PerColumn`) or y[r] (`PerRow`).   x: [rows, cols]
///
/// # Panics
/// If lengths do not fit.
pub fn add_bias<R: Real>(bias: Bias<'_, R>, cols: usize, x: &mut [R]) {
    if x.is_empty() {
        return;
    }
    bias.check(x.len() / cols, cols);
    simd(
        #[inline(always)]
        || {
            for (row, x) in x.chunks_exact_mut(cols).enumerate() {
                match bias {
                    Bias::PerColumn(bias) => update([x], [bias], |[x], [b]| [x + b]),
                    Bias::PerRow(bias) => update([x], [], |[x], []| [x + bias[row]]),
                }
            }
        },
    );
}

/// `out[r]` += Σ_c x[r, c].   x: [rows, cols]   out: `[rows]`
///
/// # Panics
/// If lengths do not fit.
pub fn add_row_sums<R: Real>(x: &[R], out: &mut [R]) {
    if out.is_empty() {
        return;
    }
    let cols = x.len() / out.len();
    assert_eq!(x.len(), cols * out.len());
    R::row_sums(RowSums { x, cols, out });
}

/// Checked: `out` has a number a row.
pub struct RowSums<'a, R> {
    x: &'a [R],
    cols: usize,
    out: &'a mut [R],
}

impl<R: Real> WithSimd for RowSums<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let pass = self;
        with_vectors!(pass.cols, row_sums(simd, pass));
    }
}

#[inline(always)]
fn row_sums<S: Simd, R: Real, const V: usize, const PARTIAL: bool>(simd: S, RowSums { x, cols, out }: RowSums<'_, R>) {
    for (r, out) in out.iter_mut().enumerate() {
        let mut total = R::splat(simd, R::zero());
        Row::<S, R, V, PARTIAL>::new(simd, &x[r * cols..][..cols]).each(
            #[inline(always)]
            |x, _| total = R::add_lanes(simd, total, x),
        );
        *out += R::sum_lanes(simd, total);
    }
}

/// `out[c]` += Σ_r x[r, c].   x: [rows, cols]   out: `[cols]`
///
/// # Panics
/// If lengths do not fit.
pub fn add_column_sums<R: Real>(x: &[R], out: &mut [R]) {
    if out.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(out.len()));
    simd(
        #[inline(always)]
        || {
            for row in x.chunks_exact(out.len()) {
                update([&mut *out], [row], |[out], [x]| [out + x]);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, assert_same_bits, cast, each_arch, numbers};

    fn check<R: Real>(rows: usize, cols: usize) {
        let (x, y) = (numbers(1, rows * cols), numbers(2, rows * cols));
        let zip = |f: fn(f64, f64) -> f64| x.iter().zip(&y).map(|(&x, &y)| f(x, y)).collect::<Vec<_>>();
        let (mut total, mut product) = (cast::<R>(&x), cast::<R>(&x));
        add_assign(&mut total, &cast(&y));
        assert_close(&total, &zip(|x, y| x + y));
        hadamard(&mut product, &cast(&y));
        assert_close(&product, &zip(|x, y| x * y));
        for per_row in [false, true] {
            let bias = numbers(5, if per_row { rows } else { cols });
            let want: Vec<f64> = x.iter().enumerate().map(|(i, x)| x + bias[if per_row { i / cols } else { i % cols }]).collect();
            let (own, mut got) = (cast::<R>(&bias), cast::<R>(&x));
            add_bias(if per_row { Bias::PerRow(&own) } else { Bias::PerColumn(&own) }, cols, &mut got);
            assert_close(&got, &want);
        }

        let (mut by_row, mut by_column) = (numbers(3, rows), numbers(4, cols));
        let (mut got_by_row, mut got_by_column) = (cast::<R>(&by_row), cast::<R>(&by_column));
        for (i, x) in x.iter().enumerate() {
            by_row[i / cols] += x;
            by_column[i % cols] += x;
        }
        add_row_sums(&cast(&x), &mut got_by_row);
        assert_close(&got_by_row, &by_row);
        add_column_sums(&cast(&x), &mut got_by_column);
        assert_close(&got_by_column, &by_column);
    }

    fn check_bits<R: Real>(rows: usize, cols: usize) {
        // thirds, as sums of the numbers themselves are exact in any order
        let x: Vec<f64> = numbers(1, rows * cols).iter().map(|x| x / 3.0).collect();
        let (x, row, column) = (cast::<R>(&x), cast(&numbers(2, rows)), cast(&numbers(3, cols)));
        assert_same_bits::<R>(|| {
            let (mut by_row, mut by_column, mut biased) = (row.clone(), column.clone(), x.clone());
            add_row_sums(&x, &mut by_row);
            add_column_sums(&x, &mut by_column);
            add_bias(Bias::PerColumn(&column), cols, &mut biased);
            hadamard(&mut biased, &x);
            add_assign(&mut biased, &x);
            let product = simd(|| dot(&x, &biased));
            vec![by_row, by_column, biased, vec![product]]
        });
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_bits(rows in 1..5_usize, cols in 1..300_usize) {
            check_bits::<f32>(rows, cols);
            check_bits::<f64>(rows, cols);
        }

        #[test]
        fn sums_are_those_of_a_plain_loop(rows in 0..12_usize, cols in 0..150_usize) {
            each_arch(|| {
                check::<f32>(rows, cols);
                check::<f64>(rows, cols);
            });
        }
    }
}
