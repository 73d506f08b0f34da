//! What the cells of a column are.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::collections::hash_map::{DefaultHasher, HashMap};
use std::hash::{Hash, Hasher};

use crate::reader::cells::{MISSING, Number, Rules};
use crate::reader::sniff::{is_address, is_moment};

/// Texts of a column that are kept and counted, at most, and how long they may be.
const MAX_WORDS: usize = 200;
const MAX_WORD: usize = 200;
/// Texts that are no numbers, in a column of numbers, which are kept at most.
const MAX_OTHERS: usize = 4;

/// The code of a missing cell.
const NONE: u64 = f64::NAN.to_bits();

/// The cells of a column, as far as they have been read.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that have nothing to do with one another")]
pub(super) struct Column {
    pub(super) name: String,
    /// One for each row: the bits of its number, else a hash of its text.
    pub(super) codes: Vec<u64>,
    /// Distinct texts and how often they occur, while they are few.
    pub(super) words: Option<BTreeMap<String, u64>>,
    pub(super) n_missing: usize,
    pub(super) n_infinite: usize,
    n_numbers: usize,
    n_moments: usize,
    n_addresses: usize,
    /// Cells that are neither numbers nor missing.
    pub(super) n_others: usize,
    /// These, while they are few; then the first ones.
    pub(super) others: BTreeMap<String, u64>,
    pub(super) has_more_others: bool,
    min: f64,
    max: f64,
    is_whole: bool,
    n_rising: usize,
    last: f64,
    distinct: OnceCell<usize>,
    /// Files that have the column.
    pub(super) n_files: usize,
    /// Whether its cells can be read: not those of lists and structs.
    pub(super) is_readable: bool,
    /// Whether another column of this name has other cells.
    pub(super) differs: bool,
}

impl Column {
    /// A column of which `n_rows` rows have nothing.
    pub(super) fn new(name: &str, n_rows: usize) -> Self {
        Column {
            name: name.to_owned(),
            codes: vec![NONE; n_rows],
            words: Some(BTreeMap::new()),
            n_missing: 0,
            distinct: OnceCell::new(),
            n_infinite: 0,
            n_numbers: 0,
            n_moments: 0,
            n_addresses: 0,
            n_others: 0,
            others: BTreeMap::new(),
            has_more_others: false,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            is_whole: true,
            n_rising: 0,
            last: f64::NEG_INFINITY,
            n_files: 0,
            is_readable: true,
            differs: false,
        }
    }

    /// Rows of a file that lacks the column.
    pub(super) fn push_absent(&mut self, n_rows: usize) {
        self.codes.resize(self.codes.len() + n_rows, NONE);
    }

    pub(super) fn push(&mut self, rules: &Rules, text: &str) {
        self.codes.push(code(rules, text));
        if let Some(words) = &mut self.words {
            if let Some(n) = words.get_mut(text) {
                *n += 1;
            } else if words.len() < MAX_WORDS && text.len() <= MAX_WORD {
                words.insert(text.to_owned(), 1);
            } else {
                self.words = None;
            }
        }
        match number(rules, text) {
            Number::Value(value) if value.is_nan() => {
                if text.parse::<f64>().is_ok_and(f64::is_infinite) {
                    self.n_infinite += 1;
                } else {
                    self.n_missing += 1;
                }
            }
            Number::Value(value) => {
                self.n_numbers += 1;
                (self.min, self.max) = (self.min.min(value), self.max.max(value));
                self.is_whole &= value.fract() == 0.0;
                self.n_rising += usize::from(value >= self.last);
                self.last = value;
            }
            Number::Moment(_) => {
                self.n_moments += 1;
                self.other(text);
            }
            Number::Unreadable => {
                self.n_moments += usize::from(is_moment(text));
                self.n_addresses += usize::from(is_address(text));
                self.other(text);
            }
        }
    }

    fn other(&mut self, text: &str) {
        self.n_others += 1;
        if let Some(n) = self.others.get_mut(text) {
            *n += 1;
        } else if self.others.len() < MAX_OTHERS && text.len() <= MAX_WORD {
            self.others.insert(text.to_owned(), 1);
        } else {
            self.has_more_others = true;
        }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.codes.len()
    }

    /// Cells that hold something.
    pub(super) fn n_held(&self) -> usize {
        self.n_numbers + self.n_others
    }

    pub(super) fn has_numbers(&self) -> bool {
        self.n_numbers > 0
    }

    /// Whether every cell is a number, or missing.
    pub(super) fn is_numeric(&self) -> bool {
        self.n_others == 0
    }

    /// Whether the cells are numbers without a fraction.
    pub(super) fn is_whole(&self) -> bool {
        self.is_numeric() && self.is_whole
    }

    fn most(&self, n: usize) -> bool {
        self.n_held() > 0 && 10 * n >= 9 * self.n_held()
    }

    pub(super) fn is_address(&self) -> bool {
        self.most(self.n_addresses)
    }

    pub(super) fn is_moment(&self) -> bool {
        self.most(self.n_moments)
    }

    /// Whether the cells are seconds since 1970, or thousandths, millionths or billionths of them, from 2000 to 2100.
    pub(super) fn is_epoch(&self) -> bool {
        const YEARS: (f64, f64) = (946_684_800.0, 4_102_444_800.0);
        let fits = |scale: f64| self.min >= YEARS.0 * scale && self.max <= YEARS.1 * scale;
        self.is_numeric() && self.n_numbers > 0 && [1.0, 1e3, 1e6, 1e9].into_iter().any(fits)
    }

    /// Whether nine of ten numbers are at least as large as the one before.
    pub(super) fn is_rising(&self) -> bool {
        self.n_numbers > 1 && 10 * self.n_rising >= 9 * self.n_numbers
    }

    /// Whether the cells count the rows.
    pub(super) fn is_row_number(&self) -> bool {
        const FEWEST: usize = 10;
        let n = self.n_rows();
        let values = || self.codes.iter().map(|code| f64::from_bits(*code));
        let by_one = || values().zip(values().skip(1)).all(|(value, next)| (next - value - 1.0).abs() < 0.5);
        n >= FEWEST && self.n_numbers == n && self.is_whole() && by_one()
    }

    /// How many distinct cells there are, once all have been read; missing cells count as one.
    pub(super) fn n_distinct(&self) -> usize {
        *self.distinct.get_or_init(|| {
            let mut codes = self.codes.clone();
            codes.sort_unstable();
            codes.dedup();
            codes.len()
        })
    }

    /// Whether nearly every row has a text of its own.
    pub(super) fn is_near_unique(&self) -> bool {
        const FEWEST: usize = 20;
        let distinct = self.n_distinct();
        distinct >= FEWEST && 2 * distinct > self.n_held()
    }

    /// How well the column alone tells attacks from the rest: ROC-AUC of the number, or of the share of attacks that a value has in the
    /// other half of the rows. `labels` has 0, 1 or something else for each row.
    pub(super) fn auc(&self, labels: &[u8]) -> f64 {
        const FEWEST: usize = 10;
        let count = |label: u8| labels.iter().map(|found| usize::from(*found == label)).sum::<usize>();
        if count(0) < FEWEST || count(1) < FEWEST {
            return 0.5;
        }
        let either = |auc: f64| auc.max(1.0 - auc);
        let mut best = either(self.auc_of_rates(labels));
        if self.is_numeric() {
            for missing in [f64::NEG_INFINITY, f64::INFINITY] {
                let value = |code: &u64| if *code == NONE { missing } else { f64::from_bits(*code) };
                let scores = self.codes.iter().map(value).zip(labels.iter().copied()).filter(|(_, label)| *label < 2);
                best = best.max(either(auc(scores.collect())));
            }
        }
        best
    }

    fn auc_of_rates(&self, labels: &[u8]) -> f64 {
        let mut rates: HashMap<u64, (f64, f64)> = HashMap::new();
        let mut all = (0.0, 0.0);
        let rows = || self.codes.iter().zip(labels).enumerate().filter(|(_, (_, label))| **label < 2);
        for (_, (code, label)) in rows().filter(|(row, _)| row % 2 == 0) {
            let (n, attacks) = rates.entry(*code).or_default();
            (*n, *attacks) = (*n + 1.0, *attacks + f64::from(*label));
            all = (all.0 + 1.0, all.1 + f64::from(*label));
        }
        let base = if all.0 > 0.0 { all.1 / all.0 } else { 0.5 };
        let rate = |code: &u64| rates.get(code).map_or(base, |(n, attacks)| (attacks + base) / (n + 1.0));
        auc(rows().filter(|(row, _)| row % 2 == 1).map(|(_, (code, label))| (rate(code), *label)).collect())
    }
}

/// ROC-AUC by ranks; equal scores share theirs. One half where a class is absent.
fn auc(mut scores: Vec<(f64, u8)>) -> f64 {
    scores.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
    let (mut below, mut wins, mut n_attacks) = (0.0, 0.0, 0.0);
    let mut at = 0;
    while at < scores.len() {
        let tied = scores[at..].iter().take_while(|(score, _)| score.total_cmp(&scores[at].0).is_eq()).count();
        let attacks = scores[at..at + tied].iter().filter(|(_, label)| *label == 1).count() as f64;
        let benign = tied as f64 - attacks;
        wins += attacks * (below + benign / 2.0);
        below += benign;
        n_attacks += attacks;
        at += tied;
    }
    if below * n_attacks == 0.0 { 0.5 } else { wins / (below * n_attacks) }
}

/// What tells a cell from others of its column, however it is spelt.
pub(super) fn code(rules: &Rules, text: &str) -> u64 {
    match number(rules, text) {
        Number::Value(value) if value.is_nan() => NONE,
        Number::Value(value) => value.to_bits(),
        Number::Moment(_) | Number::Unreadable => {
            let mut hash = DefaultHasher::new();
            text.hash(&mut hash);
            // never that of a missing cell
            hash.finish() & !(1 << 51)
        }
    }
}

/// A cell as a number; durations of columnar files come as `PT0.5S`.
fn number(rules: &Rules, text: &str) -> Number {
    match rules.number(text) {
        Number::Unreadable => {
            let seconds = text.trim_start_matches('-').strip_prefix("PT").and_then(|text| text.strip_suffix('S'));
            match seconds.and_then(|seconds| seconds.parse::<f64>().ok()).filter(|seconds| seconds.is_finite()) {
                Some(seconds) => Number::Value(if text.starts_with('-') { -seconds } else { seconds }),
                None => Number::Unreadable,
            }
        }
        number => number,
    }
}

/// Whether a text stands for a missing cell although it is none of the usual spellings.
pub(super) fn may_be_missing(text: &str) -> bool {
    const WORDS: [&str; 14] = [
        "none",
        "null",
        "unknown",
        "undefined",
        "missing",
        "n.a.",
        "nil",
        "nul",
        "not available",
        "unset",
        "#div/0!",
        "#value!",
        "empty",
        "void",
    ];
    let is_mark = || text.len() <= 6 && !text.is_empty() && (text == "\\N" || !text.chars().any(char::is_alphanumeric));
    is_mark() || WORDS.contains(&text.to_lowercase().as_str()) || MISSING.iter().any(|usual| usual.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_under_the_curve_counts_pairs() {
        assert!((auc(vec![(1.0, 0), (2.0, 1), (3.0, 0), (4.0, 1)]) - 0.75).abs() < 1e-12);
        assert!((auc(vec![(1.0, 0), (1.0, 1)]) - 0.5).abs() < 1e-12);
        assert!((auc(vec![(2.0, 1), (1.0, 0)]) - 1.0).abs() < 1e-12);
        assert!((auc(vec![(2.0, 1)]) - 0.5).abs() < 1e-12);
    }
}
