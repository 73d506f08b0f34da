//! Where a stage's files lie until they replace those of its last run. A reader finds all files of the last run, or all of the new
//! one.
//!
//! A stage writes into `staged-<stage>/`, where no reader looks. It ends with one call, the commit: that folder is renamed to
//! `finished-<stage>/`. From then on a file there counts, and the one of the same name in the run folder does not. They are moved
//! into their places at once, the manifest last. After a kill, the next process that locks the run folder moves the rest.

use std::io::{self, Write};
use std::path::PathBuf;

use crate::artefacts::{self, Digest};
use crate::checkpoint;
use crate::disk::{self, folder_of};
use crate::error::{Error, Result};
use crate::run::{MAX_BYTES, Run};
use nids_config::Stage;

/// The folder of what `stage` has not committed yet.
pub(crate) fn staged(stage: Stage) -> String {
    format!("staged-{stage}")
}

/// The folder of what `stage` has committed and not moved into place yet.
pub(crate) fn finished(stage: Stage) -> String {
    format!("finished-{stage}")
}

pub(crate) fn manifest_name(stage: Stage) -> String {
    format!("manifest-{stage}.json")
}

impl Run {
    /// Calls `read`, which opens several files of this folder, and returns its result. All files are from before a stage's commit
    /// or all are from after it: `read` is called again if a stage has finished meanwhile.
    pub fn steadily<T>(&self, mut read: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            let before = self.standing();
            let found = read();
            if self.standing() == before {
                return found;
            }
        }
    }

    /// Changes with every commit, and with every file that is moved into its place after one.
    fn standing(&self) -> [(Option<Vec<u8>>, Vec<String>); Stage::ALL.len()] {
        Stage::ALL.map(|stage| {
            let manifest = artefacts::read_at_most(&self.find(stage, &manifest_name(stage)), MAX_BYTES);
            let left = artefacts::files_in(&self.folder().join(finished(stage)));
            (manifest.ok().flatten(), left.unwrap_or_default())
        })
    }

    /// The path of the file of this name that counts.
    pub(crate) fn find(&self, stage: Stage, name: &str) -> PathBuf {
        let committed = self.folder().join(finished(stage)).join(name);
        if committed.is_file() { committed } else { self.folder().join(name) }
    }

    pub(crate) fn staged(&self, stage: Stage, name: &str) -> PathBuf {
        self.folder().join(staged(stage)).join(name)
    }

    /// Writes a file that counts once `stage` commits, with the permissions of the one that it will replace.
    pub(crate) fn write_staged(
        &self,
        stage: Stage,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Digest> {
        let place = self.path(name)?;
        let path = self.path(&format!("{}/{name}", staged(stage)))?;
        let folder = folder_of(&path);
        disk::make_folder(folder).map_err(Error::io(folder, "make the folder"))?;
        artefacts::write_like(&path, &place, fill)
    }

    /// Removes what an earlier run of `stage` has left uncommitted, except for the files `kept`.
    pub(crate) fn clear_staged(&self, stage: Stage, kept: &[&str]) -> Result<()> {
        let folder = self.path(&staged(stage))?;
        let names = artefacts::files_in(&folder)?;
        names.iter().filter(|name| !kept.contains(&name.as_str())).try_for_each(|name| artefacts::remove(&folder.join(name)))
    }

    /// Commits what was written, all at once, and moves it into place.
    pub(crate) fn commit(&self, stage: Stage) -> Result<()> {
        let [from, to] = [staged(stage), finished(stage)].map(|name| self.folder().join(name));
        disk::move_to(&from, &to).and_then(|()| disk::sync_folder(self.folder())).map_err(Error::io(&to, "write"))?;
        self.settle(stage)
    }

    /// Moves into place what was committed, and removes the checkpoints that led there.
    pub(crate) fn settle(&self, stage: Stage) -> Result<()> {
        let (folder, manifest) = (self.path(&finished(stage))?, manifest_name(stage));
        if !folder.is_dir() {
            return Ok(());
        }
        // without its manifest the folder is empty, and checkpoints are those of a later run
        if folder.join(&manifest).is_file() {
            checkpoint::forget(self.folder(), stage)?;
        }
        let mut names = artefacts::files_in(&folder)?;
        names.sort_by_key(|name| *name == manifest);
        for name in names {
            let (from, place) = (folder.join(&name), self.path(&name)?);
            disk::make_folder(folder_of(&place)).map_err(Error::io(&place, "make the folder of"))?;
            let to = artefacts::resolved(&place);
            disk::move_to(&from, &to).map_err(Error::io(&place, "write"))?;
            for folder in [&to, &from].map(|path| folder_of(path)) {
                disk::sync_folder(folder).map_err(Error::io(folder, "write"))?;
            }
        }
        disk::remove_empty(&folder); // an empty folder that stays means nothing
        Ok(())
    }
}
