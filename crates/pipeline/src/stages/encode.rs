//! Stage 2: the latents of every labelled row, noisy copies of them, and the accuracy of a linear probe.

use ndarray::{Array1, Array2, ArrayD, Axis, IxDyn};
use nids_eval::probe::{ProbeScore, RidgeProbe};
use nids_kernels::Key;
use nids_nn::{ParamTable, Prepared};
use rand::RngExt as _;
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;

use crate::data::{labelled, read_tokeniser};
use crate::engine::reserve_openblas;
use crate::judging;
use crate::network::{LatentEncoder, Moment, WeightsFile, widths};
use nids_config::{Config, Latents, Mu, Sigma, SigmaRange, Stage};
use nids_store::npy;
use nids_store::progress::{Event, Progress};
use nids_store::run::{PRETRAINED, TOKENISER};
use nids_store::run::{Run, StageRun};
use nids_store::{Error, Result};
use nids_train::stream;

/// Flows that the latents of are computed at once.
const BATCH: usize = 4096;

/// Encodes the labelled rows with the pretrained encoder. Leaves `latents/{train,val}.npy` (`[rows, D]`, or `[rows, N, D]`
/// where tokens are kept; with `mu`, `[rows, Z]` or `[rows, N, Z]`), `latents/labels_*.npy` and `latents/rows_*.npy` (which row
/// of the file each is).
///
/// With `encode.latents.mu.samples: k` the training latents are followed by k draws from their posteriors, and their labels.
/// With `encode.noise.copies: k` the training latents are followed by k copies with Gaussian noise of `sigma` times each
/// dimension's standard deviation, and their labels. Raw features are never augmented: a flow with noise on it is no flow.
#[expect(clippy::missing_panics_doc, reason = "arrays are made with the shapes that they are given")]
pub fn encode(config: &Config, run: &Run, progress: &mut dyn Progress) -> Result<()> {
    let mut stage = run.begin(Stage::Encode, config, progress)?;
    let weights = stage.require(Stage::Pretrain, PRETRAINED)?;
    let tokeniser = read_tokeniser(&stage.require(Stage::Pretrain, TOKENISER)?, Stage::Pretrain)?;
    let labelled = labelled(config, &mut stage, progress)?;
    progress.event(Event::Started { stage: Stage::Encode, steps: 0 });

    let weights = WeightsFile::read(&weights, Stage::Pretrain)?;
    weights.check_features(tokeniser.tokens().len())?;
    let mut table = ParamTable::default();
    let encoder = LatentEncoder::new(config, &tokeniser, &mut table);
    let params = weights.params(&table, encoder.prefixes(), encoder.tokens())?;
    drop(weights);
    let engine = encoder.engine(config, &table)?;
    let prepared = Prepared::of(&table, engine.gemm(), &params);
    let (widths, width) = (widths(&tokeniser), encoder.width());
    let mut latents_of = |rows: &[u32], moment: Moment| -> Result<Array2<f32>> {
        let mut out = vec![0.0; rows.len() * width];
        for (rows, out) in rows.chunks(BATCH).zip(out.chunks_mut(BATCH * width)) {
            if let Some(signal) = progress.stop() {
                return Err(Error::Interrupted { signal });
            }
            let encoded = tokeniser.tokenise(&labelled.flows.select(rows))?;
            encoder.latents(&engine, &params, &prepared, &encoded, &widths, moment, out);
        }
        Ok(Array2::from_shape_vec((rows.len(), width), out).expect("one latent a row"))
    };

    let labels_of = |rows: &[u32]| -> Vec<u8> { rows.iter().map(|&row| labelled.labels()[row as usize]).collect() };
    let train = latents_of(&labelled.split.train, Moment::Mean)?;
    let val = latents_of(&labelled.split.val, Moment::Mean)?;
    let (train_labels, val_labels) = (labels_of(&labelled.split.train), labels_of(&labelled.split.val));
    reserve_openblas(1, "")?; // whatever multiplies the network's matrices: the probe is Cholesky's
    let probe = RidgeProbe::fit(&train, &train_labels, config.encode.ridge).map_err(judging)?.score(&val, &val_labels);

    let samples = if let Latents::Mu(Mu { samples }) = config.encode.latents { samples } else { 0 };
    let sigma = if samples > 0 { latents_of(&labelled.split.train, Moment::Deviation)? } else { Array2::zeros((0, width)) };
    let all = with_copies(&train, samples, &sigma, config);
    let shape = |rows: usize| [vec![rows], encoder.shape()].concat();
    let repeat = 1 + samples + config.encode.noise.copies;
    write(&mut stage, "val", &val, &shape(val.nrows()), &val_labels, &labelled.split.val)?;
    write(&mut stage, "train", &all, &shape(all.nrows()), &train_labels.repeat(repeat), &labelled.split.train.repeat(repeat))?;
    stage.log(&ProbeLine { ridge_probe: probe })?;
    stage.finish(&nids_kernels::describe(engine.gemm()))?;
    let of = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let summary = format!(
        "{} training and {} validation latents of {width} in {}; a ridge probe: accuracy {}, ROC-AUC {}",
        all.nrows(),
        val.nrows(),
        run.folder().join("latents").display(),
        of(probe.accuracy),
        of(probe.roc_auc),
    );
    progress.event(Event::Finished { stage: Stage::Encode, summary: &summary });
    Ok(())
}

#[derive(Serialize)]
struct ProbeLine {
    ridge_probe: ProbeScore,
}

/// The standard deviation of every latent dimension: what noise is scaled by.   x: [rows, width] -> [width]
pub(crate) fn spread(x: &Array2<f32>) -> Array1<f32> {
    x.map_axis(Axis(0), |column| {
        let n = column.len() as f64;
        let mean = column.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        (column.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt() as f32
    })
}

/// z += σ · spread · N(0, 1), drawn by the key and what identifies the sample; σ is drawn first, where it has a range.
/// z: [width]
pub(crate) fn add_noise(key: Key, sample: u32, sigma: Sigma, spread: &[f32], z: &mut [f32]) {
    let mut stream = key.stream(0, sample);
    let sigma = match sigma {
        Sigma::Fixed(sigma) => sigma as f32,
        Sigma::Range(SigmaRange { min, max }) => (min * (max / min).powf(stream.random())) as f32,
    };
    for (z, spread) in z.iter_mut().zip(spread) {
        let normal: f32 = StandardNormal.sample(&mut stream);
        *z += sigma * spread * normal;
    }
}

/// The latents, then `samples` draws from the posteriors of standard deviation `deviation`, then the noisy copies.
/// train, deviation: [rows, width]
fn with_copies(train: &Array2<f32>, samples: usize, deviation: &Array2<f32>, config: &Config) -> Array2<f32> {
    let noise = &config.encode.noise;
    let (n, copies) = (train.nrows(), noise.copies);
    if samples + copies == 0 {
        return train.clone();
    }
    let spread = spread(train).to_vec();
    let mut out = ndarray::concatenate(Axis(0), &vec![train.view(); 1 + samples + copies]).expect("copies are of one width");
    let [of_posterior, of_noise] = [stream::POSTERIOR, stream::LATENT_NOISE].map(|stream| Key::new(config.seed).child(stream));
    for (row, mut z) in out.rows_mut().into_iter().enumerate().skip(n) {
        let z = z.as_slice_mut().expect("rows are contiguous");
        if row < (1 + samples) * n {
            add_noise(of_posterior, row as u32, Sigma::Fixed(1.0), &deviation.row(row % n).to_vec(), z);
        } else {
            add_noise(of_noise, (row - samples * n) as u32, noise.sigma, &spread, z);
        }
    }
    out
}

fn write(stage: &mut StageRun<'_>, part: &str, z: &Array2<f32>, shape: &[usize], labels: &[u8], rows: &[u32]) -> Result<()> {
    let z: ArrayD<f32> = z.to_shape(IxDyn(shape)).expect("the same numbers").to_owned();
    stage.write_with(&format!("latents/{part}.npy"), |out| npy::write(&z, out))?;
    stage.write_with(&format!("latents/labels_{part}.npy"), |out| npy::write(&ndarray::aview1(labels), out))?;
    stage.write_with(&format!("latents/rows_{part}.npy"), |out| npy::write(&ndarray::aview1(rows), out))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_sigma_is_log_uniform() {
        const N: u32 = 2000;
        const WIDTH: usize = 64;
        let (key, range) = (Key::new(3), Sigma::Range(SigmaRange { min: 0.01, max: 1.0 }));
        let mut quarters = [0_u32; 4];
        for sample in 0..N {
            let mut z = [0.0; WIDTH];
            add_noise(key, sample, range, &[1.0; WIDTH], &mut z);
            let sigma = (z.iter().map(|&z| f64::from(z).powi(2)).sum::<f64>() / WIDTH as f64).sqrt();
            // 64 draws tell σ to within a tenth or so, which blurs the borders of the quarters, alike on both sides
            let quarter = ((sigma / 0.01).ln() / 100.0_f64.ln() * 4.0).floor();
            quarters[quarter.clamp(0.0, 3.0) as usize] += 1;
        }
        // 500 each; four standard errors of a binomial are 77
        assert!(quarters.iter().all(|&n| n.abs_diff(N / 4) < 90), "{quarters:?}");
    }

    #[test]
    fn a_range_of_one_sigma_is_that_sigma_and_sigma_is_the_sample_s() {
        let noise = |sample, sigma| {
            let mut z = [0.0; 5];
            add_noise(Key::new(3), sample, sigma, &[1.0; 5], &mut z);
            z.map(f32::to_bits)
        };
        let wide = Sigma::Range(SigmaRange { min: 0.01, max: 1.0 });
        assert_eq!(noise(7, wide), noise(7, wide));
        assert_ne!(noise(7, wide), noise(8, wide));
        let narrow = |sigma| noise(7, Sigma::Range(SigmaRange { min: sigma, max: sigma })).map(f32::from_bits);
        for (half, one) in narrow(0.5).into_iter().zip(narrow(1.0)) {
            assert!((2.0 * half - one).abs() < 1e-6);
        }
    }
}
