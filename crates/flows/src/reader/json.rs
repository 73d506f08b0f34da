//! Objects of JSON, one a line or in a list, as Zeek, Suricata, nfdump and others write them. What is nested has names with dots:
//! `{"flow": {"bytes": 7}}` is the column `flow.bytes`.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::header::{Header, Plan};
use super::input::HEAD;
use super::sink::{Sink, Slot};
use super::{Lines, shown};
use crate::nearest::folded;
use crate::{At, Error, Result};

/// The longest object, in bytes.
const MAX_OBJECT: usize = 1 << 20;
/// How deep objects nest; those of Suricata have four levels.
const MAX_DEPTH: usize = 16;
/// Columns that are told apart.
const MAX_COLUMNS: usize = 1 << 12;

type Bytes = Box<dyn Read + Send>;

/// The objects of a file.
pub(super) struct Reader {
    bytes: Bytes,
    buffer: Vec<u8>,
    /// Where in the buffer the next object may begin.
    next: usize,
    is_at_end: bool,
    /// Lines before `next`.
    n_lines: u64,
    n_rows: u64,
    /// Bytes of the file before those of the buffer.
    n_bytes: u64,
    /// Where the rows begin that are taken.
    pub(super) begin_in: Range<u64>,
    /// The lines on which lists begin that are not closed yet, as far as the objects are in one.
    lists: Vec<u64>,
    /// Place of each column by its name.
    places: HashMap<String, usize>,
    cells: Vec<Cell>,
    texts: Vec<u8>,
}

/// A cell of the current object in `texts`.
#[derive(Clone, Default)]
struct Cell {
    is_there: bool,
    range: Range<usize>,
}

impl Reader {
    /// Finds the names that the first objects have; those of `wanted` may come later.
    pub(super) fn open(path: &Path, head: &[u8], bytes: Bytes, wanted: impl Iterator<Item = String>) -> Result<(Header, Self)> {
        let mut reader = Reader { bytes, ..Reader::empty() };
        let mut names = BTreeSet::new();
        let mut ahead = Reader { bytes: Box::new(std::io::Cursor::new(head.to_vec())), ..Reader::empty() };
        // the last object of the head may be cut
        while let Ok(Some((object, line))) = ahead.next_object(path) {
            let mut found = Names { path: String::new(), names: &mut names };
            let parsed = parse(&ahead.buffer[object], &mut found);
            if let (Err(error), true) = (parsed, head.len() < HEAD || names.is_empty()) {
                return Err(bad_object(path, line, &error));
            }
        }
        if names.is_empty() {
            let message = "JSON without an object of names and values in its first 64 KiB; wanted an object a flow".to_owned();
            return Err(Error::data(path, At::File, None, message));
        }
        let mut names: Vec<String> = names.into_iter().collect();
        let n_seen = names.len();
        reader.places = names.iter().enumerate().map(|(place, name)| (folded(name), place)).collect();
        for name in wanted {
            if let Entry::Vacant(entry) = reader.places.entry(folded(&name)) {
                entry.insert(names.len());
                names.push(name);
            }
        }
        reader.cells = vec![Cell::default(); names.len()];
        Ok((Header { names, n_seen, is_sparse: true, is_by_place: false }, reader))
    }

    fn empty() -> Self {
        Reader {
            bytes: Box::new(std::io::empty()),
            buffer: Vec::new(),
            next: 0,
            is_at_end: false,
            n_lines: 0,
            n_rows: 0,
            n_bytes: 0,
            begin_in: 0..u64::MAX,
            lists: Vec::new(),
            places: HashMap::new(),
            cells: Vec::new(),
            texts: Vec::new(),
        }
    }

    /// Takes up to `max_rows` more rows; false at the end of the file.
    pub(super) fn fill(&mut self, path: &Path, plan: &Plan, sink: &mut Sink, max_rows: usize) -> Result<bool> {
        while !sink.is_full(max_rows) {
            let Some((object, line)) = self.next_object(path)? else { return Ok(false) };
            self.n_rows += 1;
            let offset = self.n_bytes + object.start as u64;
            if offset >= self.begin_in.end {
                return Ok(false);
            }
            if offset < self.begin_in.start {
                sink.skip_rows(1);
                continue;
            }
            self.cells.iter_mut().for_each(|cell| cell.is_there = false);
            self.texts.clear();
            let mut found = Filled { path: String::new(), places: &self.places, cells: &mut self.cells, texts: &mut self.texts };
            if let Err(error) = parse(&self.buffer[object], &mut found) {
                sink.fault(None, "", format!("not an object of JSON: {error}"));
                sink.end_row(path, At::Line(line));
            } else if self.take(plan, sink) {
                sink.end_row(path, At::Line(line));
            } else {
                sink.pass_row();
            }
        }
        Ok(true)
    }

    fn take(&self, plan: &Plan, sink: &mut Sink) -> bool {
        for &(place, slot) in &plan.uses {
            match slot {
                Slot::Where(condition) => {
                    if !self.either(plan, place).is_some_and(|text| sink.is_wanted(condition, text)) {
                        return false;
                    }
                }
                // names of one column: rows have the one or the other
                Slot::SameAs(_) => {}
                _ => match self.either(plan, place) {
                    Some(text) => sink.push(slot, &plan.names[place], text),
                    None => sink.push_missing(slot),
                },
            }
        }
        plan.given.iter().for_each(|given| sink.push_given(given));
        true
    }

    /// The cell of a column, by whichever of its names the object has.
    fn either(&self, plan: &Plan, place: usize) -> Option<&[u8]> {
        let others = plan.uses.iter().filter(|(_, slot)| *slot == Slot::SameAs(place)).map(|(other, _)| *other);
        let cell = std::iter::once(place).chain(others).map(|place| &self.cells[place]).find(|cell| cell.is_there)?;
        Some(self.texts[cell.range.clone()].trim_ascii())
    }

    /// The bytes of the next object in the buffer, and the line on which it begins; between objects there may be blanks, commas and
    /// the marks of a list.
    fn next_object(&mut self, path: &Path) -> Result<Option<(Range<usize>, u64)>> {
        loop {
            while let Some(byte) = self.buffer.get(self.next) {
                match byte {
                    b'\n' => self.n_lines += 1,
                    b'[' if self.lists.len() < MAX_DEPTH => self.lists.push(self.n_lines + 1),
                    b']' => drop(self.lists.pop()),
                    b' ' | b'\t' | b'\r' | b',' | b'\xef' | b'\xbb' | b'\xbf' | b'\x1e' => {}
                    _ => break,
                }
                self.next += 1;
            }
            let line = self.n_lines + 1;
            match self.buffer.get(self.next) {
                Some(b'{') => {
                    if let Some(len) = object_len(&self.buffer[self.next..]) {
                        let object = self.next..self.next + len;
                        self.n_lines += memchr::memchr_iter(b'\n', &self.buffer[object.clone()]).count() as u64;
                        self.next = object.end;
                        return Ok(Some((object, line)));
                    }
                    if self.is_at_end {
                        let message = "the object that begins here is not closed".to_owned();
                        return Err(Error::data(path, At::Line(line), None, message));
                    }
                    if self.buffer.len() - self.next > MAX_OBJECT {
                        let message = format!("an object of more than {MAX_OBJECT} bytes");
                        return Err(Error::data(path, At::Line(line), None, message));
                    }
                }
                Some(_) => {
                    let rest = &self.buffer[self.next..];
                    let found = String::from_utf8_lossy(&rest[..rest.len().min(80)]);
                    let message = format!("wanted an object of JSON, which begins with {{, found \"{}\"", shown(&found));
                    return Err(Error::data(path, At::Line(line), None, message));
                }
                None if self.is_at_end => {
                    let message = "the list that begins here is not closed: the file was cut short".to_owned();
                    let cut = |line: &u64| Error::data(path, At::Line(*line), None, message);
                    return self.lists.last().map_or(Ok(None), |line| Err(cut(line)));
                }
                None => {}
            }
            self.buffer.drain(..self.next);
            self.n_bytes += self.next as u64;
            self.next = 0;
            let n = self.buffer.len();
            let read = (&mut self.bytes).take(1 << 18).read_to_end(&mut self.buffer);
            read.map_err(|source| Error::Io { path: path.to_owned(), source })?;
            self.is_at_end = self.buffer.len() == n;
        }
    }

    /// Where the lines went that have been read.
    pub(super) fn lines(&self) -> Lines {
        let total = self.n_lines;
        Lines {
            total,
            rows: self.n_rows,
            blank: 0,
            comments: 0,
            headers: 0,
            totals: 0,
            quoted: 0,
            quoted_rows: 0,
            first_quoted: None,
        }
    }
}

fn bad_object(path: &Path, line: u64, error: &serde_json::Error) -> Error {
    Error::data(path, At::Line(line), None, format!("not an object of JSON: {error}"))
}

/// Length of the object that begins `bytes`; None where it goes on beyond them.
fn object_len(bytes: &[u8]) -> Option<usize> {
    let (mut depth, mut is_text, mut is_escaped) = (0_usize, false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'{' if !is_text => depth += 1,
            b'}' if !is_text => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

fn parse(object: &[u8], to: &mut impl Leaves) -> serde_json::Result<()> {
    let mut from = serde_json::Deserializer::from_slice(object);
    Node { to, depth: 0 }.deserialize(&mut from)
}

/// Takes what an object holds.
trait Leaves {
    /// The dotted name that has been come to.
    fn path(&mut self) -> &mut String;
    /// Its value.
    fn leaf(&mut self, text: &str);
}

struct Names<'n> {
    path: String,
    names: &'n mut BTreeSet<String>,
}

impl Leaves for Names<'_> {
    fn path(&mut self) -> &mut String {
        &mut self.path
    }

    fn leaf(&mut self, _: &str) {
        if self.names.len() < MAX_COLUMNS && !self.names.contains(&self.path) {
            self.names.insert(self.path.clone());
        }
    }
}

struct Filled<'c> {
    path: String,
    places: &'c HashMap<String, usize>,
    cells: &'c mut Vec<Cell>,
    texts: &'c mut Vec<u8>,
}

impl Leaves for Filled<'_> {
    fn path(&mut self) -> &mut String {
        &mut self.path
    }

    fn leaf(&mut self, text: &str) {
        let place = self.places.get(&self.path).or_else(|| self.places.get(&folded(&self.path)));
        if let Some(&place) = place {
            let start = self.texts.len();
            self.texts.extend_from_slice(text.as_bytes());
            self.cells[place] = Cell { is_there: true, range: start..self.texts.len() };
        }
    }
}

struct Node<'l, L> {
    to: &'l mut L,
    depth: usize,
}

impl<'de, L: Leaves> DeserializeSeed<'de> for Node<'_, L> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de, L: Leaves> Visitor<'de> for Node<'_, L> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts, numbers and objects")
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<(), E> {
        self.to.leaf(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<(), E> {
        self.to.leaf(&value.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<(), E> {
        self.to.leaf(&value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<(), E> {
        self.to.leaf(&value.to_string());
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<(), E> {
        self.to.leaf(value);
        Ok(())
    }

    /// `null`: as if the name were not there.
    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    /// A list has its texts and numbers with commas between.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        let mut items = Items(String::new());
        while let Some(()) = list.next_element_seed(Node { to: &mut items, depth: MAX_DEPTH })? {}
        self.to.leaf(&items.0);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        if self.depth == MAX_DEPTH {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        let len = self.to.path().len();
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if len > 0 {
                self.to.path().push('.');
            }
            self.to.path().push_str(&key);
            if self.to.path().len() > MAX_OBJECT {
                return Err(A::Error::custom("names nested too deep"));
            }
            map.next_value_seed(Node { to: self.to, depth: self.depth + 1 })?;
            self.to.path().truncate(len);
        }
        Ok(())
    }
}

/// The items of a list as one text.
struct Items(String);

impl Leaves for Items {
    fn path(&mut self) -> &mut String {
        unreachable!("objects in lists are passed over")
    }

    fn leaf(&mut self, text: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(text);
    }
}
