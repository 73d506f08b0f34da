//! Every head on 200 labels, and how good it is on rows that it was not fitted on.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use ndarray::{Array1, Array2, Axis, concatenate};
use nids_eval::metrics::Metrics;
use nids_heads::{Boosting, BoostingConfig, ExtraTrees, ExtraTreesConfig, KernelConfig, KernelMachine, LogisticRegression, Pca};
use nids_kernels::Key;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

const LABELS: usize = 200;

/// Rows of 40 columns that ten hidden numbers make, with noise. A row is an attack where the first two lie outside a circle.
fn rows(n: usize, rng: &mut ChaCha8Rng, mixing: &Array2<f64>) -> (Array2<f32>, Vec<f64>) {
    let mut normal = |shape| Array2::<f64>::from_shape_simple_fn(shape, || StandardNormal.sample(rng));
    let hidden = normal((n, 10));
    let labels = hidden.outer_iter().map(|row| f64::from(u8::from(row[0].powi(2) + row[1].powi(2) + 0.8 * row[2] > 1.4)));
    let labels = labels.collect();
    ((hidden.dot(mixing) + 0.1 * normal((n, 40))).mapv(|value| value as f32), labels)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut mixing = Array2::from_shape_simple_fn((10, 40), || StandardNormal.sample(&mut rng));
    mixing.row_mut(0).mapv_inplace(|value: f64| 3.0 * value);
    mixing.row_mut(1).mapv_inplace(|value: f64| 3.0 * value);
    let (train, labels) = rows(4000, &mut rng, &mixing);
    let (other, wanted) = rows(4000, &mut rng, &mixing);
    let wanted: Vec<u8> = wanted.iter().map(|&label| label as u8).collect();

    // components of all rows, labels of few: what a frozen encoder's tokens are for
    let pca = Pca::fit(&train, 10)?;
    let few = Axis(0);
    let picked: Vec<usize> = (0..LABELS).collect();
    let (train, labels) = (train.select(few, &picked), &labels[..LABELS]);
    let (x, z) = (pca.transform(&train), pca.transform(&other));

    let logistic = LogisticRegression::fit_calibrated(&x, labels, None, 1.0)?.probabilities(&z);
    let kernel = KernelMachine::fit(&x, labels, None, KernelConfig { gamma: 0.05, c: 10.0 })?.probabilities(&z);
    let extra = ExtraTrees::fit(&train, labels, None, ExtraTreesConfig::default(), Key::new(1))?.probabilities(&other);
    let boosted = Boosting::fit(&train, labels, None, BoostingConfig { max_leaves: 7, min_leaf: 5, ..Default::default() })?;
    let boosted = boosted.probabilities(&other);
    let all = [&logistic, &kernel, &extra, &boosted].map(|p| p.view().insert_axis(Axis(1)));
    let committee = concatenate(Axis(1), &all)?.mean_axis(Axis(1)).expect("four columns");

    println!("{:24}  accuracy  ROC-AUC  log loss", format!("{LABELS} labels"));
    let mut found = Vec::new();
    let heads: [(&str, &Array1<f64>); 5] = [
        ("logistic regression", &logistic),
        ("kernel machine", &kernel),
        ("extra trees", &extra),
        ("boosting", &boosted),
        ("their mean", &committee),
    ];
    for (name, p) in heads {
        let p: Vec<f32> = p.iter().map(|&p| p as f32).collect();
        let metrics = Metrics::new(&p, &wanted, 0.5)?;
        let [accuracy, auc, loss] = [metrics.accuracy, metrics.roc_auc, metrics.log_loss].map(|value| value.unwrap_or(f64::NAN));
        println!("{name:24}  {accuracy:8.4}  {auc:7.4}  {loss:8.4}");
        found.push(accuracy);
    }
    assert!(found[1] > found[0] + 0.1, "no line parts a circle from what lies around it");
    assert!(found[1] > 0.8 && found[2] > 0.7 && found[3] > 0.7);
    Ok(())
}
