//! The accuracy of a linear probe on latents: ridge regression in closed form.

use ndarray::{Array1, Array2, ArrayRef2, Axis};
use ndarray_linalg::{FactorizeC, SolveC, UPLO};
use openblas_src as _; // links LAPACK

use crate::metrics;
use crate::{Error, Result};

/// A linear classifier on standardised columns.
#[derive(Clone, Debug)]
pub struct RidgeProbe {
    mean: Array1<f64>,
    /// 0 for a column that never changes.
    rstd: Array1<f64>,
    weight: Array1<f64>,
    intercept: f64,
}

/// How well a probe does on rows that it was not fitted on.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ProbeScore {
    /// Share of rows on the right side of 0; null without rows.
    pub accuracy: Option<f64>,
    /// Null where a class is missing.
    pub roc_auc: Option<f64>,
}

impl RidgeProbe {
    /// Solves (XᵀX + λI) w = Xᵀ(t - mean t), columns of X standardised, t = ±1.   x: [rows, D]   labels: [rows], each 0 or 1
    ///
    /// # Errors
    /// Non-finite latents, or a matrix that Cholesky cannot factor.
    ///
    /// # Panics
    /// If there are no rows, or not one label per row.
    pub fn fit(x: &ArrayRef2<f32>, labels: &[u8], lambda: f64) -> Result<Self> {
        assert!(!labels.is_empty() && x.nrows() == labels.len(), "a label per row, and a row");
        let x = x.mapv(f64::from);
        if let Some(((row, column), _)) = x.indexed_iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error(format!("latents: row {row}, dimension {column} is not a number: lower `pretrain.lr`")));
        }
        let n_rows = x.nrows() as f64;
        let mean = x.sum_axis(Axis(0)) / n_rows;
        let mut centred = x - &mean;
        let rstd = centred.map_axis(Axis(0), |column| {
            let std = (column.dot(&column) / n_rows).sqrt();
            if std > 0.0 { 1.0 / std } else { 0.0 }
        });
        centred *= &rstd;
        let target: Array1<f64> = labels.iter().map(|&label| target(label)).collect();
        let intercept = target.sum() / n_rows;
        let mut gram: Array2<f64> = centred.t().dot(&centred);
        gram.diag_mut().mapv_inplace(|value| value + lambda);
        let weight = gram
            .factorizec(UPLO::Lower)
            .and_then(|factor| factor.solvec(&centred.t().dot(&(target - intercept))))
            .map_err(|error| Error(format!("ridge probe: {error}: raise `encode.ridge`")))?;
        Ok(Self { mean, rstd, weight, intercept })
    }

    /// One score per row, positive for an attack.   x: [rows, D] -> [rows]
    ///
    /// # Panics
    /// If D is not that of the rows it was fitted on.
    pub fn scores(&self, x: &ArrayRef2<f32>) -> Array1<f32> {
        let standard = (x.mapv(f64::from) - &self.mean) * &self.rstd;
        (standard.dot(&self.weight) + self.intercept).mapv(|score| score as f32)
    }

    /// Accuracy and ROC-AUC on other rows.   x: [rows, D]   labels: [rows]
    ///
    /// # Panics
    /// If there is not one label per row.
    pub fn score(&self, x: &ArrayRef2<f32>, labels: &[u8]) -> ProbeScore {
        ProbeScore::of(&self.scores(x).to_vec(), labels)
    }
}

impl ProbeScore {
    /// How good scores are that are positive for an attack.   scores: [rows]   labels: [rows], each 0 or 1
    ///
    /// # Panics
    /// If there is not one label per row.
    pub fn of(scores: &[f32], labels: &[u8]) -> Self {
        assert_eq!(scores.len(), labels.len(), "a label per row");
        let right = scores.iter().zip(labels).filter(|(score, label)| (**score > 0.0) == (**label == 1)).count();
        ProbeScore {
            accuracy: (!labels.is_empty()).then(|| right as f64 / labels.len() as f64),
            roc_auc: metrics::roc_auc(scores, labels),
        }
    }
}

fn target(label: u8) -> f64 {
    if label == 1 { 1.0 } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    #[test]
    fn one_column_by_hand() {
        // Standardised x is ±1, XᵀX = 4, Xᵀt = 4, so w = 4 / (4 + λ) and the intercept is 0.
        let x = array![[1.0_f32], [1.0], [5.0], [5.0]];
        let probe = RidgeProbe::fit(&x, &[0, 0, 1, 1], 4.0).unwrap();
        assert!((probe.weight[0] - 0.5).abs() < 1e-12, "{}", probe.weight[0]);
        assert!(probe.intercept.abs() < 1e-12);
        assert_eq!(probe.score(&x, &[0, 0, 1, 1]), ProbeScore { accuracy: Some(1.0), roc_auc: Some(1.0) });
    }

    #[test]
    fn the_normal_equations_hold() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let x = Array2::from_shape_simple_fn((40, 7), || StandardNormal.sample(&mut rng));
        let labels: Vec<u8> = x.outer_iter().map(|row: ndarray::ArrayView1<'_, f32>| u8::from(row[2] - row[5] > 0.3)).collect();
        let lambda = 2.5;
        let probe = RidgeProbe::fit(&x, &labels, lambda).unwrap();
        let standard = (x.mapv(f64::from) - &probe.mean) * &probe.rstd;
        let residual: Array1<f64> =
            labels.iter().map(|&label| target(label) - probe.intercept).collect::<Array1<_>>() - standard.dot(&probe.weight);
        let gradient = standard.t().dot(&residual) - lambda * &probe.weight;
        assert!(gradient.iter().all(|value| value.abs() < 1e-9), "{gradient}");
        assert!(probe.score(&x, &labels).roc_auc.unwrap() > 0.9);
    }

    #[test]
    fn a_constant_column_is_left_out() {
        let x = array![[1.0_f32, 9.0], [1.0, 9.0], [5.0, 9.0], [5.0, 9.0]];
        let probe = RidgeProbe::fit(&x, &[0, 0, 1, 1], 1.0).unwrap();
        assert!(probe.weight[1].abs() < 1e-12);
    }

    #[test]
    fn no_number_is_an_error() {
        let x = array![[1.0_f32], [f32::NAN]];
        let error = RidgeProbe::fit(&x, &[0, 1], 1.0).unwrap_err();
        insta::assert_snapshot!(error, @"latents: row 1, dimension 0 is not a number: lower `pretrain.lr`");
    }
}
