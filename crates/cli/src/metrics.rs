//! The output of `finetune` and `evaluate`.

use crate::terminal::plain;
use comfy_table::{CellAlignment, Table, TableComponent, presets};
use nids_eval::metrics::{CategoryMetrics, Metrics};

/// The metrics as one line of JSON.
pub(crate) fn json(metrics: &Metrics) -> String {
    serde_json::to_string(metrics).expect("metrics are plain numbers")
}

/// The metrics as a table, or as three tables if the classifier knows categories.
pub(crate) fn tables(metrics: &Metrics) -> String {
    let rows = [
        ("accuracy", metrics.accuracy),
        ("balanced accuracy", metrics.balanced_accuracy),
        ("precision", metrics.precision),
        ("recall", metrics.recall),
        ("F1", metrics.f1),
        ("ROC-AUC", metrics.roc_auc),
        ("PR-AUC", metrics.pr_auc),
        ("recall at 1 % false alarms", metrics.recall_at_fpr_1pct),
        ("log loss", metrics.log_loss),
        ("Brier score", metrics.brier),
    ];
    let category_rows = metrics.categories.as_ref().map(|categories| {
        [
            ("category accuracy", categories.accuracy),
            ("balanced category accuracy", categories.balanced_accuracy),
            ("macro F1", categories.macro_f1),
        ]
    });
    let mut table = table(["metric", "value"]);
    for (name, value) in rows.into_iter().chain(category_rows.into_iter().flatten()) {
        table.add_row([name.to_owned(), shown(value)]);
    }
    table.add_row(["rows".to_owned(), metrics.n.to_string()]);
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
