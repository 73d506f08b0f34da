//! Small learners that are fitted in milliseconds to seconds: on frozen tokens, on their principal components, or on raw features.
//!
//! | learner | input | for |
//! |---|---|---|
//! | [`Pca`] | tokens, `[rows, D]` | fewer, standardised columns |
//! | [`LogisticRegression`] | standardised columns | a linear head; the start of a fine-tuned one |
//! | [`KernelMachine`] | standardised columns, at most 10,000 rows | a head that is not linear |
//! | [`ExtraTrees`] | raw numbers, NaN for missing | few labels |
//! | [`Boosting`] | raw numbers, NaN for missing | many labels |
//!
//! Targets are probabilities of the positive class: 0 and 1 are labels, what lies between is what a teacher says. A weight counts as
//! so many equal rows; a row of weight 0 is left out.
//!
//! **Invariant:** a fit is a function of its arguments, whatever the number of threads. A score is a function of the row alone: the
//! rows that are scored together with it change no bit.
//!
//! **Invariant:** nothing here opens a file. Each fitted learner gives its arrays (`parts`) and is made from them (`from_parts`), which
//! checks them.
#![forbid(unsafe_code)]

mod boosting;
mod extra_trees;
mod kernel_machine;
mod logistic;
mod pca;
mod trees;

use std::ops::Range;

use ndarray::{Array1, Array2, ArrayRef2, ArrayView2, Axis, Slice};
use nids_kernels::{Gemm, Mat, Product, Store};

pub use boosting::{Boosting, BoostingConfig};
pub use extra_trees::{ExtraTrees, ExtraTreesConfig};
pub use kernel_machine::{KernelConfig, KernelMachine, KernelParts};
pub use logistic::{LogisticParts, LogisticRegression};
pub use pca::{Pca, PcaParts};
pub use trees::TreeParts;

/// What cannot be fitted, or arrays that are no fitted learner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Rows with a target and a weight each, as a fit uses them: finite, and without rows of weight 0.
struct Checked {
    /// Row numbers of `x`.
    rows: Vec<usize>,
    target: Array1<f64>,
    weight: Array1<f64>,
}

impl Checked {
    /// # Errors
    /// Not one target or weight for each row, targets outside 0 to 1, weights that are negative or not finite, no row of positive weight.
    fn new(n_rows: usize, target: &[f64], weight: Option<&[f64]>) -> Result<Self> {
        if target.len() != n_rows || weight.is_some_and(|weight| weight.len() != n_rows) {
            let weights = weight.map_or(String::new(), |weight| format!(" and {} weights", weight.len()));
            return Err(Error(format!("expected a target for each of {n_rows} rows, found {} targets{weights}", target.len())));
        }
        if let Some(row) = target.iter().position(|target| !(0.0..=1.0).contains(target)) {
            return Err(Error(format!("row {row}: expected a target between 0 and 1, found `{}`", target[row])));
        }
        let weight_of = |row: usize| weight.map_or(1.0, |weight| weight[row]);
        if let Some(row) = (0..n_rows).find(|&row| !(weight_of(row) >= 0.0 && weight_of(row).is_finite())) {
            return Err(Error(format!("row {row}: expected a weight of 0 or more, found `{}`", weight_of(row))));
        }
        let rows: Vec<usize> = (0..n_rows).filter(|&row| weight_of(row) > 0.0).collect();
        if rows.is_empty() {
            return Err(Error(format!("nothing to fit: none of {n_rows} rows has a positive weight")));
        }
        let target = rows.iter().map(|&row| target[row]).collect();
        let weight = rows.iter().map(|&row| weight_of(row)).collect();
        Ok(Self { rows, target, weight })
    }

    /// The probability of the positive class where all rows are of one class: (n + 1) / (n + 2) or 1 / (n + 2) for a total weight of
    /// n (Laplace's rule of succession). None where both classes occur.
    fn one_class(&self) -> Option<f64> {
        let n = self.weight.sum();
        let all = |value: f64| self.target.iter().all(|&target| (target - value).abs() == 0.0);
        if all(1.0) { Some((n + 1.0) / (n + 2.0)) } else { all(0.0).then(|| 1.0 / (n + 2.0)) }
    }
}

/// # Errors
/// Names the first number that is not finite.
fn check_finite(x: &ArrayRef2<f64>) -> Result<()> {
    x.indexed_iter().find(|(_, value)| !value.is_finite()).map_or(Ok(()), |((row, column), value)| {
        Err(Error(format!("row {row}, column {column}: expected a finite number, found `{value}`")))
    })
}

/// # Errors
/// If `holds` does not: arrays of a file that is damaged or of another learner.
fn check_parts(holds: bool, what: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error(format!("invalid parts: {what}"))) }
}

/// Sets OpenBLAS to one thread and gets its buffer, before the first product or function of LAPACK.
fn reserve_openblas() -> Result<()> {
    let message = "no room in the address space for a buffer of OpenBLAS (128 MiB): raise `ulimit -v`";
    nids_kernels::reserve_openblas(1).map_err(|_| Error(message.into()))
}

/// x · b by tiles, so that a row's numbers do not depend on the rows beside it.   x: [rows, k]   b: [k, n]   -> [rows, n]
fn product(x: &ArrayRef2<f64>, b: &Array2<f64>) -> Array2<f64> {
    let (x, b) = (x.as_standard_layout(), b.as_standard_layout());
    let (x_data, b_data) = (x.as_slice().expect("standard layout"), b.as_slice().expect("standard layout"));
    let [m, n, k] = [x.nrows(), b.ncols(), x.ncols()];
    let mut c = vec![0.0; m * n];
    let product = Product::new([m, n, k], Mat::new(x_data, k), Mat::new(b_data, n), Store::Set);
    let mut scratch = vec![0.0; product.scratch_len(Gemm::Tiles)];
    product.run(Gemm::Tiles, &mut c, n, &mut scratch);
    Array2::from_shape_vec((m, n), c).expect("m * n numbers")
}

/// Some columns, in place. (The macro `s!` expands to `unsafe`, which is forbidden here.)
fn columns(x: &ArrayRef2<f64>, range: Range<usize>) -> ArrayView2<'_, f64> {
    x.slice_axis(Axis(1), Slice::from(range))
}

/// 1 / (1 + e^-z), without overflow.
fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        let e = z.exp();
        e / (1.0 + e)
    }
}

/// ln(p / (1 - p))
fn logit(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}

#[cfg(test)]
mod testing {
    use ndarray::{Array1, Array2};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    use crate::sigmoid;

    /// Normal columns, and labels drawn by a noisy linear rule on the first two.   -> [rows, columns], [rows]
    pub(crate) fn normal(rows: usize, columns: usize, seed: u64) -> (Array2<f64>, Vec<f64>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let x = Array2::from_shape_simple_fn((rows, columns), || StandardNormal.sample(&mut rng));
        let labels = x.outer_iter().map(|row: ndarray::ArrayView1<'_, f64>| {
            let noise: f64 = StandardNormal.sample(&mut rng);
            f64::from(u8::from(row[0] - 0.5 * row[1] + 0.5 * noise > 0.2))
        });
        let labels = labels.collect();
        (x, labels)
    }

    /// Numbers that a script can make again: sin(1²), sin(2²), ... by rows.
    pub(crate) fn sines(rows: usize, columns: usize) -> Array2<f64> {
        Array2::from_shape_fn((rows, columns), |(row, column)| ((row * columns + column + 1) as f64).powi(2).sin())
    }

    /// |a - b| is within `tolerance` of the larger of 1 and |b|, for each.
    pub(crate) fn close(a: &Array1<f64>, b: &[f64], tolerance: f64) {
        assert_eq!(a.len(), b.len());
        let near = a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance * b.abs().max(1.0));
        assert!(near, "{a}\n{b:?}");
    }

    #[test]
    fn sigmoid_neither_overflows_nor_loses_the_small() {
        assert!((sigmoid(0.0) - 0.5).abs() < 1e-15 && (sigmoid(1e4) - 1.0).abs() < 1e-15);
        assert!(sigmoid(-700.0) > 0.0 && sigmoid(-1e4).abs() < 1e-300);
    }
}
