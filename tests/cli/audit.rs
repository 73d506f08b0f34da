//! What `audit` says of files before anything is trained on them.

use serde_json::Value as Json;

use crate::bench::{Bench, column, edit};

/// A check of an audit as JSON.
fn check<'a>(audit: &'a Json, name: &str) -> &'a Json {
    audit["checks"].as_array().unwrap().iter().find(|check| check["check"] == name).unwrap()
}

fn json(bench: &Bench, args: &str) -> Json {
    serde_json::from_str(&bench.prints(&format!("audit --json {args}"))).unwrap()
}

#[test]
fn verdicts_come_first_and_then_what_to_do() {
    let bench = Bench::new();
    let flows = bench.flows();
    // a feature that knows the label, an infinite number, a cell that is none, and rows of another network
    let label = column(&flows, "label");
    let (leak, rate, dur, proto) =
        (column(&flows, "is_ftp_login"), column(&flows, "rate"), column(&flows, "dur"), column(&flows, "proto"));
    let train = edit(&flows, |line, cells| {
        if line > 0 {
            cells[leak] = if cells[label] == "1" { "7".to_owned() } else { "0".to_owned() };
        }
        match line {
            3 => cells[rate] = "Infinity".to_owned(),
            5 => cells[dur] = "a while".to_owned(),
            _ => {}
        }
    });
    let test = edit(&flows, |line, cells| {
        if (1..100).contains(&line) {
            cells[proto] = "quic".to_owned();
        }
    });
    bench.file("train.csv", train).file("test.csv", test);
    let (text, told) = bench.prints_and_tells("audit train.csv test.csv");
    insta::assert_snapshot!(format!("{text}---\n{told}"));
    assert_eq!(bench.prints("audit train.csv test.csv"), text, "the same files give the same text");
}

#[test]
fn a_program_gets_every_check_every_column_and_every_file() {
    let bench = Bench::new();
    bench.prints("synth --rows 2000 --seed 4 --output flows.csv");
    let audit = json(&bench, "flows.csv");
    assert_eq!(
        (audit["rows"].as_u64(), audit["schema"].as_str(), audit["files"][0]["name"].as_str()),
        (Some(2000), Some("unsw-nb15"), Some("flows.csv"))
    );
    assert_eq!(audit["checks"].as_array().unwrap().len(), 15);
    let columns = audit["columns"].as_array().unwrap();
    assert_eq!(columns.iter().filter(|column| column["feature"] == true).count(), 42);
    // generated flows have the TTLs of UNSW-NB15, whose ROC-AUC is no larger than that of others
    let leaks = check(&audit, "leaks");
    assert_eq!(leaks["verdict"], "warn");
    let leaks: Vec<&str> = leaks["findings"].as_array().unwrap().iter().map(|leak| leak["column"].as_str().unwrap()).collect();
    assert!(leaks.contains(&"sttl") && leaks.contains(&"dttl") && leaks.len() < 9, "{leaks:?}");
}

#[test]
fn a_schema_is_named_or_found() {
    let bench = Bench::new();
    bench.file(
        "own.csv",
        (0..60).fold("when,bytes,verdict,flag\n".to_owned(), |csv, row| {
            let flag = u8::from(row % 3 == 0);
            csv + &format!("{},{},{},{flag}\n", 1_500_000_000 + row * row, row * 37 % 50, ["benign", "scan"][row % 2])
        }),
    );
    let found = json(&bench, "own.csv");
    assert_eq!((check(&found, "times")["verdict"].as_str(), found["files"][0]["attacks"].as_u64()), (Some("pass"), Some(30)));
    bench.file(
        "own.yaml",
        "name: own\ncolumns: [{ name: when, kind: numeric }, { name: bytes, kind: numeric }, { name: verdict, kind: label }]\n\
         labels: { benign: [benign], attack: any }\n",
    );
    let named = json(&bench, "own.csv --schema own.yaml");
    assert_eq!(check(&named, "times")["findings"][0]["column"], "when");
    let flagged = json(&bench, "own.csv --label flag");
    assert_eq!(flagged["files"][0]["attacks"].as_u64(), Some(20));
    let mut command = bench.command("audit --json --schema own.yaml -");
    let file = std::fs::File::open(bench.path("own.csv")).unwrap();
    let mut stdin: Json = serde_json::from_slice(&command.stdin(file).output().unwrap().stdout).unwrap();
    stdin["files"][0]["name"] = "own.csv".into();
    assert_eq!(stdin["files"], named["files"]);
}

#[test]
fn the_encoding_of_text_files_can_be_named() {
    let bench = Bench::new();
    let flows = bench.flows();
    let service = column(&flows, "service");
    let named = edit(&flows, |line, cells| {
        if line == 4 {
            cells[service] = "caf#".to_owned();
        }
    });
    let latin: Vec<u8> = named.bytes().map(|byte| if byte == b'#' { 0xe9 } else { byte }).collect();
    bench.file("latin.csv", latin);
    let unreadable = |args: &str| json(&bench, args)["files"][0]["unreadable"].as_u64();
    assert_eq!((unreadable("latin.csv"), unreadable("latin.csv --encoding windows-1252")), (Some(1), Some(0)));
}

#[test]
fn labels_may_be_absent() {
    let bench = Bench::new();
    let flows = bench.flows();
    let label = column(&flows, "label");
    bench.file(
        "blank.csv",
        edit(&flows, |line, cells| {
            if line > 0 {
                cells[label].clear();
            }
        }),
    );
    bench.file("none.csv", edit(&flows, |_, cells| drop(cells.remove(label))));
    for (name, why) in [("blank.csv", "no row has a label"), ("none.csv", "the files have no column of labels")] {
        let audit = json(&bench, name);
        assert_eq!(
            (check(&audit, "leaks")["verdict"].as_str(), check(&audit, "leaks")["found"].as_str()),
            (Some("skipped"), Some(why))
        );
        assert_eq!(
            (check(&audit, "duplicates")["verdict"].as_str(), audit["files"][0]["unlabelled"].as_u64()),
            (Some("warn"), Some(300))
        );
    }
}

#[test]
fn what_cannot_be_audited_is_an_error() {
    let bench = Bench::new();
    let flows = bench.flows();
    let (dur, label) = (column(&flows, "dur"), column(&flows, "label"));
    bench.file("few.csv", edit(&flows, |_, cells| drop(cells.remove(dur))));
    bench.file(
        "words.csv",
        edit(&flows, |line, cells| {
            if line == 9 {
                cells[label] = "maybe".to_owned();
            }
        }),
    );
    bench.file(
        "bad.csv",
        edit(&flows, |line, cells| {
            if line > 100 {
                cells[dur] = "a while".to_owned();
            }
        }),
    );
    let all = [
        "audit none.csv",
        "audit few.csv --schema unsw-nb15",
        "audit words.csv",
        "audit bad.csv --schema unsw-nb15",
        "audit -",
        "audit flows.csv --schema unsw-nb51",
        "audit flows.csv --schema unsw-nb15 --label label",
    ]
    .map(|args| bench.fails(args));
    insta::assert_snapshot!(all.join("\n"));
}
