//! The shipped configs on the first rows of the real data, where those are.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use serde_json::Value as Json;

use crate::bench::{Bench, shipped};

const ROWS: usize = 3000;

#[expect(clippy::disallowed_methods, reason = "a test may be told where the data are")]
#[expect(clippy::print_stderr, reason = "says what was not tested")]
fn train_file(data_set: &str) -> Option<PathBuf> {
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("NIDS_MIXER_DATA").map_or_else(default, PathBuf::from);
    let path = folder.join(data_set).join("train.csv");
    if path.is_file() {
        return Some(path);
    }
    eprintln!("skipped: there is no {}; NIDS_MIXER_DATA names the folder of the data sets", path.display());
    None
}

fn trains_on(data_set: &str) {
    let Some(path) = train_file(data_set) else { return };
    let bench = Bench::new();
    let lines: Vec<String> = BufReader::new(File::open(path).unwrap()).lines().take(ROWS + 1).map(Result::unwrap).collect();
    bench.file("train.csv", lines.join("\n"));
    let settings = "--run run --set data.train=train.csv --set data.unlabelled=null --set model.dim=16 --set model.depth=1 \
        --set pretrain.steps=5 --set pretrain.batch_size=64 --set finetune.steps=5 --set finetune.batch_size=64";
    for stage in ["pretrain", "encode", "finetune"] {
        bench.prints(&format!("{stage} --config {} {settings}", shipped(&format!("{data_set}.yaml"))));
    }
    let metrics: Json = serde_json::from_str(&bench.prints("evaluate --run run --data train.csv --json")).unwrap();
    assert_eq!(metrics["n"], lines.len() - 1);
    assert_eq!(bench.prints("predict --run run --data train.csv").lines().count(), lines.len() - 1);
}

#[test]
fn unsw_nb15_trains() {
    trains_on("unsw-nb15");
}

#[test]
fn nsl_kdd_trains() {
    trains_on("nsl-kdd");
}
