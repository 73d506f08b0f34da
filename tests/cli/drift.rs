//! What `predict` says of rows that are not like those of training, by its arguments.

use serde_json::Value as Json;

use crate::bench::{Bench, filled};

fn json(bench: &Bench, name: &str) -> Json {
    serde_json::from_str(&bench.read(name)).unwrap()
}

#[test]
fn drift_is_told_and_written_and_changes_no_verdict() {
    let bench = Bench::trained();
    let plain = bench.prints("predict --run run --data flows.csv");
    let (verdicts, told) = bench.prints_and_tells("predict --run run --data flows.csv --drift drift.json");
    assert_eq!(verdicts, plain);
    assert!(told.contains("drift: none of 42 features has moved") && !told.contains("should not be trusted"), "{told}");
    let drift = json(&bench, "drift.json");
    assert_eq!(drift["rows"], 300);
    let features = drift["features"].as_array().unwrap();
    assert!(features.len() == 42 && features.iter().all(|feature| feature["training"]["psi"].is_f64()), "{drift}");
    assert!(drift["warnings"].as_array().unwrap().is_empty() && drift["p_values"].is_null());

    bench.file("other.csv", filled(&bench.read("flows.csv"), "proto", "other"));
    let (_, told) = bench.prints_and_tells("predict --run run --data other.csv --output verdicts.csv --drift drift.json");
    assert!(told.contains("drift: 1 of 42 features has moved (PSI above 0.25: `proto`"), "{told}");
    assert!(told.contains("warning: other.csv: its verdicts should not be trusted: `proto` is missing in 0 %"), "{told}");
    assert_eq!(json(&bench, "drift.json")["features"][0]["change"], "moved");
    let (_, told) = bench.prints_and_tells("evaluate --run run --data other.csv");
    assert!(told.contains("drift: 1 of 42 features has moved"), "{told}");
}

#[test]
fn a_run_of_before_tells_no_drift_and_writes_null() {
    let bench = Bench::trained();
    let name = "run/manifest-finetune.json";
    let mut manifest = json(&bench, name);
    manifest["outputs"].as_object_mut().unwrap().remove("profile.json").unwrap();
    bench.file(name, manifest.to_string());
    let (_, told) = bench.prints_and_tells("predict --run run --data flows.csv --drift drift.json");
    assert_eq!(
        told.matches("drift: not watched, since the run has no profile.json: `finetune` leaves one now").count(),
        1,
        "{told}"
    );
    assert_eq!(bench.read("drift.json"), "null\n");
}

#[test]
fn drift_is_not_written_over_what_is_read_or_written() {
    let bench = Bench::trained();
    let all = [
        "predict --run run --data flows.csv --drift flows.csv",
        "predict --run run --data flows.csv --drift run/profile.json",
        "predict --run run --data flows.csv --output out --drift out",
    ]
    .map(|args| bench.fails(args));
    insta::assert_snapshot!(all.join("\n"), @r"
    exit code 2
    error: `--drift flows.csv` is the file of `--data flows.csv`, which is only read: write to another file

    exit code 2
    error: `--drift run/profile.json` is `profile.json` of the run folder run, which is written by its stages alone: write to another file

    exit code 2
    error: `--drift` names a file of `--output` or `--rejects`, too
    ");
}
