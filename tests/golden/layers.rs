//! Single layers, forward and backward.

use std::collections::BTreeSet;

use nids_kernels::Arena;
use nids_models::{Posterior, VaeConfig, VaeLatent};
use nids_nn::loss::{BceWeights, bce_with_logits, gaussian_kl, mse, weighted_cross_entropy};
use nids_nn::{
    Activation, ActivationLayer, Axis, Cx, Dropout, FeatureEmbedding, GivenMasks, LayerNorm, Linear, Mixing, MixingConfig, Mode,
    ParamTable, PreNormResidual, Real, RegisterTokens, Scope, Tensor, mean_tokens, mean_tokens_backward, patchify,
};

use crate::Golden;
use crate::compare::Kind;
use crate::file::{File, swap};

pub(crate) fn check<R: Real>(golden: &Golden) {
    let file = golden.file::<R>("layers");
    let cases: BTreeSet<&str> = file.names().map(|name| name.split_once('.').expect("`case.tensor`").0).collect();
    for case in cases {
        let case = Case { file: &file, name: case };
        match case.name {
            name if name.starts_with("linear") => linear::<R>(&case),
            name if name.starts_with("layernorm") => layer_norm::<R>(&case),
            name if name.starts_with("bce") => bce::<R>(&case),
            name if name.starts_with("prenorm_residual") => residual::<R>(&case),
            "gelu" => activation::<R>(&case, Activation::Gelu),
            "tanh" => activation::<R>(&case, Activation::Tanh),
            "dropout" => dropout::<R>(&case),
            "mean_tokens" => pool::<R>(&case),
            "patchify" => patches::<R>(&case),
            "token_mixing" | "channel_mixing" => mixing::<R>(&case),
            "embedding" => embedding::<R>(&case),
            "posterior" => posterior::<R>(&case),
            "cross_entropy" => cross_entropy::<R>(&case),
            "mse" => squared_error::<R>(&case),
            "kl" => kl::<R>(&case),
            name => file.wrong(format!("nothing here checks `{name}`")),
        }
    }
    file.finish::<R>();
}

struct Case<'f> {
    file: &'f File,
    name: &'f str,
}

/// How tensors of a case lie.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// Samples first, where it makes no difference.
    AsStored,
    /// Tokens first.
    Swapped,
}

impl Case<'_> {
    fn tensor(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    /// The shape of a tensor; leading sizes of 1 make it three long.
    fn shape(&self, name: &str) -> [usize; 3] {
        match self.file.get(&self.tensor(name)).shape[..] {
            [d] => [1, 1, d],
            [b, d] => [1, b, d],
            [a, b, d] => [a, b, d],
            _ => panic!("`{}` has more than three axes", self.tensor(name)),
        }
    }

    /// A tensor in the arena.
    fn input<'a, R: Real>(&self, cx: &Cx<'a, R>, layout: Layout, name: &str) -> Tensor<'a, R> {
        let [a, b, d] = self.shape(name);
        let values = self.file.values(&self.tensor(name));
        let (shape, values) = if layout == Layout::Swapped { ([b, a, d], swap([a, b, d], &values)) } else { ([a, b, d], values) };
        let tensor = cx.tensor(shape);
        tensor.data.copy_from_slice(&values);
        tensor
    }

    fn compare<R: Real>(&self, kind: Kind, layout: Layout, name: &str, ours: &Tensor<'_, R>) {
        let name = self.tensor(name);
        match layout {
            Layout::AsStored => self.file.compare(kind, &name, ours.data),
            Layout::Swapped => self.file.compare(kind, &name, &swap(ours.shape, ours.data)),
        }
    }

    /// `pass` takes x and dy to y and dx.
    fn check<R: Real>(
        &self,
        layout: Layout,
        table: &ParamTable,
        masks: &GivenMasks<R>,
        pass: impl for<'a> FnOnce(&Cx<'a, R>, &mut [R], Tensor<'a, R>, Tensor<'a, R>) -> [Tensor<'a, R>; 2],
    ) {
        let params = self.file.parameters(table, &self.tensor("param."));
        let mut grads = table.zeros();
        let arena = Arena::default();
        let cx = Cx::new(&params, &arena, Mode::Replay(masks)).with(self.file.gemm, None);
        let (x, dy) = (self.input(&cx, layout, "x"), self.input(&cx, layout, "dy"));
        let [y, dx] = pass(&cx, &mut grads, x, dy);
        let (output, gradient) = if self.name == "layernorm_smallvar" {
            (Kind::CancellingOutput, Kind::CancellingGradient)
        } else {
            (Kind::LayerOutput, Kind::LayerGradient)
        };
        self.compare(output, layout, "y", &y);
        self.compare(gradient, layout, "dx", &dx);
        self.file.compare_parameters(gradient, table, &self.tensor("grad."), &grads);
    }

    fn mixing(&self, scope: &mut Scope<'_>, weight1: &str, axis: Axis) -> Mixing {
        let [_, hidden, size] = self.shape(weight1);
        Mixing::new(scope, MixingConfig { axis, size, hidden, activation: Activation::Gelu, dropout: 0.0 })
    }
}

fn linear<R: Real>(case: &Case<'_>) {
    let mut table = ParamTable::default();
    let [_, outputs, inputs] = case.shape("param.weight");
    let biased = case.file.find(&case.tensor("param.bias")).is_some();
    let make = if biased { Linear::new } else { Linear::without_bias };
    let layer = make(&mut table.root(), inputs, outputs);
    case.check::<R>(Layout::AsStored, &table, &GivenMasks::default(), |cx, grads, x, dy| {
        let (y, cache) = layer.forward(cx, x);
        [y, layer.backward(cx, grads, cache, dy)]
    });
}

fn layer_norm<R: Real>(case: &Case<'_>) {
    let mut table = ParamTable::default();
    let layer = LayerNorm::new(&mut table.root(), case.shape("param.weight")[2]);
    case.check::<R>(Layout::AsStored, &table, &GivenMasks::default(), |cx, grads, x, dy| {
        let (y, cache) = layer.forward(cx, x);
        [y, layer.backward(cx, grads, cache, dy)]
    });
}

fn activation<R: Real>(case: &Case<'_>, activation: Activation) {
    case.check::<R>(Layout::AsStored, &ParamTable::default(), &GivenMasks::default(), |cx, _, x, dy| {
        let (y, cache) = ActivationLayer(activation).forward(cx, x);
        [y, ActivationLayer(activation).backward(cx, cache, dy)]
    });
}

fn dropout<R: Real>(case: &Case<'_>) {
    let p = case.file.number(&case.tensor("p"));
    let mut table = ParamTable::default();
    let layer = Dropout::new(&mut table.root(), p);
    let kept = &case.file.get(&case.tensor("mask")).data;
    let multipliers = kept.iter().map(|kept| R::from_f64(kept / (1.0 - p))).collect();
    let masks = GivenMasks { dropout: [(layer.site(), multipliers)].into(), ..GivenMasks::default() };
    case.check::<R>(Layout::AsStored, &table, &masks, |cx, _, x, dy| [layer.apply(cx, x), layer.apply(cx, dy)]);
}

fn pool<R: Real>(case: &Case<'_>) {
    // y and dy are [b, D], which is [1, b, D] with tokens first: only x is swapped
    let arena = Arena::default();
    let cx = Cx::<R>::new(&[], &arena, Mode::Eval);
    let x = case.input(&cx, Layout::Swapped, "x");
    let n_tokens = x.shape[0];
    case.compare(Kind::LayerOutput, Layout::AsStored, "y", &mean_tokens(&cx, x));
    let dx = mean_tokens_backward(&cx, n_tokens, case.input(&cx, Layout::AsStored, "dy"));
    case.compare(Kind::LayerGradient, Layout::Swapped, "dx", &dx);
}

fn patches<R: Real>(case: &Case<'_>) {
    let arena = Arena::default();
    let cx = Cx::<R>::new(&[], &arena, Mode::Eval);
    let [b, n_tokens, width] = case.shape("y");
    let y = cx.tensor([n_tokens, b, width]);
    patchify(&case.file.values::<R>(&case.tensor("x")), y.shape, y.data);
    case.compare(Kind::LayerOutput, Layout::Swapped, "y", &y);
}

fn mixing<R: Real>(case: &Case<'_>) {
    let axis = if case.name.starts_with("token") { Axis::Token } else { Axis::Channel };
    let mut table = ParamTable::default();
    let layer = case.mixing(&mut table.root(), "param.linear1.weight", axis);
    case.check::<R>(Layout::Swapped, &table, &GivenMasks::default(), |cx, grads, x, dy| {
        let (y, cache) = layer.forward(cx, x);
        [y, layer.backward(cx, grads, cache, dy)]
    });
}

fn residual<R: Real>(case: &Case<'_>) {
    let [b, n_tokens, dim] = case.shape("x");
    let of_tokens = case.shape("param.fn.linear1.weight")[2] == n_tokens;
    let axis = if of_tokens { Axis::Token } else { Axis::Channel };
    let drop_prob = case.file.number(&case.tensor("drop_prob"));
    // of each sample, or drawn for all of them
    let kept = match case.file.find(&case.tensor("keep")) {
        Some(keep) => keep.data.iter().map(|&keep| keep > 0.5).collect(),
        None => vec![case.file.number(&case.tensor("rand")) >= drop_prob; b],
    };
    let mut table = ParamTable::default();
    let norm = LayerNorm::new(&mut table.root().at("norm"), dim);
    let mixing = case.mixing(&mut table.root().at("fn"), "param.fn.linear1.weight", axis);
    let layer = PreNormResidual::new(&mut table.root(), norm, mixing, drop_prob);
    let masks = GivenMasks { drop_path: [(layer.site(), kept)].into(), ..GivenMasks::default() };
    case.check::<R>(Layout::Swapped, &table, &masks, |cx, grads, x, dy| {
        let (y, cache) = layer.forward(cx, None, x);
        [y, layer.backward(cx, grads, cache, dy)]
    });
}

fn embedding<R: Real>(case: &Case<'_>) {
    let names: Vec<&str> = case.file.names().filter_map(|name| name.strip_prefix("embedding.x.")).collect();
    let [b, n_tokens, dim] = case.shape("y");
    let widths = names.iter().map(|name| (*name, case.shape(&format!("x.{name}"))[2]));
    let mut table = ParamTable::default();
    let layer = FeatureEmbedding::new(&mut table.root().at("embed"), widths, dim);
    let registers = RegisterTokens::new(&mut table.root().at("registers"), n_tokens - names.len(), dim);

    let params = case.file.parameters(&table, &case.tensor("param."));
    let mut grads = table.zeros();
    let arena = Arena::default();
    let cx = Cx::<R>::new(&params, &arena, Mode::Eval).with(case.file.gemm, None);
    let x: Vec<R> = names.iter().flat_map(|name| case.file.values::<R>(&case.tensor(&format!("x.{name}")))).collect();
    let input = cx.alloc(x.len());
    input.copy_from_slice(&x);
    let mut y = cx.tensor([n_tokens, b, dim]);
    let cache = layer.forward(&cx, input, &mut y);
    registers.forward(&cx, &mut y);
    case.compare(Kind::LayerOutput, Layout::Swapped, "y", &y);
    let dy = case.input(&cx, Layout::Swapped, "dy");
    registers.backward(&mut grads, &dy);
    layer.backward(&cx, &mut grads, cache, &dy);
    case.file.compare_parameters(Kind::LayerGradient, &table, &case.tensor("grad."), &grads);
}

fn posterior<R: Real>(case: &Case<'_>) {
    let [_, _, dim] = case.shape("x");
    let config =
        VaeConfig { latent_dim: case.shape("mu")[2], latent: VaeLatent::Token, decoder_depth: 0, ..VaeConfig::default() };
    let mut table = ParamTable::default();
    let layer = Posterior::new(&mut table.root(), dim, config);
    let params = case.file.parameters(&table, &case.tensor("param."));
    let arena = Arena::default();
    let cx = Cx::<R>::new(&params, &arena, Mode::Eval).with(case.file.gemm, None);
    let [mu, sigma] = layer.infer(&cx, case.input(&cx, Layout::Swapped, "x"));
    case.compare(Kind::LayerOutput, Layout::Swapped, "mu", &mu);
    case.compare(Kind::LayerOutput, Layout::Swapped, "sigma", &sigma);
}

fn cross_entropy<R: Real>(case: &Case<'_>) {
    let values = |name| case.file.values::<R>(&case.tensor(name));
    let classes = &case.file.get(&case.tensor("classes")).data;
    let logits = values("logits");
    let mut dlogits = vec![R::nan(); logits.len()];
    let divisor = R::from_f64(classes.len() as f64);
    let loss =
        weighted_cross_entropy(&logits, classes.iter().map(|&class| class as usize), &values("weights"), divisor, &mut dlogits);
    case.file.compare(Kind::LayerOutput, &case.tensor("loss"), &[R::from_f64(loss)]);
    case.file.compare(Kind::LayerGradient, &case.tensor("dlogits"), &dlogits);
}

fn squared_error<R: Real>(case: &Case<'_>) {
    let [prediction, target] = ["prediction", "target"].map(|name| case.file.values::<R>(&case.tensor(name)));
    let mut dprediction = vec![R::nan(); prediction.len()];
    let loss = mse(&prediction, &target, R::from_f64(target.len() as f64), &mut dprediction);
    case.file.compare(Kind::LayerOutput, &case.tensor("loss"), &[R::from_f64(loss)]);
    case.file.compare(Kind::LayerGradient, &case.tensor("dprediction"), &dprediction);
}

fn kl<R: Real>(case: &Case<'_>) {
    let [mu, log_variance] = ["mu", "log_variance"].map(|name| case.file.values::<R>(&case.tensor(name)));
    let [mut dmu, mut dlog_variance] = [&mu, &log_variance].map(|x| vec![R::nan(); x.len()]);
    let [_, rows, _] = case.shape("mu");
    let loss = gaussian_kl(&mu, &log_variance, R::from_f64(rows as f64), &mut dmu, &mut dlog_variance);
    case.file.compare(Kind::LayerOutput, &case.tensor("loss"), &[R::from_f64(loss)]);
    case.file.compare(Kind::LayerGradient, &case.tensor("dmu"), &dmu);
    case.file.compare(Kind::LayerGradient, &case.tensor("dlog_variance"), &dlog_variance);
}

fn bce<R: Real>(case: &Case<'_>) {
    let values = |name| case.file.values::<R>(&case.tensor(name));
    let (logits, target) = (values("logits"), values("target"));
    let optional = |name| case.file.find(&case.tensor(name)).map(|stored| crate::file::reals::<R>(&stored.data));
    let (weight, pos_weight) = (optional("weight"), optional("pos_weight"));
    let weights = BceWeights { pos_weight: pos_weight.map_or(R::one(), |p| p[0]), weight: weight.as_deref() };
    let divisor = if case.name.ends_with("sum") { 1.0 } else { logits.len() as f64 };
    let mut dlogits = vec![R::nan(); logits.len()];
    let loss = bce_with_logits(&logits, &target, weights, R::from_f64(divisor), &mut dlogits);
    case.file.compare(Kind::LayerOutput, &case.tensor("loss"), &[R::from_f64(loss)]);
    case.file.compare(Kind::LayerGradient, &case.tensor("dlogits"), &dlogits);
}
