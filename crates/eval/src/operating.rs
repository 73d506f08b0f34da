//! Thresholds that keep a budget of false alarms, and p-values of scores.
//!
//! Both stand on the scores of benign rows that were held out. They hold for new benign rows that are exchangeable with those: drawn
//! from the same traffic and scored by the same model, which has not learned from the rows held out. They say nothing of a network
//! whose traffic is another.

use serde::{Deserialize, Serialize};
use statrs::function::beta::beta_reg;

use crate::{Error, Result};

/// The confidence of certified budgets.
pub const CONFIDENCE: f64 = 0.95;
/// The highest scores are kept one by one, this many of them, and as many of the others.
const KEPT: usize = 8192;

/// The upper bound of a rate of which `k` of `n` were seen (Clopper and Pearson 1934): with `confidence` the rate is at most that. It
/// is the root of P(X <= k) = 1 - confidence for X of Binomial(n, p).
///
/// # Panics
/// If k > n, or the confidence is not between 0 and 1.
pub fn upper_bound(k: u64, n: u64, confidence: f64) -> f64 {
    assert!(k <= n && confidence > 0.0 && confidence < 1.0, "a count out of n, and a confidence");
    if k == n {
        return 1.0;
    }
    // the root by bisection: P(X > k) rises with p
    let (mut low, mut high) = (0.0, 1.0);
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            return high;
        }
        if is_at_most(k, n, middle, confidence) {
            high = middle;
        } else {
            low = middle;
        }
    }
}

/// The interval of Clopper and Pearson that holds a rate with `confidence`, of which `k` of `n` were seen: each end errs with half of
/// the rest. [0, 1] without rows.
///
/// # Panics
/// As [`upper_bound`].
pub fn interval(k: u64, n: u64, confidence: f64) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let one_sided = f64::midpoint(1.0, confidence);
    [1.0 - upper_bound(n - k, n, one_sided), upper_bound(k, n, one_sided)]
}

/// Whether [`upper_bound`] is at most `p`: P(X > k) >= confidence. P(X > k) is the regularised incomplete beta function.
fn is_at_most(k: u64, n: u64, p: f64, confidence: f64) -> bool {
    k < n && beta_reg(k as f64 + 1.0, (n - k) as f64, p) >= confidence
}

/// The least number of benign rows by which a rate of false alarms of at most `fpr` can be certified: with none of them above the
/// threshold, (1 - fpr)ⁿ <= 1 - confidence. 299 for 1 %, 2,995 for .1 %, 29,956 for .01 %, at 95 %.
///
/// # Errors
/// A rate or a confidence that is not between 0 and 1.
pub fn rows_needed(fpr: f64, confidence: f64) -> Result<u64> {
    check(fpr, confidence)?;
    let mut n = ((1.0 - confidence).ln() / (-fpr).ln_1p()).ceil().max(1.0) as u64;
    // rounding may be off by one
    n += u64::from(!is_at_most(0, n, fpr, confidence));
    Ok(n)
}

fn check(fpr: f64, confidence: f64) -> Result<()> {
    for (what, value) in [("rate of false alarms", fpr), ("confidence", confidence)] {
        if !(value > 0.0 && value < 1.0) {
            return Err(Error(format!("expected a {what} above 0 and below 1, found `{value}`")));
        }
    }
    Ok(())
}

/// A threshold whose rate of false alarms is certified.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Certified {
    /// A score at or above it is an alarm.
    pub threshold: f32,
    /// Benign rows held out whose scores reach it.
    pub alarms: u64,
    /// Benign rows held out.
    pub benign: u64,
    /// The upper bound of the rate, at most the one asked for.
    pub bound: f64,
}

/// The smallest threshold whose rate of false alarms is at most `fpr`, certified with `confidence` over the scores of benign rows
/// held out.
///
/// This is fixed-sequence testing (Angelopoulos, Bates, Candès, Jordan and Lei 2021, "Learn then Test"). The sequence is that of all
/// f32 numbers from the largest down, which does not depend on the scores. Each is tested by its one-sided Clopper-Pearson bound, up to
/// the first that fails. A threshold with a higher rate than `fpr` passes with a probability of at most 1 - confidence, whatever the
/// distribution of scores, and all thresholds above the one returned hold as well. Equal scores are on one side of every threshold.
///
/// # Errors
/// Fewer benign rows than [`rows_needed`], a score outside of 0 and 1, or too many rows of the score 1, above which there is no
/// threshold.
pub fn certified_threshold(benign_scores: &[f32], fpr: f64, confidence: f64) -> Result<Certified> {
    BenignScores::all(benign_scores, usize::MAX)?.certified(fpr, confidence)
}

/// Scores of benign rows that were held out, in decreasing order: all of the highest ones, and a choice of the rest, by which p-values
/// are never too small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct BenignScores {
    parts: Parts,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    /// Rows.
    n: u64,
    /// Different scores, strictly decreasing.
    scores: Vec<f32>,
    /// How many rows have at least the score.   [scores]
    at_least: Vec<u64>,
    /// So many of `scores` are the highest ones, without a gap.
    exact: usize,
}

impl BenignScores {
    /// Those of rows in any order.
    ///
    /// # Errors
    /// A score that is not within 0 and 1.
    pub fn new(scores: &[f32]) -> Result<Self> {
        Self::all(scores, KEPT)
    }

    fn all(scores: &[f32], kept: usize) -> Result<Self> {
        if let Some(row) = scores.iter().position(|score| !(0.0..=1.0).contains(score)) {
            return Err(Error(format!("benign row {row}: expected a score from 0 to 1, found `{}`", scores[row])));
        }
        let mut sorted: Vec<f32> = scores.iter().map(|score| score.abs()).collect(); // -0.0 is 0.0
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        let mut different = Vec::new();
        for tied in sorted.chunk_by(|a, b| a.to_bits() == b.to_bits()) {
            let before = different.last().map_or(0, |&(_, at_least)| at_least);
            different.push((tied[0], before + tied.len() as u64));
        }
        let exact = if different.len() / 2 <= kept { different.len() } else { kept };
        let rest = different.len() - exact;
        // the last of each stretch, so that the lowest score is among them
        let stretches = rest.min(kept);
        let chosen = (0..exact).chain((1..=stretches).map(|stretch| exact + stretch * rest / stretches - 1));
        let (scores, at_least) = chosen.map(|at| different[at]).unzip();
        Ok(Self { parts: Parts { n: sorted.len() as u64, scores, at_least, exact } })
    }

    /// Benign rows.
    pub fn n(&self) -> u64 {
        self.parts.n
    }

    /// The same rows with another score each: `score` of the one that they have, which must not turn their order round.
    ///
    /// # Errors
    /// A score that is not within 0 and 1.
    pub fn map(&self, score: impl Fn(f32) -> f32) -> Result<Self> {
        let Parts { n, scores, at_least, exact } = &self.parts;
        let mut parts = Parts { n: *n, scores: Vec::new(), at_least: Vec::new(), exact: 0 };
        for (place, (&before, &count)) in scores.iter().zip(at_least).enumerate() {
            let now = score(before);
            // different scores may be rounded to one
            if parts.scores.last().is_some_and(|&last| now >= last) {
                parts.at_least.pop();
            } else {
                parts.scores.push(now.abs());
                parts.exact += usize::from(place < *exact);
            }
            parts.at_least.push(count);
        }
        Self::try_from(parts)
    }

    /// How many rows have at least a score; rather too many where not all are kept.
    fn at_least(&self, score: f32) -> u64 {
        let Parts { n, scores, at_least, exact } = &self.parts;
        let place = scores.partition_point(|&kept| kept >= score);
        let before = place.checked_sub(1);
        let is_kept = before.is_some_and(|before| scores[before] <= score);
        if is_kept || place < *exact {
            before.map_or(0, |before| at_least[before])
        } else {
            at_least.get(place).copied().unwrap_or(*n)
        }
    }

    /// The conformal p-value of a score (Vovk, Gammerman and Shafer 2005): (1 + benign rows of at least that score) / (1 + benign rows).
    /// Of new benign rows that are exchangeable with these, at most a share of p has a p-value of at most p.
    pub fn p_value(&self, score: f32) -> f64 {
        (1 + self.at_least(score)) as f64 / (1 + self.parts.n) as f64
    }

    /// The smallest threshold whose alarms among these rows are at most `most`, fewer than all, and how many those are. Somewhat higher where
    /// not all scores are kept.
    fn above(&self, most: u64) -> (f32, u64) {
        let Parts { scores, at_least, exact, .. } = &self.parts;
        // the first score that may not be an alarm
        let first = at_least.partition_point(|&count| count <= most);
        let above = first.checked_sub(1);
        let threshold = match above {
            Some(above) if first >= *exact => scores[above],
            _ => scores[first].next_up(),
        };
        (threshold, above.map_or(0, |above| at_least[above]))
    }

    /// The smallest threshold whose alarms all have a [`BenignScores::p_value`] of at most `rate`; above all rows where they are too few
    /// for that. 0 if there are no rows.
    pub fn conformal_threshold(&self, rate: f64) -> f32 {
        let most = ((rate * (1 + self.parts.n) as f64) as u64).saturating_sub(1);
        if self.parts.n == 0 { 0.0 } else { self.above(most.min(self.parts.n - 1)).0 }
    }

    /// The lowest score whose p-value is at most `p`; None where no score has one.
    pub fn score_of(&self, p: f64) -> Option<f32> {
        // scores from 0 to 1 are in the order of their bits, and p-values fall as they rise
        let (mut low, mut high) = (0, 1.0_f32.to_bits() + 1);
        while low < high {
            let middle = u32::midpoint(low, high);
            if self.p_value(f32::from_bits(middle)) <= p { high = middle } else { low = middle + 1 }
        }
        Some(f32::from_bits(low)).filter(|score| *score <= 1.0)
    }

    /// The p-value that each of these rows would have, and how many have it: what benign rows that are exchangeable with these have as
    /// often. Evenly spread between 0 and 1, but for ties.
    pub fn p_values(&self) -> impl Iterator<Item = (f64, u64)> {
        let Parts { n, at_least, .. } = &self.parts;
        let before = std::iter::once(0).chain(at_least.iter().copied());
        at_least.iter().zip(before).map(move |(&at_least, before)| ((1 + at_least) as f64 / (1 + n) as f64, at_least - before))
    }

    /// [`certified_threshold`] over these rows. Where not all scores are kept it may be somewhat higher, and holds as well.
    ///
    /// # Errors
    /// As [`certified_threshold`].
    pub fn certified(&self, fpr: f64, confidence: f64) -> Result<Certified> {
        let n = &self.parts.n;
        let needed = rows_needed(fpr, confidence)?;
        if *n < needed {
            let message = format!(
                "{n} benign rows are held out, and a rate of false alarms of {} needs {needed} of them to be certified at {} %",
                percent(fpr),
                100.0 * confidence
            );
            return Err(Error(message));
        }
        // the most alarms that pass: zero do
        let (mut passes, mut fails) = (0, *n);
        while passes + 1 < fails {
            let middle = u64::midpoint(passes, fails);
            if is_at_most(middle, *n, fpr, confidence) {
                passes = middle;
            } else {
                fails = middle;
            }
        }
        // all n rows are never certified
        let (threshold, alarms) = self.above(passes);
        if threshold > 1.0 {
            let message = format!(
                "{} of {n} benign rows have the score 1, above which no threshold keeps a rate of false alarms of {}",
                self.at_least(1.0),
                percent(fpr)
            );
            return Err(Error(message));
        }
        Ok(Certified { threshold, alarms, benign: *n, bound: upper_bound(alarms, *n, confidence) })
    }
}

/// A rate in percent, with the digits that it needs.
fn percent(rate: f64) -> String {
    let percent = (100.0 * rate * 1e9).round() / 1e9;
    format!("{percent} %")
}

impl TryFrom<Parts> for BenignScores {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        let Parts { n, scores, at_least, exact } = &parts;
        let holds = scores.len() == at_least.len()
            && scores.len() <= 2 * KEPT + 2
            && *exact <= scores.len()
            && scores.iter().all(|score| (0.0..=1.0).contains(score))
            && scores.is_sorted_by(|a, b| a > b)
            && at_least.first().is_none_or(|&first| first > 0)
            && at_least.is_sorted_by(|a, b| a < b)
            && at_least.last().copied().unwrap_or(0) == *n
            && *n < 1 << 53;
        if holds {
            Ok(Self { parts })
        } else {
            Err(Error("invalid benign scores: not in order, or not as many as they say".into()))
        }
    }
}

impl From<BenignScores> for Parts {
    fn from(scores: BenignScores) -> Self {
        scores.parts
    }
}

#[cfg(test)]
#[path = "operating_tests.rs"]
mod tests;
