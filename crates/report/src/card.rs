//! A trained run as a model card: Markdown whose first lines are those of Hugging Face.

use askama::Template;

use crate::{Category, Metric, Report, Status};

#[derive(Template)]
#[template(path = "card.md")]
struct Card<'r> {
    report: &'r Report,
    /// Texts of YAML.
    name: String,
    rows: String,
    /// Kind, name and value of a metric.
    results: Vec<(&'static str, String, f64)>,
    title: String,
    checks: Vec<[String; 4]>,
    metrics: Vec<Metric>,
    categories: Vec<(String, Category<'r>)>,
    facts: Vec<(String, String)>,
    /// Longer than any in the config.
    fence: String,
}

impl Report {
    /// The same as a model card: Markdown, with metrics that Hugging Face reads. Without figures of single rows.
    ///
    /// # Panics
    /// Never: text is written to memory.
    pub fn card(&self) -> String {
        let of = &self.held_out.metrics;
        let results = [
            ("accuracy", "accuracy", of.accuracy),
            ("precision", "precision", of.precision),
            ("recall", "recall", of.recall),
            ("f1", "F1", of.f1),
            ("roc_auc", "ROC-AUC", of.roc_auc),
            ("average_precision", "PR-AUC", of.pr_auc),
        ];
        let longest = self.config.split(|c| c != '~').map(str::len).max().unwrap_or(0);
        let card = Card {
            report: self,
            name: quoted(&self.name),
            rows: quoted(&self.rows),
            results: results.into_iter().filter_map(|(kind, name, value)| Some((kind, quoted(name), value?))).collect(),
            title: cell(&self.name),
            checks: self
                .checks
                .iter()
                .map(|of| [status(of.status).to_owned(), cell(of.what), cell(&of.found), cell(&of.advice)])
                .collect(),
            metrics: self.metrics(),
            categories: self.categories().into_iter().map(|category| (cell(category.name), category)).collect(),
            facts: self.facts.iter().map(|(name, value)| (cell(name), cell(value))).collect(),
            fence: "~".repeat(3.max(longest + 1)),
        };
        card.render().expect("text is written to memory") + "\n"
    }
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Warn => "**warning**",
        other => other.name(),
    }
}

/// A text in quotes, as YAML and JSON have them.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text in a table or a title of Markdown: as it stands, whatever is in it.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '|' | '*' | '_' | '[' | ']' | '#' => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}
