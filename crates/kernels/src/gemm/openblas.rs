//! The one file that knows BLAS.

use std::collections::TryReserveError;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Mutex, Once, PoisonError};

use cblas_sys::{CBLAS_LAYOUT, CBLAS_TRANSPOSE};
use openblas_src as _; // links the library

use super::{Mat, Product, Store};
use crate::Real;

/// c = a · b, or c += a · b. The caller has checked that the slices cover the sizes, none of them 0 but k.
pub(super) fn gemm<R: Real>(product: Product<'_, R>, c: &mut [R], ldc: usize) {
    let Product { sizes, a, b, store } = product;
    let beta = match store {
        Store::Set => R::zero(),
        Store::Add => R::one(),
        Store::Times => unreachable!("BLAS has no such product: the caller multiplies"),
    };
    single_threaded();
    // SAFETY: the slices cover what the sizes and leading dimensions reach, as the caller has asserted; `c` is borrowed uniquely.
    unsafe { R::raw_gemm(sizes, a, b, beta, c.as_mut_ptr(), ldc) }
}

/// The BLAS in use and the kernels that it chose.
pub(super) fn describe() -> String {
    single_threaded();
    // SAFETY: both return pointers to constant C strings.
    let (config, core) = unsafe { (CStr::from_ptr(openblas_get_config()), CStr::from_ptr(openblas_get_corename())) };
    let config = config.to_string_lossy();
    let version = config.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    format!("{version} ({})", core.to_string_lossy())
}

/// Whether products may run on several threads at once. They may not with the serial build of OpenBLAS, whose buffers are
/// shared without locks: results are then silently wrong.
pub fn is_thread_safe() -> bool {
    // SAFETY: returns a constant of the build: 0 serial, 1 pthreads, 2 OpenMP.
    unsafe { openblas_get_parallel() != 0 }
}

/// Address space that a thread's buffer takes, in bytes: `BUFFER_SIZE` of OpenBLAS's common_x86_64.h, which no other CPU exceeds.
const BUFFER_BYTES: usize = 128 << 20;

/// Gets the buffers of `threads` threads, which OpenBLAS would get in their first products; it keeps them. Where there is no room for
/// one, it would ask for ever. To be called before the first product, or a function of LAPACK, on so many threads.
///
/// # Errors
/// If there is no room in the address space (`ulimit -v`).
pub fn reserve(threads: usize) -> Result<(), TryReserveError> {
    static RESERVED: Mutex<usize> = Mutex::new(0);
    single_threaded();
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let held: Vec<Held> = (0..*reserved).map(|_| Held::new()).collect();
    let new = (held.len()..threads).map(|_| {
        // as large an allocation is a mapping of its own, as is that of OpenBLAS
        std::hint::black_box(&mut Vec::<u8>::new()).try_reserve_exact(BUFFER_BYTES)?;
        Ok(Held::new())
    });
    let new = new.collect::<Result<Vec<_>, TryReserveError>>()?;
    *reserved += new.len();
    Ok(())
}

/// One of OpenBLAS's buffers, which is this thread's until it is dropped.
struct Held(*mut c_void);

impl Held {
    fn new() -> Self {
        // SAFETY: hands out a buffer that is free, or a new one, under a lock of its own.
        Self(unsafe { blas_memory_alloc(0) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the buffer came from `blas_memory_alloc` and is given back once.
        unsafe { blas_memory_free(self.0) }
    }
}

unsafe extern "C" {
    fn blas_memory_alloc(position: c_int) -> *mut c_void;
    fn blas_memory_free(buffer: *mut c_void);
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
    /// cblas_sgemm or cblas_dgemm: c = a · b + beta · c.
    ///
    /// # Safety
    /// `a`, `b` and `c` must be valid for the sizes and leading dimensions, and `c` must not overlap `a` or `b`.
    #[doc(hidden)]
    unsafe fn raw_gemm(sizes: [usize; 3], a: Mat<'_, Self>, b: Mat<'_, Self>, beta: Self, c: *mut Self, ldc: usize);
}

macro_rules! blas {
    ($real:ty, $gemm:path) => {
        impl Blas for $real {
            unsafe fn raw_gemm([m, n, k]: [usize; 3], a: Mat<'_, Self>, b: Mat<'_, Self>, beta: Self, c: *mut Self, ldc: usize) {
                let int = |x: usize| c_int::try_from(x).expect("a matrix dimension fits a C int");
                let op = |transposed| if transposed { CBLAS_TRANSPOSE::CblasTrans } else { CBLAS_TRANSPOSE::CblasNoTrans };
                // SAFETY: the caller's promise is the one of this function. A leading dimension is at least 1 for BLAS also where
                // k is 0 and nothing is read.
                unsafe {
                    $gemm(
                        CBLAS_LAYOUT::CblasRowMajor,
                        op(a.transposed),
                        op(b.transposed),
                        int(m),
                        int(n),
                        int(k),
                        1.0,
                        a.data.as_ptr(),
                        int(a.ld.max(1)),
                        b.data.as_ptr(),
                        int(b.ld.max(1)),
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
