//! Nothing of what a validation row holds is learned, and what is measured is measured on validation rows alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use nids_flows::equal_rows;
use safetensors::SafeTensors;
use serde_json::Value as Json;

use super::finetune;
use super::resume_tests::run_stage;
use crate::commands::{PredictOptions, evaluate};
use crate::data::{Labelled, labelled};
use crate::testing::{Folder, Told, cells, column, csv, flows, metrics};
use nids_config::{Config, Stage};
use nids_eval::probe::{ProbeScore, RidgeProbe};
use nids_heads::{LogisticRegression, Pca};
use nids_store::npy;
use nids_store::progress::Silent;
use nids_store::run::{BACKGROUND, PROFILE};

const SETTINGS: &[&str] = &[
    "name=x",
    "data.schema=DIR/schema.yaml",
    "data.train=DIR/train.csv",
    "tokeniser.bins=4",
    "tokeniser.min_count=1",
    "model.dim=8",
    "model.depth=1",
    "model.n_registers=1",
    "engine.threads=1",
    "pretrain.steps=3",
    "pretrain.batch_size=16",
    "pretrain.log_every=1",
    "finetune.steps=3",
    "finetune.batch_size=16",
    "finetune.log_every=1",
];

const PRETRAIN: &[Stage] = &[Stage::Pretrain];
const FINETUNE: &[Stage] = &[Stage::Finetune];
const ALL: &[Stage] = &Stage::ALL;
const HEADS: &str = "finetune.heads=[extra_trees, boosting]";
const SCRATCH: &str = "finetune.from=scratch";
const UNLABELLED: &str = "data.unlabelled=DIR/unlabelled.csv";

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("train.csv", flows(150, 3));
    folder.write("unlabelled.csv", flows(40, 4));
    folder
}

/// The rows as the stages read and split them.
fn split(folder: &Folder, config: &Config) -> Labelled {
    labelled(config, &mut folder.run("look").look(Stage::Pretrain, config), &mut Silent).unwrap()
}

/// `train.csv` with numbers and a category that no other row has in all rows that are not trained on, and with the labels of two
/// of them swapped. Rows with equal features still have such.
fn plant(folder: &Folder, config: &Config) {
    let Labelled { flows, split: before } = split(folder, config);
    let mut planted = cells(&fs::read_to_string(folder.path("train.csv")).unwrap());
    let [sbytes, sttl, proto, label] = ["sbytes", "sttl", "proto", "label"].map(|name| column(&planted, name));
    let mut alone = [Vec::new(), Vec::new()];
    for group in equal_rows(&flows).iter().filter(|group| before.train.binary_search(&group[0]).is_err()) {
        for &row in group {
            let cells = &mut planted[row as usize + 1];
            cells[sbytes] = format!("{}", 1e15 + f64::from(group[0]));
            "-7".clone_into(&mut cells[sttl]);
            "planted".clone_into(&mut cells[proto]);
        }
        if group.len() == 1 && before.val.contains(&group[0]) {
            alone[usize::from(flows.labels().unwrap()[group[0] as usize])].push(group[0]);
        }
    }
    let category = column(&planted, "attack_cat");
    let [normal, attacks] = alone;
    // which rows are held out depends on how many of each class come first, so that not every two will do
    let swapped = normal.iter().flat_map(|&a| attacks.iter().map(move |&b| [a as usize + 1, b as usize + 1]));
    let is_same = |[a, b]: [usize; 2]| {
        let mut cells = planted.clone();
        for column in [label, category] {
            cells[a][column].clone_from(&planted[b][column]);
            cells[b][column].clone_from(&planted[a][column]);
        }
        folder.write("train.csv", csv(&cells));
        split(folder, config).split == before
    };
    assert!(swapped.into_iter().any(is_same), "no two rows to swap the labels of");
}

/// What the stages of a run learned, and what they found on validation rows.
fn outcome(folder: &Folder, name: &str, stages: &[Stage], config: &Config) -> (BTreeMap<String, Vec<u8>>, Vec<Json>) {
    let run = folder.run(name);
    for &stage in stages {
        run_stage(stage, config, &run, &mut Silent).unwrap_or_else(|error| panic!("{error}"));
    }
    let mut learned = BTreeMap::new();
    for file in [
        "tokeniser.json",
        "pretrained.safetensors",
        "model.safetensors",
        BACKGROUND,
        "latents/train.npy",
        "latents/labels_train.npy",
    ] {
        if let Ok(bytes) = fs::read(run.folder().join(file)) {
            learned.insert(file.to_owned(), bytes);
        }
    }
    if let Ok(bytes) = fs::read(run.folder().join(PROFILE)) {
        // scores of the rows held out are measured
        let profile: Json = serde_json::from_slice(&bytes).unwrap();
        learned.insert(PROFILE.to_owned(), profile["content"]["features"].to_string().into_bytes());
    }
    let is_measured = |line: &Json| line.get("validation").is_some() || line.get("ridge_probe").is_some();
    let (measured, training): (Vec<Json>, Vec<Json>) = metrics(run.folder()).into_iter().partition(is_measured);
    learned.insert("training".to_owned(), Json::from(training).to_string().into_bytes());
    (learned, measured)
}

#[test]
fn what_validation_rows_hold_changes_nothing_that_is_learned() {
    let cases: [(&[Stage], &[&str]); 15] = [
        (PRETRAIN, &[]),
        (PRETRAIN, &[UNLABELLED]),
        (PRETRAIN, &["data.inner_validation=true"]),
        (FINETUNE, &[SCRATCH]),
        (FINETUNE, &[SCRATCH, UNLABELLED]),
        (FINETUNE, &[SCRATCH, "data.inner_validation=true"]),
        (FINETUNE, &[SCRATCH, "finetune.task=multiclass", "finetune.members=2"]),
        (FINETUNE, &[SCRATCH, "finetune.labels=20", "finetune.mean_teacher.batch_size=8", UNLABELLED]),
        (FINETUNE, &[SCRATCH, HEADS]),
        (FINETUNE, &["finetune.from=features", "finetune.labels=20"]),
        (FINETUNE, &["finetune.from=features", UNLABELLED, "data.inner_validation=true"]),
        (ALL, &["finetune.from=frozen"]),
        (ALL, &[]),
        (ALL, &["finetune.from=latents", "encode.noise.copies=1", "tokeniser.normalisation=global_max"]),
        (ALL, &["finetune.task=multiclass", "tokeniser.normalisation=standard", "data.inner_validation=true"]),
    ];
    for (stages, settings) in cases {
        let folder = folder();
        let config = folder.config(&[SETTINGS, settings]);
        let (before, before_metrics) = outcome(&folder, "before", stages, &config);
        plant(&folder, &config);
        let (after, after_metrics) = outcome(&folder, "after", stages, &config);
        assert!(!String::from_utf8_lossy(&after["tokeniser.json"]).contains("planted"), "{settings:?}");
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        let changed: Vec<_> = before.iter().filter(|(name, bytes)| after[*name] != **bytes).map(|(name, _)| name).collect();
        assert!(changed.is_empty(), "{settings:?}: {changed:?} follow from validation rows");
        assert!(stages == PRETRAIN || before_metrics != after_metrics, "{settings:?}: it would not show");
    }
}

/// `text` with other numbers and another category in the rows with these labels.
fn altered(text: &str, is_altered: impl Fn(&str) -> bool) -> String {
    let mut all = cells(text);
    let [sbytes, proto, label] = ["sbytes", "proto", "label"].map(|name| column(&all, name));
    for row in all.iter_mut().skip(1).filter(|row| is_altered(&row[label])) {
        row[sbytes] = format!("9{}", row[sbytes]);
        "planted".clone_into(&mut row[proto]);
    }
    csv(&all)
}

#[test]
fn what_attacks_and_unlabelled_rows_hold_changes_nothing_that_is_learned_from_benign_rows() {
    let settings: &[&[&str]] = &[&[], &["pretrain.objective.mae.target=bins"], &["pretrain.objective=vae"]];
    for &more in settings {
        let folder = folder();
        // no two rows are equal, so that the split stays what it is while rows change
        folder.write("train.csv", distinct(&flows(150, 3)));
        let benign = folder.config(&[SETTINGS, &[UNLABELLED, "pretrain.rows=benign"], more]);
        let (before, _) = outcome(&folder, "before", PRETRAIN, &benign);
        let text = fs::read_to_string(folder.path("train.csv")).unwrap();
        let was = split(&folder, &benign).split;
        folder.write("train.csv", altered(&text, |label| label == "1"));
        folder.write("unlabelled.csv", altered(&flows(40, 4), |_| true));
        assert_eq!(split(&folder, &benign).split, was);
        let (after, _) = outcome(&folder, "after", PRETRAIN, &benign);
        let changed: Vec<_> = before.iter().filter(|(name, bytes)| after[*name] != **bytes).map(|(name, _)| name).collect();
        assert!(changed.is_empty(), "{more:?}: {changed:?} follow from rows that are left out");
        // they show where all rows are learned from
        let all = folder.config(&[SETTINGS, &[UNLABELLED], more]);
        let (all, _) = outcome(&folder, "all", PRETRAIN, &all);
        assert!(all["tokeniser.json"] != after["tokeniser.json"] && all["training"] != after["training"]);
        folder.write("train.csv", altered(&text, |label| label == "0"));
        let (other, _) = outcome(&folder, "other", PRETRAIN, &benign);
        assert!(other["tokeniser.json"] != after["tokeniser.json"]);
    }
}

/// Rows that differ in `dbytes`, which is the number of the row.
fn distinct(text: &str) -> String {
    let mut all = cells(text);
    let dbytes = column(&all, "dbytes");
    all.iter_mut().enumerate().skip(1).for_each(|(number, row)| row[dbytes] = number.to_string());
    csv(&all)
}

#[test]
fn rows_that_benign_pretraining_leaves_out_are_counted_and_none_is_an_error() {
    let folder = folder();
    let config = folder.config(&[SETTINGS, &[UNLABELLED, "pretrain.rows=benign"]]);
    let Labelled { flows, split } = split(&folder, &config);
    let attacks = split.train.iter().filter(|&&row| flows.labels().unwrap()[row as usize] == 1).count();
    let mut told = Told::default();
    run_stage(Stage::Pretrain, &config, &folder.run("run"), &mut told).unwrap();
    let wanted = format!(
        "`pretrain.rows: benign`: {} rows to learn from; {attacks} attacks are left out, and 40 unlabelled rows, of which nobody \
         knows whether they are benign",
        split.train.len() - attacks
    );
    assert!(told.0.contains(&wanted), "{wanted}: {:?}", told.0);

    let text = fs::read_to_string(folder.path("train.csv")).unwrap();
    let mut all = cells(&text);
    let label = column(&all, "label");
    all.retain(|row| row[label] != "0");
    assert!(all.len() > 20);
    folder.write("train.csv", csv(&all));
    let error = run_stage(Stage::Pretrain, &config, &folder.run("none"), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("none of the training rows is benign"), "{error}");
}

/// Asserts that numbers are the same but for the order of sums, and all else is the same.
#[track_caller]
fn assert_close(found: &Json, wanted: &Json) {
    match (found, wanted) {
        (Json::Object(found), Json::Object(wanted)) => {
            assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
            found.values().zip(wanted.values()).for_each(|(found, wanted)| assert_close(found, wanted));
        }
        (Json::Array(found), Json::Array(wanted)) => {
            assert_eq!(found.len(), wanted.len());
            found.iter().zip(wanted).for_each(|(found, wanted)| assert_close(found, wanted));
        }
        (Json::Number(a), Json::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-5 * b.abs(), "{a}, not {b}");
        }
        _ => assert_eq!(found, wanted),
    }
}

#[test]
fn a_classifier_is_measured_on_the_rows_held_out() {
    let cases: [(&[Stage], &[&str]); 11] = [
        (&[], &[SCRATCH]),
        (&[], &[SCRATCH, "data.inner_validation=true"]),
        (&[], &[SCRATCH, "finetune.task=multiclass", "finetune.ema={}"]),
        (&[], &[SCRATCH, "finetune.members=2"]),
        (&[], &[SCRATCH, "finetune.members=2", "finetune.ensemble=batch"]),
        (&[], &[SCRATCH, "finetune.labels=20", "finetune.mean_teacher.batch_size=8"]),
        (&[Stage::Pretrain, Stage::Encode], &["finetune.from=latents"]),
        (&[Stage::Pretrain], &["finetune.from=frozen"]),
        (&[Stage::Pretrain], &["finetune.from=frozen", "pretrain.objective.mae.target=bins"]),
        (&[], &["finetune.from=features", "data.inner_validation=true"]),
        (&[], &[SCRATCH, HEADS, "finetune.members=2"]),
    ];
    for (stages, settings) in cases {
        let folder = folder();
        let config = folder.config(&[SETTINGS, settings]);
        let run = folder.run("run");
        for &stage in stages {
            run_stage(stage, &config, &run, &mut Silent).unwrap();
        }
        let found = finetune(&config, &run, &mut Silent).unwrap();
        let text = fs::read_to_string(folder.path("train.csv")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let held_out = split(&folder, &config).split.val;
        let held_out_lines = held_out.iter().map(|&row| lines[row as usize + 1]);
        folder.write("val.csv", [lines[0]].into_iter().chain(held_out_lines).collect::<Vec<_>>().join("\n"));
        let wanted = serde_json::to_value(
            evaluate(&run, &[folder.path("val.csv")], &PredictOptions::default(), &mut |_| Ok(()), &mut Silent)
                .unwrap()
                .evaluation
                .metrics,
        )
        .unwrap();
        assert_eq!(wanted["n"], held_out.len(), "{settings:?}");
        assert_close(&serde_json::to_value(&found).unwrap(), &wanted);
        assert_close(&metrics(run.folder()).last().unwrap()["validation"], &wanted);
    }
}

/// What is kept of a refit has learned from all rows; what is measured has not.
#[test]
fn a_refit_learns_from_the_rows_held_out_and_keeps_the_metrics() {
    let cases: [(&[Stage], &[&str]); 6] = [
        (&[], &[SCRATCH]),
        (&[], &[SCRATCH, "finetune.members=2"]),
        (&[], &[SCRATCH, HEADS]),
        (&[], &[SCRATCH, "finetune.task=multiclass"]),
        (&[], &["finetune.from=features"]),
        (&[Stage::Pretrain], &["finetune.from=frozen", "finetune.heads=[logistic]"]),
    ];
    for (stages, settings) in cases {
        let folder = folder();
        let train = |name: &str, refit: &str| {
            let config = folder.config(&[SETTINGS, settings, &[refit]]);
            let (run, mut told) = (folder.run(name), Told::default());
            for &stage in stages {
                run_stage(stage, &config, &run, &mut Silent).unwrap();
            }
            let found = finetune(&config, &run, &mut told).unwrap();
            let lines = metrics(run.folder());
            let logged = lines.iter().rfind(|line| line.get("validation").is_some()).unwrap()["validation"].clone();
            (serde_json::to_value(&found).unwrap(), logged, tensors(&folder, name), told.0.join("\n"))
        };
        let (found, logged, plain, _) = train("plain", "finetune.refit=none");
        let (found_of_refit, logged_of_refit, refit, told) = train("refit", "finetune.refit=all");
        assert_eq!((&found_of_refit, &logged_of_refit), (&found, &logged), "{settings:?}");
        let n_held_out = split(&folder, &folder.config(&[SETTINGS])).split.val.len();
        assert!(told.contains(&format!("{n_held_out} of which were held out")), "{settings:?}: {told}");
        assert_ne!(plain, refit, "{settings:?}: a refit learns nothing");

        plant(&folder, &folder.config(&[SETTINGS]));
        assert_eq!(train("plain again", "finetune.refit=none").2, plain, "{settings:?}");
        assert_ne!(train("refit again", "finetune.refit=all").2, refit, "{settings:?}: rows held out are left out");
    }
}

/// The weights of a classifier, without the metadata.
fn tensors(folder: &Folder, run: &str) -> BTreeMap<String, Vec<u8>> {
    let bytes = fs::read(folder.path(run).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(name, tensor)| (name.to_owned(), tensor.data().to_vec())).collect()
}

#[test]
fn a_probe_is_scored_on_the_rows_held_out() {
    let folder = folder();
    let config = folder.config(&[SETTINGS, &["encode.noise.copies=0"]]);
    let run = folder.run("run");
    for stage in [Stage::Pretrain, Stage::Encode] {
        run_stage(stage, &config, &run, &mut Silent).unwrap();
    }
    let latents = |name: &str| run.folder().join("latents").join(name);
    let [train, val] = ["train", "val"].map(|part| {
        let z: ndarray::Array2<f32> = npy::read(&latents(&format!("{part}.npy"))).unwrap();
        let labels: ndarray::Array1<u8> = npy::read(&latents(&format!("labels_{part}.npy"))).unwrap();
        let rows: ndarray::Array1<u32> = npy::read(&latents(&format!("rows_{part}.npy"))).unwrap();
        (z, labels.to_vec(), rows.to_vec())
    });
    let Labelled { flows, split } = split(&folder, &config);
    for ((_, labels, rows), wanted) in [(&train, split.train), (&val, split.val)] {
        assert_eq!(*rows, wanted);
        assert!(rows.iter().zip(labels).all(|(&row, label)| flows.labels().unwrap()[row as usize] == *label));
    }
    let wanted = RidgeProbe::fit(&train.0, &train.1, config.encode.ridge).unwrap().score(&val.0, &val.1);
    assert_close(&metrics(run.folder()).last().unwrap()["ridge_probe"], &serde_json::to_value(wanted).unwrap());
    let with_mean = metrics(run.folder()).last().unwrap()["token_probe"].clone();
    // the tokens of a run that keeps them
    let config = folder.config(&[SETTINGS, &["encode.noise.copies=0", "encode.latents=tokens"]]);
    run_stage(Stage::Encode, &config, &run, &mut Silent).unwrap();
    let tokens = |part: &str| -> ndarray::Array2<f32> {
        let z: ndarray::Array3<f32> = npy::read(&latents(&format!("{part}.npy"))).unwrap();
        let shape = (z.shape()[0], z.shape()[1] * z.shape()[2]);
        z.into_shape_with_order(shape).unwrap()
    };
    let (x, others) = (tokens("train"), tokens("val"));
    let pca = Pca::fit(&x, 256).unwrap();
    let targets: Vec<f64> = train.1.iter().map(|&label| f64::from(label)).collect();
    let head = LogisticRegression::fit(&pca.transform(&x), &targets, None, 1.0).unwrap();
    let margins: Vec<f32> = head.margins(&pca.transform(&others)).iter().map(|&margin| margin as f32).collect();
    let wanted = serde_json::to_value(ProbeScore::of(&margins, &val.1)).unwrap();
    for found in [&with_mean, &metrics(run.folder()).last().unwrap()["token_probe"]] {
        assert_close(found, &wanted);
    }
    let distinct: BTreeSet<u32> = train.2.iter().chain(&val.2).copied().collect();
    assert_eq!(distinct.len(), flows.len());
}
