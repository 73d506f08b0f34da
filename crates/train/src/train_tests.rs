use std::fs;

use nids_kernels::{Gemm, Key};
use nids_nn::engine::{Cut, Loss};
use nids_nn::{Cx, Init, Param};

use super::*;
use crate::plan::Limits;
use crate::step::arithmetic;
use nids_config::Config;
use nids_store::run::Run;

const SETTINGS: &[&str] = &[
    "name=x",
    "pretrain.steps=9",
    "pretrain.batch_size=4",
    "pretrain.micro_batch=4",
    "pretrain.lr=1",
    "pretrain.schedule=constant",
    "pretrain.warmup=0",
    "pretrain.clip_norm=null",
    "pretrain.log_every=2",
    "pretrain.monitor=off",
    "pretrain.nonfinite=rollback",
];
const ROWS: u32 = 4;

/// A weight that starts at 0 and whose gradient is 1; below `edge`, and of one row, its loss is NaN.
struct Cliff {
    table: ParamTable,
    weight: Param,
    edge: f32,
    bad_row: Option<u32>,
}

impl Cliff {
    fn new(edge: f32) -> Self {
        let mut table = ParamTable::default();
        let weight = table.root().param("weight", &[1], Init::Zeros);
        Self { table, weight, edge, bad_row: None }
    }
}

impl Objective<f32> for Cliff {
    fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], _step: u64, samples: &[Sample]) -> Loss {
        let share = samples.len() as f32 / ROWS as f32;
        self.weight.of_mut(grads)[0] += share;
        let weight = self.weight.of(cx.params)[0];
        let is_bad = samples.iter().any(|sample| Some(sample.row) == self.bad_row);
        f64::from(if weight < self.edge || is_bad { f32::NAN } else { share * weight }).into()
    }
}

/// Wants to stop after so many steps, and hears warnings.
struct Stopping {
    left: u64,
    warnings: Vec<String>,
}

impl Progress for Stopping {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Step { .. } => self.left = self.left.saturating_sub(1),
            Event::Message(text) if text.starts_with("warning: ") => self.warnings.push(text.to_owned()),
            _ => {}
        }
    }

    fn stop(&mut self) -> Option<u8> {
        (self.left == 0).then_some(15)
    }
}

/// The weight, its average, `metrics.jsonl` and the warnings of a run that is stopped after every `every` steps.
fn train(optimiser: &str, edge: f32, every: u64) -> ([f32; 2], String, Vec<String>) {
    train_on(&Cliff::new(edge), ROWS, &[&format!("pretrain.{optimiser}")], every)
}

fn train_on(cliff: &Cliff, n_rows: u32, more: &[&str], every: u64) -> ([f32; 2], String, Vec<String>) {
    let overrides: Vec<String> = SETTINGS.iter().chain(more).map(ToString::to_string).collect();
    let config = Config::parse("{}", "c.yaml", &overrides).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = Run::create(folder.path()).unwrap();
    let mut plan = TrainPlan::new(Stage::Pretrain, &config.pretrain.training, n_rows as usize);
    plan.limits = Limits { max_skips: 2, rollback_every: 2, rollback_lr_factor: 0.01, max_rollbacks: 2, ..plan.limits };
    let mut engine = Engine::new(&cliff.table, 1, Gemm::Tiles, Cut { shard: 4, groups: 1 }).unwrap();
    let mut progress = Stopping { left: every, warnings: Vec::new() };
    loop {
        let average = RwLock::new(Ema::new(&cliff.table.zeros(), 0.9));
        let mut params = cliff.table.zeros();
        let mut stage = run.begin(Stage::Pretrain, &config, &mut progress).unwrap();
        let from = stage.resume(arithmetic(&engine), &mut progress).unwrap();
        // the rows of the step that comes are fetched, and those of the next are known, also after a rollback
        let fetch = |samples: &[Sample], next: &[Sample]| -> Result<()> {
            let (mut sampler, mut drawn) = (Sampler::new(1, (0..n_rows).collect()), [Vec::new(), Vec::new()]);
            let mut is_step = |step: &u64| {
                (*step..).zip(&mut drawn).for_each(|(step, drawn)| sampler.batch(step, samples.len(), drawn));
                drawn[0] == samples && drawn[1] == next
            };
            assert!((0..plan.steps).any(|step| is_step(&step)), "samples of a step and of the one after it");
            Ok(())
        };
        let job = Job {
            table: &cliff.table,
            objective: cliff,
            plan: &plan,
            key: Key::new(1),
            average: Some(&average),
            finished: &[],
            row: &|row| row.to_string(),
            fetch: Some(&fetch),
        };
        let mut sampler = Sampler::new(1, (0..n_rows).collect());
        let nothing = |_: u64, _: &Engine<f32>, _: &[f32], _: &mut StageRun<'_>, _: &mut dyn Progress| Ok(None);
        match job.train(&mut engine, |_| 1.0, &mut sampler, &mut params, from.as_ref(), &mut stage, &mut progress, nothing) {
            Ok(()) => {
                let averaged = average.read().unwrap().params()[0];
                let log = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
                return ([cliff.weight.of::<f32>(&params)[0], averaged], log, progress.warnings);
            }
            Err(Error::Interrupted { .. }) => progress.left = every,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_run_goes_back_to_a_step_before_it_was_stopped() {
    // step 5 goes over the edge: to -5, from -4
    for (optimiser, edge) in
        [("optimiser.adam={beta1: 0.5, beta2: 0.5}", -4.5), ("optimiser.adamw={beta1: 0.5, beta2: 0.5, weight_decay: 0}", -4.5)]
    {
        let wanted = train(optimiser, edge, 1000);
        let [warning] = &wanted.2[..] else { panic!("{:?}", wanted.2) };
        assert!(warning.contains("back to step 4, learning rates now x 0.01"), "{optimiser}: {warning}");
        {
            // every step is a rate long: four of 1, and five of 0.01 with the moments of the fourth
            assert!((wanted.0[0] + 4.05).abs() < 1e-5, "{:?}", wanted.0);
            // a line's loss is that of the steps after the one before it, those that were taken back left out
            let loss_of = |step: u64| {
                let lines = wanted.1.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
                let mut losses = lines.filter(|line| line["step"] == step).filter_map(|line| line["loss"].as_f64());
                losses.next_back().unwrap()
            };
            assert!((loss_of(4) + 2.5).abs() < 1e-6 && (loss_of(6) + 4.005).abs() < 1e-5, "{}", wanted.1);
        }
        for every in 1..=8 {
            let found = train(optimiser, edge, every);
            assert_eq!(found, wanted, "{optimiser}, stopped after every {every} steps");
        }
    }
}

#[test]
fn only_steps_skipped_in_a_row_count() {
    // in every epoch of two steps one has the bad row: there are three, and never three in a row
    let cliff = Cliff { bad_row: Some(7), ..Cliff::new(f32::NEG_INFINITY) };
    let settings = ["pretrain.steps=7", "pretrain.nonfinite=skip", "pretrain.optimiser.adam={beta1: 0.5, beta2: 0.5}"];
    let ([weight, _], log, warnings) = train_on(&cliff, 2 * ROWS, &settings, 1000);
    assert!((3..=4).contains(&warnings.len()) && warnings.iter().all(|warning| warning.ends_with(": skipped")), "{warnings:?}");
    assert!((weight + (7 - warnings.len()) as f32).abs() < 1e-6, "{weight}: {log}");
}
