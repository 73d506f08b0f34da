//! Products of operands rounded to bfloat16, with sums in f32: twice the multiply-adds a second with AMD's AVX512-BF16.
//!
//! A bfloat16 is the upper half of an f32, rounded to nearest, ties to even. Two that follow one another along k share a 32-bit
//! number, a *pair*, the first one in its upper half, since that is the half that `vdpbf16ps` multiplies and adds first: a sum
//! is then one chain of fused multiply-adds over ascending k, as in `tiles`. Products of two bfloat16 being exact in f32,
//! rounding operands and giving them to `tiles` yields the same bits, which is what all other machines do; only what is smaller
//! than 1.2e-38 is taken for 0 by the instruction and not by them.

use super::{Mat, Product, tiles};

/// Whether a product gains: packing reads each operand once, and each of its numbers serves as many multiply-adds as the result
/// has rows or columns. Embeddings and heads, which do not, stay in f32 and with it what enters and leaves a network.
pub(super) fn pays([m, n, _]: [usize; 3]) -> bool {
    m.min(n) >= 12
}

/// Numbers of scratch that [`gemm`] needs.
pub(super) fn scratch_len<R>(product: &Product<'_, R>) -> usize {
    let Product { sizes: [m, n, k], a, b, .. } = product;
    let k_len = if is_native() { k.div_ceil(2) } else { *k };
    let a_rows = if a.pairs.is_some() { 0 } else { *m };
    let b_columns = match b.pairs {
        Some(_) => 0,
        None if b.transposed => 2 * n,
        None => *n,
    };
    (a_rows + b_columns) * k_len
}

/// [`Product::run`] with rounded operands, for products that are not exchanged.
pub(crate) fn gemm(product: Product<'_, f32>, c: &mut [f32], ldc: usize, scratch: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(native) = avx512::detect() {
        return avx512::gemm(native, product, c, ldc, scratch);
    }
    let Product { sizes: [m, n, k], a, b, .. } = product;
    let (rounded_a, scratch) = scratch.split_at_mut(m * k);
    let (rounded_b, scratch) = scratch.split_at_mut(n * k);
    let rounded = Product { a: round(a, [m, k], rounded_a), b: round(b, [k, n], rounded_b), ..product };
    tiles::gemm(rounded, c, ldc, scratch);
}

/// [`super::pair_rows`]
pub(crate) fn pair_rows([rows, cols]: [usize; 2], x: &[f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(native) = avx512::detect() {
        avx512::pack(native, Mat::new(x, cols).t(), [cols, rows], out);
        return;
    }
    panic!("pairs of bfloat16 without the instruction for them: {rows} x {cols}, {} into {}", x.len(), out.len());
}

/// Whether this machine has the instruction, and gains by it.
pub(crate) fn is_native() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512::detect().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// x: [rows, cols], rounded into `out`.
fn round<'o>(x: Mat<'_, f32>, [rows, cols]: [usize; 2], out: &'o mut [f32]) -> Mat<'o, f32> {
    let cols = if x.transposed { rows } else { cols };
    if cols > 0 {
        for (row, out) in x.data.chunks(x.ld).zip(out.chunks_exact_mut(cols)) {
            out.iter_mut().zip(row).for_each(|(out, &x)| *out = nearest(x));
        }
    }
    Mat { transposed: x.transposed, ..Mat::new(out, cols) }
}

/// The nearest bfloat16.
pub(super) fn nearest(x: f32) -> f32 {
    if x.is_nan() {
        return x; // whose upper half is NaN, too, once multiplied
    }
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::any::TypeId;
    use std::arch::is_x86_feature_detected;
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_mask_storeu_epi32,
        _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_storeu_epi32,
    };
    use std::mem::{transmute, transmute_copy};
    use std::sync::LazyLock;

    use pulp::Simd;
    use pulp::x86::V4;
    use raw_cpuid::{CpuId, VendorInfo};

    use super::super::tiles::{Strided, Tile, rows};
    use super::super::{Pairs, Store};
    use super::{Mat, Product};
    use crate::simd::arch;
    use crate::transpose::transpose;

    const LANES: usize = 16;

    /// The proof that AVX-512 and its bfloat16 extension are there.
    #[derive(Clone, Copy)]
    pub(super) struct Native(V4);

    /// Where the instruction is there and pays. On Intel's CPUs (family 6, model 207) one takes as long as four of f32's fused
    /// multiply-adds, and a training step half as long again as in f32.
    pub(super) fn detect() -> Option<Native> {
        static PAYS: LazyLock<bool> = LazyLock::new(|| {
            let is_amd = |vendor: VendorInfo| vendor.as_str() == "AuthenticAMD";
            is_x86_feature_detected!("avx512bf16") && CpuId::new().get_vendor_info().is_some_and(is_amd)
        });
        let pulp::x86::Arch::V4(simd) = arch() else { return None };
        PAYS.then_some(Native(simd))
    }

    pub(super) fn gemm(native: Native, product: Product<'_, f32>, c: &mut [f32], ldc: usize, scratch: &mut [f32]) {
        let Product { sizes: [m, n, k], a, b, store } = product;
        let pairs = k.div_ceil(2);
        let (packed_a, scratch) = scratch.split_at_mut(if a.pairs.is_some() { 0 } else { m * pairs });
        let (packed_b, scratch) = scratch.split_at_mut(if b.pairs.is_some() { 0 } else { n * pairs });
        let (a, mut b) = (pack(native, a, [m, k], packed_a), pack(native, b.t(), [n, k], packed_b).t());
        if b.transposed {
            let rows = &mut scratch[..n * pairs];
            transpose(Store::Set, [n, pairs], b.data, b.ld, rows, n);
            b = Mat::new(rows, n);
        }
        Strided::new(Product { sizes: [m, n, pairs], a, b, store }, c, ldc).by::<V4, DotProducts>(native.0);
    }

    /// x: [rows, k] as pairs along k: [rows, ⌈k / 2⌉]. Where k is odd, 0 is what the last one is paired with. `out` is written
    /// where x does not come with its pairs, and then lies as x does.
    pub(super) fn pack<'o>(_: Native, x: Mat<'o, f32>, [rows, k]: [usize; 2], out: &'o mut [f32]) -> Mat<'o, f32> {
        let pairs = k.div_ceil(2);
        if let Some(Pairs { row_pairs, column_pairs }) = x.pairs {
            let packed = if x.transposed { row_pairs } else { column_pairs };
            assert_eq!(packed.len(), pairs * rows, "pairs of all numbers");
            return Mat::new(packed, rows).t();
        }
        if k == 0 || rows == 0 {
            return Mat { transposed: x.transposed, ..Mat::new(out, if x.transposed { rows } else { pairs }) };
        }
        // SAFETY: there is AVX512-BF16, as `Native` proves.
        unsafe {
            if x.transposed {
                pair_rows(x.data, x.ld, [k, rows], out);
                Mat::new(out, rows).t()
            } else {
                // what lies without gaps is one row
                let [rows, k] = if x.ld == k && k % 2 == 0 { [1, rows * k] } else { [rows, k] };
                for row in 0..rows {
                    narrow(&x.data[row * x.ld..][..k], &mut out[row * k.div_ceil(2)..][..k.div_ceil(2)]);
                }
                Mat::new(out, pairs)
            }
        }
    }

    /// out[l][i] = the pair of x[2 l][i] and x[2 l + 1][i], or 0 beyond the last row.   x: [k, cols], rows `ld` apart
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn pair_rows(x: &[f32], ld: usize, [k, cols]: [usize; 2], out: &mut [f32]) {
        /// Upper halves from the first operand, whose words are 16 to 31, lower ones from the second.
        const TURNS: [u16; 32] = {
            let mut turns = [0; 32];
            let mut i = 0;
            while i < 32 {
                turns[i] = (i / 2 + 16 * (i % 2)) as u16;
                i += 1;
            }
            turns
        };
        // SAFETY: as many bits on both sides.
        let turns: __m512i = unsafe { transmute(TURNS) };
        let pair_up = |first, second| _mm512_permutexvar_epi16(turns, bits(_mm512_cvtne2ps_pbh(first, second)));
        for (pair, out) in out[..k.div_ceil(2) * cols].chunks_exact_mut(cols).enumerate() {
            let first = &x[2 * pair * ld..][..cols];
            let is_pair = 2 * pair + 1 < k;
            let second = if is_pair { &x[(2 * pair + 1) * ld..][..cols] } else { first };
            let second_mask = if is_pair { u16::MAX } else { 0 };
            let whole = cols / LANES * LANES;
            // SAFETY: each of the slices has `cols` numbers; the mask leaves those beyond the last whole vector.
            unsafe {
                for i in (0..whole).step_by(LANES) {
                    let second = _mm512_maskz_loadu_ps(second_mask, second.as_ptr().add(i));
                    let pairs = pair_up(_mm512_loadu_ps(first.as_ptr().add(i)), second);
                    _mm512_storeu_epi32(out.as_mut_ptr().add(i).cast(), pairs);
                }
                let mask = first_lanes(cols - whole);
                if mask > 0 {
                    let second = _mm512_maskz_loadu_ps(mask & second_mask, second.as_ptr().add(whole));
                    let pairs = pair_up(_mm512_maskz_loadu_ps(mask, first.as_ptr().add(whole)), second);
                    _mm512_mask_storeu_epi32(out.as_mut_ptr().add(whole).cast(), mask, pairs);
                }
            }
        }
    }

    /// out[i] = the pair of x[2 i] and x[2 i + 1], or 0 beyond the end.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn narrow(x: &[f32], out: &mut [f32]) {
        let pair_up = |low, high| _mm512_rol_epi32::<16>(bits(_mm512_cvtne2ps_pbh(high, low)));
        let whole = x.len() / (2 * LANES);
        let ((x, low), (whole, out)) = (x.split_at(2 * LANES * whole), out.split_at_mut(LANES * whole));
        for (x, out) in x.chunks_exact(2 * LANES).zip(whole.chunks_exact_mut(LANES)) {
            // SAFETY: two vectors of x, one of out.
            unsafe {
                let pairs = pair_up(_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(LANES)));
                _mm512_storeu_epi32(out.as_mut_ptr().cast(), pairs);
            }
        }
        if low.is_empty() {
            return;
        }
        assert_eq!(low.len().div_ceil(2), out.len());
        let high = &low[low.len().min(LANES)..];
        // SAFETY: the masks leave what is inside the slices.
        unsafe {
            let low = _mm512_maskz_loadu_ps(first_lanes(low.len()), low.as_ptr());
            let high = _mm512_maskz_loadu_ps(first_lanes(high.len()), high.as_ptr());
            _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), first_lanes(out.len()), pair_up(low, high));
        }
    }

    fn first_lanes(len: usize) -> u16 {
        ((1_u32 << len.min(LANES)) - 1) as u16
    }

    fn bits(x: __m512bh) -> __m512i {
        // SAFETY: as many bits on both sides.
        unsafe { transmute(x) }
    }

    /// By dot products of pairs.
    struct DotProducts;

    impl Tile<f32> for DotProducts {
        fn block<S: Simd, const M: usize, const V: usize>(product: Strided<f32>, simd: S) {
            assert_eq!(TypeId::of::<S>(), TypeId::of::<V4>());
            if M > rows::<V4, f32>(V) {
                return; // never asked for, and not to be compiled
            }
            // SAFETY: S is V4.
            let simd: V4 = unsafe { transmute_copy(&simd) };
            // SAFETY: there is AVX512-BF16: `gemm` alone asks for this tile, with a `Native`.
            unsafe {
                if product.is_whole::<V4, V>() { tile::<M, V, false>(product, simd) } else { tile::<M, V, true>(product, simd) }
            }
        }

        #[inline(always)]
        fn add<S: Simd>(_: S, a: f32, b: S::f32s, sum: S::f32s) -> S::f32s {
            // SAFETY: S is V4, whose vectors are the same bits, and called from `tile`, where AVX512-BF16 is there.
            unsafe {
                let a: __m512bh = transmute(_mm512_set1_epi32(a.to_bits().cast_signed()));
                transmute_copy(&_mm512_dpbf16_ps(transmute_copy(&sum), a, transmute_copy(&b)))
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
    fn tile<const M: usize, const V: usize, const PARTIAL: bool>(product: Strided<f32>, simd: V4) {
        product.tile::<V4, DotProducts, M, V, PARTIAL>(simd);
    }
}
