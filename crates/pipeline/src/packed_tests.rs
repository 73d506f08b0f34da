use std::collections::BTreeMap;
use std::io::ErrorKind;

use std::sync::Arc;

use ndarray::Array2;
use nids_kernels::Key;
use nids_store::npy;
use nids_train::stream;

use super::*;
use crate::stages::encode::{add_noise, spread};
use crate::stages::{
    encode, finetune, pretrain,
    resume_tests::{StopsAfter, assert_same, files},
};
use crate::step_rows::{PackedSteps, StepRows};
use crate::testing::{Folder, Told, cells, column, csv, flows};
use nids_config::Stage;
use nids_nn::engine::Sample;
use nids_store::disk::seam::{self, Fault};
use nids_store::progress::Silent;
use nids_store::run::{Resume, Run};

/// Of every run; the rows are some hundred, so that a cache of a few rows a partition has many.
const SETTINGS: &[&str] = &[
    "name=x",
    "data.schema=DIR/schema.yaml",
    "data.train=[DIR/one.csv, DIR/two.csv]",
    "data.unlabelled=DIR/more.csv",
    "tokeniser.bins=4",
    "tokeniser.min_count=2",
    "model.dim=8",
    "model.depth=1",
    "model.n_registers=1",
    "engine.threads=2",
    "checkpoint.every=3",
    "pretrain.steps=40",
    "pretrain.batch_size=16",
    "pretrain.micro_batch=8",
    "pretrain.log_every=3",
];
const CACHED: &str = "data.cache=DIR/cache";

/// Two labelled files, some rows of which have no label, and one without labels.
fn folder() -> Folder {
    let folder = Folder::new();
    let schema = std::fs::read_to_string(folder.path("schema.yaml")).unwrap();
    folder.write("schema.yaml", format!("{schema}labels: {{ benign: [\"0\"], attack: [\"1\"], ignore: [\"\"] }}\n"));
    for (name, rows, seed) in [("one.csv", 150, 1), ("two.csv", 90, 2), ("more.csv", 130, 3)] {
        let mut cells = cells(&flows(rows, seed));
        let [label, missing] = ["label", "sbytes"].map(|name| column(&cells, name));
        cells.iter_mut().skip(1).step_by(9).for_each(|cells| cells[label].clear());
        cells.iter_mut().skip(1).step_by(14).for_each(|cells| cells[missing].clear());
        folder.write(name, csv(&cells));
    }
    folder
}

fn trained(folder: &Folder, name: &str, more: &[&str]) -> Run {
    let run = folder.run(name);
    pretrain(&folder.config(&[SETTINGS, more]), &run, &mut Silent).unwrap_or_else(|error| panic!("{more:?}: {error}"));
    run
}

/// What a run leaves but for the settings, which say where rows lie, and the page with them.
fn left(run: &Run) -> BTreeMap<String, Vec<u8>> {
    let mut files = files(run.folder());
    files.remove("config.yaml").unwrap();
    for (name, bytes) in files.iter_mut().filter(|(name, _)| name.starts_with("manifest-")) {
        let mut manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        manifest["config"]["data"].as_object_mut().unwrap().remove("cache").unwrap_or_else(|| panic!("{name}"));
        *bytes = manifest.to_string().into_bytes();
    }
    files
}

#[test]
fn weights_from_a_cache_are_those_from_memory() {
    let _alone = seam::alone();
    let folder = folder();
    let cases: &[&[&str]] = &[
        &[],
        &["pretrain.rows=benign"],
        &["pretrain.objective=replaced"],
        &["pretrain.objective.mae.target=bins", "data.inner_validation=true"],
        &["pretrain.objective=vae", "data.train=null"],
        &["data.unlabelled=null", "tokeniser.normalisation=standard"],
    ];
    for (place, more) in cases.iter().enumerate() {
        let memory = trained(&folder, &format!("memory-{place}"), more);
        let cached = trained(&folder, &format!("cached-{place}"), &[*more, &[CACHED]].concat());
        assert_eq!(left(&memory).keys().collect::<Vec<_>>(), left(&cached).keys().collect::<Vec<_>>());
        for (name, bytes) in left(&memory) {
            assert!(left(&cached)[&name] == bytes, "{more:?}: {name} differs");
        }
    }
}

#[test]
fn a_run_that_is_stopped_or_whose_settings_come_again_reads_the_cache_and_leaves_the_same_bytes() {
    let _alone = seam::alone();
    let folder = folder();
    let wanted = files(trained(&folder, "whole", &[CACHED]).folder());
    let cache = || files(&folder.path("cache"));
    let (before, config) = (cache(), folder.config(&[SETTINGS, &[CACHED]]));
    let run = folder.run("stopped");
    let mut told = Vec::new();
    loop {
        let mut progress = Both(StopsAfter(7), Told::default());
        match pretrain(&config, &run, &mut progress) {
            Ok(()) => break,
            Err(Error::Interrupted { .. }) => told = progress.1.0,
            Err(error) => panic!("{error}"),
        }
    }
    assert_same(run.folder(), &wanted, "stopped every 7 steps");
    assert!(cache() == before, "the cache is only read");
    let places = ["rows are read from", "labelled rows,", "unlabelled rows", "missing: `sbytes`"];
    for place in places {
        assert!(told.iter().any(|line| line.contains(place)), "{place}: {told:?}");
    }
    // other settings of training share the cache, others of the rows do not
    let more = ["pretrain.lr=0.01", "model.depth=2", "pretrain.objective=vae"].map(|setting| vec![CACHED, setting]);
    for (place, more) in more.iter().enumerate() {
        trained(&folder, &format!("shares-{place}"), more);
        assert!(cache() == before, "{more:?}");
    }
    let more = ["seed=1", "tokeniser.bins=5", "data.validation_fraction=0.3", "pretrain.rows=benign", "data.without=[sttl]"];
    for (place, more) in more.iter().enumerate() {
        let n = cache().len();
        trained(&folder, &format!("other-{place}"), &[CACHED, more]);
        assert!(cache().len() > n, "{more}");
    }
}

/// A run with a classifier on the encoder that `pretrain` leaves.
fn classified(folder: &Folder, name: &str, more: &[&str]) -> (Run, Vec<String>) {
    const FEW: &[&str] = &["pretrain.steps=4", "finetune.steps=30", "finetune.batch_size=16", "finetune.eval_every=12"];
    let (run, mut told) = (folder.run(name), Told::default());
    let config = folder.config(&[SETTINGS, FEW, more]);
    pretrain(&config, &run, &mut Silent).unwrap();
    finetune(&config, &run, &mut told).unwrap_or_else(|error| panic!("{more:?}: {error}"));
    (run, told.0)
}

fn n_caches(folder: &Folder) -> usize {
    nids_store::packed::list(&folder.path("cache")).unwrap().len()
}

#[test]
fn a_classifier_from_a_cache_is_that_from_memory() {
    let _alone = seam::alone();
    let folder = folder();
    let cases: &[&[&str]] = &[
        &[],
        &["finetune.task=multiclass", "data.inner_validation=true"],
        &["finetune.labels=60", "finetune.members=2"],
        &["finetune.refit=all", "finetune.ema={decay: 0.9}"],
        &["pretrain.rows=benign", "pretrain.objective.mae.target=bins"],
    ];
    for (place, more) in cases.iter().enumerate() {
        let (memory, told_memory) = classified(&folder, &format!("memory-{place}"), more);
        let (cached, told_cached) = classified(&folder, &format!("cached-{place}"), &[*more, &[CACHED]].concat());
        assert_eq!(left(&memory).keys().collect::<Vec<_>>(), left(&cached).keys().collect::<Vec<_>>());
        for (name, bytes) in left(&memory) {
            assert!(left(&cached)[&name] == bytes, "{more:?}: {name} differs");
        }
        // what is told is the same but for the cache, and but for the run's name
        let of_rows = |told: &[String]| {
            told.iter()
                .filter(|line| {
                    !line.contains("data.cache") && !line.contains("-0") && line.contains("row") && !line.contains("rows/s")
                })
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(of_rows(&told_memory), of_rows(&told_cached));
        assert!(told_cached.iter().any(|line| line.contains("labelled rows are read from")), "{told_cached:?}");
    }
    // the cache of pretraining is that of finetuning, of which three cases have the same rows
    assert_eq!(n_caches(&folder), 3);
}

#[test]
fn labelled_rows_are_packed_where_pretraining_has_left_others() {
    let _alone = seam::alone();
    let folder = folder();
    let (memory, _) = classified(&folder, "memory", &[]);
    let config = |more: &[&str]| {
        let few = ["pretrain.steps=4", "finetune.steps=30", "finetune.batch_size=16", "finetune.eval_every=12"];
        folder.config(&[SETTINGS, &few, &[CACHED], more])
    };
    // pretraining was done in memory
    for (n, wanted) in [(1, "labelled rows are read from"), (0, "rows are tokenised into")] {
        let run = folder.run("memory");
        let mut told = Told::default();
        let before = left(&run);
        if n == 1 {
            finetune(&config(&[]), &run, &mut Silent).unwrap();
        } else {
            nids_store::packed::clean(&folder.path("cache"), "cache --clean").unwrap();
        }
        finetune(&config(&[]), &run, &mut told).unwrap();
        assert!(told.0.iter().any(|line| line.contains(wanted)), "{wanted}: {:?}", told.0);
        assert_eq!(n_caches(&folder), 1);
        let model = |files: &BTreeMap<String, Vec<u8>>| files["model.safetensors"].clone();
        assert!(model(&left(&run)) == model(&before));
    }
    drop(memory);
    // other rows than those in the cache
    let other = folder.run("other");
    let seed = ["seed=5", "tokeniser.bins=5"];
    pretrain(&folder.config(&[SETTINGS, &["pretrain.steps=4"], &seed]), &other, &mut Silent).unwrap();
    finetune(&config(&seed), &other, &mut Silent).unwrap();
    assert_eq!(n_caches(&folder), 2, "cells of another tokeniser");
}

#[test]
fn a_classifier_that_is_stopped_goes_on_from_the_cache_to_the_same_bytes() {
    let _alone = seam::alone();
    let folder = folder();
    let more = [CACHED, "finetune.members=2"];
    let wanted = files(classified(&folder, "whole", &more).0.folder());
    let few = ["pretrain.steps=4", "finetune.steps=30", "finetune.batch_size=16", "finetune.eval_every=12"];
    let (run, config) = (folder.run("stopped"), folder.config(&[SETTINGS, &few, &more]));
    pretrain(&config, &run, &mut Silent).unwrap();
    let mut stops = 0;
    while let Err(error) = finetune(&config, &run, &mut StopsAfter(7)) {
        assert!(matches!(error, Error::Interrupted { .. }), "{error}");
        stops += 1;
    }
    assert!(stops > 3, "{stops}");
    assert_same(run.folder(), &wanted, "stopped every 7 steps");
}

#[test]
fn a_training_that_needs_all_rows_says_that_it_holds_them() {
    let _alone = seam::alone();
    let folder = folder();
    for (more, why) in [
        (&["finetune.from=scratch"][..], "`finetune.from: scratch` learns the tokeniser"),
        (&["finetune.from=frozen", "finetune.heads=[logistic]"], "`finetune.heads` are fitted on all of them"),
        (&["finetune.heads=[extra_trees]"], "`finetune.heads` are fitted on all of them"),
        (&["finetune.mean_teacher={}", "finetune.labels=60"], "`finetune.mean_teacher` reads them"),
    ] {
        let name = more.join("-").replace(['.', '=', '[', ']', '{', '}'], "-");
        let (_, told) = classified(&folder, &name, &[more, &[CACHED]].concat());
        let wanted = format!("`data.cache`: labelled rows are held in memory, since {why}");
        assert!(told.iter().any(|line| line.starts_with(&wanted)), "{more:?}: {told:?}");
        let (_, told) = classified(&folder, &format!("{name}-memory"), more);
        assert!(!told.iter().any(|line| line.contains("data.cache")), "{told:?}");
    }
}

#[test]
fn latents_from_a_cache_are_those_from_memory() {
    let _alone = seam::alone();
    let folder = folder();
    let cases: &[&[&str]] =
        &[&[], &["encode.noise={copies: 2, sigma: 0.5}"], &["encode.latents=tokens", "data.inner_validation=true"]];
    for (place, more) in cases.iter().enumerate() {
        let [memory, cached] = [None, Some(CACHED)].map(|cache| {
            let run = folder.run(&format!("{place}-{}", cache.is_some()));
            let config = folder.config(&[SETTINGS, &["pretrain.steps=4"], more, cache.as_slice()]);
            pretrain(&config, &run, &mut Silent).unwrap();
            encode(&config, &run, &mut Silent).unwrap_or_else(|error| panic!("{more:?}: {error}"));
            left(&run)
        });
        assert_eq!(memory.keys().collect::<Vec<_>>(), cached.keys().collect::<Vec<_>>());
        let path = folder.path(&format!("{place}-true")).join("latents/train.npy");
        if more.iter().any(|setting| setting.contains("copies: 2")) {
            each_copy_has_noise_of_its_own(&npy::from_bytes(&cached["latents/train.npy"], &path).unwrap());
        }
        for (name, bytes) in memory {
            assert!(cached[&name] == bytes, "{more:?}: {name} differs");
        }
    }
}

/// Whether two copies of clean rows have the noise that seed and place give them.   z: [3 · rows, width]
fn each_copy_has_noise_of_its_own(z: &Array2<f32>) {
    let n = z.nrows() / 3;
    assert!(n > 128, "more than two pieces");
    let clean = |all: &mut dyn FnMut(&[f32])| {
        z.rows().into_iter().take(n).for_each(|row| all(&row.to_vec()));
        Ok(())
    };
    let spread = spread(z.ncols(), n, clean).unwrap();
    let key = Key::new(0).child(stream::LATENT_NOISE);
    for row in n..3 * n {
        let mut wanted = z.row(row % n).to_vec();
        add_noise(key, row as u32, 0.5, &spread, &mut wanted);
        assert_eq!(z.row(row).to_vec(), wanted, "row {row}");
    }
}

/// Hands events on to two.
struct Both(StopsAfter, Told);

impl Progress for Both {
    fn event(&mut self, event: Event<'_>) {
        self.0.event(event);
        self.1.event(event);
    }

    fn stop(&mut self) -> Option<u8> {
        self.0.stop()
    }
}

/// Stops at an event about rows.
struct StopsAtRows(u64);

impl Progress for StopsAtRows {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Rows { .. } = event {
            self.0 = self.0.saturating_sub(1);
        }
    }

    fn stop(&mut self) -> Option<u8> {
        (self.0 == 0).then_some(15)
    }
}

#[test]
fn a_cache_that_is_stopped_or_whose_disk_fails_is_gone_on_with_to_the_same_bytes() {
    let _alone = seam::alone();
    let folder = folder();
    let config = folder.config(&[SETTINGS, &[CACHED]]);
    let pack = |name: &str, fault: Option<(u64, Fault)>, progress: &mut dyn Progress| {
        let run = folder.run(name).with_resume(Resume::Fresh);
        let mut stage = run.begin(Stage::Pretrain, &config, &mut Silent).unwrap();
        let cache = folder.path(&format!("{name}-cache"));
        seam::set(fault);
        let packed = PackedRows::with_partitions(16, &config, &cache, &mut stage, progress);
        seam::set(None);
        packed.map(|rows| (cache, rows.n_rows()))
    };
    let (cache, n_rows) = pack("whole", None, &mut Silent).unwrap();
    let wanted = files(&cache);
    assert!(wanted.keys().filter(|name| name.contains("/rows-")).count() > 15 && n_rows > 250, "{:?}", wanted.keys());
    for stop in 1.. {
        let name = format!("stopped-{stop}");
        if pack(&name, None, &mut StopsAtRows(stop)).is_ok() {
            assert!(stop > 5);
            break;
        }
        let (cache, _) = pack(&name, None, &mut Silent).unwrap();
        assert_same(&cache, &wanted, &name);
    }
    // calls to the disk of the cache fail, and all after them
    for at in (0..).step_by(3) {
        let name = format!("full-{at}");
        match pack(&name, Some((at, Fault::Fails(ErrorKind::StorageFull))), &mut Silent) {
            Ok(_) => break,
            Err(error) => assert_eq!(error.exit_code(), 6, "{error}"),
        }
        let (cache, _) = pack(&name, None, &mut Silent).unwrap();
        assert_same(&cache, &wanted, &name);
    }
}

#[test]
fn rows_that_were_left_out_are_written_again_when_the_cache_is_there_already() {
    let _alone = seam::alone();
    let folder = folder();
    let text = std::fs::read_to_string(folder.path("more.csv")).unwrap();
    let mut cells = cells(&text);
    let sttl = column(&cells, "sttl");
    "many".clone_into(&mut cells[5][sttl]);
    folder.write("more.csv", csv(&cells));
    let more = [CACHED, "data.on_bad_row=skip", "data.max_bad_rows=0.5", "data.rejects=DIR/rejects.csv"];
    trained(&folder, "one", &more);
    let rejects = std::fs::read(folder.path("rejects.csv")).unwrap();
    assert!(String::from_utf8_lossy(&rejects).contains("many"));
    folder.write("rejects.csv", "");
    trained(&folder, "two", &more);
    assert_eq!(std::fs::read(folder.path("rejects.csv")).unwrap(), rejects);
}

#[test]
fn a_cache_that_is_damaged_meanwhile_ends_the_run_with_its_name() {
    let _alone = seam::alone();
    let folder = folder();
    for objective in ["mae", "replaced"] {
        trained(&folder, &format!("whole-{objective}"), &[CACHED]);
        let config = folder.config(&[SETTINGS, &[CACHED, &format!("pretrain.objective={objective}")]]);
        let rows = files(&folder.path("cache")).into_keys().find(|name| name.contains("/rows-")).unwrap();
        let path = folder.path("cache").join(rows);
        let mut cuts = Cuts { path: path.clone(), after: 5 };
        let error = pretrain(&config, &folder.run(&format!("cut-{objective}")), &mut cuts).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()) && text.contains("truncated since it was opened"), "{text}");
        // the next run says it at once
        let error = pretrain(&config, &folder.run("next"), &mut Silent).unwrap_err();
        assert!(error.to_string().contains("truncated: 0 bytes of"), "{error}");
        nids_store::packed::clean(&folder.path("cache"), "cache --clean").unwrap();
    }
}

/// The rows of a cache in the folder `cache`.
fn packed(folder: &Folder) -> Arc<PackedRows> {
    let config = folder.config(&[SETTINGS, &[CACHED]]);
    let run = folder.run("run");
    let mut stage = run.begin(Stage::Pretrain, &config, &mut Silent).unwrap();
    Arc::new(PackedRows::open_or_pack(&config, &folder.path("cache"), &mut stage, &mut Silent).unwrap())
}

fn samples(first: u32) -> Vec<Sample> {
    (0..4).map(|key| Sample { row: first + 3 * key, key }).collect()
}

#[test]
fn a_step_gets_its_own_rows_also_where_others_were_read_ahead() {
    let _alone = seam::alone();
    let folder = folder();
    let rows = packed(&folder);
    let tokens = |steps: &PackedSteps, first: u32| {
        let step = StepRows::Packed(steps);
        let mut x = vec![0.0; 4 * step.width()];
        step.fill(&samples(first), &mut x);
        x
    };
    let fresh = |first: u32| {
        let steps = PackedSteps::new(Arc::clone(&rows), 4).unwrap();
        steps.fetch(&samples(first), &samples(0)).unwrap();
        tokens(&steps, first)
    };
    let steps = PackedSteps::new(Arc::clone(&rows), 4).unwrap();
    // in order, then back as after a rollback, then on
    for (first, next) in [(40, 9), (9, 31), (40, 9), (70, 9), (9, 9)] {
        steps.fetch(&samples(first), &samples(next)).unwrap();
        assert_eq!(tokens(&steps, first), fresh(first), "rows from {first} on");
    }
    assert_ne!(fresh(40), fresh(9));
}

#[test]
fn a_row_of_another_step_that_cannot_be_read_is_told_before_the_next_step() {
    let _alone = seam::alone();
    let folder = folder();
    let steps = PackedSteps::new(packed(&folder), 4).unwrap();
    steps.fetch(&samples(40), &samples(9)).unwrap();
    let step = StepRows::Packed(&steps);
    let mut x = vec![0.0; 4 * step.width()];
    step.fill(&samples(40), &mut x);
    assert!(!step.swap(&samples(40), 0, 1, 43, &mut x), "a row is itself");
    steps.check().unwrap();
    let name = files(&folder.path("cache")).into_keys().find(|name| name.contains("/rows-")).unwrap();
    std::fs::OpenOptions::new().write(true).truncate(true).open(folder.path("cache").join(name)).unwrap();
    step.swap(&samples(40), 0, 1, 77, &mut x);
    let error = steps.check().unwrap_err();
    assert!(error.to_string().contains("truncated since it was opened"), "{error}");
}

/// Empties a file after some steps.
struct Cuts {
    path: PathBuf,
    after: u64,
}

impl Progress for Cuts {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Step { step, .. } = event
            && step == self.after
        {
            std::fs::OpenOptions::new().write(true).truncate(true).open(&self.path).unwrap();
        }
    }
}

#[test]
fn large_files_are_packed_in_the_run_folder_and_small_ones_are_not() {
    let folder = folder();
    let place = |more: &[&str]| super::folder(&folder.config(&[SETTINGS, more]), Path::new("run")).unwrap();
    assert_eq!(place(&[]), None);
    assert_eq!(place(&["data.cache=memory"]), None);
    assert_eq!(place(&["data.cache=there"]), Some(PathBuf::from("there")));
    assert_eq!(place(&["data.cache=there", "data.schema=unsw-nb15", "data.train=null", "data.unlabelled=null"]), None);
    let large = std::fs::OpenOptions::new().append(true).open(folder.path("more.csv")).unwrap();
    large.set_len(AUTO_BYTES - (1 << 20)).unwrap();
    assert_eq!(place(&[]), None);
    large.set_len(AUTO_BYTES).unwrap();
    assert_eq!(place(&[]), Some(PathBuf::from("run/cache")));
    assert_eq!(place(&["data.cache=memory"]), None);
}
