//! The rows of a config: read, split, tokenised.

use std::path::Path;

use nids_config::Config;
use nids_detect::read::{Counts, read, warn_of_missing};
use nids_flows::{Flows, Labels, Schema, Split, Tokeniser, all_rows, split, synthetic};
use nids_store::progress::{Event, Progress};
use nids_store::run::StageRun;
use nids_store::{Error, Result};

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
}

/// Reads `data.train`, or generates flows if the config names no file.
pub(crate) fn labelled(config: &Config, run: &mut StageRun<'_>, progress: &mut dyn Progress) -> Result<Labelled> {
    let flows = if let Some(path) = &config.data.train {
        run.input("data.train", Path::new(path))?;
        read(Path::new(path), &Schema::resolve(&config.data.schema)?, Labels::Required, progress)?
    } else {
        let rows = config.data.synthetic.rows;
        progress.event(Event::Message(&format!("no `data.train`: {rows} flows are generated")));
        synthetic(rows, SYNTHETIC_TRAIN)
    };
    let split = cut(&flows, config).map_err(|error| Error::Data(format!("{}: {error}", labelled_name(config))))?;
    let attacks = flows.labels().map_or(0, |labels| labels.iter().map(|&label| usize::from(label)).sum());
    progress.event(Event::Message(&format!(
        "{} labelled rows, {attacks} attacks: {} to train on, {} to validate (no row of which repeats a training row)",
        flows.len(),
        split.train.len(),
        split.val.len()
    )));
    Ok(Labelled { flows, split })
}

/// Splits rows into training and validation rows. With `data.inner_validation` the training rows are split once more, and the rows
/// held out at first are in neither part.
fn cut(flows: &Flows, config: &Config) -> nids_flows::Result<Split> {
    let outer = split(flows, config.data.validation_fraction, config.seed)?;
    if !config.data.inner_validation {
        return Ok(outer);
    }
    let inner = split(&flows.select(&outer.train), config.data.validation_fraction, config.seed)?;
    let outer_rows = |rows: Vec<u32>| rows.into_iter().map(|row| outer.train[row as usize]).collect();
    Ok(Split { train: outer_rows(inner.train), val: outer_rows(inner.val) })
}

/// Reads `data.unlabelled`, or generates flows if the labelled ones are generated, too.
pub(crate) fn unlabelled(config: &Config, run: &mut StageRun<'_>, progress: &mut dyn Progress) -> Result<Option<Flows>> {
    let generated = config.data.synthetic.unlabelled_rows;
    let flows = match &config.data.unlabelled {
        Some(path) => {
            run.input("data.unlabelled", Path::new(path))?;
            read(Path::new(path), &Schema::resolve(&config.data.schema)?, Labels::Optional, progress)?
        }
        None if config.data.train.is_none() && generated > 0 => synthetic(generated, SYNTHETIC_UNLABELLED),
        None => return Ok(None),
    };
    progress.event(Event::Message(&format!("{} unlabelled rows", flows.len())));
    Ok(Some(flows))
}

/// What messages call the labelled rows.
pub(crate) fn labelled_name(config: &Config) -> &str {
    config.data.train.as_deref().unwrap_or("generated flows")
}

/// Warns of features that are missing in flows and were not in what the tokeniser was fitted on.
pub(crate) fn warn_of_newly_missing(tokeniser: &Tokeniser, flows: &Flows, name: &str, progress: &mut dyn Progress) {
    warn_of_missing(tokeniser, &Counts::of_missing(name, flows), progress);
}

/// Fits the tokeniser: on the training part of the labelled rows and on the unlabelled ones, never on validation rows. Says which
/// categories it does not keep.
pub(crate) fn fit_tokeniser(
    config: &Config,
    labelled: &Labelled,
    unlabelled: Option<&Flows>,
    progress: &mut dyn Progress,
) -> Result<Tokeniser> {
    let all = all_rows(unlabelled.map_or(0, Flows::len));
    let mut parts = vec![(&labelled.flows, labelled.split.train.as_slice())];
    parts.extend(unlabelled.map(|unlabelled| (unlabelled, all.as_slice())));
    let (tokeniser, cuts) = Tokeniser::fit_parts(&parts, &config.tokeniser)?;
    for cut in cuts {
        progress.event(Event::Message(&cut.to_string()));
    }
    Ok(tokeniser)
}
