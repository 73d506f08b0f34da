//! The output of `sweep`.

use comfy_table::{CellAlignment, Table, presets};
use nids_pipeline::commands::SweepReport;

/// A table with one row per trial, in the order in which they ran.
pub(crate) fn table(report: &SweepReport) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["trial", "training loss", "validation loss", "accuracy", "verdict"]);
    for trial in &report.trials {
        let fell = |[before, after]: [f64; 2]| format!("{before:.4} → {after:.4}");
        table.add_row([
            trial.name.clone(),
            fell(trial.train_loss),
            fell(trial.validation_loss),
            format!("{:.4}", trial.accuracy),
            trial.verdict.text().to_owned(),
        ]);
    }
    for column in 1..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}
