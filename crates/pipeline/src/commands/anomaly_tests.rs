//! What `--score anomaly` and `--score both` say.

use std::fs;
use std::path::Path;

use nids_detect::anomaly::Reference;
use nids_detect::{Autoencoder, Detector};
use nids_eval::anomaly::{fused, squashed};
use nids_eval::calibration::log_odds;
use nids_eval::metrics::Evaluation;
use nids_flows::ReadOptions;
use nids_store::progress::Silent;
use nids_store::run::{ANOMALY, Run};
use nids_store::{Error, Result};

use super::anomaly::{AnomalyReport, Score, calibrate_anomaly};
use super::predict::{Alarm, PredictOptions, evaluate, predict};
use crate::stages::{finetune, pretrain};
use crate::testing::{Folder, Told, cells, column, csv, flows};

const SETTINGS: &[&str] = &[
    "name=x",
    "data.schema=DIR/schema.yaml",
    "data.train=DIR/train.csv",
    "data.validation_fraction=0.4",
    "model.dim=16",
    "model.depth=1",
    "engine.threads=1",
    "pretrain.objective.mae.target=bins",
    "pretrain.rows=benign",
    "pretrain.steps=250",
    "pretrain.batch_size=64",
    "pretrain.micro_batch=64",
    "tokeniser.bins=8",
    "finetune.steps=30",
    "finetune.batch_size=64",
    "finetune.micro_batch=64",
];

/// Generated flows in which the attacks have another protocol than the benign ones: nothing is easier to find.
fn plain(rows: usize, seed: u64) -> Vec<Vec<String>> {
    let mut rows = cells(&flows(rows, seed));
    let (label, proto, ttl) = (column(&rows, "label"), column(&rows, "proto"), column(&rows, "sttl"));
    for row in &mut rows[1..] {
        if row[label] == "1" {
            row[proto] = "icmp".to_owned();
            row[ttl] = "77".to_owned();
        }
    }
    rows
}

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("train.csv", csv(&plain(900, 3)));
    folder.write("new.csv", csv(&plain(400, 4)));
    folder
}

fn pretrained(folder: &Folder, settings: &[&str]) -> Run {
    let run = folder.run("run");
    pretrain(&folder.config(&[SETTINGS, settings]), &run, &mut Silent).unwrap();
    run
}

fn options(score: Score, alarm: Option<Alarm>) -> PredictOptions {
    PredictOptions { score, alarm, ..PredictOptions::default() }
}

fn predicted(run: &Run, data: &Path, options: &PredictOptions, told: &mut Vec<String>) -> Result<Vec<Vec<String>>> {
    let mut out = Vec::new();
    let mut progress = Told::default();
    let done = predict(run, &[data.to_owned()], options, &mut out, &mut |_| Ok(()), &mut progress);
    told.extend(progress.0);
    done?;
    Ok(cells(&String::from_utf8(out).unwrap()))
}

fn evaluated(run: &Run, data: &Path, options: &PredictOptions) -> Result<Evaluation> {
    evaluate(run, &[data.to_owned()], options, &mut |_| Ok(()), &mut Silent).map(|found| found.evaluation)
}

fn kept(run: &Run, score: Score) -> AnomalyReport {
    calibrate_anomaly(run, score, None, &mut Silent).unwrap()
}

fn reference(run: &Run) -> Reference {
    Reference::read(run, &Autoencoder::open(run).unwrap()).unwrap().unwrap()
}

fn number(cell: &str) -> f64 {
    cell.parse().unwrap()
}

#[test]
fn an_autoencoder_of_benign_rows_finds_attacks_without_a_classifier() {
    let folder = folder();
    let run = pretrained(&folder, &[]);
    let data = folder.path("new.csv");
    let found = evaluated(&run, &data, &options(Score::Anomaly, Some(Alarm::Budget(0.05)))).unwrap();
    assert!(found.metrics.roc_auc.unwrap() > 0.95 && found.metrics.recall.unwrap() > 0.9, "{:?}", found.metrics);
    assert!(found.fpr.unwrap() < 0.1 && found.recall_by_category.is_some());
    // a score is no probability
    assert_eq!((found.ece, found.metrics.log_loss, found.metrics.brier), (None, None, None));

    let mut told = Vec::new();
    let rows = predicted(&run, &data, &options(Score::Anomaly, Some(Alarm::Budget(0.05))), &mut told).unwrap();
    assert_eq!(rows[0], ["id", "score", "verdict", "surprising", "p_value"]);
    assert!(told.iter().any(|text| text.starts_with("no anomaly.json")), "{told:?}");
    let (truth, mut by_proto) = (plain(400, 4), 0);
    let label = column(&truth, "label");
    for (row, truth) in rows[1..].iter().zip(&truth[1..]) {
        assert_eq!(row[2], if number(&row[1]) >= found.threshold { "anomaly" } else { "normal" }, "{row:?}");
        by_proto += usize::from(truth[label] == "1" && ["proto", "sttl"].contains(&row[3].as_str()));
    }
    let attacks = truth[1..].iter().filter(|row| row[label] == "1").count();
    assert!(10 * by_proto > 9 * attacks, "{by_proto} of {attacks}");
    assert!(rows[1..].iter().all(|row| (0.0..=1.0).contains(&number(&row[4]))));
}

#[test]
fn scores_are_compared_with_benign_rows_that_pretraining_has_not_learned() {
    let folder = folder();
    let run = pretrained(&folder, &[]);
    let before = predicted(&run, &folder.path("new.csv"), &options(Score::Anomaly, None), &mut Vec::new()).unwrap();
    let report = kept(&run, Score::Anomaly);
    assert!(report.are_benign && !report.are_learned && report.compared_fused.is_none(), "{report:?}");
    // what is kept is what is found without it
    let mut told = Vec::new();
    let after = predicted(&run, &folder.path("new.csv"), &options(Score::Anomaly, None), &mut told).unwrap();
    assert_eq!(before, after);
    assert!(told.iter().all(|text| !text.starts_with("no anomaly.json")), "{told:?}");

    // the validation part, without its attacks, is a file that gives the same scores of the rows compared with
    let labels = plain(900, 3);
    let label = column(&labels, "label");
    let benign = labels[1..].iter().filter(|row| row[label] == "0").count() as f64;
    assert!((report.compared as f64 - 0.4 * benign).abs() <= 2.0, "{report:?} of {benign}");
    let found = reference(&run);
    assert_eq!(found.benign.n(), report.compared);
    for (row, after) in after[1..].iter().enumerate() {
        assert_eq!(after[4], format!("{:?}", found.benign.p_value(after[1].parse().unwrap())), "row {row}");
    }
}

#[test]
fn benign_rows_of_a_file_are_those_that_its_labels_say() {
    let folder = folder();
    let run = pretrained(&folder, &[]);
    let mut rows = plain(500, 6);
    let label = column(&rows, "label");
    folder.write("mixed.csv", csv(&rows));
    let header = rows.remove(0);
    rows.retain(|row| row[label] == "0");
    rows.insert(0, header);
    let n_benign = rows.len() - 1;
    folder.write("benign.csv", csv(&rows));
    for row in &mut rows {
        row.remove(label);
    }
    folder.write("unlabelled.csv", csv(&rows));
    let read = ReadOptions::default();
    let of = |name: &str| {
        let report = calibrate_anomaly(&run, Score::Anomaly, Some((&[folder.path(name)], &read)), &mut Silent).unwrap();
        (report, reference(&run))
    };
    let (mixed, of_mixed) = of("mixed.csv");
    let (_, of_benign) = of("benign.csv");
    let (unlabelled, of_unlabelled) = of("unlabelled.csv");
    assert!(mixed.are_benign && !unlabelled.are_benign && mixed.compared as usize <= n_benign / 2 + 1);
    assert_eq!((&of_mixed.usual, &of_mixed.benign), (&of_benign.usual, &of_benign.benign));
    assert_eq!((&of_mixed.usual, &of_mixed.benign), (&of_unlabelled.usual, &of_unlabelled.benign));
    let mut told = Vec::new();
    predicted(&run, &folder.path("new.csv"), &options(Score::Anomaly, None), &mut told).unwrap();
    assert!(told.iter().any(|text| text.starts_with("warning: nobody knows whether")), "{told:?}");
}

#[test]
fn without_labels_the_rows_compared_with_are_those_learned_and_that_is_said() {
    let folder = folder();
    let run = pretrained(&folder, &["data.train=null", "data.unlabelled=DIR/train.csv", "pretrain.rows=all"]);
    let mut told = Vec::new();
    predicted(&run, &folder.path("new.csv"), &options(Score::Anomaly, None), &mut told).unwrap();
    for start in ["warning: nobody knows whether", "warning: pretraining has learned"] {
        assert!(told.iter().any(|text| text.starts_with(start)), "{start}: {told:?}");
    }
    let error = predicted(&run, &folder.path("new.csv"), &options(Score::Both, None), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Artefact { .. }), "{error}");
}

#[test]
fn both_scores_are_fused_on_one_half_and_judged_by_the_other() {
    let folder = folder();
    let run = pretrained(&folder, &[]);
    finetune(&folder.config(&[SETTINGS]), &run, &mut Silent).unwrap();
    let data = folder.path("new.csv");
    let by = options(Score::Both, Some(Alarm::Budget(0.05)));
    let rows = predicted(&run, &data, &by, &mut Vec::new()).unwrap();
    assert_eq!(rows[0], ["id", "probability", "score", "verdict", "surprising", "p_value"]);
    let report = kept(&run, Score::Both);
    assert_eq!(rows, predicted(&run, &data, &by, &mut Vec::new()).unwrap());
    let found = reference(&run);
    let fusion = found.fusion.unwrap();
    let half = report.compared / 2;
    assert!(report.compared_fused.unwrap().abs_diff(half) <= half / 10, "{report:?}");
    let (alone, threshold) = (
        predicted(&run, &data, &options(Score::Anomaly, None), &mut Vec::new()).unwrap(),
        evaluated(&run, &data, &by).unwrap().threshold,
    );
    let detector = Detector::open(&run).unwrap();
    let flows = nids_flows::read(&data, detector.schema(), &ReadOptions::default()).unwrap();
    let scores = detector.model_scores(&flows).unwrap();
    let mut n_raised = 0;
    for ((both, alone), score) in rows[1..].iter().zip(&alone[1..]).zip(scores) {
        assert_eq!((&both[1], &both[4]), (&format!("{score:?}"), &alone[3]));
        assert_eq!(both[3], if number(&both[2]) >= threshold { "attack" } else { "normal" });
        assert_eq!(both[5], format!("{:?}", fusion.benign.p_value(both[2].parse().unwrap())));
        // the classifier's alone, but for what few benign rows surpass
        let of_classifier = fusion.attack.surprise(log_odds(score));
        assert!(number(&both[2]) >= f64::from(squashed(fused(of_classifier, 0.0))) - 1e-6, "{both:?}");
        n_raised += usize::from(number(&both[2]) > f64::from(squashed(of_classifier)) + 1e-6);
    }
    assert!((50..350).contains(&n_raised), "{n_raised} of 400 rows, half of which are attacks");
}

#[test]
fn what_was_kept_for_other_weights_is_stale() {
    let folder = folder();
    let run = pretrained(&folder, &[]);
    finetune(&folder.config(&[SETTINGS]), &run, &mut Silent).unwrap();
    kept(&run, Score::Anomaly);
    let data = folder.path("new.csv");
    let refused = |score: Score| {
        let error = predicted(&run, &data, &options(score, None), &mut Vec::new()).unwrap_err();
        assert!(matches!(error, Error::Artefact { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(Score::Both).contains("made without a classifier"));
    kept(&run, Score::Both);
    finetune(&folder.config(&[SETTINGS, &["finetune.steps=31"]]), &run, &mut Silent).unwrap();
    assert!(refused(Score::Both).contains("stale: made for another `model.safetensors`"));
    predicted(&run, &data, &options(Score::Anomaly, None), &mut Vec::new()).unwrap();
    pretrain(&folder.config(&[SETTINGS, &["pretrain.steps=251"]]), &run, &mut Silent).unwrap();
    assert!(refused(Score::Anomaly).contains("stale: made for another `pretrained.safetensors`"));
    for content in ["", "{}", "[1]"] {
        run.write(ANOMALY, content.as_bytes()).unwrap();
        assert!(refused(Score::Anomaly).contains(ANOMALY));
    }
    assert!(fs::exists(run.folder().join(ANOMALY)).unwrap(), "nothing is removed");
}

#[test]
fn every_masked_autoencoder_scores_and_no_other_objective() {
    let folder = folder();
    for (place, settings) in
        [["pretrain.objective.mae.target=value"], ["pretrain.objective.mae.encoder=visible_only"]].iter().enumerate()
    {
        let run = folder.run(&format!("mae{place}"));
        pretrain(&folder.config(&[SETTINGS, settings]), &run, &mut Silent).unwrap();
        let found = evaluated(&run, &folder.path("new.csv"), &options(Score::Anomaly, None)).unwrap();
        assert!(found.metrics.roc_auc.unwrap() > 0.85, "{settings:?}: {:?}", found.metrics.roc_auc);
    }
    let run = folder.run("vae");
    let mut settings: Vec<&str> = SETTINGS.iter().copied().filter(|setting| !setting.contains("mae")).collect();
    settings.push("pretrain.objective=vae");
    pretrain(&folder.config(&[&settings]), &run, &mut Silent).unwrap();
    let error = evaluated(&run, &folder.path("new.csv"), &options(Score::Anomaly, None)).unwrap_err();
    assert!(matches!(&error, Error::Usage(text) if text.contains("needs a masked autoencoder")), "{error}");
}

#[test]
fn few_benign_rows_give_an_uncertified_threshold_and_a_warning() {
    let folder = folder();
    folder.write("train.csv", csv(&plain(300, 3)));
    let run = pretrained(&folder, &[]);
    let mut told = Vec::new();
    let rows = predicted(&run, &folder.path("new.csv"), &options(Score::Anomaly, None), &mut told).unwrap();
    assert!(told.iter().any(|text| text.contains("too few to certify")), "{told:?}");
    assert!(rows[1..].iter().filter(|row| row[2] == "anomaly").all(|row| number(&row[4]) <= 0.02));
    let error =
        predicted(&run, &folder.path("new.csv"), &options(Score::Anomaly, Some(Alarm::Budget(0.01))), &mut told).unwrap_err();
    assert!(matches!(&error, Error::Usage(text) if text.contains("needs 299")), "{error}");
}

#[test]
fn the_fuzzer_begins_with_a_reference_that_is_one() {
    let corpus = include_bytes!("../../../../tests/fuzz/corpus/operation/anomaly.json");
    let found = Reference::from_bytes(corpus, 3).unwrap();
    assert!(found.fusion.is_some());
    assert!(Reference::from_bytes(corpus, 2).is_err(), "of another autoencoder");
}
