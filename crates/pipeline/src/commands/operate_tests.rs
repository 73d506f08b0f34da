//! What `calibrate` and `adapt` make of a run.

use std::fs;
use std::path::Path;

use nids_detect::Detector;
use nids_detect::operation::{Adaptation, Calibration, OperatingPoint};
use nids_eval::calibration::ScalingKind;
use nids_eval::metrics::Evaluation;
use nids_eval::operating::BenignScores;
use nids_flows::{ReadOptions, read};
use nids_store::artefacts::digest;
use nids_store::progress::Silent;
use nids_store::run::{ADAPTATION, CALIBRATION, MODEL, Run};
use nids_store::{Error, Result};

use super::adapt::{AdaptOptions, AdaptReport, adapt, undo_adapt};
use super::calibrate::{CalibrateOptions, CalibrateReport, calibrate};
use super::predict::{Alarm, PredictOptions, evaluate, predict};
use crate::stages::finetune;
use crate::testing::{Folder, cells, column, csv, flows};

const SETTINGS: &[&str] = &[
    "name=x",
    "data.schema=DIR/schema.yaml",
    "data.train=DIR/train.csv",
    "data.validation_fraction=0.4",
    "model.dim=8",
    "model.depth=1",
    "engine.threads=1",
    "finetune.from=scratch",
    "finetune.steps=60",
    "finetune.batch_size=64",
];

fn trained(folder: &Folder, settings: &[&str]) -> Run {
    folder.write("train.csv", flows(600, 3));
    folder.write("new.csv", flows(400, 4));
    let run = folder.run("run");
    finetune(&folder.config(&[SETTINGS, settings]), &run, &mut Silent).unwrap();
    run
}

/// New flows of which a share of the attacks is left out, and where the labels of some protocols are turned round.
fn shifted(folder: &Folder, keep_attacks: usize, turned: &str) {
    let mut rows = cells(&flows(1500, 5));
    let (label, proto) = (column(&rows, "label"), column(&rows, "proto"));
    let header = rows.remove(0);
    let mut n_attacks = 0;
    rows.retain(|row| {
        n_attacks += usize::from(row[label] == "1");
        row[label] == "0" || n_attacks % keep_attacks == 0
    });
    for row in rows.iter_mut().filter(|row| row[proto] == turned) {
        row[label] = if row[label] == "1" { "0" } else { "1" }.to_owned();
    }
    rows.insert(0, header);
    folder.write("shifted.csv", csv(&rows));
}

fn budget(run: &Run, fpr: f64) -> Result<CalibrateReport> {
    let options =
        CalibrateOptions { alarm: Some(Alarm::Budget(fpr)), scaling: Some(ScalingKind::Platt), ..CalibrateOptions::default() };
    calibrate(run, &options, &mut Silent)
}

fn adapted(run: &Run, data: &Path, no_labels: bool) -> Result<AdaptReport> {
    adapt(run, &AdaptOptions { data: vec![data.to_owned()], no_labels, ..AdaptOptions::default() }, &mut Silent)
}

fn evaluated(run: &Run, data: &Path, alarm: Option<Alarm>) -> Evaluation {
    let options = PredictOptions { alarm, ..PredictOptions::default() };
    evaluate(run, &[data.to_owned()], &options, &mut |_| Ok(()), &mut Silent).unwrap().evaluation
}

fn verdicts(run: &Run, data: &Path) -> Result<Vec<Vec<String>>> {
    let mut out = Vec::new();
    predict(run, &[data.to_owned()], &PredictOptions::default(), &mut out, &mut |_| Ok(()), &mut Silent)?;
    Ok(cells(&String::from_utf8(out).unwrap()))
}

fn calibration(run: &Run) -> Calibration {
    Calibration::from_bytes(&fs::read(run.folder().join(CALIBRATION)).unwrap()).unwrap()
}

fn adaptation(run: &Run) -> Adaptation {
    Adaptation::from_bytes(&fs::read(run.folder().join(ADAPTATION)).unwrap(), 6).unwrap()
}

#[test]
fn a_calibrated_run_gives_p_values_and_keeps_the_order_of_rows() {
    let folder = Folder::new();
    let run = trained(&folder, &[]);
    let data = folder.path("new.csv");
    let before = verdicts(&run, &data).unwrap();
    assert_eq!(before[0], ["id", "probability", "verdict"]);
    let found = budget(&run, 0.1).unwrap();
    let after = verdicts(&run, &data).unwrap();
    assert_eq!(after[0], ["id", "probability", "verdict", "p_value"]);
    let number = |cell: &String| cell.parse::<f64>().unwrap();
    let mut rows: Vec<[f64; 3]> =
        before.iter().zip(&after).skip(1).map(|(b, a)| [number(&b[1]), number(&a[1]), number(&a[3])]).collect();
    rows.sort_by(|a, b| a[0].total_cmp(&b[0]));
    assert!(rows.is_sorted_by(|a, b| a[1] <= b[1] && a[2] >= b[2]) && rows.iter().any(|row| (row[0] - row[1]).abs() > 0.01));
    let threshold = found.threshold.unwrap();
    for row in &after[1..] {
        assert_eq!(row[2] == "attack", number(&row[1]) >= threshold, "{row:?}");
    }
    // of the library, too
    let detector = Detector::open(&run).unwrap();
    let flows = read(&data, detector.schema(), &ReadOptions::default()).unwrap();
    for (verdict, row) in detector.score(&flows).unwrap().iter().zip(&after[1..]) {
        assert_eq!((format!("{:?}", verdict.probability), verdict.p_value), (row[1].clone(), Some(number(&row[3]))));
        assert_eq!(verdict.is_attack, row[2] == "attack");
    }
}

#[test]
fn the_threshold_is_certified_on_benign_rows_that_were_held_out() {
    let folder = Folder::new();
    let run = trained(&folder, &[]);
    let found = budget(&run, 0.1).unwrap();
    // 40 % of 600 rows, the benign ones of which alone count
    assert!((80..160).contains(&found.benign) && (80..160).contains(&found.attacks), "{found:?}");
    let Calibration { benign, rows, point, model, .. } = calibration(&run);
    assert_eq!((benign.n(), rows.benign, model), (found.benign, found.benign, digest(&run.folder().join(MODEL)).unwrap()));
    let certified = benign.certified(0.1, 0.95).unwrap();
    assert_eq!(point, OperatingPoint::Budget { fpr: 0.1, threshold: f64::from(certified.threshold) });
    assert!(found.false_alarms.unwrap() < 0.1 && certified.bound <= 0.1);
    // the training rows would look better; the validation rows of the stage are these
    let validation = nids_flows::split(
        &read(&folder.path("train.csv"), Detector::open(&run).unwrap().schema(), &ReadOptions::labelled()).unwrap(),
        0.4,
        0,
    );
    assert_eq!(validation.unwrap().val.len() as u64, found.benign + found.attacks);
    let error = budget(&run, 0.01).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("needs 299 of them"), "{error}");
    assert_eq!(calibration(&run).point, point, "what is refused changes nothing");
}

#[test]
fn a_budget_needs_no_stored_calibration_and_goes_before_one() {
    let folder = Folder::new();
    let run = trained(&folder, &[]);
    let data = folder.path("new.csv");
    let plain = evaluated(&run, &data, Some(Alarm::Budget(0.1)));
    assert!(!run.folder().join(CALIBRATION).exists());
    budget(&run, 0.4).unwrap();
    let [stored, asked] = [None, Some(Alarm::Budget(0.1))].map(|alarm| evaluated(&run, &data, alarm));
    // on the scale of calibrated probabilities, the same rows are alarms
    assert_eq!((plain.fpr, plain.metrics.recall), (asked.fpr, asked.metrics.recall));
    assert!(stored.threshold < asked.threshold && stored.fpr > asked.fpr, "{stored:?} {asked:?}");
    let at = CalibrateOptions { alarm: Some(Alarm::Threshold(0.3)), ..CalibrateOptions::default() };
    assert_eq!(calibrate(&run, &at, &mut Silent).unwrap().threshold, Some(0.3));
    assert!((evaluated(&run, &data, None).threshold - 0.3).abs() < 1e-12);
    let half = evaluated(&run, &data, Some(Alarm::Threshold(0.5)));
    assert!((half.threshold - 0.5).abs() < 1e-12);
    assert_eq!(Alarm::per_day(50.0, 1e6).unwrap(), Alarm::Budget(5e-5));
    assert!([(0.0, 1.0), (2.0, 1.0), (1.0, f64::INFINITY), (f64::NAN, 1.0)].iter().all(|&(n, m)| Alarm::per_day(n, m).is_err()));
}

#[test]
fn a_scaling_lowers_the_log_loss_of_a_model_that_is_too_sure() {
    let folder = Folder::new();
    let run = trained(&folder, &["finetune.steps=400", "finetune.lr=0.02"]);
    let data = folder.path("new.csv");
    let before = evaluated(&run, &data, None);
    calibrate(&run, &CalibrateOptions { scaling: Some(ScalingKind::Platt), ..CalibrateOptions::default() }, &mut Silent).unwrap();
    let after = evaluated(&run, &data, None);
    assert!(after.metrics.log_loss < before.metrics.log_loss, "{before:?} {after:?}");
    assert!((after.metrics.roc_auc.unwrap() - before.metrics.roc_auc.unwrap()).abs() < 1e-3);
    assert!((after.threshold - 0.5).abs() < 1e-12, "no budget was asked for");
    let none = CalibrateOptions { scaling: None, ..CalibrateOptions::default() };
    calibrate(&run, &none, &mut Silent).unwrap();
    assert!(calibration(&run).scaling.is_none() && evaluated(&run, &data, None).metrics == before.metrics);
}

#[test]
fn labelled_files_calibrate_a_run_as_well() {
    let folder = Folder::new();
    let run = trained(&folder, &[]);
    let data = folder.path("new.csv");
    let of = |path: &Path| CalibrateOptions {
        data: Some(vec![path.to_owned()]),
        alarm: Some(Alarm::Budget(0.05)),
        ..CalibrateOptions::default()
    };
    let found = calibrate(&run, &of(&data), &mut Silent).unwrap();
    assert_eq!(found.benign + found.attacks, 400);
    let evaluation = evaluated(&run, &data, None);
    assert_eq!((evaluation.fpr, evaluation.metrics.recall), (found.false_alarms, found.recall));
    // benign rows alone: no scaling, and a threshold all the same
    let rows = cells(&flows(400, 4));
    let label = column(&rows, "label");
    folder.write("benign.csv", csv(&rows.into_iter().filter(|row| row[label] != "1").collect::<Vec<_>>()));
    let benign = CalibrateOptions { scaling: Some(ScalingKind::Platt), ..of(&folder.path("benign.csv")) };
    let found = calibrate(&run, &benign, &mut Silent).unwrap();
    assert_eq!((found.scaling, found.recall, found.attacks), (None, None, 0));
    let error = calibrate(&run, &of(Path::new("-")), &mut Silent).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
}

#[test]
fn a_calibration_of_another_classifier_is_refused_until_it_is_made_again() {
    let folder = Folder::new();
    let run = trained(&folder, &[]);
    budget(&run, 0.1).unwrap();
    finetune(&folder.config(&[SETTINGS, &["seed=1"]]), &run, &mut Silent).unwrap();
    let data = folder.path("new.csv");
    let error = verdicts(&run, &data).unwrap_err();
    let text = error.to_string().replace(&run.folder().display().to_string(), "RUN");
    assert_eq!(error.exit_code(), 4);
    insta::assert_snapshot!(text, @"RUN/calibration.json: stale: made for another `model.safetensors`: run `nids-mixer calibrate --run RUN` again, or remove the file");
    budget(&run, 0.1).unwrap();
    verdicts(&run, &data).unwrap();
    // what cannot be read is refused as well
    for content in ["", "{}", "[1", &"x".repeat(3 << 20)] {
        run.write(CALIBRATION, content.as_bytes()).unwrap();
        assert_eq!(verdicts(&run, &data).unwrap_err().exit_code(), 4);
    }
}

#[test]
fn rows_that_may_have_been_trained_on_calibrate_nothing() {
    let folder = Folder::new();
    let run = trained(&folder, &[]);
    folder.write("train.csv", flows(600, 8));
    let error = budget(&run, 0.1).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("the file behind `data.train` has changed since `finetune` ran"), "{error}");
}

#[test]
fn labels_of_another_network_change_verdicts_until_they_are_taken_back() {
    let folder = Folder::new();
    let run = trained(&folder, &[]);
    shifted(&folder, 1, "udp");
    let data = folder.path("shifted.csv");
    let (before, first) = (verdicts(&run, &data).unwrap(), evaluated(&run, &data, None));
    let report = adapted(&run, &data, false).unwrap();
    let second = evaluated(&run, &data, None);
    assert_eq!((report.by, report.rows), ("labels", 1500));
    assert!(report.segments > 1, "a protocol whose labels are turned round is a segment: {report:?}");
    assert!(report.after.log_loss < report.before.log_loss && report.after.accuracy > report.before.accuracy, "{report:?}");
    assert!((report.before.log_loss.unwrap() - first.metrics.log_loss.unwrap()).abs() < 1e-3, "{report:?} {first:?}");
    assert!(second.metrics.accuracy > first.metrics.accuracy && second.metrics.log_loss < first.metrics.log_loss);
    assert!(verdicts(&run, &data).unwrap() != before);
    assert_eq!(verdicts(&run, &data).unwrap()[0], ["id", "probability", "verdict"], "no p-values without a calibration");
    assert!(undo_adapt(&run, &mut Silent).unwrap() && !undo_adapt(&run, &mut Silent).unwrap());
    assert!(verdicts(&run, &data).unwrap() == before);
}

#[test]
fn without_labels_the_share_of_attacks_is_estimated() {
    let folder = Folder::new();
    let run = trained(&folder, &[]);
    shifted(&folder, 6, "none");
    let data = folder.path("shifted.csv");
    let labels: Vec<String> =
        cells(&fs::read_to_string(&data).unwrap()).into_iter().skip(1).map(|row| row[row.len() - 1].clone()).collect();
    let share = labels.iter().filter(|label| *label == "1").count() as f64 / labels.len() as f64;
    let first = evaluated(&run, &data, None);
    let report = adapted(&run, &data, true).unwrap();
    assert_eq!((report.by, report.before.log_loss, report.after.accuracy), ("prior", None, None));
    let [before, after] = [report.before.prior, report.after.prior];
    assert!((after - share).abs() < 0.06 && (before - share).abs() > 0.2, "{share} {report:?}");
    assert!(evaluated(&run, &data, None).metrics.log_loss < first.metrics.log_loss);
    // a file without the column is adapted to in the same way
    let mut rows = cells(&fs::read_to_string(&data).unwrap());
    let label = column(&rows, "label");
    for row in &mut rows {
        row.remove(label);
    }
    folder.write("bare.csv", csv(&rows));
    let wanted = adaptation(&run).correction;
    adapted(&run, &folder.path("bare.csv"), false).unwrap();
    assert_eq!(adaptation(&run).correction, wanted);
}

#[test]
fn what_does_not_help_changes_nothing() {
    let folder = Folder::new();
    let run = trained(&folder, &[]);
    let data = folder.path("new.csv");
    let of_data =
        CalibrateOptions { data: Some(vec![data.clone()]), scaling: Some(ScalingKind::Platt), ..CalibrateOptions::default() };
    calibrate(&run, &of_data, &mut Silent).unwrap();
    let before = verdicts(&run, &data).unwrap();
    // the rows that it was calibrated on: the share of attacks is theirs
    let error = adapted(&run, &data, true).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().ends_with("below 3.84): nothing is changed"), "{error}");
    // a few labels, all of one class
    let rows = cells(&flows(400, 4));
    let label = column(&rows, "label");
    folder.write("few.csv", csv(&rows.into_iter().filter(|row| row[label] != "1").collect::<Vec<_>>()));
    let error = adapted(&run, &folder.path("few.csv"), false).unwrap_err();
    assert!(error.to_string().contains("expected labels of at least 10 different rows of each class"), "{error}");
    assert!(!run.folder().join(ADAPTATION).exists() && verdicts(&run, &data).unwrap() == before);
}

#[test]
fn a_budget_is_carried_over_to_corrected_scores() {
    let folder = Folder::new();
    let run = trained(&folder, &[]);
    budget(&run, 0.1).unwrap();
    shifted(&folder, 4, "udp");
    let data = folder.path("shifted.csv");
    for no_labels in [false, true] {
        let report = adapted(&run, &data, no_labels).unwrap();
        let carried = adaptation(&run).carried.unwrap();
        let certified = carried.benign.certified(0.1, 0.95).unwrap();
        assert_eq!(carried.point, OperatingPoint::Budget { fpr: 0.1, threshold: f64::from(certified.threshold) });
        assert_eq!((carried.benign.n(), report.threshold), (calibration(&run).benign.n(), f64::from(certified.threshold)));
        let evaluation = evaluated(&run, &data, None);
        assert!((evaluation.threshold - report.threshold).abs() < 1e-12);
        // the rows that were held out are judged by what the run says now
        let detector = Detector::open(&run).unwrap();
        let flows = read(&folder.path("train.csv"), detector.schema(), &ReadOptions::labelled()).unwrap();
        let held_out = flows.select(&nids_flows::split(&flows, 0.4, 0).unwrap().val);
        let labels = held_out.labels().unwrap();
        let benign: Vec<u32> = (0..labels.len() as u32).filter(|&row| labels[row as usize] == 0).collect();
        let scores = detector.scored_flows(&held_out.select(&benign)).unwrap().attacks;
        assert_eq!(carried.benign, BenignScores::new(&scores).unwrap());
        let p_value = detector.score(&held_out).unwrap()[0].p_value.unwrap();
        assert!((p_value - carried.benign.p_value(detector.scored_flows(&held_out).unwrap().attacks[0])).abs() < 1e-12);
        if no_labels {
            // one shift for all rows: none changes its place
            assert_eq!((certified.alarms, adaptation(&run).correction.segments.len()), (calibration_alarms(&run), 0));
        }
    }
    let error = budget(&run, 0.1).unwrap_err();
    assert!(error.to_string().contains("adapt --undo"), "{error}");
    // another calibration makes the adaptation stale
    let mut other = calibration(&run);
    other.point = OperatingPoint::Config;
    run.write(CALIBRATION, &other.to_bytes()).unwrap();
    let error = verdicts(&run, &data).unwrap_err();
    assert!(
        matches!(error, Error::Artefact { .. }) && error.to_string().contains("made for another `calibration.json`"),
        "{error}"
    );
    undo_adapt(&run, &mut Silent).unwrap();
    verdicts(&run, &data).unwrap();
}

#[test]
fn files_that_have_changed_carry_no_budget_over() {
    let folder = Folder::new();
    let run = trained(&folder, &[]);
    shifted(&folder, 1, "udp");
    let options = CalibrateOptions {
        data: Some(vec![folder.path("new.csv")]),
        alarm: Some(Alarm::Budget(0.1)),
        ..CalibrateOptions::default()
    };
    calibrate(&run, &options, &mut Silent).unwrap();
    folder.write("new.csv", flows(400, 9));
    let error = adapted(&run, &folder.path("shifted.csv"), false).unwrap_err();
    assert_eq!((error.exit_code(), run.has(ADAPTATION)), (3, false));
    assert!(error.to_string().contains("changed since `calibrate` read it"), "{error}");
    folder.write("new.csv", flows(400, 4));
    adapted(&run, &folder.path("shifted.csv"), false).unwrap();
    assert_eq!(adaptation(&run).carried.unwrap().benign.n(), calibration(&run).benign.n());
}

fn calibration_alarms(run: &Run) -> u64 {
    calibration(run).benign.certified(0.1, 0.95).unwrap().alarms
}

#[test]
fn categories_are_told_apart_at_the_new_threshold() {
    let folder = Folder::new();
    let run = trained(&folder, &["finetune.task=multiclass"]);
    budget(&run, 0.1).unwrap();
    let data = folder.path("new.csv");
    let rows = verdicts(&run, &data).unwrap();
    assert_eq!(rows[0], ["id", "probability", "verdict", "category", "p_value"]);
    assert!(rows[1..].iter().all(|row| (row[2] == "attack") == (row[3] != "Normal")));
    let found = evaluated(&run, &data, None);
    let alarms = rows[1..].iter().filter(|row| row[2] == "attack").count();
    let by_category = found.found_by_category.unwrap();
    let caught: u64 = by_category.values().map(|category| category.found).sum();
    let attacks: u64 = by_category.values().map(|category| category.rows).sum();
    let false_alarms = (found.fpr.unwrap() * (400 - attacks) as f64).round() as u64;
    assert_eq!(caught + false_alarms, alarms as u64);
    assert!(!by_category.contains_key("Normal") && by_category.len() > 2);
    assert!((caught as f64 / attacks as f64 - found.metrics.recall.unwrap()).abs() < 1e-12);
}
