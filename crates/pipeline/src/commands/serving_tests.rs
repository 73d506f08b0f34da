//! A classifier serves until the next one is whole.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::predict::{PredictOptions, predict};
use crate::stages::finetune;
use crate::stages::resume_tests::{StopsAfter, assert_same, copy, files};
use crate::testing::{Folder, flows};
use nids_config::{Config, Stage};
use nids_store::disk::seam::{self, Fault};
use nids_store::progress::Silent;
use nids_store::run::Run;

const SETTINGS: &[&str] = &[
    "name=x",
    "data.schema=DIR/schema.yaml",
    "data.train=DIR/train.csv",
    "model.dim=8",
    "model.depth=1",
    "engine.threads=1",
    "checkpoint.every=2",
    "finetune.from=scratch",
    "finetune.steps=5",
    "finetune.batch_size=16",
    "finetune.log_every=2",
    "finetune.eval_every=3",
];
/// With these, every artefact differs, and verdicts differ by the settings that they are read with, too.
const OTHER: &[&str] = &["seed=1", "model.dim=16", "tokeniser.bins=8", "finetune.task=multiclass", "evaluate.threshold=0.3"];

fn folder() -> (Folder, [Config; 2]) {
    let folder = Folder::new();
    folder.write("train.csv", flows(120, 3));
    let configs = [&[][..], OTHER].map(|more| folder.config(&[SETTINGS, more]));
    (folder, configs)
}

fn verdicts(run: &Path, folder: &Folder) -> nids_store::Result<Vec<u8>> {
    let mut out = Vec::new();
    predict(&Run::open(run)?, &[folder.path("train.csv")], &PredictOptions::default(), &mut out, &mut |_| Ok(()), &mut Silent)?;
    Ok(out)
}

/// Verdicts of a classifier trained with each config, the second one in the folder of the first, and what that leaves.
fn both(folder: &Folder, configs: &[Config; 2]) -> [Vec<u8>; 2] {
    let run = folder.run("undisturbed");
    let [old, new] = configs.each_ref().map(|config| {
        finetune(config, &run, &mut Silent).unwrap();
        verdicts(run.folder(), folder).unwrap()
    });
    assert!(old != new);
    [old, new]
}

#[test]
fn a_classifier_serves_while_the_next_one_is_trained() {
    let (folder, configs) = folder();
    let [old, new] = both(&folder, &configs);
    let run = folder.run("run");
    finetune(&configs[0], &run, &mut Silent).unwrap();
    let metrics = || fs::read_to_string(run.folder().join("metrics.jsonl")).unwrap();
    let logged = metrics();
    for steps in [1, 2, 1] {
        finetune(&configs[1], &run, &mut StopsAfter(steps)).unwrap_err();
        assert!(verdicts(run.folder(), &folder).unwrap() == old);
        let seeds = [run.config_of(Stage::Finetune), run.config(&[])].map(|config| config.unwrap().seed);
        assert_eq!((seeds, metrics()), ([0, 0], logged.clone()));
        assert!(run.is_up_to_date(Stage::Finetune, &configs[0]) && !run.is_up_to_date(Stage::Finetune, &configs[1]));
    }
    finetune(&configs[1], &run, &mut Silent).unwrap();
    assert!(verdicts(run.folder(), &folder).unwrap() == new);
    assert_same(run.folder(), &files(&folder.path("undisturbed")), "stopped three times");
}

#[test]
fn a_first_training_that_was_stopped_serves_nobody() {
    let (folder, configs) = folder();
    let run = folder.run("run");
    finetune(&configs[0], &run, &mut StopsAfter(3)).unwrap_err();
    let error = verdicts(run.folder(), &folder).unwrap_err();
    let text = error.to_string().replace(&run.folder().display().to_string(), "RUN");
    assert_eq!(error.exit_code(), 4);
    insta::assert_snapshot!(text, @"RUN: `finetune` has not finished here: run `nids-mixer finetune --config FILE --run RUN` first");
}

#[test]
fn whatever_fails_at_the_end_verdicts_are_the_old_ones_or_the_new_ones() {
    let _alone = seam::alone();
    let (folder, configs) = folder();
    let [old, new] = both(&folder, &configs);
    let wanted = files(&folder.path("undisturbed"));
    let before = folder.run("run");
    finetune(&configs[0], &before, &mut Silent).unwrap();
    finetune(&configs[1], &before, &mut StopsAfter(4)).unwrap_err();
    let mut seen = [0, 0];
    for at in 0.. {
        let copied = copy(before.folder());
        let run = Run::open(copied.path()).unwrap();
        // as after a kill, nothing more is written
        seam::set(Some((at, Fault::Fails(ErrorKind::StorageFull))));
        let result = finetune(&configs[1], &run, &mut Silent);
        let calls = seam::calls();
        seam::set(None);
        let now = verdicts(run.folder(), &folder).unwrap_or_else(|error| panic!("call {at}: {error}"));
        assert!(now == old || now == new, "call {at}: neither the old verdicts nor the new ones");
        seen[usize::from(now == new)] += 1;
        if at >= calls {
            result.unwrap();
            assert!(now == new && seen.iter().all(|&n| n > 10), "{seen:?}");
            break;
        }
        finetune(&configs[1], &run, &mut Silent).unwrap_or_else(|error| panic!("call {at}: {error}"));
        assert_same(run.folder(), &wanted, &format!("call {at}"));
    }
}
