//! A classifier on a radial basis kernel: least squares in closed form, with calibrated probabilities.

use ndarray::{Array1, Array2, ArrayRef2, Axis};
use ndarray_linalg::{FactorizeCInto, InverseCInto, UPLO};
use openblas_src as _; // links LAPACK

use crate::logistic::calibrate;
use crate::{Checked, Error, Result, check_finite, check_parts, logit, product, reserve_openblas, sigmoid};

/// Rows at most: the kernel matrix of as many takes 800 MB, and its inverse minutes.
const MAX_ROWS: usize = 10_000;
/// Rows that are scored at once.
const BLOCK: usize = 256;

/// Settings of a [`KernelMachine`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelConfig {
    /// How fast the kernel falls with distance: k(x, z) = exp(-gamma |x - z|²). With unit columns, half over their number.
    pub gamma: f64,
    /// Cost of a row's squared error against the norm of the function.
    pub c: f64,
}

impl Default for KernelConfig {
    /// For 100 principal components.
    fn default() -> Self {
        Self { gamma: 0.005, c: 10.0 }
    }
}

/// p = σ(slope · f(x) + offset),   f(x) = Σ dualᵢ exp(-gamma |x - rowᵢ|²) + bias
///
/// ```
/// use ndarray::array;
/// use nids_heads::{KernelConfig, KernelMachine};
///
/// // no line parts the middle from both sides
/// let x = array![[-2.0], [-1.8], [-0.1], [0.0], [0.1], [1.8], [2.0]];
/// let y = [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0];
/// let head = KernelMachine::fit(&x, &y, None, KernelConfig { gamma: 0.5, c: 10.0 })?;
/// let p = head.probabilities(&array![[-1.9], [0.05], [1.9]]);
/// assert!(p[0] > 0.5 && p[1] < 0.5 && p[2] > 0.5);
/// # Ok::<(), nids_heads::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct KernelMachine(KernelParts);

/// The arrays of a [`KernelMachine`] over n rows of D columns.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelParts {
    /// The rows that were fitted.   [n, D]
    pub rows: Array2<f64>,
    /// [n]
    pub dual: Array1<f64>,
    /// Added to the sum over rows.
    pub bias: f64,
    /// Of the kernel.
    pub gamma: f64,
    /// Log odds for each unit of the margin.
    pub slope: f64,
    /// Log odds at margin 0.
    pub offset: f64,
}

impl KernelMachine {
    /// Minimises |f|² / 2 + (c / 2) Σ wᵢ (f(xᵢ) + bias - tᵢ)², t = 2 target - 1: a least-squares support vector machine (Suykens &
    /// Vandewalle 1999). Its leave-one-out margins come in closed form from the same factorisation (Cawley 2006); slope and offset
    /// are those that make them calibrated (Platt 1999, with his drawn-in targets). A margin of a row that was fitted is never used.
    /// Rows of one class give a constant: (n + 1) / (n + 2) or 1 / (n + 2), n the total weight.
    ///
    /// x: [rows, D]   target: [rows], 0 to 1   weight: [rows], 1 where left out
    ///
    /// # Errors
    /// Numbers that are not finite, targets outside 0 to 1, negative weights, lengths that differ, no row or more than 10,000,
    /// settings that are not positive.
    pub fn fit(x: &ArrayRef2<f64>, target: &[f64], weight: Option<&[f64]>, config: KernelConfig) -> Result<Self> {
        let KernelConfig { gamma, c } = config;
        check_finite(x)?;
        if ![gamma, c].iter().all(|value| *value > 0.0 && value.is_finite()) {
            return Err(Error(format!("expected `gamma` and `c` above 0, found `{gamma}` and `{c}`")));
        }
        let checked = Checked::new(x.nrows(), target, weight)?;
        if checked.rows.len() > MAX_ROWS {
            let found = checked.rows.len();
            return Err(Error(format!("expected at most {MAX_ROWS} rows, found {found}: fit a kernel machine on some of them")));
        }
        if let Some(p) = checked.one_class() {
            let (rows, dual) = (Array2::zeros((0, x.ncols())), Array1::zeros(0));
            return Ok(Self(KernelParts { rows, dual, bias: 0.0, gamma, slope: 0.0, offset: logit(p) }));
        }
        let rows = x.select(Axis(0), &checked.rows);
        let Solved { dual, bias, leave_one_out } = solve(&rows, &checked, config)?;
        let [slope, offset] = calibrate(&leave_one_out, &checked.target, &checked.weight)?;
        Ok(Self(KernelParts { rows, dual, bias, gamma, slope, offset }))
    }

    /// Log odds.   x: [rows, D] -> [rows]
    ///
    /// # Panics
    /// If D is not that of the rows that were fitted.
    pub fn margins(&self, x: &ArrayRef2<f64>) -> Array1<f64> {
        let KernelParts { rows, dual, bias, gamma, slope, offset } = &self.0;
        assert_eq!(x.ncols(), rows.ncols(), "as many columns as were fitted");
        let transposed = rows.t().as_standard_layout().into_owned();
        let dual = dual.view().insert_axis(Axis(1)).to_owned();
        let norms = squared_norms(rows);
        let mut margins = Array1::zeros(x.nrows());
        for (x, mut margins) in x.axis_chunks_iter(Axis(0), BLOCK).zip(margins.axis_chunks_iter_mut(Axis(0), BLOCK)) {
            let kernel = kernel(product(&x, &transposed), &squared_norms(&x), &norms, *gamma);
            margins.assign(&((product(&kernel, &dual).column(0).to_owned() + *bias) * *slope + *offset));
        }
        margins
    }

    /// Probabilities of the positive class.   x: [rows, D] -> [rows]
    ///
    /// # Panics
    /// If D is not that of the rows that were fitted.
    pub fn probabilities(&self, x: &ArrayRef2<f64>) -> Array1<f64> {
        self.margins(x).mapv(sigmoid)
    }

    /// The arrays that make it again.
    pub fn parts(&self) -> &KernelParts {
        &self.0
    }

    /// # Errors
    /// Arrays whose shapes do not fit together, numbers that are not finite, a `gamma` that is not positive.
    pub fn from_parts(parts: KernelParts) -> Result<Self> {
        let KernelParts { rows, dual, bias, gamma, slope, offset } = &parts;
        check_parts(rows.nrows() == dual.len(), "shapes of `rows` and `dual`")?;
        let is_finite = rows.iter().chain(dual).chain([bias, gamma, slope, offset]).all(|value| value.is_finite());
        check_parts(is_finite, "a number is not finite")?;
        check_parts(*gamma > 0.0, "`gamma` is not positive")?;
        Ok(Self(parts))
    }
}

struct Solved {
    dual: Array1<f64>,
    bias: f64,
    /// The margin of each row by a fit without it.
    leave_one_out: Array1<f64>,
}

/// Solves [[K + diag(1 / (c w)), 1], [1ᵀ, 0]] [dual, bias] = [t, 0].
fn solve(rows: &Array2<f64>, checked: &Checked, KernelConfig { gamma, c }: KernelConfig) -> Result<Solved> {
    reserve_openblas()?;
    let norms = squared_norms(rows);
    let mut matrix = kernel(rows.dot(&rows.t()), &norms, &norms, gamma);
    matrix.diag_mut().zip_mut_with(&checked.weight, |value, weight| *value = 1.0 + 1.0 / (c * weight));
    let inverse = matrix.factorizec_into(UPLO::Lower).and_then(InverseCInto::invc_into);
    let inverse = inverse.map_err(|error| Error(format!("kernel machine: {error}: lower `c`")))?;
    let signs = checked.target.mapv(|target| 2.0 * target - 1.0);
    let ones = inverse.sum_axis(Axis(1));
    let solution = inverse.dot(&signs);
    let total = ones.sum();
    let bias = solution.sum() / total;
    let dual = solution - &ones * bias;
    // the diagonal of the bordered inverse
    let diagonal = &inverse.diag() - &(&ones * &ones / total);
    let leave_one_out = signs - &dual / diagonal;
    Ok(Solved { dual, bias, leave_one_out })
}

/// exp(-gamma (|x|² + |z|² - 2 x·z)), in the place of the products.   products: [rows, n]
fn kernel(mut products: Array2<f64>, x: &Array1<f64>, z: &Array1<f64>, gamma: f64) -> Array2<f64> {
    for (mut row, x) in products.outer_iter_mut().zip(x) {
        row.zip_mut_with(z, |value, z| *value = (-gamma * (x + z - 2.0 * *value).max(0.0)).exp());
    }
    products
}

fn squared_norms(x: &ArrayRef2<f64>) -> Array1<f64> {
    x.outer_iter().map(|row| row.iter().map(|value| value * value).sum()).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{close, normal, sines};

    fn f(head: &KernelMachine, x: &Array2<f64>) -> Array1<f64> {
        (head.margins(x) - head.0.offset) / head.0.slope
    }

    #[test]
    fn two_rows_by_hand() {
        // K = [[1, k], [k, 1]] with k = e^-1 and 1 / c = 1: by symmetry the bias is 0 and dual = ±1 / (1 + 1 - k)
        let x = array![[0.0], [1.0]];
        let checked = Checked::new(2, &[0.0, 1.0], None).unwrap();
        let solved = solve(&x, &checked, KernelConfig { gamma: 1.0, c: 1.0 }).unwrap();
        let dual = 1.0 / (2.0 - (-1.0_f64).exp());
        close(&solved.dual, &[-dual, dual], 1e-12);
        assert!(solved.bias.abs() < 1e-12);
        // without a row the other one is all there is, and its class the bias
        close(&solved.leave_one_out, &[1.0, -1.0], 1e-12);
    }

    #[test]
    fn numpy_finds_the_same() {
        // x = np.sin(np.arange(1, 61) ** 2).reshape(20, 3); t = 2 * (np.arange(20) % 3 == 0) - 1; K = rbf_kernel(x, gamma=0.3) of
        // scikit-learn; np.linalg.solve of the bordered system with 1 / c = 0.1; leave-one-out by 20 systems of 19 rows
        let y: Vec<f64> = (0..20).map(|row| f64::from(u8::from(row % 3 == 0))).collect();
        let checked = Checked::new(20, &y, None).unwrap();
        let solved = solve(&sines(20, 3), &checked, KernelConfig { gamma: 0.3, c: 10.0 }).unwrap();
        close(&solved.dual.iter().take(3).copied().collect(), &[6.872_183_488_372, 1.028_929_197_980, -4.863_719_755_926], 1e-9);
        close(&array![solved.bias], &[0.374_619_785_577], 1e-9);
        let wanted = [-0.421_976_035_974, -1.201_497_544_403, -0.067_285_030_002, -0.744_394_129_267];
        close(&solved.leave_one_out.iter().take(4).copied().collect(), &wanted, 1e-9);
    }

    #[test]
    fn probabilities_come_from_rows_that_were_left_out() {
        // labels that are noise, and a kernel so narrow that every row is its own: the fitted margins part the classes, and the
        // leave-one-out margins know nothing
        let (x, _) = normal(200, 3, 4);
        let y: Vec<f64> = (0..200).map(|row| f64::from(row % 2)).collect();
        let head = KernelMachine::fit(&x, &y, None, KernelConfig { gamma: 50.0, c: 10.0 }).unwrap();
        assert!(head.probabilities(&x).iter().all(|p| (0.3..0.7).contains(p)));
    }

    #[test]
    fn few_rows_are_calibrated_on_others() {
        let (x, y) = normal(500, 5, 11);
        let (other, labels) = normal(3000, 5, 12);
        let p = KernelMachine::fit(&x, &y, None, KernelConfig { gamma: 0.1, c: 10.0 }).unwrap().probabilities(&other);
        let right = p.iter().zip(&labels).filter(|(p, y)| (**p > 0.5) == (**y > 0.5)).count() as f64 / 3000.0;
        let sure = p.iter().map(|p| p.max(1.0 - p)).sum::<f64>() / 3000.0;
        assert!(right > 0.8 && (right - sure).abs() < 0.04, "right {right}, sure {sure}");
    }

    #[test]
    fn rows_of_one_class_give_a_constant_that_is_not_certain() {
        let (x, _) = normal(8, 3, 1);
        for (class, p) in [(1.0, 0.9), (0.0, 0.1)] {
            close(&KernelMachine::fit(&x, &[class; 8], None, KernelConfig::default()).unwrap().probabilities(&x), &[p; 8], 1e-12);
        }
    }

    #[test]
    fn equal_rows_with_different_labels_are_as_likely_as_their_share() {
        let x = Array2::from_elem((40, 2), 1.5);
        let y: Vec<f64> = (0..40).map(|row| f64::from(u8::from(row < 10))).collect();
        let p = KernelMachine::fit(&x, &y, None, KernelConfig::default()).unwrap().probabilities(&x);
        assert!(p.iter().all(|p| (p - 0.25).abs() < 0.03), "{p}");
    }

    #[test]
    fn rows_have_the_same_bits_alone_and_together() {
        let (x, y) = normal(BLOCK + 3, 9, 2);
        let head = KernelMachine::fit(&x, &y, None, KernelConfig::default()).unwrap();
        let together = head.probabilities(&x);
        for row in [0, 7, BLOCK - 1, BLOCK + 2] {
            assert_eq!(head.probabilities(&x.select(Axis(0), &[row]))[0].to_bits(), together[row].to_bits());
        }
    }

    #[test]
    fn bad_input_is_an_error() {
        let message = |x: Array2<f64>, c| {
            let y = vec![0.5; x.nrows()];
            KernelMachine::fit(&x, &y, None, KernelConfig { gamma: 1.0, c }).unwrap_err().to_string()
        };
        insta::assert_snapshot!(message(array![[f64::NAN]], 1.0), @"row 0, column 0: expected a finite number, found `NaN`");
        insta::assert_snapshot!(message(array![[1.0]], f64::NAN), @"expected `gamma` and `c` above 0, found `1` and `NaN`");
        insta::assert_snapshot!(message(Array2::zeros((MAX_ROWS + 1, 1)), 1.0), @"expected at most 10000 rows, found 10001: fit a kernel machine on some of them");
    }

    #[test]
    fn parts_make_it_again_and_are_checked() {
        let (x, y) = normal(20, 3, 1);
        let head = KernelMachine::fit(&x, &y, None, KernelConfig::default()).unwrap();
        assert_eq!(KernelMachine::from_parts(head.parts().clone()).unwrap(), head);
        let damaged = [
            KernelParts { dual: Array1::zeros(3), ..head.0.clone() },
            KernelParts { gamma: 0.0, ..head.0.clone() },
            KernelParts { slope: f64::INFINITY, ..head.0 },
        ];
        assert!(damaged.into_iter().all(|parts| KernelMachine::from_parts(parts).is_err()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn the_optimality_conditions_hold_and_leaving_out_is_exact(
            seed in 0_u64..1000,
            targets in prop::collection::vec(0.0..=1.0, 3..25),
            weights in prop::collection::vec(0.1..4.0, 25),
            c in 0.1..30.0,
        ) {
            let n = targets.len();
            let (x, _) = normal(n, 2, seed);
            let config = KernelConfig { gamma: 0.2, c };
            let checked = Checked::new(n, &targets, Some(&weights[..n])).unwrap();
            let Solved { dual, bias, leave_one_out } = solve(&x, &checked, config).unwrap();
            // dual = c w (t - f), and its sum is 0
            let head = KernelMachine(KernelParts { rows: x.clone(), dual, bias, gamma: 0.2, slope: 1.0, offset: 0.0 });
            let wanted: Vec<f64> = f(&head, &x).iter().zip(&targets).zip(&weights).map(|((f, y), w)| c * w * (2.0 * y - 1.0 - f)).collect();
            close(&head.0.dual, &wanted, 1e-7);
            prop_assert!(head.0.dual.sum().abs() < 1e-8);

            let others: Vec<usize> = (1..n).collect();
            let rest = Checked::new(n - 1, &targets[1..], Some(&weights[1..n])).unwrap();
            let rows = x.select(Axis(0), &others);
            let Solved { dual, bias, .. } = solve(&rows, &rest, config).unwrap();
            let without = KernelMachine(KernelParts { rows, dual, bias, gamma: 0.2, slope: 1.0, offset: 0.0 });
            close(&leave_one_out.iter().take(1).copied().collect(), &[f(&without, &x.select(Axis(0), &[0]))[0]], 1e-7);
        }
    }
}
