//! Principal components of standardised columns.

use ndarray::{Array1, Array2, ArrayRef2, Axis, Slice, linalg::general_mat_mul};
use ndarray_linalg::{Eigh, QR, UPLO};
use nids_kernels::Key;
use openblas_src as _; // links LAPACK
use rand::RngExt as _;

use crate::{Error, Result, check_parts, columns, product, reserve_openblas};

/// Standardised values are cut here: a column with a long tail would otherwise make a component of its few largest rows.
const CLIP: f64 = 5.0;
/// Rows that are standardised at once.
const BLOCK: usize = 512;
/// Columns up to which the covariance is kept, 128 MiB of it. Beyond, each pass multiplies by the rows anew.
const MAX_COVARIANCE: usize = 4096;
/// A component has converged when |C v - λ v| is this share of the largest eigenvalue.
const TOLERANCE: f64 = 1e-10;
/// Passes at most. A flat spectrum needs more; its directions mean little.
const MAX_PASSES: usize = 50;
/// Components with less than this share of the largest variance are rounding errors.
const MIN_VARIANCE: f64 = 1e-10;

/// The leading principal components of standardised columns, scaled to unit variance.
///
/// score = (clip((x - mean) · rstd, ±5) - centre) · weight
///
/// ```
/// use ndarray::array;
/// use nids_heads::Pca;
///
/// // two columns that agree, and one that never changes: one component
/// let x = array![[1.0_f32, 10.0, 7.0], [2.0, 20.0, 7.0], [3.0, 30.0, 7.0]];
/// let pca = Pca::fit(&x, 2)?;
/// assert_eq!(pca.n_components(), 1);
/// let scores = pca.transform(&x);
/// assert!((scores[[2, 0]] - 1.5_f64.sqrt()).abs() < 1e-9);
/// # Ok::<(), nids_heads::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Pca(PcaParts);

/// The arrays of a [`Pca`], over D columns and k components.
#[derive(Clone, Debug, PartialEq)]
pub struct PcaParts {
    /// Mean of each column.   [D]
    pub mean: Array1<f64>,
    /// 1 / standard deviation of each column; 0 for a column that never changes.   [D]
    pub rstd: Array1<f64>,
    /// Mean of each column once it is standardised and clipped.   [D]
    pub centre: Array1<f64>,
    /// Directions, each divided by the standard deviation along it.   [D, k]
    pub weight: Array2<f64>,
    /// Variance along each direction, largest first.   [k]
    pub variance: Array1<f64>,
}

impl Pca {
    /// Finds the `k` leading components. There are fewer where the columns have no more: constant columns are left out, and
    /// directions along which the variance is below 1e-10 of the largest.   x: [rows, D]
    ///
    /// Subspace iteration with Rayleigh-Ritz steps (Saad, Numerical Methods for Large Eigenvalue Problems, 2011, algorithm 5.3) from
    /// a seeded start of 2 k directions (Halko et al. 2011): one covariance and some tens of thin products, where a full
    /// decomposition would take 9 D³ operations. The largest entry of each direction is positive.
    ///
    /// # Errors
    /// No row, no component, a number that is not finite.
    pub fn fit(x: &ArrayRef2<f32>, k: usize) -> Result<Self> {
        Self::fit_within(x, k, MAX_COVARIANCE)
    }

    fn fit_within(x: &ArrayRef2<f32>, k: usize, max_covariance: usize) -> Result<Self> {
        if x.nrows() == 0 || k == 0 {
            return Err(Error(format!("no components to find: {k} of {} rows", x.nrows())));
        }
        if let Some(((row, column), value)) = x.indexed_iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error(format!("row {row}, column {column}: expected a finite number, found `{value}`")));
        }
        reserve_openblas()?;
        let columns = Columns::fit(x);
        let (variance, mut weight) = if x.ncols() <= max_covariance {
            let covariance = columns.covariance(x);
            leading(x.ncols(), k, |q| covariance.dot(q))?
        } else {
            leading(x.ncols(), k, |q| columns.times_covariance(x, q))?
        };
        for (mut direction, variance) in weight.axis_iter_mut(Axis(1)).zip(&variance) {
            let largest =
                direction.iter().fold(0.0_f64, |largest, &value| if value.abs() > largest.abs() { value } else { largest });
            direction /= variance.sqrt() * largest.signum();
        }
        let Columns { mean, rstd, centre } = columns;
        Ok(Self(PcaParts { mean, rstd, centre, weight, variance }))
    }

    /// Scores of rows, in blocks.   x: [rows, D] -> [rows, k]; a row with NaN has NaN.
    ///
    /// # Panics
    /// If D is not that of the rows that were fitted.
    pub fn transform(&self, x: &ArrayRef2<f32>) -> Array2<f64> {
        let PcaParts { mean, rstd, centre, weight, .. } = &self.0;
        assert_eq!(x.ncols(), mean.len(), "as many columns as were fitted");
        let columns = Columns { mean: mean.clone(), rstd: rstd.clone(), centre: centre.clone() };
        let mut scores = Array2::zeros((x.nrows(), weight.ncols()));
        for (x, mut scores) in x.axis_chunks_iter(Axis(0), BLOCK).zip(scores.axis_chunks_iter_mut(Axis(0), BLOCK)) {
            scores.assign(&product(&columns.standardise(&x), weight));
        }
        scores
    }

    /// Number of components, k.
    pub fn n_components(&self) -> usize {
        self.0.variance.len()
    }

    /// The arrays that make it again.
    pub fn parts(&self) -> &PcaParts {
        &self.0
    }

    /// # Errors
    /// Arrays whose shapes do not fit together, or with numbers that are not finite.
    pub fn from_parts(parts: PcaParts) -> Result<Self> {
        let PcaParts { mean, rstd, centre, weight, variance } = &parts;
        let d = mean.len();
        let fits = [rstd.len(), centre.len(), weight.nrows()] == [d; 3] && weight.ncols() == variance.len();
        check_parts(fits, "shapes of `mean`, `rstd`, `centre`, `weight` and `variance`")?;
        let is_finite = mean.iter().chain(rstd).chain(centre).chain(weight).chain(variance).all(|value| value.is_finite());
        check_parts(is_finite, "a number is not finite")?;
        Ok(Self(parts))
    }
}

/// How columns are standardised.
struct Columns {
    mean: Array1<f64>,
    rstd: Array1<f64>,
    centre: Array1<f64>,
}

impl Columns {
    fn fit(x: &ArrayRef2<f32>) -> Self {
        let n_rows = x.nrows() as f64;
        let mut mean = Array1::<f64>::zeros(x.ncols());
        x.outer_iter().for_each(|row| mean.zip_mut_with(&row, |sum, &value| *sum += f64::from(value)));
        mean /= n_rows;
        let mut squares = Array1::<f64>::zeros(x.ncols());
        for row in x.outer_iter() {
            squares.iter_mut().zip(row).zip(&mean).for_each(|((sum, &value), mean)| *sum += (f64::from(value) - mean).powi(2));
        }
        // exactly 0 for a constant column: in f64, some 2^29 equal numbers of f32 add up without rounding
        let rstd = squares.iter().map(|&sum| if sum > 0.0 { (n_rows / sum).sqrt() } else { 0.0 });
        let mut columns = Self { rstd: rstd.collect(), centre: Array1::zeros(x.ncols()), mean };
        let mut centre = Array1::<f64>::zeros(x.ncols());
        x.axis_chunks_iter(Axis(0), BLOCK).for_each(|x| centre += &columns.standardise(&x).sum_axis(Axis(0)));
        columns.centre = centre / n_rows;
        columns
    }

    /// clip((x - mean) · rstd, ±5) - centre
    fn standardise(&self, x: &ArrayRef2<f32>) -> Array2<f64> {
        let mut z = x.mapv(f64::from);
        for mut row in z.outer_iter_mut() {
            for (((value, mean), rstd), centre) in row.iter_mut().zip(&self.mean).zip(&self.rstd).zip(&self.centre) {
                *value = ((*value - mean) * rstd).clamp(-CLIP, CLIP) - centre;
            }
        }
        z
    }

    /// ZᵀZ / rows. Each block of columns is multiplied by those up to it, and the rest is their mirror image.   -> [D, D]
    fn covariance(&self, x: &ArrayRef2<f32>) -> Array2<f64> {
        let d = x.ncols();
        let mut covariance = Array2::zeros((d, d));
        for x in x.axis_chunks_iter(Axis(0), BLOCK) {
            let z = self.standardise(&x);
            for start in (0..d).step_by(BLOCK) {
                let end = (start + BLOCK).min(d);
                let mut c = covariance.slice_axis_mut(Axis(1), Slice::from(start..end));
                let mut c = c.slice_axis_mut(Axis(0), Slice::from(..end));
                general_mat_mul(1.0, &columns(&z, 0..end).t(), &columns(&z, start..end), 1.0, &mut c);
            }
        }
        covariance /= x.nrows() as f64;
        for row in 0..d {
            for column in 0..row {
                covariance[[row, column]] = covariance[[column, row]];
            }
        }
        covariance
    }

    /// Zᵀ(Z q) / rows, block by block.   q: [D, l] -> [D, l]
    fn times_covariance(&self, x: &ArrayRef2<f32>, q: &Array2<f64>) -> Array2<f64> {
        let mut product = Array2::zeros(q.raw_dim());
        for x in x.axis_chunks_iter(Axis(0), BLOCK) {
            let z = self.standardise(&x);
            general_mat_mul(1.0, &z.t(), &z.dot(q), 1.0, &mut product);
        }
        product / x.nrows() as f64
    }
}

/// The `k` largest eigenvalues of a covariance, largest first, with their vectors.   times_covariance: [D, l] -> [D, l]   -> [k], [D, k]
fn leading(d: usize, k: usize, times_covariance: impl Fn(&Array2<f64>) -> Array2<f64>) -> Result<(Array1<f64>, Array2<f64>)> {
    let failed = |error| Error(format!("principal components: {error}"));
    let k = k.min(d);
    let width = d.min((2 * k).max(k + 20));
    let mut stream = Key::new(0).stream(0, 0);
    let mut q =
        if width == d { Array2::eye(d) } else { Array2::from_shape_simple_fn((d, width), || stream.random::<f64>() - 0.5) };
    for pass in 0.. {
        q = q.qr().map_err(failed)?.0;
        let product = times_covariance(&q);
        let (mut values, mut vectors) = q.t().dot(&product).eigh(UPLO::Lower).map_err(failed)?;
        // ascending: the last are the leading
        values.invert_axis(Axis(0));
        vectors.invert_axis(Axis(1));
        let largest = values[0].max(0.0);
        let n_kept = values.iter().take(k).filter(|&&value| value > MIN_VARIANCE * largest).count();
        let (values, vectors) = (values.iter().take(n_kept).copied().collect::<Array1<_>>(), columns(&vectors, 0..n_kept));
        let ritz = q.dot(&vectors);
        let residual = product.dot(&vectors) - &ritz * &values;
        let worst = residual.map_axis(Axis(0), |column| column.dot(&column).sqrt()).fold(0.0_f64, |worst, &norm| worst.max(norm));
        if worst <= TOLERANCE * largest || pass == MAX_PASSES {
            return Ok((values, ritz));
        }
        q = product;
    }
    unreachable!("the last pass returns")
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::testing::{close, sines};

    /// Columns that share three directions of falling strength, and noise.
    fn correlated(rows: usize, columns: usize) -> Array2<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut normal = |shape| Array2::<f64>::from_shape_simple_fn(shape, || StandardNormal.sample(&mut rng));
        let shared = normal((rows, 3)) * &array![3.0, 2.0, 1.0];
        (shared.dot(&normal((3, columns))) + 0.3 * normal((rows, columns))).mapv(|value| value as f32)
    }

    /// Variances and directions of the full decomposition.
    fn full(x: &Array2<f32>) -> (Array1<f64>, Array2<f64>) {
        let z = Columns::fit(x).standardise(x);
        let (mut values, mut vectors) = (z.t().dot(&z) / x.nrows() as f64).eigh(UPLO::Lower).unwrap();
        values.invert_axis(Axis(0));
        vectors.invert_axis(Axis(1));
        (values, vectors)
    }

    #[test]
    fn two_columns_by_hand() {
        // Standardised, the columns are a = (1, -1, 1, -1) and b = (1, 1, -1, -1): mean products of a and c = (a + b) / √2 are 1 / √2, so
        // the eigenvalues of [[1, r], [r, 1]] with r = 1 / √2 are 1 ± r, along (1, 1) / √2 and (1, -1) / √2.
        let x = array![[5.0_f32, 2.0], [3.0, 0.0], [5.0, 0.0], [3.0, -2.0]];
        let pca = Pca::fit(&x, 2).unwrap();
        let r = 0.5_f64.sqrt();
        close(&pca.parts().variance, &[1.0 + r, 1.0 - r], 1e-12);
        let direction = (0.5 / (1.0 + r)).sqrt();
        close(&pca.parts().weight.column(0).to_owned(), &[direction, direction], 1e-12);
        let score = (1.0 + 2.0_f64.sqrt()) * direction; // of the first row, (1, √2) once standardised
        assert!((pca.transform(&x)[[0, 0]] - score).abs() < 1e-12);
    }

    #[test]
    fn subspace_iteration_finds_what_a_full_decomposition_finds() {
        for (rows, columns, k) in [(400, 130, 5), (50, 130, 40), (300, 12, 12)] {
            let x = correlated(rows, columns);
            let (values, vectors) = full(&x);
            let pca = Pca::fit(&x, k).unwrap();
            let wanted = values.to_vec()[..k].to_vec();
            close(&pca.parts().variance, &wanted, 1e-8);
            for (i, variance) in wanted.iter().take(3).enumerate() {
                let direction = &pca.parts().weight.column(i) * variance.sqrt();
                assert!((direction.dot(&vectors.column(i)).abs() - 1.0).abs() < 1e-10, "component {i} of {rows} x {columns}");
            }
        }
    }

    #[test]
    fn components_of_a_slowly_falling_spectrum_are_eigenvectors() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let mut normal = |shape| Array2::<f64>::from_shape_simple_fn(shape, || StandardNormal.sample(&mut rng));
        let strengths = Array1::from_shape_fn(60, |i| 0.9_f64.powf(i as f64));
        let x = (normal((300, 60)) * &strengths).dot(&normal((60, 90))).mapv(|value| value as f32);
        let pca = Pca::fit(&x, 8).unwrap();
        let PcaParts { weight, variance, .. } = pca.parts();
        let directions = weight * &variance.mapv(f64::sqrt);
        let columns = Columns::fit(&x);
        let off = columns.covariance(&x).dot(&directions) - &directions * variance;
        assert!(off.iter().all(|value| value.abs() < 1e-8 * variance[0]), "{off}");
    }

    #[test]
    fn without_a_covariance_in_memory_the_components_are_the_same() {
        let x = correlated(1100, 90); // blocks of 512, 512 and 76 rows
        let [kept, anew] = [MAX_COVARIANCE, 89].map(|max| Pca::fit_within(&x, 3, max).unwrap());
        close(&anew.parts().variance, &kept.parts().variance.to_vec(), 1e-9);
        let difference = (&anew.parts().weight - &kept.parts().weight).fold(0.0_f64, |worst, value| worst.max(value.abs()));
        assert!(difference < 1e-8, "{difference}");
    }

    #[test]
    fn blocks_of_columns_make_one_covariance() {
        let x = correlated(40, BLOCK + 7);
        let columns = Columns::fit(&x);
        let z = columns.standardise(&x);
        let difference = columns.covariance(&x) - z.t().dot(&z) / 40.0;
        assert!(difference.iter().all(|value| value.abs() < 1e-12));
    }

    #[test]
    fn scores_have_mean_0_and_variance_1_and_do_not_correlate() {
        let x = correlated(700, 40);
        let scores = Pca::fit(&x, 6).unwrap().transform(&x);
        let covariance = scores.t().dot(&scores) / 700.0 - Array2::<f64>::eye(6);
        assert!(covariance.iter().all(|value| value.abs() < 1e-8), "{covariance}");
        assert!(scores.sum_axis(Axis(0)).iter().all(|sum| sum.abs() < 1e-8));
    }

    #[test]
    fn a_value_far_out_is_cut_at_five_deviations() {
        // 99 rows of ±1 and one of 1000: standardised about 9.95, were it not cut
        let x = Array2::from_shape_fn((100, 1), |(row, _)| if row == 99 { 1000.0 } else { [1.0_f32, -1.0][row % 2] });
        let pca = Pca::fit(&x, 1).unwrap();
        let largest = |value: f32| pca.transform(&array![[value]])[[0, 0]];
        assert!((largest(1000.0) - largest(1e9)).abs() < 1e-12);
        assert!(largest(1000.0) > largest(400.0));
    }

    #[test]
    fn constant_and_repeated_columns_leave_fewer_components() {
        let x = correlated(60, 3);
        let wide = Array2::from_shape_fn((60, 8), |(row, column)| if column < 6 { x[[row, column % 3]] } else { 0.1 });
        let pca = Pca::fit(&wide, 8).unwrap();
        assert_eq!(pca.n_components(), 3);
        assert!(pca.parts().weight.slice_axis(Axis(0), Slice::from(6..)).iter().all(|value| value.abs() < 1e-12));
        // a column that never changes while fitting says nothing later either
        let mut other = wide.clone();
        other.column_mut(7).fill(9.0);
        assert_eq!(pca.transform(&other), pca.transform(&wide));
        assert_eq!(Pca::fit(&Array2::from_elem((5, 2), 3.0), 2).unwrap().n_components(), 0);
    }

    #[test]
    fn the_largest_entry_of_each_direction_is_positive() {
        let weight = Pca::fit(&correlated(200, 30), 10).unwrap().0.weight;
        for direction in weight.columns() {
            let (least, most) = direction.iter().fold((0.0_f64, 0.0_f64), |(least, most), &v| (least.min(v), most.max(v)));
            assert!(most > -least, "{direction}");
        }
    }

    #[test]
    fn rows_have_the_same_bits_alone_and_together() {
        let x = correlated(BLOCK + 9, 33);
        let pca = Pca::fit(&x, 7).unwrap();
        let together = pca.transform(&x);
        for row in [0, 1, 5, BLOCK, BLOCK + 8] {
            assert_eq!(pca.transform(&x.select(Axis(0), &[row])).row(0), together.row(row));
        }
    }

    #[test]
    fn scikit_learn_finds_the_same() {
        // x = np.sin(np.arange(1, 61) ** 2).reshape(12, 5).astype(np.float32); z = (x - x.mean(0)) / x.std(0) in float64
        // PCA(3, svd_solver="full", whiten=True).fit(z): explained_variance_ * 11 / 12; transform(z)[:2] * sqrt(12 / 11)
        let pca = Pca::fit(&sines(12, 5).mapv(|value| value as f32), 3).unwrap();
        close(&pca.parts().variance, &[1.686_977_825_755, 1.033_885_826_482, 1.003_258_682_618], 1e-9);
        let scores = pca.transform(&sines(2, 5).mapv(|value| value as f32));
        let wanted =
            [0.202_153_583_979, 0.817_492_117_099, -1.178_825_285_095, 0.469_225_312_709, -1.263_383_591_041, -1.613_650_999_434];
        close(&scores.flatten().into_owned(), &wanted, 1e-8);
    }

    #[test]
    fn bad_rows_are_errors() {
        let message = |x: Array2<f32>, k| Pca::fit(&x, k).unwrap_err().to_string();
        insta::assert_snapshot!(message(array![[1.0, 2.0], [3.0, f32::NAN]], 1), @"row 1, column 1: expected a finite number, found `NaN`");
        insta::assert_snapshot!(message(Array2::zeros((0, 3)), 2), @"no components to find: 2 of 0 rows");
        insta::assert_snapshot!(message(Array2::zeros((4, 3)), 0), @"no components to find: 0 of 4 rows");
    }

    #[test]
    fn parts_make_it_again_and_are_checked() {
        let pca = Pca::fit(&correlated(30, 6), 2).unwrap();
        assert_eq!(Pca::from_parts(pca.parts().clone()).unwrap(), pca);
        let damaged = [
            PcaParts { centre: Array1::zeros(5), ..pca.parts().clone() },
            PcaParts { variance: Array1::zeros(3), ..pca.parts().clone() },
            PcaParts { rstd: Array1::from_elem(6, f64::NAN), ..pca.parts().clone() },
        ];
        assert!(damaged.into_iter().all(|parts| Pca::from_parts(parts).is_err()));
    }
}
