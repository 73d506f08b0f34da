//! Something to train on.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use nids_kernels::{Buffer, Key};
use nids_models::{
    Classifier, Elbo, Input, Masked, MembersConfig, MixerConfig, Replaced, ReplacedConfig, Student, StudentLoss, Target, Vae,
    VaeConfig, VaeLatent, random_masking,
};
use nids_nn::engine::{Cut, Engine, Loss, Objective, Sample};
use nids_nn::gradcheck::uniform;
use nids_nn::loss::{BceWeights, bce_with_logits, sigmoid};
use nids_nn::optim::{AdamWConfig, Decay, Optimiser, OptimiserConfig, clip};
use nids_nn::{Cx, Gemm, Init, MAX_SHARD, Mode, ParamTable, Prepared, Real};

/// What is trained.
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub(crate) enum Model<R: Real> {
    /// Binary cross-entropy over rows of noise with labels of noise.
    Classifier(Classifier),
    /// Rows of noise to be rebuilt: two features are numbers, two are classes.
    Vae(Vae),
    /// Rows of noise, some of whose features are swapped for those of other rows.
    Replaced(Replaced),
    /// The classifier over features, only the first third of whose rows are labelled; of the others it is to say what its
    /// teacher does, whose parameters come first, while two features are hidden from it.
    Student(Classifier, Buffer<R>, Prepared<R>),
}

/// Names and widths of the features that an autoencoder reads, and what it predicts of each.
const FEATURES: [(&str, usize, Target); 4] =
    [("a", 2, Target::Numeric), ("b", 1, Target::Categorical(2)), ("c", 4, Target::Categorical(3)), ("d", 3, Target::Numeric)];
/// Weight of the KL divergence.
const BETA: f64 = 0.05;

/// A model and rows for it.
pub(crate) struct Task<R: Real> {
    pub(crate) table: ParamTable,
    pub(crate) model: Model<R>,
    pub(crate) width: usize,
    pub(crate) x: Vec<R>,
    pub(crate) labels: Vec<R>,
    /// Samples of a step.
    pub(crate) n_samples: usize,
    pub(crate) gemm: Gemm,
}

impl<R: Real> Task<R> {
    pub(crate) fn new(mixer: &MixerConfig, n_tokens: usize, n_samples: usize) -> Self {
        let mut table = ParamTable::default();
        let classifier = Classifier::new(&mut table.root(), Input::Patches { n_tokens, width: 3 }, mixer, 1);
        Self::on(table, Model::Classifier(classifier), 3 * n_tokens, n_samples)
    }

    /// Three members that share a classifier but for its first block on.
    pub(crate) fn ensemble(mixer: &MixerConfig, n_tokens: usize, n_samples: usize) -> Self {
        let mut table = ParamTable::default();
        let members = MembersConfig { members: 3, init: Init::AroundOne { std: 0.5 }, shared_blocks: 1 };
        let input = Input::Patches { n_tokens, width: 3 };
        let classifier = Classifier::ensemble(&mut table.root(), input, mixer, 1, members);
        Self { gemm: Gemm::Tiles, ..Self::on(table, Model::Classifier(classifier), 3 * n_tokens, n_samples) }
    }

    /// A variational autoencoder.
    pub(crate) fn autoencoder(mixer: &MixerConfig, latent: VaeLatent, n_samples: usize) -> Self {
        let mut table = ParamTable::default();
        let config = VaeConfig { latent_dim: 5, latent, decoder_depth: 1, ..VaeConfig::default() };
        let features = FEATURES.map(|(name, width, _)| (name.to_owned(), width));
        let vae = Vae::new(&mut table.root(), &features, &FEATURES.map(|(.., target)| target), mixer, config);
        Self::on(table, Model::Vae(vae), FEATURES.map(|(_, width, _)| width).iter().sum(), n_samples)
    }

    /// Replaced-feature detection.
    pub(crate) fn replaced(mixer: &MixerConfig, n_samples: usize) -> Self {
        let mut table = ParamTable::default();
        let features = FEATURES.map(|(name, width, _)| (name.to_owned(), width));
        let replaced = Replaced::new(&mut table.root(), &features, mixer, ReplacedConfig::default());
        let width = FEATURES.map(|(_, width, _)| width).iter().sum();
        Self { gemm: Gemm::Tiles, ..Self::on(table, Model::Replaced(replaced), width, n_samples) }
    }

    /// A classifier with a teacher.
    pub(crate) fn student(mixer: &MixerConfig, n_samples: usize) -> Self {
        let mut table = ParamTable::default();
        let features = FEATURES.map(|(name, width, _)| (name.to_owned(), width));
        let classifier = Classifier::new(&mut table.root(), Input::Features(&features), mixer, 1);
        let teacher = table.init::<R>(8);
        let prepared = Prepared::of(&table, Gemm::Tiles, &teacher);
        let width = FEATURES.map(|(_, width, _)| width).iter().sum();
        Self { gemm: Gemm::Tiles, ..Self::on(table, Model::Student(classifier, teacher, prepared), width, n_samples) }
    }

    fn on(table: ParamTable, model: Model<R>, width: usize, n_samples: usize) -> Self {
        let x = uniform(1, n_samples * width).into_iter().map(R::from_f64).collect();
        let labels = uniform(2, n_samples).into_iter().map(|u| if u > 0.0 { R::one() } else { R::zero() }).collect();
        Self { table, model, width, x, labels, n_samples, gemm: Gemm::default() }
    }

    /// The same task for each backend.
    pub(crate) fn every_backend(mixer: &MixerConfig, n_tokens: usize, n_samples: usize) -> [Self; 3] {
        [Gemm::OpenBlas, Gemm::Tiles, Gemm::Bf16].map(|gemm| Self { gemm, ..Self::new(mixer, n_tokens, n_samples) })
    }

    /// [`Task::every_backend`], members that share a classifier, both kinds of variational autoencoder, a student, and
    /// replaced-feature detection.
    pub(crate) fn every_model(mixer: &MixerConfig, n_tokens: usize, n_samples: usize) -> impl Iterator<Item = Self> {
        let vae = |latent| Self { gemm: Gemm::Tiles, ..Self::autoencoder(mixer, latent, n_samples) };
        let classifiers = Self::every_backend(mixer, n_tokens, n_samples).into_iter();
        let others =
            [Self::ensemble(mixer, n_tokens, n_samples), Self::student(mixer, n_samples), Self::replaced(mixer, n_samples)];
        classifiers.chain(others).chain([VaeLatent::Token, VaeLatent::Pooled].map(vae))
    }

    pub(crate) fn samples(&self) -> Vec<Sample> {
        (0..self.n_samples as u32).map(|row| Sample { row, key: 7 * row + 1 }).collect()
    }

    /// With shards that members fit into.
    fn cut(&self, cut: Cut) -> Cut {
        Cut { shard: cut.shard.min(MAX_SHARD / self.members()), ..cut }
    }

    /// Loss and gradient of one step whose samples come in `micro_batches`.
    pub(crate) fn gradient(&self, cut: Cut, micro_batches: &[usize]) -> (Loss, Buffer<R>) {
        let mut engine = Engine::new(&self.table, 1, self.gemm, self.cut(cut)).unwrap();
        let (params, mut grads) = (self.table.init::<R>(3), self.table.zeros());
        let samples = self.samples();
        let (mut loss, mut rest) = (Loss::default(), &samples[..]);
        for &size in micro_batches {
            let (micro_batch, after) = rest.split_at(size);
            engine.accumulate(self, &params, Key::new(4).child(1), &mut grads, &mut loss, 1, micro_batch);
            rest = after;
        }
        assert!(rest.is_empty(), "every sample is in a micro-batch");
        (loss, grads)
    }

    /// Weights and the last loss after `steps` of clipped AdamW; `after_step` looks at the engine.
    pub(crate) fn train(
        &self,
        threads: usize,
        cut: Cut,
        steps: u64,
        mut after_step: impl FnMut(&Engine<R>),
    ) -> (Buffer<R>, Loss) {
        let mut engine = Engine::new(&self.table, threads, self.gemm, self.cut(cut)).unwrap();
        let config = OptimiserConfig::AdamW(AdamWConfig::default());
        let mut optimiser = Optimiser::new(&self.table, config, Decay::Matrices, |_| 1.0);
        let (mut params, mut grads) = (self.table.init::<R>(3), self.table.zeros());
        let samples = self.samples();
        let mut loss = Loss::from(f64::NAN);
        for step in 0..steps {
            grads.fill(R::zero());
            loss = Loss::default();
            engine.accumulate(self, &params, Key::new(4).child(step), &mut grads, &mut loss, step, &samples);
            let norm = engine.grad_norm(&grads);
            engine.update(&mut optimiser, 3e-3, clip(norm, Some(1.0)), &mut params, &grads);
            after_step(&engine);
        }
        (params, loss)
    }
}

impl<R: Real> Objective<R> for Task<R> {
    fn members(&self) -> usize {
        if let Model::Classifier(classifier) = &self.model { classifier.encoder().members() } else { 1 }
    }

    fn shard(&self, cx: &Cx<'_, R>, grads: &mut [R], _step: u64, samples: &[Sample]) -> Loss {
        let b = samples.len();
        let x = cx.alloc(b * self.width);
        for (x, sample) in x.chunks_exact_mut(self.width).zip(samples) {
            x.copy_from_slice(&self.x[sample.row as usize * self.width..][..self.width]);
        }
        let labels = cx.alloc(b);
        labels.iter_mut().zip(samples).for_each(|(label, sample)| *label = self.labels[sample.row as usize]);
        let divisor = R::from_f64(self.n_samples as f64);
        match &self.model {
            Model::Classifier(classifier) => {
                let (logits, cache) = classifier.forward(cx, b, x);
                let dlogits = cx.tensor(logits.shape);
                let divisor = divisor * R::from_f64(self.members() as f64);
                let member_logits = logits.data.chunks_exact(b).zip(dlogits.data.chunks_exact_mut(b));
                let member_loss = |(x, dx): (&[R], &mut [R])| bce_with_logits(x, labels, BceWeights::default(), divisor, dx);
                let loss: f64 = member_logits.map(member_loss).sum();
                classifier.backward(cx, grads, cache, dlogits);
                loss.into()
            }
            Model::Vae(vae) => {
                let (features, targets) = (cx.alloc(x.len()), cx.alloc(FEATURES.len() * b));
                self.features(samples, x, features, targets);
                let Elbo { reconstruction, kl } = vae.loss(cx, Some(grads), b, features, targets, R::from_f64(BETA), divisor);
                Loss { total: reconstruction + BETA * kl, term: kl }
            }
            Model::Replaced(replaced) => {
                let Mode::Train { key, samples: keys } = cx.mode else { unreachable!("an engine trains") };
                let (features, swapped) = (cx.alloc(x.len()), cx.alloc(FEATURES.len() * b));
                self.features(samples, x, features, swapped);
                replaced.draw_swaps(key, keys, self.n_samples as u32, swapped, |t, j, row| {
                    let before: usize = FEATURES[..t].iter().map(|(_, width, _)| width).sum();
                    let width = FEATURES[t].1;
                    let donor = &self.x[row as usize * self.width + before..][..width];
                    let token = &mut features[before * b + j * width..][..width];
                    let differs = token != donor;
                    token.copy_from_slice(donor);
                    differs
                });
                let divisor = divisor * R::from_f64(FEATURES.len() as f64);
                replaced.loss(cx, Some(grads), b, features, swapped, divisor).into()
            }
            Model::Student(classifier, teacher, prepared) => {
                let Mode::Train { key, samples: keys } = cx.mode else { unreachable!("an engine trains") };
                let n_labelled = self.n_samples / 3;
                let labelled = samples.iter().filter(|sample| (sample.row as usize) < n_labelled).count();
                let (features, targets) = (cx.alloc(x.len()), cx.alloc(FEATURES.len() * b));
                let teaching = cx.with_params(teacher, prepared);
                let (whole, whole_targets) = (teaching.alloc(x.len()), teaching.alloc(FEATURES.len() * b));
                self.features(samples, x, whole, whole_targets);
                let taught = classifier.infer(&teaching, b, whole);
                labels[labelled..].iter_mut().zip(&taught.data[labelled..]).for_each(|(label, &logit)| *label = sigmoid(logit));
                self.features(samples, x, features, targets);
                let mask = cx.alloc(FEATURES.len() * b);
                random_masking(key, keys, FEATURES.len(), 2, None, mask);
                mask.chunks_exact_mut(b).for_each(|mask| mask[..labelled].fill(R::zero()));
                let [n_labelled, n_unlabelled] = [n_labelled, self.n_samples - n_labelled].map(|n| R::from_f64(n as f64));
                let student = Student { pos_weight: R::one(), n_labelled, n_unlabelled, weight: R::one() };
                let masked = Masked { mask, token: None };
                let StudentLoss { supervised, consistency } =
                    classifier.student_loss(cx, grads, b, features, masked, labels, labelled, student);
                Loss { total: supervised + consistency, term: consistency }
            }
        }
    }
}

impl<R: Real> Task<R> {
    /// Rows as an autoencoder wants them, feature by feature, and what is to be predicted of each: its first number, or a
    /// class.   x: [b, F]   features: one after the other, each [b, F_t]   targets: [4, b]
    fn features(&self, samples: &[Sample], x: &[R], features: &mut [R], targets: &mut [R]) {
        let b = samples.len();
        let (mut from, mut rest) = (0, features);
        for ((_, width, target), targets) in FEATURES.into_iter().zip(targets.chunks_exact_mut(b)) {
            let (feature, after) = rest.split_at_mut(b * width);
            for (((out, x), target_value), sample) in
                feature.chunks_exact_mut(width).zip(x.chunks_exact(self.width)).zip(targets).zip(samples)
            {
                out.copy_from_slice(&x[from..from + width]);
                *target_value = match target {
                    Target::Numeric => out[0],
                    Target::Categorical(n_classes) => R::from_f64((sample.row as usize % n_classes) as f64),
                    Target::Flag => unreachable!("no feature of these"),
                };
            }
            (from, rest) = (from + width, after);
        }
    }
}
