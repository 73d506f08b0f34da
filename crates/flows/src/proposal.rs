//! A schema for files of which nothing is known.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::path::{Path, PathBuf};

use crate::nearest::{folded, nearest};
use crate::reader::cells::Rules;
use crate::reader::raw::RawReader;
use crate::reader::{is_stdin, shown};
use crate::{At, CellRules, ColumnKind, Encoding, Error, Result, Schema};
use stats::Column;

mod judge;
mod known;
mod names;
mod stats;
mod yaml;

pub use yaml::scalar as yaml_scalar;

/// Rows that are looked at, and cells: 8 bytes are kept of each.
const MAX_ROWS: usize = 100_000;
const MAX_CELLS: usize = 8_000_000;

/// How a schema is proposed.
#[derive(Debug, Clone, Default)]
pub struct ProposalOptions {
    /// The column that says what is an attack, where it is not to be found by its name.
    pub label: Option<String>,
    /// How text files are written.
    pub encoding: Option<Encoding>,
}

/// A schema that was found for some files.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The schema as YAML, with comments.
    pub yaml: String,
    /// The built-in schema that it is.
    pub builtin: Option<&'static str>,
    /// Whether rows have labels.
    pub has_labels: bool,
    /// What to know before it is used, a line each.
    pub warnings: Vec<String>,
}

/// Files that have been looked at.
struct Table {
    columns: Vec<Column>,
    /// Columns of each file, as it names them.
    headers: Vec<Vec<String>>,
    n_rows: usize,
    /// Whether all rows were looked at.
    is_whole: bool,
    has_header: bool,
    is_sparse: bool,
    /// What the files are, where it is written in the schema.
    encoding: Option<Encoding>,
    /// How the first file is written, in words.
    notes: Vec<String>,
    n_unnamed: usize,
    n_rejected: u64,
    why_rejected: Option<String>,
}

/// Looks at files, and proposes a schema: the built-in one whose columns they have, else one of what is in the columns.
///
/// # Panics
/// If there are no files.
pub fn propose(files: &[PathBuf], options: &ProposalOptions) -> Result<Proposal> {
    assert!(!files.is_empty(), "there are files to look at");
    let mut rules = Rules::new(&CellRules::default());
    let table = match (look(files, &mut rules, options.encoding)?, options.encoding) {
        (table, None) if table.n_not_utf8 > 0 => {
            if files.iter().any(|file| is_stdin(&file.to_string_lossy())) {
                let message = "texts that are not UTF-8; say how they are written: `--encoding windows-1252`";
                return Err(Error::data(&files[0], At::File, None, message.to_owned()));
            }
            let encoding = Some(Encoding::Windows1252);
            Table { encoding, ..look(files, &mut rules, encoding)?.table }
        }
        (looked, encoding) => Table { encoding: encoding.filter(|found| *found == Encoding::Windows1252), ..looked.table },
    };
    if let Some(label) = &options.label
        && !table.columns.iter().any(|column| folded(&column.name) == folded(label))
    {
        let hint = nearest(label, table.columns.iter().map(|column| column.name.as_str()));
        let hint = hint.map_or_else(String::new, |name| format!("; did you mean \"{}\"?", shown(name)));
        return Err(Error::data(
            &files[0],
            At::File,
            None,
            format!("no column \"{}\", which `--label` names{hint}", shown(label)),
        ));
    }
    if let Some(proposal) = known::recognise(&table, options, files) {
        return Ok(proposal);
    }
    let judged = judge::judge(&table, &rules, options.label.as_deref(), &files[0])?;
    let yaml = yaml::write(&table, &judged, files);
    Schema::parse("the proposal", &yaml)?;
    Ok(Proposal { yaml, builtin: None, has_labels: judged.has_labels(), warnings: judged.warnings })
}

struct Looked {
    table: Table,
    n_not_utf8: u64,
}

fn look(files: &[PathBuf], rules: &mut Rules, encoding: Option<Encoding>) -> Result<Looked> {
    let mut columns: Vec<Column> = Vec::new();
    // by folded name
    let mut index: HashMap<String, usize> = HashMap::new();
    let mut headers = Vec::new();
    let mut first: Option<RawFacts<'_>> = None;
    let (mut n_rows, mut n_unnamed, mut n_not_utf8, mut n_rejected) = (0, 0, 0, 0);
    let (mut is_whole, mut is_sparse, mut why_rejected) = (true, false, None);
    for path in files {
        let mut reader = RawReader::open(path, encoding)?;
        reader.missing.iter().for_each(|spelling| rules.add_missing(spelling));
        let facts = RawFacts { path, has_header: reader.has_header, n_columns: reader.names.len(), notes: reader.notes.clone() };
        let first: &RawFacts<'_> = first.get_or_insert(facts.clone());
        if (first.has_header, first.n_columns) != (facts.has_header, facts.n_columns) && !(first.has_header && facts.has_header) {
            return Err(other_header(first, &facts));
        }
        is_sparse |= reader.is_sparse;
        // place in `columns` of each column of the file; a second one of a name is compared with the first
        let mut places: Vec<Option<usize>> = Vec::new();
        let mut again: Vec<(usize, usize)> = Vec::new();
        let mut here: HashMap<usize, usize> = HashMap::new();
        for (at, name) in reader.names.iter().enumerate() {
            if name.trim().is_empty() {
                n_unnamed += usize::from(headers.is_empty());
                places.push(None);
                continue;
            }
            let place = match index.entry(folded(name)) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => {
                    columns.push(Column::new(name.trim(), n_rows));
                    *entry.insert(columns.len() - 1)
                }
            };
            if let Some(&first) = here.get(&place) {
                again.push((first, at));
                places.push(None);
                continue;
            }
            here.insert(place, at);
            columns[place].n_files += 1;
            columns[place].is_readable &= reader.is_readable[at];
            places.push(Some(place));
        }
        let share = (MAX_ROWS.min(MAX_CELLS / columns.len().max(1)) / files.len()).max(1);
        let mut left = share;
        while left > 0 {
            let Some(batch) = reader.next_batch(left)? else { break };
            let n = batch.iter().map(Vec::len).max().unwrap_or(0);
            left -= n.min(left);
            for (cells, place) in batch.iter().zip(&places) {
                if let Some(place) = place {
                    for cell in cells {
                        columns[*place].push(rules, cell.trim());
                    }
                }
            }
            for (first, other) in &again {
                let place = places[*first].expect("a name was seen");
                columns[place].differs |= batch[*first].iter().zip(&batch[*other]).any(|(a, b)| a.trim() != b.trim());
            }
            n_rows += n;
            for column in &mut columns {
                column.push_absent(n_rows - column.n_rows());
            }
        }
        is_whole &= left > 0 || reader.next_batch(1)?.is_none();
        n_not_utf8 += reader.n_not_utf8();
        n_rejected += reader.n_rejected();
        why_rejected = why_rejected.or_else(|| reader.why_rejected());
        headers.push(reader.names);
    }
    if n_rows == 0 {
        let why = why_rejected.map_or_else(String::new, |why| format!(" that can be read: {why}"));
        return Err(Error::data(&files[0], At::File, None, format!("no rows{why}")));
    }
    let first = first.expect("there are files");
    let (has_header, notes) = (first.has_header, first.notes);
    let encoding = None;
    let table =
        Table { columns, headers, n_rows, is_whole, has_header, is_sparse, encoding, notes, n_unnamed, n_rejected, why_rejected };
    Ok(Looked { table, n_not_utf8 })
}

#[derive(Clone)]
struct RawFacts<'p> {
    path: &'p Path,
    has_header: bool,
    n_columns: usize,
    notes: Vec<String>,
}

fn other_header(first: &RawFacts<'_>, other: &RawFacts<'_>) -> Error {
    let what =
        |facts: &RawFacts<'_>| format!("{} columns, {} header line", facts.n_columns, if facts.has_header { "a" } else { "no" });
    let message = format!("{}; {} has {}: name files of one kind", what(other), first.path.display(), what(first));
    Error::data(other.path, At::File, None, message)
}

/// Values by how often they occur, as they are shown in a comment.
fn counted(words: &BTreeMap<String, u64>) -> String {
    const SHOWN: usize = 10;
    let mut words: Vec<(&String, &u64)> = words.iter().collect();
    words.sort_by_key(|(word, n)| (std::cmp::Reverse(**n), *word));
    let more = words.len().saturating_sub(SHOWN);
    let mut text: Vec<String> = words.iter().take(SHOWN).map(|(word, n)| format!("\"{}\" ({n})", shown(word))).collect();
    if more > 0 {
        text.push(format!("{more} more"));
    }
    text.join(", ")
}

impl Table {
    fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| folded(&column.name) == folded(name))
    }
}

/// What a column is proposed to be, and why.
struct Judged {
    /// Kind of each column of the table.
    kinds: Vec<ColumnKind>,
    /// Why, where it is no plain feature.
    why: Vec<Option<String>>,
    id: Option<usize>,
    labels: Option<judge::Words>,
    /// Spellings of a missing cell beside the usual ones.
    missing: Vec<String>,
    has_infinite: bool,
    warnings: Vec<String>,
}

impl Judged {
    fn has_labels(&self) -> bool {
        self.kinds.contains(&ColumnKind::Label)
    }
}
