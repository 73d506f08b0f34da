//! What is unlike benign flows, by the arguments of `--score`.

use serde_json::Value as Json;

use crate::bench::{Bench, on_flows, small};

const BENIGN: &str = "--set pretrain.rows=benign --set pretrain.objective.mae.target=bins --set data.unlabelled=null \
    --set data.validation_fraction=0.5";

fn pretrained() -> Bench {
    let bench = Bench::new();
    bench.flows();
    bench.prints(&on_flows("pretrain", BENIGN));
    bench
}

#[test]
fn anomalies_are_had_before_a_classifier_and_both_after_it() {
    let bench = pretrained();
    let predict = "predict --run run --data flows.csv --score anomaly";
    let (verdicts, told) = bench.prints_and_tells(predict);
    assert!(verdicts.starts_with("id,score,verdict,surprising,p_value\n") && verdicts.lines().count() == 301);
    assert!(told.contains("no anomaly.json") && told.contains("anomalies\n") && told.contains("drift: not watched"), "{told}");
    assert!(bench.fails("predict --run run --data flows.csv --score both").contains("exit code 4"));

    bench.prints("calibrate --run run --score anomaly");
    let (again, told) = bench.prints_and_tells(predict);
    assert!(again == verdicts && !told.contains("no anomaly.json"), "{told}");

    bench.prints(&on_flows("finetune", BENIGN));
    let kept: Json = serde_json::from_str(&bench.prints("calibrate --run run --score both --json")).unwrap();
    assert!(kept["compared_fused"].as_u64() < kept["compared"].as_u64() && kept["are_benign"] == true, "{kept}");
    let (verdicts, told) = bench.prints_and_tells("predict --run run --data flows.csv --score both");
    assert!(verdicts.starts_with("id,probability,score,verdict,surprising,p_value\n"));
    assert!(told.contains("attacks\n") && told.contains("drift: ") && !told.contains("not watched"), "{told}");
    let found: Json = serde_json::from_str(&bench.prints("evaluate --run run --data flows.csv --score both --json")).unwrap();
    for name in ["threshold", "fpr", "recall_by_category", "roc_auc", "new_rows"] {
        assert!(!found[name].is_null(), "{name}: {found}");
    }
    let (_, told) = bench.prints_and_tells("calibrate --run run --score anomaly");
    assert!(told.contains("what was kept for `--score both` is replaced"), "{told}");
    assert!(found["ece"].is_null() && found["without_duplicates"]["log_loss"].is_null(), "{found}");
}

#[test]
fn what_a_score_has_no_use_for_is_refused() {
    let bench = pretrained();
    for stage in ["pretrain", "finetune"] {
        bench.prints(&small(stage, "few", "--set data.train=flows.csv"));
    }
    let errors = [
        "calibrate --run run --score both --fpr 0.01",
        "calibrate --run run --score anomaly --scaling temperature",
        "evaluate --run run --data flows.csv --score anomaly --report page.html",
        "predict --run run --data flows.csv --score anomaly --fpr 0.01",
        "calibrate --run few --score both",
    ]
    .map(|args| bench.fails(args));
    assert!(
        !bench.path("few/anomaly.json").exists() && !bench.path("page.html").exists() && !bench.path("run/anomaly.json").exists()
    );
    insta::assert_snapshot!(errors.join("\n"), @r"
    exit code 2
    error: `calibrate --score anomaly` and `--score both` keep benign rows, and no threshold: pass it to `predict` and `evaluate`

    exit code 2
    error: `--scaling` is for `--score attack` alone: other scores are no probabilities

    exit code 2
    error: `--report` writes a page about the classifier's probabilities: leave out `--score` or `--report`

    exit code 2
    error: 64 benign rows are held out, and a rate of false alarms of 1 % needs 299 of them to be certified at 95 %: allow a higher rate, or name a file with more benign rows in `nids-mixer calibrate --score anomaly --data FILE`

    exit code 2
    error: 14 benign rows are held out, and the tail of their scores needs 20: name a file with more benign rows in `nids-mixer calibrate --score both --data`
    ");
}
