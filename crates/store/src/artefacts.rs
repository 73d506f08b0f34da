//! The artefact store: the only place that creates files. A reader sees the old file or the new one, never a part.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::disk::{self, folder_of};
use crate::error::{Error, Result};

/// Hash and size of a file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The digest of a file as it is now.
pub fn digest(path: &Path) -> Result<Digest> {
    let mut out = Hashing::new(io::sink());
    File::open(path).and_then(|mut file| io::copy(&mut file, &mut out)).map_err(Error::io(path, "read"))?;
    Ok(out.digest())
}

/// The content of a file of at most `max` bytes; none if it is larger, such as an endless device.
pub(crate) fn read_at_most(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= max).then_some(bytes))
}

/// Writes a whole file or nothing: fills a scratch file in the same folder, syncs it and renames it to the target. The permissions
/// of the target stay. Scratch files that killed processes have left in the folder are removed.
///
/// A target that is no plain file (a pipe, `/dev/stdout`) is written to as it is.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Digest> {
    let _ = remove_scratch(folder_of(&resolved(path))); // one that cannot be removed does no harm
    write(path, fill)
}

/// As [`write_atomic`], for what fails with errors of its own and has a result.
pub fn fill_atomic<T>(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<(T, Digest)> {
    let mut filled = None;
    let written = write_atomic(path, |out| {
        let result = fill(out);
        let is_good = result.is_ok();
        filled = Some(result);
        if is_good { Ok(()) } else { Err(io::Error::other("stopped")) }
    });
    match filled {
        Some(Ok(value)) => written.map(|digest| (value, digest)),
        Some(Err(error)) => Err(error),
        None => Err(written.expect_err("nothing was filled in, so the file could not be opened")),
    }
}

/// As [`write_atomic`], into a run folder. Its scratch files are removed when it is locked.
pub(crate) fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Digest> {
    write_like(path, path, fill)
}

/// As [`write`], with the permissions of the file at `like`, if there is one.
pub(crate) fn write_like(path: &Path, like: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Digest> {
    let cannot_write = |source| Error::Io { path: path.to_owned(), doing: "write", source };
    let target = resolved(path);
    if fs::metadata(&target).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let file = OpenOptions::new().write(true).open(&target).map_err(cannot_write)?;
        return write_through(&file, &target, fill).map_err(cannot_write);
    }
    let folder = folder_of(&target);
    let like = fs::metadata(like).ok().filter(Metadata::is_file);
    // the kind alone: the full error would name the scratch file, which the user does not know
    let scratch = disk::scratch(folder, like.as_ref()).map_err(|error| cannot_write(error.kind().into()))?;
    let digest = write_through(scratch.as_file(), scratch.path(), fill).map_err(cannot_write)?;
    disk::sync(scratch.as_file(), scratch.path()).map_err(cannot_write)?;
    disk::rename(scratch, &target).map_err(cannot_write)?;
    disk::sync_folder(folder).map_err(cannot_write)?;
    Ok(digest)
}

/// The path with its links resolved, so that a rename replaces the file and not the link.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Appends one line in one write. Readers leave out a line that a full disk or a kill has cut short.
pub(crate) fn append_line(path: &Path, line: &str) -> Result<()> {
    debug_assert!(!line.contains('\n'), "one line at a time");
    disk::append(path, &format!("{line}\n")).map_err(Error::io(path, "append to"))
}

/// Removes a file if it exists.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match disk::remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(path, "remove")(error)),
        Ok(()) => disk::sync_folder(folder_of(path)).map_err(Error::io(path, "remove")),
    }
}

/// Removes the scratch files that killed processes have left in a folder.
pub(crate) fn remove_scratch(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io(folder, "list"))?,
    };
    for entry in entries {
        let path = entry.map_err(Error::io(folder, "list"))?.path();
        // locked until it is removed, so that no other process takes it
        if let Some(_lock) = disk::abandoned(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// The names of all files in a folder that may not be there, as [`inside`] takes them; links are not followed.
pub(crate) fn files_in(folder: &Path) -> Result<Vec<String>> {
    let (mut names, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        let entries = match fs::read_dir(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(Error::io(&next, "list"))?,
        };
        for entry in entries {
            let entry = entry.map_err(Error::io(&next, "list"))?;
            let path = entry.path();
            if entry.file_type().map_err(Error::io(&path, "look at"))?.is_dir() {
                folders.push(path);
            } else if let Some(name) = path.strip_prefix(folder).ok().and_then(Path::to_str) {
                names.push(name.to_owned());
            }
        }
    }
    names.sort();
    Ok(names)
}

/// `folder` and `name` joined, if `name` stays inside: `latents/train.npy`, not `../other` or `/etc/passwd`.
pub(crate) fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let name = Path::new(name);
    let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && name.components().next().is_some()).then(|| folder.join(name))
}

/// Whether a link on the way to `path` leads out of the folder, or to nothing. A file that does not exist yet is judged by its
/// folder.
pub(crate) fn leads_out(folder: &Path, path: &Path) -> bool {
    let Ok(folder) = fs::canonicalize(folder) else { return false };
    let there = path.ancestors().find(|path| fs::symlink_metadata(path).is_ok());
    !there.is_some_and(|there| fs::canonicalize(there).is_ok_and(|there| there.starts_with(&folder)))
}

fn write_through(file: &File, path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Digest> {
    let mut out = Hashing::new(BufWriter::with_capacity(1 << 16, disk::Out(file, path)));
    fill(&mut out)?;
    out.flush()?;
    Ok(out.digest())
}

/// Passes bytes on and hashes them.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    fn digest(self) -> Digest {
        Digest { sha256: hex::encode(self.hash.finalize()), bytes: self.bytes }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_leaves_the_file_and_no_scratch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        for text in ["first", "second"] {
            let digest = write_atomic(&path, |out| out.write_all(text.as_bytes())).unwrap();
            assert_eq!(digest, super::digest(&path).unwrap());
            assert_eq!(digest.sha256, sha256(text.as_bytes()));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(names_in(folder.path()), ["a.txt"]);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_no_scratch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_atomic(&path, |out| out.write_all(b"old")).unwrap();
        let error = write_atomic(&path, |out| {
            out.write_all(b"half of the n")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert_eq!(error.exit_code(), 6);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names_in(folder.path()), ["a.txt"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_replaced_keeps_its_permissions() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        write_atomic(&path, |out| out.write_all(b"new")).unwrap();
        let new_file_mode = mode();
        for wanted in [0o600, 0o640, 0o444, 0o666, new_file_mode] {
            fs::set_permissions(&path, fs::Permissions::from_mode(wanted)).unwrap();
            write_atomic(&path, |out| {
                // also while it is written
                let scratch = names_in(folder.path()).into_iter().find(|name| name != "a.txt").unwrap();
                assert_eq!(fs::metadata(folder.path().join(scratch)).unwrap().permissions().mode() & 0o7777, wanted);
                out.write_all(b"secret")
            })
            .unwrap();
            assert_eq!(mode(), wanted, "{wanted:o}");
        }
        assert_eq!(new_file_mode & 0o600, 0o600);
        assert!(new_file_mode != 0o600 || umask_hides_all(folder.path()), "{new_file_mode:o}");
    }

    /// Whether files are made for their owner alone here.
    #[cfg(unix)]
    fn umask_hides_all(folder: &Path) -> bool {
        use std::os::unix::fs::PermissionsExt as _;
        let path = folder.join("plain");
        OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
        fs::metadata(path).unwrap().permissions().mode() & 0o7777 == 0o600
    }

    #[test]
    fn scratch_files_of_killed_processes_are_removed_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let left = [disk::SCRATCH.to_owned() + "abcdef", disk::SCRATCH.to_owned() + "ghijkl"];
        let others = ["flows.csv".to_owned(), ".scratch-notes".to_owned(), disk::SCRATCH.to_owned() + "folder"];
        for name in left.iter().chain(&others[..2]) {
            OpenOptions::new().write(true).create_new(true).open(at(name)).unwrap();
        }
        fs::create_dir(at(&others[2])).unwrap();
        write_atomic(&at("a.txt"), |out| {
            // by now those that were left are gone; that of this file is in use, whoever writes another
            let mine = names_in(folder.path());
            write_atomic(&at("b.txt"), |out| out.write_all(b"b")).unwrap();
            assert_eq!(names_in(folder.path()).len(), mine.len() + 1);
            out.write_all(b"a")
        })
        .unwrap();
        let mut wanted: Vec<String> = others.into_iter().chain(["a.txt".to_owned(), "b.txt".to_owned()]).collect();
        wanted.sort();
        assert_eq!(names_in(folder.path()), wanted);
        assert_eq!((fs::read(at("a.txt")).unwrap(), fs::read(at("b.txt")).unwrap()), (b"a".to_vec(), b"b".to_vec()));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_a_device_a_device() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a.txt"), folder.path().join("link"));
        write_atomic(&path, |out| out.write_all(b"old")).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write_atomic(&link, |out| out.write_all(b"new")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        write_atomic(Path::new("/dev/null"), |out| out.write_all(b"gone")).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn names_never_leave_the_folder() {
        let folder = Path::new("run");
        assert_eq!(inside(folder, "latents/train.npy"), Some(PathBuf::from("run/latents/train.npy")));
        for name in ["", ".", "..", "../x", "a/../../x", "/etc/passwd"] {
            assert_eq!(inside(folder, name), None, "{name}");
        }
    }
}
