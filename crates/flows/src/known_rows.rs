//! Which rows have been seen before.

use sha2::{Digest, Sha256};

use crate::split::row_hash;
use crate::{FeatureColumn, Flows};

/// The first bytes of every file of [`KnownRows`].
const MAGIC: &[u8; 8] = b"nmrows01";

/// A key of each row, 64 bits of SHA-256 over its features. Equal rows have equal keys, whatever file or batch they are read in: their
/// numbers have the same bits, and their texts are the same. Id, label and category do not count. Of a million different rows, two
/// have the same key in one of 37 million cases.
pub fn row_keys(flows: &Flows) -> Vec<u64> {
    let texts: Vec<Vec<u64>> = flows.features.iter().map(text_keys).collect();
    let of_text = |feature: usize, code: u32| texts[feature][code as usize].to_le_bytes();
    (0..flows.len()).map(|row| first_bits(row_hash(flows, row, of_text))).collect()
}

/// A key of each text of a column; none of a column of numbers.
fn text_keys(column: &FeatureColumn) -> Vec<u64> {
    match column {
        FeatureColumn::Numeric(_) => Vec::new(),
        FeatureColumn::Categorical(texts) => {
            texts.vocabulary().iter().map(|text| first_bits(Sha256::digest(text).into())).collect()
        }
    }
}

fn first_bits(hash: [u8; 32]) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|place| hash[place]))
}

/// Rows by their keys: what a classifier has learned from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownRows {
    /// Ascending, each once.
    keys: Vec<u64>,
}

impl KnownRows {
    /// The rows of these keys.
    pub fn new(mut keys: Vec<u64>) -> Self {
        keys.sort_unstable();
        keys.dedup();
        Self { keys }
    }

    /// Whether a row of this key is among them.
    pub fn contains(&self, key: u64) -> bool {
        self.keys.binary_search(&key).is_ok()
    }

    /// How many different ones there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Eight bytes that say what it is, then the keys, ascending, each as eight bytes, the lowest first.
    pub fn to_bytes(&self) -> Vec<u8> {
        MAGIC.iter().copied().chain(self.keys.iter().flat_map(|key| key.to_le_bytes())).collect()
    }

    /// Reads [`Self::to_bytes`].
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else { return Err("not a list of row keys".to_owned()) };
        let (keys, cut) = rest.as_chunks::<8>();
        if !cut.is_empty() {
            return Err(format!("{} bytes after the last row key", cut.len()));
        }
        let keys: Vec<u64> = keys.iter().map(|key| u64::from_le_bytes(*key)).collect();
        if keys.is_sorted_by(|a, b| a < b) { Ok(Self { keys }) } else { Err("row keys are not in ascending order".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{equal_rows, synthetic};

    #[test]
    fn rows_have_equal_keys_where_their_features_are_equal_in_whatever_batch() {
        let rows: Vec<u32> = (0..120).flat_map(|row| [row, row]).collect();
        let flows = synthetic(120, 3).select(&rows);
        let keys = row_keys(&flows);
        let groups = equal_rows(&flows);
        assert!(groups.iter().all(|rows| rows.iter().all(|&row| keys[row as usize] == keys[rows[0] as usize])));
        assert_eq!(KnownRows::new(keys.clone()).len(), groups.len());
        // in a batch of its own a text has another number
        for row in [17, 100, 239] {
            let mut alone = flows.select(&[row]);
            for column in &mut alone.features {
                if let FeatureColumn::Categorical(texts) = column {
                    let text = texts.get(0).to_owned();
                    *texts = crate::TextColumn::default();
                    texts.push(&text);
                }
            }
            assert_eq!(row_keys(&alone), [keys[row as usize]]);
        }
    }

    #[test]
    fn a_key_depends_on_numbers_and_on_texts() {
        let flows = synthetic(40, 3);
        let key = row_keys(&flows);
        for column in 0..flows.features.len() {
            let mut other = flows.clone();
            match &mut other.features[column] {
                FeatureColumn::Numeric(values) => values.iter_mut().for_each(|value| *value += 1.0),
                FeatureColumn::Categorical(texts) => {
                    let all: Vec<String> = texts.iter().map(|text| format!("{text}x")).collect();
                    *texts = crate::TextColumn::default();
                    for text in &all {
                        texts.push(text);
                    }
                }
            }
            assert!(key.iter().zip(row_keys(&other)).all(|(a, b)| *a != b), "column {column}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_nothing_else() {
        let known = KnownRows::new(vec![7, 3, u64::MAX, 3]);
        let bytes = known.to_bytes();
        assert_eq!((KnownRows::from_bytes(&bytes).unwrap(), known.len(), bytes.len()), (known.clone(), 3, 32));
        assert!(known.contains(3) && !known.contains(4));
        assert!(KnownRows::from_bytes(MAGIC).unwrap().is_empty());
        let swapped = [&bytes[..8], &bytes[16..24], &bytes[8..16]].concat();
        for (bytes, wanted) in [(&bytes[..31], "7 bytes"), (&bytes[1..], "not a list"), (&swapped, "not in ascending order")] {
            let error = KnownRows::from_bytes(bytes).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
