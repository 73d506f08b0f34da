//! Logistic regression by Newton's method, and the calibration of margins by it.

use ndarray::{Array1, Array2, ArrayRef2, Axis, Slice};
use ndarray_linalg::{FactorizeC, FactorizeCInto, InverseCInto, SolveC, UPLO};
use openblas_src as _; // links LAPACK

use crate::{Checked, Error, Result, check_finite, check_parts, columns, logit, product, reserve_openblas, sigmoid};

/// Largest entry of the gradient at which a fit has converged.
const TOLERANCE: f64 = 1e-8;
/// Newton steps at most; ten are usual.
const MAX_STEPS: usize = 100;
/// Halvings of a step before it counts as lost in rounding.
const MAX_HALVINGS: i32 = 40;
/// What a step promises, as a share of the objective, is lost in rounding below this: Newton steps are then taken whole, as long as
/// each halves the gradient.
const SETTLED: f64 = 1e-11;

/// p = σ(x · weight + intercept)
///
/// ```
/// use ndarray::array;
/// use nids_heads::LogisticRegression;
///
/// let x = array![[-2.0, 0.3], [-1.0, 0.1], [1.0, 0.2], [2.0, 0.4]];
/// let head = LogisticRegression::fit(&x, &[0.0, 0.0, 1.0, 1.0], None, 1.0)?;
/// let p = head.probabilities(&x);
/// assert!(p[0] < p[1] && p[1] < 0.5 && p[2] > 0.5);
/// # Ok::<(), nids_heads::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LogisticRegression(LogisticParts);

/// The arrays of a [`LogisticRegression`] over D columns.
#[derive(Clone, Debug, PartialEq)]
pub struct LogisticParts {
    /// [D]
    pub weight: Array1<f64>,
    /// Log odds where x is 0.
    pub intercept: f64,
}

impl LogisticRegression {
    /// Minimises |weight|² / 2 + c Σ wᵢ (ln(1 + exp zᵢ) - yᵢ zᵢ), z = x · weight + intercept, until no entry of the gradient is above
    /// 1e-8 (Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 4.4.1, with step halving). `c` is that of
    /// scikit-learn. With rows of one class the weights are 0 and the intercept is the log odds of (n + 1) to 1, n the total weight.
    ///
    /// x: [rows, D]   target: [rows], 0 to 1   weight: [rows], 1 where left out
    ///
    /// # Errors
    /// Numbers that are not finite, targets outside 0 to 1, negative weights, lengths that differ, no row, a `c` that is not positive.
    pub fn fit(x: &ArrayRef2<f64>, target: &[f64], weight: Option<&[f64]>, c: f64) -> Result<Self> {
        Ok(Fit::new(x, target, weight, c)?.head)
    }

    /// The same fit with its margins scaled: slope and offset are those that make the leave-one-out margins of the training rows
    /// calibrated ([`fit`](Self::fit) with few rows is too sure of itself). Leave-one-out margins are found by one more Newton step
    /// each, in closed form (Rad & Maleki 2020); see [`KernelMachine`](crate::KernelMachine) for the calibration.
    ///
    /// # Errors
    /// As `fit`.
    pub fn fit_calibrated(x: &ArrayRef2<f64>, target: &[f64], weight: Option<&[f64]>, c: f64) -> Result<Self> {
        let fit = Fit::new(x, target, weight, c)?;
        let Some(hessian) = fit.hessian else { return Ok(fit.head) };
        let margins = leave_one_out(&fit.x, &fit.checked, &fit.head, hessian, c)?;
        let [slope, offset] = calibrate(&margins, &fit.checked.target, &fit.checked.weight)?;
        let LogisticParts { weight, intercept } = fit.head.0;
        Ok(Self(LogisticParts { weight: weight * slope, intercept: intercept * slope + offset }))
    }

    /// Log odds.   x: [rows, D] -> [rows]
    ///
    /// # Panics
    /// If D is not that of the rows that were fitted.
    pub fn margins(&self, x: &ArrayRef2<f64>) -> Array1<f64> {
        assert_eq!(x.ncols(), self.0.weight.len(), "as many columns as were fitted");
        product(x, &self.0.weight.view().insert_axis(Axis(1)).to_owned()).column(0).to_owned() + self.0.intercept
    }

    /// Probabilities of the positive class.   x: [rows, D] -> [rows]
    ///
    /// # Panics
    /// If D is not that of the rows that were fitted.
    pub fn probabilities(&self, x: &ArrayRef2<f64>) -> Array1<f64> {
        self.margins(x).mapv(sigmoid)
    }

    /// The arrays that make it again.
    pub fn parts(&self) -> &LogisticParts {
        &self.0
    }

    /// # Errors
    /// A number that is not finite.
    pub fn from_parts(parts: LogisticParts) -> Result<Self> {
        check_parts(parts.weight.iter().chain([&parts.intercept]).all(|value| value.is_finite()), "a number is not finite")?;
        Ok(Self(parts))
    }
}

/// A fit with what its calibration needs.
struct Fit {
    head: LogisticRegression,
    /// Rows of positive weight, with a column of ones.   [rows, D + 1]
    x: Array2<f64>,
    checked: Checked,
    /// Where the gradient is 0; None with rows of one class.   [D + 1, D + 1]
    hessian: Option<Array2<f64>>,
}

impl Fit {
    fn new(x: &ArrayRef2<f64>, target: &[f64], weight: Option<&[f64]>, c: f64) -> Result<Self> {
        check_finite(x)?;
        if !(c > 0.0 && c.is_finite()) {
            return Err(Error(format!("expected a `c` above 0, found `{c}`")));
        }
        let checked = Checked::new(x.nrows(), target, weight)?;
        let d = x.ncols();
        let mut with_ones = Array2::ones((checked.rows.len(), d + 1));
        with_ones.slice_axis_mut(Axis(1), Slice::from(..d)).assign(&x.select(Axis(0), &checked.rows));
        if let Some(p) = checked.one_class() {
            let head = LogisticRegression(LogisticParts { weight: Array1::zeros(d), intercept: logit(p) });
            return Ok(Self { head, x: with_ones, checked, hessian: None });
        }
        let mut penalty = Array1::ones(d + 1);
        penalty[d] = 0.0;
        let (beta, hessian) = newton(&with_ones, &checked.target, &(&checked.weight * c), &penalty)?;
        let head = LogisticRegression(LogisticParts { weight: beta.iter().take(d).copied().collect(), intercept: beta[d] });
        Ok(Self { head, x: with_ones, checked, hessian: Some(hessian) })
    }
}

/// Minimises Σ penaltyⱼ βⱼ² / 2 + Σ wᵢ (ln(1 + exp zᵢ) - yᵢ zᵢ), z = x β.   x: [rows, D]   -> β: [D], Hessian: [D, D]
fn newton(x: &Array2<f64>, y: &Array1<f64>, weight: &Array1<f64>, penalty: &Array1<f64>) -> Result<(Array1<f64>, Array2<f64>)> {
    reserve_openblas()?;
    let objective = |beta: &Array1<f64>, z: &Array1<f64>| {
        let loss = |((&z, &y), &w): ((&f64, &f64), &f64)| w * (z.max(0.0) - y * z + (-z.abs()).exp().ln_1p());
        (penalty * beta).dot(beta) / 2.0 + z.iter().zip(y).zip(weight).map(loss).sum::<f64>()
    };
    let mut beta = Array1::zeros(x.ncols());
    let mut z = Array1::zeros(x.nrows());
    let mut least = f64::INFINITY;
    for _ in 0..MAX_STEPS {
        let p = z.mapv(sigmoid);
        let gradient = penalty * &beta + x.t().dot(&(weight * (&p - y)));
        let curvature = weight * &p * (1.0 - &p);
        let rooted = x * &curvature.mapv(f64::sqrt).insert_axis(Axis(1));
        let mut hessian = rooted.t().dot(&rooted);
        hessian.diag_mut().zip_mut_with(penalty, |value, penalty| *value += penalty);
        let largest = gradient.fold(0.0_f64, |largest, value| largest.max(value.abs()));
        if largest <= TOLERANCE {
            return Ok((beta, hessian));
        }
        // saturated rows leave no curvature along what is not penalised; this changes the step and not where steps end
        let mut damped = hessian.clone();
        let scale = damped.diag().sum();
        damped.diag_mut().mapv_inplace(|value| value + 1e-12 * scale);
        let solved = damped.factorizec(UPLO::Lower).and_then(|factor| factor.solvec(&gradient));
        let step = solved.map_err(|error| Error(format!("logistic regression: {error}: standardise the columns")))?;
        let (before, slope) = (objective(&beta, &z), gradient.dot(&step));
        let step_z = x.dot(&step);
        let is_better = |share: f64| {
            let after = objective(&(&beta - &(&step * share)), &(&z - &(&step_z * share)));
            after <= before - 1e-4 * share * slope
        };
        let share = if slope > SETTLED * before {
            (0..MAX_HALVINGS).map(|halvings| 0.5_f64.powi(halvings)).find(|&share| is_better(share)).unwrap_or(0.0)
        } else if largest < 0.5 * least {
            least = largest;
            1.0
        } else {
            0.0
        };
        if share <= 0.0 {
            // what is left of the gradient are rounding errors, if it is small beside its terms
            let terms = x.mapv(f64::abs).t().dot(weight).fold(0.0_f64, |most, &term| most.max(term));
            if largest <= TOLERANCE * terms {
                return Ok((beta, hessian));
            }
            break;
        }
        beta.scaled_add(-share, &step);
        z = x.dot(&beta);
    }
    Err(Error("logistic regression does not converge: standardise the columns, or lower `c`".into()))
}

/// The margin of each row by a fit without it, approximated by one Newton step from the fit with it.   -> [rows]
fn leave_one_out(
    x: &Array2<f64>,
    rows: &Checked,
    head: &LogisticRegression,
    hessian: Array2<f64>,
    c: f64,
) -> Result<Array1<f64>> {
    let LogisticParts { weight, intercept } = &head.0;
    let d = weight.len();
    let inverse = hessian.factorizec_into(UPLO::Lower).and_then(InverseCInto::invc_into);
    let inverse = inverse.map_err(|error| Error(format!("logistic regression: {error}: standardise the columns")))?;
    let leverage = (x.dot(&inverse) * x).sum_axis(Axis(1));
    let mut margins = columns(x, 0..d).dot(weight) + *intercept;
    for (((z, leverage), &y), &w) in margins.iter_mut().zip(leverage).zip(&rows.target).zip(&rows.weight) {
        let p = sigmoid(*z);
        let leverage = c * w * leverage;
        // what a row adds to its own curvature is below 1 but for rounding
        *z += leverage * (p - y) / (1.0 - leverage * p * (1.0 - p)).max(1e-6);
    }
    Ok(margins)
}

/// Slope and offset that make margins log odds (Platt 1999): a logistic regression on one column, of targets drawn in from 0 and 1
/// as by one more row of each class. A slope below 0 would turn the order of rows round on the evidence of few; it is 0 then.
pub(crate) fn calibrate(margins: &Array1<f64>, target: &Array1<f64>, weight: &Array1<f64>) -> Result<[f64; 2]> {
    let positive = (target * weight).sum();
    let negative = weight.sum() - positive;
    let (low, high) = (1.0 / (negative + 2.0), (positive + 1.0) / (positive + 2.0));
    let drawn_in = target.mapv(|y| low + (high - low) * y);
    let mut x = Array2::ones((margins.len(), 2));
    x.column_mut(0).assign(margins);
    // the penalty only keeps the slope finite where margins are all the same
    let (beta, _) = newton(&x, &drawn_in, weight, &ndarray::array![1e-9, 0.0])?;
    let mean = (&drawn_in * weight).sum() / weight.sum();
    Ok(if beta[0] > 0.0 { [beta[0], beta[1]] } else { [0.0, logit(mean)] })
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{close, normal, sines};

    /// The gradient of what `fit` minimises, at the fit.
    fn gradient(head: &LogisticRegression, x: &Array2<f64>, y: &[f64], weight: &[f64], c: f64) -> (Array1<f64>, f64) {
        let error = Array1::from_iter(head.probabilities(x).iter().zip(y).zip(weight).map(|((p, y), w)| c * w * (p - y)));
        (x.t().dot(&error) + &head.0.weight, error.sum())
    }

    #[test]
    fn one_column_by_hand() {
        // x = ±1 with the sign of the label: the intercept is 0 and the weight solves w = 2 c (1 - σ(w)) for two rows; at w = 1 this
        // holds for c = 1 / (2 (1 - σ(1)))
        let c = 0.5 / (1.0 - sigmoid(1.0));
        let head = LogisticRegression::fit(&array![[1.0], [-1.0]], &[1.0, 0.0], None, c).unwrap();
        close(&head.0.weight, &[1.0], 1e-8);
        assert!(head.0.intercept.abs() < 1e-9);
    }

    #[test]
    fn scikit_learn_finds_the_same() {
        // x = np.sin(np.arange(1, 61) ** 2).reshape(20, 3); y = np.arange(20) % 3 == 0; w = 1 + np.arange(20) % 4
        // LogisticRegression(C=c, tol=1e-14, max_iter=100000, solver="newton-cholesky").fit(x, y, sample_weight=None or w)
        let x = sines(20, 3);
        let y: Vec<f64> = (0..20).map(|row| f64::from(u8::from(row % 3 == 0))).collect();
        let weight: Vec<f64> = (0..20).map(|row| f64::from(1 + row % 4)).collect();
        let plain = LogisticRegression::fit(&x, &y, None, 1.0).unwrap();
        close(&plain.0.weight, &[-0.427_040_164_096, -0.607_341_181_201, 0.521_007_153_612], 1e-9);
        close(&array![plain.0.intercept], &[-0.728_244_192_739], 1e-9);
        let weighted = LogisticRegression::fit(&x, &y, Some(&weight), 10.0).unwrap();
        close(&weighted.0.weight, &[-0.919_977_353_655, -0.579_157_997_500, 0.397_521_136_278], 1e-9);
        close(&array![weighted.0.intercept], &[-0.694_728_468_070], 1e-9);
        // q = (1 + np.sin(2 * np.arange(1, 21))) / 2, given to it as each row twice, of class 1 with weight q and of class 0 with 1 - q
        let q: Vec<f64> = (1..=20).map(|i| f64::midpoint(1.0, (2.0 * f64::from(i)).sin())).collect();
        let soft = LogisticRegression::fit(&x, &q, None, 2.0).unwrap();
        close(&soft.0.weight, &[-0.164_326_994_764, -0.753_025_060_113, -0.067_478_736_763], 1e-9);
        close(&array![soft.0.intercept], &[0.073_181_511_357], 1e-9);
    }

    #[test]
    fn separable_rows_and_a_weak_penalty_converge() {
        let x = array![[-3.0, 1.0], [-2.5, 40.0], [30.0, -1.0], [2.0, 0.5], [2.1, 0.7]];
        let (y, c) = ([0.0, 0.0, 1.0, 1.0, 0.0], 1e6);
        let head = LogisticRegression::fit(&x, &y, None, c).unwrap();
        let (gradient, intercept) = gradient(&head, &x, &y, &[1.0; 5], c);
        assert!(gradient.iter().chain([&intercept]).all(|value| value.abs() < 1e-6), "{gradient} {intercept}");
    }

    #[test]
    fn leave_one_out_is_close_to_fits_without_the_row() {
        let (x, y) = normal(60, 4, 3);
        let fit = Fit::new(&x, &y, None, 1.0).unwrap();
        let margins = leave_one_out(&fit.x, &fit.checked, &fit.head, fit.hessian.unwrap(), 1.0).unwrap();
        let with = fit.head.margins(&x);
        let (mut near, mut far) = (0.0_f64, 0.0_f64);
        for row in 0..60 {
            let others: Vec<usize> = (0..60).filter(|&other| other != row).collect();
            let rest: Vec<f64> = others.iter().map(|&other| y[other]).collect();
            let without = LogisticRegression::fit(&x.select(Axis(0), &others), &rest, None, 1.0).unwrap();
            let exact = without.margins(&x.select(Axis(0), &[row]))[0];
            near += (margins[row] - exact).abs();
            far += (with[row] - exact).abs();
        }
        assert!(near < 0.1 * far, "{near} against {far}");
    }

    #[test]
    fn calibration_makes_few_rows_less_sure() {
        // 30 rows of 20 columns, of which two matter: the fit is nearly separable, and its log loss on other rows shows it
        let (x, y) = normal(30, 20, 7);
        let (other, labels) = normal(2000, 20, 8);
        let loss = |head: &LogisticRegression| {
            head.probabilities(&other).iter().zip(&labels).map(|(p, y)| -(y * p.ln() + (1.0 - y) * (1.0 - p).ln())).sum::<f64>()
                / 2000.0
        };
        let plain = loss(&LogisticRegression::fit(&x, &y, None, 10.0).unwrap());
        let calibrated = loss(&LogisticRegression::fit_calibrated(&x, &y, None, 10.0).unwrap());
        assert!(calibrated < 0.8 * plain, "{calibrated} against {plain}");
    }

    #[test]
    fn labels_that_are_noise_give_no_certainty() {
        // 40 rows of 30 columns: the fit parts the classes, and its leave-one-out margins know nothing
        let (x, _) = normal(40, 30, 9);
        let y: Vec<f64> = (0..40).map(|row| f64::from(row % 2)).collect();
        let p = LogisticRegression::fit_calibrated(&x, &y, None, 100.0).unwrap().probabilities(&x);
        assert!(p.iter().all(|p| (0.25..0.75).contains(p)), "{p}");
    }

    #[test]
    fn calibration_by_hand() {
        // two values of the margin, so the fit goes through both: of 3 rows at 1 two are positive, of 3 rows at -1 one is. Targets
        // are drawn in to (3 + 1) / (3 + 2) and 1 / (3 + 2), hence means of .6 and .4: log odds of ±ln 1.5.
        let margins = array![1.0, 1.0, 1.0, -1.0, -1.0, -1.0];
        let [slope, offset] = calibrate(&margins, &array![1.0, 1.0, 0.0, 1.0, 0.0, 0.0], &Array1::ones(6)).unwrap();
        assert!((slope - 1.5_f64.ln()).abs() < 1e-7 && offset.abs() < 1e-7, "{slope} {offset}");
        // margins that are on the wrong side say nothing
        let [slope, offset] = calibrate(&-margins, &array![1.0, 1.0, 0.0, 1.0, 0.0, 0.0], &Array1::ones(6)).unwrap();
        assert!(slope.abs() < 1e-15 && offset.abs() < 1e-12, "{slope} {offset}");
    }

    #[test]
    fn rows_of_one_class_give_a_constant_that_is_not_certain() {
        let (x, _) = normal(8, 3, 1);
        for (class, p) in [(1.0, 0.9), (0.0, 0.1)] {
            for fit in [LogisticRegression::fit, LogisticRegression::fit_calibrated] {
                close(&fit(&x, &[class; 8], None, 1.0).unwrap().probabilities(&x), &[p; 8], 1e-12);
                close(
                    &fit(&x, &[class; 8], Some(&[0.5; 8]), 1.0).unwrap().probabilities(&x),
                    &[5.0 * p / 6.0 + class / 12.0; 8],
                    0.2,
                );
            }
        }
        // one soft target for all is a constant, too, by the fit itself
        close(&LogisticRegression::fit(&x, &[0.3; 8], None, 1.0).unwrap().probabilities(&x), &[0.3; 8], 1e-8);
    }

    #[test]
    fn rows_have_the_same_bits_alone_and_together() {
        let (x, y) = normal(50, 37, 2);
        let head = LogisticRegression::fit(&x, &y, None, 1.0).unwrap();
        let together = head.probabilities(&x);
        (0..50).for_each(|row| assert_eq!(head.probabilities(&x.select(Axis(0), &[row]))[0].to_bits(), together[row].to_bits()));
    }

    #[test]
    fn bad_rows_are_errors() {
        let message = |x: Array2<f64>, y: &[f64], weight: Option<&[f64]>, c| {
            LogisticRegression::fit(&x, y, weight, c).unwrap_err().to_string()
        };
        let x = array![[1.0], [2.0]];
        insta::assert_snapshot!(message(array![[1.0], [f64::INFINITY]], &[0.0, 1.0], None, 1.0), @"row 1, column 0: expected a finite number, found `inf`");
        insta::assert_snapshot!(message(x.clone(), &[0.0, 1.5], None, 1.0), @"row 1: expected a target between 0 and 1, found `1.5`");
        insta::assert_snapshot!(message(x.clone(), &[0.0, f64::NAN], None, 1.0), @"row 1: expected a target between 0 and 1, found `NaN`");
        insta::assert_snapshot!(message(x.clone(), &[0.0, 1.0], Some(&[1.0, -1.0]), 1.0), @"row 1: expected a weight of 0 or more, found `-1`");
        insta::assert_snapshot!(message(x.clone(), &[0.0, 1.0], Some(&[0.0, 0.0]), 1.0), @"nothing to fit: none of 2 rows has a positive weight");
        insta::assert_snapshot!(message(x.clone(), &[0.0], Some(&[0.0; 3]), 1.0), @"expected a target for each of 2 rows, found 1 targets and 3 weights");
        insta::assert_snapshot!(message(x, &[0.0, 1.0], None, 0.0), @"expected a `c` above 0, found `0`");
    }

    #[test]
    fn parts_make_it_again_and_are_checked() {
        let (x, y) = normal(20, 3, 1);
        let head = LogisticRegression::fit(&x, &y, None, 1.0).unwrap();
        assert_eq!(LogisticRegression::from_parts(head.parts().clone()).unwrap(), head);
        LogisticRegression::from_parts(LogisticParts { intercept: f64::NAN, ..head.0 }).unwrap_err();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn the_gradient_is_0_and_a_weight_is_so_many_rows(
            seed in 0_u64..1000,
            columns in 2_usize..6,
            targets in prop::collection::vec(0.0..=1.0, 3..40),
            weights in prop::collection::vec(0_u32..4, 40),
            c in 0.01..100.0,
        ) {
            let n = targets.len();
            let (x, _) = normal(n, columns, seed);
            let weight: Vec<f64> = weights[..n].iter().map(|&weight| f64::from(weight)).collect();
            prop_assume!(weight.iter().sum::<f64>() > 0.0);
            let head = LogisticRegression::fit(&x, &targets, Some(&weight), c).unwrap();
            let (gradient, intercept) = gradient(&head, &x, &targets, &weight, c);
            prop_assert!(gradient.iter().chain([&intercept]).all(|value| value.abs() < 1e-7), "{} {}", gradient, intercept);

            let repeated: Vec<usize> = (0..n).flat_map(|row| std::iter::repeat_n(row, weights[row] as usize)).collect();
            let target: Vec<f64> = repeated.iter().map(|&row| targets[row]).collect();
            let again = LogisticRegression::fit(&x.select(Axis(0), &repeated), &target, None, c).unwrap();
            close(&again.0.weight, &head.0.weight.to_vec(), 1e-6);
        }
    }
}
