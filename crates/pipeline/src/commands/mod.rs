//! The commands, one file each. They leave no artefacts, but for `calibrate` and `adapt`, which set a trained classifier.

mod adapt;
mod anomaly;
mod audit;
mod bench;
mod cache;
mod calibrate;
mod export;
mod held_out;
mod parts;
mod plan;
mod predict;
mod query;
mod rebuilt;
mod report;
mod schema;
mod sweep;
mod verdict_writer;
mod watch;

use std::io::Write;
use std::path::{Path, PathBuf};

use nids_flows::SyntheticWriter;
use nids_interop::import::Imported;
use nids_store::artefacts::write_atomic;
use nids_store::disk::make_folder;
use nids_store::{Error, Result};

pub use adapt::{AdaptOptions, AdaptReport, Quality, adapt, undo_adapt};
pub use anomaly::{AnomalyReport, Score, calibrate_anomaly};
pub use audit::{AuditOptions, audit};
pub use bench::{BenchOptions, BenchReport, Case, Measurement, ReadFigures, bench};
pub use cache::cache;
pub use calibrate::{CalibrateOptions, CalibrateReport, calibrate};
pub use export::{Inputs, export};
pub use parts::{PartOutcome, join_parts, parts, predict_part};
pub use plan::{Planned, plan};
pub use predict::{Alarm, Evaluated, PredictOptions, PredictSummary, ReasonsFor, evaluate, predict};
pub use query::{QueryOptions, QueryStrategy, query};
pub use report::{report, report_of};
pub use schema::{config_around, schema};
pub use sweep::{Axis, SweepReport, Trial, TrialOutcome, sweep};
pub use verdict_writer::VerdictFormat;
pub use watch::{AlertFormat, WatchCounts, WatchOptions, watch, watched_lines};

/// Turns a checkpoint of the numpy MLP-Mixer into safetensors; see [`nids_interop::import`].
pub fn import(file: &Path, out: &mut dyn Write) -> Result<Imported> {
    nids_interop::import::import(file, out).map_err(|error| match error {
        nids_interop::Error::Foreign { .. } => Error::Data(error.to_string()),
        nids_interop::Error::Read { path, source } => Error::reading_data(&path, source),
        nids_interop::Error::Export(what) => Error::Data(what),
        nids_interop::Error::Write(source) => Error::io("the checkpoint", "write")(source),
    })
}

/// Writes `rows` generated flows as CSV.
pub fn synth(rows: usize, seed: u64, out: &mut dyn Write) -> Result<()> {
    nids_flows::write_synthetic(rows, seed, out).map_err(Error::io("flows", "write"))
}

/// Writes the same flows to `parts` files of a folder, which is made if it is not there: `part-00000.csv` and so on.
///
/// # Errors
/// A file that cannot be written.
pub fn synth_parts(rows: usize, seed: u64, parts: usize, folder: &Path) -> Result<()> {
    make_folder(folder).map_err(Error::io(folder, "make the folder"))?;
    let mut flows = SyntheticWriter::new(seed);
    for part in 0..parts {
        let n_rows = (part + 1) * rows / parts - part * rows / parts;
        write_atomic(&synth_part(folder, part), |out| flows.write(n_rows, out))?;
    }
    Ok(())
}

/// The file of a part of [`synth_parts`].
pub fn synth_part(folder: &Path, part: usize) -> PathBuf {
    folder.join(format!("part-{part:05}.csv"))
}

#[cfg(test)]
mod anomaly_tests;
#[cfg(test)]
mod drift_tests;
#[cfg(test)]
mod operate_tests;
#[cfg(test)]
mod reasons_tests;
#[cfg(test)]
mod serving_tests;
