//! What `predict` finds of rows that look like those of training, and of others.

use std::collections::BTreeMap;
use std::fs;

use nids_detect::profile::{FeatureBins, Profile};
use nids_detect::watch::{Change, Drift};
use nids_store::progress::Silent;
use nids_store::run::{PROFILE, Run};
use serde_json::Value as Json;

use super::calibrate::{CalibrateOptions, calibrate};
use super::predict::{Alarm, PredictOptions, evaluate, predict};
use super::report::report_of;
use crate::data::labelled;
use crate::stages::finetune;
use crate::testing::{Folder, Told, cells, column, csv, flows};
use nids_config::Stage;

const SETTINGS: &[&str] = &[
    "name=x",
    "data.schema=DIR/schema.yaml",
    "data.train=DIR/train.csv",
    "data.validation_fraction=0.3",
    "model.dim=8",
    "model.depth=1",
    "engine.threads=1",
    "finetune.from=features",
    "finetune.heads=[extra_trees]",
];

fn trained(settings: &[&str]) -> (Folder, Run) {
    let folder = Folder::new();
    folder.write("train.csv", flows(3000, 3));
    let run = folder.run("run");
    finetune(&folder.config(&[SETTINGS, settings]), &run, &mut Silent).unwrap();
    (folder, run)
}

/// Generated flows, edited row by row: the number of the row, its cells, and where each column is.
fn edited(rows: usize, seed: u64, edit: impl Fn(usize, &mut Vec<String>, &BTreeMap<String, usize>)) -> String {
    let mut table = cells(&flows(rows, seed));
    let columns: BTreeMap<String, usize> = table[0].iter().cloned().zip(0..).collect();
    for (row, cells) in table[1..].iter_mut().enumerate() {
        edit(row, cells, &columns);
    }
    csv(&table)
}

/// What `predict` finds, with its verdicts and what it tells.
fn watched(folder: &Folder, run: &Run, text: &str) -> (Drift, Vec<u8>, Vec<String>) {
    folder.write("now.csv", text);
    let (mut out, mut told) = (Vec::new(), Told::default());
    let data = [folder.path("now.csv")];
    let summary = predict(run, &data, &PredictOptions::default(), &mut out, &mut |_| Ok(()), &mut told).unwrap();
    (summary.drift.unwrap(), out, told.0)
}

fn moved(drift: &Drift) -> Vec<&str> {
    drift.features.iter().filter(|feature| feature.change == Change::Moved).map(|feature| feature.feature.as_str()).collect()
}

#[test]
fn rows_of_the_same_network_do_not_drift_be_they_many_or_few() {
    let (folder, run) = trained(&[]);
    for (rows, seed) in (10..30).map(|seed| (200, seed)).chain([(60, 40), (60, 41), (60, 42), (3000, 43)]) {
        let (drift, _, told) = watched(&folder, &run, &flows(rows, seed));
        assert_eq!((moved(&drift), drift.warnings.len()), (vec![], 0), "{rows} rows of seed {seed}: {}", drift.line());
        assert_ne!(drift.scores.unwrap().change, Change::Moved, "{rows} rows of seed {seed}");
        assert!(told.iter().any(|line| line.starts_with("drift: none of 6 features has moved (largest PSI: ")), "{told:?}");
        assert!(!told.iter().any(|line| line.contains("not be trusted")), "{told:?}");
    }
    let (_, _, told) = watched(&folder, &run, &flows(20, 50));
    assert!(told.iter().any(|line| line == "drift: 20 rows are too few to compare with training (from 50 on)"), "{told:?}");
}

#[test]
fn a_column_that_is_scaled_has_moved_and_no_other() {
    let (folder, run) = trained(&[]);
    let scaled = edited(400, 10, |_, cells, columns| {
        let cell = &mut cells[columns["sbytes"]];
        *cell = format!("{}", 1000.0 * cell.parse::<f64>().unwrap());
    });
    let (drift, _, told) = watched(&folder, &run, &scaled);
    assert_eq!(moved(&drift), ["sbytes"]);
    let psi = drift.features[0].size();
    assert!(
        psi > 1.0
            && told.iter().any(|line| line.contains(&format!("1 of 6 features has moved (PSI above 0.25: `sbytes` {psi:.2})"))),
        "{told:?}"
    );
    // one of six features is more than a tenth
    assert!(
        told.iter()
            .any(|line| line.starts_with("warning: ") && line.contains("its verdicts should not be trusted: 1 of 6 features")),
        "{told:?}"
    );
}

#[test]
fn the_page_about_a_file_tells_what_has_moved() {
    let (folder, run) = trained(&[]);
    let page = |rows: usize, scale: f64| {
        let text = edited(rows, 10, |_, cells, columns| {
            let cell = &mut cells[columns["sbytes"]];
            *cell = format!("{}", scale * cell.parse::<f64>().unwrap());
        });
        folder.write("now.csv", text);
        let data = [folder.path("now.csv")];
        let found = evaluate(&run, &data, &PredictOptions::default(), &mut |_| Ok(()), &mut Silent).unwrap();
        let psi = found.drift.as_ref().unwrap().features[0].size();
        (report_of(&run, &data, found).unwrap(), psi)
    };
    let line = |page: &str| page.lines().find(|line| line.contains("<td>Drift since training</td>")).unwrap().to_owned();
    let (moved, psi) = page(400, 1000.0);
    let of_check = line(&moved);
    assert!(
        of_check.contains("status warning") && of_check.contains("verdicts should not be trusted: 1 of 6 features has moved")
    );
    assert!(of_check.contains(&format!("`sbytes` {psi:.2}")), "{of_check}");
    let row = format!("<tr><td>sbytes</td><td class=\"warning\">moved</td><td class=\"number\">{psi:.3}</td>");
    assert!(moved.contains(&row), "{row}");
    assert!(moved.find(&row) < moved.find(" features that have not</summary>"));
    let gaps = edited(400, 10, |row, cells, columns| {
        if row % 10 < 3 {
            cells[columns["dur"]].clear();
        }
    });
    folder.write("now.csv", gaps);
    let data = [folder.path("now.csv")];
    let found = evaluate(&run, &data, &PredictOptions::default(), &mut |_| Ok(()), &mut Silent).unwrap();
    let gaps = report_of(&run, &data, found).unwrap();
    let row = gaps.lines().find(|line| line.starts_with("<tr><td>dur</td><td class=\"warning\">moved")).unwrap();
    assert!(row.contains("<td class=\"number\"></td><td class=\"number\">30.0 %</td>"), "{row}");
    let (same, _) = page(400, 1.0);
    assert!(line(&same).contains("status pass") && same.contains("None of 6 features has shifted or moved."), "{}", line(&same));
    let (few, _) = page(20, 1000.0);
    assert!(line(&few).contains("status skipped") && line(&few).contains("20 rows are too few"), "{}", line(&few));
}

#[test]
fn a_new_category_and_missing_numbers_have_moved() {
    let (folder, run) = trained(&[]);
    let new = edited(400, 10, |row, cells, columns| {
        if row % 10 < 6 {
            "quic".clone_into(&mut cells[columns["proto"]]);
        }
    });
    let (drift, ..) = watched(&folder, &run, &new);
    assert_eq!(moved(&drift), ["proto"]);
    let of_proto = &drift.features[0];
    assert!((of_proto.never_seen - 0.6).abs() < 0.02 && of_proto.missing == 0.0, "{of_proto:?}");
    assert!(drift.warnings.iter().any(|why| why.contains("`proto` is missing in 0 % of the rows")), "{:?}", drift.warnings);
    let missing = edited(400, 10, |row, cells, columns| {
        if row % 10 < 3 {
            cells[columns["dur"]].clear();
        }
    });
    let (drift, ..) = watched(&folder, &run, &missing);
    assert_eq!(moved(&drift), ["dur"]);
    assert!((drift.features[0].missing - 0.3).abs() < 0.02 && drift.features[0].training_missing == 0.0);
    assert!(!drift.warnings.iter().any(|why| why.contains("`dur`")), "{:?}", drift.warnings);
}

/// Benign rows alone differ from training rows of which half are attacks, and yet their verdicts are as good.
#[test]
fn another_share_of_attacks_is_told_and_is_no_drift() {
    let (folder, run) = trained(&[]);
    let table = cells(&flows(2000, 10));
    let label = column(&table, "label");
    let benign: Vec<Vec<String>> = table.into_iter().filter(|row| row[label] != "1").collect();
    let (drift, _, told) = watched(&folder, &run, &csv(&benign));
    assert!(drift.attack_share.unwrap() < 0.1 && drift.training_attack_share.unwrap() > 0.4, "{}", drift.line());
    assert!(drift.features.iter().any(|feature| feature.training.unwrap().psi > 0.25), "{}", drift.line());
    assert_eq!((moved(&drift), drift.warnings.len()), (vec![], 0), "{}", drift.line());
    let percent = format!("about {:.0} % of the rows are attacks, ", 100.0 * drift.attack_share.unwrap());
    assert!(told.iter().any(|line| line.starts_with("drift: ") && line.contains(&percent)), "{told:?}");
}

/// Every row is counted once in every histogram, whatever the batches.
#[test]
fn shares_are_those_of_all_rows() {
    let (folder, run) = trained(&[]);
    let options = CalibrateOptions { alarm: Some(Alarm::Threshold(0.5)), ..CalibrateOptions::default() };
    calibrate(&run, &options, &mut Silent).unwrap();
    let text = edited(5000, 10, |row, cells, columns| {
        if row < 1000 {
            "tcp".clone_into(&mut cells[columns["proto"]]);
        }
    });
    let (drift, out, _) = watched(&folder, &run, &text);
    let table = cells(&text);
    let proto = column(&table, "proto");
    let n_tcp = table.iter().filter(|row| row[proto] == "tcp").count();
    let of = |name: &str| drift.features.iter().find(|feature| feature.feature == name).unwrap();
    let json = serde_json::to_value(of("proto")).unwrap();
    let tcp = json["bins"].as_array().unwrap().iter().find(|bin| bin["of"]["value"] == "tcp").unwrap();
    assert_eq!(tcp["here"], n_tcp as f64 / 5000.0);
    let all = drift.features.iter().map(|feature| &feature.bins).chain([&drift.scores.as_ref().unwrap().bins]);
    for bins in all.chain([&drift.p_values.as_ref().unwrap().bins]) {
        let reference: f64 = bins.iter().map(|bin| bin.reference).sum();
        let here: f64 = bins.iter().map(|bin| bin.here).sum();
        assert!((reference - 1.0).abs() < 1e-9 && (here - 1.0).abs() < 1e-9, "{bins:?}");
    }
    // p-values as `predict` writes them
    let verdicts = cells(&String::from_utf8(out).unwrap());
    let p_value = column(&verdicts, "p_value");
    let lowest = verdicts[1..].iter().filter(|row| row[p_value].parse::<f64>().unwrap() <= 0.1).count();
    assert!((drift.p_values.unwrap().bins[0].here - lowest as f64 / 5000.0).abs() < 1e-9);
}

#[test]
fn the_profile_counts_training_rows_alone_and_looks_at_labels_that_were_learned() {
    for (settings, n_labels) in [(&["finetune.labels=40"][..], Some(40)), (&[], None)] {
        let (folder, run) = trained(settings);
        let config = folder.config(&[SETTINGS, settings]);
        let split = labelled(&config, &mut run.look(Stage::Finetune, &config), &mut Silent).unwrap().split;
        let bytes = fs::read(run.folder().join(PROFILE)).unwrap();
        assert!(bytes.len() < 8192, "{} bytes", bytes.len());
        let profile = Profile::from_bytes(&bytes).unwrap();
        let sum = |counts: &[u64]| counts.iter().sum::<u64>() as usize;
        for feature in &profile.features {
            assert_eq!(sum(&feature.all), split.train.len());
            assert_eq!(sum(&feature.benign) + sum(&feature.attacks), n_labels.unwrap_or(split.train.len()));
            let FeatureBins::Numbers(_) = &feature.bins else { continue };
            let counts = feature.benign.iter().zip(&feature.attacks).zip(&feature.all);
            assert!(counts.into_iter().all(|((benign, attacks), all)| benign + attacks <= *all), "{feature:?}");
        }
        assert_eq!(sum(&profile.scores.benign) + sum(&profile.scores.attacks), split.val.len());
    }
}

#[test]
fn a_run_of_before_has_no_profile_and_gives_the_same_verdicts() {
    let (folder, run) = trained(&[]);
    let (_, verdicts, _) = watched(&folder, &run, &flows(300, 10));
    let path = run.folder().join("manifest-finetune.json");
    let mut manifest: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["outputs"].as_object_mut().unwrap().remove(PROFILE).unwrap();
    folder.write("run/manifest-finetune.json", manifest.to_string());
    let (mut out, mut told) = (Vec::new(), Told::default());
    let (data, options) = ([folder.path("now.csv")], PredictOptions::default());
    let summary = predict(&run, &data, &options, &mut out, &mut |_| Ok(()), &mut told).unwrap();
    assert!(summary.drift.is_none() && out == verdicts);
    assert_eq!(told.0.iter().filter(|line| line.starts_with("drift: not watched, since the run has no profile.json")).count(), 1);
    let mut told = Told::default();
    evaluate(&run, &data, &options, &mut |_| Ok(()), &mut told).unwrap();
    assert_eq!(told.0.iter().filter(|line| line.starts_with("drift: ")).count(), 1, "{:?}", told.0);
}
