//! What a file of text is: its first 64 KiB tell.

use std::net::{IpAddr, SocketAddr};

use memchr::memchr;

use super::records::{Dialect, Records};
use crate::nearest::folded;
use crate::{ColumnKind, Schema};

use super::cells::{Number, Rules};

const DELIMITERS: [u8; 4] = [b',', b'\t', b';', b'|'];
/// Comment lines before the header, at most.
const MAX_PREAMBLE: u64 = 1000;

/// What a text file holds.
#[derive(Debug)]
pub(super) enum Format {
    /// Objects of JSON, one after the other or in a list.
    Json,
    /// A log of Zeek, with lines that begin with `#` and say what its columns are.
    Zeek,
    Csv(Csv),
    /// Not flows; what it looks like and what to do.
    Stranger(&'static str),
}

/// How rows are written.
#[derive(Debug)]
pub(super) struct Csv {
    pub(super) dialect: Dialect,
    pub(super) has_header: bool,
    /// Words on what was found that is not the usual.
    pub(super) notes: Vec<String>,
}

/// Looks at the first bytes of a file that is to have the columns of `schema`, or any columns.
pub(super) fn sniff(head: &[u8], schema: Option<&Schema>) -> Format {
    let start = head.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(head.len());
    let begins =
        |text: &str| head[start..].len() >= text.len() && head[start..start + text.len()].eq_ignore_ascii_case(text.as_bytes());
    if begins("{") || begins("[") {
        return Format::Json;
    }
    if begins("#separator") {
        return Format::Zeek;
    }
    for html in ["<!doctype", "<html", "<?xml", "<head"] {
        if begins(html) {
            return Format::Stranger("a web page or XML, not flows: was a download page saved instead of the file?");
        }
    }
    let text = String::from_utf8_lossy(&head[..head.len().min(4096)]);
    if text.lines().any(|line| line.trim_end() == "columns:") && text.lines().any(|line| line.starts_with("name:")) {
        return Format::Stranger("a schema, not flows: name it in `data.schema`");
    }
    Format::Csv(csv(head, schema))
}

fn csv(head: &[u8], schema: Option<&Schema>) -> Csv {
    let cells = schema.map(Schema::cells);
    let set = cells.and_then(|cells| cells.delimiter).map(|delimiter| delimiter as u8);
    let comment = cells.and_then(|cells| cells.comment).map(|comment| comment as u8);
    let mut notes = Vec::new();
    let mut n_preamble = 0;
    let mut separator = None;
    let mut rest = head;
    while n_preamble < MAX_PREAMBLE {
        let Some(end) = memchr(b'\n', rest) else { break };
        let line = rest[..end].trim_ascii();
        let names = |line: &[u8]| n_known(line, schema);
        if n_preamble == 0 && line.len() == 5 && line[..4].eq_ignore_ascii_case(b"sep=") {
            separator = Some(line[4]);
        } else if line.first() != Some(&b'#') || comment == Some(b'#') || names(&line[1..]) > 0 && names(line) > 0 {
            break;
        }
        n_preamble += 1;
        rest = &rest[end + 1..];
    }
    if n_preamble > 0 && separator.is_none() {
        notes.push(format!("{n_preamble} lines that begin with # are passed over"));
    }
    let delimiter = set.or(separator).unwrap_or_else(|| delimiter(rest, schema, comment));
    if delimiter != b',' && set.is_none() {
        let name = if delimiter == b'\t' { "tabs".to_owned() } else { format!("`{}`", delimiter as char) };
        notes.push(format!("cells are separated by {name}"));
    }
    let dialect = Dialect { delimiter, comment, n_preamble };
    let first_rows = Dialect { n_preamble: 0, ..dialect };
    let has_header = match schema {
        Some(schema) => has_header(rest, first_rows, schema),
        None => looks_like_header(&rows(rest, first_rows, 50)),
    };
    if !has_header && schema.is_some() {
        notes.push("no header line: columns are taken in the order of the schema".to_owned());
    }
    Csv { dialect, has_header, notes }
}

/// The first rows of the head, cells as text.
pub(super) fn rows(head: &[u8], dialect: Dialect, n: usize) -> Vec<Vec<String>> {
    // the last line may be cut
    let whole = head.iter().rposition(|byte| matches!(byte, b'\n' | b'\r')).map_or(head.len(), |end| end + 1);
    let mut records = Records::new(&head[..whole], dialect);
    let mut rows = Vec::new();
    while rows.len() < n && matches!(records.read(), Ok(true)) {
        rows.push(records.cells().map(|cell| String::from_utf8_lossy(cell.trim_ascii()).into_owned()).collect());
    }
    rows
}

/// How many cells of a line are names of the schema, by the delimiter that finds the most.
fn n_known(line: &[u8], schema: Option<&Schema>) -> usize {
    let Some(schema) = schema else { return 0 };
    let dialect = |delimiter| Dialect { delimiter, ..Dialect::default() };
    DELIMITERS.iter().map(|&delimiter| count_known(&first_row(line, dialect(delimiter)), schema)).max().unwrap_or(0)
}

fn first_row(head: &[u8], dialect: Dialect) -> Vec<String> {
    rows(head, dialect, 1).pop().unwrap_or_default()
}

fn count_known(names: &[String], schema: &Schema) -> usize {
    let known: std::collections::BTreeSet<String> = schema.columns().iter().flat_map(crate::Column::names).map(folded).collect();
    names.iter().filter(|name| known.contains(&folded(name))).count()
}

/// The delimiter that finds the most names of the schema in the first line; else the one by which the first lines have the same
/// number of cells, and the most.
fn delimiter(head: &[u8], schema: Option<&Schema>, comment: Option<u8>) -> u8 {
    let dialect = |delimiter| Dialect { delimiter, comment, n_preamble: 0 };
    let score = |&delimiter: &u8| {
        let rows = rows(head, dialect(delimiter), 20);
        let known = schema.map_or(0, |schema| rows.first().map_or(0, |names| count_known(names, schema)));
        let width = rows.first().map_or(0, Vec::len);
        let is_even = rows.iter().all(|row| row.len() == width);
        (known, is_even && width > 1, if width > 1 { width } else { 0 })
    };
    // of those that do alike, the first
    DELIMITERS.iter().rev().copied().max_by_key(score).unwrap_or(b',')
}

/// Whether the first row names columns. It does unless the schema says otherwise, or it has as many cells as the schema has columns,
/// no name of the schema, and a number wherever the schema has one.
fn has_header(head: &[u8], dialect: Dialect, schema: &Schema) -> bool {
    let first = first_row(head, dialect);
    // a row may hold a text that is some column's name
    let known = count_known(&first, schema);
    if known >= 2 || 2 * known > first.len() {
        return true;
    }
    if schema.cells().header == Some(false) {
        return false;
    }
    if schema.cells().header == Some(true) || first.len() != schema.columns().len() {
        return true;
    }
    let rules = Rules::new(schema.cells());
    let is_number = |cell: &str| rules.number(cell) != Number::Unreadable;
    let mut numeric = schema.columns().iter().zip(&first).filter(|(column, _)| column.kind == ColumnKind::Numeric).peekable();
    numeric.peek().is_none() || numeric.any(|(_, cell)| !is_number(cell))
}

/// Whether the first of some rows names columns that nobody knows. It does not where a cell of it is a value: a number, an address, a
/// date. Names that are numbers count the columns from 0, as pandas writes them. Where all cells are texts, the first row is one of
/// the others if most of its cells come again below them.
fn looks_like_header(rows: &[Vec<String>]) -> bool {
    let Some((first, rest)) = rows.split_first() else { return true };
    if first.len() > 1 && first.iter().enumerate().all(|(place, cell)| *cell == place.to_string()) {
        return true;
    }
    if first.iter().any(|cell| is_value(cell)) {
        return false;
    }
    let comes_again = |place: usize, cell: &str| {
        !cell.is_empty() && rest.iter().filter(|row| *row != first).any(|row| row.get(place).is_some_and(|c| c == cell))
    };
    let n_again = first.iter().enumerate().filter(|(place, cell)| comes_again(*place, cell)).count();
    2 * n_again <= first.len()
}

fn is_value(cell: &str) -> bool {
    let is_number = cell.parse::<f64>().is_ok_and(f64::is_finite) || cell.starts_with("0x");
    is_number || is_address(cell) || is_moment(cell)
}

/// Whether a text is an IP address, with or without a port or a mask, or a hardware address.
pub(crate) fn is_address(text: &str) -> bool {
    let plain = text.split_once('/').map_or(text, |(address, _)| address);
    let is_mac = || {
        let mut bytes = text.split([':', '-']);
        text.len() == 17
            && bytes.clone().count() == 6
            && bytes.all(|byte| byte.len() == 2 && byte.chars().all(|c| c.is_ascii_hexdigit()))
    };
    plain.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok() || is_mac()
}

/// Whether a text is a date, with or without time, however its parts are ordered.
pub(crate) fn is_moment(text: &str) -> bool {
    let text = text.trim();
    let is_mark = |c: char| matches!(c, '-' | '/' | ':' | '.' | ' ' | 'T' | 'Z' | '+' | ',' | 'A' | 'P' | 'M');
    if !(8..=40).contains(&text.len()) || !text.chars().all(|c| c.is_ascii_digit() || is_mark(c)) {
        return false;
    }
    let date = text.split([' ', 'T']).next().unwrap_or(text);
    let Some(mark) = date.chars().find(|c| matches!(c, '-' | '/' | '.')) else { return false };
    let parts: Vec<&str> = date.split(mark).collect();
    let [first, second, third] = parts[..] else { return false };
    let number = |part: &str| part.parse::<u32>().ok();
    let is_year = |part: &str| part.len() == 4 && number(part).is_some_and(|year| (1970..=2199).contains(&year));
    let is_day = |part: &str| part.len() <= 2 && number(part).is_some_and(|day| (1..=31).contains(&day));
    is_day(second) && (is_year(first) && is_day(third) || is_day(first) && (is_year(third) || mark == '/' && third.len() == 2))
}
