//! Why a row is an alert: the features without whose values the classifier would be less sure of an attack.
//!
//! A group of features that say the same is hidden, and filled in with the values of the benign training row that are the most
//! probable beside what is left of the row, by the pretrained masked autoencoder ([`Autoencoder::infill`]); where the classifier stands
//! on none, with those of the benign row that is nearest in what is left. How far the log odds of an attack fall is what the group
//! says for one (occlusion, Zeiler and Fergus 2014, with an infill that a model finds plausible, as in Chang et al. 2019). The group
//! that says most stays hidden, and the next one is hidden beside it, both filled in from one benign row: a group that two others tell
//! says nothing by itself, because the infill gives it back.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};

use nids_config::Stage;
use nids_flows::{FeatureColumn, Flows, MISSING, TokenTable};
use nids_store::progress::grouped;
use nids_store::run::{BACKGROUND, Run};
use nids_store::{Error, Result};
use serde::Serialize;

use crate::autoencoder::Autoencoder;
use crate::background::{Background, UsualRange};
use crate::detector::Detector;
use crate::profile::{FeatureBins, FeatureProfile, share};
use crate::read::read_listed;

/// Reasons of a row, at most.
pub const REASONS: usize = 3;
/// Groups that are looked at again beside a first reason: those that said most by themselves.
const AGAIN: usize = 8;
/// A fall of the log odds that is no reason.
const LEAST: f64 = 0.05;
/// A share of benign rows that is worth saying.
const RARE: f64 = 0.02;
/// Rows explained at once: what bounds the memory.
const AT_ONCE: usize = 64;

/// What says most for an attack: features that say the same, or one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reason {
    /// By how much the log odds of an attack fall where these features are as in a benign flow, beside those that were hidden before. Of
    /// the model's own probability, before any calibration. Those of all reasons add up to the fall where all are as in that flow.
    pub log_odds: f64,
    /// The features that differ from the benign row which is filled in.
    pub features: Vec<ReasonFeature>,
}

/// A feature of a reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReasonFeature {
    /// Its name.
    pub name: String,
    /// What it is in the row.
    pub value: Cell,
    /// What it is in the benign row that is filled in.
    pub instead: Cell,
    /// Where benign training rows lie; None of a category.
    pub benign_range: Option<UsualRange>,
    /// The share of benign training rows in the same bin, or with the same category; None where the run has no profile.
    pub benign_share: Option<f64>,
    /// The same share of attacks.
    pub attack_share: Option<f64>,
}

/// A cell in raw units.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// A number; None where it is missing.
    Number(Option<f64>),
    /// A category.
    Text(String),
}

/// Finds reasons.
#[derive(Debug)]
pub struct Explainer {
    background: Background,
    /// Its rows, as flows, as the classifier and as the autoencoder see them.
    flows: Flows,
    donors: TokenTable,
    infill: Infill,
}

/// What tells which values fill in what is hidden.
#[derive(Debug)]
enum Infill {
    Autoencoder(Box<Autoencoder>, TokenTable),
    Nearest,
}

impl Explainer {
    /// That of a run's classifier; None where the run keeps no benign rows: it was made before there were reasons, or none of its
    /// labels is benign.
    ///
    /// # Errors
    /// Files that are missing, stale or damaged.
    pub fn open(run: &Run, detector: &Detector) -> Result<Option<Self>> {
        run.steadily(|| Self::read(run, detector))
    }

    fn read(run: &Run, detector: &Detector) -> Result<Option<Self>> {
        let read = |bytes: &[u8]| {
            let background = Background::from_bytes(bytes)?;
            let flows = background.flows(detector.schema())?;
            Ok((background, flows))
        };
        let Some((background, flows)) = read_listed(run, BACKGROUND, read)? else { return Ok(None) };
        if flows.is_empty() {
            return Ok(None);
        }
        let infill = match Autoencoder::beneath(run, &run.config_of(Stage::Finetune)?)? {
            Some(autoencoder) => {
                let donors = autoencoder.tokeniser().tokenise_with_targets(&flows)?;
                Infill::Autoencoder(Box::new(autoencoder), donors)
            }
            None => Infill::Nearest,
        };
        let donors = detector.tokeniser().tokenise(&flows)?;
        Ok(Some(Self { background, flows, donors, infill }))
    }

    /// Whether an autoencoder fills in what is hidden.
    pub fn has_autoencoder(&self) -> bool {
        matches!(self.infill, Infill::Autoencoder(..))
    }

    /// The benign rows that alerts are compared with.
    pub fn background(&self) -> &Background {
        &self.background
    }

    /// These rows.
    pub fn benign_rows(&self) -> &Flows {
        &self.flows
    }

    /// All groups of features of every row: those of its reasons, then the others by what they say by themselves.
    ///
    /// -> [rows][groups]
    ///
    /// # Errors
    /// As [`Explainer::reasons`].
    pub fn orders(&self, detector: &Detector, flows: &Flows) -> Result<Vec<Vec<Vec<usize>>>> {
        let groups = &self.background.groups;
        let all: Vec<(u32, Vec<Vec<usize>>)> = (0..flows.len() as u32).map(|row| (row, groups.clone())).collect();
        let by_itself = Hidden::new(self, detector, flows)?.filled(&all)?;
        let found = self.found(detector, flows)?;
        let order = |(found, filled): (Found, Vec<(f64, u32)>)| {
            let mut order: Vec<usize> = (0..groups.len()).collect();
            let place = |group: &usize| found.chosen.iter().position(|(chosen, _)| chosen == group).unwrap_or(REASONS);
            order.sort_by(|a, b| place(a).cmp(&place(b)).then(filled[*a].0.total_cmp(&filled[*b].0)));
            order.into_iter().map(|group| groups[group].clone()).collect()
        };
        Ok(found.into_iter().zip(by_itself).map(order).collect())
    }

    /// The reasons of every row, what says most first; none where no group says anything for an attack. What a row gets is a function
    /// of the row alone.
    ///
    /// # Errors
    /// Flows of another schema, or a model that gives no number.
    pub fn reasons(&self, detector: &Detector, flows: &Flows) -> Result<Vec<Vec<Reason>>> {
        let mut all = Vec::with_capacity(flows.len());
        for first in (0..flows.len() as u32).step_by(AT_ONCE) {
            let some = flows.select(&(first..(flows.len() as u32).min(first + AT_ONCE as u32)).collect::<Vec<_>>());
            all.extend(self.of_some(detector, &some)?);
        }
        Ok(all)
    }

    /// What is found of each row.
    fn found(&self, detector: &Detector, flows: &Flows) -> Result<Vec<Found>> {
        let rows = Hidden::new(self, detector, flows)?;
        let groups = &self.background.groups;
        let mut found: Vec<Found> = rows.log_odds.iter().map(|&log_odds| Found::new(log_odds, groups.len())).collect();
        for _ in 0..REASONS {
            let open = found.iter().enumerate().filter(|(_, found)| !found.candidates.is_empty());
            let hidden: Vec<(u32, Vec<Vec<usize>>)> = open.map(|(row, found)| (row as u32, found.sets(groups))).collect();
            for ((row, _), filled) in hidden.iter().zip(rows.filled(&hidden)?) {
                found[*row as usize].take_most(&filled);
            }
        }
        Ok(found)
    }

    fn of_some(&self, detector: &Detector, flows: &Flows) -> Result<Vec<Vec<Reason>>> {
        let (groups, found) = (&self.background.groups, self.found(detector, flows)?);
        let shares = Shares::new(detector);
        let of_row = |(row, found): (usize, &Found)| {
            let differs = |&feature: &usize| cell(flows, row, feature) != cell(&self.flows, found.donor as usize, feature);
            let (mut reasons, mut rest) = (Vec::<Reason>::new(), 0.0);
            for &(group, log_odds) in &found.chosen {
                let features = groups[group].iter().copied().filter(differs);
                let features: Vec<_> = features.map(|feature| self.feature(flows, row, feature, found.donor, &shares)).collect();
                if features.is_empty() {
                    rest += log_odds; // what it said was that others could be filled in otherwise
                } else {
                    reasons.push(Reason { log_odds, features });
                }
            }
            reasons.sort_by(|a, b| b.log_odds.total_cmp(&a.log_odds));
            reasons.iter_mut().take(1).for_each(|first| first.log_odds += rest);
            reasons
        };
        Ok(found.iter().enumerate().map(of_row).collect())
    }

    fn feature(&self, flows: &Flows, row: usize, feature: usize, donor: u32, shares: &Shares<'_>) -> ReasonFeature {
        let of = &self.background.features[feature];
        let [benign_share, attack_share] = shares.of(flows, row, feature);
        ReasonFeature {
            name: of.name.clone(),
            value: cell(flows, row, feature),
            instead: cell(&self.flows, donor as usize, feature),
            benign_range: of.usual,
            benign_share,
            attack_share,
        }
    }

    /// The log odds of every row while the first 0, 1, ... of its sets of features are hidden together and filled in: what falls
    /// fastest has the best order (a deletion curve, Petsiuk et al. 2018).
    ///
    /// orders: [rows][sets], as many sets of every row   -> [rows][sets + 1]
    ///
    /// # Errors
    /// As [`Explainer::reasons`].
    pub fn deletion_curves(&self, detector: &Detector, flows: &Flows, orders: &[Vec<Vec<usize>>]) -> Result<Vec<Vec<f64>>> {
        let rows = Hidden::new(self, detector, flows)?;
        let first = |order: &Vec<Vec<usize>>| (1..=order.len()).map(|n| order[..n].concat()).collect::<Vec<_>>();
        let hidden: Vec<(u32, Vec<Vec<usize>>)> = (0..).zip(orders).map(|(row, order)| (row, first(order))).collect();
        let filled = rows.filled(&hidden)?;
        let curve = |(&start, filled): (&f64, Vec<(f64, u32)>)| {
            [start].into_iter().chain(filled.into_iter().map(|(log_odds, _)| log_odds)).collect()
        };
        Ok(rows.log_odds.iter().zip(filled).map(curve).collect())
    }
}

/// What is known of a row's reasons.
struct Found {
    /// Of the row as it is filled in.
    log_odds: f64,
    /// Groups to look at next; none where nothing more is found.
    candidates: Vec<usize>,
    /// Groups that are hidden, and by how much the log odds fell.
    chosen: Vec<(usize, f64)>,
    /// The benign row that fills all of them in.
    donor: u32,
}

impl Found {
    fn new(log_odds: f64, n_groups: usize) -> Self {
        Self { log_odds, candidates: (0..n_groups).collect(), chosen: Vec::new(), donor: 0 }
    }

    /// What each candidate hides, with what is hidden already.
    fn sets(&self, groups: &[Vec<usize>]) -> Vec<Vec<usize>> {
        let hidden: Vec<usize> = self.chosen.iter().flat_map(|&(group, _)| &groups[group]).copied().collect();
        self.candidates.iter().map(|&group| [&hidden, &groups[group]].map(Vec::as_slice).concat()).collect()
    }

    /// Takes the candidate without which the log odds are least; the first of several.   filled: [candidates]
    fn take_most(&mut self, filled: &[(f64, u32)]) {
        let mut order: Vec<usize> = (0..filled.len()).collect();
        order.sort_by(|&a, &b| filled[a].0.total_cmp(&filled[b].0).then(a.cmp(&b)));
        let (log_odds, donor) = filled[order[0]];
        if self.log_odds - log_odds < LEAST {
            self.candidates.clear();
            return;
        }
        self.chosen.push((self.candidates[order[0]], self.log_odds - log_odds));
        (self.log_odds, self.donor) = (log_odds, donor);
        self.candidates = order[1..].iter().take(AGAIN).map(|&place| self.candidates[place]).collect();
    }
}

/// Rows of which sets of features are hidden.
struct Hidden<'e> {
    explainer: &'e Explainer,
    detector: &'e Detector,
    ids: &'e [String],
    encoded: TokenTable,
    /// As the autoencoder sees them.
    of_autoencoder: Option<TokenTable>,
    /// Of the rows as they are.
    log_odds: Vec<f64>,
}

impl<'e> Hidden<'e> {
    fn new(explainer: &'e Explainer, detector: &'e Detector, flows: &'e Flows) -> Result<Self> {
        let encoded = detector.tokeniser().tokenise(flows)?;
        let of_autoencoder = match &explainer.infill {
            Infill::Autoencoder(autoencoder, _) => Some(autoencoder.tokeniser().tokenise_with_targets(flows)?),
            Infill::Nearest => None,
        };
        let log_odds = detector.model().log_odds(&encoded);
        let rows = Self { explainer, detector, ids: flows.ids(), encoded, of_autoencoder, log_odds };
        rows.check((0..).zip(rows.log_odds.iter().copied()))?;
        Ok(rows)
    }

    fn check(&self, mut log_odds: impl Iterator<Item = (u32, f64)>) -> Result<()> {
        match log_odds.find(|(_, log_odds)| !log_odds.is_finite()) {
            Some((row, _)) => Err(Error::Numerics(format!("the model gives no number for row `{}`", self.ids[row as usize]))),
            None => Ok(()),
        }
    }

    /// The log odds of each row with each of its sets filled in, and the background row that fills it in.
    ///
    /// hidden: rows and their sets, as many of every row   -> [hidden][sets]
    fn filled(&self, hidden: &[(u32, Vec<Vec<usize>>)]) -> Result<Vec<Vec<(f64, u32)>>> {
        let sets: Vec<(u32, &[usize])> =
            hidden.iter().flat_map(|(row, sets)| sets.iter().map(|set| (*row, set.as_slice()))).collect();
        if sets.is_empty() {
            return Ok(Vec::new());
        }
        let (infill, of_classifier) = (&self.explainer.infill, &self.explainer.donors);
        let donors = if let (Infill::Autoencoder(autoencoder, donors), Some(encoded)) = (infill, &self.of_autoencoder) {
            autoencoder.infill(encoded, hidden, donors)
        } else {
            sets.iter().map(|&(row, set)| nearest(&self.encoded, row as usize, set, of_classifier)).collect()
        };
        let swaps = sets.iter().zip(&donors).map(|(&(row, set), &donor)| (row, set, donor));
        let table = self.encoded.with_tokens_of(of_classifier, swaps);
        let log_odds = self.detector.model().log_odds(&table);
        self.check(log_odds.iter().zip(&sets).map(|(&log_odds, &(row, _))| (row, log_odds)))?;
        let filled: Vec<(f64, u32)> = log_odds.into_iter().zip(donors).collect();
        Ok(filled.chunks_exact(sets.len() / hidden.len()).map(<[_]>::to_vec).collect())
    }
}

/// The row of a table that is nearest to a row of another one in all tokens but some: by differences of quantile-normal values, each at
/// most 2, and 1 for another category; the first of several.
fn nearest(encoded: &TokenTable, row: usize, but: &[usize], donors: &TokenTable) -> u32 {
    let tokens: Vec<usize> = (0..encoded.n_tokens()).filter(|token| !but.contains(token)).collect();
    let apart = |donor: usize| -> f32 {
        let apart = |&token: &usize| {
            let [a, b] = [encoded.value(row, token), donors.value(donor, token)];
            match (a.is_nan(), b.is_nan()) {
                (false, false) if donors.is_class(token) => f32::from(u8::from(a.total_cmp(&b).is_ne())),
                (false, false) => (a - b).abs().min(2.0),
                (a, b) => f32::from(u8::from(a != b)),
            }
        };
        tokens.iter().map(apart).sum()
    };
    let distances: Vec<f32> = (0..donors.n_rows()).map(apart).collect();
    (1..distances.len()).fold(0, |least, donor| if distances[donor] < distances[least] { donor } else { least }) as u32
}

/// The cell of a row.
fn cell(flows: &Flows, row: usize, feature: usize) -> Cell {
    match &flows.features()[feature] {
        FeatureColumn::Numeric(values) => Cell::Number((!values[row].is_nan()).then_some(values[row])),
        FeatureColumn::Categorical(texts) => Cell::Text(texts.get(row).to_owned()),
    }
}

/// How many training rows of each class are like a row in a feature.
struct Shares<'p> {
    features: Option<&'p [FeatureProfile]>,
    places: Vec<HashMap<&'p str, usize>>,
}

impl<'p> Shares<'p> {
    fn new(detector: &'p Detector) -> Self {
        let features = detector.profile().map(|profile| profile.features.as_slice());
        let places = features.unwrap_or_default().iter().map(|feature| feature.bins.places()).collect();
        Self { features, places }
    }

    /// Of benign rows and of attacks; None of a category that is not counted by itself, and where there is nothing to go by.
    fn of(&self, flows: &Flows, row: usize, feature: usize) -> [Option<f64>; 2] {
        let Some(features) = self.features else { return [None; 2] };
        let FeatureProfile { bins, benign, attacks, .. } = &features[feature];
        let place = bins.place(&flows.features()[feature], row as u32, &self.places[feature]);
        if let FeatureBins::Categories(values) = bins
            && place == values.len()
        {
            return [None; 2];
        }
        [benign, attacks].map(|counts| {
            let rows: u64 = counts.iter().sum();
            (rows > 0).then(|| share(counts[place], rows))
        })
    }
}

impl Reason {
    /// What a person reads: the features, beside what benign training rows have, and what they say in log odds.
    pub fn text(&self) -> String {
        let features: Vec<String> = self.features.iter().map(ReasonFeature::text).collect();
        format!("{} {:+.1}", features.join(", "), self.log_odds)
    }
}

impl ReasonFeature {
    fn text(&self) -> String {
        let Self { name, value, instead, benign_range, benign_share, .. } = self;
        let beside = match (value, benign_range) {
            (Cell::Number(Some(x)), Some(range)) if *x > range.p99 => {
                format!("99 % of benign flows at most {}", shown(range.p99))
            }
            (Cell::Number(Some(x)), Some(range)) if *x < range.p01 => {
                format!("99 % of benign flows at least {}", shown(range.p01))
            }
            _ => match benign_share {
                Some(share) if *share < RARE => format!("{:.1} % of benign flows", 100.0 * share),
                _ => format!("benign: {instead}"),
            },
        };
        format!("{name} {value} ({beside})")
    }
}

impl Display for Cell {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(Some(x)) => out.write_str(&shown(*x)),
            Self::Number(None) => out.write_str("missing"),
            Self::Text(text) if text == MISSING => out.write_str("missing"),
            Self::Text(text) => out.write_str(text),
        }
    }
}

/// A number as a person reads it: six digits, with commas.
fn shown(x: f64) -> String {
    let rounded: f64 = format!("{x:.5e}").parse().unwrap_or(x);
    if rounded.abs() >= 1e15 || (rounded != 0.0 && rounded.abs() < 1e-4) {
        return format!("{rounded:e}");
    }
    let text = rounded.abs().to_string();
    let fraction = text.find('.').map_or("", |point| &text[point..]);
    format!("{}{}{fraction}", if rounded < 0.0 { "-" } else { "" }, grouped(rounded.abs().trunc()))
}
