//! Which training rows count as labelled.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nids_flows::draw_labelled;

use crate::data::Labelled;
use nids_config::Config;
use nids_store::progress::{Event, Progress};
use nids_store::run::StageRun;
use nids_store::{Error, Result};

/// The training rows whose labels may be looked at, ascending: all of them, `finetune.labels` drawn by seed with the classes in
/// proportion, or those that `finetune.label_rows` lists. Both classes are among them.
pub(crate) fn labelled_rows(
    config: &Config,
    labelled: &Labelled,
    run: &mut StageRun<'_>,
    progress: &mut dyn Progress,
) -> Result<Vec<u32>> {
    let train = &labelled.split.train;
    let (rows, how) = match (config.finetune.labels, &config.finetune.label_rows) {
        (Some(n), _) => {
            let rows = draw_labelled(labelled.labels(), train, n, config.finetune_seed())
                .map_err(|error| Error::Usage(format!("`finetune.labels: {n}`: {error}")))?;
            (rows, "drawn")
        }
        (None, Some(path)) => {
            run.input("finetune.label_rows", Path::new(path))?;
            (read(Path::new(path), config, labelled)?, "listed")
        }
        (None, None) => (train.clone(), ""),
    };
    if !how.is_empty() {
        progress.event(Event::Message(&format!("{} labels {how} of {}", rows.len(), train.len())));
    }
    both_classes(config, labelled, &rows)?;
    Ok(rows)
}

/// Reads numbers of training rows, one a line and counted from 0. Rows that `data.inner_validation` holds out are left out.
fn read(path: &Path, config: &Config, labelled: &Labelled) -> Result<Vec<u32>> {
    let is_cut = |row: &u32| config.data.inner_validation && labelled.split.val.binary_search(row).is_ok();
    let refuse = |line: usize, what: String| Err(Error::Data(format!("{}:{line}: {what}", path.display())));
    let bytes = fs::read(path).map_err(|source| Error::reading_data(path, source))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut line_of = BTreeMap::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim_end();
        let Ok(row) = text.parse::<u32>() else {
            return refuse(line, format!("expected the number of a row of `data.train`, counted from 0, found {text:?}"));
        };
        if row as usize >= labelled.flows.len() {
            let n = labelled.flows.len();
            return refuse(line, format!("row {row}: `data.train` has {n} rows with a label, the first of which is row 0"));
        }
        if labelled.split.train.binary_search(&row).is_err() && !is_cut(&row) {
            return refuse(line, format!("row {row} is held out to validate on: list training rows, as `nids-mixer query` does"));
        }
        if let Some(before) = line_of.insert(row, line) {
            return refuse(line, format!("row {row} is in line {before}, too: list each row once"));
        }
    }
    if line_of.is_empty() {
        return Err(Error::Data(format!("{}: lists no rows", path.display())));
    }
    Ok(line_of.into_keys().filter(|row| !is_cut(row)).collect())
}

/// Refuses rows of one class: a classifier would learn to say it of every row.
fn both_classes(config: &Config, labelled: &Labelled, rows: &[u32]) -> Result<()> {
    let attacks = rows.iter().filter(|&&row| labelled.labels()[row as usize] == 1).count();
    if attacks > 0 && attacks < rows.len() {
        return Ok(());
    }
    let path = config.data.train.as_ref().map_or_else(|| "generated flows".to_owned(), ToString::to_string);
    let label = u8::from(attacks > 0);
    let advice = match (&config.finetune.labels, &config.finetune.label_rows) {
        (Some(_), _) => "raise `finetune.labels`",
        (None, Some(_)) => "list rows of both in `finetune.label_rows`",
        (None, None) => "give rows of both classes",
    };
    let n = rows.len();
    Err(Error::Data(format!(
        "{path}: all {n} training rows have label {label}, and a classifier needs rows of both classes: {advice}"
    )))
}

/// A label as a target, drawn towards ½.
pub(crate) fn smoothed(label: u8, smoothing: f32) -> f32 {
    (1.0 - smoothing) * f32::from(label) + 0.5 * smoothing
}
