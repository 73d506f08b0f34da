//! Sums, in an order that is fixed and wide enough to vectorise.

use crate::{Real, simd::simd};

/// Partial sums kept side by side.
const LANES: usize = 16;

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

/// Σ x
#[inline(always)]
pub(crate) fn sum<R: Real>(x: &[R]) -> R {
    let mut acc = [R::zero(); LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            acc[i] += chunk[i];
        }
    }
    for (acc, &x) in acc.iter_mut().zip(tail) {
        *acc += x;
    }
    fold(acc)
}

/// Σ a · b
#[inline(always)]
pub(crate) fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    let mut acc = [R::zero(); LANES];
    let (chunks_a, chunks_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (tail_a, tail_b) = (chunks_a.remainder(), chunks_b.remainder());
    for (a, b) in chunks_a.zip(chunks_b) {
        for i in 0..LANES {
            acc[i] = a[i].mul_add(b[i], acc[i]);
        }
    }
    for ((acc, &a), &b) in acc.iter_mut().zip(tail_a).zip(tail_b) {
        *acc = a.mul_add(b, *acc);
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
        || x.iter_mut().zip(y).for_each(|(x, &y)| *x += y),
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
        || x.iter_mut().zip(y).for_each(|(x, &y)| *x *= y),
    );
}

/// out[r] += Σ_c x[r, c].   x: [rows, cols]   out: [rows]
///
/// # Panics
/// If lengths do not fit.
pub fn add_row_sums<R: Real>(x: &[R], out: &mut [R]) {
    if out.is_empty() {
        return;
    }
    let cols = x.len() / out.len();
    assert_eq!(x.len(), cols * out.len());
    simd(
        #[inline(always)]
        || out.iter_mut().enumerate().for_each(|(r, out)| *out += sum(&x[r * cols..][..cols])),
    );
}

/// out[c] += Σ_r x[r, c].   x: [rows, cols]   out: [cols]
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
                out.iter_mut().zip(row).for_each(|(out, &x)| *out += x);
            }
        },
    );
}
