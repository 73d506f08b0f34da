//! How good reasons are: how fast the log odds of an attack fall as the features that they name are filled in, beside a random order
//! and that of integrated gradients, and how long a reason takes. Without arguments, of a tiny classifier that is trained first.
//!
//! ```sh
//! cargo run --release -p nids-detect --example reasons -- runs/unsw-nb15 flows.csv
//! ```

#![allow(clippy::print_stdout, reason = "an example tells what it found")]

use std::path::Path;
use std::time::Instant;

use nids_config::Config;
use nids_detect::Detector;
use nids_detect::reasons::Explainer;
use nids_flows::{Flows, ReadOptions, read};
use nids_pipeline::stages;
use nids_store::Run;
use nids_store::progress::Silent;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Groups of features, in an order for each row.
type Orders = Vec<Vec<Vec<usize>>>;

/// Alerts that are looked at, at most.
const ALERTS: usize = 200;
/// Points of the path from a benign row to an alert.
const STEPS: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let run = match arguments.as_slice() {
        [] => tiny(&folder.path().join("run"))?,
        [run, _] => Run::open(Path::new(run))?,
        _ => return Err("expected a run folder and a file of flows".into()),
    };
    let detector = Detector::open(&run)?;
    let explainer = Explainer::open(&run, &detector)?.ok_or("the run keeps no benign rows to compare alerts with")?;
    let flows = match arguments.get(1) {
        None => nids_flows::synthetic(300, 7),
        Some(file) => read(Path::new(file), detector.schema(), &ReadOptions::default())?,
    };
    let start = Instant::now();
    let verdicts = detector.score(&flows)?;
    println!(
        "a verdict takes {:.3} ms among {} on the threads of the run",
        1e3 * start.elapsed().as_secs_f64() / flows.len() as f64,
        flows.len()
    );
    let alerts: Vec<u32> = (0..).zip(&verdicts).filter(|(_, verdict)| verdict.is_attack).map(|(row, _)| row).collect();
    let step = alerts.len().div_ceil(ALERTS).max(1);
    let alerts = flows.select(&alerts.into_iter().step_by(step).collect::<Vec<_>>());

    let start = Instant::now();
    let reasons = explainer.reasons(&detector, &alerts)?;
    let seconds = start.elapsed().as_secs_f64();
    let alone = Instant::now();
    (0..alerts.len().min(20) as u32).try_for_each(|row| explainer.reasons(&detector, &alerts.select(&[row])).map(drop))?;
    let one = alone.elapsed().as_secs_f64() / alerts.len().min(20) as f64;
    println!(
        "{} alerts, {:.2} ms each together, {:.2} ms one by one",
        alerts.len(),
        1e3 * seconds / alerts.len() as f64,
        1e3 * one
    );
    let mean = reasons.iter().map(Vec::len).sum::<usize>() as f64 / alerts.len() as f64;
    println!("{mean:.2} reasons each, {} without any", reasons.iter().filter(|reasons| reasons.is_empty()).count());

    let occluded = explainer.orders(&detector, &alerts)?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let random: Orders = occluded
        .iter()
        .map(|order| {
            let mut order = order.clone();
            order.shuffle(&mut rng);
            order
        })
        .collect();
    let mut orders = vec![("reasons", occluded), ("random", random)];
    if let Some(gradients) = integrated_gradients(&detector, &explainer, &alerts)? {
        orders.push(("integrated gradients", gradients));
    }
    let mut areas = Vec::new();
    for (name, orders) in &orders {
        let curves = explainer.deletion_curves(&detector, &alerts, orders)?;
        let mean = |place: usize| curves.iter().map(|curve| curve[place]).sum::<f64>() / curves.len() as f64;
        let shown: Vec<String> = (0..curves[0].len()).step_by(3).map(|place| format!("{:.2}", mean(place))).collect();
        let area = (0..curves[0].len()).map(mean).sum::<f64>() / curves[0].len() as f64;
        areas.push(area);
        println!("{name}: mean log odds {area:.3}; after 0, 3, 6... groups: {}", shown.join(" "));
    }
    assert!(areas[0] < areas[1], "a random order is as good");
    if let [(_, occluded), _, (_, gradients)] = orders.as_slice() {
        let same = occluded.iter().zip(gradients).map(|(a, b)| a[..3].iter().filter(|group| b[..3].contains(group)).count());
        let same = same.sum::<usize>() as f64 / (3 * occluded.len()) as f64;
        let by_chance = 3.0 / occluded[0].len() as f64;
        println!("of the first three groups integrated gradients have {same:.3} in common; by chance {by_chance:.3}");
    }
    Ok(())
}

/// A classifier on generated flows.
fn tiny(folder: &Path) -> Result<Run, Box<dyn std::error::Error>> {
    let settings = ["finetune.steps=60", "pretrain.steps=60", "engine.threads=2"].map(str::to_owned);
    let config = Config::parse(include_str!("../../../configs/tiny.yaml"), "configs/tiny.yaml", &settings)?;
    let run = Run::create(folder)?;
    stages::pretrain(&config, &run, &mut Silent)?;
    stages::finetune(&config, &run, &mut Silent)?;
    Ok(run)
}

/// Groups by their integrated gradients (Sundararajan 2017), the largest first: the derivative of the log odds along each group's part
/// of the way from the mean background row to the alert, by differences, averaged over that way. Of a network alone.
fn integrated_gradients(
    detector: &Detector,
    explainer: &Explainer,
    alerts: &Flows,
) -> Result<Option<Orders>, Box<dyn std::error::Error>> {
    const H: f32 = 0.02;
    let tokeniser = detector.tokeniser();
    let widths: Vec<usize> = tokeniser.tokens().iter().map(|token| token.width).collect();
    let rows = |flows: &Flows| -> Result<Vec<Vec<f32>>, nids_flows::Error> {
        let table = tokeniser.tokenise(flows)?;
        Ok((0..table.n_rows())
            .map(|row| {
                let mut x = vec![0.0; table.width()];
                table.expand_row(row, &mut x);
                x
            })
            .collect())
    };
    let background = rows(explainer.benign_rows())?;
    let mean: Vec<f32> =
        (0..background[0].len()).map(|i| background.iter().map(|row| row[i]).sum::<f32>() / background.len() as f32).collect();
    let groups = &explainer.background().groups;
    let range = |feature: usize| {
        let first = widths[..feature].iter().sum::<usize>();
        first..first + widths[feature]
    };
    let mut orders = Vec::new();
    for x in rows(alerts)? {
        let mut inputs = Vec::new();
        for step in 0..STEPS {
            let at = (step as f32 + 0.5) / STEPS as f32;
            for group in groups {
                for side in [H, -H] {
                    let mut point: Vec<f32> = mean.iter().zip(&x).map(|(mean, x)| mean + at * (x - mean)).collect();
                    for i in group.iter().flat_map(|&feature| range(feature)) {
                        point[i] += side * (x[i] - mean[i]);
                    }
                    inputs.push(point);
                }
            }
        }
        let Some(odds) = detector.model().log_odds_between(&inputs, &widths) else { return Ok(None) };
        let mut said = vec![0.0; groups.len()];
        for of_step in odds.chunks_exact(2 * groups.len()) {
            said.iter_mut().zip(of_step.chunks_exact(2)).for_each(|(said, pair)| *said += pair[0] - pair[1]);
        }
        let mut order: Vec<usize> = (0..groups.len()).collect();
        order.sort_by(|&a, &b| said[b].total_cmp(&said[a]));
        orders.push(order.into_iter().map(|group| groups[group].clone()).collect());
    }
    Ok(Some(orders))
}
