//! `calibrate`, `adapt`, and what they change of `evaluate` and `predict`, by their arguments.

use serde_json::Value as Json;

use crate::bench::{Bench, on_flows};

fn json(bench: &Bench, args: &str) -> Json {
    serde_json::from_str(&bench.prints(args)).unwrap()
}

#[test]
fn a_run_is_calibrated_to_a_budget_and_says_so() {
    let bench = Bench::trained();
    let plain = bench.prints("predict --run run --data flows.csv");
    let before = json(&bench, "evaluate --run run --data flows.csv --json");
    for key in ["accuracy", "recall_at_fpr_1pct", "brier", "threshold", "fpr", "ece", "ece_debiased", "recall_by_category"] {
        assert!(!before[key].is_null(), "{key}: {before}");
    }
    assert_eq!(before["threshold"], 0.5);
    let fuzzers = &before["found_by_category"]["Fuzzers"];
    assert!(fuzzers["low"].as_f64() <= fuzzers["recall"].as_f64() && fuzzers["rows"].as_u64() > Some(0), "{before}");

    let report = json(&bench, "calibrate --run run --data flows.csv --alerts-per-day 100 --flows-per-day 1e3 --json");
    assert_eq!((report["fpr"].as_f64(), report["benign"].as_u64().map(|n| n > 100)), (Some(0.1), Some(true)), "{report}");
    let (text, told) = bench.prints_and_tells("evaluate --run run --data flows.csv --json");
    let after: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(after["threshold"], report["threshold"]);
    assert!(after["fpr"].as_f64() < Some(0.1), "{after}");
    assert!(told.contains("run/calibration.json: probabilities are calibrated"), "{told}");
    assert!(told.contains("of `calibrate`: at most 0.1 of benign flows are alarms"), "{told}");
    assert!(bench.prints("predict --run run --data flows.csv").starts_with("id,probability,verdict,p_value\n"));
    for format in ["jsonl", "parquet", "arrow"] {
        let written = format!("predict --run run --data flows.csv --format {format} --output verdicts.{format}");
        assert_eq!(bench.prints(&written), "");
    }
    let first = bench.read("verdicts.jsonl").lines().next().unwrap().to_owned();
    assert!(serde_json::from_str::<Json>(&first).unwrap()["p_value"].as_f64() > Some(0.0), "{first}");
    for table in ["calibrate --run run --fpr 0.2", "evaluate --run run --data flows.csv"] {
        assert!(bench.prints(table).contains("threshold"), "{table}");
    }
    // without the file, all is as before
    std::fs::remove_file(bench.path("run/calibration.json")).unwrap();
    assert_eq!(bench.prints("predict --run run --data flows.csv"), plain);
}

#[test]
fn a_budget_is_certified_or_refused_with_the_rows_that_it_needs() {
    let bench = Bench::trained();
    insta::assert_snapshot!(bench.fails("calibrate --run run --data flows.csv --fpr 0.001 --scaling none"), @r"
    exit code 2
    error: 128 benign rows are held out, and a rate of false alarms of 0.1 % needs 2995 of them to be certified at 95 %: allow a higher rate, or name a file with more benign rows in `nids-mixer calibrate --data FILE`
    ");
    let all = [
        "evaluate --run run --data flows.csv --fpr 0",
        "evaluate --run run --data flows.csv --fpr 0.1 --threshold 0.5",
        "predict --run run --data flows.csv --alerts-per-day 5",
        "predict --run run --data flows.csv --alerts-per-day 5 --flows-per-day 5",
    ]
    .map(|args| bench.fails(args));
    insta::assert_snapshot!(all.join("\n"), @r"
    exit code 2
    error: invalid value '0' for '--fpr <SHARE>': expected a number above 0 and below 1

    For more information, try '--help'.

    exit code 2
    error: the argument '--fpr <SHARE>' cannot be used with '--threshold <P>'

    Usage: nids-mixer evaluate --run <DIR> --data <FILE>... --fpr <SHARE>

    For more information, try '--help'.

    exit code 2
    error: the following required arguments were not provided:
      --flows-per-day <M>

    Usage: nids-mixer predict --run <DIR> --data <FILE>... --alerts-per-day <N> --flows-per-day <M>

    For more information, try '--help'.

    exit code 2
    error: `--alerts-per-day 5 --flows-per-day 5`: expected more than 0 alerts, and fewer than flows
    ");
    let found = json(&bench, "evaluate --run run --data flows.csv --fpr 0.3 --json");
    assert!(found["threshold"].as_f64() > Some(0.0) && !bench.path("run/calibration.json").exists());
    assert_ne!(found["threshold"], 0.5);
}

#[test]
fn a_run_is_adapted_and_the_adaptation_taken_back() {
    let bench = Bench::trained();
    let before = bench.prints("predict --run run --data flows.csv");
    let report = json(&bench, "adapt --run run --data flows.csv --json");
    assert_eq!(report["by"], "labels");
    assert!(report["after"]["log_loss"].as_f64() < report["before"]["log_loss"].as_f64(), "{report}");
    let (after, told) = bench.prints_and_tells("predict --run run --data flows.csv");
    assert!(after != before && told.contains("run/adaptation.json: probabilities are adapted to another network"), "{told}");
    let (_, told) = bench.prints_and_tells("adapt --run run --undo");
    assert_eq!((told.as_str(), bench.prints("predict --run run --data flows.csv") == before), ("adapt: taken back\n", true));
    let (_, told) = bench.prints_and_tells("adapt --run run --undo");
    assert_eq!(told, "adapt: nothing to take back\n");
    // a classifier that is trained again has not been adapted
    bench.prints("adapt --run run --data flows.csv");
    bench.prints(&on_flows("finetune", "--set finetune.seed=9"));
    assert!(bench.fails("predict --run run --data flows.csv").contains("run/adaptation.json: stale"));
    bench.prints("adapt --run run --undo");
    bench.prints("predict --run run --data flows.csv");
    assert!(bench.fails("adapt --run run").contains("--data <FILE>"));
}
