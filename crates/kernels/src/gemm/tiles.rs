//! Matrix products in register tiles.
//!
//! A tile of c, up to 8 rows of 3 vectors (12 of 2, 14 of 1), stays in registers while k runs: each step loads 3 vectors of a
//! row of b, broadcasts 8 numbers of a and makes 24 fused multiply-adds, for which 11 loads are few enough. Nothing is packed: shards are small
//! enough for b to lie in the cache, and packing took OpenBLAS an eighth of a training step. Rows and vectors are dealt evenly
//! over tiles, since a remainder of one row would leave the multipliers waiting for results (4 cycles, 2 units: 8 accumulators
//! at least).
//!
//! Every element of c is one chain of fused multiply-adds over ascending k, whatever the width of a vector, so that all
//! instruction sets give the same bits.

use std::hint::black_box;

use pulp::{Simd, WithSimd};

use super::{Mat, Product, Store};
use crate::Real;
use crate::lanes::Lanes;
use crate::simd::arch;
use crate::transpose::transpose;

/// Most vectors of a tile's row.
const VECTORS: usize = 3;

/// Most rows of a tile of that many vectors: 24 registers of 32 for c, or 12 of 16; no more than 14, since a tile of one vector
/// then has enough to do. f64, which checks gradients and is in no hurry, does with 4: every size is code to compile.
pub(super) const fn rows<S: Simd, R>(vectors: usize) -> usize {
    let registers = if S::REGISTER_COUNT >= 32 { 24 } else { 12 };
    let most = if size_of::<R>() > 4 { 4 } else { 14 };
    let rows = registers / vectors;
    if rows < most { rows } else { most }
}

/// [`Product::run`] for products that are not exchanged.
pub(super) fn gemm<'a, R: Real>(mut product: Product<'a, R>, c: &mut [R], ldc: usize, scratch: &'a mut [R]) {
    let Product { sizes: [_, n, k], b, .. } = product;
    if b.transposed {
        let bt = &mut scratch[..n * k];
        transpose(Store::Set, [n, k], b.data, b.ld, bt, n);
        product.b = Mat::new(bt, n);
    }
    R::product(Strided::new(product, c, ldc));
}

/// A product as tiles walk over it, checked: rows of a lie `step_row` apart, its columns `step_k`.
#[derive(Clone, Copy)]
pub struct Strided<R> {
    m: usize,
    n: usize,
    k: usize,
    a: *const R,
    step_row: usize,
    step_k: usize,
    b: *const R,
    ldb: usize,
    c: *mut R,
    ldc: usize,
    store: Store,
}

impl<R: Lanes> WithSimd for Strided<R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.by::<S, MultiplyAdd>(simd);
    }
}

/// A way to compute a tile.
pub(super) trait Tile<R: Lanes> {
    /// M rows of V vectors: all of c that `product` still means.
    fn block<S: Simd, const M: usize, const V: usize>(product: Strided<R>, simd: S);
    /// sum + a number of a times a vector of b
    fn add<S: Simd>(simd: S, a: R, b: R::Vector<S>, sum: R::Vector<S>) -> R::Vector<S>;
}

/// By fused multiply-adds.
struct MultiplyAdd;

impl<R: Lanes> Tile<R> for MultiplyAdd {
    fn block<S: Simd, const M: usize, const V: usize>(product: Strided<R>, simd: S) {
        if M > rows::<S, R>(V) {
            return; // never asked for, and not to be compiled
        }
        if product.is_whole::<S, V>() {
            simd.vectorize(
                #[inline(always)]
                || product.tile::<S, Self, M, V, false>(simd),
            );
        } else {
            simd.vectorize(
                #[inline(always)]
                || product.tile::<S, Self, M, V, true>(simd),
            );
        }
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, a: R, b: R::Vector<S>, sum: R::Vector<S>) -> R::Vector<S> {
        R::mul_add_lanes(simd, R::splat(simd, a), b, sum)
    }
}

impl<R: Lanes> Strided<R> {
    /// Operands that have been checked.
    pub(super) fn new(product: Product<'_, R>, c: &mut [R], ldc: usize) -> Self {
        let Product { sizes: [m, n, k], a, b, store } = product;
        assert!(!b.transposed, "tiles read rows of b");
        let (step_row, step_k) = if a.transposed { (1, a.ld) } else { (a.ld, 1) };
        Self { m, n, k, a: a.data.as_ptr(), step_row, step_k, b: b.data.as_ptr(), ldb: b.ld, c: c.as_mut_ptr(), ldc, store }
    }

    /// Columns in panels, so that a panel of b stays in the nearest cache while a goes by.
    #[inline(always)]
    pub(super) fn by<S: Simd, T: Tile<R>>(self, simd: S) {
        let lanes = R::lanes::<S>();
        let vectors = self.n.div_ceil(lanes);
        let panels = vectors.div_ceil(VECTORS);
        for panel in 0..panels {
            let (from, to) = (panel * vectors / panels, (panel + 1) * vectors / panels);
            let (start, n) = (from * lanes, (to * lanes).min(self.n) - from * lanes);
            let p = Self { n, b: self.b.wrapping_add(start), c: self.c.wrapping_add(start), ..self };
            match to - from {
                1 => p.panel::<S, T, 1>(simd),
                2 => p.panel::<S, T, 2>(simd),
                _ => p.panel::<S, T, 3>(simd),
            }
        }
    }

    #[inline(always)]
    fn panel<S: Simd, T: Tile<R>, const V: usize>(self, simd: S) {
        let blocks = self.m.div_ceil(rows::<S, R>(V));
        for block in 0..blocks {
            let (from, to) = (block * self.m / blocks, (block + 1) * self.m / blocks);
            let p = Self { a: self.a.wrapping_add(from * self.step_row), c: self.c.wrapping_add(from * self.ldc), ..self };
            // through a pointer: inlined into one another, as many tiles take the compiler minutes
            let tile: fn(Self, S) = match to - from {
                1 => T::block::<S, 1, V>,
                2 => T::block::<S, 2, V>,
                3 => T::block::<S, 3, V>,
                4 => T::block::<S, 4, V>,
                5 => T::block::<S, 5, V>,
                6 => T::block::<S, 6, V>,
                7 => T::block::<S, 7, V>,
                8 => T::block::<S, 8, V>,
                9 => T::block::<S, 9, V>,
                10 => T::block::<S, 10, V>,
                11 => T::block::<S, 11, V>,
                12 => T::block::<S, 12, V>,
                13 => T::block::<S, 13, V>,
                _ => T::block::<S, 14, V>,
            };
            tile(p, simd);
        }
    }

    /// Whether V vectors are what is left of a row, and not less.
    pub(super) fn is_whole<S: Simd, const V: usize>(&self) -> bool {
        self.n == V * R::lanes::<S>()
    }

    /// One tile: M rows of V vectors, all of c that `self` still means.
    #[inline(always)]
    pub(super) fn tile<S: Simd, T: Tile<R>, const M: usize, const V: usize, const PARTIAL: bool>(self, simd: S) {
        let Self { n, k, a, step_row, step_k, b, ldb, store, .. } = self;
        let lanes = R::lanes::<S>();
        let left = n - (V - 1) * lanes;
        let mut acc = [[R::splat(simd, R::zero()); V]; M];
        for l in 0..k {
            let mut row = [R::splat(simd, R::zero()); V];
            for (v, x) in row.iter_mut().enumerate() {
                let len = if PARTIAL && v == V - 1 { left } else { lanes };
                // SAFETY: row l < k of b, columns v · lanes to v · lanes + len <= n: inside b, as the caller of `gemm` has checked.
                *x = unsafe { R::load::<S, PARTIAL>(simd, b.wrapping_add(l * ldb + v * lanes), len) };
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: row i < M of a's remaining rows, column l < k: inside a, as the caller of `gemm` has checked.
                let x = unsafe { *a.wrapping_add(i * step_row + l * step_k) };
                for (acc, &row) in acc.iter_mut().zip(&row) {
                    *acc = T::add(simd, x, row, *acc);
                }
            }
        }
        match store {
            Store::Set => self.put::<S, M, V, PARTIAL, SET>(simd, acc),
            Store::Add => self.put::<S, M, V, PARTIAL, ADD>(simd, acc),
            Store::Times => self.put::<S, M, V, PARTIAL, TIMES>(simd, acc),
        }
    }

    /// Writes a tile's sums to c.
    #[inline(always)]
    fn put<S: Simd, const M: usize, const V: usize, const PARTIAL: bool, const STORE: u8>(
        self,
        simd: S,
        acc: [[R::Vector<S>; V]; M],
    ) {
        let lanes = R::lanes::<S>();
        for (i, acc) in acc.iter().enumerate() {
            for (v, &sum) in acc.iter().enumerate() {
                let at = self.c.wrapping_add(i * self.ldc + v * lanes);
                let len = if PARTIAL && v == V - 1 { self.n - (V - 1) * lanes } else { lanes };
                // SAFETY: row i < M and columns v · lanes to v · lanes + len <= n of what is left of c, which the caller of `gemm`
                // has checked and borrows uniquely.
                unsafe {
                    let y = match STORE {
                        SET => sum,
                        ADD => R::add_lanes(simd, R::load::<S, PARTIAL>(simd, at, len), sum),
                        _ => R::mul_lanes(simd, R::load::<S, PARTIAL>(simd, at, len), sum),
                    };
                    R::store::<S, PARTIAL>(simd, at, len, y);
                }
            }
        }
    }
}

const SET: u8 = 0;
const ADD: u8 = 1;
const TIMES: u8 = 2;

/// Makes at least `flops` floating-point operations of f32 in registers alone, as fast as this
/// thread can. No product is faster. Returns how many were made.
pub fn peak(flops: u64) -> u64 {
    arch().dispatch(Peak { flops })
}

struct Peak {
    flops: u64,
}

impl WithSimd for Peak {
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> u64 {
        const CHAINS: usize = 12; // of 4 cycles, for two units
        let (x, y) = (simd.splat_f32s(black_box(0.5)), simd.splat_f32s(black_box(0.25)));
        let mut acc = [simd.splat_f32s(1.0); CHAINS];
        let round = (CHAINS * 2 * S::F32_LANES) as u64;
        let rounds = self.flops.div_ceil(round);
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = simd.mul_add_f32s(*acc, x, y);
            }
        }
        black_box(acc);
        rounds * round
    }
}
