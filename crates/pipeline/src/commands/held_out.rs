//! Labelled rows that a run's classifier has not learned from.

use std::fs;
use std::path::PathBuf;

use nids_config::{Config, Refit, Stage};
use nids_detect::operation::HeldOutRows;
use nids_detect::read::{name_of, read};
use nids_detect::{Detector, wants_classes};
use nids_eval::operating::BenignScores;
use nids_flows::{Flows, Ids, KnownRows, Labels, ReadOptions, equal_rows, is_stdin};
use nids_store::artefacts::{Digest, digest};
use nids_store::progress::{Event, Progress};
use nids_store::run::{Run, TRAINING_ROWS};
use nids_store::{Error, Result};

use super::query::MAX_GENERATED;
use crate::data::{Labelled, labelled_with, warn_of_newly_missing};

/// Labelled rows that a classifier has not learned from.
pub(super) struct HeldOut {
    flows: Flows,
    files: Option<Vec<(String, Digest)>>,
}

impl HeldOut {
    /// The validation part of the rows that the classifier was trained with.
    pub(super) fn of_run(run: &Run, progress: &mut dyn Progress) -> Result<Self> {
        let config = run.config_of(Stage::Finetune)?;
        let labelled = labelled_of(run, &config, wants_classes(&config), progress)?;
        Ok(Self { flows: labelled.flows.select(&labelled.split.val), files: None })
    }

    /// Files of the user's choice.
    pub(super) fn of_files(
        detector: &Detector,
        files: &[PathBuf],
        options: &ReadOptions,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        let contents = contents(files)?;
        let options = ReadOptions { labels: Labels::Required, ..options.clone() };
        let flows = read(files, detector.schema(), &options, progress)?.flows;
        warn_of_newly_missing(detector.tokeniser(), &flows, &name_of(files), progress);
        Ok(Self { flows, files: Some(contents) })
    }

    /// The rows that a calibration was made of.
    pub(super) fn again(run: &Run, detector: &Detector, rows: &HeldOutRows, progress: &mut dyn Progress) -> Result<Self> {
        let Some(files) = &rows.files else { return Self::of_run(run, progress) };
        let paths: Vec<PathBuf> = files.iter().map(|(name, _)| PathBuf::from(name)).collect();
        let found = Self::of_files(detector, &paths, &ReadOptions { ids: Ids::Row, ..ReadOptions::default() }, progress)?;
        if found.files.as_ref() == Some(files) {
            return Ok(found);
        }
        let message =
            format!("{}: changed since `calibrate` read it: restore it, or run `nids-mixer calibrate` again", name_of(&paths));
        Err(Error::Data(message))
    }

    /// What there is of them.
    pub(super) fn rows(&self) -> HeldOutRows {
        let attacks = self.labels().iter().map(|&label| u64::from(label)).sum::<u64>();
        HeldOutRows { files: self.files.clone(), benign: self.labels().len() as u64 - attacks, attacks }
    }

    /// 0 or 1.
    pub(super) fn labels(&self) -> &[u8] {
        self.flows.labels().expect("labels were required of the reader")
    }

    /// How many of the benign rows differ.
    pub(super) fn different_benign(&self) -> usize {
        equal_rows(&self.flows.select(&self.benign_rows())).len()
    }

    fn benign_rows(&self) -> Vec<u32> {
        (0..self.labels().len() as u32).filter(|&row| self.labels()[row as usize] == 0).collect()
    }

    pub(super) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Probabilities of the benign ones.
    pub(super) fn benign(&self, detector: &Detector) -> Result<BenignScores> {
        Ok(BenignScores::new(&detector.scored_flows(&self.flows.select(&self.benign_rows()))?.attacks)?)
    }
}

/// Files that can be read again, with their contents.
pub(super) fn contents(files: &[PathBuf]) -> Result<Vec<(String, Digest)>> {
    let of = |path: &PathBuf| {
        let name = path.to_str().filter(|name| !is_stdin(name)).ok_or_else(|| {
            let message = "`--data`: expected files with names in UTF-8, which can be read again: save standard input to one";
            Error::Usage(message.to_owned())
        })?;
        let content = digest(path).map_err(|error| match error {
            Error::Io { source, .. } => Error::reading_data(path, source),
            other => other,
        })?;
        Ok((name.to_owned(), content))
    };
    files.iter().map(of).collect()
}

/// The rows that a classifier was trained with, of which it has not learned those held out.
pub(super) fn labelled_of(run: &Run, config: &Config, categories: bool, progress: &mut dyn Progress) -> Result<Labelled> {
    if config.finetune.refit == Refit::All {
        let message = "`finetune.refit: all`: the classifier has learned the rows held out, so that they say nothing of it: name \
                       labelled rows from elsewhere where the command takes `--data`, or train without a refit";
        return Err(Error::Usage(message.to_owned()));
    }
    labelled_rows(run, Stage::Finetune, config, categories, progress)
}

/// The labelled rows of a stage, whatever has learned them.
pub(super) fn labelled_rows(
    run: &Run,
    stage: Stage,
    config: &Config,
    categories: bool,
    progress: &mut dyn Progress,
) -> Result<Labelled> {
    let generated = config.data.synthetic.rows;
    // the number comes from the run folder alone: no data file stands behind it
    if config.data.train.is_none() && generated > MAX_GENERATED {
        let message =
            format!("the run was trained on {generated} generated flows, of which at most {MAX_GENERATED} are made again");
        return Err(Error::Usage(message));
    }
    let mut stage = run.look(stage, config);
    let labelled = labelled_with(config, categories, &mut stage, progress)?;
    stage.require_same_data()?;
    Ok(labelled)
}

/// The rows that a run's classifier has learned from; None, and a note, of a run that keeps no list of them.
pub(super) fn known_rows(run: &Run, progress: &mut dyn Progress) -> Result<Option<KnownRows>> {
    if !run.lists(Stage::Finetune, TRAINING_ROWS)? {
        let folder = run.folder().display();
        let text = format!(
            "note: {folder}: the run was made before `finetune` kept {TRAINING_ROWS}, so nobody knows which rows equal a training \
             row: `new_rows` is null"
        );
        progress.event(Event::Message(&text));
        return Ok(None);
    }
    let path = run.require(Stage::Finetune, TRAINING_ROWS)?;
    let bytes = fs::read(&path).map_err(Error::io(&path, "read"))?;
    let refuse = |what: String| Error::artefact(&path, what, "run `nids-mixer finetune` again");
    KnownRows::from_bytes(&bytes).map(Some).map_err(refuse)
}

/// The content of a run's classifier.
pub(super) fn trained(detector: &Detector) -> Result<Digest> {
    detector.operation().model.clone().ok_or_else(|| Error::Usage("an untrained network has no operating point".to_owned()))
}
