//! Scores made into probabilities, and how far they are from that.

use serde::{Deserialize, Serialize};
use statrs::function::erf::erf;

use crate::logistic::{fit, sigmoid};
use crate::{Error, Result};

/// Bins of a reliability table.
const BINS: usize = 15;

/// Log odds of a score. A score of 1 counts as half a step of f32 below it, one of 0 as the smallest number above it.
pub fn log_odds(score: f32) -> f64 {
    const MOST: f64 = 1.0 - f32::EPSILON as f64 / 4.0;
    let p = f64::from(score).clamp(f64::from(f32::MIN_POSITIVE), MOST);
    p.ln() - (-p).ln_1p()
}

/// How a score becomes a probability: sigmoid(slope · log odds + offset). The slope is above 0, so that no two rows change their order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// 1 / temperature.
    pub slope: f64,
    /// 0 where a temperature alone was fitted.
    pub offset: f64,
}

/// What is fitted of a [`Scaling`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScalingKind {
    /// Slope and offset (Platt 1999, with his targets drawn in from 0 and 1).
    #[default]
    Platt,
    /// The slope alone (Guo, Pleiss, Sun and Weinberger 2017).
    Temperature,
}

impl Scaling {
    /// Fits log odds to labels (each 0 or 1) that the model has not learned from, by Newton's method.
    ///
    /// # Errors
    /// One class alone, or scores that rank attacks below benign rows.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn fit(kind: ScalingKind, log_odds: &[f64], labels: &[u8]) -> Result<Self> {
        assert_eq!(log_odds.len(), labels.len(), "a label per row");
        let attacks: f64 = labels.iter().map(|&label| f64::from(label)).sum();
        let benign = labels.len() as f64 - attacks;
        if attacks < 1.0 || benign < 1.0 {
            return Err(Error("labels of one class alone say nothing of probabilities".into()));
        }
        let [low, high] = [1.0 / (benign + 2.0), (attacks + 1.0) / (attacks + 2.0)];
        let targets: Vec<f64> = labels.iter().map(|&label| if label == 1 { high } else { low }).collect();
        // a slope of 1 is what the model says; the slight pull keeps it finite where all scores are equal
        let scaling = match kind {
            ScalingKind::Platt => {
                let x: Vec<f64> = log_odds.iter().flat_map(|&z| [z, 1.0]).collect();
                let found = fit(&x, &targets, &[1.0, 0.0], &[1e-6, 0.0])?;
                Self { slope: found[0], offset: found[1] }
            }
            ScalingKind::Temperature => Self { slope: fit(log_odds, &targets, &[1.0], &[1e-6])?[0], offset: 0.0 },
        };
        if scaling.slope > 0.0 {
            return Ok(scaling);
        }
        Err(Error("scores rank attacks below benign rows on these rows, so no scaling makes probabilities of them".into()))
    }

    /// The log odds of a score.
    pub fn log_odds(self, score: f32) -> f64 {
        self.slope * log_odds(score) + self.offset
    }

    /// The probability of a score.
    pub fn probability(self, score: f32) -> f32 {
        sigmoid(self.log_odds(score)) as f32
    }

    /// Whether it is one that a fit can give: what is read from a file may not be.
    pub fn is_valid(self) -> bool {
        self.slope > 0.0 && self.slope.is_finite() && self.offset.is_finite()
    }
}

/// The probability of log odds.
pub fn probability(log_odds: f64) -> f32 {
    sigmoid(log_odds) as f32
}

/// How far probabilities are from the shares of attacks, over 15 bins of equally many rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// Expected calibration error (Naeini et al. 2015): the mean over rows of |mean probability - share of attacks| of their bin.
    pub ece: Option<f64>,
    /// The same less its bias. Of calibrated probabilities, too, the shares of a finite number of rows differ from them, so that `ece`
    /// is too large (Kumar, Liang and Ma 2019; Roelofs et al. 2022). The bias is what a normal error of each bin's share adds.
    pub ece_debiased: Option<f64>,
    /// From the lowest probabilities to the highest. Rows of equal probability are in one bin.
    pub bins: Vec<ReliabilityBin>,
}

/// Rows of about equal probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Rows.
    pub n: usize,
    /// Their mean probability.
    pub probability: f64,
    /// The share of attacks among them.
    pub attacks: f64,
}

impl Reliability {
    /// Those of `probabilities` against `labels` (each 0 or 1).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn new(probabilities: &[f32], labels: &[u8]) -> Self {
        assert_eq!(probabilities.len(), labels.len(), "a label per probability");
        let mut rows: Vec<(f32, u8)> = probabilities.iter().copied().zip(labels.iter().copied()).collect();
        rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut bins = Vec::new();
        let mut first = 0;
        for bin in 1..=BINS {
            let mut end = bin * rows.len() / BINS;
            // a bin that ends among equal probabilities takes all of them
            while end > 0 && end < rows.len() && rows[end].0.to_bits() == rows[end - 1].0.to_bits() {
                end += 1;
            }
            if end > first {
                let n = (end - first) as f64;
                let of_bin = &rows[first..end];
                bins.push(ReliabilityBin {
                    n: end - first,
                    probability: of_bin.iter().map(|row| f64::from(row.0)).sum::<f64>() / n,
                    attacks: of_bin.iter().map(|row| f64::from(row.1)).sum::<f64>() / n,
                });
                first = end;
            }
        }
        let mean = |of: fn(&ReliabilityBin) -> f64| {
            let sum: f64 = bins.iter().map(|bin| bin.n as f64 * of(bin)).sum();
            (!rows.is_empty()).then(|| sum / rows.len() as f64)
        };
        let ece = mean(|bin| (bin.attacks - bin.probability).abs());
        let bias = mean(|bin| {
            let gap = (bin.attacks - bin.probability).abs();
            let error = (bin.attacks * (1.0 - bin.attacks) / bin.n as f64).sqrt();
            mean_of_absolute(gap, error) - gap
        });
        let ece_debiased = ece.zip(bias).map(|(ece, bias)| (ece - bias).max(0.0));
        Self { ece, ece_debiased, bins }
    }
}

/// E |x| for x of Normal(mean, std²).
fn mean_of_absolute(mean: f64, std: f64) -> f64 {
    if std <= 0.0 {
        return mean.abs();
    }
    let z = mean / std;
    std * (2.0 / std::f64::consts::PI).sqrt() * (-z * z / 2.0).exp() + mean * erf(z / std::f64::consts::SQRT_2)
}

#[cfg(test)]
#[path = "calibration_tests.rs"]
mod tests;
