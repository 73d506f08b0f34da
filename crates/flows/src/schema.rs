use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use saphyr_parser::{Event, Parser};
use serde::{Deserialize, Serialize};

use crate::nearest::{folded, nearest};
use crate::{Error, LabelWords, Result};

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnKind {
    /// A feature: a finite number.
    Numeric,
    /// A feature: a short text out of a vocabulary.
    Categorical,
    /// Not a feature: read by nobody, except as the row's name.
    Ignored,
    /// A moment, as when the flow began. Not a feature: what a model learns of it holds for the days of training alone.
    Time,
    /// Whether the flow is benign or an attack, in the words of [`LabelWords`].
    Label,
    /// The kind of attack as text, for reports; never a feature.
    Category,
}

/// One column of a data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Name in the file's header; case and surrounding blanks do not count.
    pub name: String,
    /// What the column is for.
    pub kind: ColumnKind,
    /// Whether a file may lack it; then its cells are missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Other names of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// The columns of a data set. The features keep the order in which the schema lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Schema {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(flatten)]
    cells: CellRules,
    columns: Vec<Column>,
}

/// A schema as written, before it is checked.
#[derive(Deserialize)]
#[serde(rename = "schema", deny_unknown_fields)]
struct Raw {
    name: String,
    id: Option<String>,
    header: Option<bool>,
    delimiter: Option<char>,
    comment: Option<char>,
    encoding: Option<Encoding>,
    #[serde(rename = "where")]
    only: Option<BTreeMap<String, Vec<String>>>,
    missing: Option<Vec<String>>,
    infinite: Option<Infinite>,
    labels: Option<LabelWords>,
    columns: Vec<Column>,
}

/// How the cells of a data set are written; what is not said is found by looking at the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CellRules {
    /// Whether text files begin with the names of their columns; without them, columns stand in the order of the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// What separates cells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// With what lines begin that are no rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<char>,
    /// How letters are written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// Rows are those whose column has one of the values; others are passed over and counted.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub only: Option<BTreeMap<String, Vec<String>>>,
    /// Texts that stand for a missing cell, and numbers, which are compared by value; without a list, the usual ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<Vec<String>>,
    /// What an infinite number is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infinite: Option<Infinite>,
    /// What labels stand for; without a list, 0 and 1 and the usual words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelWords>,
}

/// How the letters of a text file are written. UTF-16 is told by the mark it begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// What nearly all programs write.
    #[serde(rename = "utf-8")]
    Utf8,
    /// What older programs of Windows write; Latin-1 is a part of it.
    #[serde(rename = "windows-1252", alias = "latin-1", alias = "latin1", alias = "iso-8859-1", alias = "cp1252")]
    Windows1252,
}

/// What an infinite number is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Infinite {
    /// A missing cell.
    #[default]
    Missing,
    /// A number above, or below, all that training has seen.
    Clip,
}

/// The schemas that ship, by name.
const BUILTIN: [(&str, &str); 12] = [
    ("unsw-nb15", include_str!("../../../configs/schemas/unsw-nb15.yaml")),
    ("unsw-nb15-raw", include_str!("../../../configs/schemas/unsw-nb15-raw.yaml")),
    ("nsl-kdd", include_str!("../../../configs/schemas/nsl-kdd.yaml")),
    ("cicflowmeter", include_str!("../../../configs/schemas/cicflowmeter.yaml")),
    ("cicflowmeter-python", include_str!("../../../configs/schemas/cicflowmeter-python.yaml")),
    ("netflow-v1", include_str!("../../../configs/schemas/netflow-v1.yaml")),
    ("netflow-v2", include_str!("../../../configs/schemas/netflow-v2.yaml")),
    ("zeek-conn", include_str!("../../../configs/schemas/zeek-conn.yaml")),
    ("suricata-flow", include_str!("../../../configs/schemas/suricata-flow.yaml")),
    ("nfdump", include_str!("../../../configs/schemas/nfdump.yaml")),
    ("goflow2", include_str!("../../../configs/schemas/goflow2.yaml")),
    ("argus", include_str!("../../../configs/schemas/argus.yaml")),
];

/// A schema larger than this is some other file; one of 100 columns has 5 KB.
const MAX_BYTES: usize = 1 << 18;

/// Columns are mappings in a list in a mapping.
const MAX_DEPTH: usize = 8;

impl Schema {
    /// A schema that ships inside the binary; [`Schema::builtin_names`] has their names.
    #[expect(clippy::missing_panics_doc, reason = "a test parses every schema that ships")]
    pub fn builtin(name: &str) -> Option<Schema> {
        Some(serde_yaml::from_str(Schema::builtin_text(name)?).expect("it ships parsed"))
    }

    /// Names of the schemas that ship inside the binary.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(name, _)| *name)
    }

    /// The text of a schema that ships.
    pub(crate) fn builtin_text(name: &str) -> Option<&'static str> {
        BUILTIN.iter().find(|(builtin, _)| *builtin == name).map(|(_, text)| *text)
    }

    /// The built-in schema of that name, else the schema in the file of that path.
    pub fn resolve(name_or_path: &str) -> Result<Schema> {
        if let Some(schema) = Schema::builtin(name_or_path) {
            return Ok(schema);
        }
        if Path::new(name_or_path).exists() {
            return Schema::load(Path::new(name_or_path));
        }
        let names: Vec<&str> = Schema::builtin_names().collect();
        let hint =
            nearest(name_or_path, names.iter().copied()).map_or_else(String::new, |name| format!("did you mean `{name}`? "));
        Err(Error::Schema {
            origin: format!("schema `{name_or_path}`"),
            line: None,
            message: format!("neither a built-in schema nor a file; {hint}built in are `{}`", names.join("`, `")),
        })
    }

    /// No columns at all: what files are read by of which nothing is known.
    pub(crate) fn none() -> Schema {
        Schema { name: String::new(), id: None, cells: CellRules::default(), columns: Vec::new() }
    }

    /// Reads a schema file.
    pub fn load(path: &Path) -> Result<Schema> {
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_string(&mut text));
        read.map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Schema::parse(&path.display().to_string(), &text)
    }

    /// Reads a schema from text; `origin` is the file name that errors show.
    pub fn parse(origin: &str, text: &str) -> Result<Schema> {
        let refuse = |line, message| Error::Schema { origin: origin.to_owned(), line, message };
        if text.len() > MAX_BYTES {
            return Err(refuse(None, format!("larger than {MAX_BYTES} bytes, hence no schema")));
        }
        // serde_yaml takes minutes for what is nested a hundred thousand times
        check_nesting(text).map_err(|(line, message)| refuse(Some(line), message))?;
        serde_yaml::from_str(text).map_err(|e| refuse(e.location().map(|at| at.line()), e.to_string()))
    }

    /// Name of the data set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ignored column whose text names a row in predictions.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// How cells are written.
    pub fn cells(&self) -> &CellRules {
        &self.cells
    }

    /// This schema with `infinite: clip`: infinite numbers stay what they are, so that they can be told from missing ones.
    #[must_use]
    pub fn keeping_infinite(mut self) -> Schema {
        self.cells.infinite = Some(Infinite::Clip);
        self
    }

    /// This schema without some of its features: they are not read, whatever is in them.
    ///
    /// # Errors
    /// Says which names are of no feature, and whether any would be left.
    pub fn without(mut self, names: &[String]) -> std::result::Result<Schema, String> {
        let mut problems = Vec::new();
        for name in names {
            if let Some(column) = self.columns.iter_mut().find(|column| column.is_named(name)) {
                if column.is_feature() {
                    (column.kind, column.optional) = (ColumnKind::Ignored, false);
                } else if names.iter().filter(|other| column.is_named(other)).count() > 1 {
                    problems.push(format!("`{name}` is named twice"));
                } else {
                    problems.push(format!("`{name}` is no feature, and models do not see it"));
                }
            } else {
                let features = self.features().map(|column| column.name.as_str());
                let hint = nearest(name, features).map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
                problems.push(format!("no column `{name}` in the schema `{}`{hint}", self.name));
            }
        }
        if problems.is_empty() && self.features().next().is_none() {
            problems.push("no feature is left".to_owned());
        }
        problems.dedup();
        if problems.is_empty() { Ok(self) } else { Err(problems.join("; ")) }
    }

    /// All columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The numeric and categorical columns.
    pub fn features(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.is_feature())
    }

    pub(crate) fn column_of(&self, kind: ColumnKind) -> Option<&Column> {
        self.columns.iter().find(|column| column.kind == kind)
    }
}

impl Column {
    /// Its name, then its aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// Whether `name` is one of its names; case and blanks around it do not count.
    pub fn is_named(&self, name: &str) -> bool {
        self.names().any(|known| folded(known) == folded(name))
    }

    /// Whether models see this column.
    pub fn is_feature(&self) -> bool {
        matches!(self.kind, ColumnKind::Numeric | ColumnKind::Categorical)
    }
}

impl TryFrom<Raw> for Schema {
    type Error = String;

    fn try_from(raw: Raw) -> std::result::Result<Self, String> {
        let Raw { name, id, header, delimiter, comment, encoding, only, missing, infinite, labels, columns } = raw;
        if name.trim().is_empty() {
            return Err("`name` is empty".to_owned());
        }
        let mut seen = std::collections::BTreeSet::new();
        for column in &columns {
            if column.name.trim().is_empty() {
                return Err("a column has an empty name".to_owned());
            }
            for name in column.names() {
                if !seen.insert(folded(name)) {
                    return Err(format!("column `{name}` is listed twice (case does not count)"));
                }
            }
        }
        for kind in [ColumnKind::Label, ColumnKind::Category] {
            let names: Vec<&str> = columns.iter().filter(|c| c.kind == kind).map(|c| c.name.as_str()).collect();
            if names.len() > 1 {
                let kind = if kind == ColumnKind::Label { "label" } else { "category" };
                return Err(format!(
                    "more than one column of kind `{kind}`: `{}`; keep one, mark the others `ignored`",
                    names.join("`, `")
                ));
            }
        }
        if let Some(column) = columns.iter().find(|column| column.optional && !column.is_feature()) {
            return Err(format!("column `{}` is `optional`, which only features are: others may be absent anyway", column.name));
        }
        if !columns.iter().any(Column::is_feature) {
            return Err("no feature: at least one column must be `numeric` or `categorical`".to_owned());
        }
        if let Some(id) = &id {
            match columns.iter().find(|column| column.name == *id) {
                Some(column) if matches!(column.kind, ColumnKind::Ignored | ColumnKind::Time) => {}
                Some(_) => return Err(format!("`id` names column `{id}`, which must be of kind `ignored` or `time`")),
                None => {
                    let hint = nearest(id, columns.iter().map(|column| column.name.as_str()));
                    let hint = hint.map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
                    return Err(format!("`id` names column `{id}`, which is not listed under `columns`{hint}"));
                }
            }
        }
        for (key, character) in [("delimiter", delimiter), ("comment", comment)] {
            if let Some(character) = character.filter(|c| !c.is_ascii() || matches!(c, '\n' | '\r' | '"')) {
                return Err(format!("`{key}` is {character:?}; wanted an ASCII character, no line end and no quotation mark"));
            }
        }
        for column in only.iter().flat_map(|only| only.keys()) {
            if !columns.iter().any(|listed| listed.name == *column) {
                return Err(format!("`where` names column `{column}`, which is not listed under `columns`"));
            }
        }
        let from_category = labels.as_ref().is_some_and(|labels| labels.from_category);
        if from_category && !columns.iter().any(|column| column.kind == ColumnKind::Category) {
            return Err("`labels.from_category` needs a column of kind `category`".to_owned());
        }
        if let Some(word) = labels.as_ref().and_then(LabelWords::contradiction) {
            return Err(format!("`labels`: `{word}` stands in two lists"));
        }
        let cells = CellRules { header, delimiter, comment, encoding, only, missing, infinite, labels };
        Ok(Schema { name, id, cells, columns })
    }
}

/// Line and reason of what no schema needs: lists in lists in lists.
fn check_nesting(text: &str) -> std::result::Result<(), (usize, String)> {
    let mut depth = 0_usize;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| (e.marker().line().max(1), format!("not YAML: {}", e.info())))?;
        match event {
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err((span.start.line().max(1), format!("nested deeper than {MAX_DEPTH} levels")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_that_ship_parse_and_have_their_features() {
        // name, features, categorical ones, label, category
        let wanted = [
            ("unsw-nb15", 42, 3, true, true),
            ("unsw-nb15-raw", 42, 3, true, true),
            ("nsl-kdd", 41, 3, true, true),
            ("cicflowmeter", 78, 1, true, false),
            ("cicflowmeter-python", 65, 1, true, false),
            ("netflow-v1", 9, 3, true, true),
            ("netflow-v2", 39, 9, true, true),
            ("zeek-conn", 11, 3, true, true),
            ("suricata-flow", 12, 6, true, false),
            ("nfdump", 10, 4, true, false),
            ("goflow2", 8, 4, true, false),
            ("argus", 10, 5, true, false),
        ];
        let found = BUILTIN.map(|(name, text)| {
            let schema = Schema::parse(name, text).unwrap();
            assert_eq!(schema.name(), name);
            let categorical = schema.features().filter(|c| c.kind == ColumnKind::Categorical).count();
            let has = |kind| schema.column_of(kind).is_some();
            (name, schema.features().count(), categorical, has(ColumnKind::Label), has(ColumnKind::Category))
        });
        assert_eq!(found, wanted);
    }

    #[test]
    fn unknown_name_suggests_the_nearest_builtin() {
        let message = Schema::resolve("unsw-nb51").unwrap_err().to_string();
        assert!(message.contains("did you mean `unsw-nb15`"), "{message}");
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let check = |text: &str, wanted: &str| {
            let message = Schema::parse("s.yaml", text).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        };
        check("name: a\nid: b\ncolums: []\n", "s.yaml:3: unknown field `colums`");
        check("name: a\ncolumns: [[[[[[[[[[[\n", "s.yaml:2: nested deeper than 8 levels");
        check("name: a\ncolumns:\n  - { name: x, kind: number }\n", "s.yaml:3: columns[0].kind: unknown variant `number`");
        check("name: a\ncolumns:\n  - { name: x, kind: numeric, width: 2 }\n", "s.yaml:3: columns[0]: unknown field `width`");
        let columns = |list: &str| format!("name: a\nid: i\ncolumns:\n{list}  - {{ name: i, kind: ignored }}\n");
        check(&columns("  - { name: x, kind: numeric }\n  - { name: X, kind: ignored }\n"), "column `X` is listed twice");
        check(&columns(""), "no feature");
        check(
            &columns("  - { name: x, kind: numeric }\n  - { name: l, kind: label }\n  - { name: m, kind: label }\n"),
            "more than one column of kind `label`: `l`, `m`",
        );
        check("name: a\nid: ident\ncolumns:\n  - { name: identity, kind: numeric }\n", "did you mean `identity`?");
    }

    #[test]
    fn a_feature_that_is_left_out_is_not_read() {
        let text = "name: a\nid: i\ncolumns:\n  - { name: rate, kind: numeric, aliases: [Rate_s], optional: true }\n  \
                    - { name: proto, kind: categorical }\n  - { name: i, kind: ignored }\n  - { name: label, kind: label }\n";
        let schema = Schema::parse("a.yaml", text).unwrap();
        let without = |names: &[&str]| schema.clone().without(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        let features = |schema: &Schema| schema.features().map(|column| column.name.clone()).collect::<Vec<_>>();
        assert_eq!(features(&without(&["rate_S"]).unwrap()), ["proto"]);
        assert_eq!(features(&without(&[]).unwrap()), ["rate", "proto"]);
        // it is kept with a tokeniser, and read back
        let left = without(&["rate"]).unwrap();
        assert_eq!(serde_json::from_str::<Schema>(&serde_json::to_string(&left).unwrap()).unwrap(), left);
        for (names, wanted) in [
            (&["rates"][..], "no column `rates` in the schema `a`; did you mean `rate`?"),
            (&["label", "i"], "`label` is no feature, and models do not see it; `i` is no feature, and models do not see it"),
            (&["rate", "proto"], "no feature is left"),
            (&["rate", "rate"], "`rate` is named twice"),
        ] {
            assert_eq!(without(names).unwrap_err(), wanted);
        }
    }
}
