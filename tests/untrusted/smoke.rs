//! Every committed input, and damaged copies of each, through the function that its fuzz target calls. Always the same damage: a
//! failure is found again by running the test again.

use std::fs;
use std::path::PathBuf;

use nids_store::artefacts::write_atomic;

use crate::check;
use crate::seeds::seeds;

/// Damaged copies of each input.
const COPIES: usize = 60;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus")
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = fs::read_dir(corpus().join(target)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = folder.collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}

/// A few changes, each of a kind that libFuzzer makes, too.
fn damaged(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    const NUMBERS: [&[u8]; 6] = [&[0xff; 4], &[0; 8], &[0xff, 0xff, 0xff, 0x7f], b"-1", b"99999999999", b"1e999"];
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.below(256) as u8,
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.below(256) as u8),
            4 => drop(bytes.drain(at..(at + random.below(16)).min(bytes.len()))),
            5 => {
                let number = NUMBERS[random.below(NUMBERS.len())];
                let end = (at + number.len()).min(bytes.len());
                bytes.splice(at..end, number.iter().copied());
            }
            6 => {
                let from = random.below(bytes.len());
                let piece = bytes[from..(from + random.below(64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let from = random.below(other.len());
                let piece = other[from..(from + random.below(64)).min(other.len())].to_vec();
                let end = (at + piece.len()).min(bytes.len());
                bytes.splice(at..end, piece);
            }
        }
    }
    bytes
}

fn smoke(target: &str, check: fn(&[u8])) {
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "no corpus for {target}");
    let mut random = Random(1);
    for (path, bytes) in &inputs {
        for copy in 0..=COPIES {
            let other = &inputs[random.below(inputs.len())].1;
            let input = if copy == 0 { bytes.clone() } else { damaged(bytes, other, &mut random) };
            let result = std::panic::catch_unwind(|| check(&input));
            assert!(result.is_ok(), "{}, copy {copy}: {}", path.display(), input.escape_ascii());
        }
    }
}

macro_rules! smoke {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            smoke(stringify!($target), check::$target);
        })*

        /// A target without a test would be a file without one.
        #[test]
        fn every_target_is_here() {
            let mut targets = vec![$(stringify!($target)),*];
            targets.sort_unstable();
            let mut folders: Vec<String> =
                fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            folders.sort();
            assert_eq!(targets, folders);
        }
    };
}

smoke! { arrow background coded config csv import json manifest npy operation parquet part profile proposal rows run schema stopped tokeniser watch weights zeek }

/// `cargo test -p nids-pipeline --test untrusted write_the_seeds -- --ignored`, after a change of format.
#[test]
#[ignore = "writes to tests/fuzz/corpus"]
fn write_the_seeds() {
    for seed in seeds() {
        let folder = corpus().join(seed.target);
        fs::create_dir_all(&folder).unwrap();
        write_atomic(&folder.join(seed.name), |out| out.write_all(&seed.bytes)).unwrap();
    }
    let files = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let bytes: u64 = files(corpus()).flat_map(files).map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes < 200_000, "{bytes} bytes are kept in git");
}

/// What the program writes today, its readers take.
#[test]
fn seeds_are_accepted() {
    for seed in seeds() {
        let check = match seed.target {
            "weights" => check::weights,
            "npy" => check::npy,
            "operation" => check::operation,
            "tokeniser" => check::tokeniser,
            "config" => check::config,
            "schema" => check::schema,
            "csv" => check::csv,
            "parquet" => check::parquet,
            "json" => check::json,
            "zeek" => check::zeek,
            "watch" => check::watch,
            "arrow" => check::arrow,
            "coded" => check::coded,
            "background" => check::background,
            "part" => check::part,
            "profile" => check::profile,
            "proposal" => check::proposal,
            "import" => check::import,
            "stopped" => check::stopped,
            "rows" => check::rows,
            "run" => check::run,
            _ => check::manifest,
        };
        check(&seed.bytes);
    }
}
