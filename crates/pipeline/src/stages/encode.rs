//! Stage 2: the latents of every labelled row, noisy copies of them, and what linear probes make of a frozen encoder.

use ndarray::{Array1, Array2, ArrayD, Axis, IxDyn};
use nids_eval::probe::{ProbeScore, RidgeProbe};
use nids_flows::Tokeniser;
use nids_heads::LogisticRegression;
use nids_kernels::Key;
use nids_nn::ParamTable;
use rand_distr::{Distribution, StandardNormal};

use crate::data::{Labelled, labelled, labelled_name, warn_of_newly_missing};
use nids_config::{Config, Stage};
use nids_detect::engine::reserve_openblas;
use nids_detect::read::read_tokeniser;
use nids_detect::{Basis, LatentEncoder, LatentSession, WeightsFile};
use nids_store::log::Line;
use nids_store::npy;
use nids_store::progress::{Event, Progress};
use nids_store::run::{PRETRAINED, TOKENISER};
use nids_store::run::{Run, StageRun};
use nids_store::{Error, Result};
use nids_train::stream;

/// Flows that are encoded at once.
const BATCH: usize = 4096;
/// Principal components of a row's tokens that the probe on them sees: twice as many gain nothing.
const COMPONENTS: usize = 256;

/// Encodes the labelled rows with the pretrained encoder. Leaves `latents/{train,val}.npy` (`[rows, D]`, or `[rows, N, D]`
/// where tokens are kept; with `mu`, `[rows, Z]` or `[rows, N, Z]`), `latents/labels_*.npy` and `latents/rows_*.npy` (which row
/// of the file each is).
///
/// With `encode.noise.copies: k` the training latents are followed by k copies with Gaussian noise of `sigma` times each
/// dimension's standard deviation, and their labels. Raw features are never augmented: a flow with noise on it is no longer a flow.
pub fn encode(config: &Config, run: &Run, progress: &mut dyn Progress) -> Result<()> {
    let mut stage = run.begin(Stage::Encode, config, progress)?;
    let weights = stage.require(Stage::Pretrain, PRETRAINED)?;
    let tokeniser = read_tokeniser(&stage.require(Stage::Pretrain, TOKENISER)?, Stage::Pretrain)?;
    let labelled = labelled(config, &mut stage, progress)?;
    warn_of_newly_missing(&tokeniser, &labelled.flows, &labelled_name(config), progress);
    progress.event(Event::Started { stage: Stage::Encode, steps: 0, batch: 0 });

    let weights = WeightsFile::read(&weights, Stage::Pretrain)?;
    weights.check_features(tokeniser.tokens().len())?;
    let mut table = ParamTable::default();
    let encoder = LatentEncoder::new(config, &tokeniser, &mut table);
    let session = frozen(config, &table, encoder, &weights)?;
    let width = session.encoder().width();
    let mut latents_of = |rows: &[u32]| latents(&session, &tokeniser, &labelled, rows, progress);
    let labels_of = |rows: &[u32]| -> Vec<u8> { rows.iter().map(|&row| labelled.labels()[row as usize]).collect() };
    let train = latents_of(&labelled.split.train)?;
    let val = latents_of(&labelled.split.val)?;
    let (train_labels, val_labels) = (labels_of(&labelled.split.train), labels_of(&labelled.split.val));
    reserve_openblas(1, "")?; // the probes use LAPACK, whatever `engine.gemm` is
    let ridge_probe = RidgeProbe::fit(&train, &train_labels, config.encode.ridge)?.score(&val, &val_labels);
    let token_probe = token_probe(config, &tokeniser, &labelled, &weights, progress)?;

    let all = with_copies(&train, config);
    let shape = |rows: usize| [vec![rows], session.encoder().shape()].concat();
    let repeat = 1 + config.encode.noise.copies;
    write(&mut stage, "val", &val, &shape(val.nrows()), &val_labels, &labelled.split.val)?;
    write(&mut stage, "train", &all, &shape(all.nrows()), &train_labels.repeat(repeat), &labelled.split.train.repeat(repeat))?;
    stage.log(&Line::Probe { ridge_probe, token_probe: Some(token_probe) })?;
    stage.finish(&nids_kernels::describe(session.engine().gemm()))?;
    let of = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let summary = format!(
        "{} training and {} validation latents of {width} in {}; a ridge probe on them: accuracy {}, ROC-AUC {}; logistic \
         regression on all tokens: accuracy {}, ROC-AUC {}",
        all.nrows(),
        val.nrows(),
        run.folder().join("latents").display(),
        of(ridge_probe.accuracy),
        of(ridge_probe.roc_auc),
        of(token_probe.accuracy),
        of(token_probe.roc_auc),
    );
    progress.event(Event::Finished { stage: Stage::Encode, summary: &summary });
    Ok(())
}

/// An encoder of `table` with the pretrained weights.
fn frozen(config: &Config, table: &ParamTable, encoder: LatentEncoder, weights: &WeightsFile) -> Result<LatentSession> {
    let params = weights.params(table, encoder.prefixes(), encoder.tokens())?;
    LatentSession::new(config, table, encoder, params)
}

/// The latents of some rows: [rows, width].
fn latents(
    session: &LatentSession,
    tokeniser: &Tokeniser,
    labelled: &Labelled,
    rows: &[u32],
    progress: &mut dyn Progress,
) -> Result<Array2<f32>> {
    let width = session.encoder().width();
    let mut out = vec![0.0; rows.len() * width];
    let (mut done, n) = (0, rows.len());
    for (rows, out) in rows.chunks(BATCH).zip(out.chunks_mut(BATCH * width)) {
        if let Some(signal) = progress.stop() {
            return Err(Error::Interrupted { signal });
        }
        let encoded = tokeniser.tokenise(&labelled.flows.select(rows))?;
        session.latents(&encoded, out);
        done += rows.len();
        progress.event(Event::Rows { what: "encoded", rows: done as u64, share: Some(done as f64 / n as f64) });
    }
    Ok(Array2::from_shape_vec((rows.len(), width), out).expect("one latent a row"))
}

/// What a linear head finds in all tokens of a row, of which their mean keeps little: logistic regression on their principal
/// components.
fn token_probe(
    config: &Config,
    tokeniser: &Tokeniser,
    labelled: &Labelled,
    weights: &WeightsFile,
    progress: &mut dyn Progress,
) -> Result<ProbeScore> {
    let refuse = |error: nids_heads::Error| Error::Numerics(format!("the probe on tokens: {error}"));
    let basis = Basis::tokens(config, tokeniser, |table, encoder| weights.params(table, encoder.prefixes(), encoder.tokens()))?;
    let encoded = tokeniser.tokenise(&labelled.flows)?;
    let train = &labelled.split.train;
    let pca = basis.pca(&encoded, train, COMPONENTS).map_err(refuse)?;
    // the tokens of all rows at once would be some hundred times as large
    let mut components_of = |rows: &[u32]| -> Result<Array2<f64>> {
        let mut out = Array2::zeros((rows.len(), pca.n_components()));
        for (rows, mut out) in rows.chunks(BATCH).zip(out.axis_chunks_iter_mut(Axis(0), BATCH)) {
            if let Some(signal) = progress.stop() {
                return Err(Error::Interrupted { signal });
            }
            out.assign(&basis.components(&pca, &encoded, rows));
        }
        Ok(out)
    };
    let labels = labelled.labels();
    let targets: Vec<f64> = train.iter().map(|&row| f64::from(labels[row as usize])).collect();
    let head = LogisticRegression::fit(&components_of(train)?, &targets, None, 1.0).map_err(refuse)?;
    let val = &labelled.split.val;
    let margins: Vec<f32> = head.margins(&components_of(val)?).iter().map(|&margin| margin as f32).collect();
    Ok(ProbeScore::of(&margins, &val.iter().map(|&row| labels[row as usize]).collect::<Vec<_>>()))
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
