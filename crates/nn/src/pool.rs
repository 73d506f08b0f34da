//! The mean over tokens.

use nids_kernels::{Real, add_assign, scale};

use crate::{Cx, Tensor};

/// y = mean over tokens of x.   x: [N, b, D]   y: [1, b, D]
pub fn mean_tokens<'a, R: Real>(cx: &Cx<'a, R>, x: Tensor<'a, R>) -> Tensor<'a, R> {
    let [n, b, d] = x.shape;
    let y = cx.zeros([1, b, d]);
    x.data.chunks_exact(b * d).for_each(|token| add_assign(y.data, token));
    scale(R::from_f64(1.0 / n as f64), y.data);
    cx.recycle(x.data);
    y
}

/// dx = dy / N for every token.   dy: [1, b, D]   dx: [N, b, D]
pub fn mean_tokens_backward<'a, R: Real>(cx: &Cx<'a, R>, n_tokens: usize, dy: Tensor<'a, R>) -> Tensor<'a, R> {
    let [_, b, d] = dy.shape;
    scale(R::from_f64(1.0 / n_tokens as f64), dy.data);
    let dx = cx.tensor([n_tokens, b, d]);
    dx.data.chunks_exact_mut(b * d).for_each(|token| token.copy_from_slice(dy.data));
    cx.recycle(dy.data);
    dx
}
