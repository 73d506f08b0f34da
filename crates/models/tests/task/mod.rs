//! Something to train on.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use nids_kernels::{Buffer, Key};
use nids_models::{Classifier, Input, MixerConfig};
use nids_nn::engine::{Cut, Engine, Objective, Sample};
use nids_nn::gradcheck::uniform;
use nids_nn::loss::{BceWeights, bce_with_logits};
use nids_nn::optim::{AdamConfig, Algorithm, Optimiser, clip};
use nids_nn::{Cx, Gemm, ParamTable, Real};

/// Binary cross-entropy over rows of noise with labels of noise.
pub(crate) struct Task<R> {
    pub(crate) table: ParamTable,
    pub(crate) classifier: Classifier,
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
        let width = 3 * n_tokens;
        let x = uniform(1, n_samples * width).into_iter().map(R::from_f64).collect();
        let labels = uniform(2, n_samples).into_iter().map(|u| if u > 0.0 { R::one() } else { R::zero() }).collect();
        Self { table, classifier, width, x, labels, n_samples, gemm: Gemm::default() }
    }

    /// The same task for each backend.
    pub(crate) fn of_backends(mixer: &MixerConfig, n_tokens: usize, n_samples: usize) -> [Self; 2] {
        [Gemm::OpenBlas, Gemm::Tiles].map(|gemm| Self { gemm, ..Self::new(mixer, n_tokens, n_samples) })
    }

    pub(crate) fn samples(&self) -> Vec<Sample> {
        (0..self.n_samples as u32).map(|row| Sample { row, key: 7 * row + 1 }).collect()
    }

    /// Loss and gradient of one step whose samples come in `micro_batches`.
    pub(crate) fn gradient(&self, cut: Cut, micro_batches: &[usize]) -> (f64, Buffer<R>) {
        let mut engine = Engine::new(&self.table, 1, self.gemm, cut).unwrap();
        let (params, mut grads) = (self.table.init::<R>(3), self.table.zeros());
        let samples = self.samples();
        let (mut loss, mut rest) = (0.0, &samples[..]);
        for &size in micro_batches {
            let (micro_batch, after) = rest.split_at(size);
            loss += engine.accumulate(self, &params, Key::new(4).child(1), micro_batch, &mut grads);
            rest = after;
        }
        assert!(rest.is_empty(), "every sample is in a micro-batch");
        (loss, grads)
    }

    /// Weights and the last loss after `steps` of clipped AdamW; `after_step` looks at the engine.
    pub(crate) fn train(&self, threads: usize, cut: Cut, steps: u64, mut after_step: impl FnMut(&Engine<R>)) -> (Buffer<R>, f64) {
        let mut engine = Engine::new(&self.table, threads, self.gemm, cut).unwrap();
        let algorithm = Algorithm::AdamW(AdamConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 });
        let mut optimiser = Optimiser::new(&self.table, algorithm, |_| 1.0);
        let (mut params, mut grads) = (self.table.init::<R>(3), self.table.zeros());
        let samples = self.samples();
        let mut loss = f64::NAN;
        for step in 0..steps {
            grads.fill(R::zero());
            loss = engine.accumulate(self, &params, Key::new(4).child(step), &samples, &mut grads);
            let norm = engine.grad_norm(&grads);
            engine.update(&mut optimiser, 3e-3, clip(norm, Some(1.0)), &mut params, &grads);
            after_step(&engine);
        }
        (params, loss)
    }
}

impl<R: Real> Objective<R> for Task<R> {
    fn shard(&self, cx: &Cx<'_, R>, grads: &mut [R], samples: &[Sample]) -> f64 {
        let b = samples.len();
        let x = cx.alloc(b * self.width);
        for (x, sample) in x.chunks_exact_mut(self.width).zip(samples) {
            x.copy_from_slice(&self.x[sample.row as usize * self.width..][..self.width]);
        }
        let labels = cx.alloc(b);
        labels.iter_mut().zip(samples).for_each(|(label, sample)| *label = self.labels[sample.row as usize]);
        let (logits, cache) = self.classifier.forward(cx, b, x);
        let dlogits = cx.tensor(logits.shape);
        let divisor = R::from_f64(self.n_samples as f64);
        let loss = bce_with_logits(logits.data, labels, BceWeights::default(), divisor, dlogits.data);
        self.classifier.backward(cx, grads, cache, dlogits);
        loss
    }
}
