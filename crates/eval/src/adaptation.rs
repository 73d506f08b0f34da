//! A trained classifier on a network that is not the one it has learned from: its probabilities are corrected, its weights stay.

use ndarray::ArrayRef2;
use serde::{Deserialize, Serialize};

use crate::logistic::{self, loss, sigmoid};
use crate::{Error, Result};

const FOLDS: usize = 5;
/// Different rows of each class that an adaptation needs.
const LEAST_ROWS: usize = 10;
/// Leaves of the tree of segments, and conditions on the way to one, at most.
const MAX_LEAVES: usize = 8;
const MAX_DEPTH: usize = 3;
/// Rows of a segment.
const LEAST_IN_SEGMENT: usize = 5;
/// By so much a cut must lower twice the log loss: chance alone gives a single cut that much in one of 600 cases (χ² of one degree
/// of freedom), and some hundred cuts are tried.
const LEAST_GAIN: f64 = 10.0;
/// Cuts that are tried of a numeric feature.
const CUTS: usize = 16;
/// The pull of a segment's weight towards 0: as much as the curvature of four rows of probability 1/2.
const RIDGE: f64 = 1.0;
/// χ² of one degree of freedom at 95 %.
const CHI_SQUARED: f64 = 3.841;

/// The share of attacks of rows without labels, and what follows for their probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriorShift {
    /// The share of attacks for which the probabilities held.
    pub before: f64,
    /// The share of attacks of the rows.
    pub after: f64,
    /// What the share adds to the log odds of every row.
    pub shift: f64,
    /// Twice the logarithm of how much likelier the rows are by the share `after`.
    pub likelihood_ratio: f64,
}

impl PriorShift {
    /// The share of attacks by expectation and maximisation (Saerens, Latinne and Decaestecker 2002), from calibrated log odds that hold
    /// where a share `before` of rows is attacks. It is right where only that share has changed, and the rows of each class have not.
    ///
    /// # Errors
    /// No rows, or a share that is not between 0 and 1.
    pub fn estimate(log_odds: &[f64], before: f64) -> Result<Self> {
        const MAX_STEPS: usize = 100_000;
        if log_odds.is_empty() || !(before > 0.0 && before < 1.0) {
            return Err(Error(format!("expected rows, and a share of attacks above 0 and below 1, found `{before}`")));
        }
        let n = log_odds.len() as f64;
        let logit = |p: f64| (p / (1.0 - p)).ln();
        // one row less than all at most: a share of 0 would make every row benign for certain
        let [least, most] = [0.5 / (n + 1.0), (n + 0.5) / (n + 1.0)];
        let mut after = before;
        for _ in 0..MAX_STEPS {
            let shift = logit(after) - logit(before);
            let next = (log_odds.iter().map(|z| sigmoid(z + shift)).sum::<f64>() / n).clamp(least, most);
            let moved = (next - after).abs();
            after = next;
            if moved < 1e-10 {
                break;
            }
        }
        // of a row: p after / before + (1 - p) (1 - after) / (1 - before)
        let [attack, benign] = [after / before, (1.0 - after) / (1.0 - before)];
        let likelihood = |&z: &f64| (sigmoid(z) * attack + sigmoid(-z) * benign).ln();
        let likelihood_ratio = 2.0 * log_odds.iter().map(likelihood).sum::<f64>();
        Ok(Self { before, after, shift: logit(after) - logit(before), likelihood_ratio })
    }

    /// Whether the share has changed for certain, at 95 %, by the test of the same paper.
    pub fn is_significant(&self) -> bool {
        self.likelihood_ratio > CHI_SQUARED
    }
}

/// The log loss of log odds, given the label.
pub fn log_loss(log_odds: f64, label: u8) -> f64 {
    loss(log_odds, f64::from(label))
}

/// What labels of a new network make of log odds: slope · log odds + offset + the weight of the segment that the row lies in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correction {
    /// Of the model's log odds; 0 or more.
    pub slope: f64,
    /// Of all rows.
    pub offset: f64,
    /// Where the model is wrong; no row lies in two of them.
    pub segments: Vec<Segment>,
}

/// Rows that fulfil all conditions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// At most three.
    pub conditions: Vec<Condition>,
    /// What it adds to the log odds.
    pub weight: f64,
}

/// A condition on one feature, as trees see features: a number, or the index of a category.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Number of the feature.
    pub feature: usize,
    /// What it is compared with.
    pub value: f32,
    /// How.
    pub test: Test,
    /// Whether the test must fail instead. A missing value (NaN) fails each test.
    pub fails: bool,
}

/// How a feature is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// A number is at most the value.
    AtMost,
    /// A category is that of the index.
    Is,
}

impl Condition {
    fn holds(&self, value: f32) -> bool {
        #[expect(clippy::float_cmp, reason = "an index of a category")]
        let passes = match self.test {
            Test::AtMost => value <= self.value,
            Test::Is => value == self.value,
        };
        passes != self.fails
    }
}

impl Correction {
    /// The log odds of a row, of whose features `value` tells each.
    pub fn log_odds(&self, log_odds: f64, value: impl Fn(usize) -> f32) -> f64 {
        let lies_in = |segment: &&Segment| segment.conditions.iter().all(|condition| condition.holds(value(condition.feature)));
        let weight = self.segments.iter().find(lies_in).map_or(0.0, |segment| segment.weight);
        self.slope * log_odds + self.offset + weight
    }

    /// Whether it is one that a fit can give for rows of so many features: what is read from a file may not be.
    pub fn is_valid(&self, n_features: usize) -> bool {
        let is_condition = |condition: &Condition| condition.feature < n_features && condition.value.is_finite();
        let is_segment = |segment: &Segment| {
            segment.weight.is_finite() && segment.conditions.len() <= MAX_DEPTH && segment.conditions.iter().all(is_condition)
        };
        let has_numbers = self.slope >= 0.0 && self.slope.is_finite() && self.offset.is_finite();
        has_numbers && self.segments.len() <= MAX_LEAVES && self.segments.iter().all(is_segment)
    }
}

/// The pull of the slope towards 1 and of the offset towards 0, as by normal priors of standard deviation 1/2 and 2: with a hundred
/// labels of a model that is rarely wrong, a handful of rows would decide alone.
const PULL: [f64; 2] = [4.0, 0.25];

/// Labelled rows of a new network, and what the model says of them.
#[derive(Clone, Copy, Debug)]
pub struct LabelledRows<'r> {
    /// Log odds that hold on the network that the model has learned from.   [rows]
    pub log_odds: &'r [f64],
    /// Features as [`Condition`]s see them.   [rows, F]
    pub values: &'r ArrayRef2<f32>,
    /// Which features are categories.   [F]
    pub is_category: &'r [bool],
    /// 0 or 1.   [rows]
    pub labels: &'r [u8],
    /// Numbers of rows that are equal, and so stay together in a fold.
    pub groups: &'r [Vec<u32>],
}

/// A correction, and how good it is on rows that it was not fitted on.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Fitted on all rows.
    pub correction: Correction,
    /// Log odds of each row by a correction fitted on the four folds that it is not in.
    pub cross_fitted: Vec<f64>,
    /// Mean log loss of the log odds `before`.
    pub loss_before: f64,
    /// That of `cross_fitted`.
    pub loss_after: f64,
    /// The standard error of their difference, by groups of equal rows. A difference below it may be chance.
    pub error: f64,
}

impl Fitted {
    /// Whether the log loss falls.
    pub fn is_better(&self) -> bool {
        self.loss_after < self.loss_before
    }
}

/// What may be fitted, the simplest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Candidate {
    /// Nothing: log odds as they are.
    AsTheyAre,
    /// Slope and offset.
    Platt,
    /// These and segments.
    Segments,
}

/// Fits a correction of `rows`' log odds: none, slope and offset, or these with segments, whichever has the lowest cross-fitted log
/// loss. Segments are leaves of a small tree on what slope and offset leave of the labels; a logistic regression finds their weights.
/// `before` are the log odds to compare with. (The lowest of three losses is a little too low, by less than chance moves one of them.)
///
/// # Errors
/// Fewer than ten different rows of either class.
///
/// # Panics
/// If the lengths differ.
pub fn fit(rows: &LabelledRows<'_>, before: &[f64]) -> Result<Fitted> {
    let n = rows.labels.len();
    assert!([rows.log_odds.len(), rows.values.nrows(), before.len()] == [n; 3], "as many of each as rows");
    assert_eq!(rows.values.ncols(), rows.is_category.len(), "a kind of each feature");
    let fold = folds(rows)?;
    let mean_loss = |z: &[f64]| z.iter().zip(rows.labels).map(|(&z, &label)| log_loss(z, label)).sum::<f64>() / n as f64;
    let mut best: Option<(f64, Vec<f64>, Candidate)> = None;
    for candidate in [Candidate::AsTheyAre, Candidate::Platt, Candidate::Segments] {
        let mut cross_fitted = vec![0.0; n];
        for held_out in 0..FOLDS {
            let others: Vec<usize> = (0..n).filter(|&row| fold[row] != held_out).collect();
            let correction = fit_on(rows, &others, candidate)?;
            for row in (0..n).filter(|&row| fold[row] == held_out) {
                cross_fitted[row] = correction.log_odds(rows.log_odds[row], |feature| rows.values[[row, feature]]);
            }
        }
        let found = mean_loss(&cross_fitted);
        if best.as_ref().is_none_or(|(least, ..)| found < *least) {
            best = Some((found, cross_fitted, candidate));
        }
    }
    let (loss_after, cross_fitted, candidate) = best.expect("one was tried");
    let loss_before = mean_loss(before);
    let gain = loss_before - loss_after;
    let of_group = |group: &Vec<u32>| {
        let gain_of = |row: usize| log_loss(before[row], rows.labels[row]) - log_loss(cross_fitted[row], rows.labels[row]);
        (group.iter().map(|&row| gain_of(row as usize) - gain).sum::<f64>()).powi(2)
    };
    let error = rows.groups.iter().map(of_group).sum::<f64>().sqrt() / n as f64;
    let correction = fit_on(rows, &(0..n).collect::<Vec<_>>(), candidate)?;
    Ok(Fitted { correction, cross_fitted, loss_before, loss_after, error })
}

/// The fold of each row: groups are dealt out in their order, those that begin with an attack and the others apart.
fn folds(rows: &LabelledRows<'_>) -> Result<Vec<usize>> {
    let mut fold = vec![0; rows.labels.len()];
    let mut dealt = [0; 2];
    for group in rows.groups {
        let class = usize::from(rows.labels[group[0] as usize]);
        for &row in group {
            fold[row as usize] = dealt[class] % FOLDS;
        }
        dealt[class] += 1;
    }
    if dealt.iter().any(|&n| n < LEAST_ROWS) {
        let [benign, attacks] = dealt;
        return Err(Error(format!(
            "expected labels of at least {LEAST_ROWS} different rows of each class, found {benign} benign ones and {attacks} attacks"
        )));
    }
    Ok(fold)
}

fn fit_on(rows: &LabelledRows<'_>, of: &[usize], candidate: Candidate) -> Result<Correction> {
    let log_odds: Vec<f64> = of.iter().map(|&row| rows.log_odds[row]).collect();
    let y: Vec<f64> = of.iter().map(|&row| f64::from(rows.labels[row])).collect();
    let mut correction = Correction { slope: 1.0, offset: 0.0, segments: Vec::new() };
    if candidate == Candidate::AsTheyAre {
        return Ok(correction);
    }
    let leaves = if candidate == Candidate::Segments {
        let Correction { slope, offset, .. } = fit_on(rows, of, Candidate::Platt)?;
        let p: Vec<f64> = log_odds.iter().map(|z| sigmoid(slope * z + offset)).collect();
        Tree { rows, of, p: &p, y: &y }.leaves()
    } else {
        Vec::new()
    };
    // one leaf holds all rows, as the offset does
    let leaves = if leaves.len() > 1 { leaves } else { Vec::new() };
    let d = 2 + leaves.len();
    let mut x = vec![0.0; of.len() * d];
    for (x, &z) in x.chunks_exact_mut(d).zip(&log_odds) {
        (x[0], x[1]) = (z, 1.0);
    }
    for (leaf, Leaf { members, .. }) in leaves.iter().enumerate() {
        for member in members {
            x[member * d + 2 + leaf] = 1.0;
        }
    }
    let [mut start, mut penalty] = [vec![0.0; d], vec![RIDGE; d]];
    start[0] = 1.0;
    penalty[..2].copy_from_slice(&PULL);
    let mut beta = logistic::fit(&x, &y, &start, &penalty)?;
    if beta[0] < 0.0 {
        // the model is of no use here, and must not be turned round on the evidence of few: the slope is held at 0
        (start[0], penalty[0]) = (0.0, 1e12);
        beta = logistic::fit(&x, &y, &start, &penalty)?;
        beta[0] = 0.0;
    }
    (correction.slope, correction.offset) = (beta[0], beta[1]);
    let weights = leaves.into_iter().zip(&beta[2..]);
    correction.segments = weights.map(|(leaf, &weight)| Segment { conditions: leaf.conditions, weight }).collect();
    Ok(correction)
}

/// A tree on what probabilities leave of labels.
struct Tree<'r> {
    rows: &'r LabelledRows<'r>,
    /// Rows that it grows on.   [members]
    of: &'r [usize],
    /// [members]
    p: &'r [f64],
    /// [members]
    y: &'r [f64],
}

/// Members that fulfil conditions, and the cut of them that gains most.
struct Leaf {
    conditions: Vec<Condition>,
    members: Vec<usize>,
    cut: Option<(f64, Condition)>,
}

impl Tree<'_> {
    /// Cuts the leaf that gains most, until none gains enough.
    fn leaves(&self) -> Vec<Leaf> {
        let cuts: Vec<Vec<f32>> = (0..self.rows.is_category.len()).map(|feature| self.cuts(feature)).collect();
        let leaf = |conditions: Vec<Condition>, members: Vec<usize>| {
            let cut = if conditions.len() < MAX_DEPTH { self.best_cut(&members, &cuts) } else { None };
            Leaf { conditions, members, cut }
        };
        let mut leaves = vec![leaf(Vec::new(), (0..self.of.len()).collect())];
        while leaves.len() < MAX_LEAVES {
            let gain = |leaf: &Leaf| leaf.cut.map_or(0.0, |(gain, _)| gain);
            let Some(most) = (0..leaves.len()).max_by(|&a, &b| gain(&leaves[a]).total_cmp(&gain(&leaves[b])).then(b.cmp(&a)))
            else {
                break;
            };
            let Some((_, condition)) = leaves[most].cut else { break };
            let Leaf { conditions, members, .. } = leaves.remove(most);
            let (inside, outside) =
                members.into_iter().partition(|&member| condition.holds(self.value(member, condition.feature)));
            for (fails, members) in [(false, inside), (true, outside)] {
                let conditions = conditions.iter().copied().chain([Condition { fails, ..condition }]).collect();
                leaves.push(leaf(conditions, members));
            }
        }
        leaves
    }

    fn value(&self, member: usize, feature: usize) -> f32 {
        self.rows.values[[self.of[member], feature]]
    }

    /// Values of a feature that rows are compared with, ascending: those that occur, or quantiles.
    fn cuts(&self, feature: usize) -> Vec<f32> {
        let mut values: Vec<f32> = (0..self.of.len()).map(|member| self.value(member, feature)).filter(|v| !v.is_nan()).collect();
        values.sort_unstable_by(f32::total_cmp);
        let mut different = values.clone();
        different.dedup();
        if different.len() > CUTS && !self.rows.is_category[feature] {
            different = (1..=CUTS).map(|cut| values[cut * values.len() / (CUTS + 1)]).collect();
            different.dedup();
        }
        different
    }

    /// The cut by which Newton's step in both parts gains most beside one step in all: Σ g² / (h + ridge), with g = Σ (y - p) and
    /// h = Σ p (1 - p). None gains enough where there is none.
    fn best_cut(&self, members: &[usize], cuts: &[Vec<f32>]) -> Option<(f64, Condition)> {
        let term = |[g, h, _]: [f64; 3]| g * g / (h + RIDGE);
        let of = |member: usize| [self.y[member] - self.p[member], self.p[member] * (1.0 - self.p[member]), 1.0];
        let add = |mut a: [f64; 3], b: [f64; 3]| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        };
        let all = members.iter().fold([0.0; 3], |sum, &member| add(sum, of(member)));
        let mut best: Option<(f64, Condition)> = None;
        for (feature, cuts) in cuts.iter().enumerate() {
            let is_category = self.rows.is_category[feature];
            // sums over members whose value is at most the cut and above the one before
            let mut sums = vec![[0.0; 3]; cuts.len()];
            for &member in members {
                let value = self.value(member, feature);
                let place = cuts.partition_point(|&cut| cut < value);
                if !value.is_nan() && place < cuts.len() {
                    sums[place] = add(sums[place], of(member));
                }
            }
            let mut so_far = [0.0; 3];
            for (&value, &sum) in cuts.iter().zip(&sums) {
                so_far = add(so_far, sum);
                let inside = if is_category { sum } else { so_far };
                let outside = add(all, inside.map(|value| -value));
                let gain = term(inside) + term(outside) - term(all);
                let is_enough = [inside, outside].iter().all(|part| part[2] >= LEAST_IN_SEGMENT as f64) && gain >= LEAST_GAIN;
                if is_enough && best.is_none_or(|(most, _)| gain > most) {
                    let test = if is_category { Test::Is } else { Test::AtMost };
                    best = Some((gain, Condition { feature, value, test, fails: false }));
                }
            }
        }
        best
    }
}

#[cfg(test)]
#[path = "adaptation_tests.rs"]
mod tests;
