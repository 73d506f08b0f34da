//! The output of `bench`.

use comfy_table::{CellAlignment, Table, presets};
use nids_pipeline::commands::{BenchReport, Case, Measurement, ReadFigures};
use nids_store::{Error, Result};
use serde::Serialize;

/// The cases with these names; all cases if there are no names.
pub(crate) fn cases(names: &[String]) -> Result<Vec<Case>> {
    if names.is_empty() {
        return Ok(Case::all().collect());
    }
    let find = |name: &String| {
        let known = || Case::all().map(|case| format!("`{}`", case.name())).collect::<Vec<_>>().join(", ");
        let found = Case::all().find(|case| case.name() == name);
        found.ok_or_else(|| Error::Usage(format!("--only: expected any of {}, found `{name}`", known())))
    };
    names.iter().map(find).collect()
}

/// The report as one line of JSON, with the peak memory of the process.
pub(crate) fn json(report: &BenchReport) -> String {
    #[derive(Serialize)]
    struct Line<'r> {
        #[serde(flatten)]
        report: &'r BenchReport,
        /// Peak resident memory in MiB; null if the system does not report it.
        peak_rss_mb: Option<f64>,
    }
    serde_json::to_string(&Line { report, peak_rss_mb: peak_rss_mib() }).expect("a report is names and numbers")
}

/// The report as tables.
pub(crate) fn table(report: &BenchReport) -> String {
    let mut steps = Table::new();
    steps.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    steps.set_header(["training", "batch", "dropout", "s/step", "rows/s", "GFLOP/s", "share of peak", "memory"]);
    let mut lines = Vec::new();
    for result in &report.results {
        match result {
            Measurement::Train(x) => {
                steps.add_row([
                    x.name.to_owned(),
                    x.batch.to_string(),
                    x.dropout.to_string(),
                    format!("{:.4}", x.step_s),
                    format!("{:.0}", x.rows_per_s),
                    format!("{:.0}", x.gflop_per_step / x.step_s),
                    format!("{:.1} %", 100.0 * x.share_of_peak),
                    format!("{:.1} MiB", x.memory_mib),
                ]);
            }
            Measurement::Predict(x) => {
                lines.push(format!(
                    "predict: {:.0} flows/s ({:.1} MFLOP each, {:.1} % of the peak); from a CSV file {:.0} flows/s",
                    x.rows_per_s,
                    x.mflop_per_row,
                    100.0 * x.share_of_peak,
                    x.csv_rows_per_s
                ));
            }
            Measurement::Read(x) => {
                let ReadFigures { file, rows, tokens_per_s, verdicts_per_s, .. } = x;
                lines.push(format!("{file}, {rows} rows: {tokens_per_s:.0} rows/s to tokens, {verdicts_per_s:.0} to verdicts"));
            }
            Measurement::Latency(x) => {
                lines.push(format!("one flow: {:.0} µs (median), {:.0} µs (1 in 100 takes longer)", x.p50_us, x.p99_us));
            }
        }
    }
    for column in steps.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    if steps.row_count() > 0 {
        lines.insert(0, steps.to_string());
    }
    let BenchReport { kernels, threads, peak_gflops, .. } = report;
    lines.insert(0, format!("{kernels}, {threads} threads: at most {peak_gflops:.0} GFLOP/s of f32"));
    lines.join("\n")
}

/// Peak resident memory of this process: its VmHWM.
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
