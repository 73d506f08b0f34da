use super::*;
use crate::output::{self, Output};
use crate::progress::Silent;
use tempfile::TempDir;

fn config(overrides: &[&str]) -> Config {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    Config::parse("name: x", "c.yaml", &overrides).unwrap()
}

/// A run folder in which `pretrain` has left `weights` and, from it, `finetune` has left `model`.
fn filled() -> (TempDir, Run) {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::create(&folder.path().join("run")).unwrap();
    pretrain(&run, "weights of seed 0", &config(&[]));
    finetune(&run);
    (folder, run)
}

fn pretrain(run: &Run, weights: &str, config: &Config) {
    let mut stage = run.begin(Stage::Pretrain, config, &mut Silent).unwrap();
    stage.write("weights", weights.as_bytes()).unwrap();
    log(&mut stage, 1).unwrap();
    stage.finish("scalar").unwrap();
}

/// Appends a line to each log.
fn log(stage: &mut StageRun<'_>, step: u64) -> Result<()> {
    stage.log(&line(step))?;
    stage.log_monitor(&MonitorLine { step, member: None, max_update: BTreeMap::new() })
}

fn line(step: u64) -> Line {
    Line::Step { step, member: None, loss: 0.5, lr: 1.0, grad_norm: 2.0, terms: BTreeMap::new() }
}

fn finetune(run: &Run) {
    let config = config(&[]);
    let mut stage = run.begin(Stage::Finetune, &config, &mut Silent).unwrap();
    stage.require(Stage::Pretrain, "weights").unwrap();
    stage.write("model/model", b"classifier").unwrap();
    stage.finish("scalar").unwrap();
}

fn shown(run: &Run, error: &Error) -> String {
    assert_eq!(error.exit_code(), 4, "{error}");
    error.to_string().replace(&run.folder().display().to_string(), "RUN")
}

fn refused(run: &Run, stage: Stage, name: &str) -> String {
    shown(run, &run.require(stage, name).unwrap_err())
}

/// Every file of a run folder and what it holds.
fn files(run: &Run) -> Vec<(String, Vec<u8>)> {
    let names = artefacts::files_in(run.folder()).unwrap().into_iter().filter(|name| name != ".lock");
    names.map(|name| (name.clone(), fs::read(run.folder().join(name)).unwrap())).collect()
}

fn logs(run: &Run) -> [String; 2] {
    LogFile::ALL.map(|file| fs::read_to_string(run.folder().join(file.name())).unwrap())
}

fn overwrite(run: &Run, name: &str, text: &str) {
    artefacts::write_atomic(&run.folder().join(name), |out| out.write_all(text.as_bytes())).unwrap();
}

#[test]
fn a_later_stage_finds_what_an_earlier_one_left() {
    let (_guard, run) = filled();
    let path = run.require(Stage::Finetune, "model/model").unwrap();
    assert_eq!(fs::read(path).unwrap(), b"classifier");
    assert_eq!(run.config(&[]).unwrap(), config(&[]));
    assert_eq!(run.config_of(Stage::Pretrain).unwrap(), config(&[]));
}

#[test]
fn the_same_run_gives_the_same_bytes_for_any_number_of_threads() {
    let left = |threads: &str| {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::create(folder.path()).unwrap();
        pretrain(&run, "weights", &config(&[threads]));
        ["manifest-pretrain.json", "config.yaml"].map(|name| fs::read_to_string(folder.path().join(name)).unwrap())
    };
    assert_eq!(left("engine.threads=1"), left("engine.threads=4"));
}

#[test]
fn a_manifest_counts_missing_cells_and_is_as_before_where_there_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::create(folder.path()).unwrap();
    let config = config(&[]);
    let manifest = |missing: &[(String, usize)]| {
        let mut stage = run.begin(Stage::Pretrain, &config, &mut Silent).unwrap();
        stage.missing(missing);
        stage.write("weights", b"weights").unwrap();
        stage.finish("scalar").unwrap();
        run.require(Stage::Pretrain, "weights").unwrap();
        serde_json::from_slice::<Json>(&fs::read(folder.path().join("manifest-pretrain.json")).unwrap()).unwrap()
    };
    let counts = [("dur", 3), ("proto", 0), ("state", 7)].map(|(name, n)| (name.to_owned(), n));
    assert_eq!(manifest(&counts)["missing"], serde_json::json!({ "dur": 3, "state": 7 }));
    assert!(manifest(&counts[1..2]).get("missing").is_none());
}

#[test]
fn what_was_never_made_names_the_command_that_makes_it() {
    let (_guard, run) = filled();
    overwrite(&run, "stray", "written by hand");
    let missing = run.folder().join("no");
    let all = [
        refused(&run, Stage::Encode, "latents/train.npy"),
        refused(&run, Stage::Pretrain, "stray"),
        refused(&run, Stage::Pretrain, "../outside"),
        shown(&run, &Run::open(&missing).unwrap_err()),
    ];
    insta::assert_snapshot!(all.join("\n"), @r"
    RUN: `encode` has not finished here: run `nids-mixer encode --config FILE --run RUN` first
    RUN/stray: `pretrain` made no such artefact: run `nids-mixer pretrain --config FILE --run RUN` first
    RUN: `../outside` lies outside the run folder: use a plain relative name
    RUN/no: no such run folder: run `nids-mixer pretrain --config FILE --run RUN/no` first
    ");
}

#[test]
fn a_file_that_differs_from_its_manifest_is_refused() {
    let (_guard, run) = filled();
    overwrite(&run, "weights", "weights");
    let mut all = vec![refused(&run, Stage::Pretrain, "weights")];
    overwrite(&run, "weights", "weights of seed 9");
    all.push(refused(&run, Stage::Pretrain, "weights"));
    fs::remove_file(run.folder().join("weights")).unwrap();
    all.push(refused(&run, Stage::Pretrain, "weights"));
    insta::assert_snapshot!(all.join("\n"), @r"
    RUN/weights: truncated: 7 bytes of 17: run `nids-mixer pretrain --config FILE --run RUN` first
    RUN/weights: changed since `pretrain` wrote it: run `nids-mixer pretrain --config FILE --run RUN` first
    RUN/weights: missing: run `nids-mixer pretrain --config FILE --run RUN` first
    ");
}

#[test]
fn an_artefact_outlived_by_its_inputs_is_stale() {
    let (_guard, run) = filled();
    pretrain(&run, "weights of a longer run", &config(&[]));
    insta::assert_snapshot!(refused(&run, Stage::Finetune, "model/model"), @"RUN/model/model: stale: `pretrain` has made another `weights` since: run `nids-mixer finetune --config FILE --run RUN` first");
    finetune(&run);
    run.require(Stage::Finetune, "model/model").unwrap();
}

#[test]
fn another_config_is_refused_with_the_keys_that_differ() {
    let (_guard, run) = filled();
    let other = config(&["model.dim=32", "pretrain.steps=7", "pretrain.optimiser=adam", "finetune.labels=100"]);
    let mut stage = run.begin(Stage::Finetune, &other, &mut Silent).unwrap();
    insta::assert_snapshot!(shown(&run, &stage.require(Stage::Pretrain, "weights").unwrap_err()), @"RUN/weights: made by another config: `model.dim` was 64 and is 32: run `nids-mixer pretrain --config FILE --run RUN` first, or keep its settings");
    drop(stage);
    let same =
        config(&["pretrain.steps=7", "finetune.labels=100", "engine.threads=2", "evaluate.threshold=0.9", "model.dropout=0.3"]);
    run.begin(Stage::Finetune, &same, &mut Silent).unwrap().require(Stage::Pretrain, "weights").unwrap();
}

#[test]
fn a_data_file_must_be_the_same_for_every_stage() {
    let (guard, run) = filled();
    let data = guard.path().join("train.csv");
    let config = config(&[]);
    artefacts::write_atomic(&data, |out| out.write_all(b"a")).unwrap();
    let mut stage = run.begin(Stage::Pretrain, &config, &mut Silent).unwrap();
    stage.input("data.train", &data).unwrap();
    stage.write("weights", b"w").unwrap();
    stage.finish("scalar").unwrap();
    artefacts::write_atomic(&data, |out| out.write_all(b"b")).unwrap();
    let mut stage = run.begin(Stage::Finetune, &config, &mut Silent).unwrap();
    stage.require(Stage::Pretrain, "weights").unwrap();
    insta::assert_snapshot!(shown(&run, &stage.input("data.train", &data).unwrap_err()), @"RUN: stale: the file behind `data.train` has changed since `pretrain` ran: run `nids-mixer pretrain --config FILE --run RUN` first");
}

#[test]
fn an_unfinished_stage_leaves_no_artefact_and_takes_none_away() {
    let (_guard, run) = filled();
    let (config, old) = (config(&["seed=1"]), logs(&run));
    let read = || fs::read(run.require(Stage::Pretrain, "weights").unwrap()).unwrap();
    drop(run.begin(Stage::Pretrain, &config, &mut Silent).unwrap());
    assert_eq!(read(), b"weights of seed 0");
    let mut stage = run.begin(Stage::Pretrain, &config, &mut Silent).unwrap();
    log(&mut stage, 2).unwrap();
    stage.write("weights", b"half").unwrap();
    stage.write("more", b"of it").unwrap();
    drop(stage);
    assert_eq!(read(), b"weights of seed 0");
    assert_eq!((run.config_of(Stage::Pretrain).unwrap().seed, run.config(&[]).unwrap().seed), (0, 0));
    assert_eq!((logs(&run), run.metrics(Stage::Pretrain).unwrap()), (old, vec![line(1)]));
    for name in ["staged-pretrain/metrics.jsonl", "staged-pretrain/monitor.jsonl"] {
        assert!(fs::read_to_string(run.folder().join(name)).unwrap().contains(r#""step":2"#), "{name}");
    }
    run.require(Stage::Finetune, "model/model").unwrap();
    // nor does what it left become part of what the next one leaves
    pretrain(&run, "weights of seed 1", &config);
    assert_eq!(read(), b"weights of seed 1");
    assert!(!run.folder().join("more").exists());

    let fresh = tempfile::tempdir().unwrap();
    let run = Run::create(&fresh.path().join("run")).unwrap();
    run.begin(Stage::Pretrain, &config, &mut Silent).unwrap().write("weights", b"half").unwrap();
    insta::assert_snapshot!(refused(&run, Stage::Pretrain, "weights"), @"RUN: `pretrain` has not finished here: run `nids-mixer pretrain --config FILE --run RUN` first");
}

#[test]
fn a_stage_is_up_to_date_by_the_content_of_its_data() {
    let (guard, run) = filled();
    let data = |name: &str, text: &str| {
        let path = guard.path().join(name);
        artefacts::write_atomic(&path, |out| out.write_all(text.as_bytes())).unwrap();
        path
    };
    let named = |name: &str| config(&[&format!("data.train={}", guard.path().join(name).display())]);
    let (path, made) = (data("a.csv", "rows"), named("a.csv"));
    let mut stage = run.begin(Stage::Pretrain, &made, &mut Silent).unwrap();
    stage.input("data.train", &path).unwrap();
    stage.write("weights", b"of rows").unwrap();
    stage.finish("scalar").unwrap();
    data("b.csv", "rows");
    data("c.csv", "more");
    let other = tempfile::tempdir().unwrap();
    let other = Run::create(other.path()).unwrap();
    let is_up_to_date = |config: &Config| {
        let is = run.is_up_to_date(Stage::Pretrain, config);
        assert_eq!(other.adopt(Stage::Pretrain, &run, config).unwrap(), is);
        is
    };
    assert_eq!(["a.csv", "b.csv", "c.csv", "none.csv"].map(|name| is_up_to_date(&named(name))), [true, true, false, false]);
    assert!(!is_up_to_date(&config(&[])), "generated flows are no file");
    assert!(!is_up_to_date(&named("b.csv").with(&["seed=1".to_owned()]).unwrap()));
    data("a.csv", "more");
    assert_eq!(["a.csv", "b.csv"].map(|name| is_up_to_date(&named(name))), [false, true]);
}

/// What readers find of `pretrain`: its weights, the seed in its settings and in `config.yaml`, its lines of metrics.
fn found(run: &Run) -> (String, u64, u64, Vec<Line>) {
    let weights = fs::read_to_string(run.require(Stage::Pretrain, "weights").unwrap()).unwrap();
    let seeds = [run.config_of(Stage::Pretrain), run.config(&[])].map(|config| config.unwrap().seed);
    (weights, seeds[0], seeds[1], run.metrics(Stage::Pretrain).unwrap())
}

#[test]
fn whatever_fails_readers_find_the_last_run_or_the_new_one() {
    let _alone = disk::seam::alone();
    let [old, new] = [0, 1].map(|seed| (format!("weights of seed {seed}"), seed, seed, vec![line(seed + 1)]));
    let config = config(&["seed=1"]);
    let again = |run: &Run| -> Result<()> {
        let mut stage = run.begin(Stage::Pretrain, &config, &mut Silent)?;
        log(&mut stage, 2)?;
        stage.write("weights", b"weights of seed 1")?;
        stage.write("latents/more", b"of seed 1")?;
        stage.finish("scalar")
    };
    let (_whole, wanted) = filled();
    again(&wanted).unwrap();
    let mut seen = [0, 0];
    for at in 0.. {
        let (_guard, run) = filled();
        disk::seam::set(Some((at, disk::seam::Fault::Fails(io::ErrorKind::StorageFull))));
        let result = again(&run);
        let calls = disk::seam::calls();
        disk::seam::set(None);
        if at >= calls {
            result.unwrap();
            break;
        }
        assert_eq!(result.unwrap_err().exit_code(), 6, "call {at}");
        let now = found(&run);
        assert!(now == old || now == new, "call {at}: {now:?}");
        seen[usize::from(now == new)] += 1;
        if now == new {
            assert_eq!(fs::read(run.require(Stage::Pretrain, "latents/more").unwrap()).unwrap(), b"of seed 1");
        }
        // whoever locks the folder next puts the rest into place
        drop(run.lock("sweep", &mut Silent).unwrap());
        assert_eq!(found(&run), now, "call {at}");
        assert!(now == old || files(&run) == files(&wanted), "call {at}");
        again(&run).unwrap();
        assert!(files(&run) == files(&wanted), "call {at}");
    }
    assert!(seen.iter().all(|&n| n > 8), "{seen:?}");
}

#[test]
fn whatever_fails_a_stage_that_runs_again_goes_on_from_its_checkpoint() {
    let _alone = disk::seam::alone();
    let config = config(&["seed=1"]);
    let steps = |run: &Run, n: u64| -> Result<()> {
        let mut stage = run.begin(Stage::Pretrain, &config, &mut Silent)?;
        let checkpoint = stage.resume(Arithmetic { kernels: "scalar".to_owned(), shard: 1, groups: 1 }, &mut Silent)?;
        let first = if checkpoint.is_some() { 2 } else { 1 };
        for step in first..=n {
            log(&mut stage, step)?;
            if step == 1 {
                stage.checkpoint(Position { member: None, step, score: None }, true, &(), &[])?;
            }
        }
        if n < 3 {
            return Ok(());
        }
        stage.write("weights", b"weights of seed 1")?;
        stage.finish("scalar")
    };
    let (_whole, wanted) = filled();
    steps(&wanted, 3).unwrap();
    for at in 0.. {
        let (_guard, run) = filled();
        steps(&run, 2).unwrap();
        disk::seam::set(Some((at, disk::seam::Fault::Fails(io::ErrorKind::StorageFull))));
        let result = steps(&run, 3);
        let calls = disk::seam::calls();
        disk::seam::set(None);
        if at < calls {
            result.unwrap_err();
            steps(&run, 3).unwrap_or_else(|error| panic!("call {at}: {error}"));
        }
        assert!(files(&run) == files(&wanted), "call {at}");
        if at >= calls {
            break;
        }
    }
}

#[test]
fn a_reader_of_several_files_gets_those_of_one_run() {
    let (_guard, run) = filled();
    let mut left = 3;
    let found = run.steadily(|| {
        let weights = fs::read_to_string(run.require(Stage::Pretrain, "weights")?).unwrap();
        if left > 0 {
            pretrain(&run, &format!("weights of seed {left}"), &config(&[&format!("seed={left}")]));
            left -= 1;
        }
        Ok((weights, run.config_of(Stage::Pretrain)?.seed))
    });
    assert_eq!(found.unwrap(), ("weights of seed 1".to_owned(), 1));
}

#[test]
fn a_stage_run_again_replaces_its_own_lines() {
    let (_guard, run) = filled();
    let config = config(&[]);
    let mut stage = run.begin(Stage::Finetune, &config, &mut Silent).unwrap();
    log(&mut stage, 2).unwrap();
    stage.finish("scalar").unwrap();
    pretrain(&run, "weights of seed 0", &config);
    insta::assert_snapshot!(logs(&run).concat(), @r#"
    {"stage":"finetune","step":2,"loss":0.5,"lr":1.0,"grad_norm":2.0}
    {"stage":"pretrain","step":1,"loss":0.5,"lr":1.0,"grad_norm":2.0}
    {"stage":"finetune","step":2,"max_update":{}}
    {"stage":"pretrain","step":1,"max_update":{}}
    "#);
}

#[test]
fn lines_of_metrics_are_read_by_stage_but_for_those_cut_short() {
    let (_guard, run) = filled();
    let config = config(&[]);
    let mut stage = run.begin(Stage::Encode, &config, &mut Silent).unwrap();
    stage.log(&line(2)).unwrap();
    stage.log(&line(3)).unwrap();
    drop(stage);
    let text = fs::read_to_string(run.folder().join("metrics.jsonl")).unwrap();
    overwrite(&run, "metrics.jsonl", &text[..text.len() - 3]);
    assert_eq!(run.metrics(Stage::Pretrain).unwrap(), [line(1)]);
    assert_eq!(run.metrics(Stage::Encode).unwrap(), [line(2)]);
    assert_eq!(run.metrics(Stage::Finetune).unwrap(), []);
}

#[test]
fn a_foreign_manifest_is_refused() {
    let (_guard, run) = filled();
    let good = fs::read_to_string(run.folder().join("manifest-pretrain.json")).unwrap();
    let mut all = Vec::new();
    let cases = [
        "{}".to_owned(),
        good[..20].to_owned(),
        good.replace("nids-mixer stage", "something else"),
        good.replace("\"stage\": \"pretrain\"", "\"stage\": \"encode\""),
        good.replace("\"dropout\"", "\"dropped\""),
    ];
    let config = config(&[]);
    for text in cases {
        overwrite(&run, "manifest-pretrain.json", &text);
        let mut stage = run.begin(Stage::Finetune, &config, &mut Silent).unwrap();
        all.push(shown(&run, &stage.require(Stage::Pretrain, "weights").unwrap_err()));
    }
    let outside = good.replace("\"weights\"", "\"../weights\"");
    overwrite(&run, "manifest-pretrain.json", &outside);
    all.push(refused(&run, Stage::Pretrain, "../weights"));
    insta::assert_snapshot!(all.join("\n"), @r"
    RUN/manifest-pretrain.json: not a manifest: missing field `kind` at line 1 column 2: run `nids-mixer pretrain --config FILE --run RUN` first
    RUN/manifest-pretrain.json: not a manifest: EOF while parsing a string at line 2 column 18: run `nids-mixer pretrain --config FILE --run RUN` first
    RUN/manifest-pretrain.json: foreign manifest: `something else` version 1 of `pretrain`: run `nids-mixer pretrain --config FILE --run RUN` first
    RUN/manifest-pretrain.json: foreign manifest: `nids-mixer stage` version 1 of `encode`: run `nids-mixer pretrain --config FILE --run RUN` first
    RUN/manifest-pretrain.json: made by another version (nids-mixer 0.1.0): run `nids-mixer pretrain --config FILE --run RUN` first
    RUN: `../weights` lies outside the run folder: use a plain relative name
    ");
}

#[test]
fn a_manifest_whose_config_was_edited_is_refused() {
    let (_guard, run) = filled();
    let mut all = Vec::new();
    for (name, from, to) in [
        ("manifest-finetune.json", "\"dim\": 64", "\"dim\": 4096"),
        ("manifest-finetune.json", "\"threads\": 0", "\"threads\": 1024"),
        ("manifest-finetune.json", "\"config_hash\": \"", "\"config_hash\": \"0"),
        // what it was made from, too
        ("manifest-pretrain.json", "\"dim\": 64", "\"dim\": 4096"),
    ] {
        let good = fs::read_to_string(run.folder().join(name)).unwrap();
        assert_eq!(good.matches(from).count(), 1, "{from}");
        overwrite(&run, name, &good.replace(from, to));
        all.push(refused(&run, Stage::Finetune, "model/model"));
        assert_eq!(run.config_of(Stage::Finetune).is_err(), name == "manifest-finetune.json");
        overwrite(&run, name, &good);
    }
    run.require(Stage::Finetune, "model/model").unwrap();
    insta::assert_snapshot!(all.join("\n"), @r"
    RUN/manifest-finetune.json: `config` does not match `config_hash`: edited, or made by another version (nids-mixer 0.1.0): run `nids-mixer finetune --config FILE --run RUN` first
    RUN/manifest-finetune.json: foreign manifest: `engine.threads` is 1024, expected 0: run `nids-mixer finetune --config FILE --run RUN` first
    RUN/manifest-finetune.json: `config` does not match `config_hash`: edited, or made by another version (nids-mixer 0.1.0): run `nids-mixer finetune --config FILE --run RUN` first
    RUN/manifest-pretrain.json: `config` does not match `config_hash`: edited, or made by another version (nids-mixer 0.1.0): run `nids-mixer pretrain --config FILE --run RUN` first
    ");
}

#[test]
fn whatever_a_manifest_lists_is_no_place_for_results() {
    let (_guard, run) = filled();
    let check = |name: &str| output::check(Output::File(&run.folder().join(name)), &[]);
    overwrite(&run, "verdicts", "of an earlier run");
    check("verdicts").unwrap();
    for name in ["weights", "model/model"] {
        assert_eq!(check(name).unwrap_err().exit_code(), 2, "{name}");
    }
}

#[test]
fn a_file_of_no_stage_is_read_up_to_its_limit_and_removed() {
    let (_guard, run) = filled();
    assert_eq!(run.read(CALIBRATION, 8).unwrap(), None);
    assert!(!run.has(CALIBRATION) && !run.remove(CALIBRATION).unwrap());
    run.write(CALIBRATION, b"12345678").unwrap();
    assert_eq!(run.read(CALIBRATION, 8).unwrap().as_deref(), Some(b"12345678".as_slice()));
    let error = shown(&run, &run.read(CALIBRATION, 7).unwrap_err());
    assert_eq!(
        error,
        "RUN/calibration.json: larger than 0 KiB, the limit for this file: remove it, and run the command that makes it again"
    );
    assert!(run.remove(CALIBRATION).unwrap() && !run.has(CALIBRATION));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/etc/hostname", run.folder().join(CALIBRATION)).unwrap();
        assert!(shown(&run, &run.read(CALIBRATION, 1 << 20).unwrap_err()).contains("a link that leads out"));
    }
}

#[test]
fn data_that_has_changed_since_a_stage_finished_is_not_what_it_held_out() {
    let (guard, run) = filled();
    let data = guard.path().join("flows.csv");
    artefacts::write_atomic(&data, |out| out.write_all(b"a")).unwrap();
    let config = config(&[]);
    let mut stage = run.begin(Stage::Finetune, &config, &mut Silent).unwrap();
    stage.input("data.train", &data).unwrap();
    stage.write("model/model", b"classifier").unwrap();
    stage.finish("scalar").unwrap();
    let look = || {
        let mut stage = run.look(Stage::Finetune, &config);
        stage.input("data.train", &data).and_then(|()| stage.require_same_data())
    };
    look().unwrap();
    artefacts::write_atomic(&data, |out| out.write_all(b"b")).unwrap();
    let wanted = "RUN: stale: the file behind `data.train` has changed since `finetune` ran: run `nids-mixer finetune --config FILE \
                  --run RUN` first";
    assert_eq!(shown(&run, &look().unwrap_err()), wanted);
}

#[test]
fn workers_far_beyond_the_cores_are_refused_before_anything_is_made() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let guard = tempfile::tempdir().unwrap();
    let run = Run::create(guard.path()).unwrap();
    let begin = |threads: usize| {
        let config = config(&[&format!("engine.threads={threads}")]);
        run.begin(Stage::Pretrain, &config, &mut Silent).map(drop)
    };
    begin((16 * cores).min(1024)).unwrap();
    fs::remove_file(guard.path().join(".lock")).unwrap();
    if 16 * cores < 1024 {
        let error = begin(16 * cores + 1).unwrap_err();
        let wanted = format!(
            "`engine.threads: {}`: expected at most {}, 16 for each of the {cores} cores here",
            16 * cores + 1,
            16 * cores
        );
        assert_eq!((error.exit_code(), error.to_string()), (2, wanted));
        assert_eq!(fs::read_dir(guard.path()).unwrap().count(), 0);
    }
}

#[cfg(unix)]
#[test]
fn no_link_leads_out_of_the_folder() {
    let (guard, run) = filled();
    let outside = guard.path().join("outside");
    let link = |name: &str, target: &std::path::Path| {
        let path = run.folder().join(name);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(target, path).unwrap();
    };
    let config = config(&[]);
    let write = |name: &str| run.begin(Stage::Pretrain, &config, &mut Silent).unwrap().write(name, b"w");
    fs::create_dir(&outside).unwrap();
    let secret = outside.join("secret");
    artefacts::write_atomic(&secret, |out| out.write_all(b"weights of seed 0")).unwrap();

    // the content is what the manifest lists, and yet
    link("weights", &secret);
    insta::assert_snapshot!(refused(&run, Stage::Pretrain, "weights"), @"RUN/weights: a link that leads out of the run folder: remove it, or link the whole folder");
    shown(&run, &write("weights").unwrap_err());
    link("latents", &outside);
    shown(&run, &write("latents/secret").unwrap_err());
    shown(&run, &write("latents/new/train.npy").unwrap_err());
    link("more", std::path::Path::new("model"));
    write("more/weights").unwrap();
    for name in ["config.yaml", "metrics.jsonl", "manifest-pretrain.json"] {
        link(name, &secret);
        shown(&run, &write("new").unwrap_err());
        fs::remove_file(run.folder().join(name)).unwrap();
    }
    write("new").unwrap();
    assert_eq!(fs::read(&secret).unwrap(), b"weights of seed 0");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn names_in_a_manifest_never_leave_the_folder() {
    let (guard, run) = filled();
    let outside = guard.path().join("weights");
    artefacts::write_atomic(&outside, |out| out.write_all(b"weights of seed 0")).unwrap();
    let good = fs::read_to_string(run.folder().join("manifest-pretrain.json")).unwrap();
    for name in ["../weights", "a/../../weights", "./../weights", outside.to_str().unwrap(), "..", "", "/"] {
        overwrite(&run, "manifest-pretrain.json", &good.replace("\"weights\"", &serde_json::to_string(name).unwrap()));
        let message = refused(&run, Stage::Pretrain, name);
        assert!(message.contains("lies outside the run folder"), "{name}: {message}");
        let other = Run::create(&guard.path().join("other")).unwrap();
        assert!(!other.adopt(Stage::Pretrain, &run, &config(&[])).unwrap(), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_folder_that_is_replaced_under_a_stage_is_noticed_and_left_alone() {
    type Write<'w> = &'w dyn Fn(&mut StageRun<'_>) -> Result<()>;
    let writes: [(&str, Write<'_>); 3] = [
        ("an artefact", &|stage| stage.write("new/weights", b"w")),
        ("metrics", &|stage| stage.log(&line(2))),
        ("nothing before the end", &|_| Ok(())),
    ];
    for (what, write) in writes {
        for is_replaced in [true, false] {
            let (guard, run) = filled();
            let config = config(&[]);
            let mut stage = run.begin(Stage::Pretrain, &config, &mut Silent).unwrap();
            stage.write("weights", b"w").unwrap();
            fs::rename(run.folder(), guard.path().join("elsewhere")).unwrap();
            if is_replaced {
                fs::create_dir(run.folder()).unwrap();
                overwrite(&run, "manifest-pretrain.json", "of another");
            }
            let error = write(&mut stage).and_then(|()| stage.finish("scalar")).unwrap_err();
            insta::allow_duplicates! {
                insta::assert_snapshot!(shown(&run, &error), @"RUN: no longer the folder that `pretrain` started in: moved, removed or replaced while it ran: nothing more was written: give the command again, with `--run` where the folder is now");
            }
            let found = run.folder().exists().then(|| fs::read_dir(run.folder()).unwrap().count());
            assert_eq!(found, is_replaced.then_some(1), "{what} was written");
        }
    }
}

#[test]
fn numbers_of_every_stage_are_left_as_a_table_and_for_tensorboard() {
    let (_folder, run) = filled();
    let events = |stage: Stage| run.folder().join(events_name(stage));
    let table = || fs::read_to_string(run.folder().join("metrics.csv")).unwrap();
    assert_eq!(table(), "stage,step,member,members,heads,grad_norm,loss,lr\npretrain,1,,,,2.0,0.5,1.0\n");
    assert!(events(Stage::Pretrain).is_file() && events(Stage::Finetune).is_file() && !events(Stage::Encode).exists());
    // a run of an earlier version has none, and gets the same
    let before = files(&run);
    fs::remove_file(run.folder().join("metrics.csv")).unwrap();
    fs::remove_dir_all(run.folder().join("tensorboard")).unwrap();
    run.export_metrics().unwrap();
    assert_eq!(files(&run), before);
    // another run of the stage replaces its own
    let size = fs::metadata(events(Stage::Pretrain)).unwrap().len();
    let config = config(&[]);
    let mut stage = run.begin(Stage::Pretrain, &config, &mut Silent).unwrap();
    (1..4).for_each(|step| log(&mut stage, step).unwrap());
    assert_eq!(fs::metadata(events(Stage::Pretrain)).unwrap().len(), size, "not before its end");
    stage.finish("scalar").unwrap();
    assert!(fs::metadata(events(Stage::Pretrain)).unwrap().len() > size && table().lines().count() == 4);
}

#[test]
fn a_page_about_a_run_does_not_outlive_what_it_is_about() {
    let (_folder, run) = filled();
    let page = || run.write(REPORT, b"<!doctype html>").unwrap();
    for stage in [Stage::Pretrain, Stage::Finetune] {
        let page = page();
        let config = config(&[]);
        let mut stage = run.begin(stage, &config, &mut Silent).unwrap();
        log(&mut stage, 1).unwrap();
        assert!(page.exists(), "until the stage has finished");
        stage.finish("scalar").unwrap();
        assert!(!page.exists());
    }
    let page = page();
    run.begin(Stage::Encode, &config(&[]), &mut Silent).unwrap().finish("scalar").unwrap();
    assert!(page.exists());
}
