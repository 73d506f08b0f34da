//! How unlike benign rows a row is, by what an autoencoder makes of its hidden features, and how that and a classifier's score are
//! made one.

use serde::{Deserialize, Serialize};

use crate::operating::BenignScores;
use crate::{Error, Result};

/// Added to the standard deviation of a loss: a feature that is always as easy is not infinitely sure.
const FLOOR: f64 = 0.25;
/// The share of benign rows that are surpassed before an anomaly counts beside a classifier.
const ANOMALOUS: f64 = 0.08;
/// The share of benign scores that a tail is fitted to.
const TAIL: f64 = 0.05;
/// Benign scores that a tail is fitted to, at least.
const LEAST_IN_TAIL: usize = 10;

/// The usual loss of each hidden feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usual {
    /// None of a feature that is always missing.   [F]
    features: Vec<Option<Loss>>,
}

/// Of the rows in which the feature is not missing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Loss {
    mean: f64,
    /// Standard deviation.
    spread: f64,
}

/// How anomalous a row is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Anomaly {
    /// ln Σ over features of e to the power of how much more surprising than usual the feature is, in nats, plus the same in standard
    /// deviations of the feature: about the largest of each. Nats find what is very improbable; standard deviations also find what is less
    /// so, in a feature that is hardly ever surprising.
    pub score: f64,
    /// The most surprising feature; None where all are missing.
    pub feature: Option<usize>,
}

impl Usual {
    /// That of benign rows.   losses: [rows, F], NaN of what is missing
    ///
    /// # Panics
    /// If there are no features, or losses of part of a row.
    pub fn fit(n_features: usize, losses: &[f32]) -> Self {
        assert!(losses.len().is_multiple_of(n_features), "losses of whole rows");
        let of = |feature: usize| {
            let present =
                || losses.iter().skip(feature).step_by(n_features).filter(|loss| !loss.is_nan()).map(|&loss| f64::from(loss));
            let n = present().count() as f64;
            let mean = present().sum::<f64>() / n;
            let variance = present().map(|loss| (loss - mean).powi(2)).sum::<f64>() / n;
            (n > 0.0).then(|| Loss { mean, spread: variance.sqrt() })
        };
        Self { features: (0..n_features).map(of).collect() }
    }

    /// F
    pub fn n_features(&self) -> usize {
        self.features.len()
    }

    /// Whether it can be one that [`Usual::fit`] has made.
    pub fn is_valid(&self, n_features: usize) -> bool {
        let holds = |loss: &Loss| loss.mean.is_finite() && loss.spread.is_finite() && loss.spread >= 0.0;
        self.features.len() == n_features && self.features.iter().flatten().all(holds)
    }

    /// How anomalous a row is. What is missing, or was in all benign rows, is as surprising as usual.   losses: [F]
    ///
    /// # Panics
    /// If there are not as many losses as features.
    pub fn anomaly(&self, losses: &[f32]) -> Anomaly {
        assert_eq!(losses.len(), self.features.len(), "a loss a feature");
        // in nats, and in standard deviations
        let excess = |(usual, &loss): (&Option<Loss>, &f32)| {
            let Loss { mean, spread } = usual.filter(|_| !loss.is_nan())?;
            let nats = f64::from(loss) - mean;
            Some([nats, nats / (spread + FLOOR)])
        };
        let excesses: Vec<Option<[f64; 2]>> = self.features.iter().zip(losses).map(excess).collect();
        let known = excesses.iter().enumerate().filter_map(|(feature, excess)| excess.map(|[a, b]| (feature, a + b)));
        // the first of those that are as surprising
        let most = known.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        let smooth_maximum = |unit: usize| {
            let each = || excesses.iter().map(|excess| excess.map_or(0.0, |excess| excess[unit]));
            let highest = each().fold(0.0, f64::max);
            highest + each().map(|excess| (excess - highest).exp()).sum::<f64>().ln()
        };
        Anomaly { score: smooth_maximum(0) + smooth_maximum(1), feature: most.map(|(feature, _)| feature) }
    }
}

/// A score of any size as one between 0 and 1, in the same order.
pub fn squashed(score: f64) -> f32 {
    let score = score.clamp(f64::MIN, f64::MAX);
    ((score / (1.0 + score.abs())).midpoint(1.0)) as f32
}

/// The distribution of benign scores: its own up to the last 5 %, an exponential one beyond, so that scores above those of all benign
/// rows differ (Pickands 1975 has the general law of such tails; the exponential is that of shape 0).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    benign: BenignScores,
    /// Where the tail begins.
    start: f64,
    /// The share of benign rows above that.
    share: f64,
    /// How far these are above it on average.
    scale: f64,
}

impl Tail {
    /// That of the scores of benign rows, of any size.
    ///
    /// # Errors
    /// Fewer than 20 rows, or a score that is no number.
    pub fn fit(scores: &[f64]) -> Result<Self> {
        if scores.len() < 2 * LEAST_IN_TAIL {
            return Err(Error(format!(
                "{} benign rows are held out, and the tail of their scores needs {}",
                scores.len(),
                2 * LEAST_IN_TAIL
            )));
        }
        if let Some(row) = scores.iter().position(|score| !score.is_finite()) {
            return Err(Error(format!("benign row {row}: expected a number, found `{}`", scores[row])));
        }
        let mut sorted = scores.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let n = sorted.len();
        let in_tail = ((TAIL * n as f64) as usize).max(LEAST_IN_TAIL);
        let (below, above) = sorted.split_at(n - in_tail);
        let start = below[below.len() - 1];
        let scale = above.iter().map(|score| score - start).sum::<f64>() / in_tail as f64;
        let squashed: Vec<f32> = scores.iter().map(|&score| squashed(score)).collect();
        let share = (1 + in_tail) as f64 / (1 + n) as f64;
        Ok(Self { benign: BenignScores::new(&squashed)?, start, share, scale: scale.max(f64::EPSILON) })
    }

    /// -ln of the share of benign rows that have at least such a score.
    pub fn surprise(&self, score: f64) -> f64 {
        if score > self.start {
            (score - self.start) / self.scale - self.share.ln()
        } else {
            -self.benign.p_value(squashed(score)).ln()
        }
    }

    /// Whether it can be one that [`Tail::fit`] has made.
    pub fn is_valid(&self) -> bool {
        self.start.is_finite() && self.share > 0.0 && self.share <= 1.0 && self.scale.is_finite() && self.scale > 0.0
    }
}

/// One score of two [`Tail::surprise`]s: that of the classifier, and what the anomaly has beyond that of 8 % of the benign rows. So
/// a row that is no such anomaly is judged by the classifier alone.
pub fn fused(attack: f64, anomaly: f64) -> f64 {
    attack + (anomaly + ANOMALOUS.ln()).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_as_anomalous_as_its_most_surprising_feature() {
        // mean 1 and spread .5, mean 4 and spread 1, the same always, always missing
        let benign = [0.5, 3.0, 0.25, f32::NAN, 1.5, 5.0, 0.25, f32::NAN];
        let usual = Usual::fit(4, &benign);
        let common = usual.anomaly(&[1.0, 4.0, 0.25, 30.0]);
        assert!((common.score - 2.0 * 4f64.ln()).abs() < 1e-6, "{common:?}");
        // as much above the usual, and spread half as far
        let strange = usual.anomaly(&[1.0, 24.0, 0.25, 0.0]);
        assert!((strange.score - 36.0).abs() < 1e-6 && strange.feature == Some(1), "{strange:?}");
        let strange = usual.anomaly(&[21.0, 4.0, 0.25, 0.0]);
        assert!((strange.score - 20.0 - 20.0 / 0.75).abs() < 1e-6 && strange.feature == Some(0), "{strange:?}");
        let strange = usual.anomaly(&[1.0, 4.0, 20.25, 0.0]);
        assert!((strange.score - 100.0).abs() < 1e-6 && strange.feature == Some(2), "{strange:?}");
        assert_eq!(usual.anomaly(&[f32::NAN; 4]), Anomaly { score: 2.0 * 4f64.ln(), feature: None });
        // less surprising than usual is no anomaly
        assert!(usual.anomaly(&[0.0, 0.0, 0.0, 0.0]).score < 2.0 * 4f64.ln());
        // 1 nat and 4 deviations are more than 2 nats and 1.6 deviations
        assert_eq!(usual.anomaly(&[1.0, 6.0, 1.25, 0.0]).feature, Some(2));
        assert!(usual.is_valid(4) && !usual.is_valid(3));
    }

    #[test]
    fn a_tail_goes_on_where_benign_scores_end() {
        // exponential: the surprise of a score is the score
        let n = 4000;
        let scores: Vec<f64> = (0..n).map(|row| -((f64::from(row) + 0.5) / f64::from(n)).ln()).collect();
        let tail = Tail::fit(&scores).unwrap();
        for score in [0.1, 0.7, 2.0, 2.9, 3.1, 5.0, 9.0, 14.0] {
            let found = tail.surprise(score);
            assert!((found - score).abs() < 0.03 * (1.0 + score), "{score}: {found}");
        }
        let mut before = -1.0;
        for step in 0..2000 {
            let found = tail.surprise(f64::from(step) * 0.01);
            assert!(found >= before, "at {step}");
            before = found;
        }
        assert!(tail.surprise(20.0) > tail.surprise(19.0), "above all benign rows, too");
        assert!(Tail::fit(&scores[..19]).is_err() && Tail::fit(&[f64::NAN; 40]).is_err());
        assert!(Tail::fit(&[1.0; 40]).unwrap().is_valid());
    }

    #[test]
    fn an_anomaly_that_benign_rows_have_changes_nothing() {
        let at = |p: f64| -p.ln();
        assert_eq!(fused(1.5, at(0.081)).to_bits(), 1.5f64.to_bits());
        assert!(fused(1.5, at(0.079)) > 1.5);
        assert!((fused(0.1, at(0.08) + 7.0) - 7.1).abs() < 1e-9, "whatever the classifier says");
    }

    #[test]
    fn squashed_scores_keep_their_order_between_0_and_1() {
        let scores = [-1e9, -40.0, -1.0, 0.0, 0.5, 3.7, 3.71, 30.0, 30.01, 1e6];
        let squashed: Vec<f32> = scores.map(squashed).to_vec();
        assert!(squashed.is_sorted_by(|a, b| a < b), "{squashed:?}");
        assert!(squashed[0] >= 0.0 && squashed[9] <= 1.0);
    }
}
