//! A proposal as YAML.

use std::fmt::Write;
use std::path::PathBuf;

use super::{Judged, Table, counted};
use crate::reader::cells::MISSING;
use crate::reader::shown;
use crate::{ColumnKind, Encoding};

const WIDTH: usize = 100;

pub(super) fn write(table: &Table, judged: &Judged, files: &[PathBuf]) -> String {
    let mut yaml = String::new();
    let rows = match (table.is_whole, table.n_rows) {
        (true, 1) => "1 row".to_owned(),
        (true, n) => format!("{n} rows"),
        (false, n) => format!("the first {n} rows"),
    };
    let written = if table.notes.is_empty() { String::new() } else { format!(" ({})", table.notes.join(", ")) };
    comment(&mut yaml, "", &format!("{}{written}: what `nids-mixer schema` proposes after a look at {rows}.", names_of(files)));
    comment(&mut yaml, "", "Look it over: what is no feature has its reason beside it.");
    if !judged.warnings.is_empty() {
        yaml.push_str("#\n# Warnings:\n");
        judged.warnings.iter().for_each(|warning| comment(&mut yaml, "- ", warning));
    }
    let _ = writeln!(yaml, "name: {}", scalar(&name_of(files)));
    if let Some(id) = judged.id {
        let _ = writeln!(yaml, "id: {} # names the row in predictions", scalar(&table.columns[id].name));
    }
    if !table.has_header {
        yaml.push_str("header: false # columns are found by their order: give them names of your own\n");
    }
    if table.encoding == Some(Encoding::Windows1252) {
        yaml.push_str("encoding: windows-1252 # some texts are not UTF-8\n");
    }
    if judged.has_infinite {
        yaml.push_str("infinite: missing # or `clip`: beyond the largest number seen in training\n");
    }
    if !judged.missing.is_empty() {
        let all = MISSING.iter().copied().chain(judged.missing.iter().map(String::as_str));
        let _ = writeln!(yaml, "missing: [{}]", all.map(scalar).collect::<Vec<_>>().join(", "));
    }
    if let Some(words) = &judged.labels {
        yaml.push_str("labels:\n");
        let list = |words: &[String]| format!("[{}]", words.iter().map(|word| scalar(word)).collect::<Vec<_>>().join(", "));
        let note = if words.is_guess { " # a guess: check it" } else { "" };
        let _ = writeln!(yaml, "  benign: {}{note}", list(&words.benign));
        let found = format!("# {}", counted(&words.attacks));
        match &words.attack {
            Some(attack) => {
                let _ = writeln!(yaml, "  attack: {}", list(attack));
            }
            None if words.attacks.is_empty() => yaml.push_str("  attack: any # there was none\n"),
            None => {
                let _ = writeln!(yaml, "  attack: any {found}");
            }
        }
        if !words.ignore.is_empty() {
            let _ = writeln!(yaml, "  ignore: {} # such rows count as unlabelled", list(&words.ignore));
        }
    }
    yaml.push_str("columns:\n");
    for ((column, kind), why) in table.columns.iter().zip(&judged.kinds).zip(&judged.why) {
        let kind_name = match kind {
            ColumnKind::Numeric => "numeric",
            ColumnKind::Categorical => "categorical",
            ColumnKind::Ignored => "ignored",
            ColumnKind::Time => "time",
            ColumnKind::Label => "label",
            ColumnKind::Category => "category",
        };
        let is_feature = matches!(kind, ColumnKind::Numeric | ColumnKind::Categorical);
        let optional = if is_feature && column.n_files < table.headers.len() { ", optional: true" } else { "" };
        let why = why.as_ref().map_or_else(String::new, |why| format!(" # {why}"));
        let _ = writeln!(yaml, "  - {{ name: {}, kind: {kind_name}{optional} }}{why}", scalar(&column.name));
    }
    yaml
}

/// The files in a few words.
pub(super) fn names_of(files: &[PathBuf]) -> String {
    let name = |path: &PathBuf| match path.file_name() {
        _ if path.as_os_str() == "-" => "standard input".to_owned(),
        Some(name) => shown(&name.to_string_lossy()),
        None => shown(&path.to_string_lossy()),
    };
    match files {
        [file] => name(file),
        [file, rest @ ..] => format!("{} and {} more", name(file), rest.len()),
        [] => String::new(),
    }
}

/// A name for the schema: that of a single file.
fn name_of(files: &[PathBuf]) -> String {
    let stem = match files {
        [file] => file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        _ => String::new(),
    };
    let stem = stem.split('.').next().unwrap_or_default();
    let name: String = stem.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ')).collect();
    match name.trim_matches([' ', '-', '_']) {
        "" => "flows".to_owned(),
        name => name.to_owned(),
    }
}

/// What to know of rows that were passed over.
pub(super) fn rejected(table: &Table) -> String {
    let why = table.why_rejected.as_deref().unwrap_or_default();
    format!(
        "{} of {} rows cannot be read ({why}): `on_bad_row: skip` leaves such rows out",
        table.n_rejected,
        table.n_rejected + table.n_rows as u64
    )
}

/// Lines of a comment; the first begins with `mark`.
fn comment(yaml: &mut String, mark: &str, text: &str) {
    let mut line = format!("# {mark}");
    let mut is_fresh = true;
    for word in text.split(' ') {
        if !is_fresh && line.chars().count() + 1 + word.chars().count() > WIDTH {
            yaml.push_str(line.trim_end());
            yaml.push('\n');
            line = format!("# {}", " ".repeat(mark.len()));
            is_fresh = true;
        }
        if !is_fresh {
            line.push(' ');
        }
        line.push_str(word);
        is_fresh = false;
    }
    yaml.push_str(line.trim_end());
    yaml.push('\n');
}

/// A text as a YAML scalar that is read as this text wherever it stands, in a flow mapping, too.
pub fn scalar(text: &str) -> String {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_plain = begins
        && !text.ends_with(' ')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | ' '));
    if is_plain
        && matches!(serde_yaml::from_str(text), Ok(serde_yaml::Value::String(read)) if read == text)
        && !is_word_of_yaml(text)
    {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}'
                if !c.is_whitespace() && !is_invisible(c) =>
            {
                quoted.push(c);
            }
            c if u32::from(c) > 0xffff => {
                let _ = write!(quoted, "\\U{:08x}", u32::from(c));
            }
            c => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
        }
    }
    quoted.push('"');
    quoted
}

/// Words that YAML 1.1 takes for truths.
fn is_word_of_yaml(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null")
}

/// Marks of direction and joiners, with which a name would look like another.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_is_read_as_it_was_written(text in any::<String>()) {
            let yaml = format!("{{ a: {}, b: 1 }} # comment", scalar(&text));
            let read: serde_yaml::Value = serde_yaml::from_str(&yaml).unwrap();
            prop_assert_eq!(read["a"].as_str(), Some(text.as_str()), "{}", yaml);
        }
    }

    #[test]
    fn names_that_need_no_quotes_have_none() {
        for (text, wanted) in [
            ("dur", "dur"),
            ("Flow Bytes/s", "Flow Bytes/s"),
            ("no", "\"no\""),
            ("0", "\"0\""),
            ("a: b", "\"a: b\""),
            ("#", "\"#\""),
        ] {
            assert_eq!(scalar(text), wanted);
        }
    }
}
