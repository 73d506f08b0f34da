//! Kernels compiled once.
//!
//! A generic function is compiled anew in every crate and test that calls it, here for three instruction sets and two number
//! types each time: minutes a build. Large kernels are plain functions of f32 and of f64 instead.

use crate::activation::{self, Activation, Bias};
use crate::gemm::tiles::Strided;
use crate::mask::{self, Mask};
use crate::norm::{Backward, Forward};
use crate::reduce::RowSums;
use crate::residual::{self, Rows};
use crate::simd::{arch, wide};
use crate::transpose::{self, Transposition};

macro_rules! concrete {
    ($($name:ident($($arg:ident: $type:ty),*) = $kernel:expr;)*) => {
        /// The large kernels of one number type.
        pub trait Concrete: Sized {
            $(#[doc(hidden)] fn $name($($arg: $type),*);)*
        }

        impl Concrete for f32 {
            // inlined elsewhere it would be compiled there
            $(#[inline(never)] fn $name($($arg: $type),*) { $kernel })*
        }

        impl Concrete for f64 {
            $(#[inline(never)] fn $name($($arg: $type),*) { $kernel })*
        }
    };
}

concrete! {
    product(product: Strided<Self>) = arch().dispatch(product);
    transposition(pass: Transposition<'_, Self>) = transpose::run(pass);
    norm_forward(pass: Forward<'_, Self>) = wide(pass);
    norm_backward(pass: Backward<'_, Self>) = wide(pass);
    row_sums(pass: RowSums<'_, Self>) = wide(pass);
    write_mask(mask: Mask<'_, Self>, cols: usize, out: &mut [Self]) = mask::write(mask, cols, out);
    activate(
        activation: Activation, bias: Bias<'_, Self>, mask: Mask<'_, Self>, cols: usize, h: &mut [Self],
        derivative: Option<&mut [Self]>
    ) = activation::run(activation, bias, mask, cols, h, derivative);
    dropout(mask: Mask<'_, Self>, cols: usize, x: &mut [Self]) = activation::dropout(mask, cols, x);
    branch(rows: Rows<'_>, bias: Bias<'_, Self>, mask: Mask<'_, Self>, scale: Self, y: &[Self], x: &mut [Self]) =
        residual::branch(rows, bias, mask, scale, y, x);
    branch_gradient(rows: Rows<'_>, mask: Mask<'_, Self>, scale: Self, dx: &[Self], dy: &mut [Self]) =
        residual::gradient(rows, mask, scale, dx, dy);
}
