//! Stages that are stopped, or whose disk fails, and that go on: the same bytes as if nothing had happened.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value as Json;
use tempfile::TempDir;

use super::{encode, finetune, pretrain};
use crate::testing::Told;
use nids_config::{Config, Stage};
use nids_store::artefacts::write_atomic;
use nids_store::disk::SCRATCH;
use nids_store::disk::seam::{self, Fault};
use nids_store::progress::{Event, Progress, Silent};
use nids_store::run::{Resume, Run};
use nids_store::{Error, Result};

const SETTINGS: &[&str] = &[
    "name=x",
    "data.synthetic.rows=120",
    "data.synthetic.unlabelled_rows=60",
    "model.dim=8",
    "model.depth=1",
    "model.n_registers=1",
    "engine.threads=2",
    "checkpoint.every=2",
    "pretrain.steps=5",
    "pretrain.batch_size=16",
    "pretrain.micro_batch=8",
    "pretrain.log_every=3",
    "finetune.steps=5",
    "finetune.batch_size=16",
    "finetune.log_every=2",
    "finetune.eval_every=3",
];

pub(super) fn config(more: &[&str]) -> Config {
    let overrides: Vec<String> = SETTINGS.iter().chain(more).map(ToString::to_string).collect();
    Config::parse("{}", "c.yaml", &overrides).unwrap()
}

/// Wants to stop after so many steps.
pub(crate) struct StopsAfter(pub(crate) u64);

impl Progress for StopsAfter {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Step { .. } = event {
            self.0 = self.0.saturating_sub(1);
        }
    }

    fn stop(&mut self) -> Option<u8> {
        (self.0 == 0).then_some(15)
    }
}

pub(super) fn run_stage(stage: Stage, config: &Config, run: &Run, progress: &mut dyn Progress) -> Result<()> {
    match stage {
        Stage::Pretrain => pretrain(config, run, progress),
        Stage::Encode => encode(config, run, progress),
        Stage::Finetune => finetune(config, run, progress).map(drop),
    }
}

pub(super) fn stages(config: &Config) -> Vec<Stage> {
    config.upstream(Stage::Finetune).iter().copied().chain([Stage::Finetune]).collect()
}

/// Every file of a run folder but the lock, by name.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if name != ".lock" {
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn overwrite(path: &Path, bytes: &[u8]) {
    write_atomic(path, |out| out.write_all(bytes)).unwrap();
}

#[track_caller]
pub(crate) fn assert_same(found: &Path, wanted: &BTreeMap<String, Vec<u8>>, when: &str) {
    let found = files(found);
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(wanted), "{when}");
    for (name, bytes) in wanted {
        assert!(found[name] == *bytes, "{when}: {name} differs");
    }
}

/// What a run leaves that nobody stops.
fn wanted(config: &Config) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::create(folder.path()).unwrap();
    for stage in stages(config) {
        run_stage(stage, config, &run, &mut Silent).unwrap();
    }
    files(folder.path())
}

/// Stops after every `every`-th step of every stage, again and again.
fn stop_and_go_on(more: &[&str]) {
    let config = config(more);
    let wanted = wanted(&config);
    for every in 1..=4 {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::create(folder.path()).unwrap();
        let mut stops = 0;
        for stage in stages(&config) {
            loop {
                match run_stage(stage, &config, &run, &mut StopsAfter(every)) {
                    Ok(()) => break,
                    Err(Error::Interrupted { signal: 15 }) => stops += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert!(stops > 0, "nothing was stopped");
        assert_same(folder.path(), &wanted, &format!("{more:?}, stopped every {every} steps"));
    }
}

#[test]
fn both_stages_go_on_from_any_step() {
    stop_and_go_on(&[]);
}

#[test]
fn moments_of_the_other_optimiser_go_on() {
    stop_and_go_on(&["finetune.from=scratch", "finetune.optimiser=adam"]);
}

#[test]
fn an_average_goes_on() {
    stop_and_go_on(&["finetune.from=scratch", "finetune.ema.decay=0.9"]);
}

#[test]
fn a_mean_teacher_goes_on() {
    stop_and_go_on(&["finetune.labels=40", "finetune.mean_teacher.batch_size=8"]);
}

#[test]
fn members_go_on() {
    stop_and_go_on(&["finetune.from=scratch", "finetune.members=3"]);
    stop_and_go_on(&["finetune.from=scratch", "finetune.members=2", "finetune.ensemble=batch"]);
}

#[test]
fn a_refit_goes_on() {
    stop_and_go_on(&["finetune.from=scratch", "finetune.refit=all"]);
    stop_and_go_on(&["finetune.from=scratch", "finetune.refit=all", "finetune.members=2", "finetune.steps=4"]);
}

#[test]
fn a_head_on_latents_goes_on() {
    stop_and_go_on(&["finetune.from=latents", "encode.noise.fresh=true"]);
}

#[test]
fn parts_of_a_loss_go_on() {
    stop_and_go_on(&["pretrain.objective=vae"]);
}

#[test]
fn what_is_drawn_of_rows_goes_on() {
    stop_and_go_on(&["pretrain.objective=replaced", "finetune.steps=1"]);
    let drawn = "pretrain.objective.mae={target: bins, mask_ratio: {}}";
    stop_and_go_on(&[drawn, "pretrain.rows=benign", "finetune.steps=1"]);
}

#[test]
fn a_rollback_goes_on() {
    // weights overflow in the first steps, but not at a part of the rate
    stop_and_go_on(&[
        "finetune.from=scratch",
        "finetune.steps=20",
        "finetune.eval_every=20",
        "finetune.lr=1000",
        "finetune.warmup=0",
        "finetune.nonfinite=rollback",
    ]);
}

/// Hears warnings, and wants to stop after so many steps.
struct Warned<'w> {
    stops: StopsAfter,
    warnings: &'w mut Vec<String>,
}

impl Progress for Warned<'_> {
    fn event(&mut self, event: Event<'_>) {
        self.stops.event(event);
        if let Event::Message(text) = event
            && text.starts_with("warning: ")
        {
            self.warnings.push(text.to_owned());
        }
    }

    fn stop(&mut self) -> Option<u8> {
        self.stops.stop()
    }
}

/// The warnings of a finetuning from scratch that is stopped after every `every` steps.
fn warnings(more: &[&str], every: u64) -> Vec<String> {
    let config = config(&[&["finetune.from=scratch"], more].concat());
    let folder = tempfile::tempdir().unwrap();
    let run = Run::create(folder.path()).unwrap();
    let mut warnings = Vec::new();
    loop {
        match finetune(&config, &run, &mut Warned { stops: StopsAfter(every), warnings: &mut warnings }) {
            Ok(_) => return warnings,
            Err(Error::Interrupted { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn observations_of_a_still_layer_are_counted_across_a_stop() {
    // the rate is lost in the rounding of every weight
    let still = ["finetune.steps=260", "finetune.lr=1e-20", "finetune.eval_every=1000", "checkpoint.every=1000"];
    let wanted = warnings(&still, 1000);
    assert!(wanted.len() == 1 && wanted[0].starts_with("warning: finetune step 250: the gradient vanishes in"), "{wanted:?}");
    for every in [49, 50, 51] {
        assert_eq!(warnings(&still, every), wanted, "stopped after every {every} steps");
    }
}

/// Lines of metrics that tell of numbers that were none.
fn troubles(folder: &Path) -> Vec<(u64, String)> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    let of = |line: Json| Some((line["step"].as_u64()?, line.get("nonfinite")?.as_str()?.to_owned(), line["action"].clone()));
    lines.filter_map(of).map(|(step, what, action)| (step, format!("{what}: {}", action.as_str().unwrap()))).collect()
}

#[test]
fn what_is_no_number_is_skipped_or_rolled_back_as_often_as_allowed() {
    let run = |policy: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let diverging = ["finetune.from=scratch", "finetune.warmup=0", "finetune.steps=20", "finetune.eval_every=20"];
        let result = finetune(&config(&[&diverging, policy].concat()), &Run::create(folder.path()).unwrap(), &mut Silent);
        (result.map(drop), troubles(folder.path()))
    };
    let (result, lines) = run(&["finetune.lr=1e30", "finetune.nonfinite=skip"]);
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("; 10 steps in a row have been skipped: lower `finetune.lr`"), "{error}");
    let first = lines[0].0;
    let skipped = |step| (step, "the loss: skipped".to_owned());
    assert_eq!(lines, (first..first + 10).map(skipped).collect::<Vec<_>>());

    let (result, lines) = run(&["finetune.lr=1e30", "finetune.nonfinite=rollback"]);
    assert!(result.unwrap_err().to_string().contains("; it has gone back 5 times"));
    assert_eq!(lines.len(), 5);
    let (result, lines) = run(&["finetune.lr=1000", "finetune.nonfinite=rollback"]);
    result.unwrap();
    assert!(lines[0].1.ends_with(": back to step 0, learning rates now x 0.5"), "{lines:?}");
}

#[test]
fn a_changed_setting_is_refused_unless_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::create(folder.path()).unwrap();
    let (before, now) = (config(&[]), config(&["pretrain.lr=1e-4"]));
    pretrain(&before, &run, &mut StopsAfter(3)).unwrap_err();
    let error = pretrain(&now, &run, &mut Silent).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    let text = error.to_string().replace(&folder.path().display().to_string(), "RUN");
    insta::assert_snapshot!(text, @"RUN: `pretrain` was stopped here before its end, and since then `pretrain.lr` was 0.0015 and is 0.0001: undo the change to go on from where it was, `--fresh` starts the stage anew, `--allow-changes` goes on as it is now");
    // what is no business of the stage is no change
    let other = config(&["engine.threads=1", "finetune.lr=1e-4"]);
    pretrain(&other, &run, &mut StopsAfter(1)).unwrap_err();
    let mut told = Told::default();
    pretrain(&now, &run.clone().with_resume(Resume::Changed), &mut told).unwrap();
    let Told(told) = told;
    assert!(told.contains(&"pretrain: goes on after step 4 of 5".to_owned()), "{told:?}");
    assert!(told.contains(&"pretrain: goes on although `pretrain.lr` was 0.0015 and is 0.0001".to_owned()), "{told:?}");
}

#[test]
fn a_change_that_leaves_nothing_to_go_on_with_is_refused() {
    let members = ["finetune.from=scratch", "finetune.members=2"];
    for (now, wanted) in [
        (
            &["finetune.from=scratch", "finetune.members=2", "finetune.steps=3"][..],
            "it is at step 4 of member 1, beyond the 3 steps of member 1",
        ),
        (&["finetune.from=scratch"], "it is at member 1 of an ensemble of 1"),
        (&["finetune.from=scratch", "finetune.members=2", "model.dim=16"], "numbers, the network wants"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::create(folder.path()).unwrap().with_resume(Resume::Changed);
        finetune(&config(&members), &run, &mut StopsAfter(9)).unwrap_err();
        let error = finetune(&config(now), &run, &mut Silent).unwrap_err();
        assert!(error.exit_code() == 4 && error.to_string().contains(wanted), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn no_link_leads_out_of_the_run_folder() {
    let outside = tempfile::tempdir().unwrap();
    let own = [".lock", "checkpoints", "staged-pretrain", "finished-pretrain", "finished-finetune"];
    let checkpoint_files = ["checkpoints/pretrain.json", "checkpoints/pretrain-step-2.safetensors"];
    for name in own.into_iter().chain(checkpoint_files) {
        let folder = tempfile::tempdir().unwrap();
        if name.contains('/') {
            fs::create_dir(folder.path().join("checkpoints")).unwrap();
        }
        std::os::unix::fs::symlink(outside.path().join("x"), folder.path().join(name)).unwrap();
        let result = pretrain(&config(&[]), &Run::create(folder.path()).unwrap(), &mut Silent);
        // a checkpoint that no index lists is removed, which leaves what it led to alone
        let is_refused = result.is_err_and(|error| error.exit_code() == 4);
        assert_eq!(is_refused, name != "checkpoints/pretrain-step-2.safetensors", "{name}");
        assert!(fs::read_dir(outside.path()).unwrap().next().is_none(), "{name}");
    }
}

#[test]
fn afresh_is_from_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::create(folder.path()).unwrap();
    let config = config(&["finetune.from=scratch"]);
    for resume in [Resume::Fresh, Resume::UnchangedOrFresh] {
        let other = self::config(&["finetune.from=scratch", "seed=1"]);
        finetune(&other, &run, &mut StopsAfter(3)).unwrap_err();
        finetune(&config, &run.clone().with_resume(resume), &mut Silent).unwrap();
        assert_same(folder.path(), &wanted(&config), &format!("{resume:?}"));
    }
}

#[test]
fn lost_lines_are_told() {
    for name in ["metrics.jsonl", "monitor.jsonl"] {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::create(folder.path()).unwrap();
        let config = config(&["pretrain.steps=60"]); // the monitor looks at step 50
        pretrain(&config, &run, &mut StopsAfter(52)).unwrap_err();
        let others = files(folder.path());
        overwrite(&folder.path().join(name), b"");
        let error = pretrain(&config, &run, &mut Silent).unwrap_err();
        let text = error.to_string().replace(&folder.path().display().to_string(), "RUN").replace(name, "FILE");
        insta::allow_duplicates! {
            insta::assert_snapshot!(text, @"RUN/FILE: lines that `pretrain` wrote are missing or changed: restore the file; `--fresh` starts the stage anew");
        }
        // the other file is as it was, for whoever puts this one back
        let left = files(folder.path());
        assert!(
            ["metrics.jsonl", "monitor.jsonl"].iter().all(|other| other == &name || left[*other] == others[*other]),
            "{name}"
        );
    }
}

#[test]
fn a_run_folder_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::create(folder.path()).unwrap();
    let lock = run.lock("sweep", &mut Silent).unwrap();
    let error = pretrain(&config(&[]), &run, &mut Silent).unwrap_err();
    assert!(error.exit_code() == 4 && error.to_string().contains("(`nids-mixer sweep`), started 0 seconds ago"), "{error}");
    drop(lock);
    let left = [SCRATCH.to_owned(), format!("latents/{SCRATCH}"), format!("checkpoints/{SCRATCH}")];
    for name in &left {
        let path = folder.path().join(name.clone() + "abc");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        overwrite(&path, b"half a file");
    }
    pretrain(&config(&[]), &run, &mut Silent).unwrap();
    assert!(left.iter().all(|name| !folder.path().join(name.clone() + "abc").exists()));
    // killed between the commit and the end
    let whole = files(folder.path());
    for name in ["checkpoints", "finished-pretrain"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    overwrite(&folder.path().join("checkpoints/pretrain.json"), b"an index");
    let moved = |name: &str| fs::rename(folder.path().join(name), folder.path().join("finished-pretrain").join(name)).unwrap();
    ["tokeniser.json", "manifest-pretrain.json"].into_iter().for_each(moved);
    drop(run.lock("sweep", &mut Silent).unwrap());
    assert!(["checkpoints", "finished-pretrain"].iter().all(|name| !folder.path().join(name).exists()));
    assert_same(folder.path(), &whole, "after the lock");
}

/// Lets every call to the disk go wrong in its turn, and then goes on with a disk that works.
fn fail_everywhere(fault: Fault, more: &[&str]) {
    let _alone = seam::alone();
    let config = config(&[&["pretrain.steps=3", "finetune.steps=3"], more].concat());
    let mut before = tempfile::tempdir().unwrap();
    for stage in stages(&config) {
        let after = copy(before.path());
        run_stage(stage, &config, &Run::create(after.path()).unwrap(), &mut Silent).unwrap();
        let wanted = files(after.path());
        let mut at = 0;
        loop {
            let folder = copy(before.path());
            let run = Run::create(folder.path()).unwrap();
            seam::set(Some((at, fault)));
            let result = run_stage(stage, &config, &run, &mut Silent);
            let calls = seam::calls();
            seam::set(None);
            if at >= calls {
                assert!(at > 20, "{stage} makes {calls} calls");
                break;
            }
            match (fault, result) {
                (Fault::Short, result) => result.unwrap(),
                (_, Ok(())) => panic!("{stage}, call {at}: nobody noticed"),
                (_, Err(error)) => assert_eq!(error.exit_code(), 6, "{stage}, call {at}: {error}"),
            }
            run_stage(stage, &config, &run, &mut Silent).unwrap_or_else(|error| panic!("{stage} after call {at}: {error}"));
            assert_same(folder.path(), &wanted, &format!("{stage}, call {at} went wrong"));
            at += 1;
        }
        drop(std::mem::replace(&mut before, after));
    }
}

pub(crate) fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for (name, bytes) in files(from) {
        let path = to.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        overwrite(&path, &bytes);
    }
    to
}

#[test]
fn a_full_disk_loses_nothing() {
    fail_everywhere(Fault::Fails(ErrorKind::StorageFull), &[]);
}

#[test]
fn a_passing_error_loses_nothing() {
    fail_everywhere(Fault::FailsOnce(ErrorKind::Other), &["finetune.from=scratch"]);
}

#[test]
fn short_writes_lose_nothing() {
    fail_everywhere(Fault::Short, &["finetune.from=latents"]);
}
