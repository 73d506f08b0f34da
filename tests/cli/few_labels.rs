//! Few labels: which rows have them, and what is made of the others.

use std::collections::BTreeSet;

use crate::bench::{Bench, column, edit, on_flows};

/// Row numbers, one a line.
fn list(rows: &[u32]) -> String {
    let lines: Vec<String> = rows.iter().map(|row| row.to_string() + "\n").collect();
    lines.concat()
}

#[test]
fn a_file_says_which_rows_are_labelled() {
    let bench = Bench::trained();
    let model = |settings: &str| {
        let (_, told) = bench.prints_and_tells(&on_flows("finetune", settings));
        (bench.bytes("run/model.safetensors"), told)
    };
    let rows = bench.training_rows();
    bench.file("rows.txt", list(&rows[..50]));
    let (of_rows, told) = model("--set finetune.label_rows=rows.txt");
    assert!(told.contains("50 labels listed of 240"), "{told}");
    // their order is nothing to the network, nor are the ends of lines
    let backwards: Vec<u32> = rows[..50].iter().rev().copied().collect();
    bench.file("rows.txt", list(&backwards).replace('\n', "\r\n"));
    assert!(model("--set finetune.label_rows=rows.txt").0 == of_rows);
    assert!(bench.read("run/manifest-finetune.json").contains("finetune.label_rows"));
    bench.file("rows.txt", list(&rows));
    let (all, _) = model("--set finetune.label_rows=rows.txt");
    assert!(all != of_rows);
}

#[test]
fn rows_held_out_by_inner_validation_are_left_out_of_a_list() {
    let bench = Bench::trained();
    bench.file("rows.txt", list(&bench.training_rows()));
    let inner = "--set data.inner_validation=true --set finetune.label_rows=rows.txt";
    bench.prints(&on_flows("pretrain", inner));
    let (_, told) = bench.prints_and_tells(&on_flows("finetune", inner));
    assert!(told.contains("192 labels listed of 192"), "{told}");
}

#[test]
fn a_list_of_rows_with_an_error_names_its_line() {
    let bench = Bench::trained();
    let rows = bench.training_rows();
    let held_out = (0..300).find(|row| !rows.contains(row)).unwrap();
    let flows = bench.read("flows.csv");
    let normal = |row: &&u32| flows.lines().nth(**row as usize + 1).unwrap().ends_with(",0");
    let normal: Vec<u32> = rows.iter().filter(normal).copied().collect();
    let first = rows[0];
    let lists = [
        format!("{first}\nten\n"),
        format!("{first}\n\n"),
        format!("{first}\n-1\n"),
        format!("{first}\n300\n"),
        format!("{first}\n{held_out}\n"),
        format!("{first}\n{}\n{first}\n", rows[1]),
        String::new(),
        list(&normal),
    ];
    let mut all = Vec::new();
    for list in lists {
        bench.file("rows.txt", list);
        all.push(bench.fails(&on_flows("finetune", "--set finetune.label_rows=rows.txt")));
    }
    all.push(bench.fails(&on_flows("finetune", "--set finetune.label_rows=none.txt")));
    insta::assert_snapshot!(all.join("\n"));
}

const TEACHER: &str = "--set finetune.mean_teacher.batch_size=48";

#[test]
fn a_mean_teacher_learns_from_rows_without_labels() {
    let bench = Bench::trained();
    let settings = format!("--set finetune.labels=20 {TEACHER}");
    let (_, told) = bench.prints_and_tells(&on_flows("finetune", &settings));
    assert!(told.contains("a mean teacher on 220 rows without labels, beside 20 rows with labels"), "{told}");
    assert!(told.contains("10 steps of 80 "), "{told}");
    let lines = bench.metrics("run", "finetune");
    let lines: Vec<_> = lines.iter().filter(|line| line["loss"].is_number()).collect();
    for (line, weight) in lines.iter().zip([0.0, 0.5, 1.0, 1.0, 1.0]) {
        let [loss, supervised, consistency] = ["loss", "supervised", "consistency"].map(|name| line[name].as_f64().unwrap());
        // the weights of the two steps of a line: 0 and 0, 1/3 and 2/3, then 1
        assert!(consistency > 0.0 && (loss - supervised - weight * consistency).abs() < 0.02 * consistency, "{line}");
    }
    let model = bench.bytes("run/model.safetensors");
    bench.prints("predict --run run --data flows.csv");
    for threads in [1, 2] {
        bench.prints(&on_flows("finetune", &format!("{settings} --set engine.threads={threads}")));
        assert!(bench.bytes("run/model.safetensors") == model, "{threads} threads");
    }
    bench.prints(&on_flows("finetune", &format!("{settings} --set finetune.from=scratch")));
    bench.prints("predict --run run --data flows.csv");
}

#[test]
fn a_mean_teacher_takes_any_encoder_and_unlabelled_file() {
    let bench = Bench::new();
    bench.flows();
    bench.prints("synth --rows 100 --seed 5 --output more.csv");
    for objective in ["mae.encoder=visible_only", "vae.latent=pooled"] {
        let settings = format!("--set pretrain.objective.{objective} --set data.unlabelled=more.csv {TEACHER}");
        bench.prints(&on_flows("pretrain", &settings));
        let (_, told) = bench.prints_and_tells(&on_flows("finetune", &settings));
        assert!(told.contains("a mean teacher on 100 rows without labels, beside 240 rows with labels"), "{told}");
    }
}

#[test]
fn a_mean_teacher_needs_rows_without_labels() {
    let bench = Bench::trained();
    insta::assert_snapshot!(bench.fails(&on_flows("finetune", TEACHER)), @r"
    exit code 2
    error: `finetune.mean_teacher`: there are no rows without labels: name a file of them in `data.unlabelled`, or lower `finetune.labels`
    ");
}

/// The rows that `query` prints.
fn selected(bench: &Bench, more: &str) -> Vec<u32> {
    bench.prints(&format!("query --run run {more}")).lines().map(|line| line.parse().unwrap()).collect()
}

/// The features of a row of `flows.csv`, as text.
fn features(flows: &str, row: u32) -> String {
    let from = column(flows, "dur");
    let cells: Vec<&str> = flows.lines().nth(row as usize + 1).unwrap().split(',').collect();
    cells[from..cells.len() - 2].join(",")
}

#[test]
fn rows_to_label_are_different_training_rows() {
    let bench = Bench::new();
    let flows = bench.flows();
    bench.prints(&on_flows("pretrain", ""));
    bench.prints(&on_flows("encode", ""));
    let training = bench.training_rows();
    for budget in [1, 20, 100] {
        let rows = selected(&bench, &format!("--budget {budget}"));
        assert_eq!(rows.len(), budget);
        assert!(rows.iter().all(|row| training.contains(row)));
        let mut different: Vec<String> = rows.iter().map(|&row| features(&flows, row)).collect();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), budget);
    }
    let rows = selected(&bench, "--budget 20");
    bench.prints("query --run run --budget 20 --output rows.txt");
    let (_, told) = bench.prints_and_tells(&on_flows("finetune", "--set finetune.label_rows=rows.txt"));
    assert!(told.contains("20 labels listed of 240"), "{told}");
    // what is labelled is not to be labelled again
    for strategy in ["", "--strategy medoids", "--strategy uncertainty"] {
        let next = selected(&bench, &format!("--budget 20 {strategy}"));
        assert!(next.len() == 20 && next.iter().all(|row| training.contains(row)));
        let known: Vec<String> = rows.iter().map(|&row| features(&flows, row)).collect();
        assert!(next.iter().all(|&row| !known.contains(&features(&flows, row))), "{strategy}");
        let of_file = selected(&bench, &format!("--budget 20 {strategy} --data flows.csv"));
        assert!(of_file.len() == 20 && of_file.iter().all(|&row| !known.contains(&features(&flows, row))), "{strategy}");
    }
    assert_eq!(selected(&bench, "--budget 20"), selected(&bench, "--budget 20 --strategy uncertainty"));
    assert_ne!(selected(&bench, "--budget 20"), selected(&bench, "--budget 20 --strategy medoids"));
}

/// Rows, none equal to another, that `query` chooses from, and the features of none of them twice.
fn pool(bench: &Bench, more_of_each: usize) -> Vec<f64> {
    let flows = bench.prints("synth --rows 2000 --seed 77");
    let mut seen = BTreeSet::new();
    let is_new = |row: &u32| seen.insert(features(&flows, *row));
    let kept: Vec<&str> = (0..2000).filter(is_new).map(|row| flows.lines().nth(row as usize + 1).unwrap()).collect();
    let mut lines = kept.clone();
    // every other row once more, and again
    (0..more_of_each).for_each(|_| lines.extend(kept.iter().step_by(2)));
    bench.file("pool.csv", format!("{}\n{}\n", flows.lines().next().unwrap(), lines.join("\n")));
    let verdicts = bench.prints("predict --run run --data pool.csv");
    let probabilities = verdicts.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse::<f64>().unwrap());
    probabilities.map(|p| p * (1.0 - p)).take(kept.len()).collect()
}

/// Asserts that there are fewer than ten rows for each chosen one of which the classifier is less sure.
fn assert_least_sure(bench: &Bench, unsure: &[f64], budget: usize) {
    const CANDIDATES: usize = 10; // for each row of the budget
    for row in selected(bench, &format!("--budget {budget} --strategy uncertainty --data pool.csv")) {
        let row = row as usize;
        let less_sure = unsure.iter().filter(|&&of| of > unsure[row]).count();
        assert!(less_sure < budget * CANDIDATES, "row {row}: of {less_sure} others the classifier is less sure");
    }
}

#[test]
fn uncertainty_chooses_among_the_rows_that_the_classifier_is_least_sure_of() {
    let bench = Bench::trained();
    let unsure = pool(&bench, 0);
    assert_least_sure(&bench, &unsure, 3);
}

#[test]
fn heads_choose_among_the_rows_that_they_are_least_sure_of() {
    let bench = Bench::trained();
    for from in ["frozen", "features"] {
        let (_, told) =
            bench.prints_and_tells(&on_flows("finetune", &format!("--set finetune.from={from} --set finetune.labels=30")));
        assert!(told.contains("4 heads averaged"), "{told}");
        // the settings of training that tests use
        assert!(told.contains("`finetune.steps`") && told.contains(": no effect, since heads are fitted"), "{told}");
        // a row that occurs many times counts once
        let unsure = pool(&bench, 20);
        assert_least_sure(&bench, &unsure, 3);
    }
}

#[test]
fn heads_on_features_need_no_encoder() {
    let bench = Bench::new();
    bench.flows();
    let error = bench.fails(&on_flows("finetune", "--set finetune.from=frozen"));
    assert!(error.starts_with("exit code 4\n") && error.contains("`pretrain` has not finished here"), "{error}");
    bench.prints(&on_flows("finetune", "--set finetune.from=features --set finetune.labels=60"));
    assert_eq!(bench.prints("predict --run run --data flows.csv").lines().count(), 301);
    assert_eq!(selected(&bench, "--budget 5").len(), 5);
    let error = bench.fails("query --run run --budget 3 --strategy medoids");
    assert!(error.contains("`nids-mixer pretrain"), "{error}");
}

#[test]
fn the_old_name_of_query_still_works_and_says_so() {
    let bench = Bench::trained();
    bench.prints("synth --rows 100 --seed 5 --output pool.csv");
    let [(rows, told), (of_old, told_old)] =
        ["query", "select"].map(|name| bench.prints_and_tells(&format!("{name} --run run --budget 3 --data pool.csv")));
    assert!(rows == of_old && !told.contains("note:"), "{told}");
    assert!(told_old.starts_with("note: `select` is called `query` now"), "{told_old}");
}

#[test]
fn labelling_goes_in_rounds() {
    let bench = Bench::new();
    bench.flows();
    bench.prints(&on_flows("pretrain", ""));
    let mut rows = selected(&bench, "--budget 20");
    for n in [30, 40] {
        bench.file("rows.txt", list(&rows));
        bench.prints(&on_flows("finetune", "--set finetune.label_rows=rows.txt"));
        rows.extend(selected(&bench, "--budget 10"));
        let different: BTreeSet<u32> = rows.iter().copied().collect();
        assert_eq!(different.len(), n);
    }
}

#[test]
fn rows_to_label_do_not_depend_on_threads_or_labels() {
    let bench = Bench::new();
    let flows = bench.flows();
    let cells = column(&flows, "attack_cat");
    bench.file("pool.csv", edit(&flows, |_, line| line.truncate(cells)));
    let mut all = Vec::new();
    for threads in [1, 2, 4] {
        let settings = format!("--set engine.threads={threads} --set finetune.labels=40");
        bench.prints(&on_flows("pretrain", &settings));
        bench.prints(&on_flows("finetune", &settings));
        let strategies = ["medoids", "uncertainty"].map(|strategy| {
            let choose = |data: &str| selected(&bench, &format!("--budget 30 --strategy {strategy} {data}"));
            assert_eq!(choose("--data pool.csv"), choose("--data flows.csv"));
            [choose(""), choose("--data pool.csv")]
        });
        all.push(strategies);
    }
    assert!(all.iter().all(|rows| *rows == all[0]));
}

#[test]
fn what_cannot_be_selected_is_said() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("run")).unwrap();
    let nothing = bench.fails("query --run run --budget 3");
    bench.flows();
    let trained = Bench::trained();
    let all = [
        nothing,
        bench.fails("query --run none --budget 3"),
        trained.fails("query --run run --budget 3"),
        trained.fails("query --run run --budget 1000 --data flows.csv"),
        trained.fails("query --run run --budget 3 --data none.csv"),
        trained.fails("query --run run --budget 0"),
        trained.fails("query --run run --budget 3 --strategy guess"),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn a_mean_teacher_teaches_each_member() {
    let bench = Bench::trained();
    let settings = format!("--set finetune.labels=20 {TEACHER}");
    bench.prints(&on_flows("finetune", &settings));
    let one = bench.prints("predict --run run --data flows.csv");
    bench.prints(&on_flows("finetune", &format!("{settings} --set finetune.members=2")));
    assert_ne!(bench.prints("predict --run run --data flows.csv"), one);
    assert_eq!(selected(&bench, "--budget 5").len(), 5);
    bench.prints(&on_flows("finetune", "--set finetune.labels=20 --set finetune.from=latents --set finetune.members=2"));
    assert_eq!(selected(&bench, "--budget 5").len(), 5);
    let batch = "--set finetune.labels=20 --set finetune.ensemble=batch --set finetune.members=2 --set finetune.ema={}";
    bench.prints(&on_flows("finetune", batch));
    assert_eq!(selected(&bench, "--budget 5").len(), 5);
}
