//! Rows of CSV as RFC 4180 writes them. Where a lenient parser guesses, this one refuses: whoever controls one cell must not be
//! able to make the rows below it disappear into that cell.
//!
//! csv-core knows neither where a quotation mark opened nor whether it was closed. To judge its rows, its input would have to be
//! parsed a second time; a test compares the cells with those of the csv crate.

use std::io::{self, ErrorKind, Read};

use memchr::memchr_iter;

use span::{CLOSE_IT, Span, wrong};

mod span;

const BUFFER: usize = 1 << 18;
/// The longest row, in bytes.
const MAX_ROW: usize = 1 << 20;

/// Why there is no next row.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Row(Wrong),
}

/// A fault of a row: what is wrong, on which line, and with which cell, if one is to blame.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) line: u64,
    pub(super) cell: Option<usize>,
    pub(super) message: String,
}

/// The rows of a file, the first of which is the header.
pub(super) struct Records<R> {
    source: Counted<R>,
    buffer: Vec<u8>,
    /// Where in the buffer the current row starts, where the next one does, and where what has been read ends.
    row: usize,
    next: usize,
    filled: usize,
    is_at_end: bool,
    cells: Vec<Cell>,
    dialect: Dialect,
    /// Lines at the start that are no rows, yet to be passed over.
    n_preamble: u64,
    /// Cells of the header, once it has been read.
    n_wanted: Option<usize>,
    /// What is wrong with the number of cells of the current row.
    ragged: Option<String>,
    /// Lines before the current row.
    n_before: u64,
    /// Bytes of the file before those of the buffer.
    n_bytes: u64,
    tally: Tally,
}

/// How cells and rows are told apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialect {
    pub(super) delimiter: u8,
    /// With what lines begin that are no rows.
    pub(super) comment: Option<u8>,
    /// Lines before the first row: comments of a program, or `sep=;`.
    pub(super) n_preamble: u64,
}

impl Default for Dialect {
    fn default() -> Self {
        Dialect { delimiter: b',', comment: None, n_preamble: 0 }
    }
}

/// Where the lines went that have been read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// The header counts.
    pub(super) rows: u64,
    pub(super) blank: u64,
    /// Lines that say something of the file.
    pub(super) comments: u64,
    /// Lines that begin inside of a quoted field, and rows that have any.
    pub(super) quoted: u64,
    pub(super) quoted_rows: u64,
    /// Line and cell in which the first such field opens.
    pub(super) first_quoted: Option<(u64, usize)>,
}

impl Tally {
    pub(super) fn lines(&self) -> u64 {
        self.rows + self.blank + self.comments + self.quoted
    }
}

/// A cell in the bytes of its row, without its quotation marks.
#[derive(Clone, Copy, Debug)]
struct Cell {
    start: u32,
    end: u32,
    /// Whether quotation marks in it are still written twice.
    is_doubled: bool,
}

impl<R: Read> Records<R> {
    pub(super) fn new(source: R, dialect: Dialect) -> Self {
        Self {
            source: Counted { source, n_ends: 0, last: None },
            buffer: vec![0; BUFFER],
            row: 0,
            next: 0,
            filled: 0,
            is_at_end: false,
            cells: Vec::new(),
            dialect,
            n_preamble: dialect.n_preamble,
            n_wanted: None,
            ragged: None,
            n_before: 0,
            n_bytes: 0,
            tally: Tally::default(),
        }
    }

    /// Reads the next row; false at the end of the file. Blank lines are passed over, but where a row has a single cell.
    pub(super) fn read(&mut self) -> Result<bool, Fault> {
        loop {
            self.row = self.next;
            self.n_before = self.tally.lines();
            let bytes = &self.buffer[self.row..self.filled];
            let is_blank = matches!(bytes.first(), Some(b'\n' | b'\r')) && self.n_wanted != Some(1) && self.n_preamble == 0;
            let is_comment = self.n_preamble > 0 || bytes.first().is_some_and(|first| self.dialect.comment == Some(*first));
            let found = if bytes.is_empty() {
                None
            } else if is_blank {
                line_end(bytes, self.is_at_end).map(|len| Row { len, ..Row::default() })
            } else if is_comment {
                line(bytes, self.is_at_end).map(|len| Row { len, ..Row::default() })
            } else {
                let line = self.n_before + 1;
                scan(bytes, self.is_at_end, self.dialect.delimiter, self.n_wanted, line, &mut self.cells).map_err(Fault::Row)?
            };
            match found {
                Some(row) if is_blank || is_comment => {
                    *(if is_blank { &mut self.tally.blank } else { &mut self.tally.comments }) += 1;
                    self.n_preamble = self.n_preamble.saturating_sub(1);
                    self.next = self.row + row.len;
                }
                Some(row) => {
                    self.take(&row)?;
                    return Ok(true);
                }
                None if self.is_at_end => {
                    self.check_lines()?;
                    return Ok(false);
                }
                None => self.fill()?,
            }
        }
    }

    /// The cells of the current row.
    pub(super) fn cells(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.cells.iter().map(|cell| &self.buffer[self.row + cell.start as usize..self.row + cell.end as usize])
    }

    /// The n-th cell of the current row.
    pub(super) fn cell(&self, n: usize) -> &[u8] {
        let cell = &self.cells[n];
        &self.buffer[self.row + cell.start as usize..self.row + cell.end as usize]
    }

    /// What is wrong with the number of cells of the current row.
    pub(super) fn ragged(&self) -> Option<&str> {
        self.ragged.as_deref()
    }

    /// 1-based line on which the current row begins.
    pub(super) fn line(&self) -> u64 {
        self.n_before + 1
    }

    /// Bytes of the file before the current row.
    pub(super) fn offset(&self) -> u64 {
        self.n_bytes + self.row as u64
    }

    /// Whether the file ends in the middle of the line of the current row, which then may lack a part of it.
    pub(super) fn is_cut(&self) -> bool {
        let is_last = self.is_at_end && self.next == self.filled;
        is_last && !matches!(self.buffer[..self.filled].last(), Some(b'\n' | b'\r'))
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    fn take(&mut self, row: &Row) -> Result<(), Fault> {
        let refuse = |message| Err(Fault::Row(Wrong { line: self.n_before + 1, cell: None, message }));
        if row.len > MAX_ROW {
            return refuse(format!("a row of more than {MAX_ROW} bytes"));
        }
        let n_found = self.cells.len();
        let n_wanted = *self.n_wanted.get_or_insert(n_found);
        self.ragged = (n_found != n_wanted).then(|| {
            let spans =
                if row.n_quoted > 0 { format!(" and {} line ends inside of quoted fields", row.n_quoted) } else { String::new() };
            format!("{n_found} cells{spans}, but the header has {n_wanted}")
        });
        let bytes = &mut self.buffer[self.row..self.row + row.len];
        self.cells.iter_mut().filter(|cell| cell.is_doubled).for_each(|cell| cell.halve_marks(bytes));
        self.next = self.row + row.len;
        self.tally.rows += 1;
        self.tally.quoted += row.n_quoted;
        if let Some((line, cell)) = row.first_quoted {
            self.tally.quoted_rows += 1;
            self.tally.first_quoted.get_or_insert((line, cell));
        }
        Ok(())
    }

    /// Reads on, keeping what has been read of the current row.
    fn fill(&mut self) -> Result<(), Fault> {
        let is_first = self.source.last.is_none();
        self.buffer.copy_within(self.row..self.filled, 0);
        self.n_bytes += self.row as u64;
        self.filled -= self.row;
        (self.row, self.next) = (0, 0);
        if self.filled > MAX_ROW {
            return Err(Fault::Row(self.too_long()));
        }
        if self.filled == self.buffer.len() {
            self.buffer.resize((2 * self.filled).min(MAX_ROW + BUFFER), 0);
        }
        while self.filled < self.buffer.len() && !self.is_at_end {
            match self.source.read(&mut self.buffer[self.filled..]) {
                Ok(n) => (self.filled, self.is_at_end) = (self.filled + n, n == 0),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Io(error)),
            }
        }
        if is_first && self.buffer[..self.filled].starts_with(b"\xef\xbb\xbf") {
            self.row = 3; // a byte order mark
            self.next = 3;
        }
        Ok(())
    }

    /// A row that goes on beyond what is read of one; a mark that is open in it is to blame.
    fn too_long(&mut self) -> Wrong {
        let bytes = &self.buffer[..self.filled];
        match scan(bytes, true, self.dialect.delimiter, self.n_wanted, self.n_before + 1, &mut self.cells) {
            Err(Wrong { line, cell: Some(cell), .. }) => {
                let message = format!("the quotation mark that opens here is not closed within {MAX_ROW} bytes: {CLOSE_IT}");
                wrong((line, cell), message)
            }
            _ => Wrong { line: self.n_before + 1, cell: None, message: format!("a row of more than {MAX_ROW} bytes") },
        }
    }

    /// Whether every line of the file is in a row, or blank. That is so unless this program has a fault.
    fn check_lines(&self) -> Result<(), Fault> {
        let (found, taken) = (self.source.lines(), self.tally.lines());
        if found == taken || self.n_wanted.is_none() {
            return Ok(());
        }
        let message =
            format!("the file has {found} lines, of which {taken} were read: this is a fault of the program, report it");
        Err(Fault::Row(Wrong { line: taken, cell: None, message }))
    }
}

/// A row found in the bytes that begin with it.
#[derive(Default)]
struct Row {
    /// Bytes of the row, its line end included.
    len: usize,
    /// Line ends inside of quoted fields, and where the first field with any opens: line and cell.
    n_quoted: u64,
    first_quoted: Option<(u64, usize)>,
}

/// Finds the cells of the row that begins `bytes`, on line `line` of the file; None if the row may go on beyond them.
fn scan(
    bytes: &[u8],
    is_at_end: bool,
    delimiter: u8,
    n_wanted: Option<usize>,
    line: u64,
    cells: &mut Vec<Cell>,
) -> Result<Option<Row>, Wrong> {
    cells.clear();
    let mut span = Span::new(bytes, delimiter, n_wanted, line);
    let mut at = 0;
    loop {
        let is_quoted = bytes.get(at) == Some(&b'"');
        let (start, end, is_doubled);
        if is_quoted {
            let opened = (span.line(), cells.len());
            start = at + 1;
            let field = quoted(bytes, start);
            is_doubled = field.is_doubled;
            if field.has_line_ends {
                span.take_field(opened, start, field.closing.unwrap_or(bytes.len()))?;
            }
            match field.closing {
                // the next byte may make it one of two
                Some(mark) if mark + 1 < bytes.len() || is_at_end => (end, at) = (mark, mark + 1),
                None if is_at_end => {
                    return Err(wrong(opened, format!("the quotation mark that opens here is never closed: {CLOSE_IT}")));
                }
                _ => return Ok(None),
            }
        } else {
            (start, is_doubled) = (at, false);
            at = match bytes[at..].iter().position(|&byte| byte == delimiter || matches!(byte, b'\n' | b'\r')) {
                Some(offset) => at + offset,
                None if is_at_end => bytes.len(),
                None => return Ok(None),
            };
            end = at;
        }
        cells.push(Cell { start: start as u32, end: end as u32, is_doubled });
        match bytes.get(at) {
            Some(byte) if *byte == delimiter => at += 1,
            None => return span.finish(at, at).map(Some),
            Some(b'\n' | b'\r') => {
                let Some(len) = line_end(&bytes[at..], is_at_end) else { return Ok(None) };
                return span.finish(at, at + len).map(Some);
            }
            Some(_) => return Err(span.text_after_mark(cells.len() - 1)),
        }
    }
}

/// The inside of a quoted field.
#[derive(Default)]
struct Quoted {
    /// Where the closing mark is, if there is one.
    closing: Option<usize>,
    /// Whether marks are written twice in it, and whether line ends are.
    is_doubled: bool,
    has_line_ends: bool,
}

/// Looks for the end of the quoted field whose inside starts at `start`.
fn quoted(bytes: &[u8], start: usize) -> Quoted {
    let mut field = Quoted::default();
    let mut at = start;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' if bytes.get(at + 1) == Some(&b'"') => {
                field.is_doubled = true;
                at += 1;
            }
            b'"' => {
                field.closing = Some(at);
                return field;
            }
            b'\n' | b'\r' => field.has_line_ends = true,
            _ => {}
        }
        at += 1;
    }
    field
}

/// Length of the line that begins `bytes`, its end included.
fn line(bytes: &[u8], is_at_end: bool) -> Option<usize> {
    match bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        Some(at) => line_end(&bytes[at..], is_at_end).map(|len| at + len),
        None => is_at_end.then_some(bytes.len()),
    }
}

/// Length of the line end that begins `bytes`: `\n`, `\r\n`, or `\r` alone; None if a `\n` may follow that is not there yet.
fn line_end(bytes: &[u8], is_at_end: bool) -> Option<usize> {
    match bytes {
        [b'\r', b'\n', ..] => Some(2),
        [b'\r'] if !is_at_end => None,
        _ => Some(1),
    }
}

impl Cell {
    /// Writes marks once that are written twice.
    fn halve_marks(&mut self, bytes: &mut [u8]) {
        let mut to = self.start as usize;
        let mut from = to;
        while from < self.end as usize {
            bytes[to] = bytes[from];
            from += if bytes[from] == b'"' { 2 } else { 1 };
            to += 1;
        }
        (self.end, self.is_doubled) = (to as u32, false);
    }
}

/// Counts line ends where they come from the file, whatever is made of them later.
struct Counted<R> {
    source: R,
    n_ends: u64,
    last: Option<u8>,
}

impl<R> Counted<R> {
    /// A last line need not have a line end.
    fn lines(&self) -> u64 {
        self.n_ends + u64::from(self.last.is_some_and(|byte| !matches!(byte, b'\n' | b'\r')))
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        let bytes = &buffer[..n];
        // `\r\n` counts once
        let is_second = |&at: &usize| if at == 0 { self.last == Some(b'\r') } else { bytes[at - 1] == b'\r' };
        let n_returns = memchr_iter(b'\r', bytes).count();
        let n_pairs =
            if n_returns > 0 || self.last == Some(b'\r') { memchr_iter(b'\n', bytes).filter(is_second).count() } else { 0 };
        self.n_ends += (memchr_iter(b'\n', bytes).count() + n_returns - n_pairs) as u64;
        self.last = bytes.last().copied().or(self.last);
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
