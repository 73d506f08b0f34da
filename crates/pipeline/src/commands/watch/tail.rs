//! Lines of one file that grows, from a position on. A line that is not whole waits.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use flate2::read::MultiGzDecoder;
use memchr::memchr;
use nids_flows::{Schema, Written, written};
use nids_store::artefacts::sha256;
use nids_store::disk::FileId;
use serde::{Deserialize, Serialize};

/// The longest line, in bytes.
pub(super) const MAX_LINE: usize = 1 << 20;
/// Bytes read at once: a line of the greatest length is whole in them.
const CHUNK: usize = MAX_LINE + 2;
/// Bytes before a position by which a file is known again, at most.
const WINDOW: usize = 1024;
/// The longest header, in bytes.
const MAX_HEADER: usize = 1 << 20;
/// What is looked at of a file to tell how it is written.
const HEAD: usize = 1 << 16;

/// Where in a file reading goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    pub(super) path: PathBuf,
    pub(super) id: FileId,
    /// Bytes before it; of a packed file, as they are unpacked.
    pub(super) offset: u64,
    /// How many of the last of these bytes are hashed.
    pub(super) window: u64,
    pub(super) window_sha256: String,
    /// When the file had been changed last at the last look, in nanoseconds since 1970: what goes on from here is not older.
    pub(super) modified: u64,
    /// Whether the bytes that follow belong to a line that was too long.
    pub(super) skips_line: bool,
    /// How the file is written, once that is known.
    pub(super) written: Option<Written>,
    /// Its lines that say what its columns are, in hexadecimal digits.
    pub(super) header: String,
}

impl Position {
    /// Whether nothing but a header comes before it.
    pub(super) fn has_header_alone(&self) -> bool {
        self.offset * 2 <= self.header.len() as u64
    }
}

/// A line of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    /// Where it is in [`Batch::bytes`], without its line end.
    pub(super) start: usize,
    pub(super) end: usize,
    /// Where it begins in its file.
    pub(super) offset: u64,
}

/// Lines of one file under one header.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Batch {
    pub(super) path: PathBuf,
    pub(super) written: Written,
    /// The lines that say what columns there are, with their line ends.
    pub(super) header: Vec<u8>,
    pub(super) bytes: Vec<u8>,
    pub(super) lines: Vec<Line>,
    /// Where lines begin that are too long to be read.
    pub(super) too_long: Vec<u64>,
}

impl Batch {
    /// The bytes of a line.
    pub(super) fn line(&self, line: &Line) -> &[u8] {
        &self.bytes[line.start..line.end]
    }
}

/// What a look at a file found.
#[derive(Debug)]
pub(super) enum Found {
    Lines(Batch),
    /// Bytes that are no rows: a header, blank lines. More may follow.
    Passed,
    /// No whole line yet.
    Nothing,
    /// The file does not go on where it was left: it was cut, or written anew.
    Cut,
    /// The file holds no text of flows: what it is.
    Stranger(String),
}

enum Source {
    Plain(File),
    /// A packed file, and what was unpacked and not yet taken.
    Packed(Box<MultiGzDecoder<File>>, Vec<u8>),
    /// Opened again when it is looked at.
    Closed,
}

/// A file that is read from a position on.
pub(super) struct Tail {
    pub(super) path: PathBuf,
    pub(super) id: FileId,
    source: Source,
    offset: u64,
    window: Vec<u8>,
    modified: u64,
    skips_line: bool,
    written: Option<Written>,
    header: Vec<u8>,
    /// When bytes came last.
    came: Instant,
    /// Whether a line was there at the last look that was not whole.
    pub(super) has_partial: bool,
    /// Whether the file holds no flows, as was said.
    pub(super) is_strange: bool,
}

/// Whether a file's name says that it is packed by gzip.
pub(super) fn is_gzip(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"))
}

impl Tail {
    /// Opens a file at its start.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("not a plain file"));
        }
        let id = FileId::of(&found);
        let source =
            if is_gzip(path) { Source::Packed(Box::new(MultiGzDecoder::new(file)), Vec::new()) } else { Source::Plain(file) };
        Ok(Self {
            path: path.to_owned(),
            id,
            source,
            offset: 0,
            window: Vec::new(),
            modified: found.modified().map_or(0, nanoseconds),
            skips_line: false,
            written: None,
            header: Vec::new(),
            came: Instant::now(),
            has_partial: false,
            is_strange: false,
        })
    }

    /// Opens a file where `at` says, if it holds what came before that; else None. A position at the start fits its own file alone.
    pub(super) fn open_at(path: &Path, at: &Position) -> io::Result<Option<Self>> {
        let mut tail = Self::open(path)?;
        if at.offset == 0 {
            return Ok((tail.id == at.id).then_some(tail));
        }
        let window = at.window.min(at.offset).min(WINDOW as u64);
        let before = at.offset - window;
        let mut found = Vec::new();
        match &mut tail.source {
            Source::Plain(file) => {
                file.seek(SeekFrom::Start(before))?;
                file.take(window).read_to_end(&mut found)?;
            }
            Source::Packed(bytes, _) => {
                if io::copy(&mut bytes.by_ref().take(before), &mut io::sink())? == before {
                    bytes.by_ref().take(window).read_to_end(&mut found)?;
                }
            }
            Source::Closed => {}
        }
        if found.len() as u64 != window || sha256(&found) != at.window_sha256 {
            return Ok(None);
        }
        let Ok(header) = hex::decode(&at.header) else { return Ok(None) };
        (tail.offset, tail.window, tail.skips_line) = (at.offset, found, at.skips_line);
        (tail.written, tail.header) = (at.written, header);
        Ok(Some(tail))
    }

    /// Where reading goes on.
    pub(super) fn position(&self) -> Position {
        Position {
            path: self.path.clone(),
            id: self.id,
            offset: self.offset,
            window: self.window.len() as u64,
            window_sha256: sha256(&self.window),
            modified: self.modified,
            skips_line: self.skips_line,
            written: self.written,
            header: hex::encode(&self.header),
        }
    }

    /// When the file was changed last.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        match &self.source {
            Source::Plain(file) => file.metadata().and_then(|found| found.modified()).ok(),
            _ => fs::metadata(&self.path).and_then(|found| found.modified()).ok(),
        }
    }

    /// How long nothing has come.
    pub(super) fn quiet(&self) -> Duration {
        self.came.elapsed()
    }

    /// Bytes of the file that were not read; of a packed file nobody knows.
    pub(super) fn behind(&self) -> u64 {
        let size = match &self.source {
            Source::Plain(file) => file.metadata().map_or(0, |found| found.len()),
            Source::Packed(..) => 0,
            Source::Closed => fs::metadata(&self.path).map_or(0, |found| found.len()),
        };
        size.saturating_sub(self.offset)
    }

    /// Lets go of the file until it is looked at again.
    pub(super) fn close(&mut self) {
        if matches!(self.source, Source::Plain(_)) {
            self.source = Source::Closed;
        }
    }

    /// Looks for whole lines, at most `max_lines`. With `is_final` the file does not grow any more, and what is left is a line.
    pub(super) fn read(&mut self, schema: &Schema, max_lines: usize, is_final: bool) -> io::Result<Found> {
        if matches!(self.source, Source::Closed) {
            let file = File::open(&self.path)?;
            if FileId::of(&file.metadata()?) != self.id {
                return Ok(Found::Cut);
            }
            self.source = Source::Plain(file);
        }
        let mut bytes = Vec::new();
        let (start, is_packed) = match &mut self.source {
            Source::Plain(file) => {
                let modified = file.metadata()?.modified().map_or(0, nanoseconds);
                // what came before is read again at once with what follows, so that nothing can come between the two
                file.seek(SeekFrom::Start(self.offset - self.window.len() as u64))?;
                file.take((self.window.len() + CHUNK) as u64).read_to_end(&mut bytes)?;
                if !bytes.starts_with(&self.window) {
                    return Ok(Found::Cut);
                }
                self.modified = modified;
                (self.window.len(), false)
            }
            Source::Packed(packed, rest) => {
                let wanted = CHUNK.saturating_sub(rest.len()) as u64;
                packed.by_ref().take(wanted).read_to_end(rest)?;
                bytes = std::mem::take(rest);
                (0, true)
            }
            Source::Closed => return Ok(Found::Nothing),
        };
        let (found, taken) = self.take(&bytes[start..], schema, max_lines, is_final || is_packed);
        if taken > 0 {
            self.came = Instant::now();
            self.offset += taken as u64;
            self.remember(&bytes[start..start + taken]);
        }
        self.has_partial = bytes.len() > start + taken;
        if let Source::Packed(_, rest) = &mut self.source {
            bytes.drain(..start + taken);
            *rest = bytes;
        }
        Ok(if matches!(found, Found::Nothing) && taken > 0 { Found::Passed } else { found })
    }

    fn remember(&mut self, taken: &[u8]) {
        if taken.len() >= WINDOW {
            self.window = taken[taken.len() - WINDOW..].to_vec();
        } else {
            self.window.extend_from_slice(taken);
            self.window.drain(..self.window.len().saturating_sub(WINDOW));
        }
    }

    /// Takes lines from `bytes`, which begin at `self.offset`; how many of the bytes they are.
    fn take(&mut self, bytes: &[u8], schema: &Schema, max_lines: usize, is_final: bool) -> (Found, usize) {
        // more than a chunk may follow what is final
        let is_final = is_final && bytes.len() < CHUNK;
        let mut at = 0;
        if self.written.is_none() && !self.skips_line {
            let whole = if is_final { bytes.len() } else { memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1) };
            let head = &bytes[zeros(bytes).min(whole)..whole];
            if !head.is_empty() {
                let cut = memchr::memrchr(b'\n', &head[..head.len().min(HEAD)]).map_or(head.len().min(MAX_LINE), |end| end + 1);
                match written(without_rest(&head[..cut]), schema) {
                    Err(what) => return (Found::Stranger(what), 0),
                    Ok(found) => {
                        at = self.begin(bytes, found, is_final);
                        if self.written.is_none() {
                            return (Found::Nothing, 0);
                        }
                    }
                }
            }
        }
        let mut batch = Batch {
            path: self.path.clone(),
            written: self.written.unwrap_or(Written::Json),
            header: Vec::new(),
            bytes: Vec::new(),
            lines: Vec::new(),
            too_long: Vec::new(),
        };
        while at < bytes.len() && batch.lines.len() < max_lines {
            let end = match memchr(b'\n', &bytes[at..]) {
                Some(len) => at + len + 1,
                None if bytes.len() - at > MAX_LINE => {
                    // the line goes on: what follows is passed over to its end
                    if !std::mem::replace(&mut self.skips_line, true) {
                        batch.too_long.push(self.offset + at as u64);
                    }
                    at = bytes.len();
                    break;
                }
                None if self.skips_line => {
                    at = bytes.len();
                    break;
                }
                None if is_final => bytes.len(),
                None => break,
            };
            let start = at + zeros(&bytes[at..end]);
            let line = trimmed(&bytes[start..end]);
            if std::mem::take(&mut self.skips_line) || self.written.is_none() {
                // the end of a line that was too long; how the file is written is seen at the next look
                at = end;
                if self.written.is_none() {
                    break;
                }
                continue;
            }
            if self.written == Some(Written::Zeek) && line.first() == Some(&b'#') {
                if !batch.lines.is_empty() && !line.starts_with(b"#close") {
                    break;
                }
                self.declare(line);
            } else if !line.is_empty() && !self.is_header(line, schema) {
                let from = batch.bytes.len();
                batch.bytes.extend_from_slice(line);
                batch.lines.push(Line { start: from, end: batch.bytes.len(), offset: self.offset + start as u64 });
                batch.bytes.push(b'\n');
            }
            at = end;
        }
        if batch.lines.is_empty() && batch.too_long.is_empty() {
            return (Found::Nothing, at);
        }
        batch.written = self.written.unwrap_or(Written::Json);
        batch.header.clone_from(&self.header);
        (Found::Lines(batch), at)
    }

    /// Takes the header of a file that is written like this; where its rows begin. Where its header is not whole yet, how it is written
    /// stays unknown.
    fn begin(&mut self, bytes: &[u8], found: Written, is_final: bool) -> usize {
        self.header.clear();
        let Written::Csv { n_preamble, has_header, .. } = found else {
            self.written = Some(found);
            return 0;
        };
        let mut n_left = n_preamble;
        let mut at = zeros(bytes);
        let mut is_whole = !has_header && n_left == 0;
        while !is_whole && at < bytes.len() {
            let end = match memchr(b'\n', &bytes[at..]) {
                Some(len) => at + len + 1,
                None if is_final => bytes.len(),
                None => return 0,
            };
            let line = trimmed(&bytes[at..end]);
            at = end;
            if n_left == 0 && line.is_empty() {
                continue;
            }
            self.header.extend_from_slice(line);
            self.header.push(b'\n');
            if n_left == 0 {
                is_whole = true;
            } else {
                n_left -= 1;
                is_whole = n_left == 0 && !has_header;
            }
        }
        if !is_whole {
            self.header.clear();
            return 0;
        }
        self.written = Some(found);
        at
    }

    /// Takes a line of Zeek's that begins with `#`.
    fn declare(&mut self, line: &[u8]) {
        if line.starts_with(b"#separator") || self.header.len() > MAX_HEADER {
            self.header.clear();
        }
        if !line.starts_with(b"#close") {
            self.header.extend_from_slice(line);
            self.header.push(b'\n');
        }
    }

    /// Whether a line repeats the header line, or says something of the file.
    fn is_header(&self, line: &[u8], schema: &Schema) -> bool {
        let Some(Written::Csv { has_header, .. }) = self.written else { return false };
        let comment = schema.cells().comment.map(|comment| comment as u8);
        let header = self.header.strip_suffix(b"\n").unwrap_or(&self.header);
        let last = header.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
        comment.is_some_and(|comment| line.first() == Some(&comment)) || has_header && line == last
    }
}

/// What follows the rest of a line, where objects follow it: where a file was cut, it may begin in the middle of one.
fn without_rest(head: &[u8]) -> &[u8] {
    let rest = memchr(b'\n', head).map_or(&[][..], |end| &head[end + 1..]);
    if !head.starts_with(b"{")
        && serde_json::from_slice::<serde::de::IgnoredAny>(first_line(rest)).is_ok()
        && rest.starts_with(b"{")
    {
        return rest;
    }
    head
}

fn first_line(text: &[u8]) -> &[u8] {
    trimmed(&text[..memchr(b'\n', text).map_or(text.len(), |end| end + 1)])
}

/// A moment in nanoseconds since 1970.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Bytes of zero that begin a text: a program that keeps its place in a file that was cut leaves them.
fn zeros(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&byte| byte == 0).count()
}

/// A line without its end.
fn trimmed(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
