//! Flows and tokenisers from files, and what is said of them.

use std::fs;
use std::path::Path;

use nids_config::Stage;
use nids_flows::{FlowReader, Flows, ReadOptions, Reject, Schema, Tokeniser, some_of};
use nids_store::progress::{Event, Progress};
use nids_store::run::Run;
use nids_store::{Error, Result};

use crate::again;
use crate::watch::Drift;

/// Rows of a whole file that are read at once: after each of them there is progress to tell.
pub const READ_ROWS: usize = 1 << 16;

/// Whole files.
#[derive(Debug)]
pub struct ReadFlows {
    /// The rows; where labels are required, those that have one.
    pub flows: Flows,
    /// Rows that count as unlabelled, where labels are required.
    pub unlabelled: Option<Flows>,
    /// Rows that were left out, and why.
    pub rejects: Vec<Reject>,
}

/// Reads whole files and says what there is to say of them.
pub fn read(
    files: &[impl AsRef<Path>],
    schema: &Schema,
    options: &ReadOptions,
    progress: &mut dyn Progress,
) -> Result<ReadFlows> {
    tell_files(files, progress);
    let mut reader = FlowReader::open(files, schema, options)?;
    let mut n_read = 0;
    let flows = reader.read_all_with(READ_ROWS, |rows, share| {
        n_read = rows as u64;
        progress.event(Event::Rows { what: "read", rows: n_read, share });
    });
    progress.event(Event::Rows { what: "read", rows: n_read, share: Some(1.0) });
    tell(&mut reader, progress);
    let flows = flows?;
    tell_missing(&Counts::of_missing(&name_of(files), &flows), progress);
    Ok(ReadFlows { flows, unlabelled: reader.take_unlabelled(), rejects: reader.take_rejects() })
}

/// Names files and their sizes, for a reader who wants to know more.
pub fn tell_files(files: &[impl AsRef<Path>], progress: &mut dyn Progress) {
    for file in files.iter().map(AsRef::as_ref) {
        let size = fs::metadata(file).ok().filter(fs::Metadata::is_file).map(|found| format!(", {} bytes", found.len()));
        progress.event(Event::Detail(&format!("reads {}{}", file.display(), size.unwrap_or_default())));
    }
}

/// What `read` makes of a file that `finetune` leaves since some version; None where the run was made before it did so.
///
/// # Errors
/// A file that is missing, stale, or of which `read` says what is wrong.
pub(crate) fn read_listed<T>(
    run: &Run,
    name: &str,
    read: impl FnOnce(&[u8]) -> std::result::Result<T, String>,
) -> Result<Option<T>> {
    if !run.lists(Stage::Finetune, name)? {
        return Ok(None);
    }
    let path = run.require(Stage::Finetune, name)?;
    let bytes = fs::read(&path).map_err(Error::io(&path, "read"))?;
    read(&bytes).map(Some).map_err(|what| Error::artefact(&path, what, again(Stage::Finetune)))
}

/// What files are called in messages.
pub fn name_of(files: &[impl AsRef<Path>]) -> String {
    match files {
        [file] => file.as_ref().display().to_string(),
        files => format!("{} files", files.len()),
    }
}

/// Says what there is to say of the files read so far.
pub fn tell(reader: &mut FlowReader, progress: &mut dyn Progress) {
    reader.take_notes().iter().for_each(|note| progress.event(Event::Message(note)));
}

/// In how many of the rows of a file something is so, by feature; features of which nothing is left out.
#[derive(Clone, Debug)]
pub struct Counts<'f> {
    path: &'f str,
    rows: u64,
    by_feature: Vec<(&'f str, u64)>,
}

impl<'f> Counts<'f> {
    /// `path` is what the file is called in messages.
    pub fn new(path: &'f str, rows: u64, by_feature: impl Iterator<Item = (&'f str, u64)>) -> Self {
        Self { path, rows, by_feature: by_feature.filter(|(_, n)| *n > 0).collect() }
    }

    /// Those of the missing cells of `flows`.
    pub fn of_missing(path: &'f str, flows: &'f Flows) -> Self {
        let names = flows.schema().features().map(|feature| feature.name.as_str());
        let missing = flows.missing_counts(0..flows.len() as u32);
        Self::new(path, flows.len() as u64, names.zip(missing).map(|(name, (_, n))| (name, n as u64)))
    }

    fn features(&self) -> Vec<String> {
        self.by_feature.iter().map(|(feature, n)| format!("`{feature}` in {n}")).collect()
    }
}

/// Says of which features cells are missing.
pub fn tell_missing(missing: &Counts<'_>, progress: &mut dyn Progress) {
    if !missing.by_feature.is_empty() {
        let message = format!("{}: {} rows, missing: {}", missing.path, missing.rows, some_of(&missing.features()));
        progress.event(Event::Message(&message));
    }
}

/// Warns of features that are missing and never were in the rows that the tokeniser was fitted on.
pub fn warn_of_missing(tokeniser: &Tokeniser, missing: &Counts<'_>, progress: &mut dyn Progress) {
    let mut newly = missing.clone();
    newly.by_feature.retain(|(feature, _)| token_of(tokeniser, feature).is_some_and(|token| !tokeniser.had_missing(token)));
    if !newly.by_feature.is_empty() {
        let message = format!(
            "warning: {}: {} rows, missing here but never in training: {}: the network has not learnt what that means",
            newly.path,
            newly.rows,
            some_of(&newly.features())
        );
        progress.event(Event::Message(&message));
    }
}

/// Says in how many rows a category is read as "other", because training has never seen it or has cut it. Warns where training has
/// never seen that of most rows.
pub fn tell_unknown(tokeniser: &Tokeniser, never_seen: &Counts<'_>, cut: &Counts<'_>, progress: &mut dyn Progress) {
    let Counts { path, rows, .. } = *never_seen;
    for &(feature, n) in &never_seen.by_feature {
        let remembers_all = token_of(tokeniser, feature).is_none_or(|token| tokeniser.remembers_all(token));
        let never_seen = if remembers_all { "was never seen in training" } else { "training has cut or never seen" };
        let message = if 2 * n > rows {
            format!(
                "warning: {path}: more than half of the rows ({n} of {rows}) have a value of `{feature}` that {never_seen}, read as \
                 \"other\": compare how training data and this file spell it"
            )
        } else {
            format!("{path}: {n} of {rows} rows: `{feature}` has a value that {never_seen}, read as \"other\"")
        };
        progress.event(Event::Message(&message));
    }
    for &(feature, n) in &cut.by_feature {
        let message = format!("{path}: {n} of {rows} rows: `{feature}` has a value that training has cut, read as \"other\"");
        progress.event(Event::Message(&message));
    }
}

/// Says whether rows differ from those of training, and warns where their verdicts should not be trusted.
pub fn tell_drift(path: &str, drift: std::result::Result<&Drift, &str>, progress: &mut dyn Progress) {
    let drift = match drift {
        Ok(drift) => drift,
        Err(why) => return progress.event(Event::Message(&format!("drift: not watched, since {why}"))),
    };
    progress.event(Event::Message(&drift.line()));
    if !drift.warnings.is_empty() {
        let reasons = drift.warnings.join("; ");
        progress.event(Event::Message(&format!("warning: {path}: its verdicts should not be trusted: {reasons}")));
    }
}

fn token_of(tokeniser: &Tokeniser, feature: &str) -> Option<usize> {
    tokeniser.tokens().iter().position(|token| token.feature == feature)
}

/// Reads the tokeniser that `stage` left.
pub fn read_tokeniser(path: &Path, stage: Stage) -> Result<Tokeniser> {
    let refuse = |what: String| Error::artefact(path, what, again(stage));
    let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
    let text = String::from_utf8(bytes).map_err(|error| refuse(format!("not a tokeniser file: {}", error.utf8_error())))?;
    Tokeniser::from_json(&text).map_err(|error| refuse(error.to_string()))
}

#[cfg(test)]
mod tests {
    use nids_flows::{TokeniserConfig, all_rows, synthetic};

    use super::*;

    fn told(tell: impl FnOnce(&mut dyn Progress)) -> Vec<String> {
        let mut told = Vec::new();
        tell(&mut |event: Event<'_>| {
            if let Event::Message(text) = event {
                told.push(text.to_owned());
            }
        });
        told
    }

    #[test]
    fn missing_cells_are_told_by_feature_with_a_warning_where_training_had_none() {
        let (mut train, mut flows) = (synthetic(60, 1), synthetic(50, 2));
        // the first two features are numbers; in training only the first is missing somewhere
        let names: Vec<String> = train.schema().features().map(|feature| feature.name.clone()).collect();
        let [first, last] = [0, names.len() - 1];
        train.put(7, first, f64::NAN);
        (0..3).for_each(|row| flows.put(row, first, f64::NAN));
        flows.put(9, last, f64::NAN);
        let tokeniser = Tokeniser::fit(&train, &all_rows(60), &TokeniserConfig::default()).unwrap();
        let missing = Counts::of_missing("a.csv", &flows);
        let service = flows.missing_counts(0..50).into_iter().find(|(name, _)| name == "service").unwrap().1;
        let (first, last) = (&names[first], &names[last]);
        assert_eq!(
            told(|progress| tell_missing(&missing, progress)),
            [format!("a.csv: 50 rows, missing: `{first}` in 3, `service` in {service}, `{last}` in 1")]
        );
        assert_eq!(
            told(|progress| warn_of_missing(&tokeniser, &missing, progress)),
            [format!(
                "warning: a.csv: 50 rows, missing here but never in training: `{last}` in 1: the network has not learnt what that \
                 means"
            )]
        );
        let nothing = Counts::new("a.csv", 50, [("dur", 0)].into_iter());
        assert!(told(|progress| tell_missing(&nothing, progress)).is_empty());
        assert!(told(|progress| warn_of_missing(&tokeniser, &nothing, progress)).is_empty());
    }

    #[test]
    fn cut_categories_are_told_from_those_never_seen_with_a_warning_where_most_rows_have_them() {
        let train = synthetic(60, 1);
        let tokeniser = Tokeniser::fit(&train, &all_rows(60), &TokeniserConfig::default()).unwrap();
        let of = |n| {
            let never_seen = Counts::new("a.csv", 50, [("proto", n)].into_iter());
            let cut = Counts::new("a.csv", 50, [("proto", 40), ("service", 2), ("state", 0)].into_iter());
            told(|progress| tell_unknown(&tokeniser, &never_seen, &cut, progress))
        };
        let cut = [
            "a.csv: 40 of 50 rows: `proto` has a value that training has cut, read as \"other\"",
            "a.csv: 2 of 50 rows: `service` has a value that training has cut, read as \"other\"",
        ];
        let some = "a.csv: 25 of 50 rows: `proto` has a value that was never seen in training, read as \"other\"";
        assert_eq!(of(25), [&[some], &cut[..]].concat());
        let most = "warning: a.csv: more than half of the rows (26 of 50) have a value of `proto` that was never seen in training, \
                    read as \"other\": compare how training data and this file spell it";
        assert_eq!(of(26), [&[most], &cut[..]].concat());
        assert_eq!(of(0), cut);
    }
}
