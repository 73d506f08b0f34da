//! The output of `finetune`, `evaluate`, `calibrate` and `adapt`.

use crate::terminal::plain;
use comfy_table::{CellAlignment, Table, TableComponent, presets};
use nids_eval::metrics::{ByRows, CategoryMetrics, Evaluation, Intervals, Metrics};
use nids_pipeline::commands::{AdaptReport, AnomalyReport, CalibrateReport};
use serde::Serialize;

/// Metrics or a report as one line of JSON.
pub(crate) fn json(report: &impl Serialize) -> String {
    serde_json::to_string(report).expect("plain numbers and texts under names")
}

/// The metrics at an operating point, as tables.
pub(crate) fn evaluation(found: &Evaluation) -> String {
    let mut at = table(["at the threshold", "value", "from", "to"]);
    let ends = |interval: Option<[f64; 2]>| interval.map_or([None; 2], |ends| ends.map(Some)).map(shown);
    at.add_row(["threshold".to_owned(), format!("{}", found.threshold)]);
    for (name, value, interval) in
        [("false alarms", found.fpr, found.fpr_interval), ("recall", found.metrics.recall, found.recall_interval)]
    {
        let [low, high] = ends(interval);
        at.add_row([name.to_owned(), shown(value), low, high]);
    }
    for (category, of) in found.found_by_category.iter().flatten() {
        let [recall, low, high] = [of.recall, of.low, of.high].map(|value| shown(Some(value)));
        at.add_row([format!("  {} ({})", plain(category), of.rows), recall, low, high]);
    }
    at.add_row(["calibration error (ECE)".to_owned(), shown(found.ece)]);
    at.add_row(["  without its bias".to_owned(), shown(found.ece_debiased)]);
    [tables_of(&found.metrics, found.by_rows.as_ref()), aligned(at)].join("\n\n")
}

/// What `calibrate` found, as a table.
pub(crate) fn calibration(found: &CalibrateReport) -> String {
    let mut of = table(["calibration", "value"]);
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    of.add_row(["benign rows held out".to_owned(), format!("{} ({} different)", found.benign, found.different_benign)]);
    of.add_row(["attacks held out".to_owned(), found.attacks.to_string()]);
    of.add_row(["slope".to_owned(), shown(found.scaling.map(|scaling| scaling.slope))]);
    of.add_row(["offset".to_owned(), shown(found.scaling.map(|scaling| scaling.offset))]);
    of.add_row(["calibration error before".to_owned(), shown(found.before.ece)]);
    of.add_row(["  after".to_owned(), shown(found.after.ece)]);
    of.add_row(["threshold".to_owned(), number(found.threshold)]);
    of.add_row(["budget of false alarms".to_owned(), number(found.fpr)]);
    of.add_row(["  of those held out".to_owned(), shown(found.false_alarms)]);
    of.add_row(["recall of attacks held out".to_owned(), shown(found.recall)]);
    aligned(of)
}

/// What `calibrate --score` found, as a table.
pub(crate) fn anomaly(found: &AnomalyReport) -> String {
    let mut of = table(["benign rows", "value"]);
    let word = |is: bool| if is { "yes" } else { "no" }.to_owned();
    of.add_row(["that anomaly scores are compared with".to_owned(), found.compared.to_string()]);
    let fused = found.compared_fused.map_or_else(|| "-".to_owned(), |n| n.to_string());
    of.add_row(["that scores of both are compared with".to_owned(), fused]);
    of.add_row(["known to be benign".to_owned(), word(found.are_benign)]);
    of.add_row(["new to the autoencoder".to_owned(), word(!found.are_learned)]);
    aligned(of)
}

/// What `adapt` found, as a table.
pub(crate) fn adaptation(found: &AdaptReport) -> String {
    let mut of = table([&format!("adapted by {}", found.by), "before", "after"]);
    let rows = [
        ("log loss", found.before.log_loss, found.after.log_loss),
        ("accuracy", found.before.accuracy, found.after.accuracy),
        ("share of attacks", Some(found.before.prior), Some(found.after.prior)),
    ];
    for (name, before, after) in rows {
        of.add_row([name.to_owned(), shown(before), shown(after)]);
    }
    of.add_row(["rows".to_owned(), String::new(), found.rows.to_string()]);
    of.add_row(["segments".to_owned(), String::new(), found.segments.to_string()]);
    of.add_row(["threshold".to_owned(), String::new(), found.threshold.to_string()]);
    aligned(of)
}

/// The metrics as a table, or as three tables if the classifier knows categories.
pub(crate) fn tables(metrics: &Metrics) -> String {
    tables_of(metrics, None)
}

/// Names of metrics, and how to take each from metrics and from intervals.
type Rows = [(&'static str, fn(&Metrics) -> Option<f64>, fn(&Intervals) -> Option<[f64; 2]>); 10];
const ROWS: Rows = [
    ("accuracy", |of| of.accuracy, |of| of.accuracy),
    ("balanced accuracy", |of| of.balanced_accuracy, |of| of.balanced_accuracy),
    ("precision", |of| of.precision, |of| of.precision),
    ("recall", |of| of.recall, |of| of.recall),
    ("F1", |of| of.f1, |of| of.f1),
    ("ROC-AUC", |of| of.roc_auc, |of| of.roc_auc),
    ("PR-AUC", |of| of.pr_auc, |of| of.pr_auc),
    ("recall at 1 % false alarms", |of| of.recall_at_fpr_1pct, |of| of.recall_at_fpr_1pct),
    ("log loss", |of| of.log_loss, |of| of.log_loss),
    ("Brier score", |of| of.brier, |of| of.brier),
];

fn tables_of(metrics: &Metrics, by_rows: Option<&ByRows>) -> String {
    let others = ["from", "to", "no duplicates", "new rows"];
    let mut table = table(["metric", "value"].into_iter().chain(others.into_iter().filter(|_| by_rows.is_some())));
    for (name, of, interval) in ROWS {
        let mut cells = vec![name.to_owned(), shown(of(metrics))];
        if let Some(by_rows) = by_rows {
            let [low, high] = interval(&by_rows.intervals).map_or([None; 2], |ends| ends.map(Some));
            let new = by_rows.new_rows.as_ref().and_then(|some| of(&some.metrics));
            cells.extend([low, high, of(&by_rows.without_duplicates.metrics), new].map(shown));
        }
        table.add_row(cells);
    }
    if let Some(categories) = &metrics.categories {
        for (name, value) in [
            ("category accuracy", categories.accuracy),
            ("balanced category accuracy", categories.balanced_accuracy),
            ("macro F1", categories.macro_f1),
        ] {
            table.add_row([name.to_owned(), shown(value)]);
        }
    }
    let mut counts = vec!["rows".to_owned(), metrics.n.to_string()];
    if let Some(by_rows) = by_rows {
        let new = by_rows.new_rows.as_ref().map_or_else(|| "-".to_owned(), |some| some.metrics.n.to_string());
        counts.extend([String::new(), String::new(), by_rows.without_duplicates.metrics.n.to_string(), new]);
    }
    table.add_row(counts);
    let mut tables = vec![aligned(table)];
    if let Some(categories) = &metrics.categories {
        tables.extend([class_table(categories), confusion(categories)]);
    }
    tables.join("\n\n")
}

/// The metrics of each category, one line per category.
fn class_table(categories: &CategoryMetrics) -> String {
    let mut table = table(["category", "precision", "recall", "F1", "rows"]);
    for class in &categories.classes {
        let [precision, recall, f1] = [class.precision, class.recall, class.f1].map(shown);
        table.add_row([name(&class.name, class.known), precision, recall, f1, class.support.to_string()]);
    }
    aligned(table)
}

/// The confusion matrix: a line for each category, a column for each category that the classifier knows.
fn confusion(categories: &CategoryMetrics) -> String {
    let called = categories.classes.iter().filter(|class| class.known).map(|class| plain(&class.name).into_owned());
    let mut table = table(std::iter::once("is \\ called".to_owned()).chain(called));
    for (class, counts) in categories.classes.iter().zip(&categories.confusion) {
        table.add_row(std::iter::once(name(&class.name, class.known)).chain(counts.iter().map(u64::to_string)));
    }
    aligned(table)
}

fn name(name: &str, known: bool) -> String {
    let name = plain(name);
    if known { name.into_owned() } else { format!("{name} (not known)") }
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

pub(crate) fn table(header: impl Into<comfy_table::Row>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.remove_style(TableComponent::HorizontalLines).remove_style(TableComponent::MiddleIntersections);
    table.set_header(header);
    table
}

/// Formats a table with its numbers aligned to the right.
pub(crate) fn aligned(mut table: Table) -> String {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}
