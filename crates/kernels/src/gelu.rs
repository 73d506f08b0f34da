//! GELU of f32 with AVX-512: the normal distribution by polynomials whose coefficients stay in registers.
//!
//! The portable way ([`crate::Real::normal_cdf_pdf`]) is bound by its instructions: an exponential, a division and two polynomials. Here
//! |x| falls into one of 16 segments, and one permutation of a register looks up a coefficient for 16 numbers at once.

use std::arch::x86_64::{self, __m512, __m512i};
use std::array;
use std::mem::transmute;
use std::sync::LazyLock;

use pulp::x86::V4;
use pulp::{NullaryFnOnce, Simd, f32x16};

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
fn eval(simd: V4, table: &[f32x16; DEGREE + 1], x: f32x16) -> [f32x16; 2] {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer that sits in the low mantissa bits
    // in this order NaN stays NaN, as the smaller of two is the second where one is none
    let size = simd.min_f32s(simd.splat_f32s((END - 1e-3 * WIDTH) as f32), simd.abs_f32s(x));
    let shifted = simd.mul_add_f32s(size, simd.splat_f32s((1.0 / WIDTH) as f32), simd.splat_f32s(ROUND));
    let segment = simd.sub_f32s(shifted, simd.splat_f32s(ROUND));
    let from_middle = simd.mul_add_f32s(segment, simd.splat_f32s(-WIDTH as f32), size);
    let mut value = look_up(simd, table[DEGREE], shifted);
    let mut slope = value;
    for power in (1..DEGREE).rev() {
        value = simd.mul_add_f32s(value, from_middle, look_up(simd, table[power], shifted));
        slope = simd.mul_add_f32s(slope, from_middle, value);
    }
    value = simd.mul_add_f32s(value, from_middle, look_up(simd, table[0], shifted));
    let signs = simd.splat_f32s(-0.0);
    let sign = simd.and_f32s(x, signs);
    let cdf = simd.add_f32s(simd.splat_f32s(0.5), simd.or_f32s(value, sign));
    [simd.mul_f32s(x, cdf), simd.mul_add_f32s(simd.or_f32s(size, sign), slope, cdf)]
}

/// The coefficients that the low four bits of `place` name.
#[inline(always)]
fn look_up(_: V4, coefficients: f32x16, place: f32x16) -> f32x16 {
    // SAFETY: AVX-512 is there, as V4 vouches; all are vectors of 64 bytes, of which every pattern is a value.
    unsafe {
        let (place, coefficients) = (transmute::<f32x16, __m512i>(place), transmute::<f32x16, __m512>(coefficients));
        transmute(x86_64::_mm512_permutexvar_ps(place, coefficients))
    }
}

/// What one vector of a run takes.
#[derive(Clone, Copy)]
struct Run<'r> {
    simd: V4,
    table: [f32x16; DEGREE + 1],
    /// One for all, or one each.
    bias: Result<&'r [f32], f32>,
    multipliers: Option<&'r [f32]>,
}

impl Run<'_> {
    #[inline(always)]
    fn at(&self, place: Place, h: &mut [f32], derivative: Option<&mut [f32]>) {
        let Self { simd, table, bias, multipliers } = self;
        let bias = match bias {
            Ok(bias) => place.load::<V4, f32>(*simd, bias),
            Err(bias) => simd.splat_f32s(*bias),
        };
        let [mut y, mut dy] = eval(*simd, table, simd.add_f32s(place.load::<V4, f32>(*simd, h), bias));
        if let Some(multipliers) = multipliers {
            let m = place.load::<V4, f32>(*simd, multipliers);
            (y, dy) = (simd.mul_f32s(y, m), simd.mul_f32s(dy, m));
        }
        place.store::<V4, f32>(*simd, h, y);
        if let Some(derivative) = derivative {
            place.store::<V4, f32>(*simd, derivative, dy);
        }
    }
}

/// [`crate::bias_activation_dropout`] of GELU.
pub(crate) struct Gelu<'p, 'd> {
    pub(crate) simd: V4,
    pub(crate) bias: Bias<'p, f32>,
    pub(crate) mask: Mask<'p, f32>,
    pub(crate) cols: usize,
    pub(crate) h: &'p mut [f32],
    pub(crate) derivative: &'p mut Option<&'d mut [f32]>,
}

impl Gelu<'_, '_> {
    pub(crate) fn run(self) {
        self.simd.vectorize(self);
    }
}

// no closure: its call is inlined too late to have the instructions
impl NullaryFnOnce for Gelu<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, bias, mask, cols, h, derivative } = self;
        let table: &[[f32; SEGMENTS]; DEGREE + 1] = &TABLE;
        // SAFETY: vectors of 64 bytes, of which every pattern is a value.
        let table: [f32x16; DEGREE + 1] = unsafe { transmute(*table) };
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
    use crate::Activation;
    use crate::bias_activation_dropout;

    fn gelu(x: &[f32]) -> [Vec<f32>; 2] {
        let (mut y, mut dy) = (x.to_vec(), x.to_vec());
        bias_activation_dropout(Activation::Gelu, Bias::PerRow(&[0.0]), Mask::Off, x.len(), &mut y, Some(&mut dy));
        [y, dy]
    }

    #[test]
    fn it_is_within_rounding_of_the_definition() {
        let x: Vec<f32> = (-160_000..=160_000).map(|i| i as f32 * 1e-4).collect();
        let [y, dy] = gelu(&x);
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
        let [y, dy] = gelu(&[f32::NAN, f32::INFINITY, 1e30, -1e30]);
        assert!(y[0].is_nan() && dy[0].is_nan());
        assert!(
            y[1].is_infinite() && (y[2] - 1e30).abs() < 1e24 && (dy[2] - 1.0).abs() < 1e-5 && dy[3].abs() < 1e-5,
            "{y:?} {dy:?}"
        );
    }
}
