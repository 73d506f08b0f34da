//! The rows of a config: read, split, tokenised.

use std::path::PathBuf;

use nids_config::{BadRowConfig, Config, Files, IdConfig, ObjectiveConfig};
use nids_detect::read::{Counts, ReadFlows, read, warn_of_missing};
use nids_detect::wants_classes;
use nids_flows::{
    Flows, Ids, Labels, OnBadRow, ReadOptions, Reject, Schema, Split, Splitter, Tokeniser, all_rows, is_stdin, synthetic,
};
use nids_models::{MaeConfig, NumberTarget};
use nids_store::progress::{Event, Progress};
use nids_store::run::StageRun;
use nids_store::{Error, Result};

use crate::rejects;

/// Seeds of generated flows: the data stay the same whatever the run's seed is.
const SYNTHETIC_TRAIN: u64 = 1;
const SYNTHETIC_UNLABELLED: u64 = 2;

/// The labelled rows and how they are split.
pub(crate) struct Labelled {
    pub(crate) flows: Flows,
    pub(crate) split: Split,
}

impl Labelled {
    /// One label for each row, 0 or 1.
    pub(crate) fn labels(&self) -> &[u8] {
        self.flows.labels().expect("labels were required of the reader")
    }

    /// The labels of some rows.
    pub(crate) fn labels_of(&self, rows: &[u32]) -> Vec<u8> {
        rows.iter().map(|&row| self.labels()[row as usize]).collect()
    }
}

/// The rows of a config.
pub(crate) struct Data {
    /// None where `data.train` is `null` and `data.unlabelled` is not.
    pub(crate) labelled: Option<Labelled>,
    pub(crate) unlabelled: Option<Flows>,
}

/// Reads `data.train`, or generates flows if the config names no file.
pub(crate) fn labelled(config: &Config, run: &mut StageRun<'_>, progress: &mut dyn Progress) -> Result<Labelled> {
    labelled_with(config, wants_classes(config), run, progress)
}

/// The same, with the categories of the schema where they are wanted.
pub(crate) fn labelled_with(
    config: &Config,
    categories: bool,
    run: &mut StageRun<'_>,
    progress: &mut dyn Progress,
) -> Result<Labelled> {
    let mut rejects = Vec::new();
    let found = read_labelled(config, categories, run, &mut rejects, progress)?;
    rejects::write_for(config, run, &rejects)?;
    found.map(|(labelled, _)| labelled).ok_or_else(no_labels)
}

/// Reads `data.train`, and `data.unlabelled` where it `is_wanted`.
pub(crate) fn data(config: &Config, is_wanted: bool, run: &mut StageRun<'_>, progress: &mut dyn Progress) -> Result<Data> {
    let mut rejects = Vec::new();
    let (labelled, set_aside) = read_labelled(config, wants_classes(config), run, &mut rejects, progress)?.unzip();
    let mut unlabelled = if is_wanted { read_unlabelled(config, run, &mut rejects, progress)? } else { None };
    rejects::write_for(config, run, &rejects)?;
    match (&mut unlabelled, set_aside.flatten().filter(|_| is_wanted)) {
        (Some(unlabelled), Some(more)) => unlabelled.extend(more),
        (None, more) => unlabelled = more,
        _ => {}
    }
    if let Some(unlabelled) = &unlabelled {
        progress.event(Event::Message(&format!("{} unlabelled rows", unlabelled.len())));
    }
    Ok(Data { labelled, unlabelled })
}

/// Leaves the benign rows of the training part, and says what is left out. Nobody knows which of the unlabelled rows are benign.
pub(crate) fn keep_benign(data: &mut Data, progress: &mut dyn Progress) -> Result<()> {
    let labelled = data.labelled.as_mut().ok_or_else(no_labels)?;
    let labels = labelled.flows.labels().expect("labels were required of the reader");
    let before = labelled.split.train.len();
    labelled.split.train.retain(|&row| labels[row as usize] == 0);
    let n_unlabelled = data.unlabelled.take().map_or(0, |unlabelled| unlabelled.len());
    tell_benign(before, labelled.split.train.len(), n_unlabelled, progress)
}

/// Says what `pretrain.rows: benign` leaves of so many training rows; an error where that is nothing.
pub(crate) fn tell_benign(before: usize, n_benign: usize, n_unlabelled: usize, progress: &mut dyn Progress) -> Result<()> {
    progress.event(Event::Message(&format!(
        "`pretrain.rows: benign`: {n_benign} rows to learn from; {} attacks are left out, and {n_unlabelled} unlabelled rows, of \
         which nobody knows whether they are benign",
        before - n_benign
    )));
    if n_benign == 0 {
        let message = "`pretrain.rows: benign`: none of the training rows is benign: label some, or set `pretrain.rows: all`";
        return Err(Error::Data(message.to_owned()));
    }
    Ok(())
}

/// What to say where labels are needed and there are none.
pub(crate) fn no_labels() -> Error {
    Error::Usage("labels are needed here, and `data.train` is `null`: name a file of labelled rows in it".to_owned())
}

/// The labelled rows, and those that the schema's labels ignore.
fn read_labelled(
    config: &Config,
    categories: bool,
    run: &mut StageRun<'_>,
    rejects: &mut Vec<Reject>,
    progress: &mut dyn Progress,
) -> Result<Option<(Labelled, Option<Flows>)>> {
    let (flows, unlabelled) = if let Some(files) = &config.data.train {
        let ReadFlows { flows, unlabelled, rejects: bad } =
            read_files(config, "data.train", files, (Labels::Required, categories), run, progress)?;
        rejects.extend(bad);
        (flows, unlabelled)
    } else if config.data.unlabelled.is_some() {
        return Ok(None);
    } else {
        let rows = config.data.synthetic.rows;
        progress.event(Event::Message(&format!("no `data.train`: {rows} flows are generated")));
        (synthetic(rows, SYNTHETIC_TRAIN), None)
    };
    let name = labelled_name(config);
    let split = cut(&flows, config).map_err(|error| Error::Data(format!("{name}: {error}")))?;
    let attacks = flows.labels().map_or(0, |labels| labels.iter().map(|&label| usize::from(label)).sum());
    tell_labelled(&name, flows.len(), attacks, &split, progress);
    Ok(Some((Labelled { flows, split }, unlabelled)))
}

/// Says how many labelled rows there are, and on which side.
pub(crate) fn tell_labelled(name: &str, n_rows: usize, attacks: usize, split: &Split, progress: &mut dyn Progress) {
    progress.event(Event::Message(&format!(
        "{n_rows} labelled rows, {attacks} attacks: {} to train on, {} to validate (no row of which repeats a training row)",
        split.train.len(),
        split.val.len()
    )));
    if let Some(warning) = imbalance(attacks, n_rows) {
        progress.event(Event::Message(&format!("{name}: {warning}")));
    }
}

/// What to know of rows that are nearly all of one kind.
pub(crate) fn imbalance(attacks: usize, rows: usize) -> Option<String> {
    const RARE: f64 = 0.05;
    let benign = rows - attacks;
    let rare = attacks.min(benign);
    let kind = if attacks <= benign { "attacks" } else { "benign" };
    match rare {
        _ if rows == 0 || rare as f64 >= RARE * rows as f64 => None,
        0 => Some(format!(
            "none of {rows} rows is {}: pretraining can learn from them, a classifier cannot, and nothing can be measured but false \
             alarms or misses",
            if attacks == 0 { "an attack" } else { "benign" }
        )),
        _ => Some(format!(
            "{rare} of {rows} rows are {kind} ({:.2} %): whoever calls none of them {kind} has accuracy {:.4}, so look at recall, \
             precision and PR-AUC",
            100.0 * rare as f64 / rows as f64,
            1.0 - rare as f64 / rows as f64
        )),
    }
}

/// Reads the files of a setting, which are inputs of the stage.
fn read_files(
    config: &Config,
    key: &str,
    files: &Files,
    (labels, categories): (Labels, bool),
    run: &mut StageRun<'_>,
    progress: &mut dyn Progress,
) -> Result<ReadFlows> {
    let paths = paths_of(key, files)?;
    run.inputs(key, &paths)?;
    read(&paths, &schema_of(config)?, &ReadOptions { categories, ..read_options(config, labels) }, progress)
}

/// The files of a setting.
pub(crate) fn paths_of(key: &str, files: &Files) -> Result<Vec<PathBuf>> {
    if files.names().iter().any(|name| is_stdin(name)) {
        let message = format!("`{key}`: standard input can be read once, and a stage may be resumed: save the flows to a file");
        return Err(Error::Usage(message));
    }
    Ok(files.paths()?)
}

/// The columns of a config's files, without the features that it leaves out.
pub(crate) fn schema_of(config: &Config) -> Result<Schema> {
    let schema = Schema::resolve(&config.data.schema)?;
    let Some(names) = &config.data.without else { return Ok(schema) };
    schema.without(names.names()).map_err(|message| Error::Usage(format!("`data.without`: {message}")))
}

/// How a config says that files are read.
pub(crate) fn read_options(config: &Config, labels: Labels) -> ReadOptions {
    ReadOptions {
        labels,
        categories: wants_classes(config),
        ids: if config.data.id == IdConfig::Row { Ids::Row } else { Ids::Schema },
        on_bad_row: if config.data.on_bad_row == BadRowConfig::Skip { OnBadRow::Skip } else { OnBadRow::Stop },
        max_bad_rows: config.data.max_bad_rows,
        ..ReadOptions::default()
    }
}

/// Splits rows into training and validation rows. With `data.inner_validation` the training rows are split once more, and the rows
/// held out at first are in neither part.
fn cut(flows: &Flows, config: &Config) -> nids_flows::Result<Split> {
    let mut splitter = Splitter::new(config.data.validation_fraction, config.seed, config.data.inner_validation)?;
    splitter.add(flows);
    splitter.finish()
}

/// Reads `data.unlabelled`, or generates flows if the labelled ones are generated, too.
fn read_unlabelled(
    config: &Config,
    run: &mut StageRun<'_>,
    rejects: &mut Vec<Reject>,
    progress: &mut dyn Progress,
) -> Result<Option<Flows>> {
    let generated = config.data.synthetic.unlabelled_rows;
    Ok(match &config.data.unlabelled {
        Some(files) => {
            let found = read_files(config, "data.unlabelled", files, (Labels::Unused, wants_classes(config)), run, progress)?;
            rejects.extend(found.rejects);
            Some(found.flows)
        }
        None if config.data.train.is_none() && generated > 0 => Some(synthetic(generated, SYNTHETIC_UNLABELLED)),
        None => None,
    })
}

/// What messages call the labelled rows.
pub(crate) fn labelled_name(config: &Config) -> String {
    config.data.train.as_ref().map_or_else(|| "generated flows".to_owned(), Files::to_string)
}

/// Warns of features that are missing in flows and were not in what the tokeniser was fitted on.
pub(crate) fn warn_of_newly_missing(tokeniser: &Tokeniser, flows: &Flows, name: &str, progress: &mut dyn Progress) {
    warn_of_missing(tokeniser, &Counts::of_missing(name, flows), progress);
}

/// Fits the tokeniser: on the training part of the labelled rows and on the unlabelled ones, never on validation rows. Says which
/// categories it does not keep.
pub(crate) fn fit_tokeniser(
    config: &Config,
    labelled: Option<&Labelled>,
    unlabelled: Option<&Flows>,
    progress: &mut dyn Progress,
) -> Result<Tokeniser> {
    let all = all_rows(unlabelled.map_or(0, Flows::len));
    let (tokeniser, cuts) = Tokeniser::fit_parts(&parts(labelled, unlabelled, &all), &config.tokeniser)?;
    for cut in cuts {
        progress.event(Event::Message(&cut.to_string()));
    }
    Ok(tokeniser)
}

/// [`fit_tokeniser`], and from the same rows the classes of numbers where pretraining predicts those.
pub(crate) fn fit_tokeniser_and_targets(
    config: &Config,
    labelled: Option<&Labelled>,
    unlabelled: Option<&Flows>,
    progress: &mut dyn Progress,
) -> Result<Tokeniser> {
    let tokeniser = fit_tokeniser(config, labelled, unlabelled, progress)?;
    match config.pretrain.objective {
        ObjectiveConfig::Mae(MaeConfig { target: NumberTarget::Bins, .. }) => {
            let all = all_rows(unlabelled.map_or(0, Flows::len));
            Ok(tokeniser.with_target_bins(&parts(labelled, unlabelled, &all))?)
        }
        _ => Ok(tokeniser),
    }
}

/// The rows to fit on.   all: every row of `unlabelled`
fn parts<'r>(labelled: Option<&'r Labelled>, unlabelled: Option<&'r Flows>, all: &'r [u32]) -> Vec<(&'r Flows, &'r [u32])> {
    let mut parts: Vec<(&Flows, &[u32])> = Vec::new();
    parts.extend(labelled.map(|labelled| (&labelled.flows, labelled.split.train.as_slice())));
    parts.extend(unlabelled.map(|unlabelled| (unlabelled, all)));
    parts
}
