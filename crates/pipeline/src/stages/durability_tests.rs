//! What a power cut would leave: the calls of whole stages at the disk's seam, in order, against a disk that keeps nothing that
//! was not synced.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::resume_tests::{StopsAfter, config, files, run_stage, stages};
use nids_config::Stage;
use nids_store::checkpoint::index_from_bytes;
use nids_store::disk::seam::{self, Made};
use nids_store::disk::{Call, folder_of};
use nids_store::progress::Silent;
use nids_store::run::{Resume, Run};

/// What is known of a run folder's disk while a stage runs.
struct Disk {
    folder: PathBuf,
    stage: Stage,
    /// Files that are there.
    files: BTreeSet<PathBuf>,
    /// Files with something in them that is not on the disk.
    unsynced: BTreeSet<PathBuf>,
    /// Folders with an entry that is new, renamed or removed, which is not on the disk.
    changed: BTreeSet<PathBuf>,
    /// What the stage's index of checkpoints may list after a power cut now: the old one, the new one, or either.
    indexes: Vec<Vec<String>>,
    /// Whether the stage has finished here before.
    again: bool,
    /// Whether what the stage leaves may count after a power cut now.
    committed: Vec<bool>,
    commits: usize,
}

impl Disk {
    fn new(run: &Run, stage: Stage) -> Self {
        let read = |name: &str| std::fs::read(run.folder().join(name)).ok();
        let index = read(&format!("checkpoints/{stage}.json")).map(|bytes| index_from_bytes(&bytes).unwrap());
        Self {
            folder: run.folder().to_owned(),
            stage,
            files: files(run.folder()).into_keys().map(|name| run.folder().join(name)).collect(),
            unsynced: BTreeSet::new(),
            changed: BTreeSet::new(),
            indexes: vec![index.unwrap_or_default()],
            again: run.has_finished(stage),
            committed: vec![false],
            commits: 0,
        }
    }

    fn is_index(&self, path: &Path) -> bool {
        path == self.folder.join(format!("checkpoints/{}.json", self.stage))
    }

    fn is_manifest(&self, path: &Path) -> bool {
        path == self.folder.join(format!("manifest-{}.json", self.stage))
    }

    fn is_commit(&self, path: &Path) -> bool {
        path == self.folder.join(format!("finished-{}", self.stage))
    }

    fn assert_all_is_on_disk(&self, when: &str) {
        assert!(self.unsynced.is_empty(), "{when}, these are not synced: {:?}", self.unsynced);
        assert!(self.changed.is_empty(), "{when}, these folders are not synced: {:?}", self.changed);
    }

    fn after(&mut self, Made { call, paths, content }: &Made) {
        let path = paths.last().expect("a call is about something");
        match call {
            Call::Create | Call::SetPermissions => {}
            Call::Open => {
                if self.files.insert(path.clone()) {
                    self.changed.insert(folder_of(path).to_owned());
                }
            }
            Call::Write | Call::Cut => drop(self.unsynced.insert(path.clone())),
            Call::Sync => drop(self.unsynced.remove(path)),
            Call::SyncFolder => {
                self.changed.remove(path);
                if *path == self.folder.join("checkpoints") {
                    self.indexes.drain(..self.indexes.len() - 1);
                }
                if *path == self.folder {
                    self.committed.drain(..self.committed.len() - 1);
                }
            }
            Call::MakeFolder => self.changed.extend(paths.iter().map(|made| folder_of(made).to_owned())),
            Call::Rename => {
                assert!(!self.unsynced.contains(&paths[0]), "{path:?} is renamed before it is synced");
                let name = path.strip_prefix(&self.folder).unwrap().to_str().unwrap();
                let is_passing = ["staged-", "checkpoints/"].iter().any(|folder| name.starts_with(folder));
                let is_live = ["metrics.jsonl", "monitor.jsonl"].contains(&name) && !self.again;
                let finished = self.folder.join(format!("finished-{}", self.stage));
                if self.is_index(path) || self.is_commit(path) {
                    self.assert_all_is_on_disk(&format!("when {name} is replaced"));
                    self.commits += 1;
                } else if paths[0].starts_with(&finished) {
                    assert_eq!(self.committed, [true], "{name} is replaced before it is sure that the new one counts");
                    self.files.remove(&paths[0]);
                } else {
                    assert!(is_passing || is_live, "{name} is replaced, which readers may want");
                }
                if self.is_manifest(path) {
                    let left: Vec<&PathBuf> = self.files.iter().filter(|path| path.starts_with(&finished)).collect();
                    assert!(left.is_empty(), "the manifest is moved, after which these no longer count: {left:?}");
                    self.assert_all_is_on_disk("when the manifest is moved");
                }
                self.unsynced.remove(path); // what was appended to the file that is replaced
                self.changed.extend(paths.iter().map(|path| folder_of(path).to_owned()));
                if self.is_index(path) {
                    self.indexes.push(index_from_bytes(content).unwrap());
                }
                if self.is_commit(path) {
                    let moved = |file: &PathBuf| file.strip_prefix(&paths[0]).ok().map(|name| path.join(name));
                    self.files = self.files.iter().map(|file| moved(file).unwrap_or_else(|| file.clone())).collect();
                    self.committed.push(true);
                } else {
                    self.files.insert(path.clone());
                }
            }
            Call::Remove => {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let is_listed = self.indexes.iter().any(|index| index.contains(&name));
                assert!(!is_listed, "{name} is removed while an index may list it");
                self.changed.insert(folder_of(path).to_owned());
                if self.is_index(path) {
                    self.indexes.push(Vec::new());
                }
            }
        }
    }
}

/// Runs a stage, to its end or until it is stopped after `steps`, and follows what it does to the disk; commits, and removals of
/// checkpoints.
fn follow(stage: Stage, run: &Run, more: &[&str], steps: u64) -> (usize, usize) {
    let _alone = seam::alone();
    let config = config(more);
    let mut disk = Disk::new(run, stage);
    let made = seam::record(|| {
        let result = run_stage(stage, &config, run, &mut StopsAfter(steps));
        assert_eq!(result.is_err(), steps < 10, "{result:?}");
    });
    // tests that run beside this one in the process have folders of their own; a folder that is there already is not made
    let is_ours = |made: &Made| !made.paths.is_empty() && made.paths.iter().all(|path| path.starts_with(run.folder()));
    let made: Vec<Made> = made.into_iter().filter(is_ours).collect();
    for made in &made {
        disk.after(made);
    }
    disk.assert_all_is_on_disk("at the end");
    let last = made.iter().rposition(|made| made.call == Call::Rename).unwrap();
    let last_committed = &made[last].paths[1];
    assert!(disk.is_manifest(last_committed) || disk.is_index(last_committed), "{last_committed:?} is written last");
    let removed =
        made.iter().filter(|made| made.call == Call::Remove && made.paths[0].extension() == Some("safetensors".as_ref()));
    (disk.commits, removed.count())
}

const TO_THE_END: u64 = 1000;

#[test]
fn whatever_a_stage_commits_is_on_the_disk_before_and_nothing_listed_is_removed() {
    // the last takes checkpoints before it has logged anything
    let cases: [(&[&str], usize); 4] = [
        (&["checkpoint.keep=1"], 2),
        (&["finetune.from=latents"], 2),
        (&["finetune.from=scratch", "finetune.members=2"], 4),
        (&["checkpoint.every=1", "pretrain.monitor=off", "finetune.monitor=off", "finetune.log_every=3"], 4),
    ];
    for (more, checkpoints) in cases {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::create(&folder.path().join("run")).unwrap();
        for stage in stages(&config(more)) {
            let checkpoints = if stage == Stage::Encode { 0 } else { checkpoints };
            assert_eq!(follow(stage, &run, more, TO_THE_END), (checkpoints + 1, checkpoints), "{stage} {more:?}");
        }
        // over what has finished, and over what was stopped
        let again = Run::open(run.folder()).unwrap().with_resume(Resume::Fresh);
        for steps in [TO_THE_END, 4, 3, TO_THE_END] {
            assert!(follow(Stage::Pretrain, &again, more, steps).0 >= 2, "{steps} steps {more:?}");
        }
    }
}

#[test]
fn a_folder_that_was_made_is_on_the_disk_with_those_around_it() {
    let _alone = seam::alone();
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("runs/of/today");
    let made = seam::record(|| drop(Run::create(&deep).unwrap()));
    let synced: Vec<&Path> = made.iter().filter(|made| made.call == Call::SyncFolder).map(|made| &*made.paths[0]).collect();
    assert_eq!(synced, [folder.path(), &folder.path().join("runs"), &folder.path().join("runs/of")]);
    assert_eq!(seam::record(|| drop(Run::create(&deep).unwrap())).len(), 1);
    run_stage(Stage::Pretrain, &config(&[]), &Run::open(&deep).unwrap(), &mut Silent).unwrap();
}
