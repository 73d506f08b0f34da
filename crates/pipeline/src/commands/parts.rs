//! Verdicts in parts: each made by a process of its own, wherever that runs, in one folder that they share.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use nids_flows::{OnBadRow, Part, ReadOptions, Share};
use nids_store::artefacts::{digest, fill_atomic};
use nids_store::disk::make_folder;
use nids_store::output::{self, Output, Source};
use nids_store::parts::{self, Found, Input, InputFile, PartManifest};
use nids_store::progress::{Event, Progress};
use nids_store::{Error, Result, Run};

use super::predict::{Alarm, PredictOptions, predict};
use super::verdict_writer::VerdictFormat;
use crate::rejects::RejectsFile;

/// What became of a part.
#[derive(Clone, Debug, PartialEq)]
pub enum PartOutcome {
    /// It was there, whole; its rows.
    Kept(u64),
    /// It was made: rows, attacks, and rows that were left out.
    Made(u64, u64, u64),
}

/// Writes the verdicts of one part of `data` into a folder, as [`predict`] writes those of all of it: `part-00003-of-00008.csv`, a
/// file of rows that cannot be read where such are left out, and last `part-00003-of-00008.json`, which lists them. A part that is
/// whole stays as it is.
///
/// # Errors
/// Parts of another input, model or options in the folder, or what `predict` says.
pub fn predict_part(
    run: &Run,
    data: &[PathBuf],
    options: &PredictOptions,
    part: Part,
    folder: &Path,
    progress: &mut dyn Progress,
) -> Result<PartOutcome> {
    make_folder(folder).map_err(Error::io(folder, "make the folder of the parts"))?;
    check_folder(folder, data)?;
    let shares = part.of_files(data)?;
    let mut manifest = PartManifest::new(part.index(), part.of(), made_by(run, options)?, input(data)?, read_of(data, &shares)?);
    match parts::look(folder, &manifest)? {
        Found::Whole(there) => return Ok(PartOutcome::Kept(there.rows)),
        Found::Damaged(what) => progress.event(Event::Message(&format!("{what}: the part is made again"))),
        Found::Missing => {}
    }
    tell(part, data, &shares, progress);
    let stem = manifest.stem();
    let named = |ending: &str| (format!("{stem}.{ending}"), folder.join(format!("{stem}.{ending}")));
    let (verdicts, rejects, list) = (named(options.format.name()), named("rejects.csv"), named("json"));
    let sources: Vec<Source<'_>> = data.iter().map(|path| Source::File("--data", path)).chain([Source::Run(run)]).collect();
    for (_, path) in [&verdicts, &rejects, &list] {
        output::check(Output::File(path), &sources)?;
    }
    let options = PredictOptions { read: ReadOptions { part: Some(part), ..options.read.clone() }, ..options.clone() };
    let summary = if options.read.on_bad_row == OnBadRow::Skip {
        let ((summary, written), skipped) = fill_atomic(&rejects.1, |out| {
            let mut file = RejectsFile::new(out)?;
            fill_atomic(&verdicts.1, |out| predict(run, data, &options, out, &mut |rows| file.add(rows), progress))
        })?;
        manifest.files = [(verdicts.0, written), (rejects.0, skipped)].into();
        summary
    } else {
        let (summary, written) = fill_atomic(&verdicts.1, |out| predict(run, data, &options, out, &mut |_| Ok(()), progress))?;
        manifest.files = [(verdicts.0, written)].into();
        summary
    };
    (manifest.rows, manifest.rejected) = (summary.rows, summary.rejected);
    manifest.write(folder)?;
    Ok(PartOutcome::Made(summary.rows, summary.attacks, summary.rejected))
}

/// Refuses a folder that files of the input lie in: the next process would take parts for flows.
fn check_folder(folder: &Path, data: &[PathBuf]) -> Result<()> {
    let place = |path: &Path| path.canonicalize().ok();
    let folder_place = place(folder);
    let lies_in =
        |file: &&PathBuf| folder_place.is_some() && place(file).as_deref().and_then(Path::parent) == folder_place.as_deref();
    let Some(file) = data.iter().find(lies_in) else { return Ok(()) };
    let message = format!(
        "`--output {}` is the folder of `--data {}`: parts would be read as flows; write to another folder",
        folder.display(),
        file.display()
    );
    Err(Error::Usage(message))
}

/// What the bytes of verdicts follow from beside the rows.
fn made_by(run: &Run, options: &PredictOptions) -> Result<BTreeMap<String, String>> {
    // each option by name, so that a new one is not forgotten here
    let PredictOptions { read, score, alarm, format, reasons } = options;
    let ReadOptions { ids, on_bad_row, max_bad_rows, encoding, carried, .. } = read;
    let alarm = match alarm {
        Some(Alarm::Threshold(threshold)) => format!("threshold {threshold:?}"),
        Some(Alarm::Budget(fpr)) => format!("fpr {fpr:?}"),
        None => run.config(&[]).map_or_else(
            |_| "that of the run".to_owned(),
            |config| format!("that of the run, {:?} in its config.yaml", config.evaluate.threshold),
        ),
    };
    let made_by = [
        ("model", run.identity()?),
        ("score", format!("{score:?}")),
        ("threshold", alarm),
        ("format", format.name().to_owned()),
        ("reasons", format!("{reasons:?}")),
        ("columns", carried.join(",")),
        ("id", format!("{ids:?}")),
        ("on_bad_row", format!("{on_bad_row:?}")),
        ("max_bad_rows", format!("{max_bad_rows:?}")),
        ("encoding", format!("{encoding:?}")),
    ];
    Ok(made_by.map(|(key, value)| (key.to_owned(), value.to_lowercase())).into())
}

fn input(data: &[PathBuf]) -> Result<Input> {
    let size = |path: &PathBuf| path.metadata().map(|found| found.len()).map_err(|error| Error::reading_data(path, error));
    let sizes = data.iter().map(size).collect::<Result<Vec<u64>>>()?;
    Ok(Input::of(data.iter().map(PathBuf::as_path).zip(sizes)))
}

/// The files of a part, by content: a file is read twice, once for this.
fn read_of(data: &[PathBuf], shares: &[Share]) -> Result<Vec<InputFile>> {
    let file = |share: &Share| {
        let path = &data[share.file];
        let begin_in = (!share.is_whole()).then_some((share.bytes.start, share.bytes.end.min(share.size)));
        Ok(InputFile { path: path.display().to_string(), begin_in, content: digest(path)? })
    };
    shares.iter().map(file).collect()
}

fn tell(part: Part, data: &[PathBuf], shares: &[Share], progress: &mut dyn Progress) {
    let (index, of, n, all) = (part.index(), part.of(), shares.len(), data.len());
    let whole = if shares.iter().all(Share::is_whole) { "whole files" } else { "rows by where they begin" };
    progress.event(Event::Message(&format!("part {index} of {of}, counted from 0: {n} of {all} files, {whole}")));
}

/// The parts of a folder, if all are whole and belong together.
///
/// # Errors
/// Each part that is missing or damaged.
pub fn parts(folder: &Path) -> Result<Vec<PartManifest>> {
    parts::all(folder)
}

/// Writes the verdicts of all parts as one process writes them.
///
/// # Errors
/// Verdicts in a format whose files cannot be put one after the other.
pub fn join_parts(folder: &Path, parts: &[PartManifest], out: &mut dyn Write) -> Result<()> {
    for part in parts {
        let format = [VerdictFormat::Csv, VerdictFormat::JsonLines]
            .into_iter()
            .find(|format| part.files.contains_key(&name(part, *format)));
        let Some(format) = format else {
            let message = format!(
                "{}: only parts of CSV and JSON lines can be put one after the other; programs that read Parquet and Arrow read a \
                 folder of files",
                folder.display()
            );
            return Err(Error::Usage(message));
        };
        let path = folder.join(name(part, format));
        let mut file = BufReader::new(File::open(&path).map_err(Error::io(&path, "read"))?);
        if format == VerdictFormat::Csv && part.part > 0 {
            skip_header(&mut file).map_err(Error::io(&path, "read"))?;
        }
        io::copy(&mut file, out).map_err(Error::io("the verdicts", "write"))?;
    }
    Ok(())
}

fn name(part: &PartManifest, format: VerdictFormat) -> String {
    format!("{}.{}", part.stem(), format.name())
}

/// Goes to the first row: a header line may have a name with a line end in it, in quotation marks.
fn skip_header(file: &mut (impl io::Read + io::Seek)) -> io::Result<()> {
    let mut lines = csv::ReaderBuilder::new().has_headers(false).from_reader(&mut *file);
    let mut header = csv::ByteRecord::new();
    lines.read_byte_record(&mut header).map_err(io::Error::other)?;
    let first = lines.position().byte();
    file.seek(io::SeekFrom::Start(first)).map(drop)
}
