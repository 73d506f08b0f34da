//! What finetune minimises: the loss of a classifier over labelled rows, as features or as frozen latents.

use std::collections::BTreeSet;
use std::path::Path;

use ndarray::{Array1, Array2, ArrayD};
use nids_detect::again;
use nids_flows::all_rows;
use nids_models::Classifier;
use nids_nn::engine::{Loss, Objective, Sample};
use nids_nn::{Cx, Mode};

use super::targets::{Targets, classify};
use crate::data::Labelled;
use crate::stages::encode::{add_noise, spread};
use crate::step_rows::StepRows;
use nids_config::{Config, Stage};
use nids_store::npy;
use nids_store::run::StageRun;
use nids_store::{Error, Result};
use nids_train::stream;

/// The loss of a classifier over feature tokens.
pub(crate) struct SupervisedObjective<'d> {
    pub(crate) classifier: &'d Classifier,
    pub(crate) rows: StepRows<'d>,
    pub(crate) targets: Targets,
    /// Number of rows of a whole step.
    pub(crate) divisor: f32,
}

impl Objective<f32> for SupervisedObjective<'_> {
    fn members(&self) -> usize {
        self.classifier.encoder().members()
    }

    fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], _step: u64, samples: &[Sample]) -> Loss {
        let b = samples.len();
        let x = cx.alloc(b * self.rows.width());
        self.rows.fill(samples, x);
        classify(cx, grads, self.classifier, b, x, &self.targets, &samples.iter().map(|sample| sample.row), self.divisor).into()
    }
}

/// The loss of a classifier over frozen latents, with fresh noise on them if the config asks for it.
pub(crate) struct LatentObjective<'d> {
    head: &'d Classifier,
    z: Array2<f32>,
    targets: Targets,
    /// Sigma, and the standard deviation of each dimension.
    noise: Option<(f64, Vec<f32>)>,
    divisor: f32,
}

impl<'d> LatentObjective<'d> {
    /// Reads the latents that `encode` left. Also returns which of them belong to the labelled `rows`.
    pub(crate) fn read(
        config: &Config,
        stage: &mut StageRun<'_>,
        labelled: &Labelled,
        head: &'d Classifier,
        targets: Targets,
        batch_size: usize,
        rows: &[u32],
    ) -> Result<(Self, Vec<u32>)> {
        let mut require = |name: &str| stage.require(Stage::Encode, &format!("latents/{name}.npy"));
        let (z_path, rows_path) = (require("train")?, require("rows_train")?);
        let row_of: Array1<u32> = npy::read(&rows_path)?;
        let z = read_latents(&z_path, row_of.len(), head.encoder().input_width())?;
        if let Some(row) = row_of.iter().find(|&&row| row as usize >= labelled.flows.len()) {
            let what = format!("lists row {row}, but there are {} labelled rows", labelled.flows.len());
            return Err(Error::artefact(rows_path, what, again(Stage::Encode)));
        }
        let drawn: BTreeSet<u32> = rows.iter().copied().collect();
        let latent_rows: Vec<u32> = all_rows(row_of.len()).into_iter().filter(|&i| drawn.contains(&row_of[i as usize])).collect();
        if latent_rows.is_empty() {
            let what = format!("lists none of the {} training rows", drawn.len());
            return Err(Error::artefact(rows_path, what, again(Stage::Encode)));
        }
        let noise = &config.encode.noise;
        let noise = if noise.fresh && noise.sigma > 0.0 {
            let rows = |all: &mut dyn FnMut(&[f32])| {
                z.rows().into_iter().for_each(|row| all(&row.to_vec()));
                Ok(())
            };
            Some((noise.sigma, spread(z.ncols(), z.nrows(), rows)?))
        } else {
            None
        };
        let objective = Self { head, targets: targets.select(&row_of.to_vec()), noise, z, divisor: batch_size as f32 };
        Ok((objective, latent_rows))
    }
}

/// Reads latents as a matrix with a row for each flow.
fn read_latents(path: &Path, n_rows: usize, width: usize) -> Result<Array2<f32>> {
    let z: ArrayD<f32> = npy::read(path)?;
    let found = z.shape().to_vec();
    let fits = found.first() == Some(&n_rows) && z.len() == n_rows * width;
    if z.iter().any(|value| !value.is_finite()) {
        return Err(Error::artefact(path, "holds a non-finite value (NaN, Inf)", again(Stage::Encode)));
    }
    let rows = if fits { z.into_shape_with_order((n_rows, width)).ok() } else { None };
    rows.ok_or_else(|| {
        let what = format!("latents of shape {found:?}, wanted {n_rows} rows of {width} numbers");
        Error::artefact(path, what, again(Stage::Encode))
    })
}

impl Objective<f32> for LatentObjective<'_> {
    fn members(&self) -> usize {
        self.head.encoder().members()
    }

    fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], _step: u64, samples: &[Sample]) -> Loss {
        let (b, width) = (samples.len(), self.z.ncols());
        let x = cx.alloc(b * width);
        for (x, sample) in x.chunks_exact_mut(width).zip(samples) {
            let z = self.z.row(sample.row as usize);
            x.iter_mut().zip(z).for_each(|(x, &z)| *x = z);
            if let (Some((sigma, spread)), Mode::Train { key, .. }) = (&self.noise, cx.mode) {
                add_noise(key.child(stream::LATENT_NOISE), sample.key, *sigma, spread, x);
            }
        }
        classify(cx, grads, self.head, b, x, &self.targets, &samples.iter().map(|sample| sample.row), self.divisor).into()
    }
}
