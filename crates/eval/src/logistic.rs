//! Logistic regression on a handful of columns.

use crate::{Error, Result};

const MAX_STEPS: usize = 100;
/// Where the largest number of the gradient, over the number of rows, counts as 0.
const TOLERANCE: f64 = 1e-9;

/// 1 / (1 + e^-z), without overflow.
pub(crate) fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        let e = z.exp();
        e / (1.0 + e)
    }
}

/// ln(1 + e^z) - y z: the log loss of log odds.
pub(crate) fn loss(z: f64, y: f64) -> f64 {
    z.max(0.0) - y * z + (-z.abs()).exp().ln_1p()
}

/// Minimises Σᵢ (ln(1 + exp zᵢ) - yᵢ zᵢ) + Σⱼ penaltyⱼ (βⱼ - startⱼ)² / 2 for z = x β, by Newton's method with halved steps.
/// x: a row after the other, [rows · D]   y: [rows], from 0 to 1   -> [D]
///
/// # Errors
/// If it does not converge: columns that are not finite, or labels that a column without a penalty separates.
pub(crate) fn fit(x: &[f64], y: &[f64], start: &[f64], penalty: &[f64]) -> Result<Vec<f64>> {
    let d = start.len();
    let dot = |row: &[f64], beta: &[f64]| row.iter().zip(beta).map(|(x, b)| x * b).sum::<f64>();
    let objective = |beta: &[f64]| {
        let pull: f64 = beta.iter().zip(start).zip(penalty).map(|((b, s), p)| p * (b - s).powi(2) / 2.0).sum();
        pull + x.chunks_exact(d).zip(y).map(|(row, &y)| loss(dot(row, beta), y)).sum::<f64>()
    };
    let mut beta = start.to_vec();
    let mut now = objective(&beta);
    for _ in 0..MAX_STEPS {
        let mut gradient: Vec<f64> = (0..d).map(|j| penalty[j] * (beta[j] - start[j])).collect();
        let mut hessian = vec![0.0; d * d];
        for j in 0..d {
            hessian[j * d + j] = penalty[j];
        }
        for (row, &y) in x.chunks_exact(d).zip(y) {
            let p = sigmoid(dot(row, &beta));
            for j in 0..d {
                gradient[j] += (p - y) * row[j];
                for k in 0..=j {
                    hessian[j * d + k] += p * (1.0 - p) * row[j] * row[k];
                }
            }
        }
        if gradient.iter().all(|g| g.abs() <= TOLERANCE * y.len() as f64) {
            return Ok(beta);
        }
        let Some(step) = solve(hessian, gradient) else { break };
        let moved = |share: f64| beta.iter().zip(&step).map(|(b, s)| b - share * s).collect::<Vec<_>>();
        let better = (0..40).map(|halvings| moved(0.5_f64.powi(halvings))).find(|beta| objective(beta) < now);
        // rounding alone keeps the objective from falling
        let Some(better) = better else { return Ok(beta) };
        now = objective(&better);
        beta = better;
    }
    Err(Error("logistic regression does not converge on the scores: are they finite?".into()))
}

/// The solution of a system with a symmetric positive definite matrix, of which the lower half is read, by Cholesky's method: a dozen
/// unknowns, for which LAPACK would claim 128 MiB of address space.   a: [D · D]   b: [D]   None where it is not positive definite.
fn solve(mut a: Vec<f64>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let d = b.len();
    let trace: f64 = (0..d).map(|j| a[j * d + j]).sum();
    for j in 0..d {
        a[j * d + j] += 1e-12 * trace; // saturated rows leave no curvature; this changes the step and not where steps end
        for k in 0..=j {
            let sum = a[j * d + k] - (0..k).map(|i| a[j * d + i] * a[k * d + i]).sum::<f64>();
            if j == k && !(sum > 0.0 && sum.is_finite()) {
                return None;
            }
            a[j * d + k] = if j == k { sum.sqrt() } else { sum / a[k * d + k] };
        }
    }
    for j in 0..d {
        b[j] = (b[j] - (0..j).map(|i| a[j * d + i] * b[i]).sum::<f64>()) / a[j * d + j];
    }
    for j in (0..d).rev() {
        b[j] = (b[j] - (j + 1..d).map(|i| a[i * d + j] * b[i]).sum::<f64>()) / a[j * d + j];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_solved() {
        let a = vec![4.0, 9.0, 9.0, 2.0, 5.0, 9.0, 1.0, 3.0, 6.0]; // the upper half is not read
        let x = solve(a, vec![4.0 + 4.0 + 3.0, 2.0 + 10.0 + 9.0, 1.0 + 6.0 + 18.0]).unwrap();
        assert!(x.iter().zip([1.0, 2.0, 3.0]).all(|(x, wanted)| (x - wanted).abs() < 1e-9), "{x:?}");
        assert!(solve(vec![1.0, 0.0, 2.0, 1.0], vec![0.0, 0.0]).is_none());
    }

    #[test]
    fn two_columns_by_hand() {
        // of rows with x = 1 a share of 3/4 is positive, of those with x = 0 one of 1/4: offset -ln 3, slope 2 ln 3
        let x = [1.0, 0.0].map(|x| [x, 1.0].repeat(4)).concat();
        let y = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        let found = fit(&x, &y, &[0.0; 2], &[0.0; 2]).unwrap();
        let ln3 = 3.0_f64.ln();
        assert!((found[0] - 2.0 * ln3).abs() < 1e-6 && (found[1] + ln3).abs() < 1e-6, "{found:?}");
        // the penalty pulls towards the start
        let pulled = fit(&x, &y, &[5.0, 0.0], &[1e9, 0.0]).unwrap();
        assert!((pulled[0] - 5.0).abs() < 1e-3, "{pulled:?}");
        assert!(fit(&[1.0, f64::NAN], &[1.0, 0.0], &[0.0], &[0.0]).is_err());
    }
}
