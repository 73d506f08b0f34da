//! Every model against central differences: dropout, dropped branches and draws fixed by key, masks given.

use nids_models::{
    Classifier, Elbo, Input, Mae, MaeConfig, MaeEncoder, Masked, MembersConfig, MixerConfig, Replaced, ReplacedConfig, Student,
    StudentLoss, Target, Vae, VaeConfig, VaeLatent,
};
use nids_nn::gradcheck::{self, Differentiable, Errors, uniform};
use nids_nn::loss::{BceWeights, bce_with_logits};
use nids_nn::{Activation, Cx, Init, ParamTable, Real};

/// What keys the masks of a shard's samples.
const SAMPLES: [u32; 3] = [3, 1, 4];
const B: usize = SAMPLES.len();
/// The same for two members that see them.
const OF_MEMBERS: [u32; 2 * B] = [3, 1, 4, 15, 9, 26];

const MIXER: MixerConfig = MixerConfig {
    dim: 6,
    depth: 2,
    token_hidden: 8,
    channel_hidden: 7,
    n_registers: 0,
    activation: Activation::Gelu,
    dropout: 0.2,
    drop_path: 0.4,
};

fn features() -> Vec<(String, usize)> {
    [("a", 2), ("b", 1), ("c", 4), ("d", 3)].map(|(name, width)| (name.to_owned(), width)).to_vec()
}

struct Classified(Classifier);

impl Differentiable for Classified {
    fn pass<R: Real>(&self, cx: &Cx<'_, R>, grads: &mut [R], x: &[R]) -> (f64, Option<Vec<R>>) {
        let input = cx.alloc(x.len());
        input.copy_from_slice(x);
        let (logits, cache) = self.0.forward(cx, B, input);
        let dlogits = cx.tensor(logits.shape);
        let target = [1.0, 0.0, 1.0].map(R::from_f64);
        let member_logits = logits.data.chunks_exact(B).zip(dlogits.data.chunks_exact_mut(B)).enumerate();
        // members whose losses differ in weight, so that one in the place of another shows
        let member_loss = |(k, (logits, dlogits)): (usize, (&[R], &mut [R]))| {
            let weights = BceWeights { pos_weight: R::from_f64(1.0 + k as f64), weight: None };
            bce_with_logits(logits, &target, weights, R::from_f64(B as f64), dlogits)
        };
        let loss = member_logits.map(member_loss).sum();
        let dx = self.0.backward(cx, grads, cache, dlogits).map(|mut dpatches| {
            // [N, b, P] as the input has it, [b, N·P]
            let [n, b, _] = dpatches.shape;
            let by_sample = (0..b).flat_map(|sample| (0..n).map(move |token| (token, sample)));
            by_sample.flat_map(|(token, sample)| dpatches.row(token, sample).to_vec()).collect()
        });
        (loss, dx)
    }
}

struct Taught(Classifier);

/// How many of a shard's samples are labelled.
const LABELLED: usize = 1;

impl Differentiable for Taught {
    fn pass<R: Real>(&self, cx: &Cx<'_, R>, grads: &mut [R], x: &[R]) -> (f64, Option<Vec<R>>) {
        let input = cx.alloc(x.len());
        input.copy_from_slice(x);
        let mask = TWO_OF_FOUR.map(|feature_mask| {
            let hidden = |j: usize| if j < LABELLED { R::zero() } else { R::from_f64(feature_mask[j]) };
            std::array::from_fn::<R, B, _>(hidden)
        });
        let token = [0.3, -0.2, 0.5, 0.1, 0.0, -0.7].map(R::from_f64);
        let masked = Masked { mask: mask.as_flattened(), token: Some(&token) };
        let [pos_weight, n_labelled, n_unlabelled, weight] = [1.7, 3.0, 5.0, 0.6].map(R::from_f64);
        let student = Student { pos_weight, n_labelled, n_unlabelled, weight };
        let targets = [1.0, 0.3, 0.9].map(R::from_f64);
        let StudentLoss { supervised, consistency } =
            self.0.student_loss(cx, grads, B, input, masked, &targets, LABELLED, student);
        (supervised + 0.6 * consistency, None)
    }
}

struct Swapped(Replaced);

impl Differentiable for Swapped {
    fn pass<R: Real>(&self, cx: &Cx<'_, R>, grads: &mut [R], x: &[R]) -> (f64, Option<Vec<R>>) {
        let input = cx.alloc(x.len());
        input.copy_from_slice(x);
        let swapped = TWO_OF_FOUR.as_flattened().iter().map(|&swapped| R::from_f64(swapped)).collect::<Vec<_>>();
        (self.0.loss(cx, Some(grads), B, input, &swapped, R::from_f64(5.0)), None)
    }
}

struct Autoencoded {
    mae: Mae,
    has_gaps: bool,
}

struct Variational {
    vae: Vae,
    beta: f64,
    has_gaps: bool,
}

/// One of four features of each sample is hidden: [F, b].
const ONE_OF_FOUR: [[f64; B]; 4] = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]];
/// Two of four.
const TWO_OF_FOUR: [[f64; B]; 4] = [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.0]];
/// What is predicted of each feature.
const KINDS: [Target; 4] = [Target::Numeric, Target::Categorical(2), Target::Categorical(3), Target::Numeric];
/// A number for `a` and `d`, a class for `b` (of two) and `c` (of three): [F, b].
const TARGETS: [[f64; B]; 4] = [[0.3, -1.0, 0.7], [1.0, 0.0, 0.0], [0.0, 2.0, 1.0], [2.0, 0.1, -0.4]];

/// `TARGETS`, of which some are missing where there are gaps.
fn targets<R: Real>(has_gaps: bool) -> Vec<R> {
    let mut targets = TARGETS;
    if has_gaps {
        targets[0][0] = f64::NAN;
        targets[2][1] = f64::NAN;
    }
    targets.as_flattened().iter().map(|&target| R::from_f64(target)).collect()
}

impl Differentiable for Autoencoded {
    fn pass<R: Real>(&self, cx: &Cx<'_, R>, grads: &mut [R], x: &[R]) -> (f64, Option<Vec<R>>) {
        let input = cx.alloc(x.len());
        input.copy_from_slice(x);
        let mask = cx.alloc(4 * B);
        let masked = if self.mae.n_masked() < 1.5 { ONE_OF_FOUR } else { TWO_OF_FOUR };
        mask.iter_mut().zip(masked.as_flattened()).for_each(|(mask, &masked)| *mask = R::from_f64(masked));
        let targets: Vec<R> = targets(self.has_gaps);
        (self.mae.loss(cx, Some(grads), B, input, mask, &targets, R::from_f64(5.0)), None)
    }
}

impl Differentiable for Variational {
    fn pass<R: Real>(&self, cx: &Cx<'_, R>, grads: &mut [R], x: &[R]) -> (f64, Option<Vec<R>>) {
        let input = cx.alloc(x.len());
        input.copy_from_slice(x);
        let targets: Vec<R> = targets(self.has_gaps);
        let Elbo { reconstruction, kl } =
            self.vae.loss(cx, Some(grads), B, input, &targets, R::from_f64(self.beta), R::from_f64(5.0));
        (reconstruction + self.beta * kl, None)
    }
}

/// Asserts that the gradients of the model that `build` makes are right.
fn check<M: Differentiable>(name: &str, width: usize, build: impl Fn(&mut ParamTable) -> M) {
    check_on(name, &SAMPLES, width, build);
}

fn check_on<M: Differentiable>(name: &str, samples: &[u32], width: usize, build: impl Fn(&mut ParamTable) -> M) {
    let mut table = ParamTable::default();
    let model = build(&mut table);
    let errors = gradcheck::check(&table, samples, &uniform(1, B * width), &model);
    let Errors { params, x, f32 } = errors;
    // f64: the difference quotient itself is good to about 1e-9; f32: some hundreds of roundings of 6e-8
    assert!(params <= 1e-6 && x <= 1e-6 && f32 <= 1e-5, "{name}: {errors:?}");
}

#[test]
fn classifier_over_patches() {
    for n_registers in [0, 2] {
        check(&format!("{n_registers} registers"), 12, |table| {
            let config = MixerConfig { n_registers, ..MIXER };
            Classified(Classifier::new(&mut table.root(), Input::Patches { n_tokens: 4, width: 3 }, &config, 1))
        });
    }
}

#[test]
fn classifier_over_features() {
    for activation in [Activation::Gelu, Activation::Tanh] {
        check(&format!("{activation:?}"), 10, |table| {
            let config = MixerConfig { n_registers: 1, activation, ..MIXER };
            Classified(Classifier::new(&mut table.root(), Input::Features(&features()), &config, 1))
        });
    }
}

#[test]
fn members_that_share_a_classifier() {
    for shared_blocks in 0..=MIXER.depth {
        let members = MembersConfig { members: 2, init: Init::Signs, shared_blocks };
        let mixer = MixerConfig { n_registers: 1, ..MIXER };
        check_on(&format!("{shared_blocks} blocks, features"), &OF_MEMBERS, 10, |table| {
            Classified(Classifier::ensemble(&mut table.root(), Input::Features(&features()), &mixer, 1, members))
        });
        check_on(&format!("{shared_blocks} blocks, patches"), &OF_MEMBERS, 12, |table| {
            let input = Input::Patches { n_tokens: 4, width: 3 };
            Classified(Classifier::ensemble(&mut table.root(), input, &mixer, 1, members))
        });
    }
}

#[test]
fn student_of_a_mean_teacher() {
    for n_registers in [0, 1] {
        check(&format!("{n_registers} registers"), 10, |table| {
            let config = MixerConfig { n_registers, ..MIXER };
            Taught(Classifier::new(&mut table.root(), Input::Features(&features()), &config, 1))
        });
    }
}

#[test]
fn masked_autoencoder() {
    for encoder in [MaeEncoder::MaskToken, MaeEncoder::VisibleOnly] {
        for (mask_ratio, n_registers, has_gaps) in
            [(0.25, 0, false), (0.25, 1, false), (0.25, 0, true), (0.5, 0, false), (0.5, 1, false), (0.5, 1, true)]
        {
            check(&format!("{encoder:?}, mask {mask_ratio}, {n_registers} registers, gaps: {has_gaps}"), 10, |table| {
                let config = MaeConfig { mask_ratio: mask_ratio.into(), encoder, ..MaeConfig::default() };
                let mixer = MixerConfig { n_registers, ..MIXER };
                Autoencoded { mae: Mae::new(&mut table.root(), &features(), &KINDS, &mixer, config), has_gaps }
            });
        }
    }
}

#[test]
fn replaced_features() {
    for n_registers in [0, 1] {
        check(&format!("{n_registers} registers"), 10, |table| {
            let mixer = MixerConfig { n_registers, ..MIXER };
            Swapped(Replaced::new(&mut table.root(), &features(), &mixer, ReplacedConfig::default()))
        });
    }
}

#[test]
fn variational_autoencoder() {
    for latent in [VaeLatent::Token, VaeLatent::Pooled] {
        for (beta, decoder_depth, n_registers, has_gaps) in
            [(1.0, 1, 0, false), (0.3, 2, 1, false), (0.0, 0, 1, false), (0.3, 1, 0, true)]
        {
            let what = format!("{latent:?}, beta {beta}, {decoder_depth} blocks, {n_registers} registers, gaps: {has_gaps}");
            check(&what, 10, |table| {
                let mixer = MixerConfig { n_registers, ..MIXER };
                let config = VaeConfig { latent_dim: 3, latent, decoder_depth, ..VaeConfig::default() };
                Variational { vae: Vae::new(&mut table.root(), &features(), &KINDS, &mixer, config), beta, has_gaps }
            });
        }
    }
}
