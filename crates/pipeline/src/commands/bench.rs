//! How fast the engine is on this machine: training steps of fixed shapes, and the default config's own work.

use std::io::BufWriter;
use std::path::PathBuf;
use std::time::Instant;

use nids_detect::engine::{engine, inference_engine};
use nids_detect::{Detector, ReadSummary, wants_classes};
use nids_flows::{Classes, ReadOptions, Tokeniser, all_rows, synthetic, write_csv};
use nids_kernels::{Activation, Buffer, Key};
use nids_models::{Classifier, Encoder, Input, MixerConfig};
use nids_nn::engine::{Loss, Objective, Sample};
use nids_nn::{Cx, ParamTable};
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;

use crate::pretext::Pretext;
use crate::stages::finetune::targets::{Targets, classify};
use crate::stages::pretrain::PretextObjective;
use crate::step_rows::StepRows;
use nids_config::{Config, FinetuneConfig, Stage, TrainingConfig};
use nids_store::progress::Silent;
use nids_store::{Error, Result};
use nids_train::{Outcome, Sampler, StepRunner, TrainPlan};

mod read;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Training steps of a fixed shape.
    Shape(&'static Shape),
    /// Pretraining steps of the config.
    Mae,
    /// Verdicts for many flows.
    Predict,
    /// Flows from files, to tokens and to verdicts.
    Read,
    /// A verdict for one flow.
    Latency,
}

/// A network and a batch size on which other implementations can be measured, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    name: &'static str,
    batch: usize,
    n_tokens: usize,
    /// Input values of a token.
    patch: usize,
    dim: usize,
    token_hidden: usize,
    channel_hidden: usize,
    depth: usize,
}

/// The shapes that docs/benchmarks.md compares with other implementations.
const SHAPES: [Shape; 4] = [
    Shape { name: "S", batch: 4096, n_tokens: 42, patch: 1, dim: 48, token_hidden: 168, channel_hidden: 24, depth: 10 },
    Shape { name: "M", batch: 4096, n_tokens: 14, patch: 3, dim: 198, token_hidden: 56, channel_hidden: 99, depth: 10 },
    Shape { name: "L", batch: 1024, n_tokens: 42, patch: 1, dim: 128, token_hidden: 84, channel_hidden: 256, depth: 6 },
    Shape { name: "M32", batch: 32, n_tokens: 14, patch: 3, dim: 198, token_hidden: 56, channel_hidden: 99, depth: 10 },
];

impl Case {
    /// Every case, in the order in which they are reported.
    pub fn all() -> impl Iterator<Item = Self> {
        SHAPES.iter().map(Self::Shape).chain([Self::Mae, Self::Predict, Self::Read, Self::Latency])
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shape(shape) => shape.name,
            Self::Mae => "mae",
            Self::Predict => "predict",
            Self::Read => "read",
            Self::Latency => "latency",
        }
    }
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The cases to measure, in this order.
    pub cases: Vec<Case>,
    /// Dropout of the fixed shapes, and stochastic depth at their last block.
    pub dropout: f64,
    /// Number of timed steps or passes of each case; the median is reported.
    pub repeats: usize,
    /// The files that [`Case::Read`] reads; without any, generated ones.
    pub data: Vec<PathBuf>,
}

/// The result of a case.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Measurement {
    /// Whole training steps: forward, backward, clipping, AdamW.
    Train(TrainFigures),
    /// Verdicts on many flows.
    Predict(PredictFigures),
    /// Flows from a file.
    Read(ReadFigures),
    /// One flow at a time, from its columns to its probability.
    Latency(LatencyFigures),
}

/// Figures of training steps.
#[derive(Clone, Debug, Serialize)]
pub struct TrainFigures {
    /// Name of the case.
    pub name: &'static str,
    /// Rows of a step, B.
    pub batch: usize,
    /// Tokens, N.
    pub n_tokens: usize,
    /// Embedding width, D.
    pub dim: usize,
    /// Hidden units of token mixing.
    pub token_hidden: usize,
    /// Hidden units of channel mixing.
    pub channel_hidden: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Dropout in both MLPs.
    pub dropout: f64,
    /// Stochastic depth at the last block.
    pub drop_path: f64,
    /// Rows that go through the network at once.
    pub shard: usize,
    /// Seconds of a step: the median.
    pub step_s: f64,
    /// Seconds of each step.
    pub step_s_all: Vec<f64>,
    /// Rows per second, from the median.
    pub rows_per_s: f64,
    /// GFLOP of the matrix products of a step. What stochastic depth skips is not subtracted.
    pub gflop_per_step: f64,
    /// Rate of the matrix products as a share of the highest rate of the workers, which is measured between the steps: the median.
    pub share_of_peak: f64,
    /// Memory of activations, gradients, moments and parameters.
    pub memory_mib: f64,
}

/// Figures of verdicts on many flows.
#[derive(Clone, Debug, Serialize)]
pub struct PredictFigures {
    /// Name of the case.
    pub name: &'static str,
    /// Number of flows of a pass.
    pub rows: usize,
    /// Rows per second from tokenised flows to probabilities: the network alone.
    pub rows_per_s: f64,
    /// Rows per second from a CSV file to probabilities.
    pub csv_rows_per_s: f64,
    /// Extra time of reading and tokenising as a share of the time of the network.
    pub csv_overhead: f64,
    /// MFLOP of the matrix products of a row.
    pub mflop_per_row: f64,
    /// Rate of the matrix products as a share of the highest rate of the workers.
    pub share_of_peak: f64,
}

/// Figures of flows from a file.
#[derive(Clone, Debug, Serialize)]
pub struct ReadFigures {
    /// Name of the case.
    pub name: &'static str,
    /// The file.
    pub file: String,
    /// Rows of the file.
    pub rows: usize,
    /// Rows per second from the file to tokens.
    pub tokens_per_s: f64,
    /// Rows per second from the file to probabilities.
    pub verdicts_per_s: f64,
}

/// Figures of verdicts on one flow.
#[derive(Clone, Debug, Serialize)]
pub struct LatencyFigures {
    /// Name of the case.
    pub name: &'static str,
    /// Number of flows, one after the other.
    pub flows: usize,
    /// The median in microseconds.
    pub p50_us: f64,
    /// The 99th percentile in microseconds.
    pub p99_us: f64,
}

/// All results, and what they were measured with.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Name and version of the program.
    pub tool: String,
    /// GEMM backend and instruction set.
    pub kernels: String,
    /// Number of workers.
    pub threads: usize,
    /// Highest rate of f32 multiply-adds of all workers together: the median over the run.
    pub peak_gflops: f64,
    /// One result for each case.
    pub results: Vec<Measurement>,
}

/// Measures `options.cases` with the engine and the network of `config`. Flows are generated.
pub fn bench(config: &Config, options: &BenchOptions) -> Result<BenchReport> {
    config.engine.check().map_err(Error::Usage)?;
    let mut peaks = Vec::new();
    let mut results = Vec::new();
    for case in &options.cases {
        match case {
            Case::Shape(shape) => results.push(Measurement::Train(shape.measure(config, options, &mut peaks)?)),
            Case::Mae => results.push(Measurement::Train(measure_mae(config, options, &mut peaks)?)),
            Case::Predict => results.push(Measurement::Predict(measure_predict(config, options, &mut peaks)?)),
            Case::Read => results.extend(read::measure(config, options)?.into_iter().map(Measurement::Read)),
            Case::Latency => results.push(Measurement::Latency(measure_latency(config)?)),
        }
    }
    let engine = inference_engine(config, &ParamTable::default(), 0, 1, 0)?;
    Ok(BenchReport {
        tool: concat!("nids-mixer ", env!("CARGO_PKG_VERSION")).to_owned(),
        kernels: nids_kernels::describe(engine.gemm()),
        threads: engine.threads(),
        peak_gflops: if peaks.is_empty() { engine.peak_flops() } else { median(&peaks) } / 1e9,
        results,
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let started = Instant::now();
    let result = work();
    (started.elapsed().as_secs_f64(), result)
}

impl Shape {
    fn measure(&self, config: &Config, options: &BenchOptions, peaks: &mut Vec<f64>) -> Result<TrainFigures> {
        let Self { name, batch, n_tokens, patch, dim, token_hidden, channel_hidden, depth } = *self;
        let (dropout, drop_path) = (options.dropout, options.dropout);
        let activation = Activation::Gelu;
        let mixer = MixerConfig { dim, depth, token_hidden, channel_hidden, n_registers: 0, activation, dropout, drop_path };
        let mut table = ParamTable::default();
        let classifier = Classifier::new(&mut table.root(), Input::Patches { n_tokens, width: patch }, &mixer, 1);
        let width = n_tokens * patch;
        let labels = noise(2, batch).iter().map(|&x| if x > 0.0 { 1.0 } else { 0.0 }).collect();
        let targets = Targets::Attack { labels, pos_weight: 1.0 };
        let objective = LabelledNoise { classifier, width, x: noise(1, batch * width), targets, divisor: batch as f32 };
        let training = TrainingConfig { batch_size: batch, micro_batch: batch, ..FinetuneConfig::default().training };
        let plan = TrainPlan::new(Stage::Finetune, &training, batch);
        let encoder = objective.classifier.encoder();
        // backward makes two products of each of forward's
        let flops = 3.0 * batch as f64 * encoder.forward_flops();
        measure_steps(name, config, options, &table, encoder, encoder.activations(), &objective, &plan, batch, flops, peaks)
    }
}

/// Numbers of N(0, 1).
fn noise(seed: u64, len: usize) -> Vec<f32> {
    StandardNormal.sample_iter(&mut Key::new(seed).stream(0, 0)).take(len).collect()
}

/// Binary cross-entropy over rows of noise.
struct LabelledNoise {
    classifier: Classifier,
    width: usize,
    x: Vec<f32>,
    targets: Targets,
    divisor: f32,
}

impl Objective<f32> for LabelledNoise {
    fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], _step: u64, samples: &[Sample]) -> Loss {
        let b = samples.len();
        let x = cx.alloc(b * self.width);
        for (x, sample) in x.chunks_exact_mut(self.width).zip(samples) {
            x.copy_from_slice(&self.x[sample.row as usize * self.width..][..self.width]);
        }
        classify(cx, grads, &self.classifier, b, x, &self.targets, &samples.iter().map(|sample| sample.row), self.divisor).into()
    }
}

fn measure_steps(
    name: &'static str,
    config: &Config,
    options: &BenchOptions,
    table: &ParamTable,
    encoder: &Encoder,
    activations: usize,
    objective: &dyn Objective<f32>,
    plan: &TrainPlan,
    n_rows: usize,
    flops: f64,
    peaks: &mut Vec<f64>,
) -> Result<TrainFigures> {
    let mixer = encoder.config();
    let mut engine = engine(config, table, activations, 1, plan.batch_size)?;
    let mut params: Buffer<f32> = table.init(0);
    let mut trainer = StepRunner::new(table, objective, plan, Key::new(0), |_| 1.0);
    let mut sampler = Sampler::new(0, all_rows(n_rows));
    let mut samples = Vec::with_capacity(plan.batch_size);
    let (mut steps, mut shares) = (Vec::new(), Vec::new());
    engine.run(|engine| -> Result<()> {
        // the first steps settle memory, caches and the clock
        const WARM_UP: usize = 2;
        for step in 0..options.repeats + WARM_UP {
            sampler.batch(step as u64, plan.batch_size, &mut samples);
            let peak = engine.peak_flops();
            let (seconds, taken) = timed(|| trainer.step(engine, step as u64, &samples, 1.0, &mut params, &mut |_, _| ()));
            if let Outcome::Nonfinite(_) = taken {
                return Err(Error::Numerics(format!(
                    "step {}: non-finite values (NaN, Inf): this is a bug of the program",
                    step + 1
                )));
            }
            if step >= WARM_UP {
                steps.push(seconds);
                shares.push(flops / seconds / peak);
                peaks.push(peak);
            }
        }
        Ok(())
    })?;
    let step_s = median(&steps);
    Ok(TrainFigures {
        name,
        batch: plan.batch_size,
        n_tokens: encoder.n_tokens(),
        dim: mixer.dim,
        token_hidden: mixer.token_hidden,
        channel_hidden: mixer.channel_hidden,
        depth: mixer.depth,
        dropout: mixer.dropout,
        drop_path: mixer.drop_path,
        shard: engine.cut().shard,
        step_s,
        step_s_all: steps,
        rows_per_s: plan.batch_size as f64 / step_s,
        gflop_per_step: flops / 1e9,
        share_of_peak: median(&shares),
        // parameters, gradients and two moments
        memory_mib: (engine.memory_bytes() + 4 * table.buffer_len() * size_of::<f32>()) as f64 / f64::from(1 << 20),
    })
}

/// Flows that steps and verdicts are measured on.
const FLOWS: usize = 16_384;

fn measure_mae(config: &Config, options: &BenchOptions, peaks: &mut Vec<f64>) -> Result<TrainFigures> {
    let flows = synthetic(FLOWS, 1);
    let tokeniser = Tokeniser::fit(&flows, &all_rows(FLOWS), &config.tokeniser)?;
    let encoded = tokeniser.tokenise(&flows)?;
    let mut table = ParamTable::default();
    let pretext = Pretext::new(config, &tokeniser, &mut table)?;
    let plan = TrainPlan::new(Stage::Pretrain, &config.pretrain.training, FLOWS);
    let objective = PretextObjective::new(&config.pretrain, &pretext, StepRows::Memory(&encoded));
    let flops = 3.0 * plan.batch_size as f64 * pretext.forward_flops();
    measure_steps(
        Case::Mae.name(),
        config,
        options,
        &table,
        pretext.encoder(),
        pretext.activations(),
        &objective,
        &plan,
        FLOWS,
        flops,
        peaks,
    )
}

/// Generated flows, and an untrained classifier of the config on them.
fn untrained(config: &Config) -> Result<(nids_flows::Flows, Detector)> {
    let flows = synthetic(FLOWS, 1);
    let detector = untrained_on(config, &flows)?;
    Ok((flows, detector))
}

/// An untrained classifier of the config, because only its speed matters here.
fn untrained_on(config: &Config, flows: &nids_flows::Flows) -> Result<Detector> {
    let rows = all_rows(flows.len());
    let tokeniser = Tokeniser::fit(flows, &rows, &config.tokeniser)?;
    let classes = wants_classes(config).then(|| Classes::fit(flows, &rows)).transpose()?;
    Detector::untrained(config, tokeniser, classes)
}

fn measure_predict(config: &Config, options: &BenchOptions, peaks: &mut Vec<f64>) -> Result<PredictFigures> {
    let (flows, detector) = untrained(config)?;
    let flops_per_row = detector.model().forward_flops().expect("a network without heads");
    let encoded = detector.tokeniser().tokenise(&flows)?;
    let file = tempfile::NamedTempFile::new().map_err(Error::io("a temporary file", "make"))?;
    write_csv(&flows, BufWriter::new(&file)).map_err(Error::io(file.path(), "write"))?;
    let (mut network, mut csv, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for pass in 0..=options.repeats {
        let peak = detector.engine().peak_flops();
        let (network_s, _) = timed(|| detector.probabilities(&encoded));
        let mut n_rows = 0;
        let (csv_s, read) = timed(|| {
            detector.each_batch(
                &[file.path()],
                &ReadOptions::default(),
                &mut ReadSummary::default(),
                &mut Silent,
                |_, batch, _| {
                    n_rows += batch.attacks.len();
                    Ok(())
                },
            )
        });
        read?;
        assert_eq!(n_rows, flows.len(), "a verdict a row");
        // the first pass settles memory
        if pass > 0 {
            network.push(network_s);
            csv.push(csv_s / network_s);
            shares.push(flops_per_row * flows.len() as f64 / network_s / peak);
            peaks.push(peak);
        }
    }
    let (seconds, csv) = (median(&network), median(&csv));
    let rows_per_s = flows.len() as f64 / seconds;
    Ok(PredictFigures {
        name: Case::Predict.name(),
        rows: flows.len(),
        rows_per_s,
        csv_rows_per_s: rows_per_s / csv,
        csv_overhead: csv - 1.0,
        mflop_per_row: flops_per_row / 1e6,
        share_of_peak: median(&shares),
    })
}

fn measure_latency(config: &Config) -> Result<LatencyFigures> {
    const TIMED: usize = 10_000;
    let (flows, detector) = untrained(config)?;
    let single: Vec<_> = (0..TIMED as u32).map(|i| flows.select(&[i % FLOWS as u32])).collect();
    let mut times = Vec::with_capacity(TIMED);
    for flow in &single {
        let (seconds, probability) =
            timed(|| detector.tokeniser().tokenise(flow).map(|encoded| detector.probabilities(&encoded)));
        probability?;
        times.push(seconds * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(LatencyFigures { name: Case::Latency.name(), flows: TIMED, p50_us: times[TIMED / 2], p99_us: times[TIMED * 99 / 100] })
}
