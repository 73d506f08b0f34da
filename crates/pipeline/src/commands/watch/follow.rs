//! Which files are read, and in what order, while somebody rotates them.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nids_flows::{Schema, data_files};
use nids_store::disk::{FileId, folder_of};
use nids_store::{Error, Result};

use super::tail::{Batch, Found, Position, Tail, is_gzip, nanoseconds};

/// How long a file that was renamed is waited for: its writer may not know yet.
const GRACE: Duration = Duration::from_secs(1);
/// How often a folder is listed.
const LIST: Duration = Duration::from_secs(1);
/// Files beside the one that is followed that are looked at for the rest of one.
const MAX_SIBLINGS: usize = 256;

/// What is followed.
pub(super) enum Follower {
    File(FileFollower),
    Folder(FolderFollower),
}

impl Follower {
    /// Follows a file, or all files of a folder or a pattern, from where `state` says. With `once` nothing is waited for.
    pub(super) fn open(data: &str, state: &[Position], once: bool, told: &mut Vec<String>) -> Result<Self> {
        let path = Path::new(data);
        if path.is_dir() || data.contains(['*', '?', '[']) && !path.exists() {
            return Ok(Self::Folder(FolderFollower::open(data, state, told)));
        }
        FileFollower::open(path, state.first(), once, told).map(Self::File).map_err(Error::io(path, "read"))
    }

    /// Whole lines of one file, at most `max_lines`; None if there are none now. `told` gets what happened to the files.
    pub(super) fn next(&mut self, schema: &Schema, max_lines: usize, told: &mut Vec<String>) -> Result<Option<Batch>> {
        match self {
            Self::File(file) => file.next(schema, max_lines, told),
            Self::Folder(folder) => folder.next(schema, max_lines, told),
        }
    }

    /// Where reading goes on.
    pub(super) fn positions(&self) -> Vec<Position> {
        match self {
            Self::File(file) => file.queue.front().map(Tail::position).into_iter().collect(),
            Self::Folder(folder) => folder.tails.iter().map(Tail::position).collect(),
        }
    }

    /// Bytes that were not read.
    pub(super) fn behind(&self) -> u64 {
        match self {
            Self::File(file) => file.queue.iter().map(Tail::behind).sum(),
            Self::Folder(folder) => folder.tails.iter().map(Tail::behind).sum(),
        }
    }

    /// Whether a last line waits for its end.
    pub(super) fn has_partial(&self) -> bool {
        match self {
            Self::File(file) => file.queue.iter().any(|tail| tail.has_partial),
            Self::Folder(folder) => folder.tails.iter().any(|tail| tail.has_partial),
        }
    }
}

/// One file by its name, and what rotation makes of it.
pub(super) struct FileFollower {
    path: PathBuf,
    /// The file that is read, and those that are read after it; the last one is that of the name, or was.
    queue: VecDeque<Tail>,
    once: bool,
    /// When the last file of the queue was seen to have lost its name.
    lost_name: Option<Instant>,
    has_said_missing: bool,
}

impl FileFollower {
    fn open(path: &Path, state: Option<&Position>, once: bool, told: &mut Vec<String>) -> io::Result<Self> {
        let mut follower = Self { path: path.to_owned(), queue: VecDeque::new(), once, lost_name: None, has_said_missing: false };
        let Some(at) = state else { return Ok(follower) };
        match Tail::open_at(path, at) {
            Ok(Some(tail)) if tail.id == at.id => follower.queue.push_back(tail),
            // another disk or a copy, unless what was rotated goes on in the same way: several files may begin alike
            Ok(Some(tail)) if rest_of(path, at).is_none() => {
                told.push(format!("{}: another file, which goes on at byte {}", path.display(), at.offset));
                follower.queue.push_back(tail);
            }
            Ok(_) => follower.go_on_in_siblings(at, "is another file now, or was cut", told),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                follower.go_on_in_siblings(at, "is gone", told);
            }
            Err(error) => return Err(error),
        }
        Ok(follower)
    }

    /// Queues what is left of the file that was read up to `at`, and the files between it and the one that has the name now.
    fn go_on_in_siblings(&mut self, at: &Position, what: &str, told: &mut Vec<String>) {
        let (path, offset) = (self.path.display().to_string(), at.offset);
        match rest_of(&self.path, at) {
            Some((tail, modified)) => {
                told.push(format!("{path} {what}: goes on at byte {offset} of {}", tail.path.display()));
                let rest = tail.id;
                self.queue.push_back(tail);
                self.queue_between(modified, &[rest], told);
            }
            None => told.push(format!(
                "warning: {path} {what}, and no file beside it goes on where it was left: what came after byte {offset} of the old \
                 file is lost, if anything did"
            )),
        }
        if let Ok(tail) = Tail::open(&self.path)
            && self.queue.iter().all(|queued| queued.id != tail.id)
        {
            told.push(format!("{path}: read from its start"));
            self.queue.push_back(tail);
        }
    }

    /// Queues files that rotation has made since `modified`, the oldest first.
    fn queue_between(&mut self, modified: SystemTime, known: &[FileId], told: &mut Vec<String>) {
        let here = fs::metadata(&self.path).map(|found| FileId::of(&found)).ok();
        let mut between: Vec<(SystemTime, PathBuf, FileId)> = siblings(&self.path)
            .into_iter()
            .filter(|(time, _, id)| *time > modified && Some(*id) != here && !known.contains(id))
            .filter(|(.., id)| self.queue.iter().all(|tail| tail.id != *id))
            .collect();
        between.sort();
        for (_, path, _) in between {
            match Tail::open(&path) {
                Ok(tail) => {
                    told.push(format!("{}: rotated away before it was seen: read from its start", path.display()));
                    self.queue.push_back(tail);
                }
                Err(error) => told.push(format!("warning: {}: cannot be read: {error}", path.display())),
            }
        }
    }

    fn next(&mut self, schema: &Schema, max_lines: usize, told: &mut Vec<String>) -> Result<Option<Batch>> {
        loop {
            if self.queue.is_empty() && !self.begin(told)? {
                return Ok(None);
            }
            let tail = &mut self.queue[0];
            let path = tail.path.clone();
            match tail.read(schema, max_lines, false) {
                Ok(Found::Lines(batch)) => return Ok(Some(batch)),
                Ok(Found::Stranger(what)) => {
                    return Err(Error::Data(format!("{}: the file is {what}: only text can be followed", path.display())));
                }
                Ok(Found::Passed) => {}
                Ok(Found::Cut) => self.begin_again(told),
                Ok(Found::Nothing) => match self.at_end(schema, max_lines, told)? {
                    AtEnd::Last(batch) => return Ok(Some(batch)),
                    AtEnd::Next => {}
                    AtEnd::Wait => return Ok(None),
                },
                Err(error) if self.queue.len() > 1 => {
                    told.push(format!("warning: {}: cannot be read to its end, and is left: {error}", path.display()));
                    self.queue.pop_front();
                }
                Err(error) => return Err(Error::io(path, "read")(error)),
            }
        }
    }

    /// Opens the file of the name; false while there is none.
    fn begin(&mut self, told: &mut Vec<String>) -> Result<bool> {
        match Tail::open(&self.path) {
            Ok(tail) => {
                self.queue.push_back(tail);
                (self.lost_name, self.has_said_missing) = (None, false);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.once => {
                if !std::mem::replace(&mut self.has_said_missing, true) {
                    told.push(format!("{}: no such file yet: waiting for it", self.path.display()));
                }
                Ok(false)
            }
            Err(error) => Err(Error::reading_data(&self.path, error)),
        }
    }

    /// The first file of the queue was cut, or written anew.
    fn begin_again(&mut self, told: &mut Vec<String>) {
        let Some(tail) = self.queue.pop_front() else { return };
        let (at, later) = (tail.position(), std::mem::take(&mut self.queue));
        drop(tail);
        self.lost_name = None;
        // a copy was made before, where logrotate cuts what it has copied
        self.go_on_in_siblings(&at, "was cut or written anew", told);
        for tail in later {
            if self.queue.iter().all(|queued| queued.id != tail.id) {
                self.queue.push_back(tail);
            }
        }
    }

    /// What to do at the end of the first file of the queue.
    fn at_end(&mut self, schema: &Schema, max_lines: usize, told: &mut Vec<String>) -> Result<AtEnd> {
        let last = self.queue.back().map(|tail| tail.id);
        let named = fs::metadata(&self.path).ok().map(|found| FileId::of(&found));
        if named.is_some() && named != last && self.lost_name.is_none() {
            told.push(format!("{}: rotated: another file has the name now", self.path.display()));
            self.lost_name = Some(Instant::now());
        }
        let is_last = self.queue.len() == 1;
        if is_last && self.lost_name.is_none() {
            return Ok(AtEnd::Wait);
        }
        let first = &mut self.queue[0];
        let patience = if self.once || is_gzip(&first.path) { Duration::ZERO } else { GRACE };
        let since_lost = self.lost_name.filter(|_| is_last).map_or(patience, |since| since.elapsed());
        if first.quiet().min(since_lost) < patience {
            return Ok(AtEnd::Wait);
        }
        if first.has_partial {
            told.push(format!("{}: its last line has no line end: read as it is", first.path.display()));
            match first.read(schema, max_lines, true) {
                Ok(Found::Lines(batch)) => return Ok(AtEnd::Last(batch)),
                Ok(_) => {}
                Err(error) => return Err(Error::io(&first.path, "read")(error)),
            }
        }
        let (modified, id) = (first.modified().unwrap_or(SystemTime::UNIX_EPOCH), first.id);
        self.queue.pop_front();
        if is_last {
            self.queue_between(modified, &[id], told);
            self.lost_name = None;
            if let Ok(tail) = Tail::open(&self.path) {
                self.queue.push_back(tail);
            }
        }
        Ok(AtEnd::Next)
    }
}

/// What to do at the end of a file.
enum AtEnd {
    /// It ended with these lines.
    Last(Batch),
    /// The next file is read.
    Next,
    /// It may grow.
    Wait,
}

/// The file beside `path` that goes on where `at` says, and when it was changed.
fn rest_of(path: &Path, at: &Position) -> Option<(Tail, SystemTime)> {
    let mut found = siblings(path);
    // the file itself under another name first, then the oldest that can be it: several may begin with the same header
    found.sort_by_key(|(time, _, id)| (*id != at.id, *time));
    let here = fs::metadata(path).map(|found| FileId::of(&found)).ok();
    // a header alone is how others begin, too: what has grown beyond it is younger
    let oldest = at.modified + u64::from(at.has_header_alone());
    found
        .into_iter()
        .filter(|(time, _, id)| Some(*id) != here && (*id == at.id || nanoseconds(*time) >= oldest))
        .find_map(|(time, path, _)| Some((Tail::open_at(&path, at).ok()??, time)))
}

/// The plain files beside `path` whose names rotation could have made of its name.
fn siblings(path: &Path) -> Vec<(SystemTime, PathBuf, FileId)> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let stem = name.split('.').next().unwrap_or(name);
    let is_related = |other: &str| {
        let of_stem = other.strip_prefix(stem).and_then(|rest| rest.strip_prefix(['.', '-', '_']));
        other != name && (other.starts_with(name) || of_stem.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
    };
    let entries = fs::read_dir(folder_of(path)).into_iter().flatten().flatten();
    let found = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_related));
    let found = found.filter_map(|entry| {
        let of = fs::metadata(entry.path()).ok().filter(fs::Metadata::is_file)?;
        Some((of.modified().ok()?, entry.path(), FileId::of(&of)))
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|(time, ..)| std::cmp::Reverse(*time));
    found.truncate(MAX_SIBLINGS);
    found
}

/// All files of a folder or a pattern.
pub(super) struct FolderFollower {
    data: String,
    /// In the order in which they are read.
    tails: Vec<Tail>,
    listed: Option<Instant>,
    /// Packed files, which are not read.
    n_packed: usize,
}

impl FolderFollower {
    fn open(data: &str, state: &[Position], told: &mut Vec<String>) -> Self {
        let mut follower = Self { data: data.to_owned(), tails: Vec::new(), listed: None, n_packed: 0 };
        let there = follower.list(told);
        for at in state {
            let own = there.iter().find(|(.., id)| *id == at.id).and_then(|(_, path, _)| Tail::open_at(path, at).ok()?);
            let rest = || rest_of(&at.path, at).map(|(tail, _)| tail);
            if let Some(tail) = own.or_else(rest).or_else(|| Tail::open_at(&at.path, at).ok()?) {
                if tail.path != at.path {
                    told.push(format!("{}: goes on in {}", at.path.display(), tail.path.display()));
                }
                follower.tails.push(tail);
            } else {
                let (path, offset) = (at.path.display(), at.offset);
                told.push(format!(
                    "warning: {path}: gone, cut or written anew: what came after byte {offset} is lost, if anything did"
                ));
            }
        }
        follower
    }

    /// The files that are there, by when they were changed and by name.
    fn list(&mut self, told: &mut Vec<String>) -> Vec<(SystemTime, PathBuf, FileId)> {
        let Ok(files) = data_files(&[self.data.as_str()]) else { return Vec::new() };
        let is_packed = |path: &PathBuf| {
            path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ["gz", "zst", "bz2", "xz"].contains(&ending))
        };
        let (packed, plain): (Vec<PathBuf>, Vec<PathBuf>) = files.into_iter().partition(is_packed);
        if packed.len() > self.n_packed {
            told.push(format!("{}: {} packed files are archives of others, and not read", self.data, packed.len()));
        }
        self.n_packed = packed.len();
        let found = plain.into_iter().filter_map(|path| {
            let of = fs::metadata(&path).ok()?;
            Some((of.modified().ok()?, path, FileId::of(&of)))
        });
        let mut found: Vec<_> = found.collect();
        found.sort();
        found
    }

    fn next(&mut self, schema: &Schema, max_lines: usize, told: &mut Vec<String>) -> Result<Option<Batch>> {
        if self.listed.is_none_or(|listed| listed.elapsed() >= LIST) {
            self.listed = Some(Instant::now());
            for (_, path, id) in self.list(told) {
                if let Some(known) = self.tails.iter_mut().find(|tail| tail.id == id) {
                    known.path = path;
                } else if let Ok(mut tail) = Tail::open(&path) {
                    told.push(format!("{}: a new file, read from its start", path.display()));
                    tail.close();
                    self.tails.push(tail);
                }
            }
        }
        let mut place = 0;
        while place < self.tails.len() {
            let tail = &mut self.tails[place];
            let path = tail.path.display().to_string();
            if tail.is_strange {
                place += 1;
                continue;
            }
            match tail.read(schema, max_lines, false) {
                Ok(Found::Lines(batch)) => return Ok(Some(batch)),
                Ok(Found::Passed) => {}
                Ok(Found::Nothing) if is_gzip(&tail.path) => drop(self.tails.remove(place)),
                Ok(Found::Nothing) => {
                    tail.close();
                    place += 1;
                }
                Ok(Found::Cut) => match Tail::open(&tail.path) {
                    Ok(again) => {
                        told.push(format!("{path}: was cut or written anew: read from its start"));
                        self.tails[place] = again;
                    }
                    Err(_) => drop(self.tails.remove(place)),
                },
                Ok(Found::Stranger(what)) => {
                    told.push(format!("warning: {path}: the file is {what}: not read"));
                    tail.close();
                    tail.is_strange = true;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if tail.has_partial {
                        told.push(format!("warning: {path}: removed before its last line was whole"));
                    }
                    self.tails.remove(place);
                }
                Err(error) => return Err(Error::io(&tail.path, "read")(error)),
            }
        }
        Ok(None)
    }
}
