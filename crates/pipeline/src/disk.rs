//! Every call that changes the disk, in one place, so that a test can make each of them fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// Scratch files of a run folder begin so; one that is left there belongs to a process that was killed.
pub(crate) const SCRATCH: &str = ".artefact-";

/// A file of its own in `folder`, removed when it is dropped.
pub(crate) fn scratch(folder: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    faults::at(Call::Create)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less what the umask takes away
    builder.tempfile_in(folder)
}

/// A file that is written to.
pub(crate) struct Out<'f>(pub(crate) &'f File);

impl Write for Out<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let most = faults::at(Call::Write(buffer.len()))?;
        self.0.write(&buffer[..most])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

pub(crate) fn sync(file: &File) -> io::Result<()> {
    faults::at(Call::Sync)?;
    file.sync_all()
}

pub(crate) fn rename(scratch: NamedTempFile, target: &Path) -> io::Result<()> {
    faults::at(Call::Rename)?;
    scratch.persist(target).map(drop).map_err(|error| error.error)
}

/// A rename or a removal is only on disk once its folder is.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    faults::at(Call::SyncFolder)?;
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    faults::at(Call::MakeFolder)?;
    fs::create_dir_all(folder)
}

/// Appends one line in one write.
pub(crate) fn append(path: &Path, line: &str) -> io::Result<()> {
    faults::at(Call::Open)?;
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    Out(&file).write_all(line.as_bytes())
}

/// Puts what was appended on the disk.
pub(crate) fn sync_appended(path: &Path) -> io::Result<()> {
    faults::at(Call::Open)?;
    sync(&OpenOptions::new().append(true).open(path)?)
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    faults::at(Call::Remove)?;
    fs::remove_file(path)
}

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Create,
    Open,
    /// Of so many bytes.
    Write(usize),
    Sync,
    Rename,
    SyncFolder,
    MakeFolder,
    Remove,
}

#[cfg(not(test))]
mod faults {
    use super::{Call, io};

    /// How many bytes of a write go out, of all else nothing that counts.
    #[expect(clippy::unnecessary_wraps, reason = "its twin in tests fails")]
    pub(super) fn at(call: Call) -> io::Result<usize> {
        Ok(if let Call::Write(bytes) = call { bytes } else { 0 })
    }
}

/// Faults on demand. They are the process's, as training writes from a worker of its pool: a test that asks for one runs in a
/// process of its own, as nextest sees to, or holds [`faults::alone`].
#[cfg(test)]
pub(crate) mod faults {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::{Call, io};

    /// What happens to a call.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Fault {
        /// It fails, and so does every one after it: a full disk, a dying one.
        Fails(io::ErrorKind),
        /// It fails once.
        FailsOnce(io::ErrorKind),
        /// A write takes half of what it is given; other calls are done.
        Short,
    }

    struct State {
        calls: u64,
        fault: Option<(u64, Fault)>,
    }

    static STATE: Mutex<State> = Mutex::new(State { calls: 0, fault: None });
    static ALONE: Mutex<()> = Mutex::new(());

    fn state() -> MutexGuard<'static, State> {
        STATE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps other tests of this process from asking for faults.
    pub(crate) fn alone() -> MutexGuard<'static, ()> {
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts calls from 0 again, the one numbered `at` going wrong.
    pub(crate) fn set(fault: Option<(u64, Fault)>) {
        *state() = State { calls: 0, fault };
    }

    /// Calls since then.
    pub(crate) fn calls() -> u64 {
        state().calls
    }

    pub(super) fn at(call: Call) -> io::Result<usize> {
        let mut state = state();
        let number = state.calls;
        state.calls += 1;
        let bytes = if let Call::Write(bytes) = call { bytes } else { 0 };
        match state.fault {
            Some((at, Fault::Fails(kind))) if number >= at => Err(kind.into()),
            Some((at, Fault::FailsOnce(kind))) if number == at => Err(kind.into()),
            Some((at, Fault::Short)) if number == at => Ok(bytes.div_ceil(2)),
            _ => Ok(bytes),
        }
    }
}
