//! The number type of a network: f32 to train, f64 to check gradients.

use std::fmt::{Debug, Display};
use std::iter::Sum;

use num_traits::{Float, NumAssign};

use crate::gemm::Blas;

/// f32 or f64, with what a kernel needs beyond arithmetic.
pub trait Real: Float + NumAssign + Blas + Sum + Default + Debug + Display + Send + Sync + 'static {
    /// Nearest value.
    fn from_f64(x: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// Distribution function and density of the standard normal at `self`: GELU(x) = x Φ(x), GELU'(x) = Φ(x) + x φ(x).
    fn normal_cdf_pdf(self) -> (Self, Self);
    /// tanh x and its derivative 1 - tanh² x.
    fn tanh_and_derivative(self) -> (Self, Self);
}

impl Real for f64 {
    fn from_f64(x: f64) -> Self {
        x
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn normal_cdf_pdf(self) -> (Self, Self) {
        let cdf = 0.5 * libm::erfc(-self * std::f64::consts::FRAC_1_SQRT_2);
        let pdf = (-0.5 * self * self).exp() * INV_SQRT_TAU;
        (cdf, pdf)
    }
    fn tanh_and_derivative(self) -> (Self, Self) {
        let y = self.tanh();
        (y, 1.0 - y * y)
    }
}

impl Real for f32 {
    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    /// Abramowitz & Stegun 7.1.26: erfc(z) = (a1 t + ... + a5 t⁵) exp(-z²), t = 1 / (1 + p z), z >= 0, within 1.5e-7 (2.5e-7 here, with rounding). The
    /// exponential serves the density too.
    #[inline(always)]
    fn normal_cdf_pdf(self) -> (Self, Self) {
        let z = self.abs() * std::f32::consts::FRAC_1_SQRT_2;
        let t = 1.0 / z.mul_add(0.327_591_1, 1.0);
        let poly =
            t.mul_add(1.061_405_4, -1.453_152_1).mul_add(t, 1.421_413_8).mul_add(t, -0.284_496_72).mul_add(t, 0.254_829_6) * t;
        let exp = exp_nonpositive(-z * z);
        let tail = 0.5 * poly * exp;
        let cdf = if self < 0.0 { tail } else { 1.0 - tail };
        (cdf, exp * INV_SQRT_TAU as f32)
    }
    /// (1 - e) / (1 + e), e = exp(-2 |x|), with the sign of x; near 0, where 1 - e loses digits, the Taylor polynomial of degree 9.
    /// Within 5e-7 relatively; unlike the C library's, it vectorises.
    #[inline(always)]
    fn tanh_and_derivative(self) -> (Self, Self) {
        let x = self.abs();
        let exp = exp_nonpositive(-2.0 * x);
        let square = x * x;
        let poly = square
            .mul_add(62.0 / 2835.0, -17.0 / 315.0)
            .mul_add(square, 2.0 / 15.0)
            .mul_add(square, -1.0 / 3.0)
            .mul_add(square, 1.0);
        let y = (if x < 0.25 { x * poly } else { (1.0 - exp) / (1.0 + exp) }).copysign(self);
        (y, 1.0 - y * y)
    }
}

/// 1 / sqrt(2 π)
const INV_SQRT_TAU: f64 = 0.398_942_280_401_432_7;

/// exp(x) for x <= 0, within 2 ulp; below -80 it is exp(-80), about 2e-35, so that what is made of it stays clear of slow
/// subnormal numbers.
///
/// x = k ln 2 + r with |r| <= ln 2 / 2, exp(r) by its Taylor polynomial of degree 6, 2^k through the exponent bits.
#[inline(always)]
fn exp_nonpositive(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer that sits in the low mantissa bits
    // ln 2 in two parts, so that k ln 2 loses nothing
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let x = if x < -80.0 { -80.0 } else { x }; // NaN stays NaN
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let k = shifted - ROUND;
    let r = k.mul_add(-LN2_LO, k.mul_add(-LN2_HI, x));
    let poly = r
        .mul_add(1.0 / 720.0, 1.0 / 120.0)
        .mul_add(r, 1.0 / 24.0)
        .mul_add(r, 1.0 / 6.0)
        .mul_add(r, 0.5)
        .mul_add(r, 1.0)
        .mul_add(r, 1.0);
    let exponent = shifted.to_bits().wrapping_add(127).wrapping_sub(ROUND.to_bits()) << 23;
    poly * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_normal_matches_f64() {
        for i in -400_000..=400_000 {
            let x = i as f32 * 1e-4;
            let (cdf, pdf) = x.normal_cdf_pdf();
            let (cdf64, pdf64) = f64::from(x).normal_cdf_pdf();
            assert!((f64::from(cdf) - cdf64).abs() < 2.5e-7, "cdf({x}) = {cdf}, not {cdf64}");
            assert!((f64::from(pdf) - pdf64).abs() < 1e-7, "pdf({x}) = {pdf}, not {pdf64}");
        }
    }

    #[test]
    fn f32_tanh_matches_f64() {
        for i in -200_000..=200_000 {
            let x = i as f32 * 1e-4;
            let (y, dy) = x.tanh_and_derivative();
            let want = f64::from(x).tanh();
            assert!((f64::from(y) - want).abs() <= 5e-7 * want.abs(), "tanh({x}) = {y}, not {want}");
            assert!((f64::from(dy) - (1.0 - want * want)).abs() < 5e-7, "derivative at {x}");
        }
        assert!((f32::INFINITY.tanh_and_derivative().0 - 1.0).abs() < f32::EPSILON);
        assert!(f32::NAN.tanh_and_derivative().0.is_nan() && f32::NAN.normal_cdf_pdf().0.is_nan());
    }

    #[test]
    fn exp_is_within_two_ulp() {
        for i in 0..800_000 {
            let x = -(i as f32) * 1e-4;
            let want = f64::from(x).exp();
            assert!((f64::from(exp_nonpositive(x)) - want).abs() <= 2.4e-7 * want, "exp({x})");
        }
    }
}
