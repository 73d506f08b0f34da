//! Whole networks over features and patches, with given masks and noise: what they say, their losses and every gradient.

use nids_kernels::Arena;
use nids_models::{
    Block, Classifier, Encoder, Input, Mae, MaeConfig, MaeEncoder, Masked, MembersConfig, MixerConfig, Student, StudentLoss,
    Target, Vae, VaeConfig, VaeLatent,
};
use nids_nn::loss::{BceWeights, bce_with_logits, weighted_cross_entropy};
use nids_nn::{Activation, Cx, Gemm, Init, Mode, ParamTable, Prepared, Real};
use serde_json::Value;

use crate::Golden;
use crate::compare::Kind;
use crate::dropout::{check_rates, given};
use crate::file::{File, swap};

pub(crate) fn check<R: Real>(golden: &Golden) {
    let file = golden.file::<R>("networks");
    for (name, settings) in file.settings["networks"].as_object().expect("`networks`") {
        let case = Case { file: &file, name, settings };
        match name.as_str() {
            "binary" | "ensemble" | "multiclass" => case.classifier::<R>(),
            "student" => case.student::<R>(),
            "mae_mask_token" => case.masked_autoencoder::<R>(MaeEncoder::MaskToken),
            "mae_visible_only" => case.masked_autoencoder::<R>(MaeEncoder::VisibleOnly),
            "vae_token" => case.variational_autoencoder::<R>(VaeLatent::Token),
            "vae_pooled" => case.variational_autoencoder::<R>(VaeLatent::Pooled),
            name => file.wrong(format!("nothing here checks `{name}`")),
        }
    }
    file.finish::<R>();
}

/// Samples of every batch.
const B: usize = 3;

struct Case<'f> {
    file: &'f File,
    name: &'f str,
    settings: &'f Value,
}

impl Case<'_> {
    fn tensor(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn values<R: Real>(&self, name: &str) -> Vec<R> {
        self.file.values(&self.tensor(name))
    }

    fn compare<R: Real>(&self, name: &str, ours: &[R]) {
        self.file.compare(Kind::ModelOutput, &self.tensor(name), ours);
    }

    fn compare_loss<R: Real>(&self, name: &str, ours: f64) {
        self.compare(name, &[R::from_f64(ours)]);
    }

    fn number(&self, key: &str) -> f64 {
        self.settings[key].as_f64().unwrap_or_else(|| panic!("`{}.{key}` is no number", self.name))
    }

    fn real<R: Real>(&self, key: &str) -> R {
        R::from_f64(self.number(key))
    }

    fn size(&self, key: &str) -> usize {
        self.number(key) as usize
    }

    fn mixer(&self) -> MixerConfig {
        MixerConfig {
            dim: self.size("dim"),
            depth: self.size("depth"),
            token_hidden: self.size("token_hidden"),
            channel_hidden: self.size("channel_hidden"),
            n_registers: self.size("n_registers"),
            activation: if self.settings["activation"] == "tanh" { Activation::Tanh } else { Activation::Gelu },
            dropout: self.number("dropout"),
            drop_path: self.number("drop_path"),
        }
    }

    /// Names and widths.
    fn features(&self) -> Vec<(String, usize)> {
        serde_json::from_value(self.settings["features"].clone()).expect("names and widths of features")
    }

    /// What is predicted of each feature: a number, or one of so many classes.
    fn targets(&self) -> Vec<Target> {
        let n_classes: Vec<usize> = serde_json::from_value(self.settings["targets"].clone()).expect("numbers of classes");
        n_classes.into_iter().map(|n| if n == 0 { Target::Numeric } else { Target::Categorical(n) }).collect()
    }

    /// Every feature's numbers, one feature after the other, or the patches.
    fn input<'a, R: Real>(&self, cx: &Cx<'a, R>) -> &'a mut [R] {
        let features = self.features();
        let x: Vec<R> = if features.is_empty() {
            self.values("x")
        } else {
            features.iter().flat_map(|(name, _)| self.values(&format!("x.{name}"))).collect()
        };
        let input = cx.alloc(x.len());
        input.copy_from_slice(&x);
        input
    }

    /// Calls `pass` with the given masks and noise, then compares every gradient.
    fn differentiate<R: Real>(
        &self,
        table: &ParamTable,
        encoder: &Encoder,
        noise: Option<(u32, Vec<R>)>,
        pass: impl for<'a> FnOnce(&Cx<'a, R>, &mut [R]),
    ) {
        let blocks: &[Block] = encoder.blocks();
        let mut masks = given(self.file, blocks, &self.tensor(""), self.number("dropout"), B);
        if self.number("drop_path") > 0.0 {
            check_rates(self.file, blocks, &self.tensor(""));
        } else {
            // which of several members' samples take a branch is not said
            masks.drop_path.clear();
        }
        masks.noise.extend(noise);
        let mut grads = vec![R::zero(); table.buffer_len()];
        self.with_cx(table, Mode::Replay(&masks), |cx| pass(cx, &mut grads));
        self.file.compare_parameters(Kind::ModelGradient, table, &self.tensor("grad."), &grads);
    }

    fn with_cx<R: Real>(&self, table: &ParamTable, mode: Mode<'_, R>, pass: impl for<'a> FnOnce(&Cx<'a, R>)) {
        let params = self.file.parameters(table, &self.tensor("param."));
        let (arena, gemm) = (Arena::default(), self.file.gemm);
        let prepared = Prepared::of(table, gemm, &params);
        pass(&Cx::new(&params, &arena, mode).with(gemm, (gemm == Gemm::Tiles).then_some(&prepared)));
    }

    fn classifier<R: Real>(&self) {
        let (features, mixer) = (self.features(), self.mixer());
        let input = match self.settings["patch"].as_u64() {
            Some(width) => Input::Patches { n_tokens: self.size("n_patches"), width: width as usize },
            None => Input::Features(&features),
        };
        let n_outputs = self.file.get(&self.tensor("logits")).shape.get(1).copied().unwrap_or(1);
        let mut table = ParamTable::default();
        let mut root = table.root();
        let classifier = if self.settings["members"].is_null() {
            Classifier::new(&mut root, input, &mixer, n_outputs)
        } else {
            let (members, shared_blocks) = (self.size("members"), self.size("shared_blocks"));
            Classifier::ensemble(&mut root, input, &mixer, n_outputs, MembersConfig { members, init: Init::Ones, shared_blocks })
        };
        self.differentiate::<R>(&table, classifier.encoder(), None, |cx, grads| {
            let (logits, cache) = classifier.forward(cx, B, self.input(cx));
            self.compare("logits", logits.data);
            let dlogits = cx.tensor(logits.shape);
            self.compare_loss::<R>("loss", self.loss(logits.data, dlogits.data));
            if let Some(dx) = classifier.backward(cx, grads, cache, dlogits) {
                self.file.compare(Kind::ModelGradient, &self.tensor("dx"), &swap(dx.shape, dx.data));
            }
        });
        self.with_cx::<R>(&table, Mode::Eval, |cx| {
            self.compare("eval.logits", classifier.forward(cx, B, self.input(cx)).0.data);
            self.compare("eval.logits", classifier.infer(cx, B, self.input(cx)).data);
        });
    }

    /// Of classes where there are some, and of labels otherwise; members each have the same.
    fn loss<R: Real>(&self, logits: &[R], dlogits: &mut [R]) -> f64 {
        if let Some(classes) = self.file.find(&self.tensor("classes")) {
            let classes = classes.data.iter().map(|&class| class as usize);
            return weighted_cross_entropy(logits, classes, &self.values("weights"), R::from_f64(B as f64), dlogits);
        }
        let pos_weight = self.settings["pos_weight"].as_f64().map_or(R::one(), R::from_f64);
        let (labels, divisor) = (self.values::<R>("labels"), R::from_f64(logits.len() as f64));
        let members = logits.chunks_exact(B).zip(dlogits.chunks_exact_mut(B));
        let of_member = |(logits, dlogits): (&[R], &mut [R])| {
            bce_with_logits(logits, &labels, BceWeights { pos_weight, weight: None }, divisor, dlogits)
        };
        members.map(of_member).sum()
    }

    fn student<R: Real>(&self) {
        let mut table = ParamTable::default();
        let classifier = Classifier::new(&mut table.root(), Input::Features(&self.features()), &self.mixer(), 1);
        self.differentiate::<R>(&table, classifier.encoder(), None, |cx, grads| {
            let labelled = self.size("labelled");
            let [n_labelled, n_unlabelled] = [labelled, B - labelled].map(|n| R::from_f64(n as f64));
            let student = Student { pos_weight: self.real("pos_weight"), n_labelled, n_unlabelled, weight: self.real("weight") };
            let (mask, token, targets) = (self.values("mask"), self.values("token"), self.values("targets"));
            let masked = Masked { mask: &mask, token: Some(&token) };
            let StudentLoss { supervised, consistency } =
                classifier.student_loss(cx, grads, B, self.input(cx), masked, &targets, labelled, student);
            self.compare_loss::<R>("supervised", supervised);
            self.compare_loss::<R>("consistency", consistency);
        });
    }

    fn masked_autoencoder<R: Real>(&self, encoder: MaeEncoder) {
        let mut table = ParamTable::default();
        let (mask_ratio, decoder_depth) = (self.number("mask_ratio").into(), self.size("decoder_depth"));
        let config = MaeConfig { mask_ratio, encoder, decoder_depth, ..MaeConfig::default() };
        let mae = Mae::new(&mut table.root(), &self.features(), &self.targets(), &self.mixer(), config);
        self.differentiate::<R>(&table, mae.encoder(), None, |cx, grads| {
            let hidden = self.values::<R>("mask");
            let mask = cx.alloc(hidden.len());
            mask.copy_from_slice(&hidden);
            let (x, targets) = (self.input(cx), self.values("targets"));
            let loss = mae.loss(cx, Some(grads), B, x, mask, &targets, self.real("divisor"));
            self.compare_loss::<R>("loss", loss);
        });
    }

    fn variational_autoencoder<R: Real>(&self, latent: VaeLatent) {
        let mut table = ParamTable::default();
        let config = VaeConfig {
            latent_dim: self.size("latent_dim"),
            latent,
            decoder_depth: self.size("decoder_depth"),
            ..VaeConfig::default()
        };
        let vae = Vae::new(&mut table.root(), &self.features(), &self.targets(), &self.mixer(), config);
        let [b, n, z] = self.file.get(&self.tensor("eps")).shape[..] else { panic!("noise has three axes") };
        let noise = Some((vae.noise_site(), swap([b, n, z], &self.values("eps"))));
        self.differentiate::<R>(&table, vae.encoder(), noise, |cx, grads| {
            let (x, targets) = (self.input(cx), self.values("targets"));
            let elbo = vae.loss(cx, Some(grads), B, x, &targets, self.real("beta"), self.real("divisor"));
            self.compare_loss::<R>("reconstruction", elbo.reconstruction);
            self.compare_loss::<R>("kl", elbo.kl);
        });
    }
}
