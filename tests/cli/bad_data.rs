//! Data files that are not what the schema says, or not enough to learn from.

use crate::bench::{Bench, column, edit, filled, on_flows, text};

#[test]
fn a_bad_file_is_named_with_its_line_and_column() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let [sbytes, state, label] = ["sbytes", "state", "label"].map(|name| column(&flows, name));
    let with = |at: usize, to: &str| {
        edit(&flows, |line, cells| {
            if line == 7 {
                to.clone_into(&mut cells[at]);
            }
        })
    };
    let header = flows.lines().next().unwrap();
    bench
        .file("missing-column.csv", edit(&flows, |_, cells| drop(cells.remove(sbytes))))
        .file("renamed-column.csv", flows.replacen("sbytes", "s_bytes", 1))
        .file("no-number.csv", with(sbytes, "1.5k"))
        .file("huge.csv", with(sbytes, "1e300"))
        .file("label.csv", with(label, "2"))
        .file(
            "short-row.csv",
            edit(&flows, |line, cells| {
                if line == 7 {
                    cells.truncate(5);
                }
            }),
        )
        .file(
            "not-utf8.csv",
            with(state, "?")
                .replace('?', "\u{0}")
                .into_bytes()
                .iter()
                .map(|b| if *b == 0 { 0xff } else { *b })
                .collect::<Vec<u8>>(),
        )
        .file("empty.csv", "")
        .file("header.csv", header)
        .file("binary.csv", b"\x00\x01\x02\xff\xfe\n\x00")
        .file("cut.parquet", b"PAR1\x00\x01\x02");
    let files = "missing-column.csv renamed-column.csv no-number.csv huge.csv label.csv short-row.csv not-utf8.csv empty.csv \
        header.csv binary.csv cut.parquet none.csv run";
    let mut all = String::new();
    for file in files.split_whitespace() {
        let found = bench.fails(&format!("evaluate --run run --data {file}"));
        // each command reads with the same eyes
        let with_train = format!("--set data.train={file} --set finetune.from=scratch");
        let predict = format!("predict --run run --data {file}");
        // which needs no labels
        let predict = (file != "label.csv").then_some(predict);
        for args in predict.into_iter().chain([on_flows("pretrain", &with_train), on_flows("finetune", &with_train)]) {
            // predict does not miss the label
            let alike = |text: &str| text.replace(", \"label\" of", " of").replace(" and 33 more of", " and 32 more of");
            assert_eq!(alike(&bench.fails(&args)), alike(&found), "{args}");
        }
        all.push_str(&found);
    }
    let all = all.replace(header, "HEADER");
    insta::assert_snapshot!(all);
    bench.prints("evaluate --run run --data flows.csv"); // the run has not suffered
}

/// `flows.csv` with a column of free text, which is `x` but on the lines given. Its writer does not quote.
fn with_notes(flows: &str, notes: &[(usize, &str)]) -> String {
    edit(flows, |line, cells| {
        let note = notes.iter().find(|note| note.0 == line + 1).map_or("x", |note| note.1);
        cells.push(if line == 0 { "note" } else { note }.to_owned());
    })
}

#[test]
fn a_mark_in_a_text_hides_no_rows() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    bench
        .file("hid.csv", with_notes(&flows, &[(11, "\"a"), (211, "b\"")]))
        .file("few.csv", with_notes(&flows, &[(11, "\"a"), (13, "b\"")]))
        .file("one.csv", with_notes(&flows, &[(11, "\"a"), (12, "\"\"\"")]))
        .file("never.csv", with_notes(&flows, &[(11, "\"a")]))
        .file("last.csv", with_notes(&flows, &[(301, "\"a")]))
        .file("after.csv", with_notes(&flows, &[(11, "\"a\"b")]));
    let mut all = String::new();
    for file in ["hid", "few", "one", "never", "last", "after"] {
        let found = bench.fails(&format!("predict --run run --data {file}.csv --output out.csv"));
        assert!(!bench.path("out.csv").exists());
        let with_train = format!("--set data.train={file}.csv --set finetune.from=scratch");
        for args in [
            format!("evaluate --run run --data {file}.csv"),
            format!("query --run run --budget 3 --data {file}.csv"),
            on_flows("pretrain", &with_train),
            on_flows("pretrain", &format!("--set data.unlabelled={file}.csv")),
            on_flows("finetune", &with_train),
        ] {
            assert_eq!(bench.fails(&args), found, "{args}");
        }
        all.push_str(&found);
    }
    insta::assert_snapshot!(all);
}

#[test]
fn where_the_lines_of_a_file_went_is_said() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let notes = with_notes(&flows, &[(11, "\"a\n\"\"b\"\"\n\""), (12, "5\" disk"), (13, "\"c\nd\"")]);
    bench.file("notes.csv", format!("{notes}\n"));
    let line = "notes.csv: 300 rows from 305 lines, 1 blank line passed over, 3 line ends inside of quoted fields of 2 rows (the first \
                on line 11, column \"note\")\n";
    let plain = "flows.csv: 300 rows from 301 lines\n";
    let verdicts = ["notes.csv", "flows.csv"].map(|file| bench.prints(&format!("predict --run run --data {file}")));
    assert!(verdicts[0] == verdicts[1]);
    for (file, line) in [("notes.csv", line), ("flows.csv", plain)] {
        let with_train = format!("--set data.train={file} --set data.unlabelled={file} --set finetune.from=scratch");
        for (args, times) in [
            (format!("predict --run run --data {file}"), 1),
            (format!("evaluate --run run --data {file}"), 1),
            (format!("query --run run --budget 3 --data {file} --strategy medoids"), 1),
            (on_flows("pretrain", &with_train), 2),
            (on_flows("encode", &format!("--set data.train={file}")), 1),
            (on_flows("finetune", &with_train), 2),
        ] {
            let (_, told) = bench.prints_and_tells(&args);
            assert_eq!(told.matches(line).count(), times, "{args}: {told}");
        }
    }
}

#[test]
fn labels_are_needed_where_they_are_used() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let n_features = column(&flows, "attack_cat");
    bench.file("unlabelled.csv", edit(&flows, |_, cells| cells.truncate(n_features)));
    let train = "--set data.train=unlabelled.csv --set finetune.from=scratch";
    let all = ["evaluate --run run --data unlabelled.csv".to_owned(), on_flows("finetune", train)].map(|args| bench.fails(&args));
    insta::assert_snapshot!(all.join("\n"));
    bench.prints(&on_flows("pretrain", "--set data.unlabelled=unlabelled.csv"));
}

#[test]
fn one_class_is_nothing_to_learn_from() {
    let bench = Bench::new();
    let flows = bench.flows();
    let label = column(&flows, "label");
    bench.file("normal.csv", filled(&flows, "label", "0")).file("attacks.csv", filled(&flows, "label", "1"));
    let few_attacks = edit(&flows, |line, cells| {
        if line > 0 {
            cells[label] = u8::from(line % 20 == 0).to_string();
        }
    });
    bench.file("few-attacks.csv", few_attacks);
    let scratch = "--set finetune.from=scratch";
    let all = [
        on_flows("finetune", &format!("--set data.train=normal.csv {scratch}")),
        on_flows("finetune", &format!("--set data.train=attacks.csv {scratch}")),
        on_flows("finetune", &format!("--set data.train=few-attacks.csv --set finetune.labels=5 {scratch}")),
    ]
    .map(|args| bench.fails(&args));
    insta::assert_snapshot!(all.join("\n"));
    // pretraining and the probe do not mind
    bench.prints(&on_flows("pretrain", "--set data.train=normal.csv"));
    bench.prints(&on_flows("encode", "--set data.train=normal.csv"));
    insta::assert_snapshot!(bench.fails(&on_flows("finetune", "--set data.train=normal.csv")));
}

#[test]
fn metrics_of_one_class_are_null_and_not_made_up() {
    let bench = Bench::trained();
    bench.file("normal.csv", filled(&bench.read("flows.csv"), "label", "0"));
    let metrics = bench.prints("evaluate --run run --data normal.csv --json");
    assert!(metrics.contains("\"roc_auc\":null") && metrics.contains("\"recall\":null"), "{metrics}");
    assert!(bench.prints("evaluate --run run --data normal.csv").contains(" - "));
}

#[test]
fn too_few_rows_to_split_are_an_error() {
    let bench = Bench::new();
    let flows = bench.flows();
    let first: Vec<&str> = flows.lines().take(2).collect();
    bench.file("one.csv", first.join("\n")).file("equal.csv", format!("{}\n{}\n{}\n", first[0], first[1], first[1]));
    let all = [
        "--set data.train=one.csv",
        "--set data.train=equal.csv",
        "--set data.validation_fraction=0.0001",
        "--set data.validation_fraction=0.9999",
    ]
    .map(|settings| bench.fails(&on_flows("pretrain", settings)));
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn an_unlabelled_file_is_checked_like_any_other() {
    let bench = Bench::new();
    bench.flows();
    bench.file("empty.csv", "");
    let all = ["none.csv", "empty.csv"].map(|file| bench.fails(&on_flows("pretrain", &format!("--set data.unlabelled={file}"))));
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn a_schema_that_is_none_is_an_error() {
    let bench = Bench::new();
    bench.flows();
    bench
        .file("bad.yaml", "name: bad\ncolumns:\n  - { name: dur, kind: numerical }\n")
        .file("other.yaml", "name: other\ncolumns:\n  - { name: dur, kind: numeric }\n  - { name: label, kind: label }\n");
    let all = ["unsw-nb16", "bad.yaml", "none.yaml", "other.yaml"]
        .map(|schema| bench.fails(&on_flows("pretrain", &format!("--set data.schema={schema}"))));
    insta::assert_snapshot!(all.join("\n"));
}

/// A terminal obeys escape sequences and shows a forged line as ours.
#[test]
fn names_from_files_reach_the_terminal_escaped_and_long_lists_are_cut() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let names: Vec<String> = (0..25).map(|i| format!("\u{1b}]0;{i}\u{7}\u{9b}2J")).collect();
    let header = format!("{},{}", flows.lines().next().unwrap(), names.join(","));
    let rows: Vec<String> = flows.lines().skip(1).map(|line| format!("{line}{}", ",x".repeat(names.len()))).collect();
    let schema = "name: \"\\e[2Jmine\\nerror: forged\"\ncolumns:\n  - { name: \"a\\e[31m\", kind: numeric }\n";
    bench
        .file("esc.csv", format!("{header}\n{}\n", rows.join("\n")))
        .file("esc.yaml", schema)
        .file("run/.lock", "process 1 (\u{1b}[2J\nerror: forged)\n");
    let (_, told) = bench.prints_and_tells("predict --run run --data esc.csv");
    let found = text(&bench.run(&on_flows("pretrain", "--set data.schema=esc.yaml --set data.train=esc.csv")).stderr);
    let (_, lock) = bench.prints_and_tells(&on_flows("encode", ""));
    for shown in [&told, &found, &lock] {
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown}");
        assert!(!shown.lines().any(|line| line.starts_with("error: forged")), "{shown}");
    }
    assert!(told.contains("\\u{1b}") && found.contains("\\u{1b}"), "{told}{found}");
    assert!(told.contains(" and 15 more\n") && !told.contains("]0;10"), "{told}");
}
