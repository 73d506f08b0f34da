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

unsafe extern "C" {
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
