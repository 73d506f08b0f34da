//! The residual stream `[outer, b, cols]` and the branches that only some of a shard's samples take (stochastic depth).

use crate::{Bias, Mask, Real, simd::simd};

/// Which rows of a shard `[outer, b, cols]` a branch works on: those of the samples `kept`, packed to `[outer, kept, cols]`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'s> {
    /// Tokens.
    pub outer: usize,
    /// Samples of the shard.
    pub b: usize,
    /// Width of a row.
    pub cols: usize,
    /// Positions in the shard of the samples that take part, ascending.
    pub kept: &'s [u32],
}

impl Rows<'_> {
    /// Rows that take part.
    pub fn len(&self) -> usize {
        self.outer * self.kept.len()
    }

    /// Whether no row takes part.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index among all rows of the shard of packed row `row`.
    #[inline(always)]
    pub(crate) fn full(&self, row: usize) -> usize {
        let kept = self.kept.len();
        if kept == self.b { row } else { row / kept * self.b + self.kept[row % kept] as usize }
    }

    pub(crate) fn check<R>(&self, full: &[R], packed: &[R]) {
        assert_eq!(full.len(), self.outer * self.b * self.cols, "a whole shard");
        assert_eq!(packed.len(), self.len() * self.cols, "the rows that take part");
        assert!(self.kept.last().is_none_or(|&last| (last as usize) < self.b));
    }
}

/// x += scale · mask · (y + bias) on the rows that take part.   x: [outer, b, cols]   y: [outer, kept, cols]; y is overwritten.
///
/// # Panics
/// If lengths do not fit.
pub fn add_branch<R: Real>(rows: Rows<'_>, bias: Bias<'_, R>, mask: Mask<'_, R>, scale: R, y: &mut [R], x: &mut [R]) {
    rows.check(x, y);
    bias.check(rows.len(), rows.cols);
    simd(
        #[inline(always)]
        || {
            for_each_run(
                rows,
                mask,
                #[inline(always)]
                |packed, full, multipliers| {
                    let y = &mut y[packed..packed + multipliers.len()];
                    bias.add_to_chunk(packed, rows.cols, y);
                    let x = &mut x[full..full + multipliers.len()];
                    for ((x, &y), &m) in x.iter_mut().zip(&*y).zip(multipliers) {
                        *x += y * (m * scale);
                    }
                },
            );
        },
    );
}

/// dy = scale · mask · dx on the rows that take part: the gradient of [`add_branch`] to `y + bias`.
/// dx: [outer, b, cols]   dy: [outer, kept, cols]
///
/// # Panics
/// If lengths do not fit.
pub fn branch_gradient<R: Real>(rows: Rows<'_>, mask: Mask<'_, R>, scale: R, dx: &[R], dy: &mut [R]) {
    rows.check(dx, dy);
    simd(
        #[inline(always)]
        || {
            for_each_run(
                rows,
                mask,
                #[inline(always)]
                |packed, full, multipliers| {
                    let dx = &dx[full..full + multipliers.len()];
                    let dy = &mut dy[packed..packed + multipliers.len()];
                    for ((dy, &dx), &m) in dy.iter_mut().zip(dx).zip(multipliers) {
                        *dy = dx * (m * scale);
                    }
                },
            );
        },
    );
}

/// Calls `apply(first packed element, first element in the whole shard, multipliers)` for runs inside a row.
#[inline(always)]
fn for_each_run<R: Real>(rows: Rows<'_>, mask: Mask<'_, R>, mut apply: impl FnMut(usize, usize, &[R])) {
    let cols = rows.cols;
    mask.for_each_chunk(
        rows.len(),
        cols,
        #[inline(always)]
        |start, multipliers| {
            let (mut packed, mut rest) = (start, multipliers);
            while !rest.is_empty() {
                let (row, col) = (packed / cols, packed % cols);
                let (run, tail) = rest.split_at(rest.len().min(cols - col));
                apply(packed, rows.full(row) * cols + col, run);
                packed += run.len();
                rest = tail;
            }
        },
    );
}
