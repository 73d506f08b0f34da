//! The commands that let a trained classifier judge files.

use std::path::{Path, PathBuf};

use nids_eval::calibration::ScalingKind;
use nids_flows::{Ids, OnBadRow, Part, ReadOptions, Reject, data_files};
use nids_pipeline::RejectsFile;
use nids_pipeline::commands::{
    self, AdaptOptions, CalibrateOptions, PartOutcome, PredictOptions, ReasonsFor, Score, VerdictFormat,
};
use nids_store::output::{self, Source};
use nids_store::progress::Progress;
use nids_store::{Error, Result, Run};

use crate::args::{AlarmArgs, ModelArgs};
use crate::{Output, metrics, terminal};

pub(crate) fn evaluate(model: &ModelArgs, report: Option<&Path>, json: bool, progress: &mut dyn Progress) -> Result<()> {
    let (run, data) = (Run::open(&model.run)?, data_files(&model.data)?);
    let sources = sources(&data, &run);
    let out = Output::open(None, &sources)?;
    if let Some(path) = report {
        if score(&model.score) != Score::Attack {
            let message = "`--report` writes a page about the classifier's probabilities: leave out `--score` or `--report`";
            return Err(Error::Usage(message.to_owned()));
        }
        output::check(output::Output::Report(path), &sources)?;
        if report == model.rejects.as_deref() {
            return Err(Error::Usage("`--report` and `--rejects` name one file".to_owned()));
        }
    }
    let options = options(model, model.rejects.is_some(), VerdictFormat::Csv, Vec::new())?;
    let found = with_rejects(model.rejects.as_deref(), &sources, |rejected| {
        commands::evaluate(&run, &data, &options, rejected, progress)
    })?;
    out.print(&if json { metrics::json(&found.evaluation) } else { metrics::evaluation(&found.evaluation) })?;
    let Some(path) = report else { return Ok(()) };
    let page = commands::report_of(&run, &data, found)?;
    Output::File(path).fill(|out| out.write_all(page.as_bytes()).map_err(Error::io(path, "write")))?;
    terminal::say(&format!("report: {}", path.display()));
    Ok(())
}

pub(crate) fn calibrate(
    folder: &Path,
    data: &[String],
    id: &str,
    alarm: &AlarmArgs,
    scaling: Option<&str>,
    json: bool,
    progress: &mut dyn Progress,
) -> Result<()> {
    let (run, data) = (Run::open(folder)?, data_files(data)?);
    let out = Output::open(None, &sources(&data, &run))?;
    let scaling = match scaling {
        None | Some("platt") => Some(ScalingKind::Platt),
        Some("temperature") => Some(ScalingKind::Temperature),
        Some(_) => None,
    };
    let options =
        CalibrateOptions { data: (!data.is_empty()).then_some(data), read: read_by(id), alarm: alarm.alarm()?, scaling };
    let report = commands::calibrate(&run, &options, progress)?;
    out.print(&if json { metrics::json(&report) } else { metrics::calibration(&report) })
}

pub(crate) fn calibrate_anomaly(
    folder: &Path,
    data: &[String],
    id: &str,
    score: Score,
    alarm: &AlarmArgs,
    scaling: Option<&str>,
    json: bool,
    progress: &mut dyn Progress,
) -> Result<()> {
    if scaling.is_some() {
        let message = "`--scaling` is for `--score attack` alone: other scores are no probabilities";
        return Err(Error::Usage(message.to_owned()));
    }
    if alarm.alarm()?.is_some() {
        let message = "`calibrate --score anomaly` and `--score both` keep benign rows, and no threshold: pass it to `predict` and `evaluate`";
        return Err(Error::Usage(message.to_owned()));
    }
    let (run, data) = (Run::open(folder)?, data_files(data)?);
    let out = Output::open(None, &sources(&data, &run))?;
    let read = read_by(id);
    let files = (!data.is_empty()).then_some((data.as_slice(), &read));
    let report = commands::calibrate_anomaly(&run, score, files, progress)?;
    out.print(&if json { metrics::json(&report) } else { metrics::anomaly(&report) })
}

/// The score of a name that clap has checked.
pub(crate) fn score(name: &str) -> Score {
    Score::named(name).unwrap_or_default()
}

pub(crate) fn adapt(
    folder: &Path,
    data: &[String],
    id: &str,
    no_labels: bool,
    json: bool,
    progress: &mut dyn Progress,
) -> Result<()> {
    let (run, data) = (Run::open(folder)?, data_files(data)?);
    let out = Output::open(None, &sources(&data, &run))?;
    let report = commands::adapt(&run, &AdaptOptions { data, read: read_by(id), no_labels }, progress)?;
    out.print(&if json { metrics::json(&report) } else { metrics::adaptation(&report) })
}

pub(crate) fn undo_adapt(folder: &Path, progress: &mut dyn Progress) -> Result<()> {
    let was_there = commands::undo_adapt(&Run::open(folder)?, progress)?;
    terminal::say(if was_there { "adapt: taken back" } else { "adapt: nothing to take back" });
    Ok(())
}

fn read_by(id: &str) -> ReadOptions {
    ReadOptions { ids: if id == "row" { Ids::Row } else { Ids::Schema }, ..ReadOptions::default() }
}

pub(crate) fn predict(
    model: &ModelArgs,
    part: Option<Part>,
    [path, drift]: [Option<&Path>; 2],
    [format, reasons]: [Option<&str>; 2],
    columns: Vec<String>,
    progress: &mut dyn Progress,
) -> Result<()> {
    if let Some((part, folder)) = part.zip(path) {
        return predict_part(model, part, folder, [format, reasons], columns, progress);
    }
    let (run, data) = (Run::open(&model.run)?, data_files(&model.data)?);
    let sources = sources(&data, &run);
    let out = Output::open(path, &sources)?;
    if path.is_some() && path == model.rejects.as_deref() {
        return Err(Error::Usage("`--output` and `--rejects` name one file".to_owned()));
    }
    if let Some(drift) = drift {
        output::check(output::Output::Drift(drift), &sources)?;
        if Some(drift) == path || Some(drift) == model.rejects.as_deref() {
            return Err(Error::Usage("`--drift` names a file of `--output` or `--rejects`, too".to_owned()));
        }
    }
    let format = format.and_then(VerdictFormat::named).unwrap_or_else(|| VerdictFormat::of_file(path));
    let options = PredictOptions {
        reasons: reasons.and_then(ReasonsFor::named),
        ..options(model, model.rejects.is_some(), format, columns)?
    };
    let summary = with_rejects(model.rejects.as_deref(), &sources, |rejected| {
        out.fill(|out| commands::predict(&run, &data, &options, out, rejected, progress))
    })?;
    if let Some(path) = drift {
        // null for a run without a profile, of which stderr has told
        Output::File(path).print(&metrics::json(&summary.drift))?;
    }
    let rejected = match summary.rejected {
        0 => String::new(),
        n => format!("{} rows in = {} rows out + {n} rejected; ", summary.rows + n, summary.rows),
    };
    let alarms = if options.score == Score::Anomaly { "anomalies" } else { "attacks" };
    terminal::say(&format!("predict: {rejected}{} rows, {} {alarms}", summary.rows, summary.attacks));
    Ok(())
}

/// One part of the verdicts, into a folder.
fn predict_part(
    model: &ModelArgs,
    part: Part,
    folder: &Path,
    [format, reasons]: [Option<&str>; 2],
    columns: Vec<String>,
    progress: &mut dyn Progress,
) -> Result<()> {
    let (run, data) = (Run::open(&model.run)?, data_files(&model.data)?);
    let format = format.and_then(VerdictFormat::named).unwrap_or_default();
    // rows that cannot be read are kept beside the part
    let keeps_rejects = model.read_options().on_bad_row == OnBadRow::Skip;
    let options =
        PredictOptions { reasons: reasons.and_then(ReasonsFor::named), ..options(model, keeps_rejects, format, columns)? };
    let name = format!("part {}/{}", part.index(), part.of());
    match commands::predict_part(&run, &data, &options, part, folder, progress)? {
        PartOutcome::Kept(rows) => terminal::say(&format!("predict: {name} is there and whole: {rows} rows")),
        PartOutcome::Made(rows, attacks, rejected) => {
            let rejected = if rejected > 0 { format!(", {rejected} rejected") } else { String::new() };
            let alarms = if options.score == Score::Anomaly { "anomalies" } else { "attacks" };
            terminal::say(&format!("predict: {name}: {rows} rows{rejected}, {attacks} {alarms}"));
        }
    }
    Ok(())
}

/// The files and folders that a command with a trained run reads.
pub(crate) fn sources<'s>(data: &'s [PathBuf], run: &'s Run) -> Vec<Source<'s>> {
    data.iter().map(|path| Source::File("--data", path)).chain([Source::Run(run)]).collect()
}

/// What the arguments say, where there is a place for rows that cannot be read or not.
fn options(model: &ModelArgs, keeps_rejects: bool, format: VerdictFormat, carried: Vec<String>) -> Result<PredictOptions> {
    match (model.read_options().on_bad_row, keeps_rejects) {
        (OnBadRow::Skip, false) => {
            Err(Error::Usage("`--on-bad-row skip` needs a file for the rows that are skipped: `--rejects FILE`".to_owned()))
        }
        (OnBadRow::Stop, true) => {
            Err(Error::Usage("`--rejects` is written with `--on-bad-row skip` alone: pass both or neither".to_owned()))
        }
        _ => Ok(PredictOptions {
            read: ReadOptions { carried, ..model.read_options() },
            score: score(&model.score),
            alarm: model.alarm.alarm()?,
            format,
            reasons: None,
        }),
    }
}

/// Runs a command with a place for the rows that it skips.
fn with_rejects<T>(
    path: Option<&Path>,
    sources: &[Source<'_>],
    run: impl FnOnce(&mut dyn FnMut(&[Reject]) -> Result<()>) -> Result<T>,
) -> Result<T> {
    let Some(path) = path else { return run(&mut |_| Ok(())) };
    output::check(output::Output::Rejects(path), sources)?;
    Output::File(path).fill(|out| {
        let mut file = RejectsFile::new(out)?;
        run(&mut |rejects| file.add(rejects))
    })
}
