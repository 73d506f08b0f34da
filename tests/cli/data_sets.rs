//! The shipped configs on the first rows of the real data, where those are, and everywhere on rows of our own that have what is
//! hard about them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use nids_flows::{ColumnKind, Schema};
use serde_json::Value as Json;

use crate::bench::{Bench, column, edit, shipped};

const ROWS: usize = 3000;

/// The first rows of a data set.
#[expect(clippy::disallowed_methods, reason = "a test may be told where the data are")]
fn real(data_set: &str) -> String {
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("NIDS_MIXER_DATA").map_or_else(default, PathBuf::from);
    let path = folder.join(data_set).join("train.csv");
    let what = |error| panic!("{}: {error}; NIDS_MIXER_DATA names the folder of the data sets", path.display());
    let file = File::open(&path).unwrap_or_else(what);
    let lines: Vec<String> = BufReader::new(file).lines().take(ROWS + 1).map(Result::unwrap).collect();
    lines.join("\n")
}

/// Generated flows, made harder: see [`harder`].
fn like_unsw_nb15(bench: &Bench) -> String {
    harder(&bench.prints("synth --rows 400 --seed 8"), ["proto", "service", "sload", "stcpb"])
}

/// Rows with the columns of NSL-KDD: bytes, counts and rates that go with the label, from a generator of 31 bits.
fn like_nsl_kdd() -> String {
    let schema = Schema::builtin("nsl-kdd").unwrap();
    let columns: Vec<(&str, ColumnKind)> = schema.columns().iter().map(|column| (column.name.as_str(), column.kind)).collect();
    let mut state = 1_u64;
    let mut below = |n: u64| {
        state = (state * 1_103_515_245 + 12_345) & 0x7fff_ffff;
        (state >> 8) % n
    };
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let mut csv = names.join(",") + "\n";
    for _ in 0..400 {
        let attack = below(2);
        let cells: Vec<String> = columns
            .iter()
            .map(|(name, kind)| match (*name, *kind) {
                ("protocol_type", _) => ["tcp", "udp", "icmp"][below(3) as usize].to_owned(),
                ("service", _) => format!("service_{}", below(9)),
                ("flag", _) => ["SF", "S0", "REJ"][(below(2) + attack) as usize].to_owned(),
                ("attack", _) => ["normal", "neptune"][attack as usize].to_owned(),
                (_, ColumnKind::Label) => attack.to_string(),
                (name, _) if name.ends_with("_rate") => format!("0.{:02}", below(60) + 39 * attack),
                (name, _) if name.ends_with("_bytes") => (below(5000) * (1 + below(3) * attack)).to_string(),
                (name, _) if name.ends_with("count") => below(256).to_string(),
                _ => (below(20) / 19).to_string(),
            })
            .collect();
        csv.push_str(&cells.join(","));
        csv.push('\n');
    }
    harder(&csv, ["protocol_type", "service", "src_bytes", "dst_bytes"])
}

/// The same rows, some of them with no category or one that no other row has, and with numbers from 0 to 1e15; every tenth row
/// comes again with the other label.
fn harder(csv: &str, [first, second, one, other]: [&str; 4]) -> String {
    let [first, second, one, other] = [first, second, one, other].map(|name| column(csv, name));
    let changed = edit(csv, |line, cells| match line {
        0 => {}
        line if line % 7 == 0 => cells[first].clear(),
        line if line % 11 == 0 => cells[second] = format!("only-{line}"),
        line if line % 13 == 0 => {
            cells[one] = String::from("1e15");
            cells[other] = String::from("0");
        }
        _ => {}
    });
    let label = column(csv, "label");
    let mut line = 0;
    let again = edit(&changed, |_, cells| {
        if line > 0 {
            cells[label] = String::from(if cells[label] == "0" { "1" } else { "0" });
        }
        line += 1;
    });
    let again = again.lines().enumerate().filter(|(line, _)| *line > 0 && line % 10 == 0).map(|(_, row)| row);
    changed.trim_end().lines().chain(again).collect::<Vec<_>>().join("\n")
}

/// Every stage of a data set's config, made small, ends in metrics over all rows and in a verdict for each.
fn trains_on(bench: &Bench, data_set: &str, csv: &str) {
    bench.file("train.csv", csv);
    let n_rows = csv.lines().count() - 1;
    let settings = "--run run --set data.train=train.csv --set data.unlabelled=null --set model.dim=16 --set model.depth=1 \
        --set pretrain.steps=5 --set pretrain.batch_size=64 --set finetune.steps=5 --set finetune.batch_size=64";
    for stage in ["pretrain", "encode", "finetune"] {
        bench.prints(&format!("{stage} --config {} {settings}", shipped(&format!("{data_set}.yaml"))));
    }
    let metrics: Json = serde_json::from_str(&bench.prints("evaluate --run run --data train.csv --json")).unwrap();
    assert_eq!(metrics["n"], n_rows);
    assert_eq!(bench.prints("predict --run run --data train.csv").lines().count(), 1 + n_rows);
}

#[test]
fn unsw_nb15_trains_on_rows_of_our_own() {
    let bench = Bench::new();
    let csv = like_unsw_nb15(&bench);
    trains_on(&bench, "unsw-nb15", &csv);
}

#[test]
fn nsl_kdd_trains_on_rows_of_our_own() {
    trains_on(&Bench::new(), "nsl-kdd", &like_nsl_kdd());
}

#[test]
#[ignore = "needs unsw-nb15/train.csv in ../shared/data (NIDS_MIXER_DATA)"]
fn unsw_nb15_trains() {
    trains_on(&Bench::new(), "unsw-nb15", &real("unsw-nb15"));
}

#[test]
#[ignore = "needs nsl-kdd/train.csv in ../shared/data (NIDS_MIXER_DATA)"]
fn nsl_kdd_trains() {
    trains_on(&Bench::new(), "nsl-kdd", &real("nsl-kdd"));
}
