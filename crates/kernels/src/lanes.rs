//! Vectors of numbers, for kernels that decide what a register holds.

#[cfg(target_arch = "x86_64")]
use std::{any::TypeId, arch::x86_64, mem::transmute_copy};

use pulp::Simd;

/// f32 or f64 as the lanes of a vector.
pub trait Lanes: Copy + num_traits::Zero + num_traits::One {
    /// A vector.
    #[doc(hidden)]
    type Vector<S: Simd>: Copy;
    #[doc(hidden)]
    fn lanes<S: Simd>() -> usize;
    #[doc(hidden)]
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Vector<S>;
    /// a · b + c, rounded once.
    #[doc(hidden)]
    fn mul_add_lanes<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>, c: Self::Vector<S>) -> Self::Vector<S>;
    #[doc(hidden)]
    fn add_lanes<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    #[doc(hidden)]
    fn sub_lanes<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// The sum of all lanes.
    #[doc(hidden)]
    fn sum_lanes<S: Simd>(simd: S, x: Self::Vector<S>) -> Self;
    #[doc(hidden)]
    fn mul_lanes<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// The first `len` lanes; all of them unless `PARTIAL`.
    ///
    /// # Safety
    /// `len` numbers can be read at `from`.
    #[doc(hidden)]
    unsafe fn load<S: Simd, const PARTIAL: bool>(simd: S, from: *const Self, len: usize) -> Self::Vector<S>;
    /// The first `len` lanes; all of them unless `PARTIAL`.
    ///
    /// # Safety
    /// `len` numbers can be written at `to`.
    #[doc(hidden)]
    unsafe fn store<S: Simd, const PARTIAL: bool>(simd: S, to: *mut Self, len: usize, x: Self::Vector<S>);
}

macro_rules! lanes_of {
    ($real:ty, $vector:ident, $lanes:ident, $splat:ident, $mul_add:ident, $add:ident, $mul:ident, $sub:ident, $sum:ident, $mask:ident, $int:ty, $load:ident, $store:ident, $load512:ident, $store512:ident) => {
        impl Lanes for $real {
            type Vector<S: Simd> = S::$vector;

            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }
            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> S::$vector {
                simd.$splat(x)
            }
            #[inline(always)]
            fn mul_add_lanes<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn add_lanes<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$add(a, b)
            }
            #[inline(always)]
            fn mul_lanes<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$mul(a, b)
            }
            #[inline(always)]
            fn sub_lanes<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$sub(a, b)
            }
            #[inline(always)]
            fn sum_lanes<S: Simd>(simd: S, x: S::$vector) -> Self {
                simd.$sum(x)
            }
            #[inline(always)]
            unsafe fn load<S: Simd, const PARTIAL: bool>(simd: S, from: *const Self, len: usize) -> S::$vector {
                if PARTIAL && len < S::$lanes {
                    #[cfg(target_arch = "x86_64")]
                    if TypeId::of::<S>() == TypeId::of::<pulp::x86::V4>() {
                        // SAFETY: AVX-512 is there, since S is V4; the mask leaves the first `len` lanes, which the caller vouches
                        // for; the vectors of V4 and of the intrinsic are the same bits.
                        return unsafe { transmute_copy(&x86_64::$load512((1 << len) - 1, from)) };
                    }
                    #[cfg(target_arch = "x86_64")]
                    if TypeId::of::<S>() == TypeId::of::<pulp::x86::V3_512b>() {
                        // pulp's own load takes the upper half from twice as far on as it lies
                        // SAFETY: AVX2 is there, since S is V3_512b, whose vectors are the same bits as two of AVX2's; the caller
                        // vouches for the first `len` lanes.
                        return unsafe { transmute_copy(&two::load(from.cast(), len * size_of::<Self>() / 4)) };
                    }
                    // SAFETY: the mask leaves the first `len` lanes, which the caller vouches for.
                    unsafe { simd.$load(simd.$mask(0, len as $int), from) }
                } else {
                    // SAFETY: all lanes can be read, as the caller vouches; a vector is plain numbers.
                    unsafe { from.cast::<S::$vector>().read_unaligned() }
                }
            }
            #[inline(always)]
            unsafe fn store<S: Simd, const PARTIAL: bool>(simd: S, to: *mut Self, len: usize, x: S::$vector) {
                if PARTIAL && len < S::$lanes {
                    #[cfg(target_arch = "x86_64")]
                    if TypeId::of::<S>() == TypeId::of::<pulp::x86::V4>() {
                        // SAFETY: as for loading.
                        return unsafe { x86_64::$store512(to, (1 << len) - 1, transmute_copy(&x)) };
                    }
                    #[cfg(target_arch = "x86_64")]
                    if TypeId::of::<S>() == TypeId::of::<pulp::x86::V3_512b>() {
                        // SAFETY: as for loading.
                        return unsafe { two::store(to.cast(), len * size_of::<Self>() / 4, transmute_copy(&x)) };
                    }
                    // SAFETY: the mask leaves the first `len` lanes, which the caller vouches for.
                    unsafe { simd.$store(simd.$mask(0, len as $int), to, x) }
                } else {
                    // SAFETY: all lanes can be written, as the caller vouches.
                    unsafe { to.cast::<S::$vector>().write_unaligned(x) }
                }
            }
        }
    };
}

lanes_of!(
    f32,
    f32s,
    F32_LANES,
    splat_f32s,
    mul_add_f32s,
    add_f32s,
    mul_f32s,
    sub_f32s,
    reduce_sum_f32s,
    mask_between_m32s,
    u32,
    mask_load_ptr_f32s,
    mask_store_ptr_f32s,
    _mm512_maskz_loadu_ps,
    _mm512_mask_storeu_ps
);
lanes_of!(
    f64,
    f64s,
    F64_LANES,
    splat_f64s,
    mul_add_f64s,
    add_f64s,
    mul_f64s,
    sub_f64s,
    reduce_sum_f64s,
    mask_between_m64s,
    u64,
    mask_load_ptr_f64s,
    mask_store_ptr_f64s,
    _mm512_maskz_loadu_pd,
    _mm512_mask_storeu_pd
);

/// Part of two vectors of AVX2 that follow one another in memory, in numbers of 32 bits.
#[cfg(target_arch = "x86_64")]
mod two {
    use std::arch::x86_64::{
        __m256i, _mm256_loadu_si256, _mm256_maskload_epi32, _mm256_maskstore_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
    };

    const HALF: usize = 8;
    /// Eight numbers from `HALF - n` on: a mask of the first n lanes.
    static MASKS: [i32; 2 * HALF] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    /// The first `len` lanes, and 0 beyond.
    ///
    /// # Safety
    /// AVX2 is there, `len` is at most 16, and as many numbers can be read at `from`.
    #[inline(always)]
    pub(super) unsafe fn load(from: *const i32, len: usize) -> [__m256i; 2] {
        // SAFETY: a half is read as a whole where all of it is among the first `len`, else by its mask.
        unsafe {
            if len > HALF {
                [_mm256_loadu_si256(from.cast()), _mm256_maskload_epi32(from.add(HALF), mask(len - HALF))]
            } else {
                [_mm256_maskload_epi32(from, mask(len)), _mm256_setzero_si256()]
            }
        }
    }

    /// The first `len` lanes.
    ///
    /// # Safety
    /// As for [`load`], and the numbers can be written.
    #[inline(always)]
    pub(super) unsafe fn store(to: *mut i32, len: usize, [low, high]: [__m256i; 2]) {
        // SAFETY: as for loading.
        unsafe {
            if len > HALF {
                _mm256_storeu_si256(to.cast(), low);
                _mm256_maskstore_epi32(to.add(HALF), mask(len - HALF), high);
            } else {
                _mm256_maskstore_epi32(to, mask(len), low);
            }
        }
    }

    #[inline(always)]
    unsafe fn mask(n: usize) -> __m256i {
        // SAFETY: eight numbers inside of MASKS, n being at most 8; AVX2 is there, as the caller vouches.
        unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(HALF - n).cast()) }
    }
}

/// A row of numbers as V vectors, the last of which may be PARTIAL, what it lacks being 0; V = 0: as many as it takes.
///
/// With V known the loops over a row unroll, and short rows, of which a network has many, stay in registers.
#[derive(Clone, Copy)]
pub(crate) struct Row<'r, S, R, const V: usize, const PARTIAL: bool> {
    simd: S,
    numbers: &'r [R],
}

/// A vector's place in a row.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Index of the vector in its row.
    pub(crate) index: usize,
    start: usize,
    len: usize,
    pub(crate) is_partial: bool,
}

impl<'r, S: Simd, R: Lanes, const V: usize, const PARTIAL: bool> Row<'r, S, R, V, PARTIAL> {
    #[inline(always)]
    pub(crate) fn new(simd: S, numbers: &'r [R]) -> Self {
        Self { simd, numbers }
    }

    #[inline(always)]
    pub(crate) fn at(&self, place: Place) -> R::Vector<S> {
        place.load(self.simd, self.numbers)
    }

    /// Calls `apply` for every vector, first to last.
    #[inline(always)]
    pub(crate) fn each(&self, mut apply: impl FnMut(R::Vector<S>, Place)) {
        let (lanes, len) = (R::lanes::<S>(), self.numbers.len());
        let full = if V > 0 { V - usize::from(PARTIAL) } else { len / lanes };
        for v in 0..full {
            let place = Place { index: v, start: v * lanes, len: lanes, is_partial: false };
            apply(self.at(place), place);
        }
        if PARTIAL {
            let place = Place { index: full, start: full * lanes, len: len - full * lanes, is_partial: true };
            apply(self.at(place), place);
        }
    }
}

/// Calls `$run::<S, R, V, PARTIAL>($simd, $pass)` for rows of `$d` numbers. Through a pointer: inlined into one another, as many
/// functions take the compiler minutes.
macro_rules! with_vectors {
    ($d:expr, $run:ident($simd:ident, $pass:ident)) => {{
        let (d, lanes) = ($d, R::lanes::<S>());
        with_vectors!(@ d, lanes, $run($simd, $pass), 1 2 3 4 5 6 7 8 13)
    }};
    (@ $d:ident, $lanes:ident, $run:ident($simd:ident, $pass:ident), $($v:literal)*) => {{
        let run: fn(S, _) = match ($d.div_ceil($lanes), $d % $lanes != 0) {
            $(
                ($v, false) => |simd, pass| simd.vectorize(#[inline(always)] || $run::<S, R, $v, false>(simd, pass)),
                ($v, true) => |simd, pass| simd.vectorize(#[inline(always)] || $run::<S, R, $v, true>(simd, pass)),
            )*
            (_, false) => |simd, pass| simd.vectorize(#[inline(always)] || $run::<S, R, 0, false>(simd, pass)),
            (_, true) => |simd, pass| simd.vectorize(#[inline(always)] || $run::<S, R, 0, true>(simd, pass)),
        };
        run($simd, $pass)
    }};
}
pub(crate) use with_vectors;

impl Place {
    /// `len` numbers from `start` on: as many as a vector has, or where it `is_partial` fewer.
    #[inline(always)]
    pub(crate) fn new(index: usize, start: usize, len: usize, is_partial: bool) -> Self {
        Self { index, start, len, is_partial }
    }

    #[inline(always)]
    pub(crate) fn load<S: Simd, R: Lanes>(self, simd: S, row: &[R]) -> R::Vector<S> {
        assert!(self.start + self.len <= row.len(), "a place inside the row");
        // SAFETY: `len` numbers of `row` from `start` on, as just asserted.
        unsafe {
            let from = row.as_ptr().add(self.start);
            if self.is_partial { R::load::<S, true>(simd, from, self.len) } else { R::load::<S, false>(simd, from, self.len) }
        }
    }

    #[inline(always)]
    pub(crate) fn store<S: Simd, R: Lanes>(self, simd: S, row: &mut [R], x: R::Vector<S>) {
        assert!(self.start + self.len <= row.len(), "a place inside the row");
        // SAFETY: `len` numbers of `row` from `start` on, as just asserted, borrowed uniquely.
        unsafe {
            let to = row.as_mut_ptr().add(self.start);
            if self.is_partial { R::store::<S, true>(simd, to, self.len, x) } else { R::store::<S, false>(simd, to, self.len, x) }
        }
    }
}

/// 1 in the lanes of a row's last vector that are inside the row of `len` numbers, 0 beyond.
#[inline(always)]
pub(crate) fn inside<S: Simd, R: Lanes>(simd: S, len: usize) -> R::Vector<S> {
    let ones = [R::one(); MAX_LANES];
    let partial = len % R::lanes::<S>();
    Place { index: 0, start: 0, len: partial, is_partial: true }.load(simd, &ones)
}

/// Lanes of the widest vector.
const MAX_LANES: usize = 16;
