//! GELU of f32: the normal distribution by polynomials, a table of them in registers.
//!
//! |x| falls into one of 16 segments. With AVX-512 one permutation of a register looks up a coefficient for 16 numbers at once; with
//! AVX2 it takes four and two blends. An exponential, a division and two polynomials, the usual way, take longer. All instruction
//! sets look up the same coefficients and do the same with them, to the same bits.

#[cfg(target_arch = "x86_64")]
use std::any::TypeId;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512i, _mm256_blendv_ps, _mm256_castsi256_ps, _mm256_or_si256, _mm256_permutevar8x32_ps,
    _mm256_set1_epi32, _mm256_slli_epi32, _mm256_testz_si256, _mm512_permutexvar_ps,
};
use std::array;
use std::mem::transmute_copy;
use std::sync::LazyLock;

#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3_512b, V4};
use pulp::{NullaryFnOnce, Simd, WithSimd};

use crate::activation::Bias;
use crate::lanes::Place;
use crate::mask::Mask;

const SEGMENTS: usize = 16;
const DEGREE: usize = 5;
/// Where |x| is cut off: Φ is within 1.1e-8 of 1 and φ within 6.2e-8 of 0 from there on.
const END: f64 = 5.6;
/// Segments have their middles at 0, WIDTH, ..., the last one ending at END.
const WIDTH: f64 = END / (SEGMENTS as f64 - 0.5);

/// Coefficients of Φ(x) - ½ around the middle of each segment, those of a power side by side.
static TABLE: LazyLock<[[f32; SEGMENTS]; DEGREE + 1]> = LazyLock::new(|| {
    let mut table = [[0.0; SEGMENTS]; DEGREE + 1];
    for segment in 0..SEGMENTS {
        let polynomial = interpolate(segment as f64 * WIDTH, |x| 0.5 * libm::erf(x * std::f64::consts::FRAC_1_SQRT_2));
        for (row, coefficient) in table.iter_mut().zip(polynomial) {
            row[segment] = coefficient as f32;
        }
    }
    table
});

/// The polynomial in x - middle that agrees with `f` at the Chebyshev nodes of the segment.
fn interpolate(middle: f64, f: impl Fn(f64) -> f64) -> [f64; DEGREE + 1] {
    const N: usize = DEGREE + 1;
    let nodes: [f64; N] = array::from_fn(|k| 0.5 * WIDTH * (std::f64::consts::PI * (k as f64 + 0.5) / N as f64).cos());
    // Newton's divided differences, then expanded by Horner's scheme
    let mut differences = nodes.map(|node| f(middle + node));
    for order in 1..N {
        for k in (order..N).rev() {
            differences[k] = (differences[k] - differences[k - 1]) / (nodes[k] - nodes[k - order]);
        }
    }
    let mut polynomial = [0.0; N];
    for k in (0..N).rev() {
        for power in (1..N).rev() {
            polynomial[power] = polynomial[power - 1] - nodes[k] * polynomial[power];
        }
        polynomial[0] = differences[k] - nodes[k] * polynomial[0];
    }
    polynomial
}

/// x Φ(x) and Φ(x) + x φ(x).
#[inline(always)]
fn eval<S: Simd>(simd: S, table: &[S::f32s; DEGREE + 1], x: S::f32s) -> [S::f32s; 2] {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer that sits in the low mantissa bits
    let size = at_most(simd, (END - 1e-3 * WIDTH) as f32, simd.abs_f32s(x));
    let shifted = simd.mul_add_f32s(size, simd.splat_f32s((1.0 / WIDTH) as f32), simd.splat_f32s(ROUND));
    let segment = simd.sub_f32s(shifted, simd.splat_f32s(ROUND));
    let from_middle = simd.mul_add_f32s(segment, simd.splat_f32s(-WIDTH as f32), size);
    let [value, slope] = if is_low(simd, shifted) {
        polynomial::<S, true>(simd, table, shifted, from_middle)
    } else {
        polynomial::<S, false>(simd, table, shifted, from_middle)
    };
    let signs = simd.splat_f32s(-0.0);
    let sign = simd.and_f32s(x, signs);
    let cdf = simd.add_f32s(simd.splat_f32s(0.5), simd.or_f32s(value, sign));
    [simd.mul_f32s(x, cdf), simd.mul_add_f32s(simd.or_f32s(size, sign), slope, cdf)]
}

/// The polynomials of the segments `place`, and their derivatives. `LOW`: all segments are of the first half.
#[inline(always)]
fn polynomial<S: Simd, const LOW: bool>(
    simd: S,
    table: &[S::f32s; DEGREE + 1],
    place: S::f32s,
    from_middle: S::f32s,
) -> [S::f32s; 2] {
    let mut value = look_up::<S, LOW>(table[DEGREE], place);
    let mut slope = value;
    for power in (1..DEGREE).rev() {
        value = simd.mul_add_f32s(value, from_middle, look_up::<S, LOW>(table[power], place));
        slope = simd.mul_add_f32s(slope, from_middle, value);
    }
    [simd.mul_add_f32s(value, from_middle, look_up::<S, LOW>(table[0], place)), slope]
}

/// The smaller of two; NaN where `x` is NaN.
#[inline(always)]
fn at_most<S: Simd>(simd: S, limit: f32, x: S::f32s) -> S::f32s {
    let limit = simd.splat_f32s(limit);
    #[cfg(target_arch = "x86_64")]
    if [TypeId::of::<V4>(), TypeId::of::<V3_512b>()].contains(&TypeId::of::<S>()) {
        return simd.min_f32s(limit, x); // the instruction gives the second one where one is NaN
    }
    simd.select_f32s(simd.less_than_f32s(limit, x), limit, x)
}

/// Whether all places are in the first half of the table and this saves time. It does with AVX2,
/// whose registers hold half of the table.
#[inline(always)]
fn is_low<S: Simd>(_: S, place: S::f32s) -> bool {
    #[cfg(target_arch = "x86_64")]
    if TypeId::of::<S>() == TypeId::of::<V3_512b>() {
        // SAFETY: AVX2 is there, as S is V3_512b, whose vectors are two of 32 bytes, of which every pattern is a value.
        return unsafe {
            let [first, second] = transmute_copy::<_, [__m256i; 2]>(&place);
            // the bit of the second half of 16
            _mm256_testz_si256(_mm256_or_si256(first, second), _mm256_set1_epi32(8)) == 1
        };
    }
    let _ = place;
    false
}

/// The coefficients that the low four bits of `place` name; the low three, if `LOW`.
#[inline(always)]
fn look_up<S: Simd, const LOW: bool>(coefficients: S::f32s, place: S::f32s) -> S::f32s {
    const { assert!(S::F32_LANES == SEGMENTS) };
    #[cfg(target_arch = "x86_64")]
    if TypeId::of::<S>() == TypeId::of::<V4>() {
        // SAFETY: AVX-512 is there, as S is V4; all are vectors of 64 bytes, of which every pattern is a value.
        return unsafe {
            let (place, coefficients) = (transmute_copy::<_, __m512i>(&place), transmute_copy::<_, __m512>(&coefficients));
            transmute_copy(&_mm512_permutexvar_ps(place, coefficients))
        };
    }
    #[cfg(target_arch = "x86_64")]
    if TypeId::of::<S>() == TypeId::of::<V3_512b>() {
        // SAFETY: AVX2 is there, as S is V3_512b; all are two vectors of 32 bytes, of which every pattern is a value.
        return unsafe {
            let coefficients = transmute_copy::<_, [__m256; 2]>(&coefficients);
            let [first, second] = transmute_copy::<_, [__m256i; 2]>(&place);
            transmute_copy(&[look_up_8::<LOW>(coefficients, first), look_up_8::<LOW>(coefficients, second)])
        };
    }
    // SAFETY: all are 64 bytes, of which every pattern is a value.
    unsafe {
        let (place, coefficients) =
            (transmute_copy::<_, [u32; SEGMENTS]>(&place), transmute_copy::<_, [f32; SEGMENTS]>(&coefficients));
        transmute_copy(&place.map(|place| coefficients[place as usize % SEGMENTS]))
    }
}

/// # Safety
/// There is AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn look_up_8<const LOW: bool>([low, high]: [__m256; 2], place: __m256i) -> __m256 {
    // SAFETY: as the caller vouches.
    unsafe {
        // a permutation heeds three bits, a blend the sign: the fourth bit of the place
        let found = _mm256_permutevar8x32_ps(low, place);
        if LOW {
            return found;
        }
        let is_high = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(place));
        _mm256_blendv_ps(found, _mm256_permutevar8x32_ps(high, place), is_high)
    }
}

/// Operands of one vector of a run.
#[derive(Clone, Copy)]
struct Run<'r, S: Simd> {
    simd: S,
    table: [S::f32s; DEGREE + 1],
    /// One bias for each lane, or one for all.
    bias: Result<&'r [f32], f32>,
    multipliers: Option<&'r [f32]>,
}

impl<S: Simd> Run<'_, S> {
    #[inline(always)]
    fn at(&self, place: Place, h: &mut [f32], derivative: Option<&mut [f32]>) {
        let Self { simd, table, bias, multipliers } = self;
        let bias = match bias {
            Ok(bias) => place.load::<S, f32>(*simd, bias),
            Err(bias) => simd.splat_f32s(*bias),
        };
        let [mut y, mut dy] = eval(*simd, table, simd.add_f32s(place.load::<S, f32>(*simd, h), bias));
        if let Some(multipliers) = multipliers {
            let m = place.load::<S, f32>(*simd, multipliers);
            (y, dy) = (simd.mul_f32s(y, m), simd.mul_f32s(dy, m));
        }
        place.store::<S, f32>(*simd, h, y);
        if let Some(derivative) = derivative {
            place.store::<S, f32>(*simd, derivative, dy);
        }
    }
}

/// [`crate::bias_activation_dropout`] of GELU, for vectors of 16 numbers.
pub(crate) struct Gelu<'p> {
    pub(crate) bias: Bias<'p, f32>,
    pub(crate) mask: Mask<'p, f32>,
    pub(crate) cols: usize,
    pub(crate) h: &'p mut [f32],
    pub(crate) derivative: Option<&'p mut [f32]>,
}

impl WithSimd for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        simd.vectorize(Vectorised { simd, pass: self });
    }
}

struct Vectorised<'p, S> {
    simd: S,
    pass: Gelu<'p>,
}

// no closure: its call is inlined too late to have the instructions
impl<S: Simd> NullaryFnOnce for Vectorised<'_, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, pass: Gelu { bias, mask, cols, h, mut derivative } } = self;
        let table: &[[f32; SEGMENTS]; DEGREE + 1] = &TABLE;
        // SAFETY: vectors of 64 bytes, of which every pattern is a value.
        let table: [S::f32s; DEGREE + 1] = unsafe { transmute_copy(table) };
        mask.for_each_run(
            h.len() / cols,
            cols,
            #[inline(always)]
            |row, col, len, multipliers| {
                let start = row * cols + col;
                let h = &mut h[start..][..len];
                let mut derivative = derivative.as_mut().map(
                    #[inline(always)]
                    |derivative| &mut derivative[start..][..len],
                );
                let bias = match bias {
                    Bias::PerRow(bias) => Err(bias[row]),
                    Bias::PerColumn(bias) => Ok(&bias[col..][..len]),
                };
                let run = Run { simd, table, bias, multipliers };
                let whole = len / 16;
                for index in 0..whole {
                    run.at(Place::new(index, 16 * index, 16, false), h, derivative.as_deref_mut());
                }
                if !len.is_multiple_of(16) {
                    run.at(Place::new(whole, 16 * whole, len % 16, true), h, derivative);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_arch;
    use crate::{Activation, bias_activation_dropout, simd};

    fn gelu(x: &[f32]) -> [Vec<f32>; 2] {
        let (mut y, mut dy) = (x.to_vec(), x.to_vec());
        bias_activation_dropout(Activation::Gelu, Bias::PerRow(&[0.0]), Mask::Off, x.len(), &mut y, Some(&mut dy));
        [y, dy]
    }

    #[test]
    fn it_is_within_rounding_of_the_definition() {
        each_arch(|| {
            let x: Vec<f32> = (-160_000..=160_000).map(|i| i as f32 * 1e-4).collect();
            check(&x);
        });
    }

    fn check(x: &[f32]) {
        let [y, dy] = gelu(x);
        let mut worst = [0.0_f64; 2];
        for ((x, y), dy) in x.iter().map(|&x| f64::from(x)).zip(y).zip(dy) {
            let cdf = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            let pdf = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
            let scale = 1.0 + x.abs();
            worst[0] = worst[0].max((f64::from(y) - x * cdf).abs() / scale);
            worst[1] = worst[1].max((f64::from(dy) - (cdf + x * pdf)).abs() / scale);
        }
        assert!(worst[0] < 1e-7 && worst[1] < 4e-7, "{worst:?}");
    }

    #[test]
    fn what_is_no_number_stays_none() {
        each_arch(|| {
            let [y, dy] = gelu(&[f32::NAN, f32::INFINITY, 1e30, -1e30]);
            assert!(y[0].is_nan() && dy[0].is_nan(), "{}: {y:?} {dy:?}", simd::name());
            assert!(
                y[1].is_infinite() && (y[2] - 1e30).abs() < 1e24 && (dy[2] - 1.0).abs() < 1e-5 && dy[3].abs() < 1e-5,
                "{y:?} {dy:?}"
            );
        });
    }
}
