//! The lines that a row takes up.

use memchr::memchr_iter;

use super::{Row, Wrong, line_end};

/// The most line ends in a quoted field. HTTP headers or a short certificate fit; a file that is one field from a stray
/// quotation mark on does not.
pub(super) const MAX_LINE_ENDS: usize = 16;

pub(super) const CLOSE_IT: &str = "close the field on its line, and write a quotation mark that is text twice (\"\")";

/// The lines that a row takes up.
///
/// A line that lies inside of a quoted field from its start to its end must have fewer commas than a row, and of the others only
/// one may have as many. So a line with all the commas of a row is never part of another line's row: where a program that wrote the
/// file did not quote its texts, a mark in one of them cannot hide a row.
pub(super) struct Span<'b> {
    bytes: &'b [u8],
    delimiter: u8,
    n_wanted: Option<usize>,
    first_line: u64,
    /// Line ends so far, all of them inside of quoted fields.
    n_ends: u64,
    line_start: usize,
    /// Lines so far with as many commas as a row.
    n_whole: usize,
    /// Line and cell where the first and the last field with a line end open.
    first: Option<(u64, usize)>,
    last: (u64, usize),
}

impl<'b> Span<'b> {
    /// The lines of the row that begins `bytes`, on line `first_line`. `n_wanted` is how many cells
    /// the header has, once it is known.
    pub(super) fn new(bytes: &'b [u8], delimiter: u8, n_wanted: Option<usize>, first_line: u64) -> Self {
        Self { bytes, delimiter, n_wanted, first_line, n_ends: 0, line_start: 0, n_whole: 0, first: None, last: (first_line, 0) }
    }

    /// The line that has been come to.
    pub(super) fn line(&self) -> u64 {
        self.first_line + self.n_ends
    }

    /// Takes the line ends of a quoted field.
    pub(super) fn take_field(&mut self, opened: (u64, usize), start: usize, end: usize) -> Result<(), Wrong> {
        let mut n = 0;
        let mut at = start;
        while let Some(offset) = self.bytes[at..end].iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            if self.n_wanted.is_none() {
                return Err(wrong(opened, "a line end inside of a quoted column name: write the header on one line".to_owned()));
            }
            let is_inside = self.line_start > start;
            self.take_line(at + offset, is_inside)?;
            n += 1;
            if n > MAX_LINE_ENDS {
                let what = format!("the quoted field that begins here has more than {MAX_LINE_ENDS} line ends");
                return Err(wrong(opened, format!("{what}: {CLOSE_IT}")));
            }
            at += offset + line_end(&self.bytes[at + offset..end], true).unwrap_or(1);
            self.line_start = at;
            self.n_ends += 1;
            self.first.get_or_insert(opened);
            self.last = opened;
        }
        Ok(())
    }

    /// Takes the line that ends at `end`; where it is too much of a row, the field is to blame in which it begins.
    fn take_line(&mut self, end: usize, is_inside: bool) -> Result<(), Wrong> {
        let n_commas = memchr_iter(self.delimiter, &self.bytes[self.line_start..end]).count();
        let n_wanted = self.n_wanted.unwrap_or(0);
        if n_commas + 1 < n_wanted {
            return Ok(());
        }
        self.n_whole += 1;
        if !is_inside && self.n_whole < 2 {
            return Ok(());
        }
        let what = if n_wanted == 1 {
            "the quoted field that begins here has a line end, and in a file of one column every line is a row".to_owned()
        } else {
            format!(
                "the quoted field that begins here takes in line {}, which looks like a row ({n_commas} {})",
                self.line(),
                if self.delimiter == b',' { "commas" } else { "delimiters" }
            )
        };
        Err(wrong(self.last, format!("{what}: {CLOSE_IT} and a line end that is text as a blank")))
    }

    /// The row ends at `end`, and is `len` long with its line end.
    pub(super) fn finish(mut self, end: usize, len: usize) -> Result<Row, Wrong> {
        if self.n_ends > 0 {
            self.take_line(end, false)?;
        }
        Ok(Row { len, n_quoted: self.n_ends, first_quoted: self.first })
    }

    /// The fault of a quoted cell after whose mark there is more.
    pub(super) fn text_after_mark(&self, cell: usize) -> Wrong {
        let (line, at) = self.last;
        let opened =
            if at == cell && self.n_ends > 0 { format!(" of the field that begins on line {line}") } else { String::new() };
        let message = format!(
            "text after the closing quotation mark{opened}, wanted {} or a line end: write a quotation mark that is text \
             twice (\"\")",
            if self.delimiter == b',' { "a comma" } else { "a delimiter" }
        );
        wrong((self.line(), cell), message)
    }
}

/// Blames a cell.
pub(super) fn wrong((line, cell): (u64, usize), message: String) -> Wrong {
    Wrong { line, cell: Some(cell), message }
}
