//! Stage 2: the latents of every labelled row, noisy copies of them, and the accuracy of a linear probe.

use ndarray::{Array1, Array2, ArrayD, Axis, IxDyn};
use nids_eval::probe::RidgeProbe;
use nids_kernels::Key;
use nids_nn::ParamTable;
use rand_distr::{Distribution, StandardNormal};

use crate::data::{labelled, labelled_name, warn_of_newly_missing};
use nids_config::{Config, Stage};
use nids_detect::engine::reserve_openblas;
use nids_detect::read::read_tokeniser;
use nids_detect::{LatentEncoder, LatentSession, WeightsFile};
use nids_store::log::Line;
use nids_store::npy;
use nids_store::progress::{Event, Progress};
use nids_store::run::{PRETRAINED, TOKENISER};
use nids_store::run::{Run, StageRun};
use nids_store::{Error, Result};
use nids_train::stream;

/// Flows that are encoded at once.
const BATCH: usize = 4096;

/// Encodes the labelled rows with the pretrained encoder. Leaves `latents/{train,val}.npy` (`[rows, D]`, or `[rows, N, D]`
/// where tokens are kept; with `mu`, `[rows, Z]` or `[rows, N, Z]`), `latents/labels_*.npy` and `latents/rows_*.npy` (which row
/// of the file each is).
///
/// With `encode.noise.copies: k` the training latents are followed by k copies with Gaussian noise of `sigma` times each
/// dimension's standard deviation, and their labels. Raw features are never augmented: a flow with noise on it is no longer a flow.
#[expect(clippy::missing_panics_doc, reason = "arrays are made with the shapes that they are given")]
pub fn encode(config: &Config, run: &Run, progress: &mut dyn Progress) -> Result<()> {
    let mut stage = run.begin(Stage::Encode, config, progress)?;
    let weights = stage.require(Stage::Pretrain, PRETRAINED)?;
    let tokeniser = read_tokeniser(&stage.require(Stage::Pretrain, TOKENISER)?, Stage::Pretrain)?;
    let labelled = labelled(config, &mut stage, progress)?;
    warn_of_newly_missing(&tokeniser, &labelled.flows, &labelled_name(config), progress);
    progress.event(Event::Started { stage: Stage::Encode, steps: 0 });

    let weights = WeightsFile::read(&weights, Stage::Pretrain)?;
    weights.check_features(tokeniser.tokens().len())?;
    let mut table = ParamTable::default();
    let encoder = LatentEncoder::new(config, &tokeniser, &mut table);
    let params = weights.params(&table, encoder.prefixes(), encoder.tokens())?;
    drop(weights);
    let session = LatentSession::new(config, &table, encoder, params)?;
    let width = session.encoder().width();
    let mut latents_of = |rows: &[u32]| -> Result<Array2<f32>> {
        let mut out = vec![0.0; rows.len() * width];
        for (rows, out) in rows.chunks(BATCH).zip(out.chunks_mut(BATCH * width)) {
            if let Some(signal) = progress.stop() {
                return Err(Error::Interrupted { signal });
            }
            let encoded = tokeniser.tokenise(&labelled.flows.select(rows))?;
            session.latents(&encoded, out);
        }
        Ok(Array2::from_shape_vec((rows.len(), width), out).expect("one latent a row"))
    };

    let labels_of = |rows: &[u32]| -> Vec<u8> { rows.iter().map(|&row| labelled.labels()[row as usize]).collect() };
    let train = latents_of(&labelled.split.train)?;
    let val = latents_of(&labelled.split.val)?;
    let (train_labels, val_labels) = (labels_of(&labelled.split.train), labels_of(&labelled.split.val));
    reserve_openblas(1, "")?; // the probe uses the Cholesky factorisation of OpenBLAS, whatever `engine.gemm` is
    let probe = RidgeProbe::fit(&train, &train_labels, config.encode.ridge)?.score(&val, &val_labels);

    let all = with_copies(&train, config);
    let shape = |rows: usize| [vec![rows], session.encoder().shape()].concat();
    let repeat = 1 + config.encode.noise.copies;
    write(&mut stage, "val", &val, &shape(val.nrows()), &val_labels, &labelled.split.val)?;
    write(&mut stage, "train", &all, &shape(all.nrows()), &train_labels.repeat(repeat), &labelled.split.train.repeat(repeat))?;
    stage.log(&Line::Probe { ridge_probe: probe })?;
    stage.finish(&nids_kernels::describe(session.engine().gemm()))?;
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

/// The standard deviation of every latent dimension, by which noise is scaled.   x: [rows, width] -> [width]
pub(crate) fn spread(x: &Array2<f32>) -> Array1<f32> {
    x.map_axis(Axis(0), |column| {
        let n = column.len() as f64;
        let mean = column.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        (column.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt() as f32
    })
}

/// z += σ · spread · N(0, 1), drawn by the key and what identifies the sample.   z: [width]
pub(crate) fn add_noise(key: Key, sample: u32, sigma: f64, spread: &[f32], z: &mut [f32]) {
    let mut stream = key.stream(0, sample);
    let sigma = sigma as f32;
    for (z, spread) in z.iter_mut().zip(spread) {
        let normal: f32 = StandardNormal.sample(&mut stream);
        *z += sigma * spread * normal;
    }
}

/// The latents, then their noisy copies.   train: [rows, width]
fn with_copies(train: &Array2<f32>, config: &Config) -> Array2<f32> {
    let noise = &config.encode.noise;
    if noise.copies == 0 {
        return train.clone();
    }
    let spread = spread(train).to_vec();
    let mut out = ndarray::concatenate(Axis(0), &vec![train.view(); 1 + noise.copies]).expect("copies are of one width");
    let key = Key::new(config.seed).child(stream::LATENT_NOISE);
    for (row, mut z) in out.rows_mut().into_iter().enumerate().skip(train.nrows()) {
        add_noise(key, row as u32, noise.sigma, &spread, z.as_slice_mut().expect("rows are contiguous"));
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
