//! Every layer and loss against central differences: a row each.

use std::collections::BTreeSet;
use std::path::Path;

use nids_nn::gradcheck::{self, Differentiable, Errors, uniform};
use nids_nn::loss::{BceWeights, bce_with_logits, cross_entropy, gaussian_kl, mse, weighted_cross_entropy};
use nids_nn::{
    Activation, ActivationLayer, Axis, Cx, Dropout, FeatureEmbedding, Init, LayerNorm, Linear, MemberScales, Mixing,
    MixingConfig, ParamTable, PreNormResidual, Real, RegisterTokens, Scope, Tensor, Visible, mean_tokens, mean_tokens_backward,
    patchify,
};

/// What keys the masks of a shard's samples.
const SAMPLES: [u32; 5] = [3, 1, 4, 15, 9];

fn rows() -> Vec<Row> {
    use Activation::{Gelu, Tanh};
    use Axis::{Channel, Token};
    // three tokens of seven for each of four samples, by token and then by sample
    let three_of_seven = [[0, 1, 3, 0], [2, 2, 5, 1], [6, 3, 6, 5]].as_flattened();
    vec![
        row("linear.rs", "with bias", [4, 3, 5], |s| Linear::new(s, 5, 7)),
        row("linear.rs", "without bias", [4, 3, 5], |s| Linear::without_bias(s, 5, 7)),
        row("linear.rs", "wide", [2, 3, 70], |s| Linear::new(s, 70, 17)),
        row("layer_norm.rs", "narrow", [4, 3, 5], |s| LayerNorm::new(s, 5)),
        row("layer_norm.rs", "wide", [2, 3, 83], |s| LayerNorm::new(s, 83)),
        row("activation.rs", "gelu", [4, 3, 5], |_| ActivationLayer(Gelu)),
        row("activation.rs", "tanh", [4, 3, 5], |_| ActivationLayer(Tanh)),
        row("activation.rs", "gelu, wide", [2, 3, 70], |_| ActivationLayer(Gelu)),
        row("dropout.rs", "narrow", [4, 3, 5], |s| Dropout::new(s, 0.4)),
        row("dropout.rs", "wide", [2, 3, 70], |s| Dropout::new(s, 0.4)),
        row("members.rs", "three members", [4, 2, 5], |s| MemberScales::new(s, [3, 4, 5], Init::AroundOne { std: 0.5 })),
        row("members.rs", "one member", [2, 3, 5], |s| MemberScales::new(s, [1, 2, 5], Init::Signs)),
        row("mixing.rs", "tokens", [4, 3, 5], mixing(Token, [4, 6], Gelu, 0.0)),
        row("mixing.rs", "tokens, dropout", [4, 3, 5], mixing(Token, [4, 6], Tanh, 0.3)),
        row("mixing.rs", "tokens, wide", [18, 2, 20], mixing(Token, [18, 21], Gelu, 0.3)),
        row("mixing.rs", "channels", [4, 3, 5], mixing(Channel, [5, 6], Gelu, 0.0)),
        row("mixing.rs", "channels, dropout", [4, 3, 5], mixing(Channel, [5, 6], Tanh, 0.3)),
        row("mixing.rs", "channels, wide", [3, 2, 67], mixing(Channel, [67, 3], Gelu, 0.3)),
        row("mixing/visible.rs", "visible tokens", [3, 4, 5], visible(Token, [7, 5, 6], 0.0, three_of_seven)),
        row("mixing/visible.rs", "visible tokens, some dropped", [3, 4, 5], visible(Token, [7, 5, 6], 0.4, three_of_seven)),
        row("mixing/visible.rs", "visible channels", [3, 4, 5], visible(Channel, [5, 5, 6], 0.4, three_of_seven)),
        row("residual.rs", "tokens", [4, 3, 5], residual(Token, [4, 5, 6], 0.0)),
        row("residual.rs", "tokens, some dropped", [4, 5, 6], residual(Token, [4, 6, 7], 0.4)),
        row("residual.rs", "tokens, all dropped", [4, 3, 5], residual(Token, [4, 5, 6], 0.999)),
        row("residual.rs", "tokens, wide", [18, 5, 20], residual(Token, [18, 20, 3], 0.4)),
        row("residual.rs", "channels", [4, 3, 5], residual(Channel, [5, 5, 6], 0.0)),
        row("residual.rs", "channels, some dropped", [4, 5, 6], residual(Channel, [6, 6, 7], 0.4)),
        row("residual.rs", "channels, wide", [2, 3, 67], residual(Channel, [67, 67, 3], 0.4)),
        row("embedding.rs", "features and registers", [1, 3, 7], |s| Embedded {
            embedding: FeatureEmbedding::new(&mut s.at("embed"), [("a", 2), ("b", 1), ("c", 4)], 5),
            registers: RegisterTokens::new(&mut s.at("registers"), 2, 5),
        }),
        row("embedding.rs", "patches", [4, 3, 6], |s| Patched(Linear::new(s, 6, 5))),
        row("pool.rs", "mean over tokens", [4, 3, 5], |_| MeanTokens),
        row("loss.rs", "bce", [1, 1, 5], |_| Bce { pos_weight: 1.0, weight: None }),
        row("loss.rs", "bce, weights", [1, 1, 5], |_| Bce { pos_weight: 2.5, weight: Some([0.5, 1.0, 0.0, 2.0, 1.5]) }),
        row("loss.rs", "mse", [1, 3, 5], |_| Mse),
        row("loss.rs", "cross entropy", [1, 1, 5], |_| CrossEntropy { class: 3 }),
        row("loss.rs", "weighted cross entropy", [1, 3, 5], |_| WeightedCrossEntropy),
        row("loss.rs", "gaussian kl", [2, 3, 5], |_| GaussianKl),
    ]
}

/// Files that hold no layer and no loss.
const NO_LAYERS: [&str; 12] = [
    "context.rs",
    "ema.rs",
    "engine.rs",
    "gradcheck.rs",
    "lib.rs",
    "optim.rs",
    "params.rs",
    "peers.rs",
    "prepared.rs",
    "schedule.rs",
    "tensor_file.rs",
    "weights.rs",
];

#[test]
fn gradients_match_central_differences() {
    let mut wrong = Vec::new();
    for Row { file, name, errors } in rows() {
        let Errors { params, x, f32 } = errors();
        let line = format!("{file:17} {name:28} parameters {params:.1e}  x {x:.1e}  f32 {f32:.1e}");
        // f64: the difference quotient itself is good to about 1e-9; f32: some dozens of roundings of 6e-8
        if params > 1e-6 || x > 1e-6 || f32 > 1e-5 {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_file_of_layers_has_a_row() {
    let checked: BTreeSet<&str> = rows().iter().map(|row| row.file).chain(NO_LAYERS).collect();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let file = path.strip_prefix(&src).unwrap().to_str().unwrap();
            assert!(checked.contains(file), "`{file}` has no gradient check: give it a row in `rows`");
        }
    }
}

/// A file of `src`, what of it is checked, and how.
struct Row {
    file: &'static str,
    name: &'static str,
    errors: Box<dyn Fn() -> Errors>,
}

/// A row for the layer that `build` makes, on an input `[n, b, d]`.
fn row<L: Layer + 'static>(
    file: &'static str,
    name: &'static str,
    [n, b, d]: [usize; 3],
    build: impl Fn(&mut Scope<'_>) -> L + 'static,
) -> Row {
    let errors = move || {
        let mut table = ParamTable::default();
        let layer = build(&mut table.root());
        gradcheck::check(&table, &SAMPLES[..b], &uniform(1, n * b * d), &On { layer, shape: [n, b, d] })
    };
    Row { file, name, errors: Box::new(errors) }
}

fn mixing(axis: Axis, [size, hidden]: [usize; 2], activation: Activation, dropout: f64) -> impl Fn(&mut Scope<'_>) -> Mixing {
    move |scope| Mixing::new(scope, MixingConfig { axis, size, hidden, activation, dropout })
}

fn residual(axis: Axis, [size, d, hidden]: [usize; 3], p: f64) -> impl Fn(&mut Scope<'_>) -> PreNormResidual {
    move |scope| {
        let norm = LayerNorm::new(&mut scope.at("norm"), d);
        let mixing = mixing(axis, [size, hidden], Activation::Gelu, p)(&mut scope.at("mixing"));
        PreNormResidual::new(scope, norm, mixing, p)
    }
}

fn visible(axis: Axis, sizes: [usize; 3], p: f64, tokens: &'static [u8]) -> impl Fn(&mut Scope<'_>) -> VisibleResidual {
    move |scope| VisibleResidual { residual: residual(axis, sizes, p)(scope), tokens }
}

/// A layer with a weighted sum of its output as the loss ([`weigh`]), or a loss.
trait Layer {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, grads: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>);
}

/// Σ y·dy for weights dy that differ from place to place; dy takes the place of y.
fn weigh<R: Real>(y: Tensor<'_, R>) -> (f64, Tensor<'_, R>) {
    let mut loss = 0.0;
    for (i, y) in y.data.iter_mut().enumerate() {
        let dy = (1.0 + i as f64).sin();
        loss += Real::to_f64(*y) * dy;
        *y = R::from_f64(dy);
    }
    (loss, y)
}

struct On<L> {
    layer: L,
    shape: [usize; 3],
}

impl<L: Layer> Differentiable for On<L> {
    fn pass<R: Real>(&self, cx: &Cx<'_, R>, grads: &mut [R], x: &[R]) -> (f64, Option<Vec<R>>) {
        let input = cx.tensor(self.shape);
        input.data.copy_from_slice(x);
        let (loss, dx) = self.layer.pass(cx, grads, input);
        (loss, dx.map(|dx| dx.data.to_vec()))
    }
}

/// Layers whose `forward` and `backward` need nothing more.
macro_rules! plain_layers {
    ($($layer:ty),*) => {$(
        impl Layer for $layer {
            fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, grads: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
                let (y, cache) = self.forward(cx, x);
                let (loss, dy) = weigh(y);
                (loss, Some(self.backward(cx, grads, cache, dy)))
            }
        }
    )*};
}

plain_layers!(Linear, LayerNorm, MemberScales, Mixing);

impl Layer for ActivationLayer {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, _: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
        let (y, cache) = self.forward(cx, x);
        let (loss, dy) = weigh(y);
        (loss, Some(self.backward(cx, cache, dy)))
    }
}

impl Layer for Dropout {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, _: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
        let (loss, dy) = weigh(self.apply(cx, x));
        (loss, Some(self.apply(cx, dy)))
    }
}

impl Layer for PreNormResidual {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, grads: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
        let (y, cache) = self.forward(cx, None, x);
        let (loss, dy) = weigh(y);
        (loss, Some(self.backward(cx, grads, cache, dy)))
    }
}

struct VisibleResidual {
    residual: PreNormResidual,
    tokens: &'static [u8],
}

impl Layer for VisibleResidual {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, grads: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
        let index = cx.alloc(self.tokens.len());
        index.iter_mut().zip(self.tokens).for_each(|(index, &token)| *index = R::from_f64(token.into()));
        let (y, cache) = self.residual.forward(cx, Some(Visible { index, b: x.shape[1] }), x);
        let (loss, dy) = weigh(y);
        (loss, Some(self.residual.backward(cx, grads, cache, dy)))
    }
}

struct Embedded {
    embedding: FeatureEmbedding,
    registers: RegisterTokens,
}

impl Layer for Embedded {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, grads: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
        let mut tokens = cx.tensor([5, x.shape[1], 5]);
        let cache = self.embedding.forward(cx, x.data, &mut tokens);
        self.registers.forward(cx, &mut tokens);
        let (loss, dtokens) = weigh(tokens);
        self.embedding.backward(cx, grads, cache, &dtokens);
        self.registers.backward(grads, &dtokens);
        (loss, None)
    }
}

/// The map of patches; its input is read as `[b, N·P]`.
struct Patched(Linear);

impl Layer for Patched {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, grads: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
        let [n, b, p] = x.shape;
        let patches = cx.tensor(x.shape);
        patchify(x.data, patches.shape, patches.data);
        let (y, cache) = self.0.forward(cx, patches);
        let (loss, dy) = weigh(y);
        let mut dpatches = self.0.backward(cx, grads, cache, dy);
        for sample in 0..b {
            for token in 0..n {
                x.data[(sample * n + token) * p..][..p].copy_from_slice(dpatches.row(token, sample));
            }
        }
        (loss, Some(x))
    }
}

struct MeanTokens;

impl Layer for MeanTokens {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, _: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
        let n_tokens = x.shape[0];
        let (loss, dy) = weigh(mean_tokens(cx, x));
        (loss, Some(mean_tokens_backward(cx, n_tokens, dy)))
    }
}

struct Bce {
    pos_weight: f64,
    weight: Option<[f64; 5]>,
}

impl Layer for Bce {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, _: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
        let dx = cx.tensor(x.shape);
        let target = [1.0, 0.0, 1.0, 0.0, 0.25].map(R::from_f64);
        let weight = self.weight.map(|weight| weight.map(R::from_f64));
        let weights = BceWeights { pos_weight: R::from_f64(self.pos_weight), weight: weight.as_ref().map(|w| &w[..]) };
        (bce_with_logits(x.data, &target, weights, R::from_f64(3.0), dx.data), Some(dx))
    }
}

struct Mse;

impl Layer for Mse {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, _: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
        let dx = cx.tensor(x.shape);
        let target: Vec<R> = uniform(2, x.data.len()).into_iter().map(R::from_f64).collect();
        (mse(x.data, &target, R::from_f64(3.0), dx.data), Some(dx))
    }
}

struct CrossEntropy {
    class: usize,
}

impl Layer for CrossEntropy {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, _: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
        let dx = cx.tensor(x.shape);
        (cross_entropy(x.data, self.class, R::from_f64(3.0), dx.data), Some(dx))
    }
}

struct WeightedCrossEntropy;

impl Layer for WeightedCrossEntropy {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, _: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
        let dx = cx.tensor(x.shape);
        let weights = [0.5, 2.0, 1.0, 0.25, 3.0].map(R::from_f64);
        (weighted_cross_entropy(x.data, [4, 0, 3].into_iter(), &weights, R::from_f64(3.0), dx.data), Some(dx))
    }
}

/// The first tensor of x is μ, the second the log-variance.
struct GaussianKl;

impl Layer for GaussianKl {
    fn pass<'a, R: Real>(&self, cx: &Cx<'a, R>, _: &mut [R], x: Tensor<'a, R>) -> (f64, Option<Tensor<'a, R>>) {
        let dx = cx.tensor(x.shape);
        let (mu, log_variance) = x.data.split_at(x.data.len() / 2);
        let (dmu, dlog_variance) = dx.data.split_at_mut(mu.len());
        (gaussian_kl(mu, log_variance, R::from_f64(3.0), dmu, dlog_variance), Some(dx))
    }
}
