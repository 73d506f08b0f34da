//! The lock of a run folder, in which one process works at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::disk::FileId;
use crate::error::{Error, Result};

const NAME: &str = ".lock";
/// The most bytes of a lock file that are read.
const MAX_BYTES: u64 = 4096;

/// The lock of a run folder. It is held until it is dropped or the process ends. The system releases it in every case, so a lock is
/// never stale. A killed process leaves only the text that names it.
#[derive(Debug)]
pub struct Lock {
    file: File,
    folder: PathBuf,
    /// The command that holds it.
    what: String,
    /// The text that an earlier owner left in the file because it was killed.
    pub(crate) left_by: Option<String>,
}

impl Lock {
    /// Locks the folder for the command `what`.
    pub(crate) fn take(folder: &Path, what: &str) -> Result<Self> {
        let path = folder.join(NAME);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(Error::io(&path, "open"))?;
        let owner = || {
            let mut text = String::new();
            let _ = File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text)); // for a message
            (!text.trim().is_empty()).then(|| format!("{}, {}", text.trim(), age(&path)))
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = owner().unwrap_or_else(|| "a process that has not written its name yet".to_owned());
                let remedy = "wait until it has ended, or give another folder with `--run`";
                return Err(Error::artefact(folder, format!("in use by {owner}"), remedy));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(&path, "lock")(error)),
        }
        let left_by = owner();
        let text = format!("process {} (`nids-mixer {what}`)\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(Error::io(&path, "write"))?;
        let lock = Self { file, folder: folder.to_owned(), what: what.to_owned(), left_by };
        lock.check()?;
        Ok(lock)
    }

    /// Fails if the folder at this path is no longer the locked one: it was moved, removed or replaced. Must be called before each
    /// write, since the folder is found by its path.
    pub fn check(&self) -> Result<()> {
        let held = self.file.metadata().map_err(Error::io(self.folder.join(NAME), "look at"))?;
        let found = fs::metadata(self.folder.join(NAME));
        if found.is_ok_and(|found| FileId::of(&found) == FileId::of(&held)) {
            return Ok(());
        }
        let what = format!("no longer the folder that `{}` started in: moved, removed or replaced while it ran", self.what);
        let remedy = "nothing more was written: give the command again, with `--run` where the folder is now";
        Err(Error::artefact(&self.folder, what, remedy))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The file stays. If it were removed while it is locked, the next process could lock a new file and enter as well.
        let _ = self.file.set_len(0); // a failure is harmless: the text is for messages only
    }
}

/// The age of the lock, such as "started 5 minutes ago", by the time stamp of the file.
#[expect(clippy::disallowed_methods, reason = "the time is for a message and changes no result")]
fn age(path: &Path) -> String {
    let written = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let Some(age) = written.and_then(|written| SystemTime::now().duration_since(written).ok()) else {
        return "started at an unknown time".to_owned();
    };
    let seconds = age.as_secs();
    let (n, unit) = match seconds {
        0..120 => (seconds, "seconds"),
        120..7200 => (seconds / 60, "minutes"),
        7200..172_800 => (seconds / 3600, "hours"),
        _ => (seconds / 86_400, "days"),
    };
    format!("started {n} {unit} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_was_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path(), "pretrain").unwrap();
        assert_eq!(first.left_by, None);
        let error = Lock::take(folder.path(), "finetune").unwrap_err();
        let text = error.to_string().replace(&folder.path().display().to_string(), "RUN");
        let wanted = format!(
            "RUN: in use by process {} (`nids-mixer pretrain`), started 0 seconds ago: wait until it has ended, or give another \
             folder with `--run`",
            std::process::id()
        );
        assert_eq!((error.exit_code(), text), (4, wanted));
        drop(first);
        assert_eq!(Lock::take(folder.path(), "finetune").unwrap().left_by, None);
    }

    #[test]
    fn what_a_killed_owner_left_is_told_and_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let text = b"process 1 (`nids-mixer encode`)\n";
        crate::artefacts::write_atomic(&folder.path().join(NAME), |out| out.write_all(text)).unwrap();
        let lock = Lock::take(folder.path(), "finetune").unwrap();
        assert_eq!(lock.left_by.as_deref(), Some("process 1 (`nids-mixer encode`), started 0 seconds ago"));
    }
}
