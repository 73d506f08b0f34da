//! The one file that knows BLAS.

use std::ffi::{CStr, c_char, c_int};
use std::sync::Once;

use cblas_sys::{CBLAS_LAYOUT, CBLAS_TRANSPOSE};
use openblas_src as _; // links the library

use crate::{Real, simd};

/// Whether an operand is read transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trans {
    /// As stored.
    No,
    /// Rows and columns exchanged.
    Yes,
}

/// c = alpha · op(a) · op(b) + beta · c, row-major, on this thread alone.
///
/// op(a): [m, k]   op(b): [k, n]   c: [m, n]; `lda`, `ldb`, `ldc` are the distances between stored rows. Where `beta` is 0,
/// what `c` held is not read.
///
/// # Panics
/// If a slice is too short for its sizes.
pub fn gemm<R: Real>(
    ta: Trans,
    tb: Trans,
    [m, n, k]: [usize; 3],
    alpha: R,
    a: &[R],
    lda: usize,
    b: &[R],
    ldb: usize,
    beta: R,
    c: &mut [R],
    ldc: usize,
) {
    let fits =
        |len: usize, rows: usize, cols: usize, ld: usize| ld >= cols && (rows == 0 || cols == 0 || len >= (rows - 1) * ld + cols);
    let (rows_a, cols_a) = if ta == Trans::No { (m, k) } else { (k, m) };
    let (rows_b, cols_b) = if tb == Trans::No { (k, n) } else { (n, k) };
    assert!(fits(a.len(), rows_a, cols_a, lda), "a: {} numbers for {rows_a} x {cols_a}, ld {lda}", a.len());
    assert!(fits(b.len(), rows_b, cols_b, ldb), "b: {} numbers for {rows_b} x {cols_b}, ld {ldb}", b.len());
    assert!(fits(c.len(), m, n, ldc), "c: {} numbers for {m} x {n}, ld {ldc}", c.len());
    if m == 0 || n == 0 {
        return;
    }
    single_threaded();
    // BLAS wants a distance of at least 1 also where k is 0 and nothing is read
    let (lda, ldb) = (lda.max(1), ldb.max(1));
    // SAFETY: the slices cover what the sizes and leading dimensions reach, as asserted above; `c` is borrowed uniquely.
    unsafe { R::raw_gemm(ta, tb, [m, n, k], alpha, a.as_ptr(), lda, b.as_ptr(), ldb, beta, c.as_mut_ptr(), ldc) }
}

/// The BLAS and the instruction set in use, for run logs: results are the same bytes only where these are the same.
pub fn describe() -> String {
    single_threaded();
    // SAFETY: both return pointers to constant C strings.
    let (config, core) = unsafe { (CStr::from_ptr(openblas_get_config()), CStr::from_ptr(openblas_get_corename())) };
    let config = config.to_string_lossy();
    let version = config.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    format!("{version} ({}), {} kernels", core.to_string_lossy(), simd::name())
}

/// Whether products may run on several threads at once. They may not with the serial build of OpenBLAS, whose buffers are
/// shared without locks: results are then silently wrong.
pub fn is_thread_safe() -> bool {
    // SAFETY: returns a constant of the build: 0 serial, 1 pthreads, 2 OpenMP.
    unsafe { openblas_get_parallel() != 0 }
}

unsafe extern "C" {
    fn openblas_get_parallel() -> c_int;
    fn openblas_set_num_threads(threads: c_int);
    fn openblas_get_config() -> *const c_char;
    fn openblas_get_corename() -> *const c_char;
}

/// Parallelism is ours, over shards; OpenBLAS's own threads would lose on products this small.
fn single_threaded() {
    static ONCE: Once = Once::new();
    // SAFETY: sets a process-wide number before the first product.
    ONCE.call_once(|| unsafe { openblas_set_num_threads(1) });
}

/// The products of BLAS for one number type.
pub trait Blas: Sized {
    /// cblas_sgemm or cblas_dgemm.
    ///
    /// # Safety
    /// The pointers must be valid for the sizes and leading dimensions, and `c` must not overlap `a` or `b`.
    #[doc(hidden)]
    unsafe fn raw_gemm(
        ta: Trans,
        tb: Trans,
        sizes: [usize; 3],
        alpha: Self,
        a: *const Self,
        lda: usize,
        b: *const Self,
        ldb: usize,
        beta: Self,
        c: *mut Self,
        ldc: usize,
    );
}

macro_rules! blas {
    ($real:ty, $gemm:path) => {
        impl Blas for $real {
            unsafe fn raw_gemm(
                ta: Trans,
                tb: Trans,
                [m, n, k]: [usize; 3],
                alpha: Self,
                a: *const Self,
                lda: usize,
                b: *const Self,
                ldb: usize,
                beta: Self,
                c: *mut Self,
                ldc: usize,
            ) {
                let int = |x: usize| c_int::try_from(x).expect("a matrix dimension fits a C int");
                let op = |t| if t == Trans::Yes { CBLAS_TRANSPOSE::CblasTrans } else { CBLAS_TRANSPOSE::CblasNoTrans };
                // SAFETY: the caller's promise is the one of this function.
                unsafe {
                    $gemm(
                        CBLAS_LAYOUT::CblasRowMajor,
                        op(ta),
                        op(tb),
                        int(m),
                        int(n),
                        int(k),
                        alpha,
                        a,
                        int(lda),
                        b,
                        int(ldb),
                        beta,
                        c,
                        int(ldc),
                    );
                }
            }
        }
    };
}

blas!(f32, cblas_sys::cblas_sgemm);
blas!(f64, cblas_sys::cblas_dgemm);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, cast, numbers};

    /// Rows are `pad` longer than a matrix is wide; `c` holds NaN where it must not be read.
    fn check<R: Real>(ta: Trans, tb: Trans, [m, n, k]: [usize; 3], pad: usize, alpha: f64, beta: f64) {
        let stored = |trans, rows, cols| if trans == Trans::No { (rows, cols) } else { (cols, rows) };
        let ((rows_a, cols_a), (rows_b, cols_b)) = (stored(ta, m, k), stored(tb, k, n));
        let (lda, ldb, ldc) = (cols_a + pad, cols_b + 2 * pad, n + 3 * pad);
        let (a, b, c) = (numbers(1, rows_a * lda), numbers(2, rows_b * ldb), numbers(3, m * ldc));
        let at = |trans, x: &[f64], ld: usize, i: usize, j: usize| if trans == Trans::No { x[i * ld + j] } else { x[j * ld + i] };
        let mut got: Vec<R> = cast(&c);
        let mut want = c.clone();
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k).map(|l| at(ta, &a, lda, i, l) * at(tb, &b, ldb, l, j)).sum();
                want[i * ldc + j] = alpha * sum + beta * want[i * ldc + j];
                if beta == 0.0 {
                    got[i * ldc + j] = R::nan();
                }
            }
        }
        let real = R::from_f64;
        gemm(ta, tb, [m, n, k], real(alpha), &cast(&a), lda, &cast(&b), ldb, real(beta), &mut got, ldc);
        assert_close(&got, &want);
    }

    proptest! {
        #[test]
        fn product_is_the_triple_loop(
            m in 0..20_usize, n in 0..40_usize, k in 0..70_usize, pad in 0..4_usize,
            alpha in prop::sample::select(&[1.0, -0.5][..]), beta in prop::sample::select(&[0.0, 1.0, 0.5][..]),
        ) {
            for ta in [Trans::No, Trans::Yes] {
                for tb in [Trans::No, Trans::Yes] {
                    check::<f32>(ta, tb, [m, n, k], pad, alpha, beta);
                    check::<f64>(ta, tb, [m, n, k], pad, alpha, beta);
                }
            }
        }
    }

    #[test]
    fn an_empty_sum_is_beta_c() {
        for (ta, tb) in [(Trans::No, Trans::No), (Trans::No, Trans::Yes), (Trans::Yes, Trans::No), (Trans::Yes, Trans::Yes)] {
            for beta in [0.0, 1.0, 0.5] {
                check::<f32>(ta, tb, [2, 3, 0], 0, 1.0, beta);
            }
        }
    }

    #[test]
    #[should_panic(expected = "a: 5 numbers for 2 x 3, ld 3")]
    fn a_slice_too_short_is_refused() {
        gemm(Trans::No, Trans::No, [2, 1, 3], 1.0, &[0.0; 5], 3, &[0.0; 3], 1, 0.0, &mut [0.0; 2], 1);
    }
}
