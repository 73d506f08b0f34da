//! Whole models: activations, logits, loss, every gradient, and parameters after steps of Adam.

use nids_kernels::Arena;
use nids_models::{Block, Classifier, Input, MixerConfig};
use nids_nn::loss::{BceWeights, bce_with_logits};
use nids_nn::optim::{AdamConfig, Decay, Optimiser, OptimiserConfig, clip, grad_norm};
use nids_nn::{Activation, Cx, LayerNorm, Linear, Mode, ParamTable, Real, mean_tokens, patchify};
use serde_json::Value;

use crate::compare::Kind;
use crate::file::{File, short, swap};
use crate::{Golden, read_json};

/// A model as settings.json describes it.
pub(crate) struct Model {
    pub(crate) table: ParamTable,
    pub(crate) classifier: Classifier,
    config: MixerConfig,
    n_tokens: usize,
    width: usize,
}

/// What one pass over the batch gives.
pub(crate) struct Pass<R> {
    pub(crate) logits: Vec<R>,
    pub(crate) loss: R,
    pub(crate) dlogits: Vec<R>,
    /// [B, N, P]
    pub(crate) dpatches: Vec<R>,
    pub(crate) grads: Vec<R>,
}

impl Model {
    pub(crate) fn new(config: &Value) -> Self {
        let number = |key: &str| config[key].as_f64().unwrap_or_else(|| panic!("`{key}` of a model is no number"));
        let size = |key: &str| number(key) as usize;
        if let Some(eps) = config["layernorm_eps"].as_f64() {
            assert!((eps - 1e-5).abs() < 1e-12, "the norms here have an eps of 1e-5, not {eps}");
        }
        let mixer = MixerConfig {
            dim: size("dim"),
            depth: size("depth"),
            token_hidden: size("token_inner"),
            channel_hidden: size("channel_inner"),
            n_registers: 0,
            activation: Activation::Gelu,
            dropout: number("dropout_p"),
            drop_path: number("stochastic_depth_p"),
        };
        let (n_tokens, width) = (size("tokens"), size("patch_size") * size("channels"));
        let mut table = ParamTable::default();
        let classifier = Classifier::new(&mut table.root(), Input::Patches { n_tokens, width }, &mixer, size("num_classes"));
        Self { table, classifier, config: mixer, n_tokens, width }
    }

    /// Forward and back over the file's batch.
    pub(crate) fn pass<R: Real>(&self, file: &File, params: &[R], mode: Mode<'_, R>) -> Pass<R> {
        let (x, labels) = (file.values::<R>("x"), file.values::<R>("labels"));
        let b = file.get("x").shape[0];
        let arena = Arena::default();
        let cx = Cx::new(params, &arena, mode).with(file.gemm, None);
        let input = cx.alloc(x.len());
        input.copy_from_slice(&x);
        let (logits, cache) = self.classifier.forward(&cx, b, input);
        let dlogits = cx.tensor(logits.shape);
        let divisor = R::from_f64(labels.len() as f64);
        let loss = bce_with_logits(logits.data, &labels, BceWeights::default(), divisor, dlogits.data);
        let (logits, kept) = (logits.data.to_vec(), dlogits.data.to_vec());
        let mut grads = vec![R::zero(); self.table.buffer_len()];
        let dpatches = self.classifier.backward(&cx, &mut grads, cache, dlogits).expect("patches have a gradient");
        Pass { logits, loss: R::from_f64(loss), dlogits: kept, dpatches: swap(dpatches.shape, dpatches.data), grads }
    }

    /// Compares what lies between the layers with `act.*`, built from the same pieces one by one.
    fn check_activations<R: Real>(&self, file: &File) {
        let mut table = ParamTable::default();
        let Self { config, n_tokens, width, .. } = self;
        let proj = Linear::new(&mut table.root().at("proj"), *width, config.dim);
        let blocks = (0..config.depth).map(|i| Block::new(&mut table.root().at("blocks").at(i), *n_tokens, config, 0.0));
        let blocks: Vec<Block> = blocks.collect();
        let norm = LayerNorm::new(&mut table.root().at("norm"), config.dim);
        let params = file.parameters::<R>(&table, "param.");

        let arena = Arena::default();
        let cx = Cx::new(&params, &arena, Mode::Eval).with(file.gemm, None);
        let patches = cx.tensor([*n_tokens, file.get("x").shape[0], *width]);
        patchify(&file.values::<R>("x"), patches.shape, patches.data);
        let compare = |name: &str, shape, data: &[R]| file.compare(Kind::ModelOutput, name, &swap(shape, data));
        let (mut x, _) = proj.forward(&cx, patches);
        compare("act.proj", x.shape, x.data);
        for (i, block) in blocks.iter().enumerate() {
            for (branch, name) in block.branches().into_iter().zip(["token", "channel"]) {
                (x, _) = branch.forward(&cx, None, x);
                compare(&format!("act.blocks.{i}.after_{name}"), x.shape, x.data);
            }
        }
        let (tokens, _) = norm.forward(&cx, x);
        compare("act.norm", tokens.shape, tokens.data);
        file.compare(Kind::ModelOutput, "act.pooled", mean_tokens(&cx, tokens).data);
    }
}

pub(crate) fn check<R: Real>(golden: &Golden) {
    for name in golden.models() {
        let file = golden.file::<R>(name);
        let settings = &golden.settings_of_models()[name];
        check_rows(&file, settings);
        let model = Model::new(&settings["config"]);
        let params = file.parameters(&model.table, "param.");
        model.check_activations::<R>(&file);
        let pass = model.pass::<R>(&file, &params, Mode::Replay(&nids_nn::GivenMasks::default()));
        file.compare(Kind::ModelOutput, "logits", &pass.logits);
        file.compare(Kind::ModelOutput, "loss", &[pass.loss]);
        file.compare(Kind::ModelGradient, "dlogits", &pass.dlogits);
        file.compare(Kind::ModelGradient, "dpatches", &pass.dpatches);
        file.compare_parameters(Kind::ModelGradient, &model.table, "grad.", &pass.grads);
        file.finish::<R>();
    }
}

/// The rows of the data set that the batch was made of.
pub(crate) fn check_rows(file: &File, settings: &Value) {
    let rows: Vec<f64> = settings["rows"].as_array().expect("`rows`").iter().filter_map(Value::as_f64).collect();
    file.compare_with(Kind::LayerOutput, "row_index", &rows, &file.get("row_index").data);
}

pub(crate) fn check_adam<R: Real>(golden: &Golden) {
    for name in golden.models() {
        let settings = &golden.settings_of_models()[name];
        let model = Model::new(&settings["config"]);
        let batch = golden.file::<R>(name);
        let start = batch.parameters::<R>(&model.table, "param.");
        let file = golden.file::<R>(&format!("{name}_adam"));
        // a reading of the original in which some norms are updated twice a step and clipping does nothing
        file.leave_out("literal.");
        let list = |key: &str| settings["adam"][key].as_array().unwrap_or_else(|| panic!("`adam.{key}` is no list")).iter();
        for weight_decay in list("weight_decay").filter_map(Value::as_f64) {
            for clip in list("clip").map(Value::as_f64) {
                let clip_name = clip.map_or("noclip".to_owned(), |clip| format!("clip{clip}"));
                let name = format!("standard.wd{weight_decay}.{clip_name}");
                let masks = nids_nn::GivenMasks::default();
                let run = Run { model: &model, file: &file, settings, history: &name, weight_decay, clip };
                run.train(
                    &start,
                    |_, params| model.pass(&batch, params, Mode::Replay(&masks)),
                    |step, params| {
                        run.compare_updated(&format!("{name}.step{step}."), weight_decay == 0.0, step, &start, params);
                    },
                );
            }
        }
        file.finish::<R>();
    }
}

/// Steps of Adam on one batch.
pub(crate) struct Run<'r> {
    pub(crate) model: &'r Model,
    /// Where the parameters after a step are.
    pub(crate) file: &'r File,
    /// The model's settings.
    pub(crate) settings: &'r Value,
    /// What the settings call this run; they have its losses and norms, step by step.
    pub(crate) history: &'r str,
    pub(crate) weight_decay: f64,
    pub(crate) clip: Option<f64>,
}

impl Run<'_> {
    /// `pass` gives the gradient of a step (counted from 0); `after` looks at the parameters after it (counted from 1).
    pub(crate) fn train<R: Real>(
        &self,
        start: &[R],
        mut pass: impl FnMut(usize, &[R]) -> Pass<R>,
        mut after: impl FnMut(usize, &[R]),
    ) {
        let Self { model, file, settings, history, weight_decay, clip: max_norm } = *self;
        let adam = self.adam();
        let config = AdamConfig { beta1: adam("beta1"), beta2: adam("beta2"), eps: adam("eps"), weight_decay };
        let mut optimiser = Optimiser::new(&model.table, OptimiserConfig::Adam(config), Decay::All, |_| 1.0);
        let mut params = start.to_vec();
        let steps = settings["runs"][history].as_array().unwrap_or_else(|| panic!("no `runs.{history}` in settings.json"));
        for (step, told) in steps.iter().enumerate() {
            let Pass { loss, grads, .. } = pass(step, &params);
            let norm = grad_norm(&grads);
            for (key, ours) in [("loss_before", loss), ("grad_norm", R::from_f64(norm))] {
                let want = told[key].as_f64().unwrap_or_else(|| panic!("no `{key}` in `runs.{history}`"));
                file.compare_with(Kind::ModelOutput, &format!("{history}, {key} of step {}", step + 1), &[want], &[ours]);
            }
            optimiser.step(adam("lr"), clip(norm, max_norm), &mut params, &grads);
            after(step + 1, &params);
        }
    }

    fn adam(&self) -> impl Fn(&str) -> f64 {
        |key| self.settings["adam"][key].as_f64().unwrap_or_else(|| panic!("`adam.{key}` is no number"))
    }

    /// Compares the parameters after `step` with `{prefix}*`, if the file has that step. Where `flat`, a bias whose true
    /// gradient is 0 (all its uses pass a norm that takes it out again) is only held to how far Adam can move it: Adam makes
    /// steps of up to lr of rounding.
    pub(crate) fn compare_updated<R: Real>(&self, prefix: &str, flat: bool, step: usize, start: &[R], params: &[R]) {
        let Self { file, model, .. } = self;
        if !file.names().any(|name| name.starts_with(prefix)) {
            return;
        }
        let reach = 1.05 * self.adam()("lr") * step as f64;
        for spec in model.table.specs() {
            let name = format!("{prefix}{}", short(&spec.name));
            let (start, now) = (spec.param.of(start), spec.param.of(params));
            if flat && name.ends_with("token_mixing.linear2.bias") {
                let stored = file.get(&name);
                assert_eq!(stored.shape, spec.shape);
                for (start, now) in start.iter().zip(now) {
                    let moved = Real::to_f64((*now - *start).abs());
                    if moved > reach || moved.is_nan() {
                        file.wrong(format!("`{name}` moved by {moved:.1e}, further than {reach:.1e}"));
                    }
                }
            } else {
                file.compare(Kind::Updated, &name, now);
            }
        }
    }
}

pub(crate) fn check_checkpoints<R: Real>(golden: &Golden) {
    for name in golden.checkpoints() {
        let file = golden.file::<R>(&name);
        let settings = read_json(&golden.folder.join(format!("{name}.json")));
        let model = Model::new(&settings["config"]);
        let params = file.parameters(&model.table, "param.");
        let pass = model.pass::<R>(&file, &params, Mode::Eval);
        file.compare(Kind::RoughOutput, "logits", &pass.logits);
        file.compare(Kind::RoughOutput, "loss", &[pass.loss]);
        // state of the original's optimiser after `literal` steps, and one more of them: we take none
        for state in ["exp_avg.", "exp_avg_sq.", "step.", "resumed_step4."] {
            file.leave_out(state);
        }
        file.finish::<R>();
    }
}
