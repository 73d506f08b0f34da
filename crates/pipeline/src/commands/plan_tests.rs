use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;
use crate::stages::{finetune, pretrain};
use crate::testing::{Folder, Told, flows};
use nids_store::progress::Silent;

const SETTINGS: &[&str] = &[
    "name=x",
    "data.schema=DIR/schema.yaml",
    "data.train=DIR/train.csv",
    "tokeniser.bins=4",
    "model.dim=8",
    "model.depth=1",
    "engine.threads=1",
    "pretrain.steps=3",
    "pretrain.batch_size=16",
    "finetune.steps=30",
    "finetune.batch_size=16",
];

fn planned(stage: Stage, config: &Config, run: &Run) -> String {
    plan(Planned::Stage(stage), config, run).unwrap()
}

/// All files of a folder, with their content.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    entries.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

#[test]
fn a_plan_of_packed_rows_says_the_disk_that_they_take() {
    let folder = Folder::new();
    folder.write("train.csv", flows(60_000, 3));
    let plan_of = |more: &[&str]| planned(Stage::Pretrain, &folder.config(&[SETTINGS, more]), &Run::at(&folder.path("run")));
    let line = |text: &str, what: &str| text.lines().find(|line| line.starts_with(what)).unwrap().to_owned();
    // four numbers of three cells and two categories: 56 bytes a row
    let rows: f64 = {
        let text = plan_of(&["data.cache=DIR/rows"]);
        let told = line(&text, "data.train").split_once("about ").unwrap().1.split_once(" rows").unwrap().0.replace(',', "");
        told.parse().unwrap()
    };
    let cached = plan_of(&["data.cache=DIR/rows"]);
    let wanted = format!(", and {:.0} MiB in {} (`data.cache`)", rows * 56.0 / f64::from(1 << 20), folder.path("rows").display());
    assert!(line(&cached, "disk").ends_with(&wanted), "{cached}, not {wanted}");
    let in_memory = plan_of(&["data.cache=memory"]);
    assert!(!in_memory.contains("data.cache"), "{in_memory}");
    assert!(!folder.path("rows").exists());
    let finetune = planned(Stage::Finetune, &folder.config(&[SETTINGS, &["data.cache=DIR/rows"]]), &Run::at(&folder.path("run")));
    assert!(finetune.contains("(`data.cache`), unless `pretrain` has left these rows there"), "{finetune}");
    let heads = [SETTINGS, &["data.cache=DIR/rows", "finetune.from=scratch"]];
    let finetune = planned(Stage::Finetune, &folder.config(&heads), &Run::at(&folder.path("run")));
    assert!(!finetune.contains("data.cache"), "{finetune}");
}

#[test]
fn a_plan_says_what_is_there_and_touches_nothing() {
    let folder = Folder::new();
    folder.write("train.csv", flows(500, 3));
    let config = folder.config(&[SETTINGS]);
    let run = Run::at(&folder.path("run"));
    let text = planned(Stage::Finetune, &config, &run);
    assert!(text.contains("(to be made)") && text.contains("`pretrain` has not finished here"), "{text}");
    assert!(text.contains("not run here yet") && text.contains("train.csv: 500 rows\n"), "{text}");
    assert!(text.contains("30 steps of 16 rows") && !folder.path("run").exists(), "{text}");

    let run = folder.run("run");
    let mut told = Told::default();
    pretrain(&config, &run, &mut told).unwrap();
    let before = content(run.folder());
    let text = planned(Stage::Finetune, &config, &run);
    assert!(text.contains("\npretrain         current\n"), "{text}");
    assert!(planned(Stage::Pretrain, &config, &run).contains("has finished here before"), "{text}");
    let other = folder.config(&[SETTINGS, &["model.dim=16"]]);
    assert!(planned(Stage::Finetune, &other, &run).contains("made by another config: `model.dim` was 8 and is 16"));
    assert_eq!(content(run.folder()), before);
    // the parameters that training tells: the rows held out have some more categories
    let trained: f64 = told.0.iter().find_map(|line| line.split_once(" parameters, ")).unwrap().0.parse().unwrap();
    let text = planned(Stage::Pretrain, &config, &run);
    let about = text.split_once("about ").unwrap().1.split_once(" parameters").unwrap().0.replace(',', "");
    assert!((about.parse::<f64>().unwrap() / trained - 1.0).abs() < 0.05, "{trained}: {text}");
    finetune(&config, &run, &mut Silent).unwrap();
}

#[test]
fn rows_of_a_large_file_are_estimated_to_a_tenth() {
    let folder = Folder::new();
    folder.write("train.csv", flows(60_000, 3));
    let config = folder.config(&[SETTINGS]);
    let found = looked_at(Planned::Stage(Stage::Pretrain), &config, true).unwrap();
    let [Data { rows, is_exact, .. }] = &found[..] else { panic!("one file") };
    assert!(!is_exact && (rows - 60_000.0).abs() < 6000.0, "{rows}");
}

#[test]
fn a_sweep_counts_the_trials_that_it_may_run() {
    let folder = Folder::new();
    folder.write("train.csv", flows(200, 3));
    let grid: Vec<Axis> = vec!["finetune.lr=1e-3,2e-3,4e-3".parse().unwrap(), "model.dim=8,16,32".parse().unwrap()];
    let halving = folder.config(&[SETTINGS, &["sweep.strategy.halving={min_steps: 10, eta: 3}"]]);
    // 9 trials of 10 steps, 3 of 30, 1 of 90
    let text = plan(Planned::Sweep(&grid), &halving, &Run::at(&folder.path("run"))).unwrap();
    assert!(text.contains("at most 13 trials, 270 steps in all, of 16 rows"), "{text}");
}
