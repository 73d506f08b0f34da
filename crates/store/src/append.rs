//! Files of lines that others read while they grow: alerts, rows that cannot be read.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::disk::{self, FileId, Out, folder_of};
use crate::error::{Error, Result};

/// How much of the end of a file is looked at for its last line end.
const TAIL: u64 = 4 << 20;

/// A file of lines, to which whole lines are appended. Where somebody else has moved it away, as logrotate does, the next lines go to a
/// new file of the same name.
#[derive(Debug)]
pub struct Appended {
    path: PathBuf,
    file: File,
    id: FileId,
    /// Bytes that are known to be whole lines on the disk.
    len: u64,
}

/// What was found where a file was opened.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: Appended,
    /// Bytes of a last line that was not whole, which were cut off.
    pub cut: u64,
}

impl Appended {
    /// Opens a file that begins with `beginning`, or makes an empty one. A last line without a line end, as a crash leaves, is cut off.
    ///
    /// # Errors
    /// A file that another process appends to, that begins in another way, or that cannot be opened.
    pub fn open(path: &Path, beginning: &str) -> Result<Opened> {
        let mut file = disk::open_appended(path).map_err(Error::io(path, "append to"))?;
        let found = file.metadata().map_err(Error::io(path, "append to"))?;
        if !found.is_file() {
            return Err(Error::Usage(format!("{}: not a plain file: lines can be appended to a file alone", path.display())));
        }
        // on a file system without locks nobody knows
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            let message = format!("{}: another process appends to it: stop that one, or name another file", path.display());
            return Err(Error::Usage(message));
        }
        let begins_well = begins_with(&mut file, beginning.as_bytes()).map_err(Error::io(path, "read"))?;
        let whole = whole_lines(&mut file, found.len()).map_err(Error::io(path, "read"))?;
        let Some(len) = whole.filter(|_| begins_well) else {
            let message = format!(
                "{}: not a file of what nids-mixer appends here, whose first line begins with `{}`: name another file",
                path.display(),
                beginning.trim_end()
            );
            return Err(Error::Usage(message));
        };
        if len < found.len() {
            disk::cut(&file, path, len).map_err(Error::io(path, "cut"))?;
        }
        disk::sync_folder(folder_of(path)).map_err(Error::io(path, "append to"))?;
        let id = FileId::of(&found);
        Ok(Opened { file: Self { path: path.to_owned(), file, id, len }, cut: found.len() - len })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file as it is now, and how long.
    pub fn place(&self) -> (FileId, u64) {
        (self.id, self.len)
    }

    /// Whether nothing has been written to it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The lines after the first `from` bytes.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn lines_from(&self, from: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        let mut bytes = Vec::new();
        if FileId::of(&file.metadata()?) == self.id && from <= self.len {
            file.seek(SeekFrom::Start(from))?;
            file.take(self.len - from).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// Goes to a new file where somebody has moved this one away, or removed it; whether that was so.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn reopen_if_moved(&mut self) -> io::Result<bool> {
        let is_here = fs::metadata(&self.path).is_ok_and(|found| FileId::of(&found) == self.id);
        if is_here {
            // somebody may have emptied it
            self.len = self.len.min(self.file.metadata()?.len());
            return Ok(false);
        }
        let file = disk::open_appended(&self.path)?;
        let _ = file.try_lock();
        let found = file.metadata()?;
        disk::sync_folder(folder_of(&self.path))?;
        (self.file, self.id, self.len) = (file, FileId::of(&found), found.len());
        Ok(true)
    }

    /// Appends whole lines and syncs them: they are on the disk when this returns, or as good as none of them.
    ///
    /// # Errors
    /// What the system says; lines that were written in part are taken back as far as the system lets that happen.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        debug_assert!(lines.is_empty() || lines.ends_with(b"\n"), "whole lines");
        let before = self.file.metadata()?.len();
        let mut out = Out(&self.file, &self.path);
        let written = out.write_all(lines).and_then(|()| disk::sync(&self.file, &self.path));
        if let Err(error) = written {
            let _ = disk::cut(&self.file, &self.path, before);
            return Err(error);
        }
        self.len = before + lines.len() as u64;
        Ok(())
    }
}

/// Whether a file begins so, or is shorter and begins as this does.
fn begins_with(file: &mut File, beginning: &[u8]) -> io::Result<bool> {
    let mut found = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(beginning.len() as u64).read_to_end(&mut found)?;
    Ok(beginning.starts_with(&found))
}

/// How many bytes of a file are whole lines; None where its last line is longer than any of ours.
fn whole_lines(file: &mut File, len: u64) -> io::Result<Option<u64>> {
    let from = len.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|&byte| byte == b'\n').map(|end| from + end as u64 + 1);
    Ok(whole.or((from == 0).then_some(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefacts::write_atomic;
    use crate::disk::seam::{self, Fault};

    const OURS: &str = "{\"@timestamp\"";

    fn open(path: &Path) -> Opened {
        Appended::open(path, OURS).unwrap()
    }

    #[test]
    fn a_last_line_that_a_crash_has_cut_is_taken_away_and_a_strange_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.json");
        let write = |text: &str| write_atomic(&path, |out| out.write_all(text.as_bytes())).unwrap();
        for (there, cut) in
            [("", 0), ("{\"@timestamp\":1}\n", 0), ("{\"@timestamp\":1}\n{\"@times", 8), ("{\"@timestamp\":7", 15)]
        {
            write(there);
            let opened = open(&path);
            assert_eq!(opened.cut, cut, "{there}");
            let whole = &there[..there.len() - cut as usize];
            assert_eq!(fs::read_to_string(&path).unwrap(), whole);
            assert_eq!(opened.file.place().1, whole.len() as u64);
        }
        write("root:x:0:0");
        let refused = Appended::open(&path, OURS).unwrap_err();
        assert!(
            refused.exit_code() == 2 && refused.to_string().contains("not a file of what nids-mixer appends here"),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "root:x:0:0");
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let [path, moved] = ["alerts.json", "alerts.json.1"].map(|name| folder.path().join(name));
        let mut file = open(&path).file;
        file.append(b"one\n").unwrap();
        assert!(!file.reopen_if_moved().unwrap());
        fs::rename(&path, &moved).unwrap();
        assert!(file.reopen_if_moved().unwrap());
        file.append(b"two\n").unwrap();
        assert_eq!([moved, path].map(|path| fs::read_to_string(path).unwrap()), ["one\n", "two\n"]);
        assert_eq!(file.lines_from(0).unwrap(), b"two\n");
    }

    #[test]
    fn two_processes_do_not_append_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.json");
        let _first = open(&path);
        assert!(Appended::open(&path, OURS).unwrap_err().to_string().contains("another process appends to it"));
    }

    #[test]
    fn lines_that_a_full_disk_took_in_part_are_taken_back() {
        let _alone = seam::alone();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.json");
        let mut file = open(&path).file;
        file.append(b"one\n").unwrap();
        // the write is short, and what is left of it fails; or it is whole, and its sync fails
        for fault in [(1, Fault::FailsOnce(io::ErrorKind::StorageFull)), (0, Fault::FailsOnce(io::ErrorKind::StorageFull))] {
            seam::set(Some(fault));
            file.append(b"two\n").unwrap_err();
            seam::set(None);
            assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
        }
        file.append(b"two\n").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), file.place().1), ("one\ntwo\n", 8));
    }
}
