//! Layers with hand-written backward, losses, optimisers, schedules and the training engine.
//!
//! A layer is a description: a struct of [`Param`] handles into one flat buffer, and sizes. Its numbers live in a
//! [`ParamTable`]'s buffers, so that init, optimiser, clipping, checkpoints and parity tests walk one list of names and know no
//! layer. `forward(&self, cx, x)` returns the output and a cache; `backward(&self, cx, grads, cache, dy)` takes the cache by
//! value, adds to `grads` and returns `dx`. The compiler then refuses a second backward, another layer's cache, and an arena
//! that is reset while a cache lives:
//!
//! ```compile_fail,E0382
//! # use nids_nn::{Cx, Linear, Tensor};
//! fn backward_twice(layer: &Linear, cx: &Cx<'_, f32>, grads: &mut [f32], x: Tensor<'_, f32>, dy: Tensor<'_, f32>, dz: Tensor<'_, f32>) {
//!     let (_, cache) = layer.forward(cx, x);
//!     layer.backward(cx, grads, cache, dy);
//!     layer.backward(cx, grads, cache, dz);
//! }
//! ```
//! ```compile_fail,E0308
//! # use nids_nn::{Cx, LayerNorm, Linear, Tensor};
//! fn foreign_cache(linear: &Linear, norm: &LayerNorm, cx: &Cx<'_, f32>, grads: &mut [f32], x: Tensor<'_, f32>, dy: Tensor<'_, f32>) {
//!     let (_, cache) = linear.forward(cx, x);
//!     norm.backward(cx, grads, cache, dy);
//! }
//! ```
//!
//! Letters: B batch, b samples of a shard, N tokens, D embedding width, H hidden width, F features, K visible tokens, C
//! classes. Activations are `[N, b, D]`: see [`nids_kernels`].
#![forbid(unsafe_code)]
#![allow(
    clippy::needless_pass_by_value,
    reason = "tensors and caches are moved in, so that they are used once and may be overwritten"
)]
#![allow(clippy::missing_panics_doc, reason = "every layer asserts the shapes that its first line states")]

mod activation;
mod context;
mod dropout;
mod ema;
mod embedding;
pub mod engine;
pub mod gradcheck;
mod layer_norm;
mod linear;
pub mod loss;
mod members;
mod mixing;
pub mod optim;
mod params;
pub mod peers;
mod pool;
mod prepared;
mod residual;
pub mod schedule;
pub mod tensor_file;
pub mod weights;

pub use activation::{ActivationCache, ActivationLayer};
pub use context::{Cx, GivenMasks, MAX_SHARD, Mode, Samples, Tensor};
pub use dropout::Dropout;
pub use ema::Ema;
pub use embedding::{FeatureEmbedding, FeatureEmbeddingCache, RegisterTokens, patchify};
pub use layer_norm::{LayerNorm, LayerNormCache};
pub use linear::{Linear, LinearCache};
pub use members::{MemberScales, MemberScalesCache};
pub use mixing::{Axis, Mixing, MixingCache, MixingConfig, Visible};
pub use nids_kernels::{Activation, Gemm, Real};
pub use params::{Init, Param, ParamSpec, ParamTable, Scope};
pub use pool::{mean_tokens, mean_tokens_backward};
pub use prepared::Prepared;
pub use residual::{PreNormResidual, PreNormResidualCache};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
