//! Logs of Zeek: lines of cells, and lines that begin with `#` and say how the cells are written.
//! <https://docs.zeek.org/en/master/log-formats.html>

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::Path;

use memchr::memmem;

use super::header::{Header, Plan};
use super::sink::{Sink, Slot};
use super::text::{check_end, differs};
use super::{Lines, MAX_COLUMNS};
use crate::{At, Error, Result};

/// The longest line, in bytes.
const MAX_LINE: u64 = 1 << 20;
/// What separates the last three columns of the labelled logs of Stratosphere, inside of one of Zeek's.
const INNER: &[u8] = b"   ";

type Bytes = Box<dyn Read + Send>;

/// The rows of a log.
pub(super) struct Reader {
    lines: BufReader<Bytes>,
    line: Vec<u8>,
    n_lines: u64,
    n_comments: u64,
    n_blank: u64,
    n_rows: u64,
    separator: Vec<u8>,
    unset: Vec<u8>,
    empty: Vec<u8>,
    fields: Vec<String>,
    /// Whether the last field holds several, as labelled logs have it.
    has_inner: bool,
    cells: Vec<Range<usize>>,
    is_pending: bool,
    /// Bytes before the current line, and before the next.
    offset: u64,
    next: u64,
    /// Where the rows begin that are taken.
    pub(super) begin_in: Range<u64>,
}

impl Reader {
    /// Reads the lines that say how the log is written.
    pub(super) fn open(path: &Path, bytes: Bytes) -> Result<(Header, Self)> {
        let mut reader = Reader {
            lines: BufReader::with_capacity(1 << 18, bytes),
            line: Vec::new(),
            n_lines: 0,
            n_comments: 0,
            n_blank: 0,
            n_rows: 0,
            separator: b"\t".to_vec(),
            unset: b"-".to_vec(),
            empty: b"(empty)".to_vec(),
            fields: Vec::new(),
            has_inner: false,
            cells: Vec::new(),
            is_pending: false,
            offset: 0,
            next: 0,
            begin_in: 0..u64::MAX,
        };
        reader.is_pending = reader.next_row(path)?;
        if reader.fields.is_empty() {
            let message = "a log of Zeek without a line `#fields`, which names its columns".to_owned();
            return Err(Error::data(path, At::File, None, message));
        }
        let header = Header { names: reader.fields.clone(), n_seen: reader.fields.len(), is_sparse: false, is_by_place: false };
        Ok((header, reader))
    }

    /// The spellings of a missing cell that the log declares.
    pub(super) fn missing(&self) -> [Cow<'_, str>; 2] {
        [&self.unset, &self.empty].map(|text| String::from_utf8_lossy(text))
    }

    /// Takes up to `max_rows` more rows; false at the end of the file.
    pub(super) fn fill(&mut self, path: &Path, plan: &Plan, sink: &mut Sink, max_rows: usize) -> Result<bool> {
        while !sink.is_full(max_rows) {
            if !std::mem::take(&mut self.is_pending) && !self.next_row(path)? {
                return Ok(false);
            }
            if self.offset >= self.begin_in.end {
                return Ok(false);
            }
            if self.offset < self.begin_in.start {
                sink.skip_rows(1);
                continue;
            }
            let line = At::Line(self.n_lines);
            if self.cells.len() != self.fields.len() {
                let message = format!("{} cells, but `#fields` names {}", self.cells.len(), self.fields.len());
                sink.fault(None, "", message);
                sink.end_row(path, line);
            } else if self.take(plan, sink) {
                sink.end_row(path, line);
            } else {
                sink.pass_row();
            }
        }
        Ok(true)
    }

    fn take(&self, plan: &Plan, sink: &mut Sink) -> bool {
        let cell = |place: usize| unescaped(self.line[self.cells[place].clone()].trim_ascii());
        for &(place, slot) in &plan.uses {
            let found = cell(place);
            match slot {
                Slot::Where(condition) if !sink.is_wanted(condition, &found) => return false,
                Slot::Where(_) => {}
                Slot::SameAs(first) if cell(first) == found => {}
                Slot::SameAs(first) => {
                    sink.fault(Some(&plan.names[place]), &String::from_utf8_lossy(&found), differs(&cell(first), &found));
                }
                _ => sink.push(slot, &plan.names[place], &found),
            }
        }
        plan.given.iter().for_each(|given| sink.push_given(given));
        true
    }

    /// Goes to the next row; false at the end.
    fn next_row(&mut self, path: &Path) -> Result<bool> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        loop {
            self.line.clear();
            let n = (&mut self.lines).take(MAX_LINE + 1).read_until(b'\n', &mut self.line).map_err(io)?;
            if n == 0 {
                return Ok(false);
            }
            self.n_lines += 1;
            (self.offset, self.next) = (self.next, self.next + n as u64);
            if n as u64 > MAX_LINE {
                return Err(Error::data(path, At::Line(self.n_lines), None, format!("a line of more than {MAX_LINE} bytes")));
            }
            check_end(path, self.n_lines, self.line.last() != Some(&b'\n'))?;
            while self.line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                self.line.pop();
            }
            if self.line.first() == Some(&b'#') {
                self.n_comments += 1;
                self.declare(path)?;
            } else if self.line.is_empty() {
                self.n_blank += 1;
            } else if self.fields.is_empty() {
                let message = "a row before the line `#fields`, which names the columns".to_owned();
                return Err(Error::data(path, At::Line(self.n_lines), None, message));
            } else {
                self.n_rows += 1;
                self.cells.clear();
                split(&self.line, &self.separator, self.has_inner, &mut self.cells);
                return Ok(true);
            }
        }
    }

    /// Reads a line that begins with `#`.
    fn declare(&mut self, path: &Path) -> Result<()> {
        if let Some(separator) = self.line.strip_prefix(b"#separator") {
            self.separator = unescaped(separator.trim_ascii()).into_owned();
            if self.separator.is_empty() {
                let message = "`#separator` says nothing; wanted `#separator \\x09` or the like".to_owned();
                return Err(Error::data(path, At::Line(self.n_lines), None, message));
            }
            return Ok(());
        }
        let mut ranges = Vec::new();
        split(&self.line, &self.separator, false, &mut ranges);
        let value = ranges.get(1).map(|range| self.line[range.clone()].to_vec());
        match (&self.line[ranges[0].clone()], value) {
            (b"#unset_field", Some(value)) => self.unset = value,
            (b"#empty_field", Some(value)) => self.empty = value,
            (b"#fields", _) => {
                let last = ranges.last().map_or(&[][..], |range| &self.line[range.clone()]);
                let has_inner = memmem::find(last, INNER).is_some();
                ranges.clear();
                split(&self.line, &self.separator, has_inner, &mut ranges);
                let names =
                    ranges.iter().skip(1).map(|range| String::from_utf8_lossy(&self.line[range.clone()]).trim().to_owned());
                let names: Vec<String> = names.collect();
                if names.len() > MAX_COLUMNS {
                    let message = format!("{} columns, wanted at most {MAX_COLUMNS}", names.len());
                    return Err(Error::data(path, At::Line(self.n_lines), None, message));
                }
                if !self.fields.is_empty() && self.fields != names {
                    let message = "another `#fields` line with other columns: give each log a file of its own".to_owned();
                    return Err(Error::data(path, At::Line(self.n_lines), None, message));
                }
                (self.fields, self.has_inner) = (names, has_inner);
            }
            _ => {}
        }
        Ok(())
    }

    /// Where the lines went that have been read.
    pub(super) fn lines(&self) -> Lines {
        let (total, rows, blank, comments) = (self.n_lines, self.n_rows, self.n_blank, self.n_comments);
        Lines { total, rows, blank, comments, headers: 0, totals: 0, quoted: 0, quoted_rows: 0, first_quoted: None }
    }
}

/// The cells of a line; with `has_inner` the last one is split again.
fn split(line: &[u8], separator: &[u8], has_inner: bool, cells: &mut Vec<Range<usize>>) {
    let mut start = 0;
    for end in memmem::find_iter(line, separator) {
        cells.push(start..end);
        start = end + separator.len();
    }
    if has_inner {
        while let Some(len) = memmem::find(&line[start..], INNER) {
            cells.push(start..start + len);
            start += len + INNER.len();
        }
    }
    cells.push(start..line.len());
}

/// A cell of Zeek's with its `\x09` as bytes.
pub fn unescaped(cell: &[u8]) -> Cow<'_, [u8]> {
    if memmem::find(cell, b"\\x").is_none() {
        return Cow::Borrowed(cell);
    }
    let mut bytes = Vec::with_capacity(cell.len());
    let mut at = 0;
    while at < cell.len() {
        let digits = cell.get(at..at + 4).and_then(|escape| escape.strip_prefix(b"\\x"));
        let byte =
            digits.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(cell[at]));
        at += if byte.is_some() { 4 } else { 1 };
    }
    Cow::Owned(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_bytes_again() {
        assert_eq!(unescaped(b"a\\x09b\\x2c"), &b"a\tb,"[..]);
        assert_eq!(unescaped(b"\\x9"), &b"\\x9"[..]);
        assert_eq!(unescaped(b"\\xzz\\x41"), &b"\\xzzA"[..]);
        assert!(matches!(unescaped(b"plain"), Cow::Borrowed(_)));
    }
}
