//! Slices of numbers in, slices of numbers out.
//!
//! Everything a layer does to memory is here: matrix products behind one seam ([`Product`]: OpenBLAS or tiles), the fused passes
//! around them, counter-based random numbers and the arena. Nothing here knows a layer or a file.
//!
//! Kernels are written once, generic over [`Real`], as loops that the compiler vectorises; `simd` compiles each of them for
//! AVX-512, AVX2 + FMA and the portable baseline and picks one at run time. f64 runs the same source with reference
//! transcendentals and is what gradient checks use.
//!
//! A shard of `b` samples is laid out `[outer, b, cols]`: tokens (or hidden units) outermost, then the sample, then the
//! channel. Token mixing is then one product `W · [n, b·d]` and channel mixing one product over `n·b` rows, neither with a
//! transpose.

#![allow(clippy::inline_always, reason = "a kernel's body must be compiled inside the function that enables the instructions")]
#![allow(clippy::needless_range_loop, reason = "loops over lanes are written so that they vectorise")]

mod activation;
mod arena;
mod buffer;
mod concrete;
mod gelu;
mod gemm;
mod lanes;
mod mask;
mod norm;
mod optim;
mod philox;
mod real;
mod reduce;
mod residual;
mod simd;
mod startup;
#[cfg(test)]
mod testing;
mod transpose;

pub use activation::{Activation, Bias, bias_activation_dropout, dropout_rows};
pub use arena::Arena;
pub use buffer::Buffer;
pub use gemm::{
    Gemm, Mat, Pairs, Product, Store, describe, is_thread_safe, pair_rows, peak, reserve_openblas, same_bits, takes_pairs,
};
pub use mask::{Keyed, Mask};
pub use norm::{layer_norm, layer_norm_backward, layer_norm_infer, layer_norm_output};
pub use optim::{AdamStep, adam, adamw, clip_scale, scale, sum_of_squares};
pub use philox::{Key, Stream};
pub use real::{Real, bytes_of, bytes_of_mut};
pub use reduce::{add_assign, add_bias, add_column_sums, add_row_sums, hadamard};
pub use residual::{Rows, add_branch, branch_gradient};
#[cfg(debug_assertions)]
#[doc(hidden)]
pub use simd::each_arch;
pub use startup::stdout_was_closed;
pub use transpose::transpose;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
