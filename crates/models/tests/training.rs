//! Training a small classifier through the engine: what may not change the result does not, and what should be learned is.

use std::f64::consts::LN_2;

use nids_kernels::{Buffer, Key};
use nids_models::{Classifier, Input, MixerConfig};
use nids_nn::engine::{Cut, Engine, Objective, Sample};
use nids_nn::gradcheck::{max_scaled_difference, uniform};
use nids_nn::loss::{BceWeights, bce_with_logits};
use nids_nn::optim::{AdamConfig, Algorithm, Optimiser, clip};
use nids_nn::{Activation, Cx, Gemm, ParamTable, Real};

const MIXER: MixerConfig = MixerConfig {
    dim: 12,
    depth: 3,
    token_hidden: 9,
    channel_hidden: 10,
    n_registers: 1,
    activation: Activation::Gelu,
    dropout: 0.2,
    drop_path: 0.4,
};

const PLAIN: MixerConfig = MixerConfig { dropout: 0.0, drop_path: 0.0, ..MIXER };

/// Binary cross-entropy over rows of noise with labels of noise.
struct Task<R> {
    table: ParamTable,
    classifier: Classifier,
    width: usize,
    x: Vec<R>,
    labels: Vec<R>,
    /// Samples of a step.
    n_samples: usize,
    gemm: Gemm,
}

impl<R: Real> Task<R> {
    fn new(mixer: &MixerConfig, n_tokens: usize, n_samples: usize) -> Self {
        let mut table = ParamTable::default();
        let classifier = Classifier::new(&mut table.root(), Input::Patches { n_tokens, width: 3 }, mixer, 1);
        let width = 3 * n_tokens;
        let x = uniform(1, n_samples * width).into_iter().map(R::from_f64).collect();
        let labels = uniform(2, n_samples).into_iter().map(|u| if u > 0.0 { R::one() } else { R::zero() }).collect();
        Self { table, classifier, width, x, labels, n_samples, gemm: Gemm::default() }
    }

    /// The same task for each backend.
    fn of_backends(mixer: &MixerConfig, n_tokens: usize, n_samples: usize) -> [Self; 2] {
        [Gemm::OpenBlas, Gemm::Tiles].map(|gemm| Self { gemm, ..Self::new(mixer, n_tokens, n_samples) })
    }

    fn samples(&self) -> Vec<Sample> {
        (0..self.n_samples as u32).map(|row| Sample { row, key: 7 * row + 1 }).collect()
    }

    /// Loss and gradient of one step whose samples come in `micro_batches`.
    fn gradient(&self, cut: Cut, micro_batches: &[usize]) -> (f64, Buffer<R>) {
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
    fn train(&self, threads: usize, cut: Cut, steps: u64, mut after_step: impl FnMut(&Engine<R>)) -> (Buffer<R>, f64) {
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

#[test]
fn no_cut_of_a_batch_changes_its_gradient() {
    for task in Task::<f64>::of_backends(&MIXER, 5, 24) {
        cuts_agree(&task);
    }
}

fn cuts_agree(task: &Task<f64>) {
    let (loss, whole) = task.gradient(Cut { shard: 24, groups: 1 }, &[24]);
    for (shard, groups) in [(1, 1), (2, 3), (5, 3), (7, 2), (64, 16)] {
        for micro_batches in [&[24][..], &[10, 14], &[1, 20, 3], &[6; 4], &[1; 24]] {
            let (other_loss, other) = task.gradient(Cut { shard, groups }, micro_batches);
            let difference = max_scaled_difference(&other, &whole);
            let what = format!("shards of {shard}, {groups} groups, micro-batches {micro_batches:?}");
            assert!(difference < 1e-12, "{what}: off by {difference:.1e} of the largest");
            assert!((other_loss - loss).abs() < 1e-12 * loss, "{what}: loss {other_loss}, not {loss}");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    for task in Task::<f32>::of_backends(&MIXER, 5, 40) {
        let [one, two, four, eight] = [1, 2, 4, 8].map(|threads| {
            let (params, _) = task.train(threads, Cut { shard: 3, groups: 4 }, 50, |_| ());
            params.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect::<Vec<u8>>()
        });
        assert!(one == two && one == four && one == eight, "{:?}", task.gemm);
    }
}

#[test]
fn memory_is_settled_after_the_first_step() {
    // sizes at which chunks have little room to spare, so that a pass that needs more than the first one shows
    let mixer = MixerConfig { dim: 64, token_hidden: 32, channel_hidden: 64, ..MIXER };
    let mut grew = Vec::new();
    for shard in [8, 9, 21, 22, 23, 32] {
        for task in Task::<f32>::of_backends(&mixer, 15, 2 * shard) {
            let mut held = Vec::new();
            task.train(1, Cut { shard, groups: 1 }, 20, |engine| held.push(engine.memory_bytes()));
            if held.iter().any(|&bytes| bytes != held[0]) {
                grew.push((shard, task.gemm, held));
            }
        }
    }
    assert!(grew.is_empty(), "{grew:?}");
}

#[test]
fn a_zero_head_starts_at_ln_2() {
    let task = Task::<f64>::new(&MIXER, 5, 24);
    let mut params = task.table.init::<f64>(3);
    for spec in task.table.specs().iter().filter(|spec| spec.name.starts_with("classifier.")) {
        spec.param.of_mut::<f64>(&mut params).fill(0.0);
    }
    let mut engine = Engine::new(&task.table, 1, Gemm::default(), Cut { shard: 5, groups: 2 }).unwrap();
    let loss = engine.accumulate(&task, &params, Key::new(4), &task.samples(), &mut task.table.zeros());
    assert!((loss - LN_2).abs() < 1e-12, "{loss}");
}

#[test]
fn one_batch_is_learned_by_heart() {
    let task = Task::<f32>::new(&PLAIN, 5, 24);
    let (_, loss) = task.train(2, Cut { shard: 3, groups: 4 }, 150, |_| ());
    assert!(loss < 0.01, "{loss}");
}
