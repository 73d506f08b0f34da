//! Categories of attack: as what is learned, beside what is learned, and where they are missing.

use serde_json::Value as Json;

use crate::bench::{Bench, column, edit, on_flows, shipped};

const MULTICLASS: &str = "--set finetune.task=multiclass";

/// With a classifier from scratch that tells categories apart.
fn multiclass() -> Bench {
    let bench = Bench::new();
    bench.flows();
    bench.prints(&on_flows("finetune", &format!("{MULTICLASS} --set finetune.from=scratch")));
    bench
}

fn evaluate(bench: &Bench, file: &str) -> (Json, String) {
    let (metrics, told) = bench.prints_and_tells(&format!("evaluate --run run --data {file} --json"));
    (serde_json::from_str(&metrics).unwrap(), told)
}

/// `flows.csv` with another category in the lines that `which` names.
fn with_category(bench: &Bench, category: &str, which: impl Fn(usize, &str) -> bool) -> String {
    let flows = bench.read("flows.csv");
    let (attack_cat, label) = (column(&flows, "attack_cat"), column(&flows, "label"));
    edit(&flows, |line, cells| {
        if line > 0 && which(line, &cells[label]) {
            category.clone_into(&mut cells[attack_cat]);
        }
    })
}

#[test]
fn categories_are_told_apart_whatever_the_classifier_starts_from() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let attack_cat = column(&flows, "attack_cat");
    for from in ["pretrained", "latents", "scratch"] {
        bench.prints(&on_flows("finetune", &format!("{MULTICLASS} --set finetune.from={from}")));
        let (metrics, _) = evaluate(&bench, "flows.csv");
        assert!(metrics["roc_auc"].as_f64().is_some() && metrics["n"] == 300, "{metrics}");
        let categories = &metrics["categories"];
        for name in ["accuracy", "balanced_accuracy", "macro_f1"] {
            assert!((0.0..=1.0).contains(&categories[name].as_f64().unwrap()), "{name}: {categories}");
        }
        let classes = categories["classes"].as_array().unwrap();
        let names: Vec<&str> = classes.iter().map(|class| class["name"].as_str().unwrap()).collect();
        assert!(
            names.is_sorted() && names.contains(&"Normal") && classes.iter().all(|class| class["known"] == true),
            "{names:?}"
        );
        let support: u64 = classes.iter().map(|class| class["support"].as_u64().unwrap()).sum();
        assert_eq!(support, 300);

        let verdicts = bench.prints("predict --run run --data flows.csv");
        let mut right = 0;
        for (verdict, row) in verdicts.lines().skip(1).zip(flows.lines().skip(1)) {
            let [_, probability, verdict, category] = verdict.split(',').collect::<Vec<_>>()[..] else { panic!("{verdict}") };
            assert_eq!(verdict == "attack", probability.parse::<f64>().unwrap() >= 0.5);
            assert_eq!(verdict == "normal", category == "Normal");
            assert!(names.contains(&category));
            right += u32::from(row.split(',').nth(attack_cat) == Some(category));
        }
        assert!((f64::from(right) / 300.0 - categories["accuracy"].as_f64().unwrap()).abs() < 1e-9);
    }
    let lines = bench.metrics("run", "finetune");
    let validation = lines.iter().find_map(|line| line.get("validation")).unwrap();
    assert!(validation["categories"]["macro_f1"].is_number(), "{validation}");
    let tables = bench.prints("evaluate --run run --data flows.csv");
    assert!(tables.contains("macro F1") && tables.contains("Reconnaissance") && tables.contains("is \\ called"), "{tables}");
}

#[test]
fn a_category_that_training_has_not_seen_is_named_and_counts_as_an_error() {
    let bench = multiclass();
    let (before, _) = evaluate(&bench, "flows.csv");
    bench.file("new.csv", with_category(&bench, "Botnet", |_, label| label == "1"));
    let (after, told) = evaluate(&bench, "new.csv");
    let n_attacks = before["categories"]["classes"].as_array().unwrap().iter();
    let n_attacks: u64 =
        n_attacks.filter(|class| class["name"] != "Normal").map(|class| class["support"].as_u64().unwrap()).sum();
    let message = format!("new.csv: {n_attacks} of 300 rows: category `Botnet` not known from training: each counts as an error");
    assert!(told.contains(&message), "{told}");
    // the verdicts are what they were
    assert_eq!((&before["accuracy"], &before["roc_auc"]), (&after["accuracy"], &after["roc_auc"]));
    assert!(after["categories"]["accuracy"].as_f64() < before["categories"]["accuracy"].as_f64());
    let botnet = after["categories"]["classes"].as_array().unwrap().last().unwrap();
    assert_eq!((&botnet["name"], &botnet["known"], &botnet["recall"]), (&"Botnet".into(), &false.into(), &0.0.into()));
    assert!(bench.prints("evaluate --run run --data new.csv").contains("Botnet (not known)"));
}

#[test]
fn data_without_categories_get_verdicts_and_no_judgement_of_categories() {
    let bench = multiclass();
    let flows = bench.read("flows.csv");
    let attack_cat = column(&flows, "attack_cat");
    bench.file("no-column.csv", edit(&flows, |_, cells| drop(cells.remove(attack_cat))));
    let (metrics, told) = evaluate(&bench, "no-column.csv");
    assert!(metrics.get("categories").is_none() && metrics["n"] == 300, "{metrics}");
    assert!(told.contains("no-column.csv: no column says what kind of attack a row is: categories are not judged"), "{told}");
    assert_eq!(bench.prints("predict --run run --data no-column.csv"), bench.prints("predict --run run --data flows.csv"));
    // what the category of a benign row is does not matter
    bench.file("no-normal.csv", with_category(&bench, "", |_, label| label == "0"));
    let (metrics, _) = evaluate(&bench, "no-normal.csv");
    assert_eq!(metrics, evaluate(&bench, "flows.csv").0);
}

#[test]
fn nothing_to_learn_of_categories_is_an_error() {
    let bench = Bench::new();
    let flows = bench.flows();
    let attack_cat = column(&flows, "attack_cat");
    bench.file("no-column.csv", edit(&flows, |_, cells| drop(cells.remove(attack_cat))));
    bench.file("no-kind.csv", with_category(&bench, "", |line, _| line > 3));
    bench.file("normal.csv", with_category(&bench, "Normal", |_, _| true));
    let schema = std::fs::read_to_string(shipped("schemas/unsw-nb15.yaml")).unwrap();
    bench.file("schema.yaml", schema.replace("kind: category", "kind: ignored"));
    let all = [
        format!("{MULTICLASS} --set data.schema=schema.yaml"),
        format!("{MULTICLASS} --set data.train=no-column.csv"),
        format!("{MULTICLASS} --set data.train=no-kind.csv"),
        format!("{MULTICLASS} --set data.train=normal.csv"),
    ]
    .map(|settings| bench.fails(&on_flows("finetune", &format!("--set finetune.from=scratch {settings}"))));
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn a_model_whose_classes_were_tampered_with_is_refused() {
    let bench = multiclass();
    let model = bench.bytes("run/model.safetensors");
    let text = String::from_utf8_lossy(&model).into_owned();
    assert!(text.contains("Normal"));
    let at = model.windows(6).position(|window| window == b"Normal").unwrap();
    // no longer in alphabetical order
    let forged = [&model[..at], b"AAAAAA", &model[at + 6..]].concat();
    bench.forge("finetune", "model.safetensors", &forged);
    let found = bench.fails("evaluate --run run --data flows.csv");
    assert!(found.starts_with("exit code 4") && found.contains("alphabetical order"), "{found}");
}
