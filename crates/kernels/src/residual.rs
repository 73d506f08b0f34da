//! The residual stream `[outer, b, cols]` and the branches that only some of a shard's samples take (stochastic depth).

use crate::simd::{simd, update};
use crate::{Bias, Mask, Real};

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

    /// Calls `apply(packed row, full row)` for every row that takes part, in order.
    #[inline(always)]
    pub(crate) fn each(&self, mut apply: impl FnMut(usize, usize)) {
        let mut row = 0;
        for outer in 0..self.outer {
            for &sample in self.kept {
                apply(row, outer * self.b + sample as usize);
                row += 1;
            }
        }
    }

    pub(crate) fn check<R>(&self, full: &[R], packed: &[R]) {
        assert_eq!(full.len(), self.outer * self.b * self.cols, "a whole shard");
        assert_eq!(packed.len(), self.len() * self.cols, "the rows that take part");
        assert!(self.kept.last().is_none_or(|&last| (last as usize) < self.b));
    }
}

/// x += scale · mask · (y + bias) on the rows that take part.   x: [outer, b, cols]   y: [outer, kept, cols]
///
/// # Panics
/// If lengths do not fit.
pub fn add_branch<R: Real>(rows: Rows<'_>, bias: Bias<'_, R>, mask: Mask<'_, R>, scale: R, y: &[R], x: &mut [R]) {
    rows.check(x, y);
    bias.check(rows.len(), rows.cols);
    R::branch(rows, bias, mask, scale, y, x);
}

pub(crate) fn branch<R: Real>(rows: Rows<'_>, bias: Bias<'_, R>, mask: Mask<'_, R>, scale: R, y: &[R], x: &mut [R]) {
    simd(
        #[inline(always)]
        || {
            mask.for_each_run(
                rows.len(),
                rows.cols,
                #[inline(always)]
                |row, col, len, multipliers| {
                    let y = &y[row * rows.cols + col..][..len];
                    let x = &mut x[rows.full(row) * rows.cols + col..][..len];
                    match (bias, multipliers) {
                        (Bias::PerRow(bias), None) => {
                            let b = bias[row];
                            update(
                                [x],
                                [y],
                                #[inline(always)]
                                |[x], [y]| [(y + b).mul_add(scale, x)],
                            );
                        }
                        (Bias::PerColumn(bias), None) => {
                            update(
                                [x],
                                [y, &bias[col..][..len]],
                                #[inline(always)]
                                |[x], [y, b]| [(y + b).mul_add(scale, x)],
                            );
                        }
                        (Bias::PerRow(bias), Some(m)) => {
                            let b = bias[row];
                            update(
                                [x],
                                [y, m],
                                #[inline(always)]
                                |[x], [y, m]| [(y + b).mul_add(m * scale, x)],
                            );
                        }
                        (Bias::PerColumn(bias), Some(m)) => {
                            update(
                                [x],
                                [y, &bias[col..][..len], m],
                                #[inline(always)]
                                |[x], [y, b, m]| [(y + b).mul_add(m * scale, x)],
                            );
                        }
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
    R::branch_gradient(rows, mask, scale, dx, dy);
}

pub(crate) fn gradient<R: Real>(rows: Rows<'_>, mask: Mask<'_, R>, scale: R, dx: &[R], dy: &mut [R]) {
    simd(
        #[inline(always)]
        || {
            mask.for_each_run(
                rows.len(),
                rows.cols,
                #[inline(always)]
                |row, col, len, multipliers| {
                    let dx = &dx[rows.full(row) * rows.cols + col..][..len];
                    let dy = &mut dy[row * rows.cols + col..][..len];
                    match multipliers {
                        None => update(
                            [dy],
                            [dx],
                            #[inline(always)]
                            |_, [dx]| [dx * scale],
                        ),
                        Some(m) => update(
                            [dy],
                            [dx, m],
                            #[inline(always)]
                            |_, [dx, m]| [dx * (m * scale)],
                        ),
                    }
                },
            );
        },
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Source, assert_close, assert_same_bits, cast, each_arch, numbers, sources, subset, with_mask};

    fn check<R: Real>(rows: Rows<'_>, per_row: bool, source: Source, scale: f64) {
        let Rows { outer, b, cols, kept } = rows;
        let x = numbers(1, outer * b * cols);
        let y = numbers(2, rows.len() * cols);
        let bias = numbers(3, if per_row { rows.len() } else { cols });
        let own: Vec<R> = cast(&bias);
        let borrowed = if per_row { Bias::PerRow(&own[..]) } else { Bias::PerColumn(&own[..]) };
        let samples: Vec<u32> = kept.iter().map(|&i| 10 + i).collect();
        with_mask::<R>(source, &samples, rows.len(), cols, |mask, multipliers| {
            let (mut want, mut want_dy) = (x.clone(), y.clone());
            for i in 0..y.len() {
                let (row, col) = (i / cols, i % cols);
                let full = (row / kept.len() * b + kept[row % kept.len()] as usize) * cols + col;
                want[full] += scale * multipliers[i] * (y[i] + bias[if per_row { row } else { col }]);
                want_dy[i] = scale * multipliers[i] * x[full];
            }
            let (mut got, mut got_dy) = (cast::<R>(&x), cast::<R>(&y));
            add_branch(rows, borrowed, mask, R::from_f64(scale), &cast(&y), &mut got);
            assert_close(&got, &want);
            branch_gradient(rows, mask, R::from_f64(scale), &cast(&x), &mut got_dy);
            assert_close(&got_dy, &want_dy);
        });
    }

    fn check_bits<R: Real>(source: Source, cols: usize) {
        let rows = Rows { outer: 2, b: 3, cols, kept: &[0, 2] };
        let (x, y, bias) = (cast::<R>(&numbers(1, 6 * cols)), cast::<R>(&numbers(2, 4 * cols)), cast::<R>(&numbers(3, cols)));
        with_mask::<R>(source, &[10, 12], rows.len(), cols, |mask, _| {
            assert_same_bits::<R>(|| {
                let (mut to, mut dy) = (x.clone(), y.clone());
                add_branch(rows, Bias::PerColumn(&bias), mask, R::from_f64(1.1), &y, &mut to);
                branch_gradient(rows, mask, R::from_f64(1.1), &x, &mut dy);
                vec![to, dy]
            });
        });
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_bits(source in sources(), cols in 1..300_usize) {
            check_bits::<f32>(source, cols);
            check_bits::<f64>(source, cols);
        }

        #[test]
        fn a_branch_reaches_the_rows_that_take_part(
            outer in 0..5_usize, b in 0..5_usize, bits: u32, cols in 1..150_usize, per_row: bool, source in sources(),
        ) {
            let all: Vec<u32> = (0..b as u32).collect();
            for kept in [&subset(b, bits), &all] {
                each_arch(|| {
                    check::<f32>(Rows { outer, b, cols, kept }, per_row, source, 1.25);
                    check::<f64>(Rows { outer, b, cols, kept }, per_row, source, 1.25);
                });
            }
        }
    }
}
