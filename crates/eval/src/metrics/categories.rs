//! How well categories are told apart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ratio;

/// Metrics over categories, the benign one among them. What is 0/0 is null.
///
/// A category that training has not seen cannot be called, so each of its rows is an error; it stands after the known ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CategoryMetrics {
    /// Rows whose category is called by its name, over all.
    pub accuracy: Option<f64>,
    /// Mean recall over the categories that occur.
    pub balanced_accuracy: Option<f64>,
    /// Mean F1 over the categories that occur or are called.
    pub macro_f1: Option<f64>,
    /// One for each category: the known ones in alphabetical order, then those that training has not seen.
    pub classes: Vec<ClassMetrics>,
    /// Rows of each category, in the order of `classes`, by what they are called: one of the known ones.
    pub confusion: Vec<Vec<u64>>,
}

/// Metrics of one category.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Name, as the data spell it.
    pub name: String,
    /// Whether training has seen it.
    pub known: bool,
    /// Precision: of the rows that are called by its name, the share that belongs to it.
    pub precision: Option<f64>,
    /// Recall: of the rows that belong to it, the share that is called by its name.
    pub recall: Option<f64>,
    /// 2 TP / (2 TP + FP + FN).
    pub f1: Option<f64>,
    /// Rows of this category.
    pub support: u64,
}

/// Counts of what rows are and what they are called.
#[derive(Clone, Debug)]
pub struct Confusion {
    names: Vec<String>,
    /// A row of counts for each known category.
    known: Vec<Vec<u64>>,
    unknown: BTreeMap<String, Vec<u64>>,
}

impl Confusion {
    /// No rows yet of the categories of these names.
    pub fn new(names: &[String]) -> Self {
        let n = names.len();
        Self { names: names.to_vec(), known: vec![vec![0; n]; n], unknown: BTreeMap::new() }
    }

    /// Counts a row that is of category `truth`, by number or, where training has not seen it, by name.
    ///
    /// # Panics
    /// If a number is not that of a known category.
    pub fn add(&mut self, truth: Result<usize, &str>, called: usize) {
        let counts = match truth {
            Ok(class) => &mut self.known[class],
            Err(name) if self.unknown.contains_key(name) => self.unknown.get_mut(name).expect("it is there"),
            Err(name) => self.unknown.entry(name.to_owned()).or_insert_with(|| vec![0; self.names.len()]),
        };
        counts[called] += 1;
    }

    /// Categories that training has not seen, and how many rows are of them.
    pub fn unknown(&self) -> impl Iterator<Item = (&str, u64)> {
        self.unknown.iter().map(|(name, counts)| (name.as_str(), counts.iter().sum()))
    }

    /// The metrics that follow from the counts.
    pub fn metrics(&self) -> CategoryMetrics {
        let rows = || self.known.iter().chain(self.unknown.values());
        let called: Vec<u64> = (0..self.names.len()).map(|class| rows().map(|counts| counts[class]).sum()).collect();
        let class_metrics = |(class, (name, counts)): (usize, (&String, &Vec<u64>))| {
            let support: u64 = counts.iter().sum();
            let (hits, called) = counts.get(class).zip(called.get(class)).map_or((0, 0), |(&hits, &called)| (hits, called));
            ClassMetrics {
                name: name.clone(),
                known: class < self.names.len(),
                precision: ratio(hits as f64, called as f64),
                recall: ratio(hits as f64, support as f64),
                f1: ratio(2.0 * hits as f64, (called + support) as f64),
                support,
            }
        };
        let named = self.names.iter().chain(self.unknown.keys()).zip(rows());
        let classes: Vec<ClassMetrics> = named.enumerate().map(class_metrics).collect();
        let mean = |of: fn(&ClassMetrics) -> Option<f64>| {
            let defined: Vec<f64> = classes.iter().filter_map(of).collect();
            ratio(defined.iter().sum(), defined.len() as f64)
        };
        let hits: u64 = self.known.iter().enumerate().map(|(class, counts)| counts[class]).sum();
        let n: u64 = called.iter().sum();
        CategoryMetrics {
            accuracy: ratio(hits as f64, n as f64),
            balanced_accuracy: mean(|class| class.recall),
            macro_f1: mean(|class| class.f1),
            confusion: rows().cloned().collect(),
            classes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confusion(rows: &[(Result<usize, &str>, usize)]) -> Confusion {
        let mut confusion = Confusion::new(&["DoS", "Normal", "Worms"].map(str::to_owned));
        for &(truth, called) in rows {
            confusion.add(truth, called);
        }
        confusion
    }

    #[test]
    fn eight_rows_by_hand() {
        let rows = [(Ok(0), 0), (Ok(0), 0), (Ok(0), 1), (Ok(1), 1), (Ok(1), 1), (Ok(1), 0), (Err("new"), 1), (Err("new"), 0)];
        let metrics = confusion(&rows).metrics();
        assert_eq!(metrics.confusion, [vec![2, 1, 0], vec![1, 2, 0], vec![0, 0, 0], vec![1, 1, 0]]);
        let near = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-12;
        assert!(near(metrics.accuracy, 4.0 / 8.0));
        // no worms occur, and none are called: they count nowhere
        assert!(near(metrics.balanced_accuracy, (2.0 / 3.0 + 2.0 / 3.0 + 0.0) / 3.0));
        assert!(near(metrics.macro_f1, (4.0 / 7.0 + 4.0 / 7.0 + 0.0) / 3.0));
        let [dos, normal, worms, new] = &metrics.classes[..] else { panic!("{:?}", metrics.classes) };
        assert!(near(dos.precision, 2.0 / 4.0) && near(dos.recall, 2.0 / 3.0) && near(normal.f1, 4.0 / 7.0));
        assert_eq!((worms.precision, worms.recall, worms.f1, worms.support, worms.known), (None, None, None, 0, true));
        assert_eq!((new.precision, new.recall, new.f1, new.support, new.known), (None, Some(0.0), Some(0.0), 2, false));
        assert_eq!(confusion(&rows).unknown().collect::<Vec<_>>(), [("new", 2)]);
    }

    #[test]
    fn no_rows_are_null() {
        let metrics = confusion(&[]).metrics();
        assert_eq!((metrics.accuracy, metrics.balanced_accuracy, metrics.macro_f1), (None, None, None));
    }
}
