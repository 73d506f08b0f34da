//! Every call that changes the disk, in one place, so that a test can make each of them fail and see the order in which they come.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use seam::{call, most_of};

/// Prefix of the names of scratch files.
pub const SCRATCH: &str = ".scratch-nids-mixer-";

/// The folder that a file lies in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Identity of a file, whatever its name: device and inode. Outside Unix all files have the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId([u64; 2]);

impl FileId {
    /// That of a file.
    pub fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        return Self([std::os::unix::fs::MetadataExt::dev(metadata), std::os::unix::fs::MetadataExt::ino(metadata)]);
        #[cfg(not(unix))]
        Self([0, 0])
    }
}

/// A new scratch file in `folder`, locked until it is dropped and then removed: a scratch file without a lock belongs to a process
/// that was killed. It has the permissions of `like`, which it will replace, or those of a new file.
pub(crate) fn scratch(folder: &Path, like: Option<&Metadata>) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(SCRATCH);
    #[cfg(unix)]
    if like.is_none() {
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less what the umask takes away
    }
    loop {
        let scratch = call(Call::Create, &[folder], || builder.tempfile_in(folder))?;
        // on a file system without locks, scratch files of killed processes stay
        let is_locked = !matches!(scratch.as_file().try_lock(), Err(TryLockError::WouldBlock));
        // otherwise another process removed it before it was locked
        if is_locked && is_at(scratch.as_file(), scratch.path()) {
            if let Some(like) = like
                && like.permissions() != scratch.as_file().metadata()?.permissions()
            {
                call(Call::SetPermissions, &[scratch.path()], || scratch.as_file().set_permissions(like.permissions()))?;
            }
            return Ok(scratch);
        }
    }
}

/// The file at `path`, locked, if it is a scratch file whose process has ended.
pub(crate) fn abandoned(path: &Path) -> Option<File> {
    let is_scratch = path.file_name()?.to_str()?.starts_with(SCRATCH) && fs::symlink_metadata(path).ok()?.is_file();
    let file = is_scratch.then(|| File::open(path).ok()).flatten()?;
    file.try_lock().ok()?;
    is_at(&file, path).then_some(file)
}

/// Whether `path` still leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let found = fs::symlink_metadata(path).and_then(|found| Ok((found, file.metadata()?)));
    found.is_ok_and(|(found, file)| FileId::of(&found) == FileId::of(&file))
}

/// A file that is written to, and its path.
pub(crate) struct Out<'f>(pub(crate) &'f File, pub(crate) &'f Path);

impl Write for Out<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let most = most_of(Call::Write, self.1, buffer.len())?;
        self.0.write(&buffer[..most])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

pub(crate) fn sync(file: &File, path: &Path) -> io::Result<()> {
    call(Call::Sync, &[path], || file.sync_all())
}

pub(crate) fn rename(scratch: NamedTempFile, target: &Path) -> io::Result<()> {
    let from = scratch.path().to_owned();
    call(Call::Rename, &[&from, target], || scratch.persist(target).map(drop).map_err(|error| error.error))
}

/// Renames a file, replacing the one of that name, or a folder to a name that is free.
pub(crate) fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    call(Call::Rename, &[from, to], || fs::rename(from, to))
}

/// Syncs a folder. Before that, a rename or a removal in it is not on the disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    call(Call::SyncFolder, &[folder], || if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) })
}

/// Makes a folder and its missing parents. All are on the disk when this returns.
///
/// # Errors
/// A folder that cannot be made.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    call(Call::MakeFolder, &missing, || fs::create_dir_all(folder))?;
    missing.into_iter().rev().try_for_each(|made| sync_folder(folder_of(made)))
}

/// Appends one line in one write.
pub(crate) fn append(path: &Path, line: &str) -> io::Result<()> {
    let file = call(Call::Open, &[path], || OpenOptions::new().append(true).create(true).open(path))?;
    Out(&file, path).write_all(line.as_bytes())
}

/// Syncs a file that was appended to.
pub(crate) fn sync_appended(path: &Path) -> io::Result<()> {
    let file = call(Call::Open, &[path], || OpenOptions::new().append(true).open(path))?;
    sync(&file, path)
}

/// Opens a file to append to it; it is made if it is not there.
pub(crate) fn open_appended(path: &Path) -> io::Result<File> {
    call(Call::Open, &[path], || OpenOptions::new().append(true).read(true).create(true).open(path))
}

/// Cuts a file to a length.
pub(crate) fn cut(file: &File, path: &Path, len: u64) -> io::Result<()> {
    call(Call::Cut, &[path], || file.set_len(len))
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    call(Call::Remove, &[path], || fs::remove_file(path))
}

/// Removes a folder and the folders in it, as far as they are empty.
pub(crate) fn remove_empty(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|of| of.is_dir())).for_each(|entry| remove_empty(&entry.path()));
    let _ = fs::remove_dir(folder);
}

/// A call that changes the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Creates a scratch file in this folder.
    Create,
    /// Sets the permissions of this file.
    SetPermissions,
    /// Opens this file to append to it.
    Open,
    /// Writes to this file.
    Write,
    /// Syncs this file.
    Sync,
    /// Renames the first path to the second.
    Rename,
    /// Syncs this folder.
    SyncFolder,
    /// Makes these folders, the innermost first.
    MakeFolder,
    /// Removes this file.
    Remove,
    /// Cuts this file to a length.
    Cut,
}

#[cfg(not(any(test, feature = "faults")))]
mod seam {
    use super::{Call, Path, io};

    /// Makes a call on these paths.
    pub(super) fn call<T>(_: Call, _: &[&Path], make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        make()
    }

    /// How many of these bytes a write takes.
    #[expect(clippy::unnecessary_wraps, reason = "its twin in tests fails")]
    pub(super) fn most_of(_: Call, _: &Path, bytes: usize) -> io::Result<usize> {
        Ok(bytes)
    }
}

/// Faults on demand, and a record of the calls. Both belong to the whole process, because training writes from a worker thread: a
/// test that uses them runs in a process of its own, as under nextest, or holds [`seam::alone`].
#[cfg(any(test, feature = "faults"))]
pub mod seam {
    use std::path::PathBuf;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::{Call, Path, fs, io};

    /// What happens to a call.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Fault {
        /// The call and all later ones fail: a full disk, a broken one.
        Fails(io::ErrorKind),
        /// The call fails, later ones do not.
        FailsOnce(io::ErrorKind),
        /// A write takes half of its bytes; other calls succeed.
        Short,
    }

    /// A call that was made.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Made {
        /// The call.
        pub call: Call,
        /// The paths that it was made on.
        pub paths: Vec<PathBuf>,
        /// The content of a renamed file.
        pub content: Vec<u8>,
    }

    struct State {
        calls: u64,
        fault: Option<(u64, Fault)>,
        /// None unless a record was asked for.
        made: Option<Vec<Made>>,
    }

    static STATE: Mutex<State> = Mutex::new(State { calls: 0, fault: None, made: None });
    static ALONE: Mutex<()> = Mutex::new(());

    fn state() -> MutexGuard<'static, State> {
        STATE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps other tests of this process from using faults or a record.
    pub fn alone() -> MutexGuard<'static, ()> {
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts calls from 0 again, and lets the one with the given number go wrong.
    pub fn set(fault: Option<(u64, Fault)>) {
        *state() = State { calls: 0, fault, made: None };
    }

    /// Number of calls since [`set`].
    pub fn calls() -> u64 {
        state().calls
    }

    /// The calls that `work` makes, in order.
    pub fn record(work: impl FnOnce()) -> Vec<Made> {
        *state() = State { calls: 0, fault: None, made: Some(Vec::new()) };
        work();
        state().made.take().unwrap_or_default()
    }

    /// Counts a call. Returns whether only a part of it is to be done.
    fn count() -> io::Result<bool> {
        let mut state = state();
        let number = state.calls;
        state.calls += 1;
        match state.fault {
            Some((at, Fault::Fails(kind))) if number >= at => Err(kind.into()),
            Some((at, Fault::FailsOnce(kind))) if number == at => Err(kind.into()),
            Some((at, Fault::Short)) => Ok(number == at),
            _ => Ok(false),
        }
    }

    pub(super) fn call<T>(call: Call, paths: &[&Path], make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        count()?;
        let done = make()?;
        if let Some(made) = &mut state().made {
            let content = if call == Call::Rename && paths[1].is_file() { fs::read(paths[1])? } else { Vec::new() };
            made.push(Made { call, paths: paths.iter().map(|path| (*path).to_owned()).collect(), content });
        }
        Ok(done)
    }

    pub(super) fn most_of(call: Call, path: &Path, bytes: usize) -> io::Result<usize> {
        let is_short = count()?;
        if let Some(made) = &mut state().made {
            made.push(Made { call, paths: vec![path.to_owned()], content: Vec::new() });
        }
        Ok(if is_short { bytes.div_ceil(2) } else { bytes })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_syncs_asks_the_system_for_it() {
        // nothing of this device can be put on a disk, so the system refuses
        let null = Path::new("/dev/null");
        let file = OpenOptions::new().write(true).open(null).unwrap();
        let refused = [sync(&file, null), sync_folder(null), sync_appended(null)];
        assert!(refused.iter().all(|result| result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput)));
    }
}
