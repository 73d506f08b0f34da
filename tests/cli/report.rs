//! One page about a trained run.

use crate::bench::{Bench, on_flows, small};

#[test]
fn a_report_is_one_page_and_the_same_again() {
    let bench = Bench::trained();
    let told = bench.prints_and_tells("report --run run").1;
    assert!(told.contains("report: run/report.html"), "{told}");
    let page = bench.read("run/report.html");
    for wanted in [
        "Can it be trusted?",
        "0 of 60 rows held out equal a training row",
        "Recall by category",
        "Training: pretrain",
        "Training: finetune",
        "What the autoencoder rebuilds",
        "Where rows lie",
        "240 to train on, 60 held out",
        "data.train",
    ] {
        assert!(page.contains(wanted), "no {wanted:?}");
    }
    bench.prints("report --run run");
    assert!(page == bench.read("run/report.html"));
    // what it says is what `evaluate` says of the rows held out
    let held_out = bench.metrics("run", "finetune");
    let accuracy = held_out.last().unwrap()["validation"]["accuracy"].as_f64().unwrap();
    assert!(page.contains(&format!("<td>accuracy</td><td class=\"number\">{accuracy:.4}</td>")), "{accuracy}");
    let counts = |class: &str| -> Vec<u64> {
        let row = page.split(&format!("<td>{class}</td>")).nth(1).unwrap().split("</tr>").next().unwrap();
        row.split('>').filter_map(|cell| cell.split('<').next()?.parse().ok()).collect()
    };
    let ([benign, false_alarms], [missed, found]) =
        (counts("benign")[..].try_into().unwrap(), counts("attacks")[..].try_into().unwrap());
    let [precision, recall] = ["precision", "recall"].map(|name| held_out.last().unwrap()["validation"][name].as_f64().unwrap());
    let ratio = |n: u64, of: u64| n as f64 / of as f64;
    assert_eq!(benign + false_alarms + missed + found, 60);
    assert!(
        (ratio(found, found + false_alarms) - precision).abs() < 1e-9 && (ratio(found, found + missed) - recall).abs() < 1e-9
    );
    // whoever calibrates on these rows is told so
    assert!(!page.contains("calibrated on these very rows"));
    bench.prints("calibrate --run run");
    bench.prints("report --run run");
    assert!(bench.read("run/report.html").contains("calibrated on these very rows"));
    // heads alone have no steps, and see components
    std::fs::remove_file(bench.path("run/calibration.json")).unwrap();
    bench.prints(&on_flows("finetune", "--set finetune.from=features"));
    bench.prints("report --run run");
    let page = bench.read("run/report.html");
    assert!(!page.contains("Training: finetune") && page.contains("Where rows lie") && !page.contains("autoencoder rebuilds"));
}

#[test]
fn a_run_is_reported_when_it_has_been_trained_and_no_older_page_stays() {
    let bench = Bench::new();
    bench.flows();
    let (metrics, told) = bench.prints_and_tells(&on_flows("finetune", "--set finetune.from=features"));
    assert!(metrics.contains("balanced accuracy") && told.contains("report: run/report.html"), "{told}");
    assert!(!told.contains("removed when"), "{told}");
    let page = bench.read("run/report.html");
    bench.prints("report --run run");
    assert!(page == bench.read("run/report.html"));
    let (_, told) = bench.prints_and_tells(&on_flows("finetune", "--set finetune.from=features --set finetune.refit=all"));
    assert!(told.contains("finetune: no report.html: `finetune.refit: all`"), "{told}");
    assert!(told.contains("run/report.html: about what `finetune` replaces: removed when that has finished"), "{told}");
    assert!(!bench.path("run/report.html").exists());
}

#[test]
fn rows_that_memory_should_not_hold_are_not_read_for_a_page_that_nobody_asked_for() {
    let bench = Bench::trained();
    let (_, told) = bench.prints_and_tells(&on_flows("finetune", "--set data.cache=cache"));
    assert!(told.contains("finetune: no report.html: a page holds all labelled rows in memory"), "{told}");
    assert!(bench.path("cache").is_dir() && !bench.path("run/report.html").exists());
    bench.prints("report --run run");
    assert!(bench.read("run/report.html").contains("rows held out"));
}

#[test]
fn a_model_card_is_written_beside_the_page_and_over_nothing_of_the_run() {
    let bench = Bench::trained();
    bench.prints("report --run run --card README.md");
    let card = bench.read("README.md");
    assert!(card.starts_with("---\nlibrary_name: nids-mixer\n") && card.contains("\n## How good it is\n"), "{card}");
    assert!(card.contains("model.dim: 8") || card.contains("dim: 8"), "{card}");
    assert!(bench.fails("report --run run --card run/model.safetensors").starts_with("exit code 2"));
}

#[test]
fn a_page_about_a_file_is_written_beside_its_metrics() {
    let bench = Bench::trained();
    bench.prints("synth --rows 200 --seed 5 --output new.csv");
    let line = "evaluate --run run --data new.csv";
    let (printed, told) = bench.prints_and_tells(&format!("{line} --report page.html --json"));
    assert_eq!(printed, bench.prints(&format!("{line} --json")));
    assert!(told.contains("report: page.html"), "{told}");
    let page = bench.read("page.html");
    let accuracy = serde_json::from_str::<serde_json::Value>(&printed).unwrap()["accuracy"].as_f64().unwrap();
    for wanted in ["rows of new.csv", "200 evaluated", &format!("<td>accuracy</td><td class=\"number\">{accuracy:.4}</td>")] {
        assert!(page.contains(wanted), "no {wanted:?}");
    }
    bench.prints(&format!("{line} --report page.html"));
    assert!(page == bench.read("page.html"));
    assert!(page.contains("Drift since training</td><td>") && page.contains("How the rows differ"), "{page}");
    let errors = ["new.csv", "run/report.html", "run/model.safetensors"]
        .map(|path| bench.fails(&format!("{line} --report {path}")).replace("written by its stages alone", "its own"));
    insta::assert_snapshot!(errors.join("\n"), @r"
    exit code 2
    error: `--report new.csv` is the file of `--data new.csv`, which is only read: write to another file

    exit code 2
    error: `--report run/report.html` is `report.html` of the run folder run, which is its own: write to another file

    exit code 2
    error: `--report run/model.safetensors` is `model.safetensors` of the run folder run, which is its own: write to another file
    ");
}

#[test]
fn runs_are_compared_by_the_labels_that_they_had() {
    let bench = Bench::new();
    bench.flows();
    for (run, settings) in [("run", ""), ("few", "--set finetune.labels=40"), ("other", "--set seed=5")] {
        let line = on_flows("finetune", &format!("--set finetune.from=features {settings}"));
        bench.prints(&line.replace("--run run", &format!("--run {run}")));
    }
    bench.prints("report --run run --compare few other");
    let page = bench.read("run/report.html");
    for (run, labels, rows) in [("run", "240", "the same"), ("few", "40", "the same"), ("other", "–", "other rows held out")] {
        let row = page.split(&format!("<tr><td>{run}</td>")).nth(1).unwrap().split("</tr>").next().unwrap();
        assert!(row.contains(&format!(">{labels}</td>")) && row.contains(rows), "{run}: {row}");
    }
    assert!(page.contains("Metrics by labels"));
}

#[test]
fn a_run_is_trained_without_a_feature() {
    let bench = Bench::trained();
    let with: serde_json::Value = serde_json::from_str(&bench.prints("evaluate --run run --data flows.csv --json")).unwrap();
    let line = on_flows("finetune", "--set finetune.from=features --without sttl,dttl").replace("--run run", "--run less");
    bench.prints(&line);
    assert!(bench.read("less/config.yaml").contains("sttl"), "{}", bench.read("less/config.yaml"));
    // what is left out may be anything, or may not be there
    let flows = bench.read("flows.csv");
    let place = flows.lines().next().unwrap().split(',').position(|name| name == "sttl").unwrap();
    let without: Vec<String> = flows
        .lines()
        .map(|line| {
            line.split(',').enumerate().filter(|(at, _)| *at != place).map(|(_, cell)| cell).collect::<Vec<_>>().join(",")
        })
        .collect();
    bench.file("less.csv", without.join("\n"));
    let verdicts = bench.prints("predict --run less --data flows.csv");
    assert_eq!(verdicts, bench.prints("predict --run less --data less.csv"));
    let less: serde_json::Value = serde_json::from_str(&bench.prints("evaluate --run less --data flows.csv --json")).unwrap();
    assert!(less["roc_auc"] != with["roc_auc"] && less["different_rows"].as_u64() <= with["different_rows"].as_u64());
    let errors = [
        bench.fails(&on_flows("finetune", "--set finetune.from=features --without stl,label,sttl")),
        bench.fails(&on_flows("finetune", "--without sttl")),
        bench.fails(&small("pretrain", "generated", "--without sttl")),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r#"
    exit code 2
    error: `data.without`: no column `stl` in the schema `unsw-nb15`; did you mean `sttl`?; `label` is no feature, and models do not see it

    exit code 4
    error: run/pretrained.safetensors: made by another config: `data.without` was unset and is ["sttl"]: run `nids-mixer pretrain --config FILE --run run` first, or keep its settings

    exit code 2
    error: --set data.without=[sttl]: `data.without`: generated flows have all features of their schema: name files in `data.train`, or leave it out
    "#);
}

#[test]
fn rows_that_repeat_or_contradict_one_another_are_warnings() {
    let bench = Bench::new();
    let flows = bench.flows();
    let mut lines: Vec<String> = flows.lines().map(str::to_owned).collect();
    let other = |line: &str| match line.strip_suffix(",0") {
        Some(rest) => format!("{},Exploits,1", rest.rsplit_once(',').unwrap().0),
        None => line.to_owned(),
    };
    let again: Vec<String> = lines[1..].iter().map(|line| other(line)).collect();
    lines.extend(again);
    bench.file("flows.csv", lines.join("\n"));
    bench.prints(&on_flows("finetune", "--set finetune.from=features"));
    bench.prints("report --run run");
    let page = bench.read("run/report.html");
    for wanted in ["Duplicates</td><td>100.0 % of the rows held out", "cap the accuracy at 0.", "warnings.</strong>"] {
        assert!(page.contains(wanted), "no {wanted:?}");
    }
}

#[test]
fn what_cannot_be_reported_is_said() {
    let bench = Bench::trained();
    let mut errors =
        vec![bench.fails("report --run nowhere"), bench.fails("predict --run run --data flows.csv --output run/report.html")];
    let flows = bench.read("flows.csv");
    bench.file("flows.csv", format!("{flows}{}\n", flows.lines().nth(1).unwrap()));
    errors.push(bench.fails("report --run run"));
    bench.file("flows.csv", flows);
    bench.prints(&on_flows("finetune", "--set finetune.refit=all"));
    errors.push(bench.fails("report --run run"));
    assert!(!bench.path("run/report.html").exists(), "a page about the classifier before");
    insta::assert_snapshot!(errors.join("\n"), @r"
    exit code 4
    error: nowhere: no such run folder: run `nids-mixer pretrain --config FILE --run nowhere` first

    exit code 2
    error: `--output run/report.html` is `report.html` of the run folder run, which is written by its stages alone: write to another file

    exit code 4
    error: run: stale: the file behind `data.train` has changed since `finetune` ran: run `nids-mixer finetune --config FILE --run run` first

    exit code 2
    error: `finetune.refit: all`: the classifier has learned the rows held out, so that they say nothing of it: name labelled rows from elsewhere where the command takes `--data`, or train without a refit
    ");
}
