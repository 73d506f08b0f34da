//! Rows of CSV.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use super::header::{Header, Plan};
use super::input::STDIN;
use super::records::{Dialect, Fault, Records, Tally};
use super::sink::{Sink, Slot};
use super::{Lines, MAX_COLUMNS, shown};
use crate::{At, Error, Result};

type Bytes = Box<dyn Read + Send>;

/// The rows of a CSV file.
pub(super) struct Reader {
    rows: Records<Bytes>,
    has_header: bool,
    /// The header line, cell by cell, to know it where it comes again.
    header: Vec<Vec<u8>>,
    /// Lines that repeat it.
    pub(super) n_headers: u64,
    names: Vec<String>,
    /// Whether the current row has been read and not yet been taken.
    is_pending: bool,
    /// Lines of totals after the rows.
    n_totals: u64,
    /// Where the rows begin that are taken.
    pub(super) begin_in: Range<u64>,
}

/// The line after which nfdump writes totals: the names of some sums, and the sums.
const TOTALS: &[u8] = b"Summary";
/// How these names begin.
const TOTALS_NAMES: [&[u8]; 3] = [b"flows", b"bytes", b"packets"];

impl Reader {
    /// Reads the header line, or the first row where there is none: then columns are named `wanted`.
    pub(super) fn open(
        path: &Path,
        bytes: Bytes,
        dialect: Dialect,
        has_header: bool,
        wanted: &[String],
    ) -> Result<(Header, Self)> {
        let mut rows = Records::new(bytes, dialect);
        if !rows.read().map_err(|fault| refused(path, fault, &[]))? {
            let message = "the file has blank lines only; wanted a header line and rows".to_owned();
            return Err(Error::data(path, At::File, None, message));
        }
        check_end(path, rows.line(), rows.is_cut())?;
        let at = At::Line(rows.line());
        let n_columns = rows.cells().len();
        if n_columns > MAX_COLUMNS {
            return Err(Error::data(path, at, None, format!("{n_columns} columns, wanted at most {MAX_COLUMNS}")));
        }
        let cells: Vec<Vec<u8>> = rows.cells().map(<[u8]>::to_vec).collect();
        let names = if has_header {
            // what is not UTF-8 may be a name that nobody asks for
            cells.iter().map(|name| String::from_utf8_lossy(name.trim_ascii()).trim().to_owned()).collect()
        } else {
            if n_columns > wanted.len() {
                let message = format!("{n_columns} cells and no header line, but the schema has {} columns", wanted.len());
                return Err(Error::data(path, at, None, message));
            }
            wanted[..n_columns].to_vec()
        };
        let header = Header { n_seen: names.len(), names, is_sparse: false, is_by_place: !has_header };
        let reader = Reader {
            rows,
            has_header,
            header: if has_header { cells } else { Vec::new() },
            n_headers: 0,
            names: header.names.clone(),
            is_pending: !has_header,
            n_totals: 0,
            begin_in: 0..u64::MAX,
        };
        Ok((header, reader))
    }

    /// Takes up to `max_rows` more rows; false at the end of the file.
    pub(super) fn fill(&mut self, path: &Path, plan: &Plan, sink: &mut Sink, max_rows: usize) -> Result<bool> {
        while !sink.is_full(max_rows) {
            if !std::mem::take(&mut self.is_pending) && !self.rows.read().map_err(|fault| refused(path, fault, &self.names))? {
                return Ok(false);
            }
            check_end(path, self.rows.line(), self.rows.is_cut())?;
            if self.rows.offset() >= self.begin_in.end {
                return Ok(false);
            }
            if self.is_header() {
                self.n_headers += 1;
                continue;
            }
            if self.is_totals() {
                self.pass_totals(path, sink)?;
                continue;
            }
            if self.rows.offset() < self.begin_in.start {
                sink.skip_rows(1);
                continue;
            }
            let line = At::Line(self.rows.line());
            if let Some(message) = self.rows.ragged() {
                sink.fault(None, "", message.to_owned());
                sink.end_row(path, line);
                continue;
            }
            if take(&self.rows, plan, sink) {
                sink.end_row(path, line);
            } else {
                sink.pass_row();
            }
        }
        Ok(true)
    }

    /// Whether the current row is the header line again.
    fn is_header(&self) -> bool {
        let mut header = self.header.iter();
        header.next().is_some_and(|first| self.rows.cells().next() == Some(first))
            && self.rows.cells().len() == self.header.len()
            && self.rows.cells().skip(1).zip(header).all(|(cell, name)| cell == name)
    }

    /// Whether the current row is the line that totals come after.
    fn is_totals(&self) -> bool {
        self.rows.ragged().is_some() && self.rows.cells().len() == 1 && self.rows.cell(0).trim_ascii() == TOTALS
    }

    /// Passes over the line `Summary`, the names of the sums and the sums. Where other lines come after the first, it is a row like
    /// any, with too few cells: a text cannot make the rows below it disappear.
    fn pass_totals(&mut self, path: &Path, sink: &mut Sink) -> Result<()> {
        let line = At::Line(self.rows.line());
        let is_before = self.rows.offset() < self.begin_in.start;
        let message = self.rows.ragged().unwrap_or_default().to_owned();
        self.is_pending = self.rows.read().map_err(|fault| refused(path, fault, &self.names))?;
        let names = self.rows.cells().map(<[u8]>::trim_ascii).take(TOTALS_NAMES.len());
        if !self.is_pending || !names.eq(TOTALS_NAMES) {
            if is_before {
                sink.skip_rows(1);
                return Ok(());
            }
            sink.fault(None, "", message);
            sink.end_row(path, line);
            return Ok(());
        }
        let n_sums = self.rows.cells().len();
        self.n_totals += 2;
        self.is_pending = self.rows.read().map_err(|fault| refused(path, fault, &self.names))?;
        let is_sum = |cell: &[u8]| std::str::from_utf8(cell).is_ok_and(|cell| cell.trim().parse::<f64>().is_ok());
        if self.is_pending && self.rows.cells().len() == n_sums && self.rows.cells().all(is_sum) {
            self.n_totals += 1;
            self.is_pending = false;
        }
        Ok(())
    }

    /// Where the lines went that have been read.
    pub(super) fn lines(&self) -> Lines {
        let Tally { rows, blank, comments, quoted, quoted_rows, first_quoted } = *self.rows.tally();
        Lines {
            total: self.rows.tally().lines(),
            rows: rows - u64::from(self.has_header) - self.n_headers - self.n_totals,
            blank,
            comments,
            headers: self.n_headers,
            totals: self.n_totals,
            quoted,
            quoted_rows,
            first_quoted: first_quoted.map(|(line, cell)| (line, self.names.get(cell).cloned().unwrap_or_default())),
        }
    }
}

/// Hands the cells of a row to where they go; false where a condition says that it is none.
fn take(rows: &Records<Bytes>, plan: &Plan, sink: &mut Sink) -> bool {
    for &(place, slot) in &plan.uses {
        let cell = rows.cell(place).trim_ascii();
        match slot {
            Slot::Where(condition) if !sink.is_wanted(condition, cell) => return false,
            Slot::Where(_) => {}
            Slot::SameAs(first) => {
                let other = rows.cell(first).trim_ascii();
                if cell != other {
                    sink.fault(Some(&plan.names[place]), &String::from_utf8_lossy(cell), differs(other, cell));
                }
            }
            _ => sink.push(slot, &plan.names[place], cell),
        }
    }
    plan.given.iter().for_each(|given| sink.push_given(given));
    true
}

/// Refuses a last line of standard input that does not end: what wrote it may have been stopped in the middle of a cell.
pub(super) fn check_end(path: &Path, line: u64, is_cut: bool) -> Result<()> {
    if !is_cut || path != Path::new(STDIN) {
        return Ok(());
    }
    let message = "the last line has no line end: what wrote it may have been stopped; wanted a line end after every row";
    Err(Error::data(path, At::Line(line), None, message.to_owned()))
}

/// What is wrong with two columns of one name.
pub(super) fn differs(first: &[u8], other: &[u8]) -> String {
    let [first, other] = [first, other].map(|cell| shown(&String::from_utf8_lossy(cell)));
    format!("\"{first}\" and \"{other}\" in two columns that stand for one: rename one of them, or take it out of `aliases`")
}

/// A fault with the name of its column, which a fault of the header's has none of.
pub(super) fn refused(path: &Path, fault: Fault, header: &[String]) -> Error {
    match fault {
        Fault::Io(source) => Error::Io { path: path.to_owned(), source },
        Fault::Row(wrong) => {
            let column = wrong.cell.and_then(|cell| header.get(cell)).map(String::as_str);
            Error::data(path, At::Line(wrong.line), column, wrong.message)
        }
    }
}
