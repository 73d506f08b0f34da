//! Whether rows of today look like those that the classifier was trained on. Rows are counted as they are scored, and compared with the
//! profile of the run at the end.

use std::collections::{BTreeMap, HashMap};

use nids_eval::drift::{Psi, add_at_most, mixture_share, psi, psi_of_mixture};
use nids_eval::operating::BenignScores;
use nids_flows::Flows;
use serde::Serialize;

use crate::batches::ReadSummary;
use crate::detector::{Detector, Scored};
use crate::profile::{FeatureBins, FeatureProfile, Profile, ScoreProfile, share};

/// By custom, a population stability index up to this is no shift (Siddiqi 2006, "Credit Risk Scorecards").
pub const SHIFTED: f64 = 0.1;
/// And one above this is a large one: a model should not be used on without a look.
pub const MOVED: f64 = 0.25;
/// Fewer rows are not compared.
pub const MIN_ROWS: u64 = 50;
/// Verdicts should not be trusted where at least this share of the features has moved.
pub const MANY: f64 = 0.1;
/// Nor where a feature is missing or never seen in more than this share of the rows.
const MOST: f64 = 0.5;
/// With fewer labelled rows of a class, the share of attacks is not corrected for.
const MIN_OF_CLASS: u64 = 100;
/// Bins of p-values.
const P_BINS: usize = 10;
/// Features that are named.
const NAMED: usize = 3;

/// How rows differ from those that the classifier was trained on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// Rows compared.
    pub rows: u64,
    /// Training rows.
    pub training_rows: u64,
    /// About what share of the rows are attacks, by their scores; None where that cannot be told.
    pub attack_share: Option<f64>,
    /// The share among the rows held out in training.
    pub training_attack_share: Option<f64>,
    /// Every feature, the ones that differ most first.
    pub features: Vec<FeatureDrift>,
    /// The model's scores, before any calibration, against those of the rows held out.
    pub scores: Option<Distribution>,
    /// Conformal p-values against those of the benign rows held out, which are uniform but for ties; None without a calibration. The
    /// index leaves the lowest bin out, in which attacks are.
    pub p_values: Option<Distribution>,
    /// Why verdicts should not be trusted; none if nothing was found.
    pub warnings: Vec<String>,
}

/// What is made of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// At most [`SHIFTED`] more than chance makes in the mean, or no more than it makes at times.
    None,
    /// At most [`MOVED`] more.
    Shifted,
    /// More than that.
    Moved,
}

/// How a feature differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeatureDrift {
    /// Name of the feature.
    pub feature: String,
    /// What is made of the index at the share of attacks; without one, of the other.
    pub change: Change,
    /// Against the training rows as they are.
    pub training: Option<Psi>,
    /// Against benign rows and attacks of training in the shares of now. None where too few have labels.
    pub at_attack_share: Option<Psi>,
    /// The share of rows where it is missing.
    pub missing: f64,
    /// The same in training.
    pub training_missing: f64,
    /// The share of rows whose value training has never seen; 0 of numbers.
    pub never_seen: f64,
    /// The shares bin by bin.
    pub bins: Vec<Bin>,
}

/// How scores or p-values differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distribution {
    /// What is made of the index.
    pub change: Change,
    /// None where a side has no rows.
    pub index: Option<Psi>,
    /// The shares bin by bin.
    pub bins: Vec<Bin>,
}

/// A bin, and the share of rows in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// What is in it.
    pub of: BinOf,
    /// Of the reference: training rows, rows held out at the share of attacks, benign rows held out.
    pub reference: f64,
    /// Of the rows compared.
    pub here: f64,
}

/// What is in a bin.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BinOf {
    /// Numbers above the bin before and at most this.
    AtMost(f64),
    /// Numbers above this.
    Above(f64),
    /// All numbers.
    Numbers,
    /// A category.
    Value(String),
    /// All other categories.
    Others,
    /// What is missing.
    Missing,
}

/// Rows counted so far, in as much memory whatever their number.
#[derive(Debug)]
pub struct Watch<'d> {
    detector: &'d Detector,
    profile: &'d Profile,
    /// See [`FeatureBins::places`].   [features]
    places: Vec<HashMap<&'d str, usize>>,
    features: Vec<Vec<u64>>,
    scores: Vec<u64>,
    /// None without a calibration.
    p_values: Option<PValues>,
}

/// How many p-values are in each of [`P_BINS`].
#[derive(Debug)]
struct PValues {
    /// A probability of at most cut k has a p-value above (k + 1) / [`P_BINS`].
    cuts: [f64; P_BINS - 1],
    above: [u64; P_BINS - 1],
    rows: u64,
}

impl PValues {
    fn new(benign: &BenignScores) -> Self {
        // where none is so small, all probabilities are below
        let cut = |k: usize| benign.score_of((k + 1) as f64 / P_BINS as f64).map_or(1.0, |score| f64::from(score.next_down()));
        Self { cuts: std::array::from_fn(cut), above: [0; P_BINS - 1], rows: 0 }
    }

    fn add(&mut self, probabilities: &[f32]) {
        let probabilities: Vec<f64> = probabilities.iter().copied().map(f64::from).collect();
        add_at_most(&probabilities, &self.cuts, &mut self.above);
        self.rows += probabilities.len() as u64;
    }

    /// Rows in each bin, from the smallest p-values on.
    fn counts(&self) -> Vec<u64> {
        let above = std::iter::once(self.rows).chain(self.above);
        above.zip(self.above.into_iter().chain([0])).map(|(above_lower, above)| above_lower - above).collect()
    }
}

impl<'d> Watch<'d> {
    /// No rows yet. None where the run has no profile.
    pub fn new(detector: &'d Detector) -> Option<Self> {
        let profile = detector.profile()?;
        Some(Self {
            detector,
            profile,
            places: profile.features.iter().map(|feature| feature.bins.places()).collect(),
            features: profile.features.iter().map(|feature| vec![0; feature.bins.n_counts()]).collect(),
            scores: vec![0; profile.scores.bins.n_counts()],
            p_values: detector.operation().benign().map(PValues::new),
        })
    }

    /// Counts the features of rows.
    pub fn add_flows(&mut self, flows: &Flows) {
        let counts = self.profile.features.iter().zip(&self.places).zip(&mut self.features);
        for (((feature, places), counts), column) in counts.zip(flows.features()) {
            feature.bins.add(column, places, counts);
        }
    }

    /// Counts what the classifier makes of them.
    pub fn add_scored(&mut self, scored: &Scored) {
        let outputs = self.detector.outputs();
        let scores: Vec<f64> = scored.outputs.chunks_exact(outputs.width()).map(|row| f64::from(outputs.attack(row))).collect();
        self.profile.scores.bins.add(&scores, &mut self.scores);
        if let Some(p_values) = &mut self.p_values {
            p_values.add(&scored.attacks);
        }
    }

    /// What there is to say of them.
    pub fn drift(&self, summary: &ReadSummary) -> Drift {
        let ScoreProfile { benign, attacks, .. } = &self.profile.scores;
        let [n_benign, n_attacks] = [benign, attacks].map(|counts| counts.iter().sum::<u64>());
        let is_enough = n_benign.min(n_attacks) >= MIN_OF_CLASS;
        let attack_share = if is_enough { mixture_share([benign, attacks], &self.scores) } else { None };
        let rows = summary.rows;
        let found = self.profile.features.iter().zip(&self.features);
        let mut features: Vec<FeatureDrift> =
            found.map(|(feature, counts)| of_feature(feature, counts, attack_share, rows, &summary.unknown_categories)).collect();
        features.sort_by(|a, b| b.size().total_cmp(&a.size()));
        let scores = attack_share.map(|attack_share| {
            let parts = [(1.0 - attack_share, benign.as_slice()), (attack_share, attacks.as_slice())];
            Distribution::new(psi_of_mixture(&parts, &self.scores), self.score_bins(&parts), rows)
        });
        let mut drift = Drift {
            rows,
            training_rows: self.profile.features.first().map_or(0, |feature| feature.all.iter().sum()),
            attack_share,
            training_attack_share: is_enough.then(|| share(n_attacks, n_benign + n_attacks)),
            features,
            scores,
            p_values: self.p_values(rows),
            warnings: Vec::new(),
        };
        drift.warnings = drift.found_warnings();
        drift
    }

    fn score_bins(&self, parts: &[(f64, &[u64])]) -> Vec<Bin> {
        let reference = |bin: usize| parts.iter().map(|(weight, counts)| weight * share(counts[bin], counts.iter().sum())).sum();
        let cuts = self.profile.scores.bins.cuts();
        bins_of(number_bins(cuts).take(cuts.len() + 1), reference, &self.scores)
    }

    fn p_values(&self, rows: u64) -> Option<Distribution> {
        let found = self.p_values.as_ref()?.counts();
        let mut reference = [0; P_BINS];
        self.detector.operation().benign()?.p_values().for_each(|(p_value, n)| reference[p_bin(p_value)] += n);
        let names = (1..=P_BINS).map(|bin| BinOf::AtMost(bin as f64 / P_BINS as f64));
        let bins = bins_of(names, |bin| share(reference[bin], reference.iter().sum()), &found);
        Some(Distribution::new(psi(&reference[1..], &found[1..]), bins, rows))
    }
}

/// The bin of a p-value: above k / [`P_BINS`] and at most (k + 1) / [`P_BINS`].
fn p_bin(p_value: f64) -> usize {
    (1..P_BINS).take_while(|&k| p_value > k as f64 / P_BINS as f64).count()
}

/// The bins between cuts, and what is missing.
fn number_bins(cuts: &[f64]) -> impl Iterator<Item = BinOf> {
    let above = cuts.last().map_or(BinOf::Numbers, |&cut| BinOf::Above(cut));
    cuts.iter().map(|&cut| BinOf::AtMost(cut)).chain([above, BinOf::Missing])
}

fn bins_of(names: impl Iterator<Item = BinOf>, reference: impl Fn(usize) -> f64, here: &[u64]) -> Vec<Bin> {
    let n = here.iter().sum();
    names.zip(here).enumerate().map(|(bin, (of, &here))| Bin { of, reference: reference(bin), here: share(here, n) }).collect()
}

fn of_feature(
    feature: &FeatureProfile,
    counts: &[u64],
    attack_share: Option<f64>,
    rows: u64,
    never_seen: &BTreeMap<String, u64>,
) -> FeatureDrift {
    let FeatureProfile { name, bins, all, benign, attacks } = feature;
    let has_labels = [benign, attacks].into_iter().all(|counts| counts.iter().sum::<u64>() >= MIN_OF_CLASS);
    let at_share =
        attack_share.filter(|_| has_labels).and_then(|share| psi_of_mixture(&[(1.0 - share, benign), (share, attacks)], counts));
    let training = psi(all, counts);
    let n_training = all.iter().sum();
    let reference = |bin: usize| share(all[bin], n_training);
    FeatureDrift {
        feature: name.clone(),
        change: change(at_share.or(training), rows),
        training,
        at_attack_share: at_share,
        missing: share(counts.last().copied().unwrap_or(0), rows),
        training_missing: feature.missing(),
        never_seen: share(never_seen.get(name).copied().unwrap_or(0), rows),
        bins: match bins {
            FeatureBins::Numbers(bins) => bins_of(number_bins(bins.cuts()), reference, counts),
            FeatureBins::Categories(values) => {
                let named = values.iter().map(|value| BinOf::Value(value.clone()));
                bins_of(named.chain([BinOf::Others, BinOf::Missing]), reference, counts)
            }
        },
    }
}

/// What is made of an index of so many rows.
fn change(found: Option<Psi>, rows: u64) -> Change {
    match found {
        Some(Psi { psi, expected, noise }) if rows >= MIN_ROWS && psi > noise => match psi - expected {
            excess if excess > MOVED => Change::Moved,
            excess if excess > SHIFTED => Change::Shifted,
            _ => Change::None,
        },
        _ => Change::None,
    }
}

impl Distribution {
    fn new(found: Option<Psi>, bins: Vec<Bin>, rows: u64) -> Self {
        Self { change: change(found, rows), index: found, bins }
    }

    /// The index, in words.
    fn told(&self) -> String {
        self.index.map_or_else(|| "-".to_owned(), |index| number(index.psi))
    }
}

impl FeatureDrift {
    /// The index that it is judged by; 0 without rows.
    pub fn size(&self) -> f64 {
        self.at_attack_share.or(self.training).map_or(0.0, |index| index.psi)
    }

    fn told(&self) -> String {
        format!("`{}` {}", self.feature, number(self.size()))
    }
}

fn number(psi: f64) -> String {
    format!("{psi:.2}")
}

impl Drift {
    /// Features whose change is this one.
    fn with(&self, change: Change) -> Vec<&FeatureDrift> {
        self.features.iter().filter(|feature| feature.change == change).collect()
    }

    /// One line about all of it.
    pub fn line(&self) -> String {
        let (rows, n) = (self.rows, self.features.len());
        if rows < MIN_ROWS {
            return format!("drift: {rows} rows are too few to compare with training (from {MIN_ROWS} on)");
        }
        let moved = self.with(Change::Moved);
        let named: Vec<String> = self.features.iter().take(NAMED.min(moved.len().max(1))).map(FeatureDrift::told).collect();
        let (named, more) = (named.join(", "), if moved.len() > NAMED { ", ..." } else { "" });
        let mut parts = vec![match moved.len() {
            0 => format!("drift: none of {n} features has moved (largest PSI: {named})"),
            1 => format!("drift: 1 of {n} features has moved (PSI above {MOVED}: {named})"),
            some => format!("drift: {some} of {n} features have moved (PSI above {MOVED}: {named}{more})"),
        }];
        let shifted = self.with(Change::Shifted).len();
        parts.extend((shifted > 0).then(|| format!("{shifted} a little (above {SHIFTED})")));
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        parts.extend(self.attack_share.zip(self.training_attack_share).map(|(here, training)| {
            format!("about {} of the rows are attacks, {} in training", percent(here), percent(training))
        }));
        for (what, found) in [("scores", &self.scores), ("p-values", &self.p_values)] {
            parts.extend(found.as_ref().map(|found| format!("{what} {}", found.told())));
        }
        parts.join("; ")
    }

    /// Why verdicts should not be trusted.
    fn found_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let (moved, n) = (self.with(Change::Moved).len(), self.features.len());
        if moved > 0 && moved as f64 >= MANY * n as f64 {
            warnings.push(format!("{moved} of {n} features {} moved", if moved == 1 { "has" } else { "have" }));
        }
        if let Some(Distribution { change: Change::Moved, index: Some(index), .. }) = &self.scores {
            let psi = number(index.psi);
            warnings.push(format!("no share of attacks gives such scores to rows like those held out (PSI {psi})"));
        }
        if self.rows >= MIN_ROWS {
            let is_new =
                |feature: &&FeatureDrift| feature.missing + feature.never_seen > MOST && feature.training_missing <= MOST;
            for feature in self.features.iter().filter(is_new) {
                let percent = |share: f64| format!("{:.0} %", 100.0 * share);
                let (missing, never_seen) = (percent(feature.missing), percent(feature.never_seen));
                let name = &feature.feature;
                warnings.push(format!("`{name}` is missing in {missing} of the rows and has a value never seen in {never_seen}"));
            }
        }
        warnings
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
