//! Which rows of some files are those of one part of several: a function of the files alone.

use std::ops::Range;
use std::path::Path;

use super::input::STDIN;
use crate::{At, Error, Result};

/// One of several parts that the rows of some files are dealt to, counted from 0. Each row is in one of them, and the parts one after
/// the other are the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    index: u32,
    of: u32,
}

/// The rows of a file that are those of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Which of the files.
    pub file: usize,
    /// Bytes of the file; the row that begins there is one of the part. Beyond the last byte for all rows up to the end.
    pub bytes: Range<u64>,
    /// Bytes of the whole file.
    pub size: u64,
}

impl Share {
    /// A whole file.
    pub(super) fn whole(file: usize) -> Self {
        Share { file, bytes: 0..u64::MAX, size: 0 }
    }

    /// Whether it is all of the file.
    pub fn is_whole(&self) -> bool {
        self.bytes == (0..u64::MAX)
    }

    /// The same share of `n` rows that cannot be told by their bytes; the last has all rows that are left.
    pub(super) fn rows(&self, n: u64) -> Range<u64> {
        let row = |byte: u64| {
            let first = (u128::from(byte) * u128::from(n)).div_ceil(u128::from(self.size.max(1)));
            first.min(u128::from(n)) as u64
        };
        row(self.bytes.start)..if self.bytes.end == u64::MAX { u64::MAX } else { row(self.bytes.end) }
    }
}

impl Part {
    /// The most parts.
    pub const MOST: u32 = 100_000;

    /// Part `index` of `of`, counted from 0; None if there is no such part.
    pub fn new(index: u32, of: u32) -> Option<Self> {
        (index < of && of <= Self::MOST).then_some(Part { index, of })
    }

    /// The part that `3/8` names.
    pub fn named(name: &str) -> Option<Self> {
        let (index, of) = name.split_once('/')?;
        Self::new(index.parse().ok()?, of.parse().ok()?)
    }

    /// Its number, from 0.
    pub fn index(self) -> u32 {
        self.index
    }

    /// How many parts there are.
    pub fn of(self) -> u32 {
        self.of
    }

    /// Its share of files of these sizes. Where there are as many files as parts, files stay whole: one is in the part in which its
    /// middle lies, were the bytes of all dealt out evenly. Else a row is in the part in which it begins.
    pub fn shares(self, sizes: &[u64]) -> Vec<Share> {
        // an empty file is in a part as well, which then says what is wrong with it
        let taken = |size: u64| u128::from(size.max(1));
        let all: u128 = sizes.iter().map(|&size| taken(size)).sum();
        let cut = |part: u32| all * u128::from(part) / u128::from(self.of);
        let (from, to) = (cut(self.index), cut(self.index + 1));
        let are_whole = sizes.len() >= self.of as usize;
        let mut start = 0;
        let mut shares = Vec::new();
        for (file, &size) in sizes.iter().enumerate() {
            let end = start + taken(size);
            let bytes = if are_whole {
                (from..to).contains(&u128::midpoint(start, end)).then_some(0..u64::MAX)
            } else {
                let last = if end <= to { u64::MAX } else { to.saturating_sub(start) as u64 };
                (from.max(start) < to.min(end)).then(|| from.saturating_sub(start) as u64..last)
            };
            shares.extend(bytes.map(|bytes| Share { file, bytes, size }));
            start = end;
        }
        shares
    }

    /// Its share of some files.
    ///
    /// # Errors
    /// What is no file on the disk, of which nobody knows the size.
    pub fn of_files(self, files: &[impl AsRef<Path>]) -> Result<Vec<Share>> {
        let sizes = files.iter().map(|file| size(file.as_ref())).collect::<Result<Vec<u64>>>()?;
        Ok(self.shares(&sizes))
    }
}

fn size(file: &Path) -> Result<u64> {
    let refuse = || Error::data(file, At::File, None, "no file on the disk: parts are dealt by the size of files".to_owned());
    if file == Path::new(STDIN) {
        return Err(refuse());
    }
    let found = std::fs::metadata(file).map_err(|source| Error::Io { path: file.to_owned(), source })?;
    if found.is_file() { Ok(found.len()) } else { Err(refuse()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(of: u32) -> impl Iterator<Item = Part> {
        (0..of).map(move |index| Part::new(index, of).unwrap())
    }

    proptest! {
        #[test]
        fn every_byte_of_every_file_is_in_one_part_and_parts_are_in_order(
            sizes in proptest::collection::vec(0_u64..2000, 1..12), of in 1_u32..30, n_rows in 0_u64..500,
        ) {
            let shares: Vec<Share> = parts(of).flat_map(|part| part.shares(&sizes)).collect();
            for (file, &size) in sizes.iter().enumerate() {
                let mut own = shares.iter().filter(|share| share.file == file);
                let first = own.clone().next().unwrap();
                prop_assert_eq!(first.bytes.start, 0);
                let (mut end, mut n) = (0, 0);
                for share in &mut own {
                    prop_assert_eq!(share.bytes.start, end);
                    prop_assert!(share.bytes.end > end && share.size == size);
                    let rows = Share { size, ..share.clone() }.rows(n_rows);
                    prop_assert_eq!(rows.start, n);
                    prop_assert!(rows.end <= n_rows || rows.end == u64::MAX);
                    (end, n) = (share.bytes.end, rows.end);
                }
                prop_assert_eq!((end, n), (u64::MAX, u64::MAX));
            }
            prop_assert!(shares.is_sorted_by_key(|share| (share.file, share.bytes.start)));
            prop_assert!(sizes.len() < of as usize || shares.iter().all(Share::is_whole));
        }
    }

    #[test]
    fn equal_files_are_dealt_one_by_one_and_one_file_evenly() {
        let files: Vec<Vec<usize>> =
            parts(4).map(|part| part.shares(&[70, 71, 69, 70]).iter().map(|share| share.file).collect()).collect();
        assert_eq!(files, [[0], [1], [2], [3]]);
        let bytes: Vec<Range<u64>> = parts(4).map(|part| part.shares(&[100])[0].bytes.clone()).collect();
        assert_eq!(bytes, [0..25, 25..50, 50..75, 75..u64::MAX]);
    }

    #[test]
    fn a_part_is_counted_from_0() {
        let part = Part::named("7/8").unwrap();
        assert_eq!((part.index(), part.of()), (7, 8));
        for name in ["8/8", "-1/8", "1", "a/8", "1/0", "0/0", "1/8/9", "0/100001", ""] {
            assert_eq!(Part::named(name), None, "{name}");
        }
    }
}
