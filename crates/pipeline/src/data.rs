//! The rows of a config: read, split, tokenised.

use std::path::Path;

use std::fs;

use nids_flows::{FlowReader, Flows, Labels, Schema, Split, TokenTable, Tokeniser, some_of, split, synthetic};

use crate::again;
use nids_config::{Config, Stage};
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
    /// 0 or 1 a row.
    pub(crate) fn labels(&self) -> &[u8] {
        self.flows.labels().expect("labels were required of the reader")
    }
}

/// Reads `data.train`, or generates flows where there is none.
pub(crate) fn labelled(config: &Config, run: &mut StageRun<'_>, progress: &mut dyn Progress) -> Result<Labelled> {
    let flows = if let Some(path) = &config.data.train {
        run.input("data.train", Path::new(path))?;
        read(Path::new(path), &Schema::resolve(&config.data.schema)?, Labels::Required, progress)?
    } else {
        let rows = config.data.synthetic.rows;
        progress.event(Event::Message(&format!("no `data.train`: {rows} flows are generated")));
        synthetic(rows, SYNTHETIC_TRAIN)
    };
    let split = cut(&flows, config)
        .map_err(|error| Error::Data(format!("{}: {error}", config.data.train.as_deref().unwrap_or("generated flows"))))?;
    let attacks = flows.labels().map_or(0, |labels| labels.iter().map(|&label| usize::from(label)).sum());
    progress.event(Event::Message(&format!(
        "{} labelled rows, {attacks} attacks: {} to train on, {} to validate (no row of which repeats a training row)",
        flows.len(),
        split.train.len(),
        split.val.len()
    )));
    Ok(Labelled { flows, split })
}

/// Training and validation rows, the latter of the former where the config asks for it.
fn cut(flows: &Flows, config: &Config) -> nids_flows::Result<Split> {
    let outer = split(flows, config.data.validation_fraction, config.seed)?;
    if !config.data.inner_validation {
        return Ok(outer);
    }
    let inner = split(&flows.select(&outer.train), config.data.validation_fraction, config.seed)?;
    let of_flows = |rows: Vec<u32>| rows.into_iter().map(|row| outer.train[row as usize]).collect();
    Ok(Split { train: of_flows(inner.train), val: of_flows(inner.val) })
}

/// Reads `data.unlabelled`; generates flows where the labelled ones are generated, too.
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

/// A whole file, with a word on the columns that are not used.
pub(crate) fn read(path: &Path, schema: &Schema, labels: Labels, progress: &mut dyn Progress) -> Result<Flows> {
    let mut reader = FlowReader::open(path, schema, labels)?;
    tell_ignored(&reader, path, progress);
    let flows = reader.next_batch(usize::MAX)?;
    tell_lines(&reader, path, progress);
    flows.ok_or_else(|| Error::Data(format!("{}: no rows", path.display())))
}

/// Says which columns of a file the schema does not list.
pub(crate) fn tell_ignored(reader: &FlowReader, path: &Path, progress: &mut dyn Progress) {
    let ignored = reader.ignored_columns();
    if !ignored.is_empty() {
        let message = format!("{}: columns that the schema does not list are not used: {}", path.display(), some_of(ignored));
        progress.event(Event::Message(&message));
    }
}

/// Says where the lines of a file went, once it has been read.
pub(crate) fn tell_lines(reader: &FlowReader, path: &Path, progress: &mut dyn Progress) {
    if let Some(lines) = reader.lines() {
        progress.event(Event::Message(&format!("{}: {lines}", path.display())));
    }
}

/// Fits the tokeniser: on the training part of the labelled rows and on the unlabelled ones, never on validation rows.
pub(crate) fn fit_tokeniser(config: &Config, labelled: &Labelled, unlabelled: Option<&Flows>) -> Result<Tokeniser> {
    let all = all_rows(unlabelled.map_or(0, Flows::len));
    let mut parts = vec![(&labelled.flows, labelled.split.train.as_slice())];
    parts.extend(unlabelled.map(|unlabelled| (unlabelled, all.as_slice())));
    Ok(Tokeniser::fit_parts(&parts, &config.tokeniser)?)
}

/// 0..n as row numbers.
pub(crate) fn all_rows(n: usize) -> Vec<u32> {
    (0..u32::try_from(n).expect("a reader's rows are counted in 32 bits")).collect()
}

/// Writes the tokens of `rows` one feature after the other, each `[b, F_t]`: the input of a network over features.
#[expect(clippy::needless_pass_by_value, reason = "an iterator, cloned for every token")]
pub(crate) fn fill(encoded: &TokenTable, widths: &[usize], rows: impl ExactSizeIterator<Item = u32> + Clone, x: &mut [f32]) {
    let b = rows.len();
    let mut rest = x;
    for (token, &width) in widths.iter().enumerate() {
        let (of_token, after) = rest.split_at_mut(b * width);
        for (out, row) in of_token.chunks_exact_mut(width).zip(rows.clone()) {
            encoded.expand(row as usize, token, out);
        }
        rest = after;
    }
}

/// Reads the tokeniser that `stage` left.
pub(crate) fn read_tokeniser(path: &Path, stage: Stage) -> Result<Tokeniser> {
    let refuse = |what: String| Error::artefact(path, what, again(stage));
    let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
    let text = String::from_utf8(bytes).map_err(|error| refuse(format!("not a tokeniser file: {}", error.utf8_error())))?;
    Tokeniser::from_json(&text).map_err(|error| refuse(error.to_string()))
}
