//! Why rows are alerts, by the arguments of `predict --reasons`.

use serde_json::Value as Json;

use crate::bench::Bench;

#[test]
fn reasons_change_no_verdict_and_are_refused_where_there_are_none() {
    let bench = Bench::trained();
    let predict = "predict --run run --data flows.csv";
    let plain = bench.prints(predict);
    let (explained, told) = bench.prints_and_tells(&format!("{predict} --reasons all"));
    let without = |line: &str| line.splitn(4, ',').take(3).collect::<Vec<_>>().join(",");
    assert_eq!(explained.lines().map(without).collect::<Vec<_>>(), plain.lines().collect::<Vec<_>>());
    assert!(told.contains("reasons: rows are compared with "), "{told}");
    let lines = bench.prints(&format!("{predict} --reasons alerts --threshold 0.5 --format jsonl"));
    for verdict in lines.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()) {
        let reasons = verdict["reasons"].as_array().unwrap();
        assert!(verdict["verdict"] == "attack" || reasons.is_empty(), "{verdict}");
        for feature in reasons.iter().flat_map(|reason| reason["features"].as_array().unwrap()) {
            assert!(feature["name"].is_string() && feature["value"] != feature["instead"], "{feature}");
        }
    }
    bench.prints("predict --run run --data flows.csv --reasons all --format parquet --output reasons.parquet");
    let errors =
        ["--reasons some", "--reasons all --score anomaly"].map(|arguments| bench.fails(&format!("{predict} {arguments}")));
    assert!(errors.iter().all(|error| error.contains("exit code 2")), "{errors:?}");
    assert!(errors[1].contains("the column `surprising`"), "{}", errors[1]);
}
