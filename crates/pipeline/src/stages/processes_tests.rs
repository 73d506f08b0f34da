//! Stages that several processes work on: the bytes of one. Here the processes are threads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};

use nids_config::{Config, Stage};
use nids_nn::peers::{Peers, ThreadPeers};
use nids_store::progress::{Progress, Silent};
use nids_store::run::{Resume, Run};
use nids_store::{Error, Result};

use super::resume_tests::{StopsAfter, assert_same, config, files, run_stage, stages};
use crate::testing::Folder;

/// What `work` returns in each of so many processes. The first one makes the folder.
fn each<T: Send>(processes: usize, folder: &Path, work: impl Fn(usize, &Run) -> T + Sync) -> Vec<thread::Result<T>> {
    let made = Run::create(folder).unwrap();
    thread::scope(|scope| {
        let start = |peers: ThreadPeers| {
            let (rank, run) = (peers.rank(), made.clone().with_peers(Arc::new(peers)));
            let work = &work;
            scope.spawn(move || work(rank, &run))
        };
        let threads: Vec<_> = ThreadPeers::new(processes).into_iter().map(start).collect();
        threads.into_iter().map(ScopedJoinHandle::join).collect()
    })
}

/// Runs a stage in so many processes, of which one is told to stop after so many steps.
fn run_dealt(stage: Stage, config: &Config, folder: &Path, processes: usize, stop: Option<(usize, u64)>) -> Vec<Result<()>> {
    let work = |rank: usize, run: &Run| {
        let mut stops;
        let progress: &mut dyn Progress = match stop {
            Some((stopped, steps)) if stopped == rank => {
                stops = StopsAfter(steps);
                &mut stops
            }
            _ => &mut Silent,
        };
        run_stage(stage, config, run, progress)
    };
    each(processes, folder, work).into_iter().map(|result| result.unwrap()).collect()
}

fn alone(config: &Config, run: &Run) -> BTreeMap<String, Vec<u8>> {
    for stage in stages(config) {
        run_stage(stage, config, run, &mut Silent).unwrap();
    }
    files(run.folder())
}

#[test]
fn several_processes_leave_the_bytes_of_one() {
    for settings in [
        &[][..],
        &["engine.gradient_groups=5", "pretrain.objective.replaced={}", "finetune.task=multiclass"],
        &["pretrain.objective.vae={}", "finetune.labels=40", "finetune.mean_teacher={batch_size: 8}", "finetune.refit=all"],
        &["finetune.from=scratch", "finetune.members=2", "finetune.heads=[extra_trees]"],
        &["finetune.from=latents", "finetune.ema={}"],
    ] {
        let more = [&["engine.gradient_groups=4"], settings].concat();
        let config = config(&more);
        let folder = tempfile::tempdir().unwrap();
        let wanted = alone(&config, &Run::create(folder.path()).unwrap());
        for processes in [1, 2, 4] {
            let folder = tempfile::tempdir().unwrap();
            for stage in stages(&config) {
                if stage == Stage::Encode {
                    run_stage(stage, &config, &Run::open(folder.path()).unwrap(), &mut Silent).unwrap();
                    continue;
                }
                run_dealt(stage, &config, folder.path(), processes, None).into_iter().collect::<Result<()>>().unwrap();
            }
            assert_same(folder.path(), &wanted, &format!("{settings:?}, {processes} processes"));
        }
    }
}

#[test]
fn a_signal_to_any_process_stops_all_and_other_numbers_of_processes_go_on() {
    let config = config(&["engine.gradient_groups=4", "pretrain.steps=12", "finetune.steps=12"]);
    let folder = tempfile::tempdir().unwrap();
    let wanted = alone(&config, &Run::create(folder.path()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    for stage in stages(&config) {
        for (processes, stopped) in [(2, 1), (4, 0), (1, 0), (3, 2)] {
            for result in run_dealt(stage, &config, folder.path(), processes, Some((stopped, 1))) {
                assert!(matches!(result, Err(Error::Interrupted { signal: 15 })), "{stage}, {processes} processes: {result:?}");
            }
            assert!(folder.path().join(format!("checkpoints/{stage}.json")).is_file(), "{stage}, {processes} processes");
        }
        run_dealt(stage, &config, folder.path(), 2, None).into_iter().collect::<Result<()>>().unwrap();
    }
    assert_same(folder.path(), &wanted, "stopped four times");
}

#[test]
fn rows_of_a_packed_cache_are_read_by_those_who_compute_them() {
    let folder = Folder::new();
    folder.write("train.csv", crate::testing::flows(120, 1));
    let settings = |run: &str, cache: &str| {
        let cache = format!("data.cache={cache}");
        let more = [
            "data.train=DIR/train.csv",
            "data.on_bad_row=skip",
            "data.rejects=DIR/rejects.csv",
            "engine.gradient_groups=4",
            "pretrain.objective.replaced={}",
            &cache,
        ];
        (folder.config(&[&BASE, &more]), folder.path(run))
    };
    let (config, run) = settings("alone", "memory");
    super::pretrain(&config, &Run::create(&run).unwrap(), &mut Silent).unwrap();
    let weights = |run: &Path| files(run)["pretrained.safetensors"].clone();
    for processes in [1, 2, 4] {
        let name = format!("run-{processes}");
        let (config, dealt) = settings(&name, &format!("DIR/cache-{processes}"));
        run_dealt(Stage::Pretrain, &config, &dealt, processes, None).into_iter().collect::<Result<()>>().unwrap();
        assert!(weights(&dealt) == weights(&run), "{processes} processes");
    }
}

const BASE: [&str; 9] = [
    "name=x",
    "model.dim=8",
    "model.depth=1",
    "pretrain.steps=5",
    "pretrain.batch_size=16",
    "pretrain.micro_batch=8",
    "pretrain.log_every=3",
    "engine.threads=1",
    "data.id=row",
];

#[test]
fn steps_that_are_no_numbers_are_found_by_all_and_handled_alike() {
    for (policy, lr) in [("skip", "1e30"), ("rollback", "1e30")] {
        let settings = [&format!("finetune.nonfinite={policy}"), &format!("finetune.lr={lr}")];
        let config = config(&["engine.gradient_groups=4", "finetune.from=scratch", settings[0], settings[1]]);
        let folder = tempfile::tempdir().unwrap();
        let run = Run::create(folder.path()).unwrap();
        let text = |result: Result<()>| result.map_err(|error| error.to_string());
        let wanted = text(run_stage(Stage::Finetune, &config, &run, &mut Silent));
        let lines = files(folder.path()).remove("metrics.jsonl").unwrap();
        assert!(String::from_utf8_lossy(&lines).contains("nonfinite"), "{settings:?}: {wanted:?}");
        let folder = tempfile::tempdir().unwrap();
        for result in run_dealt(Stage::Finetune, &config, folder.path(), 3, None) {
            assert_eq!(text(result), wanted, "{settings:?}");
        }
        assert!(files(folder.path())["metrics.jsonl"] == lines, "{settings:?}");
    }
}

#[test]
fn more_processes_than_groups_are_refused_and_so_is_a_stage_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |stage: Stage, config: &Config| {
        let errors: Vec<String> = run_dealt(stage, config, folder.path(), 3, None)
            .into_iter()
            .map(|result| format!("{:?}", result.map_err(|error| (error.exit_code(), error.to_string()))))
            .collect();
        assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
        errors[0].clone()
    };
    insta::assert_snapshot!(
        refused(Stage::Pretrain, &config(&[])),
        @r#"Err((2, "3 processes, but a step has 2 gradient groups to deal out: start at most 2, or raise `engine.gradient_groups`, which changes the last bits of the weights"))"#
    );
    let heads = config(&["finetune.from=features", "finetune.heads=[logistic]"]);
    insta::assert_snapshot!(
        refused(Stage::Finetune, &heads),
        @r#"Err((2, "3 processes, but no network is trained here, only heads: start one process"))"#
    );
}

#[test]
fn a_process_with_another_config_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let of_rank = |rank: usize| config(&["engine.gradient_groups=4", &format!("pretrain.lr={}", 0.001 * (1 + rank) as f64)]);
    let mut results = each(2, folder.path(), |rank, run| super::pretrain(&of_rank(rank), run, &mut Silent));
    let error = results.remove(1).unwrap().unwrap_err();
    assert_eq!(error.exit_code(), 2);
    insta::assert_snapshot!(
        error,
        @"the processes would not train the same network: from the first one to this one, `pretrain.lr` was 0.001 and is 0.002: give all of them the same program, config and data"
    );
    assert!(results.remove(0).is_err(), "the first process must not train alone");
}

#[test]
fn a_process_that_finds_another_checkpoint_is_refused() {
    let config = config(&["engine.gradient_groups=4"]);
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stopped = super::pretrain(&config, &Run::create(folder.path()).unwrap(), &mut StopsAfter(2));
    assert!(matches!(stopped, Err(Error::Interrupted { .. })));
    let mut results = each(2, folder.path(), |rank, run| {
        let peers = Arc::clone(run.peers().unwrap());
        let run = if rank == 0 { run.clone() } else { Run::create(other.path()).unwrap().with_peers(peers) };
        super::pretrain(&config, &run.with_resume(Resume::Unchanged), &mut Silent)
    });
    let error = results.remove(1).unwrap().unwrap_err().to_string();
    assert!(error.contains("another checkpoint"), "{error}");
}
