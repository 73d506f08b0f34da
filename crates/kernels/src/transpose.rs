//! Transposition, sixteen by sixteen in registers where there is AVX-512.

use crate::simd::simd;
use crate::{Real, Store};

/// Side of a block.
const SIDE: usize = 16;

/// dst = srcᵀ, dst += srcᵀ or dst *= srcᵀ.   src: [rows, cols], rows `ld_src` apart   dst: [cols, rows], rows `ld_dst` apart
///
/// # Panics
/// If a slice is too short for its sizes.
pub fn transpose<R: Real>(store: Store, [rows, cols]: [usize; 2], src: &[R], ld_src: usize, dst: &mut [R], ld_dst: usize) {
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(ld_src >= cols && src.len() >= (rows - 1) * ld_src + cols);
    assert!(ld_dst >= rows && dst.len() >= (cols - 1) * ld_dst + rows);
    R::transposition(Transposition { store, rows, cols, src, ld_src, dst, ld_dst });
}

/// Checked: the slices cover their sizes, none of which is 0.
pub struct Transposition<'a, R> {
    store: Store,
    rows: usize,
    cols: usize,
    src: &'a [R],
    ld_src: usize,
    dst: &'a mut [R],
    ld_dst: usize,
}

pub(crate) fn run<R: Real>(pass: Transposition<'_, R>) {
    let Transposition { store, rows, cols, src, ld_src, dst, ld_dst } = pass;
    #[cfg(target_arch = "x86_64")]
    if avx512::transpose(store, [rows, cols], src, ld_src, dst, ld_dst) {
        return;
    }
    simd(
        #[inline(always)]
        || {
            for i in (0..rows).step_by(SIDE) {
                for j in (0..cols).step_by(SIDE) {
                    for i in i..rows.min(i + SIDE) {
                        for j in j..cols.min(j + SIDE) {
                            let (x, y) = (src[i * ld_src + j], &mut dst[j * ld_dst + i]);
                            *y = match store {
                                Store::Set => x,
                                Store::Add => *y + x,
                                Store::Times => *y * x,
                            };
                        }
                    }
                }
            }
        },
    );
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::any::TypeId;
    use std::arch::x86_64::{__m512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps};

    use pulp::NullaryFnOnce;
    use pulp::x86::V4;

    use super::SIDE;
    use crate::simd::arch;
    use crate::{Real, Store};

    /// Whether it could be done: for f32, on a machine with AVX-512. Sizes are checked.
    pub(super) fn transpose<R: Real>(
        store: Store,
        [rows, cols]: [usize; 2],
        src: &[R],
        ld_src: usize,
        dst: &mut [R],
        ld_dst: usize,
    ) -> bool {
        let pulp::x86::Arch::V4(simd) = arch() else { return false };
        if TypeId::of::<R>() != TypeId::of::<f32>() {
            return false;
        }
        let (src, dst) = (src.as_ptr().cast(), dst.as_mut_ptr().cast());
        simd.vectorize(Blocks { simd, store, rows, cols, src, ld_src, dst, ld_dst });
        true
    }

    struct Blocks {
        simd: V4,
        store: Store,
        rows: usize,
        cols: usize,
        src: *const f32,
        ld_src: usize,
        dst: *mut f32,
        ld_dst: usize,
    }

    impl NullaryFnOnce for Blocks {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self { simd, store, rows, cols, src, ld_src, dst, ld_dst } = self;
            let avx = simd.avx512f;
            for i in (0..rows).step_by(SIDE) {
                let n_rows = SIDE.min(rows - i);
                let mask_rows = (1_u32 << n_rows).wrapping_sub(1) as u16;
                for j in (0..cols).step_by(SIDE) {
                    let n_cols = SIDE.min(cols - j);
                    let mask_cols = (1_u32 << n_cols).wrapping_sub(1) as u16;
                    let mut block = [avx._mm512_setzero_ps(); SIDE];
                    for (r, row) in block.iter_mut().enumerate().take(n_rows) {
                        // SAFETY: row i + r < rows, columns j to j + n_cols <= cols: inside src, as `transpose` has checked;
                        // AVX-512 is there, as `simd` proves.
                        *row = unsafe { _mm512_maskz_loadu_ps(mask_cols, src.wrapping_add((i + r) * ld_src + j)) };
                    }
                    for (c, column) in exchange(simd, block).into_iter().enumerate().take(n_cols) {
                        let at = dst.wrapping_add((j + c) * ld_dst + i);
                        // SAFETY: row j + c < cols, columns i to i + n_rows <= rows: inside dst, borrowed uniquely.
                        unsafe {
                            let column = match store {
                                Store::Set => column,
                                Store::Add => avx._mm512_add_ps(_mm512_maskz_loadu_ps(mask_rows, at), column),
                                Store::Times => avx._mm512_mul_ps(_mm512_maskz_loadu_ps(mask_rows, at), column),
                            };
                            _mm512_mask_storeu_ps(at, mask_rows, column);
                        }
                    }
                }
            }
        }
    }

    /// Rows to columns: twice within quarters of 128 bits, then the quarters among themselves.
    #[inline(always)]
    fn exchange(simd: V4, rows: [__m512; SIDE]) -> [__m512; SIDE] {
        let avx = simd.avx512f;
        // quarters[g][j]: in quarter q, column 4 q + j of rows 4 g to 4 g + 3
        let quarters: [[__m512; 4]; 4] = std::array::from_fn(|g| {
            let [r0, r1, r2, r3] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
            let low = [avx._mm512_unpacklo_ps(r0, r1), avx._mm512_unpacklo_ps(r2, r3)].map(|x| avx._mm512_castps_pd(x));
            let high = [avx._mm512_unpackhi_ps(r0, r1), avx._mm512_unpackhi_ps(r2, r3)].map(|x| avx._mm512_castps_pd(x));
            [
                avx._mm512_unpacklo_pd(low[0], low[1]),
                avx._mm512_unpackhi_pd(low[0], low[1]),
                avx._mm512_unpacklo_pd(high[0], high[1]),
                avx._mm512_unpackhi_pd(high[0], high[1]),
            ]
            .map(|x| avx._mm512_castpd_ps(x))
        });
        let mut columns = rows;
        for j in 0..4 {
            let [g0, g1, g2, g3] = [quarters[0][j], quarters[1][j], quarters[2][j], quarters[3][j]];
            let even = [avx._mm512_shuffle_f32x4::<0x88>(g0, g1), avx._mm512_shuffle_f32x4::<0x88>(g2, g3)];
            let odd = [avx._mm512_shuffle_f32x4::<0xdd>(g0, g1), avx._mm512_shuffle_f32x4::<0xdd>(g2, g3)];
            columns[j] = avx._mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
            columns[4 + j] = avx._mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
            columns[8 + j] = avx._mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
            columns[12 + j] = avx._mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, cast, each_arch, numbers};

    fn check<R: Real>(store: Store, [rows, cols]: [usize; 2], pad: usize) {
        let (ld_src, ld_dst) = (cols + pad, rows + 2 * pad);
        let (src, mut want) = (numbers(1, rows * ld_src), numbers(2, cols * ld_dst));
        let mut got = cast::<R>(&want);
        for i in 0..rows {
            for j in 0..cols {
                let (x, y) = (src[i * ld_src + j], &mut want[j * ld_dst + i]);
                match store {
                    Store::Set => *y = x,
                    Store::Add => *y += x,
                    Store::Times => *y *= x,
                }
            }
        }
        transpose(store, [rows, cols], &cast(&src), ld_src, &mut got, ld_dst);
        assert_close(&got, &want);
    }

    proptest! {
        #[test]
        fn rows_become_columns(
            rows in 0..70_usize, cols in 0..70_usize, pad in 0..3_usize,
            store in prop::sample::select(&[Store::Set, Store::Add, Store::Times][..]),
        ) {
            each_arch(|| {
                check::<f32>(store, [rows, cols], pad);
                check::<f64>(store, [rows, cols], pad);
            });
        }
    }
}
