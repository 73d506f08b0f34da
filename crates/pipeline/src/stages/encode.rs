//! Stage 2: the latents of every labelled row, noisy copies of them, and what linear probes make of a frozen encoder.

use std::io;

use ndarray::{Array2, ArrayView2, Axis};
use nids_eval::probe::{ProbeScore, RidgeProbe};
use nids_flows::{Tokeniser, some_rows};
use nids_heads::LogisticRegression;
use nids_kernels::Key;
use nids_nn::ParamTable;
use rand_distr::{Distribution, StandardNormal};

use super::finetune::encoded::Encoded;
use crate::data::Labelled;
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
const BATCH: usize = if cfg!(test) { 64 } else { 4096 };
/// Numbers of latents up to which they are kept in memory.
const KEPT: usize = if cfg!(test) { 1 << 12 } else { 1 << 25 };
/// Training rows that linear probes are fitted on, at most.
const PROBED: usize = 100_000;
/// Principal components of a row's tokens that the probe on them sees: twice as many gain nothing.
const COMPONENTS: usize = 256;

/// Encodes the labelled rows with the pretrained encoder. Leaves `latents/{train,val}.npy` (`[rows, D]`, or `[rows, N, D]`
/// where tokens are kept; with `mu`, `[rows, Z]` or `[rows, N, Z]`), `latents/labels_*.npy` and `latents/rows_*.npy` (which row
/// of the file each is). Where `data.cache` says so, rows come from a cache on the disk, and latents are written as they come.
///
/// With `encode.noise.copies: k` the training latents are followed by k copies with Gaussian noise of `sigma` times each
/// dimension's standard deviation, and their labels. Raw features are never augmented: a flow with noise on it is no longer a flow.
pub fn encode(config: &Config, run: &Run, progress: &mut dyn Progress) -> Result<()> {
    let mut stage = run.begin(Stage::Encode, config, progress)?;
    let weights = stage.require(Stage::Pretrain, PRETRAINED)?;
    let tokeniser = read_tokeniser(&stage.require(Stage::Pretrain, TOKENISER)?, Stage::Pretrain)?;
    let (labelled, encoded) = Encoded::of_labelled(config, &tokeniser, &mut stage, progress)?;
    progress.event(Event::Started { stage: Stage::Encode, steps: 0, batch: 0 });

    let weights = WeightsFile::read(&weights, Stage::Pretrain)?;
    weights.check_features(tokeniser.tokens().len())?;
    let mut table = ParamTable::default();
    let encoder = LatentEncoder::new(config, &tokeniser, &mut table);
    let session = frozen(config, &table, encoder, &weights)?;
    let width = session.encoder().width();
    let (train, val) = (&labelled.split.train, &labelled.split.val);
    let latents_of = |rows| Latents { session: &session, encoded: &encoded, rows, kept: None };
    let (of_train, of_val) = (latents_of(train).keep(progress)?, latents_of(val).keep(progress)?);
    reserve_openblas(1, "")?; // the probes use LAPACK, whatever `engine.gemm` is
    let probed = some_rows(train, PROBED);
    let ridge_probe = if probed.len() < train.len() {
        let (some, all) = (probed.len(), train.len());
        progress.event(Event::Message(&format!("linear probes are fitted on {some} of {all} training rows")));
        ridge_probe(config, &labelled, &latents_of(&probed), &of_val, progress)?
    } else {
        ridge_probe(config, &labelled, &of_train, &of_val, progress)?
    };
    let token_probe = token_probe(config, &tokeniser, &labelled, &encoded, &probed, &weights, progress)?;

    let copies = config.encode.noise.copies;
    let noise = if copies > 0 { Some(Noise { spread: of_train.spread(progress)?, config }) } else { None };
    write(&mut stage, "val", &labelled, &of_val, None, progress)?;
    write(&mut stage, "train", &labelled, &of_train, noise.as_ref(), progress)?;
    stage.log(&Line::Probe { ridge_probe, token_probe: Some(token_probe) })?;
    stage.finish(&nids_kernels::describe(session.engine().gemm()))?;
    let of = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let summary = format!(
        "{} training and {} validation latents of {width} in {}; a ridge probe on them: accuracy {}, ROC-AUC {}; logistic \
         regression on all tokens: accuracy {}, ROC-AUC {}",
        (1 + copies) * train.len(),
        val.len(),
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

/// The latents of some rows.
struct Latents<'d> {
    session: &'d LatentSession,
    encoded: &'d Encoded,
    rows: &'d [u32],
    /// All of them, where they are few: [rows, width].
    kept: Option<Vec<f32>>,
}

impl Latents<'_> {
    fn width(&self) -> usize {
        self.session.encoder().width()
    }

    /// Keeps them in memory, if it holds them; otherwise they are made each time they are asked for.
    fn keep(self, progress: &mut dyn Progress) -> Result<Self> {
        let n = self.rows.len() * self.width();
        if n > KEPT {
            return Ok(self);
        }
        let mut kept = Vec::with_capacity(n);
        self.each(progress, |z| kept.extend_from_slice(z))?;
        Ok(Self { kept: Some(kept), ..self })
    }

    /// Calls `each` with the latents of some rows after another.   [some rows, width]
    fn each(&self, progress: &mut dyn Progress, mut each: impl FnMut(&[f32])) -> Result<()> {
        let (width, n) = (self.width(), self.rows.len());
        if let Some(kept) = &self.kept {
            kept.chunks(BATCH * width).for_each(each);
            return Ok(());
        }
        let mut done = 0;
        for rows in self.rows.chunks(BATCH) {
            progress.go_on()?;
            let z = self.encoded.each(rows, |encoded, rows| {
                let mut z = vec![0.0; rows.len() * width];
                self.session.latents_of(encoded, rows, &mut z);
                z
            })?;
            each(&z);
            done += rows.len();
            progress.event(Event::Rows { what: "encoded", rows: done as u64, share: Some(done as f64 / n as f64) });
        }
        Ok(())
    }

    /// The standard deviation of every dimension.   -> [width]
    fn spread(&self, progress: &mut dyn Progress) -> Result<Vec<f32>> {
        spread(self.width(), self.rows.len(), |each| self.each(progress, each))
    }
}

/// Latents as a matrix.   z: [rows · width] -> [rows, width]
fn matrix(z: &[f32], width: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((z.len() / width, width), z).expect("one latent a row")
}

/// What ridge regression finds in the latents.
fn ridge_probe(
    config: &Config,
    labelled: &Labelled,
    fitted_on: &Latents<'_>,
    held_out: &Latents<'_>,
    progress: &mut dyn Progress,
) -> Result<ProbeScore> {
    let width = fitted_on.width();
    let mut z = Vec::new();
    fitted_on.each(progress, |some| z.extend_from_slice(some))?;
    let probe = RidgeProbe::fit(&matrix(&z, width), &labelled.labels_of(fitted_on.rows), config.encode.ridge)?;
    let mut scores = Vec::new();
    held_out.each(progress, |z| scores.extend(probe.scores(&matrix(z, width))))?;
    Ok(ProbeScore::of(&scores, &labelled.labels_of(held_out.rows)))
}

/// What a linear head finds in all tokens of a row, of which their mean keeps little: logistic regression on their principal
/// components.
fn token_probe(
    config: &Config,
    tokeniser: &Tokeniser,
    labelled: &Labelled,
    encoded: &Encoded,
    probed: &[u32],
    weights: &WeightsFile,
    progress: &mut dyn Progress,
) -> Result<ProbeScore> {
    let refuse = |error: nids_heads::Error| Error::Numerics(format!("the probe on tokens: {error}"));
    let basis = Basis::tokens(config, tokeniser, |table, encoder| weights.params(table, encoder.prefixes(), encoder.tokens()))?;
    let pca = encoded.with(probed, |table, rows| basis.pca(table, rows, COMPONENTS))?.map_err(refuse)?;
    // the tokens of all rows at once would be some hundred times as large
    let components_of = |rows: &[u32]| encoded.with(rows, |table, rows| basis.components(&pca, table, rows));
    let labels = labelled.labels();
    let mut components = Array2::zeros((probed.len(), pca.n_components()));
    for (rows, mut out) in probed.chunks(BATCH).zip(components.axis_chunks_iter_mut(Axis(0), BATCH)) {
        progress.go_on()?;
        out.assign(&components_of(rows)?);
    }
    let targets: Vec<f64> = probed.iter().map(|&row| f64::from(labels[row as usize])).collect();
    let head = LogisticRegression::fit(&components, &targets, None, 1.0).map_err(refuse)?;
    drop(components);
    let (val, mut margins) = (&labelled.split.val, Vec::new());
    for rows in val.chunks(BATCH) {
        progress.go_on()?;
        margins.extend(head.margins(&components_of(rows)?).iter().map(|&margin| margin as f32));
    }
    Ok(ProbeScore::of(&margins, &labelled.labels_of(val)))
}

/// The standard deviation of every latent dimension, by which noise is scaled. `all` hands out all rows twice.   -> [width]
pub(crate) fn spread(width: usize, n_rows: usize, mut all: impl FnMut(&mut dyn FnMut(&[f32])) -> Result<()>) -> Result<Vec<f32>> {
    let n = n_rows as f64;
    let mut sums = vec![0.0; width];
    all(&mut |z| z.chunks_exact(width).for_each(|z| sums.iter_mut().zip(z).for_each(|(sum, &z)| *sum += f64::from(z))))?;
    let mean: Vec<f64> = sums.iter().map(|sum| sum / n).collect();
    let mut squares = vec![0.0; width];
    all(&mut |z| {
        for z in z.chunks_exact(width) {
            let each = squares.iter_mut().zip(&mean).zip(z);
            each.for_each(|((sum, mean), &z)| *sum += (f64::from(z) - mean).powi(2));
        }
    })?;
    Ok(squares.iter().map(|sum: &f64| (sum / n).sqrt() as f32).collect())
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

/// Noise on copies of training rows.
struct Noise<'c> {
    /// The standard deviation of every dimension.
    spread: Vec<f32>,
    config: &'c Config,
}

/// Writes the latents of a part as they come, then their noisy copies; labels and numbers of rows beside them.
fn write(
    stage: &mut StageRun<'_>,
    part: &str,
    labelled: &Labelled,
    latents: &Latents<'_>,
    noise: Option<&Noise<'_>>,
    progress: &mut dyn Progress,
) -> Result<()> {
    let repeat = 1 + noise.map_or(0, |noise| noise.config.encode.noise.copies);
    let (n, width) = (latents.rows.len(), latents.width());
    let shape = [vec![repeat * n], latents.session.encoder().shape()].concat();
    // what goes wrong while latents are made is no error of the disk
    let mut failed = None;
    let written = stage.write_with(&format!("latents/{part}.npy"), |out| {
        out.write_all(&npy::header_of::<f32>(&shape))?;
        for copy in 0..repeat {
            let (mut row, mut result) = (copy * n, Ok(()));
            let made = latents.each(progress, |z| {
                let mut z = z.to_vec();
                if let Some(Noise { spread, config }) = noise.filter(|_| copy > 0) {
                    let key = Key::new(config.seed).child(stream::LATENT_NOISE);
                    for z in z.chunks_exact_mut(width) {
                        add_noise(key, row as u32, config.encode.noise.sigma, spread, z);
                        row += 1;
                    }
                }
                let bytes: Vec<u8> = z.iter().flat_map(|z| z.to_le_bytes()).collect();
                result = std::mem::replace(&mut result, Ok(())).and_then(|()| out.write_all(&bytes));
            });
            result?;
            if let Err(error) = made {
                failed = Some(error);
                return Err(io::Error::other("no latents"));
            }
        }
        Ok(())
    });
    failed.map_or(written, Err)?;
    let labels = labelled.labels_of(latents.rows);
    stage.write_with(&format!("latents/labels_{part}.npy"), |out| npy::write(&ndarray::aview1(&labels.repeat(repeat)), out))?;
    stage
        .write_with(&format!("latents/rows_{part}.npy"), |out| npy::write(&ndarray::aview1(&latents.rows.repeat(repeat)), out))?;
    Ok(())
}
