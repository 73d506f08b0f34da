//! From a classifier's outputs to verdicts, and how good those are.

use std::collections::BTreeMap;

use nids_eval::metrics::{ByRows, Confusion, Evaluation, Metrics};
use nids_flows::{Classes, Flows, KnownRows, row_keys};
use nids_nn::loss::{sigmoid, softmax};

use nids_config::{Config, Task};
use nids_store::Result;
use nids_store::progress::{Event, Progress};

/// Unknown categories that are named one by one.
const SHOWN: usize = 10;

/// What the outputs of a classifier are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// The logit of an attack.
    Attack,
    /// A logit for each of `n` classes, one of which is the benign one.
    Classes {
        /// How many.
        n: usize,
        /// The benign one.
        normal: usize,
    },
}

impl Outputs {
    /// Those of the config's task; `classes` where there is something to learn of them.
    pub fn new(config: &Config, classes: Option<&Classes>) -> Self {
        match (&config.finetune.task, classes) {
            (Task::Multiclass(_), Some(classes)) => Self::Classes { n: classes.names().len(), normal: classes.normal() },
            (Task::Multiclass(_), None) => unreachable!("the task has classes"),
            (Task::Binary, _) => Self::Attack,
        }
    }

    /// C, the outputs of the classifier and the probabilities of a row: that of an attack, or of every class.
    pub fn width(self) -> usize {
        match self {
            Self::Attack => 1,
            Self::Classes { n, .. } => n,
        }
    }

    /// Adds the probabilities of logits, which are overwritten.   logits: [C]   out: [C]
    pub fn add_probabilities(self, logits: &mut [f32], out: &mut [f32]) {
        match self {
            Self::Attack => out[0] += sigmoid(logits[0]),
            Self::Classes { .. } => {
                softmax(logits);
                out.iter_mut().zip(logits).for_each(|(out, probability)| *out += *probability);
            }
        }
    }

    /// Adds the probability of an attack and that of a benign row, each as precise as it is small. logits: [C], overwritten
    pub fn add_odds(self, logits: &mut [f32], [attack, benign]: [&mut f32; 2]) {
        match self {
            Self::Attack => {
                *attack += sigmoid(logits[0]);
                *benign += sigmoid(-logits[0]);
            }
            Self::Classes { normal, .. } => {
                softmax(logits);
                *attack += self.attack(logits);
                *benign += logits[normal];
            }
        }
    }

    /// The probability of an attack: of every class but the benign one. Summed, not taken from 1, so that small ones differ.
    /// probabilities: [C]
    pub fn attack(self, probabilities: &[f32]) -> f32 {
        match self {
            Self::Attack => probabilities[0],
            Self::Classes { normal, .. } => (sum(&probabilities[..normal]) + sum(&probabilities[normal + 1..])).min(1.0),
        }
    }

    /// The class that a row is called: the benign one where it is no attack, else the most probable of the others. None where
    /// the classifier knows no classes.   probabilities: [C]
    pub fn class(self, probabilities: &[f32], is_attack: bool) -> Option<usize> {
        let Self::Classes { normal, .. } = self else { return None };
        let others = probabilities.iter().enumerate().filter(|&(class, _)| class != normal);
        // the first of those that are as probable
        let most = others.max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0))).map(|(class, _)| class);
        if is_attack { most } else { Some(normal) }
    }
}

fn sum(probabilities: &[f32]) -> f32 {
    probabilities.iter().sum()
}

/// Collects what rows are and what a classifier says of them.
pub struct Scores<'c> {
    outputs: Outputs,
    threshold: f64,
    classes: Option<&'c Classes>,
    attack: Vec<f32>,
    labels: Vec<u8>,
    /// Of classes; None where there are none, or the rows have no categories.
    confusion: Option<Confusion>,
    /// Attacks of each category that are alarms, and all of them; None where rows have no categories.
    found: Option<BTreeMap<String, [u64; 2]>>,
    /// Which rows are equal; None where nobody asks.
    keys: Option<Vec<u64>>,
}

impl<'c> Scores<'c> {
    /// No rows yet.
    pub fn new(outputs: Outputs, classes: Option<&'c Classes>, threshold: f64) -> Self {
        let classes = classes.filter(|_| matches!(outputs, Outputs::Classes { .. }));
        let confusion = classes.map(|classes| Confusion::new(classes.names()));
        Self {
            outputs,
            threshold,
            classes,
            attack: Vec::new(),
            labels: Vec::new(),
            confusion,
            found: Some(BTreeMap::new()),
            keys: None,
        }
    }

    /// The same, which tells equal rows from others: [`Scores::evaluation`] then says what they make of the metrics.
    #[must_use]
    pub fn with_keys(self) -> Self {
        Self { keys: Some(Vec::new()), ..self }
    }

    /// Adds rows of labelled flows.   probabilities: [rows, C]
    ///
    /// # Panics
    /// If the flows have no labels.
    pub fn add(&mut self, flows: &Flows, rows: impl Iterator<Item = usize>, probabilities: &[f32]) {
        let outputs = self.outputs;
        self.add_each(flows, rows, probabilities, probabilities.chunks_exact(outputs.width()).map(|row| outputs.attack(row)));
    }

    /// Adds all rows of labelled flows, with the probabilities of an attack that were made of the outputs.
    /// outputs: [rows, C]   attacks: [rows]
    ///
    /// # Panics
    /// If the flows have no labels.
    pub fn add_all(&mut self, flows: &Flows, outputs: &[f32], attacks: &[f32]) {
        self.keys.iter_mut().for_each(|keys| keys.extend(row_keys(flows)));
        self.add_each(flows, 0..flows.len(), outputs, attacks.iter().copied());
    }

    /// probabilities: [rows, C]   attacks: [rows]
    fn add_each(
        &mut self,
        flows: &Flows,
        rows: impl Iterator<Item = usize>,
        probabilities: &[f32],
        attacks: impl Iterator<Item = f32>,
    ) {
        if flows.categories().is_none() {
            self.confusion = None;
            self.found = None;
        }
        let labels = flows.labels().expect("labels were required of the reader");
        for ((row, probabilities), attack) in rows.zip(probabilities.chunks_exact(self.outputs.width())).zip(attacks) {
            self.attack.push(attack);
            self.labels.push(labels[row]);
            let is_alarm = f64::from(attack) >= self.threshold;
            if let Some((found, categories)) = self.found.as_mut().zip(flows.categories()).filter(|_| labels[row] == 1) {
                let name = categories.get(row);
                if !found.contains_key(name) {
                    found.insert(name.to_owned(), [0; 2]);
                }
                let [alarms, all] = found.get_mut(name).expect("it is there");
                *alarms += u64::from(is_alarm);
                *all += 1;
            }
            let class = self.outputs.class(probabilities, is_alarm);
            if let Some(((classes, confusion), class)) = self.classes.zip(self.confusion.as_mut()).zip(class) {
                confusion.add(classes.of(flows, row), class);
            }
        }
    }

    /// The same at the threshold, with intervals. `known` are the training rows, where these are known.
    pub fn evaluation(&self, of: &str, known: Option<&KnownRows>, progress: &mut dyn Progress) -> Result<Evaluation> {
        let metrics = self.metrics(of, progress)?;
        let found = self.found.as_ref().filter(|found| !found.is_empty());
        let mut evaluation = Evaluation::new(metrics, &self.attack, &self.labels, self.threshold, found);
        let is_training = known.map(|known| |key| known.contains(key));
        let is_training = is_training.as_ref().map(|is_training| is_training as &dyn Fn(u64) -> bool);
        let by_rows = |keys: &Vec<u64>| ByRows::new(&self.attack, &self.labels, keys, self.threshold, is_training);
        evaluation.by_rows = self.keys.as_ref().map(by_rows).transpose()?;
        Ok(evaluation)
    }

    /// What they amount to. Says which categories training has not seen, and where there are no categories at all.
    pub fn metrics(&self, of: &str, progress: &mut dyn Progress) -> Result<Metrics> {
        let mut metrics = Metrics::new(&self.attack, &self.labels, self.threshold)?;
        metrics.categories = self.confusion.as_ref().map(Confusion::metrics);
        if self.classes.is_some() && self.confusion.is_none() {
            progress
                .event(Event::Message(&format!("{of}: no column says what kind of attack a row is: categories are not judged")));
        }
        let unknown: Vec<_> = self.confusion.iter().flat_map(Confusion::unknown).collect();
        for (category, n) in unknown.iter().take(SHOWN) {
            let rows = self.labels.len();
            let message =
                format!("{of}: {n} of {rows} rows: category `{category}` not known from training: each counts as an error");
            progress.event(Event::Message(&message));
        }
        if let Some(more @ 1..) = unknown.len().checked_sub(SHOWN) {
            progress.event(Event::Message(&format!("{of}: and {more} more categories not known from training")));
        }
        Ok(metrics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_and_its_class_agree() {
        let outputs = Outputs::Classes { n: 3, normal: 1 };
        let probabilities = [0.3, 0.4, 0.3];
        assert!((outputs.attack(&probabilities) - 0.6).abs() < 1e-6);
        // the benign class is the most probable one, and yet the row is more likely an attack
        assert_eq!((outputs.class(&probabilities, true), outputs.class(&probabilities, false)), (Some(0), Some(1)));
        assert_eq!(outputs.class(&[0.1, 0.4, 0.5], true), Some(2));
        assert_eq!(Outputs::Attack.class(&[0.3], true), None);
    }

    #[test]
    fn small_probabilities_of_an_attack_differ() {
        let outputs = Outputs::Classes { n: 3, normal: 1 };
        let [low, high] = [1e-9, 2e-9].map(|p| outputs.attack(&[p, 1.0 - 2.0 * p, p]));
        assert!(low > 0.0 && high > low, "{low:e} {high:e}");
    }

    #[test]
    fn odds_differ_where_a_probability_beside_one_does_not() {
        let of = |outputs: Outputs, logits: &[f32]| {
            let (mut attack, mut benign) = (0.0, 0.0);
            outputs.add_odds(&mut logits.to_vec(), [&mut attack, &mut benign]);
            f64::from(attack).ln() - f64::from(benign).ln()
        };
        for logit in [-30.0, -1.5, 0.25, 20.0, 21.0, 40.0] {
            for found in [of(Outputs::Attack, &[logit]), of(Outputs::Classes { n: 2, normal: 0 }, &[0.0, logit])] {
                assert!((found - f64::from(logit)).abs() < 1e-4, "{logit}: {found}");
            }
        }
    }

    #[test]
    fn a_probability_is_never_above_one() {
        let n = 50;
        let mut out = vec![1.0 / (n - 1) as f32; n];
        out[0] = 0.0;
        assert!(Outputs::Classes { n, normal: 0 }.attack(&out) <= 1.0);
    }
}
