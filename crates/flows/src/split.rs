use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::{Error, FeatureColumn, Flows, Result};

/// Rows for training and rows for validation, each in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Rows to fit on.
    pub train: Vec<u32>,
    /// Rows held out.
    pub val: Vec<u32>,
}

/// Holds out a fraction of the rows, such that rows with equal features never straddle the two sides,
/// stratified by label as far as groups of equal rows allow.
///
/// Features are equal if their numbers have the same bits and their texts are the same; id, label and category do not count.
pub fn split(flows: &Flows, validation_fraction: f64, seed: u64) -> Result<Split> {
    if !(validation_fraction > 0.0 && validation_fraction < 1.0) {
        return Err(Error::split(format!("validation fraction {validation_fraction} is not between 0 and 1")));
    }
    let class = |row: u32| flows.labels().map_or(0, |labels| labels[row as usize] as usize);
    let mut groups = equal_rows(flows);
    groups.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut room = [0_usize; 2];
    (0..flows.len() as u32).for_each(|row| room[class(row)] += 1);
    let room = &mut room.map(|n| (n as f64 * validation_fraction).round() as usize);
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
    if split.train.is_empty() || split.val.is_empty() {
        return Err(Error::split(format!(
            "{} rows do not split with validation fraction {validation_fraction} while equal rows stay together; give more rows",
            flows.len()
        )));
    }
    split.train.sort_unstable();
    split.val.sort_unstable();
    Ok(split)
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
    let mut keys: Vec<([u8; 16], u32)> = (0..flows.len()).map(|row| (digest(flows, row), row as u32)).collect();
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
