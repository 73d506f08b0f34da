//! The number type of a network: f32 to train, f64 to check gradients.

use std::fmt::{Debug, Display};
use std::iter::Sum;

use num_traits::{Float, NumAssign};
use pulp::bytemuck::{self, Pod};

use crate::activation::{Bias, elementwise};
use crate::concrete::Concrete;
use crate::gelu::Gelu;
use crate::gemm::{Blas, Product, bf16};
use crate::lanes::Lanes;
use crate::mask::Mask;
use crate::simd::wide;

/// f32 or f64, with what a kernel needs beyond arithmetic.
pub trait Real: Float + NumAssign + Pod + Blas + Concrete + Lanes + Sum + Default + Debug + Display + Send + Sync {
    /// Nearest value.
    fn from_f64(x: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// [`crate::bias_activation_dropout`] of GELU.
    #[doc(hidden)]
    fn gelu(bias: Bias<'_, Self>, mask: Mask<'_, Self>, cols: usize, h: &mut [Self], derivative: Option<&mut [Self]>);
    /// tanh x and its derivative 1 - tanh² x.
    fn tanh_and_derivative(self) -> (Self, Self);
    /// A product of operands rounded to bfloat16, if this type has one; whether it was done.
    #[doc(hidden)]
    fn bf16_gemm(_: Product<'_, Self>, _c: &mut [Self], _ldc: usize, _scratch: &mut [Self]) -> bool {
        false
    }
    /// Whether there are products that take pairs of this type's numbers.
    #[doc(hidden)]
    fn takes_pairs() -> bool {
        false
    }
    #[doc(hidden)]
    fn pair_rows(_: [usize; 2], _x: &[Self], _out: &mut [Self]) {
        unreachable!("no product takes pairs of this type")
    }
}

/// Numbers as the bytes that they are in memory.
pub fn bytes_of<R: Real>(numbers: &[R]) -> &[u8] {
    bytemuck::cast_slice(numbers)
}

/// The same, to be filled in.
pub fn bytes_of_mut<R: Real>(numbers: &mut [R]) -> &mut [u8] {
    bytemuck::cast_slice_mut(numbers)
}

impl Real for f64 {
    fn from_f64(x: f64) -> Self {
        x
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn gelu(bias: Bias<'_, Self>, mask: Mask<'_, Self>, cols: usize, h: &mut [Self], derivative: Option<&mut [Self]>) {
        /// x Φ(x) and Φ(x) + x φ(x).
        #[inline(never)] // sixteen copies in every loop over lanes would be for the compiler only
        fn eval(x: f64) -> [f64; 2] {
            let cdf = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            let pdf = (-0.5 * x * x).exp() * INV_SQRT_TAU;
            [x * cdf, x.mul_add(pdf, cdf)]
        }
        elementwise(eval, bias, mask, cols, h, derivative);
    }
    #[inline(never)]
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
    fn gelu(bias: Bias<'_, Self>, mask: Mask<'_, Self>, cols: usize, h: &mut [Self], derivative: Option<&mut [Self]>) {
        wide(Gelu { bias, mask, cols, h, derivative });
    }
    fn bf16_gemm(product: Product<'_, Self>, c: &mut [Self], ldc: usize, scratch: &mut [Self]) -> bool {
        bf16::gemm(product, c, ldc, scratch);
        true
    }
    fn takes_pairs() -> bool {
        bf16::is_native()
    }
    fn pair_rows(sizes: [usize; 2], x: &[Self], out: &mut [Self]) {
        bf16::pair_rows(sizes, x, out);
    }
    /// (1 - e) / (1 + e), e = exp(-2 |x|), with the sign of x; near 0, where 1 - e loses digits, the Taylor polynomial of degree 9.
    /// Within 5e-7 relatively; unlike the C library's, it vectorises.
    #[inline(always)]
    fn tanh_and_derivative(self) -> (Self, Self) {
        let x = self.abs();
        let exp = exp2_nonpositive(x * (-2.0 * std::f32::consts::LOG2_E));
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

/// 2^x for x <= 0, within 1.5 ulp; below -115 it is 2^-115, about 2e-35, so that what is made of it stays clear of slow
/// subnormal numbers.
///
/// x = k + f with |f| <= 1/2, 2^f by the polynomial of degree 5 with the least relative error (7.5e-8), 2^k through the
/// exponent bits.
#[inline(always)]
fn exp2_nonpositive(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer that sits in the low mantissa bits
    let x = if x < -115.0 { -115.0 } else { x }; // NaN stays NaN
    let shifted = x + ROUND;
    let f = x - (shifted - ROUND);
    let poly = f
        .mul_add(1.327_647_2e-3, 9.675_541e-3)
        .mul_add(f, 5.550_713_3e-2)
        .mul_add(f, 2.402_212e-1)
        .mul_add(f, 6.931_469_7e-1)
        .mul_add(f, 1.0);
    // the shift leaves k alone: ROUND's own bits are all above
    f32::from_bits(poly.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(f32::NAN.tanh_and_derivative().0.is_nan());
    }

    #[test]
    fn exp2_is_within_two_ulp() {
        for i in 0..1_150_000 {
            let x = -(i as f32) * 1e-4;
            let want = f64::from(x).exp2();
            assert!((f64::from(exp2_nonpositive(x)) - want).abs() <= 2.4e-7 * want, "2^{x}");
        }
    }
}
