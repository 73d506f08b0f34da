//! Files that have the columns of a built-in schema.

use std::path::PathBuf;

use super::stats::Column;
use super::{Proposal, ProposalOptions, Table, counted};
use crate::labels::Label;
use crate::nearest::folded;
use crate::reader::{shown, some_of};
use crate::{ColumnKind, Schema};

/// Columns of a schema that a file must have: a table of somebody's own may have `proto`, `bytes` and `packets`.
const FEWEST: usize = 9;

/// The built-in schema all of whose features the files have, and of these the one that knows most of their columns.
pub(super) fn recognise(table: &Table, options: &ProposalOptions, files: &[PathBuf]) -> Option<Proposal> {
    let schemas = Schema::builtin_names().filter_map(|name| Some((name, Schema::builtin(name)?)));
    let scored = schemas.filter_map(|(name, schema)| {
        let score = if table.has_header {
            table.headers.iter().map(|header| n_known(header, &schema, table.is_sparse)).min()?
        } else {
            n_by_place(&table.columns, &schema)
        };
        (score >= FEWEST).then_some((score, name, schema))
    });
    // the first of those that know as many
    let (_, name, schema) = scored.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
    let label = |kind| schema.columns().iter().find(|column| column.kind == kind);
    let (label, category) = (label(ColumnKind::Label), label(ColumnKind::Category));
    if options.label.as_ref().is_some_and(|wanted| !label.is_some_and(|column| column.is_named(wanted))) {
        return None;
    }
    let has = |column: Option<&crate::Column>| {
        column.is_some_and(|column| {
            if table.has_header {
                table.columns.iter().any(|found| column.is_named(&found.name))
            } else {
                schema.columns()[..table.columns.len()].contains(column)
            }
        })
    };
    let from_category = schema.cells().labels.as_ref().is_some_and(|labels| labels.from_category);
    let mut has_labels = has(label) || from_category && has(category);
    let mut warnings = Vec::new();
    // those of a tool that leaves the column to others: NeedManualLabel
    let place = label.and_then(|label| table.columns.iter().position(|found| label.is_named(&found.name)));
    if let (Some(words), Some(listed)) = (place.and_then(|place| table.columns[place].words.as_ref()), &schema.cells().labels)
        && words.keys().all(|word| listed.label(word) == Some(Label::Ignored))
    {
        has_labels = false;
        warnings.push(format!("no row has a label: the schema ignores {}", counted(words)));
    }
    if table.has_header {
        let is_listed = |name: &str| schema.columns().iter().any(|column| column.is_named(name));
        let others = table.columns.iter().filter(|column| !is_listed(&column.name));
        let others: Vec<String> = others.map(|column| format!("\"{}\"", shown(&column.name))).collect();
        if !others.is_empty() {
            warnings.push(format!("columns that schema `{name}` does not list are not used: {}", some_of(&others)));
        }
    }
    if table.n_rejected > 0 {
        warnings.push(super::yaml::rejected(table));
    }
    let what = super::yaml::names_of(files);
    let yaml = format!(
        "# {what}: the columns are those of the built-in schema `{name}`, which follows.\n# A config needs no copy of it: `data.schema: {name}` does.\n#\n{}",
        Schema::builtin_text(name)?
    );
    Some(Proposal { yaml, builtin: Some(name), has_labels, warnings })
}

/// How many columns of the schema a header has; 0 where a feature is absent.
fn n_known(header: &[String], schema: &Schema, is_sparse: bool) -> usize {
    let header: std::collections::BTreeSet<String> = header.iter().map(|name| folded(name)).collect();
    let has = |column: &&crate::Column| column.names().any(|name| header.contains(&folded(name)));
    let needed = || schema.features().filter(|column| !column.optional);
    // what no record of the first has to say something of is absent
    let n_absent = needed().filter(|column| !has(column)).count();
    let may_lack = if is_sparse { needed().count() / 3 } else { 0 };
    if n_absent > may_lack { 0 } else { schema.columns().iter().filter(has).count() }
}

/// How many columns of a schema a file without a header line has; 0 where one holds something else.
fn n_by_place(columns: &[Column], schema: &Schema) -> usize {
    let n_features = schema.columns().iter().rposition(crate::Column::is_feature).map_or(0, |last| last + 1);
    // as the reader does, which takes rows with all columns of a schema for rows without a header line
    let fewest = if schema.cells().header == Some(false) { n_features } else { schema.columns().len() };
    if !(fewest..=schema.columns().len()).contains(&columns.len()) {
        return 0;
    }
    let fits = |(listed, found): (&crate::Column, &Column)| match listed.kind {
        ColumnKind::Numeric => found.is_numeric(),
        ColumnKind::Categorical => !found.is_numeric() && !found.is_address() && !found.is_moment(),
        _ => true,
    };
    if schema.columns().iter().zip(columns).all(fits) { columns.len() } else { 0 }
}
