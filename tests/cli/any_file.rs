//! Flows as people have them: several files, other formats, bad rows, labels in words.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value as Json;

use crate::bench::{Bench, column, edit, small};

const PREDICT: &str = "predict --run run --data flows.csv";

#[test]
fn verdicts_are_the_same_however_the_flows_are_written() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let wanted = bench.prints(PREDICT);
    let objects: Vec<String> = flows
        .lines()
        .skip(1)
        .map(|row| {
            let cells = flows.lines().next().unwrap().split(',').zip(row.split(','));
            let cells = cells.map(|(name, cell)| (name.to_owned(), Json::from(cell)));
            Json::Object(cells.collect()).to_string()
        })
        .collect();
    let zeek = format!(
        "#separator \\x09\n#empty_field\t(empty)\n#unset_field\t-\n#fields\t{}\n{}#close\n",
        flows.lines().next().unwrap().replace(',', "\t"),
        flows.lines().skip(1).fold(String::new(), |all, line| all + &line.replace(',', "\t") + "\n")
    );
    bench
        .file("semicolons.csv", flows.replace(',', ";"))
        .file("flows.json", objects.join("\n"))
        .file("conn.log", zeek)
        .file("comment.csv", format!("# made by us\n{flows}"));
    for file in ["semicolons.csv", "flows.json", "conn.log", "comment.csv"] {
        assert_eq!(bench.prints(&format!("predict --run run --data {file}")), wanted, "{file}");
    }
    // standard input
    let mut command = bench.command("predict --run run --data -").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    command.stdin.take().unwrap().write_all(flows.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(command.wait_with_output().unwrap().stdout).unwrap(), wanted);
}

#[test]
fn a_missing_number_stops_nobody() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let sbytes = column(&flows, "sbytes");
    let mut all = Vec::new();
    for cell in ["", "-", "NaN", "Infinity", "-inf", "NA"] {
        bench.file(
            "gaps.csv",
            edit(&flows, |line, cells| {
                if line % 50 == 7 {
                    cell.clone_into(&mut cells[sbytes]);
                }
            }),
        );
        all.push(bench.prints("predict --run run --data gaps.csv"));
    }
    assert!(all.iter().all(|verdicts| *verdicts == all[0] && verdicts.lines().count() == 301));
    bench.file(
        "gaps.csv",
        edit(&flows, |line, cells| {
            if line % 5 == 2 {
                cells[sbytes].clear();
            }
        }),
    );
    for stage in ["pretrain", "encode", "finetune"] {
        bench.prints(&small(stage, "gaps", "--set data.train=gaps.csv"));
    }
    assert_eq!(bench.prints("predict --run gaps --data gaps.csv").lines().count(), 301);
}

#[test]
fn an_infinite_number_is_the_largest_one_where_the_schema_clips_it() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let rate = column(&flows, "rate");
    let with = |cell: &str| {
        edit(&flows, |line, cells| {
            if line % 50 == 7 {
                cell.clone_into(&mut cells[rate]);
            }
        })
    };
    bench
        .file("clip.yaml", format!("infinite: clip\n{}", include_str!("../../configs/schemas/unsw-nb15.yaml")))
        .file("infinite.csv", with("Infinity"))
        .file("large.csv", with("1e29"))
        .file("gaps.csv", with(""));
    for stage in ["pretrain", "finetune"] {
        bench.prints(&small(stage, "clipped", "--set data.train=infinite.csv --set data.schema=clip.yaml"));
    }
    let [infinite, large, gaps] =
        ["infinite", "large", "gaps"].map(|name| bench.prints(&format!("predict --run clipped --data {name}.csv")));
    assert_eq!(infinite, large);
    assert_ne!(infinite, gaps);
}

#[test]
fn several_files_are_one_set_of_flows() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let lines: Vec<&str> = flows.lines().collect();
    std::fs::create_dir(bench.path("days")).unwrap();
    bench
        .file("days/b.csv", format!("{}\n{}\n", lines[0], lines[101..].join("\n")))
        .file("days/a.csv", lines[..101].join("\n") + "\n");
    let wanted = bench.prints(PREDICT);
    for data in ["days", "days/*.csv", "days/a.csv days/b.csv"] {
        assert_eq!(bench.prints(&format!("predict --run run --data {data}")), wanted, "{data}");
    }
    let named = bench.prints("predict --run run --data days --id row");
    assert!(named.lines().nth(101).unwrap().starts_with("days/b.csv:1,"), "{named}");
    assert!(bench.fails("predict --run run --data days --output days/a.csv").contains("exit code 2"));
    // a folder is known by what it holds
    bench.prints(&small("finetune", "other", "--set data.train=days --set finetune.from=scratch"));
    bench.file("days/a.csv", lines[..100].join("\n") + "\n");
    let error = bench.fails("query --run other --budget 3 --strategy uncertainty");
    assert!(error.contains("exit code 4") && error.contains("data.train"), "{error}");
}

#[test]
fn rows_that_cannot_be_read_are_left_out_where_that_is_asked_for() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let (dur, spkts) = (column(&flows, "dur"), column(&flows, "spkts"));
    let bad = edit(&flows, |line, cells| match line {
        7 => cells[dur] = "seven".to_owned(),
        9 => (cells[dur], cells[spkts]) = ("nine".to_owned(), "many".to_owned()),
        _ => {}
    });
    bench.file("bad.csv", bad);
    let error = bench.fails("predict --run run --data bad.csv");
    assert!(error.contains("3 cells in 2 of 300 rows cannot be read"), "{error}");
    assert!(error.contains("column \"dur\": 2 times") && error.contains("line 8: cannot read \"seven\" as a number"), "{error}");
    let skip = "--on-bad-row skip --rejects rejects.csv";
    let (verdicts, told) = bench.prints_and_tells(&format!("predict --run run --data bad.csv {skip}"));
    assert!(told.contains("300 rows in = 298 rows out + 2 rejected"), "{told}");
    let all = bench.prints(PREDICT);
    let kept: Vec<&str> = all.lines().enumerate().filter(|(line, _)| ![7, 9].contains(line)).map(|(_, line)| line).collect();
    assert_eq!(verdicts.lines().collect::<Vec<_>>(), kept);
    let rejects = bench.read("rejects.csv");
    assert_eq!(rejects.lines().next(), Some("file,row,column,value,reason"));
    assert!(rejects.contains("bad.csv,line 8,dur,seven,\"cannot read") && rejects.lines().count() == 4, "{rejects}");
    assert!(
        bench
            .fails(&format!("predict --run run --data bad.csv {skip} --max-bad-rows 0.001 --output v.csv"))
            .contains("max_bad_rows")
    );
    for (args, wanted) in [
        ("--on-bad-row skip", "needs a file for the rows that are skipped: `--rejects FILE`"),
        ("--rejects rejects.csv", "`--on-bad-row skip`"),
        ("--on-bad-row skip --rejects bad.csv", "write to another file"),
    ] {
        let error = bench.fails(&format!("predict --run run --data bad.csv {args}"));
        assert!(error.starts_with("exit code 2") && error.contains(wanted), "{error}");
    }
    let stage =
        small("finetune", "bad", "--set data.train=bad.csv --set finetune.from=scratch --on-bad-row skip --rejects bad.csv");
    let error = bench.fails(&stage);
    assert!(error.starts_with("exit code 2\nerror: `--rejects bad.csv` is the file of `data.train: bad.csv`"), "{error}");
    // stages do the same
    let (_, told) = bench.prints_and_tells(&small(
        "finetune",
        "bad",
        &format!("--set data.train=bad.csv --set finetune.from=scratch {skip}"),
    ));
    assert!(told.contains("300 rows = 298 rows read + 2 rows that cannot be"), "{told}");
    assert_eq!(bench.read("rejects.csv").lines().count(), 4);
}

#[test]
fn a_threshold_is_used_or_said() {
    let bench = Bench::trained();
    let attacks = |args: &str| bench.prints(&format!("{PREDICT} {args}")).matches(",attack").count();
    assert_eq!((attacks("--threshold 0"), attacks("--threshold 1")), (300, 0));
    let config = bench.read("run/config.yaml");
    bench.file("run/config.yaml", config.replace("threshold: 0.5", "threshold: 0.0"));
    let (verdicts, told) = bench.prints_and_tells(PREDICT);
    assert_eq!(verdicts.matches(",attack").count(), 300);
    assert!(told.contains("threshold 0 from config.yaml of the run folder; 0.5 when the classifier was trained"), "{told}");
    let metrics: Json = serde_json::from_str(&bench.prints("evaluate --run run --data flows.csv --json --threshold 0")).unwrap();
    assert_eq!(metrics["recall"], 1.0);
}

#[test]
fn verdicts_come_in_the_format_that_is_asked_for() {
    use nids_flows::{ReadOptions, Schema};

    let bench = Bench::trained();
    let csv = bench.prints(&format!("{PREDICT} --columns proto,dur"));
    assert!(csv.starts_with("id,probability,verdict,proto,dur\n"), "{csv}");
    let rows = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    let wanted: Vec<Vec<String>> = csv.lines().skip(1).map(rows).collect();
    let objects = bench.prints(&format!("{PREDICT} --columns proto,dur --format jsonl"));
    for (object, wanted) in objects.lines().zip(&wanted) {
        let object: Json = serde_json::from_str(object).unwrap();
        assert_eq!(object["id"], wanted[0].as_str());
        assert_eq!(object["probability"].as_f64(), wanted[1].parse().ok());
        assert_eq!((&object["verdict"], &object["proto"]), (&Json::from(wanted[2].as_str()), &Json::from(wanted[3].as_str())));
    }
    // the readers of flows read it back
    let schema = "name: verdicts\nid: id\ncolumns: [{ name: id, kind: ignored }, \
        { name: verdict, kind: categorical }, { name: dur, kind: numeric }]";
    let schema = Schema::parse("verdicts", schema).unwrap();
    let read = |file: &str| {
        bench.prints(&format!("{PREDICT} --columns proto,dur --output {file}"));
        nids_flows::read(&bench.path(file), &schema, &ReadOptions::default()).unwrap().fingerprint()
    };
    let [csv, parquet, arrow] = ["verdicts.csv", "verdicts.parquet", "verdicts.arrow"].map(read);
    assert_eq!((&parquet, &arrow), (&csv, &csv));
    let error = bench.fails(&format!("{PREDICT} --columns prot"));
    assert!(error.contains("no column \"prot\"") && error.contains("did you mean \"proto\"?"), "{error}");
    assert!(bench.fails(&format!("{PREDICT} --columns ID")).starts_with("exit code 2"));
}

#[test]
fn pretraining_needs_no_labels() {
    let bench = Bench::new();
    bench.file("flows.csv", bench.prints("synth --rows 300 --seed 3"));
    let flows = bench.read("flows.csv");
    let label = column(&flows, "label");
    let from = |file: &str, run: &str| small("pretrain", run, &format!("--set data.train=null --set data.unlabelled={file}"));
    bench.prints(&from("flows.csv", "one"));
    let odd = edit(&flows, |line, cells| {
        if line > 0 {
            cells[label] = "whatever".to_owned();
        }
    });
    bench.file("flows.csv", odd);
    bench.prints(&from("flows.csv", "two"));
    bench.file("flows.csv", &flows);
    assert!(bench.bytes("one/pretrained.safetensors") == bench.bytes("two/pretrained.safetensors"), "labels are not looked at");
    bench.prints(&small("pretrain", "four", ""));
    let finetune = small("finetune", "one", "--set data.train=null --set data.unlabelled=flows.csv");
    assert!(bench.fails(&finetune).contains("labels are needed here, and `data.train` is `null`"));
    // labels may come later, but other unlabelled rows are another encoder
    let with_labels = |more: &str| small("finetune", "one", &format!("--set data.train=flows.csv {more}"));
    bench.prints(&with_labels("--set data.unlabelled=flows.csv"));
    bench.prints("evaluate --run one --data flows.csv");
    let error = bench.fails(&with_labels("--set tokeniser.bins=5"));
    assert!(error.contains("made by another config: `tokeniser.bins`"), "{error}");
    let generated = bench.fails(&small("finetune", "four", "--set data.train=flows.csv"));
    assert!(generated.contains("`data.train` was null and is \"flows.csv\""), "{generated}");
    // of one class: pretraining goes, and says what does not
    bench.file(
        "benign.csv",
        edit(&flows, |line, cells| {
            if line > 0 {
                cells[label] = "0".to_owned();
            }
        }),
    );
    let (_, told) = bench.prints_and_tells(&small("pretrain", "three", "--set data.train=benign.csv"));
    assert!(told.contains("none of 300 rows is an attack: pretraining can learn from them, a classifier cannot"), "{told}");
}

#[test]
fn labels_in_words_are_understood_or_named() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let label = column(&flows, "label");
    let worded = |attack: &str, benign: &str| {
        edit(&flows, |line, cells| {
            if line > 0 {
                cells[label] = if cells[label] == "1" { attack } else { benign }.to_owned();
            }
        })
    };
    bench.file("words.csv", worded("Malicious", "BENIGN")).file("odd.csv", worded("DoS Hulk", "BENIGN"));
    let evaluate = |file: &str| format!("evaluate --run run --data {file} --json");
    assert_eq!(bench.prints(&evaluate("words.csv")), bench.prints(&evaluate("flows.csv")));
    let error = bench.fails(&evaluate("odd.csv"));
    assert!(
        error.contains("column \"label\"") && error.contains("\"DoS Hulk\"") && error.contains("labels: { benign"),
        "{error}"
    );
}
