//! The command that looks at flows.

use std::collections::BTreeMap;

use comfy_table::{ContentArrangement, Table};
use nids_audit::{Audit, Check, CheckName, Finding, Verdict};
use nids_flows::data_files;
use nids_pipeline::commands::{self, AuditOptions};
use nids_store::Result;
use nids_store::output::Source;

use crate::Output;
use crate::metrics::{self, aligned, table};
use crate::terminal::{Terminal, plain};

/// Findings of a check that are printed.
const SHOWN: usize = 10;
/// Columns of the terminal.
const WIDTH: u16 = 110;

pub(crate) fn audit(names: &[String], options: &AuditOptions, json: bool, progress: &mut Terminal) -> Result<()> {
    let files = data_files(names)?;
    let sources: Vec<Source<'_>> = files.iter().map(|file| Source::File("FILE", file)).collect();
    let out = Output::open(None, &sources)?;
    let audit = commands::audit(&files, options, progress)?;
    out.print(&if json { metrics::json(&audit) } else { text(&audit) })
}

fn text(audit: &Audit) -> String {
    let n = audit.warnings().count();
    let warnings = match n {
        0 => "no warnings".to_owned(),
        1 => "1 warning".to_owned(),
        n => format!("{n} warnings"),
    };
    let name = match &audit.files[..] {
        [file] => file.name.clone(),
        files => format!("{} files", files.len()),
    };
    let features = audit.columns.iter().filter(|column| column.feature).count();
    let head =
        format!("{}: {} rows, {features} features of schema `{}`: {warnings}", plain(&name), audit.rows, plain(&audit.schema));
    let mut parts = vec![head, verdicts(audit)];
    if audit.files.len() > 1 {
        parts.push(files(audit));
    }
    parts.extend(categories(audit));
    let worth = |verdict: Verdict| audit.checks.iter().filter(move |check| check.verdict == verdict);
    let more = |check: &&Check| check.advice.is_some() || !check.findings.is_empty();
    parts.extend(worth(Verdict::Warn).chain(worth(Verdict::Note)).filter(more).map(details));
    parts.join("\n\n")
}

/// A line for each check: warnings first.
fn verdicts(audit: &Audit) -> String {
    let mut table = table(["", "check", "found"]);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    for verdict in [Verdict::Warn, Verdict::Note, Verdict::Pass, Verdict::Skipped] {
        for check in audit.checks.iter().filter(|check| check.verdict == verdict) {
            table.add_row([word(verdict).to_owned(), title(check.check).to_owned(), plain(&check.found).into_owned()]);
        }
    }
    trimmed(&table)
}

/// A table without blanks at the ends of its lines.
fn trimmed(table: &Table) -> String {
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn files(audit: &Audit) -> String {
    let mut table = table(["file", "rows", "benign", "attacks", "no label", "unreadable"]);
    for file in &audit.files {
        let counts = [file.rows, file.benign, file.attacks, file.unlabelled, file.unreadable as usize];
        table.add_row(std::iter::once(plain(&file.name).into_owned()).chain(counts.map(|n| n.to_string())));
    }
    aligned(table)
}

/// Rows by kind, the most frequent first; none where no file names them.
fn categories(audit: &Audit) -> Option<String> {
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, n) in audit.files.iter().flat_map(|file| &file.categories) {
        *rows.entry(name).or_default() += n;
    }
    let mut rows: Vec<(&str, usize)> = rows.into_iter().collect();
    rows.sort_by_key(|(name, n)| (std::cmp::Reverse(*n), *name));
    (rows.len() > 1).then(|| {
        let mut table = table(["category", "rows"]);
        for (name, n) in rows {
            table.add_row([if name.is_empty() { "(none)".into() } else { plain(name) }.into_owned(), n.to_string()]);
        }
        aligned(table)
    })
}

/// What was found, where, and what to do.
fn details(check: &Check) -> String {
    let mut lines = vec![format!("{}: {}: {}", word(check.verdict), title(check.check), plain(&check.found))];
    lines.extend(check.findings.iter().take(SHOWN).map(|finding| format!("  {}", plain(&shown(finding)))));
    if check.findings.len() > SHOWN {
        lines.push(format!("  and {} more (`--json` has all)", check.findings.len() - SHOWN));
    }
    lines.extend(check.advice.iter().map(|advice| format!("  What to do: {advice}.")));
    lines.join("\n")
}

fn shown(finding: &Finding) -> String {
    let column = finding.column.as_ref().map_or_else(String::new, |column| format!("`{column}`: "));
    let place = match (&finding.row, &finding.file) {
        (Some(row), Some(file)) => format!(" (row {row} of {file})"),
        (None, Some(file)) => format!(" ({file})"),
        _ => String::new(),
    };
    format!("{column}{}{place}", finding.what)
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Warn => "warning",
        Verdict::Note => "note",
        Verdict::Pass => "passed",
        Verdict::Skipped => "skipped",
    }
}

fn title(check: CheckName) -> &'static str {
    match check {
        CheckName::Labels => "labels",
        CheckName::Unreadable => "unreadable rows",
        CheckName::Missing => "missing values",
        CheckName::Infinite => "infinite values",
        CheckName::Constant => "constant features",
        CheckName::Leaks => "label leaks",
        CheckName::Ids => "id-like features",
        CheckName::Times => "time-like features",
        CheckName::Duplicates => "repeated rows",
        CheckName::AcrossFiles => "rows in two files",
        CheckName::Conflicts => "contradictory labels",
        CheckName::RandomSplit => "random split",
        CheckName::LabelOrder => "order of labels",
        CheckName::Official => "official UNSW-NB15",
        CheckName::Drift => "drift",
    }
}
