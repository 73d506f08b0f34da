use std::fs;

use nids_config::Stage;
use nids_detect::Detector;
use nids_detect::background::{Background, BackgroundValues};
use nids_detect::reasons::{Cell, Explainer, Reason};
use nids_flows::{FeatureColumn, Flows, ReadOptions, Schema, TextColumn, read};
use nids_store::progress::Silent;
use nids_store::run::{BACKGROUND, Run};
use serde_json::Value as Json;

use super::{PredictOptions, ReasonsFor, VerdictFormat, predict, report};
use crate::stages::{finetune, pretrain};
use crate::testing::{Folder, Told};

/// `size` and its copy tell an attack; the others tell nothing.
const SCHEMA: &str = "name: sizes\ncolumns:\n  - { name: other, kind: numeric }\n  - { name: size, kind: numeric }\n  \
                      - { name: copy, kind: numeric }\n  - { name: word, kind: categorical }\n  - { name: more, kind: numeric }\n  \
                      - { name: label, kind: label }\n";

const SETTINGS: &[&str] = &[
    "name=x",
    "data.schema=DIR/sizes.yaml",
    "data.train=DIR/train.csv",
    "tokeniser.bins=4",
    "model.dim=16",
    "model.depth=2",
    "engine.threads=1",
    "pretrain.steps=300",
    "pretrain.batch_size=64",
    "pretrain.lr=0.01",
    "finetune.steps=150",
    "finetune.batch_size=64",
];

fn csv(rows: std::ops::Range<u64>) -> String {
    let row = |i: u64| {
        let (is_attack, [other, size, more]) = (i.is_multiple_of(3), [i * 7919 % 997, i * 31 % 101, i * i * 13 % 499]);
        let size = if is_attack { 5_000_000 + size } else { 100 + size };
        format!("{other},{size},{},{},{more},{}\n", size * 2, ["low", "high", "mid"][(i % 7 % 3) as usize], u8::from(is_attack))
    };
    "other,size,copy,word,more,label\n".to_owned() + &rows.map(row).collect::<String>()
}

fn trained(settings: &[&str]) -> (Folder, Run) {
    let folder = Folder::new();
    folder.write("sizes.yaml", SCHEMA);
    folder.write("train.csv", csv(0..600));
    folder.write("now.csv", csv(1000..1060));
    let (config, run) = (folder.config(&[SETTINGS, settings]), folder.run("run"));
    if !settings.contains(&"finetune.from=scratch") {
        pretrain(&config, &run, &mut Silent).unwrap();
    }
    finetune(&config, &run, &mut Silent).unwrap();
    (folder, run)
}

fn now(folder: &Folder) -> Flows {
    let schema = Schema::load(&folder.path("sizes.yaml")).unwrap();
    read(&folder.path("now.csv"), &schema, &ReadOptions::labelled()).unwrap()
}

fn explained(folder: &Folder, run: &Run) -> Vec<Vec<Reason>> {
    let detector = Detector::open(run).unwrap();
    Explainer::open(run, &detector).unwrap().unwrap().reasons(&detector, &now(folder)).unwrap()
}

#[test]
fn the_feature_that_makes_an_alert_and_its_copy_are_the_first_reason() {
    for settings in [&["finetune.from=pretrained"][..], &["finetune.from=scratch"], &["pretrain.objective.mae.target=bins"]] {
        let (folder, run) = trained(settings);
        let flows = now(&folder);
        for (row, reasons) in explained(&folder, &run).iter().enumerate() {
            let is_attack = flows.labels().unwrap()[row] == 1;
            assert!(is_attack || reasons.iter().all(|reason| reason.log_odds < 3.0), "{settings:?}: {reasons:?}");
            if !is_attack {
                continue;
            }
            let [first, ..] = reasons.as_slice() else { panic!("{settings:?}: no reasons") };
            let names: Vec<&str> = first.features.iter().map(|feature| feature.name.as_str()).collect();
            assert_eq!(names, ["size", "copy"], "{settings:?}");
            assert!(first.log_odds > 3.0 && reasons.is_sorted_by(|a, b| a.log_odds >= b.log_odds), "{settings:?}: {reasons:?}");
            let (value, instead) = (&first.features[0].value, &first.features[0].instead);
            assert!(matches!(value, Cell::Number(Some(size)) if *size >= 5e6), "{value}");
            assert!(matches!(instead, Cell::Number(Some(size)) if *size <= 201.0), "{instead}");
            let text = first.text();
            assert!(text.starts_with("size 5,000,") && text.contains("(99 % of benign flows at most 1"), "{text}");
        }
    }
}

#[test]
fn features_fall_faster_in_the_order_of_their_reasons_than_in_another_and_by_other_weights_they_are_others() {
    let (folder, run) = trained(&[]);
    let detector = Detector::open(&run).unwrap();
    let explainer = Explainer::open(&run, &detector).unwrap().unwrap();
    let flows = now(&folder);
    let attacks: Vec<u32> = (0..flows.len() as u32).filter(|&row| flows.labels().unwrap()[row as usize] == 1).collect();
    let attacks = flows.select(&attacks);
    let orders = explainer.orders(&detector, &attacks).unwrap();
    let mut last_first = orders.clone();
    for order in &mut last_first {
        order.reverse();
    }
    let area = |orders: &[Vec<Vec<usize>>]| -> f64 {
        let curves = explainer.deletion_curves(&detector, &attacks, orders).unwrap();
        assert!(curves.iter().all(|curve| curve.len() == orders[0].len() + 1));
        curves.concat().iter().sum()
    };
    // between the two lies the mean of all orders
    let schema_order = vec![explainer.background().groups.clone(); orders.len()];
    let [by_reasons, others, reversed] = [&orders, &schema_order, &last_first].map(|orders| area(orders));
    assert!(by_reasons < others && by_reasons < reversed, "{by_reasons} {others} {reversed}");

    let trained_reasons = explained(&folder, &run);
    let config = folder.config(&[SETTINGS, &["finetune.steps=1", "seed=9"]]);
    pretrain(&config, &run, &mut Silent).unwrap();
    finetune(&config, &run, &mut Silent).unwrap();
    let by_chance = explained(&folder, &run);
    let said = |reasons: &[Vec<Reason>]| reasons.iter().flatten().map(|reason| reason.log_odds).sum::<f64>();
    assert!(said(&by_chance) < 0.1 * said(&trained_reasons), "{} {}", said(&by_chance), said(&trained_reasons));
}

/// The row with the features of its reasons as in the benign rows that they were compared with.
fn as_benign(flows: &Flows, reasons: &[Reason]) -> Flows {
    let mut columns = flows.features().to_vec();
    for feature in reasons.iter().flat_map(|reason| &reason.features) {
        let place = flows.schema().features().position(|column| column.name == feature.name).unwrap();
        columns[place] = match &feature.instead {
            Cell::Number(x) => FeatureColumn::Numeric(vec![x.unwrap()]),
            Cell::Text(text) => FeatureColumn::Categorical([text.as_str()].into_iter().collect::<TextColumn>()),
        };
    }
    Flows::of_features(flows.schema(), columns).unwrap()
}

#[test]
fn what_reasons_say_is_what_the_model_says_less_of_the_row_without_them() {
    let mut n_reasons = [0; 4];
    for settings in [&[][..], &["finetune.from=scratch"], &["finetune.from=scratch", "finetune.steps=8"], &["finetune.steps=8"]] {
        let (folder, run) = trained(settings);
        let detector = Detector::open(&run).unwrap();
        let log_odds = |flows: &Flows| detector.model().log_odds(&detector.tokeniser().tokenise(flows).unwrap())[0];
        let table = detector.tokeniser().tokenise(&now(&folder)).unwrap();
        for (odds, score) in detector.model().log_odds(&table).iter().zip(detector.attacks(&table)) {
            assert!((1.0 / (1.0 + (-odds).exp()) - f64::from(score)).abs() < 1e-6, "{odds} {score}");
        }
        for (row, reasons) in (0..).zip(explained(&folder, &run)) {
            let flows = now(&folder).select(&[row]);
            let falls: f64 = reasons.iter().map(|reason| reason.log_odds).sum();
            let wanted = log_odds(&flows) - log_odds(&as_benign(&flows, &reasons));
            assert!((falls - wanted).abs() < 1e-3 * (1.0 + wanted), "{settings:?}, row {row}: {falls}, not {wanted}");
            assert!(reasons.iter().all(|reason| !reason.features.is_empty()), "{reasons:?}");
            n_reasons[reasons.len()] += 1;
        }
    }
    assert!(n_reasons[2] + n_reasons[3] > 10, "{n_reasons:?}");
}

#[test]
fn the_reasons_of_a_row_do_not_depend_on_the_others_or_on_threads() {
    let (folder, run) = trained(&[]);
    let all = explained(&folder, &run);
    let detector = Detector::open(&run).unwrap();
    let explainer = Explainer::open(&run, &detector).unwrap().unwrap();
    for row in [0_u32, 2, 33] {
        let alone = explainer.reasons(&detector, &now(&folder).select(&[row])).unwrap();
        assert_eq!(alone[0], all[row as usize]);
    }
    let (folder, run) = trained(&["engine.threads=2"]);
    assert_eq!(explained(&folder, &run), all);
}

/// What `predict` writes, as lines, and tells.
fn predicted(folder: &Folder, run: &Run, reasons: ReasonsFor, format: VerdictFormat) -> (Vec<String>, Vec<String>) {
    let options = PredictOptions { reasons: Some(reasons), format, ..PredictOptions::default() };
    let (mut out, mut told) = (Vec::new(), Told::default());
    predict(run, &[folder.path("now.csv")], &options, &mut out, &mut |_| Ok(()), &mut told).unwrap();
    (String::from_utf8(out).unwrap().lines().map(str::to_owned).collect(), told.0)
}

#[test]
fn predict_gives_reasons_of_alerts_or_of_all_rows() {
    let (folder, run) = trained(&[]);
    let (lines, told) = predicted(&folder, &run, ReasonsFor::Alerts, VerdictFormat::Csv);
    assert_eq!(lines[0], "id,probability,verdict,reasons");
    for line in &lines[1..] {
        assert_eq!(line.contains(",attack,"), line.contains("size 5,000,"), "{line}");
        assert!(line.contains(",attack,") || line.ends_with(",normal,"), "{line}");
    }
    assert!(
        told.iter().any(|line| line.starts_with("reasons: rows are compared with 2") && line.contains("autoencoder")),
        "{told:?}"
    );
    let (lines, _) = predicted(&folder, &run, ReasonsFor::All, VerdictFormat::JsonLines);
    let all: Vec<Json> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let wanted = serde_json::to_value(explained(&folder, &run)).unwrap();
    assert_eq!(all.iter().map(|verdict| verdict["reasons"].clone()).collect::<Vec<_>>(), wanted.as_array().unwrap().clone());
    // an unsure classifier has reasons of benign rows, too
    let (other, unsure) = trained(&["finetune.from=scratch", "finetune.steps=8"]);
    let n_explained = |reasons| {
        let (lines, _) = predicted(&other, &unsure, reasons, VerdictFormat::Csv);
        lines.iter().filter(|line| line.contains(",normal,") && !line.ends_with(",normal,")).count()
    };
    assert!(n_explained(ReasonsFor::All) > 0 && n_explained(ReasonsFor::Alerts) == 0);
    let page = report(&run, &[], None, &mut Silent).unwrap();
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("Why rows are alerts") && page.matches("size 5,000,").count() == 10, "{page}");
}

#[test]
fn a_run_that_keeps_no_benign_rows_gives_no_reasons() {
    let (folder, run) = trained(&["finetune.from=scratch", "finetune.steps=1"]);
    let path = run.folder().join("manifest-finetune.json");
    let mut manifest: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["outputs"].as_object_mut().unwrap().remove(BACKGROUND).unwrap();
    folder.write("run/manifest-finetune.json", manifest.to_string());
    let options = PredictOptions { reasons: Some(ReasonsFor::All), ..PredictOptions::default() };
    let error = predict(&run, &[folder.path("now.csv")], &options, &mut Vec::new(), &mut |_| Ok(()), &mut Silent).unwrap_err();
    assert!(error.to_string().contains("made before there were reasons"), "{error}");
    assert_eq!(error.exit_code(), 4);
    let page = fs::read_to_string(report(&run, &[], None, &mut Silent).unwrap()).unwrap();
    assert!(!page.contains("Why rows are alerts"));
}

#[test]
fn the_background_is_of_benign_training_rows_whose_labels_were_learned() {
    let (folder, run) = trained(&["finetune.from=scratch", "finetune.steps=1", "finetune.labels=60"]);
    let background = Background::from_bytes(&fs::read(run.folder().join(BACKGROUND)).unwrap()).unwrap();
    let config = folder.config(&[SETTINGS, &["finetune.from=scratch", "finetune.labels=60"]]);
    let known: Vec<f64> = {
        let labelled = crate::data::labelled(&config, &mut run.look(Stage::Finetune, &config), &mut Silent).unwrap();
        let FeatureColumn::Numeric(size) = &labelled.flows.features()[0] else { panic!() };
        labelled.split.train.iter().filter(|&&row| labelled.labels()[row as usize] == 0).map(|&row| size[row as usize]).collect()
    };
    let BackgroundValues::Numbers(kept) = &background.features[0].values else { panic!() };
    assert!(background.benign < 60 && background.n_rows() as u64 == background.benign, "{}", background.benign);
    assert!(kept.iter().all(|value| known.contains(&value.unwrap())));
    let BackgroundValues::Numbers(sizes) = &background.features[1].values else { panic!() };
    assert!(sizes.iter().all(|size| size.unwrap() < 1000.0), "attacks among the benign rows");
    assert_eq!(background.groups, [vec![0], vec![1, 2], vec![3], vec![4]]);
}
