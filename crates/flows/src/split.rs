use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::sample::mix;
use crate::{Error, FeatureColumn, Flows, Result};

/// Rows for training and rows for validation, each in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Rows to fit on.
    pub train: Vec<u32>,
    /// Rows held out.
    pub val: Vec<u32>,
}

/// Rows up to which groups of equal rows are dealt out one after the other; of more rows, a hash decides.
const DEALT: usize = 1_000_000;

/// Holds out a fraction of the rows, such that rows with equal features never straddle the two sides,
/// stratified by label as far as groups of equal rows allow.
///
/// Features are equal if their numbers have the same bits and their texts are the same; id, label and category do not count.
///
/// Of more than a million rows, the side of a row is a function of its features and the seed ([`Splitter`]).
pub fn split(flows: &Flows, validation_fraction: f64, seed: u64) -> Result<Split> {
    let mut splitter = Splitter::new(validation_fraction, seed, false)?;
    splitter.add(flows);
    splitter.finish()
}

/// Splits rows that come batch by batch, as [`split()`] does, in memory of some bytes a row. How rows are cut into batches does not
/// matter.
///
/// Up to a million rows, groups of equal rows are shuffled and dealt out, stratified by label. Of more rows, a hash of a row's
/// features decides its side, each row on its own: the share held out of either label is then near the fraction.
#[derive(Debug)]
pub struct Splitter {
    fraction: f64,
    seed: u64,
    /// Whether the training rows are split once more.
    inner: bool,
    dealt: usize,
    /// Key and label of each row, as long as they are few.
    few: Vec<([u8; 16], u8)>,
    /// Side of each row, once they are many.
    sides: Vec<Side>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Train,
    Val,
    Neither,
}

impl Splitter {
    /// No rows yet. With `inner`, the training rows are split once more, and the rows held out at first are on neither side.
    ///
    /// # Errors
    /// A fraction that is not between 0 and 1.
    pub fn new(validation_fraction: f64, seed: u64, inner: bool) -> Result<Self> {
        if !(validation_fraction > 0.0 && validation_fraction < 1.0) {
            return Err(Error::split(format!("validation fraction {validation_fraction} is not between 0 and 1")));
        }
        Ok(Self { fraction: validation_fraction, seed, inner, dealt: DEALT, few: Vec::new(), sides: Vec::new() })
    }

    /// Number of rows so far.
    pub fn n_rows(&self) -> usize {
        self.few.len() + self.sides.len()
    }

    /// The next rows.
    pub fn add(&mut self, flows: &Flows) {
        let label = |row: usize| flows.labels().map_or(0, |labels| labels[row]);
        for (row, key) in wide_keys(flows).into_iter().enumerate() {
            if self.sides.is_empty() && self.few.len() < self.dealt {
                self.few.push((key, label(row)));
                continue;
            }
            let few = std::mem::take(&mut self.few);
            self.sides
                .extend(few.iter().map(|(key, _)| *key).chain([key]).map(|key| side(key, self.fraction, self.seed, self.inner)));
        }
    }

    /// The rows of both sides.
    ///
    /// # Errors
    /// If one side is empty.
    pub fn finish(self) -> Result<Split> {
        if self.sides.is_empty() {
            let outer = deal(&self.few, self.fraction, self.seed)?;
            if !self.inner {
                return Ok(outer);
            }
            let rows: Vec<([u8; 16], u8)> = outer.train.iter().map(|&row| self.few[row as usize]).collect();
            let inner = deal(&rows, self.fraction, self.seed)?;
            let outer_rows = |rows: Vec<u32>| rows.into_iter().map(|row| outer.train[row as usize]).collect();
            return Ok(Split { train: outer_rows(inner.train), val: outer_rows(inner.val) });
        }
        let of = |side: Side| (0..).zip(&self.sides).filter(move |(_, found)| **found == side).map(|(row, _)| row).collect();
        let split = Split { train: of(Side::Train), val: of(Side::Val) };
        check(&split, self.sides.len(), self.fraction)?;
        Ok(split)
    }
}

/// The side of a row, by its features alone.
fn side(key: [u8; 16], fraction: f64, seed: u64, inner: bool) -> Side {
    let first = u64::from_le_bytes(std::array::from_fn(|place| key[place]));
    // 53 bits as a share, others for each of the two splits
    let is_held_out = |level: u64| ((mix(first ^ mix(mix(seed) ^ level)) >> 11) as f64 / (1_u64 << 53) as f64) < fraction;
    match (is_held_out(0), inner) {
        (true, false) => Side::Val,
        (true, true) => Side::Neither,
        (false, true) if is_held_out(1) => Side::Val,
        (false, _) => Side::Train,
    }
}

/// Deals out groups of equal rows.   rows: key and label of each
fn deal(rows: &[([u8; 16], u8)], fraction: f64, seed: u64) -> Result<Split> {
    let class = |row: u32| rows[row as usize].1 as usize;
    let mut groups = groups(rows.iter().map(|(key, _)| *key).zip(0..).collect());
    groups.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut room = [0_usize; 2];
    (0..rows.len() as u32).for_each(|row| room[class(row)] += 1);
    let room = &mut room.map(|n| (n as f64 * fraction).round() as usize);
    let mut split = Split { train: Vec::new(), val: Vec::new() };
    for group in groups {
        let mut counts = [0; 2];
        for &row in &group {
            counts[class(row)] += 1;
        }
        if counts[0] <= room[0] && counts[1] <= room[1] {
            room[0] -= counts[0];
            room[1] -= counts[1];
            split.val.extend(group);
        } else {
            split.train.extend(group);
        }
    }
    check(&split, rows.len(), fraction)?;
    split.train.sort_unstable();
    split.val.sort_unstable();
    Ok(split)
}

fn check(split: &Split, n_rows: usize, fraction: f64) -> Result<()> {
    if split.train.is_empty() || split.val.is_empty() {
        return Err(Error::split(format!(
            "{n_rows} rows do not split with validation fraction {fraction} while equal rows stay together; give more rows"
        )));
    }
    Ok(())
}

/// 0..n as row numbers.
///
/// # Panics
/// If there are more than 32 bits count: no reader gives so many.
pub fn all_rows(n: usize) -> Vec<u32> {
    (0..u32::try_from(n).expect("a reader's rows are counted in 32 bits")).collect()
}

/// Groups of rows with equal features (see [`split()`]), each ascending, ordered by their first row.
pub fn equal_rows(flows: &Flows) -> Vec<Vec<u32>> {
    groups((0..flows.len()).map(|row| (digest(flows, row), row as u32)).collect())
}

fn groups(mut keys: Vec<([u8; 16], u32)>) -> Vec<Vec<u32>> {
    keys.sort_unstable();
    let mut groups: Vec<Vec<u32>> =
        keys.chunk_by(|a, b| a.0 == b.0).map(|group| group.iter().map(|&(_, row)| row).collect()).collect();
    groups.sort_unstable_by_key(|group| group[0]);
    groups
}

/// 128 bits of [`row_hash`]: nobody can make two flows that collide.
fn digest(flows: &Flows, row: usize) -> [u8; 16] {
    let full = row_hash(flows, row, |_, code| code.to_le_bytes());
    std::array::from_fn(|place| full[place])
}

/// The same of every row, whatever batch it is read in: a text counts by its hash, not by its code.
fn wide_keys(flows: &Flows) -> Vec<[u8; 16]> {
    let half = |hash: [u8; 32]| -> [u8; 16] { std::array::from_fn(|place| hash[place]) };
    let of_texts = |column: &FeatureColumn| -> Vec<[u8; 16]> {
        match column {
            FeatureColumn::Numeric(_) => Vec::new(),
            FeatureColumn::Categorical(texts) => {
                texts.vocabulary().iter().map(|text| half(Sha256::digest(text).into())).collect()
            }
        }
    };
    let texts: Vec<Vec<[u8; 16]>> = flows.features.iter().map(of_texts).collect();
    (0..flows.len()).map(|row| half(row_hash(flows, row, |feature, code| texts[feature][code as usize]))).collect()
}

/// SHA-256 over the features of a row. `category` stands for a code of the feature at a place.
pub(crate) fn row_hash<const N: usize>(flows: &Flows, row: usize, category: impl Fn(usize, u32) -> [u8; N]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (feature, column) in flows.features.iter().enumerate() {
        match column {
            FeatureColumn::Numeric(values) => hash.update(values[row].to_bits().to_le_bytes()),
            FeatureColumn::Categorical(texts) => hash.update(category(feature, texts.codes()[row])),
        }
    }
    hash.finalize().into()
}

/// Draws `n` of the given rows, with the classes in proportion. `labels` has a label for every row of the flows.
///
/// With the same rows and seed, the rows drawn for a smaller `n` are among those for a larger one. The result ascends.
pub fn draw_labelled(labels: &[u8], rows: &[u32], n: usize, seed: u64) -> Result<Vec<u32>> {
    if n == 0 || n > rows.len() {
        return Err(Error::split(format!("cannot draw {n} labelled rows out of {}", rows.len())));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut attack, mut benign): (Vec<u32>, Vec<u32>) = rows.iter().partition(|&&row| labels[row as usize] == 1);
    attack.shuffle(&mut rng);
    benign.shuffle(&mut rng);
    // rounded share of attacks: neither count falls as n grows
    let n_attack = (2 * n * attack.len() + rows.len()) / (2 * rows.len());
    attack.truncate(n_attack);
    benign.truncate(n - n_attack);
    let mut drawn = [attack, benign].concat();
    drawn.sort_unstable();
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::{TextColumn, synthetic};

    /// Equal rows by a naive comparison of their text.
    fn key(flows: &Flows, row: u32) -> String {
        let cell = |column: &FeatureColumn| match column {
            FeatureColumn::Numeric(values) => values[row as usize].to_string(),
            FeatureColumn::Categorical(texts) => texts.get(row as usize).to_owned(),
        };
        flows.features().iter().map(cell).collect::<Vec<_>>().join("|")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn equal_rows_never_straddle(seed: u64, n in 40_usize..300, fraction in 0.1..0.9) {
            let flows = synthetic(n, seed);
            let split = split(&flows, fraction, seed).unwrap();
            prop_assert!(split.train.is_sorted() && split.val.is_sorted());
            let mut all = [split.train.clone(), split.val.clone()].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..n as u32).collect::<Vec<_>>());
            let sides: BTreeMap<String, bool> = split.train.iter().map(|&row| (key(&flows, row), true)).collect();
            for &row in &split.val {
                prop_assert!(!sides.contains_key(&key(&flows, row)));
            }
        }
    }

    #[test]
    fn equal_rows_of_different_labels_and_categories_never_straddle() {
        let rows: Vec<u32> = (0..200).flat_map(|row| [row, row]).collect();
        let mut flows = synthetic(200, 6).select(&rows);
        flows.ids = (0..rows.len()).map(|row| row.to_string()).collect();
        flows.labels = Some((0..rows.len()).map(|row| (row % 2) as u8).collect());
        let mut categories = TextColumn::default();
        (0..rows.len()).for_each(|row| categories.push(["Normal", "DoS"][row % 2]));
        flows.categories = Some(categories);
        assert!(equal_rows(&flows).iter().all(|group| group.len() >= 2));
        for seed in 0..4 {
            let Split { train, val } = split(&flows, 0.3, seed).unwrap();
            let held_out: BTreeSet<String> = val.iter().map(|&row| key(&flows, row)).collect();
            assert!(train.iter().all(|&row| !held_out.contains(&key(&flows, row))), "seed {seed}");
        }
    }

    #[test]
    fn classes_keep_their_share_and_the_seed_decides() {
        let flows = synthetic(4000, 2);
        let labels = flows.labels().unwrap();
        let held_out = split(&flows, 0.25, 9).unwrap();
        for class in [0, 1] {
            let count = |rows: &[u32]| rows.iter().filter(|&&row| labels[row as usize] == class).count() as f64;
            let share = count(&held_out.val) / (count(&held_out.val) + count(&held_out.train));
            assert!((share - 0.25).abs() < 0.005, "class {class}: {share}");
        }
        assert_eq!(split(&flows, 0.25, 9).unwrap(), held_out);
        assert_ne!(split(&flows, 0.25, 10).unwrap(), held_out);
    }

    /// Splits rows that come in batches of `batch`, of which up to `dealt` are dealt out.
    fn batched(flows: &Flows, batch: usize, dealt: usize, inner: bool) -> Split {
        let mut splitter = Splitter { dealt, ..Splitter::new(0.25, 9, inner).unwrap() };
        // texts have other codes in a file of their own
        all_rows(flows.len()).chunks(batch).for_each(|rows| {
            let mut part = flows.select(rows);
            for column in &mut part.features {
                if let FeatureColumn::Categorical(texts) = column {
                    let all: Vec<String> = texts.iter().map(str::to_owned).collect();
                    *texts = TextColumn::default();
                    for text in &all {
                        texts.push(text);
                    }
                }
            }
            splitter.add(&part);
        });
        assert_eq!(splitter.n_rows(), flows.len());
        splitter.finish().unwrap()
    }

    #[test]
    fn a_split_does_not_depend_on_how_rows_are_cut_into_batches() {
        let flows = synthetic(1200, 2);
        for (dealt, inner) in [(DEALT, false), (DEALT, true), (1200, false), (1199, false), (1199, true), (0, false)] {
            let wanted = batched(&flows, 1200, dealt, inner);
            for batch in [1, 7, 500] {
                assert_eq!(batched(&flows, batch, dealt, inner), wanted, "batches of {batch}, {dealt} {inner}");
            }
        }
        assert_eq!(batched(&flows, 500, 1200, false), split(&flows, 0.25, 9).unwrap());
        assert_ne!(batched(&flows, 500, 1199, false), split(&flows, 0.25, 9).unwrap());
    }

    #[test]
    fn of_many_rows_a_hash_of_the_features_decides_and_equal_rows_stay_together() {
        let rows: Vec<u32> = (0..3000).flat_map(|row| [row, row]).collect();
        let flows = synthetic(3000, 6).select(&rows);
        for inner in [false, true] {
            let Split { train, val } = batched(&flows, 700, 0, inner);
            let held_out: BTreeSet<String> = val.iter().map(|&row| key(&flows, row)).collect();
            assert!(train.iter().all(|&row| !held_out.contains(&key(&flows, row))));
            let share = val.len() as f64 / 6000.0;
            let wanted = if inner { 0.75 * 0.25 } else { 0.25 };
            assert!((share - wanted).abs() < 0.03, "{share}");
            assert_eq!(train.len() + val.len() == 6000, !inner);
        }
        // what is held out within the training rows is not what another seed would hold out of all
        let (outer, inner) = (batched(&flows, 700, 0, false), batched(&flows, 700, 0, true));
        assert!(inner.val.iter().all(|row| outer.train.binary_search(row).is_ok()));
        // a row is on its side whatever the others are
        let some: Vec<u32> = all_rows(6000).into_iter().step_by(3).collect();
        let of_some = batched(&flows.select(&some), 700, 0, false);
        assert!(of_some.val.iter().all(|&row| outer.val.binary_search(&some[row as usize]).is_ok()));
    }

    #[test]
    fn what_cannot_be_split_is_an_error() {
        let flows = synthetic(30, 2);
        for fraction in [0.0, 1.0, -1.0, f64::NAN] {
            assert!(split(&flows, fraction, 1).is_err());
        }
        assert!(split(&flows.select(&[4, 4, 4, 4]), 0.5, 1).unwrap_err().to_string().contains("4 rows do not split"));
    }

    #[test]
    fn smaller_draws_are_nested_in_larger_ones_and_stratified() {
        let labels: Vec<u8> = (0..300).map(|row| u8::from(row % 3 == 0)).collect();
        let rows: Vec<u32> = (0..300).filter(|row| row % 5 != 0).collect();
        let mut before: Vec<u32> = Vec::new();
        for n in 1..=rows.len() {
            let drawn = draw_labelled(&labels, &rows, n, 8).unwrap();
            assert!(drawn.len() == n && drawn.is_sorted_by(|a, b| a < b));
            assert!(drawn.iter().all(|row| rows.contains(row)));
            assert!(before.iter().all(|row| drawn.contains(row)));
            let attacks = drawn.iter().filter(|&&row| labels[row as usize] == 1).count() as f64;
            assert!((attacks - n as f64 / 3.0).abs() <= 0.5 + 1e-9);
            before = drawn;
        }
        assert!(draw_labelled(&labels, &rows, 0, 8).is_err());
        assert!(draw_labelled(&labels, &rows, rows.len() + 1, 8).is_err());
    }
}
